"""Queues of jobs, each of which runs in a process of its own and can be cancelled."""

import subprocess
import threading
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any, Generic, TypeVar

from stackmff.processes import GRACE, answers, how_it_ended
from stackmff.webapp.forking import Forked, Nursery, end, ending_with_this_process
from stackmff.webapp.reporting import NICENESS

# Its processes do the work of all queues of this process.
WORKERS = ending_with_this_process(Nursery("stackmff.webapp.worker", NICENESS))

# What a worker process says, one JSON object per line.
Message = dict[str, Any]
LONGEST = 180.0  # seconds to examine one file, or each frame of a file that holds several


@dataclass(frozen=True)
class ExamineSpec:
    """Examine files that were uploaded or opened: sizes, sharpness, thumbnails.

    Attributes:
        files: pictures, TIFFs, videos.
        folder: for thumbnails and small copies.
        first_id: id of the first frame; the others follow.
        frame_pixels: largest size of a frame, px.
        longest: seconds for each file, or for each frame of a file that holds several.
        decoded: folder for the frames as they were decoded, for the fusion; None: none.
        decoded_room: bytes that may be kept there.
    """

    files: list[str]
    folder: str
    first_id: int
    frame_pixels: int
    longest: float = LONGEST
    decoded: str | None = None
    decoded_room: int = 0
    kind: str = "examine"


@dataclass(frozen=True)
class FuseSpec:
    """Fuse a draft of the small copies, if there is a folder for it, then the frames themselves.

    Attributes:
        frames: (file, number of the frame in it from 1, None for a file of one frame).
        names: of the frames.
        small: files of the small copies.
        options: {name: value} of options of fusion.options.FuseOptions, plain JSON.
        draft: folder for the result of the draft; None: no draft.
        full: folder for the result.
        aligned: folder of the frames in register; where it has them, they are not read again.
            None: they are in `full`.
        decoded: the file of each frame as it was decoded, which may be missing; they are removed
            once they are read.
        whole: (height, width) px of the frames, which the draft stands for.
        longest: seconds for reading and decoding each frame.
    """

    frames: list[tuple[str, int | None]]
    names: list[str]
    small: list[str]
    options: dict[str, Any]
    draft: str | None
    full: str
    aligned: str | None = None
    decoded: list[str] = field(default_factory=list)
    whole: tuple[int, int] | None = None
    longest: float = LONGEST
    kind: str = "fuse"


@dataclass(frozen=True)
class MethodSpec:
    """Fuse the aligned frames of a result by a method of the toolbox.

    Attributes:
        result: folder of the result.
        frames: file of its frames.
        method: name of the method.
        longest: seconds that it may take.
    """

    result: str
    frames: str
    method: str
    longest: float = 20 * LONGEST
    kind: str = "method"


@dataclass(frozen=True)
class ExportSpec:
    """Write a file of a result.

    Attributes:
        result: folder of the result.
        strokes: file of the strokes that the picture is painted with.
        path: file to write.
        what: "picture", or as of exports.write_other.
        bits: 8 or 16.
        quality: of JPEG, 1 to 100; of WebP too, where None is lossless.
        srgb: convert to sRGB; else the profile of the frames is kept.
        area: a Box to crop to, px, which is a list once it was JSON; or None.
        label: text in the corner of the picture.
        pixel_size: micrometres, for a scale bar on the picture; None: no scale bar.
        longest: seconds that it may take.
    """

    result: str
    strokes: str
    path: str
    what: str
    bits: int = 8
    quality: int | None = None
    srgb: bool = False
    area: Sequence[int] | None = None
    label: str = ""
    pixel_size: float | None = None
    longest: float = 10 * LONGEST
    kind: str = "export"


@dataclass(frozen=True)
class StrokesSpec:
    """Decode the pictures in an archive of strokes, and write the strokes beside it.

    Attributes:
        archive: that was uploaded; the strokes are written beside it, as .json.
        result: folder of the result that they are painted on, which gets the pictures.
        longest: seconds that it may take.
    """

    archive: str
    result: str
    longest: float = LONGEST
    kind: str = "strokes"


@dataclass(frozen=True)
class SplitSpec:
    """Find the stacks below a folder, or those that files of one folder are.

    Attributes:
        folder: that is searched; None: the files are split.
        files: pictures of one folder, in their order.
        frame_pixels: largest size of a frame, px.
        longest: seconds that it may take.
    """

    folder: str | None
    files: list[str]
    frame_pixels: int
    longest: float = 10 * LONGEST
    kind: str = "split"


@dataclass(frozen=True)
class ExampleSpec:
    """Draw the frames of the example.

    Attributes:
        folder: for the frames.
        longest: seconds that it may take.
    """

    folder: str
    longest: float = LONGEST
    kind: str = "example"


@dataclass(frozen=True)
class PackSpec:
    """Write the archive of a project.

    Attributes:
        folder: of the project; path: of the archive.
        longest: seconds that it may take.
    """

    folder: str
    path: str
    longest: float = 20 * LONGEST
    kind: str = "pack"


@dataclass(frozen=True)
class UnpackSpec:
    """Write the files of the archive of a project.

    Attributes:
        path: of the archive; folder: for the files.
        most_bytes: that they may take.
        longest: seconds that it may take.
    """

    path: str
    folder: str
    most_bytes: int
    longest: float = 20 * LONGEST
    kind: str = "unpack"


Spec = TypeVar(
    "Spec",
    ExamineSpec,
    FuseSpec,
    MethodSpec,
    ExportSpec,
    StrokesSpec,
    SplitSpec,
    ExampleSpec,
    PackSpec,
    UnpackSpec,
)


class WorkerJob(Generic[Spec]):
    """Work for a process of webapp/worker.py.

    Args:
        spec: what is to be done.
        on_message: called with each message of the process, in a thread of the JobQueue.
        on_end: called once with a sentence on what failed; None where nothing failed, "" where the
            job was cancelled.
    """

    def __init__(
        self,
        spec: Spec,
        on_message: Callable[[Message], None],
        on_end: Callable[[str | None], None],
    ) -> None:
        self.spec: Spec = spec
        self.on_message, self.on_end = on_message, on_end
        self.cancelled = False
        self.process: Forked | subprocess.Popen[str] | None = None

    def run(self) -> str | None:
        """Start the process and listen until it ends; return the sentence for `on_end`."""
        error = None
        with WORKERS.child(asdict(self.spec)) as process:
            self.process = process
            if self.cancelled:
                self.stop()
            for message in answers(process):
                error = message.get("error", error)
                if not self.cancelled:
                    self.on_message(message)
            status = process.wait()
        if self.cancelled:
            return ""
        return f"the work stopped: {how_it_ended(status)}" if status else error

    def stop(self) -> None:
        """End the process at once, if there is one."""
        self.cancelled = True
        if self.process is not None:
            end(self.process)


class JobQueue:
    """Runs the jobs of several owners in turn, those of one in the order in which it added them.

    So nobody waits for more than one job of each of the others, however many they have.

    Args:
        count: how many run at a time.
    """

    def __init__(self, count: int = 1) -> None:
        self.changed = threading.Condition()
        self.waiting: dict[Hashable, deque[WorkerJob[Any]]] = {}  # by owner, next in turn first
        self.running: set[WorkerJob[Any]] = set()
        self.closed = False
        self.threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def add(self, job: WorkerJob[Any], owner: Hashable) -> None:
        """Append a job to those of its owner, such as the folder of a session."""
        with self.changed:
            self.waiting.setdefault(owner, deque()).append(job)
            self.changed.notify()

    def jobs_ahead(self, job: WorkerJob[Any]) -> int:
        """How many jobs run before a waiting one, if none is added; 0 for a running one."""
        with self.changed:
            owners = list(self.waiting.values())
            for place, jobs in enumerate(owners):
                if job in jobs:
                    turn = jobs.index(job)
                    earlier = sum(min(len(others), turn + 1) for others in owners[:place])
                    later = sum(min(len(others), turn) for others in owners[place + 1 :])
                    return earlier + turn + later + len(self.running)
            return 0

    def cancel(self, job: WorkerJob[Any]) -> None:
        """Remove a waiting job or end a running one; its process has ended on return."""
        with self.changed:
            waits = False
            for owner, jobs in list(self.waiting.items()):
                if job in jobs:
                    waits = True
                    jobs.remove(job)
                    if not jobs:
                        del self.waiting[owner]
            job.cancelled = True
        if waits:
            job.on_end("")
            return
        job.stop()
        with self.changed:
            self.changed.wait_for(lambda: job not in self.running, GRACE + 2)

    def close(self) -> None:
        """Cancel all jobs and end the threads."""
        with self.changed:
            self.closed = True
            jobs = [*chain.from_iterable(self.waiting.values()), *self.running]
            self.changed.notify_all()
        for job in jobs:
            self.cancel(job)

    def _serve(self) -> None:
        """Run the next job in turn, until the queue is closed."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting or self.closed)
                if self.closed:
                    return
                owner, jobs = next(iter(self.waiting.items()))
                job = jobs.popleft()
                del self.waiting[owner]
                if jobs:
                    self.waiting[owner] = jobs  # behind all the others
                self.running.add(job)
            try:
                sentence = job.run()
            except Exception as error:  # the queue goes on whatever happens to one job
                sentence = f"the work stopped: {error}"
            try:
                job.on_end(sentence)
            except Exception:  # else its thread would end, and no job after it would begin
                traceback.print_exc()
            finally:
                with self.changed:
                    self.running.discard(job)
                    self.changed.notify_all()
