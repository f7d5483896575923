"""Videos: opening, counting and reading their frames, and whether a file is whole."""

import os
import tempfile
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np

from stackmff.errors import StackError
from stackmff.images.damage import lost_sector_in_film

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mts")

# OpenCV reads this once, before the first video: the StackError says enough.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
NO_VIDEO = "is not a readable video, is cut short or damaged: export or copy it again"

# Boxes at the top of an MP4 or MOV file. Others may be what a camera wrote behind its end.
BOXES = (
    *(b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid", b"udta", b"meta"),
    *(b"moof", b"mfra", b"sidx", b"styp"),
)
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # elements of Matroska and WebM


class Video:
    """A video that is decoded forwards; going back starts again at the first frame.

    Args:
        file: path.
        note: a sentence on what is odd about it, or None.
    """

    def __init__(self, file: Path, note: str | None = None) -> None:
        self.file, self.note = file, note
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
    """The cv2.VideoCapture of a file; StackError if it is not a video.

    FFmpeg takes what is before a colon for a protocol, except in an absolute path, and OpenCV
    crashes on a name that is not UTF-8; such a file is opened by a link.
    """
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    path = os.path.abspath(file)
    if path.isprintable():
        capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    else:
        with tempfile.TemporaryDirectory() as folder:
            link = os.path.join(folder, f"video{file.suffix.lower()}")
            os.symlink(path, link)
            capture = cv2.VideoCapture(link, cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise StackError(f"{file} {NO_VIDEO}")
    return capture


def declared_film(file: Path) -> tuple[int, int, int]:
    """(frames, width, height) that a video declares, without decoding it.

    All 0 where it cannot be opened, which counting its frames reports.
    """
    try:
        capture = _opened(file)
    except StackError:
        return 0, 0, 0
    names = (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
    count, width, height = (int(capture.get(name)) for name in names)
    return count, width, height


@lru_cache(maxsize=64)
def count_frames(file: Path, _changed: int) -> tuple[int, str | None]:
    """Count the frames of a video by decoding it: the header may have only an estimate.

    Args:
        file: path; _changed: its modification time, so that a changed file is counted again.
    Returns:
        (count, note): the note is a sentence if the header declares more frames, or zeros are there
        in place of a lost sector: decoders conceal what they lack.
    Raises:
        StackError: it is not a video, or it is cut short.
    """
    missing = missing_bytes(file)
    if missing:
        raise StackError(
            f"{file} is cut short, {missing} bytes are missing: export or copy it again"
        )
    capture, count = _opened(file), 0
    declared = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    while capture.grab():
        count += 1
    # Where a format stores no number, it is the duration times the frame rate, which may vary.
    is_exact = file.suffix.lower() in (".mp4", ".mov", ".avi")
    if declared - count > (0 if is_exact else 1 + declared // 20):
        return count, (
            f"{file.name}: {count} of the {declared} frames that it declares can be decoded; it "
            "may be damaged"
        )
    if lost_sector_in_film(file):
        return count, f"{file.name}: zeros in it, as of a sector that was lost; it may be damaged"
    return count, None


def missing_bytes(file: Path) -> int:
    """How many bytes a video's own sizes say that it lacks; 0 if it is whole or does not say.

    Raises:
        StackError: it cannot be read.
    """
    try:
        with open(file, "rb") as source:
            size = source.seek(0, os.SEEK_END)
            source.seek(0)
            head = source.read(12)
            source.seek(0)
            if head[:4] == EBML:
                ends = _end_of_segment(source)
            elif head[:4] == b"RIFF":
                ends = _ends_of_chunks(source, size)
            else:
                ends = _ends_of_boxes(source, size)
            return max([*ends, size]) - size
    except OSError as error:
        raise StackError(f"{file} cannot be read: {error.strerror or error}") from error


def _ends_of_boxes(source: BinaryIO, size: int) -> Iterator[int]:
    """The ends of the boxes at the top of an MP4 or MOV file (ISO/IEC 14496-12, 4.2)."""
    place = 0
    while place + 8 <= size:
        source.seek(place)
        head = source.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:  # a longer one follows
            length = int.from_bytes(head[8:16], "big")
        if head[4:8] not in BOXES or length < 8:  # 0: to the end of the file
            return
        place += length
        yield place


def _ends_of_chunks(source: BinaryIO, size: int) -> Iterator[int]:
    """The ends of the RIFF chunks of an AVI file; beyond 1 GB there are several."""
    place = 0
    while place + 8 <= size:
        source.seek(place)
        head = source.read(8)
        if head[:4] != b"RIFF":
            return
        length = int.from_bytes(head[4:], "little")
        place += 8 + length + length % 2
        yield place - length % 2


def _end_of_segment(source: BinaryIO) -> Iterator[int]:
    """The end of the segment of a Matroska or WebM file, if it says so (RFC 8794, RFC 9559)."""
    source.read(len(EBML))
    length = _length(source)
    if length is None:
        return
    source.seek(length, os.SEEK_CUR)
    if source.read(len(SEGMENT)) == SEGMENT and (length := _length(source)) is not None:
        yield source.tell() + length


def _length(source: BinaryIO) -> int | None:
    """A length in EBML's coding of variable size; None if it is unknown."""
    first = source.read(1)
    width = 9 - first[0].bit_length() if first else 9
    if width > 8:
        return None
    value = int.from_bytes(first + source.read(width - 1), "big") - (1 << 7 * width)
    return None if value == (1 << 7 * width) - 1 else value
