"""Learning rate, optimiser, averages, precision."""

import contextlib
import copy
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stackmff.training.options import OptimisationOptions


def learning_rate(
    step: int, steps_per_epoch: int, epochs: int, options: OptimisationOptions
) -> float:
    """The learning rate of a step. It depends only on the step, so that runs resume exactly.

    It rises over the first warmup_steps, at most a tenth of the run, is then constant (or falls by
    gamma from epoch to epoch), and falls linearly to nearly 0 over the last decay_fraction of all
    steps. Until that fall begins, the run can be resumed with more epochs as if it had had them
    from the start.

    Args:
        step: steps done so far, counted in epochs of the present length.
        steps_per_epoch: steps of an epoch.
        epochs: of the whole run.
        options: lr, gamma, warmup_steps and decay_fraction are used.
    """
    total = epochs * steps_per_epoch
    rise = min(1, (step + 1) / max(min(options.warmup_steps, total // 10), 1))
    decay_steps = round(total * options.decay_fraction)
    fall = min(1, (total - step) / decay_steps) if decay_steps else 1
    return options.lr * options.gamma ** (step // steps_per_epoch) * rise * fall


def build_optimizer(network: nn.Module, options: OptimisationOptions) -> torch.optim.Optimizer:
    """AdamW with weight decay on convolutions only, or SGD with momentum 0.9, as published."""
    if options.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(), options.lr, momentum=0.9, weight_decay=options.weight_decay
        )
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]  # biases, scales of the norms
    groups = [
        {"params": kernels, "weight_decay": options.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, options.lr)


def channels_last(network: nn.Module, device: torch.device) -> nn.Module:
    """On a CPU, store the weights of convolutions channels last, which makes bf16 faster."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in network.parameters() if device.type == "cpu" else ():
        if weight.dim() in layouts:
            # A kernel of one sample has both layouts, so `contiguous` would keep its strides. Its
            # gradient has others, about which DistributedDataParallel warns.
            laid = torch.empty_like(weight, memory_format=layouts[weight.dim()])
            weight.data = laid.copy_(weight.data)
    return network


def across_processes(network: nn.Module, device: torch.device) -> nn.Module:
    """The network to call in training: itself in one process, else one that averages gradients.

    On CUDA the norms take their statistics over the samples of all processes. On other devices each
    process has its own, and those of process 0 are kept.
    """
    if not dist.is_initialized():
        return network
    if device.type != "cuda":
        return DistributedDataParallel(network)
    return DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(network), [device])


def to_training_mode(network: nn.Module, freeze_norm: bool) -> None:
    """Set training mode, except for norms whose statistics stay as they are."""
    network.train()
    for module in network.modules() if freeze_norm else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


class Average:
    """Exponential moving average of a network: its weights and the statistics of its norms.

    Args:
        network: the network; a copy of it holds the average, in eval mode.
        decay: of the average, per step; it starts lower, so that the first weights are forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Add the weights after `step` steps."""
        decay = min(self.decay, step / (9 + step))
        averages = self.network.state_dict()
        for name, value in network.state_dict().items():
            if value.is_floating_point() and self.decay:
                averages[name].lerp_(value, 1 - decay)
            else:
                averages[name].copy_(value)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """The context in which the network runs in a precision, "fp32", "bf16" or "fp16"."""
    half = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, half, enabled=precision != "fp32")


def sound_precision(precision: str, network: nn.Module, n_frames: int, device: torch.device) -> str:
    """The precision of a step whose gradients can be trusted: `precision`, or else "fp32".

    PyTorch 2.13 on a CPU takes the bf16 gradient of a Conv3d that reaches over more frames than
    the stack has, if it has more than one, from memory that it never set.
    """
    if precision != "bf16" or device.type != "cpu" or n_frames == 1:
        return precision
    convolutions = (layer for layer in network.modules() if isinstance(layer, nn.Conv3d))
    too_long = any(layer.kernel_size[0] > n_frames for layer in convolutions)
    return "fp32" if too_long else precision


def loss_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """What scales the loss of fp16, whose small gradients are 0 otherwise; else it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


@contextlib.contextmanager
def chosen_algorithms(deterministic: bool) -> Iterator[None]:
    """A context with deterministic operations, or with the fastest of those that there are."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA is first used
        torch.use_deterministic_algorithms(True, warn_only=True)
    # A handful of shapes, each of which comes thousands of times.
    torch.backends.cudnn.benchmark = not deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
