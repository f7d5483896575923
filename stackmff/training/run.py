"""A training run: its learning rate, averages and precision, its checkpoints, log and stop."""

import argparse
import io
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from stackmff.errors import StackError
from stackmff.files import write_bytes
from stackmff.processes import rank_and_world
from stackmff.records import run_record
from stackmff.training.optimisation import Average

SAME_SIGNAL = 1.0  # s within which signals are one Ctrl-C


class Stop:
    """Why the run should stop after the current step: the time is up, or a signal came.

    As a context it catches SIGINT and SIGTERM; a second SIGINT interrupts at once, unless it comes
    with the first: what a terminal sends to all processes, torchrun passes on to its own again.
    After a SIGTERM nothing does: the process is ending.

    Args:
        minutes: time from now on, or None.
    """

    TIME = 1

    def __init__(self, minutes):
        self.deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
        self.signal = 0
        self.received = 0.0  # when the first signal came
        self.previous = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self.receive)
        return self

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def receive(self, number, _frame):
        """Remember the first signal."""
        if not self.signal:
            self.signal, self.received = number, time.monotonic()
        elif (
            number == self.signal == signal.SIGINT
            and time.monotonic() > self.received + SAME_SIGNAL
        ):
            raise KeyboardInterrupt

    def reason(self, device):
        """0 to go on, TIME, or the signal's number + 128; the same in all processes."""
        reason = self.signal + 128 if self.signal else 0
        if not reason and time.monotonic() >= self.deadline:
            reason = self.TIME
        if dist.is_initialized():
            shared = torch.tensor(reason, device=device)
            dist.all_reduce(shared, dist.ReduceOp.MAX)
            reason = int(shared)
        return reason


def random_states():
    """The states of all random generators, in types that a checkpoint can hold."""
    name, keys, *rest = np.random.get_state()
    states = {
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states):
    """Undo what happened to the random generators since random_states()."""
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state(tuple(states["numpy"]))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@dataclass
class Run:
    """A training run and how far it is.

    Args:
        args: its options; precision resolved.
        folder: where it lives.
        device: torch.device.
        network: the network that learns, without DistributedDataParallel.
        trained: the same, wrapped where there are several processes.
        average: its Average, which is validated and saved to be used.
        optimizer: torch optimizer.
        loss_weights: {term: weight}.
        steps_per_epoch: steps of a whole epoch.
        data, val_data: fingerprints of the scenes that train and that validate.
        epoch: epochs done.
        step_in_epoch: steps done in the epoch after those.
        step: steps done in all.
        validation: the last scores.
        best: the best PSNR of a validation.
    """

    args: argparse.Namespace
    folder: Path
    device: torch.device
    network: torch.nn.Module
    trained: torch.nn.Module
    average: Average
    optimizer: torch.optim.Optimizer
    loss_weights: dict
    steps_per_epoch: int
    data: str
    val_data: str
    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    validation: dict | None = None
    best: float = -float("inf")

    def checkpoint(self):
        """What best.pth holds: enough to rebuild the network and to know where it is from."""
        return {
            "config": self.network.config,
            "network": self.average.network.state_dict(),
            "args": vars(self.args),
            "versions": run_record()["versions"],
            "epoch": self.epoch,
            "step": self.step,
            "validation": self.validation,
        }

    def state(self):
        """What last.pth holds beside that: enough to go on as if it had not stopped."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step_in_epoch": self.step_in_epoch,
            "best": self.best,
            "data": self.data,
            "val_data": self.val_data,
            "random": random_states(),
        }

    def save(self, name, resumable=False):
        """Write a checkpoint into the run's folder; only process 0 does."""
        if rank_and_world()[0]:
            return
        checkpoint = self.checkpoint()
        if resumable:
            checkpoint["state"] = self.state()
        # By way of memory: torch tells a full disk by a RuntimeError, as it tells much else.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_bytes(self.folder / name, content.getvalue())

    def start(self, checkpoint):
        """Take up what a last.pth holds, if there is one; returns as `restore`.

        Raises:
            StackError: not all processes have found the same one.
        """
        note = self.restore(checkpoint) if checkpoint else ""
        if dist.is_initialized():
            steps = [None] * dist.get_world_size()
            dist.all_gather_object(steps, self.step)
            if len(set(steps)) > 1:
                raise StackError(
                    f"{self.folder / 'last.pth'} is at step {min(steps)} to one process and at "
                    f"{max(steps)} to another: put --experiments on storage that all machines share"
                )
        return note

    def restore(self, checkpoint):
        """Take up what a last.pth holds; returns what does not fit, or an empty text."""
        state = checkpoint["state"]
        self.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(checkpoint["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step = checkpoint["epoch"], checkpoint["step"]
        self.step_in_epoch, self.best = state["step_in_epoch"], state["best"]
        self.validation = checkpoint["validation"]
        set_random_states(state["random"])
        notes = []
        if state.get("val_data", self.val_data) != self.val_data:
            self.best = -float("inf")  # scores of other scenes do not compare
            notes.append(
                "the validation scenes changed since it stopped: the next best.pth is theirs"
            )
        if state["data"] != self.data:
            if self.step_in_epoch:
                self.epoch, self.step_in_epoch = self.epoch + 1, 0
            notes.append(
                "the training scenes changed since it stopped: going on with epoch "
                f"{self.epoch + 1}"
            )
        return "; ".join(notes)
