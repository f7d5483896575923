"""The terms of the training loss and their weighted sum.

Every term is a function (output, batch) -> scalar float32 tensor, where

    output: {"fused": (B, C, H, W), "weights": (B, N, H, W) or None,
             "logits": (B, N, H, W) or None}
    batch:  {"stack": (B, C, N, H, W), "answer": (B, C, H, W)}, float32 in [0, 1]

C is 1 for luma, 3 for RGB. A new term is one function and one line in TERMS.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from stackmff.images.colour import LUMA
from stackmff.images.tensors import weighted_sum
from stackmff.own import add_own, function

SSIM_WINDOW = 11  # pixels
SSIM_SIGMA = 1.5  # pixels
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2
FREQUENCY_WINDOW = 11  # pixels
LOG_MSE_FLOOR = 1e-5
LABEL_TOLERANCE = 3 / 255  # an error of three grey levels makes a frame e times less likely
HAZE_SIDE = 8  # pixels
SMALL = 0.2  # least difference of a small thing from what is around it, and its change with focus
SMALL_SIDE = 25  # px, more than it measures, odd
SMALL_PIXELS = 10  # of small things in a picture, which count half
DETAIL_SIDE = 5  # px, whose mean is no detail
STRENGTH_SIDE = 9  # px, over which the strength of detail is measured
FAINT = 0.012  # local deviation of the luma below which detail does not count for more
LEAST_TEXTURE = 0.002  # local deviation of the luma that nobody sees, half a grey level
BANDS = 3  # of texture
DARK, DARK_COUNTS = 0.1, 4.0  # texture counts DARK_COUNTS times in black, half of it at luma DARK

Output = Mapping[str, Any]  # of a network
Batch = Mapping[str, Any]


def _windowed_sum(pictures: torch.Tensor, profile: torch.Tensor) -> torch.Tensor:
    """Sum under a separable window around every pixel, with zeros outside the picture.

    Computed as products with two banded matrices, which for a few channels costs a tenth of
    convolutions.

    Args:
        pictures: (B, C, H, W).
        profile: (K,) window along each side, K odd.
    Returns:
        (B, C, H, W).
    """
    height, width = pictures.shape[-2:]
    return _band(height, profile) @ pictures @ _band(width, profile).T


def _band(side: int, profile: torch.Tensor) -> torch.Tensor:
    """(side, side) matrix whose product with a column of pixels is their sum under `profile`."""
    place = torch.arange(side, device=profile.device)
    offset = place - place[:, None] + len(profile) // 2
    inside = (offset >= 0) & (offset < len(profile))
    return torch.where(inside, profile[offset.clamp(0, len(profile) - 1)], 0)


def ssim(picture: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    """Mean structural similarity of pictures, per plane, differentiable.

    Args:
        picture, answer: (B, C, H, W) float32 in [0, 1].
    Returns:
        Scalar; 1 for equal pictures.
    Source:
        Wang et al., "Image quality assessment: from error visibility to structural similarity",
        IEEE TIP 2004, equation 13, with zeros outside the picture as in the published training.
    """
    offset = torch.arange(SSIM_WINDOW, dtype=picture.dtype, device=picture.device)
    gaussian = torch.exp(-((offset - SSIM_WINDOW // 2) ** 2) / (2 * SSIM_SIGMA**2))
    gaussian = gaussian / gaussian.sum()
    moments = torch.cat([picture, answer, picture**2, answer**2, picture * answer], dim=1)
    mean_p, mean_a, square_p, square_a, product = _windowed_sum(moments, gaussian).chunk(5, dim=1)
    variance_p = square_p - mean_p**2
    variance_a = square_a - mean_a**2
    covariance = product - mean_p * mean_a
    luminance = (2 * mean_p * mean_a + SSIM_C1) / (mean_p**2 + mean_a**2 + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (variance_p + variance_a + SSIM_C2)
    return (luminance * structure).mean()


def _laplacian(picture: torch.Tensor) -> torch.Tensor:
    """4-neighbour Laplacian of (B, C, H, W), zeros outside the picture."""
    padded = functional.pad(picture, (1, 1, 1, 1))
    across = padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
    return across + padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1] - 4 * picture


def _spatial_frequency(picture: torch.Tensor) -> torch.Tensor:
    """Squared differences to the left and upper neighbours of (B, C, H, W), summed over 11x11."""
    padded = functional.pad(picture, (1, 0, 1, 0))
    left, up = padded[..., 1:, :-1], padded[..., :-1, 1:]
    squares = (left - picture) ** 2 + (up - picture) ** 2
    return _windowed_sum(squares, picture.new_ones(FREQUENCY_WINDOW))


def l1_term(output: Output, batch: Batch) -> torch.Tensor:
    """Mean absolute error of the fused picture."""
    return functional.l1_loss(output["fused"], batch["answer"])


def mse_term(output: Output, batch: Batch) -> torch.Tensor:
    """Mean squared error of the fused picture, which PSNR measures."""
    return functional.mse_loss(output["fused"], batch["answer"])


def log_mse_term(output: Output, batch: Batch) -> torch.Tensor:
    """Mean over the samples of log(1 + mean squared error / 1e-5): a negative mean PSNR.

    Squared errors below 1e-5 (50 dB) hardly count.
    """
    errors = (output["fused"] - batch["answer"]).square().mean((1, 2, 3))
    return (errors / LOG_MSE_FLOOR).log1p().mean()


def ssim_term(output: Output, batch: Batch) -> torch.Tensor:
    """1 - SSIM of the fused picture."""
    return 1 - ssim(output["fused"], batch["answer"])


def laplacian_term(output: Output, batch: Batch) -> torch.Tensor:
    """Mean absolute difference of the 4-neighbour Laplacians."""
    return functional.l1_loss(_laplacian(output["fused"]), _laplacian(batch["answer"]))


def spatial_frequency_term(output: Output, batch: Batch) -> torch.Tensor:
    """Mean absolute difference of the local spatial frequencies.

    It is a sum over 121 pixels, not a mean, so its weight counts for much more than it seems.
    Source:
        Li, Kwok and Wang, "Combination of images with diverse focuses using the spatial
        frequency", Information Fusion 2001, without its root, in the form of the published loss.
    """
    return functional.l1_loss(
        _spatial_frequency(output["fused"]), _spatial_frequency(batch["answer"])
    )


def cross_entropy_term(output: Output, batch: Batch) -> torch.Tensor:
    """Cross entropy of the weights of the frames against the frames that are close to the answer.

    The label of frame n at a pixel is the softmax over the frames of
    -(frame - answer)^2 / (3/255)^2, in colour with the mean over the three planes.

    Raises:
        ValueError: the network outputs no weights of the frames.
    """
    if output["logits"] is None:
        raise ValueError(
            "the term cross_entropy needs a network that outputs weights: this one outputs luma"
        )
    error = (batch["stack"] - batch["answer"][:, :, None]) / LABEL_TOLERANCE  # (B, C, N, H, W)
    label = torch.softmax(-(error**2).mean(1), dim=1)
    return -(label * torch.log_softmax(output["logits"], dim=1)).sum(dim=1).mean()


def haze_term(output: Output, batch: Batch) -> torch.Tensor:
    """Mean absolute error of the means over squares of 8 px: of veils, not of detail."""
    error = output["fused"] - batch["answer"]
    return functional.avg_pool2d(error, HAZE_SIDE, ceil_mode=True).abs().mean()


def faint_term(output: Output, batch: Batch) -> torch.Tensor:
    """Error of the luma's detail relative to the detail that is there: faint texture counts.

    Detail is the difference from the mean over DETAIL_SIDE px, and how much of it there is its
    deviation over STRENGTH_SIDE px.
    """
    fused, answer = (_detail(_luma(picture)) for picture in (output["fused"], batch["answer"]))
    there = _mean_over(STRENGTH_SIDE, answer**2).sqrt()
    return ((fused - answer).abs() / (there + FAINT)).mean()


def texture_term(output: Output, batch: Batch) -> torch.Tensor:
    """How far the local strength of the luma's detail is off, as a logarithm.

    An average of frames that are unsure has less detail than each of them, and is seen as a smear;
    the terms above prefer it, since a wrong frame's detail is twice wrong. Here any detail of the
    right strength is right. Of three bands, each of twice the width of the one before, which noise
    hides less. A place counts for more the darker it is, up to four times: there detail is faint to
    every other term, and shows as soon as the picture is brightened.
    """
    fused, answer = (_luma(picture) for picture in (output["fused"], batch["answer"]))
    total = fused.new_zeros(())
    for is_, should in zip(texture_strengths(fused), texture_strengths(answer), strict=True):
        rows, columns = should.shape[-2:]
        brightness = functional.adaptive_avg_pool2d(answer, (rows, columns))
        counts = DARK_COUNTS * DARK / (DARK + brightness)
        total = total + (counts * (is_ - should).abs()).mean() / BANDS
    return total


def texture_strengths(luma: torch.Tensor) -> list[torch.Tensor]:
    """The strength of the BANDS of detail over STRENGTH_SIDE px, of the luma (B, 1, H, W).

    Returns:
        (B, 1, H', W') of each band, binary logarithms; each side a third of that of its band.
    """
    strengths = []
    for band in range(BANDS):
        plane = functional.avg_pool2d(luma, 2**band, ceil_mode=True)
        variance = functional.avg_pool2d(_detail(plane) ** 2, STRENGTH_SIDE, 3, STRENGTH_SIDE // 2)
        strengths.append((variance + LEAST_TEXTURE**2).log2() / 2)
    return strengths


def small_term(output: Output, batch: Batch) -> torch.Tensor:
    """Mean absolute error at small things, few pixels: what is missing or false is seen at once.

    Points of light, specks and hairs stand out, brighter or darker, from all that is within
    SMALL_SIDE px, in the answer or in the fused picture, and differ between the frames: a speck is
    seen in the one frame that has it in focus, and a light behind the blurred edge of a foreground
    shines through it. Few of them count for little.
    """
    lumas = (_luma(picture)[:, 0] for picture in (batch["answer"], output["fused"].detach()))
    stands_out = torch.maximum(*map(_beyond_surroundings, lumas)) > SMALL
    frames = batch["stack"].mean(1)  # (B, N, H, W)
    small = stands_out & (frames.amax(1) - frames.amin(1) > SMALL)
    error = (output["fused"] - batch["answer"]).abs().mean(1)  # (B, H, W)
    return ((error * small).sum((1, 2)) / (small.sum((1, 2)) + SMALL_PIXELS)).mean()


def _beyond_surroundings(luma: torch.Tensor) -> torch.Tensor:
    """By how much places of (B, H, W) exceed, or stay below, what is wider than SMALL_SIDE.

    The larger of the white and the black top-hat transform by a square.
    """

    def widest(plane: torch.Tensor) -> torch.Tensor:
        for side in ((SMALL_SIDE, 1), (1, SMALL_SIDE)):
            plane = functional.max_pool2d(plane, side, 1, (side[0] // 2, side[1] // 2))
        return plane

    opened, closed = widest(-widest(-luma)), -widest(-widest(luma))
    return torch.maximum(luma - opened, closed - luma)


def _luma(picture: torch.Tensor) -> torch.Tensor:
    """The luma (B, 1, H, W) of pictures (B, C, H, W)."""
    return weighted_sum(LUMA, picture[:, :, None]) if picture.shape[1] == 3 else picture


def _detail(luma: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W) without its mean over DETAIL_SIDE px."""
    return luma - _mean_over(DETAIL_SIDE, luma)


def _mean_over(side: int, plane: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W), the mean of a plane over squares of an odd side, of what lies inside of it."""
    return functional.avg_pool2d(plane, side, 1, side // 2, count_include_pad=False)


TERMS: dict[str, Callable[[Output, Batch], torch.Tensor]] = {
    "l1": l1_term,
    "ssim": ssim_term,
    "laplacian": laplacian_term,
    "spatial_frequency": spatial_frequency_term,
    "mse": mse_term,
    "log_mse": log_mse_term,
    "cross_entropy": cross_entropy_term,
    "haze": haze_term,
    "faint": faint_term,
    "texture": texture_term,
    "small": small_term,
}
PUBLISHED_WEIGHTS = {"l1": 0.1, "ssim": 0.7, "laplacian": 0.1, "spatial_frequency": 0.1}
DEFAULT_WEIGHTS = {"l1": 1.0, "ssim": 0.3, "laplacian": 0.5, "log_mse": 0.02}


def weighted_loss(
    output: Output, batch: Batch, weights: Mapping[str, float]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The weighted sum of the terms, always in float32.

    Args:
        output: as from run_network, of any float type.
        batch: the batch that it was made from.
        weights: {name in TERMS: weight}; a term of weight 0 is not computed.
    Returns:
        (total, terms): total a scalar tensor to differentiate, terms {name: its unweighted value
        as a detached scalar tensor}.
    Raises:
        ValueError: a term needs what this network does not output.
    """
    # bfloat16 has 8 bits of mantissa: the variances inside SSIM would be noise in it
    with torch.autocast(output["fused"].device.type, enabled=False):
        output = {key: value if value is None else value.float() for key, value in output.items()}
        values = {name: TERMS[name](output, batch) for name, weight in weights.items() if weight}
        nothing = output["fused"].new_zeros(())
        total = sum((weights[name] * value for name, value in values.items()), nothing)
    return total, {name: value.detach() for name, value in values.items()}


def parse_loss_weights(words: Sequence[str | float]) -> dict[str, float]:
    """Weights of the terms from the words of a command line.

    Args:
        words: four numbers in the published order (l1, ssim, laplacian, spatial_frequency), or
            name=weight pairs of names in TERMS, or of FILE.py:FUNCTION, see stackmff/own.py.
    Returns:
        {name: weight}.
    Raises:
        ValueError: neither of the two, an unknown name, a negative weight or no weight above 0.
        StackError: a file of the user's has no such function.
    """
    form = (
        "give the four weights of "
        + " ".join(PUBLISHED_WEIGHTS)
        + ", or name=weight pairs of "
        + ", ".join(TERMS)
        + " or FILE.py:FUNCTION"
    )
    texts = [str(word) for word in words]
    if any("=" in text for text in texts):
        pairs = [(name, number) for name, _, number in (text.partition("=") for text in texts)]
    elif len(texts) == len(PUBLISHED_WEIGHTS):
        pairs = list(zip(PUBLISHED_WEIGHTS, texts))
    else:
        raise ValueError(f"{len(words)} loss weights without names: {form}")
    weights: dict[str, float] = {}
    for name, number in pairs:
        add_own(TERMS, name, function)
        if name not in TERMS or name in weights:
            what = "is given twice" if name in weights else "is not a loss term"
            raise ValueError(f"{name} {what}: {form}")
        try:
            weights[name] = float(number)
        except ValueError:
            raise ValueError(f"the weight of {name} is {number!r}, no number: {form}") from None
        if not 0 <= weights[name] < float("inf"):
            raise ValueError(f"the weight of {name} is {number}: it must be 0 or more")
    if not any(weights.values()):
        raise ValueError("all loss weights are 0: at least one must be larger")
    return weights
