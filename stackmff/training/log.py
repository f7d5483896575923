"""The log of a training run."""

import json
import time

from stackmff.files import write_text
from stackmff.processes import rank_and_world


def line_step(line):
    """The step of a line of log.jsonl; infinite for one that was cut short."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return float("inf")


class Log:
    """log.jsonl and TensorBoard events of a run; process 0 writes, the others keep silent.

    Args:
        folder: the run's folder, or None to keep silent.
        step: steps done; what an interrupted run logged beyond them is dropped.
    """

    def __init__(self, folder, step):
        self.path = self.writer = None
        if folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter  # seconds that --help need not wait for

        self.path = folder / "log.jsonl"
        if self.path.exists():
            lines = self.path.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line_step(line) <= step]
            write_text(self.path, "".join(kept))
        self.writer = SummaryWriter(folder, purge_step=step + 1)

    def write(self, group, epoch, step, values):
        """A line {"epoch", "step", group: values}, and a curve for each of the values."""
        if self.writer is None:
            return
        line = {"epoch": epoch, "step": step, group: values}
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in values.items():
            self.writer.add_scalar(f"{group}/{name}", value, step)

    def show(self, panels, step):
        """Pictures of validation scenes: {scene: (H, W, 3) uint8}."""
        if self.writer is not None:
            for scene, panel in panels.items():
                self.writer.add_image(scene, panel, step, dataformats="HWC")
            self.writer.flush()

    def close(self):
        """Write what is still in memory."""
        if self.writer is not None:
            self.writer.close()


class Means:
    """Means over some steps of what is logged, and how fast they went."""

    def __init__(self):
        self.start = time.perf_counter()
        self.sums, self.steps, self.samples, self.positions = {}, 0, 0, 0

    def add(self, values, stack):
        """Take a step in: {name: number or scalar tensor} and its stack of this process."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value
        self.steps += 1
        self.rate = values["lr"]
        self.samples += len(stack)
        self.positions += stack[:, :1].numel()  # a position has one to three planes

    def values(self):
        """{name: mean}, the last learning rate, and the speed of all processes together."""
        rate = rank_and_world()[1] / (time.perf_counter() - self.start)
        means = {name: float(value) / self.steps for name, value in self.sums.items()}
        return means | {
            "lr": self.rate,
            "samples_per_second": self.samples * rate,
            "megapixel_frames_per_second": self.positions * rate / 1e6,
        }

    def sentences(self):
        """What the line of an epoch says of its training; nothing where no step was taken."""
        if not self.steps:
            return []
        values = self.values()
        return [
            f"training loss {values['loss']:.5f}, gradient {values['gradient_norm']:.3g}, "
            f"lr {values['lr']:.2e}, {values['samples_per_second']:.1f} samples/s"
        ]
