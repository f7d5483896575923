"""The surfaces of random scenes at camera scale: grounds, bodies, hairs, dust, lights and glints.

Everything is drawn from a NumPy generator. `camera_scale` photographs them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple, cast

import cv2
import numpy as np

from stackmff.synthesis.photos import Photos
from stackmff.synthesis.shapes import SHAPES, draw_alpha
from stackmff.synthesis.surface_detail import (
    Tone,
    draw_specks,
    paint_glints,
    paint_specks,
    surface_colour,
)
from stackmff.synthesis.wide_blur import NO_LIGHTS, Surface

THIN = ("curves", "letters", "grid", "rays")  # shapes that are drawn at full resolution

BEHIND_EDGES = 0.05  # chance that lights are moved to edges
NEAR_EDGES = 15.0  # px, standard deviation of their distance

Planes = list[tuple[float, float]]  # (low, high) of disparity, each to be in focus


def draw_lights(rng: np.random.Generator, alpha: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` random points of light on a surface of cover `alpha` (H, W); see Surface."""
    height, width = alpha.shape
    x, y = rng.uniform(0, width, 4 * count), rng.uniform(0, height, 4 * count)
    if rng.random() < 0.3:  # in a row, as street lamps and lit edges are
        along = rng.random(4 * count)
        x = (rng.uniform(0, width) + along * rng.normal(0, width / 2)) % width
        y = (rng.uniform(0, height) + along * rng.normal(0, height / 2)) % height
    seen = alpha[y.astype(int), x.astype(int)] > 0.5
    x, y = x[seen][:count], y[seen][:count]
    strength = np.exp(rng.uniform(np.log(3), np.log(100), len(x)))
    across = np.exp(rng.uniform(np.log(1), np.log(6), len(x)))
    if rng.random() < 0.3:  # strong enough for their discs to clip
        strength *= rng.uniform(5, 60)
    tint = np.exp(rng.normal(0, 0.4, (len(x), 3)))
    lights = np.concatenate([np.stack([x, y], 1), strength[:, None] * tint, across[:, None]], 1)
    return lights.astype(np.float32)


def relief(
    rng: np.random.Generator, height: int, width: int, low: float, high: float
) -> np.ndarray:
    """A slanted or bumpy disparity within [low, high], (height, width) float32."""
    y, x = np.mgrid[0:1:17j, 0:1:17j]
    angle = rng.uniform(0, 2 * np.pi)
    surface = x * np.cos(angle) + y * np.sin(angle)
    if rng.random() < 0.5:
        for _ in range(rng.integers(1, 5)):
            a, b, phase = rng.normal(0, 6), rng.normal(0, 6), rng.uniform(0, 2 * np.pi)
            surface = surface + rng.uniform(0.1, 0.6) * np.sin(a * x + b * y + phase)
    surface = (surface - surface.min()) / np.ptp(surface)
    surface = (low + (high - low) * surface).astype(np.float32)
    return cv2.resize(surface, (width, height), interpolation=cv2.INTER_CUBIC).clip(low, high)


def draw_bars(rng: np.random.Generator, side: int) -> np.ndarray:
    """The cover of legs, stalks or wires, bent and thinner at one end: (side, side) float32."""
    alpha = np.zeros((side, side), np.uint8)
    along = np.linspace(0, 1, 60)
    for _ in range(rng.integers(1, 5)):
        start, end = rng.uniform(-0.2, 1.2, (2, 2)) * side
        bend = rng.normal(0, 0.12) * (end - start)[::-1] * (1, -1)
        path = start + along[:, None] * (end - start)
        path = path + (4 * along * (1 - along))[:, None] * bend
        thick, thin = np.exp(rng.uniform(np.log(0.004), np.log(0.12))), rng.uniform(0.3, 1)
        radii = side * thick / 2 * (1 + along * (thin - 1))
        across = np.gradient(path, axis=0)[:, ::-1] * (1, -1)
        across = across / np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-6)
        rims = [path + across * radii[:, None], (path - across * radii[:, None])[::-1]]
        points = np.round(np.concatenate(rims) * 16).astype(np.int32)
        cv2.fillPoly(alpha, [points], 255, cv2.LINE_AA, 4)
    return alpha.astype(np.float32) / 255


def body_alpha(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """The cover of a body, one of SHAPES or a smooth large one: (height, width) float32."""
    side = max(height, width)
    if rng.random() < 0.2:
        alpha = draw_bars(rng, side)
    elif rng.random() < 0.3:
        smooth = cv2.resize(
            rng.normal(0, 1, (6, 6)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC
        )
        edge = smooth - np.float32(rng.uniform(-0.3, 0.6))
        alpha = (edge * side / 8 + 0.5).clip(0, 1)
    else:
        half = -(-side // 2)
        shape = rng.choice(list(SHAPES))
        if shape in THIN:
            alpha = draw_alpha(rng, side, shape)
        else:
            alpha = cv2.resize(draw_alpha(rng, half, shape), (side, side))
    return np.ascontiguousarray(alpha[:height, :width])


def tone_of(rng: np.random.Generator, chances: Mapping[Tone, float]) -> Tone:
    """A random tone by {tone: chance}."""
    return cast(Tone, str(rng.choice(list(chances), p=list(chances.values()))))


def random_count(rng: np.random.Generator, most: int) -> int:
    """A number from 1 to most, small ones more often."""
    return int(np.exp(rng.uniform(0, np.log(most))))


class Kind(NamedTuple):
    """A kind of scene.

    Attributes:
        share: of the scenes.
        grounds: {tone of the ground: chance}.
        bodies: {tone of a body: chance}.
        lights: chance of points of light on the ground.
        ground_in_focus: chance that a frame has the ground in focus.
    """

    share: float
    grounds: Mapping[Tone, float]
    bodies: Mapping[Tone, float]
    lights: float
    ground_in_focus: float


SPECIMENS: Mapping[Tone, float] = {"dark": 0.5, "normal": 0.35, "bright": 0.15}
BODIES: Mapping[Tone, float] = {"dark": 0.25, "normal": 0.65, "bright": 0.1}
KINDS = {
    "specimen": Kind(
        0.4, {"plain": 0.5, "bright": 0.25, "normal": 0.15, "dark": 0.1}, SPECIMENS, 0.15, 0.35
    ),
    "lights": Kind(0.25, {"dark": 0.5, "plain": 0.2, "normal": 0.3}, BODIES, 1.0, 0.7),
    "sheet": Kind(0.2, {"normal": 0.6, "dark": 0.4}, BODIES, 0.0, 1.0),  # slanted or bumpy
    "any": Kind(0.15, {"normal": 0.6, "plain": 0.2, "dark": 0.1, "bright": 0.1}, BODIES, 0.3, 0.6),
}


class Drawing(NamedTuple):
    """The surfaces of a scene from back to front, and what is to be in focus."""

    surfaces: list[Surface]
    planes: Planes


def draw_surfaces(rng: np.random.Generator, photos: Photos, height: int, width: int) -> Drawing:
    """The surfaces of a random scene, and where to focus; arguments as of `large_scene`."""
    name = str(rng.choice(list(KINDS), p=[kind.share for kind in KINDS.values()]))
    kind = KINDS[name]
    drawing = Drawing([], [])
    sheet = name == "sheet"
    draw_ground(rng, photos, (height, width), kind, sheet, drawing)
    count = int(rng.integers(0, 2)) if sheet else int(rng.integers(1, 5))
    start = 0.9 if sheet else rng.uniform(0.1, 0.7)
    if not sheet and rng.random() < 0.4:
        draw_dust(rng, photos, (height, width), start, drawing)
    for low, high in pairwise(np.linspace(start, 1, count + 1)):
        near = low + (high - low) * rng.uniform(0, 0.5), high
        draw_body(rng, photos, (height, width), kind, near, drawing)
    if rng.random() < (0.6 if sheet else 0.1):  # far before the ground, sharp in one frame alone
        thin = str(rng.choice(["curves", "curves", "branches", "rays", "blades"]))
        draw_thin(rng, photos, (height, width), kind, thin, 1.0, drawing)
    if rng.random() < BEHIND_EDGES:
        drawing.surfaces[0] = with_lights_behind(rng, drawing.surfaces)
    if len(drawing.planes) > 1 and rng.random() < 0.12:  # a body that no frame has in focus
        drawing.planes.pop(int(rng.integers(len(drawing.planes))))
    return drawing


def with_lights_behind(rng: np.random.Generator, surfaces: Sequence[Surface]) -> Surface:
    """The ground with half of its lights moved to where edges of bodies are, or near.

    There a light shines through the blurred edge of a body where the ground is in focus,
    and is hidden where the body is: few lights at random places show that.

    Args:
        rng: NumPy generator.
        surfaces: from back to front; the first is the ground.
    """
    ground, *bodies = surfaces
    moved = np.flatnonzero(rng.random(len(ground.lights)) < 0.5)
    cover = np.max([body.alpha for body in bodies], 0) if bodies else np.zeros((1, 1), np.float32)
    edges = np.argwhere((cover > 0.02) & (cover < 0.98))
    if not len(moved) or not len(edges):
        return ground
    height, width = cover.shape
    chosen = edges[rng.integers(len(edges), size=len(moved))]
    places = chosen + rng.normal(0, NEAR_EDGES, chosen.shape)
    lights = ground.lights.copy()
    lights[moved, 0] = places[:, 1].clip(0, width - 1)
    lights[moved, 1] = places[:, 0].clip(0, height - 1)
    return replace(ground, lights=lights)


def paint_small_things(
    rng: np.random.Generator, colour: np.ndarray, glints: float, specks: float
) -> None:
    """Paint glints and specks on a surface, each kind with a chance, in place."""
    if rng.random() < glints:
        paint_glints(rng, colour, random_count(rng, 200))
    if rng.random() < specks:
        paint_specks(rng, colour, random_count(rng, 200))


def draw_ground(
    rng: np.random.Generator,
    photos: Photos,
    size: tuple[int, int],
    kind: Kind,
    sheet: bool,
    drawing: Drawing,
) -> None:
    """Draw what covers the whole picture, at disparity 0 or, as a sheet, slanted or bumpy."""
    height, width = size
    opaque = np.ones((height, width), np.float32)
    colour = surface_colour(rng, photos, height, width, tone_of(rng, kind.grounds))
    if sheet:
        disparity = relief(rng, height, width, 0, rng.uniform(0.15, 0.9))
        drawing.surfaces.append(Surface(colour, opaque, disparity))
        drawing.planes.append((0.0, float(disparity.max())))
        return
    paint_small_things(rng, colour, 0.2, 0.3)
    lights = NO_LIGHTS
    if rng.random() < kind.lights:
        lights = draw_lights(rng, opaque, random_count(rng, 250))
    drawing.surfaces.append(Surface(colour, opaque, 0.0, lights))
    if rng.random() < kind.ground_in_focus:
        drawing.planes.append((0.0, 0.0))


def draw_dust(
    rng: np.random.Generator,
    photos: Photos,
    size: tuple[int, int],
    nearest: float,
    drawing: Drawing,
) -> None:
    """Draw specks that float before the ground, at up to four disparities below `nearest`.

    Nothing but the one frame that has it in focus tells that there is a speck.
    """
    for plane in np.sort(rng.uniform(0, nearest, rng.integers(1, 5))).tolist():
        colour = surface_colour(rng, photos, *size, "plain")
        cover = draw_specks(rng, *size, random_count(rng, 100))
        drawing.surfaces.append(Surface(colour, cover, plane))
        drawing.planes.append((plane, plane))


def draw_body(
    rng: np.random.Generator,
    photos: Photos,
    size: tuple[int, int],
    kind: Kind,
    near: tuple[float, float],
    drawing: Drawing,
) -> None:
    """Draw a body with disparities in `near`, a third of them with hairs or dust before it."""
    height, width = size
    low, high = near
    alpha = body_alpha(rng, height, width)
    colour = surface_colour(rng, photos, height, width, tone_of(rng, kind.bodies))
    paint_small_things(rng, colour, 0.5, 0.1)
    disparity = relief(rng, height, width, low, high) if rng.random() < 0.6 else float(high)
    lights = NO_LIGHTS
    if rng.random() < 0.45:
        lights = draw_lights(rng, alpha, random_count(rng, 30))
    drawing.surfaces.append(Surface(colour, alpha, disparity, lights))
    drawing.planes.append((float(np.min(disparity)), float(np.max(disparity))))
    if rng.random() < 0.35:
        plane = float(rng.uniform(low, min(high + 0.1, 1)))
        thin = str(rng.choice(["curves", "curves", "branches", "specks"]))
        draw_thin(rng, photos, size, kind, thin, plane, drawing)


def draw_thin(
    rng: np.random.Generator,
    photos: Photos,
    size: tuple[int, int],
    kind: Kind,
    thin: str,
    plane: float,
    drawing: Drawing,
) -> None:
    """Draw thin things at a disparity: "specks", or a name of SHAPES."""
    height, width = size
    if thin == "specks":
        cover = draw_specks(rng, height, width, random_count(rng, 150))
    else:
        cover = draw_alpha(rng, max(height, width), thin)[:height, :width]
    cover = np.ascontiguousarray(cover)
    colour = surface_colour(rng, photos, height, width, tone_of(rng, kind.bodies))
    lights = NO_LIGHTS
    if rng.random() < 0.3:  # dew, say, whose discs lie over all that is behind
        lights = draw_lights(rng, cover, random_count(rng, 30))
    drawing.surfaces.append(Surface(colour, cover, plane, lights))
    drawing.planes.append((plane, plane))
