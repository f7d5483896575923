"""Whether everything that needs a GPU works and what it is worth, in under eight minutes.

    python -m tools.gpu_check --output results/gpu_check.json

On a CPU the same checks run in a small form, and what that leaves out is named. Each check is a
line: ok with figures, FAILED, or "not run" with the reason.
"""

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from loss import DEFAULT_WEIGHTS, weighted_loss
from network import FusionNetwork, build_network, default_config, run_network
from stackmff.errors import what_happened
from stackmff.files import write_json
from stackmff.fusion.engine_choice import torch_engine
from stackmff.fusion.fuse import frame_weights
from stackmff.machine import select_device
from stackmff.options import Options, add_options, option, parse
from stackmff.processes import run_main
from stackmff.records import run_record
from stackmff.shipped import WEIGHTS
from stackmff.synthesis.scenes import SceneSpec, numbered_scene
from stackmff.training.optimisation import across_processes, autocast

HALVES = {"bf16": 2**-8, "fp16": 2**-11}  # {precision: its unit roundoff}
# Multiply-adds per pixel and frame of the shipped network (docs/benchmark.md), and bytes that a
# pixel of a frame must at least move: its luma and its weight, in float32.
OPERATIONS, BYTES = 2600, 8
SURPLUS = 8  # by which an error may exceed a unit roundoff, after dozens of layers


@dataclass(frozen=True)
class CheckOptions(Options):
    """What tools.gpu_check is told."""

    device: str = option("auto", help="auto, cpu, mps, cuda or cuda:K (default: %(default)s)")
    minutes: float = option(
        7.5, help="start no further check after this many minutes (default: %(default)s)", above=0
    )
    output: Path | None = option(
        None, help="also write the findings there, as JSON (default: no)", metavar="FILE"
    )


class NotRun(Exception):
    """A check that cannot run here; its text is the reason."""


class Bench(NamedTuple):
    """What checks run on.

    Attributes:
        device: of torch.
        small: whether sizes are those of a CPU.
    """

    device: torch.device
    small: bool

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def need_cuda(self) -> None:
        """Raise NotRun on any other device."""
        if self.device.type != "cuda":
            raise NotRun(f"needs CUDA, this is {self.device}")

    def rate(self, call: Callable[[], Any], seconds: float) -> float:
        """Calls per second, after two that warm up."""
        for _ in range(2):
            call()
        self.wait()
        start, calls = time.perf_counter(), 0
        while calls < 2 or time.perf_counter() < start + seconds:
            call()
            self.wait()
            calls += 1
        return calls / (time.perf_counter() - start)


def get_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.gpu_check",
        description="Check everything that needs a GPU, and measure it, in under eight minutes.",
    )
    add_options(parser, CheckOptions)
    return parser


def fresh_network(device: torch.device) -> FusionNetwork:
    """A StackMix with random weights of a seed."""
    torch.manual_seed(0)
    return build_network(default_config("StackMix")).to(device)


def noise_stack(device: torch.device, shape: Sequence[int]) -> torch.Tensor:
    """Noise in [0, 1] of a seed, the same on every device."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)).to(device)


def check_same_as_cpu(bench: Bench) -> str:
    """The shipped network in float32 gives what the CPU gives."""
    if bench.device.type == "cpu":
        raise NotRun("compares a device with the CPU")
    frames = np.random.default_rng(0).integers(0, 256, (4, 160, 224, 3), np.uint8)
    here = frame_weights(frames, torch_engine(WEIGHTS, str(bench.device)))
    error = float(np.abs(here - frame_weights(frames, torch_engine(WEIGHTS, "cpu"))).max())
    assert error < 0.01, f"weights of frames differ by {error:.2g} from those of the CPU"
    return f"largest difference of a weight {error:.1e}"


def check_autocast(bench: Bench) -> str:
    """Losses and gradients in half precision are those in float32, up to rounding."""
    network = fresh_network(bench.device).eval()
    stack = noise_stack(bench.device, (1, 3, 3, 64, 64))
    words = []
    with torch.no_grad():
        exact = run_network(network, stack)["weights"]
        for precision, unit in HALVES.items():
            if precision == "fp16" and bench.device.type == "cpu":
                continue
            with autocast(bench.device, precision):
                found = run_network(network, stack)["weights"]
            error = float((found - exact).abs().mean())
            assert error < SURPLUS * unit, f"{precision}: weights differ by {error:.2g} on average"
            words.append(f"{precision} {error:.1e}")
    return f"mean difference of a weight: {', '.join(words)}"


@contextlib.contextmanager
def lone_group(backend: str) -> Any:
    """A process group of this process alone."""
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(
            backend,
            init_method=f"file://{folder}/store",
            rank=0,
            world_size=1,
            timeout=timedelta(seconds=60),
        )
        try:
            yield
        finally:
            dist.destroy_process_group()


def check_process_group(bench: Bench) -> str:
    """A group of one process adds up what it should; NCCL on CUDA, gloo elsewhere."""
    backend = "nccl" if bench.device.type == "cuda" else "gloo"
    with lone_group(backend):
        total = torch.ones(3, device=bench.device)
        dist.all_reduce(total)
        assert bool((total == 1).all()), "a sum over one process is not what was given"
    return f"{backend} with one process" + (" (NCCL not run)" if backend == "gloo" else "")


def check_sync_batch_norm(bench: Bench) -> str:
    """SyncBatchNorm in one process trains as the norms without it."""
    bench.need_cuda()
    stack = noise_stack(bench.device, (2, 3, 3, 64, 64))
    gradients = []
    with lone_group("nccl"):
        for wrap in (lambda network: network, lambda n: across_processes(n, bench.device)):
            network = wrap(fresh_network(bench.device).train())
            run_network(network, stack)["fused"].mean().backward()
            bare = getattr(network, "module", network)
            kinds = {type(module) for module in bare.modules()}
            gradients.append([p.grad.clone() for p in bare.parameters() if p.grad is not None])
    assert nn.SyncBatchNorm in kinds, "no norm was replaced by SyncBatchNorm"
    error = max(float((a - b).abs().max()) for a, b in zip(*gradients, strict=True))
    size = max(float(a.abs().max()) for a in gradients[0])
    assert error < 1e-3 * size, f"gradients differ by {error:.2g} of {size:.2g}"
    return f"largest difference of a gradient {error:.1e} of {size:.1e}"


def check_synthesis(bench: Bench) -> str:
    """A random scene that is blurred on the device is that of the CPU, to a grey level."""
    size = 64 if bench.small else 224
    photos = [np.random.default_rng(k).integers(0, 256, (256, 256, 3), np.uint8) for k in range(2)]
    faults: dict[str, Any] = {}
    words = photos, 3, 0, SceneSpec(size, 12.0, 4, faults)
    start = time.perf_counter()
    mine = numbered_scene(*words, device=bench.device)[0].astype(int)
    seconds = time.perf_counter() - start
    off = np.abs(mine - numbered_scene(*words, device="cpu")[0])
    assert off.max() <= 1, f"frames differ by {off.max()} levels"
    return f"4 frames of {size} px in {seconds:.2f} s, {100 * (off > 0).mean():.3f} % off by 1"


def training_step(
    bench: Bench, precision: str, network: Any, side: int, batch: int
) -> Callable[[], None]:
    """A step of training as train.py takes it, on noise."""
    stack = noise_stack(bench.device, (batch, 3, 7, side, side))
    data = {"stack": stack, "answer": stack[:, :, 0], "focus": None}
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        with autocast(bench.device, precision):
            output = run_network(network, stack)
        total, _ = weighted_loss(output, data, DEFAULT_WEIGHTS)
        total.backward()
        optimizer.step()

    return step


def check_training(bench: Bench) -> str:
    """Samples of seven frames a second, in each precision."""
    side, batch, seconds = (32, 2, 0.0) if bench.small else (192, 16, 8.0)
    words = []
    for precision in ("fp32", "bf16"):
        step = training_step(bench, precision, fresh_network(bench.device).train(), side, batch)
        words.append(f"{precision} {batch * bench.rate(step, seconds):.3g}")
    return f"samples of 7x{side}x{side} a second: {', '.join(words)}"


def check_compile(bench: Bench) -> str:
    """By how much torch.compile makes a training step faster."""
    bench.need_cuda()  # on a CPU compiling takes minutes
    side, batch = 192, 16
    rates = []
    for wrap in (lambda network: network, torch.compile):
        network = wrap(fresh_network(bench.device).train())
        rates.append(bench.rate(training_step(bench, "bf16", network, side, batch), 6.0))
    return f"steps of bf16 are {rates[1] / rates[0]:.2f} times as fast compiled"


def ceilings(bench: Bench) -> tuple[float, float]:
    """(multiply-adds, bytes) a second that the device reaches at best, in bf16 and in copies."""
    side, length = (256, 1 << 20) if bench.small else (8192, 1 << 28)
    seconds = 0.0 if bench.small else 2.0
    matrix = torch.randn(side, side, device=bench.device, dtype=torch.bfloat16)
    operations = side**3 * bench.rate(lambda: matrix @ matrix, seconds)
    source = torch.zeros(length, device=bench.device)
    target = torch.empty_like(source)
    moved = 2 * 4 * length * bench.rate(lambda: target.copy_(source), seconds)
    return operations, moved


def check_fusing(bench: Bench) -> str:
    """Pixels of frames that the shipped network weighs a second, beside both ceilings."""
    shape = (3, 96, 128, 3) if bench.small else (10, 2048, 3072, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    engine = torch_engine(WEIGHTS, str(bench.device))
    rate = bench.rate(lambda: frame_weights(frames, engine), 0.0 if bench.small else 20.0)
    pixels = rate * float(np.prod(shape[:3]))
    operations, moved = ceilings(bench)
    of_operations, of_bytes = pixels * OPERATIONS / operations, pixels * BYTES / moved
    return (
        f"{pixels / 1e6:.3g} Mpx-frames a second; {100 * of_operations:.2g} % of the "
        f"{operations / 1e12:.3g} T multiply-adds and {100 * of_bytes:.2g} % of the "
        f"{moved / 1e9:.3g} GB a second of this device"
    )


CHECKS: dict[str, Callable[[Bench], str]] = {
    "same as the CPU": check_same_as_cpu,
    "autocast": check_autocast,
    "process group": check_process_group,
    "SyncBatchNorm": check_sync_batch_norm,
    "synthesis": check_synthesis,
    "training": check_training,
    "fusing": check_fusing,
    "torch.compile": check_compile,
}


def run_check(name: str, bench: Bench, seconds_left: float) -> dict[str, Any]:
    """Run a check: {"check", "outcome", "says", "seconds"}; outcome: ok, FAILED or not run."""
    start = time.perf_counter()
    try:
        if seconds_left <= 0:
            raise NotRun("no time was left")
        outcome, says = "ok", CHECKS[name](bench)
    except NotRun as reason:
        outcome, says = "not run", str(reason)
    except Exception as error:  # of a driver too: the other checks go on
        outcome, says = "FAILED", what_happened(error)
    seconds = time.perf_counter() - start
    return {"check": name, "outcome": outcome, "says": says, "seconds": round(seconds, 2)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks and print what they find. Returns the exit status, 1 if one failed."""
    (options,) = parse(get_parser(), argv, CheckOptions)
    device = select_device(options.device)
    bench = Bench(device, small=device.type == "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    print(f"{name}, torch {torch.__version__}, {os.cpu_count()} cores", flush=True)
    end, found = time.perf_counter() + 60 * options.minutes, []
    for check in CHECKS:
        line = run_check(check, bench, end - time.perf_counter())
        print(f"{line['outcome']:8} {check}: {line['says']} ({line['seconds']:.1f} s)", flush=True)
        found.append(line)
    if bench.small:
        print("sizes are those of a CPU; run it on a GPU for its figures")
    if options.output:
        write_json(options.output, {"device": name, "checks": found, **run_record()})
    return int(any(line["outcome"] == "FAILED" for line in found))


if __name__ == "__main__":
    run_main(main)
