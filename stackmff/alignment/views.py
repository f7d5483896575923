"""What is kept of each frame of a stack while the stack is measured: small, and in memory."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from stackmff.alignment.exposure import FINE_TILES, Tiles, tiles_of
from stackmff.alignment.parallax import Item, Result
from stackmff.alignment.registration import SMALLEST, Level, halved, pyramid, smoothed
from stackmff.alignment.sensor import Dirt
from stackmff.alignment.tones import bend
from stackmff.images.colour import luma
from stackmff.images.frame_store import release
from stackmff.images.levels import Levels
from stackmff.processes import Progress

THREADS = 2
LONGEST = 800  # px; the longer side of frames when they are compared, at most
PLAIN = 0.0015  # standard deviation of the coarsest luma of a frame without detail


class Steps:
    """Calls functions for lists of items in threads, and reports the progress over all lists.

    Args:
        progress: called with the number of items done; None: not reported.
        total: the number of items expected.
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def run(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """What the function returns for each item, in their order."""
        out = []
        self.total = max(self.total, self.done + len(items))
        with ThreadPoolExecutor(THREADS) as pool:
            try:
                for result in pool.map(function, items):
                    out.append(result)
                    self.done += 1
                    if self.progress is not None:
                        self.progress(self.done, self.total)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return out


@dataclass
class View:
    """What is kept of a frame while its stack is measured.

    Attributes:
        luma: (h, w) uint16, which takes half the memory of floats.
        factor: how much smaller than the frame it is.
        tiles: see exposure.Tiles.
        plain: whether it shows no detail.
    """

    luma: np.ndarray
    factor: int
    tiles: Tiles
    plain: bool

    def levels(self) -> list[Level]:
        """See registration.pyramid."""
        return pyramid(self._values(), self.factor)

    def finest(self) -> Level:
        """The first of its levels."""
        return self.factor, smoothed(self._values())

    def has_coarser(self) -> bool:
        """Whether it has more than one level."""
        return min(self.luma.shape) >= SMALLEST

    def coarser(self) -> list[Level]:
        """Its other levels, if it has any."""
        return pyramid(halved(self._values()), 2 * self.factor)

    def _values(self) -> np.ndarray:
        """The luma as float32 in [0, 1]."""
        return self.luma * np.float32(1 / 65535)


def factor_of(size: tuple[int, int]) -> int:
    """How much smaller frames of `size` (height, width) are made to be compared."""
    return -(-max(size) // LONGEST)


def look_at_all(frames: np.ndarray, levels: Levels | None, dirt: Dirt, steps: Steps) -> list[View]:
    """The views of (N, H, W, C) frames without dirt; `levels` are those of their stack."""

    def look(k: int) -> View:
        frame = frames[k]
        if dirt:
            frame = np.array(frame)
            dirt.filled(frame)
        view = _look_at(frame, levels)
        release(frames)
        return view

    return steps.run(look, range(len(frames)))


def _look_at(frame: np.ndarray, levels: Levels | None) -> View:
    """The view of a frame (H, W, C) of a stack with these levels."""
    frame, factor = _small(frame)
    bright = luma(frame)
    if levels is not None:
        bright = np.clip(levels.stretched(bright), 0, 1)
    tiles = tiles_of(_light(frame, levels), factor)
    return View(np.rint(bright * 65535).astype(np.uint16), factor, tiles, is_plain(bright))


def _small(frame: np.ndarray) -> tuple[np.ndarray, int]:
    """A frame (H, W, C) at the size at which it is compared, and how much smaller that is."""
    height, width, channels = frame.shape
    factor = factor_of((height, width))
    rows, columns = max(height // factor, 1), max(width // factor, 1)
    if factor > 1:
        whole = frame[: rows * factor, : columns * factor]
        frame = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
        frame = frame.reshape(rows, columns, channels)  # OpenCV drops a channel axis of one
    return frame, factor


def _light(small: np.ndarray, levels: Levels | None) -> np.ndarray:
    """The colours of a small frame (h, w, C) by which its exposure is told, without alpha."""
    colours = small[..., : 3 if small.shape[2] >= 3 else 1]
    return colours if levels is None else levels.brightened(colours)


def fine_tiles(
    frames: np.ndarray,
    levels: Levels | None,
    k: int,
    curve: np.ndarray | None = None,
    count: int = FINE_TILES,
) -> Tiles:
    """The fine tiles of frame k of (N, H, W, C), under a tone curve, see exposure.match."""
    small, factor = _small(frames[k])
    release(frames)
    if curve is not None:
        small = small.copy()
        bend(small, curve)
    return tiles_of(_light(small, levels), factor, count)


def is_plain(luma: np.ndarray) -> bool:
    """Whether a luma (h, w) float32 in [0, 1], made coarse, varies no more than noise makes it.

    Source of the estimate: Immerkaer, "Fast noise variance estimation", 1996.
    """
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = cv2.filter2D(luma, -1, kernel)[::2, ::2]
    noise = np.median(np.abs(response)) / (6 * 0.6745)
    kept, coarse = 0.25, luma  # of the noise, after smoothing and halving
    while min(coarse.shape) >= SMALLEST:
        kept, coarse = kept / 2, halved(coarse)
    return bool(smoothed(coarse).std() < max(PLAIN, 3 * kept * noise))
