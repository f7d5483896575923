"""Dirt on the sensor: what is the same in all frames while the scene moves behind it."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from stackmff.alignment.registration import at_scale
from stackmff.alignment.sensor import boxes, from_surroundings, runs_of

FEWEST_FRAMES = 5  # in fewer, things are alike by chance
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

# Dirt before a scene that is known where it moved. A frame is compared with the median of PARTNERS
# others, or LEAST_PARTNERS, the nearest in which the scene is AWAY px of the small pictures or more
# elsewhere, and half as far from one another: so the dirt in one of them changes nothing.
AWAY = 8.0
PARTNERS, LEAST_PARTNERS = 4, 3
FINE = 0.7  # sigma in px, of noise and of errors of the alignment that are smoothed away
CERTAIN, PERHAPS = 8.0, 4.0  # standard errors of the mean difference: of a spot, of its rim
MOST_BEHIND = 0.06  # of a frame; more is no dirt but a scene whose motion is not known
COMPARED = 0.6  # of the frames that have partners, at least, in which a place is compared
# What is broader than BROAD times the way of the scene from frame to frame is hidden in all frames
# that are in focus there: filling it would only blur it.
BROAD = 4.0
RIM = 3  # px of the small pictures; side of the square by which spots grow


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


def _halo(mean: np.ndarray) -> np.ndarray:
    """By how much what surrounds a strong spot may differ from it, too; (h, w) as the mean."""
    reach = int(4 * WIDE) | 1
    return HALO * cv2.dilate(np.abs(mean), np.ones((reach, reach), np.uint8))


def _detail(luma: np.ndarray) -> np.ndarray:
    """How a small luma (h, w) uint16 differs from its surroundings, coded values."""
    values = luma * np.float32(1 / 65535)
    return values - cv2.GaussianBlur(values, (0, 0), WIDE)


def suspects(lumas: Sequence[np.ndarray]) -> Suspects | None:
    """What may be dirt; None if nothing is the same in all frames, or too much is.

    Args:
        lumas: (h, w) uint16 of each frame, small.
    """
    if len(lumas) < FEWEST_FRAMES:
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
    least = max(CONSTANT[0] / np.sqrt(len(lumas)), CONSTANT[1])
    mask = ((mean > np.maximum(LEAST, _halo(mean))) & (mean > least * deviation)).astype(np.uint8)
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


def left_behind(
    lumas: Sequence[np.ndarray], transforms: Mapping[int, np.ndarray], factor: int
) -> tuple[np.ndarray, np.ndarray, bool]:
    """What stays in its place on the sensor while the scene moves, also if the scene shows through.

    Args:
        lumas: (h, w) uint16 of each frame, small.
        transforms: {frame: (3, 3) from the reference}, in the order of focus.
        factor: how much smaller than the frames the pictures are.
    Returns:
        (h, w) bool, what is to be filled; what is too broad for that, as a watermark; and whether
        something may go on towards the border, where too few frames show the scene.
    """
    local = {k: at_scale(matrix, factor) for k, matrix in transforms.items()}
    shape = lumas[0].shape
    total, squares, seen = np.zeros((3, *shape), np.float32)
    partners = _partners(local, shape)
    if len(partners) < FEWEST_FRAMES:
        return np.zeros(shape, bool), np.zeros(shape, bool), False
    for k, others in partners.items():
        there, valid = _on(lumas, local, k, others)
        difference = (lumas[k] * np.float32(1 / 65535) - there) * valid
        wide, share = (cv2.GaussianBlur(part, (0, 0), WIDE) for part in (difference, valid))
        difference = (difference - wide / np.maximum(share, 0.05)) * valid
        difference = cv2.GaussianBlur(difference, (0, 0), FINE)
        total += difference
        squares += difference**2
        seen += valid
    number = np.maximum(seen, 1)
    mean = total / number
    deviation = np.sqrt(np.maximum(squares / number - mean**2, 0)) + NOISE
    strength = np.abs(mean) * np.sqrt(number) / deviation
    rims = (seen >= FEWEST_FRAMES) & (strength > PERHAPS) & (np.abs(mean) > _halo(mean))
    count, parts = cv2.connectedComponents(rims.astype(np.uint8), ltype=cv2.CV_32S)
    # Few frames show what is near the border: there a spot may go on, but none is found.
    compared = seen >= COMPARED * len(partners)
    sure = rims & compared & (strength > CERTAIN) & (np.abs(mean) > LEAST)
    sizes = np.bincount(parts[sure], minlength=count)
    dirt = (sizes >= FEWEST_PIXELS)[parts]
    if dirt.mean() > MOST_BEHIND:
        return np.zeros_like(dirt), np.zeros_like(dirt), False
    dirt = cv2.dilate(dirt.astype(np.uint8), np.ones((RIM, RIM), np.uint8))
    count, parts = cv2.connectedComponents(dirt, ltype=cv2.CV_32S)
    broad = _breadths(parts, count) > BROAD * _step(local, shape)
    found = dirt > 0
    return found & ~broad[parts], found & broad[parts], bool((found & ~compared).any())


def _breadths(parts: np.ndarray, count: int) -> np.ndarray:
    """The diameter of the largest disc in each part (count,), px."""
    inside = cv2.distanceTransform((parts > 0).astype(np.uint8), cv2.DIST_L2, 3)
    out = np.zeros(count)
    np.maximum.at(out, parts.ravel(), 2 * inside.ravel())
    return out


def _on(
    lumas: Sequence[np.ndarray], local: Mapping[int, np.ndarray], k: int, others: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The median of other frames brought onto frame k, and where all show it, 0 or 1, float32.

    Args:
        lumas: (h, w) uint16 of each frame, small.
        local: {frame: (2, 3) from the reference}, of the small pictures.
        k: frame.
        others: frames.
    """
    size = lumas[0].shape[::-1]
    back = np.vstack([cv2.invertAffineTransform(local[k]), [0, 0, 1]])
    moved, valid = [], np.ones(lumas[0].shape, np.uint8)
    for other in others:
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        moved.append(cv2.warpAffine(lumas[other], local[other] @ back, size, flags=flags))
        valid &= cv2.warpAffine(np.ones_like(valid), local[other] @ back, size, flags=flags)
    valid = cv2.erode(valid, np.ones((5, 5), np.uint8))
    median = np.median(moved, axis=0).astype(np.float32)
    return median * np.float32(1 / 65535), valid.astype(np.float32)


def _partners(local: Mapping[int, np.ndarray], size: tuple[int, ...]) -> dict[int, list[int]]:
    """With which others each frame is compared; only frames that have enough of them.

    Args:
        local: {frame: (2, 3) from the reference}, of the small pictures.
        size: (height, width) of these.
    """
    places = _places(local, size)
    out = {}
    for k in local:
        chosen: list[int] = []
        for other in sorted(local, key=lambda j: abs(j - k)):
            if len(chosen) == PARTNERS:
                break
            elsewhere = _way(places[k], places[other]) >= AWAY
            if elsewhere and all(_way(places[other], places[one]) >= AWAY / 2 for one in chosen):
                chosen.append(other)
        if len(chosen) >= LEAST_PARTNERS:
            out[k] = chosen
    return out


def _step(local: Mapping[int, np.ndarray], size: tuple[int, ...]) -> float:
    """The way of the scene from a frame to the next, median, px of the small pictures."""
    places = list(_places(local, size).values())
    return float(np.median([_way(one, other) for one, other in itertools.pairwise(places)]))


def _places(local: Mapping[int, np.ndarray], size: tuple[int, ...]) -> dict[int, np.ndarray]:
    """Where nine points of the scene are in each frame, (9, 2) px."""
    across, down = np.meshgrid(*(np.linspace(0.2, 0.8, 3) * side for side in size[::-1]))
    points = np.stack([across.ravel(), down.ravel()], -1)[None]
    return {k: cv2.transform(points, matrix)[0] for k, matrix in local.items()}


def _way(places: np.ndarray, others: np.ndarray) -> float:
    """The median distance of points (n, 2), px."""
    return float(np.median(np.hypot(*(places - others).T)))


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
    for box, mask in boxes(runs_of(labels > 0), luma.shape):
        part = out[box.slices]
        part[mask] = np.rint(from_surroundings(part[..., None], mask)[mask][:, 0])
    return out
