"""Threads and processes: work in order, helpers that end with their parent, torchrun, exit."""

import contextlib
import os
import platform
import re
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from stackmff.errors import KNOWN_FAILURES, sentence_of

# Long work tells how far it is: called as progress(steps done, steps in all).
Progress = Callable[[int, int], None]

Item = TypeVar("Item")
Result = TypeVar("Result")


def join_processes(backend, timeout=None):
    """Join the other processes: torch.distributed's default group.

    The store of torchrun's agent outlives the processes, and those that are started again would
    find the addresses of the killed ones in it; so each start has its own part of it. Machines
    count their starts apart, though: with several the store must not be the agent's, which
    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 sees to (https://github.com/pytorch/pytorch/issues/135712).

    Args:
        backend: "gloo" or "nccl".
        timeout: timedelta after which a process that waits gives up; None: the backend's own.
    """
    import torch.distributed as dist

    store, rank, world = next(dist.rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"start {start}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)


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


def end_with_parent():
    """Have this process of a pool end when the one that started it is killed: nobody else would."""
    import multiprocessing.connection
    import threading

    def wait():
        multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def uninterrupted():
    """Ctrl-C does nothing inside the block, nor ever in a process that is started there.

    So a process that is started to help leaves Ctrl-C to the one that started it, from its first
    moment on, and that one can end it without being stopped half-way by a second Ctrl-C.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def this_process():
    """Machine and number of this process, as files that it leaves when it is killed name them."""
    return f"{re.sub(r'[^A-Za-z0-9-]', '-', platform.node())[:40]}-{os.getpid()}"


def is_alive(process):
    """Whether there is a process of this number; True where that cannot be told."""
    if os.name != "posix":
        return True  # there a signal of 0 ends a process
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


def how_it_ended(status):
    """A sentence on a process that has ended before its work."""
    if status == -signal.SIGKILL:
        return "its process was killed, as the system does where the memory is not enough"
    if status < 0 and signal.Signals(-status).name == "SIGALRM":
        return "it took longer than it may"
    what = f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
    return f"its process ended {what}"


def rank_and_world():
    """(rank, world size, local rank) as torchrun tells them; (0, 1, 0) without it."""
    environment = os.environ
    return (
        int(environment.get("RANK", 0)),
        int(environment.get("WORLD_SIZE", 1)),
        int(environment.get("LOCAL_RANK", 0)),
    )


def run_main(main, at_once=False):
    """Run a script's main() and turn its known failures into one line and an exit status.

    Args:
        main: function without arguments; it may return an exit status (None counts as 0).
        at_once: end without taking apart what is in memory, which for networks takes a tenth of a
            short run; for a main that leaves no thread and no file to be seen to.
    Returns:
        Never: it ends the process with main's status, 1 when the work failed, or 130 on Ctrl-C.
    """
    # Names of files that the terminal's coding has no letters for are printed all the same.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    # As Ctrl-C does, so that what is half written is taken away.
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
