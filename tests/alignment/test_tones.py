"""alignment/tones.py: a frame with another tone curve gets that of its neighbours."""

from dataclasses import replace

import numpy as np
import pytest
from moving import defocused, motion, scene, view

from stackmff.alignment.measure import Measuring, apply, measure
from stackmff.alignment.record import load_alignment, save_alignment
from stackmff.alignment.tones import KNOTS, bend
from stackmff.errors import StackError

SIZE, COUNT = (240, 160), 5
MOTIONS = [motion((1.5 * (k % 2), 0.8 * (k % 3))) for k in range(COUNT)]
CURVES = {
    "gamma 0.8": lambda values: values**0.8,
    "gamma 1.25": lambda values: values**1.25,
    "contrast": lambda values: values - 0.08 * np.sin(2 * np.pi * values),
}


@pytest.fixture(scope="module")
def clean():
    picture = (120 + 2 * (scene(4, SIZE[1], SIZE[0]) - 120)).clip(8, 240)
    return np.stack([view(defocused(picture, k / 4), MOTIONS[k], SIZE) for k in range(COUNT)])


def curved(frames, index, name):
    out = frames.copy()
    out[index] = np.rint(255 * CURVES[name](frames[index] / 255))
    return out


def error(frames, others):
    return np.sqrt(np.mean((frames[8:-8, 8:-8].astype(float) - others[8:-8, 8:-8]) ** 2))


def test_frames_of_one_curve_get_none(clean):
    for frames in (clean, np.uint16(clean) * 257, clean[..., :1]):
        alignment = measure(frames)
        assert not alignment.curves and not any("tone curve" in note for note in alignment.notes)


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_another_curve_is_undone(clean, name, dtype):
    frames = curved(clean, 2, name)
    white = np.iinfo(dtype).max
    frames = frames.astype(dtype) * dtype(white // 255)
    alignment = measure(frames, reference=1)
    assert list(alignment.curves) == [2]
    assert [note for note in alignment.notes if "tone" in note] == [
        "2 has another tone curve than the neighbours, whose tones were given to it"
    ]
    true = clean.copy()
    apply(true, replace(alignment, gains=np.ones_like(alignment.gains), curves={}))
    apply(frames, alignment)
    assert error(frames[2] * (255 / white), true[2]) < 255 / 10 ** (33 / 20)  # 33 dB
    assert (alignment.gains[[0, 1, 3, 4]] == 1).all()


def test_a_gain_is_no_curve(clean):
    frames = clean.copy()
    frames[2] = np.rint(0.8 * frames[2])
    alignment = measure(frames)
    assert not alignment.curves
    assert alignment.gains[2] == pytest.approx(1.25, rel=0.03)


def test_no_curve_is_given_where_exposure_is_not_matched(clean):
    found = measure(curved(clean, 2, "contrast"), wanted=Measuring(match_exposure=False))
    assert not found.curves and not any("tone" in note for note in found.notes)


def test_a_curve_is_in_the_file_of_the_alignment(tmp_path, clean):
    alignment = measure(curved(clean, 2, "contrast"))
    names, path = [f"{k}.png" for k in range(COUNT)], tmp_path / "a.json"
    save_alignment(path, alignment, names)
    loaded = load_alignment(path, names, SIZE[::-1], 3)
    np.testing.assert_array_equal(loaded.curves[2], alignment.curves[2])
    assert list(loaded.reordered([2, 0, 1, 3, 4]).curves) == [0]
    path.write_text(path.read_text().replace('"curve": [', '"curve": [[2, 2, 2],', 1))
    with pytest.raises(StackError, match="is not an alignment"):
        load_alignment(path, names, SIZE[::-1], 3)


def test_alpha_is_not_bent():
    frame = np.full((4, 5, 4), 100, np.uint8)
    bend(frame, np.linspace(0, 0.5, KNOTS)[:, None].repeat(3, 1))
    assert (frame[..., :3] == 50).all() and (frame[..., 3] == 100).all()
