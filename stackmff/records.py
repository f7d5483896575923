"""Records beside results: what each was made from and how, so that finished work is not redone."""

import contextlib
import functools
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from stackmff.errors import StackError
from stackmff.files import parse_json, sha256, write_json


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
        self.target = Path(target)
        self.path = self.target / "records" / f"{name}.json"

    def read(self) -> dict[str, Any]:
        """The record; empty if there is none or it cannot be read."""
        try:
            record = parse_json(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def says_done(
        self,
        wanted: Mapping[str, Any],
        files: Iterable[Path | None],
        tell: Callable[[str], None] | None = None,
    ) -> bool:
        """Whether all results exist, were made as wanted, and are what was written.

        Args:
            wanted: from `wanted_record`.
            files: of the results; None for a result that is not wanted.
            tell: called with a sentence if a result was changed or damaged since it was written.
        """
        record = self.read()
        same = all(record.get(key) == value for key, value in wanted.items())
        if not same or not all(path is None or os.path.isfile(path) for path in files):
            return False
        damaged = self._damaged(record)
        if damaged is not None and tell is not None:
            tell(f"{damaged} is not as it was written: the stack is fused again")
        return damaged is None

    def _damaged(self, record: Mapping[str, Any]) -> Path | None:
        """The first recorded file whose size or content differs; none in records without sizes."""
        files = record.get("files")
        for name, known in files.items() if isinstance(files, dict) else ():
            path = self.target / name
            try:
                # The size first: most damage shows in it, and it costs nothing.
                if path.stat().st_size != known["size"] or sha256(path) != known["sha256"]:
                    return path
            except (OSError, KeyError, TypeError):
                return path
        return None

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
        files: Iterable[Path | None],
        source: str | Path | None = None,
    ) -> None:
        """Record what the results were made from, what came of it, and the run.

        Args:
            wanted: from `wanted_record`.
            result: what came of it, as plain JSON values.
            files: of the results, whose sizes and contents `says_done` compares; None for one that
                is not wanted.
            source: folder or file of the frames; None: it does not matter.
        """
        known = {
            os.path.relpath(path, self.target): {
                "size": path.stat().st_size,
                "sha256": sha256(path),
            }
            for path in files
            if path is not None
        }
        place = {} if source is None else {"source": str(Path(source).resolve())}
        made = {"files": known, "result": result, "run": run_record()}
        write_json(self.path, {**wanted, **place, **made})


def run_record() -> dict[str, Any]:
    """What is needed to repeat a run: the command line and the versions."""
    return {"command": sys.argv, "versions": dict(versions())}


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python, of the packages that decide results, and of this program.

    In a clone "commit" is what is checked out, followed by "with changes" if tracked files differ
    from it.
    """
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in ("torch", "numpy", "opencv-python-headless", "scikit-image", "stackmff"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    commit = commit_of(Path(__file__).parents[1])
    return {**found, "commit": commit} if commit else found


def commit_of(clone: Path) -> str | None:
    """The commit that is checked out in a clone, and whether it has changes; None if it is none."""
    if not (clone / ".git").exists():  # an environment may lie in the clone of something else
        return None

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", clone, *words], capture_output=True, text=True, timeout=30, check=True
        )
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit} with changes" if changed else commit
