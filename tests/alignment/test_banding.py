"""alignment/banding.py: bands of a flickering lamp do not move the frames, and do not hold them."""

import cv2
import numpy as np
import pytest
from drawn import texture

from stackmff.alignment.banding import fits_better, may_have_bands, without_bands
from stackmff.alignment.measure import Measuring, measure
from stackmff.alignment.views import View

HEIGHT, WIDTH, MARGIN = 160, 200, 12
ALONE = Measuring(match_exposure=False, local=False)


def frames_under_a_lamp(strength, step, axis=0):
    """Three grey frames of a scene without much contrast, each `step` px farther, with bands."""
    shape = HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN
    coarse = cv2.resize(texture(24, 32, 0), shape[::-1], interpolation=cv2.INTER_CUBIC)
    scene = np.float32(115 + 0.12 * (0.6 * coarse + 0.4 * texture(*shape, 1))[..., 1])
    levels = [scene, *(cv2.GaussianBlur(scene, (0, 0), 2.0 * k) for k in range(1, 3))]
    focus = np.linspace(0, 2, shape[1], dtype=np.float32)
    out = []
    for k in range(3):
        weights = [np.maximum(1 - np.abs(np.abs(focus - k) - j), 0) for j in range(3)]
        frame = sum(weight * level for weight, level in zip(weights, levels))
        top, left = MARGIN + step * (k - 1), MARGIN + 2 * step * (k - 1)
        frame = frame[top : top + HEIGHT, left : left + WIDTH]
        along = np.arange(frame.shape[axis]) * 6 * np.pi / frame.shape[axis]
        bands = 1 + strength * np.sin(along + 1.9 * k)
        frame = frame * (bands[:, None] if axis == 0 else bands)
        out.append(np.uint8(np.round(frame))[..., None])
    return np.stack(out)


@pytest.mark.parametrize("step, axis", [(0, 0), (2, 1)])
def test_the_scene_is_aligned_and_not_its_light(step, axis):
    found = measure(frames_under_a_lamp(0.12, step, axis), wanted=ALONE)
    shifts = np.array([matrix[:, 2] for matrix in found.transforms])
    expected = -step * np.outer(np.arange(-1, 2), [2, 1])
    assert np.abs(shifts - expected).max() < 0.5
    assert any("bands of light" in note for note in found.notes)


def test_without_bands_nothing_is_told():
    found = measure(frames_under_a_lamp(0.0, 2), wanted=ALONE)
    assert not any("bands" in note for note in found.notes)


def view_of(frame):
    return View(frame[..., 0].astype(np.uint16) * 257, 1, None, False)


def test_rows_and_columns_lose_their_means():
    plain, banded = (view_of(frames_under_a_lamp(s, 0)[1]) for s in (0.0, 0.12))
    even = without_bands(banded).luma.astype(float)
    for axis in (0, 1):
        assert np.ptp(even.mean(axis)) < 0.01 * 65535
    same = np.corrcoef(even.ravel(), without_bands(plain).luma.ravel())[0, 1]
    assert same > 0.95  # of a scene of 5 grey levels, rounded


def test_bands_are_looked_for_only_where_fine_detail_does_not_agree():
    views = [view_of(frame) for frame in frames_under_a_lamp(0.12, 2)[1:]]
    even, placed = [without_bands(view) for view in views], {0: np.eye(3), 1: np.eye(3)}
    assert may_have_bands(views, even, placed)
    assert not may_have_bands(even, even, placed)
    placed[1][:2, 2] = -4, -2
    assert not may_have_bands(views, even, placed)


def test_fine_detail_tells_the_place():
    frames = frames_under_a_lamp(0.12, 2)[1:]
    views = [without_bands(view_of(frame)) for frame in frames]
    right, wrong = ({0: np.eye(3), 1: np.eye(3)} for _ in range(2))
    right[1][:2, 2] = -4, -2
    assert fits_better(views, wrong, right, (HEIGHT, WIDTH))
    assert not fits_better(views, right, wrong, (HEIGHT, WIDTH))
    assert not fits_better(views, right, right, (HEIGHT, WIDTH))
