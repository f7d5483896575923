"""The pictures of a data set, as luma or RGB, decoded once and kept in shared memory."""

import io
import math
import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from stackmff.errors import StackError
from stackmff.images.colour import luma
from stackmff.images.formats import read_picture
from stackmff.training.shards import Pair, Picture

ORIENTATION = 0x0112  # the EXIF tag; values of 5 and more swap rows and columns
HEADER_BYTES = 1 << 16  # of a file in a shard, read to find the size of its picture

Cut = tuple[slice, slice]  # rows, columns


class PictureCache:
    """Decoded pictures in memory that forked loader processes share.

    The memory is an anonymous map. Its pages are allocated when they are first written, and it may
    be as large as the memory, unlike /dev/shm, which is small in containers.

    Args:
        sizes: bytes of every picture, 0 if unknown; pictures are kept up to the budget.
        budget: bytes.
        planes: 3 if pictures are (3, H, W), 0 if they are (H, W).
        workers: loader processes; if they are spawned, each has its own cache.
    """

    def __init__(
        self, sizes: Sequence[int], budget: int, planes: int = 0, workers: int = 0
    ) -> None:
        self.rebuild = (sizes, budget // max(workers, 1), planes)
        self.before: tuple[int, ...] = (planes,) if planes else ()
        ends = np.cumsum(np.asarray(sizes, np.int64))
        self.starts = ends - sizes
        self.kept = (ends <= budget) & (np.asarray(sizes) > 0)
        total = int(ends[self.kept][-1]) if self.kept.any() else 0
        self.pixels = np.frombuffer(mmap.mmap(-1, max(total, 1)), np.uint8)
        shapes = np.frombuffer(mmap.mmap(-1, 8 * len(ends)), np.int32)
        self.shapes = shapes.reshape(-1, 2)  # (0, 0): not yet there

    def __reduce__(self) -> tuple[Any, ...]:
        return PictureCache, self.rebuild

    def get(self, index: int) -> np.ndarray | None:
        """A picture, (H, W) or (planes, H, W) uint8, read-only; None if it is not kept."""
        height, width = self.shapes[index]
        if not (height and width):  # another process may be between the two
            return None
        shape = (*self.before, int(height), int(width))
        start = self.starts[index]
        return self.pixels[start : start + math.prod(shape)].reshape(shape)

    def put(self, index: int, picture: np.ndarray) -> None:
        """Keep a picture, as `get` gives it, if it has a place and fits into it."""
        start, room = self.starts[index], self.rebuild[0][index]
        if self.kept[index] and picture.size == room:
            self.pixels[start : start + room] = picture.ravel()
            self.shapes[index] = picture.shape[-2:]  # last, since others read it from now on


def _header_shape(path: Picture) -> tuple[int, int] | None:
    """(H, W) of a picture from its header, upright; None if Pillow cannot read the file."""
    try:
        source: Path | io.BytesIO = (
            path if isinstance(path, Path) else io.BytesIO(path.read(HEADER_BYTES))
        )
        with Image.open(source) as image:
            # If a PNG has none before its pixels, Pillow would decode them to look for it after.
            has_exif = image.format != "PNG" or "exif" in image.info
            on_its_side = has_exif and image.getexif().get(ORIENTATION, 1) >= 5
            width, height = image.size
            return (width, height) if on_its_side else (height, width)
    except (StackError, OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError):
        return None  # not cached; reading the file will say what is wrong


def grey_levels(
    pictures: np.ndarray, colour: bool, resize: tuple[int, int] | None = None
) -> np.ndarray:
    """Luma or RGB, rounded to 8 bits.

    Args:
        pictures: (..., H, W, C) uint8 or uint16, C as in read_picture.
        colour: RGB instead of luma; grey pictures are repeated three times.
        resize: (height, width) px that one picture (H, W, C) is resized to, or None.
    Returns:
        (..., H, W) uint8, or (..., 3, H, W).
    """
    if not colour:
        values = luma(pictures)
    elif pictures.shape[-1] <= 2:
        values = np.repeat(luma(pictures)[..., None], 3, axis=-1)
    else:
        values = pictures[..., :3] * np.float32(1 / np.iinfo(pictures.dtype).max)
    sides = values.shape[-3:-1] if colour else values.shape[-2:]
    if resize and sides != tuple(resize):
        values = cv2.resize(values, resize[::-1], interpolation=cv2.INTER_LINEAR)
    whole = np.round(values * 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(whole, -1, -3)) if colour else whole


class PictureStore:
    """The pictures of a data set, decoded when first asked for.

    Attributes:
        shapes: (H, W) of every scene; None if its file must be decoded to know it.

    Args:
        pairs: as from find_pairs.
        resize: (height, width) px that every picture is resized to, or None.
        cache_mib: memory for decoded pictures, MiB.
        workers: loader processes that will share the memory.
        colour: keep RGB, planes first, instead of the luma.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        resize: tuple[int, int] | None = None,
        cache_mib: int = 0,
        workers: int = 0,
        colour: bool = False,
    ) -> None:
        self.pairs = pairs
        self.resize = resize
        self.colour = colour
        counts = [len(frames) + 1 for _, frames, _ in pairs]
        self.first = np.cumsum([0, *counts])
        # The frames of a scene have one size, so one header is enough.
        self.shapes = [resize or _header_shape(pair[2]) for pair in pairs]
        planes = 3 if colour else 0
        sizes = [shape[0] * shape[1] * (planes or 1) if shape else 0 for shape in self.shapes]
        each = np.repeat(sizes, counts).tolist()
        self.cache = PictureCache(each, cache_mib << 20, planes, workers)

    def frame_count(self, scene: int) -> int:
        """N of a scene."""
        return len(self.pairs[scene][1])

    def read(self, scene: int, frame: int) -> np.ndarray:
        """One picture.

        Args:
            scene: index into pairs.
            frame: index of the frame, or -1 for the answer.
        Returns:
            (H, W) uint8, or (3, H, W) in colour, read-only.
        Raises:
            StackError: the file cannot be read.
        """
        _, frames, answer = self.pairs[scene]
        index = int(self.first[scene]) + (frame if frame >= 0 else len(frames))
        picture = self.cache.get(index)
        if picture is None:
            picture = read_picture(answer if frame < 0 else frames[frame])
            picture = grey_levels(picture, self.colour, self.resize)
            self.cache.put(index, picture)
        return picture

    def read_frames(
        self, scene: int, frames: Iterable[int], answer: np.ndarray, cut: Cut
    ) -> np.ndarray:
        """A part of some frames of a scene.

        Args:
            scene: index into pairs.
            frames: indices of the frames, in the order wanted.
            answer: as from `read`; the frames must have its size.
            cut: (rows, columns), two slices.
        Returns:
            (len(frames), h, w) uint8, or (len(frames), 3, h, w).
        Raises:
            StackError: a file cannot be read, or a frame differs in size from the answer.
        """
        _, paths, answer_path = self.pairs[scene]
        pictures = []
        for frame in frames:
            picture = self.read(scene, frame)
            if picture.shape != answer.shape:
                (height, width), (high, wide) = picture.shape[-2:], answer.shape[-2:]
                raise StackError(
                    f"{paths[frame]} is {width}x{height}, its answer {answer_path} is "
                    f"{wide}x{high}: they must have the same size"
                )
            pictures.append(picture[..., *cut])
        return np.stack(pictures)
