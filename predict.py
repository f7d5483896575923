"""Fuse one focal stack: a folder of pictures, focused at different distances, to one sharp."""

import argparse
import sys
from functools import partial
from pathlib import Path

from stackmff.alignment.options import add_alignment_files
from stackmff.display.previews import preview_files
from stackmff.files import make_folder
from stackmff.fusion.options import add_fuse_options, check_choices
from stackmff.fusion.pipeline import Files, fuse_files, make_engine, read_for
from stackmff.images.folders import clash, list_frames, stack_name
from stackmff.images.formats import PICTURE_SUFFIXES, result_suffix, same_format
from utils import run_main


def get_parser():
    """The options of predict.py."""
    parser = argparse.ArgumentParser(description=__doc__)
    group = parser.add_argument_group("stack")
    group.add_argument(
        "--stack_path",
        type=Path,
        required=True,
        help="folder of the frames, two or more pictures, in the natural order of their names; or "
        "a TIFF of several pages, or a video",
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
    group.add_argument(
        "--preview",
        action="store_true",
        help="also write, beside the fused picture, what there is to look at: the focus map in "
        "colours (<name>_focus.png), a relief (_relief.png), a film through the stack (_sweep.gif)",
    )
    group.add_argument(
        "--retouch",
        type=Path,
        metavar="FILE",
        help="take the strokes of this file, as the page of app.py saves it: at their places a "
        "frame is shown instead of the mixture",
    )
    add_alignment_files(group)
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
    if args.save_alignment is not None and args.save_alignment.suffix.lower() != ".json":
        parser.error(f"--save_alignment {args.save_alignment} is JSON: give a name in .json")


def choose_output(parser, args, paths):
    """The fused picture's file; exit status 2 where --output and --out_format contradict."""
    suffix = result_suffix(args.out_format, paths)
    if args.output is None:
        return Path("results") / f"{stack_name(args.stack_path)}{suffix}"
    if args.out_format is not None and not same_format(args.output.suffix, suffix):
        parser.error(
            f"--output {args.output} contradicts --out_format {args.out_format} ({suffix}): "
            "leave one of them out"
        )
    return args.output


def choose_files(args, output):
    """Files of what is wanted."""
    slabs = output.with_name(f"{output.stem}_slabs") if args.slab else None
    previews = output.parent if args.preview else None
    kept, known = args.save_alignment, args.use_alignment
    return Files(
        output,
        args.focus_map,
        args.confidence,
        slabs,
        previews,
        kept,
        known,
        retouch=args.retouch,
    )


def check_places(parser, files, stack_path):
    """End with exit status 2 where the files to write are one, or would be frames."""
    paths = [files.picture, files.focus_map, files.confidence, files.slabs, files.alignment]
    if files.previews is not None:
        paths += preview_files(files.previews, files.picture.stem)
    paths = [path for path in paths if path is not None]
    if len({path.resolve() for path in paths}) < len(paths):
        parser.error(f"{', '.join(map(str, paths))}: the files to write need names of their own")
    for path in paths:
        if sentence := clash(path, stack_path):
            parser.error(sentence)


def main(argv=None):
    """Fuse one stack."""
    parser = get_parser()
    args = parser.parse_args(argv)
    check_suffixes(parser, args)
    check_choices(parser, args)
    paths = list_frames(args.stack_path)
    files = choose_files(args, choose_output(parser, args, paths))
    check_places(parser, files, args.stack_path)
    if args.verbose:
        print(*(path.name for path in paths), sep="\n")
    engine = make_engine(args)
    for path in files.wanted():
        make_folder(path.parent)
    read = partial(read_for, files.picture, paths, args)
    result = fuse_files(read, engine, files, args, bars=not args.quiet)
    if args.quiet:
        return
    for note in result["notes"]:
        print(f"note: {note}", file=sys.stderr)
    size = f"{result['width']}x{result['height']}"
    print(f"{files.picture}: {size}, {result['frames']} frames, {result['seconds']:.1f} s")


if __name__ == "__main__":
    run_main(main, at_once=True)
