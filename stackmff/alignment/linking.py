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
# 0.08 px (0.15 px at ISO 3200), and the ends of a stack by half a px.
SYSTEMATIC, UNLIKE = 0.03, 2.0

# For the question whether anything moves at all: in stacks that do not move, the ends, and what is
# hidden by something out of focus, appear to move by up to 8 x (1 - likeness) px.
DOUBT = 2.0
LOOPS = ((4, 2), (16, 8), (64, 32))  # (distance, step) of frames that are compared against drift
DIRECT = 4, 16  # (least step, most frames) of those that are compared with the reference itself
SKIPPED = ((2, 1), (3, 3))  # (distance, step) of frames that are compared to check their neighbours
CLOSED = 4.0, 0.005  # standard deviations, and part of the diagonal, within which pairs agree
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


def _systematic(pair: Pair) -> float:
    """The least standard deviation of a pair, px."""
    return pair.factor * (SYSTEMATIC + UNLIKE * (1 - pair.likeness) ** 2)


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
    pairs: Pairs, transforms: Transforms, reference: int, size: tuple[int, int], motion: Motion
) -> list[np.ndarray | None]:
    """The transforms that fit all pairs best, by least squares.

    Args:
        pairs: those that hold.
        transforms: where to start.
        reference: index.
        size: (height, width) of the frames, px.
        motion: of the pairs.
    Returns:
        New transforms; None stays None.
    """
    count = PARAMETERS[motion]
    placed = {k: matrix for k, matrix in enumerate(transforms) if matrix is not None}
    keys = [key for key in pairs if key[0] in placed]
    inverse = {}
    for key in keys:
        floor = np.eye(count) * _systematic(pairs[key]) ** 2
        inverse[key] = np.linalg.inv(pairs[key].covariance + floor)
    for _ in range(3):
        matrix = np.zeros((len(transforms), count, len(transforms), count))
        right = np.zeros((len(transforms), count))
        for a, b in keys:
            gap = np.linalg.inv(placed[b]) @ pairs[a, b].transform @ placed[a]
            error = parameters_of(gap, size, motion)
            # Cauchy's weights: a pair that contradicts the others counts little.
            weight = inverse[a, b] / (1 + error @ inverse[a, b] @ error / (4 * count))
            for k, other in ((a, b), (b, a)):
                matrix[k, :, k] += weight
                matrix[k, :, other] -= weight
            right[a] -= weight @ error
            right[b] += weight @ error
        for k in range(len(transforms)):
            if k not in placed or k == reference:
                matrix[k, :, k] += np.eye(count) * 1e12
        flat = matrix.reshape(right.size, right.size)
        changes = np.linalg.solve(flat, right.ravel()).reshape(right.shape)
        placed = {
            k: transform if k == reference else transform @ small_motion(changes[k], size)
            for k, transform in placed.items()
        }
    return [placed.get(k) for k in range(len(transforms))]
