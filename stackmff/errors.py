"""Errors that are told in one sentence."""


class StackError(Exception):
    """Bad input or failed work, told in one sentence that names the file and the mend."""


KNOWN_FAILURES = (StackError, OSError, MemoryError)


def sentence_of(error):
    """One of KNOWN_FAILURES in one line, whatever the names of the files."""
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        sentence = f"{where}{error.strerror or error}"
    elif isinstance(error, MemoryError):
        sentence = f"the memory is not enough ({error or 'full'}): give fewer or smaller pictures"
    else:
        sentence = str(error)
    return sentence.replace("\n", "\\n")


def what_happened(error):
    """Any error in one line."""
    if isinstance(error, KNOWN_FAILURES):
        return sentence_of(error)
    return f"{type(error).__name__}: {error}".replace("\n", "\\n")
