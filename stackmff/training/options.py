"""The options of a training run; `command_line` makes them from words, a preset, a stopped run."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stackmff.evaluation.metrics import SSIM_WINDOW
from stackmff.options import Options, defaults_of, names_of, option, values_of
from stackmff.processes import rank_and_world
from stackmff.shipped import weights_path
from stackmff.synthesis.options import (
    MAX_COC,
    NUM_FRAMES,
    DepthKind,
    DepthOptions,
    LensOptions,
    PhotoLimits,
    PhotoOptions,
    known_kind,
)
from stackmff.training.trackers import TRACKERS

Precision = Literal["auto", "fp32", "bf16", "fp16"]
FrameOrder = Literal["subset", "all", "shuffled"]  # see `augmentation.Augmentation`

LAST, PREVIOUS = "last.pth", "previous.pth"  # the state of a run, and the one before it

# Other defaults, by the name of --preset, besides the published loss weights.
PRESETS: dict[str, dict[str, Any]] = {
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
OF_PHOTOS = ("scenes_per_epoch", *names_of(PhotoLimits), *OF_DEPTH)


@dataclass(frozen=True)
class RunOptions(Options):
    """Where a run lives, how long it is, when it saves and what it reports."""

    title = "run"

    exp_name: str = option("experiment", help="name of the run's folder")
    experiments: Path = option(Path("experiments"), help="folder of all runs")
    config: Path | None = option(
        None,
        help="repeat a run with the options of this args.json; those given again replace them",
        metavar="FILE",
    )
    preset: str | None = option(
        None, help="use the defaults of another recipe", choices=tuple(PRESETS)
    )
    epochs: int = option(100, help="epochs of the whole run", low=1)
    seed: int = option(0, help="seed of all random numbers", low=0, high=2**32 - 1)
    device: str = option("auto", help="auto, cpu, mps, cuda or cuda:K")
    precision: Precision = option(
        "auto",
        help="arithmetic of the network; auto chooses bf16 on CUDA, and on a CPU if it is faster "
        "there; fp16, with a scaled loss, is for GPUs without bf16",
    )
    deterministic: bool = option(
        False,
        help="run the same operations in the same order each time, so two runs on one GPU agree; "
        "slower there. torch warns of operations for which it cannot",
    )
    max_minutes: float | None = option(
        None,
        help="save and stop after this many minutes (default: no limit); --resume continues",
        above=0,
    )
    resume: Literal["last", "auto"] | None = option(
        None,
        help="continue from last.pth with the run's own options; those given again replace them. "
        "auto: start a new run if there is none yet. Processes that torchrun restarts resume "
        "without it",
        const="last",
    )
    save_steps: int = option(
        1000,
        help="write last.pth every so many steps as well as after each epoch, since a process that "
        "is killed saves nothing; 0: only after epochs",
        low=0,
    )
    save_every: int = option(
        0,
        help="also keep epoch_<number>.pth every so many epochs; 0: none",
        low=0,
        aliases=("model_save_fre",),
    )
    log_every: int = option(50, help="steps between lines of the log", low=1)
    validate_every: int = option(1, help="epochs between validations", low=1)
    tracker: str | None = option(
        None,
        help="also show the run there, if its package is installed (default: TensorBoard alone)",
        choices=tuple(TRACKERS),
    )
    dry_run: bool = option(
        False,
        help="in under a minute: read as much of the data as there is time for, take a step, "
        "validate on a few stacks, write and read the checkpoints; leave nothing behind",
    )
    profile: int | None = option(
        None,
        help="take this many steps, print where their time goes and the samples per second; leave "
        "nothing behind",
        low=1,
        metavar="STEPS",
    )

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.experiments / self.exp_name

    def contradiction(self) -> str | None:
        """See `Options.contradiction`."""
        if Path(self.exp_name).name in ("", ".."):
            return f"--exp_name {self.exp_name!r} is not a folder name: give the run a name"
        if self.dry_run and self.profile:
            return "--dry_run checks a run, --profile times its steps: give one of them"
        return None


@dataclass(frozen=True)
class NetworkOptions(Options):
    """The network and its first weights."""

    title = "network"

    network: str = option("StackMix", help="which network is trained")
    network_options: tuple[str, ...] = option(
        (),
        help="options of the network's configuration, values in JSON",
        metavar="NAME=VALUE",
        nargs="*",
    )
    init: Path | None = option(
        None,
        help="start with the weights of this checkpoint",
        metavar="FILE",
        convert=weights_path,
    )


@dataclass(frozen=True)
class DataOptions(Options):
    """What a run trains and validates on."""

    title = "data"

    datapath: tuple[Path, ...] | None = option(
        None,
        help="folders with dof_stack/<scene>/ and AiF/<scene>.*, or with the tar files that "
        "`python -m tools.make_shards` makes of such; this or --photos is required unless "
        "--resume is given",
        metavar="DIR",
    )
    photos: tuple[Path, ...] | None = option(
        None,
        help="folders of photographs that are sharp everywhere: train on random scenes of them, "
        "made during training, so that none is seen twice; or, with --depth_path, on the "
        "photographs as a lens sees them. The samples are those of make_dataset.py with this "
        f"--seed. Needs --val_datapath; excludes --{', --'.join(OF_STORED_STACKS)}",
        metavar="DIR",
    )
    depth: DepthOptions = field(default_factory=DepthOptions)
    lens: LensOptions = field(default_factory=LensOptions)
    photo_size: int | None = option(
        None,
        help="longer side that photographs with depth are resized to before they are blurred and "
        "cropped, as with make_dataset.py --size (default: unchanged)",
        low=16,
        high=16384,
        metavar="PX",
    )
    scenes_per_epoch: int = option(1000, help="random scenes of --photos in an epoch", low=1)
    val_datapath: tuple[Path, ...] | None = option(
        None,
        help="validate on these sets and train on all of --datapath (default: on a share of "
        "--datapath; required with --photos)",
        metavar="DIR",
    )
    val_fraction: float = option(0.05, help="share of the scenes that validate", above=0, below=1)
    split: Literal["random", "name"] = option(
        "random", help="validate on scenes chosen by the seed, or on the last ones by name"
    )
    val_size: tuple[int, int] = option(
        (512, 512),
        help="larger validation pictures are cropped to their centre, px",
        low=SSIM_WINDOW,
        nargs=2,
        metavar=("H", "W"),
    )
    repeat: int = option(1, help="samples of each scene in an epoch", low=1)
    own_shards: bool = option(
        False,
        help="each process trains on its own shards in its own order, so that a machine reads and "
        "keeps only its part of the data; without it all share one order, as with folders",
    )
    num_workers: int | None = option(
        None,
        help="processes that load data; 0 loads between the steps. They make the scenes of "
        "--photos on the CPU; with 0 the training device makes them if it is CUDA (default: the "
        "number of cores, at most 16, for --photos on a CPU and for --datapath on CUDA; else 0, "
        "which is enough once the pictures are in the cache)",
        low=0,
    )
    cache_mib: int | None = option(
        None,
        help="memory of each process for decoded pictures, MiB, taken as pictures arrive. With "
        "--photos half of it is for photographs (default: half of what is free at the start, "
        "divided among the processes of this machine)",
        low=0,
    )

    def contradiction(self) -> str | None:
        """See `Options.contradiction`."""
        if not self.datapath and not self.photos:
            return (
                "--datapath is required, the folder that make_dataset.py wrote, or --photos, a "
                "folder of photographs"
            )
        if self.datapath and self.photos:
            return (
                "--datapath trains on stacks, --photos on scenes made of photographs: give one of "
                "them"
            )
        if self.photos and not self.val_datapath:
            return (
                "--photos needs --val_datapath: stacks with answers to validate on, the same each "
                "time"
            )
        if self.photos and len(self.photos) > 1 and self.depth.depth_path:
            return "--depth_path goes with one folder of --photos: give one"
        return None

    def known_lens(self) -> tuple[DepthKind, int, float]:
        """(meaning of depth maps, frames, largest circle of confusion in px), as given or usual.

        Raises:
            StackError: the meaning is not known, or contradicts what lies beside the maps.
        """
        n_frames, max_coc = self.lens.num_frames or NUM_FRAMES, self.lens.max_coc or MAX_COC
        return known_kind(self.depth), n_frames, max_coc


@dataclass(frozen=True)
class SampleOptions(Options):
    """How training samples are cut out of their scenes and augmented; see `augmentation`."""

    title = "samples"

    image_size: tuple[int, int] = option(
        (128, 128),
        help="size of the training pictures, px",
        low=1,
        nargs=2,
        metavar=("H", "W"),
    )
    fit: Literal["crop", "resize"] = option(
        "crop", help="crop the training pictures at random, or resize whole pictures"
    )
    frames: FrameOrder = option(
        "subset",
        help="all frames, or 2 to all of them for three samples in ten, in either order; all in "
        "order; all shuffled",
    )
    flips: bool = option(True, help="flip and rotate the training pictures", negatable=True)
    gain: float = option(
        0.3, help="change the brightness of a sample by up to this share", low=0, below=1
    )
    negatives: float = option(
        0.2,
        help="share of samples turned into their negatives: blur spreads light, and a network that "
        "never sees negatives learns that the darker frame is the sharp one",
        low=0,
        high=1,
    )
    shading: float = option(
        0.1,
        help="share of samples whose frames are lit unevenly, each in its own way, as light far "
        "out of focus does: where frames differ only in brightness, none is sharper",
        low=0,
        high=1,
    )
    drift: float = option(
        0.1,
        help="share of samples whose frames are misaligned by up to a few px, with an answer that "
        "follows the sharp frame: a network that sees only aligned stacks blurs real ones",
        low=0,
        high=1,
    )
    recolour: float = option(
        0.3,
        help="share of samples with other colours and less contrast of luma, if the network sees "
        "colour: edges in colour alone are rare in photographs",
        low=0,
        high=1,
    )
    fringes: float = option(
        0.2,
        help="share of samples whose red and blue are focused at another distance than green, as "
        "by most lenses, if the network sees colour: fringes are no sign of sharpness",
        low=0,
        high=1,
    )
    noise: float = option(
        0.0,
        help="add Gaussian noise of up to this standard deviation to the frames, levels of 255",
        low=0,
    )

    def contradiction(self) -> str | None:
        """See `Options.contradiction`."""
        if self.fit == "resize" and self.flips and self.image_size[0] != self.image_size[1]:
            return "--fit resize with --flips rotates pictures: give a square --image_size"
        return None


@dataclass(frozen=True)
class OptimisationOptions(Options):
    """How the weights are found."""

    title = "optimisation"

    batch_size: int = option(8, help="scenes in a step of each process", low=1)
    global_batch: int | None = option(
        None,
        help="scenes in a step of all processes together, instead of --batch_size: the run is then "
        "the same, up to rounding, for any number of processes that divides it, and can be resumed "
        "with any",
        low=1,
        metavar="SCENES",
    )
    optimizer: Literal["adamw", "sgd"] = option("adamw", help="method")
    lr: float = option(2e-3, help="learning rate", above=0)
    gamma: float = option(
        1.0, help="factor of the learning rate from epoch to epoch", above=0, high=1
    )
    warmup_steps: int = option(
        200,
        help="steps in which the learning rate rises to its value, at most a tenth of the run",
        low=0,
    )
    decay_fraction: float = option(
        0.2, help="last share of --epochs, in which the learning rate falls to 0", low=0, high=1
    )
    weight_decay: float = option(1e-4, help="weight decay", low=0)
    clip: float = option(1.0, help="largest norm of the gradient; 0: no limit", low=0)
    ema: float = option(
        0.999,
        help="decay per step of the moving average of the weights; 0: use the last weights",
        low=0,
        below=1,
    )
    freeze_norm: bool = option(
        False,
        help="normalise by the statistics that the network has and keep them, as for small batches "
        "that continue from --init",
    )
    loss_weights: tuple[str, ...] | None = option(
        None, help="weights of the terms of the loss", metavar="W"
    )


@dataclass(frozen=True)
class TrainOptions(Options):
    """What train.py is told."""

    run: RunOptions
    model: NetworkOptions
    data: DataOptions
    samples: SampleOptions = SampleOptions()
    photos: PhotoOptions = field(default_factory=PhotoOptions)
    optimisation: OptimisationOptions = OptimisationOptions()

    def contradiction(self) -> str | None:
        """See `Options.contradiction`."""
        return next((sentence for sentence in self._contradictions() if sentence), None)

    def _contradictions(self) -> Iterator[str | None]:
        """Sentences on what contradicts what; None: nothing."""
        if not self.run.resume:  # a run that has begun keeps what it began with
            yield self._unfit()
        if self.data.depth.depth_path and self.samples.fit == "resize":
            yield "--fit resize is for --datapath: photographs with depth are cropped"
        yield self._wrong_batch()

    def _unfit(self) -> str | None:
        """A sentence on an option that does not go with the kind of data."""
        usual = usual_values(self.run.preset)
        values = values_of(self)

        def given(name: str) -> bool:
            return bool(values[name] != usual[name])

        if self.data.datapath and self.data.val_datapath:
            for name in ("val_fraction", "split"):
                if given(name):
                    return (
                        f"--{name} splits --datapath, and --val_datapath replaces the split: "
                        "remove one of them"
                    )
        unfit = {name: "--photos" for name in OF_PHOTOS}
        if self.data.photos:
            unfit = {name: "--datapath" for name in OF_STORED_STACKS}
            if self.data.depth.depth_path:
                del unfit["repeat"]
                unfit["scenes_per_epoch"] = "--photos without --depth_path"
            else:
                unfit |= {name: "--depth_path" for name in OF_DEPTH}
        for name, data in unfit.items():
            if given(name):
                return f"--{name} is for {data}: remove it"
        return None

    def _wrong_batch(self) -> str | None:
        """A sentence on --global_batch, if it cannot be shared out or is not the only size."""
        optimisation, world = self.optimisation, rank_and_world()[1]
        whole = optimisation.global_batch
        if not whole:
            return None
        if whole % world:
            return (
                f"--global_batch {whole} cannot be shared out evenly to {world} processes: give a "
                "multiple of that"
            )
        usual = usual_values(self.run.preset)["batch_size"]
        if optimisation.batch_size not in (usual, whole // world):
            return "--batch_size and --global_batch both say how large a batch is: give one"
        return None


def usual_values(preset: str | None) -> dict[str, Any]:
    """{name of an option: its default under a preset}, as plain values."""
    return defaults_of(TrainOptions) | (PRESETS[preset] if preset else {})
