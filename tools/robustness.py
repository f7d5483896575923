"""How methods bear what real stacks are like: few frames, noise, frames out of place, flicker.

OUT/stacks/<axis>_<level>/<scene>/00.png ...      the stacks of a data set, changed
OUT/fused/<axis>_<level>/<method>/<scene>.png     what the methods make of them
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from stackmff.errors import StackError
from stackmff.evaluation.contest import make_entries, run_contest
from stackmff.evaluation.scoring import Scene, Scoring, Task, score_tasks
from stackmff.files import atomic_path, make_folder, write_csv
from stackmff.images.folders import (
    ANSWER_FOLDER,
    by_stem,
    find_stacks,
    is_inside,
    list_frames,
    list_pictures,
)
from stackmff.images.formats import write_picture
from stackmff.options import names_of, number, plain
from stackmff.processes import run_main
from stackmff.records import Record, wanted_record
from stackmff.synthesis.options import CameraOptions, FrameOptions
from stackmff.synthesis.restack import changed_stack, scene_rng

# What is changed: the title of its plot, and its levels. 0 leaves the frames as they are.
AXES = {
    "frames": ("frames N", (3, 6, 9, 12, 15, 30)),
    "noise": ("photon noise, 1000 / electrons of a full well", (0, 0.05, 0.4, 1, 2.5)),
    "shake": ("frames out of place, standard deviation in px", (0, 0.25, 0.5, 1, 2)),
    "flicker": ("exposure flicker, standard deviation in %", (0, 1, 2, 5, 10)),
}
COLUMNS = ("PSNR", "SSIM")
PLOT_SIZE, PLOT_DPI = (11, 8), 90  # inches, dots an inch


def get_parser():
    """The options of tools/robustness.py."""
    parser = argparse.ArgumentParser(
        description="Score methods against the number of frames, noise, misalignment and flicker."
    )
    group = parser.add_argument_group("stacks")
    group.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="data set with answers in AiF; of its stacks of 30 frames all numbers of frames are "
        "taken, of shorter ones those that they have",
    )
    group.add_argument(
        "--axes", nargs="+", choices=AXES, default=list(AXES), help="what to change (default: all)"
    )
    group.add_argument(
        "--n_frames",
        type=number(int, 2),
        default=9,
        metavar="N",
        help="frames of the stacks with faults, evenly spread (default: %(default)s)",
    )
    group.add_argument("--seed", type=number(int, 0, 2**32 - 1), default=0, help="(default: 0)")
    group = parser.add_argument_group("methods")
    group.add_argument(
        "--methods",
        nargs="+",
        default=["available"],
        metavar="NAME[:OPTION=VALUE,...]",
        help="of fusion/methods.py (default: those that lack nothing here)",
    )
    group = parser.add_argument_group("results")
    group.add_argument(
        "--output_dir",
        type=Path,
        default=Path("results/robustness"),
        metavar="DIR",
        help="changed stacks and fused pictures; what is there is not made again "
        "(default: %(default)s)",
    )
    group.add_argument("--csv", metavar="FILE", help="also write the numbers there (default: no)")
    group.add_argument(
        "--plot", metavar="FILE", help="also draw them there, PNG or SVG (default: no)"
    )
    group.add_argument(
        "--workers", type=number(int, 1), default=2, metavar="N", help="processes that score"
    )
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


def read_scenes(data):
    """The stacks of a data set that have an answer: {name: (frames' files, answer's file)}.

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
            f"{data} has no stack with an answer of its name in {ANSWER_FOLDER}: robustness is "
            "measured against answers"
        )
    return scenes


def levels_of(axis, scenes):
    """The levels of an axis that every scene has frames enough for; StackError if none is."""
    name = min(scenes, key=lambda name: len(scenes[name][0]))
    shortest = len(scenes[name][0])
    levels = [level for level in AXES[axis][1] if axis != "frames" or level <= shortest]
    if not levels:
        raise StackError(
            f"{name} has {shortest} frames, too few to leave any out: leave frames out of --axes"
        )
    return levels


def write_changed(folder, name, files, change, seed):
    """Write a changed stack, if it is not there already; returns its folder.

    Args:
        folder: the set's.
        name: of the scene.
        files: (frames' files, answer's file).
        change: as from change_of.
        seed: the faults' seed; they are the same at all levels, but for their strength.
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
        record.write(wanted, {"frames": len(outputs)})
    return target


def measure(args, axis, level, scenes):
    """Fuse and score the stacks of one level.

    Returns:
        (rows, failures): rows [axis, level, method, n, mean of each of COLUMNS], and sentences.
    """
    change = change_of(axis, level, min(args.n_frames, *(len(p) for p, _ in scenes.values())))
    place = f"{axis}_{level:g}"
    stacks = {
        name: write_changed(args.output_dir / "stacks" / place, name, files, change, args.seed)
        for name, files in scenes.items()
    }
    entries = make_entries(args.methods, False, args.output_dir / "fused" / place)
    results, failures = run_contest(entries, stacks)
    tasks = [
        Task(method, name, cell["file"], Scene(stacks[name], scenes[name][1]))
        for method, cells in results.items()
        for name, cell in cells.items()
    ]
    tables = score_tasks(tasks, Scoring(), args.workers) if tasks else {}
    rows = [[axis, level, method, len(table), *means_of(table)] for method, table in tables.items()]
    return rows, [f"{place}: {failure}" for failure in failures]


def means_of(table):
    """Mean of each of COLUMNS over {scene: {column: score}}."""
    return [float(np.mean([row[column] for row in table.values()])) for column in COLUMNS]


def figure_kind():
    """Matplotlib's Figure; StackError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise StackError(
            "--plot needs matplotlib: pip install -r requirements-toolbox.txt"
        ) from error
    return Figure


def draw(path, rows):
    """Draw PSNR against the level, a plot for each axis and a line for each method.

    Args:
        path: of the picture.
        rows: as from `measure`.
    """
    axes = list(dict.fromkeys(row[0] for row in rows))
    figure = figure_kind()(figsize=PLOT_SIZE, dpi=PLOT_DPI, layout="constrained")
    plots = figure.subplots(-(-len(axes) // 2), min(len(axes), 2), squeeze=False).flat
    for axis, plot in zip(axes, plots):  # in this order no plot is taken in vain
        levels = sorted({row[1] for row in rows if row[0] == axis})
        for k, method in enumerate(dict.fromkeys(row[2] for row in rows)):
            points = [(row[1], row[4]) for row in rows if row[0] == axis and row[2] == method]
            style = {"marker": "o^sDvPX*"[k % 8], "markersize": 4, "color": f"C{k % 10}"}
            style |= {"linewidth": 2.5 if method.startswith("StackMix") else 1.2}
            # Levels stand at even distances: they differ by factors.
            places = [levels.index(level) for level, _ in points]
            plot.plot(places, [y for _, y in points], label=method, **style)
        plot.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
        plot.set_xlabel(AXES[axis][0])
        plot.set_ylabel("PSNR, dB")
        plot.grid(alpha=0.3)
    for plot in plots:  # the place that an odd number of axes leaves
        plot.axis("off")
    lines = {line.get_label(): line for plot in figure.axes for line in plot.lines}
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=6, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def parse_options(argv):
    """The options, checked before the work; exit status 2 where that is no sensible call.

    Raises:
        StackError: a folder cannot be made, or matplotlib is missing.
    """
    parser = get_parser()
    args = parser.parse_args(argv)
    if is_inside(args.output_dir, args.data):
        parser.error(f"--output_dir {args.output_dir} is inside --data: choose another folder")
    if args.plot and Path(args.plot).suffix not in (".png", ".svg"):
        parser.error(f"--plot {args.plot} needs a name that ends in .png or .svg")
    try:
        make_entries(args.methods, False, args.output_dir)
    except StackError as error:
        parser.error(str(error))
    if args.plot:
        figure_kind()
    for path in filter(None, (args.csv, args.plot)):
        make_folder(Path(path).parent)
    return args


def main(argv=None):
    """Change, fuse, score, print and draw. Returns the exit status."""
    args = parse_options(argv)
    scenes = read_scenes(args.data)
    rows, failures = [], []
    jobs = [(axis, level) for axis in args.axes for level in levels_of(axis, scenes)]
    for axis, level in tqdm(jobs, desc="levels", disable=None):
        measured, failed = measure(args, axis, level, scenes)
        rows += measured
        failures += failed
    header = ["axis", "level", "method", "n", *COLUMNS]
    for row in [header, *rows]:
        print("  ".join(f"{cell:.5g}" if isinstance(cell, float) else str(cell) for cell in row))
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    if args.csv:
        write_csv(args.csv, [header, *rows])
    if args.plot and rows:
        draw(args.plot, rows)
    return 1 if failures else 0


if __name__ == "__main__":
    run_main(main)
