"""How a picture is cut into overlapping tiles."""

import numpy as np

from stackmff.fusion.engines import GRID, Engine

MEDIUM_TILE, SMALL_TILE = 512, 128

Spans = list[tuple[int, int]]  # (start, stop) of tiles along one side, px


def tile_area(engine: Engine, count: int) -> int:
    """Most pixels of a tile of `count` frames.

    A network that weighs frames keeps within the engine's `samples` while tiles are of
    MEDIUM_TILE px or more. Smaller ones cost more by their overlap, so they are taken only where
    these would exceed its `most_samples`.
    """
    area = engine.tile**2
    if engine.output == "weights":
        for least, most in ((MEDIUM_TILE, engine.samples), (SMALL_TILE, engine.most_samples)):
            area = min(area, max(most // count, least**2))
    return area


def tile_plan(height: int, width: int, area: int, overlap: int) -> tuple[Spans, Spans]:
    """The rows and columns of equal tiles that cover a picture with the fewest pixels in all.

    Args:
        height, width: of the picture, px.
        area: most pixels of a tile, at least (2 x overlap)².
        overlap: of neighbours, px, a multiple of GRID.
    Returns:
        (rows, columns), each a list of (start, stop) as tile_spans gives.
    """
    if height * width <= area:
        return [(0, height)], [(0, width)]
    plans = []
    for columns in range(1, width // GRID + 2):
        across = spans_of(width, columns, overlap)
        wide = max(stop - start for start, stop in across)
        for rows in range(1, height // GRID + 2):
            down = spans_of(height, rows, overlap)
            high = max(stop - start for start, stop in down)
            if high * wide <= area:
                pixels = len(down) * len(across) * high * wide
                plans.append((pixels, abs(high - wide), down, across))
                break  # with more rows there is more overlap
    return min(plans)[2:]


def spans_of(side: int, count: int, overlap: int) -> Spans:
    """Up to `count` equal spans along a side, their starts on multiples of GRID."""
    step = -(-(side - overlap) // (count * GRID)) * GRID
    if count < 2 or step < overlap:
        return [(0, side)]
    starts = range(0, side - overlap, step)
    return [(start, min(start + step + overlap, side)) for start in starts]


def tile_spans(side: int, tile: int, overlap: int) -> Spans:
    """Where the tiles along one side of the picture lie.

    Args:
        side: of the picture, px.
        tile: longest tile, px.
        overlap: of neighbours, px; more where that brings the starts to multiples of GRID.
    Returns:
        List of (start, stop), the last stop is `side`.
    Raises:
        ValueError: the overlap is more than half a tile.
    """
    if side <= tile:
        return [(0, side)]
    step = (tile - overlap) // GRID * GRID
    if overlap < 0 or 2 * step < tile:  # of three tiles on one place the ramps do not sum to 1
        raise ValueError(f"tiles of {tile} px can overlap by half at most, not by {overlap} px")
    return spans_of(side, -(-(side - tile) // step) + 1, tile - step)


def used_part(weights: np.ndarray) -> slice:
    """The slice of a ramp's places that count."""
    (places,) = np.nonzero(weights)
    return slice(int(places[0]), int(places[-1]) + 1)


def ramp(span: tuple[int, int], spans: Spans) -> np.ndarray:
    """How much a tile counts along one side: (length of the span,) float32 in [0, 1]."""
    start, stop = span
    out = np.ones(stop - start, np.float32)
    for other_start, other_stop in spans:
        if other_start < start < other_stop:
            shared = other_stop - start
            out[:shared] *= _rise(shared)
        elif start < other_start < stop:
            shared = stop - other_start
            out[-shared:] *= 1 - _rise(shared)
    return out


def _rise(overlap: int) -> np.ndarray:
    """From 0 to 1 over the overlap: the middle quarter is the slope."""
    slope = max(overlap // 4, 1)
    margin = (overlap - slope) // 2
    return np.clip((np.arange(overlap, dtype=np.float32) - margin + 0.5) / slope, 0, 1)
