"""display/gallery.py: valid, escaped HTML whose links lead to files on the disk."""

import re
from pathlib import Path

import numpy as np
import pytest
from drawn import texture
from html_files import HtmlFile

from stackmff.display import gallery
from stackmff.images.formats import read_picture, write_picture


@pytest.fixture
def html_file(tmp_path):
    return tmp_path / "out" / "index.html"


def entries_of(html_file, name="scene"):
    """An answer, and a result wider than a preview, with its error map."""
    start = gallery.files_folder(html_file) / "0"
    wide = texture(60, 2 * gallery.PREVIEW_WIDTH, 0)
    luma = wide[..., 0] / np.float32(255)
    picture = gallery.save_image(start / "1", wide)
    error = gallery.save_error(start / "1", luma, luma[::-1])
    return [
        gallery.Entry("answer", "", gallery.save_image(start / "0", texture(20, 30, 1))),
        gallery.Entry(name, "PSNR 30 dB", picture, error),
    ]


def write(html_file, scenes, rows=(("method", "n"), ("a", "3"))):
    run = {"command": ["evaluate.py", "--html", "<b>"], "versions": {"python": "3"}}
    gallery.write_gallery(html_file, "two & three", run, [("Scores", rows, "n: <scenes>")], scenes)
    return HtmlFile(html_file)


def test_every_picture_of_the_gallery_lies_on_the_disk(html_file):
    read = write(html_file, {"one": entries_of(html_file), "two": entries_of(html_file)})
    assert all(source.is_file() for source in read.sources)
    assert len(set(read.ids)) == len(read.ids)
    assert {link.removeprefix("#") for link in read.links} == set(read.ids)
    assert all(image["alt"] for image in read.images)
    assert len(read.images) == 2 * 3 * 2  # three pictures a scene, each small and whole
    moved = html_file.parent.rename(html_file.parent.with_name("moved"))
    assert all(source.is_file() for source in HtmlFile(moved / html_file.name).sources)
    text = (moved / html_file.name).read_text()
    assert "http" not in text and "<script" not in text


def test_a_click_shows_all_pixels_of_what_is_shown_smaller(html_file):
    write(html_file, {"one": entries_of(html_file)})
    folder = gallery.files_folder(html_file) / "0"
    assert read_picture(folder / "1-small.jpg").shape == (30, gallery.PREVIEW_WIDTH, 3)
    np.testing.assert_array_equal(
        read_picture(folder / "1.png"), texture(60, 2 * gallery.PREVIEW_WIDTH, 0)
    )
    assert read_picture(folder / "1-error.png").shape == (60, 2 * gallery.PREVIEW_WIDTH, 3)
    assert not (folder / "0-small.jpg").exists()
    text = html_file.read_text()
    assert re.search(r'href="#s0v1"><img src="index_files/0/1-small.jpg"', text)
    assert re.search(r'id="s0v1"><a href="#s0" title="back"><img src="index_files/0/1.png"', text)


def test_hostile_names_stay_text(html_file):
    name = "</title><script>alert('x')</script>\"&amp;"
    rows = [["method", "n"], [name, "<i>3</i>"]]
    read = write(html_file, {name: entries_of(html_file, name)}, rows)
    assert "<script" not in html_file.read_text() and "<i>" not in html_file.read_text()
    assert read.text.count(name) == 4  # link, heading, table and caption
    assert read.images[2]["alt"] == f"{name}: {name}"
    assert "<b>" in read.text and "n: <scenes>" in read.text


@pytest.mark.parametrize("name", ["a b#c?d%41.png", 'q"uote&.png', "größe.png"])
def test_results_below_the_gallery_are_linked_to_whatever_their_names(html_file, name):
    file = html_file.parent / "GFF" / name
    write_picture(file, texture(20, 30, 0))
    assert gallery.can_link(file, html_file)
    image = gallery.save_image(gallery.files_folder(html_file) / "0", texture(20, 30, 0), file)
    read = write(html_file, {"one": [gallery.Entry("GFF", "", image)]})
    assert read.sources == [Path(file), Path(file)]
    assert not gallery.files_folder(html_file).exists()


def test_what_the_gallery_cannot_link_to_is_copied(html_file, tmp_path):
    assert not gallery.can_link(tmp_path / "elsewhere" / "a.png", html_file)
    assert not gallery.can_link(html_file.parent / "a.tif", html_file)
    assert not gallery.can_link(html_file.parent / ".." / "a.png", html_file)


def test_without_error_maps_there_is_no_key(html_file):
    answer, result = entries_of(html_file)
    assert "grey levels" in write(html_file, {"one": [answer, result]}).text
    assert "grey levels" not in write(html_file, {"one": [answer]}).text
