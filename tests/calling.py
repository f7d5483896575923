"""Calling scripts, in the test's process or in one of their own; what they are given and leave."""

import contextlib
import csv
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import make_dataset
from stackmff.images.formats import write_picture
from stackmff.processes import run_main
from tests.waiting import LATEST

ROOT = Path(__file__).parents[1]


def make_quietly(capsys, *words):
    """Call make_dataset.py in this process: (exit status, what it said on both streams)."""
    try:
        status = make_dataset.main([*map(str, words), "--workers", "1"])
    except SystemExit as stop:
        status = stop.code
    said = capsys.readouterr()
    return status, said.out + said.err


def make_stack(folder, count=3, shape=(24, 32, 3), suffix=".png", dtype=np.uint8, seed=0):
    """A folder of noise frames; returns the frames."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, np.iinfo(dtype).max + 1, (count, *shape), dtype)
    for k, frame in enumerate(frames):
        write_picture(folder / f"{k}{suffix}", frame)
    return frames


def call(main, *args):
    """Exit status of a script called in this process."""
    with pytest.raises(SystemExit) as caught:
        run_main(lambda: main([str(arg) for arg in args]))
    return caught.value.code or 0


def command(script, *args, limit=None):
    """A finished subprocess of a script; `limit`: the largest file it can write, bytes."""
    start = [sys.executable, script]
    if limit:
        program = (
            "import resource, runpy, sys\n"
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
            "sys.argv = sys.argv[1:]\n"
            "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        )
        start = [sys.executable, "-c", program, script]
    return subprocess.run(
        [*start, *map(str, args)], cwd=ROOT, capture_output=True, text=True, timeout=LATEST
    )


@contextlib.contextmanager
def holding(folder):
    """Another process that holds a folder locked; it is killed at the end of the block."""
    code = (
        "import pathlib, sys, time\n"
        "from stackmff.files import locked\n"
        "with locked(pathlib.Path(sys.argv[1]), ''):\n"
        "    print('locked', flush=True)\n"
        "    time.sleep(600)\n"
    )
    words = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def cut(path):
    """Leave the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def summary(folder):
    """{stack: row} of a data set's summary.csv."""
    with open(folder / "summary.csv", newline="", encoding="utf-8") as file:
        return {row["stack"]: row for row in csv.DictReader(file)}


def killed_while_writing(script, words, picture, writer):
    """Run a script in a process that is killed as it begins to write its picture number `picture`.

    The `write_picture` of the module `writer` kills it, so that the moment depends on no clock.
    """
    program = (
        "import itertools, os, signal, sys\n"
        f"import {script} as script, {writer} as writer\n"
        "script.SAVE_EVERY = 0\n"
        "write_picture, numbers = writer.write_picture, itertools.count()\n"
        "def write_or_die(*args, **how):\n"
        f"    if next(numbers) == {picture}:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return write_picture(*args, **how)\n"
        "writer.write_picture = write_or_die\n"
        "script.main(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        timeout=LATEST,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
