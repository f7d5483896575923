"""Run the commands of docs/training.md and docs/benchmark.md on tiny data; part of `make check`.

    python -m tests.check_docs [--only WORD] [--start WORD]

Each command runs as it stands there, in a folder that looks like the clone, with more words at its
end that make it small. What is not run is listed with the reason. tests/test_extend.py does the
same for docs/extend.md.
"""

import argparse
import importlib.util
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from network import build_network
from stackmff.images.formats import write_picture
from stackmff.processes import run_main
from tests.drawn import texture, write_set
from tests.tiny_onnx import write_network

ROOT = Path(__file__).parents[1]
PAGES = ("training", "benchmark")
LIMIT = 600  # seconds of a command

TRAIN = "--image_size 16 16 --epochs 1 --batch_size 2 --device cpu --precision fp32 --num_workers 0"
PYRAMID = "--steps 1 --pool 6 --validation_scenes 1 --init tiny.pth --device cpu --precision fp32"
# {start of a command: words that make it small}; the first that fits counts.
SMALL = {
    "python train.py --photos PHOTOS --depth_path": f"{TRAIN} --photo_size 64",
    "python train.py --photos": f"{TRAIN} --scenes_per_epoch 4",
    "python train.py": TRAIN,
    "python -m tools.train_pyramid": PYRAMID,
    "python -m tools.make_bench": "--sets small --scale 0.08",
    "python -m tools.benchmark": "--stacks 3x64x48 --runs 1",
    "python -m tools.robustness": "--methods LP --axes frames --n_frames 3 --workers 1",
    "python -m tools.sweep": TRAIN,
    "python -m tools.seed_study --test thinlens large": PYRAMID,
    "python -m tools.seed_study": TRAIN,
    # The set-up that `make` would look after is the one that runs this.
    "make weights": f"SCENES=6 EPOCHS=1 FINAL_EPOCHS=1 PYRAMID_STEPS=1 VENV={sys.prefix} "
    f"--assume-old={sys.prefix}/.ready TRAIN_OPTIONS='--batch_size 2 --device cpu --num_workers 0' "
    "PYRAMID_OPTIONS='--pool 6 --validation_scenes 1 --device cpu --precision fp32'",
    "python -m tools.estimate_depth --min_colour 0": "--image_path PHOTOS --output_dir MAPS_GREY "
    "--model fastdepth.onnx",
}
NOT_RUN = {
    "make benchmark": "takes an hour; tests/synthesis/test_benchmark_set.py makes its sets",
    "pip install": "changes the environment",
}
# {start of a command: the package without which it cannot run}
PACKAGES = {
    "python -m tools.estimate_depth": "onnxruntime",
    "python -m tools.export_onnx": "onnxscript",
    "python -m tools.robustness": "matplotlib",
}
# Words that stand for something of the reader's.
WORDS = {
    **{"OUT": "results/out", "V3=FOLDER": "V3=results/out", "StackMix=OUT": "StackMix=results/out"},
    **{"DIR": "frames", "FOLDER_OF_FRAMES": "frames", "STACKS": "thinlens/stacks"},
    **{
        "PHOTOS=DIR": "PHOTOS=PHOTOS",
        "ANSWERS": "thinlens/AiF",
        "FILE.pth": "tiny.pth",
        "NAME=DIR": "out=results/out",
    },
}


class Command(NamedTuple):
    """A command of a page, in one line."""

    page: str
    text: str


def get_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="run commands with this in them alone")
    parser.add_argument("--start", default="", help="begin with the first command with this in it")
    return parser


def commands_of(page):
    """The commands of a page: its indented lines that call a program, then those in its text."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    joined = re.sub(r"\\\n\s*", "", text)
    lines = re.findall(r"^    ((?:python|make|pip|torchrun) .*)$", joined, re.M)
    inline = re.findall(r"`(python (?:-m tools\.\w+|\w+\.py)[^`]*)`", joined)
    found = [" ".join(re.sub(r"\s#.*", "", line).split()) for line in [*lines, *inline]]
    return [Command(page, line) for line in dict.fromkeys(found) if "..." not in line]


def first_of(table, text):
    """The value of the first key with which a text starts; None without one."""
    return next((value for start, value in table.items() if text.startswith(start)), None)


def why_not(text):
    """Why a command is not run; None for one that is."""
    package = first_of(PACKAGES, text)
    if package and importlib.util.find_spec(package) is None:
        return f"{package} is not installed"
    return first_of(NOT_RUN, text)


def words_of(text):
    """The words of a command as it is run."""
    words = [WORDS.get(word, word) for word in shlex.split(text)]
    if words[1:3] == ["-m", "tools.benchmark"] and shutil.which("enfuse") is None:
        words = [word for word in words if word not in ("--against", "enfuse")]
    if "--datapath" in words and "--val_datapath" not in words:
        words += ["--val_fraction", "0.4"]
    if "--num_scenes" in words:
        words += shlex.split("--num_scenes 6 --size 48 --workers 1")
    if "--methods" in words and "all" in words:
        words[words.index("all")] = "LP"
    if "--against" in words and words[words.index("--against") + 1] == "StackMix":
        words += ["--methods", "LP", "StackMix"]
    return [*words, *shlex.split(first_of(SMALL, text) or "")]


def make_place(folder):
    """Something that looks like the clone, with the data of which the pages speak."""
    made = {"data", "results", "experiments", "assets", ".git"}
    for path in ROOT.iterdir():
        if path.name not in made:
            (folder / path.name).symlink_to(path)
    for name in made - {".git"}:
        (folder / name).mkdir()
    for name in ("PHOTOS", "HELD_OUT", "middlebury"):
        for k in range(8):  # of eight, one validates tools.train_pyramid
            write_picture(folder / name / f"{k}.png", texture(128, 144, k))
    ramp = np.tile(np.linspace(20, 230, 144).astype(np.uint8), (128, 1))
    for k in range(8):
        write_picture(folder / "MAPS" / f"{k}.png", ramp[..., None])
        write_picture(folder / "middlebury" / f"{k}_disp.png", ramp[..., None])
    (folder / "MAPS" / "depth.json").write_text('{"kind": "disparity"}')
    for name in ("train", "val", "held_out", "bench/dense"):
        write_set(folder / "data" / name, [6, 6, 6, 6], 48, 48, first=len(name) * 10)
    write_set(folder / "thinlens", [3, 4], 64, 64, first=90)
    (folder / "thinlens" / "dof_stack").rename(folder / "thinlens" / "stacks")
    shutil.copytree(folder / "thinlens", folder / "large")
    shutil.copytree(folder / "thinlens" / "stacks" / "scene0", folder / "frames")
    shutil.copytree(folder / "thinlens" / "AiF", folder / "results" / "out")
    write_network(folder / "fastdepth.onnx")
    save_tiny(folder / "tiny.pth")


def save_tiny(path):
    """A checkpoint of a small StackMix."""
    import torch

    config = {"network": "StackMix", "widths": (8, 8), "hidden": 4, "window": 3, "chroma": 4}
    network = build_network(config)
    torch.save({"config": network.config, "network": network.state_dict()}, path)


def clear(words, folder):
    """Remove what an earlier command of the page made under the same name."""
    pairs = dict(itertools.pairwise(words))
    if pairs.get("--resume") == "last" or "--config" in words:
        return
    writes = ("make_dataset.py", "predict_dataset.py", "tools.estimate_depth")
    if {*words[:2]} & {*writes} and "--output_dir" in pairs:
        shutil.rmtree(folder / pairs["--output_dir"], ignore_errors=True)
    if "--exp_name" in pairs:
        shutil.rmtree(folder / "experiments" / pairs["--exp_name"], ignore_errors=True)


def run_command(command, folder):
    """Run a command; None if it ended well, else the end of what it said."""
    program, *words = words_of(command.text)
    clear(words, folder)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [program.replace("python", sys.executable), *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    return None if done.returncode == 0 else (done.stderr or done.stdout)[-500:]


def main(argv=None):
    """Run the commands; the exit status, 1 if one failed."""
    args = get_parser().parse_args(argv)
    cv2.setNumThreads(1)
    failed = []
    with tempfile.TemporaryDirectory() as name:
        make_place(Path(name))
        commands = [command for page in PAGES for command in commands_of(page)]
        for command in itertools.dropwhile(lambda one: args.start not in one.text, commands):
            if args.only not in command.text:
                continue
            if reason := why_not(command.text):
                print(f"not run  {command.page}: {command.text} ({reason})", flush=True)
                continue
            wrong = run_command(command, Path(name))
            print(f"{'failed' if wrong else 'ok':8} {command.page}: {command.text}", flush=True)
            if wrong:
                failed.append(command)
                print(wrong, file=sys.stderr, flush=True)
    print(f"{len(failed)} commands failed" if failed else "every command ran")
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(main)
