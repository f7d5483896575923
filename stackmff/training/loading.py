"""How many processes load data, and how much memory each may use."""

import os

from stackmff.machine import available_cores, free_memory
from stackmff.training.options import DataOptions

CACHE_MIB = 4096  # if the free memory is unknown
MOST_WORKERS = 16  # loader processes of one training process by default


def count_workers(data: DataOptions, on_cuda: bool) -> int:
    """The loader processes of --num_workers, or as many as keep the device busy.

    Args:
        data: the options of the data.
        on_cuda: whether a CUDA device trains.
    Returns:
        0 if loading costs little compared with the step (stored stacks on a CPU), or if the device
        makes the scenes itself; else a share of the cores.
    """
    if data.num_workers is not None:
        return data.num_workers
    if bool(data.photos) == on_cuda:
        return 0
    return min(max(available_cores() // processes_here(), 1), MOST_WORKERS)


def room_for_pictures() -> int:
    """MiB of memory that each training process on this machine may use for decoded pictures."""
    free = free_memory()
    return CACHE_MIB if free == float("inf") else int(free / 2 / processes_here()) >> 20


def processes_here() -> int:
    """Training processes on this machine, as torchrun says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))
