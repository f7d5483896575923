"""Processes for jobs that need not start Python and load the libraries: forks of one that has.

The nursery is a process of the worker's module that has loaded what the work needs. It has one
thread, opens nothing, and forks a process for each job that it is asked for; what the job does with
memory, time and damaged files ends with that process, as if it had been started anew. The nursery
starts at the first job, ends when it was idle for long or the server is gone, and is started again
at the next job. Where the system is not Linux each job starts a process of its own: elsewhere
libraries do not bear to be forked.
"""

import atexit
import contextlib
import ctypes
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from typing import Any

from stackmff.processes import (
    GRACE,
    child,
    child_command,
    child_environment,
    end_process,
    start_process,
)

IDLE = 600.0  # seconds without a job until the nursery ends
STOP, KILL = b"s", b"k"  # what the nursery is asked to do with a job
END_WITH_PARENT = 1  # PR_SET_PDEATHSIG of sys/prctl.h


class Forked:
    """A process of the nursery, with the part of subprocess.Popen that its users need.

    Args:
        link: to the nursery, which tells the number of the process on it, and how it ended.
        stdin, stdout: the ends of its pipes that are the server's.

    Attributes:
        pid: its number.
        returncode: as of subprocess.Popen; None as long as it runs.
    """

    def __init__(self, link: socket.socket, stdin: int, stdout: int) -> None:
        self.link, self.lock = link, threading.Lock()
        self.told = link.makefile("r", encoding="utf-8")
        self.stdin = os.fdopen(stdin, "w", encoding="ascii")
        self.stdout = os.fdopen(stdout, encoding="ascii")
        self.pid = 0
        self.returncode: int | None = None

    def begin(self) -> bool:
        """Wait until it runs; False: the nursery has ended.

        Raises:
            OSError: the system has no room for another process.
        """
        told = self._line()
        if told and not told.isdecimal():
            raise OSError(told)
        self.pid = int(told or 0)
        return bool(told)

    def _line(self) -> str:
        """What the nursery tells next; "" where it has ended."""
        with contextlib.suppress(ConnectionError):
            return self.told.readline().strip()
        return ""

    def poll(self) -> int | None:
        """Its exit status, or minus the number of a signal; None: it runs."""
        if self.returncode is None and wait([self.link], 0):
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it runs still.
        """
        if self.returncode is None and not wait([self.link], timeout):
            assert timeout is not None
            raise subprocess.TimeoutExpired("a job", timeout)
        with self.lock:  # the nursery tells it once
            if self.returncode is None:
                # The processes of a nursery that is killed are killed too.
                self.returncode = int(self._line() or -signal.SIGKILL)
        return self.returncode

    def ask(self, what: bytes) -> None:
        """Have the nursery STOP or KILL it, which knows whether its number is still its own."""
        with contextlib.suppress(OSError):  # it has ended
            self.link.sendall(what)

    def close(self) -> None:
        """Close what connects it with the server; a process that runs still is killed."""
        self.told.close()
        self.link.close()
        self.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()


class Nursery:
    """The server's end of a nursery.

    Args:
        module: dotted name of the module that serves; see `serve`.
        niceness: of all its processes, as of processes.start_process.
    """

    def __init__(self, module: str, niceness: int = 0) -> None:
        self.module, self.niceness = module, niceness
        self.lock = threading.Lock()
        self.process: subprocess.Popen[Any] | None = None
        self.control: socket.socket | None = None

    def prepare(self) -> None:
        """Start it ahead of the first job, if this system has one."""
        if sys.platform == "linux":
            with self.lock:
                self._connected()

    @contextlib.contextmanager
    def child(self, orders: Any) -> "Iterator[Forked | subprocess.Popen[str]]":
        """As processes.child, of this module; end it earlier with `end`.

        Raises:
            OSError: the system has no room for another process.
        """
        if sys.platform != "linux":
            with child(self.module, orders, self.niceness) as started:
                yield started
            return
        process = self._forked()
        try:
            with contextlib.suppress(OSError):  # it has ended, which is found when it is asked how
                for line in (surroundings(), orders):
                    process.stdin.write(json.dumps(line) + "\n")
                process.stdin.flush()
            yield process
        finally:
            end(process)
            process.close()

    def _forked(self) -> Forked:
        """A new process, which waits for its orders."""
        for _ in range(2):  # the nursery may have ended since it was asked last
            with self.lock:
                control = self._connected()
                process = self._asked(control)
            if process is not None:
                if process.begin():
                    return process
                process.close()
            with self.lock:
                if self.control is control:  # else another job has started a new one
                    self._end()
        raise OSError("its process could not be started")

    def _connected(self) -> socket.socket:
        """The socket to the nursery, which is started if it does not run."""
        if self.process is not None and self.process.poll() is not None:
            self._end()
        if self.control is None:
            own, other = socket.socketpair()
            with other:
                self.process = start_process(
                    [*child_command(self.module), str(other.fileno())],
                    self.niceness,
                    env=child_environment(),
                    pass_fds=[other.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                )
            self.control = own
        return self.control

    def _asked(self, control: socket.socket) -> Forked | None:
        """Ask for a process; None where the nursery has ended."""
        orders, stdin = os.pipe()
        stdout, answers = os.pipe()
        own, other = socket.socketpair()
        process = Forked(own, stdin, stdout)
        try:
            socket.send_fds(control, [b"f"], [orders, answers, 2, other.fileno()])
        except OSError:
            process.close()
            return None
        finally:
            os.close(orders)
            os.close(answers)
            other.close()
        return process

    def close(self) -> None:
        """End the nursery and its processes; the next job starts another."""
        with self.lock:
            self._end()

    def _end(self) -> None:
        """End it, if it runs; the lock is held."""
        if self.control is not None:
            self.control.close()
            self.control = None
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE)  # it ends as its socket does
            end_process(self.process)
            self.process = None


def end(process: "Forked | subprocess.Popen[str]") -> None:
    """End a process of `Nursery.child` with those that it has started, and wait for it."""
    if not isinstance(process, Forked):
        end_process(process)
        return
    if process.poll() is not None:
        return
    try:
        process.ask(STOP)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    finally:
        if process.poll() is None:
            process.ask(KILL)
            process.wait()


def surroundings() -> dict[str, Any]:
    """What a process inherits from the one that starts it, of which a nursery may have an older."""
    found: dict[str, Any] = {"environment": child_environment(), "folder": None}
    with contextlib.suppress(OSError):  # it was removed
        found["folder"] = os.getcwd()
    return found


# ---- the nursery's side


def serve(number: int, work: Callable[[], int]) -> None:
    """Fork a process for each job that is asked for, until the server is gone.

    Args:
        number: of the file of the socket, as Nursery has started this process with.
        work: called in each of them; it takes its orders from sys.stdin, answers on file 1, and
            returns an exit status.
    """
    gc.freeze()  # what is loaded stays: its pages need not be copied for the collector's marks
    # Of processes with several threads Python warns; those of libraries for linear algebra are
    # ended and started again around a fork by these libraries.
    warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
    woken, wakes = os.pipe()
    for one in (woken, wakes):
        os.set_blocking(one, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    links: dict[int, socket.socket] = {}
    control = socket.socket(fileno=number)
    while True:
        ready = wait([control, woken, *links.values()], None if links else IDLE)
        if not ready:
            return
        if woken in ready:
            os.read(woken, 4096)
            _tell_ends(links)
        for pid, link in list(links.items()):
            if link in ready:
                _obey(pid, link)
        if control in ready:
            asked, files, _, _ = socket.recv_fds(control, 1, 4)
            if not asked:
                return  # and the processes of jobs with it
            *streams, last = files
            link = socket.socket(fileno=last)
            parent = os.getpid()
            try:
                pid = os.fork()
            except OSError as error:
                with link, contextlib.suppress(OSError):
                    link.sendall(f"{error.strerror}\n".encode())
                pid = -1
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for one in (woken, wakes):
                    os.close(one)
                for other in (control, link, *links.values()):
                    other.close()
                _work_as_child(parent, streams, work)
            for one in streams:
                os.close(one)
            if pid > 0:
                with contextlib.suppress(OSError):  # it has done so itself
                    os.setpgid(pid, pid)
                links[pid] = link
                with contextlib.suppress(OSError):
                    link.sendall(f"{pid}\n".encode())


def _tell_ends(links: dict[int, socket.socket]) -> None:
    """Tell the server of the processes that have ended, and forget them."""
    with contextlib.suppress(ChildProcessError):  # there is none
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with links.pop(pid) as link, contextlib.suppress(OSError):
                link.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _obey(pid: int, link: socket.socket) -> None:
    """Do with a process and those that it has started what the server asks for."""
    asked = b""
    with contextlib.suppress(ConnectionError):
        asked = link.recv(1)
    number = signal.SIGTERM if asked == STOP else signal.SIGKILL  # also where the server is gone
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.killpg(pid, number)


def _work_as_child(parent: int, streams: list[int], work: Callable[[], int]) -> None:
    """Be as a process that was just started, work, and end."""
    status = 1
    try:
        ctypes.CDLL(None).prctl(END_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:  # it was killed before that
            os._exit(1)
        os.setpgid(0, 0)  # the nursery's session has no terminal, so no Ctrl-C either
        for place, one in enumerate(streams):
            os.dup2(one, place)
            os.close(one)
        sys.stdin = os.fdopen(0, encoding="ascii", closefd=False)
        told = json.loads(sys.stdin.readline())
        os.environ.clear()
        os.environ.update(told["environment"])
        if told["folder"] is not None:
            with contextlib.suppress(OSError):
                os.chdir(told["folder"])
        status = work()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(status)


def ending_with_this_process(nursery: Nursery) -> Nursery:
    """A nursery that ends before this process does, which then need not be noticed by it."""
    atexit.register(nursery.close)
    return nursery
