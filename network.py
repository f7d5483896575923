"""The networks, from the bottom up: blocks, StackMFF, the default StackMix, PyramidMix, loading.

A network takes a luma stack (B, 1, N, H, W) and, if its `colour` is true, the chroma as well. Its
`output` says what it returns: "weights" of the frames (B, N, H, W), or a fused "luma" (B, 1, H, W).
"""

import itertools
import json
import math
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from stackmff.errors import StackError
from stackmff.fusion.coarse_level import DETAILS, LOG_GAIN, REDUCTION
from stackmff.fusion.finish import Finish
from stackmff.fusion.weight_files import SUFFIX, read_safetensors
from stackmff.images.tensors import cut_with_margin, enlarged, luma_and_chroma, pad_to_multiple

# What torch and zipfile raise for files that are damaged or something else.
UNREADABLE = (
    *(RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError),
    *(zipfile.BadZipFile, NotImplementedError),
)

Config = dict[str, Any]  # {"network": name, option: value, ...}


class ConvNormReLU3d(nn.Sequential):
    """3x3x3 convolution with bias, batch norm, ReLU: (B, C, N, H, W) to (B, C', N, H, W)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(nn.Conv3d(c_in, c_out, 3, padding=1), nn.BatchNorm3d(c_out), nn.ReLU())


class ResidualBlock3d(nn.Module):
    """Two convolutions; the input, through a 1x1x1 one, is added after the second ReLU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1 = ConvNormReLU3d(c_in, c_out)
        self.conv2 = ConvNormReLU3d(c_out, c_out)
        self.residual_upsampler = nn.Conv3d(c_in, c_out, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.conv1(x)) + self.residual_upsampler(x)


class Upsample3d(nn.Module):
    """Doubles height and width by a transposed convolution with ReLU; N stays."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.deconv = nn.Sequential(
            nn.ConvTranspose3d(c_in, c_out, (1, 4, 4), stride=(1, 2, 2), padding=(0, 1, 1)),
            nn.ReLU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.deconv(x)


class CoordinateAttention3d(nn.Module):
    """3D coordinate attention: gates for each frame, row and column, (B, C, N, H, W) to the same.

    Source: Xie et al. 2025 (StackMFF), after coordinate attention (Hou et al., CVPR 2021).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(8, channels // 32)
        self.conv1 = nn.Conv3d(channels, hidden, 1)
        self.bn1 = nn.BatchNorm3d(hidden)
        self.conv_d = nn.Conv3d(hidden, channels, 1)
        self.conv_h = nn.Conv3d(hidden, channels, 1)
        self.conv_w = nn.Conv3d(hidden, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n_frames, height, width = x.shape[2:]
        profiles = torch.cat(
            [
                x.mean((2, 4))[..., None, None],  # (B, C, H, 1, 1)
                x.mean((2, 3))[..., None, None],  # (B, C, W, 1, 1)
                x.mean((3, 4))[..., None, None],  # (B, C, N, 1, 1)
            ],
            dim=2,
        )
        hidden = F.hardswish(self.bn1(self.conv1(profiles)))  # (B, 8, H+W+N, 1, 1)
        # The published code joins (height, width, frames) but splits by the lengths of (frames,
        # height, width), so each gate sees a shifted part: that of the frames the first N rows, and
        # so on. The released weights were trained with this error and need it.
        d, h, w = hidden.split([n_frames, height, width], dim=2)
        gate_d = self.conv_d(d).sigmoid()  # (B, C, N, 1, 1)
        gate_h = self.conv_h(h.transpose(2, 3)).sigmoid()  # (B, C, 1, H, 1)
        gate_w = self.conv_w(w.transpose(2, 4)).sigmoid()  # (B, C, 1, 1, W)
        return x * gate_d * gate_h * gate_w


class SmoothLayer(nn.Module):
    """3x3 convolution of one channel, batch norm and sigmoid: (B, 1, H, W) to [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.bn = nn.BatchNorm2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)).sigmoid()


class FusionNetwork(nn.Module):
    """What every network here says about itself.

    Attributes:
        output: what it returns, "weights" of the frames or a fused "luma".
        colour: whether it sees chroma besides luma.
        options: {option of its configuration: default}, the arguments of its constructor.
        config: its whole configuration, as `build_network` sets it.
    """

    output: str
    colour: bool
    options: Mapping[str, Any]
    config: Config


class StackMFF(FusionNetwork):
    """The published network: a 3D U-Net that predicts the fused luma itself.

    142.5 thousand multiply-adds per pixel and frame, 6,083,669 parameters.
    Source: Xie et al. 2025, "StackMFF: end-to-end multi-focus image stack fusion network".
    """

    output = "luma"
    colour = False
    options: Mapping[str, Any] = MappingProxyType({})

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool3d((1, 2, 2))  # frames are never pooled
        self.conv_blk1 = ResidualBlock3d(1, 16)
        self.conv_blk2 = ResidualBlock3d(16, 32)
        self.conv_blk3 = ResidualBlock3d(32, 64)
        self.conv_blk4 = ResidualBlock3d(64, 128)
        self.conv_blk5 = ResidualBlock3d(128, 256)
        self.dec_conv_blk4 = ResidualBlock3d(256, 128)
        self.dec_conv_blk3 = ResidualBlock3d(128, 64)
        self.dec_conv_blk2 = ResidualBlock3d(64, 32)
        self.dec_conv_blk1 = ResidualBlock3d(32, 16)
        self.deconv_blk4 = Upsample3d(256, 128)
        self.deconv_blk3 = Upsample3d(128, 64)
        self.deconv_blk2 = Upsample3d(64, 32)
        self.deconv_blk1 = Upsample3d(32, 16)
        self.att = CoordinateAttention3d(16)
        self.one_conv = nn.Conv3d(16, 1, 1)
        self.smooth_layer = SmoothLayer()

    def forward(self, stack: torch.Tensor) -> torch.Tensor:
        """Fuse.

        Args:
            stack: (B, 1, N, H, W) float in [0, 1], any N, H and W.
        Returns:
            (B, 1, H, W) float in [0, 1].
        """
        height, width = stack.shape[-2:]
        x = pad_to_multiple(stack, 16)
        skip1 = self.conv_blk1(x)  # (B, 16, N, H, W)
        skip2 = self.conv_blk2(self.pool(skip1))  # (B, 32, N, H/2, W/2)
        skip3 = self.conv_blk3(self.pool(skip2))  # (B, 64, N, H/4, W/4)
        skip4 = self.conv_blk4(self.pool(skip3))  # (B, 128, N, H/8, W/8)
        x = self.conv_blk5(self.pool(skip4))  # (B, 256, N, H/16, W/16)
        x = self.dec_conv_blk4(torch.cat([self.deconv_blk4(x), skip4], 1))
        x = self.dec_conv_blk3(torch.cat([self.deconv_blk3(x), skip3], 1))
        x = self.dec_conv_blk2(torch.cat([self.deconv_blk2(x), skip2], 1))
        x = self.dec_conv_blk1(torch.cat([self.deconv_blk1(x), skip1], 1))  # (B, 16, N, H, W)
        x = self.one_conv(self.att(x)).amax(2)  # (B, 1, H, W)
        return self.smooth_layer(x)[..., :height, :width]


class ConvNorm3d(nn.Sequential):
    """Bias-free convolution and batch norm; kernel (frames, rows, columns), size kept."""

    def __init__(self, c_in: int, c_out: int, kernel: tuple[int, int, int]) -> None:
        padding = kernel[0] // 2, kernel[1] // 2, kernel[2] // 2
        super().__init__(
            nn.Conv3d(c_in, c_out, kernel, padding=padding, bias=False), nn.BatchNorm3d(c_out)
        )

    def beside(self, x: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
        """The result for x and x - best concatenated, (B, 2C, N, H, W), without concatenating them.

        With d = x - best, w_x x + w_d d = (w_x + w_d) d + w_x best, where `best` has one frame and
        x has N: half of the work. In 16 bits this form keeps the precision of the differences
        between frames, and (w_x + w_d) x - w_d best would not.

        Args:
            x: (B, C, N, H, W); best: (B, C, 1, H, W).
        """
        conv, norm = cast(nn.Conv3d, self[0]), self[1]
        own, difference = conv.weight.chunk(2, dim=1)
        y = F.conv3d(x - best, own + difference, padding=conv.padding)
        return norm(y + F.conv3d(best, own, conv.bias, padding=conv.padding))


class AcrossFrames(nn.Sequential):
    """Bias-free convolution over three frames and batch norm, (B, C, N, H, W) to the same.

    Computed as a 3x1 convolution over (N, H W): in the equivalent 3x1x1 form the bf16 gradient for
    two frames is not finite on a CPU (PyTorch 2.13).
    """

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, (3, 1), padding=(1, 0), bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flatten(3)).unflatten(3, x.shape[3:])


class FactorisedBlock(nn.Module):
    """relu(c(b(a(x))) + skip): convolutions within, across and again within frames.

    (B, C, N, H, W) to (B, C', N, H, W) at 2/5 of the cost of two 3x3x3 convolutions.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.a = ConvNorm3d(c_in, c_out, (1, 3, 3))
        self.b = AcrossFrames(c_out)
        self.c = ConvNorm3d(c_out, c_out, (1, 3, 3))
        self.skip = nn.Identity() if c_in == c_out else ConvNorm3d(c_in, c_out, (1, 1, 1))

    def change(self, y: torch.Tensor) -> torch.Tensor:
        """The result of the convolutions b and c for that of a."""
        return self.c(F.relu(self.b(F.relu(y))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.change(self.a(x)) + self.skip(x))


class BesideBest(FactorisedBlock):
    """A block over x and the difference of each frame from the best one.

    (B, C, N, H, W) to (B, C', N, H, W). The best is the maximum over the frames, at each place and
    in each channel.

    Args:
        c_in, c_out: C and C'.
        identity: add x itself in the end instead of a convolution of both; C' is then C.
    """

    def __init__(self, c_in: int, c_out: int, identity: bool) -> None:
        super().__init__(2 * c_in, c_out)
        self.identity = identity
        if identity:
            self.skip = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        best = x.amax(2, keepdim=True)
        skip = x if self.identity else cast(ConvNorm3d, self.skip).beside(x, best)
        return F.relu(self.change(self.a.beside(x, best)) + skip)


class Joined(nn.Module):
    """relu of a convolution within pixels, (B, C, N, H, W) to (B, C', N, H, W).

    What is left of a FactorisedBlock that only puts two levels together.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.skip = ConvNorm3d(c_in, c_out, (1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.skip(x))


class UpNorm3d(nn.Sequential):
    """Doubles height and width: (B, C, N, H, W) to (B, C', N, 2H, 2W)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(
            nn.ConvTranspose3d(c_in, c_out, (1, 2, 2), stride=(1, 2, 2), bias=False),
            nn.BatchNorm3d(c_out),
            nn.ReLU(),
        )


class EvenTransposed3d(nn.ConvTranspose3d):
    """A transposed convolution with the same weights for the 2x2 px that each pixel becomes.

    Where maps are plain no pattern with a period of 2 px comes in, whatever is learned.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 1, stride=(1, 2, 2), bias=False)

    def forward(self, x: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """(B, C, N, H, W) to (B, C', N, 2H, 2W)."""
        weight = self.weight.expand(-1, -1, 1, 2, 2)
        return F.conv_transpose3d(x, weight, self.bias, self.stride)


class LocalCoordinateAttention3d(nn.Module):
    """3D coordinate attention with means over a window around each place.

    With means over the whole picture, a tile would have other gates than the picture that it is cut
    from. Here every mean is over blocks of 4 and then over `window` blocks, so the gates depend
    only on their neighbourhood, and a tile with a margin agrees with the whole.

    Args:
        channels, hidden: numbers of channels of x and of the shared layer.
        window: side of the window in blocks of 4 positions, odd.
    """

    block = 4

    def __init__(self, channels: int, hidden: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.shared = nn.Conv1d(channels, hidden, 1)
        self.norm = nn.BatchNorm1d(hidden)
        self.gates = nn.ModuleList(nn.Conv3d(hidden, channels, 1) for _ in range(3))

    def window_mean(self, x: torch.Tensor, rows: bool, columns: bool) -> torch.Tensor:
        """Mean over the window along rows, columns or both; these sides shrink to their blocks."""
        planes = x.flatten(1, 2)  # (B, C N, H, W): 3D pooling rejects sides below the window
        planes = F.avg_pool2d(planes, (self.block if rows else 1, self.block if columns else 1))
        kernel = (self.window if rows else 1, self.window if columns else 1)
        padding = (kernel[0] // 2, kernel[1] // 2)
        planes = F.avg_pool2d(planes, kernel, 1, padding, count_include_pad=False)
        return planes.unflatten(1, x.shape[1:3])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, N, H, W), H and W multiples of 4, to the same shape."""
        mean_frame = x.mean(2, keepdim=True)
        profiles = [
            self.window_mean(x, rows=True, columns=True),  # frames: (B, C, N, H/4, W/4)
            self.window_mean(mean_frame, rows=False, columns=True),  # height: (B, C, 1, H, W/4)
            self.window_mean(mean_frame, rows=True, columns=False),  # width: (B, C, 1, H/4, W)
        ]
        # One shared layer and norm for the three, as published; split in the order of joining.
        hidden = torch.cat([profile.flatten(2) for profile in profiles], dim=2)
        hidden = F.hardswish(self.norm(self.shared(hidden)))
        parts = hidden.split([profile[0, 0].numel() for profile in profiles], dim=2)
        for part, profile, gate in zip(parts, profiles, self.gates, strict=True):
            weights = gate(part.unflatten(2, profile.shape[2:])).sigmoid()
            size = (profile.shape[2], *x.shape[3:])
            x = x * F.interpolate(weights, size, mode="trilinear", align_corners=False)
        return x


class StackMix(FusionNetwork):
    """The default network: predicts the weights with which the frames are mixed at each pixel.

    182 thousand parameters and, with eight frames, 2.88 thousand multiply-adds per pixel and frame.
    It works on 4x4 blocks of pixels rearranged into channels, a sixteenth of the positions, without
    losing a sample; the chroma, at half the resolution, in blocks of 2x2.
    All frames are compared with each other twice, before the levels and after them, by their
    difference from the maximum over the frames.

    Args:
        widths: channels of the levels, each at half the resolution of the one before; two to four,
            so that tiles, which start on multiples of 32 px, have the same grids as the whole.
        hidden: channels of the attention's shared layer.
        window: side of the attention's window in blocks of 16 px, odd.
        chroma: channels of the chroma's stem; with 0 the network sees only luma, and misses what
            differs from its background only in colour.
    Raises:
        ValueError: an argument is not such a number.
    """

    output = "weights"
    options: Mapping[str, Any] = MappingProxyType(
        {"widths": (16, 32, 40, 48), "hidden": 8, "window": 5, "chroma": 8}
    )
    unshuffle = 4

    def __init__(self, widths: Sequence[int], hidden: int, window: int, chroma: int) -> None:
        super().__init__()
        fit = all(type(n) is int and n > 0 for n in (*widths, hidden, window))
        if not 2 <= len(widths) <= 4 or not fit or type(chroma) is not int or chroma < 0:
            raise ValueError(
                "widths are two to four whole numbers above 0, hidden and window one each, and "
                "chroma one from 0"
            )
        if window % 2 == 0:
            raise ValueError(f"a window of {window} blocks has no centre: give an odd number")
        narrow, samples = widths[0], self.unshuffle**2
        self.colour = chroma > 0
        self.stem = ConvNorm3d(samples, narrow, (1, 3, 3))
        if self.colour:
            self.chroma_stem = ConvNorm3d(samples // 2, chroma, (1, 3, 3))
        self.pool = nn.MaxPool3d((1, 2, 2))  # frames are never pooled
        first = BesideBest(narrow + chroma, narrow, identity=False)
        others = itertools.pairwise(widths)
        self.encoders = nn.ModuleList([first, *(FactorisedBlock(*pair) for pair in others)])
        self.ups = nn.ModuleList(map(UpNorm3d, widths[1:], widths))
        self.decoders = nn.ModuleList(FactorisedBlock(2 * width, width) for width in widths[:-2])
        self.compare = BesideBest(narrow, narrow, identity=True)
        self.attention = LocalCoordinateAttention3d(narrow, hidden, window)
        self.head = nn.Conv3d(2 * narrow + chroma, samples, (1, 3, 3), padding=(0, 1, 1))
        self.multiple = self.unshuffle * max(2 ** (len(widths) - 1), self.attention.block)

    def blocks(self, planes: torch.Tensor, side: int) -> torch.Tensor:
        """Blocks of side x side samples rearranged into channels, after padding.

        Args:
            planes: (B, C, N, H, W), H and W in samples, `side` of which are 4 px long.
        Returns:
            (B, C side², N, H'/side, W'/side).
        """
        planes = pad_to_multiple(planes, self.multiple * side // self.unshuffle)
        return F.pixel_unshuffle(planes.transpose(1, 2), side).transpose(1, 2)

    def forward(
        self,
        stack: torch.Tensor,
        chroma: torch.Tensor | None = None,
        return_logits: bool = False,
    ) -> torch.Tensor:
        """Weigh the frames.

        Args:
            stack: (B, 1, N, H, W) float luma in [0, 1], in focus order; any N from 1, H and W.
            chroma: (B, 2, N, ceil(H/2), ceil(W/2)) float in [-0.5, 0.5], see `luma_and_chroma`;
                None for grey stacks.
            return_logits: return the logits instead of their softmax, for training.
        Returns:
            (B, N, H, W) float32 weights with sum 1 over N, or logits.
        """
        height, width = stack.shape[-2:]
        stem = self.start(stack, chroma)
        logits = self.unfold(self.head(torch.cat([self.trunk(stem), stem], 1)))
        logits = logits[..., :height, :width].float()
        return logits if return_logits else logits.softmax(1)

    def look(self, stack: torch.Tensor, chroma: torch.Tensor | None) -> list[torch.Tensor]:
        """The stem's features before their ReLU; see `forward`.

        Returns:
            (B, C1, N, H/4, W/4) of the luma and, if it sees chroma, (B, Cc, N, H/4, W/4) of that.
        """
        stem: torch.Tensor = self.stem(self.blocks(stack - 0.5, self.unshuffle))
        if not self.colour:
            return [stem]
        if chroma is None:
            half = (-(-side // 2) for side in stack.shape[-2:])
            chroma = stack.new_zeros(len(stack), 2, stack.shape[2], *half)
        return [stem, self.chroma_stem(self.blocks(chroma, self.unshuffle // 2))]

    def start(self, stack: torch.Tensor, chroma: torch.Tensor | None) -> torch.Tensor:
        """The stem's features after their ReLU, (B, C1 + Cc, N, H/4, W/4); see `forward`."""
        # In an export each ReLU is then part of its convolution.
        return torch.cat([F.relu(part) for part in self.look(stack, chroma)], 1)

    def trunk(self, stem: torch.Tensor) -> torch.Tensor:
        """The features of the levels, (B, C1, N, H/4, W/4), from the stem's after their ReLU."""
        return self.ascend(*self.descend(stem))

    def descend(
        self, stem: torch.Tensor, hint: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All levels but the first.

        Args:
            stem: (B, C1 + Cc, N, H/4, W/4).
            hint: (B, C1, N, H/8, W/8), added to what the second level sees; None for nothing.
        Returns:
            (B, C2, N, H/8, W/8) for the first level, and its own features (B, C1, N, H/4, W/4).
        """
        skips = [self.encoders[0](stem)]  # (B, C1, N, H/4, W/4)
        for encoder in self.encoders[1:]:
            x = self.pool(skips[-1])
            if hint is not None and len(skips) == 1:
                x = x + hint
            skips.append(encoder(x))  # (B, Ck, N, H/(2 2^k), W/(2 2^k))
        x = skips.pop()
        decoders = len(self.decoders)
        if len(self.ups) > max(decoders, 1):
            x = self.ups[-1](x) + skips.pop()  # the coarsest level only corrects the next one
        ups = self.ups[max(decoders - 1, 0) : 0 : -1]
        for up, decoder in zip(ups, self.decoders[:0:-1], strict=True):
            x = decoder(torch.cat([up(x), skips.pop()], 1))
        return x, skips.pop()

    def ascend(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """The features (B, C1, N, H/4, W/4) from what `descend` returns."""
        x = self.ups[0](x)
        x = self.decoders[0](torch.cat([x, skip], 1)) if len(self.decoders) else x + skip
        return self.attention(self.compare(x))  # (B, C1, N, H/4, W/4)

    def unfold(self, blocks: torch.Tensor) -> torch.Tensor:
        """Rearrange the logits of 4x4 px in channels, (B, 16, N, H/4, W/4), to (B, N, H, W)."""
        return F.pixel_shuffle(blocks.transpose(1, 2), self.unshuffle)[:, :, 0]


def evened(weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest head, in least squares, whose 4x4 px blocks cannot be seen in plain places.

    Where its input is the same in all blocks, or rises evenly from one to the next, its output is
    the same in all pixels, or rises evenly.

    Args:
        weight: (16, C, 1, 3, 3) of a convolution whose outputs are the pixels of a block, row by
            row.
        bias: (16,).
    Returns:
        (weight, bias) of the same shapes.
    """
    side = math.isqrt(len(weight))
    step = torch.arange(-1.0, 2.0, device=weight.device)
    phase = (torch.arange(side, device=weight.device) - (side - 1) / 2) / side  # of a block
    total = weight.sum((2, 3, 4))  # (16, C)
    mean = total.mean(0)
    weight = weight + ((mean - total) / 9)[..., None, None, None]
    for ramp, place in (
        (step[:, None].expand(3, 3), phase.repeat_interleave(side)),
        (step.expand(3, 3), phase.repeat(side)),
    ):
        moment = (weight * ramp).sum((2, 3, 4))  # (16, C)
        wanted = moment.mean(0) + mean * place[:, None]
        weight = weight + ((wanted - moment) / 6)[..., None, None, None] * ramp
    return weight, bias.mean().expand(len(bias))


def bilinear(factor: int) -> torch.Tensor:
    """The weights (factor², 1, 1, 3, 3) that enlarge maps by bilinear interpolation.

    Of a convolution whose outputs are the factor x factor pixels of a block, row by row; beyond the
    maps it sees zeros.
    """
    phase = (torch.arange(factor) + 0.5) / factor - 0.5
    place = torch.arange(-1.0, 2.0)
    one = (1 - (phase[:, None] - place).abs()).clamp_min(0)  # (factor, 3)
    both = one[:, None, :, None] * one[:, None]  # (factor, factor, 3, 3)
    return both.reshape(factor**2, 1, 1, 3, 3)


def evened_ups(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of StackMix whose transposed convolutions have become EvenTransposed3d."""
    return {
        name: value.mean((3, 4), keepdim=True)
        if name.startswith("ups.") and value.ndim == 5
        else value
        for name, value in state.items()
    }


class Guide(NamedTuple):
    """What the coarse level of PyramidMix hands down to the fine one.

    The picture is padded at the bottom and on the right to a multiple of 256 px.

    Attributes:
        features: (B, C1, N, H/32, W/32).
        logits: (B, 1, N, H/8, W/8).
    """

    features: torch.Tensor
    logits: torch.Tensor


Hints = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class PyramidMix(FusionNetwork):
    """StackMix twice: on the whole stack at an eighth of its size, then on all of its pixels.

    The coarse level sees 800 px around each place, so that the widest blur lies within, and besides
    the reduced frames how much fine detail each of them had there. Its features and logits guide
    the fine level: they are added where that works at an eighth of the size too, on the way down
    and on the way up, and a gate adds the logits to its own. No pattern of blocks comes in: both
    heads are `evened`, and so is what doubles the size of features, EvenTransposed3d.

    Args:
        widths, hidden, window, chroma: of both levels, see StackMix. The fine one has the first
            three of the widths, if there are four, and at an eighth of the size puts its levels
            together within pixels: what is wider, the guide tells it.
        guide: channels of the layer between the levels.
        finish: channels of the stage beyond the mixture, see fusion/finish.py; 0 for none.
    Raises:
        ValueError: an argument is not such a number.
    """

    output = "weights"
    options: Mapping[str, Any] = MappingProxyType({**StackMix.options, "guide": 32, "finish": 0})
    reduction, step = REDUCTION, 32  # px; tiles start on multiples of the step

    def __init__(self, guide: int, finish: int, **options: Any) -> None:
        super().__init__()
        if type(guide) is not int or guide < 1:
            raise ValueError(f"guide is {guide!r}, not a whole number above 0")
        if type(finish) is not int or finish < 0:
            raise ValueError(f"finish is {finish!r}, not a whole number from 0")
        self.finish = Finish(finish, options["widths"][0]) if finish else None
        self.coarse = StackMix(**options)
        self.fine = StackMix(**{**options, "widths": options["widths"][:3]})
        if len(self.fine.ups) == 2:
            narrow, wide = options["widths"][:2]
            self.fine.decoders.append(Joined(2 * wide, wide))
        self.coarse.multiple = self.fine.multiple = self.step
        for up in (*self.coarse.ups, *self.fine.ups):
            conv = cast(nn.ConvTranspose3d, cast(UpNorm3d, up)[0])
            cast(UpNorm3d, up)[0] = EvenTransposed3d(conv.in_channels, conv.out_channels)
        self.colour = self.fine.colour
        narrow, wide = options["widths"][:2]
        stem = narrow + options["chroma"]
        samples = DETAILS * StackMix.unshuffle**2
        self.detail_stem = nn.Conv3d(samples, stem, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.guide_in = nn.Conv3d(narrow + 2, guide, 1)
        self.guide_out = nn.Conv3d(guide, narrow + wide, 1)
        self.gate = nn.Conv2d(wide, 1, 1)
        self.parts = (narrow, wide)
        self.register_buffer("spread", bilinear(StackMix.unshuffle), persistent=False)
        # Fresh layers change nothing, so that both levels can start from weights of StackMix.
        for layer in (self.detail_stem, self.guide_out, self.gate):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(cast(torch.Tensor, self.guide_out.bias))
        nn.init.constant_(cast(torch.Tensor, self.gate.bias), -3.0)

    def reduced(self, planes: torch.Tensor) -> torch.Tensor:
        """Means of (B, C, N, H, W) over squares of 8 px, sides rounded up."""
        small = F.avg_pool2d(planes.flatten(1, 2), self.reduction, ceil_mode=True)
        return small.unflatten(1, planes.shape[1:3])

    def details(self, stack: torch.Tensor) -> torch.Tensor:
        """How much detail of one, two and four pixels there is in squares of 8 px.

        Args:
            stack: (B, 1, N, H, W) luma.
        Returns:
            (B, DETAILS, N, H/8, W/8), sides rounded up; about [0, 1.5], the logarithm of the mean
            absolute difference from the mean over 3x3.
        """
        planes, side, bands = stack[:, 0], self.reduction, []
        for _ in range(DETAILS):
            mean = F.avg_pool2d(planes, 3, 1, 1, count_include_pad=False)
            energy = F.avg_pool2d((planes - mean).abs(), side, ceil_mode=True)
            bands.append((1 + LOG_GAIN * energy).log2() / 4)
            planes, side = F.avg_pool2d(planes, 2, ceil_mode=True), side // 2
        return torch.stack(bands, 1)

    def look_whole(self, stack: torch.Tensor, chroma: torch.Tensor | None = None) -> Guide:
        """The Guide of whole pictures; arguments as for `forward`."""
        small_chroma = None if chroma is None else self.reduced(chroma)
        return self.guide(self.reduced(stack), small_chroma, self.details(stack))

    def guide(
        self, small: torch.Tensor, small_chroma: torch.Tensor | None, details: torch.Tensor
    ) -> Guide:
        """The Guide of frames that are reduced already: `reduced` luma and chroma, `details`."""
        coarse = self.coarse
        stem = torch.cat(coarse.look(small, small_chroma), 1)
        stem = F.relu(stem + self.detail_stem(coarse.blocks(details, coarse.unshuffle)))
        features = coarse.trunk(stem)
        blocks = self.heads(coarse, torch.cat([features, stem], 1))
        return Guide(features, coarse.unfold(blocks)[:, None])

    def heads(
        self, level: StackMix, x: torch.Tensor, near: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The evened head of a level.

        Args:
            level: of the two.
            x: (B, C, N, H/4, W/4).
            near: (B, 1, N, H/4, W/4), which is enlarged and added; None for nothing.
        Returns:
            (B, 16, N, H/4, W/4).
        """
        weight, bias = evened(level.head.weight, cast(torch.Tensor, level.head.bias))
        if near is not None:  # in one convolution, since sums at full size cost time
            x = torch.cat([x, near.to(x.dtype)], 1)
            weight = torch.cat([weight, cast(torch.Tensor, self.spread)], 1)
        return F.conv3d(x, weight, bias, padding=(0, 1, 1))

    def cut(self, guide: Guide, size: tuple[int, int], place: tuple[int, int] = (0, 0)) -> Guide:
        """The part of a guide that a tile takes, with a margin of 32 px.

        Args:
            guide: of the whole picture.
            size: (height, width) of the tile, px.
            place: (top, left) of the tile in the picture, multiples of 32 px.
        """
        rows, columns = (-(-side // self.step) for side in size)
        parts = []
        for maps in guide:
            each = maps.shape[-2] // guide.features.shape[-2]  # positions along 32 px
            top, left = (each * (at // self.step) for at in place)
            parts.append(cut_with_margin(maps, top, left, each * rows, each * columns, each))
        return Guide(*parts)

    def hints(self, window: Guide) -> Hints:
        """What the guide says of a tile.

        Args:
            window: from `cut`.
        Returns:
            Two tensors (B, C, N, h/8, w/8), for the way down and the way up, and the coarse logits
            (B, 1, N, h/8 + 2, w/8 + 2); h and w are multiples of 32 px.
        """
        features, logits = enlarged(window.features, 4), window.logits.float()
        features = features[..., 4:-4, 4:-4]  # (B, C1, N, h/8, w/8)
        below = (logits - logits.amax(2, keepdim=True))[..., 3:-3, 3:-3]
        inner = below[..., 1:-1, 1:-1]
        seen = torch.cat([features, inner.clamp_min(-20) / 8, inner.softmax(2)], 1)
        down, up = self.guide_out(F.relu(self.guide_in(seen))).split(self.parts, 1)
        return down, up, below

    def near(self, below: torch.Tensor) -> torch.Tensor:
        """Coarse logits (B, 1, N, h/8 + 2, w/8 + 2), enlarged to (B, 1, N, h/4, w/4)."""
        return enlarged(below, 2)[..., 2:-2, 2:-2]

    def weigh(
        self, stack: torch.Tensor, chroma: torch.Tensor | None, hints: Hints
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the fine level says of a tile with its `hints`.

        Args:
            stack, chroma: of the tile, as for `forward`.
            hints: see `hints`.
        Returns:
            The logits (B, N, h, w) float32 and the features (B, C1, N, h'/4, w'/4) that they come
            from, where h' and w' are h and w, rounded up to a multiple of 32 px.
        """
        height, width = stack.shape[-2:]
        blocks, features = self.weigh_blocks(stack, chroma, hints)
        return self.fine.unfold(blocks).float()[..., :height, :width], features

    def weigh_blocks(
        self, stack: torch.Tensor, chroma: torch.Tensor | None, hints: Hints
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `weigh`, but the logits of 4x4 px in channels, (B, 16, N, h'/4, w'/4)."""
        down, up, below = hints
        stem = self.fine.start(stack, chroma)
        x, skip = self.fine.descend(stem, down)
        x = x + up
        gate = F.pad(self.gate(x.mean(2)).sigmoid(), (1, 1, 1, 1), mode="replicate")
        near = self.near(gate[:, :, None] * below)
        features = self.fine.ascend(x, skip)
        return self.heads(self.fine, torch.cat([features, stem], 1), near), features

    def refine(
        self, stack: torch.Tensor, chroma: torch.Tensor | None, window: Guide
    ) -> torch.Tensor:
        """The logits of a tile.

        Args:
            stack, chroma: of the tile, as for `forward`.
            window: the part of the guide that it takes, from `cut`.
        Returns:
            (B, N, h, w) float32.
        """
        return self.weigh(stack, chroma, self.hints(window))[0]

    def refine_and_tell(
        self, stack: torch.Tensor, chroma: torch.Tensor | None, window: Guide
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The weights of a tile, and what the stage beyond the mixture is told, if there is one.

        Args:
            stack, chroma, window: see `refine`.
        Returns:
            (B, N, h, w) float32 and (B, finish, h/4, w/4), see `Finish.tell`.
        """
        assert self.finish is not None
        height, width = stack.shape[-2:]
        blocks, features = self.weigh_blocks(stack, chroma, self.hints(window))
        blocks = blocks.float().softmax(2)  # in blocks it takes a quarter of the time
        near = blocks.mean(1)[..., : -(-height // 4), : -(-width // 4)]
        weights = self.fine.unfold(blocks)[..., :height, :width]
        return weights, self.finish.tell_near(near, features)

    def forward(
        self,
        stack: torch.Tensor,
        chroma: torch.Tensor | None = None,
        return_logits: bool = False,
    ) -> torch.Tensor:
        """Weigh the frames; see `StackMix.forward`."""
        height, width = stack.shape[-2:]
        window = self.cut(self.look_whole(stack, chroma), (height, width))
        logits = self.refine(stack, chroma, window)
        return logits if return_logits else logits.softmax(1)


NETWORKS: dict[str, type[FusionNetwork]] = {
    "StackMix": StackMix,
    "PyramidMix": PyramidMix,
    "StackMFF": StackMFF,
}


def default_config(name: str) -> Config:
    """The configuration of a network of NETWORKS: {"network": name, option: value, ...}."""
    return {"network": name, **NETWORKS[name].options}


def build_network(config: Mapping[str, Any]) -> FusionNetwork:
    """Make the network that a configuration describes, with fresh weights.

    Args:
        config: as from `default_config`; options that are missing have their defaults.
    Returns:
        The network, with the whole configuration in `.config`.
    Raises:
        StackError: an unknown name or option, or a value that does not fit.
    """
    config = dict(config)
    name = config.pop("network", None)
    if name not in NETWORKS:
        raise StackError(f"network {name!r} is unknown: choose from {', '.join(NETWORKS)}")
    options = {**NETWORKS[name].options, **config}
    try:
        network = NETWORKS[name](**options)
    except (TypeError, ValueError) as error:
        raise StackError(f"the configuration does not fit {name}: {error}") from error
    network.config = {"network": name, **options}
    return network


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file.

    Args:
        path: a checkpoint of this program, or a bare state dict of the published network, with or
            without the prefix "module." in its names.
    Returns:
        A dict with at least "config" and "network" (the state dict).
    Raises:
        StackError: there is no such file, or it holds no weights of a network defined here.
    """
    if not Path(path).is_file():
        raise StackError(f"{path} is not a file of weights: give the path of a checkpoint")
    try:
        Path(path).open("rb").close()  # a file that cannot be opened is not cut short
    except OSError as error:
        raise StackError(f"{path} cannot be read: {error.strerror}") from error
    if Path(path).suffix == SUFFIX:
        return read_safetensors(Path(path))
    damaged = f"{path} is not a checkpoint, or it is truncated or damaged: download it again"
    try:
        if zipfile.is_zipfile(path):  # older checkpoints are not
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:  # torch does not compare the check sums
                    raise StackError(damaged)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise StackError(damaged) from error
    if not isinstance(checkpoint, dict) or not checkpoint:
        raise StackError(f"{path} holds no weights: give a checkpoint of {' or '.join(NETWORKS)}")
    if "config" in checkpoint and "network" in checkpoint:
        if checkpoint["config"].get("network") == "StackMix":  # older ones saw only luma
            checkpoint["config"] = {"chroma": 0, **checkpoint["config"]}
        return checkpoint
    state = {str(name).removeprefix("module."): tensor for name, tensor in checkpoint.items()}
    return {"config": default_config("StackMFF"), "network": state}


def load_network(path: str | Path, device: str | torch.device = "cpu") -> FusionNetwork:
    """Rebuild a network from its checkpoint, ready to use.

    Args:
        path: see `load_checkpoint`.
        device: where its weights are to be.
    Returns:
        The network in eval mode with `.config`.
    Raises:
        StackError: as `load_checkpoint`, the weights belong to another network, or are not finite.
    """
    checkpoint = load_checkpoint(path)
    network = build_network(checkpoint["config"])
    try:
        network.load_state_dict(checkpoint["network"])
    except (RuntimeError, TypeError, AttributeError) as error:
        name = network.config["network"]
        raise StackError(
            f"{path} holds weights of another network, or of an older {name}: use the version of "
            "the program that wrote them, or train again"
        ) from error
    values = (tensor for tensor in network.state_dict().values() if tensor.is_floating_point())
    if not all(bool(torch.isfinite(tensor).all()) for tensor in values):
        raise StackError(f"{path} holds weights that are not finite: train again")
    return network.to(device).eval()


def run_network(network: nn.Module, stack: torch.Tensor) -> dict[str, Any]:
    """Run a network for training: the output that the loss terms take.

    Args:
        network: one of NETWORKS, possibly inside DistributedDataParallel.
        stack: (B, C, N, H, W) float in [0, 1], C 1 for luma or 3 for RGB.
    Returns:
        {"fused": (B, C, H, W), "weights" and "logits": (B, N, H, W)}, all float32; for a network
        that outputs luma, fused is (B, 1, H, W) and the others are None.
    """
    bare = getattr(network, "module", network)
    luma, chroma = luma_and_chroma(stack) if stack.shape[1] == 3 else (stack, None)
    if bare.output == "luma":
        return {"fused": network(luma).float(), "weights": None, "logits": None}
    seen = (luma, chroma) if bare.colour else (luma,)
    logits = network(*seen, return_logits=True)
    weights = logits.softmax(1)
    fused = (weights[:, None] * stack).sum(2)
    return {"fused": fused, "weights": weights, "logits": logits}


def config_of(name: str, words: Sequence[str]) -> Config:
    """The configuration of a network from the words of --network_options.

    Args:
        name: one of NETWORKS.
        words: "OPTION=VALUE" each, the value in JSON; options that are not named have defaults.
    Returns:
        As from `default_config`.
    Raises:
        ValueError: a word has another form, or names no option of the network.
    """
    config = default_config(name)
    for word in words:
        option, equals, value = word.partition("=")
        if not equals or option not in config:
            raise ValueError(f"{word!r} is not NAME=VALUE with a name of {', '.join(config)}")
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise ValueError(f"{option}={value!r} is not a JSON value") from None
        config[option] = tuple(value) if isinstance(value, list) else value  # as in checkpoints
    return config
