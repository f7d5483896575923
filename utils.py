"""What several scripts share: errors, seeds, devices, ranks, run records and atomic writes."""

import argparse
import contextlib
import csv
import ctypes
import functools
import hashlib
import io
import json
import math
import os
import platform
import random
import re
import signal
import sys
import tempfile
from pathlib import Path


class StackError(Exception):
    """Bad input or failed work, told in one sentence that names the file and the mend."""


CONTROL_GROUPS = Path("/sys/fs/cgroup")
M_ARENA_MAX = -8  # of mallopt, /usr/include/malloc.h
KNOWN_FAILURES = (StackError, OSError, MemoryError)


def sentence_of(error):
    """One of KNOWN_FAILURES in one line, whatever the names of the files."""
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        sentence = f"{where}{error.strerror or error}"
    elif isinstance(error, MemoryError):
        sentence = f"the memory is not enough ({error or 'full'}): give fewer or smaller pictures"
    else:
        sentence = str(error)
    return sentence.replace("\n", "\\n")


def what_happened(error):
    """Any error in one line."""
    if isinstance(error, KNOWN_FAILURES):
        return sentence_of(error)
    return f"{type(error).__name__}: {error}".replace("\n", "\\n")


def end_with_parent():
    """Have this process of a pool end when the one that started it is killed: nobody else would."""
    import multiprocessing.connection
    import threading

    def wait():
        multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


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


def number(kind, low=None, high=None, above=None, below=None):
    """An argparse type: a finite number within low..high, or beyond the bounds above and below.

    Args:
        kind: int or float.
        low, high, above, below: bounds; None for none.
    Returns:
        A function from a word to a number; it raises argparse.ArgumentTypeError.
    """

    def parse(word):
        try:
            value = kind(word)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{word!r} is no {kind.__name__}") from None
        if not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"{word} must be finite")
        bounds = [
            (low is None or value >= low, f"at least {low}"),
            (high is None or value <= high, f"at most {high}"),
            (above is None or value > above, f"above {above}"),
            (below is None or value < below, f"below {below}"),
        ]
        for holds, sentence in bounds:
            if not holds:
                raise argparse.ArgumentTypeError(f"{word} must be {sentence}")
        return value

    return parse


def natural_key(name):
    """Sort key that counts runs of digits as numbers: frame2 before frame10.

    Args:
        name: a file name or path.
    Returns:
        A tuple that sorts naturally; names that differ only in case or zeros stay in fixed order.
    """
    text = str(name)
    parts = re.split(r"(\d+)", text)
    return [(int(p), "") if p.isdecimal() else (-1, p.casefold()) for p in parts], text


def this_process():
    """Machine and number of this process, as files that it leaves when it is killed name them."""
    return f"{re.sub(r'[^A-Za-z0-9-]', '-', platform.node())[:40]}-{os.getpid()}"


@functools.cache  # a folder of thousands of results is looked through once
def remove_leftovers(folder):
    """Remove the temporary files in a folder of processes of this machine that are no more."""
    host, _, _ = this_process().rpartition("-")
    pattern = re.compile(rf"\..*\.{re.escape(host)}-(\d+)\.[^.]+(\.[^.]*)?", re.DOTALL)
    for path in Path(folder).iterdir():
        if (match := pattern.fullmatch(path.name)) and not is_alive(int(match[1])):
            with contextlib.suppress(OSError):
                path.unlink()


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


@contextlib.contextmanager
def atomic_path(path):
    """Give a temporary name beside `path` and rename it into place when the block succeeds.

    The name keeps the suffix of `path`, so that writers that go by it work. A reader sees the old
    file or the whole new one; when the block fails the temporary file is removed, and when the
    process is killed, by the next one that writes into the folder.

    Args:
        path: the file to write; its folder is made when missing.
    Raises:
        StackError: the folder cannot be made or the file cannot be put there.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        handle, temporary = tempfile.mkstemp(
            suffix=path.suffix, prefix=f".{path.stem[:40]}.{this_process()}.", dir=path.parent
        )
        os.close(handle)
        yield Path(temporary)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    except OSError as error:
        raise StackError(
            f"{path} cannot be written ({error.strerror or error}): check the folder, "
            "its permissions and the free space"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def make_folder(path):
    """Make the folder `path`, so that a hopeless place is told before the work; StackError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StackError(f"{path} cannot be made ({error.strerror}): choose another") from error


def read_bytes(path):
    """The content of a file; StackError where it cannot be read or is empty."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise StackError(f"{path} cannot be read: {error.strerror or error}") from error
    if not data:
        raise StackError(f"{path} is empty (0 bytes): export or copy it again")
    return data


def write_bytes(path, data):
    """Write `data` to `path` atomically; raises StackError when that fails."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path, text):
    """Write `text` to `path` atomically, in UTF-8; raises StackError when that fails.

    Bytes of a file's name that are no UTF-8 become backslash sequences, which JSON reads back.
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path, value):
    """Write `value` as indented JSON to `path` atomically; raises StackError when that fails."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_csv(path, rows):
    """Write rows, the header first, to `path` atomically; raises StackError when that fails."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def sha256(path):
    """SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_memory():
    """Bytes of memory that this process may still take; infinite where no one tells.

    The least of what the machine has free and what the limits of the control groups leave, as
    containers have them (versions 1 and 2).
    """
    free = [float("inf")]
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        free.append(int(line.split()[1]) * 1024)
    for limit, used, freed in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):
            group = CONTROL_GROUPS / limit
            left = int(group.read_text()) - int((CONTROL_GROUPS / used).read_text())
            # Pages of files that nobody has used lately are given back when memory is short.
            for line in group.with_name("memory.stat").read_text().splitlines():
                name, value = line.split()
                left += int(value) if name == freed else 0
            free.append(left)
    return max(min(free), 0)


def share_one_heap():
    """Let all threads that are started from here on take their memory from one heap, by glibc.

    It gives each thread a heap of its own, and what one has freed is lost to the others: a tenth of
    the memory of fusing. Elsewhere nothing is changed.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def how_it_ended(status):
    """A sentence on a process that has ended before its work."""
    if status == -signal.SIGKILL:
        return "its process was killed, as the system does where the memory is not enough"
    if status < 0 and signal.Signals(-status).name == "SIGALRM":
        return "it took longer than it may"
    what = f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
    return f"its process ended {what}"


def run_record():
    """What must be known to repeat a run: the command line and the versions, as a dict."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for package in ("torch", "numpy", "opencv-python-headless", "scikit-image"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {"command": sys.argv, "versions": versions}


def seed_everything(seed):
    """Seed Python, NumPy and torch.

    Args:
        seed: integer from 0 to 2**32 - 1.
    """
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def select_device(name):
    """The torch device that `name` asks for.

    Args:
        name: "auto" (CUDA, else MPS, else the CPU), "cpu", "mps", "cuda" or "cuda:K".
    Returns:
        A torch.device; under torchrun "auto" and "cuda" mean the GPU of the local rank.
    Raises:
        StackError: that device is not there.
    """
    import torch

    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "mps", "cuda"):
        raise StackError(f"--device {name} is no device of ours: use auto, cpu, mps or cuda:K")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        index = device.index if device.index is not None else rank_and_world()[2] % max(count, 1)
        if index >= count:
            raise StackError(f"--device {name} is not there: {count} CUDA device(s) found")
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise StackError("--device mps is not there: use --device cpu")
    return device


def rank_and_world():
    """(rank, world size, local rank) as torchrun tells them; (0, 1, 0) without it."""
    environment = os.environ
    return (
        int(environment.get("RANK", 0)),
        int(environment.get("WORLD_SIZE", 1)),
        int(environment.get("LOCAL_RANK", 0)),
    )
