"""Command lines of the published StackMFF, in the words of this program.

What has one meaning here is translated; for the rest an error names what to use. The options are
those of the scripts of https://github.com/Xinzhe99/StackMFF; docs/coming_from_the_original.md lists
them.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from stackmff.errors import StackError

# Options whose path may hold a space, as "4D-Light-Field/image stack" does.
PATHS = ("--stack_path", "--stack_basedir_path", "--datapath")
CHECKPOINT = "checkpoint/checkpoint.pth"  # the authors' weights, in their documentation
OF_SYNTHESIS = (
    "--ori_dataset_path",
    "--depth_dataset_path",
    "--sys_path",
    "--sys_mask_path",
    "--num_regions",
)


def translated(
    argv: Sequence[str] | None, refused: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    """The words of a command line of the published scripts as this program's.

    Args:
        argv: words; None: those of this process.
        refused: {option of the published script that has no meaning here: what to do}.
    Returns:
        The same words where they are this program's own.
    Raises:
        StackError: an option has no single meaning here, or the authors' weights are not there.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    words = [part for word in words for part in _parted(word)]
    for word in words:
        if word in refused:
            raise StackError(f"{word} {refused[word]}")
        if word in OF_SYNTHESIS:
            raise StackError(
                f"{word} is an option of the published script: make the same data with "
                "--image_path DIR --depth_path DIR --depth_kind disparity --refocus published "
                "--output_dir DIR, and if you want them --num_frames and --save_masks"
            )
    if "--model_path" in words[:-1]:
        _check_weights(words[words.index("--model_path") + 1])
    return with_whole_paths(with_device(words))


def _parted(word: str) -> list[str]:
    """An option "--gpu_id=0" as two words; any other word as it is."""
    name, equals, value = word.partition("=")
    return [name, value] if equals and name in ("--gpu_id", "--model_path") else [word]


def _check_weights(path: str) -> None:
    """Raise StackError for the path of the authors' weights where they are not."""
    if path.endswith(CHECKPOINT) and not os.path.exists(path):
        raise StackError(
            f"{path} does not exist: put the authors' file there (weights/README.md says where to "
            "get it), give --model_path weights/checkpoint_published.pth, the same network trained "
            "here, or remove --model_path for the default network"
        )


def with_device(words: Sequence[str]) -> list[str]:
    """The words with `--device cuda:K` for `--gpu_id K`; StackError for several GPUs."""
    if "--gpu_id" not in words:
        return list(words)
    start = words.index("--gpu_id")
    end = start + 1
    while end < len(words) and words[end].isdecimal():
        end += 1
    numbers = words[start + 1 : end]
    if len(numbers) != 1:
        raise StackError(
            "--gpu_id takes one number here: for several GPUs start train.py by `torchrun "
            f"--nproc_per_node {max(len(numbers), 2)} train.py`, one process for each"
        )
    return [*words[:start], "--device", f"cuda:{numbers[0]}", *words[end:]]


def with_whole_paths(words: Sequence[str]) -> list[str]:
    """The words with a path in one word that stands in several, unquoted, if only that exists."""
    out = list(words)
    for place in range(len(out) - 2, -1, -1):
        if out[place] not in PATHS or os.path.exists(out[place + 1]):
            continue
        for end in range(place + 3, len(out) + 1):
            if out[end - 1].startswith("--"):
                break
            path = " ".join(out[place + 1 : end])
            if os.path.exists(path):
                out[place + 1 : end] = [path]
                break
    return out
