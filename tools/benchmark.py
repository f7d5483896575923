"""Time predict.py from its start to its end, beside other programs and stage by stage.

Each run is a fresh process, as a user starts it, and the programs take turns: what else the machine
does then falls upon all of them. Stages are timed in a process of their own, see `time_stages`.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stackmff.alignment.focus_order import put_in_order
from stackmff.errors import KNOWN_FAILURES, StackError, sentence_of
from stackmff.evaluation.timed_stacks import SHIFT, Size, stack_size, write_stack
from stackmff.files import make_folder, write_csv, write_text
from stackmff.fusion.fuse import fuse_stack
from stackmff.fusion.options import add_fuse_options
from stackmff.fusion.pipeline import make_engine
from stackmff.images.folders import list_frames
from stackmff.images.formats import write_picture
from stackmff.images.stack import read_stack
from stackmff.machine import available_cores
from stackmff.options import number
from stackmff.processes import end_process, how_it_ended, run_main, start_process

HOUSE = Path(__file__).resolve().parents[1]
OURS = "predict.py"
STAGES = ("start-up", "read", "compile", "network", "blend", "write", "exit")
ENGINE_OPTIONS = ("model_path", "device", "engine", "precision")  # handed to predict.py

# The process that starts a program is a small one. A program's mark of the most memory begins with
# that of the process that started it, and this one may have held a large picture.
# SIGTERM ends the program, not the starter, which waits for it; SIG_IGN would be handed on to it.
STARTER = """
import json, os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: None)
start = time.perf_counter()
environment = {**os.environ, "STARTED_AT": repr(start)}
process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr, env=environment)
_, status, usage = os.wait4(process.pid, 0)
seconds = time.perf_counter() - start
cpu = usage.ru_utime + usage.ru_stime
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, cpu, usage.ru_maxrss]))
"""
STAGES_CODE = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from tools import benchmark; "
    "benchmark.run_main(benchmark.report_stages)"
)


@dataclass(frozen=True)
class Peer:
    """Another program.

    Attributes:
        words: its command line; {output} in a word is the file to write, FRAMES are the frames.
        suffix: of the picture that it is to write.
        mend: what to do where it is not installed.
    """

    words: tuple
    suffix: str
    mend: str

    def command(self, frames, output):
        """The command line for the files of a stack."""
        line = []
        for word in self.words:
            line += map(str, frames) if word == FRAMES else [word.format(output=output)]
        return line


FRAMES = "{frames}"
PEERS = {
    "enfuse": Peer(
        (
            "enfuse",
            "--exposure-weight=0",
            "--saturation-weight=0",
            "--contrast-weight=1",
            "--hard-mask",
            "--output={output}",
            FRAMES,
        ),
        ".tif",
        "apt install enfuse",
    ),
    # It aligns always: no release has an option against it. Ours has neither of the corrections.
    "focus-stack": Peer(
        ("focus-stack", "--no-whitebalance", "--no-contrast", "--output={output}", FRAMES),
        ".jpg",
        "install it from https://github.com/PetteriAimonen/focus-stack",
    ),
}


@dataclass(frozen=True)
class Run:
    """What a process took: seconds on the clock and of all cores, and at most how many MiB."""

    seconds: float
    cpu_seconds: float
    mib: float


def get_parser():
    """The options of tools/benchmark.py."""
    parser = argparse.ArgumentParser(
        description="Time predict.py, beside other programs and stage by stage."
    )
    group = parser.add_argument_group("stacks")
    group.add_argument(
        "--stacks",
        nargs="+",
        type=stack_size,
        default=[Size(7, 2048, 1536), Size(10, 4000, 3000)],
        metavar="NxWxH",
        help="frames, width and height in px of each stack (default: 7x2048x1536 10x4000x3000)",
    )
    group.add_argument(
        "--stack_path",
        type=Path,
        metavar="DIR",
        help="a stack whose frames are resized to each of these sizes; where it has too few, they "
        f"come again, shifted by {SHIFT} px (default: stacks are synthesised)",
    )
    group = parser.add_argument_group("programs")
    group.add_argument(
        "--against",
        nargs="+",
        choices=PEERS,
        default=[],
        metavar="PROGRAM",
        help=f"other programs, of {', '.join(PEERS)} (default: none)",
    )
    group.add_argument(
        "--runs",
        type=number(int, 1),
        default=5,
        metavar="K",
        help="of each program with each stack; they take turns (default: %(default)s)",
    )
    for name in ENGINE_OPTIONS:
        group.add_argument(
            f"--{name}", metavar="WORD", help=f"of predict.py, see there (default: {OURS}'s)"
        )
    group.add_argument(
        "--align",
        choices=("auto", "on", "off"),
        default="off",
        help="of predict.py, see there; the stages are without (default: %(default)s, as the "
        "others do not align)",
    )
    group.add_argument(
        "--low_memory", action="store_true", help="of predict.py, see there (default: off)"
    )
    group = parser.add_argument_group("results")
    group.add_argument(
        "--output_dir",
        type=Path,
        metavar="DIR",
        help="keep the stacks and the fused pictures there (default: they are removed at the end)",
    )
    group.add_argument(
        "--csv", metavar="FILE", help="also write the numbers of every run there (default: no)"
    )
    group.add_argument(
        "--markdown", metavar="FILE", help="also write the tables there (default: no)"
    )
    return parser


def engine_words(args):
    """The options for predict.py that are given, as words of its command line."""
    given = {name: getattr(args, name) for name in ENGINE_OPTIONS}
    words = [f"--{name}={value}" for name, value in given.items() if value is not None]
    return [*words, f"--align={args.align}", *["--low_memory"] * args.low_memory]


def engine_args(words):
    """The words of `engine_words` as make_engine takes them; exit status 2 where they are wrong."""
    parser = argparse.ArgumentParser(prog="tools/benchmark.py", add_help=False)
    add_fuse_options(parser)
    return parser.parse_args(words, argparse.Namespace(confidence=None))


def check(parser, args):
    """End with exit status 2 where options contradict; StackError where a program is missing."""
    for option in ("stacks", "against"):
        values = getattr(args, option)
        if len(set(values)) < len(values):
            parser.error(f"--{option} {' '.join(map(str, values))}: leave out what is there twice")
    engine_args(engine_words(args))
    if not hasattr(os, "wait4"):
        raise StackError("this system does not tell the memory of a process: use Linux or macOS")
    for name in args.against:
        program = PEERS[name].words[0]
        if shutil.which(program) is None:
            raise StackError(f"--against {name}: {program} is not installed: {PEERS[name].mend}")


@contextlib.contextmanager
def work_folder(output_dir):
    """The folder to work in: `output_dir`, or below results/ one that is gone after the block."""
    if output_dir is not None:
        make_folder(output_dir)
        yield output_dir
        return
    make_folder(Path("results"))
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir="results") as folder:
        yield Path(folder)


def run_measured(command, log):
    """Run a program and measure it.

    Args:
        command: its words.
        log: file for what it prints.
    Returns:
        Run; memory of a GPU is not in it.
    Raises:
        StackError: it failed.
    """
    starter = [sys.executable, "-I", "-S", "-c", STARTER]
    with open(log, "wb") as stream:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": stream}
        process = start_process([*starter, *map(str, command)], **pipes)
    try:
        said, _ = process.communicate()
    finally:
        end_process(process)
    status, seconds, cpu_seconds, memory = json.loads(said or f"[{process.returncode}, 0, 0, 0]")
    if status:
        lines = Path(log).read_text(errors="backslashreplace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        raise StackError(f"{how_it_ended(status)}: {last}")
    return Run(seconds, cpu_seconds, memory / (2**20 if sys.platform == "darwin" else 2**10))


def run_program(name, frames, folder, words):
    """Fuse a stack with predict.py or one of PEERS.

    Args:
        name: OURS or of PEERS.
        frames: files of the stack, all that is in their folder.
        folder: for the result.
        words: options for predict.py.
    Returns:
        Run.
    Raises:
        StackError: it failed, or it wrote nothing.
    """
    suffix = ".jpg" if name == OURS else PEERS[name].suffix
    output = folder / f"{name}{suffix}"
    output.unlink(missing_ok=True)
    if name == OURS:
        command = [sys.executable, HOUSE / OURS, "--stack_path", frames[0].parent]
        command += ["--output", output, *words]
    else:
        command = PEERS[name].command(frames, output)
    run = run_measured(command, folder / f"{name}.log")
    if not output.is_file():
        raise StackError(f"it wrote no {output.name}, and ended as if all were well")
    return run


def run_stages(frames, folder, words):
    """Time the stages of fusing a stack in a process of their own.

    Args:
        frames: files of the stack, all that is in their folder.
        folder: for the result.
        words: options for predict.py.
    Returns:
        {"engine": words, stage of STAGES: seconds}; they add up to the life of that process.
    Raises:
        StackError: it failed.
    """
    output = folder / "stages.jpg"
    command = [sys.executable, "-c", STAGES_CODE, HOUSE]
    command += [frames[0].parent, output, *words]
    run = run_measured(command, folder / "stages.log")
    report = json.loads(output.with_suffix(".json").read_text())
    seconds = [report[stage] for stage in STAGES[:-1]]
    return {**report, "exit": run.seconds - sum(seconds)}


def report_stages():
    """Fuse the stack that the command line names and write the seconds beside the result."""
    stack, output, *words = sys.argv[1:]
    args = engine_args(words)
    paths = list_frames(stack)
    engine = make_engine(args)
    engine.load()
    startup = time.perf_counter() - float(os.environ["STARTED_AT"])  # all processes share the clock
    report = {"start-up": startup, **time_stages(paths, engine, output, args.low_memory)}
    where = getattr(engine, "precision", None) or engine.device
    report["engine"] = f"{type(engine).__name__} ({where})"
    write_text(Path(output).with_suffix(".json"), json.dumps(report))


def time_stages(paths, engine, output, low_memory=False):
    """Do what pipeline.fuse_files does without alignment, one stage after the other.

    There, frames are read while the engine is loaded. Where several tiles are in work at a time,
    each in a thread of its own, the network has the mean of its seconds in these threads, and the
    rest of the time that the tiles take is the blend's.

    Args:
        paths: of the frames.
        engine: see fusion/engines.py; loaded.
        output: file of the fused picture.
        low_memory: see pictures.read_stack.
    Returns:
        {stage: seconds} of STAGES without the first and the last.
    """
    seconds, threads = dict.fromkeys(STAGES[1:-1], 0.0), []
    prepare, before = engine.prepare, engine.seconds

    def timed_prepare(n_frames, height, width, count):
        with clocked(seconds, "compile"):
            jobs = prepare(n_frames, height, width, count)
        threads.append(min(jobs, count))
        return jobs

    with clocked(seconds, "read"):
        stack = read_stack(paths, spill=Path(output).parent, low_memory=low_memory)
        put_in_order(stack)
    engine.prepare = timed_prepare
    with clocked(seconds, "blend"):
        fused = fuse_stack(stack.frames, engine, maps=False)
    with clocked(seconds, "write"):
        write_picture(output, fused.picture, stack.metadata)
    seconds["network"] = (engine.seconds - before) / threads[0]
    seconds["blend"] -= seconds["compile"] + seconds["network"]
    return seconds


@contextlib.contextmanager
def clocked(seconds, stage):
    """Add the seconds that the block takes to seconds[stage]."""
    start = time.perf_counter()
    yield
    seconds[stage] += time.perf_counter() - start


def measure(size, frames, folder, args, bar):
    """Run every program with one stack, in turn.

    Args:
        size: Size of the stack.
        frames: its files.
        folder: for the results.
        args: the options.
        bar: a tqdm bar, moved on by one for each run.
    Returns:
        (runs, stages, failures): {program: list of Run}, list of what run_stages returned, and
        sentences. A program that failed is left out and is not run again.
    """
    words = engine_words(args)
    jobs = {
        name: lambda name=name: run_program(name, frames, folder, words)
        for name in (OURS, *args.against)
    }
    jobs["stages"] = lambda: run_stages(frames, folder, words)
    found, failures = {name: [] for name in jobs}, []
    for _ in range(args.runs):
        for name, job in jobs.items():
            bar.set_description(f"{size} {name}")
            try:
                if name in found:
                    found[name].append(job())
            except KNOWN_FAILURES as error:
                del found[name]
                failures.append(f"{name} with {size}: {sentence_of(error)}")
                tqdm.write(f"failed: {failures[-1]}", file=sys.stderr)
            bar.update()
    stages = found.pop("stages", [])
    return found, stages, failures


def spread_word(numbers, form):
    """Median, least and largest of numbers, such as "1.9 (1.8 to 2.2)"."""
    low, middle, high = (f"{find(numbers):{form}}" for find in (min, np.median, max))
    return f"{middle} ({low} to {high})"


def ratio_word(ours, theirs):
    """Our seconds as a multiple of theirs, such as "0.55 (0.50 to 0.61)".

    Args:
        ours, theirs: lists of Run, as many, in the order in which they took turns.
    Returns:
        The ratio of the medians, and the least and the largest ratio of a turn.
    """
    middle = np.median([run.seconds for run in ours]) / np.median([run.seconds for run in theirs])
    turns = [mine.seconds / other.seconds for mine, other in zip(ours, theirs, strict=True)]
    return f"{middle:.2f} ({min(turns):.2f} to {max(turns):.2f})"


def program_rows(results):
    """Words on each program with each stack, the header first.

    Args:
        results: {Size: (runs, stages)} as from `measure`.
    """
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


def stage_rows(results):
    """Words on our stages with each stack, the header first; [] where none was timed."""
    rows = []
    for size, (_, stages) in results.items():
        if stages:
            middle = [float(np.median([cells[name] for cells in stages])) for name in STAGES]
            rate = size.pixel_frames / middle[STAGES.index("network")] / 1e6
            rows.append([str(size), *(f"{value:.2f}" for value in middle), f"{rate:.1f}"])
    return [["stack", *STAGES, "network, Mpx-frames/s"], *rows] if rows else []


def explanation(results, runs):
    """What the columns are, and on what they were measured: a list of paragraphs."""
    parts = [
        f"seconds: a process from start to end, median of {runs} (least to most), the programs by "
        "turns; CPU s: of all cores; MiB: the most memory in any run, without a GPU's; "
        f"Mpx-frames/s: million pixels of all frames a second; {OURS} / it: ratio of the medians "
        f"(least to most of a turn). {processor()}, {available_cores()} cores."
    ]
    engines = sorted({cells["engine"] for _, stages in results.values() for cells in stages})
    if engines:
        parts.append(
            f"Stages of {OURS}: medians in seconds, one after the other in a process of their own; "
            "it reads frames while it loads the network, so that they do not add up to its time. "
            f"{', '.join(engines)}."
        )
    return parts


def processor():
    """What the processor calls itself."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def csv_rows(results):
    """Every number of every run: (stack, program, run, stage, seconds, CPU seconds, MiB)."""
    rows = [["stack", "program", "run", "stage", "seconds", "cpu_seconds", "mib"]]
    for size, (programs, stages) in results.items():
        for name, runs in programs.items():
            rows += [
                [size, name, k, "all", run.seconds, run.cpu_seconds, run.mib]
                for k, run in enumerate(runs, 1)
            ]
        for k, cells in enumerate(stages, 1):
            rows += [[size, OURS, k, stage, cells[stage], None, None] for stage in STAGES]
    return rows


def show(results, args):
    """Print the tables, and write them where --csv and --markdown say."""
    from stackmff.evaluation.tables import markdown_table, print_lines

    tables = [rows for rows in (program_rows(results), stage_rows(results)) if len(rows) > 1]
    if not tables:  # all failed, which has been told
        return
    lines = explanation(results, args.runs)
    for rows, left in zip(tables, (2, 1)):
        print_lines(rows, left=left)
        print()
    print(*lines, sep="\n\n")
    if args.csv:
        write_csv(args.csv, csv_rows(results))
    if args.markdown:
        parts = [*map(markdown_table, tables), *(f"{line}\n" for line in lines)]
        write_text(args.markdown, "\n".join(parts))


def main(argv=None):
    """Make the stacks, measure, print and write. Returns the exit status."""
    parser = get_parser()
    args = parser.parse_args(argv)
    check(parser, args)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no folder or process is left either
    results, failures = {}, []
    turns = args.runs * (len(args.against) + 2)
    with (
        work_folder(args.output_dir) as folder,
        tqdm(total=len(args.stacks) * turns, unit="run", disable=None) as bar,
    ):
        for size in args.stacks:
            bar.set_description(f"{size} frames")
            frames = write_stack(folder / str(size) / "frames", size, args.stack_path)
            *results[size], failed = measure(size, frames, folder / str(size), args, bar)
            failures += failed
    show(results, args)
    return 1 if failures else 0


if __name__ == "__main__":
    run_main(main)
