"""Frames as they were decoded when they were examined, kept until they are fused.

So each frame is decoded once, in a process with a limit of time and memory.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stackmff.files import parse_json, write_json
from stackmff.images.decoded import Decoded
from stackmff.images.formats import decode
from stackmff.images.stack_files import FramePath, Page
from stackmff.webapp.result_files import decode_metadata, encode_metadata


def keep(decoded: Decoded, path: Path) -> None:
    """Write a frame to `path`, .npy, and what is known of it beside it, which is written last."""
    np.save(path, decoded.picture)
    blocks = encode_metadata(decoded.metadata)
    known = {"metadata": blocks, "orientation": decoded.orientation, "note": decoded.note}
    write_json(path.with_suffix(".json"), known)


def is_kept(path: str | Path) -> bool:
    """Whether there is a whole frame at the `path` of `keep`."""
    path = Path(path)
    return path.is_file() and path.with_suffix(".json").is_file()


def forget(path: str | Path) -> None:
    """Remove the files of a frame, if there are any."""
    for file in (Path(path).with_suffix(".json"), Path(path)):
        with contextlib.suppress(OSError):
            file.unlink()


@dataclass(frozen=True)
class KeptFrame(Page):
    """A frame that is kept; it has the name of the original.

    Attributes:
        original: path, or frame in a file.
        kept: as of `keep`.
    """

    original: FramePath
    kept: Path

    @property
    def stem(self) -> str:
        return self.original.stem

    @property
    def suffix(self) -> str:
        return self.original.suffix

    def __str__(self) -> str:
        return str(self.original)

    def decode(self, orientation: int | None = None, lenient: bool = False) -> Decoded:
        """As of formats.decode; with another orientation the original is decoded again."""
        if orientation is not None:
            return decode(self.original, orientation, lenient)
        known: dict[str, Any] = parse_json(self.kept.with_suffix(".json").read_bytes())
        picture = np.load(self.kept, mmap_mode="r")
        blocks = decode_metadata(known["metadata"])
        return Decoded(np.asarray(picture), blocks, known["orientation"], known["note"])


def with_kept(frames: list[FramePath], kept: list[str]) -> list[FramePath]:
    """Frames from what is kept of them, if that is all of them; else the frames themselves."""
    if len(kept) != len(frames) or not all(map(is_kept, kept)):
        return frames
    pairs = zip(frames, kept, strict=True)
    return [KeptFrame(frame.parent, 1, 1, frame, Path(path)) for frame, path in pairs]
