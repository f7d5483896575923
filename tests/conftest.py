"""What every process of the tests begins with, and what several files of them share."""

import os
import signal
import tempfile

import pytest
from drawn import texture, write_set

from stackmff.images.formats import write_picture

# A shell that starts the tests in the background has Ctrl-C ignored, by all their processes too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    """Keep compiled networks for this run of the tests alone, for all of its processes."""
    if not hasattr(config, "workerinput"):  # this is no worker of pytest-xdist
        config.compiled_networks = tempfile.TemporaryDirectory(prefix="stackmff-tests-")
        os.environ["STACKMFF_CACHE"] = config.compiled_networks.name


def pytest_unconfigure(config):
    """Remove them."""
    if hasattr(config, "compiled_networks"):
        config.compiled_networks.cleanup()


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run what `make test` leaves out")


def pytest_collection_modifyitems(config, items):
    """Leave out the tests that take long, unless they are asked for."""
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: make check runs it"))


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Checkpoints of both networks with random weights."""
    import torch

    from network import build_network, default_config

    torch.manual_seed(0)
    paths = {}
    for name in ("StackMix", "StackMFF"):
        network = build_network(default_config(name))
        paths[name] = tmp_path_factory.mktemp("weights") / f"{name}.pth"
        torch.save({"config": network.config, "network": network.state_dict()}, paths[name])
    return paths


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A data set of seven drawn scenes of 2 to 5 frames, which no test changes."""
    return write_set(tmp_path_factory.mktemp("set"), [3, 4, 5, 3, 4, 2, 4], 32, 32)


@pytest.fixture
def common(tmp_path):
    """Options of a run of 3 epochs but for its data, of a small network."""
    return [
        *("--network_options", "widths=[4,4]"),
        *("--experiments", str(tmp_path), "--epochs", "3", "--image_size", "16", "16"),
        *("--batch_size", "2", "--warmup_steps", "2", "--decay_fraction", "0.5", "--ema", "0.9"),
        *("--device", "cpu", "--log_every", "1", "--precision", "fp32"),
    ]


@pytest.fixture
def options(data, common):
    """Options of a run of 3 epochs of 3 steps that every test may add to."""
    return [*common, "--datapath", str(data), "--val_fraction", "0.3"]


@pytest.fixture
def photo_options(data, common, tmp_path):
    """The same with random scenes of two photographs."""
    for k in range(2):
        write_picture(tmp_path / "photos" / f"p{k}.png", texture(40, 48, k))
    more = ["--photos", str(tmp_path / "photos"), "--val_datapath", str(data)]
    return [*common, *more, "--scenes_per_epoch", "6", "--min_side", "16"]
