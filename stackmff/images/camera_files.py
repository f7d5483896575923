"""What cameras write besides JPEG: RAW by rawpy, HEIC by pillow-heif, if they are installed."""

import importlib
import io
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from stackmff.errors import StackError
from stackmff.images.decoded import in_full_range
from stackmff.images.metadata import Metadata, exif_for

HEIF_SUFFIXES = (".heic", ".heif", ".hif")
RAW_SUFFIXES = (
    ".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".rwl", ".raf", ".pef", ".srw",
    ".3fr", ".iiq", ".x3f",
)  # fmt: skip
LIBRAW_TURNS = {3: 3, 5: 8, 6: 6}  # LibRaw's code of a rotation: EXIF's orientation
HEIF_STARTS = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"hevc", b"heim", b"mif1"))


def _optional(module: str, path: object) -> Any:
    """A module of the extra `formats`; StackError if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.replace("_", "-")
        raise StackError(f'{path} needs {package}: pip install "stackmff[formats]"') from error


def read_raw(data: bytes, path: object) -> tuple[np.ndarray, Metadata, int]:
    """Develop a camera's RAW file.

    Args:
        data: the file's content.
        path: its name in error messages.
    Returns:
        (picture, metadata, orientation): (H, W, 3) uint16 in sRGB, not yet turned upright, with the
        camera's white balance and an exposure that does not depend on the content.
    Raises:
        StackError: rawpy is not installed, or the file cannot be developed.
    """
    rawpy = _optional("rawpy", path)
    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            orientation = LIBRAW_TURNS.get(raw.sizes.flip, 1)  # postprocess sets it to 0
            picture = raw.postprocess(
                user_flip=0,
                output_bps=16,
                output_color=rawpy.ColorSpace.sRGB,
                gamma=(2.4, 12.92),  # sRGB's
                use_camera_wb=True,
                # Otherwise LibRaw would choose the exposure of each frame by its content.
                no_auto_bright=True,
                adjust_maximum_thr=0.0,
            )
            exif = exif_for(data, *picture.shape[1::-1]) or _exif_of_preview(raw)
    except Exception as error:  # LibRaw's and rawpy's errors have no common class
        raise StackError(
            f"{path} cannot be developed ({error}): copy it again, or export it as 16-bit TIFF"
        ) from error
    return picture, Metadata(exif), orientation


def _exif_of_preview(raw: Any) -> bytes | None:
    """EXIF of the JPEG preview in a RAW file that is not based on TIFF; None if there is none."""
    try:
        exif: bytes = Image.open(io.BytesIO(raw.extract_thumb().data)).info["exif"]
        return exif.removeprefix(b"Exif\0\0")
    except Exception:  # no preview, a preview of plain pixels, or one without EXIF
        return None


def declared_heif(source: BinaryIO) -> tuple[int, int, int] | None:
    """(width, height, bytes per pixel) that a HEIC file declares of its main picture.

    Returns:
        None if pillow-heif is not installed, or cannot open it.
    """
    try:
        file = importlib.import_module("pillow_heif").open_heif(source, convert_hdr_to_8bit=False)
    except Exception:  # reading the file reports it
        return None
    channels = 4 if file.has_alpha else 3
    return *file.size, channels * (2 if file.info.get("bit_depth", 8) > 8 else 1)


def exif_of_heif(source: BinaryIO) -> bytes:
    """The EXIF block of a HEIC file; empty if it has none, or pillow-heif is not installed."""
    try:
        block = importlib.import_module("pillow_heif").open_heif(source).info.get("exif")
    except Exception:  # reading the file reports it
        return b""
    return bytes(block or b"").removeprefix(b"Exif\0\0")


def read_heif(data: bytes, path: object) -> tuple[np.ndarray, Metadata]:
    """Read the main picture of a HEIC file.

    Args:
        data: the file's content.
        path: its name in error messages.
    Returns:
        (picture, metadata): (H, W, C) upright, uint8, or uint16 if the file has 10 or 12 bits.
    Raises:
        StackError: pillow-heif is not installed, or the file cannot be read.
    """
    pillow_heif = _optional("pillow_heif", path)
    try:
        file = pillow_heif.open_heif(
            io.BytesIO(data), convert_hdr_to_8bit=False, hdr_to_16bit=False
        )
        picture = np.asarray(file)
    except Exception as error:  # libheif's errors come in several classes
        raise StackError(
            f"{path} is cut short, damaged or an unknown kind of HEIC "
            f"({str(error).splitlines()[0]}): export or copy it again"
        ) from error
    picture = picture.reshape(*picture.shape[:2], -1)  # (H, W, C)
    if picture.dtype == np.uint16:
        picture = in_full_range(picture, file.info["bit_depth"])
    exif = (file.info.get("exif") or b"").removeprefix(b"Exif\0\0")
    xmp, profile = (file.info.get(name) or None for name in ("xmp", "icc_profile"))
    return picture, Metadata(exif or None, xmp, profile)
