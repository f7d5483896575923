"""EXIF, XMP and ICC profile of a picture, and what must change in them on the way to a result.

The blocks are read and written by Pillow. Three things of a photograph are not true of a picture
made from it and are never carried: its orientation and size, its thumbnail, and the maker's notes,
which hold places inside the old block that no one but the maker can move.
"""

import contextlib
import io
import json
import re
import struct
import warnings
from dataclasses import dataclass

from PIL import Image, TiffImagePlugin, TiffTags

ORIENTATION, EXIF_IFD, GPS_IFD = 0x0112, 0x8769, 0x8825
WIDTH, HEIGHT = 0xA002, 0xA003  # PixelXDimension and PixelYDimension, in the EXIF IFD

# What is carried of the first directory: description, maker and model, resolution, software, date,
# artist, computer, rating, copyright, Windows' title to subject. The others tell how pixels lie.
CARRIED = {270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 18246, 18249, 33432}
CARRIED |= {EXIF_IFD, GPS_IFD, *range(40091, 40096)}

# Maker's notes; the order and share of bits of a JPEG; a directory of file kinds; places of the
# subject in the picture before it was turned upright.
DROPPED = {0x927C, 0x9101, 0x9102, 0xA005, 0x9214, 0xA214}

# What Pillow raises on blocks that are damaged.
DAMAGED = (
    SyntaxError, ValueError, TypeError, KeyError, EOFError, OSError, struct.error, OverflowError,
    ZeroDivisionError, IndexError, AttributeError, AssertionError,
)  # fmt: skip
HEADS = {"little": b"II*\0\x08\0\0\0", "big": b"MM\0*\0\0\0\x08"}  # of a block

# XMP values that follow the result's size, and parts that are about other data of the old file:
# its thumbnail, a second packet, a film or a gain map behind the picture.
XMP_SIZES = {
    b"tiff:ImageWidth": 0,
    b"tiff:ImageLength": 1,
    b"exif:PixelXDimension": 0,
    b"exif:PixelYDimension": 1,
}
XMP_DROPPED = rb"(?:(?:xmp|xap):Thumbnails|Container:Directory|xmpNote:HasExtendedXMP"
XMP_DROPPED += rb"|GCamera:\w+|hdrgm:\w+)"

# What Pillow says about damaged blocks: they are passed over.
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")


@dataclass(frozen=True)
class Metadata:
    """What a picture file says about its picture.

    Attributes:
        exif: a block as in a TIFF file, without "Exif" before it; None for none.
        xmp: a packet; None for none.
        profile: ICC profile; None for none.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    profile: bytes | None = None


def orientation_of(block):
    """EXIF orientation of a block, 1 (upright) to 8; 1 where there is none that can be read."""
    exif = Image.Exif()
    try:
        exif.load(block or b"")
        return exif.get(ORIENTATION, 1)
    except DAMAGED:
        return 1  # damaged metadata do not make a whole picture unreadable


def metadata_for(metadata, picture):
    """The Metadata that a picture made from the one they belong to may carry.

    Args:
        metadata: of an upright photograph of the same scene; None counts as none at all.
        picture: (H, W, C), C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA.
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


def exif_for(block, width, height, at=None):
    """An EXIF block for an upright picture without a thumbnail; None where it cannot be read.

    Args:
        block: as Metadata.exif, or a binary file of the TIFF kind.
        width, height: of the picture, px.
        at: where in the file the directory to read begins, bytes; None: the first.
    """
    try:
        source = io.BytesIO(block) if isinstance(block, bytes) else block
        source.seek(0)
        head = source.read(8)
        if head[2:4] in (b"+\0", b"\0+"):  # a file of 64 bits
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


def _loaded(source, head, at, group=None):
    """The directory at `at` bytes (None: the first) of a binary file of the TIFF kind."""
    directory = TiffImagePlugin.ImageFileDirectory_v2(head, group=group)
    source.seek(directory.next if at is None else at)
    directory.load(source)
    return directory


def _copy(directory, order, group=None):
    """A directory of its own with the values that can be read, each of the type that it has."""
    copy = TiffImagePlugin.ImageFileDirectory_v2(HEADS[order], group=group)
    for tag in directory:
        with contextlib.suppress(*DAMAGED):
            value = directory[tag]
            # Pillow reads text as Latin-1 and writes ASCII: as bytes, UTF-8 comes through too.
            copy.tagtype[tag] = directory.tagtype[tag]
            copy[tag] = value.encode("latin-1") if isinstance(value, str) else value
    return copy


def _together(first, inner):
    """The bytes of a directory and of those that it points to, for places from 8 on."""
    for tag in (EXIF_IFD, GPS_IFD):
        first.pop(tag, None)
    for tag in inner:
        first.tagtype[tag] = TiffTags.LONG
        first[tag] = 0  # as long as the place that comes to stand there
    end, parts = 8 + len(first.tobytes(8)), []
    for tag, directory in inner.items():
        parts.append(bytes(end % 2))
        first[tag] = end + end % 2
        parts.append(directory.tobytes(first[tag]))
        end = first[tag] + len(parts[-1])
    return first.tobytes(8) + b"".join(parts)


def xmp_for(packet, width, height):
    """An XMP packet for an upright picture of this size (px), all else as it was, in UTF-8; None
    where it cannot be read."""
    try:
        packet = packet.decode(json.detect_encoding(packet)).rstrip("\0").encode()
    except UnicodeError:
        return None
    values = {name: (width, height)[side] for name, side in XMP_SIZES.items()}
    values[b"tiff:Orientation"] = 1
    for name, value in values.items():
        value = b"%d" % value
        packet = re.sub(rb"(%s\s*=\s*)([\"'])[^\"']*\2" % name, rb"\g<1>\g<2>%s\2" % value, packet)
        packet = re.sub(rb"(<%s>)[^<]*(</)" % name, rb"\g<1>%s\2" % value, packet)
    packet = re.sub(rb"\s%s\s*=\s*([\"'])[^\"']*\1" % XMP_DROPPED, b"", packet)
    return re.sub(rb"<(%s)\b.*?</\1>" % XMP_DROPPED, b"", packet, flags=re.DOTALL)


def tiff_tags(exif):
    """What a TIFF file has of an EXIF block that `exif_for` gave.

    Returns:
        (tags, directories): {tag: (type, value)} of the first directory, text as bytes that end in
        0; and {tag: directory} of the EXIF and GPS ones, for `tiff_directory`.
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


def tiff_directory(directory, group, at):
    """A directory for a little-endian TIFF file where it stands at `at` bytes, with its values."""
    return _copy(directory, "little", group).tobytes(at)
