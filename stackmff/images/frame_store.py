"""Frames in memory or on disk."""

import mmap
import os
import tempfile
import weakref

import numpy as np

from stackmff.errors import StackError


def _frames_on_disk(shape, dtype, folder, store=None):
    """An array in the file `store`; None: in one without a name, so that nothing stays behind."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) if store is None else open(store, "w+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is told now
            frames = np.memmap(file, dtype, "w+", 0, shape)
            frames.descriptor = os.dup(file.fileno())  # for `window`
            weakref.finalize(frames, os.close, frames.descriptor)
            return frames
    except OSError as error:
        raise StackError(
            f"{folder} has no room for the {-(-size // 2**20)} MiB of the frames, which are kept "
            f"there while they are fused ({error.strerror or error}): write the result to a larger "
            "disk"
        ) from error


def release(frames):
    """Let go of the pages of frames that lie on disk, which count as memory in use; they are read
    again when they are needed. Nothing for frames in memory.

    Args:
        frames: as of `read_stack`.
    """
    if isinstance(frames, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
        frames._mmap.madvise(mmap.MADV_DONTNEED)


def put(frames, index, picture):
    """Put a picture (H, W, C) in the place of a frame; on disk by writing, which spares a fault for
    each of its pages.

    Args:
        frames: as of `read_stack`.
    """
    descriptor = getattr(frames, "descriptor", None)
    if descriptor is None or not hasattr(os, "pwrite"):
        frames[index] = picture
        return
    left = memoryview(np.ascontiguousarray(picture).reshape(-1).view(np.uint8))
    start = index * picture.nbytes
    while left:  # a system call writes 2 GiB at most
        written = os.pwrite(descriptor, left, start)
        left, start = left[written:], start + written


def window(frames, top, bottom, left, right, indices=None):
    """A part of every frame, or of some.

    Frames on disk are read row by row: to touch their pages would map whole rows of each frame,
    which count as memory in use, and cost a fault for each page.

    Args:
        frames: (N, H, W, C) as of `read_stack`.
        top, bottom, left, right: px.
        indices: of the frames; None: all.
    Returns:
        (N, bottom - top, right - left, C), a view where all frames are asked for, in memory.
    """
    part = frames[:, top:bottom, left:right]
    indices = range(len(frames)) if indices is None else indices
    descriptor = getattr(frames, "descriptor", None)
    if descriptor is None or not hasattr(os, "preadv"):
        return part if len(indices) == len(frames) else part[indices]
    out = np.empty((len(indices), *part.shape[1:]), frames.dtype)
    bytes_out = out.reshape(*out.shape[:2], -1).view(np.uint8)
    frame_bytes, row_bytes, pixel_bytes = frames.strides[:3]
    for k, rows in zip(indices, bytes_out, strict=True):
        start = k * frame_bytes + top * row_bytes + left * pixel_bytes
        for y, row in enumerate(rows):
            os.preadv(descriptor, [row], start + y * row_bytes)
    return out
