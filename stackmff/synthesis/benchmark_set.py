"""A fixed test set from the pictures that scikit-image installs: nothing is downloaded.

Scenes are composed of surfaces at known disparities and photographed by the thin lens of
`refocus`, so their answers are exact. The scene with a measured disparity, the Middlebury
motorcycle, is rendered by make_dataset.py in the same way as its demo.
"""

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import skimage.data
import torch
from scipy.fft import next_fast_len

from stackmff.synthesis.camera import develop
from stackmff.synthesis.refocus import (
    Aperture,
    Layer,
    flatten_layers,
    linear_tensor,
    refocus_layers,
)
from stackmff.synthesis.scenes import Rendered, bloom
from stackmff.synthesis.shapes import draw_alpha

LONGER_SIDE = 512  # px, at most
ALIGNED = "aligned"  # every scene, with its own number of frames
DENSE, DENSE_FRAMES = "dense", 30  # some of them with many, to leave frames out of
DENSE_SCENES = ("astronaut", "rocket", "stars", "tissue")

# The other sets, by the options of make_dataset.py that make them of the aligned one.
CHANGED: dict[str, dict[str, Any]] = {
    "noisy": {"noise": (2500.0,)},
    "few": {"keep": 3},
    "pairs": {"keep": 2},
}


@dataclass(frozen=True)
class Surface:
    """A picture on a plane.

    Attributes:
        picture: name of a function of skimage.data.
        disparity: at the two ends of the plane, in [0, 1].
        angle: direction from the first end to the second, degrees, 0 to the right, 90 down.
        shape: one of shapes.SHAPES, which cuts it out; None for the whole picture.
        seed: of the shape.
        top: share of the height above which there is nothing.
        tint: factors of red, green and blue in linear light.
        lamps: whether the brightest parts are brighter than white.
    """

    picture: str
    disparity: tuple[float, float]
    angle: float = 90.0
    shape: str | None = None
    seed: int = 0
    top: float = 0.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    lamps: bool = False


@dataclass(frozen=True)
class Recipe:
    """A scene.

    Attributes:
        name: of the scene.
        n_frames: N.
        max_coc: diameter of the largest circle of confusion, px.
        surfaces: from back to front; the first one is whole, and its picture has the scene's size.
        blades: of the aperture; 0 if it is round.
    """

    name: str
    n_frames: int
    max_coc: float
    surfaces: tuple[Surface, ...]
    blades: int = 0


CLAY, LEAF, WOOD, STRAW = (1.0, 0.6, 0.45), (0.65, 1.0, 0.4), (0.6, 0.4, 0.25), (1.0, 0.85, 0.5)

# Focal planes lie 1 to 2 px of blur apart, so that every surface is sharp in some frame.
RECIPES = (
    Recipe(
        "astronaut",
        9,
        16.0,
        (
            Surface("astronaut", (0.0, 0.1)),
            Surface("grass", (0.85, 1.0), shape="branches", seed=7, tint=LEAF),
        ),
    ),
    Recipe(
        "coffee",
        6,
        5.0,
        (
            Surface("coffee", (0.0, 0.6)),
            Surface("gravel", (0.8, 1.0), angle=0.0, shape="letters", seed=8, tint=STRAW),
        ),
    ),
    Recipe("coins", 4, 3.0, (Surface("coins", (0.0, 1.0), angle=35.0),)),
    Recipe("lawn", 10, 14.0, (Surface("grass", (0.0, 1.0), tint=LEAF),)),
    Recipe(
        "rocket",
        7,
        9.0,
        (
            Surface("rocket", (0.0, 0.15)),
            Surface("gravel", (0.75, 1.0), angle=0.0, shape="grid", seed=5, tint=STRAW),
        ),
    ),
    Recipe(
        "stars",
        8,
        12.0,
        (
            Surface("hubble_deep_field", (0.1, 0.0), lamps=True),
            Surface("brick", (0.45, 0.6), shape="blob", seed=4, tint=CLAY),
            Surface("gravel", (0.9, 1.0), shape="rays", seed=2),
        ),
        blades=6,
    ),
    Recipe(
        "terraces",
        5,
        8.0,
        (
            Surface("brick", (0.03, 0.03), tint=CLAY),
            Surface("gravel", (0.5, 0.5), top=0.4),
            Surface("grass", (0.97, 0.97), top=0.72, tint=LEAF),
        ),
    ),
    Recipe(
        "tissue",
        8,
        10.0,
        (
            Surface("immunohistochemistry", (0.0, 0.4), angle=20.0),
            Surface("immunohistochemistry", (0.6, 1.0), shape="curves", seed=1, tint=WOOD),
        ),
    ),
    Recipe("wall", 8, 7.0, (Surface("brick", (1.0, 0.0), angle=15.0, tint=CLAY),)),
)


def recipes_of(name: str) -> tuple[Recipe, ...]:
    """The recipes of the set ALIGNED or DENSE."""
    if name == ALIGNED:
        return RECIPES
    chosen = [recipe for recipe in RECIPES if recipe.name in DENSE_SCENES]
    return tuple(replace(recipe, n_frames=DENSE_FRAMES) for recipe in chosen)


def load_picture(name: str, longer_side: int) -> torch.Tensor:
    """A picture of scikit-image in linear light.

    Args:
        name: of a function of skimage.data.
        longer_side: px; larger pictures are reduced to it, smaller ones stay unchanged.
    Returns:
        (3, H, W) float32.
    """
    picture = getattr(skimage.data, name)()
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=2)
    scale = longer_side / max(picture.shape[:2])
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return linear_tensor(picture)


def fit(picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The middle of a (3, H, W) tensor, mirrored at its borders where it is too small."""
    places = []
    for side, wanted in zip(picture.shape[1:], (height, width)):
        before = (wanted - side) // 2
        index = np.arange(wanted) - before
        index = index % (2 * side)  # the picture and its mirror image, over and over
        places.append(torch.from_numpy(np.minimum(index, 2 * side - 1 - index)))
    return picture[:, places[0][:, None], places[1]]


def plane(ends: tuple[float, float], angle: float, height: int, width: int) -> torch.Tensor:
    """Disparity of a plane over a picture.

    Args:
        ends: disparity where it begins and where it ends.
        angle: direction from the first to the second, degrees, 0 to the right, 90 down.
        height, width: px.
    Returns:
        (height, width) float32.
    """
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    way = x * np.cos(np.deg2rad(angle)) + y * np.sin(np.deg2rad(angle))
    way = (way - way.min()) / np.ptp(way)  # [0, 1]
    return torch.from_numpy((ends[0] + (ends[1] - ends[0]) * way).astype(np.float32))


def make_layer(surface: Surface, height: int, width: int, longer_side: int) -> Layer:
    """A surface as a layer of (height, width) px."""
    colour = fit(load_picture(surface.picture, longer_side), height, width)
    colour = colour * torch.tensor(surface.tint)[:, None, None]
    rng = np.random.default_rng(surface.seed)
    if surface.lamps:
        colour = bloom(rng, colour)
    alpha = torch.ones(height, width)
    if surface.shape:
        drawn = draw_alpha(rng, max(height, width), surface.shape)
        alpha = torch.from_numpy(np.ascontiguousarray(drawn[:height, :width]))
    alpha[: round(surface.top * height)] = 0
    return Layer(colour, alpha, plane(surface.disparity, surface.angle, height, width))


def render(recipe: Recipe, longer_side: int = LONGER_SIDE) -> Rendered:
    """The stack of a recipe as a lens takes it; nothing in it is random.

    Args:
        recipe: the scene.
        longer_side: px, to which larger pictures are reduced.
    Returns:
        frames (N, H, W, 3) uint8 nearest focus first; answer (H, W, 3) uint8 with every surface
        sharp; disparity (H, W) float32 in [0, 1]; settings (plain JSON values).
    """
    height, width = load_picture(recipe.surfaces[0].picture, longer_side).shape[1:]
    margin = int(np.ceil(recipe.max_coc / 2)) + 2  # blur brings light in from outside
    inside = (..., slice(margin, margin + height), slice(margin, margin + width))
    rows, columns = (next_fast_len(side + 2 * margin) for side in (height, width))
    layers = [make_layer(surface, rows, columns, longer_side) for surface in recipe.surfaces]
    focus, aperture = np.linspace(1, 0, recipe.n_frames), Aperture(recipe.blades)
    linear = refocus_layers(layers, focus, recipe.max_coc, aperture)[inside]
    answer, disparity = flatten_layers(layers)
    camera = np.random.default_rng(0)  # not used without faults
    settings = {
        "focus_disparity": focus.tolist(),
        "aperture_px": recipe.max_coc,
        "aperture": vars(aperture),
    }
    return (
        develop(camera, linear),
        develop(camera, answer[None][inside])[0],
        disparity[inside].numpy(),
        settings,
    )
