"""Stacks made of photographs with depth or of composed scenes, and how they are written."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from stackmff.images.formats import write_picture
from stackmff.images.metadata import Metadata
from stackmff.synthesis.depth_maps import disparity_as_picture, read_depth, to_region_map
from stackmff.synthesis.options import CameraOptions, DepthKind, PhotoLimits
from stackmff.synthesis.photos import Photos, read_fit, resized

if TYPE_CHECKING:
    from stackmff.synthesis.benchmark_set import Recipe


class MadeStack(NamedTuple):
    """A stack with its answer, and what is known of how it was made."""

    frames: np.ndarray  # (N, H, W, C) uint8 or uint16
    answer: np.ndarray  # (H, W, C) of the same dtype
    depth: np.ndarray | None  # (H, W) uint8 or uint16, as its file holds it
    sharpest: np.ndarray | None  # (H, W) int, in which frame each pixel is sharpest
    settings: dict[str, Any]  # plain JSON values, for the record
    profiles: tuple[Metadata | None, ...] = (None, None)  # of the frames and of the answer


@dataclass(frozen=True)
class LensStacks:
    """Stacks that a thin lens takes of photographs with depth.

    Attributes:
        depth_kind: what the depth maps hold.
        n_frames: N; the focal planes are evenly spread over the disparity.
        max_coc: diameter of the largest circle of confusion, px.
        size: longer side that photographs are resized to, px; None leaves them unchanged.
        camera: the faults of the frames.
        limits: what a photograph must have.
    """

    depth_kind: DepthKind
    n_frames: int
    max_coc: float
    size: int | None
    camera: CameraOptions
    limits: PhotoLimits

    def make(
        self, photo: Path | np.ndarray, depth_map: Path | np.ndarray, rng: np.random.Generator
    ) -> MadeStack:
        """The stack of one photograph.

        Args:
            photo: its file, or (H, W, 3) uint8.
            depth_map: its file, or (h, w).
            rng: draws the faults.
        Raises:
            StackError: a file cannot be read or used.
        """
        from stackmff.synthesis.camera import develop
        from stackmff.synthesis.scenes import lens_frames

        picture, depth = read_pair(photo, depth_map, self.limits)
        picture = resized(picture, self.size)
        disparity = disparity_as_picture(depth, self.depth_kind, depth_map, picture.shape)
        focus = np.linspace(1, 0, self.n_frames)
        linear = lens_frames(picture, disparity, focus, self.max_coc)
        frames = develop(rng, linear, **self.camera.faults())
        settings = {"focus_disparity": focus.tolist(), "aperture_px": self.max_coc}
        return MadeStack(frames, picture, *describe_disparity(disparity, focus), settings)


@dataclass(frozen=True)
class RegionStacks:
    """Stacks of photographs with depth by the published synthesis, see `published_refocus`.

    Attributes:
        n_frames: N, the number of frames and of regions.
        depth_range: how the depth maps become regions, see `to_region_map`.
        camera: the faults of the frames.
        limits: what a photograph must have.
    """

    n_frames: int
    depth_range: Literal["asis", "max"] | None
    camera: CameraOptions
    limits: PhotoLimits

    def make(
        self, photo: Path | np.ndarray, depth_map: Path | np.ndarray, rng: np.random.Generator
    ) -> MadeStack:
        """The stack of one photograph, see `LensStacks.make`."""
        from stackmff.synthesis.camera import redevelop
        from stackmff.synthesis.refocus import published_refocus, regions_of_depth

        picture, depth = read_pair(photo, depth_map, self.limits)
        regions = to_region_map(depth, depth_map, self.depth_range)
        frames, answer, depth = published_refocus(picture, regions, self.n_frames)
        sharpest = regions_of_depth(depth, self.n_frames)
        if faults := self.camera.faults():
            frames = redevelop(rng, frames, faults)
        return MadeStack(frames, answer, depth, sharpest, {})


@dataclass(frozen=True)
class RandomStacks:
    """Stacks of random scenes, see `scenes.numbered_scene`.

    Attributes:
        seed: of all scenes.
        size: side, px.
        max_coc: bound of the largest circle of confusion, px.
        n_frames: N; None: by the scene.
        faults: of the camera, arguments of `camera.develop`; None: at random.
    """

    seed: int
    size: int
    max_coc: float
    n_frames: int | None = None
    faults: dict[str, Any] | None = None

    def make(self, photos: Photos, number: int) -> MadeStack:
        """The stack of a scene.

        Args:
            photos: of which the scene is composed.
            number: of the scene, from 0.
        """
        from stackmff.synthesis.scenes import SceneSpec, numbered_scene

        spec = SceneSpec(self.size, self.max_coc, self.n_frames, self.faults)
        frames, answer, disparity, settings = numbered_scene(photos, self.seed, number, spec)
        focus = np.array(settings["focus_disparity"])
        return MadeStack(frames, answer, *describe_disparity(disparity, focus), settings)


def composed_stack(recipe: "Recipe", size: int) -> MadeStack:
    """The stack of a recipe of the benchmark whose longer side has `size` px at most."""
    from stackmff.synthesis.benchmark_set import render

    frames, answer, disparity, settings = render(recipe, size)
    focus = np.array(settings["focus_disparity"])
    return MadeStack(frames, answer, *describe_disparity(disparity, focus), settings)


def read_pair(
    photo: Path | np.ndarray, depth_map: Path | np.ndarray, limits: PhotoLimits
) -> tuple[np.ndarray, np.ndarray]:
    """A photograph (H, W, 3) and its depth (h, w); arrays pass through unchecked.

    Raises:
        StackError: a file cannot be read, or the photograph does not meet the limits.
    """
    picture = read_fit(photo, limits) if isinstance(photo, Path) else photo
    depth = read_depth(depth_map, picture.shape) if isinstance(depth_map, Path) else depth_map
    return picture, depth


def describe_disparity(
    disparity: np.ndarray, focus: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The 16 bit picture of a disparity, and where each frame is the sharpest.

    Args:
        disparity: (H, W) float in [0, 1].
        focus: disparities of the N focal planes.
    Returns:
        (H, W) uint16, and (H, W) int from 0 to N - 1, the nearest focal plane.
    """
    nearest = np.zeros(disparity.shape, int)
    distance = np.full(disparity.shape, np.inf)
    for k, plane in enumerate(focus):
        closer = abs(disparity - plane) < distance
        nearest[closer] = k
        distance = np.minimum(distance, abs(disparity - plane))
    return np.round(65535 * disparity).astype(np.uint16), nearest


def write_stack(output: Path, name: str, stack: MadeStack, save_masks: bool = False) -> None:
    """Write a stack; its answer comes last, so that a scene with an answer is complete.

    Args:
        output: folder of the data set.
        name: of the scene.
        stack: its `sharpest` must be known for the masks.
        save_masks: also write where each frame is the sharpest.
    Raises:
        StackError, OSError: a file cannot be written.
    """
    count = len(stack.frames)
    digits = max(2, len(str(count - 1)))
    # Waiting for the disk at each of thousands of files would halve the speed: whoever records the
    # scene waits once.
    write = partial(write_picture, durable=False)
    masks = [255 * np.uint8(stack.sharpest == k) for k in range(count)] if save_masks else []
    of_frames, of_answer = stack.profiles
    for kind, pictures, profile in (
        ("dof_stack", stack.frames, of_frames),
        ("masks", masks, None),
    ):
        folder = output / kind / name
        shutil.rmtree(folder, ignore_errors=True)  # frames of an interrupted run
        for k, picture in enumerate(pictures):
            write(folder / f"{k:0{digits}d}.png", picture, profile)
    if stack.depth is not None:
        write(output / "depth" / f"{name}.png", stack.depth)
    write(output / "AiF" / f"{name}.png", stack.answer, of_answer)
