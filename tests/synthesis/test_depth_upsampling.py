"""synthesis/depth_upsampling.py: edges of depth come to lie on edges of the photograph."""

import cv2
import numpy as np
from drawn import texture

from stackmff.synthesis.depth_upsampling import confidence, sharpen


def wavy_edge(height=120, width=160):
    """A photograph with a dark and a bright thing, and which of the two each pixel is."""
    columns = np.arange(width)[None]
    mask = columns < width / 2 + 12 * np.sin(np.arange(height) / 9)[:, None]
    picture = np.where(mask[..., None], 50, 170) + texture(height, width, 0) // 4.0
    return np.uint8(picture), mask


def small_and_soft(mask):
    small = cv2.resize(np.float32(mask), (56, 42), interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small, (0, 0), 2.0) * 3 + 1


def test_soft_edges_become_those_of_the_photograph():
    picture, mask = wavy_edge()
    wanted = mask * 3.0 + 1
    soft = small_and_soft(mask)
    sharp = sharpen(soft, picture)
    assert sharp.shape == mask.shape and sharp.dtype == np.float32
    before = abs(cv2.resize(soft, (160, 120)) - wanted).mean()
    after = abs(sharp - wanted).mean()
    assert after < 0.4 * before
    assert soft.min() <= sharp.min() and sharp.max() <= soft.max()


def test_edges_of_the_photograph_alone_make_no_depth():
    picture, _ = wavy_edge()
    ramp = np.tile(np.linspace(1, 2, 56, dtype=np.float32), (42, 1))
    ramp_at_full_size = cv2.resize(ramp, (160, 120))
    assert abs(sharpen(ramp, picture) - ramp_at_full_size).max() < 0.06
    flat = np.full((42, 56), 3, np.float32)
    np.testing.assert_allclose(sharpen(flat, picture), 3, rtol=1e-6)


def test_what_is_beside_an_edge_is_not_sure():
    values = np.float32(np.tile(np.arange(20) >= 10, (10, 1)))
    sure = confidence(values)
    assert sure[:, 9:11].max() < 0.01 and (sure[:, :7] == 1).all() and (sure[:, 13:] == 1).all()


def test_a_square_map_of_a_wide_photograph_keeps_its_rows():
    rows = np.arange(120)[:, None] < 60 + 12 * np.sin(np.arange(1200) / 120)
    picture = np.uint8(np.where(rows[..., None], 50, 170) + texture(120, 1200, 0) // 4.0)
    wanted = rows * 3.0 + 1
    soft = cv2.resize(np.float32(rows), (56, 56), interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(soft, (0, 0), 2.0) * 3 + 1
    before = abs(cv2.resize(soft, (1200, 120)) - wanted).mean()
    assert abs(sharpen(soft, picture) - wanted).mean() < 0.4 * before
