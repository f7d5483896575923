"""One picture file to an array and what it says about itself, and back.

In the program a picture is RGB, (H, W, C) uint8 or uint16: C = 1 grey, 2 grey + alpha, 3 RGB,
4 RGBA. OpenCV's BGR ends here. PNG, JPEG, WebP and BMP are decoded by OpenCV, which alone of the
decoders tried gives no picture for a file cut at any byte; TIFF by tifffile, because OpenCV's
decoder scrambles planar and white-is-zero 16-bit files, drops the alpha of grey ones and
multiplies that of RGBA ones into the colours. RAW goes through rawpy and HEIC through pillow-heif,
where they are installed.
"""

import io
import logging
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from stackmff.errors import StackError
from stackmff.files import read_bytes, write_bytes
from stackmff.images.camera_files import (
    HEIF_STARTS,
    HEIF_SUFFIXES,
    RAW_SUFFIXES,
    read_heif,
    read_raw,
)
from stackmff.images.metadata import (
    EXIF_IFD,
    GPS_IFD,
    ORIENTATION,
    Metadata,
    exif_for,
    metadata_for,
    orientation_of,
    tiff_directory,
    tiff_tags,
)

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")  # read and written
READ_SUFFIXES = (*PICTURE_SUFFIXES, *HEIF_SUFFIXES, *RAW_SUFFIXES)
PNG_START = b"\x89PNG\r\n\x1a\n"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
XMP_IN_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
JPEG_ROOM = {"exif": 65533, "xmp": 65504}  # bytes: each is one segment of a JPEG
CMYK_NOTE = "CMYK was converted to RGB"
FORMATS = {"png": ".png", "jpg": ".jpg", "tif": ".tif", "bmp": ".bmp", "webp": ".webp"}


@dataclass(frozen=True)
class Decoded:
    """A picture file, read.

    Attributes:
        picture: (H, W, C) uint8 or uint16, upright; C as at the top of this file.
        metadata: Metadata of the file, not yet corrected: see metadata.metadata_for.
        orientation: the EXIF orientation from which it was turned upright, 1 to 8.
        note: what was changed beyond that, in a few words, or None.
    """

    picture: np.ndarray
    metadata: Metadata
    orientation: int = 1
    note: str | None = None


def decode(path, orientation=None):
    """Read one picture, every byte of it, upright.

    Args:
        path: a JPEG, PNG, TIFF, BMP, WebP, HEIC or RAW file; its content decides and not its
            suffix, but for RAW. Or one of the frames in a file, see stack_files.Page.
        orientation: EXIF orientation to go by instead of the file's own.
    Returns:
        Decoded. Palettes are looked up, 1-bit pictures become 0 and 255, 8-bit CMYK becomes RGB
        (by its profile where it has one), 10 and 12 bits of HEIC become 16. RAW is developed to
        16-bit sRGB with the camera's white balance and a fixed exposure.
    Raises:
        StackError: the file cannot be read, is cut short, is no picture, is of a kind that has no
            faithful form here (floats, several pages, an animation, Lab), or needs a package that
            is not installed.
    """
    if not isinstance(path, (str, Path)):
        return path.decode(orientation)
    return decode_bytes(read_bytes(path), path, orientation)


def decode_bytes(data, path, orientation=None):
    """Read the bytes of a picture file, wherever they lie.

    Args:
        data: bytes; path: the file's name, for its suffix and in sentences.
        orientation: see `decode`, as for what is returned and raised.
    """
    if Path(str(path)).suffix.lower() in RAW_SUFFIXES:
        decoded = Decoded(*read_raw(data, path))
    elif data.startswith(TIFF_STARTS):
        decoded = decode_tiff(io.BytesIO(data), path)
    elif data[4:12] in HEIF_STARTS:
        decoded = Decoded(*read_heif(data, path))
    else:
        decoded = _decode_opencv(data, path)
    return upright(decoded, orientation)


def read_picture(path):
    """The picture of a file alone, (H, W, C) uint8 or uint16; arguments and errors as `decode`."""
    return decode(path).picture


def upright(decoded, orientation=None):
    """Turn and mirror as EXIF orientation 1 to 8 asks, the file's own or this one; others are 1."""
    orientation = decoded.orientation if orientation is None else orientation
    picture = decoded.picture
    if orientation in (5, 6, 7, 8):
        picture = picture.transpose(1, 0, 2)  # (W, H, C)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return replace(decoded, picture=np.ascontiguousarray(picture))


def _decode_opencv(data, path):
    """Decoded, not yet upright, of a PNG, JPEG, WebP or BMP."""
    damaged = StackError(f"{path} is no picture, is cut short or damaged: export or copy it again")
    if data.startswith(PNG_START) and not _png_is_whole(data):
        raise damaged  # said here, because libpng would add a line of its own
    # A damaged file ends in one sentence of ours: OpenCV's own lines about it stay out.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        picture, kinds, chunks = cv2.imdecodeWithMetadata(
            np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED
        )
    except cv2.error as error:
        raise damaged from error
    if picture is None:
        raise damaged
    if _is_animation(data):
        raise StackError(f"{path} is an animation: save each picture as a file of its own")
    if picture.dtype not in (np.uint8, np.uint16):
        raise StackError(f"{path} holds {picture.dtype} samples: export it with 8 or 16 bits")
    blocks = {kind: chunk.tobytes() for kind, chunk in zip(kinds, chunks)}
    exif = blocks.get(cv2.IMAGE_METADATA_EXIF)
    xmp = blocks.get(cv2.IMAGE_METADATA_XMP, b"").removeprefix(XMP_IN_JPEG)
    profile, note = blocks.get(cv2.IMAGE_METADATA_ICCP), None
    if picture.ndim == 2:
        picture = picture[..., None]  # (H, W, 1)
    elif picture.shape[2] == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    elif data.startswith(PNG_START) and data[25] == 4:  # colour type 4 is grey with alpha
        picture = picture[..., [0, 3]]
    else:
        picture = cv2.cvtColor(picture, cv2.COLOR_BGRA2RGBA)
    if profile is not None and profile[16:20] == b"CMYK":  # OpenCV converts without a profile
        picture, profile, note = _jpeg_by_profile(data, picture, profile), None, CMYK_NOTE
    return Decoded(picture, Metadata(exif, xmp or None, profile), orientation_of(exif), note)


def _png_is_whole(data):
    """Whether the chunks of a PNG go through to its end mark."""
    position = len(PNG_START)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        position += 12 + length
        if kind == b"IEND":
            return position <= len(data)
    return False


def _is_animation(data):
    if data.startswith(PNG_START):
        return b"acTL" in data[: data.find(b"IDAT")]
    if data.startswith(b"RIFF"):
        return data[12:16] == b"VP8X" and bool(data[20] & 2)
    return data.startswith(b"GIF8") and Image.open(io.BytesIO(data)).is_animated


def _jpeg_by_profile(data, picture, profile):
    """A JPEG in CMYK by its profile; the picture as it was decoded without where that fails."""
    try:
        image = Image.open(io.BytesIO(data))
        return _by_profile(image, profile) if image.mode == "CMYK" else picture
    except (OSError, ValueError, ImageCms.PyCMSError, Image.DecompressionBombError):
        return picture


def _by_profile(image, profile):
    """Pillow's CMYK image to (H, W, 3) uint8 in sRGB."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    target = ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.profileToProfile(image, source, target, outputMode="RGB"))


def decode_tiff(source, path, index=None):
    """Decoded, not yet upright, of one picture in a TIFF file.

    Args:
        source: the open binary file.
        path: its name in sentences.
        index: of the page; None: the file's one picture, thumbnails and masks do not count.
    Raises:
        StackError: as in `decode`; or there is more than one picture and no index.
    """
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # our own sentence is enough
    try:
        with tifffile.TiffFile(source) as file:
            found = (_pictures_in(file) or [0]) if index is None else [index]
            page = file.pages[found[0]].aspage()
            ends = [sum(part) for part in zip(page.dataoffsets, page.databytecounts)]
            whole = max(ends, default=0) <= source.seek(0, 2) and not _lost_tags(file, page)
            samples = page.asarray() if whole else np.empty(0)
            numbers = (ORIENTATION, 700, 34675, EXIF_IFD, GPS_IFD, 271)
            tags = {number: page.tags[number].value for number in numbers if number in page.tags}
            exif = None
            if {EXIF_IFD, GPS_IFD, 271} & set(tags):
                exif = exif_for(source, page.imagewidth, page.imagelength, page.offset)
    except Exception as error:  # each codec has its own classes of errors
        raise StackError(
            f"{path} is cut short, damaged or of an unknown kind of TIFF ({error}): "
            "export or copy it again"
        ) from error
    if samples.size == 0:
        raise StackError(f"{path} is cut short: export or copy it again")
    if len(found) > 1:
        raise StackError(
            f"{path} holds {len(found)} pictures: give this file as the stack, or save each as a "
            "file of its own"
        )
    picture, profile, note = _tiff_colours(page, samples, tags.get(34675), path)
    xmp = tags.get(700)
    metadata = Metadata(exif, xmp if isinstance(xmp, bytes) else None, profile)
    return Decoded(picture, metadata, tags.get(ORIENTATION, 1), note)


def _pictures_in(file):
    """Indices of the pages of a tifffile.TiffFile that are neither thumbnails nor masks."""
    pages = tiff_directories(file)
    return [k for k, page in enumerate(pages) if not page.is_reduced and not page.is_mask]


def tiff_directories(file):
    """All pages of a tifffile.TiffFile, thumbnails and masks too.

    Raises:
        tifffile.TiffFileError: one leads back to one before it, and so on without an end.
    """
    pages, seen = [], set()
    for page in file.pages:
        if page.offset in seen:
            raise tifffile.TiffFileError("its pages lead round in a circle")
        seen.add(page.offset)
        pages.append(page.aspage())
    return pages


def tiff_pages(path):
    """Indices of the pictures in a TIFF file; [0] where that cannot be told, so that reading it
    says what is wrong. StackError where the file cannot be opened."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        with tifffile.TiffFile(path) as file:
            return _pictures_in(file) or [0]
    except OSError as error:
        raise StackError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception:  # as in decode_tiff
        return [0]


def _lost_tags(file, page):
    """Tags of the page that tifffile passed over because their values lie beyond a cut."""
    format, handle = file.tiff, file.filehandle
    handle.seek(page.offset)
    (count,) = struct.unpack(format.tagnoformat, handle.read(format.tagnosize))
    entries = handle.read(count * format.tagsize)
    codes = {
        struct.unpack_from(format.byteorder + "H", entries, k * format.tagsize)[0]
        for k in range(count)
    }
    matter = {258, 34675}  # bits per sample, ICC profile: without the others it raises
    return codes & matter - {tag.code for tag in page.tags}


def _tiff_colours(page, samples, profile, path):
    """(picture, profile, note): samples of a TIFF page as (H, W, C) grey or RGB, black at 0."""
    kind = page.photometric.name
    if page.axes == "SYX":  # planar
        samples, axes = samples.transpose(1, 2, 0), "YXS"
    else:
        axes = page.axes
    if axes == "YX":
        samples = samples[..., None]
    elif axes != "YXS":
        raise StackError(f"{path} holds a volume (axes {axes}): save each picture by itself")
    bits = page.bitspersample
    if samples.dtype == bool:
        samples = samples.astype(np.uint8) * 255
    elif kind == "PALETTE" and samples.dtype == np.uint8:
        samples = (page.colormap.T[samples[..., 0]] >> 8).astype(np.uint8)  # (H, W, 3)
    elif samples.dtype not in (np.uint8, np.uint16) or bits != 8 * samples.itemsize:
        raise StackError(
            f"{path} holds {bits}-bit {samples.dtype} samples: export it with 8 or 16 bits"
        )
    if kind == "SEPARATED" and samples.shape[2] == 4 and samples.dtype == np.uint8:
        return _from_cmyk(samples, profile), None, CMYK_NOTE
    # JPEG in TIFF is YCbCr in the file; the decoder has turned it into RGB already.
    colour = kind in ("RGB", "PALETTE") or (kind == "YCBCR" and page.compression.name == "JPEG")
    grey = kind in ("MINISBLACK", "MINISWHITE")
    if not (colour and samples.shape[2] in (3, 4)) and not (grey and samples.shape[2] in (1, 2)):
        raise StackError(
            f"{path} holds {samples.shape[2]} channels of {bits} bits of kind {kind}: "
            "export it as grey or RGB"
        )
    if kind == "MINISWHITE":
        samples = samples.copy()
        samples[..., 0] = np.iinfo(samples.dtype).max - samples[..., 0]
    return samples, profile, None


def _from_cmyk(samples, profile):
    """CMYK (H, W, 4) uint8, 255 all ink, to RGB: by its profile, plainly without one."""
    image = Image.frombytes("CMYK", samples.shape[1::-1], np.ascontiguousarray(samples).tobytes())
    try:
        return _by_profile(image, profile or b"")
    except (OSError, ValueError, ImageCms.PyCMSError):
        return np.asarray(image.convert("RGB"))


def loses(suffix, picture):
    """What a file of this suffix cannot keep of the picture, as a sentence, or None.

    Args:
        suffix: with its dot, any case, such as ".jpg".
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


def to_8_bits(picture):
    """A picture of uint8 or uint16 as uint8, rounded; what was fused to 16 bits from frames of 8
    becomes what would have been fused to 8."""
    if picture.dtype == np.uint8:
        return picture
    return ((picture.astype(np.uint32) + 128) // 257).astype(np.uint8)


def suffix_like(path):
    """Suffix of a result in the format of this frame; .png for one that is only read."""
    suffix = path.suffix.lower()
    return suffix if suffix in PICTURE_SUFFIXES else ".png"


def write_picture(path, picture, metadata=None):
    """Write a picture in the format of the suffix, atomically.

    PNG, TIFF, BMP and WebP are lossless, JPEG is of quality 95 with full chroma. What a format
    cannot keep is rounded or dropped as `loses` says.

    Args:
        path: ends in one of PICTURE_SUFFIXES, in any case; its folder is made when missing.
        picture: (H, W, C) or (H, W), uint8 or uint16, C as at the top of this file.
        metadata: Metadata to carry, corrected for this picture; left out where they are damaged,
            the profile is of another colour space, or the format has no place for them: all of
            them in BMP, blocks of 64 KB in JPEG, EXIF in TIFF beyond 4 GB.
    Raises:
        StackError: unknown suffix, a picture too large for the format, or the file cannot be put
            there.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in PICTURE_SUFFIXES:
        raise StackError(f"{path} has no suffix of a picture: use {' '.join(PICTURE_SUFFIXES)}")
    picture = picture.reshape(*picture.shape[:2], -1)  # (H, W, C)
    metadata = metadata_for(metadata, picture)
    try:
        if suffix == ".png":
            data = _encode_png(picture, metadata)
        elif suffix in (".tif", ".tiff"):
            data = _encode_tiff(picture, metadata)
        else:
            data = _encode_8_bit(suffix, picture, metadata)
    except (cv2.error, ValueError, OSError, struct.error) as error:
        height, width = picture.shape[:2]
        raise StackError(
            f"{path}: {width}x{height} cannot be encoded ({error}): use PNG or TIFF"
        ) from error
    write_bytes(path, data)


def _encode_png(picture, metadata):
    """PNG file as bytes."""
    if picture.shape[2] == 2:  # the one kind that OpenCV cannot encode
        from imagecodecs import png_encode

        data = png_encode(np.ascontiguousarray(picture))
    else:
        codes = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
        code = codes.get(picture.shape[2])
        data = cv2.imencode(".png", picture if code is None else cv2.cvtColor(picture, code))[1]
        data = data.tobytes()
    if metadata == Metadata():
        return data
    # The chunks are Pillow's, of a picture of one pixel, and go behind the header of 33 bytes:
    # OpenCV gives no file when libpng finds fault with a profile, Pillow has no 16-bit colour.
    info = PngImagePlugin.PngInfo()
    if metadata.xmp:
        info.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode())
    buffer = io.BytesIO()
    small = Image.new("L" if picture.shape[2] <= 2 else "RGB", (1, 1))
    small.save(buffer, "PNG", pnginfo=info, **_for_pillow(replace(metadata, xmp=None)))
    small = buffer.getvalue()
    return data[:33] + small[33 : small.rindex(b"IDAT") - 4] + data[33:]


def _encode_tiff(picture, metadata):
    """TIFF file as bytes, deflated."""
    channels = picture.shape[2]
    tags, directories = tiff_tags(metadata.exif) if metadata.exif else ({}, {})
    units = {code: tags.pop(code, (0, None))[1] for code in (282, 283, 296)}
    extra = [
        (code, kind, len(value) if isinstance(value, bytes) else 1, value, True)
        for code, (kind, value) in tags.items()
    ]
    if metadata.xmp:
        extra.append((700, 1, len(metadata.xmp), metadata.xmp, True))
    # tifffile writes no directories of EXIF: each keeps its place by the tag that comes next.
    extra += [(code + 1, 4, 1, 0, True) for code in directories]
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
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
        extratags=extra,
        resolution=(units[282], units[283]) if units[282] and units[283] else None,
        resolutionunit=units[296],
    )
    buffer.seek(0)
    with tifffile.TiffFile(buffer) as file:
        offsets = {} if file.is_bigtiff else {tag.code: tag.offset for tag in file.pages[0].tags}
    for code, directory in directories.items():
        if code + 1 in offsets:
            at = buffer.seek(0, io.SEEK_END)
            at += buffer.write(bytes(at % 2))
            buffer.write(tiff_directory(directory, code, at))
            buffer.seek(offsets[code + 1])
            buffer.write(struct.pack("<HHII", code, 4, 1, at))
    return buffer.getvalue()


def _encode_8_bit(suffix, picture, metadata):
    """JPEG, BMP or WebP file as bytes."""
    picture = to_8_bits(picture)
    if suffix != ".webp" and picture.shape[2] in (2, 4):
        picture = picture[..., :-1]
    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    if suffix == ".webp" and picture.shape[2] <= 2:  # a format without grey
        metadata = replace(metadata, profile=None)
    carried = _for_pillow(metadata)
    buffer = io.BytesIO()
    if suffix == ".bmp":
        image.save(buffer, "BMP")
    elif suffix == ".webp":
        # Effort beyond this takes up to fifteen times as long for a file no smaller.
        image.save(buffer, "WEBP", lossless=True, exact=True, quality=0, method=4, **carried)
    else:
        carried = {k: v for k, v in carried.items() if len(v) <= JPEG_ROOM.get(k, len(v))}
        image.save(buffer, "JPEG", quality=95, subsampling=0, **carried)
    return buffer.getvalue()


def _for_pillow(metadata):
    """Metadata as arguments of Pillow's save."""
    exif = metadata.exif and b"Exif\0\0" + metadata.exif
    carried = {"exif": exif, "xmp": metadata.xmp, "icc_profile": metadata.profile}
    return {key: value for key, value in carried.items() if value}


def result_suffix(out_format, paths):
    """Suffix of the fused picture: out_format None (png), "same" or a name of FORMATS."""
    return suffix_like(paths[0]) if out_format == "same" else FORMATS[out_format or "png"]


def same_format(suffix, other):
    """Whether two suffixes of PICTURE_SUFFIXES, in any case, stand for one format."""
    short = {".jpeg": ".jpg", ".tiff": ".tif"}
    suffix, other = suffix.lower(), other.lower()
    return suffix in PICTURE_SUFFIXES and short.get(suffix, suffix) == short.get(other, other)
