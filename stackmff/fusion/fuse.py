"""The one way from N frames to a fused picture: tiles, blending, focus map."""

import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from alignment import Alignment, covered
from engines import GRID, weigh
from pictures import release, window

# Overlap of tiles, px. StackMix in tiles of 640 px then differs from the whole by 0.02 grey levels
# on average (real stacks). The published network's attention means over all of its tile, so that no
# overlap makes its tiles exact (0.4 levels); a longer ramp hides the seam.
OVERLAPS = {"weights": 64, "luma": 128}
MEDIUM_TILE, SMALL_TILE = 512, 128
PROBE = 128  # px, side of what is looked at to tell the mixture of a pixel
WEIGHTS = Path(__file__).parent / "weights" / "checkpoint.pth"
LEAST_WEIGHT = 1e-3  # of all frames that cover a pixel; below it they share it evenly


@dataclass
class Fused:
    """What comes of a stack.

    Attributes:
        picture: (H, W, C) in the dtype of the frames.
        focus_map: (H, W) uint16, round(65535 i / (N - 1)), i the expected frame, where a copy
            counts as the first of its kind; with a network
            that gives luma, the frame of the nearest luma; None if not asked for.
        confidence: (H, W) uint8, the largest weight of a frame x 255; None where there are none.
    """

    picture: np.ndarray
    focus_map: np.ndarray | None
    confidence: np.ndarray | None


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
        frames: (N, H, W, C) uint8 or uint16 in focus order, C as in formats.py.
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
        engine: see engines.py, of a network that weighs frames.
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


def in_order(function, items, jobs):
    """Call a function for each item, several at a time.

    Args:
        function: called in threads, if jobs is more than 1.
        items: a list.
        jobs: threads; one result more waits at most, so that memory stays bounded.
    Yields:
        (item, what the function returned) in the order of the items.
    """
    jobs = min(jobs, len(items))
    if jobs < 2:
        for item in items:
            yield item, function(item)
        return
    with ThreadPoolExecutor(jobs) as pool:
        waiting = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) > jobs:
                    first, future = waiting.popleft()
                    yield first, future.result()
            for first, future in waiting:
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def tile_area(engine, count):
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


def tile_plan(height, width, area, overlap):
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


def spans_of(side, count, overlap):
    """Up to `count` equal spans along a side, their starts on multiples of GRID."""
    step = -(-(side - overlap) // (count * GRID)) * GRID
    if count < 2 or step < overlap:
        return [(0, side)]
    starts = range(0, side - overlap, step)
    return [(start, min(start + step + overlap, side)) for start in starts]


def tile_spans(side, tile, overlap):
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


def used_part(weights):
    """The slice of a ramp's places that count."""
    (places,) = np.nonzero(weights)
    return slice(int(places[0]), int(places[-1]) + 1)


def ramp(span, spans):
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


def _rise(overlap):
    """From 0 to 1 over the overlap: the middle quarter is the slope."""
    slope = max(overlap // 4, 1)
    margin = (overlap - slope) // 2
    return np.clip((np.arange(overlap, dtype=np.float32) - margin + 0.5) / slope, 0, 1)


def _frame_scale(count):
    """What a frame's index is multiplied with in a focus map."""
    return 65535 / max(count - 1, 1)


def distinct_frames(frames, use=None):
    """Which frames are no copies of earlier ones.

    Args:
        frames: (N, H, W, C).
        use: indices of those to look at, ascending; None: all.
    Returns:
        Indices in ascending order.
    """
    groups = {}
    for k in range(len(frames)) if use is None else use:
        frame = frames[k]
        alike = groups.setdefault(frame[::16, ::16].tobytes(), [])  # few pixels tell most apart
        if not any(np.array_equal(frame, frames[other]) for other in alike):
            alike.append(k)
        release(frames)
    return sorted(k for alike in groups.values() for k in alike)


@dataclass
class _Parts:
    """The frames that are fused, and what each of them covers; see `fuse_stack`."""

    frames: np.ndarray
    use: list
    alignment: Alignment | None

    def covers(self, indices, top, bottom, left, right):
        """For each of the frames (h, w) bool, what it covers of a window; None: all of it."""
        if self.alignment is None:
            return [None] * len(indices)
        return [covered(self.alignment, k, top, bottom, left, right) for k in indices]

    def empty(self, deep, maps, confident):
        """A Fused to fill."""
        _, height, width, channels = self.frames.shape
        return Fused(
            np.empty((height, width, channels), np.uint16 if deep else self.frames.dtype),
            np.empty((height, width), np.uint16) if maps else None,
            np.empty((height, width), np.uint8) if maps and confident else None,
        )


class _WeightsBlend:
    """Mixes the frames by the weights of a network; every pixel is a convex mixture of N pixels.

    Copies of a frame are left out: they show nothing new, and cost time. What they would have had
    goes to the first of them.
    """

    def __init__(self, parts, maps, tilt, deep, distinct=None):
        self.parts = parts
        self.distinct = distinct_frames(parts.frames, parts.use) if distinct is None else distinct
        self.maps = maps
        count, channels = len(parts.frames), parts.frames.shape[3]
        # After the channels the expected frame and the largest weight.
        self.planes = channels + 2 * maps
        self.scale = _frame_scale(count)
        self.factors = np.exp(np.float32(tilt) * np.linspace(0, 1, count, dtype=np.float32))
        self.fused = parts.empty(deep, maps, confident=True)

    def run(self, engine, place, used):
        """Fuse a tile (top, bottom, left, right); (planes, h', w') float32 of its used part."""
        tile = window(self.parts.frames, *place, self.distinct)  # (N, h, w, C)
        weights = weigh(engine, tile)[:, *used]  # (N, h', w')
        self.settle(weights, place, used)
        tile = tile[:, *used]
        out = np.zeros((self.planes, *weights.shape[1:]), np.float32)
        product = np.empty(weights.shape[1:], np.float32)
        for k, frame, weight in zip(self.distinct, tile, weights, strict=True):
            for channel, plane in enumerate(cv2.split(frame)):
                cv2.multiply(plane, weight, product, 1, cv2.CV_32F)
                cv2.add(out[channel], product, out[channel])
            if self.maps:
                out[-2] += np.multiply(weight, np.float32(k), out=product)
        if self.maps:
            weights.max(0, out=out[-1])
        return out

    def settle(self, weights, place, used):
        """Share out anew, in place, what frames have where they cover nothing, and tilt."""
        top, left = (place[2 * side] + used[side].start for side in (0, 1))
        bottom, right = top + weights.shape[1], left + weights.shape[2]
        masks = self.parts.covers(self.distinct, top, bottom, left, right)
        partly = any(mask is not None for mask in masks)
        if not partly and (self.factors == 1).all():
            return
        for k, weight, mask in zip(self.distinct, weights, masks, strict=True):
            weight *= self.factors[k]
            if mask is not None:
                weight *= mask
        total = weights.sum(0)
        if partly and (bare := total < LEAST_WEIGHT).any():  # all went to frames that end here
            for weight, mask in zip(weights, masks, strict=True):
                weight[bare] = LEAST_WEIGHT if mask is None else LEAST_WEIGHT * mask[bare]
            total = weights.sum(0)
            weights[:, total == 0] = 1  # no frame of these is there: their borders continued
            total = weights.sum(0)
        weights /= total

    def finish(self, band, top):
        """Round the finished rows (planes, h, W) into the result."""
        rows = slice(top, top + band.shape[1])
        picture, frames = self.fused.picture, self.parts.frames
        scale = np.iinfo(picture.dtype).max // np.iinfo(frames.dtype).max  # 1, or 257 for 8 bits
        for channel in range(picture.shape[2]):
            picture[rows, :, channel] = _rounded(band[channel], scale, picture.dtype)
        if not self.maps:
            return
        self.fused.focus_map[rows] = _rounded(band[-2], self.scale, np.uint16)
        self.fused.confidence[rows] = _rounded(band[-1], 255, np.uint8)


class _LumaBlend:
    """Takes the network's luma, and the colour of the frame whose luma is the nearest to it.

    Source: the published prediction steps of StackMFF (Xie et al. 2025).
    """

    planes = 1

    def __init__(self, parts, maps, tilt, deep):
        self.parts = parts
        self.distinct = parts.use  # the published network sees copies too
        self.scale = _frame_scale(len(parts.frames))
        self.fused = parts.empty(deep, maps, confident=False)

    def run(self, engine, place, used):
        """Fuse a tile (top, bottom, left, right); (1, h', w') float32 luma of its used part."""
        tile = window(self.parts.frames, *place, self.distinct)  # (N, h, w, C)
        codes = np.stack([_split_luma(frame)[0] for frame in tile])  # (N, h, w)
        return engine((codes / np.float32(np.iinfo(codes.dtype).max))[None])[0][:, *used].copy()

    def finish(self, band, top):
        """Round the finished rows (1, h, W) and give them colour."""
        bottom, width = top + band.shape[1], band.shape[2]
        dtype = self.parts.frames.dtype
        fused = _rounded(band[0], np.iinfo(dtype).max, dtype)
        nearest = np.full(fused.shape, np.iinfo(np.int32).max, np.int32)
        index = np.zeros(fused.shape, np.float32)
        others = None  # chroma and alpha of the nearest frame
        masks = self.parts.covers(self.distinct, top, bottom, 0, width)
        for k, mask in zip(self.distinct, masks, strict=True):
            codes, rest = _split_luma(self.parts.frames[k, top:bottom])
            distance = np.abs(codes.astype(np.int32) - fused)
            closer = distance < nearest
            if mask is not None:
                closer &= mask
            nearest[closer] = distance[closer]
            index[closer] = k
            others = rest.copy() if others is None else others
            others[closer] = rest[closer]
        picture = _join_luma(fused, others)
        scale = np.iinfo(self.fused.picture.dtype).max // np.iinfo(dtype).max
        self.fused.picture[top:bottom] = picture * self.fused.picture.dtype.type(scale)
        if self.fused.focus_map is not None:
            self.fused.focus_map[top:bottom] = _rounded(index, self.scale, np.uint16)


def _rounded(values, scale, dtype):
    """values x scale, rounded and held within the range of an integer dtype."""
    return np.clip(np.rint(values * np.float32(scale)), 0, np.iinfo(dtype).max).astype(dtype)


def _split_luma(frame):
    """(H, W, C) into its luma code (H, W) and the rest (H, W, C - 1): Cr and Cb, and alpha."""
    if frame.shape[2] <= 2:
        return frame[..., 0], frame[..., 1:]
    codes = cv2.cvtColor(np.ascontiguousarray(frame[..., :3]), cv2.COLOR_RGB2YCrCb)
    return codes[..., 0], np.dstack([codes[..., 1:], frame[..., 3:]])


def _join_luma(codes, rest):
    """The inverse of _split_luma: (H, W, C)."""
    if rest.shape[2] <= 1:
        return np.dstack([codes, rest])
    colour = cv2.cvtColor(np.dstack([codes, rest[..., :2]]), cv2.COLOR_YCrCb2RGB)
    return np.dstack([colour, rest[..., 2:]])
