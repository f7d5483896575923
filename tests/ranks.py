"""What torchrun starts in test_distributed.py: a training that notes its samples.

Arguments: a folder for notes, the rank that is killed in the first round (-1: none), the step after
which it is, the type of the numbers (float32, float64), and those of train.py. Beside it, rank 0
notes the gradients of processes that each have the same half of a batch.
"""

import contextlib
import copy
import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent.parent))

import loss
import train
from network import run_network
from stackmff.training import optimisation


@contextlib.contextmanager
def numbers(dtype):
    """Train in numbers of this type, torch.float32 or torch.float64, whatever was read."""

    def converted(loader):
        for batch in batches(loader):
            yield batch | {name: batch[name].to(dtype) for name in ("stack", "answer")}

    default, batches, single = torch.get_default_dtype(), train.batches, torch.Tensor.float
    torch.set_default_dtype(dtype)
    train.batches = converted
    torch.Tensor.float = lambda tensor: tensor.to(dtype)  # by which networks and losses leave bf16
    try:
        yield
    finally:
        torch.set_default_dtype(default)
        train.batches = batches
        torch.Tensor.float = single


def gradients_of(network, copies):
    """The gradients of the default loss for a half batch that comes `copies` times, flattened."""
    stack = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    stack = stack.repeat(copies, 1, 1, 1, 1)
    output = run_network(network.train(), stack)
    batch = {"stack": stack, "answer": stack[:, :, 1]}
    loss.weighted_loss(output, batch, loss.DEFAULT_WEIGHTS)[0].backward()
    return torch.cat([p.grad.flatten() for p in network.parameters()])


def noting(folder, killed, last):
    """train_step that notes what it was given, and may be the last thing that a rank does."""
    rank, start = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    train_step = train.train_step

    def step(run, batch, stages):
        if run.step == 0:
            parallel = optimisation.across_processes(copy.deepcopy(run.network), run.device)
            gradients = gradients_of(parallel, 1)
            if rank == 0:
                torch.save((run.network.state_dict(), gradients), folder / "gradients.pth")
        values = train_step(run, batch, stages)
        with open(folder / f"rank{rank}.txt", "a") as file:
            print(start, run.step, float(batch["stack"].double().sum()), file=file)
        if (start, run.step) == (0, last) and killed >= 0:
            dist.barrier()  # so that all have noted this step
            if rank == killed:
                os.kill(os.getpid(), signal.SIGKILL)
        return values

    return step


if __name__ == "__main__":
    train.train_step = noting(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    with numbers(getattr(torch, sys.argv[4])):
        train.run_main(lambda: train.main(sys.argv[5:]))
