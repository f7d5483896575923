"""Dead columns and stuck rows of the sensor: found in frames that have not been moved.

A line of the sensor stays where it is while the scene moves across it. It is looked for in the
middle frame, and what is found there is looked at in the others. A thin line of the scene does the
same in frames that do not move, so what is found counts only where the scene moves, see `crossed`.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import cv2
import numpy as np

from stackmff.images.colour import luma
from stackmff.images.frame_store import release
from stackmff.images.levels import Levels

FEWEST_FRAMES = 3  # in fewer, things are alike by chance
BESIDE = 3  # px; lines of up to this width differ from what lies so far on both sides of them
OUTSTANDING = 0.03  # coded luma, by which they do
PART = 16  # px along a line that are judged together
MOST_OF_PART = 0.6  # of them stand out in the middle frame, and so many in all frames:
IN_ALL = 0.4
SHORTEST = 3  # parts of a line, at least
MOST_LINES = 64  # more are a pattern of the scene
CROSSED = 4.0  # px by which the scene moves across a line, at least
ENDS = 1  # parts up to the border that a line does not stand out in, but fills


class Line(NamedTuple):
    """A column, or row, of pixels of the sensor.

    Attributes:
        upright: whether it is a column.
        place: of the column, or row.
        first, end: of it along the line, px.
    """

    upright: bool
    place: int
    first: int
    end: int

    def runs(self, size: tuple[int, int]) -> np.ndarray:
        """(m, 3) row, first column and end of the line and the px beside it, see sensor.Dirt."""
        height, width = size
        low, high = max(self.place - 1, 0), self.place + 2
        if self.upright:
            rows = np.arange(self.first, self.end)
            return np.stack(
                [rows, np.full_like(rows, low), np.full_like(rows, min(high, width))], 1
            )
        rows = np.arange(low, min(high, height))
        return np.stack([rows, np.full_like(rows, self.first), np.full_like(rows, self.end)], 1)


def stuck_lines(frames: np.ndarray, levels: Levels | None = None) -> list[Line]:
    """The lines that stand out from what lies beside them, in the same place of all frames.

    Args:
        frames: (N, H, W, C) uint8 or uint16; of frames in a file one at a time is read.
        levels: of their stack.
    """
    least = OUTSTANDING / (1 if levels is None else levels.gain)
    count, height, width, _ = frames.shape
    if count < FEWEST_FRAMES or min(height, width) < SHORTEST * PART:
        return []
    middle = count // 2
    whole = luma(frames[middle])
    release(frames)
    suspected = {
        upright: _suspected(whole if upright else np.ascontiguousarray(whole.T), least)
        for upright in (True, False)
    }
    if not any(map(len, suspected.values())):
        return []
    lasting: dict[bool, np.ndarray] = {}
    for frame in frames:
        for upright, places in suspected.items():
            if len(places):
                found = _standing_out(_beside(frame, places, upright), least)
                lasting[upright] = lasting[upright] & found if upright in lasting else found
        release(frames)
    return [
        line
        for upright, masks in lasting.items()
        for place, each in zip(suspected[upright], masks.transpose(2, 1, 0))
        for line in _lines(each.any(1), upright, int(place))
    ]


def is_crossed(transforms: Mapping[int, np.ndarray], size: tuple[int, int]) -> bool:
    """Whether the scene moves by CROSSED px or more anywhere; else it crosses no line.

    Args:
        transforms: see `crossed`.
        size: (height, width) of the frames, px.
    """
    height, width = size
    # What two affine transforms differ by is most in a corner.
    corners = np.array([[0, width - 1, 0, width - 1], [0, 0, height - 1, height - 1], [1.0] * 4])
    places = [(matrix @ corners)[:2] for matrix in transforms.values()]
    return bool(places) and bool((np.ptp(places, 0) >= CROSSED).any())


def crossed(lines: Iterable[Line], transforms: Mapping[int, np.ndarray]) -> list[Line]:
    """Those of the lines across which the scene moves.

    Args:
        lines: see `stuck_lines`.
        transforms: {frame: (3, 3) from the reference}.
    """
    out = []
    for line in lines:
        along, axis = (line.first + line.end) / 2, 0 if line.upright else 1
        here = np.array([line.place, along, 1.0] if line.upright else [along, line.place, 1.0])
        across = [float((matrix @ here)[axis]) for matrix in transforms.values()]
        if across and np.ptp(across) >= CROSSED:
            out.append(line)
    return out


def shrunk(lines: Iterable[Line], shape: tuple[int, int], factor: int) -> np.ndarray:
    """Where lines are in pictures (h, w) that are `factor` smaller; bool."""
    out = np.zeros(shape, bool)
    for line in lines:
        along = slice(line.first // factor, -(-line.end // factor))
        across = slice(max(line.place - 1, 0) // factor, (line.place + 1) // factor + 1)
        out[(along, across) if line.upright else (across, along)] = True
    return out


def _suspected(picture: np.ndarray, least: float) -> np.ndarray:
    """The columns of a luma (h, w) in which long parts stand out by `least`; (n,) ints."""
    own, left, right = (
        picture[:, BESIDE:-BESIDE],
        picture[:, : -2 * BESIDE],
        picture[:, 2 * BESIDE :],
    )
    parts = len(picture) // PART
    places: list[int] = []
    for over in (own - cv2.max(left, right), cv2.min(left, right) - own):
        stands = (over[: parts * PART] > least).reshape(parts, PART, -1).mean(1)
        much = (stands > MOST_OF_PART).astype(np.uint8)
        long = cv2.erode(much, np.ones((SHORTEST, 1), np.uint8), borderValue=0)
        places += (np.flatnonzero(long.any(0)) + BESIDE).tolist()
    found = np.unique(np.array(places, int))
    return found if len(found) <= MOST_LINES else found[:0]


def _beside(frame: np.ndarray, places: np.ndarray, upright: bool) -> np.ndarray:
    """The lumas of lines of a frame (H, W, C), and of what lies on both sides; (3, length, n)."""
    near = [places, places - BESIDE, places + BESIDE]
    lumas = (luma(np.ascontiguousarray(frame[:, at] if upright else frame[at])) for at in near)
    return np.stack([each if upright else each.T for each in lumas])


def _standing_out(lumas: np.ndarray, least: float) -> np.ndarray:
    """Where the first of three lumas is above, and below, both others by `least`; (2, ...) bool."""
    own, one, other = lumas
    above, below = own - np.maximum(one, other), np.minimum(one, other) - own
    return np.stack([above, below]) > least


def _lines(lasting: np.ndarray, upright: bool, place: int) -> list[Line]:
    """The lines of pixels (length,) bool that stand out in all frames."""
    length = len(lasting)
    parts = length // PART
    good = lasting[: parts * PART].reshape(parts, PART).mean(1) > IN_ALL
    if not np.lib.stride_tricks.sliding_window_view(good, SHORTEST).all(1).any():
        return []
    numbers = np.flatnonzero(good)
    first, end = int(numbers[0]), int(numbers[-1]) + 1
    if end - first > 2 * len(numbers):  # two lines, or chance: only where it is sure
        return []
    first = 0 if first <= ENDS else first * PART - PART // 2
    end = length if end >= parts - ENDS else end * PART + PART // 2
    return [Line(upright, place, first, end)]
