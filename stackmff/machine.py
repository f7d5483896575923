"""What this machine has: memory, cores, devices."""

import contextlib
import ctypes
import os
import sys
from functools import lru_cache
from pathlib import Path

from stackmff.errors import StackError
from stackmff.processes import rank_and_world

CONTROL_GROUPS = Path("/sys/fs/cgroup")
M_ARENA_MAX = -8  # of mallopt, /usr/include/malloc.h


@lru_cache(maxsize=1)
def the_core():
    """The one openvino.Core of the process.

    Each brings a stack for signals of its own, and where several go in the order in which they
    came, one that is freed stays in use: the next signal with a handler ends the process.
    """
    import openvino

    return openvino.Core()


def available_cores():
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def may_have_gpu():
    """Whether torch might find a GPU: asked without torch, which takes seconds to import."""
    # Of NVIDIA's driver, of Windows' subsystem for Linux, of AMD's.
    devices = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
    return sys.platform == "darwin" or os.name == "nt" or any(map(os.path.exists, devices))


def finds_gpu():
    """Whether torch finds a GPU; many have one for which their torch is not built."""
    return may_have_gpu() and select_device("auto").type != "cpu"


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
