"""Files: natural order, atomic writes, digests."""

import contextlib
import csv
import errno
import functools
import hashlib
import io
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from stackmff.errors import StackError
from stackmff.processes import is_alive, this_process

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def natural_key(name: str | Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key that compares runs of digits as numbers: frame2 comes before frame10.

    Args:
        name: a file name or path.
    Returns:
        A key in which case does not matter; names that differ only in case or in leading zeros
        are ordered by the characters themselves, so that the order is always the same.
    """
    text = str(name)
    parts = re.split(r"(\d+)", text)
    return [(int(p), "") if p.isdecimal() else (-1, p.casefold()) for p in parts], text


def claim(place: int | Path) -> int | None:
    """Mark a file or folder as in use by this process, until it closes it or ends, however it ends.

    The mark is the system's lock (flock), so that it holds between containers, which may give their
    processes the same numbers, and dies with the process.

    Args:
        place: an open descriptor, or the path of a folder.
    Returns:
        The descriptor that holds the mark; None where the system or the file system has none.
    """
    if fcntl is None:
        return place if isinstance(place, int) else None
    handle = place if isinstance(place, int) else os.open(place, os.O_RDONLY)
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def is_abandoned(path: Path, host: str) -> bool:
    """Whether a temporary file or folder, marked by `claim`, is in use by no process.

    On a network some systems do not tell of the locks of other machines; what these have made
    counts as in use for a day.

    Args:
        path: of the file or folder.
        host: the machine that made it, as of `this_process`.
    """
    if fcntl is None:
        return False
    try:
        if host != this_process().rpartition("-")[0]:
            newest = max(entry.stat().st_mtime for entry in (path, *path.glob("*")))
            if time.time() - newest < 24 * 3600:
                return False
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


# Of temporary files: that of this version; that of earlier ones, which did not mark theirs.
TEMPORARY = re.compile(r"\..*\.stackmff-([A-Za-z0-9-]*)-\d+\.[^.]+(\.[^.]*)?", re.DOTALL)
UNMARKED = re.compile(r"\..*\.([A-Za-z0-9-]*)-(\d+)\.[^.]+(\.[^.]*)?", re.DOTALL)


@functools.cache  # a folder of thousands of results is listed only once
def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that processes left in a folder when they died."""
    own_host = this_process().rpartition("-")[0]
    for path in Path(folder).iterdir():
        if match := TEMPORARY.fullmatch(path.name):
            gone = is_abandoned(path, match[1])
        elif match := UNMARKED.fullmatch(path.name):
            gone = match[1] == own_host and not is_alive(int(match[2]))
        else:
            continue
        if gone:
            with contextlib.suppress(OSError):
                path.unlink()


def _temporary_beside(path: Path) -> tuple[int, str]:
    """(descriptor, name) of a new temporary file beside a path, claimed by this process."""
    while True:
        handle, name = tempfile.mkstemp(
            suffix=path.suffix,
            prefix=f".{path.stem[:40]}.stackmff-{this_process()}.",
            dir=path.parent,
        )
        claim(handle)
        if os.path.exists(name):  # another process may have removed it before it was claimed
            return handle, name
        os.close(handle)


@contextlib.contextmanager
def atomic_path(path: str | Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` when the block succeeds.

    The temporary name keeps the suffix of `path`, since writers choose the format by it. Readers
    see either the old file or the complete new one, also after a power failure: the content reaches
    the disk before the name does. If the block fails, the temporary file is removed; if the process
    is killed, the next one that writes into the folder removes it.

    Args:
        path: the file to write; its folder is created if it is missing.
        durable: wait until the file is on the disk, which takes some 10 ms; without it, only a
            power failure can leave a name with other content.
    Raises:
        StackError: the folder cannot be created or the file cannot be written.
    """
    path = Path(path)
    handle, temporary = -1, None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        handle, temporary = _temporary_beside(path)
        yield Path(temporary)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files that only their owner can read
        if durable:
            sync(Path(temporary))
        os.replace(temporary, path)
        if durable:
            sync(path.parent)
    except OSError as error:
        raise StackError(
            f"{path} cannot be written ({error.strerror or error}): check the folder, "
            "its permissions and the free space"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            os.close(handle)


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk.

    Raises:
        OSError: the disk is full or fails. A file system that cannot do this is passed over.
    """
    is_folder = path.is_dir()
    if is_folder and os.name != "posix":
        return  # elsewhere a folder cannot be opened
    try:
        handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    except OSError:
        if is_folder:  # one that may be written and not read
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
            raise
    finally:
        os.close(handle)


def keep_as(path: Path, other: Path) -> None:
    """Give a file a second name, atomically, which it keeps when `path` is written anew.

    Where the file system has no hard links it is copied.

    Args:
        path: the file; other: its second name, in the same folder; what is there is replaced.
    Raises:
        StackError: as `atomic_path`.
    """
    with atomic_path(other) as temporary:
        temporary.unlink()
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)


@contextlib.contextmanager
def locked(folder: Path, advice: str) -> Iterator[None]:
    """Keep other processes that ask for the same out of a folder during the block.

    The lock is the system's, on the file `.lock`, and dies with the process, whichever way it ends.
    Processes that it starts do not hold it. Where the system or the file system has no such locks,
    nothing is kept out.

    Args:
        folder: is created if it is missing.
        advice: what to do if another process has it, the end of a sentence.
    Raises:
        StackError: another process has it, or the folder cannot be made.
        OSError: the folder cannot be written.
    """
    if fcntl is None:
        yield
        return
    make_folder(folder)
    with open(folder / ".lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                owner = file.read(100) or "another process"
                raise StackError(f"{folder} is in use by {owner}: {advice}") from error
        with contextlib.suppress(OSError):  # a full disk does not matter here
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
        yield


def make_folder(path: Path) -> None:
    """Create a folder and its parents, so that a bad path is reported before the work starts.

    Raises:
        StackError: it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StackError(
            f"{path} cannot be created ({error.strerror}): choose another folder"
        ) from error


def read_bytes(path: str | Path) -> bytes:
    """The content of a file.

    Raises:
        StackError: it cannot be read or is empty.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise StackError(f"{path} cannot be read: {error.strerror or error}") from error
    if not data:
        raise StackError(f"{path} is empty (0 bytes): export or copy it again")
    return data


def write_bytes(path: str | Path, data: bytes, durable: bool = True) -> None:
    """Write `data` to `path` atomically; see `atomic_path`."""
    with atomic_path(path, durable) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` atomically in UTF-8; raises StackError as `atomic_path` does.

    Bytes in file names that are not valid UTF-8 become backslash sequences, which JSON can read.
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically; raises StackError as `atomic_path`."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_csv(path: str | Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows, the header first, to `path` as CSV, atomically; raises as `atomic_path` does."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, is no UTF-8, or its brackets are nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its brackets are nested too deeply") from error


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's content as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
