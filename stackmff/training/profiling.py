"""Where the time of a training step goes."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import torch

_Value = TypeVar("_Value")


class Stages:
    """Seconds that the stages of a step take; costs next to nothing where it does not measure.

    Args:
        device: torch.device to wait for at the end of each stage, or None to measure nothing.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage; stages do not overlap."""
        if self.device is None:
            yield
            return
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":  # its work goes on after the call has returned
            torch.cuda.synchronize(self.device)
        self.seconds[name] = self.seconds.get(name, 0) + time.perf_counter() - start

    def each(self, name: str, values: Iterable[_Value]) -> Iterator[_Value]:
        """Iterate over `values`; the time until each arrives is added to a stage."""
        iterator = iter(values)
        while True:
            with self.stage(name):
                try:
                    value = next(iterator)
                except StopIteration:
                    return
            yield value


def table_of_stages(
    seconds: Mapping[str, float], steps: int, samples: int, total: float
) -> list[str]:
    """What --profile prints.

    Args:
        seconds: {stage: s} over all steps.
        steps: how many were taken.
        samples: how many were in them, in all processes together.
        total: s that the steps took.
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
