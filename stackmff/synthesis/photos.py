"""Photographs that stacks are made of: which there are, which are fit for it, a store."""

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from stackmff.errors import KNOWN_FAILURES, StackError, sentence_of
from stackmff.files import write_json
from stackmff.images.colour import luma
from stackmff.images.folders import list_pictures
from stackmff.images.formats import read_picture

BLACK = 16  # levels of 255: where all but a thousandth is darker, nothing can be seen
PLAIN = 1.0  # levels of standard deviation; less is one colour and noise
TILES = 16  # a side: the sharpest tenth of the tiles tells how sharp a photograph is
CHUNK = 1000  # photographs, after which what is known of them is written down


class Limits(NamedTuple):
    """What a photograph must have to be used; see `what_is_unfit`."""

    min_side: int = 128  # px, of the shorter side
    min_colour: float = 1.0  # levels of 255 between the largest and the least of R, G and B, mean
    min_sharpness: float = 0.35  # see `sharpness`


def limits_of(args):
    """The Limits that the options ask for; None stands for their defaults."""
    given = (args.min_side, args.min_colour, args.min_sharpness)
    return Limits(*(new if new is not None else old for new, old in zip(given, Limits())))


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


def resized(picture, size):
    """A photograph (H, W, 3) with a longer side of `size` px; None leaves it as it is."""
    height, width = picture.shape[:2]
    if size is None or max(height, width) == size:
        return picture
    scale = size / max(height, width)
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(picture, target, interpolation=cv2.INTER_AREA)


def sharpness(grey):
    """How much of the finest detail there is, beside the detail three times as coarse.

    A ratio, so that it does not go by the contrast; of the sharpest tenth of the tiles, so that
    a blurred background does not count.

    Args:
        grey: (H, W) float32 luma in [0, 1].
    Returns:
        The ratio of two standard deviations, 0 where nothing is to be seen.
    """
    fine, coarse = (cv2.GaussianBlur(grey, (0, 0), sigma) for sigma in (1.0, 3.0))
    size = tuple(max(1, min(TILES, side // 8)) for side in grey.shape[::-1])
    fine, coarse = (
        cv2.resize(detail * detail, size, interpolation=cv2.INTER_AREA)
        for detail in (grey - fine, fine - coarse)
    )
    # The rounding of 8 bits, about a thousandth, must not pass for detail in plain places.
    return float(np.sqrt(np.percentile(fine / (coarse + 1e-5), 90)))


def what_is_unfit(picture, limits):
    """What keeps a photograph from being used, in a few words; None where nothing does.

    Args:
        picture: (H, W, 3) uint8 RGB.
        limits: Limits.
    """
    height, width = picture.shape[:2]
    if min(height, width) < limits.min_side:
        return f"is {width}x{height}, too small: --min_side is {limits.min_side}"
    grey = luma(picture)
    brightest = 255 * float(np.percentile(grey[::2, ::2], 99.9))
    if brightest < BLACK:
        return f"is black: its brightest places are at {brightest:.0f} of 255"
    if 255 * grey.std() < PLAIN:
        return "is of one colour: nothing in it can be sharp"
    sample = picture[::2, ::2].astype(np.int16)
    colour = float((sample.max(2) - sample.min(2)).mean())
    if colour < limits.min_colour:
        return f"is grey: --min_colour is {limits.min_colour:g}, 0 takes it"
    sharp = sharpness(grey)
    if sharp < limits.min_sharpness:
        return f"is blurred: its sharpness is {sharp:.2f}, --min_sharpness {limits.min_sharpness:g}"
    return None


def read_fit(path, limits):
    """A photograph that may be used, as `read_rgb`.

    Raises:
        StackError: it cannot be read, or is unfit; the sentence names it.
    """
    picture = read_rgb(path)
    if unfit := what_is_unfit(picture, limits):
        raise StackError(f"{path} {unfit}")
    return picture


def what_is_wrong(path, limits=None):
    """The sentence that says why a photograph cannot be used, None where it can."""
    try:
        read_fit(path, limits) if limits else read_rgb(path)
    except KNOWN_FAILURES as error:
        return sentence_about(path, error)
    return None


def sentence_about(path, error):
    """One of KNOWN_FAILURES with a photograph, in one line that names it."""
    if not isinstance(error, StackError):  # whose sentence names it already
        error = StackError(f"{path}: {sentence_of(error)}")
    return sentence_of(error)


def part_readable(paths, workers=None, limits=None, record=None, check=None):
    """Read photographs once to find those that can be used.

    Args:
        paths: one or more files.
        workers: threads that read; None for a few more than there are cores.
        limits: Limits that they are held to; None: all that can be read are good.
        check: gives the sentence for a file and the limits, None for a good one; None:
            `what_is_wrong`.
        record: JSON file for what is known of them, so that a later call reads those alone that are
            new or have changed.
    Returns:
        (good, sentences): the paths that can be used, in their order, and what is wrong with each
        of the others.
    Raises:
        StackError: none can be used.
    """
    known = read_record(record, limits)
    stamps = {path: stamp_of(path) for path in paths} if record else {}
    checked = {
        path: known[str(path)][-1]
        for path in paths
        if str(path) in known and known[str(path)][:-1] == stamps[path]
    }
    todo = [path for path in paths if path not in checked]
    with (
        ThreadPoolExecutor(workers) as pool,  # the decoder runs beside Python
        tqdm(total=len(todo), desc="photographs", leave=False, disable=None) as bar,
    ):
        for start in range(0, len(todo), CHUNK):
            chunk = todo[start : start + CHUNK]
            for path, sentence in zip(
                chunk, pool.map(check or what_is_wrong, chunk, [limits] * len(chunk))
            ):
                checked[path] = sentence
                bar.update()
            if record:
                write_record(record, limits, paths, stamps, checked)
    if record and not todo:  # some that are written down may be gone
        write_record(record, limits, paths, stamps, checked)
    good = [path for path in paths if not checked[path]]
    if not good:
        first = next(iter(checked.values()))
        what = "used" if limits else "read"
        raise StackError(f"none of the {len(paths)} photographs can be {what}: {first}")
    return good, [checked[path] for path in paths if checked[path]]


def read_record(record, limits):
    """{path: [size, time of change, sentence or None]} that was written down for these limits."""
    if record is None:
        return {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(record.read_text(encoding="utf-8"))
        if known["limits"] == (limits and limits._asdict()):
            return dict(known["photographs"])
    return {}


def write_record(record, limits, paths, stamps, checked):
    """Write down, in the order of `paths`, what is known of them: see `read_record`."""
    rows = {str(path): [*stamps[path], checked[path]] for path in paths if path in checked}
    write_json(record, {"limits": limits and limits._asdict(), "photographs": rows})


def stamp_of(path):
    """[bytes, time of change in ns] of a file; [0, 0] of one that cannot be looked at."""
    try:
        status = path.stat()
    except OSError:
        return [0, 0]
    return [status.st_size, status.st_mtime_ns]


class PhotoFolder:
    """Photographs that are read when they are asked for; the first that fit are kept.

    They are asked for at random, so that which of them are kept makes no difference.

    Args:
        paths: the files.
        cache_mib: memory for them, MiB; in each process that has a copy of this.
        size: longer side that they are brought to, px; None leaves them as they are.
    """

    def __init__(self, paths, cache_mib, size=None):
        self.paths, self.size = paths, size
        self.room = cache_mib << 20  # bytes
        self.kept = {}

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        """Photograph `index` as (H, W, 3) uint8 RGB, not to be written to; see `read_rgb`."""
        picture = self.kept.get(index)
        if picture is None:
            picture = resized(read_rgb(self.paths[index]), self.size)
            if picture.nbytes <= self.room:
                self.kept[index] = picture
                self.room -= picture.nbytes
        return picture
