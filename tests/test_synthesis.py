"""synthesis.py: every scene is new, follows from its key, and has the steps that are asked for."""

import numpy as np
import pytest
from drawn import texture

import synthesis
from augmentation import Augmentation
from dataloader import EpochBatches, batches, make_loader
from formats import write_picture
from luma_store import LumaStore, luma_levels
from photos import PhotoFolder
from synthesis import SyntheticStacks, log_uniform, slot_frames
from utils import StackError

PHOTOS = [texture(60, 80, k) for k in range(3)]


def samples(crop=(32, 32), **how):
    return SyntheticStacks(PHOTOS, Augmentation(crop=crop, **how), seed=0)


def flat_scene(self, count, rng):
    """In place of a scene: frame k has the level k + 1."""
    rng.random(int(rng.integers(10)))
    frames = np.arange(1, count + 1, dtype=np.uint8)[:, None, None]
    return frames.repeat(32, 1).repeat(32, 2), np.zeros((32, 32), np.uint8)


def shown(sample):
    """Which frames of a flat scene a sample shows."""
    return np.round(sample["stack"][:, 0, 0] * 255).astype(int) - 1


def test_a_sample_follows_from_its_key_and_no_two_are_alike():
    one = samples(gain=0.2, noise=4.0)
    first, again = one[(0, 4, 3, 17)], samples(gain=0.2, noise=4.0)[(0, 4, 3, 17)]
    assert first["stack"].shape == (4, 32, 32) and first["stack"].dtype == np.float32
    assert first["answer"].shape == (32, 32) and first["answer"].dtype == np.float32
    assert first["stack"].min() >= 0 and first["stack"].max() <= 1
    for name in ("stack", "answer"):
        np.testing.assert_array_equal(first[name], again[name])
    others = [one[key]["answer"] for key in ((0, 4, 4, 17), (0, 4, 3, 18))]
    for picture in [*others, first["answer"][::-1]]:
        assert not np.array_equal(first["answer"], picture)


def test_samples_have_the_size_of_the_crops():
    for position in range(4):
        sample = samples(crop=(24, 40))[(0, 3, 0, position)]
        assert sample["stack"].shape == (3, 24, 40) and sample["answer"].shape == (24, 40)


def test_numbers_of_frames_are_spread_over_the_octaves():
    counts = np.array(slot_frames(4000, 0))
    assert counts.min() == 2 and counts.max() == 40
    octaves = [np.mean((counts >= low) & (counts < 2 * low)) for low in (2, 4, 8, 16)]
    assert octaves == pytest.approx([np.log(2) / np.log(41 / 2)] * 4, abs=0.03)
    assert slot_frames(50, 1) == slot_frames(50, 1) != slot_frames(50, 2)


def test_one_sample_in_two_shows_a_part_of_its_scene(monkeypatch):
    monkeypatch.setattr(SyntheticStacks, "scene", flat_scene)
    parts = [shown(samples()[(0, 5, 0, position)]) for position in range(400)]
    assert np.mean([part.max() >= 5 for part in parts]) == pytest.approx(0.5, abs=0.1)
    assert max(part.max() for part in parts) > 30
    steps = [set(np.sign(np.diff(part))) for part in parts]
    in_order = [step <= {0, 1} or step <= {0, -1} for step in steps]
    assert 0.9 < np.mean(in_order) < 1  # but where copies of a frame come first or last
    assert 0 < np.mean([0 in step for step in steps]) < 0.25  # a frame twice
    assert samples()[(0, 40, 0, 0)]["stack"].shape[0] == 40
    for position in range(8):
        assert shown(samples(frames="all")[(0, 5, 0, position)]).tolist() == [0, 1, 2, 3, 4]
        assert sorted(shown(samples(frames="shuffled")[(0, 3, 0, position)])) == [0, 1, 2]


@pytest.mark.parametrize(
    ("count", "low", "high"), [(2, 1, 3), (5, 2, 12), (11, 5, 30), (40, 19.5, 30)]
)
def test_blur_goes_with_the_number_of_frames(monkeypatch, count, low, high):
    asked = {}

    def scene(rng, photos, **options):
        asked.update(options)
        return np.zeros((count, 32, 32, 3), np.uint8), np.zeros((32, 32, 3), np.uint8), None, None

    monkeypatch.setattr(synthesis, "random_scene", scene)
    samples(frames="all")[(0, count, 0, 0)]
    assert asked["n_frames"] == count and asked["size"] == 32
    assert (asked["min_coc"], asked["max_coc"]) == (low, high)


def test_luma_is_that_of_stored_frames(tmp_path):
    write_picture(tmp_path / "a.png", PHOTOS[0])
    store = LumaStore([("a", [], tmp_path / "a.png")])
    np.testing.assert_array_equal(luma_levels(np.stack(PHOTOS))[0], store.read(0, -1))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_loader_processes_make_the_same_scenes():
    found = []
    for workers in (0, 2):
        order = EpochBatches(slot_frames(6, 0), 2, 0, subsets=False)
        order.start_at(1, 1)
        loader = make_loader(samples((16, 16)), workers, False, batch_sampler=order)
        found.append(list(batches(loader)))
    assert len(found[0]) == len(found[1]) == 2
    for one, other in zip(*found):
        assert one["scene"] == other["scene"] and one["scene"][0].startswith("random scene ")
        assert one["stack"].equal(other["stack"]) and one["answer"].equal(other["answer"])


def test_a_photograph_that_has_gone_is_named(tmp_path):
    photos = PhotoFolder([tmp_path / "gone.png"], 1)
    sample = SyntheticStacks(photos, Augmentation(crop=(16, 16)), 0)[(0, 2, 0, 0)]
    assert isinstance(sample, StackError) and "gone.png cannot be read" in str(sample)


def test_log_uniform_numbers_keep_their_bounds():
    numbers = log_uniform(np.random.default_rng(0), 2, 9, 3000)
    assert numbers.min() == 2 and numbers.max() == 9
    assert (numbers == 2).mean() == pytest.approx(np.log(3 / 2) / np.log(10 / 2), abs=0.03)
