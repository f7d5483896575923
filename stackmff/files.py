"""Files: natural order, atomic writes, digests."""

import contextlib
import csv
import functools
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from stackmff.errors import StackError
from stackmff.processes import is_alive, this_process


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


@functools.cache  # a folder of thousands of results is listed only once
def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that processes of this machine left in a folder when they died."""
    host, _, _ = this_process().rpartition("-")
    pattern = re.compile(rf"\..*\.{re.escape(host)}-(\d+)\.[^.]+(\.[^.]*)?", re.DOTALL)
    for path in Path(folder).iterdir():
        if (match := pattern.fullmatch(path.name)) and not is_alive(int(match[1])):
            with contextlib.suppress(OSError):
                path.unlink()


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` when the block succeeds.

    The temporary name keeps the suffix of `path`, since writers choose the format by it. Readers
    see either the old file or the complete new one. If the block fails, the temporary file is
    removed; if the process is killed, the next one that writes into the folder removes it.

    Args:
        path: the file to write; its folder is created if it is missing.
    Raises:
        StackError: the folder cannot be created or the file cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        handle, temporary = tempfile.mkstemp(
            suffix=path.suffix, prefix=f".{path.stem[:40]}.{this_process()}.", dir=path.parent
        )
        os.close(handle)
        yield Path(temporary)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    except OSError as error:
        raise StackError(
            f"{path} cannot be written ({error.strerror or error}): check the folder, "
            "its permissions and the free space"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


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


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` atomically; raises StackError as `atomic_path` does."""
    with atomic_path(path) as temporary:
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


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's content as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
