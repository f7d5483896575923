"""tools/sweep.py and tools/compare_runs.py; runs are played, one is trained by `make check`."""

import csv
import json

import pytest
from calling import call

from stackmff.errors import StackError
from tools import compare_runs, sweep


def write_run(folder, psnr=(30.0,), **options):
    """A run with a validation of each of `psnr`, ten steps apart."""
    folder.mkdir(parents=True)
    (folder / "args.json").write_text(json.dumps({"args": options}))
    lines = []
    for k, value in enumerate(psnr, 1):
        train = {"loss": 1 / k, "samples_per_second": 12.3}
        lines.append({"epoch": k, "step": 10 * k, "train": train})
        scores = {"PSNR": value, "SSIM": 0.9}
        lines.append({"epoch": k, "step": 10 * k, "validation": scores})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    odd = '{"epoch": 1, "validation": {"PSNR": 99}}\n{"step": 1, "validation": {}}\n'  # by hand
    (folder / "log.jsonl").write_text(odd + text + '{"cut sho')


def test_a_table_over_runs(tmp_path, capsys):
    write_run(tmp_path / "a", (30.0, 31.5, 31.0), exp_name="a", lr=0.1, seed=0, size=[8, 8])
    write_run(tmp_path / "b", (33.0,), exp_name="b", lr=0.2, seed=0, size=[8, 8])
    write_run(tmp_path / "c", (), exp_name="c", lr=0.1, seed=0, size=[8, 9])
    files = [tmp_path / "t.csv", tmp_path / "t.md"]
    words = ["--experiments", tmp_path, "--csv", files[0], "--markdown", files[1]]
    assert call(compare_runs.main, *words) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split()[-2:] == ["lr", "size"] and "seed" not in out[0]
    assert [line.split()[0] for line in out[1:]] == ["b", "a", "c"]
    with files[0].open(newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert rows["a"]["best PSNR"] == "31.50" and rows["a"]["at step"] == "20"
    assert rows["a"]["last PSNR"] == "31.00" and rows["a"]["steps"] == "30"
    assert rows["c"]["best PSNR"] == "-" and rows["c"]["size"] == "8 9"
    assert files[1].read_text().startswith("| run | steps |")


def test_runs_that_are_not_there(tmp_path):
    with pytest.raises(StackError, match="holds no runs: give --experiments"):
        compare_runs.main(["--experiments", str(tmp_path)])
    with pytest.raises(StackError, match=r"holds no run that has begun: it lacks args\.json"):
        compare_runs.main(["--experiments", str(tmp_path), "--runs", "none"])
    write_run(tmp_path / "a")
    (tmp_path / "a" / "args.json").write_text("[1]")
    with pytest.raises(StackError, match=r"args\.json is damaged"):
        compare_runs.main(["--experiments", str(tmp_path)])


@pytest.fixture
def played(monkeypatch):
    """The trials that were trained; one of lr 3 fails, as does a second start of a name."""
    trials = []

    def run_trial(trial, options, rest):
        trials.append((trial, list(rest)))
        if "lr3" in trial.name:
            return 1
        write_run(options.experiments / trial.name, lr=trial.words[1])
        return 0

    monkeypatch.setattr(sweep, "run_trial", run_trial)
    return trials


def test_every_combination_is_trained_and_compared(tmp_path, played, capsys):
    words = [
        "--experiments",
        tmp_path,
        "--exp_name",
        "try",
        "--vary",
        "lr=1,2",
        "image_size=8 8,9 9",
    ]
    assert call(sweep.main, *words, "--", "--datapath", "d") == 0
    assert [trial.name for trial, _ in played] == [
        *("try_lr1_image_size8-8", "try_lr1_image_size9-9"),
        *("try_lr2_image_size8-8", "try_lr2_image_size9-9"),
    ]
    trial, rest = played[1]
    assert trial.words == ["--lr", "1", "--image_size", "9", "9"] and rest == ["--datapath", "d"]
    out = capsys.readouterr().out
    assert "run 4 of 4: try_lr2_image_size9-9" in out and "best PSNR" in out


def test_a_run_that_fails_does_not_stop_the_others(tmp_path, played, capsys):
    assert call(sweep.main, "--experiments", tmp_path, "--vary", "lr=3,4") == 1
    said = capsys.readouterr()
    assert "failed: sweep_lr3" in said.err and "sweep_lr4" in said.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--vary", "lr"], "has not the form OPTION=VALUE,VALUE"),
        (["--vary", "lr=1,,2"], "has not the form OPTION=VALUE,VALUE"),
        (["--vary", "exp_name=a,b"], "the sweep sets --exp_name itself"),
        (["--vary", "lr=1", "lr=2"], "names an option twice"),
    ],
)
def test_what_makes_no_sense(words, sentence, capsys):
    assert call(sweep.main, *words) == 2
    assert sentence in capsys.readouterr().err


def test_what_cannot_be_trained(played):
    with pytest.raises(StackError, match="--resume cannot follow --"):
        sweep.main(["--vary", "lr=1", "--", "--resume"])
    with pytest.raises(StackError, match="give each value once"):
        sweep.main(["--vary", "lr=1,1"])
