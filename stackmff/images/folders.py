"""Which files of a folder are the frames of which stack."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from stackmff.errors import StackError
from stackmff.files import natural_key
from stackmff.images.camera_files import RAW_SUFFIXES
from stackmff.images.formats import READ_SUFFIXES, decode
from stackmff.images.groups import (
    FrameGroup,
    StackSource,
    pairs_in_folders,
    pairs_in_names,
)
from stackmff.images.stack_files import (
    TIFF_SUFFIXES,
    VIDEO_SUFFIXES,
    FramePath,
    Page,
    frames_in_file,
)

Prefer = Literal["raw", "jpeg"]

ANSWER_FOLDER = "AiF"  # of a data set
STACK_FOLDERS = ("dof_stack", "image stack", "stacks")  # of a data set; each contains the stacks
NEVER_STACKS = ("aif", "depth", "disparity")  # names of folders; a picture so named is not a frame
# Endings of names that phones give to the JPEG and the RAW of one shot.
PHONE = re.compile(r"(\.RAW-\d+)?\.(COVER|ORIGINAL|MAIN)$", re.IGNORECASE)
LOOK_LIKE_PICTURES = (
    ".gif", ".psd", ".jp2", ".j2k", ".jpx", ".exr", ".hdr", ".tga", ".pcx", ".ppm", ".pgm", ".pbm",
    ".pfm", ".svg", ".eps", ".xcf", ".heics", ".dcm", ".fits", ".czi", ".lif", ".nd2", ".oib",
    ".oif", ".lsm", ".svs", ".vsi", ".ims", ".mrw", ".srf", ".sr2", ".kdc", ".dcr", ".erf", ".mef",
    ".mos", ".crw", ".fff", ".gpr", ".jpe", ".jfif", ".jps", ".mpo",
)  # fmt: skip
SYSTEM_FOLDERS = ("lost+found", "system volume information", "$recycle.bin")  # of a whole disk


def find_stacks(folder: str | Path) -> dict[str, StackSource]:
    """The stacks of a data set.

    Args:
        folder: its stacks are its sub-folders that contain pictures, multi-page TIFFs and videos;
            or those in one of STACK_FOLDERS below it.
    Returns:
        {name: stack}, as of `stacks_in`.
    Raises:
        StackError: there is none, or two have the same name.
    """
    root = stack_root(folder) or Path(folder)
    stacks = {stack_name(path): path for path in stacks_in(root)}
    if not stacks:
        raise StackError(f"{root} holds no stacks: give a folder whose sub-folders hold pictures")
    return stacks


def stack_root(folder: str | Path) -> Path | None:
    """The folder among STACK_FOLDERS below `folder`, if any; StackError if there are several."""
    found = [Path(folder) / name for name in STACK_FOLDERS]
    found = [path for path in found if os.path.isdir(path)]  # False too if it cannot be read
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise StackError(f"{folder} holds {names}: move one of them elsewhere")
    return found[0] if found else None


def stacks_in(folder: str | Path, folders: Iterable[Path] | None = None) -> list[StackSource]:
    """The stacks in a folder: sub-folders that contain pictures, and stacks that are one file.

    In sets of pairs, see groups.py, the stacks are groups of files.

    Args:
        folder: to search.
        folders: the sub-folders to consider; None: all.
    Returns:
        List, folders first, each in natural order; may be empty. What cannot be read is included,
        so that reading it reports why.
    Raises:
        StackError: two have the same name, and would have the same result.
    """
    folders = list_folders(folder) if folders is None else folders
    found = {path: _pictures_or_none(path) for path in folders}
    readable = {path: pictures for path, pictures in found.items() if pictures}
    pairs, taken = pairs_in_folders(readable)
    stacks: list[StackSource] = [*pairs]
    for path, pictures in found.items():
        if path not in taken and pictures != []:
            stacks += pairs_in_names(pictures or []) or [path]
    stacks += pairs_in_names(list_pictures(folder))
    stacks += list_stack_files(folder)
    names: dict[str, StackSource] = {}
    for stack in stacks:
        if (other := names.setdefault(stack_name(stack), stack)) != stack:
            name = other.name
            raise StackError(f"{stack} and {name} have the same name: rename one of them")
    return stacks


def _pictures_or_none(folder: Path) -> list[Path] | None:
    """The pictures in a folder; None if it cannot be read."""
    try:
        return list_pictures(folder)
    except StackError:
        return None


def list_folders(folder: str | Path) -> list[Path]:
    """The sub-folders of a folder in natural order, without hidden ones, answers and the system's.

    Raises:
        StackError: `folder` is not a folder, or cannot be read.
    """
    folders = [
        path
        for path in _inside(folder)
        if path.is_dir()
        and not path.name.startswith(".")
        and path.name.casefold() not in (*NEVER_STACKS, *SYSTEM_FOLDERS)
    ]
    return sorted(folders, key=lambda path: natural_key(path.name))


def list_stack_files(folder: str | Path) -> list[Path]:
    """The stacks in a folder that are one file each: videos and multi-page TIFFs.

    Returns:
        List of paths in natural order; may be empty.
    Raises:
        StackError: as `list_folders`.
    """
    files = [
        path
        for path in _inside(folder)
        if not path.name.startswith(".")
        and path.is_file()
        and (
            path.suffix.lower() in VIDEO_SUFFIXES
            or (path.suffix.lower() in TIFF_SUFFIXES and _may_hold_frames(path))
        )
    ]
    return sorted(files, key=lambda path: natural_key(path.name))


def _may_hold_frames(path: Path) -> bool:
    """Whether a TIFF has several pages; True if it cannot be read."""
    try:
        return len(frames_in_file(path)) > 1
    except StackError:
        return True


def _inside(folder: str | Path) -> list[Path]:
    """The content of a folder, in any order; StackError if it cannot be read."""
    folder = Path(folder)
    if not folder.is_dir():
        raise StackError(f"{folder} is not a folder: give the folder that holds the pictures")
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise StackError(
            f"{folder} cannot be read ({error.strerror}): change its permissions, or move it"
        ) from error


def list_pictures(folder: str | Path) -> list[Path]:
    """The picture files in a folder, in natural order.

    Suffixes count in any case; hidden files and other files are skipped.

    Returns:
        List of paths; may be empty.
    Raises:
        StackError: `folder` is not a folder, or cannot be read.
    """
    pictures = [
        path
        for path in _inside(folder)
        if path.suffix.lower() in READ_SUFFIXES
        and not path.name.startswith(".")
        and (path.is_file() or not path.exists())  # reading a broken link reports it
    ]
    return sorted(pictures, key=lambda path: natural_key(path.name))


def frames_in(folder: str | Path) -> list[Path]:
    """The pictures of a stack's folder except AiF.*, depth.* and disparity.*, as list_pictures.

    Some published data sets keep the answer of a stack among its frames; fusing it would copy it.
    """
    return [path for path in list_pictures(folder) if path.stem.casefold() not in NEVER_STACKS]


def list_frames(path: str | StackSource, prefer: Prefer | None = None) -> list[FramePath]:
    """The frames of a stack, at least two of them.

    Args:
        path: a group of files; or a folder: the frames are `frames_in` it, or the pages of the only
            file there if that is a multi-page TIFF. Or such a TIFF, or a video.
        prefer: see `one_a_shot`.
    Raises:
        StackError: `path` is neither, cannot be read, contains fewer than two frames, or a shot in
            two formats and `prefer` does not say which.
    """
    frames: list[FramePath]
    if isinstance(path, FrameGroup):
        return [*path.paths]
    if Path(path).is_file():
        frames = [*frames_in_file(path)]
    else:
        files = one_a_shot(frames_in(path), prefer)
        frames = [*files]
        if len(files) == 1 and files[0].suffix.lower() in TIFF_SUFFIXES:
            frames = [*frames_in_file(files[0])]
    if not frames:
        raise StackError(
            f"{path} holds no pictures ({' '.join(READ_SUFFIXES)}): a stack needs two or more"
        )
    if len(frames) == 1:
        only = frames[0]
        if isinstance(only, Page) and only.file.suffix.lower() in TIFF_SUFFIXES:
            decode(only.file)  # reports the damage, if the pages could not be counted
        raise StackError(f"{path} holds one picture: a stack needs two or more")
    return frames


def one_a_shot(files: Sequence[Path], prefer: Prefer | None) -> list[Path]:
    """The pictures of a stack, one of each shot: a camera may write a RAW and a JPEG of it.

    Args:
        files: in their order.
        prefer: which of the two is the frame; None: there must be but one.
    Raises:
        StackError: there are two of a shot, and `prefer` does not say which.
    """
    shots: dict[str, list[Path]] = {}
    for path in files:
        shots.setdefault(PHONE.sub("", path.stem), []).append(path)
    out = []
    for found in shots.values():
        if len(found) > 1 and prefer is not None:
            wanted = [p for p in found if (p.suffix.lower() in RAW_SUFFIXES) == (prefer == "raw")]
            found = wanted or found
        if len(found) > 1:
            advice = "choose with --prefer_files raw or jpeg, or move one of them elsewhere"
            kinds = {path.suffix.lower() in RAW_SUFFIXES for path in found}
            raise StackError(
                f"{found[1]} and {found[0].name} have the same name: "
                + (advice if len(kinds) == 2 else "move one of them elsewhere")
            )
        out += found
    return out


def passed_over(folder: str | Path) -> str | None:
    """A sentence on files in a folder that look like pictures and are none here; None: none do."""
    kinds = Counter(
        path.suffix.lower()
        for path in _inside(folder)
        if path.suffix.lower() in (*LOOK_LIKE_PICTURES, *VIDEO_SUFFIXES)
        and not path.name.startswith(".")
        and path.is_file()
    )
    if not kinds:
        return None
    total = sum(kinds.values())
    listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(kinds.items()))
    are = "file that looks like a picture is" if total == 1 else "files that look like pictures are"
    return f"{total} {are} skipped ({listed}): export them as PNG or TIFF if they are frames"


def list_answers(folder: str | Path) -> dict[str, Path]:
    """The all-in-focus answers in a folder.

    Args:
        folder: AiF/ of a data set, whose pictures are the answers; or a folder of stacks that each
            contain their answer, AiF.*.
    Returns:
        {scene: path} in natural order; may be empty.
    Raises:
        StackError: `folder` cannot be read, or two answers have the same name.
    """
    pictures = list_pictures(folder)
    if pictures:
        answers = by_stem(pictures)
        if all(name.endswith("_F") for name in answers):  # of Real-MFF, whose frames end in _A, _B
            answers = {name.removesuffix("_F"): path for name, path in answers.items()}
        return answers
    answers = {}
    for stack in list_folders(folder):
        found = [path for path in list_pictures(stack) if path.stem.casefold() == "aif"]
        if len(found) > 1:
            raise StackError(f"{stack} holds {len(found)} answers: remove all but one")
        if found:
            answers[stack.name] = found[0]
    return answers


def by_stem(paths: Sequence[Path]) -> dict[str, Path]:
    """{name without suffix: path} of `paths`, in their order.

    Raises:
        StackError: two differ only in their folder or suffix.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise StackError(
                f"{path} and {found[path.stem].name} have the same name: move one of them elsewhere"
            )
        found[path.stem] = path
    return found


def stack_name(path: str | StackSource) -> str:
    """The name of a stack: of its folder or group, or of its file without the suffix."""
    if isinstance(path, FrameGroup):
        return path.name
    path = Path(path).resolve()
    return path.stem if path.is_file() else path.name


def clash(path: str | Path, stack_path: str | Path) -> str | None:
    """Why a result must not be written to a path, as a sentence; None if it may be.

    Args:
        path: of the result.
        stack_path: folder or file of the stack that is fused.
    """
    place, stack = Path(path).resolve(), Path(stack_path).resolve()
    if place == stack:
        return f"{path} is the stack itself: choose another name"
    if place.parent == stack:
        return (
            f"{path} is inside the stack's folder and would be a frame next time: "
            "choose another folder"
        )
    return None


def is_inside(output: str | Path, source: str | Path) -> bool:
    """Whether a data set would be written into another: its folder, its stacks or its answers.

    Args:
        output: folder of the data set to write.
        source: folder of the data set that is read.
    """
    parts = [Path(source), stack_root(source) or Path(source), Path(source) / ANSWER_FOLDER]
    sources = {part.resolve() for part in parts}
    places = [(Path(output) / name).resolve() for name in ("", STACK_FOLDERS[0], ANSWER_FOLDER)]
    return any(sources & {place, *place.parents} for place in places)
