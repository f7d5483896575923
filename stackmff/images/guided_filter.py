"""The guided filter."""

import cv2
import numpy as np


def guided(guide, values, radius, epsilon):
    """Guided filter of planes (H, W) float32, windows of 2 radius + 1 px.

    Source: He, Sun and Tang, Guided Image Filtering, 2010, equations 5 to 8.
    """
    slope, offset = guide_lines(guide, values, np.ones_like(guide), radius, epsilon)
    return slope * guide + offset


def guide_lines(guide, values, weights, radius, epsilon):
    """Around each pixel the line, values = slope x guide + offset, that fits the weighted pixels.

    Returns:
        (slope, offset), (H, W) float32 each, means over all windows that a pixel is in.
    """
    sides = (2 * radius + 1,) * 2
    share = cv2.blur(weights, sides)

    def mean(plane):
        return cv2.blur(plane * weights, sides) / share

    guide_mean, value_mean = mean(guide), mean(values)
    slope = mean(guide * values) - guide_mean * value_mean
    slope /= mean(guide * guide) - guide_mean**2 + epsilon
    offset = value_mean - slope * guide_mean
    return mean(slope), mean(offset)


def guided_filter(guide, source, radius, epsilon):
    """Edge-preserving smoothing of a source by a guide.

    Args:
        guide, source: (H, W) float32.
        radius: of the square window, px.
        epsilon: variance of the guide below which it counts as flat, guide in [0, 1].
    Source:
        He, Sun and Tang, "Guided image filtering", IEEE TPAMI 2013, equations 5, 6 and 8.
    """
    side = (2 * radius + 1, 2 * radius + 1)

    def mean(values):
        return cv2.blur(values, side, borderType=cv2.BORDER_REFLECT)

    guide_mean, source_mean = mean(guide), mean(source)
    covariance = mean(guide * source) - guide_mean * source_mean
    variance = mean(guide * guide) - guide_mean * guide_mean
    slope = covariance / (np.maximum(variance, 0) + np.float32(epsilon))
    return mean(slope) * guide + mean(source_mean - slope * guide_mean)
