"""Records beside results: how each came to be, so that what is done is not done again."""

import contextlib
import json
import platform
import sys
from pathlib import Path

from stackmff.errors import StackError
from stackmff.files import write_json


def frames_record(paths):
    """Name, size in bytes and time of change of each file, as plain JSON values.

    Raises:
        StackError: a file is not there.
    """
    try:
        status = [(path.name, path.stat()) for path in paths]
    except OSError as error:
        raise StackError(f"{error.filename} cannot be read: {error.strerror}") from error
    return [{"name": n, "size": s.st_size, "mtime_ns": s.st_mtime_ns} for n, s in status]


def wanted_record(paths, weights, options):
    """What a record must name for the results to be those of this run.

    Args:
        paths: files of the frames.
        weights: SHA-256 of the weights, or {option: SHA-256}; None where there are none.
        options: those that the results depend on, plain JSON values.
    Raises:
        StackError: a frame is not there.
    """
    return {"frames": frames_record(paths), "weights": weights, "options": options}


class Record:
    """The record of the results of one stack, a JSON file.

    Args:
        target: folder of the results; the record lies in records/ below it.
        name: of the stack.
    """

    def __init__(self, target, name):
        self.path = Path(target) / "records" / f"{name}.json"

    def read(self):
        """The record as a dict, empty when there is none that can be read."""
        try:
            record = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def says_done(self, wanted, files):
        """Whether all results are there and are those that are wanted.

        Args:
            wanted: as from `wanted_record`.
            files: of the results; None for one that is not wanted.
        """
        record = self.read()
        same = all(record.get(key) == value for key, value in wanted.items())
        return same and all(path is None or path.is_file() for path in files)

    def remove(self):
        """Take the record away: from here on the results are in question."""
        self.path.unlink(missing_ok=True)

    def write(self, wanted, result):
        """Say what the results were made of, what came of it (a dict) and in which run."""
        write_json(self.path, {**wanted, "result": result, "run": run_record()})


def run_record():
    """What must be known to repeat a run: the command line and the versions, as a dict."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for package in ("torch", "numpy", "opencv-python-headless", "scikit-image"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {"command": sys.argv, "versions": versions}
