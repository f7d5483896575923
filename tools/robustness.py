"""How methods cope with real stacks: few frames, noise, misaligned frames, flicker.

OUT/stacks/<axis>_<level>/<scene>/00.png ...      the stacks of a data set, changed
OUT/fused/<axis>_<level>/<method>/<scene>.png     what the methods make of them
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from stackmff.errors import StackError
from stackmff.evaluation.contest import make_entries, run_contest
from stackmff.evaluation.matching import Scene
from stackmff.evaluation.scoring import Scoring, Task, score_tasks
from stackmff.evaluation.tables import Table, means
from stackmff.files import atomic_path, make_folder, write_csv
from stackmff.fusion.methods import INSTALL_TOOLBOX
from stackmff.images.folders import (
    ANSWER_FOLDER,
    by_stem,
    find_stacks,
    is_inside,
    list_frames,
    list_pictures,
)
from stackmff.images.formats import write_picture
from stackmff.images.stack_files import FramePath
from stackmff.options import Options, add_options, names_of, option, parse, plain
from stackmff.processes import run_main
from stackmff.records import Record, wanted_record
from stackmff.synthesis.options import CameraOptions, FrameOptions
from stackmff.synthesis.restack import changed_stack, scene_rng

# What is changed: the label of its plot, and its levels. 0 leaves the frames as they are.
AXES = {
    "frames": ("frames N", (3, 6, 9, 12, 15, 30)),
    "noise": ("photon noise, 1000 / full-well capacity in electrons", (0, 0.05, 0.4, 1, 2.5)),
    "shake": ("misalignment of the frames, standard deviation in px", (0, 0.25, 0.5, 1, 2)),
    "flicker": ("exposure flicker, standard deviation in %", (0, 1, 2, 5, 10)),
}
COLUMNS = ("PSNR", "SSIM")
PLOT_SIZE, PLOT_DPI = (11, 8), 90  # inches, dots per inch

Files = tuple[list[FramePath], Path]  # of a scene: its frames, and its answer
Row = list[Any]  # [axis, level, method, number of scenes, mean of each of COLUMNS]


@dataclass(frozen=True)
class FaultOptions(Options):
    """The stacks, and what is changed of them."""

    title = "stacks"

    data: Path = option(
        help="data set with answers in AiF; numbers of frames that its shortest stack does not "
        "have are skipped",
        metavar="DIR",
    )
    axes: tuple[str, ...] = option(
        tuple(AXES), help="what to change (default: all)", choices=tuple(AXES)
    )
    n_frames: int = option(
        9,
        help="frames of the stacks with faults, evenly spread (default: %(default)s)",
        low=2,
        metavar="N",
    )
    seed: int = option(0, help="seed of the faults (default: %(default)s)", low=0, high=2**32 - 1)


@dataclass(frozen=True)
class FaultMethodOptions(Options):
    """What fuses them."""

    title = "methods"

    methods: tuple[str, ...] = option(
        ("available",),
        help="methods of the toolbox (default: those that can run on this machine)",
        metavar="NAME[:OPTION=VALUE,...]",
    )


@dataclass(frozen=True)
class FaultReportOptions(Options):
    """Where the results go."""

    title = "results"

    output_dir: Path = option(
        Path("results/robustness"),
        help="changed stacks and fused pictures; what is there already is not made again "
        "(default: %(default)s)",
        metavar="DIR",
    )
    csv: Path | None = option(
        None, help="also write the numbers there (default: no)", metavar="FILE"
    )
    plot: Path | None = option(
        None, help="also plot them there, as PNG or SVG (default: no)", metavar="FILE"
    )
    workers: int = option(2, help="processes that score (default: %(default)s)", low=1, metavar="N")


@dataclass(frozen=True)
class RobustnessOptions(Options):
    """All options of the command."""

    faults: FaultOptions
    fusing: FaultMethodOptions = FaultMethodOptions()
    results: FaultReportOptions = FaultReportOptions()

    def contradiction(self) -> str | None:
        """Results among the data, or a plot of another kind."""
        results = self.results
        if is_inside(results.output_dir, self.faults.data):
            return f"--output_dir {results.output_dir} is inside --data: choose another folder"
        if results.plot is not None and results.plot.suffix not in (".png", ".svg"):
            return f"--plot {results.plot} needs a name that ends in .png or .svg"
        return None


def get_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.robustness",
        description="Score methods against the number of frames, noise, misalignment and flicker.",
    )
    add_options(parser, RobustnessOptions)
    return parser


class Change(NamedTuple):
    """What `restack.changed_stack` does to a stack."""

    take: FrameOptions
    camera: CameraOptions


def change_of(axis: str, level: float, n_frames: int) -> Change:
    """The change of a level of an axis.

    Args:
        axis, level: of AXES.
        n_frames: N of stacks whose number of frames is not what is changed.
    """
    if axis == "frames":
        return Change(FrameOptions(keep=int(level)), CameraOptions())
    faults: dict[str, dict[str, Any]] = {
        "noise": {"noise": (1000 / level,) if level else None},
        "flicker": {"flicker": level / 100 or None},
        "shake": {"shake": level or None},
    }
    return Change(FrameOptions(keep=n_frames), CameraOptions(**faults[axis]))


def read_scenes(data: Path) -> dict[str, Files]:
    """The stacks of a data set that have an answer, {name: Files}.

    Raises:
        StackError: there are none.
    """
    answers = by_stem(list_pictures(data / ANSWER_FOLDER))
    stacks = find_stacks(data)
    scenes = {
        name: (list_frames(folder), answers[name])
        for name, folder in stacks.items()
        if name in answers
    }
    if not scenes:
        raise StackError(
            f"{data} has no stack with an answer of the same name in {ANSWER_FOLDER}: robustness "
            "is measured against answers"
        )
    return scenes


def levels_of(axis: str, scenes: Mapping[str, Files]) -> list[float]:
    """The levels of an axis for which every scene has enough frames; StackError if none is left."""
    name = min(scenes, key=lambda name: len(scenes[name][0]))
    shortest = len(scenes[name][0])
    levels = [level for level in AXES[axis][1] if axis != "frames" or level <= shortest]
    if not levels:
        raise StackError(
            f"{name} has {shortest} frames, too few to leave any out: remove frames from --axes"
        )
    return levels


def write_changed(folder: Path, name: str, files: Files, change: Change, seed: int) -> Path:
    """Write a changed stack if it is not there already; returns its folder.

    Args:
        folder: of the changed stacks.
        name: of the scene.
        files: its frames and its answer.
        change: as from change_of.
        seed: of the faults, which only differ in strength from level to level.
    """
    paths, answer = files
    (take, camera), record, target = change, Record(folder, name), folder / name
    faults = {name: plain(camera.faults().get(name)) for name in names_of(CameraOptions)}
    options = {"keep": take.keep, "shuffle": None, **faults, "seed": seed}
    wanted = wanted_record(paths, None, options)
    outputs = [target / f"{k:02}.png" for k in range(take.keep)]
    if not record.says_done(wanted, outputs):
        record.remove()
        if target.is_dir():  # an earlier run may have kept more frames
            for path in list_pictures(target):
                path.unlink()
        made = changed_stack(paths, answer, take, camera, scene_rng(seed, name))
        for output, frame in zip(outputs, made.frames, strict=True):
            write_picture(output, frame, made.profiles[0])
        record.write(wanted, {"frames": len(outputs)}, outputs)
    return target


def measure(
    options: RobustnessOptions, axis: str, level: float, scenes: Mapping[str, Files]
) -> tuple[list[Row], list[str]]:
    """Fuse and score the stacks of one level.

    Returns:
        (rows, failures): a Row for each method, and sentences.
    """
    n_frames = min(options.faults.n_frames, *(len(frames) for frames, _ in scenes.values()))
    change = change_of(axis, level, n_frames)
    place, output_dir = f"{axis}_{level:g}", options.results.output_dir
    seed = options.faults.seed
    stacks = {
        name: write_changed(output_dir / "stacks" / place, name, files, change, seed)
        for name, files in scenes.items()
    }
    entries = make_entries(options.fusing.methods, False, output_dir / "fused" / place)
    results, failures = run_contest(entries, stacks)
    tasks = [
        Task(method, name, cell["file"], Scene(stacks[name], scenes[name][1]))
        for method, cells in results.items()
        for name, cell in cells.items()
    ]
    tables = score_tasks(tasks, Scoring(), options.results.workers) if tasks else {}
    rows = [
        [axis, level, method, len(table), *column_means(table)] for method, table in tables.items()
    ]
    return rows, [f"{place}: {failure}" for failure in failures]


def column_means(table: Table) -> list[float]:
    """The mean of each of COLUMNS over the scenes."""
    mean = means(table)
    return [mean[column] for column in COLUMNS]


def figure_kind() -> Any:
    """Matplotlib's Figure; StackError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise StackError(f"--plot needs matplotlib: {INSTALL_TOOLBOX}") from error
    return Figure


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Plot PSNR against the level, one plot per axis and one line per method.

    Args:
        path: of the picture.
        rows: as from `measure`.
    """
    axes = list(dict.fromkeys(row[0] for row in rows))
    figure = figure_kind()(figsize=PLOT_SIZE, dpi=PLOT_DPI, layout="constrained")
    plots = figure.subplots(-(-len(axes) // 2), min(len(axes), 2), squeeze=False).flat
    for axis, plot in zip(axes, plots):  # in this order, zip takes no plot too many
        levels = sorted({row[1] for row in rows if row[0] == axis})
        for k, method in enumerate(dict.fromkeys(row[2] for row in rows)):
            points = [(row[1], row[4]) for row in rows if row[0] == axis and row[2] == method]
            style = {"marker": "o^sDvPX*"[k % 8], "markersize": 4, "color": f"C{k % 10}"}
            style |= {"linewidth": 2.5 if method.startswith("StackMix") else 1.2}
            # Levels are evenly spaced, since they differ by factors.
            places = [levels.index(level) for level, _ in points]
            plot.plot(places, [y for _, y in points], label=method, **style)
        plot.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
        plot.set_xlabel(AXES[axis][0])
        plot.set_ylabel("PSNR, dB")
        plot.grid(alpha=0.3)
    for plot in plots:  # the gap that an odd number of axes leaves
        plot.axis("off")
    lines = {line.get_label(): line for plot in figure.axes for line in plot.lines}
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=6, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def parse_options(argv: Sequence[str] | None) -> RobustnessOptions:
    """The options, checked before the work; exit status 2 where the call makes no sense.

    Raises:
        StackError: a folder cannot be made, or matplotlib is missing.
    """
    parser = get_parser()
    (options,) = parse(parser, argv, RobustnessOptions)
    results: FaultReportOptions = options.results
    try:
        make_entries(options.fusing.methods, False, results.output_dir)
    except StackError as error:
        parser.error(str(error))
    if results.plot:
        figure_kind()
    for path in filter(None, (results.csv, results.plot)):
        make_folder(path.parent)
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Change, fuse, score, print and plot. Returns the exit status."""
    options = parse_options(argv)
    scenes = read_scenes(options.faults.data)
    rows: list[Row] = []
    failures: list[str] = []
    jobs = [(axis, level) for axis in options.faults.axes for level in levels_of(axis, scenes)]
    for axis, level in tqdm(jobs, desc="levels", disable=None):
        measured, failed = measure(options, axis, level, scenes)
        rows += measured
        failures += failed
    header = ["axis", "level", "method", "n", *COLUMNS]
    for row in [header, *rows]:
        print("  ".join(f"{cell:.5g}" if isinstance(cell, float) else str(cell) for cell in row))
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    if options.results.csv:
        write_csv(options.results.csv, [header, *rows])
    if options.results.plot and rows:
        draw(options.results.plot, rows)
    return 1 if failures else 0


if __name__ == "__main__":
    run_main(main)
