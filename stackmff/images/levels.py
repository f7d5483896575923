"""The levels of a stack: the part of the range of its integers that its frames use.

A sensor of 10 bits in a file of 16 uses a 64th of the range, a fluorescence microscope often less.
Everything that is measured on such frames, and the network, expects values between black and white.
So a dim stack is stretched for that: one offset and one gain for all its frames, so that they stay
comparable. The frames themselves are never changed.
"""

from dataclasses import dataclass

import numpy as np

from stackmff.images.colour import luma
from stackmff.images.frame_store import release

# A stack is dim if nothing in it is brighter than DARK and it uses less than NARROW of the range.
DARK, NARROW = 1 / 4, 1 / 8
FEWEST_STEPS = 16  # of the integers; fewer have no detail that a stretch could show
ENDS = 0.1, 99.9  # percentiles of the luma of a frame that count as its ends
SAMPLES = 256  # along each side of a frame, at least, of those that the percentiles are taken from
LIMIT = 3.0  # of stretched luma: above white is what is smaller than the percentiles see
WHITE = 0.9  # where `brightened` puts the upper end, below what counts as clipped


@dataclass(frozen=True)
class Levels:
    """The ends of the lumas of a dim stack.

    Attributes:
        low, high: luma in [0, 1], low < high.
    """

    low: float
    high: float

    @property
    def gain(self) -> float:
        """The factor by which lumas and chromas are stretched."""
        return 1 / (self.high - self.low)

    def stretched(self, lumas: np.ndarray) -> np.ndarray:
        """Lumas, float32 of any shape: `low` becomes 0, `high` 1; at most LIMIT beyond either."""
        gain = np.float32(self.gain)
        return np.clip((lumas - np.float32(self.low)) * gain, -LIMIT, LIMIT)

    def restored(self, lumas: np.ndarray) -> np.ndarray:
        """The inverse of `stretched`."""
        return lumas / np.float32(self.gain) + np.float32(self.low)

    def stretched_chroma(self, chromas: np.ndarray) -> np.ndarray:
        """Chromas, float32 of any shape, in proportion to `stretched`."""
        return np.clip(chromas * np.float32(self.gain), -0.5, 0.5)

    def shown(self, picture: np.ndarray) -> np.ndarray:
        """A picture (H, W, C), stretched for a screen; uint16, alpha unchanged."""
        white = np.iinfo(picture.dtype).max
        out = picture.astype(np.uint16) * np.uint16(65535 // white)
        colours = 3 if out.shape[2] >= 3 else 1
        values = (out[..., :colours] * np.float32(1 / 65535) - self.low) * self.gain
        out[..., :colours] = np.rint(np.clip(values, 0, 1) * 65535)
        return out

    def brightened(self, picture: np.ndarray) -> np.ndarray:
        """A picture (h, w, C) whose `high` becomes WHITE, in proportion to the light; uint16."""
        values = picture * np.float32(WHITE / self.high / np.iinfo(picture.dtype).max)
        return np.rint(np.minimum(values, 1) * 65535).astype(np.uint16)


def levels_of(frames: np.ndarray) -> Levels | None:
    """The Levels of a stack.

    One frame of three or more may differ from the others: a misfired flash does not count.

    Args:
        frames: (N, H, W, C) uint8 or uint16; of frames in a file one at a time is read.
    Returns:
        None if they are not dim, or have fewer than FEWEST_STEPS values.
    """
    count, height, width, _ = frames.shape
    odd = 1 if count >= 3 else 0
    down, across = (max(side // SAMPLES, 1) for side in (height, width))
    lows, highs, wide = [], [], 0
    for frame in frames:
        low, high = np.percentile(luma(frame[::down, ::across]), ENDS)
        release(frames)
        lows.append(low)
        highs.append(high)
        wide += high >= DARK or high - low >= NARROW
        if wide > odd:
            return None
    low, high = sorted(lows)[odd], sorted(highs)[-1 - odd]
    enough = high - low >= FEWEST_STEPS / np.iinfo(frames.dtype).max
    if not enough or high >= DARK or high - low >= NARROW:
        return None
    return Levels(float(low), float(high))


def told_levels(frames: np.ndarray) -> list[str]:
    """A sentence if a stack (N, H, W, C) is dim; none otherwise."""
    levels = levels_of(frames)
    if levels is None:
        return []
    white = np.iinfo(frames.dtype).max
    return [
        f"the frames mostly use values from {levels.low * white:.0f} to "
        f"{levels.high * white:.0f} of {white}: they were stretched to be aligned, weighed and "
        "shown, and the result keeps their values"
    ]
