"""The pictures of a data set, as luma or RGB, decoded once and kept where processes share them."""

import io
import math
import mmap
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from stackmff.errors import StackError
from stackmff.images.colour import luma
from stackmff.images.formats import read_picture

ORIENTATION = 0x0112  # the EXIF tag; from 5 on rows and columns change places
HEADER_BYTES = 1 << 16  # of a file in a shard, which is not read whole for its size


class PictureCache:
    """Decoded pictures in memory that forked loader processes share.

    An anonymous map: its pages are taken as they are first written, and unlike /dev/shm, which is
    small in containers, it may be as large as the memory.

    Args:
        sizes: bytes of every picture, 0 where unknown; pictures are kept up to the budget.
        budget: bytes.
        planes: 3 where pictures are (3, H, W), 0 where they are (H, W).
        workers: loader processes; where they are spawned each has a cache of its own.
    """

    def __init__(self, sizes, budget, planes=0, workers=0):
        self.rebuild = (sizes, budget // max(workers, 1), planes)
        self.before = (planes,) if planes else ()
        ends = np.cumsum(np.asarray(sizes, np.int64))
        self.starts = ends - sizes
        self.kept = (ends <= budget) & (np.asarray(sizes) > 0)
        total = int(ends[self.kept][-1]) if self.kept.any() else 0
        self.pixels = np.frombuffer(mmap.mmap(-1, max(total, 1)), np.uint8)
        shapes = np.frombuffer(mmap.mmap(-1, 8 * len(ends)), np.int32)
        self.shapes = shapes.reshape(-1, 2)  # (0, 0): not yet there

    def __reduce__(self):
        return PictureCache, self.rebuild

    def get(self, index):
        """The picture, (H, W) or (planes, H, W) uint8, not to be written to, or None."""
        height, width = self.shapes[index]
        if not height:
            return None
        shape = (*self.before, int(height), int(width))
        start = self.starts[index]
        return self.pixels[start : start + math.prod(shape)].reshape(shape)

    def put(self, index, picture):
        """Keep a picture, as `get` gives it, if it has a place and fits there."""
        start, room = self.starts[index], self.rebuild[0][index]
        if self.kept[index] and picture.size == room:
            self.pixels[start : start + room] = picture.ravel()
            self.shapes[index] = picture.shape[-2:]  # last: from now on others read it


def _header_shape(path):
    """(H, W) of a picture from its header, upright; None where Pillow does not know the file."""
    try:
        source = path if isinstance(path, Path) else io.BytesIO(path.read(HEADER_BYTES))
        with Image.open(source) as image:
            # Of a PNG without it before its pixels, Pillow would decode all to look behind them.
            has_exif = image.format != "PNG" or "exif" in image.info
            on_its_side = has_exif and image.getexif().get(ORIENTATION, 1) >= 5
            return image.size if on_its_side else image.size[::-1]
    except (StackError, OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError):
        return None  # not cached; reading it will say what is wrong with it


def grey_levels(pictures, colour, resize=None):
    """Luma or RGB in whole grey levels.

    Args:
        pictures: (..., H, W, C) uint8 or uint16, C as in read_picture.
        colour: RGB in place of luma; grey pictures have it three times.
        resize: (height, width) px that one picture (H, W, C) is stretched to, or None.
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
        shapes: (H, W) of every scene, None where its file must be read to know it.

    Args:
        pairs: as from find_pairs.
        resize: (height, width) px that every picture is stretched to, or None.
        cache_mib: memory for decoded pictures, MiB.
        workers: loader processes that will share the memory.
        colour: keep RGB, planes first, in place of the luma.
    """

    def __init__(self, pairs, resize=None, cache_mib=0, workers=0, colour=False):
        self.pairs = pairs
        self.resize = resize
        self.colour = colour
        counts = [len(frames) + 1 for _, frames, _ in pairs]
        self.first = np.cumsum([0, *counts])
        # The frames of a scene have one size; one header tells it for all.
        self.shapes = [resize or _header_shape(pair[2]) for pair in pairs]
        planes = 3 if colour else 0
        sizes = [shape[0] * shape[1] * (planes or 1) if shape else 0 for shape in self.shapes]
        sizes = np.repeat(sizes, counts).tolist()
        self.cache = PictureCache(sizes, cache_mib << 20, planes, workers)

    def frame_count(self, scene):
        """N of a scene."""
        return len(self.pairs[scene][1])

    def read(self, scene, frame):
        """One picture.

        Args:
            scene: index into pairs.
            frame: index of the frame, or -1 for the answer.
        Returns:
            (H, W) uint8, or (3, H, W) in colour, not to be written to.
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

    def read_frames(self, scene, frames, answer, cut):
        """A window of some frames of a scene.

        Args:
            scene: index into pairs.
            frames: indices of the frames, in the order wanted.
            answer: as of `read`; the frames must have its size.
            cut: (rows, columns), two slices.
        Returns:
            (len(frames), h, w) uint8, or (len(frames), 3, h, w).
        Raises:
            StackError: a file cannot be read, or a frame has another size than the answer.
        """
        _, paths, answer_path = self.pairs[scene]
        pictures = []
        for frame in frames:
            picture = self.read(scene, frame)
            if picture.shape != answer.shape:
                (height, width), (high, wide) = picture.shape[-2:], answer.shape[-2:]
                raise StackError(
                    f"{paths[frame]} is {width}x{height}, its answer {answer_path} is "
                    f"{wide}x{high}: they must have one size"
                )
            pictures.append(picture[..., *cut])
        return np.stack(pictures)
