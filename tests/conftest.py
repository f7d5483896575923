"""What every process of the tests begins with, and what several files of them share."""

import signal

import pytest

# A shell that starts the tests in the background has Ctrl-C ignored, by all their processes too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
