"""Stacks of any size for timing programs: a synthesised texture, or real frames resized."""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from stackmff.errors import StackError
from stackmff.images.folders import list_frames
from stackmff.images.formats import read_picture, write_picture

SEED = 0
OCTAVES = 7  # of the synthesised texture, the finest of 1 px
CONTRAST = 5.0  # of the finest, grey levels; the coarsest has four times that
BLURS = (0, 1, 2, 4)  # sigma in px of what is 0, 1, 2, and 3 or more frames out of focus
SHIFT = 16  # px, of frames that are used again


@dataclass(frozen=True)
class Size:
    """The size of a stack: N frames of width x height px."""

    n_frames: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.n_frames}x{self.width}x{self.height}"

    @property
    def pixel_frames(self) -> int:
        """Pixels of all frames together."""
        return self.n_frames * self.width * self.height


def stack_size(word: str) -> Size:
    """An argparse type: a Size from a word such as 7x2048x1536."""
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", word)
    if match is None:
        raise argparse.ArgumentTypeError(f"{word!r} is not of the form NxWxH, such as 7x2048x1536")
    n_frames, width, height = map(int, match.groups())
    if n_frames < 2 or not 16 <= min(width, height) <= max(width, height) <= 65500:
        raise argparse.ArgumentTypeError(
            f"{word} is out of range: give at least 2 frames with sides of 16 to 65500 px"
        )
    return Size(n_frames, width, height)


def texture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A picture with detail at all scales, (H, W, 3) uint8."""
    out = np.full((height, width, 3), 128, np.float32)
    for octave in range(OCTAVES):
        rows, columns = (-(-side // 2**octave) for side in (height, width))
        noise = rng.standard_normal((rows, columns, 3), np.float32)
        noise *= CONTRAST * 4 ** (octave / (OCTAVES - 1))
        out += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(np.rint(out, out=out), 0, 255, out=out).astype(np.uint8)


def synthesise(size: Size) -> Iterator[np.ndarray]:
    """Frames of a textured plane that recedes from left to right.

    synthesis/refocus.py makes more realistic ones, which take as long to fuse.

    Args:
        size: of the stack.
    Yields:
        N frames (H, W, 3) uint8, all different.
    """
    picture = texture(size.height, size.width, np.random.default_rng(SEED))
    levels = [cv2.GaussianBlur(picture, (0, 0), sigma) if sigma else picture for sigma in BLURS]
    plane = np.linspace(0, size.n_frames - 1, size.width, dtype=np.float32)
    for k in range(size.n_frames):
        blur = np.minimum(np.abs(plane - k), len(BLURS) - 1)  # (W,), counts the levels
        lower = np.minimum(blur.astype(int), len(BLURS) - 2)
        frame = np.empty_like(picture)
        for level in range(len(BLURS) - 1):
            columns = lower == level
            share = (blur[columns] - level)[:, None]
            mixed = (1 - share) * levels[level][:, columns] + share * levels[level + 1][:, columns]
            frame[:, columns] = np.rint(mixed)
        yield frame


def resized(folder: Path, size: Size) -> Iterator[np.ndarray]:
    """The frames of a stack in another size: evenly spread, or repeated if there are too few.

    A repeated frame is shifted, since predict.py ignores copies.

    Args:
        folder: of the stack.
        size: of the new stack.
    Yields:
        N frames (H, W, C) uint8 or uint16.
    Raises:
        StackError: see list_frames and read_picture.
    """
    paths = list_frames(folder)
    for k in range(size.n_frames):
        index, again = k % len(paths), k // len(paths)
        if size.n_frames < len(paths):
            index = round(k * (len(paths) - 1) / (size.n_frames - 1))
        frame = read_picture(paths[index])
        smaller = frame.shape[0] >= size.height and frame.shape[1] >= size.width
        way = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
        frame = cv2.resize(frame, (size.width, size.height), interpolation=way)
        yield np.roll(frame.reshape(size.height, size.width, -1), again * SHIFT, axis=1)


def write_stack(folder: Path, size: Size, source: Path | None = None) -> list[Path]:
    """Write a stack as JPEG files of quality 95.

    Args:
        folder: for its frames.
        size: of the stack.
        source: folder of the stack to take the frames from; None: synthesise them.
    Returns:
        The frames' files.
    Raises:
        StackError: see `resized`; or the folder holds other pictures.
    """
    frames = synthesise(size) if source is None else resized(source, size)
    paths = [folder / f"{k:04}.jpg" for k in range(size.n_frames)]
    for path, frame in zip(tqdm(paths, "frames", leave=False, disable=None), frames):
        write_picture(path, frame)
    if list_frames(folder) != paths:
        raise StackError(f"{folder} holds other pictures too: choose another --output_dir")
    return paths
