"""evaluation/matching.py: folders by name, answers with their stacks, results with their scenes."""

import pytest
from drawn import texture, write_set

from stackmff.errors import StackError
from stackmff.evaluation import matching
from stackmff.evaluation.matching import Scene
from stackmff.images.formats import write_picture


def test_a_folder_with_an_equals_sign_is_a_folder(tmp_path):
    odd = tmp_path / "lr=0.1 é"
    odd.mkdir()
    assert matching.named_folders([str(odd)]) == {"lr=0.1 é": odd}
    assert matching.named_folders([f"a={odd}"]) == {"a": odd}


@pytest.mark.parametrize("word", ["name=", "=folder", ""])
def test_results_without_a_name_or_a_folder(word):
    with pytest.raises(StackError, match="give DIR or NAME=DIR"):
        matching.named_folders([word])


def test_scenes_with_stacks_with_answers_and_with_both(tmp_path):
    data = write_set(tmp_path, [2, 2])
    stacks = {name: data / "dof_stack" / name for name in ("scene0", "scene1")}
    answers = {name: data / "AiF" / f"{name}.png" for name in stacks}
    find = matching.find_scenes
    assert find(None, data / "AiF") == {name: Scene(None, answers[name]) for name in stacks}
    assert find(data, None) == {name: Scene(stacks[name], None) for name in stacks}
    both = {name: Scene(stacks[name], answers[name]) for name in stacks}
    assert find(data, data / "AiF", all_stacks=True) == both
    answers["scene1"].unlink()
    assert list(find(data, data / "AiF")) == ["scene0"]
    with pytest.raises(StackError, match=r"scene1 of .*dof_stack is not in .*AiF"):
        find(data, data / "AiF", all_stacks=True)


def test_results_match_in_the_order_of_the_scenes(tmp_path):
    for name in ("b.png", "a.tif"):
        write_picture(tmp_path / name, texture(16, 16, 0))
    found = matching.match(tmp_path, ["b", "a"], tmp_path)
    assert list(found.items()) == [("b", tmp_path / "b.png"), ("a", tmp_path / "a.tif")]
