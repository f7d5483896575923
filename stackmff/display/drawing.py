"""Drawing for screens: colour maps, error maps, panels of a training run, small copies, text."""

import cv2
import numpy as np
from PIL import Image, ImageCms

from stackmff.images.colour import rgb_by_profile
from stackmff.images.levels import Levels

ERROR_GAIN = 10  # an error of a tenth of white is yellow


def colour_map(values: np.ndarray) -> np.ndarray:
    """Colour a map of numbers, from dark blue for 0 to yellow for 1.

    Args:
        values: (H, W) float in [0, 1].
    Returns:
        (H, W, 3) uint8 RGB.
    """
    levels = np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def error_map(fused: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """Colour the absolute error, multiplied by ERROR_GAIN: 25.5 of 255 grey levels are yellow.

    Args:
        fused, answer: (H, W) luma or (H, W, 3) RGB, float in [0, 1]. The error of RGB is the mean
            over the channels.
    Returns:
        (H, W, 3) uint8 RGB.
    """
    error = np.abs(fused - answer)
    return colour_map((error.mean(2) if error.ndim == 3 else error) * ERROR_GAIN)


def in_bytes(values: np.ndarray) -> np.ndarray:
    """Convert (H, W) or (H, W, 3) float in [0, 1] to (H, W, 3) uint8."""
    levels = np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=2)


def training_panel(
    stack: np.ndarray,
    fused: np.ndarray,
    answer: np.ndarray,
    weights: np.ndarray | None = None,
    most_frames: int = 8,
) -> np.ndarray:
    """Show in one picture what the network makes of a stack.

    Args:
        stack: (N, H, W) luma or (N, H, W, 3) RGB, float in [0, 1].
        fused, answer: (H, W) or (H, W, 3), float in [0, 1].
        weights: (N, H, W), weights of the frames, for the focus map; or None.
        most_frames: longer stacks are thinned out evenly to this many frames, both ends included.
    Returns:
        (2 H, K W, 3) uint8 RGB. Upper row: the frames. Lower row: the fused picture, the answer,
        the error (yellow from 25 grey levels) and, with weights, the expected frame.
    """
    n_frames, height, width = stack.shape[:3]
    shown = np.unique(np.linspace(0, n_frames - 1, min(n_frames, most_frames)).round().astype(int))
    above = [in_bytes(stack[index]) for index in shown]
    below = [in_bytes(fused), in_bytes(answer), error_map(fused, answer)]
    if weights is not None:
        frames = np.arange(n_frames, dtype=np.float32).reshape(-1, 1, 1)
        below.append(colour_map((weights * frames).sum(0) / max(n_frames - 1, 1)))
    columns = max(len(above), len(below))
    blank = np.zeros((height, width, 3), np.uint8)
    rows = [row + [blank] * (columns - len(row)) for row in (above, below)]
    return np.vstack([np.hstack(row) for row in rows])


def reduced(
    picture: np.ndarray,
    side: int,
    profile: bytes | None = None,
    levels: Levels | None = None,
) -> np.ndarray:
    """Make a small copy of a picture for screens.

    Args:
        picture: (H, W, C) uint8 or uint16, C as in images/formats.py; alpha is dropped.
        side: longest side of the copy, px. Smaller pictures keep their size.
        profile: ICC profile of the picture; None: sRGB.
        levels: of its stack, to which it is stretched; None: it is not.
    Returns:
        (h, w, 3) uint8 sRGB, never a view of the picture.
    """
    height, width = picture.shape[:2]
    colours = 1 if picture.shape[2] <= 2 else 3
    scale = side / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    picture = picture.reshape(*picture.shape[:2], -1)[..., :colours]
    if levels is not None:
        picture = levels.shown(picture)
    if picture.dtype == np.uint16:
        picture = np.round(picture / np.float32(257)).astype(np.uint8)
    if profile is not None:
        picture = _to_srgb(picture, profile)
    return np.array(np.broadcast_to(picture, (*picture.shape[:2], 3)))


def _to_srgb(picture: np.ndarray, profile: bytes) -> np.ndarray:
    """Convert (H, W, 1 or 3) uint8 from a profile to sRGB; return it unchanged where that fails."""
    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    try:
        return rgb_by_profile(image, profile)
    # The profile is damaged or of another colour space: a preview may be slightly off.
    except (ImageCms.PyCMSError, OSError, ValueError):
        return picture


def text_width(text: str, size: int) -> int:
    """Width of a line of text drawn by `draw_text`, px."""
    width: int = cv2.getTextSize((0, 0), text, (0, 0), cv2.FontFace("sans"), size, 400)[2]
    return width


def draw_text(
    picture: np.ndarray,
    text: str,
    left: float,
    baseline: float,
    size: int,
    colour: tuple[int, int, int],
) -> None:
    """Draw a line of text into a picture, in place.

    Args:
        picture: (H, W, 3) uint8.
        left, baseline: position of the first letter, px.
        size: height of the letters, px.
        colour: (R, G, B), 0 to 255.
    """
    font = cv2.FontFace("sans")
    cv2.putText(picture, text, (round(left), round(baseline)), colour, font, size, 400)
