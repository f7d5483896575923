"""photos.py: which photographs there are, which can be read, and what is kept of them."""

import numpy as np
import pytest
from drawn import texture

from formats import write_picture
from photos import PhotoFolder, list_photos, part_readable, read_rgb
from utils import StackError


@pytest.fixture
def folder(tmp_path):
    for k in range(3):
        write_picture(tmp_path / "photos" / f"p{k}.png", texture(16, 24, k))
    return tmp_path / "photos"


def test_photographs_of_every_kind_are_rgb(tmp_path):
    grey = texture(8, 8, 0)[..., :1]
    deep = grey.astype(np.uint16) * 257
    alpha = np.concatenate([texture(8, 8, 1), grey], 2)
    for name, picture in {"grey": grey, "deep": deep, "alpha": alpha}.items():
        write_picture(tmp_path / f"{name}.png", picture)
    expected = {"grey": grey.repeat(3, 2), "deep": grey.repeat(3, 2), "alpha": alpha[..., :3]}
    for name, picture in expected.items():
        np.testing.assert_array_equal(read_rgb(tmp_path / f"{name}.png"), picture)


def test_several_folders_and_empty_ones(folder, tmp_path):
    write_picture(tmp_path / "more" / "a.png", texture(8, 8, 0))
    names = [path.name for path in list_photos([folder, tmp_path / "more"])]
    assert names == ["p0.png", "p1.png", "p2.png", "a.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(StackError, match="empty holds no pictures: give a folder of photographs"):
        list_photos([folder, tmp_path / "empty"])
    with pytest.raises(StackError, match="nowhere is no folder"):
        list_photos([tmp_path / "nowhere"])


def test_what_cannot_be_read_is_told_and_left_out(folder):
    paths = list_photos([folder])
    paths[1].write_bytes(paths[1].read_bytes()[:60])
    good, sentences = part_readable(paths, 2)
    assert good == [paths[0], paths[2]]
    assert len(sentences) == 1 and "p1.png" in sentences[0]
    with pytest.raises(StackError, match=r"none of the 1 photographs can be read: .*p1\.png"):
        part_readable(paths[1:2])


@pytest.mark.parametrize("cache_mib", [0, 1])
def test_photographs_are_kept_within_the_budget(folder, cache_mib):
    photos = PhotoFolder(list_photos([folder]), cache_mib)
    np.testing.assert_array_equal(photos[1], texture(16, 24, 1))
    (folder / "p1.png").unlink()
    if cache_mib:
        np.testing.assert_array_equal(photos[1], texture(16, 24, 1))
    else:
        with pytest.raises(StackError, match=r"p1\.png cannot be read"):
            photos[1]
    assert len(photos) == 3
