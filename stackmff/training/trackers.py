"""Where a run is shown besides TensorBoard: Weights & Biases or MLflow, if installed."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from stackmff.errors import StackError


class Tracker(Protocol):
    """What the log of a run writes to."""

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to the curve of each name."""

    def close(self) -> None:
        """End the run, whether it is complete or not."""


class Wandb:
    """A run of Weights & Biases; it continues the run of its name and folder.

    Args:
        folder: of the run; its name is that of the run.
        options: of the run, plain JSON values.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        module = imported("wandb")
        self.run = module.init(
            project="stackmff", name=folder.name, id=folder.name, dir=str(folder), resume="allow",
            config=dict(options),
        )  # fmt: skip

    def write(self, values: Mapping[str, float], step: int) -> None:
        """See Tracker."""
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        """See Tracker."""
        self.run.finish()


class MlFlow:
    """A run of MLflow in its experiment "stackmff"; arguments as for Wandb."""

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        self.module = imported("mlflow")
        self.module.set_experiment("stackmff")
        self.module.start_run(run_name=folder.name)
        # Longer values than 500 characters are refused.
        self.module.log_params({name: str(value)[:500] for name, value in options.items()})

    def write(self, values: Mapping[str, float], step: int) -> None:
        """See Tracker."""
        self.module.log_metrics(dict(values), step=step)

    def close(self) -> None:
        """See Tracker."""
        self.module.end_run()


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "wandb": Wandb,
    "mlflow": MlFlow,
}


def imported(name: str) -> Any:
    """A package that --tracker needs; StackError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise StackError(
            f"--tracker {name} needs the package {name}: pip install {name}, or remove --tracker"
        ) from error


def tracker_of(name: str | None, folder: Path, options: Mapping[str, Any]) -> Tracker | None:
    """The tracker of --tracker; None without it.

    Raises:
        StackError: its package is not installed, or cannot begin.
    """
    if name is None:
        return None
    try:
        return TRACKERS[name](folder, options)
    except StackError:
        raise
    except Exception as error:  # of a service: no network, no login, a full disk
        raise StackError(f"{name} cannot begin the run: {type(error).__name__}: {error}") from error
