"""Blur by wide circles of confusion, and points of light as discs of the aperture's shape.

Wide circles are computed on reduced pictures; points of light are drawn at full resolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import cv2
import numpy as np
import torch

from stackmff.synthesis.refocus import Aperture, point_spread

# Circles of confusion, px, for which a blur is computed; between them it is interpolated.
LADDER = (
    *(0.0, 1.0, 1.5, 2.2, 3.2, 4.6, 6.7, 9.7, 14.0, 20.0, 29.0, 42.0, 60.0, 88.0, 127.0, 184.0),
    *(266.0, 386.0),
)
REDUCED = ((12, 1), (34, 2), (100, 4), (np.inf, 8))  # (px of blur, below which reduced by what)
SPRITE_SIDE = 256  # px of the largest drawing of an aperture
NO_LIGHTS = np.zeros((0, 6), np.float32)


def blur(picture: np.ndarray, diameter: float, aperture: Aperture) -> np.ndarray:
    """Blur a picture by the point spread of one circle of confusion, mirrored at the borders.

    Args:
        picture: (H, W, C) float32 linear light.
        diameter: px from 0.
        aperture: an Aperture.
    Returns:
        (H, W, C) float32; from 12 px on computed on a reduced picture.
    """
    if diameter < 0.3:
        return picture
    height, width = picture.shape[:2]
    factor = next(factor for limit, factor in REDUCED if diameter < limit)
    if factor == 1:
        kernel = spread_kernel(round(diameter, 2), aperture)
        return cv2.filter2D(picture, -1, kernel, borderType=cv2.BORDER_REFLECT)
    small = blur(shrink(picture, factor), diameter / factor, aperture)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def shrink(picture: np.ndarray, factor: int) -> np.ndarray:
    """A picture (H, W) or (H, W, C) reduced by a whole factor, sides rounded up."""
    size = (-(-picture.shape[1] // factor), -(-picture.shape[0] // factor))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


@lru_cache(maxsize=256)
def spread_kernel(diameter: float, aperture: Aperture) -> np.ndarray:
    """The point spread of a circle of confusion on pixels: (S, S) float32 with sum 1, S odd."""
    samples = 6
    fine = point_spread(diameter, aperture, samples).numpy()
    size = len(fine) // samples
    return fine.reshape(size, samples, size, samples).sum((1, 3))


@dataclass
class Surface:
    """A surface of a scene, as `refocus.Layer`, but with points of light.

    Attributes:
        colour: (H, W, 3) float32 linear light.
        alpha: (H, W) float32 in [0, 1], its cover.
        disparity: one number, or (H, W) float32; larger is nearer.
        lights: (L, 6) float32, rows of (x, y, red, green, blue, px across); the light in multiples
            of white.
    """

    colour: np.ndarray
    alpha: np.ndarray
    disparity: float | np.ndarray
    lights: np.ndarray = field(default_factory=NO_LIGHTS.copy)

    def __post_init__(self) -> None:
        parts = (self.colour * self.alpha[..., None], self.alpha[..., None])
        self.reduced = {1: np.concatenate(parts, 2).astype(np.float32)}
        self.levels: dict[tuple[int, int], np.ndarray] = {}  # by rung of LADDER and reduction

    def reduced_by(self, factor: int) -> np.ndarray:
        """The premultiplied surface (H/f, W/f, 4), each pixel the mean over factor x factor px."""
        if factor not in self.reduced:
            self.reduced[factor] = shrink(self.reduced[1], factor)
        return self.reduced[factor]

    def unlit(self) -> "Surface":
        """The surface without its lights."""
        return replace(self, lights=NO_LIGHTS)

    def blurred(
        self,
        coc: float | np.ndarray,
        aperture: Aperture,
        sprites: Sequence[np.ndarray],
        turned: bool,
    ) -> np.ndarray:
        """The surface (H, W, 4), premultiplied, under a circle of confusion.

        Args:
            coc: one number, or (H, W), px.
            aperture: shape of the point spread.
            sprites: its drawings, see `draw_sprites`; not used by a surface without lights.
            turned: whether it lies in front of the focal plane.
        """
        factor = next(factor for limit, factor in REDUCED if np.min(coc) < limit)
        source = self.reduced_by(factor)
        if not isinstance(coc, np.ndarray):
            result = blur(source, float(coc) / factor, aperture)
        else:
            small = shrink(coc, factor) if factor > 1 else coc
            result = self.interpolated(small / factor, factor, aperture)
        height, width = self.alpha.shape
        if factor > 1:
            result = cv2.resize(result, (width, height), interpolation=cv2.INTER_LINEAR)
        if len(self.lights):
            result = np.array(result)
            add_lights(result, self.lights, coc, sprites, turned)
        return result

    def interpolated(self, coc: np.ndarray, factor: int, aperture: Aperture) -> np.ndarray:
        """The blur of circles that differ from place to place, between those of LADDER.

        Args:
            coc: (H/f, W/f) px of the surface reduced by `factor`.
            factor: f.
            aperture: shape of the point spread.
        Returns:
            (H/f, W/f, 4) float32, premultiplied.
        """
        source = self.reduced_by(factor)
        low = int(np.searchsorted(LADDER, coc.min(), "right")) - 1
        high = min(int(np.searchsorted(LADDER, coc.max())), len(LADDER) - 1)
        result = np.zeros_like(source)
        for k in range(low, high + 1):
            below, above = LADDER[max(k - 1, 0)], LADDER[min(k + 1, len(LADDER) - 1)]
            share = np.ones_like(coc) if k == low else (coc - below) / (LADDER[k] - below)
            if k < high:
                share = np.minimum(share, (above - coc) / (above - LADDER[k]))
            touched = np.flatnonzero(share.max(1) > 0)
            if not len(touched):
                continue
            rows = slice(int(touched[0]), int(touched[-1]) + 1)
            if (k, factor) not in self.levels:
                self.levels[k, factor] = blur(source, LADDER[k], aperture)
            share = cv2.merge([share[rows].clip(0, 1).astype(np.float32)] * 4)
            part = torch.from_numpy(result[rows])
            part.addcmul_(torch.from_numpy(share), torch.from_numpy(self.levels[k, factor][rows]))
        return result


def draw_sprites(rng: np.random.Generator, aperture: Aperture) -> list[np.ndarray]:
    """Drawings of the aperture as points of light show it, with rings and rims.

    Returns:
        List of (S, S) float32, S from SPRITE_SIDE down to 8, each with the sum of a disc of ones.
    """
    half = SPRITE_SIDE / 2
    y, x = (np.mgrid[0:SPRITE_SIDE, 0:SPRITE_SIDE].astype(np.float32) + 0.5 - half) / (0.96 * half)
    radius = np.hypot(x, y)
    if aperture.blades:
        wedge = 2 * np.pi / aperture.blades
        angle = (np.arctan2(y, x) + aperture.rotation) % wedge - wedge / 2
        radius = radius * np.cos(angle) / np.cos(wedge / 2)
    edge = rng.choice([0.01, 0.03, 0.1])
    light = ((1 - radius) / edge).clip(0, 1) * (1 - aperture.softness * radius.clip(0, 1) ** 2)
    if aperture.cut:
        shift = aperture.cut * np.array([np.cos(aperture.rotation), np.sin(aperture.rotation)])
        light = light * ((1 - np.hypot(x - shift[0], y - shift[1])) / edge).clip(0, 1)
    kind = rng.random()
    if kind < 0.2:  # onion rings, as of moulded aspheres, or Fresnel's
        rings = np.cos(rng.uniform(20, 80) * radius ** rng.choice([1, 2]) + rng.uniform(0, 6))
        light = light * (1 + rng.uniform(0.1, 0.9) * rings)
    elif kind < 0.4:  # a bright rim, as of soap bubbles
        light = light * (1 + rng.uniform(0.5, 4) * (radius > rng.uniform(0.8, 0.95)))
    elif kind < 0.5:  # the points that renderers sample an aperture with
        light = light * (rng.random(light.shape) < 0.02)
        light = cv2.GaussianBlur(light, (0, 0), 2)
    light = (light / light.sum() * np.pi / 4 * SPRITE_SIDE**2).astype(np.float32)
    sprites, side = [light], SPRITE_SIDE // 2
    while side >= 8:
        sprites.append(cv2.resize(light, (side, side), interpolation=cv2.INTER_AREA))
        side //= 2
    return sprites


def add_lights(
    picture: np.ndarray,
    lights: np.ndarray,
    coc: float | np.ndarray,
    sprites: Sequence[np.ndarray],
    turned: bool,
) -> None:
    """Add points of light as discs of their circles of confusion, in place.

    Args:
        picture: (H, W, 4) float32, premultiplied linear light and alpha.
        lights: (L, 6), see Surface.
        coc: one number, or (H, W), px.
        sprites: drawings of the aperture, see `draw_sprites`.
        turned: rotate them by half a turn, as in front of the focal plane.
    """
    height, width = picture.shape[:2]
    for x, y, *colour, across in lights:
        here = coc[int(y), int(x)] if isinstance(coc, np.ndarray) else coc
        diameter = float(np.hypot(here, across))
        sprite = min((s for s in sprites if len(s) >= diameter), key=len, default=sprites[0])
        if turned:
            sprite = sprite[::-1, ::-1]
        reach = int(np.ceil(diameter / 2)) + 1
        left, top = int(x) - reach, int(y) - reach
        side, zoom = 2 * reach + 1, diameter / len(sprite)
        move = np.array(
            [
                [zoom, 0, x - left - diameter / 2 + zoom / 2],
                [0, zoom, y - top - diameter / 2 + zoom / 2],
            ],
            np.float32,
        )
        drawn = cv2.warpAffine(sprite, move, (side, side), flags=cv2.INTER_LINEAR)
        rows = slice(max(top, 0), min(top + side, height))
        columns = slice(max(left, 0), min(left + side, width))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        drawn = drawn[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
        light = np.float32(colour) * np.float32((across / diameter) ** 2)
        picture[rows, columns, :3] += drawn[..., None] * light
