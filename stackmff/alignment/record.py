"""The file of one stack's alignment."""

import json

import numpy as np

from stackmff.alignment.geometry import Alignment
from stackmff.errors import StackError
from stackmff.files import read_bytes, write_json


def save_alignment(path, alignment, names):
    """Write an Alignment as JSON, atomically.

    Args:
        path: file; alignment: Alignment, its fields are rounded to hundredths of a px.
        names: of the frames' files, in their order.
    Raises:
        StackError: the file cannot be written.
    """
    frames = {}
    for k, name in enumerate(names):
        if k in alignment.left_out:
            frames[name] = {"left_out": alignment.left_out[k]}
        else:
            frames[name] = {
                "transform": alignment.transforms[k].tolist(),
                "gains": alignment.gains[k].tolist(),
            }
            if k in alignment.fields:
                frames[name]["field"] = _written(alignment.fields[k])
    height, width = alignment.size
    record = {"reference": names[alignment.reference], "width": width, "height": height}
    if alignment.fields:
        record["spacing"] = alignment.spacing
    write_json(path, record | {"frames": frames})


def load_alignment(path, names, size, colours):
    """Read an Alignment that `save_alignment` has written.

    Args:
        path: file; names: of the frames' files, in any order; size: (height, width) of the frames.
        colours: 1 of grey frames, 3 of others; of grey ones measured, all three have its gain.
    Returns:
        Alignment of the frames in the order of `names`.
    Raises:
        StackError: the file cannot be read or is no alignment, or is that of other frames; or its
            gains tell colours apart and the frames are grey.
    """
    try:
        record = json.loads(read_bytes(path))
        known = record["height"], record["width"]
        reference, saved = record["reference"], record["frames"]
        frames = {name: _frame_of(saved[name]) for name in [reference, *saved]}
        whole = frames[reference][0] is not None
        fields = [field for _, _, field, _ in frames.values() if field is not None]
        spacing = record["spacing"] if fields else 4
        if not isinstance(spacing, int) or spacing < 4 or spacing % 4:
            raise ValueError("no spacing")
        if any(np.abs(field).max() > max(known) for field in fields):
            raise ValueError("out of reach")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StackError(f"{path} is no alignment: write it with --save_alignment") from error
    if not whole:
        raise StackError(f"{path} leaves its own reference out: write it with --save_alignment")
    if known != tuple(size):
        raise StackError(
            f"{path} is for frames of {known[1]}x{known[0]}, these are {size[1]}x{size[0]}: "
            "align these anew"
        )
    if lost := [name for name in names if name not in frames]:
        raise StackError(f"{path} does not hold {lost[0]}: align these frames anew")
    if reference not in names:
        raise StackError(f"{path} has the reference {reference}, which is not in the stack: add it")
    chosen = [frames[name] for name in names]
    gains = np.stack([np.resize(gains, 3) for _, gains, _, _ in chosen])
    if colours == 1 and (gains != gains[:, :1]).any():
        raise StackError(
            f"{path} has an exposure for each colour, these frames are grey: align these anew"
        )
    return Alignment(
        list(names).index(reference),
        tuple(size),
        [matrix for matrix, _, _, _ in chosen],
        gains[:, :colours],
        {k: why for k, (_, _, _, why) in enumerate(chosen) if why is not None},
        {k: field for k, (_, _, field, _) in enumerate(chosen) if field is not None},
        spacing,
    )


def _written(field):
    """A field as JSON has it: a line of text for each row of x and of y, in hundredths of a px."""
    hundredths = np.rint(field * 100).astype(int)
    return {
        axis: [" ".join(map(str, row)) for row in plane]
        for axis, plane in zip("xy", hundredths.transpose(2, 0, 1).tolist())
    }


def _field_of(written):
    """The inverse of `_written`."""
    planes = [[[int(word) for word in row.split()] for row in written[axis]] for axis in "xy"]
    field = np.array(planes, np.float32).transpose(1, 2, 0) / np.float32(100)
    if not field.size or not np.isfinite(field).all():
        raise ValueError("no field")
    return np.ascontiguousarray(field)


def _frame_of(record):
    """(transform, gains, field, why left out) of a frame's record; ValueError where it is wrong."""
    if "left_out" in record:
        return None, np.ones(1), None, str(record["left_out"])
    matrix = np.array(record["transform"], np.float64)
    gains = np.array(record["gains"], np.float64)
    if matrix.shape != (2, 3) or gains.shape not in ((1,), (3,)):
        raise ValueError("wrong shape")
    if not (np.isfinite(matrix).all() and np.isfinite(gains).all() and (gains > 0).all()):
        raise ValueError("no number")
    if abs(np.linalg.det(matrix[:, :2])) < 1e-6:
        raise ValueError("flat")
    field = _field_of(record["field"]) if "field" in record else None
    return matrix, gains, field, None
