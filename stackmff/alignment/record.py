"""The alignment of a stack as a JSON file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stackmff.alignment.geometry import Alignment
from stackmff.alignment.sensor import Dirt
from stackmff.alignment.tones import KNOTS
from stackmff.errors import StackError
from stackmff.files import parse_json, read_bytes, write_json


def save_alignment(path: str | Path, alignment: Alignment, names: Sequence[str]) -> None:
    """Write an Alignment as JSON, atomically.

    Args:
        path: of the file.
        alignment: its fields are rounded to hundredths of a px.
        names: of the frames' files, in their order.
    Raises:
        StackError: the file cannot be written.
    """
    frames: dict[str, dict[str, Any]] = {}
    for k, name in enumerate(names):
        if k in alignment.left_out:
            frames[name] = {"left_out": alignment.left_out[k]}
        else:
            frames[name] = {
                "transform": alignment.transform(k).tolist(),
                "gains": alignment.gains[k].tolist(),
            }
            if k in alignment.curves:
                frames[name]["curve"] = alignment.curves[k].tolist()
            if k in alignment.fields:
                frames[name]["field"] = _written(alignment.fields[k])
    height, width = alignment.size
    record: dict[str, Any] = {
        "reference": names[alignment.reference],
        "width": width,
        "height": height,
    }
    if alignment.fields:
        record["spacing"] = alignment.spacing
    if alignment.in_light:
        record["in_light"] = True
    if alignment.dirt:
        record["dirt"] = {
            "hot": alignment.dirt.hot.tolist(),
            "runs": alignment.dirt.runs.tolist(),
            "spots": alignment.dirt.spots,
            "lines": alignment.dirt.lines,
        }
    write_json(path, record | {"frames": frames})


def load_alignment(
    path: str | Path, names: Sequence[str], size: tuple[int, int], colours: int
) -> Alignment:
    """Read an Alignment that `save_alignment` has written.

    Args:
        path: of the file.
        names: of the frames' files, in any order; the file may hold more frames.
        size: (height, width) of the frames, px.
        colours: number of gains of a frame: 1 for grey frames, whose gains are then used for all
            colours of others, or 3.
    Returns:
        Alignment of the frames in the order of `names`.
    Raises:
        StackError: the file cannot be read, is not an alignment, or belongs to other frames; or it
            has a gain for each colour and the frames are grey.
    """
    saved = _read(path)
    _check_fits(path, saved, names, size)
    chosen = [saved.frames[name] for name in names]
    gains = np.stack([np.resize(frame.gains, 3) for frame in chosen])
    if colours == 1 and (gains != gains[:, :1]).any():
        raise StackError(
            f"{path} has a gain for each colour, but these frames are grey: align them again"
        )
    return Alignment(
        list(names).index(saved.reference),
        size,
        [frame.transform for frame in chosen],
        gains[:, :colours],
        {k: frame.left_out for k, frame in enumerate(chosen) if frame.left_out is not None},
        {k: frame.field for k, frame in enumerate(chosen) if frame.field is not None},
        saved.spacing,
        dirt=saved.dirt,
        in_light=saved.in_light,
        curves={k: frame.curve for k, frame in enumerate(chosen) if frame.curve is not None},
    )


class _SavedFrame(NamedTuple):
    """What a file says of one frame, as in Alignment; `left_out` is the reason or None."""

    transform: np.ndarray | None
    gains: np.ndarray
    field: np.ndarray | None = None
    left_out: str | None = None
    curve: np.ndarray | None = None


class _Saved(NamedTuple):
    """The content of a file, as in Alignment, by the names of the frames."""

    reference: str
    size: tuple[int, int]
    frames: dict[str, _SavedFrame]
    spacing: int
    dirt: Dirt
    in_light: bool


def _read(path: str | Path) -> _Saved:
    """Read a file; StackError if it is not an alignment."""
    try:
        record = parse_json(read_bytes(path))
        size, reference = (record["height"], record["width"]), record["reference"]
        frames = {n: _frame_of(record["frames"][n]) for n in [reference, *record["frames"]]}
        fields = [frame.field for frame in frames.values() if frame.field is not None]
        spacing = record["spacing"] if fields else Alignment.spacing
        if not isinstance(spacing, int) or spacing < 4 or spacing % 4:
            raise ValueError("the spacing is not a multiple of 4")
        if any(np.abs(field).max() > max(size) for field in fields):
            raise ValueError("a displacement is out of reach")
        in_light = record.get("in_light", False)
        if not isinstance(in_light, bool):
            raise ValueError("in_light is not true or false")
        dirt = _dirt_of(record.get("dirt"), size)
        return _Saved(reference, size, frames, spacing, dirt, in_light)
    # Overflow: a number beyond the range of its type.
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise StackError(f"{path} is not an alignment: write it with --save_alignment") from error


def _check_fits(
    path: str | Path, saved: _Saved, names: Sequence[str], size: tuple[int, int]
) -> None:
    """Raise StackError if an alignment is not that of these frames."""
    if saved.frames[saved.reference].transform is None:
        raise StackError(f"{path} leaves out its own reference: write it with --save_alignment")
    if saved.size != tuple(size):
        (height, width), (own_height, own_width) = saved.size, size
        raise StackError(
            f"{path} is for frames of {width}x{height}, these are {own_width}x{own_height}: "
            "align these again"
        )
    if missing := [name for name in names if name not in saved.frames]:
        raise StackError(f"{path} does not contain {missing[0]}: align these frames again")
    if saved.reference not in names:
        raise StackError(
            f"{path} has the reference {saved.reference}, which is not in the stack: add it"
        )


def _written(field: np.ndarray) -> dict[str, list[str]]:
    """A field for JSON: a line of text for each row of x and of y, in hundredths of a px."""
    hundredths = np.rint(field * 100).astype(int)
    return {
        axis: [" ".join(map(str, row)) for row in plane]
        for axis, plane in zip("xy", hundredths.transpose(2, 0, 1).tolist())
    }


def _field_of(written: dict[str, list[str]]) -> np.ndarray:
    """The inverse of `_written`; ValueError if it is wrong."""
    planes = [[[int(word) for word in row.split()] for row in written[axis]] for axis in "xy"]
    field = np.array(planes, np.float32).transpose(1, 2, 0) / np.float32(100)
    if not field.size or not np.isfinite(field).all():
        raise ValueError("the field is empty or not finite")
    return np.ascontiguousarray(field)


def _dirt_of(written: dict[str, Any] | None, size: tuple[int, int]) -> Dirt:
    """The Dirt of the file, if any, on frames of `size`; ValueError if it is wrong."""
    if written is None:
        return Dirt()
    hot = np.array(written["hot"], int).reshape(-1, 2)
    runs = np.array(written["runs"], int).reshape(-1, 3)
    height, width = size
    inside = (hot >= 2).all() and (hot < [height - 2, width - 2]).all()
    inside = inside and (runs >= 0).all() and (runs <= [height - 1, width, width]).all()
    if not inside:
        raise ValueError("dirt is beyond the frame")
    return Dirt(hot, runs, int(written["spots"]), int(written.get("lines", 0)))


def _frame_of(record: dict[str, Any]) -> _SavedFrame:
    """A frame of the file; ValueError if it is wrong."""
    if "left_out" in record:
        return _SavedFrame(None, np.ones(1), left_out=str(record["left_out"]))
    matrix = np.array(record["transform"], np.float64)
    gains = np.array(record["gains"], np.float64)
    if matrix.shape != (2, 3) or gains.shape not in ((1,), (3,)):
        raise ValueError("the shape is wrong")
    if not (np.isfinite(matrix).all() and np.isfinite(gains).all() and (gains > 0).all()):
        raise ValueError("not finite, or a gain is not positive")
    if abs(np.linalg.det(matrix[:, :2])) < 1e-6:
        raise ValueError("the transform is singular")
    field = _field_of(record["field"]) if "field" in record else None
    curve = None if "curve" not in record else np.array(record["curve"], np.float64)
    if curve is not None and not (
        curve.shape == (KNOTS, len(gains)) and (curve >= 0).all() and (curve <= 1).all()
    ):
        raise ValueError("the curve is wrong")
    return _SavedFrame(matrix, gains, field, curve=curve)
