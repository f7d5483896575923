"""A project as one file: a zip archive of its folder, and back.

An archive may come from anybody. Names that lead out of its folder, and more bytes than are
allowed, are refused before anything is written; what its files say is checked when the project is
opened.
"""

import shutil
import zipfile
from pathlib import Path, PurePosixPath

from stackmff.errors import StackError
from stackmff.webapp.jobs import PackSpec, UnpackSpec
from stackmff.webapp.result_files import GONE

LEFT_OUT = ("exports", "arriving", "decoded")  # folders of what is being done
MOST_FILES = 100_000
NOT_ONE = "this file is not a project: choose one that was exported from the page"


def pack(spec: PackSpec) -> None:
    """Write the archive of a project; frames are compressed already."""
    folder = Path(spec.folder)
    with zipfile.ZipFile(spec.path, "w") as archive:
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            left_out = any(part in LEFT_OUT or part.startswith(GONE) for part in inside.parts)
            if path.is_file() and path.name != ".lock" and not left_out:
                archive.write(path, inside.as_posix())


def unpack(spec: UnpackSpec) -> None:
    """Write the files of an archive into a new folder.

    Raises:
        StackError: it is not the archive of a project, or too large.
    """
    try:
        with zipfile.ZipFile(spec.path) as archive:
            check_entries(archive.infolist(), spec.most_bytes)
            for entry in archive.infolist():
                if entry.is_dir():
                    continue
                target = Path(spec.folder) / PurePosixPath(entry.filename)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, open(target, "wb") as file:
                    shutil.copyfileobj(source, file)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise StackError(NOT_ONE) from error


def check_entries(entries: list[zipfile.ZipInfo], most_bytes: int) -> None:
    """Refuse the entries of an archive that is not one of a project, or too large.

    Raises:
        StackError: so it is.
    """
    names = [entry.filename for entry in entries]
    if "project.json" not in names or len(names) > MOST_FILES:
        raise StackError(NOT_ONE)
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            raise StackError(NOT_ONE)
    size = sum(entry.file_size for entry in entries)
    if size > most_bytes:
        raise StackError(
            f"this project takes {size / 1e9:.1f} GB, and {most_bytes / 1e9:.1f} GB are free or "
            "allowed: delete projects, or start the server with a larger --max_upload_gb"
        )
