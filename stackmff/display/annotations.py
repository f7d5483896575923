"""What is written on a picture: a scale bar, a label."""

import math

import numpy as np

from stackmff.display.drawing import draw_text, text_width

MOST_SHARE = 0.25  # of the picture's width that a scale bar takes
STEPS = (5, 2, 1)
LEAST_TEXT = 9  # px
DARKER = np.float32(0.35)  # what is left of the picture behind the writing


def scale_bar(width: int, pixel_size: float) -> tuple[int, str]:
    """(length, px; text) of the longest bar of 1, 2 or 5 units that suits a picture.

    Args:
        width: of the picture, px.
        pixel_size: micrometres.
    """
    most = MOST_SHARE * width * pixel_size
    ten = 10.0 ** math.floor(math.log10(most))
    length = ten * next(step for step in STEPS if step * ten <= most * (1 + 1e-9))
    unit, micrometres = next(
        (unit, size)
        for unit, size in (("m", 1e6), ("mm", 1e3), ("µm", 1), ("nm", 1e-3))
        if size == 1e-3 or length * (1 + 1e-9) >= size
    )
    return round(length / pixel_size), f"{length / micrometres:g} {unit}"


def annotate(picture: np.ndarray, label: str = "", pixel_size: float | None = None) -> None:
    """Write a label into the lower left corner and a scale bar into the lower right one, in place.

    Args:
        picture: (H, W, C) uint8 or uint16.
        label: text; "": none.
        pixel_size: micrometres; None: no scale bar.
    """
    height, width = picture.shape[:2]
    size = max(round(max(height, width) / 45), LEAST_TEXT)
    gap = size // 2
    if label:
        box = np.zeros((2 * size, min(text_width(label, size) + size, width), 3), np.uint8)
        draw_text(box, label, size / 2, 1.4 * size, size, (255, 255, 255))
        _lay(picture, box, gap)
    if pixel_size is not None:
        length, text = scale_bar(width, pixel_size)
        wide = text_width(text, size)
        box = np.zeros((round(2.9 * size), max(length, wide) + size, 3), np.uint8)
        draw_text(box, text, (box.shape[1] - wide) / 2, 1.4 * size, size, (255, 255, 255))
        left = (box.shape[1] - length) // 2
        box[round(2.0 * size) : round(2.3 * size), left : left + length] = 255
        _lay(picture, box, width - gap - box.shape[1])


def _lay(picture: np.ndarray, box: np.ndarray, left: int) -> None:
    """Lay white writing on darkened ground over a picture, half a line above its lower edge."""
    height = picture.shape[0]
    gap = box.shape[0] // 5
    top, left = max(height - gap - box.shape[0], 0), max(left, 0)
    part = picture[top : top + box.shape[0], left : left + box.shape[1]]
    share = box[: part.shape[0], : part.shape[1], :1] / np.float32(255)
    white = np.float32(np.iinfo(picture.dtype).max)
    if picture.shape[2] in (2, 4):  # the writing is seen on clear ground, too
        part[..., -1] = white
        part = part[..., :-1]
    part[:] = np.rint(part * DARKER * (1 - share) + white * share).astype(picture.dtype)
