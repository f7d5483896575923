"""Registration of two frames that differ much in blur, to a tenth of a px of small pictures.

Where a frame is blurred and the other is not, the equations of alignment/registration.py describe
the difference only to first order, and a silhouette that shrinks as it blurs looks like a frame
that shrinks. Here the sharper of the two is blurred until it looks like the other, place by place
and in linear light, where blur is a convolution; what then remains is motion. It is slower and less
fine, so it judges transforms that were found otherwise, and replaces those that it refutes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from stackmff.alignment.registration import (
    PARAMETERS,
    Motion,
    at_scale,
    farthest,
    frame_of,
    invertible,
    offsets,
    small_motion,
)
from stackmff.images.colour import to_linear

LONGEST = 320  # px; the longer side of the pictures that are compared, at most
# px of the discs by which they blur; only those of at most LARGEST of the shorter side.
RADII = (0.0, 1.0, 1.5, 2.2, 3.2, 4.6, 6.6, 9.5, 13.5, 19.0, 27.0, 38.0)
LARGEST = 0.25
CELL, WINDOW = 8, 2.0  # px; side of a cell that has one radius, and sigma in cells that chooses it
BORDER = 4  # px that do not count
EVERY = 2  # px; rows and columns of the equations
CLUSTERS = 7  # per side; parts of a frame in which errors are correlated
STEPS, ENOUGH = 12, 0.05  # most steps, and px of the picture; a smaller step is the last
LONGEST_JUMP = 0.1  # of the longer side; a longer step means that the search has diverged
LEAST_OVERLAP = 0.3  # of the picture
ROUNDS = 4  # of the robust weights
LEAST_SCALE = 1e-3  # of linear light; residuals below it are noise
REFUTED = 3.0  # standard deviations, over the clusters, by which another transform fits better
LEAST_EXPLAINED = 0.9  # parallax leaves 0.6 to 0.8, blur more than 0.98
APART = 0.75  # px of the picture; transforms that differ by less are not told apart


@dataclass
class Match:
    """The registration of frame b to frame a by their matched blur.

    Attributes:
        transform: (3, 3) from pixel (x, y, 1) of a to pixel of b.
        covariance: (P, P) of the parameters, px^2, see registration.offsets.
        explained: the part of the variance of a that b explains once their blur is matched.
        factor: how much smaller than the frames the compared pictures were.
        blur: px, the radius by which one of them is blurred more where there are edges.
    """

    transform: np.ndarray
    covariance: np.ndarray
    explained: float
    factor: int
    blur: float

    @property
    def explains(self) -> bool:
        """Whether blur and motion are all that makes the frames differ."""
        return self.explained >= LEAST_EXPLAINED


def least_gap(shape: tuple[int, ...]) -> float:
    """By how many px of a luma of `shape` transforms must differ to be told apart."""
    return APART * -(-max(shape) // LONGEST)


class _Matched(NamedTuple):
    """Two pictures of one blur.

    Attributes:
        first, second: (h, w) float32, linear light.
        across, down: (h, w), derivatives of their mean.
        spread: (h, w), how much edges spread towards their dark sides, or the bright ones, if the
            blur of light was not quite linear: then a silhouette shrinks as it blurs.
    """

    first: np.ndarray
    second: np.ndarray
    across: np.ndarray
    down: np.ndarray
    spread: np.ndarray


class Discs(NamedTuple):
    """A frame, blurred by discs.

    Attributes:
        radii: of the discs, px of the pictures; the first is 0.
        pictures: (h, w) float32 each, linear light.
        factor: how much smaller than the luma of the frame they are.
    """

    radii: list[float]
    pictures: list[np.ndarray]
    factor: int


def discs_of(luma: np.ndarray) -> Discs:
    """The Discs of a frame by its luma (h, w) uint16, coded; 3 MB."""
    factor = -(-max(luma.shape) // LONGEST)
    light = _light(luma, factor)
    radii = [radius for radius in RADII if radius <= LARGEST * min(light.shape)]
    return Discs(radii, [_disc(light, radius) for radius in radii], factor)


class BlurMatcher:
    """Compares two frames, whichever is sharper at each place.

    Args:
        first, second: Discs of the frames a and b.
        factor: how much smaller than the frames their lumas are.
        size: (height, width) of the frames, px.
        motion: of the transforms.

    Attributes:
        factor: how much smaller than the frames the pictures are that are compared.
    """

    def __init__(
        self,
        first: Discs,
        second: Discs,
        factor: int,
        size: tuple[int, int],
        motion: Motion,
    ) -> None:
        self.factor, self.size, self.motion = factor * first.factor, size, motion
        self.first, self.second, self.radii = first.pictures, second.pictures, first.radii
        height, width = self.first[0].shape
        self.shape = (height, width)

    def refined(self, matrix: np.ndarray) -> Match | None:
        """The Match to which a (3, 3) matrix leads; None if it leads nowhere."""
        for _ in range(STEPS):
            local = at_scale(matrix, self.factor)
            inside = self._inside(local)
            if inside.mean() < LEAST_OVERLAP:
                return None
            parameters, covariance = self._step(self._matched(local, inside), inside)
            change = small_motion(parameters, self.size)
            length = farthest(change, self.size)
            if not length <= LONGEST_JUMP * max(self.size):  # NaN too
                return None
            matrix = matrix @ change
            if length < ENOUGH * self.factor:
                break
        local = at_scale(matrix, self.factor)
        inside = self._inside(local)
        counts = inside > 0
        pair = self._matched(local, inside)
        left = _left(pair, inside)[counts]
        power = max(float(self.first[0][counts].var()), np.finfo(float).tiny)
        explained = 1 - float((left**2).mean()) / power
        return Match(matrix, covariance, explained, self.factor, self.factor * _blur(pair, counts))

    def best(self, guesses: list[np.ndarray]) -> Match | None:
        """The Match that fits best of those to which (3, 3) guesses lead.

        What was found already is not sought again from a guess that is not told apart from it.
        """
        chosen: Match | None = None
        for guess in guesses:
            if chosen is not None and self._are_one(chosen.transform, guess):
                continue
            found = self.refined(guess)
            if found is None:
                continue
            if chosen is None or self.advantage(found.transform, chosen.transform) > 0:
                chosen = found
        return chosen

    def advantage(self, matrix: np.ndarray, other: np.ndarray) -> float:
        """By how many standard deviations a (3, 3) matrix fits better than another one.

        The errors of both are compared where both overlap; their standard deviation is that of the
        differences of clusters.
        """
        locals_ = [at_scale(one, self.factor) for one in (matrix, other)]
        inside = self._inside(locals_[0]) * self._inside(locals_[1])
        if inside.mean() < LEAST_OVERLAP:
            return 0.0
        errors = []
        for local in locals_:
            errors.append(np.abs(_left(self._matched(local, inside), inside)) * inside)
        gains = np.bincount(_clusters(self.shape).ravel(), (errors[1] - errors[0]).ravel())
        return float(gains.sum() / max(np.sqrt((gains**2).sum()), np.finfo(float).tiny))

    def refutes(self, matrix: np.ndarray, found: Match) -> bool:
        """Whether a Match differs from a (3, 3) matrix and fits clearly better."""
        if self._are_one(found.transform, matrix):
            return False
        return self.advantage(found.transform, matrix) > REFUTED

    def _are_one(self, matrix: np.ndarray, other: np.ndarray) -> bool:
        """Whether two (3, 3) matrices are not told apart."""
        return farthest(np.linalg.inv(matrix) @ other, self.size) <= APART * self.factor

    def _inside(self, local: np.ndarray) -> np.ndarray:
        """(h, w) float32, 1 where both pictures are, without their borders."""
        height, width = self.shape
        mask = np.zeros(self.shape, np.float32)
        mask[BORDER:-BORDER, BORDER:-BORDER] = 1
        there = cv2.warpAffine(
            np.ones(self.shape, np.float32),
            local,
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        )
        return mask * (there > 0.99)

    def _matched(self, local: np.ndarray, inside: np.ndarray) -> _Matched:
        """Both pictures, the second on the first, the sharper one blurred cell by cell."""
        height, width = self.shape
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        warped = [
            cv2.warpAffine(
                picture, local, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
            )
            for picture in self.second
        ]
        pairs = [(picture, warped[0]) for picture in self.first]
        pairs += [(self.first[0], picture) for picture in warped[1:]]
        cells = (max(width // CELL, 1), max(height // CELL, 1))
        costs = []
        for a, b in pairs:
            squares = cv2.resize((a - b) ** 2 * inside, cells, interpolation=cv2.INTER_AREA)
            costs.append(cv2.GaussianBlur(squares, (0, 0), WINDOW))
        chosen = np.stack(costs).argmin(0).astype(np.uint8)
        chosen = cv2.resize(chosen, (width, height), interpolation=cv2.INTER_NEAREST)
        first, second = pairs[0][0].copy(), pairs[0][1].copy()
        for k in np.flatnonzero(np.bincount(chosen.ravel())):
            for picture, part, whole in zip((first, second), pairs[k], pairs[0], strict=True):
                if part is not whole:
                    np.copyto(picture, part, where=chosen == k)
        radii = np.array([*self.radii, *(-r for r in self.radii[1:])], np.float32)[chosen]
        mean = (first + second) / 2
        across, down = (cv2.Sobel(mean, -1, *axes, scale=1 / 8) for axes in ((1, 0), (0, 1)))
        return _Matched(first, second, across, down, np.hypot(across, down) * radii)

    def _step(self, pair: _Matched, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One robust step of least squares: parameters (P,) and their covariance (P, P).

        Args:
            pair: both pictures.
            inside: (h, w), which pixels count.
        """
        every = (slice(None, None, EVERY),) * 2
        counts = inside[every] > 0
        y, x = (EVERY * places for places in np.nonzero(counts))
        centre, radius = frame_of(self.size)
        full = (np.stack([x, y]) * self.factor + (self.factor - 1) / 2 - centre[:, None]) / radius
        jacobian = offsets(full[0], full[1], self.motion) / self.factor  # px of the picture
        size = PARAMETERS[self.motion]
        design = np.empty((len(x), size + 3))
        design[:, :size] = pair.across[every][counts, None] * jacobian[:, 0]
        design[:, :size] += pair.down[every][counts, None] * jacobian[:, 1]
        design[:, size], design[:, size + 1] = pair.first[every][counts], 1  # gain and offset
        design[:, size + 2] = pair.spread[every][counts]
        values = (pair.first - pair.second)[every][counts].astype(np.float64)
        weights = np.ones(len(values))
        for _ in range(ROUNDS):
            weighted = design * weights[:, None]
            matrix = invertible(weighted.T @ design)
            found = np.linalg.solve(matrix, weighted.T @ values)
            left = values - design @ found
            scale = max(1.48 * float(np.median(np.abs(left))), LEAST_SCALE)
            weights = 1 / (1 + (left / (2 * scale)) ** 2)  # Cauchy's
        clusters = _clusters(self.shape)[every][counts]
        weights *= left
        parts = [np.bincount(clusters, column * weights, CLUSTERS**2) for column in design.T]
        sums = np.stack(parts, 1)
        inverse = np.linalg.inv(matrix)
        return found[:size], (inverse @ (sums.T @ sums) @ inverse)[:size, :size]


def _light(luma: np.ndarray, factor: int) -> np.ndarray:
    """The linear light (h, w) float32 of a coded luma (h, w) uint16, made `factor` smaller."""
    height, width = (side // factor for side in luma.shape)
    whole = luma[: height * factor, : width * factor] * np.float32(1 / 65535)
    light = to_linear(whole).astype(np.float32)
    return cv2.resize(light, (width, height), interpolation=cv2.INTER_AREA)


def _disc(picture: np.ndarray, radius: float) -> np.ndarray:
    """A picture (h, w), blurred by a disc of a radius in px."""
    if radius == 0:
        return picture
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    return cv2.filter2D(picture, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)


def _left(pair: _Matched, inside: np.ndarray) -> np.ndarray:
    """What is left (h, w) of the difference of two pictures by the nuisances that fit best."""
    every = (slice(None, None, EVERY),) * 2
    counts = inside[every] > 0
    terms = [pair.first, pair.spread, np.ones_like(pair.first)]
    design = np.stack([term[every][counts] for term in terms], -1).astype(np.float64)
    values = (pair.first - pair.second)[every][counts].astype(np.float64)
    found = np.linalg.solve(invertible(design.T @ design), design.T @ values).astype(np.float32)
    out = pair.first - pair.second
    for factor, term in zip(found, terms):
        out -= factor * term
    return out


def _blur(pair: _Matched, counts: np.ndarray) -> float:
    """The root mean square, px, of the radii (h, w) of the blur of two pictures at their edges."""
    edges = np.hypot(pair.across, pair.down)[counts] ** 2
    power = max(float(edges.sum()), np.finfo(float).tiny)
    return float(np.sqrt((pair.spread[counts] ** 2).sum() / power))


def _clusters(shape: tuple[int, int]) -> np.ndarray:
    """(h, w) int: the number of the cluster to which each pixel belongs."""
    rows, columns = (np.arange(side) * CLUSTERS // side for side in shape)
    return rows[:, None] * CLUSTERS + columns
