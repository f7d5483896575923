"""What the server accepts: file names, paths below --root, files and stacks of limited size.

The size of a picture is read from its header before anything is decoded, so that a small file that
declares a huge picture (a decompression bomb) costs nothing.
"""

import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

import tifffile

from stackmff.errors import StackError
from stackmff.images.camera_files import HEIF_STARTS, HEIF_SUFFIXES, RAW_SUFFIXES
from stackmff.images.folders import frames_in, list_folders, list_stack_files
from stackmff.images.formats import READ_SUFFIXES
from stackmff.images.headers import declared
from stackmff.images.stack_files import (
    TIFF_SUFFIXES,
    VIDEO_SUFFIXES,
    FramePath,
    frames_in_file,
)
from stackmff.images.tiff import TIFF_STARTS, tiff_directories
from stackmff.images.videos import declared_film
from stackmff.machine import free_memory

SUFFIXES = (*READ_SUFFIXES, *VIDEO_SUFFIXES)
MOST_FRAMES = 1000
LONGEST_NAME, LONGEST_STEM = 200, 120  # bytes, of the 255 that file systems take

# Given a text file with a list of addresses, FFmpeg would open these, whatever the suffix of the
# file. So a video must begin as one. In the MP4 family these words follow the first four bytes.
MKV_START, AVI_START = b"\x1a\x45\xdf\xa3", b"RIFF"
MP4_PARTS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")

# Memory of the process that fuses: for the network, and for each pixel of the picture (the result
# in 16 bits, its maps, a band of tiles, and copies of a frame while it is aligned).
BASE_MEMORY, PIXEL_MEMORY = 0.9e9, 26


@dataclass(frozen=True)
class UploadLimits:
    """How much a session may upload.

    Attributes:
        total_bytes: of all its files.
        frame_pixels: of one frame.
    """

    total_bytes: int
    frame_pixels: int


def safe_name(word: str) -> str:
    """Make a file name from a browser safe: its last part, without control characters.

    Raises:
        StackError: the name is empty or hidden, or its suffix is not that of a supported format.
    """
    name = PureWindowsPath(word).name  # splits at / and \\ alike
    name = "".join(letter for letter in name if letter.isprintable()).strip()
    # Of a long name the end is kept, with the number and the suffix.
    path = Path(name.encode(errors="replace")[-LONGEST_NAME:].decode(errors="ignore"))
    if not path.stem or path.name.startswith("."):
        raise StackError("a file without a name cannot be uploaded: give it one")
    if path.suffix.lower() not in SUFFIXES:
        raise StackError(
            f"{path.name} is not a supported picture, TIFF or video: export it as JPEG, PNG or TIFF"
        )
    return path.name


def safe_stem(word: str) -> str:
    """Make a safe file name without a suffix of any text."""
    word = re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", word).strip(" .")
    return word.encode(errors="replace")[:LONGEST_STEM].decode(errors="ignore") or "fused"


def gigabytes(count: float) -> str:
    """Bytes as text, in MB or GB."""
    return f"{count / 1e9:.1f} GB" if count >= 5e7 else f"{count / 1e6:.1f} MB"


def check_upload(size: int | None, held: int, folder: Path, limits: UploadLimits) -> int:
    """Refuse a file before it is uploaded.

    Args:
        size: its size, bytes, as the browser declares it; None: not declared.
        held: bytes that the session holds already.
        folder: for the file.
        limits: of the session.
    Returns:
        The size.
    Raises:
        StackError: the size is not declared, is too large, or the disk has no room for it.
    """
    if size is None:
        raise StackError("the browser does not declare the size of the file: use another browser")
    if held + size > limits.total_bytes:
        raise StackError(
            f"{gigabytes(held + size)} are more than the {gigabytes(limits.total_bytes)} that a "
            "session may upload: upload fewer frames, or start the server with a larger "
            "--max_upload_gb"
        )
    free = shutil.disk_usage(folder).free
    if size > free:
        raise StackError(
            f"the disk for projects has {gigabytes(free)} free, and the file takes "
            f"{gigabytes(size)}: delete projects, or start the server with another --projects"
        )
    return size


def inside(root: Path | None, word: str) -> Path:
    """The path below `root` that a browser asks for.

    Args:
        root: the shared folder; None: no folder is shared.
        word: relative path; "" is the root.
    Returns:
        The path, with links resolved.
    Raises:
        StackError: it leads out of the root, or does not exist.
    """
    outside = StackError(
        "that path is not below the folder that this server shares: choose another"
    )
    if root is None or "\0" in word:
        raise outside
    root = Path(root).resolve()
    try:
        path = (root / word).resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:  # circular links, invalid text
        raise outside from error
    if path != root and root not in path.parents:
        raise outside
    return path


def listing(root: Path, word: str) -> dict[str, Any]:
    """List a folder below `root`.

    Returns:
        {"path", "folders": [names], "files": [names of TIFFs and videos that are stacks],
        "pictures": count}, without links that lead out of the root.
    Raises:
        StackError: as `inside`, or the path is not a readable folder.
    """
    folder = inside(root, word)
    stays = partial(stays_inside, root)
    return {
        "path": "" if folder == Path(root).resolve() else str(folder.relative_to(root.resolve())),
        "folders": [path.name for path in list_folders(folder) if stays(path)],
        "files": [path.name for path in list_stack_files(folder) if stays(path)],
        "pictures": sum(stays(path) for path in frames_in(folder)),
    }


def files_below(root: Path | None, word: str) -> list[Path]:
    """The files of a stack below `root`: one file, or the pictures in a folder. None is opened.

    Raises:
        StackError: as `inside`; or the folder holds no pictures, or links that lead out of the
            root, which it names.
    """
    path = inside(root, word)
    files = [path] if path.is_file() else frames_in(path)
    if not files:
        raise StackError(f"{path} holds no pictures: choose a folder of frames")
    out = [file.name for file in files if not stays_inside(root, file)]
    if out:
        more = f" and {len(out) - 3} more" if len(out) > 3 else ""
        raise StackError(
            f"{path.name}: {', '.join(out[:3])}{more} lead out of the folder that this server "
            "shares: copy the files there in place of the links"
        )
    return files


def stays_inside(root: Path | None, path: Path) -> bool:
    """Whether a path, with links resolved, is below the shared folder."""
    try:
        inside(root, str(path))
    except StackError:
        return False
    return True


def frames_of(file: Path) -> list[FramePath]:
    """The frames that a file is or holds.

    Args:
        file: path of a picture, TIFF or video.
    Returns:
        Paths or frames in a file, see stack_files.frames_in_file.
    Raises:
        StackError: as frames_in_file, or there are more than MOST_FRAMES.
    """
    suffix = file.suffix.lower()
    many = "{} holds {} frames, and {} is the maximum: shorten it, or keep every second one".format
    if suffix in VIDEO_SUFFIXES:
        check_video(file)
        # Counting the frames means decoding the video; an hour of it is refused by its header.
        claimed, _, _ = declared_film(file)
        if claimed > MOST_FRAMES:
            raise StackError(many(file, claimed, MOST_FRAMES))
        frames: list[FramePath] = [*frames_in_file(file)]
    elif suffix in TIFF_SUFFIXES:
        pages = frames_in_file(file)
        frames = [*pages] if len(pages) > 1 else [file]
    else:
        frames = [file]
    if len(frames) > MOST_FRAMES:
        raise StackError(many(file, len(frames), MOST_FRAMES))
    return frames


def check_video(file: Path) -> None:
    """StackError where a file with the suffix of a video does not begin as one."""
    with open(file, "rb") as opened:
        start = opened.read(12)
    film = start.startswith(MKV_START) or (start.startswith(AVI_START) and start[8:] == b"AVI ")
    if not film and start[4:8] not in MP4_PARTS:
        raise StackError(f"{file} is not a supported video: export it as MP4")


def check_declared(file: Path, most_pixels: int) -> None:
    """Refuse a picture whose header declares too many pixels, without decoding it.

    Args:
        file: path of a picture, TIFF or video.
        most_pixels: of one frame.
    Raises:
        StackError: the file is not a picture, or has too many pixels.
    """
    suffix = file.suffix.lower()
    if suffix in RAW_SUFFIXES:
        return  # LibRaw has a limit, and so has the process
    for width, height in declared_sizes(file, suffix):
        if width * height > most_pixels:
            raise StackError(
                f"{file} declares {width}x{height} pixels, and {most_pixels / 1e6:g} "
                "million is the maximum: export it smaller, or start the server with a larger "
                "--max_megapixels"
            )


def declared_sizes(file: Path, suffix: str) -> list[tuple[int, int]]:
    """(width, height), px, that a file declares for each of its pictures.

    Raises:
        StackError: the file is not a picture, TIFF or video.
    """
    with open(file, "rb") as opened:
        start = opened.read(12)
    none = StackError(f"{file} is not a picture, or is damaged: export or copy it again")
    if suffix in VIDEO_SUFFIXES:
        check_video(file)
        _, width, height = declared_film(file)
        return [(width, height)]
    try:
        if start.startswith(TIFF_STARTS):
            logging.getLogger("tifffile").setLevel(logging.CRITICAL)
            with tifffile.TiffFile(file) as tiff:
                pages = tiff_directories(tiff)
                return [(page.imagewidth, page.imagelength * page.imagedepth) for page in pages]
        if start[4:12] in HEIF_STARTS or suffix in HEIF_SUFFIXES:
            return heif_sizes(file)
    except Exception as error:  # tifffile and pillow_heif raise their own classes
        raise none from error
    header = declared(file)
    if header is None:
        raise none
    return [(header.width, header.height)]


def heif_sizes(file: Path) -> list[tuple[int, int]]:
    """As declared_sizes, for HEIC; empty where pillow_heif is missing, which decoding reports."""
    try:
        import pillow_heif
    except ImportError:
        return []
    opened = pillow_heif.open_heif(file)
    return [picture.size for picture in opened]


def check_frames(frames: Sequence[Mapping[str, Any]]) -> None:
    """Check frames that are to be fused.

    Args:
        frames: as worker.examine_frame describes them.
    Raises:
        StackError: there are fewer than two, two have the same name, or their sizes differ.
    """
    if len(frames) < 2:
        raise StackError("a stack needs at least two frames: add some")
    # Strokes refer to frames by name. The pages of a.tif are a-1.tif, ..., as a file may be called.
    names = [frame["name"] for frame in frames]
    if len(set(names)) < len(names):
        name = max(names, key=names.count)
        raise StackError(f"two frames are called {name}: exclude one, or rename its file")
    if odd := odd_sizes(frames):
        raise StackError(odd)


def odd_sizes(frames: Sequence[Mapping[str, Any]]) -> str | None:
    """A sentence on the frames that differ in size from most; None where none does.

    Args:
        frames: as of `check_frames`.
    """
    sizes = [(frame["width"], frame["height"]) for frame in frames]
    if len(set(sizes)) < 2:
        return None
    size = max(sorted(set(sizes)), key=sizes.count)
    # A picture on its side is rotated.
    odd = [k for k, own in enumerate(sizes) if own not in (size, size[::-1])]
    if not odd:
        return None
    first, own = frames[odd[0]]["name"], sizes[odd[0]]
    many = f" ({len(odd)} frames differ)" if len(odd) > 1 else ""
    which = "it" if len(odd) == 1 else "them"
    return (
        f"{first} is {own[0]}x{own[1]}, the others are {size[0]}x{size[1]}{many}: exclude {which}, "
        "or export all frames at the same size"
    )


def check_room(frames: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Check that the disk of a folder and the memory have room for a stack.

    Args:
        frames: as of `check_frames`.
        folder: for the results.
    Raises:
        StackError: one of them is too small.
    """
    pixels = frames[0]["width"] * frames[0]["height"]
    whole = len(frames) * max(frame["bytes"] for frame in frames)
    disk = int(1.1 * whole + 16 * pixels)  # with a draft and the results
    memory = int(BASE_MEMORY + PIXEL_MEMORY * pixels)
    has = {"disk": shutil.disk_usage(folder).free, "memory": free_memory()}
    mends = {
        "disk": "free some, or exclude frames",
        "memory": "close other programs, or export the frames smaller",
    }
    for what, need in (("disk", disk), ("memory", memory)):
        if need > has[what]:
            raise StackError(
                f"{len(frames)} frames of {pixels / 1e6:.3g} megapixels need {gigabytes(need)} of "
                f"{what}, and {gigabytes(has[what])} are free: {mends[what]}"
            )
