"""The alignment of a stack that options ask for: measured, or read from a file."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from stackmff.alignment.geometry import Alignment, colours_of
from stackmff.alignment.measure import Measuring, measure
from stackmff.alignment.options import AlignOptions
from stackmff.alignment.record import load_alignment, save_alignment
from stackmff.alignment.sensor import Dirt
from stackmff.errors import StackError
from stackmff.files import natural_key
from stackmff.processes import Progress


def find_reference(word: str | None, names: Sequence[str]) -> int | None:
    """The index of the frame that --reference names; None for None.

    Args:
        word: a file name; or a number, counted from 0 in the natural order of the names, even if
            the frames are in another order.
        names: of the frames' files.
    Raises:
        StackError: there is no such frame.
    """
    if word is None:
        return None
    if word in names:
        return list(names).index(word)
    if word.isdecimal() and int(word) < len(names):
        return list(names).index(sorted(names, key=natural_key)[int(word)])
    raise StackError(
        f"--reference {word} is not a frame of the stack: give a file name, or 0 to "
        f"{len(names) - 1}"
    )


def align_by_options(
    options: AlignOptions,
    frames: np.ndarray,
    names: Sequence[str],
    save: Path | None = None,
    use: Path | None = None,
    progress: Progress | None = None,
    thorough: bool = False,
) -> Alignment:
    """The Alignment of a stack that its options ask for.

    Args:
        options: of alignment.
        frames: (N, H, W, C) uint8 or uint16.
        names: of their files.
        save: file to write it to; None: none.
        use: file to read it from; None: it is measured.
        progress: see `measure`; thorough: see `Measuring`.
    Raises:
        StackError: as `measure` and `load_alignment`; or with --strict a frame is left out.
    """
    if use is not None:
        _, height, width, _ = frames.shape
        alignment = load_alignment(use, names, (height, width), colours_of(frames))
        if not options.match_exposure:
            alignment = replace(alignment, gains=np.ones_like(alignment.gains), curves={})
        if options.keep_hot_pixels:
            alignment = replace(alignment, dirt=Dirt())
    else:
        alignment = measure(
            frames,
            find_reference(options.reference, names),
            Measuring(
                options.motion,
                options.match_exposure,
                thorough,
                local=options.parallax == "auto",
                fill_dirt=not options.keep_hot_pixels,
            ),
            progress,
            names,
        )
    if options.strict and alignment.left_out:
        raise StackError(
            f"{'; '.join(told(alignment, names))}: remove it from the stack or remove --strict"
        )
    if save is not None:
        save_alignment(save, alignment, names)
    return alignment


def told(alignment: Alignment, names: Sequence[str]) -> list[str]:
    """A sentence for each frame that is left out."""
    return [f"frame {names[k]} {why}" for k, why in sorted(alignment.left_out.items())]
