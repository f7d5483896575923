"""Bring a frame onto the reference of its stack, by Lanczos' kernel, once."""

import cv2
import numpy as np

from stackmff.alignment.geometry import places_of

LANCZOS_REACH = 5  # px
TILE = 4096  # px of the result resampled at a time; OpenCV ends at 32767
STRIP = 128  # rows at a time where each pixel has a place of its own, 16 bytes each


def resample(frame, alignment, index):
    """Replace a frame (H, W, C) by what lies at each pixel's place in it, in place.

    Args:
        frame: uint8 or uint16; beyond its border its border goes on.
        alignment: Alignment of its stack; index: of the frame.
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
                else _whole(frame, alignment.transforms[index], window)
            )
            part[:] = found.reshape(part.shape)  # OpenCV drops a channel axis of one
    frame[:] = out


def _whole(frame, matrix, window):
    """What lies at `matrix` (2, 3) of the pixels of a window (top, bottom, left, right)."""
    top, bottom, left, right = window
    x, y = np.meshgrid([left, right - 1], [top, bottom - 1])
    corners = matrix[:, :2] @ np.stack([x.ravel(), y.ravel()]) + matrix[:, 2:]  # (2, 4), x and y
    y0, y1, x0, x1 = _source(*corners, frame.shape)
    local = matrix.copy()
    local[:, 2] += matrix[:, :2] @ [left, top] - [x0, y0]
    return cv2.warpAffine(
        frame[y0:y1, x0:x1],
        local,
        (right - left, bottom - top),
        flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _by_parts(frame, alignment, index, window):
    """What lies at the places of the pixels of a window (top, bottom, left, right)."""
    places = places_of(alignment, index, *window)
    y0, y1, x0, x1 = _source(places[..., 0], places[..., 1], frame.shape)
    local = (places - [x0, y0]).astype(np.float32)
    part = frame[y0:y1, x0:x1]
    return cv2.remap(part, local, None, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)


def _source(x, y, shape):
    """The part (top, bottom, left, right) of a frame that places x and y in it are taken from."""
    spans = []
    for places, side in ((y, shape[0]), (x, shape[1])):
        low = int(np.clip(np.floor(places.min()) - LANCZOS_REACH, 0, side - 1))
        high = int(np.clip(np.ceil(places.max()) + LANCZOS_REACH + 1, low + 1, side))
        spans += [low, high]
    return spans
