"""Random scenes of several photographs.

A scene is a background and cut-outs at random slanted or curved depths. What a foreground hides is
therefore known, and the frames of a lens can be computed; see `refocus.refocus_layers`. Everything
is drawn from a NumPy generator: one seed, one scene.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from scipy.fft import next_fast_len

from stackmff.synthesis.camera import develop, random_faults
from stackmff.synthesis.photos import Photos
from stackmff.synthesis.refocus import (
    LEVELS,
    Aperture,
    Focus,
    Layer,
    flatten_layers,
    linear_tensor,
    refocus_layers,
    refocus_picture,
    refocus_regions,
    sharpest_picture,
    to_linear,
)
from stackmff.synthesis.shapes import SHAPES, draw_alpha
from stackmff.synthesis.transmitted import MARGIN, transmitted_frames, transmitted_scene

# Of the scenes; they teach a network to be certain where one frame is right.
REGION_SHARE = 1 / 6
UNFOCUSED_SHARE = 1 / 6  # of the lens's scenes; most of their depth is sharp in no frame
MOST_FRAMES = 40
LEAST_STEP, LARGEST_STEP = 0.5, 3.0  # px of blur between planes, where the number of them is free
TOLERANCE = 3.0  # px; see refocus.sharpest_picture
# Of wide scenes: the largest circle of confusion and its steps between planes, px, and frames.
WIDE_COC, WIDE_STEP, WIDE_FRAMES = (6.0, 36.0), (1.2, 4.0), (4, 12)

Kind = Literal["any", "wide", "regions", "transmitted"]
# frames (N, H, W, 3) and answer (H, W, 3) uint8, disparity (H, W) float32 in [0, 1], settings
Rendered = tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


def random_texture(rng: np.random.Generator, photos: Photos, size: int) -> torch.Tensor:
    """A square piece of a photograph, flipped and turned, at its own size or reduced.

    Args:
        rng: NumPy generator.
        photos: (H, W, 3) uint8 pictures; one with a side under `size` is enlarged.
        size: side in px.
    Returns:
        (3, size, size) float32 in linear light, about [0, 1].
    """
    photo = photos[int(rng.integers(len(photos)))]
    side = int(min(size * np.exp(rng.uniform(0, np.log(2))), *photo.shape[:2]))
    top, left = (rng.integers(0, length - side + 1) for length in photo.shape[:2])
    piece = photo[top : top + side, left : left + side]
    shrinking = side >= size
    piece = cv2.resize(
        piece, (size, size), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC
    )
    piece = np.rot90(piece, int(rng.integers(4)))
    if rng.random() < 0.5:
        piece = piece[:, ::-1]
    colour = linear_tensor(piece)
    if rng.random() < 0.12:  # a surface with hardly any texture
        grain = rng.uniform(0, 0.25)
        colour = colour.mean((1, 2), keepdim=True) * (1 - grain) + colour * grain
    return colour * float(np.exp(rng.normal(0, 0.3)))


def bloom(rng: np.random.Generator, colour: torch.Tensor) -> torch.Tensor:
    """Raise the brightest parts to several times white, like lamps and specular highlights.

    Args:
        rng: NumPy generator.
        colour: (3, H, W) linear light.
    Returns:
        (3, H, W) linear light, unchanged up to 0.6.
    """
    gain = float(rng.uniform(2, 8))
    brightest = colour.amax(0, keepdim=True)
    return colour * (1 + (gain - 1) * ((brightest - 0.6) / 0.4).clamp(0, 1) ** 2)


def random_disparity(
    rng: np.random.Generator, size: int, low: float, high: float, steep: float
) -> torch.Tensor:
    """A plane, sometimes with waves, whose disparity stays within [low, high].

    Args:
        rng: NumPy generator.
        size: side in px.
        low, high: bounds of the disparity.
        steep: share of [low, high] that the slant uses, in [0, 1].
    Returns:
        (size, size) float32.
    """
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    surface = x * np.cos(angle) + y * np.sin(angle)
    if rng.random() < 0.35:
        for _ in range(rng.integers(1, 4)):
            a, b, phase = rng.normal(0, 5), rng.normal(0, 5), rng.uniform(0, 2 * np.pi)
            surface = surface + rng.uniform(0.1, 0.5) * np.sin(a * x + b * y + phase)
    surface = (surface - surface.min()) / max(np.ptp(surface), 1e-6)  # [0, 1]
    start = low + (high - low) * (1 - steep) * rng.random()
    return torch.from_numpy((start + (high - low) * steep * surface).astype(np.float32))


def random_surfaces(rng: np.random.Generator, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The shapes of a random scene, without their colours.

    One in five is a single slanted or curved surface over the whole range of disparity; the others
    are a background and one to six cut-outs.

    Args:
        rng: NumPy generator.
        size: side in px.
    Returns:
        [(alpha, disparity)] from back to front, each (size, size) float32; the first is opaque.
    """
    opaque = torch.ones(size, size)
    if rng.random() < 0.2:
        return [(opaque, random_disparity(rng, size, 0, 1, rng.uniform(0.5, 1)))]
    count = rng.integers(1, 7)
    bounds = np.linspace(0.15, 1, count + 1) if count > 1 else np.array([rng.uniform(0.15, 0.9), 1])
    surfaces = [(opaque, random_disparity(rng, size, 0, bounds[0], rng.random()))]
    for low, high in itertools.pairwise(bounds):
        low += 0.3 * (high - low)
        alpha = torch.from_numpy(draw_alpha(rng, size, rng.choice(list(SHAPES))))
        surfaces.append((alpha, random_disparity(rng, size, low, high, rng.random())))
    return surfaces


def random_layers(rng: np.random.Generator, photos: Photos, size: int) -> list[Layer]:
    """The surfaces of a random scene with pieces of photographs on them; one in four has lamps.

    Args:
        rng: NumPy generator.
        photos: (H, W, 3) uint8.
        size: side in px.
    Returns:
        The layers from back to front, the first of them opaque.
    """
    highlights = rng.random() < 0.25
    layers = []
    for alpha, disparity in random_surfaces(rng, size):
        colour = random_texture(rng, photos, size)
        layers.append(Layer(bloom(rng, colour) if highlights else colour, alpha, disparity))
    return layers


def random_focus(rng: np.random.Generator, n_frames: int) -> np.ndarray:
    """Focal planes of a stack: over all or most of the depth, evenly spaced or not.

    Args:
        rng: NumPy generator.
        n_frames: N.
    Returns:
        (N,) disparities in [0, 1], nearest first.
    """
    first, last = 1.0, 0.0
    if rng.random() < 0.25:  # a stack that stops before everything was sharp
        first, last = 1 - rng.uniform(0, 0.2), rng.uniform(0, 0.2)
    steps = np.ones(n_frames - 1)
    if rng.random() < 0.4:
        steps = rng.uniform(0.4, 1.6, n_frames - 1)
    return first + (last - first) * np.concatenate([[0], np.cumsum(steps) / steps.sum()])


def lens_frames(
    picture: np.ndarray,
    disparity: np.ndarray,
    focus: Focus,
    max_coc: float,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """The frames that a thin lens takes of a photograph with depth; see `refocus_picture`.

    Args:
        picture: (H, W, 3) uint8.
        disparity: (H, W) float32 in [0, 1].
        focus: disparities of the N focal planes.
        max_coc: largest circle of confusion, px.
        device: where they are computed.
    Returns:
        (N, 3, H, W) linear light on the CPU.
    """
    colour = linear_tensor(picture).to(device)
    surface = torch.from_numpy(np.ascontiguousarray(disparity)).to(device)
    return refocus_picture(colour, surface, focus, max_coc).cpu()


def region_scene(
    rng: np.random.Generator, photos: Photos, size: int, n_frames: int, faults: Mapping[str, Any]
) -> Rendered:
    """A photograph whose regions are blurred and pasted together, as the published synthesis does.

    Args:
        rng, photos, size: as for `random_scene`.
        n_frames: N.
        faults: of the camera, arguments of `develop`.
    Returns:
        As `random_scene`.
    """
    linear = random_texture(rng, photos, size)
    picture = develop(rng, linear[None])[0]
    nearest = torch.zeros(size, size)
    for alpha, values in random_surfaces(rng, size):
        nearest = torch.where(alpha >= 0.5, values, nearest)
    disparity = nearest.numpy()
    region = (disparity * n_frames).astype(int).clip(0, n_frames - 1)
    frames = refocus_regions(picture, region, n_frames)[::-1].copy()  # nearest first
    linear = to_linear(torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255)
    focus = (np.arange(n_frames)[::-1] + 0.5) / n_frames
    settings = {"focus_disparity": focus.tolist(), "faults": faults}
    return develop(rng, linear, **faults), picture, disparity, settings


def random_aperture(rng: np.random.Generator) -> Aperture:
    """A random point spread: half are even discs, the others have blades or are soft or cut."""
    blades = int(rng.integers(5, 9)) if rng.random() < 0.3 else 0
    softness = float(rng.uniform(0, 0.8)) if rng.random() < 0.2 else 0.0
    cut = float(rng.uniform(0, 0.8)) if rng.random() < 0.1 else 0.0
    return Aperture(blades, float(rng.uniform(0, 2 * np.pi)), softness, cut)


@dataclass(frozen=True)
class SceneSpec:
    """What a random scene is to be; the rest is drawn.

    Attributes:
        size: side in px.
        max_coc: bound of the largest circle of confusion, px, which is drawn between min_coc and
            this. In one of six of the lens's scenes it is 0.7 to 3 times this, up to 128 px, and
            the stack covers a part of the depth.
        n_frames: N; None for as many (2 to 40) as keep the steps between planes at 0.5 to 3 px.
        faults: arguments of `develop`; None for `random_faults`.
        min_coc: the least that is drawn for the largest circle of confusion, px.
        kind: "regions" is made by `region_scene`; "wide" is of a wide aperture, whatever max_coc
            and min_coc say: blur that is mostly wide beside the detail, few planes far apart, all
            of the depth covered. It is the hardest kind: most of it lies beside edges that veil it.
            "transmitted" is of bodies in transmitted light, see transmitted.py.
    """

    size: int = 224
    max_coc: float = 30.0
    n_frames: int | None = None
    faults: Mapping[str, Any] | None = None
    min_coc: float = 1.0
    kind: Kind = "any"


ANY_SCENE = SceneSpec()


class Plan(NamedTuple):
    """What is drawn of a random scene before it is rendered."""

    faults: Mapping[str, Any]  # of the camera
    regions: bool  # whether `region_scene` makes it
    n_frames: int
    largest: float = 0.0  # circle of confusion, px
    near: float = 1.0  # disparities of the first and the last focal plane
    far: float = 0.0


def draw_plan(rng: np.random.Generator, spec: SceneSpec) -> Plan:
    """The plan of a random scene."""
    faults = random_faults(rng) if spec.faults is None else spec.faults
    if spec.kind == "transmitted":
        return Plan(faults, False, spec.n_frames or transmitted_frames(rng))
    if spec.kind == "wide":
        ranges = np.log([WIDE_COC, WIDE_STEP])
        largest, step = (float(np.exp(rng.uniform(*part))) for part in ranges)
        free = int(np.clip(round(1 + largest / step), *WIDE_FRAMES))
        return Plan(faults, False, spec.n_frames or free, largest)
    if spec.kind == "regions" or rng.random() < REGION_SHARE:
        return Plan(faults, True, spec.n_frames or int(rng.integers(4, 17)))
    widest = max(spec.max_coc, spec.min_coc)
    largest = float(np.exp(rng.uniform(np.log(spec.min_coc), np.log(widest))))
    near, far = 1.0, 0.0
    if rng.random() < UNFOCUSED_SHARE:
        largest = min(float(rng.uniform(0.7, 3) * spec.max_coc), float(LEVELS[-1]))
        far = float(rng.uniform(0, 0.8))
        near = far + (1 - far) * float(rng.uniform(0.1, 0.8))
    n_frames = spec.n_frames
    if n_frames is None:
        step = np.exp(rng.uniform(np.log(LEAST_STEP), np.log(LARGEST_STEP)))
        n_frames = int(np.clip(round(1 + largest * (near - far) / step), 2, MOST_FRAMES))
    return Plan(faults, False, n_frames, largest, near, far)


def numbered_frames(seed: int, number: int, spec: SceneSpec = ANY_SCENE) -> int:
    """How many frames scene `number` of a seed has, see `numbered_scene`, without rendering it."""
    return draw_plan(np.random.default_rng([seed, number]), spec).n_frames


def numbered_scene(
    photos: Photos,
    seed: int,
    number: int,
    spec: SceneSpec = ANY_SCENE,
    device: torch.device | str = "cpu",
) -> Rendered:
    """Scene `number` of a seed, the same wherever it is rendered: to files or during training.

    Args:
        photos, spec, device: as for `random_scene`.
        seed: of all scenes.
        number: of the scene, from 0.
    Returns:
        As `random_scene`.
    """
    return random_scene(np.random.default_rng([seed, number]), photos, spec, device)


def random_scene(
    rng: np.random.Generator,
    photos: Photos,
    spec: SceneSpec = ANY_SCENE,
    device: torch.device | str = "cpu",
) -> Rendered:
    """A random scene as a lens and a camera see it; one in six is made by `region_scene`.

    Args:
        rng: NumPy generator.
        photos: sequence of (H, W, 3) uint8 pictures to cut from.
        spec: what is drawn.
        device: where the lens's blur is computed; everything else runs in NumPy on the CPU. The
            frames of two devices may differ by a grey level here and there.
    Returns:
        frames (N, size, size, 3) uint8 nearest focus first; all-in-focus answer (size, size, 3)
        uint8 without faults, in which what no frame shows sharp is as `sharpest_picture` has it;
        disparity (size, size) float32 in [0, 1]; settings (plain JSON values).
    """
    plan = draw_plan(rng, spec)
    if plan.regions:
        return region_scene(rng, photos, spec.size, plan.n_frames, plan.faults)
    if spec.kind == "transmitted":
        return microscope_scene(rng, photos, spec.size, plan)
    return lens_scene(rng, photos, spec.size, plan, device)


def microscope_scene(rng: np.random.Generator, photos: Photos, size: int, plan: Plan) -> Rendered:
    """A scene of bodies in transmitted light, see transmitted.py; as `random_scene`.

    Its disparity is 0 everywhere: bodies at several depths are seen at one place.
    """
    texture = random_texture(rng, photos, size + 2 * MARGIN)
    light, seen, settings = transmitted_scene(rng, texture.numpy(), plan.n_frames)
    frames = develop(rng, torch.from_numpy(light), **plan.faults)
    answer = develop(rng, torch.from_numpy(seen[None]))[0]
    flat = np.zeros((size, size), np.float32)
    return frames, answer, flat, {**settings, "faults": plan.faults}


def lens_scene(
    rng: np.random.Generator, photos: Photos, size: int, plan: Plan, device: torch.device | str
) -> Rendered:
    """A scene of surfaces that hide one another, as a lens sees them; as `random_scene`."""
    largest = plan.largest
    margin = int(np.ceil(largest / 2)) + 2
    layers = random_layers(rng, photos, next_fast_len(size + 2 * margin))
    layers = [layer.to(device) for layer in layers]
    aperture = random_aperture(rng)
    focus = plan.far + (plan.near - plan.far) * random_focus(rng, plan.n_frames)
    inside = (..., slice(margin, margin + size), slice(margin, margin + size))
    linear = refocus_layers(layers, focus, largest, aperture)[inside].cpu()
    sharpest = sharpest_picture(layers, focus, largest, aperture, TOLERANCE)
    disparity = flatten_layers(layers)[1]
    frames = develop(rng, linear, **plan.faults)
    answer = develop(rng, sharpest[None][inside])[0]
    settings = {
        "focus_disparity": focus.tolist(),
        "aperture_px": largest,
        "aperture": vars(aperture),
        "faults": plan.faults,
    }
    return frames, answer, disparity[inside].cpu().numpy(), settings
