"""Smoothing of focus maps: along the edges of the picture, and out of confident areas."""

from typing import Any

import cv2
import numpy as np

from stackmff.images.colour import luma
from stackmff.images.guided_filter import guide_lines

EDGE = 0.02  # luma; smaller steps of the picture do not count as edges of objects
DOUBT = 1e-3  # weight of a pixel without any confidence


def smooth_map(focus_map: np.ndarray, sure: Any, picture: np.ndarray, radius: float) -> np.ndarray:
    """Smooth a focus map: uncertain areas follow the confident ones around them that look alike.

    Args:
        focus_map: (H, W) uint16.
        sure: (H, W) float in [0, 1], the confidence of each pixel; or 1.
        picture: (H, W, C) uint8 or uint16, the fused picture, whose edges are kept.
        radius: px, above 0.
    Returns:
        (H, W) uint16.
    Source: images/guided_filter.py with weights, its lines found on a smaller copy as in He and
        Sun, Fast Guided Filter, 2015.
    """
    height, width = focus_map.shape
    step = max(1, int(radius / 4))
    size = (max(1, width // step), max(1, height // step))

    def small(plane: np.ndarray) -> np.ndarray:
        return cv2.resize(np.float32(plane), size, interpolation=cv2.INTER_AREA)

    guide = luma(picture)
    weights = small(np.broadcast_to(np.float32(sure), focus_map.shape)) ** 2 + np.float32(DOUBT)
    values = small(focus_map / np.float32(65535))
    lines = guide_lines(small(guide), values, max(1, round(radius / step)), EDGE**2, weights)
    slope, offset = (cv2.resize(plane, (width, height)) for plane in lines)
    smooth: np.ndarray = np.rint(np.clip(slope * guide + offset, 0, 1) * 65535)
    return smooth.astype(np.uint16)
