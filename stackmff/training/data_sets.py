"""What a run trains and validates on: from folders, shards or photographs to its two loaders."""

import hashlib
import json
import os
import time
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from augmentation import Augmentation, check_crop
from dataloader import (
    EpochBatches,
    OwnBatches,
    TrainingStacks,
    ValidationStacks,
    find_pairs,
    make_loader,
    split_pairs,
)
from depth import disparity_as_picture, pair_depth, read_depth
from metrics import SSIM_WINDOW
from photos import (
    PhotoFolder,
    limits_of,
    list_photos,
    part_readable,
    read_fit,
    resized,
    sentence_about,
    what_is_wrong,
)
from picture_store import PictureStore
from shards import shares_of_shards
from synthesis import RefocusedStacks, SyntheticStacks, slot_frames
from utils import KNOWN_FAILURES, StackError, free_memory, rank_and_world

CACHE_MIB = 4096  # where no one tells how much memory is free
MOST_WORKERS = 16  # loader processes of one process that trains, where nobody says how many
REHEARSED = 2  # stacks that each process of a dry run validates
REHEARSED_PHOTOS = 100  # that a dry run reads


def fingerprint(args, world, content):
    """What an epoch depends on beside the options that cannot change, as a short text.

    Args:
        args: the options.
        world: processes that share out an epoch.
        content: names and numbers of frames of the training stacks, or names of the photographs.
    """
    if args.own_shards:
        shared = ["own shards", world]
    elif args.global_batch:
        shared = ["global batch", args.global_batch]  # whoever shares it out, the order is one
    else:
        shared = world
    return digest([shared, content])


def digest(value):
    """A short text that tells one plain JSON value from others."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def count_workers(args, device):
    """Loader processes of --num_workers, or as many as keep the device from waiting.

    Args:
        args: the options; device: torch.device that trains.
    Returns:
        0 where loading costs little beside the step: stored stacks on a CPU; or where the device
        makes the scenes itself; else a share of the cores.
    """
    if args.num_workers is not None:
        return args.num_workers
    if bool(args.photos) == (device.type == "cuda"):
        return 0
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(max(cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)), 1), MOST_WORKERS)


def room_for_pictures():
    """MiB of memory that each process on this machine may take for decoded pictures."""
    free, processes = free_memory(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return CACHE_MIB if free == float("inf") else int(free / 2 / processes) >> 20


def collect_pairs(datapaths):
    """(pairs, left_over) of all folders, as of `find_pairs`."""
    pairs, alone = [], []
    for datapath in datapaths:
        found, left_over = find_pairs(datapath)
        if len(datapaths) > 1:  # two sets may have scenes of one name
            found = [(f"{Path(datapath).name}/{name}", *rest) for name, *rest in found]
        pairs += found
        alone += left_over
    return pairs, alone


def part_by_size(store, scenes, least, why):
    """Part scenes by whether they are as large as they must be.

    Args:
        store: a PictureStore; scenes: indices into it.
        least: (height, width) px; why: what is told of a smaller one.
    Returns:
        (scenes, sentences): those that are, and a sentence for each other.
    Raises:
        StackError: there are scenes and none is.
    """
    kept, sentences = [], []
    for scene in scenes:
        height, width = store.shapes[scene] or least
        if height >= least[0] and width >= least[1]:
            kept.append(scene)
        else:
            sentences.append(f"{store.pairs[scene][2]} is {width}x{height}, {why}")
    if sentences and not kept:
        raise StackError(sentences[0])
    return kept, sentences


def tell_left_out(sentences, args):
    """Say what was left out; raises StackError under --strict."""
    for sentence in [] if rank_and_world()[0] else sentences:
        print(f"left out: {sentence}", flush=True)
    if sentences and args.strict:
        raise StackError(
            f"{len(sentences)} left out: mend or remove what is named above, or leave --strict away"
        )


def usable_photos(args, paths, maps=None):
    """Part photographs as `part_readable` does, each process its share of them.

    Args:
        args: the options, whose limits they are held to; paths: one or more files.
        maps: {photograph: its depth map} where depth is needed too.
    Returns:
        (good, sentences): as `part_readable`.
    Raises:
        StackError: none can be used.
    """

    def check(path, limits):
        if maps is None:
            return what_is_wrong(path, limits)
        return what_is_wrong_beside(maps[path], path, limits, args)

    limits = limits_of(args)
    rank, world, _ = rank_and_world()
    if not dist.is_initialized():
        return part_readable(paths, limits=limits, check=check)
    good, left_over = [], []
    if own := paths[rank::world]:
        try:
            good, left_over = part_readable(own, limits=limits, check=check)
        except StackError:  # the others' share may be better
            left_over = [check(path, limits) for path in own]
    shares = [None] * world
    dist.all_gather_object(shares, (good, left_over))
    good = {path for share, _ in shares for path in share}
    left_over = [sentence for _, sentences in shares for sentence in sentences]
    if not good:
        raise StackError(f"none of the {len(paths)} photographs can be used: {left_over[0]}")
    return [path for path in paths if path in good], left_over


def what_is_wrong_beside(depth_map, path, limits, args):
    """The sentence that says why a photograph or its depth cannot be used, None where both can."""
    try:
        picture = read_fit(path, limits)
        depth = read_depth(depth_map, picture.shape)
        shape = resized(picture, args.photo_size).shape
        disparity_as_picture(depth, args.depth_kind, depth_map, shape)
        check_crop(shape, args.image_size, path)
    except KNOWN_FAILURES as error:
        return sentence_about(path, error)
    return None


def stored_samples(args, store, scenes, augmentation):
    """What trains on the stacks of --datapath.

    Args:
        args: the options; store: a PictureStore; scenes: indices of the training stacks in it.
        augmentation: an Augmentation.
    Returns:
        (samples, frame_counts, content, sentence): Samples, N of each, what `fingerprint` takes,
        and what to tell.
    """
    frame_counts = [store.frame_count(scene) for scene in scenes]
    content = [[store.pairs[scene][0], n] for scene, n in zip(scenes, frame_counts)]
    samples = TrainingStacks(store, scenes, augmentation, args.seed)
    return samples, frame_counts, content, f"{len(scenes)} stacks train"


def photo_samples(args, cache_mib, workers, augmentation, device):
    """What trains on --photos: random scenes of them, or each of them with its depth.

    Args:
        args: the options; cache_mib: memory for photographs, MiB; workers: loader processes.
        augmentation: an Augmentation; device: torch.device that trains.
    Returns:
        As `stored_samples`; the numbers of frames as a function of the epoch.
    Raises:
        StackError: there are no photographs, or none can be used.
    """
    paths, maps, left_over = list_photos(args.photos), None, []
    if args.depth_path:
        pairs, alone = pair_depth(args.photos[0], args.depth_path, args.depth_suffix)
        paths, maps = [photo for photo, _ in pairs], dict(pairs)
        left_over = [f"no depth map for {photo}" for photo in alone]
    if args.dry_run:
        paths = paths[:REHEARSED_PHOTOS]
    paths, unfit = usable_photos(args, paths, maps)
    left_over += unfit
    tell_left_out(left_over, args)
    told = f" ({len(left_over)} left out)" if left_over else ""
    photos = PhotoFolder(paths, cache_mib // max(workers, 1), args.photo_size)
    # CUDA does not survive the fork of a loader process, and the blur was never tried on MPS.
    if device.type != "cuda" or workers:
        device = torch.device("cpu")
    content = [path.name for path in paths]
    if args.depth_path:
        maps = [maps[path] for path in paths]
        lens = args.depth_kind, args.num_frames, args.max_coc
        samples = RefocusedStacks(photos, maps, *lens, augmentation, args.seed, device)
        counts = [args.num_frames] * len(paths)
        return samples, counts, content, f"{len(paths)} photographs with depth{told} train"
    n_scenes = args.scenes_per_epoch
    samples = SyntheticStacks(photos, augmentation, args.seed, n_scenes, device)
    counts = partial(slot_frames, n_scenes, args.seed)
    sentence = f"{n_scenes} random scenes of {len(paths)} photographs{told} train an epoch"
    return samples, counts, content, sentence


def build_order(args, store, scenes, frame_counts):
    """The EpochBatches of a run.

    Args:
        args: the options; store: a PictureStore; scenes: indices of the training stacks in it.
        frame_counts: N of every training sample, or a function of the epoch that gives them.
    Raises:
        StackError: --own_shards, and there are not enough of them.
    """
    rank, world, _ = rank_and_world()
    plan = {
        "frame_counts": frame_counts,
        "batch_size": args.batch_size,
        "seed": args.seed,
        "subsets": args.frames == "subset",
        "repeat": args.repeat,
        "rank": rank,
        "world": world,
    }
    if not args.own_shards:
        return EpochBatches(**plan)
    return OwnBatches(shares_of_shards([store.pairs[scene] for scene in scenes], world), **plan)


def build_loaders(args, device, colour):
    """The loaders of a run.

    Args:
        args: the options; device: torch.device that trains.
        colour: of RGB in place of luma.
    Returns:
        (training, validation, data, val_data): two loaders and their scenes' fingerprints.
    Raises:
        StackError: the data cannot be found, read or split.
    """
    rank, world, _ = rank_and_world()
    pairs, alone = collect_pairs(args.datapath or [])
    held_out, more = collect_pairs(args.val_datapath or [])
    left_out = alone + more
    if args.val_datapath:
        parts = range(len(pairs)), range(len(pairs), len(pairs) + len(held_out))
        pairs += held_out
    else:
        parts = split_pairs(pairs, args.val_fraction, args.seed, by_name=args.split == "name")
    size = tuple(args.image_size)
    resize = size if args.fit == "resize" and not args.photos else None
    cache_mib = room_for_pictures() if args.cache_mib is None else args.cache_mib
    cache_mib = cache_mib // 2 if args.photos else cache_mib
    workers = count_workers(args, device)
    store = PictureStore(pairs, resize, cache_mib, workers, colour)
    why = f"smaller than the crops of {size[1]}x{size[0]}: give a smaller --image_size"
    scenes, small = part_by_size(store, parts[0], resize or size, why)
    why = f"too small to be scored: each side must have {SSIM_WINDOW} px"
    validated, more = part_by_size(store, parts[1], (SSIM_WINDOW,) * 2, why)
    left_out += small + more
    tell_left_out(left_out, args)
    augmentation = Augmentation(
        crop=None if resize else size,
        frames=args.frames,
        flips=args.flips,
        gain=args.gain,
        noise=args.noise,
        negatives=args.negatives,
        shading=args.shading,
        drift=args.drift,
        colour=colour,
        recolour=args.recolour,
        fringes=args.fringes,
    )
    if args.photos:
        data = photo_samples(args, cache_mib, workers, augmentation, device)
    else:
        data = stored_samples(args, store, scenes, augmentation)
    samples, frame_counts, content, sentence = data
    order = build_order(args, store, scenes, frame_counts)
    pin = device.type == "cuda"
    training = make_loader(samples, workers, pin, batch_sampler=order)
    share = range(rank, len(validated), world)
    validation = make_loader(
        ValidationStacks(store, validated, args.val_size),
        workers,
        pin,
        indices=share[:REHEARSED] if args.dry_run else share,
    )
    if rank == 0:
        told = f", {len(left_out)} left out" if left_out else ""
        print(f"{sentence}, {len(validated)} validate{told}")
    scored = [[store.pairs[i][0], store.frame_count(i)] for i in validated]
    val_data = digest([scored, list(args.val_size)])
    return training, validation, fingerprint(args, world, content), val_data


def check_stacks(samples, seconds):
    """Read training stacks, each process its share, until the time is up.

    Args:
        samples: the Samples of a run; random scenes have no stacks.
        seconds: time for it.
    Returns:
        (n, sentences): how many were looked at here, and what is wrong with some.
    """
    if not isinstance(samples, TrainingStacks):
        return 0, []
    rank, world, _ = rank_and_world()
    end, count, sentences = time.monotonic() + seconds, 0, []
    for scene in samples.scenes[rank::world]:
        try:
            answer = samples.store.read(scene, -1)
            frames = range(samples.store.frame_count(scene))
            samples.store.read_frames(scene, frames, answer, (slice(1), slice(1)))
        except StackError as error:
            sentences.append(str(error))
        count += 1
        if time.monotonic() > end:
            break
    return count, sentences
