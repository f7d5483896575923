"""evaluation/metrics.py: known answers of every metric."""

import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from drawn import texture
from scipy.ndimage import correlate

from stackmff.evaluation import metrics
from stackmff.evaluation.metrics import (
    METRICS,
    OPTIONAL_METRICS,
    lpips,
    ms_ssim,
    score,
    to_gray,
    window_means,
)
from stackmff.processes import child_environment


@pytest.mark.parametrize(("kind", "peak"), [("u1", 255), ("u2", 65535), ("f4", 1), ("f8", 1)])
def test_psnr_is_that_of_scikit_image(kind, peak):
    from skimage.metrics import peak_signal_noise_ratio

    rng = np.random.default_rng(0)
    answer, fused = ((rng.random((20, 30, 3)) * peak).astype(kind) for _ in range(2))
    expected = peak_signal_noise_ratio(answer, fused, data_range=peak)
    assert METRICS["PSNR"](fused, answer, peak) == expected
    with pytest.raises(ValueError, match="shapes"):
        METRICS["PSNR"](fused[:1], answer, peak)


def test_scores_do_not_load_scipy_stats():
    """It takes longer than all the rest, in each process that trains or scores."""
    words = "import sys, stackmff.evaluation.scoring; assert 'scipy.stats' not in sys.modules"
    subprocess.run([sys.executable, "-c", words], env=child_environment(), check=True)


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
    # That of a picture against its own rounding: an error uniform in half a step.
    assert scores["PSNR"] == pytest.approx(58.92, abs=0.005)
    floats = picture / np.float32(255)
    assert score(floats, floats, 1)["PSNR"] == pytest.approx(scores["PSNR"])
    sixteen = picture.astype(np.uint16) * 257
    assert score(sixteen, sixteen, 65535)["PSNR"] == pytest.approx(107.12, abs=0.005)
    nearly = picture.copy()
    nearly[0, 0, 0] ^= 1
    assert score(nearly, picture, 255)["PSNR"] == scores["PSNR"]  # no error so small can be told
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


@pytest.mark.parametrize("size", [3, 8])
def test_window_means_are_of_the_windows_inside(size):
    picture = np.random.default_rng(0).random((12, 15))
    kernel = np.arange(1.0, size + 1) / np.arange(1, size + 1).sum()
    windows = np.lib.stride_tricks.sliding_window_view(picture, (size, size))
    expected = np.einsum("hwyx,y,x->hw", windows, kernel, kernel)
    np.testing.assert_allclose(window_means(picture, kernel), expected, atol=1e-12)


def worked_ms_ssim(fused, answer):
    """MS-SSIM of two (H, W) pictures in [0, 1] with the window written out."""
    axis = np.arange(-5, 6)
    window = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 1.5**2))
    window /= window.sum()
    product = 1
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if scale:
            fused, answer = (
                p[: p.shape[0] // 2 * 2, : p.shape[1] // 2 * 2]
                .reshape(p.shape[0] // 2, 2, p.shape[1] // 2, 2)
                .mean((1, 3))
                for p in (fused, answer)
            )
        m1, m2, s11, s22, s12 = (
            correlate(p, window)[5:-5, 5:-5]
            for p in (fused, answer, fused * fused, answer * answer, fused * answer)
        )
        contrast = (2 * (s12 - m1 * m2) + 9e-4) / (s11 - m1**2 + s22 - m2**2 + 9e-4)
        if scale == 4:
            contrast = contrast * (2 * m1 * m2 + 1e-4) / (m1**2 + m2**2 + 1e-4)
        product *= contrast.mean() ** weight
    return product


def test_ms_ssim_is_the_worked_one():
    answer = texture(177, 190, 0)[..., 0]  # an odd side loses its last row at the next scale
    fused = cv2.GaussianBlur(answer, (0, 0), 2)
    expected = worked_ms_ssim(fused / 255, answer / 255)
    assert 0.3 < expected < 0.95
    assert ms_ssim(fused, answer, 255) == pytest.approx(expected, abs=1e-9)
    assert ms_ssim(fused * np.uint16(257), answer * np.uint16(257), 65535) == pytest.approx(
        expected, abs=1e-9
    )
    colour = [np.dstack([picture] * 3) for picture in (fused, answer)]
    assert ms_ssim(*colour, 255) == pytest.approx(expected, abs=1e-9)


def test_ms_ssim_of_flat_pictures_is_the_luminance_of_one_scale():
    answer, fused = np.full((180, 176, 3), 0.2), np.full((180, 176, 3), 0.4)
    luminance = (2 * 0.2 * 0.4 + 1e-4) / (0.2**2 + 0.4**2 + 1e-4)
    assert ms_ssim(fused, answer, 1.0) == pytest.approx(luminance**0.1333, abs=1e-6)
    assert ms_ssim(answer, answer, 1.0) == pytest.approx(1)


def test_ms_ssim_of_an_inverted_picture_is_zero():
    answer = texture(176, 176, 0)
    assert ms_ssim(255 - answer, answer, 255) == 0


def test_ms_ssim_agrees_with_torchmetrics():
    image = pytest.importorskip("torchmetrics.functional.image")
    answer = np.float32(texture(192, 224, 0)) / 255
    fused = cv2.GaussianBlur(answer, (0, 0), 1.5)
    tensors = [torch.from_numpy(p).permute(2, 0, 1)[None] for p in (fused, answer)]
    theirs = float(image.multiscale_structural_similarity_index_measure(*tensors, data_range=1.0))
    # They mirror the border at the last scale, where ours has only windows inside.
    assert ms_ssim(fused, answer, 1.0) == pytest.approx(theirs, abs=0.01)


def test_ms_ssim_needs_a_window_at_the_last_scale():
    picture = texture(175, 200, 0)
    with pytest.raises(ValueError, match=r"200x175 is smaller than the 176x176 px .* MS-SSIM"):
        ms_ssim(picture, picture, 255)


def test_optional_metrics_come_where_they_are_asked_for():
    picture = texture(176, 176, 0)
    assert list(score(picture, picture, 255)) == list(METRICS)
    scores = score(picture, picture, 255, gray=True, optional=["MS-SSIM"])
    assert list(scores) == [*METRICS, "MS-SSIM"] and scores["MS-SSIM"] == pytest.approx(1)
    with pytest.raises(ValueError, match="MSSSIM is not a metric: choose from MS-SSIM, LPIPS"):
        score(picture, picture, 255, optional=["MSSSIM"])
    assert not set(OPTIONAL_METRICS) & set(METRICS)


@pytest.fixture
def fresh_network():
    """No LPIPS network is kept from before or for later."""
    metrics._lpips_network.cache_clear()
    yield
    metrics._lpips_network.cache_clear()


@pytest.mark.parametrize("missing", ["torchvision", "torchmetrics.image.lpip"])
def test_lpips_says_which_packages_it_needs(fresh_network, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torchmetrics.image.lpip", SimpleNamespace())
    monkeypatch.setitem(sys.modules, missing, None)  # makes the import fail
    picture = texture(32, 32, 0)
    with pytest.raises(ValueError, match="pip install torchmetrics torchvision") as caught:
        score(picture, picture, 255, optional=["LPIPS"])
    assert str(caught.value).startswith(OPTIONAL_METRICS["LPIPS"][1])


def test_lpips_says_so_where_torchvision_is_broken(fresh_network, monkeypatch):
    def importing(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(metrics.importlib, "import_module", importing)
    picture = texture(32, 32, 0)
    with pytest.raises(ValueError, match=r"LPIPS needs torchmetrics and torchvision.*nms does not"):
        lpips(picture, picture, 255)


@pytest.mark.parametrize(("dtype", "peak"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
def test_lpips_hands_colour_from_minus_one_to_one_to_alexnet(
    fresh_network, monkeypatch, dtype, peak
):
    built, seen = [], []

    def build(net_type):
        built.append(net_type)

        def network(fused, answer):
            seen.append((fused, answer))
            return torch.tensor(0.25)

        return network

    module = SimpleNamespace(LearnedPerceptualImagePatchSimilarity=build)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torchmetrics.image.lpip", module)
    answer = np.zeros((32, 40, 3), dtype)
    fused = answer.copy()
    fused[3, 7] = peak, 0, dtype(peak / 5)
    assert lpips(fused, answer, peak) == 0.25
    assert lpips(fused[..., 0], answer[..., 0], peak) == 0.25
    assert built == ["alex"]  # once for all pictures
    colour, grey = seen
    for tensor in (*colour, *grey):
        assert tensor.shape == (1, 3, 32, 40) and tensor.dtype == torch.float32
        assert tensor[:, :, 0].tolist() == [[[-1.0] * 40] * 3]
    assert colour[0][0, :, 3, 7].tolist() == pytest.approx([1, -1, -0.6], abs=1e-6)
    assert grey[0][0, :, 3, 7].tolist() == pytest.approx([1, 1, 1])
    assert (colour[1] == -1).all()


def test_lpips_needs_a_pixel_after_alexnets_poolings():
    picture = texture(30, 40, 0)
    with pytest.raises(ValueError, match=r"40x30 is smaller than the 31x31 px .* LPIPS"):
        lpips(picture, picture, 255)
