"""alignment/edges.py: frames whose brightness inverts are placed by the strength of their edges."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from moving import ROOM, defocused, errors, motion, scene, view

from stackmff.alignment import placement
from stackmff.alignment.edges import seconded
from stackmff.alignment.measure import measure
from stackmff.alignment.registration import Pair
from stackmff.images.colour import to_srgb
from stackmff.synthesis.transmitted import Bodies, transmitted_light

COUNT, HEIGHT, WIDTH = 7, 160, 160
MOTIONS = [motion((1.0 * k, -0.6 * k)) for k in range(-3, 4)]  # of frames of one size: shifts alone


def cells(seed=0):
    """Seven frames of cells that delay light, through their focus, where contrast inverts."""
    rng, side = np.random.default_rng(seed), HEIGHT + 2 * ROOM
    y, x = np.mgrid[:side, :side].astype(np.float32)
    thickness = np.zeros((side, side), np.float32)
    for _ in range(40):
        across, down, radius = *rng.uniform(0, side, 2), rng.uniform(8, 14)
        dome = 1 - ((x - across) ** 2 + (y - down) ** 2) / radius**2
        thickness = np.maximum(thickness, np.sqrt(np.maximum(dome, 0)))
    thickness = cv2.GaussianBlur(thickness, (0, 0), 0.7)
    bodies = [Bodies(0.1 * thickness * np.ones((3, 1, 1), np.float32), thickness, 0.0)]
    ground = np.full((3, side, side), 0.6, np.float32)
    frames = []
    for matrix, depth in zip(MOTIONS, np.linspace(1, -1, COUNT)):
        light = transmitted_light(ground, bodies, float(depth), 8.0, 0.3).transpose(1, 2, 0)
        light = light + rng.normal(0, 0.003, light.shape)
        picture = np.float32(255 * to_srgb(np.clip(light, 0, 1)))
        frames.append(view(picture, matrix, (WIDTH, HEIGHT)))
    return np.stack(frames)


@pytest.fixture(scope="module")
def frames():
    return cells()


def test_cells_whose_contrast_inverts_are_placed(frames):
    alignment = measure(frames)
    assert alignment.left_out == {}
    assert max(errors(alignment, MOTIONS)) < 0.3  # px, against steps of 1.2 px
    (note,) = alignment.notes
    assert "2 and 3" in note and "were aligned by the strength of their edges" in note


@pytest.mark.slow
def test_brightness_alone_does_not_place_them(frames, monkeypatch):
    monkeypatch.setattr(placement, "seconded", lambda *arguments: arguments[-1])
    alignment = measure(frames)
    assert alignment.left_out or max(errors(alignment, MOTIONS)) > 1


def test_frames_that_are_alike_need_no_second_opinion(monkeypatch):
    monkeypatch.setattr("stackmff.alignment.edges.strength", None)  # is not called
    picture = scene(0)
    measure(np.stack([view(defocused(picture, k / 4), MOTIONS[k + 1]) for k in range(5)]))


def test_edges_of_another_scene_place_nothing():
    lost = Pair(np.eye(3), np.eye(4), 0.0, 1, 1)
    lumas = [np.uint16(view(scene(seed)).mean(-1) * 257) for seed in range(6)]
    for first, second in pairwise(lumas):
        found = seconded(first, second, 1, first.shape, "similarity", lost)
        assert found is lost


def test_a_place_that_edges_contest_a_little_is_told(frames, monkeypatch):
    monkeypatch.setattr("stackmff.alignment.edges.LEFT", 0.0)  # nothing is much better
    monkeypatch.setattr("stackmff.alignment.registration.LEAST_LIKENESS", -1.0)
    (note,) = measure(frames).notes
    assert "is uncertain" in note and "their edges differ by up to" in note
