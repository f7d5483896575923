"""What a worker process reports to the server, and the limits that it sets itself."""

import contextlib
import json
import signal
import time
from pathlib import Path
from typing import IO, Any

NICENESS = 5  # of the processes that work for the server, so that it stays responsive
PAUSE = 0.1  # seconds between two reports on one stage


class Reporter:
    """Reports to the server.

    Args:
        stream: to write to.
    """

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self.last: tuple[tuple[str, str | None] | None, float] = (None, 0.0)

    def report(self, **message: Any) -> None:
        """Send one message."""
        self.stream.write(json.dumps(message) + "\n")
        self.stream.flush()

    def stage(self, name: str, done: int, total: int, part: str | None = None) -> None:
        """Report progress, see progress.ShowStage; of many quick steps, most are skipped.

        Args:
            name, done, total: of the stage.
            part: "draft", or None for the full result.
        """
        stage, when = self.last
        now = time.monotonic()
        if stage == (name, part) and done < total and now - when < PAUSE:
            return
        self.last = (name, part), now
        self.report(stage=name, done=done, total=total, part=part)


def yield_memory() -> None:
    """Leave the memory to the server where it is scarce."""
    with contextlib.suppress(OSError):  # out of memory, the system ends this, not the server
        Path("/proc/self/oom_score_adj").write_text("1000")


def bound_memory(count: int) -> None:
    """Limit this process to `count` more bytes of memory, where the system supports that."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + count
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard == resource.RLIM_INFINITY or hard > most:
            resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    except (ImportError, OSError, ValueError):
        pass  # not supported here


def bound_time(seconds: float) -> None:
    """Let this process end in so many seconds unless this is called again before; 0: no limit.

    All sessions share one queue for examining, and a file can be made to keep a decoder busy for
    ever. The signal ends the process even inside a library. Systems without it have no such limit.
    """
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)
