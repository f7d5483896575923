"""What runs the networks that see depth: OpenVINO, onnxruntime or torch.

`open_model` gives something that has

    form: its Form, see synthesis/depth_models.py
    name, sha256: of its weights
    size(height, width): (h, w) of its input for such a photograph

and is callable(inputs (B, 3, h, w) float32) -> (B, h', w') float32.
"""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from stackmff.errors import StackError
from stackmff.files import sha256
from stackmff.machine import may_have_gpu, select_device, the_core
from stackmff.synthesis.depth_models import FORMS, HUB, form_of, input_size

INSTALL = "pip install -r requirements-depth.txt"
SUFFIXES = (".onnx", ".xml")
FLOATS = ("f16", "f32", "tensor(float16)", "tensor(float)")  # as OpenVINO and onnxruntime say
MOST_COMPILED = 4  # sizes of the input; upright and wide photographs take turns
COMPILED_BYTES = 1 << 29  # about what the compiled networks may take together


def as_maps(output, count, name):
    """A network's output as (B, h, w) float32; StackError where it is no map for each picture."""
    output = np.asarray(output, np.float32)
    if output.ndim == 4 and 1 in (output.shape[1], output.shape[3]):
        output = output.squeeze(1 if output.shape[1] == 1 else 3)
    if output.ndim != 3 or len(output) != count:
        raise StackError(
            f"{name} gives {output.shape} for {count} picture(s), expected (batch, height, width): "
            "name another output by --output_name"
        )
    return output


def files_of(path):
    """A network's file, and beside it those of its weights: .bin of .xml, .data of a large ONNX."""
    beside = [path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else []
    beside += [Path(f"{path}.data"), Path(f"{path}_data")]
    return [path, *(file for file in beside if file.is_file())]


class FileModel:
    """A network in a file; see the top of this module.

    Args:
        path: ONNX, or .xml of OpenVINO; form: Form, whose size the file's own has priority over.
    Raises:
        StackError: the file cannot be read, or takes no picture.
    """

    def __init__(self, path, form):
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
                "with the picture alone, as floats"
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

    def size(self, height, width):
        return input_size(self.form, height, width)

    def load(self, output):
        """Read the network. Returns [(shape, type)] of its inputs; None: a side is left open."""
        raise NotImplementedError

    def infer(self, inputs):
        """Run a batch that the network takes as it is. Returns its output as an array."""
        raise NotImplementedError

    def refusal(self, shape):
        """The StackError of a network that fails with inputs of (batch, 3, height, width)."""
        return StackError(
            f"{self.path} does not take {shape[0]} picture(s) of {shape[3]}x{shape[2]}: give "
            "another --size, or --batch_size 1"
        )

    def __call__(self, inputs):
        step = self.most or len(inputs)
        parts = []
        for start in range(0, len(inputs), step):
            part = inputs[start : start + step]
            full = np.resize(part, (step, *part.shape[1:]))  # repeats the first ones
            parts.append(as_maps(self.infer(full), step, self.path)[: len(part)])
        return np.concatenate(parts)


class OpenVinoDepth(FileModel):
    """Runs a file in OpenVINO on the CPU.

    Args:
        path, form: see FileModel.
        precision: "fp32" or "bf16".
        threads: cores to use.
    """

    def __init__(self, path, form, precision, threads):
        self.hints = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32"}.get(precision, precision),
            "INFERENCE_NUM_THREADS": threads,
        }
        self.compiled = {}
        super().__init__(path, form)

    def load(self, output):
        self.core = the_core()
        try:
            self.model = self.core.read_model(self.path)
        except RuntimeError as error:
            raise StackError(
                f"{self.path} is no network, or is cut short: export or copy it again"
            ) from error
        self.names = {name for port in self.model.outputs for name in port.get_names()}
        self.output = output if output in self.names else None
        return [
            (sides_of(port.get_partial_shape()), port.get_element_type().get_type_name())
            for port in self.model.inputs
        ]

    def infer(self, inputs):
        try:
            if inputs.shape not in self.compiled:
                self.compile(inputs.shape)
            result = self.compiled[inputs.shape](inputs)
        except RuntimeError as error:
            raise self.refusal(inputs.shape) from error
        return result[self.output] if self.output else result[0]

    def compile(self, shape):
        """Make the network for inputs of one shape ready, and drop the oldest of the others."""
        room = COMPILED_BYTES // sum(file.stat().st_size for file in files_of(self.path))
        while len(self.compiled) >= max(1, min(MOST_COMPILED, room)):
            del self.compiled[next(iter(self.compiled))]
        model = self.model.clone()
        model.reshape({model.inputs[0]: list(shape)})
        self.compiled[shape] = self.core.compile_model(model, "CPU", self.hints)


def sides_of(shape):
    """An openvino.PartialShape as a tuple, None where a side is left open."""
    if shape.rank.is_dynamic:
        return (None, 3, None, None)
    return tuple(None if side.is_dynamic else side.get_length() for side in shape)


class OnnxRuntimeDepth(FileModel):
    """Runs an ONNX file in onnxruntime, on a GPU where its build can.

    Args:
        path, form: see FileModel.
        device: torch.device or its name.
        threads: cores to use.
    """

    def __init__(self, path, form, device, threads):
        self.device, self.threads = str(device), threads
        super().__init__(path, form)

    def load(self, output):
        try:
            import onnxruntime
        except ImportError as error:
            raise StackError(
                f"to run {self.path} there, onnxruntime is needed: {INSTALL}"
            ) from error
        providers = ["CPUExecutionProvider"]
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
        options.log_severity_level = 4  # our own sentence is enough
        try:
            self.session = onnxruntime.InferenceSession(str(self.path), options, providers)
        except Exception as error:  # its classes of errors are its own
            raise StackError(
                f"{self.path} is no network for onnxruntime on {self.device}, or is cut short "
                f"({first_line(error)}): export it again"
            ) from error
        # It takes the CPU in silence where it finds no CUDA of its version.
        if len(providers) > 1 and "CUDAExecutionProvider" not in self.session.get_providers():
            raise StackError(
                f"--device {self.device}: onnxruntime finds no CUDA that it can use: install the "
                "version that its pages name, or use --device cpu"
            )
        self.names = [port.name for port in self.session.get_outputs()]
        self.output = output if output in self.names else self.names[0]
        return [
            (tuple(side if isinstance(side, int) else None for side in port.shape), port.type)
            for port in self.session.get_inputs()
        ]

    def infer(self, inputs):
        port = self.session.get_inputs()[0]
        inputs = inputs.astype(np.float16 if "float16" in port.type else np.float32, copy=False)
        try:
            return self.session.run([self.output], {port.name: inputs})[0]
        except Exception as error:
            raise self.refusal(inputs.shape) from error


class HubModel:
    """A network of HUB, run by torch.

    Args:
        name: in HUB.
        device: torch.device.
        precision: "fp32", "fp16" or "bf16".
    Raises:
        StackError: a package is missing, or the network cannot be had.
    """

    def __init__(self, name, device, precision):
        source, there, form = HUB[name]
        self.name, self.device = there, device
        self.precision = precision
        self.form = FORMS[form]
        self.load = load_transformers if source == "transformers" else load_torch_hub
        self.network, self.take = self.load(name, source, there)
        self.sha256 = hash_weights(self.network)
        self.network = self.network.to(device).eval()

    def size(self, height, width):
        return input_size(self.form, height, width)

    def __call__(self, inputs):
        import torch

        kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.precision)
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self.device.type, kind, enabled=kind is not None),
            ):
                output = self.take(self.network, torch.from_numpy(inputs).to(self.device))
                output = output.float().cpu().numpy()
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            raise StackError(
                f"{len(inputs)} photographs do not fit into the memory of {self.device}: lower "
                "--batch_size"
            ) from error
        return as_maps(output, len(inputs), self.name)


def load_transformers(name, _, there):
    """(network, function that takes the depth from it) of transformers."""
    try:
        from transformers import AutoModelForDepthEstimation
    except ImportError as error:
        raise StackError(f"--model {name} needs transformers: {INSTALL}") from error
    try:
        network = AutoModelForDepthEstimation.from_pretrained(there)
    except (OSError, ValueError, RuntimeError) as error:
        raise StackError(
            f"--model {name} cannot be had ({first_line(error)}): is there a network? A file of it "
            "can be given instead"
        ) from error
    return network, lambda network, inputs: network(pixel_values=inputs).predicted_depth


def load_torch_hub(name, source, there):
    """(network, function that takes the depth from it) of torch.hub."""
    import torch

    try:
        network = torch.hub.load(source, there, pretrain=True, trust_repo=True)
    except ImportError as error:
        raise StackError(f"--model {name} needs {error.name or error}: {INSTALL}") from error
    except Exception as error:  # what a repository's own code may raise
        raise StackError(
            f"--model {name} cannot be had from {source} ({first_line(error)}): is there a "
            "network? A file of it can be given instead"
        ) from error
    return network, lambda network, inputs: network.inference({"input": inputs})[0]


def first_line(error):
    """What an error says in its first line, without its full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".")


def hash_weights(network):
    """SHA-256 of a network's weights by their names, whatever file they came from."""
    import torch

    digest = hashlib.sha256()
    for name, values in sorted(network.state_dict().items()):
        digest.update(name.encode())
        # As bytes, because NumPy has no bfloat16.
        values = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(values.numpy().data)
    return digest.hexdigest()


def open_model(args, threads):
    """The network that the options ask for; see the top of this module.

    Args:
        args: model, kind, size, mean, std, meaning, step, output_name, engine, device, precision.
        threads: cores to use.
    Raises:
        StackError: it cannot be had, or is of no known form.
    """
    if args.model in HUB:
        device = select_device(args.device)
        precision = args.precision
        if precision == "auto":
            precision = "fp16" if device.type == "cuda" else "fp32"
        return HubModel(args.model, device, precision)
    path = Path(args.model)
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        raise StackError(
            f"--model {args.model} is no file (.onnx, .xml) and no name of ours: {', '.join(HUB)}"
        )
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", args.device):
        raise StackError(
            f"--device {args.device} runs no file such as {path}: use --device cpu or cuda:K"
        )
    form = form_of(path, args)
    on_gpu = runs_on_gpu(args)
    if on_gpu or args.engine == "onnxruntime":
        if args.precision in ("fp16", "bf16"):
            raise StackError(
                f"{path} runs in onnxruntime, which has the file's own precision: leave "
                "--precision away"
            )
        device = args.device.replace("auto", "cuda") if on_gpu else "cpu"
        model = OnnxRuntimeDepth(path, form, device, threads)
    elif args.precision == "fp16":
        raise StackError(f"{path} runs on the CPU, which has no fp16: --precision fp32 or bf16")
    else:
        # Of bf16's steps of a hundredth each would be seen as a step of the blur.
        precision = "fp32" if args.precision == "auto" else args.precision
        model = OpenVinoDepth(path, form, precision, threads)
    if args.output_name and args.output_name not in model.names:
        names = ", ".join(sorted(model.names))
        raise StackError(f"{path} has no output {args.output_name}: --output_name is of {names}")
    return model


def runs_on_gpu(args):
    """Whether a file is run on a GPU: where one is asked for, or is there with its onnxruntime."""
    if args.engine == "openvino" or args.device == "cpu":
        return False
    if args.device != "auto":
        return True
    if not may_have_gpu():
        return False
    try:
        from onnxruntime import get_available_providers
    except ImportError:
        return False
    return "CUDAExecutionProvider" in get_available_providers()
