"""The example: a stack that is drawn, so that a visitor can try the page without own frames.

A table top that recedes from the camera carries printed lines, berries and leaves. Each frame is
focused at a different distance: what is nearer or farther is blurred by how far it is from there.
"""

from pathlib import Path

import cv2
import numpy as np

from stackmff.images.formats import write_picture

NAME = "Example"
WIDTH, HEIGHT = 1800, 1200  # px
FRAMES = 9
MOST_BLUR = 14.0  # px, sigma at the far end of the table when the near end is in focus
LAYERS = 24  # slices of distance that are blurred alike


def write_example(folder: Path) -> list[Path]:
    """Write the frames into a folder as JPEG; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    picture, distance = scene()
    paths = []
    for k in range(FRAMES):
        paths.append(folder / f"table_{k + 1:02}.jpg")
        write_picture(paths[-1], frame(picture, distance, k / (FRAMES - 1)))
    return paths


def frame(picture: np.ndarray, distance: np.ndarray, focus: float) -> np.ndarray:
    """The scene focused at a distance.

    Args:
        picture: (H, W, 3) uint8, sharp everywhere.
        distance: (H, W) float32 in [0, 1].
        focus: distance that is sharp, in [0, 1].
    Returns:
        (H, W, 3) uint8.
    """
    total = np.zeros(picture.shape, np.float32)
    weight = np.zeros(distance.shape, np.float32)
    source = picture.astype(np.float32)
    # Each slice is blurred with its share, so that what is out of focus spreads over its edge.
    for layer in range(LAYERS):
        centre = (layer + 0.5) / LAYERS
        share = np.maximum(1 - np.abs(distance - centre) * LAYERS, 0)
        sigma = MOST_BLUR * abs(centre - focus)
        rows = np.flatnonzero(share.any(1))
        if not len(rows):
            continue
        margin = round(4 * sigma) + 1  # beyond it the blur has nothing
        band = np.s_[max(rows[0] - margin, 0) : rows[-1] + margin + 1]
        share = share[band]
        part = source[band] * share[..., None]
        if sigma > 0.3:
            part = cv2.GaussianBlur(part, (0, 0), sigma)
            share = cv2.GaussianBlur(share, (0, 0), sigma)
        total[band] += part
        weight[band] += share
    out = total / np.maximum(weight, 1e-3)[..., None]
    noise = np.random.default_rng(round(1000 * focus)).normal(0, 1.2, picture.shape)
    return np.clip(out + noise, 0, 255).astype(np.uint8)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """The sharp picture (H, W, 3) uint8 and its distance (H, W) float32 in [0, 1]."""
    random = np.random.default_rng(7)
    rows = np.linspace(1, 0, HEIGHT, dtype=np.float32)[:, None]
    distance = np.repeat(rows, WIDTH, 1).copy()
    grain = cv2.GaussianBlur(random.normal(0, 1, (HEIGHT, WIDTH)).astype(np.float32), (0, 0), 1.5)
    stretched = cv2.resize(random.normal(0, 1, (HEIGHT, 90)).astype(np.float32), (WIDTH, HEIGHT))
    wood = 150 + 16 * stretched + 22 * grain
    picture = np.stack([wood + 34, wood, wood - 42], -1)
    picture = np.ascontiguousarray(np.clip(picture, 0, 255).astype(np.uint8))
    for k in range(26):  # a scale along the table
        y = round(0.975 * HEIGHT * (1 - k / 26) ** 1.3)
        size = 0.5 + 1.1 * y / HEIGHT
        cv2.line(picture, (WIDTH // 2 - 40, y), (WIDTH // 2 + 40, y), (40, 34, 30), 2, cv2.LINE_AA)
        words = (str(10 * k), (WIDTH // 2 + 52, y + 8), cv2.FONT_HERSHEY_SIMPLEX, size)
        cv2.putText(picture, *words, (40, 34, 30), 2, cv2.LINE_AA)
    for y in sorted(random.uniform(0.12, 0.96, 34)):  # far ones first
        x = random.choice([random.uniform(0.02, 0.42), random.uniform(0.6, 0.98)])
        centre, radius = (round(x * WIDTH), round(y * HEIGHT)), round(26 + 62 * y)
        _draw_berry(picture, distance, centre, radius, random)
    return picture, distance


def _draw_berry(
    picture: np.ndarray,
    distance: np.ndarray,
    centre: tuple[int, int],
    radius: int,
    random: np.random.Generator,
) -> None:
    """Draw a ball with seeds; it is as far away as the table where it lies."""
    x, y = centre
    top, left = max(y - radius, 0), max(x - radius, 0)
    window = np.s_[top : y + radius, left : x + radius]
    part = picture[window]
    rows, columns = np.mgrid[top : top + part.shape[0], left : left + part.shape[1]]
    down, across = (rows - y) / radius, (columns - x) / radius
    inside = down**2 + across**2 < 1
    height = np.sqrt(np.maximum(1 - down**2 - across**2, 0))
    light = 0.35 + 0.65 * np.clip(0.55 * height - 0.45 * down - 0.35 * across, 0, 1)
    colours = [(196, 38, 46), (52, 62, 140), (214, 140, 32), (70, 130, 54)]
    ball = np.array(colours[int(random.integers(len(colours)))]) * light[..., None]
    seeds = cv2.GaussianBlur(random.normal(0, 1, part.shape[:2]), (0, 0), 1.3)
    ball += 70 * np.maximum(seeds, 0)[..., None]
    part[inside] = np.clip(ball[inside], 0, 255).astype(np.uint8)
    foot = 1 - min(y + radius, HEIGHT - 1) / HEIGHT
    distance[window][inside] = np.clip(foot - 0.05 * height[inside], 0, 1)
