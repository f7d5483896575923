"""Bring the frames of a stack onto one of them, in geometry and exposure, and write them."""

import argparse
from functools import partial
from pathlib import Path

from tqdm import tqdm

from stackmff.alignment.focus_order import put_in_order
from stackmff.alignment.measure import align_by_options, apply, find_reference, told
from stackmff.alignment.options import add_align_options, add_alignment_files, check_align_choices
from stackmff.images.folders import list_frames
from stackmff.images.formats import suffix_like, write_picture
from stackmff.images.frame_store import release
from stackmff.images.stack import read_stack
from stackmff.processes import run_main


def get_parser():
    """The options of tools/align.py."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--stack_path",
        type=Path,
        required=True,
        help="folder of the frames, two or more pictures, in the natural order of their names",
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        required=True,
        help="folder of the aligned frames, which have the names of the frames",
    )
    add_alignment_files(add_align_options(parser))
    return parser


def _move(bar, done, total):
    """Set a tqdm bar to `done` of `total`."""
    bar.total = total
    bar.update(done - bar.n)


def main(argv=None):
    """Align a stack and write its frames."""
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.output_dir.resolve() == args.stack_path.resolve():
        parser.error("--output_dir is --stack_path: the frames would be overwritten")
    check_align_choices(parser, args)
    paths = list_frames(args.stack_path)
    reference = find_reference(args.reference, [path.name for path in paths])
    stack = read_stack(paths, spill=args.output_dir, reference=reference)
    if args.order == "auto":
        put_in_order(stack)
    paths, names = stack.paths, [path.name for path in stack.paths]
    for note in stack.notes:
        print(f"note: {note}")
    with tqdm(desc="alignment", unit="", leave=False, disable=None) as bar:
        alignment = align_by_options(
            args, stack.frames, names, args.save_alignment, args.use_alignment, partial(_move, bar)
        )
    with tqdm(desc="frames", unit="", leave=False, disable=None) as bar:
        kept = apply(stack.frames, alignment, partial(_move, bar))
    for sentence in told(alignment, names):
        print(f"left out: {sentence}")
    for k, source in enumerate(paths):
        path = args.output_dir / f"{source.stem}{suffix_like(source)}"
        if k in kept:
            write_picture(path, stack.frames[k], stack.frame_metadata[k])
            release(stack.frames)
        else:  # one of an earlier run lies on another reference
            path.unlink(missing_ok=True)
    changed = int((alignment.gains != 1).any(1).sum())
    print(
        f"{args.output_dir}: {len(kept)} frames on {names[alignment.reference]}, "
        f"{sum(alignment.moved)} moved, exposure of {changed} changed"
    )


if __name__ == "__main__":
    run_main(main)
