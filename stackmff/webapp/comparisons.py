"""What methods of the toolbox make of the frames of a version, to compare the version with."""

from pathlib import Path
from typing import Any

from stackmff.errors import StackError
from stackmff.fusion.methods import METHODS, missing
from stackmff.webapp.jobs import MethodSpec, WorkerJob
from stackmff.webapp.result_files import PART
from stackmff.webapp.stack_frames import Shared
from stackmff.webapp.versions import StackVersions

Key = tuple[int, str]  # (number of a version, name of a method)


def offered_methods() -> list[dict[str, Any]]:
    """The methods of the toolbox, for JSON: [{"name", "title", "year", "missing": what a method
    lacks on this machine, or None}]."""
    return [
        {"name": name, "title": method.title, "year": method.year, "missing": missing(name)}
        for name, method in METHODS.items()
    ]


class StackComparisons(StackVersions):
    """The pictures that methods make of the versions of a stack, besides the versions.

    Args:
        folder, shared: as of StackFrames.
    """

    def __init__(self, folder: Path, shared: Shared) -> None:
        super().__init__(folder, shared)
        self.method_jobs: dict[Key, WorkerJob[MethodSpec]] = {}

    def fuse_by_method(self, number: int, method: str) -> None:
        """Begin to fuse the frames of a version by a method, unless that is done or going on.

        Raises:
            StackError: there is no such method, or it lacks something.
            LookupError: there is no such version.
        """
        if method not in METHODS:
            raise StackError(f"there is no method {method!r}: reload the page")
        if (sentence := missing(method)) is not None:
            raise StackError(sentence)
        with self.lock:
            result, key = self.shown(number), (number, method)
            if key in self.method_jobs or result.has_layer(f"method-{method}"):
                return

            def on_end(sentence: str | None) -> None:
                with self.lock:
                    self.method_jobs.pop(key, None)
                    if sentence:
                        self.refused.append(f"{method}: {self.on_page(sentence)}")
                    (result.files.methods / f"{method}{PART}").unlink(missing_ok=True)
                    self.changed()

            spec = MethodSpec(str(result.folder), str(result.frames_file), method)
            self.refused = [one for one in self.refused if not one.startswith(f"{method}: ")]
            job = self.method_jobs[key] = WorkerJob(spec, lambda told: None, on_end)
            self.shared.fuse_queue.add(job, self.folder.parent)

    def cancel_method(self, number: int, method: str) -> None:
        """Cancel what `fuse_by_method` began; it has ended on return."""
        job = self.method_jobs.get((number, method))
        if job is not None:
            self.shared.fuse_queue.cancel(job)

    def cancel_methods(self, number: int | None = None) -> None:
        """Cancel all of a version; None: of all versions."""
        for version, method in list(self.method_jobs):
            if number in (None, version):
                self.cancel_method(version, method)

    def delete_version(self, number: int) -> None:
        """Delete a version and all that was made of it; LookupError where there is none."""
        self.cancel_methods(number)
        super().delete_version(number)

    def _methods_state(self) -> list[dict[str, Any]]:
        """The methods that are at work or wait, for JSON: [{"run", "method", "before"}]."""
        return [
            {
                "run": f"run-{number}",
                "method": method,
                "before": self.shared.fuse_queue.jobs_ahead(job),
            }
            for (number, method), job in self.method_jobs.items()
        ]
