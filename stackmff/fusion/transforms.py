"""The multi-scale transforms of the classical fusion methods, all with one signature.

A transform splits a picture into a coarse remainder and bands of details and rebuilds the picture
from them; a fusion method picks among the frames' details in between. Where a library has a
transform, the library is used, imported on first use.
"""

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import scipy  # its parts are loaded on first use

from stackmff.errors import StackError

MIN_SIDE = 16  # px, the smallest side of a picture
MIN_LOW = 4  # px of the shorter side after every level has halved it
BLACK = 1 / 255  # added to all values before ratios are taken: one step of 8 bits
WAVELET = "bior4.4"  # the 9/7 filters of JPEG 2000: symmetric, so that edges stay in place
DUAL_TREE = {"biort": "legall", "qshift": "qshift_06"}  # 5/3 at the first level, then 6 taps
DIRECTIONS = (16, 8, 8, 4)  # of the contourlets, finest level first; 4 at all coarser levels

# (low, details) of a picture, and a picture from (low, details, its shape, levels).
Analysis = Callable[[np.ndarray, int], tuple[np.ndarray, list[np.ndarray]]]
Synthesis = Callable[[np.ndarray, list[np.ndarray], tuple[int, int], int], np.ndarray]


def fit_levels(levels: int, shape: tuple[int, int]) -> int:
    """How many levels a picture has room for: its shorter side, halved by each, keeps MIN_LOW px.

    Args:
        levels: the number requested, at least 1.
        shape: (H, W) of the picture, px.
    Returns:
        `levels` or, for a small picture, fewer; at least 1.
    Raises:
        StackError: `levels` is below 1, or a side is below MIN_SIDE px.
    """
    if levels < 1:
        raise StackError(f"a transform cannot have {levels} levels: give 1 or more")
    if min(shape) < MIN_SIDE:
        raise StackError(
            f"the picture is {shape[1]}x{shape[0]}: the transforms need at least {MIN_SIDE} px per "
            "side"
        )
    return min(levels, (min(shape) // MIN_LOW).bit_length() - 1)


@dataclass(frozen=True)
class Transform:
    """An invertible multi-scale transform.

    Attributes:
        analyse, synthesise: the transform and its inverse, for a number of levels that fits.
        levels: default number of levels.
        packages: what it needs beyond the base installation, {module: requirement for pip}.
    """

    analyse: Analysis
    synthesise: Synthesis
    levels: int = 4
    packages: dict[str, str] = field(default_factory=dict)

    def decompose(self, picture: np.ndarray, levels: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Split a picture into a coarse remainder and details.

        Args:
            picture: (H, W) float, black 0 and white 1, both sides at least 16 px; no negative
                values for the ratio pyramid.
            levels: how many, at least 1; small pictures get fewer (`fit_levels`).
        Returns:
            low: (h, w) float32, the coarse remainder, as bright as the picture.
            details: list of 2-D float32 or complex64 arrays, the finest level first. Their number
                and shapes depend only on (H, W) and levels; they are 0 where the picture is flat.
        Raises:
            StackError: as `fit_levels`.
        """
        picture = np.ascontiguousarray(picture, np.float32)
        return self.analyse(picture, fit_levels(levels, picture.shape))

    def rebuild(
        self, low: np.ndarray, details: list[np.ndarray], shape: tuple[int, int], levels: int
    ) -> np.ndarray:
        """Rebuild a picture; the inverse of `decompose`.

        Args:
            low, details: as returned by `decompose`.
            shape: (H, W) of the picture.
            levels: as given to `decompose`.
        Returns:
            (H, W) float32; mixed details may leave [0, 1].
        """
        height, width = shape
        picture = self.synthesise(low, details, shape, fit_levels(levels, shape))
        return np.ascontiguousarray(picture[:height, :width], np.float32)


def missing_packages(name: str) -> list[str]:
    """The pip requirements of a transform of TRANSFORMS that are not installed; [] for none.

    pytorch_wavelets imports pkg_resources, which newer versions of setuptools no longer have; an
    older setuptools is then what is missing.
    """
    packages = TRANSFORMS[name].packages
    return [wanted for module, wanted in packages.items() if not importlib.util.find_spec(module)]


def laplacian_pyramid(picture: np.ndarray, levels: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Each level minus the next coarser one.

    Args:
        picture: (H, W) float32.
        levels: a number that fits.
    Returns:
        low (the top) and one array per level: (H, W), (H/2, W/2), ..., rounded up.
    Source: Burt and Adelson, The Laplacian pyramid, 1983.
    """
    details = []
    for _ in range(levels):
        smaller = cv2.pyrDown(picture)
        details.append(picture - _expand(smaller, picture.shape))
        picture = smaller
    return picture, details


def from_laplacian_pyramid(
    low: np.ndarray, details: list[np.ndarray], shape: tuple[int, int], levels: int
) -> np.ndarray:
    """The inverse of `laplacian_pyramid`."""
    for detail in reversed(details):
        low = detail + _expand(low, detail.shape)
    return low


def ratio_pyramid(picture: np.ndarray, levels: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Each level divided by the next coarser one, minus 1: local contrast.

    Args:
        picture: (H, W) float32, not negative.
        levels: a number that fits.
    Returns:
        As `laplacian_pyramid`. The largest absolute detail is the strongest contrast |R - 1|.
    Source: Toet, Image fusion by a ratio of low-pass pyramid, 1989; BLACK is our addition.
    """
    details = []
    picture = picture + np.float32(BLACK)
    for _ in range(levels):
        smaller = cv2.pyrDown(picture)
        details.append(picture / _expand(smaller, picture.shape) - 1)
        picture = smaller
    return picture - np.float32(BLACK), details


def from_ratio_pyramid(
    low: np.ndarray, details: list[np.ndarray], shape: tuple[int, int], levels: int
) -> np.ndarray:
    """The inverse of `ratio_pyramid`."""
    low = low + np.float32(BLACK)
    for detail in reversed(details):
        low = (detail + 1) * _expand(low, detail.shape)
    return low - np.float32(BLACK)


def _expand(smaller: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Upsample a level to the (H, W) of the next finer one, which is about twice its size."""
    return cv2.pyrUp(smaller, dstsize=shape[::-1])


def wavelets(picture: np.ndarray, levels: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The discrete wavelet transform with WAVELET, mirrored at the borders.

    Args:
        picture: (H, W) float32.
        levels: a number that fits.
    Returns:
        low and three arrays per level: horizontal, vertical and diagonal edges.
    Source: Mallat, A theory for multiresolution signal decomposition, 1989.
    """
    import pywt

    details: list[np.ndarray] = []
    for _ in range(levels):
        picture, bands = pywt.dwt2(picture, WAVELET, "symmetric")
        details.extend(bands)
    return picture / 2**levels, details


def from_wavelets(
    low: np.ndarray, details: list[np.ndarray], shape: tuple[int, int], levels: int
) -> np.ndarray:
    """The inverse of `wavelets`."""
    import pywt

    low = low * 2**levels
    for first in reversed(range(0, len(details), 3)):
        height, width = details[first].shape
        bands = tuple(details[first : first + 3])
        low = pywt.idwt2((low[:height, :width], bands), WAVELET, "symmetric")
    return low


@lru_cache(maxsize=4)
def _dual_tree(levels: int) -> tuple[Any, Any]:
    """The transform and its inverse, modules of pytorch_wavelets."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "pkg_resources is deprecated")
        from pytorch_wavelets import DTCWTForward, DTCWTInverse
    return DTCWTForward(J=levels, **DUAL_TREE), DTCWTInverse(**DUAL_TREE)


def dual_tree_wavelets(picture: np.ndarray, levels: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The dual-tree complex wavelet transform, nearly shift-invariant; mirrored at the borders.

    Args:
        picture: (H, W) float32.
        levels: a number that fits.
    Returns:
        low and six complex64 arrays per level, one per edge direction.
    Source: Kingsbury, Complex wavelets for shift invariant analysis and filtering of signals, 2001.
    """
    import torch

    block = 2**levels
    margins = [(0, -side % block) for side in picture.shape]
    padded = torch.from_numpy(np.pad(picture, margins, "symmetric"))
    with torch.no_grad():
        low, bands = _dual_tree(levels)[0](padded[None, None])
    # (1, 1, 6, h, w, 2) to six times (h, w)
    details = [band for level in bands for band in torch.view_as_complex(level[0, 0]).numpy()]
    return low[0, 0].numpy() / 2 ** (levels - 1), details


def from_dual_tree_wavelets(
    low: np.ndarray, details: list[np.ndarray], shape: tuple[int, int], levels: int
) -> np.ndarray:
    """The inverse of `dual_tree_wavelets`."""
    import torch

    coarse = torch.from_numpy(low.astype(np.float32)) * 2 ** (levels - 1)
    sixes = [np.stack(details[first : first + 6]) for first in range(0, len(details), 6)]
    bands = [torch.view_as_real(torch.from_numpy(six))[None, None] for six in sixes]
    with torch.no_grad():
        picture: np.ndarray = _dual_tree(levels)[1]((coarse[None, None], bands))[0, 0].numpy()
    return picture


def wrap(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Extend a picture down and to the right so that it wraps around without a seam.

    Below the last row, the picture mirrored there fades into the picture mirrored at the first row;
    columns likewise.

    Args:
        picture: (H, W) float32.
        height, width: of the result, px; the larger, the smoother the transition.
    Returns:
        (height, width) float32, the picture at its top left.
    """
    for size in (height, width):  # rows first; each pass transposes the picture
        margin = size - len(picture)
        after = np.pad(picture, ((0, margin), (0, 0)), "symmetric")[len(picture) :]
        before = np.pad(picture, ((margin, 0), (0, 0)), "symmetric")[:margin]
        share = _step((np.arange(margin, dtype=np.float32) + 0.5) / max(1, margin))[:, None]
        picture = np.concatenate((picture, after + share * (before - after))).T
    return np.ascontiguousarray(picture)


def _step(t: np.ndarray) -> np.ndarray:
    """Rises from 0 to 1 with t; three derivatives are 0 at both ends (Meyer's wavelet)."""
    t = np.clip(t, 0, 1)
    return t**4 * (35 - 84 * t + 70 * t**2 - 20 * t**3)


def _margin(levels: int) -> int:
    """px to add per axis for a transform that wraps around: its narrow directions reach far."""
    return max(64, 4 * 2**levels)


@lru_cache(maxsize=1)  # its windows take several times the memory of a picture
def _curvelet_transform(shape: tuple[int, int], levels: int) -> Any:
    """The transform object of the curvelets package for pictures of one shape, (H, W).

    The directions double at every second level: a curvelet's width is its length squared.
    """
    from curvelets.numpy import UDCT

    wedges = [3 * 2 ** ((level + 1) // 2) for level in range(levels)]  # per quarter, coarse first
    return UDCT(shape=shape, angular_wedges_config=np.array([wedges, wedges]).T)


def curvelets(picture: np.ndarray, levels: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The uniform discrete curvelet transform; mirrored at the borders.

    Args:
        picture: (H, W) float32.
        levels: a number that fits.
    Returns:
        low and complex64 arrays: 6, 12, 12, 24, ... per level, counted from the coarsest.
    Source: Nguyen and Chauris, Uniform discrete curvelet transform, 2010.
    """
    # The package subsamples by this factor, and does not complain where it is no divisor.
    block = max(4, 2**levels)
    height, width = (-(-(side + _margin(levels)) // block) * block for side in picture.shape)
    transform = _curvelet_transform((height, width), levels)
    ((low,),), *scales = transform.forward(wrap(picture, height, width))
    details = [band for scale in reversed(scales) for wedges in scale for band in wedges]
    return low.real / 2 ** (levels - 1), details


def from_curvelets(
    low: np.ndarray, details: list[np.ndarray], shape: tuple[int, int], levels: int
) -> np.ndarray:
    """The inverse of `curvelets`."""
    gain = 2 ** (levels - 1)
    height, width = low.shape
    transform = _curvelet_transform((height * gain, width * gain), levels)
    bands = iter(details)
    windows = reversed(transform.windows[1:])
    scales = [[[next(bands) for _ in wedges] for wedges in scale] for scale in windows]
    coarse = (low * gain).astype(np.complex64)
    picture: np.ndarray = transform.backward([[[coarse]], *reversed(scales)])
    return picture


def _odd_fast_length(length: int) -> int:
    """The next odd length for which Fourier transforms are fast."""
    length += 1 - length % 2
    while scipy.fft.next_fast_len(length) != length:
        length += 2
    return length


def _contourlet_windows(shape: tuple[int, int], levels: int) -> Iterator[np.ndarray]:
    """The frequency windows of the contourlets, one after the other.

    Their squares sum to 1 at every frequency, so that applying each twice rebuilds the picture.

    Args:
        shape: (H, W), both odd: then no frequency lies at both ends of an axis, where windows of
            opposite directions would have to agree.
        levels: a number that fits.
    Yields:
        (H, W // 2 + 1) float32 on the grid of rfft2: the directions of the finest level, those of
        the coarser ones, and last the low-pass.
    """
    down = scipy.fft.fftfreq(shape[0]).astype(np.float32)[:, None]
    across = scipy.fft.rfftfreq(shape[1]).astype(np.float32)
    turn = np.arctan2(down, across) / np.pi % 1  # fraction of a half turn
    finer = np.ones(1, np.float32)
    for level in range(levels):
        # 1 up to a third of the remaining half band, 0 from two thirds on.
        lows = [np.cos(np.pi / 2 * _step(6 * 2**level * abs(f) - 1)) for f in (down, across)]
        coarser = lows[0] * lows[1]
        ring = finer * np.sqrt(1 - coarser**2)
        count = DIRECTIONS[level] if level < len(DIRECTIONS) else DIRECTIONS[-1]
        before = np.floor(turn * count)
        angle = np.pi / 2 * _step(turn * count - before)
        falling, rising = ring * np.cos(angle), ring * np.sin(angle)
        before = before.astype(np.uint8) % count
        for k in range(count):
            yield falling * (before == k) + rising * (before == (k - 1) % count)
        finer = coarser
    yield finer


def contourlets(picture: np.ndarray, levels: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The non-subsampled contourlet transform; mirrored at the borders.

    As published, it is a pyramid of frequency rings, each divided into directions, and nothing is
    subsampled, so a shift of the picture shifts all bands. Unlike the published one, its filters
    are windows in the Fourier domain: Meyer's low-pass along rows and columns instead of the
    maximally flat pair, wedges of equal angles instead of the tree of fan filters, the first wedge
    centred on the axis, where a tree has a seam. Analysis and synthesis use the same windows (a
    tight frame). The filters have infinite support, but decay.

    Args:
        picture: (H, W) float32.
        levels: a number that fits.
    Returns:
        low and float32 arrays, 16, 8, 8, 4, 4, ... per level from the finest on, all of one shape,
        (H, W) plus a margin. The first band of a level responds to vertical edges, the one half
        way through to horizontal ones.
    Source: da Cunha, Zhou and Do, The nonsubsampled contourlet transform, 2006.
    """
    height, width = picture.shape
    shape = (_odd_fast_length(height + _margin(levels)), _odd_fast_length(width + _margin(levels)))
    spectrum = scipy.fft.rfft2(wrap(picture, *shape))
    windows = _contourlet_windows(shape, levels)
    *details, low = (scipy.fft.irfft2(spectrum * window, s=shape) for window in windows)
    return low, details


def from_contourlets(
    low: np.ndarray, details: list[np.ndarray], shape: tuple[int, int], levels: int
) -> np.ndarray:
    """The inverse of `contourlets`."""
    height, width = low.shape
    pairs = zip((*details, low), _contourlet_windows((height, width), levels), strict=True)
    spectra = (scipy.fft.rfft2(band) * window for band, window in pairs)
    picture: np.ndarray = scipy.fft.irfft2(sum(spectra), s=low.shape)
    return picture


WAVELETS = {"pywt": "PyWavelets"}
DUAL_TREES = {
    "pytorch_wavelets": "pytorch_wavelets",
    "pkg_resources": "setuptools<81",
    **WAVELETS,
}
TRANSFORMS = {
    "LP": Transform(laplacian_pyramid, from_laplacian_pyramid),
    "RP": Transform(ratio_pyramid, from_ratio_pyramid),
    "DWT": Transform(wavelets, from_wavelets, packages=WAVELETS),
    "DTCWT": Transform(dual_tree_wavelets, from_dual_tree_wavelets, packages=DUAL_TREES),
    "CVT": Transform(curvelets, from_curvelets, packages={"curvelets": "curvelets"}),
    "NSCT": Transform(contourlets, from_contourlets),
}
