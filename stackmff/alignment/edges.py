"""A second opinion on where two frames lie, by how strong their edges are.

Registration compares brightness. Where that inverts from frame to frame, as the rings around what
delays light do in a microscope, it finds nothing, or a place where dark meets dark. The strength of
an edge is the same whichever side of it is the bright one. It is a coarser measure, since blur
changes it more, so it counts only where brightness explains edges badly and it explains them better
beyond doubt.
"""

from collections.abc import Iterable
from dataclasses import replace

import cv2
import numpy as np

from stackmff.alignment.linking import deviation
from stackmff.alignment.registration import (
    CLUSTERS,
    MARGIN,
    Motion,
    Pair,
    at_scale,
    farthest,
    pyramid,
    register,
)

GRADIENT, WINDOW = 2.0, 4.0  # px of the compared pictures; sigmas before and after the gradient
CONTRAST = 1 / 8  # standard deviation to which a strength is scaled, as that of a usual luma
# Likeness, and agreement of edges, from which on brightness needs no second opinion. Neighbours of
# rendered stacks in reflected light have at least 0.989 and 0.954.
CLEAR, AGREEING = 0.95, 0.95
# What the agreement of edges gains must be so many times its scatter over the parts of the frames,
# which is at most CLUSTERS; stacks that brightness places within 0.05 px reach 3.
BETTER = 4.0
MOVED = 4.0  # standard deviations by which the two places must lie apart
# What is left of the disagreement of edges, at most. Light from one side makes rings on one side of
# what is out of focus, which moves edges a little: that lowers it by a few per cent.
LEFT = 0.75


def seconded(
    first: np.ndarray,
    second: np.ndarray,
    factor: int,
    size: tuple[int, int],
    motion: Motion,
    pair: Pair,
) -> Pair:
    """The registration of the second of two frames to the first, by their edges if that is better.

    Args:
        first, second: (h, w) uint16, lumas of the frames.
        factor: how much smaller than the frames they are.
        size: (height, width) of the frames, px.
        motion: of the transform.
        pair: what brightness tells.
    Returns:
        `pair`; or where edges tell a place that is much better, that; or where they tell one that
        is a little better, `pair` with that as contested.
    """
    if pair.likeness >= CLEAR:
        return pair
    here, there = strength(first), strength(second)
    known = pair.transform if pair.holds else np.eye(3)
    if agreement(here, there, at_scale(known, factor)) >= AGREEING and pair.holds:
        return pair
    levels = pyramid(here, factor), pyramid(there, factor)
    starts = [known] if pair.sure or not pair.holds else [known, np.eye(3)]
    found = max(
        (register(*levels, size, motion, start) for start in starts),
        key=lambda other: other.likeness,
    )
    if not found.sure or not found.holds:
        return pair
    apart = farthest(np.linalg.inv(pair.transform) @ found.transform, size)
    if pair.holds and apart <= MOVED * deviation(found):
        return pair
    places = at_scale(pair.transform, factor), at_scale(found.transform, factor)
    left, sureness = _change(here, there, *places)
    if sureness <= BETTER:
        return pair
    if left < LEFT:
        return replace(found, by_edges=True)
    return replace(pair, contested=found.transform)


def strength(luma: np.ndarray) -> np.ndarray:
    """How strong the edges of a luma (h, w) uint16 are, (h, w) float32."""
    smooth = cv2.GaussianBlur(luma.astype(np.float32), (0, 0), GRADIENT)
    across, down = cv2.Sobel(smooth, -1, 1, 0), cv2.Sobel(smooth, -1, 0, 1)
    power = cv2.GaussianBlur(across * across + down * down, (0, 0), WINDOW)
    edges = np.sqrt(np.maximum(power, 0))
    return edges * np.float32(CONTRAST / max(float(edges.std()), 1e-6))


def _brought(
    here: np.ndarray, there: np.ndarray, places: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Two strengths (h, w) as they lie on each other at `places`, (2, 3) matrices.

    Returns:
        the first, the second at each of the places, all of mean 0 and variance 1 where they
        overlap at all of them and 0 elsewhere; (h, w) float32, 1 where they do.
    """
    shape, flags = here.shape[::-1], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    inside = np.zeros_like(here)
    inside[MARGIN:-MARGIN, MARGIN:-MARGIN] = 1
    moved = []
    full = inside.copy()
    for place in places:
        moved.append(cv2.warpAffine(there, place, shape, flags=flags))
        full *= cv2.warpAffine(inside, place, shape, flags=flags) > 0.99
    count = max(float(full.sum()), 1.0)

    def even(values: np.ndarray) -> np.ndarray:
        values = (values - float((values * full).sum()) / count) * full
        return values / max(float(np.sqrt((values**2).sum() / count)), 1e-9)

    return even(here), [even(one) for one in moved], full


def agreement(here: np.ndarray, there: np.ndarray, place: np.ndarray) -> float:
    """The correlation of two pictures (h, w) where they overlap at a place, (2, 3)."""
    first, (second,), full = _brought(here, there, (place,))
    return float((first * second).sum() / max(float(full.sum()), 1.0))


def _change(
    here: np.ndarray, there: np.ndarray, before: np.ndarray, after: np.ndarray
) -> tuple[float, float]:
    """How much better strengths (h, w) agree at a place `after` than `before`, both (2, 3).

    Returns:
        what is left of their disagreement; how much that falls, by the scatter of its fall over the
        parts of the frames.
    """
    parts, left, whole = _fall(here, there, before, after)
    scatter = float(np.sqrt((parts**2).sum()))
    return left / max(whole, 1e-12), float(parts.sum()) / max(scatter, 1e-12)


def _fall(
    here: np.ndarray, there: np.ndarray, before: np.ndarray, after: np.ndarray
) -> tuple[np.ndarray, float, float]:
    """The disagreement of strengths, as of `_change`.

    Returns:
        how much it falls in each of the parts of the frames, (CLUSTERS^2,) float64; what it is
        afterwards, and before.
    """
    first, (old, new), full = _brought(here, there, (before, after))
    if full.mean() < 1 / CLUSTERS:  # one of them is far off
        first, (new,), full = _brought(here, there, (after,))
        old = np.zeros_like(new)
    change = (first - old) ** 2 - (first - new) ** 2
    parts = cv2.resize(change, (CLUSTERS, CLUSTERS), interpolation=cv2.INTER_AREA).ravel()
    left, whole = (float(((first - one) ** 2).sum()) for one in (new, old))
    return parts.astype(np.float64), left, whole


def better(
    pairs: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]], factor: int
) -> bool:
    """Whether pictures agree much better, beyond doubt, at other places.

    Args:
        pairs: two pictures (h, w) float32 each, such as strengths, and where the second of them is
            before and after, two (3, 3) matrices between frames.
        factor: how much smaller than the frames the pictures are.
    """
    falls = [
        _fall(here, there, at_scale(before, factor), at_scale(after, factor))
        for here, there, before, after in pairs
    ]
    if not falls:
        return False
    parts = np.concatenate([fall[0] for fall in falls])
    left, whole = (sum(fall[k] for fall in falls) for k in (1, 2))
    sureness = float(parts.sum()) / max(float(np.sqrt((parts**2).sum())), 1e-12)
    return bool(sureness > BETTER and left < LEFT * whole)
