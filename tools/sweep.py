"""Train once for each combination of some options, one run after the other, and compare the runs.

python -m tools.sweep --exp_name try --vary lr=1e-3,2e-3 seed=0,1 -- --datapath data/train

The runs are experiments/try_lr1e-3_seed0 and so on. Called again, the sweep continues where it was
stopped: runs are resumed, and finished ones are not trained again.
"""

import argparse
import itertools
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stackmff.errors import StackError
from stackmff.evaluation.tables import print_lines
from stackmff.options import Options, add_options, option, parse
from stackmff.processes import child_environment, run_main
from tools.compare_runs import read_run, table_of

TRAIN = Path(__file__).parents[1] / "train.py"
SET_HERE = ("--exp_name", "--experiments", "--resume", "--dry_run", "--profile")


@dataclass(frozen=True)
class SweepOptions(Options):
    """What tools.sweep is told before --; what follows it is told to train.py."""

    vary: tuple[str, ...] = option(
        help="options of train.py and their values; every combination is trained",
        metavar="OPTION=VALUE,VALUE",
    )
    exp_name: str = option("sweep", help="prefix of the names of the runs")
    experiments: Path = option(
        Path("experiments"), help="folder of all runs (default: %(default)s)", metavar="DIR"
    )

    def contradiction(self) -> str | None:
        """A word of --vary that has not the form, or an option that the sweep sets itself."""
        for word in self.vary:
            name, equals, values = word.partition("=")
            if not name or not equals or not all(values.split(",")):
                return f"--vary {word!r} has not the form OPTION=VALUE,VALUE"
            if f"--{name}" in SET_HERE:
                return f"--vary {word!r}: the sweep sets --{name} itself"
        names = [word.partition("=")[0] for word in self.vary]
        if len(set(names)) < len(names):
            return "--vary names an option twice: give all its values in one list"
        return None


class Trial(NamedTuple):
    """A run of a sweep: its name, and the words of the options that vary."""

    name: str
    words: list[str]


def get_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.sweep",
        description="Train once for each combination of some options, and compare the runs. "
        "What follows -- are options of train.py.",
    )
    add_options(parser, SweepOptions)
    return parser


def split_words(
    argv: Sequence[str] | None, set_here: Sequence[str], who: str
) -> tuple[list[str], list[str]]:
    """The words before -- and those after it, which the training is told.

    Args:
        argv: the words of the command line; None: those of this process.
        set_here: options that may not follow --.
        who: sets these itself, as "sweep".
    Raises:
        StackError: one of them follows --.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    own, rest = words[:end], words[end + 1 :]
    if wrong := next((word for word in rest if word.partition("=")[0] in set_here), None):
        raise StackError(f"{wrong} cannot follow --: the {who} sets it itself")
    return own, rest


def trials_of(options: SweepOptions) -> list[Trial]:
    """The runs, the last option varying fastest.

    Raises:
        StackError: two would have the same name.
    """
    lists = []
    for word in options.vary:
        name, _, values = word.partition("=")
        lists.append([(name, value) for value in values.split(",")])
    trials = []
    for chosen in itertools.product(*lists):
        parts = [re.sub(r"[^\w.+-]+", "-", name + value) for name, value in chosen]
        words = [word for name, value in chosen for word in (f"--{name}", *value.split())]
        trials.append(Trial("_".join([options.exp_name, *parts]), words))
    if len({trial.name for trial in trials}) < len(trials):
        raise StackError("two runs of the sweep would have the same name: give each value once")
    return trials


def run_trial(trial: Trial, options: SweepOptions, rest: Sequence[str]) -> int:
    """Train a run, or what is left of it; the exit status of train.py."""
    place = ["--experiments", str(options.experiments), "--exp_name", trial.name]
    command = [sys.executable, str(TRAIN), *rest, *trial.words, *place, "--resume", "auto"]
    return subprocess.run(command, env=child_environment(), check=False).returncode


def main(argv: Sequence[str] | None = None) -> int:
    """Train the runs and print their table. Returns the exit status, 1 if a run failed."""
    own, rest = split_words(argv, SET_HERE, "sweep")
    (options,) = parse(get_parser(), own, SweepOptions)
    failed = []
    trials = trials_of(options)
    for k, trial in enumerate(trials):
        print(f"run {k + 1} of {len(trials)}: {trial.name}", flush=True)
        status = run_trial(trial, options, rest)
        if status < 0 or status > 128:  # a signal: the user stops the sweep, not one run
            return status if status > 128 else 128 - status
        if status:
            failed.append(trial.name)
    folders = [options.experiments / trial.name for trial in trials if trial.name not in failed]
    if folders:
        print()
        print_lines(table_of([read_run(folder) for folder in folders]), left=1)
    for name in failed:
        print(f"failed: {name}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(main)
