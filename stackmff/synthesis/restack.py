"""The stacks of a data set, changed: fewer frames, another order, or the faults of a camera.

Scores on changed stacks beside those on the ones they come from say how robust a method is.
"""

import hashlib
import os

import numpy as np

from stackmff.errors import StackError
from stackmff.images.metadata import Metadata
from stackmff.images.stack import CHANNEL_NAMES, read_stack
from stackmff.synthesis.camera import redevelop

READ_NOISE = 3.0  # electrons, where --noise says none


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
