"""What a picture file declares of itself in its header, read before anything is decoded.

A file of some kilobytes may declare thousands of megapixels, for which a decoder takes gigabytes
before it notices that the file ends.
"""

import contextlib
import io
import logging
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import tifffile
from PIL import Image

from stackmff.images.avif_jxl import JXL_STARTS, is_avif, size_of_jxl
from stackmff.images.camera_files import HEIF_STARTS, RAW_SUFFIXES, declared_heif, exif_of_heif
from stackmff.images.jpeg import JPEG_START, START_OF_SCAN
from stackmff.images.metadata import Taken, orientation_of, taken_by
from stackmff.images.png import PNG_START
from stackmff.images.tiff import TIFF_STARTS

PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # of a colour type; palettes are looked up
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers; the others are tables
MOST_SEGMENTS = 2000  # of a JPEG before its frame; large profiles and extended XMP take hundreds
# Deflate codes at most 258 bytes by 2 bits. A block of 8x8 samples of a JPEG takes a bit at least.
DEFLATE_FACTOR, JPEG_BLOCK_SAMPLES = 1032, 8 * 64
EXIF_SEGMENT = 0xE1  # APP1
LAST_HUFFMAN = 0xC8  # marker of a frame; those above have arithmetic codes


@dataclass(frozen=True)
class Declared:
    """What the header of a file declares of a picture.

    Attributes:
        width, height: px, before it is turned upright.
        pixel_bytes: of a decoded pixel.
        least_bytes: that a file of such a picture has at least.
    """

    width: int
    height: int
    pixel_bytes: int
    least_bytes: int = 0

    @property
    def frame_bytes(self) -> int:
        """Bytes of the decoded picture."""
        return self.width * self.height * self.pixel_bytes


def declared(path: Path) -> Declared | None:
    """What a file declares of its first picture.

    Returns:
        None if the header cannot be read, which decoding reports, or does not say, as of RAW.
    """
    if path.suffix.lower() in RAW_SUFFIXES:
        return None
    try:
        with open(path, "rb") as source:
            return declared_in(source)
    except OSError:
        return None


def upright_size(path: Path) -> tuple[int, int] | None:
    """The (height, width) in px that the picture of a file most likely has once it is upright.

    Only the EXIF block of a JPEG is looked at, as cameras write it.

    Returns:
        None if the header does not say.
    """
    header = declared(path)
    if header is None:
        return None
    orientation = 1
    with contextlib.suppress(OSError), open(path, "rb") as source:
        if source.read(len(JPEG_START)) == JPEG_START:
            source.seek(0)
            orientation = orientation_of(_exif_of_jpeg(source))
    size = header.height, header.width
    return size[::-1] if orientation >= 5 else size  # from 5 on it lies on its side


def taken(path: Path) -> Taken:
    """When and how a picture was taken, by its EXIF block; of RAW, if it is based on TIFF."""
    try:
        with open(path, "rb") as source:
            start = source.read(32)
            source.seek(0)
            if start.startswith(JPEG_START):
                return taken_by(io.BytesIO(_exif_of_jpeg(source)))
            if start[:4] in TIFF_STARTS or path.suffix.lower() in RAW_SUFFIXES:
                return taken_by(source)
            if start[4:12] in HEIF_STARTS:
                return taken_by(io.BytesIO(exif_of_heif(source)))
            with Image.open(source) as image:
                block = image.info.get("exif", b"")
                return taken_by(io.BytesIO(block.removeprefix(b"Exif\0\0")))
    except Exception:  # reading the picture reports what is damaged
        return Taken()


def _exif_of_jpeg(source: BinaryIO) -> bytes:
    """The EXIF block of a JPEG; empty if it has none."""
    source.seek(2)
    for _ in range(MOST_SEGMENTS):
        marker = source.read(2)
        if len(marker) < 2 or marker[0] != 0xFF or marker[1] == START_OF_SCAN:
            break
        length = int.from_bytes(source.read(2), "big")
        content = source.read(length - 2) if length >= 2 else b""
        if marker[1] == EXIF_SEGMENT and content.startswith(b"Exif\0\0"):
            return content[6:]
    return b""


def declared_in(source: BinaryIO) -> Declared | None:
    """As `declared`, of an open file."""
    start = source.read(32)
    source.seek(0)
    try:
        if start.startswith(TIFF_STARTS):
            return _of_tiff(source)
        if start.startswith(PNG_START):
            return _of_png(start)
        if start.startswith(JPEG_START):
            return _of_jpeg(source)
        if start.startswith(b"BM"):
            width, height, _, bits = struct.unpack_from("<iiHH", start, 18)
            return Declared(abs(width), abs(height), 4 if bits == 32 else 3)
        if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
            return _of_webp(start)
        if is_avif(start):
            with Image.open(source, formats=("AVIF",)) as image:
                return Declared(*image.size, 8)
        if start.startswith(JXL_STARTS):
            size = size_of_jxl(source.read(4096))
            return size and Declared(*size, 8)
        if start[4:12] in HEIF_STARTS:
            found = declared_heif(source)
            return found and Declared(*found)
    except Exception:  # of damaged headers, tifffile and pillow-heif raise classes of their own
        return None
    return None


def declared_by(data: bytes) -> Declared | None:
    """As `declared`, of the content of a file."""
    return declared_in(io.BytesIO(data))


def _of_png(start: bytes) -> Declared:
    """Of a PNG; its compressed rows cannot be shorter than deflate makes zeros."""
    width, height, depth, kind = struct.unpack_from(">IIBB", start, 16)
    channels = PNG_CHANNELS[kind]
    stored = height * -(-width * depth * (1 if kind == 3 else channels) // 8)
    return Declared(width, height, channels * (2 if depth == 16 else 1), stored // DEFLATE_FACTOR)


def _of_jpeg(source: BinaryIO) -> Declared | None:
    """Of a JPEG: the first of its frame headers."""
    source.seek(2)
    for _ in range(MOST_SEGMENTS):
        marker = source.read(2)
        while marker == b"\xff\xff":  # fill bytes
            marker = b"\xff" + source.read(1)
        if len(marker) < 2 or marker[0] != 0xFF or marker[1] == START_OF_SCAN:
            return None
        (length,) = struct.unpack(">H", source.read(2))
        if marker[1] in JPEG_FRAMES:
            _, height, width, channels = struct.unpack(">BHHB", source.read(6))
            # Each block takes a bit at least; arithmetic codes may take less.
            is_huffman = marker[1] <= LAST_HUFFMAN
            least = width * height // JPEG_BLOCK_SAMPLES if is_huffman else 0
            return Declared(width, height, 3 if channels >= 3 else 1, least)
        source.seek(length - 2, io.SEEK_CUR)
    return None


def _of_webp(start: bytes) -> Declared | None:
    """Of a WebP in each of its three forms."""
    kind, at = start[12:16], 20
    if kind == b"VP8X":
        width, height = (int.from_bytes(start[k : k + 3], "little") + 1 for k in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(start[at + 1 : at + 5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", start, at + 6))
    else:
        return None
    return Declared(width, height, 4)


def _of_tiff(source: BinaryIO) -> Declared:
    """Of the first page of a TIFF."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with tifffile.TiffFile(source) as file:
        page = file.pages[0].aspage()
        height = page.imagelength * page.imagedepth
        channels = 3 if page.photometric == tifffile.PHOTOMETRIC.PALETTE else page.samplesperpixel
        return Declared(page.imagewidth, height, channels * max(page.bitspersample // 8, 1))
