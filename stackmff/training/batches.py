"""Which samples go into which batch."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from stackmff.errors import StackError
from stackmff.training.shards import Pair, shares_of_shards

WHOLE_SHARE = 0.7  # of the samples, which have every frame of their stack
PLAN, SAMPLE = 1, 2  # keep the random numbers of an epoch's order apart from those of its samples

Planned = tuple[int, int]  # index of a scene, n_frames
Key = tuple[int, int, int, int]  # index of a scene, n_frames, epoch, position in the epoch


def split_pairs(
    pairs: Sequence[Pair], val_fraction: float, seed: int, by_name: bool = False
) -> tuple[list[int], list[int]]:
    """Split the scenes into training and validation.

    By default they are ordered by a hash of (seed, name). The split of existing scenes therefore
    stays the same when others are added, also those of another data set.

    Args:
        pairs: as from find_pairs.
        val_fraction: share for validation, 0 < share < 1.
        seed: chooses the split; unused with by_name.
        by_name: validate on the last scenes by name, as the published training does.
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


def plan_epoch(
    frame_counts: Sequence[int],
    batch_size: int,
    seed: int,
    epoch: int,
    subsets: bool,
    repeat: int = 1,
    world: int = 1,
    parted: bool = False,
) -> list[list[Planned]]:
    """The batches of an epoch: which scenes go together, and with how many frames.

    Every scene draws its number of frames, scenes with similar numbers are put together, and a
    batch takes the smallest number among its scenes; then the batches are shuffled. So each batch
    has one N, and batches of all N are interleaved. Only the last batch may be short; if the
    batches are parted, the last one of each number of frames.

    Args:
        frame_counts: N of every scene.
        batch_size: scenes in a batch of one process.
        seed, epoch: choose the plan.
        subsets: three scenes in ten draw between 2 and N, small numbers more often than large
            ones, since with few frames a place may be sharp in none; the others have N. A network
            that sees only subsets expects surfaces that are never sharp, and mixes frames
            needlessly.
        repeat: how often each scene is taken in an epoch.
        world: processes; they share out a batch of batch_size * world.
        parted: no batch mixes scenes of several N, of which all but one would lose frames.
    Returns:
        A list of batches, each a list of (index into frame_counts, n_frames); its length is the
        same in every epoch, and batches have a multiple of `world` samples.
    """
    rng = np.random.default_rng([seed, epoch, PLAN])
    batches = group_scenes(rng, frame_counts, batch_size, subsets, repeat, world, parted)
    return [batches[i] for i in rng.permutation(len(batches))]


def group_scenes(
    rng: np.random.Generator,
    frame_counts: Sequence[int],
    batch_size: int,
    subsets: bool,
    repeat: int,
    world: int,
    parted: bool = False,
) -> list[list[Planned]]:
    """The batches of `plan_epoch`, ordered by their numbers of frames, not yet shuffled."""
    scenes = np.tile(np.arange(len(frame_counts)), repeat)
    every = n_frames = np.asarray(frame_counts)[scenes]
    if subsets:
        few = (2 * ((every + 1) / 2) ** rng.random(len(scenes))).astype(int)
        n_frames = np.where(rng.random(len(scenes)) < WHOLE_SHARE, every, few)
    order = rng.permutation(len(scenes))
    # Where a batch crosses from N to N + 1 frames, subsets are those that give up one.
    order = order[np.lexsort(((n_frames == every)[order], n_frames[order]))]
    ends = np.flatnonzero(np.diff(n_frames[order])) + 1
    parts = np.split(order, ends) if parted else [order]
    size, batches = batch_size * world, []
    for chosen in (part[i : i + size] for part in parts for i in range(0, len(part), size)):
        chosen = np.resize(chosen, -(-len(chosen) // world) * world)  # repeats the first ones
        least = int(n_frames[chosen].min())
        batches.append([(int(scenes[i]), least) for i in chosen])
    return batches


def count_batches(frame_counts: Sequence[int], size: int, repeat: int, parted: bool) -> int:
    """How many batches of `size` scenes `group_scenes` makes of these."""
    groups = Counter(frame_counts).values() if parted else [len(frame_counts)]
    return sum(-(-count * repeat // size) for count in groups)


class EpochBatches(Sampler[list[Key]]):
    """Gives a process its share of the planned batches, starting at any batch of any epoch.

    A sample's key is (index of the scene, n_frames, epoch, position in the epoch). All processes
    together give the keys that one process would give in batches of the total size, except for
    those that fill up a short batch.

    Args:
        frame_counts: N of every scene, or a function from the number of an epoch to them; always
            the same number of scenes.
        batch_size, seed, subsets, repeat: see plan_epoch.
        rank, world: this process and the number of processes.
    """

    def __init__(
        self,
        frame_counts: Sequence[int] | Callable[[int], Sequence[int]],
        batch_size: int,
        seed: int,
        subsets: bool,
        repeat: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.frame_counts = frame_counts
        self.batch_size, self.seed = batch_size, seed
        self.subsets, self.repeat = subsets, repeat
        # Where each epoch has its own counts, only unparted ones make as many batches in each.
        self.parted = not subsets and not callable(frame_counts)
        self.rank, self.world = rank, world
        self.length = count_batches(self.counts_in(0), batch_size * world, repeat, self.parted)
        self.start_at(0, 0)

    def counts_in(self, epoch: int) -> Sequence[int]:
        """N of every scene in an epoch."""
        return self.frame_counts(epoch) if callable(self.frame_counts) else self.frame_counts

    def start_at(self, epoch: int, first_batch: int) -> None:
        """Say where the next iteration begins."""
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self.length

    def __iter__(self) -> Iterator[list[Key]]:
        batches = plan_epoch(
            self.counts_in(self.epoch),
            self.batch_size,
            self.seed,
            self.epoch,
            self.subsets,
            self.repeat,
            self.world,
            self.parted,
        )
        for number, batch in enumerate(batches[self.first_batch :], self.first_batch):
            # As if all batches were full: what fills up a short one moves no other sample.
            position = number * self.batch_size * self.world
            keys = [(*sample, self.epoch, position + i) for i, sample in enumerate(batch)]
            yield keys[self.rank :: self.world]


class OwnBatches(EpochBatches):
    """Gives a process batches of scenes of its own, in an order of its own.

    Every process has as many batches, and in one step similar numbers of frames, so that none waits
    long for another: each plans its batches by number of frames, and all shuffle them alike.

    Args:
        shares: the indices into frame_counts of every process.
        plan, named: the arguments of EpochBatches.
    """

    def __init__(self, shares: Sequence[Sequence[int]], *plan: Any, **named: Any) -> None:
        super().__init__(*plan, **named)
        self.shares = shares
        counts = self.counts_in(0)
        self.length = max(
            count_batches([counts[i] for i in own], self.batch_size, self.repeat, self.parted)
            for own in shares
        )

    def __iter__(self) -> Iterator[list[Key]]:
        counts, own = self.counts_in(self.epoch), self.shares[self.rank]
        rng = np.random.default_rng([self.seed, self.epoch, PLAN, self.rank])
        own_counts = [counts[i] for i in own]
        how = self.batch_size, self.subsets, self.repeat, 1, self.parted
        batches = group_scenes(rng, own_counts, *how)
        taken = np.arange(self.length) * len(batches) // self.length  # who has fewer repeats some
        order = np.random.default_rng([self.seed, self.epoch, PLAN]).permutation(self.length)
        for number in range(self.first_batch, self.length):
            position = number * self.batch_size * self.world + self.rank
            yield [
                (own[index], n_frames, self.epoch, position + i * self.world)
                for i, (index, n_frames) in enumerate(batches[taken[order[number]]])
            ]


def build_order(
    frame_counts: Sequence[int] | Callable[[int], Sequence[int]],
    batch_size: int,
    seed: int,
    subsets: bool,
    repeat: int,
    rank: int,
    world: int,
    in_shards: Sequence[Pair] | None = None,
) -> EpochBatches:
    """The order in which a process of a run takes its samples.

    Args:
        frame_counts, batch_size, seed, subsets, repeat, rank, world: see EpochBatches.
        in_shards: the stacks that train, if each process trains on shards of its own; else None.
    Raises:
        StackError: the stacks are not in shards, or there are fewer shards than processes.
    """
    plan = frame_counts, batch_size, seed, subsets, repeat, rank, world
    if in_shards is None:
        return EpochBatches(*plan)
    return OwnBatches(shares_of_shards(in_shards, world), *plan)
