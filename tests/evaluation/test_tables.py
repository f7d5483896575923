"""evaluation/tables.py: means, differences, intervals, ranks with ties, Markdown, correlations."""

import numpy as np
import pytest

from stackmff.evaluation import tables
from stackmff.evaluation.tables import comparison_rows, paired_difference


def test_the_difference_of_paired_scores_and_its_interval():
    first = [10.0, 20.0, 30.0, 40.0, 50.0]
    # Differences 1 to 5: mean 3, deviation sqrt(2.5); t of 4 degrees at 97.5 % is 2.776445.
    mean, low, high = paired_difference(first, [11, 22, 33, 44, 55])
    reach = 2.776445 * np.sqrt(2.5 / 5)
    assert (mean, low, high) == pytest.approx((3, 3 - reach, 3 + reach))
    # With one degree of freedom t is a tangent: tan(pi / 4) = 1 at a level of 50 %.
    found = paired_difference([0, 0], [1, -3], confidence=0.5)
    assert found == pytest.approx((-1, -1 - 2, -1 + 2))
    assert paired_difference(first, np.add(first, 0.5)) == (0.5, 0.5, 0.5)


def test_where_the_difference_has_no_interval():
    nothing = pytest.approx(np.nan, nan_ok=True)
    assert paired_difference([30], [31.5]) == (1.5, nothing, nothing)
    assert paired_difference([30, np.inf], [31, 40]) == (-np.inf, nothing, nothing)
    assert paired_difference([np.inf, 1], [1, np.inf])[0] == nothing
    # Both exact: no difference.
    assert paired_difference([np.inf, 5], [np.inf, 5]) == (0, 0, 0)


def test_an_interval_holds_the_true_difference_as_often_as_it_says():
    rng = np.random.default_rng(0)
    scenes = rng.normal(30, 5, (4000, 6))
    others = scenes + rng.normal(0.3, 0.5, scenes.shape)
    intervals = [paired_difference(*pair)[1:] for pair in zip(scenes, others)]
    share = np.mean([low < 0.3 < high for low, high in intervals])
    assert share == pytest.approx(0.95, abs=0.012)


def table_of(psnr, ssim, **more):
    """{scene: scores} of numbers in the order of the scenes."""
    columns = {"PSNR": psnr, "SSIM": ssim, **more}
    return {k: dict(zip(columns, row)) for k, row in enumerate(zip(*columns.values()))}


@pytest.fixture
def scores():
    return {
        "a": table_of([30, 31, 32], [0.9, 0.8, 0.7]),
        "b": table_of([31, 30, 33.5], [0.9, 0.8, 0.7]),
        "c": table_of([29, 30, 31], [0.8, 0.9, 0.9]),
    }


def test_comparisons_are_with_one_and_in_its_order_of_scenes(scores):
    rows = comparison_rows(scores)
    assert rows[0] == ["results", "metric", "mean", "low", "high", "won"]
    assert [row[:3] + row[-1:] for row in rows[1:]] == [
        ["b", "PSNR", "+0.5", "2/3"],
        ["b", "SSIM", "+0", "0/3"],  # equal is not won
        ["c", "PSNR", "-1", "0/3"],
        ["c", "SSIM", "+0.06667", "2/3"],
    ]
    assert rows[3][3:5] == ["-1", "-1"]
    others = comparison_rows(scores, "b")
    assert [row[0] for row in others[1:]] == ["a", "a", "c", "c"]
    assert others[1][2] == "-0.5" and others[1][-1] == "1/3"
    assert tables.best_method(scores, "PSNR") == "b"
    assert tables.best_method(scores, "SSIM") == "c"


def test_ranks_are_means_and_ties_share(scores):
    # PSNR: a 2 1 2, b 1 2.5 1, c 3 2.5 3; SSIM: a 1.5 2.5 2.5, b 1.5 2.5 2.5, c 3 1 1.
    ranks = tables.average_ranks(scores, ["PSNR", "SSIM"])
    assert ranks == pytest.approx({"a": 11.5 / 6, "b": 11 / 6, "c": 13.5 / 6})
    assert tables.average_ranks(scores, ["PSNR"])["b"] == 4.5 / 3
    scores["a"][0]["PSNR"] = scores["b"][0]["PSNR"] = np.inf
    assert tables.average_ranks(scores, ["PSNR"])["a"] == (1.5 + 1 + 2) / 3


def test_an_index_of_which_less_is_better_ranks_the_other_way(scores, monkeypatch):
    before = tables.average_ranks(scores, ["PSNR"])
    monkeypatch.setitem(tables.INDICES, "PSNR", tables.INDICES["EN"]._replace(direction=-1))
    after = tables.average_ranks(scores, ["PSNR"])
    assert after == pytest.approx({name: 4 - rank for name, rank in before.items()})


def test_what_methods_are_ranked_by():
    assert tables.ranked_columns(["MAE", "SSIM", "PSNR", "Q_W"]) == ["PSNR", "SSIM"]
    assert tables.ranked_columns(["EN", *tables.TRUSTED]) == list(tables.TRUSTED)
    assert tables.ranked_columns(["EN", "AG"]) == ["EN", "AG"]
    assert set(tables.TRUSTED) <= set(tables.INDICES)


def test_markdown_of_known_numbers(tmp_path, scores):
    # Differences 1, -1 and 1.5: deviation sqrt(1.75); t of 2 degrees at 97.5 % is 4.30265.
    costs = {
        "a|x": {k: {"seconds": 0.5 + k, "MiB": 100.0 - k} for k in range(3)},
        "b": {k: {"seconds": 12.0, "MiB": None} for k in range(3)},
    }
    path = tmp_path / "new" / "table.md"
    tables.write_markdown(path, {"a|x": scores.pop("a"), **scores}, costs, None)
    lines = path.read_text().splitlines()
    assert lines[:5] == [
        "| method | n | PSNR | SSIM | PSNR minus a\\|x | rank | seconds | MiB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        "| a\\|x | 3 | 31.00 | 0.8000 | - | 1.92 | 1.5 | 100 |",
        "| b | 3 | 31.50 | 0.8000 | +0.50 (-2.79 to +3.79) | 1.83 | 12 | - |",
        "| c | 3 | 30.00 | 0.8667 | -1.00 (-1.00 to -1.00) | 2.25 | - | - |",
    ]
    assert lines[5] == "" and len(lines) == 7
    for what in (
        "n: number of scenes",
        "95 % confidence",
        "mean over scenes and PSNR, SSIM",
        "MiB: ",
    ):
        assert what in lines[6]


def test_costs_are_the_mean_of_seconds_and_the_most_memory(scores):
    costs = {"a": {k: {"seconds": 0.5 + k, "MiB": 100.0 - k} for k in range(3)}}
    header, first, *_ = tables.summary_rows(scores, costs)
    row = dict(zip(header, first))
    assert (row["seconds"], row["MiB"]) == ("1.5", "100")
    rows = tables.table_rows(scores, costs)
    assert rows[0] == ["results", "picture", "PSNR", "SSIM", "seconds", "MiB"]
    assert rows[1] == ["a", 0, 30, 0.9, 0.5, 100]
    assert rows[4] == ["b", 0, 31, 0.9, None, None]
    assert rows[-3][:2] == ["a", "MEAN"] and rows[-3][4:] == [1.5, 99]
    assert rows[-1][:3] == ["c", "MEAN", 30] and rows[-1][4:] == [None, None]
    assert tables.table_rows(scores)[0] == ["results", "picture", "PSNR", "SSIM"]


def test_one_result_has_no_difference_and_no_rank(scores):
    rows = tables.summary_rows({"a": scores["a"]})
    assert rows == [["method", "n", "PSNR", "SSIM"], ["a", "3", "31.00", "0.8000"]]
    assert "rank" not in tables.explanation({"a": scores["a"]})


def test_correlations_of_indices_with_the_answers():
    orders = {"w": 1, "x": 2, "y": 3, "z": 4}
    scores = {
        name: table_of(
            [30 + k, 40 - k], [0.5 + k / 10] * 2, EN=[k, k], AG=[-k, k], SF=[np.nan, np.nan]
        )
        for name, k in orders.items()
    }
    assert tables.correlation_rows(scores) == [
        ["index", "with PSNR", "with SSIM"],
        ["EN", "+0.00", "+1.00"],  # PSNR goes down in the second scene
        ["AG", "-1.00", "+0.00"],
        ["SF", "-", "-"],
    ]
    assert tables.correlation_rows({name: scores[name] for name in "wxy"}) == []  # too few
    bare = {name: table_of([30], [0.9]) for name in orders}
    assert tables.correlation_rows(bare) == []
    alone = {name: {0: {"EN": 1.0}} for name in orders}
    assert tables.correlation_rows(alone) == []


def test_a_page_has_the_same_tables(scores):
    ((heading, rows, note),) = tables.page_tables(scores)
    assert heading == "Scores" and rows == tables.summary_rows(scores)
    assert note == tables.explanation(scores)
    assert len(tables.page_tables(scores, correlations=[["index"], ["EN"]])) == 2
