"""What runs the networks that estimate depth: OpenVINO, onnxruntime or torch."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from stackmff.errors import StackError
from stackmff.files import sha256
from stackmff.machine import may_have_gpu, select_device, the_core
from stackmff.options import Options, option
from stackmff.synthesis.depth_models import (
    FORMS,
    HUB,
    DepthModelOptions,
    Form,
    HubNetwork,
    form_of,
    input_size,
)

if TYPE_CHECKING:
    import torch

INSTALL = 'pip install "stackmff[depth]"'
SUFFIXES = (".onnx", ".xml")
FLOATS = ("f16", "f32", "tensor(float16)", "tensor(float)")  # names in OpenVINO and onnxruntime
MOST_COMPILED = 4  # sizes of the input; upright and wide photographs take turns
COMPILED_BYTES = 1 << 29  # roughly what the compiled networks may take together

Inputs = list[tuple[tuple[int | None, ...], str]]  # (shape, type) of each; None: a side is open
# From a network and its input to its output.
TakeDepth = Callable[["torch.nn.Module", "torch.Tensor"], "torch.Tensor"]


@dataclass(frozen=True)
class DepthEngineOptions(Options):
    """What runs a network."""

    device: str = option("auto", help="auto, cpu, cuda, cuda:K or mps")
    engine: Literal["auto", "openvino", "onnxruntime"] = option(
        "auto",
        help="what runs a file (default: onnxruntime on a GPU where it is installed for it, else "
        "OpenVINO)",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto",
        help="of the computation; with onnxruntime it is the file's (default: fp32 on a CPU, fp16 "
        "mixed with fp32 on a GPU)",
    )

    def contradiction(self) -> str | None:
        """See `Options.contradiction`."""
        if self.engine == "openvino" and self.device not in ("auto", "cpu"):
            return f"--engine openvino runs on the CPU, not on {self.device}: use --device cpu"
        return None


class DepthModel(Protocol):
    """A network that estimates depth.

    Attributes:
        form: its input, and what its output means.
        name, sha256: of its weights.
    """

    form: Form
    name: str
    sha256: str

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) px of the input for a photograph of height x width."""
        ...

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Run it on (B, 3, h, w) float32; returns (B, h', w') float32."""
        ...


def as_maps(output: Any, count: int, name: object) -> np.ndarray:
    """A network's output as (B, h, w) float32; StackError if it is not a map per picture."""
    output = np.asarray(output, np.float32)
    if output.ndim == 4 and 1 in (output.shape[1], output.shape[3]):
        output = output.squeeze(1 if output.shape[1] == 1 else 3)
    if output.ndim != 3 or len(output) != count:
        raise StackError(
            f"{name} returned {output.shape} for {count} picture(s), expected (batch, height, "
            "width): choose another output by --output_name"
        )
    return output


def files_of(path: Path) -> list[Path]:
    """A network's file and those of its weights: .bin beside .xml, .data beside a large ONNX."""
    beside = [path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else []
    beside += [Path(f"{path}.data"), Path(f"{path}_data")]
    return [path, *(file for file in beside if file.is_file())]


class FileModel:
    """A network in a file; see `DepthModel`.

    Args:
        path: ONNX, or .xml of OpenVINO.
        form: of the network; a size that the file fixes replaces its own.
    Raises:
        StackError: the file cannot be read, or its input is not a picture.
    """

    names: set[str]  # of the outputs

    def __init__(self, path: Path, form: Form) -> None:
        self.path, self.name = path, path.name
        try:
            digests = [sha256(file) for file in files_of(path)]
        except OSError as error:
            raise StackError(f"{path} cannot be read: {error.strerror}") from error
        self.sha256 = digests[0]
        if len(digests) > 1:
            self.sha256 = hashlib.sha256("".join(digests).encode()).hexdigest()
        takes = self.load(form.output)
        if len(takes) != 1 or takes[0][1] not in FLOATS:
            kinds = ", ".join(kind for _, kind in takes)
            raise StackError(
                f"{path} takes {len(takes)} input(s) ({kinds}), expected one of f32: export it "
                "with the picture as its only input, in floats"
            )
        shape = takes[0][0]
        if len(shape) != 4 or shape[1] not in (3, None) or (shape[1] is None and shape[3] == 3):
            raise StackError(
                f"{path} takes {shape}, expected (batch, 3, height, width): export it with the "
                "channels second"
            )
        self.most = shape[0]  # pictures in a batch; None: any number
        if shape[2] and shape[3]:
            fit = "stretch" if form.fit == "cover" else form.fit
            form = replace(form, size=(shape[2], shape[3]), fit=fit)
        self.form = form

    def size(self, height: int, width: int) -> tuple[int, int]:
        """See `DepthModel.size`."""
        return input_size(self.form, height, width)

    def load(self, output: str | None) -> Inputs:
        """Read the network, whose output of that name is used if there is one.

        Returns:
            Its inputs.
        """
        raise NotImplementedError

    def infer(self, inputs: np.ndarray) -> np.ndarray:
        """Run a batch of a size that the network accepts; returns its output."""
        raise NotImplementedError

    def refusal(self, shape: Sequence[int]) -> StackError:
        """The error of a network that fails with inputs of (batch, 3, height, width)."""
        return StackError(
            f"{self.path} does not accept {shape[0]} picture(s) of {shape[3]}x{shape[2]}: give "
            "another --size, or --batch_size 1"
        )

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """See `DepthModel.__call__`."""
        step = self.most or len(inputs)
        parts = []
        for start in range(0, len(inputs), step):
            part = inputs[start : start + step]
            full = np.resize(part, (step, *part.shape[1:]))  # repeats the first pictures
            parts.append(as_maps(self.infer(full), step, self.path)[: len(part)])
        return np.concatenate(parts)


class OpenVinoDepth(FileModel):
    """A file that OpenVINO runs on the CPU.

    Args:
        path, form: see `FileModel`.
        precision: "fp32" or "bf16".
        threads: cores to use.
    """

    def __init__(self, path: Path, form: Form, precision: str, threads: int) -> None:
        self.hints = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32"}.get(precision, precision),
            "INFERENCE_NUM_THREADS": threads,
        }
        self.compiled: dict[tuple[int, ...], Any] = {}
        super().__init__(path, form)

    def load(self, output: str | None) -> Inputs:
        """See `FileModel.load`."""
        self.core = the_core()
        try:
            self.model = self.core.read_model(self.path)
        except RuntimeError as error:
            raise StackError(
                f"{self.path} is not a network or is truncated: export or copy it again"
            ) from error
        self.names = {name for port in self.model.outputs for name in port.get_names()}
        self.output = output if output in self.names else None
        return [
            (sides_of(port.get_partial_shape()), port.get_element_type().get_type_name())
            for port in self.model.inputs
        ]

    def infer(self, inputs: np.ndarray) -> np.ndarray:
        """See `FileModel.infer`."""
        try:
            if inputs.shape not in self.compiled:
                self.compile(inputs.shape)
            result = self.compiled[inputs.shape](inputs)
        except RuntimeError as error:
            raise self.refusal(inputs.shape) from error
        return result[self.output] if self.output else result[0]

    def compile(self, shape: tuple[int, ...]) -> None:
        """Compile the network for inputs of one shape; the oldest of the others are dropped."""
        room = COMPILED_BYTES // sum(file.stat().st_size for file in files_of(self.path))
        while len(self.compiled) >= max(1, min(MOST_COMPILED, room)):
            del self.compiled[next(iter(self.compiled))]
        model = self.model.clone()
        model.reshape({model.inputs[0]: list(shape)})
        self.compiled[shape] = self.core.compile_model(model, "CPU", self.hints)


def sides_of(shape: Any) -> tuple[int | None, ...]:
    """An openvino.PartialShape as a tuple; None where a side is open."""
    if shape.rank.is_dynamic:
        return (None, 3, None, None)
    return tuple(None if side.is_dynamic else side.get_length() for side in shape)


class OnnxRuntimeDepth(FileModel):
    """An ONNX file that onnxruntime runs, on a GPU if its build can.

    Args:
        path, form: see `FileModel`.
        device: torch.device or its name.
        threads: cores to use.
    """

    def __init__(self, path: Path, form: Form, device: "torch.device | str", threads: int) -> None:
        self.device, self.threads = str(device), threads
        super().__init__(path, form)

    def load(self, output: str | None) -> Inputs:
        """See `FileModel.load`."""
        try:
            import onnxruntime
        except ImportError as error:
            raise StackError(f"running {self.path} there needs onnxruntime: {INSTALL}") from error
        providers: list[Any] = ["CPUExecutionProvider"]
        if self.device.startswith("cuda"):
            if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
                raise StackError(
                    f"--device {self.device} needs a build of onnxruntime for GPUs: "
                    "pip install onnxruntime-gpu"
                )
            index = int(self.device.partition(":")[2] or 0)
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": index}))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 4  # our own message is enough
        try:
            self.session = onnxruntime.InferenceSession(str(self.path), options, providers)
        except Exception as error:  # its classes of errors are not public
            raise StackError(
                f"{self.path} is not a network for onnxruntime on {self.device}, or is truncated "
                f"({first_line(error)}): export it again"
            ) from error
        # It falls back to the CPU silently if it finds no CUDA of its version.
        if len(providers) > 1 and "CUDAExecutionProvider" not in self.session.get_providers():
            raise StackError(
                f"--device {self.device}: onnxruntime finds no CUDA that it can use: install the "
                "version that its documentation names, or use --device cpu"
            )
        names = [port.name for port in self.session.get_outputs()]
        self.names = set(names)
        self.output = output if output in self.names else names[0]
        return [
            (tuple(side if isinstance(side, int) else None for side in port.shape), port.type)
            for port in self.session.get_inputs()
        ]

    def infer(self, inputs: np.ndarray) -> np.ndarray:
        """See `FileModel.infer`."""
        port = self.session.get_inputs()[0]
        inputs = inputs.astype(np.float16 if "float16" in port.type else np.float32, copy=False)
        try:
            return self.session.run([self.output], {port.name: inputs})[0]
        except Exception as error:
            raise self.refusal(inputs.shape) from error


class HubModel:
    """A network of HUB that torch runs; see `DepthModel`.

    Args:
        name: in HUB.
        device: where it runs.
        precision: "fp32", "fp16" or "bf16".
    Raises:
        StackError: a package is missing, or the download fails.
    """

    def __init__(self, name: str, device: "torch.device", precision: str) -> None:
        hub = HUB[name]
        self.name, self.device, self.precision = hub.name, device, precision
        self.form = FORMS[hub.form]
        load = load_transformers if hub.source == "transformers" else load_torch_hub
        self.network, self.take = load(name, hub)
        self.sha256 = hash_weights(self.network)
        self.network = self.network.to(device).eval()

    def size(self, height: int, width: int) -> tuple[int, int]:
        """See `DepthModel.size`."""
        return input_size(self.form, height, width)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """See `DepthModel.__call__`."""
        import torch

        kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.precision)
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self.device.type, kind, enabled=kind is not None),
            ):
                output = self.take(self.network, torch.from_numpy(inputs).to(self.device))
                maps = output.float().cpu().numpy()
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            raise StackError(
                f"{len(inputs)} photographs do not fit in the memory of {self.device}: lower "
                "--batch_size"
            ) from error
        return as_maps(maps, len(inputs), self.name)


def load_transformers(name: str, hub: HubNetwork) -> tuple["torch.nn.Module", TakeDepth]:
    """A network of transformers, and how its depth is taken."""
    try:
        from transformers import AutoModelForDepthEstimation
    except ImportError as error:
        raise StackError(f"--model {name} needs transformers: {INSTALL}") from error
    try:
        network = AutoModelForDepthEstimation.from_pretrained(hub.name)
    except (OSError, ValueError, RuntimeError) as error:
        raise StackError(
            f"--model {name} cannot be downloaded ({first_line(error)}): check the connection, or "
            "give a file of it"
        ) from error
    return network, lambda network, inputs: network(pixel_values=inputs).predicted_depth


def load_torch_hub(name: str, hub: HubNetwork) -> tuple["torch.nn.Module", TakeDepth]:
    """A network of torch.hub, and how its depth is taken."""
    import torch

    try:
        network = torch.hub.load(hub.source, hub.name, pretrain=True, trust_repo=True)
    except ImportError as error:
        raise StackError(f"--model {name} needs {error.name or error}: {INSTALL}") from error
    except Exception as error:  # what a repository's own code may raise
        raise StackError(
            f"--model {name} cannot be downloaded from {hub.source} ({first_line(error)}): check "
            "the connection, or give a file of it"
        ) from error
    return network, lambda network, inputs: network.inference({"input": inputs})[0]


def first_line(error: Exception) -> str:
    """The first line of an error's message, without a full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".")


def hash_weights(network: "torch.nn.Module") -> str:
    """SHA-256 of a network's weights and their names, whatever file they came from."""
    import torch

    digest = hashlib.sha256()
    for name, values in sorted(network.state_dict().items()):
        digest.update(name.encode())
        # As bytes, because NumPy has no bfloat16.
        values = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(values.numpy().data)
    return digest.hexdigest()


def open_model(network: DepthModelOptions, engine: DepthEngineOptions, threads: int) -> DepthModel:
    """The network that the options ask for.

    Args:
        network: which one.
        engine: what runs it.
        threads: cores to use.
    Raises:
        StackError: it is not available, or has no known form.
    """
    if network.model in HUB:
        device = select_device(engine.device)
        precision = engine.precision
        if precision == "auto":
            precision = "fp16" if device.type == "cuda" else "fp32"
        return HubModel(network.model, device, precision)
    path = Path(network.model)
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        raise StackError(
            f"--model {network.model} is neither a file (.onnx, .xml) nor one of {', '.join(HUB)}"
        )
    model = open_file(path, form_of(path, network), engine, threads)
    if network.output_name and network.output_name not in model.names:
        names = ", ".join(sorted(model.names))
        raise StackError(
            f"{path} has no output {network.output_name}: --output_name must be one of {names}"
        )
    return model


def open_file(path: Path, form: Form, engine: DepthEngineOptions, threads: int) -> FileModel:
    """A network in a file, in OpenVINO or onnxruntime.

    Args:
        path, form: see `FileModel`.
        engine: what runs it.
        threads: cores to use.
    Raises:
        StackError: the options do not fit files, or the file cannot be read.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", engine.device):
        raise StackError(
            f"--device {engine.device} cannot run a file such as {path}: use --device cpu or cuda:K"
        )
    on_gpu = runs_on_gpu(engine)
    if on_gpu or engine.engine == "onnxruntime":
        if engine.precision in ("fp16", "bf16"):
            raise StackError(
                f"{path} runs in onnxruntime, which has the file's own precision: remove "
                "--precision"
            )
        device = engine.device.replace("auto", "cuda") if on_gpu else "cpu"
        return OnnxRuntimeDepth(path, form, device, threads)
    if engine.precision == "fp16":
        raise StackError(f"{path} runs on the CPU, which has no fp16: --precision fp32 or bf16")
    # The steps of bf16, a hundredth each, would be visible as steps of the blur.
    precision = "fp32" if engine.precision == "auto" else engine.precision
    return OpenVinoDepth(path, form, precision, threads)


def runs_on_gpu(engine: DepthEngineOptions) -> bool:
    """Whether a file runs on a GPU: where one is asked for, or onnxruntime finds one."""
    if engine.engine == "openvino" or engine.device == "cpu":
        return False
    if engine.device != "auto":
        return True
    if not may_have_gpu():
        return False
    try:
        from onnxruntime import get_available_providers
    except ImportError:
        return False
    return "CUDAExecutionProvider" in get_available_providers()
