"""The command that fuses a folder of stacks: predict_dataset.py, and `stackmff batch`."""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stackmff.display.previews import preview_files
from stackmff.display.report import Card, write_card, write_report
from stackmff.errors import StackError, what_happened
from stackmff.files import make_folder, sha256, write_csv
from stackmff.fusion.cluster import Cluster, DaskCluster, address_of, fuse_on
from stackmff.fusion.command import needing_weights
from stackmff.fusion.engine_choice import told_of_compiling, told_of_export
from stackmff.fusion.engines import Engine
from stackmff.fusion.hyperstack import (
    check_hyperstack,
    fuse_hyperstack,
    hyperstack_at,
    hyperstack_suffix,
)
from stackmff.fusion.options import (
    FuseOptions,
    MessageOptions,
    check_alignment_files,
    check_maps,
)
from stackmff.fusion.outputs import Files, fuse_files
from stackmff.fusion.pipeline import make_engine, read_for
from stackmff.images.datasets import find_datasets, result_folders
from stackmff.images.folders import (
    STACK_FOLDERS,
    Prefer,
    list_frames,
    passed_over,
    stack_name,
)
from stackmff.images.formats import result_suffix
from stackmff.images.groups import (
    Split,
    StackSource,
    place_of,
)
from stackmff.images.hyperstacks import Hyperstack
from stackmff.images.stack import Stack
from stackmff.images.stack_files import FramePath
from stackmff.options import Options, add_options, as_record, option, parse
from stackmff.original import translated
from stackmff.processes import futures_ahead, gathered, join_processes, rank_and_world
from stackmff.records import Record, wanted_record

# Options that earlier records lack, and what they were made with, or hardly any would differ from.
NEWER = {
    "pure_mixture": False,
    "lenient": False,
    "focus_from": None,
    "prefer_files": None,
    "ghosts": "fill",
}
# Options that the results do not depend on, or that the record has by their SHA-256 (weights and
# alignments).
NOT_OF_RESULTS = {
    "output_dir",
    "model_path",
    "overwrite",
    "verbose",
    "quiet",
    "low_memory",
    "use_alignment",
}
COLUMNS = ("stack", "width", "height", "frames", "network_seconds", "seconds")


def part_of(word: str) -> tuple[int, int]:
    """An argparse type: "K/N" or "slurm" to (K, N), 1 <= K <= N."""
    if word == "slurm":
        names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
        if not all(os.environ.get(name, "").isdecimal() for name in names):
            raise argparse.ArgumentTypeError(
                f"slurm: {', '.join(names)} are not set: start it with sbatch --array=1-N"
            )
        task, first, count = (int(os.environ[name]) for name in names)
        step = int(os.environ.get("SLURM_ARRAY_TASK_STEP", 1))
        word = f"{(task - first) // step + 1}/{count}"
        if task - first >= step * count:
            raise argparse.ArgumentTypeError(
                "slurm: the numbers of this array have gaps: start all of it with "
                "sbatch --array=1-N; what is done is not done again"
            )
    k, slash, n = word.partition("/")
    if not (slash and k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise argparse.ArgumentTypeError(f"{word!r} is not K/N with K from 1 to N")
    return int(k), int(n)


@dataclass(frozen=True)
class BatchOptions(Options):
    """Which stacks are fused, and in how many parts."""

    title = "data set"

    stack_basedir_path: Path = option(
        help="folder of the stacks: sub-folders of pictures, multi-page TIFFs and videos in it or "
        f"in its {', '.join(STACK_FOLDERS)}; or a folder of several such data sets, a set of "
        "pairs, or the pictures of several brackets",
        metavar="DIR",
        positional=True,
    )
    part: tuple[int, int] | None = option(
        None,
        help="fuse every N-th stack, starting with the K-th (1 to N): N processes share the stacks "
        "and write to one --output_dir; slurm: K and N are those of this SLURM array task",
        metavar="K/N",
        convert=part_of,
    )
    split: Split = option(
        "auto",
        help="pictures that lie in DIR itself, or in a folder of a card such as 100CANON, are "
        "split into stacks: auto: at pauses between captures, where the focus distance turns back, "
        "and where the scene changes; time: at pauses alone; off: they are one stack "
        "(default: %(default)s)",
    )
    dry_run: bool = option(False, help="only print the stacks and their frames")
    dask: str | None = option(
        None,
        help="fuse on the workers of a Dask cluster that sees the same files: the address of its "
        "scheduler, such as tcp://host:8786, or local:K for K workers on this machine",
        metavar="ADDRESS",
        convert=address_of,
    )

    def contradiction(self) -> str | None:
        """Two ways of sharing the stacks."""
        if self.dask is not None and self.part is not None:
            return "--dask shares the stacks among its workers: remove --part"
        return None


@dataclass(frozen=True)
class BatchOutputOptions(Options):
    """What is made of each stack, and where it goes."""

    title = "results"

    output_dir: Path | None = option(
        None,
        help="folder of the results, with a folder for each data set if there are several "
        "(default: results/<data set>)",
        metavar="DIR",
        aliases=("predict_name",),
    )
    focus_map: bool = option(False, help="also write the focus maps to focus_map/, 16-bit PNG")
    confidence: bool = option(
        False, help="also write the largest weight of a frame to confidence/, 8-bit PNG"
    )
    overwrite: bool = option(
        False, help="fuse all stacks, also those whose record says that nothing has changed"
    )
    preview: bool = option(
        False,
        help="also write to previews/ the focus map in colours, a 3D view and an animation of the "
        "stack",
    )
    report: bool = option(
        True,
        help="do not write report.html, which shows the sharpest frame and the result of each "
        "stack and takes some of the time",
        flag="no_report",
    )
    save_alignment: bool = option(
        False, help="also write the alignments of the frames to alignment/, as JSON"
    )
    use_alignment: Path | None = option(
        None,
        help="read the alignments from <stack>.json in this folder, written by --save_alignment, "
        "and measure nothing",
        metavar="DIR",
    )


@dataclass(frozen=True)
class BatchJobOptions(Options):
    """All that decides what becomes of each stack of a batch."""

    output: BatchOutputOptions = BatchOutputOptions()
    fuse: FuseOptions = FuseOptions()
    messages: MessageOptions = MessageOptions()

    def contradiction(self) -> str | None:
        """What is asked of alignments and focus maps that are not there."""
        output = self.output
        shows_maps = output.focus_map or output.preview or output.report
        return check_alignment_files(
            self.fuse, output.save_alignment, output.use_alignment
        ) or check_maps(self.fuse, shows_maps, output.preview)


def get_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Fuse every focal stack of a data set, or of several; what is done already is "
        "not done again.",
    )
    add_options(parser, BatchOptions, BatchOptions.title)
    add_options(parser, BatchJobOptions)
    return parser


class BatchJob:
    """One stack of a data set: its files, and the record of how its results came to be.

    Args:
        source: folder of the frames, the file that they are in, or a group of files.
        target: folder of the results of the data set.
        options: of each stack.
        weights: SHA-256 of the weights.
    """

    def __init__(
        self, source: StackSource, target: Path, options: BatchJobOptions, weights: str
    ) -> None:
        self.source = source
        self.name = stack_name(source)
        self.target = target
        self.options = options
        self.weights = weights
        self.record = Record(target, self.name)
        self.card = target / "records" / "cards" / f"{self.name}.json"

    def files(self, paths: Sequence[FramePath], suffix: str | None = None) -> Files:
        """The Files of what is wanted; `suffix` of the picture in place of that of the options."""
        output, target, name = self.options.output, self.target, self.name
        known = output.use_alignment and output.use_alignment / f"{name}.json"
        suffix = suffix or result_suffix(self.options.fuse.format.out_format, paths)
        return Files(
            target / f"{name}{suffix}",
            target / "focus_map" / f"{name}.png" if output.focus_map else None,
            target / "confidence" / f"{name}.png" if output.confidence else None,
            target / "slabs" / name if self.options.fuse.choices.slab else None,
            target / "previews" if output.preview else None,
            target / "alignment" / f"{name}.json" if output.save_alignment else None,
            known,
            self.card if output.report else None,
        )

    def wanted(self, paths: Sequence[FramePath], files: Files) -> dict[str, Any]:
        """What the record must name, see records.wanted_record."""
        options = {k: v for k, v in as_record(self.options).items() if k not in NOT_OF_RESULTS}
        options = {k: v for k, v in options.items() if NEWER.get(k) != v}
        weights = {"network": self.weights}
        if files.known_alignment is not None:
            weights["alignment"] = sha256(files.known_alignment)
        return wanted_record(paths, weights, options)

    def read(self) -> tuple[dict[str, Any], Files, Stack | Hyperstack] | None:
        """Read the frames, if they are one stack.

        Returns:
            (wanted, files, Stack or Hyperstack): what the record shall name and the files to write;
            or None if the record and the results say that all is done.
        """
        hyperstack = hyperstack_at(self.source) if isinstance(self.source, Path) else None
        paths: Sequence[FramePath]
        if hyperstack is not None:
            paths = hyperstack.stack()
            files = Files(self.files(paths, hyperstack_suffix(self.options.fuse)).picture)
            check_hyperstack(hyperstack, files.picture, self.options.fuse)
        else:
            paths = list_frames(self.source, self.options.fuse.reading.prefer_files)
            files = self.files(paths)
        wanted = self.wanted(paths, files)
        if self.options.messages.verbose:
            tqdm.write(f"{self.source}: {' '.join(path.name for path in paths)}")
        has_slabs = files.slabs is None or any(files.slabs.glob("slab_*.tif"))
        anew = self.options.output.overwrite or not has_slabs
        if not anew and self.record.says_done(wanted, self.results(files), self.tell):
            return None
        if hyperstack is not None:
            return wanted, files, hyperstack
        return wanted, files, read_for(files.picture, paths, self.options.fuse)

    def results(self, files: Files) -> list[Path | None]:
        """The files of the results, except the slabs, whose names depend on the frames."""
        paths = [files.picture, files.focus_map, files.confidence, files.alignment, files.card]
        if files.previews is not None:
            paths += preview_files(files.previews, self.name)
        return paths

    def fuse(
        self, engine: Engine, wanted: dict[str, Any], files: Files, stack: Stack | Hyperstack
    ) -> None:
        """Fuse what `read` has returned."""
        self.record.remove()
        if isinstance(stack, Hyperstack):
            self.card.unlink(missing_ok=True)
            result = fuse_hyperstack(stack, engine, files.picture, self.options.fuse)
            asked = self.files(stack.stack())
            if set(asked.wanted()) - {asked.picture, asked.card}:
                self.tell("a hyperstack has no maps, previews or alignments")
        else:
            result = fuse_files(lambda: stack, engine, files, self.options.fuse)
        source = self.source
        left = passed_over(source) if isinstance(source, Path) and source.is_dir() else None
        for note in [left, *result["notes"]] if left else result["notes"]:
            self.tell(note)
        slabs = [] if files.slabs is None else sorted(files.slabs.glob("slab_*.tif"))
        self.record.write(wanted, result, [*self.results(files), *slabs], place_of(self.source))

    def tell(self, note: str) -> None:
        """Print a note on this stack, unless none are wanted."""
        if not self.options.messages.quiet:
            tqdm.write(f"note: {self.name}: {note}", file=sys.stderr)

    def failed(self, sentence: str) -> None:
        """Note in the report that this stack could not be fused."""
        with contextlib.suppress(StackError, OSError):  # a full disk, or too long a name
            self.record.remove()
            if self.options.output.report:
                write_card(self.card, Card(self.name, failure=sentence))


def make_jobs(
    options: BatchJobOptions, datasets: dict[str, list[StackSource]], targets: dict[str, Path]
) -> list[BatchJob]:
    """The jobs of all data sets in order."""
    weights = sha256(options.fuse.engine.model_path)
    return [
        BatchJob(source, targets[name], options, weights)
        for name, stacks in datasets.items()
        for source in stacks
    ]


def run_jobs(jobs: Sequence[BatchJob], engine: Engine, quiet: bool, rank: int) -> list[str]:
    """Run them one after the other; returns a sentence for each that failed."""
    failures = []
    hidden = True if rank or quiet else None
    # The frames of each stack are read while the one before it is fused.
    ahead = futures_ahead(BatchJob.read, jobs, 1)
    for job, reading in tqdm(ahead, unit="stack", total=len(jobs), disable=hidden):
        try:
            if (work := reading.result()) is not None:
                job.fuse(engine, *work)
        except Exception as error:  # of a library too: the rest goes on
            job.failed(what_happened(error))
            failures.append(f"{job.source}: {what_happened(error)}")
            tqdm.write(f"failed: {failures[-1]}", file=sys.stderr)
    return failures


def run_on_cluster(jobs: Sequence[BatchJob], cluster: Cluster, quiet: bool) -> list[str]:
    """Let a cluster run them; returns a sentence for each that failed."""
    failures = []
    done = fuse_on(cluster, jobs)
    for number, wrong in tqdm(done, unit="stack", total=len(jobs), disable=quiet or None):
        if wrong is not None:
            jobs[number].failed(wrong)
            failures.append(f"{jobs[number].source}: {wrong}")
            tqdm.write(f"failed: {failures[-1]}", file=sys.stderr)
    return failures


def gather(failures: list[str], world: int) -> list[str]:
    """The failures of all processes, once all are done.

    A process that fails alone would make torchrun end the others, so each waits here.

    Raises:
        StackError: another process has ended.
    """
    if world == 1:
        return failures
    import torch.distributed as dist

    try:
        everyone = gathered(failures)
    except RuntimeError as error:
        raise StackError(
            "another process of this run has ended early: run again, what is done is kept"
        ) from error
    dist.destroy_process_group()
    return [failure for part in everyone for failure in part]


def write_summaries(jobs: Sequence[BatchJob]) -> None:
    """summary.csv and report.html of each data set, from the records of this and earlier runs."""
    for target in dict.fromkeys(job.target for job in jobs):
        own = [job for job in jobs if job.target == target]
        rows: list[Sequence[Any]] = [COLUMNS]
        for job in own:
            if isinstance(result := job.record.read().get("result"), dict):
                rows.append([job.name, *(result.get(name) for name in COLUMNS[1:])])
        write_csv(target / "summary.csv", rows)
        cards = [job.card for job in own if os.path.isfile(job.card)]
        if own[0].options.output.report:
            write_report(target / "report.html", f"Fused: {target.resolve().name}", cards)


def show_plan(
    datasets: dict[str, list[StackSource]], targets: dict[str, Path], prefer: Prefer | None
) -> int:
    """Print the stacks and their frames; exit status 1 if one cannot be fused."""
    status = 0
    for name, stacks in datasets.items():
        for stack in stacks:
            try:
                frames = list_frames(stack, prefer)
            except StackError as error:
                status = 1
                print(f"failed: {stack}: {error}", file=sys.stderr)
                continue
            ends = f"{frames[0].name} to {frames[-1].name}"
            print(f"{targets[name] / stack_name(stack)}: {len(frames)} frames, {ends}")
    return status


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Fuse the stacks of a data set."""
    batch, options = parse(get_parser(prog), translated(argv), BatchOptions, BatchJobOptions)
    output, quiet = options.output, options.messages.quiet
    rank, world, _ = rank_and_world()

    def tell(sentence: str) -> None:
        if rank == 0 and not quiet:
            print(sentence, file=sys.stderr)

    datasets = find_datasets(
        batch.stack_basedir_path, batch.split, tell, options.fuse.reading.prefer_files
    )
    targets = result_folders(batch.stack_basedir_path, datasets, output.output_dir)
    if batch.dry_run:
        return show_plan(datasets, targets, options.fuse.reading.prefer_files)
    engine = make_engine(options.fuse.engine, needing_weights(options.fuse, output.confidence))
    for sentence in told_of_export(
        options.fuse.engine.model_path, engine, options.fuse.engine.engine
    ):
        tell(f"note: {sentence}")
    jobs = make_jobs(options, datasets, targets)
    if not output.overwrite:
        for job in jobs:
            job.record.check_source(place_of(job.source), "--output_dir")
    for target in targets.values():
        make_folder(target / "records")
    if batch.dask is not None and world > 1:
        raise StackError("--dask shares the stacks among its workers: start it without torchrun")
    if world > 1:
        # No process waits for long but at the end, and there for the slowest.
        join_processes("gloo", timedelta(days=30))
    try:
        part, parts = batch.part or (1, 1)
        mine = jobs[part - 1 :: parts]
        if batch.dask is not None:
            with contextlib.closing(DaskCluster(batch.dask)) as cluster:
                failures = run_on_cluster(mine, cluster, quiet)
        else:
            failures = gather(run_jobs(mine[rank::world], engine, quiet, rank), world)
        if options.messages.verbose:
            for sentence in told_of_compiling(engine):
                tell(f"note: {sentence}")
    finally:
        if rank == 0:
            write_summaries(jobs)
    if rank == 0:
        if not quiet:
            files = "summary.csv, report.html" if output.report else "summary.csv"
            for name, target in targets.items():
                whole, own = (sum(job.target == target for job in some) for some in (jobs, mine))
                count = f"{own} of {whole}" if parts > 1 else str(whole)
                print(f"{target}: {count} stack{'s' * (whole != 1)} of {name}, {files}")
        for failure in failures:
            print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0
