"""Focus order: whether the frames of a stack are in it, and which order would be.

In focus order the detail at each place rises up to its sharpest frame and falls after it. So the
order in which detail changes least from frame to frame, starting and ending without any, is the
focus order, forwards or backwards.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from stackmff.images.frame_store import put, release, window
from stackmff.images.levels import levels_of, sampled_lumas
from stackmff.images.rectangles import Box
from stackmff.images.stack import Stack

WINDOWS, SIDE = 6, 96  # windows along each side of the picture, and their side, px
CELL = 16  # px; side of the square over which detail is averaged
LEVELS = 3  # of the pyramid: detail of about 1, 2 and 4 px
LEAST_CELLS = 16  # in a smaller picture any order can arise by chance
LEAST_FLOOR = 0.02  # squared grey levels; detail below it is rounding
LEAST_CHANGE = 0.2  # of the logarithm of detail; cells that change less do not tell the order

# Frames are out of focus order if detail changes more than the minimum by at least LEAST_EXCESS of
# it, and an order is found that saves at least half of this excess. If that one exceeds the minimum
# too, it must save LEAST_SAVED: of cells in transmitted light, whose far frames have rings in place
# of blur, a wrong order saves 0.2. MUCH_SAVED is enough where noise and wide blur leave more.
LEAST_EXCESS, LEAST_SAVED, MUCH_SAVED = 0.1, 0.25, 0.35
OTHERWISE = 1.4  # times the usual coded brightness, or a part of it: exposed in another way
NAMED = 8  # frames in the note of a new order
MOST_STARTS = 8  # of the search
MOST_FRAMES = 250  # longer stacks are videos, which are in order, and would take seconds


def detail(frames: np.ndarray) -> np.ndarray:
    """How much detail each frame has, in cells distributed over the picture.

    Args:
        frames: (N, H, W, C) uint8 or uint16, C as in images/formats.py.
    Returns:
        (N, LEVELS, cells) float32, mean squared Laplacians in 8-bit grey levels; of a dim stack as
        if it were stretched, see images/levels.py.
    """
    n_frames, height, width, channels = frames.shape
    sides = [min(max(side // CELL, 1) * CELL, SIDE, side) for side in (height, width)]
    tops, lefts = (
        sorted({round(k * (full - side) / (WINDOWS - 1)) for k in range(WINDOWS)})
        for full, side in zip((height, width), sides)
    )
    cells = tuple(max(side // CELL, 1) for side in sides[::-1])
    plane = 1 if channels > 2 else 0  # green, or grey
    stretch = levels_of(frames)
    scale = np.float32(255 / np.iinfo(frames.dtype).max * (1 if stretch is None else stretch.gain))
    found: list[list[np.ndarray]] = [[] for _ in range(n_frames)]
    for top in tops:
        for left in lefts:
            part = window(frames, Box.at(top, left, sides))
            for own, frame in zip(found, part[..., plane]):
                # Smoothed a little, since noise has most of its power in the finest level.
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


def distances(energy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How differently detail is distributed in two frames.

    Args:
        energy: (N, LEVELS, cells), from `detail`.
    Returns:
        (distance, ends): (N, N) between frames, and (N,) from a frame in which nothing is sharp. A
        path through all frames that starts and ends at that one has length 1 if the detail of every
        cell rises and falls once, and is longer otherwise.
    """
    # The noise level, from the cells that are sharp in no frame; smaller detail does not count.
    floor = np.maximum(np.median(energy.min(0), axis=1), LEAST_FLOOR)
    logarithm = np.log(energy + floor[:, None])
    least = logarithm.min(0)
    change = logarithm.max(0) - least
    weight = np.maximum(change - LEAST_CHANGE, 0)
    weight /= max(2 * (weight * change).sum(), 1e-9)
    distance = [(np.abs(logarithm - own) * weight).sum((1, 2)) for own in logarithm]
    return np.array(distance), ((logarithm - least) * weight).sum((1, 2))


def path_length(distance: np.ndarray, ends: np.ndarray, order: np.ndarray) -> float:
    """The length of the path through all frames in an order, (N,) indices; see `distances`."""
    inside = distance[order[:-1], order[1:]].sum()
    return float(ends[order[0]] + inside + ends[order[-1]])


def nearest_path(distance: np.ndarray, start: int) -> np.ndarray:
    """The path from a frame to the nearest remaining one, and so on: (N,) indices."""
    order, left = [start], np.ones(len(distance), bool)
    for _ in range(len(distance) - 1):
        left[order[-1]] = False
        order.append(int(np.where(left, distance[order[-1]], np.inf).argmin()))
    return np.array(order)


def shortened(distance: np.ndarray, ends: np.ndarray, order: np.ndarray) -> np.ndarray:
    """A path whose sections are reversed as long as that makes it shorter (2-opt).

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


def shortest_path(distance: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, float]:
    """The shortest path through all frames that is found, (N,) indices, and its length."""
    starts = np.argsort(ends, kind="stable")[:MOST_STARTS]
    paths = [np.arange(len(ends)), *(nearest_path(distance, int(start)) for start in starts)]
    paths = [shortened(distance, ends, path) for path in paths]
    lengths = [path_length(distance, ends, path) for path in paths]
    return paths[int(np.argmin(lengths))], min(lengths)


def focus_order(frames: np.ndarray) -> np.ndarray | None:
    """The focus order of frames that are clearly not in it.

    Args:
        frames: (N, H, W, C) uint8 or uint16.
    Returns:
        (N,) indices, in the direction that agrees better with the given order. None if the given
        order is to be kept: for fewer than three frames or more than MOST_FRAMES, in pictures with
        fewer than LEAST_CELLS cells, and if detail rises and falls about once in the given order,
        or no other order is much better.
    """
    count = len(frames)
    if not 3 <= count <= MOST_FRAMES:
        return None
    alike = alike_exposed(frames)
    if len(alike) < 3:
        return None
    energy = detail(frames)[alike]
    if energy.shape[2] < LEAST_CELLS:
        return None
    distance, ends = distances(energy)
    given = np.arange(len(alike))
    excess = path_length(distance, ends, given) - 1
    if excess <= LEAST_EXCESS:
        return None
    best, length = shortest_path(distance, ends)
    if not _is_better(excess, length - 1):
        return None
    if np.dot(best, given) < np.dot(best[::-1], given):
        best = best[::-1]
    return _with_the_others(alike[best], count)


def _is_better(excess: float, left: float) -> bool:
    """Whether an order that leaves `left` of the excess of the given one is to take its place."""
    saved = excess - left
    enough = 0.0 if left <= LEAST_EXCESS else LEAST_SAVED
    return saved >= MUCH_SAVED or (saved >= excess / 2 and saved >= enough)


def alike_exposed(frames: np.ndarray) -> np.ndarray:
    """The indices of the frames whose brightness is not far from the median of their stack.

    A black frame has no detail and one in another exposure has more or less of it everywhere, which
    says nothing of focus.

    Args:
        frames: (N, H, W, C) uint8 or uint16.
    """
    brightness = np.array([lumas.mean() for lumas in sampled_lumas(frames)])
    usual = np.median(brightness)
    return np.flatnonzero((brightness <= OTHERWISE * usual) & (brightness >= usual / OTHERWISE))


def _with_the_others(order: np.ndarray, count: int) -> np.ndarray:
    """An order of some of `count` frames, with each of the others after the one before it."""
    out = order.tolist()
    for k in sorted(set(range(count)) - set(out)):
        out.insert(out.index(k - 1) + 1 if k else 0, k)
    return np.array(out)


def put_in_order(stack: Stack, names: Sequence[str] | None = None) -> list[str]:
    """Put a stack that is clearly not in focus order into it, in place, and add a note to it.

    Args:
        stack: its frames, paths and metadata are reordered.
        names: of the frames; default: those of their files.
    Returns:
        The names, in the order of the frames.
    """
    names = list(names or [path.name for path in stack.paths])
    order = focus_order(stack.frames)
    if order is None:
        return names
    names = [names[k] for k in order]
    stack.notes.append(reorder(stack, order, names))
    return names


def reorder(stack: Stack, order: np.ndarray, names: Sequence[str]) -> str:
    """Reorder a stack's frames, paths and metadata, in place.

    Args:
        stack: to reorder.
        order: (N,) indices, as from `focus_order`.
        names: of the frames, in the new order.
    Returns:
        The sentence that reports it.
    """
    permute(stack.frames, order)
    stack.paths = [stack.paths[k] for k in order]
    stack.frame_metadata = [stack.frame_metadata[k] for k in order]
    moved = sum(int(k) != place for place, k in enumerate(order))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return (
        f"{moved} of {len(order)} frames were not in focus order and were brought into it: "
        f"{' '.join(names[:NAMED])}{more}"
    )


def permute(frames: np.ndarray, order: np.ndarray) -> None:
    """Reorder frames in place, order[k] to place k, with the memory of one frame."""
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
