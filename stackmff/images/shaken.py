"""Frames that are shaken, or exposed twice, found by their neighbours in register with them.

Defocus blurs all directions alike, and so hardly changes how the strength of edges is shared out
among directions. Motion blur takes the edges across its way, in nearly all parts of a frame. A
double exposure repeats everything at one distance, which shows as one peak of the cepstrum, the
transform of the logarithm of the power spectrum (Bogert, Healy and Tukey, "The quefrency alanysis
of time series for echoes", 1963). Both are compared with the neighbours, which show the same scene.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from stackmff.images.colour import luma
from stackmff.images.frame_store import release
from stackmff.images.rectangles import Box

PATCH, MOST_PATCHES = 128, 12  # px; side of the parts of a frame that are looked at, their number
BLOCK = 16  # px; side of the blocks of a patch
FINEST = 1.0  # sigma, px, of noise and of the errors of resampling
DIRECTIONS = 12
FEWEST_BLOCKS = 60  # with detail
# A block has detail if its energy exceeds that of the emptiest blocks so many times: in a
# neighbour, and in the frame itself, which may be blurred.
DETAIL, LEAST_DETAIL = 8.0, 2.0
# Binary logarithms of the energy of edges: the median by which it is shared out otherwise; the
# share of the blocks that agree, at least, which is more if there are few of them: chance varies
# it by 0.5 / sqrt(n), and neighbouring blocks are alike. Of 150 frames of real stacks that lie
# between others none has both: those from 0.12 on have 0.62 at most, those from 0.65 on 0.03.
# Shaken by 12 px, they have 0.2 to 1.6 and 0.71 to 0.96. The ends have neighbours on one side
# only, of another blur, which changes texture that has not the same direction at all scales.
SHAKEN, AGREEING = 0.12, 0.7
SHAKEN_END, AGREEING_END = 0.4, 0.75
CHANCE = 3.0  # over sqrt(n)
BLURRIER = 0.8  # of the blocks, at least, have fewer edges across the way than each neighbour
# Heights of peaks of the cepstrum, and of one over the next. Of these frames and 1,000 rendered
# ones none has more than 0.23; exposed twice, most have 0.2 to 0.8, and 2.5 times the next one.
TWICE, UNIQUE = 0.25, 2.0
NEAREST, FARTHEST = 5, 56  # px; distances of two exposures
HIGHEST = 0.35  # cycles per px, up to which a spectrum is compared; beyond is noise
PEAK = 3  # px; radius of a peak
FLOOR = 1e-9  # of the spectrum of a patch, by its area


@dataclass
class _Look:
    """What is kept of a frame.

    Attributes:
        energies: (DIRECTIONS, n) of the edges across each direction, in n blocks.
        spectrum: (PATCH, PATCH // 2 + 1) logarithms of the mean power spectrum of the patches.
    """

    energies: np.ndarray
    spectrum: np.ndarray


def shaken_frames(frames: np.ndarray, kept: Sequence[int], area: Box) -> list[int]:
    """The frames that are shaken or exposed twice, where their neighbours are not.

    Args:
        frames: (N, H, W, C) uint8 or uint16, in register, in the order of focus.
        kept: indices of the frames that count.
        area: that all of these show.
    Returns:
        Their indices; none if fewer than three frames count, the area is too small to judge, or
        more than a third of the frames would be named.
    """
    patches = _patches(area)
    if len(kept) < 3 or not patches:
        return []
    looks = []
    for k in kept:
        looks.append(_look(frames[k], patches))
        release(frames)
    found, last = [], len(kept) - 1
    for place, k in enumerate(kept):
        near = {0: (1, 2), last: (last - 1, last - 2)}.get(place, (place - 1, place + 1))
        own, others = looks[place], [looks[j] for j in near]
        if _repeats(own, others) or _is_shaken(own, others, is_end=place in (0, last)):
            found.append(k)
    return found if 3 * len(found) <= len(kept) else []


def _patches(area: Box) -> list[Box]:
    """The patches of an area, spread evenly, at most MOST_PATCHES of them."""
    sides = np.array(area.size)
    counts = sides // PATCH
    while counts.prod() > MOST_PATCHES:
        counts[(counts * PATCH / sides).argmax()] -= 1
    starts = [np.linspace(0, side - PATCH, count).astype(int) for side, count in zip(sides, counts)]
    corners = [(int(y), int(x)) for y in starts[0] for x in starts[1]]
    return [Box.at(area.top + y, area.left + x, (PATCH, PATCH)) for y, x in corners]


def _look(frame: np.ndarray, patches: Sequence[Box]) -> _Look:
    """The _Look at the patches of a frame (H, W, C)."""
    window = cv2.createHanningWindow((PATCH, PATCH), cv2.CV_32F)
    energies, power = [], np.full((PATCH, PATCH // 2 + 1), FLOOR * PATCH**2)
    for box in patches:
        patch = luma(np.ascontiguousarray(frame[box.slices]))
        energies.append(_energies(patch))
        spectrum = cv2.dft((patch - patch.mean()) * window, flags=cv2.DFT_COMPLEX_OUTPUT)
        power += (spectrum[:, : PATCH // 2 + 1] ** 2).sum(-1) / len(patches)
    return _Look(np.concatenate(energies, 1), np.log(power))


def _energies(patch: np.ndarray) -> np.ndarray:
    """The energies (DIRECTIONS, n) of a patch (PATCH, PATCH) of luma."""
    smooth = cv2.GaussianBlur(patch, (0, 0), FINEST)
    across, down = (cv2.Sobel(smooth, -1, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
    side = PATCH // BLOCK
    products = [across * across, down * down, across * down]
    means = [cv2.resize(each, (side, side), interpolation=cv2.INTER_AREA) for each in products]
    xx, yy, xy = (each.reshape(1, -1) for each in means)
    angles = np.pi / DIRECTIONS * np.arange(DIRECTIONS)[:, None]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.maximum(cos**2 * xx + sin**2 * yy + 2 * cos * sin * xy, 1e-12)


def _is_shaken(own: _Look, others: Sequence[_Look], is_end: bool) -> bool:
    """Whether a frame has fewer edges across one direction, by more than defocus explains.

    Args:
        own: of the frame.
        others: of its neighbours. Beside a shaken frame, one of them shows that this one is not.
        is_end: whether both are on one side of it.
    """
    energies = np.stack([own.energies, *(other.energies for other in others)])
    across = np.roll(energies, DIRECTIONS // 2, 1)
    whole = energies[:, 0] + across[:, 0]
    floors = np.percentile(whole, 5, 1)
    detailed = whole[0] > LEAST_DETAIL * floors[0]
    detailed &= whole[1:].max(0) > DETAIL * np.median(floors)
    if detailed.sum() < FEWEST_BLOCKS:
        return False
    energies, across = (np.log2(each[..., detailed]) for each in (energies, across))
    shares = energies - across
    differences = shares[0] - shares[1:].mean(0)
    medians = np.median(differences, 1)
    way = int(medians.argmin())
    least, agreeing = (SHAKEN_END, AGREEING_END) if is_end else (SHAKEN, AGREEING)
    each = np.median(shares[0, way] - shares[1:, way], 1)
    blurrier = energies[0, way] < energies[1:, way].max(0)
    return bool(
        medians[way] <= -least
        and (each <= -least / 2).all()
        and (differences[way] < 0).mean() >= max(agreeing, 0.5 + CHANCE / np.sqrt(detailed.sum()))
        and blurrier.mean() >= BLURRIER
    )


def _repeats(own: _Look, others: Sequence[_Look]) -> bool:
    """Whether a frame shows everything twice, at one distance, and its neighbours do not."""
    y, x, low, asked = _grid()
    found = []
    for other in others:  # each: beside a shaken frame, what that one lacks looks like a peak
        change = own.spectrum - other.spectrum
        change = np.where(low, change - change[low].mean(), 0)
        found.append(np.fft.irfft2(change, (PATCH, PATCH)) / low.mean())
    cepstrum = np.minimum.reduce(found)
    heights = np.where(asked, cepstrum, -np.inf)
    top = heights.argmax()
    highest, down, across = heights.flat[top], y.flat[top], x.flat[top]
    for sign in (1, -1):
        heights[np.hypot(y - sign * down, x - sign * across) <= PEAK] = -np.inf
    return bool(highest >= max(TWICE, UNIQUE * heights.max()))


@functools.cache
def _grid() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What belongs to the places of a cepstrum, and of a spectrum.

    Returns:
        y, x: (PATCH, PATCH), px, of a cepstrum; low: (PATCH, PATCH // 2 + 1) bool, the part of a
        spectrum that is compared; asked: (PATCH, PATCH) bool, where a peak is looked for.
    """
    y, x = np.meshgrid(*(np.fft.fftfreq(PATCH),) * 2, indexing="ij")
    low = np.hypot(y, x)[:, : PATCH // 2 + 1] < HIGHEST
    y, x = y * PATCH, x * PATCH
    distance = np.hypot(y, x)
    return y, x, low, (distance >= NEAREST) & (distance < FARTHEST) & (x >= 0)
