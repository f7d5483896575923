"""Train a fusion network on stacks with all-in-focus answers.

The run lives in experiments/<exp_name>/: args.json, log.jsonl, TensorBoard events, curves.png,
best.pth (to use) and last.pth (to resume).
"""

import contextlib
import copy
import itertools
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

import loss
from dataloader import batches, build_loaders, check_stacks
from network import (
    NETWORKS,
    build_network,
    config_of,
    load_checkpoint,
    load_network,
    run_network,
)
from stackmff.display.drawing import training_panel
from stackmff.errors import StackError
from stackmff.evaluation.metrics import score
from stackmff.files import write_json
from stackmff.images.formats import write_picture
from stackmff.machine import select_device
from stackmff.processes import join_processes, rank_and_world
from stackmff.records import run_record
from stackmff.training import options as train_options
from stackmff.training.curves import draw_run
from stackmff.training.log import Log, Means
from stackmff.training.optimisation import (
    Average,
    across_processes,
    autocast,
    build_optimizer,
    channels_last,
    learning_rate,
    to_training_mode,
)
from stackmff.training.options import Tables, parse_args
from stackmff.training.profiling import Stages, table_of_stages
from stackmff.training.run import Run, Stop
from utils import run_main, seed_everything

PANELS = 2  # validation scenes that TensorBoard shows
WARM_UP = 3  # steps before those that --profile times
DATA_SECONDS = 15  # that a dry run reads stacks for


def tables():
    """The networks and loss terms that there are, for the options."""
    return Tables(
        networks={name: network.output for name, network in NETWORKS.items()},
        network_config=config_of,
        load_checkpoint=load_checkpoint,
        loss_terms=tuple(loss.TERMS),
        default_weights=loss.DEFAULT_WEIGHTS,
        published_weights=loss.PUBLISHED_WEIGHTS,
        parse_loss_weights=loss.parse_loss_weights,
    )


def get_parser():
    """The options of train.py."""
    return train_options.get_parser(tables())


def train_step(run, batch, stages):
    """Take one step.

    Args:
        run: the Run; it is advanced.
        batch: as from `batches`.
        stages: a Stages.
    Returns:
        {"loss", "gradient_norm", "lr" and the terms of the loss: number or scalar tensor}.
    Raises:
        StackError: the loss is not finite; the step is not taken.
    """
    with stages.stage("copy"):
        stack = batch["stack"].to(run.device, non_blocking=True)
        answer = batch["answer"].to(run.device, non_blocking=True)
    place = run.epoch * run.steps_per_epoch + run.step_in_epoch
    rate = learning_rate(place, run.steps_per_epoch, run.args)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.optimizer.zero_grad()
    with stages.stage("forward"), autocast(run.device, run.args.precision):
        output = run_network(run.trained, stack)
    with stages.stage("loss"):
        total, terms = loss.weighted_loss(
            output, {"stack": stack, "answer": answer}, run.loss_weights
        )
    with stages.stage("backward"):
        total.backward()
    total = total.detach()
    with stages.stage("optimizer"):
        norm = torch.nn.utils.clip_grad_norm_(
            run.network.parameters(), run.args.clip or float("inf")
        )
        if not torch.isfinite(total + norm):
            names = ", ".join(batch["scene"])
            raise StackError(
                f"the loss is {float(total):.4g} and its gradient {float(norm):.4g} at step "
                f"{run.step + 1}, scenes {names}: look at these pictures, or lower --lr"
            )
        run.optimizer.step()
    run.step += 1
    run.step_in_epoch += 1
    with stages.stage("average"):
        run.average.update(run.network, run.step)
    return {"loss": total, "gradient_norm": norm, **terms, "lr": rate}


def train_one_epoch(run, loader, log, stop):
    """Train to the end of the epoch, or until something stops it.

    Args:
        run: the Run; it is advanced step by step.
        loader: of Samples, set to where the run stands.
        log: the Log.
        stop: the Stop.
    Returns:
        (reason, means): 0 at the end of the epoch, else the reason of the stop; and the Means over
        the steps that were taken here.
    Raises:
        StackError: a file cannot be read, or the loss is not finite; its step is not taken.
    """
    to_training_mode(run.trained, run.args.freeze_norm)
    bar = tqdm(
        total=run.steps_per_epoch,
        initial=run.step_in_epoch,
        desc=f"epoch {run.epoch + 1}/{run.args.epochs}",
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
            if run.step % run.args.log_every == 0:
                logged = line.values()
                bar.set_postfix(loss=f"{logged['loss']:.4f}", lr=f"{logged['lr']:.2e}")
                log.write("train", run.epoch, run.step, logged)
                line = Means()
            if run.args.save_steps and run.step % run.args.save_steps == 0:
                run.save("last.pth", resumable=True)
            if reason := stop.reason(run.device):
                return reason, whole
    return 0, whole


def as_picture(planes):
    """(C, H, W) tensor as an array (H, W) of luma or (H, W, 3) of RGB."""
    return planes.movedim(0, -1).squeeze(-1).numpy()


@torch.no_grad()
def validate(run, loader):
    """Score the averaged network on this process's share of the validation stacks.

    In colour where the network sees it, else their luma.

    Args:
        run: the Run.
        loader: of ValidationStacks.
    Returns:
        (scores, by_n, panels): the mean of every metric and of the loss over all stacks of all
        processes; PSNR and SSIM as {"PSNR/<N>": mean over the stacks of N frames}; panels
        {scene: (H, W, 3) uint8} of the first stacks of this process.
    Raises:
        StackError: a file cannot be read or is too small to be scored.
    """
    network = run.average.network
    if dist.is_initialized():
        # The statistics of the norms come from what each process saw; those of process 0 are saved.
        for tensor in network.state_dict().values():
            dist.broadcast(tensor, 0)
    rows, panels = [], {}
    for batch in batches(loader):
        stack, answer = batch["stack"].to(run.device), batch["answer"].to(run.device)
        with autocast(run.device, run.args.precision):
            output = run_network(network, stack)
        total, _ = loss.weighted_loss(output, {"stack": stack, "answer": answer}, run.loss_weights)
        fused, answer = (
            as_picture(planes[0]) for planes in (output["fused"].cpu(), batch["answer"])
        )
        scene = batch["scene"][0]
        try:
            row = {"loss": float(total), **score(fused, answer, 1.0)}
        except ValueError as error:
            raise StackError(f"the validation stack {scene} cannot be scored: {error}") from error
        rows.append((stack.shape[2], row))
        if len(panels) < PANELS:
            weights = output["weights"]
            weights = weights if weights is None else weights[0].float().cpu().numpy()
            frames = np.stack([as_picture(frame) for frame in batch["stack"][0].unbind(1)])
            panels[scene] = training_panel(frames, fused, answer, weights)
    if dist.is_initialized():
        shares = [None] * dist.get_world_size()
        dist.all_gather_object(shares, rows)
        rows = [row for share in shares for row in share]
    by_n = {
        f"{name}/{n}": float(np.mean([row[name] for count, row in rows if count == n]))
        for name in ("PSNR", "SSIM")
        for n in sorted({count for count, _ in rows})
    }
    scores = {name: float(np.mean([row[name] for _, row in rows])) for name in rows[0][1]}
    return scores, by_n, panels


def validate_and_save(run, loader, log):
    """Validate, log it, and keep the network as best.pth if it has the best PSNR so far.

    Returns:
        What to tell of it.
    """
    run.validation, by_n, panels = validate(run, loader)
    log.write("validation_by_n", run.epoch, run.step, by_n)
    log.write("validation", run.epoch, run.step, run.validation)
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


def tell(run, sentences):
    """A line on the terminal about where the run stands; process 0 alone writes it."""
    if rank_and_world()[0] == 0:
        print(f"epoch {run.epoch} step {run.step}: {'; '.join(sentences)}", flush=True)


def train(run, training, validation, log, stop):
    """Train from where the run stands to its last epoch.

    Args:
        run: the Run.
        training: loader of Samples with an EpochBatches.
        validation: loader of ValidationStacks.
        log: the Log.
        stop: the Stop.
    Returns:
        0 at the end or when the time is up, else the exit status that goes with the signal.
    """
    if run.epoch >= run.args.epochs and rank_and_world()[0] == 0:
        print(f"all {run.epoch} epochs are done: give more --epochs to go on")
    while run.epoch < run.args.epochs:
        training.batch_sampler.start_at(run.epoch, run.step_in_epoch)
        reason, means = train_one_epoch(run, training, log, stop)
        if reason:
            if reason == Stop.TIME:
                tell(run, [validate_and_save(run, validation, log), *means.sentences()])
            run.save("last.pth", resumable=True)
            if rank_and_world()[0] == 0:
                print(
                    f"stopped in epoch {run.epoch + 1} after {run.step} steps; "
                    f"--exp_name {run.args.exp_name} --resume goes on"
                )
            return 0 if reason == Stop.TIME else reason
        run.epoch, run.step_in_epoch = run.epoch + 1, 0
        scores = []
        if run.epoch % run.args.validate_every == 0 or run.epoch == run.args.epochs:
            scores = [validate_and_save(run, validation, log)]
        tell(run, scores + means.sentences())
        run.save("last.pth", resumable=True)
        if run.args.save_every and run.epoch % run.args.save_every == 0:
            run.save(f"epoch_{run.epoch:04d}.pth")
    return 0


def begin_network(args, checkpoint):
    """A fresh network, that of --init, or of a checkpoint to resume the one it fits."""
    config = checkpoint["config"] if checkpoint else config_of(args.network, args.network_options)
    if checkpoint or not args.init:
        return build_network(config)
    network = load_network(args.init)
    if network.config != config:
        raise StackError(
            f"{args.init} holds {network.config}, the options ask for {config}: "
            "give the --network and the --network_options of the file"
        )
    return network


def build_run(args, device, network, steps_per_epoch, data, checkpoint):
    """The network and all that trains it, from the start or where a checkpoint left off."""
    channels_last(network.to(device), device)
    args.precision = choose_precision(network, args, device)
    average = Average(network, args.ema)
    run = Run(
        args=args,
        folder=Path(args.experiments) / args.exp_name,
        device=device,
        network=network,
        trained=across_processes(network, device),
        average=average,
        optimizer=build_optimizer(network, args),
        loss_weights=loss.parse_loss_weights(args.loss_weights),
        steps_per_epoch=steps_per_epoch,
        data=data[0],
        val_data=data[1],
    )
    note = run.start(checkpoint)
    if note and rank_and_world()[0] == 0:
        print(note)
    return run


@contextlib.contextmanager
def process_group(device):
    """Join the processes that torchrun started; nothing where there is one."""
    _, world, _ = rank_and_world()
    if world == 1:
        yield
        return
    join_processes("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
        dist.barrier()  # gloo's threads abort a process that leaves while another is at work
    finally:
        dist.destroy_process_group()


def profile(run, training):
    """Take --profile steps, after a few that warm up, and print where their time goes."""
    to_training_mode(run.trained, run.args.freeze_norm)

    def endless():
        for epoch in itertools.count():
            training.batch_sampler.start_at(epoch, 0)
            yield from batches(training)

    source, idle = endless(), Stages()
    for batch in itertools.islice(source, WARM_UP):
        train_step(run, batch, idle)
    stages, samples, start = Stages(run.device), 0, time.perf_counter()
    made_here = run.args.photos and not training.num_workers
    loading = "synthesis" if made_here else "load"  # of loader processes: the wait for them
    for batch in stages.each(loading, itertools.islice(source, run.args.profile)):
        train_step(run, batch, stages)
        samples += len(batch["scene"]) * rank_and_world()[1]
    seconds = time.perf_counter() - start
    if rank_and_world()[0] == 0:
        lines = table_of_stages(stages.seconds, run.args.profile, samples, seconds)
        print("\n".join(lines))
    return 0


def rehearse(run, training, validation, log, stop):
    """Read data, take a step, validate, write and read the checkpoints; tell what was found.

    Returns:
        0, or 1 where a stack cannot be used.
    Raises:
        StackError: anything of it fails.
    """
    count, wrong = check_stacks(training.dataset, DATA_SECONDS)
    found = [(count, wrong)]
    if dist.is_initialized():
        found = [None] * dist.get_world_size()
        dist.all_gather_object(found, (count, wrong))
    count, wrong = sum(n for n, _ in found), [sentence for _, part in found for sentence in part]
    stop.deadline = 0.0  # the first step is the last
    run.best = -float("inf")  # of a run that is resumed: best.pth is to be written here
    train_one_epoch(run, training, log, stop)
    scores = validate_and_save(run, validation, log)
    run.save("last.pth", resumable=True)
    if rank_and_world()[0] == 0:
        load_network(run.folder / "best.pth", run.device)
        run.restore(load_checkpoint(run.folder / "last.pth"))
        for sentence in wrong:
            print(f"cannot be used: {sentence}")
        size = (run.folder / "last.pth").stat().st_size / 2**20
        read = "" if run.args.photos else f"{count} training stacks read, {len(wrong)} unfit; "
        print(
            f"dry run: {read}a step; {scores}; last.pth of {size:.1f} MiB written and read; "
            "nothing is left behind"
        )
    return 1 if wrong else 0


def main(argv=None):
    """Train; returns the exit status."""
    args, checkpoint = parse_args(get_parser(), tables(), argv)
    if not (args.dry_run or args.profile):
        return train_or_try(args, checkpoint)
    with tempfile.TemporaryDirectory() as folder:  # nothing is left behind
        args.experiments = folder
        return train_or_try(args, checkpoint)


def train_or_try(args, checkpoint):
    """Build the run that the options ask for, and do with it what they ask for.

    Args:
        args: the options; checkpoint: what last.pth holds, or None.
    Returns:
        The exit status.
    """
    rank, world, _ = rank_and_world()
    if world > 1 and args.device.startswith(("cuda:", "mps")):
        raise StackError(
            f"--device {args.device} is one GPU for {world} processes: use --device cuda"
        )
    device = select_device(args.device)
    torch.backends.cudnn.benchmark = True  # a handful of shapes, each met thousands of times
    with process_group(device), Stop(args.max_minutes) as stop:
        seed_everything(args.seed)
        network = begin_network(args, checkpoint)
        training, validation, *data = build_loaders(args, device, network.colour)
        run = build_run(args, device, network, len(training.batch_sampler), data, checkpoint)
        if rank == 0:
            write_json(run.folder / "args.json", {"args": vars(args), **run_record()})
            print(
                f"{args.network} in {args.precision} on {device}, {run.steps_per_epoch} steps an "
                f"epoch, {run.folder}"
            )
        if args.profile:
            return profile(run, training)
        log = Log(None if rank else run.folder, run.step)
        try:
            if args.dry_run:
                return rehearse(run, training, validation, log, stop)
            status = train(run, training, validation, log, stop)
            if rank == 0 and log.path.is_file():
                write_picture(run.folder / "curves.png", draw_run(log.path))
            return status
        finally:
            log.close()


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


if __name__ == "__main__":
    run_main(main)
