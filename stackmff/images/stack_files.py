"""Stacks that are one file: the pages of a TIFF, the frames of a video."""

import os
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stackmff.errors import StackError
from stackmff.images.decoded import Decoded, upright
from stackmff.images.metadata import Metadata
from stackmff.images.tiff import decode_tiff, tiff_pages

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mts")
TIFF_SUFFIXES = (".tif", ".tiff")

# OpenCV reads this once, before the first video: the StackError says enough.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
NO_VIDEO = "is not a readable video, is cut short or damaged: export or copy it again"


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

    video: "Video" = field(compare=False, repr=False)

    def decode(self, orientation: int | None = None) -> Decoded:
        # OpenCV turns videos upright.
        return Decoded(self.video.read(self.number - 1), Metadata())


class Video:
    """A video that is decoded forwards; going back starts again at the first frame.

    Args:
        file: path.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.capture: Any = None  # cv2.VideoCapture
        self.next = 0  # index of the frame that `capture` gives next
        self.lock = threading.Lock()

    def read(self, index: int) -> np.ndarray:
        """The frame of this index, (H, W, 3) uint8 RGB; StackError if it cannot be decoded."""
        with self.lock:
            if self.capture is None or index < self.next:
                self.capture, self.next = _opened(self.file), 0
            while self.next < index and self.capture.grab():
                self.next += 1
            found, frame = self.capture.read()
            self.next += 1
            if not found:
                self.capture = None
                raise StackError(f"{self.file} {NO_VIDEO}")
            return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def _opened(file: Path) -> Any:
    """The cv2.VideoCapture of a file; StackError if it is not a video."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    capture = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise StackError(f"{file} {NO_VIDEO}")
    return capture


@lru_cache(maxsize=64)
def _frames_in_video(file: Path, _changed: int) -> int:
    """Number of frames of a video, counted by decoding it: the header has only an estimate.

    Args:
        file: path; _changed: its modification time, so that a changed file is counted again.
    """
    capture, count = _opened(file), 0
    while capture.grab():
        count += 1
    return count


def frames_in_file(file: str | Path) -> list[Page]:
    """The frames in a TIFF or video file in their order; there may be one or none.

    Args:
        file: path; the suffix decides. A video is decoded once to count its frames.
    Raises:
        StackError: the file cannot be read, or is of another kind.
    """
    file = Path(file)
    try:
        changed = file.stat().st_mtime_ns
    except OSError as error:
        raise StackError(f"{file} cannot be read: {error.strerror}") from error
    suffix = file.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        count, video = _frames_in_video(file, changed), Video(file)
        return [VideoFrame(file, k + 1, count, video) for k in range(count)]
    if suffix in TIFF_SUFFIXES:
        indices = tiff_pages(file)
        return [TiffPage(file, k + 1, len(indices), index) for k, index in enumerate(indices)]
    raise StackError(
        f"{file} is a single file, not a stack: give the folder of the frames, a multi-page TIFF, "
        f"or a video ({' '.join(VIDEO_SUFFIXES)})"
    )
