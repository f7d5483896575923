"""One stack on the shelf of a session: the work on its frames, and its place on the disk."""

import contextlib
import json
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stackmff.errors import StackError
from stackmff.files import natural_key, parse_json, write_json
from stackmff.webapp.comparisons import StackComparisons
from stackmff.webapp.form import check_values
from stackmff.webapp.jobs import FuseSpec, Message, WorkerJob
from stackmff.webapp.result_files import GONE, NUMBER, PART, check_fields
from stackmff.webapp.results import ShownResult, carry_strokes
from stackmff.webapp.stack_frames import Shared, skipped
from stackmff.webapp.uploads import check_frames, check_room, odd_sizes
from stackmff.webapp.versions import UNREADABLE, Version, remove
from stackmff.webapp.work_plan import WorkPlan, stages_of

DRAFT_LEAST = 1600  # px, longest side from which on a draft is shown first
# What decides whether frames can be used again that are in register: options of the page.
OF_ALIGNMENT = ("align", "match_exposure")
# What `ShelfStack.save` writes of a stack, and of a frame what worker.examine_frame tells.
OF_STACK = {
    "title": str | None,
    "frames": list,
    "order": list,
    "excluded": list,
    "arranged": bool,
    "in_order": bool,
    "pending": list,
    "next_id": int,
    "runs": int,
    "wanted": dict | None,
    "values": dict,
    "refused": list,
}
OF_FRAME = {
    "id": int,
    "name": str,
    "number": int | None,
    "file": str,
    "width": int,
    "height": int,
    "bytes": int,
    "sharpness": NUMBER,
}
INTERRUPTED = "the server was stopped while it fused this stack: fuse it again"


class ShelfStack(StackComparisons):
    """The frames, the work and the versions of one stack.

    Args:
        number: of the stack in its session.
        folder: of its files; created here, or read where it is there already.
        shared: with the other stacks of the server.
    """

    def __init__(self, number: int, folder: Path, shared: Shared) -> None:
        super().__init__(folder, shared)
        self.number = number
        self.plan: WorkPlan | None = None
        self.failure: str | None = None  # sentence
        self.wanted: dict[str, Any] | None = None  # values of the run that goes on
        self.values: dict[str, Any] = {}  # of the last run
        self.writing = threading.Lock()  # held while stack.json is written or removed
        self.written = -1  # the `changes` that it has
        self.deleted = False
        if (self.folder / "stack.json").exists():
            self._load()

    # On the disk

    def save(self) -> None:
        """Write what is known of the stack, if it has changed since."""
        with self.lock:
            if not self.dirty:
                return
            self.dirty, now = False, self.changes
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
        with self.writing:
            if now > self.written and not self.deleted:  # else a newer one is there, or none may be
                try:
                    write_json(self.folder / "stack.json", record)
                except BaseException:
                    self.dirty = True
                    raise
                self.written = now

    def _load(self) -> None:
        """Read what `save` wrote, and what was made since.

        Raises:
            OSError, ValueError, KeyError, TypeError: it is damaged, see session.DAMAGED.
        """
        record = parse_json((self.folder / "stack.json").read_bytes())
        check_fields(record, OF_STACK)
        for frame in record["frames"]:
            check_fields(frame, OF_FRAME)
        remove([self.arriving, *self.folder.glob(f"{GONE}*")])  # what was cut by a kill
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
        for folder in sorted(self.folder.glob("run-*"), key=natural_key):
            number = int(folder.name.partition("-")[2])
            self.runs = max(self.runs, number)
            if not self._adopt(number):
                shutil.rmtree(folder, ignore_errors=True)
        for folder in self.folder.glob("aligned-*"):
            if not (folder / "aligned.json").exists():
                shutil.rmtree(folder, ignore_errors=True)
        if record["wanted"] is None:
            remove(self._unused_aligned())
        elif self.versions and self.versions[-1].number == record["runs"]:
            with contextlib.suppress(StackError):  # damaged files are told when they are opened
                self._complete(self.versions[-1])
        else:
            self.failure = INTERRUPTED
        self._remove_strangers()
        self.changed()
        self._examine(left)

    def _adopt(self, number: int) -> bool:
        """Add the result of a run to the versions; remove what is unfinished. False where it was
        cut itself."""
        folder = self.folder / f"run-{number}"
        shutil.rmtree(folder / "draft", ignore_errors=True)
        for path in folder.glob(f"full/**/*{PART}"):
            path.unlink(missing_ok=True)
        if not (folder / "full" / "result.json").exists():
            return False
        try:
            self.versions.append(Version(number, folder / "full"))
        except UNREADABLE as error:
            self.refused.append(f"version {number} cannot be read ({error}), and is left as it is")
        return True

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
            job = self.fuse_job = WorkerJob(spec, self._on_fusing, self._on_fuse_end)
            self.changed()
        try:
            self.save()
        except BaseException:  # else it would be said to go on for ever
            with self.lock:
                self.fuse_job = self.plan = self.wanted = None
            raise
        self.shared.fuse_queue.add(job, self.folder.parent)

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
        """Take a message of the process that fuses."""
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
        if message.get("made") == "full":
            folder = Path(job.spec.full)
            number = int(folder.parent.name.partition("-")[2])
            with self.painting:  # a stroke that is painted now is carried over, too
                self._complete(Version(number, folder))
                # Before anybody can paint on it: else a kill would have it completed again.
                self.save()

    def _complete(self, version: Version) -> None:
        """Add a version that was just made, with the strokes of the one before it, and take over
        its order; also where a kill came between."""
        try:
            version.files.strokes.unlink(missing_ok=True)
            made = version.open()
            earlier = [one for one in self.versions if one.number < version.number]
            carry_strokes(self.shown(earlier[-1].number) if earlier else None, made)
            with self.lock:
                self.open_results[version.number] = made
        finally:
            with self.lock:
                self.draft = self.wanted = None
                if version not in self.versions:
                    self.versions.append(version)
                self.in_order = version.record.options.get("order") != "given"
                self._follow(version.record.names)
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
        """Tidy up after a fusion; see WorkerJob.on_end."""
        with self.lock:
            assert self.fuse_job is not None
            job, self.fuse_job, self.plan = self.fuse_job, None, None
            self.wanted = self.draft = None
            if sentence:
                self.failure = self.on_page(sentence)
            run = Path(job.spec.full).parent
            made = any(version.folder.parent == run for version in self.versions)
            # Its process has ended, so that the next run can have its number.
            self.runs -= 0 if made else 1
            self.changed()
            gone = self._set_aside([run / "draft" if made else run, *self._unused_aligned()])
        remove(gone)

    def cancel(self) -> None:
        """Cancel all work; it has ended on return."""
        self.cancel_fusing()
        self.cancel_methods()
        if (job := self.examine_job) is not None:
            self.shared.examine_queue.cancel(job)

    def cancel_fusing(self) -> None:
        """Cancel the fusion alone."""
        if (job := self.fuse_job) is not None:
            self.shared.fuse_queue.cancel(job)

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
                "comparing": self._methods_state(),
                "versions": len(self.versions),
            }

    def _work_state(self) -> dict[str, Any] | None:
        """How far the fusion is that goes on, for JSON; None: none does."""
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
                painted = {one.run: self.painted_state(one) for one in self.versions}
                return told | {"painted": painted}
            most = max((frame["sharpness"] for frame in self.frames.values()), default=1) or 1
            told["list"] = [self._frame_state(key, most) for key in self.order]
            told["results"] = [self._version_state(version) for version in self.versions]
            if self.draft is not None:
                told["results"].append(self._draft_state(self.draft))
            return told

    def end(self) -> None:
        """Cancel all work and close all files, which stay; the work is told when they are opened
        again."""
        self.pending, pending, wanted = [], self.pending, self.wanted
        files = self.examine_job.spec.files if self.examine_job else []
        left = [Path(file) for file in files if file not in self.examined]
        self.cancel()
        with self.painting, self.lock:
            self.pending, self.wanted = [*left, *pending], wanted
            self.open_results.clear()
            self.open_frames.clear()
            if self.versions:  # what is kept of the others is of no use any more
                shutil.rmtree(self.decoded, ignore_errors=True)

    def abandon(self) -> None:
        """Cancel all work, and write nothing any more: the files are about to be removed."""
        with self.writing:
            self.deleted = True
        with self.lock:
            for job in (self.fuse_job, self.examine_job, *self.method_jobs.values()):
                if job is not None:
                    job.cancelled = True  # its messages are ignored from now on
        self.end()

    def delete(self) -> None:
        """Cancel all work and remove all files."""
        self.abandon()
        # First of all, so that a kill leaves a whole stack or none.
        (self.folder / "stack.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
