"""Fuse one focal stack: a folder of pictures, focused at different distances, to one sharp."""

import argparse
import sys
from functools import partial
from pathlib import Path

from tqdm import tqdm

from fuse import (
    add_fuse_options,
    fuse_files,
    make_engine,
    make_folder,
    read_for,
    result_suffix,
    same_format,
)
from pictures import PICTURE_SUFFIXES, list_frames
from utils import run_main


def get_parser():
    parser = argparse.ArgumentParser(description=__doc__)
    group = parser.add_argument_group("stack")
    group.add_argument(
        "--stack_path",
        type=Path,
        required=True,
        help="folder of the frames, two or more pictures, in the natural order of their names",
    )
    group = parser.add_argument_group("results")
    group.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="fused picture (default: results/<folder name>.png)",
    )
    group.add_argument(
        "--focus_map",
        type=Path,
        metavar="FILE",
        help="also write which frame is in focus, 16-bit PNG, 0 the first and 65535 the last",
    )
    group.add_argument(
        "--confidence",
        type=Path,
        metavar="FILE",
        help="also write the largest weight of a frame, 8-bit PNG, 255 is sure",
    )
    add_fuse_options(parser)
    return parser


def check_suffixes(parser, args):
    """End with exit status 2 where a file to write has a suffix that is not its format's."""
    if args.output is not None and args.output.suffix.lower() not in PICTURE_SUFFIXES:
        parser.error(f"--output {args.output} needs a suffix of {' '.join(PICTURE_SUFFIXES)}")
    for option in ("focus_map", "confidence"):
        path = getattr(args, option)
        if path is not None and path.suffix.lower() != ".png":
            parser.error(f"--{option} {path} is written as PNG: give a name that ends in .png")


def choose_output(parser, args, paths):
    """The fused picture's file; exit status 2 where --output and --out_format contradict."""
    suffix = result_suffix(args.out_format, paths)
    if args.output is None:
        return Path("results") / f"{args.stack_path.resolve().name}{suffix}"
    if args.out_format is not None and not same_format(args.output.suffix, suffix):
        parser.error(
            f"--output {args.output} contradicts --out_format {args.out_format} ({suffix}): "
            "leave one of them out"
        )
    return args.output


def check_places(parser, files, stack_path):
    """End with exit status 2 where the files to write are one, or would be frames."""
    if len({path.resolve() for path in files}) < len(files):
        parser.error(f"{', '.join(map(str, files))}: the files to write need names of their own")
    for path in files:
        if path.resolve().parent == stack_path.resolve():
            parser.error(
                f"{path} is inside the stack's folder and would be a frame next time: "
                "choose another folder"
            )


def move(bar, done, total):
    """Set a tqdm bar to `done` of `total`."""
    bar.total = total
    bar.update(done - bar.n)


def main(argv=None):
    parser = get_parser()
    args = parser.parse_args(argv)
    check_suffixes(parser, args)
    paths = list_frames(args.stack_path)
    output = choose_output(parser, args, paths)
    files = [path for path in (output, args.focus_map, args.confidence) if path is not None]
    check_places(parser, files, args.stack_path)
    if args.verbose:
        print(*(path.name for path in paths), sep="\n")
    engine = make_engine(args)
    for path in files:
        make_folder(path.parent)
    with tqdm(desc="tiles", unit="", leave=False, disable=None) as bar:
        progress = partial(move, bar)
        read = partial(read_for, output, paths, args.low_memory)
        result = fuse_files(read, engine, output, args.focus_map, args.confidence, progress)
    if result["note"]:
        print(f"note: {result['note']}", file=sys.stderr)
    size = f"{result['width']}x{result['height']}"
    print(f"{output}: {size}, {result['frames']} frames, {result['seconds']:.1f} s")


if __name__ == "__main__":
    run_main(main)
