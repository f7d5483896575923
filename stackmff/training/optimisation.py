"""Learning rate, optimiser, averages, precision."""

import copy

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def learning_rate(step, steps_per_epoch, args):
    """The learning rate of a step; it follows from its place alone, so that runs resume exactly.

    A rise over the first warmup_steps, at most a tenth of the run, then constant (or falling by
    gamma from epoch to epoch), and a straight fall to nearly 0 over the last decay_fraction of all
    steps. While that has not begun, the run can be resumed with more epochs as if it had always
    had them.

    Args:
        step: steps done so far, in epochs of as many as are taken now.
        steps_per_epoch: steps of an epoch.
        args: lr, gamma, warmup_steps, decay_fraction and epochs are used.
    Returns:
        float.
    """
    total = args.epochs * steps_per_epoch
    rise = min(1, (step + 1) / max(min(args.warmup_steps, total // 10), 1))
    decay_steps = round(total * args.decay_fraction)
    fall = min(1, (total - step) / decay_steps) if decay_steps else 1
    return args.lr * args.gamma ** (step // steps_per_epoch) * rise * fall


def build_optimizer(network, args):
    """AdamW, its weight decay on convolutions alone; or SGD with momentum 0.9, as published."""
    if args.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(), args.lr, momentum=0.9, weight_decay=args.weight_decay
        )
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]  # biases, scales of the norms
    groups = [
        {"params": kernels, "weight_decay": args.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, args.lr)


def channels_last(network, device):
    """Lay weights of convolutions out with the channels last on a CPU, whose bf16 is faster so."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in network.parameters() if device.type == "cpu" else ():
        if weight.dim() in layouts:
            # A kernel of one sample has both layouts, and `contiguous` leaves it the strides that
            # its gradient has not, of which DistributedDataParallel warns.
            laid = torch.empty_like(weight, memory_format=layouts[weight.dim()])
            weight.data = laid.copy_(weight.data)
    return network


def across_processes(network, device):
    """The network to call in training: in one process itself, else one that averages gradients.

    On CUDA the norms take their statistics over the samples of all processes; on other devices each
    process has its own, and those of process 0 are kept.
    """
    if not dist.is_initialized():
        return network
    if device.type != "cuda":
        return DistributedDataParallel(network)
    return DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(network), [device])


def to_training_mode(network, freeze_norm):
    """Training mode, but for the norms where their statistics shall stay as they are."""
    network.train()
    for module in network.modules() if freeze_norm else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


class Average:
    """Exponential moving average of a network: its weights and the statistics of its norms.

    Args:
        network: the network; a copy of it holds the average, in eval mode.
        decay: of the average, a step; it begins lower, so that the first weights are forgotten.
    """

    def __init__(self, network, decay):
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network, step):
        """Take the weights after `step` steps in."""
        decay = min(self.decay, step / (9 + step))
        averages = self.network.state_dict()
        for name, value in network.state_dict().items():
            if value.is_floating_point() and self.decay:
                averages[name].lerp_(value, 1 - decay)
            else:
                averages[name].copy_(value)


def autocast(device, precision):
    """The context in which the network runs."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
