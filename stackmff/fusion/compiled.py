"""Compiled networks on the disk, so that only the first run of a kind compiles.

They are in the user's folder for caches: what is lost there is made anew. The environment variable
STACKMFF_CACHE names another folder, or is "off".
"""

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stackmff.errors import StackError
from stackmff.files import atomic_path, sha256
from stackmff.machine import import_openvino, processor_features

SWITCH, OFF = "STACKMFF_CACHE", "off"
SUFFIX = ".network"
MOST = 64  # files that are kept, about a megabyte each
DIGEST = hashlib.sha256().digest_size  # bytes at the beginning of a file: of what follows


def cache_folder() -> Path | None:
    """Where compiled networks are kept; None: they are not."""
    given = os.environ.get(SWITCH)
    if given:
        return None if given == OFF else Path(given)
    try:
        home = Path.home()
    except RuntimeError:  # a user without home
        return None
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "stackmff"
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or home) / "stackmff" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "stackmff"


class CompiledNetworks:
    """Compiles networks for OpenVINO's CPU, or takes what an earlier run has compiled.

    Whatever goes wrong with the files costs the time to compile, and a note.

    Attributes:
        notes: sentences on what went wrong.
    """

    def __init__(self) -> None:
        self.folder = cache_folder()
        self.notes: list[str] = []

    def compiled(
        self,
        core: Any,
        path: Path,
        model: Any,
        shapes: Mapping[str, Sequence[int]],
        settings: Mapping[str, Any],
    ) -> Any:
        """A network of fixed shape, compiled.

        Args:
            core: openvino.Core.
            path: of the export; model: as it was read from there, unchanged.
            shapes: {input: shape}.
            settings: properties of OpenVINO.
        Returns:
            openvino.CompiledModel.
        """
        place = self.place(core, path, shapes, settings)
        if place is not None and (content := self.read(place)) is not None:
            try:
                return core.import_model(content, "CPU", dict(settings))
            except RuntimeError as error:
                self.note(place, error)
        model = model.clone()
        model.reshape({name: list(shape) for name, shape in shapes.items()})
        compiled = core.compile_model(model, "CPU", dict(settings))
        if place is not None:
            self.write(place, compiled)
        return compiled

    def place(
        self,
        core: Any,
        path: Path,
        shapes: Mapping[str, Sequence[int]],
        settings: Mapping[str, Any],
    ) -> Path | None:
        """The file of a compiled network, named by all that it depends on; None: there is none."""
        if self.folder is None:
            return None
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if "EXPORT_IMPORT" not in capabilities:
            return None
        about = [
            import_openvino().get_version(),
            [platform.system(), platform.machine(), processor_features(), sorted(capabilities)],
            core.get_property("CPU", "FULL_DEVICE_NAME"),
            [sha256(path), sha256(path.with_suffix(".bin"))],
            {name: list(shape) for name, shape in shapes.items()},
            {name: str(value) for name, value in settings.items()},
        ]
        name = hashlib.sha256(json.dumps(about).encode()).hexdigest()
        return self.folder / f"{name}{SUFFIX}"

    def read(self, place: Path) -> bytes | None:
        """The content of a file; None if there is none, or it is damaged."""
        try:
            data = place.read_bytes()
            os.utime(place)  # the files that were used last are kept
        except FileNotFoundError:
            return None
        except OSError as error:
            self.note(place, error)
            return None
        digest, content = data[:DIGEST], data[DIGEST:]
        if hashlib.sha256(content).digest() != digest:
            self.note(place, "it is damaged")
            return None
        return content

    def write(self, place: Path, compiled: Any) -> None:
        """Keep a compiled network, and remove the files that were used longest ago."""
        try:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            exported = compiled.export_model()
            content = exported if isinstance(exported, bytes) else exported.getvalue()
            # After a power failure it may be damaged, which its digest shows.
            with atomic_path(place, durable=False) as temporary:
                temporary.write_bytes(hashlib.sha256(content).digest() + content)
            kept = sorted(place.parent.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime)
            for old in kept[:-MOST]:
                old.unlink(missing_ok=True)
        except (OSError, RuntimeError, StackError) as error:
            self.note(place, error)

    def note(self, place: Path, problem: str | Exception) -> None:
        """Note what went wrong with a file, once for all files of the folder."""
        cause = problem.__cause__ if isinstance(problem, StackError) else problem
        words = cause.strerror if isinstance(cause, OSError) else cause
        reason = str(words or problem).strip().partition("\n")[0]
        sentence = f"{place.parent}: a compiled network could not be kept or read: {reason}"
        if sentence not in self.notes:
            self.notes.append(sentence)
