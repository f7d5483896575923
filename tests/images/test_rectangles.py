"""images/rectangles.py: what a Box covers, shares, and is made from."""

import json

import numpy as np
import pytest

from stackmff.images.rectangles import Box

SIZE = (40, 60)
PICTURE = np.arange(40 * 60 * 3).reshape(*SIZE, 3)


def test_a_box_is_four_numbers():
    """So that records have the list of them."""
    box = Box(3, 17, 20, 41)
    assert json.dumps(box) == "[3, 17, 20, 41]"
    assert (box.corner, box.size, box.area) == ((3, 20), (14, 21), 14 * 21)


def test_a_box_cuts_a_picture():
    part = Box(3, 17, 20, 41).cut(PICTURE)
    assert np.array_equal(part, PICTURE[3:17, 20:41])
    assert part.flags.c_contiguous
    assert np.array_equal(Box.whole(PICTURE.shape).cut(PICTURE), PICTURE)
    assert np.array_equal(PICTURE[Box.at(7, 9).slices], PICTURE[7:8, 9:10])
    assert Box.at(7, 9, (4, 5)) == (7, 11, 9, 14)


def test_boxes_share_pixels_or_none():
    box = Box(3, 17, 20, 41)
    assert box.common(Box(10, 99, 0, 30)) == (10, 17, 20, 30)
    for other in (Box(17, 20, 20, 41), Box(30, 40, 50, 60), Box(0, 2, 0, 3)):
        assert box.common(other).area == other.common(box).area == 0


def test_a_box_grows_as_far_as_there_is_a_picture():
    assert Box(3, 17, 20, 41).grown(5, SIZE) == (0, 22, 15, 46)
    assert Box(3, 17, 20, 41).grown(99, SIZE) == Box.whole(SIZE)


def test_a_box_is_moved_and_scaled():
    assert Box(3, 17, 20, 41).moved(-3, 4) == (0, 14, 24, 45)
    assert Box(3, 17, 20, 41).scaled(8) == (24, 136, 160, 328)


def test_the_box_around_a_mask_holds_all_of_it():
    mask = np.zeros(SIZE, bool)
    mask[5, 30] = mask[12, 8] = True
    assert Box.around(mask) == (5, 13, 8, 31)
    assert json.dumps(Box.around(mask)) == "[5, 13, 8, 31]"  # no numbers of NumPy


@pytest.mark.parametrize("sides", [(7, 5), (14, None), (100, 100)])
def test_parts_of_a_box_cover_each_pixel_once(sides):
    box, count = Box(3, 17, 20, 41), np.zeros(SIZE, int)
    for part in box.parts(*sides):
        assert 0 < part.size[0] <= sides[0]
        assert 0 < part.size[1] <= (sides[1] or 21)
        count[part.slices] += 1
    assert (box.cut(count) == 1).all()
    assert count.sum() == box.area
    assert not list(Box(5, 5, 9, 9).parts(*sides))
