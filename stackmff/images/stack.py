"""Folders of pictures, and the frames of a stack: their order, their kind, where they are kept."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from stackmff.errors import StackError
from stackmff.images.colour import luma
from stackmff.images.formats import decode
from stackmff.images.frame_store import _frames_on_disk, put
from stackmff.images.metadata import Metadata
from stackmff.images.stack_files import Page, VideoFrame
from stackmff.machine import free_memory

CHANNEL_NAMES = {1: "grey", 2: "grey with alpha", 3: "colour", 4: "colour with alpha"}


class Kind(NamedTuple):
    """What the frames of a stack have in common."""

    dtype: np.dtype  # uint8 or uint16
    colour: bool
    alpha: bool

    @property
    def channels(self):
        return (3 if self.colour else 1) + self.alpha


def kind_of(picture):
    """The Kind of a picture (H, W, C)."""
    return Kind(picture.dtype, picture.shape[2] >= 3, picture.shape[2] in (2, 4))


def common_kind(kinds):
    """The Kind that loses nothing of any but the alpha that not all have."""
    return Kind(
        max((kind.dtype for kind in kinds), key=lambda dtype: dtype.itemsize),
        any(kind.colour for kind in kinds),
        all(kind.alpha for kind in kinds),
    )


def as_kind(picture, kind):
    """A picture (H, W, C) with the channels and bits of a Kind; it has no fewer bits than that."""
    if kind_of(picture) == kind:
        return picture
    has_alpha = picture.shape[2] in (2, 4)
    colour = picture[..., :-1] if has_alpha else picture
    if kind.colour and colour.shape[2] == 1:
        colour = np.repeat(colour, 3, axis=2)
    if kind.alpha:
        colour = np.concatenate([colour, picture[..., -1:]], axis=2)
    factor = 257 if kind.dtype.itemsize > picture.itemsize else 1  # 255 becomes 65535
    return colour * kind.dtype.type(factor)


@dataclass
class Stack:
    """The frames of one scene in their order.

    Attributes:
        frames: (N, H, W, C) uint8 or uint16, C as in images/formats.py.
        paths: the N files, or stack_files.Page.
        metadata: Metadata of the reference frame.
        notes: a sentence on each thing that was made alike.
        frame_metadata: Metadata of every frame, in the order of `paths`.
    """

    frames: np.ndarray
    paths: list
    metadata: Metadata
    notes: list = field(default_factory=list)
    frame_metadata: list = field(default_factory=list)


def read_stack(
    paths, threads=2, spill=None, low_memory=False, reference=None, store=None, progress=None
):
    """Read the frames of a stack into one array.

    Frames of different kinds are made alike: 8 bits become 16, grey becomes RGB, alpha is dropped
    where not all have it.

    Args:
        paths: picture files in their order, N >= 1, or frames in a file as from `list_frames`.
        threads: how many frames are decoded at a time; a video is decoded by one.
        spill: folder for a file without a name that holds the frames, where they would take more
            than half of the free memory; None: they are in memory whatever comes.
        low_memory: they are in that file in any case.
        reference: index of the frame whose metadata the stack has; None: N // 2.
        store: file that is made to hold the frames, in the order of their axes, and that stays;
            in place of the one without a name.
        progress: called as progress(frames done, frames in all).
    Returns:
        Stack; its frames are a numpy.memmap where they are in a file, see `release`.
    Raises:
        StackError: a file cannot be read, the frames are of several sizes, or there is no room for
            them.
    """
    paths = [path if isinstance(path, Page) else Path(path) for path in paths]
    reference = len(paths) // 2 if reference is None else reference
    if isinstance(paths[0], VideoFrame):
        threads = 1
    ready = _decode_some(paths, reference, threads)
    first = ready[reference]
    kind = kind_of(first.picture)
    frames = _room_for(paths, first.picture.shape, kind, spill, low_memory, store)
    read = _read_frames(frames, kind, paths, reference, ready, threads, progress)
    _check_sizes(paths, read)
    common = common_kind([frame.kind for frame in read])
    if common != kind:  # told by the frames alone, so that stacks of one kind are read but once
        del frames
        frames = _room_for(paths, first.picture.shape, common, spill, low_memory, store)
        read = _read_frames(frames, common, paths, reference, ready, threads, progress)
    notes = _notes(paths, read, reference, common)
    return Stack(frames, paths, first.metadata, notes, [frame.metadata for frame in read])


class _Read(NamedTuple):
    """What is known of a frame that has been read."""

    size: tuple  # (height, width), px
    kind: Kind
    metadata: Metadata
    notes: list


def _decode_some(paths, reference, threads):
    """{index: Decoded} of the reference, and of as many others as are decoded at the same time."""
    others = [index for index in range(len(paths)) if index != reference]
    indices = [reference, *others[: threads - 1]]
    with ThreadPoolExecutor(threads) as pool:
        return dict(zip(indices, pool.map(decode, [paths[index] for index in indices])))


def _room_for(paths, shape, kind, spill, low_memory, store=None):
    """An array for the frames, in memory or on disk; shape is that of one of them."""
    shape = (len(paths), *shape[:2], kind.channels)
    size = int(np.prod(shape, dtype=np.int64)) * kind.dtype.itemsize
    if store is not None:
        return _frames_on_disk(shape, kind.dtype, Path(store).parent, Path(store))
    if spill is not None and (low_memory or size > free_memory() / 2):
        return _frames_on_disk(shape, kind.dtype, Path(spill))
    try:
        return np.empty(shape, kind.dtype)
    except MemoryError as error:
        raise StackError(
            f"{paths[0].parent} needs {size / 2**30:.1f} GiB of memory for its frames"
        ) from error


def _read_frames(frames, kind, paths, reference, ready, threads, progress=None):
    """Read the files into `frames`, but for those of another size or that do not go into its Kind.

    Args:
        frames: (N, H, W, C) to fill; kind: its Kind.
        paths: N of them; reference: index of the one that the others are compared with.
        ready: {index: Decoded} of some, the reference among them; the others are taken out.
        threads: how many are read at a time.
        progress: as of `read_stack`.
    Returns:
        List of N _Read.
    """

    first = ready[reference]

    def read(index):
        path, decoded, notes = paths[index], first, []
        if index != reference:
            decoded = ready.pop(index, None) or decode(path)
            if decoded.orientation != first.orientation:
                decoded, notes = _turned_alike(path, decoded, first)
        if decoded.note:
            notes.append(decoded.note)
        own, size = kind_of(decoded.picture), decoded.picture.shape[:2]
        if size == frames.shape[1:3] and common_kind([own, kind]) == kind:
            put(frames, index, as_kind(decoded.picture, kind))
        return _Read(size, own, decoded.metadata, notes)

    with ThreadPoolExecutor(threads) as pool:
        try:
            out = []
            for one in pool.map(read, range(len(paths))):
                out.append(one)
                if progress is not None:
                    progress(len(out), len(paths))
            return out
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _turned_alike(path, decoded, first):
    """A frame whose EXIF orientation is not the reference's, the way its content lies.

    Cameras that look straight down tell one frame's orientation from another's by chance, and
    programs turn pictures without telling EXIF; so the likeness to the reference decides.

    Returns:
        (Decoded, list of notes).
    """
    other = decode(path, first.orientation)
    shape = first.picture.shape[:2]
    if other.picture.shape[:2] != shape:
        return decoded, []
    if decoded.picture.shape[:2] == shape:
        alike = [_likeness(one.picture, first.picture) for one in (decoded, other)]
        if alike[0] >= alike[1]:
            return decoded, []
    return other, ["its EXIF orientation is not that of its content and was passed over"]


def _likeness(picture, other):
    """Correlation of two pictures of one size, reduced; 0 where one is plain."""
    small = [
        luma(cv2.resize(one, (48, 48), interpolation=cv2.INTER_AREA).reshape(48, 48, -1))
        for one in (picture, other)
    ]
    a, b = (one - one.mean() for one in small)
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-9))


def _check_sizes(paths, read):
    """Raise StackError where frames are of several sizes; it names one that most are not of."""
    (size, _), *others = Counter(frame.size for frame in read).most_common()
    if others:
        odd = next(k for k, frame in enumerate(read) if frame.size != size)
        (height, width), (rows, columns) = read[odd].size, size
        raise StackError(
            f"frame {paths[odd].name} is {width}x{height}, the stack is {columns}x{rows}: "
            "export all frames at one size"
        )


def _notes(paths, read, reference, common):
    """Sentences on what was made alike, each with the frames that it is about."""
    about = {}
    for path, frame in zip(paths, read):
        kind, notes = frame.kind, list(frame.notes)
        if kind.dtype != common.dtype:
            notes.append("8 bits were multiplied to 16, which other frames have")
        if kind.colour != common.colour:
            notes.append("grey was taken as RGB, which other frames have")
        if kind.alpha != common.alpha:
            notes.append("alpha was dropped, because not all frames have it")
        if frame.metadata.profile != read[reference].metadata.profile:
            notes.append(f"the colour profile is not that of {paths[reference].name}, values stay")
        for note in notes:
            about.setdefault(note, []).append(path.name)
    return [f"{_some(names)}: {note}" for note, names in about.items()]


def _some(names):
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
