"""Photographs that stacks are made of: which there are, which are usable, and a store."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from tqdm import tqdm

from stackmff.errors import KNOWN_FAILURES, StackError, sentence_of
from stackmff.files import parse_json, write_json
from stackmff.images.colour import luma
from stackmff.images.folders import list_pictures
from stackmff.images.formats import read_picture
from stackmff.synthesis.options import PhotoLimits

BLACK = 16  # levels of 255; where all but a thousandth is darker, nothing is visible
PLAIN = 1.0  # levels of standard deviation; less is one colour and noise
TILES = 16  # per side; the sharpest tenth of the tiles tells how sharp a photograph is
CHUNK = 1000  # photographs, after which the record of them is written


class Photos(Protocol):
    """Photographs by their number, each (H, W, 3) uint8 RGB; a list of arrays, or a PhotoFolder."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


def list_photos(folders: Iterable[str | Path]) -> list[Path]:
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


def read_rgb(path: Path) -> np.ndarray:
    """A photograph as (H, W, 3) uint8 RGB without alpha; raises StackError like read_picture."""
    picture = read_picture(path)
    if picture.dtype == np.uint16:
        picture = (picture // 257).astype(np.uint8)
    picture = picture[..., :3] if picture.shape[2] >= 3 else picture[..., :1]
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture


def resized(picture: np.ndarray, size: int | None) -> np.ndarray:
    """A photograph (H, W, 3) with a longer side of `size` px; None leaves it unchanged."""
    height, width = picture.shape[:2]
    if size is None or max(height, width) == size:
        return picture
    scale = size / max(height, width)
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(picture, target, interpolation=cv2.INTER_AREA)


def sharpness(grey: np.ndarray) -> float:
    """How much fine detail there is, relative to detail three times as coarse.

    It is a ratio, and so independent of contrast, in the sharpest tenth of the tiles, so that a
    blurred background does not count.

    Args:
        grey: (H, W) float32 luma in [0, 1].
    Returns:
        The ratio of two standard deviations; 0 where there is no detail.
    """
    fine, coarse = (cv2.GaussianBlur(grey, (0, 0), sigma) for sigma in (1.0, 3.0))
    size = tuple(max(1, min(TILES, side // 8)) for side in grey.shape[::-1])
    fine, coarse = (
        cv2.resize(detail * detail, size, interpolation=cv2.INTER_AREA)
        for detail in (grey - fine, fine - coarse)
    )
    # The rounding to 8 bits, about a thousandth, must not count as detail in flat regions.
    return float(np.sqrt(np.percentile(fine / (coarse + 1e-5), 90)))


def what_is_unfit(picture: np.ndarray, limits: PhotoLimits) -> str | None:
    """Why a photograph (H, W, 3) uint8 RGB is unusable, in a few words; None if it is usable."""
    height, width = picture.shape[:2]
    if min(height, width) < limits.min_side:
        return f"is {width}x{height}, too small: --min_side is {limits.min_side}"
    grey = luma(picture)
    brightest = 255 * float(np.percentile(grey[::2, ::2], 99.9))
    if brightest < BLACK:
        return f"is black: its brightest parts are at {brightest:.0f} of 255"
    if 255 * grey.std() < PLAIN:
        return "is of one colour: nothing in it can be sharp"
    sample = picture[::2, ::2].astype(np.int16)
    colour = float((sample.max(2) - sample.min(2)).mean())
    if colour < limits.min_colour:
        return f"is grey: --min_colour is {limits.min_colour:g}, 0 accepts it"
    sharp = sharpness(grey)
    if sharp < limits.min_sharpness:
        return f"is blurred: its sharpness is {sharp:.2f}, --min_sharpness {limits.min_sharpness:g}"
    return None


def read_fit(path: Path, limits: PhotoLimits) -> np.ndarray:
    """A photograph that is usable, as from `read_rgb`.

    Raises:
        StackError: it cannot be read or is unusable; the sentence names it.
    """
    picture = read_rgb(path)
    if unfit := what_is_unfit(picture, limits):
        raise StackError(f"{path} {unfit}")
    return picture


def what_is_wrong(path: Path, limits: PhotoLimits | None = None) -> str | None:
    """Why a photograph cannot be used, as a sentence; None if it can."""
    try:
        read_fit(path, limits) if limits else read_rgb(path)
    except KNOWN_FAILURES as error:
        return sentence_about(path, error)
    return None


def sentence_about(path: Path, error: BaseException) -> str:
    """One of KNOWN_FAILURES with a photograph, in one line that names it."""
    if not isinstance(error, StackError):  # a StackError names it already
        error = StackError(f"{path}: {sentence_of(error)}")
    return sentence_of(error)


def part_readable(
    paths: Sequence[Path],
    workers: int | None = None,
    limits: PhotoLimits | None = None,
    record: Path | None = None,
    check: Callable[[Path, Any], str | None] | None = None,
) -> tuple[list[Path], list[str]]:
    """Read photographs once to find those that can be used.

    Args:
        paths: one or more files.
        workers: threads that read; None for a few more than there are cores.
        limits: what they must have; None: all that can be read are usable.
        record: JSON file for the findings, so that a later call reads only those that are new or
            have changed.
        check: from a file and the limits to the sentence that tells why it cannot be used, None
            for a usable one; None: `what_is_wrong`.
    Returns:
        (good, sentences): the paths that can be used, in their order, and a sentence for each of
        the others.
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
        ThreadPoolExecutor(workers) as pool,  # decoders release the interpreter
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
    if record and not todo:  # photographs in the record may be gone
        write_record(record, limits, paths, stamps, checked)
    good = [path for path in paths if not checked[path]]
    if not good:
        first = next(iter(checked.values()))
        what = "used" if limits else "read"
        raise StackError(f"none of the {len(paths)} photographs can be {what}: {first}")
    return good, [checked[path] for path in paths if checked[path]]


def read_record(record: Path | None, limits: PhotoLimits | None) -> dict[str, list[Any]]:
    """{path: [bytes, time of change, sentence or None]} of a record for the same limits."""
    if record is None:
        return {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = parse_json(record.read_text(encoding="utf-8"))
        if known["limits"] == (limits and asdict(limits)):
            return dict(known["photographs"])
    return {}


def write_record(
    record: Path,
    limits: PhotoLimits | None,
    paths: Sequence[Path],
    stamps: dict[Path, list[int]],
    checked: dict[Path, str | None],
) -> None:
    """Write what is known of photographs, in the order of `paths`; see `read_record`."""
    rows = {str(path): [*stamps[path], checked[path]] for path in paths if path in checked}
    write_json(record, {"limits": limits and asdict(limits), "photographs": rows})


def stamp_of(path: Path) -> list[int]:
    """[bytes, time of change in ns] of a file; [0, 0] if that cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return [0, 0]
    return [status.st_size, status.st_mtime_ns]


class PhotoFolder:
    """Photographs that are read on demand; the first ones that fit are kept in memory.

    They are asked for at random, so it makes no difference which are kept.

    Args:
        paths: the files.
        cache_mib: memory for them, MiB, in each process that has a copy of this.
        size: longer side that they are resized to, px; None leaves them unchanged.
    """

    def __init__(self, paths: Sequence[Path], cache_mib: int, size: int | None = None) -> None:
        self.paths, self.size = paths, size
        self.room = cache_mib << 20  # bytes
        self.kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> np.ndarray:
        """Photograph `index` as (H, W, 3) uint8 RGB; read only. See `read_rgb`."""
        picture = self.kept.get(index)
        if picture is None:
            picture = resized(read_rgb(self.paths[index]), self.size)
            if picture.nbytes <= self.room:
                self.kept[index] = picture
                self.room -= picture.nbytes
        return picture
