"""What runs a network for fusion/fuse.py: torch on any device, OpenVINO on a CPU.

An engine is callable(luma (1, N, h, w), chroma) -> the frames' weights (1, N, h, w) or a fused luma
(1, 1, h, w), all float32, and has

    output: "weights" or "luma"
    colour: whether it looks at the chroma too, (1, 2, N, ceil(h/2), ceil(w/2)); else that is None
    tile: side of a tile, px
    samples, most_samples: N x height x width of a tile, see fuse.tile_area
    seconds: that its calls have taken so far, summed up
    load(): gets ready what is slow to get ready; the first call would do it too
    prepare(n_frames, height, width, count): is told what tiles will come, and says how many it is
        to be given at a time, each from a thread of its own
"""

import json
import queue
import threading
import time
from pathlib import Path

import numpy as np

from stackmff.errors import StackError
from stackmff.files import sha256
from stackmff.images.colour import chroma, luma
from stackmff.machine import (
    available_cores,
    finds_gpu,
    import_openvino,
    select_device,
    the_core,
)

TILES = {"weights": 1024, "luma": 640}  # the published network runs whole up to 640x640
GRID = 32  # the networks pool by 16 or 32 px: sides of tiles, and where they start
EXPORT_SUFFIX = ".xml"  # of the exported network, beside its checkpoint; its weights are in .bin
KEPT = 4  # compiled networks, for as many shapes


def out_of_memory(shape, where):
    """The error of tiles (1, N, h, w) that do not fit into the memory of a device."""
    count, height, width = shape[-3:]
    return StackError(
        f"{count} frames in tiles of {width}x{height} do not fit into the memory of {where}: use "
        "--device cpu, or fewer frames"
    )


def weigh(engine, frames):
    """The weights (N, h, w) float32 that an engine gives the frames (N, h, w, C) of a tile."""
    return engine(luma(frames)[None], chroma(frames)[None] if engine.colour else None)[0]


class TorchEngine:
    """Runs a network of NETWORKS in torch.

    Args:
        network: in eval mode, on `device`.
        device: torch.device.
    """

    samples = most_samples = 2**23  # about 1 GB at work

    def __init__(self, network, device):
        self.network = network
        self.device = device
        self.output, self.colour = network.output, network.colour
        self.tile = TILES[network.output]
        self.seconds = 0.0

    def load(self):
        """Nothing is left to be done."""

    def prepare(self, n_frames, height, width, count):
        """One at a time: torch shares it out over the cores."""
        return 1

    def __call__(self, tiles, chroma=None):
        """See the top of this file."""
        import torch

        start = time.perf_counter()
        seen = [tiles[:, None]] + ([chroma] if self.colour else [])  # (1, 1, N, h, w) and chroma
        try:
            with torch.inference_mode():
                seen = [torch.from_numpy(planes).to(self.device) for planes in seen]
                out = self.network(*seen).float().cpu().numpy()  # the copy waits for a GPU
        except RuntimeError as error:  # torch.OutOfMemoryError is one; on the CPU it is this one
            if "memory" not in str(error):
                raise
            raise out_of_memory(tiles.shape, self.device) from error
        self.seconds += time.perf_counter() - start
        return out


class OpenVinoEngine:
    """Runs an exported network in OpenVINO on the CPU, a tile on each core where memory allows.

    A network is compiled for one shape: twice as frugal as one for any shape, and a sixth faster.
    Tiles that are smaller are extended by their mirror image, as the network itself would.

    Args:
        path: of the export, see tools/export.py.
        precision: "auto" (bf16 where the processor has it), "bf16" or "fp32".
    """

    output = "weights"
    tile = TILES["weights"]
    samples, most_samples = 5 * 2**20, 24 * 2**20  # of a tile; 40 bytes each at work
    at_work = 2 * samples  # of all tiles at work, but two of them always

    def __init__(self, path, precision="auto"):
        self.path = Path(path)
        self.precision = precision
        self.cores = available_cores()
        self.seconds = 0.0
        self.core = self.model = None
        self.compiled = {}  # {(n_frames, height, width, streams): queue of its requests}
        self.requests = None
        self.shape = None
        self.lock = threading.Lock()

    @property
    def colour(self):
        """Whether the export has a second input, the chroma."""
        self.load()
        return len(self.model.inputs) > 1

    def load(self):
        """Import OpenVINO and read the export."""
        if self.core is not None:
            return
        self.core, self.tensor = the_core(), import_openvino().Tensor
        try:
            self.model = self.core.read_model(self.path)
        except RuntimeError as error:
            raise StackError(
                f"{self.path} is no exported network, or is cut short: make it again by tools/export.py"
            ) from error
        if self.precision == "auto":
            capable = self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            self.precision = "bf16" if "BF16" in capable else "fp32"

    def prepare(self, n_frames, height, width, count):
        """Compile for tiles of up to height x width px, of which `count` will come."""
        self.load()
        height, width = (-(-side // GRID) * GRID for side in (height, width))
        bounded = max(self.at_work // (n_frames * height * width), 2)
        streams = min(self.cores, count, bounded)
        key = (n_frames, height, width, streams)
        if key not in self.compiled:
            while len(self.compiled) >= KEPT:
                self.compiled.pop(next(iter(self.compiled)))
            self.compiled[key] = self.compile(*key)
        self.shape, self.requests = key[:3], self.compiled[key]
        return streams + (streams < self.cores)  # so that the network need not wait for the next

    def compile(self, n_frames, height, width, streams):
        """A queue of `streams` requests of the network for one shape."""
        model = self.model.clone()
        shapes = {"luma": [n_frames, height, width]}
        if self.colour:
            shapes["chroma"] = [2, n_frames, height // 2, width // 2]
        model.reshape(shapes)
        compiled = self.core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": {"fp32": "f32"}.get(self.precision, self.precision),
                "NUM_STREAMS": streams,
                "INFERENCE_NUM_THREADS": self.cores,
            },
        )
        requests = queue.Queue(streams)
        for _ in range(streams):
            requests.put(compiled.create_infer_request())
        return requests

    def __call__(self, tiles, chroma=None):
        """See the top of this file."""
        _, count, height, width = tiles.shape
        fits = self.shape is not None and self.shape[0] == count
        if not fits or height > self.shape[1] or width > self.shape[2]:
            self.prepare(count, height, width, 1)
        seen = [extended(tiles[0], self.shape[1:])]
        if self.colour:
            seen.append(extended(chroma[0], [side // 2 for side in self.shape[1:]]))
        out = np.empty(self.shape, np.float32)
        request = self.requests.get()
        start = time.perf_counter()
        try:
            request.set_output_tensor(self.tensor(out, shared_memory=True))
            request.infer(seen, share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            if "memory" not in str(error) and "alloc" not in str(error):
                raise
            raise out_of_memory(tiles.shape, "this machine") from error
        finally:
            self.requests.put(request)
        with self.lock:
            self.seconds += time.perf_counter() - start
        return out[None, :, :height, :width]


def extended(planes, shape):
    """(..., h, w) planes, mirrored at the bottom and the right to sides of `shape`."""
    rest = [most - have for have, most in zip(planes.shape[-2:], shape)]
    if not any(rest):
        return planes
    return np.pad(planes, [(0, 0)] * (planes.ndim - 2) + [(0, more) for more in rest], "reflect")


def export_of(model_path):
    """The export that belongs to a checkpoint, or None.

    Beside `checkpoint.pth` lie checkpoint.xml and checkpoint.bin, and checkpoint.json says from
    which checkpoint (its SHA-256) and into which files (theirs) it was exported.
    """
    model_path = Path(model_path)
    path = model_path.with_suffix(EXPORT_SUFFIX)
    try:
        record = json.loads(model_path.with_suffix(".json").read_text(encoding="utf-8"))
        names = {model_path.name, path.name, path.with_suffix(".bin").name}
        whole = all(sha256(model_path.with_name(name)) == record[name] for name in names)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return path if whole else None


def torch_engine(model_path, device="auto"):
    """The engine that runs a checkpoint in torch.

    Args:
        model_path: see network.load_checkpoint.
        device: see utils.select_device.
    Raises:
        StackError: no such weights, or no such device.
    """
    from stackmff.shipped import load_network

    device = select_device(str(device))
    return TorchEngine(load_network(model_path, device), device)


def choose_engine(model_path, device="auto", engine="auto", precision="auto"):
    """The engine for a checkpoint: OpenVINO on a CPU where the checkpoint has its export.

    Args:
        model_path: see network.load_checkpoint.
        device: see utils.select_device.
        engine: "auto", "openvino" or "torch".
        precision: of OpenVINO, see OpenVinoEngine.
    Raises:
        StackError: no such weights or device; or OpenVINO is asked for and has no export.
    """
    if device == "auto" and (engine == "openvino" or not (engine == "torch" or finds_gpu())):
        device = "cpu"
    on_cpu = device == "cpu"
    if engine == "torch" or not on_cpu:
        if engine == "openvino":
            raise StackError(f"--engine openvino runs on the CPU, not on {device}: --device cpu")
        return torch_engine(model_path, device)
    if export := export_of(model_path):
        return OpenVinoEngine(export, precision)
    if engine == "openvino":
        raise StackError(
            f"{model_path} has no export that belongs to it: tools/export.py --model_path {model_path}"
        )
    return torch_engine(model_path, device)
