"""The alignment of a stack: where the pixels of its reference are in each frame."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from stackmff.alignment.sensor import Dirt
from stackmff.errors import StackError
from stackmff.images.ramps import smoothstep
from stackmff.images.rectangles import Box

NEAR = 0.02  # px; a pixel is covered if its place is outside the frame by no more
# Where a frame ends within the reference it fades out over FADE px, or FADE_PART of the longer side
# if that is more, or 2 + FADE_OF_GAP times the px that it lacks there if that is less; not at all
# if it lacks less than LEAST_GAP px, where no step can be seen.
FADE, FADE_PART, FADE_OF_GAP, LEAST_GAP = 16, 0.01, 4, 1.0
LEAST_SHARE = 1e-4  # of a frame at its very end, for where no other reaches
OVERSHOOT = 1.25  # about the most by which a cubic exceeds the values that it interpolates


@dataclass
class Alignment:
    """How each frame of a stack is brought onto its reference.

    Attributes:
        reference: index of the reference frame.
        size: (height, width) of the frames, px.
        transforms: for each frame (2, 3) float64, from pixel (x, y) of the reference to pixel
            (x, y) of the frame, pixel centres at integers; None for a frame that is left out.
        gains: (N, 3) float64, (N, 1) for grey: factors on the frames' coded values, except alpha.
        left_out: {index: why, in words that follow the frame's name}.
        fields: {index: (rows, columns, 2) float32}, displacements in px of the reference that are
            added to its pixel (x, y) before the transform, see `spread`; only of some frames.
        spacing: side of the fields' cells, px, a multiple of 4.
        notes: further sentences on what was decided.
        dirt: what is on the sensor, and filled before the frames are moved.
        in_light: whether gains are factors of linear light, given as what they are on coded values
            at white, see exposure.expose.
        curves: {index: (knots, C) in [0, 1]}, tone curves that frames get before their gains, see
            tones.bend; only of some frames.
    """

    reference: int
    size: tuple[int, int]
    transforms: list[np.ndarray | None]
    gains: np.ndarray
    left_out: dict[int, str] = field(default_factory=dict)
    fields: dict[int, np.ndarray] = field(default_factory=dict)
    spacing: int = 4
    notes: list[str] = field(default_factory=list)
    dirt: Dirt = field(default_factory=Dirt)
    in_light: bool = False
    curves: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def moved(self) -> list[bool]:
        """For each frame whether it is resampled."""
        return [
            matrix is not None and (k in self.fields or not np.array_equal(matrix, np.eye(2, 3)))
            for k, matrix in enumerate(self.transforms)
        ]

    @property
    def kept(self) -> list[int]:
        """Indices of the frames that are not left out."""
        return [k for k, matrix in enumerate(self.transforms) if matrix is not None]

    def transform(self, index: int) -> np.ndarray:
        """The (2, 3) transform of a frame that is kept."""
        matrix = self.transforms[index]
        assert matrix is not None, f"frame {index} is left out"
        return matrix

    def reordered(self, order: Sequence[int] | np.ndarray) -> "Alignment":
        """The Alignment of the same frames in another order: frame order[k] in place k."""
        place = {int(k): new for new, k in enumerate(order)}
        return replace(
            self,
            reference=place[self.reference],
            transforms=[self.transforms[k] for k in order],
            gains=self.gains[np.asarray(order)],
            left_out={place[k]: why for k, why in self.left_out.items()},
            fields={place[k]: field for k, field in self.fields.items()},
            curves={place[k]: curve for k, curve in self.curves.items()},
        )


def covered(alignment: Alignment, index: int, box: Box) -> np.ndarray | None:
    """Which pixels of a part of the reference a frame covers.

    Args:
        alignment: of the stack.
        index: of a frame that is kept.
        box: of the reference.
    Returns:
        None if it covers the whole box, else (h, w) bool.
    """
    if not alignment.moved[index]:
        return None
    matrix = alignment.transform(index)
    room = np.array([alignment.size[1] - 1, alignment.size[0] - 1])
    corners = _corners(matrix, box)  # a frame is convex: they decide
    slack = NEAR - _reach(alignment, index)
    if ((corners >= -slack) & (corners <= room + slack)).all():
        return None
    places = places_of(alignment, index, box)
    mask = np.all((places >= -NEAR) & (places <= room + NEAR), axis=-1)
    return None if mask.all() else mask


def covers(alignment: Alignment, index: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which pixels of the reference a frame covers for certain, whatever its field.

    Args:
        alignment: of the stack.
        index: of a frame that is kept.
        x, y: columns (w,) and rows (h,) of the pixels, px, whole or not.
    Returns:
        (h, w) bool.
    """
    if not alignment.moved[index]:
        return np.ones((len(y), len(x)), bool)
    places = _places(alignment.transform(index), x, y)
    room = np.array([alignment.size[1] - 1, alignment.size[0] - 1])
    slack = NEAR - _reach(alignment, index)
    return np.all((places >= -slack) & (places <= room + slack), axis=-1)


def ends(alignment: Alignment, index: int) -> np.ndarray:
    """By how many px a frame that is kept ends within the reference: left, right, top, bottom."""
    if not alignment.moved[index]:
        return np.zeros(4)
    height, width = alignment.size
    room = np.array([width - 1, height - 1])
    corners = _corners(alignment.transform(index), Box.whole(alignment.size))
    lacks = np.stack([-corners.min((0, 1)), corners.max((0, 1)) - room], 1).ravel()
    lacks += np.repeat(_reach(alignment, index), 2)
    return np.where(lacks > NEAR, lacks, 0.0)


def coverage(alignment: Alignment, index: int, box: Box) -> np.ndarray | None:
    """How much a frame counts in the pixels of a part of the reference.

    Args:
        alignment, index, box: as of `covered`.
    Returns:
        None if it counts fully everywhere, else (h, w) float32: 0 where it does not cover the
        pixel, and less than 1 near the sides where it ends.
    """
    lacks = ends(alignment, index)
    if not lacks.any():
        return None
    height, width = alignment.size
    longest = max(FADE, FADE_PART * max(height, width))
    fades = np.where(lacks >= LEAST_GAP, np.minimum(longest, 2 + FADE_OF_GAP * lacks), 0)
    corners = _corners(alignment.transform(index), box)
    room = np.array([width - 1, height - 1])
    reach = _reach(alignment, index)
    near = np.stack([corners.min((0, 1)) - reach, room - corners.max((0, 1)) - reach], 1).ravel()
    if (near >= fades)[lacks > 0].all():
        return None
    places = places_of(alignment, index, box)
    inside = np.all((places >= -NEAR) & (places <= room + NEAR), axis=-1)
    share = np.ones(inside.shape, np.float32)
    for side in np.flatnonzero(fades):
        along, far = side // 2, side % 2
        distance = room[along] - places[..., along] if far else places[..., along]
        share *= smoothstep(distance / fades[side]).astype(np.float32)
    return np.maximum(share, np.float32(LEAST_SHARE)) * inside


def places_of(alignment: Alignment, index: int, box: Box) -> np.ndarray:
    """Where the pixels of a part of the reference are in a frame; arguments as of `covered`.

    Returns:
        (h, w, 2), x and y in px of the frame.
    """
    matrix = alignment.transform(index)
    places = _places(matrix, np.arange(box.left, box.right), np.arange(box.top, box.bottom))
    if index in alignment.fields:
        moved = spread(alignment.fields[index], alignment.spacing, box)
        places += cv2.transform(moved, matrix[:, :2])
    return places


def _places(matrix: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(len(y), len(x), 2): where a transform takes the pixels at columns x and rows y."""
    return x[None, :, None] * matrix[:, 0] + y[:, None, None] * matrix[:, 1] + matrix[:, 2]


def _corners(matrix: np.ndarray, box: Box) -> np.ndarray:
    """(2, 2, 2): where a transform takes the pixels at the corners of a box."""
    top, bottom, left, right = box
    return _places(matrix, np.array([left, right - 1]), np.array([top, bottom - 1]))


def add_places(moved: np.ndarray, matrix: np.ndarray, top: int, left: int) -> None:
    """Add to displacements in a frame where a transform takes their pixels, in place.

    Args:
        moved: (h, w, 2) float32, px.
        matrix: (2, 3) transform.
        top, left: of these pixels, px of the reference.
    """
    height, width, _ = moved.shape
    x, y = np.arange(left, left + width), np.arange(top, top + height)
    for axis, (across, down, shift) in enumerate(matrix):
        moved[..., axis] += (across * x + shift).astype(np.float32)
        moved[..., axis] += (down * y).astype(np.float32)[:, None]


def spread(field: np.ndarray, spacing: int, box: Box) -> np.ndarray:
    """The displacements of the pixels of a box, cubic between the centres of the cells.

    Args:
        field: (rows, columns, 2) float32; the first cell begins spacing / 4 px from the border, and
            the last ones are repeated beyond.
        spacing: side of a cell, px, a multiple of 4.
        box: of the reference.
    Returns:
        (h, w, 2) float32.
    """
    spans, cells = [], []
    for (low, high), count in zip((box[:2], box[2:]), field.shape[:2], strict=True):
        first = (low - spacing // 4) // spacing - 2  # a cubic needs two cells on each side
        last = (high - 1 - spacing // 4) // spacing + 3
        start = low - spacing // 4 - first * spacing
        spans.append(slice(start, start + high - low))
        cells.append(np.arange(first, last).clip(0, count - 1))
    part = field[cells[0][:, None], cells[1]]
    size = part.shape[1] * spacing, part.shape[0] * spacing
    return cv2.resize(part, size, interpolation=cv2.INTER_CUBIC)[spans[0], spans[1]]


def _reach(alignment: Alignment, index: int) -> np.ndarray:
    """(2,) px: the largest displacement along x and y by the field of a frame."""
    if index not in alignment.fields:
        return np.zeros(2)
    moved = alignment.fields[index] @ alignment.transform(index)[:, :2].T
    return OVERSHOOT * np.abs(moved).max((0, 1))


def common_area(alignment: Alignment) -> Box:
    """The largest box of the reference that every kept frame covers.

    Raises:
        StackError: the frames have no area in common.
    """
    from scipy.optimize import minimize

    height, width = alignment.size
    sides, bounds = _inside_all(alignment)
    unit = max(height, width)  # px; with pixels as the unit the search ends too early

    def less(rectangle: np.ndarray) -> tuple[float, np.ndarray]:
        """Minus the logarithm of the area, which is convex, and its gradient."""
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
        raise StackError("the frames have no area in common: remove --crop, or some of the frames")
    return Box(top, bottom + 1, left, right + 1)


def _inside_all(alignment: Alignment) -> tuple[np.ndarray, np.ndarray]:
    """Which rectangles of the reference are inside every kept frame.

    Returns:
        (sides, bounds), (M, 4) and (M,): those for which sides @ (top, bottom, left, right) is at
        most bounds.
    """
    height, width = alignment.size
    room = np.array([width - 1, height - 1])
    # Half planes normal @ (x, y) <= bound, four for the reference and four for each frame.
    normals: list[np.ndarray] = []
    limits: list[float] = []
    matrices = [(np.eye(2, 3), np.zeros(2))]
    matrices += [(alignment.transform(k), _reach(alignment, k)) for k in alignment.kept]
    for matrix, reach in matrices:
        normals += [*matrix[:, :2], *-matrix[:, :2]]
        limits += [*(room - matrix[:, 2] - reach), *(matrix[:, 2] - reach)]
    # A rectangle is in a half plane if its corner farthest along the normal is.
    across, down = np.array(normals).T
    rows = np.stack([np.minimum(down, 0), np.maximum(down, 0)], 1)
    columns = np.stack([np.minimum(across, 0), np.maximum(across, 0)], 1)
    return np.hstack([rows, columns]), np.array(limits) + NEAR / 2


def colours_of(frames: np.ndarray) -> int:
    """Number of gains of a frame of (N, H, W, C): 3, or 1 if it is grey."""
    return 3 if frames.shape[3] >= 3 else 1
