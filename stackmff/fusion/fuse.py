"""The one way from N frames to a fused picture: tiles, blending, focus map."""

import math

import numpy as np

from stackmff.fusion.blending import _LumaBlend, _Parts, _WeightsBlend
from stackmff.fusion.engines import GRID, weigh
from stackmff.fusion.tiles import OVERLAPS, ramp, tile_area, tile_plan, tile_spans, used_part
from stackmff.images.frame_store import release, window
from stackmff.processes import in_order

PROBE = 128  # px, side of what is looked at to tell the mixture of a pixel


def fuse_stack(
    frames,
    engine,
    tile=None,
    overlap=None,
    progress=None,
    maps=True,
    use=None,
    alignment=None,
    tilt=0.0,
    deep=False,
):
    """Fuse frames tile by tile; memory beyond frames and result does not grow with the height.

    Neighbouring tiles share `overlap` px. Of these the three eighths next to either border are
    discarded and the quarter between is a linear ramp from one tile to the other.

    Args:
        frames: (N, H, W, C) uint8 or uint16 in focus order, C as in images/formats.py.
        engine: see the top of this file.
        tile: side of a tile, px; a picture up to this size is done whole. Default: the engine's,
            less where a network that weighs frames gets many.
        overlap: of neighbouring tiles, px, up to half a tile; default OVERLAPS.
        progress: called as progress(tiles done, tiles in all) after each tile.
        maps: False: without the focus map and the confidence, which saves time and memory.
        use: indices of the frames that take part, ascending; None: all, or those that `alignment`
            keeps.
        alignment: Alignment that the frames were brought onto their reference by; where a frame
            covers no pixel it has no part in the mixture. None: all cover all.
        tilt: where frames far apart share a pixel, it goes to the later ones (above 0) or the
            earlier: the last frame's weight counts exp(tilt) times as much as the first one's.
        deep: give 16 bits where the frames have 8.
    Returns:
        Fused.
    Raises:
        ValueError: the overlap is more than half a tile.
    """
    if use is None:
        use = range(len(frames)) if alignment is None else alignment.kept
    parts = _Parts(frames, list(use), alignment)
    kind = _WeightsBlend if engine.output == "weights" else _LumaBlend
    blend = kind(parts, maps, tilt, deep)
    _, height, width, _ = frames.shape
    area = tile_area(engine, len(blend.distinct)) if tile is None else tile**2
    if overlap is None:
        overlap = min(OVERLAPS[engine.output], math.isqrt(area) // (2 * GRID) * GRID)
    if tile is None:
        rows, columns = tile_plan(height, width, area, overlap)
    else:
        rows, columns = tile_spans(height, tile, overlap), tile_spans(width, tile, overlap)
    places = [(row, column) for row in rows for column in columns]
    sides = [max(stop - start for start, stop in spans) for spans in (rows, columns)]
    jobs = engine.prepare(len(blend.distinct), *sides, len(places))

    def run(place):
        (top, bottom), (left, right) = place
        down, across = ramp((top, bottom), rows), ramp((left, right), columns)
        used = used_part(down), used_part(across)
        values = blend.run(engine, (top, bottom, left, right), used)
        values *= down[used[0], None]
        values *= across[used[1]]
        return top + used[0].start, left + used[1].start, values

    # One band of tiles, all across: (planes, tile, W).
    band = np.zeros((blend.planes, sides[0], width), np.float32)
    for done, ((row, column), part) in enumerate(in_order(run, places, jobs), start=1):
        top, left, values = part  # (planes, h, w), the part of the tile that counts
        _, high, wide = values.shape
        band[:, top - row[0] : top - row[0] + high, left : left + wide] += values
        release(frames)
        if progress is not None:
            progress(done, len(places))
        if column != columns[-1]:
            continue
        below = done // len(columns)  # index of the next row of tiles: none later reaches above it
        final = row[1] if below == len(rows) else rows[below][0]
        blend.finish(band[:, : final - row[0]], row[0])
        rest = band[:, final - row[0] : row[1] - row[0]].copy()
        band[:] = 0
        band[:, : rest.shape[1]] = rest
    return blend.fused


def mixture_at(frames, engine, x, y, use=None, alignment=None, tilt=0.0):
    """What the network takes of each frame at one pixel.

    It looks at a small window, so that the answer comes at once; in a whole tile the shares may
    differ by some hundredths.

    Args:
        frames, use, alignment, tilt: as of `fuse_stack`.
        engine: see fusion/engines.py, of a network that weighs frames.
        x, y: of the pixel.
    Returns:
        (N,) float32, sum 1; 0 for frames that take no part.
    """
    if use is None:
        use = range(len(frames)) if alignment is None else alignment.kept
    use = list(use)
    _, height, width, _ = frames.shape
    top, left = (
        int(np.clip(at - PROBE // 2, 0, max(side - PROBE, 0)))
        for at, side in ((y, height), (x, width))
    )
    bottom, right = min(top + PROBE, height), min(left + PROBE, width)
    weights = weigh(engine, window(frames, top, bottom, left, right, use))
    weights = weights[:, y - top : y - top + 1, x - left : x - left + 1].copy()
    # Copies of frames are not looked for: that would read the whole stack.
    blend = _WeightsBlend(_Parts(frames, use, alignment), False, tilt, False, use)
    blend.settle(weights, (y, y + 1, x, x + 1), (slice(0, 1), slice(0, 1)))
    shares = np.zeros(len(frames), np.float32)
    shares[use] = weights[:, 0, 0]
    return shares
