"""fusion/memory.py: memory is known from headers, and a stack that is too large is refused."""

from pathlib import Path

import numpy as np
import pytest
from calling import make_stack

import predict
from stackmff.errors import StackError
from stackmff.fusion import memory, pipeline
from stackmff.fusion.memory import BASE, keep_in_file, needed
from stackmff.fusion.options import FuseOptions
from stackmff.images import stack
from stackmff.images.folders import list_frames
from stackmff.options import build


def test_the_formula(tmp_path):
    make_stack(tmp_path, 3, (40, 50, 3), ".png", np.uint16)
    paths = list_frames(tmp_path)
    pixels, frame = 2000, 12000
    largest = max(path.stat().st_size for path in paths)
    need = needed(paths, Path("a.png"), None)
    assert (need.frames, need.pixels) == (3 * frame, pixels)
    assert need.work == BASE + 2 * (frame + largest)
    make_stack(tmp_path, 3, (40, 50, 3), ".jpg")
    paths = [path for path in sorted(tmp_path.iterdir()) if path.suffix == ".jpg"]
    sizes = {bits: needed(paths, Path("a.png"), bits).work - BASE for bits in (8, 16)}
    assert sizes[8] == 2 * (6000 + max(path.stat().st_size for path in paths))
    assert sizes[16] == max(sizes[8], 2 * 6000 + 3 * pixels)
    assert needed(paths, Path("a.jpg"), 16).work == BASE + 2 * 6000 + 10 * pixels


def test_frames_go_to_a_file_where_the_rest_would_not_fit(tmp_path, monkeypatch):
    make_stack(tmp_path / "stack", 3, (40, 50, 3))
    paths, options = list_frames(tmp_path / "stack"), FuseOptions()
    need = needed(paths, Path("a.png"), None)
    for free, expected in ((need.work + need.frames, False), (need.work + need.frames - 1, True)):
        monkeypatch.setattr(memory, "free_memory", lambda free=free: free)
        assert keep_in_file(paths, Path("a.png"), options) is expected
        read = pipeline.read_for(tmp_path / "out" / "a.png", paths, options)
        assert isinstance(read.frames, np.memmap) is expected
    assert keep_in_file(paths, Path("a.png"), build(FuseOptions, {"low_memory": True}))


def test_what_is_too_large_is_refused_before_anything_is_decoded(tmp_path, monkeypatch, weights):
    make_stack(tmp_path / "stack", 3, (40, 50, 3))
    monkeypatch.setattr(memory, "free_memory", lambda: 1e9)
    assert keep_in_file(list_frames(tmp_path / "stack"), Path("a.png"), FuseOptions())  # small
    monkeypatch.setattr(memory, "SMALL", 100)
    monkeypatch.setattr(stack, "decode", None)
    words = ["--stack_path", tmp_path / "stack", "--output", tmp_path / "a.png"]
    words += ["--model_path", weights["StackMix"], "--low_memory"]
    with pytest.raises(
        StackError, match=r"stack: frames of 0 megapixels need 1\.0 GB .* 1\.0 GB a"
    ):
        predict.main([str(word) for word in words])
    assert not (tmp_path / "a.png").exists()
