"""images/frame_store.py: frames in a file are those in memory, and leave nothing behind."""

import os

import numpy as np
import pytest
from drawn import texture

from stackmff.errors import StackError
from stackmff.images import frame_store
from stackmff.images.formats import write_picture
from stackmff.images.frame_store import Storage, put, release, window
from stackmff.images.rectangles import Box
from stackmff.images.stack import read_stack


def test_frames_on_disk_are_those_in_memory_and_leave_no_file(tmp_path):
    paths = [tmp_path / f"{k}.png" for k in range(5)]
    for k, path in enumerate(paths):
        write_picture(path, texture(40, 50, k))
    spill = tmp_path / "results"
    stacks = [read_stack(paths, storage=Storage(spill, low)) for low in (False, True)]
    assert [isinstance(stack.frames, np.memmap) for stack in stacks] == [False, True]
    np.testing.assert_array_equal(stacks[0].frames, stacks[1].frames)
    release(stacks[1].frames)  # what has been read is read again
    np.testing.assert_array_equal(stacks[0].frames, stacks[1].frames)
    for place in ((0, 40, 0, 50), (3, 17, 20, 41), (39, 40, 49, 50)):
        parts = [window(stack.frames, Box(*place)) for stack in stacks]
        np.testing.assert_array_equal(*parts)
        assert not isinstance(parts[1], np.memmap)
    for some in ([3], [1, 2], [0, 2], [4, 1]):
        parts = [window(stack.frames, Box(3, 17, 20, 41), some) for stack in stacks]
        np.testing.assert_array_equal(parts[0], stacks[0].frames[some, 3:17, 20:41])
        np.testing.assert_array_equal(*parts)
        copied = some in ([0, 2], [4, 1])
        assert np.shares_memory(parts[0], stacks[0].frames) != copied
    put(stacks[1].frames, 2, stacks[0].frames[4])
    np.testing.assert_array_equal(stacks[1].frames[2], stacks[0].frames[4])
    np.testing.assert_array_equal(stacks[1].frames[3], stacks[0].frames[3])
    assert list(spill.iterdir()) == []


def test_frames_go_to_disk_where_memory_is_short(tmp_path, monkeypatch):
    paths = [tmp_path / f"{k}.png" for k in range(2)]
    for k, path in enumerate(paths):
        write_picture(path, texture(40, 50, k))
    size = 2 * 40 * 50 * 3
    for free, on_disk in ((2 * size, False), (2 * size - 2, True)):
        monkeypatch.setattr(frame_store, "free_memory", lambda free=free: free)
        frames = read_stack(paths, storage=Storage(tmp_path / "out")).frames
        assert isinstance(frames, np.memmap) == on_disk
    assert not isinstance(read_stack(paths).frames, np.memmap)


def test_a_disk_without_room_is_said_before_the_work(tmp_path, monkeypatch):
    write_picture(tmp_path / "a.png", texture(40, 50, 0))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(StackError, match=r"out has no room for the 1 MiB of the frames"):
        read_stack([tmp_path / "a.png"], storage=Storage(tmp_path / "out", low_memory=True))
