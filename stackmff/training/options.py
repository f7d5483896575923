"""The options of a training run: the parser, the presets, what a resumed run keeps."""

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackmff.errors import StackError
from stackmff.evaluation.metrics import SSIM_WINDOW
from stackmff.options import HelpFormatter, number
from stackmff.processes import rank_and_world
from stackmff.synthesis.options import (
    MAX_COC,
    NUM_FRAMES,
    add_depth_options,
    add_lens_options,
    add_photo_options,
    add_strict_option,
    check_meaning,
)
from stackmff.synthesis.photos import Limits
from stackmff.training.augmentation import FRAME_CHOICES

Weights = dict[str, float]  # of the terms of the loss, by their names


@dataclass(frozen=True)
class Tables:
    """What a run can be made of: the networks and the loss terms that there are.

    The files that define them lie outside the package; train.py hands them in.

    Attributes:
        networks: {name: "weights" or "luma", what the network outputs}.
        network_config: from the name of a network and NAME=JSON words to its configuration; raises
            ValueError for other words.
        load_checkpoint: reads a checkpoint file; raises StackError.
        loss_terms: names of the terms of the loss.
        default_weights, published_weights: {term: weight}.
        parse_loss_weights: from the words of --loss_weights to {term: weight}; raises ValueError.
    """

    networks: Mapping[str, str]
    network_config: Callable[[str, Sequence[str]], dict[str, Any]]
    load_checkpoint: Callable[[Path], dict[str, Any]]
    loss_terms: Sequence[str]
    default_weights: Weights
    published_weights: Weights
    parse_loss_weights: Callable[[Sequence[str]], Weights]


def words_of(weights: Weights) -> list[str]:
    """Weights of loss terms as --loss_weights takes them."""
    return [f"{name}={weight}" for name, weight in weights.items()]


PRESETS = {
    "published": {
        "network": "StackMFF",
        "image_size": [384, 384],
        "fit": "resize",
        "frames": "shuffled",
        "flips": False,
        "gain": 0.0,
        "negatives": 0.0,
        "shading": 0.0,
        "drift": 0.0,
        "recolour": 0.0,
        "fringes": 0.0,
        "split": "name",
        "val_fraction": 0.2,
        "epochs": 20,
        "batch_size": 16,
        "optimizer": "sgd",
        "lr": 5e-3,
        "weight_decay": 1e-4,
        "gamma": 0.9,
        "warmup_steps": 0,
        "decay_fraction": 0.0,
        "clip": 0.0,
        "ema": 0.0,
        "precision": "fp32",
    }
}

# Options that need --datapath, and that need --photos.
OF_STORED_STACKS = ("fit", "repeat", "val_fraction", "split", "own_shards")
OF_DEPTH = ("depth_path", "depth_suffix", "depth_kind", "num_frames", "max_coc", "photo_size")
OF_PHOTOS = ("scenes_per_epoch", *Limits._fields, *OF_DEPTH)

# What a resumed run must keep, or it would not be the run that stopped.
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

# What it meant that a run of an older version did not know an option, where not its default.
BEFORE = {"shading": 0.0, "drift": 0.0, "recolour": 0.0, "fringes": 0.0}

# What belongs to the machine and the time of a start, and not to the run.
OF_THE_START = ("resume", "max_minutes", "device", "num_workers", "cache_mib", "experiments")
OF_THE_START += ("dry_run", "profile", "strict")


def preset(name, tables):
    """{option: default} of a preset."""
    return PRESETS[name] | {"loss_weights": words_of(tables.published_weights)}


def get_parser(tables):
    """The options of train.py, where there are the networks and loss terms of the tables."""
    parser = argparse.ArgumentParser(
        description="Train a fusion network on stacks with all-in-focus answers.",
        formatter_class=HelpFormatter,
    )
    whole = number(int, low=1)

    group = parser.add_argument_group("run")
    group.add_argument("--exp_name", required=True, help="name of the run's folder")
    group.add_argument("--experiments", default="experiments", help="folder of all runs")
    group.add_argument("--preset", choices=list(PRESETS), help="a recipe: other defaults")
    group.add_argument("--epochs", type=whole, default=100, help="epochs of the whole run")
    group.add_argument("--seed", type=number(int, low=0, high=2**32 - 1), default=0, help="seed")
    group.add_argument("--device", default="auto", help="auto, cpu, mps, cuda or cuda:K")
    group.add_argument(
        "--precision",
        choices=["auto", "fp32", "bf16"],
        default="auto",
        help="arithmetic of the network; auto takes bf16 on CUDA, and on a CPU where it is faster",
    )
    group.add_argument(
        "--max_minutes",
        type=number(float, above=0),
        help="save and stop after this many minutes (none: no limit); --resume goes on",
    )
    group.add_argument(
        "--resume",
        nargs="?",
        const="last",
        choices=["last", "auto"],
        help="go on from last.pth with the run's own options; those given again replace them. "
        "auto: begin where there is none yet. Processes that torchrun starts again need not be "
        "told",
    )
    group.add_argument(
        "--save_steps",
        type=number(int, low=0),
        default=1000,
        help="write last.pth every so many steps as well as after each epoch, since a process that "
        "is killed saves nothing; 0 after epochs alone",
    )
    group.add_argument(
        "--save_every",
        type=number(int, low=0),
        default=0,
        help="also keep epoch_<number>.pth every so many epochs; 0 keeps none",
    )
    group.add_argument("--log_every", type=whole, default=50, help="steps between lines of the log")
    group.add_argument("--validate_every", type=whole, default=1, help="epochs between validations")
    group.add_argument(
        "--dry_run",
        action="store_true",
        help="read what data there is time for, take a step, validate on a few stacks, write and "
        "read the checkpoints, in under a minute; nothing is left behind",
    )
    group.add_argument(
        "--profile",
        type=whole,
        metavar="STEPS",
        help="take so many steps, print where their time goes and how many samples a second that "
        "is; nothing is left behind",
    )

    group = parser.add_argument_group("network")
    group.add_argument(
        "--network", choices=list(tables.networks), default="StackMix", help="network"
    )
    group.add_argument(
        "--network_options",
        nargs="*",
        default=[],
        metavar="NAME=VALUE",
        help="options of the network's configuration, values in JSON",
    )
    group.add_argument("--init", metavar="FILE", help="begin with the weights of a checkpoint")

    group = parser.add_argument_group("data")
    group.add_argument(
        "--datapath",
        nargs="+",
        metavar="DIR",
        help="folders with dof_stack/<scene>/ and AiF/<scene>.*, or with the tar files that "
        "tools/make_shards.py makes of such; this or --photos is required but with --resume",
    )
    group.add_argument(
        "--photos",
        nargs="+",
        metavar="DIR",
        help="folders of photographs that are sharp everywhere: train on random scenes of them, "
        "made as training goes on, so that none is seen twice, or with --depth_path on the "
        "photographs as a lens sees them; the samples are those of make_dataset.py with this "
        f"--seed; needs --val_datapath; --{', --'.join(OF_STORED_STACKS)} are not for it",
    )
    add_depth_options(group)
    add_lens_options(group)
    group.add_argument(
        "--photo_size",
        type=number(int, 16, 16384),
        metavar="PX",
        help="longer side that photographs with depth are brought to before they are blurred and "
        "cut, as make_dataset.py's --size (none: as they are)",
    )
    group.add_argument(
        "--scenes_per_epoch",
        type=whole,
        default=1000,
        help="random scenes of --photos in an epoch",
    )
    group.add_argument(
        "--val_datapath",
        nargs="+",
        metavar="DIR",
        help="validate on these sets and train on all of --datapath (none: on a share of that; "
        "required with --photos)",
    )
    group.add_argument(
        "--image_size",
        nargs=2,
        type=whole,
        default=[128, 128],
        metavar=("H", "W"),
        help="size of the training pictures, px",
    )
    group.add_argument(
        "--fit",
        choices=["crop", "resize"],
        default="crop",
        help="cut the training pictures out at random, or stretch whole pictures",
    )
    group.add_argument(
        "--frames",
        choices=FRAME_CHOICES,
        default="subset",
        help="all or, for three samples in ten, 2 to all of the frames, in either order; all in "
        "order; all shuffled",
    )
    group.add_argument(
        "--flips",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="mirror and turn the training pictures",
    )
    group.add_argument(
        "--gain",
        type=number(float, low=0, below=1),
        default=0.3,
        help="brightness of a sample changes by up to this factor from 1",
    )
    group.add_argument(
        "--negatives",
        type=number(float, low=0, high=1),
        default=0.2,
        help="share of the samples turned to their negative: blur spreads light, and a network "
        "that sees no other learns that the darker frame is the sharp one",
    )
    group.add_argument(
        "--shading",
        type=number(float, low=0, high=1),
        default=0.1,
        help="share of the samples whose frames are lit unevenly, each in its own way, as light "
        "far out of focus does: where frames differ in brightness alone, none is sharper",
    )
    group.add_argument(
        "--drift",
        type=number(float, low=0, high=1),
        default=0.1,
        help="share of the samples whose frames are out of place by up to a few px, with an answer "
        "that follows the sharp frame: a network that sees aligned stacks alone blurs real ones",
    )
    group.add_argument(
        "--recolour",
        type=number(float, low=0, high=1),
        default=0.3,
        help="share of the samples in other colours and with less contrast of luma, where the "
        "network sees colour: what differs in colour alone is rare in photographs",
    )
    group.add_argument(
        "--fringes",
        type=number(float, low=0, high=1),
        default=0.2,
        help="share of the samples whose red and blue are in focus elsewhere than green, where the "
        "network sees colour, as through most lenses: fringes are no sign of sharpness",
    )
    group.add_argument(
        "--noise",
        type=number(float, low=0),
        default=0.0,
        help="frames get Gaussian noise of up to this deviation, grey levels of 255",
    )
    group.add_argument("--repeat", type=whole, default=1, help="samples of each scene in an epoch")
    group.add_argument(
        "--own_shards",
        action="store_true",
        help="each process trains on shards of its own in an order of its own, so that a machine "
        "reads and keeps its part of the data alone; without, all share one order, as of folders",
    )
    group.add_argument(
        "--val_fraction",
        type=number(float, above=0, below=1),
        default=0.05,
        help="share of the scenes that validate",
    )
    group.add_argument(
        "--split",
        choices=["random", "name"],
        default="random",
        help="validate on scenes chosen by the seed, or on the last by name",
    )
    group.add_argument(
        "--val_size",
        nargs=2,
        type=number(int, low=SSIM_WINDOW),
        default=[512, 512],
        metavar=("H", "W"),
        help="larger validation pictures are cut to their centre, px",
    )
    group.add_argument(
        "--num_workers",
        type=number(int, low=0),
        help="processes that load; 0 loads between the steps. Scenes of --photos are made on the "
        "CPU in these processes; with 0 on the training device where that is CUDA (none: as many "
        "as cores, 16 at most, for --photos on a CPU and for --datapath on CUDA; else 0, which is "
        "enough once the pictures are in the cache)",
    )
    group.add_argument(
        "--cache_mib",
        type=number(int, low=0),
        help="memory of each process for decoded pictures, MiB; it is taken as pictures come in. "
        "With --photos half of it is for them (default: half of what is free at the start, shared "
        "out to the processes of this machine)",
    )

    add_strict_option(add_photo_options(parser))

    group = parser.add_argument_group("optimisation")
    group.add_argument(
        "--batch_size", type=whole, default=8, help="scenes in a step of each process"
    )
    group.add_argument(
        "--global_batch",
        type=whole,
        metavar="SCENES",
        help="scenes in a step of all processes together, in place of --batch_size: the run is "
        "then the same for, and goes on with, any number of processes that divides it",
    )
    group.add_argument("--optimizer", choices=["adamw", "sgd"], default="adamw", help="method")
    group.add_argument("--lr", type=number(float, above=0), default=2e-3, help="learning rate")
    group.add_argument(
        "--gamma",
        type=number(float, above=0, high=1),
        default=1.0,
        help="factor of the learning rate from epoch to epoch",
    )
    group.add_argument(
        "--warmup_steps",
        type=number(int, low=0),
        default=200,
        help="steps in which the learning rate rises to its value, a tenth of the run at most",
    )
    group.add_argument(
        "--decay_fraction",
        type=number(float, low=0, high=1),
        default=0.2,
        help="last share of --epochs in which the learning rate falls to 0",
    )
    group.add_argument(
        "--weight_decay", type=number(float, low=0), default=1e-4, help="weight decay"
    )
    group.add_argument(
        "--clip",
        type=number(float, low=0),
        default=1.0,
        help="largest norm of the gradient; 0 leaves it",
    )
    group.add_argument(
        "--ema",
        type=number(float, low=0, below=1),
        default=0.999,
        help="decay of the moving average of the weights, a step; 0 uses the last weights",
    )
    group.add_argument(
        "--freeze_norm",
        action="store_true",
        help="normalise by the statistics that the network has and leave them, as for small "
        "batches that go on from --init",
    )
    group.add_argument(
        "--loss_weights",
        nargs="+",
        default=words_of(tables.default_weights),
        metavar="W",
        help=f"four numbers ({' '.join(tables.published_weights)}), or name=weight pairs of "
        + ", ".join(tables.loss_terms),
    )
    return parser


def parse_args(parser, tables, argv=None):
    """The options of a run: the command line over the resumed run's or the preset's defaults.

    Args:
        parser: as from `get_parser`.
        tables: the Tables that it was made with.
        argv: words of the command line, or None for sys.argv's.
    Returns:
        (args, checkpoint): checkpoint is what last.pth holds, or None.
    Raises:
        StackError: there is nothing to resume, or the folder already holds a run.
    """
    args = parser.parse_args(argv)
    last = Path(args.experiments) / args.exp_name / "last.pth"
    checkpoint = None
    started_again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    goes_on = (args.resume == "auto" or started_again) and last.is_file()
    if goes_on or args.resume == "last":
        for name in () if goes_on else ("init", "preset"):
            if getattr(args, name):
                parser.error(f"--{name} begins a run, --resume goes on with one: give one of them")
        if not last.is_file():
            raise StackError(f"{last} is not there: start the run without --resume")
        checkpoint = tables.load_checkpoint(last)
        if "state" not in checkpoint:
            raise StackError(f"{last} holds no state of a run: use --init for its weights")
        kept = {k: v for k, v in checkpoint["args"].items() if k not in OF_THE_START}
        kept = BEFORE | kept
        if kept.get("global_batch"):
            del kept["batch_size"]  # which followed from it
        args = parser.parse_args(argv, argparse.Namespace(**kept))
        args.resume = "last"
        for name in FIXED:
            # A run of an older version had the default of what it did not know.
            if getattr(args, name) != kept.setdefault(name, parser.get_default(name)):
                parser.error(
                    f"--{name} is {kept[name]} in the run {args.exp_name} and cannot change when "
                    "it is resumed"
                )
    elif last.exists() and not (args.dry_run or args.profile):
        raise StackError(
            f"{last.parent} already holds a run: --resume goes on with it, another --exp_name "
            "starts one"
        )
    else:
        if args.preset:
            parser.set_defaults(**preset(args.preset, tables))
            args = parser.parse_args(argv)
        args.resume = None  # there is nothing to go on from
    check_args(parser, tables, args)
    if args.global_batch:
        args.batch_size = args.global_batch // rank_and_world()[1]
    return args, checkpoint


def check_args(parser, tables, args):
    """End by parser.error where options contradict each other."""
    if Path(args.exp_name).name in ("", ".."):
        parser.error(f"--exp_name {args.exp_name!r} is no name of a folder: give the run a name")
    check_data(parser, args)
    if args.global_batch and args.global_batch % rank_and_world()[1]:
        parser.error(
            f"--global_batch {args.global_batch} cannot be shared out evenly to "
            f"{rank_and_world()[1]} processes: give a multiple of that"
        )
    if args.global_batch and args.batch_size != parser.get_default("batch_size"):
        parser.error("--batch_size and --global_batch both say how large a batch is: give one")
    if args.dry_run and args.profile:
        parser.error("--dry_run checks a run, --profile times its steps: give one of them")
    try:
        weights = tables.parse_loss_weights(args.loss_weights)
    except ValueError as error:
        parser.error(f"--loss_weights: {error}")
    if weights.get("cross_entropy") and tables.networks[args.network] != "weights":
        parser.error(
            f"--loss_weights: cross_entropy needs weights of the frames, {args.network} gives luma"
        )
    if args.fit == "resize" and args.flips and args.image_size[0] != args.image_size[1]:
        parser.error("--fit resize with --flips turns pictures: give a square --image_size")
    try:
        config = tables.network_config(args.network, args.network_options)
    except ValueError as error:
        parser.error(f"--network_options: {error}")
    for name in () if config.get("chroma") else ("recolour", "fringes"):
        if getattr(args, name) not in (0, parser.get_default(name)):
            parser.error(f"--{name} changes colours, which this network does not see: leave it out")


def check_data(parser, args):
    """End by parser.error where it is not clear what to train on."""
    if not args.datapath and not args.photos:
        parser.error(
            "--datapath is required, the folder that make_dataset.py wrote, or --photos, a folder "
            "of photographs"
        )
    if args.datapath and args.photos:
        parser.error(
            "--datapath trains on stacks, --photos on scenes made of photographs: give one of them"
        )
    if args.photos and not args.val_datapath:
        parser.error(
            "--photos needs --val_datapath: stacks with answers to validate on, the same each time"
        )
    if args.photos and args.depth_path:
        check_depth(parser, args)
    if args.resume:  # these options cannot change, and those of a preset are no longer defaults
        return
    for name in ("val_fraction", "split") if args.datapath and args.val_datapath else ():
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"--{name} parts --datapath, --val_datapath is apart: leave one away")
    if not args.photos:
        unfit = {name: "--photos" for name in OF_PHOTOS}
    else:
        unfit = {name: "--datapath" for name in OF_STORED_STACKS}
        if args.depth_path:
            del unfit["repeat"]
            unfit["scenes_per_epoch"] = "--photos without --depth_path"
        else:
            unfit |= {name: "--depth_path" for name in OF_DEPTH}
    for name, data in unfit.items():
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"--{name} is for {data}: leave it away")
    for folder in args.photos or []:
        if not Path(folder).is_dir():
            parser.error(f"--photos {folder} is no folder: give one of photographs")
    for folder in args.val_datapath if args.photos and not args.depth_path else ():
        if seed_of_scenes(folder) == args.seed:
            parser.error(
                f"{folder} was made with --seed {args.seed} and validates the very scenes that "
                "train: give another --seed"
            )


def seed_of_scenes(datapath):
    """The seed of random scenes that make_dataset.py wrote there; None where it wrote others."""
    try:
        settings = json.loads((Path(datapath) / "dataset.json").read_text())["settings"]
        return settings["seed"] if settings["image_path"] and not settings["depth_path"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check_depth(parser, args):
    """Fill in what photographs with depth need, or end by parser.error."""
    if len(args.photos) > 1:
        parser.error("--depth_path goes with one folder of --photos: give one")
    if not Path(args.depth_path).is_dir():
        parser.error(f"--depth_path {args.depth_path} is no folder: give that of the depth maps")
    if args.fit == "resize":
        parser.error("--fit resize is for --datapath: photographs with depth are cut")
    check_meaning(parser, args)
    args.num_frames = args.num_frames or NUM_FRAMES
    args.max_coc = args.max_coc or MAX_COC
