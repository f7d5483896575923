"""Ghosts: what moved between frames, so that a mixture of them shows half of it, or it twice.

Blur mixes what lies near a pixel. So the value of a frame at a pixel lies between the smallest and
the largest that another frame has nearby, whichever of the two is sharper, if "nearby" reaches as
far as the blur of one frame exceeds that of the other. Neighbours in focus order differ little in
blur; how little tells the detail that they have. Where both frames lie outside the range of the
other, there is a candidate. A true one has

- another sum of light than the same place of the other frame, on some side: blur spreads light to
  all sides, however far, as when highlights become discs;
- a frame that is about as sharp there as any is: others hardly count in the result.

Or the mixture shows parts of both frames. Frames farther apart are compared, too, for what moves
slowly, if they are about as sharp as each other and the mixture shows parts of both.
All of it is done on small pictures.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from stackmff.alignment.geometry import Alignment, covers
from stackmff.images.frame_store import release

LONGEST = 400  # px; the longer side of the small pictures, at most
SHORTEST = 96  # px; of smaller frames nothing is said
SMOOTH = 1.0  # px, sigma, before they are compared
CELL = 8  # px; side of the cells in which detail and brightness are measured
STRIDES = 1, 4, 12  # places in focus order between frames that are compared


@dataclass(frozen=True)
class BlurStep:
    """How frames are compared that have so much detail in common.

    The values were set by hand, so that a thing drawn into a stack is found (tests/fusion/
    test_ghosts.py) and a stack of a benchmark in which nothing moves has no region; most such
    stacks differ by less than half of `difference`.

    Attributes:
        fine: least ratio of their fine detail, where there is most of it.
        coarse: or else of their coarse detail; infinite: fine detail alone counts.
        reach: px that blur then reaches at most.
        difference: the least of a ghost, of the range of the stack.
    """

    fine: float
    coarse: float
    reach: int
    difference: float


# Only frames as sharp as each other are compared if they are no neighbours.
AS_SHARP = BlurStep(fine=0.55, coarse=np.inf, reach=3, difference=0.10)
ALIKE = BlurStep(fine=0.35, coarse=0.65, reach=5, difference=0.10)
UNLIKE = BlurStep(fine=0.20, coarse=np.inf, reach=8, difference=0.20)
# A thing that moves before little common detail was shown once for each frame.
FAR_APART = BlurStep(fine=0.05, coarse=np.inf, reach=8, difference=0.25)
BLUR_STEPS = AS_SHARP, ALIKE, UNLIKE, FAR_APART  # the first that frames reach; else too unlike

COARSE = 6  # px; side of the pixels whose detail is coarse
QUANTILE = 33  # percentile of the ratios of detail between neighbours: so much may move
FAR_QUANTILE = 10  # the same between other frames
AROUND = 0.4  # of the least difference: what differs so much around a ghost belongs to it
NOISE = 6.0  # standard deviations by which a ghost differs at least
FEWEST = 8  # px of a ghost that differ by the least difference, at least
LEAST_AREA = 64  # px of a ghost with what belongs to it
LEAST_PART = 0.03  # of these px that differ by the least difference
CLIPPED = 0.97  # of the brightest value that a frame can have: how bright it was is not known
MOST_OF_PAIR = 0.3  # of the picture: the frames differ in another way
UNEXPLAINED = 0.35  # of a difference; blur leaves less of the sums over SECTORS around its centre
SECTORS = 8
WIDEST = 0, 1, 2, 4, 6  # reaches of blur around a difference, one of which is enough
SHARP = 0.3  # of the most detail there in any frame
PARTED = 0.25  # of a candidate; with less, the mixture shows one frame whole
BARELY_PARTED = 0.1  # the same of frames that are no neighbours, which are not looked at with less
GROWN = 3  # px by which a ghost is grown, over its soft edges
MOST = 0.5  # of the picture; where more moves, it is no scene with something that moves
ENDS = 0.1, 99.9  # percentiles of the values of a stack that are its range
SAMPLES, LOOKED_AT = 200, 8  # along each side of a frame; frames
MOST_GAIN = 2.0  # between the brightness of two frames that are compared
ROUNDS = 5  # of the robust weights


@dataclass(frozen=True)
class Ghosts:
    """Where something moved.

    Attributes:
        masks: for each connected region (h, w) bool, of a small picture of the frames.
        whole: for each of them whether the mixture shows one of the frames that differ, and not
            parts of both.
        restless: more than MOST of the picture seems to move; then there are no masks.
    """

    masks: list[np.ndarray]
    whole: list[bool]
    restless: bool = False


class _View:
    """A frame as it is compared.

    Args:
        seen: (h, w, C) uint8, of the range of the stack, smoothed.
        inside: (h, w) bool, which pixels the frame covers; None: all.
        clipped: (h, w, C) bool, which values were white before the exposure of the frame was
            lowered, so that they may have been any brighter; None: none.

    Attributes:
        detail: (rows, columns) float32, mean square of the gradient in cells.
        coarse: (rows, columns) float32, the same of pixels of COARSE px.
    """

    def __init__(
        self, seen: np.ndarray, inside: np.ndarray | None, clipped: np.ndarray | None
    ) -> None:
        self.seen, self.inside, self.clipped = seen, inside, clipped
        self.ranges: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        grey = seen[..., 0] if seen.shape[2] == 1 else cv2.cvtColor(seen, cv2.COLOR_RGB2GRAY)
        self.detail = _cells(_squared_gradient(grey))
        self.coarse = _squared_gradient(_cells(grey, COARSE))

    def near(self, radius: int) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and the largest values within `radius` px, (h, w, C) each."""
        if radius not in self.ranges:
            side = 2 * radius + 1
            disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
            low, high = cv2.erode(self.seen, disc), cv2.dilate(self.brightest, disc)
            self.ranges[radius] = low.reshape(self.seen.shape), high.reshape(self.seen.shape)
        return self.ranges[radius]

    @property
    def brightest(self) -> np.ndarray:
        """(h, w, C) uint8, `seen` with 255 where it may have been any brighter."""
        if self.clipped is None:
            return self.seen
        return np.where(self.clipped, np.uint8(255), self.seen)

    @cached_property
    def means(self) -> np.ndarray:
        """(n, C) float32, the mean values of cells."""
        return _cells(self.seen).reshape(-1, self.seen.shape[2]).astype(np.float32)

    @cached_property
    def known(self) -> np.ndarray:
        """(n, C) bool, the cells in which nothing was clipped."""
        if self.clipped is None:
            return np.ones(self.means.shape, bool)
        return _cells(self.clipped.astype(np.float32)).reshape(self.means.shape) == 0

    @cached_property
    def noise(self) -> float:
        """Standard deviation of the noise of the channel that has most, in steps of `seen`.

        Source: Immerkaer, "Fast noise variance estimation", 1996.
        """
        kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
        planes = cv2.split(self.seen)
        response = [np.abs(cv2.filter2D(plane, cv2.CV_32F, kernel)[::2, ::2]) for plane in planes]
        return max(float(np.median(one)) for one in response) / (6 * 0.6745)

    def recoded(self, tables: np.ndarray) -> "_View":
        """This view with the values of tables (256, C)."""
        out = object.__new__(_View)
        out.seen, out.inside, out.clipped = _looked_up(self.seen, tables), self.inside, self.clipped
        out.detail, out.coarse = self.detail, self.coarse
        above = tables.copy()
        if self.clipped is not None:
            above[255] = 255
        out.ranges = {
            radius: (_looked_up(low, tables), _looked_up(high, above))
            for radius, (low, high) in self.ranges.items()
        }
        return out


@dataclass
class _Candidate:
    """What may be a ghost.

    Attributes:
        pair: indices of the frames that differ.
        mask: (h, w) bool; cells: (rows, columns) bool.
        core: (h, w) bool, the part of the mask where they differ most.
        parted: see `_parted`.
    """

    pair: tuple[int, int]
    mask: np.ndarray
    cells: np.ndarray
    core: np.ndarray
    parted: float = 0.0


def find_ghosts(
    frames: np.ndarray, use: Sequence[int], alignment: Alignment | None, fused: np.ndarray
) -> Ghosts:
    """Find where something moved.

    Args:
        frames: (N, H, W, C) uint8 or uint16, in register and in focus order.
        use: indices of the frames that take part, ascending.
        alignment: by which the frames were brought into register; None: each covers all pixels.
        fused: (H, W, C), their mixture, in their dtype or uint16.
    """
    size = frames.shape[1:3]
    if len(use) < 2 or min(size) < SHORTEST:
        return Ghosts([], [])
    low, high = _range_of(frames, use)
    if high <= low:
        return Ghosts([], [])
    scale = np.iinfo(fused.dtype).max // np.iinfo(frames.dtype).max  # 1 or 257
    mixture = _ranged(_small(fused), low * scale, high * scale)
    details: list[np.ndarray] = []
    candidates: list[_Candidate] = []
    recent: deque[_View] = deque(maxlen=max(STRIDES) + 1)
    for place, k in enumerate(use):
        recent.append(_view(frames[k], low, high, alignment, k))
        release(frames)
        details.append(recent[-1].detail)
        for stride in STRIDES:
            if stride < len(recent):
                pair = place - stride, place
                both = recent[-1 - stride], recent[-1]
                for one in _compare(*both, pair):
                    one.parted = _parted(one.core, *both, mixture)
                    if stride == 1 or one.parted >= BARELY_PARTED:
                        candidates.append(one)
    candidates = [one for one in candidates if one.parted >= PARTED or _is_sharp(one, details)]
    return _regions(candidates, mixture.shape[:2])


def is_of_no_frame(
    frames: np.ndarray,
    use: Sequence[int],
    alignment: Alignment | None,
    fused: np.ndarray,
    mask: np.ndarray,
) -> bool:
    """Whether blur makes a region of the mixture of none of the frames.

    So it is where the mixture shows a thing as often as there are frames in which it is elsewhere.

    Args:
        frames, use, alignment, fused: see `find_ghosts`.
        mask: (h, w) bool, the region in a small picture.
    """
    low, high = _range_of(frames, use)
    scale = np.iinfo(fused.dtype).max // np.iinfo(frames.dtype).max
    mixture = _view(fused, low * scale, high * scale, None, 0)
    least = max(FEWEST, LEAST_PART * mask.sum())
    for k in use:
        view = _as_bright(mixture, _view(frames[k], low, high, alignment, k))
        release(frames)
        if (
            _beyond_blur(mixture, view, UNLIKE.reach)[mask] > UNLIKE.difference * 255
        ).sum() < least:
            return False
    return True


def _regions(candidates: Sequence[_Candidate], shape: Sequence[int]) -> Ghosts:
    """The connected regions of candidates, in small pictures of `shape`."""
    moved, parted = np.zeros(shape, np.uint8), np.zeros(shape, bool)
    for one in candidates:
        moved[one.mask] = 1
        if one.parted >= PARTED:
            parted |= one.mask
    if candidates:
        moved = cv2.dilate(moved, _disc(GROWN))
    if moved.mean() > MOST:
        return Ghosts([], [], restless=True)
    count, labels = cv2.connectedComponents(moved, connectivity=8)
    masks = [labels == k for k in range(1, count)]
    return Ghosts(masks, [not parted[mask].any() for mask in masks])


def small_size(size: Sequence[int]) -> tuple[int, int]:
    """(height, width) of the small pictures of frames of `size`."""
    scale = min(LONGEST / max(size), 1.0)
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def covered_cells(alignment: Alignment | None, index: int, size: Sequence[int]) -> np.ndarray:
    """Which pixels of the small picture, (h, w) bool, a frame covers for certain.

    Args:
        alignment: of the stack; None: each covers all.
        index: of a frame that is kept.
        size: (height, width) of the frames.
    """
    small = small_size(size)
    if alignment is None:
        return np.ones(small, bool)
    y, x = ((np.arange(n) + 0.5) * (whole / n) - 0.5 for n, whole in zip(small, size, strict=True))
    return covers(alignment, index, x, y)


def _range_of(frames: np.ndarray, use: Sequence[int]) -> tuple[float, float]:
    """The range of the values of a stack, without alpha."""
    samples = []
    down, across = (max(side // SAMPLES, 1) for side in frames.shape[1:3])
    colours = 3 if frames.shape[3] >= 3 else 1
    for k in use[:: -(-len(use) // LOOKED_AT)]:
        samples.append(frames[k, ::down, ::across, :colours].ravel())
        release(frames)
    low, high = np.percentile(np.concatenate(samples), ENDS)
    return float(low), float(high)


def _view(
    frame: np.ndarray, low: float, high: float, alignment: Alignment | None, index: int
) -> _View:
    """The view of a frame (H, W, C) of a stack with this range."""
    inside = None
    if alignment is not None and alignment.moved[index]:
        inside = covered_cells(alignment, index, frame.shape[:2])
    small = _small(frame)
    inside = None if inside is None or inside.all() else inside
    clipped = None
    if alignment is not None and alignment.gains[index].min() < CLIPPED:
        clipped = _clipped(small, alignment.gains[index] * np.iinfo(frame.dtype).max)
    return _View(_ranged(small, low, high), inside, clipped)


def _clipped(small: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Which values of a small frame (h, w, C) are, or lie beside, the most (C,) it can have."""
    white = (small >= np.float32(CLIPPED) * most.astype(np.float32)).astype(np.uint8)
    return cv2.dilate(white, _disc(1)).reshape(small.shape) > 0


def _small(frame: np.ndarray) -> np.ndarray:
    """A frame (H, W, C) small and smooth, without alpha; (h, w, C') float32."""
    colours = 3 if frame.shape[2] >= 3 else 1
    height, width = small_size(frame.shape[:2])
    # By a whole factor first, which is three times as fast; that cuts off less than a pixel.
    factor = max(min(frame.shape[0] // height, frame.shape[1] // width), 1)
    rows, columns = frame.shape[0] // factor, frame.shape[1] // factor
    small = frame[: rows * factor, : columns * factor]
    for size in ((columns, rows), (width, height)):
        small = cv2.resize(small, size, interpolation=cv2.INTER_AREA)
    small = small.reshape(height, width, -1)[..., :colours].astype(np.float32)
    return cv2.GaussianBlur(small, (0, 0), SMOOTH).reshape(small.shape)


def _ranged(small: np.ndarray, low: float, high: float) -> np.ndarray:
    """A small frame with a range as 0 to 255; (h, w, C) uint8."""
    small = np.clip(small, low, high) - np.float32(low)
    return cv2.convertScaleAbs(small, None, 255 / (high - low)).reshape(small.shape)


def _disc(radius: int) -> np.ndarray:
    """A disc, (2 radius + 1, 2 radius + 1) uint8, for erosion and dilation."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def _squared_gradient(grey: np.ndarray) -> np.ndarray:
    """The squared gradient (h, w) float32 of a picture (h, w) uint8."""
    across, down = (cv2.Sobel(grey, cv2.CV_32F, *axes) for axes in ((1, 0), (0, 1)))
    return across * across + down * down


def _cells(picture: np.ndarray, side: int = CELL) -> np.ndarray:
    """The means of (h, w) or (h, w, C) in cells of about `side` px."""
    height, width = picture.shape[:2]
    return cv2.resize(
        picture,
        (max(width // side, 1), max(height // side, 1)),
        interpolation=cv2.INTER_AREA,
    )


def _looked_up(values: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Values (h, w, C) uint8 of tables (256, C)."""
    return cv2.LUT(values, np.ascontiguousarray(tables[None])).reshape(values.shape)


def _compare(first: _View, second: _View, pair: tuple[int, int]) -> list[_Candidate]:
    """What two frames show that blur does not explain; `pair` are their numbers."""
    blur = _blur_between(first, second, pair[1] - pair[0] == 1)
    if blur is None:
        return []
    for view in (first, second):
        view.near(blur.reach)  # so that it is kept for other pairs
    second = _as_bright(first, second)
    found = _differing(first, second, blur)
    if found is None:
        return []
    core, around = found
    # Blur adds light.
    change = (first.seen * np.float32(1 / 255)) ** 2 - (second.seen * np.float32(1 / 255)) ** 2
    return [
        _Candidate(pair, mask, _cells(mask.astype(np.float32)) > 0, core & mask)
        for mask in _parts_of(core, around)
        if _unexplained(change, mask, blur.reach) > UNEXPLAINED
    ]


def _differing(first: _View, second: _View, blur: BlurStep) -> tuple[np.ndarray, np.ndarray] | None:
    """Where two frames of one brightness differ by more than their blur explains.

    Returns:
        (where they differ by the least difference of a ghost, what belongs to that), (h, w) bool
        each; None if they do so nowhere.
    """
    least = blur.difference * 255
    differs = _beyond_blur(first, second, blur.reach)
    if differs.max() <= least:
        return None
    least = max(least, NOISE * max(first.noise, second.noise))
    both = _both_cover(first, second, blur.reach + 2)
    core = (differs > least) & both
    if not core.any():
        return None
    return core, (_beyond_blur(first, second, 1) > AROUND * least) & both | core


def _parts_of(core: np.ndarray, around: np.ndarray) -> Iterator[np.ndarray]:
    """The connected parts of `around`, (h, w) bool each, that may be ghosts by their size, and by
    how much of them is of the `core`."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(around.astype(np.uint8), connectivity=8)
    counts = np.bincount(labels[core], minlength=len(stats))
    for label in np.flatnonzero(counts >= FEWEST):
        area = stats[label, cv2.CC_STAT_AREA]
        fits = LEAST_AREA <= area <= MOST_OF_PAIR * labels.size
        if fits and counts[label] >= LEAST_PART * area:
            yield labels == label


def _blur_between(first: _View, second: _View, neighbours: bool) -> BlurStep | None:
    """The BlurStep of two frames; None if they are not to be compared."""
    quantile = QUANTILE if neighbours else FAR_QUANTILE
    fine = _ratio(first.detail, second.detail, quantile)
    coarse = _ratio(first.coarse, second.coarse, quantile)
    for step in BLUR_STEPS if neighbours else (AS_SHARP,):
        if fine >= step.fine or coarse >= step.coarse:
            return step
    return None


def _ratio(first: np.ndarray, second: np.ndarray, quantile: int) -> float:
    """A percentile of the ratios of two measures of detail, the lesser to the larger, of the half
    that has more; 0 if there is none."""
    most = np.maximum(first, second)
    much = most > np.median(most)
    if not much.any():
        return 0.0
    return float(np.percentile(np.minimum(first, second)[much] / most[much], quantile))


def _as_bright(first: _View, second: _View) -> _View:
    """The second of two frames with the brightness and contrast of the first.

    What is left of them by exposure and haze is the same everywhere. Means of cells hardly depend
    on blur; those of clipped values are not known.
    """
    values = np.arange(256, dtype=np.float32)
    tables = []
    known = first.known & second.known
    for wanted, given, able in zip(first.means.T, second.means.T, known.T, strict=True):
        design = np.stack([given, np.ones_like(given)], 1)
        weights = able.astype(np.float32)
        gain, offset = 1.0, 0.0
        for _ in range(ROUNDS):
            weighted = design * weights[:, None]
            matrix = weighted.T @ design + np.eye(2, dtype=np.float32) * 1e-3
            # Drawn towards no change where all cells are alike.
            gain, offset = np.linalg.solve(matrix, weighted.T @ (wanted - given))
            gain += 1
            left = np.abs(wanted - gain * given - offset)
            scale = 2 * max(1.48 * float(np.median(left[able])) if able.any() else 0, 0.5)
            weights = able / (1 + (left / scale) ** 2)  # Cauchy's
        gain = np.clip(gain, 1 / MOST_GAIN, MOST_GAIN)
        tables.append(np.clip(np.rint(gain * values + offset), 0, 255))
    table = np.stack(tables, 1)
    if np.abs(table - values[:, None]).max() <= 1:
        return second
    return second.recoded(table.astype(np.uint8))


def _beyond_blur(first: _View, second: _View, radius: int) -> np.ndarray:
    """By how much both frames lie outside the range that the other has within `radius` px.

    Returns:
        (h, w) uint8, the less of both, each the most of its channels.
    """
    parts = []
    for one, other in ((first, second), (second, first)):
        low, high = other.near(radius)
        outside = cv2.max(cv2.subtract(low, one.brightest), cv2.subtract(one.seen, high))
        parts.append(_most(outside))
    return cv2.min(*parts)


def _most(picture: np.ndarray) -> np.ndarray:
    """The largest of the channels of (h, w) or (h, w, C); numpy is slow along short axes."""
    planes = cv2.split(picture)
    most = planes[0]
    for plane in planes[1:]:
        most = cv2.max(most, plane)
    return most


def _both_cover(first: _View, second: _View, margin: int) -> np.ndarray:
    """(h, w) bool, which pixels both frames cover, and those within `margin` px of them."""
    both = np.ones(first.seen.shape[:2], np.uint8)
    for inside in (first.inside, second.inside):
        if inside is not None:
            both &= inside
    return cv2.erode(both, _disc(margin), borderType=cv2.BORDER_CONSTANT, borderValue=1) > 0


def _unexplained(change: np.ndarray, mask: np.ndarray, reach: int) -> float:
    """The part of a difference that blur cannot have made.

    Blur spreads light to all sides, so the sum of the difference vanishes in each sector around
    its centre, if that is wide enough. What is blurred may spread beyond what differs clearly:
    wider and wider surroundings are tried.

    Args:
        change: (h, w, C), difference of the light of two frames.
        mask: (h, w) bool, where they differ clearly.
        reach: px that blur reaches.
    """
    y, x = np.nonzero(mask)
    most = WIDEST[-1] * reach
    top, left = max(int(y.min()) - most, 0), max(int(x.min()) - most, 0)
    part = slice(top, int(y.max()) + most + 1), slice(left, int(x.max()) + most + 1)
    light, local = change[part], mask[part].astype(np.uint8)
    total = max(float(np.abs(change[mask]).sum()), 1e-9)
    rows, columns = np.mgrid[: local.shape[0], : local.shape[1]]
    angle: np.ndarray = np.arctan2(rows + top - y.mean(), columns + left - x.mean())
    sector = ((angle / (2 * np.pi) + 0.5) * SECTORS).astype(int) % SECTORS
    least = 1.0
    for wider in WIDEST:
        there = cv2.dilate(local, _disc(wider * reach)) > 0
        sums = [
            np.bincount(sector[there], plane[there], SECTORS) for plane in np.moveaxis(light, 2, 0)
        ]
        least = min(least, float(np.abs(sums).sum()) / total)
    return least


def _parted(core: np.ndarray, first: _View, second: _View, mixture: np.ndarray) -> float:
    """The part of (h, w) bool in which a mixture (h, w, C) clearly shows one of two frames, while
    it shows the other in a larger part."""
    shown, one, other = (
        picture[core].astype(np.int32) for picture in (mixture, first.seen, second.seen)
    )
    near = np.abs(one - other).sum(-1) / 2
    return min(float((np.abs(shown - each).sum(-1) < near).mean()) for each in (one, other))


def _is_sharp(candidate: _Candidate, details: Sequence[np.ndarray]) -> bool:
    """Whether one of the two frames is about as sharp there as any frame is."""
    there = np.array([detail[candidate.cells].mean() for detail in details])
    return bool(there[list(candidate.pair)].max() >= SHARP * there.max())
