"""Dirt on the sensor: what is the same in all frames while the scene moves behind it."""

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
    for box, mask in boxes(runs_of(labels > 0), luma.shape):
        part = out[box.slices]
        part[mask] = np.rint(from_surroundings(part[..., None], mask)[mask][:, 0])
    return out
