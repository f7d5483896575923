"""Goes beyond the mixture of the frames, beside edges, with the frames' own light.

The counterpart in NumPy and OpenCV of what finish.py does in training: there is the formula, here
what fits a CPU. A network says from luma how much is added of each term.
"""

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from stackmff.fusion.engines import extended
from stackmff.fusion.reduction import means
from stackmff.images.colour import LUMA
from stackmff.images.levels import Levels

PICKS = 3  # frames with the most weight nearby
SIGMA, TAPS = 1.25, 7  # of the Gaussian by which "nearby" is meant, in squares of 2x2 px
FINEST, FINEST_TAPS = 1.0, 7  # px, of what is finest

# From the luma (PICKS + 3, h, w) of what may be added and of the mixture less 0.5, and the weights
# (PICKS, h/2, w/2) nearby, to coefficients (PICKS + 2, h, w); h and w are even.
Coefficients = Callable[[np.ndarray, np.ndarray], np.ndarray]


def corrected(
    mixture: np.ndarray,
    weights: np.ndarray,
    frames: np.ndarray,
    coefficients: Coefficients,
    levels: Levels | None = None,
) -> np.ndarray:
    """The mixture of a tile with what it lacks beside edges.

    Args:
        mixture: (C, h, w) float32, in the range of the frames.
        weights: (N, h, w) float32, sum 1 over N.
        frames: (N, h, w, C) uint8 or uint16, C 1 or 3.
        coefficients: what a network says, see Coefficients.
        levels: of the stack; None: the network sees it as it is.
    Returns:
        (C, h, w) float32, each value within the range of the frames in the 3x3 px around it.
    """
    share, index = heaviest(weights)
    picks = [cv2.split(pick) for pick in picked(frames, index)]
    terms = [terms_of(plane, of_picks) for plane, *of_picks in zip(mixture, *picks, strict=True)]
    factors = coefficients(seen_terms(mixture, terms, frames.dtype, levels), share)
    factors = factors[:, : mixture.shape[1], : mixture.shape[2]]
    low, high = frames[0].copy(), frames[0].copy()
    for frame in frames[1:]:  # half of the time of frames.min(0)
        cv2.min(low, frame, dst=low)
        cv2.max(high, frame, dst=high)
    square = np.ones((3, 3), np.uint8)
    bounds = cv2.split(cv2.erode(low, square)), cv2.split(cv2.dilate(high, square))
    out = mixture.copy()
    for plane, of_plane, least, largest in zip(out, terms, *bounds, strict=True):
        for factor, term in zip(factors, of_plane, strict=True):
            cv2.accumulateProduct(factor, term, plane)
        cv2.max(plane, least.astype(np.float32), dst=plane)
        cv2.min(plane, largest.astype(np.float32), dst=plane)
    return out


def terms_of(plane: np.ndarray, picks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What may be added to a channel of the mixture, PICKS + 2 times (h, w) float32."""
    terms = [cv2.subtract(pick, plane, dtype=cv2.CV_32F) for pick in picks]
    for picture in (plane, picks[0].astype(np.float32)):
        taps = (FINEST_TAPS, FINEST_TAPS)
        wide = cv2.GaussianBlur(picture, taps, FINEST, borderType=cv2.BORDER_REPLICATE)
        terms.append(cv2.subtract(picture, wide, dst=wide))
    return terms


def seen_terms(
    mixture: np.ndarray,
    terms: Sequence[Sequence[np.ndarray]],
    dtype: np.dtype[Any],
    levels: Levels | None,
) -> np.ndarray:
    """The luma of what may be added, and of the mixture less 0.5: (PICKS + 3, h', w').

    Args:
        mixture: (C, h, w); terms: of its channels, see `terms_of`.
        dtype: of the frames; levels: of the stack.
    Returns:
        float32 in units of white, the sides padded to even numbers.
    """
    parts = LUMA if len(mixture) == 3 else (1.0,)
    gain = 1.0 if levels is None else levels.gain
    shape = tuple(-(-side // 2) * 2 for side in mixture.shape[1:])
    height, width = mixture.shape[1:]
    seen = np.zeros((PICKS + 3, *shape), np.float32)
    for part, plane, of_plane in zip(parts, mixture, terms, strict=True):
        factor = gain * part / np.iinfo(dtype).max
        for total, term in zip(seen, (*of_plane, plane), strict=True):
            inner = total[:height, :width]
            cv2.scaleAdd(term, factor, inner, dst=inner)
    seen[-1] -= 0.5 if levels is None else 0.5 + gain * levels.low
    return extended(seen[:, :height, :width], shape)


def heaviest(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The frames with the most weight around each 2x2 px, the last one repeated if N < PICKS.

    Float32 from 0 are in the order of their bits read as whole numbers. So the lowest bits of a
    weight can hold the number of its frame, and sorting takes minima and maxima alone. Of frames
    whose weights are the same but for these bits (8 of 23 for 256 frames) the first is taken.

    Args:
        weights: (N, h, w).
    Returns:
        (share, index): (PICKS, h/2, w/2) float32 and uint16, sides rounded up.
    """
    last = len(weights) - 1
    numbers = np.int32((1 << last.bit_length()) - 1)  # the bits that hold the number of a frame
    most = np.full((PICKS, *(-(-side // 2) for side in weights.shape[1:])), -1, np.int32)
    for k, weight in enumerate(weights):
        near = means(weight, 2)
        cv2.GaussianBlur(near, (TAPS, TAPS), SIGMA, dst=near, borderType=cv2.BORDER_REPLICATE)
        here = near.view(np.int32)
        here &= ~numbers
        here |= np.int32(last - k)
        for place in range(min(k + 1, PICKS)):  # each goes down the list as heavier ones come
            lighter = np.minimum(here, most[place])
            np.maximum(here, most[place], out=most[place])
            here = lighter
    for place in range(len(weights), PICKS):
        most[place] = most[place - 1]
    return (most & ~numbers).view(np.float32), (last - (most & numbers)).astype(np.uint16)


def picked(frames: np.ndarray, index: np.ndarray) -> list[np.ndarray]:
    """The picture of each of the PICKS, (h, w, C).

    Args:
        frames: (N, h, w, C).
        index: (PICKS, ceil(h/2), ceil(w/2)) uint16.
    """
    _, height, width, channels = frames.shape
    pictures = []
    for numbers in index:
        near = numbers.repeat(2, 0).repeat(2, 1)[:height, :width]
        picture = np.empty((height, width, channels), frames.dtype)
        for k in np.flatnonzero(np.bincount(numbers.ravel())):
            # Not cv2.compare, which takes an array of one pixel for a number.
            mask = (near == k).view(np.uint8)
            cv2.copyTo(frames[k], mask, picture)
        pictures.append(picture)
    return pictures
