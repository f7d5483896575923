"""The steps of training."""

import pytest
import torch
from torch import nn

from stackmff.training import optimisation


@pytest.mark.parametrize("n_frames", [1, 2, 3])
def test_gradients_of_convolutions_across_frames_are_sound_in_bf16(n_frames):
    torch.manual_seed(0)
    device, network = torch.device("cpu"), nn.Conv3d(32, 32, 3, padding=1)
    x, gradients = torch.randn(1, 32, n_frames, 12, 12), []
    for wanted in ("fp32", "bf16"):
        network.zero_grad()
        precision = optimisation.sound_precision(wanted, network, n_frames, device)
        with optimisation.autocast(device, precision):
            total = network(x).float().square().mean()
        freed = [torch.full((2**k,), 1e30) for k in range(4, 22)]  # left behind in memory
        del freed
        total.backward()
        gradients.append(network.weight.grad.clone())
    exact, rounded = gradients
    assert (rounded - exact).abs().max() < 0.02 * exact.abs().max()  # bf16 has 8 bits


def test_only_a_step_that_bf16_would_spoil_is_in_fp32():
    across, within = nn.Conv3d(1, 1, (3, 1, 1)), nn.Conv3d(1, 1, (1, 3, 3))
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    chosen = optimisation.sound_precision
    assert chosen("bf16", nn.Sequential(within, across), 2, cpu) == "fp32"
    assert chosen("bf16", across, 3, cpu) == chosen("bf16", within, 2, cpu) == "bf16"
    assert chosen("bf16", across, 2, cuda) == "bf16" and chosen("fp16", across, 2, cpu) == "fp16"
