"""alignment/stuck_lines.py: dead and stuck lines of the sensor are filled where the scene moves."""

from dataclasses import replace

import numpy as np
import pytest
from moving import defocused, scene, view

from stackmff.alignment.measure import Measuring, apply, measure
from stackmff.alignment.record import load_alignment, save_alignment
from stackmff.alignment.sensor import Dirt
from stackmff.alignment.stuck_lines import Line, crossed, shrunk, stuck_lines
from stackmff.images.levels import levels_of

COUNT, SIZE = 6, (160, 120)  # frames; width and height


def shifted(step):
    """(6, 120, 160, 3) uint8 frames that move by `step` px (x, y) each, and what each shows."""
    picture = scene(4, SIZE[1], SIZE[0])
    out = []
    for k in range(COUNT):
        matrix = np.eye(2, 3)
        matrix[:, 2] = np.multiply(step, k - COUNT // 2)
        out.append(view(defocused(picture, k / COUNT), matrix, SIZE))
    return np.stack(out)


def with_lines(frames):
    """Two dead columns, one of them half as long, and a row that is too bright."""
    frames = frames.copy()
    frames[:, :, 50] = 0
    frames[:, 60:, 111] = 255
    frames[:, 77] = np.minimum(frames[:, 77].astype(int) + 120, 255)
    return frames


@pytest.fixture(scope="module")
def lined():
    """Such frames, and their alignment."""
    frames = with_lines(shifted((3, 2)))
    return frames, measure(frames)


def test_lines_are_found_where_they_are():
    found = stuck_lines(with_lines(shifted((3, 2))))
    assert {(line.upright, line.place) for line in found} == {(True, 50), (True, 111), (False, 77)}
    for line in found:
        if line.place == 111:
            assert abs(line.first - 60) <= 16 and line.end == 120
        else:
            assert (line.first, line.end) == (0, 120 if line.upright else 160)
    assert stuck_lines(shifted((3, 2))) == []


def test_lines_are_filled_with_what_other_frames_show(lined):
    frames, alignment = lined[0].copy(), lined[1]
    assert alignment.dirt.lines == 3
    assert any("3 dead or stuck lines on the sensor were filled" in n for n in alignment.notes)
    apply(frames, alignment)
    expected = shifted((3, 2))
    apply(expected, replace(alignment, dirt=Dirt()))
    inside = np.s_[:, 10:-10, 15:-15]
    error = np.abs(frames[inside].astype(int) - expected[inside]).max(-1)
    assert error.mean() < 1 and (error > 40).mean() < 2e-3


def test_lines_of_the_scene_stay():
    """A wire that is sharp in all frames is no line of the sensor if the frames do not cross it."""
    assert measure(with_lines(shifted((0, 0)))).dirt.lines == 0
    assert measure(with_lines(shifted((3, 2))), wanted=Measuring(fill_dirt=False)).dirt.lines == 0


def test_a_scene_that_moves_along_a_line_does_not_cross_it():
    lines = [Line(True, 50, 0, 120), Line(False, 77, 0, 160)]
    sideways = {k: np.array([[1.0, 0, 3 * k], [0, 1, 0], [0, 0, 1]]) for k in range(3)}
    assert (
        crossed(
            lines,
            sideways,
        )
        == lines[:1]
    )
    assert crossed(lines, {}) == []


@pytest.mark.parametrize("factor", [1, 4])
def test_lines_in_small_pictures(factor):
    mask = shrunk([Line(True, 50, 0, 120)], (120 // factor, 160 // factor), factor)
    rows = Line(True, 50, 0, 120).runs((120, 160))
    assert mask.all(0).sum() == len(range(49 // factor, 51 // factor + 1))
    assert rows.tolist() == [[row, 49, 52] for row in range(120)]


def test_lines_are_kept_in_the_file(lined, tmp_path):
    names, alignment = [f"{k}.png" for k in range(COUNT)], lined[1]
    save_alignment(tmp_path / "a.json", alignment, names)
    again = load_alignment(tmp_path / "a.json", names, alignment.size, 3)
    assert again.dirt.lines == 3 and again.dirt.told() == alignment.dirt.told()


def test_a_dim_stack_has_lines_too():
    frames = with_lines(shifted((3, 2)))[..., :1] * np.uint16(4)
    assert len(stuck_lines(frames, levels_of(frames))) == 3
    assert stuck_lines(frames) == []
