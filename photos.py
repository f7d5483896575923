"""Photographs that random scenes are cut from: which there are, which can be read, a store."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from formats import read_picture
from pictures import list_pictures
from utils import StackError


def list_photos(folders):
    """The photographs at the top of some folders, each folder's in natural order.

    Raises:
        StackError: a folder cannot be read, or holds no pictures.
    """
    photos = []
    for folder in folders:
        found = list_pictures(folder)
        if not found:
            raise StackError(f"{folder} holds no pictures: give a folder of photographs")
        photos += found
    return photos


def read_rgb(path):
    """A photograph as (H, W, 3) uint8 RGB, alpha dropped; raises StackError like read_picture."""
    picture = read_picture(path)
    if picture.dtype == np.uint16:
        picture = (picture // 257).astype(np.uint8)
    picture = picture[..., :3] if picture.shape[2] >= 3 else picture[..., :1]
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture


def what_is_wrong(path):
    """The sentence that says why a photograph cannot be used, None where it can."""
    try:
        read_rgb(path)
    except StackError as error:
        return str(error)
    return None


def part_readable(paths, workers=None):
    """Read photographs once to find those that can be used.

    Args:
        paths: one or more files.
        workers: threads that read; None for a few more than there are cores.
    Returns:
        (good, sentences): the paths that can be read, in their order, and what is wrong with each
        of the others.
    Raises:
        StackError: none can be read.
    """
    with ThreadPoolExecutor(workers) as pool:  # the decoder runs beside Python
        checking = pool.map(what_is_wrong, paths)
        checked = list(tqdm(checking, "photographs", len(paths), leave=False, disable=None))
    good = [path for path, sentence in zip(paths, checked) if not sentence]
    if not good:
        raise StackError(f"none of the {len(paths)} photographs can be read: {checked[0]}")
    return good, [sentence for sentence in checked if sentence]


class PhotoFolder:
    """Photographs that are read when they are asked for; the first that fit are kept.

    They are asked for at random, so that which of them are kept makes no difference.

    Args:
        paths: the files.
        cache_mib: memory for them, MiB; in each process that has a copy of this.
    """

    def __init__(self, paths, cache_mib):
        self.paths = paths
        self.room = cache_mib << 20  # bytes
        self.kept = {}

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        """Photograph `index` as (H, W, 3) uint8 RGB, not to be written to; see `read_rgb`."""
        picture = self.kept.get(index)
        if picture is None:
            picture = read_rgb(self.paths[index])
            if picture.nbytes <= self.room:
                self.kept[index] = picture
                self.room -= picture.nbytes
        return picture
