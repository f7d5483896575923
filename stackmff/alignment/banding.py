"""Bands of light that lie elsewhere in each frame, as of a flickering lamp and a rolling shutter.

Where the scene has little contrast, registration follows the bands instead of the scene. They run
along the rows of the sensor, or after a turn along the columns, so the mean of each row and column
has all of them, and without these means the scene is left. Which of two placements is right is told
by fine detail, which bands have none of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np

from stackmff.alignment.edges import agreement, better
from stackmff.alignment.registration import SMOOTHING, at_scale, farthest
from stackmff.alignment.views import View

LEAST = 1 / 255  # added to values before their logarithm, or their ratio, is taken
UNEVEN = 0.01  # standard deviation of the logarithm of rows' means by which two frames differ
AGREEING = 0.75  # correlation of fine detail from which on neighbours lie right
FINE = 3.0  # px of the compared pictures; what is coarser is no fine detail
APART = 0.5  # px of the compared pictures by which two placements of a pair differ

Placed = Mapping[int, np.ndarray]  # {index: (3, 3) transform from the reference}


def may_have_bands(views: Sequence[View], even: Sequence[View], placed: Placed) -> bool:
    """Whether of any two neighbours the means of rows or columns differ clearly, and the fine
    detail does not agree.

    Bands are only one of the reasons for that.

    Args:
        views: of the frames; even: the same without bands.
        placed: where the frames are.
    """
    for a, b in pairwise(placed):
        profiles = zip(*(_profiles(views[k].luma) for k in (a, b)))
        if any(float((one - other).std()) > UNEVEN for one, other in profiles):
            place = at_scale(placed[b] @ np.linalg.inv(placed[a]), views[a].factor)
            if agreement(_fine(even[a].luma), _fine(even[b].luma), place) < AGREEING:
                return True
    return False


def _profiles(luma: np.ndarray) -> list[np.ndarray]:
    """Logarithms of the means of the rows (h,) and of the columns (w,) of a luma (h, w) uint16."""
    return [np.log(luma.mean(axis) / 65535 + LEAST) for axis in (1, 0)]


def without_bands(view: View) -> View:
    """A view whose rows and columns all have one mean."""
    values = view.luma.astype(np.float32) + np.float32(65535 * LEAST)
    mean = values.mean()
    for axis in (1, 0):
        values *= mean / values.mean(axis, keepdims=True)
    return replace(view, luma=np.rint(np.clip(values, 0, 65535)).astype(np.uint16))


def fits_better(
    views: Sequence[View], before: Placed, after: Placed, size: tuple[int, int]
) -> bool:
    """Whether the fine detail of neighbours agrees better, beyond doubt, at other places.

    Args:
        views: of the frames, without bands: rounding makes steps of them, which are fine.
        before, after: where they are.
        size: (height, width) of the frames, px.
    """
    factor = views[0].factor
    found = []
    for a, b in pairwise(k for k in after if k in before):
        there, here = (placed[b] @ np.linalg.inv(placed[a]) for placed in (before, after))
        if farthest(np.linalg.inv(there) @ here, size) > APART * factor:
            found.append((_fine(views[a].luma), _fine(views[b].luma), there, here))
    return better(found, factor)


def _fine(luma: np.ndarray) -> np.ndarray:
    """The fine detail of a luma (h, w) uint16, (h, w) float32."""
    values = luma.astype(np.float32)
    return cv2.GaussianBlur(values, (0, 0), SMOOTHING) - cv2.GaussianBlur(values, (0, 0), FINE)
