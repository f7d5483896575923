"""training/options.py, training/command_line.py: names in tables, records, what contradicts."""

import json

import pytest
from training import made, read

from stackmff.errors import StackError
from stackmff.options import build, defaults_of, names_of, values_of
from stackmff.training.command_line import BEFORE, FIXED, OF_THE_START, check_against
from stackmff.training.options import (
    OF_DEPTH,
    OF_PHOTOS,
    OF_STORED_STACKS,
    PRESETS,
    TrainOptions,
    usual_values,
)
from train import tables

TABLES = {
    **{"FIXED": FIXED, "BEFORE": BEFORE, "OF_THE_START": OF_THE_START},
    **{"OF_DEPTH": OF_DEPTH, "OF_PHOTOS": OF_PHOTOS, "OF_STORED_STACKS": OF_STORED_STACKS},
    **PRESETS,
}


@pytest.mark.parametrize("table", TABLES)
def test_tables_name_options(table):
    assert set(TABLES[table]) <= set(names_of(TrainOptions))


def test_what_a_resumed_run_keeps_does_not_belong_to_its_start():
    assert not set(FIXED) & set(OF_THE_START)


def test_a_record_makes_the_same_options_again():
    options = made(image_size=(64, 48), network_options=["hidden=2"], noise=1.5, flips=False)
    record = json.loads(json.dumps(values_of(options)))
    assert build(TrainOptions, record, strict=True) == options
    assert record["image_size"] == [64, 48] and record["experiments"] == "experiments"


def test_defaults_are_those_of_the_preset():
    assert usual_values(None) == defaults_of(TrainOptions)
    published = usual_values("published")
    assert {name: published[name] for name in PRESETS["published"]} == PRESETS["published"]
    assert published["seed"] == 0 and published.keys() == usual_values(None).keys()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"datapath": None}, "--datapath is required"),
        ({"photos": ["y"]}, "give one of them"),
        ({"exp_name": ".."}, "is not a folder name"),
        ({"dry_run": True, "profile": 3}, "give one of them"),
        ({"global_batch": 4, "batch_size": 3}, "how large a batch is"),
        ({"fit": "resize", "image_size": (8, 16)}, "square --image_size"),
        ({"scenes_per_epoch": 5}, "--scenes_per_epoch is for --photos: remove it"),
        ({"lr": 0.0}, "--lr 0.0 must be above 0"),
        ({"frames": "some"}, "use one of subset, all, shuffled"),
    ],
)
def test_options_that_contradict_are_refused_whoever_makes_them(values, sentence):
    with pytest.raises(StackError, match=sentence):
        made(**values)


def test_a_batch_of_all_processes_is_shared_out(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert made(global_batch=6, batch_size=3).optimisation.batch_size == 3
    with pytest.raises(StackError, match="cannot be shared out evenly to 2 processes"):
        made(global_batch=5)


def test_what_depends_on_other_options_is_filled_in(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "depth").mkdir()
    words = ["--exp_name", "x", "--experiments", tmp_path, "--photos", tmp_path / "photos"]
    words += ["--val_datapath", "y", "--depth_path", tmp_path / "depth"]
    options, checkpoint = read([*words, "--depth_kind", "disparity", "--global_batch", "6"])
    assert checkpoint is None and options.optimisation.batch_size == 6
    assert options.data.known_lens() == ("disparity", 16, 16.0)
    assert options.data.lens.num_frames == 16
    assert options.optimisation.loss_weights[0] == "l1=1.0"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"network": "Unknown"}, "--network Unknown is unknown: use one of StackMix"),
        ({"loss_weights": ["l1"]}, "--loss_weights: 1 loss weights without names"),
        ({"network_options": ["hidden"]}, "--network_options: 'hidden' is not NAME=VALUE"),
        ({"network_options": ["chroma=0"], "recolour": 0.5}, "does not see: remove it"),
    ],
)
def test_options_are_held_to_the_networks_and_terms_that_there_are(values, sentence):
    with pytest.raises(StackError, match=sentence):
        check_against(made(**values), tables())
