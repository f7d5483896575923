"""predict.py and predict_dataset.py: what they write, where, and how bad input ends."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

import predict
import predict_dataset
from formats import read_picture, write_picture
from utils import StackError, run_main

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Checkpoints of both networks with random weights."""
    import torch

    from network import build_network, default_config

    torch.manual_seed(0)
    paths = {}
    for name in ("StackMix", "StackMFF"):
        network = build_network(default_config(name))
        paths[name] = tmp_path_factory.mktemp("weights") / f"{name}.pth"
        torch.save({"config": network.config, "network": network.state_dict()}, paths[name])
    return paths


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
        [*start, *map(str, args)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_predict_writes_picture_and_maps(tmp_path, weights, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mein Größe 焦点 v1.2"
    frames = make_stack(folder, suffix=".PNG")
    (folder / "notes.txt").write_text("no frame")
    (folder / ".hidden.png").write_text("no frame")
    maps = "--focus_map", "maps/focus.png", "--confidence", "maps/sure.png"
    args = "--stack_path", folder, "--model_path", weights["StackMix"], "--device", "cpu"
    assert call(predict.main, *args, *maps, "--verbose") == 0
    out = Path("results") / f"{folder.name}.png"
    printed = capsys.readouterr().out
    assert printed.startswith("0.PNG\n1.PNG\n2.PNG\n")
    assert f"{out}: 32x24, 3 frames, " in printed
    fused = read_picture(out)
    assert (fused >= frames.min(0)).all()
    assert (fused <= frames.max(0)).all()
    assert read_picture("maps/focus.png").dtype == np.uint16
    assert read_picture("maps/sure.png").dtype == np.uint8
    assert read_picture("maps/sure.png").min() >= 85 - 1  # a third


@pytest.mark.parametrize(
    ("suffix", "out_format", "expected"),
    [
        (".tif", "same", ".tif"),
        (".JPEG", "same", ".jpeg"),
        (".png", "webp", ".webp"),
        (".png", None, ".png"),
        (".bmp", None, ".png"),
    ],
)
def test_formats_of_the_result(tmp_path, weights, monkeypatch, suffix, out_format, expected):
    monkeypatch.chdir(tmp_path)
    make_stack(tmp_path / "stack", suffix=suffix)
    args = ["--stack_path", "stack", "--model_path", weights["StackMix"]]
    assert call(predict.main, *args, *(["--out_format", out_format] if out_format else [])) == 0
    assert os.listdir("results") == [f"stack{expected}"]


def test_sixteen_bits_stay_and_are_noted_where_they_do_not(tmp_path, weights, capsys):
    make_stack(tmp_path / "stack", dtype=np.uint16, shape=(9, 7, 4))
    args = "--stack_path", tmp_path / "stack", "--model_path", weights["StackMix"]
    assert call(predict.main, *args, "--output", tmp_path / "a.TIFF") == 0
    assert capsys.readouterr().err == ""
    assert read_picture(tmp_path / "a.TIFF").dtype == np.uint16
    assert read_picture(tmp_path / "a.TIFF").shape == (9, 7, 4)
    assert call(predict.main, *args, "--output", tmp_path / "a.jpg", "--out_format", "jpg") == 0
    assert "note: 16 bits are rounded to 8 and alpha is dropped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--output", "a.gif"], "needs a suffix"),
        (["--output", "a"], "needs a suffix"),
        (["--output", "a.png", "--out_format", "jpg"], "contradicts --out_format jpg"),
        (["--output", "a.tif", "--out_format", "same"], r"contradicts --out_format same \(.png\)"),
        (["--output", "stack/fused.png"], "inside the stack's folder"),
        (["--output", "stack/../stack/fused.png"], "inside the stack's folder"),
        (["--focus_map", "stack/map.png"], "inside the stack's folder"),
        (["--focus_map", "map.jpg"], "ends in .png"),
        (["--confidence", "a.png", "--output", "./a.png"], "names of their own"),
        (["--confidence", "results/stack.png"], "names of their own"),
        (["--out_format", "gif"], "invalid choice"),
    ],
)
def test_contradictions_exit_with_2(tmp_path, monkeypatch, capsys, args, sentence):
    monkeypatch.chdir(tmp_path)
    make_stack(tmp_path / "stack", shape=(4, 4, 3))
    assert call(predict.main, "--stack_path", "stack", *args) == 2
    capsys.readouterr().err.index(sentence.replace("\\", ""))
    assert os.listdir() == ["stack"]


def test_the_default_output_is_no_frame_of_a_stack_named_results(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_stack(tmp_path / "results", 2, (4, 4, 3))
    assert call(predict.main, "--stack_path", "results") == 2
    assert "results.png is inside the stack's folder" in capsys.readouterr().err


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def nothing(folder):
    for path in folder.iterdir():
        path.unlink()


def one(folder):
    nothing(folder)
    make_stack(folder, 1)


def two_sizes(folder):
    make_stack(folder, 3)
    write_picture(folder / "1.png", np.zeros((24, 33, 3), np.uint8))


def cut_jpeg(folder):
    nothing(folder)
    make_stack(folder, 3, suffix=".jpg")
    cut(folder / "1.jpg")


def cut_tiff(folder):
    nothing(folder)
    make_stack(folder, 3, suffix=".tif")
    cut(folder / "1.tif")


def text(folder):
    make_stack(folder, 3)
    (folder / "1.png").write_text("this is no picture")


BAD_STACKS = {
    nothing: "holds no pictures",
    one: "holds one picture",
    two_sizes: "frame 1.png is 33x24, the stack is 32x24",
    cut_jpeg: "1.jpg is no picture, is cut short or damaged",
    cut_tiff: "1.tif is cut short",
    text: "1.png is no picture",
}


@pytest.mark.parametrize("spoil", BAD_STACKS, ids=lambda spoil: spoil.__name__)
def test_bad_stacks_end_in_one_sentence(tmp_path, weights, capsys, spoil):
    folder = tmp_path / "größe two"
    make_stack(folder)
    spoil(folder)
    out = tmp_path / "a.png"
    args = "--stack_path", folder, "--output", out, "--model_path", weights["StackMix"]
    assert call(predict.main, *args) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert BAD_STACKS[spoil] in error
    assert os.listdir(tmp_path) == ["größe two"]


def test_a_missing_folder_and_missing_weights(tmp_path, capsys):
    out = tmp_path / "a.png"
    assert call(predict.main, "--stack_path", tmp_path / "no", "--output", out) == 1
    assert "no is no folder" in capsys.readouterr().err
    make_stack(tmp_path / "stack")
    args = "--stack_path", tmp_path / "stack", "--output", out, "--model_path"
    assert call(predict.main, *args, tmp_path / "no.pth") == 1
    assert "no.pth is no file of weights" in capsys.readouterr().err
    (tmp_path / "text.pth").write_text("no weights")
    assert call(predict.main, *args, tmp_path / "text.pth") == 1
    assert "text.pth is no checkpoint" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("device", ["meta", "xpu", "cuda:99", "gpu", "cpu:x"])
def test_devices_that_are_not_there(tmp_path, weights, capsys, device):
    make_stack(tmp_path / "stack")
    args = "--stack_path", tmp_path / "stack", "--model_path", weights["StackMix"]
    assert call(predict.main, *args, "--output", tmp_path / "a.png", "--device", device) == 1
    error = capsys.readouterr().err
    assert f"--device {device} is " in error and error.count("\n") == 1


def test_names_that_are_no_text(tmp_path, weights, capsys):
    """Bytes that are no UTF-8, and a line break, in the names of a stack and of its frames."""
    odd = os.fsdecode(b"st\nack\xff")
    make_stack(tmp_path / "set" / odd, 2)
    os.rename(tmp_path / "set" / odd / "0.png", tmp_path / "set" / odd / os.fsdecode(b"\xfe.png"))
    args = ["--stack_basedir_path", tmp_path / "set", "--output_dir", tmp_path / "out"]
    args += ["--model_path", weights["StackMix"], "--verbose"]
    assert call(predict_dataset.main, *args) == 0
    assert r"\udcfe.png" in capsys.readouterr().out
    fused = tmp_path / "out" / f"{odd}.png"
    stamp = fused.stat().st_mtime_ns
    assert call(predict_dataset.main, *args) == 0
    assert fused.stat().st_mtime_ns == stamp  # its record could be read
    assert list(summary(tmp_path / "out")) == ["st\nack\\udcff"]
    cut(tmp_path / "set" / odd / "1.png")
    stack = "--stack_path", tmp_path / "set" / odd, *args[4:6], "--output", tmp_path / "a.png"
    capsys.readouterr()
    assert call(predict.main, *stack) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and r"st\nack\udcff/1.png is no picture" in error


def test_a_lack_of_memory_is_told(capsys):
    def fail():
        raise MemoryError("Unable to allocate 9 GiB")

    with pytest.raises(SystemExit) as caught:
        run_main(fail)
    assert caught.value.code == 1
    assert "memory is not enough (Unable to allocate 9 GiB)" in capsys.readouterr().err


def test_weights_of_another_network(tmp_path, capsys):
    import torch

    make_stack(tmp_path / "stack")
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    args = "--stack_path", tmp_path / "stack", "--model_path", tmp_path / "other.pth"
    assert call(predict.main, *args, "--output", tmp_path / "a.png") == 1
    error = capsys.readouterr().err
    assert "other.pth holds weights of another network" in error
    assert error.count("\n") == 1


def test_a_luma_network_has_no_confidence(tmp_path, weights, capsys):
    make_stack(tmp_path / "stacks" / "a")
    args = "--model_path", weights["StackMFF"], "--confidence"
    sentence = "gives a luma and no weights of the frames"
    stack = "--stack_path", tmp_path / "stacks" / "a", "--output", tmp_path / "a.png"
    assert call(predict.main, *stack, *args, tmp_path / "sure.png") == 1
    assert sentence in capsys.readouterr().err
    base = "--stack_basedir_path", tmp_path / "stacks", "--output_dir", tmp_path / "out"
    assert call(predict_dataset.main, *base, *args) == 1
    assert sentence in capsys.readouterr().err
    assert call(predict.main, *stack, *args[:2], "--focus_map", tmp_path / "map.png") == 0
    assert set(np.unique(read_picture(tmp_path / "map.png"))) <= {0, 32768, 65535}


def test_a_parent_that_is_a_file(tmp_path, weights):
    make_stack(tmp_path / "stack")
    (tmp_path / "file").write_text("")
    args = "--stack_path", tmp_path / "stack", "--model_path", weights["StackMix"]
    done = command("predict.py", *args, "--output", tmp_path / "file" / "a.png")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "file cannot be made" in done.stderr
    (tmp_path / "taken.png").mkdir()
    assert call(predict.main, *args, "--output", tmp_path / "taken.png") == 1
    assert sorted(os.listdir(tmp_path)) == ["file", "stack", "taken.png"]
    assert os.listdir(tmp_path / "taken.png") == []


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_a_full_disk(tmp_path, weights, name):
    make_stack(tmp_path / "stack", shape=(64, 64, 3))
    write_picture(tmp_path / "out" / name, np.zeros((2, 2, 3), np.uint8))
    before = (tmp_path / "out" / name).read_bytes()
    args = "--stack_path", tmp_path / "stack", "--model_path", weights["StackMix"]
    done = command("predict.py", *args, "--output", tmp_path / "out" / name, limit=4000)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert name in done.stderr
    assert "cannot be written" in done.stderr
    assert os.listdir(tmp_path / "out") == [name]
    assert (tmp_path / "out" / name).read_bytes() == before


def test_argument_errors_do_not_load_torch(tmp_path):
    program = (
        "import sys, predict, predict_dataset, utils\n"
        "try: utils.run_main(lambda: predict.main(['--stack_path', sys.argv[1]]))\n"
        "except SystemExit as end: assert end.code == 1\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT)
    assert done.returncode == 0


def find(base):
    return {
        name: [s.name for s in group] for name, group in predict_dataset.find_datasets(base).items()
    }


def test_stacks_are_found(tmp_path):
    plain = tmp_path / "plain"
    for name in ("s10", "s2", "AiF", "Depth", "disparity", ".hidden"):
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
    with pytest.raises(StackError, match="is no folder"):
        find(plain / "loose.png")


def test_results_are_kept_apart_from_stacks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_stack(tmp_path / "set" / "dof_stack" / "x", 2, (2, 2, 3))
    make_stack(tmp_path / "plain" / "y", 2, (2, 2, 3))

    def targets(base, output_dir=None):
        base = tmp_path / base
        datasets = predict_dataset.find_datasets(base)
        return predict_dataset.result_folders(base, datasets, output_dir)

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


def summary(folder):
    with open(folder / "summary.csv", newline="", encoding="utf-8") as file:
        return {row["stack"]: row for row in csv.DictReader(file)}


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
    assert "1.png is no picture, is cut short or damaged" in error
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


def test_what_is_done_again(tmp_path, weights, monkeypatch):
    """A stack is skipped only for the same frames, weights and options, with its results there."""
    import torch

    base, out = tmp_path / "set", tmp_path / "out"
    make_stack(base / "a", 2)
    make_stack(base / "b", 2)
    args = ["--stack_basedir_path", base, "--output_dir", out, "--model_path"]
    fused = []
    fuse_files = predict_dataset.fuse_files

    def spy(stack, *rest):
        fused.append(stack().paths[0].parent.name)
        return fuse_files(stack, *rest)

    monkeypatch.setattr(predict_dataset, "fuse_files", spy)

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
    other = torch.load(weights["StackMix"])
    next(iter(other["network"].values())).add_(1)
    torch.save(other, tmp_path / "other.pth")
    assert run(model=tmp_path / "other.pth") == "ab"
    record = json.loads((out / "records" / "a.json").read_text())
    assert record["frames"][0]["name"] == "0.png"
    assert len(record["weights"]["network"]) == 64


def test_several_data_sets_get_folders_of_their_own(tmp_path, weights):
    for name in ("one", "two"):
        make_stack(tmp_path / "sets" / name / "stacks" / "x", 2)
    args = ["--stack_basedir_path", tmp_path / "sets", "--output_dir", tmp_path / "out"]
    assert call(predict_dataset.main, *args, "--model_path", weights["StackMix"]) == 0
    for name in ("one", "two"):
        assert list(summary(tmp_path / "out" / name)) == ["x"]
        assert (tmp_path / "out" / name / "x.png").is_file()


def test_a_data_set_that_cannot_be_written(tmp_path, weights):
    make_stack(tmp_path / "set" / "a", shape=(64, 64, 3))
    (tmp_path / "file").write_text("")
    args = "--stack_basedir_path", tmp_path / "set", "--model_path", weights["StackMix"]
    done = command("predict_dataset.py", *args, "--output_dir", tmp_path / "file" / "out")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot be made" in done.stderr
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
        timeout=120,
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
    assert made() == ["s1", "s3"] == list(summary(tmp_path / "out"))
    for name, value in (("ID", "3"), ("MIN", "3"), ("COUNT", "2")):  # the first of --array=3-4
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    with monkeypatch.context() as patch:  # as if killed after its first stack
        fuse = predict_dataset.Job.fuse

        def fuse_or_end(job, *words):
            if job.name == "s2":
                raise KeyboardInterrupt
            fuse(job, *words)

        patch.setattr(predict_dataset.Job, "fuse", fuse_or_end)
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
    for word, sentence in [("slurm", "are not set"), ("0/2", "is no K/N"), ("3/2", "is no K/N")]:
        assert call(predict_dataset.main, *args, "--part", word) == 2
        assert sentence in capsys.readouterr().err


RANK = """
import os, signal, sys
sys.path.insert(0, {root!r})
import predict_dataset
fuse = predict_dataset.Job.fuse
def fuse_or_die(job, *words):
    if job.name == "s3" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    fuse(job, *words)
predict_dataset.Job.fuse = fuse_or_die
predict_dataset.run_main(predict_dataset.main)
"""


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
        timeout=120,
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
    assert "1 stack fused" in page and "1 failed" in page and "1.png is no picture" in page
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
    assert len(list((tmp_path / "out" / "slabs" / "pages").iterdir())) == 2
    make_stack(tmp_path / "set" / "pages", 2)
    assert call(predict_dataset.main, "--stack_basedir_path", tmp_path / "set", *args) == 1


def test_a_stack_in_one_file(tmp_path, weights, capsys):
    pages = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), np.uint8)
    stack = tmp_path / "pages.tif"
    tifffile.imwrite(stack, pages, photometric="rgb")
    args = ["--stack_path", stack, "--model_path", weights["StackMix"], "--output"]
    call(predict.main, *args, tmp_path / "out.png")
    assert read_picture(tmp_path / "out.png").shape == (40, 50, 3)
    assert call(predict.main, *args, stack) == 2
    assert "is the stack itself" in capsys.readouterr().err


def test_quiet_says_nothing(tmp_path, weights, capsys):
    make_stack(tmp_path / "a", 3)
    words = ["--stack_path", tmp_path / "a", "--output", tmp_path / "o" / "a.jpg", "--quiet"]
    call(predict.main, *words, "--model_path", weights["StackMix"])
    assert capsys.readouterr() == ("", "")
