"""training/shards.py and tools/make_shards.py: shards give the samples of their folders."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from drawn import texture, write_set

import train
from dataloader import TrainingStacks
from stackmff.errors import StackError
from stackmff.files import remove_leftovers
from stackmff.images.formats import read_picture, write_picture
from stackmff.processes import this_process
from stackmff.training.augmentation import Augmentation
from stackmff.training.batches import EpochBatches, OwnBatches
from stackmff.training.data_sets import find_pairs
from stackmff.training.picture_store import PictureStore
from stackmff.training.shards import list_stored, pairs_in_shards, shares_of_shards
from tools import make_shards

COUNTS = [3, 4, 2, 5, 3, 4, 2]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = write_set(tmp_path_factory.mktemp("set"), COUNTS, 32, 40)
    (folder / "AiF" / "scene1.png").rename(folder / "AiF" / "scene1.5.png")
    (folder / "dof_stack" / "scene1").rename(folder / "dof_stack" / "scene1.5")
    return folder


@pytest.fixture
def packed(folders, tmp_path):
    pack(folders, tmp_path / "packed")
    return tmp_path / "packed"


def pack(folders, target, shards=3):
    words = ["--datapath", str(folders), "--output_dir", str(target)]
    make_shards.main([*words, "--shards", str(shards)])


def samples_of(folder):
    """The samples of an epoch, in order."""
    pairs, left_over = find_pairs(folder)
    assert left_over == []
    how = Augmentation(crop=(16, 16), noise=3.0, negatives=0.3, drift=0.3)
    store = PictureStore(pairs, cache_mib=1)
    assert store.cache.kept.all()  # the sizes were found
    samples = TrainingStacks(store, range(len(pairs)), how, seed=0)
    return [samples[key] for batch in EpochBatches(COUNTS, 2, 0, True) for key in batch]


def test_samples_are_those_of_the_folders(folders, packed):
    assert sorted(path.name for path in packed.glob("*.tar")) == [
        f"0000{k}-of-00003.tar" for k in range(3)
    ]
    for one, other in zip(samples_of(folders), samples_of(packed), strict=True):
        assert one["scene"] == other["scene"]
        np.testing.assert_array_equal(one["stack"], other["stack"])
        np.testing.assert_array_equal(one["answer"], other["answer"])


def test_the_form_is_that_of_webdataset(folders, packed):
    with tarfile.open(packed / "00001-of-00003.tar") as tar:
        names = tar.getnames()
        assert names[:6] == [
            *("scene1_5.json", "scene1_5.000.png", "scene1_5.001.png", "scene1_5.002.png"),
            *("scene1_5.003.png", "scene1_5.aif.png"),
        ]
        note = json.load(tar.extractfile("scene1_5.json"))
        assert note == {"scene": "scene1.5", "frames": 4}
        frame = tar.extractfile("scene1_5.002.png").read()
    assert frame == (folders / "dof_stack" / "scene1.5" / "2.png").read_bytes()
    keys = [name.partition(".")[0] for name in names]
    assert keys == sorted(keys)  # the files of a scene follow one another


def test_packing_again_writes_what_is_not_there_or_not_whole(folders, packed, capsys):
    paths = sorted(packed.glob("*.tar"))
    whole = [path.read_bytes() for path in paths]
    paths[0].unlink()
    paths[2].write_bytes(whole[2][: len(whole[2]) // 2])
    untouched = paths[1].stat().st_mtime_ns
    capsys.readouterr()
    pack(folders, packed)
    assert "7 scenes" in (said := capsys.readouterr().out) and "2 of them new" in said
    assert [path.read_bytes() for path in paths] == whole
    assert paths[1].stat().st_mtime_ns == untouched
    with pytest.raises(StackError, match="belongs to another packing"):
        pack(folders, packed, 2)
    with pytest.raises(StackError, match="holds shards already"):
        pack(packed, packed.parent / "twice")


def test_damaged_shards_are_named(packed, tmp_path):
    path = packed / "00000-of-00003.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    with pytest.raises(StackError, match=r"00000-of-00003.tar is not a complete tar file"):
        find_pairs(packed)
    path.write_bytes(whole)
    stored = list_stored(path)[1]
    path.write_bytes(whole[: stored.offset + 5])
    with pytest.raises(StackError, match=rf"{stored.name} is cut short"):
        stored.read()
    path.write_bytes(whole)
    shutil.copy(path, packed / "copy.tar")
    with pytest.raises(StackError, match="both hold"):
        find_pairs(packed)


def write_tar(path, files):
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_scenes_that_are_not_whole(packed, tmp_path):
    png = list_stored(packed / "00000-of-00003.tar")[1].read()
    note = json.dumps({"scene": "a", "frames": 3}).encode()
    files = {"a.json": note, "a.000.png": png, "a.001.png": png, "a.aif.png": png}
    write_tar(tmp_path / "x.tar", files)
    with pytest.raises(StackError, match="has 2 of the 3 frames of a"):
        pairs_in_shards(tmp_path)
    write_tar(tmp_path / "x.tar", {**files, "a.json": b"[]"})
    with pytest.raises(StackError, match=r'a\.json has no "scene"'):
        pairs_in_shards(tmp_path)
    del files["a.json"], files["a.aif.png"]
    write_tar(tmp_path / "x.tar", files)
    assert pairs_in_shards(tmp_path) == ([], [f"{tmp_path}/x.tar/a has no answer .aif.*"])
    with pytest.raises(StackError, match="holds no stack with its answer"):
        find_pairs(tmp_path)


def test_each_process_has_shards_of_its_own(packed):
    pairs, _ = find_pairs(packed)
    shares = shares_of_shards(pairs, 2)
    assert sorted(shares[0] + shares[1]) == list(range(len(pairs)))
    homes = [{pairs[i][2].shard.name[:5] for i in share} for share in shares]
    assert homes == [{"00000", "00002"}, {"00001"}]
    with pytest.raises(StackError, match="3 shards are too few for 4 processes"):
        shares_of_shards(pairs, 4)


def own_orders(shares, counts, **more):
    return [
        OwnBatches(
            shares,
            frame_counts=counts,
            batch_size=3,
            seed=0,
            subsets=True,
            rank=rank,
            world=len(shares),
            **more,
        )
        for rank in range(len(shares))
    ]


def test_own_batches_are_as_many_and_alike_and_resume():
    counts = [int(n) for n in np.random.default_rng(0).integers(2, 30, 90)]
    shares = [list(range(0, 48)), list(range(48, 90))]
    orders = own_orders(shares, counts)
    epochs = [list(order) for order in orders]
    assert [len(epoch) for epoch in epochs] == [len(order) for order in orders] == [16, 16]
    for epoch, share in zip(epochs, shares):
        assert {key[0] for batch in epoch for key in batch} == set(share)
    keys = [key[2:] for epoch in epochs for batch in epoch for key in batch]
    assert len(set(keys)) == len(keys)  # no two samples have the same random numbers
    n_frames = np.array([[batch[0][1] for batch in epoch] for epoch in epochs])
    assert (
        np.abs(n_frames[0] - n_frames[1]).mean()
        < 0.6 * np.abs(n_frames[0] - np.roll(n_frames[1], 1)).mean()
    )
    orders[1].start_at(0, 5)
    assert list(orders[1]) == epochs[1][5:]
    orders[1].start_at(1, 0)
    assert list(orders[1]) != epochs[1]


def test_training_on_shards_is_training_on_folders(folders, packed, tmp_path, capsys):
    words = ["--experiments", str(tmp_path), "--image_size", "16", "16", "--epochs", "1"]
    words += ["--batch_size", "2", "--val_fraction", "0.2", "--device", "cpu"]
    words += ["--precision", "fp32", "--network_options", "widths=[4,4]", "hidden=2"]
    for name, data in (("folders", folders), ("shards", packed)):
        assert train.main([*words, "--exp_name", name, "--datapath", str(data)]) == 0
    lines = [
        json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[-1])["validation"]
        for name in ("folders", "shards")
    ]
    assert lines[0] == lines[1]
    with pytest.raises(StackError, match="--own_shards needs data in shards"):
        train.main([*words, "--exp_name", "x", "--datapath", str(folders), "--own_shards"])
    assert train.main([*words, "--exp_name", "own", "--datapath", str(packed), "--own_shards"]) == 0


def test_a_copy_that_stopped_is_no_whole_shard(packed):
    """Also where it ends between two scenes, in zeros or in what is no tar: nothing is lost."""
    path = packed / "00000-of-00003.tar"
    whole = path.read_bytes()
    files = list_stored(path)
    start = [file.offset for file in files if file.name.endswith(".json")][1] - tarfile.BLOCKSIZE
    rest = len(whole) - start
    for damaged in (
        whole[:start],
        whole[:start] + bytes(rest + tarfile.RECORDSIZE),
        whole[:start] + b"x" * 2048,
    ):
        path.write_bytes(damaged)
        with pytest.raises(StackError, match=f"not a complete tar file .*from byte {start} on"):
            find_pairs(packed)
    path.write_bytes(whole)
    assert list_stored(path) == files


def test_scenes_that_differ_in_dots_alone(tmp_path):
    source = write_set(tmp_path / "set", [2, 2], 16, 16)
    for folder, end in (("AiF", ".png"), ("dof_stack", "")):
        for old, new in (("scene0", "a.b"), ("scene1", "a_b")):
            (source / folder / f"{old}{end}").rename(source / folder / f"{new}{end}")
    with pytest.raises(StackError, match=r"the scenes a\.b and a_b, which differ only in dots"):
        pack(source, tmp_path / "packed")


def test_the_folder_has_a_former_name(folders, tmp_path):
    make_shards.main(["--datapath", str(folders), "--output_path", str(tmp_path / "packed")])
    assert len(find_pairs(tmp_path / "packed")[0]) == len(COUNTS)


def test_a_shard_that_is_not_there_is_told(packed):
    (packed / "00001-of-00003.tar").unlink()
    pairs, left_over = find_pairs(packed)
    assert 0 < len(pairs) < len(COUNTS)
    assert left_over == [
        f"{packed} lacks 1 of 3 shards, 00001-of-00003.tar the first: copy them too"
    ]


def test_changed_pictures_of_one_size_are_packed_again(tmp_path, capsys):
    source = write_set(tmp_path / "set", [2, 2], 16, 16)
    frame = source / "dof_stack" / "scene0" / "0.bmp"
    write_picture(frame, texture(16, 16, 5))
    pack(source, tmp_path / "packed", 2)
    write_picture(frame, texture(16, 16, 6))
    stamp = (tmp_path / "packed" / "00000-of-00002.tar").stat().st_mtime_ns
    os.utime(frame, ns=(stamp + 10**9,) * 2)
    capsys.readouterr()
    pack(source, tmp_path / "packed", 2)
    assert "1 of them new" in capsys.readouterr().out
    stored = {file.name: file for file in list_stored(tmp_path / "packed" / "00000-of-00002.tar")}
    np.testing.assert_array_equal(read_picture(stored["scene0.000.bmp"]), texture(16, 16, 6))


@pytest.mark.parametrize(("name", "package"), [("a.000.nef", "rawpy"), ("a.000.heic", "pillow")])
def test_every_format_is_read_from_a_shard(tmp_path, monkeypatch, name, package):
    for module in ("rawpy", "pillow_heif"):
        monkeypatch.setitem(sys.modules, module, None)
    write_tar(tmp_path / "x.tar", {name: b"\0\0\0\x18ftypheic" + bytes(99)})
    with pytest.raises(StackError, match=rf"x\.tar/{name} needs {package}"):
        read_picture(list_stored(tmp_path / "x.tar")[0])


def test_two_scenes_of_one_name_in_a_shard(packed, tmp_path):
    png = list_stored(packed / "00000-of-00003.tar")[1].read()
    note = json.dumps({"scene": "same", "frames": 2}).encode()
    ends = {".json": note, ".000.png": png, ".001.png": png, ".aif.png": png}
    write_tar(tmp_path / "x.tar", {key + end: data for key in "ab" for end, data in ends.items()})
    with pytest.raises(StackError, match="both hold same"):
        pairs_in_shards(tmp_path)
    write_tar(tmp_path / "x.tar", {"a" + end: data for end, data in ends.items()})
    assert [pair[0] for pair in pairs_in_shards(tmp_path)[0]] == ["same"]
    ends[".json"] = b'{"scene": "same", "frames": Infinity}'
    write_tar(tmp_path / "x.tar", {"a" + end: data for end, data in ends.items()})
    with pytest.raises(StackError, match=r'a\.json has no "scene" and "frames"'):
        pairs_in_shards(tmp_path)


def test_what_a_killed_packing_left_is_removed(folders, packed):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    host = this_process().rpartition("-")[0]
    left = packed / f".00000-of-00003.{host}-{process.pid}.abc.tar"
    left.write_bytes(b"half")
    remove_leftovers.cache_clear()
    pack(folders, packed)
    assert not left.exists()


def test_a_frame_of_an_older_date_is_packed_anew(tmp_path, capsys):
    """A copy that keeps the date of its original, in place of a file of the same size."""
    set_folder = write_set(tmp_path / "set", COUNTS, 32, 40)
    frame = next((set_folder / "dof_stack" / "scene0").iterdir())
    shutil.copy(frame, tmp_path / "original")
    other = bytearray(frame.read_bytes())
    other[-20] ^= 1
    pack(set_folder, tmp_path / "packed")
    capsys.readouterr()
    pack(set_folder, tmp_path / "packed")
    assert "0 of them new" in capsys.readouterr().out
    frame.write_bytes(other)
    os.utime(frame, (1e9, 1e9))
    pack(set_folder, tmp_path / "packed")
    assert "1 of them new" in capsys.readouterr().out
    for path in (tmp_path / "packed").glob(".*.json"):  # as earlier versions left them
        path.unlink()
    pack(set_folder, tmp_path / "packed")
    assert "0 of them new" in capsys.readouterr().out
