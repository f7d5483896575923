"""Train a fusion network on stacks with all-in-focus answers.

The run lives in experiments/<exp_name>/: args.json, log.jsonl, TensorBoard events, best.pth (to
use) and last.pth (to resume).
"""

import argparse
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
from dataloader import (
    FRAME_CHOICES,
    Augmentation,
    EpochBatches,
    LumaStore,
    TrainingStacks,
    ValidationStacks,
    batches,
    find_pairs,
    make_loader,
    split_pairs,
)
from metrics import score
from network import (
    NETWORKS,
    build_network,
    default_config,
    load_checkpoint,
    load_network,
    run_network,
)
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
from utils import (
    StackError,
    number,
    rank_and_world,
    run_main,
    run_record,
    seed_everything,
    select_device,
    write_json,
)

PRESETS = {
    "published": {
        "network": "StackMFF",
        "image_size": [384, 384],
        "fit": "resize",
        "frames": "shuffled",
        "flips": False,
        "gain": 0.0,
        "split": "name",
        "val_fraction": 0.2,
        "epochs": 20,
        "batch_size": 16,
        "optimizer": "sgd",
        "lr": 5e-3,
        "weight_decay": 1e-4,
        "gamma": 0.9,
        "warmup_steps": 0,
        "decay_fraction": 0.0,
        "clip": 0.0,
        "ema": 0.0,
        "loss_weights": [f"{name}={weight}" for name, weight in loss.PUBLISHED_WEIGHTS.items()],
        "precision": "fp32",
    }
}
# What a resumed run must keep, or it would not be the run that stopped.
FIXED = (
    "network",
    "network_options",
    "seed",
    "batch_size",
    "repeat",
    "image_size",
    "fit",
    "frames",
    "split",
    "val_fraction",
    "optimizer",
)
# What belongs to a session on a machine and not to the run.
OF_THE_SESSION = ("resume", "max_minutes", "device", "num_workers", "cache_mib", "experiments")
PANELS = 2  # validation scenes that TensorBoard shows


def get_parser():
    """The options of train.py."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    whole = number(int, low=1)

    group = parser.add_argument_group("run")
    group.add_argument("--exp_name", required=True, help="name of the run's folder")
    group.add_argument("--experiments", default="experiments", help="folder of all runs")
    group.add_argument("--preset", choices=list(PRESETS), help="a recipe: other defaults")
    group.add_argument("--epochs", type=whole, default=100, help="epochs of the whole run")
    group.add_argument("--seed", type=number(int, low=0, high=2**32 - 1), default=0, help="seed")
    group.add_argument("--device", default="auto", help="auto, cpu, mps, cuda or cuda:K")
    group.add_argument(
        "--precision",
        choices=["auto", "fp32", "bf16"],
        default="auto",
        help="arithmetic of the network; auto takes bf16 on CUDA, and on a CPU where it is faster",
    )
    group.add_argument(
        "--max_minutes",
        type=number(float, above=0),
        help="save and stop after this many minutes (none: no limit); --resume goes on",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on from last.pth with the run's own options; those given again replace them",
    )
    group.add_argument(
        "--save_every",
        type=number(int, low=0),
        default=0,
        help="also keep epoch_<number>.pth every so many epochs; 0 keeps none",
    )
    group.add_argument("--log_every", type=whole, default=50, help="steps between lines of the log")
    group.add_argument("--validate_every", type=whole, default=1, help="epochs between validations")

    group = parser.add_argument_group("network")
    group.add_argument("--network", choices=list(NETWORKS), default="StackMix", help="network")
    group.add_argument(
        "--network_options",
        nargs="*",
        default=[],
        metavar="NAME=VALUE",
        help="options of the network's configuration, values in JSON",
    )
    group.add_argument("--init", metavar="FILE", help="begin with the weights of a checkpoint")

    group = parser.add_argument_group("data")
    group.add_argument(
        "--datapath",
        nargs="+",
        metavar="DIR",
        help="folders with dof_stack/<scene>/ and AiF/<scene>.*; required but with --resume",
    )
    group.add_argument(
        "--val_datapath",
        nargs="+",
        metavar="DIR",
        help="validate on these sets and train on all of --datapath (none: on a share of that)",
    )
    group.add_argument(
        "--image_size",
        nargs=2,
        type=whole,
        default=[128, 128],
        metavar=("H", "W"),
        help="size of the training pictures, px",
    )
    group.add_argument(
        "--fit",
        choices=["crop", "resize"],
        default="crop",
        help="cut the training pictures out at random, or stretch whole pictures",
    )
    group.add_argument(
        "--frames",
        choices=FRAME_CHOICES,
        default="subset",
        help="2 to all of the frames in either order, all in order, or all shuffled",
    )
    group.add_argument(
        "--flips",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="mirror and turn the training pictures",
    )
    group.add_argument(
        "--gain",
        type=number(float, low=0, below=1),
        default=0.2,
        help="brightness of a sample changes by up to this factor from 1",
    )
    group.add_argument(
        "--noise",
        type=number(float, low=0),
        default=0.0,
        help="frames get Gaussian noise of up to this deviation, grey levels of 255",
    )
    group.add_argument("--repeat", type=whole, default=1, help="samples of each scene in an epoch")
    group.add_argument(
        "--val_fraction",
        type=number(float, above=0, below=1),
        default=0.05,
        help="share of the scenes that validate",
    )
    group.add_argument(
        "--split",
        choices=["random", "name"],
        default="random",
        help="validate on scenes chosen by the seed, or on the last by name",
    )
    group.add_argument(
        "--val_size",
        nargs=2,
        type=whole,
        default=[512, 512],
        metavar=("H", "W"),
        help="larger validation pictures are cut to their centre, px",
    )
    group.add_argument(
        "--num_workers",
        type=number(int, low=0),
        default=0,
        help="processes that load; 0 loads between the steps, which is enough once the pictures "
        "are in the cache",
    )
    group.add_argument(
        "--cache_mib",
        type=number(int, low=0),
        default=4096,
        help="memory for decoded pictures, MiB; it is taken as pictures come in",
    )

    group = parser.add_argument_group("optimisation")
    group.add_argument(
        "--batch_size", type=whole, default=8, help="scenes in a step of each process"
    )
    group.add_argument("--optimizer", choices=["adamw", "sgd"], default="adamw", help="method")
    group.add_argument("--lr", type=number(float, above=0), default=2e-3, help="learning rate")
    group.add_argument(
        "--gamma",
        type=number(float, above=0, high=1),
        default=1.0,
        help="factor of the learning rate from epoch to epoch",
    )
    group.add_argument(
        "--warmup_steps",
        type=number(int, low=0),
        default=200,
        help="steps in which the learning rate rises to its value",
    )
    group.add_argument(
        "--decay_fraction",
        type=number(float, low=0, high=1),
        default=0.2,
        help="last share of --epochs in which the learning rate falls to 0",
    )
    group.add_argument(
        "--weight_decay", type=number(float, low=0), default=1e-4, help="weight decay"
    )
    group.add_argument(
        "--clip",
        type=number(float, low=0),
        default=1.0,
        help="largest norm of the gradient; 0 leaves it",
    )
    group.add_argument(
        "--ema",
        type=number(float, low=0, below=1),
        default=0.999,
        help="decay of the moving average of the weights, a step; 0 uses the last weights",
    )
    group.add_argument(
        "--loss_weights",
        nargs="+",
        default=[f"{name}={weight}" for name, weight in loss.DEFAULT_WEIGHTS.items()],
        metavar="W",
        help=f"four numbers ({' '.join(loss.PUBLISHED_WEIGHTS)}), or name=weight pairs of "
        + ", ".join(loss.TERMS),
    )
    return parser


def parse_args(argv=None):
    """The options of a run: the command line over the resumed run's or the preset's defaults.

    Returns:
        (args, checkpoint): checkpoint is what last.pth holds, or None.
    Raises:
        StackError: there is nothing to resume, or the folder already holds a run.
    """
    parser = get_parser()
    args = parser.parse_args(argv)
    last = Path(args.experiments) / args.exp_name / "last.pth"
    checkpoint = None
    if args.resume:
        if args.init:
            parser.error("--init begins a run, --resume goes on with one: give one of them")
        if not last.is_file():
            raise StackError(f"{last} is not there: start the run without --resume")
        checkpoint = load_checkpoint(last)
        if "state" not in checkpoint:
            raise StackError(f"{last} holds no state of a run: use --init for its weights")
        kept = {k: v for k, v in checkpoint["args"].items() if k not in OF_THE_SESSION}
        args = parser.parse_args(argv, argparse.Namespace(**kept))
        for name in FIXED:
            if getattr(args, name) != kept[name]:
                parser.error(
                    f"--{name} is {kept[name]} in the run {args.exp_name} and cannot change when "
                    "it is resumed"
                )
    elif last.exists():
        raise StackError(
            f"{last.parent} already holds a run: --resume goes on with it, another --exp_name "
            "starts one"
        )
    elif args.preset:
        parser.set_defaults(**PRESETS[args.preset])
        args = parser.parse_args(argv)
    check_args(parser, args)
    return args, checkpoint


def check_args(parser, args):
    """End by parser.error where options contradict each other."""
    if not args.datapath:
        parser.error("--datapath is required: the folder that make_dataset.py wrote")
    try:
        weights = loss.parse_loss_weights(args.loss_weights)
    except ValueError as error:
        parser.error(f"--loss_weights: {error}")
    if weights.get("cross_entropy") and NETWORKS[args.network].output != "weights":
        parser.error(
            f"--loss_weights: cross_entropy needs weights of the frames, {args.network} gives luma"
        )
    if args.fit == "resize" and args.flips and args.image_size[0] != args.image_size[1]:
        parser.error("--fit resize with --flips turns pictures: give a square --image_size")
    try:
        args_config(args)
    except ValueError as error:
        parser.error(f"--network_options: {error}")


def args_config(args):
    """The network's configuration; raises ValueError for words that are not NAME=JSON."""
    config = default_config(args.network)
    for word in args.network_options:
        name, equals, value = word.partition("=")
        if not equals or name not in config:
            raise ValueError(f"{word!r} is no NAME=VALUE with a name of {', '.join(config)}")
        try:
            config[name] = json.loads(value)
        except json.JSONDecodeError:
            raise ValueError(f"{name}={value!r} is no JSON value") from None
    return config


def fingerprint(pairs, scenes, world):
    """What the order of an epoch depends on beside the options, as a short text."""
    content = [[pairs[i][0], len(pairs[i][1])] for i in scenes]
    return hashlib.sha256(json.dumps([world, content]).encode()).hexdigest()[:16]


def train_one_epoch(run, loader, log, stop):
    """Train to the end of the epoch, or until something stops it.

    Args:
        run: the Run; it is advanced step by step.
        loader: of TrainingStacks, set to where the run stands.
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
        training: loader of TrainingStacks with an EpochBatches.
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


def build_loaders(args, device):
    """The loaders of a run.

    Returns:
        (training, validation, data): two loaders and the fingerprint of the training scenes.
    Raises:
        StackError: the data cannot be found or split.
    """
    rank, world, _ = rank_and_world()
    pairs = collect_pairs(args.datapath, quiet=rank > 0)
    if args.val_datapath:
        held_out = collect_pairs(args.val_datapath, quiet=rank > 0)
        parts = range(len(pairs)), range(len(pairs), len(pairs) + len(held_out))
        pairs += held_out
    else:
        parts = split_pairs(pairs, args.val_fraction, args.seed, by_name=args.split == "name")
    size = tuple(args.image_size)
    resize = size if args.fit == "resize" else None
    store = LumaStore(pairs, resize, args.cache_mib, args.num_workers)
    augmentation = Augmentation(
        crop=None if resize else size,
        frames=args.frames,
        flips=args.flips,
        gain=args.gain,
        noise=args.noise,
    )
    order = EpochBatches(
        [store.frame_count(scene) for scene in parts[0]],
        args.batch_size,
        args.seed,
        subsets=args.frames == "subset",
        repeat=args.repeat,
        rank=rank,
        world=world,
    )
    pin = device.type == "cuda"
    training = make_loader(
        TrainingStacks(store, parts[0], augmentation, args.seed),
        args.num_workers,
        pin,
        batch_sampler=order,
    )
    share = range(rank, len(parts[1]), world)
    validation = make_loader(
        ValidationStacks(store, parts[1], args.val_size), args.num_workers, pin, indices=share
    )
    if rank == 0:
        print(f"{len(parts[0])} stacks train, {len(parts[1])} validate")
    return training, validation, fingerprint(pairs, parts[0], world)


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
    finally:
        dist.destroy_process_group()


def main(argv=None):
    """Train; returns the exit status."""
    args, checkpoint = parse_args(argv)
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
