"""Scores of a fused picture against the frames that it was fused from, without an answer.

Every index is a function (fused, frames, peak) -> float, where

    fused: (H, W) or (H, W, C), C 1 or 3 (RGB), integers or floats in [0, peak]
    frames: N >= 1 pictures of that shape and dtype, as (N, H, W[, C]) or a list
    peak: the value of white, 255 for 8 bit, 65535 for 16 bit, 1 for floats in [0, 1]

All of them use the BT.601 luma, unrounded and in float64: differences of uint8 would wrap around.
The order of the frames does not matter. Frames are processed one by one, so that the memory of an
index does not grow with their number; `index_scores` keeps their luma for all indices, 4 bytes per
pixel and frame. An index is NaN where flat pictures leave it undefined.

The indices were published for two sources; each function says how it is extended to N, such that
N = 2 gives the published value. They do not replace an answer: `rank_correlation` measures how well
one ranks methods. A new index is one function and one line in INDICES.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from stackmff.evaluation.metrics import to_gray, window_means

Frames = Sequence[np.ndarray] | np.ndarray  # N pictures

FLAT = 1e-12  # variance where white is 1; one 16-bit level in one pixel of 64 gives 4e-12
Q_W_WINDOW = 8  # px
SCD_BAND = 2**22  # luma values held at a time
VIFF_WINDOWS = (17, 9, 5, 3)  # px, of the four scales, the finest first; sigma is a fifth
VIFF_WEIGHTS = (1 / 2.15, 0.0, 0.15 / 2.15, 1 / 2.15)  # of the scales
VIFF_NOISE = 0.005  # variance of the visual noise, where white is 1
VIFF_OFFSET = 1e-7  # added to both amounts of information in each window
VIFF_LEAST = 41  # px, one window at the last scale

# Height, slope and centre of Qabf's sigmoids.
QABF_STRENGTH = (0.9994, -15.0, 0.5)
QABF_ORIENTATION = (0.9879, -22.0, 0.8)
LEVELS = 256  # of the histograms


def _luma(picture: np.ndarray, peak: float) -> np.ndarray:
    """BT.601 luma, (H, W) float64, white 1."""
    return to_gray(np.asarray(picture, np.float32) / np.float32(peak)).astype(np.float64)


def _ratio(above: float, below: float) -> float:
    """above / below, NaN where below is 0."""
    return float(above / below) if below else float("nan")


def _check_side(picture: np.ndarray, least: int, name: str) -> None:
    """Raise ValueError if a side of a picture is shorter than `least` px."""
    height, width = picture.shape
    if min(height, width) < least:
        raise ValueError(
            f"a picture of {width}x{height} is smaller than the {least}x{least} px that {name} "
            "needs"
        )


def _moments(picture: np.ndarray, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances in all windows; variances that are mere rounding errors are set to 0."""
    mean = window_means(picture, kernel)
    variance = window_means(picture**2, kernel) - mean**2
    variance[variance < FLAT] = 0
    return mean, variance


def weighted_quality(fused: np.ndarray, frames: Frames, peak: float) -> float:
    """Q_W: Wang and Bovik's universal quality index between the fused picture and each frame.

    In each window of 8x8 px a frame's index is weighted by its saliency, the variance, divided by
    the sum of all frames' saliencies; the window is weighted by its largest saliency. 1 for a fused
    picture that equals all frames.

    Raises:
        ValueError: a side is shorter than the window.
    Source:
        Piella and Heijmans, "A new quality metric for image fusion", ICIP 2003.
        Wang and Bovik, "A universal image quality index", IEEE SPL 2002.
    """
    fused = _luma(fused, peak)
    _check_side(fused, Q_W_WINDOW, "Q_W")
    kernel = np.full(Q_W_WINDOW, 1 / Q_W_WINDOW)
    mean, variance = _moments(fused, kernel)
    quality, total, largest = (np.zeros_like(mean) for _ in range(3))
    for frame in frames:
        frame = _luma(frame, peak)
        its_mean, saliency = _moments(frame, kernel)
        covariance = window_means(fused * frame, kernel) - mean * its_mean
        below = (variance + saliency) * (mean**2 + its_mean**2)
        # A window where `below` is 0 has saliency 0 and does not count.
        index = 4 * covariance * mean * its_mean / np.where(below > 0, below, 1)
        quality += saliency * index
        total += saliency
        np.maximum(largest, saliency, out=largest)
    quality /= np.where(total > 0, total, 1)
    return _ratio((largest * quality).sum(), largest.sum())


def _covariances(fused: np.ndarray, frames: Frames, peak: float) -> np.ndarray:
    """Covariances between the fused picture, which comes first, and all frames: (N + 1, N + 1)."""
    pictures = [fused, *frames]
    products, sums = np.zeros((len(pictures),) * 2), np.zeros(len(pictures))
    height, width = fused.shape[:2]
    step = max(1, SCD_BAND // (len(pictures) * width))
    for top in range(0, height, step):  # all frames at once, but some of their rows at a time
        rows = slice(top, top + step)
        band = np.stack([_luma(picture[rows], peak).ravel() for picture in pictures])
        products += band @ band.T
        sums += band.sum(1)
    n_pixels = height * width
    return products / n_pixels - np.outer(sums, sums) / n_pixels**2


def sum_of_correlations(fused: np.ndarray, frames: Frames, peak: float) -> float:
    """SCD: the fused picture minus one frame, correlated with another frame.

    For two frames it is r(F - S2, S1) + r(F - S1, S2), from -2 to 2; for N, twice the mean of
    r(F - Sj, Sk) over all pairs j != k; for one frame, twice r(F, S1). A flat difference or a flat
    frame has correlation 0. Subtracting the mean of all other frames from F instead of one frame
    would rank the frames' mean above the answer for large N.

    Source:
        Aslantas and Bendes, "A new image quality metric for image fusion: the sum of the
        correlations of differences", AEU 2015.
    """
    covariances = _covariances(fused, frames, peak)
    own, to_fused, between = covariances[0, 0], covariances[0, 1:], covariances[1:, 1:]
    if len(frames) == 1:  # nothing to subtract
        differences, common, pairs = np.array([own]), to_fused[None, :], np.array([[True]])
    else:
        differences = own - 2 * to_fused + np.diag(between)  # variances of F - Sj
        common = to_fused[None, :] - between  # covariances of F - Sj, the row, and Sk
        pairs = ~np.eye(len(frames), dtype=bool)
    differences, variances = differences[:, None], np.diag(between)[None, :]
    flat = np.minimum(differences, variances) < FLAT
    below = np.sqrt(np.where(flat, 1, differences * variances))
    return 2 * float(np.where(flat, 0, common / below)[pairs].mean())


Scale = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # picture, kernel, mean, variance


def _viff_scales(picture: np.ndarray) -> list[Scale | None]:
    """The picture, the kernel, and mean and variance in the windows of each of VIFF's scales.

    None for a scale of weight 0.
    """
    scales: list[Scale | None] = []
    for size, weight in zip(VIFF_WINDOWS, VIFF_WEIGHTS):
        kernel = cv2.getGaussianKernel(size, size / 5)
        if scales:
            picture = np.ascontiguousarray(window_means(picture, kernel)[::2, ::2])
        scales.append((picture, kernel, *_moments(picture, kernel)) if weight else None)
    return scales


def _visual_information(frame: Scale, fused: Scale) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the eye sees of a frame at one scale, in the fused picture and in the frame itself.

    Args:
        frame, fused: one entry of `_viff_scales` each.
    Returns:
        (gain, kept, full), a map each: the frame's contrast in the fused picture, 0 where there is
        none or it is inverted; how much of its information is kept; all its information; in nats.
    """
    (picture, kernel, mean, variance), (other, _, its_mean, its_variance) = frame, fused
    covariance = window_means(picture * other, kernel) - mean * its_mean
    seen = (covariance > 0) & (variance > 0) & (its_variance > 0)
    gain = np.where(seen, covariance, 0) / np.where(seen, variance, 1)
    residual = np.maximum(its_variance - gain * covariance, 0)
    kept = np.log1p(gain**2 * variance / (residual + VIFF_NOISE))
    return gain, kept, np.log1p(variance / VIFF_NOISE)


def visual_information_fidelity(fused: np.ndarray, frames: Frames, peak: float) -> float:
    """VIFF: the share of the frames' visual information that the fused picture keeps.

    Each window at each of four scales is compared with one frame, the one with the smallest gain
    (if two are equal, the one with more information): for a given fused picture, the smaller the
    gain, the more contrast the frame had. A frame that is flat or inverted there has gain 0, so it
    is the one chosen, as published; a flat one contributes no information. At each scale the kept
    information of all windows is divided by the frames' own. 1 for a fused picture that equals all
    frames; more contrast gives more than 1. The luma replaces the published L* of CIELAB.

    Raises:
        ValueError: a side is shorter than VIFF_LEAST.
    Source:
        Han et al., "A new image fusion performance metric based on visual information fidelity",
        Information Fusion 2013.
        Sheikh and Bovik, "Image information and visual quality", IEEE TIP 2006.
    """
    fused = _luma(fused, peak)
    _check_side(fused, VIFF_LEAST, "VIFF")
    scales = _viff_scales(fused)
    chosen: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for frame in frames:
        for i, (mine, its) in enumerate(zip(_viff_scales(_luma(frame, peak)), scales)):
            if mine is None or its is None:
                continue
            maps = _visual_information(mine, its)
            if i not in chosen:
                chosen[i] = maps
                continue
            (gain, _, full), (least, _, its_full) = maps, chosen[i]
            better = (gain < least) | ((gain == least) & (full > its_full))
            for old, new in zip(chosen[i], maps):
                np.copyto(old, new, where=better)
    score = 0.0
    for i, (_, kept, full) in chosen.items():
        score += VIFF_WEIGHTS[i] * (kept + VIFF_OFFSET).sum() / (full + VIFF_OFFSET).sum()
    return float(score)


def _sigmoid(value: np.ndarray, constants: tuple[float, float, float]) -> np.ndarray:
    """A sigmoid of height, slope and centre `constants`, of the shape of `value`."""
    height, slope, middle = constants
    return height / (1 + np.exp(slope * (value - middle)))


def edge_preservation(fused: np.ndarray, frames: Frames, peak: float) -> float:
    """Qabf: how well the strength and orientation of the frames' edges are preserved.

    Gradients are Sobel's; each pixel of each of the N frames is weighted by the strength of its
    edge. Orientations are compared modulo 180 degrees. With the published constants a perfect copy
    scores 0.9994 / (1 + exp(-7.5)) * 0.9879 / (1 + exp(-4.4)) = 0.9748, not 1.

    Source:
        Xydeas and Petrovic, "Objective image fusion performance measure", Electronics Letters 2000.
    """
    across, down = _gradient(_luma(fused, peak))
    strength = np.hypot(across, down)
    kept = weight = 0.0
    for frame in frames:
        its_across, its_down = _gradient(_luma(frame, peak))
        its_strength = np.hypot(its_across, its_down)
        larger = np.maximum(strength, its_strength)
        likeness = np.minimum(strength, its_strength) / np.where(larger > 0, larger, 1)
        # The angle between two lines, in [0, pi / 2], accurate even where it is small.
        cross = np.abs(across * its_down - down * its_across)
        angle = np.arctan2(cross, np.abs(across * its_across + down * its_down))
        quality = _sigmoid(likeness, QABF_STRENGTH)
        quality *= _sigmoid(1 - angle / (np.pi / 2), QABF_ORIENTATION)
        kept += (its_strength * quality).sum()
        weight += its_strength.sum()
    return _ratio(kept, weight)


def _gradient(luma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sobel's derivatives to the right and downwards."""
    return cv2.Sobel(luma, cv2.CV_64F, 1, 0), cv2.Sobel(luma, cv2.CV_64F, 0, 1)


def _histogram_bins(picture: np.ndarray, peak: float) -> np.ndarray:
    """The luma in 256 levels, (H W,) int."""
    return np.rint((LEVELS - 1) * _luma(picture, peak)).astype(np.int64).clip(0, LEVELS - 1).ravel()


def _entropy(bins: np.ndarray) -> float:
    """Entropy in bits of the frequencies of non-negative integers."""
    counts = np.bincount(bins)
    counts = counts[counts > 0]
    return float((counts * np.log2(bins.size / counts)).sum() / bins.size)


def mutual_information(fused: np.ndarray, frames: Frames, peak: float) -> float:
    """Q_MI: mutual information of the fused picture and each frame over the sum of their entropies.

    Computed from histograms of the luma in 256 levels. For two frames it is
    2 (I(F, S1) / (H(F) + H(S1)) + I(F, S2) / (H(F) + H(S2))), from 0 to 2; for N the sum is
    multiplied by 2 / N. Two flat pictures share 0. Known to mislead: a copy of one frame scores
    above the answer, and the mean of the frames can as well.

    Source:
        Hossny et al., "Comments on 'Information measure for performance of image fusion'",
        Electronics Letters 2008.
    """
    bins = _histogram_bins(fused, peak)
    entropy_of_fused = _entropy(bins)
    shares = []
    for frame in frames:
        its_bins = _histogram_bins(frame, peak)
        both = entropy_of_fused + _entropy(its_bins)
        common = both - _entropy(LEVELS * bins + its_bins)
        shares.append(common / both if both > 0 else 0.0)
    return 4 * float(np.mean(shares))


def spatial_frequency(fused: np.ndarray, frames: Frames, peak: float) -> float:
    """SF: root mean square difference between neighbouring pixels, across and down.

    Of the fused picture alone, on the scale where white is 255; both sums of squares are divided by
    H W, as published.

    Source:
        Eskicioglu and Fisher, "Image quality measures and their performance", IEEE Transactions on
        Communications 1995.
    """
    luma = 255 * _luma(fused, peak)
    squares = sum((np.diff(luma, axis=axis) ** 2).sum() for axis in (0, 1))
    return float(np.sqrt(squares / luma.size))


def average_gradient(fused: np.ndarray, frames: Frames, peak: float) -> float:
    """AG: mean of sqrt((across^2 + down^2) / 2) of the differences between neighbouring pixels.

    Of the fused picture alone, on the scale where white is 255.

    Raises:
        ValueError: a side has one pixel.
    Source:
        Cui et al., "Detail preserved fusion of visible and infrared images using regional saliency
        extraction and multi-scale image decomposition", Optics Communications 2015.
    """
    luma = 255 * _luma(fused, peak)
    _check_side(luma, 2, "AG")
    across, down = np.diff(luma, axis=1)[:-1], np.diff(luma, axis=0)[:, :-1]
    return float(np.mean(np.sqrt((across**2 + down**2) / 2)))


def entropy(fused: np.ndarray, frames: Frames, peak: float) -> float:
    """EN: entropy in bits of the histogram of the fused picture's luma in 256 levels.

    Source:
        Roberts et al., "Assessment of image fusion procedures using entropy, image quality, and
        multispectral classification", Journal of Applied Remote Sensing 2008.
    """
    return _entropy(_histogram_bins(fused, peak))


class Index(NamedTuple):
    """One index: its function, +1 where larger is better or -1, and its paper."""

    function: Callable[[np.ndarray, Frames, float], float]
    direction: int
    paper: str


INDICES = {
    "Q_W": Index(weighted_quality, 1, "Piella and Heijmans 2003"),
    "SCD": Index(sum_of_correlations, 1, "Aslantas and Bendes 2015"),
    "VIFF": Index(visual_information_fidelity, 1, "Han et al. 2013"),
    "Qabf": Index(edge_preservation, 1, "Xydeas and Petrovic 2000"),
    "Q_MI": Index(mutual_information, 1, "Hossny et al. 2008"),
    "SF": Index(spatial_frequency, 1, "Eskicioglu and Fisher 1995"),
    "AG": Index(average_gradient, 1, "Cui et al. 2015"),
    "EN": Index(entropy, 1, "Roberts et al. 2008"),
}


def index_scores(
    fused: np.ndarray, frames: Frames, peak: float, names: Iterable[str] | None = None
) -> dict[str, float]:
    """Indices of one fused picture.

    Args:
        fused: (H, W) or (H, W, C), C 1 or 3.
        frames: (N, H, W[, C]) or a list of N, of the shape and the dtype of `fused`; N >= 1.
        peak: the value of white.
        names: of INDICES; None for all.
    Returns:
        {name: float} in the order of the names; NaN where flat pictures leave an index undefined.
    Raises:
        ValueError: there is no frame, a frame has another shape or dtype, the picture is neither
            grey nor RGB or too small for an index, or a name is unknown.
    """
    names = list(INDICES if names is None else names)
    if unknown := set(names) - set(INDICES):
        raise ValueError(f"{min(unknown)} is not an index: choose from {', '.join(INDICES)}")
    if not len(frames):
        raise ValueError("there is no frame to score the fused picture against")
    if fused.ndim not in (2, 3) or fused.shape[2:] not in ((), (1,), (3,)):
        raise ValueError(f"the picture is {fused.shape}, not grey or RGB of (height, width[, 3])")
    for k, frame in enumerate(frames):
        if frame.shape != fused.shape or frame.dtype != fused.dtype:
            raise ValueError(
                f"the picture is {fused.shape} {fused.dtype}, its frame {k} is {frame.shape} "
                f"{frame.dtype}"
            )
    # Once for all indices; in float32 it takes a third of the memory of float32 colours.
    fused, *lumas = (_luma(picture, peak).astype(np.float32) for picture in (fused, *frames))
    return {name: INDICES[name].function(fused, lumas, 1.0) for name in names}


def rank_correlation(scores: np.ndarray, truth: np.ndarray) -> float:
    """How well scores rank methods: Spearman's correlation in each scene, averaged over the scenes.

    Args:
        scores: (S, M) numbers of S scenes and M methods, larger is better (negate an index for
            which it is not).
        truth: the same for a score to compare with, such as PSNR; infinite ones rank first.
    Returns:
        The mean in [-1, 1] over the scenes where the correlation is defined; NaN if there is none.
        In a scene, methods with a NaN are ignored; the correlation is undefined where the scores or
        the truths of all remaining methods are equal.
    Raises:
        ValueError: the shapes differ or are not (S, M).
    Source:
        Spearman, "The proof and measurement of association between two things", American Journal
        of Psychology 1904.
    """
    from scipy.stats import spearmanr  # takes a second to load

    scores, truth = np.asarray(scores, np.float64), np.asarray(truth, np.float64)
    if scores.shape != truth.shape or scores.ndim != 2:
        raise ValueError(f"scores are {scores.shape}, truths {truth.shape}: give (scenes, methods)")
    correlations = []
    for pair in zip(scores, truth):
        rows = np.stack(pair)
        rows = rows[:, ~np.isnan(rows).any(0)]
        if min(len(np.unique(row)) for row in rows) > 1:
            correlations.append(spearmanr(*rows).statistic)
    return float(np.mean(correlations)) if correlations else float("nan")
