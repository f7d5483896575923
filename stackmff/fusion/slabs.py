"""Slabs: groups of neighbouring frames, each fused to a picture of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from stackmff.fusion.blending import Mixture
from stackmff.fusion.engines import Engine
from stackmff.fusion.fuse import fuse_stack
from stackmff.images.formats import write_picture
from stackmff.images.rectangles import Box
from stackmff.images.stack import Stack
from stackmff.progress import ShowStage, stage


def slabs_of(use: Sequence[int], size: int) -> list[list[int]]:
    """The groups of `size` neighbours among the frames; the last one reaches back for its size.

    Args:
        use: indices of the frames; size: frames of a slab.
    """
    size = min(size, len(use))
    starts = [*range(0, len(use) - size, size), len(use) - size]
    return [list(use[start : start + size]) for start in starts]


def fuse_slabs(
    frames: np.ndarray,
    engine: Engine,
    mixture: Mixture,
    groups: Sequence[Sequence[int]],
    shown: bool | ShowStage = False,
) -> Iterator[tuple[str, np.ndarray]]:
    """Fuse groups of neighbours.

    Args:
        frames: (N, H, W, C), aligned.
        engine: runs the network.
        mixture: as of all frames.
        groups: as of `slabs_of`.
        shown: whether progress is shown, see progress.stage.
    Yields:
        (name, picture (H, W, C) uint16): slab_<first>-<last>, frames counted from 1.
    """
    digits = len(str(groups[-1][-1] + 1))
    with stage("slabs", shown) as progress:
        for done, group in enumerate(groups, start=1):
            own = replace(mixture, use=list(group), maps=False, deep=True)
            ends = "-".join(f"{index + 1:0{digits}}" for index in (group[0], group[-1]))
            yield f"slab_{ends}", fuse_stack(frames, engine, own).picture
            if progress is not None:
                progress(done, len(groups))


def write_slabs(
    folder: Path,
    stack: Stack,
    engine: Engine,
    mixture: Mixture,
    groups: Sequence[Sequence[int]],
    area: Box | None = None,
    shown: bool | ShowStage = False,
) -> None:
    """Fuse groups of neighbours into folder/slab_<first>-<last>.tif, frames counted from 1.

    Slabs of an earlier run with other groups are removed.

    Args:
        folder: of the slabs.
        stack: of aligned frames.
        engine, mixture, groups, shown: as of `fuse_slabs`.
        area: that the slabs are cropped to; None: whole.
    """
    written = set()
    for name, picture in fuse_slabs(stack.frames, engine, mixture, groups, shown):
        path = folder / f"{name}.tif"
        if area is not None:
            picture = area.cut(picture)
        write_picture(path, picture, stack.metadata)
        written.add(path)
    for path in set(folder.glob("slab_*-*.tif")) - written:
        path.unlink(missing_ok=True)
