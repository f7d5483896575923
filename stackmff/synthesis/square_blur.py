"""Blur by squares of any size that differ from place to place, and pictures of twice the size."""

import cv2
import numpy as np

LINEAR_VARIANCE = 1 / 6  # px^2 per axis that linear interpolation adds, mean over all places
LARGE_VARIANCE = 1.5**2 / 12  # px^2 per axis of a square from which on evenness counts more
# Deviations squared of the squares between whose blurs those of a slanted surface are interpolated.
LEVELS = tuple(d**2 for d in (0.25, 0.5, 1, 1.5, 2, 2.6, 3.4, 4.4, 5.7, 7.4, 9.6, 12.5, 16))
# Half way between two pixels, Lanczos of eight.
HALF_WAY = np.sinc(np.arange(8) - 3.5) * np.sinc((np.arange(8) - 3.5) / 4)
HALF_WAY = (HALF_WAY / HALF_WAY.sum()).astype(np.float32)


def box_kernel(variance: float) -> np.ndarray:
    """The weights of a line of pixels under a square.

    Small squares keep their variance, since even half a pixel of blur counts. Large ones are as
    linear interpolation sees them, so that squares side by side add up to an even area; that adds
    LINEAR_VARIANCE.

    Args:
        variance: of the square along one axis, side^2 / 12, px^2.
    Returns:
        (S,) float32 with sum 1, S odd.
    """
    if variance < LARGE_VARIANCE:
        ends = variance / (2 * (1 - variance))
        kernel = np.array([ends, 1, ends])
    else:
        half = np.sqrt(12 * variance) / 2
        places = np.arange(-np.ceil(half) - 1, np.ceil(half) + 2)
        upper, lower = (_integral_of_tent(places + end) for end in (half, -half))
        kernel = upper - lower
    weights: np.ndarray = (kernel / kernel.sum()).astype(np.float32)
    return weights


def _integral_of_tent(end: np.ndarray) -> np.ndarray:
    """The area under max(1 - |x|, 0) to the left of `end`, any shape."""
    end = end.clip(-1, 1)
    area: np.ndarray = 0.5 + end - np.abs(end) * end / 2
    return area


def box_blur(picture: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Blur a picture by squares that may differ from place to place.

    Args:
        picture: (H, W, C) float32.
        variance: (H, W) float32, as for `box_kernel`. Between a few values blurred pictures are
            interpolated linearly, which keeps the variance.
    Returns:
        (H, W, C) float32.
    """
    low, high = float(variance.min()), float(variance.max())
    if high - low < 1e-3:
        return _boxed(picture, high)
    levels = [low, *(level for level in LEVELS if low < level < high), high]
    result = np.zeros_like(picture)
    for k, level in enumerate(levels):
        share = np.ones_like(variance)
        if k:
            share = np.minimum(share, (variance - levels[k - 1]) / (level - levels[k - 1]))
        if k + 1 < len(levels):
            share = np.minimum(share, (levels[k + 1] - variance) / (levels[k + 1] - level))
        result += _boxed(picture, level) * share.clip(0, 1)[..., None]
    return result


def _boxed(picture: np.ndarray, variance: float) -> np.ndarray:
    """A picture (H, W, C) blurred by one square."""
    if variance < 1e-3:
        return picture
    kernel = box_kernel(variance)
    return cv2.sepFilter2D(picture, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)


def doubled(picture: np.ndarray) -> np.ndarray:
    """A picture with a pixel between each two; the old ones keep their values, at even places.

    Args:
        picture: (H, W, C) float32, not negative.
    Returns:
        (2 H, 2 W, C) float32, not negative.
    """
    height, width, channels = picture.shape
    out = np.empty((2 * height, 2 * width, channels), np.float32)
    one, border = np.ones(1, np.float32), cv2.BORDER_REPLICATE
    rows = np.empty((2 * height, width, channels), np.float32)
    rows[::2] = picture
    rows[1::2] = cv2.sepFilter2D(picture, -1, one, HALF_WAY, anchor=(0, 3), borderType=border)
    out[:, ::2] = rows
    out[:, 1::2] = cv2.sepFilter2D(rows, -1, HALF_WAY, one, anchor=(3, 0), borderType=border)
    return np.maximum(out, 0, out=out)
