"""Shapes of the cut-outs of random scenes: thin, holed, ragged, like real objects."""

from collections.abc import Callable

import cv2
import numpy as np

SUPERSAMPLING = 3  # shapes are drawn this much larger and averaged down


def draw_blob(rng: np.random.Generator, size: int) -> np.ndarray:
    """A closed curve of a few random waves around a centre."""
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    radius = np.ones_like(angle)
    for wave in range(2, 9):
        radius += rng.normal(0, 0.35 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    radius = size * rng.uniform(0.12, 0.38) * radius.clip(0.2)
    centre = rng.uniform(0.1, 0.9, 2) * size
    points = centre + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return cv2.fillPoly(np.zeros((size, size), np.uint8), [points.astype(np.int32)], 255)


def draw_polygon(rng: np.random.Generator, size: int) -> np.ndarray:
    """One or two polygons of three to seven corners."""
    canvas = np.zeros((size, size), np.uint8)
    for _ in range(rng.integers(1, 3)):
        angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
        radius = size * rng.uniform(0.1, 0.45, angle.size)
        centre = rng.uniform(0.1, 0.9, 2) * size
        points = centre + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        cv2.fillPoly(canvas, [points.astype(np.int32)], 255)
    return canvas


def draw_holed_disc(rng: np.random.Generator, size: int) -> np.ndarray:
    """A disc with holes in it."""
    canvas = np.zeros((size, size), np.uint8)
    centre = rng.uniform(0.2, 0.8, 2) * size
    radius = rng.uniform(0.2, 0.45) * size
    cv2.circle(canvas, centre.astype(int).tolist(), int(radius), 255, -1)
    for _ in range(rng.integers(2, 12)):
        hole = centre + rng.uniform(-0.8, 0.8, 2) * radius
        cv2.circle(canvas, hole.astype(int).tolist(), int(radius * rng.uniform(0.04, 0.25)), 0, -1)
    return canvas


def draw_curves(rng: np.random.Generator, size: int) -> np.ndarray:
    """One to thirty thin curves of even width: hairs, wires, threads."""
    canvas = np.zeros((size, size), np.uint8)
    bend = rng.choice([0.0, 0.1, 0.5])
    main = rng.uniform(0, np.pi)
    spread = rng.choice([0.1, 0.6, np.pi])
    widest = rng.uniform(0.8, 5)
    t = np.linspace(-1, 1, 40)
    for _ in range(int(np.exp(rng.uniform(0, np.log(30))))):
        angle = main + rng.normal(0, spread)
        along = np.array([np.cos(angle), np.sin(angle)])
        across = np.array([-along[1], along[0]])
        wave = bend * (
            rng.normal() * t**2 + rng.normal() * t**3 + 0.3 * rng.normal() * np.sin(6 * t)
        )
        points = rng.uniform(0, 1, 2) + 0.9 * t[:, None] * along + wave[:, None] * across
        width = max(1, round(rng.uniform(0.4, 1) * widest * SUPERSAMPLING))
        cv2.polylines(canvas, [(points * size).astype(np.int32)], False, 255, width)
    return canvas


def draw_blades(rng: np.random.Generator, size: int) -> np.ndarray:
    """Tapering blades that rise from one side: grass, needles, bristles."""
    canvas = np.zeros((size, size), np.uint8)
    t = np.linspace(0, 1, 16)[:, None]
    for _ in range(rng.integers(5, 60)):
        root = np.array([rng.uniform(-0.1, 1.1), 1.05])
        tip = root + np.array([rng.normal(0, 0.25), -rng.uniform(0.2, 1.0)])
        middle = (root + tip) / 2 + rng.normal(0, 0.08, 2)
        spine = (1 - t) ** 2 * root + 2 * t * (1 - t) * middle + t**2 * tip
        width = rng.uniform(0.003, 0.02) * (1 - t) + 0.001
        outline = np.concatenate([spine - [1, 0] * width, (spine + [1, 0] * width)[::-1]])
        cv2.fillPoly(canvas, [(outline * size).astype(np.int32)], 255)
    return np.rot90(canvas, int(rng.integers(4))).copy()


def draw_branches(rng: np.random.Generator, size: int) -> np.ndarray:
    """A stem that forks into thinner and thinner ones."""
    canvas = np.zeros((size, size), np.uint8)
    stems = [(np.array([rng.uniform(0.2, 0.8), 1.0]), -np.pi / 2, rng.uniform(0.01, 0.035), 0.3)]
    while stems:
        start, angle, width, length = stems.pop()
        if width < 0.002:
            continue
        end = start + length * np.array([np.cos(angle), np.sin(angle)])
        thickness = max(1, round(width * size))
        ends = [(point * size).astype(int).tolist() for point in (start, end)]
        cv2.line(canvas, ends[0], ends[1], 255, thickness)
        for _ in range(rng.integers(1, 4)):
            turn, shrink = rng.normal(0, 0.6), rng.uniform(0.5, 0.85)
            stems.append((end, angle + turn, width * shrink, length * rng.uniform(0.6, 0.95)))
        stems = stems[:200]
    return np.rot90(canvas, int(rng.integers(4))).copy()


def draw_letters(rng: np.random.Generator, size: int) -> np.ndarray:
    """Lines of random letters."""
    canvas = np.zeros((size, size), np.uint8)
    letters = list("ABCDEFGHKLMNPRSTUXYZabcdeghkmnrstuwz0123456789&%#")
    height = rng.uniform(0.06, 0.3) * size
    row = rng.uniform(0.5, 1.2) * height
    while row < size:
        text = "".join(rng.choice(letters, rng.integers(3, 30)))
        thickness = max(1, round(height * rng.uniform(0.06, 0.2)))
        start = (int(rng.uniform(-0.2, 0.4) * size), int(row))
        font = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_TRIPLEX]))
        cv2.putText(canvas, text, start, font, height / 25, 255, thickness)
        row += height * rng.uniform(1.3, 3)
    return canvas


def draw_grid(rng: np.random.Generator, size: int) -> np.ndarray:
    """Parallel bars or two crossing sets of them, turned: slats, nets, fences."""
    turn = cv2.getRotationMatrix2D((size / 2, size / 2), rng.uniform(0, 180), 1)
    canvas = np.zeros((size, size), np.uint8)
    for axis in range(rng.integers(1, 3)):
        period = max(4, int(rng.uniform(0.03, 0.3) * size))
        bar = max(1, int(period * rng.uniform(0.08, 0.6)))
        bars = np.where(np.arange(size) % period < bar, 255, 0).astype(np.uint8)
        canvas |= bars[:, None] if axis else bars[None]
    return cv2.warpAffine(canvas, turn, (size, size), borderMode=cv2.BORDER_WRAP)


def draw_rays(rng: np.random.Generator, size: int) -> np.ndarray:
    """Rays and rings around a centre, like a spider's web or a wheel."""
    canvas = np.zeros((size, size), np.uint8)
    centre = rng.uniform(0.2, 0.8, 2) * size
    angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(6, 20)))
    rays = np.stack([np.cos(angle), np.sin(angle)], 1)
    thickness = max(1, round(rng.uniform(0.5, 2.5) * SUPERSAMPLING))
    reach = rng.uniform(0.3, 0.9) * size
    for ray in rays:
        end = (centre + reach * ray).astype(int).tolist()
        cv2.line(canvas, centre.astype(int).tolist(), end, 255, thickness)
    for radius in np.arange(0.1, 1, rng.uniform(0.08, 0.3)) * reach:
        ring = centre + radius * rng.uniform(0.95, 1.05, (angle.size, 1)) * rays
        cv2.polylines(canvas, [ring.astype(np.int32)], True, 255, thickness)
    return canvas


# Each draws 255 where it covers a canvas of 0, (size, size) uint8.
SHAPES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "blob": draw_blob,
    "polygon": draw_polygon,
    "holed_disc": draw_holed_disc,
    "curves": draw_curves,
    "blades": draw_blades,
    "branches": draw_branches,
    "letters": draw_letters,
    "grid": draw_grid,
    "rays": draw_rays,
}


def draw_alpha(rng: np.random.Generator, size: int, shape: str) -> np.ndarray:
    """Draw a shape of SHAPES.

    Args:
        rng: NumPy generator.
        size: side in px.
        shape: its name.
    Returns:
        (size, size) float32 in [0, 1], the share of each pixel that is covered; the rim is softened
        by up to 0.6 px at random, like those in photographs.
    """
    mask = SHAPES[shape](rng, size * SUPERSAMPLING)
    alpha = cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    softness = rng.choice([0.0, 0.3, 0.6])
    return cv2.GaussianBlur(alpha, (0, 0), softness) if softness else alpha
