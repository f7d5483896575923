"""Goes beyond the mixture of the frames, beside edges, with the frames' own light.

The counterpart in NumPy and OpenCV of what finish.py does in training: there is the formula, here
what fits a CPU. A network says from luma how much is added of each term.
"""

from collections.abc import Callable

import cv2
import numpy as np

from stackmff.fusion.reduction import means
from stackmff.images.colour import luma
from stackmff.images.levels import Levels

PICKS = 3  # frames with the most weight nearby
SIGMA, TAPS = 1.25, 7  # of the Gaussian by which "nearby" is meant, in squares of 2x2 px
FINEST, FINEST_TAPS = 1.0, 5  # px, of what is finest

# Luma (1 + PICKS, h, w) in [0, 1] of the mixture and of what was picked, and the weights
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
    picks = picked(frames, index)
    most = np.float32(np.iinfo(frames.dtype).max)
    lumas = [luma(np.moveaxis(mixture, 0, -1)[None])[0] / most, *luma(np.stack(picks))]
    seen = np.stack(lumas)
    if levels is not None:
        seen = levels.stretched(seen)
    factors = coefficients(seen, share)
    low, high = frames.min(0), frames.max(0)
    square = np.ones((3, 3), np.uint8)
    low, high = cv2.erode(low, square), cv2.dilate(high, square)
    out = np.empty_like(mixture)
    split = [cv2.split(pick) for pick in picks]
    bounds = zip(cv2.split(low), cv2.split(high), strict=True)
    for channel, (least, largest) in enumerate(bounds):
        plane = mixture[channel]
        total = plane.copy()
        for factor, of_pick in zip(factors, split, strict=False):
            add_product(total, factor, cv2.subtract(of_pick[channel], plane, dtype=cv2.CV_32F))
        first = split[0][channel].astype(np.float32)
        for factor, finest in zip(factors[PICKS:], (plane, first), strict=True):
            wide = cv2.GaussianBlur(
                finest, (FINEST_TAPS, FINEST_TAPS), FINEST, borderType=cv2.BORDER_REPLICATE
            )
            add_product(total, factor, cv2.subtract(finest, wide, dst=wide))
        np.clip(total, least, largest, out=out[channel])
    return out


def add_product(total: np.ndarray, factor: np.ndarray, term: np.ndarray) -> None:
    """total += factor * term, all (h, w) float32; the term is used up."""
    cv2.add(total, cv2.multiply(factor, term, dst=term), dst=total)


def heaviest(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The frames with the most weight around each 2x2 px, the last one repeated if N < PICKS.

    Args:
        weights: (N, h, w).
    Returns:
        (share, index): (PICKS, h/2, w/2) float32 and uint16, sides rounded up.
    """
    shape = (PICKS, *(-(-side // 2) for side in weights.shape[1:]))
    share, index = np.full(shape, -1, np.float32), np.zeros(shape, np.uint16)
    for k, weight in enumerate(weights):
        here = cv2.GaussianBlur(
            means(weight, 2), (TAPS, TAPS), SIGMA, borderType=cv2.BORDER_REPLICATE
        )
        number = np.full(shape[1:], k, np.uint16)
        for place in range(min(k + 1, PICKS)):  # each goes down the list as heavier ones come
            heavier = here > share[place]
            lighter = np.minimum(here, share[place])
            np.maximum(here, share[place], out=share[place])
            here = lighter
            former = index[place].copy()
            np.copyto(index[place], number, where=heavier)
            np.copyto(number, former, where=heavier)
    for place in range(len(weights), PICKS):
        share[place], index[place] = share[place - 1], index[place - 1]
    return share, index


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
            mask = cv2.compare(near, float(k), cv2.CMP_EQ)
            cv2.copyTo(frames[k], mask, picture)
        pictures.append(picture)
    return pictures
