"""EXIF, XMP and ICC profile of a picture, and how they are corrected for a result.

Pillow reads and writes the blocks. Three things that a photograph says are not true of a picture
made from it and are never carried over: its orientation and size, its thumbnail, and the maker
notes, which contain offsets into the old block that only the maker can adjust.
"""

import contextlib
import io
import json
import re
import struct
import warnings
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, TiffImagePlugin, TiffTags

ORIENTATION, EXIF_IFD, GPS_IFD = 0x0112, 0x8769, 0x8825
DESCRIPTION = 0x010E
# Keys of ImageJ's description that say how the planes of a file belong together.
OF_PLANES = {
    b"images", b"slices", b"channels", b"frames", b"hyperstack", b"mode", b"loop", b"spacing",
    b"finterval", b"fps", b"axes",
}  # fmt: skip
WIDTH, HEIGHT = 0xA002, 0xA003  # PixelXDimension and PixelYDimension, in the EXIF IFD

Directory = TiffImagePlugin.ImageFileDirectory_v2

# Tags of the first directory that are carried over: description, maker and model, resolution,
# software, date, artist, computer, rating, copyright, Windows' title to subject. The others
# describe how the pixels are stored.
CARRIED = {270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 18246, 18249, 33432}
CARRIED |= {EXIF_IFD, GPS_IFD, *range(40091, 40096)}

# Tags of the EXIF directory that are not: maker notes; the components and compression of a JPEG;
# the interoperability directory; the subject's place in the picture before it was turned upright.
DROPPED = {0x927C, 0x9101, 0x9102, 0xA005, 0x9214, 0xA214}

# What Pillow raises for damaged blocks.
DAMAGED = (
    SyntaxError, ValueError, TypeError, KeyError, EOFError, OSError, struct.error, OverflowError,
    ZeroDivisionError, IndexError, AttributeError, AssertionError,
)  # fmt: skip
HEADS = {"little": b"II*\0\x08\0\0\0", "big": b"MM\0*\0\0\0\x08"}  # of a block, by byte order

# XMP values that are set to the result's size (0 its width, 1 its height), and parts that describe
# other data in the old file: its thumbnail, a second packet, a video or a gain map.
XMP_SIZES = {
    b"tiff:ImageWidth": 0,
    b"tiff:ImageLength": 1,
    b"exif:PixelXDimension": 0,
    b"exif:PixelYDimension": 1,
}
XMP_DROPPED = rb"(?:(?:xmp|xap):Thumbnails|Container:Directory|xmpNote:HasExtendedXMP"
XMP_DROPPED += rb"|GCamera:\w+|hdrgm:\w+)"

# Pillow's warnings about damaged blocks, which are skipped.
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")


@dataclass(frozen=True)
class Metadata:
    """What a picture file says about its picture; None stands for none.

    Attributes:
        exif: an EXIF block, which is a small TIFF file, without the prefix "Exif".
        xmp: an XMP packet.
        profile: an ICC profile.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    profile: bytes | None = None


def orientation_of(block: bytes | None) -> int:
    """EXIF orientation of a block, 1 (upright) to 8; 1 if there is none that can be read."""
    exif = Image.Exif()
    try:
        exif.load(block or b"")
        orientation: int = exif.get(ORIENTATION, 1)
        return orientation
    except DAMAGED:
        return 1  # damaged metadata do not make an intact picture unreadable


def metadata_for(metadata: Metadata | None, picture: np.ndarray) -> Metadata:
    """The Metadata of a photograph, corrected for a picture that was made from it.

    Args:
        metadata: of an upright photograph of the same scene; None counts as empty.
        picture: (H, W, C), C as in images/formats.py.
    """
    metadata = metadata or Metadata()
    height, width, channels = picture.shape
    space = b"GRAY" if channels <= 2 else b"RGB "
    profile = metadata.profile
    if profile is not None and profile[16:20] != space:
        profile = None
    exif = exif_for(metadata.exif, width, height) if metadata.exif else None
    xmp = xmp_for(metadata.xmp, width, height) if metadata.xmp else None
    return Metadata(exif, xmp, profile)


def exif_for(
    block: bytes | BinaryIO, width: int, height: int, at: int | None = None
) -> bytes | None:
    """An EXIF block, corrected for an upright picture without a thumbnail; None if it is damaged.

    Args:
        block: as Metadata.exif, or an open file that is based on TIFF.
        width, height: of the picture, px.
        at: offset in bytes of the directory to read; None: the first directory.
    """
    try:
        source = io.BytesIO(block) if isinstance(block, bytes) else block
        source.seek(0)
        head = source.read(8)
        if head[2:4] in (b"+\0", b"\0+"):  # BigTIFF, whose header is longer
            head += source.read(8)
        order = "big" if head.startswith(b"MM") else "little"
        first = _loaded(source, head, at)
        inner = {}
        for tag in (EXIF_IFD, GPS_IFD):
            with contextlib.suppress(*DAMAGED):
                inner[tag] = _loaded(source, head, first[tag], tag)
        carried = {tag: _copy(directory, order, tag) for tag, directory in inner.items()}
        first = _copy(first, order)
        for tag in set(first) - CARRIED:
            del first[tag]
        if DESCRIPTION in first:
            text = description_for(first.pop(DESCRIPTION))
            if text:
                first.tagtype[DESCRIPTION] = TiffTags.ASCII
                first[DESCRIPTION] = text
        first[ORIENTATION] = 1
        if EXIF_IFD in carried:
            for tag in DROPPED & set(carried[EXIF_IFD]):
                del carried[EXIF_IFD][tag]
            for tag, side in ((WIDTH, width), (HEIGHT, height)):
                carried[EXIF_IFD].tagtype[tag] = TiffTags.LONG
                carried[EXIF_IFD][tag] = side
        return HEADS[order] + _together(first, carried)
    except DAMAGED:
        return None


def description_for(text: str | bytes) -> bytes:
    """The description of a TIFF file as it is true of a single picture made from it.

    Programs for microscopes store there how the planes of a file belong together. Of ImageJ's lines
    only those on values and units are kept; what tifffile and OME store is about planes alone.

    Returns:
        The text, empty if nothing remains.
    """
    text = text.encode("latin-1", "replace") if isinstance(text, str) else text
    text = text.rstrip(b"\0")
    if text.startswith(b'{"shape"') or b"<OME " in text:
        return b""
    if text.startswith(b"ImageJ="):
        lines = text.splitlines()
        kept = [line for line in lines if line.split(b"=")[0] not in OF_PLANES]
        return b"\n".join(kept) + b"\n" if len(kept) > 1 else b""
    return text


def _loaded(source: BinaryIO, head: bytes, at: int | None, group: int | None = None) -> Directory:
    """The directory at offset `at` (None: the first) of a file that is based on TIFF.

    Args:
        source: the open file.
        head: its first 8 bytes, 16 of a BigTIFF.
        at: bytes.
        group: the tag that points to the directory; None for the first.
    """
    directory = Directory(head, group=group)
    source.seek(directory.next if at is None else at)
    directory.load(source)
    return directory


def _copy(directory: Directory, order: str, group: int | None = None) -> Directory:
    """A copy of a directory in another byte order, of the values that can be read."""
    copy = Directory(HEADS[order], group=group)
    for tag in directory:
        with contextlib.suppress(*DAMAGED):
            value = directory[tag]
            # Pillow reads text as Latin-1 and writes ASCII; bytes keep UTF-8 as it is.
            copy.tagtype[tag] = directory.tagtype[tag]
            copy[tag] = value.encode("latin-1") if isinstance(value, str) else value
    return copy


def _together(first: Directory, inner: dict[int, Directory]) -> bytes:
    """A directory and those that it points to, as the bytes that follow an 8-byte header."""
    for tag in (EXIF_IFD, GPS_IFD):
        first.pop(tag, None)
    for tag in inner:
        first.tagtype[tag] = TiffTags.LONG
        first[tag] = 0  # of the same length as the offset that replaces it
    end, parts = 8 + len(first.tobytes(8)), []
    for tag, directory in inner.items():
        parts.append(bytes(end % 2))
        first[tag] = end + end % 2
        parts.append(directory.tobytes(first[tag]))
        end = first[tag] + len(parts[-1])
    return first.tobytes(8) + b"".join(parts)


def xmp_for(packet: bytes, width: int, height: int) -> bytes | None:
    """An XMP packet, corrected for an upright picture of this size.

    Args:
        packet: in any of the encodings of JSON.
        width, height: of the picture, px.
    Returns:
        The packet in UTF-8, otherwise unchanged; None if it cannot be decoded.
    """
    try:
        packet = packet.decode(json.detect_encoding(packet)).rstrip("\0").encode()
    except UnicodeError:
        return None
    values = {name: (width, height)[side] for name, side in XMP_SIZES.items()}
    values[b"tiff:Orientation"] = 1
    for name, number in values.items():
        value = b"%d" % number
        packet = re.sub(rb"(%s\s*=\s*)([\"'])[^\"']*\2" % name, rb"\g<1>\g<2>%s\2" % value, packet)
        packet = re.sub(rb"(<%s>)[^<]*(</)" % name, rb"\g<1>%s\2" % value, packet)
    packet = re.sub(rb"\s%s\s*=\s*([\"'])[^\"']*\1" % XMP_DROPPED, b"", packet)
    return re.sub(rb"<(%s)\b.*?</\1>" % XMP_DROPPED, b"", packet, flags=re.DOTALL)


def tiff_tags(exif: bytes) -> tuple[dict[int, tuple[int, Any]], dict[int, Directory]]:
    """The parts of an EXIF block that a TIFF file stores.

    Args:
        exif: a block from `exif_for`.
    Returns:
        (tags, directories): {tag: (type, value)} of the first directory, text as bytes that end
        with 0; and {tag: directory} of the EXIF and GPS directories, for `tiff_directory`.
    """
    source, head = io.BytesIO(exif), exif[:8]
    first = _loaded(source, head, None)
    directories = {
        tag: _loaded(source, head, first[tag], tag) for tag in (EXIF_IFD, GPS_IFD) if tag in first
    }
    tags = {}
    for tag in set(first) - set(directories):
        kind, value = first.tagtype[tag], first[tag]
        value = value.encode("latin-1") + b"\0" if isinstance(value, str) else value
        tags[tag] = kind, value
    return tags, directories


def tiff_directory(directory: Directory, group: int, at: int) -> bytes:
    """A directory with its values as it is stored in a little-endian TIFF file.

    Args:
        directory: from `tiff_tags`.
        group: the tag that points to it.
        at: its offset in the file, bytes.
    """
    return _copy(directory, "little", group).tobytes(at)
