"""tools.train_pyramid: that a stopped run goes on as if it had not stopped; its error sentences."""

import json
import os
import signal

import pytest
import torch
from drawn import texture

from network import build_network, evened_ups, load_network
from stackmff.errors import StackError
from stackmff.images.formats import write_picture
from stackmff.synthesis import camera_scale
from stackmff.training import pyramid
from tools import train_pyramid

TINY = {"widths": (8, 8), "hidden": 4, "window": 3, "chroma": 4}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for k in range(8):
        write_picture(folder / f"{k}.png", texture(120, 160, k))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    network = build_network({"network": "StackMix", **TINY})
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save({"config": network.config, "network": network.state_dict()}, path)
    return path


@pytest.fixture(autouse=True)
def small_scenes(monkeypatch):
    """Scenes of 256 px with few frames, so that the tests are quick."""

    def scene(photos, seed, number):
        rng = camera_scale.np.random.default_rng([seed, number])
        return camera_scale.large_scene(rng, photos, (256, 256), most_frames=4)

    monkeypatch.setattr(pyramid, "numbered_large_scene", scene)
    monkeypatch.setattr(pyramid, "SAMPLES", 1.5e5)


@pytest.fixture
def words(photos, weights, tmp_path):
    """Words of a run of a few steps; more can follow, and replace these."""

    def make(name, *more):
        start = ["--exp_name", name, "--photos", photos, "--init", weights, "--steps", 3]
        start += ["--experiments", tmp_path, "--validation_scenes", 1, "--device", "cpu"]
        start += ["--precision", "fp32", "--finish", 4, "--pool", 6, "--log_steps", 1]
        return [str(word) for word in (*start, *more)]

    return make


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(words, tmp_path):
    assert train_pyramid.main(words("whole")) == 0
    assert train_pyramid.main(words("parts", "--max_minutes", 1e-6)) == 0
    stopped = torch.load(tmp_path / "parts" / "last.pth", weights_only=True)
    assert stopped["step"] == 1
    rest = ["--exp_name", "parts", "--experiments", str(tmp_path), "--resume"]
    rest += ["--photos", words("")[3], "--max_minutes", "60"]
    assert train_pyramid.main(rest) == 0
    one, two = (
        torch.load(tmp_path / name / "last.pth", weights_only=True) for name in ("whole", "parts")
    )
    for name, value in one["network"].items():
        torch.testing.assert_close(value, two["network"][name], rtol=0, atol=0)
    assert one["state"]["scenes"] == two["state"]["scenes"]
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").open()]
    assert lines[-1]["validation"].keys() == {"large", "small"}


def test_the_best_network_loads_with_its_configuration(words, tmp_path):
    train_pyramid.main(words("run", "--steps", 1))
    network = load_network(tmp_path / "run" / "best.pth")
    assert network.config == {"network": "PyramidMix", **TINY, "guide": 32, "finish": 4}


def test_the_stage_beyond_the_mixture_can_be_trained_alone(words, weights, tmp_path):
    train_pyramid.main(words("run", "--steps", 1, "--only_finish"))
    own = evened_ups(load_network(weights).state_dict())
    state = torch.load(tmp_path / "run" / "last.pth", weights_only=True)["state"]["network"]
    for name, value in own.items():
        assert state[f"fine.{name}"].equal(value) and state[f"coarse.{name}"].equal(value)
    assert state["finish.leave.weight"].abs().max() > 0


def test_a_pyramid_goes_on_with_a_new_stage(words, tmp_path):
    train_pyramid.main(words("one", "--steps", 1, "--finish", 0))
    begun = tmp_path / "one" / "best.pth"
    options, _ = train_pyramid.parse_options(words("two", "--init", begun))
    network = train_pyramid.build_pyramid(options)
    own = load_network(begun).state_dict()
    assert all(network.state_dict()[name].equal(value) for name, value in own.items())
    assert network.finish is not None


def test_ctrl_c_saves(words, tmp_path, monkeypatch):
    take_step = train_pyramid.PyramidRun.take_step

    def interrupted(run):
        os.kill(os.getpid(), signal.SIGINT)
        return take_step(run)

    monkeypatch.setattr(train_pyramid.PyramidRun, "take_step", interrupted)
    assert train_pyramid.main(words("run")) == 128 + signal.SIGINT
    assert torch.load(tmp_path / "run" / "last.pth", weights_only=True)["step"] == 1


def test_errors_are_one_sentence(words, tmp_path, photos, capsys):
    with pytest.raises(SystemExit):
        train_pyramid.main(words("run", "--only_finish", "--finish", 0))
    assert "--only_finish trains the stage of --finish CHANNELS" in capsys.readouterr().err
    few = tmp_path / "few"
    write_picture(few / "0.png", texture(64, 64, 0))
    with pytest.raises(StackError, match="1 photographs are too few"):
        train_pyramid.main(words("run", "--photos", few))
    published = build_network({"network": "StackMFF"})
    torch.save(published.state_dict(), tmp_path / "published.pth")
    with pytest.raises(StackError, match="holds StackMFF: give weights of StackMix or PyramidMix"):
        train_pyramid.main(words("run", "--init", tmp_path / "published.pth"))
    with pytest.raises(StackError, match=r"last\.pth is not a file of weights"):
        train_pyramid.main(words("run", "--resume"))
    train_pyramid.main(words("run", "--steps", 1))
    with pytest.raises(StackError, match="already holds a run: --resume it"):
        train_pyramid.main(words("run"))
    with pytest.raises(StackError, match="--seed was 0 when this run began"):
        train_pyramid.main(words("run", "--resume", "--seed", 3))
    with pytest.raises(StackError, match="--validation_scenes was 1 when this run began"):
        train_pyramid.main(words("run", "--resume", "--validation_scenes", 2))


def test_a_loss_that_is_not_finite_stops_the_run(words, monkeypatch):
    monkeypatch.setattr(
        train_pyramid, "levels_loss", lambda network, *_: (network.gate.weight.sum() / 0, {})
    )
    with pytest.raises(StackError, match="at step 1: --resume with a lower --lr"):
        train_pyramid.main(words("run"))
