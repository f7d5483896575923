"""Scores of a fused picture against its all-in-focus answer.

Every metric is a function (fused, answer, peak) -> float, where

    fused, answer: (H, W) or (H, W, C) of one dtype, integers or floats in [0, peak]
    peak: the value of white, 255 for 8 bit, 65535 for 16 bit, 1 for floats in [0, 1]

Means run over all pixels and channels. A new metric is one function and one line in METRICS, or in
OPTIONAL_METRICS if it needs larger pictures or packages that the program does not: `score` computes
those only on request.
"""

import argparse
import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from skimage.metrics import structural_similarity  # its PSNR would load scipy.stats: a second

from stackmff.evaluation.diagnostics import grid, hazed, psnr_dark, rings, veil
from stackmff.own import add_own, function, is_own

Metric = Callable[[np.ndarray, np.ndarray, float], float]  # (fused, answer, peak) to a score

FLOAT_STEPS = 255  # of the answers that training reads as floats

SSIM_WINDOW = 11  # px: scikit-image's Gaussian of sigma 1.5, truncated at 3.5 sigma
SSIM_K1, SSIM_K2 = 0.01, 0.03  # of SSIM's constants (K white)^2
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, the finest first
MS_SSIM_LEAST = SSIM_WINDOW * 2 ** (len(MS_SSIM_WEIGHTS) - 1)  # px, one window at the last scale
LPIPS_LEAST = 31  # px, the smallest side of which AlexNet's two poolings leave a pixel
LPIPS_PACKAGES = "LPIPS needs torchmetrics and torchvision: pip install torchmetrics torchvision"


def _difference(fused: np.ndarray, answer: np.ndarray, peak: float) -> np.ndarray:
    """fused - answer on the scale where white is 1, float64."""
    difference: np.ndarray = np.asarray(fused, np.float64) - np.asarray(answer, np.float64)
    return difference / peak


def psnr(fused: np.ndarray, answer: np.ndarray, peak: float) -> float:
    """Peak signal to noise ratio in dB, at most that of an answer against its own rounding.

    No error below that of the quantisation can be told, and infinity for equal pictures would ruin
    every mean. So the least mean squared error is step^2 / 12, that of values rounded to steps,
    which gives 58.92 dB for 8 bits and 107.12 dB for 16; floats count as rounded to 8 bits.

    Raises:
        ValueError: the pictures are of different shapes.
    """
    if fused.shape != answer.shape:
        raise ValueError(f"the pictures have shapes {fused.shape} and {answer.shape}")
    step = 1 / (peak if peak > 1 else FLOAT_STEPS)
    is_single = fused.dtype == answer.dtype == np.float32
    kind = np.float32 if is_single else np.float64
    error = np.mean((np.asarray(answer, kind) - np.asarray(fused, kind)) ** 2, dtype=np.float64)
    with np.errstate(divide="ignore"):
        found = float(10 * np.log10(float(peak) ** 2 / error))
    return min(found, float(10 * np.log10(12 / step**2)))


def ssim(fused: np.ndarray, answer: np.ndarray, peak: float) -> float:
    """Mean structural similarity with a Gaussian window, averaged over the channels too.

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


def mse(fused: np.ndarray, answer: np.ndarray, peak: float) -> float:
    """Mean squared error, on the scale where white is 1."""
    return float(np.mean(_difference(fused, answer, peak) ** 2))


def mae(fused: np.ndarray, answer: np.ndarray, peak: float) -> float:
    """Mean absolute error, on the scale where white is 1."""
    return float(np.mean(np.abs(_difference(fused, answer, peak))))


def rmse(fused: np.ndarray, answer: np.ndarray, peak: float) -> float:
    """Root mean square error, on the scale where white is 1."""
    return float(np.sqrt(mse(fused, answer, peak)))


def log_rms(fused: np.ndarray, answer: np.ndarray, peak: float) -> float:
    """Root mean square of log(1 + fused) - log(1 + answer), on the scale where white is 1."""
    fused = np.log1p(np.asarray(fused, np.float64) / peak)
    answer = np.log1p(np.asarray(answer, np.float64) / peak)
    return float(np.sqrt(np.mean((fused - answer) ** 2)))


def mae_grey(fused: np.ndarray, answer: np.ndarray, peak: float) -> float:
    """Mean absolute error in grey levels, on the scale where white is 255."""
    return 255 * mae(fused, answer, peak)


def window_means(picture: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Weighted means over all windows that lie wholly inside a picture.

    Args:
        picture: (H, W) or (H, W, C) float64.
        kernel: (n,) weights of rows and columns, sum 1; n odd or even, at most H and W.
    Returns:
        (H - n + 1, W - n + 1[, C]) float64; OpenCV drops C where it is 1.
    """
    n = len(kernel)
    before, after = n // 2, n - 1 - n // 2  # of OpenCV's anchor
    height, width = picture.shape[:2]
    means = cv2.sepFilter2D(picture, cv2.CV_64F, kernel, kernel)
    return means[before : height - after, before : width - after]


def _similarity(fused: np.ndarray, answer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SSIM's two factors in every Gaussian window, for pictures whose white is 1.

    Args:
        fused, answer: (H, W) or (H, W, C) float64.
    Returns:
        (luminance, contrast and structure), maps of the shape of `window_means`.
    """
    kernel = cv2.getGaussianKernel(SSIM_WINDOW, 1.5)
    mean_1, mean_2 = window_means(fused, kernel), window_means(answer, kernel)
    # The sum of the variances and twice the covariance are all that the formula needs.
    power = window_means(fused**2 + answer**2, kernel) - mean_1**2 - mean_2**2
    common = 2 * (window_means(fused * answer, kernel) - mean_1 * mean_2)
    luminance = (2 * mean_1 * mean_2 + SSIM_K1**2) / (mean_1**2 + mean_2**2 + SSIM_K1**2)
    return luminance, (common + SSIM_K2**2) / (power + SSIM_K2**2)


def _halve(picture: np.ndarray) -> np.ndarray:
    """Means of 2x2 pixels; an odd last row or column is dropped."""
    height, width = (side // 2 * 2 for side in picture.shape[:2])
    picture = picture[:height, :width]
    rows = picture[::2] + picture[1::2]
    return (rows[:, ::2] + rows[:, 1::2]) / 4


def ms_ssim(fused: np.ndarray, answer: np.ndarray, peak: float) -> float:
    """Structural similarity over five scales, each half the size of the one before.

    The windows are SSIM's. A scale's mean runs over its windows and channels; a negative mean
    counts as 0, since it is raised to a power.

    Raises:
        ValueError: a side is too short for one window at the last scale.
    Source:
        Wang et al., "Multiscale structural similarity for image quality assessment", Asilomar 2003.
    """
    height, width = fused.shape[:2]
    if min(height, width) < MS_SSIM_LEAST:
        raise ValueError(
            f"a picture of {width}x{height} is smaller than the {MS_SSIM_LEAST}x{MS_SSIM_LEAST} px "
            f"that the {len(MS_SSIM_WEIGHTS)} scales of MS-SSIM need"
        )
    fused, answer = (np.asarray(picture, np.float64) / peak for picture in (fused, answer))
    product = 1.0
    for scale, weight in enumerate(MS_SSIM_WEIGHTS, 1):
        luminance, similarity = _similarity(fused, answer)
        if scale == len(MS_SSIM_WEIGHTS):  # luminance only counts at the coarsest scale
            similarity = luminance * similarity
        product *= max(float(similarity.mean()), 0.0) ** weight
        fused, answer = _halve(fused), _halve(answer)
    return product


@functools.cache
def _lpips_network() -> Any:
    """LPIPS with AlexNet, whose weights torchvision downloads on first use.

    Raises:
        ValueError: a package is missing or does not work.
    """
    try:
        importlib.import_module("torchvision")
        module = importlib.import_module("torchmetrics.image.lpip")
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision and torch mismatch
        raise ValueError(f"{LPIPS_PACKAGES} ({error})") from error
    return module.LearnedPerceptualImagePatchSimilarity(net_type="alex")


def lpips(fused: np.ndarray, answer: np.ndarray, peak: float) -> float:
    """Learned perceptual distance of AlexNet's features: 0 for equal pictures, smaller is better.

    Grey pictures are scored as RGB with three equal channels.

    Raises:
        ValueError: a side is shorter than LPIPS_LEAST, or a package is missing.
    Source:
        Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric",
        CVPR 2018.
    """
    height, width = fused.shape[:2]
    if min(height, width) < LPIPS_LEAST:
        raise ValueError(
            f"a picture of {width}x{height} is smaller than the {LPIPS_LEAST}x{LPIPS_LEAST} px "
            "that AlexNet, the network of LPIPS, needs"
        )
    network = _lpips_network()

    import torch

    tensors = []
    for picture in (fused, answer):
        picture = np.atleast_3d(np.asarray(picture, np.float32)) / peak * 2 - 1
        colour = np.broadcast_to(picture, (height, width, 3)).transpose(2, 0, 1)
        tensors.append(torch.tensor(colour.copy(), dtype=torch.float32)[None])  # (1, 3, H, W)
    with torch.inference_mode():
        return float(network(*tensors))


METRICS: dict[str, Metric] = {
    "PSNR": psnr,
    "SSIM": ssim,
    "MSE": mse,
    "MAE": mae,
    "RMSE": rmse,
    "logRMS": log_rms,
    "MAE_grey": mae_grey,
}

# {name: (function, the sentence that says which packages it needs, "" for none)}
OPTIONAL_METRICS: dict[str, tuple[Metric, str]] = {
    "MS-SSIM": (ms_ssim, ""),
    "LPIPS": (lpips, LPIPS_PACKAGES),
    "PSNR_dark": (psnr_dark, ""),
    "hazed": (hazed, ""),
    "rings": (rings, ""),
    "grid": (grid, ""),
    "veil": (veil, ""),
}


def to_gray(picture: np.ndarray) -> np.ndarray:
    """BT.601 luma of a picture, in its own dtype and rounded like OpenCV's grey.

    Args:
        picture: (H, W), (H, W, 1) or (H, W, 3) RGB; uint8, uint16 or float32.
    Returns:
        (H, W), same dtype.
    """
    if picture.ndim == 2:
        return picture
    if picture.shape[2] == 1:
        return picture[..., 0]
    grey: np.ndarray = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
    return grey


def own_metric(what: Any, word: str) -> tuple[Metric, str]:
    """The line of a function of the user's."""
    return function(what, word), ""


def metric_name(word: str) -> str:
    """An argparse type: a name in OPTIONAL_METRICS, or FILE.py:FUNCTION."""
    if word not in OPTIONAL_METRICS and not is_own(word):
        raise argparse.ArgumentTypeError(
            f"invalid choice: {word!r} (choose from {', '.join(OPTIONAL_METRICS)}, or give "
            "FILE.py:FUNCTION)"
        )
    return word


def score(
    fused: np.ndarray,
    answer: np.ndarray,
    peak: float,
    gray: bool = False,
    optional: Sequence[str] = (),
) -> dict[str, float]:
    """Every metric of one picture, and the requested ones of OPTIONAL_METRICS.

    Args:
        fused, answer: (H, W) or (H, W, C) of one shape and dtype, values in [0, peak].
        peak: the value of white.
        gray: score the luma instead of the colours.
        optional: names in OPTIONAL_METRICS, or FILE.py:FUNCTION, see own.py.
    Returns:
        {name: float}, those of METRICS first.
    Raises:
        ValueError: the two differ in shape or dtype or are smaller than the windows of SSIM or of
            an optional metric, a metric is unknown, or a package that it needs is missing.
        StackError: a file of the user's has no such function.
    """
    for name in optional:  # in each process that scores
        add_own(OPTIONAL_METRICS, name, own_metric)
    if unknown := set(optional) - set(OPTIONAL_METRICS):
        raise ValueError(
            f"{min(unknown)} is not a metric: choose from {', '.join(OPTIONAL_METRICS)}"
        )
    if fused.shape != answer.shape or fused.dtype != answer.dtype:
        raise ValueError(
            f"the picture is {fused.shape} {fused.dtype}, its answer {answer.shape} {answer.dtype}"
        )
    if gray:
        fused, answer = to_gray(fused), to_gray(answer)
    metrics = METRICS | {name: OPTIONAL_METRICS[name][0] for name in optional}
    return {name: metric(fused, answer, peak) for name, metric in metrics.items()}
