"""What may come into the page of app.py: names, folders below --root, files and stacks of a
bearable size, options of ours.

A picture's size is read from its header before anything of it is decoded, so that a small file
that claims a huge picture costs nothing.
"""

import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import cv2
import tifffile
from PIL import Image, UnidentifiedImageError

from stackmff.errors import StackError
from stackmff.images.camera_files import HEIF_STARTS, HEIF_SUFFIXES, RAW_SUFFIXES
from stackmff.images.folders import frames_in, list_folders, list_stack_files
from stackmff.images.formats import READ_SUFFIXES
from stackmff.images.stack_files import TIFF_SUFFIXES, VIDEO_SUFFIXES, frames_in_file
from stackmff.images.tiff import TIFF_STARTS, tiff_directories
from stackmff.machine import free_memory

SUFFIXES = (*READ_SUFFIXES, *VIDEO_SUFFIXES)
MOST_FRAMES = 1000
LONGEST_NAME, LONGEST_STEM = 200, 120  # bytes, of the 255 that file systems take

# FFmpeg takes a list of addresses for a film, whatever its suffix, and would open them: a film has
# to begin as one. For the family of mp4 this is what stands behind its first four bytes.
MKV_START, AVI_START = b"\x1a\x45\xdf\xa3", b"RIFF"
MP4_PARTS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")

# Memory of the process that fuses: of the network at work, and for each pixel of the picture (the
# result in 16 bits, its maps, a band of tiles, and what a frame takes while it is brought over).
BASE_MEMORY, PIXEL_MEMORY = 0.9e9, 26
CHOICES = {
    "align": ("auto", "on", "off"),
    "prefer": (None, "near", "far"),
    "near": ("first", "last"),
    "exposure": (True, False),
}


@dataclass(frozen=True)
class Limits:
    """What a session may bring along.

    Attributes:
        upload: bytes of all its files.
        pixels: of one frame.
    """

    upload: int
    pixels: int


def safe_name(word):
    """The last part of a file's name from a browser, for a folder of ours.

    Raises:
        StackError: it is hidden or empty, or its suffix is of nothing that is read here.
    """
    name = PureWindowsPath(word).name  # parts at / and \\ alike
    name = "".join(letter for letter in name if letter.isprintable()).strip()
    # The end of a long name stays: there are the numbers, and the suffix.
    path = Path(name.encode(errors="replace")[-LONGEST_NAME:].decode(errors="ignore"))
    if not path.stem or path.name.startswith("."):
        raise StackError("a file without a name is not taken: give it one")
    if path.suffix.lower() not in SUFFIXES:
        raise StackError(
            f"{path.name} is no picture, TIFF or video that is read here: export it as JPEG, PNG "
            "or TIFF"
        )
    return path.name


def safe_stem(word):
    """A word as a file's name without a suffix."""
    word = re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", word).strip(" .")
    return word.encode(errors="replace")[:LONGEST_STEM].decode(errors="ignore") or "fused"


def gigabytes(count):
    """Bytes in words."""
    return f"{count / 1e9:.1f} GB" if count >= 5e7 else f"{count / 1e6:.1f} MB"


def check_upload(size, held, folder, limits):
    """Refuse a file before it comes.

    Args:
        size: bytes that it says, or None.
        held: bytes that the session has already.
        folder: where it would go.
        limits: Limits.
    Raises:
        StackError: it says no size, is too large, or the disk has no room.
    """
    if size is None:
        raise StackError("a file that does not say its size is not taken: send it whole")
    if held + size > limits.upload:
        raise StackError(
            f"{gigabytes(held + size)} are more than the {gigabytes(limits.upload)} that this "
            "page takes: leave frames out, or start it with a larger --max_upload_gb"
        )
    free = shutil.disk_usage(folder).free
    if size > free:
        raise StackError(
            f"the disk of the temporary files has {gigabytes(free)} left, {gigabytes(size)} are "
            "to come: start the page with another --temp_dir"
        )


def inside(root, word):
    """The path below `root` that a word from a browser names.

    Args:
        root: folder, None where none is shared.
        word: relative path; "" is the root.
    Returns:
        The path, without links.
    Raises:
        StackError: it leads elsewhere, or there is nothing.
    """
    outside = StackError("that path is not below the folder that this page shares: choose another")
    if root is None or "\0" in word:
        raise outside
    root = Path(root).resolve()
    try:
        path = (root / word).resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:  # of links that lead round, and no text
        raise outside from error
    if path != root and root not in path.parents:
        raise outside
    return path


def listing(root, word):
    """What a folder below `root` has to offer.

    Returns:
        {"path", "folders": [names], "files": [names of stacks in one file], "pictures": count};
        links that lead out of the root do not count.
    Raises:
        StackError: as `inside`, or it is no folder that can be read.
    """
    folder = inside(root, word)

    def stays(path):
        try:
            inside(root, str(path))
        except StackError:
            return False
        return True

    return {
        "path": "" if folder == Path(root).resolve() else str(folder.relative_to(root.resolve())),
        "folders": [path.name for path in list_folders(folder) if stays(path)],
        "files": [path.name for path in list_stack_files(folder) if stays(path)],
        "pictures": sum(stays(path) for path in frames_in(folder)),
    }


def files_below(root, word):
    """The files of a stack below `root`: a file, or the pictures of a folder; none is opened.

    Raises:
        StackError: as `inside`; there are none; or one is a link that leads out of the root.
    """
    path = inside(root, word)
    files = [path] if path.is_file() else frames_in(path)
    if not files:
        raise StackError(f"{path} holds no pictures: choose a folder of frames")
    for file in files:
        inside(root, str(file))
    return files


def frames_of(file):
    """The frames that a file is or holds, each checked by its declared size alone.

    Args:
        file: path, or one of the frames in a file.
    Returns:
        List of paths or stack_files.Page.
    Raises:
        StackError: as stack_files.frames_in_file, or they are too many.
    """
    suffix = file.suffix.lower()
    many = "{} holds {} frames, {} are the most: cut it, or thin it out".format
    if suffix in VIDEO_SUFFIXES:
        check_video(file)
        # To count them is to go through the film: an hour of it is refused by its header.
        claimed = int(cv2.VideoCapture(str(file), cv2.CAP_FFMPEG).get(cv2.CAP_PROP_FRAME_COUNT))
        if claimed > MOST_FRAMES:
            raise StackError(many(file, claimed, MOST_FRAMES))
        frames = frames_in_file(file)
    elif suffix in TIFF_SUFFIXES:
        frames = frames_in_file(file)
        frames = frames if len(frames) > 1 else [file]
    else:
        frames = [file]
    if len(frames) > MOST_FRAMES:
        raise StackError(many(file, len(frames), MOST_FRAMES))
    return frames


def check_video(file):
    """StackError where a file with the suffix of a video does not begin as one."""
    with open(file, "rb") as opened:
        start = opened.read(12)
    film = start.startswith(MKV_START) or (start.startswith(AVI_START) and start[8:] == b"AVI ")
    if not film and start[4:8] not in MP4_PARTS:
        raise StackError(f"{file} is no video that is read here: export it as mp4")


def check_declared(file, limits):
    """Refuse a picture whose header claims too much, or that is none; nothing is decoded.

    Args:
        file: path of a picture, TIFF or video.
        limits: Limits.
    Raises:
        StackError: it is no picture, or one of more pixels than are taken.
    """
    suffix = file.suffix.lower()
    if suffix in RAW_SUFFIXES:
        return  # LibRaw bounds what it develops, and the process has a limit of its own
    for width, height in declared_sizes(file, suffix):
        if width * height > limits.pixels:
            raise StackError(
                f"{file} claims {width}x{height} pixels, {limits.pixels / 1e6:g} million are the "
                "most: export it smaller, or start the page with a larger --max_megapixels"
            )


def declared_sizes(file, suffix):
    """[(width, height)] that a file claims of its pictures, px; StackError where it is none."""
    with open(file, "rb") as opened:
        start = opened.read(12)
    none = StackError(f"{file} is no picture, or is damaged: export or copy it again")
    if suffix in VIDEO_SUFFIXES:
        check_video(file)
        film = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG)
        sides = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        return [tuple(int(film.get(side)) for side in sides)]
    try:
        if start.startswith(TIFF_STARTS):
            logging.getLogger("tifffile").setLevel(logging.CRITICAL)
            with tifffile.TiffFile(file) as tiff:
                pages = tiff_directories(tiff)
                return [(page.imagewidth, page.imagelength * page.imagedepth) for page in pages]
        if start[4:12] in HEIF_STARTS or suffix in HEIF_SUFFIXES:
            return heif_sizes(file)
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # ours is told in our words
        try:
            with Image.open(file, formats=("JPEG", "PNG", "WEBP", "BMP")) as image:
                return [image.size]
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise none from error
    except Exception as error:  # tifffile has classes of its own, and those of struct
        raise none from error


def heif_sizes(file):
    """As declared_sizes, for HEIC; nothing where its reader is missing, which reading it says."""
    try:
        import pillow_heif
    except ImportError:
        return []
    opened = pillow_heif.open_heif(file)
    return [picture.size for picture in opened]


def check_frames(frames):
    """StackError where there are fewer than two frames, or of several sizes, or of one name."""
    if len(frames) < 2:
        raise StackError("a stack needs two frames or more: add some")
    # Strokes name their frame; the pages of a.tif are a-1.tif and so on, as a file may be, too.
    names = [frame["name"] for frame in frames]
    if len(set(names)) < len(names):
        name = max(names, key=names.count)
        raise StackError(f"two frames are called {name}: leave one out, or rename its file")
    sizes = [(frame["width"], frame["height"]) for frame in frames]
    size = max(sorted(set(sizes)), key=sizes.count)
    for frame, own in zip(frames, sizes):
        if own not in (size, size[::-1]):  # a picture that lies on its side is turned
            raise StackError(
                f"{frame['name']} is {own[0]}x{own[1]}, the others are {size[0]}x{size[1]}: leave "
                "it out, or export all frames at one size"
            )


def check_room(frames, folder):
    """StackError where the disk or the memory is too small for a stack."""
    pixels = frames[0]["width"] * frames[0]["height"]
    whole = len(frames) * max(frame["bytes"] for frame in frames)
    disk = int(1.1 * whole + 16 * pixels)  # with a draft, and the results
    memory = int(BASE_MEMORY + PIXEL_MEMORY * pixels)
    has = {"disk": shutil.disk_usage(folder).free, "memory": free_memory()}
    for what, need in (("disk", disk), ("memory", memory)):
        if need > has[what]:
            raise StackError(
                f"{len(frames)} frames of {pixels / 1e6:.0f} megapixels need {gigabytes(need)} of "
                f"{what}, {gigabytes(has[what])} are free: leave frames out, or export them smaller"
            )


def options_of(wanted):
    """What a page asks for as words of a command line; StackError where it is none of ours."""
    unknown = StackError("these options are none of this page's: load it anew")
    if not isinstance(wanted, dict) or set(wanted) - {*CHOICES, "slab"}:
        raise unknown
    if any(name in wanted and wanted[name] not in values for name, values in CHOICES.items()):
        raise unknown
    words = ["--align", wanted.get("align", "auto")]
    if not wanted.get("exposure", True):
        words.append("--no_match_exposure")
    if wanted.get("prefer"):
        words += ["--prefer", wanted["prefer"]]
    if wanted.get("near"):
        words += ["--near", wanted["near"]]
    if slab := wanted.get("slab"):
        if not isinstance(slab, int) or not 2 <= slab <= 1000:
            raise StackError("a slab has 2 frames or more: give another number")
        words += ["--slab", str(slab)]
    return words
