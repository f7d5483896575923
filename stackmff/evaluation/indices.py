"""Scores of a fused picture against the frames that it was fused from, without an answer.

Every index is a function (fused, frames, peak) -> float, where

    fused: (H, W) or (H, W, C), C 1 or 3 (RGB), integers or floats in [0, peak]
    frames: N >= 1 pictures of that shape and dtype, as (N, H, W[, C]) or a list
    peak: the value of white, 255 for 8 bit, 65535 for 16 bit, 1 for floats in [0, 1]

All of them see the BT.601 luma, unrounded and in float64: differences of uint8 would wrap around.
The order of the frames does not matter. Frames are taken one after the other, so that what an index
needs does not grow with their number; `index_scores` holds their luma for all indices, 4 bytes a
pixel and frame. An index is NaN where flat pictures leave it undefined.

Indices were published for two sources; each function says how N of them are taken, such that N = 2
gives the published value. They do not replace an answer: `rank_correlation` says how well one ranks
methods. A new index is one function and one line in INDICES.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from scipy.stats import spearmanr

from stackmff.evaluation.metrics import to_gray, window_means

FLAT = 1e-12  # variance, white being 1; one 16 bit level in one pixel of 64 gives 4e-12
Q_W_WINDOW = 8  # px
SCD_BAND = 2**22  # luma values held at a time
VIFF_WINDOWS = (17, 9, 5, 3)  # px, of the four scales, the finest first; sigma is a fifth
VIFF_WEIGHTS = (1 / 2.15, 0.0, 0.15 / 2.15, 1 / 2.15)  # of the scales
VIFF_NOISE = 0.005  # variance of the visual noise, white being 1
VIFF_OFFSET = 1e-7  # of both informations in each window
VIFF_LEAST = 41  # px, one window at the last scale

# Height, slope and middle of Qabf's sigmoids.
QABF_STRENGTH = (0.9994, -15.0, 0.5)
QABF_ORIENTATION = (0.9879, -22.0, 0.8)
LEVELS = 256  # of the histograms


def _luma(picture, peak):
    """BT.601 luma, (H, W) float64, white being 1."""
    return to_gray(np.asarray(picture, np.float32) / np.float32(peak)).astype(np.float64)


def _ratio(above, below):
    """above / below, NaN where below is 0."""
    return float(above / below) if below else np.nan


def _check_side(picture, least, name):
    """Raise ValueError if a side of a picture is shorter than `least` px."""
    height, width = picture.shape
    if min(height, width) < least:
        raise ValueError(
            f"a picture of {width}x{height} is smaller than the {least}x{least} px that {name} "
            "needs"
        )


def _moments(picture, kernel):
    """Means and variances in all windows, the variances 0 where nothing but rounding is left."""
    mean = window_means(picture, kernel)
    variance = window_means(picture**2, kernel) - mean**2
    variance[variance < FLAT] = 0
    return mean, variance


def weighted_quality(fused, frames, peak):
    """Q_W: Wang and Bovik's universal quality index between the fused picture and each frame.

    In each window of 8x8 px the frames' indices are weighted by their saliency, the variance, over
    the sum of all frames' saliencies, and the window by its largest saliency. 1 for a fused picture
    that equals all frames.

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
        # A window where `below` is 0 has saliency 0 and counts for nothing.
        index = 4 * covariance * mean * its_mean / np.where(below > 0, below, 1)
        quality += saliency * index
        total += saliency
        np.maximum(largest, saliency, out=largest)
    quality /= np.where(total > 0, total, 1)
    return _ratio((largest * quality).sum(), largest.sum())


def _covariances(fused, frames, peak):
    """Covariances of the fused picture, first, and all frames: (N + 1, N + 1)."""
    pictures = [fused, *frames]
    products, sums = np.zeros((len(pictures),) * 2), np.zeros(len(pictures))
    height, width = fused.shape[:2]
    step = max(1, SCD_BAND // (len(pictures) * width))
    for top in range(0, height, step):  # all frames at once, but not all of their rows
        rows = slice(top, top + step)
        band = np.stack([_luma(picture[rows], peak).ravel() for picture in pictures])
        products += band @ band.T
        sums += band.sum(1)
    n_pixels = height * width
    return products / n_pixels - np.outer(sums, sums) / n_pixels**2


def sum_of_correlations(fused, frames, peak):
    """SCD: what the fused picture has beyond one frame, correlated with another frame.

    For two frames r(F - S2, S1) + r(F - S1, S2), from -2 to 2. For N it is twice the mean of
    r(F - Sj, Sk) over all pairs j != k; for one frame twice r(F, S1). A difference or a frame that
    is flat has correlation 0. Taking the mean of all other frames from F instead of one would put
    the frames' mean above the answer where N is large.

    Source:
        Aslantas and Bendes, "A new image quality metric for image fusion: the sum of the
        correlations of differences", AEU 2015.
    """
    covariances = _covariances(fused, frames, peak)
    own, to_fused, between = covariances[0, 0], covariances[0, 1:], covariances[1:, 1:]
    if len(frames) == 1:  # nothing to take away
        differences, common, pairs = np.array([own]), to_fused[None, :], np.array([[True]])
    else:
        differences = own - 2 * to_fused + np.diag(between)  # variances of F - Sj
        common = to_fused[None, :] - between  # covariances of F - Sj, the row, and Sk
        pairs = ~np.eye(len(frames), dtype=bool)
    differences, variances = differences[:, None], np.diag(between)[None, :]
    flat = np.minimum(differences, variances) < FLAT
    below = np.sqrt(np.where(flat, 1, differences * variances))
    return 2 * float(np.where(flat, 0, common / below)[pairs].mean())


def _viff_scales(picture):
    """[(picture at the scale, mean and variance in its windows)], None for a scale of weight 0."""
    scales = []
    for size, weight in zip(VIFF_WINDOWS, VIFF_WEIGHTS):
        kernel = cv2.getGaussianKernel(size, size / 5)
        if scales:
            picture = np.ascontiguousarray(window_means(picture, kernel)[::2, ::2])
        scales.append((picture, kernel, *_moments(picture, kernel)) if weight else None)
    return scales


def _visual_information(frame, fused):
    """What an eye sees of a frame at one scale, in the fused picture and in the frame itself.

    Args:
        frame, fused: one entry of `_viff_scales` each.
    Returns:
        (gain, kept, full), a map each: the frame's contrast in the fused picture, 0 where there is
        none or it is inverted, the information that is kept of it and all its information, in nats.
    """
    (picture, kernel, mean, variance), (other, _, its_mean, its_variance) = frame, fused
    covariance = window_means(picture * other, kernel) - mean * its_mean
    seen = (covariance > 0) & (variance > 0) & (its_variance > 0)
    gain = np.where(seen, covariance, 0) / np.where(seen, variance, 1)
    residual = np.maximum(its_variance - gain * covariance, 0)
    kept = np.log1p(gain**2 * variance / (residual + VIFF_NOISE))
    return gain, kept, np.log1p(variance / VIFF_NOISE)


def visual_information_fidelity(fused, frames, peak):
    """VIFF: the share of the frames' visual information that the fused picture keeps.

    Each window at each of four scales counts with one frame, that of the smallest gain (of two of
    equal gain, that of more information): with a fused picture given, the smaller the gain, the
    more contrast the frame had. A frame that is flat or inverted there has gain 0, so the window
    counts with it, as in the published one, and for a flat frame without any information. At each
    scale the kept information of all windows is divided by the frames' own. 1 for a fused picture
    that equals all frames; more contrast gives more than 1. The luma stands for the published L* of
    CIELAB.

    Raises:
        ValueError: a side is shorter than VIFF_LEAST.
    Source:
        Han et al., "A new image fusion performance metric based on visual information fidelity",
        Information Fusion 2013.
        Sheikh and Bovik, "Image information and visual quality", IEEE TIP 2006.
    """
    fused = _luma(fused, peak)
    _check_side(fused, VIFF_LEAST, "VIFF")
    fused = _viff_scales(fused)
    chosen = [None] * len(fused)
    for frame in frames:
        for i, (mine, its) in enumerate(zip(_viff_scales(_luma(frame, peak)), fused)):
            if mine is None:
                continue
            maps = _visual_information(mine, its)
            if chosen[i] is None:
                chosen[i] = maps
                continue
            (gain, _, full), (least, _, its_full) = maps, chosen[i]
            better = (gain < least) | ((gain == least) & (full > its_full))
            for old, new in zip(chosen[i], maps):
                np.copyto(old, new, where=better)
    score = 0.0
    for weight, maps in zip(VIFF_WEIGHTS, chosen):
        if weight:
            _, kept, full = maps
            score += weight * (kept + VIFF_OFFSET).sum() / (full + VIFF_OFFSET).sum()
    return float(score)


def _sigmoid(value, constants):
    height, slope, middle = constants
    return height / (1 + np.exp(slope * (value - middle)))


def edge_preservation(fused, frames, peak):
    """Qabf: how well strength and orientation of the frames' edges are kept.

    Sobel's gradients; a pixel of a frame weighs with the strength of its edge, over all N frames.
    Orientations are compared modulo 180 degrees. With the published constants a perfect copy has
    0.9994 / (1 + exp(-7.5)) * 0.9879 / (1 + exp(-4.4)) = 0.9748, not 1.

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
        # The angle between two lines, in [0, pi / 2], exact also where it is small.
        cross = np.abs(across * its_down - down * its_across)
        angle = np.arctan2(cross, np.abs(across * its_across + down * its_down))
        quality = _sigmoid(likeness, QABF_STRENGTH)
        quality *= _sigmoid(1 - angle / (np.pi / 2), QABF_ORIENTATION)
        kept += (its_strength * quality).sum()
        weight += its_strength.sum()
    return _ratio(kept, weight)


def _gradient(luma):
    """Sobel's derivatives to the right and downwards."""
    return cv2.Sobel(luma, cv2.CV_64F, 1, 0), cv2.Sobel(luma, cv2.CV_64F, 0, 1)


def _histogram_bins(picture, peak):
    """The luma in 256 levels, (H W,) int."""
    return np.rint((LEVELS - 1) * _luma(picture, peak)).astype(np.int64).clip(0, LEVELS - 1).ravel()


def _entropy(bins):
    """Entropy in bits of the frequencies of non-negative integers."""
    counts = np.bincount(bins)
    counts = counts[counts > 0]
    return float((counts * np.log2(bins.size / counts)).sum() / bins.size)


def mutual_information(fused, frames, peak):
    """Q_MI: mutual information of the fused picture and each frame over the sum of their entropies.

    Of the histograms of the luma in 256 levels. For two frames
    2 (I(F, S1) / (H(F) + H(S1)) + I(F, S2) / (H(F) + H(S2))), from 0 to 2; for N the sum is taken
    times 2 / N. Two flat pictures share 0. Known to mislead: a copy of one frame scores above
    the answer, and so can the mean of the frames.

    Source:
        Hossny et al., "Comments on 'Information measure for performance of image fusion'",
        Electronics Letters 2008.
    """
    fused = _histogram_bins(fused, peak)
    entropy = _entropy(fused)
    shares = []
    for frame in frames:
        frame = _histogram_bins(frame, peak)
        both = entropy + _entropy(frame)
        common = both - _entropy(LEVELS * fused + frame)
        shares.append(common / both if both > 0 else 0.0)
    return 4 * float(np.mean(shares))


def spatial_frequency(fused, frames, peak):
    """SF: root mean square of the differences between neighbours across and down, white being 255.

    The fused picture alone; both sums of squares are divided by H W, as published.

    Source:
        Eskicioglu and Fisher, "Image quality measures and their performance", IEEE Transactions on
        Communications 1995.
    """
    luma = 255 * _luma(fused, peak)
    squares = sum((np.diff(luma, axis=axis) ** 2).sum() for axis in (0, 1))
    return float(np.sqrt(squares / luma.size))


def average_gradient(fused, frames, peak):
    """AG: mean of sqrt((across^2 + down^2) / 2) of the differences, white being 255.

    The fused picture alone.

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


def entropy(fused, frames, peak):
    """EN: entropy in bits of the histogram of the luma in 256 levels, of the fused picture alone.

    Source:
        Roberts et al., "Assessment of image fusion procedures using entropy, image quality, and
        multispectral classification", Journal of Applied Remote Sensing 2008.
    """
    return _entropy(_histogram_bins(fused, peak))


class Index(NamedTuple):
    """One index: its function, +1 where larger is better or -1, and its paper."""

    function: Callable
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


def index_scores(fused, frames, peak, names=None):
    """Indices of one fused picture.

    Args:
        fused: (H, W) or (H, W, C), C 1 or 3.
        frames: (N, H, W[, C]) or a list of N, of the shape and the dtype of `fused`; N >= 1.
        peak: the value of white.
        names: of INDICES; None for all.
    Returns:
        {name: float} in the order of the names; NaN where flat pictures leave an index undefined.
    Raises:
        ValueError: no frame, a frame of another shape or dtype, a picture of other channels or too
            small for an index, or an unknown name.
    """
    names = list(INDICES if names is None else names)
    if unknown := set(names) - set(INDICES):
        raise ValueError(f"no index {min(unknown)}: choose from {', '.join(INDICES)}")
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
    # Once for all indices; in float32 a third of the memory that colours in it would take.
    fused, *lumas = (np.float32(_luma(picture, peak)) for picture in (fused, *frames))
    return {name: INDICES[name].function(fused, lumas, 1.0) for name in names}


def rank_correlation(scores, truth):
    """How well scores rank methods: Spearman's correlation in each scene, averaged over the scenes.

    Args:
        scores, truth: (S, M) numbers of S scenes and M methods, larger is better in both (negate an
            index or a metric where it is not), `truth` such as PSNR; infinite ones rank first.
    Returns:
        The mean in [-1, 1] over the scenes that have an answer; NaN if none has. In a scene a
        method with a NaN is left out; a scene has no answer where the scores or the truths of all
        methods left are equal.
    Raises:
        ValueError: the shapes differ or are not (S, M).
    Source:
        Spearman, "The proof and measurement of association between two things", American Journal
        of Psychology 1904.
    """
    scores, truth = np.asarray(scores, np.float64), np.asarray(truth, np.float64)
    if scores.shape != truth.shape or scores.ndim != 2:
        raise ValueError(f"scores are {scores.shape}, truths {truth.shape}: give (scenes, methods)")
    correlations = []
    for pair in zip(scores, truth):
        pair = np.stack(pair)
        pair = pair[:, ~np.isnan(pair).any(0)]
        if min(len(np.unique(row)) for row in pair) > 1:
            correlations.append(spearmanr(*pair).statistic)
    return float(np.mean(correlations)) if correlations else np.nan
