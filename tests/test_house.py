"""The order of the house: which wing imports which, what lies where, that torch comes late."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from stackmff.options import Options, fields_of, is_group

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
TOOLS += ["train_pyramid", "make_bench", "leaderboard", "exchange", "compare_runs", "sweep"]
TOOLS += ["gpu_check", "seed_study", "compare_precisions"]
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
WITH_TORCH |= {"synthesis/benchmark_set", "synthesis/camera_scale", "fusion/finish"}
WITH_TORCH |= {"images/tensors", "synthesis/wide_blur", "synthesis/accumulated"}
WITH_TORCH |= {"synthesis/camera_surfaces"}
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


# ---- what the options say is used


def options_classes():
    """Every class of options of ours, those of the commands included."""
    for path in [*PACKAGE.rglob("*.py"), *HOUSE.glob("*.py"), *(HOUSE / "tools").glob("*.py")]:
        if path.stem != "__init__":
            importlib.import_module(".".join(path.relative_to(HOUSE).with_suffix("").parts))
    found, queue = [], [Options]
    while queue:
        queue += queue.pop().__subclasses__()
        found = [*found, *(cls for cls in queue if cls not in found)]
    ours = ("stackmff", "tools", *TOP_LEVEL)
    return [cls for cls in found if cls.__module__.partition(".")[0] in ours]


class Reads(ast.NodeVisitor):
    """The (class of options, field) that a file reads, by what its names are annotated to be.

    Args:
        classes: {name of a class: the class}.
        groups: {name of a field that is a group: its classes}.
    """

    def __init__(self, classes, groups):
        self.classes, self.groups = classes, groups
        self.names = {}  # {name of a variable: classes}
        self.found = set()

    def note(self, name, classes):
        self.names.setdefault(name, set()).update(classes)

    def named_in(self, annotation):
        words = set(re.findall(r"\w+", ast.unparse(annotation)))
        return {self.classes[word] for word in words & set(self.classes)}

    def what(self, node):
        """The classes that an expression may be an object of."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, set())
        if isinstance(node, ast.Attribute):
            return self.groups.get(node.attr, set()) | self.names.get(node.attr, set())
        return set()

    def visit_arg(self, node):
        if node.annotation is not None:
            self.note(node.arg, self.named_in(node.annotation))

    def visit_AnnAssign(self, node):
        target = node.target
        self.note(
            getattr(target, "id", getattr(target, "attr", "")), self.named_in(node.annotation)
        )
        self.generic_visit(node)

    def visit_Assign(self, node):
        self.generic_visit(node)
        (target, *_) = node.targets
        pairs = [(target, node.value)]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = list(zip(target.elts, node.value.elts))
        elif isinstance(node.value, ast.Call):
            called = ast.unparse(node.value.func)
            args = node.value.args
            if called == "parse":
                pairs = []
                for one, cls in zip(getattr(target, "elts", [target]), args[2:]):
                    self.note(ast.unparse(one), self.named_in(cls))
            elif called in ("build", "replace") and args:
                self.note(ast.unparse(target), self.named_in(args[0]) | self.what(args[0]))
        for one, value in pairs:
            if isinstance(one, ast.Name):
                self.note(one.id, self.what(value))
            elif isinstance(one, ast.Attribute):
                self.note(one.attr, self.what(value))

    def visit_ClassDef(self, node):
        cls = self.classes.get(node.name)
        for part in node.body:
            if cls is not None and isinstance(part, ast.FunctionDef):
                if part.name == "contradiction":  # says only what goes together
                    continue
                self.names["self"] = {cls}
            self.visit(part)
            self.names.pop("self", None)

    def visit_Attribute(self, node):
        self.generic_visit(node)
        if isinstance(node.ctx, ast.Load):
            self.found |= {(cls, node.attr) for cls in self.what(node.value)}


def fields_read():
    """The (class of options, field) that any file of ours reads."""
    classes = {cls.__name__: cls for cls in options_classes()}
    groups = {}
    for cls in classes.values():
        for field, kind in fields_of(cls):
            if is_group(kind):
                groups.setdefault(field.name, set()).add(kind)
    found = set()
    for path in [*PACKAGE.rglob("*.py"), *HOUSE.glob("*.py"), *(HOUSE / "tools").glob("*.py")]:
        reads = Reads(classes, groups)
        tree = ast.parse(path.read_text())
        reads.visit(tree)  # names first, then what is read of them
        reads.visit(tree)
        found |= reads.found
    return found


@pytest.fixture(scope="module")
def read():
    return fields_read()


@pytest.mark.parametrize("cls", options_classes(), ids=lambda cls: cls.__name__)
def test_every_option_is_read(cls, read):
    for field, kind in fields_of(cls):
        if not is_group(kind):
            known = {(other, field.name) for other in (*cls.__mro__, *cls.__subclasses__())}
            assert known & read, f"nobody reads {cls.__name__}.{field.name}"
