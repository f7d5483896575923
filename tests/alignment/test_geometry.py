"""alignment/geometry.py and resampling.py: what frames cover, and how they are resampled."""

import numpy as np
import pytest
from moving import HEIGHT, MOTIONS, WIDTH, motion, scene, shifted, view

from stackmff.alignment import resampling
from stackmff.alignment.geometry import Alignment, common_area, coverage, covered, ends
from stackmff.errors import StackError
from stackmff.images.rectangles import Box


def test_large_frames_are_resampled_in_parts(monkeypatch):
    picture = view(scene(12))
    matrix = motion((3.3, -2.1), 1.02, 7)
    whole, parts = picture.copy(), picture.copy()
    alignment = Alignment(0, (HEIGHT, WIDTH), [matrix], np.ones((1, 3)))
    resampling.resample(whole, alignment, 0)
    monkeypatch.setattr(resampling, "TILE", 40)
    resampling.resample(parts, alignment, 0)
    assert np.abs(whole.astype(int) - parts).max() <= 2  # places are rounded to 1/32 px
    assert (whole != picture).any()


def test_what_a_frame_covers():
    alignment = shifted((0, 0), (-5, 3))
    assert covered(alignment, 0, Box(0, 40, 0, 60)) is None
    assert covered(alignment, 1, Box(0, 37, 5, 60)) is None
    mask = covered(alignment, 1, Box(10, 40, 2, 60))
    expected = np.zeros((40, 60), bool)
    expected[:37, 5:] = True
    np.testing.assert_array_equal(mask, expected[10:, 2:])


def test_by_how_much_frames_end_within_the_reference():
    alignment = shifted((0, 0), (-5, 3), (0, 0.01))
    np.testing.assert_allclose(ends(alignment, 1), [5, 0, 0, 3])
    assert not ends(alignment, 0).any() and not ends(alignment, 2).any()


def test_a_frame_fades_out_where_it_ends_and_only_there():
    alignment = shifted((0, 0), (-5, 1.5), (0.8, 0), size=(80, 90))
    assert coverage(alignment, 0, Box(0, 80, 0, 90)) is None
    share = coverage(alignment, 1, Box(0, 80, 0, 90))
    np.testing.assert_array_equal(share > 0, covered(alignment, 1, Box(0, 80, 0, 90)))
    assert (share[:70, 21:] == 1).all() and (np.diff(share[40]) >= 0).all()  # 16 px from px 5 on
    assert (share[71:, 50] < 1).all()  # 8 px: it lacks but 1.5 px
    assert coverage(alignment, 1, Box(0, 70, 21, 90)) is None
    part = coverage(alignment, 1, Box(10, 60, 3, 30))
    np.testing.assert_allclose(part, share[10:60, 3:30])
    hardly = coverage(alignment, 2, Box(0, 80, 0, 90))  # no step can be seen
    assert set(np.unique(hardly)) == {0, 1}


def test_the_area_that_all_frames_cover():
    assert common_area(shifted((0, 0))) == (0, 40, 0, 60)
    assert common_area(shifted((0, 0), (-5, 3), (2.5, -1))) == (1, 37, 5, 57)
    with pytest.raises(StackError, match="no area in common"):
        common_area(shifted((0, 0), (50, 0), (-50, 0)))


def test_frames_change_places_with_how_they_lie():
    alignment = shifted((0, 0), (-5, 3), (2.5, -1))
    alignment.left_out, alignment.fields = {1: "is black"}, {2: np.ones((2, 2, 2), np.float32)}
    alignment.gains[2] = 3
    other = alignment.reordered(np.array([2, 0, 1]))
    assert other.reference == 1 and other.left_out == {2: "is black"} and set(other.fields) == {0}
    assert other.gains[:, 0].tolist() == [3, 1, 1]
    for new, old in enumerate((2, 0, 1)):
        np.testing.assert_array_equal(other.transforms[new], alignment.transforms[old])


def test_the_common_area_of_turned_frames_is_covered_and_large():
    alignment = Alignment(1, (HEIGHT, WIDTH), [m.copy() for m in MOTIONS], np.ones((5, 3)))
    alignment.transforms[0] = motion((2, 0), 1, 12)
    area = common_area(alignment)
    assert all(covered(alignment, k, area) is None for k in range(5))
    masks = [covered(alignment, k, Box(0, HEIGHT, 0, WIDTH)) for k in range(5)]
    everywhere = np.logical_and.reduce([mask for mask in masks if mask is not None])
    sums = np.pad(everywhere.astype(int), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    best = 0
    for y in range(0, HEIGHT, 2):
        for x in range(0, WIDTH, 2):
            rows, columns = np.mgrid[y + 1 : HEIGHT + 1, x + 1 : WIDTH + 1]
            inside = (
                sums[y + 1 :, x + 1 :] - sums[y, x + 1 :] - sums[y + 1 :, x : x + 1] + sums[y, x]
            )
            areas = (rows - y) * (columns - x)
            best = max(best, areas[inside == areas].max(initial=0))
    assert area.area >= 0.95 * best


@pytest.mark.parametrize("size", [(4000, 6000), (375, 500), (9, 20000)])
def test_the_common_area_of_frames_of_any_size(size):
    ones = np.ones((3, 3))
    still = Alignment(1, size, [np.eye(2, 3)] * 3, ones)
    assert common_area(still) == (0, size[0], 0, size[1])
    moved = Alignment(1, size, [np.float64([[1, 0, dx], [0, 1, 0]]) for dx in (-7, 0, 4)], ones)
    assert common_area(moved) == (0, size[0], 7, size[1] - 4)
