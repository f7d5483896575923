"""tools/benchmark.py: its stacks, what it measures, its arithmetic, and that nothing is left."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from stackmff.errors import StackError
from stackmff.evaluation.programs import FRAMES, PEERS, Measured, Peer
from stackmff.evaluation.stages import STAGES
from stackmff.evaluation.timed_stacks import Size
from stackmff.images.formats import read_picture, write_picture
from stackmff.options import parse
from tests.waiting import LATEST
from tools import benchmark
from tools.benchmark import ratio_word, spread_word

COPY = "import shutil, sys; shutil.copy(sys.argv[2], sys.argv[1])"
FAKE = """
import argparse, pathlib, shutil
parser = argparse.ArgumentParser()
parser.add_argument("--stack_path", type=pathlib.Path)
parser.add_argument("--output")
args, _ = parser.parse_known_args()
shutil.copy(min(args.stack_path.iterdir()), args.output)
"""
CELLS = {name: (k + 1) / 8 for k, name in enumerate(STAGES)}


def peer(code, suffix=".tif"):
    """A program of Python's that is given the output and the frames."""
    return Peer((sys.executable, "-S", "-c", code, "{output}", FRAMES), suffix, "mend it")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, with a predict.py that copies the first frame, and a peer that does."""
    (tmp_path / "house").mkdir()
    (tmp_path / "house" / benchmark.OURS).write_text(FAKE)
    monkeypatch.setattr(benchmark, "HOUSE", tmp_path / "house")
    monkeypatch.setattr(benchmark, "run_stages", lambda *_: {"engine": "Fake (x)", **CELLS})
    monkeypatch.setitem(PEERS, "copier", peer(COPY))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return benchmark.main([str(word) for word in words])
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_programs_take_turns_and_nothing_is_left(place, monkeypatch, capsys):
    order = []
    measured = benchmark.run_program

    def spy(name, *rest):
        order.append(name)
        return measured(name, *rest)

    monkeypatch.setattr(benchmark, "run_program", spy)
    tables = "--csv", "out/t.csv", "--markdown", "out/t.md"
    assert run("--stacks", "2x96x64", "--runs", 2, "--against", "copier", *tables) == 0
    assert order == ["predict.py", "copier"] * 2
    assert list((place / "results").iterdir()) == []
    said = capsys.readouterr().out
    assert "start-up" in said and "Fake (x)" in said
    rows = list(csv.DictReader((place / "out" / "t.csv").open()))
    whole = [row for row in rows if row["stage"] == "all"]
    assert [(row["program"], row["run"]) for row in whole] == [
        *(("predict.py", k) for k in "12"),
        *(("copier", k) for k in "12"),
    ]
    assert all(float(row["seconds"]) > 0 and float(row["mib"]) > 1 for row in whole)
    stages = [(row["run"], row["stage"]) for row in rows if row["stage"] != "all"]
    assert stages == [(k, stage) for k in "12" for stage in STAGES]
    first, second, *paragraphs = (place / "out" / "t.md").read_text().split("\n\n")
    assert [line.split(" | ")[1] for line in first.split("\n")[2:]] == ["predict.py", "copier"]
    assert second.split("\n")[2].startswith("| 2x96x64 | 0.12 | 0.25 | 0.38 | 0.50 |")
    assert len(paragraphs) == 2


def test_the_results_are_kept_where_asked(place):
    assert run("--stacks", "3x64x48", "--runs", 1, "--output_dir", "kept") == 0
    folder = place / "kept" / "3x64x48"
    frame = read_picture(folder / "frames" / "0000.jpg")
    np.testing.assert_array_equal(read_picture(folder / "predict.py.jpg"), frame)
    assert not (place / "results").exists()
    write_picture(folder / "frames" / "0009.png", frame)
    with pytest.raises(StackError, match="holds other pictures too: choose another --output_dir"):
        run("--stacks", "3x64x48", "--runs", 1, "--output_dir", "kept")


def test_a_program_that_fails_is_told_and_the_rest_goes_on(place, monkeypatch, capsys):
    monkeypatch.setitem(PEERS, "bad", peer("import sys; sys.exit('no such\\nluck')"))
    monkeypatch.setitem(PEERS, "idle", peer("pass"))
    monkeypatch.setitem(PEERS, "dead", peer("import os; os.kill(os.getpid(), 9)"))
    words = "--stacks", "2x64x48", "--runs", 2, "--against", "bad", "idle", "dead", "copier"
    assert run(*words) == 1
    said = capsys.readouterr()
    assert [line for line in said.err.split("\n") if line.startswith("failed")] == [
        "failed: bad with 2x64x48: its process ended with exit status 1: luck",
        "failed: idle with 2x64x48: it wrote no idle.tif although it reported success",
        "failed: dead with 2x64x48: its process was killed, most likely because memory "
        "ran out: it said nothing",
    ]
    assert "copier" in said.out
    assert not any(name in said.out for name in ("bad", "idle", "dead"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_neither_folder_nor_process(place, number):
    (place / "house" / benchmark.OURS).write_text(
        "import os, pathlib, time\n"
        "pathlib.Path('pid').write_text(str(os.getpid()))\n"
        "time.sleep(600)\n"
    )
    program = (
        f"import sys; sys.path.insert(0, {str(Path(benchmark.__file__).parents[1])!r})\n"
        "import pathlib\n"
        "from tools import benchmark\n"
        f"benchmark.HOUSE = pathlib.Path({str(place / 'house')!r})\n"
        "benchmark.run_main(lambda: benchmark.main(['--stacks', '2x32x32']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=place, stderr=subprocess.PIPE, text=True
    )
    told = place / "pid"
    while not (told.exists() and told.read_text()) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    _, error = process.communicate(timeout=LATEST)
    assert (process.returncode, error) == (130, "interrupted\n")
    assert list((place / "results").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)


def test_medians_ratios_and_rates():
    ours = [Measured(seconds, 1, 10) for seconds in (1, 2, 6)]
    theirs = [Measured(seconds, seconds / 2, 20 + seconds) for seconds in (4, 2, 8)]
    assert spread_word([3, 1, 2.5], ".1f") == "2.5 (1.0 to 3.0)"
    assert ratio_word(ours, theirs) == "0.50 (0.25 to 1.00)"
    size = Size(5, 1000, 800)
    stages = [{"engine": "x", **{name: k * cell for name, cell in CELLS.items()}} for k in (1, 3)]
    results = {size: ({"predict.py": ours, "other": theirs}, stages)}
    assert benchmark.program_rows(results)[1:] == [
        ["5x1000x800", "predict.py", "2.00 (1.00 to 6.00)", "1.00", "10", "2.0", "-"],
        ["5x1000x800", "other", "4.00 (2.00 to 8.00)", "2.00", "28", "1.0", "0.50 (0.25 to 1.00)"],
    ]
    (_, row) = benchmark.stage_rows(results)
    assert row == ["5x1000x800", *(f"{2 * cell:.2f}" for cell in CELLS.values()), "3.2"]
    alone = {size: ({"other": theirs}, [])}
    assert benchmark.program_rows(alone)[1][-1] == "-"
    assert benchmark.stage_rows(alone) == []


def predict_words(*words):
    (options,) = parse(benchmark.get_parser(), words, benchmark.BenchmarkOptions)
    return options.predict_words()


def test_command_lines():
    words = "--engine", "torch", "--model_path", "a b.pth", "--low_memory"
    assert predict_words(*words) == [
        "--model_path=a b.pth",
        "--engine=torch",
        "--align=off",
        "--low_memory",
    ]
    assert predict_words() == ["--align=off"]


def test_a_program_that_is_not_installed_is_named_before_the_work(place, monkeypatch):
    monkeypatch.setitem(PEERS, "absent", Peer(("no-such-program",), ".tif", "apt install it"))
    sentence = "--against absent: no-such-program is not installed: apt install it"
    with pytest.raises(StackError, match=sentence):
        run("--against", "absent")
    assert not (place / "results").exists()


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--stacks", "7x2048"], "'7x2048' is not of the form NxWxH"),
        (["--stacks", "1x64x64"], "1x64x64 is out of range: give at least 2 frames"),
        (["--stacks", "2x64x8"], "with sides of 16 to 65500 px"),
        (["--stacks", "2x64x64", "2x64x64"], "2x64x64 2x64x64: remove the duplicate"),
        (["--against", "copier", "copier"], "--against copier copier: remove the duplicate"),
        (["--against", "other"], "invalid choice: 'other'"),
        (["--engine", "other"], "invalid choice: 'other'"),
        (["--runs", "0"], "0 must be at least 1"),
    ],
)
def test_contradictions(place, capsys, words, sentence):
    with pytest.raises(SystemExit) as caught:
        run(*words)
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


def test_predict_itself(tmp_path, monkeypatch):
    """One run of the real programs, end to end and stage by stage."""
    monkeypatch.chdir(tmp_path)
    words = "--stacks", "2x96x64", "--runs", 1, "--output_dir", "kept", "--csv", "t.csv"
    assert run(*words, "--precision", "fp32", "--device", "cpu") == 0
    folder = tmp_path / "kept" / "2x96x64"
    ours, stages = (read_picture(folder / name) for name in ("predict.py.jpg", "stages.jpg"))
    np.testing.assert_array_equal(ours, stages)
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [row["stage"] for row in rows] == ["all", *STAGES]
    assert all(float(row["seconds"]) >= 0 for row in rows)
