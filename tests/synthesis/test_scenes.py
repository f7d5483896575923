"""Random scenes: repeatable, in range, and as hard as they say."""

import hashlib
import json

import numpy as np
import pytest
import torch

from stackmff.synthesis import camera, refocus, scenes
from stackmff.synthesis.scenes import SceneSpec


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (120, 160, 3), np.uint8) for _ in range(3)]


def test_a_seed_gives_the_same_scene(photos):
    one = scenes.random_scene(np.random.default_rng(5), photos, SceneSpec(64, 8.0))
    two = scenes.random_scene(np.random.default_rng(5), photos, SceneSpec(64, 8.0))
    other = scenes.random_scene(np.random.default_rng(6), photos, SceneSpec(64, 8.0))
    np.testing.assert_array_equal(one[0], two[0])
    assert one[0].shape != other[0].shape or (one[0] != other[0]).any()


def rounded(value):
    """Numbers of nested tuples, lists and dicts to 6 digits: all that processors agree on."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(part) for part in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def digest(values):
    return hashlib.sha256(json.dumps(rounded(values)).encode()).hexdigest()[:16]


def test_the_scenes_of_a_seed_are_those_they_have_always_been(photos):
    """What changes these digests changes what networks are trained on: then train them anew."""
    plans = [scenes.draw_plan(np.random.default_rng([7, k]), SceneSpec()) for k in range(200)]
    assert digest(plans) == "883ae3e0b261451f"
    made = [scenes.numbered_scene(photos, 7, k, SceneSpec(32, 8.0)) for k in range(12)]
    assert digest([settings for *_, settings in made]) == "e36fde10250ce84e"
    means = [126.1, 119.0, 112.0, 134.5, 139.4, 143.1, 139.9, 121.0, 117.3, 121.5, 145.6, 155.9]
    assert [frames.mean() for frames, *_ in made] == pytest.approx(means, abs=0.5)


def test_shapes_and_ranges(photos):
    frames, answer, disparity, settings = scenes.random_scene(
        np.random.default_rng(1), photos, SceneSpec(64, 6.0, n_frames=5)
    )
    assert frames.shape == (5, 64, 64, 3) and frames.dtype == np.uint8
    assert answer.shape == (64, 64, 3) and disparity.shape == (64, 64)
    assert disparity.min() >= 0 and disparity.max() <= 1
    assert 1 <= settings["aperture_px"] <= 18 and len(settings["focus_disparity"]) == 5


def test_blur_keeps_within_its_bounds(photos, monkeypatch):
    monkeypatch.setattr(scenes, "REGION_SHARE", 0)
    monkeypatch.setattr(scenes, "UNFOCUSED_SHARE", 0)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        settings = scenes.random_scene(rng, photos, SceneSpec(32, 6.0, n_frames=4, min_coc=5.0))[3]
        assert 5 <= settings["aperture_px"] <= 6


def test_blur_is_computed_where_the_layers_are(photos):
    """Without a GPU: what is on "meta" has no values, but a device that must not be mixed."""
    layer = scenes.Layer(torch.rand(3, 16, 16), torch.ones(16, 16), torch.zeros(16, 16)).to("meta")
    aperture = scenes.random_aperture(np.random.default_rng(0))
    levels = refocus.blur_levels(layer.colour, (0, 1.0, 6.0), aperture)
    assert levels.device.type == "meta" and levels.shape == (3, 3, 16, 16)
    assert scenes.flatten_layers([layer, layer])[1].device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_makes_the_same_scenes(photos):
    for seed in range(12):
        one, other = (
            scenes.random_scene(
                np.random.default_rng(seed), photos, SceneSpec(64, 8.0, faults={}), d
            )
            for d in ("cpu", "cuda")
        )
        for k in range(2):  # frames and answer, but for how values between two levels round
            difference = abs(one[k].astype(int) - other[k].astype(int))
            assert difference.max() <= 1 and difference.mean() < 0.01
        np.testing.assert_array_equal(one[2], other[2])
        assert one[3] == other[3]


def test_regions_are_sharp_in_their_frame_and_blurred_in_the_others(photos):
    frames, answer, disparity, settings = scenes.region_scene(
        np.random.default_rng(2), photos, 64, 4, {}
    )
    focus = np.array(settings["focus_disparity"])
    nearest = abs(disparity[None] - focus[:, None, None]).argmin(0)
    for k in range(4):
        np.testing.assert_array_equal(frames[k][nearest == k], answer[nearest == k])
        assert (frames[k][nearest != k] != answer[nearest != k]).any()


def test_without_faults_every_surface_is_sharp_in_the_frame_focused_on_it(photos):
    rng = np.random.default_rng(3)
    focus = np.linspace(1, 0, 5)
    disparity = torch.linspace(0, 1, 64).expand(64, 64)
    colour = scenes.random_texture(rng, photos, 64)
    layer = scenes.Layer(colour, torch.ones(64, 64), disparity)
    frames = scenes.refocus_layers([layer], focus, 12.0)
    nearest = abs(disparity[0, :, None] - torch.from_numpy(focus)).argmin(1)
    error = (frames - colour).pow(2).mean((1, 2))[:, 6:-6]  # (5, 52): columns away from the border
    assert (error.argmin(0) == nearest[6:-6]).float().mean() > 0.95


@pytest.mark.parametrize("shape", scenes.SHAPES)
def test_shapes_cover_a_part_of_the_picture(shape):
    alphas = [scenes.draw_alpha(np.random.default_rng(k), 96, shape) for k in range(4)]
    for alpha in alphas:
        assert alpha.shape == (96, 96) and alpha.dtype == np.float32
        assert alpha.min() >= 0 and alpha.max() <= 1
    assert 0 < np.mean(alphas) < 0.95


def test_focus_runs_from_near_to_far():
    for seed in range(20):
        focus = scenes.random_focus(np.random.default_rng(seed), 6)
        assert (np.diff(focus) < 0).all() and focus[0] <= 1 and focus[-1] >= -1e-9


def test_noise_has_the_variance_of_photons_and_reading():
    linear = np.full((300, 300), 0.25)
    noisy = camera.add_noise(np.random.default_rng(0), linear, 1000, 5.0)
    assert noisy.mean() == pytest.approx(0.25, rel=0.01)
    assert noisy.var() == pytest.approx((0.25 * 1000 + 25) / 1000**2, rel=0.03)


def test_develop_without_faults_codes_srgb():
    linear = torch.tensor([0.0, 0.2140, 1.0, 3.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    frame = camera.develop(np.random.default_rng(0), linear)[0]
    np.testing.assert_allclose(frame[..., 0], [[0, 127.5], [255, 255]], atol=0.51)


def test_faults_change_the_frames(photos):
    linear = scenes.to_linear(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    clean = camera.develop(np.random.default_rng(0), linear)
    for faults in ({"noise": (500, 3)}, {"jpeg": 80}, {"flicker": 0.05}, {"shake": 0.3}):
        assert (camera.develop(np.random.default_rng(0), linear, **faults) != clean).any()
