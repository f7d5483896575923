"""display/annotations.py: a bar of the length that it says, on pictures of every kind."""

import numpy as np
import pytest

from stackmff.display.annotations import annotate, scale_bar


@pytest.mark.parametrize(
    ("width", "pixel_size", "length", "text"),
    [
        (1000, 1, 200, "200 µm"),
        (1000, 0.4, 250, "100 µm"),
        (1000, 0.01, 200, "2 µm"),
        (1000, 0.002, 250, "500 nm"),
        (4000, 5, 1000, "5 mm"),
        (1000, 1e4, 200, "2 m"),
        (1000, 1e-6, 200, "0.2 nm"),
    ],
)
def test_the_bar_is_the_longest_round_length_in_a_quarter(width, pixel_size, length, text):
    assert scale_bar(width, pixel_size) == (length, text)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_bar_and_label_are_written_into_the_corners(dtype, channels):
    white = np.iinfo(dtype).max
    picture = np.full((300, 400, channels), white // 2, dtype)
    annotate(picture, "Fly", 1.0)
    colour = picture[..., 0]
    rows, columns = (colour[150:, 200:] == white).nonzero()
    bar = np.bincount(rows).argmax()  # the bar is the longest line
    assert (colour[150 + bar, 200:] == white).sum() == 100
    assert (colour[200:, :150] > 0.6 * white).sum() > 10  # the label
    assert (colour[:150] == white // 2).all()
    assert columns.max() < 199
    if channels in (2, 4):
        assert (picture[picture[..., 0] == white][..., -1] == white).all()


def test_a_tiny_picture_is_left_whole():
    picture = np.zeros((3, 5, 3), np.uint8)
    annotate(picture, "a long label", 0.5)
    assert picture.shape == (3, 5, 3)
