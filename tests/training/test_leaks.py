"""What validates a run must not train it: answers are compared by content."""

import shutil

import cv2
import numpy as np
import pytest
from drawn import texture
from training import start

from stackmff.errors import StackError
from stackmff.images.formats import write_picture
from stackmff.training.data_sets import find_pairs
from stackmff.training.leaks import leaked, refuse_photos_that_validate, without_copies
from stackmff.training.shards import pairs_in_shards
from tools import make_shards


def test_a_set_does_not_validate_itself(data, common, tmp_path):
    options = [*common, "--datapath", str(data), "--val_datapath", str(data)]
    with pytest.raises(
        StackError, match=r"7 of the 7 validation stacks are also training stacks.*AiF"
    ):
        start(options, "run")


def test_shards_do_not_validate_their_folder_under_any_name(data, common, tmp_path):
    renamed = tmp_path / "renamed"
    shutil.copytree(data, renamed)
    for path in (*(renamed / "AiF").iterdir(), *(renamed / "dof_stack").iterdir()):
        path.rename(path.with_name(f"other_{path.name}"))
    make_shards.main(["--datapath", str(data), "--output_dir", str(tmp_path / "shards")])
    options = [*common, "--datapath", str(tmp_path / "shards"), "--val_datapath", str(renamed)]
    with pytest.raises(StackError, match="7 of the 7 validation stacks are also training stacks"):
        start(options, "run")


def test_other_answers_of_the_same_size_are_no_leak(tmp_path):
    """Uncompressed pictures all have one size, and these differ in their first pixel alone."""
    pairs = []
    for k in range(4):
        picture = np.full((40, 40, 3), 90, np.uint8)
        picture[0, 0] = k % 3
        write_picture(tmp_path / f"{k}.bmp", picture)
        pairs.append((f"s{k}", [], tmp_path / f"{k}.bmp"))
    answers = [answer for *_, answer in pairs]
    assert leaked(answers[:1], answers[1:]) == [(0, 2)]
    assert leaked(answers[:3], []) == leaked([tmp_path / "none.bmp"], answers) == []


def test_copies_of_what_the_split_chose_do_not_train(data, tmp_path):
    pairs, _ = find_pairs(data)
    shutil.copy(pairs[5][2], tmp_path / "copy.png")
    pairs.append(("copy", pairs[5][1], tmp_path / "copy.png"))
    training, sentences = without_copies(pairs, [0, 1, 2, 7], [5, 6])
    assert training == [0, 1, 2]
    assert len(sentences) == 1 and "copy.png is also the answer of the val" in sentences[0]
    with pytest.raises(StackError, match="all training stacks have the answers"):
        without_copies(pairs, [7], [5])


def test_photographs_do_not_validate_as_smaller_answers(tmp_path):
    paths = []
    for k in range(2):
        photo = texture(96, 128, k)
        paths.append(tmp_path / "photos" / f"p{k}.png")
        write_picture(paths[k], photo)
    small = cv2.resize(texture(96, 128, 1), (64, 48), interpolation=cv2.INTER_AREA)
    answer = tmp_path / "AiF" / "p1.jpg"
    write_picture(answer, small)
    with pytest.raises(StackError, match=r"p1\.jpg is the training photograph .*p1\.png"):
        refuse_photos_that_validate(paths, [("set/p1", [], answer)])
    write_picture(answer, texture(48, 64, 7))  # another photograph of that name
    refuse_photos_that_validate(paths, [("p1", [], answer)])


def test_shards_give_the_pairs(data, tmp_path):
    make_shards.main(["--datapath", str(data), "--output_dir", str(tmp_path)])
    packed = [answer for *_, answer in pairs_in_shards(tmp_path)[0]]
    stored = [answer for *_, answer in find_pairs(data)[0]]
    assert leaked(stored, packed) == [(i, i) for i in range(7)]
