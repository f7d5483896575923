"""dataloader.py: samples follow from their keys, and are what make_dataset.py writes to files."""

from functools import partial

import cv2
import numpy as np
import pytest
from drawn import texture

import make_dataset
from dataloader import RefocusedStacks, SyntheticStacks, batches, make_loader, slot_frames, widened
from stackmff.errors import StackError
from stackmff.images.formats import read_picture, write_picture
from stackmff.synthesis import scenes
from stackmff.synthesis.photos import PhotoFolder
from stackmff.training.augmentation import Augmentation
from stackmff.training.batches import EpochBatches
from stackmff.training.data_sets import find_pairs
from stackmff.training.picture_store import PictureStore, grey_levels

PHOTOS = [texture(60, 80, k) for k in range(3)]
AS_STORED = {"frames": "all", "flips": False}


def samples(crop=(32, 32), n_scenes=4, **how):
    return SyntheticStacks(PHOTOS, Augmentation(crop=crop, **how), seed=0, n_scenes=n_scenes)


def stored(folder):
    """{scene: (N + 1, H, W) luma of the frames and the answer} of a data set, grey levels."""
    pairs, _ = find_pairs(folder)
    return {
        name: np.stack(
            [grey_levels(read_picture(path), False) for path in (*frames, answer)]
        ).astype(int)
        for name, frames, answer in pairs
    }


def levels(sample):
    """A sample's frames and answer, (N + 1, H, W) grey levels."""
    return np.round(255 * np.stack([*sample["stack"], sample["answer"]])).astype(int)


def test_a_sample_follows_from_its_key_and_no_two_scenes_are_alike():
    one, again = samples(gain=0.2, noise=4.0), samples(gain=0.2, noise=4.0)
    first = one[(0, 2, 3, 17)]
    assert first["stack"].shape == (2, 32, 32) and first["stack"].dtype == np.float32
    assert first["answer"].shape == (32, 32) and first["answer"].dtype == np.float32
    assert first["stack"].min() >= 0 and first["stack"].max() <= 1
    for name in ("stack", "answer"):
        np.testing.assert_array_equal(first[name], again[(0, 2, 3, 17)][name])
    assert not np.array_equal(first["stack"], one[(0, 2, 3, 18)]["stack"])  # other light
    names = [one[(index, 2, epoch, 0)]["scene"] for epoch in (0, 1) for index in range(4)]
    assert names == [f"random scene {k}" for k in range(8)]
    plain = [samples()[(0, 2, epoch, 0)]["answer"] for epoch in range(3)]
    assert not any(np.array_equal(plain[0], np.rot90(p, k)) for p in plain[1:] for k in range(4))


def test_samples_have_the_size_of_the_crops():
    for position in range(4):
        sample = samples(crop=(24, 40))[(0, 2, 0, position)]
        assert sample["stack"].shape == (2, 24, 40) and sample["answer"].shape == (24, 40)


def test_an_epoch_knows_the_frames_of_its_scenes_before_it_makes_them():
    counts = slot_frames(400, 0)
    assert min(counts) >= 2 and max(counts) <= scenes.MOST_FRAMES and len(set(counts)) > 15
    assert slot_frames(50, 1) == slot_frames(50, 1) != slot_frames(50, 2)
    assert slot_frames(50, 0, epoch=1) == counts[50:100]
    source = samples()
    for epoch in (0, 2):
        made = [len(source.scene(4 * epoch + k)[0]) for k in range(4)]
        assert made == slot_frames(4, 0, epoch)


def test_random_scenes_are_those_that_make_dataset_writes(tmp_path):
    for k, photo in enumerate(PHOTOS):
        write_picture(tmp_path / "photos" / f"p{k}.png", photo)
    words = ["--image_path", str(tmp_path / "photos"), "--output_dir", str(tmp_path / "set")]
    words += ["--num_scenes", "6", "--size", "48", "--seed", "5", "--workers", "1"]
    assert make_dataset.main([*words, "--min_side", "16"]) == 0
    files = stored(tmp_path / "set")
    source = SyntheticStacks(PHOTOS, Augmentation(crop=(48, 48), **AS_STORED), 5, n_scenes=3)
    counts = [n for epoch in (0, 1) for n in slot_frames(3, 5, epoch)]
    for k, wanted in enumerate(files.values()):
        sample = source[(k % 3, counts[k], k // 3, 0)]
        assert len(wanted) == counts[k] + 1
        np.testing.assert_allclose(levels(sample), wanted, atol=1)


@pytest.fixture(scope="module")
def refocused(tmp_path_factory):
    """A photograph with depth, and the stack that make_dataset.py makes of it."""
    folder = tmp_path_factory.mktemp("refocused")
    photo = cv2.resize(texture(70, 90, 4), (180, 140), interpolation=cv2.INTER_CUBIC)
    depth = np.linspace(100, 200, 140).astype(np.uint8)[:, None].repeat(180, 1)
    depth[40:90, 60:120] = 30
    write_picture(folder / "photos" / "a.png", photo)
    write_picture(folder / "depth" / "a.png", depth[..., None])
    words = ["--image_path", str(folder / "photos"), "--depth_path", str(folder / "depth")]
    words += ["--depth_kind", "distance", "--num_frames", "5", "--max_coc", "6"]
    assert make_dataset.main([*words, "--output_dir", str(folder / "set"), "--workers", "1"]) == 0
    return photo, folder / "depth" / "a.png", stored(folder / "set")["a"]


def refocus(refocused, crop, **how):
    photo, depth, _ = refocused
    augmentation = Augmentation(crop=crop, **how)
    return RefocusedStacks([photo], [depth], "distance", 5, 6.0, augmentation, 0)


def test_photographs_with_depth_are_those_that_make_dataset_writes(refocused):
    sample = refocus(refocused, (140, 180), **AS_STORED)[(0, 5, 0, 0)]
    assert sample["scene"] == "a"
    np.testing.assert_allclose(levels(sample), refocused[2], atol=1)


def test_photographs_with_depth_are_made_smaller_as_make_dataset_does(refocused, tmp_path):
    photo, depth, _ = refocused
    write_picture(tmp_path / "photos" / "a.png", photo)
    words = ["--image_path", str(tmp_path / "photos"), "--depth_path", str(depth.parent)]
    words += ["--depth_kind", "distance", "--num_frames", "5", "--max_coc", "6", "--size", "90"]
    words += ["--output_dir", str(tmp_path / "set"), "--workers", "1"]
    assert make_dataset.main(words) == 0
    wanted = stored(tmp_path / "set")["a"]
    assert wanted.shape == (6, 70, 90)
    photos = PhotoFolder([tmp_path / "photos" / "a.png"], 1, size=90)
    how = Augmentation(crop=(70, 90), **AS_STORED)
    samples = RefocusedStacks(photos, [depth], "distance", 5, 6.0, how, 0)
    for _ in range(2):  # as read, and as kept
        np.testing.assert_allclose(levels(samples[(0, 5, 0, 0)]), wanted, atol=1)


def test_a_cut_of_a_photograph_with_depth_is_blurred_as_the_whole(refocused):
    for position in range(6):
        found = levels(refocus(refocused, (48, 64), **AS_STORED)[(0, 5, 0, position)])
        match = cv2.matchTemplate(
            refocused[2][-1].astype(np.uint8), found[-1].astype(np.uint8), cv2.TM_SQDIFF
        )
        _, _, (left, top), _ = cv2.minMaxLoc(match)
        wanted = refocused[2][:, top : top + 48, left : left + 64]
        np.testing.assert_allclose(found, wanted, atol=1)


def test_photographs_with_depth_lose_frames_where_they_are_asked_to(refocused):
    sample = refocus(refocused, (48, 48), frames="subset")[(0, 3, 1, 2)]
    assert sample["stack"].shape == (3, 48, 48)
    few = refocus(refocused, (200, 200))[(0, 3, 1, 2)]
    assert isinstance(few, StackError) and "180x140, smaller than the crops" in str(few)


def test_a_cut_is_widened_where_there_is_room():
    for start in (0, 3, 20):
        wide, inside = widened(slice(start, start + 10), 8)
        assert list(range(40))[wide][inside] == list(range(start, start + 10))
        assert wide.start == max(start - 8, 0) and wide.stop == start + 18


def test_luma_is_that_of_stored_frames(tmp_path):
    write_picture(tmp_path / "a.png", PHOTOS[0])
    store = PictureStore([("a", [], tmp_path / "a.png")])
    np.testing.assert_array_equal(grey_levels(np.stack(PHOTOS), False)[0], store.read(0, -1))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_loader_processes_make_the_same_scenes():
    found = []
    for workers in (0, 2):
        order = EpochBatches(partial(slot_frames, 6, 0), 2, 0, subsets=False)
        order.start_at(1, 1)
        loader = make_loader(samples((16, 16), 6), workers, False, batch_sampler=order)
        found.append(list(batches(loader)))
    assert len(found[0]) == len(found[1]) == 2
    for one, other in zip(*found):
        assert one["scene"] == other["scene"] and one["scene"][0].startswith("random scene ")
        assert one["stack"].equal(other["stack"]) and one["answer"].equal(other["answer"])


def test_a_photograph_that_has_gone_is_named(tmp_path):
    photos = PhotoFolder([tmp_path / "gone.png"], 1)
    sample = SyntheticStacks(photos, Augmentation(crop=(16, 16)), 0, 1)[(0, 2, 0, 0)]
    assert isinstance(sample, StackError) and "gone.png cannot be read" in str(sample)
