"""Resample a frame onto the reference of its stack, once, by Lanczos' kernel."""

import cv2
import numpy as np

from stackmff.alignment.geometry import Alignment, places_of

LANCZOS_REACH = 5  # px
TILE = 4096  # px; side of the part that is resampled at a time; OpenCV is limited to 32767
STRIP = 128  # rows at a time in a frame with a field, which has 16 bytes of places per pixel

Window = tuple[int, int, int, int]  # top, bottom, left, right, px; bottom and right exclusive


def resample(frame: np.ndarray, alignment: Alignment, index: int) -> None:
    """Resample a frame onto the reference, in place.

    Args:
        frame: (H, W, C) uint8 or uint16; its border is repeated beyond it.
        alignment: of its stack.
        index: of the frame.
    """
    height, width, _ = frame.shape
    parts = index in alignment.fields
    out = np.empty_like(frame)
    for top in range(0, height, STRIP if parts else TILE):
        for left in range(0, width, TILE):
            part = out[top : top + (STRIP if parts else TILE), left : left + TILE]
            window = top, top + part.shape[0], left, left + part.shape[1]
            found = (
                _by_parts(frame, alignment, index, window)
                if parts
                else _whole(frame, alignment.transform(index), window)
            )
            part[:] = found.reshape(part.shape)  # OpenCV drops a channel axis of one
    frame[:] = out


def _whole(frame: np.ndarray, matrix: np.ndarray, window: Window) -> np.ndarray:
    """A window of the reference from a frame that moves as a whole, by a (2, 3) transform."""
    top, bottom, left, right = window
    x, y = np.meshgrid([left, right - 1], [top, bottom - 1])
    corners = matrix[:, :2] @ np.stack([x.ravel(), y.ravel()]) + matrix[:, 2:]  # (2, 4), x and y
    y0, y1, x0, x1 = _source(corners[0], corners[1], frame.shape)
    local = matrix.copy()
    local[:, 2] += matrix[:, :2] @ [left, top] - [x0, y0]
    return cv2.warpAffine(
        frame[y0:y1, x0:x1],
        local,
        (right - left, bottom - top),
        flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _by_parts(frame: np.ndarray, alignment: Alignment, index: int, window: Window) -> np.ndarray:
    """A window of the reference from a frame with a field."""
    places = places_of(alignment, index, *window)
    y0, y1, x0, x1 = _source(places[..., 0], places[..., 1], frame.shape)
    local = (places - [x0, y0]).astype(np.float32)
    part = frame[y0:y1, x0:x1]
    return cv2.remap(part, local, None, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)


def _source(x: np.ndarray, y: np.ndarray, shape: tuple[int, ...]) -> Window:
    """The part of a frame of `shape` that is needed to resample it at places x and y."""

    def span(places: np.ndarray, side: int) -> tuple[int, int]:
        low = int(np.clip(np.floor(places.min()) - LANCZOS_REACH, 0, side - 1))
        high = int(np.clip(np.ceil(places.max()) + LANCZOS_REACH + 1, low + 1, side))
        return low, high

    return *span(y, shape[0]), *span(x, shape[1])
