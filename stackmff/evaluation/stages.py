"""The stages of fusing a stack, timed one after the other in a process of their own.

The process is started as `python -m stackmff.evaluation.stages STACK OUTPUT [options of fusion]`
and writes its report beside OUTPUT, as JSON.
"""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from stackmff.evaluation.programs import run_measured
from stackmff.files import write_text
from stackmff.fusion.blending import Mixture
from stackmff.fusion.engines import Engine
from stackmff.fusion.fuse import fuse_stack
from stackmff.fusion.options import FuseOptions
from stackmff.fusion.pipeline import make_engine, read_for
from stackmff.images.folders import list_frames
from stackmff.images.formats import write_picture
from stackmff.images.stack_files import FramePath
from stackmff.options import add_options, parse
from stackmff.processes import child_command, child_environment, run_main

STAGES = ("start-up", "read", "compile", "coarse", "network", "blend", "write", "exit")
MODULE = "stackmff.evaluation.stages"  # this file


def run_stages(frames: Sequence[Path], folder: Path, words: Sequence[str]) -> dict[str, Any]:
    """Time the stages of fusing a stack in a process of their own.

    Args:
        frames: files of the stack, all that is in their folder.
        folder: for the result.
        words: options of fusion, as on the command line.
    Returns:
        {"engine": in words, stage of STAGES: seconds}; the seconds add up to the process's life.
    Raises:
        StackError: it failed.
    """
    output = folder / "stages.jpg"
    command = [*child_command(MODULE), str(frames[0].parent), str(output), *words]
    run = run_measured(command, folder / "stages.log", child_environment())
    report = json.loads(output.with_suffix(".json").read_text())
    seconds = [report[stage] for stage in STAGES[:-1]]
    return {**report, "exit": run.seconds - sum(seconds)}


def main() -> None:
    """Fuse the stack that the command line names and write the seconds beside the result."""
    stack, output, *words = sys.argv[1:]
    parser = argparse.ArgumentParser(prog=MODULE, add_help=False)
    add_options(parser, FuseOptions)
    (options,) = parse(parser, words, FuseOptions)
    paths = list_frames(Path(stack))
    engine = make_engine(options.engine)
    engine.load()
    startup = time.perf_counter() - float(os.environ["STARTED_AT"])  # all processes share the clock
    report = {"start-up": startup, **time_stages(paths, engine, Path(output), options)}
    where = getattr(engine, "precision", None) or getattr(engine, "device", None)
    report["engine"] = f"{type(engine).__name__} ({where})"
    write_text(Path(output).with_suffix(".json"), json.dumps(report))


def time_stages(
    paths: Sequence[FramePath], engine: Engine, output: Path, options: FuseOptions | None = None
) -> dict[str, Any]:
    """Do what pipeline.fuse_files does without alignment, one stage after the other.

    Unlike there, no frames are read while the engine gets ready. "coarse" is what a coarse level
    takes, with reducing the frames for it. Where several tiles are processed at a time, each in its
    own thread, "network" is the mean of its seconds in these threads, and the rest of the time that
    the tiles take is "blend".

    Args:
        paths: of the frames.
        engine: see fusion/engines.py; loaded.
        output: file of the fused picture.
        options: of fusion.
    Returns:
        {stage: seconds} of STAGES without the first and the last.
    """
    seconds: dict[str, Any] = dict.fromkeys(STAGES[1:-1], 0.0)
    with clocked(seconds, "read"):
        stack = read_for(output, paths, options or FuseOptions())
    with clocked(seconds, "compile"):
        engine.expect(*stack.frames.shape[:3])
    watched, compiled = Watched(engine, seconds), seconds["compile"]
    with clocked(seconds, "blend"):
        fused = fuse_stack(stack.frames, cast(Engine, watched), Mixture(maps=False))
    with clocked(seconds, "write"):
        write_picture(output, fused.picture, stack.metadata)
    seconds["network"] = (engine.seconds - watched.before) / watched.jobs
    # All that was timed within the time of fusing.
    seconds["blend"] -= seconds["compile"] - compiled + seconds["coarse"] + seconds["network"]
    return seconds


class Watched:
    """An engine that notes how long it takes to get ready for the tiles of a stack.

    Args:
        engine: that is watched.
        stages: {stage: seconds}, to which it adds.

    Attributes:
        jobs: tiles at a time.
        before: the engine's seconds when the tiles began.
    """

    def __init__(self, engine: Engine, stages: dict[str, Any]) -> None:
        self.engine, self.stages = engine, stages
        self.jobs, self.before = 1, engine.seconds

    def __getattr__(self, name: str) -> Any:
        """Whatever else an engine has."""
        return getattr(self.engine, name)

    def __call__(self, *tile: Any) -> np.ndarray:
        """Run the network on a tile, see `Engine`."""
        return self.engine(*tile)

    def for_stack(self, *stack: Any) -> "Watched":
        """Look at the whole stack, see `Engine`."""
        with clocked(self.stages, "coarse"):
            self.engine = self.engine.for_stack(*stack)
        self.before = self.engine.seconds
        return self

    def prepare(self, n_frames: int, height: int, width: int, count: int) -> int:
        """Get ready for tiles, see `Engine`."""
        with clocked(self.stages, "compile"):
            jobs = self.engine.prepare(n_frames, height, width, count)
        self.jobs = min(jobs, count)
        return jobs


@contextlib.contextmanager
def clocked(seconds: dict[str, Any], stage: str) -> Iterator[None]:
    """Add the seconds that the block takes to seconds[stage]."""
    start = time.perf_counter()
    yield
    seconds[stage] += time.perf_counter() - start


if __name__ == "__main__":
    run_main(main, at_once=True)  # as predict.py
