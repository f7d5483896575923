"""Parallax: how the parts of frames move against each other.

A camera that moves between two frames shifts near things more than far ones. A smooth field of
displacements is then added to the motion of the whole frames. It is found as that motion is, from
the equations of blocks (see alignment/registration.py), summed over Gaussian windows that become
smaller and smaller. All pairs of frames that were compared are combined at each place.

Blur that comes and goes beside edges looks a little like motion, and mistaking it for motion costs
about 1 dB. So a field is first found on small pictures only, and the rest is done only if that one
explains the difference of the frames much better than no field does.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import cv2
import numpy as np

from stackmff.alignment.geometry import add_places, spread
from stackmff.alignment.linking import SYSTEMATIC, UNLIKE, Key, Transforms
from stackmff.alignment.registration import (
    BLOCK,
    LEAST_VARIANCE,
    MARGIN,
    Level,
    at_scale,
    block_equations,
)
from stackmff.images.rectangles import Box

# Sigma of the windows in blocks, step by step, for each level of the pyramid from the finest on;
# the last entry holds for all coarser ones. If they end at 2.5 blocks, straight edges beside
# something that moves differently are bent, and stacks with 10 px of parallax lose 0.8 dB.
WINDOWS = (3, 2, 1.5), (3, 2), (4, 3, 2), (4, 3)
FEWEST_CELLS = 5  # of the shorter side; no smaller level is used
PULL = 0.1  # px^-2 of the level; keeps places without detail where the wider window put them

# px; the least standard deviation of a block, or else high contrast drags its surroundings along.
UNSURE = 1.0
ROUNDS = 3  # of weights and displacements
SWEEPS = 6  # over the frames; each step of the windows continues from the previous one

# What distinguishes parallax from blur: the mean logarithm by which the squared differences of
# blocks with detail fall, and the share of the detail that moves by at least REACH px of the
# frames. Rendered stacks without parallax give 0.01 to 0.083 and 0 to 0.13, with 4 px over the
# stack 0.08 to 0.28 and 0 to 0.93; real ones that a similarity aligns give at most 0.04, a
# hand-held video 0.69 and 0.95.
GAIN, SHARE, REACH = 0.15, 0.1, 0.5
DETAIL = 0.25  # px; a block with detail tells displacements at least so exactly

Item = TypeVar("Item")
Result = TypeVar("Result")
Fields = dict[int, np.ndarray]  # (rows, columns, 2) float32 for each frame, px of the level


class RunSteps(Protocol):
    """Calls a function for each item of a list and returns the results in the same order."""

    def __call__(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> list[Result]: ...


def grid_of(shape: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of the cells of a picture of `shape` (height, width)."""
    height, width = shape
    return (height - 2 * MARGIN) // BLOCK, (width - 2 * MARGIN) // BLOCK


@dataclass
class _Level:
    """One level of the frames' pyramids.

    Attributes:
        factor: how much smaller than the frames it is.
        lumas: {frame: (h, w) uint16}, which takes half the memory of floats.
        shape: (h, w).
    """

    factor: int
    lumas: dict[int, np.ndarray]
    shape: tuple[int, int]

    def warped(
        self, k: int, matrix: np.ndarray, field: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """A frame resampled onto the reference.

        Args:
            k: index of the frame.
            matrix: (3, 3) from the reference.
            field: (rows, columns, 2), px of the level.
        Returns:
            (h, w) float32; (rows, columns) bool, the cells that come from inside the frame.
        """
        height, width = self.shape
        local = at_scale(matrix, self.factor)
        moved = cv2.transform(field, local[:, :2])  # few cells, where there are many pixels
        places = np.ascontiguousarray(spread(moved, BLOCK, Box.whole(self.shape)))
        add_places(places, local, 0, 0)
        found = cv2.remap(
            self.lumas[k], places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        rows, columns = grid_of(self.shape)
        first = MARGIN + BLOCK // 2
        centres = places[first::BLOCK, first::BLOCK][:rows, :columns]
        room = np.array([width - 1, height - 1], np.float32) - BLOCK / 2
        inside = np.all((centres >= BLOCK / 2) & (centres <= room), axis=-1)
        return found * np.float32(1 / 65535), inside


@dataclass
class _Motion:
    """What is known of the frames' motion.

    Attributes:
        matrices: {frame: (3, 3) from the reference}, of the frames that are kept.
        fields: displacements that are added to it, in px of the level.
    """

    matrices: dict[int, np.ndarray]
    fields: Fields

    def unbent(self) -> "_Motion":
        """The motion of the whole frames alone."""
        return _Motion(self.matrices, {k: np.zeros_like(f) for k, f in self.fields.items()})


def refine(
    levels_of: Sequence[Callable[[], list[Level]]],
    transforms: Transforms,
    reference: int,
    keys: Iterable[Key],
    run: RunSteps,
) -> Fields:
    """Find the displacements of each frame's parts, relative to the motion of the whole frame.

    Args:
        levels_of: for each frame a function that makes its pyramid, see registration.pyramid.
        transforms: for each frame (3, 3) from the reference, or None.
        reference: index.
        keys: pairs (a, b) of frames to compare.
        run: how the work is distributed.
    Returns:
        {frame: (rows, columns, 2) float32} as in Alignment, rounded to hundredths of a px, in cells
        of BLOCK px of the finest level. {} if there is no sign of parallax.
    """
    matrices = {k: matrix for k, matrix in enumerate(transforms) if matrix is not None}
    frames = list(matrices)
    keys = [key for key in keys if key[0] in matrices]
    shapes: list[tuple[int, tuple[int, int]]] = [
        (factor, (luma.shape[0], luma.shape[1])) for factor, luma in levels_of[reference]()
    ]
    usable = [
        index for index, (_, shape) in enumerate(shapes) if min(grid_of(shape)) >= FEWEST_CELLS
    ]
    if len(usable) < 2:
        return {}
    coarsest = grid_of(shapes[usable[-1]][1])
    motion = _Motion(matrices, {k: np.zeros((*coarsest, 2), np.float32) for k in frames})
    level = None
    for index in reversed(usable):
        if index == 0 and level is not None and not _speaks(level, motion, keys, run):
            return {}
        factor, shape = shapes[index]

        def coded(k: int, index: int = index) -> np.ndarray:
            return np.rint(levels_of[k]()[index][1] * 65535).astype(np.uint16)

        if level is not None:
            motion.fields = {k: _finer(field, shape) for k, field in motion.fields.items()}
        level = _Level(factor, dict(zip(frames, run(coded, frames))), shape)
        for sigma in WINDOWS[min(index, len(WINDOWS) - 1)]:
            systems = dict(zip(keys, run(partial(_system, level, motion, sigma), keys)))
            changes = _settle(systems, frames, reference)
            motion.fields = {k: motion.fields[k] + changes[k] for k in frames}
    return {
        k: np.rint(field * (100 * factor)) / np.float32(100)
        for k, field in motion.fields.items()
        if k != reference
    }


def _finer(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A field (rows, columns, 2) in px of a level, for the next finer level of `shape`."""
    rows, columns = grid_of(shape)
    # Cell i begins at px 8 i + 2, so the centre of fine cell i is at coarse cell (i - 0.75) / 2.
    shift = ((MARGIN + BLOCK / 2) / 2 - MARGIN) / BLOCK - 0.5
    matrix = np.array([[0.5, 0, shift], [0, 0.5, shift]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    border = cv2.BORDER_REPLICATE
    return 2 * cv2.warpAffine(field, matrix, (columns, rows), flags=flags, borderMode=border)


def _equations(
    level: _Level, motion: _Motion, key: Key
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """The equations of the cells of two frames, moved as found so far.

    Returns:
        as registration.block_equations, of the cells inside both; (rows, columns) bool, which.
    """
    (first, inside), (second, also) = (
        level.warped(k, motion.matrices[k], motion.fields[k]) for k in key
    )
    inside &= also
    return block_equations(first, second, inside.ravel()), inside


def _system(level: _Level, motion: _Motion, sigma: float, key: Key) -> np.ndarray:
    """What two frames tell of the displacement of the second against the first, at each place.

    Args:
        level: of the pyramids.
        motion: as found so far.
        sigma: of the window, in cells.
        key: (a, b).
    Returns:
        (5, rows, columns) float64: xx, xy and yy of the normal matrices, px^-2 of the level, and x
        and y of the right sides.
    """
    (normal, right, energy, common, most), inside = _equations(level, motion, key)
    terms = np.stack([normal[:, 0, 0], normal[:, 0, 1], normal[:, 1, 1], *right.T])  # (5, n)
    change = np.zeros((2, len(energy)))
    for _ in range(ROUNDS):
        weights = 1 / (_left(terms, energy, change) / BLOCK**2 + LEAST_VARIANCE)
        weights /= 1 + UNSURE**2 * weights * (terms[0] + terms[2]) / 2
        sums = _windowed(terms * weights, inside, sigma)
        change = _solve(sums[:, inside])
    alike, most = _windowed(np.stack([common, most]), inside, sigma)
    likeness = alike / np.maximum(most, np.finfo(np.float32).tiny)
    # The least standard deviation, as in linking for whole frames.
    floor = SYSTEMATIC + UNLIKE * (1 - likeness) ** 2
    return sums / (1 + floor**2 * (sums[0] + sums[2]) / 2)


def _left(terms: np.ndarray, energy: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The squared differences (n,) of cells that remain after displacements (2, n)."""
    x, y = change
    xx, xy, yy, right_x, right_y = terms
    left = energy - 2 * (right_x * x + right_y * y) + xx * x * x + 2 * xy * x * y + yy * y * y
    return np.maximum(left, 0)


def _windowed(values: np.ndarray, inside: np.ndarray, sigma: float) -> np.ndarray:
    """Sums over Gaussian windows, (m, rows, columns), of (m, n) values of the cells inside."""
    planes = np.zeros((len(values), *inside.shape))
    planes[:, inside] = values
    blurred = [
        cv2.GaussianBlur(plane, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT) for plane in planes
    ]
    return np.stack(blurred)


def _solve(sums: np.ndarray) -> np.ndarray:
    """Displacements (2, ...) from normal matrices and right sides (5, ...), with a pull to 0."""
    xx, xy, yy, x, y = sums
    xx, yy = xx + PULL, yy + PULL
    return np.stack([yy * x - xy * y, xx * y - xy * x]) / (xx * yy - xy * xy)


def _settle(systems: dict[Key, np.ndarray], frames: Sequence[int], reference: int) -> Fields:
    """The displacements of the frames that fit all pairs best, at each place.

    One frame after another is set to the best fit to the others. The first sweep goes outwards from
    the reference and counts only frames that have been set.

    Args:
        systems: {(a, b): as from `_system`}.
        frames: indices.
        reference: the frame that is not displaced.
    """
    partners: dict[int, list[tuple[int, int, np.ndarray]]] = {k: [] for k in frames}
    for (a, b), system in systems.items():
        partners[a].append((b, -1, system))
        partners[b].append((a, 1, system))
    shape = next(iter(systems.values())).shape[1:]
    changes = {k: np.zeros((2, *shape)) for k in frames}
    order = sorted(set(frames) - {reference}, key=lambda k: abs(k - reference))
    known = {reference}
    for sweep in range(SWEEPS):
        for k in order if sweep % 2 == 0 else order[::-1]:
            total = np.zeros((5, *shape))
            for other, sign, system in partners[k]:
                if other in known:
                    xx, xy, yy, *right = system
                    x, y = changes[other]
                    total[:3] += system[:3]
                    total[3] += sign * right[0] + xx * x + xy * y
                    total[4] += sign * right[1] + xy * x + yy * y
            changes[k] = _solve(total)
            known.add(k)
    return {k: change.transpose(1, 2, 0).astype(np.float32) for k, change in changes.items()}


def _speaks(level: _Level, motion: _Motion, keys: Sequence[Key], run: RunSteps) -> bool:
    """Whether the fields explain the differences of the frames much better than no fields do."""
    unbent = motion.unbent()

    def compare(key: Key) -> tuple[float, int, np.ndarray]:
        (normal, _, before, _, _), inside = _equations(level, unbent, key)
        (_, _, after, _, _), still = _equations(level, motion, key)
        both = inside & still
        normal, before, after = normal[both[inside]], before[both[inside]], after[both[still]]
        rounding = LEAST_VARIANCE * BLOCK**2
        told = normal.trace(axis1=1, axis2=2) / 2 * BLOCK**2 / (before + rounding)  # px^-2
        falls = np.log((before + rounding) / (after + rounding))[told > DETAIL**-2]
        detail = np.zeros(inside.shape)
        detail[both] = told
        return falls.sum(), falls.size, detail

    falls, counts, details = zip(*run(compare, keys))
    fall, count, detail = sum(falls), sum(counts), sum(details)
    lengths = np.max([np.hypot(f[..., 0], f[..., 1]) for f in motion.fields.values()], 0)
    farther = lengths * level.factor > REACH
    # Capped, or a few sharp edges would decide.
    detail = np.minimum(detail, 20**2)
    return bool(fall > GAIN * count and detail[farther].sum() > SHARE * detail.sum())
