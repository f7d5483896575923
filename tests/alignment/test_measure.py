"""alignment/measure.py: known motions are found, still frames left alone, bad ones named."""

import numpy as np
import pytest
from moving import HEIGHT, MOTIONS, WIDTH, defocused, errors, motion, moving_frames, scene, view

from stackmff.alignment import linking, registration
from stackmff.alignment import placement as placement_module
from stackmff.alignment.measure import Measuring, apply, measure
from stackmff.alignment.registration import farthest
from stackmff.errors import StackError


@pytest.fixture(scope="module")
def moving():
    return moving_frames()


def test_known_motion_is_found_within_hundredths_of_a_pixel(moving):
    alignment = measure(moving)
    assert alignment.reference == 2 and alignment.moved == [True, True, False, True, True]
    assert max(errors(alignment, MOTIONS)) < 0.06 and alignment.left_out == {}


def test_affine_motion_is_found():
    picture = scene(1)
    sheared = motion() + np.array([[0, 0.01, -0.5], [0, 0, 0]])
    frames = np.stack([view(picture), view(picture, sheared)])
    assert errors(measure(frames, 0, Measuring("affine")), [motion(), sheared])[1] < 0.05
    assert errors(measure(frames, 0), [motion(), sheared])[1] > 0.2  # no similarity is that


def test_aligned_frames_lie_on_the_reference():
    picture = scene(2)
    frames = np.stack([view(picture, matrix) for matrix in MOTIONS])
    before = np.abs(frames.astype(float) - frames[2])[:, 8:-8, 8:-8].mean((1, 2, 3))
    assert apply(frames, measure(frames)) == [0, 1, 2, 3, 4]
    after = np.abs(frames.astype(float) - frames[2])[:, 8:-8, 8:-8].mean((1, 2, 3))
    assert after.max() < 1 and before[[0, 4]].min() > 5


@pytest.mark.parametrize("kind", ["grey", "grey with alpha", "16 bits", "colour with alpha"])
def test_every_kind_of_frame_is_aligned(moving, kind):
    frames = moving
    if kind == "16 bits":
        frames = frames.astype(np.uint16) * 257
    elif kind != "colour with alpha":
        frames = frames[..., 1:2]
    if "alpha" in kind:
        frames = np.concatenate([frames, np.full_like(frames[..., :1], 200)], 3)
    frames = frames.copy()
    alignment = measure(frames)
    assert max(errors(alignment, MOTIONS)) < 0.1
    alignment.gains[0] = 0.5
    before = frames.copy()
    apply(frames, alignment)
    assert frames.dtype == before.dtype and frames.shape == before.shape
    inside = (slice(8, -8), slice(8, -8))
    colours = 1 if frames.shape[3] < 3 else 3
    mean = frames[0][inside][..., :colours].mean() / frames[2][inside][..., :colours].mean()
    assert mean == pytest.approx(0.5, rel=0.03)
    if "alpha" in kind:
        assert (frames[..., -1] == 200).all()


def test_what_is_still_is_left_bit_for_bit():
    picture = scene(3)
    rng = np.random.default_rng(0)
    clean = np.stack([view(defocused(picture, k / 5)) for k in range(6)])
    noisy = np.uint8(np.clip(np.rint(clean + rng.normal(0, 6, clean.shape)), 0, 255))
    for frames in (clean, noisy):
        alignment = measure(frames)
        assert not any(alignment.moved) and (alignment.gains == 1).all()
        before = frames.copy()
        apply(frames, alignment)
        np.testing.assert_array_equal(frames, before)


def test_what_is_still_is_compared_at_half_the_size_alone(monkeypatch):
    picture = scene(3)
    compared = []
    finely = registration.register_finely
    monkeypatch.setattr(
        placement_module, "register_finely", lambda *given: compared.append(1) or finely(*given)
    )
    still = np.stack([view(defocused(picture, k / 5)) for k in range(6)])
    assert not any(measure(still).moved) and compared == []
    assert not any(measure(still, wanted=Measuring(thorough=True)).moved) and len(compared) == 5
    matrices = [motion((0.2 * k, 0)) for k in range(6)]
    moving = np.stack([view(defocused(picture, k / 5), m) for k, m in enumerate(matrices)])
    assert max(errors(measure(moving), matrices)) < 0.06 and len(compared) == 10


def test_frames_of_one_level_are_compared():
    motions = [motion((0.5 * k, 0)) for k in range(3)]
    picture = scene(3, 60, 90)
    frames = np.stack([view(picture, m, size=(60, 90)) for m in motions])
    assert max(errors(measure(frames), motions)) < 0.1


def test_a_frame_among_still_ones_moves_alone():
    picture = scene(4)
    frames = np.stack([view(picture, motion((0.5, 0) if k == 3 else (0, 0))) for k in range(5)])
    before = frames.copy()
    alignment = measure(frames)
    assert alignment.moved == [False, False, False, True, False]
    apply(frames, alignment)
    np.testing.assert_array_equal(frames[[0, 1, 2, 4]], before[[0, 1, 2, 4]])
    assert (frames[3] != before[3]).any()


def linear_gain(frame, gain):
    """A frame in another exposure, as a camera has it; `gain` of linear light, 1 or 3 values."""
    light = ((frame / 255 + 0.055) / 1.055) ** 2.4 * gain
    return np.uint8(np.rint(np.clip(255 * (1.055 * light ** (1 / 2.4) - 0.055), 0, 255)))


def test_exposure_and_white_balance_are_matched(moving):
    frames = moving.copy()
    frames[0] = linear_gain(frames[0], 0.8)
    frames[4] = linear_gain(frames[4], [1.1, 1, 0.9])
    alignment = measure(frames)
    assert (alignment.gains[1:4] == 1).all()
    np.testing.assert_allclose(alignment.gains[0], 0.8 ** (-1 / 2.4), rtol=0.015)
    np.testing.assert_allclose(
        alignment.gains[4], np.array([1.1, 1, 0.9]) ** (-1 / 2.4), rtol=0.015
    )
    apply(frames, alignment)
    inside = (slice(None), slice(12, -12), slice(12, -12))
    means = frames[inside].mean((1, 2))
    np.testing.assert_allclose(means, np.broadcast_to(means[2], means.shape), rtol=0.02)
    assert (measure(frames, wanted=Measuring(match_exposure=False)).gains == 1).all()


@pytest.mark.slow
def test_two_hundred_frames_do_not_drift(monkeypatch):
    picture = scene(5)
    rng = np.random.default_rng(5)
    walk = np.cumsum(rng.normal(0, 0.15, (200, 2)), 0)
    motions = [motion(shift, 1 + 0.00015 * (k - 100)) for k, shift in enumerate(walk)]
    frames = np.stack([view(defocused(picture, k / 199), m) for k, m in enumerate(motions)])
    found = errors(measure(frames, wanted=Measuring(match_exposure=False)), motions)
    assert max(found) < 0.06
    monkeypatch.setattr(linking, "LOOPS", ())
    monkeypatch.setattr(linking, "DIRECT", (1000, 1))
    assert max(
        errors(measure(frames, wanted=Measuring(match_exposure=False)), motions)
    ) > 1.3 * max(found)


def test_frames_far_from_one_another_are_found():
    picture = scene(6)
    motions = [motion((22, -12), 1.02, 9), motion(), motion((-18, 10), 0.97, -12)]
    alignment = measure(np.stack([view(picture, matrix) for matrix in motions]))
    assert max(errors(alignment, motions)) < 0.1


def test_a_frame_that_lies_on_its_side_is_turned():
    square = view(scene(7, 96, 96), size=(96, 96))
    turned = np.stack([square, np.rot90(square).copy(), square])
    alignment = measure(turned, 0)
    assert apply(turned, alignment) == [0, 1, 2]
    assert np.abs(turned[1].astype(int) - square).mean() < 1


def test_frames_of_another_scene_are_left_out():
    first, second = scene(8), scene(9)
    shifts = [motion((k, 0)) for k in range(5)]
    frames = np.stack(
        [view(second if k in (2, 4) else first, matrix) for k, matrix in enumerate(shifts)]
    )
    alignment = measure(frames)  # the middle is of the scene that fewer frames show
    assert alignment.reference == 1 and sorted(alignment.left_out) == [2, 4]
    assert "another scene" in alignment.left_out[2] and alignment.transforms[2] is None
    assert apply(frames, alignment) == alignment.kept == [0, 1, 3]
    alignment = measure(frames, reference=4)
    assert alignment.reference == 4 and sorted(alignment.left_out) == [0, 1, 3]


def test_black_frames_are_left_out(moving):
    frames = np.concatenate([moving[:2], np.zeros_like(moving[:1]), moving[2:4]])
    alignment = measure(frames)
    assert alignment.left_out == {2: "shows no detail"} and alignment.reference in (1, 3)
    with pytest.raises(StackError, match=r"frame c\.png, the reference, shows no detail"):
        measure(frames, 2, names=["a.png", "b.png", "c.png", "d.png", "e.png"])


def test_a_copy_lies_where_its_twin_lies(moving):
    alignment = measure(moving[[0, 1, 1, 1, 4]])
    assert alignment.moved == [True, False, False, False, True]


def test_the_order_does_not_matter(moving):
    order = [4, 0, 2, 1, 3]
    alignment = measure(moving[order])
    assert max(errors(alignment, [MOTIONS[k] for k in order])) < 0.1


def test_frames_without_detail_stay():
    rng = np.random.default_rng(1)
    plain = np.uint8(np.rint(np.full((3, 64, 64, 3), 90) + rng.normal(0, 4, (3, 64, 64, 3))))
    for frames in (plain, np.zeros_like(plain), plain[:, :5, :7], plain[:, :1, :1]):
        alignment = measure(frames)
        assert not any(alignment.moved) and alignment.kept == [0, 1, 2]
        assert (alignment.gains == 1).all()


def test_what_cannot_be_aligned_is_an_error():
    frames = np.stack([view(scene(10)), view(scene(11))])
    with pytest.raises(StackError, match=r"no other frame fits b\.png, the reference"):
        measure(frames, names=["a.png", "b.png"])
    with pytest.raises(StackError, match="there is no frame 2 to be the reference: give 0 to 1"):
        measure(frames, reference=2)


def test_progress_reaches_its_end(moving):
    said = []
    alignment = measure(moving, progress=lambda done, total: said.append((done, total)))
    assert said[-1][0] == said[-1][1] and [done for done, _ in said] == [*range(1, len(said) + 1)]
    said.clear()
    apply(moving.copy(), alignment, lambda done, total: said.append((done, total)))
    assert said == [(k, 5) for k in range(1, 6)]


def test_frames_that_are_little_alike_must_move_farther_to_count_as_moving():
    size = (HEIGHT, WIDTH)
    moves = {}
    for likeness in (0.99, 0.85):
        pair = registration.Pair(np.eye(3), np.zeros((4, 4)), likeness, 100, 1)
        pair.transform[0, 2] = 0.6
        _, (matrix, variance, doubt) = linking.chain_of({(0, 1): pair}, 0, 2)
        limit = placement_module.SURE * np.sqrt(variance + doubt)
        moves[likeness] = farthest(matrix, size) > max(limit, placement_module.STILL)
    assert moves == {0.99: True, 0.85: False}
