"""display/drawing.py: error maps, small copies, text."""

import numpy as np
from drawn import texture
from PIL import ImageCms

from stackmff.display import drawing


def test_an_error_map_goes_from_dark_blue_to_yellow_at_a_tenth_of_white():
    answer = np.full((1, 4), 0.5, np.float32)
    fused = answer + np.float32([[0, 0.05, -0.1, 0.4]])
    painted = drawing.error_map(fused, answer)
    np.testing.assert_array_equal(painted, drawing.colour_map(np.array([[0, 0.5, 1, 1]])))
    red, green, blue = painted[0, 0].astype(int)
    assert blue > red and blue > green
    red, green, blue = painted[0, 3].astype(int)
    assert red > 200 and green > 200 and blue < 100


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
