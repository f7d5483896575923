"""Options of alignment."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stackmff.options import Options, option


@dataclass(frozen=True)
class AlignOptions(Options):
    """How the frames of a stack are put in order and aligned."""

    title = "alignment"

    order: Literal["auto", "given"] = option(
        "auto",
        help="auto: sort frames that are clearly not in focus order, with a note; given: keep the "
        "order of the file names, or of the pages of a file (default: %(default)s)",
    )
    reference: str | None = option(
        None,
        help="frame that the others are aligned to: its file name, or its number by name, counted "
        "from 0 (default: the middle frame)",
        metavar="FRAME",
    )
    motion: Literal["similarity", "affine"] = option(
        "similarity",
        help="similarity: translation, scale and rotation; affine: shear as well (default: "
        "%(default)s)",
    )
    parallax: Literal["auto", "off"] = option(
        "auto",
        help="auto: where frames move, and where it explains their differences much better, also "
        "measure how near and far parts move against each other; off: move each frame as a whole "
        "(default: %(default)s)",
    )
    match_exposure: bool = option(
        True,
        help="keep the exposure and white balance of each frame (default: match them)",
        flag="no_match_exposure",
        label="Match exposure",
    )
    keep_hot_pixels: bool = option(
        False,
        help="leave hot pixels and dirt on the sensor as they are (default: find what stays in "
        "place while the scene moves, and fill it from its surroundings)",
    )
    strict: bool = option(
        False,
        help="treat a frame that cannot be aligned as an error (default: name it and leave it out)",
    )

    def of_measuring(self) -> list[str]:
        """The options, as on the command line, that say how to measure and are not the default."""
        changed = {
            "--motion": self.motion != "similarity",
            "--parallax": self.parallax == "off",
            "--reference": self.reference is not None,
        }
        return [name for name, is_changed in changed.items() if is_changed]


@dataclass(frozen=True)
class AlignmentFiles(Options):
    """The file of the alignment of one stack, to be written or read."""

    save_alignment: Path | None = option(
        None, help="also write the alignment of the frames as JSON", metavar="FILE"
    )
    use_alignment: Path | None = option(
        None,
        help="read the alignment from this file, written by --save_alignment, and measure nothing",
        metavar="FILE",
    )

    def contradiction(self) -> str | None:
        """A file whose suffix is not that of its format."""
        path = self.save_alignment
        if path is not None and path.suffix.lower() != ".json":
            return f"--save_alignment {path} is JSON: use a name that ends in .json"
        return None


def unmeasured(options: AlignOptions, reason: str) -> str | None:
    """A sentence where options say how to measure although nothing is measured; else None.

    Args:
        options: of alignment.
        reason: the option for which nothing is measured: "--use_alignment" or "--align off".
    """
    for name in options.of_measuring():
        return f"{name} says how to measure, and {reason} measures nothing: remove one of them"
    return None
