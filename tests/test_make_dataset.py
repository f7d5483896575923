"""Making data sets: the tree, going on where it stopped, depth of every kind, bad input."""

import json
from functools import partial

import cv2
import numpy as np
import pytest
from calling import make_quietly

import make_dataset
from depth import fill_from_farther, read_depth, to_disparity, to_region_map
from formats import read_picture, write_picture
from utils import StackError


@pytest.fixture
def run(capsys):
    """make_dataset.py with these words; see `make_quietly`."""
    return partial(make_quietly, capsys)


def test_photographs_and_depth_maps_are_never_written_over(run, photos, depths, tmp_path):
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    photos.rename(tmp_path / "AiF")
    status, said = run("--image_path", tmp_path / "AiF", "--output_path", tmp_path)
    assert status == 2 and "would write into --image_path" in said
    status, said = run(
        "--image_path", tmp_path / "AiF", "--depth_path", depths, "--output_path", tmp_path
    )
    assert status == 2 and "would write into" in said
    (tmp_path / "AiF").rename(photos)
    status, said = run("--image_path", photos, "--depth_path", depths, "--output_path", tmp_path)
    assert status == 2 and "would write into --depth_path" in said
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.png")}


def test_no_shake_is_no_random_fault(run, photos, tmp_path):
    words = ["--image_path", photos, "--size", 48, "--num_scenes", 8, "--max_coc", 4]
    assert run(*words, "--shake", 0, "--output_path", tmp_path / "still")[0] == 0
    record = json.loads((tmp_path / "still" / "dataset.json").read_text())
    assert all(scene["faults"] == {} for scene in record["scenes"].values())


def drawn_photo(seed, height=48, width=64):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for k in range(3):
        write_picture(folder / f"p{k}.png", drawn_photo(k))
    return folder


@pytest.fixture
def depths(tmp_path):
    folder = tmp_path / "depth"
    ramp = np.linspace(0, 250, 64).astype(np.uint8)
    for k in range(3):
        write_picture(folder / f"p{k}.png", np.tile(ramp, (48, 1)))
    return folder


def test_random_scenes_go_on_where_they_stopped(run, photos, tmp_path):
    out = tmp_path / "out"
    words = ["--image_path", photos, "--output_path", out, "--size", 32, "--max_coc", 4]
    status, said = run(*words, "--num_scenes", 2, "--save_masks")
    assert status == 0, said
    first = (out / "AiF" / "scene_00000.png").read_bytes()
    stamp = (out / "AiF" / "scene_00000.png").stat().st_mtime_ns
    (out / "AiF" / "scene_00001.png").unlink()
    words[1] = f"{photos}/"
    status, said = run(*words, "--num_scenes", 3, "--save_masks")
    assert status == 0 and "3 scenes, 2 of them new" in said
    assert (out / "AiF" / "scene_00000.png").stat().st_mtime_ns == stamp
    record = json.loads((out / "dataset.json").read_text())
    assert sorted(record["scenes"]) == ["scene_00000", "scene_00001", "scene_00002"]
    frames = sorted((out / "dof_stack" / "scene_00000").iterdir())
    assert len(frames) == record["scenes"]["scene_00000"]["frames"]
    masks = [read_picture(p) for p in sorted((out / "masks" / "scene_00000").iterdir())]
    assert (np.sum([mask > 0 for mask in masks], axis=0) == 1).all()
    # the same seed in another place gives the same scene
    words[3] = tmp_path / "again"
    run(*words, "--num_scenes", 1, "--save_masks")
    assert (tmp_path / "again" / "AiF" / "scene_00000.png").read_bytes() == first
    words[3], words[5] = out, 48
    with pytest.raises(StackError, match="other settings"):
        run(*words, "--save_masks")


def test_thin_lens_from_depth_maps(run, photos, depths, tmp_path):
    out = tmp_path / "out"
    words = ["--image_path", photos, "--depth_path", depths, "--output_path", out]
    status, said = run(*words, "--num_frames", 3, "--max_coc", 6)
    assert status == 2 and "--depth_kind" in said
    (depths / "depth.json").write_text('{"kind": "disparity"}')
    write_picture(photos / "alone.png", drawn_photo(9))
    (photos / "p1.png").write_bytes((photos / "p1.png").read_bytes()[:300])
    status, said = run(*words, "--num_frames", 3, "--max_coc", 6)
    assert status == 1, said
    assert "alone.png" in said and "p1.png" in said
    assert sorted(p.name for p in (out / "AiF").iterdir()) == ["p0.png", "p2.png"]
    answer = read_picture(out / "AiF" / "p0.png")
    np.testing.assert_array_equal(answer, drawn_photo(0))
    frames = [read_picture(p) for p in sorted((out / "dof_stack" / "p0").iterdir())]
    error = np.array([(frame.astype(float) - answer) ** 2 for frame in frames]).mean((1, 3))
    assert error[0, -6:].mean() < error[2, -6:].mean()  # nearest first: the ramp's bright end
    assert error[2, :6].mean() < error[0, :6].mean()


def test_faults_of_the_camera_in_every_mode(run, photos, depths, tmp_path):
    words = ["--image_path", photos, "--size", 32, "--num_frames", 3, "--max_coc", 4]
    faults = ["--noise", 1000, 9, "--flicker", 0.1, "--shake", 1, "--jpeg", 90]
    assert run(*words, "--num_scenes", 1, *faults, "--output_path", tmp_path / "random")[0] == 0
    record = json.loads((tmp_path / "random" / "dataset.json").read_text())
    expected = {"noise": [1000, 9], "flicker": 0.1, "shake": 1, "jpeg": 90}
    assert record["scenes"]["scene_00000"]["faults"] == expected
    recipe = ["--image_path", photos, "--depth_path", depths, "--refocus", "published"]
    for name, more in (("clean", []), ("read", ["--noise", 1e6, 0]), ("faulty", faults)):
        assert run(*recipe, *more, "--num_frames", 2, "--output_path", tmp_path / name)[0] == 0
    frames = [
        read_picture(tmp_path / name / "dof_stack" / "p0" / "00.png").astype(int)
        for name in ("clean", "read", "faulty")
    ]
    assert 0 < abs(frames[1] - frames[0]).mean() < 1 < abs(frames[2] - frames[0]).mean()


def test_a_data_set_that_was_begun_without_the_newer_options_goes_on(run, photos, tmp_path):
    words = ["--image_path", photos, "--output_path", tmp_path / "out", "--size", 32]
    run(*words, "--num_scenes", 1)
    path = tmp_path / "out" / "dataset.json"
    record = json.loads(path.read_text())
    for name in ("stack_path", "keep", "shuffle", "flicker", "shake"):
        del record["settings"][name]
    path.write_text(json.dumps(record))
    assert "2 scenes, 1 of them new" in run(*words, "--num_scenes", 2)[1]
    path.unlink()
    with pytest.raises(StackError, match=r"holds dof_stack and no dataset\.json"):
        run(*words, "--num_scenes", 2)


def test_published_recipe(run, photos, depths, tmp_path):
    out = tmp_path / "out"
    words = ["--image_path", photos, "--depth_path", depths, "--output_path", out]
    status, said = run(*words, "--refocus", "published", "--num_frames", 4, "--depth_range", "max")
    assert status == 0, said
    depth = read_picture(out / "depth" / "p0.png")
    assert depth.shape == (384, 384, 1) and depth.max() == 254
    frames = [read_picture(p) for p in sorted((out / "dof_stack" / "p0").iterdir())]
    answer = read_picture(out / "AiF" / "p0.png")
    for k, frame in enumerate(frames):
        inside = depth[..., 0] // 63.75 == k
        np.testing.assert_array_equal(frame[inside], answer[inside])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--image_path", "nowhere"], "give a folder"),
        (["--demo", "--image_path", "x"], "brings its own"),
        (["--demo", "--refocus", "published"], "leave --refocus away"),
        (["--demo", "--num_frames", "5"], "leave --num_frames away"),
        (["--image_path", ".", "--refocus", "published"], "needs --depth_path"),
        (["--image_path", ".", "--depth_kind", "distance"], "need --depth_path"),
        (["--image_path", ".", "--depth_path", ".", "--num_scenes", "3"], "random scenes"),
        (["--image_path", ".", "--num_frames", "1"], "at least 2"),
        (["--image_path", ".", "--noise", "5"], "at least 10"),
        (["--image_path", ".", "--noise", "1000", "2", "3"], "at most READ"),
        (["--image_path", ".", "--shuffle"], "leave --shuffle away"),
        (["--image_path", ".", "--keep", "ends"], "leave --keep away"),
        (["--demo", "--stack_path", "x"], "leave --stack_path away"),
    ],
)
def test_wrong_calls(run, words, sentence, tmp_path):
    status, said = run(*words, "--output_path", tmp_path / "out")
    assert status == 2 and sentence in said


def test_processes_make_the_same_scenes(photos, tmp_path):
    words = ["--image_path", photos, "--size", 32, "--max_coc", 4, "--num_scenes", 2]
    for workers in (1, 2):
        make_dataset.main(
            [*map(str, words), "--workers", str(workers), "--output_path", f"{tmp_path}/{workers}"]
        )
    one, two = ((tmp_path / w / "AiF" / "scene_00001.png").read_bytes() for w in "12")
    assert one == two


def test_photographs_and_depth_in_one_folder(tmp_path):
    write_picture(tmp_path / "art.png", drawn_photo(0))
    write_picture(tmp_path / "art_disp.png", np.zeros((48, 64), np.uint8))
    write_picture(tmp_path / "more.png", drawn_photo(1))
    pairs, alone = make_dataset.pair_depth(tmp_path, tmp_path, "_disp")
    assert [(a.name, b.name) for a, b in pairs] == [("art.png", "art_disp.png")]
    assert [path.name for path in alone] == ["more.png"]
    with pytest.raises(StackError, match="depth_suffix"):
        make_dataset.pair_depth(tmp_path, tmp_path, "")


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


def test_two_maps_or_photographs_of_one_name_are_refused(photos, depths):
    np.save(depths / "p0.npy", np.ones((48, 64)))
    with pytest.raises(StackError, match=r"p0\.png and p0\.npy have one name"):
        make_dataset.pair_depth(photos, depths, "")
    (depths / "p0.npy").unlink()
    write_picture(photos / "p1.tif", drawn_photo(1))
    with pytest.raises(StackError, match=r"p1\.tif and p1\.png have one name"):
        make_dataset.pair_depth(photos, depths, "")


def test_region_maps():
    depth = np.array([[0, 100, 65535]], np.uint16)
    assert to_region_map(depth, "d", "asis").tolist() == [[0, 0, 255]]
    assert to_region_map(np.array([[0.0, 1.0, 2.0]]), "d", "max").tolist() == [[0, 127, 254]]
    with pytest.raises(StackError, match="depth_range max"):
        to_region_map(np.array([[0.0, 1.0]]), "d.npy", "asis")


def test_bad_depth_maps(tmp_path):
    path = tmp_path / "d.npy"
    path.write_bytes(b"no array")
    with pytest.raises(StackError, match="no array"):
        read_depth(path, (48, 64))
    np.save(path, np.zeros((4, 5, 6)))
    with pytest.raises(StackError, match="expected"):
        read_depth(path, (48, 64))
    np.save(path, np.zeros((64, 48)))
    with pytest.raises(StackError, match="48x64"):
        read_depth(path, (48, 64))
    write_picture(tmp_path / "d.png", drawn_photo(0))
    with pytest.raises(StackError, match="colour"):
        read_depth(tmp_path / "d.png", (48, 64))
    with open(path, "wb") as file:
        np.savez(file, np.zeros((48, 64)))
    with pytest.raises(StackError, match="no array"):
        read_depth(path, (48, 64))
    path.write_bytes(b"")
    with pytest.raises(StackError, match="is empty"):
        read_depth(path, (48, 64))
    with pytest.raises(StackError, match=r"e\.npy cannot be read: No such file"):
        read_depth(tmp_path / "e.npy", (48, 64))


def test_depth_of_any_suffix_and_with_alpha(photos, tmp_path):
    depth = drawn_photo(0)[..., :1]
    write_picture(tmp_path / "d" / "p0.PNG", np.dstack([depth, np.full_like(depth, 7)]))
    np.save(tmp_path / "d" / "p1.npy", depth[..., 0])
    (tmp_path / "d" / "p1.npy").rename(tmp_path / "d" / "p1.NPY")
    pairs, alone = make_dataset.pair_depth(photos, tmp_path / "d", "")
    assert [path.name for _, path in pairs] == ["p0.PNG", "p1.NPY"] and len(alone) == 1
    for _, path in pairs:
        np.testing.assert_array_equal(read_depth(path, (48, 64)), depth[..., 0])
