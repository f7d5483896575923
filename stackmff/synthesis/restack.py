"""The stacks of a data set, changed: fewer frames, another order, or the faults of a camera.

Scores on changed stacks beside those on the ones they come from say how robust a method is.
"""

import argparse
import hashlib
import os
from pathlib import Path

import numpy as np

from metadata import Metadata
from pictures import ANSWER_FOLDER, CHANNEL_NAMES, read_stack, stack_root
from utils import StackError, number

READ_NOISE = 3.0  # electrons, where --noise says none


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


def camera_options(args):
    """The options of the camera that are given, as arguments of `scenes.develop`, 0 included."""
    given = {
        "noise": args.noise,
        "jpeg": args.jpeg,
        "flicker": args.flicker,
        "shake": args.shake,
    }
    return {name: value for name, value in given.items() if value is not None}


def camera_faults(args):
    """The faults that the options ask for, as arguments of `scenes.develop`; {} for none."""
    return {name: value for name, value in camera_options(args).items() if value}


def _frames_to_keep(word):
    """K of --keep, None for all."""
    if word == "all":
        return None
    return 2 if word == "ends" else number(int, 2, 10**6)(word)


def is_inside(output, source):
    """Whether the folder `output`, or where its stacks or answers would lie, is in `source`."""
    parts = [Path(source), stack_root(Path(source)) or Path(source), Path(source) / ANSWER_FOLDER]
    sources = {part.resolve() for part in parts}
    places = [(Path(output) / name).resolve() for name in ("", "dof_stack", "AiF")]
    return any(sources & {place, *place.parents} for place in places)


def scene_rng(seed, name):
    """The NumPy generator of a scene, which does not depend on what other scenes there are."""
    digest = hashlib.sha256(os.fsencode(name)).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8])])


def spread(n_frames, keep):
    """Which frames to keep.

    Args:
        n_frames: N of the stack.
        keep: K from 2 to N, or None for all.
    Returns:
        (K,) int, ascending, from 0 to N - 1; the gaps differ by one at most.
    """
    return np.linspace(0, n_frames - 1, keep or n_frames).round().astype(int)


def redevelop(rng, frames, faults):
    """Give frames the faults of a camera, in linear light.

    Args:
        rng: NumPy generator.
        frames: (N, H, W, 3) uint8.
        faults: arguments of `scenes.develop`.
    Returns:
        (N, H, W, 3) uint8.
    """
    import torch

    from refocus import to_linear
    from scenes import develop

    changed = np.empty_like(frames)
    for k, frame in enumerate(frames):  # one by one: in linear light a stack is four times as large
        linear = to_linear(torch.from_numpy(frame).permute(2, 0, 1).float() / 255)  # (3, H, W)
        changed[k] = develop(rng, linear[None], **faults)[0]
    return changed


def changed_stack(paths, answer_path, args, rng):
    """Read a stack and its answer, and change the stack.

    Order and faults draw from generators of their own: the frames of a shuffled stack have the
    faults that they have in focus order.

    Args:
        paths: the frames' files in focus order; answer_path: the answer's.
        args: the parsed options; rng: NumPy generator.
    Returns:
        scene: frames (K, H, W, C) and answer (H, W, C), uint8 or uint16, None for depth and None
        for where the frames are sharp, settings with the files' names in their new order;
        profiles: of the frames and of the answer, Metadata with nothing but the ICC profile.
    Raises:
        StackError: a file cannot be read, the stack has fewer frames than are to be kept, the
            answer another size than they, or they are to have faults and are not 8 bit colour.
    """
    ordering, camera = rng.spawn(2)
    folder = paths[0].parent
    if args.keep and args.keep > len(paths):
        raise StackError(
            f"{folder} has only {len(paths)} of the frames that --keep {args.keep} asks for: keep "
            "fewer, or all"
        )
    kept = spread(len(paths), args.keep)
    stack, answer = read_stack([paths[k] for k in kept]), read_stack([answer_path])
    frames = stack.frames
    (height, width, channels), (rows, columns) = frames.shape[1:], answer.frames.shape[1:3]
    if (rows, columns) != (height, width):
        raise StackError(
            f"{answer_path} is {columns}x{rows}, its stack {folder} is {width}x{height}: they must "
            "have one size"
        )
    if faults := camera_faults(args):
        if frames.dtype != np.uint8 or channels != 3:
            raise StackError(
                f"{folder} is {8 * frames.itemsize} bit {CHANNEL_NAMES[channels]}, and only 8 bit "
                f"colour can be given {' and '.join(faults)}: convert it, or leave this away"
            )
        frames = redevelop(camera, frames, faults)
    if args.shuffle:
        order = ordering.permutation(len(kept))
        kept, frames = kept[order], frames[order]
    settings = {"taken": [paths[k].name for k in kept]}
    # The rest is about one photograph, and these are other pictures.
    profiles = [Metadata(profile=one.metadata.profile) for one in (stack, answer)]
    return (frames, answer.frames[0], None, None, settings), profiles
