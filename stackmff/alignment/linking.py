"""From registered pairs of frames to the transforms of a whole stack from its reference."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from stackmff.alignment.registration import (
    PARAMETERS,
    Motion,
    Pair,
    farthest,
    parameters_of,
    small_motion,
)

# The least standard deviation of a pair, px of the size at which they are compared, is SYSTEMATIC
# plus UNLIKE x (1 - likeness)^2. In stacks that do not move, occlusion shifts neighbours by up to
# 0.08 px (0.15 px at ISO 3200), and the ends of a stack by half a px. To that OF_BLUR of the radius
# is added by which blur was matched: what is thick, or lit from one side, blurs like no disc.
SYSTEMATIC, UNLIKE, OF_BLUR = 0.03, 2.0, 0.03

# For the question whether anything moves at all: in stacks that do not move, the ends, and what is
# hidden by something out of focus, appear to move by up to 8 x (1 - likeness) px.
DOUBT = 2.0
LOOPS = ((4, 2), (16, 8), (64, 32))  # (distance, step) of frames that are compared against drift
DIRECT = 4, 16  # (least step, most frames) of those that are compared with the reference itself
SKIPPED = ((2, 1), (3, 3))  # (distance, step) of frames that are compared to check their neighbours
CLOSED = 4.0, 0.005  # standard deviations, and part of the diagonal, within which pairs agree
SETTLINGS = 3  # linearisations
FIXED = 1e12  # px^-2; holds a frame where it is
# Of steps along the focus order: the fewest that tell how steady they are, px that are added to
# their scatter, degrees of freedom of Student's distribution, which forgives a jolt, and rounds.
LEAST_STEPS, LEAST_STEP, TAIL, EXPECTATIONS = 5, 0.1, 4, 40
ATTEMPTS = 4  # number of frames against which one that does not fit its neighbours is tried

Key = tuple[int, int]  # indices of two frames
Pairs = dict[Key, Pair]
Compare = Callable[[Key], Pair]
Transforms = Sequence[np.ndarray | None]  # (3, 3) from the reference for each frame


def connect(
    found: Pairs, seen: Sequence[int], reference: int | None, middle: int, compare: Compare
) -> tuple[int, Pairs]:
    """Find pairs that connect the reference to as many frames as possible.

    A frame that does not fit its neighbours, as in a stack out of order, is tried against others.

    Args:
        found: {(a, b): Pair} of neighbours.
        seen: indices of the frames with detail.
        reference: index; None: the frame nearest to the middle, or if fewer than half of the frames
            fit it, another one that more of them fit.
        middle: index.
        compare: registers two frames (a, b).
    Returns:
        reference; {(a, b): Pair} of the pairs that hold.
    """
    pairs = {key: pair for key, pair in found.items() if pair.holds}
    tried = set(found)
    start = min(seen, key=lambda k: abs(k - middle)) if reference is None else reference
    _attach(pairs, tried, seen, start, compare)
    inside = _reached(pairs, start)
    if reference is None and 2 * len(inside) < len(seen):
        others = sorted(set(seen) - inside)
        largest = max((_reached(pairs, k) for k in others), key=len)
        other = min(largest, key=lambda k: abs(k - middle))
        _attach(pairs, tried, others, other, compare)
        if len(_reached(pairs, other)) > len(inside):
            start = other
    return start, pairs


def _attach(
    pairs: Pairs, tried: set[Key], seen: Collection[int], start: int, compare: Compare
) -> None:
    """Try to connect the remaining frames to `start`; adds to `pairs` and `tried`.

    Args:
        pairs: those that hold.
        tried: the keys of all pairs that have been compared.
        seen: indices of the frames to connect.
        start: index.
        compare: registers two frames (a, b).
    """
    waiting = deque(sorted(set(seen) - _reached(pairs, start), key=lambda k: abs(k - start)))
    idle = 0
    while waiting and idle < len(waiting):
        k = waiting.popleft()
        inside = _reached(pairs, start)
        if k in inside:
            continue
        nearest = sorted(inside, key=lambda other: abs(other - k))
        spread = nearest[:: max(len(nearest) // ATTEMPTS, 1)]
        idle += 1
        for other in dict.fromkeys([nearest[0], start, *spread[: ATTEMPTS - 1]]):
            key = (other, k)
            if {key, key[::-1]} & tried:
                continue
            tried.add(key)
            pair = compare(key)
            if pair.holds:
                pairs[key] = pair
                idle = 0
                break
        else:
            waiting.append(k)


def _links(pairs: Iterable[Key]) -> dict[int, list[int]]:
    """{frame: frames that a pair connects to it}."""
    links: dict[int, list[int]] = {}
    for a, b in pairs:
        links.setdefault(a, []).append(b)
        links.setdefault(b, []).append(a)
    return links


def _reached(pairs: Iterable[Key], start: int) -> set[int]:
    """The frames that pairs connect to `start`, including itself."""
    links, reached, waiting = _links(pairs), {start}, [start]
    while waiting:
        for other in links.get(waiting.pop(), ()):
            if other not in reached:
                reached.add(other)
                waiting.append(other)
    return reached


class Link(NamedTuple):
    """A frame's transform, composed of pairs.

    Attributes:
        transform: (3, 3) from the reference.
        variance: of a corner's place, px^2.
        doubt: what DOUBT adds to it in the question whether anything moves, px^2.
    """

    transform: np.ndarray
    variance: float
    doubt: float


def chain_of(pairs: Pairs, reference: int, count: int) -> list[Link | None]:
    """Compose pairs outwards from the reference.

    Args:
        pairs: those that hold.
        reference: index.
        count: N.
    Returns:
        For each frame its Link; None if no pairs connect it to the reference.
    """
    links = _links(pairs)
    origin = Link(np.eye(3), 0.0, 0.0)
    chain = {reference: origin}
    waiting = deque([reference])
    while waiting:
        a = waiting.popleft()
        for b in sorted(links.get(a, ()), key=lambda k: abs(k - a)):
            if b not in chain:
                pair = pairs.get((a, b))
                matrix = np.linalg.inv(pairs[b, a].transform) if pair is None else pair.transform
                pair = pairs[b, a] if pair is None else pair
                before, doubt = chain[a], (pair.factor * DOUBT * (1 - pair.likeness)) ** 2
                chain[b] = Link(
                    matrix @ before.transform,
                    before.variance + _variance(pair),
                    before.doubt + doubt,
                )
                waiting.append(b)
    return [chain.get(k) for k in range(count)]


def _variance(pair: Pair) -> float:
    """Variance of a corner's place in a pair, px^2: from the scatter, and what it cannot show."""
    return float(np.trace(pair.covariance) + _systematic(pair) ** 2)


def deviation(pair: Pair) -> float:
    """Standard deviation of a corner's place in a pair, px, in the question whether it moves."""
    return float(np.hypot(np.sqrt(_variance(pair)), pair.factor * DOUBT * (1 - pair.likeness)))


def _systematic(pair: Pair) -> float:
    """The least standard deviation of a pair, px."""
    return pair.factor * (SYSTEMATIC + UNLIKE * (1 - pair.likeness) ** 2) + OF_BLUR * pair.blur


def loops(pairs: Pairs, transforms: Transforms, reference: int) -> list[Key]:
    """The frames (a, b), farther apart than neighbours, that are to be compared against drift."""
    kept = [k for k, matrix in enumerate(transforms) if matrix is not None]
    keys: list[Key] = []
    for distance, every in LOOPS:
        keys += zip(kept[::every], kept[distance::every])
    apart, most = DIRECT
    keys += [(reference, k) for k in kept[:: max(apart, -(-len(kept) // most))]]
    new = {_ordered(key) for key in keys if key[0] != key[1]}
    return sorted(new - {_ordered(key) for key in pairs})


def skipping(kept: Sequence[int]) -> list[Key]:
    """The frames (a, b), two and three apart, that are compared to check their neighbours.

    Args:
        kept: indices of the frames that are placed, in their order.
    """
    return [key for distance, every in SKIPPED for key in zip(kept[::every], kept[distance::every])]


def contradicted(
    pairs: Pairs, transforms: Transforms, reference: int, size: tuple[int, int]
) -> int | None:
    """The frame whose place most of its pairs contradict, by the most; None if there is none.

    Args:
        pairs: those that hold.
        transforms: of the frames, from all pairs.
        reference: index of the frame that is taken as it is.
        size: (height, width) of the frames, px.
    """
    sigmas, part = CLOSED
    ratios: dict[int, list[float]] = {}
    for (a, b), pair in pairs.items():
        first, second = transforms[a], transforms[b]
        if first is None or second is None:
            continue
        gap = farthest(np.linalg.inv(second) @ pair.transform @ first, size)
        allowed = max(sigmas * float(np.sqrt(_variance(pair))), part * float(np.hypot(*size)))
        for k in {a, b} - {reference}:
            ratios.setdefault(k, []).append(gap / allowed)
    medians = {k: float(np.median(own)) for k, own in ratios.items()}
    worst = max(medians, key=lambda k: medians[k], default=None)
    return worst if worst is not None and medians[worst] > 1 else None


def _ordered(key: Key) -> Key:
    """Two frames, the lower index first."""
    return min(key), max(key)


def settle(
    pairs: Pairs,
    transforms: Transforms,
    reference: int,
    size: tuple[int, int],
    motion: Motion,
    along: Sequence[int] = (),
) -> list[np.ndarray | None]:
    """The transforms that fit all pairs best, by least squares.

    Args:
        pairs: those that hold.
        transforms: where to start.
        reference: index.
        size: (height, width) of the frames, px.
        motion: of the pairs.
        along: indices of frames in focus order, along which they move steadily unless the pairs
            tell otherwise, see `_steady`; empty: nothing is known of that.
    Returns:
        New transforms; None stays None.
    """
    placed = {k: matrix for k, matrix in enumerate(transforms) if matrix is not None}
    for _ in range(SETTLINGS):
        matrix, right = _equations(pairs, placed, len(transforms), size, motion)
        for k in range(len(transforms)):
            if k not in placed or k == reference:
                matrix[k, :, k] += np.eye(right.shape[1]) * FIXED
        if len(along) >= LEAST_STEPS:
            changes = _steady(matrix, right, placed, along, size, motion)
        else:
            flat = matrix.reshape(right.size, right.size)
            changes = np.linalg.solve(flat, right.ravel()).reshape(right.shape)
        placed = {
            k: transform if k == reference else transform @ small_motion(changes[k], size)
            for k, transform in placed.items()
        }
    return [placed.get(k) for k in range(len(transforms))]


def _equations(
    pairs: Pairs,
    placed: dict[int, np.ndarray],
    count: int,
    size: tuple[int, int],
    motion: Motion,
) -> tuple[np.ndarray, np.ndarray]:
    """The normal equations of the changes of all transforms.

    Args:
        pairs, size, motion: as of `settle`.
        placed: {index: (3, 3) from the reference}.
        count: N.
    Returns:
        (N, P, N, P) and (N, P).
    """
    n = PARAMETERS[motion]
    matrix, right = np.zeros((count, n, count, n)), np.zeros((count, n))
    for (a, b), pair in pairs.items():
        if a not in placed:
            continue
        error = parameters_of(np.linalg.inv(placed[b]) @ pair.transform @ placed[a], size, motion)
        inverse = np.linalg.inv(pair.covariance + np.eye(n) * _systematic(pair) ** 2)
        # Cauchy's weights: a pair that contradicts the others counts little.
        weight = inverse / (1 + error @ inverse @ error / (4 * n))
        for k, other in ((a, b), (b, a)):
            matrix[k, :, k] += weight
            matrix[k, :, other] -= weight
        right[a] -= weight @ error
        right[b] += weight @ error
    return matrix, right


def _steady(
    matrix: np.ndarray,
    right: np.ndarray,
    placed: dict[int, np.ndarray],
    along: Sequence[int],
    size: tuple[int, int],
    motion: Motion,
) -> np.ndarray:
    """The most likely changes (N, P) of transforms that steps along the focus order explain.

    The steps of each parameter from frame to frame have a mean and a variance, which are found from
    the pairs along with the transforms, by expectation maximisation. So where the pairs tell a
    parameter exactly, it is what they tell; where they do not, as blur hides it, it goes on as it
    does elsewhere. In a stack that is held by hand the variance is large, and nothing changes.

    Args:
        matrix, right: the normal equations, see `_equations`.
        placed, size, motion: as of `_equations`.
        along: indices in focus order.
    """
    count, n = right.shape
    a, b = np.array(along[:-1]), np.array(along[1:])
    now = [parameters_of(placed[j] @ np.linalg.inv(placed[i]), size, motion) for i, j in zip(a, b)]
    steps = np.array(now)  # (S, P)
    mean, variance = steps.mean(0), steps.var(0) + LEAST_STEP**2
    weight = np.ones_like(steps)
    for _ in range(EXPECTATIONS):
        total, other = matrix.copy(), right.copy()
        for k in range(n):
            inverse = weight[:, k] / variance[k]
            np.add.at(total[:, k, :, k], (a, a), inverse)
            np.add.at(total[:, k, :, k], (b, b), inverse)
            np.add.at(total[:, k, :, k], (a, b), -inverse)
            np.add.at(total[:, k, :, k], (b, a), -inverse)
            np.add.at(other[:, k], a, -inverse * (mean - steps)[:, k])
            np.add.at(other[:, k], b, inverse * (mean - steps)[:, k])
        covariance = np.linalg.inv(total.reshape(right.size, -1))
        changes = (covariance @ other.ravel()).reshape(right.shape)
        spread = np.diagonal(covariance.reshape(count, n, count, n), axis1=1, axis2=3)
        unsure = spread[a, a] + spread[b, b] - 2 * spread[a, b]  # (S, P)
        found = steps + changes[b] - changes[a]
        squares = (found - mean) ** 2 + unsure
        weight = (TAIL + 1) / (TAIL + squares / variance)
        mean = (weight * found).sum(0) / weight.sum(0)
        variance = (weight * squares).sum(0) + LEAST_STEP**2
        variance /= len(steps) + 1
    return changes
