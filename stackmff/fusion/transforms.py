"""The multi-scale transforms behind the classical fusion methods, all behind one signature.

A transform takes a picture apart into a coarse remainder and bands of details, and puts it together
again; a method of fusion chooses among the details of the frames in between. Libraries where they
have them, imported when they are first used. No files and no arguments here.
"""

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
from scipy import fft

from stackmff.errors import StackError

MIN_SIDE = 16  # px, the smallest side of a picture
MIN_LOW = 4  # px of the shorter side, after it is halved by every level
BLACK = 1 / 255  # added to black before ratios are taken: one step of 8 bits
WAVELET = "bior4.4"  # the 9/7 filters of JPEG 2000: symmetric, so that edges stay in place
DUAL_TREE = {"biort": "legall", "qshift": "qshift_06"}  # 5/3 at the first level, then 6 taps
DIRECTIONS = (16, 8, 8, 4)  # of the contourlets, fine first; 4 at all coarser levels


def fit_levels(levels, shape):
    """The levels that a picture has room for: its shorter side, halved by each, keeps MIN_LOW px.

    Args:
        levels: the number asked for, 1 or more.
        shape: (H, W) of the picture, px.
    Returns:
        `levels` or, for a small picture, fewer, at least 1.
    Raises:
        StackError: no level is asked for, or a side is below MIN_SIDE px.
    """
    if levels < 1:
        raise StackError(f"a transform of {levels} levels takes nothing apart: give 1 or more")
    if min(shape) < MIN_SIDE:
        raise StackError(
            f"the picture is {shape[1]}x{shape[0]}: the transforms need {MIN_SIDE} px or more each "
            "way"
        )
    return min(levels, (min(shape) // MIN_LOW).bit_length() - 1)


@dataclass(frozen=True)
class Transform:
    """A way to take a picture apart and to put it together again.

    analyse, synthesise: the work, for a number of levels that fits.
    levels: how many where nothing is said.
    packages: what it needs beyond requirements.txt, {name to import: requirement for pip}.
    """

    analyse: Callable
    synthesise: Callable
    levels: int = 4
    packages: dict = field(default_factory=dict)

    def decompose(self, picture, levels):
        """Take a picture apart.

        Args:
            picture: (H, W) float, black 0 and white 1, both sides 16 px or more; not below 0 for
                the ratio pyramid.
            levels: how many, 1 or more; small pictures get fewer (`fit_levels`).
        Returns:
            low: (h, w) float32, the coarse remainder, as bright as the picture.
            details: list of 2-D float32 or complex64 arrays, the finest level first; their number
                and shapes depend on (H, W) and levels alone, and they are 0 where all is flat.
        Raises:
            StackError: as `fit_levels`.
        """
        picture = np.ascontiguousarray(picture, np.float32)
        return self.analyse(picture, fit_levels(levels, picture.shape))

    def rebuild(self, low, details, shape, levels):
        """Put a picture together; the inverse of `decompose`.

        Args:
            low, details: as `decompose` gives them.
            shape: (H, W) of the picture.
            levels: as given to `decompose`.
        Returns:
            (H, W) float32; it may leave [0, 1] where details are mixed.
        """
        height, width = shape
        picture = self.synthesise(low, details, shape, fit_levels(levels, shape))
        return np.ascontiguousarray(picture[:height, :width], np.float32)


def missing_packages(name):
    """The requirements for pip that a transform of TRANSFORMS lacks here, [] for none.

    pytorch_wavelets may be there and of no use, because setuptools is too new to bring
    pkg_resources; then that is what is missing.
    """
    packages = TRANSFORMS[name].packages
    return [wanted for module, wanted in packages.items() if not importlib.util.find_spec(module)]


def laplacian_pyramid(picture, levels):
    """Each level less the next coarser one. Source: Burt and Adelson, The Laplacian pyramid, 1983.

    Args:
        picture: (H, W) float32; levels: that fit.
    Returns:
        low (the top) and one array per level, (H, W), (H/2, W/2), ... rounded up.
    """
    details = []
    for _ in range(levels):
        smaller = cv2.pyrDown(picture)
        details.append(picture - _expand(smaller, picture.shape))
        picture = smaller
    return picture, details


def from_laplacian_pyramid(low, details, shape, levels):
    """The inverse of `laplacian_pyramid`."""
    for detail in reversed(details):
        low = detail + _expand(low, detail.shape)
    return low


def ratio_pyramid(picture, levels):
    """Each level over the next coarser one, less 1: the contrast that the eye sees.

    Args:
        picture: (H, W) float32 from 0; levels: that fit.
    Returns:
        As `laplacian_pyramid`. The largest absolute detail is the strongest contrast |R - 1|.
    Source: Toet, Image fusion by a ratio of low-pass pyramid, 1989; BLACK is ours.
    """
    details = []
    picture = picture + np.float32(BLACK)
    for _ in range(levels):
        smaller = cv2.pyrDown(picture)
        details.append(picture / _expand(smaller, picture.shape) - 1)
        picture = smaller
    return picture - np.float32(BLACK), details


def from_ratio_pyramid(low, details, shape, levels):
    """The inverse of `ratio_pyramid`."""
    low = low + np.float32(BLACK)
    for detail in reversed(details):
        low = (detail + 1) * _expand(low, detail.shape)
    return low - np.float32(BLACK)


def _expand(smaller, shape):
    """Twice the size, of which `shape`, (H, W), is kept."""
    return cv2.pyrUp(smaller, dstsize=shape[::-1])


def wavelets(picture, levels):
    """The discrete wavelet transform with WAVELET, mirrored at the borders.

    Args:
        picture: (H, W) float32; levels: that fit.
    Returns:
        low and three arrays per level: level, upright and slanting edges.
    Source: Mallat, A theory for multiresolution signal decomposition, 1989.
    """
    import pywt

    details = []
    for _ in range(levels):
        picture, bands = pywt.dwt2(picture, WAVELET, "symmetric")
        details.extend(bands)
    return picture / 2**levels, details


def from_wavelets(low, details, shape, levels):
    """The inverse of `wavelets`."""
    import pywt

    low = low * 2**levels
    for first in reversed(range(0, len(details), 3)):
        height, width = details[first].shape
        bands = tuple(details[first : first + 3])
        low = pywt.idwt2((low[:height, :width], bands), WAVELET, "symmetric")
    return low


@lru_cache(maxsize=4)
def _dual_tree(levels):
    """The two modules of pytorch_wavelets."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "pkg_resources is deprecated")
        from pytorch_wavelets import DTCWTForward, DTCWTInverse
    return DTCWTForward(J=levels, **DUAL_TREE), DTCWTInverse(**DUAL_TREE)


def dual_tree_wavelets(picture, levels):
    """The dual-tree complex wavelet transform, nearly shift-invariant; mirrored at the borders.

    Args:
        picture: (H, W) float32; levels: that fit.
    Returns:
        low and six complex64 arrays per level, one for each direction of edges.
    Source: Kingsbury, Complex wavelets for shift invariant analysis and filtering of signals, 2001.
    """
    import torch

    block = 2**levels
    margins = [(0, -side % block) for side in picture.shape]
    picture = torch.from_numpy(np.pad(picture, margins, "symmetric"))
    with torch.no_grad():
        low, bands = _dual_tree(levels)[0](picture[None, None])
    # (1, 1, 6, h, w, 2) to six times (h, w)
    details = [band for level in bands for band in torch.view_as_complex(level[0, 0]).numpy()]
    return low[0, 0].numpy() / 2 ** (levels - 1), details


def from_dual_tree_wavelets(low, details, shape, levels):
    """The inverse of `dual_tree_wavelets`."""
    import torch

    low = torch.from_numpy(np.float32(low)) * 2 ** (levels - 1)
    sixes = [np.stack(details[first : first + 6]) for first in range(0, len(details), 6)]
    bands = [torch.view_as_real(torch.from_numpy(six))[None, None] for six in sixes]
    with torch.no_grad():
        return _dual_tree(levels)[1]((low[None, None], bands))[0, 0].numpy()


def wrap(picture, height, width):
    """Continue a picture down and to the right until it wraps around without a seam.

    Beyond the last row its mirror image goes over into the mirror image before the first one, and
    so for the columns.

    Args:
        picture: (H, W) float32.
        height, width: of the result, px; the more beyond H and W, the softer.
    Returns:
        (height, width) float32, the picture at its top left.
    """
    for size in (height, width):  # rows first; the picture is turned over after each
        margin = size - len(picture)
        after = np.pad(picture, ((0, margin), (0, 0)), "symmetric")[len(picture) :]
        before = np.pad(picture, ((margin, 0), (0, 0)), "symmetric")[:margin]
        share = _step((np.arange(margin, dtype=np.float32) + 0.5) / max(1, margin))[:, None]
        picture = np.concatenate((picture, after + share * (before - after))).T
    return np.ascontiguousarray(picture)


def _step(t):
    """From 0 to 1 while t does, with three derivatives of 0 at both ends (Meyer's wavelet)."""
    t = np.clip(t, 0, 1)
    return t**4 * (35 - 84 * t + 70 * t**2 - 20 * t**3)


def _margin(levels):
    """px to add to a side for a transform that wraps around: its narrow directions reach far."""
    return max(64, 4 * 2**levels)


@lru_cache(maxsize=1)  # its windows take several times the memory of a picture
def _curvelet_transform(shape, levels):
    """The object of `curvelets` for pictures of one shape, (H, W).

    The directions double at every second level: curvelets are as wide as their length squared.
    """
    from curvelets.numpy import UDCT

    wedges = [3 * 2 ** ((level + 1) // 2) for level in range(levels)]  # per quarter, coarse first
    return UDCT(shape=shape, angular_wedges_config=np.array([wedges, wedges]).T)


def curvelets(picture, levels):
    """The uniform discrete curvelet transform; mirrored at the borders.

    Args:
        picture: (H, W) float32; levels: that fit.
    Returns:
        low and complex64 arrays, 6, 12, 12, 24, ... a level from the coarsest one.
    Source: Nguyen and Chauris, Uniform discrete curvelet transform, 2010.
    """
    block = max(4, 2**levels)  # the package subsamples by it, and is silent where it is no divisor
    height, width = (-(-(side + _margin(levels)) // block) * block for side in picture.shape)
    transform = _curvelet_transform((height, width), levels)
    ((low,),), *scales = transform.forward(wrap(picture, height, width))
    details = [band for scale in reversed(scales) for wedges in scale for band in wedges]
    return low.real / 2 ** (levels - 1), details


def from_curvelets(low, details, shape, levels):
    """The inverse of `curvelets`."""
    gain = 2 ** (levels - 1)
    transform = _curvelet_transform(tuple(side * gain for side in low.shape), levels)
    bands = iter(details)
    windows = reversed(transform.windows[1:])
    scales = [[[next(bands) for _ in wedges] for wedges in scale] for scale in windows]
    return transform.backward([[[np.complex64(low * gain)]], *reversed(scales)])


def _odd_fast_length(length):
    """The next odd length that Fourier transforms are fast at."""
    length += 1 - length % 2
    while fft.next_fast_len(length) != length:
        length += 2
    return length


def _contourlet_windows(shape, levels):
    """The frequency windows of the contourlets, one after the other.

    Their squares sum to 1 at every frequency, so that windows times windows rebuild the picture.

    Args:
        shape: (H, W), both odd: then no frequency lies at both ends of an axis, where windows of
            opposite directions would have to agree.
        levels: that fit.
    Yields:
        (H, W // 2 + 1) float32, on the grid of rfft2: the directions of the finest level, then of
        the coarser ones, at last the low-pass.
    """
    down = np.float32(fft.fftfreq(shape[0]))[:, None]
    across = np.float32(fft.rfftfreq(shape[1]))
    turn = np.arctan2(down, across) / np.pi % 1  # of the half turn
    finer = np.float32(1)
    for level in range(levels):
        # From 1 up to a third of the half of the band that is there to 0 from two thirds.
        lows = [np.cos(np.pi / 2 * _step(6 * 2**level * abs(f) - 1)) for f in (down, across)]
        coarser = lows[0] * lows[1]
        ring = finer * np.sqrt(1 - coarser**2)
        count = DIRECTIONS[level] if level < len(DIRECTIONS) else DIRECTIONS[-1]
        before = np.floor(turn * count)
        angle = np.pi / 2 * _step(turn * count - before)
        falling, rising = ring * np.cos(angle), ring * np.sin(angle)
        before = np.uint8(before) % count
        for k in range(count):
            yield falling * (before == k) + rising * (before == (k - 1) % count)
        finer = coarser
    yield finer


def contourlets(picture, levels):
    """The non-subsampled contourlet transform; mirrored at the borders.

    As published, a pyramid of rings in frequency, each ring cut into directions, nothing
    subsampled: a shift of the picture shifts all bands. Otherwise than published, the filters are
    windows in the Fourier domain: Meyer's low-pass along rows and columns in place of the
    maximally flat pair, wedges of equal angles in place of the tree of fan filters, and the first
    wedge lies about the axis, where a tree has a seam; analysis and synthesis are the same (a tight
    frame), and the filters have no end, but fade.

    Args:
        picture: (H, W) float32; levels: that fit.
    Returns:
        low and float32 arrays, 16, 8, 8, 4, 4, ... a level from the finest one, all of one shape
        with a margin around (H, W). The first of a level answers to upright edges, the one at
        half their number to level ones.
    Source: da Cunha, Zhou and Do, The nonsubsampled contourlet transform, 2006.
    """
    shape = tuple(_odd_fast_length(side + _margin(levels)) for side in picture.shape)
    spectrum = fft.rfft2(wrap(picture, *shape))
    windows = _contourlet_windows(shape, levels)
    *details, low = (fft.irfft2(spectrum * window, s=shape) for window in windows)
    return low, details


def from_contourlets(low, details, shape, levels):
    """The inverse of `contourlets`."""
    spectrum = 0
    for band, window in zip((*details, low), _contourlet_windows(low.shape, levels), strict=True):
        spectrum = spectrum + fft.rfft2(band) * window
    return fft.irfft2(spectrum, s=low.shape)


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
