"""Where the time of a training step goes."""

import contextlib
import time

import torch


class Stages:
    """Seconds of the stages of a step; costs next to nothing where it does not measure.

    Args:
        device: torch.device to wait for at the end of each stage, or None to measure nothing.
    """

    def __init__(self, device=None):
        self.device = device
        self.seconds = {}

    @contextlib.contextmanager
    def stage(self, name):
        """Count the time of the block to a stage; stages do not overlap."""
        if self.device is None:
            yield
            return
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":  # its work goes on after the call has returned
            torch.cuda.synchronize(self.device)
        self.seconds[name] = self.seconds.get(name, 0) + time.perf_counter() - start

    def each(self, name, values):
        """Iterate over `values`, counting the time that each takes to come to a stage."""
        values = iter(values)
        while True:
            with self.stage(name):
                try:
                    value = next(values)
                except StopIteration:
                    return
            yield value


def table_of_stages(seconds, steps, samples, total):
    """What --profile prints.

    Args:
        seconds: {stage: s} over all steps.
        steps, samples: how many were taken, by all processes together.
        total: s that they took.
    Returns:
        Lines of text: ms a step and share of each stage, and of what is between them.
    """
    rows = {**seconds, "between": max(total - sum(seconds.values()), 0)}
    lines = [f"{'stage':<12}{'ms a step':>12}{'share':>9}"]
    lines += [
        f"{name:<12}{1000 * value / steps:>12.1f}{100 * value / total:>8.1f}%"
        for name, value in rows.items()
    ]
    lines.append(f"{'all':<12}{1000 * total / steps:>12.1f}{100:>8.1f}%")
    lines.append(f"{steps} steps, {samples / total:.2f} samples/s")
    return lines
