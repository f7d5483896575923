"""The people at the page of app.py: what each has brought, what is done for them, and its end.

A session is a folder of temporary files with a secret name. It ends when its page has not been
heard of for a while; what dead processes have left is removed by the next one that starts.
"""

import re
import secrets
import shutil
import tempfile
import threading
import time
from pathlib import Path

from stackmff.errors import StackError
from stackmff.files import natural_key
from stackmff.fusion.retouch import cost_of, stroke_of, strokes_of
from stackmff.images.folders import NEVER_STACKS
from stackmff.processes import is_alive, this_process
from stackmff.webapp.jobs import Job, Line
from stackmff.webapp.results import Result, carry_strokes, told_of
from stackmff.webapp.uploads import (
    MOST_FRAMES,
    Limits,
    check_frames,
    check_room,
    check_upload,
    files_below,
    options_of,
    safe_name,
    safe_stem,
)

PREFIX = "focal-stacks-"  # of the folder of temporary files
MOST_SESSIONS = 64
LEAVING = 60  # seconds that a page has to come back after it was closed or loaded anew
MOST_PAINT = 5e9  # px that are gone through for strokes sent at once, some 20 ns each
DRAFT_LEAST = 1600  # px, longest side from which on a draft comes first; below, all is quick


class Session:
    """What one page has brought and got.

    Args:
        folder: of its temporary files, made here.
        house: the Sessions that it belongs to.
    """

    def __init__(self, folder, house):
        self.folder, self.house = Path(folder), house
        self.lock = threading.RLock()
        self.seen, self.patience = time.monotonic(), house.patience
        self.next_id = self.version = self.runs = self.stacks = 0
        self.look_job = self.fuse_job = None
        self.progress = None
        self._begin()

    def _begin(self):
        """A new stack, in a folder of its own: what still comes for the one before finds none."""
        self.stacks += 1
        self.place = self.folder / f"stack-{self.stacks}"
        self.incoming, self.looks, self.out = (self.place / name for name in ("in", "looks", "out"))
        self.brought = {}  # bytes of uploads by their path, also of those that are still coming
        self.frames = {}  # {id: what worker.look_at tells}
        self.order, self.left_out, self.arranged = [], set(), False
        self.refused, self.pending = [], []  # sentences, paths
        self.looked = set()  # files of the running look that are done
        self.title = self.failure = None  # of a folder; a sentence
        self.result, self.is_draft = None, False
        self.former = None  # the picture that was there while there is a draft of the next one
        for path in (self.incoming, self.looks, self.out):
            path.mkdir(parents=True)

    @property
    def held(self):
        """Bytes of uploads, also of those that are still coming."""
        return sum(self.brought.values())

    def touch(self, leaving=False):
        """The page is there, or says that it goes."""
        self.seen = time.monotonic()
        self.patience = LEAVING if leaving else self.house.patience

    def plain(self, sentence):
        """A sentence without the server's folders."""
        for folder in (self.incoming, self.looks, self.place, self.folder, self.house.root):
            if folder is not None:
                sentence = re.sub(re.escape(str(folder)) + r"/*", "", sentence)
        return sentence

    # Frames

    def room_for(self, word, size):
        """The path for a file that is to come; StackError where it is refused."""
        with self.lock:
            name = safe_name(word)
            path = self.incoming / name
            known = {frame["name"].casefold() for frame in self.frames.values()}
            if path.exists() or name.casefold() in known:
                raise StackError(
                    f"{name} is here already: give it another name, or clear the stack"
                )
            if max(len(self.brought), len(self.frames)) >= MOST_FRAMES:
                raise StackError(
                    f"{name} is one too many, {MOST_FRAMES} frames are the most: thin them out"
                )
            check_upload(size, self.held, self.folder, self.house.limits)
            path.touch()
            self.brought[path] = size
            return path

    def drop(self, path):
        """Forget a file that did not come, or that is no frame."""
        with self.lock:
            self.brought.pop(path, None)
            path.unlink(missing_ok=True)

    def arrived(self, path, title=None):
        """A file has come whole: look at it."""
        with self.lock:
            if not path.exists():  # all was cleared meanwhile
                return
            self.title = title or self.title
            self._look([path])

    def open(self, word):
        """Take a folder or file below the root in place of what is there."""
        files = files_below(self.house.root, word)
        self.clear()
        with self.lock:
            self.title = Path(word).stem if Path(word).suffix else Path(word).name
            self.title = self.title or Path(self.house.root).resolve().name
            self._look(files)

    def _look(self, files):
        self.pending += files
        if self.look_job is not None or not self.pending:
            return
        limits = self.house.limits
        spec = {
            "kind": "look",
            "files": [str(file) for file in self.pending],
            "folder": str(self.looks),
            "first": self.next_id,
            "upload": limits.upload,
            "pixels": limits.pixels,
        }
        self.pending, self.looked = [], set()
        self.look_job = Job(spec, self._looked, self._looks_ended)
        self.house.looks.add(self.look_job)

    def _looked(self, message):
        with self.lock:
            if self.look_job is not None and self.look_job.cancelled:  # of a stack that is cleared
                return
            if "frame" in message:
                frame = message["frame"]
                self.next_id = max(self.next_id, frame["id"] + 1)
                self.frames[frame["id"]] = frame
                if Path(frame["name"]).stem.casefold() in NEVER_STACKS:  # an answer is no frame
                    self.left_out.add(frame["id"])
                self.order.append(frame["id"])
                if not self.arranged:
                    self.order.sort(key=lambda key: natural_key(self.frames[key]["name"]))
            elif "refused" in message:
                self.refused.append(self.plain(message["sentence"]))
                path = Path(message["refused"])
                self._leave(path)
                if path.parent == self.incoming:
                    self.drop(path)
            elif "looked" in message:
                self.looked.add(message["looked"])

    def _leave(self, file):
        """Forget the frames of a file that is refused: those before the broken one would be some
        of its frames, and nobody would miss the others."""
        for key in [key for key, frame in self.frames.items() if frame["file"] == str(file)]:
            del self.frames[key]
            self.order.remove(key)
            self.left_out.discard(key)
            for suffix in (".jpg", ".png"):
                (self.looks / f"{key}{suffix}").unlink(missing_ok=True)

    def _looks_ended(self, sentence):
        with self.lock:
            files = self.look_job.spec["files"]
            self.look_job = None
            if sentence:  # one of them has ended the process: the others may be good
                left = [Path(file) for file in files if file not in self.looked]
                left = [file for file in left if file.exists()]
                bad, *rest = left or [None]
                if bad is not None:
                    self._looked({"refused": str(bad), "sentence": f"{bad.name}: {sentence}"})
                self.pending = rest + self.pending
            self._look([])

    def arrange(self, order, left_out):
        """Set the order of the frames, and those that are left out; lists of ids."""
        with self.lock:
            known = all(type(key) is int and key in self.frames for key in [*order, *left_out])
            if not known or sorted(order) != sorted(self.order):
                raise StackError("the frames have changed meanwhile: load the page anew")
            self.arranged = self.arranged or list(order) != self.order
            self.order, self.left_out = list(order), set(left_out)

    def clear(self):
        """Begin anew: no frames, no result, no files."""
        with self.lock:
            for job in (self.fuse_job, self.look_job):
                if job is not None:
                    job.cancelled = True  # what it still says is not heard
            left = self.place
            self._begin()
            self.version += 1
        self.cancel()
        shutil.rmtree(left, ignore_errors=True)

    # Work

    def fuse(self, wanted):
        """Begin to fuse.

        Args:
            wanted: {"align", "exposure", "prefer", "near", "slab"}, each may be missing.
        Raises:
            StackError: a choice is none of ours, the frames do not fit each other or into memory.
        """
        words = options_of(wanted)
        with self.lock:
            if self.fuse_job is not None:
                raise StackError("it is being fused: cancel that first")
            use = [self.frames[key] for key in self.order if key not in self.left_out]
            check_frames(use)
            check_room(use, self.folder)
            self.runs += 1
            run = self.place / f"run-{self.runs}"
            longest = max(use[0]["width"], use[0]["height"])
            given = ["--order", "given"] if self.arranged else []  # by hand
            spec = {
                "kind": "fuse",
                "frames": [[frame["file"], frame["number"]] for frame in use],
                "names": [frame["name"] for frame in use],
                "small": [str(self.looks / f"{frame['id']}.png") for frame in use],
                "options": [*self.house.options, *words, *given],
                "draft": str(run / "draft") if longest >= DRAFT_LEAST else None,
                "full": str(run / "full"),
            }
            self.refused, self.failure = [], None
            self.progress = {"stage": "waiting", "done": 0, "total": 0}
            self.fuse_job = Job(spec, self._fusing, self._fused)
            self.house.line.add(self.fuse_job)

    def _fusing(self, message):
        if "made" in message:
            with self.lock:
                if self.fuse_job.cancelled:
                    return
                made = Result(self.fuse_job.spec[message["made"]])
                before = [self.former, self.result]
                if message["made"] == "draft":
                    if not self.is_draft:
                        self.former = before.pop()  # it comes back where this run is cancelled
                    self.is_draft = True
                else:
                    self.is_draft = False
                    carry_strokes(self.former or self.result, made)
                    self.former = None
                self.result = made
                self._follow(made.names)
                self.version += 1
            self._forget(before)
        elif "stage" in message:
            self.progress = message

    def _follow(self, names):
        """Show the frames in the order in which they were fused; others stay where they are."""
        place = {name: k for k, name in enumerate(names)}
        named = {key: place.get(self.frames[key]["name"]) for key in self.order}
        fused = iter(sorted((k for k in self.order if named[k] is not None), key=named.get))
        if not self.arranged:
            self.order = [k if named[k] is None else next(fused) for k in self.order]

    def _fused(self, sentence):
        with self.lock:
            job, self.fuse_job, self.progress = self.fuse_job, None, None
            former, self.former = self.former, None
            if sentence:
                self.failure = self.plain(sentence)
            if former is not None:
                former, self.result = self.result, former
                self.is_draft = False
                self.version += 1
            shown = self.result and str(self.result.folder)
        self._forget([former])
        for folder in (job.spec["draft"], job.spec["full"]):  # what is half done goes
            if folder is not None and folder != shown:
                shutil.rmtree(folder, ignore_errors=True)

    def _forget(self, results):
        """Remove the files of results that are shown no more."""
        for result in results:
            if result is not None:
                shutil.rmtree(result.folder, ignore_errors=True)

    def cancel(self):
        """End what is being done; when this returns it is."""
        for job, line in ((self.fuse_job, self.house.line), (self.look_job, self.house.looks)):
            if job is not None:
                line.cancel(job)

    def stop_fusing(self):
        """End the fusing alone."""
        if (job := self.fuse_job) is not None:
            self.house.line.cancel(job)

    # Results

    def ready(self, whole=False):
        """The Result; StackError where there is none, or, for `whole`, a draft alone."""
        result = self.result
        if result is None or (whole and self.is_draft):
            raise StackError("there is no picture yet: fuse the frames first")
        return result

    def paint(self, record):
        """Paint a stroke, as of retouch.stroke_of."""
        with self.lock:
            result = self.ready(whole=True)
            try:
                stroke = stroke_of(record, result.names)
            except (ValueError, KeyError, TypeError) as error:
                raise StackError(f"this stroke cannot be painted: {error}") from error
            return self._paint(result, [stroke])

    def replay(self, record):
        """Paint the strokes of a file, as of retouch.save_strokes, upon those that are there."""
        with self.lock:
            result = self.ready(whole=True)
            name = str(record.get("name", "this file"))
            strokes = strokes_of(record, name, result.names, result.size)
            return self._paint(result, strokes)

    def _paint(self, result, strokes):
        if sum(cost_of(stroke, result.size) for stroke in strokes) > MOST_PAINT:
            raise StackError(
                "that would take minutes to paint: take shorter strokes, or thinner ones"
            )
        boxes = [result.paint(stroke) for stroke in strokes]
        self.version += 1
        return boxes

    def undo(self, count):
        """Take back the last strokes."""
        with self.lock:
            boxes = self.ready(whole=True).undo(count)
            self.version += 1
        return boxes

    def name(self):
        """What results are called: as the folder or film, else as the reference frame."""
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

    def state(self):
        """All that the page shows, as JSON."""
        with self.lock:
            most = max((frame["sharpness"] for frame in self.frames.values()), default=1) or 1
            job, result = self.fuse_job, self.result
            return {
                "frames": [
                    {
                        "id": key,
                        "name": self.frames[key]["name"],
                        "width": self.frames[key]["width"],
                        "height": self.frames[key]["height"],
                        "sharpness": round(self.frames[key]["sharpness"] / most, 3),
                        "used": key not in self.left_out,
                    }
                    for key in self.order
                ],
                "refused": self.refused,
                "looking": self.look_job is not None,
                "work": None
                if job is None
                else self.progress | {"before": self.house.line.before(job)},
                "failure": self.failure,
                "version": self.version,
                "result": None if result is None else self._told(result),
            }

    def _told(self, result):
        return {
            "run": result.name,
            "draft": self.is_draft,
            "width": result.width,
            "height": result.height,
            "names": result.names,
            "kept": result.kept,
            "notes": [self.plain(note) for note in [*result.notes, *told_of(result.waiting)]],
            "seconds": round(result.seconds, 1),
            "confidence": result.confidence is not None,
            "bits": 8 * result.frames.itemsize,
            "area": result.area,
            "slabs": (result.folder / "slabs").is_dir(),
            "strokes": len(result.strokes),
        }

    def end(self):
        """Nothing stays."""
        self.pending = []
        self.cancel()
        shutil.rmtree(self.folder, ignore_errors=True)


class Sessions:
    """All sessions of a page that is served.

    Args:
        limits: uploads.Limits.
        root: folder that is shared, or None.
        patience: seconds after which a page that is not heard of is gone.
        options: words for the options of pipeline.add_fuse_options, of every run.
        folder: for temporary files; None: the system's.
    """

    def __init__(self, limits=None, root=None, patience=3600, options=(), folder=None):
        self.limits = limits or Limits(8 * 10**9, 200 * 10**6)
        self.root = None if root is None else Path(root).resolve()
        self.patience, self.options = patience, list(options)
        parent = Path(folder or tempfile.gettempdir())
        remove_dead(parent)
        try:
            self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{this_process()}-", dir=parent))
        except OSError as error:
            raise StackError(
                f"{parent} takes no temporary files ({error.strerror}): choose another --temp_dir"
            ) from error
        self.line, self.looks = Line(), Line()
        self.lock = threading.Lock()
        self.known = {}

    def new(self):
        """The secret name of a new session."""
        self.sweep()
        with self.lock:
            if len(self.known) >= MOST_SESSIONS:
                raise StackError("too many people are here: come back in a while")
            token = secrets.token_urlsafe(24)
            # The folder's name is no secret's: it stands in the list of processes.
            self.known[token] = Session(self.folder / secrets.token_hex(8), self)
            return token

    def get(self, token):
        """The Session of a secret name, or None."""
        session = self.known.get(token)
        if session is not None:
            session.touch()
        return session

    def sweep(self):
        """End the sessions whose page is gone."""
        now = time.monotonic()
        with self.lock:
            gone = [key for key, one in self.known.items() if now - one.seen > one.patience]
            ended = [self.known.pop(key) for key in gone]
        for session in ended:
            session.end()

    def close(self):
        """End all; nothing stays."""
        with self.lock:
            ended, self.known = list(self.known.values()), {}
        for session in ended:
            session.end()
        self.line.close()
        self.looks.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def remove_dead(parent):
    """Remove the folders of temporary files of processes of this machine that are no more."""
    host, _, _ = this_process().rpartition("-")
    pattern = re.compile(rf"{re.escape(PREFIX + host)}-(\d+)-\w+")
    for path in parent.glob(f"{PREFIX}*"):
        if (match := pattern.fullmatch(path.name)) and not is_alive(int(match[1])):
            shutil.rmtree(path, ignore_errors=True)
