"""Training samples that are made of photographs as training goes on, in place of files.

`SyntheticStacks` are random scenes, in every epoch new ones; `RefocusedStacks` are photographs with
depth as a lens sees them. Both are what make_dataset.py writes with the same seed and options. Made
on a GPU they differ from those of the CPU by rounding.
"""

import numpy as np

from augmentation import change_light, choose_frames, draw_view
from dataloader import Samples
from depth import disparity_as_picture, read_depth
from picture_store import grey_levels
from scenes import develop, lens_frames, numbered_frames, numbered_scene

LARGEST_COC = 30.0  # px


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
