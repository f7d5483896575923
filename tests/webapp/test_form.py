"""webapp/form.py: the page offers the options that have a label, and takes no others."""

from dataclasses import dataclass

import pytest

from stackmff.errors import StackError
from stackmff.fusion.options import FuseOptions
from stackmff.options import build, option
from stackmff.webapp import form
from stackmff.webapp.form import check_values, fuse_form


def test_the_form_has_the_options_with_a_label():
    fields = {field["name"]: field for field in fuse_form()}
    assert set(fields) == {"align", "match_exposure", "prefer", "ghosts", "near", "slab"}
    assert fields["align"]["choice_labels"] == ["Automatic", "Include slow drift", "Off"]
    assert fields["near"]["default"] is None


def test_an_option_with_a_label_shows_up(monkeypatch):
    @dataclass(frozen=True)
    class More(FuseOptions):
        strength: float = option(1.0, help="of something", label="Strength", low=0)

    monkeypatch.setattr(form, "FuseOptions", More)
    assert fuse_form()[-1]["label"] == "Strength"
    assert check_values({"strength": 2.0})["strength"] == 2.0
    with pytest.raises(StackError, match="--strength -1 must be at least 0"):
        check_values({"strength": -1})


def test_values_become_options():
    wanted = {"align": "on", "match_exposure": False, "prefer": "near", "near": "last", "slab": 3}
    options = build(FuseOptions, check_values(wanted), strict=True)
    assert (options.alignment.align, options.alignment.match_exposure) == ("on", False)
    assert (options.choices.prefer, options.choices.near, options.choices.slab) == (
        "near",
        "last",
        3,
    )
    assert check_values({}) == {}


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"device": "cpu"}, "'device' is not an option of this page: reload the page"),
        ({"model_path": "/x"}, "'model_path' is not an option"),
        ({"": 1}, "'' is not an option"),
        ({"align": "--help"}, "--align '--help' is unknown"),
        ({"align": None}, "--align must have a value"),
        ({"prefer": ["near"]}, "--prefer .* is unknown"),
        ({"prefer": {"a": 1}}, "--prefer .* is unknown"),
        ({"match_exposure": "x"}, "--no_match_exposure 'x' is not true or false"),
        ({"slab": 1}, "--slab 1 must be at least 2"),
        ({"slab": "3"}, "--slab '3' is not a whole number"),
        ({"slab": True}, "--slab True is not a whole number"),
        ({"slab": 2.5}, "--slab 2.5 is not a whole number"),
    ],
)
def test_other_values_are_refused(values, sentence):
    with pytest.raises(StackError, match=sentence):
        check_values(values)
