"""The frames of a stack, read into one array: what they have in common, and what differs."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from stackmff.errors import StackError
from stackmff.images.colour import luma
from stackmff.images.decoded import Decoded
from stackmff.images.formats import decode
from stackmff.images.frame_store import IN_MEMORY, Storage, allocate, put
from stackmff.images.headers import declared
from stackmff.images.metadata import Metadata
from stackmff.images.stack_files import FramePath, Page, VideoFrame
from stackmff.processes import Progress

LARGE = 2**28  # bytes of frames decoded at a time, beyond which --low_memory takes one
IGNORED = "the EXIF orientation does not match the content and was ignored"
CHANNEL_NAMES = {1: "grey", 2: "grey with alpha", 3: "colour", 4: "colour with alpha"}


class Kind(NamedTuple):
    """Bit depth and channels of a picture, or those that all frames of a stack have."""

    dtype: np.dtype  # uint8 or uint16
    colour: bool
    alpha: bool

    @property
    def channels(self) -> int:
        return (3 if self.colour else 1) + self.alpha


def kind_of(picture: np.ndarray) -> Kind:
    """The Kind of a picture (H, W, C)."""
    return Kind(picture.dtype, picture.shape[2] >= 3, picture.shape[2] in (2, 4))


def common_kind(kinds: Sequence[Kind]) -> Kind:
    """The Kind that keeps everything of each, except alpha that not all have."""
    return Kind(
        max((kind.dtype for kind in kinds), key=lambda dtype: dtype.itemsize),
        any(kind.colour for kind in kinds),
        all(kind.alpha for kind in kinds),
    )


def as_kind(picture: np.ndarray, kind: Kind) -> np.ndarray:
    """A picture (H, W, C) converted to a Kind that has at least as many bits."""
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
        paths: the N files, or frames inside a file.
        metadata: Metadata of the reference frame.
        notes: a sentence on each difference between frames that was removed.
        frame_metadata: Metadata of every frame, in the order of `paths`.
        unlike: those of `paths` whose frames seem to show parts of something else than their
            neighbours, see images/disagreement.py.
    """

    frames: np.ndarray
    paths: list[FramePath]
    metadata: Metadata
    notes: list[str] = field(default_factory=list)
    frame_metadata: list[Metadata] = field(default_factory=list)
    unlike: list[FramePath] = field(default_factory=list)


def read_stack(
    paths: Iterable[str | FramePath],
    reference: int | None = None,
    storage: Storage = IN_MEMORY,
    threads: int = 2,
    progress: Progress | None = None,
    lenient: bool = False,
) -> Stack:
    """Read the frames of a stack into one array.

    Frames of different kinds are unified: 8 bits become 16, grey becomes RGB, alpha is dropped
    unless all frames have it.

    Args:
        paths: picture files in their order, N >= 1, or frames in a file as from `list_frames`.
        reference: index of the frame whose metadata the stack has; None: N // 2.
        storage: where the frames are kept.
        threads: number of frames that are decoded at the same time; of a video it is one.
        progress: called with the number of frames read.
        lenient: take damaged files, see formats.decode.
    Returns:
        Stack; its frames are a numpy.memmap if they are in a file, see frame_store.release.
    Raises:
        StackError: a file cannot be read, the frames differ in size, or there is no room for them.
    """
    files: list[FramePath] = [path if isinstance(path, Page) else Path(path) for path in paths]
    reference = len(files) // 2 if reference is None else reference
    largest = check_declared(files)
    if isinstance(files[0], VideoFrame) or (storage.low_memory and threads * largest > LARGE):
        threads = 1
    reader = _Reader(files, reference, threads, progress, lenient)
    # The kinds of the others are known once they are read, so that most stacks are read only once.
    frames, read = reader.read_as(reader.first.kind, storage)
    usual = _usual_orientation(read)
    if usual is not None:  # that of the reference is the odd one
        del frames
        reader = _Reader(files, reference, threads, progress, lenient, usual)
        frames, read = reader.read_as(reader.first.kind, storage)
    _check_sizes(files, read)
    common = common_kind([frame.kind for frame in read])
    if common != reader.first.kind:
        del frames  # frees its memory before the next array is allocated
        frames, read = reader.read_as(common, storage)
    notes = _notes(files, read, reference, common)
    metadata = [frame.metadata for frame in read]
    return Stack(frames, files, reader.first.metadata, notes, metadata)


def check_declared(files: Sequence[FramePath]) -> int:
    """Refuse frames whose headers declare different sizes, before anything is decoded.

    Args:
        files: of the frames; those inside a file are not looked at.
    Returns:
        Bytes of the largest frame that is declared; 0 if none is.
    Raises:
        StackError: the sizes differ; it names a frame that differs from most.
    """
    headers = [(path, declared(path)) for path in files if isinstance(path, Path)]
    known = [(path, header) for path, header in headers if header is not None]
    # A frame on its side may be turned upright.
    sizes = [(max(one.width, one.height), min(one.width, one.height)) for _, one in known]
    for size in Counter(sizes).most_common()[1:]:
        path, header = known[sizes.index(size[0])]
        common = known[sizes.index(Counter(sizes).most_common(1)[0][0])][1]
        raise StackError(
            f"frame {path.name} is {header.width}x{header.height}, the stack is "
            f"{common.width}x{common.height}: export all frames at one size"
        )
    return max((header.frame_bytes for _, header in known), default=0)


class _Read(NamedTuple):
    """What is known of a frame that has been read."""

    size: tuple[int, int]  # (height, width), px
    kind: Kind
    metadata: Metadata
    notes: list[str]
    ignored: int | None = None  # its EXIF orientation, which its content contradicts


class _First(NamedTuple):
    """What is known of the reference, of which no second copy is kept."""

    size: tuple[int, int]  # (height, width), px
    kind: Kind
    small: np.ndarray  # thumbnail
    orientation: int
    metadata: Metadata


class _Reader:
    """Reads the frames of a stack, several at a time.

    Args:
        paths: of the N frames.
        reference: index of the frame that the others are compared with.
        threads: number of frames that are decoded at the same time.
        progress, lenient: as of `read_stack`.
        orientation: of the reference; None: as its EXIF says.

    Attributes:
        first: of the reference.
    """

    def __init__(
        self,
        paths: list[FramePath],
        reference: int,
        threads: int,
        progress: Progress | None,
        lenient: bool,
        orientation: int | None = None,
    ) -> None:
        self.paths, self.reference, self.lenient = paths, reference, lenient
        self.threads, self.progress = threads, progress
        others = [index for index in range(len(paths)) if index != reference]
        indices = [reference, *others[: threads - 1]]
        with ThreadPoolExecutor(threads) as pool:
            decoded = pool.map(self.decode, [paths[index] for index in indices])
            # Frames that were decoded along with the reference, until they are used.
            self.ready = dict(zip(indices, decoded))
        first = self.ready[reference]
        if orientation is not None:
            note = IGNORED if first.note is None else f"{first.note}; {IGNORED}"
            first = self.decode(paths[reference], orientation)
            first = replace(first, orientation=orientation, note=note)
            self.ready[reference] = first
        height, width, _ = first.picture.shape
        self.first = _First(
            (height, width),
            kind_of(first.picture),
            thumbnail(first.picture),
            first.orientation,
            first.metadata,
        )

    def decode(self, path: FramePath, orientation: int | None = None) -> Decoded:
        """A frame as formats.decode reads it."""
        return decode(path, orientation, self.lenient)

    def read_as(self, kind: Kind, storage: Storage) -> tuple[np.ndarray, list[_Read]]:
        """(an array (N, H, W, C) of a Kind with the frames, what is known of each); see
        `_read_into`.

        Raises:
            StackError: there is no room for it, or a frame cannot be read.
        """
        shape = len(self.paths), *self.first.size, kind.channels
        try:
            frames = allocate(shape, kind.dtype, storage)
        except MemoryError as error:
            size = np.prod(shape, dtype=np.int64) * kind.dtype.itemsize / 2**30
            raise StackError(
                f"{self.paths[0].parent} needs {size:.1f} GiB of memory for its frames"
            ) from error
        return frames, self._read_into(frames, kind)

    def _read_into(self, frames: np.ndarray, kind: Kind) -> list[_Read]:
        """Fill an array with the frames, except those of another size or beyond its Kind.

        Args:
            frames: (N, H, W, C).
            kind: of the array.
        """

        def read(index: int) -> _Read:
            decoded, notes, ignored = self._frame(index)
            own, (height, width, _) = kind_of(decoded.picture), decoded.picture.shape
            if (height, width) == frames.shape[1:3] and common_kind([own, kind]) == kind:
                put(frames, index, as_kind(decoded.picture, kind))
            return _Read((height, width), own, decoded.metadata, notes, ignored)

        out: dict[int, _Read] = {}
        # The reference first, which is in memory.
        order = sorted(range(len(self.paths)), key=lambda index: index != self.reference)
        with ThreadPoolExecutor(self.threads) as pool:
            try:
                for index, one in zip(order, pool.map(read, order), strict=True):
                    out[index] = one
                    if self.progress is not None:
                        self.progress(len(out), len(self.paths))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return [out[index] for index in range(len(self.paths))]

    def _frame(self, index: int) -> tuple[Decoded, list[str], int | None]:
        """(a frame, turned as the reference is; notes on it; its EXIF orientation if ignored)."""
        path, notes, ignored = self.paths[index], list[str](), None
        decoded = self.ready.pop(index) if index in self.ready else self.decode(path)
        if decoded.orientation != self.first.orientation:
            own = decoded.orientation
            decoded, notes = _turned_alike(self.decode, path, decoded, self.first)
            ignored = own if notes else None
        return decoded, [*notes, decoded.note] if decoded.note else notes, ignored


def _usual_orientation(read: list[_Read]) -> int | None:
    """The EXIF orientation of most frames, if all of them contradict that of the reference."""
    ignored = Counter(frame.ignored for frame in read if frame.ignored is not None)
    usual, count = ignored.most_common(1)[0] if ignored else (None, 0)
    return usual if 2 * count > len(read) else None


def _turned_alike(
    read: Callable[[FramePath, int], Decoded], path: FramePath, decoded: Decoded, first: _First
) -> tuple[Decoded, list[str]]:
    """A frame whose EXIF orientation differs from the reference's, turned as its content is.

    A camera that points straight down detects the orientation of each frame by chance, and some
    programs rotate pictures without changing EXIF. So the likeness to the reference decides.

    Returns:
        (the frame, notes on it).
    """
    other = read(path, first.orientation)
    if other.picture.shape[:2] != first.size:
        return decoded, []
    if decoded.picture.shape[:2] == first.size:
        alike = [likeness(thumbnail(one.picture), first.small) for one in (decoded, other)]
        if alike[0] >= alike[1]:
            return decoded, []
    return other, [IGNORED]


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """A picture (H, W, C) reduced to the luma of (48, 48) px, float32."""
    small = cv2.resize(picture, (48, 48), interpolation=cv2.INTER_AREA)
    return luma(small.reshape(48, 48, -1))


def likeness(small: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two thumbnails; 0 if one is uniform."""
    a, b = (one - one.mean() for one in (small, other))
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-9))


def _check_sizes(paths: list[FramePath], read: list[_Read]) -> None:
    """Raise StackError if the frames differ in size; it names one that differs from most."""
    (size, _), *others = Counter(frame.size for frame in read).most_common()
    if others:
        odd = next(k for k, frame in enumerate(read) if frame.size != size)
        (height, width), (rows, columns) = read[odd].size, size
        raise StackError(
            f"frame {paths[odd].name} is {width}x{height}, the stack is {columns}x{rows}: "
            "export all frames at one size"
        )


def _notes(paths: list[FramePath], read: list[_Read], reference: int, common: Kind) -> list[str]:
    """Sentences on what was unified, each with the frames concerned."""
    about: dict[str, list[str]] = {}
    for path, frame in zip(paths, read):
        kind, notes = frame.kind, list(frame.notes)
        if kind.dtype != common.dtype:
            notes.append("8 bits were scaled to 16, which other frames have")
        if kind.colour != common.colour:
            notes.append("grey was converted to RGB, which other frames have")
        if kind.alpha != common.alpha:
            notes.append("alpha was dropped, because not all frames have it")
        if frame.metadata.profile != read[reference].metadata.profile:
            other = paths[reference].name
            notes.append(f"the colour profile differs from that of {other} and was not applied")
        for note in notes:
            about.setdefault(note, []).append(path.name)
    first = paths[0]
    of_file = [first.video.note] if isinstance(first, VideoFrame) and first.video.note else []
    return [*of_file, *(f"{_some(names)}: {note}" for note, names in about.items())]


def _some(names: list[str]) -> str:
    """The first of the names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
