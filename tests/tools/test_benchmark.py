"""tools/benchmark.py: its stacks, what it measures of whom, its arithmetic, and that nothing is left."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn import texture

from stackmff.errors import StackError
from stackmff.evaluation import timed_stacks
from stackmff.evaluation.timed_stacks import Size
from stackmff.fusion.blending import distinct_frames
from stackmff.images.formats import read_picture, write_picture
from stackmff.images.stack import read_stack
from tools import benchmark
from tools.benchmark import PEERS, Peer, Run, ratio_word, run_measured, spread_word, time_stages

COPY = "import shutil, sys; shutil.copy(sys.argv[2], sys.argv[1])"
FAKE = """
import argparse, pathlib, shutil
parser = argparse.ArgumentParser()
parser.add_argument("--stack_path", type=pathlib.Path)
parser.add_argument("--output")
args, _ = parser.parse_known_args()
shutil.copy(min(args.stack_path.iterdir()), args.output)
"""
CELLS = {name: (k + 1) / 8 for k, name in enumerate(benchmark.STAGES)}


def peer(code, suffix=".tif"):
    """A program of Python's that is given the output and the frames."""
    return Peer((sys.executable, "-S", "-c", code, "{output}", benchmark.FRAMES), suffix, "mend it")


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
    assert all(float(row["seconds"]) > 0 and 1 < float(row["mib"]) < 300 for row in whole)
    stages = [(row["run"], row["stage"]) for row in rows if row["stage"] != "all"]
    assert stages == [(k, stage) for k in "12" for stage in benchmark.STAGES]
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
        "failed: idle with 2x64x48: it wrote no idle.tif, and ended as if all were well",
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
        "time.sleep(60)\n"
    )
    program = (
        f"import sys; sys.path.insert(0, {str(Path(benchmark.__file__).parents[1])!r})\n"
        f"from tools import benchmark; import pathlib; benchmark.HOUSE = pathlib.Path({str(place / 'house')!r})\n"
        "benchmark.run_main(lambda: benchmark.main(['--stacks', '2x32x32']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=place, stderr=subprocess.PIPE, text=True
    )
    told = place / "pid"
    while not (told.exists() and told.read_text()) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (130, "interrupted\n")
    assert list((place / "results").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)


def test_what_is_measured_is_the_program(tmp_path):
    here = np.ones(40 << 17)  # 40 MiB of this process are none of the other's
    work = "import time; held = bytearray(b'1') * (%d << 20); time.sleep(0.2)"
    runs = [
        run_measured([sys.executable, "-S", "-c", work % held], tmp_path / "log")
        for held in (20, 80)
    ]
    assert 58 < runs[1].mib - runs[0].mib < 62
    assert 20 < runs[0].mib < 40
    assert runs[1].seconds > 0.2 and runs[1].cpu_seconds < runs[1].seconds
    assert here.sum() == 40 << 17


def test_medians_ratios_and_rates():
    ours = [Run(seconds, 1, 10) for seconds in (1, 2, 6)]
    theirs = [Run(seconds, seconds / 2, 20 + seconds) for seconds in (4, 2, 8)]
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
    assert row == ["5x1000x800", *(f"{2 * cell:.2f}" for cell in CELLS.values()), "4.0"]
    alone = {size: ({"other": theirs}, [])}
    assert benchmark.program_rows(alone)[1][-1] == "-"
    assert benchmark.stage_rows(alone) == []


class Engine:
    """Takes the mean of the frames in known times, two tiles at a time."""

    output, tile, samples, most_samples = "weights", 64, 2**23, 2**23
    colour = False
    seconds = 0.0

    def prepare(self, *_):
        time.sleep(0.1)
        return 2

    def __call__(self, tiles, chroma=None):
        time.sleep(0.05)
        self.seconds += 0.05
        return np.full(tiles.shape, 1 / tiles.shape[1], np.float32)


def test_stages_are_those_of_the_work(tmp_path):
    frames = timed_stacks.write_stack(tmp_path / "frames", Size(2, 160, 64))
    start = time.perf_counter()
    seconds = time_stages(frames, Engine(), tmp_path / "fused.png")
    whole = time.perf_counter() - start
    assert list(seconds) == list(benchmark.STAGES[1:-1])
    assert seconds["network"] == pytest.approx(4 * 0.05 / 2)  # four tiles
    assert seconds["compile"] >= 0.1
    assert all(value > 0 for value in seconds.values())
    assert 0.9 * whole < sum(seconds.values()) < whole
    stack = read_stack(frames).frames
    fused = read_picture(tmp_path / "fused.png")
    assert np.abs(fused - stack.mean(0)).max() <= 0.51


def test_synthesised_stacks_have_a_plane_that_recedes(tmp_path):
    paths = timed_stacks.write_stack(tmp_path, Size(4, 96, 64))
    stack = read_stack(paths).frames
    assert stack.shape == (4, 64, 96, 3) and len(distinct_frames(stack)) == 4
    detail = np.array([np.abs(cv2.Laplacian(f, cv2.CV_32F)).mean((0, 2)) for f in stack])  # (N, W)
    assert [detail[:, x : x + 4].mean(1).argmax() for x in (2, 31, 62, 90)] == [0, 1, 2, 3]
    again = timed_stacks.write_stack(tmp_path / "again", Size(4, 96, 64))
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]


def test_real_frames_are_resized(tmp_path):
    for k in range(5):
        write_picture(tmp_path / f"{k}.png", texture(60, 80, k) // 4 + 50 * k // 2)
    means = [read_picture(tmp_path / f"{k}.png").mean() for k in range(5)]
    few = list(timed_stacks.resized(tmp_path, Size(3, 40, 30)))
    assert few[0].shape == (30, 40, 3)
    assert [frame.mean() for frame in few] == pytest.approx(means[::2], abs=0.5)
    many = np.array(list(timed_stacks.resized(tmp_path, Size(12, 90, 70))))
    assert many.shape == (12, 70, 90, 3) and len(distinct_frames(many)) == 12
    assert [frame.mean() for frame in many[:6]] == pytest.approx([*means, means[0]], abs=0.5)
    np.testing.assert_array_equal(many[5], np.roll(many[0], timed_stacks.SHIFT, axis=1))


def test_command_lines():
    line = PEERS["enfuse"].command([Path("a b.jpg"), Path("c.jpg")], Path("out.tif"))
    assert line[:2] == ["enfuse", "--exposure-weight=0"]
    assert line[-3:] == ["--output=out.tif", "a b.jpg", "c.jpg"]
    words = "--engine", "torch", "--model_path", "a b.pth", "--low_memory"
    args = benchmark.get_parser().parse_args(words)
    assert benchmark.engine_words(args) == [
        "--model_path=a b.pth",
        "--engine=torch",
        "--align=off",
        "--low_memory",
    ]
    assert benchmark.engine_words(benchmark.get_parser().parse_args([])) == ["--align=off"]


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
        (["--stacks", "1x64x64"], "1x64x64 needs 2 frames or more"),
        (["--stacks", "2x64x8"], "of 16 to 65500 px a side"),
        (["--stacks", "2x64x64", "2x64x64"], "leave out what is there twice"),
        (["--against", "copier", "copier"], "--against copier copier: leave out"),
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
    assert [row["stage"] for row in rows] == ["all", *benchmark.STAGES]
    assert all(float(row["seconds"]) >= 0 for row in rows)
