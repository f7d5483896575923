"""fusion/engines.py and tools/export.py: OpenVINO gives what torch gives, and only for its own checkpoint."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import draw_stack, texture

from network import build_network, default_config
from stackmff.errors import StackError
from stackmff.fusion.engines import (
    OpenVinoEngine,
    TorchEngine,
    choose_engine,
    export_of,
    extended,
    torch_engine,
    weigh,
)
from stackmff.fusion.fuse import fuse_stack
from stackmff.images.formats import write_picture
from stackmff.machine import select_device
from stackmff.shipped import WEIGHTS
from tools import export


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small StackMix with batch norms that do something, and its export."""
    torch.manual_seed(1)
    config = {"network": "StackMix", "widths": (8, 8, 8), "hidden": 4, "window": 3}
    network = build_network(config)
    for module in network.modules():
        if hasattr(module, "running_mean"):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save({"config": network.config, "network": network.state_dict()}, path)
    assert export.export(path) < 1e-4
    return path


def stack_of(n_frames, height, width):
    return np.stack(draw_stack(texture(height, width, 3), n_frames))


@pytest.mark.parametrize("shape", [(1, 20, 30), (2, 64, 96), (7, 100, 70)])
def test_openvino_fuses_as_torch_does(exported, shape):
    frames = stack_of(*shape)
    wanted = fuse_stack(frames, torch_engine(exported, "cpu"))
    engine = OpenVinoEngine(export_of(exported), "fp32")
    fused = fuse_stack(frames, engine)
    assert np.abs(fused.picture.astype(int) - wanted.picture).max() <= 1  # rounding
    assert np.abs(fused.confidence.astype(int) - wanted.confidence).max() <= 1
    assert engine.seconds > 0


@pytest.mark.parametrize("size", [(64, 96), (50, 70), (33, 95), (20, 40)])
def test_what_fills_a_tile_up_is_what_torch_fills_it_up_with(exported, size):
    """Up to the borders, where other pixels beyond would change the weights by far more."""
    frames = stack_of(3, *size)
    wanted = weigh(torch_engine(exported, "cpu"), frames)
    found = weigh(OpenVinoEngine(export_of(exported), "fp32"), frames)
    assert found.shape == wanted.shape == (3, *size)
    np.testing.assert_allclose(found, wanted, atol=1e-4)  # the bound of export.py


def test_a_tile_is_mirrored_at_its_last_row_and_column():
    planes = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    whole = extended(planes, (5, 6))
    np.testing.assert_array_equal(whole, planes[:, [0, 1, 2, 1, 0]][..., [0, 1, 2, 3, 2, 1]])
    assert extended(planes, (3, 4)) is planes


def test_tiles_run_side_by_side_as_one_after_the_other(exported):
    frames = stack_of(3, 300, 340)
    engine = OpenVinoEngine(export_of(exported), "fp32")
    pictures = []
    for engine.cores in (1, 3):
        pictures.append(fuse_stack(frames, engine, tile=160, overlap=64).picture)
        assert len(engine.compiled) == len(pictures)
    np.testing.assert_array_equal(*pictures)


def test_few_compiled_networks_are_kept(exported):
    engine = OpenVinoEngine(export_of(exported), "fp32")
    for n_frames in range(2, 9):
        fuse_stack(stack_of(n_frames, 32, 32), engine)
    assert len(engine.compiled) <= 4


def test_the_precision_follows_the_processor(exported):
    engine = OpenVinoEngine(export_of(exported))
    engine.load()
    assert engine.precision in ("bf16", "fp32")


def test_the_shipped_export_belongs_to_the_shipped_weights():
    assert export_of(WEIGHTS) is not None
    frames = stack_of(5, 128, 160)
    wanted = fuse_stack(frames, torch_engine(WEIGHTS, "cpu")).picture.astype(float)
    for precision, most in (("fp32", 0.02), ("auto", 0.25)):
        fused = fuse_stack(frames, OpenVinoEngine(export_of(WEIGHTS), precision)).picture
        assert np.abs(fused - wanted).mean() < most
        assert (np.abs(fused - wanted) > 1).mean() < 0.005


def test_the_choice(exported, tmp_path, monkeypatch):
    monkeypatch.setattr("stackmff.machine.may_have_gpu", lambda: False)
    assert isinstance(choose_engine(exported), OpenVinoEngine)
    assert isinstance(choose_engine(exported, "cpu"), OpenVinoEngine)
    assert isinstance(choose_engine(exported, engine="torch"), TorchEngine)
    monkeypatch.setattr(
        "stackmff.machine.may_have_gpu", lambda: True
    )  # which torch may not be built for
    gpu = select_device("auto").type != "cpu"
    assert isinstance(choose_engine(exported, "auto"), TorchEngine if gpu else OpenVinoEngine)
    monkeypatch.setattr("stackmff.fusion.engines.finds_gpu", lambda: True)
    assert isinstance(choose_engine(exported, "auto"), TorchEngine)
    assert isinstance(choose_engine(exported, "auto", "openvino"), OpenVinoEngine)
    with pytest.raises(StackError, match="runs on the CPU, not on cuda"):
        choose_engine(exported, "cuda", "openvino")


def test_an_export_of_other_weights_is_not_used(exported, tmp_path):
    for path in exported.parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    copy = tmp_path / exported.name
    assert export_of(copy)
    for name in ("small.pth", "small.bin", "small.xml"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert export_of(copy) is None
        (tmp_path / name).write_bytes(whole)
    (tmp_path / "small.json").write_text("[]")
    assert export_of(copy) is None
    with pytest.raises(
        StackError, match=r"has no export that belongs to it: make one with python -m tools.export"
    ):
        choose_engine(copy, "cpu", "openvino")
    assert isinstance(choose_engine(copy, "cpu"), TorchEngine)


def test_what_is_not_exported(tmp_path):
    network = build_network(default_config("StackMFF"))
    path = tmp_path / "luma.pth"
    torch.save({"config": network.config, "network": network.state_dict()}, path)
    with pytest.raises(StackError, match="only StackMix is exported"):
        export.export(path)
    assert [p.name for p in tmp_path.iterdir()] == ["luma.pth"]


def test_a_broken_export_is_named(tmp_path):
    (tmp_path / "x.xml").write_text("<net")
    with pytest.raises(StackError, match=r"x.xml is not an exported network"):
        OpenVinoEngine(tmp_path / "x.xml").load()


def test_the_command_says_how_near_it_is(exported, capsys):
    export.main(["--model_path", str(exported)])
    assert "small.xml: weights within" in capsys.readouterr().out
    names = {path.name for path in exported.parent.iterdir()}
    assert names == {"small.pth", "small.xml", "small.bin", "small.json"}
    assert set(json.loads(exported.with_suffix(".json").read_text())) == names - {"small.json"}


def test_predict_does_not_import_torch(exported, tmp_path):
    for k, frame in enumerate(stack_of(3, 40, 50)):
        write_picture(tmp_path / "stack" / f"{k}.png", frame)
    words = ["--stack_path", tmp_path / "stack", "--output", tmp_path / "out.png"]
    words += ["--model_path", exported, "--device", "cpu"]
    code = (
        "import sys, predict; predict.main(sys.argv[1:]); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'skimage', 'scipy')))"
    )
    house = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], cwd=house)
    assert done.returncode == 0 and (tmp_path / "out.png").is_file()
