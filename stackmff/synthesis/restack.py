"""The stacks of a data set, changed: fewer frames, another order, or the faults of a camera.

Their scores, beside those of the stacks they come from, tell how robust a method is.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stackmff.errors import StackError
from stackmff.images.metadata import Metadata
from stackmff.images.stack import CHANNEL_NAMES, Stack, read_stack
from stackmff.images.stack_files import FramePath
from stackmff.synthesis.options import CameraOptions, FrameOptions
from stackmff.synthesis.stacks import MadeStack


def scene_rng(seed: int, name: str) -> np.random.Generator:
    """The NumPy generator of a scene, which does not depend on the other scenes of the set."""
    digest = hashlib.sha256(os.fsencode(name)).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8])])


def spread(n_frames: int, keep: int | None) -> np.ndarray:
    """Which frames to keep: evenly spread ones.

    Args:
        n_frames: N of the stack.
        keep: K from 2 to N, or None for all.
    Returns:
        (K,) int, ascending, from 0 to N - 1; the gaps differ by one at most.
    """
    return np.linspace(0, n_frames - 1, keep or n_frames).round().astype(int)


def changed_stack(
    paths: Sequence[FramePath],
    answer_path: Path,
    take: FrameOptions,
    camera: CameraOptions,
    rng: np.random.Generator,
) -> MadeStack:
    """Read a stack and its answer, and change the stack.

    Order and faults draw from generators of their own: the frames of a shuffled stack have the
    faults that they have in focus order.

    Args:
        paths: files of the frames in focus order.
        answer_path: file of the answer.
        take: which frames, in which order.
        camera: the faults that they get.
        rng: NumPy generator.
    Returns:
        The stack; its settings name the files in their new order, its profiles hold nothing but
        the ICC profile.
    Raises:
        StackError: a file cannot be read, the stack has fewer frames than are to be kept, its
            answer has another size, or it is to have faults and is not 8 bit colour.
    """
    order_rng, camera_rng = rng.spawn(2)
    folder = paths[0].parent
    if take.keep and take.keep > len(paths):
        raise StackError(
            f"{folder} has only {len(paths)} of the frames that --keep {take.keep} asks for: keep "
            "fewer, or all"
        )
    kept = spread(len(paths), take.keep)
    stack, answer = read_stack([paths[k] for k in kept]), read_stack([answer_path])
    check_sizes(stack, answer, folder, answer_path)
    frames = stack.frames
    if faults := camera.faults():
        frames = with_faults(frames, faults, camera_rng, folder)
    if take.shuffle:
        order = order_rng.permutation(len(kept))
        kept, frames = kept[order], frames[order]
    # Other metadata describe one photograph, and these are other pictures.
    profiles = (Metadata(profile=one.metadata.profile) for one in (stack, answer))
    settings = {"taken": [paths[k].name for k in kept]}
    return MadeStack(frames, answer.frames[0], None, None, settings, tuple(profiles))


def check_sizes(stack: Stack, answer: Stack, folder: Path, answer_path: Path) -> None:
    """Raise StackError where an answer, read as a stack of one frame, has another size."""
    (height, width), (rows, columns) = stack.frames.shape[1:3], answer.frames.shape[1:3]
    if (rows, columns) != (height, width):
        raise StackError(
            f"{answer_path} is {columns}x{rows}, its stack {folder} is {width}x{height}: they must "
            "have the same size"
        )


def with_faults(
    frames: np.ndarray, faults: dict[str, Any], rng: np.random.Generator, folder: Path
) -> np.ndarray:
    """Frames with the faults of a camera, see `camera.redevelop`; StackError if not 8 bit RGB."""
    from stackmff.synthesis.camera import redevelop

    channels = frames.shape[3]
    if frames.dtype != np.uint8 or channels != 3:
        raise StackError(
            f"{folder} is {8 * frames.itemsize} bit {CHANNEL_NAMES[channels]}, and only 8 bit "
            f"colour can be given {' and '.join(faults)}: convert it, or remove "
            + " and ".join(f"--{name}" for name in faults)
        )
    return redevelop(rng, frames, faults)
