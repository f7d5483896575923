import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from stackmff.errors import StackError
from stackmff.fusion.retouch import (
    Stroke,
    apply_strokes,
    cost_of,
    cover,
    load_strokes,
    pictures_of,
    save_strokes,
    stroke_of,
)
from stackmff.images.formats import write_picture
from stackmff.images.rectangles import Box
from tests.drawn import texture

NAMES = ["a.png", "b.png", "c.png"]


def stroke(frame, points, radius=6.0, softness=0.5):
    return Stroke(frame, radius, softness, np.array(points, np.float64))


@pytest.fixture
def frames():
    return np.stack([texture(40, 56, seed) for seed in range(3)])


def test_a_point_covers_a_disc_with_a_soft_edge():
    share = cover(stroke(0, [[20, 15]]), Box(0, 40, 0, 56))
    y, x = np.mgrid[:40, :56]
    away = np.hypot(x - 20, y - 15)
    assert (share[away <= 3] == 1).all()
    assert (share[away >= 6] == 0).all()
    assert share[15, 24] == pytest.approx(0.7407, abs=1e-3)  # two thirds of the fade, smoothed
    assert np.array_equal(share[15, 20:], np.sort(share[15, 20:])[::-1])


def test_a_stroke_covers_what_lies_along_it():
    share = cover(stroke(0, [[10, 20], [40, 20], [40, 30]]), Box(0, 40, 0, 56))
    assert (share[20, 10:41] == 1).all()
    assert (share[20:31, 40] == 1).all()
    assert share[30, 10] == 0


def test_the_cost_of_a_stroke_is_what_it_goes_through():
    assert cost_of(stroke(0, [[20, 15]]), (40, 56)) == 12 * 12
    assert cost_of(stroke(0, [[20, 15], [30, 15], [30, 15]]), (40, 56)) == 22 * 12 + 12 * 12
    assert cost_of(stroke(0, [[0, 0]], 1e4), (40, 56)) == 40 * 56  # no more than the picture
    assert cost_of(stroke(0, [[-90, 0]]), (40, 56)) == 0


def test_windows_of_a_stroke_are_parts_of_the_whole():
    one = stroke(1, [[3, 4], [30.5, 22.25], [50, 10]], 9.5, 0.7)
    whole = cover(one, Box(0, 40, 0, 56))
    assert np.array_equal(cover(one, Box(7, 29, 11, 43)), whole[7:29, 11:43])
    outside = whole.copy()
    outside[one.box((40, 56)).slices] = 0
    assert not outside.any()


def test_the_frame_is_shown_in_the_core_and_the_mixture_outside(frames):
    fused = texture(40, 56, 9)
    painted = fused.copy()
    one = stroke(2, [[20, 15], [30, 15]])
    apply_strokes(painted, frames, [one])
    share = cover(one, Box(0, 40, 0, 56))
    assert np.array_equal(painted[share == 1], frames[2][share == 1])
    assert np.array_equal(painted[share == 0], fused[share == 0])
    half = fused + (frames[2] - np.float32(fused)) * share[..., None]
    assert np.abs(painted - half).max() <= 0.51


def test_16_bits_take_frames_of_8(frames):
    fused = texture(40, 56, 9).astype(np.uint16) * 257
    apply_strokes(fused, frames, [stroke(1, [[20, 15]])])
    assert np.array_equal(fused[15, 20], frames[1][15, 20].astype(np.uint16) * 257)


def test_strokes_in_parts_are_strokes_in_one(frames):
    """So an undo may repaint one place alone."""
    strokes = [
        stroke(0, [[10, 10], [30, 30]]),
        stroke(2, [[30, 10], [10, 30]]),
        stroke(None, [[20, 20]]),
    ]
    fused = texture(40, 56, 9).astype(np.uint16) * 257
    whole, parts = fused.copy(), fused.copy()
    apply_strokes(whole, frames, strokes)
    for box in ((0, 17, 0, 56), (17, 40, 0, 21), (17, 40, 21, 56)):
        apply_strokes(parts, frames, strokes, Box(*box), fused)
    assert np.array_equal(parts, whole)
    assert np.array_equal(whole[20, 20], fused[20, 20])  # the mixture was brought back


def test_a_file_brings_strokes_back(tmp_path):
    strokes = [stroke(2, [[1.25, 2], [3, 4]]), stroke(None, [[5, 6]], 2.5, 0.0)]
    save_strokes(tmp_path / "s.json", strokes, NAMES, (40, 56))
    back = load_strokes(tmp_path / "s.json", NAMES, (40, 56))
    assert [one.frame for one in back] == [2, None]
    assert [one.radius for one in back] == [6, 2.5]
    assert np.array_equal(back[0].points, strokes[0].points)


def test_the_pressure_of_a_pen_makes_a_stroke_thinner_and_fainter():
    points = np.array([[10, 20], [40, 20]], np.float64)
    full = stroke(0, points, 8.0, 0.0)
    thin = replace(full, sizes=np.array([1, 0.25]))
    share = cover(thin, Box(0, 40, 0, 56))
    assert (share[12:28, 10] == cover(full, Box(0, 40, 0, 56))[12:28, 10]).all()
    assert (share[20, 10:41] == 1).all() and not share[23:, 40].any()
    assert (share[:, 25] == 1).sum() == 9  # radius 5: less than 1 px of fade at each end
    faint = cover(replace(full, opacities=np.array([1, 0.5])), Box(0, 40, 0, 56))
    assert faint[20, 10] == 1 and faint[20, 40] == pytest.approx(0.5)
    assert faint[20, 25] == pytest.approx(0.75)
    point = replace(stroke(0, [[20, 15]]), sizes=np.array([0.5]), opacities=np.array([0.5]))
    assert cover(point, Box(0, 40, 0, 56)).max() == pytest.approx(0.5)
    assert not cover(point, Box(0, 40, 0, 56))[:, 23:].any()


def test_a_stroke_takes_another_picture_from_beside_its_file(tmp_path, frames):
    slab = texture(40, 56, 7).astype(np.uint16) * 257 + 3
    one = replace(stroke(None, [[20, 15]]), picture="slab_1-2", sizes=np.array([0.5]))
    fused = texture(40, 56, 9).astype(np.uint16) * 257
    path = tmp_path / "s.json"
    save_strokes(path, [one, replace(one, opacities=np.array([0.25]))], NAMES, (40, 56))
    back = load_strokes(path, NAMES, (40, 56))
    assert [record.picture for record in back] == ["slab_1-2"] * 2
    assert back[0].sizes == [0.5] and back[1].opacities == [0.25]
    with pytest.raises(StackError, match=r"slab_1-2\.tif, which is not beside it"):
        pictures_of(path, back, fused.shape)
    write_picture(tmp_path / "slab_1-2.tif", slab)
    pictures = pictures_of(path, back, fused.shape)
    apply_strokes(fused, frames, back, pictures=pictures)
    assert np.array_equal(fused[15, 20], slab[15, 20])
    flat = fused[..., 0] // 257
    apply_strokes(
        flat.astype(np.uint8)[..., None],
        frames[..., :1],
        back[:1],
        None,
        None,
        {"slab_1-2": slab[..., :1]},
    )
    with pytest.raises(StackError, match="not of the shape of the fused picture"):
        pictures_of(path, back, (40, 57, 3))


def test_strokes_and_their_pictures_are_read_from_an_archive(tmp_path):
    slab = texture(40, 56, 7)
    one = replace(stroke(None, [[20, 15]]), picture="slab_1-2")
    save_strokes(tmp_path / "s.json", [one], NAMES, (40, 56))
    write_picture(tmp_path / "slab_1-2.tif", slab)
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "s.json", "s.json")
    back = load_strokes(path, NAMES, (40, 56))
    with pytest.raises(StackError, match=r"slab_1-2\.tif, which is not in it: export"):
        pictures_of(path, back, slab.shape)
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(tmp_path / "slab_1-2.tif", "slab_1-2.tif")
    assert (pictures_of(path, back, slab.shape)["slab_1-2"] == slab).all()
    with pytest.raises(StackError, match="not of the shape of the fused picture"):
        pictures_of(path, back, (40, 57, 3))
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(tmp_path / "s.json", "another.json")
    for content in (path.read_bytes(), path.read_bytes()[:99], b"PK"):
        path.write_bytes(content)
        with pytest.raises(StackError, match=r"s\.zip is not an archive of brush strokes"):
            load_strokes(path, NAMES, (40, 56))
    with pytest.raises(StackError, match=r"no\.zip cannot be read"):
        load_strokes(tmp_path / "no.zip", NAMES, (40, 56))


def test_strokes_of_other_pictures_are_refused(tmp_path):
    path = tmp_path / "s.json"
    save_strokes(path, [stroke(2, [[1, 2]])], NAMES, (40, 56))
    with pytest.raises(StackError, match="for a picture of 56x40, this one is 50x40"):
        load_strokes(path, NAMES, (40, 50))
    with pytest.raises(StackError, match=r"stroke 1 .* c\.png is not in the stack"):
        load_strokes(path, NAMES[:2], (40, 56))
    path.write_text("[1, 2]")
    with pytest.raises(StackError, match="not a file of brush strokes"):
        load_strokes(path, NAMES, (40, 56))


GOOD = {"frame": "a.png", "radius": 5, "softness": 0.5, "points": [[1, 2]]}


@pytest.mark.parametrize(
    "change",
    [
        {"points": []},
        {"points": [[1, 2, 3]]},
        {"points": [[1, float("nan")]]},
        {"points": [[1, 1e9]]},
        {"points": "12"},
        {"radius": 0},
        {"radius": float("inf")},
        {"radius": 10**400},
        {"points": [[10**400, 1]]},
        {"softness": 1.1},
        {"frame": "../a.png"},
        {"picture": "../a"},
        {"picture": 5},
        {"sizes": [0]},
        {"sizes": [0.5, 0.5]},
        {"sizes": None},
        {"opacities": [float("nan")]},
        {"opacities": [10**400]},
    ],
)
def test_what_is_no_stroke_is_refused(change):
    stroke_of(GOOD, NAMES)
    with pytest.raises((ValueError, TypeError, KeyError)):
        stroke_of(json.loads(json.dumps(GOOD | change)), NAMES)
