"""Fuse every focal stack of a data set, or of several; what is done already is not done again."""

import argparse
import contextlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from tqdm import tqdm

from stackmff.display.previews import preview_files
from stackmff.display.report import Card, write_card, write_report
from stackmff.errors import StackError, what_happened
from stackmff.files import make_folder, sha256, write_csv
from stackmff.fusion.options import add_fuse_options, check_choices
from stackmff.fusion.pipeline import Files, fuse_files, make_engine, read_for
from stackmff.images.folders import (
    STACK_FOLDERS,
    list_folders,
    list_frames,
    stack_name,
    stack_root,
    stacks_in,
)
from stackmff.images.formats import result_suffix
from stackmff.processes import join_processes, rank_and_world
from stackmff.records import Record, wanted_record
from utils import run_main

# Options that the results do not depend on; the weights and alignments have their SHA-256.
NOT_OF_RESULTS = {
    "stack_basedir_path",
    "output_dir",
    "model_path",
    "overwrite",
    "verbose",
    "quiet",
    "low_memory",
    "use_alignment",
    "part",
}
COLUMNS = ("stack", "width", "height", "frames", "network_seconds", "seconds")


def part_of(word):
    """An argparse type: "K/N" or "slurm" to (K, N), 1 <= K <= N."""
    if word == "slurm":
        names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
        if not all(os.environ.get(name, "").isdecimal() for name in names):
            raise argparse.ArgumentTypeError(
                f"slurm: {', '.join(names)} are not set: start it by sbatch --array=1-N"
            )
        task, first, count = (int(os.environ[name]) for name in names)
        step = int(os.environ.get("SLURM_ARRAY_TASK_STEP", 1))
        word = f"{(task - first) // step + 1}/{count}"
        if task - first >= step * count:
            raise argparse.ArgumentTypeError(
                "slurm: the numbers of this array have gaps: start it whole by sbatch --array=1-N, "
                "what is done is not done again"
            )
    k, slash, n = word.partition("/")
    if not (slash and k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise argparse.ArgumentTypeError(f"{word!r} is no K/N with K from 1 to N")
    return int(k), int(n)


def get_parser():
    """The options of predict_dataset.py."""
    parser = argparse.ArgumentParser(description=__doc__)
    group = parser.add_argument_group("data set")
    group.add_argument(
        "--stack_basedir_path",
        type=Path,
        required=True,
        metavar="DIR",
        help="its sub-folders that hold pictures, its TIFF of several pages and its videos are "
        f"the stacks, or those below its {', '.join(STACK_FOLDERS)}; or it holds several such "
        "data sets",
    )
    group.add_argument(
        "--part",
        type=part_of,
        metavar="K/N",
        help="fuse every N-th stack, from the K-th on (1 to N), as one of N starts that share the "
        "stacks and write to one --output_dir; slurm: as the task of a SLURM array that this is",
    )
    group = parser.add_argument_group("results")
    group.add_argument(
        "--output_dir",
        type=Path,
        metavar="DIR",
        help="folder of the results, with a folder for each data set where there are several "
        "(default: results/<data set>)",
    )
    group.add_argument(
        "--focus_map",
        action="store_true",
        help="also write which frame is in focus to focus_map/, 16-bit PNG",
    )
    group.add_argument(
        "--confidence",
        action="store_true",
        help="also write the largest weight of a frame to confidence/, 8-bit PNG",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="fuse all stacks, also those whose record says that nothing has changed",
    )
    group.add_argument(
        "--preview",
        action="store_true",
        help="also write to previews/ the focus map in colours, a relief, a film through the stack",
    )
    group.add_argument(
        "--no_report",
        action="store_true",
        help="write no report.html, which shows each stack's sharpest frame and result and takes "
        "some of the time",
    )
    group.add_argument(
        "--save_alignment",
        action="store_true",
        help="also write how frames lie to alignment/, as JSON",
    )
    group.add_argument(
        "--use_alignment",
        type=Path,
        metavar="DIR",
        help="take how frames lie from <stack>.json in this folder, of --save_alignment, and "
        "measure nothing",
    )
    add_fuse_options(parser)
    return parser


def find_datasets(base):
    """The stacks below a folder.

    Args:
        base: a folder of stacks; or one with a folder of STACK_FOLDERS; or one with several such.
    Returns:
        {name of the data set: list of its stacks' folders}, in natural order.
    Raises:
        StackError: no folder, no stacks, or a choice that only the user can make.
    """
    name = base.resolve().name
    root = stack_root(base)
    if root is not None:
        datasets = {name: stacks_in(root)}
    else:
        if name in STACK_FOLDERS:
            name = base.resolve().parent.name
        below = [(folder, stack_root(folder)) for folder in list_folders(base)]
        datasets = {folder.name: stacks_in(root) for folder, root in below if root is not None}
        own = stacks_in(base, [folder for folder, root in below if root is None])
        if own and name in datasets:
            raise StackError(f"{base} and {base / name} would share their results: rename one")
        if own:
            datasets = {name: own, **datasets}
    datasets = {name: stacks for name, stacks in datasets.items() if stacks}
    if not datasets:
        raise StackError(
            f"{base} holds no stacks: give the folder whose sub-folders hold the pictures, or "
            f"that of a data set with {', '.join(STACK_FOLDERS)} in it"
        )
    return datasets


def result_folders(base, datasets, output_dir):
    """{name of the data set: folder of its results}; StackError where they would become stacks."""
    if output_dir is None:
        targets = {name: Path("results") / name for name in datasets}
    elif len(datasets) > 1:
        targets = {name: output_dir / name for name in datasets}
    else:
        targets = dict.fromkeys(datasets, output_dir)
    searched = {base.resolve()} if stack_root(base) is None else set()
    searched |= {stacks[0].parent.resolve() for stacks in datasets.values()}
    stacks = {stack.resolve() for group in datasets.values() for stack in group}
    for target in targets.values():
        place = target.resolve()
        if {place, place.parent} & searched or {place, *place.parents} & stacks:
            raise StackError(
                f"{target} is where the stacks are and would be taken for one next time: "
                "choose another --output_dir"
            )
    return targets


class Job:
    """One stack of a data set: its files, and the record of how its results came to be.

    Args:
        source: folder of the frames, or the file that they are in.
        target: folder of the data set's results.
        args: parsed options.
        weights: SHA-256 of the weights.
    """

    def __init__(self, source, target, args, weights):
        self.source = source
        self.name = stack_name(source)
        self.target = target
        self.args = args
        self.weights = weights
        self.record = Record(target, self.name)
        self.card = target / "records" / "cards" / f"{self.name}.json"

    def files(self, paths):
        """Files of what is wanted."""
        args, target, name = self.args, self.target, self.name
        known = args.use_alignment and args.use_alignment / f"{name}.json"
        return Files(
            target / f"{name}{result_suffix(args.out_format, paths)}",
            target / "focus_map" / f"{name}.png" if args.focus_map else None,
            target / "confidence" / f"{name}.png" if args.confidence else None,
            target / "slabs" / name if args.slab else None,
            target / "previews" if args.preview else None,
            target / "alignment" / f"{name}.json" if args.save_alignment else None,
            known,
            None if args.no_report else self.card,
        )

    def wanted(self, paths, files):
        """What the record must name, see records.wanted_record."""
        options = {k: v for k, v in vars(self.args).items() if k not in NOT_OF_RESULTS}
        weights = {"network": self.weights}
        if files.known_alignment is not None:
            weights["alignment"] = sha256(files.known_alignment)
        return wanted_record(paths, weights, options)

    def read(self):
        """Read the frames.

        Returns:
            (wanted, files, Stack): what the record shall name and the files to write; or None where
            the record and the results say that all is done.
        """
        paths = list_frames(self.source)
        files = self.files(paths)
        wanted = self.wanted(paths, files)
        if self.args.verbose:
            tqdm.write(f"{self.source}: {' '.join(path.name for path in paths)}")
        has_slabs = files.slabs is None or any(files.slabs.glob("slab_*.tif"))
        done = has_slabs and self.record.says_done(wanted, self.results(files))
        if done and not self.args.overwrite:
            return None
        return wanted, files, read_for(files.picture, paths, self.args)

    def results(self, files):
        """The files of the results, but for the slabs, whose names the frames decide."""
        paths = [files.picture, files.focus_map, files.confidence, files.alignment, files.card]
        if files.previews is not None:
            paths += preview_files(files.previews, self.name)
        return paths

    def fuse(self, engine, wanted, files, stack):
        """Fuse what `read` has given."""
        self.record.remove()
        result = fuse_files(lambda: stack, engine, files, self.args)
        if not self.args.quiet:
            for note in result["notes"]:
                tqdm.write(f"note: {self.name}: {note}", file=sys.stderr)
        self.record.write(wanted, result)

    def failed(self, sentence):
        """Say in the report that this stack could not be fused."""
        self.record.remove()
        if self.args.no_report:
            return
        with contextlib.suppress(StackError):  # of a disk that is full, say
            write_card(self.card, Card(self.name, failure=sentence))


def make_jobs(args, datasets, targets):
    """The jobs of all data sets in order."""
    weights = sha256(args.model_path)
    return [
        Job(source, targets[name], args, weights)
        for name, stacks in datasets.items()
        for source in stacks
    ]


def read_ahead(jobs):
    """Read each job's frames while the one before it is fused.

    Yields:
        (job, the future of Job.read).
    """
    with ThreadPoolExecutor(1) as reader:
        try:
            before = []
            for job in jobs:
                before.append((job, reader.submit(job.read)))
                if len(before) > 1:
                    yield before.pop(0)
            yield from before
        finally:
            reader.shutdown(cancel_futures=True)


def run_jobs(jobs, engine, args, rank):
    """Run them one after the other; returns a sentence for each that failed."""
    failures = []
    hidden = True if rank or args.quiet else None
    for job, reading in tqdm(read_ahead(jobs), unit="stack", total=len(jobs), disable=hidden):
        try:
            if (work := reading.result()) is not None:
                job.fuse(engine, *work)
        except Exception as error:  # of a library, too: the rest goes on
            job.failed(what_happened(error))
            failures.append(f"{job.source}: {what_happened(error)}")
            tqdm.write(f"failed: {failures[-1]}", file=sys.stderr)
    return failures


def gather(failures, world):
    """The failures of all processes, once all are done.

    A process that fails alone would make torchrun end the others, so each waits here.

    Raises:
        StackError: another process is gone.
    """
    if world == 1:
        return failures
    import torch.distributed as dist

    everyone = [None] * world
    try:
        dist.all_gather_object(everyone, failures)
    except RuntimeError as error:
        raise StackError(
            "another process of this run has ended early: run again, what is done is kept"
        ) from error
    dist.destroy_process_group()
    return [failure for part in everyone for failure in part]


def write_summaries(jobs):
    """summary.csv and report.html of each data set, from the records of this and earlier runs."""
    for target in dict.fromkeys(job.target for job in jobs):
        own = [job for job in jobs if job.target == target]
        rows = [COLUMNS]
        for job in own:
            if result := job.record.read().get("result"):
                rows.append([job.name, *(result.get(name) for name in COLUMNS[1:])])
        write_csv(target / "summary.csv", rows)
        cards = [job.card for job in own if job.card.is_file()]
        if not own[0].args.no_report:
            write_report(target / "report.html", f"Fused: {target.resolve().name}", cards)


def main(argv=None):
    parser = get_parser()
    args = parser.parse_args(argv)
    check_choices(parser, args, shows_maps=not args.no_report)
    rank, world, _ = rank_and_world()
    datasets = find_datasets(args.stack_basedir_path)
    targets = result_folders(args.stack_basedir_path, datasets, args.output_dir)
    engine = make_engine(args)
    jobs = make_jobs(args, datasets, targets)
    for target in targets.values():
        make_folder(target / "records")
    if world > 1:
        # No process waits for long but at the end, and there for the slowest.
        join_processes("gloo", timedelta(days=30))
    try:
        part, parts = args.part or (1, 1)
        own = jobs[part - 1 :: parts][rank::world]
        failures = gather(run_jobs(own, engine, args, rank), world)
    finally:
        if rank == 0:
            write_summaries(jobs)
    if rank == 0:
        files = "summary.csv" if args.no_report else "summary.csv, report.html"
        for name, target in () if args.quiet else targets.items():
            print(f"{target}: {len(datasets[name])} stacks of {name}, {files}")
        for failure in failures:
            print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    run_main(main)
