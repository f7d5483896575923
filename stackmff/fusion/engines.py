"""What runs a network: torch on any device, OpenVINO on a CPU; engine_choice.py says which."""

import contextlib
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from stackmff.errors import StackError
from stackmff.fusion.compiled import CompiledNetworks
from stackmff.images.colour import chroma, luma
from stackmff.images.levels import Levels
from stackmff.machine import (
    available_cores,
    import_openvino,
    the_core,
)

TILES = {"weights": 1024, "luma": 640}  # the published network runs whole up to 640x640
# Overlap of tiles, px. StackMix in tiles of 640 px then differs from the whole by 0.02 grey levels
# on average (real stacks). The published network's attention means over all of its tile, so that no
# overlap makes its tiles exact (0.4 levels); a longer ramp hides the seam.
OVERLAPS = {"weights": 64, "luma": 128}
GRID = 32  # the networks pool by 16 or 32 px: sides of tiles, and where they start
PROBE = 128  # px, side of the window in which the mixture of one pixel is computed
WIDE_PROBE = 2048  # the same for what a coarse level sees of it
KEPT = 4  # compiled networks, for as many shapes


Corner = tuple[int, int]  # (top, left) of a tile in its picture, px, multiples of GRID


class Engine(Protocol):
    """What runs a network for fusion/fuse.py.

    Called as engine(luma, chroma, place) it takes luma (1, N, h, w) float32 in [0, 1], if `colour`
    chroma (1, 2, N, ceil(h/2), ceil(w/2)) float32 in [-0.5, 0.5], else None, and the place of the
    tile in its picture, (top, left) px. It returns the weights of the frames (1, N, h, w) or a
    fused luma (1, 1, h, w), float32.

    Attributes:
        output: "weights" or "luma", what it returns.
        colour: whether it takes the chroma.
        goes_beyond: whether its pictures go beyond the mixture of the frames, see fusion/beyond.py.
        tile: side of a tile, px.
        overlap: of neighbouring tiles, px.
        sight: side of the window that it has to see for the weights of one pixel, px.
        samples, most_samples: N x height x width of a tile, see tiles.tile_area.
    """

    output: str
    goes_beyond: bool
    tile: int
    overlap: int
    sight: int
    samples: int
    most_samples: int

    @property
    def seconds(self) -> float:
        """The time that its calls have taken so far, summed up."""

    @property
    def colour(self) -> bool:
        """Whether it takes the chroma."""

    def load(self) -> None:
        """Get ready what is slow to get ready; the first call would do so too."""

    def expect(self, n_frames: int, height: int, width: int) -> None:
        """Get ready for the look at a whole stack, see `for_stack`."""

    def prepare(self, n_frames: int, height: int, width: int, count: int) -> int:
        """Get ready for `count` tiles of up to height x width px.

        Returns:
            How many tiles to pass at a time, each from a thread of its own.
        """

    def for_stack(
        self, frames: np.ndarray, use: Sequence[int], levels: Levels | None = None
    ) -> "Engine":
        """The engine for the tiles of one stack.

        One whose network has a coarse level looks at the whole stack first; others return
        themselves.

        Args:
            frames: (N, H, W, C) uint8 or uint16.
            use: indices of the frames that the tiles will have.
            levels: of the stack; None: it is seen as it is.
        """

    def __call__(
        self, tiles: np.ndarray, chroma: np.ndarray | None = None, place: Corner = (0, 0)
    ) -> np.ndarray:
        """Run the network on a tile."""

    def weigh_and_tell(
        self, tiles: np.ndarray, chroma: np.ndarray | None, place: Corner
    ) -> tuple[np.ndarray, np.ndarray]:
        """As __call__, and what `coefficients` is told of the tile; only if it `goes_beyond`."""

    def coefficients(self, lumas: np.ndarray, share: np.ndarray, told: np.ndarray) -> np.ndarray:
        """How much is added of each term, see beyond.Coefficients; only if it `goes_beyond`."""


def out_of_memory(shape: Sequence[int], where: object) -> StackError:
    """The error of tiles (1, N, h, w) that do not fit into the memory of a device."""
    count, height, width = shape[-3:]
    return StackError(
        f"{count} frames in tiles of {width}x{height} do not fit into the memory of {where}: use "
        "--device cpu, or fewer frames"
    )


def planes_of(
    frames: np.ndarray, colour: bool, levels: Levels | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """What a network sees of frames.

    Args:
        frames: (N, h, w, C).
        colour: whether it takes the chroma.
        levels: of their stack; None: they are seen as they are.
    Returns:
        Luma (N, h, w) and chroma (2, N, ceil(h/2), ceil(w/2)) or None.
    """
    lumas, chromas = luma(frames), chroma(frames) if colour else None
    if levels is not None:
        lumas = levels.stretched(lumas)
        chromas = None if chromas is None else levels.stretched_chroma(chromas)
    return lumas, chromas


def weigh(
    engine: Engine, frames: np.ndarray, levels: Levels | None = None, place: Corner = (0, 0)
) -> np.ndarray:
    """The weights that an engine gives the frames of a tile.

    Args:
        engine: of a network that weighs frames.
        frames: (N, h, w, C).
        levels: of their stack; None: they are weighed as they are.
        place: (top, left) of the tile in what `for_stack` has seen, px.
    Returns:
        (N, h, w) float32.
    """
    lumas, chromas = planes_of(frames, engine.colour, levels)
    return engine(lumas[None], None if chromas is None else chromas[None], place)[0]


def weigh_and_tell(
    engine: Engine, frames: np.ndarray, levels: Levels | None, place: Corner
) -> tuple[np.ndarray, np.ndarray]:
    """As `weigh`, and what the stage beyond the mixture is told of the tile, (C', h/4, w/4)."""
    lumas, chromas = planes_of(frames, engine.colour, levels)
    seen = lumas[None], None if chromas is None else chromas[None]
    weights, told = engine.weigh_and_tell(*seen, place)
    return weights[0], told


class Work:
    """The time that an engine has worked, whichever of its copies and threads did.

    Attributes:
        seconds: summed up.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.lock = threading.Lock()

    @contextlib.contextmanager
    def on(self, shape: Sequence[int], where: object) -> Iterator[None]:
        """Time the work on tiles (..., N, h, w); `where` is named if memory lacks."""
        start = time.perf_counter()
        try:
            yield
        except RuntimeError as error:  # torch.OutOfMemoryError is a kind of it
            if "memory" not in str(error) and "alloc" not in str(error):
                raise
            raise out_of_memory(shape, where) from error
        with self.lock:
            self.seconds += time.perf_counter() - start


class TorchEngine:
    """Runs a network in torch.

    Args:
        network: torch module with the contract of network.py, in eval mode, on `device`.
        device: torch.device.
    """

    samples = most_samples = 2**23  # about 1 GB at work
    sight = PROBE

    def __init__(self, network: Any, device: Any) -> None:
        self.network = network
        self.device = device
        self.output: str = network.output
        self.has_colour = bool(network.colour)
        self.goes_beyond = getattr(network, "finish", None) is not None
        self.tile, self.overlap = TILES[network.output], OVERLAPS[network.output]
        self.work = Work()

    @property
    def seconds(self) -> float:
        """The time that its calls have taken so far, summed up."""
        return self.work.seconds

    @property
    def colour(self) -> bool:
        """Whether the network takes the chroma."""
        return self.has_colour

    def load(self) -> None:
        """Nothing is left to do."""

    def expect(self, n_frames: int, height: int, width: int) -> None:
        """Nothing is to be done."""

    def prepare(self, n_frames: int, height: int, width: int, count: int) -> int:
        """One tile at a time: torch spreads it over the cores."""
        return 1

    def for_stack(
        self, frames: np.ndarray, use: Sequence[int], levels: Levels | None = None
    ) -> Engine:
        """Itself: its network sees a tile at a time."""
        return self

    def __call__(
        self, tiles: np.ndarray, chroma: np.ndarray | None = None, place: Corner = (0, 0)
    ) -> np.ndarray:
        """Run the network on a tile, see `Engine`."""
        import torch

        with self.at_work(tiles.shape), torch.inference_mode():
            out: np.ndarray = self.network(*self.seen(tiles, chroma)).float().cpu().numpy()
        return out

    def seen(self, tiles: np.ndarray, chroma: np.ndarray | None) -> list[Any]:
        """What the network takes, on its device: luma (1, 1, N, h, w), and chroma if it does."""
        import torch

        planes = [tiles[:, None]]
        if chroma is not None and self.colour:
            planes.append(chroma)
        return [torch.from_numpy(one).to(self.device) for one in planes]

    def weigh_and_tell(
        self, tiles: np.ndarray, chroma: np.ndarray | None, place: Corner
    ) -> tuple[np.ndarray, np.ndarray]:
        """Only networks with a coarse level go beyond the mixture."""
        raise NotImplementedError

    def coefficients(self, lumas: np.ndarray, share: np.ndarray, told: np.ndarray) -> np.ndarray:
        """How much is added of each term, see `Engine`."""
        import torch

        with self.at_work(lumas.shape), torch.inference_mode():
            seen = (torch.from_numpy(part).to(self.device)[None] for part in (lumas, share, told))
            out: np.ndarray = self.network.finish.coefficients(*seen)[0].cpu().numpy()
        return out

    def at_work(self, shape: Sequence[int]) -> contextlib.AbstractContextManager[None]:
        """Time the work on tiles (..., N, h, w), and report a lack of memory in one sentence."""
        return self.work.on(shape, self.device)


class OpenVinoEngine:
    """Runs an exported network in OpenVINO on the CPU, a tile on each core if memory allows.

    The network is compiled for one shape, which takes half the memory of one for any shape and a
    sixth less time. Smaller tiles are extended by their mirror image, as the network itself would.

    Args:
        path: of the export, see tools/export.py.
        precision: "auto" (bf16 if the processor supports it), "bf16" or "fp32".
    """

    output = "weights"
    inputs: ClassVar[Sequence[str]] = ("luma", "chroma")  # that it knows
    goes_beyond = False
    sight = PROBE
    tile, overlap = TILES["weights"], OVERLAPS["weights"]
    samples, most_samples = 5 * 2**20, 14 * 2**20  # of a tile; 40 bytes each at work
    at_once: ClassVar[int] = 2 * samples  # of all tiles at work, but two of them always

    def __init__(self, path: Path, precision: str = "auto") -> None:
        self.path = Path(path)
        self.precision = precision
        self.cores = available_cores()
        self.work = Work()
        self.networks = CompiledNetworks()
        self.core: Any = None
        self.model: Any = None
        self.names: list[str] = []  # of its inputs
        # {(n_frames, height, width, streams): queue of its requests}
        self.compiled: dict[tuple[int, int, int, int], queue.Queue[Any]] = {}
        self.requests: queue.Queue[Any] = queue.Queue()
        self.shape: tuple[int, int, int] | None = None

    @property
    def seconds(self) -> float:
        """The time that its calls have taken so far, summed up."""
        return self.work.seconds

    @property
    def colour(self) -> bool:
        """Whether the export has the chroma among its inputs."""
        self.load()
        return "chroma" in self.names

    def load(self) -> None:
        """Import OpenVINO and read the export."""
        if self.core is not None:
            return
        self.core, self.tensor = the_core(), import_openvino().Tensor
        self.model = self.read(self.path)
        self.names = [node.get_any_name() for node in self.model.inputs]
        if extra := set(self.names) - set(self.inputs):
            raise StackError(
                f"{self.path} also takes {', '.join(sorted(extra))}: export its checkpoint again, "
                "so that its coarse level lies beside it"
            )
        if self.precision == "auto":
            capable = self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            self.precision = "bf16" if "BF16" in capable else "fp32"

    def read(self, path: Path) -> Any:
        """Read an export; raises StackError if it is none."""
        try:
            return self.core.read_model(path)
        except RuntimeError as error:
            raise StackError(
                f"{path} is not an exported network, or is truncated: export it again with "
                "python -m tools.export"
            ) from error

    def expect(self, n_frames: int, height: int, width: int) -> None:
        """Nothing is to be done: an exported network sees a tile at a time."""

    def prepare(self, n_frames: int, height: int, width: int, count: int) -> int:
        """Compile for `count` tiles of up to height x width px, see `Engine`."""
        self.load()
        height, width = (-(-side // GRID) * GRID for side in (height, width))
        bounded = max(self.at_once // (n_frames * height * width), 2)
        streams = min(self.cores, count, bounded)
        key = (n_frames, height, width, streams)
        if key not in self.compiled:
            while len(self.compiled) >= KEPT:
                self.compiled.pop(next(iter(self.compiled)))
            self.compiled[key] = self.compile(*key)
        self.shape, self.requests = (n_frames, height, width), self.compiled[key]
        return streams + (streams < self.cores)  # so that the network need not wait for the next

    def compile(self, n_frames: int, height: int, width: int, streams: int) -> "queue.Queue[Any]":
        """A queue of `streams` requests of the network for one shape."""
        shapes = self.shapes_of(n_frames, height, width)
        compiled = self.compiled_model(self.path, self.model, shapes, streams)
        requests: queue.Queue[Any] = queue.Queue(streams)
        for _ in range(streams):
            requests.put(compiled.create_infer_request())
        return requests

    def compiled_model(
        self, path: Path, model: Any, shapes: dict[str, list[int]], streams: int
    ) -> Any:
        """Compile the model that was read from `path` for inputs of one shape, and as many requests
        at a time."""
        settings = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32"}.get(self.precision, self.precision),
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": self.cores,
        }
        return self.networks.compiled(self.core, path, model, shapes, settings)

    def shapes_of(self, n_frames: int, height: int, width: int) -> dict[str, list[int]]:
        """The shapes of the inputs for tiles of one shape, in their order."""
        shapes = {"luma": [n_frames, height, width]}
        if self.colour:
            shapes["chroma"] = [2, n_frames, height // 2, width // 2]
        return shapes

    def seen(
        self, luma: np.ndarray, chroma: np.ndarray | None, shape: Sequence[int], place: Corner
    ) -> list[np.ndarray]:
        """The inputs for a tile.

        Args:
            luma: (N, h, w); chroma: (2, N, ceil(h/2), ceil(w/2)) or None.
            shape: (height, width) for which the network is compiled.
            place: of the tile, see `Engine`.
        """
        seen = [extended(luma, shape)]
        if chroma is not None and self.colour:
            seen.append(extended(chroma, [side // 2 for side in shape]))
        return seen

    def for_stack(
        self, frames: np.ndarray, use: Sequence[int], levels: Levels | None = None
    ) -> Engine:
        """Itself: an exported network sees a tile at a time."""
        return self

    def weigh_and_tell(
        self, tiles: np.ndarray, chroma: np.ndarray | None, place: Corner
    ) -> tuple[np.ndarray, np.ndarray]:
        """Only networks with a coarse level go beyond the mixture."""
        raise NotImplementedError

    def coefficients(self, lumas: np.ndarray, share: np.ndarray, told: np.ndarray) -> np.ndarray:
        """Only networks with a coarse level go beyond the mixture."""
        raise NotImplementedError

    def __call__(
        self, tiles: np.ndarray, chroma: np.ndarray | None = None, place: Corner = (0, 0)
    ) -> np.ndarray:
        """Run the network on a tile, see `Engine`."""
        return self.infer(tiles, chroma, place)[0]

    def infer(
        self, tiles: np.ndarray, chroma: np.ndarray | None, place: Corner
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Run the network on a tile.

        Returns:
            The weights (1, N, h, w), and what else it returns, of the tile as it was extended.
        """
        _, count, height, width = tiles.shape
        shape = self.shape
        if shape is None or shape[0] != count or height > shape[1] or width > shape[2]:
            self.prepare(count, height, width, 1)
            shape = self.shape
        assert shape is not None  # prepare has set it
        seen = self.seen(tiles[0], None if chroma is None else chroma[0], shape[1:], place)
        out = np.empty(shape, np.float32)
        request = self.requests.get()
        try:
            with self.at_work(tiles.shape):
                request.set_output_tensor(0, self.tensor(out, shared_memory=True))
                results = request.infer(seen, share_inputs=True, share_outputs=True)
                rest = [np.array(results[k]) for k in range(1, len(results))]
        finally:
            self.requests.put(request)
        return out[None, :, :height, :width], rest

    def at_work(self, shape: Sequence[int]) -> contextlib.AbstractContextManager[None]:
        """Time the work on tiles (..., N, h, w), and report a lack of memory in one sentence."""
        return self.work.on(shape, "this machine")


def extended(planes: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """(..., h, w) planes, continued at the bottom and the right to the sides of `shape`.

    As the network itself would: mirrored, or if a side is too short for that, by its last row or
    column.
    """
    for axis, most in zip((planes.ndim - 2, planes.ndim - 1), shape, strict=True):
        have = planes.shape[axis]
        if most > have:
            pads = [(0, most - have if one == axis else 0) for one in range(planes.ndim)]
            planes = np.pad(planes, pads, "reflect" if most < 2 * have else "edge")
    return planes
