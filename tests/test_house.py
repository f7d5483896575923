"""The order of the house: which wing imports which, what lies where, that torch comes late."""

import ast
import importlib
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
PACKAGE = HOUSE / "stackmff"
TOP_LEVEL = {
    *("train", "predict", "predict_dataset", "make_dataset", "evaluate", "app"),
    *("network", "loss", "dataloader", "utils"),
}
# Which wing of the package imports which others, besides itself. `base` are the files that lie
# beside the wings. A permission that nobody uses fails too.
WINGS = {
    "base": set(),
    "images": {"base"},
    "alignment": {"base", "images"},
    "display": {"base", "images"},
    "synthesis": {"base", "images"},
    "fusion": {"base", "images", "alignment", "display"},
    "evaluation": {"base", "images", "fusion"},
    "training": {"base", "images", "display", "synthesis", "evaluation.metrics"},
    "webapp": {"base", "images", "alignment", "display", "fusion"},
}
SCRIPTS = ["make_dataset", "train", "evaluate", "predict", "predict_dataset", "app"]
TOOLS = ["align", "benchmark", "estimate_depth", "export", "make_shards", "robustness", "toolbox"]
COMMANDS = [*SCRIPTS, *(f"tools.{name}" for name in TOOLS)]


def imported(tree):
    """The dotted names of all modules that a file imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


# They put the wings together: the library's functions and the command of an installed package.
FRONT = {"__init__", "api", "cli"}


def files_of(wing):
    if wing == "base":
        return sorted(path for path in PACKAGE.glob("*.py") if path.stem not in FRONT)
    return sorted((PACKAGE / wing).glob("*.py"))


def wings_imported(path):
    """{wing, or wing.file where that alone is allowed} that a file of the package imports."""
    out = set()
    for name in imported(ast.parse(path.read_text())):
        first, _, rest = name.partition(".")
        assert first != "tools" and first not in TOP_LEVEL, f"{path} imports {name}"
        if first != "stackmff" or not rest:
            continue
        parts = rest.split(".")
        if parts[0] not in WINGS:
            if (PACKAGE / f"{parts[0]}.py").is_file():
                out.add("base")
        elif len(parts) > 1 and (PACKAGE / parts[0] / f"{parts[1]}.py").is_file():
            out.add(".".join(parts[:2]))
    return out


def test_the_top_level_has_ten_files():
    assert {path.stem for path in HOUSE.glob("*.py")} == TOP_LEVEL


def test_every_folder_of_the_package_is_a_wing():
    wings = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    assert wings == set(WINGS) - {"base"}


@pytest.mark.parametrize("wing", WINGS)
def test_wings_import_only_what_they_may_and_all_that_they_may(wing):
    used = set()
    for path in files_of(wing):
        for name in wings_imported(path):
            other = name.partition(".")[0]
            if other == wing:
                continue
            permission = other if other in WINGS[wing] else name
            assert permission in WINGS[wing], f"{path} imports {name}"
            used.add(permission)
    assert used == WINGS[wing]


# What computes with torch; who calls these imports them inside a function.
WITH_TORCH = {"synthesis/refocus", "synthesis/scenes", "synthesis/camera", "fusion/ifcnn"}
WITH_TORCH |= {"synthesis/benchmark_set"}
LIGHT = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent.name != "training" and f"{path.parent.name}/{path.stem}" not in WITH_TORCH
]


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_torch_is_not_imported_at_the_top(path):
    """It takes seconds to import, and is not there where the library only fuses."""
    body = [
        n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)
    ]
    assert not {name.partition(".")[0] for name in imported(ast.Module(body, []))} & {"torch"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help(name):
    for action in importlib.import_module(name).get_parser()._actions:
        assert action.help, action.dest
