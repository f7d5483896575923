"""display/drawing.py and display/gallery.py: maps of errors, small copies, and the page: valid, escaped, its links on
the disk."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from drawn import texture
from PIL import ImageCms

from stackmff.display import drawing, gallery
from stackmff.images.formats import read_picture, write_picture

VOID = {"meta", "img", "br", "input"}


class Page(HTMLParser):
    """Reads a page, checks that its elements are nested, keeps text, ids and addresses."""

    def __init__(self, path):
        super().__init__()
        self.path, self.open, self.text = path, [], ""
        self.ids, self.links, self.sources, self.images = [], [], [], []
        self.feed(path.read_text())
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "img":
            self.images.append(attributes)
            self.sources.append(self.path.parent / unquote(attributes["src"]))
        if tag == "a":
            self.links.append(attributes["href"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_an_error_map_goes_from_dark_blue_to_yellow_at_a_tenth_of_white():
    answer = np.full((1, 4), 0.5, np.float32)
    fused = answer + np.float32([[0, 0.05, -0.1, 0.4]])
    painted = drawing.error_map(fused, answer)
    np.testing.assert_array_equal(painted, drawing.colour_map(np.array([[0, 0.5, 1, 1]])))
    red, green, blue = painted[0, 0].astype(int)
    assert blue > red and blue > green
    red, green, blue = painted[0, 3].astype(int)
    assert red > 200 and green > 200 and blue < 100


@pytest.fixture
def page(tmp_path):
    return tmp_path / "out" / "index.html"


def views_of(page, name="scene"):
    """An answer, and a result wider than the page's pictures with its error map."""
    start = gallery.files_folder(page) / "0"
    wide = texture(60, 2 * gallery.PREVIEW, 0)
    luma = wide[..., 0] / np.float32(255)
    picture = gallery.save_image(start / "1", wide)
    error = gallery.save_error(start / "1", luma, luma[::-1])
    return [
        gallery.View("answer", "", gallery.save_image(start / "0", texture(20, 30, 1))),
        gallery.View(name, "PSNR 30 dB", picture, error),
    ]


def write(page, scenes, rows=(("method", "n"), ("a", "3"))):
    run = {"command": ["evaluate.py", "--html", "<b>"], "versions": {"python": "3"}}
    gallery.write_page(page, "two & three", run, [("Scores", rows, "n: <scenes>")], scenes)
    return Page(page)


def test_every_picture_of_the_page_lies_on_the_disk(page):
    read = write(page, {"one": views_of(page), "two": views_of(page)})
    assert all(source.is_file() for source in read.sources)
    assert len(set(read.ids)) == len(read.ids)
    assert {link.removeprefix("#") for link in read.links} == set(read.ids)
    assert all(image["alt"] for image in read.images)
    assert len(read.images) == 2 * 3 * 2  # three pictures a scene, each small and whole
    moved = page.parent.rename(page.parent.with_name("moved"))
    assert all(source.is_file() for source in Page(moved / page.name).sources)
    text = (moved / page.name).read_text()
    assert "http" not in text and "<script" not in text


def test_a_click_shows_all_pixels_of_what_is_shown_smaller(page):
    write(page, {"one": views_of(page)})
    folder = gallery.files_folder(page) / "0"
    assert read_picture(folder / "1-small.jpg").shape == (30, gallery.PREVIEW, 3)
    np.testing.assert_array_equal(read_picture(folder / "1.png"), texture(60, 2 * gallery.PREVIEW, 0))
    assert read_picture(folder / "1-error.png").shape == (60, 2 * gallery.PREVIEW, 3)
    assert not (folder / "0-small.jpg").exists()
    text = page.read_text()
    assert re.search(r'href="#s0v1"><img src="index_files/0/1-small.jpg"', text)
    assert re.search(r'id="s0v1"><a href="#s0" title="back"><img src="index_files/0/1.png"', text)


def test_hostile_names_stay_text(page):
    name = "</title><script>alert('x')</script>\"&amp;"
    rows = [["method", "n"], [name, "<i>3</i>"]]
    read = write(page, {name: views_of(page, name)}, rows)
    assert "<script" not in page.read_text() and "<i>" not in page.read_text()
    assert read.text.count(name) == 4  # link, heading, table and caption
    assert read.images[2]["alt"] == f"{name}: {name}"
    assert "<b>" in read.text and "n: <scenes>" in read.text


@pytest.mark.parametrize("name", ["a b#c?d%41.png", 'q"uote&.png', "größe.png"])
def test_results_below_the_page_are_linked_to_whatever_their_names(page, name):
    file = page.parent / "GFF" / name
    write_picture(file, texture(20, 30, 0))
    assert gallery.is_shown_as_it_is(file, page)
    image = gallery.save_image(gallery.files_folder(page) / "0", texture(20, 30, 0), file)
    read = write(page, {"one": [gallery.View("GFF", "", image)]})
    assert read.sources == [Path(file), Path(file)]
    assert not gallery.files_folder(page).exists()


def test_what_the_page_cannot_link_to_is_copied(page, tmp_path):
    assert not gallery.is_shown_as_it_is(tmp_path / "elsewhere" / "a.png", page)
    assert not gallery.is_shown_as_it_is(page.parent / "a.tif", page)
    assert not gallery.is_shown_as_it_is(page.parent / ".." / "a.png", page)


def test_without_error_maps_there_is_no_key(page):
    answer, result = views_of(page)
    assert "grey levels" in write(page, {"one": [answer, result]}).text
    assert "grey levels" not in write(page, {"one": [answer]}).text


def test_a_small_copy_is_8_bit_colour_and_never_the_picture_itself():
    picture = texture(40, 60, 0)
    small = drawing.reduced(picture, 30)
    assert small.shape == (20, 30, 3) and small.dtype == np.uint8
    np.testing.assert_allclose(small.mean((0, 1)), picture.mean((0, 1)), atol=1)
    same = drawing.reduced(picture, 60)
    np.testing.assert_array_equal(same, picture)
    same[:] = 0
    assert picture.any()
    deep = picture.astype(np.uint16) * 257
    np.testing.assert_array_equal(drawing.reduced(deep, 60), picture)
    for channels in (1, 2):  # grey, and grey with alpha
        grey = drawing.reduced(picture[..., :channels], 60)
        np.testing.assert_array_equal(grey, np.repeat(picture[..., :1], 3, axis=2))
    assert drawing.reduced(picture[:1], 6).shape == (1, 6, 3)


def test_a_small_copy_is_srgb_whatever_the_profile():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"tXYZ").replace(b"bXYZ", b"rXYZ").replace(b"tXYZ", b"bXYZ")
    picture = np.full((4, 4, 3), (200, 90, 30), np.uint8)
    np.testing.assert_allclose(drawing.reduced(picture, 4, srgb), picture, atol=1)
    np.testing.assert_allclose(drawing.reduced(picture, 4, swapped), picture[..., ::-1], atol=2)
    for unusable in (b"no profile", srgb):
        grey = drawing.reduced(picture[..., :1], 4, unusable)
        np.testing.assert_array_equal(grey, np.full((4, 4, 3), 200))


def test_words_are_as_wide_as_said():
    picture = np.full((40, 400, 3), 255, np.uint8)
    drawing.draw_text(picture, "frame 12", 10, 30, 20, (0, 0, 0))
    columns = np.flatnonzero((picture < 128).any((0, 2)))
    assert abs(columns[0] - 10) <= 3
    assert abs(columns[-1] + 1 - columns[0] - drawing.text_width("frame 12", 20)) <= 4
