"""Weights as safetensors: a format of plain arrays that no reader has to execute.

A file is the length of a header (8 bytes, little endian), the header in JSON and the data. The
header has the type, shape and place of each array, and text about the file. Here that text is the
configuration of the network and the digest of everything else, which is compared on reading.

Source: the format of https://github.com/huggingface/safetensors, version 0.4; its package is not
needed.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stackmff.errors import StackError
from stackmff.files import atomic_path, parse_json, read_bytes

if TYPE_CHECKING:
    import torch

SUFFIX = ".safetensors"
MOST_HEADER = 100 << 20  # bytes, the bound of the format
ALIGNMENT = 8  # bytes, of the data
# {type in the header: (name in torch, bytes each)}
TYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}


def digest_of(config: str, arrays: dict[str, Any], data: bytes) -> str:
    """The SHA-256 of a configuration, of what the header says of the arrays, and of the data."""
    described = json.dumps(arrays, sort_keys=True)
    digest = hashlib.sha256(f"{config}\n{described}\n".encode())
    digest.update(data)
    return digest.hexdigest()


def write_safetensors(path: Path, config: dict[str, Any], state: dict[str, "torch.Tensor"]) -> None:
    """Write a network.

    Args:
        path: of the file.
        config: of the network, plain JSON values.
        state: its state dict, on any device.
    Raises:
        StackError: the file cannot be written.
    """
    import torch

    names = {f"torch.{name}": code for code, (name, _) in TYPES.items()}
    arrays: dict[str, Any] = {}
    parts, end = [], 0
    # Wide types first, so that each array is aligned.
    for name in sorted(state, key=lambda key: (-state[key].element_size(), key)):
        tensor = state[name].detach().cpu().contiguous()
        part = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        arrays[name] = {
            "dtype": names[str(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + len(part)],
        }
        parts.append(part)
        end += len(part)
    data, text = b"".join(parts), json.dumps(config)
    about = {"format": "pt", "config": text, "sha256": digest_of(text, arrays, data)}
    header = json.dumps({"__metadata__": about, **arrays}).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    with atomic_path(path) as temporary:
        temporary.write_bytes(len(header).to_bytes(8, "little") + header + data)


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read a network.

    Args:
        path: of the file; of one that other programs wrote, config.json of the same folder has the
            configuration.
    Returns:
        {"config", "network"}, as of network.load_checkpoint.
    Raises:
        StackError: the file cannot be read, is damaged or of another form, or no configuration is
            known.
    """
    content = read_bytes(path)
    damaged = StackError(f"{path} is not a safetensors file, or is cut short or damaged")
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(MOST_HEADER, len(content) - 8):
        raise damaged
    data = content[8 + length :]
    try:
        header = dict(parse_json(content[8 : 8 + length].decode()))
        about = dict(header.pop("__metadata__", {}))
        state = {name: array_of(entry, data) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise damaged from error
    ours = "config" in about  # others write no digest
    if ours and about.get("sha256") != digest_of(str(about["config"]), header, data):
        raise StackError(f"{path} is not as it was written: its digest differs; download it again")
    return {"config": config_of(path, about), "network": state}


def array_of(entry: dict[str, Any], data: bytes) -> "torch.Tensor":
    """The tensor of an entry of the header; ValueError where it does not fit the data."""
    import torch

    name, size = TYPES[entry["dtype"]]
    start, end = entry["data_offsets"]
    shape = [int(side) for side in entry["shape"]]
    if min([0, *shape]) < 0 or not 0 <= start <= end <= len(data):
        raise ValueError("an array lies beyond the data")
    if end - start != size * math.prod(shape):
        raise ValueError("an array has another size than its shape")
    tensor = torch.empty(shape, dtype=getattr(torch, name))
    if end > start:
        raw = torch.frombuffer(bytearray(data[start:end]), dtype=torch.uint8)
        tensor.reshape(-1).view(torch.uint8).copy_(raw)
    return tensor


def config_of(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the network in a file, from its header or from config.json beside it."""
    beside = path.with_name("config.json")
    try:
        text = about["config"] if "config" in about else beside.read_text(encoding="utf-8")
        config = dict(parse_json(text))
    except OSError as error:
        raise StackError(
            f"{path} does not say which network it is of: put its config.json beside it"
        ) from error
    except (ValueError, TypeError) as error:
        raise StackError(f"{path}: its configuration is damaged") from error
    return config
