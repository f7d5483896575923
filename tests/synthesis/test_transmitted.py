"""synthesis/transmitted.py: bodies in transmitted light, in and out of focus."""

import numpy as np
import pytest
from drawn import texture

from stackmff.synthesis.scenes import SceneSpec, numbered_frames, numbered_scene
from stackmff.synthesis.transmitted import Bodies, draw_thickness, transmitted_light

SIDE = 96
GROUND = np.full((3, SIDE, SIDE), 0.8, np.float32)


def bodies(absorbed=0.0, phase=0.0, depth=0.0):
    """One depth of bodies that absorb and delay in proportion to their thickness."""
    thickness = draw_thickness(np.random.default_rng(3), SIDE)
    return Bodies(absorbed * np.stack([thickness] * 3), phase * thickness, depth)


def seen(depth, *layers):
    return transmitted_light(GROUND, list(layers), depth, ring=6.0, blur=0.3)


def test_in_focus_a_body_shows_what_it_absorbs_alone():
    body = bodies(absorbed=0.5, phase=1.0, depth=0.25)
    wanted = GROUND * (1 - body.absorbed)
    np.testing.assert_allclose(seen(0.25, body), wanted, atol=1e-5)
    np.testing.assert_allclose(seen(None, body), wanted, atol=1e-5)


def test_phase_makes_rings_that_take_no_light_and_turn_round_with_the_side_of_the_focus():
    body = bodies(phase=0.3)
    before, behind = (seen(depth, body) - GROUND for depth in (-0.5, 0.5))
    assert np.abs(before).max() > 0.05
    np.testing.assert_allclose(before, -behind, atol=1e-5)
    assert abs(before.mean()) < 1e-5


def test_out_of_focus_what_is_absorbed_is_spread_and_not_lost():
    body = bodies(absorbed=0.4)
    sharp, soft = seen(0.0, body), seen(1.0, body)
    assert soft.std() < sharp.std()
    assert soft.mean() == pytest.approx(sharp.mean(), abs=1e-5)


def test_bodies_add_up():
    first, second = bodies(absorbed=0.2), bodies(phase=0.2, depth=0.5)
    both = seen(0.3, first, second) - GROUND
    apart = seen(0.3, first) + seen(0.3, second) - 2 * GROUND
    np.testing.assert_allclose(both, apart, atol=1e-5)


def test_a_scene_is_the_same_again_and_each_body_is_in_focus_in_a_frame():
    photos = [texture(160, 160, k) for k in range(2)]
    spec = SceneSpec(64, kind="transmitted")
    frames, answer, disparity, settings = numbered_scene(photos, 5, 4, spec)
    again = numbered_scene(photos, 5, 4, spec)
    np.testing.assert_array_equal(frames, again[0])
    assert frames.shape == (numbered_frames(5, 4, spec), 64, 64, 3)
    assert answer.shape == (64, 64, 3) and disparity.shape == (64, 64)
    depths = np.linspace(1, -1, len(frames))
    for depth in settings["depths"]:
        assert np.abs(depths - depth).min() < 1e-9
