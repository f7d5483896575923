"""The command that aligns one stack: tools/align.py, and `stackmff align` where it is installed."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from stackmff.alignment.align import align_by_options, find_reference, told
from stackmff.alignment.focus_order import put_in_order
from stackmff.alignment.geometry import Alignment, covered, ends
from stackmff.alignment.measure import apply
from stackmff.alignment.options import AlignmentFiles, AlignOptions, unmeasured
from stackmff.images.folders import list_frames
from stackmff.images.formats import suffix_like, write_picture
from stackmff.images.frame_store import Storage, release
from stackmff.images.levels import told_levels
from stackmff.images.rectangles import Box
from stackmff.images.stack import Stack, read_stack
from stackmff.options import Options, add_options, option, parse
from stackmff.progress import stage

ALPHA_SUFFIXES = (".png", ".tif", ".tiff", ".webp")  # of formats that keep alpha


@dataclass(frozen=True)
class AlignFiles(Options):
    """The files that are read and written."""

    title = "files"

    stack_path: Path = option(
        help="folder of the frames, two or more pictures, in the natural order of their names",
        metavar="DIR",
        positional=True,
    )
    output_dir: Path = option(
        help="folder for the aligned frames, which keep their names", metavar="DIR"
    )
    fill: Literal["alpha", "edge"] = option(
        "alpha",
        help="where moved frames end: alpha: they are transparent, in TIFF, PNG and WebP; edge: "
        "their edge is repeated, as it is in other formats (default: %(default)s)",
    )
    alignment: AlignmentFiles = AlignmentFiles()

    def contradiction(self) -> str | None:
        """The frames would be overwritten."""
        if self.output_dir.resolve() == self.stack_path.resolve():
            return "--output_dir is --stack_path, so the frames would be overwritten: use another"
        return None


@dataclass(frozen=True)
class AlignCommand(Options):
    """All options of the command."""

    files: AlignFiles
    alignment: AlignOptions = AlignOptions()

    def contradiction(self) -> str | None:
        """How to measure is said, and nothing is measured."""
        return (
            unmeasured(self.alignment, "--use_alignment")
            if self.files.alignment.use_alignment
            else None
        )


def get_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Align the frames of a stack to one of them, in geometry and exposure, and "
        "write them.",
    )
    add_options(parser, AlignCommand)
    return parser


def _write_frames(folder: Path, stack: Stack, alignment: Alignment, fill: str) -> None:
    """Write the frames that are kept, each with its own metadata.

    All have alpha if any of them ends within the reference and `fill` is "alpha", so that they
    remain frames of one kind.
    """
    kept = alignment.kept
    transparent = fill == "alpha" and any(ends(alignment, k).any() for k in kept)
    for k, source in enumerate(stack.paths):
        path = folder / f"{source.stem}{suffix_like(source)}"
        if k in kept:
            frame = stack.frames[k]
            if transparent and path.suffix in ALPHA_SUFFIXES:
                frame = _with_alpha(frame, alignment, k)
            for note in write_picture(path, frame, stack.frame_metadata[k]):
                print(f"note: {path.name}: {note}")
            release(stack.frames)
        else:  # that of an earlier run is aligned to another reference
            path.unlink(missing_ok=True)


def _with_alpha(frame: np.ndarray, alignment: Alignment, k: int) -> np.ndarray:
    """A resampled frame (H, W, C) with alpha, which is 0 where frame k does not reach."""
    height, width, channels = frame.shape
    white = np.iinfo(frame.dtype).max
    alpha = np.full((height, width), white, frame.dtype)
    if channels in (2, 4):
        alpha, frame = frame[..., -1].copy(), frame[..., :-1]
    if (mask := covered(alignment, k, Box.whole(frame.shape))) is not None:
        alpha[~mask] = 0
    return np.dstack([frame, alpha])


def _summary(folder: Path, alignment: Alignment, names: Sequence[str]) -> str:
    """What was done, in one line."""
    changed = int((alignment.gains != 1).any(1).sum())
    return (
        f"{folder}: {len(alignment.kept)} frames on {names[alignment.reference]}, "
        f"{sum(alignment.moved)} moved, exposure of {changed} changed"
    )


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Align a stack and write its frames."""
    (command,) = parse(get_parser(prog), argv, AlignCommand)
    files, options = command.files, command.alignment
    paths = list_frames(files.stack_path)
    reference = find_reference(options.reference, [path.name for path in paths])
    stack = read_stack(paths, reference, Storage(spill=files.output_dir))
    if options.order == "auto":
        put_in_order(stack)
    names = [path.name for path in stack.paths]
    for note in [*stack.notes, *told_levels(stack.frames)]:
        print(f"note: {note}")
    with stage("aligning", True) as progress:
        alignment = align_by_options(
            options,
            stack.frames,
            names,
            files.alignment.save_alignment,
            files.alignment.use_alignment,
            progress,
        )
    with stage("resampling", True) as progress:
        apply(stack.frames, alignment, progress)
    for sentence in told(alignment, names):
        print(f"left out: {sentence}")
    for note in alignment.notes:
        print(f"note: {note}")
    _write_frames(files.output_dir, stack, alignment, files.fill)
    print(_summary(files.output_dir, alignment, names))
