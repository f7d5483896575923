"""All sessions of a server: their secret names, their end, their temporary files.

A session ends when its page has not been heard from for a while. Files left behind by processes
that were killed are removed by the next server that starts.
"""

import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stackmff.errors import StackError
from stackmff.files import claim, is_abandoned
from stackmff.processes import this_process
from stackmff.webapp.jobs import JobQueue
from stackmff.webapp.session import Session, Shared
from stackmff.webapp.uploads import UploadLimits

PREFIX = "focal-stacks-"  # of the folder of temporary files
MOST_SESSIONS = 64


class Sessions:
    """The sessions of a server.

    Args:
        limits: of each session.
        root: folder that is shared, or None.
        keep_seconds: a session whose page has not been heard from for this long is removed.
        fuse_values: {name: value} of options of FuseOptions for every run, plain JSON.
        folder: for temporary files; None: the system's.
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
    ) -> None:
        parent = Path(folder or tempfile.gettempdir())
        remove_abandoned(parent)
        try:
            self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{this_process()}-", dir=parent))
            self.claimed = claim(self.folder)
        except OSError as error:
            raise StackError(
                f"{parent} cannot be written to ({error.strerror}): choose another --temp_dir"
            ) from error
        self.shared = Shared(
            limits=limits,
            root=None if root is None else Path(root).resolve(),
            keep_seconds=keep_seconds,
            fuse_values=dict(fuse_values or {}),
            examine_queue=JobQueue(),
            fuse_queue=JobQueue(),
        )
        self.lock = threading.Lock()
        self.by_token: dict[str, Session] = {}

    def new(self) -> str:
        """Begin a session; return its secret name."""
        self.sweep()
        with self.lock:
            if len(self.by_token) >= MOST_SESSIONS:
                raise StackError("the server has too many sessions: try again later")
            token = secrets.token_urlsafe(24)
            # The folder has another name: the list of processes shows it.
            self.by_token[token] = Session(self.folder / secrets.token_hex(8), self.shared)
            return token

    def get(self, token: str) -> Session | None:
        """The session of a secret name, which is kept alive by this; None where there is none."""
        session = self.by_token.get(token)
        if session is not None:
            session.touch()
        return session

    def sweep(self) -> None:
        """End the sessions whose pages have not been heard from for too long."""
        now = time.monotonic()
        with self.lock:
            gone = [key for key, one in self.by_token.items() if now - one.seen > one.patience]
            ended = [self.by_token.pop(key) for key in gone]
        for session in ended:
            session.end()

    def close(self) -> None:
        """End all sessions and remove all files."""
        with self.lock:
            ended, self.by_token = list(self.by_token.values()), {}
        for session in ended:
            session.end()
        self.shared.fuse_queue.close()
        self.shared.examine_queue.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.claimed is not None:
            os.close(self.claimed)
            self.claimed = None


def remove_abandoned(parent: Path) -> None:
    """Remove the temporary folders of servers that no longer run, see files.claim."""
    pattern = re.compile(rf"{re.escape(PREFIX)}([A-Za-z0-9-]*)-\d+-\w+")
    for path in parent.glob(f"{PREFIX}*"):
        if (match := pattern.fullmatch(path.name)) and is_abandoned(path, match[1]):
            shutil.rmtree(path, ignore_errors=True)
