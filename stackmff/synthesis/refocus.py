"""From a picture with depth, or from layers, to the focal stack that a lens would take of it.

There are two ways: the published one pastes blurred regions of a picture together
(`published_refocus`); a thin lens blurs every surface by its circle of confusion in linear light
and composites it over what lies behind it (`refocus_layers`, `refocus_picture`).

Disparity is scaled to [0, 1], larger = nearer. A thin lens's circle of confusion is linear in it:
c = f A |1/z - 1/z_focus| (f focal length, A aperture, both through the magnification), so one
number, `aperture` in px per unit of disparity, stands for the lens.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from scipy.fft import next_fast_len

from stackmff.images import colour

# Circles of confusion, px, between whose blurs the others are interpolated.
LEVELS: tuple[float, ...] = (
    *(0, 0.4, 0.7, 1, 1.3, 1.6, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 10, 12, 14, 17, 20, 24, 28, 33),
    *(39, 46, 54, 64, 76, 90, 108, 128),
)
RIM = 1  # px beside a nearer surface whose colour is not copied: it contains some of that surface

Focus = Sequence[float] | np.ndarray  # disparities of the focal planes, in [0, 1]
Values = TypeVar("Values", float, np.ndarray, torch.Tensor)


def to_linear(coded: torch.Tensor) -> torch.Tensor:
    """sRGB-coded values in [0, 1] to linear light, any shape (IEC 61966-2-1)."""
    return colour.to_linear(coded, torch.where)


def to_srgb(linear: torch.Tensor) -> torch.Tensor:
    """Linear light to sRGB-coded values in [0, 1], any shape; clips (IEC 61966-2-1)."""
    return colour.to_srgb(linear.clamp(0, 1), torch.where)


def linear_tensor(picture: np.ndarray) -> torch.Tensor:
    """A picture (H, W, 3) uint8 as (3, H, W) float32 in linear light."""
    coded = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float() / 255
    return to_linear(coded)


def coc_px(disparity: Values, focus_disparity: Any, aperture: float) -> Values:
    """Diameter of the circle of confusion in px.

    Args:
        disparity: of the surface, [0, 1], larger = nearer, any shape.
        focus_disparity: of the focal plane, [0, 1].
        aperture: px per unit of disparity.
    Source: thin lens; c = f A |1/z - 1/z_focus|.
    """
    return aperture * abs(disparity - focus_disparity)


@dataclass(frozen=True)
class Aperture:
    """The shape of a point spread: a disc or a polygon, with an even or soft rim, whole or cut.

    Attributes:
        blades: 0 for a disc, else 5 or more.
        rotation: radians.
        softness: in [0, 1], how much of the light is missing at the rim; 0 is even, 1 falls to 0.
        cut: in [0, 1), how far a second disc, the barrel of the lens, is displaced from the first,
            as a share of the radius and in the direction of `rotation`: the cat's eye towards the
            corners of a picture. It should flip behind the focal plane, and does not here.
    """

    blades: int = 0
    rotation: float = 0.0
    softness: float = 0.0
    cut: float = 0.0


def point_spread(
    diameter: float, aperture: Aperture, samples: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """The point spread of a circle of confusion, sampled more finely than the pixels.

    Args:
        diameter: px, above 0.
        aperture: its shape.
        samples: per pixel and side.
        device: where it is computed.
    Returns:
        (S samples, S samples) float32 with sum 1, S odd; the pixel in the middle is the centre.
    """
    half = int(np.ceil(diameter / 2 + 0.5))
    line = torch.arange((2 * half + 1) * samples, device=device)
    line = (line + 0.5) / samples - half - 0.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    radius = torch.hypot(x, y) / (diameter / 2)
    if aperture.blades:
        wedge = 2 * np.pi / aperture.blades
        angle = (torch.atan2(y, x) + aperture.rotation) % wedge - wedge / 2
        # A polygon of the disc's area, so that blades do not change the amount of blur.
        area = aperture.blades / np.pi * np.tan(np.pi / aperture.blades)
        radius = radius * torch.cos(angle) * np.sqrt(area)
    light = (radius <= 1) * (1 - aperture.softness * radius.clamp(max=1) ** 2)
    if aperture.cut:
        shift = aperture.cut * diameter / 2
        x, y = x - shift * np.cos(aperture.rotation), y - shift * np.sin(aperture.rotation)
        light = light * (torch.hypot(x, y) <= diameter / 2)
    return light / light.sum()


@lru_cache(maxsize=32)  # the layers of a scene share theirs
def transfer_function(
    diameter: float,
    aperture: Aperture,
    height: int,
    width: int,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Fourier transform of a point spread on the grid of `torch.fft.rfft2`.

    Small spreads are transformed directly, because even half a pixel of blur counts. Large ones are
    first averaged over the pixels, because their sharp rim would ring beside highlights.

    Args:
        diameter: px, above 0.
        aperture: its shape.
        height, width: of the picture, px.
        device: where it is computed.
    Returns:
        (height, width // 2 + 1) complex64.
    """
    samples = 12 if diameter < 4 else 6
    spread = point_spread(diameter, aperture, samples, device)
    size = spread.shape[0] // samples
    if diameter < 4:
        places = (torch.arange(size * samples, device=device) + 0.5) / samples - size / 2
    else:
        spread = spread.reshape(size, samples, size, samples).sum((1, 3))
        places = torch.arange(size, device=device) - size // 2
    down, across = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    rows = torch.exp(-2j * torch.pi * down.to(device)[:, None] * places)
    columns = torch.exp(-2j * torch.pi * places[:, None] * across.to(device))
    return rows @ spread.to(rows.dtype) @ columns


def blur_levels(
    pictures: torch.Tensor, diameters: Sequence[float], aperture: Aperture | None = None
) -> torch.Tensor:
    """Blur pictures by several point spreads, wrapping around at the borders.

    Args:
        pictures: (C, H, W) float.
        diameters: K circles of confusion, px from 0.
        aperture: None for an even disc.
    Returns:
        (K, C, H, W) float.
    """
    height, width = pictures.shape[-2:]
    aperture = aperture or Aperture()
    spectrum = torch.fft.rfft2(pictures)
    levels = []
    for diameter in diameters:
        if diameter == 0:
            levels.append(pictures)
            continue
        transfer = transfer_function(diameter, aperture, height, width, pictures.device)
        levels.append(torch.fft.irfft2(spectrum * transfer, s=(height, width)))
    return torch.stack(levels)


def interpolate_levels(
    levels: torch.Tensor, diameters: Sequence[float], coc: torch.Tensor | float
) -> torch.Tensor:
    """Interpolate each pixel between the two blur levels nearest to its circle of confusion.

    Args:
        levels: (K, C, H, W), as from `blur_levels`.
        diameters: (K,) rising, px.
        coc: (H, W) px, or one number.
    Returns:
        (C, H, W).
    """
    coc = torch.as_tensor(coc, dtype=levels.dtype, device=levels.device)
    coc = coc.clamp(diameters[0], diameters[-1])
    low, high = float(coc.min()), float(coc.max())
    ones = torch.ones_like(coc)
    result = torch.zeros(())
    for k, diameter in enumerate(diameters):
        below = diameters[max(k - 1, 0)]
        above = diameters[min(k + 1, len(diameters) - 1)]
        if (high <= below and k > 0) or (low >= above and k + 1 < len(diameters)):
            continue  # no pixel lies between this level and a neighbour of it
        rise = (coc - below) / (diameter - below) if k else ones
        fall = (above - coc) / (above - diameter) if k + 1 < len(diameters) else ones
        result = result + levels[k] * torch.minimum(rise, fall).clamp(0, 1)
    return result


@dataclass
class Layer:
    """A surface.

    Attributes:
        colour: (3, H, W) linear light, not multiplied by alpha.
        alpha: (H, W) in [0, 1].
        disparity: (H, W) in [0, 1], also defined where alpha is 0.
    """

    colour: torch.Tensor
    alpha: torch.Tensor
    disparity: torch.Tensor

    def to(self, device: torch.device | str) -> "Layer":
        """The same surface on a device."""
        return Layer(*(part.to(device) for part in (self.colour, self.alpha, self.disparity)))


def flatten_layers(layers: Sequence[Layer]) -> tuple[torch.Tensor, torch.Tensor]:
    """The all-in-focus picture and the disparity of layers.

    Args:
        layers: from back to front, the first of them opaque.
    Returns:
        (3, H, W) linear colour, and (H, W) disparity of the nearest surface that covers half a
        pixel or more.
    """
    picture, disparity = layers[0].colour, layers[0].disparity
    for layer in layers[1:]:
        picture = picture * (1 - layer.alpha) + layer.colour * layer.alpha
        disparity = torch.where(layer.alpha >= 0.5, layer.disparity, disparity)
    return picture, disparity


def refocus_layers(
    layers: Sequence[Layer],
    focus_disparities: Focus,
    aperture_px: float,
    aperture: Aperture | None = None,
) -> torch.Tensor:
    """The frames that a thin lens takes of layers.

    Every layer is blurred together with its alpha by its circle of confusion, in linear light, and
    composited over the ones behind it. A blurred foreground so lets the background through, and a
    blurred background never bleeds over a sharp foreground; with one of two layers in focus, the
    result equals integration over the aperture. Borders wrap around: give layers with a margin of
    half the largest circle of confusion, and crop it.

    Args:
        layers: from back to front, the first of them opaque.
        focus_disparities: N focal planes in [0, 1].
        aperture_px: largest circle of confusion, px per unit of disparity, up to 128.
        aperture: None for an even disc.
    Returns:
        (N, 3, H, W) linear light.
    """
    return _composite(
        layers,
        lambda disparity: [coc_px(disparity, focus, aperture_px) for focus in focus_disparities],
        aperture,
    )


def sharpest_picture(
    layers: Sequence[Layer],
    focus_disparities: Focus,
    aperture_px: float,
    aperture: Aperture | None = None,
    tolerance: float = 0.0,
) -> torch.Tensor:
    """The best that a stack can show: each surface as in the frame that is nearest to its focus.

    Args:
        layers, focus_disparities, aperture_px, aperture: as for `refocus_layers`.
        tolerance: px; a surface whose least blur is below it is made sharp, one whose least blur
            is twice as much or more keeps it, with a linear rise in between.
    Returns:
        (3, H, W) linear light.
    """

    def least(disparity: torch.Tensor) -> list[torch.Tensor]:
        cocs = [coc_px(disparity, focus, aperture_px) for focus in focus_disparities]
        least = torch.stack(cocs).amin(0)
        return [least * ((least - tolerance) / max(tolerance, 1e-6)).clamp(0, 1)]

    return _composite(layers, least, aperture)[0]


def _composite(
    layers: Sequence[Layer],
    cocs_of: Callable[[torch.Tensor], list[torch.Tensor]],
    aperture: Aperture | None,
) -> torch.Tensor:
    """Blur layers by the circles of confusion of each frame and composite them.

    Args:
        layers: from back to front, the first of them opaque.
        cocs_of: from a disparity (H, W) to N circles of confusion (H, W), px.
        aperture: None for an even disc.
    Returns:
        (N, 3, H, W) linear light.
    """
    frames = torch.zeros(())
    for layer in layers:
        cocs = cocs_of(layer.disparity)
        largest = max(float(coc.max()) for coc in cocs)
        diameters = LEVELS[: bisect_left(LEVELS, largest) + 1]
        premultiplied = torch.cat([layer.colour * layer.alpha, layer.alpha[None]])  # (4, H, W)
        levels = blur_levels(premultiplied, diameters, aperture)
        blurred = torch.stack([interpolate_levels(levels, diameters, coc) for coc in cocs])
        frames = frames * (1 - blurred[:, 3:]) + blurred[:, :3]
    return frames


def extend_region(
    region: np.ndarray, nearer: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Extend a surface behind what occludes it.

    Each pixel beyond the edge takes the pixel that mirrors it at the edge if that belongs to the
    surface, else the nearest pixel that does: texture continues as texture. The rim is not copied,
    because its pixels contain some of the foreground's colour.

    Args:
        region: (H, W) bool, where the surface is visible.
        nearer: (H, W) bool, what occludes it.
        reach: px, how far it is extended behind that.
    Returns:
        (H, W) bool, the surface with its extension, and (2, H, W) int, the row and column from
        which each pixel of the picture takes its colour.
    """
    rim = cv2.dilate(nearer.astype(np.uint8), np.ones((2 * RIM + 1,) * 2, np.uint8)) > 0
    clean = region & ~rim
    clean = clean if clean.any() else region
    height, width = region.shape
    distance, labels = cv2.distanceTransformWithLabels(
        (~clean).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    here = np.indices(region.shape)  # (2, H, W)
    places = np.zeros((labels.max() + 1, 2), int)
    places[labels[clean]] = here[:, clean].T
    nearest = places[labels].transpose(2, 0, 1)  # (2, H, W)
    mirrored = (2 * nearest - here).clip(0, [[[height - 1]], [[width - 1]]])
    source = np.where(clean[mirrored[0], mirrored[1]], mirrored, nearest)
    source = np.where(region, here, source)
    return region | (nearer & (distance <= reach + RIM)), source


def layers_of_picture(
    picture: torch.Tensor, disparity: torch.Tensor, reach: float, slices: int
) -> list[Layer]:
    """Cut a picture into layers by its disparity, each extended behind those in front of it.

    Args:
        picture: (3, H, W) linear light.
        disparity: (H, W) in [0, 1].
        reach: px, how far a layer is extended behind nearer ones: what blur can uncover.
        slices: number of equal steps of disparity.
    Returns:
        The layers from back to front, the first of them opaque.
    """
    device = picture.device
    values = disparity.cpu().numpy()
    index = np.minimum((values * slices).astype(int), slices - 1)
    layers: list[Layer] = []
    for k in range(slices):
        region = index == k
        if not region.any():
            continue
        # The rearmost layer extends everywhere, because nothing lies behind it.
        covered, source = extend_region(region, index > k, reach if layers else np.inf)
        rows, columns = (torch.from_numpy(part).to(device) for part in source)
        alpha = torch.from_numpy(covered).to(picture)
        layers.append(Layer(picture[:, rows, columns], alpha, disparity[rows, columns]))
    return layers


def refocus_picture(
    picture: torch.Tensor,
    disparity: torch.Tensor,
    focus_disparities: Focus,
    aperture_px: float,
    aperture: Aperture | None = None,
) -> torch.Tensor:
    """The frames that a thin lens takes of an all-in-focus picture with depth.

    Depth is continuous: the picture is cut into layers (see `layers_of_picture`), but within a
    layer every pixel has its own circle of confusion.

    Args:
        picture: (3, H, W) float in linear light.
        disparity: (H, W) float in [0, 1], larger = nearer.
        focus_disparities: N focal planes in [0, 1].
        aperture_px: largest circle of confusion, px per unit of disparity, up to 128.
        aperture: None for an even disc.
    Returns:
        (N, 3, H, W) linear light.
    """
    height, width = disparity.shape
    # A photograph's pixels along an edge mix both surfaces. They are assigned to the nearer one:
    # they look as in the photograph when that one is in focus.
    disparity = torch.nn.functional.max_pool2d(disparity[None], 3, stride=1, padding=1)[0]
    margin = int(np.ceil(aperture_px / 2)) + 2
    # A Fourier transform of a length with a large prime factor takes several times longer.
    rows, columns = (
        torch.from_numpy(_mirrored(side, margin, next_fast_len(side + 2 * margin))).to(
            picture.device
        )
        for side in (height, width)
    )
    picture = picture[:, rows[:, None], columns]
    disparity = disparity[rows[:, None], columns]
    slices = int(np.clip(np.ceil(aperture_px), 4, 16))
    layers = layers_of_picture(picture, disparity, margin + aperture_px / 2, slices)
    frames = refocus_layers(layers, focus_disparities, aperture_px, aperture)
    return frames[..., margin : margin + height, margin : margin + width]


def _mirrored(side: int, margin: int, length: int) -> np.ndarray:
    """(length,) int, indices into `side` px: a margin before it and the rest after it, mirrored."""
    return np.pad(np.arange(side), (margin, length - side - margin), "symmetric")


def regions_of_depth(depth: np.ndarray, num_frames: int) -> np.ndarray:
    """Regions by equal steps of an 8 bit map, 255 in the last: (H, W) uint8 to int from 0."""
    region = np.digitize(depth, np.linspace(0, 255, num_frames + 1)) - 1
    return region.clip(0, num_frames - 1)


def refocus_regions(picture: np.ndarray, region: np.ndarray, num_frames: int) -> np.ndarray:
    """Frames in which each region of a picture is blurred by its distance from the focused one.

    Args:
        picture: (H, W, 3) uint8.
        region: (H, W) int from 0 to num_frames - 1.
        num_frames: N.
    Returns:
        (N, H, W, 3) uint8; frame k shows region k unblurred, region j blurred by OpenCV's Gaussian
        of kernel 2|j-k|+1 px (sigma by OpenCV's rule 0.3 ((kernel-1)/2 - 1) + 0.8).
    """
    sizes = [2 * k + 1 for k in range(num_frames)]
    blurred = np.stack([cv2.GaussianBlur(picture, (size, size), 0) for size in sizes])
    rows, columns = np.indices(region.shape)
    return np.stack([blurred[abs(region - k), rows, columns] for k in range(num_frames)])


def published_refocus(
    picture: np.ndarray, depth: np.ndarray, num_frames: int = 16
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The focal stack of the published synthesis.

    Regions are equal steps of depth, blurred by `refocus_regions`.

    Args:
        picture: (H, W, 3) uint8, resized to 384x384 (bilinear).
        depth: (H, W) uint8, resized likewise.
        num_frames: N, the number of frames and of regions.
    Returns:
        frames (N, 384, 384, 3), picture (384, 384, 3), depth (384, 384), all uint8.
    Source: Xie et al. 2025 (StackMFF). There, depth 255 is in no region; here it is in the last.
    """
    picture = cv2.resize(picture, (384, 384))
    depth = cv2.resize(depth, (384, 384))
    region = regions_of_depth(depth, num_frames)
    return refocus_regions(picture, region, num_frames), picture, depth
