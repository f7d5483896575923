"""Training in several processes: as in one but for rounding, also where a process was killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from drawn import texture, write_set
from ranks import gradients_of, numbers
from torch import nn
from training import made, read

import train
from dataloader import Loaders
from network import build_network, default_config
from stackmff.images.formats import write_picture
from stackmff.training import data_sets, optimisation
from stackmff.training import run as runs
from stackmff.training.batches import EpochBatches
from tests.waiting import LATEST

ROOT = Path(train.__file__).parent
STEPS = 24  # 4 epochs of 6
SAVED = 4  # steps between checkpoints
SGD = ["--optimizer", "sgd", "--lr", "0.5"]
KILLED_AFTER = 11  # steps: the checkpoint before is of step 8, in the middle of an epoch


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """36 training stacks, so that no batch is short: 6 steps an epoch."""
    return write_set(tmp_path_factory.mktemp("set"), [2 + k % 3 for k in range(38)], 24, 24)


def options(data, folder):
    return [
        *("--datapath", str(data), "--experiments", str(folder), "--exp_name", "run"),
        *("--val_fraction", "0.05", "--global_batch", "6", "--image_size", "16", "16"),
        *("--epochs", "4", "--warmup_steps", "2", "--ema", "0.9", "--validate_every", "4"),
        *("--device", "cpu", "--precision", "fp32", "--save_steps", str(SAVED), "--freeze_norm"),
        *("--num_workers", "0", "--network_options", "widths=[4,4]", "hidden=2"),
    ]


def weights_of(folder):
    return torch.load(folder / "run" / "last.pth", weights_only=True)


def notes_of(folder, rank):
    """[(round, step, sum of the stack)] that tests/ranks.py wrote."""
    lines = (folder / f"rank{rank}.txt").read_text().splitlines()
    return [(int(a), int(b), float(c)) for a, b, c in map(str.split, lines)]


def run_alone(data, folder, more):
    """One process: the weights before and after, and the stacks that each step had, in order."""
    seen, before = [], {}
    step = train.train_step

    def noting_step(run, batch, stages):
        if not seen:
            before.update({name: v.clone() for name, v in run.network.state_dict().items()})
        seen.append(batch["stack"].double())
        return step(run, batch, stages)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train_step", noting_step)
        assert train.main([*options(data, folder), *more]) == 0
    return before, weights_of(folder), seen


def run_processes(data, folder, world, killed, dtype, more):
    """A run that torchrun starts.

    Args:
        data: the data set; folder: of the run and the notes.
        world: processes; killed: the rank that is killed after KILLED_AFTER steps, or -1.
        dtype: "float32" or "float64"; more: further options of train.py.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=1"]
    command += ["--monitor-interval=0.1", f"--nproc_per_node={world}", str(ROOT / "tests/ranks.py")]
    command += [str(folder), str(killed), str(KILLED_AFTER), dtype]
    command += [*options(data, folder), *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LATEST)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_killed_processes_go_on_as_one_process_that_was_not(data, tmp_path, world):
    """But for rounding, which training amplifies: so in float64, and without AdamW's division."""
    run_processes(data, tmp_path, world, world - 1, "float64", SGD)
    with numbers(torch.float64):
        before, checkpoint, seen = run_alone(data, tmp_path / "alone", SGD)
    for rank in range(world):
        notes = notes_of(tmp_path, rank)
        killed = [(step, total) for number, step, total in notes if number == 0]
        after = [(step, total) for number, step, total in notes if number == 1]
        assert [step for step, _ in killed] == list(range(1, KILLED_AFTER + 1))
        assert [step for step, _ in after] == list(
            range(KILLED_AFTER // SAVED * SAVED + 1, STEPS + 1)
        )
        for step, total in killed + after:
            assert total == float(seen[step - 1][rank::world].sum()), (rank, step)
    found = weights_of(tmp_path)
    assert found["step"] == checkpoint["step"] == STEPS
    moved = 0
    for name, value in checkpoint["state"]["network"].items():
        assert value.dtype in (torch.float64, torch.int64)
        difference = (found["state"]["network"][name] - value).abs().max()
        assert difference <= 1e-10, (name, float(difference))
        moved = max(moved, float((value - before[name]).abs().max()))
    assert moved > 1e-3  # far more than the bound
    if world == 2:  # statistics running, each process with one of two equal halves
        weights, gradients = torch.load(tmp_path / "gradients.pth", weights_only=True)
        with numbers(torch.float64):
            network = build_network(checkpoint["config"])
            network.load_state_dict(weights)
            both = gradients_of(network, 2)
        assert gradients.norm() > 1e-3
        assert (gradients - both).norm() < 1e-10 * both.norm()


@pytest.mark.slow
def test_killed_processes_go_on_as_if_they_were_not_killed(data, tmp_path):
    """Bit for bit, with AdamW's moments: a sum of two processes is the same in either order."""
    runs = {}
    for killed in (-1, 1):
        folder = tmp_path / str(killed)
        folder.mkdir()
        run_processes(data, folder, 2, killed, "float32", ["--optimizer", "adamw"])
        runs[killed] = weights_of(folder)
        rounds = {number for number, _, _ in notes_of(folder, 0)}
        assert rounds == ({0, 1} if killed == 1 else {0})
    whole, killed = runs[-1], runs[1]
    assert whole["step"] == killed["step"] == STEPS
    assert same(whole["network"], killed["network"])
    assert same(whole["state"], killed["state"])


def same(a, b):
    """Whether nested dicts and lists hold the same, tensors bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_norms_are_joined_on_cuda_alone(monkeypatch):
    wrapped = []
    monkeypatch.setattr(runs.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(
        optimisation, "DistributedDataParallel", lambda *words: wrapped.append(words)
    )
    for kind, joined in (("cpu", False), ("cuda", True)):
        network = build_network(default_config("StackMix"))
        names = list(network.state_dict())
        optimisation.across_processes(network, torch.device(kind))
        norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        assert norms and all(isinstance(m, nn.SyncBatchNorm) == joined for m in norms)
        assert list(network.state_dict()) == names
    assert wrapped[1][1] == [torch.device("cuda")]


def test_frozen_norms_keep_their_statistics(data, tmp_path):
    assert train.main([*options(data, tmp_path), "--epochs", "1"]) == 0
    kept = weights_of(tmp_path)["state"]["network"]
    assert all(value.eq(0).all() for name, value in kept.items() if "running_mean" in name)
    place = options(data, tmp_path).index("--freeze_norm")
    running = options(data, tmp_path / "b")
    del running[place]
    assert train.main([*running, "--epochs", "1"]) == 0
    moved = weights_of(tmp_path / "b")["state"]["network"]
    assert any(value.ne(0).any() for name, value in moved.items() if "running_mean" in name)


def test_the_order_is_one_for_any_number_of_processes():
    counts = [2 + k % 5 for k in range(47)]  # the last batch is short
    orders = {}
    for world in (1, 2, 3, 6):
        shares = [
            list(EpochBatches(counts, 12 // world, 0, True, rank=rank, world=world))
            for rank in range(world)
        ]
        orders[world] = [[key for keys in step for key in keys] for step in zip(*shares)]
    for world in (2, 3, 6):
        for step, alone in zip(orders[world], orders[1], strict=True):
            assert set(step) >= set(alone)  # what fills up the short batch comes on top
            assert len(step) == 12 and len(set(step)) == 12
    assert sum(map(len, orders[1])) == 47


def test_processes_must_find_one_checkpoint(data, tmp_path, monkeypatch):
    asked, _ = read(options(data, tmp_path))
    network = train.begin_network(asked.model, None)
    loaders = Loaders([None] * 6, None, None, "data", "val")
    run = train.build_run(asked, torch.device("cpu"), network, loaders, None)
    monkeypatch.setattr(runs.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(runs.dist, "get_world_size", lambda: 2)

    def gather(found, own):
        found[:] = [own, 8]

    monkeypatch.setattr(runs.dist, "all_gather_object", gather)
    with pytest.raises(train.StackError, match=r"at step 0 for one process and at 8 for another"):
        run.start(None)


def test_processes_share_out_the_reading_of_photographs(tmp_path, monkeypatch):
    paths = [tmp_path / f"{k}.png" for k in range(5)]
    for path in paths:
        write_picture(path, texture(16, 16, 0))
    paths[1].write_bytes(b"no picture")
    paths[3].write_bytes(b"no picture")
    shares = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(data_sets.dist, "is_initialized", lambda: True)

    def gather(found, own):
        shares.append(own)
        found[:] = [shares[0], shares[-1]]

    monkeypatch.setattr(data_sets.dist, "all_gather_object", gather)
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        fit = {"min_side": 16, "min_colour": 0.0, "min_sharpness": 0.0}
        asked = made(datapath=None, photos=[tmp_path], val_datapath=["x"], **fit)
        good, left_over = data_sets.usable_photos(asked, paths, {})
    assert shares[0] == ([paths[0], paths[2], paths[4]], [])
    assert shares[1][0] == []  # nothing of its own can be read: the others' is enough
    assert good == [paths[0], paths[2], paths[4]] and len(left_over) == 2


def test_an_uneven_share_is_refused(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(SystemExit):
        train.main(options(data, tmp_path))
    assert "cannot be shared out evenly to 4 processes" in capsys.readouterr().err


def test_a_start_again_goes_on_by_itself(data, tmp_path, monkeypatch):
    words = options(data, tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert read(words)[1] is None  # killed before a checkpoint
    assert train.main([*words, "--epochs", "1"]) == 0
    asked, checkpoint = read(words)
    assert checkpoint["step"] == 6 and asked.run.epochs == 4
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT")
    with pytest.raises(train.StackError, match="already holds a run"):
        read(words)
    asked, checkpoint = read([*words, "--resume", "auto"])
    assert checkpoint["step"] == 6 and asked.run.resume == "last"
