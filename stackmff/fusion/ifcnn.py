"""IFCNN-MAX, rebuilt so that the weights that its authors publish load unchanged."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from stackmff.errors import StackError
from stackmff.machine import select_device

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
REACH = 5  # px, radius of the receptive field: 3 + 1 + 1
STRIP = 2**19  # pixels per strip: their 64 channels take 128 MiB


class PaddedConvNormReLU(nn.Module):
    """3x3 convolution with replicated edges, batch norm, ReLU: (B, C, H, W) to (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(F.pad(x, (1, 1, 1, 1), mode="replicate"))).relu()


class IFCNN(nn.Module):
    """IFCNN-MAX: features of each frame, their maximum over the frames, back to a picture.

    Frames are processed one by one, so that memory does not grow with their number.

    Source: Zhang et al., "IFCNN: a general image fusion framework based on convolutional neural
    network", Information Fusion 2020.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, bias=False)  # the first layer of a ResNet-101
        self.conv2 = PaddedConvNormReLU(64)
        self.conv3 = PaddedConvNormReLU(64)
        self.conv4 = nn.Conv2d(64, 3, 1)

    def forward(self, frames: Iterable[torch.Tensor]) -> torch.Tensor:
        """N frames (B, 3, H, W), normalised by ImageNet's statistics, to (B, 3, H, W)."""
        strongest: torch.Tensor | None = None
        for frame in frames:
            features = self.conv1(F.pad(frame, (3, 3, 3, 3), mode="replicate"))
            features = self.conv2(features)  # (B, 64, H, W)
            strongest = features if strongest is None else torch.maximum(strongest, features)
        return self.conv4(self.conv3(strongest))


def load_ifcnn(path: str | Path, device: str = "cpu") -> IFCNN:
    """IFCNN-MAX with its authors' weights, in eval mode.

    Args:
        path: their file IFCNN-MAX.pth, a state dict.
        device: see machine.select_device.
    Raises:
        StackError: the file does not exist or holds something else.
    """
    network = IFCNN()
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError as error:
        raise StackError(f"{path} is not a file: give the authors' IFCNN-MAX.pth") from error
    except Exception as error:  # torch.load raises a different class for each kind of damage
        raise StackError(
            f"{path} does not hold the weights of IFCNN-MAX: download the authors' file again"
        ) from error
    return network.to(select_device(str(device))).eval()


def fuse_ifcnn(frames: np.ndarray, network: IFCNN, strip: int = STRIP) -> np.ndarray:
    """Fuse colour frames with IFCNN in strips that overlap by the receptive field: exact.

    Args:
        frames: (N, H, W, 3) uint8 or uint16.
        network: from load_ifcnn.
        strip: approximate number of pixels per strip.
    Returns:
        (H, W, 3) in the dtype of the frames.
    """
    _, height, width, _ = frames.shape
    white = np.iinfo(frames.dtype).max
    device = network.conv4.weight.device
    mean, deviation = (
        torch.tensor(values, device=device).reshape(1, 3, 1, 1)
        for values in (IMAGENET_MEAN, IMAGENET_DEVIATION)
    )

    def prepared(frame: np.ndarray) -> torch.Tensor:
        picture = torch.from_numpy(frame.astype(np.float32)).to(device) / white  # (h, W, 3)
        return (picture.permute(2, 0, 1)[None] - mean) / deviation

    fused = np.empty_like(frames[0])
    rows = max(strip // width, 1)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first, last = max(top - REACH, 0), min(bottom + REACH, height)
        with torch.inference_mode():
            out = network(prepared(frame[first:last]) for frame in frames) * deviation + mean
        out = out[0, :, top - first : bottom - first].permute(1, 2, 0).clamp(0, 1) * white
        fused[top:bottom] = out.round().cpu().numpy().astype(frames.dtype)
    return fused
