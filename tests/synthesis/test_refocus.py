"""Refocusing: the published frames exactly; a thin lens against closed forms."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stackmff.synthesis.refocus import (
    Aperture,
    Layer,
    blur_levels,
    coc_px,
    extend_region,
    flatten_layers,
    interpolate_levels,
    published_refocus,
    refocus_layers,
    refocus_picture,
    to_linear,
    to_srgb,
    transfer_function,
)

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.fixture(scope="module")
def published():
    picture = cv2.imread(str(REFERENCE / "refocus_image.png"))
    depth = cv2.imread(str(REFERENCE / "refocus_depth.png"), cv2.IMREAD_UNCHANGED)
    return published_refocus(picture, depth)  # its blur does not care for the order of colours


@pytest.mark.parametrize("k", [0, 5, 15])
def test_published_frames_are_exact(published, k):
    expected = cv2.imread(str(REFERENCE / f"refocus_{k:02d}.png"))
    assert published[0].shape == (16, 384, 384, 3)
    np.testing.assert_array_equal(published[0][k], expected)


def test_published_depth_255_is_in_the_last_region():
    picture = np.random.default_rng(0).integers(0, 256, (384, 384, 3), np.uint8)
    frames, answer, _ = published_refocus(picture, np.full((384, 384), 255, np.uint8))
    np.testing.assert_array_equal(frames[15], answer)
    assert (frames[0] != answer).any()


def test_srgb_goes_there_and_back():
    values = torch.linspace(0, 1, 256)
    torch.testing.assert_close(to_srgb(to_linear(values)), values, atol=1e-6, rtol=0)
    assert abs(float(to_linear(torch.tensor(0.5))) - 0.2140) < 1e-4  # IEC 61966-2-1


def test_circle_of_confusion_of_a_thin_lens():
    """Against the textbook: f = 50 mm at f/2, focused at 2 m, a point at 1 m, in mm."""
    f, stop, focused, point = 50.0, 2.0, 2000.0, 1000.0
    textbook = f / stop * f * abs(point - focused) / (point * (focused - f))
    aperture = f / stop * f * focused / (focused - f)  # mm per unit of 1/z in 1/mm
    assert coc_px(1 / point, 1 / focused, aperture) == pytest.approx(textbook)


def impulse(size=65):
    picture = torch.zeros(1, size, size)
    picture[0, size // 2, size // 2] = 1
    return picture


@pytest.mark.parametrize("diameter", [0.7, 1.0, 2.5, 7.0, 20.0])
def test_disc_has_the_transfer_function_of_a_disc(diameter):
    """2 J1(pi D f) / (pi D f) (Goodman, Introduction to Fourier Optics), times the pixel's."""
    transfer = transfer_function(diameter, Aperture(), 64, 64)[0]
    frequency = torch.fft.rfftfreq(64)
    argument = torch.pi * diameter * frequency[1:]
    expected = 2 * torch.special.bessel_j1(argument) / argument
    if diameter >= 4:
        expected = expected * torch.sinc(frequency[1:])
    assert float(transfer[0].real) == pytest.approx(1)
    low = 12  # beyond, what a pixel takes of large discs folds back
    torch.testing.assert_close(transfer[1:low].real, expected[: low - 1], atol=0.01, rtol=0)


def test_blades_keep_the_area_and_make_corners():
    disc = blur_levels(impulse(), [20.0])[0, 0]
    hexagon = blur_levels(impulse(), [20.0], Aperture(blades=6))[0, 0]
    assert float(hexagon.max()) == pytest.approx(float(disc.max()), rel=0.03)
    assert int((hexagon > 1e-4).sum()) == pytest.approx(int((disc > 1e-4).sum()), rel=0.1)
    assert (hexagon - disc).abs().max() > 1e-3


def test_soft_rim_darkens_the_rim():
    spread = blur_levels(impulse(), [20.0], Aperture(softness=0.8))[0, 0]
    assert float(spread[32, 32]) > 2.5 * float(spread[32, 41])


def test_levels_are_interpolated_linearly_and_clamped():
    levels = torch.tensor([0.0, 10.0, 20.0]).view(3, 1, 1, 1).expand(3, 1, 1, 4)
    coc = torch.tensor([[0.0, 0.5, 3.0, 9.0]])
    values = interpolate_levels(levels, [0, 1, 5], coc)
    torch.testing.assert_close(values, torch.tensor([[[0.0, 5.0, 15.0, 20.0]]]))


def two_layers(size=64):
    rng = torch.Generator().manual_seed(0)
    background = Layer(
        torch.rand(3, size, size, generator=rng), torch.ones(size, size), torch.zeros(size, size)
    )
    alpha = torch.zeros(size, size)
    alpha[16:48, 16:48] = 1
    return [background, Layer(torch.full((3, size, size), 0.5), alpha, torch.ones(size, size))]


def test_blurred_background_does_not_bleed_over_a_sharp_foreground():
    layers = two_layers()
    frame = refocus_layers(layers, [1.0], 12.0)[0]
    answer, disparity = flatten_layers(layers)
    torch.testing.assert_close(frame[:, 16:48, 16:48], answer[:, 16:48, 16:48])
    assert (frame - answer)[:, :16].abs().mean() > 0.1
    assert disparity[32, 32] == 1 and disparity[0, 0] == 0


def test_blurred_foreground_lets_a_sharp_background_through():
    layers = two_layers()
    frame = refocus_layers(layers, [0.0], 12.0)[0]
    cover = blur_levels(layers[1].alpha[None], [12.0])[0]
    expected = layers[0].colour * (1 - cover) + 0.5 * cover
    torch.testing.assert_close(frame, expected, atol=1e-5, rtol=0)
    assert 0 < float(cover[0, 14, 32]) < 1


def test_layers_agree_with_integration_over_the_aperture():
    """What a lens does: the mean over the aperture of the pinhole pictures of its points."""
    layers = two_layers(48)
    layers[1].alpha[:] = 0
    layers[1].alpha[12:36, 12:36] = 1
    diameter, focus = 8.0, 1.0
    grid = (torch.arange(16) + 0.5) / 16 * 2 - 1
    points = torch.cartesian_prod(grid, grid)
    points = points[points.norm(dim=1) <= 1]
    frequency_y, frequency_x = torch.fft.fftfreq(48)[:, None], torch.fft.rfftfreq(48)[None]
    total = 0
    for u, v in points:
        y, x = u * diameter / 2, v * diameter / 2
        phase = torch.exp(-2j * torch.pi * (frequency_y * y + frequency_x * x))
        moved = torch.fft.irfft2(torch.fft.rfft2(layers[0].colour) * phase, s=(48, 48))
        total = total + moved * (1 - layers[1].alpha) + layers[1].colour * layers[1].alpha
    frame = refocus_layers(layers, [focus], diameter)[0]
    assert (frame - total / len(points)).abs().mean() < 0.005


def test_picture_at_one_depth_is_the_blurred_picture():
    picture = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0))
    frames = refocus_picture(picture, torch.full((40, 50), 0.5), [0.5, 1.0], 10.0)
    torch.testing.assert_close(frames[0], picture, atol=1e-5, rtol=0)
    expected = blur_levels(picture, [5.0])[0]
    torch.testing.assert_close(frames[1][:, 8:-8, 8:-8], expected[:, 8:-8, 8:-8], atol=1e-4, rtol=0)


def test_slanted_picture_has_no_seams_between_its_slices():
    grey = torch.full((3, 40, 80), 0.4)
    disparity = torch.linspace(0, 1, 80).expand(40, 80)
    frames = refocus_picture(grey, disparity, [0.0, 0.5, 1.0], 9.0)
    torch.testing.assert_close(frames, torch.full_like(frames, 0.4), atol=2e-3, rtol=0)


def test_a_surface_goes_on_behind_the_nearer_one_with_its_own_texture():
    region = np.zeros((20, 40), bool)
    region[:, :20] = True
    covered, (rows, columns) = extend_region(region, ~region, 6)
    assert covered[:, :20].all() and covered[:, 25].all() and not covered[:, 30:].any()
    assert region[rows, columns].all()  # no colour of the foreground
    assert columns[10, 5] == 5 and columns[10, 21] == 2 * 18 - 21  # mirrored at the clean edge
