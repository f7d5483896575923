"""alignment/record.py: an alignment is read as it was written, and damaged files are refused."""

import json

import numpy as np
import pytest
from moving import (
    HEIGHT,
    WIDTH,
    moving_frames,
    shifted,
)

from stackmff.alignment.measure import measure
from stackmff.alignment.record import load_alignment, save_alignment
from stackmff.errors import StackError


@pytest.fixture(scope="module")
def moving():
    return moving_frames()


def test_an_alignment_is_read_as_it_was_written(moving, tmp_path):
    names = [f"{k}.png" for k in range(5)]
    alignment = measure(moving)
    alignment.left_out, alignment.transforms[3] = {3: "shows no detail"}, None
    alignment.in_light = True
    save_alignment(tmp_path / "a.json", alignment, names)
    loaded = load_alignment(tmp_path / "a.json", names[::-1], alignment.size, 3)
    assert loaded.in_light and loaded.reference == 2 and loaded.left_out == {1: "shows no detail"}
    assert loaded.size == alignment.size and loaded.transforms[1] is None
    for k in (0, 1, 2, 4):
        np.testing.assert_array_equal(loaded.transforms[4 - k], alignment.transforms[k])
    np.testing.assert_array_equal(loaded.gains[::-1], alignment.gains)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda record: record.update(width=7), "is for frames of 7x96, these are 128x96"),
        (lambda record: record["frames"].pop("0.png"), r"does not contain 0\.png"),
        (lambda record: record.update(reference="x.png"), "is not an alignment"),
        (lambda record: record.pop("frames"), "is not an alignment"),
        (lambda record: record.update(in_light="no"), "is not an alignment"),
        (
            lambda record: record["frames"]["0.png"].update(transform=[[1, 0, 0]]),
            "is not an alignment",
        ),
        (lambda record: record["frames"]["0.png"].update(gains=[0.0]), "is not an alignment"),
        (lambda record: record["frames"]["0.png"].update(gains=["a"]), "is not an alignment"),
        (
            lambda record: record["frames"]["0.png"].update(transform=[[0, 0, 1], [0, 0, 1]]),
            "is not an alignment",
        ),
        (
            lambda record: record.update(dirt={"hot": [[10**30, 9]], "runs": [], "spots": 1}),
            "is not an alignment",
        ),
        (
            lambda record: record["frames"].update({"1.png": {"left_out": "it is black"}}),
            "leaves out its own reference",
        ),
    ],
)
def test_alignments_that_do_not_fit_are_refused(tmp_path, change, sentence):
    path = tmp_path / "a.json"
    alignment = shifted((0, 0), (1, 0), size=(HEIGHT, WIDTH))
    alignment.reference = 1
    save_alignment(path, alignment, ["0.png", "1.png"])
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(StackError, match=sentence):
        load_alignment(path, ["0.png", "1.png"], (HEIGHT, WIDTH), 3)


def test_gains_of_grey_frames_are_those_of_all_colours_and_not_the_other_way_round(tmp_path):
    path, names = tmp_path / "a.json", ["0.png", "1.png"]
    alignment = shifted((0, 0), (1, 0))
    alignment.gains = np.array([[1.0], [1.5]])
    save_alignment(path, alignment, names)
    np.testing.assert_array_equal(load_alignment(path, names, (40, 60), 1).gains, [[1], [1.5]])
    loaded = load_alignment(path, names, (40, 60), 3)
    np.testing.assert_array_equal(loaded.gains, [[1, 1, 1], [1.5, 1.5, 1.5]])
    alignment.gains = np.array([[1, 1, 1], [1.5, 1.4, 1.3]])
    save_alignment(path, alignment, names)
    with pytest.raises(StackError, match="gain for each colour, but these frames are grey"):
        load_alignment(path, names, (40, 60), 1)


def test_an_alignment_of_more_frames_needs_its_reference(tmp_path):
    save_alignment(tmp_path / "a.json", shifted((0, 0), (1, 0), (2, 0)), ["a", "b", "c"])
    with pytest.raises(StackError, match="has the reference a, which is not in the stack"):
        load_alignment(tmp_path / "a.json", ["b", "c"], (40, 60), 3)
    (tmp_path / "b.json").write_text("frames")
    with pytest.raises(StackError, match="is not an alignment"):
        load_alignment(tmp_path / "b.json", ["b", "c"], (40, 60), 3)
