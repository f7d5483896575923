"""Train one recipe with several seeds, score each run, and tell how far chance alone takes it.

python -m tools.seed_study --test data/held_out -- --datapath data/train --epochs 4

What follows -- are options of train.py, or of tools.train_pyramid with --program train_pyramid. The
runs are experiments/seeds_0 and so on. Called again, the study continues where it was stopped.
"""

import argparse
import itertools
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.stats import t as student

from stackmff.errors import StackError
from stackmff.evaluation.matching import find_scenes, match
from stackmff.evaluation.scoring import Scoring, Task, score_tasks
from stackmff.evaluation.tables import CONFIDENCE, Words, markdown_table, means, print_lines
from stackmff.files import make_folder, write_csv, write_text
from stackmff.options import Options, add_options, option, parse
from stackmff.processes import child_environment, run_main
from tools.sweep import split_words

ROOT = Path(__file__).parents[1]
SET_HERE = ("--exp_name", "--experiments", "--resume", "--seed", "--dry_run", "--profile")
FORMS = {"PSNR": ".2f", "SSIM": ".4f"}  # of the columns that are told
FEWEST = 2  # seeds that have a spread

Row = dict[str, float]  # {column: mean over the scenes of a set}


@dataclass(frozen=True)
class StudyOptions(Options):
    """What tools.seed_study is told before --; what follows it is told to the training."""

    test: tuple[Path, ...] = option(
        help="data sets to score each run on; not its training data", metavar="SET"
    )
    seeds: tuple[int, ...] = option((0, 1, 2), help="seeds; one run is trained with each", low=0)
    program: Literal["train", "train_pyramid"] = option(
        "train", help="the training program: train.py or tools.train_pyramid"
    )
    exp_name: str = option("seeds", help="prefix of the names of the runs")
    experiments: Path = option(
        Path("experiments"), help="folder of all runs (default: %(default)s)", metavar="DIR"
    )
    output_dir: Path | None = option(
        None,
        help="folder of the fused pictures and of the tables seeds.csv and seeds.md (default: "
        "results/NAME)",
        metavar="DIR",
    )

    def contradiction(self) -> str | None:
        """Too few seeds, or two sets of one name."""
        if len(set(self.seeds)) < max(FEWEST, len(self.seeds)):
            return f"--seeds needs at least {FEWEST} seeds, each of them once"
        names = [path.resolve().name for path in self.test]
        if len(set(names)) < len(names):
            return "--test names two data sets with the same name of folder: rename one"
        return None

    @property
    def results(self) -> Path:
        """The folder of what is written besides the runs."""
        return self.output_dir or Path("results") / self.exp_name

    def run(self, seed: int) -> Path:
        """The folder of the run of a seed."""
        return self.experiments / f"{self.exp_name}_{seed}"


def get_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.seed_study",
        description="Train one recipe with several seeds, score the runs on other data sets, and "
        "report the spread. What follows -- are options of the training program.",
    )
    add_options(parser, StudyOptions)
    return parser


def training_command(options: StudyOptions, seed: int, rest: Sequence[str]) -> list[str]:
    """The words that train the run of a seed, or what is left of it."""
    run = options.run(seed)
    words = [*rest, "--seed", str(seed), "--exp_name", run.name]
    words += ["--experiments", str(options.experiments)]
    if options.program == "train":
        return [str(ROOT / "train.py"), *words, "--resume", "auto"]
    resumed = ["--resume"] if (run / "last.pth").exists() else []
    return ["-m", "tools.train_pyramid", *words, *resumed]


def fusing_command(
    options: StudyOptions, seed: int, data: Path, output: Path, rest: Sequence[str]
) -> list[str]:
    """The words that fuse a data set with the network of a seed."""
    words = [str(ROOT / "predict_dataset.py"), "--stack_basedir_path", str(data)]
    words += ["--model_path", str(options.run(seed) / "best.pth"), "--output_dir", str(output)]
    return [*words, "--align", "off", *own_network(rest)]


def own_network(rest: Sequence[str]) -> list[str]:
    """The words that name the class of one's own, FILE.py:NAME, if the training was told one."""
    parts = [part for word in rest for part in word.split("=", 1)]  # also --network=FILE.py:NAME
    network = dict(itertools.pairwise(parts)).get("--network", "")
    return ["--network", network] if ":" in network else []


def call(words: Sequence[str]) -> None:
    """Run a command of this program.

    Raises:
        StackError: it failed.
        SystemExit: it was stopped by a signal, which stops the study.
    """
    command = [sys.executable, *words]
    status = subprocess.run(command, env=child_environment(), check=False).returncode
    if status < 0 or status > 128:
        sys.exit(status if status > 128 else 128 - status)
    if status:
        raise StackError(f"{' '.join(words)} failed, see above: mend that and run the study again")


def scores_of(data: Path, folders: Mapping[str, Path]) -> dict[str, Row]:
    """The mean scores of a data set.

    Args:
        data: the set.
        folders: {name: folder of its fused pictures}.
    Returns:
        {name: Row}.
    """
    scenes = find_scenes(data, data / "AiF")
    found = {name: match(folder, scenes, data) for name, folder in folders.items()}
    tasks = [
        Task(name, scene, files[scene], scenes[scene])
        for name, files in found.items()
        for scene in scenes
    ]
    tables = score_tasks(tasks, Scoring(), os.cpu_count() or 1)
    return {name: means(table) for name, table in tables.items()}


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """How far runs of one recipe lie apart.

    Args:
        values: (K,) a score of each of K >= 2 runs.
    Returns:
        (mean, deviation, bound): deviation with K - 1 in the denominator. Two further runs of the
        recipe differ by more than `bound` in 5 % of the cases, if scores are normal: t s sqrt(2),
        with Student's t of K - 1 degrees of freedom.
    """
    scores = np.asarray(values, np.float64)
    deviation = float(scores.std(ddof=1))
    reach = float(student.ppf((1 + CONFIDENCE) / 2, scores.size - 1))
    return float(scores.mean()), deviation, reach * deviation * 2**0.5


def table_of(seeds: Sequence[int], sets: Mapping[str, Sequence[Row]]) -> Words:
    """The table: a row for each seed, then mean, standard deviation and bound.

    Args:
        seeds: of the runs; sets: {name of a set: a Row for each seed}.
    """
    head: list[str] = ["seed"]
    columns: list[list[str]] = []
    for name, rows in sets.items():
        for column, form in FORMS.items():
            head.append(f"{name} {column}")
            values = [row[column] for row in rows]
            # What is told of the spread is a tenth of a score's last digit.
            fine = f".{int(form[1]) + 1}f"
            mean, deviation, bound = spread(values)
            words = [format(value, form) for value in (*values, mean)]
            columns.append([*words, format(deviation, fine), format(bound, fine)])
    told = [*map(str, seeds), "mean", "standard deviation", "two runs differ by chance up to"]
    return [head, *([name, *cells] for name, cells in zip(told, zip(*columns)))]


def main(argv: Sequence[str] | None = None) -> int:
    """Train, fuse, score and tell. Returns the exit status."""
    own, rest = split_words(argv, SET_HERE, "study")
    (options,) = parse(get_parser(), own, StudyOptions)
    for data in options.test:
        find_scenes(data, data / "AiF")  # what cannot be scored is told before hours of training
    for k, seed in enumerate(options.seeds):
        print(f"run {k + 1} of {len(options.seeds)}: seed {seed}", flush=True)
        call(training_command(options, seed, rest))
    sets = {}
    for data in options.test:
        name = data.resolve().name
        folders = {str(seed): options.results / str(seed) / name for seed in options.seeds}
        for seed in options.seeds:
            call(fusing_command(options, seed, data, folders[str(seed)], rest))
        scores = scores_of(data, folders)
        sets[name] = [scores[str(seed)] for seed in options.seeds]
    rows = table_of(options.seeds, sets)
    print()
    print_lines(rows, left=1)
    make_folder(options.results)
    write_csv(options.results / "seeds.csv", rows)
    write_text(options.results / "seeds.md", markdown_table(rows))
    return 0


if __name__ == "__main__":
    run_main(main)
