"""Curves that go to Weights & Biases or MLflow; both are played by modules of the test."""

import sys
from types import SimpleNamespace

import pytest

from stackmff.errors import StackError
from stackmff.training.log import Log
from stackmff.training.trackers import TRACKERS, tracker_of


class Player:
    """A module that keeps what it is called with."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def call(*args, **values):
            self.calls.append((name, args, values))
            return self

        return call


@pytest.fixture(params=TRACKERS)
def player(request, monkeypatch):
    module = Player()
    monkeypatch.setitem(sys.modules, request.param, module)
    return SimpleNamespace(name=request.param, module=module)


def test_every_point_of_the_log_is_shown(player, tmp_path):
    tracker = tracker_of(player.name, tmp_path / "mine", {"lr": 0.1, "long": "x" * 900})
    log = Log(tmp_path, 0, tracker)
    log.write("train", 0, 5, {"loss": 0.5, "lr": 0.1})
    log.close()
    calls = player.module.calls
    points = [(args[0], values["step"]) for name, args, values in calls if "log_p" not in name
              and name.startswith("log")]  # fmt: skip
    assert points == [({"train/loss": 0.5, "train/lr": 0.1}, 5)]
    assert calls[-1][0] in ("finish", "end_run")
    told = str(calls)
    assert "'mine'" in told and "'lr'" in told
    if player.name == "mlflow":
        (values,) = next(args for name, args, _ in calls if name == "log_params")
        assert max(map(len, values.values())) == 500


def test_a_service_that_fails_later_does_not_end_the_run(tmp_path, capsys):
    """A server of MLflow that went away ended the training with an error."""
    calls = []

    class Gone:
        def write(self, values, step):
            calls.append(step)
            raise ConnectionError("no route")

        def close(self):
            calls.append("close")

    log = Log(tmp_path, 0, Gone())
    for step in (5, 10):
        log.write("train", 0, step, {"loss": 0.5})
    log.close()
    assert calls == [5]
    assert capsys.readouterr().out.count("goes on without it") == 1
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


def test_a_package_that_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(StackError, match="pip install wandb, or remove --tracker"):
        tracker_of("wandb", tmp_path, {})
    assert tracker_of(None, tmp_path, {}) is None


def test_a_service_that_does_not_answer(monkeypatch, tmp_path):
    def init(**values):
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    with pytest.raises(StackError, match="wandb cannot begin the run: ConnectionError: no route"):
        tracker_of("wandb", tmp_path, {})
