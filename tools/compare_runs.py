"""One table over training runs: scores, speed, and the options in which they differ."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackmff.errors import StackError
from stackmff.evaluation.tables import Words, as_word, markdown_table, print_lines
from stackmff.files import natural_key, parse_json, write_csv, write_text
from stackmff.options import Options, add_options, option, parse
from stackmff.processes import run_main

# Options that name a run or its machine, and do not change what is trained.
NAMES = ("exp_name", "experiments", "config", "resume", "max_minutes", "num_workers", "cache_mib")
Run = dict[str, Any]  # a row, and the options of the run under "args"


@dataclass(frozen=True)
class CompareOptions(Options):
    """What tools.compare_runs is told."""

    experiments: Path = option(
        Path("experiments"), help="folder of all runs (default: %(default)s)", metavar="DIR"
    )
    runs: tuple[str, ...] = option(
        (), help="names of those to compare (default: all)", metavar="NAME", nargs="*"
    )
    csv: Path | None = option(None, help="also write the table there (default: no)", metavar="FILE")
    markdown: Path | None = option(
        None, help="also write it there as Markdown (default: no)", metavar="FILE"
    )


def get_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare_runs",
        description="One table over training runs: scores, speed, and where their options differ.",
    )
    add_options(parser, CompareOptions)
    return parser


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log.jsonl; those that were cut short, or tell no step, are left out."""
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(dict(parse_json(line)))
        except (ValueError, TypeError):
            continue
    return [line for line in lines if "step" in line]


def read_run(folder: Path) -> Run:
    """What is known of a run.

    Raises:
        StackError: the folder holds no run, or its options are damaged.
    """
    try:
        args = dict(parse_json((folder / "args.json").read_text(encoding="utf-8"))["args"])
        lines = read_log(folder / "log.jsonl")
    except OSError as error:
        raise StackError(
            f"{folder} holds no run that has begun: it lacks {Path(error.filename or '').name}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StackError(f"{folder / 'args.json'} is damaged") from error
    scored = [line for line in lines if "PSNR" in line.get("validation", {})]
    trained = [line["train"] for line in lines if "train" in line]
    best = max(scored, key=lambda line: line["validation"]["PSNR"], default=None)
    return {
        "run": folder.name,
        "steps": max((line["step"] for line in lines), default=0),
        "best PSNR": best and best["validation"]["PSNR"],
        "at step": best and best["step"],
        "last PSNR": scored[-1]["validation"]["PSNR"] if scored else None,
        "last SSIM": scored[-1]["validation"].get("SSIM") if scored else None,
        "loss": trained[-1].get("loss") if trained else None,
        "samples/s": trained[-1].get("samples_per_second") if trained else None,
        "args": args,
    }


FORMS = {"best PSNR": ".2f", "last PSNR": ".2f", "last SSIM": ".4f", "loss": ".4g"}
FORMS |= {"samples/s": ".3g"}


def differing(runs: Sequence[Run]) -> list[str]:
    """The names of the options in which runs differ, in the order in which they are stored."""
    names = dict.fromkeys(name for run in runs for name in run["args"])
    return [
        name
        for name in names
        if name not in NAMES and any(r["args"].get(name) != runs[0]["args"].get(name) for r in runs)
    ]


def table_of(runs: Sequence[Run]) -> Words:
    """The table, the best first; a dash where there is no number."""
    options = differing(runs)
    columns = [name for name in runs[0] if name != "args"]
    ranked = sorted(runs, key=lambda run: -(run["best PSNR"] or -float("inf")))
    rows = [[*columns, *options]]
    for run in ranked:
        cells = [
            as_word(run[name], FORMS[name]) if name in FORMS else word_of(run[name])
            for name in columns
        ]
        rows.append([*cells, *(word_of(run["args"].get(name)) for name in options)])
    return rows


def word_of(value: Any) -> str:
    """A value in a cell, as one would type that of an option; a dash for None."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "-" if value is None else str(value)


def find_runs(experiments: Path, names: Sequence[str]) -> list[Path]:
    """The folders of the runs of these names, of all without names.

    Raises:
        StackError: there is none.
    """
    if names:
        return [experiments / name for name in names]
    found = sorted(experiments.glob("*/args.json"), key=natural_key)
    if not found:
        raise StackError(f"{experiments} holds no runs: give --experiments DIR")
    return [path.parent for path in found]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table and write it."""
    (options,) = parse(get_parser(), argv, CompareOptions)
    folders = find_runs(options.experiments, options.runs)
    rows = table_of([read_run(folder) for folder in folders])
    print_lines(rows, left=1)
    if options.csv:
        write_csv(options.csv, rows)
    if options.markdown:
        write_text(options.markdown, markdown_table(rows))


if __name__ == "__main__":
    run_main(main)
