"""What a run trains and validates on: stacks of folders, of shards, or photographs."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from stackmff.errors import KNOWN_FAILURES, StackError
from stackmff.evaluation.metrics import SSIM_WINDOW
from stackmff.images.folders import (
    ANSWER_FOLDER,
    STACK_FOLDERS,
    by_stem,
    frames_in,
    list_folders,
    list_pictures,
    stack_root,
)
from stackmff.processes import gathered, rank_and_world
from stackmff.synthesis.depth_maps import disparity_as_picture, pair_depth, read_depth
from stackmff.synthesis.options import DepthKind, PhotoLimits, known_kind
from stackmff.synthesis.photos import (
    list_photos,
    part_readable,
    read_fit,
    resized,
    sentence_about,
    what_is_wrong,
)
from stackmff.training.augmentation import check_crop
from stackmff.training.batches import split_pairs
from stackmff.training.leaks import refuse_leaks, without_copies
from stackmff.training.options import TrainOptions
from stackmff.training.picture_store import PictureStore
from stackmff.training.shards import Pair, list_shards, pairs_in_shards

REHEARSED_PHOTOS = 100  # that a dry run reads


@dataclass(frozen=True)
class StoredStacks:
    """The stacks of --datapath and --val_datapath.

    Attributes:
        store: their pictures.
        training, validation: indices into the store's pairs.
        left_out: a sentence for each stack that cannot be used.
    """

    store: PictureStore
    training: list[int]
    validation: list[int]
    left_out: list[str]


@dataclass(frozen=True)
class UsablePhotos:
    """The photographs of --photos that can be used.

    Attributes:
        paths: the photographs.
        maps: their depth maps, in the same order; empty if there is no --depth_path.
        left_out: a sentence for each photograph or map that cannot be used.
    """

    paths: list[Path]
    maps: list[Path]
    left_out: list[str]


def stored_stacks(
    options: TrainOptions, cache_mib: int, workers: int, colour: bool
) -> StoredStacks:
    """Find the stacks of a run, split them and leave out those that are too small.

    Args:
        options: of the run.
        cache_mib: memory for decoded pictures, MiB.
        workers: loader processes.
        colour: keep RGB instead of luma.
    Raises:
        StackError: the data cannot be found, read or split, or all are too small.
    """
    data, samples = options.data, options.samples
    pairs, left_out = collect_pairs(data.datapath or ())
    held_out, more = collect_pairs(data.val_datapath or ())
    left_out = left_out + more
    if data.val_datapath:
        parts = list(range(len(pairs))), list(range(len(pairs), len(pairs) + len(held_out)))
        pairs = pairs + held_out
    else:
        by_name = data.split == "name"
        parts = split_pairs(pairs, data.val_fraction, options.run.seed, by_name)
    size = samples.image_size
    resize = size if samples.fit == "resize" and not data.photos else None
    store = PictureStore(pairs, resize, cache_mib, workers, colour)
    why = f"smaller than the crops of {size[1]}x{size[0]}: give a smaller --image_size"
    training, small = part_by_size(store, parts[0], size, why)
    why = f"too small to be scored: each side must have {SSIM_WINDOW} px"
    validation, more = part_by_size(store, parts[1], (SSIM_WINDOW,) * 2, why)
    left_out = left_out + small + more
    if not data.val_datapath:
        training, copies = without_copies(pairs, training, validation)
        left_out += copies
    elif not options.run.resume:  # a run that has begun keeps what it began with
        refuse_leaks(pairs, training, validation)
    return StoredStacks(store, training, validation, left_out)


def find_usable_photos(options: TrainOptions) -> UsablePhotos:
    """Find the photographs of a run, with their depth maps if --depth_path is given.

    Raises:
        StackError: there are no photographs, or none can be used.
    """
    data = options.data
    folders, depth = data.photos or (), data.depth
    maps: dict[Path, Path] = {}
    left_out: list[str] = []
    if depth.depth_path:
        pairs, alone = pair_depth(folders[0], depth.depth_path, depth.depth_suffix)
        maps = dict(pairs)
        paths = [photo for photo, _ in pairs]
        left_out = [f"no depth map for {photo}" for photo in alone]
    else:
        paths = list_photos(folders)
    if options.run.dry_run:
        paths = paths[:REHEARSED_PHOTOS]
    paths, unfit = usable_photos(options, paths, maps)
    return UsablePhotos(paths, [maps[path] for path in paths if maps], left_out + unfit)


def fingerprint(options: TrainOptions, world: int, content: Any) -> str:
    """What an epoch depends on besides the options that cannot change, as a short text.

    Args:
        options: of the run.
        world: processes that share out an epoch.
        content: names and numbers of frames of the training stacks, or names of the photographs.
    """
    shared: Any = world
    if options.data.own_shards:
        shared = ["own shards", world]
    elif options.optimisation.global_batch:  # the order is the same, whoever shares it out
        shared = ["global batch", options.optimisation.global_batch]
    return digest([shared, content])


def digest(value: Any) -> str:
    """A short text that differs between any two plain JSON values."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def collect_pairs(datapaths: Sequence[Path]) -> tuple[list[Pair], list[str]]:
    """(pairs, left_over) of all folders, as from `find_pairs`."""
    pairs: list[Pair] = []
    alone: list[str] = []
    for datapath in datapaths:
        found, left_over = find_pairs(datapath)
        if len(datapaths) > 1:  # two sets may have scenes of one name
            found = [(f"{datapath.name}/{name}", frames, answer) for name, frames, answer in found]
        pairs += found
        alone += left_over
    return pairs, alone


def part_by_size(
    store: PictureStore, scenes: Sequence[int], least: tuple[int, int], why: str
) -> tuple[list[int], list[str]]:
    """Separate the scenes that are large enough from those that are not.

    Args:
        store: their pictures.
        scenes: indices into its pairs.
        least: (height, width) px.
        why: what is said about a smaller one.
    Returns:
        (scenes, sentences): those that are large enough, and a sentence for each other one.
    Raises:
        StackError: there are scenes, and none is large enough.
    """
    kept: list[int] = []
    sentences: list[str] = []
    for scene in scenes:
        height, width = store.shapes[scene] or least
        if height >= least[0] and width >= least[1]:
            kept.append(scene)
        else:
            sentences.append(f"{store.pairs[scene][2]} is {width}x{height}, {why}")
    if sentences and not kept:
        raise StackError(sentences[0])
    return kept, sentences


def tell_left_out(sentences: Sequence[str], strict: bool) -> None:
    """Print what was left out; raises StackError if there is any and that is not allowed."""
    for sentence in [] if rank_and_world()[0] else sentences:
        print(f"left out: {sentence}", flush=True)
    if sentences and strict:
        raise StackError(
            f"{len(sentences)} left out: correct or remove the files named above, or remove "
            "--strict"
        )


def usable_photos(
    options: TrainOptions, paths: Sequence[Path], maps: dict[Path, Path]
) -> tuple[list[Path], list[str]]:
    """Check photographs as `part_readable` does; each process checks a share of them.

    Args:
        options: their limits apply.
        paths: one or more files.
        maps: {photograph: its depth map}; empty if no depth is needed.
    Returns:
        (good, sentences): as `part_readable`.
    Raises:
        StackError: none can be used.
    """
    limits = options.photos.limits
    kind = known_kind(options.data.depth) if maps else None

    def check(path: Path, limits: PhotoLimits) -> str | None:
        if kind is None:
            return what_is_wrong(path, limits)
        return what_is_wrong_with_depth(maps[path], kind, path, limits, options)

    if not dist.is_initialized():
        return part_readable(paths, limits=limits, check=check)
    rank, world, _ = rank_and_world()
    found: tuple[list[Path], list[str]] = [], []
    if own := paths[rank::world]:
        try:
            found = part_readable(own, limits=limits, check=check)
        except StackError:  # the shares of the others may be better
            found = [], [check(path, limits) or "" for path in own]
    shares = gathered(found)
    good = {path for share, _ in shares for path in share}
    left_over = [sentence for _, sentences in shares for sentence in sentences]
    if not good:
        raise StackError(f"none of the {len(paths)} photographs can be used: {left_over[0]}")
    return [path for path in paths if path in good], left_over


def what_is_wrong_with_depth(
    depth_map: Path, kind: DepthKind, path: Path, limits: PhotoLimits, options: TrainOptions
) -> str | None:
    """A sentence on why a photograph or its depth map cannot be used; None if both can."""
    try:
        picture = read_fit(path, limits)
        depth = read_depth(depth_map, picture.shape)
        shape = resized(picture, options.data.photo_size).shape
        disparity_as_picture(depth, kind, depth_map, shape)
        check_crop(shape, options.samples.image_size, path)
    except KNOWN_FAILURES as error:
        return sentence_about(path, error)
    return None


def find_pairs(datapath: Path) -> tuple[list[Pair], list[str]]:
    """Find the stacks of a data set and their answers.

    Args:
        datapath: folder that holds dof_stack/<scene>/ (or "image stack", or stacks) and
            AiF/<scene>.*, where frames and answers are pictures of any format; or a folder of
            shards.
    Returns:
        (pairs, left_over): pairs a list of (scene, frame paths in natural order, answer path) in
        natural order of the scenes; left_over a sentence for each stack or answer that has no
        partner.
    Raises:
        StackError: a folder is missing or there twice, two answers have the same name, or there is
            no pair at all.
    """
    stacks = stack_root(datapath)
    if stacks is None and list_shards(datapath):
        found = pairs_in_shards(datapath)
        if not found[0]:
            raise StackError(f"{datapath} holds no stack with its answer in its tar files")
        return found
    answers_folder = datapath / ANSWER_FOLDER
    if stacks is None or not answers_folder.is_dir():
        raise StackError(_why_no_data_set(datapath, ANSWER_FOLDER if stacks else STACK_FOLDERS[0]))
    answers = by_stem(list_pictures(answers_folder))
    pairs: list[Pair] = []
    left_over: list[str] = []
    for folder in list_folders(stacks):
        frames = frames_in(folder)
        answer = answers.pop(folder.name, None)
        if answer is None:
            left_over.append(f"{folder} has no answer {answers_folder.name}/{folder.name}.*")
        elif len(frames) < 2:
            left_over.append(f"{folder} holds {len(frames)} picture(s), a stack needs two or more")
        else:
            pairs.append((folder.name, frames, answer))
    left_over += [f"{path} has no stack {stacks.name}/{stem}/" for stem, path in answers.items()]
    if not pairs:
        raise StackError(f"{datapath} holds no stack with its answer: {'; '.join(left_over[:3])}")
    return pairs, left_over


def _why_no_data_set(datapath: Path, missing: str) -> str:
    """A sentence on a folder that is not one of a data set: it lacks the folder `missing`."""
    if missing != ANSWER_FOLDER and (datapath / "train_stack").is_dir():
        return (
            f"{datapath} has the published code's train_stack and train_lable: rename them to "
            "train/dof_stack and train/AiF, test_stack and test_lable to test/dof_stack and "
            "test/AiF, and give --datapath and --val_datapath the two folders"
        )
    if missing != ANSWER_FOLDER and datapath.is_dir() and list_pictures(datapath):
        return (
            f"{datapath} holds pictures and no stacks: make_dataset.py makes stacks of them, "
            "train.py --photos uses them as they are"
        )
    return (
        f"{datapath} has no folder {missing}: a data set is dof_stack/<scene>/ with the frames and "
        "AiF/<scene>.png with the answers, as make_dataset.py writes them"
    )


def check_stacks(
    store: PictureStore, scenes: Sequence[int], seconds: float
) -> tuple[int, list[str]]:
    """Read stacks, each process its share, until the time is up.

    Args:
        store: their pictures.
        scenes: indices into the store's pairs.
        seconds: time for it.
    Returns:
        (n, sentences): how many were read here, and what is wrong with some.
    """
    rank, world, _ = rank_and_world()
    end, count = time.monotonic() + seconds, 0
    sentences: list[str] = []
    for scene in scenes[rank::world]:
        try:
            answer = store.read(scene, -1)
            frames = range(store.frame_count(scene))
            store.read_frames(scene, frames, answer, (slice(1), slice(1)))
        except StackError as error:
            sentences.append(str(error))
        count += 1
        if time.monotonic() > end:
            break
    return count, sentences
