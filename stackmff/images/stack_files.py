"""Stacks that are one file: the pages of a TIFF, the frames of a video."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from stackmff.errors import StackError
from stackmff.images.decoded import Decoded, upright
from stackmff.images.metadata import Metadata
from stackmff.images.tiff import decode_tiff, tiff_pages
from stackmff.images.videos import VIDEO_SUFFIXES, Video, count_frames

TIFF_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True)
class Page(ABC):
    """A frame inside a file. It has the attributes of the path of a picture of its own.

    Attributes:
        file: path of the file.
        number: of the frame, from 1.
        count: of the frames in the file.
    """

    file: Path
    number: int
    count: int

    @property
    def stem(self) -> str:
        return f"{self.file.stem}-{self.number:0{len(str(self.count))}}"

    @property
    def suffix(self) -> str:
        return self.file.suffix

    @property
    def name(self) -> str:
        return self.stem + self.suffix

    @property
    def parent(self) -> Path:
        return self.file.parent

    def stat(self) -> os.stat_result:
        return self.file.stat()

    def __str__(self) -> str:
        return f"{self.file} (frame {self.number})"

    @abstractmethod
    def decode(self, orientation: int | None = None) -> Decoded:
        """Read the frame; arguments, result and errors as of formats.decode."""


# What identifies a frame of a stack: a picture file, or a frame inside a file.
FramePath = Path | Page


@dataclass(frozen=True)
class TiffPage(Page):
    """A page of a TIFF file; `index` counts thumbnails too."""

    index: int

    def decode(self, orientation: int | None = None) -> Decoded:
        try:
            with open(self.file, "rb") as source:
                decoded = decode_tiff(source, self, self.index)
        except OSError as error:
            raise StackError(f"{self} cannot be read: {error.strerror or error}") from error
        return upright(decoded, orientation)


@dataclass(frozen=True)
class VideoFrame(Page):
    """A frame of a video, 8-bit RGB; all frames of the file share `video`."""

    video: Video = field(compare=False, repr=False)

    def decode(self, orientation: int | None = None) -> Decoded:
        # OpenCV turns videos upright.
        return Decoded(self.video.read(self.number - 1), Metadata())


def frames_in_file(file: str | Path) -> list[Page]:
    """The frames in a TIFF or video file in their order; there may be one or none.

    Args:
        file: path; the suffix decides. A video is decoded once to count its frames.
    Raises:
        StackError: the file cannot be read, is a video that is cut short, or is of another kind.
    """
    file = Path(file)
    try:
        changed = file.stat().st_mtime_ns
    except OSError as error:
        raise StackError(f"{file} cannot be read: {error.strerror}") from error
    suffix = file.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        count, note = count_frames(file, changed)
        video = Video(file, note)
        return [VideoFrame(file, k + 1, count, video) for k in range(count)]
    if suffix in TIFF_SUFFIXES:
        indices = tiff_pages(file)
        return [TiffPage(file, k + 1, len(indices), index) for k, index in enumerate(indices)]
    raise StackError(
        f"{file} is a single file, not a stack: give the folder of the frames, a multi-page TIFF, "
        f"or a video ({' '.join(VIDEO_SUFFIXES)})"
    )
