"""Options of alignment."""

from pathlib import Path

from stackmff.alignment.registration import PARAMETERS


def add_align_options(parser):
    """The options that say how frames are ordered and aligned; returns their group."""
    group = parser.add_argument_group("alignment")
    group.add_argument(
        "--order",
        choices=("auto", "given"),
        default="auto",
        help="auto: frames that clearly are not in focus order are brought into it, which is told; "
        "given: take them in the order of their names, or in a file (default: %(default)s)",
    )
    group.add_argument(
        "--reference",
        metavar="FRAME",
        help="frame that the others are brought onto: its file's name, or its number by name, from "
        "0 (default: the middle one)",
    )
    group.add_argument(
        "--motion",
        choices=tuple(PARAMETERS),
        default="similarity",
        help="similarity: shift, scale and rotation; affine: also shear (default: %(default)s)",
    )
    group.add_argument(
        "--parallax",
        choices=("auto", "off"),
        default="auto",
        help="auto: where frames move and it explains their differences much better, also find "
        "how things near and far move against one another; off: frames move as wholes (default: "
        "%(default)s)",
    )
    group.add_argument(
        "--no_match_exposure",
        action="store_true",
        help="leave the frames' exposure and white balance as they are (default: match them)",
    )
    group.add_argument(
        "--strict",
        action="store_true",
        help="a frame that cannot be aligned is an error (default: it is named and left out)",
    )
    return group


def add_alignment_files(group):
    """The options for the file of one stack's alignment."""
    group.add_argument(
        "--save_alignment", type=Path, metavar="FILE", help="also write how frames lie, as JSON"
    )
    group.add_argument(
        "--use_alignment",
        type=Path,
        metavar="FILE",
        help="take how frames lie from this file, of --save_alignment, and measure nothing",
    )


def check_align_choices(parser, args, option="--use_alignment"):
    """End with exit status 2 where options say how to measure, and nothing is measured.

    Args:
        option: where it is there, nothing is measured: --use_alignment or --align off.
    """
    if option == "--use_alignment" and not args.use_alignment:
        return
    how = {"motion": args.motion != "similarity", "parallax": args.parallax == "off"}
    for name, given in how.items():
        if given:
            parser.error(
                f"--{name} says how to measure, and with {option} nothing is measured: leave it out"
            )
    if args.reference:
        parser.error(f"--reference contradicts {option}: leave one of them out")
