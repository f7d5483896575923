"""The levels of a stack: the part of the range of its integers that its frames use.

A sensor of 10 bits in a file of 16 uses a 64th of the range, a fluorescence microscope often less.
Everything that is measured on such frames, and the network, expects values between black and white.
So a dim stack is stretched for that: one offset and one gain for all its frames, so that they stay
comparable. The frames themselves are never changed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stackmff.images.colour import luma
from stackmff.images.frame_store import release

# A stack is dim if nothing in it is brighter than DARK and it uses less than NARROW of the range.
DARK, NARROW = 1 / 4, 1 / 8
# A network that weighs frames was trained on pictures that use more of the range than this.
WEIGHED = 0.45
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
    odd = 1 if len(frames) >= 3 else 0
    lows, highs, wide = [], [], 0
    for lumas in sampled_lumas(frames):
        low, high = np.percentile(lumas, ENDS)
        lows.append(low)
        highs.append(high)
        wide += high >= DARK or high - low >= NARROW
        if wide > odd:
            return None
    low, high = sorted(lows)[odd], sorted(highs)[-1 - odd]
    if not _has_steps(frames, low, high) or high >= DARK or high - low >= NARROW:
        return None
    return Levels(float(low), float(high))


def weighing_levels(frames: np.ndarray) -> Levels | None:
    """The Levels by which a network sees the frames that it weighs; arguments as of `levels_of`.

    Besides dim stacks those that are dark or pale, from their darkest to their brightest pixel:
    what is left out of the range makes the network less sure, but a light that it does not see as
    light misleads it more. Of frames darkened to a third it else loses 0.4 dB, of a quarter 0.7.
    """
    if dim := levels_of(frames):
        return dim
    low, high = np.inf, -np.inf
    for lumas in sampled_lumas(frames):
        low, high = min(low, float(lumas.min())), max(high, float(lumas.max()))
        if high - low >= WEIGHED:
            return None
    return Levels(low, high) if _has_steps(frames, low, high) else None


def sampled_lumas(frames: np.ndarray) -> Iterator[np.ndarray]:
    """The luma of each frame (N, H, W, C) at SAMPLES places or more along each side."""
    down, across = (max(side // SAMPLES, 1) for side in frames.shape[1:3])
    for frame in frames:
        yield luma(frame[::down, ::across])
        release(frames)


def _has_steps(frames: np.ndarray, low: float, high: float) -> bool:
    """Whether there are enough integers between two lumas."""
    return high - low >= FEWEST_STEPS / np.iinfo(frames.dtype).max


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
