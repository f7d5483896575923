"""Export a checkpoint of a network that weighs frames, or of yours, to ONNX, for other programs.

FILE.onnx takes luma (1, 1, N, H, W) in [0, 1] and, of a network that sees colour, chroma
(1, 2, N, H/2, W/2) in [-0.5, 0.5], see stackmff/images/colour.py; N is 2 or more, H and W are
multiples of 32. It gives the weights of the frames (1, N, H, W). This program does not need it.
"""

import argparse
import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from network import FusionNetwork, load_network
from stackmff.errors import StackError
from stackmff.files import atomic_path
from stackmff.fusion.engines import GRID
from stackmff.machine import the_core
from stackmff.options import add_options, parse
from stackmff.own import use_network
from stackmff.processes import run_main
from stackmff.shipped import networks
from tools.export import EXAMPLE, LARGEST_ERROR, ExportOptions

OPSET = 18  # the first with all that the networks need
MOST_FRAMES, MOST_CELLS = 1000, 2000  # of a stack, and along a side, in squares of GRID px


def get_parser() -> argparse.ArgumentParser:
    """The options of tools.export_onnx."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_options(
        parser,
        ExportOptions,
        details={"model_path": {"help": "checkpoint; FILE.onnx is written beside it"}},
    )
    return parser


def planes(shape: Sequence[int], colour: bool) -> dict[str, Any]:
    """Noise as the inputs of the export.

    Args:
        shape: (N, H, W).
        colour: whether the network sees chroma.
    Returns:
        {"luma": (1, 1, N, H, W), "chroma": (1, 2, N, H/2, W/2)}, float32 tensors.
    """
    n_frames, height, width = shape
    noise = torch.Generator().manual_seed(0)
    inputs = {"luma": torch.rand((1, 1, *shape), generator=noise)}
    if colour:
        halves = (1, 2, n_frames, height // 2, width // 2)
        inputs["chroma"] = torch.rand(halves, generator=noise) - 0.5
    return inputs


def write_onnx(network: FusionNetwork, path: Path) -> None:
    """Write a network, in eval mode, as ONNX; raises StackError if torch cannot export it."""
    inputs = planes(EXAMPLE, network.colour)
    n_frames = torch.export.Dim("n", min=2, max=MOST_FRAMES)
    rows, columns = (torch.export.Dim(name, min=1, max=MOST_CELLS) for name in ("h", "w"))
    sides = {
        "luma": {2: n_frames, 3: GRID * rows, 4: GRID * columns},
        "chroma": {2: n_frames, 3: GRID // 2 * rows, 4: GRID // 2 * columns},
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about its own parts
            program = torch.onnx.export(
                network,
                tuple(inputs.values()),
                dynamo=True,
                dynamic_shapes=tuple(sides[name] for name in inputs),
                input_names=list(inputs),
                output_names=["weights"],
                opset_version=OPSET,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).strip().splitlines()[0]
        raise StackError(f"torch cannot export {network.config['network']}: {reason}") from error
    assert program is not None
    program.save(path)


def largest_error(network: FusionNetwork, path: Path) -> float:
    """The largest difference of a weight, as OpenVINO runs the file, from torch's, on noise."""
    compiled = the_core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    errors = []
    for shape in ((2, 96, 64), (5, 128, 192)):
        inputs = planes(shape, network.colour)
        with torch.no_grad():
            wanted = network(*inputs.values()).numpy()
        found = compiled([part.numpy() for part in inputs.values()])[0]
        errors.append(float(np.abs(found - wanted).max()))
    return max(errors)


def export(model_path: Path) -> tuple[Path, float]:
    """Write the ONNX file of a checkpoint.

    Returns:
        (file, largest error of a weight on noise).
    Raises:
        StackError: there is no such checkpoint, its network outputs luma, a package is missing, or
            the file does not agree with torch.
    """
    if importlib.util.find_spec("onnxscript") is None:
        raise StackError("ONNX needs the package onnxscript: pip install '.[onnx]'")
    network = load_network(model_path)
    if network.output != "weights":
        raise StackError(
            f"{model_path} holds {network.config['network']}, which outputs luma, and only "
            "networks that weigh the frames are exported"
        )
    target = model_path.with_suffix(".onnx")
    with atomic_path(target) as temporary:
        write_onnx(network, temporary)
        error = largest_error(network, temporary)
        if error > LARGEST_ERROR:
            raise StackError(
                f"{target} would differ from torch by {error:.2g} on other sizes: what the network "
                "computes of the size must not become a constant"
            )
    return target, error


def main(argv: Sequence[str] | None = None) -> None:
    """Export a checkpoint and check the export."""
    (options,) = parse(get_parser(), argv, ExportOptions)
    if options.network is not None:
        use_network(networks(), options.network, options.model_path)
    target, error = export(options.model_path)
    print(f"{target}: weights within {error:.1g} of torch's, in OpenVINO")


if __name__ == "__main__":
    run_main(main)
