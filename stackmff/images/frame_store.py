"""The array of a stack's frames, in memory or in a file."""

import mmap
import os
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stackmff.errors import StackError
from stackmff.images.rectangles import Box
from stackmff.machine import free_memory


@dataclass(frozen=True)
class Storage:
    """Where frames are kept: in memory or in a file.

    Attributes:
        spill: folder for an unlinked temporary file, which is used if the frames take more than
            half of the free memory; None: they are in memory in any case.
        low_memory: use that file in any case.
        store: file to create for the frames, which remains; it takes precedence over the others.
    """

    spill: Path | None = None
    low_memory: bool = False
    store: Path | None = None


IN_MEMORY = Storage()


def allocate(
    shape: tuple[int, int, int, int], dtype: np.dtype, storage: Storage = IN_MEMORY
) -> np.ndarray:
    """An array for frames, in memory or in a file.

    Args:
        shape: (N, H, W, C).
        dtype: uint8 or uint16.
        storage: where it is.
    Returns:
        (N, H, W, C); a numpy.memmap if it is in a file, see `release`, `put` and `window`.
    Raises:
        StackError: the disk has no room for the frames.
        MemoryError: the memory has none.
    """
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if storage.store is not None:
        return _in_file(shape, dtype, storage.store.parent, storage.store)
    if storage.spill is not None and (storage.low_memory or size > free_memory() / 2):
        return _in_file(shape, dtype, storage.spill)
    return np.empty(shape, dtype)


def _in_file(
    shape: tuple[int, ...], dtype: np.dtype, folder: Path, store: Path | None = None
) -> np.memmap:
    """An array in the file `store`; None: in an unlinked temporary file in the folder."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) if store is None else open(store, "w+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # fails now if the disk is full
            frames = np.memmap(file, dtype, "w+", 0, shape)
            descriptor = os.dup(file.fileno())
            weakref.finalize(frames, os.close, descriptor)
            # For `put` and `window`; slices of the array do not have it.
            frames.descriptor = descriptor  # type: ignore[attr-defined]  # of this array alone
            return frames
    except OSError as error:
        raise StackError(
            f"{folder} has no room for the {-(-size // 2**20)} MiB of the frames, which are kept "
            f"there while they are fused ({error.strerror or error}): write the result to a larger "
            "disk"
        ) from error


def release(frames: np.ndarray) -> None:
    """Unmap the pages of frames in a file, which count as used memory, until they are read again.

    Args:
        frames: as from `allocate`; nothing happens if they are in memory.
    """
    if isinstance(frames, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
        frames._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]  # not in the stubs


def put(frames: np.ndarray, index: int, picture: np.ndarray) -> None:
    """Replace one frame. In a file it is written, which avoids a page fault for each of its pages.

    Args:
        frames: (N, H, W, C) as from `allocate`.
        index: of the frame.
        picture: (H, W, C) of the same dtype.
    """
    descriptor = getattr(frames, "descriptor", None)
    if descriptor is None or not hasattr(os, "pwrite"):
        frames[index] = picture
        return
    left = np.ascontiguousarray(picture).reshape(-1).view(np.uint8).data
    start = index * picture.nbytes
    while left:  # a system call writes at most 2 GiB
        written = os.pwrite(descriptor, left, start)
        left, start = left[written:], start + written


def window(frames: np.ndarray, box: Box, indices: Sequence[int] | None = None) -> np.ndarray:
    """The same part of every frame, or of some frames.

    Frames in a file are read row by row: to access them as memory would map whole rows of each
    frame, which count as used memory, and cost a page fault for each page.

    Args:
        frames: (N, H, W, C) as from `allocate`.
        box: the part.
        indices: of the frames; None: all.
    Returns:
        (N, h, w, C), a view of frames in memory that follow one another.
    """
    part = frames[:, *box.slices]
    indices = range(len(frames)) if indices is None else indices
    descriptor = getattr(frames, "descriptor", None)
    if descriptor is None or not hasattr(os, "preadv"):
        first, stop = indices[0], indices[0] + len(indices)
        return part[first:stop] if [*indices] == [*range(first, stop)] else part[indices]
    out = np.empty((len(indices), *part.shape[1:]), frames.dtype)
    bytes_out = out.reshape(*out.shape[:2], -1).view(np.uint8)
    frame_bytes, row_bytes, pixel_bytes = frames.strides[:3]
    for k, rows in zip(indices, bytes_out, strict=True):
        start = k * frame_bytes + box.top * row_bytes + box.left * pixel_bytes
        for y, row in enumerate(rows):
            os.preadv(descriptor, [row], start + y * row_bytes)
    return out
