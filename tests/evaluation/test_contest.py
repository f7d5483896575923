"""evaluation/contest.py: what is fused, measured, recorded and not done again; how failures end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_toolbox
import numpy as np
import pytest
import tifffile
from drawn import texture

from stackmff.errors import StackError
from stackmff.evaluation import contest
from stackmff.files import sha256
from stackmff.images import folders as folders_module
from stackmff.images.formats import read_picture, write_picture
from tests.waiting import LATEST

TESTS = str(Path(__file__).parents[1])
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    monkeypatch.setattr(contest, "methods", fake_toolbox)
    monkeypatch.setenv("PYTHONPATH", TESTS)


def write_stacks(folder, broken=()):
    """Stacks a, b and c of two frames, the first pixel telling which are to be broken."""
    for k, name in enumerate("abc"):
        for j in range(2):
            frame = texture(20, 24, 2 * k + j)
            frame[0, 0, 0] = fake_toolbox.BROKEN if name in broken else 0
            write_picture(folder / name / f"{j}.png", frame)
    return folders_module.find_stacks(folder)


def run(stacks, output, *words, iterative=False, **how):
    return contest.run_contest(contest.make_entries(words, iterative, output), stacks, **how)


def stamps(folder):
    return {path.stem: path.stat().st_mtime_ns for path in folder.glob("*.png")}


def test_results_records_and_what_is_not_done_again(tmp_path):
    stacks = write_stacks(tmp_path / "set")
    words = "first", "chatty"
    results, failures = run(stacks, tmp_path / "out", *words)
    assert not failures
    assert list(results) == list(words)
    assert all(list(cells) == ["a", "b", "c"] for cells in results.values())
    for name, cells in results.items():
        for stack, cell in cells.items():
            assert cell["file"] == tmp_path / "out" / name / f"{stack}.png"
            np.testing.assert_array_equal(
                read_picture(cell["file"]), read_picture(stacks[stack] / "0.png")
            )
            assert cell["seconds"] > 0 and cell["mib"] > 10
    record = json.loads((tmp_path / "out" / "first" / "records" / "b.json").read_text())
    assert [frame["name"] for frame in record["frames"]] == ["0.png", "1.png"]
    assert record["frames"][0]["size"] == (stacks["b"] / "0.png").stat().st_size
    assert record["options"] == {"method": "first", "iterative": False, "strength": "1"}
    assert record["weights"] is None and record["run"]["versions"]["python"]
    assert record["result"]["width"] == 24 and record["result"]["frames"] == 2

    before = stamps(tmp_path / "out" / "first")
    assert run(stacks, tmp_path / "out", "first") == ({"first": results["first"]}, [])
    assert stamps(tmp_path / "out" / "first") == before
    os.utime(stacks["a"] / "1.png", (1, 1))
    (tmp_path / "out" / "first" / "c.png").unlink()
    run(stacks, tmp_path / "out", "first")
    after = stamps(tmp_path / "out" / "first")
    assert {name for name in after if after[name] != before[name]} == {"a", "c"}


def test_what_a_result_depends_on(tmp_path, monkeypatch):
    stacks = write_stacks(tmp_path / "set")
    asked = []

    def fuse_all(entry, todo):  # no process: what is asked for is all that matters here
        for stack, _, output in todo:
            asked.append(stack)
            write_picture(output, np.zeros((2, 2), np.uint8))
            yield stack, output, {"result": {"seconds": 1.0, "mib": 2.0}}

    monkeypatch.setattr(contest, "fuse_all", fuse_all)
    (tmp_path / "w.pth").write_text("some")

    def fused(word, **how):
        asked.clear()
        run(stacks, tmp_path / "out", word, **how)
        return "".join(asked)

    assert fused("first") == "abc" and fused("first") == ""
    assert fused("first", overwrite=True) == "abc"
    assert fused("first", iterative=True) == "abc" and fused("first") == ""
    assert (tmp_path / "out" / "first-iterative" / "a.png").is_file()
    assert fused("first:strength=2") == "abc" and fused("first:strength=2") == ""
    monkeypatch.setattr(fake_toolbox, "parse_method", lambda word: (word, {"strength": "3"}))
    assert fused("first") == "abc"  # as when the method's defaults have changed
    monkeypatch.undo()
    monkeypatch.setattr(contest, "methods", fake_toolbox)
    monkeypatch.setenv("PYTHONPATH", TESTS)
    monkeypatch.setattr(contest, "fuse_all", fuse_all)
    word = f"hungry:weights={tmp_path / 'w.pth'}"
    (entry,) = contest.make_entries([word], False, tmp_path / "out")
    assert entry.weights == {"weights": sha256(tmp_path / "w.pth")}
    assert entry.folder.parent == tmp_path / "out"  # no slash of the option is left
    assert fused(word) == "abc" and fused(word) == ""
    (tmp_path / "w.pth").write_text("others")
    assert fused(word) == "abc"


def test_failures_are_named_and_the_rest_goes_on(tmp_path, capsys):
    stacks = write_stacks(tmp_path / "set", broken="b")
    results, failures = run(stacks, tmp_path / "out", "bad", "dying", "small", "absent", "first")
    assert list(results) == ["first"]
    left_out = "and is left out of the table"
    assert failures == [
        r"bad: b: ValueError: no such\nluck",
        f"bad lacks 1 of 3 results {left_out}",
        "dying: b: its process was killed, most likely because memory ran out",
        f"dying lacks 1 of 3 results {left_out}",
        *(
            f"small: {stack}: it returns (19, 24, 3) uint8 for frames of (20, 24, 3) uint8: fix "
            "the method"
            for stack in "abc"
        ),
        f"small lacks 3 of 3 results {left_out}",
        "absent: absent needs a package",
        f"absent lacks 3 of 3 results {left_out}",
    ]
    for method in ("bad", "dying"):
        assert sorted(stamps(tmp_path / "out" / method)) == ["a", "c"]
        assert not (tmp_path / "out" / method / "records" / "b.json").exists()
    assert r"failed: bad: b: ValueError: no such\nluck" in capsys.readouterr().err


def test_a_bad_frame_is_told_and_the_rest_goes_on(tmp_path):
    stacks = write_stacks(tmp_path / "set")
    (stacks["b"] / "1.png").write_text("this is no picture")
    results, failures = run(stacks, tmp_path / "out", "first")
    assert results == {}
    assert failures[0].startswith("first: b: ") and "1.png is not a picture" in failures[0]
    assert failures[1].startswith("first lacks 1 of 3 results")
    assert sorted(stamps(tmp_path / "out" / "first")) == ["a", "c"]


def test_a_stack_of_one_frame_is_told_before_the_work(tmp_path):
    stacks = write_stacks(tmp_path / "set")
    (stacks["c"] / "1.png").unlink()
    with pytest.raises(StackError, match="c holds one picture: a stack needs two or more"):
        run(stacks, tmp_path / "out", "first")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak starts anew there")
def test_the_memory_is_that_of_the_stack(tmp_path):
    stacks = write_stacks(tmp_path / "set", broken="b")
    here = np.ones(40 << 17)  # 40 MiB of this process are none of the other's
    results, _ = run(stacks, tmp_path / "out", "hungry")
    mib = {stack: cell["mib"] for stack, cell in results["hungry"].items()}
    assert 195 < mib["b"] - mib["a"] < 260
    assert abs(mib["c"] - mib["a"]) < 40
    assert here.sum() == 40 << 17


@pytest.mark.parametrize(("method", "times"), [("slow", 1), ("stubborn", 2)])
def test_ctrl_c_ends_without_loss_and_leaves_no_process(tmp_path, method, times):
    write_stacks(tmp_path / "set", broken="c")
    program = (
        "import sys, fake_toolbox\n"
        "from stackmff.evaluation import contest\n"
        "from stackmff.images import folders\n"
        "from stackmff import processes\n"
        "contest.methods = fake_toolbox\n"
        "processes.GRACE = 60\n"
        "entries = contest.make_entries([sys.argv[3]], False, sys.argv[2])\n"
        "stacks = folders.find_stacks(sys.argv[1])\n"
        "processes.run_main(lambda: contest.run_contest(entries, stacks))\n"
    )
    told = tmp_path / "pid"
    folders = [str(tmp_path / "set"), str(tmp_path / "out"), method]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *folders],
        cwd=ROOT,
        env={**os.environ, "SLOW_FILE": str(told)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    results = tmp_path / "out" / method
    noted = results / "records" / "b.json"
    while not (told.exists() and told.read_text() and noted.exists()) and process.poll() is None:
        time.sleep(0.05)
    child = int(told.read_text())
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to both
        time.sleep(0.5)
    _, error = process.communicate(timeout=LATEST)
    assert process.returncode == 130
    assert error == "interrupted\n"
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert sorted(path.name for path in results.iterdir()) == ["a.png", "b.png", "records"]
    records = sorted((results / "records").iterdir())
    assert [path.name for path in records] == ["a.json", "b.json"]


def test_a_stack_in_one_file(tmp_path):
    (tmp_path / "set").mkdir()
    pages = np.stack([texture(20, 24, seed) for seed in range(3)])
    tifffile.imwrite(tmp_path / "set" / "pages.tif", pages, photometric="rgb")
    stacks = folders_module.find_stacks(tmp_path / "set")
    results, failures = run(stacks, tmp_path / "out", "first")
    assert not failures
    np.testing.assert_array_equal(read_picture(results["first"]["pages"]["file"]), pages[0])
    write_picture(tmp_path / "set" / "pages" / "0.png", pages[0])
    with pytest.raises(StackError, match=r"pages\.tif and pages have the same name"):
        folders_module.find_stacks(tmp_path / "set")


def test_places_and_names(tmp_path):
    write_stacks(tmp_path / "data" / "dof_stack")
    assert list(folders_module.find_stacks(tmp_path / "data")) == ["a", "b", "c"]
    contest.check_place(tmp_path / "data" / "fused", tmp_path / "data")
    for place in ("data/dof_stack", "data/dof_stack/fused", "data/dof_stack/a"):
        with pytest.raises(StackError, match="choose another --output_dir"):
            contest.check_place(tmp_path / place, tmp_path / "data")
    with pytest.raises(StackError, match="holds no stacks"):
        folders_module.find_stacks(tmp_path / "data" / "dof_stack" / "a")
    with pytest.raises(StackError, match="is not a method"):
        contest.make_entries(["other"], False, tmp_path)
    with pytest.raises(StackError, match=r"would share .*first-x=a-b: remove one"):
        contest.make_entries(["first:x=a/b", "first:x=a-b"], False, tmp_path)
