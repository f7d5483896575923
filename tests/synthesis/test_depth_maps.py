"""synthesis/depth_maps.py: a network's maps in 16 bits, and what their side file says."""

import json

import numpy as np
import pytest
from drawn import texture

from stackmff.errors import StackError
from stackmff.images.formats import write_picture
from stackmff.synthesis.depth_maps import (
    describe_maps,
    encode_map,
    fill_from_farther,
    read_depth,
    side_file,
    to_disparity,
    to_region_map,
)

RAMP = np.tile(np.linspace(0.5, 4, 60), (12, 1))


def test_metric_distance_keeps_its_metres():
    levels = encode_map(RAMP, "metric", 0.001, "a.jpg")
    assert levels.dtype == np.uint16
    np.testing.assert_allclose(levels * 0.001, RAMP, atol=0.00051)
    far_and_behind = encode_map(np.array([[-1.0, 0.0, 500.0]]), "metric", 0.001, "a.jpg")
    assert far_and_behind.tolist() == [[1, 1, 65535]]  # 0 would be unknown


def test_relative_distance_keeps_its_ratios():
    levels = encode_map(RAMP, "relative", 0.001, "a.jpg")
    assert levels.max() == 65535
    np.testing.assert_allclose(levels / 65535, RAMP / 4, atol=1e-5)


def test_disparity_fills_the_range():
    levels = encode_map(-RAMP, "disparity", 0.001, "a.jpg")
    assert levels[0, 0] == 65535 and levels[0, -1] == 0


@pytest.mark.parametrize("meaning", ["metric", "relative", "disparity"])
def test_near_and_far_survive_the_file(meaning, tmp_path):
    values = 1 / RAMP if meaning == "disparity" else RAMP
    (tmp_path / "depth.json").write_text(json.dumps(describe_maps(meaning, 0.001)))
    levels = encode_map(values, meaning, 0.001, "a.jpg")
    disparity = to_disparity(levels, side_file(tmp_path)["kind"], "a.png")
    wanted = (1 / RAMP - 1 / 4) / (2 - 1 / 4)
    np.testing.assert_allclose(disparity[4:8, 5:-5], wanted[4:8, 5:-5], atol=2e-3)
    side = side_file(tmp_path)
    assert side["larger_is"] == ("nearer" if meaning == "disparity" else "farther")
    assert ("metres_per_level" in side) == (meaning == "metric")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.where(RAMP > 3, np.nan, RAMP), "a.jpg: the network returned NaN"),
        (np.where(RAMP > 3, np.inf, RAMP), "a.jpg: the network returned NaN or infinite"),
        (np.full((4, 4), 2.5), "a.jpg: the network returned one depth everywhere, 2.5"),
        (1000 + RAMP / 100, "one depth everywhere"),
        (RAMP + 66, r"a.jpg: its depth of 66.5 to 70 m is within one level .* beyond 65.5"),
        (RAMP / 1e5, "is within one level of 0.001 m or .*: give another --step"),
        (-RAMP, "a.jpg: the network returned distances of at most -0.5"),
    ],
)
def test_maps_that_say_nothing(values, sentence):
    with pytest.raises(StackError, match=sentence):
        encode_map(values, "metric", 0.001, "a.jpg")


def test_side_files_that_say_nothing(tmp_path):
    assert side_file(tmp_path) is None
    for text in ("", "[]", '{"meaning": "far"}'):
        (tmp_path / "depth.json").write_text(text)
        with pytest.raises(StackError, match=r'depth\.json has no "kind"'):
            side_file(tmp_path)
    (tmp_path / "depth.json").write_text('{"kind": "depth"}')
    with pytest.raises(StackError, match='says kind "depth": write distance or disparity'):
        side_file(tmp_path)


def test_regions_of_one_depth_are_refused():
    for depth_range, values in (
        ("asis", np.full((4, 4), 9, np.uint8)),
        ("max", np.full((4, 4), 9, np.uint16)),
        ("max", np.full((4, 4), 0.5)),
    ):
        with pytest.raises(StackError, match=r"d\.png is the same everywhere"):
            to_region_map(values, "d.png", depth_range)
    with pytest.raises(StackError, match=r"d\.npy holds no depth"):
        to_region_map(np.full((4, 4), np.nan), "d.npy", "max")


def test_holes_are_filled_from_the_farther_side():
    nan = np.nan
    filled = fill_from_farther(np.array([[nan, 5, nan, 2, nan], [nan] * 5], np.float32))
    np.testing.assert_array_equal(filled, [[5, 5, 2, 2, 2]] * 2)
    with pytest.raises(ValueError, match="finite"):
        fill_from_farther(np.full((2, 2), nan))


def test_disparity_of_distance_and_of_disparity():
    distance = np.tile(np.repeat([1.0, 2.0, 4.0], 10), (10, 1))
    disparity = to_disparity(distance, "distance", "d.npy")
    np.testing.assert_allclose(disparity[5, [5, 15, 25]], [1, 1 / 3, 0], atol=1e-6)
    same = to_disparity(1 / distance, "disparity", "d.npy")
    np.testing.assert_allclose(same, disparity, atol=1e-6)
    with pytest.raises(StackError, match="the same everywhere"):
        to_disparity(np.ones((10, 10)), "disparity", "d.npy")
    with pytest.raises(StackError, match="no depth"):
        to_disparity(np.zeros((10, 10)), "distance", "d.npy")


def test_disparity_beyond_the_range_of_float32():
    ramp = np.tile(np.linspace(1, 2, 30), (10, 1))
    for scale in (1e300, 1e-300):
        disparity = to_disparity(ramp * scale, "disparity", "d.npy")
        np.testing.assert_allclose(disparity, ramp - 1, atol=1e-6)


def test_region_maps():
    depth = np.array([[0, 100, 65535]], np.uint16)
    assert to_region_map(depth, "d", "asis").tolist() == [[0, 0, 255]]
    assert to_region_map(np.array([[0.0, 1.0, 2.0]]), "d", "max").tolist() == [[0, 127, 254]]
    with pytest.raises(StackError, match="depth_range max"):
        to_region_map(np.array([[0.0, 1.0]]), "d.npy", "asis")


def test_bad_depth_maps(tmp_path):
    path = tmp_path / "d.npy"
    path.write_bytes(b"no array")
    with pytest.raises(StackError, match="not an array"):
        read_depth(path, (48, 64))
    np.save(path, np.zeros((4, 5, 6)))
    with pytest.raises(StackError, match="expected"):
        read_depth(path, (48, 64))
    np.save(path, np.zeros((64, 48)))
    with pytest.raises(StackError, match="48x64"):
        read_depth(path, (48, 64))
    write_picture(tmp_path / "d.png", texture(48, 64, 0))
    with pytest.raises(StackError, match="colour"):
        read_depth(tmp_path / "d.png", (48, 64))
    with open(path, "wb") as file:
        np.savez(file, np.zeros((48, 64)))
    with pytest.raises(StackError, match="not an array"):
        read_depth(path, (48, 64))
    path.write_bytes(b"")
    with pytest.raises(StackError, match="is empty"):
        read_depth(path, (48, 64))
    with pytest.raises(StackError, match=r"e\.npy cannot be read: No such file"):
        read_depth(tmp_path / "e.npy", (48, 64))


def test_every_cut_of_an_array_is_told(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.ones((8, 9), np.float32))
    whole = path.read_bytes()
    damaged = [whole[:end] for end in range(1, len(whole), 3)]
    damaged.append(whole.replace(b"(8, 9)", b"(8, 9 "))  # the header is read as Python
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(StackError, match=r"a\.npy is not an array of numbers"):
            read_depth(path, (8, 9))
