"""The frames of one stack on the shelf: how they arrive, are examined, and are arranged."""

import re
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackmff.errors import StackError
from stackmff.files import natural_key
from stackmff.images.folders import NEVER_STACKS
from stackmff.webapp import wording
from stackmff.webapp.jobs import ExamineSpec, JobQueue, Message, WorkerJob
from stackmff.webapp.kept_frames import forget
from stackmff.webapp.results import FramePicture
from stackmff.webapp.uploads import MOST_FRAMES, UploadLimits, check_declared

MOST_OPEN_FRAMES = 6  # unfused frames that are open at a time


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


class StackFrames:
    """The frames of a stack.

    Args:
        folder: of the files of the stack; created here.
        shared: with the other stacks of the server.
    """

    def __init__(self, folder: Path, shared: Shared) -> None:
        self.folder, self.shared = Path(folder), shared
        self.lock = threading.RLock()
        self.incoming, self.arriving, self.thumbs, self.decoded = (
            self.folder / name for name in ("in", "arriving", "thumbs", "decoded")
        )
        self.examine_job: WorkerJob[ExamineSpec] | None = None
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
        self.once_read: list[Callable[[], None]] = []
        self.title: str | None = None  # of the folder that the frames come from
        self.open_frames: OrderedDict[tuple[int, int], FramePicture] = OrderedDict()
        self.next_id = self.changes = 0
        self.dirty = False
        for path in (self.incoming, self.arriving, self.thumbs, self.decoded):
            path.mkdir(parents=True, exist_ok=True)

    def changed(self) -> None:
        """Note that the state differs from what the page and the disk have."""
        self.changes += 1
        self.dirty = True

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

    @property
    def held(self) -> int:
        """Bytes of all uploads, including unfinished ones."""
        return sum(self.uploads.values())

    def on_page(self, sentence: str) -> str:
        """A sentence in the words of the page, without the folders of the server."""
        places = (self.incoming, self.arriving, self.thumbs, self.folder, self.folder.parent)
        for folder in (*places, self.shared.root):
            if folder is not None:
                sentence = re.sub(re.escape(str(folder)) + r"/*", "", sentence)
        return wording.on_page(sentence)

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

    def _remove_strangers(self) -> None:
        """Remove what belongs to no frame: files of frames that were being read at a kill, and
        unfinished ones. No frame may be read meanwhile."""
        known = {str(key) for key in self.frames}
        for folder in (self.thumbs, self.decoded):
            for path in folder.iterdir():
                if path.stem not in known:
                    path.unlink(missing_ok=True)

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
        self.shared.examine_queue.add(self.examine_job, self.folder.parent)

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
        sentence = self.on_page(sentence)
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
            if self.examine_job is None:
                calls, self.once_read = self.once_read, []
                for call in calls:
                    call()

    def when_read(self, call: Callable[[], None]) -> None:
        """Call a function once all files that have arrived are examined."""
        with self.lock:
            if self.examine_job is not None:
                self.once_read.append(call)
                return
        call()

    def give(self, keys: Iterable[int], other: "StackFrames") -> None:
        """Move frames, each of which is a file, to another stack."""
        with self.lock, other.lock:
            for key in keys:
                number = other.next_id
                other.next_id += 1
                for mine, yours in ((self.thumbs, other.thumbs), (self.decoded, other.decoded)):
                    for path in mine.glob(f"{key}.*"):
                        path.rename(yours / f"{number}{path.suffix}")
                frame = self.frames.pop(key)
                file = Path(frame["file"])
                if file.parent == self.incoming:
                    size = self.uploads.pop(file)
                    file = file.rename(other.incoming / file.name)
                    other.uploads[file] = size
                other.frames[number] = frame | {"id": number, "file": str(file)}
                other.order.append(number)
                self.order.remove(key)
                if key in self.excluded:
                    self.excluded.remove(key)
                    other.excluded.add(number)
            self.open_frames.clear()
            self.changed()
            other.changed()

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

    def _reading_state(self) -> tuple[int, int] | None:
        """(done, total) of the files that are being examined, or None."""
        if self.examine_job is None:
            return None
        total = len(self.examine_job.spec.files) + len(self.pending)
        return min(len(self.examined), total), total

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
