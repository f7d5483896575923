"""tools/export_onnx.py: the file gives what torch gives, for any number of frames and any size."""

import importlib.util

import pytest
import torch
from calling import call

from network import build_network
from stackmff.errors import StackError
from tools import export_onnx

TINY = {"network": "StackMix", "widths": (4, 4), "hidden": 2}


TWO_LEVELS = {"network": "PyramidMix", "widths": (4, 4), "hidden": 2, "guide": 4, "chroma": 4}


@pytest.fixture(params=[TINY, pytest.param(TWO_LEVELS, marks=pytest.mark.slow)])
def checkpoint(tmp_path, request):
    torch.manual_seed(0)
    network = build_network(request.param)
    path = tmp_path / "tiny.pth"
    torch.save({"config": network.config, "network": network.state_dict()}, path)
    return path


def test_it_is_what_torch_computes(checkpoint, capsys):
    """On two shapes that are not the one it is traced on; `export` compares the weights."""
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    assert call(export_onnx.main, "--model_path", checkpoint) == 0
    assert "tiny.onnx: weights within" in capsys.readouterr().out
    assert checkpoint.with_suffix(".onnx").stat().st_size > 1000


def test_what_is_not_exported(checkpoint, weights, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StackError, match=r"pip install '\.\[onnx\]'"):
        export_onnx.export(checkpoint)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(StackError, match="holds StackMFF, which outputs luma"):
        export_onnx.export(weights["StackMFF"])
