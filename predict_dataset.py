"""Fuse every focal stack of a data set, or of several; what is done already is not done again."""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from tqdm import tqdm

from fuse import add_fuse_options, fuse_files, make_engine, make_folder, read_for, result_suffix
from pictures import STACK_FOLDERS, list_folders, list_frames, list_pictures, stack_root
from records import Record, wanted_record
from utils import (
    KNOWN_FAILURES,
    StackError,
    rank_and_world,
    run_main,
    sentence_of,
    sha256,
    write_csv,
)

COLUMNS = ("stack", "width", "height", "frames", "network_seconds", "seconds")


def get_parser():
    parser = argparse.ArgumentParser(description=__doc__)
    group = parser.add_argument_group("data set")
    group.add_argument(
        "--stack_basedir_path",
        type=Path,
        required=True,
        metavar="DIR",
        help="its sub-folders that hold pictures are the stacks, or those below its "
        f"{', '.join(STACK_FOLDERS)}; or it holds several such data sets",
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
    add_fuse_options(parser)
    return parser


def stacks_in(folder):
    """The sub-folders of `folder` that hold pictures."""
    return [path for path in list_folders(folder) if list_pictures(path)]


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
        own = [folder for folder, root in below if root is None and list_pictures(folder)]
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
        folder: of the frames.
        target: folder of the data set's results.
        options: those that the results depend on, plain JSON values.
        weights: SHA-256 of the weights.
    """

    def __init__(self, folder, target, options, weights):
        self.folder = folder
        self.target = target
        self.options = options
        self.weights = weights
        self.record = Record(target, folder.name)

    def files(self, paths):
        """Files of the fused picture, the focus map and the confidence (None: not wanted)."""
        name = self.folder.name
        return (
            self.target / f"{name}{result_suffix(self.options['out_format'], paths)}",
            self.target / "focus_map" / f"{name}.png" if self.options["focus_map"] else None,
            self.target / "confidence" / f"{name}.png" if self.options["confidence"] else None,
        )

    def read(self, args):
        """Read the frames.

        Returns:
            (wanted, files, Stack): what the record shall name and the files to write; or None where
            the record and the results say that all is done.
        """
        paths = list_frames(self.folder)
        wanted, files = wanted_record(paths, self.weights, self.options), self.files(paths)
        if args.verbose:
            tqdm.write(f"{self.folder}: {' '.join(path.name for path in paths)}")
        if not args.overwrite and self.record.says_done(wanted, files):
            return None
        return wanted, files, read_for(files[0], paths, args.low_memory)

    def fuse(self, engine, wanted, files, stack):
        """Fuse what `read` has given."""
        self.record.remove()
        result = fuse_files(lambda: stack, engine, *files)
        if result["note"]:
            tqdm.write(f"note: {self.folder.name}: {result['note']}", file=sys.stderr)
        self.record.write(wanted, result)


def make_jobs(args, datasets, targets):
    """The jobs of all data sets in order."""
    ours = ("stack_basedir_path", "output_dir", "model_path", "overwrite", "verbose", "low_memory")
    options = {name: value for name, value in vars(args).items() if name not in ours}
    weights = sha256(args.model_path)
    return [
        Job(folder, targets[name], options, weights)
        for name, stacks in datasets.items()
        for folder in stacks
    ]


def read_ahead(jobs, args):
    """Read each job's frames while the one before it is fused.

    Yields:
        (job, the future of Job.read).
    """
    with ThreadPoolExecutor(1) as reader:
        try:
            before = []
            for job in jobs:
                before.append((job, reader.submit(job.read, args)))
                if len(before) > 1:
                    yield before.pop(0)
            yield from before
        finally:
            reader.shutdown(cancel_futures=True)


def run_jobs(jobs, engine, args, rank):
    """Run them one after the other; returns a sentence for each that failed."""
    failures = []
    reads = read_ahead(jobs, args)
    for job, reading in tqdm(reads, unit="stack", total=len(jobs), disable=True if rank else None):
        try:
            if (work := reading.result()) is not None:
                job.fuse(engine, *work)
        except KNOWN_FAILURES as error:
            job.record.remove()
            failures.append(f"{job.folder}: {sentence_of(error)}")
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
    """summary.csv of each data set, from the records of this and of earlier runs."""
    for target in dict.fromkeys(job.target for job in jobs):
        rows = [COLUMNS]
        for job in jobs:
            if job.target == target and (result := job.record.read().get("result")):
                rows.append([job.folder.name, *(result.get(name) for name in COLUMNS[1:])])
        write_csv(target / "summary.csv", rows)


def main(argv=None):
    args = get_parser().parse_args(argv)
    rank, world, _ = rank_and_world()
    datasets = find_datasets(args.stack_basedir_path)
    targets = result_folders(args.stack_basedir_path, datasets, args.output_dir)
    engine = make_engine(args)
    jobs = make_jobs(args, datasets, targets)
    for target in targets.values():
        make_folder(target / "records")
    if world > 1:
        import torch.distributed as dist

        # No process waits for long but at the end, and there for the slowest.
        dist.init_process_group("gloo", timeout=timedelta(days=30))
    try:
        failures = gather(run_jobs(jobs[rank::world], engine, args, rank), world)
    finally:
        if rank == 0:
            write_summaries(jobs)
    if rank == 0:
        for name, target in targets.items():
            print(f"{target}: {len(datasets[name])} stacks of {name}, summary.csv")
        for failure in failures:
            print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    run_main(main)
