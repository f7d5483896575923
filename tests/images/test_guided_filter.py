"""images/guided_filter.py: closed forms, weights, flat guides, borders."""

import cv2
import numpy as np
import pytest

from stackmff.images.guided_filter import guide_lines, guided_filter


def noise(seed, shape=(40, 44)):
    return np.random.default_rng(seed).random(shape, np.float32)


def test_a_constant_stays():
    guide = noise(0)
    np.testing.assert_allclose(
        guided_filter(guide, np.full_like(guide, 0.3), 3, 1e-3), 0.3, atol=1e-5
    )


@pytest.mark.parametrize("border", [cv2.BORDER_REFLECT, cv2.BORDER_REFLECT_101])
def test_a_flat_guide_gives_two_box_filters(border):
    source = noise(2)
    flat = guided_filter(np.full_like(source, 0.3), source, 3, 1e-3, border)
    once = cv2.blur(source, (7, 7), borderType=border)
    twice = cv2.blur(once, (7, 7), borderType=border)
    np.testing.assert_allclose(flat, twice, atol=1e-5)


def test_a_plane_guides_itself_where_its_variance_is_large():
    source = noise(2)
    np.testing.assert_allclose(guided_filter(source, source, 3, 1e-7), source, atol=1e-3)


def test_a_line_of_the_guide_is_found():
    guide = noise(3)
    slope, offset = guide_lines(guide, 0.5 * guide + np.float32(0.2), 4, 1e-9)
    np.testing.assert_allclose(slope, 0.5, atol=1e-4)
    np.testing.assert_allclose(offset, 0.2, atol=1e-4)


def test_rounding_in_a_flat_guide_does_no_harm():
    """The variance of a nearly constant guide may come out below -epsilon."""
    guide = np.float32(0.7) + np.float32(1e-7) * noise(4)
    smooth = guided_filter(guide, noise(5), 10, 1e-9)
    assert np.isfinite(smooth).all() and smooth.min() > -0.1 and smooth.max() < 1.1


def test_equal_weights_are_none_and_small_ones_count_little():
    guide, values = noise(6), noise(7)
    plain = np.array(guide_lines(guide, values, 3, 1e-3))
    equal = np.array(guide_lines(guide, values, 3, 1e-3, np.full_like(guide, 0.25)))
    np.testing.assert_allclose(equal, plain, atol=1e-5)
    weights = np.ones_like(guide)
    weights[10:20, 10:20] = 1e-6
    spoiled = values.copy()
    spoiled[10:20, 10:20] = 9
    lines = [np.array(guide_lines(guide, v, 3, 1e-3, weights)) for v in (values, spoiled)]
    # A window wholly inside the spoiled place, which has 10 px, has nothing else to go by.
    np.testing.assert_allclose(lines[0][:, :5], lines[1][:, :5], atol=1e-5)
    np.testing.assert_allclose(lines[0][:, 25:], lines[1][:, 25:], atol=1e-5)
    outside = np.s_[:, 20:24, 10:20]
    assert np.abs(lines[0][outside] - lines[1][outside]).max() < 1
