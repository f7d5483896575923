"""Train a fusion network on stacks with all-in-focus answers.

The run lives in experiments/<exp_name>/: args.json, log.jsonl, TensorBoard events, best.pth (to
use) and last.pth (to resume).
"""

import contextlib
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

import loss
from augmentation import Augmentation
from dataloader import (
    EpochBatches,
    TrainingStacks,
    ValidationStacks,
    batches,
    find_pairs,
    make_loader,
    split_pairs,
)
from luma_store import LumaStore
from metrics import score
from network import build_network, load_network, run_network
from photos import PhotoFolder, list_photos, part_readable
from runs import (
    Average,
    Log,
    Run,
    Stop,
    autocast,
    build_optimizer,
    choose_precision,
    learning_rate,
)
from show import training_panel
from synthesis import SyntheticStacks, slot_frames
from train_options import args_config, get_parser, parse_args
from utils import (
    StackError,
    rank_and_world,
    run_main,
    run_record,
    seed_everything,
    select_device,
    write_json,
)

PANELS = 2  # validation scenes that TensorBoard shows


def fingerprint(content, world):
    """What an epoch depends on beside the options, as a short text.

    Args:
        content: names and numbers of frames of the training stacks, or names of the photographs.
        world: processes that share out an epoch.
    """
    return hashlib.sha256(json.dumps([world, content]).encode()).hexdigest()[:16]


def train_one_epoch(run, loader, log, stop):
    """Train to the end of the epoch, or until something stops it.

    Args:
        run: the Run; it is advanced step by step.
        loader: of Samples, set to where the run stands.
        log: the Log.
        stop: the Stop.
    Returns:
        0 at the end of the epoch, else the reason of the stop.
    Raises:
        StackError: a file cannot be read, or the loss is not finite; its step is not taken.
    """
    run.trained.train()
    bar = tqdm(
        total=run.steps_per_epoch,
        initial=run.step_in_epoch,
        desc=f"epoch {run.epoch + 1}/{run.args.epochs}",
        disable=True if rank_and_world()[0] else None,
        leave=False,
    )
    start, positions, steps, sums = time.perf_counter(), 0, 0, {}  # since the last line of the log
    with bar:
        for batch in batches(loader):
            stack = batch["stack"].to(run.device, non_blocking=True)
            answer = batch["answer"].to(run.device, non_blocking=True)
            rate = learning_rate(run.step, run.steps_per_epoch, run.args)
            for group in run.optimizer.param_groups:
                group["lr"] = rate
            run.optimizer.zero_grad()
            with autocast(run.device, run.args.precision):
                output = run_network(run.trained, stack)
            total, terms = loss.weighted_loss(
                output, {"stack": stack, "answer": answer}, run.loss_weights
            )
            total.backward()
            total = total.detach()
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
            run.average.update(run.network, run.step)
            positions += stack.numel()
            for name, value in {"loss": total, "gradient_norm": norm, **terms}.items():
                sums[name] = sums.get(name, 0) + value
            steps += 1
            bar.update()
            if run.step % run.args.log_every == 0:
                seconds = time.perf_counter() - start
                values = {name: float(value) / steps for name, value in sums.items()}
                bar.set_postfix(loss=f"{values['loss']:.4f}", lr=f"{rate:.2e}")
                values |= {"lr": rate, "megapixel_frames_per_second": positions / seconds / 1e6}
                log.write("train", run.epoch, run.step, values)
                start, positions, steps, sums = time.perf_counter(), 0, 0, {}
            if reason := stop.reason(run.device):
                return reason
    return 0


@torch.no_grad()
def validate(run, loader):
    """Score the averaged network on this process's share of the validation stacks, luma only.

    Args:
        run: the Run.
        loader: of ValidationStacks.
    Returns:
        (scores, panels): the mean of every metric and of the loss over all stacks of all processes;
        panels {scene: (H, W, 3) uint8} of the first stacks of this process.
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
        fused, answer = output["fused"][0, 0].cpu().numpy(), batch["answer"][0, 0].numpy()
        scene = batch["scene"][0]
        try:
            rows.append({"loss": float(total), **score(fused, answer, 1.0)})
        except ValueError as error:
            raise StackError(f"the validation stack {scene} cannot be scored: {error}") from error
        if len(panels) < PANELS:
            weights = output["weights"]
            weights = weights if weights is None else weights[0].float().cpu().numpy()
            panels[scene] = training_panel(batch["stack"][0, 0].numpy(), fused, answer, weights)
    if dist.is_initialized():
        shares = [None] * dist.get_world_size()
        dist.all_gather_object(shares, rows)
        rows = [row for share in shares for row in share]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}, panels


def validate_and_save(run, loader, log):
    """Validate, log it, and keep the network as best.pth if it has the best PSNR so far."""
    run.validation, panels = validate(run, loader)
    log.write("validation", run.epoch, run.step, run.validation)
    log.show(panels, run.step)
    psnr = run.validation["PSNR"]
    is_best = psnr > run.best
    if is_best:
        run.best = psnr
        run.save("best.pth")
    if rank_and_world()[0] == 0:
        print(
            f"epoch {run.epoch} step {run.step}: PSNR {psnr:.2f} dB, "
            f"SSIM {run.validation['SSIM']:.4f}, loss {run.validation['loss']:.5f}"
            + (" (best)" if is_best else ""),
            flush=True,
        )


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
        reason = train_one_epoch(run, training, log, stop)
        if reason:
            if reason == Stop.TIME:
                validate_and_save(run, validation, log)
            run.save("last.pth", resumable=True)
            if rank_and_world()[0] == 0:
                print(
                    f"stopped in epoch {run.epoch + 1} after {run.step} steps; "
                    f"--exp_name {run.args.exp_name} --resume goes on"
                )
            return 0 if reason == Stop.TIME else reason
        run.epoch, run.step_in_epoch = run.epoch + 1, 0
        if run.epoch % run.args.validate_every == 0 or run.epoch == run.args.epochs:
            validate_and_save(run, validation, log)
        run.save("last.pth", resumable=True)
        if run.args.save_every and run.epoch % run.args.save_every == 0:
            run.save(f"epoch_{run.epoch:04d}.pth")
    return 0


def collect_pairs(datapaths, quiet):
    """The pairs of all folders; says which stacks and answers have no partner."""
    pairs = []
    for datapath in datapaths:
        found, left_over = find_pairs(datapath)
        if len(datapaths) > 1:  # two sets may have scenes of one name
            found = [(f"{Path(datapath).name}/{name}", *rest) for name, *rest in found]
        pairs += found
        for sentence in [] if quiet else left_over:
            print(f"left out: {sentence}")
    return pairs


def stored_samples(args, store, scenes, augmentation):
    """What trains on the stacks of --datapath.

    Args:
        args: the options; store: a LumaStore; scenes: indices of the training stacks in it.
        augmentation: an Augmentation.
    Returns:
        (samples, frame_counts, content, sentence): Samples, N of each, what `fingerprint` takes,
        and what to tell.
    """
    frame_counts = [store.frame_count(scene) for scene in scenes]
    content = [[store.pairs[scene][0], n] for scene, n in zip(scenes, frame_counts)]
    samples = TrainingStacks(store, scenes, augmentation, args.seed)
    return samples, frame_counts, content, f"{len(scenes)} stacks train"


def random_samples(args, cache_mib, augmentation, device):
    """What trains on random scenes of --photos.

    Args:
        args: the options; cache_mib: memory for photographs, MiB; augmentation: an Augmentation.
        device: torch.device that trains.
    Returns:
        As `stored_samples`.
    Raises:
        StackError: there are no photographs, or none can be read.
    """
    paths, left_over = part_readable(list_photos(args.photos))
    for sentence in [] if rank_and_world()[0] else left_over:
        print(f"left out: {sentence}")
    photos = PhotoFolder(paths, cache_mib // max(args.num_workers, 1))
    # CUDA does not survive the fork of a loader process, and the blur was never tried on MPS.
    if device.type != "cuda" or args.num_workers:
        device = torch.device("cpu")
    samples = SyntheticStacks(photos, augmentation, args.seed, device)
    frame_counts = slot_frames(args.scenes_per_epoch, args.seed)
    content = [path.name for path in paths]
    sentence = f"{len(frame_counts)} random scenes of {len(paths)} photographs train an epoch"
    return samples, frame_counts, content, sentence


def build_loaders(args, device):
    """The loaders of a run.

    Returns:
        (training, validation, data): two loaders and the fingerprint of the training scenes.
    Raises:
        StackError: the data cannot be found, read or split.
    """
    rank, world, _ = rank_and_world()
    pairs = collect_pairs(args.datapath, quiet=rank > 0) if args.datapath else []
    if args.val_datapath:
        held_out = collect_pairs(args.val_datapath, quiet=rank > 0)
        parts = range(len(pairs)), range(len(pairs), len(pairs) + len(held_out))
        pairs += held_out
    else:
        parts = split_pairs(pairs, args.val_fraction, args.seed, by_name=args.split == "name")
    size = tuple(args.image_size)
    resize = size if args.fit == "resize" and not args.photos else None
    cache_mib = args.cache_mib // 2 if args.photos else args.cache_mib
    store = LumaStore(pairs, resize, cache_mib, args.num_workers)
    augmentation = Augmentation(
        crop=None if resize else size,
        frames=args.frames,
        flips=args.flips,
        gain=args.gain,
        noise=args.noise,
        negatives=args.negatives,
        shading=args.shading,
        drift=args.drift,
    )
    if args.photos:
        data = random_samples(args, cache_mib, augmentation, device)
    else:
        data = stored_samples(args, store, parts[0], augmentation)
    samples, frame_counts, content, sentence = data
    order = EpochBatches(
        frame_counts,
        args.batch_size,
        args.seed,
        subsets=args.frames == "subset" and not args.photos,  # a random scene draws its own
        repeat=args.repeat,
        rank=rank,
        world=world,
    )
    pin = device.type == "cuda"
    training = make_loader(samples, args.num_workers, pin, batch_sampler=order)
    share = range(rank, len(parts[1]), world)
    validation = make_loader(
        ValidationStacks(store, parts[1], args.val_size), args.num_workers, pin, indices=share
    )
    if rank == 0:
        print(f"{sentence}, {len(parts[1])} validate")
    return training, validation, fingerprint(content, world)


def build_run(args, device, steps_per_epoch, data, checkpoint):
    """The network and all that trains it, fresh, from --init, or from a checkpoint to resume."""
    if args.init and checkpoint is None:
        network = load_network(args.init, device)
        if network.config != args_config(args):
            raise StackError(
                f"{args.init} holds {network.config}, the options ask for {args_config(args)}: "
                "give the --network and the --network_options of the file"
            )
    else:
        config = checkpoint["config"] if checkpoint else args_config(args)
        network = build_network(config).to(device)
    args.precision = choose_precision(network, args, device)
    trained = network
    if dist.is_initialized():
        trained = DistributedDataParallel(network, [device] if device.type == "cuda" else None)
    run = Run(
        args=args,
        folder=Path(args.experiments) / args.exp_name,
        device=device,
        network=network,
        trained=trained,
        average=Average(network, args.ema),
        optimizer=build_optimizer(network, args),
        loss_weights=loss.parse_loss_weights(args.loss_weights),
        steps_per_epoch=steps_per_epoch,
        data=data,
    )
    note = run.restore(checkpoint) if checkpoint else None
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
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
        dist.barrier()  # gloo's threads abort a process that leaves while another is at work
    finally:
        dist.destroy_process_group()


def main(argv=None):
    """Train; returns the exit status."""
    args, checkpoint = parse_args(get_parser(), argv)
    rank, world, _ = rank_and_world()
    if world > 1 and args.device.startswith(("cuda:", "mps")):
        raise StackError(
            f"--device {args.device} is one GPU for {world} processes: use --device cuda"
        )
    device = select_device(args.device)
    torch.backends.cudnn.benchmark = True  # a handful of shapes, each met thousands of times
    with process_group(device), Stop(args.max_minutes) as stop:
        seed_everything(args.seed)
        training, validation, data = build_loaders(args, device)
        run = build_run(args, device, len(training.batch_sampler), data, checkpoint)
        if rank == 0:
            write_json(run.folder / "args.json", {"args": vars(args), **run_record()})
            print(
                f"{args.network} in {args.precision} on {device}, {run.steps_per_epoch} steps an "
                f"epoch, {run.folder}"
            )
        log = Log(None if rank else run.folder, run.step)
        try:
            return train(run, training, validation, log, stop)
        finally:
            log.close()


if __name__ == "__main__":
    run_main(main)
