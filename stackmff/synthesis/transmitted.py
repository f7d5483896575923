"""Scenes of bodies in transmitted light, as a microscope in bright field shows them.

Out of focus such a body is not only blurred: what it delays becomes bright and dark rings around
its edge, bright inside on one side of the focus and dark on the other, though the body in focus
shows what it absorbs alone. A ring of a defocused frame has more contrast than the edge itself.

Source: transfer functions of weak objects, absorption cos(X) and phase 2 sin(X) with
X = pi lambda z f^2, f in cycles per length; Kirkland, "Advanced Computing in Electron Microscopy",
chapter 3, and, for light, Barone-Nugent, Barty and Nugent, "Quantitative phase-amplitude
microscopy I", 2002.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np

from stackmff.synthesis.surface_detail import draw_specks

MARGIN = 32  # px around the picture, since the transform is periodic
RINGS = 4.0, 14.0  # px, width of the first ring where a frame is farthest out of focus
RADII = 5.0, 50.0  # px, of bodies
PHASE = 0.2, 2.0  # of the middle of a body, radians
ABSORBED = 0.1, 0.7  # of the light, in the middle of a body
FRAMES = 5, 14


class Bodies(NamedTuple):
    """Bodies at one depth.

    Attributes:
        absorbed: (3, H, W) float32, part of the light.
        phase: (H, W) float32, radians.
        depth: in [-1, 1].
    """

    absorbed: np.ndarray
    phase: np.ndarray
    depth: float


def transmitted_frames(rng: np.random.Generator) -> int:
    """How many frames a scene has."""
    return int(rng.integers(FRAMES[0], FRAMES[1] + 1))


def draw_thickness(rng: np.random.Generator, side: int) -> np.ndarray:
    """The thickness of random bodies: domes, lenses with a hollow, flat discs; (side, side).

    Returns:
        float32 in about [0, 1], smooth over a pixel.
    """
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    thickness = np.zeros((side, side), np.float32)
    radius = float(np.exp(rng.uniform(*np.log(RADII))))
    hollow = rng.uniform(0, 0.9) if rng.random() < 0.4 else 0.0
    power = rng.uniform(0.2, 1.0)
    for _ in range(int(np.clip(0.5 * side**2 / (4 * radius**2) * rng.random() + 1, 1, 60))):
        own = radius * np.exp(rng.normal(0, 0.15))
        across, down = rng.uniform(0, side, 2)
        angle, longer = rng.uniform(0, np.pi), np.exp(abs(rng.normal(0, 0.2)))
        u = ((x - across) * np.cos(angle) + (y - down) * np.sin(angle)) / (own * longer)
        v = ((y - down) * np.cos(angle) - (x - across) * np.sin(angle)) / own * longer
        squared = u * u + v * v
        body = np.maximum(1 - squared, 0) ** power * (1 - hollow * np.exp(-4 * squared))
        thickness = np.maximum(thickness, body)
    return cv2.GaussianBlur(thickness, (0, 0), float(rng.uniform(0.5, 1.0)))


def draw_bodies(rng: np.random.Generator, texture: np.ndarray, depths: np.ndarray) -> list[Bodies]:
    """Random bodies at one to three of `depths`, often also specks that absorb alone.

    Args:
        rng: NumPy generator.
        texture: (3, side, side), seen on some of them.
        depths: of the frames.
    """
    side = texture.shape[-1]
    found = []
    for depth in rng.choice(depths, int(rng.integers(1, 4))):
        thickness = draw_thickness(rng, side)
        colour = rng.uniform(0.2, 1, (3, 1, 1)) if rng.random() < 0.7 else np.ones((3, 1, 1))
        grain = 1 + rng.uniform(0, 0.6) * (texture.mean(0) - 0.5)
        absorbed = rng.uniform(*ABSORBED) * colour * thickness * grain
        phase = rng.choice([-1, 1]) * np.exp(rng.uniform(*np.log(PHASE))) * thickness
        found.append(Bodies(absorbed.astype(np.float32), phase.astype(np.float32), float(depth)))
    if rng.random() < 0.9:  # dust and granules: they are there, unlike the spots of what is blurred
        specks = draw_specks(rng, side, side, int(rng.integers(1, 30)))
        absorbed = rng.uniform(0.5, 0.95) * np.broadcast_to(specks, (3, side, side))
        nothing = np.zeros((side, side), np.float32)
        found.append(Bodies(absorbed.astype(np.float32), nothing, float(rng.choice(depths))))
    return found


def transmitted_light(
    ground: np.ndarray, bodies: list[Bodies], depth: float | None, ring: float, blur: float
) -> np.ndarray:
    """What is seen of bodies where the focus lies at a depth.

    Args:
        ground: (3, H, W) linear light behind them.
        bodies: that lie before it.
        depth: of the focus; None: each of the bodies is in focus.
        ring: width of the first ring at a distance of 1 from the focus, px.
        blur: how fast contrast falls with the distance from the focus, 1 for few rings.
    Returns:
        (3, H, W) linear light from 0.
    """
    height, width = ground.shape[1:]
    squared = np.fft.fftfreq(height)[:, None] ** 2 + np.fft.rfftfreq(width)[None] ** 2
    change = np.zeros((3, height, width // 2 + 1), np.complex64)
    for one in bodies:
        distance = 0.0 if depth is None else depth - one.depth
        angle = np.pi * ring**2 * distance * squared
        fading = np.exp(-((blur * np.pi * ring * distance) ** 2) * squared / 2)
        change -= np.fft.rfft2(one.absorbed) * (fading * np.cos(angle))
        change += np.fft.rfft2(one.phase) * (2 * fading * np.sin(angle))
    seen = ground * (1 + np.fft.irfft2(change, (height, width)))
    return np.maximum(seen, 0).astype(np.float32)


def transmitted_scene(
    rng: np.random.Generator, texture: np.ndarray, n_frames: int
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """A random scene in transmitted light.

    Args:
        rng: NumPy generator.
        texture: (3, S, S) linear light, S with MARGIN on all sides.
        n_frames: N.
    Returns:
        frames (N, 3, s, s) and answer (3, s, s) in linear light, float32, without the margin, and
        settings (plain JSON values).
    """
    side = texture.shape[-1]
    depths = np.linspace(1, -1, n_frames)
    tint = rng.uniform(0.55, 0.95) * (1 + rng.normal(0, 0.03, (3, 1, 1)))
    shading = np.linspace(0, rng.uniform(-0.1, 0.1), side)
    ground = (tint * (1 + shading) * np.ones((3, side, side))).astype(np.float32)
    bodies = draw_bodies(rng, texture, depths)
    ring, blur = float(np.exp(rng.uniform(*np.log(RINGS)))), float(rng.uniform(0.15, 0.6))
    inside = (..., slice(MARGIN, side - MARGIN), slice(MARGIN, side - MARGIN))
    frames = [transmitted_light(ground, bodies, float(z), ring, blur)[inside] for z in depths]
    answer = transmitted_light(ground, bodies, None, ring, blur)[inside]
    settings = {
        "focus_disparity": ((depths + 1) / 2).tolist(),
        "ring_px": ring,
        "depths": [one.depth for one in bodies],
    }
    return np.stack(frames), answer.copy(), settings
