"""From weights or luma of tiles to the fused picture."""

from dataclasses import dataclass

import cv2
import numpy as np

from stackmff.alignment.geometry import Alignment, covered
from stackmff.fusion.engines import weigh
from stackmff.images.frame_store import release, window

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
