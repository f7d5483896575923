"""Accumulation over the aperture: known answers of one surface, of a point, and of two edges."""

import numpy as np
import pytest
import torch

from stackmff.synthesis.aperture import Plane, Sheet, openings, render
from stackmff.synthesis.refocus import blur_levels
from stackmff.synthesis.square_blur import box_blur, box_kernel

MARGIN = 12  # px


def grain(seed, height=80, width=96):
    """A smooth colour texture in linear light, (height, width, 3) float32."""
    noise = np.random.default_rng(seed).random((height, width, 3)).astype(np.float32)
    kernel = np.array([1, 4, 6, 4, 1], np.float32) / 16
    for axis in (0, 1):
        noise = np.apply_along_axis(np.convolve, axis, noise, kernel, "same").astype(np.float32)
    return noise


def whole(colour, disparity):
    return Sheet(colour, np.ones(colour.shape[:2], np.float32), disparity)


def test_a_plane_in_focus_is_the_texture():
    colour = grain(1)
    frames, answer = render([whole(colour, Plane(0.25))], [0.25, 0.75], 16, MARGIN)
    np.testing.assert_array_equal(answer, colour[MARGIN:-MARGIN, MARGIN:-MARGIN])
    np.testing.assert_allclose(frames[0], answer, atol=1e-6)
    assert np.abs(frames[1] - answer).max() > 0.05


def test_a_slanted_plane_is_the_texture_where_it_crosses_the_focal_plane():
    colour = grain(2)
    plane = Plane(0.5, right=0.004)  # the focal plane runs through the middle column
    frames, answer = render([whole(colour, plane)], [0.5], 16, MARGIN)
    middle = answer.shape[1] // 2
    error = np.abs(frames[0] - answer).mean((0, 2))
    assert error[middle - 1 : middle + 1].max() < 0.002  # blurred by 0.03 px
    assert error[0] > 5 * error[middle] and error[-1] > 5 * error[middle]


@pytest.mark.parametrize("coc", [0.5, 1.0, 3.0, 6.0, 16.0])
def test_blur_of_one_disparity_is_the_disc_of_refocus(coc):
    colour = grain(3)
    frames, _ = render([whole(colour, Plane(1.0))], [0.0], coc, MARGIN)
    planes = torch.from_numpy(colour).permute(2, 0, 1)
    disc = blur_levels(planes, [coc])[0].permute(1, 2, 0).numpy()[MARGIN:-MARGIN, MARGIN:-MARGIN]
    error = frames[0] - disc
    assert np.sqrt(np.mean(error**2)) < 0.05 * np.std(disc)


def test_light_of_a_point_is_kept():
    colour = np.zeros((101, 101, 3), np.float32)
    colour[50, 50] = 100
    frames, _ = render([whole(colour, Plane(1.0))], [0.0], 40.0, 22)
    assert frames[0][..., 0].sum() == pytest.approx(100, rel=1e-4)
    y, x = np.mgrid[-28:29, -28:29]  # a cell is 40 / 12 px wide, and blurred by 2 px
    assert frames[0][np.hypot(x, y) > 20 + 6.8].max() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("coc", [10.0, 37.0])
def test_a_light_is_a_spot_in_focus_and_an_even_disc_out_of_it(coc):
    black = np.zeros((101, 101, 3), np.float32)
    row = np.array([[50.3, 49.8, 30, 20, 10, 0.8]], np.float32)
    sheet = Sheet(black, np.ones((101, 101), np.float32), Plane(1.0), row)
    frames, answer = render([sheet], [1.0, 0.0], coc, 20)
    np.testing.assert_allclose(frames[0], answer, atol=1e-4)
    light = 2 * np.pi * 0.8**2 * np.array([30, 20, 10])
    np.testing.assert_allclose(answer.sum((0, 1)), light, rtol=1e-3)
    np.testing.assert_allclose(frames[1].sum((0, 1)), light, rtol=1e-3)
    y, x = np.mgrid[:61, :61]
    radius = np.hypot(y + 20 - 49.8, x + 20 - 50.3)
    cell = coc / 7 if coc == 10 else coc / 12
    inner = frames[1][radius < coc / 2 - 1.5 * cell - 4 * 0.8]
    even = light / (np.pi / 4 * coc**2)
    np.testing.assert_allclose(inner, np.broadcast_to(even, inner.shape), rtol=0.01)


def share_left_of(place):
    """Area of a disc of diameter 1 to the left of `place`, as a share."""
    t = np.clip(place, -0.5, 0.5)
    return 0.5 + (t * np.sqrt(0.25 - t**2) + 0.25 * np.arcsin(2 * t)) / (np.pi / 4)


def test_two_blurred_edges_hide_what_they_hide_through_each_point_of_the_aperture():
    """Closed form: a dark half plane before a bright one, the focal plane between them."""
    height, width, margin = 40, 112, 16
    bright, dark = np.zeros((2, height, width, 3), np.float32)
    edge, margin_edge = 60, margin - 0.5
    bright[:, : edge + 6] = 1
    cover = np.zeros((height, width), np.float32)
    cover[:, :edge] = 1
    sheets = [whole(bright, Plane(0.0)), Sheet(dark, cover, Plane(1.0))]
    frames, _ = render(sheets, [0.5], 32, margin)
    x = np.arange(width - 2 * margin) + margin_edge + 1
    before, behind = (x - edge) / 16, (edge + 6 - x) / 16
    exact = share_left_of(np.minimum(before, behind))
    seen = frames[0][4, :, 0]
    assert np.abs(seen - exact).max() < 0.02
    apart = share_left_of(before) * share_left_of(behind)  # each blurred on its own
    assert np.abs(apart - exact).max() > 0.08


def test_a_curved_surface_that_is_a_plane_looks_like_it():
    colour, plane = grain(4), Plane(0.5, 0.003, -0.002)
    curved = plane.over(*colour.shape[:2])
    as_plane, _ = render([whole(colour, plane)], [0.3, 0.9], 12, MARGIN)
    as_map, _ = render([whole(colour, curved)], [0.3, 0.9], 12, MARGIN)
    np.testing.assert_allclose(as_map, as_plane, atol=2e-3)


def test_a_small_sheet_is_the_same_as_one_that_is_empty_around_it():
    """Sheets are cut to what they cover; the cut must not show."""
    colour, cover = grain(5), np.zeros((80, 96), np.float32)
    cover[30:40, 50:58] = 0.7
    rear = whole(grain(6), Plane(0.0))
    small, _ = render([rear, Sheet(colour, cover, Plane(1.0))], [0.4], 16, MARGIN)
    faint = np.maximum(cover, np.float32(1e-7))  # covers everything, with nothing to be seen
    large, _ = render([rear, Sheet(colour, faint, Plane(1.0))], [0.4], 16, MARGIN)
    np.testing.assert_allclose(small, large, atol=1e-5)


@pytest.mark.parametrize("blades", [0, 5, 6])
def test_openings_share_the_light_of_an_aperture_of_one_area(blades):
    cells = openings(12, blades, 0.3)
    x, y, share = (
        np.array([getattr(cell, name) for cell in cells]) for name in ("x", "y", "share")
    )
    assert share.sum() == pytest.approx(1)
    assert abs((share * x).sum()) < 0.01 and abs((share * y).sum()) < 0.01
    # The largest share is that of a whole cell: the area of the aperture is that of the disc.
    assert share.max() == pytest.approx(1 / (np.pi / 4 * 12**2), rel=0.01)


@pytest.mark.parametrize("focus", [0.0, 1.0])
@pytest.mark.parametrize("blades", [0, 5])
def test_a_light_out_of_focus_is_an_even_disc_of_the_shape_of_the_aperture(blades, focus):
    """Its rim must not show the squares that the aperture is parted into."""
    light, diameter, rotation = np.array([[100, 100, 90, 90, 90, 0.8]], np.float32), 64, 0.4
    dark = np.zeros((201, 201, 3), np.float32)
    sheet = Sheet(dark, np.ones((201, 201), np.float32), Plane(0.5), light)
    frames, _ = render([sheet], [focus], 2 * diameter, 65, blades, rotation, most=5)
    y, x = np.mgrid[:71, :71] - 35.0
    if focus > 0.5:  # behind the focal plane the aperture is upside down
        x, y = -x, -y
    radius = 2 * np.hypot(x, y) / diameter
    if blades:  # of a polygon with the area of the disc, from its middle to the nearest side
        wedge = 2 * np.pi / blades
        angle = (np.arctan2(y, x) + rotation) % wedge - wedge / 2
        radius = radius * np.cos(angle) * np.sqrt(blades / np.pi * np.tan(np.pi / blades))
    even = 90 * 2 * np.pi * 0.8**2 / (np.pi * diameter**2 / 4)
    disc, rim = frames[0][..., 0], 5 * 2 / diameter  # five px, of which four are the spot's
    assert np.abs(disc[radius < 1 - rim] - even).max() < 0.01 * even
    assert disc[radius > 1 + rim].max() < 0.001 * even


@pytest.mark.parametrize("variance", [0.01, 0.18, 0.2, 2.0, 7.7])
def test_box_kernels_have_the_variance_that_they_were_asked_for(variance):
    kernel = box_kernel(variance).astype(np.float64)
    places = np.arange(len(kernel)) - len(kernel) // 2
    more = 0 if variance < 0.1875 else 1 / 6
    assert kernel.sum() == pytest.approx(1)
    # Sampling a square with a soft rim loses a little of its variance: less than 0.03 px^2.
    assert (kernel * places**2).sum() == pytest.approx(
        variance + more, rel=1e-5, abs=0.03 * (more > 0)
    )


def test_blur_that_differs_from_place_to_place_keeps_a_constant():
    variance = np.linspace(0, 9, 40 * 50, dtype=np.float32).reshape(40, 50)
    picture = np.full((40, 50, 4), 0.3, np.float32)
    np.testing.assert_allclose(box_blur(picture, variance), picture, rtol=1e-5)


@pytest.mark.parametrize(
    ("sheets", "margin", "sentence"),
    [
        ([whole(grain(1), Plane(0)), whole(grain(1, 70), Plane(1))], MARGIN, "differ in size"),
        (
            [Sheet(grain(1), np.full((80, 96), 0.5, np.float32), Plane(0))],
            MARGIN,
            "not cover everything",
        ),
        ([whole(grain(1), Plane(0))], 7, "margin of 7 px is less than half of 16.0 px"),
        ([whole(grain(1), Plane(0.5, 0.2))], 200, "so steep"),
    ],
)
def test_what_cannot_be_exact_is_refused(sheets, margin, sentence):
    with pytest.raises(ValueError, match=sentence):
        render(sheets, [1.0], 16, margin)
