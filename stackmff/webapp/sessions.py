"""All sessions of a server: their secret names, the projects on the disk that they work on.

A session whose page has not been heard from for a while is closed; its project stays, and is opened
again when the page returns, also after the server was killed. A server without projects keeps the
sessions in a temporary folder and removes them instead; what such a server leaves when it is killed
is removed by the next one.
"""

import contextlib
import os
import queue
import re
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stackmff.errors import StackError
from stackmff.files import claim, is_abandoned, locked, make_folder, write_json
from stackmff.processes import this_process
from stackmff.webapp.jobs import JobQueue, UnpackSpec, WorkerJob
from stackmff.webapp.session import DELETED, Session, holds_work, read_project
from stackmff.webapp.stack_frames import Shared
from stackmff.webapp.uploads import UploadLimits, check_upload

PREFIX = "focal-stacks-"  # of the folder of temporary files
MOST_SESSIONS = 64
PROJECT_FOLDER = re.compile(rf"[0-9a-f]{{16}}({re.escape(DELETED)})?")
EXPORTS_AT_ONCE = 2  # files that are written for downloads at a time


def default_projects() -> Path:
    """The folder for projects: in the user's folder for data, which is on a disk."""
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "stackmff" / "projects"
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or home) / "stackmff" / "projects"
    data = os.environ.get("XDG_DATA_HOME") or home / ".local" / "share"
    return Path(data) / "stackmff" / "projects"


class Sessions:
    """The sessions of a server.

    Args:
        limits: of each session.
        root: folder that is shared, or None.
        keep_seconds: a session whose page has not been heard from for this long is closed.
        fuse_values: {name: value} of options of FuseOptions for every run, plain JSON.
        folder: for temporary files, where there are no projects; None: the system's.
        projects: folder of the projects; None: there are none, and closed sessions are removed.
        listed: whether the page may list the projects.
    Raises:
        StackError: the folder cannot be written to.
    """

    def __init__(
        self,
        limits: UploadLimits,
        root: Path | None = None,
        keep_seconds: float = 3600,
        fuse_values: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        projects: Path | None = None,
        listed: bool = True,
    ) -> None:
        self.lasting, self.listed = projects is not None, listed
        self.folder = temporary_folder(folder) if projects is None else Path(projects)
        make_folder(self.folder)
        self.room: Path | None = self.folder  # for what arrives
        if projects is not None:
            tidy(self.folder)
            self.room = None
        self.claimed = claim(self.folder) if projects is None else None
        with contextlib.suppress(OSError):  # the names in it are secret
            self.folder.chmod(0o700)
        self.shared = Shared(
            limits=limits,
            root=None if root is None else Path(root).resolve(),
            keep_seconds=keep_seconds,
            fuse_values=dict(fuse_values or {}),
            examine_queue=JobQueue(),
            fuse_queue=JobQueue(),
            export_queue=JobQueue(EXPORTS_AT_ONCE),
        )
        self.lock = threading.Lock()
        self.by_token: dict[str, Session] = {}
        self.sizes: dict[Path, tuple[float, int]] = {}  # of projects: (when they were used, bytes)

    def new(self) -> str:
        """Begin a session; return its secret name.

        Raises:
            StackError: there are too many already.
        """
        self.sweep()
        with self.lock:
            token = secrets.token_urlsafe(24)
            # The folder has another name: the list of processes shows it.
            self._open(self.folder / secrets.token_hex(8), token)
            return token

    def _open(self, folder: Path, token: str) -> Session:
        """The session of a project's folder, from now on one of these; `lock` is held."""
        self._check_count()
        session = self.by_token[token] = self._opened(folder, token)
        return session

    def _check_count(self) -> None:
        """Raise StackError if no other session may be opened."""
        if len(self.by_token) >= MOST_SESSIONS:
            raise StackError("the server has too many sessions: try again later")

    def _opened(self, folder: Path, token: str) -> Session:
        """The session of a project's folder, which no other server may open."""
        with contextlib.ExitStack() as resources:
            if self.lasting:
                advice = "close it there first"
                resources.enter_context(locked(folder, advice))
            session = Session(folder, self.shared, token)
            session.resources = resources.pop_all()
        session.save()
        return session

    def get(self, token: str) -> Session | None:
        """The session of a secret name, which is kept alive by this; None where there is none.

        Raises:
            StackError: its project is open in another server, or there are too many sessions.
        """
        session = self.by_token.get(token)
        if session is None and self.lasting:
            self.sweep()
            with self.lock:
                session = self.by_token.get(token)
                folder = None if session is not None else self._folder_of(token)
                if folder is not None:
                    session = self._open(folder, token)
        if session is not None:
            session.touch()
        return session

    def _folder_of(self, token: str) -> Path | None:
        """The folder of a project."""
        for path in self.folder.iterdir():
            with contextlib.suppress(StackError):
                known = str(read_project(path)["token"]).encode(errors="replace")
                if secrets.compare_digest(known, token.encode(errors="replace")):
                    return path
        return None

    def listing(self) -> list[dict[str, Any]]:
        """The projects, the one that was used last first: [{"token", "name", "made", "used",
        "stacks", "bytes"}]; empty where they may not be listed."""
        if not (self.lasting and self.listed):
            return []
        out = []
        for path in self.folder.iterdir():
            with contextlib.suppress(StackError):
                record = read_project(path)
                if record["stacks"]:
                    out.append(record | {"bytes": self._size(path, record["used"])})
        return sorted(out, key=lambda record: -record["used"])

    def _size(self, folder: Path, used: float) -> int:
        """Bytes of a project's files."""
        known = self.sizes.get(folder)
        if known is None or known[0] != used:
            size = 0
            # Unlike Path.rglob this skips a folder that is deleted meanwhile.
            for here, _, names in os.walk(folder):
                for name in names:
                    with contextlib.suppress(OSError):
                        size += (Path(here) / name).stat().st_size
            known = self.sizes[folder] = used, size
        return known[1]

    def delete(self, token: str) -> None:
        """Delete a project with all its files; LookupError where there is none."""
        session = self.get(token)
        if session is None:
            raise LookupError("this project was deleted")
        with self.lock:
            self.by_token.pop(token, None)
        session.delete()

    def room_for_project(self, size: int | None) -> Path:
        """Create an empty file for the archive of a project.

        Args:
            size: bytes; None: not declared.
        Raises:
            StackError: it is refused.
        """
        if not self.lasting:
            raise StackError("this server keeps no projects: start it without --temp_dir")
        self.sweep()
        self._check_count()
        check_upload(size, 0, self.folder, self.shared.limits)
        handle, name = tempfile.mkstemp(dir=self._room())
        os.close(handle)
        return Path(name)

    def _room(self) -> Path:
        """The folder for projects that arrive, which a kill leaves to the next server."""
        with self.lock:
            if self.room is None:
                self.room = temporary_folder(self.folder)
                self.claimed = claim(self.room)
            return self.room

    def add_project(self, archive: Path) -> str:
        """Unpack the archive of a project, which is removed; return the secret name it gets.

        Raises:
            StackError: it is not one, or its files are damaged.
        """
        token = secrets.token_urlsafe(24)
        # It says that it is the project it was exported from, so it is not among the others yet.
        folder = Path(tempfile.mkdtemp(dir=self._room()))
        free = shutil.disk_usage(self.folder).free
        most = min(free, 4 * self.shared.limits.total_bytes)  # with aligned frames and results
        ended: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        spec = UnpackSpec(str(archive), str(folder), most)
        self.shared.export_queue.add(WorkerJob(spec, lambda told: None, ended.put), folder)
        try:
            if (sentence := ended.get()) is not None:
                raise StackError(sentence or "cancelled")
            record = read_project(folder)
            write_json(folder / "project.json", record | {"token": token, "used": time.time()})
            folder = folder.rename(self.folder / secrets.token_hex(8))
            with self.lock:
                self._open(folder, token)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            archive.unlink(missing_ok=True)
        return token

    def save(self) -> None:
        """Write what has changed in any session."""
        for session in list(self.by_token.values()):
            with contextlib.suppress(StackError, OSError):  # a full disk is told by what needs it
                session.save()

    def sweep(self) -> None:
        """Close the sessions whose pages have not been heard from for too long."""
        now, keep = time.monotonic(), self.shared.keep_seconds
        with self.lock:
            gone = [key for key, one in self.by_token.items() if now - one.seen > keep]
            if self.lasting:  # work that was begun is finished
                gone = [key for key in gone if not self.by_token[key].busy()]
            ended = [self.by_token.pop(key) for key in gone]
        for session in ended:
            self._end(session)

    def _end(self, session: Session) -> None:
        """Close a session; remove it where nothing lasts, or nothing is in it."""
        if self.lasting and not session.is_empty():
            session.close()
        else:
            session.delete()

    def close(self) -> None:
        """Close all sessions; remove all temporary files."""
        with self.lock:
            ended, self.by_token = list(self.by_token.values()), {}
        for session in ended:
            self._end(session)
        shared = self.shared
        for jobs in (shared.fuse_queue, shared.examine_queue, shared.export_queue):
            jobs.close()
        if self.room is not None:
            shutil.rmtree(self.room, ignore_errors=True)
        if self.claimed is not None:
            os.close(self.claimed)
            self.claimed = None


def tidy(folder: Path) -> None:
    """Remove what killed servers have left in the folder of the projects.

    That are projects that were being deleted, or in which nothing is, and of the others what was
    being uploaded or exported. A project that another server has open stays as it is.
    """
    remove_abandoned(folder)
    for path in folder.iterdir():
        match = PROJECT_FOLDER.fullmatch(path.name)
        if match is None or not path.is_dir():
            continue
        with contextlib.suppress(StackError, OSError), locked(path, "close it there first"):
            if match[1] or not holds_work(path):
                shutil.rmtree(path, ignore_errors=True)
            for left in (path / "exports", *path.glob("stack-*/arriving")):
                shutil.rmtree(left, ignore_errors=True)


def temporary_folder(folder: Path | None) -> Path:
    """A new folder for temporary files of this process; those of dead ones are removed.

    Args:
        folder: that it is made in; None: the system's.
    Raises:
        StackError: it cannot be written to.
    """
    parent = Path(folder or tempfile.gettempdir())
    remove_abandoned(parent)
    try:
        return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{this_process()}-", dir=parent))
    except OSError as error:
        raise StackError(
            f"{parent} cannot be written to ({error.strerror}): choose another --temp_dir"
        ) from error


def remove_abandoned(parent: Path) -> None:
    """Remove the temporary folders of servers that no longer run, see files.claim."""
    pattern = re.compile(rf"{re.escape(PREFIX)}([A-Za-z0-9-]*)-\d+-\w+")
    for path in parent.glob(f"{PREFIX}*"):
        if (match := pattern.fullmatch(path.name)) and is_abandoned(path, match[1]):
            shutil.rmtree(path, ignore_errors=True)
