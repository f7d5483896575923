"""Registration of two frames of one scene: shift, scale and rotation to hundredths of a px.

Frames of a focal stack differ in sharpness from place to place, and plain least squares mistakes
that for motion. Here each block of 8 px has unknowns of its own, besides the motion that all blocks
share: its contrast, its offset, and a multiple of its Laplacian, which to first order is what a
symmetric blur adds. Each block also has its own variance, so that blocks that are sharp in both
frames decide. On stacks with known motion the error is a quarter of that of the same least squares
without Laplacian and variance, and a sixth of that of OpenCV's affine ECC.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np

BLOCK = 8  # px; with 16 px the error is a quarter larger
MARGIN = BLOCK // 4  # px at the border without blocks, so that frames that do not move use all
SMOOTHING = 1.2  # sigma in px, before derivatives are taken, on each level
SMALLEST = 64  # px; a level whose shorter side is below this is the last
LEAST_BLOCKS = 6
LEAST_VARIANCE = (0.2 / 255) ** 2  # of the difference of two blocks: rounding to 8 bits, smoothed
RIDGE = 1e-3  # on a block's own unknowns, so that uniform blocks have a solution
CLUSTERS = 7  # per side; parts of a frame in which errors are correlated
STEPS = 8  # most steps per level
ENOUGH = (0.06, 0.2)  # px of the level; a smaller step is the last on the finest level, on others
LONGEST_JUMP = 0.25  # of the longer side; a longer step means that the search has diverged
LEAST_LIKENESS = 0.35  # wrong pairs reach 0.2, the ends of a stack with 16 px of blur 0.74
CHANCE = 2.0  # the fewer blocks, the higher the likeness by chance
DOUBTFUL_LIKENESS = 0.6

Motion = Literal["similarity", "affine"]
PARAMETERS: dict[Motion, int] = {"similarity": 4, "affine": 6}
Level = tuple[int, np.ndarray]  # how much smaller than the frames it is, (h, w) float32


@dataclass
class Pair:
    """The registration of frame b to frame a.

    Attributes:
        transform: (3, 3) float64, from pixel (x, y, 1) of a to pixel of b.
        covariance: (P, P) of the parameters, px^2, see `offsets`.
        likeness: correlation of their contents, at most 1, mean of the finest three levels.
        blocks: number of blocks of the finest level that are in both frames.
        factor: how much smaller than the frames the compared pictures were.
        blur: px, the radius of the blur that was matched; 0 if none was.
        by_level: the likeness on each level, from the coarsest.
        by_edges: whether it was found by the strength of edges, see alignment/edges.py.
        contested: (3, 3), where the strength of edges places it if that is in doubt, or None.
    """

    transform: np.ndarray
    covariance: np.ndarray
    likeness: float
    blocks: int
    factor: int
    blur: float = 0.0
    by_level: tuple[float, ...] = ()
    by_edges: bool = False
    contested: np.ndarray | None = None

    @property
    def holds(self) -> bool:
        """Whether the two frames show the same scene."""
        return self.likeness >= LEAST_LIKENESS + CHANCE / np.sqrt(self.blocks)

    @property
    def sure(self) -> bool:
        """Whether the transform can be trusted without trying another starting point."""
        return self.likeness >= DOUBTFUL_LIKENESS


def offsets(x: np.ndarray, y: np.ndarray, motion: Motion) -> np.ndarray:
    """The displacement of points as a linear map of the parameters of a small motion.

    There are two parameters of the shift, in px, and two or four of the linear part, scaled to the
    displacement of the picture's corners in px.

    Args:
        x, y: (...) from the centre of the picture, in half diagonals.
        motion: which parameters there are.
    Returns:
        (..., 2, P) float64.
    """
    none, one = np.zeros_like(x), np.ones_like(x)
    if motion == "similarity":
        rows = [one, none, x, -y], [none, one, y, x]
    else:
        rows = [one, none, x, y, none, none], [none, one, none, none, x, y]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def frame_of(size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Centre (x, y) and half diagonal of a picture of `size` (height, width), px."""
    height, width = size
    return np.array([(width - 1) / 2, (height - 1) / 2]), np.hypot(height, width) / 2


def small_motion(parameters: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(3, 3) matrix of the motion that moves each point by `offsets` x parameters.

    Args:
        parameters: (4,) of a similarity, (6,) of an affine motion.
        size: (height, width) of the frames, px.
    """
    centre, radius = frame_of(size)
    if len(parameters) == 4:
        _, _, grow, turn = parameters
        linear = np.array([[grow, -turn], [turn, grow]]) / radius
    else:
        linear = np.reshape(parameters[2:], (2, 2)) / radius
    matrix = np.eye(3)
    matrix[:2, :2] += linear
    matrix[:2, 2] = parameters[:2] - linear @ centre
    return matrix


def parameters_of(matrix: np.ndarray, size: tuple[int, int], motion: Motion) -> np.ndarray:
    """The inverse of `small_motion`; for "similarity" of the similarity nearest to `matrix`."""
    centre, radius = frame_of(size)
    linear = matrix[:2, :2] - np.eye(2)
    shift = matrix[:2, 2] + linear @ centre
    linear = linear * radius
    if motion == "similarity":
        (a, b), (c, d) = linear
        return np.array([*shift, (a + d) / 2, (c - b) / 2])
    return np.array([*shift, *linear.ravel()])


def farthest(matrix: np.ndarray, size: tuple[int, int]) -> float:
    """The largest distance, px, by which a (2 or 3, 3) matrix moves a corner of a frame."""
    height, width = size
    x, y = np.array([[0, width - 1, 0, width - 1], [0, 0, height - 1, height - 1]])
    moved = matrix[:2] @ np.stack([x, y, np.ones(4)])
    return float(np.hypot(moved[0] - x, moved[1] - y).max())


def at_scale(matrix: np.ndarray, factor: int) -> np.ndarray:
    """The (2, 3) matrix between two pictures that area averaging has made `factor` smaller."""
    centre = (factor - 1) / 2  # of the first small pixel, in large pixels
    linear = matrix[:2, :2]
    shift = (linear @ [centre, centre] + matrix[:2, 2] - centre) / factor
    return np.column_stack([linear, shift])


def pyramid(luma: np.ndarray, factor: int) -> list[Level]:
    """Smoothed lumas, each half as large as the one before, from fine to coarse.

    Args:
        luma: (h, w) float32 in [0, 1].
        factor: how much smaller than the frame it is.
    """
    levels = [(factor, smoothed(luma))]
    while min(luma.shape) >= SMALLEST:
        luma, factor = halved(luma), 2 * factor
        levels.append((factor, smoothed(luma)))
    return levels


def smoothed(luma: np.ndarray) -> np.ndarray:
    """A luma (h, w) float32 as it is on a level."""
    return cv2.GaussianBlur(luma, (0, 0), SMOOTHING)


def halved(luma: np.ndarray) -> np.ndarray:
    """A luma (h, w) at half its size, (h // 2, w // 2)."""
    height, width = luma.shape[0] // 2, luma.shape[1] // 2
    # Without an odd last row or column, so that the factor is exactly two.
    whole = luma[: 2 * height, : 2 * width]
    return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)


def is_comparable(height: int, width: int) -> bool:
    """Whether frames of this reduced size, px, have enough blocks to be registered."""
    rows, columns = ((side - 2 * MARGIN) // BLOCK for side in (height, width))
    return min(rows, columns) > 0 and rows * columns >= 2 * LEAST_BLOCKS


def register(
    first: list[Level],
    second: list[Level],
    size: tuple[int, int],
    motion: Motion = "similarity",
    guess: np.ndarray | None = None,
    tried: Pair | None = None,
) -> Pair:
    """Register the second of two frames to the first.

    Args:
        first, second: pyramids of the frames a and b.
        size: (height, width) of the frames, px.
        motion: of the transform.
        guess: (3, 3), the starting point; None: the identity, and if its result is doubtful, what
            matching features give.
        tried: the result of starting from the identity, if it is known.
    Returns:
        Pair; it does not hold if nothing is found.
    """
    if guess is not None:
        return _descend(first, second, size, motion, guess)
    best = _descend(first, second, size, motion, np.eye(3)) if tried is None else tried
    if not best.sure and (guess := _by_features(first, second)) is not None:
        other = _descend(first, second, size, motion, guess)
        best = max(best, other, key=lambda pair: pair.likeness)
    return best


def register_roughly(
    first: list[Level], second: list[Level], size: tuple[int, int], motion: Motion
) -> Pair:
    """Register the second of two frames to the first, without the finest level of their pyramids.

    Args:
        first, second: the other levels.
        size, motion: as of `register`.
    """
    return _descend(first, second, size, motion, np.eye(3), finest=False)


def register_finely(
    first: Level, second: Level, size: tuple[int, int], motion: Motion, rough: Pair
) -> Pair:
    """What `register` finds from the identity, by the finest levels, after `register_roughly`.

    Args:
        first, second: the finest level of each frame.
        size, motion: as of `register`.
        rough: what is known; if nothing was found, nothing is.
    """
    if not rough.by_level:
        return replace(rough, factor=first[0])
    return _descend([first], [second], size, motion, rough.transform, rough.by_level)


def _descend(
    first: list[Level],
    second: list[Level],
    size: tuple[int, int],
    motion: Motion,
    matrix: np.ndarray,
    before: tuple[float, ...] = (),
    finest: bool = True,
) -> Pair:
    """Refine a (3, 3) matrix level by level, from coarse to fine.

    Args:
        first, second, size, motion: as of `register`.
        matrix: where to start.
        before: the likeness on coarser levels.
        finest: whether the finest of the pyramids is among the levels.
    """
    likeness = [*before]
    lost = Pair(matrix, np.eye(PARAMETERS[motion]), 0.0, 1, first[0][0])
    for level in reversed(range(len(first))):
        (factor, a), (_, b) = first[level], second[level]
        for _ in range(STEPS):
            found = _step(a, b, factor, matrix, size, motion)
            if found is None:
                return lost
            parameters, covariance, alike, blocks = found
            change = small_motion(parameters, size)
            length = farthest(change, size)
            if not length <= LONGEST_JUMP * max(size):  # NaN too
                return lost
            matrix = matrix @ change
            if length < ENOUGH[0 if finest and level == 0 else 1] * factor:
                break
        likeness.append(alike)
    alike = float(np.mean(likeness[-3:]))
    return Pair(matrix, covariance, alike, blocks, first[0][0], by_level=tuple(likeness))


def _step(
    a: np.ndarray,
    b: np.ndarray,
    factor: int,
    matrix: np.ndarray,
    size: tuple[int, int],
    motion: Motion,
) -> tuple[np.ndarray, np.ndarray, float, int] | None:
    """One step of least squares on one level.

    Args:
        a, b: (h, w) float32.
        factor: of the level.
        matrix: (3, 3) between the frames, as found so far.
        size: (height, width) of the frames, px.
        motion: of the transform.
    Returns:
        (parameters of the remaining motion, their covariance, likeness, number of blocks); None if
        too little overlaps.
    """
    height, width = a.shape
    local = at_scale(matrix, factor)
    warped = cv2.warpAffine(
        b,
        local,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    x, y = _centres(a.shape)
    there = local @ np.stack([x, y, np.ones_like(x)])
    room = np.array([[b.shape[1] - 1], [b.shape[0] - 1]]) - BLOCK / 2
    inside = ((there >= BLOCK / 2) & (there <= room)).all(0)
    if inside.sum() < LEAST_BLOCKS:
        return None
    return *motion_of_blocks(a, warped, factor, inside, size, motion), int(inside.sum())


def _centres(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) x and (n,) y of the centres of the blocks of a picture of `shape` (height, width)."""
    rows, columns = ((side - 2 * MARGIN) // BLOCK for side in shape)
    y, x = np.mgrid[:rows, :columns].reshape(2, -1) * BLOCK + (BLOCK - 1) / 2 + MARGIN
    return x, y


def motion_of_blocks(
    a: np.ndarray,
    b: np.ndarray,
    factor: int,
    inside: np.ndarray,
    size: tuple[int, int],
    motion: Motion,
) -> tuple[np.ndarray, np.ndarray, float]:
    """The small motion between two pictures, from some of their blocks.

    Args:
        a, b: (h, w) float32 of one level.
        factor: of the level.
        inside: bool, which of the blocks, row by row, to take.
        size: (height, width) of the frames, px.
        motion: of the transform.
    Returns:
        parameters (P,), their covariance (P, P), likeness.
    """
    height, width = a.shape
    normal, right, energy, common, most = block_equations(a, b, inside)
    x, y = (places[inside] for places in _centres(a.shape))
    centre, radius = frame_of(size)
    full = (np.stack([x, y]) * factor + (factor - 1) / 2 - centre[:, None]) / radius
    jacobian = offsets(full[0], full[1], motion) / factor  # px of the level
    cluster = (y * CLUSTERS / height).astype(int) * CLUSTERS + (x * CLUSTERS / width).astype(int)
    alike = common.sum() / max(most.sum(), np.finfo(float).tiny)
    return *_solve(normal, right, energy, jacobian, cluster), float(alike)


def block_equations(
    a: np.ndarray, b: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The equations of each block's displacement, after its own unknowns are eliminated.

    Args:
        a, b: (h, w) float32.
        inside: bool, which of the blocks, row by row, to take; n of them.
    Returns:
        normal (n, 2, 2), right (n, 2), energy (n,) without a displacement; and the covariance of
        the blocks' contents (n,), and the largest value that it could have (n,).
    """
    mean, difference = (a + b) / 2, b - a
    planes = (
        # Derivatives of the mean are symmetric in a and b, which makes a step of second order.
        cv2.Sobel(mean, -1, 1, 0, scale=1 / 8, borderType=cv2.BORDER_REPLICATE),
        cv2.Sobel(mean, -1, 0, 1, scale=1 / 8, borderType=cv2.BORDER_REPLICATE),
        mean,
        cv2.Laplacian(mean, -1, borderType=cv2.BORDER_REPLICATE),
        difference,
    )
    products = _products([_samples(plane, inside) for plane in planes])
    across, down, own, blur, change = range(5)
    # Eliminate contrast and blur: their normal matrix, with a ridge, inverted by hand.
    first, mixed, second = products[own, own], products[own, blur], products[blur, blur]
    first, second = (one * (1 + RIDGE) + 1e-9 for one in (first, second))
    determinant = first * second - mixed**2

    def rest(i: int, j: int) -> np.ndarray:
        (p, q), (u, v) = ((products[own, k], products[blur, k]) for k in (i, j))
        explained = second * p * u - mixed * (p * v + q * u) + first * q * v
        return products[i, j] - explained / determinant

    crossed = rest(across, down)
    normal = np.stack([rest(across, across), crossed, crossed, rest(down, down)], -1)
    right = -np.stack([rest(across, change), rest(down, change)], -1)
    power, changed, both = products[own, own], products[change, change] / 4, products[own, change]
    most = np.sqrt(np.maximum((power + changed) ** 2 - both**2, 0))
    energy = np.maximum(rest(change, change), 0)
    return normal.reshape(-1, 2, 2), right, energy, power - changed, most


def _samples(plane: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """A plane (h, w) float32 to (n, BLOCK^2) of the blocks `inside`, each without its mean."""
    blocks = blocks_of(plane)
    samples = blocks if inside.all() else blocks[inside]
    # A matrix product is ten times as fast as `mean`.
    samples -= samples @ np.full((BLOCK**2, 1), 1 / BLOCK**2, np.float32)
    return samples


def _products(samples: Sequence[np.ndarray]) -> np.ndarray:
    """The products, block by block, of each two of m samples (n, BLOCK^2): (m, m, n) float64."""
    products = np.empty((len(samples), len(samples), len(samples[0])))
    for i, first in enumerate(samples):
        for j, second in enumerate(samples[: i + 1]):
            products[i, j] = products[j, i] = np.einsum("nk,nk->n", first, second)
    return products


def blocks_of(plane: np.ndarray) -> np.ndarray:
    """(h, w) to (blocks, BLOCK^2), without the margin and incomplete blocks at the end."""
    rows, columns = ((side - 2 * MARGIN) // BLOCK for side in plane.shape)
    inner = plane[MARGIN : MARGIN + rows * BLOCK, MARGIN : MARGIN + columns * BLOCK]
    blocks = inner.reshape(rows, BLOCK, columns, BLOCK).transpose(0, 2, 1, 3)
    return blocks.reshape(rows * columns, BLOCK**2)


def _solve(
    normal: np.ndarray,
    right: np.ndarray,
    energy: np.ndarray,
    jacobian: np.ndarray,
    cluster: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The most likely parameters, where each block has an unknown variance of its own.

    Args:
        normal, right, energy: from `block_equations`.
        jacobian: (n, 2, P), displacement by parameter.
        cluster: (n,) int, index of the block's cluster.
    Returns:
        parameters (P,), covariance (P, P) from the scatter of the clusters.
    """
    across = jacobian.transpose(0, 2, 1)
    matrices = across @ normal @ jacobian  # (n, P, P)
    vectors = (across @ right[..., None])[..., 0]  # (n, P)
    size = vectors.shape[1]
    flat, parameters = matrices.reshape(-1, size**2), np.zeros(size)
    for _ in range(STEPS):
        squares = flat @ np.outer(parameters, parameters).ravel()
        left = energy - 2 * vectors @ parameters + squares
        weights = 1 / (np.maximum(left, 0) / BLOCK**2 + LEAST_VARIANCE)
        matrix = (weights @ flat).reshape(size, size)
        matrix = invertible(matrix)
        before, parameters = parameters, np.linalg.solve(matrix, weights @ vectors)
        if np.abs(parameters - before).max() < 1e-4:
            break
    scores = weights[:, None] * (vectors - matrices @ parameters)
    sums = np.stack([np.bincount(cluster, column) for column in scores.T], 1)
    inverse = np.linalg.inv(matrix)
    return parameters, inverse @ (sums.T @ sums) @ inverse


def invertible(matrix: np.ndarray) -> np.ndarray:
    """A normal matrix (P, P) with a ridge that is too small to matter where it can be inverted."""
    return matrix + np.eye(len(matrix)) * (1e-9 * np.trace(matrix) + 1e-12)


def _by_features(first: list[Level], second: list[Level]) -> np.ndarray | None:
    """A (3, 3) matrix between frames that may be far apart; None if none is found.

    Source: Lowe, "Distinctive image features from scale-invariant keypoints", IJCV 2004.
    """
    detector = cv2.SIFT_create(nfeatures=2000, contrastThreshold=0.01)
    points, descriptors = [], []
    for levels in (first, second):
        found, described = detector.detectAndCompute(_stretched(levels[0][1]), None)
        if len(found) < LEAST_BLOCKS:
            return None
        points.append(np.array([point.pt for point in found]))
        descriptors.append(described)
    matches = cv2.BFMatcher().knnMatch(*descriptors, k=2)
    good = [pair[0] for pair in matches if pair[0].distance < 0.8 * pair[1].distance]
    if len(good) < LEAST_BLOCKS:
        return None
    here = points[0][[match.queryIdx for match in good]]
    there = points[1][[match.trainIdx for match in good]]
    matrix, _ = cv2.estimateAffinePartial2D(here, there, ransacReprojThreshold=3.0)
    if matrix is None:
        return None
    factor = first[0][0]
    up = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1]])
    return up @ np.vstack([matrix, [0, 0, 1]]) @ np.linalg.inv(up)


def _stretched(luma: np.ndarray) -> np.ndarray:
    """The luma stretched to the full range of uint8, so that dark frames have features."""
    low, high = np.percentile(luma[::4, ::4], (1, 99))
    return np.clip((luma - low) * (255 / max(high - low, 1 / 255)), 0, 255).astype(np.uint8)
