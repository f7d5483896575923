"""The order of the house: who may import whom, that every option is read, what is tracked."""

import ast
import importlib
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent
# What each file imports of ours: nothing else, and all of it.
IMPORTS = {
    "utils": "",
    "metrics": "",
    "indices": "metrics",
    "loss": "",
    "refocus": "",
    "metadata": "",
    "camera_files": "utils metadata",
    "formats": "utils metadata camera_files",
    "stack_files": "utils metadata formats",
    "planes": "",
    "pictures": "planes utils metadata formats stack_files",
    "depth": "utils formats pictures",
    "upsampling": "",
    "depth_models": "utils",
    "shapes": "",
    "network": "planes utils",
    "scenes": "refocus shapes",
    "alignment": "utils",
    "registration": "",
    "linking": "registration",
    "exposure": "registration",
    "resampling": "alignment",
    "parallax": "alignment registration linking",
    "ordering": "pictures",
    "align": "ordering planes utils formats pictures alignment registration linking exposure "
    "parallax resampling",
    "engines": "planes utils network",
    "fuse": "pictures alignment engines",
    "focus_maps": "planes",
    "export": "utils network engines",
    "show": "",
    "relief": "focus_maps show",
    "previews": "planes utils formats pictures relief show",
    "pages": "utils formats show",
    "report": "utils pictures pages previews show",
    "retouch": "utils",
    "pipeline": "utils formats pictures engines alignment registration align ordering fuse "
    "focus_maps previews report retouch",
    "uploads": "utils camera_files formats pictures stack_files",
    "worker": "ordering utils metadata formats stack_files pictures alignment show previews "
    "pipeline uploads",
    "jobs": "utils",
    "viewing": "utils metadata formats pictures alignment engines fuse show relief previews "
    "retouch",
    "sessions": "utils pictures uploads jobs retouch viewing",
    "timed_stacks": "utils formats pictures",
    "benchmark": "utils formats pictures engines ordering fuse pipeline tables timed_stacks",
    "transforms": "utils",
    "learned": "utils",
    "spatial": "planes",
    "toolbox": "planes utils formats pictures transforms spatial learned ordering engines fuse",
    "records": "utils",
    "contest": "utils formats pictures toolbox records",
    "scoring": "planes utils formats pictures metrics indices",
    "tables": "utils indices",
    "robustness": "utils formats pictures restack records contest scoring",
    "photos": "planes utils formats pictures",
    "picture_store": "planes utils formats",
    "augmentation": "planes utils",
    "shards": "utils formats",
    "dataloader": "utils pictures augmentation shards",
    "make_shards": "utils dataloader shards",
    "synthesis": "scenes picture_store augmentation dataloader depth",
    "restack": "utils metadata pictures refocus scenes",
    "benchmark_set": "refocus scenes",
    "depth_engines": "utils engines depth_models",
    "estimate_depth": "utils formats pictures engines photos depth upsampling depth_models "
    "depth_engines",
    "dataset_options": "utils photos depth restack benchmark_set",
    "make_dataset": "utils formats pictures photos depth refocus scenes dataloader restack "
    "benchmark_set dataset_options",
    "sources": "utils metrics photos depth augmentation shards dataloader picture_store synthesis",
    "processes": "",
    "stages": "",
    "curves": "show",
    "runs": "utils network",
    "train_options": "utils network loss metrics augmentation photos dataset_options",
    "train": "utils formats network loss metrics dataloader processes stages show curves sources "
    "runs train_options",
    "evaluate": "planes utils pictures metrics indices contest scoring tables pages",
    "predict": "utils formats pictures align pipeline previews",
    "guard": "",
    "app": "utils engines fuse guard uploads sessions viewing",
    "predict_dataset": "utils pictures records pipeline previews report processes",
}
SCRIPTS = ["make_dataset", "estimate_depth", "train", "evaluate", "predict", "predict_dataset"]
SCRIPTS += ["toolbox", "robustness", "export", "benchmark", "align", "make_shards", "app"]


def tree_of(name):
    return ast.parse((HOUSE / f"{name}.py").read_text())


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_every_file_is_in_the_table():
    assert {path.stem for path in HOUSE.glob("*.py")} == set(IMPORTS)


@pytest.mark.parametrize("name", IMPORTS)
def test_imports_go_one_way(name):
    ours = set(imported(tree_of(name))) & set(IMPORTS)
    assert ours == set(IMPORTS[name].split())


@pytest.mark.parametrize(
    "name",
    [
        "utils",
        "metrics",
        "indices",
        "metadata",
        "camera_files",
        "formats",
        "stack_files",
        "planes",
        "pictures",
        "alignment",
        "registration",
        "linking",
        "exposure",
        "align",
        "previews",
        "report",
        "pipeline",
        "depth",
        "upsampling",
        "depth_models",
        "depth_engines",
        "estimate_depth",
        "photos",
        "dataset_options",
        "make_dataset",
        "fuse",
        "ordering",
        "engines",
        "benchmark",
        "retouch",
        "uploads",
        "worker",
        "jobs",
        "viewing",
        "sessions",
        "app",
        "restack",
        "transforms",
        "toolbox",
        "contest",
        "scoring",
    ],
)
def test_torch_is_not_loaded_before_it_is_needed(name):
    top = ast.Module(
        [node for node in tree_of(name).body if isinstance(node, (ast.Import, ast.ImportFrom))], []
    )
    assert not {"torch", "network"} & set(imported(top))


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_option_is_read(name):
    """Each option is read as an attribute of the arguments.

    pipeline.py and sources.py hand the arguments on.
    """
    options = set(vars(importlib.import_module(name).get_parser().parse_args(DEFAULTS[name])))
    read = set()
    files = {name, *IMPORTS[name].split()}
    for file in {"pipeline", "sources"} & files:
        files |= set(IMPORTS[file].split())
    for file in files:
        for node in ast.walk(tree_of(file)):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Load)
                and ast.unparse(node.value).split(".")[-1] == "args"
            ):
                read.add(node.attr)
    assert not options - read


DEFAULTS = {
    "make_dataset": ["--output_path", "out"],
    "estimate_depth": ["--image_path", "a", "--output_path", "b", "--model", "c"],
    "train": ["--exp_name", "x"],
    "evaluate": ["--results", "a", "--reference", "b"],
    "toolbox": ["--stack_path", "a"],
    "robustness": ["--data", "a"],
    "export": ["--model_path", "a"],
    "benchmark": [],
    "align": ["--stack_path", "a", "--output_dir", "b"],
    "make_shards": ["--datapath", "a", "--output_path", "b"],
    "predict": ["--stack_path", "a"],
    "app": [],
    "predict_dataset": ["--stack_basedir_path", "a"],
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_option_has_a_help(name):
    for action in importlib.import_module(name).get_parser()._actions:
        assert action.help, action.dest
