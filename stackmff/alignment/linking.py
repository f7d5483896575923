"""From how pairs of frames lie on one another to how a whole stack lies on its reference."""

from collections import deque

import numpy as np

from stackmff.alignment.registration import PARAMETERS, parameters_of, small_motion

# What the deviation of a pair is at least, px of the size they are compared at: where nothing moves
# neighbours are found up to 0.08 px apart by what hides what (0.15 px at ISO 3200), and ends of a
# stack by half a px.
SYSTEMATIC, UNLIKE = 0.03, 2.0

# For the question whether anything moves at all: ends of a stack, and what is hidden by what is out
# of focus, seem to move by up to 8 x (1 - likeness) px where nothing does.
DOUBT = 2.0
LOOPS = ((4, 2), (16, 8), (64, 32))  # (distance, every how many) of frames compared against drift
DIRECT = 4, 16  # frames at this distance at least, and so many, are compared with the reference
ATTEMPTS = 4  # frames that one is tried against which does not fit its neighbours


def connect(found, seen, reference, middle, compare):
    """Find pairs that lead from the reference to as many frames as can be.

    A frame that does not fit its neighbours, as in a stack out of order, is tried against others.

    Args:
        found: {(a, b): Pair} of neighbours.
        seen: indices of the frames with detail.
        reference: index, or None; middle: where to look for one then.
        compare: function of (a, b) to their Pair.
    Returns:
        reference; {(a, b): Pair} of those that hold.
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


def _attach(pairs, tried, seen, start, compare):
    """Compare frames that no pair leads to from `start` with some that one does; fills `pairs`."""
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


def _links(pairs):
    """{frame: frames that a pair joins to it}."""
    links = {}
    for a, b in pairs:
        links.setdefault(a, []).append(b)
        links.setdefault(b, []).append(a)
    return links


def _reached(pairs, start):
    """The set of frames that pairs lead to from `start`, itself included."""
    links, reached, waiting = _links(pairs), {start}, [start]
    while waiting:
        for other in links.get(waiting.pop(), ()):
            if other not in reached:
                reached.add(other)
                waiting.append(other)
    return reached


def chain_of(pairs, reference, count):
    """Compose pairs outward from the reference.

    Returns:
        For each frame (transform (3, 3) from the reference, its variance, what DOUBT adds to it
        where it is asked whether anything moves; both px^2), None where no pair leads to it.
    """
    links = _links(pairs)
    chain = [None] * count
    chain[reference] = (np.eye(3), 0.0, 0.0)
    waiting = deque([reference])
    while waiting:
        a = waiting.popleft()
        for b in sorted(links.get(a, ()), key=lambda k: abs(k - a)):
            if chain[b] is None:
                pair = pairs.get((a, b))
                matrix = np.linalg.inv(pairs[b, a].transform) if pair is None else pair.transform
                pair = pairs[b, a] if pair is None else pair
                variance, doubt = _variance(pair), (pair.factor * DOUBT * (1 - pair.likeness)) ** 2
                chain[b] = (matrix @ chain[a][0], chain[a][1] + variance, chain[a][2] + doubt)
                waiting.append(b)
    return chain


def _variance(pair):
    """Of a corner's place in a pair, px^2: from the scatter, and what no scatter shows."""
    return np.trace(pair.covariance) + _systematic(pair) ** 2


def _systematic(pair):
    return pair.factor * (SYSTEMATIC + UNLIKE * (1 - pair.likeness) ** 2)


def loops(pairs, transforms, reference):
    """The pairs (a, b) of frames farther apart that are to be compared against drift."""
    kept = [k for k, matrix in enumerate(transforms) if matrix is not None]
    keys = []
    for distance, every in LOOPS:
        keys += [(a, b) for a, b in zip(kept[::every], kept[distance::every])]
    apart, most = DIRECT
    keys += [(reference, k) for k in kept[:: max(apart, -(-len(kept) // most))]]
    new = {tuple(sorted(key)) for key in keys if key[0] != key[1]}
    return sorted(new - {tuple(sorted(key)) for key in pairs})


def settle(pairs, transforms, reference, size, motion):
    """The transforms that all pairs together agree with best.

    Args:
        pairs: {(a, b): Pair}.
        transforms: (3, 3) from the reference, or None; where to begin.
    Returns:
        New list of transforms.
    """
    transforms, count = list(transforms), PARAMETERS[motion]
    keys = [key for key in pairs if transforms[key[0]] is not None]
    inverse = {}
    for key in keys:
        floor = np.eye(count) * _systematic(pairs[key]) ** 2
        inverse[key] = np.linalg.inv(pairs[key].covariance + floor)
    for _ in range(3):
        matrix = np.zeros((len(transforms), count, len(transforms), count))
        right = np.zeros((len(transforms), count))
        for a, b in keys:
            gap = np.linalg.inv(transforms[b]) @ pairs[a, b].transform @ transforms[a]
            error = parameters_of(gap, size, motion)
            # A pair that contradicts the others counts little: Cauchy's weights.
            weight = inverse[a, b] / (1 + error @ inverse[a, b] @ error / (4 * count))
            for k, other in ((a, b), (b, a)):
                matrix[k, :, k] += weight
                matrix[k, :, other] -= weight
            right[a] -= weight @ error
            right[b] += weight @ error
        for k, transform in enumerate(transforms):
            if transform is None or k == reference:
                matrix[k, :, k] += np.eye(count) * 1e12
        flat = matrix.reshape(right.size, right.size)
        changes = np.linalg.solve(flat, right.ravel()).reshape(right.shape)
        transforms = [
            transform
            if transform is None or k == reference
            else transform @ small_motion(change, size)
            for k, (transform, change) in enumerate(zip(transforms, changes))
        ]
    return transforms
