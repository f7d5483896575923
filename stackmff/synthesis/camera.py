"""What a camera adds to frames: noise, compression, flicker and shake."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch

from stackmff.synthesis.refocus import linear_tensor, to_srgb


def redevelop(
    rng: np.random.Generator, frames: np.ndarray, faults: Mapping[str, Any]
) -> np.ndarray:
    """Give frames the faults of a camera, in linear light.

    Args:
        rng: NumPy generator.
        frames: (N, H, W, 3) uint8.
        faults: arguments of `develop`.
    Returns:
        (N, H, W, 3) uint8.
    """
    changed = np.empty_like(frames)
    for k, frame in enumerate(frames):  # one by one: in linear light a stack is four times as large
        changed[k] = develop(rng, linear_tensor(frame)[None], **faults)[0]
    return changed


def add_noise(
    rng: np.random.Generator, linear: np.ndarray, full_well: float, read_noise: float
) -> np.ndarray:
    """Photon and read noise of a sensor.

    Args:
        rng: NumPy generator.
        linear: any shape, linear light, 1 = saturation.
        full_well: electrons at saturation.
        read_noise: standard deviation in electrons.
    Returns:
        The same shape, linear light.
    """
    electrons = rng.poisson(np.clip(linear, 0, 1) * full_well)
    electrons = electrons + rng.normal(0, read_noise, np.shape(linear))
    return (electrons / full_well).astype(np.float32)


def recompress(picture: np.ndarray, quality: int) -> np.ndarray:
    """An (H, W, 3) uint8 picture after JPEG of that quality, 1 to 100."""
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None  # imencode has just written it
    return decoded[..., ::-1]


def develop(
    rng: np.random.Generator,
    linear: torch.Tensor,
    noise: tuple[float, float] | None = None,
    jpeg: int | None = None,
    flicker: float = 0.0,
    shake: float = 0.0,
) -> np.ndarray:
    """Frames in linear light to the 8 bit frames that a camera stores.

    Args:
        rng: NumPy generator.
        linear: (N, 3, H, W) linear light.
        noise: (full well, read noise) in electrons, or None.
        jpeg: quality from 1 to 100, or None.
        flicker: standard deviation of the frames' exposure, as a share.
        shake: standard deviation of each frame's shift, px.
    Returns:
        (N, H, W, 3) uint8.
    """
    frames = []
    for frame in linear:
        pixels = frame.permute(1, 2, 0).cpu().numpy() * (1 + flicker * rng.normal())
        if shake:
            moves = [[1, 0, shake * rng.normal()], [0, 1, shake * rng.normal()]]
            size = pixels.shape[1::-1]
            pixels = cv2.warpAffine(
                pixels,
                np.array(moves, np.float32),
                size,
                flags=cv2.INTER_CUBIC,
                borderMode=cv2.BORDER_REFLECT,
            )
        if noise:
            pixels = add_noise(rng, pixels, *noise)
        coded = to_srgb(torch.from_numpy(pixels)).numpy()
        stored = np.round(255 * coded).astype(np.uint8)
        frames.append(recompress(stored, jpeg) if jpeg else stored)
    return np.stack(frames)


def random_faults(rng: np.random.Generator) -> dict[str, Any]:
    """A camera's faults at random, as arguments of `develop`; half of the scenes have none.

    No shake: where frames are displaced and the answer is not, a mixture of frames is closer to it
    than the sharp frame, and a network learns to blur. training/augmentation.py moves the answer
    along with the frames.
    """
    faults: dict[str, Any] = {}
    if rng.random() < 0.3:
        full_well = float(np.exp(rng.uniform(np.log(400), np.log(20000))))
        faults["noise"] = (full_well, float(rng.uniform(1, 6)))
    if rng.random() < 0.2:
        faults["jpeg"] = int(rng.integers(75, 99))
    if rng.random() < 0.1:
        faults["flicker"] = float(rng.uniform(0, 0.02))
    return faults
