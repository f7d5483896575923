"""Every command killed at random moments and started again: nothing lost, half or stray.

Not collected by pytest, since it takes minutes:

    .venv/bin/python -m tests.check_kills                 # three kills of each command
    .venv/bin/python -m tests.check_kills --kills 125 --only predict train --first_process \\
        --minutes 60 --log kills.jsonl

Each command is run once in peace. Then it is killed by SIGKILL again and again in a folder of its
own, until a run is done before its moment comes. After each kill every result that is there must be
whole; in the end all files must be those of the run in peace, and no others. With --log, what was
done is not done again. tests/check_work.py does the same to the page.
"""

import argparse
import contextlib
import importlib
import math
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from stackmff.images.formats import write_picture
from tests.drawn import draw_stack, texture
from tests.killing import Program, files_below, known_of, note
from tests.tiny_onnx import write_network
from tests.visit import must

MOST_IN_A_ROUND = 12  # kills, after which the command is left in peace
LATE = ("openvino", "torch.utils.tensorboard")  # what commands import once they need it
LATEST = 600  # seconds that anything may take


def pictures(folder):
    """{name: bytes} of the pictures below a folder, temporary files left out."""
    paths = (path for path in folder.rglob("*.png") if not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def scores(folder):
    """{name: bytes} of a table, where it is there."""
    return {path.name: path.read_bytes() for path in folder.glob("scores.csv")}


def checkpoints(folder):
    """Read the checkpoints of a training run that is going on, whose steps depend on the moment."""
    for path in folder.glob("run/*.pth"):
        if not path.name.startswith("."):  # not what a kill has cut, which the next start removes
            torch.load(path, weights_only=True)
    return {}


def tensors(folder):
    """{name: bytes} of the weights and the count of steps that a training run has come to."""
    checkpoint = torch.load(folder / "run" / "last.pth", weights_only=True)
    network = checkpoint["state"]["network"]
    found = {name: value.numpy().tobytes() for name, value in network.items()}
    return found | {"steps": checkpoint["step"]}


@dataclass
class Job:
    """A command to kill.

    Attributes:
        module: of the command; words: of its command line, but for the folder of the results.
        output: the option that the folder, or a file in it, is given to; file: its name.
        results: called with the folder: {name: what must not differ} of a run that has ended.
        at_once: the same, of what must be whole from its first moment on.
    """

    module: str
    words: list[str]
    output: str = "--output_dir"
    file: str = ""
    results: Callable[[Path], dict[str, object]] = pictures
    at_once: Callable[[Path], dict[str, object]] = pictures

    def program(self, results, place, is_first=False):
        """Start it with a folder for its results, and one for its temporary files."""
        words = [*self.words, self.output, results / self.file]
        return Program(self.module, words, place, is_first)


def draw_photos(folder):
    """Ten pictures with large shapes and detail; returns their folder."""
    for k in range(10):
        large = cv2.resize(texture(12, 16, k), (320, 240), interpolation=cv2.INTER_CUBIC)
        picture = np.clip(0.7 * large + 0.3 * texture(240, 320, 100 + k), 0, 255)
        write_picture(folder / f"{k}.png", np.uint8(picture))
    return folder


def draw_scene(folder):
    """A small stack; returns its folder."""
    for k, frame in enumerate(draw_stack(texture(160, 240, 0), 4)):
        write_picture(folder / f"{k}.png", frame)
    return folder


def jobs(args, top):
    """{name: Job} in their order: each takes what those before it have left in `top`/whole.

    Args:
        args: of the command line.
        top: folder for everything.
    """
    whole, scene = top / "whole", draw_scene(top / "scene")
    photos = ["--image_path", str(args.photos)]
    data, fused = str(whole / "make_dataset"), str(whole / "predict_dataset")
    train = ["--datapath", data, "--exp_name", "run", "--resume", "auto", "--epochs", "3"]
    train += ["--batch_size", "2", "--image_size", "48", "48", "--num_workers", "0"]
    train += ["--save_steps", "2", "--precision", "fp32", "--val_fraction", "0.2"]
    made = [
        "--depth_path",
        str(whole / "estimate_depth"),
        "--size",
        "192",
        "--num_frames",
        "6",
        "--workers",
        "1",
    ]
    return {
        "predict": Job("predict", ["--stack_path", str(scene)], "--output", "fused.png"),
        "estimate_depth": Job("tools.estimate_depth", [*photos, "--model", args.model]),
        "make_dataset": Job("make_dataset", [*photos, *made]),
        "train": Job("train", [*train], "--experiments", "", tensors, checkpoints),
        "predict_dataset": Job("predict_dataset", ["--stack_basedir_path", data]),
        "evaluate": Job(
            "evaluate",
            ["--results", fused, "--reference", f"{data}/AiF"],
            "--csv",
            "scores.csv",
            scores,
            scores,
        ),
    }


def run(job, results, place, moment=math.inf, is_first=False):
    """Run a command to its end, or kill it; returns (whether it came to its end, its CPU time, s).

    Args:
        job: the command; results, place, is_first: as of Job.program.
        moment: CPU time after which it is killed, s.
    """
    program = job.program(results, place, is_first)
    if not program.wait(LATEST, moment):
        program.kill()
        must(program.spent >= moment, f"{job.module} takes more than {LATEST} s")
        return False, program.spent
    told = program.said.read_text(errors="replace")[-2000:]
    must(program.status == 0, f"{job.module} ended with {program.status}: {told}")
    program.said.unlink()
    return True, program.spent


class Round:
    """Kills of one command in one folder, until it has done its work.

    Args:
        job: the command; whole: folder of its run in peace.
        folder: for this round, which may not be there yet.
    """

    def __init__(self, job, whole, folder):
        self.job, self.whole, self.place = job, whole, folder / "results"
        self.temporary = folder / "temporary"
        self.temporary.mkdir(parents=True)
        self.expected = job.results(whole)
        self.kills, self.wrong = 0, []

    def go(self, rng, seconds, most, is_first):
        """Kill it up to `most` times, within `seconds` of CPU time each, and let it end."""
        has_ended = False
        while not has_ended:
            moment = rng.uniform(0, seconds) if self.kills < most else math.inf
            has_ended, _ = run(self.job, self.place, self.temporary, moment, is_first)
            if not has_ended:
                self.kills += 1
                self.compare(self.job.at_once(self.place), f"{moment:.2f} s after its start")
        found = self.job.results(self.place)
        self.compare(found, "in the end")
        self.wrong += [f"{name} is missing" for name in self.expected.keys() - found.keys()]
        stray = files_below(self.place) - files_below(self.whole) | files_below(self.temporary)
        # TensorBoard has a file for each start of a training run.
        stray = {name for name in stray if "/events.out.tfevents." not in name}
        self.wrong += [f"{name} is stray" for name in sorted(stray)]

    def compare(self, found, when):
        """Note what differs from the run in peace."""
        known = self.job.at_once(self.whole) | self.expected
        differ = sorted(name for name, value in found.items() if known.get(name) != value)
        self.wrong += [f"{name} differs {when}" for name in differ]


def killed(name, job, args, seconds, top):
    """Kill a command `args.kills` times, or as often as there is time; returns the rounds.

    Args:
        name: of the job; seconds: of CPU time that it takes in peace; top: folder for everything.
    """
    rounds = known_of(args.log, name, args.first_process)
    while (done := sum(one["kills"] for one in rounds)) < args.kills:
        if time.monotonic() > args.until:
            break
        rng = random.Random(f"{args.seed} {name} {args.first_process} {len(rounds)}")
        made = Round(job, top / "whole" / name, top / "round")
        made.go(rng, seconds, min(MOST_IN_A_ROUND, args.kills - done), args.first_process)
        shutil.rmtree(top / "round")
        one = {"name": name, "first": args.first_process, "kills": made.kills}
        rounds.append(one | {"wrong": made.wrong})
        note(args.log, rounds[-1])
    return rounds


def get_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="default: drawn ones")
    parser.add_argument("--model", type=Path, help="an ONNX file; default: the mean of the colours")
    parser.add_argument("--only", nargs="+", help="of the commands (default: all)")
    parser.add_argument("--kills", type=int, default=3, help="of each command (default: 3)")
    parser.add_argument("--minutes", type=float, default=60, help="for all (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument(
        "--first_process", action="store_true", help="as process 1, as in a container"
    )
    parser.add_argument("--log", type=Path, help="JSON lines; what it holds is not done again")
    return parser


def main():
    """Run each command in peace, then with kills. Returns the exit status."""
    args = get_parser().parse_args()
    args.until = time.monotonic() + 60 * args.minutes
    bad = 0
    cv2.setNumThreads(1)  # a fork has no other threads, and would wait for them
    torch.set_num_threads(1)
    for name in LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        args.photos = (args.photos or draw_photos(top / "photos")).resolve()
        args.model = str((args.model or write_network(top / "fastdepth.onnx")).resolve())
        wanted = set(args.only or jobs(args, top))
        for name, job in jobs(args, top).items():
            if not wanted:
                break
            _, seconds = run(job, top / "whole" / name, top)
            if name not in wanted:
                continue
            wanted.remove(name)
            rounds = killed(name, job, args, seconds, top)
            wrong = [sentence for one in rounds for sentence in one["wrong"]]
            count = sum(one["kills"] for one in rounds)
            print(f"{name}: {count} kills in {len(rounds)} rounds, {len(wrong)} faults", flush=True)
            for sentence in wrong:
                print(f"  {sentence}")
            bad += len(wrong)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
