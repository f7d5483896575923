"""How the frames of a stack lie on its reference: the record of it, its file, what frames cover."""

from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from stackmff.errors import StackError

NEAR = 0.02  # px; so near to its border a frame still covers
OVERSHOOT = 1.25  # a cubic goes beyond the values that it is led through by so much at most, about


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
        fields: {index: (rows, columns, 2) float32}, displacements in px of the reference that are
            added to its pixel (x, y) before the transform, see `spread`; not of every frame.
        spacing: of the fields' cells, px, a multiple of 4.
    """

    reference: int
    size: tuple
    transforms: list
    gains: np.ndarray
    left_out: dict = field(default_factory=dict)
    fields: dict = field(default_factory=dict)
    spacing: int = 4

    @property
    def moved(self):
        """For each frame whether it is resampled."""
        return [
            matrix is not None and (k in self.fields or not np.array_equal(matrix, np.eye(2, 3)))
            for k, matrix in enumerate(self.transforms)
        ]

    @property
    def kept(self):
        """Indices of the frames that are not left out."""
        return [k for k, matrix in enumerate(self.transforms) if matrix is not None]

    def reordered(self, order):
        """The Alignment of the same frames, order[k] of them in place k."""
        place = {int(k): new for new, k in enumerate(order)}
        return replace(
            self,
            reference=place[self.reference],
            transforms=[self.transforms[k] for k in order],
            gains=self.gains[np.asarray(order)],
            left_out={place[k]: why for k, why in self.left_out.items()},
            fields={place[k]: field for k, field in self.fields.items()},
        )


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
    slack = NEAR - _reach(alignment, index)
    if ((corners >= -slack) & (corners <= room + slack)).all():
        return None
    places = places_of(alignment, index, top, bottom, left, right)
    mask = ((places >= -NEAR) & (places <= room + NEAR)).all(-1)
    return None if mask.all() else mask


def places_of(alignment, index, top, bottom, left, right):
    """Where the pixels of a window of the reference come from in a frame.

    Returns:
        (bottom - top, right - left, 2), x and y in px of the frame.
    """
    matrix = alignment.transforms[index]
    places = _places(matrix, np.arange(left, right), np.arange(top, bottom))
    if index in alignment.fields:
        field = alignment.fields[index]
        moved = spread(field, alignment.spacing, top, bottom, left, right)
        places += cv2.transform(moved, matrix[:, :2])
    return places


def _places(matrix, x, y):
    """(len(y), len(x), 2): where the pixels at columns x and rows y come from, as x and y."""
    return x[None, :, None] * matrix[:, 0] + y[:, None, None] * matrix[:, 1] + matrix[:, 2]


def spread(field, spacing, top, bottom, left, right):
    """The displacements of the pixels of a window: cubic between the middles of the cells.

    Args:
        field: (rows, columns, 2) float32; the first cell begins spacing / 4 px from either border,
            and beyond the cells go on as their last.
        spacing: side of a cell, px, a multiple of 4.
    Returns:
        (bottom - top, right - left, 2) float32.
    """
    spans, cells = [], []
    for low, high, count in ((top, bottom, field.shape[0]), (left, right, field.shape[1])):
        first = (low - spacing // 4) // spacing - 2  # a cubic takes two cells on each side
        last = (high - 1 - spacing // 4) // spacing + 3
        start = low - spacing // 4 - first * spacing
        spans.append(slice(start, start + high - low))
        cells.append(np.arange(first, last).clip(0, count - 1))
    part = field[cells[0][:, None], cells[1]]
    size = part.shape[1] * spacing, part.shape[0] * spacing
    return cv2.resize(part, size, interpolation=cv2.INTER_CUBIC)[spans[0], spans[1]]


def _reach(alignment, index):
    """(2,) px: how far the field of a frame moves what it shows at most, along x and y."""
    if index not in alignment.fields:
        return np.zeros(2)
    moved = alignment.fields[index] @ alignment.transforms[index][:, :2].T
    return OVERSHOOT * np.abs(moved).max((0, 1))


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
    matrices = [(np.eye(2, 3), np.zeros(2))]
    matrices += [(alignment.transforms[k], _reach(alignment, k)) for k in alignment.kept]
    for matrix, reach in matrices:
        normals += [*matrix[:, :2], *-matrix[:, :2]]
        bounds += [*(room - matrix[:, 2] - reach), *(matrix[:, 2] - reach)]
    normals, bounds = np.array(normals), np.array(bounds) + NEAR / 2
    # Of a rectangle (top, bottom, left, right) the corner that lies farthest out must be inside.
    across, down = normals.T
    rows = np.stack([np.minimum(down, 0), np.maximum(down, 0)], 1)
    columns = np.stack([np.minimum(across, 0), np.maximum(across, 0)], 1)
    sides = np.hstack([rows, columns])  # (half planes, 4)
    unit = max(height, width)  # px; in pixels the search stops short on large frames

    def less(rectangle):
        """Minus the logarithm of the area, which is convex, and its slope."""
        high, wide = np.maximum(np.diff(rectangle)[[0, 2]] + 1 / unit, 1e-6)
        return -np.log(high * wide), np.array([1 / high, -1 / high, 1 / wide, -1 / wide])

    inside = {
        "type": "ineq",
        "fun": lambda rectangle: bounds / unit - sides @ rectangle,
        "jac": lambda rectangle: -sides,
    }
    start = np.array([0.4 * height, 0.6 * height, 0.4 * width, 0.6 * width])
    found = minimize(
        less, start / unit, jac=True, method="SLSQP", constraints=[inside], options={"ftol": 1e-9}
    )
    top, left = (int(side) for side in np.ceil(found.x[::2] * unit - NEAR / 4))
    bottom, right = (int(side) for side in np.floor(found.x[1::2] * unit + NEAR / 4))
    if right < left or bottom < top or (sides @ [top, bottom, left, right] > bounds + NEAR).any():
        raise StackError("the frames have no area in common: leave out --crop, or some of them")
    return top, bottom + 1, left, right + 1


def colours_of(frames):
    """How many gains a frame of (N, H, W, C) has: 3, or 1 where it is grey."""
    return 3 if frames.shape[3] >= 3 else 1
