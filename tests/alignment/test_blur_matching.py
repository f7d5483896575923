"""alignment/blur_matching.py: a silhouette that shrinks as it blurs is not taken for motion."""

import cv2
import numpy as np
import pytest
from moving import errors, motion, squared

from stackmff.alignment.blur_matching import BlurMatcher, discs_of
from stackmff.alignment.focus_order import focus_order
from stackmff.alignment.linking import contradicted, settle, skipping
from stackmff.alignment.measure import measure
from stackmff.alignment.placement import Placement
from stackmff.alignment.registration import Pair, farthest, parameters_of, small_motion
from stackmff.images.colour import to_srgb

SIZE = 360, 320  # (height, width), px
RADII = (2, 0, 4, 9, 15, 22, 30)  # px of the blur of each frame, in focus order
MOTIONS = [motion((0.7 * (k - 1), -0.5 * (k - 1)), 1 - 0.0015 * (k - 1)) for k in range(7)]
SHUFFLED = [4, 1, 6, 0, 5, 2, 3]


def silhouette():
    """(H, W) light: a dark thing with legs and a tip before a bright ground, and some hair."""
    light = np.full(SIZE, 0.8, np.float32)
    rng = np.random.default_rng(1)
    light += cv2.GaussianBlur(rng.normal(0, 1.5, SIZE).astype(np.float32), (0, 0), 12)
    body = np.array([[-50, 110], [180, 130], [270, 190], [190, 250], [-50, 290]])
    leg = np.array([[60, -50], [110, -50], [120, 140], [70, 140]])
    for part in (body, leg, np.add(leg, (150, 0)), np.add(leg, (20, 230))):
        cv2.fillPoly(light, [part.astype(np.int32)], 0.01, cv2.LINE_AA)
    for x, y, turn in zip(
        rng.integers(60, 270, 90), rng.integers(100, 300, 90), rng.normal(0, 2, 90)
    ):
        end = int(x + 14 * np.cos(turn)), int(y + 14 * np.sin(turn))
        cv2.line(light, (int(x), int(y)), end, 0.03, 1, cv2.LINE_AA)
    return light


def blurred(light, radius):
    """It through a lens that is out of focus."""
    if not radius:
        return light
    kernel = cv2.circle(
        np.zeros((2 * radius + 1,) * 2, np.float32), (radius, radius), radius, 1, -1
    )
    return cv2.filter2D(light, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)


def frame(light, radius, matrix, seed):
    """A grey frame of it, blurred and moved, with a little noise."""
    flags = cv2.INTER_CUBIC
    moved = cv2.warpAffine(
        blurred(light, radius), matrix, SIZE[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT
    )
    noise = np.random.default_rng(seed).normal(0, 0.004, SIZE)
    return np.uint8(np.rint(255 * np.clip(to_srgb(np.clip(moved, 0, 1)) + noise, 0, 1)))[..., None]


@pytest.fixture(scope="module")
def frames():
    light = silhouette()
    return np.stack([frame(light, r, m, k) for k, (r, m) in enumerate(zip(RADII, MOTIONS))])


@pytest.mark.parametrize("order", [list(range(7)), SHUFFLED], ids=["in order", "shuffled"])
def test_blurred_silhouettes_are_placed_within_a_part_of_their_blur(frames, order):
    alignment = measure(frames[order], order.index(1))
    assert alignment.left_out == {} and "matching their blur" in alignment.notes[0]
    for k, error in zip(order, errors(alignment, [MOTIONS[k] for k in order])):
        assert error < 0.3 + RADII[k] / 20, k


def test_blur_that_grows_by_a_px_from_frame_to_frame_does_not_add_up():
    """No pair of neighbours is wrong enough to be noticed."""
    light, motions = silhouette(), [motion((0.5 * k, -0.3 * k)) for k in range(7)]
    frames = np.stack([frame(light, k, m, k) for k, m in enumerate(motions)])
    alignment = measure(frames, 0)
    assert max(errors(alignment, motions)) < 0.3 and "matching their blur" in alignment.notes[0]


@pytest.mark.slow
def test_without_blur_matching_they_are_misplaced(frames, monkeypatch):
    monkeypatch.setattr(Placement, "is_deceived_by_blur", lambda self: False)
    monkeypatch.setattr(Placement, "has_drifted", lambda self: False)
    found = errors(measure(frames[SHUFFLED], 1), [MOTIONS[k] for k in SHUFFLED])
    assert max(found) > 5


def matcher(frames, a, b):
    lumas = (frames[k, ..., 0] * np.uint16(257) for k in (a, b))
    return BlurMatcher(*map(discs_of, lumas), 1, SIZE, "similarity")


def test_blurred_silhouettes_are_put_in_focus_order(frames):
    """Detail does not rise and fall but once here, in any order."""
    found = [SHUFFLED[k] for k in focus_order(frames[SHUFFLED])]
    assert found[:4] == [6, 5, 4, 3] or found[-4:] == [3, 4, 5, 6]


def test_a_wrong_transform_is_refuted_and_a_right_one_is_not(frames):
    true = squared(MOTIONS[4]) @ np.linalg.inv(squared(MOTIONS[1]))
    wrong = motion((9, 0), 0.97)
    compared = matcher(frames, 1, 4)
    found = compared.best([np.eye(3), squared(wrong)])
    assert found.explains and farthest(np.linalg.inv(true) @ found.transform, SIZE) < 3
    assert compared.refutes(squared(wrong), found) and not compared.refutes(true, found)


def test_frames_of_different_scenes_are_not_explained_by_blur(frames):
    other = frames[1, ::-1, ::-1]
    found = matcher(np.stack([frames[1], other]), 0, 1).best([np.eye(3)])
    assert found is None or not found.explains


def pair(shift, grow=0.0, blur=0.0):
    """A pair that moves by `shift` px across, and grows by `grow` px at its corners."""
    matrix = small_motion(np.array([shift, 0, grow, 0]), SIZE)
    return Pair(matrix, np.eye(4) * 0.01, 1.0, 100, 1, blur)


@pytest.mark.parametrize("jolt", [0, 5])
def test_what_blur_hides_goes_on_as_it_does_elsewhere(jolt):
    """Twelve frames of which the last three seem to grow, from 30 px of blur.

    Args:
        jolt: px across, by which frame 4 is moved, as its pairs tell exactly.
    """
    keys = [*zip(range(11), range(1, 12)), *skipping(range(12))]
    pairs = {}
    for a, b in keys:
        blurred_much = b > 8
        shift = b - a + jolt * (a < 4 <= b)
        grow = -0.5 * (b - a) + 1.2 * blurred_much * (b - max(a, 8))
        pairs[a, b] = pair(shift, grow, 30.0 * blurred_much)
    start = [np.eye(3) for _ in range(12)]
    found = {
        along: settle(pairs, start, 0, SIZE, "similarity", range(12) if along else ())
        for along in (False, True)
    }
    shifts, grows = (
        {a: [parameters_of(m, SIZE, "similarity")[k] for m in ms] for a, ms in found.items()}
        for k in (0, 2)
    )
    expected = [k + jolt * (k >= 4) for k in range(12)]
    np.testing.assert_allclose(shifts[True], expected, atol=0.3)
    np.testing.assert_allclose(grows[True][:9], -0.5 * np.arange(9), atol=0.2)
    assert abs(grows[True][11] + 5.5) < 0.6 * abs(grows[False][11] + 5.5)


def test_the_frame_that_most_pairs_contradict_is_found():
    transforms = [pair(2.0 * k).transform for k in range(5)]
    pairs = {key: pair(2.0 * (key[1] - key[0])) for key in [*zip(range(4), range(1, 5))]}
    pairs |= {key: pair(2.0 * (key[1] - key[0])) for key in skipping(range(5))}
    assert contradicted(pairs, transforms, 2, SIZE) is None
    for key in pairs:
        if 3 in key and key != (2, 3):
            pairs[key].transform[0, 2] += 20 if key[1] == 3 else 40
    assert contradicted(pairs, transforms, 2, SIZE) == 3
