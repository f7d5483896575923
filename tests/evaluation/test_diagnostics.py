"""Each diagnostic finds its own fault at its known size, and is silent about the others."""

import numpy as np
import pytest

from stackmff.evaluation.diagnostics import grid, hazed, psnr_dark, rings, veil
from stackmff.evaluation.metrics import OPTIONAL_METRICS, score

SIZE = (160, 192)
GREY = np.full((*SIZE, 3), 128, np.uint8)
DARK = np.full((*SIZE, 3), 20, np.uint8)


def night():
    """A dark picture with a lamp."""
    answer = DARK.copy()
    answer[78:82, 94:98] = 255
    return answer


def test_a_veil_over_the_dark():
    fused = DARK + np.uint8(8)
    assert psnr_dark(fused, DARK, 255) == pytest.approx(20 * np.log10(255 / 8))
    assert hazed(fused, DARK, 255) == 100
    assert veil(fused, DARK, 255) == pytest.approx(8)
    assert grid(fused, DARK, 255) == 0


def test_haze_counts_from_six_levels_on():
    assert hazed(DARK + np.uint8(6), DARK, 255) == 0
    half = DARK.copy()
    half[:, :96] += 20
    assert hazed(half, DARK, 255) == pytest.approx(50, abs=3)  # and 3 px beyond the edge


def test_too_dark_is_no_veil():
    assert veil(DARK - np.uint8(8), DARK, 255) == 0
    assert hazed(DARK - np.uint8(8), DARK, 255) == 0


def test_rings_around_a_lamp():
    answer = night()
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    radius = np.hypot(y - 79.5, x - 95.5)
    wave = np.where(radius > 6, 10 * np.sin(2 * np.pi * radius / 14), 0)
    fused = (answer.astype(int) + np.rint(wave)[..., None].astype(int)).clip(0, 255)
    found = rings(fused.astype(np.uint8), answer, 255)
    # Of a wave of 14 px the two Gaussians leave exp(-2 (pi s / 14)^2) each.
    left = np.exp(-2 * (np.pi * 1.5 / 14) ** 2) - np.exp(-2 * (np.pi * 6 / 14) ** 2)
    assert found == pytest.approx(10 / np.sqrt(2) * left, rel=0.1)
    assert rings(answer, answer, 255) == 0


def test_a_veil_makes_no_rings():
    assert rings(np.maximum(night(), 28), night(), 255) < 0.2


@pytest.mark.parametrize("period", [8, 16, 32])
def test_a_grid_of_tiles(period):
    tiles = (np.arange(SIZE[1]) // period % 2 * 4).astype(np.uint8)
    fused = GREY + tiles[None, :, None]
    assert grid(fused, GREY, 255) == pytest.approx(4, rel=0.01)
    noise = np.random.default_rng(1).normal(0, 3, GREY.shape)
    assert grid((GREY + noise).clip(0, 255).astype(np.uint8), GREY, 255) < 1


@pytest.mark.parametrize("diagnostic", [psnr_dark, hazed, veil, rings])
def test_a_picture_without_such_a_place_has_no_score(diagnostic):
    assert np.isnan(diagnostic(GREY, GREY, 255))


def test_sixteen_bits_and_grey_score_alike():
    fused, answer = night() + np.uint8(0), night()
    fused[40:60, 40:60] = 60
    names = ["PSNR_dark", "hazed", "rings", "grid", "veil"]
    assert set(names) <= set(OPTIONAL_METRICS)
    first = score(fused, answer, 255, optional=names)
    deep = score(fused * np.uint16(257), answer * np.uint16(257), 65535, optional=names)
    grey = score(fused[..., 0], answer[..., 0], 255, optional=names)
    for name in names:
        assert deep[name] == pytest.approx(first[name], rel=1e-4)
        assert grey[name] == pytest.approx(first[name], rel=1e-4)
