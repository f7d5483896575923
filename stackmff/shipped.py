"""What is shipped with the library: the default weights and the networks.

In a clone they are at the top level, where people read and train them. A wheel contains copies of
them in `stackmff/_shipped`.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
PLACE = HERE / "_shipped" if (HERE / "_shipped").is_dir() else HERE.parent
WEIGHTS = PLACE / "weights" / "checkpoint.pth"
HUB_WEIGHTS = "model.safetensors"  # in a folder as of a model hub, see tools/exchange.py


def weights_path(path: str | Path) -> Path:
    """The file of weights that a path means: itself, or that in a folder as of a model hub."""
    inside = Path(path) / HUB_WEIGHTS
    return inside if inside.is_file() else Path(path)


def networks() -> ModuleType:
    """The module network.py, which defines every network; it needs torch.

    Where `import network` finds that very file it is that module, so that there is one of it. Else
    it gets a name of its own: the caller may have another module called network.
    """
    path = PLACE / "network.py"
    found = importlib.util.find_spec("network")
    if found is not None and found.origin and Path(found.origin).resolve() == path.resolve():
        return importlib.import_module("network")
    name = "stackmff.shipped_network"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def load_network(model_path: Path, device: Any) -> Any:
    """The network of a checkpoint, in eval mode, on a torch device; see network.load_network."""
    return networks().load_network(model_path, device)
