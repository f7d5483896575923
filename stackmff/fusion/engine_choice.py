"""Which engine runs a checkpoint: its export in OpenVINO, or torch."""

from pathlib import Path
from typing import Any, Literal

from stackmff.errors import StackError
from stackmff.files import parse_json, sha256
from stackmff.fusion.coarse_level import OpenVinoPyramidEngine, PyramidEngine, guide_export
from stackmff.fusion.engines import TILES, Engine, OpenVinoEngine, TorchEngine
from stackmff.fusion.options import EngineOptions
from stackmff.machine import finds_gpu, need_torch, select_device
from stackmff.own import own_network_of, use_network
from stackmff.shipped import load_network, networks

EXPORT_SUFFIX = ".xml"  # of the exported network, beside its checkpoint; its weights are in .bin


def export_of(model_path: Path) -> Path | None:
    """The export that belongs to a checkpoint, or None.

    Beside checkpoint.pth lie checkpoint.xml and checkpoint.bin, with a coarse level also those of
    `guide_export`, with a stage beyond the mixture those of `stage_export`; checkpoint.json has
    the SHA-256 of the checkpoint that was exported and of them.
    """
    model_path = Path(model_path)
    path = model_path.with_suffix(EXPORT_SUFFIX)
    try:
        record = parse_json(model_path.with_suffix(".json").read_text(encoding="utf-8"))
        names = {model_path.name, path.name, path.with_suffix(".bin").name, *record}
        whole = all(sha256(model_path.with_name(name)) == record[name] for name in names)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return path if whole else None


def openvino_engine(path: Path, precision: str = "auto") -> OpenVinoEngine:
    """The engine of an export, with a coarse level if it has one; see OpenVinoEngine."""
    if not guide_export(path).is_file():
        return OpenVinoEngine(path, precision)
    return OpenVinoPyramidEngine(path, precision)


def torch_engine(model_path: Path, device: str = "auto") -> TorchEngine:
    """The engine that runs a checkpoint in torch.

    Args:
        model_path: see network.load_checkpoint.
        device: see machine.select_device.
    Raises:
        StackError: there are no such weights, or no such device.
    """
    need_torch(f"the network of {model_path} without an export")
    chosen = select_device(str(device))
    try:
        return engine_for(load_network(model_path, chosen), chosen)
    except StackError as error:
        if own := own_network_of(networks(), model_path):
            raise StackError(
                f"{model_path} holds {own}, a network from its author's own file: give --network "
                f"FILE.py:{own.rpartition(':')[2]} with that file, if you trust it"
            ) from error
        raise


def engine_for(network: Any, device: Any) -> TorchEngine:
    """The TorchEngine of a network; for one with a coarse level, that which shows it the whole."""
    if not hasattr(network, "refine"):
        return TorchEngine(network, device)
    return PyramidEngine(network, device)


def choose_engine(
    model_path: Path,
    device: str = "auto",
    engine: Literal["auto", "openvino", "torch"] = "auto",
    precision: str = "auto",
) -> Engine:
    """The engine for a checkpoint: OpenVINO on a CPU if the checkpoint has its export, else torch.

    Args:
        model_path: see network.load_checkpoint.
        device: see machine.select_device.
        engine: which it must be.
        precision: of OpenVINO, see OpenVinoEngine.
    Raises:
        StackError: there are no such weights or device, or OpenVINO is asked for without an export.
    """
    if device == "auto" and (engine == "openvino" or not (engine == "torch" or finds_gpu())):
        device = "cpu"
    on_cpu = device == "cpu"
    if engine == "torch" or not on_cpu:
        if engine == "openvino":
            raise StackError(
                f"--engine openvino runs on the CPU, not on {device}: use --device cpu"
            )
        return torch_engine(model_path, device)
    if export := export_of(model_path):
        return openvino_engine(export, precision)
    if engine == "openvino":
        raise StackError(
            f"{model_path} has no export that belongs to it: make one with "
            f"python -m tools.export --model_path {model_path}"
        )
    return torch_engine(model_path, device)


def engine_by_options(options: EngineOptions) -> Engine:
    """The engine that options ask for, also of a network in a file of the user's.

    Raises:
        StackError: as choose_engine and own.use_network.
    """
    if options.network is not None:
        need_torch("a network of your own")
        use_network(networks(), options.network, options.model_path)
    return choose_engine(options.model_path, options.device, options.engine, options.precision)


def told_of_export(model_path: Path, engine: Engine, wanted: str) -> list[str]:
    """A sentence if a checkpoint has an export that is not used because it is not its own.

    Args:
        model_path: of the checkpoint.
        engine: that was chosen.
        wanted: the option --engine.
    """
    path = Path(model_path).with_suffix(EXPORT_SUFFIX)
    is_slow = isinstance(engine, TorchEngine) and engine.device.type == "cpu" and wanted == "auto"
    if not is_slow or not path.is_file():
        return []
    return [
        f"{path} is damaged or does not match {Path(model_path).name}, so torch runs the network, "
        f"several times slower: run python -m tools.export --model_path {model_path}"
    ]


def told_of_compiling(engine: Engine) -> list[str]:
    """Sentences on compiled networks that could not be kept for the next run."""
    return engine.networks.notes if isinstance(engine, OpenVinoEngine) else []


def engine_of_module(network: Any) -> TorchEngine:
    """The engine that runs a torch module of the caller's, on the device that it is on.

    Args:
        network: with the contract of network.py; see `Engine` for what it is called with.
    Raises:
        StackError: it lacks what the contract asks for.
    """
    if getattr(network, "output", None) not in TILES or not hasattr(network, "colour"):
        raise StackError(
            f"the network {type(network).__name__} needs the attributes output ('weights' or "
            "'luma') and colour (True if it takes the chroma), as the networks of network.py have"
        )
    import torch

    first = next(iter(network.parameters()), None)
    return engine_for(network, torch.device("cpu") if first is None else first.device)
