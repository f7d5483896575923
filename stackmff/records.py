"""Records beside results: what each was made from and how, so that finished work is not redone."""

import contextlib
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from stackmff.errors import StackError
from stackmff.files import write_json


class FrameFile(Protocol):
    """A frame's file: a path, or a frame inside a file, see images/stack_files.py."""

    @property
    def name(self) -> str: ...

    def stat(self) -> os.stat_result: ...


def frames_record(paths: Iterable[FrameFile]) -> list[dict[str, Any]]:
    """Name, size in bytes and modification time of each file, as plain JSON values.

    Raises:
        StackError: a file does not exist.
    """
    try:
        status = [(path.name, path.stat()) for path in paths]
    except OSError as error:
        raise StackError(f"{error.filename} cannot be read: {error.strerror}") from error
    return [{"name": n, "size": s.st_size, "mtime_ns": s.st_mtime_ns} for n, s in status]


def wanted_record(
    paths: Iterable[FrameFile], weights: str | dict[str, str] | None, options: dict[str, Any]
) -> dict[str, Any]:
    """What a record must contain if the results are those of this run.

    Args:
        paths: files of the frames.
        weights: SHA-256 of the weights, or {option: SHA-256}; None if the method has no weights.
        options: the options that affect the results, as plain JSON values.
    Raises:
        StackError: a frame does not exist.
    """
    return {"frames": frames_record(paths), "weights": weights, "options": options}


class Record:
    """The record of one stack's results, a JSON file.

    Args:
        target: folder of the results; the record is in `records/` below it.
        name: of the stack.
    """

    def __init__(self, target: str | Path, name: str) -> None:
        self.path = Path(target) / "records" / f"{name}.json"

    def read(self) -> dict[str, Any]:
        """The record; empty if there is none or it cannot be read."""
        try:
            record = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def says_done(self, wanted: Mapping[str, Any], files: Iterable[Path | None]) -> bool:
        """Whether all results exist and were made as wanted.

        Args:
            wanted: from `wanted_record`.
            files: of the results; None for a result that is not wanted.
        """
        record = self.read()
        same = all(record.get(key) == value for key, value in wanted.items())
        return same and all(path is None or path.is_file() for path in files)

    def check_source(self, source: str | Path, option: str) -> None:
        """Refuse to replace the result of another stack that has the same name.

        Args:
            source: folder or file of the frames that are to be fused.
            option: that chooses another place.
        Raises:
            StackError: the result was made from another stack, which still exists.
        """
        before = self.read().get("source")
        if isinstance(before, str) and Path(before) != Path(source).resolve():
            if not Path(before).exists():
                return
            raise StackError(
                f"{self.path.parent.parent} has the result of {before}, which has the name of "
                f"{source}: choose another {option}, or replace it with --overwrite"
            )

    def remove(self) -> None:
        """Delete the record; call it before the results are changed."""
        self.path.unlink(missing_ok=True)

    def write(
        self,
        wanted: Mapping[str, Any],
        result: dict[str, Any],
        source: str | Path | None = None,
    ) -> None:
        """Record what the results were made from, what came of it, and the run.

        Args:
            wanted: from `wanted_record`.
            result: what came of it.
            source: folder or file of the frames; None: it does not matter.
        """
        place = {} if source is None else {"source": str(Path(source).resolve())}
        write_json(self.path, {**wanted, **place, "result": result, "run": run_record()})


def run_record() -> dict[str, Any]:
    """What is needed to repeat a run: the command line and the versions."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for package in ("torch", "numpy", "opencv-python-headless", "scikit-image"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {"command": sys.argv, "versions": versions}
