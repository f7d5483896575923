"""From words to the options of a run: presets, what a resumed run keeps, what contradicts files."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackmff.errors import StackError
from stackmff.files import parse_json
from stackmff.options import (
    HelpFormatter,
    add_options,
    build,
    changed,
    check_names,
    given_values,
    plain,
)
from stackmff.processes import rank_and_world
from stackmff.training.options import LAST, PRESETS, PREVIOUS, TrainOptions, usual_values

Checkpoint = dict[str, Any]
Weights = Mapping[str, float]  # of the terms of the loss, by their names

# What a resumed run must keep to be the run that stopped.
FIXED = (
    "network",
    "network_options",
    "seed",
    "batch_size",
    "global_batch",
    "own_shards",
    "repeat",
    "scenes_per_epoch",
    "depth_kind",
    "num_frames",
    "max_coc",
    "photo_size",
    "image_size",
    "fit",
    "frames",
    "split",
    "val_fraction",
    "optimizer",
    "freeze_norm",
)

# What runs did before an option existed, where that is not its default.
BEFORE = {"shading": 0.0, "drift": 0.0, "recolour": 0.0, "fringes": 0.0}

# What belongs to the machine and to one start, not to the run.
OF_THE_START = (
    "resume",
    "max_minutes",
    "device",
    "num_workers",
    "cache_mib",
    "experiments",
    "dry_run",
    "profile",
    "strict",
)


@dataclass(frozen=True)
class Tables:
    """The networks and loss terms that a run can use.

    They are defined outside the package, so train.py hands them in.

    Attributes:
        networks: their names.
        output_of: from a name, or FILE.py:CLASS, to what the network outputs, "weights" or "luma";
            raises StackError for others.
        network_config: from the name of a network and NAME=JSON words to its configuration; raises
            ValueError for other words.
        load_checkpoint: reads a checkpoint file; raises StackError.
        loss_terms: names of the terms of the loss.
        default_weights, published_weights: {term: weight}.
        parse_loss_weights: from the words of --loss_weights to {term: weight}; raises ValueError.
    """

    networks: Sequence[str]
    output_of: Callable[[str], str]
    network_config: Callable[[str, Sequence[str]], dict[str, Any]]
    load_checkpoint: Callable[[Path], Checkpoint]
    loss_terms: Sequence[str]
    default_weights: Weights
    published_weights: Weights
    parse_loss_weights: Callable[[Sequence[str]], Mapping[str, float]]


def words_of(weights: Weights) -> list[str]:
    """Weights of loss terms as --loss_weights takes them."""
    return [f"{name}={weight}" for name, weight in weights.items()]


def make_parser(tables: Tables) -> argparse.ArgumentParser:
    """The options of train.py, with the networks and loss terms of the tables as choices."""
    parser = argparse.ArgumentParser(
        description="Train a fusion network on stacks with all-in-focus answers.",
        formatter_class=HelpFormatter,
    )
    weights = (
        f"four numbers ({' '.join(tables.published_weights)}), or name=weight pairs of "
        f"{', '.join(tables.loss_terms)} or FILE.py:FUNCTION (default: "
        f"{' '.join(words_of(tables.default_weights))})"
    )
    details: dict[str, dict[str, Any]] = {
        "network": {
            "help": f"which network is trained: {', '.join(tables.networks)}, or one of yours",
            "metavar": "NAME|FILE.py:CLASS",
        },
        "loss_weights": {"help": weights},
    }
    add_options(parser, TrainOptions, details=details)
    return parser


def parse_options(
    parser: argparse.ArgumentParser, tables: Tables, argv: Sequence[str] | None = None
) -> tuple[TrainOptions, Checkpoint | None]:
    """The options of a run: those given, over those of the resumed run or of the preset.

    Args:
        parser: as from `make_parser`.
        tables: the Tables that it was made with.
        argv: words of the command line; None: those of this process.
    Returns:
        (options, checkpoint): checkpoint is what last.pth holds, or None for a new run. The
        defaults that depend on other options are filled in.
    Raises:
        StackError: there is nothing to resume, or the folder already holds a run.
    """
    given = given_values(parser, argv, TrainOptions)
    usual = usual_values(None)
    config = read_config(given["config"]) if given.get("config") else {}
    name = config.get("exp_name", usual["exp_name"])
    given = {"exp_name": name, **given}
    last = Path(given.get("experiments", usual["experiments"])) / given["exp_name"] / LAST
    there = last.exists() or last.with_name(PREVIOUS).is_file()
    started_again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    goes_on = (given.get("resume") == "auto" or started_again) and there
    checkpoint = None
    if goes_on or given.get("resume") == "last":
        for option in () if goes_on else ("init", "preset", "config"):
            if given.get(option):
                parser.error(
                    f"--{option} starts a run, --resume continues one: give only one of them"
                )
        checkpoint = read_stopped_run(last, tables)
        values, wrong = resumed_values(checkpoint["args"], given)
        if wrong:
            parser.error(wrong)
    elif there and not (given.get("dry_run") or given.get("profile")):
        raise StackError(
            f"{last.parent} already holds a run: continue it with --resume, or start one with "
            "another --exp_name"
        )
    else:
        values = begun_values(given, tables, config)
    try:
        return completed(build(TrainOptions, values), tables), checkpoint
    except StackError as error:
        parser.error(str(error))


def read_stopped_run(last: Path, tables: Tables) -> Checkpoint:
    """What last.pth holds; if it is damaged or missing, what the checkpoint before it holds.

    Returns:
        The checkpoint; its "file" is the name of the file, its "note" a sentence or None.
    Raises:
        StackError: there is no such file, or a run cannot continue from it.
    """
    previous = last.with_name(PREVIOUS)
    if not last.is_file() and not previous.is_file():
        raise StackError(f"{last} does not exist: start the run without --resume")
    file, note = last, None
    try:
        checkpoint = tables.load_checkpoint(last)
    except StackError:
        if not previous.is_file():
            raise
        file, checkpoint = previous, tables.load_checkpoint(previous)
        note = f"{last} is damaged or missing: continuing from {previous.name}, which is older"
    if "state" not in checkpoint:
        raise StackError(f"{file} holds no state of a run: use --init for its weights")
    return {**checkpoint, "file": file.name, "note": note}


def read_config(path: Path) -> dict[str, Any]:
    """The options in an args.json, without those of the machine and the start.

    Raises:
        StackError: it cannot be read, or holds no options of train.py.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StackError(f"--config {path} cannot be read: {error}") from error
    args = content.get("args") if isinstance(content, dict) else None
    if not isinstance(args, dict):
        raise StackError(f'--config {path} has no "args": give the args.json of a run')
    try:
        check_names(TrainOptions, args)
    except StackError as error:
        raise StackError(f"--config {path}: {error}") from error
    values = {name: value for name, value in args.items() if value is not None}
    if values.get("global_batch"):
        values.pop("batch_size", None)  # which followed from it
    return {name: value for name, value in values.items() if name not in (*OF_THE_START, "config")}


def begun_values(
    given: Mapping[str, Any], tables: Tables, config: Mapping[str, Any]
) -> dict[str, Any]:
    """The values of a run that begins: those given, over those of --config, over its preset's."""
    name = given.get("preset") or config.get("preset")
    preset: dict[str, Any] = {}
    if name:
        preset = PRESETS[name] | {"loss_weights": words_of(tables.published_weights)}
    return {**preset, **config, **given, "resume": None}


def resumed_values(
    stored: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], str | None]:
    """The values of a run that continues: those given, over those that it was begun with.

    Args:
        stored: the options in its checkpoint, possibly of an older version of this program.
        given: what the command line names.
    Returns:
        (values, sentence): the sentence names an option that cannot change, or is None.
    """
    # None is the default of whatever can be None; older versions had it for more.
    kept = {name: value for name, value in (BEFORE | dict(stored)).items() if value is not None}
    kept = {name: value for name, value in kept.items() if name not in OF_THE_START}
    if kept.get("global_batch"):
        kept.pop("batch_size", None)  # which followed from it
    # A run of an older version had the default of what it did not know.
    before = usual_values(None) | kept
    for name in FIXED:
        if name in given and plain(given[name]) != plain(before[name]):
            return {}, (
                f"--{name} is {before[name]} in the run {given['exp_name']} and cannot change when "
                "the run is resumed"
            )
    return {**kept, **given, "resume": "last"}, None


def completed(options: TrainOptions, tables: Tables) -> TrainOptions:
    """The same options with the defaults that depend on other options filled in.

    Raises:
        StackError: they contradict the tables or what lies in the folders.
    """
    check_against(options, tables)
    check_folders(options)
    values: dict[str, Any] = {}
    if options.optimisation.loss_weights is None:
        values["loss_weights"] = words_of(tables.default_weights)
    if options.optimisation.global_batch:
        values["batch_size"] = options.optimisation.global_batch // rank_and_world()[1]
    if options.data.depth.depth_path:
        values |= dict(zip(("depth_kind", "num_frames", "max_coc"), options.data.known_lens()))
    return changed(options, **values)


def check_against(options: TrainOptions, tables: Tables) -> None:
    """Raise StackError where options do not fit the network or the terms of the loss."""
    name, words = options.model.network, options.optimisation.loss_weights
    output = tables.output_of(name)
    try:
        weights = tables.default_weights if words is None else tables.parse_loss_weights(words)
    except ValueError as error:
        raise StackError(f"--loss_weights: {error}") from error
    if weights.get("cross_entropy") and output != "weights":
        raise StackError(
            f"--loss_weights: cross_entropy needs weights of the frames, {name} outputs luma"
        )
    try:
        config = tables.network_config(name, options.model.network_options)
    except ValueError as error:
        raise StackError(f"--network_options: {error}") from error
    if config.get("chroma"):
        return
    usual, samples = usual_values(options.run.preset), options.samples
    for option, value in (("recolour", samples.recolour), ("fringes", samples.fringes)):
        if value not in (0, usual[option]):
            raise StackError(
                f"--{option} changes colours, which this network does not see: remove it"
            )


def check_folders(options: TrainOptions) -> None:
    """Raise StackError where folders of photographs are missing or validate what trains."""
    data = options.data
    if data.photos and data.depth.depth_path and not data.depth.depth_path.is_dir():
        raise StackError(
            f"--depth_path {data.depth.depth_path} is not a folder: give that of the depth maps"
        )
    if options.run.resume or not data.photos:
        return
    for folder in data.photos:
        if not folder.is_dir():
            raise StackError(f"--photos {folder} is not a folder: give one of photographs")
    for folder in () if data.depth.depth_path else data.val_datapath or ():
        if seed_of_scenes(folder) == options.run.seed:
            raise StackError(
                f"{folder} was made with --seed {options.run.seed} and validates on the scenes "
                "that train: give another --seed"
            )


def seed_of_scenes(datapath: Path) -> int | None:
    """The seed of random scenes that make_dataset.py wrote there; None if it wrote others."""
    try:
        settings = parse_json((datapath / "dataset.json").read_text())["settings"]
        made_here = settings["image_path"] and not settings["depth_path"]
        return int(settings["seed"]) if made_here else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
