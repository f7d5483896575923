"""Frames with another tone curve than their neighbours, as by another picture profile.

A gain leaves a difference that depends on brightness. Blur makes one, too: it darkens what is
bright and brightens what is dark, but not by the same curve against both neighbours, which the
focus has passed one way; and it changes even places little. So the places that are even in three
frames tell the curve of each pair. It counts as far as both neighbours agree, if they differ less
from one another.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from stackmff.alignment.exposure import CODED, Tiles
from stackmff.alignment.registration import at_scale

KNOTS = 33  # of a curve, spread evenly over the coded values
EVEN = 0.05  # contrast up to which a place is even; half of them are in any case
DARKEST = 0.02  # coded value that is added before logarithms are taken
LEAST_VALUES = 8  # in a class of brightness, on average
# Range of the coded values by which two neighbours agree that a frame differs, beyond a gain: from
# which on fine tiles are looked at, from which on a curve is fitted, and that over the range by
# which the neighbours differ. Of 80 frames of real stacks that lie between others, the worst has
# 0.021, and 0.2 times what the neighbours differ by. The ends have neighbours on one side only,
# from which they may differ by blur: there the worst has 0.052, and 3.3 times.
SUSPECT, CERTAIN, CLEAR = 0.009, 0.025, 0.5
CERTAIN_END, CLEAR_END = 0.04, 4.0
COARSE, FINE = 4, 8  # classes of brightness that tiles are put in
BEYOND = 0.005, 0.995  # of the values, between which a curve is fitted
TINY = 1e-3  # coded value that is added before logarithms are taken for a curve
# Of the median deviation from the best gain, at most, that may be left by a curve. Between others,
# frames of real stacks have 0.37 to 1.1; under another curve, 0.02 to 0.5.
MOST_LEFT = 0.6


class _Difference(NamedTuple):
    """By how much a frame differs from its neighbours, beyond a gain, in coded values.

    Attributes:
        agreed: range by which both tell it; between: range by which they differ themselves.
    """

    agreed: float
    between: float

    def is_clear(self, is_end: bool) -> bool:
        """Whether no blur explains it."""
        least, times = (CERTAIN_END, CLEAR_END) if is_end else (CERTAIN, CLEAR)
        return self.agreed >= max(least, times * self.between)


def tone_curves(
    tiles: Sequence[Tiles],
    placed: Mapping[int, np.ndarray],
    finer: Callable[[int], Tiles],
) -> dict[int, np.ndarray]:
    """The curves that give frames the tones of their neighbours.

    Args:
        tiles: of each frame.
        placed: {index: (3, 3) transform from the reference} of the frames that count, in order.
        finer: gives the fine tiles of a frame by its index.
    Returns:
        {index: (KNOTS, C) in [0, 1]}, see `bend`, only of frames that clearly need one.
    """
    kept = list(placed)
    curves = {}
    for place, k in enumerate(kept if len(kept) > 2 else ()):
        last = len(kept) - 1
        near = {0: (1, 2), last: (last - 1, last - 2)}.get(place, (place - 1, place + 1))
        is_end, others = place in (0, last), [kept[j] for j in near]
        matrices = [placed[j] @ np.linalg.inv(placed[k]) for j in others]
        rough = _difference(*_values(tiles[k], [tiles[j] for j in others], matrices), COARSE)
        if rough.agreed < max(SUSPECT, CLEAR * rough.between):
            continue
        values = _values(finer(k), [finer(j) for j in others], matrices)
        found = _difference(*values, FINE)
        if not found.is_clear(is_end):
            continue
        curve = _fitted(*values)
        if _left(curve, *values) <= MOST_LEFT:
            curves[k] = curve
    return curves


def _values(
    own: Tiles, others: Sequence[Tiles], matrices: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The coded values of places that are even in a frame and in two others.

    Args:
        own: of the frame; others: of the two; matrices: (3, 3) from the frame to them.
    Returns:
        (n, C) of the frame, (2, n, C) of the others.
    """
    height, width = own.unclipped.shape
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    lights, contrast, usable = [own.light[CODED]], own.contrast[CODED], own.unclipped > 0
    for other, matrix in zip(others, matrices, strict=True):
        local = at_scale(matrix, own.side)
        planes = [*other.light[CODED].transpose(2, 0, 1), other.contrast[CODED], other.unclipped]
        moved = [cv2.warpAffine(plane, local, (width, height), flags=flags) for plane in planes]
        lights.append(np.stack(moved[:-2], -1))
        contrast = np.maximum(contrast, moved[-2])
        usable &= moved[-1] > 0.99
    if usable.any():
        usable &= contrast <= max(float(np.median(contrast[usable])), EVEN)
    # What was moved between tiles has lost contrast: this is little of what all of them lose here.
    smooth = [cv2.GaussianBlur(light, (0, 0), 1.0).reshape(light.shape) for light in lights]
    values = np.stack(smooth)[:, usable].astype(np.float64)
    return values[0], values[1:]


def _difference(own: np.ndarray, others: np.ndarray, classes: int) -> _Difference:
    """The _Difference of values (n, C) from two others (2, n, C), mean of the colours."""
    if len(own) < LEAST_VALUES * classes:
        return _Difference(0.0, 0.0)
    agreed, between = [], []
    for mine, *theirs in zip(own.T, *(other.T for other in others), strict=True):
        edges = np.quantile(mine, np.linspace(0, 1, classes + 1))[1:-1]
        one, other = (_beyond_gain(values, mine, edges) for values in theirs)
        same = np.where(one * other > 0, np.sign(one), 0) * np.minimum(abs(one), abs(other))
        agreed.append(np.ptp(same))
        between.append(np.ptp(_beyond_gain(theirs[0], theirs[1], edges)))
    return _Difference(float(np.mean(agreed)), float(np.mean(between)))


def _beyond_gain(first: np.ndarray, second: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """By how much values (n,) exceed others, beyond a gain, in classes of their mean.

    Args:
        first, second: (n,).
        edges: (m - 1,) between the classes.
    Returns:
        (m,) of second over first, 0 for a class of too few.
    """
    means = (first + second) / 2
    ratios = np.log((second + DARKEST) / (first + DARKEST))
    ratios -= np.median(ratios)
    numbers = np.searchsorted(edges, means)
    out = np.zeros(len(edges) + 1)
    for k in range(len(out)):
        chosen = numbers == k
        if chosen.sum() >= LEAST_VALUES / 2:
            out[k] = np.median(ratios[chosen]) * np.median(means[chosen])
    return out


def _fitted(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The curve (KNOTS, C) from values (n, C) to the mean of two others (2, n, C).

    The logarithm of the factor is a polynomial of the value and its logarithm. Where no values are
    the factor is that of the nearest.
    """
    from scipy.optimize import least_squares

    knots = np.linspace(0, 1, KNOTS)
    out = []
    for mine, wanted in zip(own.T, others.mean(0).T, strict=True):
        low, high = np.quantile(mine, BEYOND)
        given, factor = _terms(mine.clip(low, high)), np.log((wanted + TINY) / (mine + TINY))
        start = np.linalg.lstsq(given, factor, rcond=None)[0]
        scale = 1.48 * np.median(np.abs(factor - given @ start)) + 1e-3
        found = least_squares(
            lambda weights, given, factor: given @ weights - factor,
            start,
            loss="cauchy",
            f_scale=scale,
            args=(given, factor),
        )
        curve = knots * np.exp(_terms(knots.clip(low, high)) @ found.x)
        out.append(np.maximum.accumulate(curve.clip(0, 1)))
    return np.stack(out, 1)


def _left(curve: np.ndarray, own: np.ndarray, others: np.ndarray) -> float:
    """The part of the deviation from the best gain that a curve leaves; arguments as of _fitted."""
    wanted, knots = others.mean(0), np.linspace(0, 1, KNOTS)
    bent = np.stack([np.interp(a, knots, b) for a, b in zip(own.T, curve.T, strict=True)], 1)
    gained = own * np.median(wanted / np.maximum(own, TINY), axis=0)
    by_curve, by_gain = (np.median(np.abs(each - wanted), 0) for each in (bent, gained))
    return float((by_curve / np.maximum(by_gain, TINY)).mean())


def _terms(values: np.ndarray) -> np.ndarray:
    """(n, 4), what the logarithm of a factor is a sum of, at values (n,)."""
    return np.stack([values**0, values, values**2, np.log(values + TINY)], 1)


def bend(frame: np.ndarray, curve: np.ndarray) -> None:
    """Give the colours of a frame (H, W, C) uint8 or uint16 a curve (KNOTS, 1 or 3), in place."""
    white = np.iinfo(frame.dtype).max
    places = np.arange(white + 1) / white
    knots = np.linspace(0, 1, len(curve))
    for channel, values in enumerate(curve.T):
        table = np.rint(white * np.interp(places, knots, values)).astype(frame.dtype)
        frame[..., channel] = table[frame[..., channel]]
