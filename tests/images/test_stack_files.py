"""images/stack_files.py: the pages of a TIFF and the frames of a video are frames like others."""

import os
import re
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from drawn import draw_stack, saved, texture, tiff
from drawn import waves as drawn

from stackmff.errors import StackError
from stackmff.images.damage import lost_sector_in_film
from stackmff.images.folders import list_frames, list_stack_files
from stackmff.images.formats import decode, read_picture, write_picture
from stackmff.images.stack import read_stack
from stackmff.images.stack_files import frames_in_file
from stackmff.images.videos import count_frames, missing_bytes
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


VIDEOS = [(".mp4", "mp4v"), (".mov", "mp4v"), (".avi", "MJPG"), (".mkv", "XVID"), (".webm", "VP80")]


@pytest.mark.parametrize(("suffix", "code"), VIDEOS)
def test_a_video_that_is_cut_anywhere_is_refused(tmp_path, suffix, code):
    path = tmp_path / f"a{suffix}"
    film(path, 9, code)
    data = path.read_bytes()
    assert missing_bytes(path) == 0
    for part in (0.1, 0.3, 0.5, 0.7, 0.9, 1 - 1 / len(data)):
        path.write_bytes(data[: int(part * len(data))])
        with pytest.raises(StackError, match=r"a\.\w+ is (cut short, \d+|not a readable video)"):
            list_frames(path)
    path.write_bytes(data + bytes(100))  # padding, as some cameras write it
    assert len(list_frames(path)) == 9


@pytest.mark.parametrize(("suffix", "code"), [(".mp4", "mp4v"), (".avi", "MJPG"), (".mkv", "XVID")])
def test_a_video_with_a_lost_sector_is_named(tmp_path, suffix, code):
    path, rng = tmp_path / f"a{suffix}", np.random.default_rng(0)
    fourcc = cv2.VideoWriter_fourcc(*code)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, 10, (320, 240))
    for frame in draw_stack(texture(240, 320, 0), 5):
        writer.write(frame)
    writer.release()
    data = path.read_bytes()
    assert count_frames(path, 0) == (5, None)
    found = []
    for k in range(1, 21):
        at = 512 * int(rng.integers(20, len(data) // 512))  # behind what fills up the header
        path.write_bytes(data[:at] + bytes(512) + data[at + 512 :])
        try:
            note = count_frames(path, k)[1] or ""
            found.append(f"a{suffix}" in note and "damaged" in note)
        except StackError:
            found.append(True)
    assert np.mean(found) >= 0.9


def test_zeros_that_a_whole_video_has(tmp_path):
    """Silence, and what fills up a file: they begin and end as it happens."""
    rng, path, found = np.random.default_rng(0), tmp_path / "a.mov", []
    for _ in range(100):
        data = rng.integers(1, 256, 20000, np.uint8)
        for first in rng.integers(0, 16000, 4):
            data[first : first + int(rng.integers(500, 4000))] = 0
        path.write_bytes(data.tobytes())
        found.append(lost_sector_in_film(path))
    assert found.count(True) <= 1
    data[:] = 0
    path.write_bytes(data.tobytes())
    assert not lost_sector_in_film(path)


def box(kind, content):
    return struct.pack(">I4s", 8 + len(content), kind) + content


def test_sizes_in_every_coding(tmp_path):
    """64-bit boxes, a box to the end of the file, several RIFF chunks, segments of any length."""
    ftyp, large = box(b"ftyp", b"qt  "), struct.pack(">I4sQ", 1, b"mdat", 16 + 30)
    rest = struct.pack(">I4s", 0, b"mdat")
    riff, odd = b"RIFF" + struct.pack("<I", 4), b"RIFF" + struct.pack("<I", 5)
    ebml = b"\x1a\x45\xdf\xa3\x82ab\x18\x53\x80\x67"
    for data, missing in (
        (ftyp + large + bytes(30), 0),
        (ftyp + large + bytes(20), 10),
        (ftyp + large + bytes(30) + box(b"moov", b"12")[:9], 1),
        (ftyp + rest + bytes(9), 0),
        (ftyp + b"\xff\xff\xff\xffnote", 0),
        (riff + b"AVI " + riff + b"AV", 2),
        (odd + b"AVI 1", 0),
        (odd + b"AVI 1\0" + riff + b"AVIX", 0),
        (ebml + b"\x85abcde", 0),
        (ebml + b"\x85abc", 2),
        (ebml + b"\x40\x05abc", 2),
        (ebml + b"\x01\0\0\0\0\0\0\x05abc", 2),
        (ebml + b"\xff", 0),
        (ebml + b"\x01" + b"\xff" * 7, 0),
        (ebml[:6], 0),
        (b"", 0),
    ):
        (tmp_path / "a.mp4").write_bytes(data)
        assert missing_bytes(tmp_path / "a.mp4") == missing, data


def test_fewer_frames_than_declared_are_told(tmp_path):
    """The frames are there as bytes, and cannot be decoded."""
    film(tmp_path / "a.avi", 9, "MJPG")
    data = bytearray((tmp_path / "a.avi").read_bytes())
    starts = [found.start() for found in re.finditer(b"00dc....\xff\xd8", data, re.DOTALL)]
    for start in starts[5:]:
        (length,) = struct.unpack_from("<I", data, start + 4)
        data[start + 8 : start + 8 + length] = bytes(length)
    (tmp_path / "a.avi").write_bytes(data)
    frames = list_frames(tmp_path / "a.avi")
    assert len(frames) == 5
    assert read_stack(frames).notes == [
        "a.avi: 5 of the 9 frames that it declares can be decoded; it may be damaged"
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode there")
@pytest.mark.parametrize("name", [b"12:30:00.mp4", b"http:a.mp4", b"b\xff\n.mp4", "ä.mp4".encode()])
def test_a_video_of_any_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "a.mp4", 3)
    file = Path(os.fsdecode(name))
    (tmp_path / "a.mp4").rename(file)
    assert read_stack(list_frames(file)).frames.shape == (3, 48, 64, 3)


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
