"""train.py and its options and runs: a stopped run goes on as if it had not; what a run leaves."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from calling import holding
from drawn import write_set
from torch import nn
from training import load, made, read, resume, signal_after, start, without

import loss
import train
from dataloader import Loaders, ValidationStacks, batches, make_loader
from network import build_network, default_config, load_network, run_network
from stackmff.display.drawing import training_panel
from stackmff.errors import StackError
from stackmff.evaluation.metrics import METRICS, score
from stackmff.images.formats import read_picture
from stackmff.options import changed, values_of
from stackmff.training import log, optimisation
from stackmff.training.batches import split_pairs
from stackmff.training.command_line import BEFORE, resumed_values
from stackmff.training.data_sets import find_pairs
from stackmff.training.picture_store import PictureStore
from tests.waiting import LATEST

ROOT = Path(train.__file__).parent


def assert_equal(one, other, where=""):
    """Nested dicts, lists and tensors agree bit for bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other)):
            assert_equal(*pair, f"{where}/{i}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@pytest.mark.parametrize(
    ("data_of", "stops"),
    [("options", (4,)), ("options", (3,)), ("options", (2, 5)), ("photo_options", (4,))],
    ids=["in an epoch", "at its end", "twice", "random scenes"],
)
def test_a_resumed_run_equals_one_that_did_not_stop(request, tmp_path, monkeypatch, data_of, stops):
    options = request.getfixturevalue(data_of)
    assert start(options, "whole") == 0
    for number, stop in enumerate(stops):
        with monkeypatch.context() as patch:
            signal_after(patch, stop)
            again = resume(tmp_path, "parts") if number else start(options, "parts")
        assert again == 130
        assert load(tmp_path / "parts" / "last.pth")["step"] == stop
    torch.rand(7)  # what happens between the parts must not matter
    assert resume(tmp_path, "parts") == 0
    whole, parts = (load(tmp_path / name / "last.pth") for name in ("whole", "parts"))
    for checkpoint in (whole, parts):
        for name in ("exp_name", "resume", "device"):
            del checkpoint["args"][name]
    assert_equal(whole, parts)
    assert whole["step"] == 9 and whole["epoch"] == 3
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    for lines in logs:
        for line in lines:
            for name in ("megapixel_frames_per_second", "samples_per_second"):
                line.get("train", {}).pop(name, None)
    assert logs[0] == logs[1]
    best = [load(tmp_path / name / "best.pth") for name in ("whole", "parts")]
    assert_equal(best[0]["network"], best[1]["network"])


def test_a_global_batch_goes_on_as_it_began(options, tmp_path, monkeypatch):
    signal_after(monkeypatch, 2)
    assert start(without(options, "--batch_size"), "run", "--global_batch", "3") == 130
    for _ in range(2):
        resume(tmp_path, "run", "--global_batch", "3")
    assert load(tmp_path / "run" / "last.pth")["args"]["batch_size"] == 3


def test_signals_save_and_set_the_exit_status(options, tmp_path, monkeypatch, capsys):
    handler = signal.getsignal(signal.SIGINT)
    signal_after(monkeypatch, 2, signal.SIGTERM)
    assert start(options, "run") == 143
    assert load(tmp_path / "run" / "last.pth")["state"]["step_in_epoch"] == 2
    assert "stopped in epoch 1 after 2 steps" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is handler


def test_time_up_saves_a_usable_network(options, tmp_path):
    assert start(options, "run", "--max_minutes", "1e-9") == 0
    assert load(tmp_path / "run" / "last.pth")["step"] == 1
    config = load_network(tmp_path / "run" / "best.pth").config
    assert config == default_config("StackMix") | {"widths": (4, 4)}
    assert resume(tmp_path, "run") == 0
    assert load(tmp_path / "run" / "last.pth")["step"] == 9


def test_what_a_run_leaves_behind(options, tmp_path, data):
    assert start(options, "run", "--save_every", "2") == 0
    folder = tmp_path / "run"
    names = sorted(path.name for path in folder.iterdir())
    assert [name for name in names if "tfevents" not in name] == [
        *(
            ".lock",
            "args.json",
            "best.pth",
            "curves.png",
            "epoch_0002.pth",
            "last.pth",
            "log.jsonl",
        ),
        "previous.pth",
    ]
    assert any("tfevents" in name for name in names)
    record = json.loads((folder / "args.json").read_text())
    assert record["args"]["batch_size"] == 2 and "torch" in record["versions"]

    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "train" in line]
    scores = [line["validation"] for line in lines if "validation" in line]
    assert steps == list(range(1, 10)) and len(scores) == 3
    assert all(set(METRICS) < set(row) for row in scores)
    assert {"loss", "lr", "l1", "ssim", "laplacian"} <= set(lines[0]["train"])

    best = load(folder / "best.pth")
    assert set(best) == {"config", "network", "args", "versions", "epoch", "step", "validation"}
    assert best["validation"]["PSNR"] == max(row["PSNR"] for row in scores)
    pairs, _ = find_pairs(data)
    held_out = split_pairs(pairs, 0.3, 0)[1]
    network = load_network(folder / "best.pth")
    loader = make_loader(
        ValidationStacks(PictureStore(pairs, colour=True), held_out, (64, 64)),
        *(0, False),
        indices=range(2),
    )
    found = []
    for batch in batches(loader):
        with torch.no_grad():
            fused = run_network(network, batch["stack"])["fused"]
        planes = fused[0], batch["answer"][0]
        found.append(score(*(part.movedim(0, -1).numpy() for part in planes), 1.0)["PSNR"])
    assert np.mean(found) == pytest.approx(best["validation"]["PSNR"], abs=1e-4)


def test_a_preset_trains_on_random_scenes_and_resumes(photo_options, tmp_path):
    begun = [*photo_options, "--preset", "published", "--network", "StackMix", "--epochs", "1"]
    assert start(begun, "run") == 0
    assert load(tmp_path / "run" / "last.pth")["args"]["fit"] == "resize"
    assert resume(tmp_path, "run", "--epochs", "2") == 0
    assert load(tmp_path / "run" / "last.pth")["step"] == 6


def test_runs_from_before_an_option_resume(options, tmp_path):
    assert start(options, "run", "--epochs", "1") == 0
    path = tmp_path / "run" / "last.pth"
    checkpoint = load(path)
    for name in ("photos", "scenes_per_epoch", *BEFORE):
        del checkpoint["args"][name]
    torch.save(checkpoint, path)
    assert resume(tmp_path, "run", "--epochs", "2") == 0
    resumed = load(path)
    assert resumed["step"] == 6
    assert {name: resumed["args"][name] for name in BEFORE} == BEFORE


def test_options_of_older_versions_are_understood():
    """Lists and None where there are tuples and defaults now; an option that has gone."""
    stored = {
        **{"network": "StackMix", "network_options": [], "image_size": [64, 48], "min_side": None},
        **{"min_sharpness": None, "datapath": ["a", "b"], "photos": None, "gone": 3, "seed": 5},
        **{"loss_weights": ["l1=1.0"], "batch_size": 2, "global_batch": None, "device": "cuda"},
        **{"resume": None, "experiments": "elsewhere", "exp_name": "old", "preset": None},
    }
    values, wrong = resumed_values(stored, {"exp_name": "x", "epochs": 3})
    assert wrong is None
    values.pop("gone")
    assert changed(made(), **values) == made(
        image_size=[64, 48],
        datapath=["a", "b"],
        seed=5,
        loss_weights=["l1=1.0"],
        batch_size=2,
        epochs=3,
        resume="last",
        **BEFORE,
    )
    for name, value in (("seed", 6), ("image_size", [64, 64]), ("repeat", 2)):
        _, wrong = resumed_values(stored, {"exp_name": "x", name: value})
        assert f"--{name} is" in wrong and "cannot change when the run is resumed" in wrong


def test_options_that_fit_no_network_are_told(options):
    with pytest.raises(StackError, match="chroma one from 0"):
        start(options, "run", "--network_options", 'chroma="x"')


def test_the_speed_counts_pixels_of_frames_and_no_planes():
    means = log.Means()
    means.add({"lr": 1}, torch.zeros(2, 3, 4, 8, 8))
    values = means.values()
    ratio = values["megapixel_frames_per_second"] / values["samples_per_second"]
    assert ratio == pytest.approx(4 * 8 * 8 / 1e6)


def test_runs_from_before_colour_resume_on_the_luma(options, tmp_path):
    begun = [*options, "--network_options", "chroma=0", "--epochs", "1"]
    assert start(begun, "run") == 0
    path = tmp_path / "run" / "last.pth"
    checkpoint = load(path)
    del checkpoint["config"]["chroma"]
    checkpoint["args"]["network_options"] = []
    torch.save(checkpoint, path)
    assert resume(tmp_path, "run", "--epochs", "2") == 0
    resumed = load(path)
    assert resumed["step"] == 6 and resumed["config"]["chroma"] == 0
    assert not any("chroma" in name for name in resumed["network"])


def test_training_helps(options, tmp_path):
    # Patches as large as the stacks, and a rate whose result rounding errors do not sway.
    more = ["--epochs", "25", "--decay_fraction", "0.2", "--lr", "2e-3", "--validate_every", "25"]
    more += ["--image_size", "32", "32", "--network_options", "widths=[8,8]"]
    assert start(without(options, "--network_options"), "run", *more) == 0
    line = (tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1]
    assert json.loads(line)["validation"]["PSNR"] > 26  # it begins with the frames' mean: 22.0


def test_the_published_preset(data, tmp_path):
    name = ["--exp_name", "p", "--experiments", str(tmp_path), "--datapath", str(data)]
    options, _ = read([*name, "--preset", "published"])
    expected = {"network": "StackMFF", "optimizer": "sgd", "lr": 5e-3, "weight_decay": 1e-4}
    expected |= {"gamma": 0.9, "epochs": 20, "batch_size": 16, "image_size": [384, 384]}
    expected |= {"fit": "resize", "frames": "shuffled", "val_fraction": 0.2, "split": "name"}
    assert expected.items() <= values_of(options).items()
    weights = options.optimisation.loss_weights
    assert loss.parse_loss_weights(weights) == loss.PUBLISHED_WEIGHTS
    assert read([*name, "--preset", "published", "--flips", "--lr", "1"])[0] == changed(
        options, flips=True, lr=1.0
    )
    small = ["--image_size", "16", "16", "--batch_size", "4", "--epochs", "1"]
    assert train.main([*name, "--preset", "published", *small]) == 0
    checkpoint = load(tmp_path / "p" / "best.pth")
    assert checkpoint["config"] == {"network": "StackMFF"}
    assert checkpoint["args"]["lr"] == 5e-3
    optimizer = optimisation.build_optimizer(nn.Linear(2, 2), options.optimisation)
    assert isinstance(optimizer, torch.optim.SGD) and optimizer.defaults["momentum"] == 0.9


def test_init_begins_with_the_weights_of_a_checkpoint(options, tmp_path):
    assert start(options, "first", "--epochs", "1") == 0
    best = tmp_path / "first" / "best.pth"
    small = ["--epochs", "1", "--lr", "1e-12"]
    assert start(options, "second", "--init", str(best), *small) == 0
    first, second = load(best), load(tmp_path / "second" / "last.pth")
    assert second["step"] == 3
    name = "head.weight"
    assert torch.allclose(first["network"][name], second["network"][name], atol=1e-8)
    with pytest.raises(StackError, match="the options ask for"):
        start(options, "third", "--init", str(best), "--network_options", "hidden=4")


def test_init_takes_weights_of_a_network_of_other_widths(options, tmp_path):
    small = ["--network_options", "widths=[4,4]", "hidden=2", "--epochs", "1"]
    assert start(options, "first", *small) == 0
    assert start(options, "second", *small, "--init", str(tmp_path / "first" / "best.pth")) == 0


def test_a_loss_that_is_not_finite_names_the_samples(options, tmp_path, monkeypatch):
    monkeypatch.setitem(loss.TERMS, "l1", lambda output, _: output["fused"].sum() * float("nan"))
    with pytest.raises(StackError, match=r"loss is nan .* at step 1, scenes scene\d[,:]"):
        start(options, "run")
    assert not (tmp_path / "run" / "last.pth").exists()


def test_a_gradient_that_is_not_finite_stops_before_its_step(options, monkeypatch):
    monkeypatch.setitem(loss.TERMS, "l1", lambda output, _: (output["fused"] * 0).sum().sqrt())
    with pytest.raises(StackError, match="its gradient nan at step 1"):
        start(options, "run")


def test_runs_are_neither_overwritten_nor_invented(options, tmp_path, capsys):
    with pytest.raises(StackError, match="does not exist: start the run without --resume"):
        resume(tmp_path, "run")
    assert start(options, "run", "--epochs", "1") == 0
    with pytest.raises(StackError, match="already holds a run: continue it with --resume"):
        start(options, "run")
    for other in (["--batch_size", "3"], ["--network", "StackMFF"], ["--seed", "1"]):
        with pytest.raises(SystemExit) as caught:
            resume(tmp_path, "run", *other)
        assert caught.value.code == 2
        assert f"{other[0]} is" in capsys.readouterr().err
    assert resume(tmp_path, "run") == 0
    assert "all 1 epochs are done" in capsys.readouterr().out
    assert resume(tmp_path, "run", "--epochs", "2") == 0
    assert load(tmp_path / "run" / "last.pth")["step"] == 6
    with pytest.raises(StackError, match="holds no state of a run"):
        (tmp_path / "run" / "last.pth").write_bytes((tmp_path / "run" / "best.pth").read_bytes())
        resume(tmp_path, "run")


def test_a_second_training_of_one_name_is_refused(options, tmp_path):
    with holding(tmp_path / "run"):
        with pytest.raises(StackError, match="wait for that run, or choose another --exp_name"):
            start(options, "run")
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


@pytest.mark.parametrize("damage", ["half", "zeros", "gone"])
def test_a_damaged_state_falls_back_to_the_one_before(options, tmp_path, capsys, damage):
    assert start(options, "run", "--epochs", "2") == 0
    last, previous = tmp_path / "run" / "last.pth", tmp_path / "run" / "previous.pth"
    assert [load(path)["step"] for path in (previous, last)] == [3, 6]
    whole = last.read_bytes()
    middle = len(whole) // 2
    if damage == "gone":
        last.unlink()
    else:
        rest = whole[middle + 4096 :] if damage == "zeros" else b""
        last.write_bytes(whole[:middle] + bytes(4096) * bool(rest) + rest)
    with pytest.raises(StackError, match="already holds a run"):
        start(options, "run")
    before = previous.read_bytes()
    assert resume(tmp_path, "run", "--max_minutes", "1e-9") == 0
    told = r"last\.pth is damaged or missing: continuing from previous\.pth, which is older"
    assert re.search(told, capsys.readouterr().out)
    # The damaged one does not take the place of the good one.
    assert previous.read_bytes() == before and load(last)["step"] == 4
    assert resume(tmp_path, "run") == 0
    assert load(last)["step"] == 6
    (tmp_path / "undisturbed.pth").write_bytes(whole)
    found = load(last)["network"]
    for name, tensor in load(tmp_path / "undisturbed.pth")["network"].items():
        assert torch.equal(tensor, found[name]), name
    previous.unlink()
    last.write_bytes(whole[:middle])
    with pytest.raises(StackError, match="is truncated or damaged"):
        resume(tmp_path, "run")


def test_a_full_disk_leaves_the_last_checkpoint(options, tmp_path):
    asked, _ = read([*options, "--exp_name", "run"])
    network = train.begin_network(asked.model, None)
    loaders = Loaders([None] * 3, None, None, "data", "val")
    run = train.build_run(asked, torch.device("cpu"), network, loaders, None)
    run.save("last.pth", resumable=True)
    before = (tmp_path / "run" / "last.pth").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    run.step = 5
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
        with pytest.raises(StackError, match=r"last\.pth cannot be written .*free space"):
            run.save("last.pth", resumable=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["last.pth"]
    assert (tmp_path / "run" / "last.pth").read_bytes() == before


def test_a_run_folder_that_cannot_be_made(options, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StackError, match="run cannot be created"):
        start(options, "run", "--experiments", str(tmp_path / "file"))


def test_a_log_that_was_cut_short_goes_on(options, tmp_path):
    assert start(options, "run", "--epochs", "1") == 0
    path = tmp_path / "run" / "log.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"epoch": 1, "step": 4, "train": {}}\n{"epoch": 1, "st')
    assert resume(tmp_path, "run", "--epochs", "2") == 0
    text = path.read_text()
    assert text.startswith(whole)
    assert [json.loads(line)["step"] for line in text[len(whole) :].splitlines()] == [4, 5, 6, 6, 6]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "--datapath is required, the folder that make_dataset.py wrote, or --photos"),
        (["--datapath", "x", "--photos", "y"], "give one of them"),
        (["--photos", "x", "--val_datapath", "y"], "--photos x is not a folder"),
        (["--datapath", "x", "--val_datapath", "y", "--split", "name"], "remove one of them"),
        (["--photos", "x"], "--photos needs --val_datapath"),
        (["--photos", "x", "--val_datapath", "y", "--repeat", "2"], "--repeat is for --datapath"),
        (["--photos", "x", "--val_datapath", "y", "--fit", "resize"], "--fit is for --datapath"),
        (["--datapath", "x", "--scenes_per_epoch", "9"], "--scenes_per_epoch is for --photos"),
        (["--datapath", "x", "--depth_path", "y"], "--depth_path is for --photos"),
        (["--datapath", "x", "--min_side", "9"], "--min_side is for --photos"),
        (
            ["--photos", "x", "--val_datapath", "y", "--max_coc", "9"],
            "--max_coc is for --depth_path",
        ),
        (
            ["--photos", "x", "y", "--val_datapath", "z", "--depth_path", "w"],
            "--depth_path goes with one folder of --photos",
        ),
        (
            ["--photos", "x", "--val_datapath", "z", "--depth_path", "nowhere"],
            "--depth_path nowhere is not a folder",
        ),
        (["--photos", "x", "--val_datapath", "y", "--scenes_per_epoch", "0"], "at least 1"),
        (["--datapath", "x", "--loss_weights", "1", "2"], "2 loss weights without names"),
        (
            ["--datapath", "x", "--network", "StackMFF", "--loss_weights", "cross_entropy=1"],
            "StackMFF outputs luma",
        ),
        (["--datapath", "x", "--lr", "0"], "0 must be above 0"),
        (["--datapath", "x", "--batch_size", "two"], "'two' is not a whole number"),
        (["--datapath", "x", "--batch_size", "2", "--global_batch", "4"], "how large a batch is"),
        (["--datapath", "x", "--val_fraction", "1"], "must be below 1"),
        (["--datapath", "x", "--network_options", "size=3"], "is not NAME=VALUE with a name of"),
        (["--datapath", "x", "--network_options", "hidden=x"], "hidden='x' is not a JSON value"),
        (["--datapath", "x", "--fit", "resize", "--image_size", "8", "16"], "square --image_size"),
        (["--datapath", "x", "--network", "StackMFF", "--fringes", "0.1"], "does not see: remove"),
        (["--datapath", "x", "--resume", "--init", "y"], "give only one of them"),
        (["--resume", "--preset", "published"], "give only one of them"),
        (["--datapath", "x", "--val_size", "8", "64"], "8 must be at least 11"),
        (["--datapath", "x", "--exp_name", ""], "is not a folder name"),
    ],
)
def test_contradictions_end_at_the_parser(words, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        train.main(["--exp_name", "x", "--experiments", str(tmp_path), *words])
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


def test_precision_is_measured_or_taken_as_told(options):
    network = build_network(default_config("StackMix"))
    asked, _ = read([*options, "--exp_name", "x", "--precision", "auto"])
    cpu = torch.device("cpu")
    assert train.choose_precision(network, asked, cpu) in ("fp32", "bf16")
    asked = changed(asked, precision="bf16")
    assert train.choose_precision(network, asked, cpu) == "bf16"
    with pytest.raises(StackError, match="mps has no bf16 arithmetic"):
        train.choose_precision(network, asked, torch.device("mps"))


def test_fp16_scales_its_loss_and_leaves_out_what_overflows(options, tmp_path, monkeypatch):
    def too_large(device, precision):
        return torch.amp.GradScaler("cpu", init_scale=2.0**100)

    with monkeypatch.context() as patch:
        patch.setattr(train, "loss_scaler", too_large)
        signal_after(patch, 4)
        assert start(options, "run", "--precision", "fp16") == 130
    stopped = load(tmp_path / "run" / "last.pth")["state"]
    assert stopped["scaler"]["scale"] == 2.0**96 and not stopped["optimizer"]["state"]
    assert resume(tmp_path, "run", "--epochs", "4") == 0
    final = load(tmp_path / "run" / "last.pth")["state"]
    assert final["scaler"]["scale"] == 2.0**88  # the scale went on from where it was
    assert start(options, "new", "--precision", "fp16", "--epochs", "1") == 0
    new = load(tmp_path / "new" / "last.pth")["state"]
    assert new["optimizer"]["state"] and new["scaler"]["scale"] <= 2.0**16
    lines = (tmp_path / "new" / "log.jsonl").read_text()
    assert "NaN" not in lines and "Infinity" not in lines


def test_deterministic_operations_are_for_the_run_alone(options, monkeypatch):
    seen = []
    step = train.train_step

    def look(*args):
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark))
        return step(*args)

    monkeypatch.setattr(train, "train_step", look)
    assert start(options, "run", "--epochs", "1", "--deterministic") == 0
    assert set(seen) == {(True, False)}
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_config_repeats_a_run(options, tmp_path):
    assert start(options, "first", "--epochs", "1", "--lr", "1e-3") == 0
    config = ["--config", str(tmp_path / "first" / "args.json"), "--experiments", str(tmp_path)]
    assert train.main([*config, "--exp_name", "second", "--device", "cpu"]) == 0
    first, second = (load(tmp_path / name / "last.pth") for name in ("first", "second"))
    assert_equal(first["state"], second["state"])
    third, _ = read([*config, "--exp_name", "third", "--lr", "5e-4"])
    assert third.optimisation.lr == 5e-4 and third.samples.image_size == (16, 16)
    with pytest.raises(StackError, match="first already holds a run"):
        read(config)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "args.json cannot be read"),
        ('{"lr": 1}', 'has no "args": give the args.json of a run'),
        ('{"args": {"batchsize": 3}}', "batchsize is not an option: did you mean batch_size"),
        ('{"args": {"batch_size": 0}}', "--batch_size 0 must be at least 1"),
    ],
)
def test_what_is_no_config(options, tmp_path, content, sentence, capsys):
    (tmp_path / "args.json").write_text(content)
    words = without(options, "--batch_size")
    with pytest.raises((StackError, SystemExit)) as caught:
        read([*words, "--exp_name", "x", "--config", tmp_path / "args.json"])
    assert sentence in f"{caught.value}{capsys.readouterr().err}"


def test_a_gpu_of_one_process_is_refused_for_two(options, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(StackError, match="is one GPU for 2 processes"):
        start(options, "run", "--device", "cuda:3")


@pytest.mark.slow
def test_two_processes_train_together_and_save_one_checkpoint(options, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", str(ROOT / "train.py"), *options, "--exp_name", "run"]
    command += ["--epochs", "2", "--batch_size", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LATEST)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 2 step 6: PSNR") == 1
    assert sorted(path.name for path in (tmp_path / "run").glob("*.pth")) == [
        "best.pth",
        "last.pth",
        "previous.pth",
    ]
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train" in line] == list(range(1, 7))
    assert load_network(tmp_path / "run" / "best.pth").config["network"] == "StackMix"
    assert load(tmp_path / "run" / "last.pth")["step"] == 6


def test_a_panel_shows_frames_above_and_results_below():
    stack = np.linspace(0, 1, 12 * 6 * 5, dtype=np.float32).reshape(12, 6, 5)
    weights = np.zeros_like(stack)
    weights[-1] = 1
    panel = training_panel(stack, stack[0], stack[1], weights, most_frames=4)
    assert panel.shape == (12, 20, 3) and panel.dtype == np.uint8
    np.testing.assert_array_equal(panel[:6, :5, 0], np.round(stack[0] * 255))
    np.testing.assert_array_equal(panel[:6, 15:, 0], np.round(stack[-1] * 255))
    np.testing.assert_array_equal(panel[6:, 5:10, 1], np.round(stack[1] * 255))
    red, green, blue = panel[6:, 15:].reshape(-1, 3).T.astype(int)
    assert (red > 200).all() and (green > 200).all() and (blue < 100).all()  # the last: yellow
    assert training_panel(stack, stack[0], stack[1]).shape == (12, 40, 3)


def scalars(folder):
    """{tag: [(step, value)]} of the TensorBoard events of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def test_what_a_researcher_looks_at(options, tmp_path, capsys):
    held_out = write_set(tmp_path / "held out", [3, 4, 3], 32, 32, first=20)
    place = options.index("--val_fraction")
    words = options[:place] + options[place + 2 :] + ["--val_datapath", str(held_out)]
    assert start(words, "run", "--epochs", "2", "--validate_every", "2") == 0
    found = scalars(tmp_path / "run")
    training = {f"train/{name}" for name in ("loss", "l1", "ssim", "lr", "gradient_norm")}
    assert training | {"train/samples_per_second"} <= set(found)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    whole = next(line["validation"] for line in lines if "validation" in line)
    by_n = next(line["validation_by_n"] for line in lines if "validation_by_n" in line)
    assert list(by_n) == ["PSNR/3", "PSNR/4", "SSIM/3", "SSIM/4"]
    for name in ("PSNR", "SSIM"):
        mean = (2 * by_n[f"{name}/3"] + by_n[f"{name}/4"]) / 3
        assert mean == pytest.approx(whole[name])
        assert found[f"validation_by_n/{name}/4"] == [(8, pytest.approx(by_n[f"{name}/4"]))]
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line.startswith("epoch 1 step 4: training loss")]
    last = next(line for line in said if line.startswith("epoch 2 step 8: PSNR"))
    assert "(best); training loss" in last and last.endswith("samples/s")
    assert read_picture(tmp_path / "run" / "curves.png").shape[2] == 3


def test_a_run_of_few_steps_logs_each_epoch(options, tmp_path):
    """3 epochs of 3 steps, and 50 steps between lines."""
    assert start(options, "run", "--log_every", "50") == 0
    assert start(options, "each") == 0
    few, each = (
        [
            (line["step"], line["train"]["loss"])
            for line in map(json.loads, (tmp_path / name / "log.jsonl").read_text().splitlines())
            if "train" in line
        ]
        for name in ("run", "each")
    )
    assert [step for step, _ in few] == [3, 6, 9]
    losses = [loss for _, loss in each]
    for k, (_, mean) in enumerate(few):
        assert mean == pytest.approx(np.mean(losses[3 * k : 3 * k + 3]), rel=1e-5)


def test_means_are_those_of_all_processes(monkeypatch):
    monkeypatch.setattr(log, "gathered", lambda own: [own, {**own, "loss": 5.0}])
    means = log.Means()
    for value in (1.0, 2.0):
        means.add({"lr": 0.1, "loss": value}, torch.zeros(2, 1, 3, 8, 8))
    assert means.values()["loss"] == (1.5 + 5) / 2


@pytest.mark.parametrize(
    ("epochs", "every", "shown"),
    [(3, 1, 3), (60, 1, 10), (60, 7, 9), (1, 1, 1)],
)
def test_pictures_of_a_long_run_do_not_fill_the_disk(epochs, every, shown):
    options = made(epochs=epochs, validate_every=every)
    validated = [e for e in range(1, epochs + 1) if e % every == 0 or e == epochs]
    shows = [train.shows_panels(SimpleNamespace(options=options, epoch=e)) for e in validated]
    assert sum(shows) == shown and shows[-1]


@pytest.mark.parametrize("words", [["--dry_run"], ["--profile", "2"]], ids=["dry run", "profile"])
@pytest.mark.parametrize("data_of", ["options", "photo_options"])
def test_a_rehearsal_leaves_nothing_behind(request, tmp_path, capsys, words, data_of):
    options = [*request.getfixturevalue(data_of), "--num_workers", "0"]
    before = sorted(tmp_path.rglob("*"))
    assert start(options, "run", *words) == 0
    assert sorted(tmp_path.rglob("*")) == before
    said = capsys.readouterr().out
    if words == ["--dry_run"]:
        assert "a step; PSNR" in said and "nothing is left behind" in said
        assert ("5 training stacks read, 0 unfit" in said) == (data_of == "options")
    else:
        stages = {line.split()[0] for line in said.splitlines() if line.endswith("%")}
        first = "load" if data_of == "options" else "synthesis"
        wanted = {first, "copy", "forward", "loss", "backward", "optimizer", "average"}
        assert stages == wanted | {"between", "all"}
        assert "2 steps, " in said.splitlines()[-1]


def test_a_dry_run_names_what_is_broken(options, tmp_path, data, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(data, broken)
    for k in range(7):  # whichever train
        (broken / "dof_stack" / f"scene{k}" / "1.png").write_bytes(b"no picture")
    held_out = write_set(tmp_path / "held out", [3], 32, 32, first=20)
    good = ["--val_datapath", str(held_out), "--datapath", str(broken)]
    place = options.index("--val_fraction")
    words = options[:place] + options[place + 2 :]
    with pytest.raises(StackError, match="is not a picture"):  # of its step
        start(words, "run", *good, "--dry_run")
    for k in range(1, 7):
        shutil.copy(data / "dof_stack" / f"scene{k}" / "1.png", broken / "dof_stack" / f"scene{k}")
    assert start(words, "run", *good, "--dry_run") == 1  # scene 0 is not in its step
    said = capsys.readouterr().out
    assert "7 training stacks read, 1 unfit" in said
    assert "cannot be used:" in said and "scene0/1.png is not a picture" in said
