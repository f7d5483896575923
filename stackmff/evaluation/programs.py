"""Programs that fuse a stack from the command line, and what a run of one costs."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stackmff.errors import StackError
from stackmff.processes import end_process, how_it_ended, start_process

# The process that starts a program is a small one: a program's record of its peak memory begins
# with the peak of the process that started it, and this one may have held a large picture.
# SIGTERM ends the program, not the starter, which waits for it; SIG_IGN would be inherited by it.
STARTER = """
import json, os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: None)
start = time.perf_counter()
environment = {**os.environ, "STARTED_AT": repr(start)}
process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr, env=environment)
_, status, usage = os.wait4(process.pid, 0)
seconds = time.perf_counter() - start
cpu = usage.ru_utime + usage.ru_stime
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, cpu, usage.ru_maxrss]))
"""
FRAMES = "{frames}"  # in a command line: the files of the frames


@dataclass(frozen=True)
class Peer:
    """Another program.

    Attributes:
        words: its command line; {output} in a word is the file to write, FRAMES are the frames.
        suffix: of the picture that it is to write.
        mend: what to do if it is not installed.
    """

    words: tuple[str, ...]
    suffix: str
    mend: str

    def command(self, frames: Sequence[Path], output: Path) -> list[str]:
        """The command line for the files of a stack."""
        line: list[str] = []
        for word in self.words:
            line += map(str, frames) if word == FRAMES else [word.format(output=output)]
        return line


PEERS = {
    "enfuse": Peer(
        (
            "enfuse",
            "--exposure-weight=0",
            "--saturation-weight=0",
            "--contrast-weight=1",
            "--hard-mask",
            "--output={output}",
            FRAMES,
        ),
        ".tif",
        "apt install enfuse",
    ),
    # It always aligns: no release has an option against it. Its corrections of white balance and
    # contrast are off, since ours has none.
    "focus-stack": Peer(
        ("focus-stack", "--no-whitebalance", "--no-contrast", "--output={output}", FRAMES),
        ".jpg",
        "install it from https://github.com/PetteriAimonen/focus-stack",
    ),
}


@dataclass(frozen=True)
class Measured:
    """What a process took: seconds on the clock, seconds of all cores together, peak MiB."""

    seconds: float
    cpu_seconds: float
    mib: float


def run_measured(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
) -> Measured:
    """Run a program and measure it.

    Args:
        command: its words.
        log: file for what it prints.
        environment: its variables, to which STARTED_AT is added, time.perf_counter() at its start;
            None: those of this process.
    Returns:
        Measured, without the memory of a GPU.
    Raises:
        StackError: it failed.
    """
    starter = [sys.executable, "-I", "-S", "-c", STARTER]
    with open(log, "wb") as stream:
        process = start_process(
            [*starter, *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stream,
            env=environment,
        )
    try:
        said, _ = process.communicate()
    finally:
        end_process(process)
    status, seconds, cpu_seconds, memory = json.loads(said or f"[{process.returncode}, 0, 0, 0]")
    if status:
        lines = Path(log).read_text(errors="backslashreplace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        raise StackError(f"{how_it_ended(status)}: {last}")
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return Measured(seconds, cpu_seconds, memory / unit)


def check_measurable() -> None:
    """Raise StackError where the system does not report the memory of a process."""
    if not hasattr(os, "wait4"):
        raise StackError("this system does not report the memory of a process: use Linux or macOS")
