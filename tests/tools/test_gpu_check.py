"""tools/gpu_check.py: what it says of checks that pass, fail, cannot run or come too late."""

import json

import pytest
from calling import call

from tools import gpu_check
from tools.gpu_check import Bench, NotRun


@pytest.fixture
def played(monkeypatch):
    """Checks that are played."""

    def fails(bench):
        raise AssertionError("weights differ by 0.3")

    def needs_cuda(bench):
        bench.need_cuda()

    checks = {"good": lambda bench: "1e-7", "bad": fails, "other": needs_cuda}
    monkeypatch.setattr(gpu_check, "CHECKS", checks)


def test_each_outcome_is_told(played, tmp_path, capsys):
    words = ["--device", "cpu", "--output", tmp_path / "found.json"]
    assert call(gpu_check.main, *words) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("ok       good: 1e-7 (")
    assert lines[2].startswith("FAILED   bad: ") and "weights differ by 0.3" in lines[2]
    assert lines[3].startswith("not run  other: needs CUDA, this is cpu (")
    assert "run it on a GPU" in lines[4]
    found = json.loads((tmp_path / "found.json").read_text())
    assert [line["outcome"] for line in found["checks"]] == ["ok", "FAILED", "not run"]
    assert found["device"] == "cpu" and "versions" in found


def test_no_check_begins_after_the_end(played):
    import torch

    line = gpu_check.run_check("good", Bench(torch.device("cpu"), True), 0.0)
    assert line["outcome"] == "not run" and line["says"] == "no time was left"


@pytest.mark.slow
def test_the_small_form_on_a_cpu(capsys):
    assert call(gpu_check.main, "--device", "cpu") == 0
    out = capsys.readouterr().out
    assert "FAILED" not in out
    for check in ("autocast", "process group", "synthesis", "training", "fusing"):
        assert f"ok       {check}: " in out
    for check in ("same as the CPU", "SyncBatchNorm", "torch.compile"):
        assert f"not run  {check}: " in out


def test_only_cuda_is_cuda():
    import torch

    with pytest.raises(NotRun, match="needs CUDA, this is meta"):
        Bench(torch.device("meta"), False).need_cuda()
