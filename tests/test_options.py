"""options.py: one declaration gives the command line, its checks, keyword arguments and a form."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from stackmff.errors import StackError
from stackmff.options import (
    Options,
    add_options,
    build,
    changed,
    defaults_of,
    form,
    given_values,
    names_of,
    number,
    option,
    parse,
    values_of,
)


@dataclass(frozen=True)
class Light(Options):
    title = "light"
    kind: Literal["sun", "lamp"] = option(
        "sun",
        help="where it comes from (default: %(default)s)",
        label="Source",
        choice_labels={"sun": "the sun"},
    )
    steady: bool = option(True, help="the light flickers", flag="flickers")


@dataclass(frozen=True)
class Picture(Options):
    output_dir: Path = option(help="a folder", aliases=("output_path",))
    light: Light = Light()
    radius: float = option(2.0, help="of the blur", low=0, below=9, metavar="PX")
    size: tuple[int, ...] = option((4, 4), help="height and width", low=1, nargs=2)
    count: int | None = option(None, help="of something", above=1)
    sharp: bool = option(False, help="sharpen it")
    tint: Literal["warm", "cold"] | None = option(
        None, help="of the light", choice_labels={None: "as it is"}
    )

    def contradiction(self):
        if self.sharp and self.radius:
            return "--sharp contradicts --radius: leave one of them out"
        return None


def read(*words):
    parser = argparse.ArgumentParser()
    add_options(parser, Picture)
    return parse(parser, words, Picture)[0]


def test_defaults():
    assert read("--output_dir", "x") == Picture(Path("x"))


def test_words_of_every_kind():
    words = "--output_dir x --kind lamp --flickers --radius 0 --size 3 5 --count 7 --sharp"
    light = Light("lamp", False)
    assert read(*words.split()) == Picture(Path("x"), light, 0.0, (3, 5), 7, True)


def test_a_group_without_a_title_stands_in_that_of_its_parent():
    @dataclass(frozen=True)
    class Blades(Options):
        count: int = option(5, help="how many")

    @dataclass(frozen=True)
    class Shutter(Options):
        title = "shutter"
        blades: Blades = Blades()
        speed: float = option(0.1, help="in seconds")

    parser = argparse.ArgumentParser()
    add_options(parser, Shutter, Shutter.title)
    shown = parser.format_help().partition("shutter:")[2]
    assert "--count" in shown and "--speed" in shown


def test_former_names_are_accepted_and_hidden(capsys):
    with pytest.raises(SystemExit):
        read("--help")
    shown = capsys.readouterr().out
    assert "(default: sun)" in shown
    assert "--output_dir" in shown and "output_path" not in shown and "light:" in shown
    assert read("--output_path", "x") == read("--output_dir", "x")
    with pytest.raises(SystemExit):
        read()
    error = capsys.readouterr().err
    assert "--output_dir is required" in error and "output_path" not in error


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--output_dir", "x", "--radius", "9"], "9 must be below 9"),
        (["--output_dir", "x", "--radius", "nan"], "nan must be finite"),
        (["--output_dir", "x", "--count", "1"], "1 must be above 1"),
        (["--output_dir", "x", "--size", "0", "3"], "0 must be at least 1"),
        (["--output_dir", "x", "--sharp"], "--sharp contradicts --radius"),
        (["--output_dir", "x", "--kind", "fire"], "invalid choice: 'fire'"),
        ([], "--output_dir"),
    ],
)
def test_a_wrong_call_ends_with_status_2(capsys, words, sentence):
    with pytest.raises(SystemExit) as caught:
        read(*words)
    assert caught.value.code == 2 and sentence in capsys.readouterr().err


def test_values_are_checked_whoever_gives_them():
    made = build(Picture, {"output_dir": "x", "kind": "lamp", "radius": 0.5, "size": [2, 2]})
    assert made == Picture(Path("x"), Light("lamp"), 0.5, (2, 2))
    for values, sentence in (
        ({"radius": -1.0}, "--radius -1.0 must be at least 0"),
        ({"kind": "fire"}, "--kind 'fire' is unknown: use one of sun, lamp"),
        ({"size": [2, 0]}, "--size 0 must be at least 1"),
        ({"radus": 1.0}, "radus is not an option: did you mean radius"),
        ({"radius": "2"}, "--radius '2' is not a number"),
        ({"radius": True}, "--radius True is not a number"),
        ({"radius": None}, "--radius must have a value"),
        ({"count": 2.0}, "--count 2.0 is not a whole number"),
        ({"sharp": "yes"}, "--sharp 'yes' is not true or false"),
        ({"size": 2}, "--size 2 is not a sequence"),
        ({"kind": ["sun"]}, r"--kind \('sun',\) is unknown"),
    ):
        with pytest.raises(StackError, match=sentence):
            build(Picture, {"output_dir": "x", **values}, strict=True)


def test_names_and_form_hold_the_groups_options():
    names = ["output_dir", "kind", "steady", "radius", "size", "count", "sharp", "tint"]
    assert names_of(Picture) == names
    described = json.loads(json.dumps(form(Picture)))
    assert [part["name"] for part in described] == names
    kinds = ["path", "choice", "switch", "float", "int", "int", "switch", "choice"]
    assert [part["kind"] for part in described] == kinds
    assert described[1]["choices"] == ["sun", "lamp"] and described[3]["low"] == 0
    assert described[1]["label"] == "Source" and described[0]["label"] is None
    assert described[1]["choice_labels"] == ["the sun", "lamp"]
    assert described[1]["help"] == "where it comes from" and described[2]["help"] == ""
    assert described[7]["choices"] == [None, "warm", "cold"]
    assert described[7]["choice_labels"] == ["as it is", "warm", "cold"]


@dataclass(frozen=True)
class Place(Options):
    stack_path: Path = option(help="of the frames", positional=True)


def test_a_positional_option_is_given_with_or_without_its_name(capsys):
    parser = argparse.ArgumentParser()
    add_options(parser, Place, "stack")
    assert parse(parser, ["x"], Place) == parse(parser, ["--stack_path", "x"], Place)
    for words in ([], ["x", "--stack_path", "y"]):
        with pytest.raises(SystemExit):
            parse(parser, words, Place)
        assert "stack_path" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "1e999"])
def test_a_number_of_an_option_is_finite(word):
    with pytest.raises(argparse.ArgumentTypeError, match=f"{word} must be finite"):
        number(float)(word)
    assert number(float, above=0)("1e9") == 1e9


@dataclass(frozen=True)
class Trip(Options):
    places: tuple[Path, ...] = option((), help="where to")
    light: Light = Light()
    back: bool = option(True, help="return", negatable=True)
    again: Literal["now", "later"] | None = option(None, help="repeat", const="now")


def trip_parser():
    parser = argparse.ArgumentParser()
    add_options(parser, Trip, details={"places": {"choices": (Path("a"), Path("b"))}})
    return parser


def test_what_a_command_line_names_is_told_from_defaults(capsys):
    parser = trip_parser()
    assert given_values(parser, [], Trip) == {}
    words = ["--no-back", "--kind", "sun", "--again"]
    assert given_values(parser, words, Trip) == {"back": False, "kind": "sun", "again": "now"}
    assert given_values(parser, ["--back", "--again", "later"], Trip) == {
        "back": True,
        "again": "later",
    }
    assert parse(parser, [], Trip) == (Trip(),)  # the defaults are there as before
    with pytest.raises(SystemExit):
        given_values(parser, ["--places", "c"], Trip)
    assert "invalid choice" in capsys.readouterr().err


def test_plain_values_go_there_and_back():
    trip = Trip((Path("a"), Path("b")), Light("lamp"), False)
    values = values_of(trip)
    assert json.loads(json.dumps(values)) == values
    assert values["places"] == ["a", "b"] and values["kind"] == "lamp"
    assert build(Trip, values, strict=True) == trip
    assert changed(trip, kind="sun", back=True) == Trip(trip.places)
    assert defaults_of(Trip) == values_of(Trip())
    assert "output_dir" not in defaults_of(Picture)
    with pytest.raises(StackError, match="kinds is not an option"):
        changed(trip, kinds="sun")
