"""Whether a stack that seems to move does, or is only blurred.

Where a surface is slanted, its blur is lopsided: what is out of focus is displaced although neither
the camera nor the scene moved, in the same direction from frame to frame, so that small errors of
neighbours add up to pixels. What is sharp is where it was. So the blocks that are sharp in both of
two neighbours decide: whether their motion is nearer to the motion that was found, or to none.
"""

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np

from stackmff.alignment.linking import SYSTEMATIC, Transforms
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
LARGEST = 4.0  # px of the finest level between neighbours; no blur explains more

# Twice the logarithm of the likelihood ratio of motion to none, by which a stack counts as moving:
# on average over its pairs, or in one of them. Rendered stacks that do not move, with blur of up to
# 80 px, give at most 4.1 and 20; real ones that move 10 and more.
EVIDENCE, OF_ONE = 6.0, 40.0


def moves(
    levels: Sequence[Level], transforms: Transforms, size: tuple[int, int], motion: Motion
) -> bool:
    """Whether what is sharp in a stack moves as its transforms say.

    Args:
        levels: the finest level of the pyramid of each of the N frames.
        transforms: (3, 3) from the reference for each frame, or None.
        size: (height, width) of the frames, px.
        motion: of the transforms.
    Returns:
        Also True if neighbours move too far, or too little is sharp in both of any two.
    """
    placed = {k: matrix for k, matrix in enumerate(transforms) if matrix is not None}
    factor = levels[0][0]
    detail = {k: (blocks_of(cv2.Laplacian(levels[k][1], cv2.CV_32F)) ** 2).mean(1) for k in placed}
    stacked = np.stack(list(detail.values()))
    most, noise = stacked.max(0), DETAIL * np.median(stacked.min(0))
    sharp = {k: (own >= SHARP * most) & (most > noise) for k, own in detail.items()}
    evidence = []
    for a, b in pairwise(placed):
        found = placed[b] @ np.linalg.inv(placed[a])
        if farthest(found, size) > LARGEST * factor:
            return True
        both = sharp[a] & sharp[b]
        if both.sum() < 2 * LEAST_BLOCKS:
            continue
        seen, covariance, _ = motion_of_blocks(
            levels[a][1], levels[b][1], factor, both, size, motion
        )
        expected = parameters_of(found, size, motion)
        weight = np.linalg.inv(covariance + np.eye(len(seen)) * (factor * SYSTEMATIC) ** 2)
        rest = seen - expected
        evidence.append(seen @ weight @ seen - rest @ weight @ rest)
    return not evidence or bool(np.mean(evidence) > EVIDENCE or max(evidence) > OF_ONE)
