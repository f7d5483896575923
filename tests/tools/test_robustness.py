"""tools/robustness.py: what it changes, what it scores, and that it goes on where it stopped."""

import csv
import sys

import numpy as np
import pytest
from drawn import write_set

from stackmff.errors import StackError
from stackmff.images.formats import read_picture
from tools import robustness
from tools.robustness import AXES, change_of, levels_of, read_scenes


@pytest.fixture
def data(tmp_path):
    """Two scenes of six and seven frames."""
    return write_set(tmp_path / "data", [6, 7], 48, 40)


def run(data, folder, *words):
    words = ["--data", data, "--output_dir", folder, "--methods", "LP", *words]
    return robustness.main([str(word) for word in words])


def test_changes():
    assert change_of("frames", 3, 9).take.keep == 3
    assert change_of("noise", 0.4, 9).camera.noise == (2500,)
    assert change_of("flicker", 5, 9).camera.flicker == pytest.approx(0.05)
    assert change_of("shake", 0.25, 9).camera.shake == 0.25
    for axis in ("noise", "flicker", "shake"):
        still = change_of(axis, 0, 9)
        assert still.take.keep == 9 and not still.camera.given()
    assert all(list(levels) == sorted(levels) for _, levels in AXES.values())


def test_only_as_many_frames_as_there_are(data):
    scenes = read_scenes(data)
    assert levels_of("frames", scenes) == [3, 6]
    assert levels_of("shake", scenes) == list(AXES["shake"][1])


def test_scores_fall_with_the_faults_and_nothing_is_done_twice(data, tmp_path, capsys, monkeypatch):
    table = tmp_path / "table.csv"
    words = ["--axes", "noise", "shake", "--csv", table]
    for axis in ("noise", "shake"):
        monkeypatch.setitem(AXES, axis, (AXES[axis][0], (0, 1)))
    assert run(data, tmp_path / "out", *words) == 0
    rows = list(csv.DictReader(table.open()))
    assert {row["n"] for row in rows} == {"2"}
    for axis in ("noise", "shake"):
        scores = [float(row["PSNR"]) for row in rows if row["axis"] == axis]
        assert len(scores) == 2 and scores[0] > scores[1] + 1
    pictures = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    said = capsys.readouterr().out
    assert run(data, tmp_path / "out", *words) == 0
    assert capsys.readouterr().out == said
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    assert again == pictures


def test_level_0_leaves_frames_as_they_are(data, tmp_path, monkeypatch):
    monkeypatch.setitem(AXES, "flicker", ("flicker", (0,)))
    assert run(data, tmp_path / "out", "--axes", "flicker", "--n_frames", 3) == 0
    for k, source in enumerate((0, 2, 5)):  # evenly spread over six; 2.5 rounds to even
        frame = read_picture(tmp_path / "out" / "stacks" / "flicker_0" / "scene0" / f"{k:02}.png")
        np.testing.assert_array_equal(
            frame, read_picture(data / "dof_stack" / "scene0" / f"{source}.png")
        )


def test_frames_of_an_earlier_run_are_not_fused(data, tmp_path, monkeypatch):
    monkeypatch.setitem(AXES, "flicker", ("flicker", (0,)))
    for count in (5, 3):
        assert run(data, tmp_path / "out", "--axes", "flicker", "--n_frames", count) == 0
    stack = tmp_path / "out" / "stacks" / "flicker_0" / "scene0"
    assert sorted(path.name for path in stack.iterdir()) == ["00.png", "01.png", "02.png"]


def test_a_failure_is_told_and_the_rest_measured(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(AXES, "flicker", ("flicker", (0,)))
    words = ["--axes", "flicker", "--methods", "IFCNN:weights=nowhere.pth", "LP"]
    assert run(data, tmp_path / "out", *words) == 1
    said = capsys.readouterr()
    assert "failed: flicker_0: IFCNN:weights=nowhere.pth lacks 2 of 2 results" in said.err
    assert said.out.splitlines()[1].startswith("flicker  0  LP  2")


def test_what_is_no_sensible_call(data, tmp_path, capsys):
    for words, sentence in (
        (["--output_dir", data / "out"], "is inside --data: choose another folder"),
        (["--plot", tmp_path / "plot.foo"], "ends in .png or .svg"),
        (["--methods", "SIFT"], "'SIFT' is not a method"),
    ):
        with pytest.raises(SystemExit, match="2"):
            run(data, tmp_path / "out", *words)
        assert sentence in capsys.readouterr().err
    few = write_set(tmp_path / "few", [2], 48, 40)
    with pytest.raises(StackError, match="scene0 has 2 frames, too few"):
        run(few, tmp_path / "out", "--axes", "frames")
    assert not (tmp_path / "out").exists()


def test_stacks_without_answers_are_refused(data, tmp_path):
    for path in (data / "AiF").iterdir():
        path.rename(path.with_stem(f"other_{path.stem}"))
    with pytest.raises(StackError, match="no stack with an answer"):
        run(data, tmp_path / "out")


def test_the_plot(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    axes = "frames", "noise", "shake"
    rows = [[a, n, m, 2, 30 + n, 0.9] for a in axes for m in ("LP", "StackMix") for n in (3, 6)]
    del rows[0]  # LP has failed at 3 frames
    drawn = []
    figure_kind = robustness.figure_kind()

    def figure(**how):
        drawn.append(figure_kind(**how))
        return drawn[0]

    monkeypatch.setattr(robustness, "figure_kind", lambda: figure)
    robustness.draw(tmp_path / "plot.png", rows)
    plots = drawn[0].axes
    assert [plot.axison for plot in plots] == [True, True, True, False]
    first, second = plots[0].lines
    assert list(first.get_xdata()) == [1] and list(second.get_xdata()) == [0, 1]
    assert [label.get_text() for label in plots[0].get_xticklabels()] == ["3", "6"]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["LP", "StackMix"]
    picture = read_picture(tmp_path / "plot.png")
    size = [round(side * robustness.PLOT_DPI) for side in robustness.PLOT_SIZE]
    assert picture.shape[1::-1] == tuple(size) and len(np.unique(picture)) > 50


def test_a_plot_without_matplotlib_is_refused_before_the_work(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        StackError, match=r"--plot needs matplotlib: pip install .stackmff\[toolbox\]"
    ):
        run(data, tmp_path / "out", "--plot", tmp_path / "plot.png")
    assert not (tmp_path / "out").exists()
