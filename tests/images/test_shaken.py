"""images/shaken.py: frames that are shaken or exposed twice are named, defocused ones not."""

import cv2
import numpy as np
import pytest
from moving import scene

from stackmff.images.rectangles import Box
from stackmff.images.shaken import shaken_frames

HEIGHT, WIDTH, COUNT = 320, 448, 5
AREA = Box.whole((HEIGHT, WIDTH))


def focused(picture, place):
    """A scene that is blurred by its distance from `place`, along its width."""
    blurs = [cv2.GaussianBlur(picture, (0, 0), sigma) for sigma in (0.5, 2, 4, 8)]
    away = np.abs(np.linspace(0, COUNT - 1, picture.shape[1], dtype=np.float32) - place)[:, None]
    return sum(blur * np.clip(1 - np.abs(away - k), 0, 1) for k, blur in enumerate(blurs))


@pytest.fixture(scope="module")
def clean():
    picture = scene(2, HEIGHT - 64, WIDTH - 64)
    return [focused(picture, k) for k in range(COUNT)]


def named(frames):
    noise = np.random.default_rng(0).normal(0, 1, (len(frames), HEIGHT, WIDTH, 3))
    stack = np.uint8(np.clip(np.rint(np.stack(frames) + noise), 0, 255))
    return shaken_frames(stack, list(range(len(stack))), AREA)


def shaken(frame, length, degrees):
    """A frame whose light is spread evenly along a line of `length` px."""
    kernel = np.zeros((2 * length + 1,) * 2, np.uint8)
    x, y = (length / 2 * turn(np.deg2rad(degrees)) for turn in (np.cos, np.sin))
    ends = [(round(length - x), round(length - y)), (round(length + x), round(length + y))]
    cv2.line(kernel, *ends, 1)
    return cv2.filter2D(frame, -1, np.float32(kernel / kernel.sum()))


def twice(frame, right, down):
    return (frame + np.roll(frame, (down, right), (0, 1))) / 2


def replaced(frames, index, frame):
    return [frame if k == index else each for k, each in enumerate(frames)]


def test_a_focus_sweep_names_none(clean):
    assert named(clean) == []


@pytest.mark.parametrize("length, degrees", [(8, 0), (12, 50), (20, 110)])
@pytest.mark.parametrize("index", [1, 2])
def test_a_shaken_frame_is_named(clean, length, degrees, index):
    assert named(replaced(clean, index, shaken(clean[index], length, degrees))) == [index]


@pytest.mark.parametrize("way", [(8, 5), (-20, 10)])
def test_a_frame_that_is_exposed_twice_is_named(clean, way):
    assert named(replaced(clean, 2, twice(clean[2], *way))) == [2]


@pytest.mark.parametrize("index", [0, 2, 4])
def test_a_defocused_frame_is_not_named(clean, index):
    blurred = cv2.GaussianBlur(clean[index], (0, 0), 6)
    assert named(replaced(clean, index, blurred)) == []


def test_nothing_is_named_where_it_cannot_be_judged(clean):
    odd = np.uint8(replaced(clean, 1, shaken(clean[1], 12, 50)))
    assert shaken_frames(odd, [0, 1], AREA) == []
    assert shaken_frames(odd, [0, 1, 2, 3, 4], Box(0, 100, 0, 400)) == []
    assert shaken_frames(np.zeros_like(odd), [0, 1, 2, 3, 4], AREA) == []
