"""Joining the processes that torchrun started, also those that it starts again."""

import os


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
