"""training/curves.py and training/profiling.py: what a run shows of itself."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from loss import TERMS
from stackmff.training.curves import (
    BOTTOM,
    COLOURS,
    HEIGHT,
    LEFT,
    MOST_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Plot,
    draw_plot,
    draw_run,
    log_ticks,
    read_log,
    round_ticks,
    thin_out,
)
from stackmff.training.log import line_step
from stackmff.training.profiling import Stages, table_of_stages


def test_ticks_are_round_and_inside():
    assert round_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert round_ticks(0.93, 0.981) == pytest.approx([0.93, 0.94, 0.95, 0.96, 0.97, 0.98])
    assert [f"{tick:g}" for tick in round_ticks(-0.0, 240)] == ["0", "50", "100", "150", "200"]
    assert log_ticks(0.0011, 2.5) == [0.01, 0.1, 1]
    assert log_ticks(0.1, 1) == [0.1, 0.2, 0.5, 1]
    assert log_ticks(3.1, 3.9) == round_ticks(3.1, 3.9)
    for low in (1e-6, 0.3, 7):
        for factor in (1.1, 3, 40, 1e5):
            for ticks in (round_ticks(low, low * factor), log_ticks(low, low * factor)):
                assert 1 <= len(ticks) <= 7
                assert all(low * 0.999 <= tick <= low * factor * 1.001 for tick in ticks)


def test_long_curves_are_thinned_out_by_means():
    steps, values = thin_out(range(10_001), [k % 2 for k in range(10_001)])
    assert len(steps) == len(values) == MOST_POINTS
    assert (np.diff(steps) > 0).all() and np.abs(values - 0.5).max() < 0.05


def places_of(picture, colour):
    rows, columns = np.nonzero((picture == colour).all(2))
    return rows, columns


def test_a_curve_is_where_its_values_are():
    picture = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    draw_plot(picture, Plot("rising", {"a": (range(1, 101), np.linspace(1, 3, 100))}))
    rows, columns = places_of(picture, COLOURS[0])
    assert columns.min() >= LEFT and columns.max() <= WIDTH - RIGHT + 1
    order = np.argsort(columns)
    assert (np.diff(rows[order].astype(int)) <= 3).all()  # upwards is up, but for its width
    assert rows.min() == pytest.approx(TOP + 0.054 * (HEIGHT - TOP - BOTTOM), abs=4)
    assert rows.max() == pytest.approx(HEIGHT - BOTTOM - 0.054 * (HEIGHT - TOP - BOTTOM), abs=4)


def test_what_cannot_be_drawn_is_left_out():
    picture = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    values = [0.1, 0.0, float("nan"), 0.2]
    draw_plot(picture, Plot("log", {"a": ([1, 2, 3, 4], values), "b": ([1], [0.0])}, True))
    assert len(places_of(picture, COLOURS[0])[0]) > 20
    assert not len(places_of(picture, COLOURS[1])[0])
    empty = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    draw_plot(empty, Plot("nothing", {}))
    assert (empty != 255).any()


def test_a_run_of_one_step_and_a_log_that_was_cut_short(tmp_path):
    line = {"epoch": 0, "step": 1, "train": {"loss": 0.2, "l1": 0.1, "lr": 1e-3}}
    (tmp_path / "log.jsonl").write_text(json.dumps(line) + '\n{"epoch": 0, "st')
    picture = draw_run(tmp_path / "log.jsonl")
    assert picture.shape == (3 * HEIGHT, 2 * WIDTH, 3)
    assert len(places_of(picture[:HEIGHT, :WIDTH], COLOURS[1])[0]) > 5  # the term l1


def test_stages_are_timed_apart_and_only_when_asked(monkeypatch):
    now = 0.0

    def work(seconds):
        nonlocal now
        now += seconds

    monkeypatch.setattr(
        "stackmff.training.profiling.time", SimpleNamespace(perf_counter=lambda: now)
    )
    stages = Stages(torch.device("cpu"))

    def slow():
        for k in range(3):
            work(4)
            yield k

    for _ in stages.each("load", slow()):
        work(32)  # of no stage
        with stages.stage("step"):
            work(1)
    assert stages.seconds == {"load": 12, "step": 3}
    idle = Stages()
    assert list(idle.each("load", range(3))) == [0, 1, 2] and idle.seconds == {}
    lines = table_of_stages({"load": 1.0, "step": 2.0}, 10, 80, 4.0)
    assert lines[1].split() == ["load", "100.0", "25.0%"]
    assert lines[3].split() == ["between", "100.0", "25.0%"]
    assert lines[-1] == "10 steps, 20.00 samples/s"


def test_every_term_of_the_loss_has_a_curve_of_its_own_colour(tmp_path):
    names = ["loss", *TERMS]
    assert len({*COLOURS}) == len(COLOURS) >= len(names) + 1  # and the validation's
    lines = [
        {"epoch": 0, "step": step, "train": {name: 2.0**-k for k, name in enumerate(names)}}
        for step in (1, 9)
    ]
    lines.append({"epoch": 0, "step": 9, "validation": {"loss": 3.0}})
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    picture = draw_run(tmp_path / "log.jsonl")[TOP:HEIGHT, LEFT:WIDTH]
    for colour in COLOURS[: len(names) + 1]:
        assert len(places_of(picture, colour)[0]) > 9, colour


def test_more_curves_than_colours_are_drawn_all_the_same():
    curves = {f"c{k}": ([0, 10], [k, k + 0.5]) for k in range(len(COLOURS) + 1)}
    one, other = (np.full((HEIGHT, WIDTH, 3), 255, np.uint8) for _ in range(2))
    draw_plot(one, Plot("many", curves))
    first = COLOURS[0]
    draw_plot(other, Plot("many", dict(list(curves.items())[:-1])))
    assert len(places_of(one, first)[0]) > 1.5 * len(places_of(other, first)[0])


def test_a_run_that_was_only_looked_at_before_its_first_step():
    picture = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    draw_plot(picture, Plot("start", {"a": ([0], [1.0])}))
    assert len(places_of(picture, COLOURS[0])[0]) > 5


def test_damaged_lines_of_a_log_are_left_out(tmp_path):
    lines = ['{"step": 1, "epoch": 0, "train": {"loss": 2}}', "[" * 100_000, "7", "[]", "{}"]
    lines += ['{"step": "x", "train": {}}', '{"step": 2, "train": 3}', '{"step": 2, "train": null}']
    lines += ['{"step": 2, "train": {"loss": "low", "lr": [1]}}', '{"train": {"loss": 1}}', "nul"]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert read_log(tmp_path / "log.jsonl") == {"train": {"loss": ([1.0], [2])}}
    assert [line_step(line) for line in lines[:5]] == [1, *[float("inf")] * 4]
