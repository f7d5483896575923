"""What a run trains and validates on: from folders, shards or photographs to its two loaders."""

import hashlib
import json
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist

from augmentation import Augmentation
from dataloader import (
    EpochBatches,
    OwnBatches,
    TrainingStacks,
    ValidationStacks,
    find_pairs,
    make_loader,
    split_pairs,
)
from luma_store import LumaStore
from photos import PhotoFolder, list_photos, part_readable
from shards import shares_of_shards
from synthesis import SyntheticStacks, slot_frames
from utils import StackError, rank_and_world

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
    return hashlib.sha256(json.dumps([shared, content]).encode()).hexdigest()[:16]


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


def collect_pairs(datapaths, quiet):
    """The pairs of all folders; says which stacks and answers have no partner."""
    pairs = []
    for datapath in datapaths:
        found, left_over = find_pairs(datapath)
        if len(datapaths) > 1:  # two sets may have scenes of one name
            found = [(f"{Path(datapath).name}/{name}", *rest) for name, *rest in found]
        pairs += found
        for sentence in [] if quiet else left_over:
            print(f"left out: {sentence}")
    return pairs


def usable_photos(paths):
    """Part photographs as `part_readable` does, each process its share of them.

    Raises:
        StackError: none can be read.
    """
    rank, world, _ = rank_and_world()
    if not dist.is_initialized():
        return part_readable(paths)
    good, left_over = [], []
    if own := paths[rank::world]:
        try:
            good, left_over = part_readable(own)
        except StackError as error:  # the others' share may be better
            left_over = [str(error)]
    shares = [None] * world
    dist.all_gather_object(shares, (good, left_over))
    good = {path for share, _ in shares for path in share}
    left_over = [sentence for _, sentences in shares for sentence in sentences]
    if not good:
        raise StackError(f"none of the {len(paths)} photographs can be read: {left_over[0]}")
    return [path for path in paths if path in good], left_over


def stored_samples(args, store, scenes, augmentation):
    """What trains on the stacks of --datapath.

    Args:
        args: the options; store: a LumaStore; scenes: indices of the training stacks in it.
        augmentation: an Augmentation.
    Returns:
        (samples, frame_counts, content, sentence): Samples, N of each, what `fingerprint` takes,
        and what to tell.
    """
    frame_counts = [store.frame_count(scene) for scene in scenes]
    content = [[store.pairs[scene][0], n] for scene, n in zip(scenes, frame_counts)]
    samples = TrainingStacks(store, scenes, augmentation, args.seed)
    return samples, frame_counts, content, f"{len(scenes)} stacks train"


def random_samples(args, cache_mib, workers, augmentation, device):
    """What trains on random scenes of --photos.

    Args:
        args: the options; cache_mib: memory for photographs, MiB; workers: loader processes.
        augmentation: an Augmentation; device: torch.device that trains.
    Returns:
        As `stored_samples`.
    Raises:
        StackError: there are no photographs, or none can be read.
    """
    paths = list_photos(args.photos)
    if args.dry_run:
        paths = paths[:REHEARSED_PHOTOS]
    paths, left_over = usable_photos(paths)
    for sentence in [] if rank_and_world()[0] else left_over:
        print(f"left out: {sentence}")
    photos = PhotoFolder(paths, cache_mib // max(workers, 1))
    # CUDA does not survive the fork of a loader process, and the blur was never tried on MPS.
    if device.type != "cuda" or workers:
        device = torch.device("cpu")
    samples = SyntheticStacks(photos, augmentation, args.seed, device)
    frame_counts = slot_frames(args.scenes_per_epoch, args.seed)
    content = [path.name for path in paths]
    sentence = f"{len(frame_counts)} random scenes of {len(paths)} photographs train an epoch"
    return samples, frame_counts, content, sentence


def build_order(args, store, scenes, frame_counts):
    """The EpochBatches of a run.

    Args:
        args: the options; store: a LumaStore; scenes: indices of the training stacks in it.
        frame_counts: N of every training sample.
    Raises:
        StackError: --own_shards, and there are not enough of them.
    """
    rank, world, _ = rank_and_world()
    plan = {
        "frame_counts": frame_counts,
        "batch_size": args.batch_size,
        "seed": args.seed,
        "subsets": args.frames == "subset" and not args.photos,  # a random scene draws its own
        "repeat": args.repeat,
        "rank": rank,
        "world": world,
    }
    if not args.own_shards:
        return EpochBatches(**plan)
    return OwnBatches(shares_of_shards([store.pairs[scene] for scene in scenes], world), **plan)


def build_loaders(args, device):
    """The loaders of a run.

    Returns:
        (training, validation, data): two loaders and the fingerprint of the training scenes.
    Raises:
        StackError: the data cannot be found, read or split.
    """
    rank, world, _ = rank_and_world()
    pairs = collect_pairs(args.datapath, quiet=rank > 0) if args.datapath else []
    if args.val_datapath:
        held_out = collect_pairs(args.val_datapath, quiet=rank > 0)
        parts = range(len(pairs)), range(len(pairs), len(pairs) + len(held_out))
        pairs += held_out
    else:
        parts = split_pairs(pairs, args.val_fraction, args.seed, by_name=args.split == "name")
    size = tuple(args.image_size)
    resize = size if args.fit == "resize" and not args.photos else None
    cache_mib = args.cache_mib // 2 if args.photos else args.cache_mib
    workers = count_workers(args, device)
    store = LumaStore(pairs, resize, cache_mib, workers)
    augmentation = Augmentation(
        crop=None if resize else size,
        frames=args.frames,
        flips=args.flips,
        gain=args.gain,
        noise=args.noise,
        negatives=args.negatives,
        shading=args.shading,
        drift=args.drift,
    )
    if args.photos:
        data = random_samples(args, cache_mib, workers, augmentation, device)
    else:
        data = stored_samples(args, store, parts[0], augmentation)
    samples, frame_counts, content, sentence = data
    order = build_order(args, store, parts[0], frame_counts)
    pin = device.type == "cuda"
    training = make_loader(samples, workers, pin, batch_sampler=order)
    share = range(rank, len(parts[1]), world)
    validation = make_loader(
        ValidationStacks(store, parts[1], args.val_size),
        workers,
        pin,
        indices=share[:REHEARSED] if args.dry_run else share,
    )
    if rank == 0:
        print(f"{sentence}, {len(parts[1])} validate")
    return training, validation, fingerprint(args, world, content)


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
