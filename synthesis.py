"""Training samples of random scenes that are made as training goes on: none is seen twice.

A scene follows from (seed, epoch, position) as every sample does, so a run that stops and resumes
sees what it would have seen. Scenes made on a GPU differ from those of the CPU by rounding.
"""

import numpy as np

from augmentation import change_light, choose_frames, draw_view
from dataloader import Samples
from luma_store import luma_levels
from scenes import LARGEST_STEP, LEAST_STEP, MOST_FRAMES, random_scene

COUNTS = 3  # keeps the random numbers of the slots apart from dataloader's PLAN and SAMPLE
LARGEST_COC = 30.0  # px
COARSE_SHARE = 0.5  # of the samples, which show a part of the frames of their scene


def log_uniform(rng, low, high, size=None):
    """Whole numbers from low to high, both included, each octave about as often as the next."""
    numbers = np.exp(rng.uniform(np.log(low), np.log(high + 1), size))
    return np.minimum(numbers, high).astype(int)  # exp(log(high + 1)) may round to high + 1


def slot_frames(n_scenes, seed):
    """How many frames the samples of an epoch have, for `EpochBatches` to group like with like.

    Args:
        n_scenes: scenes of an epoch.
        seed: chooses them.
    Returns:
        n_scenes numbers from 2 to MOST_FRAMES, log-uniform; the same in every epoch.
    """
    return log_uniform(np.random.default_rng([seed, COUNTS]), 2, MOST_FRAMES, n_scenes).tolist()


class SyntheticStacks(Samples):
    """Samples of random scenes, each made anew for its epoch and position.

    Args:
        photos: sequence of (H, W, 3) uint8 pictures that scenes are cut from.
        augmentation: an Augmentation with a `crop`, which is the size of the samples. With the
            frames "subset", one sample in two is of a scene with more frames than it shows, so
            that the steps between its planes are coarse.
        seed: see Samples.
        device: where the blur is computed; the CPU where loader processes make the scenes, since
            CUDA does not survive the fork that starts them.
    """

    def __init__(self, photos, augmentation, seed, device="cpu"):
        super().__init__(augmentation, seed)
        self.photos, self.device = photos, device

    def sample(self, index, n_frames, rng):
        """Draw a sample; see `Samples.sample`."""
        how = self.augmentation
        count = n_frames
        if how.frames == "subset" and rng.random() < COARSE_SHARE:
            count = int(log_uniform(rng, min(n_frames + 1, MOST_FRAMES), MOST_FRAMES))
        frames, answer = self.scene(count, rng)
        name = f"random scene {index}"
        chosen = choose_frames(rng, count, n_frames, how.frames)
        view = draw_view(rng, answer.shape, how, name)
        stack, answer = (view.turned(part[..., *view.cut]) for part in (frames[chosen], answer))
        stack, answer = change_light(rng, stack, answer, how)
        return {"stack": stack, "answer": answer, "scene": name}

    def scene(self, count, rng):
        """Make a scene whose planes are about 0.5 to 3 px of blur apart, 1 to 30 px in all.

        Args:
            count: its frames.
            rng: NumPy generator.
        Returns:
            Luma of the frames, (count, S, S), and of the all-in-focus answer, (S, S), uint8; S is
            the longer side of the samples.
        """
        max_coc = min(LARGEST_STEP * (count - 1), LARGEST_COC)
        min_coc = max(LEAST_STEP * (count - 1), 1.0)
        frames, answer, _, _ = random_scene(
            rng,
            self.photos,
            size=max(self.augmentation.crop),
            max_coc=max_coc,
            n_frames=count,
            min_coc=min_coc,
            device=self.device,
        )
        return luma_levels(frames), luma_levels(answer)
