"""Options of fusion."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stackmff.alignment.options import AlignOptions, unmeasured
from stackmff.images.formats import FORMATS
from stackmff.options import Options, option
from stackmff.shipped import WEIGHTS, weights_path


@dataclass(frozen=True)
class EngineOptions(Options):
    """Which network fuses, and what runs it."""

    title = "network"

    model_path: Path = option(
        WEIGHTS,
        help="checkpoint of the network, or a folder as of a model hub (default: "
        "weights/checkpoint.pth of this program)",
        convert=weights_path,
    )
    network: str | None = option(
        None,
        help="the class of the network, if the checkpoint holds one of your own",
        metavar="FILE.py:CLASS",
    )
    device: str = option(
        "auto",
        help="auto (CUDA, else MPS, else CPU), cpu, mps, cuda or cuda:K (default: %(default)s)",
    )
    engine: Literal["auto", "openvino", "torch"] = option(
        "auto",
        help="what runs the network: OpenVINO on a CPU if the checkpoint has an export, else torch "
        "(default: %(default)s)",
    )
    precision: Literal["auto", "bf16", "fp32"] = option(
        "auto",
        help="arithmetic of OpenVINO; auto: bf16 if the processor supports it (default: "
        "%(default)s)",
    )


@dataclass(frozen=True)
class MemoryOptions(Options):
    """Where the frames are kept."""

    title = "memory"

    low_memory: bool = option(
        False,
        help="keep the frames in an unlinked temporary file beside the result, not in memory "
        "(default: only if they would take more than half of the free memory)",
    )


@dataclass(frozen=True)
class ReadOptions(Options):
    """What is taken for a frame, and for its focus."""

    title = "reading"

    lenient: bool = option(
        False,
        help="accept files with damaged compressed data, and frames with parts that are flat, grey "
        "or repeated; a note names them (default: refuse such files, leave out such frames)",
    )
    prefer_files: Literal["raw", "jpeg"] | None = option(
        None,
        help="which files to use if a folder has RAW and JPEG (or HEIC, ...) of each shot, also "
        "under the names that phones give, .ORIGINAL.dng and .COVER.jpg (default: refuse it)",
    )
    focus_from: str | None = option(
        None,
        help="for a hyperstack: fuse all channels by the focus of this one, its name or its number "
        "from 1 (default: each by its own)",
        metavar="CHANNEL",
    )


@dataclass(frozen=True)
class FuseAlignOptions(AlignOptions):
    """Alignment as a step before fusion."""

    align: Literal["auto", "on", "off"] = option(
        "auto",
        help="auto: measure, and align if neighbouring frames show that it is needed; on: compare "
        "frames farther apart as well; off: take the frames as they are (default: %(default)s)",
        label="Alignment",
        choice_labels={"auto": "Automatic", "on": "Include slow drift", "off": "Off"},
    )
    crop: bool = option(
        False,
        help="crop the results to the area that every frame covers (default: keep the size of the "
        "reference, and mix the other frames beyond the edge of one)",
    )

    def contradiction(self) -> str | None:
        """Options that need a measurement, where there is none."""
        if self.align != "off":
            return None
        for name in ("crop", "strict"):
            if getattr(self, name):
                return f"--{name} contradicts --align off: remove one of them"
        return unmeasured(self, "--align off")


@dataclass(frozen=True)
class ChoiceOptions(Options):
    """What is shown where several answers are right."""

    title = "choices"

    prefer: Literal["near", "far"] | None = option(
        None,
        help="what to show where a near and a far object share a pixel, as beside edges that are "
        "out of focus (default: as the network weights them)",
        label="Where near and far overlap",
        choice_labels={None: "Automatic", "near": "Favour foreground", "far": "Favour background"},
    )
    ghosts: Literal["fill", "keep"] = option(
        "fill",
        help="where something moved between frames: fill each such region from the frame that is "
        "sharpest there, or keep the mixture, which may show it twice or in part "
        "(default: %(default)s)",
        label="Where something moved",
        choice_labels={"fill": "One frame per region", "keep": "Mixture"},
    )
    near: Literal["first", "last"] | None = option(
        None,
        help="which end of the stack is focused nearest (default: first for --prefer; the 3D view "
        "of --preview uses the focus distances in the metadata, or guesses from the layout of the "
        "picture, and says which)",
        label="Focus order",
        choice_labels={None: "Automatic", "first": "Near to far", "last": "Far to near"},
    )
    pure_mixture: bool = option(
        False,
        help="only mix the pixels of the frames at each place: switch off the stage that sharpens "
        "the mixture",
    )
    smooth: float = option(
        0.0,
        help="smooth the focus map over about this radius, along the edges of the picture and out "
        "of confident areas (default: %(default)g, not smoothed)",
        low=0,
        high=1000,
        metavar="PX",
    )
    slab: int | None = option(
        None,
        help="also fuse every N neighbouring frames to a separate 16-bit TIFF, for retouching",
        low=2,
        metavar="N",
        label="Also save slabs of N frames",
    )


@dataclass(frozen=True)
class FormatOptions(Options):
    """How the fused picture is coded."""

    title = "format"

    bits: Literal[8, 16] | None = option(
        None,
        help="bits per channel of the fused picture; a mixture of 8-bit frames carries more than 8 "
        "(default: as the frames)",
    )
    out_format: str | None = option(
        None,
        help="format of the fused picture; same: that of the first frame (default: png, or the "
        "suffix of --output if there is one)",
        choices=(*FORMATS, "same"),
    )


@dataclass(frozen=True)
class FuseOptions(Options):
    """All that decides how one stack is fused."""

    engine: EngineOptions = EngineOptions()
    memory: MemoryOptions = MemoryOptions()
    reading: ReadOptions = ReadOptions()
    alignment: FuseAlignOptions = FuseAlignOptions()
    choices: ChoiceOptions = ChoiceOptions()
    format: FormatOptions = FormatOptions()


@dataclass(frozen=True)
class MessageOptions(Options):
    """What is printed."""

    verbose: bool = option(
        False,
        help="print the order of the frames, and whether a compiled network could not be kept",
        exclusive="messages",
    )
    quiet: bool = option(
        False, help="print errors only, no progress and no notes", exclusive="messages"
    )


def check_alignment_files(
    options: FuseOptions, save: object, use: object, save_flag: str = "--save_alignment"
) -> str | None:
    """What contradicts the files of alignments, as one sentence; None: nothing.

    Args:
        options: of fusion.
        save: whether the alignment is to be written; use: whether one is to be read.
        save_flag: what asks for writing.
    """
    alignment = options.alignment
    for name, given in ((save_flag, save), ("--use_alignment", use)):
        if given and alignment.align == "off":
            return f"{name} contradicts --align off: remove one of them"
    if use and alignment.align == "on":
        return "--align on measures, and --use_alignment reads an earlier measurement: remove one"
    return unmeasured(alignment, "--use_alignment") if use else None


def check_maps(options: FuseOptions, shows_maps: bool, preview: bool) -> str | None:
    """What is asked of a focus map that is not wanted, as one sentence; None: nothing.

    Args:
        options: of fusion.
        shows_maps: whether a focus map is written or shown.
        preview: whether previews are.
    """
    choices = options.choices
    if choices.smooth and not shows_maps:
        return "--smooth is for the focus map: add --focus_map or --preview"
    if choices.near and not choices.prefer and not preview:
        return "--near is for --prefer and --preview: add one of them"
    return None
