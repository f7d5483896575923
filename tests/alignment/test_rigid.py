"""alignment/rigid.py: what moves does not bend what is straight beside it."""

import cv2
import numpy as np
import pytest

from stackmff.alignment import placement
from stackmff.alignment.geometry import places_of
from stackmff.alignment.measure import measure
from stackmff.alignment.rigid import rigid
from stackmff.images.rectangles import Box

HEIGHT, WIDTH, ROOM = 120, 160, 20  # px; of a frame, and what its scene is larger on each side
ROWS, COLUMNS = 14, 19


def texture(seed, height, width):
    rng = np.random.default_rng(seed)
    layers = [
        2**k * cv2.GaussianBlur(rng.normal(size=(height, width)).astype(np.float32), (0, 0), 2**k)
        for k in range(3)
    ]
    total = sum(layers)
    return 20 + 200 * (total - total.min()) / np.ptp(total)


def walk_past():
    """Five frames of a camera that goes upward past a wall with a column, and of one who walks."""
    picture = texture(0, HEIGHT + 2 * ROOM, WIDTH + 2 * ROOM)
    picture[:, ROOM + 96 : ROOM + 104] = 30  # on the near half, upright: it stays at its x
    walker = texture(9, 56, 26)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    near = np.tanh((x - WIDTH / 2) / 20)
    frames = []
    for k in range(-2, 3):
        places = np.float32(x + ROOM), np.float32(y + ROOM - (1.5 * near + 0.6) * k)
        seen = cv2.remap(picture, *places, cv2.INTER_LANCZOS4)
        seen[30:86, 110 + 3 * k : 136 + 3 * k] = walker
        frames.append(np.uint8(np.rint(np.clip(seen, 0, 255))))
    return np.stack(frames)[..., None]


def bend(alignment):
    """px, the most by which the column is bent in any frame."""
    found = [places_of(alignment, k, Box(0, HEIGHT, 0, WIDTH))[10:-10, 100, 0] for k in range(5)]
    lines = [
        np.polyval(np.polyfit(np.arange(len(one)), one, 1), np.arange(len(one))) for one in found
    ]
    return max(np.abs(one - line).max() for one, line in zip(found, lines))


def test_a_column_beside_one_who_walks_stays_straight(monkeypatch):
    frames = walk_past()
    alignment = measure(frames)
    assert alignment.fields
    (note,) = alignment.notes
    assert note.startswith("something moves in ") and "the parallax around it" in note
    monkeypatch.setattr(placement, "rigid", lambda fields, factor: fields)
    without = measure(frames)
    assert without.notes == []
    assert bend(alignment) < 0.6 * bend(without)


def fields(odd=0.0, seed=0):
    """Of a camera that goes sideways and forwards; `odd` px in another direction at one place."""
    y, x = np.mgrid[:ROWS, :COLUMNS] / 10 - 0.7
    near = np.tanh(3 * x) + 0.3 * y
    rng, out = np.random.default_rng(seed), {}
    for k in (0, 1, 3, 4):
        along = np.dstack([2 + 0.4 * x, 1 + 0.4 * y]) * near[..., None] * (k - 2)
        whole = np.dstack([0.3 + 0.2 * y, -0.2 * x]) * (k - 2)
        found = along + whole + rng.normal(0, 0.03, along.shape)
        found[5:9, 12:15] += odd * (k - 2) * np.array([-1, 2])
        out[k] = np.float32(found)
    return out


def test_displacements_of_a_camera_stay_as_they_are():
    before = fields()
    for k, field in rigid(before, 1).items():
        np.testing.assert_array_equal(field, before[k])


@pytest.mark.parametrize("odd", [1.0, 3.0])
def test_what_moves_gets_the_displacements_of_its_surroundings(odd):
    before, true = fields(odd), fields()
    after = rigid(before, 1)
    changed = np.abs(after[0] - before[0]).max(-1) > 0.05
    assert changed[5:9, 12:15].all() and not changed[:, :8].any()
    for k, field in after.items():  # what was added is gone, but for the slope of the surroundings
        assert np.abs(field - true[k]).max() < 0.5 * np.abs(before[k] - true[k]).max()


def test_displacements_without_a_camera_that_explains_them_stay():
    rng = np.random.default_rng(3)
    before = {k: np.float32(rng.normal(0, 2, (ROWS, COLUMNS, 2))) for k in range(4)}
    assert rigid(before, 1) is before
    alone = {0: fields(3.0)[0]}
    assert rigid(alone, 1) is alone
