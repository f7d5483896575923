"""evaluation/timed_stacks.py: synthesised stacks are sharp in turn, real ones are resized."""

import cv2
import numpy as np
import pytest
from drawn import texture

from stackmff.evaluation import timed_stacks
from stackmff.evaluation.timed_stacks import Size
from stackmff.fusion.blending import distinct_frames
from stackmff.images.formats import read_picture, write_picture
from stackmff.images.stack import read_stack


def test_synthesised_stacks_have_a_plane_that_recedes(tmp_path):
    paths = timed_stacks.write_stack(tmp_path, Size(4, 96, 64))
    stack = read_stack(paths).frames
    assert stack.shape == (4, 64, 96, 3) and len(distinct_frames(stack)) == 4
    detail = np.array([np.abs(cv2.Laplacian(f, cv2.CV_32F)).mean((0, 2)) for f in stack])  # (N, W)
    assert [detail[:, x : x + 4].mean(1).argmax() for x in (2, 31, 62, 90)] == [0, 1, 2, 3]
    again = timed_stacks.write_stack(tmp_path / "again", Size(4, 96, 64))
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]


def test_real_frames_are_resized(tmp_path):
    for k in range(5):
        write_picture(tmp_path / f"{k}.png", texture(60, 80, k) // 4 + 50 * k // 2)
    means = [read_picture(tmp_path / f"{k}.png").mean() for k in range(5)]
    few = list(timed_stacks.resized(tmp_path, Size(3, 40, 30)))
    assert few[0].shape == (30, 40, 3)
    assert [frame.mean() for frame in few] == pytest.approx(means[::2], abs=0.5)
    many = np.array(list(timed_stacks.resized(tmp_path, Size(12, 90, 70))))
    assert many.shape == (12, 70, 90, 3) and len(distinct_frames(many)) == 12
    assert [frame.mean() for frame in many[:6]] == pytest.approx([*means, means[0]], abs=0.5)
    np.testing.assert_array_equal(many[5], np.roll(many[0], timed_stacks.SHIFT, axis=1))
