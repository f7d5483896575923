"""Picture files to arrays with their metadata, and back.

In the program a picture is RGB, (H, W, C) uint8 or uint16: C = 1 grey, 2 grey + alpha, 3 RGB,
4 RGBA. OpenCV's BGR ends here. OpenCV decodes PNG, JPEG, WebP and BMP: of the decoders that were
tried it alone rejects a file cut at any byte. TIFF is in tiff.py, RAW and HEIC are in
camera_files.py.
"""

import io
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from stackmff.errors import StackError, in_one_sentence
from stackmff.files import atomic_path, read_bytes
from stackmff.images.avif_jxl import (
    AVIF_SUFFIX,
    JXL_STARTS,
    JXL_SUFFIX,
    as_srgb,
    is_avif,
    read_avif,
    read_jxl,
)
from stackmff.images.camera_files import (
    HEIF_STARTS,
    HEIF_SUFFIXES,
    RAW_SUFFIXES,
    read_heif,
    read_raw,
)
from stackmff.images.colour import rgb_by_profile
from stackmff.images.damage import damage_in_bmp, damage_in_heif, damage_in_webp, refused_or_told
from stackmff.images.decoded import CMYK_NOTE, Decoded, Embedded, upright
from stackmff.images.headers import declared_by
from stackmff.images.iptc import iptc_of_jpeg, xmp_of_iptc
from stackmff.images.jpeg import JPEG_START, damage_in
from stackmff.images.metadata import (
    Metadata,
    metadata_for,
    orientation_of,
    resolution_of,
    with_resolution,
)
from stackmff.images.png import (
    PNG_GREY_ALPHA,
    PNG_HEADER,
    PNG_START,
    STRIP,
    png_by_strips,
    png_is_whole,
    png_resolution,
    resolution_chunk,
)
from stackmff.images.stack_files import TIFF_SUFFIXES, FramePath
from stackmff.images.tiff import TIFF_STARTS, decode_tiff, encode_tiff, lost_in_tiff

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")  # read and written
READ_SUFFIXES = (*PICTURE_SUFFIXES, *HEIF_SUFFIXES, AVIF_SUFFIX, JXL_SUFFIX, *RAW_SUFFIXES)
FORMATS = {"png": ".png", "jpg": ".jpg", "tif": ".tif", "bmp": ".bmp", "webp": ".webp"}
LARGE = 2**28  # bytes of a picture of which no copy is made to write it
XMP_IN_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
BLOCK_NAMES = {"exif": "the EXIF block", "xmp": "the XMP packet", "profile": "the colour profile"}


def decode(
    path: str | Path | Embedded, orientation: int | None = None, lenient: bool = False
) -> Decoded:
    """Read one picture completely, and turn it upright.

    Args:
        path: a JPEG, PNG, TIFF, BMP, WebP, HEIC or RAW file; the content decides, not the suffix,
            except for RAW. Or a picture inside a file.
        orientation: EXIF orientation to use in place of the file's own.
        lenient: take a file whose compressed data are damaged, with a note.
    Returns:
        Decoded. Palettes are looked up, 1-bit pictures become 0 and 255, 8-bit CMYK becomes RGB
        (by its profile if it has one), 10 and 12 bits of HEIC become 16. RAW is developed to
        16-bit sRGB with the camera's white balance and a fixed exposure.
    Raises:
        StackError: the file cannot be read, is cut short, damaged or not a picture, is of a kind
            that has no faithful form here (floats, several pages, an animation, Lab), or needs a
            package that is not installed.
    """
    if not isinstance(path, (str, Path)):
        with in_one_sentence(path):
            return path.decode(orientation, lenient)
    if _is_tiff(path):  # it is decoded from the file, which need not be in memory
        with in_one_sentence(path), open(path, "rb") as source:
            return upright(decode_tiff(source, path, lenient=lenient), orientation)
    return decode_bytes(read_bytes(path), path, orientation, lenient)


def _is_tiff(path: str | Path) -> bool:
    """Whether a file is to be decoded as a TIFF; False if it cannot be read, which is reported."""
    if Path(path).suffix.lower() in RAW_SUFFIXES:
        return False
    try:
        with open(path, "rb") as source:
            return source.read(4) in TIFF_STARTS
    except OSError:
        return False


def decode_bytes(
    data: bytes, path: object, orientation: int | None = None, lenient: bool = False
) -> Decoded:
    """Read the content of a picture file.

    Args:
        data: of the file.
        path: the file's name, for its suffix and for error messages.
        orientation, lenient: as of `decode`, which also tells what is returned and raised.
    """
    with in_one_sentence(path):
        if Path(str(path)).suffix.lower() in RAW_SUFFIXES:
            decoded = Decoded(*read_raw(data, path))
        elif data.startswith(TIFF_STARTS):
            decoded = decode_tiff(io.BytesIO(data), path, lenient=lenient)
        elif is_avif(data):
            decoded = read_avif(data, path, lenient)
        elif data[4:12] in HEIF_STARTS:
            note = refused_or_told(path, damage_in_heif(data), lenient)
            picture, metadata = read_heif(data, path)
            picture, profile, note = as_srgb(data, picture, metadata.profile, note)
            decoded = Decoded(picture, replace(metadata, profile=profile), note=note)
        elif data.startswith(JXL_STARTS):
            decoded = read_jxl(data, path)
        else:
            decoded = _decode_opencv(data, path, lenient)
        return upright(decoded, orientation)


def read_picture(path: str | Path | Embedded) -> np.ndarray:
    """Only the picture of a file, (H, W, C) uint8 or uint16; arguments and errors as `decode`."""
    return decode(path).picture


def _decode_opencv(data: bytes, path: object, lenient: bool) -> Decoded:
    """Read a PNG, JPEG, WebP or BMP as it is stored."""
    damaged = StackError(
        f"{path} is not a picture, is cut short or damaged: export or copy it again"
    )
    if data.startswith(PNG_START) and not png_is_whole(data):
        raise damaged  # checked here, because libpng would print a line of its own
    header = declared_by(data)
    if header is not None and len(data) < header.least_bytes:
        raise damaged  # before memory for all that it declares is taken
    # A damaged file is reported by the StackError alone, without OpenCV's own lines.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        picture, kinds, chunks = cv2.imdecodeWithMetadata(
            np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED
        )
    except cv2.error as error:
        raise damaged from error
    if picture is None:
        raise damaged
    damage = None
    if data.startswith(JPEG_START):
        damage = damage_in(data)
    elif data.startswith(b"RIFF"):
        damage = damage_in_webp(data)
    elif data.startswith(b"BM"):
        damage = damage_in_bmp(data)
    note = refused_or_told(path, damage, lenient)
    if _is_animation(data):
        raise StackError(f"{path} is an animation: save each picture as a separate file")
    if picture.dtype not in (np.uint8, np.uint16):
        raise StackError(f"{path} holds {picture.dtype} samples: export it with 8 or 16 bits")
    blocks = {kind: chunk.tobytes() for kind, chunk in zip(kinds, chunks)}
    exif = blocks.get(cv2.IMAGE_METADATA_EXIF)
    xmp = blocks.get(cv2.IMAGE_METADATA_XMP, b"").removeprefix(XMP_IN_JPEG)
    profile = blocks.get(cv2.IMAGE_METADATA_ICCP)
    picture = _from_bgr(picture, data)
    if profile is not None and profile[16:20] == b"CMYK":  # OpenCV converts without the profile
        picture, profile = _jpeg_by_profile(data, picture, profile), None
        note = note or CMYK_NOTE
    orientation = orientation_of(exif)
    if data.startswith(PNG_START) and (per_metre := png_resolution(data)) is not None:
        exif = with_resolution(exif, per_metre)
    if not xmp and data.startswith(JPEG_START):
        xmp = xmp_of_iptc(iptc_of_jpeg(data)) or b""
    return Decoded(picture, Metadata(exif, xmp or None, profile), orientation, note)


def _from_bgr(picture: np.ndarray, data: bytes) -> np.ndarray:
    """OpenCV's picture, (H, W) or (H, W, C), in the program's order of channels."""
    if picture.ndim == 2:
        return picture[..., None]  # (H, W, 1)
    if data.startswith(PNG_START) and data[25] == PNG_GREY_ALPHA:
        return picture[..., [0, 3]]
    code = cv2.COLOR_BGR2RGB if picture.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    for top in range(0, len(picture), STRIP):  # in place, for a second one may be too large
        picture[top : top + STRIP] = cv2.cvtColor(picture[top : top + STRIP], code)
    return picture


def _is_animation(data: bytes) -> bool:
    """Whether a PNG, WebP or GIF file holds several pictures."""
    if data.startswith(PNG_START):
        return b"acTL" in data[: data.find(b"IDAT")]
    if data.startswith(b"RIFF"):
        return data[12:16] == b"VP8X" and bool(data[20] & 2)
    return data.startswith(b"GIF8") and getattr(Image.open(io.BytesIO(data)), "n_frames", 1) > 1


def _jpeg_by_profile(data: bytes, picture: np.ndarray, profile: bytes) -> np.ndarray:
    """A CMYK JPEG by its profile; if that fails, the picture as it was decoded without."""
    try:
        image = Image.open(io.BytesIO(data))
        return rgb_by_profile(image, profile) if image.mode == "CMYK" else picture
    except (OSError, ValueError, ImageCms.PyCMSError, Image.DecompressionBombError):
        return picture


def loses(suffix: str, picture: np.ndarray) -> str | None:
    """What a format cannot keep of a picture, as a sentence; None if it keeps everything.

    Args:
        suffix: of the file, with its dot, in any case, such as ".jpg".
        picture: (H, W, C) or (H, W), uint8 or uint16.
    """
    suffix = suffix.lower()
    lost = []
    if picture.dtype == np.uint16 and suffix in (".jpg", ".jpeg", ".bmp", ".webp"):
        lost.append("16 bits are rounded to 8")
    channels = picture.shape[2] if picture.ndim == 3 else 1
    if channels in (2, 4) and suffix in (".jpg", ".jpeg", ".bmp"):
        lost.append("alpha is dropped")
    return f"{' and '.join(lost)} in {suffix[1:].upper()}: PNG and TIFF keep it" if lost else None


def to_8_bits(picture: np.ndarray) -> np.ndarray:
    """A uint8 or uint16 picture as uint8, rounded.

    8-bit frames that were multiplied to 16 bits and fused give what fusing them in 8 bits gives.
    """
    if picture.dtype == np.uint8:
        return picture
    out = np.empty(picture.shape, np.uint8)
    for top in range(0, len(picture), STRIP):
        out[top : top + STRIP] = (picture[top : top + STRIP].astype(np.uint32) + 128) // 257
    return out


def suffix_like(path: FramePath) -> str:
    """Suffix of a result in the format of this frame; .png if that format cannot be written."""
    suffix = path.suffix.lower()
    return suffix if suffix in PICTURE_SUFFIXES else ".png"


def result_suffix(out_format: str | None, paths: Sequence[FramePath]) -> str:
    """Suffix of the fused picture.

    Args:
        out_format: a name of FORMATS; None: png; "same": the format of the first frame.
        paths: of the frames.
    """
    return suffix_like(paths[0]) if out_format == "same" else FORMATS[out_format or "png"]


def same_format(suffix: str, other: str) -> bool:
    """Whether two suffixes of PICTURE_SUFFIXES, in any case, stand for one format."""
    short = {".jpeg": ".jpg", ".tiff": ".tif"}
    suffix, other = suffix.lower(), other.lower()
    return suffix in PICTURE_SUFFIXES and short.get(suffix, suffix) == short.get(other, other)


def write_picture(
    path: str | Path,
    picture: np.ndarray,
    metadata: Metadata | None = None,
    durable: bool = True,
    quality: int | None = None,
) -> list[str]:
    """Write a picture in the format of the suffix, atomically.

    PNG, TIFF, BMP and WebP are lossless, JPEG has quality 95 with full chroma. What a format
    cannot keep is rounded or dropped, as `loses` tells.

    Args:
        path: ends in one of PICTURE_SUFFIXES, in any case; its folder is created if missing.
        picture: (H, W, C) or (H, W), uint8 or uint16, C as at the top of this file.
        metadata: Metadata to carry over, corrected for this picture. Left out are damaged blocks,
            a profile of another colour space, and what the format has no place for: everything in
            BMP, blocks beyond 64 KB in JPEG, EXIF in TIFF files beyond 4 GB.
        durable: see files.atomic_path.
        quality: of JPEG and WebP, 1 to 100; None: JPEG has 95, WebP is lossless.
    Returns:
        A sentence on each block of the metadata that was left out.
    Raises:
        StackError: the suffix is unknown, the picture is too large for the format, or the file
            cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in PICTURE_SUFFIXES:
        raise StackError(f"{path} has no picture suffix: use {' '.join(PICTURE_SUFFIXES)}")
    picture = picture.reshape(*picture.shape[:2], -1)  # (H, W, C)
    metadata, notes = metadata_for(metadata, picture)
    metadata, unfit = _that_fits(suffix, metadata, picture.shape[2])
    height, width = picture.shape[:2]
    with atomic_path(path, durable) as temporary, open(temporary, "w+b") as file:
        try:
            _encode(suffix, picture, metadata, file, quality)
        except (cv2.error, ValueError, struct.error) as error:
            raise StackError(
                f"{path}: {width}x{height} cannot be encoded ({error}): use PNG or TIFF"
            ) from error
    return notes + unfit


def _that_fits(suffix: str, metadata: Metadata, channels: int) -> tuple[Metadata, list[str]]:
    """The blocks of metadata that a format takes, found by writing a picture of one pixel.

    So a block that a library cannot write costs the block and not the picture.

    Args:
        suffix: of the file.
        metadata: corrected for the picture.
        channels: of the picture.
    Returns:
        (metadata, notes): notes are sentences on the blocks that were left out.
    """
    name, lost = suffix[1:].upper(), {}
    for block, value in vars(metadata).items():
        if value is not None and not _is_taken(suffix, Metadata(**{block: value}), channels):
            lost[block] = f"{BLOCK_NAMES[block]} cannot be written to {name}: it is left out"
    metadata, notes = replace(metadata, **dict.fromkeys(lost)), list(lost.values())
    return metadata, notes + (lost_in_tiff(metadata) if suffix in TIFF_SUFFIXES else [])


def _is_taken(suffix: str, metadata: Metadata, channels: int) -> bool:
    """Whether a picture of one pixel can be written with these metadata."""
    try:
        _encode(suffix, np.zeros((1, 1, channels), np.uint8), metadata, io.BytesIO())
    except Exception:  # each library raises classes of its own
        return False
    return suffix != ".bmp"


def _encode(
    suffix: str,
    picture: np.ndarray,
    metadata: Metadata,
    file: BinaryIO,
    quality: int | None = None,
) -> None:
    """Write the content of a picture file.

    Args:
        suffix: of PICTURE_SUFFIXES, in lower case.
        picture: (H, W, C).
        metadata: corrected for the picture.
        file: open for reading and writing, empty.
        quality: as of `write_picture`.
    """
    if suffix in TIFF_SUFFIXES:
        encode_tiff(picture, metadata, file)
    elif suffix != ".png":
        file.write(_encode_8_bit(suffix, picture, metadata, quality))
    elif picture.nbytes > LARGE:
        file.writelines(png_by_strips(picture, _png_chunks(metadata, picture.shape[2])))
    else:
        data = _encode_png(picture)
        file.write(data[:PNG_HEADER])
        file.write(_png_chunks(metadata, picture.shape[2]))
        file.write(data[PNG_HEADER:])


def _encode_png(picture: np.ndarray) -> memoryview:
    """A PNG file without metadata."""
    if picture.shape[2] == 2:  # the only kind that OpenCV cannot encode
        from imagecodecs import png_encode

        return memoryview(bytes(png_encode(np.ascontiguousarray(picture))))
    codes = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    code = codes.get(picture.shape[2])
    bgr = picture if code is None else cv2.cvtColor(picture, code)
    return cv2.imencode(".png", bgr)[1].data


def _png_chunks(metadata: Metadata, channels: int) -> bytes:
    """The chunks of a PNG file that hold its metadata, which follow its header.

    They are taken from a picture of one pixel that Pillow writes: OpenCV writes no file if libpng
    rejects the profile, Pillow has no 16-bit colour.
    """
    if metadata == Metadata():
        return b""
    info = PngImagePlugin.PngInfo()
    if metadata.xmp:
        info.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode())
    buffer = io.BytesIO()
    pixel = Image.new("L" if channels <= 2 else "RGB", (1, 1))
    pixel.save(buffer, "PNG", pnginfo=info, **_for_pillow(replace(metadata, xmp=None)))
    written = buffer.getvalue()
    chunks = written[PNG_HEADER : written.rindex(b"IDAT") - 4]
    per_metre = resolution_of(metadata.exif)
    return chunks if per_metre is None else chunks + resolution_chunk(per_metre)


def _encode_8_bit(
    suffix: str, picture: np.ndarray, metadata: Metadata, quality: int | None
) -> memoryview:
    """A JPEG, BMP or WebP file."""
    picture = to_8_bits(picture)
    if suffix != ".webp" and picture.shape[2] in (2, 4):
        picture = picture[..., :-1]
    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    if suffix == ".webp" and picture.shape[2] <= 2:  # WebP has no grey
        metadata = replace(metadata, profile=None)
    carried = _for_pillow(metadata)
    buffer = io.BytesIO()
    try:
        if suffix == ".bmp":
            image.save(buffer, "BMP")
        elif suffix == ".webp" and quality is not None:
            image.save(buffer, "WEBP", quality=quality, method=4, **carried)
        elif suffix == ".webp":
            # More effort takes up to fifteen times as long, and the file is no smaller.
            image.save(buffer, "WEBP", lossless=True, exact=True, quality=0, method=4, **carried)
        else:
            image.save(buffer, "JPEG", quality=quality or 95, subsampling=0, **carried)
    except OSError as error:  # Pillow's own, for there is no file yet
        raise ValueError(str(error)) from error
    return buffer.getbuffer()


def _for_pillow(metadata: Metadata) -> dict[str, Any]:
    """Metadata as arguments of Pillow's save."""
    exif = metadata.exif and b"Exif\0\0" + metadata.exif
    carried = {"exif": exif, "xmp": metadata.xmp, "icc_profile": metadata.profile}
    return {key: value for key, value in carried.items() if value}
