"""Frames as they are compared to find what moved: small, smooth, in the range of their stack."""

from collections.abc import Sequence
from functools import cached_property

import cv2
import numpy as np

from stackmff.alignment.geometry import Alignment, covers
from stackmff.images.frame_store import release

LONGEST = 400  # px; the longer side of the small pictures, at most
SMOOTH = 1.0  # px, sigma, before they are compared
CELL = 8  # px; side of the cells in which detail and brightness are measured
COARSE = 6  # px; side of the pixels whose detail is coarse
CLIPPED = 0.97  # of the brightest value that a frame can have: how bright it was is not known
ENDS = 0.1, 99.9  # percentiles of the values of a stack that are its range
SAMPLES, LOOKED_AT = 200, 8  # along each side of a frame; frames
MOST_GAIN = 2.0  # between the brightness of two frames that are compared
ROUNDS = 5  # of the robust weights


class FrameView:
    """A frame as it is compared.

    Args:
        seen: (h, w, C) uint8, of the range of the stack, smoothed.
        inside: (h, w) bool, which pixels the frame covers; None: all.
        clipped: (h, w, C) bool, which values were white before the exposure of the frame was
            lowered, so that they may have been any brighter; None: none.

    Attributes:
        detail: (rows, columns) float32, mean square of the gradient in cells.
        coarse: (rows, columns) float32, the same of pixels of COARSE px.
    """

    def __init__(
        self, seen: np.ndarray, inside: np.ndarray | None, clipped: np.ndarray | None
    ) -> None:
        self.seen, self.inside, self.clipped = seen, inside, clipped
        self.ranges: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        grey = seen[..., 0] if seen.shape[2] == 1 else cv2.cvtColor(seen, cv2.COLOR_RGB2GRAY)
        self.detail = cell_means(_squared_gradient(grey))
        self.coarse = _squared_gradient(cell_means(grey, COARSE))

    def near(self, radius: int) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and the largest values within `radius` px, (h, w, C) each."""
        if radius not in self.ranges:
            side = 2 * radius + 1
            disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
            low, high = cv2.erode(self.seen, disc), cv2.dilate(self.brightest, disc)
            self.ranges[radius] = low.reshape(self.seen.shape), high.reshape(self.seen.shape)
        return self.ranges[radius]

    @property
    def brightest(self) -> np.ndarray:
        """(h, w, C) uint8, `seen` with 255 where it may have been any brighter."""
        if self.clipped is None:
            return self.seen
        return np.where(self.clipped, np.uint8(255), self.seen)

    @cached_property
    def means(self) -> np.ndarray:
        """(n, C) float32, the mean values of cells."""
        return cell_means(self.seen).reshape(-1, self.seen.shape[2]).astype(np.float32)

    @cached_property
    def known(self) -> np.ndarray:
        """(n, C) bool, the cells in which nothing was clipped."""
        if self.clipped is None:
            return np.ones(self.means.shape, bool)
        return cell_means(self.clipped.astype(np.float32)).reshape(self.means.shape) == 0

    @cached_property
    def noise(self) -> float:
        """Standard deviation of the noise of the channel that has most, in steps of `seen`.

        Source: Immerkaer, "Fast noise variance estimation", 1996.
        """
        kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
        planes = cv2.split(self.seen)
        response = [np.abs(cv2.filter2D(plane, cv2.CV_32F, kernel)[::2, ::2]) for plane in planes]
        return max(float(np.median(one)) for one in response) / (6 * 0.6745)

    def recoded(self, tables: np.ndarray) -> "FrameView":
        """This view with the values of tables (256, C)."""
        out = object.__new__(FrameView)
        out.seen, out.inside, out.clipped = _looked_up(self.seen, tables), self.inside, self.clipped
        out.detail, out.coarse = self.detail, self.coarse
        above = tables.copy()
        if self.clipped is not None:
            above[255] = 255
        out.ranges = {
            radius: (_looked_up(low, tables), _looked_up(high, above))
            for radius, (low, high) in self.ranges.items()
        }
        return out


def as_bright(first: FrameView, second: FrameView) -> FrameView:
    """The second of two frames with the brightness and contrast of the first.

    What is left of them by exposure and haze is the same everywhere. Means of cells hardly depend
    on blur; those of clipped values are not known.
    """
    values = np.arange(256, dtype=np.float32)
    tables = []
    known = first.known & second.known
    for wanted, given, able in zip(first.means.T, second.means.T, known.T, strict=True):
        design = np.stack([given, np.ones_like(given)], 1)
        weights = able.astype(np.float32)
        gain, offset = 1.0, 0.0
        for _ in range(ROUNDS):
            weighted = design * weights[:, None]
            matrix = weighted.T @ design + np.eye(2, dtype=np.float32) * 1e-3
            # Drawn towards no change where all cells are alike.
            gain, offset = np.linalg.solve(matrix, weighted.T @ (wanted - given))
            gain += 1
            left = np.abs(wanted - gain * given - offset)
            scale = 2 * max(1.48 * float(np.median(left[able])) if able.any() else 0, 0.5)
            weights = able / (1 + (left / scale) ** 2)  # Cauchy's
        gain = np.clip(gain, 1 / MOST_GAIN, MOST_GAIN)
        tables.append(np.clip(np.rint(gain * values + offset), 0, 255))
    table = np.stack(tables, 1)
    if np.abs(table - values[:, None]).max() <= 1:
        return second
    return second.recoded(table.astype(np.uint8))


def small_size(size: Sequence[int]) -> tuple[int, int]:
    """(height, width) of the small pictures of frames of `size`."""
    scale = min(LONGEST / max(size), 1.0)
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def covered_cells(alignment: Alignment | None, index: int, size: Sequence[int]) -> np.ndarray:
    """Which pixels of the small picture, (h, w) bool, a frame covers for certain.

    Args:
        alignment: of the stack; None: each covers all.
        index: of a frame that is kept.
        size: (height, width) of the frames.
    """
    small = small_size(size)
    if alignment is None:
        return np.ones(small, bool)
    y, x = ((np.arange(n) + 0.5) * (whole / n) - 0.5 for n, whole in zip(small, size, strict=True))
    return covers(alignment, index, x, y)


def range_of(frames: np.ndarray, use: Sequence[int]) -> tuple[float, float]:
    """The range of the values of a stack, without alpha."""
    samples = []
    down, across = (max(side // SAMPLES, 1) for side in frames.shape[1:3])
    colours = 3 if frames.shape[3] >= 3 else 1
    for k in use[:: -(-len(use) // LOOKED_AT)]:
        samples.append(frames[k, ::down, ::across, :colours].ravel())
        release(frames)
    low, high = np.percentile(np.concatenate(samples), ENDS)
    return float(low), float(high)


def view_of(
    frame: np.ndarray, low: float, high: float, alignment: Alignment | None, index: int
) -> FrameView:
    """The view of a frame (H, W, C) of a stack with this range."""
    inside = None
    if alignment is not None and alignment.moved[index]:
        inside = covered_cells(alignment, index, frame.shape[:2])
    small = small_picture(frame)
    inside = None if inside is None or inside.all() else inside
    clipped = None
    if alignment is not None and alignment.gains[index].min() < CLIPPED:
        clipped = _clipped(small, alignment.gains[index] * np.iinfo(frame.dtype).max)
    return FrameView(ranged(small, low, high), inside, clipped)


def _clipped(small: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Which values of a small frame (h, w, C) are, or lie beside, the most (C,) it can have."""
    white = (small >= np.float32(CLIPPED) * most.astype(np.float32)).astype(np.uint8)
    return cv2.dilate(white, disc(1)).reshape(small.shape) > 0


def small_picture(frame: np.ndarray) -> np.ndarray:
    """A frame (H, W, C) small and smooth, without alpha; (h, w, C') float32."""
    colours = 3 if frame.shape[2] >= 3 else 1
    height, width = small_size(frame.shape[:2])
    # By a whole factor first, which is three times as fast; that cuts off less than a pixel.
    factor = max(min(frame.shape[0] // height, frame.shape[1] // width), 1)
    rows, columns = frame.shape[0] // factor, frame.shape[1] // factor
    small = frame[: rows * factor, : columns * factor]
    for size in ((columns, rows), (width, height)):
        small = cv2.resize(small, size, interpolation=cv2.INTER_AREA)
    small = small.reshape(height, width, -1)[..., :colours].astype(np.float32)
    return cv2.GaussianBlur(small, (0, 0), SMOOTH).reshape(small.shape)


def ranged(small: np.ndarray, low: float, high: float) -> np.ndarray:
    """A small frame with a range as 0 to 255; (h, w, C) uint8."""
    small = np.clip(small, low, high) - np.float32(low)
    return cv2.convertScaleAbs(small, None, 255 / (high - low)).reshape(small.shape)


def disc(radius: int) -> np.ndarray:
    """A disc, (2 radius + 1, 2 radius + 1) uint8, for erosion and dilation."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def _squared_gradient(grey: np.ndarray) -> np.ndarray:
    """The squared gradient (h, w) float32 of a picture (h, w) uint8."""
    across, down = (cv2.Sobel(grey, cv2.CV_32F, *axes) for axes in ((1, 0), (0, 1)))
    return across * across + down * down


def cell_means(picture: np.ndarray, side: int = CELL) -> np.ndarray:
    """The means of (h, w) or (h, w, C) in cells of about `side` px."""
    height, width = picture.shape[:2]
    return cv2.resize(
        picture,
        (max(width // side, 1), max(height // side, 1)),
        interpolation=cv2.INTER_AREA,
    )


def _looked_up(values: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Values (h, w, C) uint8 of tables (256, C)."""
    return cv2.LUT(values, np.ascontiguousarray(tables[None])).reshape(values.shape)
