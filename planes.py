"""The planes of frames that networks and measures look at: luma, and chroma beside it."""

import cv2
import numpy as np

# Of red, green and blue: the luma, and Cb and Cr. ITU-R Recommendation BT.601.
LUMA = (0.299, 0.587, 0.114)
CHROMA = ((-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def luma(pictures):
    """Gamma-coded BT.601 luma; grey passes through and alpha is left out.

    Args:
        pictures: (..., C) uint8 or uint16, C as in formats.py.
    Returns:
        (...) float32 in [0, 1].
    Source: ITU-R Recommendation BT.601.
    """
    scale = 1 / np.iinfo(pictures.dtype).max
    if pictures.shape[-1] <= 2:
        return pictures[..., 0] * np.float32(scale)
    matrix = np.float32([LUMA]) * np.float32(scale)
    out = np.empty(pictures.shape[:-1], np.float32)
    for index in np.ndindex(pictures.shape[:-3]):
        cv2.transform(pictures[index][..., :3].astype(np.float32), matrix, out[index])
    return np.minimum(out, 1, out=out)  # the three factors may round to a sum just over 1


def chroma(frames):
    """Gamma-coded Cb and Cr at half the resolution, as means over 2x2 px; alpha is left out.

    Args:
        frames: (N, H, W, C) uint8 or uint16, C as in formats.py.
    Returns:
        (2, N, ceil(H/2), ceil(W/2)) float32 in [-0.5, 0.5], 0 for grey.
    Source: ITU-R Recommendation BT.601.
    """
    count, height, width, channels = frames.shape
    half = -(-height // 2), -(-width // 2)
    out = np.zeros((2, count, *half), np.float32)
    if channels <= 2:
        return out
    matrix = np.float32(CHROMA) / np.float32(np.iinfo(frames.dtype).max)
    for k, frame in enumerate(frames):
        frame = frame[..., :3]
        if height % 2 or width % 2:  # the mean of a lone row is that row
            frame = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        small = cv2.resize(frame, half[::-1], interpolation=cv2.INTER_AREA)
        out[0, k], out[1, k] = cv2.split(cv2.transform(small.astype(np.float32), matrix))
    return out
