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
from pathlib import Path

from stackmff.errors import StackError
from stackmff.processes import is_alive, this_process


def natural_key(name):
    """Sort key that counts runs of digits as numbers: frame2 before frame10.

    Args:
        name: a file name or path.
    Returns:
        A tuple that sorts naturally; names that differ only in case or zeros stay in fixed order.
    """
    text = str(name)
    parts = re.split(r"(\d+)", text)
    return [(int(p), "") if p.isdecimal() else (-1, p.casefold()) for p in parts], text


@functools.cache  # a folder of thousands of results is looked through once
def remove_leftovers(folder):
    """Remove the temporary files in a folder of processes of this machine that are no more."""
    host, _, _ = this_process().rpartition("-")
    pattern = re.compile(rf"\..*\.{re.escape(host)}-(\d+)\.[^.]+(\.[^.]*)?", re.DOTALL)
    for path in Path(folder).iterdir():
        if (match := pattern.fullmatch(path.name)) and not is_alive(int(match[1])):
            with contextlib.suppress(OSError):
                path.unlink()


@contextlib.contextmanager
def atomic_path(path):
    """Give a temporary name beside `path` and rename it into place when the block succeeds.

    The name keeps the suffix of `path`, so that writers that go by it work. A reader sees the old
    file or the whole new one; when the block fails the temporary file is removed, and when the
    process is killed, by the next one that writes into the folder.

    Args:
        path: the file to write; its folder is made when missing.
    Raises:
        StackError: the folder cannot be made or the file cannot be put there.
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


def make_folder(path):
    """Make the folder `path`, so that a hopeless place is told before the work; StackError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StackError(f"{path} cannot be made ({error.strerror}): choose another") from error


def read_bytes(path):
    """The content of a file; StackError where it cannot be read or is empty."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise StackError(f"{path} cannot be read: {error.strerror or error}") from error
    if not data:
        raise StackError(f"{path} is empty (0 bytes): export or copy it again")
    return data


def write_bytes(path, data):
    """Write `data` to `path` atomically; raises StackError when that fails."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path, text):
    """Write `text` to `path` atomically, in UTF-8; raises StackError when that fails.

    Bytes of a file's name that are no UTF-8 become backslash sequences, which JSON reads back.
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path, value):
    """Write `value` as indented JSON to `path` atomically; raises StackError when that fails."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_csv(path, rows):
    """Write rows, the header first, to `path` atomically; raises StackError when that fails."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def sha256(path):
    """SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
