"""Score fused pictures, of any program or of the toolbox's methods, fused here and now.

With all-in-focus answers the scores are PSNR, SSIM and others; without, indices that compare a
fused picture with its frames.
"""

import argparse
import functools
import os
import sys
from pathlib import Path

import numpy as np

from stackmff.display import gallery
from stackmff.errors import StackError
from stackmff.evaluation.contest import check_place, make_entries, run_contest
from stackmff.evaluation.indices import INDICES
from stackmff.evaluation.metrics import OPTIONAL_METRICS
from stackmff.evaluation.scoring import (
    BORDER,
    Scene,
    Scoring,
    Task,
    check_metrics,
    compared_pair,
    in_parallel,
    read_result,
    score_tasks,
)
from stackmff.evaluation.tables import (
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
from stackmff.images.folders import find_stacks, list_answers, stack_root
from stackmff.options import number
from stackmff.records import run_record
from utils import run_main

MEAN_OF_FRAMES = "mean of the frames"
RESULTS = Path("results") / "benchmark"


def get_parser():
    """The options of evaluate.py."""
    parser = argparse.ArgumentParser(
        description="Score fused pictures: of any program (--results), or of methods that fuse "
        "the stacks first (--methods)."
    )
    group = parser.add_argument_group("pictures")
    group.add_argument(
        "--results",
        nargs="+",
        default=[],
        metavar="[NAME=]DIR",
        help="folder of fused pictures; several, as NAME=DIR, make one table",
    )
    group.add_argument(
        "--reference",
        metavar="DIR",
        help="folder of the answers, of the same names without suffix (default: none, only "
        "indices that need no answers)",
    )
    group.add_argument(
        "--stacks",
        metavar="DIR",
        help="folder of the stacks: to be fused by --methods, for --indices, and to score the mean "
        "of each one's frames too, which any method must beat",
    )
    add_method_options(parser)
    add_score_options(parser)
    add_table_options(parser)
    return parser


def add_method_options(parser):
    """The options of the methods that fuse here."""
    group = parser.add_argument_group("methods")
    group.add_argument(
        "--methods",
        nargs="+",
        default=[],
        metavar="NAME[:OPTION=VALUE,...]",
        help="fuse the stacks with these methods of fusion/methods.py, one after the other, and score "
        "what they give; all, or available for those that lack nothing here",
    )
    group.add_argument(
        "--iterative",
        action="store_true",
        help="let the methods fuse pair after pair; their names then end in -iterative (default: "
        "all frames at once)",
    )
    group.add_argument(
        "--output_dir",
        metavar="DIR",
        help=f"folder of what the methods give, a folder for each (default: {RESULTS})",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="fuse all stacks, also those whose record says that nothing has changed",
    )


def add_score_options(parser):
    """The options that say how pictures are scored."""
    group = parser.add_argument_group("scores")
    group.add_argument(
        "--gray", action="store_true", help="score the luma instead of the colours (default: off)"
    )
    group.add_argument(
        "--register",
        action="store_true",
        help="for stacks that were not aligned: bring each result onto its answer first by an "
        f"affine map and a gain for each channel, and leave {BORDER} px of border out (default: "
        "off)",
    )
    group.add_argument(
        "--metrics",
        nargs="+",
        default=[],
        choices=OPTIONAL_METRICS,
        metavar="NAME",
        help=f"also score by {', '.join(OPTIONAL_METRICS)} (default: none of them)",
    )
    group.add_argument(
        "--indices",
        nargs="*",
        choices=INDICES,
        metavar="NAME",
        help=f"also score against the frames, without the answers: {', '.join(INDICES)}, all if "
        "none is named; slow (default: all where there is no --reference, else none)",
    )
    group.add_argument(
        "--workers",
        type=number(int, 1),
        default=os.cpu_count(),
        metavar="N",
        help="processes that score at a time (default: one for each core)",
    )


def add_table_options(parser):
    """The options of tables and of the page."""
    group = parser.add_argument_group("tables")
    group.add_argument(
        "--against",
        metavar="NAME",
        help="compare the others with this result, or with the best by PSNR (default: with the "
        "first)",
    )
    group.add_argument("--csv", metavar="FILE", help="also write the table there (default: no)")
    group.add_argument(
        "--markdown",
        metavar="FILE",
        help="also write a table there with a row for each result (default: no)",
    )
    group.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="also write a page there that shows all pictures and their errors, with a folder "
        "FILE_files beside it (default: no)",
    )


def parse_options(argv):
    """The options and, as `entries`, the methods; exit status 2 where that is no sensible call."""
    parser = get_parser()
    args = parser.parse_args(argv)
    contradictions = [
        (not args.results and not args.methods, "give --results, --methods or both"),
        (args.methods and not args.stacks, "--methods need --stacks to fuse"),
        (not args.reference and not args.stacks, "give --reference, --stacks or both"),
        (args.indices is not None and not args.stacks, "--indices need --stacks"),
        (args.html and args.html.suffix != ".html", "--html needs a name that ends in .html"),
    ]
    for option in ("gray", "register", "metrics", "against"):
        given = getattr(args, option) and not args.reference
        contradictions.append((given, f"--{option} needs --reference"))
    for option in ("iterative", "output_dir", "overwrite"):
        given = getattr(args, option) and not args.methods
        contradictions.append((given, f"--{option} needs --methods"))
    for wrong, sentence in contradictions:
        if wrong:
            parser.error(sentence)
    try:
        args.entries = make_entries(args.methods, args.iterative, args.output_dir or RESULTS)
    except StackError as error:
        parser.error(str(error))
    return args


def named_folders(words):
    """The folders of --results.

    Args:
        words: DIR or NAME=DIR each.
    Returns:
        {name: folder}; without NAME= the folder's own name.
    Raises:
        StackError: two have one name, or a name or a folder is missing.
    """
    folders = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if word and (not equals or Path(word).is_dir()):
            name, folder = Path(word).resolve().name, word
        if not name or not folder:
            raise StackError(f"--results {word!r} is no folder: give DIR or NAME=DIR")
        if name in folders:
            raise StackError(f"--results has two folders named {name}: give them as NAME=DIR")
        folders[name] = Path(folder)
    return folders


def pictures_in(folder):
    """{name without suffix: path} of the pictures at the top of a folder.

    Raises:
        StackError: two pictures differ only in their suffix, or there is none.
    """
    pictures = list_answers(folder)
    if not pictures:
        raise StackError(f"{folder} holds no picture: give the folder that the pictures lie in")
    return pictures


def find_scenes(stacks, reference, all_stacks):
    """The scenes to score.

    Args:
        stacks, reference: folders of the stacks and of the answers; one of them may be None.
        all_stacks: stacks without an answer are an error; False: they are passed over.
    Returns:
        {name: Scene} in natural order.
    Raises:
        StackError: a folder has none, or an answer and its stack are not both there.
    """
    answers = pictures_in(reference) if reference else {}
    if not stacks:
        return {name: Scene(None, path) for name, path in answers.items()}
    if not answers:
        return {name: Scene(path, None) for name, path in find_stacks(stacks).items()}
    root = stack_root(stacks) or Path(stacks)
    found = find_stacks(stacks)
    pairs = [(answers, found, reference, root)]
    pairs += [(found, answers, root, reference)] if all_stacks else []
    for names, others, place, other in pairs:
        if lost := [name for name in names if name not in others]:
            raise StackError(
                f"{', '.join(lost)} of {place} is not in {other}: every stack needs its answer"
            )
    return {name: Scene(found[name], path) for name, path in answers.items()}


def match(results, names, source):
    """Find the result of each scene.

    Args:
        results: folder.
        names: of the scenes.
        source: folder that the names come from, for the errors.
    Returns:
        {name: file} in the order of the names.
    Raises:
        StackError: a scene has no result, or a result no scene.
    """
    fused = pictures_in(results)
    missing = [name for name in names if name not in fused]
    extra = [fused[name].name for name in fused if name not in names]
    if missing:
        raise StackError(
            f"{results} has no result for {', '.join(missing)} of {source}: fuse what is missing"
        )
    if extra:
        raise StackError(
            f"{results} holds {', '.join(extra)}, which {source} does not answer: move it elsewhere"
        )
    return {name: fused[name] for name in names}


def chosen_indices(args):
    """The names of the indices that are asked for."""
    if args.indices is None:
        return () if args.reference else tuple(INDICES)
    return tuple(args.indices or INDICES)


def fuse_here(args, scenes, taken):
    """Fuse the scenes with --methods.

    Args:
        args: the options.
        scenes: as from find_scenes.
        taken: names of other results.
    Returns:
        (files, costs, failures): {name: {scene: file}}, the `costs` of evaluation/tables.py, and sentences.
    Raises:
        StackError: a name or the place is taken, or as run_contest.
    """
    check_place(args.output_dir or RESULTS, args.stacks)
    if twins := {entry.name for entry in args.entries} & set(taken):
        raise StackError(f"--results has a folder named {min(twins)}, as a method is: rename it")
    stacks = {name: scene.stack for name, scene in scenes.items()}
    results, failures = run_contest(args.entries, stacks, args.overwrite)
    files = {
        method: {name: cell["file"] for name, cell in cells.items()}
        for method, cells in results.items()
    }
    costs = {
        method: {
            name: {"seconds": cell["seconds"], "MiB": cell["mib"]} for name, cell in cells.items()
        }
        for method, cells in results.items()
    }
    return files, costs, failures


def gather_results(args, scenes):
    """All pictures to score.

    Returns:
        (files, costs, failures) as from `fuse_here`; a file is None for the mean of the frames.
    Raises:
        StackError: a result is missing or extra, two have one name, there is none at all, or none
            is named as --against says.
    """
    source = args.reference or args.stacks
    files = {
        name: match(folder, scenes, source) for name, folder in named_folders(args.results).items()
    }
    if args.stacks and MEAN_OF_FRAMES in files:
        raise StackError(
            f"--results has a folder named {MEAN_OF_FRAMES}, as --stacks has: rename it"
        )
    names = [*files, *(entry.name for entry in args.entries)]
    names += [MEAN_OF_FRAMES] * bool(args.stacks)
    if args.against not in (None, "best", *names):
        raise StackError(f"--against {args.against} is none of {', '.join(names)}")
    costs, failures = {}, []
    if args.methods:
        fused, costs, failures = fuse_here(args, scenes, files)
        files |= fused
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    if not files:
        raise StackError("no method has all its results, so there is no table: see above")
    if args.stacks:
        files[MEAN_OF_FRAMES] = dict.fromkeys(scenes)
    return files, costs, failures


def caption_of(scores):
    """The scores beneath a picture: those that methods are ranked by."""
    words = []
    for column in ranked_columns(scores):
        value = as_word(scores[column], "#.4g")
        words.append(f"{value} dB" if column == "PSNR" else f"{column} {value}")
    return ", ".join(words)


def show_task(item, page, registered):
    """Write what the page shows of one picture.

    Args:
        item: (Task, caption, start of the names of the files).
        page: file of the page.
        registered: see Scoring.
    Returns:
        gallery.Entry; with an error map where the task's scene has an answer.
    """
    task, caption, start = item
    picture, place = read_result(task)
    linked = task.result is not None and gallery.can_link(task.result, page)
    shown = gallery.save_image(start, picture, task.result if linked else None)
    error = None
    if task.scene.answer is not None:
        pair = compared_pair(picture, place, task.scene.answer, registered)
        # Registered pictures are floats on the scale of their dtype.
        lumas = (luma(np.rint(part).astype(picture.dtype)) for part in pair)
        error = gallery.save_error(start, *lumas)
    return gallery.Entry(task.method, caption, shown, error)


def views_to_make(folder, scenes, tasks, tables):
    """The items of `show_task`: of each scene the answer, the mean of the frames and the results.

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


def write_html(args, scenes, tasks, tables, parts):
    """Write the page and what it shows.

    Args:
        args: the options.
        scenes, tasks, tables: of the scores.
        parts: the page's tables, as of gallery.gallery_html.
    """
    items = views_to_make(gallery.files_folder(args.html), scenes, tasks, tables)
    show = functools.partial(show_task, page=args.html, registered=args.register)
    views = {name: [] for name in scenes}
    for (task, *_), view in zip(items, in_parallel(show, items, args.workers, "page")):
        views[task.name].append(view)
    title = f"Focal stack fusion: {len(tables)} results of {len(scenes)} scenes"
    gallery.write_gallery(args.html, title, run_record(), parts, views)


def reference_method(args, tables):
    """The method that --against names; the first one where that has failed or none is named."""
    if args.against == "best":
        return best_method(tables, "PSNR")
    return args.against if args.against in tables else next(iter(tables))


def tell(args, tables, costs, against, correlations):
    """Print the tables and write those that are asked for as files."""
    rows = table_rows(tables, costs)
    print_table(rows)
    if len(tables) > 1 and args.reference:
        print_comparisons(tables, against)
    if args.methods or not args.reference:
        print_summary(tables, costs, against)
    if correlations:
        print_correlations(correlations)
    if args.csv:
        write_csv(args.csv, [["" if cell is None else cell for cell in row] for row in rows])
    if args.markdown:
        write_markdown(args.markdown, tables, costs, against, correlations)


def main(argv=None):
    """Fuse, score and print."""
    args = parse_options(argv)
    check_metrics(args.metrics)
    for path in filter(None, (args.csv, args.markdown, args.html)):
        make_folder(Path(path).parent)
    scenes = find_scenes(args.stacks, args.reference, bool(args.methods))
    files, costs, failures = gather_results(args, scenes)
    tasks = [
        Task(method, name, path, scenes[name])
        for method, paths in files.items()
        for name, path in paths.items()
    ]
    how = Scoring(args.gray, args.register, tuple(args.metrics), chosen_indices(args))
    tables = score_tasks(tasks, how, args.workers)
    against = reference_method(args, tables)
    others = {name: table for name, table in tables.items() if name != MEAN_OF_FRAMES}
    correlations = correlation_rows(others)
    tell(args, tables, costs, against, correlations)
    if args.html:
        parts = page_tables(tables, costs, against, correlations)
        write_html(args, scenes, tasks, tables, parts)
    return 1 if failures else 0


if __name__ == "__main__":
    run_main(main)
