"""The pictures of a stack besides its frames: versions and slabs, which brushes take, and what
methods of the toolbox make of the frames."""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from stackmff.errors import StackError
from stackmff.files import natural_key
from stackmff.fusion.methods import METHODS
from stackmff.webapp.result_files import PART, ResultFiles

METHOD = "method-"  # before the name of a method: the layer of its picture
SLAB = re.compile(r"slab_\d+-\d+")
# Of the picture of a version without its strokes, or of a slab of it, among the sources of a brush.
SOURCE = re.compile(rf"version-(\d{{1,9}})(?:-({SLAB.pattern}))?")

LOADED = "loaded-"  # before the digest of a picture that came with strokes


def title_of(source: str) -> str:
    """What the user calls a source of the brush."""
    if source.startswith(LOADED):
        return "Loaded picture"
    match = SOURCE.fullmatch(source)
    if match is None:
        return source
    version = f"Version {match[1]}"
    if not match[2]:
        return version
    first, last = match[2].removeprefix("slab_").split("-")
    return f"{version}, frames {first} to {last}"


def layer_file(files: ResultFiles, layer: str) -> Path | None:
    """The file, .npy, of a slab or of a method's picture of a result; None where there is none."""
    path = None
    if layer.startswith(METHOD) and (name := layer.removeprefix(METHOD)) in METHODS:
        path = files.methods / f"{name}.npy"
    elif SLAB.fullmatch(layer):
        path = files.slabs / f"{layer}.npy"
    return path if path is not None and path.is_file() else None


def stems_in(folder: Path) -> list[str]:
    """The names of the pictures in a folder, in natural order."""
    return sorted((path.stem for path in folder.glob("*.npy")), key=natural_key)


class SourcePictures(Mapping[str, np.ndarray]):
    """The pictures that the strokes of a result take, in its own folder.

    A version may be deleted, and another run have other slabs, but what was painted stays: each
    picture is a link to the file it was taken from, or a copy.

    Args:
        folder: of the pictures; made when the first one comes.
        shape: (H, W, C) of the result.
    """

    def __init__(self, folder: Path, shape: Sequence[int]) -> None:
        self.folder, self.shape = folder, tuple(shape)

    def __getitem__(self, name: str) -> np.ndarray:
        path = self.folder / f"{name}.npy"
        try:
            picture: np.ndarray = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise StackError(f"{path.name} cannot be read: undo its strokes") from error
        if picture.shape != self.shape:
            raise StackError(f"{path.name} is not of the size of the result: undo its strokes")
        return picture

    def __contains__(self, name: object) -> bool:
        return (self.folder / f"{name}.npy").is_file()

    def __iter__(self) -> Iterator[str]:
        return iter(stems_in(self.folder))

    def __len__(self) -> int:
        return len(stems_in(self.folder))

    def add(self, picture: np.ndarray) -> str:
        """Add a picture (H, W, C) that came with strokes; return the name that it gets.

        Its name in their file may be that of another picture here.
        """
        name = LOADED + hashlib.sha256(picture.tobytes()).hexdigest()[:16]
        with self._written(name) as made, open(made, "wb") as file:
            np.save(file, picture)
        return name

    @contextlib.contextmanager
    def _written(self, name: str) -> Iterator[Path]:
        """A file to write, which becomes the picture of a name when it is complete."""
        self.folder.mkdir(exist_ok=True)
        made = self.folder / f"{name}{PART}"
        yield made
        made.replace(self.folder / f"{name}.npy")

    def bring(self, name: str, file: Path) -> None:
        """Add the picture of a file, .npy, which may be removed afterwards."""
        if name in self:
            return
        with self._written(name) as made:
            made.unlink(missing_ok=True)
            try:
                os.link(file, made)
            except OSError:  # this file system has no links
                shutil.copyfile(file, made)
