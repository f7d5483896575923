"""TIFF: one picture or several pages to arrays, and back.

tifffile decodes, because OpenCV's decoder scrambles planar and white-is-zero 16-bit files, drops
the alpha of grey ones and premultiplies the colours of RGBA ones.
"""

import io
import logging
import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image, ImageCms

from stackmff.errors import StackError
from stackmff.images.colour import rgb_by_profile
from stackmff.images.damage import (
    lost_sector_in_codes,
    lost_sector_in_samples,
    refused_or_told,
)
from stackmff.images.decoded import CMYK_NOTE, Decoded
from stackmff.images.iptc import xmp_of_iptc
from stackmff.images.jpeg import damage_in
from stackmff.images.metadata import (
    DESCRIPTION,
    EXIF_IFD,
    GPS_IFD,
    ORIENTATION,
    RESOLUTION_UNIT,
    RESOLUTIONS,
    Metadata,
    description_for,
    exif_for,
    tiff_directory,
    tiff_tags,
)

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # of 32 and 64 bits, in either byte order
# {coding without check sums: zeros in a row that it never writes, since it takes out repetitions}
RUNS: dict[int, int] = {
    tifffile.COMPRESSION.LZW: 64,
    tifffile.COMPRESSION.PACKBITS: 64,
    tifffile.COMPRESSION.ZSTD: 256,
}
MAKE, SOFTWARE, XMP, IPTC, ICC_PROFILE = 271, 305, 700, 33723, 34675  # tags
BITS_PER_SAMPLE = 258
MOST_PAGES = 10_000  # each takes a fraction of a millisecond, before anything is decoded
X_RESOLUTION, Y_RESOLUTION = RESOLUTIONS
BYTE, LONG = 1, 4  # types of tags


def decode_tiff(
    source: BinaryIO, path: object, index: int | None = None, lenient: bool = False
) -> Decoded:
    """Read one picture of a TIFF file, as it is stored: see decoded.upright.

    Args:
        source: the open file.
        path: its name in error messages.
        index: of the page; None: the file's only picture, not counting thumbnails and masks.
        lenient: take JPEG inside the file whose data are damaged, with a note.
    Raises:
        StackError: as formats.decode; or there are several pictures and no index is given.
    """
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # the StackError says enough
    try:
        return _decode(source, path, index, lenient)
    except StackError:
        raise
    except Exception as error:  # each codec raises its own classes, odd tags any, MemoryError too
        raise StackError(
            f"{path} is cut short, damaged or an unknown kind of TIFF ({error}): "
            "export or copy it again"
        ) from error


def _decode(source: BinaryIO, path: object, index: int | None, lenient: bool) -> Decoded:
    """As `decode_tiff`; a damaged file may raise anything."""
    with tifffile.TiffFile(source) as file:
        found = (_pictures_in(file) or [0]) if index is None else [index]
        page = file.pages[found[0]].aspage()
        samples = page.asarray() if _is_whole(file, page, source) else np.empty(0)
        damage = refused_or_told(path, _damage_in(file, page), lenient)
        numbers = (ORIENTATION, XMP, IPTC, ICC_PROFILE, EXIF_IFD, GPS_IFD, MAKE)
        tags = {number: page.tags[number].value for number in numbers if number in page.tags}
        exif = None
        if {EXIF_IFD, GPS_IFD, MAKE} & set(tags) or _says_more(page):
            exif = exif_for(source, page.imagewidth, page.imagelength, page.offset)
    if samples.size == 0:
        raise StackError(f"{path} is cut short: export or copy it again")
    if len(found) > 1:
        raise StackError(
            f"{path} holds {len(found)} pictures: give this file as the stack, or save each "
            "picture as a separate file"
        )
    profile, xmp, orientation = tags.get(ICC_PROFILE), tags.get(XMP), tags.get(ORIENTATION)
    profile = profile if isinstance(profile, bytes) else None
    picture, profile, note = _to_grey_or_rgb(page, samples, profile, path)
    xmp = xmp if isinstance(xmp, bytes) else xmp_of_iptc(_iptc_of(tags.get(IPTC)))
    metadata = Metadata(exif, xmp, profile)
    # A damaged tag may be of any type.
    turned = orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
    return Decoded(picture, metadata, turned, damage or note)


def _iptc_of(value: Any) -> bytes | None:
    """The IPTC block of a tag, which some programs write as whole numbers of 4 bytes."""
    if isinstance(value, tuple):
        try:
            return struct.pack(f"<{len(value)}I", *value)
        except struct.error:
            return None
    return value if isinstance(value, bytes) else None


def _damage_in(file: tifffile.TiffFile, page: tifffile.TiffPage) -> str | None:
    """What is damaged in the samples of a page, in a few words; None if nothing was found."""
    tables = page.jpegtables
    spans = _spans(page)
    whole = len(spans) == 1 and not page.is_tiled  # the last tile may be filled up with zeros
    for start, end in spans:
        file.filehandle.seek(start)
        data: bytes = file.filehandle.read(end - start)
        damage = None
        if page.compression == tifffile.COMPRESSION.NONE:
            damage = lost_sector_in_samples(data, start, _stride(page), whole)
        elif page.compression in RUNS:
            damage = lost_sector_in_codes(data, RUNS[page.compression])
        elif page.compression == tifffile.COMPRESSION.JPEG and data:
            # The tables that the segments share are a JPEG without a picture.
            damage = damage_in(data if tables is None else tables[:-2] + data[2:])
        if damage is not None:
            return damage
    return None


def _spans(page: tifffile.TiffPage) -> list[tuple[int, int]]:
    """(start, end) of strips or tiles in the file; of uncompressed ones that adjoin, of all."""
    spans = [
        (offset, offset + count)
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
    ]
    if page.compression != tifffile.COMPRESSION.NONE:
        return spans
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


def _stride(page: tifffile.TiffPage) -> int:
    """Bytes in a row of an uncompressed strip or tile."""
    width = page.tilewidth if page.is_tiled else page.imagewidth
    together = page.planarconfig == tifffile.PLANARCONFIG.CONTIG
    bits = width * page.bitspersample * (page.samplesperpixel if together else 1)
    return int(-(-bits // 8))


def _is_whole(file: tifffile.TiffFile, page: tifffile.TiffPage, source: BinaryIO) -> bool:
    """Whether all samples and tags of a page are inside the file."""
    ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts)]
    is_inside = max(ends, default=0) <= source.seek(0, io.SEEK_END)
    return is_inside and not lacks_segments(page) and not _lost_tags(file, page)


def lacks_segments(page: tifffile.TiffPage) -> bool:
    """Whether a page has fewer strips or tiles than it needs, which tifffile takes for black."""
    return sum(count > 0 for count in page.databytecounts) < math.prod(page.chunked)


def _lost_tags(file: tifffile.TiffFile, page: tifffile.TiffPage) -> set[int]:
    """Tags of a page that tifffile skipped because the file is cut before their values."""
    format, handle = file.tiff, file.filehandle
    handle.seek(page.offset)
    (count,) = struct.unpack(format.tagnoformat, handle.read(format.tagnosize))
    entries = handle.read(count * format.tagsize)
    codes = {
        struct.unpack_from(format.byteorder + "H", entries, k * format.tagsize)[0]
        for k in range(count)
    }
    needed = {BITS_PER_SAMPLE, ICC_PROFILE}  # without the other tags tifffile raises
    return codes & needed - {tag.code for tag in page.tags}


def _pictures_in(file: tifffile.TiffFile) -> list[int]:
    """Indices of the pages that are neither thumbnails nor masks."""
    pages = tiff_directories(file)
    return [k for k, page in enumerate(pages) if not page.is_reduced and not page.is_mask]


def tiff_directories(file: tifffile.TiffFile, most: int | None = None) -> list[tifffile.TiffPage]:
    """All pages of a TIFF file, including thumbnails and masks.

    Args:
        file: the open file.
        most: pages that it may have; None: MOST_PAGES.
    Raises:
        tifffile.TiffFileError: a page links back to an earlier one, so that there is no end; or
            there are too many.
    """
    most = MOST_PAGES if most is None else most
    pages: list[tifffile.TiffPage] = []
    seen: set[int] = set()
    for page in file.pages:
        if page.offset in seen:
            raise tifffile.TiffFileError("its pages form a loop")
        if len(pages) == most:
            raise tifffile.TiffFileError(f"it has more than {most} pages")
        seen.add(page.offset)
        pages.append(page.aspage())
    return pages


def tiff_pages(path: Path) -> list[int]:
    """Indices of the pictures in a TIFF file, not counting thumbnails and masks.

    Returns:
        [0] for a damaged file, so that reading the page reports the damage.
    Raises:
        StackError: the file cannot be opened.
    """
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        with tifffile.TiffFile(path) as file:
            return _pictures_in(file) or [0]
    except OSError as error:
        raise StackError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception:  # as in decode_tiff
        return [0]


def _to_grey_or_rgb(
    page: tifffile.TiffPage, samples: np.ndarray, profile: bytes | None, path: object
) -> tuple[np.ndarray, bytes | None, str | None]:
    """The samples of a page as a picture.

    Returns:
        (picture, profile, note): (H, W, C) uint8 or uint16, C as in images/formats.py, 0 is black;
        its ICC profile; what was changed.
    Raises:
        StackError: the samples are of a kind that has no faithful form here.
    """
    kind = _kind_of(page)
    samples = _to_8_or_16_bits(page, _channels_last(page, samples, path), path)
    channels = samples.shape[2]
    if kind == "SEPARATED" and channels == 4 and samples.dtype == np.uint8:
        return _from_cmyk(samples, profile), None, CMYK_NOTE
    # JPEG in TIFF is YCbCr in the file; the decoder has already turned it into RGB.
    is_jpeg = page.compression == tifffile.COMPRESSION.JPEG
    colour = kind in ("RGB", "PALETTE") or (kind == "YCBCR" and is_jpeg)
    grey = kind in ("MINISBLACK", "MINISWHITE")
    if not (colour and channels in (3, 4)) and not (grey and channels in (1, 2)):
        raise StackError(
            f"{path} holds {channels} channels of {page.bitspersample} bits of kind {kind}: "
            "export it as grey or RGB"
        )
    if kind == "MINISWHITE":
        samples = samples.copy()
        samples[..., 0] = np.iinfo(samples.dtype).max - samples[..., 0]
    return samples, profile, None


def _kind_of(page: tifffile.TiffPage) -> str:
    """The name of a page's photometric interpretation, or its number if it has no name."""
    try:
        return tifffile.PHOTOMETRIC(page.photometric).name
    except ValueError:
        return str(page.photometric)


def _channels_last(page: tifffile.TiffPage, samples: np.ndarray, path: object) -> np.ndarray:
    """The samples of a page as (H, W, C)."""
    if page.axes == "SYX":  # planar
        return samples.transpose(1, 2, 0)
    if page.axes == "YX":
        return samples[..., None]
    if page.axes != "YXS":
        raise StackError(
            f"{path} holds a volume (axes {page.axes}): save each picture as a separate file"
        )
    return samples


def _to_8_or_16_bits(page: tifffile.TiffPage, samples: np.ndarray, path: object) -> np.ndarray:
    """Samples (H, W, C) as uint8 or uint16: single bits as 0 and 255, palettes looked up."""
    bits, colours = page.bitspersample, page.colormap
    if samples.dtype == bool:
        return samples.astype(np.uint8) * 255
    if _kind_of(page) == "PALETTE" and colours is not None and samples.dtype == np.uint8:
        return (colours.T[samples[..., 0]] >> 8).astype(np.uint8)  # (H, W, 3)
    if samples.dtype not in (np.uint8, np.uint16) or bits != 8 * samples.itemsize:
        raise StackError(
            f"{path} holds {bits}-bit {samples.dtype} samples: export it with 8 or 16 bits"
        )
    return samples


def _from_cmyk(samples: np.ndarray, profile: bytes | None) -> np.ndarray:
    """CMYK (H, W, 4) uint8, 255 is full ink, to RGB: by its profile, or plainly without one."""
    height, width, _ = samples.shape
    image = Image.frombytes("CMYK", (width, height), np.ascontiguousarray(samples).tobytes())
    try:
        return rgb_by_profile(image, profile or b"")
    except (OSError, ValueError, ImageCms.PyCMSError):
        return np.asarray(image.convert("RGB"))


def encode_tiff(picture: np.ndarray, metadata: Metadata, file: BinaryIO) -> None:
    """Write a TIFF file, deflate-compressed.

    Args:
        picture: (H, W, C) uint8 or uint16, C as in images/formats.py.
        metadata: corrected for this picture; EXIF is left out of a file beyond 4 GB, and a
            resolution that is no positive number.
        file: open for reading and writing, empty.
    Raises:
        ValueError, OSError, struct.error: the picture cannot be encoded.
    """
    channels = picture.shape[2]
    tags, directories = tiff_tags(metadata.exif) if metadata.exif else ({}, {})
    unit_tags = (X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT)  # written by tifffile's own options
    x_resolution, y_resolution, unit = (tags.pop(code, (0, None))[1] for code in unit_tags)
    has_resolution = _is_positive(x_resolution) and _is_positive(y_resolution)
    tifffile.imwrite(
        file,
        picture if channels > 1 else picture[..., 0],
        photometric="rgb" if channels >= 3 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression="zlib",
        predictor=True,
        iccprofile=metadata.profile,
        metadata=None,
        software=False,
        byteorder="<",
        extratags=_extra_tags(tags, metadata.xmp, directories),
        resolution=(x_resolution, y_resolution) if has_resolution else None,
        resolutionunit=unit,
    )
    _append_directories(file, directories)


def lost_in_tiff(metadata: Metadata) -> list[str]:
    """A sentence on what `encode_tiff` leaves out of the metadata; none if it keeps everything."""
    tags, _ = tiff_tags(metadata.exif) if metadata.exif else ({}, {})
    odd = [code for code in (X_RESOLUTION, Y_RESOLUTION) if code in tags]
    if all(_is_positive(tags[code][1]) for code in odd):
        return []
    return ["the resolution in EXIF is not a positive number: it is left out"]


def _is_positive(value: Any) -> bool:
    """Whether a value of EXIF is one positive number; 300/0, for example, is not."""
    try:
        return 0 < float(value) < float("inf")
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return False


def _extra_tags(
    tags: dict[int, tuple[int, Any]], xmp: bytes | None, directories: dict[int, Any]
) -> list[tuple[int, int, int, Any, bool]]:
    """Tags as tifffile's option `extratags` takes them: (code, type, count, value, first page)."""
    extra = [
        (code, kind, len(value) if isinstance(value, bytes) else 1, value, True)
        for code, (kind, value) in tags.items()
    ]
    if xmp:
        extra.append((XMP, BYTE, len(xmp), xmp, True))
    # tifffile cannot write directories of EXIF. The tag after each reserves the place of its
    # pointer, see _append_directories.
    extra += [(code + 1, LONG, 1, 0, True) for code in directories]
    return extra


def _says_more(page: tifffile.TiffPage) -> bool:
    """Whether a page has a description, a program or a resolution that is worth carrying over."""
    tags = page.tags
    texts = {number: tags[number].value for number in (DESCRIPTION, SOFTWARE) if number in tags}
    described = description_for(texts.get(DESCRIPTION, b""))
    program = texts.get(SOFTWARE, "")
    sized = X_RESOLUTION in tags and tags[X_RESOLUTION].value not in ((1, 1), (0, 1), (0, 0))
    return bool(described or sized or (program and program != "tifffile.py"))


def _append_directories(buffer: BinaryIO, directories: dict[int, Any]) -> None:
    """Append EXIF directories to a TIFF file, and point the reserved tags to them."""
    buffer.seek(0)
    with tifffile.TiffFile(buffer) as file:
        first = file.pages[0].aspage()
        offsets = {} if file.is_bigtiff else {tag.code: tag.offset for tag in first.tags}
    for code, directory in directories.items():
        if code + 1 in offsets:
            at = buffer.seek(0, io.SEEK_END)
            at += buffer.write(bytes(at % 2))
            buffer.write(tiff_directory(directory, code, at))
            buffer.seek(offsets[code + 1])
            buffer.write(struct.pack("<HHII", code, LONG, 1, at))
