"""What people look at: colour maps, maps of errors, panels of training, small copies, words."""

import io

import cv2
import numpy as np
from PIL import Image, ImageCms

ERROR_GAIN = 10  # yellow from a tenth of white


def colour_map(values):
    """Paint a map of numbers, dark blue for 0 to yellow for 1.

    Args:
        values: (H, W) float in [0, 1].
    Returns:
        (H, W, 3) uint8 RGB.
    """
    levels = np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def error_map(fused, answer):
    """Paint the absolute error, ERROR_GAIN times: yellow from 25.5 grey levels of 255.

    Args:
        fused, answer: (H, W) luma or (H, W, 3) RGB, float in [0, 1]; of RGB the mean error.
    Returns:
        (H, W, 3) uint8 RGB.
    """
    error = np.abs(fused - answer)
    return colour_map((error.mean(2) if error.ndim == 3 else error) * ERROR_GAIN)


def in_bytes(values):
    """(H, W) or (H, W, 3) float in [0, 1] as (H, W, 3) uint8."""
    levels = np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=2)


def training_panel(stack, fused, answer, weights=None, most_frames=8):
    """One picture of what the network made of a stack: its frames, then fused, answer and error.

    Args:
        stack: (N, H, W) luma or (N, H, W, 3) RGB, float in [0, 1]; fused and answer: (H, W) or
            (H, W, 3).
        weights: (N, H, W) of the frames, for the focus map, or None.
        most_frames: of longer stacks this many are shown, evenly spaced, the ends included.
    Returns:
        (2 H, K W, 3) uint8 RGB: above the frames; below the fused picture, the answer, the error
        (yellow from 25 grey levels) and, where there are weights, the expected frame.
    """
    n_frames, height, width = stack.shape[:3]
    shown = np.unique(np.linspace(0, n_frames - 1, min(n_frames, most_frames)).round().astype(int))
    above = [in_bytes(stack[index]) for index in shown]
    below = [in_bytes(fused), in_bytes(answer), error_map(fused, answer)]
    if weights is not None:
        frames = np.arange(n_frames, dtype=np.float32).reshape(-1, 1, 1)
        below.append(colour_map((weights * frames).sum(0) / (n_frames - 1)))
    columns = max(len(above), len(below))
    blank = np.zeros((height, width, 3), np.uint8)
    rows = [row + [blank] * (columns - len(row)) for row in (above, below)]
    return np.vstack([np.hstack(row) for row in rows])


def reduced(picture, side, profile=None):
    """A small copy of a picture for screens.

    Args:
        picture: (H, W, C) uint8 or uint16, C as in images/formats.py; alpha is left out.
        side: longest one of the copy, px; smaller pictures keep their size.
        profile: ICC profile of the picture as bytes, or None for sRGB.
    Returns:
        (h, w, 3) uint8 sRGB.
    """
    height, width = picture.shape[:2]
    colours = 1 if picture.shape[2] <= 2 else 3
    scale = side / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    picture = picture.reshape(*picture.shape[:2], -1)[..., :colours]
    if picture.dtype == np.uint16:
        picture = np.round(picture / np.float32(257)).astype(np.uint8)
    if profile is not None:
        picture = _to_srgb(picture, profile)
    return np.array(np.broadcast_to(picture, (*picture.shape[:2], 3)))  # never the picture itself


def _to_srgb(picture, profile):
    """(H, W, 1 or 3) uint8 in the colours of a profile as sRGB; as it is where that fails."""
    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(
            image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):  # broken, or of other colours: a preview may be off
        return picture
    return np.asarray(converted)


def text_width(text, size):
    """Width of a line in `draw_text`, px."""
    return cv2.getTextSize((0, 0), text, (0, 0), cv2.FontFace("sans"), size, 400)[2]


def draw_text(picture, text, left, baseline, size, colour):
    """Write a line into a picture, (H, W, 3) uint8, in place.

    Args:
        left, baseline: where its first letter stands, px.
        size: of the letters, px.
        colour: (R, G, B) of 0 to 255.
    """
    font = cv2.FontFace("sans")
    cv2.putText(picture, text, (round(left), round(baseline)), colour, font, size, 400)
