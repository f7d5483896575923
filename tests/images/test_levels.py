"""images/levels.py: which stacks are dim, and what measures, weighs and shows them stretched."""

import numpy as np
import pytest
from drawn import draw_stack, texture
from moving import MOTIONS, errors, moving_frames
from stand_ins import Engine, brightest

import stackmff
from stackmff.alignment.focus_order import focus_order
from stackmff.alignment.measure import measure
from stackmff.display.drawing import reduced
from stackmff.display.previews import sharpest_frame
from stackmff.fusion.blending import Mixture
from stackmff.fusion.fuse import frame_weights, fuse_stack, origin_at
from stackmff.images.colour import luma
from stackmff.images.levels import Levels, levels_of, told_levels, weighing_levels


def dim(frames, share, pedestal=0):
    """8-bit frames in a small part of the range of 16 bits."""
    return np.uint16(np.rint(frames * (share * 65535 / 255) + pedestal))


def contrasty(height, width, seed):
    """A texture that uses the whole range."""
    return np.uint8(np.clip(2.5 * texture(height, width, seed) - 192, 0, 255))


@pytest.fixture(scope="module")
def frames():
    """Five frames of a drawn scene, in colour."""
    return np.stack(draw_stack(contrasty(96, 160, 3), 5))


def test_the_ends_of_a_dim_stack_are_found(frames):
    levels = levels_of(dim(frames, 1 / 64, 100))
    low, high = np.array([levels.low, levels.high]) * 65535
    assert 100 <= low < 300 and 800 < high <= 100 + 1024
    full = np.linspace(0, 1, 5, dtype=np.float32)
    ends = np.float32([levels.low, levels.high])
    np.testing.assert_allclose(levels.stretched(ends), [0, 1], atol=1e-4)
    np.testing.assert_allclose(levels.restored(levels.stretched(full / 64)), full / 64, atol=1e-6)


def test_what_uses_its_range_or_has_no_detail_is_not_dim(frames):
    assert levels_of(frames) is None and levels_of(dim(frames, 1)) is None
    assert levels_of(dim(frames, 1 / 4)) is None and told_levels(frames) == []
    assert levels_of(np.zeros_like(frames)) is None
    rng = np.random.default_rng(0)
    assert levels_of(rng.integers(0, 12, (3, 64, 64, 1), np.uint8)) is None  # nothing but noise


def test_one_odd_frame_and_single_pixels_do_not_count(frames):
    faint = dim(frames, 1 / 64)
    before = levels_of(faint)
    faint[2] *= 60  # a flash
    faint[:, 5, 5] = 65535  # a hot pixel
    after = levels_of(faint)
    assert after is not None and after.high == pytest.approx(before.high, rel=0.2)


@pytest.mark.parametrize(
    ("share", "pedestal"), [(1 / 16, 0), (1 / 64, 0), (1 / 257, 0), (1 / 70, 100)]
)
def test_a_dim_stack_is_aligned_as_a_bright_one(share, pedestal):
    moving = moving_frames()
    alignment = measure(dim(moving, share, pedestal))
    assert max(errors(alignment, MOTIONS)) < max(errors(measure(moving), MOTIONS)) + 0.03


def test_the_network_sees_a_dim_stack_stretched(frames):
    faint = dim(frames, 1 / 64, 200)
    seen = []

    def look(tiles):
        seen.append(tiles)
        return brightest(tiles)

    fused = fuse_stack(faint, Engine(look), Mixture(maps=False))
    low, high = np.percentile(seen[0], (0.1, 99.9))
    assert -0.3 < low < 0.1 and 0.9 < high < 1.3
    assert faint.min() <= fused.picture.min() and fused.picture.max() <= faint.max()
    weights = frame_weights(faint, Engine(brightest))
    np.testing.assert_allclose(
        origin_at(faint, Engine(brightest), 80, 50).shares, weights[:, 50, 80], atol=1e-5
    )
    # A network that gives a luma gives it in the levels of the frames.
    fused = fuse_stack(faint, Engine(lambda tiles: tiles.max(1, keepdims=True), "luma"))
    brightest_luma = np.rint(65535 * luma(faint).max(0))
    np.testing.assert_allclose(65535 * luma(fused.picture), brightest_luma, atol=3)


@pytest.mark.parametrize(("share", "base"), [(1 / 3, 0), (0.4, 20000), (0.2, 45000)])
def test_a_dark_or_pale_stack_is_weighed_as_one_of_the_whole_range(frames, share, base):
    changed = dim(frames, share, base)
    assert levels_of(changed) is None  # nothing else sees it stretched
    lumas = luma(changed)
    levels = weighing_levels(changed)
    assert levels is not None
    assert (levels.low, levels.high) == pytest.approx((lumas.min(), lumas.max()), abs=1e-6)
    seen = []

    def look(tiles):
        seen.append(tiles)
        return brightest(tiles)

    fuse_stack(changed, Engine(look), Mixture(maps=False))
    assert seen[0].min() == pytest.approx(0, abs=1e-4)
    assert seen[0].max() == pytest.approx(1, abs=1e-4)


def test_lights_in_a_dark_stack_are_seen_as_lights(frames):
    dark = dim(frames, 1 / 3)
    dark[1, 40:43, 60:63] = 60000
    assert weighing_levels(frames) is None and weighing_levels(dark) is None


def test_the_order_of_a_dim_stack_is_found():
    frames = np.stack(draw_stack(contrasty(128, 256, 0), 6))[[0, 3, 1, 4, 2, 5]]
    expected = focus_order(frames)
    assert expected is not None
    np.testing.assert_array_equal(focus_order(dim(frames, 1 / 257)), expected)


def test_what_is_shown_is_stretched(frames):
    faint = dim(frames, 1 / 200, 150)
    levels = levels_of(faint)
    assert reduced(faint[0], 100).max() < 8
    shown = reduced(faint[0], 1000, levels=levels).astype(int)
    assert shown.max() > 220 and shown.min() < 20
    alpha = np.dstack([faint[0], np.full(faint.shape[1:3], 65535, np.uint16)])
    np.testing.assert_array_equal(levels.shown(alpha)[..., 3], 65535)
    sharp = np.stack([faint[0] // 4 * 4, *faint[1:]])
    assert sharpest_frame(sharp, levels=levels) == sharpest_frame(frames)


def test_it_is_told_once_and_the_values_stay(frames):
    faint = dim(frames, 1 / 64)
    result = stackmff.fuse(faint)
    assert sum("were stretched" in note for note in result.notes) == 1
    assert "of 65535" in result.notes[0] and result.picture.max() <= 1.05 * faint.max()
    bright = stackmff.fuse(dim(frames, 1)).picture
    error = np.abs(result.picture * 64.0 - bright)
    assert np.percentile(error, 95) < 0.03 * 65535
    assert sum("were stretched" in note for note in stackmff.align(faint).notes) == 1


def test_levels_of_eight_bits():
    frames = np.uint8(np.stack(draw_stack(contrasty(96, 160, 3), 3)) // 10)
    levels = levels_of(frames)
    assert isinstance(levels, Levels) and "of 255" in told_levels(frames)[0]
    assert levels.shown(frames[0]).dtype == np.uint16 and levels.shown(frames[0]).max() > 60000
