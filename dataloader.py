"""Training and validation batches from focal stacks in folders.

A data set is a folder with dof_stack/<scene>/ (the frames, in focus order) and AiF/<scene>.* (the
all-in-focus answer), or one of tar files with the same, see training/shards.py. What a sample is depends on
(seed, epoch, position) and on nothing else: no hidden random state, so that a run that stops and
resumes sees what it would have seen.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
from functools import partial

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from stackmff.errors import StackError
from stackmff.evaluation.metrics import SSIM_WINDOW
from stackmff.machine import free_memory
from stackmff.processes import rank_and_world
from stackmff.synthesis.camera import develop
from stackmff.synthesis.depth_maps import disparity_as_picture, pair_depth, read_depth
from stackmff.synthesis.photos import PhotoFolder, list_photos
from stackmff.synthesis.scenes import lens_frames, numbered_frames, numbered_scene
from stackmff.training.augmentation import Augmentation, change_light, choose_frames, draw_view
from stackmff.training.batches import SAMPLE, EpochBatches, OwnBatches, split_pairs
from stackmff.training.data_sets import (
    REHEARSED_PHOTOS,
    collect_pairs,
    part_by_size,
    tell_left_out,
    usable_photos,
)
from stackmff.training.picture_store import PictureStore, grey_levels
from stackmff.training.shards import shares_of_shards

CACHE_MIB = 4096  # where no one tells how much memory is free
MOST_WORKERS = 16  # loader processes of one process that trains, where nobody says how many
REHEARSED = 2  # stacks that each process of a dry run validates
LARGEST_COC = 30.0  # px


class Samples(Dataset):
    """Augmented samples; the key of a sample, as EpochBatches gives it, says everything about it.

    Args:
        augmentation: an Augmentation.
        seed: goes into every sample's random numbers.
    """

    def __init__(self, augmentation, seed):
        self.augmentation, self.seed = augmentation, seed

    def __getitem__(self, key):
        """The sample of a key, as {"stack", "answer", "scene"}, or the StackError it met."""
        index, n_frames, epoch, position = key
        try:
            rng = np.random.default_rng([self.seed, epoch, SAMPLE, position])
            return self.sample(index, n_frames, rng)
        except StackError as error:
            return error  # raised by `batches`: a loader process would wrap it in its traceback

    def sample(self, index, n_frames, rng):
        """Draw a sample.

        Args:
            index: of the scene, among those that are trained on.
            n_frames: how many frames it shall have.
            rng: NumPy generator.
        Returns:
            {"stack": (N, h, w), "answer": (h, w) float32 in [0, 1], "scene": its name}; in colour
            (N, 3, h, w) and (3, h, w).
        Raises:
            StackError: a file cannot be read or is smaller than the crops.
        """
        raise NotImplementedError


class TrainingStacks(Samples):
    """Samples of stacks that lie in folders.

    Args:
        store: a PictureStore.
        scenes: indices into the store's pairs.
        augmentation, seed: see Samples.
    """

    def __init__(self, store, scenes, augmentation, seed):
        super().__init__(augmentation, seed)
        self.store, self.scenes = store, scenes

    def sample(self, index, n_frames, rng):
        """Draw a sample; see `Samples.sample`."""
        how, scene = self.augmentation, self.scenes[index]
        name, _, path = self.store.pairs[scene]
        frames = choose_frames(rng, self.store.frame_count(scene), n_frames, how.frames)
        answer = self.store.read(scene, -1)
        view = draw_view(rng, answer.shape[-2:], how, path)
        stack = self.store.read_frames(scene, frames.tolist(), answer, view.cut)
        stack, answer = view.turned(stack), view.turned(answer[..., *view.cut])
        stack, answer = change_light(rng, stack, answer, how, frames)
        return {"stack": stack, "answer": answer, "scene": name}


class ValidationStacks(Dataset):
    """Whole stacks in order, without any chance; large pictures are cut to their centre.

    Args:
        store: a PictureStore.
        scenes: indices into the store's pairs.
        largest: (height, width) px of the largest cut.
    """

    def __init__(self, store, scenes, largest):
        self.store, self.scenes, self.largest = store, scenes, largest

    def __len__(self):
        return len(self.scenes)

    def centre(self, height, width):
        """(rows, columns) of the cut."""
        sides = []
        for have, most in zip((height, width), self.largest):
            start = max(have - most, 0) // 2
            sides.append(slice(start, start + min(have, most)))
        return tuple(sides)

    def __getitem__(self, index):
        """{"stack", "answer", "scene"} as in training, or the StackError it met."""
        scene = self.scenes[index]
        try:
            frames = range(self.store.frame_count(scene))
            answer = self.store.read(scene, -1)
            cut = self.centre(*answer.shape[-2:])
            stack = self.store.read_frames(scene, frames, answer, cut)
        except StackError as error:
            return error
        scale = np.float32(1 / 255)
        return {
            "stack": stack * scale,
            "answer": answer[..., *cut] * scale,
            "scene": self.store.pairs[scene][0],
        }


def collate(samples):
    """Join samples to a batch.

    Args:
        samples: dicts of Samples or ValidationStacks, of one N and one size; or StackErrors.
    Returns:
        {"stack": (B, C, N, H, W), "answer": (B, C, H, W) float32 tensors, "scene": list of B
        names}, C 1 for luma and 3 for RGB; the first StackError if there is one.
    """
    for sample in samples:
        if isinstance(sample, StackError):
            return sample
    shapes = {sample["stack"].shape for sample in samples}
    if len(shapes) > 1:
        names = ", ".join(sample["scene"] for sample in samples)
        return StackError(f"the pictures of {names} differ in size: give --image_size to crop them")
    stack = torch.from_numpy(np.stack([sample["stack"] for sample in samples]))
    answer = torch.from_numpy(np.stack([sample["answer"] for sample in samples]))
    names = [sample["scene"] for sample in samples]
    if stack.ndim == 5:  # frames with their planes
        return {"stack": stack.transpose(1, 2), "answer": answer, "scene": names}
    return {"stack": stack[:, None], "answer": answer[:, None], "scene": names}


def _start_worker(worker):
    """Leave Ctrl-C to the main process, which finishes its step and saves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)


def make_loader(dataset, workers, pin_memory, batch_sampler=None, indices=None):
    """A DataLoader whose processes share the store's memory.

    Args:
        dataset: Samples with `batch_sampler`, or ValidationStacks with `indices`.
        workers: loader processes; 0 loads in this one.
        pin_memory: for CUDA.
        batch_sampler: an EpochBatches.
        indices: what to validate in this process, one stack a batch.
    Returns:
        A DataLoader; iterate over `batches(loader)`.
    """
    # Python 3.14 starts processes afresh; only forked ones see the memory of the cache.
    forked = multiprocessing.get_context("fork") if workers and sys.platform == "linux" else None
    order = {"batch_sampler": batch_sampler} if batch_sampler else {"sampler": indices}
    return DataLoader(
        dataset,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=_start_worker,
        multiprocessing_context=forked,
        generator=torch.Generator().manual_seed(0),  # else it would draw from the global state
        **order,
    )


def batches(loader):
    """The batches of a loader; raises the StackError that a loader process met."""
    for batch in loader:
        if isinstance(batch, StackError):
            raise batch
        yield batch


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


def slot_frames(n_scenes, seed, epoch=0):
    """How many frames the scenes of an epoch have, for `EpochBatches` to group like with like.

    Args:
        n_scenes: scenes of an epoch.
        seed, epoch: choose them, as in `SyntheticStacks`.
    Returns:
        n_scenes numbers from 2 to MOST_FRAMES.
    """
    first = epoch * n_scenes
    return [numbered_frames(seed, first + k, LARGEST_COC) for k in range(n_scenes)]


class SyntheticStacks(Samples):
    """Samples of random scenes: in each epoch the next n_scenes of those that the seed numbers.

    They are the scenes that make_dataset.py writes with this seed, and as its --size the longer
    side of the samples.

    Args:
        photos: sequence of (H, W, 3) uint8 pictures that scenes are cut from.
        augmentation: an Augmentation with a `crop`, which is the size of the samples.
        seed: see Samples.
        n_scenes: of an epoch.
        device: where the blur is computed; the CPU where loader processes make the scenes, since
            CUDA does not survive the fork that starts them.
    """

    def __init__(self, photos, augmentation, seed, n_scenes, device="cpu"):
        super().__init__(augmentation, seed)
        self.photos, self.n_scenes, self.device = photos, n_scenes, device

    def __getitem__(self, key):
        index, n_frames, epoch, position = key
        return super().__getitem__((epoch * self.n_scenes + index, n_frames, epoch, position))

    def sample(self, number, n_frames, rng):
        """Draw a sample of scene `number`; see `Samples.sample`."""
        how, name = self.augmentation, f"random scene {number}"
        frames, answer = self.scene(number)
        chosen = choose_frames(rng, len(frames), n_frames, how.frames)
        view = draw_view(rng, answer.shape[-2:], how, name)
        stack, answer = (view.turned(part[..., *view.cut]) for part in (frames[chosen], answer))
        stack, answer = change_light(rng, stack, answer, how, chosen)
        return {"stack": stack, "answer": answer, "scene": name}

    def scene(self, number):
        """The frames and the answer of scene `number`, uint8, as `grey_levels` gives them."""
        size = max(self.augmentation.crop)
        frames, answer, _, _ = numbered_scene(
            self.photos, self.seed, number, size, LARGEST_COC, device=self.device
        )
        colour = self.augmentation.colour
        return grey_levels(frames, colour), grey_levels(answer, colour)


class RefocusedStacks(Samples):
    """Samples of photographs with depth, each as a thin lens sees it in focal planes of even steps.

    Args:
        photos: sequence of (H, W, 3) uint8 pictures.
        maps: paths of their depth maps; kind: "distance" or "disparity".
        n_frames: focal planes, from the nearest of a photograph to the farthest.
        max_coc: largest circle of confusion, px.
        augmentation, seed: see Samples.
        device: see SyntheticStacks.
    """

    def __init__(self, photos, maps, kind, n_frames, max_coc, augmentation, seed, device="cpu"):
        super().__init__(augmentation, seed)
        self.photos, self.maps, self.kind, self.device = photos, maps, kind, device
        self.focus, self.max_coc = np.linspace(1, 0, n_frames), max_coc

    def sample(self, index, n_frames, rng):
        """Draw a sample; see `Samples.sample`."""
        how, picture, path = self.augmentation, self.photos[index], self.maps[index]
        depth = read_depth(path, picture.shape)
        disparity = disparity_as_picture(depth, self.kind, path, picture.shape)
        chosen = choose_frames(rng, len(self.focus), n_frames, how.frames)
        view = draw_view(rng, disparity.shape, how, path)
        # What a lens mixes into the cut from outside of it.
        margin = int(np.ceil(2 * self.max_coc))
        wide, inside = zip(*(widened(cut, margin) for cut in view.cut))
        linear = lens_frames(
            picture[wide], disparity[wide], self.focus[chosen], self.max_coc, self.device
        )
        frames = grey_levels(develop(rng, linear[..., *inside]), how.colour)
        answer = grey_levels(picture[view.cut], how.colour)
        frames, answer = view.turned(frames), view.turned(answer)
        stack, answer = change_light(rng, frames, answer, how, chosen)
        return {"stack": stack, "answer": answer, "scene": path.stem}


def widened(cut, margin):
    """A slice with a margin where there is room for it, and where the slice lies in that."""
    start = max(cut.start - margin, 0)
    return slice(start, cut.stop + margin), slice(cut.start - start, cut.stop - start)
