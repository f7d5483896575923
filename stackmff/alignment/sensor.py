"""Hot pixels and dirt on the sensor: what stays where it is in all frames while the scene moves.

It holds frames where they are when they are measured, and becomes a trail of dots or bars when they
are moved. So it is found, hidden from the measuring, and filled from its surroundings before frames
are resampled; the other frames show what it hid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from stackmff.alignment.registration import at_scale
from stackmff.images.frame_store import release

# A hot pixel differs in all frames by at least OUTSTANDING of the range from each of the 16 px that
# surround it at a distance of 2 px. In most frames these are EVEN: their standard deviation is this
# part of the difference at most. And the difference, or the pixel itself if it is saturated, varies
# from frame to frame by no more than ALIKE of it. A glint of the scene does neither, since
# it is out of focus in some frames.
OUTSTANDING, EVEN, ALIKE = 0.06, 0.1, 0.08
FEWEST_FRAMES, FEWEST_FOR_DIRT = 3, 5  # in fewer, things are alike by chance
MOST_HOT = 0.002  # of the pixels; more are no defects but the scene
STRIP = 32  # rows that are looked at together, so that they stay in the processor's cache
MOST_CANDIDATES, AT_A_TIME = 0.03, 1 << 17  # of the values of a frame; and how many are looked at

WIDE = 6.0  # sigma in px of the small pictures: dirt differs from its surroundings within it
CONSTANT = 11.0, 3.0  # standard deviations of the mean, and of a frame: the same in all of them
LEAST = 0.012  # coded values; fainter dirt does not show
NOISE = 0.0015  # coded values, added to the standard deviation
HALO = 0.3  # of a spot's strength, by which what surrounds it may differ
FEWEST_PIXELS = 6  # of the small pictures, of one spot
MOST_DIRTY = 0.03  # of a frame; more is a scene that hardly changes from frame to frame
DOMINANT = 0.3  # part of the detail in dirt that may hold frames where they are
GROWN = 5  # px of the small pictures; side of the square by which spots grow, for their soft edges
PASSED = 1.5  # times its own breadth by which the scene must move behind a spot, and at least
FARTHEST = 4.0  # px of the small pictures
STEADIER = 5.0  # times the variance where it is: that where it would be if it was of the scene
OFTEN = 1 / 3  # of the frames, at least, in which the scene must be so far
FOLLOWS = 0.5  # of its strength that is found where the scene has moved to: then it is of the scene
RING = [(y, x) for y in range(-2, 3) for x in range(-2, 3) if max(abs(y), abs(x)) == 2]


@dataclass
class Dirt:
    """What is to be filled in every frame before it is moved.

    Attributes:
        hot: (n, 2) int, row and column of hot pixels.
        runs: (m, 3) int, row, first column and end of the parts of rows that dirt covers.
        spots: number of connected parts of it.
    """

    hot: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), int))
    runs: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), int))
    spots: int = 0

    def __bool__(self) -> bool:
        return len(self.hot) > 0 or len(self.runs) > 0

    def filled(self, frame: np.ndarray) -> None:
        """Fill it in a frame (H, W, C), in place."""
        _fill_hot(frame, self.hot)
        for (top, bottom, left, right), mask in _boxes(self.runs, frame.shape[:2]):
            part = frame[top:bottom, left:right]
            part[mask] = np.rint(_filled(part, mask)[mask])

    def told(self) -> list[str]:
        """A sentence on it; none if there is none."""
        kinds = [(len(self.hot), "hot pixel"), (self.spots, "spot of dirt")]
        words = [f"{n} {_plural(word, n)}" for n, word in kinds if n]
        if not words:
            return []
        verb, them = ("was", "it") if len(self.hot) + self.spots == 1 else ("were", "them")
        return [
            f"{' and '.join(words)} on the sensor {verb} filled in all frames: --keep_hot_pixels "
            f"leaves {them}"
        ]


def _plural(word: str, count: int) -> str:
    """The plural of "hot pixel" or "spot of dirt", unless the count is 1."""
    first, _, rest = word.partition(" of ")
    return word if count == 1 else f"{first}s" + (f" of {rest}" if rest else "")


def hot_pixels(frames: np.ndarray) -> np.ndarray:
    """(n, 2) row and column of the pixels that are hot, or dead, in all frames.

    Args:
        frames: (N, H, W, C) uint8 or uint16; of frames in a file one at a time is read.
    """
    none = np.zeros((0, 2), int)
    count, height, width, channels = frames.shape
    if count < FEWEST_FRAMES or min(height, width) < 8:
        return none
    colours = 3 if channels >= 3 else 1
    middle = count // 2
    places = _outstanding(frames[middle][..., :colours])
    release(frames)
    if len(places) > MOST_CANDIDATES * height * width * colours:
        return none  # of noise or texture, before which no hot pixel shows
    even = np.zeros(len(places), int)
    sums = np.zeros((2, 2, len(places)))  # of differences and values, and of their squares
    for k in [middle, *(k for k in range(count) if k != middle)]:
        if not len(places):
            return none
        parts = [
            _still_outstanding(frames[k], places[start : start + AT_A_TIME])
            for start in range(0, len(places), AT_A_TIME)
        ]
        stands_out, smooth, values = (np.concatenate(part, -1) for part in zip(*parts))
        sums = np.add(sums, [values, values**2])[..., stands_out]
        places, even = places[stands_out], (even + smooth)[stands_out]
        release(frames)
    means, squares = sums / count
    deviations = np.sqrt(np.maximum(squares - means**2, 0)).min(0)
    places = places[(2 * even > count) & (deviations <= ALIKE * np.abs(means[0]))]
    found = np.unique(places[:, :2], axis=0)
    return found if len(found) <= MOST_HOT * height * width else none


def _outstanding(frame: np.ndarray) -> np.ndarray:
    """(n, 4) row, column, channel and sign of what differs from four pixels 2 px away from it."""
    least = OUTSTANDING * np.iinfo(frame.dtype).max
    height, width, channels = frame.shape
    beside = 2 * channels
    rows = np.ascontiguousarray(frame).reshape(height, width * channels)
    found: dict[int, list[np.ndarray]] = {1: [], -1: []}
    for top in range(2, height - 2, STRIP):
        bottom = min(top + STRIP, height - 2)
        here = rows[top:bottom]
        inner, left, right = here[:, beside:-beside], here[:, : -2 * beside], here[:, 2 * beside :]
        above, below = (rows[top + by : bottom + by, beside:-beside] for by in (-2, 2))
        high = cv2.max(cv2.max(left, right), cv2.max(above, below))
        low = cv2.min(cv2.min(left, right), cv2.min(above, below))
        for sign, excess in ((1, cv2.subtract(inner, high)), (-1, cv2.subtract(low, inner))):
            y, place = np.divmod(np.flatnonzero(excess > least), inner.shape[1])
            x, channel = np.divmod(place, channels)
            found[sign].append(np.stack([y + top, x + 2, channel, np.full_like(y, sign)], 1))
    return np.concatenate([*found[1], *found[-1]])


def _still_outstanding(
    frame: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which places (n, 4) stand out in a frame, (n,) bool, and which on even ground, (n,) bool; by
    how much they differ, and what they are, (2, n)."""
    y, x, channel, sign = places.T
    ring = np.stack([frame[y + dy, x + dx, channel] for dy, dx in RING]).astype(np.float32)
    own = frame[y, x, channel].astype(np.float32)
    gap = np.where(sign > 0, own - ring.max(0), ring.min(0) - own)
    difference = own - np.median(ring, 0)
    even = ring.std(0) <= EVEN * np.abs(difference)
    values = np.stack([difference, own]).astype(np.float64)
    return gap >= OUTSTANDING * np.iinfo(frame.dtype).max, even, values


def _fill_hot(frame: np.ndarray, hot: np.ndarray) -> None:
    """Give hot pixels, and those beside them, the median of what surrounds them, in place."""
    if not len(hot):
        return
    y, x = hot.T
    height, width = frame.shape[:2]
    around = np.stack([frame[y + dy, x + dx] for dy, dx in RING])  # (16, n, C)
    middle = np.rint(np.median(around, 0)).astype(frame.dtype)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            frame[np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)] = middle


@dataclass
class Suspects:
    """Connected parts of small pictures that are the same in all frames.

    Attributes:
        labels: (h, w) int32, 0 where nothing is, else the number of a spot, from 1.
        detail: (h, w), how they differ from their surroundings, mean of the frames.
        breadths: (n,) px, the shorter side of each.
        centres: (n, 2) px, x and y.
        dominant: whether so much of the detail is in them that they may hold frames where they are.
    """

    labels: np.ndarray
    detail: np.ndarray
    breadths: np.ndarray
    centres: np.ndarray
    dominant: bool

    def confirmed(
        self, lumas: Sequence[np.ndarray], transforms: Mapping[int, np.ndarray], factor: int
    ) -> list[int]:
        """The numbers of the spots that stay in their place while the scene moves behind them.

        Args:
            lumas: (h, w) uint16 of each frame, small, as they were.
            transforms: {frame: (3, 3) from the reference}.
            factor: how much smaller than the frames the pictures are.
        """
        y, x = np.nonzero(self.labels)
        numbers, count = self.labels[y, x] - 1, len(self.breadths)
        places = np.stack([x, y], -1)[None].astype(np.float32)
        ways, stays, follows = [], [], []
        for k, matrix in transforms.items():
            local = at_scale(matrix, factor)
            detail = _detail(lumas[k])
            moved = cv2.transform(places, local)
            ways.append(np.hypot(*(cv2.transform(self.centres[None], local)[0] - self.centres).T))
            stays.append(detail[y, x])
            follows.append(cv2.remap(detail, moved, None, cv2.INTER_LINEAR)[0])
        if not ways:
            return []

        def per_spot(values: np.ndarray) -> np.ndarray:
            return np.bincount(numbers, values, count)

        far = np.stack(ways) >= np.maximum(PASSED * self.breadths, FARTHEST)  # (N, n)
        mean = np.mean(stays, 0)
        product = np.stack([per_spot(mean * there) for there in follows])
        followed = (product * far).sum(0) / np.maximum(far.sum(0), 1) / per_spot(mean**2)
        enough = far.mean(0) >= OFTEN
        # A thing of the scene may be so large, or blurred, that it varies little in either way.
        steadier = per_spot(np.var(follows, 0)) > STEADIER * per_spot(np.var(stays, 0))
        return (np.flatnonzero(enough & (followed < FOLLOWS) & steadier) + 1).tolist()


def _detail(luma: np.ndarray) -> np.ndarray:
    """How a small luma (h, w) uint16 differs from its surroundings, coded values."""
    values = luma * np.float32(1 / 65535)
    return values - cv2.GaussianBlur(values, (0, 0), WIDE)


def suspects(lumas: Sequence[np.ndarray]) -> Suspects | None:
    """What may be dirt; None if nothing is the same in all frames, or too much is.

    Args:
        lumas: (h, w) uint16 of each frame, small.
    """
    if len(lumas) < FEWEST_FOR_DIRT:
        return None
    total = np.zeros(lumas[0].shape, np.float32)
    squares, strength = total.copy(), total.copy()
    for luma in lumas:
        values = luma * np.float32(1 / 65535)
        detail = _detail(luma)
        total += detail
        squares += detail**2
        strength += cv2.Sobel(values, -1, 1, 0) ** 2 + cv2.Sobel(values, -1, 0, 1) ** 2
    mean = np.abs(total) / len(lumas)
    deviation = np.sqrt(np.maximum(squares / len(lumas) - mean**2, 0)) + NOISE
    # What surrounds a strong spot differs from it, too.
    reach = int(4 * WIDE) | 1
    halo = HALO * cv2.dilate(mean, np.ones((reach, reach), np.uint8))
    least = max(CONSTANT[0] / np.sqrt(len(lumas)), CONSTANT[1])
    mask = ((mean > np.maximum(LEAST, halo)) & (mean > least * deviation)).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    count, labels, stats, centres = cv2.connectedComponentsWithStats(mask)
    large = np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= FEWEST_PIXELS) + 1
    if not len(large) or stats[large, cv2.CC_STAT_AREA].sum() > MOST_DIRTY * mask.size:
        return None
    numbers = np.zeros(count, np.int32)
    numbers[large] = np.arange(1, len(large) + 1)
    kernel = np.ones((GROWN, GROWN), np.uint8)
    grown = cv2.dilate(numbers[labels].astype(np.float32), kernel).astype(np.int32)
    sides = stats[large][:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]]
    share = strength[grown > 0].sum() / max(float(strength.sum()), 1e-12)
    return Suspects(grown, total / len(lumas), sides.min(1), centres[large], bool(share > DOMINANT))


def may_hold_frames(lumas: Sequence[np.ndarray]) -> bool:
    """Whether so much of the detail may be dirt that frames seem still; a quick look at half size.

    Args:
        lumas: as of `suspects`.
    """
    half = [cv2.resize(luma, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for luma in lumas]
    found = suspects(half)
    return found is not None and found.dominant


def hidden(luma: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A small luma (h, w) uint16 without what is labelled; see Suspects."""
    out = luma.copy()
    for (top, bottom, left, right), mask in _boxes(runs_of(labels > 0), luma.shape):
        part = out[top:bottom, left:right]
        part[mask] = np.rint(_filled(part[..., None], mask)[mask][:, 0])
    return out


def enlarged(runs: np.ndarray, factor: int) -> np.ndarray:
    """Runs (m, 3) of small pictures for the frames, which are `factor` larger; (m factor, 3)."""
    rows = runs[:, :1] * factor + np.arange(factor)
    columns = np.repeat(runs[:, 1:] * factor, factor, 0)
    return np.column_stack([rows.ravel(), columns])


def runs_of(mask: np.ndarray) -> np.ndarray:
    """(m, 3) row, first column and end of the parts of rows where a mask (H, W) is true."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges > 0)
    return np.stack([rows, starts, np.nonzero(edges < 0)[1]], 1)


def _boxes(
    runs: np.ndarray, size: tuple[int, ...]
) -> list[tuple[tuple[int, int, int, int], np.ndarray]]:
    """For each connected part: a window (top, bottom, left, right) with room, and its mask."""
    height, width = size[:2]
    out = []
    for part in _connected(runs):
        top, bottom = part[:, 0].min(), part[:, 0].max() + 1
        left, right = part[:, 1].min(), part[:, 2].max()
        room = min(right - left, bottom - top) + 4
        top, bottom = max(top - room, 0), min(bottom + room, height)
        left, right = max(left - room, 0), min(right + room, width)
        mask = np.zeros((bottom - top, right - left), bool)
        for row, start, stop in part:
            mask[row - top, start - left : stop - left] = True
        out.append(((top, bottom, left, right), mask))
    return out


def _connected(runs: np.ndarray) -> list[np.ndarray]:
    """Runs (m, 3) by the parts that touch one another; no picture is made for that.

    Parts are found as sets that are united: each run points to an earlier one of its part, up to
    the one that stands for the part.
    """
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    towards = list(range(len(runs)))

    def root(k: int) -> int:
        while towards[k] != k:
            k = towards[k] = towards[towards[k]]
        return k

    in_row: dict[int, list[int]] = {}
    for k, (row, start, stop) in enumerate(runs.tolist()):
        above = [j for j in in_row.get(row - 1, ()) if runs[j, 1] <= stop and start <= runs[j, 2]]
        if above:
            towards[k] = root(above[0])
        for j in above[1:]:
            towards[root(j)] = root(k)
        in_row.setdefault(row, []).append(k)
    parts: dict[int, list[int]] = {}
    for k in range(len(runs)):
        parts.setdefault(root(k), []).append(k)
    return [runs[parts[first]] for first in sorted(parts)]


def _filled(part: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A part (h, w, C) of a frame, with a masked place (h, w) from what surrounds it; float32."""
    known = (~mask).astype(np.float32)
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3).max()
    values = part.astype(np.float32) * known[..., None]
    out = np.zeros(part.shape, np.float32)
    missing = np.ones(mask.shape, bool)
    for sigma in (distance / 2 + 1, distance + 1, 4 * distance + 1):
        weight = cv2.GaussianBlur(known, (0, 0), sigma)
        enough = missing & (weight > 1e-3)
        for channel in range(part.shape[2]):
            blurred = cv2.GaussianBlur(values[..., channel], (0, 0), sigma)
            out[..., channel][enough] = blurred[enough] / weight[enough]
        missing &= ~enough
    return out
