"""images/colour.py: the luma and the chroma of frames."""

import cv2
import numpy as np
import pytest
import torch
from drawn import texture

from network import luma_and_chroma
from stackmff.images.colour import chroma, luma, to_linear, to_srgb
from stackmff.synthesis import refocus


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_luma(dtype):
    peak = np.iinfo(dtype).max
    picture = coloured(dtype)
    y = luma(picture)
    assert y.dtype == np.float32
    expected = picture[..., :3] / peak @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(y, expected, atol=1e-6)
    np.testing.assert_allclose(luma(picture[None, ..., 1:3]), picture[None, ..., 1] / peak, 1e-6)
    white = np.full((1, 2, 3), peak, dtype)
    assert luma(white).min() > 0.999999
    assert luma(white).max() <= 1
    if dtype == np.uint8:
        by_opencv = cv2.cvtColor(picture[..., :3], cv2.COLOR_RGB2GRAY)
        assert np.abs(y * 255 - by_opencv).max() < 0.51


def coloured(dtype):
    """(40, 50, 4): a texture of other values in every channel, and alpha."""
    picture = np.dstack([texture(40, 50, k)[..., :1] for k in range(4)])
    return picture.astype(dtype) * (np.iinfo(dtype).max // 255)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(40, 50), (33, 49), (1, 1)])
def test_chroma(dtype, size):
    """Of the mean of 2x2 px, or of what there is of them at the end of odd sides."""
    frame = coloured(dtype)[: size[0], : size[1]]
    half = [-(-side // 2) for side in size]
    found = chroma(frame[None])
    assert found.shape == (2, 1, *half) and found.dtype == np.float32
    peak = np.iinfo(dtype).max
    for row, column in {(0, 0), (half[0] - 1, half[1] - 1)}:
        red, green, blue = frame[2 * row : 2 * row + 2, 2 * column : 2 * column + 2, :3].mean(
            (0, 1)
        )
        y = 0.299 * red + 0.587 * green + 0.114 * blue
        wanted = (blue - y) / 1.772 / peak, (red - y) / 1.402 / peak
        np.testing.assert_allclose(found[:, 0, row, column], wanted, atol=0.6 / 255)


def test_grey_has_no_chroma():
    grey = texture(20, 30, 0)[..., :1]
    assert not chroma(grey[None]).any()
    assert np.abs(chroma(np.repeat(grey, 3, 2)[None])).max() < 1e-6
    assert chroma(np.zeros((3, 5, 7, 2), np.uint8)).shape == (2, 3, 3, 4)


@pytest.mark.parametrize("size", [(40, 50), (33, 49)])
def test_torch_sees_the_same(size):
    frames = np.stack([coloured(np.uint8)[: size[0], : size[1], :3]] * 2)
    frames[1] = frames[1, ::-1]
    stack = torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 255
    one, two = luma_and_chroma(stack)
    np.testing.assert_allclose(one[0, 0], luma(frames), atol=1e-6)
    np.testing.assert_allclose(two[0], chroma(frames), atol=0.6 / 255)  # of whole levels there


def test_the_srgb_curve():
    """Known values of IEC 61966-2-1, its inverse, and the same curve for torch."""
    coded = np.arange(65536, dtype=np.float32) / np.float32(65535)
    light = to_linear(coded)
    assert light.dtype == np.float32 and light[0] == 0 and light[-1] == 1
    np.testing.assert_allclose(to_linear(np.float32([0.04045, 0.5])), [0.0031308, 0.21404], 1e-4)
    np.testing.assert_allclose(to_srgb(light), coded, atol=1e-6)
    by_torch = refocus.to_linear(torch.from_numpy(coded)).numpy()
    np.testing.assert_allclose(light, by_torch, atol=2 * np.finfo(np.float32).eps)
