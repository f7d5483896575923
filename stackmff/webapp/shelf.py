"""One stack on the shelf of a session: its frames, the work on them, the versions made of them."""

import contextlib
import json
import re
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackmff.errors import StackError
from stackmff.files import natural_key, parse_json, write_json
from stackmff.fusion.retouch import Stroke, cost_of, save_strokes, stroke_of, strokes_of
from stackmff.images.folders import NEVER_STACKS
from stackmff.webapp.exports import DEEP, OTHERS, SUFFIXES, Area
from stackmff.webapp.form import check_values
from stackmff.webapp.jobs import ExamineSpec, ExportSpec, FuseSpec, JobQueue, Message, WorkerJob
from stackmff.webapp.kept_frames import forget
from stackmff.webapp.result_files import ResultFiles, ResultRecord, load_record
from stackmff.webapp.results import (
    Box,
    FramePicture,
    ShownResult,
    Stamps,
    carry_strokes,
    waiting_notes,
)
from stackmff.webapp.strokes import Painted, StrokeLog
from stackmff.webapp.uploads import (
    MOST_FRAMES,
    UploadLimits,
    check_declared,
    check_frames,
    check_room,
    odd_sizes,
    safe_stem,
)
from stackmff.webapp.work_plan import WorkPlan, stages_of

LEAST_PAINT = 1e8  # px to compute for strokes that are sent at once, about 20 ns each
PAINT_TIMES = 25  # the same, times the pixels of the picture
DRAFT_LEAST = 1600  # px, longest side from which on a draft is shown first
MOST_SHOWN = 4  # results that are open at a time
MOST_OPEN_FRAMES = 6  # unfused frames that are open at a time
# What decides whether frames can be used again that are in register: options of the page.
OF_ALIGNMENT = ("align", "match_exposure")
UNREADABLE = (StackError, OSError, ValueError, KeyError, TypeError, EOFError)  # a damaged file
TEMPLATE = "{stack}_fused"  # name of an exported picture
INTERRUPTED = "the server was stopped while it fused this stack: fuse it again"


@dataclass
class Shared:
    """What all sessions of a server have in common.

    Attributes:
        limits: of each session.
        root: folder that is shared, or None.
        keep_seconds: a session whose page has not been heard from for this long is closed.
        fuse_values: {name: value} of options of FuseOptions for every run, plain JSON.
        examine_queue, fuse_queue, export_queue: the kinds of jobs.
    """

    limits: UploadLimits
    root: Path | None
    keep_seconds: float
    fuse_values: dict[str, Any]
    examine_queue: JobQueue
    fuse_queue: JobQueue
    export_queue: JobQueue


class Version:
    """One result of a stack, which is kept until it is deleted.

    Args:
        number: of its run, from 1.
        folder: of the result, see result_files.ResultFiles.
    """

    def __init__(self, number: int, folder: Path) -> None:
        self.number, self.folder = number, folder
        self.files = ResultFiles(folder)
        self.record: ResultRecord = load_record(self.files.record)
        self.stamps = Stamps()
        self._painted: Painted | None = None
        self.broken: str | None = None  # sentence on what it lacks

    def open(self) -> ShownResult:
        """The result, opened.

        Raises:
            StackError: its files are damaged.
        """
        try:
            result = ShownResult(self.folder, stamps=self.stamps)
        except UNREADABLE as error:
            self.broken = f"version {self.number} cannot be read: {error}"
            raise StackError(self.broken) from error
        self._painted = result.painted_with
        return result

    @property
    def painted(self) -> Painted:
        """Its strokes, also while the result is not open."""
        if self._painted is None:
            self._painted = StrokeLog(self.files.strokes, self.record.names).read()
        return self._painted

    @property
    def run(self) -> str:
        """Its name in addresses."""
        return f"run-{self.number}"


class ShelfStack:
    """The frames, the work and the versions of one stack.

    Args:
        number: of the stack in its session.
        folder: of its files; created here, or read where it is there already.
        shared: with the other stacks of the server.
    """

    def __init__(self, number: int, folder: Path, shared: Shared) -> None:
        self.number, self.folder, self.shared = number, Path(folder), shared
        self.lock = threading.RLock()
        self.incoming, self.arriving, self.thumbs, self.decoded = (
            self.folder / name for name in ("in", "arriving", "thumbs", "decoded")
        )
        self.examine_job: WorkerJob[ExamineSpec] | None = None
        self.fuse_job: WorkerJob[FuseSpec] | None = None
        self.plan: WorkPlan | None = None
        self.uploads: dict[Path, int] = {}  # their sizes, also of unfinished ones
        self.frames: dict[int, dict[str, Any]] = {}  # by id, as of worker.examine_frame
        self.order: list[int] = []
        self.excluded: set[int] = set()
        self.arranged = False  # whether the order was set by hand
        self.in_order = False  # whether the order was checked by a fusion
        self.refused: list[str] = []  # sentences
        self.strangers: list[str] = []  # names of files that are not pictures
        self.pending: list[Path] = []  # files to examine
        self.examined: set[str] = set()  # files that the running job has finished
        self.title: str | None = None  # of the folder that the frames come from
        self.failure: str | None = None  # sentence
        self.versions: list[Version] = []
        self.draft: ShownResult | None = None
        self.next_id = self.runs = self.drafts = self.changes = 0
        self.wanted: dict[str, Any] | None = None  # values of the run that goes on
        self.values: dict[str, Any] = {}  # of the last run
        self.open_results: OrderedDict[int, ShownResult] = OrderedDict()
        self.open_frames: OrderedDict[tuple[int, int], FramePicture] = OrderedDict()
        self.dirty = False
        for path in (self.incoming, self.arriving, self.thumbs, self.decoded):
            path.mkdir(parents=True, exist_ok=True)
        if (self.folder / "stack.json").exists():
            self._load()

    # On the disk

    def changed(self) -> None:
        """Note that the state differs from what the page and the disk have."""
        self.changes += 1
        self.dirty = True

    def save(self) -> None:
        """Write what is known of the stack, if it has changed since."""
        with self.lock:
            if not self.dirty:
                return
            self.dirty = False
            running = self.examine_job.spec.files if self.examine_job else []
            left = [Path(file) for file in running if file not in self.examined]
            record = {
                "title": self.title,
                "frames": [
                    frame | {"file": self._inside(frame["file"])} for frame in self.frames.values()
                ],
                "order": self.order,
                "excluded": sorted(self.excluded),
                "arranged": self.arranged,
                "in_order": self.in_order,
                "pending": [self._inside(file) for file in (*left, *self.pending)],
                "next_id": self.next_id,
                "runs": self.runs,
                "wanted": self.wanted,
                "values": self.values,
                "refused": self.refused,
            }
        write_json(self.folder / "stack.json", record)

    def _inside(self, file: str | Path) -> str:
        """A file as it is told on the disk: by its place in the folder of the stack, if it is
        there, so that projects can be moved."""
        path = Path(file)
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path)

    def _outside(self, file: str) -> Path:
        """The reverse of `_inside`; a file that is neither in the folder of the stack nor below the
        root is not taken from a project that may come from anybody."""
        path = (self.folder / file).resolve()
        root = self.shared.root
        if path.is_relative_to(self.folder.resolve()):
            return self.folder / file
        shared = root is not None and path.is_relative_to(root)
        return path if shared else self.folder / "not there"

    def _load(self) -> None:
        """Read what `save` wrote, and what was made since."""
        record = parse_json((self.folder / "stack.json").read_bytes())
        shutil.rmtree(self.arriving, ignore_errors=True)  # uploads that were cut
        self.arriving.mkdir()
        self.title, self.arranged = record["title"], record["arranged"]
        self.in_order, self.values = record["in_order"], record["values"]
        self.refused = record["refused"]
        self.next_id, self.runs = record["next_id"], record["runs"]
        self.uploads = {path: path.stat().st_size for path in self.incoming.iterdir()}
        for frame in record["frames"]:
            frame["file"] = str(self._outside(frame["file"]))
            if Path(frame["file"]).exists() and (self.thumbs / f"{frame['id']}.png").exists():
                self.frames[frame["id"]] = frame
        self.order = [key for key in record["order"] if key in self.frames]
        self.excluded = {key for key in record["excluded"] if key in self.frames}
        known = {frame["file"] for frame in self.frames.values()}
        left = [self._outside(file) for file in record["pending"]]
        left += [path for path in sorted(self.uploads) if str(path) not in known]
        left = [path for path in dict.fromkeys(left) if path.exists()]
        for path in left:  # some of its frames may have been examined
            self._forget_frames_of(path)
        if record["wanted"] is not None:
            self.failure = INTERRUPTED
        for folder in sorted(self.folder.glob("run-*"), key=natural_key):
            number = int(folder.name.partition("-")[2])
            self.runs = max(self.runs, number)
            if not self._adopt(number):
                shutil.rmtree(folder, ignore_errors=True)
        for folder in self.folder.glob("aligned-*"):
            if not (folder / "aligned.json").exists():
                shutil.rmtree(folder, ignore_errors=True)
        self.changed()
        self._examine(left)

    def _adopt(self, number: int) -> bool:
        """Add the result of a run to the versions; remove its draft. False where it was cut."""
        folder = self.folder / f"run-{number}"
        shutil.rmtree(folder / "draft", ignore_errors=True)
        if not (folder / "full" / "result.json").exists():
            return False
        try:
            self.versions.append(Version(number, folder / "full"))
        except UNREADABLE as error:
            self.refused.append(f"version {number} cannot be read ({error}), and is left as it is")
        return True

    @property
    def held(self) -> int:
        """Bytes of all uploads, including unfinished ones."""
        return sum(self.uploads.values())

    def without_paths(self, sentence: str) -> str:
        """A sentence without the folders of the server."""
        places = (self.incoming, self.arriving, self.thumbs, self.folder, self.folder.parent)
        for folder in (*places, self.shared.root):
            if folder is not None:
                sentence = re.sub(re.escape(str(folder)) + r"/*", "", sentence)
        return sentence

    # Frames

    def room_for(self, name: str, size: int) -> Path:
        """Create an empty file for an upload.

        Args:
            name: a safe one; size: bytes.
        Raises:
            StackError: a file of that name is there, or there are too many.
        """
        with self.lock:
            path = self.arriving / name
            known = {frame["name"].casefold() for frame in self.frames.values()}
            if path.exists() or (self.incoming / name).exists() or name.casefold() in known:
                raise StackError(f"{name} is already in the stack, skipped")
            if max(len(self.uploads), len(self.frames)) >= MOST_FRAMES:
                raise StackError(
                    f"{name} is one too many, and {MOST_FRAMES} frames are the maximum: upload "
                    "fewer frames"
                )
            path.touch()
            self.uploads[path] = size
            return path

    def drop(self, path: Path) -> None:
        """Forget a file that did not arrive, or that is not a frame."""
        with self.lock:
            self.uploads.pop(path, None)
            path.unlink(missing_ok=True)

    def arrived(self, path: Path, title: str | None = None) -> None:
        """Examine a file that is complete; title: of the folder that it comes from."""
        with self.lock:
            if not path.exists():  # the stack was deleted meanwhile
                return
            self.title = title or self.title
            size = self.uploads.pop(path)
            path = path.replace(self.incoming / path.name)
            self.uploads[path] = size
            self._examine([path])

    def open(self, files: Iterable[Path], title: str) -> None:
        """Examine files of the server."""
        with self.lock:
            self.title = title
            self._examine(files)

    def _examine(self, files: Iterable[Path]) -> None:
        self.pending += files
        self.changed()
        if self.examine_job is not None or not self.pending:
            return
        free = shutil.disk_usage(self.folder).free
        spec = ExamineSpec(
            files=[str(file) for file in self.pending],
            folder=str(self.thumbs),
            first_id=self.next_id,
            frame_pixels=self.shared.limits.frame_pixels,
            decoded=str(self.decoded),
            decoded_room=free // 4,
        )
        self.pending, self.examined = [], set()
        self.examine_job = WorkerJob(spec, self._on_examined, self._on_examine_end)
        self.shared.examine_queue.add(self.examine_job)

    def _on_examined(self, message: Message) -> None:
        with self.lock:
            if self.examine_job is not None and self.examine_job.cancelled:  # of a deleted stack
                return
            if "frame" in message:
                self._add_frame(message["frame"])
            elif "refused" in message:
                self._refuse(Path(message["refused"]), message["sentence"])
            elif "examined" in message:
                self.examined.add(message["examined"])
            self.changed()

    def _refuse(self, path: Path, sentence: str) -> None:
        sentence = self.without_paths(sentence)
        if " is not a picture" in sentence and sentence.startswith(path.name):
            self.strangers.append(path.name)
        else:
            self.refused.append(sentence)
        self._forget_frames_of(path)
        if path.parent == self.incoming:
            self.drop(path)

    def _add_frame(self, frame: dict[str, Any]) -> None:
        self.next_id = max(self.next_id, frame["id"] + 1)
        self.frames[frame["id"]] = frame
        if Path(frame["name"]).stem.casefold() in NEVER_STACKS:  # an answer, not a frame
            self.excluded.add(frame["id"])
        self.order.append(frame["id"])
        self.in_order = False
        if not self.arranged:
            self.order.sort(key=lambda key: natural_key(self.frames[key]["name"]))

    def _forget_frames_of(self, file: Path) -> None:
        """Forget the frames of a refused file that precede the broken one: nobody would notice
        that the others are missing."""
        for key in [key for key, frame in self.frames.items() if frame["file"] == str(file)]:
            del self.frames[key]
            self.order.remove(key)
            self.excluded.discard(key)
            forget(self.decoded / f"{key}.npy")
            for suffix in (".jpg", ".png"):
                (self.thumbs / f"{key}{suffix}").unlink(missing_ok=True)

    def _on_examine_end(self, sentence: str | None) -> None:
        with self.lock:
            assert self.examine_job is not None
            files = self.examine_job.spec.files
            cancelled = self.examine_job.cancelled
            self.examine_job = None
            if sentence and not cancelled:  # one file ended the process; the others may be good
                left = [Path(file) for file in files if file not in self.examined]
                left = [file for file in left if file.exists()]
                if left:
                    bad, *rest = left
                    self._refuse(bad, f"{bad.name}: {sentence}")
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
            moved = list(order) != self.order
            self.arranged = self.arranged or moved
            self.in_order = self.in_order and not moved
            self.order, self.excluded = list(order), set(excluded)
            self.changed()

    def frame_picture(self, key: int) -> FramePicture:
        """A frame as it is shown before it is fused; LookupError where there is none."""
        with self.lock:
            if key not in self.frames:
                raise LookupError("there is no such frame")
            frame, kept = self.frames[key], self.decoded / f"{key}.npy"
            known = (key, kept.with_suffix(".json").exists())
            if known not in self.open_frames:
                size, small = (frame["height"], frame["width"]), self.thumbs / f"{key}.png"
                check_declared(small, self.shared.limits.frame_pixels)
                self.open_frames[known] = FramePicture(kept, small, size)
                while len(self.open_frames) > MOST_OPEN_FRAMES:
                    self.open_frames.popitem(last=False)
            return self.open_frames[known]

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
            run = self.folder / f"run-{self.runs}"
            middle = use[len(use) // 2]
            deep = max(middle["width"], middle["height"]) >= DRAFT_LEAST
            options = self.shared.fuse_values | values
            options |= {"order": "given"} if self.arranged else {}
            aligned = self._aligned_for(use, options)
            spec = FuseSpec(
                frames=[(frame["file"], frame["number"]) for frame in use],
                names=[frame["name"] for frame in use],
                small=[str(self.thumbs / f"{frame['id']}.png") for frame in use],
                options=options,
                # While there is a version, that is what is looked at.
                draft=str(run / "draft") if deep and not self.versions else None,
                full=str(run / "full"),
                aligned=str(aligned),
                decoded=[str(self.decoded / f"{frame['id']}.npy") for frame in use],
                whole=(middle["height"], middle["width"]),
            )
            self.refused, self.strangers, self.failure = [], [], None
            self.plan = WorkPlan(stages_of(spec, (aligned / "aligned.json").exists()))
            self.wanted = self.values = values
            self.fuse_job = WorkerJob(spec, self._on_fusing, self._on_fuse_end)
            self.changed()
            self.save()
            self.shared.fuse_queue.add(self.fuse_job)

    def _aligned_for(self, use: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> Path:
        """The folder of these frames in register, by these options; it may have to be filled."""
        key = {
            "frames": [[self._inside(frame["file"]), frame["number"]] for frame in use],
            "options": {name: options.get(name) for name in (*OF_ALIGNMENT, "order")},
        }
        for folder in self.folder.glob("aligned-*"):
            with contextlib.suppress(OSError, ValueError):
                if json.loads((folder / "key.json").read_text(encoding="utf-8")) == key:
                    return folder
        folder = self.folder / f"aligned-{self.runs}"
        folder.mkdir()
        write_json(folder / "key.json", key)
        return folder

    def _on_fusing(self, message: Message) -> None:
        with self.lock:
            job = self.fuse_job
            if job is None or job.cancelled:
                return
            if "stage" in message and self.plan is not None:
                self.plan.follow(message)
            if message.get("made") == "draft" and job.spec.draft is not None:
                self.draft = ShownResult(job.spec.draft)
                self.drafts += 1
                self.changed()
            elif message.get("made") == "full":
                self._finish()

    def _finish(self) -> None:
        """Make a version of the result of the run that goes on."""
        assert self.fuse_job is not None
        folder = Path(self.fuse_job.spec.full)
        before = self.versions[-1] if self.versions else None
        number = int(folder.parent.name.partition("-")[2])
        self.versions.append(Version(number, folder))
        self.draft = None
        made = self.shown(number)
        carry_strokes(None if before is None else self.shown(before.number), made)
        self.wanted = None
        self.in_order = self.fuse_job.spec.options.get("order") != "given"
        self._follow(made.names)
        self.changed()

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
            job, self.fuse_job, self.plan = self.fuse_job, None, None
            self.wanted = self.draft = None
            if sentence:
                self.failure = self.without_paths(sentence)
            run = Path(job.spec.full).parent
            made = any(version.folder.parent == run for version in self.versions)
            # Its process has ended, so that the next run can have its number.
            self.runs -= 0 if made else 1
            self.changed()
            self._remove_unused_aligned()
            shutil.rmtree(run / "draft" if made else run, ignore_errors=True)

    def _remove_unused_aligned(self) -> None:
        """Remove frames in register that no version shows."""
        used = {version.record.aligned for version in self.versions}
        for folder in self.folder.glob("aligned-*"):
            if folder.name not in used:
                shutil.rmtree(folder, ignore_errors=True)

    def cancel(self) -> None:
        """Cancel all work; it has ended on return."""
        self.cancel_fusing()
        if (job := self.examine_job) is not None:
            self.shared.examine_queue.cancel(job)

    def cancel_fusing(self) -> None:
        """Cancel the fusion alone."""
        if (job := self.fuse_job) is not None:
            self.shared.fuse_queue.cancel(job)

    # Versions

    def shown(self, number: int | None = None) -> ShownResult:
        """The result of a version; None: of the last one.

        Raises:
            StackError: there is none yet.
            LookupError: this one is not there.
        """
        with self.lock:
            if not self.versions and (number is None or number > self.runs or self.fuse_job):
                raise StackError("there is no result yet: fuse the frames first")
            number = self.versions[-1].number if number is None else number
            version = next((one for one in self.versions if one.number == number), None)
            if version is None:
                raise LookupError("this version was deleted")
            if number not in self.open_results:
                self.open_results[number] = version.open()
            self.open_results.move_to_end(number)
            while len(self.open_results) > MOST_SHOWN:
                self.open_results.popitem(last=False)
            return self.open_results[number]

    def of_run(self, run: str) -> ShownResult:
        """The result of a name in addresses, "run-3" or "draft-3"; LookupError if it is gone."""
        kind, _, number = run.partition("-")
        if kind == "draft" and run == self._draft_run():
            if self.draft is not None:
                return self.draft
            if self.versions:  # a page that does not know yet asks for the same place of it
                return self.shown()
        if kind != "run" or not number.isdecimal():
            raise LookupError("there is no such result")
        try:
            return self.shown(int(number))
        except StackError as error:
            raise LookupError(str(error)) from error

    def _draft_run(self) -> str:
        return f"draft-{self.drafts}"

    def delete_version(self, number: int) -> None:
        """Delete a version and its strokes; LookupError where there is none."""
        with self.lock:
            self.shown(number)
            version = next(one for one in self.versions if one.number == number)
            self.versions.remove(version)
            self.open_results.pop(number, None)
            self._remove_unused_aligned()
            self.changed()
        shutil.rmtree(version.folder.parent, ignore_errors=True)

    def paint(self, number: int, record: Mapping[str, Any]) -> list[Box]:
        """Paint a stroke, see retouch.stroke_of; return the boxes that have changed."""
        with self.lock:
            result = self.shown(number)
            try:
                stroke = stroke_of(record, result.names)
            except (ValueError, KeyError, TypeError) as error:
                raise StackError(f"this stroke cannot be painted: {error}") from error
            return self._paint(result, [stroke])

    def replay(self, number: int, record: Mapping[str, Any]) -> list[Box]:
        """Paint the strokes of a file, see retouch.save_strokes, in addition to those there are."""
        with self.lock:
            result = self.shown(number)
            name = str(record.get("name", "this file"))
            strokes = strokes_of(record, name, result.names, result.size)
            return self._paint(result, strokes)

    def _paint(self, result: ShownResult, strokes: Sequence[Stroke]) -> list[Box]:
        most = max(LEAST_PAINT, PAINT_TIMES * result.height * result.width)
        if sum(cost_of(stroke, result.size) for stroke in strokes) > most:
            raise StackError(
                "these strokes would take minutes to paint: paint shorter or thinner ones"
            )
        return [result.paint(stroke) for stroke in strokes]

    def undo(self, number: int, count: int) -> list[Box]:
        """Undo the last strokes; return the boxes that have changed."""
        with self.lock:
            return self.shown(number).undo(count)

    def redo(self, number: int, count: int = 1) -> list[Box]:
        """Redo the strokes that were undone last; return the boxes that have changed."""
        with self.lock:
            return self.shown(number).redo(count)

    def export_spec(self, number: int, wanted: Mapping[str, Any], folder: Path) -> ExportSpec:
        """What writes an exported file into a folder.

        Args:
            number: of the version.
            wanted: {"what", "format", "bits", "quality", "srgb", "area", "name"}, from JSON; all
                may be missing. In the name of a picture {stack} and {version} are replaced.
            folder: for the file; the strokes are written beside it.
        Raises:
            StackError: something that is wanted does not exist.
        """
        with self.lock:
            result = self.shown(number)
            strokes = folder / "strokes.json"
            save_strokes(strokes, result.strokes, result.names, result.size)
            what, kind = wanted.get("what", "picture"), wanted.get("format", "png")
            if what != "picture" and what not in OTHERS:
                raise StackError(f"this result has no {what}: choose something else")
            if kind not in SUFFIXES:
                raise StackError("this format is not supported: choose PNG, TIFF, JPEG or WebP")
            template = str(wanted.get("name") or TEMPLATE)
            if what != "picture":
                template = f"{{stack}}_{what}"
            name = template.replace("{stack}", self.name()).replace("{version}", str(number))
            suffix = SUFFIXES[kind] if what == "picture" else OTHERS[what]
            quality = wanted.get("quality")
            if quality is not None and not (type(quality) is int and 1 <= quality <= 100):
                raise StackError(f"the quality {quality} is not a whole number from 1 to 100")
            return ExportSpec(
                result=str(result.folder),
                strokes=str(strokes),
                path=str(folder / f"{safe_stem(name)}{suffix}"),
                what=what,
                bits=16 if wanted.get("bits") == 16 and kind in DEEP else 8,
                quality=quality,
                srgb=wanted.get("srgb") is True,
                area=area_of(wanted.get("area"), result),
            )

    def name(self) -> str:
        """The name of the stack: that of its folder or video, else of its reference frame."""
        if self.title:
            return safe_stem(self.title)
        files = {frame["file"] for frame in self.frames.values()}
        if len(files) == 1:
            return safe_stem(Path(*files).stem)
        if self.versions:
            names = self.versions[-1].record.names
            reference = len(names) // 2
            result = self.open_results.get(self.versions[-1].number)
            if result is not None and result.alignment is not None:
                reference = result.alignment.reference
            return safe_stem(Path(names[reference]).stem)
        if self.order:
            return safe_stem(Path(self.frames[self.order[len(self.order) // 2]]["name"]).stem)
        return "New stack"

    # What the page shows

    def summary(self) -> dict[str, Any]:
        """What the shelf shows, for JSON."""
        with self.lock:
            work = self._work_state()
            return {
                "id": self.number,
                "name": self.name(),
                "titled": self.title is not None,
                "cover": self.order[len(self.order) // 2] if self.order else None,
                "frames": len(self.order),
                "used": len(self.order) - len(self.excluded),
                "examining": self._reading_state(),
                "work": work,
                "failure": self.failure,
                "versions": len(self.versions),
            }

    def _reading_state(self) -> tuple[int, int] | None:
        """(done, total) of the files that are being examined, or None."""
        if self.examine_job is None:
            return None
        total = len(self.examine_job.spec.files) + len(self.pending)
        return min(len(self.examined), total), total

    def _work_state(self) -> dict[str, Any] | None:
        if self.fuse_job is None or self.plan is None:
            return None
        return self.plan.state() | {"before": self.shared.fuse_queue.jobs_ahead(self.fuse_job)}

    def state(self, seen: int | None = None) -> dict[str, Any]:
        """All that the page shows of the stack, for JSON.

        Args:
            seen: the `changes` that the page has; frames are told only if there are others.
        """
        with self.lock:
            told: dict[str, Any] = self.summary() | {
                "changes": self.changes,
                "refused": [*skipped(self.strangers), *self.refused],
                "odd": odd_sizes([f for k, f in self.frames.items() if k not in self.excluded]),
                "in_order": self.in_order,
                "values": self.values,
                "runs": self.runs,
            }
            if seen == self.changes:
                painted = {one.run: self._painted_state(one) for one in self.versions}
                return told | {"painted": painted}
            most = max((frame["sharpness"] for frame in self.frames.values()), default=1) or 1
            told["list"] = [self._frame_state(key, most) for key in self.order]
            told["results"] = [self._version_state(version) for version in self.versions]
            if self.draft is not None:
                told["results"].append(self._draft_state(self.draft))
            return told

    def _frame_state(self, key: int, most: float) -> dict[str, Any]:
        frame = self.frames[key]
        return {
            "id": key,
            "name": frame["name"],
            "width": frame["width"],
            "height": frame["height"],
            "sharpness": round(frame["sharpness"] / most, 3),
            "used": key not in self.excluded,
            "whole": (self.decoded / f"{key}.json").exists(),
        }

    def _version_state(self, version: Version) -> dict[str, Any]:
        record, files = version.record, version.files
        aligned = self.folder / (record.aligned or files.folder) / "alignment.json"
        notes = [*record.notes, *waiting_notes(version.painted.waiting)]
        if version.broken is not None:
            return {"run": version.run, "broken": self.without_paths(version.broken), "notes": []}
        return self._result_state(version.run, record, notes) | {
            "confidence": files.confidence.exists(),
            "aligned": aligned.exists(),
            "slabs": files.slabs.is_dir(),
            **self._painted_state(version),
        }

    def _draft_state(self, draft: ShownResult) -> dict[str, Any]:
        return self._result_state(self._draft_run(), load_record(draft.files.record), []) | {
            "draft": True,
            "least_level": draft.least_level,
            "confidence": draft.confidence is not None,
            "aligned": False,
            "slabs": False,
            "strokes": 0,
            "undone": 0,
            "stamp": draft.stamp,
        }

    def _result_state(self, run: str, record: ResultRecord, notes: Sequence[str]) -> dict[str, Any]:
        height, width = record.whole or record.shape[1:3]
        return {
            "run": run,
            "number": int(run.partition("-")[2]),
            "draft": False,
            "least_level": 0,
            "width": width,
            "height": height,
            "names": record.names,
            "kept": record.kept,
            "notes": [self.without_paths(note) for note in notes],
            "seconds": round(record.seconds, 1),
            "made": record.made,
            "options": record.options,
            "bits": 16 if record.dtype == "uint16" else 8,
            "profile": record.metadata.get("profile") is not None,
            "area": record.area,
        }

    def _painted_state(self, version: Version) -> dict[str, Any]:
        painted = version.painted
        return {
            "strokes": len(painted.strokes),
            "undone": len(painted.undone),
            "stamp": version.stamps.now,
        }

    def end(self) -> None:
        """Cancel all work and close all files, which stay; the work is told when they are opened
        again."""
        self.pending, pending, wanted = [], self.pending, self.wanted
        files = self.examine_job.spec.files if self.examine_job else []
        left = [Path(file) for file in files if file not in self.examined]
        self.cancel()
        with self.lock:
            self.pending, self.wanted = [*left, *pending], wanted
            self.open_results.clear()
            self.open_frames.clear()
            if self.versions:  # what is kept of the others is of no use any more
                shutil.rmtree(self.decoded, ignore_errors=True)

    def delete(self) -> None:
        """Cancel all work and remove all files."""
        with self.lock:
            for job in (self.fuse_job, self.examine_job):
                if job is not None:
                    job.cancelled = True  # its messages are ignored from now on
        self.end()
        shutil.rmtree(self.folder, ignore_errors=True)


def skipped(names: Sequence[str]) -> list[str]:
    """A sentence on files that are not pictures; none where there are none."""
    if not names:
        return []
    if len(names) == 1:
        return [f"Skipped {names[0]}: it is not an image, or is damaged"]
    return [f"Skipped {len(names)} files that are not images, or are damaged: {some(names)}"]


def some(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def area_of(area: Any, result: ShownResult) -> Area | None:
    """The area that an export is cropped to.

    Args:
        area: from JSON: None, "common" for the area that all frames cover, or
            [top, bottom, left, right], px.
        result: that is exported.
    Raises:
        StackError: it is none of these, or leads out of the picture.
    """
    if area is None or (area == "common" and result.area is None):
        return None
    area = result.area if area == "common" else area
    whole = isinstance(area, list | tuple) and len(area) == 4
    if not (whole and all(type(side) is int for side in area)):
        raise StackError("the area to crop to is not [top, bottom, left, right]: reload the page")
    top, bottom, left, right = area
    if not (0 <= top < bottom <= result.height and 0 <= left < right <= result.width):
        raise StackError(
            f"the area to crop to leads out of the picture of {result.width}x{result.height}: "
            "choose one inside"
        )
    return top, bottom, left, right
