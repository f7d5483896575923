"""What make_dataset.py is told: its options, their defaults, and which of them contradict."""

import argparse
import os
from pathlib import Path

from stackmff.images.folders import is_inside
from stackmff.options import number
from stackmff.synthesis.depth_maps import SIDE_FILE, side_file
from stackmff.synthesis.photos import Limits
from stackmff.synthesis.restack import READ_NOISE

OF_PHOTOS = ("image_path", "depth_path", "depth_suffix", "depth_kind", "depth_range", "refocus")
OF_PHOTOS += ("num_frames", "max_coc", "num_scenes", "clean")
OF_LIMITS = ("min_side", "min_colour", "min_sharpness")
OF_STACKS = ("keep", "shuffle")
NUM_FRAMES, MAX_COC = 16, 16.0  # of a photograph with depth
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


def _frames_to_keep(word):
    """K of --keep, None for all."""
    if word == "all":
        return None
    return 2 if word == "ends" else number(int, 2, 10**6)(word)
