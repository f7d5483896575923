"""The published test sets as they are downloaded: tiny folders of the same form."""

import shutil

import numpy as np
import pytest
from drawn import draw_stack, texture

import evaluate
from stackmff.errors import StackError
from stackmff.images.datasets import find_datasets
from stackmff.images.folders import frames_in, list_answers, list_frames, stack_root
from stackmff.images.formats import write_picture
from stackmff.training.data_sets import find_pairs

SIDE = 32
# Set: scenes, N, name of frame k, suffix of the answers. See data/README.md.
FORMS = {
    "4D-Light-Field": (("boxes", "cotton"), 10, "stack_{}.png", ".png"),
    "FlyingThings3D": (("0", "20"), 15, "{}.png", ".png"),
    "Middlebury": (("Adirondack", "Motorcycle"), 15, "{}.png", ".png"),
    "Mobile Depth": (("keyboard", "zeromotion"), 11, "a{:02d}.jpg", ".jpg"),
}


def write_published(root, stacks="image stack"):
    """The four sets of StackMFF's download, two scenes each."""
    for seed, (name, (scenes, n_frames, frame_name, suffix)) in enumerate(FORMS.items()):
        for scene in scenes:
            answer = texture(SIDE, SIDE, seed)
            write_picture(root / name / "AiF" / f"{scene}{suffix}", answer)
            for k, frame in enumerate(draw_stack(answer, n_frames)):
                write_picture(root / name / stacks / scene / frame_name.format(k), frame)


@pytest.mark.parametrize("stacks", ["image stack", "dof_stack"])
def test_the_four_sets_are_found_together_and_one_by_one(tmp_path, stacks):
    write_published(tmp_path, stacks)
    shutil.rmtree(tmp_path / "Middlebury" / "AiF")  # to be fused all the same
    found = find_datasets(tmp_path)
    assert sorted(found) == sorted(FORMS)
    for name, (scenes, n_frames, frame_name, _) in FORMS.items():
        folders = found[name]
        assert [folder.name for folder in folders] == list(scenes)
        assert find_datasets(tmp_path / name) == find_datasets(stack_root(tmp_path / name))
        frames = list_frames(folders[0])
        assert [path.name for path in frames] == [frame_name.format(k) for k in range(n_frames)]


def test_results_meet_their_answers(tmp_path, capsys):
    write_published(tmp_path / "sets")
    for name, (scenes, n_frames, _, _) in FORMS.items():
        folder, results = tmp_path / "sets" / name, tmp_path / "results" / name
        pairs, left_over = find_pairs(folder)
        assert not left_over
        assert [(scene, len(frames)) for scene, frames, _ in pairs] == [
            (scene, n_frames) for scene in scenes
        ]
        for scene in scenes:
            write_picture(results / f"{scene}.png", texture(SIDE, SIDE, 9))
        words = ["--results", results, "--reference", folder / "AiF"]
        assert not evaluate.main([*map(str, words), "--stacks", str(folder / "image stack")])
        said = capsys.readouterr().out
        assert all(scene in said for scene in scenes) and "mean of the frames" in said
        (results / f"{scenes[0]}.png").unlink()
        with pytest.raises(StackError, match=f"no result for {scenes[0]}"):
            evaluate.main([*map(str, words)])


def write_with_answers(root):
    """As the makers of the focal stacks of FlyingThings3D and Middlebury give them out."""
    disparities = np.linspace(10, 100, 15)
    for seed, scene in enumerate(("0", "20")):
        answer = texture(SIDE, SIDE, seed)
        for disparity, frame in zip(disparities, draw_stack(answer, 15)):
            write_picture(root / scene / f"{disparity}.png", frame)
        write_picture(root / scene / "AiF.png", answer)
        (root / scene / "disp.exr").write_bytes(b"not read")
    (root / "path.txt").write_text("not read")
    return [f"{disparity}.png" for disparity in disparities]


def test_an_answer_among_the_frames_is_not_fused(tmp_path):
    names = write_with_answers(tmp_path / "focal_stack")
    (stacks,) = find_datasets(tmp_path / "focal_stack").values()
    assert [stack.name for stack in stacks] == ["0", "20"]
    for stack in stacks:
        assert [path.name for path in list_frames(stack)] == names  # in order of the disparity
    answers = list_answers(tmp_path / "focal_stack")
    assert answers == {stack.name: stack / "AiF.png" for stack in stacks}


def test_an_answer_alone_is_no_stack(tmp_path):
    write_picture(tmp_path / "s" / "aif.PNG", texture(SIDE, SIDE, 0))
    write_picture(tmp_path / "s" / "0.png", texture(SIDE, SIDE, 1))
    write_picture(tmp_path / "s" / "Depth.png", texture(SIDE, SIDE, 2))
    write_picture(tmp_path / "s" / "disparity.png", texture(SIDE, SIDE, 2))
    assert [path.name for path in frames_in(tmp_path / "s")] == ["0.png"]
    with pytest.raises(StackError, match="holds one picture"):
        list_frames(tmp_path / "s")


def test_answers_of_both_forms(tmp_path):
    assert list_answers(tmp_path) == {}
    picture = texture(SIDE, SIDE, 0)
    for scene in ("2", "10"):
        write_picture(tmp_path / "sets" / scene / "AiF.png", picture)
        write_picture(tmp_path / "sets" / scene / "0.png", picture)
    assert list(list_answers(tmp_path / "sets")) == ["2", "10"]
    write_picture(tmp_path / "sets" / "2" / "AiF.jpg", picture)
    with pytest.raises(StackError, match="2 holds 2 answers"):
        list_answers(tmp_path / "sets")
    write_picture(tmp_path / "sets" / "a.png", picture)  # answers at the top are all of them
    assert list_answers(tmp_path / "sets") == {"a": tmp_path / "sets" / "a.png"}
