"""Folders of pictures, and the frames of a stack: their order, their kind, where they are kept."""

import mmap
import os
import tempfile
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from formats import READ_SUFFIXES, decode
from metadata import Metadata
from planes import luma
from stack_files import TIFF_SUFFIXES, VIDEO_SUFFIXES, Page, VideoFrame, frames_in_file
from utils import StackError, free_memory, natural_key

ANSWER_FOLDER = "AiF"  # of a data set
STACK_FOLDERS = ("dof_stack", "image stack", "stacks")  # of a data set, each with stacks in it
NEVER_STACKS = ("aif", "depth", "disparity")  # folders; nor is a picture of these names a frame
SYSTEM_FOLDERS = ("lost+found", "system volume information", "$recycle.bin")  # of a whole disk
CHANNEL_NAMES = {1: "grey", 2: "grey with alpha", 3: "colour", 4: "colour with alpha"}


def _inside(folder):
    """What lies in a folder, in any order; StackError where that cannot be told."""
    folder = Path(folder)
    if not folder.is_dir():
        raise StackError(f"{folder} is no folder: give the folder that holds the pictures")
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise StackError(
            f"{folder} cannot be read ({error.strerror}): change its permissions, or move it"
        ) from error


def list_folders(folder):
    """The folders below a folder in natural order, but for hidden ones, answers and the system's.

    Raises:
        StackError: `folder` is no folder, or cannot be read.
    """
    folders = [
        path
        for path in _inside(folder)
        if path.is_dir()
        and not path.name.startswith(".")
        and path.name.casefold() not in (*NEVER_STACKS, *SYSTEM_FOLDERS)
    ]
    return sorted(folders, key=lambda path: natural_key(path.name))


def stack_root(folder):
    """The folder among STACK_FOLDERS below `folder`, or None; StackError where there are two."""
    found = [Path(folder) / name for name in STACK_FOLDERS]
    found = [path for path in found if os.path.isdir(path)]  # False too where it cannot be told
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise StackError(f"{folder} holds {names}: move one of them elsewhere")
    return found[0] if found else None


def list_pictures(folder):
    """The picture files at the top of a folder, in natural order.

    Suffixes count in any case; names with a leading dot and other files are passed over.

    Args:
        folder: path of a folder.
    Returns:
        List of paths, may be empty.
    Raises:
        StackError: `folder` is no folder, or cannot be read.
    """
    pictures = [
        path
        for path in _inside(folder)
        if path.suffix.lower() in READ_SUFFIXES
        and not path.name.startswith(".")
        and (path.is_file() or not path.exists())  # a broken link is told when it is read
    ]
    return sorted(pictures, key=lambda path: natural_key(path.name))


def frames_in(folder):
    """The pictures of a stack's folder but for AiF.*, depth.* and disparity.*, as list_pictures.

    Some published sets keep the answer of a stack among its frames. To fuse it would be to copy
    the answer.
    """
    return [path for path in list_pictures(folder) if path.stem.casefold() not in NEVER_STACKS]


def list_answers(folder):
    """The answers in a folder: its pictures, or where it has none, AiF.* of the folders below it.

    Args:
        folder: AiF/ of a data set, or a folder of stacks that each hold their answer.
    Returns:
        {scene: path} in natural order, may be empty.
    Raises:
        StackError: `folder` cannot be read, or two answers have one name.
    """
    pictures = list_pictures(folder)
    if pictures:
        return by_stem(pictures)
    answers = {}
    for stack in list_folders(folder):
        found = [path for path in list_pictures(stack) if path.stem.casefold() == "aif"]
        if len(found) > 1:
            raise StackError(f"{stack} holds {len(found)} answers: remove all but one")
        if found:
            answers[stack.name] = found[0]
    return answers


def list_frames(path):
    """The frames of a stack, at least two of them.

    Args:
        path: a folder: `frames_in`; where the one picture there is a TIFF of several pages, these.
            Or such a TIFF, or a video.
    Returns:
        List of paths, or of stack_files.Page.
    Raises:
        StackError: `path` is neither, cannot be read, holds fewer than two frames, or one of them
            in two formats.
    """
    if Path(path).is_file():
        frames = frames_in_file(path)
    else:
        frames = frames_in(path)
        by_stem(frames)  # a camera's RAW and JPEG are one frame
        if len(frames) == 1 and frames[0].suffix.lower() in TIFF_SUFFIXES:
            frames = frames_in_file(frames[0])
    if not frames:
        raise StackError(
            f"{path} holds no pictures ({' '.join(READ_SUFFIXES)}): a stack needs two or more"
        )
    if len(frames) == 1:
        if isinstance(frames[0], Page) and frames[0].file.suffix.lower() in TIFF_SUFFIXES:
            decode(frames[0].file)  # where its pages cannot be told, this says what is wrong
        raise StackError(f"{path} holds one picture, a stack needs two or more")
    return frames


def list_stack_files(folder):
    """The stacks at the top of a folder that are one file each: videos, and TIFF of several pages.

    Returns:
        List of paths in natural order, may be empty.
    Raises:
        StackError: as `list_folders`.
    """
    files = [
        path
        for path in _inside(folder)
        if not path.name.startswith(".")
        and path.is_file()
        and (
            path.suffix.lower() in VIDEO_SUFFIXES
            or (path.suffix.lower() in TIFF_SUFFIXES and _may_hold_frames(path))
        )
    ]
    return sorted(files, key=lambda path: natural_key(path.name))


def _may_hold_frames(path):
    """Whether a TIFF has several pages; True where that cannot be told."""
    try:
        return len(frames_in_file(path)) > 1
    except StackError:
        return True


def stacks_in(folder, folders=None):
    """The stacks in a folder: sub-folders that hold pictures, and stacks that are one file.

    Args:
        folder: that is searched.
        folders: the sub-folders that count; None: all.
    Returns:
        List of paths, folders first, each in natural order; may be empty. What cannot be read is
        among them, and tells why when it is read.
    Raises:
        StackError: two have one name, and would have one result.
    """
    folders = list_folders(folder) if folders is None else folders
    stacks = [path for path in folders if _may_hold_pictures(path)] + list_stack_files(folder)
    names = {}
    for path in stacks:
        if (other := names.setdefault(stack_name(path), path)) != path:
            raise StackError(f"{path} and {other.name} have one name: rename one of them")
    return stacks


def _may_hold_pictures(folder):
    """Whether there are pictures in a folder; True where that cannot be told."""
    try:
        return bool(list_pictures(folder))
    except StackError:
        return True


def stack_name(path):
    """The name of a stack: of its folder, or of its file without the suffix."""
    path = Path(path).resolve()
    return path.stem if path.is_file() else path.name


def clash(path, stack_path):
    """Why a file must not be written there, as a sentence: it is the stack, or would be a frame.

    Args:
        path: of the file; stack_path: the stack's folder or file.
    Returns:
        The sentence; None where nothing is wrong.
    """
    place, stack = Path(path).resolve(), Path(stack_path).resolve()
    if place == stack:
        return f"{path} is the stack itself: choose another name"
    if place.parent == stack:
        return (
            f"{path} is inside the stack's folder and would be a frame next time: "
            "choose another folder"
        )
    return None


def by_stem(paths):
    """{name without suffix: path} of `paths`, in their order.

    Raises:
        StackError: two differ only in their folder or suffix.
    """
    found = {}
    for path in paths:
        if path.stem in found:
            raise StackError(
                f"{path} and {found[path.stem].name} have one name: move one of them elsewhere"
            )
        found[path.stem] = path
    return found


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
        frames: (N, H, W, C) uint8 or uint16, C as in formats.py.
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
