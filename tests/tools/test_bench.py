"""tools/make_bench.py, tools/leaderboard.py: a set is a function of its seed, and is checked."""

import csv
import json
import shutil

import numpy as np
import pytest

from stackmff.errors import StackError
from stackmff.images.formats import read_picture, write_picture
from stackmff.synthesis.bench_setups import SMALL
from tools import leaderboard, make_bench

NAMES = ("iso3200", "slant")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for k in range(2):
        noise = np.random.default_rng(k).integers(0, 256, (40, 50, 3), np.uint8)
        write_picture(folder / f"{k}.png", noise)
    return folder


@pytest.fixture
def few(monkeypatch):
    """Sets of two scenes."""
    setups = tuple(setup for setup in SMALL if setup.name in NAMES)
    for module in (make_bench, leaderboard):
        monkeypatch.setattr(module, "SETS", {"small": setups})


def make(folder, photos, *words):
    words = ["--output_dir", folder, "--sets", "small", "--photos", photos, *words]
    return make_bench.main([str(word) for word in [*words, "--scale", 0.11]])


@pytest.fixture
def bench(tmp_path, photos, few, capsys):
    assert make(tmp_path / "bench", photos) == 0
    capsys.readouterr()
    return tmp_path / "bench" / "small"


def record_of(bench):
    return json.loads((bench / make_bench.RECORD).read_text())


def test_a_seed_is_a_set(bench, photos, tmp_path, capsys):
    record = record_of(bench)
    assert sorted(record["scenes"]) == list(NAMES)
    assert len(list((bench / "dof_stack" / "slant").iterdir())) == 8
    assert read_picture(bench / "AiF" / "slant.png").shape == (42, 56, 3)
    assert read_picture(bench / "depth" / "slant.png").dtype == np.uint16

    changed = (bench / "AiF" / "slant.png").stat().st_mtime_ns
    assert make(bench.parent, photos) == 0  # nothing is made again
    assert (bench / "AiF" / "slant.png").stat().st_mtime_ns == changed
    assert f"2 scenes, digest {record['digest'][:16]}" in capsys.readouterr().out

    with pytest.raises(StackError, match=r"set with another seed: choose another --output_dir"):
        make(bench.parent, photos, "--seed", 2)
    (bench / make_bench.RECORD).write_text("{")
    with pytest.raises(StackError, match=r"bench\.json is damaged"):
        make(bench.parent, photos)


def test_an_interrupted_set_is_finished_with_the_same_digest(bench, photos):
    record = record_of(bench)
    part = dict(record, scenes={"slant": record["scenes"]["slant"]}, digest="other")
    (bench / make_bench.RECORD).write_text(json.dumps(part))
    with pytest.raises(StackError, match=r"lacks iso3200: run tools\.make_bench once more"):
        leaderboard.checked_digest(bench)
    make(bench.parent, photos)
    assert record_of(bench)["digest"] == record["digest"]


def results_of(bench, folder):
    """Two methods with all results, one without."""
    for name in NAMES:
        answer = read_picture(bench / "AiF" / f"{name}.png")
        write_picture(folder / "exact" / f"{name}.png", answer)
        write_picture(folder / "off" / f"{name}.png", answer // 2 + 60)
    write_picture(folder / "part" / "slant.png", answer)
    return folder


def test_the_leaderboard(bench, tmp_path, capsys):
    results = results_of(bench, tmp_path / "results")
    files = tmp_path / "tables" / "scores.csv", tmp_path / "tables" / "table.md"
    words = ["--bench", bench, "--results", results, "--csv", files[0], "--markdown", files[1]]
    assert leaderboard.main([str(word) for word in words]) == 1  # one method lacks results
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0].split()[:3] == ["method", "PSNR", "minus"] and "minus exact" in lines[0]
    assert lines[1].startswith("exact") and "58.92" in lines[1]
    assert {line.split("  ")[0] for line in lines[2:4]} == {"off", "mean of the frames"}
    assert record_of(bench)["digest"][:16] in said.out
    assert "part has no result for iso3200" in said.err
    with files[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["picture"] for row in rows} == {*NAMES, "MEAN"}
    assert float(next(r["veil"] for r in rows if r["results"] == "exact")) == 0
    assert files[1].read_text().startswith("| method | PSNR | minus exact |")

    with pytest.raises(
        StackError, match="--against nobody is not one of mean of the frames, exact"
    ):
        leaderboard.main([*map(str, words[:4]), "--against", "nobody"])


def test_a_changed_set_or_no_set_is_told(bench, tmp_path):
    results = results_of(bench, tmp_path / "results")
    words = ["--results", str(results), "--bench"]
    frame = read_picture(bench / "dof_stack" / "slant" / "00.png")
    frame[0, 0] ^= 1
    write_picture(bench / "dof_stack" / "slant" / "00.png", frame)
    with pytest.raises(StackError, match=r"scene slant of .* was changed: make the set again"):
        leaderboard.main([*words, str(bench)])
    with pytest.raises(StackError, match=r"has no bench\.json: give one set"):
        leaderboard.main([*words, str(bench.parent)])


def test_results_that_are_not_there(bench, tmp_path):
    with pytest.raises(StackError, match="cannot be read"):
        leaderboard.main(["--bench", str(bench), "--results", str(tmp_path / "none")])
    results = results_of(bench, tmp_path / "results")
    for name in ("exact", "off"):
        shutil.rmtree(results / name)
    with pytest.raises(StackError, match=r"no method with all results.*part has no result for"):
        leaderboard.main(["--bench", str(bench), "--results", str(results)])


def test_the_packaged_photographs_are_in_colour():
    pictures = make_bench.read_photos(None)
    assert len(pictures) == len(make_bench.PACKAGED)
    assert all(picture.ndim == 3 and picture.shape[2] == 3 for picture in pictures)
    assert len(set(map(make_bench.digest_of_pixels, ([p] for p in pictures)))) == len(pictures)
