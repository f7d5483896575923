"""The luma of a data set's pictures, decoded once and kept in memory that processes share."""

import io
import mmap
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from formats import read_picture
from pictures import luma
from utils import StackError

ORIENTATION = 0x0112  # the EXIF tag; from 5 on rows and columns change places
HEADER_BYTES = 1 << 16  # of a file in a shard, which is not read whole for its size


class LumaCache:
    """Decoded pictures in memory that forked loader processes share.

    An anonymous map: its pages are taken as they are first written, and unlike /dev/shm, which is
    small in containers, it may be as large as the memory.

    Args:
        sizes: bytes of every picture, 0 where unknown; pictures are kept up to the budget.
        budget: bytes.
        workers: loader processes; where they are spawned each has a cache of its own.
    """

    def __init__(self, sizes, budget, workers=0):
        self.rebuild = (sizes, budget // max(workers, 1))
        ends = np.cumsum(np.asarray(sizes, np.int64))
        self.starts = ends - sizes
        self.kept = (ends <= budget) & (np.asarray(sizes) > 0)
        total = int(ends[self.kept][-1]) if self.kept.any() else 0
        self.pixels = np.frombuffer(mmap.mmap(-1, max(total, 1)), np.uint8)
        shapes = np.frombuffer(mmap.mmap(-1, 8 * len(ends)), np.int32)
        self.shapes = shapes.reshape(-1, 2)  # (0, 0): not yet there

    def __reduce__(self):
        return LumaCache, self.rebuild

    def get(self, index):
        """The picture (H, W) uint8, not to be written to, or None."""
        height, width = self.shapes[index]
        if not height:
            return None
        start = self.starts[index]
        return self.pixels[start : start + height * width].reshape(height, width)

    def put(self, index, picture):
        """Keep a picture (H, W) uint8 if it has a place and fits there."""
        start, room = self.starts[index], self.rebuild[0][index]
        if self.kept[index] and picture.size == room:
            self.pixels[start : start + room] = picture.ravel()
            self.shapes[index] = picture.shape  # last: from now on others read it


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


def luma_levels(pictures, resize=None):
    """Luma in whole grey levels.

    Args:
        pictures: (..., C) uint8 or uint16, C as in read_picture.
        resize: (height, width) px that one picture (H, W, C) is stretched to, or None.
    Returns:
        (...) uint8.
    """
    levels = luma(pictures)
    if resize and levels.shape != tuple(resize):
        levels = cv2.resize(levels, resize[::-1], interpolation=cv2.INTER_LINEAR)
    return np.round(levels * 255).astype(np.uint8)


class LumaStore:
    """The luma of all pictures of a data set, decoded when first asked for.

    Attributes:
        shapes: (H, W) of every scene, None where its file must be read to know it.

    Args:
        pairs: as from find_pairs.
        resize: (height, width) px that every picture is stretched to, or None.
        cache_mib: memory for decoded pictures, MiB.
        workers: loader processes that will share the memory.
    """

    def __init__(self, pairs, resize=None, cache_mib=0, workers=0):
        self.pairs = pairs
        self.resize = resize
        counts = [len(frames) + 1 for _, frames, _ in pairs]
        self.first = np.cumsum([0, *counts])
        # The frames of a scene have one size; one header tells it for all.
        self.shapes = [resize or _header_shape(pair[2]) for pair in pairs]
        sizes = [shape[0] * shape[1] if shape else 0 for shape in self.shapes]
        self.cache = LumaCache(np.repeat(sizes, counts).tolist(), cache_mib << 20, workers)

    def frame_count(self, scene):
        """N of a scene."""
        return len(self.pairs[scene][1])

    def read(self, scene, frame):
        """Luma of one picture.

        Args:
            scene: index into pairs.
            frame: index of the frame, or -1 for the answer.
        Returns:
            (H, W) uint8, not to be written to.
        Raises:
            StackError: the file cannot be read.
        """
        _, frames, answer = self.pairs[scene]
        index = int(self.first[scene]) + (frame if frame >= 0 else len(frames))
        picture = self.cache.get(index)
        if picture is None:
            picture = read_picture(answer if frame < 0 else frames[frame])
            picture = luma_levels(picture, self.resize)
            self.cache.put(index, picture)
        return picture

    def read_frames(self, scene, frames, answer, cut):
        """A window of some frames of a scene.

        Args:
            scene: index into pairs.
            frames: indices of the frames, in the order wanted.
            answer: (H, W), the answer; the frames must have its size.
            cut: (rows, columns), two slices.
        Returns:
            (len(frames), h, w) uint8.
        Raises:
            StackError: a file cannot be read, or a frame has another size than the answer.
        """
        _, paths, answer_path = self.pairs[scene]
        pictures = []
        for frame in frames:
            picture = self.read(scene, frame)
            if picture.shape != answer.shape:
                raise StackError(
                    f"{paths[frame]} is {picture.shape[1]}x{picture.shape[0]}, its answer "
                    f"{answer_path} is {answer.shape[1]}x{answer.shape[0]}: they must have one size"
                )
            pictures.append(picture[cut])
        return np.stack(pictures)
