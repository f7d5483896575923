"""What is shipped with the library: the default weights and the networks.

In a clone they are at the top level, where people read and train them. A wheel contains copies of
them in `stackmff/_shipped`.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
PLACE = HERE / "_shipped" if (HERE / "_shipped").is_dir() else HERE.parent
WEIGHTS = PLACE / "weights" / "checkpoint.pth"


def networks() -> ModuleType:
    """The module network.py, which defines all networks; it needs torch."""
    path = PLACE / "network.py"
    loaded = sys.modules.get("network")
    if loaded is not None and Path(loaded.__file__ or "").resolve() == path.resolve():
        return loaded
    spec = importlib.util.spec_from_file_location("network", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["network"] = module
    spec.loader.exec_module(module)
    return module


def load_network(model_path: Path, device: Any) -> Any:
    """The network of a checkpoint, in eval mode, on a torch device; see network.load_network."""
    return networks().load_network(model_path, device)
