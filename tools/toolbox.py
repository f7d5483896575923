"""Fuse a focal stack with any method of the toolbox."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stackmff.errors import StackError
from stackmff.files import make_folder
from stackmff.fusion.methods import METHODS, build_method, parse_method
from stackmff.images.folders import clash, list_frames, stack_name
from stackmff.images.formats import PICTURE_SUFFIXES, loses, write_picture
from stackmff.images.stack import read_stack
from stackmff.options import Options, add_options, option, parse
from stackmff.processes import run_main
from stackmff.shipped import PLACE


def known_method(word: str) -> str:
    """An argparse type: a word that `parse_method` accepts, unchanged."""
    try:
        parse_method(word)
    except StackError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return word


@dataclass(frozen=True)
class ToolboxOptions(Options):
    """Which stack is fused, with what, and where the picture goes."""

    stack_path: Path = option(
        help="folder of the frames, or the file that they are in", metavar="PATH"
    )
    method: str = option(
        "StackMix",
        help="one of those below (default: %(default)s)",
        convert=known_method,
        metavar="NAME[:OPTION=VALUE,...]",
    )
    iterative: bool = option(False, help="fuse pair after pair (default: all frames at once)")
    output: Path | None = option(
        None,
        help="the fused picture (default: results/<folder>_<method>.png, with -iterative after the "
        "method's name where that is given)",
        metavar="FILE",
    )

    def contradiction(self) -> str | None:
        """A result that cannot be written, or that would become a frame."""
        output = self.result
        if output.suffix.lower() not in PICTURE_SUFFIXES:
            return f"--output {output} needs a suffix of {' '.join(PICTURE_SUFFIXES)}"
        return clash(output, self.stack_path)

    @property
    def name(self) -> str:
        """What the method is called, in words for the user."""
        return parse_method(self.method)[0] + "-iterative" * self.iterative

    @property
    def result(self) -> Path:
        """The fused picture's file."""
        default = Path("results") / f"{stack_name(self.stack_path)}_{self.name}.png"
        return self.output or default


def get_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        description="Fuse a focal stack with any method of the toolbox.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="methods:\n" + "\n".join(described()),
    )
    add_options(parser, ToolboxOptions)
    return parser


def described() -> Iterator[str]:
    """A line for each method."""
    for name, method in METHODS.items():
        options = ",".join(f"{key}={value}" for key, value in method.options.items())
        options = options.replace(f"{PLACE}/", "")
        yield f"  {name:<9} {method.title} ({method.reference}, {method.year}) [{options}]"


def main(argv: Sequence[str] | None = None) -> None:
    """Fuse one stack."""
    (options,) = parse(get_parser(), argv, ToolboxOptions)
    paths = list_frames(options.stack_path)
    fuse = build_method(options.method, options.iterative)
    make_folder(options.result.parent)
    stack = read_stack(paths)
    fused = fuse(stack.frames)
    write_picture(options.result, fused, stack.metadata)
    for note in filter(None, [*stack.notes, loses(options.result.suffix, fused)]):
        print(f"note: {note}", file=sys.stderr)
    print(f"{options.result}: {len(paths)} frames by {options.name}")


if __name__ == "__main__":
    run_main(main)
