"""predict.py: what it writes, where, and how bad input ends."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from calling import ROOT, call, command, cut, make_stack, summary

import predict
import predict_dataset
from stackmff.errors import StackError
from stackmff.images.formats import read_picture, write_picture
from stackmff.processes import run_main


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
    written = [path.name for path in Path("results").iterdir() if path.is_file()]
    assert written == [f"stack{expected}"]


def test_two_stacks_of_one_name_do_not_overwrite_each_other(tmp_path, weights, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    network = "--model_path", weights["StackMix"]
    for place in "ab":
        make_stack(tmp_path / place / "frames")
    assert call(predict.main, "--stack_path", "a/frames", *network) == 0
    before = Path("results/frames.png").read_bytes()
    with pytest.raises(StackError, match=r"has the result of .*a/frames, .*--output, or .*--overw"):
        predict.main(["--stack_path", "b/frames", *map(str, network)])
    assert Path("results/frames.png").read_bytes() == before
    assert call(predict.main, "--stack_path", "b/frames", *network, "--output", "b.png") == 0
    assert call(predict.main, "--stack_path", "a/frames", *network) == 0  # its own, again
    assert call(predict.main, "--stack_path", "b/frames", *network, "--overwrite") == 0
    assert call(predict.main, "--stack_path", "b/frames", *network) == 0


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
        (["--confidence", "a.png", "--output", "./a.png"], "a name of its own"),
        (["--confidence", "results/stack.png"], "a name of its own"),
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
    cut_jpeg: "1.jpg is not a picture, is cut short or damaged",
    cut_tiff: "1.tif is cut short",
    text: "1.png is not a picture",
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
    assert "no is not a folder" in capsys.readouterr().err
    make_stack(tmp_path / "stack")
    args = "--stack_path", tmp_path / "stack", "--output", out, "--model_path"
    assert call(predict.main, *args, tmp_path / "no.pth") == 1
    assert "no.pth is not a file of weights" in capsys.readouterr().err
    (tmp_path / "text.pth").write_text("no weights")
    assert call(predict.main, *args, tmp_path / "text.pth") == 1
    assert "text.pth is not a checkpoint" in capsys.readouterr().err
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
    assert error.count("\n") == 1 and r"st\nack\udcff/1.png is not a picture" in error


def test_a_lack_of_memory_is_told(capsys):
    def fail():
        raise MemoryError("Unable to allocate 9 GiB")

    with pytest.raises(SystemExit) as caught:
        run_main(fail)
    assert caught.value.code == 1
    assert "out of memory (Unable to allocate 9 GiB)" in capsys.readouterr().err


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
    sentence = "predicts luma, not the weights of the frames"
    stack = "--stack_path", tmp_path / "stacks" / "a", "--output", tmp_path / "a.png"
    assert call(predict.main, *stack, *args, tmp_path / "sure.png") == 1
    assert sentence in capsys.readouterr().err
    base = "--stack_basedir_path", tmp_path / "stacks", "--output_dir", tmp_path / "out"
    assert call(predict_dataset.main, *base, *args) == 1
    assert sentence in capsys.readouterr().err
    assert call(predict.main, *stack, *args[:2], "--focus_map", tmp_path / "map.png") == 0
    assert set(np.unique(read_picture(tmp_path / "map.png"))) <= {0, 32768, 65535}


def test_a_parent_that_is_a_file(tmp_path, weights, capsys):
    make_stack(tmp_path / "stack")
    (tmp_path / "file").write_text("")
    args = "--stack_path", tmp_path / "stack", "--model_path", weights["StackMix"]
    assert call(predict.main, *args, "--output", tmp_path / "file" / "a.png") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "file cannot be created" in said
    (tmp_path / "taken.png").mkdir()
    assert call(predict.main, *args, "--output", tmp_path / "taken.png") == 1
    assert sorted(os.listdir(tmp_path)) == ["file", "stack", "taken.png"]
    assert os.listdir(tmp_path / "taken.png") == []


@pytest.mark.parametrize("name", ["a.png", pytest.param("a.tif", marks=pytest.mark.slow)])
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
