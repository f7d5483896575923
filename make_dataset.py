"""Make focal stacks to train and test with: of photographs with depth, random scenes, other stacks.

OUT/dof_stack/<scene>/00.png ...   the frames, in focus order unless --shuffle
OUT/AiF/<scene>.png                the all-in-focus answer
OUT/depth/<scene>.png              16 bit disparity (larger = nearer), or the published 8 bit map;
                                   absent for stacks made from other stacks
OUT/dataset.json                   every setting, and the lens and camera of each scene
OUT/photographs.json               for random scenes: which photographs are usable
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from stackmff.errors import KNOWN_FAILURES, StackError, sentence_of
from stackmff.files import parse_json, write_json
from stackmff.images.folders import STACK_FOLDERS
from stackmff.options import (
    HelpFormatter,
    add_options,
    build,
    changed,
    defaults_of,
    parse,
    values_of,
)
from stackmff.original import translated
from stackmff.processes import in_processes
from stackmff.records import run_record
from stackmff.synthesis.checks import KINDS, resolved
from stackmff.synthesis.depth_maps import pair_depth
from stackmff.synthesis.options import DatasetOptions
from stackmff.synthesis.photos import PhotoFolder, list_photos, part_readable
from stackmff.synthesis.restack import changed_stack, scene_rng
from stackmff.synthesis.stacks import (
    LensStacks,
    MadeStack,
    RandomStacks,
    RegionStacks,
    composed_stack,
    write_stack,
)
from utils import run_main

CACHE_MIB = 256  # of photographs, in each process

# What may differ when an unfinished data set is continued; the folder of --benchmark is the first
# part of output_dir.
MAY_DIFFER = ("output_dir", "num_scenes", "workers", "benchmark", "strict")
SAVE_EVERY = 5.0  # seconds, at least: what a killed run loses of its record
PHOTOS_FILE = "photographs.json"


def get_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        description="Make focal stacks with all-in-focus answers. With --depth_path, each "
        "photograph gives a stack; without it, random scenes are composed of all of them. With "
        "--stack_path, the stacks of another data set are changed.",
        formatter_class=HelpFormatter,
    )
    add_options(parser, DatasetOptions)
    return parser


class SceneTask(NamedTuple):
    """A scene to make, possibly in another process."""

    name: str
    make: Callable[[], MadeStack]


class Outcome(NamedTuple):
    """What came of a task: the settings of the scene, or what is wrong, as a sentence."""

    settings: dict[str, Any] | None
    wrong: str = ""
    unusable: bool = False  # what it was to be made of; else the work failed


class SceneList(NamedTuple):
    """The scenes of a data set, and a sentence for each thing that is left out of it."""

    tasks: list[SceneTask]
    left_out: list[str]


def list_scenes(options: DatasetOptions) -> SceneList:
    """The scenes that the options ask for.

    Args:
        options: resolved ones, see synthesis/checks.py.
    Raises:
        StackError: there are none.
    """
    files = options.files
    if files.benchmark:
        return list_benchmark(options)
    if files.demo:
        return SceneList([motorcycle_task(options)], [])
    if options.stacks.stack_path:
        return list_changed(options, options.stacks.stack_path)
    assert files.image_path is not None  # `resolved` has seen to it
    if files.depth.depth_path:
        return list_photographs(options, files.image_path, files.depth.depth_path)
    return list_random(options)


def list_benchmark(options: DatasetOptions) -> SceneList:
    """The scenes of the benchmark's set whose name the output folder has."""
    from stackmff.synthesis.benchmark_set import DENSE, LONGER_SIDE, recipes_of

    name = options.output.name
    tasks = [motorcycle_task(options)] if name != DENSE else []  # it has its own number of frames
    size = options.scenes.size or LONGER_SIDE
    for recipe in recipes_of(name):
        tasks.append(SceneTask(recipe.name, partial(composed_stack, recipe, size)))
    return SceneList(tasks, [])


def motorcycle_task(options: DatasetOptions) -> SceneTask:
    """scikit-image's Middlebury motorcycle, whose disparity was measured."""
    from skimage.data import stereo_motorcycle

    picture, _, disparity = stereo_motorcycle()
    rng = np.random.default_rng([options.run.seed, 0])
    make = photo_stacks(options).make
    return SceneTask("motorcycle", partial(make, picture, disparity, rng))


def list_photographs(options: DatasetOptions, image_path: Path, depth_path: Path) -> SceneList:
    """A scene for each photograph that has a depth map."""
    pairs, alone = pair_depth(image_path, depth_path, options.files.depth.depth_suffix)
    make, tasks = photo_stacks(options).make, []
    for index, (photo, depth_map) in enumerate(pairs):
        rng = np.random.default_rng([options.run.seed, index])
        tasks.append(SceneTask(photo.stem, partial(make, photo, depth_map, rng)))
    return SceneList(tasks, [f"no depth map for {photo}" for photo in alone])


def photo_stacks(options: DatasetOptions) -> LensStacks | RegionStacks:
    """How the stacks of photographs with depth are made."""
    refocus, kind = options.refocus, options.files.depth.depth_kind
    n_frames, max_coc = refocus.lens.num_frames, refocus.lens.max_coc
    assert n_frames and max_coc  # `resolved` has filled them in, and the kind
    camera, limits = options.camera, options.photos.limits
    if refocus.refocus == "published":
        return RegionStacks(n_frames, refocus.depth_range, camera, limits)
    assert kind is not None
    return LensStacks(kind, n_frames, max_coc, options.scenes.size, camera, limits)


def list_changed(options: DatasetOptions, source: Path) -> SceneList:
    """A scene for each stack of a data set that has an answer."""
    from stackmff.training.data_sets import find_pairs

    pairs, left_out = find_pairs(source)
    how = options.stacks.frames, options.camera
    tasks = []
    for name, paths, answer in pairs:
        rng = scene_rng(options.run.seed, name)
        tasks.append(SceneTask(name, partial(changed_stack, paths, answer, *how, rng)))
    return SceneList(tasks, left_out)


def list_random(options: DatasetOptions) -> SceneList:
    """Random scenes, each composed of all photographs that are usable."""
    count, size = options.scenes.num_scenes, options.scenes.size
    lens, camera = options.refocus.lens, options.camera
    assert count and size and lens.max_coc  # `resolved` has filled them in
    faults = camera.faults() if options.scenes.clean or camera.given() else None
    how = RandomStacks(options.run.seed, size, lens.max_coc, lens.num_frames, faults)
    make = partial(random_stack, options.output / PHOTOS_FILE, how)
    digits = max(5, len(str(count - 1)))
    return SceneList(
        [SceneTask(f"scene_{k:0{digits}d}", partial(make, k)) for k in range(count)], []
    )


def random_stack(photos: Path, how: RandomStacks, number: int) -> MadeStack:
    """The stack of a random scene, see `open_photos` and `RandomStacks.make`."""
    return how.make(open_photos(photos), number)


@lru_cache(maxsize=1)
def open_photos(path: Path) -> PhotoFolder:
    """The usable photographs that a record of `part_readable` names.

    They stay in memory from scene to scene of this process. Each process reads the record itself,
    which spares sending thousands of names with every scene.
    """
    known = parse_json(path.read_text(encoding="utf-8"))["photographs"]
    return PhotoFolder([Path(name) for name, row in known.items() if not row[-1]], CACHE_MIB)


class SetRecord:
    """The file dataset.json of a data set, to which scenes are added.

    Args:
        folder: of the data set.
        settings: plain JSON values, on which every scene depends.
    Raises:
        StackError: the folder holds a data set of other settings, or one that was not made here.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.path = folder / "dataset.json"
        self.content = self.read() if self.path.exists() else self.begin(settings)
        old = self.content["settings"]
        # Earlier versions wrote null for --shuffle and for limits that were not given.
        defaults = defaults_of(DatasetOptions)
        known = {name: defaults.get(name) if old.get(name) is None else old[name] for name in old}
        different = sorted(
            name for name in settings if settings[name] != known.get(name, defaults.get(name))
        )
        if different:
            raise StackError(
                f"{folder} holds a data set of other settings ({', '.join(different)}): choose "
                "another --output_dir or remove it"
            )
        self.last, self.pause = time.monotonic(), SAVE_EVERY

    def begin(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The content of a new record; StackError where there are pictures already."""
        for kind in (*STACK_FOLDERS, *KINDS):
            if (self.path.parent / kind).exists():
                raise StackError(
                    f"{self.path.parent} holds {kind} and no {self.path.name} that says how it was "
                    "made: choose another --output_dir"
                )
        return {"settings": settings, **run_record(), "scenes": {}}

    def read(self) -> dict[str, Any]:
        """The content of the file; StackError where it is damaged."""
        try:
            content = parse_json(self.path.read_text(encoding="utf-8"))
            content["settings"] = dict(content["settings"])
            content["scenes"] = dict(content["scenes"])
        except (ValueError, KeyError, TypeError) as error:
            raise StackError(f"{self.path} is damaged: remove that data set") from error
        return content

    def is_done(self, name: str) -> bool:
        """Whether a scene is in the data set."""
        answer = self.path.parent / "AiF" / f"{name}.png"
        return name in self.content["scenes"] and answer.exists()

    def add(self, name: str, settings: dict[str, Any]) -> None:
        """Add a scene; now and then the file is written."""
        self.content["scenes"][name] = settings
        if time.monotonic() > self.last + self.pause:
            start = time.monotonic()
            self.save()
            self.last = time.monotonic()
            self.pause = max(SAVE_EVERY, 20 * (self.last - start))  # large ones take a while

    def save(self) -> None:
        """Write the file, its scenes in the order of their names."""
        self.content["scenes"] = dict(sorted(self.content["scenes"].items()))
        if hasattr(os, "sync"):
            os.sync()  # the scenes that it names are on the disk before it is
        write_json(self.path, self.content)


def make_scene(output: Path, save_masks: bool, task: SceneTask) -> Outcome:
    """Make and write a scene, possibly in a process of the pool."""
    made = None
    try:
        made = task.make()
        write_stack(output, task.name, made, save_masks)
    except KNOWN_FAILURES as error:
        sentence = sentence_of(error)
        wrong = sentence if task.name in sentence else f"{task.name}: {sentence}"
        return Outcome(None, wrong, made is None and isinstance(error, StackError))
    return Outcome({"frames": len(made.frames), **made.settings})


def run_tasks(
    tasks: Sequence[SceneTask], options: DatasetOptions
) -> Iterator[tuple[SceneTask, Outcome]]:
    """Make the scenes in processes, with a progress bar; yields them as they come.

    Raises:
        StackError: a process was killed.
    """
    make = partial(make_scene, options.output, options.files.save_masks)
    workers = min(options.run.workers, len(tasks))
    if workers > 1:
        # A scene that is being written is finished whatever happens.
        outcomes = in_processes(make, tasks, workers, as_they_come=True, finish=True)
    else:
        outcomes = ((task, make(task)) for task in tasks)
    yield from tqdm(outcomes, "scenes", len(tasks), smoothing=0.05)


def make_scenes(
    tasks: Sequence[SceneTask], record: SetRecord, options: DatasetOptions
) -> list[str]:
    """Make scenes and add them, or what must be left out, to the record.

    Returns:
        A sentence for each scene that failed.
    """
    failures = []
    for task, outcome in run_tasks(tasks, options):
        if outcome.settings is not None:
            record.add(task.name, outcome.settings)
        elif outcome.unusable and options.files.depth.depth_path:
            record.content["left_out"].append(outcome.wrong)
            tqdm.write(f"left out: {outcome.wrong}", file=sys.stderr)
        else:
            failures.append(outcome.wrong)
    return failures


def check_photos(options: DatasetOptions) -> list[str]:
    """Find the usable photographs of random scenes.

    Returns:
        A sentence for each of the others.
    """
    assert options.files.image_path is not None
    photos = list_photos([options.files.image_path])
    record = options.output / PHOTOS_FILE
    _, left_out = part_readable(photos, options.run.workers, options.photos.limits, record)
    open_photos.cache_clear()
    return left_out


def make_set(options: DatasetOptions) -> int:
    """Make a data set, or what is missing of it.

    Args:
        options: resolved ones, see synthesis/checks.py.
    Returns:
        The exit status.
    Raises:
        StackError: there is nothing to make it of, or it cannot be continued.
    """
    output, of_stacks = options.output, options.stacks.stack_path
    tasks, left_out = list_scenes(options)
    settings = {name: v for name, v in values_of(options).items() if name not in MAY_DIFFER}
    record = SetRecord(output, settings)
    if options.scenes.num_scenes:
        left_out = check_photos(options)
    for sentence in left_out:
        print(f"left out: {sentence}", file=sys.stderr)
    if not of_stacks:
        published = options.refocus.refocus == "published"
        record.content["kind"] = "published" if published else "disparity"
    record.content["left_out"] = left_out
    todo = [task for task in tasks if not record.is_done(task.name)]
    record.save()
    try:
        failures = make_scenes(todo, record, options)
    finally:
        record.save()
    for wrong in failures:
        print(f"error: {wrong}", file=sys.stderr)
    scenes = record.content["scenes"]
    made = sum(task.name in scenes for task in todo)
    print(
        f"{output}: {len(scenes)} scenes, {made} of them new, {len(left_out)} "
        f"{'stacks' if of_stacks else 'photographs'} left out"
    )
    # A changed data set must have the scenes of its source.
    incomplete = left_out and (options.photos.strict or of_stacks)
    return 1 if failures or incomplete or not scenes else 0


def make_benchmark(options: DatasetOptions, folder: Path) -> int:
    """Make the rendered sets of the benchmark, and of the aligned one the others.

    Args:
        options: resolved ones.
        folder: of the sets.
    Returns:
        The exit status.
    """
    from stackmff.synthesis.benchmark_set import ALIGNED, CHANGED, DENSE

    status = 0
    for name in (DENSE, ALIGNED):
        status = max(status, make_set(changed(options, output_dir=folder / name)))
    for name, change in CHANGED.items():
        places = {"stack_path": folder / ALIGNED, "output_dir": folder / name}
        values = {**places, "workers": options.run.workers, **change}
        status = max(status, make_set(resolved(build(DatasetOptions, values, strict=True))))
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Make the data set, or those of the benchmark. Returns the exit status."""
    parser = get_parser()
    (options,) = parse(parser, translated(argv), DatasetOptions)
    try:
        options = resolved(options)
    except StackError as error:
        parser.error(str(error))
    if options.files.benchmark:
        return make_benchmark(options, options.files.benchmark)
    return make_set(options)


if __name__ == "__main__":
    run_main(main)
