"""images/folders.py: which files are frames, and one clear sentence where they are none."""

import os
from pathlib import Path

import numpy as np
import pytest

from stackmff.errors import StackError
from stackmff.images.folders import list_folders, list_frames, list_pictures
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
    with pytest.raises(StackError, match=r"1\.nef and 1\.jpg have the same name: move one of them"):
        list_frames(tmp_path)
