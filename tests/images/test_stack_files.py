"""images/stack_files.py: the pages of a TIFF and the frames of a video are frames like others."""

import cv2
import numpy as np
import pytest
import tifffile
from drawn import saved, tiff
from drawn import waves as drawn

from stackmff.errors import StackError
from stackmff.images.folders import list_frames, list_stack_files
from stackmff.images.formats import decode, read_picture, write_picture
from stackmff.images.stack import read_stack
from stackmff.images.stack_files import frames_in_file
from stackmff.records import frames_record


def write_pages(path, pages):
    """A TIFF with a thumbnail after each page."""
    with tifffile.TiffWriter(path) as file:
        for page in pages:
            file.write(page, photometric="rgb")
            file.write(page[::4, ::4], photometric="rgb", subfiletype=1)


def film(path, count, code="mp4v"):
    """A video of plain frames, each lighter than the one before it."""
    fourcc = cv2.VideoWriter_fourcc(*code)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, 10, (64, 48))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV has no encoder for {code}")
    for k in range(count):
        writer.write(np.full((48, 64, 3), (20 * k, 10, 30), np.uint8))
    writer.release()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("given", ["file", "folder"])
def test_pages_of_a_tiff_are_a_stack(tmp_path, dtype, given):
    pages = [drawn(3, dtype) // (k + 1) for k in range(12)]
    write_pages(tmp_path / "scan.tif", pages)
    frames = list_frames(tmp_path / "scan.tif" if given == "file" else tmp_path)
    assert [frame.name for frame in frames[:10:9]] == ["scan-01.tif", "scan-10.tif"]
    assert frames[2].stem == "scan-03" and frames[2].suffix == ".tif"
    assert frames[2].parent == tmp_path
    np.testing.assert_array_equal(read_picture(frames[3]), pages[3])
    stack = read_stack(frames)
    np.testing.assert_array_equal(stack.frames, pages)
    record = frames_record(frames)
    assert len({entry["name"] for entry in record}) == 12
    assert record[0]["size"] == (tmp_path / "scan.tif").stat().st_size


def test_pages_have_exif_of_their_own(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for maker in ("One", "Two", "Six"):
            tag = (271, 2, 0, maker, True)
            file.write(drawn(), photometric="rgb", extratags=[tag], metadata=None)
    frames = list_frames(tmp_path / "a.tif")
    assert b"Two" in read_stack(frames).metadata.exif
    assert b"Six" in read_stack(frames, reference=2).metadata.exif


def test_pages_of_several_sizes_and_cut_files_are_named(tmp_path):
    write_pages(tmp_path / "a.tif", [drawn(), drawn(), drawn(width=60)])
    frames = list_frames(tmp_path / "a.tif")
    with pytest.raises(StackError, match=r"frame a-3\.tif is 60x37, the stack is 53x37"):
        read_stack(frames)
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[: len(data) // 2])
    with pytest.raises(StackError, match=r"a\.tif \(frame 3\) is cut short"):
        read_picture(frames[2])
    (tmp_path / "a.tif").unlink()
    with pytest.raises(StackError, match=r"a\.tif \(frame 1\) cannot be read"):
        read_picture(frames[0])
    with pytest.raises(StackError, match=r"a\.tif cannot be read"):
        frames_in_file(tmp_path / "a.tif")


def test_a_tiff_of_pages_among_other_pictures_is_refused(tmp_path):
    write_pages(tmp_path / "a.tif", [drawn(), drawn()])
    write_picture(tmp_path / "b.png", drawn())
    sentence = r"a\.tif holds 2 pictures: give this file as the stack, or save each"
    with pytest.raises(StackError, match=sentence):
        read_stack(list_frames(tmp_path))


@pytest.mark.parametrize(
    ("suffix", "code"),
    [
        *((".mp4", "mp4v"), (".m4v", "mp4v"), (".MOV", "mp4v"), (".avi", "MJPG")),
        *((".mkv", "XVID"), (".webm", "VP80")),
    ],
)
def test_a_video_is_a_stack(tmp_path, suffix, code):
    film(tmp_path / f"a{suffix}", 11, code)
    frames = list_frames(tmp_path / f"a{suffix}")
    assert len(frames) == 11 and frames[0].stem == "a-01"
    stack = read_stack(frames, threads=4)
    assert stack.frames.shape == (11, 48, 64, 3) and stack.frames.dtype == np.uint8
    assert np.abs(stack.frames.mean((1, 2))[:, 2] - 20 * np.arange(11)).max() < 6  # blue is last
    for index in (7, 2, 3):  # back and forth
        np.testing.assert_array_equal(decode(frames[index]).picture, stack.frames[index])


def test_what_is_no_stack_in_a_file(tmp_path, capfd):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(StackError, match=r"a\.mp4 is not a readable video"):
        list_frames(tmp_path / "a.mp4")
    (tmp_path / "a.tif").write_bytes(tiff(drawn(), photometric="rgb"))
    with pytest.raises(StackError, match=r"a\.tif holds one picture"):
        list_frames(tmp_path / "a.tif")
    (tmp_path / "a.jpg").write_bytes(saved(drawn(), "JPEG"))
    with pytest.raises(StackError, match=r"a\.jpg is a single file, not a stack"):
        list_frames(tmp_path / "a.jpg")
    assert capfd.readouterr().err == ""


def test_a_video_that_is_cut_after_it_was_listed(tmp_path):
    film(tmp_path / "a.avi", 9, "MJPG")
    frames = list_frames(tmp_path / "a.avi")
    film(tmp_path / "a.avi", 5, "MJPG")
    with pytest.raises(StackError, match=r"a\.avi is not a readable video, is cut short"):
        read_stack(frames)


def test_stacks_that_are_files(tmp_path):
    film(tmp_path / "b10.mp4", 2)
    film(tmp_path / "b9.avi", 2, "MJPG")
    write_pages(tmp_path / "c.TIFF", [drawn(), drawn()])
    (tmp_path / "one.tif").write_bytes(tiff(drawn(), photometric="rgb"))
    (tmp_path / "broken.tif").write_bytes(b"text")
    (tmp_path / ".hidden.mp4").touch()
    write_picture(tmp_path / "loose.png", drawn())
    (tmp_path / "folder.mp4").mkdir()
    assert [file.name for file in list_stack_files(tmp_path)] == ["b9.avi", "b10.mp4", "c.TIFF"]
