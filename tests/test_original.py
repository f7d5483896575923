"""Commands of the published StackMFF: they work, or one sentence says what to use."""

import pytest
import torch
from calling import call, make_stack
from training import read, start

import make_dataset
import predict
import predict_dataset
import train
from stackmff.errors import StackError
from stackmff.original import translated, with_device, with_whole_paths
from stackmff.training.data_sets import find_pairs


@pytest.fixture
def clone(tmp_path, monkeypatch, weights):
    """A folder with the authors' weights and one of their sets where their README has them."""
    monkeypatch.chdir(tmp_path)
    for name in ("boxes", "cotton"):
        make_stack(tmp_path / "data/Datasets_StackMFF/4D-Light-Field/image stack" / name, 2)
    state = torch.load(weights["StackMFF"], weights_only=True)["network"]
    (tmp_path / "checkpoint").mkdir()
    # As nn.DataParallel saves them.
    torch.save({f"module.{k}": v for k, v in state.items()}, "checkpoint/checkpoint.pth")
    return tmp_path


@pytest.mark.parametrize("quote", ['"', ""], ids=["quoted", "as in their README"])
def test_their_batch(clone, quote):
    line = "--model_path checkpoint/checkpoint.pth --stack_basedir_path "
    line += f"{quote}data/Datasets_StackMFF/4D-Light-Field/image stack{quote}"
    words = line.replace('"', "").split(" ", 3)
    words = words if quote else line.split()
    assert call(predict_dataset.main, *words, "--predict_name", "predict_runs") == 0
    assert {path.name for path in (clone / "predict_runs").glob("*.png")} == {
        *("boxes.png", "cotton.png")
    }


def test_their_single_stack(clone, capsys):
    path = "data/Datasets_StackMFF/4D-Light-Field/image stack/boxes"
    words = ["--model_path", "checkpoint/checkpoint.pth", "--stack_path", *path.split()]
    assert call(predict.main, *words, "--out_format", "bmp") == 0
    assert (clone / "results" / "boxes.bmp").is_file()
    assert call(predict.main, *words, "--predict_name", "x") == 1
    assert "--predict_name names no file of predict.py: give --output" in capsys.readouterr().err


def test_weights_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (
        ["--model_path", "checkpoint/checkpoint.pth"],
        ["--model_path=checkpoint/checkpoint.pth"],
    ):
        with pytest.raises(StackError, match=r"put the authors' file .*checkpoint_published\.pth"):
            translated(words)
    assert translated(["--model_path", "other.pth"]) == ["--model_path", "other.pth"]


def test_their_training(data, tmp_path):
    words = ["--datapath", "x", "--exp_name", "stackmff_training", "--datapath", str(data)]
    options, _ = read([*words, "--model_save_fre", "2", "--experiments", tmp_path])
    assert options.data.datapath == (data,) and options.run.save_every == 2
    options, _ = read(["--datapath", data, "--experiments", tmp_path])
    assert options.run.folder == tmp_path / "experiment"


def test_their_training_without_a_name_runs_and_resumes(options, tmp_path):
    assert train.main([*options, "--epochs", "1"]) == 0
    assert (tmp_path / "experiment" / "best.pth").is_file()
    with pytest.raises(StackError, match="already holds a run"):
        start(options, "experiment")


@pytest.mark.parametrize("words", [["--gpu_id", "1"], ["--gpu_id=1"]])
def test_one_gpu_is_a_device(words):
    assert translated([*words, "--lr", "1e-3"]) == ["--device", "cuda:1", "--lr", "1e-3"]


def test_several_gpus_are_processes():
    with pytest.raises(StackError, match="torchrun --nproc_per_node 3"):
        with_device(["--gpu_id", "0", "1", "2", "--lr", "1"])


def test_paths_in_one_word_where_they_exist(tmp_path):
    (tmp_path / "a b c").mkdir()
    path = str(tmp_path / "a b c")
    assert with_whole_paths(["--datapath", *path.split(), "--x", "y"]) == [
        *("--datapath", path, "--x", "y")
    ]
    for words in (["--datapath", path, "b"], ["--datapath", "no", "where"], ["--datapath"]):
        assert with_whole_paths(words) == words


def test_their_synthesis_and_their_older_tree(tmp_path, capsys):
    assert call(make_dataset.main, "--ori_dataset_path", "x", "--num_regions", "16") == 1
    assert "--refocus published --output_dir DIR" in capsys.readouterr().err
    (tmp_path / "train_stack").mkdir()
    with pytest.raises(StackError, match="rename them to train/dof_stack and train/AiF"):
        find_pairs(tmp_path)
