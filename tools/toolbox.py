"""Fuse a focal stack with any method of the toolbox."""

import argparse
import sys
from pathlib import Path

from stackmff.errors import StackError
from stackmff.files import make_folder
from stackmff.fusion.methods import METHODS, build_method, parse_method
from stackmff.images.folders import clash, list_frames, stack_name
from stackmff.images.formats import PICTURE_SUFFIXES, loses, write_picture
from stackmff.images.stack import read_stack
from stackmff.processes import run_main
from stackmff.shipped import PLACE


def known_method(word):
    """An argparse type: the word itself, if it is one that `parse_method` takes."""
    try:
        parse_method(word)
    except StackError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return word


def get_parser():
    """The options of fusion/methods.py."""
    parser = argparse.ArgumentParser(
        description="Fuse a focal stack with any method of the toolbox.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="methods:\n" + "\n".join(described()),
    )
    parser.add_argument(
        "--method",
        type=known_method,
        default="StackMix",
        metavar="NAME[:OPTION=VALUE,...]",
        help="one of those below (default: %(default)s)",
    )
    parser.add_argument(
        "--iterative", action="store_true", help="fuse pair after pair (default: all at once)"
    )
    parser.add_argument(
        "--stack_path",
        required=True,
        metavar="PATH",
        help="folder of the frames, or the file that they are in",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="the fused picture (default: results/<folder>_<method>.png, -iterative after the "
        "method where that is asked for)",
    )
    return parser


def described():
    """A line for each method."""
    for name, method in METHODS.items():
        options = ",".join(f"{key}={value}" for key, value in method.options.items())
        options = options.replace(f"{PLACE}/", "")
        yield f"  {name:<9} {method.title} ({method.reference}, {method.year}) [{options}]"


def choose_output(parser, args, name):
    """The fused picture's file; exit status 2 where none can be, or where it would be a frame.

    Args:
        name: of the method.
    """
    output = Path(args.output or f"results/{stack_name(args.stack_path)}_{name}.png")
    if output.suffix.lower() not in PICTURE_SUFFIXES:
        parser.error(f"--output {output} needs a suffix of {' '.join(PICTURE_SUFFIXES)}")
    if sentence := clash(output, args.stack_path):
        parser.error(sentence)
    return output


def main(argv=None):
    """Fuse one stack."""
    parser = get_parser()
    args = parser.parse_args(argv)
    name, _ = parse_method(args.method)
    name += "-iterative" * args.iterative
    output = choose_output(parser, args, name)
    paths = list_frames(args.stack_path)
    fuse = build_method(args.method, args.iterative)
    make_folder(output.parent)
    stack = read_stack(paths)
    fused = fuse(stack.frames)
    write_picture(output, fused, stack.metadata)
    for note in filter(None, [*stack.notes, loses(output.suffix, fused)]):
        print(f"note: {note}", file=sys.stderr)
    print(f"{output}: {len(paths)} frames by {name}")


if __name__ == "__main__":
    run_main(main)
