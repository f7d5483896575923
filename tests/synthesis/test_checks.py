"""synthesis/checks.py and options.py: what is given, what follows from it, what contradicts."""

from pathlib import Path

import pytest

from stackmff.errors import StackError
from stackmff.options import build, values_of
from stackmff.synthesis.checks import is_output, resolved
from stackmff.synthesis.options import CameraOptions, DatasetOptions, DepthOptions, known_kind


def options(tmp_path, **values):
    for name in ("photos", "depth"):
        (tmp_path / name).mkdir(exist_ok=True)
    places = {"image_path": tmp_path / "photos", "output_dir": tmp_path / "out"}
    return build(DatasetOptions, places | values, strict=True)


def test_faults_are_told_from_what_was_not_given():
    camera = CameraOptions(noise=(1000.0,), shake=0.0)
    assert camera.given() == {"noise": (1000.0, 3.0), "shake": 0.0}
    assert camera.faults() == {"noise": (1000.0, 3.0)}
    assert CameraOptions().given() == {}


@pytest.mark.parametrize("noise", [(9.0,), (100.0, 1.0, 1.0)])
def test_a_sensor_has_a_full_well_and_read_noise(noise):
    with pytest.raises(StackError, match="--noise: give E, at least 10, and at most READ"):
        CameraOptions(noise=noise)


def test_random_scenes_get_their_defaults(tmp_path):
    made = values_of(resolved(options(tmp_path, noise=(500.0,))))
    wanted = {"num_scenes": 1000, "max_coc": 30.0, "size": 224, "num_frames": None}
    assert {name: made[name] for name in wanted} == wanted
    assert made["noise"] == [500.0, 3.0]


def test_photographs_with_depth_get_their_defaults(tmp_path):
    how = {"depth_path": tmp_path / "depth", "depth_kind": "distance", "max_coc": 4.0}
    made = values_of(resolved(options(tmp_path, **how)))
    wanted = {"num_scenes": None, "max_coc": 4.0, "size": None, "num_frames": 16}
    assert {name: made[name] for name in wanted} == wanted


def test_regions_of_metres_are_taken_by_the_largest(tmp_path):
    given = options(tmp_path, depth_path=tmp_path / "depth", refocus="published")
    side = tmp_path / "depth" / "depth.json"
    side.write_text('{"kind": "distance"}')
    assert resolved(given).refocus.depth_range is None
    side.write_text('{"kind": "distance", "metres_per_level": 0.001}')
    assert resolved(given).refocus.depth_range == "max"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"depth_path": "nowhere"}, "nowhere is not a folder"),
        ({"depth_range": "max"}, "need --depth_path"),
        ({"depth_path": "depth", "clean": True}, "are for random scenes: remove --depth_path"),
        ({"depth_path": "depth", "depth_range": "max"}, "is for --refocus published: remove it"),
        ({"depth_path": "depth", "refocus": "published", "size": 64}, "remove --max_coc, --size"),
        ({"demo": True, "image_path": None, "clean": True}, "own picture and lens: remove --clean"),
        ({"keep": 3}, "can be chosen and shuffled: remove --keep"),
    ],
)
def test_what_contradicts(tmp_path, values, sentence):
    if "depth_path" in values:
        values = values | {"depth_path": tmp_path / values["depth_path"]}
    with pytest.raises(StackError, match=sentence):
        resolved(options(tmp_path, **values))


def test_the_side_file_says_what_the_maps_hold(tmp_path):
    with pytest.raises(StackError, match="--depth_kind distance or disparity is needed"):
        known_kind(DepthOptions(tmp_path))
    (tmp_path / "depth.json").write_text('{"kind": "disparity"}')
    assert known_kind(DepthOptions(tmp_path)) == "disparity"
    assert known_kind(DepthOptions(tmp_path, depth_kind="disparity")) == "disparity"
    with pytest.raises(StackError, match=r"contradicts depth\.json .*: remove --depth_kind"):
        known_kind(DepthOptions(tmp_path, depth_kind="distance"))
    with pytest.raises(StackError, match="--depth_path is needed"):
        known_kind(DepthOptions())


def test_which_folders_a_data_set_writes_into():
    out = Path("data/set")
    assert is_output(out / "AiF", out) and is_output(out / "depth" / "deeper", out)
    assert not is_output(out, out) and not is_output(Path("data/AiF"), out)
