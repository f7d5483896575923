"""Focus order: are the frames of a stack in it, and which order would be.

In focus order the detail of each place rises to its best frame and falls from there. So the order
in which detail changes least from frame to frame, from nothing and to nothing, is the focus order,
forwards or backwards.
"""

import cv2
import numpy as np

from stackmff.images.frame_store import put, release, window

WINDOWS, SIDE = 6, 96  # windows along each side of the picture, and their side, px
CELL = 16  # px; detail is a mean over so many
LEVELS = 3  # of the pyramid: detail of about 1, 2 and 4 px
LEAST_CELLS = 16  # in a smaller picture chance makes any order
LEAST_FLOOR = 0.02  # squared grey levels, under which detail is rounding
LEAST_CHANGE = 0.2  # of the logarithm of detail: cells that change less tell nothing

# Frames are not in focus order where detail comes and goes for so much more than it must, as a
# share of that, and an order is found that leaves but so much of the excess.
LEAST_EXCESS, MOST_LEFT = 0.1, 0.5
MOST_STARTS = 8
MOST_FRAMES = 250  # longer stacks are videos, in order by themselves, and take seconds to order


def detail(frames):
    """How much detail each frame has, in cells all over the picture.

    Args:
        frames: (N, H, W, C) uint8 or uint16, C as in images/formats.py.
    Returns:
        (N, LEVELS, cells) float32, mean squared Laplacians in 8-bit grey levels.
    """
    n_frames, height, width, channels = frames.shape
    sides = [min(max(side // CELL, 1) * CELL, SIDE, side) for side in (height, width)]
    tops, lefts = (
        sorted({round(k * (full - side) / (WINDOWS - 1)) for k in range(WINDOWS)})
        for full, side in zip((height, width), sides)
    )
    cells = tuple(max(side // CELL, 1) for side in sides[::-1])
    plane = 1 if channels > 2 else 0  # green, or grey
    scale = np.float32(255 / np.iinfo(frames.dtype).max)
    found = [[] for _ in range(n_frames)]
    for top in tops:
        for left in lefts:
            part = window(frames, top, top + sides[0], left, left + sides[1])
            for own, frame in zip(found, part[..., plane]):
                # A little smoothing, since noise has most of its power in the finest level.
                picture = cv2.GaussianBlur(frame * scale, (3, 3), 0)
                levels = []
                for _ in range(LEVELS):
                    coarse = cv2.pyrDown(picture)
                    fine = (picture - cv2.pyrUp(coarse, dstsize=picture.shape[::-1])) ** 2
                    levels.append(cv2.resize(fine, cells, interpolation=cv2.INTER_AREA).ravel())
                    picture = coarse
                own.append(np.stack(levels))
            release(frames)
    return np.stack([np.concatenate(own, axis=1) for own in found])


def distances(energy):
    """How differently detail is spread in two frames.

    Args:
        energy: (N, LEVELS, cells), from `detail`.
    Returns:
        (distance, ends): (N, N) and (N,), the latter from a frame in which nothing is sharp. The
        unit is such that a way through all frames that begins and ends there is 1 long where the
        detail of every cell rises and falls once, and longer else.
    """
    # Where no frame is sharp there is noise; beside it small detail shall not count.
    floor = np.maximum(np.median(energy.min(0), axis=1), LEAST_FLOOR)
    logarithm = np.log(energy + floor[:, None])
    least = logarithm.min(0)
    change = logarithm.max(0) - least
    weight = np.maximum(change - LEAST_CHANGE, 0)
    weight /= max(2 * (weight * change).sum(), 1e-9)
    distance = [(np.abs(logarithm - own) * weight).sum((1, 2)) for own in logarithm]
    return np.array(distance), ((logarithm - least) * weight).sum((1, 2))


def way_length(distance, ends, order):
    """The length of the way through all frames in an order; arguments as `distances` gives them."""
    inside = distance[order[:-1], order[1:]].sum()
    return float(ends[order[0]] + inside + ends[order[-1]])


def nearest_way(distance, start):
    """The way from a frame to the nearest one that is left, and so on: (N,) int."""
    order, left = [start], np.ones(len(distance), bool)
    for _ in range(len(distance) - 1):
        left[order[-1]] = False
        order.append(int(np.where(left, distance[order[-1]], np.inf).argmin()))
    return np.array(order)


def shortened(distance, ends, order):
    """A way, parts of it turned round as long as that makes it shorter (2-opt).

    Source: Croes, "A method for solving traveling-salesman problems", Operations Research 1958.
    """
    order, count = order.copy(), len(order)
    first, last = np.triu_indices(count, 1)
    begins, stops = first == 0, last == count - 1
    while True:
        one, other = order[first], order[last]
        left, right = order[first - 1], order[(last + 1) % count]
        now = np.where(begins, ends[one], distance[left, one])
        now += np.where(stops, ends[other], distance[other, right])
        then = np.where(begins, ends[other], distance[left, other])
        then += np.where(stops, ends[one], distance[one, right])
        best = (then - now).argmin()
        if then[best] - now[best] > -1e-9:
            return order
        turned = slice(first[best], last[best] + 1)
        order[turned] = order[turned][::-1].copy()


def shortest_way(distance, ends):
    """The shortest way through all frames that is found: (N,) int, and its length."""
    starts = np.argsort(ends, kind="stable")[:MOST_STARTS]
    ways = [np.arange(len(ends)), *(nearest_way(distance, int(start)) for start in starts)]
    ways = [shortened(distance, ends, way) for way in ways]
    lengths = [way_length(distance, ends, way) for way in ways]
    return ways[int(np.argmin(lengths))], min(lengths)


def focus_order(frames):
    """The order in which frames are in focus order, where the given one clearly is not.

    Args:
        frames: (N, H, W, C) uint8 or uint16.
    Returns:
        (N,) indices, in the direction that agrees with the given order better; None: leave it. So
        for fewer than three frames or more than MOST_FRAMES, pictures of fewer cells than
        LEAST_CELLS, and where detail rises and falls but once in the given order, or little oftener
        than in any other.
    """
    count = len(frames)
    if not 3 <= count <= MOST_FRAMES:
        return None
    energy = detail(frames)
    if energy.shape[2] < LEAST_CELLS:
        return None
    distance, ends = distances(energy)
    given = np.arange(count)
    excess = way_length(distance, ends, given) - 1
    if excess <= LEAST_EXCESS:
        return None
    best, length = shortest_way(distance, ends)
    if length - 1 > excess * MOST_LEFT:
        return None
    return best[::-1] if np.dot(best, given) < np.dot(best[::-1], given) else best


def put_in_order(stack, names=None):
    """Bring a Stack into focus order, frames and paths, in place, and add a note, where it is not.

    Args:
        stack: pictures.Stack.
        names: what its frames are called; default: as their files.
    Returns:
        The names, in the order of the frames.
    """
    names = names or [path.name for path in stack.paths]
    order = focus_order(stack.frames)
    if order is None:
        return names
    names = [names[k] for k in order]
    stack.notes.append(reorder(stack, order, names))
    return names


def reorder(stack, order, names):
    """Put a Stack's frames, paths and metadata into an order, in place.

    Args:
        stack: pictures.Stack; order: (N,) indices, as of `focus_order`.
        names: what its frames are called, in the new order.
    Returns:
        The sentence that tells it.
    """
    permute(stack.frames, order)
    stack.paths = [stack.paths[k] for k in order]
    stack.frame_metadata = [stack.frame_metadata[k] for k in order]
    return f"the frames were not in focus order and were brought into it: {' '.join(names)}"


def permute(frames, order):
    """Put frame order[k] in place k for every k, in place, with one frame of memory."""
    left = set(range(len(order)))
    while left:
        start = place = left.pop()
        first = np.array(frames[start])
        while order[place] != start:
            put(frames, place, frames[order[place]])
            place = int(order[place])
            left.remove(place)
        put(frames, place, first)
        release(frames)
