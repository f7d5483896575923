"""Scenes by accumulation over the aperture: as `wide_blur` has them alone, cut where edges cut."""

import numpy as np
import pytest

from stackmff.synthesis import camera_scale
from stackmff.synthesis.accumulated import accumulated, add_spots, can_accumulate
from stackmff.synthesis.refocus import Aperture
from stackmff.synthesis.wide_blur import Surface, blur

SIDE = 96
DISC = Aperture()


def ground(level=0.05, lights=None):
    colour = np.full((SIDE, SIDE, 3), level, np.float32)
    cover = np.ones((SIDE, SIDE), np.float32)
    return Surface(colour, cover, 0.0) if lights is None else Surface(colour, cover, 0.0, lights)


def right_half(disparity=1.0):
    cover = np.zeros((SIDE, SIDE), np.float32)
    cover[:, SIDE // 2 :] = 1
    return Surface(np.full((SIDE, SIDE, 3), 0.3, np.float32), cover, disparity)


def test_one_surface_is_blurred_as_by_its_point_spread():
    rng = np.random.default_rng(3)
    texture = blur(rng.random((SIDE, SIDE, 3), np.float32), 3.0, DISC)
    surface = Surface(texture, np.ones((SIDE, SIDE), np.float32), 0.0)
    frame = accumulated([surface], [0.5], 16.0, DISC)[0]
    inside = slice(16, -16), slice(16, -16)
    np.testing.assert_allclose(
        frame[inside], blur(texture, 8.0, DISC)[inside], atol=0.015
    )  # 10 % more or less blur: 0.026


def test_what_is_in_focus_is_left():
    surfaces = [ground(), right_half()]
    sharp = accumulated(surfaces, [0.0, 1.0], 12.0, DISC)
    np.testing.assert_allclose(sharp[1][:, SIDE // 2 + 2 :], 0.3, atol=1e-4)
    np.testing.assert_allclose(sharp[0][:, : SIDE // 2 - 8], 0.05, atol=1e-4)


def test_an_edge_in_focus_cuts_the_disc_of_a_light_behind_it():
    light = np.array([[SIDE // 2 - 4, SIDE // 2, 50, 50, 50, 3]], np.float32)
    surfaces = [ground(0.0, light), right_half()]
    frame = accumulated(surfaces, [1.0], 24.0, DISC)[0][..., 0]
    row = frame[SIDE // 2]
    assert row[SIDE // 2 - 3] == pytest.approx(row[SIDE // 2 - 8], rel=0.1)  # even up to the edge
    np.testing.assert_allclose(row[SIDE // 2 + 2 :], 0.3, atol=1e-3)  # and none of it before it


def test_lights_keep_their_light():
    lights = np.array([[40, 50, 8, 4, 2, 4]], np.float32)
    surface = ground(0.0, lights)
    drawn = np.zeros((SIDE, SIDE, 3), np.float32)
    add_spots(drawn, surface)
    wanted = np.pi / 4 * 4**2 * np.array([8, 4, 2])  # of an even disc 4 px across
    np.testing.assert_allclose(drawn.sum((0, 1)), wanted, rtol=0.01)
    blurred = accumulated([surface], [0.5], 20.0, DISC)[0]
    np.testing.assert_allclose(blurred.sum((0, 1)), wanted, rtol=0.02)


def test_what_cannot_be_accumulated_is_told():
    steep = Surface(
        np.zeros((SIDE, SIDE, 3), np.float32),
        np.ones((SIDE, SIDE), np.float32),
        np.tile(np.linspace(0, 1, SIDE, dtype=np.float32), (SIDE, 1)),
    )
    assert can_accumulate([ground()], 5, 20.0, DISC)
    assert not can_accumulate([ground()], 5, 20.0, Aperture(softness=0.5))
    assert not can_accumulate([ground()], 5, 20.0, Aperture(cut=0.2))
    assert not can_accumulate([ground()], 5000, 20.0, DISC)
    assert can_accumulate([steep], 5, SIDE, DISC)
    assert not can_accumulate([steep], 5, 2 * SIDE, DISC)


def test_a_scene_says_whether_it_has_highlights(monkeypatch):
    photos = [np.full((80, 80, 3), 90, np.uint8)]
    monkeypatch.setattr(camera_scale, "ACCUMULATED", 1.0)
    told = set()
    for seed in range(10, 16):
        frames, answer, settings = camera_scale.large_scene(
            np.random.default_rng(seed), photos, (96, 128), most_frames=4
        )
        assert frames.shape[1:] == answer.shape
        told.add((settings["accumulated"], settings["highlights"]))
    assert {accumulates for accumulates, _ in told} == {True, False}
    assert {highlights for _, highlights in told} == {True, False}
