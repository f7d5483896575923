"""The exposure and the white balance of the frames of a stack against those of its reference.

Defocus carries light about without changing its sum, so the means of tiles tell exposures; but only
in the values that the blur was made in. A lens blurs linear light. Stacks made by blurring pictures
are often blurred in coded values. So both are tried, and the one in which the tiles of the stack
agree better is taken.
"""

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from stackmff.alignment.registration import at_scale
from stackmff.images.colour import to_linear, to_srgb

SAME_EXPOSURE = 0.005
ONE_GAIN = 0.004  # channels this near to one another have the gain of their mean
TILES = 16  # along the longer side
BRIGHT, DARK = 0.98, 1e-3  # coded, and linear light: where values say nothing of the exposure
FLAT = 0.1  # contrast beyond which a tile counts less, as defocus carries light across it
FEW_TILES = 12
LEAST_RATIO, UNLIKE_RATIO = 1e-3, 0.3  # least deviation of a pair, as linking.SYSTEMATIC
CODING = 2.2  # how much larger a ratio of linear light is than one of coded values, as logarithms
ROUNDS = 8


@dataclass
class Tiles:
    """The light of a frame, tile by tile, in linear light and in coded values.

    Attributes:
        light: (2, h, w, C) float32 means.
        contrast: (2, h, w) float32, deviation of the light around by its mean.
        usable: (h, w) float32, 1 where they and their neighbours are within range, else 0.
        side: of a tile, px of the frame.
    """

    light: np.ndarray
    contrast: np.ndarray
    usable: np.ndarray
    side: int


def tiles_of(colours, factor):
    """The Tiles of (H, W, C) colours, uint8 or uint16, of a frame made `factor` smaller."""
    height, width, _ = colours.shape
    side = -(-max(height, width) // TILES)
    shape = max(width // side, 1), max(height // side, 1)
    colours = colours[: shape[1] * side, : shape[0] * side]
    white = np.iinfo(colours.dtype).max

    def averaged(values):
        return cv2.resize(values, shape, interpolation=cv2.INTER_AREA).reshape(*shape[::-1], -1)

    coded = np.arange(white + 1, dtype=np.float32) / np.float32(white)
    means, contrasts = [], []
    for table in (to_linear(coded), coded):
        light = table[colours]
        means.append(averaged(light))
        square = cv2.blur(averaged(light * light).mean(-1), (3, 3))
        mean = cv2.blur(means[-1].mean(-1), (3, 3))
        contrasts.append(np.sqrt(np.maximum(square - mean**2, 0)) / np.maximum(mean, DARK))
    brightest = functools.reduce(np.maximum, cv2.split(colours))
    clipped = averaged((brightest > BRIGHT * white).astype(np.float32))[..., 0]
    clipped = cv2.dilate(clipped, np.ones((3, 3), np.uint8))  # defocus carries it to the next tile
    usable = (clipped < 0.1) & (means[0].min(-1) > DARK)
    return Tiles(np.stack(means), np.stack(contrasts), usable.astype(np.float32), side * factor)


def match(tiles, pairs, transforms, reference):
    """The factor on each frame's colours that gives it the exposure of the reference.

    Args:
        tiles: Tiles of each frame; pairs: {(a, b): Pair}.
        transforms: of each frame (3, 3) from the reference, or None; reference: its index.
    Returns:
        (N, C) float64; exactly 1 within SAME_EXPOSURE, for frames left out, and where the deviation
        of the estimate does not let tell.
    """
    found = []
    for kind, scale in enumerate((1, CODING)):
        ratios = {
            (a, b): _ratio(tiles[a], tiles[b], transforms[b] @ np.linalg.inv(transforms[a]), kind)
            for a, b in pairs
            if transforms[a] is not None
        }
        scatter = sum(np.log(scale * spread + 1e-4) for *_, spread in ratios.values())
        found.append((scatter, kind, ratios))
    _, kind, ratios = min(found, key=lambda item: item[0])
    fixed = np.array([matrix is None or k == reference for k, matrix in enumerate(transforms)])
    logs, deviation = _adjust(ratios, pairs, fixed)
    mean = logs.mean(1, keepdims=True)
    logs = np.where(np.abs(logs - mean).max(1, keepdims=True) <= ONE_GAIN, mean, logs)
    gains = np.exp(-logs)
    if kind == 0:
        light = tiles[reference].light[0].reshape(-1, logs.shape[1]).clip(DARK, BRIGHT)
        gains = np.stack([_coded_gain(light, np.exp(row)) for row in logs])
    same = (np.abs(gains - 1) <= SAME_EXPOSURE) | (np.abs(logs) <= 2 * deviation)
    return np.where(same, 1.0, gains)


def _adjust(ratios, pairs, fixed):
    """The brightness of each frame that all pairs together agree with best.

    Args:
        ratios: {(a, b): (logarithm of b by a (C,), its variance (C,), ...)}; pairs: {(a, b): Pair}.
        fixed: (N,) bool, frames whose logarithm is 0.
    Returns:
        logarithms (N, C), their deviations (N, C).
    """
    count = len(fixed)
    channels = len(next(iter(ratios.values()))[0])
    matrix, right = np.zeros((channels, count, count)), np.zeros((channels, count))
    for (a, b), (ratio, variance, *_) in ratios.items():
        least = LEAST_RATIO + UNLIKE_RATIO * (1 - pairs[a, b].likeness) ** 2
        weight = 1 / (variance + least**2)
        for k, other, sign in ((a, b, -1), (b, a, 1)):
            matrix[:, k, k] += weight
            matrix[:, k, other] -= weight
            right[:, k] += sign * weight * ratio
    matrix[:, fixed, fixed] += 1e12
    inverse = np.linalg.inv(matrix)
    logs = (inverse @ right[..., None])[..., 0]
    return logs.T, np.sqrt(inverse.diagonal(axis1=1, axis2=2)).T


def _coded_gain(light, ratio):
    """The factors (C,) on coded values that take light x ratio (n, C) back best."""
    there = to_srgb(np.minimum(light * ratio, 1))
    return (there * to_srgb(light)).sum(0) / (there**2).sum(0)


def _ratio(first, second, matrix, kind):
    """How much brighter the second frame is, from tiles within range of both.

    Args:
        first, second: Tiles of the frames; matrix: (3, 3) between them.
        kind: 0 linear light, 1 coded values.
    Returns:
        logarithm of the ratio (C,), its variance (C,), scatter of the tiles; 0, a large one and 0
        where too few tiles can be compared.
    """
    local = at_scale(matrix, first.side)
    height, width, channels = first.light.shape[1:]
    planes = np.dstack([second.light[kind], second.usable, second.contrast[kind]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    planes = [
        cv2.warpAffine(plane, local, (width, height), flags=flags)
        for plane in planes.transpose(2, 0, 1)
    ]
    usable = (planes[-2] > 0.99) & (first.usable > 0)
    if usable.sum() < FEW_TILES:
        return np.zeros(channels), np.full(channels, 1e6), 0.0
    here = first.light[kind][usable].astype(np.float64)  # (n, C)
    there = np.stack([plane[usable] for plane in planes[:channels]], -1)
    contrast = np.maximum(first.contrast[kind], planes[-1])[usable]
    worth = here / (FLAT**2 + contrast[:, None] ** 2)
    ratios = np.log(there / here)
    ratio = _weighted_median(ratios, worth)
    for _ in range(ROUNDS):
        errors = ratios - ratio
        scale = 1.48 * _weighted_median(np.abs(errors), worth) + 1e-5
        weights = worth * np.maximum(1 - (errors / (4.7 * scale)) ** 2, 0) ** 2  # Tukey's
        ratio = (weights * ratios).sum(0) / weights.sum(0)
    variance = ((weights * (ratios - ratio)) ** 2).sum(0) / weights.sum(0) ** 2
    return ratio, variance, float(np.median(np.abs(ratios - ratio)))


def _weighted_median(values, weights):
    """Of each column of (n, C) values."""
    order = values.argsort(0)
    sums = np.take_along_axis(weights, order, 0).cumsum(0)
    middle = (sums < sums[-1] / 2).sum(0)
    return np.take_along_axis(values, np.take_along_axis(order, middle[None], 0), 0)[0]


def expose(frame, gains):
    """Multiply the colours of a frame (H, W, C) by gains (1 or 3,), in place."""
    white = np.iinfo(frame.dtype).max
    factors = np.ones(frame.shape[2])
    factors[: len(gains)] = gains
    table = np.clip(np.rint(np.arange(white + 1)[:, None] * factors), 0, white).astype(frame.dtype)
    if frame.dtype == np.uint8:
        frame[:] = cv2.LUT(frame, table[None]).reshape(frame.shape)
        return
    for channel in range(len(gains)):
        frame[..., channel] = table[:, channel][frame[..., channel]]
