"""training/run.py: the learning rate, the average, gradients in bf16, and when a run stops."""

import os
import signal

import pytest
import torch
from torch import nn
from training import made

import loss
from network import build_network, default_config, run_network
from stackmff.training import optimisation, run


def test_a_second_ctrl_c_interrupts_at_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    with run.Stop(None) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # torchrun's copy of the first one
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason(torch.device("cpu")) == 130
        now[0] += 5
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def rates(count, steps_per_epoch=4, epochs=10, **values):
    """The learning rates of the first steps."""
    options = made(lr=1.0, **values).optimisation
    return [
        optimisation.learning_rate(step, steps_per_epoch, epochs, options) for step in range(count)
    ]


def test_learning_rate_rises_holds_and_falls():
    how = {"warmup_steps": 4, "decay_fraction": 0.5}
    found = rates(40, **how)
    assert found[:5] == [0.25, 0.5, 0.75, 1, 1]
    assert found[5:21] == [1] * 16
    assert found[21:] == pytest.approx([1 - k / 20 for k in range(1, 20)])
    # A longer run agrees until the shorter one's fall began.
    assert rates(21, epochs=20, **how) == found[:21]
    # More than the run has: a tenth of it.
    assert rates(21, warmup_steps=200, decay_fraction=0.5) == found[:21]
    by_epoch = rates(40, 2, 20, gamma=0.9, warmup_steps=0, decay_fraction=0.0)
    assert [by_epoch[step] for step in (0, 1, 2, 39)] == pytest.approx([1, 1, 0.9, 0.9**19])


def test_average_follows_weights_and_statistics():
    network = nn.BatchNorm1d(1)
    average = optimisation.Average(network, 0.9)
    with torch.no_grad():
        network.weight.fill_(3.0)
        network.running_mean.fill_(10.0)
        network.num_batches_tracked.fill_(5)
    average.update(network, 1)  # the first decay is 1 / 10
    assert average.network.weight.item() == pytest.approx(0.1 * 1 + 0.9 * 3)
    assert average.network.running_mean.item() == pytest.approx(9)
    assert average.network.num_batches_tracked.item() == 5
    average.update(network, 10**6)
    assert average.network.weight.item() == pytest.approx(0.9 * 2.8 + 0.1 * 3)
    last = optimisation.Average(network, 0.0)
    with torch.no_grad():
        network.weight.fill_(7.0)
    last.update(network, 1)
    assert last.network.weight.item() == 7


def test_gradients_in_bf16_agree_with_fp32_for_any_number_of_frames():
    torch.manual_seed(0)
    network = build_network(default_config("StackMix")).train()
    cpu = torch.device("cpu")
    for n_frames in (2, 3, 5):
        stack = torch.rand(2, 1, n_frames, 64, 64)  # the coarsest level has 2x2 places
        gradients = []
        for precision in ("fp32", "bf16"):
            network.zero_grad()
            with optimisation.autocast(cpu, precision):
                output = run_network(network, stack)
            total, _ = loss.weighted_loss(
                output, {"stack": stack, "answer": stack[:, :, 1]}, loss.DEFAULT_WEIGHTS
            )
            total.backward()
            gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
        assert torch.isfinite(gradients[1]).all()
        # Rounding to 8 bits turns the direction by some 20 degrees; a broken kernel by 90.
        assert torch.cosine_similarity(*gradients, dim=0) > 0.8, n_frames
