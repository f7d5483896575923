"""The multi-scale transforms: reconstruction, what the bands answer to, missing packages."""

import importlib.util

import cv2
import numpy as np
import pytest

from stackmff.errors import StackError
from stackmff.fusion.transforms import DIRECTIONS, TRANSFORMS, fit_levels, missing_packages, wrap


@pytest.fixture(params=TRANSFORMS)
def name(request):
    """Each transform whose packages are here."""
    skip_without_packages(request.param)
    return request.param


def skip_without_packages(name):
    if packages := missing_packages(name):
        pytest.skip(f"{name} needs {' '.join(packages)}")


def texture(height, width, seed=0):
    """Random greys, black and white among them, (H, W) float32 in [0, 1]."""
    return np.clip(1.4 * np.random.default_rng(seed).random((height, width)) - 0.2, 0, 1).astype(
        np.float32
    )


def grating(period, side=96):
    """Level stripes, (side, side) float32."""
    rows = 0.5 + 0.4 * np.sin(2 * np.pi * np.arange(side) / period)
    return np.repeat(rows[:, None], side, 1).astype(np.float32)


@pytest.mark.parametrize("shape", [(64, 48), (51, 67), (16, 16), (17, 40)])
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_the_picture_comes_back(name, shape, levels):
    picture = texture(*shape)
    low, details = TRANSFORMS[name].decompose(picture, levels)
    rebuilt = TRANSFORMS[name].rebuild(low, details, shape, levels)
    assert low.ndim == 2 and low.dtype == rebuilt.dtype == np.float32
    assert all(band.ndim == 2 and band.dtype in (np.float32, np.complex64) for band in details)
    assert rebuilt.shape == shape
    np.testing.assert_allclose(rebuilt, picture, rtol=0, atol=1e-5)


def test_the_channel_of_a_colour_picture_may_be_given_as_it_lies(name):
    picture = np.stack([texture(40, 32, seed) for seed in range(3)], -1)
    parts = TRANSFORMS[name].decompose(picture[..., 1], 2)
    rebuilt = TRANSFORMS[name].rebuild(*parts, (40, 32), 2)
    np.testing.assert_allclose(rebuilt, picture[..., 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("grey", [0.0, 0.7, 1.0])
def test_a_flat_picture_has_no_details(name, grey):
    low, details = TRANSFORMS[name].decompose(np.full((45, 64), grey, np.float32), 3)
    np.testing.assert_allclose(low, grey, rtol=0, atol=1e-5)
    assert max(abs(band).max() for band in details) < 1e-5


def test_details_are_what_the_low_part_lacks(name):
    """Texture is lost without the details, and shapes do not depend on the picture."""
    picture, transform = texture(48, 48), TRANSFORMS[name]
    low, details = transform.decompose(picture, 2)
    other_low, others = transform.decompose(texture(48, 48, 1), 2)
    assert [band.shape for band in (low, *details)] == [b.shape for b in (other_low, *others)]
    smooth = transform.rebuild(low, [np.zeros_like(band) for band in details], (48, 48), 2)
    assert smooth.std() < 0.4 * picture.std()
    assert abs(smooth.mean() - picture.mean()) < 0.05


def test_linear_but_for_the_ratios(name):
    first, second = texture(40, 48), texture(40, 48, 1)
    parts = [TRANSFORMS[name].decompose(x, 2)[1] for x in (first, second, (first + second) / 2)]
    errors = [abs(m - (a + b) / 2).max() for a, b, m in zip(*parts, strict=True)]
    assert max(errors) < 1e-5 or name == "RP"
    assert max(errors) > 0.1 or name != "RP"


def test_details_are_in_the_order_fine_first(name):
    """The energy of narrow stripes lies before that of wide ones in the list."""
    places = []
    for period in (2.5, 24):
        details = TRANSFORMS[name].decompose(grating(period), 3)[1]
        energy = np.array([np.square(abs(band)).mean() for band in details])
        places.append(np.average(np.arange(len(energy)) / len(energy), weights=energy))
    assert places[0] < places[1] - 0.15


def test_ratios_are_local_contrasts():
    """A small step has the same ratio in the dark as in the light: details of Toet's pyramid."""
    contrast = np.ones((32, 32), np.float32)
    contrast[:, 16:] = 1.2
    black = 1 / 255
    dark, light = (TRANSFORMS["RP"].decompose(b * contrast - black, 2)[1] for b in (0.1, 0.6))
    for a, b in zip(dark, light, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    assert 0.03 < abs(dark[0]).max() < 0.2


def test_contourlets_move_with_the_picture():
    """Two levels, 40 px from all borders, farther than nearly all of their filters reaches."""
    field = cv2.GaussianBlur(texture(160, 160), (0, 0), 1.0)
    here = TRANSFORMS["NSCT"].decompose(field[:150, :150], 2)[1]
    there = TRANSFORMS["NSCT"].decompose(field[3:153, 5:155], 2)[1]
    for a, b in zip(here, there, strict=True):
        np.testing.assert_allclose(
            a[43:113, 45:115], b[40:110, 40:110], rtol=0, atol=0.02 * abs(a).max()
        )
        assert abs(a[40:110, 40:110] - b[40:110, 40:110]).max() > 0.2 * abs(a).max()


@pytest.mark.parametrize("period, level", [(3, 0), (6, 1), (12, 2)])
def test_contourlets_tell_level_from_upright(period, level):
    stripes = grating(period)
    first, count = sum(DIRECTIONS[:level]), DIRECTIONS[level]
    for picture, direction in ((stripes, count // 2), (stripes.T, 0)):
        details = TRANSFORMS["NSCT"].decompose(picture, 3)[1]
        energy = np.array([np.square(band[:96, :96]).sum() for band in details])
        assert energy[first + direction] > 0.95 * energy.sum()


def test_contourlets_turn_once_through_their_directions():
    """Stripes at k / 8 of a half turn are in direction k of eight."""
    y, x = np.mgrid[:96, :96].astype(np.float32)
    for k in range(8):
        along = x * np.cos(np.pi * k / 8) + y * np.sin(np.pi * k / 8)
        details = TRANSFORMS["NSCT"].decompose(0.5 + 0.4 * np.sin(2 * np.pi / 6 * along), 3)[1]
        energy = [np.square(band[24:72, 24:72]).sum() for band in details[16:24]]
        assert np.argmax(energy) == k


def test_the_far_border_does_not_show():
    """Texture at the top leaves the contourlets at the bottom nearly 0, though they wrap around."""
    picture = np.full((64, 64), 0.5, np.float32)
    picture[:8] = texture(8, 64)
    for band in TRANSFORMS["NSCT"].decompose(picture, 2)[1]:
        assert abs(band[56:64, :64]).max() < 0.01 * abs(band[:8, :64]).max()


def test_a_wrapped_picture_has_no_seam():
    ramp = np.tile(np.linspace(0, 1, 40, dtype=np.float32), (30, 1))
    wrapped = wrap(ramp, 61, 100)
    assert wrapped.shape == (61, 100)
    np.testing.assert_array_equal(wrapped[:30, :40], ramp)
    around = np.concatenate((wrapped, wrapped[:, :1]), 1)
    assert abs(np.diff(around, axis=1)).max() < 0.1  # a jump would be 1
    np.testing.assert_array_equal(wrap(ramp, 30, 40), ramp)


def test_two_trees_are_nearly_shift_invariant():
    """The energy of an edge in a level of two hardly depends on where it lies, unlike with one."""
    for name in ("DWT", "DTCWT"):
        skip_without_packages(name)
    spread = {}
    for name, bands in (("DWT", 3), ("DTCWT", 6)):
        energies = []
        for shift in range(8):
            edge = np.zeros((64, 64), np.float32)
            edge[:, 28 + shift :] = 1
            level = TRANSFORMS[name].decompose(cv2.GaussianBlur(edge, (0, 0), 1.0), 3)[1][-bands:]
            energies.append(sum(np.square(abs(band)).sum() for band in level))
        spread[name] = np.ptp(energies) / np.mean(energies)
    assert spread["DTCWT"] < 0.5 < spread["DWT"]


@pytest.mark.parametrize(
    "levels, shape, fitting",
    [(4, (512, 384), 4), (1, (16, 16), 1), (4, (16, 400), 2), (9, (63, 64), 3), (9, (64, 64), 4)],
)
def test_small_pictures_get_fewer_levels(levels, shape, fitting):
    assert fit_levels(levels, shape) == fitting


def test_what_cannot_be_taken_apart_is_told():
    with pytest.raises(StackError, match=r"40x15: .* 16 px"):
        TRANSFORMS["LP"].decompose(texture(15, 40), 2)
    with pytest.raises(StackError, match=r"cannot have 0 levels: give 1 or more"):
        TRANSFORMS["LP"].decompose(texture(40, 40), 0)


def test_missing_packages_are_told(monkeypatch):
    """Also setuptools that no longer bring what pytorch_wavelets imports."""
    here = set()
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: module in here or None)
    assert [missing_packages(name) for name in ("LP", "RP", "NSCT")] == [[], [], []]
    assert missing_packages("DWT") == ["PyWavelets"]
    assert missing_packages("CVT") == ["curvelets"]
    here |= {"pytorch_wavelets", "pywt", "curvelets"}
    assert missing_packages("DTCWT") == ["setuptools<81"]
    here |= {"pkg_resources"}
    assert missing_packages("DTCWT") == missing_packages("CVT") == []
