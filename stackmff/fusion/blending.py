"""From what a network says of tiles, weights or a luma, to the fused picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import cv2
import numpy as np

from stackmff.alignment.geometry import Alignment, coverage, covered
from stackmff.fusion.beyond import corrected
from stackmff.fusion.engines import Corner, Engine, weigh, weigh_and_tell
from stackmff.images.frame_store import release, window
from stackmff.images.levels import Levels, levels_of, weighing_levels
from stackmff.images.rectangles import Box

LEAST_WEIGHT = 1e-3  # added to that of frames that take over where others end
BRIGHTER = 0.9  # gain below which a frame was so much brighter that what it clips shows
CLIPPED = 0.98  # of white
FADING = np.float32(0.99)  # a frame that counts less takes nothing of what others lose
EXCEEDED = 1.04  # times what a clipped pixel came to: another frame shows that it is more
CLIP_REACH = 5  # px; side of the square by which clipped areas grow, and fade
CLIPPED_WEIGHT = 1e-3  # what is left of the weight of a clipped pixel, for where all are clipped


@dataclass
class Fused:
    """The result of fusing a stack.

    Attributes:
        picture: (H, W, C) in the dtype of the frames, or uint16.
        focus_map: (H, W) uint16, round(65535 i / (N - 1)), i the expected frame, where a copy
            counts as the first of its kind; with a network that gives a luma, the frame of the
            nearest luma; None if not asked for.
        confidence: (H, W) uint8, the largest weight of a frame x 255; None if there are no weights.
    """

    picture: np.ndarray
    focus_map: np.ndarray | None
    confidence: np.ndarray | None


@dataclass(frozen=True)
class Mixture:
    """Which frames take part in a fused picture, and how.

    Attributes:
        use: indices of the frames that take part, ascending; None: all, or those that `alignment`
            keeps.
        alignment: by which the frames were brought onto their reference; where a frame does not
            cover a pixel it takes no part in it. None: every frame covers every pixel.
        tilt: where frames far apart share a pixel, it goes to the later ones (above 0) or the
            earlier ones: the weight of the last frame counts exp(tilt) times that of the first.
        deep: give 16 bits even if the frames have 8.
        maps: also give the focus map and the confidence, which takes time and memory.
        pure: mix and nothing else, also if the engine goes beyond the mixture.
        guide: (N, H, W, C') frames that are weighed in place of those that are mixed, such as
            another channel of the same planes; None: the frames themselves.
    """

    use: Sequence[int] | None = None
    alignment: Alignment | None = None
    tilt: float = 0.0
    deep: bool = False
    maps: bool = True
    pure: bool = False
    guide: np.ndarray | None = None

    def frames_used(self, n_frames: int) -> list[int]:
        """The indices of the frames that take part, of `n_frames`."""
        if self.use is not None:
            return list(self.use)
        return list(range(n_frames)) if self.alignment is None else self.alignment.kept


Used = tuple[slice, slice]  # rows and columns of a tile that count


class Blend(Protocol):
    """What makes a result from tiles: `run` for each tile, then `finish` for finished rows."""

    planes: int
    distinct: list[int]
    levels: Levels | None
    guide: np.ndarray

    def run(self, engine: Engine, place: Box, used: Used) -> np.ndarray:
        """What the engine says of a tile; (planes, h', w') float32 of its used part."""

    def finish(self, band: np.ndarray, top: int) -> None:
        """Take the finished rows (planes, h, W), the first of which is row `top`."""


def _frame_scale(count: int) -> float:
    """The factor from the index of a frame to its value in a focus map."""
    return 65535 / max(count - 1, 1)


def distinct_frames(frames: np.ndarray, use: Sequence[int] | None = None) -> list[int]:
    """Which frames are not copies of earlier ones.

    Args:
        frames: (N, H, W, C).
        use: indices of those to look at, ascending; None: all.
    Returns:
        Indices in ascending order.
    """
    groups: dict[bytes, list[int]] = {}
    for k in range(len(frames)) if use is None else use:
        frame = frames[k]
        alike = groups.setdefault(frame[::16, ::16].tobytes(), [])  # a few pixels tell most apart
        if not any(np.array_equal(frame, frames[other]) for other in alike):
            alike.append(k)
        release(frames)
    return sorted(k for alike in groups.values() for k in alike)


def _covers(mixture: Mixture, indices: Sequence[int], box: Box) -> list[np.ndarray | None]:
    """For each of some frames (h, w) bool, what it covers of a box; None: all of it."""
    if mixture.alignment is None:
        return [None] * len(indices)
    return [covered(mixture.alignment, k, box) for k in indices]


def _empty(frames: np.ndarray, mixture: Mixture, confident: bool) -> Fused:
    """A Fused to fill, for frames (N, H, W, C)."""
    _, height, width, channels = frames.shape
    maps = mixture.maps
    return Fused(
        np.empty((height, width, channels), np.uint16 if mixture.deep else frames.dtype),
        np.empty((height, width), np.uint16) if maps else None,
        np.empty((height, width), np.uint8) if maps and confident else None,
    )


class WeightsBlend:
    """Mixes the frames by the weights of a network: each pixel is a convex mixture of N pixels.

    If the engine goes beyond the mixture, and it need not be pure, each value lies within the range
    of the frames in 3x3 px.

    Copies of a frame are left out: they show nothing new and take time. Their share goes to the
    first of them.

    Args:
        frames: (N, H, W, C).
        mixture: which frames take part, and how.
        distinct: indices of the frames that are not copies; None: they are looked for.
    """

    def __init__(
        self, frames: np.ndarray, mixture: Mixture, distinct: list[int] | None = None
    ) -> None:
        self.frames, self.mixture = frames, mixture
        self.guide = frames if mixture.guide is None else mixture.guide
        use = mixture.frames_used(len(frames))
        self.distinct = distinct_frames(self.guide, use) if distinct is None else distinct
        count, channels = len(frames), frames.shape[3]
        # After the channels the expected frame and the largest weight.
        self.planes = channels + 2 * mixture.maps
        self.scale = _frame_scale(count)
        self.levels = weighing_levels(self.guide)
        tilt = np.float32(mixture.tilt)
        self.factors = np.exp(tilt * np.linspace(0, 1, count, dtype=np.float32))
        self.fused = _empty(frames, mixture, confident=True)

    def run(self, engine: Engine, place: Box, used: Used) -> np.ndarray:
        """Fuse a tile; (planes, h', w') float32 of its used part."""
        tile = window(self.frames, place, self.distinct)  # (N, h, w, C)
        guided = self.guide is not self.frames
        seen = window(self.guide, place, self.distinct) if guided else tile
        weights, told = self.weighed(engine, tile, seen, place, place.corner, used)
        if told is None:
            return self.mixed(weights, tile[:, *used])
        # The stage looks at what lies around a pixel, so that all of the tile is mixed.
        return self.corrected(engine, self.mixed(weights, tile), weights, tile, told)[:, *used]

    def weighed(
        self,
        engine: Engine,
        tile: np.ndarray,
        seen: np.ndarray,
        place: Box,
        corner: Corner,
        used: Used | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The weights of a tile, and what the stage beyond the mixture is told of it.

        Args:
            engine: runs the network.
            tile: (N, h, w, C) of the frames in `distinct`.
            seen: of the guide likewise.
            place: of the tile in the picture.
            corner: (top, left) of the tile in what the engine knows as the whole.
            used: the part of the tile that is needed; None: all of it.
        Returns:
            weights (N, h', w'), of the used part alone if nothing goes beyond the mixture; and
            what `Engine.coefficients` is told, or None.
        """
        whole = slice(0, seen.shape[1]), slice(0, seen.shape[2])
        used, told = used or whole, None
        beyond = engine.goes_beyond and not self.mixture.pure and self.guide is self.frames
        if beyond and len(tile) > 1:  # a single frame is as it is
            weights, told = weigh_and_tell(engine, tile, self.levels, corner)
            used = whole
        else:
            weights = weigh(engine, seen, self.levels, corner)[:, *used]
        self.dampen(weights, tile, used)
        self.settle(weights, place, used)
        return weights, told

    def corrected(
        self,
        engine: Engine,
        mixed: np.ndarray,
        weights: np.ndarray,
        tile: np.ndarray,
        told: np.ndarray | None,
    ) -> np.ndarray:
        """A mixed tile (planes, h, w) with what the stage adds to it; the same if `told` is None.

        Args:
            engine: runs the stage.
            mixed: see `mixed`; changed.
            weights, told: see `weighed`.
            tile: (N, h, w, C).
        """
        if told is None:
            return mixed
        colours = tile.shape[3] - (tile.shape[3] % 2 == 0)  # without alpha
        coefficients = partial(engine.coefficients, told=told)
        seen = tile[..., :colours]
        mixed[:colours] = corrected(mixed[:colours], weights, seen, coefficients, self.levels)
        return mixed

    def mixed(self, weights: np.ndarray, tile: np.ndarray) -> np.ndarray:
        """Mix frames (N, h', w', C) by weights (N, h', w'); (planes, h', w') float32."""
        out = np.zeros((self.planes, *weights.shape[1:]), np.float32)
        product = np.empty(weights.shape[1:], np.float32)
        for k, frame, weight in zip(self.distinct, tile, weights, strict=True):
            for channel, plane in enumerate(cv2.split(frame)):
                cv2.multiply(plane, weight, product, 1, cv2.CV_32F)
                cv2.add(out[channel], product, out[channel])
            if self.mixture.maps:
                out[-2] += np.multiply(weight, np.float32(k), out=product)
        if self.mixture.maps:
            weights.max(0, out=out[-1])
        return out

    def dampen(self, weights: np.ndarray, tile: np.ndarray, used: Used) -> None:
        """Take weight from clipped pixels of frames that were brighter than the others.

        Such a frame was darkened to their exposure. Where it was white it is now a flat grey, which
        never is what the scene looks like.

        Args:
            weights: (N, h', w') of the used part, changed.
            tile: (N, h, w, C) of the frames in `distinct`.
            used: see `run`.
        """
        if self.mixture.alignment is None:
            return
        gains = self.mixture.alignment.gains[self.distinct]
        dark = gains.min(1) < BRIGHTER
        if not dark.any():
            return
        if dark.all():
            return
        others = tile[~dark].max(0)
        for k in np.flatnonzero(dark):
            weights[k] *= clear_of_clipping(tile[k], gains[k], others)[used]
        weights /= weights.sum(0)

    def settle(self, weights: np.ndarray, place: Box, used: Used) -> None:
        """Tilt weights (N, h', w'), and share out what frames have where they end, or beyond."""
        down, across = (one.start for one in used)
        there = Box.at(place.top + down, place.left + across, weights.shape[1:])
        shares: list[np.ndarray | None] = [None] * len(self.distinct)
        if (alignment := self.mixture.alignment) is not None:
            shares = [coverage(alignment, k, there) for k in self.distinct]
        partly = any(share is not None for share in shares)
        if not partly and (self.factors == 1).all():
            return
        for k, weight in zip(self.distinct, weights, strict=True):
            weight *= self.factors[k]
        weights /= weights.sum(0)
        if partly:
            _share_out(weights, shares)

    def finish(self, band: np.ndarray, top: int) -> None:
        """Round the finished rows (planes, h, W) into the result."""
        rows = slice(top, top + band.shape[1])
        picture, frames = self.fused.picture, self.frames
        scale = np.iinfo(picture.dtype).max // np.iinfo(frames.dtype).max  # 1, or 257 for 8 bits
        for channel in range(picture.shape[2]):
            picture[rows, :, channel] = _rounded(band[channel], scale, picture.dtype)
        if self.fused.focus_map is not None:
            self.fused.focus_map[rows] = _rounded(band[-2], self.scale, np.uint16)
        if self.fused.confidence is not None:
            self.fused.confidence[rows] = _rounded(band[-1], 255, np.uint8)


def _share_out(weights: np.ndarray, shares: list[np.ndarray | None]) -> None:
    """Give what frames lose where they end to those that do not end there, in place.

    These get it in proportion to their own weights, or evenly if they have none, and without a
    step: a frame fades out.

    Args:
        weights: (N, h, w), sum 1 over N.
        shares: for each frame (h, w), how much it counts, see geometry.coverage; None: fully.
    """
    lost = np.zeros(weights.shape[1:], np.float32)
    total = lost.copy()
    takers: list[np.ndarray] = []
    for weight, share in zip(weights, shares, strict=True):
        taker = weight + np.float32(LEAST_WEIGHT)
        if share is not None:
            # Where every frame fades, those that fade take over from one another.
            taker *= np.maximum((share - FADING) / (1 - FADING), 0) + np.float32(1e-6) * share
            lost += weight * (1 - share)
            weight *= share
        takers.append(taker)
        total += taker
    bare = total == 0  # no frame reaches there: their edges are continued
    lost /= np.where(bare, 1, total)
    for weight, taker in zip(weights, takers, strict=True):
        weight += taker * lost
    weights[:, bare] = 1 / len(weights)


def clear_of_clipping(frame: np.ndarray, gains: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How much of its weight each pixel of a darkened frame keeps.

    Args:
        frame: (h, w, C).
        gains: (1,) or (3,), the factors by which it was darkened.
        others: (h, w, C), the largest values of the frames that were not.
    Returns:
        (h, w) float32, from 1 to CLIPPED_WEIGHT where a channel was clipped and others show that it
        would be brighter.
    """
    limit = CLIPPED * gains * np.iinfo(frame.dtype).max
    colours = slice(len(gains))
    clipped = (frame[..., colours] >= limit) & (others[..., colours] > EXCEEDED * limit)
    grown = cv2.dilate(
        clipped.any(-1).astype(np.float32), np.ones((CLIP_REACH, CLIP_REACH), np.uint8)
    )
    return 1 - (1 - np.float32(CLIPPED_WEIGHT)) * cv2.blur(grown, (CLIP_REACH, CLIP_REACH))


class FrameWeights:
    """Keeps the weights of the frames themselves, for those who mix other data of the same stack.

    Args:
        frames: (N, H, W, C).
        mixture: which frames take part, and how.
    """

    def __init__(self, frames: np.ndarray, mixture: Mixture) -> None:
        self.blend = WeightsBlend(frames, mixture)
        self.distinct, self.levels = self.blend.distinct, self.blend.levels
        self.guide = frames
        self.planes = len(self.distinct)
        self.weights = np.zeros(frames.shape[:3], np.float32)  # (N, H, W)

    def run(self, engine: Engine, place: Box, used: Used) -> np.ndarray:
        """The weights of a tile; (frames that are not copies, h', w') float32 of its used part."""
        tile = window(self.blend.frames, place, self.distinct)
        weights = weigh(engine, tile, self.blend.levels, place.corner)[:, *used].copy()
        self.blend.dampen(weights, tile, used)
        self.blend.settle(weights, place, used)
        return weights

    def finish(self, band: np.ndarray, top: int) -> None:
        """Keep the finished rows; ramps of tiles sum to 1 up to rounding."""
        self.weights[self.distinct, top : top + band.shape[1]] = band / band.sum(0)


class LumaBlend:
    """Takes the luma of the network, and the colour of the frame whose luma is nearest to it.

    Source: the published prediction steps of StackMFF (Xie et al. 2025).
    """

    planes = 1

    def __init__(self, frames: np.ndarray, mixture: Mixture) -> None:
        self.frames, self.mixture, self.guide = frames, mixture, frames
        self.distinct = mixture.frames_used(len(frames))  # the published network sees copies too
        self.scale = _frame_scale(len(frames))
        self.levels = levels_of(frames)
        self.fused = _empty(frames, mixture, confident=False)

    def run(self, engine: Engine, place: Box, used: Used) -> np.ndarray:
        """Fuse a tile; (1, h', w') float32 luma of its used part."""
        tile = window(self.frames, place, self.distinct)  # (N, h, w, C)
        codes = np.stack([_split_luma(frame)[0] for frame in tile])  # (N, h, w)
        lumas = codes / np.float32(np.iinfo(codes.dtype).max)
        if self.levels is None:
            return engine(lumas[None])[0][:, *used].copy()
        return self.levels.restored(engine(self.levels.stretched(lumas)[None])[0][:, *used])

    def finish(self, band: np.ndarray, top: int) -> None:
        """Round the finished rows (1, h, W) and give them colour."""
        bottom, width = top + band.shape[1], band.shape[2]
        dtype = self.frames.dtype
        fused = _rounded(band[0], np.iinfo(dtype).max, dtype)
        nearest = np.full(fused.shape, np.iinfo(np.int32).max, np.int32)
        index = np.zeros(fused.shape, np.float32)
        others: np.ndarray | None = None  # chroma and alpha of the nearest frame
        masks = _covers(self.mixture, self.distinct, Box(top, bottom, 0, width))
        for k, mask in zip(self.distinct, masks, strict=True):
            codes, rest = _split_luma(self.frames[k, top:bottom])
            distance = np.abs(codes.astype(np.int32) - fused)
            closer = distance < nearest
            if mask is not None:
                closer &= mask
            nearest[closer] = distance[closer]
            index[closer] = k
            others = rest.copy() if others is None else others
            others[closer] = rest[closer]
        assert others is not None  # a stack has frames
        picture = _join_luma(fused, others)
        scale = np.iinfo(self.fused.picture.dtype).max // np.iinfo(dtype).max
        self.fused.picture[top:bottom] = picture * self.fused.picture.dtype.type(scale)
        if self.fused.focus_map is not None:
            self.fused.focus_map[top:bottom] = _rounded(index, self.scale, np.uint16)


def _rounded(values: np.ndarray, scale: float, dtype: Any) -> np.ndarray:
    """values x scale, rounded and clipped to the range of an integer dtype."""
    return np.clip(np.rint(values * np.float32(scale)), 0, np.iinfo(dtype).max).astype(dtype)


def _split_luma(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, C) into its luma code (H, W) and the rest (H, W, C - 1): Cr and Cb, and alpha."""
    if frame.shape[2] <= 2:
        return frame[..., 0], frame[..., 1:]
    codes = cv2.cvtColor(np.ascontiguousarray(frame[..., :3]), cv2.COLOR_RGB2YCrCb)
    return codes[..., 0], np.dstack([codes[..., 1:], frame[..., 3:]])


def _join_luma(codes: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """The inverse of _split_luma: (H, W, C)."""
    if rest.shape[2] <= 1:
        return np.dstack([codes, rest])
    colour = cv2.cvtColor(np.dstack([codes, rest[..., :2]]), cv2.COLOR_YCrCb2RGB)
    return np.dstack([colour, rest[..., 2:]])
