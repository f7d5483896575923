"""Networks with a coarse level: it looks at the whole stack, and every tile is told what it saw."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from stackmff.fusion.engines import GRID, WIDE_PROBE, Corner, Engine, TorchEngine, planes_of
from stackmff.fusion.tiles import Spans, tile_plan
from stackmff.images.frame_store import release, window
from stackmff.images.levels import Levels

OVERLAP = 96  # of the coarse level's own tiles, in its pixels; half is discarded on either side
LEAST_AREA = (3 * OVERLAP) ** 2  # of such a tile: a smaller one may not exist, see tiles.tile_plan


class CoarseNetwork(Protocol):
    """What a network with a coarse level has besides the contract of network.py; see PyramidMix.

    Attributes:
        reduction: px of the picture along one pixel of the coarse level.
    """

    reduction: int

    def reduced(self, planes: Any) -> Any:
        """Means over squares of `reduction` px."""

    def details(self, stack: Any) -> Any:
        """The detail in squares of `reduction` px, (1, K, N, h, w)."""

    def guide(self, small: Any, small_chroma: Any, details: Any) -> tuple[Any, ...]:
        """The guide from what is reduced: tensors (1, C, N, h', w') on grids of their own."""

    def refine(self, stack: Any, chroma: Any, guide: Any, place: Corner) -> Any:
        """The logits of a tile."""


class PyramidEngine(TorchEngine):
    """Runs a network with a coarse level in torch: `for_stack` shows it the whole stack.

    Args:
        network: with the contract of network.py and of CoarseNetwork, in eval mode, on `device`.
        device: torch.device.
    """

    sight = WIDE_PROBE

    def for_stack(
        self, frames: np.ndarray, use: Sequence[int], levels: Levels | None = None
    ) -> Engine:
        """The engine for the tiles of one stack, see `Engine`."""
        import torch

        rows, columns = coarse_tiles(frames.shape[1:3], len(use), self.samples, self.reduction)
        whole: list[Any] = []
        for down in rows:
            for across in columns:
                with torch.inference_mode():
                    small = self.reduced(frames, use, (*down, *across), levels)
                    with self.at_work(small[0].shape[2:]):
                        part = self.network.guide(*small)
                whole = joined(whole, part, (down, across), (rows, columns))
        return GuidedEngine(self, type(part)(*whole))

    @property
    def reduction(self) -> int:
        """Px of the picture along one pixel of the coarse level."""
        size: int = self.network.reduction
        return size

    def reduced(
        self,
        frames: np.ndarray,
        use: Sequence[int],
        place: tuple[int, int, int, int],
        levels: Levels | None,
    ) -> tuple[Any, Any, Any]:
        """What the coarse level takes of a window, a frame at a time, so that memory is bounded.

        Args:
            frames: (N, H, W, C); use: indices of those to take.
            place: (top, bottom, left, right) in pixels of the coarse level.
            levels: of the stack; None: it is seen as it is.
        Returns:
            Luma, chroma and details, (1, C, N, h, w) each; chroma None if the network takes none.
        """
        import torch

        height, width = frames.shape[1:3]
        top, bottom, left, right = (self.reduction * side for side in place)
        parts: list[list[Any]] = [[], [], []]
        for k in use:
            frame = window(frames, top, min(bottom, height), left, min(right, width), [k])
            lumas, chromas = planes_of(frame, self.colour, levels)
            one = torch.from_numpy(lumas).to(self.device)[None, None]
            parts[0].append(self.network.reduced(one))
            parts[2].append(self.network.details(one))
            if chromas is not None:
                coloured = torch.from_numpy(chromas).to(self.device)[None]
                parts[1].append(self.network.reduced(coloured))
            release(frames)
        small, small_chroma, details = (torch.cat(part, 2) if part else None for part in parts)
        return small, small_chroma, details


class GuidedEngine(PyramidEngine):
    """A PyramidEngine that has seen one stack.

    Args:
        engine: the PyramidEngine; the time that the tiles take counts as its own.
        guide: of the stack, as from the network's `guide`.
    """

    def __init__(self, engine: PyramidEngine, guide: Any) -> None:
        super().__init__(engine.network, engine.device)
        self.engine, self.guide = engine, guide

    def at_work(self, shape: Sequence[int]) -> AbstractContextManager[None]:
        """As of the PyramidEngine, which counts the time."""
        return self.engine.at_work(shape)

    def __call__(
        self, tiles: np.ndarray, chroma: np.ndarray | None = None, place: Corner = (0, 0)
    ) -> np.ndarray:
        """Run the fine level on a tile, see `Engine`."""
        import torch

        with self.at_work(tiles.shape), torch.inference_mode():
            stack, *rest = self.seen(tiles, chroma)
            logits = self.network.refine(stack, rest[0] if rest else None, self.guide, place)
            out: np.ndarray = logits.softmax(1).float().cpu().numpy()
        return out


def coarse_tiles(
    size: tuple[int, ...], n_frames: int, samples: int, reduction: int
) -> tuple[Spans, Spans]:
    """The tiles of the coarse level, in its pixels: one, unless frames are many or very large.

    Args:
        size: (height, width) of the picture, px.
        n_frames: N.
        samples: most N x height x width of a tile, if that leaves it LEAST_AREA.
        reduction: px of the picture along one pixel of the coarse level.
    """
    height, width = (-(-side // reduction) for side in size)
    return tile_plan(height, width, max(samples // n_frames, LEAST_AREA), OVERLAP)


def joined(
    whole: list[Any],
    part: Sequence[Any],
    place: tuple[tuple[int, int], tuple[int, int]],
    tiles: tuple[Spans, Spans],
) -> list[Any]:
    """Put the guide of a coarse tile into that of the whole; neighbours meet in their overlap.

    Args:
        whole: tensors (1, C, N, H', W'), empty before the first tile.
        part: tensors (1, C, N, h', w') of the tile.
        place: the spans of the tile in pixels of the coarse level.
        tiles: all spans, see `coarse_tiles`.
    Returns:
        whole, filled where this tile counts.
    """
    padded = [-(-spans[-1][1] // GRID) * GRID for spans in tiles]
    # Pixels of the coarse level between the positions of each tensor.
    own = -(-(place[0][1] - place[0][0]) // GRID) * GRID
    steps = [own // maps.shape[-2] for maps in part]
    if not whole:
        whole = [
            maps.new_empty((*maps.shape[:-2], *(side // step for side in padded)))
            for maps, step in zip(part, steps, strict=True)
        ]
    for maps, target, step in zip(part, whole, steps, strict=True):
        inside, there = [], []
        for span, spans, side in zip(place, tiles, padded, strict=True):
            start, stop = kept(span, spans, side, max(steps))
            inside.append(slice((start - span[0]) // step, (stop - span[0]) // step))
            there.append(slice(start // step, stop // step))
        target[..., there[0], there[1]] = maps[..., inside[0], inside[1]]
    return whole


def kept(span: tuple[int, int], spans: Spans, side: int, step: int) -> tuple[int, int]:
    """Which part of a tile counts along one side: up to the middle of its overlaps.

    Args:
        span: the tile, (start, stop); spans: all of them.
        side: of the whole, padded.
        step: of which the bounds have to be multiples.
    """
    index = spans.index(span)
    start = 0 if index == 0 else middle(spans[index - 1], span, step)
    last = index == len(spans) - 1
    return start, side if last else middle(span, spans[index + 1], step)


def middle(one: tuple[int, int], other: tuple[int, int], step: int) -> int:
    """The middle of the overlap of two tiles, rounded down to a multiple of `step`."""
    return (one[1] + other[0]) // 2 // step * step
