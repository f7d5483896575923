"""alignment/stillness.py: blur that comes and goes is not taken for motion, and motion is."""

import cv2
import numpy as np
import pytest
from moving import MOTIONS, ROOM, defocused, errors, motion, moving_frames, scene, view

import stackmff
from stackmff.alignment import stillness
from stackmff.alignment.measure import Measuring, measure
from stackmff.images.colour import to_linear, to_srgb


def slanted(answer, n_frames, most, views=7):
    """Frames of a slanted plane that nothing moves: the mean of the views through a lens.

    Args:
        answer: (H, W, 3) picture in [0, 255] with ROOM px around the frames.
        n_frames: in focus from the left to the right.
        most: radius of the blur at the far side, px.
        views: points across the lens.
    """
    lens = [(u, v) for u in np.linspace(-1, 1, views) for v in np.linspace(-1, 1, views)]
    lens = [(u, v) for u, v in lens if u * u + v * v <= 1]
    height, width = (side - 2 * ROOM for side in answer.shape[:2])
    light = np.float32(to_linear(answer / 255))
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    slope, frames = most / (width - 1), []
    for start in np.linspace(0, -most, n_frames):  # the radius is start + slope x
        total = np.zeros((height, width, 3), np.float32)
        for u, v in lens:
            across = (x - u * start) / (1 + u * slope)
            down = y - v * (slope * across + start)
            places = np.float32(across + ROOM), np.float32(down + ROOM)
            total += cv2.remap(light, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        frames.append(np.uint8(np.rint(255 * to_srgb(total / len(lens)))))
    return np.stack(frames)


@pytest.fixture(scope="module")
def still():
    return slanted(scene(3, 160, 320), 16, 24)


def test_a_still_stack_with_strong_blur_is_not_moved(still):
    alignment = measure(still)
    assert not any(alignment.moved) and alignment.fields == {} and alignment.left_out == {}
    assert "no frame was moved" in alignment.notes[0] and "--align on" in alignment.notes[0]
    assert any("no frame was moved" in note for note in stackmff.align(still).notes)


def test_it_is_moved_where_that_is_asked_for(still):
    alignment = measure(still, wanted=Measuring(thorough=True))
    assert any(alignment.moved) and alignment.notes == []


def test_the_same_blur_does_not_hide_motion(still):
    """Every second frame is shifted by 0.8 px."""
    matrix = np.array([[1, 0, 0.8], [0, 1, 0]])
    size = still.shape[2], still.shape[1]
    shifted = [
        cv2.warpAffine(frame, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        if k % 2
        else frame
        for k, frame in enumerate(still)
    ]
    alignment = measure(np.stack(shifted))
    assert alignment.reference == 8 and alignment.notes == []
    shifts = [alignment.transform(k)[0, 2] for k in (7, 9)]
    np.testing.assert_allclose(shifts, 0.8, atol=0.15)


def test_slow_breathing_is_followed():
    """A tenth of a px from frame to frame, as a lens breathes."""
    picture = scene(6)
    motions = [motion(scale=1 + 0.0015 * (k - 6)) for k in range(12)]
    frames = np.stack([view(defocused(picture, k / 11), m) for k, m in enumerate(motions)])
    alignment = measure(frames)
    assert max(errors(alignment, motions)) < 0.1 and alignment.notes == []


def test_one_frame_among_many_still_ones_moves():
    picture = scene(5)
    frames = [
        view(defocused(picture, k / 39), motion((0.6, 0) if k == 30 else (0, 0))) for k in range(40)
    ]
    alignment = measure(np.stack(frames))
    assert alignment.moved[30] and alignment.notes == []


def test_larger_motion_is_not_questioned():
    assert measure(moving_frames()).notes == []
    assert max(errors(measure(moving_frames()), MOTIONS)) < 0.06


def pairs_of(ratios):
    """Evidence of pairs with these likelihood ratios, and errors as large as was told."""
    return [
        stillness._Evidence((k, k + 1), ratio, ratio, 1.0, 1.0) for k, ratio in enumerate(ratios)
    ]


def test_evidence_is_weighed_by_the_probability_of_a_mistake():
    needed = 2 * np.log(1 / stillness.MISTAKEN)
    assert stillness._strength(pairs_of([needed / 4] * 4)) == pytest.approx(1)
    # One of many frames that moves alone needs more: each of them is a chance to be mistaken.
    alone = 2 * np.log(40 / stillness.MISTAKEN)
    assert stillness._strength(pairs_of([alone] + [-100] * 39)) == pytest.approx(1)
    scattered = [one._replace(unlikely=3.0) for one in pairs_of([needed / 4] * 4)]
    assert stillness._strength(scattered) == pytest.approx(1 / 3)


def test_what_is_sharp_is_doubted_where_matched_blur_shows_no_motion(still, monkeypatch):
    """The ratio of one pair that is far too large by mistake does not move the stack."""
    real, asked = stillness._evidence, []

    def mistaken(key, *rest):
        asked.append(key)
        found = real(key, *rest)
        return found._replace(ratio=50.0) if asked.count(key) == 1 and key == (5, 6) else found

    monkeypatch.setattr(stillness, "_evidence", mistaken)
    alignment = measure(still)
    assert asked.count((5, 6)) == 2 and not any(alignment.moved)
