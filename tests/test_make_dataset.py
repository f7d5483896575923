"""Making data sets: the tree, going on where it stopped, depth of every kind, bad input."""

import json
from functools import partial

import cv2
import numpy as np
import pytest
from calling import killed_while_writing, make_quietly
from drawn import texture

import make_dataset
from stackmff.errors import StackError
from stackmff.images.formats import read_picture, write_picture
from stackmff.synthesis import scenes
from stackmff.synthesis.depth_maps import pair_depth, read_depth
from stackmff.synthesis.photos import PhotoFolder, list_photos

# The photographs here are small, and enlarged from smaller ones.
ANY_PHOTO = ("--min_side", 16, "--min_sharpness", 0)


@pytest.fixture
def run(capsys):
    """make_dataset.py with these words, of any photographs; see `make_quietly`."""

    def call(*words):
        return make_quietly(capsys, *words, *(() if "--demo" in words else ANY_PHOTO))

    return call


@pytest.fixture
def run_as_it_is(capsys):
    """make_dataset.py with these words alone."""
    return partial(make_quietly, capsys)


def test_photographs_and_depth_maps_are_never_written_over(run, photos, depths, tmp_path):
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    photos.rename(tmp_path / "AiF")
    status, said = run("--image_path", tmp_path / "AiF", "--output_dir", tmp_path)
    assert status == 2 and "would write into --image_path" in said
    status, said = run(
        "--image_path", tmp_path / "AiF", "--depth_path", depths, "--output_dir", tmp_path
    )
    assert status == 2 and "would write into" in said
    (tmp_path / "AiF").rename(photos)
    status, said = run("--image_path", photos, "--depth_path", depths, "--output_dir", tmp_path)
    assert status == 2 and "would write into --depth_path" in said
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.png")}


def test_no_shake_is_no_random_fault(run, photos, tmp_path):
    words = ["--image_path", photos, "--size", 48, "--num_scenes", 8, "--max_coc", 4]
    assert run(*words, "--shake", 0, "--output_dir", tmp_path / "still")[0] == 0
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
    words = ["--image_path", photos, "--output_dir", out, "--size", 32, "--max_coc", 4]
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
    words = ["--image_path", photos, "--depth_path", depths, "--output_dir", out]
    status, said = run(*words, "--num_frames", 3, "--max_coc", 6)
    assert status == 2 and "--depth_kind" in said
    (depths / "depth.json").write_text('{"kind": "disparity"}')
    write_picture(photos / "alone.png", drawn_photo(9))
    (photos / "p1.png").write_bytes((photos / "p1.png").read_bytes()[:300])
    status, said = run(*words, "--num_frames", 3, "--max_coc", 6)
    assert status == 0 and "2 scenes, 2 of them new, 2 photographs left out" in said
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
    assert run(*words, "--num_scenes", 1, *faults, "--output_dir", tmp_path / "random")[0] == 0
    record = json.loads((tmp_path / "random" / "dataset.json").read_text())
    expected = {"noise": [1000, 9], "flicker": 0.1, "shake": 1, "jpeg": 90}
    assert record["scenes"]["scene_00000"]["faults"] == expected
    recipe = ["--image_path", photos, "--depth_path", depths, "--refocus", "published"]
    for name, more in (("clean", []), ("read", ["--noise", 1e6, 0]), ("faulty", faults)):
        assert run(*recipe, *more, "--num_frames", 2, "--output_dir", tmp_path / name)[0] == 0
    frames = [
        read_picture(tmp_path / name / "dof_stack" / "p0" / "00.png").astype(int)
        for name in ("clean", "read", "faulty")
    ]
    assert 0 < abs(frames[1] - frames[0]).mean() < 1 < abs(frames[2] - frames[0]).mean()


def test_a_data_set_that_was_begun_without_the_newer_options_goes_on(run, photos, tmp_path):
    words = ["--image_path", photos, "--output_dir", tmp_path / "out", "--size", 32]
    run(*words, "--num_scenes", 1)
    path = tmp_path / "out" / "dataset.json"
    record = json.loads(path.read_text())
    for name in ("stack_path", "keep", "shuffle", "flicker", "shake"):
        del record["settings"][name]
    record["settings"]["min_colour"] = None  # an earlier version's word for the default
    path.write_text(json.dumps(record))
    assert "2 scenes, 1 of them new" in run(*words, "--num_scenes", 2)[1]
    path.unlink()
    with pytest.raises(StackError, match=r"holds dof_stack and no dataset\.json"):
        run(*words, "--num_scenes", 2)


def test_published_recipe(run, photos, depths, tmp_path):
    out = tmp_path / "out"
    words = ["--image_path", photos, "--depth_path", depths, "--output_dir", out]
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
        (["--demo", "--refocus", "published"], "remove --refocus"),
        (["--demo", "--num_frames", "5"], "remove --num_frames"),
        (["--image_path", ".", "--refocus", "published"], "needs --depth_path"),
        (["--image_path", ".", "--depth_kind", "distance"], "need --depth_path"),
        (["--image_path", ".", "--depth_path", ".", "--num_scenes", "3"], "random scenes"),
        (["--image_path", ".", "--num_frames", "1"], "at least 2"),
        (["--image_path", ".", "--noise", "5"], "at least 10"),
        (["--image_path", ".", "--noise", "1000", "2", "3"], "at most READ"),
        (["--image_path", ".", "--shuffle"], "remove --shuffle"),
        (["--image_path", ".", "--keep", "ends"], "remove --keep"),
        (["--demo", "--stack_path", "x"], "remove --stack_path"),
    ],
)
def test_wrong_calls(run, words, sentence, tmp_path):
    status, said = run(*words, "--output_dir", tmp_path / "out")
    assert status == 2 and sentence in said


def test_the_former_name_of_the_output_is_accepted(run, photos, tmp_path):
    words = ["--image_path", photos, "--output_path", tmp_path / "out", "--size", 32]
    assert run(*words, "--num_scenes", 1)[0] == 0
    assert (tmp_path / "out" / "AiF" / "scene_00000.png").exists()


@pytest.mark.slow
def test_processes_make_the_same_scenes(photos, tmp_path):
    words = ["--image_path", photos, "--size", 32, "--max_coc", 4, "--num_scenes", 2, *ANY_PHOTO]
    for workers in (1, 2):
        make_dataset.main(
            [*map(str, words), "--workers", str(workers), "--output_dir", f"{tmp_path}/{workers}"]
        )
    one, two = ((tmp_path / w / "AiF" / "scene_00001.png").read_bytes() for w in "12")
    assert one == two


def test_photographs_and_depth_in_one_folder(tmp_path):
    write_picture(tmp_path / "art.png", drawn_photo(0))
    write_picture(tmp_path / "art_disp.png", np.zeros((48, 64), np.uint8))
    write_picture(tmp_path / "more.png", drawn_photo(1))
    pairs, alone = pair_depth(tmp_path, tmp_path, "_disp")
    assert [(a.name, b.name) for a, b in pairs] == [("art.png", "art_disp.png")]
    assert [path.name for path in alone] == ["more.png"]
    with pytest.raises(StackError, match="depth_suffix"):
        pair_depth(tmp_path, tmp_path, "")


def test_two_maps_or_photographs_of_one_name_are_refused(photos, depths):
    np.save(depths / "p0.npy", np.ones((48, 64)))
    with pytest.raises(StackError, match=r"p0\.png and p0\.npy have the same name"):
        pair_depth(photos, depths, "")
    (depths / "p0.npy").unlink()
    write_picture(photos / "p1.tif", drawn_photo(1))
    with pytest.raises(StackError, match=r"p1\.tif and p1\.png have the same name"):
        pair_depth(photos, depths, "")


def test_depth_of_any_suffix_and_with_alpha(photos, tmp_path):
    depth = drawn_photo(0)[..., :1]
    write_picture(tmp_path / "d" / "p0.PNG", np.dstack([depth, np.full_like(depth, 7)]))
    np.save(tmp_path / "d" / "p1.npy", depth[..., 0])
    (tmp_path / "d" / "p1.npy").rename(tmp_path / "d" / "p1.NPY")
    pairs, alone = pair_depth(photos, tmp_path / "d", "")
    assert [path.name for _, path in pairs] == ["p0.PNG", "p1.NPY"] and len(alone) == 1
    for _, path in pairs:
        np.testing.assert_array_equal(read_depth(path, (48, 64)), depth[..., 0])


def detailed(seed, height=48, width=64):
    """A photograph that is sharp enough for the defaults."""
    return np.uint8(drawn_photo(seed, height, width) // 2 + texture(height, width, seed) // 2)


def bad_inputs(folder, depths):
    """One pair of each kind that cannot be used, its name saying why."""
    good, ramp = detailed(9), np.tile(np.linspace(0, 250, 64).astype(np.uint8), (48, 1))
    for name, picture in {
        "black": good // 20,
        "tiny": good[:10, :13],
        "grey": good[..., :1],
        "blurred": cv2.GaussianBlur(good, (0, 0), 4),
        "constant": good,
        "wrongsize": good,
        "empty": good,
        "without": good,
        "nan": good,
    }.items():
        write_picture(folder / f"{name}.png", picture)
        if name not in ("constant", "wrongsize", "empty", "without", "nan"):
            write_picture(depths / f"{name}.png", ramp)
    (folder / "broken.png").write_bytes((folder / "black.png").read_bytes()[:90])
    write_picture(depths / "broken.png", ramp)
    write_picture(depths / "constant.png", np.full_like(ramp, 80))
    write_picture(depths / "wrongsize.png", ramp.T)
    (depths / "empty.png").write_bytes(b"")
    np.save(depths / "nan.npy", np.full((48, 64), np.nan))
    return {
        "black": "black.png is black",
        "tiny": "tiny.png is 13x10, too small",
        "grey": "grey.png is grey",
        "blurred": "blurred.png is blurred",
        "broken": "broken.png is not a picture, is cut short",
        "constant": "constant.png is the same everywhere",
        "wrongsize": "wrongsize.png is 48x64, its picture 64x48",
        "empty": "empty.png is empty",
        "without": "no depth map for",
        "nan": "nan.npy holds no depth",
    }


@pytest.mark.parametrize("refocus", ["thin_lens", "published"])
def test_bad_photographs_and_depth_are_told_and_left_out(
    run_as_it_is, photos, depths, tmp_path, refocus
):
    for k in range(3):
        write_picture(photos / f"p{k}.png", detailed(k))
    sentences = bad_inputs(photos, depths)
    words = ["--image_path", photos, "--depth_path", depths, "--output_dir", tmp_path / "out"]
    words += ["--num_frames", 2, "--min_side", 16]
    if refocus == "published":
        words += ["--refocus", refocus, "--depth_range", "max"]
    else:
        words += ["--max_coc", 2, "--depth_kind", "distance"]
    status, said = run_as_it_is(*words)
    assert status == 0 and "3 scenes, 3 of them new, 10 photographs left out" in said
    for name, sentence in sentences.items():
        (line,) = (line for line in said.splitlines() if f"{name}." in line)
        assert line.startswith("left out: ") and sentence in line
    assert sorted(p.stem for p in (tmp_path / "out" / "AiF").iterdir()) == ["p0", "p1", "p2"]
    record = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert len(record["left_out"]) == 10
    status, said = run_as_it_is(*words, "--strict")
    assert status == 1 and "0 of them new, 10 photographs left out" in said


def test_random_scenes_leave_bad_photographs_out(run_as_it_is, photos, depths, tmp_path):
    for k in range(3):
        write_picture(photos / f"p{k}.png", detailed(k))
    bad = ("black", "tiny", "grey", "blurred", "broken")
    sentences = bad_inputs(photos, depths)
    for name in set(sentences) - set(bad):
        (photos / f"{name}.png").unlink()
    words = ["--image_path", photos, "--output_dir", tmp_path / "out", "--size", 32]
    words += ["--max_coc", 4, "--min_side", 16, "--num_scenes"]
    status, said = run_as_it_is(*words, 1)
    assert status == 0 and "1 scenes, 1 of them new, 5 photographs left out" in said
    assert all(sentences[name] in said for name in bad)
    for name in bad:  # a clean folder gives the same scenes
        (photos / f"{name}.png").unlink()
    words[3] = tmp_path / "clean"
    assert "0 photographs left out" in run_as_it_is(*words, 1)[1]
    one, other = (tmp_path / name / "AiF" / "scene_00000.png" for name in ("out", "clean"))
    assert one.read_bytes() == other.read_bytes()


def test_a_folder_of_nothing_but_bad_photographs_is_an_error(run, photos, depths, tmp_path):
    for k in range(3):
        write_picture(photos / f"p{k}.png", np.zeros((48, 64, 3), np.uint8))
    words = ["--image_path", photos, "--output_dir", tmp_path / "out"]
    with pytest.raises(StackError, match=r"none of the 3 photographs can be used: .*p0\.png is bl"):
        run(*words)
    status, said = run(*words, "--depth_path", depths, "--depth_kind", "distance")
    assert status == 1 and "0 scenes, 0 of them new, 3 photographs left out" in said


def test_what_cannot_be_written_is_an_error_and_no_bad_input(run, photos, depths, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "AiF").write_text("in the way")
    (tmp_path / "out" / "dataset.json").write_text('{"settings": {}, "scenes": {}}')
    words = ["--image_path", photos, "--depth_path", depths, "--output_dir", tmp_path / "out"]
    record = {"settings": make_settings(words, tmp_path), "scenes": {}}
    (tmp_path / "out" / "dataset.json").write_text(json.dumps(record))
    status, said = run(*words, "--depth_kind", "distance", "--num_frames", 2)
    assert status == 1 and said.count("cannot be written") == 3 and "0 photographs left out" in said


def make_settings(words, tmp_path):
    """What dataset.json says of these words."""
    words = [*words[:-1], tmp_path / "other", *ANY_PHOTO, "--workers", 1]
    words += ["--depth_kind", "distance", "--num_frames", 2]
    assert make_dataset.main([str(word) for word in words]) == 0
    return json.loads((tmp_path / "other" / "dataset.json").read_text())["settings"]


def test_a_killed_run_goes_on(run, photos, tmp_path):
    """Killed while some scenes are in the record and another one is being made."""
    out = tmp_path / "out"
    words = ["--image_path", photos, "--size", 32, "--max_coc", 4, "--num_scenes", 12]
    words += [*ANY_PHOTO, "--workers", 1, "--output_dir", out]
    # Not in the first scene.
    killed_while_writing("make_dataset", words, scenes.MOST_FRAMES + 2, "stackmff.synthesis.stacks")
    kept = len(json.loads((out / "dataset.json").read_text())["scenes"])
    assert 0 < kept < 12
    status, said = run(*words)
    assert status == 0 and f"12 scenes, {12 - kept} of them new" in said
    run(*words, "--output_dir", tmp_path / "whole")
    files = [
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*.png")}
        for root in (out, tmp_path / "whole")
    ]
    assert files[0] == files[1]
    names = ("scenes", "left_out", "kind")
    one, other = (
        json.loads((root / "dataset.json").read_text()) for root in (out, tmp_path / "whole")
    )
    assert all(one[name] == other[name] for name in names)


def test_files_hold_the_scenes_that_are_made_without_files(run, photos, tmp_path):
    words = ["--image_path", photos, "--size", 40, "--max_coc", 6, "--num_scenes", 6, "--seed", 3]
    assert run(*words, "--output_dir", tmp_path / "out")[0] == 0
    pictures = PhotoFolder(list_photos([photos]), 1)
    spec = scenes.SceneSpec(40, 6.0)
    for number in range(6):
        name = f"scene_{number:05d}"
        paths = sorted((tmp_path / "out" / "dof_stack" / name).iterdir())
        frames, answer, _, _ = scenes.numbered_scene(pictures, 3, number, spec)
        assert len(paths) == len(frames) == scenes.numbered_frames(3, number, spec)
        stored = np.stack([read_picture(path) for path in paths])
        np.testing.assert_array_equal(stored, frames)
        np.testing.assert_array_equal(
            read_picture(tmp_path / "out" / "AiF" / f"{name}.png"), answer
        )
    assert len({scenes.numbered_frames(3, number) for number in range(20)}) > 5
