"""A training run: its learning rate, averages and precision, its checkpoints, log and stop."""

import argparse
import copy
import io
import json
import math
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from network import run_network
from utils import StackError, rank_and_world, run_record, write_bytes, write_text

SAME_SIGNAL = 1.0  # s within which signals are one Ctrl-C


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


def measure_precision(network, batch_size, image_size, device):
    """Which of fp32 and bf16 makes a training step shorter here."""
    side = [min(size, 256) for size in image_size]
    shape = (batch_size, 3 if network.colour else 1, 4, *side)
    stack = torch.linspace(0, 1, math.prod(shape), device=device).reshape(shape)
    seconds = {}
    for precision in ("fp32", "bf16", "fp32", "bf16"):
        trial = copy.deepcopy(network).train()
        start = time.perf_counter()
        with autocast(device, precision):
            fused = run_network(trial, stack)["fused"]
        fused.mean().backward()
        passed = time.perf_counter() - start
        seconds[precision] = min(passed, seconds.get(precision, passed))
    return "bf16" if seconds["bf16"] < 0.9 * seconds["fp32"] else "fp32"


def choose_precision(network, args, device):
    """ "fp32" or "bf16" for --precision; one answer for all processes.

    Raises:
        StackError: bf16 is asked for where there is none.
    """
    cuda_has_it = device.type == "cuda" and torch.cuda.is_bf16_supported(False)  # not emulated
    if args.precision == "bf16" and device.type != "cpu" and not cuda_has_it:
        raise StackError(f"{device} has no bf16 arithmetic: use --precision fp32")
    if args.precision != "auto":
        return args.precision
    if device.type != "cpu":
        return "bf16" if cuda_has_it else "fp32"
    choice = [measure_precision(network, args.batch_size, args.image_size, device)]
    if dist.is_initialized():
        dist.broadcast_object_list(choice)
    return choice[0]


def autocast(device, precision):
    """The context in which the network runs."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


class Stop:
    """Why the run should stop after the current step: the time is up, or a signal came.

    As a context it catches SIGINT and SIGTERM; a second SIGINT interrupts at once, unless it comes
    with the first: what a terminal sends to all processes, torchrun passes on to its own again.
    After a SIGTERM nothing does: the process is ending.

    Args:
        minutes: time from now on, or None.
    """

    TIME = 1

    def __init__(self, minutes):
        self.deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
        self.signal = 0
        self.received = 0.0  # when the first signal came
        self.previous = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self.receive)
        return self

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def receive(self, number, _frame):
        """Remember the first signal."""
        if not self.signal:
            self.signal, self.received = number, time.monotonic()
        elif (
            number == self.signal == signal.SIGINT
            and time.monotonic() > self.received + SAME_SIGNAL
        ):
            raise KeyboardInterrupt

    def reason(self, device):
        """0 to go on, TIME, or the signal's number + 128; the same in all processes."""
        reason = self.signal + 128 if self.signal else 0
        if not reason and time.monotonic() >= self.deadline:
            reason = self.TIME
        if dist.is_initialized():
            shared = torch.tensor(reason, device=device)
            dist.all_reduce(shared, dist.ReduceOp.MAX)
            reason = int(shared)
        return reason


def line_step(line):
    """The step of a line of log.jsonl; infinite for one that was cut short."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return float("inf")


class Log:
    """log.jsonl and TensorBoard events of a run; process 0 writes, the others keep silent.

    Args:
        folder: the run's folder, or None to keep silent.
        step: steps done; what an interrupted run logged beyond them is dropped.
    """

    def __init__(self, folder, step):
        self.path = self.writer = None
        if folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter  # seconds that --help need not wait for

        self.path = folder / "log.jsonl"
        if self.path.exists():
            lines = self.path.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line_step(line) <= step]
            write_text(self.path, "".join(kept))
        self.writer = SummaryWriter(folder, purge_step=step + 1)

    def write(self, group, epoch, step, values):
        """A line {"epoch", "step", group: values}, and a curve for each of the values."""
        if self.writer is None:
            return
        line = {"epoch": epoch, "step": step, group: values}
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in values.items():
            self.writer.add_scalar(f"{group}/{name}", value, step)

    def show(self, panels, step):
        """Pictures of validation scenes: {scene: (H, W, 3) uint8}."""
        if self.writer is not None:
            for scene, panel in panels.items():
                self.writer.add_image(scene, panel, step, dataformats="HWC")
            self.writer.flush()

    def close(self):
        """Write what is still in memory."""
        if self.writer is not None:
            self.writer.close()


class Means:
    """Means over some steps of what is logged, and how fast they went."""

    def __init__(self):
        self.start = time.perf_counter()
        self.sums, self.steps, self.samples, self.positions = {}, 0, 0, 0

    def add(self, values, stack):
        """Take a step in: {name: number or scalar tensor} and its stack of this process."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value
        self.steps += 1
        self.rate = values["lr"]
        self.samples += len(stack)
        self.positions += stack[:, :1].numel()  # a position has one to three planes

    def values(self):
        """{name: mean}, the last learning rate, and the speed of all processes together."""
        rate = rank_and_world()[1] / (time.perf_counter() - self.start)
        means = {name: float(value) / self.steps for name, value in self.sums.items()}
        return means | {
            "lr": self.rate,
            "samples_per_second": self.samples * rate,
            "megapixel_frames_per_second": self.positions * rate / 1e6,
        }

    def sentences(self):
        """What the line of an epoch says of its training; nothing where no step was taken."""
        if not self.steps:
            return []
        values = self.values()
        return [
            f"training loss {values['loss']:.5f}, gradient {values['gradient_norm']:.3g}, "
            f"lr {values['lr']:.2e}, {values['samples_per_second']:.1f} samples/s"
        ]


def random_states():
    """The states of all random generators, in types that a checkpoint can hold."""
    name, keys, *rest = np.random.get_state()
    states = {
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states):
    """Undo what happened to the random generators since random_states()."""
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state(tuple(states["numpy"]))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@dataclass
class Run:
    """A training run and how far it is.

    Args:
        args: its options; precision resolved.
        folder: where it lives.
        device: torch.device.
        network: the network that learns, without DistributedDataParallel.
        trained: the same, wrapped where there are several processes.
        average: its Average, which is validated and saved to be used.
        optimizer: torch optimizer.
        loss_weights: {term: weight}.
        steps_per_epoch: steps of a whole epoch.
        data, val_data: fingerprints of the scenes that train and that validate.
        epoch: epochs done.
        step_in_epoch: steps done in the epoch after those.
        step: steps done in all.
        validation: the last scores.
        best: the best PSNR of a validation.
    """

    args: argparse.Namespace
    folder: Path
    device: torch.device
    network: torch.nn.Module
    trained: torch.nn.Module
    average: Average
    optimizer: torch.optim.Optimizer
    loss_weights: dict
    steps_per_epoch: int
    data: str
    val_data: str
    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    validation: dict | None = None
    best: float = -float("inf")

    def checkpoint(self):
        """What best.pth holds: enough to rebuild the network and to know where it is from."""
        return {
            "config": self.network.config,
            "network": self.average.network.state_dict(),
            "args": vars(self.args),
            "versions": run_record()["versions"],
            "epoch": self.epoch,
            "step": self.step,
            "validation": self.validation,
        }

    def state(self):
        """What last.pth holds beside that: enough to go on as if it had not stopped."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step_in_epoch": self.step_in_epoch,
            "best": self.best,
            "data": self.data,
            "val_data": self.val_data,
            "random": random_states(),
        }

    def save(self, name, resumable=False):
        """Write a checkpoint into the run's folder; only process 0 does."""
        if rank_and_world()[0]:
            return
        checkpoint = self.checkpoint()
        if resumable:
            checkpoint["state"] = self.state()
        # By way of memory: torch tells a full disk by a RuntimeError, as it tells much else.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_bytes(self.folder / name, content.getvalue())

    def start(self, checkpoint):
        """Take up what a last.pth holds, if there is one; returns as `restore`.

        Raises:
            StackError: not all processes have found the same one.
        """
        note = self.restore(checkpoint) if checkpoint else ""
        if dist.is_initialized():
            steps = [None] * dist.get_world_size()
            dist.all_gather_object(steps, self.step)
            if len(set(steps)) > 1:
                raise StackError(
                    f"{self.folder / 'last.pth'} is at step {min(steps)} to one process and at "
                    f"{max(steps)} to another: put --experiments on storage that all machines share"
                )
        return note

    def restore(self, checkpoint):
        """Take up what a last.pth holds; returns what does not fit, or an empty text."""
        state = checkpoint["state"]
        self.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(checkpoint["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step = checkpoint["epoch"], checkpoint["step"]
        self.step_in_epoch, self.best = state["step_in_epoch"], state["best"]
        self.validation = checkpoint["validation"]
        set_random_states(state["random"])
        notes = []
        if state.get("val_data", self.val_data) != self.val_data:
            self.best = -float("inf")  # scores of other scenes do not compare
            notes.append(
                "the validation scenes changed since it stopped: the next best.pth is theirs"
            )
        if state["data"] != self.data:
            if self.step_in_epoch:
                self.epoch, self.step_in_epoch = self.epoch + 1, 0
            notes.append(
                "the training scenes changed since it stopped: going on with epoch "
                f"{self.epoch + 1}"
            )
        return "; ".join(notes)
