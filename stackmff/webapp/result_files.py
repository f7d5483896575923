"""The files of a result: the worker process writes them, the server shows them."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stackmff.files import parse_json, write_json
from stackmff.images.metadata import Metadata

PART = ".part"  # suffix of a picture that is being written
GONE = "gone-"  # begins the names of folders that are being removed


class ResultFiles:
    """The paths in the folder of a result.

    Attributes:
        frames: raw samples (N, H, W, C), aligned; missing where they lie in AlignedFiles.
        fused: .npy, (H, W, C) uint16.
        focus_map: .npy, (H, W) uint16, 0 the first frame, 65535 the last.
        confidence: .npy, (H, W) uint8; missing where the network predicts no weights.
        alignment: .json; missing as `frames`, and where the frames were not aligned.
        slabs: folder of .npy, (H, W, C) uint16; missing where none were wanted.
        methods: folder of .npy, (H, W, C) of the dtype of the frames: what methods of the toolbox
            made of them.
        sources: folder of the pictures that strokes take besides frames.
        retouched: .npy, a copy of `fused` that strokes are painted on.
        record: .json, the ResultRecord, which is written last.
        strokes: .jsonl, what was painted, undone and redone, see strokes.py.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.frames = self.folder / "frames.raw"
        self.fused = self.folder / "fused.npy"
        self.focus_map = self.folder / "focus.npy"
        self.confidence = self.folder / "confidence.npy"
        self.alignment = self.folder / "alignment.json"
        self.slabs = self.folder / "slabs"
        self.methods = self.folder / "methods"
        self.sources = self.folder / "sources"
        self.retouched = self.folder / "retouched.npy"
        self.record = self.folder / "result.json"
        self.strokes = self.folder / "strokes.jsonl"


class AlignedFiles:
    """The paths in the folder of frames in register, which several results share.

    Attributes:
        frames: raw samples (N, H, W, C).
        alignment: .json; missing where the frames were not aligned.
        record: .json, the AlignedRecord, which is written last.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.frames = self.folder / "frames.raw"
        self.alignment = self.folder / "alignment.json"
        self.record = self.folder / "aligned.json"


@dataclass
class AlignedRecord:
    """What is known of frames in register besides their pixels, as JSON.

    Attributes:
        shape, dtype: of the frames.
        paths: (file, number in it or None) of each frame, in their order; a file in the folder of
            the stack by its place there.
        names: of the frames, in that order.
        notes: sentences on what was decided.
        metadata: of the reference frame, {name of a block: base64 or None}.
        distances: focus distances of the frames, m, None where one has none; or empty.
    """

    shape: Sequence[int]
    dtype: str
    paths: Sequence[Sequence[Any]]
    names: Sequence[str]
    notes: list[str]
    metadata: dict[str, str | None]
    distances: Sequence[float | None] = ()

    def save(self, path: Path) -> None:
        """Write it, atomically; StackError where that fails."""
        write_json(path, asdict(self))


def load_aligned(path: Path) -> AlignedRecord:
    """Read an AlignedRecord; ValueError or TypeError if it is none, see `check_fields`."""
    known = parse_json(path.read_bytes())
    check_fields(known, {"shape": list, "dtype": str, "paths": list, "names": list})
    check_fields(known, {"notes": list, "metadata": dict})
    return AlignedRecord(**known)


def check_fields(record: Any, kinds: Mapping[str, Any]) -> None:
    """Check what a file says that may be damaged, or in a project that somebody else has made.

    Args:
        record: of JSON.
        kinds: {field: its type, or a union of types}; other fields are not looked at.
    Raises:
        ValueError: it is no object, or a field is missing or of another type.
    """
    if not isinstance(record, dict):
        raise ValueError("it is not an object")
    for name, kind in kinds.items():
        # To Python, bool is a kind of int.
        odd = isinstance(record.get(name), bool) and kind is not bool
        if name not in record or odd or not isinstance(record[name], kind):
            raise ValueError(f"its {name} is missing or of another type")


@dataclass
class ResultRecord:
    """What is known of a result besides its pixels, as JSON.

    Attributes:
        shape, dtype: of the frames.
        files: names of the files of the frames, in the order in which they were fused.
        names: of the frames, in that order.
        kept: indices of the frames that were fused.
        area: the Box that all frames cover, px, which is a list once it was JSON; or None.
        notes: sentences on what was decided.
        metadata: of the fused picture, {name of a block: base64 or None}.
        tilt: see fusion.pipeline.tilt_of.
        first_is_near: whether the first frame is focused nearest; None: unknown.
        near_end: sentence on how that is known; empty: the user chose it, or nothing is known.
        seconds: time taken.
        options: {name: value} of the options of the page that it was made with.
        aligned: name of the folder of its frames, beside that of its run; None: they are its own.
        whole: (height, width) px of the picture that a draft stands for; None: it is no draft.
        made: when, seconds since 1970.
        regions: where something moved, each {"frame": name, "region": as of Region.record}, which
            is also what paints another frame there, see retouch.stroke_of.
    """

    shape: Sequence[int]
    dtype: str
    files: Sequence[str]
    names: Sequence[str]
    kept: Sequence[int]
    area: Sequence[int] | None
    notes: list[str]
    metadata: dict[str, str | None]
    tilt: float
    first_is_near: bool | None
    seconds: float
    options: dict[str, Any] = field(default_factory=dict)
    aligned: str | None = None
    whole: Sequence[int] | None = None
    made: float = 0.0
    regions: Sequence[dict[str, Any]] = ()
    near_end: str = ""

    def save(self, path: Path) -> None:
        """Write it, atomically; StackError where that fails."""
        write_json(path, asdict(self))


NUMBER = int | float
OF_RESULT = {
    "shape": list,
    "dtype": str,
    "files": list,
    "names": list,
    "kept": list,
    "area": list | None,
    "notes": list,
    "metadata": dict,
    "tilt": NUMBER,
    "seconds": NUMBER,
}


def load_record(path: Path) -> ResultRecord:
    """Read a ResultRecord.

    Raises:
        OSError: there is none.
        ValueError, TypeError: it is none, see `check_fields`.
    """
    record = parse_json(path.read_bytes())
    check_fields(record, OF_RESULT)
    made = ResultRecord(**record)
    words = [*made.files, *made.names, *made.notes, made.near_end]
    numbers = [*made.shape, *made.kept, *(made.area or ()), *(made.whole or ())]
    if not all(isinstance(word, str) for word in words) or len(made.names) != made.shape[0]:
        raise ValueError("its names or notes are of another type, or number")
    if len(made.shape) != 4 or not all(type(number) is int for number in numbers):
        raise ValueError("its shape, frames or area are no whole numbers")
    for region in made.regions:
        check_fields(region, {"frame": str, "region": dict})
    check_fields(vars(made), {"options": dict, "made": NUMBER})
    decode_metadata(made.metadata)
    return made


def encode_metadata(metadata: Metadata) -> dict[str, str | None]:
    """The blocks of metadata for JSON."""
    blocks = vars(metadata).items()
    return {name: value and base64.b64encode(value).decode() for name, value in blocks}


def decode_metadata(blocks: dict[str, str | None]) -> Metadata:
    """The reverse of `encode_metadata`."""
    return Metadata(
        **{name: base64.b64decode(value) if value else None for name, value in blocks.items()}
    )
