"""synthesis/photos.py: which photographs there are, which can be read, and what is kept of them."""

import os

import cv2
import numpy as np
import pytest
from drawn import texture

from stackmff.errors import StackError
from stackmff.images.colour import luma
from stackmff.images.formats import write_picture
from stackmff.synthesis import photos
from stackmff.synthesis.options import PhotoLimits
from stackmff.synthesis.photos import (
    PhotoFolder,
    list_photos,
    part_readable,
    read_fit,
    read_rgb,
    sharpness,
    what_is_unfit,
)


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
    with pytest.raises(StackError, match="nowhere is not a folder"):
        list_photos([tmp_path / "nowhere"])


def test_what_cannot_be_read_is_told_and_left_out(folder):
    paths = list_photos([folder])
    paths[1].write_bytes(paths[1].read_bytes()[:60])
    good, sentences = part_readable(paths, 2)
    assert good == [paths[0], paths[2]]
    assert len(sentences) == 1 and "p1.png" in sentences[0]
    with pytest.raises(StackError, match=r"none of the 1 photographs can be read: .*p1\.png"):
        part_readable(paths[1:2])
    paths[1] = paths[1].rename(folder / "two\nlines.png")
    assert r"two\nlines.png is not a picture" in part_readable(paths, 2)[1][0]


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


GOOD = texture(140, 150, 0)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (GOOD, None),
        (GOOD[:100], "is 150x100, too small: --min_side is 128"),
        (GOOD // 20, "is black: its brightest parts are at 1[0-2] of 255"),
        (np.full_like(GOOD, 200), "is of one colour"),
        (GOOD[..., :1].repeat(3, 2), "is grey: --min_colour is 1, 0 accepts it"),
        (cv2.GaussianBlur(GOOD, (0, 0), 2.5), r"is blurred: its sharpness is 0\.\d\d, --min_sharp"),
    ],
)
def test_what_is_unfit_is_said(tmp_path, picture, words):
    path = tmp_path / "p.png"
    write_picture(path, picture)
    if words is None:
        assert what_is_unfit(picture, PhotoLimits()) is None
        np.testing.assert_array_equal(read_fit(path, PhotoLimits()), picture)
    else:
        with pytest.raises(StackError, match=rf"p\.png {words}"):
            read_fit(path, PhotoLimits())


def test_a_hot_pixel_leaves_black_black():
    black = np.zeros_like(GOOD)
    black[70, 70] = 255
    assert "is black" in what_is_unfit(black, PhotoLimits())
    assert what_is_unfit(GOOD // 4, PhotoLimits()) is None  # dark is not black


def test_sharpness_does_not_go_by_contrast_and_background():
    grey = luma(GOOD)
    assert sharpness(0.3 + 0.2 * grey) == pytest.approx(sharpness(grey), rel=0.1)
    wide = np.concatenate([cv2.GaussianBlur(grey, (0, 0), 4)] * 4 + [grey], 1)
    assert sharpness(wide) > 0.8 * sharpness(grey)
    blurred = [sharpness(cv2.GaussianBlur(grey, (0, 0), sigma)) for sigma in (1, 2, 3)]
    assert sharpness(grey) > blurred[0] > blurred[1] > blurred[2]
    assert sharpness(np.zeros_like(grey)) == 0


def test_what_was_read_once_is_not_read_again(folder, tmp_path, monkeypatch):
    paths, record = list_photos([folder]), tmp_path / "out" / "photographs.json"
    loose = PhotoLimits(16, 1.0, 0.0)
    write_picture(paths[2], texture(16, 24, 2)[..., :1])
    good, sentences = part_readable(paths, 1, loose, record)
    assert good == paths[:2] and "p2.png is grey" in sentences[0]
    read, wrong = [], photos.what_is_wrong

    def counted(path, limits):
        read.append(path)
        return wrong(path, limits)

    monkeypatch.setattr(photos, "what_is_wrong", counted)
    assert part_readable(paths, 1, loose, record) == (good, sentences) and not read
    write_picture(paths[2], texture(16, 24, 2))
    os.utime(paths[2], ns=(1, 1))
    assert part_readable(paths, 1, loose, record) == (paths, []) and read == paths[2:]
    assert part_readable(paths[1:], 1, loose, record) == (paths[1:], []) and read == paths[2:]
    with pytest.raises(StackError, match=r"none of the 3 photographs can be used: .*too small"):
        part_readable(paths, 1, PhotoLimits(), record)
    record.write_text("{")
    assert part_readable(paths, 1, loose, record) == (paths, [])


def test_a_photograph_too_large_for_the_memory_is_left_out(folder, monkeypatch):
    paths, read = list_photos([folder]), photos.read_rgb

    def read_rgb(path):
        if path == paths[1]:
            raise MemoryError("Unable to allocate 9 GiB")
        return read(path)

    monkeypatch.setattr(photos, "read_rgb", read_rgb)
    good, sentences = part_readable(paths, 1)
    assert good == [paths[0], paths[2]]
    assert sentences[0].startswith(f"{paths[1]}: out of memory (Unable to allocate")
