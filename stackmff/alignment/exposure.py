"""The exposure and white balance of the frames of a stack relative to its reference.

Defocus spreads light without changing its sum, so the means of tiles tell exposures; but only in
the values in which the blur took place. A lens blurs linear light. Stacks that are made by blurring
pictures are often blurred in coded values. So both are tried, and the one in which the tiles of the
stack agree better is used.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np

from stackmff.alignment.linking import Key, Pairs, Transforms
from stackmff.alignment.registration import at_scale
from stackmff.images.colour import to_linear, to_srgb

SAME_EXPOSURE = 0.005  # a gain this near to 1 is 1
ONE_GAIN = 0.004  # channels whose logarithms are this near to their mean have one gain
TILES = 16  # along the longer side
FINE_TILES = 100  # where the tiles of a frame are clipped or dark, but not everything in them
BRIGHT, DARK = 0.98, 1e-3  # coded, and linear light; beyond them values do not tell the exposure
FLAT = 0.1  # contrast above which a tile counts less, since defocus moves light across its border
FEW_TILES = 12  # the least number for a ratio
UNKNOWN = 1e6  # variance of a ratio from fewer
LEAST_RATIO, UNLIKE_RATIO = 1e-3, 0.3  # least standard deviation of a pair, as linking.SYSTEMATIC
# Kinds of values: linear light, coded values. CODING is the ratio of logarithms of light to those
# of coded values; a limit on logarithms of light is divided by SCALES[kind].
LINEAR, CODED = 0, 1
CODING = 2.2
SCALES = (1, CODING)
ROUNDS = 8  # of the robust mean

# Logarithms of linear light. Frames that only fine tiles can tell apart are changed if they differ
# by more than CLEAR; a reference that differs from the median of its stack by more than OUTLIER is
# not the one whose exposure the others get.
CLEAR, OUTLIER = 0.15, 0.35
MUCH = 0.21  # logarithm of linear light from which on one factor on coded values is not enough
# With a frame that is 3 stops darker the result is better, at 4 stops without it: noise that is
# amplified so much passes for detail.
TOO_DARK = 3.5 * np.log(2)
TINTED = 0.12  # logarithm of linear light, by which a channel of a tinted reference differs
MOST_CLIPPED = 1 / 3  # of a brighter frame, more than of the others; or it is left out
DARKER, LESS_CLIPPED = 1.4, 0.1  # logarithm of linear light, two stops; share of a frame
UNLIKE = 0.3  # logarithm of coded values by which a frame differs clearly that cannot be compared
SPREADS = 4  # by so many median deviations, too
# Blur changes the mean of a tile, the more so where light is clipped or something lies beyond the
# border, and of neighbouring tiles alike. So the scatter of PARTS^2 parts of the frame tells how
# sure a ratio is; SURE is what Student's t with 10 degrees of freedom exceeds once in a thousand.
# A ratio is no surer than COMMON x the standard deviation of the tiles, since blur changes all of
# them a little the same way: in rendered stacks that do not flicker, by up to 0.6 of it.
# SHARED is the least share of a ratio that the sum of all light must tell, too, in linear light and
# in coded values, since blur in either keeps its sum.
PARTS, SURE, COMMON, SHARED = 4, 4.6, 0.15, 0.25
GREY, COLOURED = 0.004, 0.02  # largest difference of the channels of a tile, coded values
UNCOMPARED = "differs in exposure by an unknown amount: it is white or black almost everywhere"


@dataclass
class Tiles:
    """The brightness of a frame, tile by tile, first in linear light, then in coded values.

    Attributes:
        light: (2, h, w, C) float32, means.
        contrast: (2, h, w) float32, standard deviation by mean, over a tile and its neighbours.
        unclipped: (h, w) float32, 1 if nothing in a tile and its neighbours is clipped, else 0.
        usable: (h, w) float32, 1 if it is not dark either, else 0.
        side: of a tile, px of the frame.
        clipped: share of the frame in which a channel is white.
    """

    light: np.ndarray
    contrast: np.ndarray
    unclipped: np.ndarray
    usable: np.ndarray
    side: int
    clipped: float


def tiles_of(colours: np.ndarray, factor: int, count: int = TILES) -> Tiles:
    """The Tiles of a frame.

    Args:
        colours: (h, w, C) uint8 or uint16, the reduced frame without alpha.
        factor: how much smaller than the frame it is.
        count: of the tiles along the longer side, at most.
    """
    height, width, _ = colours.shape
    side = -(-max(height, width) // count)
    shape = max(width // side, 1), max(height // side, 1)
    colours = colours[: shape[1] * side, : shape[0] * side]
    white = np.iinfo(colours.dtype).max

    def averaged(values: np.ndarray) -> np.ndarray:
        return cv2.resize(values, shape, interpolation=cv2.INTER_AREA).reshape(*shape[::-1], -1)

    coded = np.arange(white + 1, dtype=np.float32) / np.float32(white)
    means, contrasts = [], []
    for table in (to_linear(coded), coded):
        # OpenCV looks up bytes in a third of the time that numpy takes.
        light = cv2.LUT(colours, table) if white == 255 else table[colours]
        light = light.reshape(colours.shape)
        means.append(averaged(light))
        square = cv2.blur(averaged(light * light).mean(-1), (3, 3))
        mean = cv2.blur(means[-1].mean(-1), (3, 3))
        contrasts.append(np.sqrt(np.maximum(square - mean**2, 0)) / np.maximum(mean, DARK))
    brightest = functools.reduce(np.maximum, cv2.split(colours))
    clipped = averaged((brightest > BRIGHT * white).astype(np.float32))[..., 0]
    share = float(clipped.mean())
    clipped = cv2.dilate(clipped, np.ones((3, 3), np.uint8))  # defocus spreads it to the next tile
    unclipped = (clipped < 0.1).astype(np.float32)
    usable = unclipped * (means[0].min(-1) > DARK)
    return Tiles(np.stack(means), np.stack(contrasts), unclipped, usable, side * factor, share)


class _Ratio(NamedTuple):
    """How much brighter one frame is than another.

    Attributes:
        logarithm: (C,) of the ratio.
        variance: (C,) of the logarithm.
        scatter: median deviation of the tiles.
        spread: (C,), standard deviation of the logarithm if blur changes neighbouring tiles alike.
        shared: (C,) bool, whether the sum of all light differs likewise; blur does not change it.
    """

    logarithm: np.ndarray
    variance: np.ndarray
    scatter: float
    spread: np.ndarray
    shared: np.ndarray

    @property
    def beats_blur(self) -> bool:
        """Whether the exposure of a channel differs by more than blur may explain.

        An exposure changes all parts of a frame by one factor; blur, each of them by its own, and
        their sum not at all: before a dark ground the many tiles that light is spread to may tell
        one factor, and the few that it comes from another one.
        """
        clear = np.abs(self.logarithm) > SURE * self.spread
        return self.known and bool((clear & self.shared).any())

    @property
    def known(self) -> bool:
        """Whether there was enough to compare."""
        return bool((self.variance < UNKNOWN).all())


class Exposures(NamedTuple):
    """How the frames of a stack are brought to one exposure.

    Attributes:
        gains: (N, C) float64, factors on the coded values of each frame; exactly 1 within
            SAME_EXPOSURE, for frames that are left out, and where the difference is not
            significant or may be due to blur.
        in_light: whether they are factors of linear light, see `expose`.
        like: index of the frame whose exposure the others get: the reference, unless its exposure
            is an outlier.
        unmatched: {index: why, in words that follow the name} of frames that clearly differ in
            exposure and cannot be brought to that of the others.
        doubtful: the largest difference, in stops, that blur may explain as well as the sum of all
            light, and that was therefore not matched; 0 if there is none.
        odd: indices of frames that are grey among others in colour, or the other way round; they
            stay as they are, and the others are not matched to them.
    """

    gains: np.ndarray
    in_light: bool
    like: int
    unmatched: dict[int, str]
    doubtful: float
    odd: tuple[int, ...] = ()


def match(
    tiles: Sequence[Tiles],
    pairs: Pairs,
    transforms: Transforms,
    reference: int,
    finer: Callable[[int], Tiles],
) -> Exposures:
    """Find the exposures of a stack.

    Args:
        tiles: of each frame.
        pairs: {(a, b): Pair}.
        transforms: (3, 3) from the reference for each frame, or None.
        reference: index.
        finer: gives the FINE_TILES of a frame by its index.
    """
    placed = {k: matrix for k, matrix in enumerate(transforms) if matrix is not None}
    kind, ratios = _ratios(tiles, pairs, placed)
    unmatched = dict.fromkeys(_measure_finely(ratios, tiles, placed, kind, finer), UNCOMPARED)
    odd = _odd_in_colour(tiles, [k for k in placed if k not in unmatched])
    if unmatched or odd:
        _bridge(ratios, tiles, placed, kind, {*unmatched, *odd})
    likeness = {key: pairs[key].likeness if key in pairs else 1.0 for key in ratios}
    rest = np.array([k for k in placed if k not in unmatched and k not in odd])
    like = reference if reference in rest else int(rest[np.abs(rest - reference).argmin()])

    def adjusted() -> tuple[np.ndarray, np.ndarray]:
        fixed = np.array([k == like or k not in rest for k in range(len(transforms))])
        return _adjust(ratios, likeness, fixed, tiles[like].light.shape[-1])

    logs, deviation = adjusted()
    usual = _usual(logs, rest, like, kind)
    usual = _less_clipped(logs.mean(1), tiles, rest, usual, kind)
    for k in _too_bright(logs.mean(1) - logs[usual].mean(), tiles, rest, kind):
        unmatched[k] = f"is brighter than the others, and {tiles[k].clipped:.0%} of it is white"
    for k in rest:
        darker = (logs[usual] - logs[k]).mean() * SCALES[kind]
        if darker > TOO_DARK:
            stops = darker / np.log(2)
            unmatched[int(k)] = f"is {stops:.1f} stops darker than the others: it would show noise"
    if usual != like:
        like = usual
        logs, deviation = adjusted()
    mean = logs.mean(1, keepdims=True)
    logs = np.where(np.abs(logs - mean).max(1, keepdims=True) <= ONE_GAIN, mean, logs)
    gains = np.exp(-logs)
    if kind == LINEAR:
        light = tiles[like].light[LINEAR].reshape(-1, logs.shape[1]).clip(DARK, BRIGHT)
        gains = np.stack([_coded_gain(light, np.exp(row)) for row in logs])
    same = (np.abs(gains - 1) <= SAME_EXPOSURE) | (np.abs(logs) <= 2 * deviation)
    changed = [int(k) for k in rest if not same[k].all()]

    def to_like(k: int) -> _Ratio:
        matrix = placed[k] @ np.linalg.inv(placed[like])
        return _ratio(tiles[like], tiles[k], matrix, kind)

    unsure = _may_be_blur(changed, ratios, to_like)
    same[list(unsure)] = True
    doubtful = [np.abs(np.log2(gains[k])).max() for k in unsure if unsure[k].shared.any()]
    stops = CODING * max(doubtful, default=0.0)
    in_light = kind == LINEAR and bool((np.abs(logs[rest]) > MUCH)[~same[rest]].any())
    if in_light:
        gains = white_factor(np.exp(-logs))
    return Exposures(np.where(same, 1.0, gains), in_light, like, unmatched, stops, odd)


def _may_be_blur(
    changed: Sequence[int], ratios: Mapping[Key, _Ratio], to_like: Callable[[int], _Ratio]
) -> dict[int, _Ratio]:
    """The frames that drift away from the others so slowly that blur may explain it.

    Args:
        changed: indices of the frames whose exposure differs.
        ratios: {(a, b): of b to a}.
        to_like: gives the ratio of a frame to the one whose exposure the others get.
    Returns:
        {index: that ratio}. Empty if most of the frames surely changed: a drift is undone as a
        whole or not at all, or neighbours would differ more than they did.
    """
    slow = {k: to_like(k) for k in changed if not _flickers(k, ratios)}
    flickering = len(changed) - len(slow)
    sure = flickering + sum(ratio.beats_blur or not ratio.known for ratio in slow.values())
    return slow if 2 * sure < len(changed) else {}


def _odd_in_colour(tiles: Sequence[Tiles], kept: Sequence[int]) -> tuple[int, ...]:
    """The frames that are grey among others in colour, or the other way round.

    Args:
        tiles: see `match`.
        kept: indices of the frames that count.
    """
    chroma = {k: float(np.ptp(tiles[k].light[CODED], -1).max()) for k in kept}
    grey = tuple(k for k in kept if chroma[k] < GREY)
    coloured = tuple(k for k in kept if chroma[k] >= GREY)
    if not grey or max(chroma.values()) < COLOURED:
        return ()
    return grey if len(grey) <= len(coloured) else coloured


def _flickers(k: int, ratios: Mapping[Key, _Ratio]) -> bool:
    """Whether a frame differs from each that it was compared with by more than blur may explain.

    Args:
        k: index.
        ratios: {(a, b): of b to a}.
    """
    return all(ratio.beats_blur for key, ratio in ratios.items() if k in key)


def _too_bright(logs: np.ndarray, tiles: Sequence[Tiles], kept: np.ndarray, kind: int) -> list[int]:
    """The frames that are brighter than usual, and of which much more is clipped.

    Args:
        logs: (N,) of the brightness of each frame, relative to the usual one.
        tiles: see `match`.
        kept: indices of the frames that count.
        kind: of the values, see `_ratio`.
    """
    most = np.median([tiles[k].clipped for k in kept]) + MOST_CLIPPED
    clear = CLEAR / SCALES[kind]
    return [int(k) for k in kept if logs[k] > clear and tiles[k].clipped > most]


def _ratios(
    tiles: Sequence[Tiles], pairs: Pairs, placed: Mapping[int, np.ndarray]
) -> tuple[int, dict[Key, _Ratio]]:
    """The kind of values in which frames agree better, see `_ratio`, and the ratio of each pair.

    Args:
        tiles, pairs: see `match`.
        placed: {index: (3, 3) transform} of the frames that are not left out.
    """
    found = []
    for kind, scale in enumerate(SCALES):
        ratios = {
            (a, b): _ratio(tiles[a], tiles[b], placed[b] @ np.linalg.inv(placed[a]), kind)
            for a, b in pairs
            if a in placed
        }
        scatter = sum(np.log(scale * ratio.scatter + 1e-4) for ratio in ratios.values())
        found.append((scatter, kind, ratios))
    _, kind, ratios = min(found, key=lambda item: item[0])
    return kind, ratios


def _measure_finely(
    ratios: dict[Key, _Ratio],
    tiles: Sequence[Tiles],
    placed: Mapping[int, np.ndarray],
    kind: int,
    finer: Callable[[int], Tiles],
) -> list[int]:
    """Compare frames of which no pair is known by fine tiles; changes `ratios`.

    Args:
        ratios: {(a, b): of b to a}.
        tiles, finer: see `match`.
        placed: see `_ratios`.
        kind: see `_ratio`.
    Returns:
        Indices of the frames that differ clearly, and that fine tiles cannot compare either.
    """
    known = {k for key, ratio in ratios.items() if ratio.known for k in key}
    blind = set(placed) - known
    clear = CLEAR / SCALES[kind]
    usual = np.log(np.median([tiles[k].light[CODED].mean() for k in placed]) + DARK)
    measured: set[int] = set()
    for a, b in [key for key in ratios if blind & set(key)]:
        ratio = _ratio(finer(a), finer(b), placed[b] @ np.linalg.inv(placed[a]), kind)
        if ratio.known:
            measured |= {a, b}
            if np.abs(ratio.logarithm).max() > clear:
                ratios[a, b] = ratio
    brightness = {k: np.log(tiles[k].light[CODED].mean() + DARK) for k in blind - measured}
    return sorted(k for k, log in brightness.items() if abs(log - usual) > UNLIKE)


def _bridge(
    ratios: dict[Key, _Ratio],
    tiles: Sequence[Tiles],
    placed: Mapping[int, np.ndarray],
    kind: int,
    unmatched: Collection[int],
) -> None:
    """Compare the frames on both sides of those that are left out; changes `ratios`."""
    rest = [k for k in placed if k not in unmatched]
    for key in [key for key in ratios if not set(key).isdisjoint(unmatched)]:
        del ratios[key]
    for a, b in pairwise(rest):
        if (a, b) not in ratios and (b, a) not in ratios:
            matrix = placed[b] @ np.linalg.inv(placed[a])
            ratios[a, b] = _ratio(tiles[a], tiles[b], matrix, kind)


def _usual(logs: np.ndarray, kept: np.ndarray, reference: int, kind: int) -> int:
    """The frame whose exposure the others get.

    Args:
        logs: (N, C) of the brightness of each frame relative to the reference.
        kept: indices of the frames that count.
        reference: index.
        kind: of the values, see `_ratio`.
    Returns:
        The reference; or if its exposure or its white balance is an outlier, the frame nearest to
        the median.
    """
    mean = logs.mean(1)
    tint = logs - mean[:, None]
    outlying = False
    for values, limit in ((mean[:, None], OUTLIER), (tint, TINTED)):
        median = np.median(values[kept], 0)
        spread = np.median(np.abs(values[kept] - median), 0)
        outlying |= bool(
            (np.abs(median) > np.maximum(limit / SCALES[kind], SPREADS * spread)).any()
        )
    if not outlying:
        return reference
    away = np.abs(logs[kept] - np.median(logs[kept], 0)).max(1)
    return int(kept[away.argmin()])


def _less_clipped(
    logs: np.ndarray, tiles: Sequence[Tiles], kept: np.ndarray, usual: int, kind: int
) -> int:
    """The frame whose exposure the others get, since matched to `usual` they would be clipped too.

    Args:
        logs: (N,) of the brightness of each frame, relative to one of them.
        tiles: see `match`.
        kept: indices of the frames that count.
        usual: index; it stays if more than half of the frames are exposed like it.
        kind: of the values, see `_ratio`.
    Returns:
        `usual`, or the brightest of those that are darker, by no more than DARKER, and of which
        less is white, by LESS_CLIPPED.
    """
    scale = SCALES[kind]
    darker = (logs[usual] - logs[kept]) * scale
    if 2 * (np.abs(darker) <= OUTLIER).sum() > len(kept):
        return usual
    clipped = np.array([tiles[k].clipped for k in kept])
    better = (darker > OUTLIER) & (darker < DARKER)
    better &= clipped <= tiles[usual].clipped - LESS_CLIPPED
    return int(kept[np.where(better, darker, np.inf).argmin()]) if better.any() else usual


def _adjust(
    ratios: Mapping[Key, _Ratio],
    likeness: Mapping[Key, float],
    fixed: np.ndarray,
    channels: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The brightness of each frame that fits all pairs best, by least squares.

    Args:
        ratios: {(a, b): of b to a}.
        likeness: {(a, b): see registration.Pair}.
        fixed: (N,) bool, frames whose logarithm is 0.
        channels: C.
    Returns:
        logarithms (N, C), their standard deviations (N, C).
    """
    count = len(fixed)
    matrix, right = np.zeros((channels, count, count)), np.zeros((channels, count))
    for (a, b), ratio in ratios.items():
        least = LEAST_RATIO + UNLIKE_RATIO * (1 - likeness[a, b]) ** 2
        weight = 1 / (ratio.variance + least**2)
        for k, other, sign in ((a, b, -1), (b, a, 1)):
            matrix[:, k, k] += weight
            matrix[:, k, other] -= weight
            right[:, k] += sign * weight * ratio.logarithm
    matrix[:, fixed, fixed] += 1e12
    inverse = np.linalg.inv(matrix)
    logs = (inverse @ right[..., None])[..., 0]
    return logs.T, np.sqrt(inverse.diagonal(axis1=1, axis2=2)).T


def _coded_gain(light: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """The factors on coded values that undo a ratio of linear light best.

    Args:
        light: (n, C), linear light of the reference.
        ratio: (C,), how much brighter the frame is.
    Returns:
        (C,).
    """
    there = to_srgb(np.minimum(light * ratio, 1))
    return (there * to_srgb(light)).sum(0) / (there**2).sum(0)


def _ratio(first: Tiles, second: Tiles, matrix: np.ndarray, kind: int) -> _Ratio:
    """How much brighter the second frame is than the first, from tiles within range of both.

    Args:
        first, second: of the frames.
        matrix: (3, 3) between them.
        kind: LINEAR or CODED.
    Returns:
        The ratio; if too few tiles can be compared, a logarithm of 0 with a large variance.
    """
    local = at_scale(matrix, first.side)
    height, width, channels = first.light.shape[1:]
    unmoved = np.dstack(
        [
            second.light[kind],
            second.light[1 - kind],
            second.unclipped,
            second.usable,
            second.contrast[kind],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    planes = [
        cv2.warpAffine(plane, local, (width, height), flags=flags)
        for plane in unmoved.transpose(2, 0, 1)
    ]
    usable = (planes[-2] > 0.99) & (first.usable > 0)
    if usable.sum() < FEW_TILES:
        none = np.zeros(channels)
        return _Ratio(none, np.full(channels, UNKNOWN), 0.0, none, none > 0)
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
    rows, columns = np.nonzero(usable)
    part = rows * PARTS // height * PARTS + columns * PARTS // width
    sums = np.zeros((PARTS**2, channels))
    np.add.at(sums, part, weights * (ratios - ratio))
    spread = np.maximum(np.sqrt((sums**2).sum(0)) / weights.sum(0), COMMON * scale)
    scatter = float(np.median(np.abs(ratios - ratio)))
    both = (planes[-3] > 0.99) & (first.unclipped > 0)  # dark ones, too, which light is spread to
    own, other = np.split(np.stack(planes[:-3])[:, both].sum(1, dtype=np.float64), 2)
    shared = _is_shared(own / first.light[kind][both].sum(0), ratio)
    # A ratio of light is a smaller one of coded values; of one of coded values no more is asked.
    expected = ratio / (CODING if kind == LINEAR else 1)
    shared &= _is_shared(other / first.light[1 - kind][both].sum(0), expected)
    return _Ratio(ratio, variance, scatter, spread, shared)


def _is_shared(sums: np.ndarray, logarithm: np.ndarray) -> np.ndarray:
    """Whether the sum of all light differs by enough of a ratio.

    Args:
        sums: (C,), by which factor the sum differs.
        logarithm: (C,) of the ratio.
    Returns:
        (C,) bool.
    """
    return np.log(sums) * logarithm >= SHARED * logarithm**2


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(C,), the weighted median of each column of (n, C) values."""
    order = values.argsort(0)
    sums = np.take_along_axis(weights, order, 0).cumsum(0)
    middle = (sums < sums[-1] / 2).sum(0)
    return np.take_along_axis(values, np.take_along_axis(order, middle[None], 0), 0)[0]


def white_factor(factor: np.ndarray) -> np.ndarray:
    """The factor on coded values that a factor of linear light is at white.

    One above 1 has the inverse of that of its inverse: what becomes white was so much darker.
    """
    return np.where(factor > 1, 1 / to_srgb(1 / factor), to_srgb(np.minimum(factor, 1)))


def light_factor(gain: np.ndarray) -> np.ndarray:
    """The factor of linear light of which a gain is the `white_factor`."""
    return np.where(gain > 1, 1 / to_linear(1 / gain), to_linear(np.minimum(gain, 1)))


def expose(frame: np.ndarray, gains: np.ndarray, in_light: bool = False) -> None:
    """Multiply the colours of a frame by gains, in place.

    Args:
        frame: (H, W, C) uint8 or uint16.
        gains: (1,) or (3,), for the first channels.
        in_light: multiply linear light by the factors that are these on coded values at white, and
            otherwise the coded values. Dark values, which sRGB codes by a line, differ: one stop
            doubles the darkest of them, and multiplies the others by 1.4.
    """
    white = np.iinfo(frame.dtype).max
    factors = np.ones(frame.shape[2])
    factors[: len(gains)] = gains
    coded = np.arange(white + 1)[:, None]
    if in_light:
        light = to_linear(coded / white) * light_factor(factors)
        table = white * to_srgb(np.minimum(light, 1))
    else:
        table = coded * factors
    table = np.clip(np.rint(table), 0, white).astype(frame.dtype)
    if frame.dtype == np.uint8:
        frame[:] = cv2.LUT(frame, table[None]).reshape(frame.shape)
        return
    for channel in range(len(gains)):
        frame[..., channel] = table[:, channel][frame[..., channel]]
