"""Which samples go into which batch."""

import hashlib
from collections import Counter

import numpy as np
from torch.utils.data import Sampler

from stackmff.errors import StackError

WHOLE_SHARE = 0.7  # of the samples, which have every frame of their stack
PLAN, SAMPLE = 1, 2  # keep the random numbers of an epoch's order apart from those of its samples


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
