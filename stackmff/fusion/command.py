"""The command that fuses one stack: predict.py, and `stackmff fuse` where it is installed."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stackmff.alignment.options import AlignmentFiles
from stackmff.display.previews import preview_files
from stackmff.errors import StackError
from stackmff.files import make_folder
from stackmff.fusion.engine_choice import told_of_compiling, told_of_export
from stackmff.fusion.engines import Engine
from stackmff.fusion.hyperstack import (
    check_hyperstack,
    fuse_hyperstack,
    hyperstack_at,
    hyperstack_suffix,
)
from stackmff.fusion.options import (
    FuseOptions,
    MessageOptions,
    check_alignment_files,
    check_maps,
)
from stackmff.fusion.outputs import Files, fuse_files
from stackmff.fusion.pipeline import expected_shape, make_engine, read_for
from stackmff.images.folders import clash, list_frames, passed_over, stack_name
from stackmff.images.formats import PICTURE_SUFFIXES, result_suffix, same_format
from stackmff.images.hyperstacks import Hyperstack
from stackmff.images.stack_files import FramePath
from stackmff.options import Options, add_options, option, parse
from stackmff.original import translated
from stackmff.records import Record

REFUSED = {"--predict_name": "names no file of predict.py: give --output FILE"}


@dataclass(frozen=True)
class StackOptions(Options):
    """Where the frames are."""

    title = "stack"

    stack_path: Path = option(
        help="folder of the frames: two or more pictures, in the natural order of their names; or "
        "a multi-page TIFF, or a video",
        metavar="PATH",
        positional=True,
    )


@dataclass(frozen=True)
class OutputOptions(Options):
    """Which files are made of a stack, and which are read beside its frames."""

    title = "results"

    output: Path | None = option(
        None, help="fused picture (default: results/<folder name>.png)", metavar="FILE"
    )
    focus_map: Path | None = option(
        None,
        help="also write the focus map: 16-bit PNG, 0 the first frame and 65535 the last",
        metavar="FILE",
    )
    confidence: Path | None = option(
        None,
        help="also write the largest weight of a frame: 8-bit PNG, 255 is certain",
        metavar="FILE",
    )
    preview: bool = option(
        False,
        help="also write, beside the fused picture, pictures to look at: the focus map in colours "
        "(<name>_focus.png), a 3D view (_relief.png), an animation of the stack (_sweep.gif)",
    )
    retouch: Path | None = option(
        None,
        help="apply the brush strokes of this file, saved from the page in the browser: each shows "
        "one frame, or another picture beside the file, instead of the mixture",
        metavar="FILE",
    )
    overwrite: bool = option(
        False,
        help="without --output, also replace the result of another folder of the same name",
    )
    alignment: AlignmentFiles = AlignmentFiles()

    def contradiction(self) -> str | None:
        """A file whose suffix is not that of its format."""
        if self.output is not None and self.output.suffix.lower() not in PICTURE_SUFFIXES:
            return f"--output {self.output} needs a suffix of {' '.join(PICTURE_SUFFIXES)}"
        for name, path in (("focus_map", self.focus_map), ("confidence", self.confidence)):
            if path is not None and path.suffix.lower() != ".png":
                return f"--{name} {path} is written as PNG: use a name that ends in .png"
        return None


@dataclass(frozen=True)
class FuseCommand(Options):
    """All options of the command."""

    stack: StackOptions
    output: OutputOptions = OutputOptions()
    fuse: FuseOptions = FuseOptions()
    messages: MessageOptions = MessageOptions()

    def contradiction(self) -> str | None:
        """What is asked of alignments and focus maps that are not there."""
        output = self.output
        shows_maps = output.focus_map is not None or output.preview
        return check_alignment_files(
            self.fuse, output.alignment.save_alignment, output.alignment.use_alignment
        ) or check_maps(self.fuse, shows_maps, output.preview)


def get_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Fuse one focal stack, pictures of one scene focused at different distances, "
        "into one all-in-focus picture.",
    )
    add_options(parser, FuseCommand)
    return parser


def choose_output(
    parser: argparse.ArgumentParser,
    stack_path: Path,
    output: Path | None,
    out_format: str | None,
    suffix: str,
) -> Path:
    """The file of the fused picture; exit status 2 if --output and --out_format contradict.

    Args:
        parser: that reports it.
        stack_path, output, out_format: as on the command line.
        suffix: of the picture, unless --output says another.
    """
    if output is None:
        return Path("results") / f"{stack_name(stack_path)}{suffix}"
    if out_format is not None and not same_format(output.suffix, suffix):
        parser.error(
            f"--output {output} contradicts --out_format {out_format} ({suffix}): remove one of "
            "them"
        )
    return output


def choose_files(output: Path, wanted: OutputOptions, slabs: bool) -> Files:
    """The Files of what is wanted.

    Args:
        output: fused picture.
        wanted: which others.
        slabs: whether slabs are wanted.
    """
    return Files(
        output,
        wanted.focus_map,
        wanted.confidence,
        output.with_name(f"{output.stem}_slabs") if slabs else None,
        output.parent if wanted.preview else None,
        wanted.alignment.save_alignment,
        wanted.alignment.use_alignment,
        retouch=wanted.retouch,
    )


def check_places(parser: argparse.ArgumentParser, files: Files, stack_path: Path) -> None:
    """Exit with status 2 if two files to write are one, or one would be a frame."""
    given = [files.picture, files.focus_map, files.confidence, files.slabs, files.alignment]
    if files.previews is not None:
        given += preview_files(files.previews, files.picture.stem)
    paths = [path for path in given if path is not None]
    if len({path.resolve() for path in paths}) < len(paths):
        parser.error(f"{', '.join(map(str, paths))}: each file to write needs a name of its own")
    for path in paths:
        if sentence := clash(path, stack_path):
            parser.error(sentence)


def needing_weights(options: FuseOptions, confidence: object) -> Iterator[str]:
    """What is asked for, as on the command line, that a network without weights does not have."""
    if confidence:
        yield "--confidence"
    if options.choices.prefer:
        yield "--prefer"
    if options.reading.focus_from is not None:
        yield "--focus_from"


def own_files(wanted: OutputOptions, options: FuseOptions) -> str | None:
    """An option, as on the command line, that makes or reads a file of one stack; None: none."""
    alignment = wanted.alignment
    asked = {
        "--focus_map": wanted.focus_map,
        "--confidence": wanted.confidence,
        "--preview": wanted.preview,
        "--retouch": wanted.retouch,
        "--save_alignment": alignment.save_alignment,
        "--use_alignment": alignment.use_alignment,
        "--slab": options.choices.slab,
    }
    return next((name for name, value in asked.items() if value), None)


def as_hyperstack(command: FuseCommand) -> Hyperstack | None:
    """The hyperstack that is to be fused with its axes; None: the frames are one stack.

    Raises:
        StackError: an option is for one stack, and there are several; or for a hyperstack, and
            there is none.
    """
    source = hyperstack_at(command.stack.stack_path)
    asked = own_files(command.output, command.fuse)
    if source is None and command.fuse.reading.focus_from is not None:
        raise StackError(
            f"--focus_from is for a hyperstack, and {command.stack.stack_path} has no channels: "
            "remove it"
        )
    if source is None or asked is None:
        return source
    if source.kept:
        raise StackError(
            f"{asked} is for one stack, and {source.file} has {source.sizes}: remove {asked}"
        )
    return None


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Fuse one stack."""
    parser = get_parser(prog)
    (command,) = parse(parser, translated(argv, REFUSED), FuseCommand)
    stack_path, wanted, options = command.stack.stack_path, command.output, command.fuse
    messages = command.messages
    hyperstack = as_hyperstack(command)
    out_format = options.format.out_format
    paths: list[FramePath]
    if hyperstack is None:
        paths = list_frames(stack_path, options.reading.prefer_files)
        suffix = result_suffix(out_format, paths)
    else:
        paths = [*hyperstack.stack()]
        suffix = hyperstack_suffix(options)
    output = choose_output(parser, stack_path, wanted.output, out_format, suffix)
    files = choose_files(output, wanted, options.choices.slab is not None)
    check_places(parser, files, stack_path)
    if hyperstack is not None:
        check_hyperstack(hyperstack, output, options)
    # A name that the user gave is the user's own to replace.
    record = Record(output.parent, output.stem) if wanted.output is None else None
    if record is not None and not wanted.overwrite:
        record.check_source(stack_path, "--output")
    if messages.verbose:
        print(*(path.name for path in paths), sep="\n")
    engine = make_engine(options.engine, needing_weights(options, wanted.confidence))
    for path in files.wanted():
        make_folder(path.parent)
    if record is not None:
        record.remove()
    if hyperstack is not None:
        result = fuse_hyperstack(hyperstack, engine, output, options, shown=not messages.quiet)
    else:
        read = partial(read_for, files.picture, paths, options)
        shape = expected_shape(paths)
        result = fuse_files(read, engine, files, options, not messages.quiet, shape)
    if record is not None:
        record.write({}, result, [files.picture], stack_path)
    if not messages.quiet:
        stacks = 1 if hyperstack is None else hyperstack.times * hyperstack.channels
        _tell(command, engine, output, result, stacks)


def _tell(
    command: FuseCommand, engine: Engine, output: Path, result: dict[str, Any], stacks: int
) -> None:
    """Print the notes, and what was made.

    Args:
        command: its options.
        engine: that ran the network.
        output: fused picture.
        result: as of `fuse_files`.
        stacks: number of stacks that were fused, one for each time and channel of a hyperstack.
    """
    wanted, stack_path = command.fuse.engine, command.stack.stack_path
    notes = told_of_export(wanted.model_path, engine, wanted.engine)
    if command.messages.verbose:
        notes += told_of_compiling(engine)
    if stack_path.is_dir() and (left := passed_over(stack_path)):
        notes.append(left)
    for note in [*notes, *result["notes"]]:
        print(f"note: {note}", file=sys.stderr)
    size = f"{result['width']}x{result['height']}"
    frames = f"{result['frames']} frames" + (f" in each of {stacks} stacks" if stacks > 1 else "")
    print(f"{output}: {size}, {frames}, {result['seconds']:.1f} s")
