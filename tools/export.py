"""Export a checkpoint of a network that weighs frames for the CPU engine, OpenVINO, beside it."""

import argparse
import itertools
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from network import (
    FactorisedBlock,
    FusionNetwork,
    Guide,
    PyramidMix,
    evened,
    load_network,
)
from stackmff.errors import StackError
from stackmff.files import atomic_path, sha256, write_json
from stackmff.fusion.coarse_level import DETAILS, POSITIONS, STAGE_STEPS, guide_export, stage_export
from stackmff.fusion.engine_choice import EXPORT_SUFFIX, engine_for, openvino_engine
from stackmff.fusion.engines import GRID
from stackmff.fusion.fuse import frame_weights
from stackmff.machine import import_openvino
from stackmff.options import Options, add_options, option, parse
from stackmff.own import use_network
from stackmff.processes import run_main
from stackmff.shipped import networks, weights_path

EXAMPLE = (3, 3 * GRID, 2 * GRID)  # N, H, W of the stack that the network is traced on
LARGEST_ERROR = 1e-4  # of the weights of the frames, in fp32


@dataclass(frozen=True)
class ExportOptions(Options):
    """What tools.export is told."""

    model_path: Path = option(
        help="checkpoint; FILE with .xml, .bin and .json instead of its suffix is written",
        metavar="FILE",
        convert=weights_path,
    )
    network: str | None = option(
        None,
        help="the class of the network, if the checkpoint holds one of your own",
        metavar="FILE.py:CLASS",
    )


def get_parser() -> argparse.ArgumentParser:
    """The options of tools.export."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, ExportOptions)
    return parser


def fold_norms(network: nn.Module) -> nn.Module:
    """Fold each batch norm into the convolution before it; returns the network, changed.

    The mean and variance of a trained network are constants, so the two are one linear map.
    """
    for module in network.modules():
        if not isinstance(module, nn.Sequential) or len(module) < 2:
            continue
        conv, norm = cast(Any, module[0]), module[1]
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
            transpose = isinstance(conv, nn.ConvTranspose2d | nn.ConvTranspose3d)
            module[0] = fuse_conv_bn_eval(conv, norm, transpose)
            module[1] = nn.Identity()
    return network


def frames_in_3d(network: nn.Module) -> nn.Module:
    """Replace the convolutions across frames by 3x1x1 ones, in place, after norms are folded.

    No tensor then changes its layout between convolutions, which costs OpenVINO a sixth of the
    time.
    """
    for block in network.modules():
        if isinstance(block, FactorisedBlock):
            flat = cast(Any, block.b[0])
            conv = nn.Conv3d(flat.in_channels, flat.out_channels, (3, 1, 1), padding=(1, 0, 0))
            conv.weight = nn.Parameter(flat.weight.data[..., None])
            conv.bias = nn.Parameter(flat.bias.data)
            block.register_module("b", conv)
    return network


class Whole(nn.Module):
    """A network without coarse level, as OpenVINO calls it: no tensor has an axis for the batch."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, luma: torch.Tensor, chroma: torch.Tensor | None = None) -> torch.Tensor:
        """From luma (N, H, W) and chroma (2, N, H/2, W/2) to weights (N, H, W)."""
        seen = (luma[None, None],) if chroma is None else (luma[None, None], chroma[None])
        weights: torch.Tensor = self.network(*seen)[0]
        return weights


class Coarse(Whole):
    """The coarse level of a PyramidMix."""

    def forward(self, luma: torch.Tensor, *rest: torch.Tensor) -> Any:
        """From luma, chroma if the network sees it, and details, all reduced, to the guide."""
        *chroma, details = (planes[None] for planes in rest)
        guide = self.network.guide(luma[None, None], chroma[0] if chroma else None, details)
        return tuple(maps[0] for maps in guide)


class Fine(Whole):
    """The fine level of a PyramidMix."""

    def forward(self, luma: torch.Tensor, *rest: torch.Tensor) -> Any:
        """From luma, chroma if the network sees it, and both parts of the guide to weights.

        If there is a stage beyond the mixture: (weights, what it is told).
        """
        *chroma, features, logits = (planes[None] for planes in rest)
        guide = Guide(features, logits)
        seen = luma[None, None], chroma[0] if chroma else None
        if self.network.finish is not None:
            return tuple(part[0] for part in self.network.refine_and_tell(*seen, guide))
        weights: torch.Tensor = self.network.refine(*seen, guide)[0].softmax(0)
        return weights


class Stage(Whole):
    """The stage beyond the mixture of a PyramidMix."""

    def forward(self, lumas: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        """From lumas, shares and what it is told to coefficients, see beyond.Coefficients."""
        seen = (part[None] for part in (lumas, *rest))
        factors: torch.Tensor = self.network.finish.coefficients(*seen)[0]
        return factors


def convert(network: FusionNetwork) -> dict[str, Any]:
    """OpenVINO models of a network, float32, for any N, and H and W that are multiples of GRID.

    "weights" takes luma (N, H, W), if the network sees colour chroma (2, N, H/2, W/2), and if it
    has a coarse level also the two parts of its guide for the tile, see fusion/coarse_level.py. It
    gives the weights of the frames (N, H, W), and what a stage beyond the mixture is told if there
    is one, see Finish.tell. The coarse level is a model of its own, "guide": it takes what is
    reduced, luma, chroma and details (DETAILS, N, H, W), and gives the guide. So is a stage beyond
    the mixture, "stage", see beyond.Coefficients.

    Args:
        network: that weighs the frames, in eval mode; it is changed in place.
    """
    frames_in_3d(fold_norms(network))
    n_frames, height, width = EXAMPLE
    inputs = {"luma": torch.rand(EXAMPLE)}
    if network.colour:
        inputs["chroma"] = torch.rand(2, n_frames, height // 2, width // 2) - 0.5
    if not isinstance(network, PyramidMix):
        return {"weights": traced(Whole(network), inputs, ["weights"])}
    with torch.no_grad():
        for level in (network.coarse, network.fine):  # so that nothing of it is left in the graph
            weight, bias = evened(level.head.weight, cast(torch.Tensor, level.head.bias))
            level.head.weight.data, cast(Any, level.head.bias).data = weight, bias
    of_coarse = {**inputs, "details": torch.rand(DETAILS, *EXAMPLE)}
    with torch.no_grad():
        guide = Coarse(network)(*of_coarse.values())
    names = list(POSITIONS)
    models = {"guide": traced(Coarse(network), of_coarse, names)}
    outputs = ["weights"]
    if network.finish is not None:
        finish, outputs = network.finish, ["weights", "told"]
        channels = finish.terms + 1, finish.frames, network.config["finish"]
        of_stage = {
            name: torch.rand(count, height // step, width // step)
            for name, count, step in zip(
                ("lumas", "share", "told"), channels, STAGE_STEPS, strict=True
            )
        }
        models["stage"] = traced(Stage(network), of_stage, ["coefficients"], 2)
    for name, maps in zip(names, guide, strict=True):
        each = POSITIONS[name]
        sides = (each * (side // GRID + 2) for side in (height, width))
        inputs[name] = torch.rand(len(maps), n_frames, *sides)
    return models | {"weights": traced(Fine(network), inputs, outputs)}


def traced(
    module: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    varying: int = 3,
) -> Any:
    """An OpenVINO model of a module.

    Args:
        module: called with `inputs`, in their order.
        inputs: {name: example (..., N, H, W)}.
        outputs: names of what it returns.
        varying: how many of the last sides of inputs may vary.
    """
    openvino, example = import_openvino(), tuple(inputs.values())
    with warnings.catch_warnings():
        # Tracing warns that it follows one branch of the padding: none, as sides are multiples.
        warnings.simplefilter("ignore")
        # OpenVINO would have torch trace everything once more, to compare: `largest_error` does.
        module = torch.jit.trace(module.eval(), example, strict=False, check_trace=False)
        model = openvino.convert_model(
            module,
            example_input=example,
            input=[
                openvino.PartialShape([*planes.shape[:-varying], *[-1] * varying])
                for planes in inputs.values()
            ],
        )
    for nodes, names in ((model.inputs, inputs), (model.outputs, outputs)):
        for node, name in zip(nodes, names, strict=True):
            node.get_tensor().set_names({name})
    return model


def export(model_path: Path) -> float:
    """Write the export of a checkpoint; see engine_choice.export_of for its files.

    Returns:
        Largest difference of a weight from torch's, on noise, in fp32.
    Raises:
        StackError: there is no such checkpoint, its network outputs luma, or the export does not
            agree with it.
    """
    openvino = import_openvino()
    network = load_network(model_path)
    if network.output != "weights":
        raise StackError(
            f"{model_path} holds {network.config['network']}, which outputs luma, and only "
            "networks that weigh the frames are exported: predict.py runs it without an export"
        )
    try:
        models = convert(load_network(model_path))
    except RuntimeError as error:
        raise StackError(
            f"OpenVINO cannot convert {network.config['network']}: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    target = model_path.with_suffix(EXPORT_SUFFIX)
    record = {model_path.name: sha256(model_path)}
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export") as folder:
        made = Path(folder) / target.name
        places = {"guide": guide_export, "stage": stage_export, "weights": Path}
        paths = {name: at(made) for name, at in places.items()}
        for name, model in models.items():
            openvino.save_model(model, paths[name], compress_to_fp16=False)
        error = largest_error(network, made)
        if error > LARGEST_ERROR:
            raise StackError(
                f"{target}: the export differs by {error:.2g}: try another version of OpenVINO"
            )
        model_path.with_suffix(".json").unlink(missing_ok=True)  # until all files are there
        for name, suffix in itertools.product(places, (EXPORT_SUFFIX, ".bin")):
            part = paths[name].with_suffix(suffix)
            place = target.with_name(part.name)
            if name not in models:  # one that was exported before would be taken for its own
                place.unlink(missing_ok=True)
                continue
            with atomic_path(place) as temporary:
                part.replace(temporary)
            record[place.name] = sha256(place)
    write_json(model_path.with_suffix(".json"), record)
    return error


def largest_error(network: FusionNetwork, path: Path) -> float:
    """The largest difference of the export at `path` from the network, on several shapes."""
    rng, errors = np.random.default_rng(0), []
    for n_frames, height, width in ((1, 32, 32), (2, 96, 64), (5, 128, 192)):
        frames = rng.integers(0, 256, (n_frames, height, width, 3), np.uint8)
        wanted = frame_weights(frames, engine_for(network, torch.device("cpu")))
        errors.append(np.abs(frame_weights(frames, openvino_engine(path, "fp32")) - wanted).max())
    return float(max(errors))


def main(argv: Sequence[str] | None = None) -> None:
    """Export a checkpoint and check the export."""
    (options,) = parse(get_parser(), argv, ExportOptions)
    if options.network is not None:
        use_network(networks(), options.network, options.model_path)
    error = export(options.model_path)
    exported = options.model_path.with_suffix(EXPORT_SUFFIX)
    print(f"{exported}: weights within {error:.1g} of torch's")


if __name__ == "__main__":
    run_main(main)
