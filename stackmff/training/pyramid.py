"""Scenes and batches for a network with a coarse level, made as training goes on.

A step sees either one large scene, whole at the coarse level and in random crops at the fine one,
or a batch of crops of small scenes.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import cv2
import numpy as np
import torch

from stackmff.images.colour import luma
from stackmff.synthesis.camera_scale import numbered_large_scene
from stackmff.synthesis.photos import Photos
from stackmff.synthesis.scenes import Kind, SceneSpec, numbered_frames, numbered_scene
from stackmff.training.augmentation import (
    Augmentation,
    change_light,
    choose_frames,
    misalign,
    shade,
)

REDUCTIONS, CHANCES = (1, 2, 4), (0.5, 0.3, 0.2)  # of large scenes: a reduced one is another scene
CROP = 224  # px, a multiple of STEP, of large scenes
SMALL_CROP = 192  # px, of small scenes
SMALL_SIZE, VALIDATION_SIZE = 224, 256  # px, of small scenes
KINDS: tuple[Kind, ...] = (  # of small scenes
    *("wide",) * 5, *("regions",) * 2, *("any",) * 5,
    *("wide",) * 5, *("regions",) * 2, *("any",) * 4, "transmitted",
)  # fmt: skip
STEP = 32  # px, the grid on which tiles of the fine level start
REDUCTION = 8  # px of the picture along one of the coarse level
SAMPLES = 1.5e6  # pixels times frames of a step
VALIDATION_SEEDS = 9001, 9002  # of large and of small scenes
MISALIGNED, SHADED = 0.08, 0.06  # shares of the large scenes
NEGATIVES, DIMMED = 0.1, 0.3  # shares of the steps on large scenes, negatives where they may be
COPY_NOISE = 2 / 255  # at most, of frames that a sample has twice
LIGHT = Augmentation(  # of small scenes
    gain=0.2, negatives=0.06, shading=0.05, drift=0.05, colour=True, recolour=0.3, fringes=0.1
)

Details = Callable[[torch.Tensor], torch.Tensor]  # the network's `details`
Pair = tuple[np.ndarray, np.ndarray]  # frames (N, H, W, 3) and answer (H, W, 3), uint8
Item = TypeVar("Item")


class PyramidBatch(NamedTuple):
    """A batch; of a large scene also what the coarse level sees of all of it.

    Attributes:
        stack: (B, 3, N, H, W) float32 in [0, 1], crops.
        answer: (B, 3, H, W).
        small: (1, 3, N, H/8, W/8), the whole large scene reduced; None for small scenes.
        small_answer: (1, 3, H/8, W/8).
        details: (1, 3, N, H/8, W/8), the network's `details` of the whole.
        places: (top, left) of each crop in the whole, in steps of 32 px.
    """

    stack: torch.Tensor
    answer: torch.Tensor
    small: torch.Tensor | None = None
    small_answer: torch.Tensor | None = None
    details: torch.Tensor | None = None
    places: tuple[tuple[int, int], ...] = ()

    def to(self, device: torch.device) -> "PyramidBatch":
        """The batch on a device."""
        small, small_answer, details = (
            None if part is None else part.to(device)
            for part in (self.small, self.small_answer, self.details)
        )
        stack, answer = self.stack.to(device), self.answer.to(device)
        return PyramidBatch(stack, answer, small, small_answer, details, self.places)


class Pool(Generic[Item]):
    """The scenes that steps draw from, the newest `size` by number; made when they are drawn.

    Args:
        size: how many.
        make: makes the scene of a number.
    """

    def __init__(self, size: int, make: Callable[[int], Item]) -> None:
        self.numbers: deque[int] = deque(maxlen=size)
        self.make = make
        self.made: dict[int, Item] = {}

    def __len__(self) -> int:
        return len(self.numbers)

    def add(self, number: int) -> None:
        """Add the scene of a number; the oldest one goes if there are too many."""
        self.numbers.append(number)

    def draw(self, rng: np.random.Generator) -> Item:
        """A random scene of the pool."""
        return self[int(rng.integers(len(self.numbers)))]

    def __getitem__(self, index: int) -> Item:
        number = self.numbers[index]
        if number not in self.made:
            known = set(self.numbers)
            self.made = {k: scene for k, scene in self.made.items() if k in known}
            self.made[number] = self.make(number)
        return self.made[number]


def planes_first(pictures: np.ndarray) -> np.ndarray:
    """(..., H, W, 3) uint8 to (..., 3, H, W) float32 in [0, 1]."""
    return np.moveaxis(pictures, -1, -3).astype(np.float32) / 255


def shrunk(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture reduced to (width, height) px, each pixel the mean over the area it covers."""
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


class View(NamedTuple):
    """A large scene at one size.

    Attributes:
        frames, answer: (N, H, W, 3) and (H, W, 3) uint8.
        small, small_answer: an eighth of them, float32 in [0, 1].
        details: (3, N, H/8, W/8) float32.
        spread: (H/8, W/8), how much the reduced frames differ.
    """

    frames: np.ndarray
    answer: np.ndarray
    small: np.ndarray
    small_answer: np.ndarray
    details: np.ndarray
    spread: np.ndarray


class LargeScene:
    """A large scene at full size, and reduced, with what the coarse level sees of it.

    Args:
        photos: to cut from.
        seed, number: of the scene, see `numbered_large_scene`.
        details: the network's `details`.
    """

    def __init__(self, photos: Photos, seed: int, number: int, details: Details) -> None:
        frames, answer, settings = numbered_large_scene(photos, seed, number)
        rng = np.random.default_rng([seed, number, 1])
        kind = rng.random()
        if kind < SHADED + MISALIGNED:
            change = shade if kind < SHADED else misalign
            stack, wanted = change(rng, planes_first(frames), planes_first(answer))
            frames, answer = (
                np.ascontiguousarray(np.moveaxis(np.round(255 * part), -3, -1)).astype(np.uint8)
                for part in (stack, wanted)
            )
        self.frames, self.answer, self.details = frames, answer, details
        # The disc of a light would be dark, sharp and not in the answer, which teaches that specks
        # on a bright ground are nothing.
        self.may_negate = not settings["highlights"]
        self.views: dict[int, View] = {}

    def view(self, factor: int) -> View:
        """The scene reduced by a factor."""
        if factor not in self.views:
            self.views[factor] = self.make_view(factor)
        return self.views[factor]

    def make_view(self, factor: int) -> View:
        """See `view`."""
        width, height = self.answer.shape[1] // factor, self.answer.shape[0] // factor
        frames, answer = self.frames, self.answer
        if factor > 1:
            frames = np.stack([shrunk(frame, (width, height)) for frame in frames])
            answer = shrunk(answer, (width, height))
        size = width // REDUCTION, height // REDUCTION
        small = np.stack([shrunk(frame.astype(np.float32) / 255, size) for frame in frames])
        small_answer = shrunk(answer.astype(np.float32) / 255, size)
        with torch.no_grad():
            details = self.details(torch.from_numpy(luma(frames))[None, None])[0].numpy()
        spread = small.std(0).mean(-1)
        return View(frames, answer, small, small_answer, details, spread)


def large_batch(rng: np.random.Generator, scene: LargeScene) -> PyramidBatch:
    """A step on one large scene at a random size: all of it at an eighth, and crops."""
    view = scene.view(int(rng.choice(REDUCTIONS, p=CHANCES)))
    total = len(view.frames)
    count = total if rng.random() < 0.75 else int(rng.integers(2, total + 1))
    chosen = choose_frames(rng, total, count, "subset")
    height, width = view.answer.shape[:2]
    crop = min(CROP, height // STEP * STEP), min(CROP, width // STEP * STEP)
    pieces = int(np.clip(SAMPLES / (count * crop[0] * crop[1]), 1, 8))
    places = [interesting_place(rng, view.spread, (height, width), crop) for _ in range(pieces)]
    windows = [
        (slice(STEP * row, STEP * row + crop[0]), slice(STEP * column, STEP * column + crop[1]))
        for row, column in places
    ]
    stacks = [
        unlike_copies(rng, planes_first(view.frames[chosen][(slice(None), *part)]), chosen)
        for part in windows
    ]
    parts = [
        np.stack(stacks).swapaxes(1, 2),
        np.stack([planes_first(view.answer[part]) for part in windows]),
        np.moveaxis(view.small[chosen], -1, 0)[None],
        np.moveaxis(view.small_answer, -1, 0)[None],
    ]
    if rng.random() < NEGATIVES and scene.may_negate:
        parts = [1 - part for part in parts]
    if rng.random() < DIMMED:
        gain = np.float32(rng.uniform(0.6, 1.0))
        parts = [part * gain for part in parts]
    details = view.details[:, chosen][None]
    stack, answer, small, small_answer, detail = (
        torch.from_numpy(np.ascontiguousarray(part)) for part in (*parts, details)
    )
    return PyramidBatch(stack, answer, small, small_answer, detail, tuple(places))


def interesting_place(
    rng: np.random.Generator, spread: np.ndarray, size: tuple[int, int], crop: tuple[int, int]
) -> tuple[int, int]:
    """Of three random places of a crop the one where the frames differ most.

    Args:
        rng: NumPy generator.
        spread: (H/8, W/8), how much the frames differ.
        size, crop: (height, width) of the picture and of the crop, px.
    Returns:
        (top, left) in steps of 32 px.
    """
    many = STEP // REDUCTION
    rows, columns = (side // REDUCTION for side in crop)
    tries = []
    for _ in range(3):
        row, column = (
            int(rng.integers((side - part) // STEP + 1)) for side, part in zip(size, crop)
        )
        there = spread[many * row : many * row + rows, many * column : many * column + columns]
        tries.append((float(there.mean()), row, column))
    _, row, column = max(tries, key=lambda one: one[0])
    return row, column


def small_batch(
    rng: np.random.Generator, scenes: "Pool[Pair]", counts: Sequence[int]
) -> PyramidBatch:
    """A step on crops of small scenes, all with one number of frames.

    Args:
        rng: NumPy generator.
        scenes: to draw from.
        counts: their numbers of frames.
    """
    n_frames = counts[int(rng.integers(len(counts)))]
    alike = [k for k, count in enumerate(counts) if count == n_frames]
    if rng.random() < 0.3:
        n_frames = int(2 * ((n_frames + 1) / 2) ** rng.random())
        alike = [k for k, count in enumerate(counts) if count >= n_frames]
    want = int(np.clip(SAMPLES / (n_frames * SMALL_CROP**2), 1, 10))
    stacks, answers = [], []
    for k in rng.integers(len(alike), size=want):
        stack, wanted = small_sample(rng, scenes[alike[int(k)]], n_frames)
        stacks.append(stack)
        answers.append(wanted)
    stack = np.ascontiguousarray(np.stack(stacks).swapaxes(1, 2))
    answer = np.ascontiguousarray(np.stack(answers))
    return PyramidBatch(torch.from_numpy(stack), torch.from_numpy(answer))


def small_sample(rng: np.random.Generator, scene: Pair, n_frames: int) -> Pair:
    """A crop of a small scene: (N, 3, H, W) and (3, H, W) float32 in [0, 1]."""
    frames, answer = scene
    chosen = choose_frames(rng, len(frames), n_frames, "subset")
    top, left = rng.integers(0, answer.shape[0] - SMALL_CROP + 1, 2)
    window = (slice(top, top + SMALL_CROP), slice(left, left + SMALL_CROP))
    stack = np.moveaxis(frames[chosen][(slice(None), *window)], -1, -3)
    wanted = np.moveaxis(answer[window], -1, -3)
    turns, mirror = int(rng.integers(4)), rng.random() < 0.5
    stack, wanted = (np.rot90(part, turns, (-2, -1)) for part in (stack, wanted))
    if mirror:
        stack, wanted = stack[..., ::-1], wanted[..., ::-1]
    stack, wanted = change_light(rng, stack, wanted, LIGHT, chosen)
    return unlike_copies(rng, stack, chosen), wanted


def unlike_copies(rng: np.random.Generator, stack: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Give the frames of a sample that it has twice noise of their own, as a second photograph has.

    Args:
        rng: NumPy generator.
        stack: (N, 3, H, W) float32 in [0, 1].
        chosen: (N,) int, which frames of the scene they are.
    """
    _, first = np.unique(chosen, return_index=True)
    again = np.setdiff1d(np.arange(len(chosen)), first)
    if not len(again) or rng.random() < 0.3:
        return stack
    stack = np.array(stack)
    noise = rng.standard_normal(stack[again].shape, np.float32)
    stack[again] += np.float32(rng.uniform(0, COPY_NOISE)) * noise
    return stack.clip(0, 1)


def spec_of(number: int, size: int = SMALL_SIZE) -> SceneSpec:
    """What small scene `number` is to be, of a side in px."""
    return SceneSpec(size, kind=KINDS[number % len(KINDS)])


class Scenes:
    """The pools of large and small scenes of a run, and how many scenes were made in all.

    Args:
        photos: to cut from.
        seed: of the run.
        size: large scenes to keep; eight times as many small ones.
        details: the network's `details`.
    """

    def __init__(self, photos: Photos, seed: int, size: int, details: Details) -> None:
        def large(number: int) -> LargeScene:
            return LargeScene(photos, seed + 100, number, details)

        self.small_seed = seed + 200

        def small(number: int) -> Pair:
            frames, answer, *_ = numbered_scene(photos, self.small_seed, number, spec_of(number))
            return frames, answer

        self.large, self.small = Pool(size, large), Pool(8 * size, small)
        self.number = 0

    def batch(self, rng: np.random.Generator, is_large: bool) -> PyramidBatch:
        """The batch of a step, after adding new scenes now and then."""
        if is_large:
            if len(self.large) < 6 or rng.random() < 0.25:
                self.add(self.large)
            return large_batch(rng, self.large.draw(rng))
        for _ in range(6 if len(self.small) < 40 else int(rng.random() < 0.4)):
            self.add(self.small)
        counts = [
            numbered_frames(self.small_seed, number, spec_of(number))
            for number in self.small.numbers
        ]
        return small_batch(rng, self.small, counts)

    def add(self, pool: Pool[Any]) -> None:
        """Add the next scene to a pool."""
        pool.add(self.number)
        self.number += 1

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of them; the scenes themselves are made anew."""
        return {
            "number": self.number,
            "large": list(self.large.numbers),
            "small": list(self.small.numbers),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Return to what `state` gave."""
        self.number = state["number"]
        for pool, name in ((self.large, "large"), (self.small, "small")):
            pool.numbers.clear()
            pool.numbers.extend(state[name])


def validation_scenes(photos: Photos, count: int) -> list[tuple[str, Pair]]:
    """(kind, (frames, answer)) of large and small scenes; they depend only on the photographs."""
    of_large, of_small = VALIDATION_SEEDS
    large = [numbered_large_scene(photos, of_large, k)[:2] for k in range(count)]
    small = [
        numbered_scene(photos, of_small, k, spec_of(k, VALIDATION_SIZE))[:2] for k in range(count)
    ]
    return [("large", pair) for pair in large] + [("small", pair) for pair in small]
