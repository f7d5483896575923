"""What no similarity takes away: how the parts of frames move against one another.

A camera that moves between two frames shifts what is near by more than what is far. A smooth field
of displacements then lies over the motion of the whole frames. It is found as that motion is, from
the equations of blocks (see alignment/registration.py), summed over Gaussian windows that get smaller and
smaller. All pairs of frames that were compared are brought together place by place.

Blur that comes and goes beside edges looks a little like motion, and costs some 1 dB where it is
taken for it. So first a field is found on small pictures only, and the rest is done only if that
one explains the difference of the frames much better than none.
"""

from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from stackmff.alignment.geometry import spread
from stackmff.alignment.linking import SYSTEMATIC, UNLIKE
from stackmff.alignment.registration import BLOCK, LEAST_VARIANCE, MARGIN, at_scale, block_equations

# Sigma of the windows, in blocks, one step after another, on each level of the pyramid from the
# finest; all coarser ones have the last. On 2.5 blocks at the end straight edges beside something
# that moves otherwise are bent, and stacks of 10 px parallax lose 0.8 dB.
WINDOWS = (3, 2, 1.5), (3, 2), (4, 3, 2), (4, 3)
FEWEST_CELLS = 5  # of the shorter side; no smaller picture is used
PULL = 0.1  # px^-2 of the level; what holds places without detail where the wider window had them

# px; no block counts as surer, or what has much contrast carries along what lies beside it.
UNSURE = 1.0
ROUNDS = 3  # of weights and displacements
SWEEPS = 6  # from frame to frame; each step of the windows goes on where the last has ended

# What tells parallax from blur: the mean logarithm by which the squared differences of blocks with
# detail fall, and the share of the detail that moves by REACH px of the frames or more. Rendered
# stacks without parallax come to 0.01 to 0.083 and 0 to 0.13, with 4 px over the stack to 0.08 to
# 0.28 and 0 to 0.93; real ones that a similarity aligns to 0.04 at most, a video from the hand to
# 0.69 and 0.95.
GAIN, SHARE, REACH = 0.15, 0.1, 0.5
DETAIL = 0.25  # px; a block that tells displacements so well has detail


def grid_of(shape):
    """(rows, columns) of the cells of a picture of `shape` (height, width)."""
    return tuple((side - 2 * MARGIN) // BLOCK for side in shape)


@dataclass
class _Level:
    """One level of the frames' pyramids.

    Attributes:
        factor: how much smaller than the frames it is.
        lumas: {frame: (h, w) uint16}, as codes, since a long stack has many.
        shape: (h, w).
    """

    factor: int
    lumas: dict
    shape: tuple

    def warped(self, k, matrix, field):
        """A frame brought onto the reference.

        Args:
            k: index of the frame; matrix: (3, 3); field: (rows, columns, 2) px of the level.
        Returns:
            (h, w) float32; (rows, columns) bool, cells that come from inside the frame.
        """
        height, width = self.shape
        local = at_scale(matrix, self.factor)
        places = np.dstack(np.meshgrid(np.arange(width), np.arange(height))).astype(np.float32)
        places += spread(field, BLOCK, 0, height, 0, width)
        places = cv2.transform(places, local)
        found = cv2.remap(
            self.lumas[k], places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        rows, columns = grid_of(self.shape)
        first = MARGIN + BLOCK // 2
        centres = places[first::BLOCK, first::BLOCK][:rows, :columns]
        room = np.float32([width - 1, height - 1]) - BLOCK / 2
        inside = ((centres >= BLOCK / 2) & (centres <= room)).all(-1)
        return found * np.float32(1 / 65535), inside


def refine(levels_of, transforms, reference, keys, run):
    """Find the displacements of each frame's parts, over the motion of the whole.

    Args:
        levels_of: for each frame a function without arguments to its pyramid, see
            registration.pyramid.
        transforms: for each frame (3, 3) from the reference, or None.
        reference: index of the frame that stays.
        keys: pairs (a, b) of frames to be compared.
        run: function of a function and a list, to what it returns for each item.
    Returns:
        {frame: (rows, columns, 2) float32} as of Alignment, rounded to hundredths of a px, in cells
        of BLOCK px of the finest level. {} where nothing speaks for parallax.
    """
    frames = [k for k, matrix in enumerate(transforms) if matrix is not None]
    keys = [key for key in keys if transforms[key[0]] is not None]
    shapes = [(factor, luma.shape) for factor, luma in levels_of[reference]()]
    usable = [
        index for index, (_, shape) in enumerate(shapes) if min(grid_of(shape)) >= FEWEST_CELLS
    ]
    if len(usable) < 2:
        return {}
    fields, level = None, None
    for index in reversed(usable):
        if index == 0 and not _speaks(level, transforms, fields, keys, run):
            return {}
        factor, shape = shapes[index]

        def coded(k, index=index):
            return np.rint(levels_of[k]()[index][1] * 65535).astype(np.uint16)

        level = _Level(factor, dict(zip(frames, run(coded, frames))), shape)
        if fields is None:
            fields = {k: np.zeros((*grid_of(shape), 2), np.float32) for k in frames}
        else:
            fields = {k: _finer(field, shape) for k, field in fields.items()}
        for sigma in WINDOWS[min(index, len(WINDOWS) - 1)]:
            system = partial(_system, level, transforms, fields, sigma)
            systems = dict(zip(keys, run(system, keys)))
            changes = _settle(systems, frames, reference)
            fields = {k: fields[k] + changes[k] for k in frames}
    factor = level.factor
    fields = {k: np.rint(field * (100 * factor)) / np.float32(100) for k, field in fields.items()}
    return {k: field for k, field in fields.items() if k != reference}


def _finer(field, shape):
    """A field (rows, columns, 2) in px of a level, for the next finer one of `shape`."""
    rows, columns = grid_of(shape)
    # Cell i begins at px 8 i + 2; so the middle of a fine one is at (i - 0.75) / 2 of the coarse.
    shift = ((MARGIN + BLOCK / 2) / 2 - MARGIN) / BLOCK - 0.5
    matrix = np.array([[0.5, 0, shift], [0, 0.5, shift]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    border = cv2.BORDER_REPLICATE
    return 2 * cv2.warpAffine(field, matrix, (columns, rows), flags=flags, borderMode=border)


def _equations(level, transforms, fields, key):
    """The equations of the cells of two frames as they lie by now.

    Returns:
        as registration.block_equations, of the cells inside both; (rows, columns) bool, which.
    """
    (first, inside), (second, also) = (level.warped(k, transforms[k], fields[k]) for k in key)
    inside &= also
    return block_equations(first, second, inside.ravel()), inside


def _system(level, transforms, fields, sigma, key):
    """What two frames tell of the displacement of the second against the first, place by place.

    Args:
        sigma: of the window, in cells; key: (a, b).
    Returns:
        (5, rows, columns) float64: xx, xy and yy of the normal matrices, px^-2 of the level, and x
        and y of the right sides.
    """
    (normal, right, energy, common, most), inside = _equations(level, transforms, fields, key)
    terms = np.stack([normal[:, 0, 0], normal[:, 0, 1], normal[:, 1, 1], *right.T])  # (5, n)
    change = np.zeros((2, len(energy)))
    for _ in range(ROUNDS):
        weights = 1 / (_left(terms, energy, change) / BLOCK**2 + LEAST_VARIANCE)
        weights /= 1 + UNSURE**2 * weights * (terms[0] + terms[2]) / 2
        sums = _windowed(terms * weights, inside, sigma)
        change = _solve(sums[:, inside])
    alike, most = _windowed(np.stack([common, most]), inside, sigma)
    likeness = alike / np.maximum(most, np.finfo(np.float32).tiny)
    # What no scatter shows, as linking has it for whole frames.
    floor = SYSTEMATIC + UNLIKE * (1 - likeness) ** 2
    return sums / (1 + floor**2 * (sums[0] + sums[2]) / 2)


def _left(terms, energy, change):
    """The squared differences (n,) that displacements (2, n) leave of cells."""
    x, y = change
    xx, xy, yy, right_x, right_y = terms
    left = energy - 2 * (right_x * x + right_y * y) + xx * x * x + 2 * xy * x * y + yy * y * y
    return np.maximum(left, 0)


def _windowed(values, inside, sigma):
    """Sums of (m, n) values of the cells inside over Gaussian windows: (m, rows, columns)."""
    planes = np.zeros((len(values), *inside.shape))
    planes[:, inside] = values
    blurred = [
        cv2.GaussianBlur(plane, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT) for plane in planes
    ]
    return np.stack(blurred)


def _solve(sums):
    """Displacements (2, ...) from normal matrices and right sides (5, ...), with a pull to 0."""
    xx, xy, yy, x, y = sums
    xx, yy = xx + PULL, yy + PULL
    return np.stack([yy * x - xy * y, xx * y - xy * x]) / (xx * yy - xy * xy)


def _settle(systems, frames, reference):
    """The displacements of the frames that all pairs together agree with best, place by place.

    Frame after frame is set to what the others ask of it, outward from the reference first, where
    only those count that are set.

    Args:
        systems: {(a, b): as of `_system`}; frames: indices; reference: the one that stays.
    Returns:
        {frame: (rows, columns, 2) float32}.
    """
    partners = {k: [] for k in frames}
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


def _speaks(level, transforms, fields, keys, run):
    """Whether the fields explain the differences of the frames much better than none do."""
    none = {k: np.zeros_like(field) for k, field in fields.items()}

    def compare(key):
        terms, inside = _equations(level, transforms, none, key)
        (*_, after, _, _), still = _equations(level, transforms, fields, key)
        normal, _, before, _, _ = terms
        both = inside & still
        normal, before, after = normal[both[inside]], before[both[inside]], after[both[still]]
        rounding = LEAST_VARIANCE * BLOCK**2
        told = normal.trace(axis1=1, axis2=2) / 2 * BLOCK**2 / (before + rounding)  # px^-2
        falls = np.log((before + rounding) / (after + rounding))[told > DETAIL**-2]
        detail = np.zeros(inside.shape)
        detail[both] = told
        return falls.sum(), falls.size, detail

    fall, count, detail = map(sum, zip(*run(compare, keys)))
    lengths = np.max([np.hypot(*field.transpose(2, 0, 1)) for field in fields.values()], 0)
    farther = lengths * level.factor > REACH
    # Capped, or a few sharp edges would be all.
    detail = np.minimum(detail, 20**2)
    return bool(fall > GAIN * count and detail[farther].sum() > SHARE * detail.sum())
