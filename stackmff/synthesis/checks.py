"""The options of make_dataset.py as a whole: contradictions, and values that follow from others."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stackmff.errors import StackError
from stackmff.images.folders import is_inside
from stackmff.options import changed, defaults_of, names_of, values_of
from stackmff.synthesis.depth_maps import side_file
from stackmff.synthesis.options import (
    MAX_COC,
    NUM_FRAMES,
    RANDOM_COC,
    RANDOM_SCENES,
    RANDOM_SIZE,
    DatasetOptions,
    DepthOptions,
    FrameOptions,
    LensOptions,
    PhotoLimits,
    RefocusOptions,
    known_kind,
)

KINDS = ("dof_stack", "AiF", "depth", "masks")  # the folders of a data set
OF_PHOTOS = (
    "image_path",
    *names_of(DepthOptions),
    *names_of(RefocusOptions),
    "num_scenes",
    "clean",
    *names_of(PhotoLimits),
)
# How the Middlebury motorcycle is refocused, in the demo and in the benchmark.
MOTORCYCLE: dict[str, Any] = {"num_frames": 12, "max_coc": 16.0, "depth_kind": "disparity"}


def resolved(options: DatasetOptions) -> DatasetOptions:
    """The options with the values that follow from others, such as the size of a random scene.

    Raises:
        StackError: options contradict each other, or a folder or an option that is needed is
            missing.
    """
    if options.camera.noise is not None:
        options = changed(options, noise=options.camera.given()["noise"])
    if options.files.benchmark:
        return _of_benchmark(options)
    output = options.output
    if options.files.demo:
        unfit = (*OF_PHOTOS, "stack_path", *names_of(FrameOptions))
        refuse(options, unfit, "--demo brings its own picture and lens")
        return changed(options, **MOTORCYCLE)
    if options.stacks.stack_path:
        return _of_stacks(options, options.stacks.stack_path, output)
    refuse(
        options,
        names_of(FrameOptions),
        "only the frames of --stack_path can be chosen and shuffled",
    )
    image_path, depth_path = options.files.image_path, options.files.depth.depth_path
    if not image_path or not image_path.is_dir():
        raise StackError(f"--image_path {image_path}: give a folder of photographs")
    for name, source in (("image_path", image_path), ("depth_path", depth_path)):
        if source and is_output(source, output):
            raise StackError(f"--output_dir would write into --{name}, which stays unchanged")
    return _of_depth(options, depth_path) if depth_path else _of_random_scenes(options)


def _of_benchmark(options: DatasetOptions) -> DatasetOptions:
    """`resolved` of the fixed test set."""
    from stackmff.synthesis.benchmark_set import LONGER_SIDE

    unfit = [name for name in names_of(DatasetOptions) if name not in ("benchmark", "workers")]
    refuse(options, unfit, "--benchmark is a fixed set")
    return changed(options, **MOTORCYCLE, size=LONGER_SIDE)


def _of_stacks(options: DatasetOptions, source: Path, output: Path) -> DatasetOptions:
    """`resolved` of a changed data set."""
    unfit = (*OF_PHOTOS, "size", "save_masks")
    refuse(options, unfit, "--stack_path brings its own pictures and blur")
    if not source.is_dir():
        raise StackError(f"--stack_path {source} is not a folder: give the folder of a data set")
    if is_inside(output, source):
        raise StackError("--output_dir is inside --stack_path, whose stacks stay unchanged")
    return options


def _of_random_scenes(options: DatasetOptions) -> DatasetOptions:
    """`resolved` of scenes that are composed of photographs."""
    depth, refocus = options.files.depth, options.refocus
    if refocus.refocus == "published":
        raise StackError("--refocus published needs --depth_path")
    if depth.depth_suffix or depth.depth_kind or refocus.depth_range:
        raise StackError("--depth_suffix, --depth_kind and --depth_range need --depth_path")
    return changed(
        options,
        num_scenes=options.scenes.num_scenes or RANDOM_SCENES,
        max_coc=refocus.lens.max_coc or RANDOM_COC,
        size=options.scenes.size or RANDOM_SIZE,
    )


def _of_depth(options: DatasetOptions, depth_path: Path) -> DatasetOptions:
    """`resolved` of photographs with depth."""
    refocus, scenes = options.refocus, options.scenes
    if scenes.num_scenes or scenes.clean:
        raise StackError("--num_scenes and --clean are for random scenes: remove --depth_path")
    if not depth_path.is_dir():
        raise StackError(f"--depth_path {depth_path} is not a folder: give the folder of the maps")
    if refocus.refocus == "published":
        return _of_regions(options, depth_path)
    if refocus.depth_range:
        raise StackError("--depth_range is for --refocus published: remove it")
    return changed(
        options, depth_kind=known_kind(options.files.depth), **_of_photographs(refocus.lens)
    )


def _of_regions(options: DatasetOptions, depth_path: Path) -> DatasetOptions:
    """`resolved` of photographs with depth as the published synthesis blurs them."""
    lens, depth_range = options.refocus.lens, options.refocus.depth_range
    if lens.max_coc or options.scenes.size or options.files.depth.depth_kind:
        raise StackError(
            "--refocus published has its own blur and size: remove --max_coc, --size and "
            "--depth_kind"
        )
    # Metres in 16 bits use only a few of 8 bits' levels where they are taken as they are.
    if depth_range is None and "metres_per_level" in (side_file(depth_path) or {}):
        depth_range = "max"
    return changed(options, depth_range=depth_range, **_of_photographs(lens))


def _of_photographs(lens: LensOptions) -> dict[str, Any]:
    """The number of frames and the blur of photographs with depth."""
    return {"num_frames": lens.num_frames or NUM_FRAMES, "max_coc": lens.max_coc or MAX_COC}


def is_output(source: Path, output: Path) -> bool:
    """Whether a folder of pictures to read is one that a data set at `output` writes into."""
    source = source.resolve()
    places = [(output / kind).resolve() for kind in KINDS]
    return any(place in (source, *source.parents) for place in places)


def refuse(options: DatasetOptions, names: Iterable[str], why: str) -> None:
    """Raise StackError if one of the options `names` is not its default."""
    values, defaults = values_of(options), defaults_of(DatasetOptions)
    for name in names:
        if values[name] != defaults[name]:
            raise StackError(f"{why}: remove --{name}")
