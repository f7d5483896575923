"""Resample a frame onto the reference of its stack, once."""

import cv2
import numpy as np

from stackmff.alignment.geometry import OVERSHOOT, Alignment, add_places, spread
from stackmff.images.rectangles import Box

# Lanczos' kernel takes 64 px and five times as long as the cubic one with 16. They differ by
# 0.3 to 0.8 grey levels (root mean square) in photographs and micrographs, most in pictures that
# were made smaller; large frames hold little detail of the size of their px.
CUBIC_FROM = 6_000_000  # px of a frame
REACH = 5  # px; of the kernels
TILE = 4096  # px; side of the part that is resampled at a time; OpenCV is limited to 32767
STRIP = 512  # rows at a time in a frame with a field, which has 8 bytes of places per pixel


def resample(frame: np.ndarray, alignment: Alignment, index: int) -> None:
    """Resample a frame onto the reference, in place.

    Args:
        frame: (H, W, C) uint8 or uint16; its border is repeated beyond it.
        alignment: of its stack.
        index: of the frame.
    """
    height, width, _ = frame.shape
    kernel = cv2.INTER_CUBIC if height * width >= CUBIC_FROM else cv2.INTER_LANCZOS4
    matrix = alignment.transform(index)
    moved = None
    if index in alignment.fields:  # px of the frame
        moved = cv2.transform(alignment.fields[index], matrix[:, :2])
    rows = TILE if moved is None else STRIP
    out = np.empty_like(frame)
    for window in Box.whole(frame.shape).parts(rows, TILE):
        part = out[window.slices]
        found = (
            _whole(frame, matrix, window, kernel)
            if moved is None
            else _by_parts(frame, matrix, moved, alignment.spacing, window, kernel)
        )
        part[:] = found.reshape(part.shape)  # OpenCV drops a channel axis of one
    frame[:] = out


def _whole(frame: np.ndarray, matrix: np.ndarray, window: Box, kernel: int) -> np.ndarray:
    """A window of the reference from a frame that moves as a whole, by a (2, 3) transform."""
    source = _source(matrix, window, np.zeros(2), frame.shape)
    local = matrix.copy()
    local[:, 2] += matrix[:, :2] @ [window.left, window.top] - [source.left, source.top]
    return cv2.warpAffine(
        frame[source.slices],
        local,
        window.size[::-1],
        flags=kernel | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _by_parts(
    frame: np.ndarray,
    matrix: np.ndarray,
    moved: np.ndarray,
    spacing: int,
    window: Box,
    kernel: int,
) -> np.ndarray:
    """A window of the reference from a frame whose parts move.

    Args:
        frame: (H, W, C).
        matrix: (2, 3) transform of the frame.
        moved: (rows, columns, 2) float32, displacements in the frame, px.
        spacing: side of their cells, px of the reference.
        window: of the reference.
        kernel: of OpenCV.
    """
    source = _source(matrix, window, OVERSHOOT * np.abs(moved).max((0, 1)), frame.shape)
    places = np.ascontiguousarray(spread(moved, spacing, window))
    add_places(places, matrix - [[0, 0, source.left], [0, 0, source.top]], *window.corner)
    part = frame[source.slices]
    return cv2.remap(part, places, None, kernel, borderMode=cv2.BORDER_REPLICATE)


def _source(matrix: np.ndarray, window: Box, reach: np.ndarray, shape: tuple[int, ...]) -> Box:
    """The part of a frame of `shape` that is needed to resample a window of the reference.

    Args:
        matrix: (2, 3) transform of the frame.
        window: of the reference.
        reach: (2,) px, how much farther along x and y its parts move at most.
        shape: of the frame.
    """
    top, bottom, left, right = window
    x, y = np.meshgrid([left, right - 1], [top, bottom - 1])
    corners = matrix[:, :2] @ np.stack([x.ravel(), y.ravel()]) + matrix[:, 2:]  # (2, 4), x and y

    def span(axis: int, side: int) -> tuple[int, int]:
        places, more = corners[axis], reach[axis] + REACH
        low = int(np.clip(np.floor(places.min() - more), 0, side - 1))
        high = int(np.clip(np.ceil(places.max() + more) + 1, low + 1, side))
        return low, high

    return Box(*span(1, shape[0]), *span(0, shape[1]))
