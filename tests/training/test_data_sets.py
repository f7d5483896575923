"""training/data_sets.py: what train.py trains and validates on; data that change or do not fit."""

import json
import os
import shutil

import numpy as np
import pytest
from drawn import texture, write_set
from training import load, made, resume, signal_after, start, without

import loss
from stackmff.errors import StackError
from stackmff.images.formats import write_picture
from stackmff.training.loading import count_workers


def test_validation_can_have_sets_of_its_own(options, tmp_path, data, capsys):
    held_out = write_set(tmp_path / "held out", [3, 4, 2], 20, 24)
    apart = without(options, "--val_fraction")
    assert start(apart, "run", "--epochs", "1", "--val_datapath", str(held_out)) == 0
    assert "7 stacks train, 3 validate" in capsys.readouterr().out
    both = ["--datapath", str(data), str(held_out)]
    assert start(options, "both", "--epochs", "1", *both) == 0
    assert "7 stacks train, 3 validate" in capsys.readouterr().out


def test_random_scenes_are_new_in_every_epoch(photo_options, tmp_path, monkeypatch, capsys):
    (tmp_path / "photos" / "broken.png").write_bytes(b"no picture")
    seen = []
    weighted_loss = loss.weighted_loss

    def watch(output, batch, weights):
        seen.append(batch)
        return weighted_loss(output, batch, weights)

    monkeypatch.setattr(loss, "weighted_loss", watch)
    assert start(photo_options, "run", "--epochs", "2", "--validate_every", "2") == 0
    said = capsys.readouterr().out
    assert "6 random scenes of 2 photographs (1 left out) train an epoch, 7 validate" in said
    assert "left out:" in said and "broken.png" in said
    answers = [picture for batch in seen[:6] for picture in batch["answer"]]
    assert len({picture.numpy().tobytes() for picture in answers}) == 12
    assert all(batch["stack"].shape[0] == 2 for batch in seen[:6])
    record = json.loads((tmp_path / "run" / "args.json").read_text())["args"]
    assert record["photos"] == [str(tmp_path / "photos")] and record["scenes_per_epoch"] == 6
    assert load(tmp_path / "run" / "last.pth")["step"] == 6


def test_random_scenes_need_photographs_that_can_be_read(photo_options, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(StackError, match="empty holds no pictures: give a folder of photographs"):
        start(photo_options, "run", "--photos", str(tmp_path / "empty"))
    for path in (tmp_path / "photos").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(StackError, match="none of the 2 photographs can be used"):
        start(photo_options, "run")


def test_other_photographs_are_noted_and_the_next_epoch_begins(
    photo_options, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        signal_after(patch, 4)
        start(photo_options, "run")
    write_picture(tmp_path / "photos" / "p2.png", texture(40, 48, 2))
    for words, sentence in [
        (["--scenes_per_epoch", "5"], "--scenes_per_epoch is 6 in the run run and cannot change"),
        (["--datapath", "x"], "--photos on scenes made of photographs: give one of them"),
    ]:
        with pytest.raises(SystemExit):
            resume(tmp_path, "run", *words)
        assert sentence in capsys.readouterr().err
    assert resume(tmp_path, "run") == 0
    assert "changed since the run stopped: continuing with epoch 3" in capsys.readouterr().out


def test_photographs_with_depth_train_and_the_unfit_are_named(
    photo_options, tmp_path, data, capsys
):
    depth = np.linspace(60, 200, 40).astype(np.uint8)[:, None, None].repeat(48, 1)
    for name in ("p0", "p1", "flat"):
        write_picture(tmp_path / "photos" / f"{name}.png", texture(40, 48, 3))
        write_picture(tmp_path / "depth" / f"{name}.png", depth if name != "flat" else depth * 0)
    write_picture(tmp_path / "photos" / "alone.png", texture(40, 48, 4))
    write_picture(tmp_path / "photos" / "narrow.png", texture(20, 80, 5))
    write_picture(tmp_path / "depth" / "narrow.png", depth[::2].repeat(2, 1)[:, :80])
    words = photo_options[: photo_options.index("--scenes_per_epoch")]
    words += ["--min_side", "16", "--depth_path", str(tmp_path / "depth"), "--num_frames", "4"]
    with pytest.raises(SystemExit):
        start(words, "run")
    assert "--depth_kind distance or disparity is needed" in capsys.readouterr().err
    words += ["--depth_kind", "disparity", "--photo_size", "40"]
    with pytest.raises(StackError, match="3 left out: correct or remove"):
        start(words, "run", "--strict")
    with pytest.raises(SystemExit):
        start(words, "run", "--scenes_per_epoch", "9")
    assert "--scenes_per_epoch is for --photos without --depth_path" in capsys.readouterr().err
    assert start(words, "run", "--repeat", "2", "--epochs", "1") == 0
    said = capsys.readouterr().out
    assert "2 photographs with depth (3 left out) train" in said
    assert "no depth map for" in said and "alone.png" in said and "flat.png is the same" in said
    assert "narrow.png is 40x10, smaller than the crops of 16x16" in said
    assert load(tmp_path / "run" / "last.pth")["step"] == 2
    assert resume(tmp_path, "run", "--epochs", "2") == 0
    assert load(tmp_path / "run" / "last.pth")["args"]["max_coc"] == 16
    with pytest.raises(SystemExit):
        resume(tmp_path, "run", "--num_frames", "5")
    assert "--num_frames is 4 in the run run and cannot change" in capsys.readouterr().err


def test_stacks_of_a_wrong_size_are_named_and_left_out(common, tmp_path, capsys):
    data, held_out = tmp_path / "set", tmp_path / "held_out"
    for folder, small in ((data, (14, 40)), (held_out, (10, 40))):
        write_set(folder, [3, 4, 5], 32, 32, first=small[0])
        write_picture(folder / "AiF" / "low.png", texture(*small, 7))
        for k in range(2):
            write_picture(folder / "dof_stack" / "low" / f"{k}.png", texture(*small, k))
    words = [*common, "--datapath", str(data), "--val_datapath", str(held_out), "--epochs", "1"]
    with pytest.raises(StackError, match="2 left out: correct or remove"):
        start(words, "run", "--strict")
    assert "low.png is 40x14, smaller than the crops of 16x16: give" in capsys.readouterr().out
    assert start(words, "run") == 0
    said = capsys.readouterr().out
    assert "3 stacks train, 3 validate, 2 left out" in said
    assert "low.png is 40x10, too small to be scored: each side must have 11 px" in said
    assert load(tmp_path / "run" / "last.pth")["step"] == 2
    with pytest.raises(StackError, match="smaller than the crops of 64x64"):
        start(words, "more", "--image_size", "64", "64")


def test_changed_data_are_noted_and_the_next_epoch_begins(options, tmp_path, monkeypatch, capsys):
    data = write_set(tmp_path / "set", [3] * 7, 32, 32)
    with monkeypatch.context() as patch:
        signal_after(patch, 4)
        start(options, "run", "--datapath", str(data))
    write_set(tmp_path / "set", [3] * 9, 32, 32)
    assert resume(tmp_path, "run") == 0
    assert "the training scenes have changed since the run stopped: continuing with epoch 3" in (
        capsys.readouterr().out
    )
    assert load(tmp_path / "run" / "last.pth")["epoch"] == 3


def test_random_scenes_of_the_seed_that_validates_are_refused(photo_options, data, capsys):
    settings = {"image_path": "photos", "depth_path": None, "seed": 3}
    (data / "dataset.json").write_text(json.dumps({"settings": settings}))
    with pytest.raises(SystemExit):
        start(photo_options, "run", "--seed", "3")
    assert "was made with --seed 3 and validates on the scenes" in capsys.readouterr().err
    assert start(photo_options, "run", "--seed", "4", "--epochs", "1") == 0


def test_a_run_on_fewer_scenes_keeps_its_log(common, tmp_path):
    data = write_set(tmp_path / "set", [3] * 8, 32, 32)
    held_out = write_set(tmp_path / "held_out", [3], 32, 32, first=20)
    words = [*common, "--datapath", str(data), "--val_datapath", str(held_out), "--log_every", "1"]
    start(words, "run", "--epochs", "2")
    before = load(tmp_path / "run" / "last.pth")["step"]
    for scene in ("scene4", "scene5", "scene6", "scene7"):
        (data / "AiF" / f"{scene}.png").unlink()
        shutil.rmtree(data / "dof_stack" / scene)
    assert resume(tmp_path, "run", "--epochs", "3") == 0
    after = load(tmp_path / "run" / "last.pth")["step"]
    lines = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "train" in line] == [*range(1, after + 1)]
    assert after - before == before // 4


def test_other_validation_scenes_begin_a_new_best(common, tmp_path, capsys):
    data = write_set(tmp_path / "set", [3] * 4, 32, 32)
    easy, hard = (write_set(tmp_path / name, [3], 32, 32, first=20) for name in ("easy", "hard"))
    for k in range(3):  # frames that are the answer
        shutil.copy(easy / "AiF" / "scene0.png", easy / "dof_stack" / "scene0" / f"{k}.png")
    words = [*common, "--datapath", str(data), "--val_datapath"]
    start([*words, str(easy)], "run", "--epochs", "1")
    first = load(tmp_path / "run" / "best.pth")
    (hard / "AiF" / "scene0.png").rename(hard / "AiF" / "other.png")
    (hard / "dof_stack" / "scene0").rename(hard / "dof_stack" / "other")
    assert resume(tmp_path, "run", "--epochs", "2", "--val_datapath", str(hard)) == 0
    assert "the validation scenes have changed since the run stopped" in capsys.readouterr().out
    best = load(tmp_path / "run" / "best.pth")
    assert best["epoch"] == 2 and best["validation"]["PSNR"] < first["validation"]["PSNR"]


def test_processes_that_load_are_chosen(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    stored = made().data
    photos = made(datapath=None, photos=["y"], val_datapath=["z"]).data
    found = [count_workers(data, cuda) for data in (stored, photos) for cuda in (False, True)]
    assert found == [0, 6, 6, 0]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert count_workers(photos, on_cuda=False) == 1
    photos = made(datapath=None, photos=["y"], val_datapath=["z"], num_workers=3).data
    assert count_workers(photos, on_cuda=True) == 3
