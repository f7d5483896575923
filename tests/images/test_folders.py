"""images/folders.py: which files are frames, and one clear sentence where they are none."""

import os
from pathlib import Path

import numpy as np
import pytest

from stackmff.errors import StackError
from stackmff.images.folders import list_folders, list_frames, list_pictures, passed_over
from stackmff.images.formats import write_picture


def test_what_is_no_file_is_no_picture(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")  # reading it would wait for ever
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    write_picture(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    assert [path.name for path in list_pictures(tmp_path)] == ["a.png", "gone.jpg"]


def test_list_pictures_in_natural_order(tmp_path):
    names = ["frame10.PNG", "frame2.jpg", "frame1.TiF", "b.webp", ".hidden.png", "._frame1.png"]
    names += ["frame4.NEF", "frame5.heic"]
    for name in [*names, "notes.txt", "frame3", "c.jpeg.part"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    found = [path.name for path in list_pictures(tmp_path)]
    wanted = ["b.webp", "frame1.TiF", "frame2.jpg", "frame4.NEF", "frame5.heic"]
    assert found == [*wanted, "frame10.PNG"]


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    for function in (list_pictures, list_folders):
        with pytest.raises(StackError, match=f"{tmp_path.name} cannot be read .Permission denied"):
            function(tmp_path)


def test_too_few_frames(tmp_path):
    assert list_pictures(tmp_path) == []
    with pytest.raises(StackError, match="holds no pictures"):
        list_frames(tmp_path)
    (tmp_path / "one.png").touch()
    with pytest.raises(StackError, match="holds one picture: a stack needs two or more"):
        list_frames(tmp_path)
    with pytest.raises(
        StackError, match=r"one\.png is a single file, not a stack: give the folder"
    ):
        list_frames(tmp_path / "one.png")
    with pytest.raises(StackError, match="is not a folder"):
        list_frames(tmp_path / "nothing")


def test_a_frame_in_two_formats(tmp_path):
    for name in ("1.nef", "1.jpg", "2.nef", "2.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(
        StackError, match=r"1\.nef and 1\.jpg have the same name: choose with --prefer"
    ):
        list_frames(tmp_path)


def test_one_of_each_shot(tmp_path):
    names = ["1.jpg", "1.nef", "2.jpg", "3.nef", "PXL_7.RAW-01.COVER.jpg"]
    names += ["PXL_7.RAW-02.ORIGINAL.dng"]
    for name in names:
        (tmp_path / name).touch()
    raw, jpeg = (
        [path.name for path in list_frames(tmp_path, prefer)] for prefer in ("raw", "jpeg")
    )
    assert raw == ["1.nef", "2.jpg", "3.nef", "PXL_7.RAW-02.ORIGINAL.dng"]
    assert jpeg == ["1.jpg", "2.jpg", "3.nef", "PXL_7.RAW-01.COVER.jpg"]
    with pytest.raises(StackError, match=r"1\.nef and 1\.jpg .* --prefer_files raw or jpeg"):
        list_frames(tmp_path)
    (tmp_path / "1.nef").unlink()
    with pytest.raises(StackError, match=r"COVER\.jpg .*have the same name: choose|dng and PXL"):
        list_frames(tmp_path)
    (tmp_path / "2.png").touch()  # neither is RAW
    with pytest.raises(StackError, match=r"2\.png and 2\.jpg have the same name: move one"):
        list_frames(tmp_path, "raw")


def test_what_is_passed_over_is_counted_once(tmp_path):
    for name in ("1.jpg", "a.psd", "b.PSD", "c.gif", ".d.gif", "notes.txt"):
        (tmp_path / name).touch()
    assert passed_over(tmp_path) == (
        "3 files that look like pictures are skipped (1 .gif, 2 .psd): export them as PNG or "
        "TIFF if they are frames"
    )
    for name in ("a.psd", "b.PSD"):
        (tmp_path / name).unlink()
    assert passed_over(tmp_path).startswith("1 file that looks like a picture is skipped")
    (tmp_path / "c.gif").unlink()
    assert passed_over(tmp_path) is None
