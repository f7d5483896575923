"""evaluate.py: matching, the table, registration, and the sentence of each error."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn import texture, write_set

import evaluate
from metrics import METRICS, score
from pictures import read_picture, write_picture
from utils import StackError


@pytest.fixture
def folders(tmp_path):
    """Two answers, in other formats than their results, which are a little brighter."""
    for i, name in enumerate(("scene2", "scene10")):
        answer = texture(32, 40, i)
        write_picture(tmp_path / "AiF" / f"{name}.png", answer)
        fused = np.minimum(answer, 250) + np.uint8(i + 1)
        write_picture(tmp_path / "fused" / f"{name}.tif", fused)
    return tmp_path / "fused", tmp_path / "AiF"


def run(*words):
    return evaluate.main([str(word) for word in words])


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
    assert lines[-1][2] == "inf"
    assert "Other minus ours" in header and "n = 2" in header and "Student's t" in header
    psnr, ssim = (line.split() for line in comparisons.splitlines()[1:])
    assert psnr == ["exact", "PSNR", "+inf", "-", "-", "2/2"]
    assert ssim[:2] == ["exact", "SSIM"] and ssim[-1] == "2/2"
    mean, low, high = map(float, ssim[2:5])
    assert 0 < mean == pytest.approx((low + high) / 2, rel=1e-3)
    with pytest.raises(StackError, match="two folders named a: give them as NAME=DIR"):
        run("--results", f"a={folders[0]}", f"a={folders[1]}", "--reference", folders[1])


def test_the_difference_of_paired_scores_and_its_interval():
    first = [10.0, 20.0, 30.0, 40.0, 50.0]
    # Differences 1 to 5: mean 3, deviation sqrt(2.5); t of 4 degrees at 97.5 % is 2.776445.
    mean, low, high = evaluate.paired_difference(first, [11, 22, 33, 44, 55])
    reach = 2.776445 * np.sqrt(2.5 / 5)
    assert (mean, low, high) == pytest.approx((3, 3 - reach, 3 + reach))
    # With one degree of freedom t is a tangent: tan(pi / 4) = 1 at a level of 50 %.
    found = evaluate.paired_difference([0, 0], [1, -3], confidence=0.5)
    assert found == pytest.approx((-1, -1 - 2, -1 + 2))
    assert evaluate.paired_difference(first, np.add(first, 0.5)) == (0.5, 0.5, 0.5)


def test_where_the_difference_has_no_interval():
    nothing = pytest.approx(np.nan, nan_ok=True)
    assert evaluate.paired_difference([30], [31.5]) == (1.5, nothing, nothing)
    assert evaluate.paired_difference([30, np.inf], [31, 40]) == (-np.inf, nothing, nothing)
    assert evaluate.paired_difference([np.inf, 1], [1, np.inf])[0] == nothing
    # Both exact: no difference.
    assert evaluate.paired_difference([np.inf, 5], [np.inf, 5]) == (0, 0, 0)


def test_an_interval_holds_the_true_difference_as_often_as_it_says():
    rng = np.random.default_rng(0)
    scenes = rng.normal(30, 5, (4000, 6))
    others = scenes + rng.normal(0.3, 0.5, scenes.shape)
    intervals = [evaluate.paired_difference(*pair)[1:] for pair in zip(scenes, others)]
    share = np.mean([low < 0.3 < high for low, high in intervals])
    assert share == pytest.approx(0.95, abs=0.012)


def test_comparisons_are_with_the_first_and_in_its_order_of_scenes():
    def table(psnr, ssim):
        rows = {k: {"PSNR": p, "SSIM": s} for k, (p, s) in enumerate(zip(psnr, ssim))}
        return rows, None

    tables = {
        "a": table([30, 31, 32], [0.9, 0.8, 0.7]),
        "b": table([31, 30, 33.5], [0.9, 0.8, 0.7]),
        "c": table([29, 30, 31], [0.8, 0.9, 0.9]),
    }
    rows = evaluate.comparison_rows(tables)
    assert rows[0] == ["results", "metric", "mean", "low", "high", "won"]
    assert [row[:3] + row[-1:] for row in rows[1:]] == [
        ["b", "PSNR", "+0.5", "2/3"],
        ["b", "SSIM", "+0", "0/3"],  # equal is not won
        ["c", "PSNR", "-1", "0/3"],
        ["c", "SSIM", "+0.06667", "2/3"],
    ]
    assert rows[3][3:5] == ["-1", "-1"]


def test_one_result_is_not_compared_and_one_scene_has_no_interval(tmp_path, capsys):
    data = write_set(tmp_path, [3])
    words = ["--results", f"exact={data / 'AiF'}", "--reference", data / "AiF"]
    run(*words)
    assert "minus" not in capsys.readouterr().out
    run(*words, "--stacks", data / "dof_stack", "--csv", tmp_path / "table.csv")
    said = capsys.readouterr().out
    assert "Other minus exact, paired by scene (n = 1)" in said
    assert said.splitlines()[-2].split()[-5:] == ["PSNR", "-inf", "-", "-", "0/1"]
    assert said.splitlines()[-1].split()[-3:] == ["-", "-", "0/1"]
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 1 + 2 + 2


def test_a_folder_with_an_equals_sign_is_a_folder(folders, tmp_path):
    odd = tmp_path / "lr=0.1 é"
    folders[0].rename(odd)
    assert evaluate.named_folders([str(odd)]) == {"lr=0.1 é": odd}


@pytest.mark.parametrize("word", ["name=", "=folder", ""])
def test_results_without_a_name_or_a_folder(word):
    with pytest.raises(StackError, match="give DIR or NAME=DIR"):
        evaluate.named_folders([word])


def test_gray(folders):
    colour, _ = evaluate.evaluate(evaluate.match(*folders))
    gray, _ = evaluate.evaluate(evaluate.match(*folders), gray=True)
    assert gray["scene2"]["SSIM"] != colour["scene2"]["SSIM"]


def test_other_files_and_folders_are_passed_over(folders):
    before = evaluate.evaluate(evaluate.match(*folders))
    (folders[0] / "summary.csv").write_text("name,seconds\n")
    write_picture(folders[0] / "focus_map" / "scene2.png", texture(8, 8, 0))
    write_picture(folders[0] / ".scene3.png", texture(8, 8, 0))
    assert evaluate.evaluate(evaluate.match(*folders)) == before


def test_alpha_is_left_out(folders):
    before = evaluate.evaluate(evaluate.match(*folders))[0]["scene2"]
    fused = np.minimum(texture(32, 40, 0), 250) + np.uint8(1)
    alpha = np.full((32, 40, 1), 9, np.uint8)
    (folders[0] / "scene2.tif").unlink()
    write_picture(folders[0] / "scene2.png", np.concatenate([fused, alpha], axis=2))
    assert evaluate.evaluate(evaluate.match(*folders))[0]["scene2"] == before


def break_missing(fused, answers):
    (fused / "scene2.tif").unlink()


def break_extra(fused, answers):
    write_picture(fused / "scene3.png", texture(32, 40, 0))


def break_double(fused, answers):
    write_picture(fused / "scene2.png", texture(32, 40, 0))


def break_size(fused, answers):
    write_picture(fused / "scene2.tif", texture(32, 44, 0))


def break_depth(fused, answers):
    write_picture(fused / "scene2.tif", texture(32, 40, 0).astype(np.uint16))


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
        (break_extra, "fused holds scene3.png, which .*AiF does not answer"),
        (break_double, "scene2.* have one name"),
        (break_size, "scene2.tif is 44x32, its answer .*scene2.png is 40x32"),
        (break_depth, "scene2.tif is 16 bit, its answer .* is 8 bit"),
        (break_colour, "scene2.tif is grey, its answer .* is colour"),
        (break_file, r"scene2\.tif"),
        (break_small, "scene2.tif cannot be scored: .*40x9 is smaller than the 11x11 window"),
        (break_empty, "fused holds no picture"),
        (break_gone, "fused is no folder"),
    ],
)
def test_what_cannot_be_scored_is_named(folders, harm, sentence):
    harm(*folders)
    with pytest.raises(StackError) as caught:
        run("--results", folders[0], "--reference", folders[1])
    assert re.search(sentence, str(caught.value)) and "\n" not in str(caught.value)


def test_the_command_ends_with_one_sentence(folders, tmp_path):
    (tmp_path / "file").write_text("in the way")
    script = Path(evaluate.__file__)
    command = [sys.executable, script, "--results", folders[0], "--reference", folders[1]]
    done = subprocess.run(
        [*command, "--csv", tmp_path / "file" / "t.csv"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*t\.csv cannot be written .*\n", done.stderr)


def blobs(size):
    """A smooth picture (size, size, 3) uint8 that interpolates well."""
    noise = cv2.GaussianBlur(np.random.default_rng(5).random((size, size, 3)), (0, 0), 4)
    noise = (noise - noise.min()) / (noise.max() - noise.min())
    return np.uint8(np.round(40 + 150 * noise))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_registration_recovers_a_known_map_and_gain(dtype):
    scale = dtype(np.iinfo(dtype).max // 255)
    answer = blobs(192) * scale
    matrix = np.array([[1.01, 0.006, 2.3], [-0.006, 0.99, -1.6]])
    moved = cv2.warpAffine(answer, matrix, (192, 192), flags=cv2.INTER_LANCZOS4, borderMode=1)
    dimmed = np.round(moved * np.array([0.9, 0.8, 0.95])).astype(dtype)
    white = int(np.iinfo(dtype).max)
    assert score(dimmed, answer, white)["PSNR"] < 25
    fused, inside = evaluate.register(dimmed, answer)
    assert fused.shape == inside.shape == (144, 144, 3) and fused.dtype == np.float32
    np.testing.assert_array_equal(inside, answer[24:-24, 24:-24])
    assert score(fused, inside, white)["PSNR"] > 45


def test_registration_does_not_resample_what_is_in_place():
    answer = blobs(128)
    fused, inside = evaluate.register(answer.copy(), answer)
    np.testing.assert_array_equal(fused, inside)
    dimmed, inside = evaluate.register(np.uint8(answer // 2), answer)
    assert np.abs(dimmed - inside).max() <= 2


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
    with pytest.raises(StackError, match="is no folder"):
        run(*words, "--stacks", tmp_path / "elsewhere")


def test_registration_of_grey_pictures_and_by_the_command(tmp_path):
    answer = blobs(128)[..., :1]
    shifted = np.roll(answer, 2, axis=1)
    write_picture(tmp_path / "AiF" / "a.png", answer)
    write_picture(tmp_path / "fused" / "a.png", shifted)
    run("--results", tmp_path / "fused", "--reference", tmp_path / "AiF", "--register")
    plain, _ = evaluate.evaluate(evaluate.match(tmp_path / "fused", tmp_path / "AiF"))
    pairs = evaluate.match(tmp_path / "fused", tmp_path / "AiF")
    registered, _ = evaluate.evaluate(pairs, gray=True, registered=True)
    assert registered["a"]["PSNR"] > plain["a"]["PSNR"] + 10


def test_what_cannot_be_registered_is_named(tmp_path):
    write_picture(tmp_path / "AiF" / "a.png", texture(48, 64, 0))
    write_picture(tmp_path / "fused" / "a.png", texture(48, 64, 0))
    with pytest.raises(StackError, match=r"a\.png cannot be scored: 64x48 has nothing inside"):
        evaluate.evaluate(evaluate.match(tmp_path / "fused", tmp_path / "AiF"), registered=True)
    with pytest.raises(ValueError, match="no affine map"):
        evaluate.register(np.zeros((64, 64, 3), np.uint8), blobs(64))
