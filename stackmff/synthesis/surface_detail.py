"""What surfaces look like at camera scale: photographs with added detail, plain grounds, glints."""

from functools import lru_cache
from typing import Literal, NamedTuple

import cv2
import numpy as np

from stackmff.images.colour import to_linear
from stackmff.synthesis.photos import Photos

BANK_SIDE = 1024  # px of the periodic noise textures

# A photograph's own, dark and faintly textured, bright, or without texture.
Tone = Literal["normal", "dark", "bright", "plain"]


@lru_cache(maxsize=2)
def noise_bank(seed: int = 0) -> list[np.ndarray]:
    """Periodic textures of mean 0 and deviation 1, from fine to coarse: list of (S, S) float32."""
    rng = np.random.default_rng([seed, 91])
    frequency = np.hypot(np.fft.fftfreq(BANK_SIDE)[:, None], np.fft.rfftfreq(BANK_SIDE))
    frequency[0, 0] = 1
    textures = []
    for slope in (0.0, 0.5, 1.0, 1.5, 2.0):
        white = np.fft.rfft2(rng.standard_normal((BANK_SIDE, BANK_SIDE)))
        shaped = white * frequency**-slope * np.exp(-((frequency / 0.4) ** 4))
        shaped[0, 0] = 0
        plane = np.fft.irfft2(shaped, s=(BANK_SIDE, BANK_SIDE))
        textures.append((plane / plane.std()).astype(np.float32))
    return textures


def periodic_cut(
    rng: np.random.Generator, texture: np.ndarray, height: int, width: int
) -> np.ndarray:
    """A random piece of a periodic texture, repeated where it is too small."""
    rows = (rng.integers(BANK_SIDE) + np.arange(height)) % BANK_SIDE
    columns = (rng.integers(BANK_SIDE) + np.arange(width)) % BANK_SIDE
    return texture[rows[:, None], columns]


def weave(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Crossing threads: (height, width) float32 in [-1, 1]."""
    angle, period = rng.uniform(0, np.pi), rng.uniform(2.5, 12)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    u = (x * np.cos(angle) + y * np.sin(angle)) * np.float32(np.pi / period)
    v = (y * np.cos(angle) - x * np.sin(angle)) * np.float32(np.pi / period)
    return np.sin(u) * np.sin(v)


def drawn_detail(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Scratches, letters or weave: (height, width) float32 in [-1, 1], 0 where nothing is."""
    kind = rng.choice(["scratches", "letters", "weave"])
    if kind == "weave":
        return weave(rng, height, width)
    canvas = np.zeros((height, width), np.float32)
    if kind == "scratches":
        for _ in range(int(np.exp(rng.uniform(np.log(10), np.log(300))))):
            start = rng.uniform(0, 1, 2) * (width, height)
            angle, length = rng.uniform(0, 2 * np.pi), rng.exponential(60)
            end = start + length * np.array([np.cos(angle), np.sin(angle)])
            shade = float(rng.choice([-1, 1]) * rng.uniform(0.3, 1))
            points = (start.astype(int).tolist(), end.astype(int).tolist())
            cv2.line(canvas, *points, shade, int(rng.integers(1, 3)), cv2.LINE_AA)
        return canvas
    canvas, size, row = canvas.astype(np.uint8), rng.uniform(0.25, 1.2), 0.0
    letters = np.array(list("abcdefghiklmnoprstuvwxyzABCDEFGHKLMNPRST0123456789 "))
    while row < height:
        row += 32 * size
        text = "".join(rng.choice(letters, int(width / (12 * size)) + 1))
        place = (int(rng.uniform(-40, 20)), int(row))
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, 255, 1, cv2.LINE_AA)
    return canvas.astype(np.float32) / -255


def mirrored_cut(
    rng: np.random.Generator, photo: np.ndarray, height: int, width: int, scale: float
) -> np.ndarray:
    """A piece of a photograph at a scale, mirrored on where it ends: (height, width, 3) uint8."""
    source = [int(np.ceil(side / scale)) + 1 for side in (height, width)]
    places = []
    for want, have in zip(source, photo.shape[:2]):
        cycle = np.concatenate([np.arange(have), np.arange(have)[::-1]])
        places.append(cycle[(rng.integers(2 * have) + np.arange(want)) % (2 * have)])
    piece = np.rot90(photo[places[0][:, None], places[1]], 2 * int(rng.integers(2)))
    size = (int(source[1] * scale) + 1, int(source[0] * scale) + 1)
    piece = cv2.resize(np.ascontiguousarray(piece), size, interpolation=cv2.INTER_CUBIC)
    return piece[:height, :width]


@lru_cache(maxsize=1)
def linear_of_code() -> np.ndarray:
    """Linear light of the sRGB codes 0 to 255, (256,) float32."""
    table: np.ndarray = to_linear(np.arange(256) / 255).astype(np.float32)
    return table


def plain_colour(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A soft gradient of any brightness, (height, width, 3) float32 linear light."""
    level = np.exp(rng.uniform(np.log(0.003), np.log(1.2)))
    tint = np.exp(rng.normal(0, 0.25, 3))
    corners = np.exp(rng.normal(0, 0.35, (3, 3, 1)) + 0.1 * rng.normal(0, 1, (3, 3, 3)))
    return cv2.resize((level * tint * corners).astype(np.float32), (width, height))


def added_detail(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Detail that enlarging took from a photograph, and more: (height, width) float32, logarithm.

    Noise, scratches, letters or weave, in patches or everywhere; 0 where nothing is added.
    """
    detail = np.zeros((height, width), np.float32)
    if rng.random() < 0.8:
        texture = noise_bank()[rng.integers(len(noise_bank()))]
        strength = np.exp(rng.uniform(np.log(0.02), np.log(0.35)))
        detail += np.float32(strength) * periodic_cut(rng, texture, height, width)
    if rng.random() < 0.35:
        strength = np.exp(rng.uniform(np.log(0.03), np.log(0.6)))
        detail += np.float32(strength) * drawn_detail(rng, height, width)
    if rng.random() < 0.3:  # patches without texture
        patch = cv2.resize(rng.random((4, 4)).astype(np.float32), (width, height))
        detail *= patch > rng.uniform(0.2, 0.8)
    return detail


def surface_colour(
    rng: np.random.Generator, photos: Photos, height: int, width: int, tone: Tone
) -> np.ndarray:
    """The colour of a surface.

    Args:
        rng: NumPy generator.
        photos: to cut from.
        height, width: px.
        tone: which look it has.
    Returns:
        (height, width, 3) float32 linear light.
    """
    if tone == "plain":
        return plain_colour(rng, height, width)
    photo = photos[int(rng.integers(len(photos)))]
    scale = float(np.exp(rng.uniform(np.log(0.8), np.log(3))))
    colour = linear_of_code()[mirrored_cut(rng, photo, height, width, scale)]
    mean = colour.mean((0, 1))
    contrast = rng.uniform(0.3, 1) if tone == "normal" else np.exp(rng.uniform(np.log(0.03), 0))
    colour = mean + np.float32(contrast) * (colour - mean)
    detail = added_detail(rng, height, width)
    colour = colour * np.exp(detail)[..., None]
    level = {"normal": rng.normal(0, 0.4), "dark": rng.uniform(-4.5, -2), "bright": 0.0}[tone]
    if tone == "bright":
        goal = np.exp(rng.uniform(np.log(0.6), np.log(3)))
    else:
        goal = np.exp(level) * (0.25 if tone == "normal" else 0.5)
    return colour * np.float32(goal / max(float(colour.mean()), 1e-4))


class Ellipse(NamedTuple):
    """A small ellipse of a picture.

    Attributes:
        where: the rows and columns around it.
        distance: (rows, columns) float32 from its middle, 1 on its outline.
        size: half of its longer and of its shorter axis, px.
    """

    where: tuple[slice, slice]
    distance: np.ndarray
    size: tuple[float, float]


def random_ellipse(
    rng: np.random.Generator, height: int, width: int, angle: float, longest: float
) -> Ellipse:
    """An ellipse of 1 to `longest` px that lies about at an angle, anywhere in a picture."""
    x, y = int(rng.integers(width)), int(rng.integers(height))
    long_ = float(np.exp(rng.uniform(0, np.log(longest))))
    short = max(long_ * float(rng.uniform(0.15, 1)), 0.8)
    turn = angle + rng.normal(0, 0.5)
    reach = int(1.5 * long_) + 2
    rows = slice(max(y - reach, 0), min(y + reach + 1, height))
    columns = slice(max(x - reach, 0), min(x + reach + 1, width))
    v, u = np.mgrid[rows, columns].astype(np.float32)
    v, u = v - y, u - x
    along = (u * np.cos(turn) + v * np.sin(turn)) / long_
    across = (v * np.cos(turn) - u * np.sin(turn)) / short
    return Ellipse((rows, columns), np.hypot(along, across).astype(np.float32), (long_, short))


def draw_specks(rng: np.random.Generator, height: int, width: int, count: int) -> np.ndarray:
    """The cover of dust, spores or scales, flat ellipses: (height, width) float32 in [0, 1]."""
    alpha = np.zeros((height, width), np.float32)
    angle, longest = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(3), np.log(24)))
    opacity = rng.uniform(0.4, 1)
    for _ in range(count):
        ellipse = random_ellipse(rng, height, width, angle, longest)
        cover = ((1 - ellipse.distance) * np.float32(ellipse.size[1]) + 0.5).clip(0, 1)
        cover *= np.float32(opacity * rng.uniform(0.7, 1))
        alpha[ellipse.where] = np.maximum(alpha[ellipse.where], cover)
    return alpha


def paint_specks(rng: np.random.Generator, colour: np.ndarray, count: int) -> None:
    """Paint specks of one tone, mostly dark, in place; arguments as of `paint_glints`."""
    height, width = colour.shape[:2]
    cover = draw_specks(rng, height, width, count)[..., None]
    tone = np.exp(rng.uniform(np.log(0.01), np.log(0.8))) * np.exp(rng.normal(0, 0.2, 3))
    colour *= 1 - cover
    colour += cover * tone.astype(np.float32)


def paint_glints(rng: np.random.Generator, colour: np.ndarray, count: int) -> None:
    """Paint reflections of lamps on a glossy surface: ellipses of 3 to 100 times white, in place.

    Args:
        rng: NumPy generator.
        colour: (H, W, 3) float32 linear light.
        count: how many.
    """
    height, width = colour.shape[:2]
    angle = rng.uniform(0, np.pi)
    for _ in range(count):
        ellipse = random_ellipse(rng, height, width, angle, 18)
        shape = (1.5 - ellipse.distance).clip(0, 1) ** rng.choice([1, 3])
        strength = np.exp(rng.uniform(np.log(3), np.log(100))) * np.exp(rng.normal(0, 0.2, 3))
        colour[ellipse.where] += shape[..., None] * strength.astype(np.float32)
