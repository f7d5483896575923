"""One table of everything that was fused of a set of stackmff-bench.

RESULTS/<method>/<scene>.png      fused pictures, of any program
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stackmff.errors import StackError
from stackmff.evaluation.matching import find_scenes, match
from stackmff.evaluation.scoring import MEAN_OF_FRAMES, Scoring, Task, score_tasks
from stackmff.evaluation.tables import (
    CONFIDENCE,
    Tables,
    Words,
    as_word,
    difference_word,
    markdown_table,
    means,
    print_lines,
    table_rows,
)
from stackmff.files import make_folder, parse_json, write_csv, write_text
from stackmff.options import Options, add_options, option, parse
from stackmff.processes import run_main
from stackmff.synthesis.bench_setups import SETS
from tools.make_bench import RECORD, digest_of_scene, digest_of_set

DIAGNOSTICS = ("PSNR_dark", "hazed", "rings", "grid", "veil")
# {column: (heading, format)}
COLUMNS = {
    "PSNR": ("PSNR", ".2f"),
    "SSIM": ("SSIM", ".4f"),
    "PSNR_dark": ("dark PSNR", ".2f"),
    "hazed": ("hazed, %", ".1f"),
    "rings": ("rings", ".2f"),
    "grid": ("grid", ".2f"),
    "veil": ("veil", ".2f"),
}


@dataclass(frozen=True)
class LeaderboardOptions(Options):
    """What tools.leaderboard is told."""

    bench: Path = option(help="a set that tools.make_bench made", metavar="DIR")
    results: Path = option(
        help="folder with a folder of fused pictures for each method", metavar="DIR"
    )
    against: str | None = option(
        None,
        help="the method that the others are compared with (default: the best)",
        metavar="NAME",
    )
    csv: Path | None = option(
        None, help="also write the scores of each scene there (default: no)", metavar="FILE"
    )
    markdown: Path | None = option(
        None, help="also write the table there (default: no)", metavar="FILE"
    )
    workers: int | None = option(
        None, help="processes that score (default: one per core)", low=1, metavar="N"
    )


def get_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.leaderboard",
        description="Score fused pictures of a set of stackmff-bench and rank the methods.",
    )
    add_options(parser, LeaderboardOptions)
    return parser


def checked_digest(bench: Path) -> str:
    """The digest of a set whose files are as they were made.

    Raises:
        StackError: it has no record, is unfinished, or a scene was changed.
    """
    try:
        record = parse_json((bench / RECORD).read_text(encoding="utf-8"))
        known = {name: scene["digest"] for name, scene in record["scenes"].items()}
        digest, setups = str(record["digest"]), SETS[record["set"]]
    except FileNotFoundError as error:
        raise StackError(
            f"{bench} has no {RECORD}: give one set, such as data/stackmff-bench/small, that "
            "python -m tools.make_bench made"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StackError(f"{bench / RECORD} is damaged: make the set again") from error
    if missing := [setup.name for setup in setups if setup.name not in known]:
        raise StackError(f"{bench} lacks {', '.join(missing)}: run tools.make_bench once more")
    for name, expected in known.items():
        if digest_of_scene(bench, name) != expected:
            raise StackError(f"scene {name} of {bench} was changed: make the set again")
    if digest_of_set(known) != digest:
        raise StackError(f"{bench / RECORD} is damaged: make the set again")
    return digest


def list_tasks(bench: Path, results: Path) -> tuple[list[Task], list[str]]:
    """What is to be scored, and a sentence for each method that lacks results.

    Raises:
        StackError: a folder cannot be read, or no method has all results.
    """
    scenes = find_scenes(bench, bench / "AiF")
    try:
        folders = sorted(path for path in results.iterdir() if path.is_dir())
    except OSError as error:
        raise StackError(f"{results} cannot be read ({error.strerror})") from error
    tasks = [Task(MEAN_OF_FRAMES, name, None, scene) for name, scene in scenes.items()]
    left_out = []
    for folder in folders:
        try:
            found = match(folder, scenes, bench)
        except StackError as error:
            left_out.append(str(error))
            continue
        tasks += [Task(folder.name, name, found[name], scenes[name]) for name in scenes]
    if len(tasks) == len(scenes):
        raise StackError(
            f"{results} holds no method with all results: it needs a folder for each, with a "
            f"picture for each scene of {bench}" + "".join(f"; {wrong}" for wrong in left_out)
        )
    return tasks, left_out


def leaderboard(tables: Tables, against: str) -> Words:
    """The table, the best PSNR first; the header is its first row."""
    average = {method: means(scores) for method, scores in tables.items()}
    ranked = sorted(tables, key=lambda method: -average[method]["PSNR"])
    first, *others = [heading for heading, _ in COLUMNS.values()]
    rows = [["method", first, f"minus {against}", *others]]
    for method in ranked:
        words = [as_word(average[method][name], form) for name, (_, form) in COLUMNS.items()]
        rows.append([method, words[0], difference_word(tables, against, method), *words[1:]])
    return rows


def notes(digest: str, scenes: int) -> str:
    """What the table shows, in a few sentences."""
    return (
        f"stackmff-bench, {scenes} scenes, digest {digest[:16]}. Means over the scenes; the "
        f"difference in PSNR is paired by scene, with its {CONFIDENCE * 100:g} % interval by "
        "Student's t. Smaller is better in: hazed, the share of dark pixels around which the "
        "picture is too bright by 6 levels; rings, the deviation around highlights; grid, steps "
        "that repeat every 8 to 64 px; veil, the lift of dark areas (all three in levels of 255)."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Score, print and write. Returns the exit status."""
    (options,) = parse(get_parser(), argv, LeaderboardOptions)
    for path in filter(None, (options.csv, options.markdown)):
        make_folder(path.parent)
    digest = checked_digest(options.bench)
    tasks, left_out = list_tasks(options.bench, options.results)
    names = list(dict.fromkeys(task.method for task in tasks))
    if options.against not in (None, *names):
        raise StackError(f"--against {options.against} is not one of {', '.join(names)}")
    workers = options.workers or os.cpu_count() or 1
    tables = score_tasks(tasks, Scoring(optional=DIAGNOSTICS), workers)
    against = options.against or max(tables, key=lambda name: means(tables[name])["PSNR"])
    rows, text = leaderboard(tables, against), notes(digest, len(tables[against]))
    print_lines(rows, left=1)
    print(f"\n{text}")
    for wrong in left_out:
        print(f"left out: {wrong}", file=sys.stderr)
    if options.csv:
        cells = [["" if cell is None else cell for cell in row] for row in table_rows(tables)]
        write_csv(options.csv, cells)
    if options.markdown:
        write_text(options.markdown, f"{markdown_table(rows)}\n{text}\n")
    return 1 if left_out else 0


if __name__ == "__main__":
    run_main(main)
