"""docs/extend.md: its files and commands, as they stand there, on tiny data."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import draw_stack, texture, write_set

from stackmff.errors import StackError
from stackmff.images.formats import write_picture
from stackmff.own import add_own, function, network_class, own_object

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extend.md").read_text()
TINY = ["--image_size", "16", "16", "--epochs", "1", "--batch_size", "2", "--device", "cpu"]
TINY += ["--precision", "fp32", "--val_fraction", "0.3", "--num_workers", "0"]


def part(title):
    """(files, commands) of a section of the page: {name: code} and lists of words."""
    section = next(text for text in PAGE.split("\n## ") if text.startswith(f"{title}\n"))
    name = re.search(r"`(my_\w+\.py)`", section)[1]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.S)
    lines = [
        line
        for block in re.findall(r"```sh\n(.*?)```", section, re.S)
        for line in block.splitlines()
    ]
    return {name: code}, [shlex.split(line) for line in lines]


def run(words, folder):
    """What a command of the page prints, run in a folder of data instead of the clone."""
    program, *rest = words
    assert program == "python"
    if rest[0] == "-m":
        rest = [*rest[:2], *rest[2:]]
    elif (ROOT / rest[0]).is_file():
        rest[0] = str(ROOT / rest[0])
    if "train.py" in rest[0]:
        rest += TINY
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *rest], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{words}: {done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture
def place(tmp_path):
    write_set(tmp_path / "data" / "train", [2, 3, 2, 3, 2], 32, 32)
    write_set(tmp_path / "data" / "test", [3, 2], 40, 40, first=20)
    return tmp_path


def follow(title, place):
    """Do what a section says: what its commands print."""
    files, commands = part(title)
    for name, code in files.items():
        (place / name).write_text(code)
    return [run(words, place) for words in commands]


@pytest.mark.slow
def test_a_network(place):
    table = follow("A network", place)[-1]
    rows = {line.split()[0] for line in table.splitlines() if line}
    assert {"MyNet", "default"} <= rows
    checkpoint = torch.load(place / "experiments/my_net/best.pth", weights_only=True)
    assert checkpoint["config"] == {"network": "my_net.py:MyNet", "width": 8}
    assert (place / "experiments/my_net/best.xml").is_file()
    # It resumes, and is fused from elsewhere, but only where its class is named.
    words = ["python", "train.py", "--exp_name", "my_net", "--resume", "--epochs", "2"]
    (place / "elsewhere").mkdir()
    run([*words], place)
    (place / "my_net.py").rename(place / "elsewhere" / "my_net.py")
    fuse = ["python", "predict.py", "--stack_path", "data/test/dof_stack/scene0", "--engine"]
    fuse += ["torch", "--model_path", "experiments/my_net/best.pth"]
    with pytest.raises(AssertionError, match=r"give --network\s+FILE.py:MyNet with that file"):
        run(fuse, place)
    run([*fuse, "--network", "elsewhere/my_net.py:MyNet"], place)
    assert (place / "results" / "scene0.png").is_file()


@pytest.mark.slow
def test_a_loss_term(place):
    follow("A loss term", place)
    lines = (place / "experiments/my_loss/log.jsonl").read_text().splitlines()
    logged = next(json.loads(line)["train"] for line in lines if "train" in line)
    assert logged["my_loss.py:gradient"] > 0


def test_a_metric_and_a_method(place):
    write_set(place / "same", [2, 2], 40, 40, first=20)
    results = place / "results" / "default"
    for path in (place / "same" / "AiF").iterdir():
        write_picture(results / path.name, np.zeros((40, 40, 3), np.uint8))
    (said,) = follow("A metric", place)
    assert said.splitlines()[0].split()[-1] == "my_metric.py:worst"
    (table,) = follow("A fusion method", place)
    assert any(line.startswith("my_method.py:middle ") for line in table.splitlines())


@pytest.mark.slow
def test_a_data_set(place):
    for k in range(3):
        answer = texture(32, 32, 40 + k)
        for name, picture in zip(("near", "far", "sharp"), [*draw_stack(answer, 2), answer]):
            write_picture(place / "pairs" / f"s{k}_{name}.png", picture)
    assert "nothing is left behind" in follow("A data set", place)[-1]


@pytest.mark.parametrize(
    ("code", "word", "sentence"),
    [
        ("", "a.py:Net", "does not define Net"),
        ("1 / 0", "a.py:Net", "cannot be executed: ZeroDivisionError: division by zero"),
        ("def Net(): pass", "a.py:Net", "is not a network: .* it lacks output, colour, options"),
        ("class Net: output, colour, options = 'depth', 0, {}", "a.py:Net", "output is 'depth'"),
        ("", "b.py:Net", "b.py does not exist"),
    ],
)
def test_what_is_no_network(tmp_path, monkeypatch, code, word, sentence):
    monkeypatch.chdir(tmp_path)
    Path("a.py").write_text(code)
    with pytest.raises(StackError, match=sentence):
        add_own({}, word, network_class)


def test_a_file_is_executed_once_and_only_words_of_its_form_are_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.py").write_text("one, two = object(), 3\n")
    assert own_object("a.py:one") is own_object(f"{tmp_path}/a.py:one")
    table = {}
    for word in ("LP", "GFF:base_radius=20", "a.py", "a.py:1", "a.py:one=3"):
        add_own(table, word)
    assert not table
    with pytest.raises(StackError, match=r"a\.py:two is not a function but 3"):
        add_own(table, "a.py:two", function)
