"""The one way from N frames to a fused picture: tiles, blending, focus map."""

import math
from typing import NamedTuple

import numpy as np

from stackmff.fusion.blending import Blend, FrameWeights, Fused, LumaBlend, Mixture, WeightsBlend
from stackmff.fusion.engines import GRID, PROBE, Engine
from stackmff.fusion.tiles import (
    Spans,
    ramp,
    tile_area,
    tile_plan,
    tile_spans,
    used_part,
)
from stackmff.images.frame_store import release, window
from stackmff.images.rectangles import Box
from stackmff.processes import Progress, in_order

WHOLE = Mixture()


def fuse_stack(
    frames: np.ndarray,
    engine: Engine,
    mixture: Mixture = WHOLE,
    progress: Progress | None = None,
    tile: int | None = None,
    overlap: int | None = None,
) -> Fused:
    """Fuse frames tile by tile; memory beyond frames and result does not grow with the height.

    Args:
        frames: (N, H, W, C) uint8 or uint16 in focus order, C as in images/formats.py.
        engine: runs the network.
        mixture: which frames take part, and how; default: all, evenly.
        progress: called as progress(tiles done, tiles in all) after each tile.
        tile, overlap: see `plan_tiles`.
    Raises:
        ValueError: the overlap is more than half a tile.
    """
    kind = WeightsBlend if engine.output == "weights" else LumaBlend
    blend = kind(frames, mixture)
    run_tiles(blend, frames, engine, progress, tile, overlap)
    return blend.fused


def frame_weights(
    frames: np.ndarray,
    engine: Engine,
    mixture: Mixture = WHOLE,
    progress: Progress | None = None,
) -> np.ndarray:
    """The weights of the frames in the fused picture.

    Args:
        frames, engine, mixture, progress: see `fuse_stack`; the network must give weights.
    Returns:
        (N, H, W) float32 in [0, 1], sum 1 over N; a copy of an earlier frame has 0.
    """
    blend = FrameWeights(frames, mixture)
    run_tiles(blend, frames, engine, progress)
    return blend.weights


def plan_tiles(
    engine: Engine, shape: tuple[int, ...], tile: int | None, overlap: int | None
) -> tuple[Spans, Spans]:
    """The tiles in which a stack is fused.

    Neighbouring tiles share `overlap` px. Of these the three eighths next to either border are
    discarded, and the quarter between is a linear ramp from one tile to the other.

    Args:
        engine: runs the network.
        shape: (N, height, width).
        tile: side of a tile, px; a picture up to this size is done whole. None: the engine's, less
            if a network that weighs frames gets many.
        overlap: of neighbouring tiles, px, up to half a tile; None: the engine's.
    Returns:
        (rows, columns): lists of (start, stop), px.
    Raises:
        ValueError: the overlap is more than half a tile.
    """
    n_frames, height, width = shape
    area = tile_area(engine, n_frames) if tile is None else tile**2
    if overlap is None:
        overlap = min(engine.overlap, math.isqrt(area) // (2 * GRID) * GRID)
    if tile is None:
        return tile_plan(height, width, area, overlap)
    return tile_spans(height, tile, overlap), tile_spans(width, tile, overlap)


def get_ready(engine: Engine, shape: tuple[int, int, int] | None) -> None:
    """Get an engine ready for a stack that is still being read.

    Args:
        engine: runs the network.
        shape: (N, height, width) that the stack will have, unless frames are left out of it; None:
            not known.
    """
    engine.load()
    if shape is None:
        return
    engine.expect(*shape)
    rows, columns = plan_tiles(engine, shape, None, None)
    engine.prepare(shape[0], *largest_sides(rows, columns), len(rows) * len(columns))


def largest_sides(rows: Spans, columns: Spans) -> tuple[int, int]:
    """The height and the width of the largest tile, px."""
    high, wide = (max(stop - start for start, stop in spans) for spans in (rows, columns))
    return high, wide


def run_tiles(
    blend: Blend,
    frames: np.ndarray,
    engine: Engine,
    progress: Progress | None = None,
    tile: int | None = None,
    overlap: int | None = None,
) -> None:
    """Have a Blend run over all tiles of the frames, and take their rows as they are finished.

    Args:
        blend: what the tiles come to.
        frames, engine, progress, tile, overlap: see `fuse_stack`.
    """
    _, height, width, _ = frames.shape
    rows, columns = plan_tiles(engine, (len(blend.distinct), height, width), tile, overlap)
    places = [Box(*row, *column) for row in rows for column in columns]
    sides = largest_sides(rows, columns)
    # First the look at the whole, whose memory is free again when the tiles need theirs.
    engine = engine.for_stack(blend.guide, blend.distinct, blend.levels)
    jobs = engine.prepare(len(blend.distinct), *sides, len(places))

    def run(place: Box) -> tuple[int, int, np.ndarray]:
        down, across = ramp(place[:2], rows), ramp(place[2:], columns)
        used = used_part(down), used_part(across)
        values = blend.run(engine, place, used)
        values *= down[used[0], None]
        values *= across[used[1]]
        return place.top + used[0].start, place.left + used[1].start, values

    # One row of tiles, all across: (planes, tile, W).
    band = np.zeros((blend.planes, sides[0], width), np.float32)
    for done, (place, part) in enumerate(in_order(run, places, jobs), start=1):
        top, left, values = part  # (planes, h, w), the part of the tile that counts
        there = Box.at(top - place.top, left, values.shape[1:])
        band[:, *there.slices] += values
        release(frames)
        release(blend.guide)
        if progress is not None:
            progress(done, len(places))
        if place.right != width:
            continue
        below = done // len(columns)  # index of the next row of tiles: none later reaches above it
        final = place.bottom if below == len(rows) else rows[below][0]
        blend.finish(band[:, : final - place.top], place.top)
        rest = band[:, final - place.top : place.size[0]].copy()
        band[:] = 0
        band[:, : rest.shape[1]] = rest


class Origin(NamedTuple):
    """Where a pixel of the fused picture comes from.

    Attributes:
        shares: (N,) float32 of the frames in its mixture, sum 1; 0 for frames that take no part.
        added: (C,) float32, what the stage beyond the mixture added, in the range of the frames.
    """

    shares: np.ndarray
    added: np.ndarray


def origin_at(
    frames: np.ndarray, engine: Engine, x: int, y: int, mixture: Mixture = WHOLE
) -> Origin:
    """Where one pixel of the fused picture comes from.

    Only a small window is looked at, so that the answer is immediate, or a wide one at a low
    resolution if the network has a coarse level; in a whole tile the shares may differ by some
    hundredths.

    Args:
        frames, mixture: see `fuse_stack`.
        engine: runs a network that weighs frames.
        x, y: of the pixel.
    """
    use = mixture.frames_used(len(frames))
    size = frames.shape[1:3]
    sight = window_around(size, x, y, engine.sight)
    # Copies of frames are not looked for: that would read the whole stack.
    blend = WeightsBlend(frames, mixture, use)
    engine = engine.for_stack(frames[:, *sight.slices], use, blend.levels)
    probe = window_around(size, x, y, PROBE)
    top, left = (at - (at - start) % GRID for at, start in zip(probe.corner, sight.corner))
    place = probe._replace(top=top, left=left)
    tile = window(frames, place, use)
    corner = top - sight.top, left - sight.left
    weights, told = blend.weighed(engine, tile, tile, place, corner)
    mixed = blend.mixed(weights, tile)
    added = blend.corrected(engine, mixed.copy(), weights, tile, told) - mixed
    shares = np.zeros(len(frames), np.float32)
    shares[use] = weights[:, y - top, x - left]
    return Origin(shares, added[: frames.shape[3], y - top, x - left])


def window_around(size: tuple[int, ...], x: int, y: int, side: int) -> Box:
    """The window of `side` px around a pixel, within a picture of (height, width)."""
    top, left = (
        int(np.clip(at - side // 2, 0, max(length - side, 0)))
        for at, length in zip((y, x), size, strict=True)
    )
    return Box.at(top, left, (side, side)).common(Box.whole(size))
