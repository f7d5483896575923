"""StackMFF: all-in-focus pictures from focal stacks.

    import stackmff

    result = stackmff.fuse("shots/")
    result.save("fused.tif")

The functions are described in stackmff/api.py. What they need is imported when they are first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stackmff.api import Aligned, Result, align, frame_weights, fuse
    from stackmff.errors import StackError

__all__ = ["Aligned", "Result", "StackError", "align", "frame_weights", "fuse"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("stackmff")
    if name not in __all__:
        raise AttributeError(f"module 'stackmff' has no attribute {name!r}")
    import importlib

    place = "stackmff.errors" if name == "StackError" else "stackmff.api"
    return getattr(importlib.import_module(place), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
