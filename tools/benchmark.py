"""Time predict.py from start to end, next to other programs and stage by stage.

Each run is a fresh process, as a user would start it, and the programs take turns, so that whatever
else the machine does affects all of them alike.
"""

import argparse
import contextlib
import dataclasses
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from stackmff.errors import KNOWN_FAILURES, StackError, sentence_of
from stackmff.evaluation.programs import PEERS, Measured, check_measurable, run_measured
from stackmff.evaluation.stages import STAGES, run_stages
from stackmff.evaluation.tables import Words, markdown_table, print_lines
from stackmff.evaluation.timed_stacks import SHIFT, Size, stack_size, write_stack
from stackmff.files import make_folder, write_csv, write_text
from stackmff.fusion.options import EngineOptions, MemoryOptions
from stackmff.machine import available_cores
from stackmff.options import Options, add_options, option, parse
from stackmff.processes import run_main

HOUSE = Path(__file__).resolve().parents[1]
OURS = "predict.py"

# {program: its runs} and what `run_stages` returned, run by run.
Timed = tuple[dict[str, list[Measured]], list[dict[str, Any]]]


@dataclass(frozen=True)
class TimedStackOptions(Options):
    """The stacks that are fused."""

    title = "stacks"

    stacks: tuple[Size, ...] = option(
        (Size(7, 2048, 1536), Size(10, 4000, 3000)),
        help="frames, width and height in px of each stack (default: 7x2048x1536 10x4000x3000)",
        convert=stack_size,
        nargs="+",
        metavar="NxWxH",
    )
    stack_path: Path | None = option(
        None,
        help="a stack whose frames are resized to each of these sizes; if it has too few, they are "
        f"repeated, shifted by {SHIFT} px (default: stacks are synthesised)",
        metavar="DIR",
    )


@dataclass(frozen=True)
class ProgramOptions(Options):
    """The programs that fuse them."""

    title = "programs"

    against: tuple[str, ...] = option(
        (),
        help=f"other programs, of {', '.join(PEERS)} (default: none)",
        choices=PEERS,
        metavar="PROGRAM",
    )
    runs: int = option(
        5,
        help="runs of each program with each stack, in turns (default: %(default)s)",
        low=1,
        metavar="K",
    )
    align: Literal["auto", "on", "off"] = option(
        "off",
        help="whether predict.py aligns, see there; the stages are timed without alignment "
        "(default: %(default)s, since most other programs do not align)",
    )


@dataclass(frozen=True)
class BenchmarkReportOptions(Options):
    """What is kept of the measurement."""

    title = "results"

    output_dir: Path | None = option(
        None,
        help="keep the stacks and the fused pictures there (default: they are removed at the end)",
        metavar="DIR",
    )
    csv: Path | None = option(
        None, help="also write the numbers of every run there (default: no)", metavar="FILE"
    )
    markdown: Path | None = option(
        None, help="also write the tables there (default: no)", metavar="FILE"
    )


@dataclass(frozen=True)
class BenchmarkOptions(Options):
    """All options of the benchmark."""

    timed: TimedStackOptions = TimedStackOptions()
    programs: ProgramOptions = ProgramOptions()
    engine: EngineOptions = field(default_factory=EngineOptions)
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    results: BenchmarkReportOptions = BenchmarkReportOptions()

    def contradiction(self) -> str | None:
        """The same stack or program twice."""
        given = {"stacks": self.timed.stacks, "against": self.programs.against}
        for name, values in given.items():
            if len(set(values)) < len(values):
                return f"--{name} {' '.join(map(str, values))}: remove the duplicate"
        return None

    def predict_words(self) -> list[str]:
        """The options of predict.py that were given, as words of its command line."""
        given = {
            known.name: getattr(self.engine, known.name)
            for known in dataclasses.fields(EngineOptions)
        }
        words = [
            f"--{name}={value}"
            for name, value in given.items()
            if value != getattr(EngineOptions(), name)
        ]
        return [
            *words,
            f"--align={self.programs.align}",
            *["--low_memory"] * self.memory.low_memory,
        ]


def get_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.benchmark",
        description="Time predict.py, next to other programs and stage by stage.",
    )
    add_options(parser, BenchmarkOptions)
    return parser


def check_installed(programs: Sequence[str]) -> None:
    """Raise StackError where one of PEERS is not installed."""
    for name in programs:
        program = PEERS[name].words[0]
        if shutil.which(program) is None:
            raise StackError(f"--against {name}: {program} is not installed: {PEERS[name].mend}")


@contextlib.contextmanager
def work_folder(output_dir: Path | None) -> Iterator[Path]:
    """The folder to work in: `output_dir`, or one in results/ that is gone after the block."""
    if output_dir is not None:
        make_folder(output_dir)
        yield output_dir
        return
    make_folder(Path("results"))
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir="results") as folder:
        yield Path(folder)


def run_program(name: str, frames: Sequence[Path], folder: Path, words: Sequence[str]) -> Measured:
    """Fuse a stack with predict.py or one of PEERS.

    Args:
        name: OURS or of PEERS.
        frames: files of the stack, all that is in their folder.
        folder: for the result.
        words: options for predict.py.
    Raises:
        StackError: it failed, or it wrote nothing.
    """
    suffix = ".jpg" if name == OURS else PEERS[name].suffix
    output = folder / f"{name}{suffix}"
    output.unlink(missing_ok=True)
    if name == OURS:
        stack = str(frames[0].parent)
        command = [sys.executable, str(HOUSE / OURS), "--stack_path", stack]
        command += ["--output", str(output), *words]
    else:
        command = PEERS[name].command(frames, output)
    run = run_measured(command, folder / f"{name}.log")
    if not output.is_file():
        raise StackError(f"it wrote no {output.name} although it reported success")
    return run


def measure(
    size: Size, frames: Sequence[Path], folder: Path, options: BenchmarkOptions, bar: Any
) -> tuple[Timed, list[str]]:
    """Run every program with one stack, in turn.

    Args:
        size: of the stack.
        frames: its files.
        folder: for the results.
        options: which programs, and how often.
        bar: a tqdm bar, advanced by one for each run.
    Returns:
        (timed, failures): Timed, and sentences. A program that failed is left out and is not run
        again.
    """
    words = options.predict_words()
    runs: dict[str, list[Measured]] = {name: [] for name in (OURS, *options.programs.against)}
    stages: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    for _ in range(options.programs.runs):
        for name in (*runs, "stages"):
            bar.set_description(f"{size} {name}")
            try:
                if name in failures:
                    pass
                elif name == "stages":
                    stages.append(run_stages(frames, folder, words))
                else:
                    runs[name].append(run_program(name, frames, folder, words))
            except KNOWN_FAILURES as error:
                failures[name] = f"{name} with {size}: {sentence_of(error)}"
                tqdm.write(f"failed: {failures[name]}", file=sys.stderr)
            bar.update()
    done = {name: found for name, found in runs.items() if name not in failures}
    return (done, [] if "stages" in failures else stages), list(failures.values())


def spread_word(numbers: Sequence[float], form: str) -> str:
    """Median, smallest and largest of numbers, such as "1.9 (1.8 to 2.2)"."""
    low, middle, high = (f"{find(numbers):{form}}" for find in (min, np.median, max))
    return f"{middle} ({low} to {high})"


def ratio_word(ours: Sequence[Measured], theirs: Sequence[Measured]) -> str:
    """Our seconds as a multiple of theirs, such as "0.55 (0.50 to 0.61)".

    Args:
        ours, theirs: as many runs of each, in the order in which they took turns.
    Returns:
        The ratio of the medians, and the smallest and the largest ratio of a turn.
    """
    middle = np.median([run.seconds for run in ours]) / np.median([run.seconds for run in theirs])
    turns = [mine.seconds / other.seconds for mine, other in zip(ours, theirs, strict=True)]
    return f"{middle:.2f} ({min(turns):.2f} to {max(turns):.2f})"


def program_rows(results: Mapping[Size, Timed]) -> Words:
    """A row for each program with each stack, the header first."""
    rows = [["stack", "program", "seconds", "CPU s", "MiB", "Mpx-frames/s", f"{OURS} / it"]]
    for size, (programs, _) in results.items():
        for name, runs in programs.items():
            seconds = [run.seconds for run in runs]
            compared = name != OURS and OURS in programs
            rows.append(
                [
                    str(size),
                    name,
                    spread_word(seconds, ".2f"),
                    f"{np.median([run.cpu_seconds for run in runs]):.2f}",
                    f"{max(run.mib for run in runs):.0f}",
                    f"{size.pixel_frames / np.median(seconds) / 1e6:.1f}",
                    ratio_word(programs[OURS], runs) if compared else "-",
                ]
            )
    return rows


def stage_rows(results: Mapping[Size, Timed]) -> Words:
    """A row for our stages with each stack, the header first; [] where none was timed."""
    rows: Words = []
    for size, (_, stages) in results.items():
        if stages:
            middle = [float(np.median([cells[name] for cells in stages])) for name in STAGES]
            rate = size.pixel_frames / middle[STAGES.index("network")] / 1e6
            rows.append([str(size), *(f"{value:.2f}" for value in middle), f"{rate:.1f}"])
    return [["stack", *STAGES, "network, Mpx-frames/s"], *rows] if rows else []


def explanation(results: Mapping[Size, Timed], runs: int) -> list[str]:
    """What the columns are, and on what they were measured: a list of paragraphs."""
    parts = [
        f"seconds: a process from start to end, median of {runs} (smallest to largest), the "
        "programs taking turns; CPU s: of all cores; MiB: peak memory of any run, without a GPU's; "
        f"Mpx-frames/s: million pixels of all frames per second; {OURS} / it: ratio of the medians "
        f"(smallest to largest of a turn). {processor()}, {available_cores()} cores."
    ]
    engines = sorted({cells["engine"] for _, stages in results.values() for cells in stages})
    if engines:
        parts.append(
            f"Stages of {OURS}: medians in seconds, one after the other in a process of their own. "
            f"{OURS} itself reads frames while it loads the network, so they do not add up to its "
            f"time. {', '.join(engines)}."
        )
    return parts


def processor() -> str:
    """The name of the processor."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def csv_rows(results: Mapping[Size, Timed]) -> list[list[Any]]:
    """Every number of every run: (stack, program, run, stage, seconds, CPU seconds, MiB)."""
    rows: list[list[Any]] = [["stack", "program", "run", "stage", "seconds", "cpu_seconds", "mib"]]
    for size, (programs, stages) in results.items():
        for name, runs in programs.items():
            rows += [
                [size, name, k, "all", run.seconds, run.cpu_seconds, run.mib]
                for k, run in enumerate(runs, 1)
            ]
        for k, cells in enumerate(stages, 1):
            rows += [[size, OURS, k, stage, cells[stage], None, None] for stage in STAGES]
    return rows


def show(results: Mapping[Size, Timed], options: BenchmarkOptions) -> None:
    """Print the tables, and write them where --csv and --markdown say."""
    tables = [rows for rows in (program_rows(results), stage_rows(results)) if len(rows) > 1]
    if not tables:  # every program failed, which has been reported
        return
    lines = explanation(results, options.programs.runs)
    for rows, left in zip(tables, (2, 1)):
        print_lines(rows, left=left)
        print()
    print(*lines, sep="\n\n")
    files = options.results
    if files.csv:
        write_csv(files.csv, csv_rows(results))
    if files.markdown:
        parts = [*map(markdown_table, tables), *(f"{line}\n" for line in lines)]
        write_text(files.markdown, "\n".join(parts))


def main(argv: Sequence[str] | None = None) -> int:
    """Make the stacks, measure, print and write. Returns the exit status."""
    (options,) = parse(get_parser(), argv, BenchmarkOptions)
    check_measurable()
    check_installed(options.programs.against)
    # SIGTERM, too, leaves neither a folder nor a process.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    results: dict[Size, Timed] = {}
    failures: list[str] = []
    sizes = options.timed.stacks
    turns = options.programs.runs * (len(options.programs.against) + 2)
    with (
        work_folder(options.results.output_dir) as folder,
        tqdm(total=len(sizes) * turns, unit="run", disable=None) as bar,
    ):
        for size in sizes:
            bar.set_description(f"{size} frames")
            place = folder / str(size)
            frames = write_stack(place / "frames", size, options.timed.stack_path)
            results[size], failed = measure(size, frames, place, options, bar)
            failures += failed
    show(results, options)
    return 1 if failures else 0


if __name__ == "__main__":
    run_main(main)
