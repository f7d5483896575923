"""tools/compare_precisions.py: what it measures, on pictures and on a tiny data set."""

import cv2
import numpy as np
import pytest
from calling import call

from stackmff.errors import StackError
from tests.drawn import draw_stack, texture
from tools import compare_precisions
from tools.compare_precisions import Difference, difference, is_within


def test_differences_are_in_levels_of_255_whatever_the_dtype():
    exact = np.full((4, 5, 3), 100, np.uint8)
    coarse = exact.copy()
    coarse[0, 0, 0] += 3
    coarse[1, 1, 1] -= 1
    found = difference(coarse, exact, exact)
    assert found.mean == pytest.approx(4 / 60) and found.off == pytest.approx(1 / 60)
    assert found.scores[0] < found.scores[1]
    deep = difference(coarse.astype(np.uint16) * 257, exact.astype(np.uint16) * 257)
    assert deep.mean == pytest.approx(4 / 60) and deep.off == pytest.approx(1 / 60)
    assert deep.scores is None


def test_each_bound_counts():
    good = Difference(0.01, 0.001, (40.0, 40.01))
    assert is_within([good])
    assert not is_within([good, Difference(0.6, 0.001, None)])
    assert not is_within([good, Difference(0.01, 0.02, None)])
    assert not is_within([good, Difference(0.01, 0.001, (40.0, 40.1))])


def test_a_set_is_compared_and_scored(tmp_path, capsys):
    folder = tmp_path / "set"
    for name in ("a", "b"):
        (folder / "stacks" / name).mkdir(parents=True)
        for k, frame in enumerate(draw_stack(texture(48, 64, 0), 3)):
            cv2.imwrite(str(folder / "stacks" / name / f"{k}.png"), frame)
    (folder / "AiF").mkdir()
    cv2.imwrite(str(folder / "AiF" / "a.png"), draw_stack(texture(48, 64, 0), 3)[0])
    table = tmp_path / "t.md"
    assert call(compare_precisions.main, "--data", folder, "--markdown", table) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["set", "n"] and row.split()[:2] == ["set", "2"]
    assert float(row.split()[2]) < 0.25 and row.split()[-1] != "-"
    assert table.read_text().startswith("| set | n |")
    cv2.imwrite(str(folder / "AiF" / "b.png"), np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(StackError, match="give answers as the frames are"):
        compare_precisions.main(["--data", str(folder)])
