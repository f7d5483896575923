"""Frames with parts that are not of the scene, as a damaged file leaves them.

A decoder fills in what a damaged file lacks, or makes noise, other colours and shifted rows of it,
and formats without check sums cannot tell. Neighbours in a stack show the same scene with another
blur, which hardly changes the mean of a large block: it stays within the means around it. Where
two neighbours differ by much blur, it is compared with what blur makes of one of them: light is
averaged, not the values that code it, and what is clipped may be much brighter.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from stackmff.images.frame_store import release

SAMPLES = 160  # along each side of a frame, about, of those that are looked at
BLOCK = 8  # samples along each side of a block
LEVEL = 1 / 255  # of the range
FLAT, COLOURFUL = 1 * LEVEL, 8 * LEVEL  # range within a flat block; chroma of a colourful one
UNLIKE, LIKE = 12 * LEVEL, 6 * LEVEL  # differences of the means of blocks
# A frame is damaged from this number and this share of bad blocks on, if some others are right.
FEWEST, SHARE, LEAST_RIGHT = 8, 0.005, 2
REVERSE = 4  # times as many bad blocks as blocks that are flat in both neighbours, not in the frame
# A block whose mean is farther than OUTSIDE from those around its place in both neighbours shows
# something else. Of 300 frames of real and rendered stacks, aligned or steady, the worst has 0.8 %.
OUTSIDE = 8 * LEVEL
# From this share of all blocks on, and from LEAST blocks, a frame is named. It may show what passed
# by as well as damage, and is sharp elsewhere: it is left out only if most of it cannot be used.
NAMED, LEFT_OUT, LEAST = 1 / 80, 1 / 4, 4
# A part from border to border in another exposure: logarithms of coded values within which the rest
# is like its neighbours, and beyond which the part differs; least share of the rows or columns of
# each, and of both; most scatter within the part, of its difference.
ALIKE, EXPOSED, PART, BOTH, EVEN = 0.1, 0.3, 0.1, 0.8, 0.2
LEAST_BLOCKS = 4  # along the shorter side
GAMMA = 2.2  # of the coded values, about; a stack of linear values is compared without it as well
BRIGHTER = 2  # times white, by which a clipped sample may be brighter
BLURS = (0.0, 0.5, 1.0, 2.0)  # standard deviations in blocks

Bounds = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Disagreement:
    """Frames that disagree with both their neighbours, each list in ascending order.

    Attributes:
        damaged: much of them is of something else, or parts are flat, grey, repeated, or in another
            exposure.
        unlike: parts are of something else, such as of a thing that passed by.
    """

    damaged: list[int] = field(default_factory=list)
    unlike: list[int] = field(default_factory=list)


class _Blocks:
    """What is known of the blocks of a frame.

    Attributes:
        samples: (h * BLOCK, w * BLOCK, C) of the frame.
        means: (h, w, C) of the colours, in [0, 1].
        bounds: (h, w, C) twice: least and most of the means of a block and those around it.
        plain: (h, w) bool: each column of a block is of one value, as in a flat or smeared area.
        is_grey: whether all of them are grey, and not plain.
        grey: (h, w) bool; chroma: (h, w), the largest difference of two colours.
    """

    def __init__(self, frame: np.ndarray) -> None:
        height, width, channels = frame.shape
        colours = 3 if channels >= 3 else 1
        step = max(min(height, width) // SAMPLES, 1)
        samples = frame[::step, ::step, :colours]
        high, wide = (side // BLOCK for side in samples.shape[:2])
        white = np.float32(np.iinfo(frame.dtype).max)
        rows = np.ascontiguousarray(samples[: high * BLOCK, : wide * BLOCK])
        rows = rows.reshape(high, BLOCK, wide * BLOCK, colours)  # numpy is slow along short axes
        self.samples = rows.reshape(-1, wide * BLOCK, colours)
        sums = rows.sum(1, dtype=np.uint32).reshape(high, wide, BLOCK, colours).sum(2)
        self.means = (sums / (white * BLOCK**2)).astype(np.float32)
        self.bounds = _bounds(self.means)
        ranges = rows.max(1) - rows.min(1)
        self.plain = ranges.reshape(high, wide, -1).max(-1) <= FLAT * white
        planes = [rows[..., k] for k in range(colours)]
        chroma = np.maximum.reduce(planes) - np.minimum.reduce(planes)
        self.chroma = chroma.max(1).reshape(high, wide, BLOCK).max(-1) / white
        self.grey = self.chroma <= FLAT
        # As a picture without colours is, and not what a decoder fills in.
        self.is_grey = bool(self.grey.all()) and not self.plain.all()


def disagreeing_frames(frames: np.ndarray) -> Disagreement:
    """The frames that disagree with both their neighbours in a part that blur cannot explain.

    A frame of another exposure disagrees everywhere, and one that has moved as often the other way
    round: neither counts. Nor does a grey one among frames in colour.

    Args:
        frames: (N, H, W, C) uint8 or uint16, in the order in which neighbours are alike.
    Returns:
        Disagreement; empty if there are fewer than three frames, the frames are too small to judge,
        or more than a third of them would be named.
    """
    count = len(frames)
    if count < 3 or min(frames.shape[1:3]) < LEAST_BLOCKS * BLOCK:
        return Disagreement()
    blocks = []
    for frame in frames:
        blocks.append(_Blocks(frame))
        release(frames)
    damaged, unlike = [], []
    for k, own in enumerate(blocks):
        near: tuple[int, ...] = (k - 1, k + 1)
        if k in (0, count - 1):  # a third one tells whether the two are not the ones that are odd
            near = (1, 2, 3) if k == 0 else (count - 2, count - 3, count - 4)
        one, other, *more = (blocks[j] for j in near if 0 <= j < count)
        if own.is_grey and not (one.is_grey and other.is_grey):
            continue  # without their colours, which tell nothing of damage
        share = _unlike(own, one, other, *more)
        if share >= LEFT_OUT or _disagrees(own, one, other) or _half_exposed(own, one, other):
            damaged.append(k)
        elif share >= NAMED:
            unlike.append(k)
    too_many = len(damaged) + len(unlike) > count // 3
    return Disagreement() if too_many else Disagreement(damaged, unlike)


def _bounds(means: np.ndarray) -> Bounds:
    """(h, w, C) twice: least and most of the means of a block and those around it."""
    around = np.ones((3, 3), np.uint8)
    least, most = cv2.erode(means, around), cv2.dilate(means, around)
    return least.reshape(means.shape), most.reshape(means.shape)


def _outside(means: np.ndarray, *near: Bounds) -> np.ndarray:
    """(h, w): how far the mean of a block is from all those around its place in other frames."""
    least = np.minimum.reduce([bounds[0] for bounds in near])
    most = np.maximum.reduce([bounds[1] for bounds in near])
    return np.maximum(np.maximum(least - means, means - most), 0).max(-1)


def _unlike(own: _Blocks, one: _Blocks, other: _Blocks, *more: _Blocks) -> float:
    """The share of blocks that show something else than two neighbours, which agree, also with
    those beyond.

    0 for a frame of one colour, and for one that another exposure or a movement of the whole frame
    explains.
    """
    between = np.maximum(_outside(one.means, other.bounds), _outside(other.means, one.bounds))
    for frame in more:
        between = np.maximum(between, _outside(frame.means, one.bounds, other.bounds))

    def bad(means: np.ndarray, *near: Bounds) -> np.ndarray:
        away = _outside(means, *near)
        return (away > OUTSIDE) & (between < away / 2)

    least = max(LEAST, NAMED * between.size)
    found = bad(own.means, one.bounds, other.bounds)
    if found.sum() < least or np.ptp(own.means, (0, 1)).max() < UNLIKE:
        return 0.0
    for frame in (one, other):
        found &= ~(_blurred_to(own, frame) | _blurred_to(frame, own))
    if found.sum() < least:
        return 0.0
    # What is clipped in one frame can be made of the others, and not the other way round.
    near = (_bounds(_exposed_like(frame, own)) for frame in (one, other))
    matched = bad(_exposed_like(own, one), one.bounds, other.bounds), bad(own.means, *near)
    # Of a frame whose last part is darker or of another colour, a curve explains that part, and not
    # the first one: it counts how many blocks are left, not which.
    share = min(float(blocks.mean()) for blocks in (found, *matched))
    if share * between.size < least:
        return 0.0
    for frame in (one, other):
        moved, inner = _moved_like(own, frame)
        left = bad(moved, one.bounds, other.bounds)[inner].mean()
        if left < max(NAMED / 2, share / 4):
            return 0.0
    return share


def _half_exposed(own: _Blocks, one: _Blocks, other: _Blocks) -> bool:
    """Whether a part of a frame, from border to border, is in another exposure than two neighbours.

    So it is where a flash fires while the shutter is not fully open.
    """
    wanted, *near = (np.log(blocks.means.mean(-1) + LEVEL) for blocks in (own, one, other))
    difference, between = wanted - np.mean(near, 0), np.abs(near[0] - near[1])
    for axis in (1, 0):
        profile = np.median(difference, axis)
        rest, part = np.abs(profile) < ALIKE, np.abs(profile) > EXPOSED
        if min(rest.mean(), part.mean()) < PART or (rest | part).mean() < BOTH:
            continue
        inside, apart = (np.compress(part, values, 1 - axis) for values in (difference, between))
        level = np.median(inside)
        scatter = np.median(np.abs(inside - level))
        if max(float(scatter), float(np.median(apart))) < EVEN * abs(level):
            return True
    return False


def _blurred_to(sharp: _Blocks, blurred: _Blocks) -> np.ndarray:
    """(h, w) bool: where some blur of one frame gives the means of another one."""
    white = np.iinfo(sharp.samples.dtype).max
    clipped = BRIGHTER * _means(np.where(sharp.samples == white, sharp.samples, 0))
    given = np.zeros(clipped.shape[:2], bool)
    for gamma in (1, GAMMA):
        light, wanted = (_light(blocks, gamma) for blocks in (sharp, blurred))
        for sigma in BLURS:
            least, more = (_blur(blocks, sigma) for blocks in (light, clipped))
            most = np.minimum(least + more, 1)
            least, most, value = (blocks ** (1 / gamma) for blocks in (least, most, wanted))
            away = np.maximum(least - value, value - most).max(-1)
            given |= away <= OUTSIDE
    return given


def _light(blocks: _Blocks, gamma: float) -> np.ndarray:
    """(h, w, C): the mean light of the blocks, of samples that are coded by this power."""
    if gamma == 1:
        return blocks.means
    dtype = blocks.samples.dtype
    white = np.iinfo(dtype).max
    values = np.arange(white + 1, dtype=np.float32)
    light = ((values / np.float32(white)) ** gamma * white).round().astype(dtype)
    return _means(light[blocks.samples])


def _blur(blocks: np.ndarray, sigma: float) -> np.ndarray:
    """(h, w, C), blurred by a Gaussian."""
    if not sigma:
        return blocks
    return cv2.GaussianBlur(blocks, (0, 0), sigma).reshape(blocks.shape)


def _means(samples: np.ndarray) -> np.ndarray:
    """(h, w, C) in [0, 1] of (h * BLOCK, w * BLOCK, C)."""
    high, wide = (side // BLOCK for side in samples.shape[:2])
    rows = samples.reshape(high, BLOCK, -1)  # numpy is slow along short axes
    sums = rows.sum(1, dtype=np.uint32).reshape(high, wide, BLOCK, -1).sum(2)
    return (sums / BLOCK**2 / np.iinfo(samples.dtype).max).astype(np.float32)


def _exposed_like(own: _Blocks, other: _Blocks) -> np.ndarray:
    """(h, w, C): the means of a frame whose tones are distributed as those of another are.

    So any curve of tones is undone.
    """
    out = np.empty_like(own.samples)
    count = np.iinfo(out.dtype).max + 1
    for k in range(out.shape[2]):
        plane = own.samples[..., k]
        counts = np.bincount(plane.ravel(), minlength=count)
        up_to = counts.cumsum()
        ranks = np.minimum(up_to - (counts + 1) // 2, plane.size - 1)  # the middle of each value's
        wanted = np.bincount(other.samples[..., k].ravel(), minlength=count).cumsum()
        out[..., k] = np.searchsorted(wanted, ranks, "right").astype(out.dtype)[plane]
    return _means(out)


def _moved_like(own: _Blocks, other: _Blocks) -> tuple[np.ndarray, tuple[slice, slice]]:
    """The means (h, w, C) of a frame that is moved as a whole onto another, and where both show."""
    grey, wanted = (blocks.samples.mean(2).astype(np.float32) for blocks in (own, other))
    window = cv2.createHanningWindow(grey.shape[::-1], cv2.CV_32F)
    (right, below), _ = cv2.phaseCorrelate(wanted, grey, window)
    move = (-round(below), -round(right))
    if any(abs(way) > side / 4 for way, side in zip(move, grey.shape)):
        move = (0, 0)  # two frames that have little in common
    edges = [1 + -(-abs(way) // BLOCK) if way else 0 for way in move]
    down, across = (slice(edge, -edge or None) for edge in edges)
    return _means(np.roll(own.samples, move, (0, 1))), (down, across)


def _disagrees(own: _Blocks, one: _Blocks, other: _Blocks) -> bool:
    """Whether a frame has parts that are flat, grey or repeated where two neighbours are not."""
    if min(own.means.shape[:2]) < FEWEST:
        return False
    away = [np.abs(own.means - near.means).max(-1) for near in (one, other)]
    between = np.abs(one.means - other.means).max(-1)
    unlike = (np.minimum(*away) > UNLIKE) & (between < np.minimum(*away) / 2)
    in_colour = (one.chroma > COLOURFUL) & (other.chroma > COLOURFUL)
    odd = (own.plain & ~one.plain & ~other.plain) | (own.grey & in_colour)
    bad = unlike & odd
    reverse = unlike & ~own.plain & one.plain & other.plain
    number = int(bad.sum())
    # Of a frame of one colour nothing tells that it is of this scene.
    if not max(FEWEST, SHARE * bad.size) <= number <= bad.size - LEAST_RIGHT:
        return False
    is_of_one_exposure = bool(np.median(np.maximum(*away)[~bad]) <= LIKE)
    return is_of_one_exposure and number >= REVERSE * int(reverse.sum())
