"""What of the displacements of parallax is due to the camera, and what to something that moves.

A camera that moves shifts each place along one direction in each frame, by its nearness, which is
the same in all frames. Something that moves does not, and its displacement would bend what is
straight beside it. So nearness and the motion of the camera are found from the displacements of all
frames, by robust least squares. Places that they do not explain get what they are where rigid
things surround them.
"""

from typing import NamedTuple

import cv2
import numpy as np

from stackmff.alignment.registration import invertible

TRIALS, ROUNDS = 4, 12  # of nearness, camera and weights in turn: from each start, then the best
USUAL = 0.4  # quantile of what is left, beyond twice of which places count less
# A place is odd if it departs by LEAST_ODD px of the compared pictures, and by ODD times what half
# of the places do. The camera's motion is not known if more than MOST_ODD of the places are odd, or
# more than MOST_LEFT of the displacements is left unexplained.
LEAST_ODD, ODD, MOST_ODD, MOST_LEFT = 0.5, 7.0, 0.35, 0.5
# Windows mix what moves with what is beside it. So odd places grow to those in a square around them
# that depart by AROUND of what makes a place odd, and then by a smaller square.
REACH, AROUND, GROWN = 9, 0.3, 3  # cells, a share, cells
FEWEST_FRAMES = 2  # besides the reference; one is explained by any displacements along one line
WIDEST = 64.0  # cells; widest Gaussian by which odd places are filled


def rigid(fields: dict[int, np.ndarray], factor: int) -> dict[int, np.ndarray]:
    """The displacements without those of what moves.

    Args:
        fields: {frame: (rows, columns, 2) float32}, px of the frames.
        factor: how much smaller the compared pictures were than the frames.
    Returns:
        The same; the argument itself if nothing moves, or if what the camera did is not clear.
    """
    if len(fields) < FEWEST_FRAMES:
        return fields
    values = np.stack(list(fields.values())).astype(np.float64)  # (K, rows, columns, 2)
    least = LEAST_ODD * factor / ODD
    starts = [_fitted(values, weights, TRIALS, least) for weights in _starts(values.shape[1:3])]
    start = min(starts, key=lambda found: float(np.quantile(found.left, 1 - MOST_ODD)))
    found = _fitted(values, start.weights, ROUNDS, least)
    odd = found.left > ODD * max(float(np.median(found.left)), least)
    length = np.sqrt(((values - found.whole) ** 2).sum(-1).mean(0))
    if not odd.any() or odd.mean() > MOST_ODD:
        return fields
    if (found.left * found.weights).sum() > MOST_LEFT * (length * found.weights).sum():
        return fields
    odd = _with_surroundings(odd, found.left)
    expected = _filled(found.nearness, odd)[..., None] * found.camera + found.whole
    around = cv2.dilate(odd.astype(np.float64), np.ones((GROWN, GROWN), np.uint8))
    share = np.where(odd, 1.0, cv2.GaussianBlur(around, (0, 0), 1.0))[..., None]
    mixed = values + share * (expected - values)
    return {k: np.rint(field * 100).astype(np.float32) / 100 for k, field in zip(fields, mixed)}


class _Fit(NamedTuple):
    """What the camera did.

    Attributes:
        nearness: (rows, columns).
        camera, whole: (K, rows, columns, 2), see `_camera`.
        left: (rows, columns) px, the root mean square over the frames of what they do not explain.
        weights: (rows, columns) of each place, by that.
    """

    nearness: np.ndarray
    camera: np.ndarray
    whole: np.ndarray
    left: np.ndarray
    weights: np.ndarray


def _starts(shape: tuple[int, int]) -> list[np.ndarray]:
    """Weights (rows, columns) to start from, each without a part: something may move there."""
    rows, columns = shape
    parts = [(0.0, 1.0), *((start, start + 0.5) for start in (0.0, 0.25, 0.5))]
    out = []
    for top, bottom in parts:
        for left, right in parts:
            weights = np.ones(shape)
            if (bottom - top) * (right - left) < 1:
                across = slice(round(left * columns), round(right * columns))
                weights[round(top * rows) : round(bottom * rows), across] = 0
            out.append(weights)
    return out


def _fitted(values: np.ndarray, weights: np.ndarray, rounds: int, least: float) -> _Fit:
    """The _Fit of displacements (K, rows, columns, 2) from weights (rows, columns) to start from.

    Args:
        values, weights: these.
        rounds: of nearness, camera and weights in turn.
        least: px, of what is left; less is as good.
    """
    places = _places(weights.shape)
    nearness = _first_nearness(values, weights)
    for _ in range(rounds):
        camera, whole = _camera(values, nearness, weights, places)
        nearness = _nearness(values - whole, camera)
        left = np.sqrt(((values - whole - nearness[..., None] * camera) ** 2).sum(-1).mean(0))
        usual = max(float(np.quantile(left, USUAL)), least)
        weights = 1 / (1 + (left / (2 * usual)) ** 2) ** 2
    return _Fit(nearness, camera, whole, left, weights)


def _places(shape: tuple[int, int]) -> np.ndarray:
    """(rows, columns, 2) x and y of cells from the middle, in half diagonals."""
    rows, columns = shape
    y, x = np.mgrid[:rows, :columns].astype(np.float64)
    places = np.dstack([x - (columns - 1) / 2, y - (rows - 1) / 2])
    return places / (np.hypot(rows, columns) / 2)


def _first_nearness(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(rows, columns), what displacements (K, rows, columns, 2) have most in common."""
    flat = values.transpose(0, 3, 1, 2).reshape(2 * len(values), -1)
    flat = flat - (flat @ weights.ravel() / weights.sum())[:, None]
    leading = np.linalg.eigh((flat * weights.ravel()) @ flat.T)[1][:, -1]
    return (leading @ flat).reshape(values.shape[1:3])


def _camera(
    values: np.ndarray, nearness: np.ndarray, weights: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How the camera displaces what is near, and everything.

    Args:
        values: (K, rows, columns, 2).
        nearness, weights: (rows, columns).
        places: (rows, columns, 2), see `_places`.
    Returns:
        (K, rows, columns, 2) each: by a nearness of 1; and whatever the nearness is, which the
        motion of whole frames has left.
    """
    near = (nearness - np.average(nearness, weights=weights))[..., None]
    x, y = places[..., :1], places[..., 1:]
    one, none = np.ones_like(x), np.zeros_like(x)
    # Sideways, downwards, forwards; then shift, growth and turn of the whole frame.
    terms = [
        (near, none),
        (none, near),
        (near * x, near * y),
        (one, none),
        (none, one),
        (x, y),
        (-y, x),
    ]
    design = np.stack([np.concatenate(pair, -1) for pair in terms], -1)  # (rows, columns, 2, 7)
    flat = (design * weights[..., None, None]).reshape(-1, len(terms))
    matrix = invertible(flat.T @ design.reshape(-1, len(terms)))
    found = np.linalg.solve(matrix, flat.T @ values.reshape(len(values), -1).T).T  # (K, 7)
    camera = found[:, None, None, :2] + found[:, None, None, 2:3] * places
    shift = np.average(nearness, weights=weights)
    return camera, np.einsum("rcip,kp->krci", design[..., 3:], found[:, 3:]) - shift * camera


def _nearness(values: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """The nearness (rows, columns) that displacements (K, rows, columns, 2) tell."""
    power = (camera**2).sum((0, -1))
    return (values * camera).sum((0, -1)) / np.maximum(power, 1e-9 * power.max() + 1e-12)


def _with_surroundings(odd: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Odd places (rows, columns) with what around them is mixed with them, by what is `left`."""
    reach = cv2.dilate(odd.astype(np.uint8), np.ones((REACH, REACH), np.uint8)) > 0
    whole = odd | (reach & (left > AROUND * float(left[odd].min())))
    return cv2.dilate(whole.astype(np.uint8), np.ones((GROWN, GROWN), np.uint8)) > 0


def _filled(nearness: np.ndarray, odd: np.ndarray) -> np.ndarray:
    """A nearness (rows, columns) with what surrounds odd places in their place."""
    known, out, sigma = (~odd).astype(np.float64), nearness.copy(), 1.0
    missing = odd.copy()
    while missing.any() and sigma <= WIDEST:
        weight = cv2.GaussianBlur(known, (0, 0), sigma)
        enough = missing & (weight > 1e-2)
        out[enough] = (
            cv2.GaussianBlur(nearness * known, (0, 0), sigma) / np.maximum(weight, 1e-9)
        )[enough]
        missing &= ~enough
        sigma *= 2
    return out
