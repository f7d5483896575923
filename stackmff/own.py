"""A network, loss term, metric or fusion method in a file of the user's, named FILE.py:NAME.

The file is executed when it is first named, so name only files that you trust. What it defines is
entered into the table of its kind under the word that named it, and is then used as the table's own
entries are. docs/extend.md has an example of each kind.
"""

import hashlib
import importlib.util
import sys
from collections.abc import Callable, MutableMapping
from pathlib import Path
from types import ModuleType
from typing import Any

from stackmff.errors import StackError

FORM = "FILE.py:NAME"


def is_own(word: str) -> bool:
    """Whether a word has the form FILE.py:NAME."""
    file, colon, name = word.rpartition(":")
    return bool(colon) and file.endswith(".py") and name.isidentifier()


def file_of(word: str) -> Path:
    """The file that a word of the form FILE.py:NAME names."""
    return Path(word.rpartition(":")[0])


def own_object(word: str) -> Any:
    """What a word of the form FILE.py:NAME names.

    Raises:
        StackError: there is no such file, it cannot be executed, or it does not define the name.
    """
    path, name = file_of(word), word.rpartition(":")[2]
    module = _module_of(path)
    if not hasattr(module, name):
        raise StackError(f"{path} does not define {name}: give {FORM} with a name that it defines")
    return getattr(module, name)


def _module_of(path: Path) -> ModuleType:
    """The module of a file, executed once in this process."""
    if not path.is_file():
        raise StackError(f"{path} does not exist: give {FORM} with the path of your file")
    place = path.resolve()
    name = f"own_{place.stem}_{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it is executed: dataclasses look there for their module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises
        del sys.modules[name]
        raise StackError(f"{path} cannot be executed: {type(error).__name__}: {error}") from error
    return module


def add_own(
    table: MutableMapping[str, Any], word: str, entry: Callable[[Any, str], Any] | None = None
) -> None:
    """Enter what a word names into a table, if it has the form FILE.py:NAME and is not there yet.

    Args:
        table: {name: entry}; other words are left to whoever looks them up.
        word: of the user's.
        entry: makes an entry of (what is named, word), or raises StackError; None: it is one.
    """
    if word not in table and is_own(word):
        table[word] = own_object(word) if entry is None else entry(own_object(word), word)


def function(what: Any, word: str) -> Callable[..., Any]:
    """The entry of a function; StackError if it is none."""
    if not callable(what):
        raise StackError(f"{word} is not a function but {what!r}")
    called: Callable[..., Any] = what
    return called


def network_class(what: Any, word: str) -> Any:
    """The entry of a network; StackError if it lacks what network.FusionNetwork says."""
    lacks = [name for name in ("output", "colour", "options") if not hasattr(what, name)]
    if not isinstance(what, type) or lacks:
        raise StackError(
            f"{word} is not a network: it must be a subclass of torch.nn.Module with the "
            "attributes output, colour and options, as docs/extend.md shows"
            + (f"; it lacks {', '.join(lacks)}" if lacks else "")
        )
    output: object = getattr(what, "output")  # noqa: B009
    if output not in ("weights", "luma"):
        raise StackError(f"{word}: output is {output!r}, and must be 'weights' or 'luma'")
    return what


def use_network(networks: ModuleType, word: str, model_path: Path) -> None:
    """Let a checkpoint be loaded whose network is in a file of the user's.

    Args:
        networks: the module network.py.
        word: FILE.py:NAME; the file may lie elsewhere than when the network was trained.
        model_path: the checkpoint.
    Raises:
        StackError: the checkpoint holds another network.
    """
    if not is_own(word):
        raise StackError(f"--network {word} has not the form {FORM}")
    known = str(networks.load_checkpoint(model_path)["config"].get("network"))
    if known.rpartition(":")[2] != word.rpartition(":")[2] or not is_own(known):
        raise StackError(
            f"{model_path} holds {known}, not {word}: "
            + ("give the class that was trained" if is_own(known) else "remove --network")
        )
    add_own(networks.NETWORKS, word, network_class)
    networks.NETWORKS[known] = networks.NETWORKS[word]


def own_network_of(networks: ModuleType, model_path: Path) -> str | None:
    """FILE.py:NAME of the network that a checkpoint holds, if it was a file of a user's."""
    try:
        name = str(networks.load_checkpoint(model_path)["config"].get("network"))
    except StackError:
        return None
    return name if is_own(name) and name not in networks.NETWORKS else None
