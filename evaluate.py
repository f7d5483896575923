"""Score fused pictures, of any program or of the toolbox's methods, which can fuse them first.

With all-in-focus answers the scores are PSNR, SSIM and others; without answers, they are indices
that compare a fused picture with its frames.
"""

import argparse
import functools
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from stackmff.display import gallery
from stackmff.errors import StackError
from stackmff.evaluation.contest import Contestant, check_place, make_entries, run_contest
from stackmff.evaluation.matching import Scene, find_scenes, match, named_folders
from stackmff.evaluation.options import RESULTS, EvaluateOptions, MethodOptions, TableOptions
from stackmff.evaluation.scoring import (
    MEAN_OF_FRAMES,
    Task,
    check_metrics,
    compared_pair,
    in_parallel,
    read_result,
    score_tasks,
)
from stackmff.evaluation.tables import (
    Costs,
    Tables,
    as_word,
    best_method,
    correlation_rows,
    page_tables,
    print_comparisons,
    print_correlations,
    print_summary,
    print_table,
    ranked_columns,
    table_rows,
    write_markdown,
)
from stackmff.files import make_folder, write_csv
from stackmff.images.colour import luma
from stackmff.options import add_options, parse
from stackmff.records import run_record
from utils import run_main

# {method: {scene: file of the fused picture, None for the mean of the frames}}
Files = dict[str, dict[str, Path | None]]


def get_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        description="Score fused pictures: of any program (--results), or of methods that fuse "
        "the stacks first (--methods)."
    )
    add_options(parser, EvaluateOptions)
    return parser


def parse_options(argv: Sequence[str] | None) -> tuple[EvaluateOptions, list[Contestant]]:
    """The options and the methods that fuse; exit status 2 where the call makes no sense."""
    parser = get_parser()
    (options,) = parse(parser, argv, EvaluateOptions)
    fusing = options.fusing
    try:
        return options, make_entries(fusing.methods, fusing.iterative, output_dir_of(fusing))
    except StackError as error:
        parser.error(str(error))


def output_dir_of(fusing: MethodOptions) -> Path:
    """The folder of what the methods fuse."""
    return fusing.output_dir or RESULTS


def fuse_first(
    entries: Sequence[Contestant], fusing: MethodOptions, scenes: Mapping[str, Scene]
) -> tuple[Files, Costs, list[str]]:
    """Fuse the scenes with the methods.

    Args:
        entries: the methods.
        fusing: whether what is done already is fused again.
        scenes: {name: Scene}, all of them with a stack.
    Returns:
        (files, costs, failures): Files, the `Costs` of evaluation/tables.py, and sentences.
    Raises:
        StackError: as run_contest.
    """
    stacks = {name: scene.stack for name, scene in scenes.items() if scene.stack is not None}
    results, failures = run_contest(entries, stacks, fusing.overwrite)
    files: Files = {
        method: {name: cell["file"] for name, cell in cells.items()}
        for method, cells in results.items()
    }
    costs: Costs = {
        method: {
            name: {"seconds": cell["seconds"], "MiB": cell["mib"]} for name, cell in cells.items()
        }
        for method, cells in results.items()
    }
    return files, costs, failures


def check_names(
    options: EvaluateOptions, entries: Sequence[Contestant], given: Iterable[str]
) -> None:
    """Raise StackError where two results have the same name, or --against names none.

    Args:
        options: the options.
        entries: the methods.
        given: names of the folders of --results.
    """
    given, methods = list(given), [entry.name for entry in entries]
    with_mean = options.pictures.stacks is not None
    if with_mean and MEAN_OF_FRAMES in given:
        raise StackError(f"--results has a folder named {MEAN_OF_FRAMES}, like --stacks: rename it")
    if twins := set(methods) & set(given):
        raise StackError(f"--results has a folder named {min(twins)}, like a method: rename it")
    names = [*given, *methods, *[MEAN_OF_FRAMES] * with_mean]
    if options.tables.against not in (None, "best", *names):
        raise StackError(f"--against {options.tables.against} is not one of {', '.join(names)}")


def gather_results(
    options: EvaluateOptions, entries: Sequence[Contestant], scenes: Mapping[str, Scene]
) -> tuple[Files, Costs, list[str]]:
    """All pictures to score.

    Returns:
        (files, costs, failures) as from `fuse_first`.
    Raises:
        StackError: a result is missing or extra, two have the same name, there is none at all, or
            --against names none of them.
    """
    stacks = options.pictures.stacks
    source = options.pictures.reference or stacks
    assert source is not None  # see EvaluateOptions.contradiction
    files: Files = {
        name: dict(match(folder, scenes, source))
        for name, folder in named_folders(options.pictures.results).items()
    }
    check_names(options, entries, files)
    costs: Costs = {}
    failures: list[str] = []
    if entries:
        assert stacks is not None
        check_place(output_dir_of(options.fusing), stacks)
        fused, costs, failures = fuse_first(entries, options.fusing, scenes)
        files |= fused
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    if not files:
        raise StackError("no method has all its results, so there is no table: see above")
    if stacks:
        files[MEAN_OF_FRAMES] = dict.fromkeys(scenes)
    return files, costs, failures


def caption_of(scores: Mapping[str, float]) -> str:
    """The caption of a picture: the scores by which methods are ranked."""
    words = []
    for column in ranked_columns(scores):
        value = as_word(scores[column], "#.4g")
        words.append(f"{value} dB" if column == "PSNR" else f"{column} {value}")
    return ", ".join(words)


def show_task(item: tuple[Task, str, Path], page: Path, registered: bool) -> gallery.Entry:
    """Write what the page shows of one picture.

    Args:
        item: (Task, caption, start of the names of the files).
        page: file of the page.
        registered: see Scoring.
    Returns:
        gallery.Entry, with an error map where the task's scene has an answer.
    """
    task, caption, start = item
    picture, place = read_result(task)
    linked = task.result is not None and gallery.can_link(task.result, page)
    shown = gallery.save_image(start, picture, task.result if linked else None)
    error = None
    if task.scene.answer is not None:
        *pair, white = compared_pair(picture, place, task.scene.answer, registered, gray=True)
        # Registered pictures are floats on the scale of their dtype.
        dtype = np.uint16 if white > 255 else np.uint8
        lumas = (luma(np.rint(part).astype(dtype)) for part in pair)
        error = gallery.save_error(start, *lumas)
    return gallery.Entry(task.method, caption, shown, error)


def entries_to_show(
    folder: Path, scenes: Mapping[str, Scene], tasks: Sequence[Task], tables: Tables
) -> list[tuple[Task, str, Path]]:
    """The items of `show_task`: for each scene the answer, the mean of the frames and the results.

    Args:
        folder: for the files.
        scenes, tasks, tables: of the scores.
    """
    items = []
    for k, (name, scene) in enumerate(scenes.items()):
        mine = [
            (task, caption_of(tables[task.method][name])) for task in tasks if task.name == name
        ]
        mine.sort(key=lambda pair: pair[0].result is not None)
        if scene.answer is not None:
            mine.insert(0, (Task("answer", name, scene.answer, Scene(None, None)), ""))
        items += [(*pair, folder / str(k) / str(j)) for j, pair in enumerate(mine)]
    return items


def write_html(
    path: Path,
    scenes: Mapping[str, Scene],
    tasks: Sequence[Task],
    tables: Tables,
    parts: Sequence[tuple[str, list[list[str]], str]],
    registered: bool,
    workers: int,
) -> None:
    """Write the page and what it shows.

    Args:
        path: of the page.
        scenes, tasks, tables: of the scores.
        parts: the page's tables, as of gallery.gallery_html.
        registered: see Scoring.
        workers: processes at most.
    """
    items = entries_to_show(gallery.files_folder(path), scenes, tasks, tables)
    show = functools.partial(show_task, page=path, registered=registered)
    shown: dict[str, list[gallery.Entry]] = {name: [] for name in scenes}
    for (task, *_), entry in zip(items, in_parallel(show, items, workers, "page")):
        shown[task.name].append(entry)
    title = f"Focal stack fusion: {len(tables)} results of {len(scenes)} scenes"
    gallery.write_gallery(path, title, run_record(), parts, shown)


def reference_method(against: str | None, tables: Tables) -> str:
    """The method that --against names; the first one where that has failed or none is named."""
    if against == "best":
        return best_method(tables, "PSNR")
    return against if against in tables else next(iter(tables))


def report(
    options: EvaluateOptions,
    tables: Tables,
    costs: Costs,
    against: str,
    correlations: list[list[str]],
) -> None:
    """Print the tables and write those that were asked for as files."""
    rows = table_rows(tables, costs)
    short = options.tables.short
    if not short:
        print_table(rows)
    if len(tables) > 1 and options.pictures.reference and not short:
        print_comparisons(tables, against)
    if options.fusing.methods or not options.pictures.reference or short:
        print_summary(tables, costs, against)
    if correlations:
        print_correlations(correlations)
    files = options.tables
    if files.csv:
        write_csv(files.csv, [["" if cell is None else cell for cell in row] for row in rows])
    if files.markdown:
        write_markdown(files.markdown, tables, costs, against, correlations)


def make_folders_of(files: TableOptions) -> None:
    """Make the folders of the files that are to be written, so that a failure comes early."""
    for path in filter(None, (files.csv, files.markdown, files.html)):
        make_folder(path.parent)


def main(argv: Sequence[str] | None = None) -> int:
    """Fuse, score and print. Returns the exit status."""
    options, entries = parse_options(argv)
    pictures, scores = options.pictures, options.scores
    check_metrics(scores.metrics)
    make_folders_of(options.tables)
    scenes = find_scenes(pictures.stacks, pictures.reference, all_stacks=bool(entries))
    files, costs, failures = gather_results(options, entries, scenes)
    tasks = [
        Task(method, name, path, scenes[name])
        for method, paths in files.items()
        for name, path in paths.items()
    ]
    workers = scores.workers or os.cpu_count() or 1
    tables = score_tasks(tasks, scores.scoring(pictures.reference is not None), workers)
    against = reference_method(options.tables.against, tables)
    others = {name: table for name, table in tables.items() if name != MEAN_OF_FRAMES}
    correlations = correlation_rows(others)
    report(options, tables, costs, against, correlations)
    if options.tables.html:
        parts = page_tables(tables, costs, against, correlations)
        page = options.tables.html
        write_html(page, scenes, tasks, tables, parts, scores.register, workers)
    return 1 if failures else 0


if __name__ == "__main__":
    run_main(main)
