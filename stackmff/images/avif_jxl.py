"""AVIF and JPEG XL, which imagecodecs decodes where it is built with them."""

import importlib
import io
import struct
from typing import Any

import numpy as np
from PIL import Image

from stackmff.errors import StackError
from stackmff.images.boxes import boxes
from stackmff.images.damage import damage_in_heif, refused_or_told
from stackmff.images.decoded import Decoded, in_full_range
from stackmff.images.hdr import TRANSFERS, bits_of, coding_of, tone_mapped
from stackmff.images.metadata import Metadata, orientation_of

AVIF_SUFFIX, JXL_SUFFIX = ".avif", ".jxl"
JXL_STARTS = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")  # a bare stream, a container
RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height, in a JXL
UNTOLD = "its colour profile is not read: sRGB is assumed"


def is_avif(data: bytes) -> bool:
    """Whether the content of a file is AVIF."""
    length = int.from_bytes(data[:4], "big")
    return data[4:8] == b"ftyp" and any(
        data[k : k + 4] in (b"avif", b"avis") for k in range(8, min(length, 200), 4)
    )


def read_avif(data: bytes, path: object, lenient: bool = False) -> Decoded:
    """Read an AVIF; 10 and 12 bits become 16, high dynamic range becomes sRGB.

    Args:
        data: the content of the file.
        path: its name in error messages.
        lenient: see formats.decode.
    Raises:
        StackError: it cannot be read, is damaged, or is an animation.
    """
    note = refused_or_told(path, damage_in_heif(data), lenient)
    picture = _decoded(data, path, "AVIF")
    exif, xmp, profile = None, None, None
    try:
        with Image.open(io.BytesIO(data), formats=("AVIF",)) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise StackError(f"{path} is an animation: save each picture as a separate file")
            found = [image.info.get(name) for name in ("exif", "xmp", "icc_profile")]
            exif, xmp, profile = (bytes(one) if one else None for one in found)
    except (OSError, SyntaxError, ValueError):
        note = note or UNTOLD  # this Pillow has no AVIF
    exif = exif and exif.removeprefix(b"Exif\0\0")
    bits = bits_of(data)
    if picture.dtype == np.uint16 and bits is not None:
        picture = in_full_range(picture, bits)
    picture, profile, note = as_srgb(data, picture, profile, note)
    return Decoded(picture, Metadata(exif, xmp, profile), orientation_of(exif), note)


def as_srgb(
    data: bytes, picture: np.ndarray, profile: bytes | None, note: str | None
) -> tuple[np.ndarray, bytes | None, str | None]:
    """A picture of a HEIC or AVIF in sRGB, if it has high dynamic range; else as it is.

    Args:
        data: the content of the file.
        picture: (H, W, C) of the full range.
        profile, note: what is known of it so far.
    Returns:
        (picture, profile, note): without a profile if it was changed.
    """
    try:
        coding = coding_of(data)
    except (ValueError, struct.error):
        coding = None
    if coding is None or coding[1] not in TRANSFERS or picture.shape[2] < 3:
        return picture, profile, note
    told = f"high dynamic range ({TRANSFERS[coding[1]]}) was mapped to sRGB, 203 cd/m2 to 80 %"
    return tone_mapped(picture, *coding), None, note or told


def read_jxl(data: bytes, path: object) -> Decoded:
    """Read a JPEG XL.

    Args:
        data: the content of the file.
        path: its name in error messages.
    Raises:
        StackError: it cannot be read, holds floats, or is an animation.
    """
    picture = _decoded(data, path, "JPEGXL")
    exif = _box(data, b"Exif")
    # The block begins with the offset of its TIFF header.
    exif = exif[4 + int.from_bytes(exif[:4], "big") :] if exif else None
    # libjxl turns the picture upright itself.
    return Decoded(picture, Metadata(exif, _box(data, b"xml ")), 1, UNTOLD)


def _decoded(data: bytes, path: object, name: str) -> np.ndarray:
    """The picture (H, W, C) that a codec of imagecodecs makes of a file."""
    imagecodecs: Any = importlib.import_module("imagecodecs")  # it takes a moment
    if not getattr(imagecodecs, name).available:
        raise StackError(f"{path} needs an imagecodecs with {name}: pip install imagecodecs")
    try:
        picture: np.ndarray = getattr(imagecodecs, f"{name.lower()}_decode")(data)
    except Exception as error:  # each codec has an error of its own
        raise StackError(
            f"{path} is cut short, damaged or an unknown kind of {name} ({error}): "
            "export or copy it again"
        ) from error
    picture = picture[..., None] if picture.ndim == 2 else picture
    if picture.ndim != 3 or picture.shape[2] > 4:
        raise StackError(f"{path} is an animation: save each picture as a separate file")
    if picture.dtype not in (np.uint8, np.uint16):
        raise StackError(f"{path} holds {picture.dtype} samples: export it with 8 or 16 bits")
    return picture


def _box(data: bytes, kind: bytes) -> bytes | None:
    """The content of a box of a JPEG XL; None if it has none or is a bare stream."""
    try:
        for found, start, end in boxes(data, 0, len(data)):
            if found == kind:
                return data[start:end]
    except (ValueError, struct.error):
        pass
    return None


def size_of_jxl(data: bytes) -> tuple[int, int] | None:
    """(width, height) that the start of a JPEG XL declares; None if it cannot be read.

    Source: ISO/IEC 18181-1, SizeHeader.
    """
    at = data.find(JXL_STARTS[0])
    if at < 0 or len(data) < at + 4:
        return None
    bits = int.from_bytes(data[at + 2 : at + 14], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & (1 << count) - 1, bits >> count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    height = side()
    ratio = take(3)
    if ratio == 0:
        return side(), height
    across, down = RATIOS[ratio - 1]
    return height * across // down, height
