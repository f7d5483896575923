"""Reading and writing pictures: dtype, colour, orientation, profile; the frames of a stack.

In the program a picture is RGB, (H, W, C) uint8 or uint16: C = 1 grey, 2 grey + alpha, 3 RGB,
4 RGBA. OpenCV's BGR ends here. PNG, JPEG, WebP and BMP are decoded by OpenCV, which alone of the
decoders tried gives no picture for a file cut at any byte; TIFF by tifffile, because OpenCV's
decoder scrambles planar and white-is-zero 16-bit files, drops the alpha of grey ones and
multiplies that of RGBA ones into the colours.
"""

import io
import logging
import mmap
import os
import struct
import tempfile
import weakref
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

from utils import StackError, free_memory, natural_key, read_bytes, write_bytes

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
ANSWER_FOLDER = "AiF"  # of a data set
STACK_FOLDERS = ("dof_stack", "image stack", "stacks")  # of a data set, each with stacks in it
NEVER_STACKS = ("aif", "depth", "disparity")  # folders; nor is a picture of these names a frame
PNG_START = b"\x89PNG\r\n\x1a\n"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
CHANNEL_NAMES = {1: "grey", 2: "grey with alpha", 3: "colour", 4: "colour with alpha"}
LUMA_RED, LUMA_GREEN, LUMA_BLUE = 0.299, 0.587, 0.114  # ITU-R BT.601


def _inside(folder):
    """What lies in a folder, in any order; StackError where that cannot be told."""
    folder = Path(folder)
    if not folder.is_dir():
        raise StackError(f"{folder} is no folder: give the folder that holds the pictures")
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise StackError(
            f"{folder} cannot be read ({error.strerror}): change its permissions, or move it"
        ) from error


def list_folders(folder):
    """The folders below a folder in natural order, but for hidden ones and those of answers.

    Raises:
        StackError: `folder` is no folder, or cannot be read.
    """
    folders = [
        path
        for path in _inside(folder)
        if path.is_dir()
        and not path.name.startswith(".")
        and path.name.casefold() not in NEVER_STACKS
    ]
    return sorted(folders, key=lambda path: natural_key(path.name))


def stack_root(folder):
    """The folder among STACK_FOLDERS below `folder`, or None; StackError where there are two."""
    found = [Path(folder) / name for name in STACK_FOLDERS]
    found = [path for path in found if os.path.isdir(path)]  # False too where it cannot be told
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise StackError(f"{folder} holds {names}: move one of them elsewhere")
    return found[0] if found else None


def list_pictures(folder):
    """The picture files at the top of a folder, in natural order.

    Suffixes count in any case; names with a leading dot and other files are passed over.

    Args:
        folder: path of a folder.
    Returns:
        List of paths, may be empty.
    Raises:
        StackError: `folder` is no folder, or cannot be read.
    """
    pictures = [
        path
        for path in _inside(folder)
        if path.suffix.lower() in PICTURE_SUFFIXES
        and not path.name.startswith(".")
        and not path.is_dir()
    ]
    return sorted(pictures, key=lambda path: natural_key(path.name))


def frames_in(folder):
    """The pictures of a stack's folder but for AiF.*, depth.* and disparity.*, as list_pictures.

    Some published sets keep the answer of a stack among its frames. To fuse it would be to copy
    the answer.
    """
    return [path for path in list_pictures(folder) if path.stem.casefold() not in NEVER_STACKS]


def list_answers(folder):
    """The answers in a folder: its pictures, or where it has none, AiF.* of the folders below it.

    Args:
        folder: AiF/ of a data set, or a folder of stacks that each hold their answer.
    Returns:
        {scene: path} in natural order, may be empty.
    Raises:
        StackError: `folder` cannot be read, or two answers have one name.
    """
    pictures = list_pictures(folder)
    if pictures:
        return by_stem(pictures)
    answers = {}
    for stack in list_folders(folder):
        found = [path for path in list_pictures(stack) if path.stem.casefold() == "aif"]
        if len(found) > 1:
            raise StackError(f"{stack} holds {len(found)} answers: remove all but one")
        if found:
            answers[stack.name] = found[0]
    return answers


def list_frames(folder):
    """The frames of a stack: `frames_in`, at least two of them.

    Raises:
        StackError: `folder` is no folder, or holds fewer than two frames.
    """
    paths = frames_in(folder)
    if not paths:
        endings = " ".join(PICTURE_SUFFIXES)
        raise StackError(f"{folder} holds no pictures ({endings}): a stack needs two or more")
    if len(paths) == 1:
        raise StackError(f"{folder} holds one picture, a stack needs two or more")
    return paths


def by_stem(paths):
    """{name without suffix: path} of `paths`, in their order.

    Raises:
        StackError: two differ only in their folder or suffix.
    """
    found = {}
    for path in paths:
        if path.stem in found:
            raise StackError(
                f"{path} and {found[path.stem].name} have one name: remove one of them"
            )
        found[path.stem] = path
    return found


def read_picture(path):
    """Read one picture, every byte of it, upright.

    Args:
        path: a JPEG, PNG, TIFF, BMP or WebP file; its content decides, not its suffix.
    Returns:
        (H, W, C) uint8 or uint16, C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA. Palettes are looked
        up, 1-bit pictures become 0 and 255, CMYK JPEG becomes RGB, EXIF orientation is applied.
    Raises:
        StackError: the file cannot be read, is cut short, is no picture, or is of a kind that has
            no faithful form here (floats, several pages, CMYK or Lab TIFF).
    """
    return _read(path)[0]


def read_profile(path):
    """The ICC profile of a picture as bytes, None when it has none; raises like read_picture."""
    return _read(path)[1]


def _read(path):
    """(picture, ICC profile or None) of one file; see read_picture."""
    data = read_bytes(path)
    decode = _decode_tiff if data.startswith(TIFF_STARTS) else _decode_opencv
    picture, orientation, profile = decode(data, path)
    return np.ascontiguousarray(_upright(picture, orientation)), profile


def _decode_opencv(data, path):
    """(picture (H, W, C), EXIF orientation, ICC profile or None) of a PNG, JPEG, WebP or BMP."""
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
    if picture.dtype not in (np.uint8, np.uint16):
        raise StackError(f"{path} holds {picture.dtype} samples: export it with 8 or 16 bits")
    metadata = {kind: chunk.tobytes() for kind, chunk in zip(kinds, chunks)}
    if picture.ndim == 2:
        picture = picture[..., None]  # (H, W, 1)
    elif picture.shape[2] == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    elif data.startswith(PNG_START) and data[25] == 4:  # colour type 4 is grey with alpha
        picture = picture[..., [0, 3]]
    else:
        picture = cv2.cvtColor(picture, cv2.COLOR_BGRA2RGBA)
    orientation = _exif_orientation(metadata.get(cv2.IMAGE_METADATA_EXIF, b""))
    return picture, orientation, metadata.get(cv2.IMAGE_METADATA_ICCP)


def _png_is_whole(data):
    """Whether the chunks of a PNG go through to its end mark."""
    position = len(PNG_START)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        position += 12 + length
        if kind == b"IEND":
            return position <= len(data)
    return False


def _exif_orientation(data):
    """EXIF orientation, 1 (upright) to 8; 1 where there is none that can be read."""
    exif = Image.Exif()
    try:
        exif.load(data)
        return exif.get(0x0112, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, EOFError, OSError, struct.error):
        return 1  # damaged metadata do not make a whole picture unreadable


def _upright(picture, orientation):
    """Turn and mirror (H, W, C) as EXIF orientation 1 to 8 asks; other values count as 1."""
    if orientation in (5, 6, 7, 8):
        picture = picture.transpose(1, 0, 2)  # (W, H, C)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return picture


def _decode_tiff(data, path):
    """(picture (H, W, C), orientation, ICC profile or None) of a TIFF file with one picture."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # our own sentence is enough
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            pages = [page.aspage() for page in file.pages]
            page = pages[0]
            ends = [sum(part) for part in zip(page.dataoffsets, page.databytecounts)]
            whole = max(ends, default=0) <= len(data) and not _lost_tags(file.tiff, page, data)
            samples = page.asarray() if whole else np.empty(0)
            tags = {number: tag.value for number in (274, 34675) if (tag := page.tags.get(number))}
    except Exception as error:  # each codec has its own classes of errors
        raise StackError(
            f"{path} is cut short, damaged or of an unknown kind of TIFF ({error}): "
            "export or copy it again"
        ) from error
    if samples.size == 0:
        raise StackError(f"{path} is cut short: export or copy it again")
    count = sum(not page.is_reduced and not page.is_mask for page in pages)
    if count > 1:
        raise StackError(f"{path} holds {count} pictures: save each as a file of its own")
    return _tiff_colours(page, samples, path), tags.get(274, 1), tags.get(34675)


def _lost_tags(format, page, data):
    """Tags of the page that tifffile passed over because their values lie beyond a cut."""
    (count,) = struct.unpack_from(format.tagnoformat, data, page.offset)
    start = page.offset + format.tagnosize
    codes = {
        struct.unpack_from(format.byteorder + "H", data, start + k * format.tagsize)[0]
        for k in range(count)
    }
    matter = {258, 34675}  # bits per sample, ICC profile: without the others it raises
    return codes & matter - {tag.code for tag in page.tags}


def _tiff_colours(page, samples, path):
    """Samples of a TIFF page as (H, W, C) grey or RGB, uint8 or uint16, black at 0."""
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
    # JPEG in TIFF is YCbCr in the file; the decoder has turned it into RGB already.
    colour = kind in ("RGB", "PALETTE") or (kind == "YCBCR" and page.compression.name == "JPEG")
    grey = kind in ("MINISBLACK", "MINISWHITE")
    if not (colour and samples.shape[2] in (3, 4)) and not (grey and samples.shape[2] in (1, 2)):
        raise StackError(
            f"{path} holds {samples.shape[2]} channels of kind {kind}: export it as grey or RGB"
        )
    if kind == "MINISWHITE":
        samples = samples.copy()
        samples[..., 0] = np.iinfo(samples.dtype).max - samples[..., 0]
    return samples


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
    if _channels(picture) in (2, 4) and suffix in (".jpg", ".jpeg", ".bmp"):
        lost.append("alpha is dropped")
    return f"{' and '.join(lost)} in {suffix[1:].upper()}: PNG and TIFF keep it" if lost else None


def _channels(picture):
    return picture.shape[2] if picture.ndim == 3 else 1


def write_picture(path, picture, profile=None):
    """Write a picture in the format of the suffix, atomically.

    PNG, TIFF, BMP and WebP are lossless, JPEG is of quality 95 with full chroma. What a format
    cannot keep is rounded or dropped as `loses` says.

    Args:
        path: ends in one of PICTURE_SUFFIXES, in any case; its folder is made when missing.
        picture: (H, W, C) or (H, W), uint8 or uint16, C as in read_picture.
        profile: ICC profile to carry; left out where its colour space is not the picture's, or
            the format (BMP) has no place for it.
    Raises:
        StackError: unknown suffix, a picture too large for the format, or the file cannot be put
            there.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in PICTURE_SUFFIXES:
        raise StackError(f"{path} has no suffix of a picture: use {' '.join(PICTURE_SUFFIXES)}")
    picture = picture.reshape(*picture.shape[:2], -1)  # (H, W, C)
    space = b"GRAY" if picture.shape[2] <= 2 else b"RGB "
    if profile is not None and profile[16:20] != space:  # say, of the CMYK that a JPEG was
        profile = None
    try:
        if suffix == ".png":
            data = _encode_png(picture, profile)
        elif suffix in (".tif", ".tiff"):
            data = _encode_tiff(picture, profile)
        else:
            data = _encode_8_bit(suffix, picture, profile)
    except (cv2.error, ValueError, OSError, struct.error) as error:
        height, width = picture.shape[:2]
        raise StackError(
            f"{path}: {width}x{height} cannot be encoded ({error}): use PNG or TIFF"
        ) from error
    write_bytes(path, data)


def _encode_png(picture, profile):
    """PNG file as bytes."""
    if picture.shape[2] == 2:  # the one kind that OpenCV cannot encode
        from imagecodecs import png_encode

        data = png_encode(picture)
    else:
        codes = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
        code = codes.get(picture.shape[2])
        data = cv2.imencode(".png", picture if code is None else cv2.cvtColor(picture, code))[1]
        data = data.tobytes()
    if profile is None:
        return data
    # Put in here, after the header of 33 bytes: OpenCV gives no file at all when libpng
    # finds fault with a profile.
    body = b"iCCPICC profile\0\0" + zlib.compress(profile)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:33] + chunk + data[33:]


def _encode_tiff(picture, profile):
    """TIFF file as bytes, deflated."""
    channels = picture.shape[2]
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        picture if channels > 1 else picture[..., 0],
        photometric="rgb" if channels >= 3 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression="zlib",
        predictor=True,
        iccprofile=profile,
        metadata=None,
    )
    return buffer.getvalue()


def _encode_8_bit(suffix, picture, profile):
    """JPEG, BMP or WebP file as bytes."""
    if picture.dtype == np.uint16:
        picture = ((picture.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if suffix != ".webp" and picture.shape[2] in (2, 4):
        picture = picture[..., :-1]
    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    buffer = io.BytesIO()
    if suffix == ".bmp":
        image.save(buffer, "BMP")
    elif suffix == ".webp":
        # Effort beyond this takes up to fifteen times as long for a file no smaller.
        effort = {"quality": 0, "method": 4}
        image.save(buffer, "WEBP", lossless=True, exact=True, icc_profile=profile, **effort)
    else:
        image.save(buffer, "JPEG", quality=95, subsampling=0, icc_profile=profile)
    return buffer.getvalue()


def luma(pictures):
    """Gamma-coded BT.601 luma; grey passes through and alpha is left out.

    Args:
        pictures: (..., C) uint8 or uint16, C as in read_picture.
    Returns:
        (...) float32 in [0, 1].
    Source: ITU-R Recommendation BT.601.
    """
    scale = 1 / np.iinfo(pictures.dtype).max
    if pictures.shape[-1] <= 2:
        return pictures[..., 0] * np.float32(scale)
    matrix = np.float32([[LUMA_RED * scale, LUMA_GREEN * scale, LUMA_BLUE * scale]])
    out = np.empty(pictures.shape[:-1], np.float32)
    for index in np.ndindex(pictures.shape[:-3]):
        cv2.transform(pictures[index][..., :3].astype(np.float32), matrix, out[index])
    return np.minimum(out, 1, out=out)  # the three factors may round to a sum just over 1


@dataclass
class Stack:
    """The frames of one scene in their order.

    Attributes:
        frames: (N, H, W, C) uint8 or uint16, C as in read_picture.
        paths: the N files.
        profile: ICC profile of the first frame as bytes, or None.
    """

    frames: np.ndarray
    paths: list
    profile: bytes | None


def read_stack(paths, threads=2, spill=None, low_memory=False):
    """Read the frames of a stack into one array.

    Args:
        paths: picture files in their order, N >= 1.
        threads: how many frames are decoded at a time.
        spill: folder for a file without a name that holds the frames, where they would take more
            than half of the free memory; None: they are in memory whatever comes.
        low_memory: they are in that file in any case.
    Returns:
        Stack; its frames are a numpy.memmap where they are in a file, see `release`.
    Raises:
        StackError: a file cannot be read, size, bit depth or channels differ from the first, or
            there is no room for the frames.
    """
    paths = [Path(path) for path in paths]
    first, profile = _read(paths[0])
    shape = (len(paths), *first.shape)
    size = len(paths) * first.nbytes
    if spill is not None and (low_memory or size > free_memory() / 2):
        frames = _frames_on_disk(shape, first.dtype, Path(spill))
    else:
        try:
            frames = np.empty(shape, first.dtype)
        except MemoryError as error:
            raise StackError(
                f"{paths[0].parent} needs {size / 2**30:.1f} GiB of memory for its frames"
            ) from error
    put(frames, 0, first)

    def read_into(index):
        picture = _read(paths[index])[0]
        _check_alike(paths[index], picture, first)
        put(frames, index, picture)

    with ThreadPoolExecutor(threads) as pool:
        try:
            for _ in pool.map(read_into, range(1, len(paths))):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return Stack(frames, paths, profile)


def _frames_on_disk(shape, dtype, folder):
    """An array in a file that has no name, so that nothing of it can stay behind."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is told now
            frames = np.memmap(file, dtype, "w+", 0, shape)
            frames.descriptor = os.dup(file.fileno())  # for `window`
            weakref.finalize(frames, os.close, frames.descriptor)
            return frames
    except OSError as error:
        raise StackError(
            f"{folder} has no room for the {size / 2**30:.1f} GiB of the frames, which do not fit "
            f"into memory ({error.strerror or error}): write the result to a larger disk"
        ) from error


def release(frames):
    """Let go of the pages of frames that lie on disk, which count as memory in use; they are read
    again when they are needed. Nothing for frames in memory.

    Args:
        frames: as of `read_stack`.
    """
    if isinstance(frames, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
        frames._mmap.madvise(mmap.MADV_DONTNEED)


def put(frames, index, picture):
    """Put a picture (H, W, C) in the place of a frame; on disk by writing, which spares a fault for
    each of its pages.

    Args:
        frames: as of `read_stack`.
    """
    descriptor = getattr(frames, "descriptor", None)
    if descriptor is None or not hasattr(os, "pwrite"):
        frames[index] = picture
        return
    left, start = memoryview(picture.reshape(-1).view(np.uint8)), index * picture.nbytes
    while left:  # a system call writes 2 GiB at most
        written = os.pwrite(descriptor, left, start)
        left, start = left[written:], start + written


def window(frames, top, bottom, left, right):
    """A part of every frame.

    Frames on disk are read row by row: to touch their pages would map whole rows of each frame,
    which count as memory in use, and cost a fault for each page.

    Args:
        frames: (N, H, W, C) as of `read_stack`.
        top, bottom, left, right: px.
    Returns:
        (N, bottom - top, right - left, C), a view where the frames are in memory.
    """
    part = frames[:, top:bottom, left:right]
    descriptor = getattr(frames, "descriptor", None)
    if descriptor is None or not hasattr(os, "preadv"):
        return part
    out = np.empty(part.shape, frames.dtype)
    bytes_out = out.reshape(*out.shape[:2], -1).view(np.uint8)
    frame_bytes, row_bytes, pixel_bytes = frames.strides[:3]
    for k, rows in enumerate(bytes_out):
        start = k * frame_bytes + top * row_bytes + left * pixel_bytes
        for y, row in enumerate(rows):
            os.preadv(descriptor, [row], start + y * row_bytes)
    return out


def _check_alike(path, picture, first):
    """Raise StackError where a frame differs from the first in size, bit depth or channels."""
    if picture.shape[:2] != first.shape[:2]:
        (height, width), (rows, columns) = picture.shape[:2], first.shape[:2]
        raise StackError(
            f"frame {path.name} is {width}x{height}, the stack is {columns}x{rows}: "
            "export all frames at one size"
        )
    if picture.dtype != first.dtype:
        raise StackError(
            f"frame {path.name} has {8 * picture.itemsize} bits per channel, the stack has "
            f"{8 * first.itemsize}: export all frames with one bit depth"
        )
    if picture.shape[2] != first.shape[2]:
        raise StackError(
            f"frame {path.name} is {CHANNEL_NAMES[picture.shape[2]]}, the stack is "
            f"{CHANNEL_NAMES[first.shape[2]]}: export all frames alike"
        )
