"""display/relief.py: near is high, noise is not, and every picture can be drawn."""

import cv2
import numpy as np
import pytest
from drawn import texture

from stackmff.display import relief

GREEN = (20, 160, 20)


def field(height=120, width=160):
    """(focus map, picture of one colour, sure): flat, all in the middle frame."""
    focus_map = np.full((height, width), 32768, np.uint16)
    picture = np.full((height, width, 3), GREEN, np.uint8)
    return focus_map, picture, np.ones((height, width), np.float32)


def with_hill(focus, height=120, width=160):
    """As `field`, with a round hill in the middle, whose top is in frame `focus` of 0 to 1."""
    focus_map, picture, sure = field(height, width)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    hill = np.exp(-4 * (x * x + y * y))
    focus_map = np.uint16(np.round(32768 + (focus * 65535 - 32768) * hill))
    picture[55:65, 75:85] = (255, 0, 0)
    return focus_map, picture, sure


def line_of_red(view):
    """Mean line of the red mark, share of the height of the drawn block from its lower edge."""
    red = (view[..., 0] > 2 * view[..., 1].astype(int) + 40).nonzero()[0]
    drawn = (np.abs(view.astype(int) - relief.PAPER).sum(2) > 60).any(1).nonzero()[0]
    return (drawn[-1] - red.mean()) / view.shape[1]


def test_what_is_near_is_high():
    first, last = with_hill(0), with_hill(1)
    high = line_of_red(relief.relief(*first, first_is_near=True))
    low = line_of_red(relief.relief(*last, first_is_near=True))
    assert high > low + 0.05
    assert line_of_red(relief.relief(*last, first_is_near=False)) == pytest.approx(high, abs=0.01)


def test_a_guess_takes_the_middle_and_what_is_below_for_near():
    focus_map, _, sure = with_hill(0)
    focus = focus_map / np.float32(65535)
    assert relief.guess_first_is_near(focus, sure)
    assert not relief.guess_first_is_near(1 - focus, sure)
    down = np.tile(np.linspace(0, 1, 120, dtype=np.float32)[:, None], (1, 160))
    assert not relief.guess_first_is_near(down, sure)
    assert relief.guess_first_is_near(1 - down, sure)


def test_places_between_those_that_are_sure_lie_between_them():
    plane = np.tile(np.linspace(0, 1, 160, dtype=np.float32), (120, 1))
    sure = np.zeros((120, 160), np.float32)
    sure[:, ::4] = sure[::4] = 1
    noise = np.random.default_rng(0).random((120, 160)).astype(np.float32)
    heights = relief.heights_of(np.where(sure > 0, plane, noise), sure, texture(120, 160, 0))
    inner = np.s_[10:-10, 20:-20]
    np.testing.assert_allclose(heights[inner], plane[inner], atol=0.06)


def test_what_no_frame_shows_sharp_goes_on_as_its_sure_neighbours():
    noise = np.random.default_rng(0).random((120, 160)).astype(np.float32)
    slope = np.tile(np.linspace(0, 1, 80, dtype=np.float32), (120, 1))
    near, sure = noise.copy(), np.zeros((120, 160), np.float32)
    near[:, :80], sure[:, :80] = slope, 1
    heights = relief.heights_of(near, sure, field()[1])
    assert heights[20:-20, 82:95].min() > 0.7
    assert heights[20:-20, 95:].min() > 0.45  # the mean of the sure pixels, not the ground
    assert np.abs(np.diff(heights[:, 70:], axis=1)).max() < 0.1  # and no wall


def test_borders_are_no_walls():
    near = np.full((120, 160), 0.3, np.float32)
    near[30:90, 40:120] = 0.8
    plain = relief.heights_of(near, np.ones_like(near), field()[1])
    for sides in (np.s_[:1], np.s_[-1:], np.s_[:, :1], np.s_[:, -1:]):
        near[sides] = 1  # as where frames end
    heights = relief.heights_of(near, np.ones_like(near), field()[1])
    np.testing.assert_allclose(heights[:, :15], plain[:, :15], atol=0.06)
    np.testing.assert_allclose(heights[:15], plain[:15], atol=0.06)


def test_grain_of_a_flat_field_stays_low():
    noise = np.random.default_rng(0).normal(0.5, 0.05, (120, 160)).astype(np.float32)
    heights = relief.heights_of(noise, np.ones_like(noise), field()[1])
    assert heights.std() < 0.08


def test_a_flat_field_is_lit_as_the_picture_is():
    view = relief.relief(*field())
    middle = view[view.shape[0] // 2, view.shape[1] // 2]
    np.testing.assert_allclose(middle, GREEN, atol=3)
    assert (view[0] == relief.PAPER).all() and (view[-1] == relief.PAPER).all()
    assert (view[:, 0] == relief.PAPER).all() and (view[:, -1] == relief.PAPER).all()


def test_slopes_to_the_light_are_brighter():
    x = np.tile(np.arange(60, dtype=np.float32) / 60, (60, 1))
    towards, away = (relief._shade(slope) for slope in (x, -x))  # light from the left
    assert towards.mean() > 1.05 and away.mean() < 0.95
    np.testing.assert_allclose(relief._shade(np.zeros((9, 9), np.float32)), 1, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (2, 2), (3, 400), (300, 5), (64, 48)])
@pytest.mark.parametrize("channels, dtype", [(1, np.uint16), (4, np.uint8)])
def test_every_picture_can_be_drawn(shape, channels, dtype):
    picture = cv2.resize(texture(16, 16, 0), shape[::-1])[..., [0, 1, 2, 0][:channels]]
    focus_map = np.full(shape, 9, np.uint16)
    view = relief.relief(focus_map, picture.astype(dtype), 1)
    assert view.dtype == np.uint8 and view.shape[2] == 3


def test_views_are_small():
    picture = texture(300, 200, 0)
    view = relief.relief(np.zeros((300, 200), np.uint16), picture, 1, side=100)
    assert 600 < view.shape[1] < 800  # small ones are drawn larger


def test_a_relief_that_rocks_keeps_its_frame():
    focus_map, picture, sure = with_hill(0)
    texture, heights = relief.surface(focus_map, picture, sure, True, 160)
    views = relief.rocking(texture, heights, 3, 12)
    assert len({view.shape for view in views}) == 1
    assert (views[0] != views[1]).any() and (views[1] != views[2]).any()
    (still,) = relief.rocking(texture, heights, 1, 0)
    assert np.array_equal(still, relief.relief(focus_map, picture, sure, True, 160))
