"""Whether a stack that seems to move does, or is only blurred.

Where a surface is slanted, its blur is lopsided: what is out of focus is displaced although neither
the camera nor the scene moved, in the same direction from frame to frame, so that small errors of
neighbours add up to pixels. What is sharp is where it was. So the blocks that are sharp in both of
two neighbours decide: whether their motion is nearer to the motion that was found, or to none. That
is a likelihood ratio, by the scatter of the blocks, or by more if no motion fits them as well as
their scatter promises. Where it is not overwhelming, neighbours whose blur is matched must agree.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np

from stackmff.alignment.blur_matching import Match
from stackmff.alignment.linking import SYSTEMATIC, Key, Transforms
from stackmff.alignment.registration import (
    LEAST_BLOCKS,
    Level,
    Motion,
    blocks_of,
    farthest,
    motion_of_blocks,
    parameters_of,
)

SHARP = 0.3  # of the most detail that a block has in any frame; with more it counts as sharp
DETAIL = 4.0  # times the median of the least detail of the blocks: less is noise
LARGEST = 4.0  # px of the finest level between neighbours; what moves so far is judged by its blur
MISTAKEN = 1e-3  # probability that frames that do not move count as moving, if errors are as told
OVERWHELMING = 10.0  # times the evidence that is needed: more needs no second opinion
RESTLESS = 10.0  # mean square of what is seen, by its errors; blur alone gives at most 4
MOST_MATCHED = 12  # pairs whose blur is matched for that: those that seem to move most

MatchBlur = Callable[[Key], Match | None]


class _Evidence(NamedTuple):
    """What the sharp blocks of two frames say.

    Attributes:
        key: (a, b).
        ratio: twice the logarithm of the likelihood ratio of the motion that was found to none.
        claimed: the same if they moved exactly as found.
        unlikely: what remains under the better of both, as a mean square: 1 if errors are as told.
        restless: the same if they did not move.
    """

    key: Key
    ratio: float
    claimed: float
    unlikely: float
    restless: float


def moves(
    levels: Sequence[Level],
    transforms: Transforms,
    size: tuple[int, int],
    motion: Motion,
    match_blur: MatchBlur,
) -> bool:
    """Whether a stack moves as its transforms say.

    Args:
        levels: the finest level of the pyramid of each of the N frames.
        transforms: (3, 3) from the reference for each frame, or None.
        size: (height, width) of the frames, px.
        motion: of the transforms.
        match_blur: registers two frames (a, b) by their matched blur.
    Returns:
        Also True if neighbours move farther than this can tell.
    """
    placed = {k: matrix for k, matrix in enumerate(transforms) if matrix is not None}
    factor = levels[0][0]
    found = {(a, b): placed[b] @ np.linalg.inv(placed[a]) for a, b in pairwise(placed)}
    if any(farthest(matrix, size) > LARGEST * factor for matrix in found.values()):
        return True
    sharp = _sharp_blocks({k: levels[k][1] for k in placed})
    evidence = []
    for a, b in found:
        both = sharp[a] & sharp[b]
        if both.sum() < 2 * LEAST_BLOCKS:
            continue
        seen, covariance, _ = motion_of_blocks(
            levels[a][1], levels[b][1], factor, both, size, motion
        )
        expected = parameters_of(found[a, b], size, motion)
        evidence.append(_evidence((a, b), seen, covariance, expected, factor * SYSTEMATIC))
    if evidence and np.median([one.restless for one in evidence]) > RESTLESS:
        return True  # in another way, as by parallax
    if evidence and not (strength := _strength(evidence)) > 1:
        return False
    if evidence and strength > OVERWHELMING:
        return True
    # Too little is sharp in both of any two, or what is sharp does not decide.
    again = []
    asked = sorted(evidence, key=lambda one: -one.claimed)[:MOST_MATCHED]
    for key in [one.key for one in asked] or list(found)[:MOST_MATCHED]:
        match = match_blur(key)
        if match is not None and match.explains:
            seen = parameters_of(match.transform, size, motion)
            expected = parameters_of(found[key], size, motion)
            least = match.factor * SYSTEMATIC
            again.append(_evidence(key, seen, match.covariance, expected, least))
    return not again or _strength(again) > 1


def _sharp_blocks(lumas: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Which blocks of each frame are about as sharp as they are in any."""
    detail = {
        k: (blocks_of(cv2.Laplacian(luma, cv2.CV_32F)) ** 2).mean(1) for k, luma in lumas.items()
    }
    stacked = np.stack(list(detail.values()))
    most, noise = stacked.max(0), DETAIL * np.median(stacked.min(0))
    return {k: (own >= SHARP * most) & (most > noise) for k, own in detail.items()}


def _evidence(
    key: Key, seen: np.ndarray, covariance: np.ndarray, expected: np.ndarray, least: float
) -> _Evidence:
    """The _Evidence of parameters (P,) that were seen for those (P,) that are expected.

    Args:
        key: (a, b).
        seen, expected: (P,), see registration.offsets.
        covariance: (P, P) of `seen`.
        least: standard deviation, px, that is added to it.
    """
    weight = np.linalg.inv(covariance + np.eye(len(seen)) * least**2)
    rest = seen - expected
    none, found = float(seen @ weight @ seen), float(rest @ weight @ rest)
    claimed = float(expected @ weight @ expected)
    mean = len(seen)
    return _Evidence(key, none - found, claimed, min(none, found) / mean, none / mean)


def _strength(evidence: Sequence[_Evidence]) -> float:
    """The evidence of motion, of all pairs or of one alone, over what is needed of it.

    A likelihood ratio of r arises by chance with a probability of at most 1 / r, whatever is
    expected.
    """
    unit = 2 * max(float(np.median([one.unlikely for one in evidence])), 1.0)
    ratios = np.array([one.ratio for one in evidence])
    all_, one = np.log(1 / MISTAKEN), np.log(len(ratios) / MISTAKEN)
    return float(max(ratios.sum() / (unit * all_), ratios.max() / (unit * one)))
