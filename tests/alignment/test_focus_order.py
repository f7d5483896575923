"""alignment/focus_order.py: stacks in and out of focus order, and the shortest path."""

from pathlib import Path

import numpy as np
import pytest
from drawn import draw_stack, texture

import predict
from stackmff.alignment.focus_order import (
    distances,
    focus_order,
    path_length,
    permute,
    put_in_order,
    reorder,
    shortest_path,
)
from stackmff.images.formats import read_picture, write_picture
from stackmff.images.frame_store import Storage
from stackmff.images.metadata import Metadata
from stackmff.images.stack import Stack, read_stack


def stack_of(n_frames, height=64, width=256):
    """Frames of a plane that recedes from the left to the right."""
    return np.stack(draw_stack(texture(height, width, 0), n_frames))


def shuffled(n_frames, seed=3):
    """An order of n_frames that is not the given one."""
    order = np.random.default_rng(seed).permutation(n_frames)
    assert not np.array_equal(np.sort(order), order)
    return order


@pytest.mark.parametrize("kind", ["colour", "grey", "grey with alpha", "16 bits"])
def test_a_shuffled_stack_is_brought_into_focus_order(kind):
    frames = stack_of(7)
    if kind.startswith("grey"):
        frames = frames[..., 1:2]
    if kind == "grey with alpha":
        frames = np.concatenate([frames, np.full_like(frames, 255)], axis=3)
    if kind == "16 bits":
        frames = frames.astype(np.uint16) * 257
    order = shuffled(7)
    found = order[focus_order(frames[order])]
    assert np.array_equal(found, np.arange(7)) or np.array_equal(found[::-1], np.arange(7))


def test_many_frames(n_frames=40):
    frames = stack_of(n_frames, width=640)
    order = shuffled(n_frames)
    found = order[focus_order(frames[order])]
    assert (np.abs(np.diff(found)) == 1).all()


@pytest.mark.parametrize("n_frames", [2, 3, 8])
def test_a_stack_in_focus_order_is_left_alone_from_either_end(n_frames):
    frames = stack_of(n_frames)
    assert focus_order(frames) is None
    assert focus_order(frames[::-1]) is None


def test_the_direction_agrees_with_the_given_one():
    frames = stack_of(8)
    for order in ([2, 0, 1, 3, 4, 7, 5, 6], [6, 7, 4, 5, 3, 1, 0, 2]):
        found = np.array(order)[focus_order(frames[order])]
        assert (found[0] < found[-1]) == (order[0] < order[-1])


@pytest.mark.parametrize("kind", ["equal", "flat", "noise", "tiny"])
def test_where_there_is_nothing_to_tell_the_order_stays(kind):
    rng = np.random.default_rng(0)
    frames = {
        "equal": np.repeat(texture(64, 64, 0)[None], 5, axis=0),
        "flat": np.full((5, 64, 64, 3), 90, np.uint8),
        "noise": rng.integers(0, 256, (6, 64, 96, 3), np.uint8),
        "tiny": rng.integers(0, 256, (4, 1, 3, 1), np.uint8),
    }[kind]
    assert focus_order(frames) is None


def test_exposure_changes_nothing():
    frames = stack_of(6) // 2
    gains = np.float32([1, 1.02, 0.98, 1.03, 0.97, 1])
    bright = np.uint8(np.round(frames * gains[:, None, None, None]))
    assert focus_order(bright) is None
    order = shuffled(6)
    found = order[focus_order(bright[order])]
    assert (np.abs(np.diff(found)) == 1).all()


def test_the_shortest_path_between_points_on_a_line():
    points = np.random.default_rng(1).permutation(12).astype(float) ** 2 + 1
    distance = np.abs(points[:, None] - points)
    path, length = shortest_path(distance, points)  # from 0 and back: up to 122 and down
    assert length == 2 * 122
    assert np.array_equal(np.sort(path), np.arange(12))


def test_a_path_is_1_long_where_detail_rises_and_falls_once():
    place, frame = np.meshgrid(np.linspace(-1, 8, 50), np.arange(8))
    energy = 1000 / (1 + 4 * (place - frame) ** 2)[:, None]  # of a blur that grows with distance
    energy = np.float32(energy * np.ones((1, 3, 1)))
    distance, ends = distances(energy)
    np.testing.assert_allclose(distance, distance.T, rtol=1e-4, atol=1e-6)
    assert path_length(distance, ends, np.arange(8)) == pytest.approx(1, abs=1e-4)
    assert path_length(distance, ends, shuffled(8)) > 1.5


def test_frames_change_places_in_one_frame_of_memory():
    frames = np.arange(6)[:, None, None, None] * np.ones((6, 2, 2, 1), np.uint8)
    order = np.array([3, 0, 1, 2, 5, 4])
    permute(frames, order)
    np.testing.assert_array_equal(frames[:, 0, 0, 0], order)


@pytest.mark.parametrize("low_memory", [False, True])
def test_frames_and_their_names_stay_together(tmp_path, low_memory):
    order = shuffled(6)
    paths = [tmp_path / f"{k}.png" for k in range(6)]
    for path, frame in zip(paths, stack_of(6)[order]):
        write_picture(path, frame)
    stack = read_stack(paths, storage=Storage(tmp_path / "spill", low_memory))
    put_in_order(stack)
    assert [path.name for path in paths] == [f"{k}.png" for k in range(6)]
    assert [path.name for path in stack.paths] != [path.name for path in paths]
    for path, frame in zip(stack.paths, stack.frames):
        np.testing.assert_array_equal(frame, read_picture(path))
    (note,) = stack.notes
    assert note.endswith(" ".join(path.name for path in stack.paths))


def test_predict_of_shuffled_frames_is_that_of_the_frames(tmp_path, capsys):
    frames, order = stack_of(6), shuffled(6)
    for name, chosen in (("good", range(6)), ("back", range(5, -1, -1)), ("bad", order)):
        for k, index in enumerate(chosen):
            write_picture(tmp_path / name / f"{k}.png", frames[index])

    def fused(name, *options):
        output = tmp_path / f"{name}{len(options)}.png"
        words = ["--stack_path", str(tmp_path / name), "--output", str(output), "--align", "off"]
        predict.main([*words, "--engine", "torch", *options])
        return read_picture(output).astype(int), capsys.readouterr().err

    right, note = fused("good")
    assert "focus order" not in note
    mended, note = fused("bad")
    assert "not in focus order" in note
    # Exactly so, in one of the two directions.
    assert (mended == right).all() or (mended == fused("back")[0]).all()
    left, note = fused("bad", "--order", "given")
    assert "focus order" not in note
    assert (left != right).any()


def test_the_note_on_a_new_order_is_short():
    count = 216
    order = np.arange(count)
    order[[10, 200]] = order[[200, 10]]
    frames = np.zeros((count, 2, 2, 1), np.uint8)
    paths = [Path(f"IMG_{k:04}.JPG") for k in range(count)]
    stack = Stack(frames, paths, Metadata(), [], [Metadata()] * count)
    note = reorder(stack, order, [paths[k].name for k in order])
    assert "2 of 216" in note and "IMG_0000.JPG IMG_0001.JPG" in note
    assert "and 208 more" in note and len(note) < 250
    assert stack.paths[10].name == "IMG_0200.JPG"
