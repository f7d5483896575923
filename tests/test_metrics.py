"""metrics.py: known answers of every metric."""

import cv2
import numpy as np
import pytest
from drawn import texture

from metrics import METRICS, score, to_gray


def test_flat_pictures_of_known_distance():
    answer = np.full((16, 16, 3), 100, np.uint8)
    fused = answer + np.uint8(51)  # 0.2 of white
    scores = score(fused, answer, 255)
    assert list(scores) == list(METRICS)
    assert scores["MSE"] == pytest.approx(0.04)
    assert scores["RMSE"] == pytest.approx(0.2)
    assert scores["MAE"] == pytest.approx(0.2)
    assert scores["MAE_grey"] == pytest.approx(51)
    assert scores["PSNR"] == pytest.approx(-10 * np.log10(0.04))
    expected = np.log1p(151 / 255) - np.log1p(100 / 255)
    assert scores["logRMS"] == pytest.approx(expected)
    luminance = (2 * 100 * 151 + 0.01**2 * 255**2) / (100**2 + 151**2 + 0.01**2 * 255**2)
    assert scores["SSIM"] == pytest.approx(luminance, abs=1e-6)


def test_means_run_over_pixels_and_channels():
    answer = np.zeros((16, 20, 3), np.uint8)
    fused = answer.copy()
    fused[:4, :5, 1] = 255  # a sixteenth of one of three channels
    scores = score(fused, answer, 255)
    assert scores["MAE"] == pytest.approx(1 / 48)
    assert scores["MSE"] == pytest.approx(1 / 48)
    assert scores["PSNR"] == pytest.approx(10 * np.log10(48))


def test_equal_pictures():
    picture = texture(24, 32, 0)
    scores = score(picture, picture.copy(), 255)
    assert scores["PSNR"] == np.inf
    assert scores["SSIM"] == pytest.approx(1)
    assert [scores[name] for name in ("MSE", "MAE", "RMSE", "logRMS", "MAE_grey")] == [0] * 5


def test_bit_depths_score_alike():
    answer, fused = texture(24, 32, 0), texture(24, 32, 1)
    narrow = score(fused, answer, 255)
    wide = score(fused * np.uint16(257), answer * np.uint16(257), 65535)
    floats = score(np.float32(fused) / 255, np.float32(answer) / 255, 1.0)
    for name, value in narrow.items():
        assert wide[name] == pytest.approx(value, rel=1e-6), name
        assert floats[name] == pytest.approx(value, rel=1e-4), name


def test_ssim_in_colour_is_the_mean_over_the_channels():
    answer, fused = texture(24, 32, 0), texture(24, 32, 1)
    channels = [METRICS["SSIM"](fused[..., c], answer[..., c], 255) for c in range(3)]
    assert METRICS["SSIM"](fused, answer, 255) == pytest.approx(np.mean(channels))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_gray_scores_the_luma(dtype):
    answer, fused = texture(24, 32, 0).astype(dtype), texture(24, 32, 1).astype(dtype)
    scores = score(fused, answer, 255, gray=True)
    lumas = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (fused, answer)]
    assert scores == score(*lumas, 255)
    assert scores == score(lumas[0][..., None], lumas[1][..., None], 255, gray=True)
    assert scores["MAE"] < score(fused, answer, 255)["MAE"]


def test_gray_weighs_red_green_and_blue():
    primaries = np.eye(3, dtype=np.uint8)[None] * 255  # red, green, blue
    assert to_gray(primaries).tolist() == [[76, 150, 29]]


def test_pictures_that_cannot_be_compared():
    picture = texture(24, 32, 0)
    with pytest.raises(ValueError, match=r"the picture is \(24, 32, 3\) uint8, its answer"):
        score(picture, picture[:20], 255)
    with pytest.raises(ValueError, match="uint16"):
        score(picture, picture.astype(np.uint16), 255)
    with pytest.raises(ValueError, match="32x8 is smaller than the 11x11 window of SSIM"):
        score(picture[:8], picture[:8], 255)
