"""EXIF, XMP and ICC profile of a picture, and how they are corrected for a result.

Pillow reads and writes the blocks. Three things that a photograph says are not true of a picture
made from it and are never carried over: its orientation and size, its thumbnail, and the maker
notes, which contain offsets into the old block that only the maker can adjust.
"""

import contextlib
import io
import struct
import warnings
from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, BinaryIO

import numpy as np
from PIL import TiffImagePlugin, TiffTags

from stackmff.images.xmp import xmp_for

ORIENTATION, EXIF_IFD, GPS_IFD = 0x0112, 0x8769, 0x8825
DESCRIPTION = 0x010E
RESOLUTIONS, RESOLUTION_UNIT = (0x011A, 0x011B), 0x0128  # along x and y
INCH, CENTIMETRE = 2, 3  # units
TIME, PARTS_OF_SECOND, DISTANCE = 0x9003, 0x9291, 0x9206  # of the EXIF IFD
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
ALL = frozenset(range(2**16))
DROPPED = {0x927C, 0x9101, 0x9102, 0xA005, 0x9214, 0xA214}

# What Pillow raises for damaged blocks.
DAMAGED = (
    SyntaxError, ValueError, TypeError, KeyError, EOFError, OSError, struct.error, OverflowError,
    ZeroDivisionError, IndexError, AttributeError, AssertionError,
)  # fmt: skip
# Sizes of the types of values, bytes; what Pillow passes on as bytes; what a directory may hold. A
# directory of a few kilobytes can point 65,535 times to the same megabytes.
UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
AS_BYTES = {1, 2, 7}
MOST_ENTRIES = 4096
DIRECTORY_ROOM, NUMBERS_ROOM = 4 * 2**20, 2**16  # bytes: all values; one value that is numbers
PROFILE_ROOM = 16 * 2**20  # bytes of an ICC profile; those of printers take a few megabytes
HEADS = {"little": b"II*\0\x08\0\0\0", "big": b"MM\0*\0\0\0\x08"}  # of a block, by byte order

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
    block = (block or b"").removeprefix(b"Exif\0\0")
    try:
        orientation = _loaded(io.BytesIO(block), block[:8], None, {ORIENTATION})[ORIENTATION]
    except DAMAGED:
        return 1  # damaged metadata do not make an intact picture unreadable
    return orientation if orientation in range(1, 9) else 1


@dataclass(frozen=True)
class Taken:
    """When a photograph was taken, and how far it is focused; None: it does not say."""

    time: datetime | None = None
    distance: float | None = None  # m


def taken_by(source: BinaryIO) -> Taken:
    """When and how a photograph was taken, by its EXIF block.

    Args:
        source: the block, or an open file that is based on TIFF.
    """
    try:
        head = source.read(8)
        first = _loaded(source, head, None, {EXIF_IFD})
        inner = _loaded(source, head, first[EXIF_IFD], {TIME, PARTS_OF_SECOND, DISTANCE}, EXIF_IFD)
    except DAMAGED:
        return Taken()
    time, distance = None, None
    with contextlib.suppress(*DAMAGED):
        parts = str(inner.get(PARTS_OF_SECOND, "")).strip(" \0")
        second = float(f"0.{parts}") if parts.isdecimal() else 0.0
        time = datetime.strptime(str(inner[TIME]).strip(" \0"), "%Y:%m:%d %H:%M:%S")
        time += timedelta(seconds=second)
    with contextlib.suppress(*DAMAGED):
        value = float(inner[DISTANCE])
        distance = value if 0 < value < float("inf") else None
    return Taken(time, distance)


def with_resolution(exif: bytes | None, per_metre: tuple[int, int]) -> bytes:
    """An EXIF block that gives the resolution that a PNG has, if it has none of its own.

    Args:
        exif: the block, or None.
        per_metre: pixels per metre along x and y.
    """
    first, inner = Directory(HEADS["little"]), dict[int, Directory]()
    if exif is not None:
        try:
            source, head = io.BytesIO(exif), exif[:8]
            first = _copy(_loaded(source, head, None, CARRIED | {ORIENTATION}), "little")
            for tag in (EXIF_IFD, GPS_IFD):
                with contextlib.suppress(*DAMAGED):
                    inner[tag] = _copy(_loaded(source, head, first[tag], ALL, tag), "little", tag)
            if RESOLUTIONS[0] in first:
                return exif
        except DAMAGED:
            return exif
    for tag, value in zip(RESOLUTIONS, per_metre, strict=True):
        first.tagtype[tag] = TiffTags.RATIONAL
        first[tag] = TiffImagePlugin.IFDRational(value, 100)
    first.tagtype[RESOLUTION_UNIT], first[RESOLUTION_UNIT] = TiffTags.SHORT, CENTIMETRE
    return HEADS["little"] + _together(first, inner)


def directory_of(source: BinaryIO) -> Mapping[int, Any]:
    """The values of the first directory of a block; one of DAMAGED if it cannot be read."""
    return _loaded(source, source.read(8), None)


def resolution_of(exif: bytes | None) -> tuple[int, int] | None:
    """Pixels per metre along x and y by an EXIF block; None if it does not say.

    What cameras write for want of a size, 72 per inch, counts as none.
    """
    try:
        first = _loaded(io.BytesIO(exif or b""), (exif or b"")[:8], None)
        unit = {INCH: 1 / 0.0254, CENTIMETRE: 100.0}[first.get(RESOLUTION_UNIT, INCH)]
        values = [float(first[tag]) for tag in RESOLUTIONS]
        if values == [72, 72] and first.get(RESOLUTION_UNIT, INCH) == INCH:
            return None
        across, down = (round(value * unit) for value in values)
    except DAMAGED:
        return None
    return (across, down) if min(across, down) > 0 and max(across, down) < 2**31 else None


def metadata_for(metadata: Metadata | None, picture: np.ndarray) -> tuple[Metadata, list[str]]:
    """The Metadata of a photograph, corrected for a picture that was made from it.

    Args:
        metadata: of an upright photograph of the same scene; None counts as empty.
        picture: (H, W, C), C as in images/formats.py.
    Returns:
        (metadata, notes): notes are sentences on what had to be left out.
    """
    metadata = metadata or Metadata()
    height, width, channels = picture.shape
    space = b"GRAY" if channels <= 2 else b"RGB "
    profile, notes = metadata.profile, list[str]()
    if profile is not None and (profile[16:20] != space or len(profile) > PROFILE_ROOM):
        what = "grey" if channels <= 2 else "RGB"
        notes.append(f"the colour profile is damaged or not one of {what} pictures: it is left out")
        profile = None
    exif = exif_for(metadata.exif, width, height) if metadata.exif else None
    if metadata.exif and exif is None:
        notes.append("the EXIF block is damaged: it is left out")
    xmp = xmp_for(metadata.xmp, width, height) if metadata.xmp else None
    if metadata.xmp and xmp is None:
        notes.append("the XMP packet is damaged or too long: it is left out")
    return Metadata(exif, xmp, profile), notes


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
        first = _loaded(source, head, at, CARRIED)
        carried = {}
        for tag in (EXIF_IFD, GPS_IFD):
            with contextlib.suppress(*DAMAGED):
                inner = _loaded(source, head, first[tag], ALL - DROPPED, tag)
                carried[tag] = _copy(inner, order, tag)
        first = _copy(first, order)
        if DESCRIPTION in first:
            text = description_for(first.pop(DESCRIPTION))
            if text:
                first.tagtype[DESCRIPTION] = TiffTags.ASCII
                first[DESCRIPTION] = text
        first[ORIENTATION] = 1
        if EXIF_IFD in carried:
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


def _loaded(
    source: BinaryIO,
    head: bytes,
    at: int | None,
    wanted: Set[int] = ALL,
    group: int | None = None,
) -> Directory:
    """The directory at offset `at` (None: the first) of a file that is based on TIFF.

    Pillow is given a small block that holds only what is wanted.

    Args:
        source: the open file.
        head: its first 8 bytes, 16 of a BigTIFF.
        at: bytes.
        wanted: the tags to read. Others are passed over, as are values that lie outside the file or
            exceed DIRECTORY_ROOM or NUMBERS_ROOM.
        group: the tag that points to the directory; None for the first.
    """
    order = "big" if head.startswith(b"MM") else "little"
    ends = ">" if order == "big" else "<"
    source.seek(Directory(head).next if at is None else at)
    found = [entry for entry in _entries(source, head, ends) if entry[0] in wanted]
    start = 8 + 2 + 12 * len(found) + 4  # of the values
    table, values = struct.pack(f"{ends}H", len(found)), bytearray()
    for tag, kind, count, place in found:
        value = _value(source, kind, count, place, ends, DIRECTORY_ROOM - len(values))
        if len(value) > 4:
            place = struct.pack(f"{ends}I", start + len(values))
            values += value
        else:
            place = value.ljust(4, b"\0")
        count = len(value) // UNITS.get(kind, 1)  # 0 where the value was passed over
        table += struct.pack(f"{ends}HHI", tag, kind, count) + place
    directory = Directory(HEADS[order], group=group)
    block = io.BytesIO(HEADS[order] + table + bytes(4) + values)
    block.seek(8)
    directory.load(block)
    return directory


def _entries(source: BinaryIO, head: bytes, ends: str) -> list[tuple[int, int, int, bytes]]:
    """The entries of the directory at which a file stands: (tag, type, count, value or offset).

    Raises:
        ValueError: there are more than MOST_ENTRIES.
        struct.error: the file ends before.
    """
    is_big = head[2:4] in (b"+\0", b"\0+")
    number = struct.Struct(ends + ("Q" if is_big else "H"))
    entry = struct.Struct(ends + ("HHQ8s" if is_big else "HHI4s"))
    (count,) = number.unpack(source.read(number.size))
    if count > MOST_ENTRIES:
        raise ValueError(f"{count} entries")
    table = source.read(count * entry.size)
    # Of a directory that is cut, the entries before the cut.
    return list(entry.iter_unpack(table[: len(table) // entry.size * entry.size]))


def _value(source: BinaryIO, kind: int, count: int, place: bytes, ends: str, room: int) -> bytes:
    """The bytes of a value; empty if it is longer than permitted, outside the file, or unknown.

    Args:
        source: the open file.
        kind: type of the value.
        count: how many there are.
        place: the value, if it fits, or its offset.
        ends: byte order, "<" or ">".
        room: bytes that it may have.
    """
    size = count * UNITS.get(kind, 0)
    if size <= len(place):
        return place[:size]
    if size > (room if kind in AS_BYTES else min(room, NUMBERS_ROOM)):
        return b""
    source.seek(*struct.unpack(ends + ("I" if len(place) == 4 else "Q"), place))
    value = source.read(size)
    return value if len(value) == size else b""


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
        tag: _loaded(source, head, first[tag], group=tag)
        for tag in (EXIF_IFD, GPS_IFD)
        if tag in first
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
