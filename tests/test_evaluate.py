"""evaluate.py: matching, the table, registration, and the sentence of each error."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import fake_toolbox
import numpy as np
import pytest
from drawn import blobs, texture, write_set

import evaluate
from stackmff.errors import StackError
from stackmff.evaluation import contest, matching, scoring
from stackmff.evaluation.indices import INDICES, index_scores
from stackmff.evaluation.metrics import METRICS, OPTIONAL_METRICS, score, to_gray
from stackmff.evaluation.scoring import Task
from stackmff.images.formats import read_picture, write_picture


@pytest.fixture
def folders(tmp_path):
    """Two answers, in other formats than their results, which are a little brighter."""
    for i, name in enumerate(("scene2", "scene10")):
        answer = texture(32, 40, i)
        write_picture(tmp_path / "AiF" / f"{name}.png", answer)
        fused = np.minimum(answer, 250) + np.uint8(i + 1)
        write_picture(tmp_path / "fused" / f"{name}.tif", fused)
    return tmp_path / "fused", tmp_path / "AiF"


ROOT = Path(__file__).parents[1]


def run(*words):
    return evaluate.main([str(word) for word in words])


def scores_of(folder, answers, **how):
    """{scene: {metric: score}} of a folder of results."""
    scenes = matching.find_scenes(None, answers)
    files = matching.match(folder, scenes, answers)
    tasks = [Task("a", name, path, scenes[name]) for name, path in files.items()]
    return scoring.score_tasks(tasks, scoring.Scoring(**how))["a"]


def test_the_short_form_has_the_means_alone(folders, capsys):
    run("--results", folders[0], "--reference", folders[1], "--short")
    said = capsys.readouterr().out
    assert "scene2" not in said and "scene10" not in said
    assert said.split()[0] == "method" and "PSNR" in said and "\nfused " in said


def test_every_picture_every_metric_and_the_mean(folders, tmp_path, capsys):
    table = tmp_path / "new folder" / "table.csv"
    run("--results", folders[0], "--reference", folders[1], "--csv", table)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["results", "picture", *METRICS]
    assert [line[:2] for line in lines[1:]] == [
        ["fused", "scene2"],
        ["fused", "scene10"],
        ["fused", "MEAN"],
    ]
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["picture"] for row in rows] == ["scene2", "scene10", "MEAN"]
    answer = texture(32, 40, 0)
    expected = score(np.minimum(answer, 250) + np.uint8(1), answer, 255)
    for name in METRICS:
        assert float(rows[0][name]) == expected[name]
        mean = (float(rows[0][name]) + float(rows[1][name])) / 2
        assert float(rows[2][name]) == pytest.approx(mean)


def test_several_results_in_one_table_with_the_means_at_its_end(folders, tmp_path, capsys):
    run("--results", f"ours={folders[0]}", f"exact={folders[1]}", "--reference", folders[1])
    table, header, comparisons = capsys.readouterr().out.split("\n\n")
    lines = [line.split()[:3] for line in table.splitlines()]
    assert [line[:2] for line in lines[1:]] == [
        ["ours", "scene2"],
        ["ours", "scene10"],
        ["exact", "scene2"],
        ["exact", "scene10"],
        ["ours", "MEAN"],
        ["exact", "MEAN"],
    ]
    assert float(lines[-1][2]) == pytest.approx(58.92, abs=0.01)
    assert "Other minus ours" in header and "n = 2" in header and "Student's t" in header
    psnr, ssim = (line.split() for line in comparisons.splitlines()[1:])
    assert psnr[:2] == ["exact", "PSNR"] and float(psnr[2]) > 10 and psnr[-1] == "2/2"
    assert ssim[:2] == ["exact", "SSIM"] and ssim[-1] == "2/2"
    mean, low, high = map(float, ssim[2:5])
    assert 0 < mean == pytest.approx((low + high) / 2, rel=1e-3)
    with pytest.raises(StackError, match="two folders named a: give them as NAME=DIR"):
        run("--results", f"a={folders[0]}", f"a={folders[1]}", "--reference", folders[1])


def test_one_result_is_not_compared_and_one_scene_has_no_interval(tmp_path, capsys):
    data = write_set(tmp_path, [3])
    words = ["--results", f"exact={data / 'AiF'}", "--reference", data / "AiF"]
    run(*words)
    assert "minus" not in capsys.readouterr().out
    run(*words, "--stacks", data / "dof_stack", "--csv", tmp_path / "table.csv")
    said = capsys.readouterr().out
    assert "Other minus exact, paired by scene (n = 1)" in said
    name, less, *rest = said.splitlines()[-2].split()[-5:]
    assert name == "PSNR" and float(less) < -10 and rest == ["-", "-", "0/1"]
    assert said.splitlines()[-1].split()[-3:] == ["-", "-", "0/1"]
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 1 + 2 + 2


def test_gray(folders):
    colour, gray = scores_of(*folders), scores_of(*folders, gray=True)
    assert gray["scene2"]["SSIM"] != colour["scene2"]["SSIM"]


def test_other_files_and_folders_are_passed_over(folders):
    before = scores_of(*folders)
    (folders[0] / "summary.csv").write_text("name,seconds\n")
    write_picture(folders[0] / "focus_map" / "scene2.png", texture(8, 8, 0))
    write_picture(folders[0] / ".scene3.png", texture(8, 8, 0))
    assert scores_of(*folders) == before


def test_alpha_is_left_out(folders):
    before = scores_of(*folders)["scene2"]
    fused = np.minimum(texture(32, 40, 0), 250) + np.uint8(1)
    alpha = np.full((32, 40, 1), 9, np.uint8)
    (folders[0] / "scene2.tif").unlink()
    write_picture(folders[0] / "scene2.png", np.concatenate([fused, alpha], axis=2))
    assert scores_of(*folders)["scene2"] == before


def break_missing(fused, answers):
    (fused / "scene2.tif").unlink()


def break_name(fused, answers):
    (fused / "scene2.tif").rename(fused / "scene2_fused.tif")


def break_extra(fused, answers):
    write_picture(fused / "scene3.png", texture(32, 40, 0))


def break_double(fused, answers):
    write_picture(fused / "scene2.png", texture(32, 40, 0))


def break_size(fused, answers):
    write_picture(fused / "scene2.tif", texture(32, 44, 0))


def break_colour(fused, answers):
    write_picture(fused / "scene2.tif", texture(32, 40, 0)[..., :1])


def break_file(fused, answers):
    (fused / "scene2.tif").write_bytes(b"II*\0 no picture")


def break_small(fused, answers):
    for folder, suffix in ((fused, "tif"), (answers, "png")):
        write_picture(folder / f"scene2.{suffix}", texture(9, 40, 0))


def break_empty(fused, answers):
    for path in fused.iterdir():
        path.unlink()


def break_gone(fused, answers):
    break_empty(fused, answers)
    fused.rmdir()


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (break_missing, "fused has no result for scene2 of .*AiF"),
        (break_name, r"fuse the missing ones, or name scene2_fused\.tif as the scenes are"),
        (break_extra, "fused holds scene3.png, which .*AiF has no scene for"),
        (break_double, "scene2.* have the same name"),
        (break_size, "scene2.tif is 44x32, its answer .*scene2.png is 40x32"),
        (break_colour, "scene2.tif is grey, its answer .* is colour"),
        (break_file, r"scene2\.tif"),
        (break_small, "scene2.tif cannot be scored: .*40x9 is smaller than the 11x11 window"),
        (break_empty, "fused holds no picture"),
        (break_gone, "fused is not a folder"),
    ],
)
def test_what_cannot_be_scored_is_named(folders, harm, sentence):
    harm(*folders)
    with pytest.raises(StackError) as caught:
        run("--results", folders[0], "--reference", folders[1])
    assert re.search(sentence, str(caught.value)) and "\n" not in str(caught.value)


def test_results_of_16_bits_are_scored_against_answers_of_8(folders, tmp_path, capsys):
    """And the reverse: 255 is 65535."""
    _, answers = folders
    deep = tmp_path / "deep"
    for path in answers.iterdir():
        write_picture(deep / f"{path.stem}.tif", read_picture(path).astype(np.uint16) * 257)
    for words in ([deep, answers], [answers, deep]):
        run("--results", words[0], "--reference", words[1])
        *_, mean = capsys.readouterr().out.split("\n\n")[0].splitlines()
        assert float(mean.split()[2]) > 58 and float(mean.split()[3]) == pytest.approx(1)


def test_grey_results_are_scored_against_colour_answers_by_luma(folders, tmp_path, capsys):
    _, answers = folders
    grey = tmp_path / "grey"
    for path in answers.iterdir():
        write_picture(grey / path.name, to_gray(read_picture(path))[..., None])
    run("--results", grey, "--reference", answers, "--gray", "--html", tmp_path / "page.html")
    *_, mean = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert float(mean.split()[2]) == pytest.approx(58.92, abs=0.01)
    with pytest.raises(StackError, match=r"is grey, its answer .* is colour: .* --gray"):
        run("--results", grey, "--reference", answers)


def test_the_command_ends_with_one_sentence(folders, tmp_path):
    (tmp_path / "file").write_text("in the way")
    script = Path(evaluate.__file__)
    command = [sys.executable, script, "--results", folders[0], "--reference", folders[1]]
    done = subprocess.run(
        [*command, "--csv", tmp_path / "file" / "t.csv"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*file cannot be created \(File exists\): .*\n", done.stderr)
    assert not done.stdout  # told before the work


def test_the_mean_of_the_frames_is_scored_beside_the_results(tmp_path, capsys):
    data = write_set(tmp_path, [2, 3])
    words = ["--results", f"exact={data / 'AiF'}", "--reference", data / "AiF"]
    table = tmp_path / "table.csv"
    run(*words, "--stacks", data / "dof_stack", "--csv", table)
    assert "mean of the frames" in capsys.readouterr().out
    with pytest.raises(StackError, match="rename it"):
        twin = f"mean of the frames={data / 'AiF'}"
        run("--results", twin, "--reference", data / "AiF", "--stacks", data / "dof_stack")
    rows = list(csv.DictReader(table.open(newline="")))
    means = {row["results"]: row for row in rows if row["picture"] == "MEAN"}
    frames = [read_picture(p) for p in sorted((data / "dof_stack" / "scene0").iterdir())]
    mean = np.rint(np.mean(frames, axis=0)).astype(np.uint8)
    expected = score(mean, read_picture(data / "AiF" / "scene0.png"), 255)
    (row,) = [r for r in rows if r["results"] != "exact" and r["picture"] == "scene0"]
    assert float(row["PSNR"]) == pytest.approx(expected["PSNR"])
    assert float(means["exact"]["MAE"]) == 0
    with pytest.raises(StackError, match="is not a folder"):
        run(*words, "--stacks", tmp_path / "elsewhere")


def test_registration_of_grey_pictures_and_by_the_command(tmp_path):
    answer = blobs(128)[..., :1]
    shifted = np.roll(answer, 2, axis=1)
    write_picture(tmp_path / "AiF" / "a.png", answer)
    write_picture(tmp_path / "fused" / "a.png", shifted)
    run("--results", tmp_path / "fused", "--reference", tmp_path / "AiF", "--register")
    plain = scores_of(tmp_path / "fused", tmp_path / "AiF")
    registered = scores_of(tmp_path / "fused", tmp_path / "AiF", gray=True, registered=True)
    assert registered["a"]["PSNR"] > plain["a"]["PSNR"] + 10


def test_what_cannot_be_registered_is_named(tmp_path):
    write_picture(tmp_path / "AiF" / "a.png", texture(48, 64, 0))
    write_picture(tmp_path / "fused" / "a.png", texture(48, 64, 0))
    with pytest.raises(StackError, match=r"a\.png cannot be scored: 64x48 leaves nothing inside"):
        scores_of(tmp_path / "fused", tmp_path / "AiF", registered=True)
    with pytest.raises(ValueError, match="no affine map"):
        scoring.register(np.zeros((64, 64, 3), np.uint8), blobs(64))


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.setattr(contest, "methods", fake_toolbox)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_methods_are_fused_and_scored_beside_results(fakes, tmp_path, capsys):
    data = write_set(tmp_path / "<i>set", [2, 3])
    (data / "dof_stack" / "scene0").rename(data / "dof_stack" / "<b>#1")
    (data / "AiF" / "scene0.png").rename(data / "AiF" / "<b>#1.png")
    out = tmp_path / "out"
    words = ["--stacks", data, "--reference", data / "AiF", "--methods", "first", "bad"]
    words += ["--results", f"exact={data / 'AiF'}", "--output_dir", out, "--workers", "1"]
    files = ["--csv", out / "t.csv", "--markdown", out / "t.md", "--html", out / "page.html"]
    assert run(*words, *files, "--against", "bad") == 0
    rows = rows_of(out / "t.csv")
    methods = ["exact", "first", "bad", "mean of the frames"]
    assert [row["results"] for row in rows if row["picture"] == "MEAN"] == methods
    by_name = {(row["results"], row["picture"]): row for row in rows}
    for scene in ("<b>#1", "scene1"):
        frame = read_picture(data / "dof_stack" / scene / "0.png")
        expected = score(frame, read_picture(data / "AiF" / f"{scene}.png"), 255)
        row = by_name["first", scene]
        assert float(row["PSNR"]) == expected["PSNR"]
        assert float(row["seconds"]) > 0 and float(row["MiB"]) > 10
        assert by_name["exact", scene]["seconds"] == ""
    said = capsys.readouterr().out
    assert "Other minus bad" in said and "rank" in said
    assert "| exact | 2 | 58.92 | 1.000 | +" in (out / "t.md").read_text()
    page = (out / "page.html").read_text()
    assert "<b>#1" not in page and "&lt;b&gt;#1" in page
    assert "58.92 dB, SSIM 1.000" in page
    assert "first/%3Cb%3E%231.png" in page  # linked to where it lies, not copied
    assert len(list((out / "page_files").rglob("*-error.png"))) == 2 * len(methods)

    stamps = {path: path.stat().st_mtime_ns for path in out.glob("*/*.png")}
    assert len(stamps) == 4
    assert run(*words) == 0
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_a_failing_method_is_named_and_the_rest_is_in_the_table(fakes, tmp_path, capsys):
    data = write_set(tmp_path, [2])
    words = ["--stacks", data, "--reference", data / "AiF", "--output_dir", tmp_path / "out"]
    assert run(*words, "--methods", "absent", "first") == 1
    said = capsys.readouterr()
    assert "failed: absent: absent needs a package" in said.err
    assert "absent lacks 1 of 1 results and is left out of the table" in said.err
    assert "absent" not in said.out and "first" in said.out
    assert run(*words, "--methods", "absent", "first", "--against", "absent") == 1
    assert "Other minus first" in capsys.readouterr().out  # its place is taken
    with pytest.raises(StackError, match="no method has all its results"):
        run(*words, "--methods", "absent")
    with pytest.raises(StackError, match="--against x is not one of first, mean of the frames"):
        run(*words, "--methods", "first", "--output_dir", tmp_path / "new", "--against", "x")
    assert not (tmp_path / "new").exists()  # told before the work
    with pytest.raises(StackError, match="named first, like a method"):
        run(*words, "--methods", "first", "--results", f"first={data / 'AiF'}")
    with pytest.raises(StackError, match="choose another --output_dir"):
        run(*words, "--methods", "first", "--output_dir", data / "dof_stack" / "out")


def test_stacks_and_answers_must_be_the_same_scenes(fakes, tmp_path):
    data = write_set(tmp_path, [2, 2])
    words = ["--stacks", data, "--reference", data / "AiF", "--output_dir", tmp_path / "out"]
    (data / "AiF" / "scene1.png").rename(data / "AiF" / "other.png")
    with pytest.raises(StackError, match=r"other of .*AiF is not in .*dof_stack"):
        run(*words, "--methods", "first")
    (data / "AiF" / "other.png").unlink()
    with pytest.raises(StackError, match=r"scene1 of .*dof_stack is not in .*AiF"):
        run(*words, "--methods", "first")
    assert not (tmp_path / "out").exists()  # told before anything is fused


def test_without_answers_the_indices_rank(tmp_path, capsys):
    data = write_set(tmp_path, [2, 3])
    words = ["--stacks", data, "--results", f"exact={data / 'AiF'}"]
    table = tmp_path / "t.csv"
    page = tmp_path / "page.html"
    assert run(*words, "--indices", "Qabf", "EN", "--csv", table, "--html", page) == 0
    said = capsys.readouterr().out
    assert "minus" not in said and "mean over scenes and Qabf" in said
    rows = rows_of(table)
    assert list(rows[0]) == ["results", "picture", "Qabf", "EN"]
    frames = [read_picture(p) for p in sorted((data / "dof_stack" / "scene0").iterdir())]
    answer = read_picture(data / "AiF" / "scene0.png")
    expected = index_scores(answer, frames, 255, ["Qabf", "EN"])
    assert {name: float(rows[0][name]) for name in expected} == expected
    assert "error map" not in page.read_text()
    assert run(*words, "--csv", table) == 0
    assert list(rows_of(table)[0])[2:] == list(INDICES)
    (tmp_path / "fused").mkdir()
    write_picture(tmp_path / "fused" / "scene0.png", answer)
    with pytest.raises(StackError, match="fused has no result for scene1 of "):
        run("--stacks", data, "--results", tmp_path / "fused")
    write_picture(tmp_path / "fused" / "scene1.png", answer[:40])
    with pytest.raises(StackError, match=r"scene1\.png is 48x40, its stack .*scene1 is 48x48"):
        run("--stacks", data, "--results", tmp_path / "fused", "--indices", "EN")


def test_indices_beside_answers_and_optional_metrics(folders, tmp_path, capsys):
    data = write_set(tmp_path / "set", [2, 3])
    words = ["--stacks", data, "--reference", data / "AiF", "--indices", "EN", "AG"]
    words += ["--results", *(f"{name}={data / 'AiF'}" for name in "abcd")]
    table = tmp_path / "t.csv"
    run(*words, "--csv", table)
    assert list(rows_of(table)[0])[2:] == [*METRICS, "EN", "AG"]
    said = capsys.readouterr().out
    assert "index  with PSNR  with SSIM" in said
    assert said.splitlines()[-1].split() == ["AG", "-", "-"]  # four equal results have no order
    with pytest.raises(StackError, match=r"cannot be scored: .* MS-SSIM"):  # they are too small
        run("--results", folders[0], "--reference", folders[1], "--metrics", "MS-SSIM")


def test_the_packages_of_a_metric_are_asked_for_before_the_work(monkeypatch, folders):
    def lacks(fused, answer, peak):
        raise ValueError("MS-SSIM needs this and that")

    monkeypatch.setitem(OPTIONAL_METRICS, "MS-SSIM", (lacks, ""))
    with pytest.raises(StackError, match=r"^MS-SSIM needs this and that$"):
        run("--results", folders[0], "--reference", "nowhere", "--metrics", "MS-SSIM")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--reference r", "give --results, --methods or both"),
        ("--results a", "give --reference, --stacks or both"),
        ("--methods first --reference r", "--methods need --stacks"),
        ("--results a --reference r --indices", "--indices need --stacks"),
        ("--results a --stacks s --gray", "--gray needs --reference"),
        ("--results a --stacks s --register", "--register needs --reference"),
        ("--results a --stacks s --against b", "--against needs --reference"),
        ("--results a --stacks s --metrics LPIPS", "--metrics needs --reference"),
        ("--results a --reference r --iterative", "--iterative needs --methods"),
        ("--results a --reference r --overwrite", "--overwrite needs --methods"),
        ("--results a --reference r --output_dir o", "--output_dir needs --methods"),
        ("--results a --reference r --workers 0", "must be at least 1"),
        ("--results a --stacks s --indices XY", "invalid choice"),
        ("--results a --stacks s --html .", "--html needs a name that ends in .html"),
        ("--stacks s --methods other", "'other' is not a method: choose from LP"),
        ("--stacks s --methods LP:levels=x", "'x' is not a whole number"),
        ("--stacks s --methods all LP LP", "LP is named twice"),
    ],
)
def test_contradictions_exit_with_2(words, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        run(*words.split())
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err


def test_against_names_a_result(folders, capsys):
    words = ["--results", f"a={folders[0]}", f"b={folders[1]}", "--reference", folders[1]]
    run(*words, "--against", "best")
    assert "Other minus b" in capsys.readouterr().out
    with pytest.raises(StackError, match="--against c is not one of a, b"):
        run(*words, "--against", "c")


def test_an_error_map_on_the_page_is_of_the_registered_pair(tmp_path):
    answer = blobs(128)
    write_picture(tmp_path / "AiF" / "a.png", answer)
    write_picture(tmp_path / "fused" / "a.png", np.roll(answer, 2, axis=1))
    words = ["--results", tmp_path / "fused", "--reference", tmp_path / "AiF"]
    sums = {}
    for option in ([], ["--register"]):
        run(*words, *option, "--html", tmp_path / "page.html")
        (path,) = (tmp_path / "page_files").rglob("*-error.png")
        painted = read_picture(path)
        sums[len(option)] = painted[..., 1].mean()  # green grows with the error
        assert painted.shape == ((80, 80, 3) if option else (128, 128, 3))
    assert sums[1] < sums[0] / 4
