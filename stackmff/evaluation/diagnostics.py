"""Named faults of fused pictures that means over the whole picture hide.

Each is a function (fused, answer, peak) -> float like those of `metrics`, NaN where the answer has
no place that shows the fault. `PSNR_dark` is better when larger, the others when smaller.
"""

import cv2
import numpy as np

from stackmff.images.colour import LUMA

DARK = 60  # luma of 255, below which a pixel is dark
HAZE, HAZE_SIGMA = 6, 6.0  # levels of 255 too bright, after a Gaussian of so many px
VEIL_SIGMA = 24.0  # px
LIT = 250  # luma of 255, above which a pixel is a highlight
BESIDE, AROUND = 3, 64  # px from a highlight where its rings begin and end
RINGS = (1.5, 6.0)  # px, sigmas between which they are
PERIODS = (8, 16, 32, 64)  # px, of the grids of tiles, levels and blocks


def _levels(fused: np.ndarray, answer: np.ndarray, peak: float) -> tuple[np.ndarray, np.ndarray]:
    """The error (H, W, C) and the luma of the answer (H, W), float32, 255 for white."""
    first, second = (
        np.asarray(np.atleast_3d(picture), np.float32) * np.float32(255 / peak)
        for picture in (fused, answer)
    )
    luma = second[..., 0]
    if second.shape[2] == 3:
        luma = second @ np.array(LUMA, np.float32)
    return first - second, luma


def _blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    """A picture (H, W), blurred by a Gaussian of `sigma` px."""
    blurred: np.ndarray = cv2.GaussianBlur(picture, (0, 0), sigma)
    return blurred


def psnr_dark(fused: np.ndarray, answer: np.ndarray, peak: float) -> float:
    """PSNR in dB over the pixels whose luma is below DARK in the answer; at most 58.92 dB."""
    error, luma = _levels(fused, answer, peak)
    dark = luma < DARK
    if not dark.any():
        return float("nan")
    return float(10 * np.log10(255**2 / max(float((error[dark] ** 2).mean()), 1 / 12)))


def hazed(fused: np.ndarray, answer: np.ndarray, peak: float) -> float:
    """The percentage of dark pixels around which the picture is too bright by HAZE levels."""
    error, luma = _levels(fused, answer, peak)
    dark = luma < DARK
    if not dark.any():
        return float("nan")
    return float(100 * (_blurred(error.mean(2), HAZE_SIGMA)[dark] > HAZE).mean())


def veil(fused: np.ndarray, answer: np.ndarray, peak: float) -> float:
    """By how many levels wide areas around dark pixels are too bright, mean over these pixels."""
    error, luma = _levels(fused, answer, peak)
    dark = luma < DARK
    if not dark.any():
        return float("nan")
    return float(_blurred(error.mean(2), VEIL_SIGMA)[dark].clip(0).mean())


def rings(fused: np.ndarray, answer: np.ndarray, peak: float) -> float:
    """Rings around highlights: deviation of the error, in levels, between two scales.

    It is taken from BESIDE to AROUND px from what is brighter than LIT in the answer, after a
    Gaussian of the smaller sigma of RINGS minus one of the larger: noise is finer, haze coarser.
    """
    error, luma = _levels(fused, answer, peak)
    lit = luma > LIT
    distance = cv2.distanceTransform((~lit).astype(np.uint8), cv2.DIST_L2, 5)
    around = lit.any() & (distance > BESIDE) & (distance <= AROUND)
    if not around.any():
        return float("nan")
    grey = error.mean(2)
    band = _blurred(grey, RINGS[0]) - _blurred(grey, RINGS[1])
    return float(np.sqrt((band[around] ** 2).mean()))


def grid(fused: np.ndarray, answer: np.ndarray, peak: float) -> float:
    """Steps of the error that repeat: the most levels, of any of PERIODS, row and column.

    The mean absolute difference of the error across the boundary between neighbouring columns, by
    the column's number modulo the period: the largest of these means less the largest one below
    the upper eighth of them, since the soft edge of a grid raises several.
    """
    error, _ = _levels(fused, answer, peak)
    found = 0.0
    for axis in (0, 1):
        steps = np.abs(np.diff(error, axis=axis)).mean((1 - axis, 2))  # one per boundary
        for period in PERIODS:
            if len(steps) < 2 * period:
                continue
            rows = steps[: len(steps) // period * period].reshape(-1, period)
            phases = np.sort(rows.mean(0))
            found = max(found, float(phases[-1] - phases[-1 - period // 8]))
    return found
