"""Colour: luma and chroma of frames, the sRGB curve, ICC profiles."""

import functools
import io
import struct
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageCms

# Luma, and Cb and Cr, of red, green and blue. ITU-R Recommendation BT.601.
LUMA = (0.299, 0.587, 0.114)
CHROMA = ((-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
BAND = 32  # rows, an even number


def luma(pictures: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Gamma-coded BT.601 luma; grey is passed through, alpha is ignored.

    Args:
        pictures: (..., H, W, C) uint8 or uint16, C as in images/formats.py.
        out: (..., H, W) float32 array to fill, its rows contiguous; None: a new one.
    Returns:
        (..., H, W) float32 in [0, 1].
    Source: ITU-R Recommendation BT.601.
    """
    scale = 1 / np.iinfo(pictures.dtype).max
    if out is None:
        out = np.empty(pictures.shape[:-1], np.float32)
    if pictures.shape[-1] <= 2:
        return np.multiply(pictures[..., 0], np.float32(scale), out=out)
    matrix = np.array([LUMA], np.float32) * np.float32(scale)
    height, width = pictures.shape[-3:-1]
    values = np.empty((min(BAND, height), width, 3), np.float32)
    for index in np.ndindex(pictures.shape[:-3]):
        for rows in _bands(height):
            part, band = out[*index, rows], values[: min(rows.stop, height) - rows.start]
            np.copyto(band, pictures[*index, rows, :, :3])
            cv2.transform(band, matrix, part)
            # The rounded factors may sum to just over 1.
            cv2.threshold(part, 1, 1, cv2.THRESH_TRUNC, part)
    return out


def _bands(height: int) -> list[slice]:
    """Slices of a few rows each, so that intermediate values stay in the processor's cache."""
    return [slice(start, min(start + BAND, height)) for start in range(0, height, BAND)]


def chroma(frames: np.ndarray) -> np.ndarray:
    """Gamma-coded Cb and Cr at half the resolution, averaged over 2x2 px; alpha is ignored.

    Args:
        frames: (N, H, W, C) uint8 or uint16, C as in images/formats.py.
    Returns:
        (2, N, ceil(H/2), ceil(W/2)) float32 in [-0.5, 0.5], 0 for grey.
    Source: ITU-R Recommendation BT.601.
    """
    count, height, width, channels = frames.shape
    out = np.zeros((2, count, -(-height // 2), -(-width // 2)), np.float32)
    if channels <= 2:
        return out
    matrices = np.array(CHROMA, np.float32)[:, None] / np.float32(np.iinfo(frames.dtype).max)
    values = np.empty((BAND // 2, out.shape[3], 3), np.float32)
    for k, frame in enumerate(frames):
        for rows in _bands(height):
            band = frame[rows, :, :3]
            if len(band) % 2 or width % 2:  # the mean of a single row is that row
                odd = 0, len(band) % 2, 0, width % 2
                band = cv2.copyMakeBorder(band, *odd, cv2.BORDER_REPLICATE)
            half = slice(rows.start // 2, -(-rows.stop // 2))
            size = band.shape[1] // 2, band.shape[0] // 2
            small = values[: size[1]]
            np.copyto(small, cv2.resize(band, size, interpolation=cv2.INTER_AREA))
            for plane, matrix in zip(out[:, k, half], matrices, strict=True):
                cv2.transform(small, matrix, plane)
    return out


def to_linear(coded: Any, where: Callable[..., Any] = np.where) -> Any:
    """Linear light of sRGB-coded values.

    Args:
        coded: floats in [0, 1], any shape; an array, or a tensor of torch.
        where: `numpy.where` or `torch.where`, whichever is for `coded`.
    Returns:
        Linear light in [0, 1], of the same kind, shape and dtype.
    Source: IEC 61966-2-1.
    """
    return where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: Any, where: Callable[..., Any] = np.where) -> Any:
    """Linear light in [0, 1] to sRGB-coded values; the inverse of `to_linear`."""
    high = 1.055 * linear.clip(0.0031308) ** (1 / 2.4) - 0.055
    return where(linear <= 0.0031308, 12.92 * linear, high)


@functools.cache
def srgb_profile() -> bytes:
    """An ICC profile of sRGB, of about 600 bytes."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # Littlecms writes the time of the call: equal pictures are to be equal files.
    profile[24:36] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    return bytes(profile)


def rgb_by_profile(image: Image.Image, profile: bytes) -> np.ndarray:
    """An image of 8 bits, CMYK, RGB or grey, to (H, W, 3) uint8 in sRGB, by its ICC profile.

    Raises:
        OSError, ValueError, ImageCms.PyCMSError: the profile is damaged or of another colour space.
    """
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    target = ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.profileToProfile(image, source, target, outputMode="RGB"))
