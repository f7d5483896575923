"""What a camera adds: noise, compression, faults."""

import cv2
import numpy as np
import torch

from stackmff.synthesis.refocus import to_srgb


def redevelop(rng, frames, faults):
    """Give frames the faults of a camera, in linear light.

    Args:
        rng: NumPy generator.
        frames: (N, H, W, 3) uint8.
        faults: arguments of `scenes.develop`.
    Returns:
        (N, H, W, 3) uint8.
    """
    import torch

    from stackmff.synthesis.refocus import to_linear

    changed = np.empty_like(frames)
    for k, frame in enumerate(frames):  # one by one: in linear light a stack is four times as large
        linear = to_linear(torch.from_numpy(frame).permute(2, 0, 1).float() / 255)  # (3, H, W)
        changed[k] = develop(rng, linear[None], **faults)[0]
    return changed


def add_noise(rng, linear, full_well, read_noise):
    """Photon and read noise of a sensor.

    Args:
        rng: NumPy generator; linear: any shape, linear light, 1 = saturation.
        full_well: electrons at saturation; read_noise: standard deviation in electrons.
    Returns:
        The same shape, linear light.
    """
    electrons = rng.poisson(np.clip(linear, 0, 1) * full_well)
    electrons = electrons + rng.normal(0, read_noise, np.shape(linear))
    return (electrons / full_well).astype(np.float32)


def recompress(picture, quality):
    """What JPEG of that quality (1 to 100) leaves of an (H, W, 3) uint8 picture."""
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]


def develop(rng, linear, noise=None, jpeg=None, flicker=0.0, shake=0.0):
    """Frames in linear light to the 8-bit frames that a camera stores.

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
            shift = np.float32([[1, 0, shake * rng.normal()], [0, 1, shake * rng.normal()]])
            size = pixels.shape[1::-1]
            pixels = cv2.warpAffine(
                pixels, shift, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
            )
        if noise:
            pixels = add_noise(rng, pixels, *noise)
        coded = to_srgb(torch.from_numpy(pixels)).numpy()
        frame = np.round(255 * coded).astype(np.uint8)
        frames.append(recompress(frame, jpeg) if jpeg else frame)
    return np.stack(frames)


def random_faults(rng):
    """A camera's faults at random, as arguments of `develop`; half of the scenes have none.

    No shake: where frames are out of place and the answer is not, a mixture comes nearer to it than
    the sharp frame, and a network learns to blur. training/augmentation.py moves frames with their answer.
    """
    faults = {}
    if rng.random() < 0.3:
        full_well = float(np.exp(rng.uniform(np.log(400), np.log(20000))))
        faults["noise"] = (full_well, float(rng.uniform(1, 6)))
    if rng.random() < 0.2:
        faults["jpeg"] = int(rng.integers(75, 99))
    if rng.random() < 0.1:
        faults["flicker"] = float(rng.uniform(0, 0.02))
    return faults
