"""Errors that are reported to the user in one sentence."""

import contextlib
from collections.abc import Iterator


class StackError(Exception):
    """Bad input or failed work; the message says in one sentence what is wrong and what to do."""


# What can go wrong with the user's data or machine. Anything else is a bug and ends in a traceback.
KNOWN_FAILURES = (StackError, OSError, MemoryError)


def sentence_of(error: BaseException) -> str:
    """One of KNOWN_FAILURES as one line, even if a file name contains line breaks."""
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        sentence = f"{where}{error.strerror or error}"
    elif isinstance(error, MemoryError):
        details = f" ({error})" if str(error) else ""
        sentence = f"out of memory{details}: give fewer or smaller pictures"
    else:
        sentence = str(error)
    return sentence.replace("\n", "\\n")


@contextlib.contextmanager
def in_one_sentence(path: object) -> Iterator[None]:
    """Turn what a library raises while a file is read into a StackError that names the file.

    Args:
        path: of the file.
    Raises:
        StackError: anything was raised but a StackError or a lack of memory, which go through.
    """
    try:
        yield
    except (StackError, MemoryError):
        raise
    except Exception as error:
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise StackError(f"{path} cannot be read ({what}): export or copy it again") from error


def what_happened(error: BaseException) -> str:
    """Any error as one line."""
    if isinstance(error, KNOWN_FAILURES):
        return sentence_of(error)
    return f"{type(error).__name__}: {error}".replace("\n", "\\n")
