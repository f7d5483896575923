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

import cv2
import numpy as np

from stackmff.alignment.geometry import Alignment
from stackmff.fusion.frame_views import (
    FrameView,
    as_bright,
    cell_means,
    disc,
    range_of,
    ranged,
    small_picture,
    view_of,
)
from stackmff.images.frame_store import release
from stackmff.images.rectangles import Box

SHORTEST = 96  # px; of smaller frames nothing is said
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

QUANTILE = 33  # percentile of the ratios of detail between neighbours: so much may move
FAR_QUANTILE = 10  # the same between other frames
AROUND = 0.4  # of the least difference: what differs so much around a ghost belongs to it
NOISE = 6.0  # standard deviations by which a ghost differs at least
FEWEST = 8  # px of a ghost that differ by the least difference, at least
LEAST_AREA = 64  # px of a ghost with what belongs to it
LEAST_PART = 0.03  # of these px that differ by the least difference
UNEXPLAINED = 0.35  # of a difference; blur leaves less of the sums over SECTORS around its centre
SECTORS = 8
WIDEST = 0, 1, 2, 4, 6  # reaches of blur around a difference, one of which is enough
SHARP = 0.3  # of the most detail there in any frame
PARTED = 0.25  # of a candidate; with less, the mixture shows one frame whole
BARELY_PARTED = 0.1  # the same of frames that are no neighbours, which are not looked at with less
GROWN = 3  # px by which a ghost is grown, over its soft edges
MOST = 0.5  # of the picture; where more moves, it is no scene with something that moves


@dataclass(frozen=True)
class Ghosts:
    """Where something moved.

    Attributes:
        masks: for each connected region (h, w) bool, of a small picture of the frames.
        whole: for each of them whether the mixture shows one of the frames that differ, and not
            parts of both.
        restless: more than MOST of the picture seems to move, in all frames or between two of
            them; there are no masks of that.
    """

    masks: list[np.ndarray]
    whole: list[bool]
    restless: bool = False


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
    low, high = range_of(frames, use)
    if high <= low:
        return Ghosts([], [])
    scale = np.iinfo(fused.dtype).max // np.iinfo(frames.dtype).max  # 1 or 257
    mixture = ranged(small_picture(fused), low * scale, high * scale)
    details: list[np.ndarray] = []
    candidates: list[_Candidate] = []
    recent: deque[FrameView] = deque(maxlen=max(STRIDES) + 1)
    for place, k in enumerate(use):
        recent.append(view_of(frames[k], low, high, alignment, k))
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
    low, high = range_of(frames, use)
    scale = np.iinfo(fused.dtype).max // np.iinfo(frames.dtype).max
    mixture = view_of(fused, low * scale, high * scale, None, 0)
    least = max(FEWEST, LEAST_PART * mask.sum())
    for k in use:
        view = as_bright(mixture, view_of(frames[k], low, high, alignment, k))
        release(frames)
        if (
            _beyond_blur(mixture, view, UNLIKE.reach)[mask] > UNLIKE.difference * 255
        ).sum() < least:
            return False
    return True


def _regions(candidates: Sequence[_Candidate], shape: Sequence[int]) -> Ghosts:
    """The connected regions of candidates, in small pictures of `shape`."""
    moved, parted = np.zeros(shape, np.uint8), np.zeros(shape, bool)
    small = [one for one in candidates if one.mask.mean() <= MOST]
    restless = len(small) < len(candidates)
    for one in small:
        moved[one.mask] = 1
        if one.parted >= PARTED:
            parted |= one.mask
    if small:
        moved = cv2.dilate(moved, disc(GROWN))
    if moved.mean() > MOST:
        return Ghosts([], [], restless=True)
    count, labels = cv2.connectedComponents(moved, connectivity=8)
    masks = [labels == k for k in range(1, count)]
    return Ghosts(masks, [not parted[mask].any() for mask in masks], restless)


def _compare(first: FrameView, second: FrameView, pair: tuple[int, int]) -> list[_Candidate]:
    """What two frames show that blur does not explain; `pair` are their numbers."""
    blur = _blur_between(first, second, pair[1] - pair[0] == 1)
    if blur is None:
        return []
    for view in (first, second):
        view.near(blur.reach)  # so that it is kept for other pairs
    second = as_bright(first, second)
    found = _differing(first, second, blur)
    if found is None:
        return []
    core, around = found
    # Blur adds light.
    change = (first.seen * np.float32(1 / 255)) ** 2 - (second.seen * np.float32(1 / 255)) ** 2
    return [
        _Candidate(pair, mask, cell_means(mask.astype(np.float32)) > 0, core & mask)
        for mask in _parts_of(core, around)
        if _unexplained(change, mask, blur.reach) > UNEXPLAINED
    ]


def _differing(
    first: FrameView, second: FrameView, blur: BlurStep
) -> tuple[np.ndarray, np.ndarray] | None:
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
        if area >= LEAST_AREA and counts[label] >= LEAST_PART * area:
            yield labels == label


def _blur_between(first: FrameView, second: FrameView, neighbours: bool) -> BlurStep | None:
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


def _beyond_blur(first: FrameView, second: FrameView, radius: int) -> np.ndarray:
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


def _both_cover(first: FrameView, second: FrameView, margin: int) -> np.ndarray:
    """(h, w) bool, which pixels both frames cover, and those within `margin` px of them."""
    both = np.ones(first.seen.shape[:2], np.uint8)
    for inside in (first.inside, second.inside):
        if inside is not None:
            both &= inside
    return cv2.erode(both, disc(margin), borderType=cv2.BORDER_CONSTANT, borderValue=1) > 0


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
    box = Box.around(mask).grown(most, mask.shape)
    light, local = change[box.slices], mask[box.slices].astype(np.uint8)
    total = max(float(np.abs(change[mask]).sum()), 1e-9)
    rows, columns = np.mgrid[: local.shape[0], : local.shape[1]]
    angle: np.ndarray = np.arctan2(rows + box.top - y.mean(), columns + box.left - x.mean())
    sector = ((angle / (2 * np.pi) + 0.5) * SECTORS).astype(int) % SECTORS
    least = 1.0
    for wider in WIDEST:
        there = cv2.dilate(local, disc(wider * reach)) > 0
        sums = [
            np.bincount(sector[there], plane[there], SECTORS) for plane in np.moveaxis(light, 2, 0)
        ]
        least = min(least, float(np.abs(sums).sum()) / total)
    return least


def _parted(core: np.ndarray, first: FrameView, second: FrameView, mixture: np.ndarray) -> float:
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
