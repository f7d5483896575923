"""What a coarse level sees of a stack: each frame at an eighth of its size, and its fine detail.

The frames are reduced in bands of rows, so that what lies between stays in the processor's cache.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from stackmff.images.colour import chroma, luma
from stackmff.images.frame_store import release, window
from stackmff.images.levels import Levels
from stackmff.images.rectangles import Box
from stackmff.processes import in_order

REDUCTION = 8  # px of the picture along one of the coarse level
DETAILS = 3  # bands of detail that the coarse level sees
LOG_GAIN = 1000.0  # of a detail before its logarithm, so that a thousandth of white counts
BAND = 128  # rows of the picture that are reduced at a time, a multiple of 2 x REDUCTION
# Rows above and below a band that its details reach: a pixel of the coarsest of their sizes.
MARGIN = 2 ** (DETAILS - 1)

Reduced = tuple[np.ndarray, np.ndarray | None, np.ndarray]  # luma, chroma, details
Rows = Callable[[int, int], np.ndarray]  # (top, bottom) of a frame to (bottom - top, W, C)


def reduced_window(
    frames: np.ndarray,
    use: Sequence[int],
    place: Box,
    levels: Levels | None,
    colour: bool,
    jobs: int = 1,
) -> Reduced:
    """What the coarse level takes of a window, a frame at a time, so that memory is bounded.

    Args:
        frames: (N, H, W, C) uint8 or uint16.
        use: indices of the frames.
        place: of the window in pixels of the coarse level.
        levels: of the stack; None: it is seen as it is.
        colour: whether the coarse level takes the chroma.
        jobs: frames to reduce at a time.
    Returns:
        Luma (1, N, h, w), chroma (2, N, ceil(h/2), ceil(w/2)) or None, details (DETAILS, N, h, w).
    """
    box = place.scaled(REDUCTION).common(Box.whole(frames.shape[1:3]))

    def reduced_frame(k: int) -> Reduced:
        def rows(start: int, stop: int) -> np.ndarray:
            band = box._replace(top=box.top + start, bottom=box.top + stop)
            return window(frames, band, [k])[0]

        return reduced(rows, box.size, levels, colour)

    parts: list[list[np.ndarray]] = [[], [], []]
    for _, seen in in_order(reduced_frame, use, jobs):
        for part, planes in zip(parts, seen, strict=True):
            if planes is not None:
                part.append(planes)
        release(frames)
    small, small_chroma, details = (np.stack(part, 1) if part else None for part in parts)
    assert small is not None and details is not None
    return small, small_chroma, details


def reduced(rows: Rows, size: tuple[int, int], levels: Levels | None, colour: bool) -> Reduced:
    """What the coarse level takes of one frame.

    Args:
        rows: gives rows of the frame.
        size: (height, width) of the frame, px.
        levels, colour: see `reduced_window`.
    Returns:
        Luma (1, h, w), chroma (2, ceil(h/2), ceil(w/2)) or None, details (DETAILS, h, w).
    """
    height, width = size
    lumas = np.empty((BAND + 2 * MARGIN, width), np.float32)  # of rows `first` to `done`
    first = done = 0
    parts: list[list[np.ndarray]] = [[], [], []]
    for start in range(0, height, BAND):
        stop = min(start + BAND, height)
        top, bottom = max(start - MARGIN, 0), min(stop + MARGIN, height)
        lumas[: done - top] = lumas[top - first : done - first]  # what the last band had of it
        if bottom > done:  # a last band of MARGIN rows or fewer is there already
            seen_luma(rows(done, bottom), levels, lumas[done - top : bottom - top])
        first, done = top, bottom
        above, below = start - top, bottom - stop
        parts[0].append(means(lumas[above : stop - top], REDUCTION)[None])
        if colour:
            half = seen_chroma(rows(start, stop), levels)
            parts[1].append(np.stack([means(plane, REDUCTION) for plane in half]))
        parts[2].append(details_of(lumas[: bottom - top], above, below))
    small, small_chroma, details = (np.concatenate(part, 1) if part else None for part in parts)
    assert small is not None and details is not None
    return small, small_chroma, details


def seen_luma(rows: np.ndarray, levels: Levels | None, out: np.ndarray) -> None:
    """Fill `out` (h, W) with the luma of rows (h, W, C) of a frame, as a network sees it."""
    luma(rows, out)
    if levels is not None:
        out[:] = levels.stretched(out)


def seen_chroma(rows: np.ndarray, levels: Levels | None) -> np.ndarray:
    """The chroma (2, ceil(h/2), ceil(W/2)) of rows of a frame, as a network sees it."""
    half = chroma(rows[None])[:, 0]
    return half if levels is None else levels.stretched_chroma(half)


def means(plane: np.ndarray, side: int) -> np.ndarray:
    """Means of a plane over squares, of which those at the bottom and on the right may be less.

    Args:
        plane: (h, w) float32.
        side: of a square, px, a power of 2.
    Returns:
        (ceil(h/side), ceil(w/side)) float32.
    """
    height, width = plane.shape
    down, right = -height % side, -width % side
    if down or right:
        plane = cv2.copyMakeBorder(plane, 0, down, 0, right, cv2.BORDER_CONSTANT, value=0)
    step = side
    while step > 1:  # OpenCV has a fast way for squares of 2 px alone
        high, wide = plane.shape[0] // 2, plane.shape[1] // 2
        plane = cv2.resize(plane, (wide, high), interpolation=cv2.INTER_AREA).reshape(high, wide)
        step //= 2
    plane[-1] *= side / (side - down)
    plane[:, -1] *= side / (side - right)
    return plane


def details_of(plane: np.ndarray, above: int = 0, below: int = 0) -> np.ndarray:
    """How much detail of one, two and four pixels there is in squares of REDUCTION px.

    Args:
        plane: (above + h + below, w) float32 luma, h a multiple of REDUCTION if `below` is not 0.
        above: rows above those that are looked at: MARGIN, or 0 at the upper end of the picture.
        below: rows below them: MARGIN, or as many as there are.
    Returns:
        (DETAILS, ceil(h/8), ceil(w/8)) float32, about [0, 1.5]: the logarithm of the mean absolute
        difference from the mean over 3x3 px.
    """
    side, bands = REDUCTION, []
    for _ in range(DETAILS):
        energy = means(differences(plane, above, below), side)
        bands.append(np.log2(1 + np.float32(LOG_GAIN) * energy) / 4)
        plane, side = means(plane, 2), side // 2
        above, below = above // 2, -(-below // 2)
    return np.stack(bands)


def differences(plane: np.ndarray, above: int, below: int) -> np.ndarray:
    """The absolute differences of pixels from the mean over 3x3 px, of those that there are.

    Args:
        plane: (above + h + below, w) float32.
        above, below: rows that are not asked for.
    Returns:
        (h, w) float32.
    """
    upper, lower = min(above, 1), min(below, 1)  # rows beyond those that count
    plane = plane[above - upper : len(plane) - below + lower]
    mean = cv2.blur(plane, (3, 3), borderType=cv2.BORDER_CONSTANT).reshape(plane.shape)
    _spread(mean.T, False, False)
    _spread(mean, upper > 0, lower > 0)
    inner = slice(upper, len(plane) - lower)
    out: np.ndarray = cv2.absdiff(plane[inner], mean[inner], mean[inner])
    return out


def _spread(mean: np.ndarray, goes_on_before: bool, goes_on_after: bool) -> None:
    """Make sums over three rows, where rows that there are not count as 0, means of the others.

    Args:
        mean: (h, w), a third of the sums, changed at its ends.
        goes_on_before, goes_on_after: whether its first and its last row do not count.
    """
    if len(mean) == 1:
        mean *= 3
        return
    if not goes_on_before:
        mean[0] *= 1.5
    if not goes_on_after:
        mean[-1] *= 1.5
