"""Dirt in frames that have been moved: the others show the scene that it hid."""

from collections.abc import Iterator

import cv2
import numpy as np

from stackmff.alignment.geometry import Alignment, covered, places_of
from stackmff.images.rectangles import Box

TILE = 256  # px; side of the part of a frame that is looked at together
NEAREST = 8  # other frames, at most, that are asked for what is hidden
ROOM = 32  # px; by which a field moves dirt at most, for the choice of tiles


def fill_from_others(
    frames: np.ndarray, alignment: Alignment, index: int, dirty: np.ndarray
) -> None:
    """Give what dirt hid in a frame the pixels of the nearest frames that show it, in place.

    What none of them shows stays as it is.

    Args:
        frames: (N, H, W, C) uint8 or uint16, on the reference.
        alignment: by which they were brought there.
        index: of the frame, which is kept.
        dirty: (H, W) bool, where dirt is on the sensor.
    """
    others = sorted((k for k in alignment.kept if k != index), key=lambda k: abs(k - index))
    for tile in _tiles(alignment, index):
        missing = ~_shows(alignment, index, tile, dirty)
        for other in others[:NEAREST]:
            if not missing.any():
                break
            found = missing & _shows(alignment, other, tile, dirty)
            frames[index][tile.slices][found] = frames[other][tile.slices][found]
            missing &= ~found


def _shows(alignment: Alignment, index: int, tile: Box, dirty: np.ndarray) -> np.ndarray:
    """Which pixels of a tile of the reference a frame shows without dirt, (h, w) bool."""
    places = np.rint(places_of(alignment, index, tile)).astype(int)
    height, width = alignment.size
    x, y = places[..., 0].clip(0, width - 1), places[..., 1].clip(0, height - 1)
    inside = covered(alignment, index, tile)
    return ~dirty[y, x] if inside is None else ~dirty[y, x] & inside


def _tiles(alignment: Alignment, index: int) -> Iterator[Box]:
    """The tiles of the reference on which dirt of a frame may be."""
    row, start, stop = alignment.dirt.runs.T
    along = np.arange(0, int((stop - start).max()), TILE // 2)  # of long runs
    x = np.column_stack([np.minimum(start[:, None] + along, stop[:, None] - 1), stop - 1])
    y = np.broadcast_to(row[:, None], x.shape)
    back = cv2.invertAffineTransform(alignment.transform(index))
    places = np.stack([x.ravel(), y.ravel()], -1)[None].astype(np.float64)
    across, down = cv2.transform(places, back)[0].T
    near = [
        np.stack([down + dy, across + dx], -1) // TILE
        for dy in (-ROOM, ROOM)
        for dx in (-ROOM, ROOM)
    ]
    whole = Box.whole(alignment.size)
    for corner in np.unique(np.concatenate(near), axis=0).astype(int) * TILE:
        tile = Box.at(int(corner[0]), int(corner[1]), (TILE, TILE)).common(whole)
        if tile.area:
            yield tile
