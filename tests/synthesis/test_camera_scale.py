"""Scenes at camera scale: repeatable, in range, light kept, points where they belong."""

import numpy as np
import pytest

from stackmff.synthesis import camera_scale, camera_surfaces
from stackmff.synthesis.refocus import Aperture
from stackmff.synthesis.surface_detail import draw_specks, paint_specks
from stackmff.synthesis.wide_blur import Surface, add_lights, blur, draw_sprites


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (120, 160, 3), np.uint8) for _ in range(3)]


def test_a_seed_gives_the_same_scene(photos):
    one, two, other = (
        camera_scale.large_scene(np.random.default_rng(seed), photos, (128, 192))
        for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
    assert one[0].shape != other[0].shape or (one[0] != other[0]).any()


def test_shapes_and_bounds(photos):
    for seed in range(6):
        frames, answer, settings = camera_scale.large_scene(
            np.random.default_rng(seed), photos, (128, 160), most_frames=6
        )
        assert 2 <= len(frames) <= 6 and frames.shape[1:] == answer.shape == (128, 160, 3)
        assert frames.dtype == answer.dtype == np.uint8
        focus = np.array(settings["focus"])
        assert len(focus) == len(frames) and (np.diff(focus) < 0).all()


def test_specks_and_bars_cover_what_they_should():
    rng = np.random.default_rng(2)
    specks = draw_specks(rng, 200, 300, 40)
    assert specks.shape == (200, 300) and specks.dtype == np.float32
    assert 0 < specks.mean() < 0.5 and specks.min() == 0 and specks.max() <= 1
    assert (draw_specks(rng, 20, 30, 0) == 0).all()
    bars = [camera_surfaces.draw_bars(rng, 128) for _ in range(8)]
    assert all(bar.min() >= 0 and bar.max() <= 1 for bar in bars)
    assert any(bar[:, 64].max() == 1 for bar in bars)


def test_painted_specks_are_flat_and_of_one_tone():
    colour = np.full((120, 160, 3), 0.5, np.float32)
    paint_specks(np.random.default_rng(0), colour, 20)
    change = colour - 0.5
    painted = np.abs(change).max(2) > 1e-6
    assert painted.any() and not painted.all()
    directions = change[painted] / np.linalg.norm(change[painted], axis=1, keepdims=True)
    np.testing.assert_allclose(
        directions, np.broadcast_to(directions[0], directions.shape), atol=1e-3
    )


@pytest.mark.parametrize("diameter", [0.0, 1.0, 5.0, 20.0, 60.0, 150.0])
def test_blur_keeps_the_light(diameter):
    picture = np.zeros((256, 256, 4), np.float32)
    picture[120:136, 120:136] = 1
    blurred = blur(picture, diameter, Aperture())
    np.testing.assert_allclose(blurred.sum(), picture.sum(), rtol=2e-3)


@pytest.mark.parametrize("coc", [0.0, 10.0, 77.0])
def test_points_of_light_keep_their_light_and_place(coc):
    picture = np.zeros((256, 256, 4), np.float32)
    lights = np.array([[120.3, 131.6, 50.0, 40.0, 30.0, 4.0]], np.float32)
    sprites = draw_sprites(np.random.default_rng(3), Aperture())
    add_lights(picture, lights, coc, sprites, turned=False)
    light = picture[..., 0]
    np.testing.assert_allclose(light.sum(), 50 * np.pi / 4 * 16, rtol=0.05)
    y, x = np.mgrid[0:256, 0:256]
    np.testing.assert_allclose((light * x).sum() / light.sum(), 120.3, atol=0.7)
    np.testing.assert_allclose((light * y).sum() / light.sum(), 131.6, atol=0.7)


def test_a_surface_blurred_evenly_is_as_by_places(photos):
    rng = np.random.default_rng(1)
    colour = rng.random((96, 96, 3), np.float32)
    surface = Surface(colour, np.ones((96, 96), np.float32), 0.0)
    aperture, sprites = Aperture(), []
    even = surface.blurred(4.6, aperture, sprites, False)
    by_place = surface.blurred(np.full((96, 96), 4.6, np.float32), aperture, sprites, False)
    np.testing.assert_allclose(even, by_place, atol=1e-5)
