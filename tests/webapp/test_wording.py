"""webapp/wording.py: the page names its own controls, and no option of the command line."""

import ast
import re
from pathlib import Path

import pytest

import stackmff
from stackmff.fusion.near_end import NearEnd
from stackmff.fusion.options import EngineOptions, FuseOptions
from stackmff.fusion.regions import told_regions
from stackmff.webapp.form import fuse_form
from stackmff.webapp.wording import flags_of, on_page

PACKAGE = Path(stackmff.__file__).parent
# What a page never runs: commands, and options that contradict each other on a command line.
COMMANDS = {"command.py", "batch.py", "cluster.py", "options.py", "hyperstack.py"}


def label(name, value):
    field = next(one for one in fuse_form() if one["name"] == name)
    return f'"{field["label"]}: {field["choice_labels"][field["choices"].index(value)]}"'


@pytest.mark.parametrize(
    "told, wanted",
    [
        ("1 blur; --align on moves it", f"1 blur; {label('align', 'on')} moves it"),
        (
            "in 1 region (a): --ghosts keep mixes",
            f"in 1 region (a): {label('ghosts', 'keep')} mixes",
        ),
        ("filled in all frames: --keep_hot_pixels leaves it", "filled in all frames"),
        ("left out: a.jpg: flat; --lenient uses it", "left out: a.jpg: flat"),
        ("a is damaged: copy it, or take it with --lenient of predict.py", "a is damaged: copy it"),
        ("one name: choose with --prefer_files raw or jpeg, or move one", "one name: move one"),
        ("a, the reference: choose another --reference", "a, the reference: exclude this frame"),
        ("a--crop.jpg is damaged", "a--crop.jpg is damaged"),
        ("too large: start the server with --projects DIR", None),  # who started it can do that
        ("a, b; c: d, or e", None),
    ],
)
def test_advice_names_the_control_or_is_left_out(told, wanted):
    assert on_page(told) == (told if wanted is None else wanted)


def test_the_3d_view_names_the_choice_that_turns_it_round():
    for first, value in ((True, "last"), (False, "first")):
        words = on_page(NearEnd(first, "picture").told(["a.png", "b.png"]))
        assert words.endswith(f"{label('near', value)} turns it round")


def test_what_moved_names_the_choice_that_mixes():
    class Found:
        frame = 0

    assert label("ghosts", "keep") in on_page(told_regions([Found()], ["a.png"])[0])


def sentences(tree):
    """The texts of a module of one line each, with x for what is filled in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [p.value if isinstance(p, ast.Constant) else "x" for p in node.values]
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from [node.value] if "\n" not in node.value else []


def test_no_sentence_of_the_library_leads_to_an_option_that_the_page_has_not():
    flags = flags_of(FuseOptions) - flags_of(EngineOptions)
    advice = re.compile(rf"[:;,] .*({'|'.join(sorted(flags))})\b")
    found = 0
    for wing in ("alignment", "fusion", "images"):
        for path in sorted((PACKAGE / wing).glob("*.py")):
            if path.name in COMMANDS:
                continue
            for text in filter(advice.search, sentences(ast.parse(path.read_text()))):
                found += 1
                assert not set(re.findall(r"--\w+", on_page(text))) & flags, text
    assert found > 8
