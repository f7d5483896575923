"""Scores of a fused picture against its all-in-focus answer.

Every metric is a function (fused, answer, peak) -> float, where

    fused, answer: (H, W) or (H, W, C) of one dtype, integers or floats in [0, peak]
    peak: the value of white, 255 for 8 bit, 65535 for 16 bit, 1 for floats in [0, 1]

Means run over all pixels and channels. A new metric is one function and one line in METRICS.
"""

import cv2
import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

SSIM_WINDOW = 11  # pixels: scikit-image's Gaussian of sigma 1.5, cut at 3.5 sigma


def _difference(fused, answer, peak):
    """fused - answer on the scale where white is 1, float64."""
    return (np.asarray(fused, np.float64) - np.asarray(answer, np.float64)) / peak


def psnr(fused, answer, peak):
    """Peak signal to noise ratio in dB; infinite for equal pictures."""
    with np.errstate(divide="ignore"):
        return float(peak_signal_noise_ratio(answer, fused, data_range=peak))


def ssim(fused, answer, peak):
    """Mean structural similarity with a Gaussian window, over the channels too.

    Raises:
        ValueError: a side is shorter than the window.
    Source:
        Wang et al., "Image quality assessment: from error visibility to structural similarity",
        IEEE TIP 2004.
    """
    if min(fused.shape[:2]) < SSIM_WINDOW:
        height, width = fused.shape[:2]
        raise ValueError(
            f"a picture of {width}x{height} is smaller than the {SSIM_WINDOW}x{SSIM_WINDOW} "
            "window of SSIM"
        )
    return float(
        structural_similarity(
            answer,
            fused,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=peak,
            channel_axis=2 if fused.ndim == 3 else None,
        )
    )


def mse(fused, answer, peak):
    """Mean squared error, white being 1."""
    return float(np.mean(_difference(fused, answer, peak) ** 2))


def mae(fused, answer, peak):
    """Mean absolute error, white being 1."""
    return float(np.mean(np.abs(_difference(fused, answer, peak))))


def rmse(fused, answer, peak):
    """Root of the mean squared error, white being 1."""
    return float(np.sqrt(mse(fused, answer, peak)))


def log_rms(fused, answer, peak):
    """Root mean square of log(1 + fused) - log(1 + answer), white being 1."""
    fused = np.log1p(np.asarray(fused, np.float64) / peak)
    answer = np.log1p(np.asarray(answer, np.float64) / peak)
    return float(np.sqrt(np.mean((fused - answer) ** 2)))


def mae_grey(fused, answer, peak):
    """Mean absolute error in grey levels, white being 255."""
    return 255 * mae(fused, answer, peak)


METRICS = {
    "PSNR": psnr,
    "SSIM": ssim,
    "MSE": mse,
    "MAE": mae,
    "RMSE": rmse,
    "logRMS": log_rms,
    "MAE_grey": mae_grey,
}


def to_gray(picture):
    """BT.601 luma of a colour picture, in its own dtype and rounded like OpenCV's grey.

    Args:
        picture: (H, W), (H, W, 1) or (H, W, 3) RGB; uint8, uint16 or float32.
    Returns:
        (H, W), same dtype.
    """
    if picture.ndim == 2:
        return picture
    if picture.shape[2] == 1:
        return picture[..., 0]
    return cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)


def score(fused, answer, peak, gray=False):
    """Every metric of one picture.

    Args:
        fused, answer: (H, W) or (H, W, C), one shape and dtype, values in [0, peak].
        peak: the value of white.
        gray: score the luma instead of the colours.
    Returns:
        {name in METRICS: float}.
    Raises:
        ValueError: the two differ in shape or dtype, or are smaller than the window of SSIM.
    """
    if fused.shape != answer.shape or fused.dtype != answer.dtype:
        raise ValueError(
            f"the picture is {fused.shape} {fused.dtype}, its answer {answer.shape} {answer.dtype}"
        )
    if gray:
        fused, answer = to_gray(fused), to_gray(answer)
    return {name: metric(fused, answer, peak) for name, metric in METRICS.items()}
