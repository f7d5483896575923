"""Upsampling a small depth map to its photograph, with its edges on the photograph's edges."""

import cv2
import numpy as np

WORK = 1.5  # sides of the working grid over those of the small map; at most the photograph's
REACH, STEP = 6, 3  # px of that grid: how far neighbours are used, and at what spacing
NEARNESS, LIKENESS = 4.0, 0.1  # standard deviations of their weights: px, and of colours in [0, 1]
SLOPE = 0.03  # share of the map's range between neighbours above which it is an uncertain edge


def sharpen(values: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Average, for each pixel, the neighbours that look like it and are on no depth edge.

    A network's edges are soft and a few pixels off, so its values beside an edge belong to neither
    side. Such pixels get little weight, and take the value of the side whose colour they have.

    Args:
        values: (h, w) float32, finite, of the whole picture.
        picture: (H, W, 3) uint8 RGB, of about the same proportions.
    Returns:
        (H, W) float32 within the range of `values`.
    Source: Kopf et al., Joint Bilateral Upsampling, 2007, equation 3, with weights for confidence;
        at 1.5 times the map's size, and from there by linear interpolation.
    """
    height, width = picture.shape[:2]
    # In the map's proportions: its edges are equally soft along both of its sides.
    rows, columns = (
        min(side, round(WORK * small)) for side, small in zip((height, width), values.shape)
    )
    size = (columns, rows)
    guide = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    coarse = cv2.resize(values, size)
    sure = cv2.resize(confidence(values), size)
    coarse, sure, around = (
        cv2.copyMakeBorder(plane, REACH, REACH, REACH, REACH, borderType=cv2.BORDER_REPLICATE)
        for plane in (coarse, sure, guide)
    )
    total, weights = np.zeros(size[::-1], np.float32), np.full(size[::-1], 1e-12, np.float32)
    for down in range(-REACH, REACH + 1, STEP):
        for right in range(-REACH, REACH + 1, STEP):
            top, left = REACH + down, REACH + right
            part = (slice(top, top + size[1]), slice(left, left + size[0]))
            unlike = cv2.subtract(around[part], guide)
            unlike = cv2.transform(unlike * unlike, np.ones((1, 3), np.float32))
            weight = cv2.exp(
                unlike * np.float32(-0.5 / LIKENESS**2)
                - np.float32(0.5 * (down**2 + right**2) / NEARNESS**2)
            )
            weight *= sure[part]
            weights += weight
            total += weight * coarse[part]
    return cv2.resize(total / weights, (width, height)).clip(values.min(), values.max())


def confidence(values: np.ndarray) -> np.ndarray:
    """How reliable each value of a map (h, w) is, in (0, 1]: little where its neighbours differ."""
    values = values / max(float(np.ptp(values)), 1e-12)
    window = np.ones((5, 5), np.uint8)
    steps = cv2.dilate(values, window) - cv2.erode(values, window)
    return np.asarray(1 / (1 + (steps / SLOPE) ** 2) ** 2, np.float32)
