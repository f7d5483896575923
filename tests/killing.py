"""Programs that are started to be killed, as they are or as process 1 of a namespace of their own.

A program is a fork of this process, which has imported its modules already, so that moments fall
into its work and a start costs nothing. Process 1 is what a program is in a container: each start
has the same number, its processes die with it, and it has the signals that it handles alone.
"""

import contextlib
import ctypes
import importlib
import json
import math
import os
import signal
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path

from stackmff.files import remove_leftovers
from stackmff.processes import run_main

NEW_MOUNTS, NEW_NUMBERS = 0x00020000, 0x20000000  # CLONE_NEWNS, CLONE_NEWPID of sched.h
END_WITH_PARENT = 1  # PR_SET_PDEATHSIG of sys/prctl.h
PRIVATE = 0x4000 | 0x40000  # MS_REC | MS_PRIVATE of sys/mount.h
CLOCK_OF_PROCESS = 2  # CPUCLOCK_SCHED of the Linux kernel
PAUSE = 0.005  # seconds between two looks


def become_first():
    """Fork process 1 of a new namespace; its maker ends as it does. Returns in process 1 alone.

    Raises:
        OSError: the system does not let this user do it.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def check(status):
        if status:
            raise OSError(ctypes.get_errno(), "no namespace can be made: be root")

    check(libc.unshare(NEW_MOUNTS | NEW_NUMBERS))
    if made := os.fork():
        with open(3, "wb", buffering=0) as told:
            told.write(made.to_bytes(8, "little"))
        _, status = os.waitpid(made, 0)
        os._exit(os.waitstatus_to_exitcode(status) % 256)
    os.close(3)
    libc.prctl(END_WITH_PARENT, signal.SIGKILL)
    check(libc.mount(b"none", b"/", None, PRIVATE, None))
    check(libc.mount(b"proc", b"/proc", b"proc", 0, None))


class Program:
    """A command that runs in a process of its own.

    Args:
        module: that has its main(argv); words: of the command line.
        place: folder for its temporary files, and for `said`, what it prints.
        is_first: whether it is process 1 of a namespace of its own.

    Attributes:
        number: of its process, as it is known here.
        status: its exit status, or minus the number of the signal that ended it; None: it runs.
        spent: seconds of the processor, when it was looked at last.
    """

    def __init__(self, module, words, place, is_first=False):
        self.said = place / "said"
        self.said.write_bytes(b"")  # what another program said here is not of this one
        main = partial(importlib.import_module(module).main, list(map(str, words)))
        sys.stdout.flush()
        told, tells = os.pipe()
        self.maker = os.fork()
        if self.maker == 0:
            try:
                _begin(place, self.said, tells)
                if is_first:
                    become_first()
                run_main(main, at_once=True)
            except SystemExit as error:
                os._exit(error.code or 0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        os.close(tells)
        with open(told, "rb") as pipe:
            number = pipe.read(8) if is_first else b""
        self.number = int.from_bytes(number, "little") or self.maker
        self.status, self.spent = None, 0.0

    def poll(self):
        """The exit status, or minus the number of the signal that ended it; None: it runs."""
        if self.status is None:
            with contextlib.suppress(OSError):  # it has just ended
                self.spent = time.clock_gettime(~self.number << 3 | CLOCK_OF_PROCESS)
            own, status = os.waitpid(self.maker, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if own else None
        return self.status

    def wait(self, seconds, of_work=math.inf):
        """Wait for its end, or until it has spent so much time of the processor.

        Args:
            seconds: after which it is given up.
            of_work: seconds of the processor, which other programs do not change.
        Returns:
            Whether it has ended.
        """
        end = time.monotonic() + seconds
        while self.poll() is None and self.spent < of_work and time.monotonic() < end:
            time.sleep(PAUSE)
        return self.status is not None

    def send(self, number):
        """Send a signal to the program."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.number, number)

    def kill(self):
        """Kill the program, and wait until it is gone."""
        self.send(signal.SIGKILL)
        self.wait(60)


def _begin(place, said, tells):
    """Be as a process that was just started: streams, folder for temporary files, signals."""
    ctypes.CDLL(None).prctl(END_WITH_PARENT, signal.SIGKILL)
    os.setsid()
    with open(os.devnull, "rb") as nothing, open(said, "wb") as file:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.dup2(tells, 3, inheritable=False)
    os.closerange(4, 256)
    os.environ["TMPDIR"] = str(place)
    tempfile.tempdir = None
    remove_leftovers.cache_clear()
    signal.signal(signal.SIGINT, signal.default_int_handler)


def files_below(folder):
    """The paths of all files below a folder, relative to it; empty where there is no folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def read(path: Path) -> str:
    """The text of a file; "" where it is not there."""
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")
    return ""


def known_of(log, name, is_first):
    """What a log holds of a command: [{"kills", "wrong", ...} of each round]."""
    if log is None or not log.exists():
        return []
    entries = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    return [one for one in entries if (one["name"], one["first"]) == (name, is_first)]


def note(log, entry):
    """Append an entry to a log, if there is one."""
    if log is not None:
        with open(log, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
