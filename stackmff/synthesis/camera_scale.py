"""Random scenes at camera scale: blur to 200 px and more, highlights far beyond white.

`scenes.py` draws what a small picture shows; here are the situations of photographs of many
megapixels. Circles of confusion are wide beside the detail, frames lie far apart in blur, points of
light become discs with the shape of the aperture, dark bodies stand before bright grounds that no
frame has in focus. Everything is drawn from a NumPy generator: one seed and number, one scene. A
scene of 10 frames of 1024x768 takes a second of one core.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from stackmff.images.colour import to_srgb
from stackmff.synthesis.accumulated import accumulated, add_spots, can_accumulate
from stackmff.synthesis.camera import recompress
from stackmff.synthesis.camera_surfaces import Planes, draw_surfaces
from stackmff.synthesis.photos import Photos
from stackmff.synthesis.refocus import Aperture
from stackmff.synthesis.scenes import TOLERANCE
from stackmff.synthesis.wide_blur import Surface, draw_sprites

KEPT_GRAIN = 3000  # electrons at saturation; from there on the answer may keep the noise
MOST_COC, LEAST_COC = 260.0, 12.0  # px per unit of disparity
ACCUMULATED = 0.5  # of the scenes that can be rendered so
MOST_FRAMES = 12
HIGHLIGHT = 3.0  # times white, from where on blur turns a small thing into a disc

Scene = tuple[np.ndarray, np.ndarray, dict[str, Any]]  # frames, answer, settings


@lru_cache(maxsize=1)
def code_of_linear() -> np.ndarray:
    """The sRGB codes of linear light 0 to 1 in steps of 1/65535, (65536,) uint8."""
    codes: np.ndarray = np.round(255 * to_srgb(np.arange(65536) / 65535)).astype(np.uint8)
    return codes


def draw_focus(rng: np.random.Generator, planes: Planes, n_frames: int) -> np.ndarray:
    """Focal planes over the ranges that are to be in focus, each at least once, nearest first."""
    widths = np.array([high - low for low, high in planes]) + 0.02
    ideal = widths / widths.sum() * n_frames
    counts = np.maximum(ideal.astype(int), 1)
    ranges = [
        np.linspace(low, high, count + 2)[1:-1] if count == 1 else np.linspace(low, high, count)
        for (low, high), count in zip(planes, counts, strict=True)
    ]
    focus = np.unique(np.concatenate(ranges))
    if len(focus) < 2:
        focus = np.unique(np.append(focus, [max(focus[0] - 0.3, 0), min(focus[0] + 0.3, 1)]))
    if rng.random() < 0.3:
        focus = np.unique((focus + rng.normal(0, 0.02, len(focus))).clip(0, 1.05))
    return focus[::-1]


def add_glare(picture: np.ndarray, share: float, sigma: float) -> np.ndarray:
    """Light that the lens scatters from bright places.

    Args:
        picture: (H, W, 3) float32 linear light.
        share: of the light that is scattered.
        sigma: of the Gaussian over which it is scattered, px.
    Returns:
        As picture.
    """
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (-(-width // 8), -(-height // 8)), interpolation=cv2.INTER_AREA)
    wide = cv2.GaussianBlur(small, (0, 0), sigma / 8)
    wide = cv2.resize(wide, (width, height), interpolation=cv2.INTER_LINEAR)
    mixed: np.ndarray = picture * (1 - share) + wide * share
    return mixed


def coded(
    rng: np.random.Generator, linear: np.ndarray, noise: tuple[float, float] | None = None
) -> np.ndarray:
    """Linear light (H, W, 3) to sRGB codes (H, W, 3) uint8.

    Args:
        rng: NumPy generator.
        linear: float32, clipped to [0, 1].
        noise: (full well, read noise) in electrons, photon noise as a Gaussian of the same
            variance; None for none.
    """
    linear = linear.clip(0, 1)
    if noise:
        full_well, read = (np.float32(part) for part in noise)
        grain = rng.standard_normal(linear.shape, np.float32)
        linear = (linear + np.sqrt(linear / full_well + (read / full_well) ** 2) * grain).clip(0, 1)
    codes: np.ndarray = code_of_linear()[(linear * 65535 + 0.5).astype(np.uint16)]
    return codes


def random_aperture(rng: np.random.Generator) -> Aperture:
    """A point spread at random, see refocus.Aperture."""
    blades = int(rng.integers(5, 10)) if rng.random() < 0.4 else 0
    softness = float(rng.choice([0.3, 0.6, 0.9])) if rng.random() < 0.25 else 0.0
    cut = float(rng.choice([0.2, 0.4, 0.7])) if rng.random() < 0.15 else 0.0
    return Aperture(blades, float(rng.uniform(0, 2 * np.pi)), softness, cut)


class Camera(NamedTuple):
    """How surfaces are photographed.

    Attributes:
        coc: circle of confusion per unit of disparity, px.
        aperture: shape of the point spread.
        sprites: its drawings, see `draw_sprites`.
        noise: see `coded`.
        glare: share and sigma of `add_glare`, or None.
    """

    coc: float
    aperture: Aperture
    sprites: list[np.ndarray]
    noise: tuple[float, float] | None
    glare: tuple[float, float] | None

    def seen(
        self,
        surfaces: Sequence[Surface],
        cocs: Sequence[float | np.ndarray],
        turned: Sequence[bool],
    ) -> np.ndarray:
        """Surfaces under circles of confusion, one for each: (H, W, 3) float32 linear light.

        Args:
            surfaces: from back to front.
            cocs: numbers, or (H, W), px.
            turned: whether they are in front of the focal plane.
        """
        height, width = surfaces[0].alpha.shape
        total = torch.zeros(height, width, 3)
        for surface, coc, before in zip(surfaces, cocs, turned, strict=True):
            layer = torch.from_numpy(surface.blurred(coc, self.aperture, self.sprites, before))
            total.mul_(1 - layer[..., 3:]).add_(layer[..., :3])
        picture: np.ndarray = total.numpy()
        return add_glare(picture, *self.glare) if self.glare else picture

    def cocs(self, surfaces: Sequence[Surface], plane: float) -> list[Any]:
        """The circles of confusion of surfaces with the focus on a plane, px."""
        return [self.coc * np.abs(s.disparity - np.float32(plane)) for s in surfaces]

    def accumulates(self, surfaces: Sequence[Surface], focus: np.ndarray) -> bool:
        """Whether surfaces can be photographed by accumulation, and lights are in focus once."""
        lit = [surface for surface in surfaces if len(surface.lights)]
        return can_accumulate(surfaces, len(focus), self.coc, self.aperture) and all(
            np.max(coc) <= TOLERANCE for coc in self.least_cocs(lit, focus)
        )

    def least_cocs(self, surfaces: Sequence[Surface], focus: np.ndarray) -> list[Any]:
        """The circle of confusion of each surface where it is sharpest, a number or (H, W), px."""
        return [np.min([self.cocs([s], plane)[0] for plane in focus], 0) for s in surfaces]

    def photographs(
        self, surfaces: Sequence[Surface], focus: np.ndarray, exact: bool
    ) -> Iterator[np.ndarray]:
        """The frames of focal planes, (H, W, 3) float32 linear light each.

        Args:
            surfaces: from back to front.
            focus: (N,) disparities.
            exact: by accumulation over the aperture.
        """
        if exact:
            for picture in accumulated(surfaces, focus, self.coc, self.aperture):
                yield add_glare(picture, *self.glare) if self.glare else picture
            return
        for plane in focus:
            turned = [bool(np.mean(surface.disparity) > plane) for surface in surfaces]
            yield self.seen(surfaces, self.cocs(surfaces, plane), turned)


def random_camera(rng: np.random.Generator, coc: float) -> Camera:
    """A camera with these circles of confusion, everything else at random."""
    aperture = random_aperture(rng)
    sprites = draw_sprites(rng, aperture)
    noise = None
    if rng.random() < 0.45:
        noise = (float(np.exp(rng.uniform(np.log(300), np.log(20000)))), float(rng.uniform(1, 6)))
    glare = (float(rng.uniform(0, 0.06)), float(rng.uniform(16, 120)))
    return Camera(coc, aperture, sprites, noise, None if rng.random() < 0.6 else glare)


def large_scene(
    rng: np.random.Generator,
    photos: Photos,
    size: tuple[int, int],
    most_frames: int = MOST_FRAMES,
) -> Scene:
    """A random scene at camera scale.

    Args:
        rng: NumPy generator.
        photos: to cut from.
        size: (height, width) px.
        most_frames: bound of N.
    Returns:
        frames (N, height, width, 3) uint8, nearest focus first; answer (height, width, 3) uint8;
        settings (plain JSON values), "highlights" for lights or glints. The answer has no noise,
        or that of the sharp frames if it is faint, since a network whose answers never have any
        averages faint texture away. What no frame has in focus is as blurred in it as where it is
        nearest to focus.
    """
    surfaces, planes = draw_surfaces(rng, photos, *size)
    largest = float(np.exp(rng.uniform(np.log(LEAST_COC), np.log(MOST_COC))))
    largest = min(largest, max(size) / 2)
    fewest = min(max(3, len(planes)), most_frames)
    focus = draw_focus(rng, planes, int(rng.integers(fewest, most_frames + 1)))
    focus = focus[:most_frames]
    camera = random_camera(rng, largest)
    noise = camera.noise
    keeps_grain = noise is not None and noise[0] > KEPT_GRAIN and rng.random() < 0.9
    exact = rng.random() < ACCUMULATED and camera.accumulates(surfaces, focus)
    frames, grain = [], []
    for picture in camera.photographs(surfaces, focus, exact):
        frames.append(coded(rng, picture, noise))
        if keeps_grain:
            grain.append(frames[-1].astype(np.int16) - coded(rng, picture))
    answer = coded(rng, sharpest(camera, surfaces, focus, exact))
    if keeps_grain:
        nearest = sharpest_frame(surfaces, focus)
        kept = np.take_along_axis(np.stack(grain), nearest[None, ..., None], 0)[0]
        answer = (answer + kept).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.15:
        quality = int(rng.integers(80, 99))
        frames = [recompress(frame, quality) for frame in frames]
    settings = {
        "accumulated": exact,
        "focus": focus.tolist(),
        "aperture_px": largest,
        "highlights": any(
            len(surface.lights) > 0 or surface.colour.max() > HIGHLIGHT for surface in surfaces
        ),
        "noise": noise,
        "glare": camera.glare,
    }
    return np.stack(frames), answer, settings


def sharpest(
    camera: Camera, surfaces: Sequence[Surface], focus: np.ndarray, exact: bool = False
) -> np.ndarray:
    """Each surface as in its sharpest frame, (H, W, 3) linear light; blur up to TOLERANCE is none.

    Args:
        camera: its coc is used.
        surfaces: from back to front.
        focus: (N,) disparities of the focal planes.
        exact: lights as `accumulated` shows them, in focus.
    """
    least = [
        coc * ((coc - TOLERANCE) / TOLERANCE).clip(0, 1)
        for coc in camera.least_cocs(surfaces, focus)
    ]
    if not exact:
        return camera.seen(surfaces, least, [False] * len(surfaces))
    picture = np.zeros_like(surfaces[0].colour)
    for surface, coc in zip(surfaces, least, strict=True):
        layer = surface.unlit().blurred(coc, camera.aperture, camera.sprites, False)
        picture = picture * (1 - layer[..., 3:]) + layer[..., :3]
        add_spots(picture, surface)
    return add_glare(picture, *camera.glare) if camera.glare else picture


def sharpest_frame(surfaces: Sequence[Surface], focus: np.ndarray) -> np.ndarray:
    """The index of the focal plane nearest to what is visible at each pixel, (H, W) int."""
    seen = np.zeros(surfaces[0].alpha.shape, np.float32)
    for surface in surfaces:
        seen = np.where(surface.alpha >= 0.5, surface.disparity, seen)
    nearest: np.ndarray = np.argmin([np.abs(seen - np.float32(plane)) for plane in focus], 0)
    return nearest


def numbered_large_scene(
    photos: Photos, seed: int, number: int, most_frames: int = MOST_FRAMES
) -> Scene:
    """Scene `number` of a seed at camera scale, of 512 to 1088 px a side; see `large_scene`."""
    rng = np.random.default_rng([seed, number, 27])
    height, width = (int(64 * rng.integers(8, 18)) for _ in range(2))
    return large_scene(rng, photos, (height, width), most_frames)
