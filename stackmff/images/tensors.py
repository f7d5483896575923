"""Stacks as tensors of torch: luma and chroma, padding, enlarging, cutting, blurring."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from stackmff.images.colour import CHROMA, LUMA


def luma_and_chroma(stack: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a network sees of stacks in colour: `luma` and `chroma` of images/colour.py in torch.

    Args:
        stack: (B, 3, N, H, W) float RGB in [0, 1].
    Returns:
        (luma, chroma): (B, 1, N, H, W) in [0, 1] and (B, 2, N, ceil(H/2), ceil(W/2)), Cb and Cr in
        [-0.5, 0.5] as means over 2x2 px.
    """
    # As sums, since autocast would compute products of matrices in 16 bits.
    luma = weighted_sum(LUMA, stack)  # (B, N, H, W)
    small = F.avg_pool2d(stack.flatten(1, 2), 2, ceil_mode=True).unflatten(1, stack.shape[1:3])
    return luma[:, None], torch.stack([weighted_sum(row, small) for row in CHROMA], 1)


def weighted_sum(weights: Sequence[float], stack: torch.Tensor) -> torch.Tensor:
    """The weighted sum (B, N, H, W) of the planes of a stack (B, C, N, H, W)."""
    total = torch.zeros_like(stack[:, 0])
    for weight, plane in zip(weights, stack.unbind(1)):
        total = total + weight * plane
    return total


def pad_to_multiple(stack: torch.Tensor, multiple: int) -> torch.Tensor:
    """Pad height and width at the bottom and on the right to a multiple; N stays.

    Pads by reflection without the edge, or by replication if a side is too short to reflect.

    Args:
        stack: (B, C, N, H, W), any range.
        multiple: of which both sides are to be, px.
    Returns:
        (B, C, N, H', W').
    """
    if torch.compiler.is_exporting():  # a branch on a size would hold for the size of the trace
        rows, columns = (padded(side, multiple, stack.device) for side in stack.shape[-2:])
        return stack.index_select(-2, rows).index_select(-1, columns)
    frames = stack.flatten(1, 2)  # (B, C N, H, W), since 3D padding has no reflection
    height, width = frames.shape[-2:]
    down, right = -height % multiple, -width % multiple
    if down:
        frames = F.pad(frames, (0, 0, 0, down), mode="reflect" if down < height else "replicate")
    if right:
        frames = F.pad(frames, (0, right, 0, 0), mode="reflect" if right < width else "replicate")
    return frames.unflatten(1, stack.shape[1:3])


def padded(side: int, multiple: int, device: torch.device) -> torch.Tensor:
    """Which pixel each one of a padded side is, (S,) int64; see `pad_to_multiple`.

    No value of `side` makes a branch, and S is a product, so that torch.export knows what divides
    it.
    """
    places = torch.arange(multiple * ((side + multiple - 1) // multiple), device=device)
    reflected = (side - 1) - (places - (side - 1)).abs()
    is_short = (reflected < 0).any()
    return torch.where(is_short, places.clamp(max=side - 1), reflected)


def enlarged(maps: torch.Tensor, factor: int) -> torch.Tensor:
    """Enlarge (B, C, N, h, w) to (B, C, N, factor h, factor w) by bilinear interpolation."""
    grown = F.interpolate(
        maps.flatten(1, 2), scale_factor=factor, mode="bilinear", align_corners=False
    )
    return grown.unflatten(1, maps.shape[1:3])


def cut_with_margin(
    maps: torch.Tensor, top: int, left: int, height: int, width: int, margin: int
) -> torch.Tensor:
    """Cut a window and a margin around it; beyond the maps their edge is repeated.

    Args:
        maps: (B, C, N, H, W).
        top, left, height, width: of the window, in positions of the maps.
        margin: on each side, the same.
    Returns:
        (B, C, N, height + 2 margin, width + 2 margin).
    """
    rows = torch.arange(top - margin, top + height + margin, device=maps.device)
    columns = torch.arange(left - margin, left + width + margin, device=maps.device)
    rows = rows.clamp(0, maps.shape[-2] - 1)
    columns = columns.clamp(0, maps.shape[-1] - 1)
    return maps.index_select(-2, rows).index_select(-1, columns)


def gaussian(planes: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur (B, C, H, W) by a Gaussian of `sigma` px, cut at 2.5 sigma, edges repeated."""
    reach = int(2.5 * sigma + 0.5)
    steps = torch.arange(-reach, reach + 1.0, device=planes.device)
    taps = torch.exp(-((steps / sigma) ** 2) / 2)
    weights = (taps / taps.sum()).tolist()
    for axis in (-2, -1):
        ends = (0, 0, reach, reach) if axis == -2 else (reach, reach, 0, 0)
        wide, side = F.pad(planes, ends, mode="replicate"), planes.shape[axis]
        planes = torch.zeros_like(planes)
        for k, weight in enumerate(weights):
            planes = planes + weight * wide.narrow(axis, k, side)
    return planes
