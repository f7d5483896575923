"""Frames with parts that are not of the scene: flat, grey or repeated where neighbours are not.

A decoder fills in what a damaged file lacks, and programs that rescue pictures save that anew, so
that nothing in the file tells. Neighbours in a stack show the same scene with another blur, which
hardly changes the mean of a large block.
"""

import numpy as np

from stackmff.images.frame_store import release

SAMPLES = 160  # along each side of a frame, about, of those that are looked at
BLOCK = 8  # samples along each side of a block
LEVEL = 1 / 255  # of the range
FLAT, COLOURFUL, UNLIKE, LIKE = 1 * LEVEL, 8 * LEVEL, 12 * LEVEL, 6 * LEVEL
FEWEST, SHARE, MOST = 8, 0.005, 0.9  # blocks; of all blocks
REVERSE = 4  # times as many as blocks that are flat in both neighbours and not in the frame


class _Blocks:
    """What is known of the blocks of a frame.

    Attributes:
        means: (h, w, C) of the colours, in [0, 1].
        plain: (h, w) bool: each column of a block is of one value, as in a flat or smeared area.
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
        sums = rows.sum(1, dtype=np.uint32).reshape(high, wide, BLOCK, colours).sum(2)
        self.means = sums / (white * BLOCK**2)
        ranges = rows.max(1) - rows.min(1)
        self.plain = ranges.reshape(high, wide, -1).max(-1) <= FLAT * white
        planes = [rows[..., k] for k in range(colours)]
        chroma = np.maximum.reduce(planes) - np.minimum.reduce(planes)
        self.chroma = chroma.max(1).reshape(high, wide, BLOCK).max(-1) / white
        self.grey = self.chroma <= FLAT


def disagreeing_frames(frames: np.ndarray) -> list[int]:
    """The frames that disagree with both their neighbours in blocks that are flat or repeated, or
    grey among colours.

    A frame of another exposure disagrees everywhere, and one that has moved as often the other way
    round: neither counts.

    Args:
        frames: (N, H, W, C) uint8 or uint16, in the order in which neighbours are alike.
    Returns:
        Indices in ascending order; none if there are fewer than three frames, or they would be more
        than a third.
    """
    count = len(frames)
    if count < 3 or min(frames.shape[1:3]) < FEWEST * BLOCK:
        return []
    blocks = []
    for frame in frames:
        blocks.append(_Blocks(frame))
        release(frames)
    found = []
    for k, own in enumerate(blocks):
        near = (k - 1, k + 1) if 0 < k < count - 1 else (1, 2) if k == 0 else (count - 2, count - 3)
        if _disagrees(own, *(blocks[j] for j in near)):
            found.append(k)
    return found if len(found) <= count // 3 else []


def _disagrees(own: _Blocks, one: _Blocks, other: _Blocks) -> bool:
    """Whether a frame has parts that are not of the scene that two neighbours show."""
    away = [np.abs(own.means - near.means).max(-1) for near in (one, other)]
    between = np.abs(one.means - other.means).max(-1)
    unlike = (np.minimum(*away) > UNLIKE) & (between < np.minimum(*away) / 2)
    in_colour = (one.chroma > COLOURFUL) & (other.chroma > COLOURFUL)
    odd = (own.plain & ~one.plain & ~other.plain) | (own.grey & in_colour)
    bad = unlike & odd
    reverse = unlike & ~own.plain & one.plain & other.plain
    number = int(bad.sum())
    if not max(FEWEST, SHARE * bad.size) <= number <= MOST * bad.size:
        return False
    is_of_one_exposure = bool(np.median(np.maximum(*away)[~bad]) <= LIKE)
    return is_of_one_exposure and number >= REVERSE * int(reverse.sum())
