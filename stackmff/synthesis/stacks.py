"""Scenes from photographs, written as stacks."""

import shutil
from pathlib import Path

import numpy as np

from stackmff.images.formats import write_picture
from stackmff.synthesis.camera import redevelop
from stackmff.synthesis.depth_maps import disparity_as_picture, read_depth, to_region_map
from stackmff.synthesis.photos import limits_of, read_fit, resized
from stackmff.synthesis.restack import camera_faults, camera_options


def photo_scene(photo, depth_map, args, rng):
    """A stack of one photograph with its depth.

    Args:
        photo, depth_map: paths, or (H, W, 3) uint8 and (H, W) arrays.
        args: the parsed options; rng: NumPy generator.
    Returns:
        frames (N, H, W, 3) uint8, answer (H, W, 3) uint8, depth (H, W) uint8 or uint16,
        sharpest (H, W) int, settings.
    """
    from stackmff.synthesis.camera import develop
    from stackmff.synthesis.refocus import published_refocus, regions_of_depth
    from stackmff.synthesis.scenes import lens_frames

    picture = read_fit(photo, limits_of(args)) if isinstance(photo, Path) else photo
    depth = read_depth(depth_map, picture.shape) if isinstance(depth_map, Path) else depth_map
    n_frames = args.num_frames
    if args.refocus == "published":
        regions = to_region_map(depth, depth_map, args.depth_range)
        frames, answer, depth = published_refocus(picture, regions, n_frames)
        sharpest = regions_of_depth(depth, n_frames)
        if faults := camera_faults(args):
            frames = redevelop(rng, frames, faults)
        return frames, answer, depth, sharpest, {}
    picture = resized(picture, args.size)
    disparity = disparity_as_picture(depth, args.depth_kind, depth_map, picture.shape)
    focus = np.linspace(1, 0, n_frames)
    linear = lens_frames(picture, disparity, focus, args.max_coc)
    frames = develop(rng, linear, **camera_faults(args))
    settings = {"focus_disparity": focus.tolist(), "aperture_px": args.max_coc}
    return frames, picture, *describe_disparity(disparity, focus), settings


def random_scene(photos, args, index):
    """A stack of a random scene; see `photo_scene` for what it returns."""
    from stackmff.synthesis import scenes

    faults = camera_faults(args) if args.clean or camera_options(args) else None
    frames, answer, disparity, settings = scenes.numbered_scene(
        photos, args.seed, index, args.size, args.max_coc, args.num_frames, faults
    )
    focus = np.array(settings["focus_disparity"])
    return frames, answer, *describe_disparity(disparity, focus), settings


def composed_scene(recipe, args):
    """A stack of a recipe of the benchmark; see `photo_scene` for what it returns."""
    from stackmff.synthesis.benchmark_set import render

    frames, answer, disparity, settings = render(recipe, args.size)
    focus = np.array(settings["focus_disparity"])
    return frames, answer, *describe_disparity(disparity, focus), settings


def describe_disparity(disparity, focus):
    """The 16 bit picture of a disparity (H, W), and which of N focal planes is the nearest."""
    nearest = np.zeros(disparity.shape, int)
    distance = np.full(disparity.shape, np.inf)
    for k, plane in enumerate(focus):
        closer = abs(disparity - plane) < distance
        nearest[closer] = k
        distance = np.minimum(distance, abs(disparity - plane))
    return np.round(65535 * disparity).astype(np.uint16), nearest


def write_scene(output, name, scene, save_masks, profiles):
    """Write a scene; its answer comes last, so that a scene with an answer is whole.

    Args:
        output: folder of the data set; name: of the scene.
        scene: as from `photo_scene`, depth and sharpest None where they are not known.
        save_masks: also write where each frame is the sharpest.
        profiles: Metadata of the frames and of the answer, None for none.
    Returns:
        The scene's settings.
    """
    frames, answer, depth, sharpest, settings = scene
    digits = max(2, len(str(len(frames) - 1)))
    masks = [255 * np.uint8(sharpest == k) for k in range(len(frames))] if save_masks else []
    for kind, pictures, profile in (("dof_stack", frames, profiles[0]), ("masks", masks, None)):
        folder = output / kind / name
        shutil.rmtree(folder, ignore_errors=True)  # frames of an interrupted run
        for k, picture in enumerate(pictures):
            write_picture(folder / f"{k:0{digits}d}.png", picture, profile)
    if depth is not None:
        write_picture(output / "depth" / f"{name}.png", depth)
    write_picture(output / "AiF" / f"{name}.png", answer, profiles[1])
    return {"frames": len(frames), **settings}
