"""The guided filter, which smooths a plane along the edges of another one."""

import cv2
import numpy as np


def guided_filter(
    guide: np.ndarray,
    values: np.ndarray,
    radius: int,
    epsilon: float,
    border: int = cv2.BORDER_REFLECT_101,
) -> np.ndarray:
    """Smooth a plane where the guide is smooth, and keep it sharp where the guide has edges.

    Args:
        guide, values: (H, W) float32.
        radius: of the square window, whose side is 2 radius + 1 px.
        epsilon: variance of the guide below which it counts as flat.
        border: how OpenCV continues the planes beyond their edges.
    Returns:
        (H, W) float32.
    Source:
        He, Sun and Tang, "Guided image filtering", IEEE TPAMI 2013, equations 5, 6 and 8.
    """
    slope, offset = guide_lines(guide, values, radius, epsilon, border=border)
    return slope * guide + offset


def guide_lines(
    guide: np.ndarray,
    values: np.ndarray,
    radius: int,
    epsilon: float,
    weights: np.ndarray | None = None,
    border: int = cv2.BORDER_REFLECT_101,
) -> tuple[np.ndarray, np.ndarray]:
    """The line, values = slope x guide + offset, that fits the pixels around each place.

    Args:
        guide, values, radius, epsilon, border: as of `guided_filter`.
        weights: (H, W) float32 above 0, how much each pixel counts; None: all the same.
    Returns:
        (slope, offset), (H, W) float32 each, means over all windows that a pixel is in.
    """
    sides = (2 * radius + 1,) * 2

    def blur(plane: np.ndarray) -> np.ndarray:
        return cv2.blur(plane, sides, borderType=border)

    share = None if weights is None else blur(weights)

    def mean(plane: np.ndarray) -> np.ndarray:
        return blur(plane) if weights is None else blur(plane * weights) / share

    guide_mean, value_mean = mean(guide), mean(values)
    covariance = mean(guide * values) - guide_mean * value_mean
    variance = mean(guide * guide) - guide_mean * guide_mean
    # Where the guide is flat, rounding can make its variance negative.
    slope = covariance / (np.maximum(variance, 0) + np.float32(epsilon))
    return mean(slope), mean(value_mean - slope * guide_mean)
