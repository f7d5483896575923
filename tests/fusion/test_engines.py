"""fusion/engines.py, tools/export.py: OpenVINO gives what torch gives, for its own checkpoint."""

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
from stackmff.fusion.coarse_level import guide_export
from stackmff.fusion.compiled import CompiledNetworks
from stackmff.fusion.engine_choice import (
    choose_engine,
    export_of,
    openvino_engine,
    told_of_export,
    torch_engine,
)
from stackmff.fusion.engines import OpenVinoEngine, TorchEngine, extended
from stackmff.fusion.fuse import frame_weights, fuse_stack, get_ready, origin_at
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


def guided_network(path, widths=(8, 8, 8)):
    """A PyramidMix whose levels and the layers between them all count, in a file."""
    torch.manual_seed(1)
    config = {"network": "PyramidMix", "widths": widths, "hidden": 4, "window": 3, "guide": 8}
    network = build_network(config)
    for layer in (network.detail_stem, network.guide_out, network.gate):
        torch.nn.init.normal_(layer.weight, std=0.1)
    for level in (network.coarse, network.fine):
        torch.nn.init.normal_(level.head.weight, std=0.2)
    torch.save({"config": network.config, "network": network.state_dict()}, path)


@pytest.fixture(scope="module")
def guided(tmp_path_factory):
    """A small PyramidMix and its export."""
    path = tmp_path_factory.mktemp("guided") / "small.pth"
    guided_network(path)
    assert export.export(path) < 1e-4
    return path


@pytest.fixture(params=["exported", "guided"])
def either(request):
    """The checkpoints with exports of both networks."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("shape", [(1, 20, 30), (2, 64, 96), (7, 100, 70)])
def test_openvino_fuses_as_torch_does(either, shape):
    frames = stack_of(*shape)
    wanted = fuse_stack(frames, torch_engine(either, "cpu"))
    engine = openvino_engine(export_of(either), "fp32")
    fused = fuse_stack(frames, engine)
    assert np.abs(fused.picture.astype(int) - wanted.picture).max() <= 1  # rounding
    assert np.abs(fused.confidence.astype(int) - wanted.confidence).max() <= 1
    assert engine.seconds > 0


@pytest.mark.parametrize("size", [(64, 96), (50, 70), (33, 95), (20, 40), (3, 310), (1, 1)])
def test_what_fills_a_tile_up_is_what_torch_fills_it_up_with(either, size):
    """Up to the borders, where other pixels beyond would change the weights by far more."""
    frames = stack_of(3, *size)
    wanted = frame_weights(frames, torch_engine(either, "cpu"))
    found = frame_weights(frames, openvino_engine(export_of(either), "fp32"))
    assert found.shape == wanted.shape == (3, *size)
    np.testing.assert_allclose(found, wanted, atol=1e-4)  # the bound of export.py


def test_a_tile_is_mirrored_at_its_last_row_and_column():
    planes = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    whole = extended(planes, (5, 6))
    np.testing.assert_array_equal(whole, planes[:, [0, 1, 2, 1, 0]][..., [0, 1, 2, 3, 2, 1]])
    assert extended(planes, (3, 4)) is planes


def test_a_mixture_of_a_pixel_is_the_same_in_both_engines(either):
    frames = stack_of(3, 300, 260)
    shares = [
        origin_at(frames, engine, 259, 171).shares
        for engine in (torch_engine(either, "cpu"), openvino_engine(export_of(either), "fp32"))
    ]
    np.testing.assert_allclose(*shares, atol=1e-4)


def test_an_export_without_coarse_level_takes_the_place_of_one_with(tmp_path):
    path = tmp_path / "small.pth"
    guided_network(path, (8, 8))
    export.export(path)
    assert guide_export(path.with_suffix(".xml")).is_file()
    plain = build_network({"network": "StackMix", "widths": (8, 8), "hidden": 4, "window": 3})
    torch.save({"config": plain.config, "network": plain.state_dict()}, path)
    assert export_of(path) is None
    export.export(path)
    assert type(openvino_engine(export_of(path))) is OpenVinoEngine


@pytest.mark.parametrize("part", ["small.guide.xml", "small.guide.bin"])
def test_an_export_that_lost_its_coarse_level_is_not_used(guided, tmp_path, part):
    for path in guided.parent.iterdir():
        if path.name != part:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    assert export_of(tmp_path / "small.pth") is None


def test_tiles_run_side_by_side_as_one_after_the_other(either):
    frames = stack_of(3, 300, 340)
    engine = openvino_engine(export_of(either), "fp32")
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


@pytest.mark.parametrize("engine_of", [torch_engine, openvino_engine])
def test_what_is_expected_is_not_compiled_later(guided, monkeypatch, engine_of):
    frames = stack_of(3, 100, 140)
    engine = engine_of(guided) if engine_of is torch_engine else engine_of(export_of(guided))
    get_ready(engine, frames.shape[:3])
    monkeypatch.setattr(CompiledNetworks, "compiled", None)
    assert fuse_stack(frames, engine).picture.shape == frames.shape[1:]


def test_a_stack_of_another_shape_than_expected_is_fused(guided):
    frames, engine = stack_of(3, 100, 140), openvino_engine(export_of(guided))
    wanted = fuse_stack(frames, engine).picture
    for expected in ((3, 140, 100), (5, 100, 140), None):
        engine = openvino_engine(export_of(guided))
        get_ready(engine, expected)
        np.testing.assert_array_equal(fuse_stack(frames, engine).picture, wanted)


def test_the_precision_follows_the_processor(exported):
    engine = OpenVinoEngine(export_of(exported))
    engine.load()
    assert engine.precision in ("bf16", "fp32")


def test_the_shipped_export_belongs_to_the_shipped_weights():
    assert export_of(WEIGHTS) is not None
    frames = stack_of(5, 128, 160)
    wanted = fuse_stack(frames, torch_engine(WEIGHTS, "cpu")).picture.astype(float)
    for precision, most in (("fp32", 0.02), ("auto", 0.25)):
        fused = fuse_stack(frames, openvino_engine(export_of(WEIGHTS), precision)).picture
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
    monkeypatch.setattr("stackmff.fusion.engine_choice.finds_gpu", lambda: True)
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
    engine = choose_engine(copy, "cpu")
    assert isinstance(engine, TorchEngine)
    (told,) = told_of_export(copy, engine, "auto")  # not in silence
    assert "small.xml is damaged or does not match small.pth, so torch runs" in told
    assert told_of_export(copy, engine, "torch") == []
    (tmp_path / "small.xml").unlink()
    assert told_of_export(copy, engine, "auto") == []


def test_what_is_not_exported(tmp_path):
    network = build_network(default_config("StackMFF"))
    path = tmp_path / "luma.pth"
    torch.save({"config": network.config, "network": network.state_dict()}, path)
    with pytest.raises(StackError, match="only networks that weigh the frames"):
        export.export(path)
    assert [p.name for p in tmp_path.iterdir()] == ["luma.pth"]


def test_an_export_with_a_coarse_level_does_not_run_without_it(guided):
    with pytest.raises(StackError, match=r"small.xml also takes features, logits: export"):
        OpenVinoEngine(export_of(guided)).load()


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
