"""Train a PyramidMix on scenes at camera scale and on small ones, made as training goes on.

The folder experiments/NAME holds last.pth (to resume), best.pth (the average of the weights, to
use), log.jsonl and TensorBoard events. The norms keep the statistics of --init.
"""

import argparse
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

import loss
from network import (
    Guide,
    Hints,
    PyramidMix,
    build_network,
    evened_ups,
    load_checkpoint,
    load_network,
    luma_and_chroma,
)
from stackmff.errors import StackError
from stackmff.evaluation.metrics import psnr
from stackmff.files import make_folder, write_bytes
from stackmff.images.tensors import enlarged
from stackmff.machine import select_device
from stackmff.options import Options, add_options, build, given_values, option, parse, values_of
from stackmff.processes import run_main
from stackmff.records import run_record
from stackmff.shipped import WEIGHTS
from stackmff.synthesis.photos import PhotoFolder, Photos, list_photos
from stackmff.training.log import Log, Means, say
from stackmff.training.optimisation import Average, autocast
from stackmff.training.pyramid import Pair, PyramidBatch, Scenes, planes_first, validation_scenes
from stackmff.training.run import Stop
from utils import seed_everything

# Weights of the terms: of fused pictures, also of the fine level's mixture, of the coarse level, of
# what its logits alone would give.
PICTURE = {"l1": 1.0, "laplacian": 0.5, "log_mse": 0.03, "faint": 0.1, "haze": 0.7, "texture": 0.5}
SMALL_PICTURE = PICTURE | {"log_mse": 0.05, "faint": 0.05, "texture": 0.08}  # of small scenes
SMALL_THINGS = {"small": 0.6}
FINISHED = {"log_mse": 0.25}  # beyond the mixture: there is little to gain, and it lies at edges
COARSE = {"l1": 0.6, "log_mse": 0.012}
EARLY = {"l1": 0.3, "faint": 0.03}
SSIM = 0.3  # of the luma, of fused pictures
HELD_OUT = slice(7, None, 16)  # of the photographs in natural order: for validation
WARM_UP = 100  # steps
NEW_RATE = 2.5  # learning rate of the stage beyond the mixture, as a share of --lr
CACHE_MIB = 1024  # of photographs

# What a resumed run must keep to be the run that stopped.
FIXED = ("init", "finish", "only_finish", "large_share", "pool", "seed", "validation_scenes")
Values = dict[str, float]


@dataclass(frozen=True)
class PyramidOptions(Options):
    """What tools.train_pyramid is told."""

    exp_name: str = option(help="name of the run's folder")
    photos: tuple[Path, ...] = option(
        (),
        help="folders of photographs that scenes are made of; every sixteenth validates",
        metavar="DIR",
    )
    experiments: Path = option(Path("experiments"), help="folder of all runs", metavar="DIR")
    init: Path = option(
        WEIGHTS.with_name("checkpoint_stackmix.pth"),
        help="checkpoint of a StackMix, with which both levels start, or of a PyramidMix",
        metavar="FILE",
    )
    steps: int = option(
        4000, help="steps of the whole run, over which the learning rate falls to 0", low=1
    )
    lr: float = option(1.5e-3, help="learning rate", above=0)
    fine_rate: float = option(
        0.8, help="learning rate of the fine level, as a share of --lr", low=0
    )
    large_share: float = option(0.5, help="share of the steps on large scenes", low=0, high=1)
    finish: int = option(
        12, help="channels of the stage beyond the mixture; 0: none", low=0, metavar="CHANNELS"
    )
    only_finish: bool = option(False, help="train the stage beyond the mixture, and nothing else")
    pool: int = option(
        48, help="large scenes to draw from, and eight times as many small ones", low=6
    )
    seed: int = option(0, help="seed of all random numbers", low=0, high=2**31 - 1)
    device: str = option("auto", help="auto, cpu, mps, cuda or cuda:K")
    precision: Literal["bf16", "fp32"] = option("bf16", help="arithmetic of the network")
    max_minutes: float | None = option(
        None, help="save and stop after this many minutes; --resume continues", above=0
    )
    save_steps: int = option(100, help="steps between writes of last.pth", low=1)
    log_steps: int = option(50, help="steps between lines of the log", low=1)
    validate_steps: int = option(400, help="steps between validations", low=1)
    validation_scenes: int = option(
        14, help="scenes of each kind, large and small, to validate on", low=1
    )
    resume: bool = option(
        False,
        help="continue from last.pth with the run's own options; those given again replace them",
    )

    def contradiction(self) -> str | None:
        """See `Options.contradiction`."""
        if not self.photos and not self.resume:
            return "give --photos DIR: scenes are made of photographs"
        if self.only_finish and not self.finish:
            return "--only_finish trains the stage of --finish CHANNELS: give it, too"
        if Path(self.exp_name).name in ("", ".."):
            return f"--exp_name {self.exp_name!r} is no name of a folder: give the run a name"
        return None

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.experiments / self.exp_name


def get_parser() -> argparse.ArgumentParser:
    """The options of tools.train_pyramid."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, PyramidOptions)
    return parser


def mixed(logits: torch.Tensor, stack: torch.Tensor) -> torch.Tensor:
    """Mix frames (B, C, N, H, W) by the softmax of logits (B, N, H, W); (B, C, H, W)."""
    return (logits.float().softmax(1)[:, None] * stack).sum(2)


def terms_loss(
    fused: torch.Tensor, batch: Mapping[str, torch.Tensor], terms: Mapping[str, float]
) -> torch.Tensor:
    """The weighted terms of loss.py for fused pictures (B, 3, H, W)."""
    return loss.weighted_loss({"fused": fused, "logits": None, "weights": None}, batch, terms)[0]


def picture_loss(
    fused: torch.Tensor, batch: PyramidBatch, terms: Mapping[str, float] = PICTURE
) -> torch.Tensor:
    """The loss of the fused pictures (B, 3, H, W) of the first B samples of a batch."""
    count = len(fused)
    wanted = {"answer": batch.answer[:count], "stack": batch.stack[:count]}
    # SSIM in luma alone, which is cheaper.
    lumas = (luma_and_chroma(part[:, :, None])[0][:, 0] for part in (fused, wanted["answer"]))
    return terms_loss(fused, wanted, terms) + SSIM * (1 - loss.ssim(*lumas))


class Weighed(NamedTuple):
    """What both levels say of a batch.

    Attributes:
        logits, features: of the fine level, see PyramidMix.weigh.
        guide, hints: see PyramidMix.
        small, small_answer: what the coarse level saw, (B or 1, 3, N, H/8, W/8), and its answer.
    """

    logits: torch.Tensor
    features: torch.Tensor
    guide: Guide
    hints: Hints
    small: torch.Tensor
    small_answer: torch.Tensor


def weigh_batch(network: PyramidMix, batch: PyramidBatch) -> Weighed:
    """Run both levels."""
    luma, chroma = luma_and_chroma(batch.stack)
    size = batch.stack.shape[-2], batch.stack.shape[-1]
    if batch.small is None or batch.small_answer is None or batch.details is None:
        guide = network.look_whole(luma, chroma)
        small = network.reduced(batch.stack)
        small_answer = F.avg_pool2d(batch.answer, network.reduction, ceil_mode=True)
        hints = network.hints(network.cut(guide, size))
    else:
        small, small_answer = batch.small, batch.small_answer
        guide = network.guide(*luma_and_chroma(small), batch.details)
        # Places are in steps, as batches hold them.
        corners = [(network.step * top, network.step * left) for top, left in batch.places]
        told = [network.hints(network.cut(guide, size, corner)) for corner in corners]
        down, up, below = (torch.cat(part) for part in zip(*told, strict=True))
        hints = down, up, below
    logits, features = network.weigh(luma, chroma, hints)
    return Weighed(logits, features, guide, hints, small, small_answer)


def finished_pictures(
    network: PyramidMix, weighed: Weighed, stack: torch.Tensor, count: int
) -> torch.Tensor:
    """The first `count` pictures of a batch (B, 3, N, H, W) beyond the mixture."""
    assert network.finish is not None
    weights = weighed.logits[:count].softmax(1)
    told = network.finish.tell(weights, weighed.features[:count])
    finished: torch.Tensor = network.finish(weights, stack[:count], told)
    return finished


def coarse_loss(weighed: Weighed) -> torch.Tensor:
    """The loss of the coarse level on the reduced frames."""
    height, width = weighed.small.shape[-2:]
    below = mixed(weighed.guide.logits[:, 0, :, :height, :width], weighed.small)
    return terms_loss(below, {"answer": weighed.small_answer}, COARSE)


def levels_loss(
    network: PyramidMix, batch: PyramidBatch, precision: str
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a batch, and its parts, where everything is trained."""
    stack, answer = batch.stack, batch.answer
    with autocast(stack.device, precision):
        weighed = weigh_batch(network, batch)
    wanted = SMALL_PICTURE if batch.small is None else PICTURE | SMALL_THINGS
    total = picture_loss(mixed(weighed.logits, stack), batch, wanted)
    values = {"fine": total}
    if network.finish is not None:  # on some of the pictures: it learns fast, and costs as much
        with autocast(stack.device, precision):
            finished = finished_pictures(network, weighed, stack, -(-len(stack) // 2))
        values["finished"] = picture_loss(finished, batch, wanted | FINISHED)
        total = 0.5 * (total + values["finished"])
    height, width = stack.shape[-2:]
    near = enlarged(network.near(weighed.hints[2]), network.fine.unshuffle)
    near = mixed(near[:, 0, :, :height, :width], stack)
    values |= {"coarse": coarse_loss(weighed), "early": terms_loss(near, {"answer": answer}, EARLY)}
    return total + values["coarse"] + values["early"], values


def finish_loss(
    network: PyramidMix, batch: PyramidBatch, precision: str
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a batch, and its parts, where the stage beyond the mixture alone is trained."""
    stack, answer = batch.stack, batch.answer
    with torch.no_grad(), autocast(stack.device, precision):
        weighed = weigh_batch(network, batch)
        weights = weighed.logits.softmax(1)
    with autocast(stack.device, precision):
        finished = finished_pictures(network, weighed, stack, len(stack))
    total = picture_loss(finished, batch)
    with torch.no_grad():
        mixture = (weights[:, None] * stack).sum(2)
        errors = [(part - answer).square().mean((1, 2, 3)) for part in (finished, mixture)]
        gain = 10 * (errors[1] / errors[0]).log10().mean()
    return total, {"finished": total, "gain_dB": gain}


def build_pyramid(options: PyramidOptions) -> PyramidMix:
    """The network that a run starts with, in eval mode, since its norms keep their statistics.

    Raises:
        StackError: --init holds a network that it cannot start from.
    """
    init = load_network(options.init)
    name = init.config["network"]
    if name not in ("StackMix", "PyramidMix"):
        raise StackError(f"{options.init} holds {name}: give weights of StackMix or PyramidMix")
    config = {**init.config, "network": "PyramidMix", "finish": options.finish}
    network = build_network(config)
    assert isinstance(network, PyramidMix)  # as its name says
    if name == "StackMix":
        for level in (network.coarse, network.fine):
            known = evened_ups(init.state_dict())
            level.load_state_dict({key: known[key] for key in level.state_dict()})
        return network.eval()
    fresh = network.state_dict()
    state = {
        key: value
        for key, value in init.state_dict().items()
        if key in fresh and value.shape == fresh[key].shape
    }
    network.load_state_dict(state, strict=False)  # the stage beyond the mixture may be new
    return network.eval()


def build_optimizer(network: PyramidMix, options: PyramidOptions) -> torch.optim.Optimizer:
    """AdamW; each group has in "share" its share of the learning rate."""
    shares = {"fine.": options.fine_rate, "finish.": NEW_RATE}
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        share = next((share for start, share in shares.items() if name.startswith(start)), 1.0)
        parameter.requires_grad_(not options.only_finish or name.startswith("finish."))
        groups.setdefault(share, []).append(parameter)
    return torch.optim.AdamW(
        [{"params": part, "share": share} for share, part in groups.items()],
        lr=options.lr,
        weight_decay=1e-4,
        betas=(0.9, 0.99),
    )


def learning_rate(step: int, options: PyramidOptions) -> float:
    """It rises over WARM_UP steps and falls as a half cosine over all; only the step counts."""
    rise = min(1.0, (step + 1) / WARM_UP)
    return options.lr * rise * 0.5 * (1 + math.cos(math.pi * min(step / options.steps, 1)))


@dataclass
class PyramidRun:
    """A run and how far it is.

    Args:
        options: of the run.
        device: torch device.
        network: the one that learns.
        average: its Average, which is validated and saved to be used.
        optimizer: see `build_optimizer`.
        scenes: that its steps draw from.
        held_out: photographs for validation.
    """

    options: PyramidOptions
    device: torch.device
    network: PyramidMix
    average: Average
    optimizer: torch.optim.Optimizer
    scenes: Scenes
    held_out: Photos
    step: int = 0
    best: float = -math.inf
    validation: list[tuple[str, Pair]] = field(default_factory=list)

    def save(self, name: str, resumable: bool = False) -> None:
        """Write a checkpoint into the run's folder; raises StackError if it cannot."""
        checkpoint = {
            "config": self.network.config,
            "network": self.average.network.state_dict(),
            "args": values_of(self.options),
            "versions": run_record()["versions"],
            "step": self.step,
        }
        if resumable:
            checkpoint["state"] = {
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scenes": self.scenes.state(),
                "best": self.best,
            }
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_bytes(self.options.folder / name, content.getvalue())

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Return to what last.pth holds."""
        state = checkpoint["state"]
        self.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(checkpoint["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scenes.restore(state["scenes"])
        self.step, self.best = checkpoint["step"], state["best"]

    def take_step(self) -> tuple[bool, dict[str, float | torch.Tensor], torch.Tensor]:
        """Take a step; its random numbers depend only on the seed and the step.

        Returns:
            (is_large, values, stack): whether it was on a large scene, what is logged, its samples.
        Raises:
            StackError: the loss is not finite; the step is not taken.
        """
        options = self.options
        rng = np.random.default_rng([options.seed, self.step, 5])
        is_large = bool(rng.random() < options.large_share)
        batch = self.scenes.batch(rng, is_large).to(self.device)
        rate = learning_rate(self.step, options)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.optimizer.zero_grad()
        compute = finish_loss if options.only_finish else levels_loss
        total, parts = compute(self.network, batch, options.precision)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        total = total.detach()
        if not torch.isfinite(total + norm):
            raise StackError(
                f"the loss is {float(total):.4g} and its gradient {float(norm):.4g} at step "
                f"{self.step + 1}: --resume with a lower --lr"
            )
        self.optimizer.step()
        self.step += 1
        self.average.update(self.network, self.step)
        values = {name: value.detach() for name, value in parts.items()}
        return (
            is_large,
            {"loss": total, "gradient_norm": norm, **values, "lr": rate},
            batch.stack,
        )

    def validate(self, log: Log) -> str:
        """Score the average on the validation scenes; keep it as best.pth if it is the best.

        Returns:
            A phrase with the scores.
        """
        if not self.validation:
            self.validation = validation_scenes(self.held_out, self.options.validation_scenes)
        found: dict[str, list[float]] = {}
        for kind, (frames, answer) in tqdm(
            self.validation, desc="validation", leave=False, disable=None
        ):
            fused = fuse(
                cast(PyramidMix, self.average.network), frames, self.device, self.options.precision
            )
            found.setdefault(kind, []).append(psnr(fused, answer, 255))
        means = {kind: float(np.mean(part)) for kind, part in found.items()}
        log.write("validation", 0, self.step, means)
        is_best = sum(means.values()) > self.best
        if is_best:
            self.best = sum(means.values())
            self.save("best.pth")
        scores = ", ".join(f"{kind} scenes {value:.2f} dB" for kind, value in means.items())
        return scores + (" (best)" if is_best else "")


@torch.no_grad()
def fuse(
    network: PyramidMix, frames: np.ndarray, device: torch.device, precision: str
) -> np.ndarray:
    """Fuse frames (N, H, W, 3) uint8 as a whole; (H, W, 3) uint8."""
    stack = torch.from_numpy(planes_first(frames)).transpose(0, 1)[None].to(device)
    luma, chroma = luma_and_chroma(stack)
    with autocast(device, precision):
        window = network.cut(network.look_whole(luma, chroma), frames.shape[1:3])
        if network.finish is None:
            weights = network.refine(luma, chroma, window).softmax(1)
            fused = (weights[:, None] * stack).sum(2)
        else:
            weights, told = network.refine_and_tell(luma, chroma, window)
            fused = network.finish(weights, stack, told)
    picture: np.ndarray = fused[0].permute(1, 2, 0).float().cpu().numpy()
    return np.round(255 * picture).clip(0, 255).astype(np.uint8)


def train(run: PyramidRun, log: Log, stop: Stop) -> int:
    """Train to the last step or until something stops it; returns the exit status."""
    options = run.options
    means = {True: Means(), False: Means()}
    bar = tqdm(total=options.steps, initial=run.step, disable=None, leave=False, unit="step")
    with bar:
        while run.step < options.steps:
            is_large, values, stack = run.take_step()
            means[is_large].add(values, stack)
            bar.update()
            if run.step % options.log_steps == 0:
                for large, part in means.items():
                    if part.steps:
                        log.write("large" if large else "small", 0, run.step, part.values())
                means = {True: Means(), False: Means()}
            if run.step % options.validate_steps == 0 or run.step == options.steps:
                say(f"step {run.step}: {run.validate(log)}")
            if run.step % options.save_steps == 0:
                run.save("last.pth", resumable=True)
            if reason := stop.reason(run.device):
                run.save("last.pth", resumable=True)
                say(
                    f"stopped after {run.step} of {options.steps} steps; continue with "
                    f"--exp_name {options.exp_name} --resume"
                )
                return 0 if reason == Stop.TIME else reason
    run.save("last.pth", resumable=True)
    say(f"done: {options.folder / 'best.pth'} holds the best network")
    return 0


def parse_options(argv: Sequence[str] | None) -> tuple[PyramidOptions, dict[str, Any] | None]:
    """The options, over those of a resumed run, and what its last.pth holds; None for a new run.

    Raises:
        StackError: there is nothing to resume, the folder holds a run, or an option is fixed.
    """
    parser = get_parser()
    (options,) = parse(parser, argv, PyramidOptions)
    given = given_values(parser, argv, PyramidOptions)
    last = options.folder / "last.pth"
    if not options.resume:
        if last.exists():
            raise StackError(f"{options.folder} already holds a run: --resume it or name another")
        return options, None
    checkpoint = load_checkpoint(last)
    if "scenes" not in checkpoint.get("state", {}):
        raise StackError(f"{last} is no run of tools.train_pyramid: give another --exp_name")
    saved = checkpoint["args"]
    options = build(PyramidOptions, {**saved, **given})
    own = values_of(build(PyramidOptions, saved))
    for name in FIXED:
        if values_of(options)[name] != own[name]:
            raise StackError(
                f"--{name} was {own[name]} when this run began: leave it out, or start another run"
            )
    return options, checkpoint


def begin(options: PyramidOptions, checkpoint: Mapping[str, Any] | None) -> PyramidRun:
    """The run that the options describe, where the checkpoint left off.

    Raises:
        StackError: no photographs, too few of them, or no such weights or device.
    """
    paths = list_photos(options.photos)
    held_out = paths[HELD_OUT]
    if not held_out:
        raise StackError(
            f"{options.photos[0]}: {len(paths)} photographs are too few, since every sixteenth "
            "validates, from the eighth on: give at least 8"
        )
    kept = set(held_out)
    training = PhotoFolder([path for path in paths if path not in kept], CACHE_MIB)
    device = select_device(options.device)
    seed_everything(options.seed)  # of new layers
    if checkpoint is None:
        network = build_pyramid(options)
    else:
        network = cast(PyramidMix, build_network(checkpoint["config"]).eval())
    run = PyramidRun(
        options,
        device,
        network.to(device),
        Average(network, 0.998),
        build_optimizer(network, options),
        Scenes(training, options.seed, options.pool, network.details),
        PhotoFolder(held_out, CACHE_MIB),
    )
    if checkpoint is not None:
        run.restore(checkpoint)
    return run


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit status."""
    options, checkpoint = parse_options(argv)
    run = begin(options, checkpoint)
    make_folder(options.folder)
    log = Log(options.folder, run.step)
    try:
        with Stop(options.max_minutes) as stop:
            return train(run, log, stop)
    finally:
        log.close()


if __name__ == "__main__":
    run_main(main)
