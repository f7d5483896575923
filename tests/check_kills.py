"""From photographs to scores, every command killed at random moments and started again.

Not collected by pytest, since it takes minutes:

    .venv/bin/python -m tests.check_kills                 # three of each command
    .venv/bin/python -m tests.check_kills --kills 200 --photos PHOTOS --model fastdepth.onnx

PHOTOS are some ten photographs; without them they are drawn. What comes out, maps, stacks, weights,
pictures and scores, must be what comes out of commands that nobody kills.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from stackmff.images.formats import write_picture
from tests.drawn import texture
from tests.tiny_onnx import write_network

ROOT = Path(__file__).parent.parent


def commands(args, folder):
    """The five commands of the README in their order, small, with results in `folder`."""
    photos, maps, data, runs, fused = (
        str(path) for path in (args.photos, *(folder / n for n in ("maps", "set", "runs", "out")))
    )
    train = ["--datapath", data, "--experiments", runs, "--exp_name", "run", "--resume", "auto"]
    train += ["--epochs", "6", "--batch_size", "2", "--image_size", "48", "48"]
    train += ["--num_workers", "0", "--save_steps", "2", "--precision", "fp32"]
    train += ["--val_fraction", "0.2"]
    made = ["--output_dir", data, "--size", "192", "--num_frames", "6"]
    weights = ["--model_path", f"{runs}/run/best.pth"]
    scored = ["--csv", f"{folder}/scores.csv"]
    return [
        [
            "-m",
            "tools.estimate_depth",
            "--image_path",
            photos,
            "--output_dir",
            maps,
            "--model",
            args.model,
        ],
        ["make_dataset.py", "--image_path", photos, "--depth_path", maps, *made],
        ["train.py", *train],
        ["predict_dataset.py", "--stack_basedir_path", data, "--output_dir", fused, *weights],
        ["evaluate.py", "--results", fused, "--reference", f"{data}/AiF", *scored],
    ]


def draw_photos(folder):
    """Ten pictures with large shapes and detail; returns their folder."""
    for k in range(10):
        large = cv2.resize(texture(12, 16, k), (320, 240), interpolation=cv2.INTER_CUBIC)
        picture = np.clip(0.7 * large + 0.3 * texture(240, 320, 100 + k), 0, 255)
        write_picture(folder / f"{k}.png", np.uint8(picture))
    return folder


def name_of(command):
    """The file or the module that a command runs."""
    return command[1] if command[0] == "-m" else command[0]


def run(command, limit=None):
    """Run a command to its end, or kill it after `limit` s; returns whether it came to its end."""
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False
    if process.returncode:
        sys.exit(f"{name_of(command)} ended with {process.returncode}: {said.decode()[-2000:]}")
    return True


def results(folder):
    """{name: what must not differ}: bytes of pictures and scores, tensors of the checkpoint."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.png")}
    found.pop("runs/run/curves.png")  # it has samples a second in it
    found["scores.csv"] = (folder / "scores.csv").read_bytes()
    checkpoint = torch.load(folder / "runs" / "run" / "last.pth", weights_only=True)
    found["steps"] = checkpoint["step"]
    for name, value in checkpoint["state"]["network"].items():
        found[name] = value.numpy().tobytes()
    return found


def main():
    """Run the way whole, then with kills, and compare. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="default: drawn ones")
    parser.add_argument("--model", type=Path, help="an ONNX file; default: the mean of the colours")
    parser.add_argument("--kills", type=int, default=3, help="of each command (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as top:
        args.photos = (args.photos or draw_photos(Path(top) / "photos")).resolve()
        args.model = str((args.model or write_network(Path(top) / "fastdepth.onnx")).resolve())
        whole, killed = Path(top) / "whole", Path(top) / "killed"
        for one, other in zip(commands(args, whole), commands(args, killed)):
            start = time.monotonic()
            run(one)
            seconds = time.monotonic() - start
            moments = [rng.uniform(0.1, 0.6) * seconds for _ in range(args.kills)]
            ends = [run(other, moment) for moment in moments]
            run(other)
            times = ", ".join(f"{moment:.1f}" for moment in moments)
            ended = f"killed {ends.count(False)} times, after {times} s"
            print(f"{name_of(one)}: {seconds:.1f} s; {ended}", flush=True)
        expected, found = results(whole), results(killed)
        hidden = [{p.relative_to(top) for p in top.rglob(".*")} for top in (whole, killed)]
        stray = sorted(str(path) for path in hidden[1] - hidden[0])  # the lock of a run stays
    wrong = sorted(n for n in expected | found if expected.get(n) != found.get(n))
    print(f"{len(expected)} results, {len(wrong)} differ; {len(stray)} stray files")
    for name in wrong + stray:
        print(f"  {name}")
    return 1 if wrong or stray else 0


if __name__ == "__main__":
    sys.exit(main())
