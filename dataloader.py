"""Training and validation batches from stored focal stacks, or from scenes made during training.

A data set is a folder with dof_stack/<scene>/ (the frames, in focus order) and AiF/<scene>.* (the
all-in-focus answer), or one of tar files with the same, see training/shards.py. A sample depends
only on (seed, epoch, position), not on any hidden random state, so a run that stops and resumes
sees the samples that it would have seen.
"""

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from stackmff.errors import StackError
from stackmff.processes import rank_and_world
from stackmff.synthesis.camera import develop
from stackmff.synthesis.depth_maps import disparity_as_picture, read_depth
from stackmff.synthesis.options import DepthKind
from stackmff.synthesis.photos import PhotoFolder
from stackmff.synthesis.scenes import SceneSpec, lens_frames, numbered_frames, numbered_scene
from stackmff.training.augmentation import (
    Augmentation,
    augmentation_of,
    change_light,
    choose_frames,
    draw_window,
)
from stackmff.training.batches import SAMPLE, EpochBatches, Key, build_order
from stackmff.training.data_sets import (
    StoredStacks,
    digest,
    find_usable_photos,
    fingerprint,
    stored_stacks,
    tell_left_out,
)
from stackmff.training.leaks import refuse_photos_that_validate
from stackmff.training.loading import count_workers, room_for_pictures
from stackmff.training.options import TrainOptions
from stackmff.training.picture_store import Cut, PictureStore, grey_levels

REHEARSED = 2  # stacks that each process of a dry run validates
LARGEST_COC = 30.0  # px

Sample = dict[str, Any]  # {"stack", "answer", "scene"}
Batch = dict[str, Any]  # the same, see `collate`


class Samples(Dataset[Sample | StackError]):
    """Augmented samples; the key of a sample, as EpochBatches gives it, determines it completely.

    Args:
        augmentation: how samples differ from their scenes.
        seed: of the random numbers of all samples.
    """

    def __init__(self, augmentation: Augmentation, seed: int) -> None:
        self.augmentation, self.seed = augmentation, seed

    def __getitem__(self, key: Key) -> Sample | StackError:
        """The sample of a key, as {"stack", "answer", "scene"}, or the StackError that it met."""
        index, n_frames, epoch, position = key
        try:
            rng = np.random.default_rng([self.seed, epoch, SAMPLE, position])
            return self.sample(index, n_frames, rng)
        except StackError as error:
            return error  # raised by `batches`: a loader process would wrap it in its traceback

    def sample(self, index: int, n_frames: int, rng: np.random.Generator) -> Sample:
        """Draw a sample.

        Args:
            index: of the scene, among those that are trained on.
            n_frames: frames of the sample.
            rng: NumPy generator.
        Returns:
            {"stack": (N, h, w), "answer": (h, w) float32 in [0, 1], "scene": its name}; in colour
            (N, 3, h, w) and (3, h, w).
        Raises:
            StackError: a file cannot be read or is smaller than the crops.
        """
        raise NotImplementedError


class TrainingStacks(Samples):
    """Samples of stored stacks.

    Args:
        store: their pictures.
        scenes: indices into the store's pairs.
        augmentation, seed: see Samples.
    """

    def __init__(
        self, store: PictureStore, scenes: Sequence[int], augmentation: Augmentation, seed: int
    ) -> None:
        super().__init__(augmentation, seed)
        self.store, self.scenes = store, scenes

    def sample(self, index: int, n_frames: int, rng: np.random.Generator) -> Sample:
        """Draw a sample; see `Samples.sample`."""
        how, scene = self.augmentation, self.scenes[index]
        name, _, path = self.store.pairs[scene]
        frames = choose_frames(rng, self.store.frame_count(scene), n_frames, how.frames)
        answer = self.store.read(scene, -1)
        window = draw_window(rng, answer.shape[-2:], how, path)
        stack = self.store.read_frames(scene, frames.tolist(), answer, window.cut)
        stack, answer = window.turned(stack), window.turned(answer[..., *window.cut])
        stack, answer = change_light(rng, stack, answer, how, frames)
        return {"stack": stack, "answer": answer, "scene": name}


class ValidationStacks(Dataset[Sample | StackError]):
    """Whole stacks in order, nothing random; large pictures are cropped to their centre.

    Args:
        store: their pictures.
        scenes: indices into the store's pairs.
        largest: (height, width) px of the largest crop.
    """

    def __init__(
        self, store: PictureStore, scenes: Sequence[int], largest: tuple[int, int]
    ) -> None:
        self.store, self.scenes, self.largest = store, scenes, largest

    def __len__(self) -> int:
        return len(self.scenes)

    def centre(self, height: int, width: int) -> Cut:
        """(rows, columns) of the crop."""

        def middle(have: int, most: int) -> slice:
            start = max(have - most, 0) // 2
            return slice(start, start + min(have, most))

        return middle(height, self.largest[0]), middle(width, self.largest[1])

    def __getitem__(self, index: int) -> Sample | StackError:
        """{"stack", "answer", "scene"} as in training, or the StackError that it met."""
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


def collate(samples: Sequence[Sample | StackError]) -> Batch | StackError:
    """Join samples into a batch.

    Args:
        samples: of Samples or ValidationStacks, all with the same N and size; or StackErrors.
    Returns:
        {"stack": (B, C, N, H, W), "answer": (B, C, H, W) float32 tensors, "scene": list of B
        names}, C 1 for luma and 3 for RGB; the first StackError if there is one.
    """
    good: list[Sample] = []
    for sample in samples:
        if isinstance(sample, StackError):
            return sample
        good.append(sample)
    names = [sample["scene"] for sample in good]
    if len({sample["stack"].shape for sample in good}) > 1:
        return StackError(
            f"the pictures of {', '.join(names)} differ in size: give --image_size to crop them"
        )
    stack = torch.from_numpy(np.stack([sample["stack"] for sample in good]))
    answer = torch.from_numpy(np.stack([sample["answer"] for sample in good]))
    if stack.ndim == 5:  # frames with their planes
        return {"stack": stack.transpose(1, 2), "answer": answer, "scene": names}
    return {"stack": stack[:, None], "answer": answer[:, None], "scene": names}


def _start_worker(_worker: int) -> None:
    """Leave Ctrl-C to the main process, which finishes its step and saves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)


def make_loader(
    dataset: Dataset[Any],
    workers: int,
    pin_memory: bool,
    batch_sampler: EpochBatches | None = None,
    indices: Sequence[int] | None = None,
) -> DataLoader[Any]:
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
    # Python 3.14 spawns processes by default; only forked ones share the memory of the cache.
    forked = multiprocessing.get_context("fork") if workers and sys.platform == "linux" else None
    order: dict[str, Any] = {"batch_sampler": batch_sampler} if batch_sampler else {}
    return DataLoader(
        dataset,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=_start_worker,
        multiprocessing_context=forked,
        generator=torch.Generator().manual_seed(0),  # else it would draw from the global state
        **(order or {"sampler": indices}),
    )


def batches(loader: DataLoader[Any]) -> Iterator[Batch]:
    """The batches of a loader, see `collate`; raises the StackError that a loader process met."""
    for batch in loader:
        if isinstance(batch, StackError):
            raise batch
        yield batch


def slot_frames(n_scenes: int, seed: int, epoch: int = 0) -> list[int]:
    """How many frames the scenes of an epoch have, so that `EpochBatches` can group similar ones.

    Args:
        n_scenes: scenes of an epoch.
        seed, epoch: choose them, as in `SyntheticStacks`.
    Returns:
        n_scenes numbers from 2 to MOST_FRAMES.
    """
    first, spec = epoch * n_scenes, SceneSpec(max_coc=LARGEST_COC)
    return [numbered_frames(seed, first + k, spec) for k in range(n_scenes)]


class SyntheticStacks(Samples):
    """Samples of random scenes: in each epoch the next n_scenes of those that the seed numbers.

    They are the scenes that make_dataset.py writes with this --seed, and with the longer side of
    the samples as --size.

    Args:
        photos: sequence of (H, W, 3) uint8 pictures from which scenes are composed.
        augmentation: with a `crop`, which is the size of the samples.
        seed: see Samples.
        n_scenes: of an epoch.
        device: where the blur is computed; the CPU if loader processes make the scenes, since
            CUDA does not survive the fork that starts them.
    Raises:
        ValueError: the augmentation has no crop.
    """

    def __init__(
        self,
        photos: Sequence[np.ndarray] | PhotoFolder,
        augmentation: Augmentation,
        seed: int,
        n_scenes: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if augmentation.crop is None:
            raise ValueError("random scenes need a crop, which is the size of the samples")
        super().__init__(augmentation, seed)
        self.photos, self.n_scenes, self.device = photos, n_scenes, device
        self.side = max(augmentation.crop)

    def __getitem__(self, key: Key) -> Sample | StackError:
        """See `Samples.__getitem__`."""
        index, n_frames, epoch, position = key
        return super().__getitem__((epoch * self.n_scenes + index, n_frames, epoch, position))

    def sample(self, index: int, n_frames: int, rng: np.random.Generator) -> Sample:
        """Draw a sample of the scene with the number `index`; see `Samples.sample`."""
        how, name = self.augmentation, f"random scene {index}"
        frames, answer = self.scene(index)
        chosen = choose_frames(rng, len(frames), n_frames, how.frames)
        window = draw_window(rng, answer.shape[-2:], how, name)
        stack, answer = (window.turned(part[..., *window.cut]) for part in (frames[chosen], answer))
        stack, answer = change_light(rng, stack, answer, how, chosen)
        return {"stack": stack, "answer": answer, "scene": name}

    def scene(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The frames and the answer of scene `number`, uint8, as `grey_levels` gives them."""
        frames, answer, _, _ = numbered_scene(
            self.photos, self.seed, number, SceneSpec(self.side, LARGEST_COC), self.device
        )
        colour = self.augmentation.colour
        return grey_levels(frames, colour), grey_levels(answer, colour)


class RefocusedStacks(Samples):
    """Samples of photographs with depth, as a thin lens sees them in evenly spaced focal planes.

    Args:
        photos: sequence of (H, W, 3) uint8 pictures.
        maps: paths of their depth maps.
        kind: what a larger value of the maps means, "distance" (farther) or "disparity" (nearer).
        n_frames: focal planes, from the nearest of a photograph to the farthest.
        max_coc: largest circle of confusion, px.
        augmentation, seed: see Samples.
        device: see SyntheticStacks.
    """

    def __init__(
        self,
        photos: Sequence[np.ndarray] | PhotoFolder,
        maps: Sequence[Path],
        kind: DepthKind,
        n_frames: int,
        max_coc: float,
        augmentation: Augmentation,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(augmentation, seed)
        self.photos, self.maps, self.kind, self.device = photos, maps, kind, device
        self.focus, self.max_coc = np.linspace(1, 0, n_frames), max_coc

    def sample(self, index: int, n_frames: int, rng: np.random.Generator) -> Sample:
        """Draw a sample; see `Samples.sample`."""
        how, picture, path = self.augmentation, self.photos[index], self.maps[index]
        depth = read_depth(path, picture.shape)
        disparity = disparity_as_picture(depth, self.kind, path, picture.shape)
        chosen = choose_frames(rng, len(self.focus), n_frames, how.frames)
        window = draw_window(rng, disparity.shape, how, path)
        margin = int(np.ceil(2 * self.max_coc))  # from which the lens blurs into the crop
        wide, inside = zip(*(widened(cut, margin) for cut in window.cut))
        linear = lens_frames(
            picture[wide], disparity[wide], self.focus[chosen], self.max_coc, self.device
        )
        frames = grey_levels(develop(rng, linear[..., *inside]), how.colour)
        answer = grey_levels(picture[window.cut], how.colour)
        frames, answer = window.turned(frames), window.turned(answer)
        stack, answer = change_light(rng, frames, answer, how, chosen)
        return {"stack": stack, "answer": answer, "scene": path.stem}


def widened(cut: slice, margin: int) -> tuple[slice, slice]:
    """A slice with a margin as far as there is room, and the place of the slice in that."""
    start = max(cut.start - margin, 0)
    return slice(start, cut.stop + margin), slice(cut.start - start, cut.stop - start)


class Source(NamedTuple):
    """What a run trains on.

    Attributes:
        samples: the Samples.
        frame_counts: N of each, or a function from the epoch to them.
        content: of the training data, plain JSON values; see `data_sets.fingerprint`.
        sentence: what is reported about it.
    """

    samples: Samples
    frame_counts: Sequence[int] | Callable[[int], Sequence[int]]
    content: list[Any]
    sentence: str


class Loaders(NamedTuple):
    """What a run trains and validates on.

    Attributes:
        order: the batches of the training, which start wherever it says.
        training, validation: the loaders.
        data, val_data: fingerprints of their scenes.
    """

    order: EpochBatches
    training: DataLoader[Any]
    validation: DataLoader[Any]
    data: str
    val_data: str


def stored_source(options: TrainOptions, stacks: StoredStacks, how: Augmentation) -> Source:
    """The Source of the stacks of --datapath.

    Args:
        options: of the run.
        stacks: those that train are taken.
        how: the Augmentation.
    """
    store, scenes = stacks.store, stacks.training
    frame_counts = [store.frame_count(scene) for scene in scenes]
    content = [[store.pairs[scene][0], n] for scene, n in zip(scenes, frame_counts)]
    samples = TrainingStacks(store, scenes, how, options.run.seed)
    return Source(samples, frame_counts, content, f"{len(scenes)} stacks train")


def photo_source(
    options: TrainOptions,
    stacks: StoredStacks,
    cache_mib: int,
    workers: int,
    how: Augmentation,
    device: torch.device,
) -> Source:
    """The Source of --photos: random scenes of them, or each of them with its depth.

    Args:
        options: of the run.
        stacks: those that validate.
        cache_mib: memory for photographs, MiB.
        workers: loader processes.
        how: the Augmentation.
        device: that trains.
    Raises:
        StackError: there are no photographs, none can be used, or one validates, too.
    """
    data, seed = options.data, options.run.seed
    found = find_usable_photos(options)
    if found.maps and not options.run.resume:
        refuse_photos_that_validate(
            found.paths, [stacks.store.pairs[scene] for scene in stacks.validation]
        )
    tell_left_out(found.left_out, options.photos.strict)
    told = f" ({len(found.left_out)} left out)" if found.left_out else ""
    photos = PhotoFolder(found.paths, cache_mib // max(workers, 1), data.photo_size)
    # CUDA does not survive the fork of a loader process, and the blur was never tested on MPS.
    place = device if device.type == "cuda" and not workers else torch.device("cpu")
    content = [path.name for path in found.paths]
    if found.maps:
        lens = data.known_lens()
        samples = RefocusedStacks(photos, found.maps, *lens, how, seed, place)
        counts = [len(samples.focus)] * len(found.paths)
        sentence = f"{len(found.paths)} photographs with depth{told} train"
        return Source(samples, counts, content, sentence)
    n_scenes = data.scenes_per_epoch
    sentence = f"{n_scenes} random scenes of {len(found.paths)} photographs{told} train an epoch"
    scenes = SyntheticStacks(photos, how, seed, n_scenes, place)
    return Source(scenes, partial(slot_frames, n_scenes, seed), content, sentence)


def build_loaders(options: TrainOptions, device: torch.device, colour: bool) -> Loaders:
    """The loaders of a run.

    Args:
        options: of the run.
        device: that trains.
        colour: samples are RGB instead of luma.
    Raises:
        StackError: the data cannot be found, read or split.
    """
    rank, world, _ = rank_and_world()
    data, on_cuda = options.data, device.type == "cuda"
    cache_mib = room_for_pictures() if data.cache_mib is None else data.cache_mib
    cache_mib = cache_mib // 2 if data.photos else cache_mib
    workers = count_workers(data, on_cuda)
    stacks = stored_stacks(options, cache_mib, workers, colour)
    tell_left_out(stacks.left_out, options.photos.strict)
    whole = options.samples.fit == "resize" and not data.photos
    how = augmentation_of(options.samples, whole, colour)
    if data.photos:
        source = photo_source(options, stacks, cache_mib, workers, how, device)
    else:
        source = stored_source(options, stacks, how)
    store, validated = stacks.store, stacks.validation
    order = build_order(
        source.frame_counts,
        options.optimisation.batch_size,
        options.run.seed,
        options.samples.frames == "subset",
        data.repeat,
        rank,
        world,
        [store.pairs[scene] for scene in stacks.training] if data.own_shards else None,
    )
    share = range(rank, len(validated), world)
    validation = make_loader(
        ValidationStacks(store, validated, data.val_size),
        workers,
        on_cuda,
        indices=share[:REHEARSED] if options.run.dry_run else share,
    )
    if rank == 0:
        told = f", {len(stacks.left_out)} left out" if stacks.left_out else ""
        print(f"{source.sentence}, {len(validated)} validate{told}")
    scored = [[store.pairs[i][0], store.frame_count(i)] for i in validated]
    return Loaders(
        order,
        make_loader(source.samples, workers, on_cuda, batch_sampler=order),
        validation,
        fingerprint(options, world, source.content),
        digest([scored, list(data.val_size)]),
    )
