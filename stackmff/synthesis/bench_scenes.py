"""Scenes of photographs with exact answers: what stackmff-bench is rendered from.

`bench_setups` says what a scene shows. Everything else is drawn from a generator here, and
`aperture.render` takes the frames.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import cv2
import numpy as np

from stackmff.images.colour import to_srgb
from stackmff.synthesis.aperture import NO_LIGHTS, Plane, Sheet, render
from stackmff.synthesis.bench_setups import Part, Setup
from stackmff.synthesis.photos import Photos
from stackmff.synthesis.shapes import draw_alpha
from stackmff.synthesis.surface_detail import linear_of_code, mirrored_cut, surface_colour

MOST_STEEP = 0.6  # of the steepness at which a surface hides parts of itself


class BenchScene(NamedTuple):
    """A rendered scene: the frames are nearest focus first, the answer has no noise."""

    frames: np.ndarray  # (N, H, W, 3) uint8
    answer: np.ndarray  # (H, W, 3) uint8
    disparity: np.ndarray  # (H, W) float32 in [0, 1], of the nearest surface
    settings: dict[str, Any]  # plain JSON values


def render_setup(rng: np.random.Generator, setup: Setup, photos: Photos) -> BenchScene:
    """Draw and render a scene.

    Args:
        rng: NumPy generator; one state, one scene.
        setup: what it shows.
        photos: (H, W, 3) uint8 pictures to cut from.
    """
    margin = int(np.ceil(setup.max_coc / 2)) + 4
    height, width = (side + 2 * margin for side in setup.size)
    sheets = [draw_sheet(rng, part, setup, photos, (height, width)) for part in setup.parts]
    focus = focal_planes(setup)
    rotation = float(rng.uniform(0, 2 * np.pi))
    frames, answer = render(
        sheets, focus, setup.max_coc, margin, setup.blades, rotation, most=setup.most
    )
    inside = slice(margin, -margin), slice(margin, -margin)
    return BenchScene(
        np.stack([developed(rng, frame, setup.noise) for frame in frames]),
        developed(rng, answer),
        nearest_disparity(sheets)[inside],
        {**asdict(setup), "focus_disparity": focus.tolist(), "rotation": rotation},
    )


def draw_sheet(
    rng: np.random.Generator, part: Part, setup: Setup, photos: Photos, size: tuple[int, int]
) -> Sheet:
    """A surface of a setup, drawn; size: (height, width) with the margins, px."""
    height, width = size
    cover = np.ones(size, np.float32)
    if part.shape:
        drawn = draw_alpha(rng, max(size), part.shape)
        cover = np.ascontiguousarray(drawn[:height, :width])
    if part.tone == "photo":
        colour = photo_colour(rng, photos, height, width) * np.float32(np.exp(rng.normal(0, 0.2)))
    else:
        colour = surface_colour(rng, photos, height, width, part.tone)
    if setup.gain > 1:
        over = ((colour.max(2) - 0.6) / 0.4).clip(0, 1) ** 2
        colour = colour * (1 + np.float32(setup.gain - 1) * over)[..., None]
    lights = draw_spots(rng, cover, part.lights) if part.lights else NO_LIGHTS
    return Sheet(colour, cover, draw_disparity(rng, part, setup.max_coc, size), lights)


def photo_colour(rng: np.random.Generator, photos: Photos, height: int, width: int) -> np.ndarray:
    """A piece of a photograph, (height, width, 3) float32 linear light, mirrored where it ends.

    Large photographs are reduced to twice the piece at most, so that it shows more than a detail.
    """
    photo = photos[int(rng.integers(len(photos)))]
    shrink = 2 * max(height, width) / max(photo.shape[:2])
    if shrink < 1:
        photo = cv2.resize(photo, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    # Pictures of packages are small: enlarged, a large piece is not the same thing over and over.
    scale = max(1.0, 0.6 * max(height, width) / max(photo.shape[:2]))
    colour: np.ndarray = linear_of_code()[mirrored_cut(rng, photo, height, width, scale)]
    return colour


def draw_spots(rng: np.random.Generator, cover: np.ndarray, count: int) -> np.ndarray:
    """Points of light where a surface covers, (L, 6) float32; see `aperture.Sheet`."""
    height, width = cover.shape
    x, y = rng.uniform(0, width - 1, 20 * count), rng.uniform(0, height - 1, 20 * count)
    seen = np.flatnonzero(cover[np.rint(y).astype(int), np.rint(x).astype(int)] > 0.9)[:count]
    strength = np.exp(rng.uniform(np.log(3), np.log(100), len(seen)))
    tint = np.exp(rng.normal(0, 0.4, (len(seen), 3)))
    sigma = np.exp(rng.uniform(np.log(0.7), np.log(2), len(seen)))
    rows = [x[seen], y[seen], *(strength[:, None] * tint).T, sigma]
    return np.stack(rows, 1).astype(np.float32)


def draw_disparity(
    rng: np.random.Generator, part: Part, max_coc: float, size: tuple[int, int]
) -> Plane | np.ndarray:
    """The disparity of a surface within the range of its part.

    Args:
        rng: NumPy generator.
        part: of the setup.
        max_coc: px per unit of disparity, which bounds how steep a surface can be.
        size: (height, width), px.
    Returns:
        A Plane, or (height, width) float32.
    """
    height, width = size
    span, middle = part.high - part.low, (part.low + part.high) / 2
    if part.relief == "flat" or span <= 0:
        return Plane(middle)
    steepest = MOST_STEEP * 2 / max_coc
    angle = rng.uniform(0, 2 * np.pi)
    if part.relief == "slant":
        reach = abs(np.cos(angle)) * (width - 1) + abs(np.sin(angle)) * (height - 1)
        slope = min(span / reach, steepest)
        return Plane(middle, float(slope * np.cos(angle)), float(slope * np.sin(angle)))
    y, x = np.mgrid[0:1:33j, 0:1:33j]
    surface = rng.uniform(0, 0.7) * (x * np.cos(angle) + y * np.sin(angle))
    for _ in range(rng.integers(2, 5)):
        a, b, phase = rng.normal(0, 6), rng.normal(0, 6), rng.uniform(0, 2 * np.pi)
        surface = surface + rng.uniform(0.1, 0.5) * np.sin(a * x + b * y + phase)
    surface = cv2.resize(surface.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    surface = (surface - surface.min()) / np.ptp(surface)
    down, right = np.gradient(surface)
    span = min(span, steepest / float(np.hypot(down, right).max()))
    bumps: np.ndarray = np.float32(middle - span / 2) + np.float32(span) * surface
    return bumps


def focal_planes(setup: Setup) -> np.ndarray:
    """The N focal planes of a setup, nearest first."""
    if setup.even:
        return np.linspace(1, 0, setup.n_frames)
    ranges = [(part.low, part.high) for part in setup.parts if part.focused]
    widths = np.array([high - low for low, high in ranges])
    counts = np.ones(len(ranges), int)
    while counts.sum() < setup.n_frames and widths.any():
        counts[np.argmax(widths / counts)] += 1  # where the planes are farthest apart
    planes = [
        (low + high) / 2 + (high - low) * ((np.arange(count) + 0.5) / count - 0.5)
        for (low, high), count in zip(ranges, counts)
    ]
    return np.sort(np.concatenate(planes))[::-1]


def nearest_disparity(sheets: Sequence[Sheet]) -> np.ndarray:
    """The disparity of the nearest surface that covers half of a pixel, (H, W) float32."""
    height, width = sheets[0].cover.shape
    seen = np.zeros((height, width), np.float32)
    for sheet in sheets:
        disparity = sheet.disparity
        if isinstance(disparity, Plane):
            disparity = disparity.over(height, width)
        seen = np.where(sheet.cover >= 0.5, disparity, seen)
    return seen.clip(0, 1)


def developed(
    rng: np.random.Generator, linear: np.ndarray, noise: tuple[float, float] | None = None
) -> np.ndarray:
    """Linear light (H, W, 3) float32 as sRGB codes (H, W, 3) uint8.

    Args:
        rng: NumPy generator.
        linear: clipped to [0, 1].
        noise: (full well, read noise) in electrons, photon noise as a Gaussian of its variance.
    """
    linear = linear.clip(0, 1)
    if noise:
        full_well, read = (np.float32(value) for value in noise)
        grain = rng.standard_normal(linear.shape, np.float32)
        linear = linear + np.sqrt(linear / full_well + (read / full_well) ** 2) * grain
    codes: np.ndarray = np.round(255 * to_srgb(linear.clip(0, 1))).astype(np.uint8)
    return codes
