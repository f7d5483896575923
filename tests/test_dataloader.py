"""dataloader.py: what it finds, how it splits, and that a sample follows from its key alone."""

import pickle
import shutil

import numpy as np
import pytest
from drawn import texture, write_set
from PIL import Image

from dataloader import TrainingStacks, ValidationStacks, batches, collate, make_loader
from stackmff.errors import StackError
from stackmff.images.formats import write_picture
from stackmff.training.augmentation import Augmentation
from stackmff.training.batches import EpochBatches, plan_epoch, split_pairs
from stackmff.training.data_sets import find_pairs
from stackmff.training.picture_store import PictureCache, PictureStore, grey_levels


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set"), [3, 4, 5, 3, 4, 2])


def levels(folder, name, values, size=(24, 32), answer=200):
    """A stack of flat frames of the grey levels `values`."""
    for k, value in enumerate(values):
        picture = np.full((*size, 1), value, np.uint8)
        write_picture(folder / "dof_stack" / name / f"{k}.png", picture)
    write_picture(folder / "AiF" / f"{name}.png", np.full((*size, 1), answer, np.uint8))


def training(folder, **how):
    pairs, _ = find_pairs(folder)
    return TrainingStacks(PictureStore(pairs), range(len(pairs)), Augmentation(**how), seed=0)


def test_find_pairs_in_natural_order_in_any_format(tmp_path):
    picture = texture(8, 8, 0)
    for name in ("s10", "s2"):
        for frame in ("f10.PNG", "f9.tif", "f1.jpg", ".hidden.png", "notes.txt"):
            path = tmp_path / "image stack" / name / frame
            if frame == "notes.txt":
                path.write_text("no picture")
            else:
                write_picture(path, picture)
        write_picture(tmp_path / "AiF" / f"{name}.webp", picture)
    pairs, left_over = find_pairs(tmp_path)
    assert [name for name, _, _ in pairs] == ["s2", "s10"]
    assert [path.name for path in pairs[0][1]] == ["f1.jpg", "f9.tif", "f10.PNG"]
    assert pairs[0][2].name == "s2.webp"
    assert left_over == []


def test_find_pairs_tells_what_has_no_partner(tmp_path):
    levels(tmp_path, "good", [10, 20])
    levels(tmp_path, "alone", [10, 20])
    (tmp_path / "AiF" / "alone.png").rename(tmp_path / "AiF" / "other.png")
    levels(tmp_path, "single", [10])
    pairs, left_over = find_pairs(tmp_path)
    assert [name for name, _, _ in pairs] == ["good"]
    assert len(left_over) == 3
    assert any("alone has no answer AiF/alone.*" in sentence for sentence in left_over)
    assert any("single holds 1 picture(s)" in sentence for sentence in left_over)
    assert any("other.png has no stack dof_stack/other/" in sentence for sentence in left_over)


def test_find_pairs_refuses(tmp_path):
    with pytest.raises(StackError, match="has no folder dof_stack"):
        find_pairs(tmp_path)
    write_picture(tmp_path / "photo.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(StackError, match=r"pictures and no stacks: .* train\.py --photos"):
        find_pairs(tmp_path)
    (tmp_path / "dof_stack").mkdir()
    with pytest.raises(StackError, match="has no folder AiF"):
        find_pairs(tmp_path)
    (tmp_path / "AiF").mkdir()
    with pytest.raises(StackError, match="holds no stack with its answer"):
        find_pairs(tmp_path)
    levels(tmp_path, "a", [10, 20])
    write_picture(tmp_path / "AiF" / "a.jpg", texture(8, 8, 0))
    with pytest.raises(StackError, match=r"a\.png and a\.jpg have the same name"):
        find_pairs(tmp_path)


def pairs_named(n):
    return [(f"scene{i}", [], f"AiF/scene{i}.png") for i in range(n)]


def test_split_is_seeded_and_whole():
    pairs = pairs_named(50)
    parts = split_pairs(pairs, 0.2, seed=3)
    assert parts == split_pairs(pairs, 0.2, seed=3)
    assert parts != split_pairs(pairs, 0.2, seed=4)
    assert sorted(parts[0] + parts[1]) == list(range(50))
    assert len(parts[1]) == 10


def test_split_keeps_training_scenes_when_scenes_are_added():
    before = set(split_pairs(pairs_named(50), 0.2, seed=0)[1])
    after = set(split_pairs(pairs_named(60), 0.2, seed=0)[1])
    assert len(before & after) >= 8


def test_split_stays_when_another_data_set_is_added():
    pairs = pairs_named(50)
    joined = [(f"one/{name}", *rest) for name, *rest in pairs]
    joined += [(f"two/other{i}", [], f"AiF/other{i}.png") for i in range(4)]
    before, after = (set(split_pairs(some, 0.2, seed=0)[1]) for some in (pairs, joined))
    assert len(before & after) >= 9


def test_split_by_name_takes_the_last():
    assert split_pairs(pairs_named(10), 0.2, seed=0, by_name=True)[1] == [8, 9]


def test_split_has_two_sides_or_fails():
    assert [len(part) for part in split_pairs(pairs_named(2), 0.01, 0)] == [1, 1]
    assert [len(part) for part in split_pairs(pairs_named(2), 0.99, 0)] == [1, 1]
    with pytest.raises(StackError, match="need one each"):
        split_pairs(pairs_named(1), 0.5, 0)


def test_a_plan_takes_every_scene_with_one_n_a_batch():
    counts = [int(n) for n in np.random.default_rng(0).integers(2, 9, 100)]
    plans = [plan_epoch(counts, 8, 0, epoch, subsets=True) for epoch in range(2)]
    for plan in plans:
        assert sorted(scene for batch in plan for scene, _ in batch) == list(range(100))
        assert sorted(len(batch) for batch in plan) == [4] + 12 * [8]
        for batch in plan:
            assert len({n for _, n in batch}) == 1
            assert all(2 <= n <= counts[scene] for scene, n in batch)
    numbers = [batch[0][1] for batch in plans[0]]
    assert len(set(numbers)) > 3 and numbers != sorted(numbers)
    assert plans[0] != plans[1]
    assert plans[0] == plan_epoch(counts, 8, 0, 0, subsets=True)


def test_a_plan_without_subsets_takes_all_frames():
    counts = [4, 7, 4, 7, 5, 4]
    plan = plan_epoch(counts, 2, 0, 0, subsets=False, parted=True)
    assert sorted(sample for batch in plan for sample in batch) == list(enumerate(counts))
    order = EpochBatches(counts, 2, 0, subsets=False)
    assert len(order) == len(list(order)) == len(plan) == 4
    by_epoch = EpochBatches(lambda epoch: [4 + epoch, 7, 4, 7, 5, 4], 2, 0, subsets=False)
    for epoch in range(3):
        by_epoch.start_at(epoch, 0)
        assert len(by_epoch) == len(list(by_epoch)) == 3


def test_subsets_give_up_frames_before_whole_stacks_do():
    counts = [2 + k % 9 for k in range(900)]
    drawn, given = (
        dict(sample for batch in plan_epoch(counts, size, 0, 0, subsets=True) for sample in batch)
        for size in (1, 8)
    )
    lost = {scene for scene in drawn if given[scene] < drawn[scene]}
    whole = {scene for scene in drawn if drawn[scene] == counts[scene]}
    assert lost & whole and lost - whole
    for n in {drawn[scene] for scene in lost & whole}:
        assert {scene for scene in drawn if drawn[scene] == n} - whole <= lost


def test_processes_share_out_equal_parts():
    counts = [4] * 21
    shares = [list(EpochBatches(counts, 3, 0, True, rank=r, world=2)) for r in range(2)]
    assert (
        [len(share) for share in shares]
        == [4, 4]
        == [len(EpochBatches(counts, 3, 0, True, world=2))] * 2
    )
    for one, other in zip(*shares):
        assert len(one) == len(other)
        assert {key[1] for key in one} == {key[1] for key in other}
        assert not {key[3] for key in one} & {key[3] for key in other}
    assert {key[0] for share in shares for batch in share for key in batch} == set(range(21))


def test_repeat_takes_scenes_more_than_once_but_never_one_sample_twice():
    order = EpochBatches([4, 4], 2, 0, True, repeat=3)
    keys = [key for batch in order for key in batch]
    assert len(order) == 3
    assert sorted(key[0] for key in keys) == [0, 0, 0, 1, 1, 1]
    assert len({key[3] for key in keys}) == 6


def test_an_epoch_can_begin_at_any_batch():
    order = EpochBatches([2, 3, 4, 5] * 5, 4, 1, True)
    order.start_at(7, 0)
    whole = list(order)
    order.start_at(7, 3)
    assert list(order) == whole[3:]
    assert len(order) == 5


def test_a_sample_follows_from_its_key(data):
    how = {"crop": (16, 24), "gain": 0.2, "noise": 4.0}
    one, other = training(data, **how), training(data, **how)
    key = (2, 3, 5, 17)
    other[(1, 2, 0, 0)]
    first, second = one[key], other[key]
    assert first["scene"] == second["scene"] == "scene2"
    assert first["stack"].shape == (3, 16, 24) and first["stack"].dtype == np.float32
    assert first["answer"].shape == (16, 24)
    np.testing.assert_array_equal(first["stack"], second["stack"])
    np.testing.assert_array_equal(first["answer"], second["answer"])
    assert not np.array_equal(first["stack"], one[(2, 3, 6, 17)]["stack"])
    assert not np.array_equal(first["stack"], one[(2, 3, 5, 18)]["stack"])


def test_frames_keep_their_order_or_all_turn_around(tmp_path):
    levels(tmp_path, "a", [10, 20, 30, 40, 50, 60])
    samples = training(tmp_path, flips=False)
    seen = set()
    for position in range(60):
        drawn = samples[(0, 3, 0, position)]["stack"][:, 0, 0] * 255
        steps = set(np.sign(np.diff(drawn))) - {0}
        assert len(steps) <= 1
        seen.add(tuple(np.round(drawn).astype(int)))
    assert {s[0] < s[2] for s in seen} == {True, False}
    assert len(seen) > 20
    doubled = sum(len(set(s)) < 3 for s in seen)
    assert 0 < doubled < len(seen) / 3  # some samples show a frame twice


def test_negatives_turn_frames_and_answer(data):
    plain, turned = training(data, negatives=0.0), training(data, negatives=1.0)
    for name in ("stack", "answer"):
        one, other = (samples[(2, 3, 5, 17)][name] for samples in (plain, turned))
        np.testing.assert_allclose(other, 1 - one, atol=1e-6)


def test_seven_samples_in_ten_have_every_frame_and_the_others_rather_few():
    plan = plan_epoch([10] * 2000, 1, 0, 0, subsets=True)
    counts = np.array([n_frames for batch in plan for _, n_frames in batch])
    assert counts.min() == 2
    for count in (2, 6, 10):
        share = 0.3 * np.log((count + 1) / count) / np.log(11 / 2) + 0.7 * (count == 10)
        assert (counts == count).mean() == pytest.approx(share, abs=0.02), count


def test_all_and_shuffled_frames(tmp_path):
    values = [10, 20, 30, 40, 50, 60]
    levels(tmp_path, "a", values)
    every = training(tmp_path, frames="all", flips=False)[(0, 6, 0, 0)]["stack"][:, 0, 0]
    np.testing.assert_allclose(every * 255, values, rtol=1e-6)
    shuffled = training(tmp_path, frames="shuffled", flips=False)
    orders = {
        tuple(np.round(shuffled[(0, 6, 0, p)]["stack"][:, 0, 0] * 255).astype(int))
        for p in range(10)
    }
    assert len(orders) > 5
    assert all(sorted(order) == values for order in orders)


def test_frames_and_answer_are_cut_and_turned_alike(tmp_path):
    picture = texture(40, 56, 1)
    for k in range(3):
        write_picture(tmp_path / "dof_stack" / "a" / f"{k}.png", picture)
    write_picture(tmp_path / "AiF" / "a.png", picture)
    samples = training(tmp_path, crop=(24, 32), gain=0.3)
    corners = set()
    for position in range(12):
        sample = samples[(0, 3, 0, position)]
        assert sample["stack"].shape == (3, 24, 32)
        for frame in sample["stack"]:
            np.testing.assert_array_equal(frame, sample["answer"])
        corners.add(float(sample["answer"][0, 0]))
    assert len(corners) > 8


def test_crops_that_fit_only_upright_are_not_turned_by_a_quarter(tmp_path):
    levels(tmp_path, "a", [10, 20], size=(20, 64))
    samples = training(tmp_path, crop=(16, 48))
    for position in range(8):
        assert samples[(0, 2, 0, position)]["stack"].shape == (2, 16, 48)


def test_pictures_smaller_than_the_crops_are_named(tmp_path):
    levels(tmp_path, "a", [10, 20], size=(20, 64))
    error = training(tmp_path, crop=(32, 32))[(0, 2, 0, 0)]
    assert isinstance(error, StackError)
    assert "a.png is 64x20, smaller than the crops of 32x32" in str(error)


def test_the_shape_of_a_scene_is_that_of_its_picture_turned_upright(tmp_path):
    photo = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    photo.save(tmp_path / "whole.png")
    photo.save(tmp_path / "turned.png", exif=exif)
    (tmp_path / "c.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])  # a header alone
    names = ("a.jpg", "b.jpg", "c.png", "turned.png")
    store = PictureStore([(name, [], tmp_path / name) for name in names])
    assert store.shapes == [(30, 20), None, (20, 30), store.read(3, -1).shape]
    assert store.read(0, -1).shape == (30, 20)


def test_gain_is_one_for_all_and_noise_is_in_the_frames_alone(tmp_path):
    levels(tmp_path, "a", [50, 100], answer=80)
    gains = []
    for position in range(20):
        sample = training(tmp_path, frames="all", gain=0.25)[(0, 2, 0, position)]
        gain = sample["answer"][0, 0] * 255 / 80
        np.testing.assert_allclose(
            sample["stack"][:, 0, 0] * 255, [50 * gain, 100 * gain], rtol=1e-5
        )
        gains.append(gain)
    assert 0.75 <= min(gains) < 0.9 and 1.1 < max(gains) <= 1.25
    noisy = training(tmp_path, frames="all", noise=5.0)[(0, 2, 0, 0)]
    assert np.ptp(noisy["answer"]) == 0
    assert 0 < np.std(noisy["stack"][0]) * 255 < 6
    assert not np.array_equal(noisy["stack"][0] - 50 / 255, noisy["stack"][1] - 100 / 255)


def test_decoded_pictures_are_kept_within_the_budget(tmp_path):
    folder = write_set(tmp_path / "set", [2, 2], 32, 40)
    pairs, _ = find_pairs(folder)
    kept, forgetful = PictureStore(pairs, cache_mib=1), PictureStore(pairs)
    before = [kept.read(1, frame).copy() for frame in (-1, 0, 1)]
    forgetful.read(1, 0)
    shutil.rmtree(folder)
    for frame, picture in zip((-1, 0, 1), before):
        np.testing.assert_array_equal(kept.read(1, frame), picture)
    with pytest.raises(StackError):
        forgetful.read(1, 0)
    with pytest.raises(StackError):
        kept.read(0, 0)


def test_pictures_in_colour_are_kept_too(tmp_path):
    folder = write_set(tmp_path / "set", [2], 32, 40)
    pairs, _ = find_pairs(folder)
    grey, colour = PictureStore(pairs), PictureStore(pairs, cache_mib=1, colour=True)
    for frame in (-1, 0, 1):
        picture = colour.read(0, frame).copy()
        assert picture.shape == (3, 32, 40)
        np.testing.assert_array_equal(colour.read(0, frame), picture)
        np.testing.assert_allclose(
            np.tensordot([0.299, 0.587, 0.114], picture, 1), grey.read(0, frame), atol=0.51
        )
    samples = TrainingStacks(colour, [0], Augmentation((16, 24), colour=True), 0)
    batch = collate([samples[(0, 2, 0, k)] for k in range(2)])
    assert batch["stack"].shape == (2, 3, 2, 16, 24) and batch["answer"].shape == (2, 3, 16, 24)
    shutil.rmtree(folder)
    assert colour.read(0, 1).shape == (3, 32, 40)
    whole = ValidationStacks(colour, [0], (16, 16))[0]
    assert whole["stack"].shape == (2, 3, 16, 16)
    np.testing.assert_array_equal(
        grey_levels(np.full((4, 5, 1), 7, np.uint8), True), np.full((3, 4, 5), 7)
    )


def test_a_cache_keeps_what_fits():
    cache = PictureCache([6, 6, 0, 6], 13)
    for index in range(4):
        cache.put(index, np.full((2, 3), index, np.uint8))
    assert [cache.get(index) is not None for index in range(4)] == [True, True, False, False]
    np.testing.assert_array_equal(cache.get(1), np.ones((2, 3)))
    cache.shapes[0] = 2, 0  # as seen while another process writes it
    assert cache.get(0) is None
    fresh = pickle.loads(pickle.dumps(PictureCache([6, 6], 20, workers=2)))
    fresh.put(0, np.zeros((2, 3), np.uint8))
    fresh.put(1, np.zeros((2, 3), np.uint8))
    assert fresh.get(0) is not None and fresh.get(1) is None


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_loader_processes_give_the_same_batches_and_share_the_memory(data):
    pairs, _ = find_pairs(data)
    found = []
    for workers in (0, 2):
        store = PictureStore(pairs, cache_mib=1, workers=workers)
        samples = TrainingStacks(store, range(len(pairs)), Augmentation((16, 16)), seed=0)
        order = EpochBatches([store.frame_count(i) for i in range(len(pairs))], 2, 0, True)
        order.start_at(3, 1)
        loader = make_loader(samples, workers, False, batch_sampler=order)
        found.append(list(batches(loader)))
        assert any(store.cache.get(i) is not None for i in range(len(store.cache.shapes)))
    assert len(found[0]) == len(found[1]) == 2
    for one, other in zip(*found):
        assert one["scene"] == other["scene"]
        assert one["stack"].shape[:2] == (2, 1) and one["stack"].shape[3:] == (16, 16)
        assert one["answer"].shape == (2, 1, 16, 16)
        assert one["stack"].equal(other["stack"]) and one["answer"].equal(other["answer"])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_frame_of_another_size_is_named_in_one_line(tmp_path, workers):
    levels(tmp_path, "a", [10, 20])
    write_picture(tmp_path / "dof_stack" / "a" / "1.png", np.zeros((8, 8, 1), np.uint8))
    pairs, _ = find_pairs(tmp_path)
    loader = make_loader(
        ValidationStacks(PictureStore(pairs), [0], (64, 64)), workers, False, indices=[0]
    )
    with pytest.raises(StackError, match=r"1\.png is 8x8, its answer .*a\.png is 32x24") as caught:
        list(batches(loader))
    assert "\n" not in str(caught.value)


def test_whole_pictures_of_several_sizes_need_a_crop(tmp_path):
    levels(tmp_path, "a", [10, 20])
    levels(tmp_path, "b", [10, 20], size=(16, 16))
    loader = make_loader(
        training(tmp_path), 0, False, batch_sampler=EpochBatches([2, 2], 2, 0, True)
    )
    with pytest.raises(StackError, match="differ in size"):
        list(batches(loader))


def test_validation_is_whole_in_order_and_cut_to_its_centre(data):
    pairs, _ = find_pairs(data)
    whole = ValidationStacks(PictureStore(pairs), [4, 1], (64, 64))
    assert len(whole) == 2
    assert [whole[i]["scene"] for i in range(2)] == ["scene4", "scene1"]
    assert whole[0]["stack"].shape == (4, 48, 48)
    centre = ValidationStacks(PictureStore(pairs), [4], (16, 64))[0]
    np.testing.assert_array_equal(centre["stack"], whole[0]["stack"][:, 16:32])
    np.testing.assert_array_equal(centre["answer"], whole[0]["answer"][16:32])


def test_pictures_can_be_resized(data):
    pairs, _ = find_pairs(data)
    store = PictureStore(pairs, resize=(32, 40), cache_mib=1)
    assert store.read(0, 0).shape == (32, 40)
    assert store.cache.get(0) is not None
