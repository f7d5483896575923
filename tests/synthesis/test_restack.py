"""Changed stacks: which frames, in which order, with which faults, and what is refused."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from calling import make_quietly
from drawn import texture, write_set

from stackmff.errors import StackError
from stackmff.images.folders import list_pictures
from stackmff.images.formats import decode, read_picture, write_picture
from stackmff.images.metadata import Metadata
from stackmff.synthesis.restack import spread


@pytest.fixture
def data(tmp_path):
    """Scenes of 5, 4 and 9 frames."""
    return write_set(tmp_path / "data", [5, 4, 9])


@pytest.fixture
def run(data, tmp_path, capsys):
    """Change the stacks of `data` into tmp_path/<name>: (exit status, what was said)."""

    def call(name, *words):
        source = ["--stack_path", data, "--output_dir", tmp_path / name]
        return make_quietly(capsys, *source, *words)

    return call


def frames_of(data_set, scene):
    """(N, H, W, C) in the order of the files' names."""
    return np.stack([read_picture(path) for path in list_pictures(data_set / "dof_stack" / scene)])


def test_frames_and_answers_are_copied_bit_by_bit(run, data, tmp_path):
    status, said = run("same")
    assert status == 0 and "3 scenes, 3 of them new" in said
    for scene in ("scene0", "scene1", "scene2"):
        np.testing.assert_array_equal(frames_of(tmp_path / "same", scene), frames_of(data, scene))
        answers = [
            read_picture(folder / "AiF" / f"{scene}.png") for folder in (tmp_path / "same", data)
        ]
        np.testing.assert_array_equal(*answers)
    assert not (tmp_path / "same" / "depth").exists()


def test_16_bits_alpha_and_profile_are_kept(run, data, tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    deep = np.random.default_rng(0).integers(0, 65536, (3, 16, 20, 4), np.uint16)
    for k, picture in enumerate(deep):
        write_picture(data / "dof_stack" / "deep" / f"{k}.tif", picture, Metadata(profile=profile))
    write_picture(data / "AiF" / "deep.tif", deep[1], Metadata(profile=profile))
    assert run("same")[0] == 0
    out = tmp_path / "same"
    np.testing.assert_array_equal(frames_of(out, "deep"), deep)
    np.testing.assert_array_equal(read_picture(out / "AiF" / "deep.png"), deep[1])
    assert decode(out / "AiF" / "deep.png").metadata.profile == profile
    assert decode(out / "dof_stack" / "deep" / "02.png").metadata.profile == profile
    status, said = run("noisy", "--noise", 1000)
    assert status == 1 and "deep is 16 bit colour with alpha, and only 8 bit colour" in said
    assert len(list_pictures(tmp_path / "noisy" / "AiF")) == 3


def test_pairs_are_the_first_and_the_last_frame(run, data, tmp_path):
    assert run("pairs", "--keep", "ends")[0] == 0
    for scene in ("scene0", "scene1", "scene2"):
        np.testing.assert_array_equal(
            frames_of(tmp_path / "pairs", scene), frames_of(data, scene)[[0, -1]]
        )
    record = json.loads((tmp_path / "pairs" / "dataset.json").read_text())
    assert record["scenes"]["scene2"] == {"frames": 2, "taken": ["0.png", "8.png"]}
    assert record["settings"]["keep"] == 2


def test_kept_frames_are_evenly_spread():
    assert spread(9, 5).tolist() == [0, 2, 4, 6, 8]
    assert spread(4, 4).tolist() == spread(4, None).tolist() == [0, 1, 2, 3]
    for n_frames in range(2, 40):
        for keep in range(2, n_frames + 1):
            kept = spread(n_frames, keep)
            gaps = np.diff(kept)
            assert len(kept) == keep and kept[0] == 0 and kept[-1] == n_frames - 1
            assert gaps.min() >= 1 and np.ptp(gaps) <= 1


def test_a_stack_with_too_few_frames_is_named_and_the_others_are_made(run, data, tmp_path):
    status, said = run("five", "--keep", 5)
    assert status == 1 and "scene1 has only 4 of the frames that --keep 5 asks for" in said
    assert [path.stem for path in list_pictures(tmp_path / "five" / "AiF")] == ["scene0", "scene2"]
    np.testing.assert_array_equal(
        frames_of(tmp_path / "five", "scene2"), frames_of(data, "scene2")[::2]
    )


def test_shuffled_frames_are_the_same_in_another_order(run, data, tmp_path):
    assert run("mixed", "--shuffle")[0] == run("again", "--shuffle")[0] == 0
    assert run("other", "--shuffle", "--seed", 1)[0] == 0
    original, mixed = frames_of(data, "scene2"), frames_of(tmp_path / "mixed", "scene2")
    order = [[(frame == one).all() for one in original].index(True) for frame in mixed]
    assert sorted(order) == list(range(9)) and order != sorted(order)
    record = json.loads((tmp_path / "mixed" / "dataset.json").read_text())
    assert record["scenes"]["scene2"]["taken"] == [f"{k}.png" for k in order]
    np.testing.assert_array_equal(frames_of(tmp_path / "again", "scene2"), mixed)
    assert (frames_of(tmp_path / "other", "scene2") != mixed).any()


def test_other_scenes_change_nothing(run, data, tmp_path):
    words = ["--shuffle", "--noise", 500, 2, "--shake", 0.5]
    assert run("before", *words)[0] == 0
    write_set(data / "more", [6])
    (data / "more" / "dof_stack" / "scene0").rename(data / "dof_stack" / "a first one")
    (data / "more" / "AiF" / "scene0.png").rename(data / "AiF" / "a first one.png")
    assert run("after", *words)[0] == 0
    for scene in ("scene0", "scene1", "scene2"):
        before, after = (frames_of(tmp_path / name, scene) for name in ("before", "after"))
        np.testing.assert_array_equal(before, after)


def test_a_shuffled_stack_has_the_faults_that_it_has_in_order(run, tmp_path):
    run("noisy", "--noise", 500)
    run("mixed", "--noise", 500, "--shuffle")
    noisy, mixed = frames_of(tmp_path / "noisy", "scene2"), frames_of(tmp_path / "mixed", "scene2")
    names = json.loads((tmp_path / "mixed" / "dataset.json").read_text())["scenes"]["scene2"]
    np.testing.assert_array_equal(noisy[[int(Path(name).stem) for name in names["taken"]]], mixed)


def write_flat(data, n_frames, pixels):
    """A scene "flat" of n_frames times the picture `pixels`, alone in the data set."""
    for k in range(n_frames):
        write_picture(data / "dof_stack" / "flat" / f"{k}.png", pixels)
    write_picture(data / "AiF" / "flat.png", pixels)


def linear_of(coded):
    """Linear light of sRGB grey levels above 10."""
    return ((coded / 255 + 0.055) / 1.055) ** 2.4


def test_noise_has_the_variance_of_photons_and_reading(run, data, tmp_path):
    full_well, read_noise = 5000, 40
    write_flat(data, 4, np.full((80, 80, 3), 128, np.uint8))
    assert run("noisy", "--noise", full_well, read_noise)[0] == 0
    frames = frames_of(tmp_path / "noisy", "flat")
    light = linear_of(128)
    slope = 255 * 1.055 / 2.4 * light ** (1 / 2.4 - 1)  # of the coding, grey levels per light
    expected = slope**2 * (light * full_well + read_noise**2) / full_well**2 + 1 / 12  # rounding
    assert frames.var() == pytest.approx(expected, rel=0.03)
    assert frames.mean() == pytest.approx(128, abs=0.1)
    assert abs(np.corrcoef(frames[0].ravel(), frames[1].ravel())[0, 1]) < 0.02
    answer = read_picture(tmp_path / "noisy" / "AiF" / "flat.png")
    assert (answer == 128).all()


def test_flicker_scales_the_light_of_whole_frames(run, data, tmp_path):
    write_flat(data, 100, np.full((12, 12, 3), 128, np.uint8))
    assert run("out", "--flicker", 0.1)[0] == 0
    frames = frames_of(tmp_path / "out", "flat")
    assert (frames == frames[:, :1, :1]).all()
    gain = linear_of(frames[:, 0, 0, 0].astype(float)) / linear_of(128)
    assert gain.std() == pytest.approx(0.1, rel=0.2) and gain.mean() == pytest.approx(1, abs=0.04)


def test_shake_shifts_whole_frames(run, data, tmp_path):
    y, x = np.mgrid[0:48, 0:48] - 23.5
    spot = np.exp(-(x**2 + y**2) / 32)
    write_flat(data, 100, np.uint8(np.round(255 * spot))[..., None].repeat(3, 2))
    assert run("out", "--shake", 1.5)[0] == 0
    light = linear_of(frames_of(tmp_path / "out", "flat")[..., 0].astype(float))
    light -= light.min()
    centres = [(light * axis).sum((1, 2)) / light.sum((1, 2)) for axis in (x, y)]
    for centre in centres:
        assert centre.std() == pytest.approx(1.5, rel=0.2) and abs(centre.mean()) < 0.5


def test_jpeg_is_that_of_the_frame(run, data, tmp_path):
    assert run("out", "--jpeg", 60)[0] == 0
    for before, after in zip(frames_of(data, "scene1"), frames_of(tmp_path / "out", "scene1")):
        file = cv2.imencode(".jpg", before[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
        np.testing.assert_array_equal(after, cv2.imdecode(file, cv2.IMREAD_COLOR)[..., ::-1])
        assert (after != before).any()


def test_it_goes_on_where_it_stopped(run, data, tmp_path):
    run("out", "--noise", 1000)
    answers = tmp_path / "out" / "AiF"
    stamp = (answers / "scene0.png").stat().st_mtime_ns
    (answers / "scene1.png").unlink()
    status, said = run("out", "--noise", 1000)
    assert status == 0 and "3 scenes, 1 of them new" in said
    assert (answers / "scene0.png").stat().st_mtime_ns == stamp
    with pytest.raises(StackError, match=r"other settings \(noise\)"):
        run("out", "--noise", 2000)


def test_bad_stacks_are_reported_and_the_rest_goes_on(run, data, tmp_path):
    stacks = data / "dof_stack"
    (stacks / "scene0" / "1.png").write_bytes((stacks / "scene0" / "1.png").read_bytes()[:200])
    write_picture(data / "AiF" / "scene1.png", texture(40, 48, 0))
    write_picture(stacks / "lonely" / "0.png", texture(40, 48, 0))
    write_picture(stacks / "ragged" / "0.png", texture(40, 48, 0))
    write_picture(stacks / "ragged" / "1.png", texture(48, 40, 0))
    write_picture(data / "AiF" / "ragged.png", texture(40, 48, 0))
    status, said = run("out", "--keep", "2")
    assert status == 1 and "2 scenes, 2 of them new" in said
    assert "scene1.png is 48x40, its stack" in said and "scene1 is 48x48" in said
    assert "lonely has no answer" in said and "ragged: frame 1.png is 40x48" in said
    status, said = run("all")
    assert status == 1 and "scene0/1.png is not a picture" in said and "1 scenes" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--keep", "1"], "must be at least 2"),
        (["--keep", "some"], "'some' is not a whole number"),
        (["--noise", "1000", "-1"], "at least 0"),
        (["--jpeg", "0"], "at least 1"),
        (["--flicker", "-0.1"], "at least 0"),
        (["--size", "64"], "--stack_path brings its own pictures and blur: remove --size"),
        (["--num_frames", "3"], "remove --num_frames"),
        (["--image_path", "."], "remove --image_path"),
        (["--save_masks"], "remove --save_masks"),
        (["--clean"], "remove --clean"),
        (["--stack_path", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_wrong_calls(run, words, sentence):
    status, said = run("out", *words)
    assert status == 2 and sentence in said


def test_the_source_is_never_written_to(run, data, tmp_path):
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "dof_stack").symlink_to(data / "dof_stack")
    before = sorted(data.rglob("*"))
    for name in ("data", "data/dof_stack", "data/new", "link"):
        status, said = run(name)
        assert status == 2 and "is inside --stack_path" in said
    write_set(tmp_path / "other", [3])
    with pytest.raises(StackError, match=r"other holds dof_stack and no dataset\.json"):
        run("other")
    assert sorted(data.rglob("*")) == before and len(frames_of(tmp_path / "other", "scene0")) == 3
