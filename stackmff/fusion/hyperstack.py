"""A hyperstack to one picture with axes: each of its channels and times is fused apart."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from stackmff.alignment.measure import apply
from stackmff.errors import StackError
from stackmff.files import atomic_path
from stackmff.fusion.engines import Engine
from stackmff.fusion.fuse import fuse_stack
from stackmff.fusion.options import FuseOptions
from stackmff.fusion.pipeline import Made, Shown, fuse_read, read_for
from stackmff.fusion.retouch import fill_regions
from stackmff.images.folders import frames_in
from stackmff.images.formats import FORMATS, write_picture
from stackmff.images.hyperstacks import Hyperstack, hyperstack_in, write_hyperstack
from stackmff.images.rectangles import Box
from stackmff.images.stack import Stack
from stackmff.images.stack_files import TIFF_SUFFIXES
from stackmff.options import changed

MOST_NOTES = 20
# ImageJ's own order: red, green, blue, grey, cyan, magenta, yellow.
COLOURS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (0, 1, 1), (1, 0, 1), (1, 1, 0))
ENDS = 0.1, 99.9  # percentiles of a channel that are black and full in a composite


def hyperstack_at(path: Path) -> Hyperstack | None:
    """The hyperstack that a path names: a TIFF file, or a folder with nothing else to fuse.

    Raises:
        StackError: the folder cannot be read, or what the file declares contradicts itself.
    """
    if path.is_dir():
        files = frames_in(path)
        path = files[0] if len(files) == 1 else path
    if not path.is_file() or path.suffix.lower() not in TIFF_SUFFIXES:
        return None
    return hyperstack_in(path)


def hyperstack_suffix(options: FuseOptions) -> str:
    """Suffix of the result of a hyperstack: .tif, unless --out_format asks for another."""
    out_format = options.format.out_format
    return FORMATS["tif" if out_format in (None, "same") else out_format]


def check_hyperstack(source: Hyperstack, output: Path, options: FuseOptions) -> None:
    """Refuse what a hyperstack cannot become, before anything is read.

    Args:
        source: the hyperstack.
        output: fused picture.
        options: of fusion.
    Raises:
        StackError: the format has no axes, the channel of --focus_from is unknown, or an option is
            one of a single stack.
    """
    if output.suffix.lower() not in TIFF_SUFFIXES and source.times > 1:
        raise StackError(
            f"{output} cannot hold {source.times} times, which {source.file} has: use a name that "
            "ends in .tif"
        )
    if options.format.bits is not None:
        raise StackError(
            f"--bits {options.format.bits}: {source.file} is a hyperstack, whose result has its "
            f"{source.dtype}: remove --bits"
        )
    if options.choices.slab is not None:
        raise StackError(f"--slab is for one stack, and {source.file} is a hyperstack: remove it")
    if options.reading.focus_from is not None:
        channel_of(source, options.reading.focus_from)


def channel_of(source: Hyperstack, word: str) -> int:
    """The index of the channel that --focus_from names, by its name or its number from 1.

    Raises:
        StackError: there is no such channel.
    """
    names = [source.channel_name(k).casefold() for k in range(source.channels)]
    if word.casefold() in names:
        return names.index(word.casefold())
    if word.isdecimal() and 1 <= int(word) <= source.channels:
        return int(word) - 1
    given = [name for name in names if not name.startswith("channel ")]
    raise StackError(
        f"--focus_from {word} is not a channel of {source.file}: give 1 to {source.channels}"
        + (f" or one of {', '.join(given)}" if given else "")
    )


@dataclass
class _Part:
    """What became of one channel at one time."""

    picture: np.ndarray
    made: Made
    label: str


def fuse_hyperstack(
    source: Hyperstack, engine: Engine, output: Path, options: FuseOptions, shown: Shown = False
) -> dict[str, Any]:
    """Fuse each channel and time of a hyperstack, and write them as one file.

    Args:
        source: the hyperstack.
        engine: runs the network.
        output: fused picture; where its format has no axes, channels become the colours of one.
        options: of fusion. Frames are in the order that the file gives them.
        shown: whether progress is shown, see progress.stage.
    Returns:
        As outputs.fuse_files.
    Raises:
        StackError: the planes cannot be read, aligned or fused, or the file cannot be written.
    """
    start, network_start = time.perf_counter(), engine.seconds
    engine.load()
    options = changed(options, order="given")
    notes, pictures, areas = list[tuple[str, str]](), list[list[np.ndarray]](), []
    for at in range(source.times):
        pictures.append([])
        for part in _channels(source, at, engine, output, options, shown):
            pictures[-1].append(part.picture)
            areas.append(part.made.area)
            notes += [(note, part.label) for note in part.made.notes]
    result = np.stack([np.stack(row) for row in pictures])  # (T, C, H, W) or (T, C, H, W, 3)
    found = [area for area in areas if area is not None]
    if found:  # what all of them cover
        result = result[:, :, *reduce(Box.common, found).slices]
    said = _gathered(notes, source.times * source.channels)
    if source.focus != "Z" and source.kept:
        said.insert(0, f"{source.sizes}: there is no Z, so {source.focus} was taken for the focus")
    said += _written(output, np.ascontiguousarray(result), source)
    return {
        "width": result.shape[3],
        "height": result.shape[2],
        "frames": len(source),
        "network_seconds": round(engine.seconds - network_start, 3),
        "seconds": round(time.perf_counter() - start, 3),
        "notes": said,
    }


def _channels(
    source: Hyperstack, at: int, engine: Engine, output: Path, options: FuseOptions, shown: Shown
) -> Iterator[_Part]:
    """Fuse the channels of one time, in their order."""
    word, guide, first = options.reading.focus_from, None, None
    if word is not None:
        chosen = channel_of(source, word)
        guide, first = _fused(source, at, chosen, engine, output, options, shown)
    for channel in range(source.channels):
        if guide is None or first is None:
            _, made = _fused(source, at, channel, engine, output, options, shown)
        elif channel == chosen:
            made = first
        else:
            stack = read_for(output, source.stack(at, channel), options)
            made = _guided(stack, guide, first, engine)
        picture = made.fused.picture
        picture = picture[..., 0] if picture.shape[2] == 1 else picture
        scale = source.scale(channel)
        if scale is not None:
            picture = scale.restored(picture, source.dtype)
        made.notes += source.notes(channel)
        label = source.channel_name(channel) if source.channels > 1 else ""
        label += (", " if label else "") + f"time {at + 1}" if source.times > 1 else ""
        yield _Part(picture, made, label)


def _fused(
    source: Hyperstack,
    at: int,
    channel: int,
    engine: Engine,
    output: Path,
    options: FuseOptions,
    shown: Shown,
) -> tuple[Stack, Made]:
    """One channel at one time as a stack of its own."""
    stack = read_for(output, source.stack(at, channel), options)
    return stack, fuse_read(stack, engine, options, maps=False, shown=shown)


def _guided(stack: Stack, guide: Stack, first: Made, engine: Engine) -> Made:
    """Fuse a Stack by the alignment, the weights and the regions of another channel.

    Args:
        stack: its frames are changed in place.
        guide: of aligned frames; first: made of it.
        engine: runs the network.
    """
    alignment = first.alignment
    if alignment is not None:  # exposures are each channel's own
        alignment = replace(alignment, gains=np.ones_like(alignment.gains), curves={})
        apply(stack.frames, alignment)
    mixture = replace(first.mixture, alignment=alignment, guide=guide.frames)
    fused = fuse_stack(stack.frames, engine, mixture)
    fill_regions(fused, stack.frames, first.regions)
    return Made(fused, mixture, first.area, list(stack.notes), first.order, first.regions)


def _gathered(notes: list[tuple[str, str]], count: int) -> list[str]:
    """Notes with the channels and times that they are on; those on all of them without."""
    about: dict[str, list[str]] = {}
    for note, label in notes:
        about.setdefault(note, []).append(label)
    said = []
    for note, labels in about.items():
        more = f" and {len(labels) - 3} more" if len(labels) > 3 else ""
        where = "" if len(labels) == count else f"{'; '.join(labels[:3])}{more}: "
        said.append(where + note)
    if len(said) > MOST_NOTES:
        said[MOST_NOTES:] = [f"and {len(said) - MOST_NOTES} more notes like these"]
    return said


def _written(output: Path, result: np.ndarray, source: Hyperstack) -> list[str]:
    """Write the result, (T, C, H, W) or (T, C, H, W, 3); returns sentences on what was changed."""
    if output.suffix.lower() in TIFF_SUFFIXES:
        with atomic_path(output) as temporary:
            return write_hyperstack(temporary, result, source)
    if result.shape[1] > 1:
        write_picture(output, composite(result[0]))
        return [
            f"{output.suffix[1:].upper()} has no channels: each was stretched and shown in a "
            "colour; a name that ends in .tif keeps them separate"
        ]
    picture, notes = result[0, 0], list[str]()
    if (scale := source.scale(0)) is not None:
        picture = scale.coded(picture)
        notes = [f"the result has 16 bits: a name that ends in .tif keeps {source.dtype}"]
    return notes + write_picture(output, picture)


def composite(channels: np.ndarray) -> np.ndarray:
    """Channels (C, H, W) as the colours of one picture, (H, W, 3) uint8, each over its own range.

    Of more than seven, colours repeat.
    """
    out = np.zeros((*channels.shape[1:3], 3), np.float32)
    for k, channel in enumerate(channels):
        grey = channel.astype(np.float32) if channel.ndim == 2 else channel.mean(-1)
        low, high = np.percentile(grey, ENDS)
        grey = np.clip((grey - low) / max(high - low, 1e-9), 0, 1)
        out += grey[..., None] * np.array(COLOURS[k % len(COLOURS)], np.float32)
    return np.rint(np.clip(out, 0, 1) * 255).astype(np.uint8)
