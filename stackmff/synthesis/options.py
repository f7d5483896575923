"""The options of what makes stacks: which photographs, which depth, which lens, which camera.

`DatasetOptions` is what make_dataset.py is told. train.py has the same options of photographs,
depth and lens: `PhotoOptions`, `DepthOptions` and `LensOptions`.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stackmff.errors import StackError
from stackmff.images.folders import is_inside
from stackmff.options import Options, number, option
from stackmff.synthesis.depth_maps import SIDE_FILE, side_file
from stackmff.synthesis.photos import Limits

NUM_FRAMES, MAX_COC = 16, 16.0  # of a photograph with depth
RANDOM_SCENES, RANDOM_SIZE, RANDOM_COC = 1000, 224, 30.0  # of random scenes
READ_NOISE = 3.0  # electrons, where --noise gives none
LEAST_FULL_WELL = 10  # electrons

DepthKind = Literal["distance", "disparity"]


def folder(word: str) -> Path:
    """A folder of the command line, so that DIR/ and DIR are one; it is written to records."""
    return Path(os.path.normpath(word))


@dataclass(frozen=True)
class PhotoLimits(Options):
    """What a photograph must have to be used; see `photos.what_is_unfit`."""

    min_side: int = option(
        128,
        help="a photograph whose shorter side is below this is too small",
        low=1,
        high=65536,
        metavar="PX",
    )
    min_colour: float = option(
        1.0,
        help="mean difference of R, G and B, in levels of 255, below which a photograph is grey; "
        "0 accepts grey ones",
        low=0,
        high=255,
        metavar="LEVELS",
    )
    min_sharpness: float = option(
        0.35,
        help="ratio of the finest detail to the next coarser, in the sharpest places, below which "
        "a photograph is blurred; sharp ones have 0.65 to 2.7, blurred by 2 px 0.22 to 0.48",
        low=0,
        high=10,
        metavar="RATIO",
    )


@dataclass(frozen=True)
class PhotoOptions(Options):
    """Which photographs are used, and what follows from one that is not."""

    title = "photographs (unfit ones are reported and left out)"

    limits: PhotoLimits = PhotoLimits()
    strict: bool = option(False, help="exit with status 1 if anything was left out")


@dataclass(frozen=True)
class DepthOptions(Options):
    """Where the depth of photographs is, and what it means."""

    depth_path: Path | None = option(
        None,
        help="depth maps named like the photographs: 8 or 16 bit PNG or TIFF, or .npy "
        "(default: none, random scenes)",
        metavar="DIR",
        convert=folder,
    )
    depth_suffix: str = option(
        "", help="what follows the photograph's name in the map's: art.png, art_disp.png"
    )
    depth_kind: DepthKind | None = option(
        None,
        help="what a larger value means: farther or nearer (default: as "
        f"{SIDE_FILE} beside the maps says)",
    )


@dataclass(frozen=True)
class LensOptions(Options):
    """How many frames a stack has, and how much blur; None: by what it is made of."""

    num_frames: int | None = option(
        None,
        help=f"frames of a stack (default: {NUM_FRAMES}; random scenes 2 to 40, by their blur)",
        low=2,
        high=256,
        metavar="N",
    )
    max_coc: float | None = option(
        None,
        help="diameter of the largest circle of confusion "
        f"(default: {MAX_COC:g}; random scenes up to {RANDOM_COC:g})",
        low=0.5,
        high=128,
        metavar="PX",
    )


@dataclass(frozen=True)
class RefocusOptions(Options):
    """How the frames of a photograph with depth are blurred."""

    title = "lens"

    refocus: Literal["thin_lens", "published"] = option("thin_lens", help="how blur is made")
    lens: LensOptions = LensOptions()
    depth_range: Literal["asis", "max"] | None = option(
        None,
        help="published: regions by the values as they are (default), or by floor(254 d / max d)",
    )


@dataclass(frozen=True)
class CameraOptions(Options):
    """The faults of a camera that frames are given; None: not said, 0: none."""

    title = "camera (without these and --clean, random scenes have faults at random)"

    noise: tuple[float, ...] | None = option(
        None,
        help="photon noise of a sensor that holds E electrons, 10 or more, 2500 is about ISO 800, "
        f"and READ electrons of read noise, {READ_NOISE:g} if not given (default: none)",
        low=0,
        high=1e6,
        metavar=("E", "READ"),
    )
    jpeg: int | None = option(
        None, help="JPEG quality of the frames (default: none)", low=1, high=100, metavar="Q"
    )
    flicker: float | None = option(
        None,
        help="standard deviation of the frames' exposure, as a share (default: none)",
        low=0,
        high=0.3,
        metavar="SIGMA",
    )
    shake: float | None = option(
        None,
        help="standard deviation of each frame's shift, down and to the right (default: none)",
        low=0,
        high=100,
        metavar="PX",
    )

    def contradiction(self) -> str | None:
        """See `Options.contradiction`."""
        if self.noise and (len(self.noise) > 2 or self.noise[0] < LEAST_FULL_WELL):
            return f"--noise: give E, at least {LEAST_FULL_WELL}, and at most READ after it"
        return None

    def given(self) -> dict[str, Any]:
        """The faults that were given, 0 included, as arguments of `camera.develop`."""
        noise = None if self.noise is None else (*self.noise, READ_NOISE)[:2]
        values = {
            "noise": noise,
            "jpeg": self.jpeg,
            "flicker": self.flicker,
            "shake": self.shake,
        }
        return {name: value for name, value in values.items() if value is not None}

    def faults(self) -> dict[str, Any]:
        """The faults that frames get, as arguments of `camera.develop`; {} for none."""
        return {name: value for name, value in self.given().items() if value}


def _frames_to_keep(word: str) -> int | None:
    """K of --keep, None for all."""
    if word == "all":
        return None
    return 2 if word == "ends" else number(int, 2, 10**6)(word)


@dataclass(frozen=True)
class FrameOptions(Options):
    """Which frames of a stack are taken, and in which order."""

    keep: int | None = option(
        None,
        help="frames to keep: all, the first and the last, or K evenly spread from the first to "
        "the last (default: all)",
        low=2,
        high=10**6,
        metavar="all|ends|K",
        convert=_frames_to_keep,
    )
    shuffle: bool = option(False, help="put the frames of each stack in random order")


@dataclass(frozen=True)
class StackOptions(Options):
    """The stacks that are changed, and how."""

    title = "stacks from stacks"

    stack_path: Path | None = option(
        None,
        help="a data set: take its stacks, changed as --keep, --shuffle and the camera's options "
        "say, and its answers as they are (default: none, make new stacks)",
        metavar="DIR",
        convert=folder,
    )
    frames: FrameOptions = FrameOptions()


@dataclass(frozen=True)
class SceneOptions(Options):
    """The scenes that are made."""

    title = "scenes"

    num_scenes: int | None = option(
        None, help=f"random scenes (default: {RANDOM_SCENES})", low=1, high=10**7
    )
    size: int | None = option(
        None,
        help=f"side of random scenes (default: {RANDOM_SIZE}), or longer side of photographs "
        "(default: unchanged)",
        low=16,
        high=16384,
        metavar="PX",
    )
    clean: bool = option(
        False, help="random scenes without the noise, JPEG and flicker that half of them have"
    )


@dataclass(frozen=True)
class FileOptions(Options):
    """What a data set is made of, and where it goes."""

    title = "files"

    image_path: Path | None = option(
        None, help="all-in-focus photographs", metavar="DIR", convert=folder
    )
    depth: DepthOptions = DepthOptions()
    output_dir: Path | None = option(
        None, help="the data set", metavar="DIR", aliases=("output_path",)
    )
    save_masks: bool = option(False, help="also write masks/<scene>/: where each frame is sharp")
    demo: bool = option(
        False, help="12 frames of scikit-image's Middlebury motorcycle, blur up to 16 px"
    )
    benchmark: Path | None = option(
        None,
        help="instead of --output_dir: a fixed test set of scikit-image's pictures, as data sets "
        "below this folder: aligned, noisy, few (3 frames), pairs and dense (30 frames)",
        metavar="DIR",
        convert=folder,
    )


@dataclass(frozen=True)
class MakingOptions(Options):
    """How the work is done."""

    title = "run"

    seed: int = option(0, help="of all that is random", low=0, high=2**32 - 1)
    workers: int = option(
        os.cpu_count() or 1, help="processes (default: one per core)", low=1, high=1024
    )


@dataclass(frozen=True)
class DatasetOptions(Options):
    """What make_dataset.py is told."""

    files: FileOptions = FileOptions()
    stacks: StackOptions = StackOptions()
    refocus: RefocusOptions = RefocusOptions()
    scenes: SceneOptions = SceneOptions()
    camera: CameraOptions = CameraOptions()
    photos: PhotoOptions = PhotoOptions()
    run: MakingOptions = MakingOptions()


def known_kind(depth: DepthOptions) -> DepthKind:
    """What a larger value of the depth maps means: as --depth_kind or the side file says.

    Raises:
        StackError: neither says it, or they contradict each other; or there is no --depth_path.
    """
    if depth.depth_path is None:
        raise StackError("--depth_path is needed: the folder of the depth maps")
    kind = (side_file(depth.depth_path) or {}).get("kind")
    if kind and depth.depth_kind not in (None, kind):
        raise StackError(
            f"--depth_kind {depth.depth_kind} contradicts {SIDE_FILE} in {depth.depth_path}, which "
            f"says {kind}: remove --depth_kind, or correct that file"
        )
    kind = depth.depth_kind or kind
    if not kind:
        raise StackError(
            "--depth_kind distance or disparity is needed: does a larger value mean farther "
            f"or nearer? (no {SIDE_FILE} in {depth.depth_path})"
        )
    return "disparity" if kind == "disparity" else "distance"


OF_PHOTOS = ("image_path", "depth_path", "depth_suffix", "depth_kind", "depth_range", "refocus")
OF_PHOTOS += ("num_frames", "max_coc", "num_scenes", "clean")
OF_LIMITS = ("min_side", "min_colour", "min_sharpness")
OF_STACKS = ("keep", "shuffle")
KINDS = ("dof_stack", "AiF", "depth", "masks")  # the folders of a data set


def get_parser():
    """The options of make_dataset.py."""
    parser = argparse.ArgumentParser(
        description="Make focal stacks with all-in-focus answers. With --depth_path every "
        "photograph gives a stack; without it, random scenes are composed of all of them. With "
        "--stack_path the stacks of another data set are changed.",
    )
    files = parser.add_argument_group("files")
    folder = {"metavar": "DIR", "type": os.path.normpath}  # DIR/ is the folder that DIR was
    files.add_argument("--image_path", **folder, help="all-in-focus photographs")
    add_depth_options(files)
    files.add_argument("--output_path", metavar="DIR", help="the data set")
    files.add_argument("--save_masks", action="store_true", help="also masks/<scene>/: where focus")
    files.add_argument(
        "--demo",
        action="store_true",
        help="12 frames of scikit-image's Middlebury motorcycle, blur up to 16 px",
    )
    files.add_argument(
        "--benchmark",
        **folder,
        help="instead of --output_path: a fixed test set of scikit-image's pictures, as data sets "
        "below this folder: aligned, noisy, few (3 frames), pairs and dense (30 frames)",
    )
    add_stack_options(parser)
    lens = parser.add_argument_group("lens")
    lens.add_argument(
        "--refocus",
        choices=("thin_lens", "published"),
        default="thin_lens",
        help="how blur is made (default: %(default)s)",
    )
    add_lens_options(lens)
    lens.add_argument(
        "--depth_range",
        choices=("asis", "max"),
        help="published: regions by the values as they are (default), or by floor(254 d / max d)",
    )
    scene = parser.add_argument_group("scenes")
    scene.add_argument(
        "--num_scenes", type=number(int, 1, 10**7), help="random scenes (default: 1000)"
    )
    scene.add_argument(
        "--size",
        type=number(int, 16, 16384),
        metavar="PX",
        help="side of random scenes (default: 224), or longer side of photographs (default: as is)",
    )
    scene.add_argument(
        "--clean",
        action="store_true",
        help="random scenes without the noise, JPEG and flicker that half of them have",
    )
    add_camera_options(parser)
    add_strict_option(add_photo_options(parser))
    run = parser.add_argument_group("run")
    run.add_argument("--seed", type=number(int, 0, 2**32 - 1), default=0, help="(default: 0)")
    run.add_argument(
        "--workers",
        type=number(int, 1, 1024),
        default=os.cpu_count(),
        help="processes (default: one a core)",
    )
    return parser


def add_depth_options(group):
    """Where the depth of photographs is, and what it means."""
    group.add_argument(
        "--depth_path",
        metavar="DIR",
        type=os.path.normpath,
        help="depth maps named like the photographs: 8 or 16 bit PNG or TIFF, or .npy "
        "(default: none, random scenes)",
    )
    group.add_argument("--depth_suffix", default="", help="follows the name: art.png, art_disp.png")
    group.add_argument(
        "--depth_kind",
        choices=("distance", "disparity"),
        help=f"what a larger value means: farther or nearer (default: as {SIDE_FILE} beside says)",
    )


def add_lens_options(group):
    """How many frames a photograph with depth gives, and how much blur."""
    group.add_argument(
        "--num_frames",
        type=number(int, 2, 256),
        metavar="N",
        help=f"frames of a stack (default: {NUM_FRAMES}; random scenes 2 to 40, by their blur)",
    )
    group.add_argument(
        "--max_coc",
        type=number(float, 0.5, 128),
        metavar="PX",
        help="diameter of the largest circle of confusion "
        f"(default: {MAX_COC:g}; random scenes up to 30)",
    )


def check_arguments(parser, args):
    """Refuse contradictions, and fill in the defaults that depend on other options."""
    if args.benchmark:
        from stackmff.synthesis.benchmark_set import LONGER_SIDE

        unfit = [name for name in vars(args) if name not in ("benchmark", "workers")]
        refuse(parser, args, unfit, "--benchmark is a fixed set")
        args.num_frames, args.max_coc, args.depth_kind = 12, 16.0, "disparity"
        args.size = LONGER_SIDE
        return
    if not args.output_path:
        parser.error("--output_path is needed: the folder that the data set is to be in")
    if args.demo:
        unfit = (*OF_PHOTOS, *OF_LIMITS, "stack_path", *OF_STACKS)
        refuse(parser, args, unfit, "--demo brings its own picture and lens")
        args.num_frames, args.max_coc, args.depth_kind = 12, 16.0, "disparity"
        return
    if args.stack_path:
        unfit = (*OF_PHOTOS, *OF_LIMITS, "size", "save_masks")
        refuse(parser, args, unfit, "--stack_path brings its own pictures and blur")
        if not Path(args.stack_path).is_dir():
            parser.error(f"--stack_path {args.stack_path} is no folder: give that of a data set")
        if is_inside(args.output_path, args.stack_path):
            parser.error("--output_path lies in --stack_path, whose stacks stay as they are")
        return
    refuse(parser, args, OF_STACKS, "only stacks of --stack_path are chosen from and shuffled")
    if not args.image_path or not Path(args.image_path).is_dir():
        parser.error(f"--image_path {args.image_path}: give a folder of photographs")
    for name in ("image_path", "depth_path"):
        if is_output(getattr(args, name), args.output_path):
            parser.error(f"--output_path would write into --{name}, which stays as it is")
    random = not args.depth_path
    if random and args.refocus == "published":
        parser.error("--refocus published needs --depth_path")
    if random and (args.depth_suffix or args.depth_kind or args.depth_range):
        parser.error("--depth_suffix, --depth_kind and --depth_range need --depth_path")
    if not random and (args.num_scenes or args.clean):
        parser.error("--num_scenes and --clean are for random scenes: leave --depth_path away")
    if args.depth_path and not Path(args.depth_path).is_dir():
        parser.error(f"--depth_path {args.depth_path} is no folder")
    if args.refocus == "published" and (args.max_coc or args.size or args.depth_kind):
        parser.error(
            "--refocus published has its own blur and size: leave --max_coc, --size and "
            "--depth_kind away"
        )
    if args.refocus != "published" and args.depth_range:
        parser.error("--depth_range is for --refocus published")
    if not random:
        check_meaning(parser, args, args.refocus == "published")
    args.num_scenes = (args.num_scenes or 1000) if random else None
    args.num_frames = args.num_frames or (None if random else NUM_FRAMES)
    args.max_coc = args.max_coc or (30.0 if random else MAX_COC)
    args.size = args.size or (224 if random else None)


def check_meaning(parser, args, by_regions=False):
    """Take from the side file of the depth maps what is not said, refuse what contradicts it."""
    side = side_file(args.depth_path) or {}
    kind = side.get("kind")
    if by_regions:
        # Metres in 16 bits fill a few levels of 8 only, as they are.
        if "metres_per_level" in side and not args.depth_range:
            args.depth_range = "max"
        return
    if kind and args.depth_kind not in (None, kind):
        parser.error(
            f"--depth_kind {args.depth_kind} contradicts {SIDE_FILE} in {args.depth_path}, which "
            f"says {kind}: leave --depth_kind away, or mend that file"
        )
    args.depth_kind = args.depth_kind or kind
    if not args.depth_kind:
        parser.error(
            "--depth_kind distance or disparity is needed: does a larger value mean farther "
            f"or nearer? (no {SIDE_FILE} in {args.depth_path})"
        )


def is_output(source, output):
    """Whether a folder of pictures to read is one that a data set at `output` writes into."""
    if not source:
        return False
    source = Path(source).resolve()
    places = [(Path(output) / kind).resolve() for kind in KINDS]
    return any(place in (source, *source.parents) for place in places)


def refuse(parser, args, names, why):
    """End with a sentence if one of the options `names` is given."""
    for name in names:
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"{why}: leave --{name} away")


def add_photo_options(parser):
    """The options of `Limits`; returns their group."""
    group = parser.add_argument_group("photographs", "what is unfit is told and left out")
    default = Limits()
    group.add_argument(
        "--min_side",
        type=number(int, 1, 65536),
        metavar="PX",
        help=f"a shorter side below this is too small (default: {default.min_side})",
    )
    group.add_argument(
        "--min_colour",
        type=number(float, 0, 255),
        metavar="LEVELS",
        help="mean difference of R, G and B below which a photograph is grey; 0 takes grey ones "
        f"(default: {default.min_colour:g})",
    )
    group.add_argument(
        "--min_sharpness",
        type=number(float, 0, 10),
        metavar="RATIO",
        help="finest detail beside the next coarser, in the sharpest places, below which a "
        "photograph is blurred; sharp ones have 0.65 to 2.7, blurred by 2 px 0.22 to 0.48 "
        f"(default: {default.min_sharpness:g})",
    )
    return group


def add_strict_option(group):
    """--strict, of the programs that report what they left out."""
    group.add_argument(
        "--strict", action="store_true", help="exit status 1 where anything was left out"
    )


def add_stack_options(parser):
    """The options that choose and order the frames of given stacks."""
    group = parser.add_argument_group("stacks from stacks")
    group.add_argument(
        "--stack_path",
        metavar="DIR",
        type=os.path.normpath,
        help="a data set: take its stacks, changed as --keep, --shuffle and the camera's options "
        "say, and its answers as they are (default: none, make new stacks)",
    )
    group.add_argument(
        "--keep",
        type=_frames_to_keep,
        metavar="all|ends|K",
        help="frames to keep: all, the first and the last, or K evenly spread from the first to "
        "the last (default: all)",
    )
    group.add_argument(
        "--shuffle",
        action="store_true",
        default=None,  # as where the record of a data set made before this option lacks it
        help="put the frames of each stack in random order (default: off)",
    )


def add_camera_options(parser):
    """The options that give the frames of any stack the faults of a camera."""
    group = parser.add_argument_group(
        "camera", "without these and --clean, random scenes have faults at random"
    )
    group.add_argument(
        "--noise",
        nargs="+",
        action=_Noise,
        type=number(float, 0, 1e6),
        metavar=("E", "READ"),
        help="photon noise of a sensor that holds E electrons, 10 or more, 2500 about ISO 800, "
        f"and READ electrons of read noise, {READ_NOISE:g} if not given (default: none)",
    )
    group.add_argument(
        "--jpeg",
        type=number(int, 1, 100),
        metavar="Q",
        help="JPEG quality of the frames (default: none)",
    )
    group.add_argument(
        "--flicker",
        type=number(float, 0, 0.3),
        metavar="SIGMA",
        help="standard deviation of the frames' exposure, as a share (default: none)",
    )
    group.add_argument(
        "--shake",
        type=number(float, 0, 100),
        metavar="PX",
        help="standard deviation of each frame's shift, down and to the right (default: none)",
    )


class _Noise(argparse.Action):
    """Keeps [full well, read noise]."""

    def __call__(self, parser, namespace, values, option_string=None):
        if len(values) > 2 or values[0] < 10:
            raise argparse.ArgumentError(self, "give E, at least 10, and at most READ after it")
        setattr(namespace, self.dest, [*values, READ_NOISE][:2])
