"""predict_dataset.py: which stacks it finds, what it writes, and how a bad one ends."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from calling import ROOT, call, command, cut, make_stack, summary

import predict_dataset
from stackmff.errors import StackError
from stackmff.fusion import batch
from stackmff.fusion.outputs import Files
from stackmff.images import folders
from stackmff.images.datasets import find_datasets, result_folders
from stackmff.images.formats import write_picture
from stackmff.options import build
from tests.waiting import LATEST


def find(base):
    return {name: [s.name for s in group] for name, group in find_datasets(base).items()}


def test_stacks_are_found(tmp_path):
    plain = tmp_path / "plain"
    for name in ("s10", "s2", "AiF", "Depth", "disparity", ".hidden", "lost+found"):
        make_stack(plain / name, 2, (2, 2, 3))
    (plain / "empty").mkdir()
    write_picture(plain / "loose.png", np.zeros((2, 2, 3), np.uint8))
    assert find(plain) == {"plain": ["s2", "s10"]}
    many = tmp_path / "many"
    for folder in ("a/dof_stack/x", "a/AiF", "b/image stack/y", "b/image stack/z", "c/stacks/x"):
        make_stack(many / folder, 2, (2, 2, 3))
    assert find(many) == {"a": ["x"], "b": ["y", "z"], "c": ["x"]}
    assert find(many / "a") == {"a": ["x"]}
    assert find(many / "b" / "image stack") == {"b": ["y", "z"]}
    make_stack(many / "own", 2, (2, 2, 3))
    assert find(many) == {"many": ["own"], "a": ["x"], "b": ["y", "z"], "c": ["x"]}
    make_stack(many / "a" / "stacks" / "w", 2, (2, 2, 3))
    with pytest.raises(StackError, match="holds dof_stack and stacks"):
        find(many)
    with pytest.raises(StackError, match="holds no stacks"):
        find(plain / "empty")
    with pytest.raises(StackError, match="is not a folder"):
        find(plain / "loose.png")


def test_results_are_kept_apart_from_stacks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_stack(tmp_path / "set" / "dof_stack" / "x", 2, (2, 2, 3))
    make_stack(tmp_path / "plain" / "y", 2, (2, 2, 3))

    def targets(base, output_dir=None):
        base = tmp_path / base
        datasets = find_datasets(base)
        return result_folders(base, datasets, output_dir)

    assert targets("set") == {"set": Path("results/set")}
    assert targets("set/dof_stack") == {"set": Path("results/set")}
    assert targets("set", tmp_path / "out") == {"set": tmp_path / "out"}
    assert targets("set", tmp_path / "set" / "fused") == {"set": tmp_path / "set" / "fused"}
    for base, place in (
        ("plain", "plain"),
        ("plain", "plain/fused"),
        ("plain", "plain/y"),
        ("plain", "plain/y/fused"),
        ("set", "set/dof_stack"),
        ("set", "set/dof_stack/fused"),
        (".", "out"),
    ):
        with pytest.raises(StackError, match="choose another --output_dir"):
            targets(base, tmp_path / place)


def test_a_data_set_goes_on_after_a_bad_stack(tmp_path, weights, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = tmp_path / "bench" / "dof_stack"
    for name in ("a", "c d", "größe.v2"):
        make_stack(base / name, 2)
    make_stack(base / "b", 3)
    cut(base / "b" / "1.png")
    args = ["--stack_basedir_path", tmp_path / "bench", "--model_path", weights["StackMix"]]
    args += ["--focus_map", "--confidence"]
    out = tmp_path / "results" / "bench"
    assert call(predict_dataset.main, *args) == 1
    error = capsys.readouterr().err
    assert "1.png is not a picture, is cut short or damaged" in error
    good = ["a.png", "c d.png", "größe.v2.png"]
    assert sorted(path.name for path in out.glob("*.png")) == good
    assert sorted(os.listdir(out / "focus_map")) == good
    assert sorted(os.listdir(out / "confidence")) == good
    rows = summary(out)
    assert list(rows) == ["a", "c d", "größe.v2"]
    assert (rows["a"]["width"], rows["a"]["height"], rows["a"]["frames"]) == ("32", "24", "2")
    assert 0 < float(rows["a"]["network_seconds"]) <= float(rows["a"]["seconds"])

    make_stack(base / "b", 3)
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert call(predict_dataset.main, *args) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert list(summary(out)) == ["a", "b", "c d", "größe.v2"]


def test_a_link_to_nowhere_is_one_bad_stack(tmp_path, weights, capsys):
    for name in ("a", "b"):
        make_stack(tmp_path / "set" / name, 2)
    (tmp_path / "set" / "a" / "2.png").symlink_to(tmp_path / "nowhere.png")
    args = "--stack_basedir_path", tmp_path / "set", "--output_dir", tmp_path / "out"
    assert call(predict_dataset.main, *args, "--model_path", weights["StackMix"]) == 1
    assert "2.png cannot be read: No such file or directory\n" in capsys.readouterr().err
    assert list(summary(tmp_path / "out")) == ["b"]


def test_any_error_of_a_stack_is_its_own(tmp_path, weights, capsys, monkeypatch):
    base, fuse = tmp_path / "set", batch.BatchJob.fuse
    make_stack(base / "a", 2)
    make_stack(base / "b", 2)

    def fuse_all_but_a(job, *work):
        if job.name == "a":
            raise RuntimeError("a library\nhas failed")
        fuse(job, *work)

    monkeypatch.setattr(batch.BatchJob, "fuse", fuse_all_but_a)
    args = ["--stack_basedir_path", base, "--output_dir", tmp_path / "out"]
    assert call(predict_dataset.main, *args, "--model_path", weights["StackMix"]) == 1
    assert list(summary(tmp_path / "out")) == ["b"]
    assert f"failed: {base / 'a'}: RuntimeError: a library\\nhas failed" in capsys.readouterr().err


def test_what_cannot_be_read_is_a_bad_stack(tmp_path, monkeypatch):
    base = tmp_path / "set"
    make_stack(base / "a", 2, (2, 2, 3))
    (base / "locked").mkdir()
    (base / "t.tif").write_bytes(b"")
    inside, frames = folders._inside, folders.frames_in_file

    def locked(path, read):
        if Path(path).name in ("locked", "t.tif"):
            raise StackError(f"{path} cannot be read")
        return read(path)

    monkeypatch.setattr(folders, "_inside", lambda path: locked(path, inside))
    monkeypatch.setattr(folders, "frames_in_file", lambda path: locked(path, frames))
    assert find(base) == {"set": ["a", "locked", "t.tif"]}


def test_what_is_done_again(tmp_path, weights, monkeypatch, capsys):
    """A stack is skipped only for the same frames, weights and options, with its results there."""
    import torch

    base, out = tmp_path / "set", tmp_path / "out"
    make_stack(base / "a", 2)
    make_stack(base / "b", 2)
    args = ["--stack_basedir_path", base, "--output_dir", out, "--model_path"]
    fused = []
    fuse_files = batch.fuse_files

    def spy(stack, *rest):
        fused.append(stack().paths[0].parent.name)
        return fuse_files(stack, *rest)

    monkeypatch.setattr(batch, "fuse_files", spy)

    def run(*options, model=weights["StackMix"]):
        fused.clear()
        assert call(predict_dataset.main, *args, model, *options) == 0
        assert list(summary(out)) == ["a", "b"]
        return "".join(fused)

    assert run() == "ab"
    assert run() == ""
    assert run("--verbose") == ""
    assert run("--overwrite") == "ab"
    assert run("--focus_map") == "ab"
    assert run("--focus_map") == ""
    (out / "focus_map" / "b.png").unlink()
    assert run("--focus_map") == "b"
    assert run("--focus_map", "--out_format", "bmp") == "ab"
    assert run() == "ab"
    os.utime(base / "a" / "0.png", (1, 1))
    assert run() == "a"
    write_picture(base / "b" / "2.png", np.zeros((24, 32, 3), np.uint8))
    assert run() == "b"
    (out / "records" / "a.json").write_text("{half a rec")
    assert run() == "a"
    cut(out / "a.png")
    assert run() == "a"
    capsys.readouterr()
    damaged = bytearray((out / "b.png").read_bytes())
    damaged[-40] ^= 1  # its size is the same
    (out / "b.png").write_bytes(damaged)
    assert run() == "b"
    assert "b.png is not as it was written: the stack is fused again" in capsys.readouterr().err
    record = json.loads((out / "records" / "a.json").read_text())
    assert set(record["files"]) == {"a.png", "records/cards/a.json"}
    del record["files"]  # as of earlier versions: what exists is done
    (out / "records" / "a.json").write_text(json.dumps(record))
    cut(out / "a.png")
    assert run() == ""
    (out / "a.png").unlink()
    assert run() == "a"
    other = torch.load(weights["StackMix"])
    next(iter(other["network"].values())).add_(1)
    torch.save(other, tmp_path / "other.pth")
    assert run(model=tmp_path / "other.pth") == "ab"
    record = json.loads((out / "records" / "a.json").read_text())
    assert record["frames"][0]["name"] == "0.png"
    assert len(record["weights"]["network"]) == 64


# Options that change no result, or what of their files is recorded by its SHA-256.
WITHOUT_EFFECT = {
    *("stack_basedir_path", "output_dir", "part", "split", "dry_run"),  # which stacks, and where to
    *("overwrite", "verbose", "quiet", "low_memory", "dask"),
    *("model_path", "use_alignment"),
}
ACTIONS = {action.dest: action for action in predict_dataset.get_parser()._actions[1:]}


def another(action):
    """A value of an option that is not its default."""
    if action.choices:
        return next(value for value in action.choices if value != action.default)
    if action.nargs == 0:
        return not action.default
    made = {str: str, batch.part_of: lambda _: (1, 2), batch.address_of: "local:{}".format}
    return made.get(action.type, action.type)("3")


@pytest.mark.parametrize("option", ACTIONS)
def test_the_record_names_every_option_that_results_depend_on(tmp_path, option):
    make_stack(tmp_path / "set" / "a", 2)
    paths = folders.list_frames(tmp_path / "set" / "a")
    parser = predict_dataset.get_parser()
    wanted = []
    values = vars(parser.parse_args(["--stack_basedir_path", str(tmp_path / "set")]))
    if option == "near":  # means nothing without
        values["prefer"] = "far"
    for change in ({}, {option: another(ACTIONS[option])}):
        options = build(batch.BatchJobOptions, values | change)
        job = batch.BatchJob(paths[0].parent, tmp_path / "out", options, "hash of the weights")
        wanted.append(job.wanted(paths, Files(tmp_path / "a.png")))
    assert (wanted[0] == wanted[1]) == (option in WITHOUT_EFFECT)


def test_the_record_names_weights_and_alignment_by_their_content(tmp_path):
    make_stack(tmp_path / "set" / "a", 2)
    paths = folders.list_frames(tmp_path / "set" / "a")
    options = batch.BatchJobOptions()
    known, wanted = tmp_path / "a.json", []
    for weights, alignment in (("one", "{}"), ("other", "{}"), ("one", "[]")):
        known.write_text(alignment)
        job = batch.BatchJob(paths[0].parent, tmp_path / "out", options, weights)
        files = Files(tmp_path / "a.png", known_alignment=known)
        wanted.append(job.wanted(paths, files))
    assert wanted[0] not in wanted[1:] and wanted[1] != wanted[2]


def test_several_data_sets_get_folders_of_their_own(tmp_path, weights):
    for name in ("one", "two"):
        make_stack(tmp_path / "sets" / name / "stacks" / "x", 2)
    args = ["--stack_basedir_path", tmp_path / "sets", "--output_dir", tmp_path / "out"]
    assert call(predict_dataset.main, *args, "--model_path", weights["StackMix"]) == 0
    for name in ("one", "two"):
        assert list(summary(tmp_path / "out" / name)) == ["x"]
        assert (tmp_path / "out" / name / "x.png").is_file()


def test_a_data_set_that_cannot_be_written(tmp_path, weights, capsys):
    make_stack(tmp_path / "set" / "a", shape=(64, 64, 3))
    (tmp_path / "file").write_text("")
    args = "--stack_basedir_path", tmp_path / "set", "--model_path", weights["StackMix"]
    assert call(predict_dataset.main, *args, "--output_dir", tmp_path / "file" / "out") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "cannot be created" in said
    done = command("predict_dataset.py", *args, "--output_dir", tmp_path / "out", limit=4000)
    assert done.returncode == 1
    assert "a.png cannot be written" in done.stderr
    left = sorted(os.listdir(tmp_path / "out"))
    assert left == ["records", "report.html", "summary.csv"]
    assert "a.png cannot be written" in (tmp_path / "out" / "report.html").read_text()


def test_two_processes_share_the_stacks(tmp_path, weights):
    for k in range(5):
        make_stack(tmp_path / "set" / f"s{k}", 2)
    cv2.imwrite(str(tmp_path / "set" / "s1" / "1.png"), np.zeros((5, 5, 3), np.uint8))
    arguments = ["--stack_basedir_path", tmp_path / "set", "--output_dir", tmp_path / "out"]
    arguments += ["--model_path", weights["StackMix"]]
    start = "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"
    done = subprocess.run(
        [sys.executable, *start, "predict_dataset.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LATEST,
    )
    assert done.returncode != 0
    assert "frame 1.png is 5x5" in done.stderr
    assert list(summary(tmp_path / "out")) == ["s0", "s2", "s3", "s4"]
    assert len(list((tmp_path / "out").glob("*.png"))) == 4


def test_parts_make_the_whole_and_a_dead_one_is_made_up_for(tmp_path, weights, monkeypatch, capsys):
    for k in range(5):
        make_stack(tmp_path / "set" / f"s{k}", 2)
    args = ["--stack_basedir_path", tmp_path / "set", "--output_dir", tmp_path / "out"]
    args += ["--model_path", weights["StackMix"], "--no_report"]

    def made():
        return sorted(path.stem for path in (tmp_path / "out").glob("*.png"))

    assert call(predict_dataset.main, *args, "--part", "2/2") == 0
    assert "2 of 5 stacks of set" in capsys.readouterr().out
    assert made() == ["s1", "s3"] == list(summary(tmp_path / "out"))
    for name, value in (("ID", "3"), ("MIN", "3"), ("COUNT", "2")):  # the first of --array=3-4
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    with monkeypatch.context() as patch:  # as if killed after its first stack
        fuse = batch.BatchJob.fuse

        def fuse_or_end(job, *words):
            if job.name == "s2":
                raise KeyboardInterrupt
            fuse(job, *words)

        patch.setattr(batch.BatchJob, "fuse", fuse_or_end)
        assert call(predict_dataset.main, *args, "--part", "slurm") == 130
    assert made() == ["s0", "s1", "s3"]
    times = {name: (tmp_path / "out" / f"{name}.png").stat().st_mtime_ns for name in made()}
    assert call(predict_dataset.main, *args) == 0  # the whole does what is left
    assert made() == list(summary(tmp_path / "out")) == [f"s{k}" for k in range(5)]
    for name, time in times.items():
        assert (tmp_path / "out" / f"{name}.png").stat().st_mtime_ns == time
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")  # of --array=3,7
    assert call(predict_dataset.main, *args, "--part", "slurm") == 2
    assert "the numbers of this array have gaps" in capsys.readouterr().err
    monkeypatch.setenv("SLURM_ARRAY_TASK_STEP", "4")  # of --array=3-7:4
    assert call(predict_dataset.main, *args, "--part", "slurm") == 0
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    for word, sentence in [("slurm", "are not set"), ("0/2", "is not K/N"), ("3/2", "is not K/N")]:
        assert call(predict_dataset.main, *args, "--part", word) == 2
        assert sentence in capsys.readouterr().err


RANK = """
import os, signal, sys
sys.path.insert(0, {root!r})
import predict_dataset
from stackmff.fusion import batch
from stackmff.processes import run_main
fuse = batch.BatchJob.fuse
def fuse_or_die(job, *words):
    if job.name == "s3" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    fuse(job, *words)
batch.BatchJob.fuse = fuse_or_die
run_main(predict_dataset.main)
"""


@pytest.mark.slow
def test_a_killed_process_is_started_again_and_its_stacks_are_fused(tmp_path, weights):
    for k in range(5):
        make_stack(tmp_path / "set" / f"s{k}", 2)
    (tmp_path / "rank.py").write_text(RANK.format(root=str(ROOT)))
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    start += ["--max-restarts", "1", "--monitor-interval", "0.1", tmp_path / "rank.py"]
    start += ["--stack_basedir_path", tmp_path / "set", "--output_dir", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, *map(str, start), "--model_path", str(weights["StackMix"])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LATEST,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # Of the killed one, or of the other, which gloo aborts.
    assert "SIGKILL" in done.stderr or "exitcode: -" in done.stderr
    assert list(summary(tmp_path / "out")) == [f"s{k}" for k in range(5)]
    assert "5 stacks fused" in (tmp_path / "out" / "report.html").read_text()


def test_the_report_of_a_run_and_of_its_resumption(tmp_path, weights):
    base, out = tmp_path / "set", tmp_path / "out"
    make_stack(base / "a", 2)
    make_stack(base / "b", 2)
    (base / "b" / "1.png").write_bytes(b"no picture")
    args = ["--stack_basedir_path", base, "--output_dir", out, "--model_path", weights["StackMix"]]
    assert call(predict_dataset.main, *args) == 1
    page = (out / "report.html").read_text()
    assert "1 stack fused" in page and "1 failed" in page and "1.png is not a picture" in page
    make_stack(base / "b", 2)
    assert call(predict_dataset.main, *args) == 0
    page = (out / "report.html").read_text()
    assert "2 stacks fused" in page and page.count('class="pair"') == 2
    assert call(predict_dataset.main, *args, "--no_report", "--output_dir", tmp_path / "no") == 0
    assert sorted(os.listdir(tmp_path / "no")) == ["a.png", "b.png", "records", "summary.csv"]


def test_a_data_set_of_files_that_are_stacks(tmp_path, weights):
    rng = np.random.default_rng(0)
    (tmp_path / "set").mkdir()
    pages = rng.integers(0, 256, (3, 40, 50, 3), np.uint8)
    tifffile.imwrite(tmp_path / "set" / "pages.tif", pages, photometric="rgb")
    make_stack(tmp_path / "set" / "folder", 2)
    args = ["--output_dir", tmp_path / "out", "--model_path", weights["StackMix"], "--preview"]
    args += ["--save_alignment", "--slab", "2"]
    assert call(predict_dataset.main, "--stack_basedir_path", tmp_path / "set", *args) == 0
    assert list(summary(tmp_path / "out")) == ["folder", "pages"]
    for name in ("pages.png", "previews/pages_sweep.gif", "alignment/pages.json"):
        assert (tmp_path / "out" / name).is_file()
    slabs = tmp_path / "out" / "slabs" / "pages"
    assert len(list(slabs.iterdir())) == 2
    shutil.rmtree(slabs)
    assert call(predict_dataset.main, "--stack_basedir_path", tmp_path / "set", *args) == 0
    assert len(list(slabs.iterdir())) == 2
    make_stack(tmp_path / "set" / "pages", 2)
    assert call(predict_dataset.main, "--stack_basedir_path", tmp_path / "set", *args) == 1


def test_a_name_of_252_bytes_fails_alone(tmp_path, weights, capsys):
    """Its result would have a name of 256 bytes, more than file systems take."""
    long = "x" * 252
    for name in ("a", long):
        make_stack(tmp_path / "set" / name, 2)
    args = "--stack_basedir_path", tmp_path / "set", "--output_dir", tmp_path / "out"
    assert call(predict_dataset.main, *args, "--model_path", weights["StackMix"]) == 1
    assert f"failed: {tmp_path / 'set' / long}" in capsys.readouterr().err
    assert list(summary(tmp_path / "out")) == ["a"]
    assert "1 stack fused" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("content", ['{"result": 7}', '{"result": ["a"]}', "[" * 100_000, "7"])
def test_a_record_of_other_types_costs_no_summary(tmp_path, content):
    base, out = tmp_path / "set", tmp_path / "out"
    make_stack(base / "a", 2, (2, 2, 3))
    (out / "records").mkdir(parents=True)
    (out / "records" / "a.json").write_text(content)
    job = batch.BatchJob(base / "a", out, batch.BatchJobOptions(), "hash of the weights")
    batch.write_summaries([job])
    assert summary(out) == {}
    assert (out / "report.html").is_file()


def test_two_data_sets_of_one_name_do_not_overwrite_each_other(tmp_path, weights, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = "--model_path", str(weights["StackMix"]), "--no_report"
    for place in "ab":
        make_stack(tmp_path / place / "set" / "scene")
    assert predict_dataset.main(["a/set", *network]) == 0
    record = Path("results/set/records/scene.json").read_text()
    with pytest.raises(StackError, match=r"a/set/scene, .*--output_dir, or .* --overwrite"):
        predict_dataset.main(["b/set", *network])
    assert Path("results/set/records/scene.json").read_text() == record
    assert predict_dataset.main(["b/set", *network, "--overwrite"]) == 0
    assert predict_dataset.main(["a/set", *network, "--output_dir", "other"]) == 0
