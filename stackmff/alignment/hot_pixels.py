"""Hot and dead pixels of the sensor: found in frames that have not been moved."""

import cv2
import numpy as np

from stackmff.alignment.sensor import RING
from stackmff.images.frame_store import release

# A hot pixel differs in all frames by at least OUTSTANDING of the range from each of the 16 px that
# surround it at a distance of 2 px. In most frames these are EVEN: their standard deviation is this
# part of the difference at most. And the difference, or the pixel itself if it is saturated, varies
# from frame to frame by no more than ALIKE of it. A glint of the scene does neither, since it
# is out of focus in some frames.
OUTSTANDING, EVEN, ALIKE = 0.06, 0.1, 0.08
FEWEST_FRAMES = 3  # in fewer, things are alike by chance
MOST_HOT = 0.002  # of the pixels; more are no defects but the scene
STRIP = 32  # rows that are looked at together, so that they stay in the processor's cache
MOST_CANDIDATES = 0.03  # of the values of a frame; with more, no hot pixel shows before them
AT_A_TIME = 1 << 17  # candidates that are looked at together, to bound the memory


def hot_pixels(frames: np.ndarray) -> np.ndarray:
    """(n, 2) row and column of the pixels that are hot, or dead, in all frames.

    Args:
        frames: (N, H, W, C) uint8 or uint16; of frames in a file one at a time is read.
    """
    none = np.zeros((0, 2), int)
    count, height, width, channels = frames.shape
    if count < FEWEST_FRAMES or min(height, width) < 8:
        return none
    colours = 3 if channels >= 3 else 1
    middle = count // 2
    places = _outstanding(frames[middle][..., :colours])
    release(frames)
    if len(places) > MOST_CANDIDATES * height * width * colours:
        return none  # of noise or texture, before which no hot pixel shows
    even = np.zeros(len(places), int)
    sums = np.zeros((2, 2, len(places)))  # of differences and values, and of their squares
    for k in [middle, *(k for k in range(count) if k != middle)]:
        if not len(places):
            return none
        parts = [
            _still_outstanding(frames[k], places[start : start + AT_A_TIME])
            for start in range(0, len(places), AT_A_TIME)
        ]
        stands_out, smooth, values = (np.concatenate(part, -1) for part in zip(*parts))
        sums = np.add(sums, [values, values**2])[..., stands_out]
        places, even = places[stands_out], (even + smooth)[stands_out]
        release(frames)
    means, squares = sums / count
    deviations = np.sqrt(np.maximum(squares - means**2, 0)).min(0)
    places = places[(2 * even > count) & (deviations <= ALIKE * np.abs(means[0]))]
    found = np.unique(places[:, :2], axis=0)
    return found if len(found) <= MOST_HOT * height * width else none


def _outstanding(frame: np.ndarray) -> np.ndarray:
    """(n, 4) row, column, channel and sign of what differs from four pixels 2 px away from it."""
    least = OUTSTANDING * np.iinfo(frame.dtype).max
    height, width, channels = frame.shape
    beside = 2 * channels
    rows = np.ascontiguousarray(frame).reshape(height, width * channels)
    found: dict[int, list[np.ndarray]] = {1: [], -1: []}
    for top in range(2, height - 2, STRIP):
        bottom = min(top + STRIP, height - 2)
        here = rows[top:bottom]
        inner, left, right = here[:, beside:-beside], here[:, : -2 * beside], here[:, 2 * beside :]
        above, below = (rows[top + by : bottom + by, beside:-beside] for by in (-2, 2))
        high = cv2.max(cv2.max(left, right), cv2.max(above, below))
        low = cv2.min(cv2.min(left, right), cv2.min(above, below))
        for sign, excess in ((1, cv2.subtract(inner, high)), (-1, cv2.subtract(low, inner))):
            y, place = np.divmod(np.flatnonzero(excess > least), inner.shape[1])
            x, channel = np.divmod(place, channels)
            found[sign].append(np.stack([y + top, x + 2, channel, np.full_like(y, sign)], 1))
    return np.concatenate([*found[1], *found[-1]])


def _still_outstanding(
    frame: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which places (n, 4) stand out in a frame, (n,) bool, and which on even ground, (n,) bool; by
    how much they differ, and what they are, (2, n)."""
    y, x, channel, sign = places.T
    ring = np.stack([frame[y + dy, x + dx, channel] for dy, dx in RING]).astype(np.float32)
    own = frame[y, x, channel].astype(np.float32)
    gap = np.where(sign > 0, own - ring.max(0), ring.min(0) - own)
    difference = own - np.median(ring, 0)
    even = ring.std(0) <= EVEN * np.abs(difference)
    values = np.stack([difference, own]).astype(np.float64)
    return gap >= OUTSTANDING * np.iinfo(frame.dtype).max, even, values
