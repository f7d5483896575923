"""The scenes of stackmff-bench, small: drawn the same each time, in focus where they should be."""

from dataclasses import replace

import numpy as np
import pytest

from stackmff.synthesis.aperture import Plane
from stackmff.synthesis.bench_scenes import (
    draw_disparity,
    draw_spots,
    focal_planes,
    photo_colour,
    render_setup,
)
from stackmff.synthesis.bench_setups import LARGE, SETS, SMALL, Part, draw_setup

PHOTOS = [np.random.default_rng(9).integers(0, 256, (60, 90, 3), np.uint8)]
EVERY = [setup for setups in SETS.values() for setup in setups]


def test_the_sets_have_the_blur_and_the_frames_that_the_documentation_says():
    assert {setup.size for setup in LARGE} == {(1024, 1536)}
    assert all(setup.size in ((384, 512), (480, 640)) for setup in SMALL)
    assert min(setup.max_coc for setup in SMALL) == 3.5
    assert max(setup.max_coc for setup in SMALL) == 16
    assert {5, 11} <= {setup.n_frames for setup in SMALL} <= set(range(5, 12))
    assert min(setup.max_coc for setup in LARGE) == 100
    assert max(setup.max_coc for setup in LARGE) == 260
    for setups in SETS.values():
        names = [setup.name for setup in setups]
        assert names == sorted(set(names))


@pytest.mark.parametrize("setup", EVERY, ids=lambda setup: setup.name)
def test_setups_are_ordered_from_back_to_front_and_fit_their_frames(setup):
    assert setup.parts[0].shape is None
    lows = [part.low for part in setup.parts]
    assert lows == sorted(lows)
    assert all(0 <= part.low <= part.high <= 1 for part in setup.parts)
    focus = focal_planes(setup)
    assert len(focus) == setup.n_frames
    assert np.all(np.diff(focus) <= 0)
    for part in setup.parts:  # each surface is in focus in some frame, within 5 px of blur
        if part.focused:
            places = np.linspace(part.low, part.high, 20)
            least = np.abs(places[:, None] - focus).min(1)
            assert setup.max_coc * least.max() <= 5


FEW_LIGHTS = replace(
    LARGE[2], parts=tuple(replace(p, lights=p.lights // 20) for p in LARGE[2].parts)
)


@pytest.mark.parametrize("setup", [SMALL[3], SMALL[0], FEW_LIGHTS], ids=lambda setup: setup.name)
def test_a_scene_is_the_same_each_time(setup):
    small = setup.scaled(0.12)
    first, second = (render_setup(np.random.default_rng(5), small, PHOTOS) for _ in range(2))
    for mine, its in zip(first[:3], second[:3]):
        np.testing.assert_array_equal(mine, its)
    assert first.frames.shape == (small.n_frames, *small.size, 3)
    assert first.answer.shape == (*small.size, 3) and first.answer.dtype == np.uint8
    assert first.disparity.shape == small.size
    assert first.disparity.min() >= 0 and first.disparity.max() <= 1
    assert len(first.settings["focus_disparity"]) == small.n_frames


def test_random_scenes_are_rendered():
    for seed in range(2):
        rng = np.random.default_rng(seed)
        setup = draw_setup(rng, (32, 40))
        scene = render_setup(rng, setup, PHOTOS)
        assert scene.frames.shape == (setup.n_frames, 32, 40, 3)
        assert setup.parts[-1].high == 1 and 3 <= setup.max_coc <= 18


@pytest.mark.parametrize("relief", ["flat", "slant", "bumps"])
def test_disparity_stays_in_its_range_and_below_the_steepness_that_folds(relief):
    part = Part(None, 0.2, 0.9, relief)
    for seed in range(4):
        found = draw_disparity(np.random.default_rng(seed), part, 16.0, (50, 70))
        values = found.over(50, 70) if isinstance(found, Plane) else found
        assert values.min() >= 0.2 - 1e-5 and values.max() <= 0.9 + 1e-5
        assert np.hypot(*np.gradient(values)).max() * 16 / 2 < 1


def test_spots_lie_on_what_covers_and_photographs_are_mirrored_where_they_end():
    cover = np.zeros((30, 40), np.float32)
    cover[10:20, 5:15] = 1
    spots = draw_spots(np.random.default_rng(1), cover, 7)
    assert 0 < len(spots) <= 7
    assert all(cover[round(y), round(x)] == 1 for x, y in spots[:, :2])
    colour = photo_colour(np.random.default_rng(2), PHOTOS, 200, 300)
    assert colour.shape == (200, 300, 3) and 0 <= colour.min() <= colour.max() <= 1
