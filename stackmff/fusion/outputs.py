"""The results of a stack on the disk: picture, maps, slabs, previews, and a card of the report."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from stackmff.display.previews import FrameInfo, write_previews
from stackmff.display.report import make_card, write_card
from stackmff.fusion.blending import Fused
from stackmff.fusion.engines import Engine
from stackmff.fusion.fuse import get_ready
from stackmff.fusion.options import FuseOptions
from stackmff.fusion.pipeline import Made, Shown, finished, fuse_read
from stackmff.fusion.slabs import slabs_of, write_slabs
from stackmff.images.formats import loses, write_picture
from stackmff.images.frame_store import release
from stackmff.images.levels import levels_of
from stackmff.images.metadata import Metadata
from stackmff.images.stack import Stack


@dataclass
class Files:
    """Where the results of a stack go; None: not wanted.

    Attributes:
        picture: fused picture, its suffix is the format.
        focus_map: 16-bit PNG. confidence: 8-bit PNG.
        slabs, previews: folders.
        alignment: JSON, the transforms and gains of the frames.
        known_alignment: JSON that is read instead of measuring.
        card: of the report, see display/report.py.
        retouch: JSON of strokes that is read, see fusion/retouch.py.
    """

    picture: Path
    focus_map: Path | None = None
    confidence: Path | None = None
    slabs: Path | None = None
    previews: Path | None = None
    alignment: Path | None = None
    known_alignment: Path | None = None
    card: Path | None = None
    retouch: Path | None = None

    def wanted(self) -> list[Path]:
        """The files and folders that are to be written."""
        paths = astuple(replace(self, known_alignment=None, retouch=None))
        return [path for path in paths if path is not None]

    def need_maps(self) -> bool:
        """Whether the focus map or the confidence is needed."""
        return any((self.focus_map, self.confidence, self.previews, self.card))


def fuse_files(
    read: Callable[[], Stack],
    engine: Engine,
    files: Files,
    options: FuseOptions,
    shown: Shown = False,
    expected: tuple[int, int, int] | None = None,
) -> dict[str, Any]:
    """Align and fuse a stack, and write its results.

    Args:
        read: gives the Stack; it is called while the engine gets ready.
        engine: runs the network.
        files: where the results go.
        options: of fusion.
        shown: whether progress is shown, see progress.stage.
        expected: (N, H, W) that the Stack most likely has; None: unknown.
    Returns:
        {"width", "height", "frames", "network_seconds", "seconds", "notes"}; notes are sentences on
        what was unified, aligned, left out, and what the format could not keep.
    Raises:
        StackError: the stack cannot be read, aligned or fused, or a result cannot be written.
    """
    start, network_start = time.perf_counter(), engine.seconds
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(get_ready, engine, expected)
        stack = read()
        loading.result()
    bits = options.format.bits
    # The soft edge of a stroke is rounded once, whatever the bits of the result.
    deep = replace(options.format, bits=16 if files.retouch is not None else bits)
    made = fuse_read(
        stack,
        engine,
        replace(options, format=deep),
        files.need_maps(),
        files.alignment,
        files.known_alignment,
        shown,
    )
    fused = finished(made, stack, bits, files.retouch)
    made.notes += _write_pictures(files, fused, stack.metadata)
    if files.slabs is not None and options.choices.slab is not None:
        groups = slabs_of(made.kept(), options.choices.slab)
        write_slabs(files.slabs, stack, engine, made.mixture, groups, made.area, shown)
    if lost := loses(files.picture.suffix, fused.picture):
        made.notes.append(lost)
    if files.previews is not None and made.near is not None:
        told_near = made.near.told([path.name for path in stack.paths])
        made.notes += [told_near] if told_near else []
    height, width = fused.picture.shape[:2]
    result = {
        "width": width,
        "height": height,
        "frames": len(stack.paths),
        "network_seconds": round(engine.seconds - network_start, 3),
        "seconds": round(time.perf_counter() - start, 3),
        "notes": made.notes,
    }
    _show(files, stack, fused, made, result)
    return result


def _write_pictures(files: Files, fused: Fused, metadata: Metadata) -> list[str]:
    """Write the fused picture and the maps that are wanted; returns as write_picture."""
    notes = write_picture(files.picture, fused.picture, metadata)
    if files.focus_map is not None and fused.focus_map is not None:
        write_picture(files.focus_map, fused.focus_map)
    if files.confidence is not None and fused.confidence is not None:
        write_picture(files.confidence, fused.confidence)
    return notes


def _show(
    files: Files,
    stack: Stack,
    fused: Fused,
    made: Made,
    result: dict[str, Any],
) -> None:
    """Write the previews and the card of the report, if they are wanted.

    Args:
        files: where they go.
        stack: of aligned frames; fused: of it, as it is written; made: of it.
        result: as of `fuse_files`.
    """
    if files.previews is None and files.card is None:
        return
    names = [path.name for path in stack.paths]
    kept = None if made.alignment is None else made.alignment.kept
    frames = stack.frames
    if made.area is not None:
        frames = frames[:, *made.area.slices]
    info = FrameInfo(names, kept, stack.metadata.profile, levels_of(stack.frames))
    stem = files.picture.stem
    if files.previews is not None:
        first_is_near = None if made.near is None else made.near.first
        write_previews(files.previews, stem, frames, fused, info, first_is_near)
    if files.card is not None:
        write_card(files.card, make_card(stem, frames, fused, result, files.picture.name, info))
    release(stack.frames)
