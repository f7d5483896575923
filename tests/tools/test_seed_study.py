"""tools/seed_study.py; trainings are played, one study is run by tests.check_docs."""

import csv
import itertools

import numpy as np
import pytest
from calling import call

from stackmff.errors import StackError
from stackmff.images.formats import read_picture, write_picture
from tests.drawn import write_set
from tools import seed_study


@pytest.fixture
def played(tmp_path, monkeypatch):
    """A data set, and the commands of a study; seed 2 fuses with an error of one level."""
    write_set(tmp_path / "held_out", [2, 2], 32, 32)
    commands = []

    def run(words):
        commands.append(words)
        if "--stack_basedir_path" not in words:
            return
        pairs = dict(itertools.pairwise(words))
        for answer in (tmp_path / "held_out" / "AiF").iterdir():
            picture = read_picture(answer).astype(int)
            error = 1 + (pairs["--model_path"].split("/")[-2] == "seeds_2")
            wrong = np.where(picture > 128, picture - error, picture + error).astype(np.uint8)
            write_picture(tmp_path / pairs["--output_dir"] / answer.name, wrong)

    monkeypatch.setattr(seed_study, "call", run)
    monkeypatch.chdir(tmp_path)
    return commands


def test_runs_are_trained_fused_and_told(played, tmp_path, capsys):
    assert call(seed_study.main, "--test", "held_out", "--", "--datapath", "d", "--lr", "1") == 0
    trained = [words for words in played if words[0].endswith("train.py")]
    assert [words[words.index("--seed") + 1] for words in trained] == ["0", "1", "2"]
    assert trained[2][1:4] == ["--datapath", "d", "--lr"] and trained[2][-2:] == [
        "--resume",
        "auto",
    ]
    assert trained[2][trained[2].index("--exp_name") + 1] == "seeds_2"
    with (tmp_path / "results" / "seeds" / "seeds.csv").open(newline="") as file:
        rows = {row["seed"]: row for row in csv.DictReader(file)}
    # 20 lg 255 dB where each value is off by one, 20 lg 2 dB less where it is off by two.
    assert rows["0"]["held_out PSNR"] == rows["1"]["held_out PSNR"] == "48.13"
    assert rows["2"]["held_out PSNR"] == "42.11"
    assert rows["mean"]["held_out PSNR"] == "46.12"
    assert rows["standard deviation"]["held_out PSNR"] == "3.476"
    out = capsys.readouterr().out
    assert "run 3 of 3: seed 2" in out and "two runs differ by chance up to" in out
    text = (tmp_path / "results" / "seeds" / "seeds.md").read_text()
    assert text.startswith("| seed | held_out PSNR | held_out SSIM |")


def test_the_default_network_and_ones_of_the_user_are_studied(played, tmp_path):
    (tmp_path / "experiments" / "p_5").mkdir(parents=True)
    (tmp_path / "experiments" / "p_5" / "last.pth").touch()
    words = ["--test", "held_out", "--seeds", "4", "5", "--exp_name", "p"]
    assert call(seed_study.main, *words, "--program", "train_pyramid", "--", "--steps", "9") == 0
    first, second = (words for words in played if words[:2] == ["-m", "tools.train_pyramid"])
    assert "--resume" not in first and second[-1] == "--resume"  # it goes on where it was stopped
    own = ["--network", "my_net.py:MyNet"]
    for given in (own, ["=".join(own)]):
        played.clear()
        call(seed_study.main, "--test", "held_out", "--", "--datapath", "d", *given)
        fused = [words for words in played if words[0].endswith("predict_dataset.py")]
        assert [words[-2:] for words in fused] == [own] * 3


def test_the_spread():
    # Student's t of 2 degrees of freedom is 4.303 at 97.5 %.
    assert seed_study.spread([1.0, 2.0, 3.0]) == pytest.approx((2, 1, 4.3027 * 2**0.5), abs=1e-4)
    assert seed_study.spread([5.0, 5.0]) == (5, 0, 0)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--test", "a", "--seeds", "1"], "--seeds needs at least 2 seeds, each of them once"),
        (["--test", "a", "--seeds", "1", "1"], "--seeds needs at least 2 seeds"),
        (["--test", "a/x", "b/x"], "names two data sets with the same name of folder"),
    ],
)
def test_what_makes_no_sense(words, sentence, capsys):
    assert call(seed_study.main, *words) == 2
    assert sentence in capsys.readouterr().err


def test_what_cannot_be_studied(played, tmp_path):
    with pytest.raises(StackError, match="--seed=3 cannot follow --"):
        seed_study.main(["--test", "held_out", "--", "--seed=3"])
    with pytest.raises(StackError):  # before anything is trained
        seed_study.main(["--test", str(tmp_path / "no"), "--", "--datapath", "d"])
    assert not played


def test_a_failure_and_a_signal_end_the_study():
    with pytest.raises(StackError, match="failed, see above: mend that and run the study again"):
        seed_study.call(["-c", "import sys; sys.exit(1)"])
    with pytest.raises(SystemExit) as stopped:
        seed_study.call(["-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"])
    assert stopped.value.code == 143
