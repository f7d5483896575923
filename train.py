"""Train a fusion network on stacks with all-in-focus answers.

The run lives in experiments/<exp_name>/: args.json, log.jsonl, TensorBoard events, curves.png,
best.pth (to use) and last.pth (to resume).
"""

import argparse
import copy
import itertools
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader
from tqdm import tqdm

import loss
from dataloader import Batch, Loaders, TrainingStacks, batches, build_loaders
from network import (
    NETWORKS,
    FusionNetwork,
    build_network,
    config_of,
    load_checkpoint,
    load_network,
    run_network,
)
from stackmff.display.drawing import training_panel
from stackmff.errors import StackError
from stackmff.evaluation.metrics import score
from stackmff.files import locked, write_json
from stackmff.images.formats import write_picture
from stackmff.machine import select_device
from stackmff.options import changed, values_of
from stackmff.original import translated
from stackmff.own import add_own, is_own, network_class
from stackmff.processes import gathered, rank_and_world
from stackmff.records import run_record
from stackmff.training.command_line import Checkpoint, Tables, make_parser, parse_options
from stackmff.training.curves import draw_run
from stackmff.training.data_sets import check_stacks
from stackmff.training.log import Log, Means, say
from stackmff.training.optimisation import (
    Average,
    across_processes,
    autocast,
    build_optimizer,
    channels_last,
    chosen_algorithms,
    learning_rate,
    loss_scaler,
    sound_precision,
    to_training_mode,
)
from stackmff.training.options import NetworkOptions, TrainOptions
from stackmff.training.profiling import Stages, table_of_stages
from stackmff.training.run import Run, Stop, process_group
from stackmff.training.trackers import imported, tracker_of
from utils import run_main, seed_everything

Scores = dict[str, float]

PLANES = ("stack", "answer")  # of a batch, which go to the device
PANELS = 2  # validation scenes that TensorBoard shows
PANEL_EPOCHS = 10  # validations of a run of which it shows them, the last among them
WARM_UP = 3  # steps before those that --profile times
DATA_SECONDS = 15  # for which a dry run reads stacks


def output_of(name: str) -> str:
    """What a network outputs; FILE.py:CLASS is entered into NETWORKS. StackError if unknown."""
    add_own(NETWORKS, name, network_class)
    if name not in NETWORKS:
        raise StackError(
            f"--network {name} is unknown: use one of {', '.join(NETWORKS)}, or FILE.py:CLASS"
        )
    return NETWORKS[name].output


def tables() -> Tables:
    """The networks and loss terms that the options choose from."""
    return Tables(
        networks=tuple(name for name in NETWORKS if not is_own(name)),
        output_of=output_of,
        network_config=config_of,
        load_checkpoint=load_checkpoint,
        loss_terms=tuple(name for name in loss.TERMS if not is_own(name)),
        default_weights=loss.DEFAULT_WEIGHTS,
        published_weights=loss.PUBLISHED_WEIGHTS,
        parse_loss_weights=loss.parse_loss_weights,
    )


def get_parser() -> argparse.ArgumentParser:
    """The options of train.py."""
    return make_parser(tables())


def train_step(run: Run, batch: Batch, stages: Stages) -> dict[str, float | torch.Tensor]:
    """Take one step.

    Args:
        run: it is advanced.
        batch: as from `batches`.
        stages: the times are added to it.
    Returns:
        {"loss", "gradient_norm", "lr" and the terms of the loss: number or scalar tensor}.
    Raises:
        StackError: the loss is not finite; the step is not taken.
    """
    with stages.stage("copy"):
        there = {name: batch[name].to(run.device, non_blocking=True) for name in PLANES}
    place = run.epoch * run.steps_per_epoch + run.step_in_epoch
    options = run.options.optimisation
    rate = learning_rate(place, run.steps_per_epoch, run.options.run.epochs, options)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.optimizer.zero_grad()
    precision = sound_precision(
        run.options.run.precision, run.network, there["stack"].shape[2], run.device
    )
    with stages.stage("forward"), autocast(run.device, precision):
        output = run_network(run.trained, there["stack"])
    with stages.stage("loss"):
        total, terms = loss.weighted_loss(output, there, run.loss_weights)
    with stages.stage("backward"):
        run.scaler.scale(total).backward()
    total = total.detach()
    with stages.stage("optimizer"):
        run.scaler.unscale_(run.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(
            run.network.parameters(), options.clip or float("inf")
        )
        # A gradient beyond the range of fp16 lowers the scale, and the step is left out.
        overflows = run.scaler.is_enabled() and not torch.isfinite(norm)
        if overflows:
            norm = torch.zeros_like(norm)
        if not torch.isfinite(total + norm):
            raise StackError(
                f"the loss is {float(total):.4g} and its gradient {float(norm):.4g} at step "
                f"{run.step + 1}, scenes {', '.join(batch['scene'])}: check them, or lower --lr"
            )
        run.scaler.step(run.optimizer)
        run.scaler.update()
    run.step += 1
    run.step_in_epoch += 1
    with stages.stage("average"):
        run.average.update(run.network, run.step)
    return {"loss": total, "gradient_norm": norm, **terms, "lr": rate}


def train_one_epoch(run: Run, loader: DataLoader[Any], log: Log, stop: Stop) -> tuple[int, Means]:
    """Train to the end of the epoch, or until something stops it.

    Args:
        run: it is advanced step by step.
        loader: of Samples, set to the place of the run.
        log: the steps are written to it.
        stop: says when to stop.
    Returns:
        (reason, means): 0 at the end of the epoch, else the reason of the stop; and the Means over
        the steps that were taken here.
    Raises:
        StackError: a file cannot be read, or the loss is not finite; its step is not taken.
    """
    options = run.options.run
    to_training_mode(run.trained, run.options.optimisation.freeze_norm)
    bar = tqdm(
        total=run.steps_per_epoch,
        initial=run.step_in_epoch,
        desc=f"epoch {run.epoch + 1}/{options.epochs}",
        disable=True if rank_and_world()[0] else None,
        leave=False,
    )
    whole, line = Means(), Means()
    stages = Stages()
    with bar:
        for batch in batches(loader):
            values = train_step(run, batch, stages)
            for means in (whole, line):
                means.add(values, batch["stack"])
            bar.update()
            # The end of an epoch logs what is left, so that runs of few steps are logged, too.
            if run.step % options.log_every == 0 or run.step_in_epoch == run.steps_per_epoch:
                logged = line.values()
                bar.set_postfix(loss=f"{logged['loss']:.4f}", lr=f"{logged['lr']:.2e}")
                log.write("train", run.epoch, run.step, logged)
                line = Means()
            if options.save_steps and run.step % options.save_steps == 0:
                run.save("last.pth", resumable=True)
            if reason := stop.reason(run.device):
                return reason, whole
    return 0, whole


def as_picture(planes: torch.Tensor) -> np.ndarray:
    """A (C, H, W) tensor as an array (H, W) of luma or (H, W, 3) of RGB."""
    return np.asarray(planes.movedim(0, -1).squeeze(-1))


@torch.no_grad()
def validate(run: Run, loader: DataLoader[Any]) -> tuple[Scores, Scores, dict[str, np.ndarray]]:
    """Score the averaged network on the validation stacks, of which each process has a share.

    In colour if the network sees it, else in luma.

    Args:
        run: its average is scored.
        loader: of ValidationStacks.
    Returns:
        (scores, by_n, panels): the mean of every metric and of the loss over all stacks of all
        processes; PSNR and SSIM as {"PSNR/<N>": mean over the stacks of N frames}; panels
        {scene: (H, W, 3) uint8} of the first stacks of this process.
    Raises:
        StackError: a file cannot be read or is too small to be scored.
    """
    if dist.is_initialized():
        # Each process has the norms' statistics of its own samples; those of process 0 are saved.
        for tensor in run.average.network.state_dict().values():
            dist.broadcast(tensor, 0)
    own: list[tuple[int, Scores]] = []
    panels: dict[str, np.ndarray] = {}
    for batch in batches(loader):
        row, panel = score_stack(run, batch, len(panels) < PANELS)
        own.append((batch["stack"].shape[2], row))
        if panel is not None:
            panels[batch["scene"][0]] = panel
    rows = [row for share in gathered(own) for row in share]
    by_n = {
        f"{name}/{n}": float(np.mean([row[name] for count, row in rows if count == n]))
        for name in ("PSNR", "SSIM")
        for n in sorted({count for count, _ in rows})
    }
    scores = {name: float(np.mean([row[name] for _, row in rows])) for name in rows[0][1]}
    return scores, by_n, panels


def score_stack(run: Run, batch: Batch, drawn: bool) -> tuple[Scores, np.ndarray | None]:
    """Fuse a stack by the averaged network and score the result.

    Args:
        run: its average is scored.
        batch: of one validation stack.
        drawn: whether a panel is wanted.
    Returns:
        (scores, panel): the metrics and the loss, and the panel (H, W, 3) uint8 or None.
    Raises:
        StackError: the stack is too small to be scored.
    """
    there = {name: batch[name].to(run.device) for name in PLANES}
    with autocast(run.device, run.options.run.precision):
        output = run_network(run.average.network, there["stack"])
    total, _ = loss.weighted_loss(output, there, run.loss_weights)
    fused, answer = (as_picture(planes[0]) for planes in (output["fused"].cpu(), batch["answer"]))
    try:
        scores = {"loss": float(total), **score(fused, answer, 1.0)}
    except ValueError as error:
        name = batch["scene"][0]
        raise StackError(f"the validation stack {name} cannot be scored: {error}") from error
    if not drawn:
        return scores, None
    weights = output["weights"]
    if weights is not None:
        weights = weights[0].float().cpu().numpy()
    frames = np.stack([as_picture(frame) for frame in batch["stack"][0].unbind(1)])
    return scores, training_panel(frames, fused, answer, weights)


def shows_panels(run: Run) -> bool:
    """Whether TensorBoard shows this validation: some of a run, as pictures fill a disk."""
    options = run.options.run
    before = max(run.epoch - options.validate_every, 0)
    return PANEL_EPOCHS * run.epoch // options.epochs > PANEL_EPOCHS * before // options.epochs


def validate_and_save(run: Run, loader: DataLoader[Any], log: Log) -> str:
    """Validate, log it, and keep the network as best.pth if its PSNR is the best so far.

    Returns:
        A phrase with the scores.
    """
    run.validation, by_n, panels = validate(run, loader)
    log.write("validation_by_n", run.epoch, run.step, by_n)
    log.write("validation", run.epoch, run.step, run.validation)
    if shows_panels(run):
        log.show(panels, run.step)
    psnr = run.validation["PSNR"]
    is_best = psnr > run.best
    if is_best:
        run.best = psnr
        run.save("best.pth")
    return (
        f"PSNR {psnr:.2f} dB, SSIM {run.validation['SSIM']:.4f}, "
        f"loss {run.validation['loss']:.5f}" + (" (best)" if is_best else "")
    )


def train(run: Run, loaders: Loaders, log: Log, stop: Stop) -> int:
    """Train from the present state of the run to its last epoch.

    Args:
        run: it is advanced.
        loaders: of training samples, with an EpochBatches, and of validation stacks.
        log: steps and scores are written to it.
        stop: says when to stop.
    Returns:
        0 at the end or when the time is up, else the exit status that goes with the signal.
    """
    options = run.options.run
    if run.epoch >= options.epochs:
        say(f"all {run.epoch} epochs are done: raise --epochs to continue")
    while run.epoch < options.epochs:
        loaders.order.start_at(run.epoch, run.step_in_epoch)
        reason, means = train_one_epoch(run, loaders.training, log, stop)
        if reason:
            if reason == Stop.TIME:
                scores = [validate_and_save(run, loaders.validation, log)]
                say(f"epoch {run.epoch} step {run.step}: {'; '.join(scores + means.sentences())}")
            run.save("last.pth", resumable=True)
            say(
                f"stopped in epoch {run.epoch + 1} after {run.step} steps; "
                f"continue with --exp_name {options.exp_name} --resume"
            )
            return 0 if reason == Stop.TIME else reason
        run.epoch, run.step_in_epoch = run.epoch + 1, 0
        scores = []
        if run.epoch % options.validate_every == 0 or run.epoch == options.epochs:
            scores = [validate_and_save(run, loaders.validation, log)]
        say(f"epoch {run.epoch} step {run.step}: {'; '.join(scores + means.sentences())}")
        run.save("last.pth", resumable=True)
        if options.save_every and run.epoch % options.save_every == 0:
            run.save(f"epoch_{run.epoch:04d}.pth")
    return 0


def begin_network(options: NetworkOptions, checkpoint: Checkpoint | None) -> FusionNetwork:
    """A network with new weights or those of --init; for a checkpoint, one that fits it.

    Raises:
        StackError: --init is another network than the options ask for.
    """
    config = (
        checkpoint["config"] if checkpoint else config_of(options.network, options.network_options)
    )
    if checkpoint or not options.init:
        return build_network(config)
    network = load_network(options.init)
    if network.config != config:
        raise StackError(
            f"{options.init} holds {network.config}, the options ask for {config}: "
            "give the --network and --network_options of the file"
        )
    return network


def build_run(
    options: TrainOptions,
    device: torch.device,
    network: FusionNetwork,
    loaders: Loaders,
    checkpoint: Checkpoint | None,
) -> Run:
    """The network and all that trains it, from the start or where a checkpoint left off."""
    channels_last(network.to(device), device)
    options = changed(options, precision=choose_precision(network, options, device))
    average = Average(network, options.optimisation.ema)
    run = Run(
        options=options,
        device=device,
        network=network,
        trained=across_processes(network, device),
        average=average,
        optimizer=build_optimizer(network, options.optimisation),
        scaler=loss_scaler(device, options.run.precision),
        loss_weights=loss.parse_loss_weights(options.optimisation.loss_weights or ()),
        steps_per_epoch=len(loaders.order),
        data=loaders.data,
        val_data=loaders.val_data,
    )
    if note := run.start(checkpoint):
        say(note)
    return run


def profile(run: Run, loaders: Loaders, steps: int) -> int:
    """Take steps, after a few to warm up, and print where their time goes; returns 0."""
    to_training_mode(run.trained, run.options.optimisation.freeze_norm)

    def endless() -> Iterator[Batch]:
        for epoch in itertools.count():
            loaders.order.start_at(epoch, 0)
            yield from batches(loaders.training)

    source, idle = endless(), Stages()
    for batch in itertools.islice(source, WARM_UP):
        train_step(run, batch, idle)
    stages, samples, start = Stages(run.device), 0, time.perf_counter()
    made_here = run.options.data.photos and not loaders.training.num_workers
    loading = "synthesis" if made_here else "load"  # with loader processes: the wait
    for batch in stages.each(loading, itertools.islice(source, steps)):
        train_step(run, batch, stages)
        samples += len(batch["scene"]) * rank_and_world()[1]
    seconds = time.perf_counter() - start
    say("\n".join(table_of_stages(stages.seconds, steps, samples, seconds)))
    return 0


def rehearse(run: Run, loaders: Loaders, log: Log, stop: Stop) -> int:
    """Read data, take a step, validate, write and read the checkpoints; report what was found.

    Returns:
        0, or 1 if a stack cannot be used.
    Raises:
        StackError: any of it fails.
    """
    samples, own = loaders.training.dataset, (0, list[str]())
    if isinstance(samples, TrainingStacks):
        own = check_stacks(samples.store, samples.scenes, DATA_SECONDS)
    found = gathered(own)
    count, wrong = sum(n for n, _ in found), [sentence for _, part in found for sentence in part]
    stop.deadline = 0.0  # the first step is the last
    run.best = -float("inf")  # so that a resumed run writes best.pth here, too
    train_one_epoch(run, loaders.training, log, stop)
    scores = validate_and_save(run, loaders.validation, log)
    run.save("last.pth", resumable=True)
    if rank_and_world()[0] == 0:
        load_network(run.folder / "best.pth", run.device)
        run.restore(load_checkpoint(run.folder / "last.pth"))
        for sentence in wrong:
            print(f"cannot be used: {sentence}")
        size = (run.folder / "last.pth").stat().st_size / 2**20
        stacks = f"{count} training stacks read, {len(wrong)} unfit; "
        read = "" if run.options.data.photos else stacks
        print(
            f"dry run: {read}a step; {scores}; last.pth of {size:.1f} MiB written and read; "
            "nothing is left behind"
        )
    return 1 if wrong else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit status."""
    argv = translated(argv)
    options, checkpoint = parse_options(get_parser(), tables(), argv)
    if not (options.run.dry_run or options.run.profile):
        if rank_and_world()[0]:
            return train_or_try(options, checkpoint)
        with locked(options.run.folder, "wait for that run, or choose another --exp_name"):
            # Read again: until it was locked, another process may have continued the run.
            return train_or_try(*parse_options(get_parser(), tables(), argv))
    with tempfile.TemporaryDirectory() as folder:  # nothing is left behind
        return train_or_try(changed(options, experiments=folder), checkpoint)


def train_or_try(options: TrainOptions, checkpoint: Checkpoint | None) -> int:
    """Train, rehearse or profile the run that the options describe.

    Args:
        options: of the run.
        checkpoint: what last.pth holds, or None for a new run.
    Returns:
        The exit status.
    """
    rank, world, _ = rank_and_world()
    name = options.run.device
    if world > 1 and name.startswith(("cuda:", "mps")):
        raise StackError(f"--device {name} is one GPU for {world} processes: use --device cuda")
    device = select_device(name)
    tracker = None if rank or options.run.dry_run else options.run.tracker
    if tracker:
        imported(tracker)  # before any work
    with (
        chosen_algorithms(options.run.deterministic),
        process_group(device),
        Stop(options.run.max_minutes) as stop,
    ):
        seed_everything(options.run.seed)
        network = begin_network(options.model, checkpoint)
        loaders = build_loaders(options, device, network.colour)
        run = build_run(options, device, network, loaders, checkpoint)
        if rank == 0:
            write_json(run.folder / "args.json", {"args": values_of(run.options), **run_record()})
        config = options.run.config
        say(
            f"{options.model.network} in {run.options.run.precision} on {device}, "
            f"{run.steps_per_epoch} steps an epoch, {run.folder}"
            + (f", options of {config}" if config else "")
        )
        if options.run.profile:
            return profile(run, loaders, options.run.profile)
        shown = tracker_of(tracker, run.folder, values_of(run.options))
        log = Log(None if rank else run.folder, run.step, shown)
        try:
            if options.run.dry_run:
                return rehearse(run, loaders, log, stop)
            status = train(run, loaders, log, stop)
            if log.path and log.path.is_file():
                write_picture(run.folder / "curves.png", draw_run(log.path))
            return status
        finally:
            log.close()


def measure_precision(
    network: FusionNetwork, batch_size: int, image_size: tuple[int, int], device: torch.device
) -> str:
    """Which of "fp32" and "bf16" makes a training step faster on this machine."""
    side = [min(size, 256) for size in image_size]
    shape = (batch_size, 3 if network.colour else 1, 4, *side)
    stack = torch.linspace(0, 1, math.prod(shape), device=device).reshape(shape)
    seconds: dict[str, float] = {}
    for precision in ("fp32", "bf16", "fp32", "bf16"):
        trial = copy.deepcopy(network).train()
        start = time.perf_counter()
        with autocast(device, precision):
            fused = run_network(trial, stack)["fused"]
        fused.mean().backward()
        passed = time.perf_counter() - start
        seconds[precision] = min(passed, seconds.get(precision, passed))
    return "bf16" if seconds["bf16"] < 0.9 * seconds["fp32"] else "fp32"


def choose_precision(network: FusionNetwork, options: TrainOptions, device: torch.device) -> str:
    """ "fp32", "bf16" or "fp16" for --precision; the same in all processes.

    Raises:
        StackError: the device has not what the options ask for.
    """
    cuda_has_it = device.type == "cuda" and torch.cuda.is_bf16_supported(False)  # not emulated
    asked = options.run.precision
    if asked == "bf16" and device.type != "cpu" and not cuda_has_it:
        raise StackError(f"{device} has no bf16 arithmetic: use --precision fp32")
    if asked == "fp16" and device.type not in ("cpu", "cuda"):
        raise StackError(f"fp16 is trained on CUDA alone: on {device} use --precision fp32")
    if asked != "auto":
        return asked
    if device.type != "cpu":
        return "bf16" if cuda_has_it else "fp32"
    size = options.optimisation.batch_size, options.samples.image_size
    choice = [measure_precision(network, *size, device)]
    if dist.is_initialized():
        dist.broadcast_object_list(choice)
    return choice[0]


if __name__ == "__main__":
    run_main(main)
