"""How training samples differ from the scenes they are drawn from: frames, crop, light, noise.

Pictures are luma, (..., H, W), or RGB with the planes first, (..., 3, H, W).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from stackmff.errors import StackError
from stackmff.images.colour import LUMA
from stackmff.training.options import FrameOrder, SampleOptions

TWICE_SHARE = 0.1  # of the samples, which have some frames twice, so that copies change nothing
ENDS_SHARE = 0.5  # of the pairs, which have the first and the last frame
FARTHEST_FOCUS = 0.8  # of red and blue from that of green, frames of the stack

# A frame whose error is this much larger than the best one's is not the sharp one.
CLEAR_ERROR = np.float32(2 / 255)

StackAndAnswer = tuple[np.ndarray, np.ndarray]  # of a sample


@dataclass(frozen=True)
class Augmentation:
    """How training samples differ from the scenes they are drawn from.

    Args:
        crop: (height, width) px of random crops, or None for whole pictures.
        frames: "subset" (every frame for seven samples in ten, else 2 to all of them; in order or
            reversed; some of them twice for one in ten), "all" (every frame, in order) or
            "shuffled" (every frame, in random order).
        flips: flip, and rotate by multiples of 90 degrees.
        gain: brightness factor between 1 - gain and 1 + gain, one for frames and answer.
        noise: largest standard deviation of Gaussian noise in the frames, levels of 255.
        negatives: share of the samples that are turned into their negatives.
        shading: share of the samples whose frames are lit unevenly, each in its own way.
        drift: share of the samples whose frames are misaligned by up to a few px.
        colour: samples are RGB instead of luma.
        recolour: share of the samples in other colours, see `recolour`.
        fringes: share of the samples of a lens that focuses red and blue elsewhere, see `fringe`.
    """

    crop: tuple[int, int] | None = None
    frames: FrameOrder = "subset"
    flips: bool = True
    gain: float = 0.0
    noise: float = 0.0
    negatives: float = 0.0
    shading: float = 0.0
    drift: float = 0.0
    colour: bool = False
    recolour: float = 0.0
    fringes: float = 0.0


def augmentation_of(samples: SampleOptions, whole: bool, colour: bool) -> Augmentation:
    """The Augmentation that options ask for.

    Args:
        samples: the options.
        whole: samples are whole pictures instead of crops.
        colour: samples are RGB instead of luma.
    """
    return Augmentation(
        crop=None if whole else samples.image_size,
        frames=samples.frames,
        flips=samples.flips,
        gain=samples.gain,
        noise=samples.noise,
        negatives=samples.negatives,
        shading=samples.shading,
        drift=samples.drift,
        colour=colour,
        recolour=samples.recolour,
        fringes=samples.fringes,
    )


def choose_frames(
    rng: np.random.Generator, count: int, n_frames: int, order: FrameOrder
) -> np.ndarray:
    """Which frames of a stack a sample has, and in which order.

    Args:
        rng: NumPy generator.
        count: frames of the stack.
        n_frames: frames of the sample.
        order: as Augmentation.frames; "subset" repeats some of them in one sample of ten, and
            takes the first and the last in one pair of two.
    Returns:
        (n_frames,) int from 0 to count - 1.
    """
    frames = rng.permutation(count)[:n_frames]
    if order == "subset" and rng.random() < TWICE_SHARE:
        if rng.random() < 0.5:
            frames = rng.integers(count, size=n_frames)
        else:
            return pad_with_copies(rng, frames)
    elif order == "subset" and n_frames == 2 and rng.random() < ENDS_SHARE:
        frames = np.array([0, count - 1])
    if order != "shuffled":
        frames = np.sort(frames)
    if order == "subset" and rng.random() < 0.5:
        frames = frames[::-1]
    return frames


def pad_with_copies(rng: np.random.Generator, frames: np.ndarray) -> np.ndarray:
    """Replace frames by copies of one of the others, before or after the rest.

    Args:
        rng: NumPy generator.
        frames: (n,) int.
    Returns:
        (n,) int, ascending or descending except for the copies, which are up to half of them.
    """
    rest = np.sort(frames[: len(frames) - rng.integers(len(frames) // 2 + 1)])
    copies = np.repeat(rng.choice(rest), len(frames) - len(rest))
    frames = np.concatenate([rest, copies] if rng.random() < 0.5 else [copies, rest])
    return frames[::-1] if rng.random() < 0.5 else frames


def draw_shading(rng: np.random.Generator, n_frames: int, height: int, width: int) -> np.ndarray:
    """Light that changes with focus: a few soft blobs, each strongest in some frames.

    Light from far out of focus looks like this, and so do veils and transparent bodies like resin.

    Args:
        rng: NumPy generator.
        n_frames: N.
        height, width: px.
    Returns:
        (N, height, width) float32, a factor of the brightness, about 0.4 to 2.5.
    """
    depth = np.linspace(0, 1, n_frames, dtype=np.float32)[:, None]
    places = [np.arange(side, dtype=np.float32) / max(height, width) for side in (height, width)]
    total = np.zeros((n_frames, height, width), np.float32)
    for _ in range(rng.integers(1, 4)):
        radius = np.exp(rng.uniform(np.log(0.12), np.log(0.8)))
        down, across = (
            np.exp(
                -(((place - rng.uniform(-0.1, 1.1) - rng.normal(0, 0.2) * depth) / radius) ** 2) / 2
            )
            for place in places
        )
        peak, reach = rng.uniform(-0.3, 1.3), rng.uniform(0.15, 0.8)
        strength = rng.normal(0, 0.3) * np.exp(-(((depth - peak) / reach) ** 2))
        total += (strength[..., None] * down[:, :, None] * across[:, None]).astype(np.float32)
    return np.exp(total)


def luma_of(pictures: np.ndarray, colour: bool) -> np.ndarray:
    """The luma (..., H, W) of pictures (..., H, W) or, in colour, (..., 3, H, W)."""
    if not colour:
        return pictures
    return np.einsum("...chw,c->...hw", pictures, np.asarray(LUMA, np.float32))


def recolour(rng: np.random.Generator, stack: np.ndarray, answer: np.ndarray) -> StackAndAnswer:
    """Give a sample other colours.

    Its channels are permuted, and the luma loses contrast while the chroma keeps it, so that more
    edges show in colour alone. One sample in eight is grey.

    Args:
        rng: NumPy generator.
        stack: (N, 3, H, W) float32 in [0, 1].
        answer: (3, H, W) float32 in [0, 1].
    Returns:
        (stack, answer), float32 in [0, 1].
    """
    order, grey = rng.permutation(3), rng.random() < 1 / 8
    fade, level = (np.float32(rng.uniform(*limits)) for limits in ((0, 0.8), (0.3, 0.7)))

    def changed(picture: np.ndarray) -> np.ndarray:
        luma = luma_of(picture, True)[..., None, :, :]
        if grey:
            return np.repeat(luma, 3, axis=-3)
        return (picture + fade * (level - luma)).clip(0, 1)

    return changed(stack[:, order]), changed(answer[order])


def fringe(
    rng: np.random.Generator, stack: np.ndarray, answer: np.ndarray, frames: np.ndarray
) -> StackAndAnswer:
    """Focus red and blue at another distance than green, as a lens with chromatic aberration does.

    What is out of focus then has more colour than what is in focus, which a network that has never
    seen it takes for sharpness. The answer has the colours of the sharp frame, since a network that
    has to do better mixes frames.

    Args:
        rng: NumPy generator.
        stack: (N, 3, H, W) float32 in [0, 1], aligned.
        answer: (3, H, W) float32 in [0, 1].
        frames: (N,) int, the places of the frames in focus order; unordered, possibly repeated.
    Returns:
        (stack, answer); a focus between two frames is approximated by their weighted mean.
    """
    numbers, first = np.unique(frames, return_index=True)
    reach = rng.uniform(0, FARTHEST_FOCUS)
    shares = []  # of the planes `first` in those of each frame
    for ahead in rng.uniform(-reach, reach, 2):
        place = np.clip(frames + ahead, numbers[0], numbers[-1])
        shares.append([np.interp(place, numbers, row) for row in np.eye(len(numbers))])
    share = sharp_share(luma_of(stack, True), luma_of(answer, True), 5, CLEAR_ERROR, 0.2)
    plain, stack = stack, stack.copy()
    for channel, parts in zip((0, 2), np.asarray(shares, np.float32), strict=True):
        stack[:, channel] = np.tensordot(parts.T, plain[first, channel], 1)
    answer = answer + (share[:, None] * (stack - plain)).sum(0)
    return stack, answer.clip(0, 1)


def sharp_share(
    stack: np.ndarray, answer: np.ndarray, side: int, tolerance: np.float32, slope: float
) -> np.ndarray:
    """How likely each frame is the sharp one around each place, judged by its error.

    Args:
        stack: (N, H, W) float32 luma in [0, 1].
        answer: (H, W) float32 luma in [0, 1].
        side: of the window over which errors are averaged, px.
        tolerance: a frame loses most of its share by an error that is this much above the least.
        slope: the same for squared errors, relative to the least.
    Returns:
        (N, H, W) float32, sum 1 over N.
    """
    error = np.stack([cv2.blur((frame - answer) ** 2, (side, side)) for frame in stack])
    least = error.min(0)
    share = np.exp((least - error) / (tolerance**2 + slope * least))
    return share / share.sum(0)


def warped(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A picture (H, W) or (3, H, W) float32 in [0, 1], warped by an affine (2, 3) matrix."""
    if picture.ndim == 3:
        return np.stack([warped(plane, matrix) for plane in picture])
    moved: np.ndarray = cv2.warpAffine(
        np.ascontiguousarray(picture),
        matrix,
        picture.shape[::-1],
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT,
    )
    return moved.clip(0, 1)


def misalign(rng: np.random.Generator, stack: np.ndarray, answer: np.ndarray) -> StackAndAnswer:
    """Misalign each frame, and move each place of the answer with the frame that is sharp there.

    Hand-held stacks are misaligned, and slightly so even after registration. A network that has
    seen only perfect stacks mixes neighbouring frames to reduce noise, and blurs real ones.

    Args:
        rng: NumPy generator.
        stack: (N, H, W) or (N, 3, H, W) float32 in [0, 1].
        answer: (H, W) or (3, H, W) float32 in [0, 1].
    Returns:
        (stack, answer), float32 in [0, 1].
    """
    colour = answer.ndim == 3
    share = sharp_share(luma_of(stack, colour), luma_of(answer, colour), 9, CLEAR_ERROR / 4, 0.05)
    count, height, width = share.shape
    reach = np.exp(rng.uniform(np.log(0.1), np.log(2)))  # px from the first frame to the last
    travel, growth = rng.normal(0, reach, 2), rng.normal(0, reach) / max(height, width)
    moved, wanted = np.empty_like(stack), np.zeros_like(answer)
    for k, place in enumerate(np.linspace(-0.5, 0.5, count)):
        shift = travel * place + rng.normal(0, 0.15 * reach, 2)
        zoom = 1 + growth * place
        centre = (1 - zoom) / 2 * np.array([width - 1, height - 1])
        matrix = np.array([[zoom, 0, centre[0] + shift[0]], [0, zoom, centre[1] + shift[1]]])
        moved[k] = warped(stack[k], matrix)
        wanted += share[k] * warped(answer, matrix)
    return moved, wanted


def shade(rng: np.random.Generator, stack: np.ndarray, answer: np.ndarray) -> StackAndAnswer:
    """Light each frame unevenly in its own way, and the answer like the frame that is sharp there.

    Where frames differ only in brightness, none is sharper than another. A network that has never
    seen that prefers the darker one, since blur spreads bright spots, and leaves dark patches. One
    sample in two is veiled before, so that faint texture counts too.

    Args:
        rng: NumPy generator.
        stack: (N, H, W) or (N, 3, H, W) float32 in [0, 1].
        answer: (H, W) or (3, H, W) float32 in [0, 1].
    Returns:
        (stack, answer), float32 in [0, 1].
    """
    colour = answer.ndim == 3
    light = draw_shading(rng, len(stack), *stack.shape[-2:])
    share = sharp_share(luma_of(stack, colour), luma_of(answer, colour), 5, CLEAR_ERROR, 0.2)
    wanted = (share * light).sum(0)
    if rng.random() < 0.5:
        veil, level = np.float32(rng.uniform(0, 0.85)), np.float32(rng.uniform(0.1, 1))
        stack, answer = (part + veil * (level - part) for part in (stack, answer))
    stack = stack * (light[:, None] if colour else light)
    most = max(1, stack.max())
    return stack / most, np.minimum(answer * wanted / most, 1)


def change_light(
    rng: np.random.Generator,
    stack: np.ndarray,
    answer: np.ndarray,
    how: Augmentation,
    frames: np.ndarray,
) -> StackAndAnswer:
    """Change the colours, light and contrast of a sample, misalign and shade it, add noise.

    Args:
        rng: NumPy generator.
        stack: (N, H, W) or (N, 3, H, W) uint8.
        answer: (H, W) or (3, H, W) uint8.
        how: an Augmentation.
        frames: (N,) int, the places of the frames in focus order, as from `choose_frames`.
    Returns:
        (stack, answer), float32 in [0, 1].
    """
    scale = np.float32((1 + how.gain * rng.uniform(-1, 1)) / 255)
    stack = np.minimum(stack.astype(np.float32) * scale, 1)
    answer = np.minimum(answer.astype(np.float32) * scale, 1)
    if how.colour and rng.random() < how.recolour:
        stack, answer = recolour(rng, stack, answer)
    if how.colour and rng.random() < how.fringes:
        stack, answer = fringe(rng, stack, answer, frames)
    if rng.random() < how.negatives:
        stack, answer = 1 - stack, 1 - answer
    if rng.random() < how.drift:
        stack, answer = misalign(rng, stack, answer)
    if rng.random() < how.shading:
        stack, answer = shade(rng, stack, answer)
    if how.noise:
        sigma = np.float32(rng.uniform(0, how.noise) / 255)
        stack += sigma * rng.standard_normal(stack.shape, np.float32)
        stack = stack.clip(0, 1)
    return stack, answer


@dataclass(frozen=True)
class Window:
    """The part of a picture that a sample shows, and how it is rotated and flipped.

    Args:
        cut: (rows, columns), two slices.
        turns: rotations by 90 degrees, 0 to 3.
        mirror: flip left and right after that.
    """

    cut: tuple[slice, slice]
    turns: int
    mirror: bool

    def turned(self, pictures: np.ndarray) -> np.ndarray:
        """Pictures (..., h, w) that have been cut already, rotated and flipped."""
        pictures = np.rot90(pictures, self.turns, (-2, -1))
        return pictures[..., ::-1] if self.mirror else pictures


def check_crop(shape: Sequence[int], crop: tuple[int, int], name: object) -> None:
    """Raise StackError if a picture `name` of (H, W, ...) is smaller than a crop (h, w)."""
    if crop[0] > shape[0] or crop[1] > shape[1]:
        raise StackError(
            f"{name} is {shape[1]}x{shape[0]}, smaller than the crops of {crop[1]}x{crop[0]}: give "
            "a smaller --image_size"
        )


def draw_window(
    rng: np.random.Generator, shape: tuple[int, ...], how: Augmentation, name: object
) -> Window:
    """Draw the Window of a sample.

    Args:
        rng: NumPy generator.
        shape: (H, W) of the picture, px.
        how: an Augmentation.
        name: of the picture, for the message.
    Returns:
        A Window; it is rotated by odd multiples of 90 degrees only if the crop fits that way.
    Raises:
        StackError: the picture is smaller than the crops.
    """
    turns = int(rng.integers(4)) if how.flips else 0
    mirror = how.flips and bool(rng.random() < 0.5)
    corner = rng.random(2)
    high, wide = shape
    if how.crop is None:  # whole pictures of a batch must keep their format
        fits_turned, crop = high == wide, (high, wide)
    else:
        crop = how.crop
        fits_turned = crop[1] <= high and crop[0] <= wide
    check_crop(shape, crop, name)
    if not fits_turned:
        turns -= turns % 2
    sides = crop[::-1] if turns % 2 else crop
    top, left = (int(c * (have - want + 1)) for c, have, want in zip(corner, shape, sides))
    cut = slice(top, top + sides[0]), slice(left, left + sides[1])
    return Window(cut, turns, mirror)
