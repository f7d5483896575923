"""A training run and how far it is: its checkpoints, its random states, why it stops."""

import contextlib
import io
import random
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from stackmff.errors import StackError
from stackmff.files import atomic_path, keep_as
from stackmff.options import values_of
from stackmff.processes import gathered, join_processes, rank_and_world
from stackmff.records import run_record
from stackmff.training.optimisation import Average
from stackmff.training.options import LAST, PREVIOUS, TrainOptions

SAME_SIGNAL = 1.0  # s within which signals are one Ctrl-C


class Stop:
    """Why the run should stop after the current step: the time is up, or a signal arrived.

    As a context it catches SIGINT and SIGTERM. A second SIGINT interrupts at once, unless it
    arrives together with the first: a terminal sends it to all processes, and torchrun passes it on
    to its own again. After a SIGTERM no signal interrupts, since the process is ending.

    Args:
        minutes: time from now on, or None.
    """

    TIME = 1

    def __init__(self, minutes: float | None) -> None:
        self.deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
        self.signal = 0
        self.received = 0.0  # when the first signal arrived
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self.receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """Remember the first signal."""
        if not self.signal:
            self.signal, self.received = number, time.monotonic()
        elif (
            number == self.signal == signal.SIGINT
            and time.monotonic() > self.received + SAME_SIGNAL
        ):
            raise KeyboardInterrupt

    def reason(self, device: torch.device) -> int:
        """0 to continue, TIME, or the signal's number + 128; the same in all processes."""
        reason = self.signal + 128 if self.signal else 0
        if not reason and time.monotonic() >= self.deadline:
            reason = self.TIME
        if dist.is_initialized():
            shared = torch.tensor(reason, device=device)
            dist.all_reduce(shared, dist.ReduceOp.MAX)
            reason = int(shared)
        return reason


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started; does nothing if there is only one."""
    _, world, _ = rank_and_world()
    if world == 1:
        yield
        return
    join_processes("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
        dist.barrier()  # gloo's threads abort a process that leaves while another is working
    finally:
        dist.destroy_process_group()


def random_states() -> dict[str, Any]:
    """The states of all random generators, in types that a checkpoint can hold."""
    name, keys, *rest = np.random.get_state(legacy=True)
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: Mapping[str, Any]) -> None:
    """Return all random generators to the states that `random_states` gave."""
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
        options: with the precision chosen, "fp32", "bf16" or "fp16".
        device: torch.device.
        network: the network that learns, without DistributedDataParallel.
        trained: the same, wrapped where there are several processes.
        average: its Average, which is validated and saved to be used.
        optimizer: torch optimizer.
        scaler: of the loss, see `optimisation.loss_scaler`.
        loss_weights: {term: weight}.
        steps_per_epoch: steps of a whole epoch.
        data, val_data: fingerprints of the training and validation scenes.
        epoch: epochs done.
        step_in_epoch: steps done in the epoch after those.
        step: steps done in all.
        validation: the last scores.
        best: the best PSNR of a validation.
        last_is_whole: whether last.pth was written or read by this run.
    """

    options: TrainOptions
    device: torch.device
    network: torch.nn.Module
    trained: torch.nn.Module
    average: Average
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    loss_weights: Mapping[str, float]
    steps_per_epoch: int
    data: str
    val_data: str
    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    validation: dict[str, float] | None = None
    best: float = -float("inf")
    last_is_whole: bool = False

    @property
    def folder(self) -> Path:
        """Where it lives."""
        return self.options.run.folder

    def checkpoint(self) -> dict[str, Any]:
        """What best.pth holds: enough to rebuild the network and to know its origin."""
        return {
            "config": self.network.config,
            "network": self.average.network.state_dict(),
            "args": values_of(self.options),
            "versions": run_record()["versions"],
            "epoch": self.epoch,
            "step": self.step,
            "validation": self.validation,
        }

    def state(self) -> dict[str, Any]:
        """What last.pth holds besides: enough to continue as if the run had not stopped."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step_in_epoch": self.step_in_epoch,
            "best": self.best,
            "data": self.data,
            "val_data": self.val_data,
            "random": random_states(),
        }

    def save(self, name: str, resumable: bool = False) -> None:
        """Write a checkpoint into the run's folder; only process 0 does.

        Args:
            name: of the file.
            resumable: include what the run needs to continue, and keep the file that is there as
                PREVIOUS.
        Raises:
            StackError: it cannot be written.
        """
        if rank_and_world()[0]:
            return
        checkpoint = self.checkpoint()
        if resumable:
            checkpoint["state"] = self.state()
        # In memory first: torch reports a full disk by a RuntimeError, as it does much else.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        path = self.folder / name
        with atomic_path(path) as temporary:
            temporary.write_bytes(content.getvalue())
            if resumable and self.last_is_whole and path.is_file():
                keep_as(path, self.folder / PREVIOUS)
        self.last_is_whole = self.last_is_whole or resumable

    def start(self, checkpoint: dict[str, Any] | None) -> str:
        """Restore what a last.pth holds, if there is one; returns as `restore`.

        Raises:
            StackError: the processes have found different ones.
        """
        note = self.restore(checkpoint) if checkpoint else ""
        steps = gathered(self.step)
        if len(set(steps)) > 1:
            raise StackError(
                f"{self.folder / 'last.pth'} is at step {min(steps)} for one process and at "
                f"{max(steps)} for another: put --experiments on storage that all machines share"
            )
        return note

    def restore(self, checkpoint: Mapping[str, Any]) -> str:
        """Restore what a last.pth holds; returns what has changed since, or an empty text."""
        state = checkpoint["state"]
        self.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(checkpoint["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state.get("scaler") and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step = checkpoint["epoch"], checkpoint["step"]
        # Earlier versions scored an exact stack as infinite, which nothing surpasses.
        best = state["best"]
        self.best = -float("inf") if best == float("inf") else best
        self.step_in_epoch = state["step_in_epoch"]
        self.validation = checkpoint["validation"]
        set_random_states(state["random"])
        self.last_is_whole = checkpoint.get("file") == LAST
        notes = [checkpoint["note"]] if checkpoint.get("note") else []
        if state.get("val_data", self.val_data) != self.val_data:
            self.best = -float("inf")  # scores of other scenes do not compare
            notes.append(
                "the validation scenes have changed since the run stopped: best.pth starts anew "
                "with the next validation"
            )
        if state["data"] != self.data:
            if self.step_in_epoch:
                self.epoch, self.step_in_epoch = self.epoch + 1, 0
            notes.append(
                "the training scenes have changed since the run stopped: continuing with epoch "
                f"{self.epoch + 1}"
            )
        return "; ".join(notes)
