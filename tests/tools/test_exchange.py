"""tools/exchange.py and weight_files.py: what is written is read, and damage is told."""

import json
import random

import numpy as np
import pytest
import torch
from calling import call

import predict
import stackmff
from network import build_network, load_network
from stackmff.errors import StackError
from stackmff.fusion.weight_files import read_safetensors, write_safetensors
from stackmff.images.formats import read_picture, write_picture
from tools import exchange

TINY = {"network": "StackMix", "widths": (4, 4), "hidden": 2}


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    network = build_network(TINY)
    path = tmp_path / "tiny.pth"
    extra = {"epoch": 3, "step": 70, "validation": {"loss": 1.0, "PSNR": 31.25}, "args": {"lr": 1}}
    torch.save({"config": network.config, "network": network.state_dict(), **extra}, path)
    return path


def same_state(first, second):
    assert set(first) == set(second)
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype and tensor.shape == second[name].shape
        assert torch.equal(tensor, second[name])


def test_there_and_back(checkpoint, tmp_path):
    other, back = tmp_path / "out" / "tiny.safetensors", tmp_path / "back.pth"
    assert call(exchange.main, "--model_path", checkpoint, "--output", other) == 0
    assert call(exchange.main, "--model_path", other, "--output", back) == 0
    first, last = load_network(checkpoint), load_network(back)
    same_state(first.state_dict(), last.state_dict())
    same_state(first.state_dict(), load_network(other).state_dict())
    luma = torch.rand(1, 1, 3, 40, 36)
    torch.testing.assert_close(first(luma), last(luma), rtol=0, atol=0)


def test_every_type_of_array(tmp_path):
    state = {
        "half": torch.arange(6, dtype=torch.float16).reshape(2, 3),
        "brain": torch.arange(3, dtype=torch.bfloat16),
        "wide": torch.arange(4, dtype=torch.float64),
        "whole": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "none": torch.zeros(0, 5),
        "turned": torch.arange(6.0).reshape(2, 3).T,
    }
    path = tmp_path / "all.safetensors"
    write_safetensors(path, {"network": "X"}, state)
    found = read_safetensors(path)
    same_state(state, found["network"])
    assert found["config"] == {"network": "X"}


def test_the_package_of_the_format_reads_it_and_is_read(checkpoint, tmp_path):
    package = pytest.importorskip("safetensors.torch", reason="needs safetensors")
    state = load_network(checkpoint).state_dict()
    write_safetensors(tmp_path / "ours.safetensors", TINY, state)
    same_state(state, package.load_file(tmp_path / "ours.safetensors"))
    package.save_file(state, tmp_path / "theirs.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    same_state(state, read_safetensors(tmp_path / "theirs.safetensors")["network"])


def test_damage_anywhere_is_told(tmp_path):
    path = tmp_path / "tiny.safetensors"
    state = {"a": torch.rand(5, 7), "b": torch.arange(3)}
    write_safetensors(path, TINY, state)
    content = path.read_bytes()
    draw = random.Random(0)
    told = 0
    places = [*range(0, 40), *(draw.randrange(len(content)) for _ in range(150))]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            found = read_safetensors(path)
        except StackError:
            told += 1
            continue
        same_state(state, found["network"])  # a note of the format alone was changed
    assert told > 0.9 * len(places)
    for length in (0, 5, 8, 60, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(StackError, match=r"tiny\.safetensors"):
            read_safetensors(path)


@pytest.mark.parametrize("shape", [[2**32, 2**32], [10**30], [float("inf")]])
def test_a_shape_beyond_all_memory_is_told(tmp_path, shape):
    """The product of the first one is 0 in 64 bits, which is as long as its data."""
    path = tmp_path / "huge.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(StackError, match=r"huge\.safetensors is not a safetensors file"):
        read_safetensors(path)


def test_a_file_without_a_configuration(tmp_path):
    path = tmp_path / "bare.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(StackError, match=r"does not say which network it is of"):
        read_safetensors(path)
    path.with_name("config.json").write_text("[")
    with pytest.raises(StackError, match="its configuration is damaged"):
        read_safetensors(path)
    path.with_name("config.json").write_text(json.dumps(TINY))
    with pytest.raises(StackError, match="holds other weights than StackMix has"):
        exchange.main(["--model_path", str(path), "--output", str(tmp_path / "x.pth")])


def test_a_folder_as_of_a_hub(checkpoint, tmp_path):
    folder, back = tmp_path / "hub" / "tiny-mix", tmp_path / "back.pth"
    words = ["--model_path", checkpoint, "--output_dir", folder, "--licence", "cc-by-4.0"]
    assert call(exchange.main, *words) == 0
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "config.json", "model.safetensors")
    }
    assert json.loads((folder / "config.json").read_text())["network"] == "StackMix"
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\n") and "# tiny-mix" in card
    for part in ("- step: 70", "- validation PSNR: 31.25", exchange.sha256(checkpoint)):
        assert part in card
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    fused = stackmff.fuse(frames, model_path=folder, align="off").picture
    assert (fused == stackmff.fuse(frames, model_path=checkpoint, align="off").picture).all()
    for k, frame in enumerate(frames):
        write_picture(tmp_path / "frames" / f"{k}.png", frame)
    out = tmp_path / "fused.png"
    words = ["--stack_path", tmp_path / "frames", "--output", out, "--align", "off"]
    assert call(predict.main, *words, "--model_path", folder) == 0
    assert (read_picture(out) == fused).all()
    assert call(exchange.main, "--model_path", folder, "--output", back) == 0
    same_state(load_network(checkpoint).state_dict(), load_network(back).state_dict())


def test_what_is_refused(checkpoint, tmp_path, capsys):
    assert call(exchange.main, "--model_path", checkpoint) == 2
    assert "nothing is written" in capsys.readouterr().err
    assert call(exchange.main, "--model_path", checkpoint, "--output", "x.onnx") == 2
    assert "needs a name that ends in .pth or .safetensors" in capsys.readouterr().err
    with pytest.raises(StackError, match="is not a file of weights: give the path of a checkpoint"):
        exchange.main(["--model_path", str(tmp_path), "--output", str(tmp_path / "x.pth")])
