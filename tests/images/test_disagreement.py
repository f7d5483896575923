"""images/disagreement.py: parts that are not of the scene are found, and nothing else."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from calling import call
from drawn import draw_stack, texture

import predict
import stackmff
from stackmff.alignment.geometry import Alignment
from stackmff.errors import StackError
from stackmff.fusion.pipeline import told_unlike
from stackmff.images.disagreement import Disagreement, disagreeing_frames
from stackmff.images.formats import read_picture, write_picture
from stackmff.images.metadata import Metadata
from stackmff.images.stack import Stack


def stack(count=5, channels=3, dtype=np.uint8):
    """Frames of a scene with large shapes, so that blocks differ in their means."""
    wide = cv2.resize(texture(24, 32, 1), (320, 240), interpolation=cv2.INTER_CUBIC)
    scene = np.uint8(np.clip(0.7 * wide + 0.3 * texture(240, 320, 0), 0, 255))
    frames = np.array(draw_stack(scene, count))[..., :channels].astype(dtype)
    return frames * dtype(257 if dtype == np.uint16 else 1)


def flat(part):
    part[:] = 128 * (part.max() // 128)


def smeared(part):
    part[:] = part[:1]


def grey(part):
    part[:] = part[..., :1]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("damage", [flat, smeared, grey])
@pytest.mark.parametrize("index", [0, 2, 4])
def test_damaged_parts_are_found(index, damage, dtype):
    frames = stack(dtype=dtype)
    assert disagreeing_frames(frames) == Disagreement()
    damage(frames[index, 100:])
    assert disagreeing_frames(frames) == Disagreement([index])


def recoloured(part):
    """As after a lost code of a JPEG, whose colours are differences."""
    part[:] = np.minimum(part.astype(int) + part.max() // 4, part.max())


def noisy(part):
    part[:] = part.max() * np.random.default_rng(0).random(part.shape)


def shifted(part):
    """As after lost bytes; the colours change their places."""
    part[:] = np.roll(part.reshape(-1), 3 * 40 + 1).reshape(part.shape)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("damage", [recoloured, noisy, shifted])
@pytest.mark.parametrize("index", [0, 2, 4])
def test_parts_of_something_else_are_found(index, damage, dtype):
    for frames, damaged in ((stack(dtype=dtype), index), (stack(3, dtype=dtype), 1)):
        damage(frames[damaged, 100:])
        found = disagreeing_frames(frames)
        assert [*found.damaged, *found.unlike] == [damaged]


def test_a_frame_of_which_little_is_right_is_left_out():
    frames = stack()
    noisy(frames[2, 10:])
    assert disagreeing_frames(frames) == Disagreement([2])


def test_a_frame_that_something_passes_is_named_and_kept():
    frames = stack()
    frames[3, 60:, 90:170] = texture(180, 80, 5) // 2  # a quarter of it
    assert disagreeing_frames(frames) == Disagreement([], [3])


def test_what_agrees_in_register_is_not_named():
    frames, paths = stack(), [Path(f"{k}.png") for k in range(5)]
    read = Stack(frames, paths, Metadata(), unlike=[paths[3]])
    moved = [np.float64([[1, 0, 2 * k], [0, 1, 0]]) for k in range(-2, 3)]
    alignment = Alignment(2, frames.shape[1:3], moved, np.ones((5, 3)))
    assert told_unlike(read, alignment) == []
    assert told_unlike(read, None)[0].startswith("3.png: a part shows something else")
    frames[3, 60:, 90:170] = texture(180, 80, 5) // 2
    assert told_unlike(read, alignment) == told_unlike(read, None)


def test_a_part_of_something_else_is_named():
    frames = stack()
    noisy(frames[2, 80:112, 80:136])
    assert disagreeing_frames(frames) == Disagreement([], [2])


def test_exposures_and_a_frame_that_moved_are_no_damage():
    whole = stack()
    for gain, offset, gamma in ((0.7, 0, 1), (1, 30, 1), (1, 0, 0.6), (1.3, -40, 1)):
        frames = whole.copy()
        other = 255 * (frames[2] / 255) ** gamma * gain + offset
        frames[2] = np.clip(other, 0, 255)
        assert disagreeing_frames(frames) == Disagreement()
    for down, across in ((0, 25), (-18, 9), (30, 0)):
        frames = whole.copy()
        frames[2] = np.roll(frames[2], (down, across), (0, 1))
        assert disagreeing_frames(frames) == Disagreement()


def test_grey_stacks_and_small_damage():
    frames = stack(channels=1)
    frames[3, :, 200:] = 0
    assert disagreeing_frames(frames) == Disagreement([3])
    frames = stack()
    frames[3, :16, :16] = 0  # less than the share of blocks that counts
    assert disagreeing_frames(frames) == Disagreement()


def test_what_is_no_damage():
    whole = stack()
    assert disagreeing_frames(whole[:2]) == Disagreement()
    bright = whole.copy()
    bright[2] = np.minimum(bright[2].astype(int) * 3, 255)  # clipped areas are flat
    assert disagreeing_frames(bright) == Disagreement()
    dark = whole.copy()
    dark[2] = 0
    assert disagreeing_frames(dark) == Disagreement()
    two = whole.copy()
    two[2:4, 100:] = 128  # neither can be told from its neighbours
    assert disagreeing_frames(two) == Disagreement()


def bright_ground(sigma, strokes=4000, side=448):
    """Frames of a mostly clipped ground with dark strokes, and of lights on a dark body before it.

    In all but the last one the ground is blurred: the stack ends with a jump to it.

    Returns (4, side, side, 3) uint8.
    """
    rng = np.random.default_rng(0)
    ground = np.full((side, side, 3), 1.6, np.float32)
    for x, y, dx, dy in zip(
        *rng.integers(0, side, (2, strokes)), *rng.integers(-9, 10, (2, strokes))
    ):
        cv2.line(
            ground, (int(x), int(y)), (int(x + dx), int(y + dy)), (1.2, 0.5, 0.2), 1, cv2.LINE_AA
        )
    body = np.zeros((side, side), np.float32)
    body[3 * side // 4 :] = 1
    lights = np.zeros((side, side), np.float32)
    for x in (60, 200, 320):
        cv2.circle(lights, (x, side - 40), 3, 30, -1)
    frames = []
    for far, near in ((sigma + 2, 0.5), (sigma + 1, 1), (sigma, 1.5), (0.1, sigma)):
        own, cover, light = (
            cv2.GaussianBlur(part, (0, 0), blur)
            for part, blur in ((ground, far), (body, near), (lights, near))
        )
        linear = own * (1 - cover[..., None]) + (0.02 * cover + light)[..., None]
        frames.append(np.uint8(255 * np.clip(linear, 0, 1) ** (1 / 2.2)))
    return np.array(frames)


@pytest.mark.parametrize("index", [0, 3])
def test_a_jump_in_blur_at_an_end_is_no_damage(index):
    frames = bright_ground(sigma=9)[:: 1 if index else -1].copy()
    assert disagreeing_frames(frames) == Disagreement()
    for damage in (recoloured, noisy):
        other = frames.copy()
        damage(other[index, 200:])
        found = disagreeing_frames(other)
        assert [*found.damaged, *found.unlike] == [index], damage


def test_shapes_that_move_are_no_damage():
    rng = np.random.default_rng(0)
    for _ in range(20):
        page = np.full((280, 360, 3), 250, np.uint8)
        for _ in range(60):
            x, y = (int(v) for v in rng.integers(20, 260, 2))
            cv2.rectangle(page, (x, y), (x + 30, y + 12), (20, 30, 90), -1)
        places = rng.integers(0, 30, (5, 2))
        frames = np.stack([page[y : y + 240, x : x + 320] for y, x in places])
        assert disagreeing_frames(frames) == Disagreement()


def test_a_damaged_frame_is_left_out_or_taken_and_told(tmp_path, weights, capsys):
    frames = stack()
    frames[1, 100:] = 128
    for k, frame in enumerate(frames):
        write_picture(tmp_path / "stack" / f"{k}.png", frame)
    words = ["--stack_path", tmp_path / "stack", "--model_path", weights["StackMix"]]
    words += ["--device", "cpu", "--align", "off", "--order", "given"]
    assert call(predict.main, *words, "--output", tmp_path / "a.png") == 0
    said = capsys.readouterr()
    assert (
        "note: left out: 1.png: parts are flat, grey, repeated or in another exposure" in said.err
    )
    assert "4 frames" in said.out
    (tmp_path / "stack" / "1.png").rename(tmp_path / "1.png")
    assert call(predict.main, *words, "--output", tmp_path / "b.png") == 0
    np.testing.assert_array_equal(
        read_picture(tmp_path / "a.png"), read_picture(tmp_path / "b.png")
    )
    (tmp_path / "1.png").rename(tmp_path / "stack" / "1.png")
    assert call(predict.main, *words, "--output", tmp_path / "c.png", "--lenient") == 0
    said = capsys.readouterr()
    assert "as in a damaged file; used as it is" in said.err and "5 frames" in said.out
    with pytest.raises(StackError, match=r"^1\.png: parts are flat, .*: remove what is damaged"):
        stackmff.frame_weights(tmp_path / "stack", model_path=weights["StackMix"], device="cpu")


@pytest.mark.parametrize("index", [0, 2])
def test_a_grey_frame_among_colours_is_no_damage(index):
    frames = stack()
    frames[index] = frames[index].mean(-1, keepdims=True).round()
    assert disagreeing_frames(frames) == Disagreement()


@pytest.mark.parametrize("index", [0, 3])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("stops", [-3, -1.2])
def test_a_part_that_the_flash_missed_is_found(index, axis, stops):
    frames = stack()
    part = np.swapaxes(frames[index], 0, axis)[120:]
    part[:] = np.rint(part * 2 ** (stops / 2.2))
    assert disagreeing_frames(frames) == Disagreement([index])
