"""Make focal stacks to train and test with: of photographs with depth, random scenes, other stacks.

OUT/dof_stack/<scene>/00.png ...   the frames, in focus order (but for --shuffle)
OUT/AiF/<scene>.png                the all-in-focus answer
OUT/depth/<scene>.png              16 bit disparity (larger = nearer), or the published 8 bit map;
                                   none of stacks that come from stacks
OUT/dataset.json                   every setting, and each scene's lens and camera
"""

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from depth import SIDE_FILE, kind_beside, list_depths, read_depth, to_disparity, to_region_map
from formats import write_picture
from photos import PhotoFolder, list_photos, part_readable, read_rgb
from pictures import STACK_FOLDERS, by_stem, list_pictures
from restack import (
    add_camera_options,
    add_stack_options,
    camera_faults,
    camera_options,
    changed_stack,
    is_inside,
    redevelop,
    scene_rng,
)
from utils import (
    KNOWN_FAILURES,
    StackError,
    number,
    run_main,
    run_record,
    sentence_of,
    write_json,
)

OF_PHOTOS = ("image_path", "depth_path", "depth_suffix", "depth_kind", "depth_range", "refocus")
OF_PHOTOS += ("num_frames", "max_coc", "num_scenes", "clean")
OF_STACKS = ("keep", "shuffle")
CACHE_MIB = 256  # of photographs, in each process
KINDS = ("dof_stack", "AiF", "depth", "masks")  # the folders of a data set
# When a data set is gone on with; the benchmark's folder is the beginning of output_path.
MAY_CHANGE = ("output_path", "num_scenes", "workers", "benchmark")


def get_parser():
    """The options of make_dataset.py."""
    parser = argparse.ArgumentParser(
        description="Make focal stacks with all-in-focus answers. With --depth_path every "
        "photograph gives a stack; without it, random scenes are composed of all of them. With "
        "--stack_path the stacks of another data set are changed.",
    )
    files = parser.add_argument_group("files")
    folder = {"metavar": "DIR", "type": os.path.normpath}  # DIR/ is the folder that DIR was
    files.add_argument("--image_path", **folder, help="all-in-focus photographs")
    files.add_argument(
        "--depth_path",
        **folder,
        help="depth maps named like the photographs: 8 or 16 bit PNG or TIFF, or .npy "
        "(default: none, random scenes)",
    )
    files.add_argument("--depth_suffix", default="", help="follows the name: art.png, art_disp.png")
    files.add_argument("--output_path", metavar="DIR", help="the data set")
    files.add_argument("--save_masks", action="store_true", help="also masks/<scene>/: where focus")
    files.add_argument(
        "--demo",
        action="store_true",
        help="12 frames of scikit-image's Middlebury motorcycle, blur up to 16 px",
    )
    files.add_argument(
        "--benchmark",
        **folder,
        help="instead of --output_path: a fixed test set of scikit-image's pictures, as data sets "
        "below this folder: aligned, noisy, few (3 frames), pairs and dense (30 frames)",
    )
    add_stack_options(parser)
    lens = parser.add_argument_group("lens")
    lens.add_argument(
        "--refocus",
        choices=("thin_lens", "published"),
        default="thin_lens",
        help="how blur is made (default: %(default)s)",
    )
    lens.add_argument(
        "--num_frames",
        type=number(int, 2, 256),
        metavar="N",
        help="frames of a stack (default: 16; random scenes 2 to 16, by their blur)",
    )
    lens.add_argument(
        "--max_coc",
        type=number(float, 0.5, 128),
        metavar="PX",
        help="diameter of the largest circle of confusion (default: 16; random scenes 2 to 30)",
    )
    lens.add_argument(
        "--depth_kind",
        choices=("distance", "disparity"),
        help=f"what a larger value means: farther or nearer (default: as {SIDE_FILE} beside says)",
    )
    lens.add_argument(
        "--depth_range",
        choices=("asis", "max"),
        help="published: regions by the values as they are (default), or by floor(254 d / max d)",
    )
    scene = parser.add_argument_group("scenes")
    scene.add_argument(
        "--num_scenes", type=number(int, 1, 10**7), help="random scenes (default: 1000)"
    )
    scene.add_argument(
        "--size",
        type=number(int, 16, 16384),
        metavar="PX",
        help="side of random scenes (default: 224), or longer side of photographs (default: as is)",
    )
    scene.add_argument(
        "--clean",
        action="store_true",
        help="random scenes without the noise, JPEG, flicker and shake that half of them have",
    )
    add_camera_options(parser)
    run = parser.add_argument_group("run")
    run.add_argument("--seed", type=number(int, 0, 2**32 - 1), default=0, help="(default: 0)")
    run.add_argument(
        "--workers",
        type=number(int, 1, 1024),
        default=os.cpu_count(),
        help="processes (default: one a core)",
    )
    return parser


def check_arguments(parser, args):
    """Refuse contradictions, and fill in the defaults that depend on other options."""
    if args.benchmark:
        from benchmark_set import LONGER_SIDE

        unfit = [name for name in vars(args) if name not in ("benchmark", "workers")]
        refuse(parser, args, unfit, "--benchmark is a fixed set")
        args.num_frames, args.max_coc, args.depth_kind = 12, 16.0, "disparity"
        args.size = LONGER_SIDE
        return
    if not args.output_path:
        parser.error("--output_path is needed: the folder that the data set is to be in")
    if args.demo:
        unfit = (*OF_PHOTOS, "stack_path", *OF_STACKS)
        refuse(parser, args, unfit, "--demo brings its own picture and lens")
        args.num_frames, args.max_coc, args.depth_kind = 12, 16.0, "disparity"
        return
    if args.stack_path:
        unfit = (*OF_PHOTOS, "size", "save_masks")
        refuse(parser, args, unfit, "--stack_path brings its own pictures and blur")
        if not Path(args.stack_path).is_dir():
            parser.error(f"--stack_path {args.stack_path} is no folder: give that of a data set")
        if is_inside(args.output_path, args.stack_path):
            parser.error("--output_path lies in --stack_path, whose stacks stay as they are")
        return
    refuse(parser, args, OF_STACKS, "only stacks of --stack_path are chosen from and shuffled")
    if not args.image_path or not Path(args.image_path).is_dir():
        parser.error(f"--image_path {args.image_path}: give a folder of photographs")
    for name in ("image_path", "depth_path"):
        if is_output(getattr(args, name), args.output_path):
            parser.error(f"--output_path would write into --{name}, which stays as it is")
    random = not args.depth_path
    if random and args.refocus == "published":
        parser.error("--refocus published needs --depth_path")
    if random and (args.depth_suffix or args.depth_kind or args.depth_range):
        parser.error("--depth_suffix, --depth_kind and --depth_range need --depth_path")
    if not random and (args.num_scenes or args.clean):
        parser.error("--num_scenes and --clean are for random scenes: leave --depth_path away")
    if args.depth_path and not Path(args.depth_path).is_dir():
        parser.error(f"--depth_path {args.depth_path} is no folder")
    if args.refocus == "published" and (args.max_coc or args.size or args.depth_kind):
        parser.error(
            "--refocus published has its own blur and size: leave --max_coc, --size and "
            "--depth_kind away"
        )
    if args.refocus != "published" and args.depth_range:
        parser.error("--depth_range is for --refocus published")
    if not random and args.refocus == "thin_lens" and not args.depth_kind:
        args.depth_kind = kind_beside(args.depth_path)
        if not args.depth_kind:
            parser.error(
                "--depth_kind distance or disparity is needed: does a larger value mean farther "
                f"or nearer? (no {SIDE_FILE} in {args.depth_path})"
            )
    args.num_scenes = (args.num_scenes or 1000) if random else None
    args.num_frames = args.num_frames or (None if random else 16)
    args.max_coc = args.max_coc or (30.0 if random else 16.0)
    args.size = args.size or (224 if random else None)


def is_output(source, output):
    """Whether a folder of pictures to read is one that a data set at `output` writes into."""
    if not source:
        return False
    source = Path(source).resolve()
    places = [(Path(output) / kind).resolve() for kind in KINDS]
    return any(place in (source, *source.parents) for place in places)


def refuse(parser, args, names, why):
    """End with a sentence if one of the options `names` is given."""
    for name in names:
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"{why}: leave --{name} away")


def pair_depth(image_path, depth_path, suffix):
    """Pairs of photograph and depth map with the same name.

    Args:
        image_path, depth_path: folders, possibly the same.
        suffix: what follows the photograph's name in the depth map's.
    Returns:
        [(photograph, depth map)], [photographs without a map].
    Raises:
        StackError: there is no pair, or two photographs or two maps have one name.
    """
    if not suffix and Path(depth_path).resolve() == Path(image_path).resolve():
        raise StackError(f"{image_path} holds both pictures and depth: tell them by --depth_suffix")
    maps = by_stem(list_depths(depth_path, suffix))
    photos = [p for p in list_pictures(image_path) if not (suffix and p.stem.endswith(suffix))]
    by_stem(photos)  # each names a scene
    pairs = [(photo, maps[photo.stem + suffix]) for photo in photos if photo.stem + suffix in maps]
    if not pairs:
        raise StackError(
            f"{depth_path} has no depth map for a picture of {image_path}: name them alike, as in "
            f"art.jpg and art{suffix}.png"
        )
    paired = {photo for photo, _ in pairs}
    return pairs, [photo for photo in photos if photo not in paired]


def shrink(picture, size, interpolation):
    """Resize so that the longer side is `size` px; None leaves it as it is."""
    height, width = picture.shape[:2]
    if size is None or max(height, width) == size:
        return picture
    scale = size / max(height, width)
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(picture, target, interpolation=interpolation)


def photo_scene(photo, depth_map, args, rng):
    """A stack of one photograph with its depth.

    Args:
        photo, depth_map: paths, or (H, W, 3) uint8 and (H, W) arrays.
        args: the parsed options; rng: NumPy generator.
    Returns:
        frames (N, H, W, 3) uint8, answer (H, W, 3) uint8, depth (H, W) uint8 or uint16,
        sharpest (H, W) int, settings.
    """
    import torch

    from refocus import published_refocus, refocus_picture, regions_of_depth, to_linear
    from scenes import develop

    picture = read_rgb(photo) if isinstance(photo, Path) else photo
    depth = read_depth(depth_map, picture.shape) if isinstance(depth_map, Path) else depth_map
    n_frames = args.num_frames
    if args.refocus == "published":
        regions = to_region_map(depth, depth_map, args.depth_range)
        frames, answer, depth = published_refocus(picture, regions, n_frames)
        sharpest = regions_of_depth(depth, n_frames)
        if faults := camera_faults(args):
            frames = redevelop(rng, frames, faults)
        return frames, answer, depth, sharpest, {}
    picture = shrink(picture, args.size, cv2.INTER_AREA)
    disparity = to_disparity(depth, args.depth_kind, depth_map)
    # Nearest: between two surfaces there is no third one.
    disparity = cv2.resize(disparity, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    focus = np.linspace(1, 0, n_frames)
    linear = to_linear(torch.from_numpy(picture).permute(2, 0, 1).float() / 255)
    linear = refocus_picture(linear, torch.from_numpy(disparity), focus, args.max_coc)
    frames = develop(rng, linear, **camera_faults(args))
    settings = {"focus_disparity": focus.tolist(), "aperture_px": args.max_coc}
    return frames, picture, *describe_disparity(disparity, focus), settings


def random_scene(photos, args, rng):
    """A stack of a random scene; see `photo_scene` for what it returns."""
    import scenes

    faults = camera_faults(args) if args.clean or camera_options(args) else None
    frames, answer, disparity, settings = scenes.random_scene(
        rng, photos, args.size, args.max_coc, args.num_frames, faults
    )
    focus = np.array(settings["focus_disparity"])
    return frames, answer, *describe_disparity(disparity, focus), settings


def composed_scene(recipe, args):
    """A stack of a recipe of the benchmark; see `photo_scene` for what it returns."""
    from benchmark_set import render

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


def list_jobs(args):
    """The scenes to make: [(name, photograph, depth map)], and a sentence for each thing left out.

    A random scene has all photographs and None in their places, a stack of a data set the list of
    its frames and its answer, a composed scene of the benchmark its recipe and None. Raises
    StackError where there is nothing.
    """
    if args.demo or args.benchmark:
        from skimage.data import stereo_motorcycle

        picture, _, disparity = stereo_motorcycle()
        jobs = [("motorcycle", picture, disparity)]
        if args.benchmark:
            from benchmark_set import DENSE, recipes_of

            name = Path(args.output_path).name
            jobs = jobs if name != DENSE else []  # it has its own number of frames
            jobs += [(recipe.name, recipe, None) for recipe in recipes_of(name)]
        return jobs, []
    if args.depth_path:
        pairs, alone = pair_depth(args.image_path, args.depth_path, args.depth_suffix)
        jobs = [(photo.stem, photo, depth_map) for photo, depth_map in pairs]
        return jobs, [f"no depth map for {photo}" for photo in alone]
    if args.stack_path:
        from dataloader import find_pairs

        return find_pairs(args.stack_path)
    photos = list_photos([args.image_path])
    digits = max(5, len(str(args.num_scenes - 1)))
    return [(f"scene_{k:0{digits}d}", photos, None) for k in range(args.num_scenes)], []


@lru_cache(maxsize=1)
def open_photos(paths):
    """A PhotoFolder that keeps what it has read from scene to scene of this process."""
    return PhotoFolder(paths, CACHE_MIB)


def start_worker():
    """Set up a process of the pool: it has one core."""
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def make_scene(args, index, job):
    """Make and write scene `index`, in a process of its own.

    Returns:
        (settings, None), or (None, the sentence that says what is wrong with its input).
    """
    name, photo, depth_map = job
    rng = np.random.default_rng([args.seed, index])
    profiles = (None, None)
    try:
        if args.stack_path:
            scene, profiles = changed_stack(photo, depth_map, args, scene_rng(args.seed, name))
        elif isinstance(photo, list):
            scene = random_scene(open_photos(tuple(photo)), args, rng)
        elif args.benchmark and depth_map is None:
            scene = composed_scene(photo, args)
        else:
            scene = photo_scene(photo, depth_map, args, rng)
        return write_scene(Path(args.output_path), name, scene, args.save_masks, profiles), None
    except KNOWN_FAILURES as error:
        sentence = sentence_of(error)
        return None, sentence if name in sentence else f"{name}: {sentence}"


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
    for sentence in left_out:
        print(f"left out: {sentence}", file=sys.stderr)
    settings = {name: value for name, value in vars(args).items() if name not in MAY_CHANGE}
    record = load_record(output / "dataset.json", settings)
    if args.num_scenes:
        jobs = without_bad_photos(jobs, args.workers)
    if not args.stack_path:
        record["kind"] = "published" if args.refocus == "published" else "disparity"
    todo = [
        (args, index, job)
        for index, job in enumerate(jobs)
        if job[0] not in record["scenes"] or not (output / "AiF" / f"{job[0]}.png").exists()
    ]
    write_json(output / "dataset.json", record)
    failures = []
    try:
        for (_, _, job), (scene, wrong) in run_all(make_scene, todo, args.workers):
            if wrong:
                failures.append(wrong)
            else:
                record["scenes"][job[0]] = scene
    finally:
        record["scenes"] = dict(sorted(record["scenes"].items()))
        write_json(output / "dataset.json", record)
    for wrong in failures:
        print(f"error: {wrong}", file=sys.stderr)
    print(f"{output}: {len(record['scenes'])} scenes, {len(todo) - len(failures)} of them new")
    # A changed data set is to have the scenes that its source has.
    return 1 if failures or (args.stack_path and left_out) else 0


def make_benchmark(parser, args):
    """Make the rendered sets of the benchmark, and the others of the aligned one.

    Args, returns and raises: as `make_set`; parser: of the options.
    """
    from benchmark_set import ALIGNED, CHANGED, DENSE

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


def without_bad_photos(jobs, workers):
    """The jobs of random scenes with the photographs that can be read.

    Raises:
        StackError: none can.
    """
    good, left_over = part_readable(jobs[0][1], workers)
    for sentence in left_over:
        print(f"left out: {sentence}", file=sys.stderr)
    return [(name, good, None) for name, _, _ in jobs]


if __name__ == "__main__":
    run_main(main)
