"""Make focal stacks to train and test with: of photographs with depth, random scenes, other stacks.

OUT/dof_stack/<scene>/00.png ...   the frames, in focus order (but for --shuffle)
OUT/AiF/<scene>.png                the all-in-focus answer
OUT/depth/<scene>.png              16 bit disparity (larger = nearer), or the published 8 bit map;
                                   none of stacks that come from stacks
OUT/dataset.json                   every setting, and each scene's lens and camera
OUT/photographs.json               of random scenes: which photographs are fit for them
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from stackmff.errors import KNOWN_FAILURES, StackError, sentence_of
from stackmff.files import write_json
from stackmff.images.folders import STACK_FOLDERS
from stackmff.processes import end_with_parent
from stackmff.records import run_record
from stackmff.synthesis.depth_maps import pair_depth
from stackmff.synthesis.options import KINDS, check_arguments, get_parser
from stackmff.synthesis.photos import PhotoFolder, limits_of, list_photos, part_readable
from stackmff.synthesis.restack import changed_stack, scene_rng
from stackmff.synthesis.stacks import composed_scene, photo_scene, random_scene, write_scene
from utils import run_main

CACHE_MIB = 256  # of photographs, in each process

# When a data set is gone on with; the benchmark's folder is the beginning of output_path.
MAY_CHANGE = ("output_path", "num_scenes", "workers", "benchmark", "strict")
SAVE_EVERY = 5.0  # seconds, at least: what a killed run loses of its record
PHOTOS_FILE = "photographs.json"


def list_jobs(args):
    """The scenes to make: [(name, photograph, depth map)], and a sentence for each thing left out.

    A random scene has None in their places, since it is made of all that are fit; a stack of a data
    set has the list of its frames and its answer, a composed scene of the benchmark its recipe and
    None. Raises StackError where there is nothing.
    """
    if args.demo or args.benchmark:
        from skimage.data import stereo_motorcycle

        picture, _, disparity = stereo_motorcycle()
        jobs = [("motorcycle", picture, disparity)]
        if args.benchmark:
            from stackmff.synthesis.benchmark_set import DENSE, recipes_of

            name = Path(args.output_path).name
            jobs = jobs if name != DENSE else []  # it has its own number of frames
            jobs += [(recipe.name, recipe, None) for recipe in recipes_of(name)]
        return jobs, []
    if args.depth_path:
        pairs, alone = pair_depth(args.image_path, args.depth_path, args.depth_suffix)
        jobs = [(photo.stem, photo, depth_map) for photo, depth_map in pairs]
        return jobs, [f"no depth map for {photo}" for photo in alone]
    if args.stack_path:
        from stackmff.training.data_sets import find_pairs

        return find_pairs(args.stack_path)
    digits = max(5, len(str(args.num_scenes - 1)))
    return [(f"scene_{k:0{digits}d}", None, None) for k in range(args.num_scenes)], []


@lru_cache(maxsize=1)
def open_photos(path):
    """A PhotoFolder of the fit photographs that a file of `part_readable` names.

    It keeps what it has read from scene to scene of this process. That each process reads their
    names itself spares sending thousands of them with every scene.
    """
    known = json.loads(path.read_text(encoding="utf-8"))["photographs"]
    return PhotoFolder([Path(name) for name, row in known.items() if not row[-1]], CACHE_MIB)


def start_worker():
    """Set up a process of the pool: it has one core, and ends when the main process is killed."""
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    end_with_parent()


def make_scene(args, index, job):
    """Make and write scene `index`, in a process of its own.

    Returns:
        (settings, None, False), or (None, the sentence that says what is wrong, whether it is the
        photograph or its depth).
    """
    name, photo, depth_map = job
    output = Path(args.output_path)
    rng = np.random.default_rng([args.seed, index])
    scene, profiles = None, (None, None)
    try:
        if args.stack_path:
            scene, profiles = changed_stack(photo, depth_map, args, scene_rng(args.seed, name))
        elif photo is None:
            scene = random_scene(open_photos(output / PHOTOS_FILE), args, index)
        elif args.benchmark and depth_map is None:
            scene = composed_scene(photo, args)
        else:
            scene = photo_scene(photo, depth_map, args, rng)
        return write_scene(output, name, scene, args.save_masks, profiles), None, False
    except KNOWN_FAILURES as error:
        sentence = sentence_of(error)
        bad_input = bool(args.depth_path) and scene is None and isinstance(error, StackError)
        return None, sentence if name in sentence else f"{name}: {sentence}", bad_input


def run_all(function, items, workers):
    """Call `function(*item)` for all items over processes, with a progress bar.

    Yields:
        (item, what the function returned), as they come.
    Raises:
        StackError: a process died, of memory most likely.
    """
    workers = min(workers, len(items))
    if workers < 2:
        for item in tqdm(items, "scenes"):
            yield item, function(*item)
        return
    # Spawned, not forked: a fork of a process with torch's threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker) as pool:
        # The processes start here and inherit this: the parent alone answers Ctrl-C.
        answer = signal.signal(signal.SIGINT, signal.SIG_IGN)
        futures = {pool.submit(function, *item): item for item in items}
        signal.signal(signal.SIGINT, answer)
        try:
            for future in tqdm(as_completed(futures), "scenes", len(futures), smoothing=0.05):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise StackError("a process died, of memory most likely: lower --workers") from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def load_record(path, settings):
    """The record of a data set that is to be gone on with, or a fresh one.

    Raises:
        StackError: the folder holds a data set of other settings, or one that was not made here.
    """
    if not path.exists():
        for kind in (*STACK_FOLDERS, *KINDS):
            if (path.parent / kind).exists():
                raise StackError(
                    f"{path.parent} holds {kind} and no {path.name} that says how it was made: "
                    "choose another --output_path"
                )
        return {"settings": settings, **run_record(), "scenes": {}}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        old = record["settings"]
        record["scenes"] = dict(record["scenes"])
    except (ValueError, KeyError, TypeError) as error:
        raise StackError(f"{path} cannot be understood: remove that data set") from error
    changed = sorted(key for key in settings if settings[key] != old.get(key))
    if changed:
        raise StackError(
            f"{path.parent} holds a data set of other settings ({', '.join(changed)}): choose "
            "another --output_path or remove it"
        )
    return record


def make_set(args):
    """Make a data set, or what is missing of it.

    Args:
        args: the parsed options, checked.
    Returns:
        The exit status.
    Raises:
        StackError: there is nothing to make it of, or it cannot be gone on with.
    """
    output = Path(args.output_path)
    jobs, left_out = list_jobs(args)
    settings = {name: value for name, value in vars(args).items() if name not in MAY_CHANGE}
    record = load_record(output / "dataset.json", settings)
    if args.num_scenes:
        photos = list_photos([args.image_path])
        limits = limits_of(args)
        _, left_out = part_readable(photos, args.workers, limits, output / PHOTOS_FILE)
        open_photos.cache_clear()
    for sentence in left_out:
        print(f"left out: {sentence}", file=sys.stderr)
    if not args.stack_path:
        record["kind"] = "published" if args.refocus == "published" else "disparity"
    todo = [
        (args, index, job)
        for index, job in enumerate(jobs)
        if job[0] not in record["scenes"] or not (output / "AiF" / f"{job[0]}.png").exists()
    ]
    save_record(output, record)
    failures = []
    last, pause = time.monotonic(), SAVE_EVERY
    try:
        for (_, _, job), (scene, wrong, bad_input) in run_all(make_scene, todo, args.workers):
            if scene is not None:
                record["scenes"][job[0]] = scene
            elif bad_input:
                left_out.append(wrong)
                tqdm.write(f"left out: {wrong}", file=sys.stderr)
            else:
                failures.append(wrong)
            if time.monotonic() > last + pause:
                start = time.monotonic()
                save_record(output, record)
                last = time.monotonic()
                pause = max(SAVE_EVERY, 20 * (last - start))  # of a large set it takes a while
    finally:
        record["left_out"] = left_out
        save_record(output, record)
    for wrong in failures:
        print(f"error: {wrong}", file=sys.stderr)
    made = sum(job[0] in record["scenes"] for *_, job in todo)
    print(
        f"{output}: {len(record['scenes'])} scenes, {made} of them new, {len(left_out)} "
        f"{'stacks' if args.stack_path else 'photographs'} left out"
    )
    # A changed data set is to have the scenes that its source has.
    incomplete = left_out and (args.strict or args.stack_path)
    return 1 if failures or incomplete or not record["scenes"] else 0


def save_record(output, record):
    """Write dataset.json, its scenes in the order of their names."""
    record["scenes"] = dict(sorted(record["scenes"].items()))
    write_json(output / "dataset.json", record)


def make_benchmark(parser, args):
    """Make the rendered sets of the benchmark, and the others of the aligned one.

    Args, returns and raises: as `make_set`; parser: of the options.
    """
    from stackmff.synthesis.benchmark_set import ALIGNED, CHANGED, DENSE

    status = 0
    for name in (DENSE, ALIGNED):
        args.output_path = os.path.join(args.benchmark, name)
        status = max(status, make_set(args))
    for name, words in CHANGED.items():
        # With equals signs, since the folder's name may begin with a dash.
        words = [f"--stack_path={args.output_path}", *words, f"--workers={args.workers}"]
        words += [f"--output_path={os.path.join(args.benchmark, name)}"]
        changed = parser.parse_args(words)
        check_arguments(parser, changed)
        status = max(status, make_set(changed))
    return status


def main(argv=None):
    """Make the data set, or those of the benchmark. Returns the exit status."""
    parser = get_parser()
    args = parser.parse_args(argv)
    check_arguments(parser, args)
    return make_benchmark(parser, args) if args.benchmark else make_set(args)


if __name__ == "__main__":
    run_main(main)
