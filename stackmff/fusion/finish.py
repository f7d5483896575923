"""The stage beyond the mixture: what a mixture lacks beside edges, from the frames' own light."""

import torch
import torch.nn.functional as F
from torch import nn

from stackmff.images.tensors import enlarged, gaussian, luma_and_chroma, pad_to_multiple


class Finish(nn.Module):
    """Corrects a mixture with the light of the frames that are mixed there.

    It predicts five coefficients per pixel: for yi - m of the three frames y1 to y3 with the most
    weight nearby, where m is the mixture, and for the finest detail of m and of y1. It sees their
    luma, and the features by which these frames were weighed, which tell how blurred each of them
    is and what lies around. The result is held to the range of the frames in 3x3 px. Before
    training the coefficients are zero.

    Args:
        channels: of its layers, which work on blocks of 2x2 px.
        features: channels of the features of a frame.
    """

    frames, terms = 3, 5
    margin = 32  # px beyond which nothing changes a pixel

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.enter_features = nn.Conv2d(self.frames * features, channels, 1, bias=False)
        self.enter = nn.Conv2d(self.terms + 1, channels, 2, stride=2)
        self.enter_share = nn.Conv2d(self.frames, channels, 1, bias=False)
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=d, dilation=d) for _ in "ab")
            for d in (1, 2)
        )
        self.leave = nn.ConvTranspose2d(channels, self.terms, 4, stride=2)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)
        nn.init.zeros_(self.enter_features.weight)

    def forward(
        self, weights: torch.Tensor, stack: torch.Tensor, told: torch.Tensor
    ) -> torch.Tensor:
        """Mix and correct.

        Args:
            weights: (B, N, H, W), sum 1 over N.
            stack: (B, C, N, H, W) in [0, 1], C 1 or 3.
            told: see `tell`.
        Returns:
            (B, C, H, W) float32 in [0, 1].
        """
        height, width = stack.shape[-2:]
        mixture = (weights[:, None] * stack).sum(2, keepdim=True)  # (B, C, 1, H, W)
        low = -F.max_pool2d(-stack.amin(2), 3, 1, 1)
        high = F.max_pool2d(stack.amax(2), 3, 1, 1)
        share, index = self.heaviest(weights)  # (B, 3, H/2, W/2)
        index = index.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., :height, :width]
        index = index[:, None].expand(-1, stack.shape[1], -1, -1, -1)
        seen = torch.cat([mixture, stack.gather(2, index)], 2)  # (B, C, 4, H, W)
        finest = finest_detail(seen[:, :, :2].flatten(1, 2)).unflatten(1, (-1, 2))
        parts = torch.cat([seen[:, :, 1:] - mixture, finest], 2)  # (B, C, 5, H, W)
        luma = torch.cat([parts, mixture - 0.5], 2)
        luma = luma_and_chroma(luma)[0] if stack.shape[1] == 3 else luma
        luma = pad_to_multiple(luma, 2)[:, 0]
        coefficients = self.coefficients(luma, share, told)[..., :height, :width]
        result = mixture[:, :, 0] + (coefficients[:, None] * parts).sum(2)
        return torch.minimum(torch.maximum(result, low), high)

    def tell(self, weights: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """What the features say of the frames with the most weight around each 4x4 px.

        Args:
            weights: (B, N, H, W).
            features: (B, features, N, H', W'), of squares of 4x4 px, with H' at least H/4.
        Returns:
            (B, channels, H/4, W/4), sides rounded up.
        """
        return self.tell_near(F.avg_pool2d(weights, 4, ceil_mode=True), features)

    def tell_near(self, near: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """As `tell`, for the means of the weights over 4x4 px, (B, N, H/4, W/4)."""
        near = F.avg_pool2d(F.pad(near, (1, 1, 1, 1), mode="replicate"), 3, 1)
        index = self.largest(near)[1].flatten(2)  # (B, 3, P), P positions
        batch, n_frames, height, width = near.shape
        # Rows of the features of a frame at a position, which lie beside each other in exports:
        # OpenVINO takes several times as long to gather single values.
        rows = features[..., :height, :width].permute(0, 2, 3, 4, 1).flatten(0, 3)
        positions = torch.arange(height * width, device=near.device)
        stacks = torch.arange(batch, device=near.device)[:, None, None] * n_frames
        place = (stacks + index) * (height * width) + positions
        picked = rows.index_select(0, place.transpose(1, 2).flatten())
        picked = picked.view(batch, height, width, -1).permute(0, 3, 1, 2)  # (B, 3 C, H/4, W/4)
        weight = self.enter_features.weight.unflatten(1, (-1, self.frames)).transpose(1, 2)
        return F.conv2d(picked, weight.flatten(1, 2))

    def coefficients(
        self, luma: torch.Tensor, share: torch.Tensor, told: torch.Tensor
    ) -> torch.Tensor:
        """What is added of each term.

        Args:
            luma: (B, 6, H, W) of the terms and of the mixture - 0.5, H and W even.
            share: (B, 3, H/2, W/2), see `heaviest`.
            told: (B, channels, H/4, W/4), sides rounded up, see `tell`.
        Returns:
            (B, 5, H, W) float32.
        """
        x = self.enter(luma) + self.enter_share(share)
        told = enlarged(told[:, :, None], 2)[:, :, 0, : x.shape[-2], : x.shape[-1]]
        x = F.relu(x + told)
        for block in self.blocks:
            first, second = block.children()
            x = F.relu(x + second(F.relu(first(x))))
        x = F.pad(x, (1, 1, 1, 1), mode="replicate")
        weight = even_phases(self.leave.weight)
        return F.conv_transpose2d(x, weight, self.leave.bias, stride=2, padding=3).float()

    def heaviest(self, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The three frames with the most weight around each 2x2 px, see `largest`.

        Returns:
            (share, index): (B, 3, H/2, W/2), the weight nearby and the number of the frame.
        """
        return self.largest(gaussian(F.avg_pool2d(weights, 2, ceil_mode=True), 1.25))

    def largest(self, near: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The largest three of N values from 0 and their numbers, the last repeated if N < 3.

        Args:
            near: (B, N, h, w).
        Returns:
            Two tensors (B, 3, h, w).
        """
        none = near.new_full((len(near), self.frames - 1, *near.shape[2:]), -1)
        share, index = torch.cat([near, none], 1).topk(self.frames, dim=1)
        shares, numbers = [share[:, 0]], [index[:, 0]]
        for place in range(1, self.frames):
            there = share[:, place] >= 0
            shares.append(torch.where(there, share[:, place], shares[-1]))
            numbers.append(torch.where(there, index[:, place], numbers[-1]))
        return torch.stack(shares, 1), torch.stack(numbers, 1)


def even_phases(weight: torch.Tensor) -> torch.Tensor:
    """The nearest weights (C, C', 4, 4) of a transposed convolution of stride 2 without a grid.

    Each pixel of its output is a sum over 2x2 of its inputs, with other weights in each pixel of a
    square of 2x2. Where the inputs are plain, so are the outputs if these weights have one sum.
    """
    phases = weight.unflatten(-1, (2, 2)).unflatten(-3, (2, 2))  # (C, C', 2, 2, 2, 2): tap, phase
    sums = phases.sum((-4, -2), keepdim=True)
    even = phases + (sums.mean((-3, -1), keepdim=True) - sums) / 4
    return even.flatten(-2).flatten(-3, -2)


def finest_detail(planes: torch.Tensor) -> torch.Tensor:
    """Planes (B, C, H, W) without their Gaussian of 1 px."""
    return planes - gaussian(planes, 1.0)
