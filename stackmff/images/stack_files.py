"""Stacks in one file: the pages of a TIFF, the frames of a video."""

import os
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import cv2

from stackmff.errors import StackError
from stackmff.images.formats import Decoded, decode_tiff, tiff_pages, upright
from stackmff.images.metadata import Metadata

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm")
TIFF_SUFFIXES = (".tif", ".tiff")

# OpenCV reads this once, before the first video: our own sentence is enough.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
NO_VIDEO = "is no video that can be read, is cut short or damaged: export or copy it again"


@dataclass(frozen=True)
class Page:
    """A frame that is a part of a file. It answers like the path of a picture of its own.

    Attributes:
        file: path of the file.
        number: of the frame, from 1.
        count: of the frames in the file.
    """

    file: Path
    number: int
    count: int

    @property
    def stem(self):
        return f"{self.file.stem}-{self.number:0{len(str(self.count))}}"

    @property
    def suffix(self):
        return self.file.suffix

    @property
    def name(self):
        return self.stem + self.suffix

    @property
    def parent(self):
        return self.file.parent

    def stat(self):
        return self.file.stat()

    def __str__(self):
        return f"{self.file} (frame {self.number})"


@dataclass(frozen=True)
class TiffPage(Page):
    """A page of a TIFF file; `index` counts thumbnails too."""

    index: int

    def decode(self, orientation=None):
        """As formats.decode."""
        try:
            with open(self.file, "rb") as source:
                decoded = decode_tiff(source, self, self.index)
        except OSError as error:
            raise StackError(f"{self} cannot be read: {error.strerror or error}") from error
        return upright(decoded, orientation)


@dataclass(frozen=True)
class VideoFrame(Page):
    """A frame of a video, 8-bit RGB; `video` is shared by all frames of the file."""

    video: "Video" = field(compare=False, repr=False)

    def decode(self, orientation=None):
        """As formats.decode; a video turns itself upright."""
        return Decoded(self.video.read(self.number - 1), Metadata())


class Video:
    """A video that is read forward; to go back is to begin anew.

    Args:
        file: path.
    """

    def __init__(self, file):
        self.file = file
        self.capture = None
        self.next = 0
        self.lock = threading.Lock()

    def read(self, index):
        """The frame of this index, (H, W, 3) uint8 RGB; StackError where there is none."""
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


def _opened(file):
    """The cv2.VideoCapture of a file; StackError where it is no video."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    capture = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise StackError(f"{file} {NO_VIDEO}")
    return capture


@lru_cache(maxsize=64)
def _frames_in_video(file, _changed):
    """How many frames a video has, by going through it: what its header says is an estimate."""
    capture, count = _opened(file), 0
    while capture.grab():
        count += 1
    return count


def frames_in_file(file):
    """The frames in a TIFF or video file in their order; may be one or none.

    Args:
        file: path; its suffix decides. A video is decoded once to count them.
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
        f"{file} is one file and no stack: give the folder of the frames, a TIFF of several pages, "
        f"or a video ({' '.join(VIDEO_SUFFIXES)})"
    )
