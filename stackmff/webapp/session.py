"""One session: the frames that a page has brought, the work on them, the result."""

import re
import shutil
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackmff.errors import StackError
from stackmff.files import natural_key
from stackmff.fusion.retouch import Stroke, cost_of, stroke_of, strokes_of
from stackmff.images.folders import NEVER_STACKS
from stackmff.webapp.form import check_values
from stackmff.webapp.jobs import ExamineSpec, FuseSpec, JobQueue, Message, WorkerJob
from stackmff.webapp.results import Box, ShownResult, carry_strokes, waiting_notes
from stackmff.webapp.uploads import (
    MOST_FRAMES,
    UploadLimits,
    check_frames,
    check_room,
    check_upload,
    files_below,
    safe_name,
    safe_stem,
)

LEAVING = 60  # seconds that a page has to return after it was closed or reloaded
MOST_PAINT = 5e9  # px to compute for strokes that are sent at once, about 20 ns each
DRAFT_LEAST = 1600  # px, longest side from which on a draft is shown first


@dataclass
class Shared:
    """What all sessions of a server have in common.

    Attributes:
        limits: of each session.
        root: folder that is shared, or None.
        keep_seconds: a session whose page has not been heard from for this long is removed.
        fuse_values: {name: value} of options of FuseOptions for every run, plain JSON.
        examine_queue, fuse_queue: the two kinds of jobs.
    """

    limits: UploadLimits
    root: Path | None
    keep_seconds: float
    fuse_values: dict[str, Any]
    examine_queue: JobQueue
    fuse_queue: JobQueue


class Session:
    """The frames, the work and the result of one page.

    Args:
        folder: of its temporary files; created here.
        shared: with the other sessions.
    """

    def __init__(self, folder: Path, shared: Shared) -> None:
        self.folder, self.shared = Path(folder), shared
        self.lock = threading.RLock()
        self.seen, self.patience = time.monotonic(), shared.keep_seconds
        self.next_id = self.version = self.runs = self.stacks = 0
        self.examine_job: WorkerJob[ExamineSpec] | None = None
        self.fuse_job: WorkerJob[FuseSpec] | None = None
        self.progress: Message = {}
        self._begin()

    def _begin(self) -> None:
        """Begin a new stack, in a folder of its own, where late files of the old one cannot go."""
        self.stacks += 1
        self.place = self.folder / f"stack-{self.stacks}"
        self.incoming, self.thumbs, self.out = (
            self.place / name for name in ("in", "thumbs", "out")
        )
        self.uploads: dict[Path, int] = {}  # their sizes, also of unfinished ones
        self.frames: dict[int, dict[str, Any]] = {}  # by id, as of worker.examine_frame
        self.order: list[int] = []
        self.excluded: set[int] = set()
        self.arranged = False  # whether the order was set by hand
        self.refused: list[str] = []  # sentences
        self.pending: list[Path] = []  # files to examine
        self.examined: set[str] = set()  # files that the running job has finished
        self.title: str | None = None  # of the folder that the frames come from
        self.failure: str | None = None  # sentence
        self.result: ShownResult | None = None
        self.is_draft = False
        self.former: ShownResult | None = (
            None  # the result before, while a draft of the next is shown
        )
        for path in (self.incoming, self.thumbs, self.out):
            path.mkdir(parents=True)

    @property
    def held(self) -> int:
        """Bytes of all uploads, including unfinished ones."""
        return sum(self.uploads.values())

    def touch(self, leaving: bool = False) -> None:
        """Note that the page is there, or that it is being closed."""
        self.seen = time.monotonic()
        self.patience = LEAVING if leaving else self.shared.keep_seconds

    def without_paths(self, sentence: str) -> str:
        """A sentence without the folders of the server."""
        for folder in (self.incoming, self.thumbs, self.place, self.folder, self.shared.root):
            if folder is not None:
                sentence = re.sub(re.escape(str(folder)) + r"/*", "", sentence)
        return sentence

    # Frames

    def room_for(self, word: str, size: int | None) -> Path:
        """Create an empty file for an upload.

        Args:
            word: its name in the browser.
            size: bytes; None: not declared.
        Raises:
            StackError: the file is refused.
        """
        with self.lock:
            name = safe_name(word)
            path = self.incoming / name
            known = {frame["name"].casefold() for frame in self.frames.values()}
            if path.exists() or name.casefold() in known:
                raise StackError(f"{name} is already there: rename the file, or begin a new stack")
            if max(len(self.uploads), len(self.frames)) >= MOST_FRAMES:
                raise StackError(
                    f"{name} is one too many, and {MOST_FRAMES} frames are the maximum: upload "
                    "fewer frames"
                )
            held = check_upload(size, self.held, self.folder, self.shared.limits)
            path.touch()
            self.uploads[path] = held
            return path

    def drop(self, path: Path) -> None:
        """Forget a file that did not arrive, or that is not a frame."""
        with self.lock:
            self.uploads.pop(path, None)
            path.unlink(missing_ok=True)

    def arrived(self, path: Path, title: str | None = None) -> None:
        """Examine a file that is complete; title: of the folder that it comes from."""
        with self.lock:
            if not path.exists():  # the stack was cleared meanwhile
                return
            self.title = title or self.title
            self._examine([path])

    def open(self, word: str) -> None:
        """Open a folder or file below the root as a new stack.

        Raises:
            StackError: as uploads.files_below.
        """
        files = files_below(self.shared.root, word)
        assert self.shared.root is not None
        self.clear()
        with self.lock:
            title = Path(word).stem if Path(word).suffix else Path(word).name
            self.title = title or self.shared.root.name
            self._examine(files)

    def _examine(self, files: Iterable[Path]) -> None:
        self.pending += files
        if self.examine_job is not None or not self.pending:
            return
        spec = ExamineSpec(
            files=[str(file) for file in self.pending],
            folder=str(self.thumbs),
            first_id=self.next_id,
            frame_pixels=self.shared.limits.frame_pixels,
        )
        self.pending, self.examined = [], set()
        self.examine_job = WorkerJob(spec, self._on_examined, self._on_examine_end)
        self.shared.examine_queue.add(self.examine_job)

    def _on_examined(self, message: Message) -> None:
        with self.lock:
            if self.examine_job is not None and self.examine_job.cancelled:  # of a cleared stack
                return
            if "frame" in message:
                self._add_frame(message["frame"])
            elif "refused" in message:
                self.refused.append(self.without_paths(message["sentence"]))
                path = Path(message["refused"])
                self._forget_frames_of(path)
                if path.parent == self.incoming:
                    self.drop(path)
            elif "examined" in message:
                self.examined.add(message["examined"])

    def _add_frame(self, frame: dict[str, Any]) -> None:
        self.next_id = max(self.next_id, frame["id"] + 1)
        self.frames[frame["id"]] = frame
        if Path(frame["name"]).stem.casefold() in NEVER_STACKS:  # an answer, not a frame
            self.excluded.add(frame["id"])
        self.order.append(frame["id"])
        if not self.arranged:
            self.order.sort(key=lambda key: natural_key(self.frames[key]["name"]))

    def _forget_frames_of(self, file: Path) -> None:
        """Forget the frames of a refused file that precede the broken one: nobody would notice
        that the others are missing."""
        for key in [key for key, frame in self.frames.items() if frame["file"] == str(file)]:
            del self.frames[key]
            self.order.remove(key)
            self.excluded.discard(key)
            for suffix in (".jpg", ".png"):
                (self.thumbs / f"{key}{suffix}").unlink(missing_ok=True)

    def _on_examine_end(self, sentence: str | None) -> None:
        with self.lock:
            assert self.examine_job is not None
            files = self.examine_job.spec.files
            self.examine_job = None
            if sentence:  # one file has ended the process; the others may be good
                left = [Path(file) for file in files if file not in self.examined]
                left = [file for file in left if file.exists()]
                if left:
                    bad, *rest = left
                    self._on_examined({"refused": str(bad), "sentence": f"{bad.name}: {sentence}"})
                    self.pending = rest + self.pending
            self._examine([])

    def arrange(self, order: Sequence[int], excluded: Sequence[int]) -> None:
        """Set the order of the frames and those that are excluded, both by their ids.

        Raises:
            StackError: these are not the ids of the frames.
        """
        with self.lock:
            known = all(type(key) is int and key in self.frames for key in [*order, *excluded])
            if not known or sorted(order) != sorted(self.order):
                raise StackError("the frames have changed in the meantime: reload the page")
            self.arranged = self.arranged or list(order) != self.order
            self.order, self.excluded = list(order), set(excluded)

    def clear(self) -> None:
        """Begin a new stack, without frames, result and files."""
        with self.lock:
            for job in (self.fuse_job, self.examine_job):
                if job is not None:
                    job.cancelled = True  # its messages are ignored from now on
            left = self.place
            self._begin()
            self.version += 1
        self.cancel()
        shutil.rmtree(left, ignore_errors=True)

    # Work

    def fuse(self, values: Mapping[str, Any]) -> None:
        """Begin to fuse.

        Args:
            values: {name: value} of the options in form.fuse_form; each may be missing.
        Raises:
            StackError: as form.check_values; or the frames do not go together, or do not fit into
                memory or on the disk.
        """
        values = check_values(values)
        with self.lock:
            if self.fuse_job is not None:
                raise StackError("these frames are being fused already: cancel that first")
            use = [self.frames[key] for key in self.order if key not in self.excluded]
            check_frames(use)
            check_room(use, self.folder)
            self.runs += 1
            run = self.place / f"run-{self.runs}"
            longest = max(use[0]["width"], use[0]["height"])
            spec = FuseSpec(
                frames=[(frame["file"], frame["number"]) for frame in use],
                names=[frame["name"] for frame in use],
                small=[str(self.thumbs / f"{frame['id']}.png") for frame in use],
                options=self.shared.fuse_values
                | values
                | ({"order": "given"} if self.arranged else {}),
                draft=str(run / "draft") if longest >= DRAFT_LEAST else None,
                full=str(run / "full"),
            )
            self.refused, self.failure = [], None
            self.progress = {"stage": "waiting", "done": 0, "total": 0}
            self.fuse_job = WorkerJob(spec, self._on_fusing, self._on_fuse_end)
            self.shared.fuse_queue.add(self.fuse_job)

    def _on_fusing(self, message: Message) -> None:
        if "stage" in message:
            self.progress = message
        if "made" not in message:
            return
        with self.lock:
            assert self.fuse_job is not None
            if self.fuse_job.cancelled:
                return
            made = ShownResult(getattr(self.fuse_job.spec, message["made"]))
            before = [self.former, self.result]
            if message["made"] == "draft":
                if not self.is_draft:
                    self.former = before.pop()  # it is shown again if this run is cancelled
                self.is_draft = True
            else:
                self.is_draft = False
                carry_strokes(self.former or self.result, made)
                self.former = None
            self.result = made
            self._follow(made.names)
            self.version += 1
        self._remove(before)

    def _follow(self, names: Sequence[str]) -> None:
        """Show the frames in the order in which they were fused; the others keep their places."""
        if self.arranged:
            return
        place = {name: k for k, name in enumerate(names)}
        places = {key: place.get(self.frames[key]["name"], -1) for key in self.order}
        fused = iter(sorted((k for k in self.order if places[k] >= 0), key=places.__getitem__))
        self.order = [k if places[k] < 0 else next(fused) for k in self.order]

    def _on_fuse_end(self, sentence: str | None) -> None:
        with self.lock:
            assert self.fuse_job is not None
            job, self.fuse_job, self.progress = self.fuse_job, None, {}
            former, self.former = self.former, None
            if sentence:
                self.failure = self.without_paths(sentence)
            if former is not None:
                former, self.result = self.result, former
                self.is_draft = False
                self.version += 1
            shown = self.result and str(self.result.folder)
        self._remove([former])
        for folder in (job.spec.draft, job.spec.full):  # unfinished results
            if folder is not None and folder != shown:
                shutil.rmtree(folder, ignore_errors=True)

    def _remove(self, results: Iterable[ShownResult | None]) -> None:
        """Remove the files of results that are no longer shown."""
        for result in results:
            if result is not None:
                shutil.rmtree(result.folder, ignore_errors=True)

    def cancel(self) -> None:
        """Cancel all work; it has ended on return."""
        self.cancel_fusing()
        if (job := self.examine_job) is not None:
            self.shared.examine_queue.cancel(job)

    def cancel_fusing(self) -> None:
        """Cancel the fusion alone."""
        if (job := self.fuse_job) is not None:
            self.shared.fuse_queue.cancel(job)

    # Results

    def ready(self, whole: bool = False) -> ShownResult:
        """The result.

        Args:
            whole: a draft does not count.
        Raises:
            StackError: there is none.
        """
        result = self.result
        if result is None or (whole and self.is_draft):
            raise StackError("there is no result yet: fuse the frames first")
        return result

    def paint(self, record: Mapping[str, Any]) -> list[Box]:
        """Paint a stroke, see retouch.stroke_of; return the boxes that have changed."""
        with self.lock:
            result = self.ready(whole=True)
            try:
                stroke = stroke_of(record, result.names)
            except (ValueError, KeyError, TypeError) as error:
                raise StackError(f"this stroke cannot be painted: {error}") from error
            return self._paint(result, [stroke])

    def replay(self, record: Mapping[str, Any]) -> list[Box]:
        """Paint the strokes of a file, see retouch.save_strokes, in addition to those there are."""
        with self.lock:
            result = self.ready(whole=True)
            name = str(record.get("name", "this file"))
            strokes = strokes_of(record, name, result.names, result.size)
            return self._paint(result, strokes)

    def _paint(self, result: ShownResult, strokes: Sequence[Stroke]) -> list[Box]:
        if sum(cost_of(stroke, result.size) for stroke in strokes) > MOST_PAINT:
            raise StackError(
                "these strokes would take minutes to paint: paint shorter or thinner ones"
            )
        boxes = [result.paint(stroke) for stroke in strokes]
        self.version += 1
        return boxes

    def undo(self, count: int) -> list[Box]:
        """Undo the last strokes; return the boxes that have changed."""
        with self.lock:
            boxes = self.ready(whole=True).undo(count)
            self.version += 1
        return boxes

    def name(self) -> str:
        """The name of exported files: that of the folder or video, else of the reference frame."""
        if self.title:
            return safe_stem(self.title)
        files = {frame["file"] for frame in self.frames.values()}
        if len(files) == 1:
            return safe_stem(Path(*files).stem)
        result = self.ready()
        reference = len(result.names) // 2
        if result.alignment is not None:
            reference = result.alignment.reference
        return safe_stem(Path(result.names[reference]).stem)

    def state(self) -> dict[str, Any]:
        """All that the page shows, for JSON."""
        with self.lock:
            most = max((frame["sharpness"] for frame in self.frames.values()), default=1) or 1
            job, result = self.fuse_job, self.result
            work = None
            if job is not None:
                work = self.progress | {"before": self.shared.fuse_queue.jobs_ahead(job)}
            return {
                "frames": [self._frame_state(key, most) for key in self.order],
                "refused": self.refused,
                "examining": self.examine_job is not None,
                "work": work,
                "failure": self.failure,
                "version": self.version,
                "result": None if result is None else self._result_state(result),
            }

    def _frame_state(self, key: int, most: float) -> dict[str, Any]:
        frame = self.frames[key]
        return {
            "id": key,
            "name": frame["name"],
            "width": frame["width"],
            "height": frame["height"],
            "sharpness": round(frame["sharpness"] / most, 3),
            "used": key not in self.excluded,
        }

    def _result_state(self, result: ShownResult) -> dict[str, Any]:
        notes = [*result.notes, *waiting_notes(result.waiting)]
        return {
            "run": result.name,
            "draft": self.is_draft,
            "width": result.width,
            "height": result.height,
            "names": result.names,
            "kept": result.kept,
            "notes": [self.without_paths(note) for note in notes],
            "seconds": round(result.seconds, 1),
            "confidence": result.confidence is not None,
            "bits": 8 * result.frames.itemsize,
            "area": result.area,
            "slabs": result.files.slabs.is_dir(),
            "strokes": len(result.strokes),
        }

    def end(self) -> None:
        """Cancel all work and remove all files."""
        self.pending = []
        self.cancel()
        shutil.rmtree(self.folder, ignore_errors=True)
