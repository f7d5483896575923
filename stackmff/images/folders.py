"""Which files of a folder are the frames of which stack."""

import os
from pathlib import Path

from stackmff.errors import StackError
from stackmff.files import natural_key
from stackmff.images.formats import READ_SUFFIXES, decode
from stackmff.images.stack_files import TIFF_SUFFIXES, VIDEO_SUFFIXES, Page, frames_in_file

ANSWER_FOLDER = "AiF"  # of a data set
STACK_FOLDERS = ("dof_stack", "image stack", "stacks")  # of a data set, each with stacks in it
NEVER_STACKS = ("aif", "depth", "disparity")  # folders; nor is a picture of these names a frame
SYSTEM_FOLDERS = ("lost+found", "system volume information", "$recycle.bin")  # of a whole disk


def find_stacks(folder):
    """The stacks of a data set.

    Args:
        folder: its sub-folders that hold pictures, its TIFF of several pages and its videos are
            the stacks, or those below its `dof_stack`.
    Returns:
        {name: path}, folders first, each in natural order.
    Raises:
        StackError: there is none, or two have one name.
    """
    root = stack_root(folder) or Path(folder)
    stacks = {stack_name(path): path for path in stacks_in(root)}
    if not stacks:
        raise StackError(f"{root} holds no stacks: give the folder whose sub-folders hold pictures")
    return stacks


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
    """The folders below a folder in natural order, but for hidden ones, answers and the system's.

    Raises:
        StackError: `folder` is no folder, or cannot be read.
    """
    folders = [
        path
        for path in _inside(folder)
        if path.is_dir()
        and not path.name.startswith(".")
        and path.name.casefold() not in (*NEVER_STACKS, *SYSTEM_FOLDERS)
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
        if path.suffix.lower() in READ_SUFFIXES
        and not path.name.startswith(".")
        and (path.is_file() or not path.exists())  # a broken link is told when it is read
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


def list_frames(path):
    """The frames of a stack, at least two of them.

    Args:
        path: a folder: `frames_in`; where the one picture there is a TIFF of several pages, these.
            Or such a TIFF, or a video.
    Returns:
        List of paths, or of stack_files.Page.
    Raises:
        StackError: `path` is neither, cannot be read, holds fewer than two frames, or one of them
            in two formats.
    """
    if Path(path).is_file():
        frames = frames_in_file(path)
    else:
        frames = frames_in(path)
        by_stem(frames)  # a camera's RAW and JPEG are one frame
        if len(frames) == 1 and frames[0].suffix.lower() in TIFF_SUFFIXES:
            frames = frames_in_file(frames[0])
    if not frames:
        raise StackError(
            f"{path} holds no pictures ({' '.join(READ_SUFFIXES)}): a stack needs two or more"
        )
    if len(frames) == 1:
        if isinstance(frames[0], Page) and frames[0].file.suffix.lower() in TIFF_SUFFIXES:
            decode(frames[0].file)  # where its pages cannot be told, this says what is wrong
        raise StackError(f"{path} holds one picture, a stack needs two or more")
    return frames


def list_stack_files(folder):
    """The stacks at the top of a folder that are one file each: videos, and TIFF of several pages.

    Returns:
        List of paths in natural order, may be empty.
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


def _may_hold_frames(path):
    """Whether a TIFF has several pages; True where that cannot be told."""
    try:
        return len(frames_in_file(path)) > 1
    except StackError:
        return True


def stacks_in(folder, folders=None):
    """The stacks in a folder: sub-folders that hold pictures, and stacks that are one file.

    Args:
        folder: that is searched.
        folders: the sub-folders that count; None: all.
    Returns:
        List of paths, folders first, each in natural order; may be empty. What cannot be read is
        among them, and tells why when it is read.
    Raises:
        StackError: two have one name, and would have one result.
    """
    folders = list_folders(folder) if folders is None else folders
    stacks = [path for path in folders if _may_hold_pictures(path)] + list_stack_files(folder)
    names = {}
    for path in stacks:
        if (other := names.setdefault(stack_name(path), path)) != path:
            raise StackError(f"{path} and {other.name} have one name: rename one of them")
    return stacks


def _may_hold_pictures(folder):
    """Whether there are pictures in a folder; True where that cannot be told."""
    try:
        return bool(list_pictures(folder))
    except StackError:
        return True


def stack_name(path):
    """The name of a stack: of its folder, or of its file without the suffix."""
    path = Path(path).resolve()
    return path.stem if path.is_file() else path.name


def clash(path, stack_path):
    """Why a file must not be written there, as a sentence: it is the stack, or would be a frame.

    Args:
        path: of the file; stack_path: the stack's folder or file.
    Returns:
        The sentence; None where nothing is wrong.
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


def by_stem(paths):
    """{name without suffix: path} of `paths`, in their order.

    Raises:
        StackError: two differ only in their folder or suffix.
    """
    found = {}
    for path in paths:
        if path.stem in found:
            raise StackError(
                f"{path} and {found[path.stem].name} have one name: move one of them elsewhere"
            )
        found[path.stem] = path
    return found


def is_inside(output, source):
    """Whether the folder `output`, or where its stacks or answers would lie, is in `source`."""
    parts = [Path(source), stack_root(Path(source)) or Path(source), Path(source) / ANSWER_FOLDER]
    sources = {part.resolve() for part in parts}
    places = [(Path(output) / name).resolve() for name in ("", "dof_stack", "AiF")]
    return any(sources & {place, *place.parents} for place in places)
