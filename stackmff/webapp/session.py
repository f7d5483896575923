"""One session: the shelf of stacks that a page works on, in a folder that outlives the server."""

import contextlib
import secrets
import shutil
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stackmff.errors import StackError, sentence_of
from stackmff.files import natural_key, parse_json, write_json
from stackmff.webapp import wording
from stackmff.webapp.example import NAME as EXAMPLE_NAME
from stackmff.webapp.exports import write_all
from stackmff.webapp.finding import Finder
from stackmff.webapp.jobs import ExampleSpec, ExportSpec, Message, PackSpec, WorkerJob
from stackmff.webapp.shelf import ShelfStack
from stackmff.webapp.stack_frames import Shared
from stackmff.webapp.uploads import check_upload, files_below, safe_name, safe_stem

MOST_STACKS = 200
# What a state file of other content makes of the code that reads it.
DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError)
DELETED = ".deleted"  # suffix of the folder of a project that is being deleted
KEEP_EXPORT = 600.0  # seconds that an exported file waits to be downloaded
MOST_EXPORTS = 8  # of a session, that wait or are written


class Export:
    """A file that is being written for a download.

    Args:
        folder: of its own, for the file; the same name may be wanted twice at a time.
        count: of the files that become one archive; 1: it is the file itself.
    """

    def __init__(self, folder: Path, count: int = 1) -> None:
        self.folder, self.left = folder, count
        self.number = secrets.token_hex(8)
        self.made = time.monotonic()
        self.paths: list[Path] = []
        self.notes: list[str] = []
        self.failure: str | None = None
        self.file: Path | None = None
        self.jobs: list[WorkerJob[Any]] = []

    def state(self) -> dict[str, Any]:
        """What the page shows, for JSON."""
        name = None if self.file is None else self.file.name
        done = self.file is not None or self.failure is not None
        return {
            "id": self.number,
            "done": done,
            "name": name,
            "failure": self.failure,
            "notes": self.notes,
        }


class Session:
    """The shelf of one page: its stacks, in the folder of a project.

    Args:
        folder: of the project; created here, or read where it is there already.
        shared: with the other sessions.
        token: the secret name of a new one.
    """

    def __init__(self, folder: Path, shared: Shared, token: str = "") -> None:
        self.folder, self.shared = Path(folder), shared
        self.lock = threading.RLock()
        self.writing = threading.Lock()  # held while project.json is written, before `lock`
        self.seen = time.monotonic()
        self.stacks: dict[int, ShelfStack] = {}
        self.last = 0  # number of the last stack
        self.name: str | None = None
        self.token, self.made = token, time.time()
        self.exports: dict[str, Export] = {}
        self.examples: set[WorkerJob[ExampleSpec]] = set()
        self.finder = Finder(self)
        self.ended = False
        self.resources = contextlib.ExitStack()  # closed with the session
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.folder / "exports", ignore_errors=True)
        (self.folder / "exports").mkdir()
        if (self.folder / "project.json").exists():
            self._load()

    def _load(self) -> None:
        """Read the project in the folder, and its stacks."""
        record = read_project(self.folder)
        self.token, self.name, self.made = record["token"], record["name"], record["made"]
        for folder in sorted(self.folder.glob("stack-*"), key=natural_key):
            number = int(folder.name.partition("-")[2])
            self.last = max(self.last, number)
            if not (folder / "stack.json").exists():  # one that was being deleted
                shutil.rmtree(folder, ignore_errors=True)
                continue
            try:
                self.stacks[number] = ShelfStack(number, folder, self.shared)
            except DAMAGED as error:
                raise StackError(
                    f"{folder} cannot be read ({error}): repair or remove it"
                ) from error

    def save(self) -> None:
        """Write what has changed, to the disk."""
        with self.writing:  # not `lock`, on which the page waits: the disk may be busy
            with self.lock:
                if self.ended:
                    return
                stacks = list(self.stacks.values())
                changed = not (self.folder / "project.json").exists()
                changed = changed or any(stack.dirty for stack in stacks)
                record = {
                    "token": self.token,
                    "name": self.title(),
                    "made": self.made,
                    "used": time.time(),
                    "stacks": sum(bool(stack.frames or stack.versions) for stack in stacks),
                }
            if changed:
                write_json(self.folder / "project.json", record)
        for stack in stacks:
            with contextlib.suppress(FileNotFoundError):  # it was deleted meanwhile
                stack.save()

    def title(self) -> str:
        """The name of the project: that of its first stack, and how many more there are."""
        with self.lock:
            if self.name:
                return self.name
            names = [stack.name() for stack in self.stacks.values() if stack.order]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return f"{names[0]}{more}" if names else "Empty project"

    @property
    def held(self) -> int:
        """Bytes of all uploads, including unfinished ones."""
        with self.lock:
            return sum(stack.held for stack in self.stacks.values())

    def touch(self) -> None:
        """Note that the page is there."""
        self.seen = time.monotonic()

    def busy(self) -> bool:
        """Whether work goes on, or waits."""
        with self.lock:
            jobs = any(
                stack.fuse_job or stack.examine_job or stack.method_jobs
                for stack in self.stacks.values()
            )
            return jobs or bool(self.examples) or self.finder.busy

    def is_empty(self) -> bool:
        """Whether there is nothing that anybody could miss."""
        with self.lock:
            stacks = self.stacks.values()
            return not self.busy() and not any(
                stack.frames or stack.versions or stack.uploads or stack.pending for stack in stacks
            )

    def on_page(self, sentence: str) -> str:
        """A sentence in the words of the page, without the folders of the server."""
        for stack in list(self.stacks.values()):
            sentence = stack.on_page(sentence)
        for folder in (self.folder, self.shared.root):
            sentence = sentence.replace(f"{folder}/", "") if folder is not None else sentence
        return wording.on_page(sentence)

    # Stacks

    def stack(self, number: int) -> ShelfStack:
        """A stack; LookupError where there is none."""
        found = self.stacks.get(number)
        if found is None:
            raise LookupError("this stack was deleted")
        return found

    def add_stack(self, title: str | None = None) -> ShelfStack:
        """A new stack; an empty one without a title is used again."""
        with self.lock:
            if len(self.stacks) >= MOST_STACKS:
                raise StackError(
                    f"{MOST_STACKS} stacks are the maximum: delete some, or begin a new project"
                )
            self.last += 1
            made = ShelfStack(self.last, self.folder / f"stack-{self.last}", self.shared)
            made.title = title
            made.changed()
            self.stacks[self.last] = made
        self.save()
        return made

    def delete_stack(self, number: int) -> None:
        """Delete a stack with all that was made of it; LookupError where there is none."""
        with self.lock:
            stack = self.stack(number)
            del self.stacks[number]
        stack.delete()
        self.save()

    def room_for(self, stack: ShelfStack, word: str, size: int | None) -> Path:
        """Create an empty file for an upload to a stack.

        Args:
            stack: that it is for; word: its name in the browser; size: bytes, None: not declared.
        Raises:
            StackError: the file is refused.
        """
        name = safe_name(word)
        checked = check_upload(size, self.held, self.folder, self.shared.limits)
        return stack.room_for(name, checked)

    def room_for_strokes(self, stack: ShelfStack, word: str, size: int | None) -> Path:
        """Create an empty file for an archive of strokes; arguments and errors as of `room_for`."""
        check_upload(size, self.held, self.folder, self.shared.limits)
        path = stack.arriving / f"{safe_stem(Path(word).stem)}.zip"
        try:
            path.touch(exist_ok=False)
        except FileExistsError as error:
            raise StackError(f"{path.name} is being loaded already: wait a little") from error
        return path

    def open(self, word: str) -> ShelfStack:
        """Open a folder or file below the root as a new stack.

        Raises:
            StackError: as uploads.files_below.
        """
        files = files_below(self.shared.root, word)
        assert self.shared.root is not None
        title = Path(word).stem if Path(word).suffix else Path(word).name
        stack = self.add_stack(title or self.shared.root.name)
        stack.open(files, title or self.shared.root.name)
        return stack

    def add_example(self) -> ShelfStack:
        """Add the stack of the example; its frames are drawn by a process."""
        stack = self.add_stack(EXAMPLE_NAME)
        drawn: list[Path] = []

        def on_message(message: Message) -> None:
            if "drawn" in message:
                drawn.append(Path(message["drawn"]))

        def on_end(sentence: str | None) -> None:
            self.examples.discard(job)
            if sentence:
                stack.failure = sentence
            for path in drawn:
                if stack.arriving.is_dir():
                    stack.uploads[path] = path.stat().st_size
                    stack.arrived(path)

        job = WorkerJob(ExampleSpec(str(stack.arriving)), on_message, on_end)
        self.examples.add(job)
        self.shared.examine_queue.add(job, self.folder)
        return stack

    def fuse_all(self, values: Mapping[str, Any]) -> list[str]:
        """Begin to fuse every stack that has no version yet; returns why some could not."""
        refused = []
        for stack in list(self.stacks.values()):
            if stack.versions or stack.fuse_job is not None or not stack.order:
                continue
            try:
                stack.fuse(values)
            except StackError as error:
                refused.append(f"{stack.name()}: {stack.on_page(str(error))}")
        return refused

    # Exports

    def export(self, wanted: Iterable[tuple[ShelfStack, int]], what: Mapping[str, Any]) -> Export:
        """Begin to write files of versions; several become one archive.

        Args:
            wanted: (stack, number of a version).
            what: as of ShelfStack.export_spec.
        Raises:
            StackError: as there, or too many are being written.
        """
        places = list(wanted)
        with self.lock:
            self._forget_exports()
            if len(self.exports) >= MOST_EXPORTS:
                raise StackError("too many files are being exported: download those first")
            if not places:
                raise StackError("there is no result yet: fuse the frames first")
            folder = self.folder / "exports" / secrets.token_hex(8)
            made = Export(folder, len(places))
            self.exports[made.number] = made
        try:
            for k, (stack, number) in enumerate(places):
                own = folder / str(k)
                own.mkdir(parents=True)
                spec = stack.export_spec(number, what, own)
                made.jobs.append(self._export_job(made, spec))
        except BaseException:
            self.forget_export(made)
            raise
        for job in made.jobs:
            self.shared.export_queue.add(job, self.folder)
        return made

    def export_project(self) -> Export:
        """Begin to write the whole project into one file."""
        self.save()
        with self.lock:
            self._forget_exports()
            if len(self.exports) >= MOST_EXPORTS:
                raise StackError("too many files are being exported: download those first")
            made = Export(self.folder / "exports" / secrets.token_hex(8))
            self.exports[made.number] = made
            made.folder.mkdir(parents=True)
        path = made.folder / f"{safe_stem(self.title())}.stackmff.zip"

        def on_end(sentence: str | None) -> None:
            made.failure = None if sentence is None else self.on_page(sentence) or "cancelled"
            made.file = path if sentence is None else None

        made.jobs.append(
            WorkerJob(PackSpec(str(self.folder), str(path)), lambda told: None, on_end)
        )
        self.shared.export_queue.add(made.jobs[0], self.folder)
        return made

    def _export_job(self, made: Export, spec: ExportSpec) -> WorkerJob[ExportSpec]:
        """The job of one file of an export; the last one puts all of them together."""

        def on_message(message: Message) -> None:
            made.notes += message.get("notes", [])

        def on_end(sentence: str | None) -> None:
            with self.lock:
                made.left -= 1
                if sentence is not None:
                    made.failure = made.failure or self.on_page(sentence) or "cancelled"
                    return
                made.paths.append(Path(spec.path))
                if made.left:
                    return
            if len(made.paths) == 1:
                made.file = made.paths[0]
            elif made.failure is None:
                archive = made.folder / "fused.zip"
                try:
                    write_all(archive, made.paths)
                    made.file = archive
                except OSError as error:
                    made.failure = self.on_page(sentence_of(error))

        return WorkerJob(spec, on_message, on_end)

    def forget_export(self, export: Export) -> None:
        """Remove the file of an export."""
        with self.lock:
            self.exports.pop(export.number, None)
        shutil.rmtree(export.folder, ignore_errors=True)

    def _forget_exports(self) -> None:
        """Remove the files that nobody has downloaded."""
        now = time.monotonic()
        for export in list(self.exports.values()):
            if export.state()["done"] and now - export.made > KEEP_EXPORT:
                self.forget_export(export)

    # What the page shows

    def state(self, number: int | None = None, seen: int | None = None) -> dict[str, Any]:
        """All that the page shows, for JSON.

        Args:
            number: of the stack that it shows in detail; None: none.
            seen: as of ShelfStack.state.
        """
        with self.lock:
            stacks = list(self.stacks.values())
        shown = next((stack for stack in stacks if stack.number == number), None)
        return {
            "name": self.title(),
            "stacks": [stack.summary() for stack in stacks],
            "finding": self.finder.busy,
            "told": self.finder.told,
            "stack": None if shown is None else shown.state(seen),
        }

    def close(self) -> None:
        """Cancel all work, write everything, close all files; they stay."""
        self._cancel()
        for stack in self.stacks.values():
            stack.end()
            stack.changed()
        with contextlib.suppress(StackError, OSError):  # the disk is full, or its folder is gone
            self.save()
        self.ended = True
        shutil.rmtree(self.folder / "exports", ignore_errors=True)
        self.resources.close()

    def delete(self) -> None:
        """Cancel all work and remove all files."""
        self._cancel()
        with self.writing:
            self.ended = True
        for stack in list(self.stacks.values()):
            stack.abandon()
        gone = self.folder.with_name(self.folder.name + DELETED)
        with contextlib.suppress(OSError):  # at once, so that a kill leaves a whole project or none
            self.folder.rename(gone)
        self.resources.close()
        for folder in (gone, self.folder):
            shutil.rmtree(folder, ignore_errors=True)

    def _cancel(self) -> None:
        """Cancel all work that is not of a stack."""
        self.finder.cancel()
        for job in list(self.examples):
            self.shared.examine_queue.cancel(job)
        for export in list(self.exports.values()):
            for one in export.jobs:
                self.shared.export_queue.cancel(one)


def holds_work(folder: Path) -> bool:
    """Whether there is anything in the folder of a project that anybody could miss."""
    made = ("stack-*/in/*", "stack-*/run-*/full/result.json")
    if any(path for pattern in made for path in folder.glob(pattern)):
        return True
    for path in folder.glob("stack-*/stack.json"):
        try:
            record = parse_json(path.read_bytes())
            if record["frames"] or record["pending"]:
                return True
        except DAMAGED:
            return True
    return False


def read_project(folder: Path) -> dict[str, Any]:
    """What a project says of itself: {"token", "name", "made", "used", "stacks"}.

    Raises:
        StackError: the folder is not that of a project.
    """
    try:
        record = parse_json((folder / "project.json").read_bytes())
        return {key: record[key] for key in ("token", "name", "made", "used", "stacks")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StackError(f"{folder} is not a project: delete it") from error
