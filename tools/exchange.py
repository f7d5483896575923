"""Weights in the forms that others read: safetensors, and a folder as of a model hub.

FOLDER/model.safetensors    the weights, with the network's configuration and a digest in its header
FOLDER/config.json          the configuration
FOLDER/README.md            the model card
Nothing is uploaded.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import network as networks
from network import build_network, load_checkpoint, load_network
from stackmff.errors import StackError
from stackmff.files import atomic_path, make_folder, sha256, write_json, write_text
from stackmff.fusion.weight_files import SUFFIX, read_safetensors, write_safetensors
from stackmff.options import Options, add_options, option, parse
from stackmff.own import use_network
from stackmff.processes import run_main
from stackmff.shipped import HUB_WEIGHTS, weights_path

WEIGHTS, CONFIG, CARD = HUB_WEIGHTS, "config.json", "README.md"

TEMPLATE = """---
license: {licence}
library_name: stackmff
pipeline_tag: image-to-image
tags:
- focus-stacking
- multi-focus-image-fusion
---

# {name}

{network} fuses the frames of a focal stack into one picture that is sharp everywhere. {what}

- {parameters:,} parameters; configuration in `{config}`
- `{weights}`: SHA-256 {digest}
- from `{source}`, SHA-256 {source_digest}

## Use

```sh
python predict.py --stack_path FRAMES --output fused.png --model_path FOLDER
```

Input: luma (1, 1, N, H, W) in [0, 1] in focus order, any N, H and W{chroma}.
Output: {output}.

## Training

{training}

## Limits

Frames must be aligned and in focus order; the program does both. What no frame shows sharp stays
blurred.
"""


@dataclass(frozen=True)
class ExchangeOptions(Options):
    """What tools.exchange is told."""

    model_path: Path = option(
        help="checkpoint, .safetensors file, or folder that this tool wrote",
        metavar="FILE",
        convert=weights_path,
    )
    output: Path | None = option(
        None, help="file to write, .pth or .safetensors (default: none)", metavar="FILE"
    )
    output_dir: Path | None = option(
        None, help="folder to write, as of a model hub (default: none)", metavar="DIR"
    )
    licence: str = option(
        "mit",
        help="licence of the weights, for the model card (default: %(default)s)",
        metavar="NAME",
    )
    network: str | None = option(
        None,
        help="the class of the network, if it is your own",
        metavar="FILE.py:CLASS",
    )

    def contradiction(self) -> str | None:
        """Nothing to write, or a file of no known kind."""
        if self.output is None and self.output_dir is None:
            return "nothing is written: give --output FILE or --output_dir DIR"
        if self.output is not None and self.output.suffix not in (".pth", SUFFIX):
            return f"--output {self.output} needs a name that ends in .pth or {SUFFIX}"
        return None


def get_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.exchange",
        description="Convert weights between .pth, safetensors and a folder as of a model hub.",
    )
    add_options(parser, ExchangeOptions)
    return parser


def read_weights(path: Path) -> dict[str, Any]:
    """What a checkpoint or a safetensors file holds.

    Returns:
        {"config", "network"} and what else a checkpoint has.
    Raises:
        StackError: it cannot be read.
    """
    return read_safetensors(path) if path.suffix == SUFFIX else load_checkpoint(path)


def checked(checkpoint: dict[str, Any], path: Path) -> Any:
    """The network of a checkpoint; StackError if its weights do not fit its configuration."""
    network = build_network(checkpoint["config"])
    try:
        network.load_state_dict(checkpoint["network"])
    except (RuntimeError, TypeError, AttributeError) as error:
        raise StackError(
            f"{path} holds other weights than {network.config['network']} has"
        ) from error
    return network


def write_pth(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint and read it back."""
    import torch

    with atomic_path(path) as temporary:
        torch.save(checkpoint, temporary)
        load_network(temporary)


def training_lines(checkpoint: dict[str, Any]) -> str:
    """What a checkpoint knows of its training, for the model card."""
    lines = [f"- {name}: {checkpoint[name]}" for name in ("epoch", "step") if name in checkpoint]
    scores = checkpoint.get("validation") or {}
    lines += [f"- validation {name}: {scores[name]:.4g}" for name in scores if name != "loss"][:2]
    versions = ", ".join(f"{k} {v}" for k, v in (checkpoint.get("versions") or {}).items())
    lines += [f"- {versions}"] if versions else []
    options = {name: v for name, v in (checkpoint.get("args") or {}).items() if v is not None}
    if options:
        lines.append(f"- options: `{json.dumps(options, default=str)}`")
    return "\n".join(lines) or "The file does not say."


def write_folder(
    folder: Path, checkpoint: dict[str, Any], network: Any, source: Path, licence: str
) -> None:
    """Write weights, configuration and model card.

    Args:
        folder: made where it is missing; files of these names are replaced.
        checkpoint, network: from `read_weights` and `checked`.
        source: what they were read from.
        licence: of the weights.
    """
    make_folder(folder)
    write_safetensors(folder / WEIGHTS, checkpoint["config"], checkpoint["network"])
    write_json(folder / CONFIG, checkpoint["config"])
    weighs = network.output == "weights"
    name = str(checkpoint["config"]["network"]).rpartition(":")[2]
    card = TEMPLATE.format(
        licence=licence,
        name=folder.resolve().name,
        network=name,
        what="It predicts the weight of each frame at each pixel, so it cannot hallucinate."
        if weighs
        else "It predicts the luma of the fused picture.",
        parameters=sum(tensor.numel() for tensor in network.parameters()),
        config=CONFIG,
        weights=WEIGHTS,
        digest=sha256(folder / WEIGHTS),
        source=source.name,
        source_digest=sha256(source),
        chroma="; chroma (1, 2, N, H/2, W/2) in [-0.5, 0.5]" if network.colour else "",
        output="weights of the frames (1, N, H, W)" if weighs else "luma (1, 1, H, W)",
        training=training_lines(checkpoint),
    )
    write_text(folder / CARD, card)


def main(argv: Sequence[str] | None = None) -> None:
    """Read weights and write them in another form."""
    (options,) = parse(get_parser(), argv, ExchangeOptions)
    if options.network is not None:
        use_network(networks, options.network, options.model_path)
    checkpoint = read_weights(options.model_path)
    network = checked(checkpoint, options.model_path)
    if (output := options.output) is not None:
        if output.suffix == SUFFIX:
            make_folder(output.parent)
            write_safetensors(output, checkpoint["config"], checkpoint["network"])
        else:
            write_pth(output, checkpoint)
        print(output)
    if (folder := options.output_dir) is not None:
        write_folder(folder, checkpoint, network, options.model_path, options.licence)
        print(folder)


if __name__ == "__main__":
    run_main(main)
