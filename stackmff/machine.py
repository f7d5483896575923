"""What this machine has: memory, cores, devices, and the libraries that use them."""

import contextlib
import ctypes
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from stackmff.errors import StackError
from stackmff.processes import rank_and_world

if TYPE_CHECKING:
    import torch

PROCESSES, CONTROL_GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# Parameters of mallopt, /usr/include/malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
# Bytes of the largest block of memory that is kept to be used again. The large blocks of tiles of a
# hundred frames, 100 MiB each, are given back, since what lies between them might not fit others.
KEPT_BLOCK = 2**26
HUGE_PAGES = "NUMPY_MADVISE_HUGEPAGE"  # read when NumPy is imported


def import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry, which reports each import to an analytics host.

    The telemetry is a package of its own, openvino_telemetry. Where it cannot be imported, OpenVINO
    uses a stub of its own that does nothing. So nothing leaves the machine, unless the program that
    uses this library has imported OpenVINO before.
    """
    # With None in sys.modules an import raises ImportError.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # documented
    return importlib.import_module("openvino")


@lru_cache(maxsize=1)
def the_core() -> Any:
    """The one openvino.Core of the process.

    Each Core installs an alternate signal stack. When several are freed in the order in which they
    were made, a freed stack stays in use, and the next handled signal crashes the process.
    """
    return import_openvino().Core()


def available_cores() -> int:
    """Number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_features() -> str:
    """The extensions that the processor has, in the system's words; empty where it has none."""
    with contextlib.suppress(OSError), open(PROCESSES / "cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):  # of x86, of ARM
                return value.strip()
    return ""


def may_have_gpu() -> bool:
    """Whether torch might find a GPU, told without importing torch, which takes seconds."""
    # NVIDIA's driver, Windows Subsystem for Linux, AMD's driver.
    devices = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
    return sys.platform == "darwin" or os.name == "nt" or any(map(os.path.exists, devices))


def finds_gpu() -> bool:
    """Whether torch finds a GPU; on many machines that have one, torch is built without it."""
    return may_have_gpu() and has_torch() and select_device("auto").type != "cpu"


def free_memory() -> float:
    """Bytes of memory that this process may still allocate; infinite where it cannot be told.

    This is the minimum of what the machine has available and what the limits of the control groups
    (versions 1 and 2) leave, which containers and the jobs of a cluster have.
    """
    free = [float("inf")]
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (PROCESSES / "meminfo").read_text().splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:"))
        free.append(int(available.split()[1]) * 1024)
    for group, names in control_groups():
        with contextlib.suppress(OSError, ValueError):
            free.append(_left_by(group, names))
    return max(min(free), 0)


class LimitFiles(NamedTuple):
    """The files of a control group that tell the limit and the use of memory."""

    limit: str
    used: str
    freed: str  # line of memory.stat: pages of files, which the kernel frees when memory is short


VERSION_1 = LimitFiles(
    "memory.limit_in_bytes", "memory.usage_in_bytes", freed="total_inactive_file"
)
VERSION_2 = LimitFiles("memory.max", "memory.current", freed="inactive_file")


def control_groups() -> Iterator[tuple[Path, LimitFiles]]:
    """The folder of each control group that may limit the memory of this process.

    A limit holds for all groups below, so these are the group of this process and those above it.
    In a container the path may be that outside; then only the root, which is the container's group,
    is there. Folders that do not exist are yielded too.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html, cgroups(7).
    """
    try:
        lines = (PROCESSES / "self" / "cgroup").read_text().splitlines()
    except OSError:
        lines = []
    # Each line is "number:controllers:path"; version 2 has no controllers there.
    groups = [line.split(":", 2)[1:] for line in lines if line.count(":") >= 2]
    roots = {
        "": (CONTROL_GROUPS, CONTROL_GROUPS / "unified"),
        "memory": (CONTROL_GROUPS / "memory",),
    }
    for controller, names in (("", VERSION_2), ("memory", VERSION_1)):
        paths = [path for controllers, path in groups if controller in controllers.split(",")]
        parts = [part for path in paths for part in path.split("/") if part not in ("", "..")]
        for root in roots[controller]:
            yield root, names
            for depth in range(len(parts)):
                yield root.joinpath(*parts[: depth + 1]), names


def _left_by(group: Path, names: LimitFiles) -> int:
    """Bytes that the limit of a control group leaves.

    Raises:
        OSError, ValueError: it has no limit.
    """
    left = int((group / names.limit).read_text()) - int((group / names.used).read_text())
    for line in (group / "memory.stat").read_text().splitlines():
        name, value = line.split()
        left += int(value) if name == names.freed else 0
    return left


def share_one_heap() -> None:
    """Have all threads started from here on allocate from one heap, which keeps what is freed.

    By default glibc gives each thread its own heap, and memory freed in one is not available to the
    others: a tenth of the memory of fusing. And it gives each block of more than 32 MiB, such as a
    decoded frame, back to the system and takes it anew, which zeroes it page by page: a tenth of
    the time. Up to glibc 2.34 that remains. With other C libraries nothing changes.

    NumPy asks Linux for huge pages, unless the environment variable NUMPY_MADVISE_HUGEPAGE says
    otherwise. They save a tenth of a second where whole ones are free, but a virtual machine that
    has given them back to its host takes 4 ms for each: a second for ten frames of 12 megapixels.
    So they are left to those who set the variable.

    Sources: mallopt(3); numpy.org/doc/stable/reference/global_state.html.
    """
    if HUGE_PAGES not in os.environ:
        with contextlib.suppress(ImportError, AttributeError):  # it has no public name
            importlib.import_module("numpy._core.multiarray")._set_madvise_hugepage(False)
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        # Both, or none: without the second one what is freed at the end of the heap is given back.
        if mallopt(M_MMAP_THRESHOLD, KEPT_BLOCK):
            mallopt(M_TRIM_THRESHOLD, 2 * KEPT_BLOCK)


def has_torch() -> bool:
    """Whether PyTorch is installed, told without importing it."""
    return importlib.util.find_spec("torch") is not None


def need_torch(purpose: str) -> None:
    """Make sure that PyTorch is there.

    Args:
        purpose: what needs it, the subject of a sentence.
    Raises:
        StackError: it is not installed.
    """
    if not has_torch():
        raise StackError(f"{purpose} needs PyTorch: pip install 'stackmff[torch]'")


def select_device(name: str) -> "torch.device":
    """The torch device that `name` asks for.

    Args:
        name: "auto" (CUDA, else MPS, else the CPU), "cpu", "mps", "cuda" or "cuda:K".
    Returns:
        A torch.device; under torchrun "auto" and "cuda" mean the GPU of the local rank.
    Raises:
        StackError: the machine does not have that device.
    """
    need_torch(f"--device {name}")
    import torch

    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    unsupported = StackError(f"--device {name} is not supported: use auto, cpu, mps or cuda:K")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise unsupported from error
    if device.type not in ("cpu", "mps", "cuda"):
        raise unsupported
    if device.type == "cuda":
        count = torch.cuda.device_count()
        index = device.index if device.index is not None else rank_and_world()[2] % max(count, 1)
        if index >= count:
            raise StackError(f"--device {name} is not available: {count} CUDA device(s) found")
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise StackError("--device mps is not available: use --device cpu")
    return device
