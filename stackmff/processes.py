"""Threads and processes: how they are started, fed, interrupted and ended."""

import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import platform
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

from stackmff.errors import KNOWN_FAILURES, StackError, sentence_of

GRACE = 5  # seconds that a process has to end by itself once it is asked to
AUTOGROUP_PAUSE = 0.11  # seconds between two changes of a group's niceness; Linux refuses others

# Long work tells how far it is: called as progress(steps done, steps in all).
Progress = Callable[[int, int], None]
Item = TypeVar("Item")
Result = TypeVar("Result")


def join_processes(backend: str, timeout: timedelta | None = None) -> None:
    """Join the other processes that torchrun started: torch.distributed's default group.

    The store of torchrun's agent outlives the processes. Restarted processes would find the
    addresses of the killed ones in it, so each start uses a prefix of its own. Machines count their
    starts separately, though: with several machines the store must not be the agent's, which
    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 ensures (https://github.com/pytorch/pytorch/issues/135712).

    Args:
        backend: "gloo" or "nccl".
        timeout: after which a waiting process gives up; None: the backend's default.
    """
    import torch.distributed as dist

    store, rank, world = next(dist.rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"start {start}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)


def gathered(own: Item) -> list[Item]:
    """What each of the joined processes gives, in the order of their ranks; all get the same list.

    Args:
        own: of this process; it is pickled where there are several.
    """
    import torch.distributed as dist

    if not dist.is_initialized():
        return [own]
    everyone = [own] * rank_and_world()[1]
    dist.all_gather_object(everyone, own)
    return everyone


def futures_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    count: int,
    pool: Executor | None = None,
) -> Generator[tuple[Item, "Future[Result]"], None, None]:
    """Call a function for each item in threads, a few items ahead of the one that is asked for.

    Args:
        function: called with an item.
        items: any number; memory does not grow with it.
        count: calls that are running, or whose results wait, besides the one that is asked for.
        pool: whose threads are used; None: `count` threads of its own. Those drop the calls that
            have not begun when the caller stops early.
    Yields:
        (item, the future of its result) in the order of the items.
    """
    if pool is None:
        with ThreadPoolExecutor(count) as own:
            try:
                yield from futures_ahead(function, items, count, own)
            finally:
                own.shutdown(cancel_futures=True)
        return
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        waiting.append((item, pool.submit(function, item)))
        if len(waiting) > count:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def in_order(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    jobs: int,
    pool: Executor | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Call a function for each item, several at a time; see `futures_ahead`.

    Args:
        function: called in threads, or in this one where one job is enough and there is no pool.
        items: a sequence.
        jobs: items in work at a time; one result more waits at most, so that memory stays bounded.
        pool: whose threads are used; None: as many as jobs, of its own.
    Yields:
        (item, what the function returned) in the order of the items.
    """
    jobs = min(jobs, len(items))
    if pool is None and jobs < 2:
        for item in items:
            yield item, function(item)
        return
    with contextlib.closing(futures_ahead(function, items, jobs, pool)) as futures:
        for item, future in futures:
            yield item, future.result()


def in_processes(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    *,
    as_they_come: bool = False,
    finish: bool = False,
) -> Iterator[tuple[Item, Result]]:
    """Call a function for each item in processes of one core each.

    Only this process reacts to Ctrl-C. When it is killed, the others end too.

    Args:
        function: at the top level of a module, or a partial of one.
        items: what to call it with; they are sent to the processes.
        workers: processes at most.
        as_they_come: yield results as soon as they are available, in any order.
        finish: on an error, let the processes finish their current calls, which may be writing
            files; else they are ended at once.
    Yields:
        (item, what the function returned).
    Raises:
        StackError: a process was killed. Whatever the function raises passes through.
    """
    others = multiprocessing.active_children()
    # Spawned, not forked: a fork copies the locks of threads and can hang.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), prepare_worker)
    try:
        with uninterrupted():  # the processes start here
            futures = {pool.submit(function, item): item for item in items}
        for future in as_completed(futures) if as_they_come else futures:
            yield futures[future], future.result()
    except BaseException as error:
        with uninterrupted():
            if not finish:
                for process in multiprocessing.active_children():
                    if process not in others:
                        process.terminate()
            pool.shutdown(cancel_futures=True)
        if isinstance(error, BrokenExecutor):
            raise StackError(
                "a worker process was killed, most likely because memory ran out: lower --workers"
            ) from error
        raise
    pool.shutdown()


def prepare_worker() -> None:
    """Set up a process of a pool: it uses one core and ends when its parent is killed."""
    import cv2

    end_with_parent()
    cv2.setNumThreads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # torch reads it when it is loaded
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def end_with_parent() -> None:
    """End this process when its parent is killed, after which nobody would end it."""
    parent = multiprocessing.parent_process()
    if parent is None:
        raise ValueError("this process was not started by multiprocessing")
    sentinel = parent.sentinel

    def wait() -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C inside the block, and for good in processes that are started there.

    A helper process so leaves Ctrl-C to its parent from its first moment on, and a second Ctrl-C
    cannot stop the parent half-way while it ends its helpers. Other threads than the main one are
    never interrupted; there the block does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def start_process(
    command: Sequence[str | Path], niceness: int = 0, **pipes: Any
) -> "subprocess.Popen[Any]":
    """Start a program that leaves Ctrl-C at the terminal to this process.

    Args:
        command: its words.
        niceness: 0 to 19, added to that of this process; see `_be_nice`.
        pipes: as of subprocess.Popen.
    Returns:
        The process, which leads a group of its own; end it with `end_process`.
    """
    with uninterrupted():  # else a Ctrl-C could leave a process that nobody knows of
        process = subprocess.Popen(command, start_new_session=True, **pipes)
    if niceness:
        _be_nice(process.pid, niceness)
    return process


def _be_nice(session: int, niceness: int) -> None:
    """Let a process that leads a session, and those that it starts, leave the processor to others.

    Linux shares the processor among sessions first ("autogroups") and only then, by their nice
    values, among the processes of each: a nice value alone changes nothing between a process and
    one in a session of its own.

    Source: sched(7), "The autogroup feature".
    """
    if not hasattr(os, "setpriority"):
        return
    with contextlib.suppress(OSError):  # it has ended, or this is not allowed here
        own = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, session, min(own + niceness, 19))
    for _ in range(3):
        try:
            own_group = session_niceness("self") or 0  # a process may be in no group
            Path(f"/proc/{session}/autogroup").write_text(str(min(own_group + niceness, 19)))
            return
        except BlockingIOError:  # that of another was changed just now
            time.sleep(AUTOGROUP_PAUSE)
        except (OSError, ValueError):  # another system, or no such groups
            return


def session_niceness(process: int | str) -> int | None:
    """The nice value of a process's session, of the process by its number or "self"; None if its
    system knows none, or the process is in no such group. OSError if there are no such groups."""
    words = Path(f"/proc/{process}/autogroup").read_text().split()
    return int(words[-1]) if words else None


def end_process(process: "subprocess.Popen[Any]") -> None:
    """End a process of `start_process` with those that it has started, and wait for it.

    It is asked to end. After GRACE seconds, or when Ctrl-C interrupts the waiting, it is killed.
    """
    if process.poll() is not None:
        return
    try:
        _stop(process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    finally:
        if process.poll() is None:
            _stop(process, kill=True)
            process.wait()


def _stop(process: "subprocess.Popen[Any]", kill: bool = False) -> None:
    """Ask a process and those that it has started to end, or kill them."""
    if os.name != "posix":
        process.kill()
        return
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.killpg(process.pid, signal.SIGKILL if kill else signal.SIGTERM)


@contextlib.contextmanager
def child(module: str, orders: Any, niceness: int = 0) -> "Iterator[subprocess.Popen[str]]":
    """A process that runs a module of the package; it is gone after the block.

    The orders reach it as one line of JSON on its input, which then stays open, so that the child
    can tell when this process is gone, see `end_with_input`. Read its answers, a line of JSON each,
    with `answers`, then ask how it ended with `wait`. In the child, `answer_channel` is the other
    end.

    Args:
        module: dotted name.
        orders: plain JSON values.
        niceness: as of `start_process`.
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "ascii"}
    process = start_process(child_command(module), niceness, env=child_environment(), **pipes)
    assert process.stdin is not None and process.stdout is not None
    try:
        # A child that is gone already is found when it is asked how it ended.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(orders) + "\n")
            process.stdin.flush()
        yield process
    finally:
        end_process(process)
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def answers(process: Any) -> Iterator[Any]:
    """The answers of a `child`, as they come, until it closes its output."""
    return map(json.loads, process.stdout)


def end_with_input() -> None:
    """Ask this `child` to end when its input does, once its orders are read: its parent was killed.

    Else it would go on to write into folders that the next process of its kind tidies up.
    """
    # The system's call: Python's own reader has a lock, which a thread must not hold at the end.
    handle = sys.stdin.fileno()

    def wait() -> None:
        while os.read(handle, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    # A parent that was killed while this process started is found before any work: a thread could
    # be too late.
    if os.name == "posix" and select.select([handle], [], [], 0)[0] and not os.read(handle, 1024):
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=wait, daemon=True).start()


def answer_channel() -> IO[str]:
    """The output of a `child` for its answers: what its libraries print goes to stderr from now on.

    Write a line of JSON for each answer and flush it.
    """
    channel = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    return channel


def this_process() -> str:
    """Machine and number of this process, for the names of its temporary files."""
    return f"{re.sub(r'[^A-Za-z0-9-]', '-', platform.node())[:40]}-{os.getpid()}"


def is_alive(process: int) -> bool:
    """Whether there is a process of this number; True where the system does not say."""
    if os.name != "posix":
        return True  # there a signal of 0 ends a process
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


def how_it_ended(status: int) -> str:
    """A clause on a process that ended before its work was done.

    Args:
        status: as subprocess tells it: minus the number of a signal, or the exit status.
    """
    if status >= 0:
        return f"its process ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:  # those for real time have none
        name = f"signal {-status}"
    if name == "SIGKILL":
        return "its process was killed, most likely because memory ran out"
    if name == "SIGALRM":
        return "it exceeded its time limit"
    return f"its process ended by {name}"


def rank_and_world() -> tuple[int, int, int]:
    """(rank, world size, local rank) as set by torchrun; (0, 1, 0) without it."""
    environment = os.environ
    return (
        int(environment.get("RANK", 0)),
        int(environment.get("WORLD_SIZE", 1)),
        int(environment.get("LOCAL_RANK", 0)),
    )


def run_main(main: Callable[[], int | None], at_once: bool = False) -> NoReturn:
    """Run a command's main() and turn its known failures into one line and an exit status.

    Args:
        main: function without arguments; it may return an exit status (None counts as 0).
        at_once: exit without freeing memory object by object, which for networks takes a tenth of
            a short run; for a main that leaves no threads and no open files.
    Returns:
        Never: it ends the process with main's status, 1 when the work failed, or 130 on Ctrl-C.
    """
    open_streams()
    # File names that the terminal's encoding cannot show are printed with escapes.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # TextIO lacks it
    # SIGTERM ends it as Ctrl-C does: half-written files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        status = main()
    except KNOWN_FAILURES as error:
        print(f"error: {sentence_of(error)}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # another Ctrl-C adds no traceback
        print("interrupted", file=sys.stderr)
        status = 130
    if at_once:
        with contextlib.suppress(OSError):  # nobody reads it any more
            sys.stdout.flush()
        os._exit(status or 0)
    sys.exit(status)


def open_streams() -> None:
    """Open what was closed of the standard streams, as by `>&-`; nobody reads it.

    Python then has None in their place, and the next file that a library opens would take their
    number and what is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def child_command(module: str) -> list[str]:
    """The words that start a module of the package in a process of its own.

    -P keeps the folder that one stands in out of the import path: a file there may be named like a
    module of the library.
    """
    return [sys.executable, "-P", "-m", module]


def child_environment() -> dict[str, str]:
    """The environment in which `child_command` finds the package, wherever it lies."""
    places = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
