"""Networks with a coarse level: it looks at the whole stack, and every tile is told what it saw.

What the coarse level saw is its guide: arrays (C, N, h', w') on grids of their own, which begin at
the top left of the picture and have one or more positions along GRID px of it.
"""

import copy
import math
import queue
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stackmff.fusion.engines import (
    GRID,
    WIDE_PROBE,
    Corner,
    Engine,
    OpenVinoEngine,
    TorchEngine,
    extended,
)

# network.py takes the constants from here.
from stackmff.fusion.reduction import DETAILS as DETAILS
from stackmff.fusion.reduction import LOG_GAIN as LOG_GAIN
from stackmff.fusion.reduction import REDUCTION, reduced_window
from stackmff.fusion.tiles import Spans, tile_plan
from stackmff.images.levels import Levels
from stackmff.images.rectangles import Box

OVERLAP = 96  # of the coarse level's own tiles, in its pixels; half is discarded on either side
LEAST_AREA = (3 * OVERLAP) ** 2  # of such a tile: a smaller one may not exist, see tiles.tile_plan
# Positions of the exported parts of a guide along GRID px.
POSITIONS = {"features": 1, "logits": GRID // REDUCTION}
# Of the fine level's tiles, px: what is far away it knows from the coarse level. On three scenes in
# tiles of 512 px it then differs from the whole by 0.03 grey levels on average, StackMix by 0.04
# with twice as much.
FINE_OVERLAP = 32
STAGE_STEPS = (1, 2, 4)  # px along one position of what the stage beyond the mixture takes
KEPT_SAMPLES = 2**20  # N x height x width up to which a compiled coarse level is kept

Guide = list[np.ndarray]


class CoarseNetwork(Protocol):
    """What a network with a coarse level has besides the contract of network.py; see PyramidMix."""

    def guide(self, small: Any, small_chroma: Any, details: Any) -> tuple[Any, ...]:
        """The guide from what is reduced: tensors (1, C, N, h', w')."""

    def refine(self, stack: Any, chroma: Any, guide: Any) -> Any:
        """The logits of a tile from its window of the guide."""

    def refine_and_tell(self, stack: Any, chroma: Any, guide: Any) -> tuple[Any, Any]:
        """Its weights, and what the stage beyond the mixture is told; only if it has one."""


class PyramidEngine(TorchEngine):
    """Runs a network with a coarse level in torch: `for_stack` shows it the whole stack.

    Args:
        network: with the contract of network.py and of CoarseNetwork, in eval mode, on `device`.
        device: torch.device.
    """

    sight = WIDE_PROBE

    def __init__(self, network: Any, device: Any) -> None:
        super().__init__(network, device)
        self.overlap = FINE_OVERLAP
        self.guide: Guide = []
        self.kind: Any = None  # of tuple that the network's guide is

    def for_stack(
        self, frames: np.ndarray, use: Sequence[int], levels: Levels | None = None
    ) -> Engine:
        """The engine for the tiles of one stack, see `Engine`."""
        told = copy.copy(self)
        told.guide = look(frames, use, levels, self.colour, self.samples, told.look_at)
        return told

    def look_at(self, small: np.ndarray, chroma: np.ndarray | None, details: np.ndarray) -> Guide:
        """The guide of what is reduced, see `look`."""
        import torch

        with self.at_work(small.shape), torch.inference_mode():
            seen = [
                None if one is None else self.on_device(one) for one in (small, chroma, details)
            ]
            parts = self.network.guide(*seen)
            self.kind = type(parts)
            return [maps[0].float().cpu().numpy() for maps in parts]

    def on_device(self, planes: np.ndarray) -> Any:
        """(C, N, h, w) as a tensor (1, C, N, h, w) on the network's device."""
        import torch

        return torch.from_numpy(np.ascontiguousarray(planes)).to(self.device)[None]

    def __call__(
        self, tiles: np.ndarray, chroma: np.ndarray | None = None, place: Corner = (0, 0)
    ) -> np.ndarray:
        """Run the fine level on a tile, see `Engine`."""
        import torch

        with self.at_work(tiles.shape), torch.inference_mode():
            logits = self.network.refine(*self.guided(tiles, chroma, place))
            out: np.ndarray = logits.softmax(1).float().cpu().numpy()
        return out

    def weigh_and_tell(
        self, tiles: np.ndarray, chroma: np.ndarray | None, place: Corner
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run the fine level on a tile, see `Engine`."""
        import torch

        with self.at_work(tiles.shape), torch.inference_mode():
            weights, told = self.network.refine_and_tell(*self.guided(tiles, chroma, place))
            return weights.float().cpu().numpy(), told[0].float().cpu().numpy()

    def guided(self, tiles: np.ndarray, chroma: np.ndarray | None, place: Corner) -> list[Any]:
        """What the fine level takes: luma, chroma or None, and the tile's window of the guide."""
        stack, *rest = self.seen(tiles, chroma)
        parts = map(self.on_device, cut(self.guide, tiles.shape[-2:], place))
        return [stack, rest[0] if rest else None, self.kind(*parts)]


class OpenVinoPyramidEngine(OpenVinoEngine):
    """Runs an exported network with a coarse level in OpenVINO on the CPU.

    Args:
        path: of the export of the fine level; that of the coarse one lies beside it, see
            `guide_export`.
        precision: see OpenVinoEngine.
    """

    sight, overlap = WIDE_PROBE, FINE_OVERLAP
    inputs = (*OpenVinoEngine.inputs, *POSITIONS)

    def __init__(self, path: Path, precision: str = "auto") -> None:
        super().__init__(path, precision)
        self.guide: Guide = []
        self.coarse: Any = None
        self.looks: dict[tuple[int, ...], Any] = {}  # the coarse level compiled for a shape
        self.goes_beyond = stage_export(self.path).is_file()
        self.stages: dict[tuple[int, int], queue.Queue[Any]] = {}  # requests for a size of tiles

    def load(self) -> None:
        """Import OpenVINO and read both exports."""
        if self.coarse is None:
            super().load()
            self.coarse = self.read(guide_export(self.path))

    def for_stack(
        self, frames: np.ndarray, use: Sequence[int], levels: Levels | None = None
    ) -> Engine:
        """The engine for the tiles of one stack, see `Engine`."""
        self.load()
        told = copy.copy(self)
        told.guide = look(frames, use, levels, self.colour, self.samples, self.look_at, self.cores)
        if any(math.prod(shape) > KEPT_SAMPLES for shape in self.looks):
            self.looks.clear()  # the memory is wanted for the tiles
        return told

    def expect(self, n_frames: int, height: int, width: int) -> None:
        """Compile the coarse level for a whole stack, if it is seen at once."""
        rows, columns = coarse_tiles((height, width), n_frames, self.samples)
        if len(rows) == len(columns) == 1:
            self.compiled_for(n_frames, rows[0][1], columns[0][1])

    def compiled_for(self, n_frames: int, height: int, width: int) -> Any:
        """The coarse level compiled for N frames of height x width of its pixels, as a request."""
        self.load()
        height, width = (-(-side // GRID) * GRID for side in (height, width))
        shape = (n_frames, height, width)
        if shape not in self.looks:
            self.looks.clear()
            shapes = {node.get_any_name(): [n_frames, height, width] for node in self.coarse.inputs}
            shapes["details"] = [DETAILS, *shape]
            if "chroma" in shapes:
                shapes["chroma"] = [2, n_frames, height // 2, width // 2]
            path = guide_export(self.path)
            compiled = self.compiled_model(path, self.coarse, shapes, 1)
            self.looks[shape] = compiled.create_infer_request()
        return self.looks[shape]

    def look_at(self, small: np.ndarray, chroma: np.ndarray | None, details: np.ndarray) -> Guide:
        """The guide of what is reduced, see `look`."""
        request = self.compiled_for(*small.shape[1:])
        height, width = (-(-side // GRID) * GRID for side in small.shape[-2:])
        seen = [extended(small[0], (height, width))]
        if chroma is not None and self.colour:
            seen.append(extended(chroma, (height // 2, width // 2)))
        seen.append(extended(details, (height, width)))
        with self.at_work(small.shape):
            results = request.infer(seen, share_inputs=True)
            return [np.array(maps) for maps in results.values()]

    def prepare(self, n_frames: int, height: int, width: int, count: int) -> int:
        """Compile for tiles, see `Engine`."""
        jobs = super().prepare(n_frames, height, width, count)
        assert self.shape is not None  # it has just been set
        size = self.shape[1:]
        if self.goes_beyond and size not in self.stages:
            self.stages.clear()
            self.stages[size] = self.compile_stage(*size)
        return jobs

    def compile_stage(self, height: int, width: int) -> "queue.Queue[Any]":
        """Requests of the stage beyond the mixture for tiles of one size."""
        path = stage_export(self.path)
        model = self.read(path)
        shapes = {}
        for node, step in zip(model.inputs, STAGE_STEPS, strict=True):
            channels = node.get_partial_shape()[0].get_length()
            shapes[node.get_any_name()] = [channels, height // step, width // step]
        compiled = self.compiled_model(path, model, shapes, self.cores)
        requests: queue.Queue[Any] = queue.Queue()
        for _ in range(self.cores):
            requests.put(compiled.create_infer_request())
        return requests

    def weigh_and_tell(
        self, tiles: np.ndarray, chroma: np.ndarray | None, place: Corner
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run the fine level on a tile, see `Engine`."""
        weights, (told,) = self.infer(tiles, chroma, place)
        return weights, told

    def coefficients(self, lumas: np.ndarray, share: np.ndarray, told: np.ndarray) -> np.ndarray:
        """How much is added of each term, see `Engine`."""
        assert self.shape is not None  # the tile has been weighed
        (_, height, width), (_, high, wide) = self.shape, lumas.shape
        seen = [
            extended(part, (height // step, width // step))
            for part, step in zip((lumas, share, told), STAGE_STEPS, strict=True)
        ]
        requests = self.stages[height, width]
        request = requests.get()
        try:
            with self.at_work(lumas.shape):
                out = request.infer(seen, share_inputs=True)[0]
                return np.array(out[:, :high, :wide])
        finally:
            requests.put(request)

    def shapes_of(self, n_frames: int, height: int, width: int) -> dict[str, list[int]]:
        """The shapes of the inputs for tiles of one shape, in their order."""
        shapes = super().shapes_of(n_frames, height, width)
        for name, each in POSITIONS.items():
            channels = self.model.input(name).get_partial_shape()[0].get_length()
            sides = (each * (side // GRID + 2) for side in (height, width))
            shapes[name] = [channels, n_frames, *sides]
        return shapes

    def seen(
        self, luma: np.ndarray, chroma: np.ndarray | None, shape: Sequence[int], place: Corner
    ) -> list[np.ndarray]:
        """The inputs for a tile, see OpenVinoEngine."""
        return super().seen(luma, chroma, shape, place) + cut(self.guide, shape, place)


def look(
    frames: np.ndarray,
    use: Sequence[int],
    levels: Levels | None,
    colour: bool,
    samples: int,
    look_at: Callable[[np.ndarray, np.ndarray | None, np.ndarray], Guide],
    jobs: int = 1,
) -> Guide:
    """The guide of a whole stack.

    Args:
        frames: (N, H, W, C) uint8 or uint16.
        use: indices of the frames that the tiles will have.
        levels: of the stack; None: it is seen as it is.
        colour: whether the coarse level takes the chroma.
        samples: see `coarse_tiles`.
        look_at: the coarse level: luma (1, N, h, w), chroma (2, N, ceil(h/2), ceil(w/2)) or None
            and details (DETAILS, N, h, w) to their guide.
        jobs: frames to reduce at a time.
    """
    rows, columns = coarse_tiles(frames.shape[1:3], len(use), samples)
    whole: Guide = []
    for down in rows:
        for across in columns:
            place = Box(*down, *across)
            part = look_at(*reduced_window(frames, use, place, levels, colour, jobs))
            whole = joined(whole, part, place, (rows, columns))
    return whole


def cut(guide: Guide, size: Sequence[int], place: Corner) -> Guide:
    """The part of a guide that a tile takes, with a margin of GRID px.

    Args:
        guide: of the whole picture.
        size: (height, width) of the tile, px.
        place: (top, left) of the tile in the picture, multiples of GRID.
    Returns:
        Arrays with size / GRID + 2 times their positions along GRID px; beyond the guide its edge
        is repeated.
    """
    coarsest = min(maps.shape[-2] for maps in guide)
    parts = []
    for maps in guide:
        each = maps.shape[-2] // coarsest
        for axis, side, at in zip((-2, -1), size, place, strict=True):
            first = each * (at // GRID - 1)
            index = np.arange(first, first + each * (-(-side // GRID) + 2))
            maps = maps.take(index.clip(0, maps.shape[axis] - 1), axis)
        parts.append(np.ascontiguousarray(maps))
    return parts


def coarse_tiles(size: tuple[int, ...], n_frames: int, samples: int) -> tuple[Spans, Spans]:
    """The tiles of the coarse level, in its pixels: one, unless frames are many or very large.

    Args:
        size: (height, width) of the picture, px.
        n_frames: N.
        samples: most N x height x width of a tile, if that leaves it LEAST_AREA.
    """
    height, width = (-(-side // REDUCTION) for side in size)
    return tile_plan(height, width, max(samples // n_frames, LEAST_AREA), OVERLAP)


def joined(
    whole: Guide,
    part: Guide,
    place: Box,
    tiles: tuple[Spans, Spans],
) -> Guide:
    """Put the guide of a coarse tile into that of the whole; neighbours meet in their overlap.

    Args:
        whole: arrays (C, N, H', W'), none before the first tile.
        part: arrays (C, N, h', w') of the tile.
        place: of the tile in pixels of the coarse level.
        tiles: all spans, see `coarse_tiles`.
    Returns:
        whole, filled where this tile counts.
    """
    if len(tiles[0]) == len(tiles[1]) == 1:
        return part
    padded = [-(-spans[-1][1] // GRID) * GRID for spans in tiles]
    # Pixels of the coarse level between the positions of each array.
    own = -(-place.size[0] // GRID) * GRID
    steps = [own // maps.shape[-2] for maps in part]
    if not whole:
        whole = [
            np.empty((*maps.shape[:-2], *(side // step for side in padded)), maps.dtype)
            for maps, step in zip(part, steps, strict=True)
        ]
    for maps, target, step in zip(part, whole, steps, strict=True):
        inside, there = [], []
        for span, spans, side in zip((place[:2], place[2:]), tiles, padded, strict=True):
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


def guide_export(path: Path) -> Path:
    """Where the coarse level of the export at `path` lies, if its network has one."""
    return path.with_name(f"{path.stem}.guide{path.suffix}")


def stage_export(path: Path) -> Path:
    """Where the stage beyond the mixture of the export at `path` lies, if its network has one."""
    return path.with_name(f"{path.stem}.stage{path.suffix}")
