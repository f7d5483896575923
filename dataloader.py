"""Training and validation batches from focal stacks in folders.

A data set is a folder with dof_stack/<scene>/ (the frames, in focus order) and AiF/<scene>.* (the
all-in-focus answer), or one of tar files with the same, see shards.py. What a sample is depends on
(seed, epoch, position) and on nothing else: no hidden random state, so that a run that stops and
resumes sees what it would have seen.
"""

import hashlib
import multiprocessing
import signal
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from augmentation import change_light, choose_frames, draw_view
from pictures import (
    ANSWER_FOLDER,
    STACK_FOLDERS,
    by_stem,
    frames_in,
    list_folders,
    list_pictures,
    stack_root,
)
from shards import list_shards, pairs_in_shards
from utils import StackError

WHOLE_SHARE = 0.7  # of the samples, which have every frame of their stack
PLAN, SAMPLE = 1, 2  # keep the random numbers of an epoch's order apart from those of its samples


def find_pairs(datapath):
    """Find the stacks of a data set and their answers.

    Args:
        datapath: folder that holds dof_stack/<scene>/ (or "image stack", or stacks) and
            AiF/<scene>.*; the scenes' frames and the answers are pictures of any format. Or one
            that holds shards.
    Returns:
        (pairs, left_over): pairs a list of (scene, frame paths in natural order, answer path) in
        natural order of the scenes; left_over a sentence for each stack or answer that has no
        partner.
    Raises:
        StackError: a folder is missing or there twice, two answers have one name, or there is no
            pair at all.
    """
    datapath = Path(datapath)
    stacks = stack_root(datapath)
    if stacks is None and list_shards(datapath):
        pairs, left_over = pairs_in_shards(datapath)
        if not pairs:
            raise StackError(f"{datapath} holds no stack with its answer in its tar files")
        return pairs, left_over
    answers_folder = datapath / ANSWER_FOLDER
    if stacks is None or not answers_folder.is_dir():
        missing = ANSWER_FOLDER if stacks else STACK_FOLDERS[0]
        if stacks is None and datapath.is_dir() and list_pictures(datapath):
            raise StackError(
                f"{datapath} holds pictures and no stacks: make_dataset.py makes stacks of them, "
                "train.py --photos takes them as they are"
            )
        raise StackError(
            f"{datapath} has no folder {missing}: a data set is dof_stack/<scene>/ with the frames "
            "and AiF/<scene>.png with the answers, as make_dataset.py writes them"
        )
    answers = by_stem(list_pictures(answers_folder))
    pairs, left_over = [], []
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


def split_pairs(pairs, val_fraction, seed, by_name=False):
    """Part the scenes into training and validation.

    By default the order is that of a hash of (seed, name): it does not change for the scenes that
    were there when others are added, of another data set too.

    Args:
        pairs: as from find_pairs.
        val_fraction: share for validation, 0 < share < 1.
        seed: chooses the split; not used by name.
        by_name: the last scenes by name validate, as the published training does it.
    Returns:
        (training, validation): lists of indices into pairs, each in ascending order, neither empty.
    Raises:
        StackError: fewer than two pairs.
    """
    if len(pairs) < 2:
        raise StackError(
            f"{pairs[0][2]} is the only answer with a stack: training and validation need one each"
        )
    order = list(range(len(pairs)))
    if not by_name:
        names = [name.rpartition("/")[2] for name, *_ in pairs]  # without their data sets'
        order.sort(key=lambda i: hashlib.sha256(f"{seed}/{names[i]}".encode()).digest())
    n_validation = min(max(round(len(pairs) * val_fraction), 1), len(pairs) - 1)
    return sorted(order[:-n_validation]), sorted(order[-n_validation:])


def plan_epoch(frame_counts, batch_size, seed, epoch, subsets, repeat=1, world=1, parted=False):
    """The batches of an epoch: which scenes go together, and with how many frames.

    Every scene draws its number of frames, scenes of like numbers come together, and all of a batch
    take the least of their numbers; then the batches are shuffled. So each batch has one N, all N
    are interleaved. Only the last batch may be short; where they are parted, the last one of each
    number of frames.

    Args:
        frame_counts: N of every scene.
        batch_size: scenes in a batch of one process.
        seed, epoch: choose the plan.
        subsets: three scenes in ten draw between 2 and N, few more often than many, since where
            frames are few none may be sharp; the others have N. A network that sees subsets alone
            expects surfaces that are never sharp, and mixes where it need not.
        repeat: how often each scene is taken in an epoch.
        world: processes; they share out a batch of batch_size * world.
        parted: no batch has scenes of several N, of which all but one would lose frames.
    Returns:
        A list of batches, each a list of (index into frame_counts, n_frames); its length is the
        same in every epoch, and batches have a multiple of `world` samples.
    """
    rng = np.random.default_rng([seed, epoch, PLAN])
    batches = group_scenes(rng, frame_counts, batch_size, subsets, repeat, world, parted)
    return [batches[i] for i in rng.permutation(len(batches))]


def group_scenes(rng, frame_counts, batch_size, subsets, repeat, world, parted=False):
    """The batches of `plan_epoch`, by their numbers of frames and not yet shuffled."""
    scenes = np.tile(np.arange(len(frame_counts)), repeat)
    every = n_frames = np.asarray(frame_counts)[scenes]
    if subsets:
        few = (2 * ((every + 1) / 2) ** rng.random(len(scenes))).astype(int)
        n_frames = np.where(rng.random(len(scenes)) < WHOLE_SHARE, every, few)
    order = rng.permutation(len(scenes))
    # Where a batch crosses from N to N + 1 frames, subsets are those that give up one.
    order = order[np.lexsort(((n_frames == every)[order], n_frames[order]))]
    ends = np.flatnonzero(np.diff(n_frames[order])) + 1
    parts, size, batches = np.split(order, ends) if parted else [order], batch_size * world, []
    for chosen in (part[i : i + size] for part in parts for i in range(0, len(part), size)):
        chosen = np.resize(chosen, -(-len(chosen) // world) * world)  # by repeating the first ones
        least = int(n_frames[chosen].min())
        batches.append([(int(scenes[i]), least) for i in chosen])
    return batches


def count_batches(frame_counts, size, repeat, parted):
    """How many batches of `size` scenes `group_scenes` makes of these."""
    groups = Counter(frame_counts).values() if parted else [len(frame_counts)]
    return sum(-(-count * repeat // size) for count in groups)


class EpochBatches(Sampler):
    """Gives a process its share of the planned batches, from any batch of any epoch on.

    A sample's key is (index of the scene, n_frames, epoch, position in the epoch). The keys of all
    processes together are those of one process with the batch of all, but for what fills up a short
    batch.

    Args:
        frame_counts: N of every scene, or a function that gives them for the number of an epoch;
            always as many.
        batch_size, seed, subsets, repeat: see plan_epoch.
        rank, world: this process and the number of processes.
    """

    def __init__(self, frame_counts, batch_size, seed, subsets, repeat=1, rank=0, world=1):
        self.counts_in = frame_counts if callable(frame_counts) else lambda _: frame_counts
        self.batch_size, self.seed = batch_size, seed
        # Where each epoch has its own counts, only joined ones make as many batches in each.
        parted = not subsets and not callable(frame_counts)
        self.options = {"subsets": subsets, "repeat": repeat, "world": world, "parted": parted}
        self.rank, self.world = rank, world
        self.length = count_batches(self.counts_in(0), batch_size * world, repeat, parted)
        self.start_at(0, 0)

    def start_at(self, epoch, first_batch):
        """Say where the next iteration begins."""
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self):
        """Batches of a whole epoch."""
        return self.length

    def __iter__(self):
        counts = self.counts_in(self.epoch)
        batches = plan_epoch(counts, self.batch_size, self.seed, self.epoch, **self.options)
        for number, batch in enumerate(batches[self.first_batch :], self.first_batch):
            # As if all batches were full: what fills up a short one moves no other sample.
            position = number * self.batch_size * self.world
            keys = [(*sample, self.epoch, position + i) for i, sample in enumerate(batch)]
            yield keys[self.rank :: self.world]


class OwnBatches(EpochBatches):
    """Gives a process batches of scenes of its own, in an order of its own.

    All have as many batches, and in one step like numbers of frames, so that none waits long for
    another: each plans its batches by number of frames, and all shuffle them alike.

    Args:
        shares: the indices into frame_counts of every process.
        plan: see EpochBatches.
    """

    def __init__(self, shares, **plan):
        super().__init__(**plan)
        self.shares = shares
        counts, how = self.counts_in(0), (self.options["repeat"], self.options["parted"])
        self.length = max(
            count_batches([counts[i] for i in own], self.batch_size, *how) for own in shares
        )

    def __iter__(self):
        counts, batch_size = self.counts_in(self.epoch), self.batch_size
        own, options = self.shares[self.rank], self.options | {"world": 1}
        rng = np.random.default_rng([self.seed, self.epoch, PLAN, self.rank])
        batches = group_scenes(rng, [counts[i] for i in own], batch_size, **options)
        taken = np.arange(self.length) * len(batches) // self.length  # who has fewer repeats some
        order = np.random.default_rng([self.seed, self.epoch, PLAN]).permutation(self.length)
        for number in range(self.first_batch, self.length):
            position = number * batch_size * self.world + self.rank
            yield [
                (own[index], n_frames, self.epoch, position + i * self.world)
                for i, (index, n_frames) in enumerate(batches[taken[order[number]]])
            ]


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
