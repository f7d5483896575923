"""How the frames of a stack lie on its reference: the record of it, its file, what frames cover."""

import json
from dataclasses import dataclass, field

import numpy as np

from utils import StackError, read_bytes, write_json

NEAR = 0.02  # px; so near to its border a frame still covers


@dataclass
class Alignment:
    """How the frames of a stack lie on its reference.

    Attributes:
        reference: index of the frame.
        size: (height, width) of the frames, px.
        transforms: for each frame (2, 3) float64, from pixel (x, y) of the reference to pixel of
            the frame, centres of pixels at integers; None for a frame that is left out.
        gains: (N, 3) float64, (N, 1) for grey: factors on the frames' coded values, alpha not.
        left_out: {index: why, in words that go on after the frame's name}.
    """

    reference: int
    size: tuple
    transforms: list
    gains: np.ndarray
    left_out: dict = field(default_factory=dict)

    @property
    def moved(self):
        """For each frame whether it is resampled."""
        return [
            matrix is not None and not np.array_equal(matrix, np.eye(2, 3))
            for matrix in self.transforms
        ]

    @property
    def kept(self):
        """Indices of the frames that are not left out."""
        return [k for k, matrix in enumerate(self.transforms) if matrix is not None]


def covered(alignment, index, top, bottom, left, right):
    """Which pixels of a window of the reference a frame covers.

    Args:
        alignment: Alignment; index: of a frame that is kept.
        top, bottom, left, right: of the window, px, bottom and right exclusive.
    Returns:
        None where it covers the whole window, else (h, w) bool.
    """
    if not alignment.moved[index]:
        return None
    matrix = alignment.transforms[index]
    room = np.array([alignment.size[1] - 1, alignment.size[0] - 1])
    x, y = np.array([left, right - 1]), np.array([top, bottom - 1])
    corners = _places(matrix, x, y)  # a frame is convex: the corners tell
    if ((corners >= -NEAR) & (corners <= room + NEAR)).all():
        return None
    places = _places(matrix, np.arange(left, right), np.arange(top, bottom))
    return ((places >= -NEAR) & (places <= room + NEAR)).all(-1)


def _places(matrix, x, y):
    """(len(y), len(x), 2): where the pixels at columns x and rows y come from, as x and y."""
    return x[None, :, None] * matrix[:, 0] + y[:, None, None] * matrix[:, 1] + matrix[:, 2]


def common_area(alignment):
    """The largest upright rectangle that every kept frame covers.

    Args:
        alignment: Alignment.
    Returns:
        (top, bottom, left, right) px of the reference, bottom and right exclusive.
    Raises:
        StackError: the frames have nothing in common.
    """
    from scipy.optimize import minimize

    height, width = alignment.size
    room = np.array([width - 1, height - 1])
    # Half planes normal @ (x, y) <= bound, four of each frame and four of the reference.
    normals, bounds = [], []
    for matrix in [np.eye(2, 3), *(alignment.transforms[k] for k in alignment.kept)]:
        normals += [*matrix[:, :2], *-matrix[:, :2]]
        bounds += [*(room - matrix[:, 2]), *matrix[:, 2]]
    normals, bounds = np.array(normals), np.array(bounds) + NEAR / 2
    # Of a rectangle (top, bottom, left, right) the corner that lies farthest out must be inside.
    across, down = normals.T
    rows = np.stack([np.minimum(down, 0), np.maximum(down, 0)], 1)
    columns = np.stack([np.minimum(across, 0), np.maximum(across, 0)], 1)
    sides = np.hstack([rows, columns])  # (half planes, 4)

    def less(rectangle):
        """Minus the logarithm of the area, which is convex, and its slope."""
        high, wide = np.maximum(np.diff(rectangle)[[0, 2]] + 1, 1e-3)
        return -np.log(high * wide), np.array([1 / high, -1 / high, 1 / wide, -1 / wide])

    inside = {
        "type": "ineq",
        "fun": lambda rectangle: bounds - sides @ rectangle,
        "jac": lambda rectangle: -sides,
    }
    start = np.array([0.4 * height, 0.6 * height, 0.4 * width, 0.6 * width])
    found = minimize(less, start, jac=True, method="SLSQP", constraints=[inside])
    top, left = (int(side) for side in np.ceil(found.x[::2] - NEAR / 4))
    bottom, right = (int(side) for side in np.floor(found.x[1::2] + NEAR / 4))
    if right < left or bottom < top or (sides @ [top, bottom, left, right] > bounds + NEAR).any():
        raise StackError("the frames have no area in common: leave out --crop, or some of them")
    return top, bottom + 1, left, right + 1


def save_alignment(path, alignment, names):
    """Write an Alignment as JSON, atomically.

    Args:
        path: file; alignment: Alignment; names: of the frames' files, in their order.
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
    height, width = alignment.size
    record = {"reference": names[alignment.reference], "width": width, "height": height}
    write_json(path, record | {"frames": frames})


def load_alignment(path, names, size):
    """Read an Alignment that `save_alignment` has written.

    Args:
        path: file; names: of the frames' files, in any order; size: (height, width) of the frames.
    Returns:
        Alignment of the frames in the order of `names`.
    Raises:
        StackError: the file cannot be read or is no alignment, or is that of other frames.
    """
    try:
        record = json.loads(read_bytes(path))
        known = record["height"], record["width"]
        reference, saved = record["reference"], record["frames"]
        frames = {name: _frame_of(saved[name]) for name in [reference, *saved]}
        whole = frames[reference][0] is not None
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
    channels = max(len(gains) for _, gains, _ in chosen)
    return Alignment(
        list(names).index(reference),
        tuple(size),
        [matrix for matrix, _, _ in chosen],
        np.stack([np.resize(gains, channels) for _, gains, _ in chosen]),
        {k: why for k, (matrix, _, why) in enumerate(chosen) if matrix is None},
    )


def _frame_of(record):
    """(transform, gains, why it is left out) of a frame's record; ValueError where it is wrong."""
    if "left_out" in record:
        return None, np.ones(1), str(record["left_out"])
    matrix = np.array(record["transform"], np.float64)
    gains = np.array(record["gains"], np.float64)
    if matrix.shape != (2, 3) or gains.shape not in ((1,), (3,)):
        raise ValueError("wrong shape")
    if not (np.isfinite(matrix).all() and np.isfinite(gains).all() and (gains > 0).all()):
        raise ValueError("no number")
    if abs(np.linalg.det(matrix[:, :2])) < 1e-6:
        raise ValueError("flat")
    return matrix, gains, None
