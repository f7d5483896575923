"""What is always the same on a sensor, hot pixels and dirt, and how it is filled in a frame.

It stays where it is in all frames while the scene moves. So it holds frames where they are when
they are measured, and becomes a trail of dots or bars when they are moved. It is found
(hot_pixels.py, dirt.py), hidden from the measuring, and filled from its surroundings before frames
are resampled; afterwards with the other frames, which show what dirt hid (filling.py).
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from stackmff.images.rectangles import Box

# The 16 px around a pixel, at a distance of 2 px: (down, across).
RING = [(y, x) for y in range(-2, 3) for x in range(-2, 3) if max(abs(y), abs(x)) == 2]


@dataclass
class Dirt:
    """What is to be filled in every frame before it is moved.

    Attributes:
        hot: (n, 2) int, row and column of hot pixels.
        runs: (m, 3) int, row, first column and end of the parts of rows that dirt covers.
        spots: number of connected parts of it.
        lines: number of dead or stuck rows and columns, whose places are among the runs, too.
    """

    hot: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), int))
    runs: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), int))
    spots: int = 0
    lines: int = 0

    def __bool__(self) -> bool:
        return len(self.hot) > 0 or len(self.runs) > 0

    def filled(self, frame: np.ndarray) -> None:
        """Fill it in a frame (H, W, C), in place."""
        _fill_hot(frame, self.hot)
        for box, mask in boxes(self.runs, frame.shape[:2]):
            part = frame[box.slices]
            part[mask] = np.rint(from_surroundings(part, mask)[mask])

    def mask(self, size: tuple[int, int]) -> np.ndarray | None:
        """Where spots of dirt are in a frame of `size`, (H, W) bool; None if there are none."""
        if not len(self.runs):
            return None
        out = np.zeros(size, bool)
        for row, start, stop in self.runs:
            out[row, start:stop] = True
        return out

    def told(self) -> list[str]:
        """A sentence on it; none if there is none."""
        kinds = [
            (len(self.hot), "hot pixel"),
            (self.lines, "dead or stuck line"),
            (self.spots, "spot of dirt"),
        ]
        words = [f"{n} {_plural(word, n)}" for n, word in kinds if n]
        if not words:
            return []
        verb, them = ("was", "it") if sum(n for n, _ in kinds) == 1 else ("were", "them")
        listed = ", ".join(words[:-1]) + (" and " if words[1:] else "") + words[-1]
        return [
            f"{listed} on the sensor {verb} filled in all frames: --keep_hot_pixels leaves {them}"
        ]


def _plural(word: str, count: int) -> str:
    """The plural of a thing, or of a thing "of" something, unless the count is 1."""
    first, _, rest = word.partition(" of ")
    return word if count == 1 else f"{first}s" + (f" of {rest}" if rest else "")


def _fill_hot(frame: np.ndarray, hot: np.ndarray) -> None:
    """Give hot pixels, and those beside them, the median of what surrounds them, in place."""
    if not len(hot):
        return
    y, x = hot.T
    height, width = frame.shape[:2]
    around = np.stack([frame[y + dy, x + dx] for dy, dx in RING])  # (16, n, C)
    middle = np.rint(np.median(around, 0)).astype(frame.dtype)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            frame[np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)] = middle


def enlarged(runs: np.ndarray, factor: int) -> np.ndarray:
    """Runs (m, 3) of small pictures for the frames, which are `factor` larger; (m factor, 3)."""
    rows = runs[:, :1] * factor + np.arange(factor)
    columns = np.repeat(runs[:, 1:] * factor, factor, 0)
    return np.column_stack([rows.ravel(), columns])


def runs_of(mask: np.ndarray) -> np.ndarray:
    """(m, 3) row, first column and end of the parts of rows where a mask (H, W) is true."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges > 0)
    return np.stack([rows, starts, np.nonzero(edges < 0)[1]], 1)


def boxes(runs: np.ndarray, size: tuple[int, ...]) -> list[tuple[Box, np.ndarray]]:
    """For each connected part: a box with room around it, and its mask."""
    out = []
    for part in _connected(runs):
        (top, left, _), (bottom, _, right) = part.min(0).tolist(), part.max(0).tolist()
        tight = Box(top, bottom + 1, left, right)
        box = tight.grown(min(tight.size) + 4, size)
        mask = np.zeros(box.size, bool)
        for row, start, stop in part:
            mask[row - box.top, start - box.left : stop - box.left] = True
        out.append((box, mask))
    return out


def _connected(runs: np.ndarray) -> list[np.ndarray]:
    """Runs (m, 3) by the parts that touch one another; no picture is made for that.

    Parts are found as sets that are united: each run points to an earlier one of its part, up to
    the one that stands for the part.
    """
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    towards = list(range(len(runs)))

    def root(k: int) -> int:
        while towards[k] != k:
            k = towards[k] = towards[towards[k]]
        return k

    in_row: dict[int, list[int]] = {}
    for k, (row, start, stop) in enumerate(runs.tolist()):
        above = [j for j in in_row.get(row - 1, ()) if runs[j, 1] <= stop and start <= runs[j, 2]]
        if above:
            towards[k] = root(above[0])
        for j in above[1:]:
            towards[root(j)] = root(k)
        in_row.setdefault(row, []).append(k)
    parts: dict[int, list[int]] = {}
    for k in range(len(runs)):
        parts.setdefault(root(k), []).append(k)
    return [runs[parts[first]] for first in sorted(parts)]


def from_surroundings(part: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A part (h, w, C) of a frame, with a masked place (h, w) from what surrounds it; float32."""
    known = (~mask).astype(np.float32)
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3).max()
    values = part.astype(np.float32) * known[..., None]
    out = np.zeros(part.shape, np.float32)
    missing = np.ones(mask.shape, bool)
    for sigma in (distance / 2 + 1, distance + 1, 4 * distance + 1):
        weight = cv2.GaussianBlur(known, (0, 0), sigma)
        enough = missing & (weight > 1e-3)
        for channel in range(part.shape[2]):
            blurred = cv2.GaussianBlur(values[..., channel], (0, 0), sigma)
            out[..., channel][enough] = blurred[enough] / weight[enough]
        missing &= ~enough
    return out
