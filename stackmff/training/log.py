"""The log of a training run."""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from stackmff.errors import what_happened
from stackmff.files import parse_json, write_text
from stackmff.processes import gathered, rank_and_world
from stackmff.training.trackers import Tracker

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def say(text: str) -> None:
    """Print lines about the run; only process 0 does."""
    if rank_and_world()[0] == 0:
        print(text, flush=True)


def line_step(line: str) -> float:
    """The step of a line of log.jsonl; infinite for a line that was cut short or is another's."""
    try:
        return float(parse_json(line)["step"])
    except (ValueError, TypeError, KeyError, OverflowError):
        return float("inf")


class Log:
    """log.jsonl and TensorBoard events of a run; only process 0 writes them.

    Args:
        folder: the run's folder, or None to write nothing.
        step: steps done; what an interrupted run logged after them is dropped.
        tracker: gets every curve too; None for none. `close` ends it.
    """

    def __init__(self, folder: Path | None, step: int, tracker: Tracker | None = None) -> None:
        self.tracker = tracker
        self.path: Path | None = None
        self.writer: SummaryWriter | None = None
        if folder is None:
            return
        from torch.utils import tensorboard  # takes seconds, which --help must not

        self.path = folder / "log.jsonl"
        if self.path.exists():
            text = self.path.read_text(encoding="utf-8", errors="replace")
            lines = text.splitlines(keepends=True)
            kept = [line for line in lines if line_step(line) <= step]
            write_text(self.path, "".join(kept))
        self.writer = tensorboard.SummaryWriter(folder, purge_step=step + 1)

    def write(self, group: str, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Add a line {"epoch", "step", group: values}, and a point to the curve of each value."""
        if self.writer is None or self.path is None:
            return
        line = {"epoch": epoch, "step": step, group: values}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        points = {f"{group}/{name}": value for name, value in values.items()}
        for name, value in points.items():
            self.writer.add_scalar(name, value, step)
        self._tell_tracker(lambda tracker: tracker.write(points, step))

    def show(self, panels: Mapping[str, np.ndarray], step: int) -> None:
        """Add pictures of validation scenes to TensorBoard: {scene: (H, W, 3) uint8}."""
        if self.writer is not None:
            for scene, panel in panels.items():
                self.writer.add_image(scene, panel, step, dataformats="HWC")
            self.writer.flush()

    def close(self) -> None:
        """Write what is still in memory."""
        if self.writer is not None:
            self.writer.close()
        self._tell_tracker(lambda tracker: tracker.close())

    def _tell_tracker(self, act: Callable[[Tracker], None]) -> None:
        """Call the tracker, if there is one; the run goes on without one that fails."""
        if self.tracker is None:
            return
        try:
            act(self.tracker)
        except Exception as error:  # of a service: days of training do not depend on it
            self.tracker = None
            say(f"the tracker failed, and the run goes on without it: {what_happened(error)}")


class Means:
    """Means of the logged values over some steps, and the speed of these steps."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.sums: dict[str, float | torch.Tensor] = {}
        self.steps, self.samples, self.positions = 0, 0, 0

    def add(self, values: Mapping[str, float | torch.Tensor], stack: torch.Tensor) -> None:
        """Add a step.

        Args:
            values: {name: number or scalar tensor}, with the learning rate as "lr".
            stack: (B, C, N, H, W), the samples of this process.
        """
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value
        self.steps += 1
        self.rate = float(values["lr"])
        self.samples += len(stack)
        self.positions += stack[:, :1].numel()  # a position has one to three planes

    def values(self) -> dict[str, float]:
        """{name: mean}, the last learning rate, and the speed, of all processes together.

        Each process has its share of the samples, so all must call it, at the same step.
        """
        rate = rank_and_world()[1] / (time.perf_counter() - self.start)
        own = {name: float(value) / self.steps for name, value in self.sums.items()}
        shares = gathered(own)
        means = {name: math.fsum(one[name] for one in shares) / len(shares) for name in own}
        return means | {
            "lr": self.rate,
            "samples_per_second": self.samples * rate,
            "megapixel_frames_per_second": self.positions * rate / 1e6,
        }

    def sentences(self) -> list[str]:
        """What the line of an epoch says about its training; empty if no step was taken."""
        if not self.steps:
            return []
        values = self.values()
        return [
            f"training loss {values['loss']:.5f}, gradient {values['gradient_norm']:.3g}, "
            f"lr {values['lr']:.2e}, {values['samples_per_second']:.1f} samples/s"
        ]
