"""Alignment: known motions and exposures found again, still stacks left alone, bad frames named."""

import json

import cv2
import numpy as np
import pytest
from drawn import draw_stack, texture
from PIL import Image

from stackmff.alignment import linking, registration, resampling
from stackmff.alignment import measure as measure_module
from stackmff.alignment.geometry import Alignment, common_area, covered
from stackmff.alignment.measure import apply, measure
from stackmff.alignment.record import load_alignment, save_alignment
from stackmff.alignment.registration import farthest
from stackmff.errors import StackError
from stackmff.images.formats import read_picture, write_picture
from stackmff.images.metadata import Metadata
from tools import align

HEIGHT, WIDTH, ROOM = 96, 128, 32  # px; of a frame, and what its scene is larger on each side


def scene(seed, height=HEIGHT, width=WIDTH):
    """(height, width, 3) float32 texture of several sizes in [20, 220], with room around."""
    rng = np.random.default_rng(seed)
    shape = (height + 2 * ROOM, width + 2 * ROOM, 3)
    layers = [
        2**k * cv2.GaussianBlur(rng.normal(size=shape).astype(np.float32), (0, 0), 1.5 * 2**k)
        for k in range(4)
    ]
    total = sum(layers)
    return 20 + 200 * (total - total.min()) / np.ptp(total)


def motion(shift=(0, 0), scale=1.0, degrees=0.0):
    """(2, 3) about the centre of a frame, from pixel of the scene to pixel of the frame."""
    angle = np.deg2rad(degrees)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]])
    centre = np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
    return np.column_stack([linear, centre + shift - linear @ centre])


def squared(matrix):
    return np.vstack([matrix, [0, 0, 1]])


def view(picture, matrix=None, size=(WIDTH, HEIGHT)):
    """What a camera moved by `matrix` sees of a scene: (96, 128, 3) uint8."""
    inverse = np.linalg.inv(squared(motion() if matrix is None else matrix))
    inverse[:2, 2] += ROOM
    flags = cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(picture, inverse[:2], size, flags=flags)
    return np.uint8(np.rint(np.clip(seen, 0, 255)))


def defocused(picture, focus):
    """A scene that is sharp at `focus` of its width, in [0, 1], and blurred away from it."""
    blurs = [cv2.GaussianBlur(picture, (0, 0), sigma) for sigma in (0.3, 1, 2)]
    place = 2 * np.abs(np.linspace(0, 1, picture.shape[1], dtype=np.float32) - focus)[:, None]
    shares = [np.clip(1 - np.abs(place - k), 0, 1) for k in range(3)]
    return sum(blur * share for blur, share in zip(blurs, shares))


def errors(alignment, motions):
    """How far, px, each frame's transform is from the true one at the worst corner."""
    reference = np.linalg.inv(squared(motions[alignment.reference]))
    return [
        farthest(np.linalg.inv(squared(matrix) @ reference) @ squared(found), alignment.size)
        for matrix, found in zip(motions, alignment.transforms)
    ]


MOTIONS = [
    motion((1.4, -0.7), 1.01, 0.3),
    motion((0.6, 0.2), 1.005, 0.1),
    motion(),
    motion((-0.8, 0.5), 0.996, -0.2),
    motion((-1.1, 1.6), 0.99, -0.4),
]


@pytest.fixture(scope="module")
def moving():
    """Five frames of one scene, focused from left to right, each moved as MOTIONS say."""
    picture = scene(0)
    return np.stack([view(defocused(picture, k / 4), MOTIONS[k]) for k in range(5)])


def test_known_motion_is_found_within_hundredths_of_a_pixel(moving):
    alignment = measure(moving)
    assert alignment.reference == 2 and alignment.moved == [True, True, False, True, True]
    assert max(errors(alignment, MOTIONS)) < 0.06 and alignment.left_out == {}


def test_affine_motion_is_found():
    picture = scene(1)
    sheared = motion() + np.array([[0, 0.01, -0.5], [0, 0, 0]])
    frames = np.stack([view(picture), view(picture, sheared)])
    assert errors(measure(frames, 0, "affine"), [motion(), sheared])[1] < 0.05
    assert errors(measure(frames, 0), [motion(), sheared])[1] > 0.2  # no similarity is that


def test_aligned_frames_lie_on_the_reference():
    picture = scene(2)
    frames = np.stack([view(picture, matrix) for matrix in MOTIONS])
    before = np.abs(frames.astype(float) - frames[2])[:, 8:-8, 8:-8].mean((1, 2, 3))
    assert apply(frames, measure(frames)) == [0, 1, 2, 3, 4]
    after = np.abs(frames.astype(float) - frames[2])[:, 8:-8, 8:-8].mean((1, 2, 3))
    assert after.max() < 1 and before[[0, 4]].min() > 5


@pytest.mark.parametrize("kind", ["grey", "grey with alpha", "16 bits", "colour with alpha"])
def test_every_kind_of_frame_is_aligned(moving, kind):
    frames = moving
    if kind == "16 bits":
        frames = frames.astype(np.uint16) * 257
    elif kind != "colour with alpha":
        frames = frames[..., 1:2]
    if "alpha" in kind:
        frames = np.concatenate([frames, np.full_like(frames[..., :1], 200)], 3)
    frames = frames.copy()
    alignment = measure(frames)
    assert max(errors(alignment, MOTIONS)) < 0.1
    alignment.gains[0] = 0.5
    before = frames.copy()
    apply(frames, alignment)
    assert frames.dtype == before.dtype and frames.shape == before.shape
    inside = (slice(8, -8), slice(8, -8))
    colours = 1 if frames.shape[3] < 3 else 3
    mean = frames[0][inside][..., :colours].mean() / frames[2][inside][..., :colours].mean()
    assert mean == pytest.approx(0.5, rel=0.03)
    if "alpha" in kind:
        assert (frames[..., -1] == 200).all()


def test_what_is_still_is_left_bit_for_bit():
    picture = scene(3)
    rng = np.random.default_rng(0)
    clean = np.stack([view(defocused(picture, k / 5)) for k in range(6)])
    noisy = np.uint8(np.clip(np.rint(clean + rng.normal(0, 6, clean.shape)), 0, 255))
    for frames in (clean, noisy):
        alignment = measure(frames)
        assert not any(alignment.moved) and (alignment.gains == 1).all()
        before = frames.copy()
        apply(frames, alignment)
        np.testing.assert_array_equal(frames, before)


def test_a_frame_among_still_ones_moves_alone():
    picture = scene(4)
    frames = np.stack([view(picture, motion((0.5, 0) if k == 3 else (0, 0))) for k in range(5)])
    before = frames.copy()
    alignment = measure(frames)
    assert alignment.moved == [False, False, False, True, False]
    apply(frames, alignment)
    np.testing.assert_array_equal(frames[[0, 1, 2, 4]], before[[0, 1, 2, 4]])
    assert (frames[3] != before[3]).any()


def linear_gain(frame, gain):
    """A frame in another exposure, as a camera has it; `gain` of linear light, 1 or 3 values."""
    light = ((frame / 255 + 0.055) / 1.055) ** 2.4 * gain
    return np.uint8(np.rint(np.clip(255 * (1.055 * light ** (1 / 2.4) - 0.055), 0, 255)))


def test_exposure_and_white_balance_are_matched(moving):
    frames = moving.copy()
    frames[0] = linear_gain(frames[0], 0.8)
    frames[4] = linear_gain(frames[4], [1.1, 1, 0.9])
    alignment = measure(frames)
    assert (alignment.gains[1:4] == 1).all()
    np.testing.assert_allclose(alignment.gains[0], 0.8 ** (-1 / 2.4), rtol=0.015)
    np.testing.assert_allclose(
        alignment.gains[4], np.array([1.1, 1, 0.9]) ** (-1 / 2.4), rtol=0.015
    )
    apply(frames, alignment)
    inside = (slice(None), slice(12, -12), slice(12, -12))
    means = frames[inside].mean((1, 2))
    np.testing.assert_allclose(means, np.broadcast_to(means[2], means.shape), rtol=0.02)
    assert (measure(frames, match_exposure=False).gains == 1).all()


def test_two_hundred_frames_do_not_drift(monkeypatch):
    picture = scene(5)
    rng = np.random.default_rng(5)
    walk = np.cumsum(rng.normal(0, 0.15, (200, 2)), 0)
    motions = [motion(shift, 1 + 0.00015 * (k - 100)) for k, shift in enumerate(walk)]
    frames = np.stack([view(defocused(picture, k / 199), m) for k, m in enumerate(motions)])
    found = errors(measure(frames, match_exposure=False), motions)
    assert max(found) < 0.06
    monkeypatch.setattr(linking, "LOOPS", ())
    monkeypatch.setattr(linking, "DIRECT", (1000, 1))
    assert max(errors(measure(frames, match_exposure=False), motions)) > 1.3 * max(found)


def test_frames_far_from_one_another_are_found():
    picture = scene(6)
    motions = [motion((22, -12), 1.02, 9), motion(), motion((-18, 10), 0.97, -12)]
    alignment = measure(np.stack([view(picture, matrix) for matrix in motions]))
    assert max(errors(alignment, motions)) < 0.1


def test_a_frame_that_lies_on_its_side_is_turned():
    square = view(scene(7, 96, 96), size=(96, 96))
    turned = np.stack([square, np.rot90(square).copy(), square])
    alignment = measure(turned, 0)
    assert apply(turned, alignment) == [0, 1, 2]
    assert np.abs(turned[1].astype(int) - square).mean() < 1


def test_frames_of_another_scene_are_left_out():
    first, second = scene(8), scene(9)
    shifts = [motion((k, 0)) for k in range(5)]
    frames = np.stack(
        [view(second if k in (2, 4) else first, matrix) for k, matrix in enumerate(shifts)]
    )
    alignment = measure(frames)  # the middle is of the scene that fewer frames show
    assert alignment.reference == 1 and sorted(alignment.left_out) == [2, 4]
    assert "another scene" in alignment.left_out[2] and alignment.transforms[2] is None
    assert apply(frames, alignment) == alignment.kept == [0, 1, 3]
    alignment = measure(frames, reference=4)
    assert alignment.reference == 4 and sorted(alignment.left_out) == [0, 1, 3]


def test_black_frames_are_left_out(moving):
    frames = np.concatenate([moving[:2], np.zeros_like(moving[:1]), moving[2:4]])
    alignment = measure(frames)
    assert alignment.left_out == {2: "shows no detail"} and alignment.reference in (1, 3)
    with pytest.raises(StackError, match=r"frame c\.png, the reference, shows no detail"):
        measure(frames, 2, names=["a.png", "b.png", "c.png", "d.png", "e.png"])


def test_a_copy_lies_where_its_twin_lies(moving):
    alignment = measure(moving[[0, 1, 1, 1, 4]])
    assert alignment.moved == [True, False, False, False, True]


def test_the_order_does_not_matter(moving):
    order = [4, 0, 2, 1, 3]
    alignment = measure(moving[order])
    assert max(errors(alignment, [MOTIONS[k] for k in order])) < 0.1


def test_frames_without_detail_stay():
    rng = np.random.default_rng(1)
    plain = np.uint8(np.rint(np.full((3, 64, 64, 3), 90) + rng.normal(0, 4, (3, 64, 64, 3))))
    for frames in (plain, np.zeros_like(plain), plain[:, :5, :7], plain[:, :1, :1]):
        alignment = measure(frames)
        assert not any(alignment.moved) and alignment.kept == [0, 1, 2]
        assert (alignment.gains == 1).all()


def test_what_cannot_be_aligned_is_an_error():
    frames = np.stack([view(scene(10)), view(scene(11))])
    with pytest.raises(StackError, match=r"no other frame fits b\.png, the reference"):
        measure(frames, names=["a.png", "b.png"])
    with pytest.raises(StackError, match="there is no frame 2 to be the reference: give 0 to 1"):
        measure(frames, reference=2)


def test_progress_reaches_its_end(moving):
    said = []
    alignment = measure(moving, progress=lambda done, total: said.append((done, total)))
    assert said[-1][0] == said[-1][1] and [done for done, _ in said] == [*range(1, len(said) + 1)]
    said.clear()
    apply(moving.copy(), alignment, lambda done, total: said.append((done, total)))
    assert said == [(k, 5) for k in range(1, 6)]


def test_large_frames_are_resampled_in_parts(monkeypatch):
    picture = view(scene(12))
    matrix = motion((3.3, -2.1), 1.02, 7)
    whole, parts = picture.copy(), picture.copy()
    alignment = Alignment(0, (HEIGHT, WIDTH), [matrix], np.ones((1, 3)))
    resampling.resample(whole, alignment, 0)
    monkeypatch.setattr(resampling, "TILE", 40)
    resampling.resample(parts, alignment, 0)
    assert np.abs(whole.astype(int) - parts).max() <= 2  # places are rounded to 1/32 px
    assert (whole != picture).any()


def shifted(*shifts, size=(40, 60)):
    """The Alignment of frames that are shifted by (x, y) px against the first."""
    matrices = [np.array([[1.0, 0, x], [0, 1, y]]) for x, y in shifts]
    return Alignment(0, size, matrices, np.ones((len(shifts), 3)))


def test_what_a_frame_covers():
    alignment = shifted((0, 0), (-5, 3))
    assert covered(alignment, 0, 0, 40, 0, 60) is None
    assert covered(alignment, 1, 0, 37, 5, 60) is None
    mask = covered(alignment, 1, 10, 40, 2, 60)
    expected = np.zeros((40, 60), bool)
    expected[:37, 5:] = True
    np.testing.assert_array_equal(mask, expected[10:, 2:])


def test_the_area_that_all_frames_cover():
    assert common_area(shifted((0, 0))) == (0, 40, 0, 60)
    assert common_area(shifted((0, 0), (-5, 3), (2.5, -1))) == (1, 37, 5, 57)
    with pytest.raises(StackError, match="no area in common"):
        common_area(shifted((0, 0), (50, 0), (-50, 0)))


def test_frames_change_places_with_how_they_lie():
    alignment = shifted((0, 0), (-5, 3), (2.5, -1))
    alignment.left_out, alignment.fields = {1: "is black"}, {2: np.ones((2, 2, 2), np.float32)}
    alignment.gains[2] = 3
    other = alignment.reordered(np.array([2, 0, 1]))
    assert other.reference == 1 and other.left_out == {2: "is black"} and set(other.fields) == {0}
    assert other.gains[:, 0].tolist() == [3, 1, 1]
    for new, old in enumerate((2, 0, 1)):
        np.testing.assert_array_equal(other.transforms[new], alignment.transforms[old])


def test_the_common_area_of_turned_frames_is_covered_and_large():
    alignment = Alignment(1, (HEIGHT, WIDTH), [m.copy() for m in MOTIONS], np.ones((5, 3)))
    alignment.transforms[0] = motion((2, 0), 1, 12)
    top, bottom, left, right = common_area(alignment)
    assert all(covered(alignment, k, top, bottom, left, right) is None for k in range(5))
    masks = [covered(alignment, k, 0, HEIGHT, 0, WIDTH) for k in range(5)]
    everywhere = np.logical_and.reduce([mask for mask in masks if mask is not None])
    sums = np.pad(everywhere.astype(int), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    best = 0
    for y in range(0, HEIGHT, 2):
        for x in range(0, WIDTH, 2):
            rows, columns = np.mgrid[y + 1 : HEIGHT + 1, x + 1 : WIDTH + 1]
            inside = (
                sums[y + 1 :, x + 1 :] - sums[y, x + 1 :] - sums[y + 1 :, x : x + 1] + sums[y, x]
            )
            area = (rows - y) * (columns - x)
            best = max(best, area[inside == area].max(initial=0))
    assert (bottom - top) * (right - left) >= 0.95 * best


def test_an_alignment_is_read_as_it_was_written(moving, tmp_path):
    names = [f"{k}.png" for k in range(5)]
    alignment = measure(moving)
    alignment.left_out, alignment.transforms[3] = {3: "shows no detail"}, None
    save_alignment(tmp_path / "a.json", alignment, names)
    loaded = load_alignment(tmp_path / "a.json", names[::-1], alignment.size, 3)
    assert loaded.reference == 2 and loaded.left_out == {1: "shows no detail"}
    assert loaded.size == alignment.size and loaded.transforms[1] is None
    for k in (0, 1, 2, 4):
        np.testing.assert_array_equal(loaded.transforms[4 - k], alignment.transforms[k])
    np.testing.assert_array_equal(loaded.gains[::-1], alignment.gains)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda record: record.update(width=7), "is for frames of 7x96, these are 128x96"),
        (lambda record: record["frames"].pop("0.png"), r"does not hold 0\.png"),
        (lambda record: record.update(reference="x.png"), "is no alignment"),
        (lambda record: record.pop("frames"), "is no alignment"),
        (lambda record: record["frames"]["0.png"].update(transform=[[1, 0, 0]]), "is no alignment"),
        (lambda record: record["frames"]["0.png"].update(gains=[0.0]), "is no alignment"),
        (lambda record: record["frames"]["0.png"].update(gains=["a"]), "is no alignment"),
        (
            lambda record: record["frames"]["0.png"].update(transform=[[0, 0, 1], [0, 0, 1]]),
            "is no alignment",
        ),
        (
            lambda record: record["frames"].update({"1.png": {"left_out": "it is black"}}),
            "leaves its own reference out",
        ),
    ],
)
def test_alignments_that_do_not_fit_are_refused(tmp_path, change, sentence):
    path = tmp_path / "a.json"
    alignment = shifted((0, 0), (1, 0), size=(HEIGHT, WIDTH))
    alignment.reference = 1
    save_alignment(path, alignment, ["0.png", "1.png"])
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(StackError, match=sentence):
        load_alignment(path, ["0.png", "1.png"], (HEIGHT, WIDTH), 3)


def test_gains_of_grey_frames_are_those_of_all_colours_and_not_the_other_way_round(tmp_path):
    path, names = tmp_path / "a.json", ["0.png", "1.png"]
    alignment = shifted((0, 0), (1, 0))
    alignment.gains = np.array([[1.0], [1.5]])
    save_alignment(path, alignment, names)
    np.testing.assert_array_equal(load_alignment(path, names, (40, 60), 1).gains, [[1], [1.5]])
    loaded = load_alignment(path, names, (40, 60), 3)
    np.testing.assert_array_equal(loaded.gains, [[1, 1, 1], [1.5, 1.5, 1.5]])
    alignment.gains = np.array([[1, 1, 1], [1.5, 1.4, 1.3]])
    save_alignment(path, alignment, names)
    with pytest.raises(StackError, match="exposure for each colour, these frames are grey"):
        load_alignment(path, names, (40, 60), 1)


def test_an_alignment_of_more_frames_needs_its_reference(tmp_path):
    save_alignment(tmp_path / "a.json", shifted((0, 0), (1, 0), (2, 0)), ["a", "b", "c"])
    with pytest.raises(StackError, match="has the reference a, which is not in the stack"):
        load_alignment(tmp_path / "a.json", ["b", "c"], (40, 60), 3)
    (tmp_path / "b.json").write_text("frames")
    with pytest.raises(StackError, match="is no alignment"):
        load_alignment(tmp_path / "b.json", ["b", "c"], (40, 60), 3)


@pytest.fixture
def folder(moving, tmp_path):
    """The moving stack and a black frame, as files."""
    for k, frame in enumerate([*moving, np.zeros_like(moving[0])]):
        write_picture(tmp_path / "stack" / f"{k}.png", frame)
    return tmp_path / "stack"


def run(*words):
    align.main([str(word) for word in words])


def test_the_command_writes_the_aligned_frames(folder, moving, tmp_path, capsys):
    out, saved = tmp_path / "out", tmp_path / "alignment.json"
    run("--stack_path", folder, "--output_dir", out, "--reference", "2.png")
    said = capsys.readouterr().out
    assert "left out: frame 5.png shows no detail" in said
    assert "5 frames on 2.png, 4 moved" in said
    assert sorted(path.name for path in out.iterdir()) == [f"{k}.png" for k in range(5)]
    expected = moving.copy()
    apply(expected, measure(expected))
    for k in range(5):
        np.testing.assert_array_equal(read_picture(out / f"{k}.png"), expected[k])
    words = ("--stack_path", folder, "--output_dir")
    run(*words, tmp_path / "again", "--reference", "2", "--save_alignment", saved)
    run(*words, tmp_path / "used", "--use_alignment", saved)
    for k in range(5):
        data = (out / f"{k}.png").read_bytes()
        assert (tmp_path / "again" / f"{k}.png").read_bytes() == data
        assert (tmp_path / "used" / f"{k}.png").read_bytes() == data


def test_the_command_takes_frames_in_focus_order(tmp_path, capsys):
    """And writes them under their own names; --order given takes them as they are named."""
    frames = draw_stack(texture(256, 320, 5), 6)
    for name, k in zip("abcdef", (3, 0, 5, 1, 4, 2), strict=True):
        write_picture(tmp_path / "in" / f"{name}.png", frames[k])
    words = ["--stack_path", tmp_path / "in", "--output_dir"]
    run(*words, tmp_path / "out")
    told = "brought into it: b.png d.png f.png a.png e.png c.png"
    backwards = "brought into it: c.png e.png a.png f.png d.png b.png"
    printed = capsys.readouterr().out
    assert told in printed or backwards in printed
    for name in "abcdef":
        np.testing.assert_array_equal(
            read_picture(tmp_path / "out" / f"{name}.png"),
            read_picture(tmp_path / "in" / f"{name}.png"),
        )
    run(*words, tmp_path / "by_number", "--reference", "1")  # by name, not by place
    assert "6 frames on b.png" in capsys.readouterr().out
    run(*words, tmp_path / "given", "--order", "given")
    assert "brought into it" not in capsys.readouterr().out


def test_frames_keep_their_own_metadata_and_those_left_out_go(folder, tmp_path, capsys):
    for k in range(6):
        exif = Image.Exif()
        exif[0x0131] = f"Acme {k}"  # the software, as a stand-in for all that tells frames apart
        picture = read_picture(folder / f"{k}.png")
        write_picture(folder / f"{k}.png", picture, Metadata(exif.tobytes()[6:]))
    out = tmp_path / "out"
    write_picture(out / "5.png", np.zeros((4, 4, 3), np.uint8))  # as if it had fitted before
    run("--stack_path", folder, "--output_dir", out)
    assert sorted(path.name for path in out.iterdir()) == [f"{k}.png" for k in range(5)]
    for k in range(5):
        with Image.open(out / f"{k}.png") as image:
            assert image.getexif()[0x0131] == f"Acme {k}"


def test_known_exposures_are_left_alone_where_that_is_asked_for(folder, tmp_path, capsys):
    saved = tmp_path / "a.json"
    words = ("--stack_path", folder, "--output_dir", tmp_path / "out")
    run(*words, "--save_alignment", saved)
    record = json.loads(saved.read_text())
    record["frames"]["1.png"]["gains"] = [1.5, 1.5, 1.5]
    saved.write_text(json.dumps(record))
    capsys.readouterr()
    run(*words, "--use_alignment", saved)
    assert "exposure of 0 changed" not in capsys.readouterr().out
    run(*words, "--use_alignment", saved, "--no_match_exposure")
    assert "exposure of 0 changed" in capsys.readouterr().out


def test_a_strict_command_fails_where_a_frame_would_be_left_out(folder, tmp_path):
    with pytest.raises(StackError, match=r"frame 5\.png shows no detail: remove it"):
        run("--stack_path", folder, "--output_dir", tmp_path / "out", "--strict")
    assert not list((tmp_path / "out").glob("*"))


def test_wrong_calls(folder, tmp_path, capsys):
    with pytest.raises(StackError, match=r"--reference 9 is no frame of the stack"):
        run("--stack_path", folder, "--output_dir", tmp_path / "out", "--reference", "9")
    for words, sentence in (
        (["--output_dir", folder], "the frames would be overwritten"),
        (["--output_dir", tmp_path, "--use_alignment", "a", "--reference", "1"], "measures"),
        (
            ["--output_dir", tmp_path, "--use_alignment", "a", "--parallax", "off"],
            "measures nothing",
        ),
    ):
        with pytest.raises(SystemExit):
            run("--stack_path", folder, *words)
        assert sentence in capsys.readouterr().err


def test_frames_that_are_little_alike_must_move_farther_to_count_as_moving():
    size = (HEIGHT, WIDTH)
    moves = {}
    for likeness in (0.99, 0.85):
        pair = registration.Pair(np.eye(3), np.zeros((4, 4)), likeness, 100, 1)
        pair.transform[0, 2] = 0.6
        _, (matrix, variance, doubt) = linking.chain_of({(0, 1): pair}, 0, 2)
        limit = measure_module.SURE * np.sqrt(variance + doubt)
        moves[likeness] = farthest(matrix, size) > max(limit, measure_module.STILL)
    assert moves == {0.99: True, 0.85: False}


@pytest.mark.parametrize("size", [(4000, 6000), (375, 500), (9, 20000)])
def test_the_common_area_of_frames_of_any_size(size):
    ones = np.ones((3, 3))
    still = Alignment(1, size, [np.eye(2, 3)] * 3, ones)
    assert common_area(still) == (0, size[0], 0, size[1])
    moved = Alignment(1, size, [np.float64([[1, 0, dx], [0, 1, 0]]) for dx in (-7, 0, 4)], ones)
    assert common_area(moved) == (0, size[0], 7, size[1] - 4)
