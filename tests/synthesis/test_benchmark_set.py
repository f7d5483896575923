"""The test set of scikit-image's pictures: the same bytes each time, exact answers, every set."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from calling import make_quietly

import make_dataset
from stackmff.images.datasets import find_datasets
from stackmff.images.folders import list_frames
from stackmff.images.formats import read_picture
from stackmff.synthesis import benchmark_set
from stackmff.synthesis.benchmark_set import RECIPES, Recipe, Surface, fit, plane, render
from stackmff.synthesis.refocus import coc_px
from stackmff.synthesis.shapes import SHAPES
from stackmff.training.data_sets import find_pairs

SIDE = 40  # px, of the pictures here


@pytest.fixture
def run(capsys, monkeypatch):
    """make_dataset.py with these words, its scenes SIDE px large."""
    monkeypatch.setattr(benchmark_set, "LONGER_SIDE", SIDE)
    return partial(make_quietly, capsys)


def test_the_recipes():
    lenses = {recipe.name: (recipe.n_frames, recipe.max_coc) for recipe in RECIPES}
    assert lenses == {
        "astronaut": (9, 16),
        "coffee": (6, 5),
        "coins": (4, 3),
        "lawn": (10, 14),
        "rocket": (7, 9),
        "stars": (8, 12),
        "terraces": (5, 8),
        "tissue": (8, 10),
        "wall": (8, 7),
    }
    assert len(RECIPES) == len(lenses)
    for recipe in RECIPES:
        first, *others = recipe.surfaces
        assert first.shape is None and first.top == 0  # nothing shows through it
        assert all(surface.shape in SHAPES or surface.top for surface in others)
        ends = [min(surface.disparity) for surface in recipe.surfaces]
        assert ends == sorted(ends)  # from back to front


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_scene_is_the_same_each_time_and_its_answer_is_sharp(recipe):
    frames, answer, disparity, settings = render(recipe, SIDE)
    again = render(recipe, SIDE)
    for first, second in zip((frames, answer, disparity), again):
        np.testing.assert_array_equal(first, second)
    assert frames.shape == (recipe.n_frames, *answer.shape) and frames.dtype == np.uint8
    assert max(answer.shape) == SIDE and disparity.shape == answer.shape[:2]
    assert disparity.min() >= 0 and disparity.max() <= 1
    # Where a surface lies it is sharp in a frame: at most half a step of blur is left.
    focus = np.array(settings["focus_disparity"])
    coc = coc_px(disparity, focus[:, None, None], settings["aperture_px"])
    assert coc.min(0).max() <= recipe.max_coc / (recipe.n_frames - 1) / 2 + 1e-4
    # No frame has all of it, and every answer has more detail than the mean of the frames.
    detail = [np.abs(np.diff(picture, axis=1)).mean() for picture in (frames.mean(0), answer / 1.0)]
    assert detail[0] < detail[1]
    assert (frames != answer).any((1, 2, 3)).all()


def test_where_a_plane_is_in_focus_the_frame_is_the_answer():
    far = Surface("coins", (0.0, 0.0))
    near = Surface("grass", (1.0, 1.0), top=0.5)
    frames, answer, disparity, _ = render(Recipe("two", 2, 6.0, (far, near)), SIDE)
    edge = int(np.argmax(disparity[:, 0] > 0.5))
    assert 4 < edge < len(disparity) - 4
    np.testing.assert_array_equal(frames[0][edge:], answer[edge:])  # the nearer one covers
    np.testing.assert_array_equal(frames[1][: edge - 4], answer[: edge - 4])
    assert (frames[1][edge + 4 :] != answer[edge + 4 :]).mean() > 0.5


def test_fit_mirrors_what_is_missing():
    picture = torch.arange(6.0).reshape(1, 2, 3)
    assert fit(picture, 2, 1).tolist() == [[[1], [4]]]
    assert fit(picture, 2, 7)[0, 0].tolist() == [1, 0, 0, 1, 2, 2, 1]
    assert fit(picture, 6, 3)[0, :, 0].tolist() == [3, 0, 0, 3, 3, 0]


def test_the_plane_goes_from_one_end_to_the_other():
    down = plane((0.2, 0.8), 90, 5, 3)
    np.testing.assert_allclose(down[:, 1], np.linspace(0.2, 0.8, 5), atol=1e-6)
    right = plane((1.0, 0.0), 0, 3, 5)
    np.testing.assert_allclose(right[1], np.linspace(1, 0, 5), atol=1e-6)


@pytest.mark.slow
def test_all_sets_and_going_on(run, tmp_path):
    out = tmp_path / "bench"
    status, said = run("--benchmark", out)
    assert status == 0, said
    names = ["motorcycle", *(recipe.name for recipe in RECIPES)]
    frames = {recipe.name: recipe.n_frames for recipe in RECIPES} | {"motorcycle": 12}
    datasets = find_datasets(out)
    assert sorted(datasets) == ["aligned", "dense", "few", "noisy", "pairs"]
    dense = {stack.name: len(list_frames(stack)) for stack in datasets.pop("dense")}
    assert dense == dict.fromkeys(["astronaut", "rocket", "stars", "tissue"], 30)
    for name, stacks in datasets.items():
        pairs, left_over = find_pairs(out / name)
        assert not left_over and sorted(scene for scene, *_ in pairs) == sorted(names)
        assert sorted(stack.name for stack in stacks) == sorted(names)
        wanted = {"few": 3, "pairs": 2}
        for scene, paths, answer in pairs:
            assert len(paths) == wanted.get(name, frames[scene])
            same = read_picture(out / "aligned" / "AiF" / f"{scene}.png")
            np.testing.assert_array_equal(read_picture(answer), same)
    first, last = (
        read_picture(out / "aligned" / "dof_stack" / "wall" / f"0{k}.png") for k in (0, 7)
    )
    pair = [read_picture(out / "pairs" / "dof_stack" / "wall" / f"0{k}.png") for k in (0, 1)]
    np.testing.assert_array_equal(pair, [first, last])
    noisy = read_picture(out / "noisy" / "dof_stack" / "wall" / "00.png")
    assert 1 < abs(noisy.astype(int) - first).mean() < 20
    record = json.loads((out / "aligned" / "dataset.json").read_text())
    assert record["kind"] == "disparity" and record["scenes"]["stars"]["aperture"]["blades"] == 6
    # stopped and gone on with: what is gone is made again, byte for byte, the rest stays
    gone = out / "noisy" / "AiF" / "wall.png"
    before = {path: path.read_bytes() for path in out.rglob("*.png")}
    gone.unlink()
    status, said = run("--benchmark", f"{out}/")
    assert status == 0 and said.count("10 scenes, 0 of them new") == 3
    assert "noisy: 10 scenes, 1 of them new" in said
    assert "dense: 4 scenes, 0 of them new" in said
    assert before == {path: path.read_bytes() for path in out.rglob("*.png")}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--output_dir", "x"], "remove --output_dir"),
        (["--demo"], "remove --demo"),
        (["--noise", "1000"], "remove --noise"),
        (["--seed", "1"], "remove --seed"),
        (["--stack_path", "x"], "remove --stack_path"),
        (["--size", "64"], "remove --size"),
        (["--keep", "3"], "remove --keep"),
        (["--image_path", "x"], "remove --image_path"),
    ],
)
def test_nothing_goes_with_it(run, words, sentence, tmp_path):
    status, said = run("--benchmark", tmp_path / "out", *words)
    assert status == 2 and f"--benchmark is a fixed set: {sentence}" in said
    assert not (tmp_path / "out").exists()


def test_a_folder_whose_name_begins_with_a_dash(run, monkeypatch, tmp_path):
    places = []

    def make_set(options):
        places.append(str(options.output))
        (tmp_path / options.output / "dof_stack").mkdir(parents=True)
        return 0

    monkeypatch.setattr(make_dataset, "make_set", make_set)
    monkeypatch.chdir(tmp_path)
    status, said = run("--benchmark=-x")
    assert status == 0, said
    assert places == [f"-x/{name}" for name in ("dense", "aligned", "noisy", "few", "pairs")]


def test_without_a_place(run):
    status, said = run("--demo")
    assert status == 2 and "--output_dir is needed" in said
