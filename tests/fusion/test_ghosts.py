"""fusion/ghosts.py, regions.py: what moved between frames is shown once, and nothing else is."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn import texture
from stand_ins import Engine

from stackmff.alignment.geometry import Alignment
from stackmff.errors import StackError
from stackmff.fusion.blending import Mixture
from stackmff.fusion.frame_views import as_bright, view_of
from stackmff.fusion.fuse import fuse_stack
from stackmff.fusion.ghosts import find_ghosts
from stackmff.fusion.options import ChoiceOptions, FuseOptions
from stackmff.fusion.pipeline import InRegister, fuse_aligned
from stackmff.fusion.regions import Region, moved_regions, region_of, told_regions
from stackmff.fusion.retouch import apply_strokes, load_strokes, record_of, save_strokes
from stackmff.images.frame_store import Storage, allocate
from stackmff.images.metadata import Metadata
from stackmff.images.rectangles import Box
from stackmff.images.stack import Stack

HEIGHT, WIDTH, COUNT, RADIUS = 200, 300, 5, 22
FILL, KEEP = FuseOptions(), FuseOptions(choices=ChoiceOptions(ghosts="keep"))


def sharpest(tiles):
    """Weights of whichever frame has more detail around a pixel."""
    detail = np.stack([cv2.Laplacian(plane, cv2.CV_32F) ** 2 for plane in tiles[0]])
    detail = np.stack([cv2.GaussianBlur(plane, (0, 0), 2) for plane in detail])
    weights = detail**4 + 1e-30
    return (weights / weights.sum(0))[None]


def backdrop(seed=3):
    """A picture with large and small detail, (H, W, 3) float32 in [0.15, 0.45]."""
    coarse = cv2.resize(texture(HEIGHT // 20, WIDTH // 20, seed), (WIDTH, HEIGHT))
    fine = texture(HEIGHT, WIDTH, seed + 1)
    return 0.15 + 0.3 * (0.5 * coarse + 0.5 * fine).astype(np.float32) / 255


def texture_alone(seed=5):
    """A picture of fine detail alone, (H, W, 3) float32 in [0.15, 0.45]."""
    return 0.15 + 0.3 * texture(HEIGHT, WIDTH, seed).astype(np.float32) / 255


def defocused(picture, count=COUNT, blur=1.5):
    """Frames of a slanted scene, each sharp in one upright stripe, (N, H, W, 3) float32."""
    out = []
    for k in range(count):
        away = np.abs(np.linspace(0, count - 1, WIDTH) - k)[None, :, None].astype(np.float32)
        levels = [picture, *(cv2.GaussianBlur(picture, (0, 0), blur * j) for j in range(1, count))]
        out.append(sum(np.maximum(1 - np.abs(away - j), 0) * one for j, one in enumerate(levels)))
    return np.stack(out)


def rounded(frames, dtype=np.uint8, part=1.0):
    return np.rint(np.clip(frames, 0, 1) * part * np.iinfo(dtype).max).astype(dtype)


def with_disc(frames, places, seed=9):
    """Frames with a bright textured disc at (x, y) of each; None: not in that one."""
    disc = 0.6 + 0.35 * texture(2 * RADIUS + 1, 2 * RADIUS + 1, seed).astype(np.float32) / 255
    y, x = np.mgrid[-RADIUS : RADIUS + 1, -RADIUS : RADIUS + 1]
    share = np.clip(RADIUS - np.hypot(x, y), 0, 1)[..., None].astype(np.float32)
    out = frames.copy()
    for frame, place in zip(out, places, strict=True):
        if place is not None:
            left, top = place[0] - RADIUS, place[1] - RADIUS
            part = frame[top : top + 2 * RADIUS + 1, left : left + 2 * RADIUS + 1]
            part += (disc - part) * share
    return out


def walk(step, first=(80, 100)):
    return [(first[0] + step * k, first[1]) for k in range(COUNT)]


def stack_of(frames):
    paths = [Path(f"{k}.png") for k in range(len(frames))]
    return Stack(frames, paths, Metadata(), [], [Metadata() for _ in paths])


def fused(frames, options=FILL, alignment=None, engine=None):
    found = InRegister(alignment, [], list(range(len(frames))))
    return fuse_aligned(stack_of(frames), found, engine or Engine(sharpest, tile=1024), options)


def touched(made):
    """(H, W) bool, where regions reach."""
    out = np.zeros((HEIGHT, WIDTH), bool)
    for region in made.regions:
        out |= region.cover(Box(0, HEIGHT, 0, WIDTH)) > 0
    return out


def where(places):
    """(H, W) bool, where a disc is in any frame."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.any([np.hypot(x - u, y - v) <= RADIUS for u, v in places], axis=0)


@pytest.mark.parametrize("step", [12, 30])
def test_a_disc_that_moves_is_shown_once(step):
    frames = rounded(with_disc(defocused(backdrop()), walk(step)))
    made, kept = fused(frames), fused(frames, KEEP)
    (region,) = made.regions
    inside = where(walk(step))
    assert np.array_equal(made.fused.picture[inside], frames[region.frame][inside])
    assert (kept.fused.picture[inside] != frames[region.frame][inside]).any()
    outside = ~touched(made)
    assert outside.mean() > 0.5
    assert np.array_equal(made.fused.picture[outside], kept.fused.picture[outside])
    assert made.notes == told_regions(made.regions, [f"{k}.png" for k in range(COUNT)])
    assert (
        f"something moved in 1 region, which is filled from one frame ({region.frame}.png)"
        in (made.notes[0])
    )


def test_what_moves_is_found_in_frames_that_differ_much_in_blur():
    """Neighbours keep a tenth of each other's detail, as in a stack of few frames."""
    places = walk(45, (60, 100))
    for frames in (
        with_disc(defocused(backdrop(), blur=2.0), places),
        with_disc(defocused(texture_alone(), blur=2.5), places),
    ):
        made = fused(rounded(frames))
        (region,) = made.regions
        inside = where(places)
        assert np.array_equal(made.fused.picture[inside], rounded(frames)[region.frame][inside])


def test_the_frame_of_a_region_is_the_sharpest_there():
    """The backdrop is sharpest on the left in frame 0, on the right in the last one."""
    for left, expected in ((40, 0), (255, COUNT - 1)):
        frames = defocused(backdrop())
        frames = with_disc(frames, [(left, 100 + 12 * k) for k in range(COUNT)])
        for k in range(COUNT):
            if k != expected:  # the disc, too, is sharp in one frame alone
                frames[k] = cv2.GaussianBlur(frames[k], (0, 0), 1.0)
        (region,) = fused(rounded(frames)).regions
        assert region.frame == expected


def test_the_maps_show_the_frame():
    frames = rounded(with_disc(defocused(backdrop()), walk(12)))
    made = fused(frames)
    inside = where(walk(12))
    expected = round(65535 * made.regions[0].frame / (COUNT - 1))
    assert (np.abs(made.fused.focus_map[inside].astype(int) - expected) <= 1).all()
    assert (made.fused.confidence[inside] == 255).all()


def test_what_is_in_one_frame_alone_is_shown_whole():
    places = [None, None, (150, 100), None, None]
    frames = rounded(with_disc(defocused(backdrop()), places))
    made = fused(frames)
    inside = where([(150, 100)])
    for region in made.regions:
        assert np.array_equal(made.fused.picture[inside], frames[region.frame][inside])
    assert len(made.regions) == 1


def test_keep_leaves_the_mixture():
    frames = rounded(with_disc(defocused(backdrop()), walk(12)))
    made = fused(frames, KEEP)
    whole = fuse_stack(frames, Engine(sharpest, tile=1024), Mixture())
    assert np.array_equal(made.fused.picture, whole.picture)
    assert made.regions == []
    assert made.notes == []


def test_a_network_of_luma():
    engine = Engine(lambda tiles: tiles.mean(1, keepdims=True), "luma", tile=1024)
    frames = rounded(with_disc(defocused(backdrop()), walk(12)))
    made = fused(frames, engine=engine)
    (region,) = made.regions
    inside = where(walk(12))
    assert np.array_equal(made.fused.picture[inside], frames[region.frame][inside])


@pytest.mark.parametrize(("dtype", "part"), [(np.uint16, 1.0), (np.uint16, 1 / 64)])
def test_16_bits_and_dim_stacks(dtype, part):
    frames = rounded(with_disc(defocused(backdrop()), walk(12)), dtype, part)
    assert len(fused(frames).regions) == 1
    assert fused(rounded(defocused(backdrop()), dtype, part)).regions == []


def test_grey_frames_with_alpha():
    grey = rounded(with_disc(defocused(backdrop()), walk(12)))[..., 1]
    frames = np.stack([grey, np.full_like(grey, 255)], -1)
    assert len(fused(frames).regions) == 1


def test_frames_in_a_file_give_the_same(tmp_path):
    frames = rounded(with_disc(defocused(backdrop()), walk(12)))
    stored = allocate(frames.shape, frames.dtype, Storage(tmp_path, low_memory=True))
    stored[:] = frames
    assert np.array_equal(fused(stored).fused.picture, fused(frames).fused.picture)


def test_16_bits_of_8():
    frames = rounded(with_disc(defocused(backdrop()), walk(12)))
    options = replace(FILL, format=replace(FILL.format, bits=16))
    made = fused(frames, options)
    inside = where(walk(12))
    shown = frames[made.regions[0].frame][inside]
    assert np.array_equal(made.fused.picture[inside], shown * np.uint16(257))


def no_ghosts():
    """Names and frames of scenes in which nothing moves."""
    rng = np.random.default_rng(1)
    still = defocused(backdrop())
    yield "defocus", rounded(still)
    yield "wide defocus", rounded(defocused(backdrop(), 4, 6.0))
    yield "noise", rounded(still + rng.normal(0, 0.08, still.shape))
    flicker = np.array([1.0, 0.85, 1.1, 0.9, 1.15])[:, None, None, None]
    yield "flicker", rounded(still * flicker)
    lamps = cv2.merge([np.zeros((HEIGHT, WIDTH), np.float32)] * 3)
    for x, y in rng.integers(20, (WIDTH - 20, HEIGHT - 20), (9, 2)):
        cv2.circle(lamps, (int(x), int(y)), 2, (40.0, 30.0, 20.0), -1)
    spread = []
    for k, frame in enumerate(still):
        y, x = np.mgrid[-20:21, -20:21]
        disc = np.clip(0.7 + 3.5 * k - np.hypot(x, y), 0, 1).astype(np.float32)
        light = frame**2.2 + cv2.filter2D(lamps, -1, disc / disc.sum())
        spread.append(np.minimum(light, 1) ** (1 / 2.2))
    yield "highlights that become discs", rounded(np.stack(spread))
    hairs = np.zeros((HEIGHT, WIDTH), np.float32)
    for x0, x1 in rng.integers(0, WIDTH, (12, 2)):
        cv2.line(hairs, (int(x0), 0), (int(x1), HEIGHT), 1.0, 2, cv2.LINE_AA)
    behind = []
    for k, frame in enumerate(still):
        share = cv2.GaussianBlur(hairs, (0, 0), 0.3 + 1.5 * k)[..., None]
        behind.append(frame * (1 - share) + 0.95 * share)
    yield "hairs", rounded(np.stack(behind))


@pytest.mark.parametrize(("name", "frames"), [pytest.param(*one, id=one[0]) for one in no_ghosts()])
def test_what_does_not_move_is_no_ghost(name, frames):
    made = fused(frames)
    assert made.regions == [], name
    assert made.notes == []


def test_what_a_brighter_frame_clips_is_no_ghost():
    """Once its exposure is matched, a brighter frame shows lamps darker than they are."""

    def shot(frames):
        out = np.minimum(frames, 1)
        out[2] = np.minimum(out[2] / 0.6, 1) * 0.6
        return rounded(out)

    gains = np.ones((COUNT, 3))
    gains[2] = 0.6
    alignment = Alignment(0, (HEIGHT, WIDTH), [np.eye(2, 3)] * COUNT, gains)
    frames = defocused(backdrop())
    for x, y in ((150, 100), (150, 50), (150, 150), (110, 100), (190, 100)):
        frames[:, y - 8 : y + 8, x - 8 : x + 8] += 0.5
    assert fused(shot(frames), alignment=alignment).regions == []
    moving = shot(with_disc(defocused(backdrop()), walk(12)))
    assert len(fused(moving, alignment=alignment).regions) == 1


def test_what_is_clipped_does_not_tell_brightness():
    """Half of a frame is clipped: by its means, the other one would be darkened to a half there."""
    ramp = np.linspace(40, 250, WIDTH, dtype=np.float32) + texture(HEIGHT, WIDTH, 2)[..., 0] * 0.02
    frame = np.repeat(np.uint8(ramp)[..., None], 3, 2)
    gains = np.array([[1.0] * 3, [120 / 255] * 3])
    alignment = Alignment(0, (HEIGHT, WIDTH), [np.eye(2, 3)] * 2, gains)
    whole, clipped = (
        view_of(values, 0, 255, alignment, k)
        for k, values in enumerate([frame, np.minimum(frame, 120)])
    )
    assert as_bright(whole, clipped) is clipped


def test_where_frames_end_is_no_ghost():
    """Every other frame shows something else on the left, where it ends as it was aligned."""
    frames = defocused(backdrop())
    frames[1::2, :, :25] = 0.5 + backdrop(20)[:, :25]
    ends = np.array([[1.0, 0, -25], [0, 1, 0]])
    transforms = [ends if k % 2 else np.eye(2, 3) for k in range(COUNT)]
    alignment = Alignment(0, (HEIGHT, WIDTH), list(transforms), np.ones((COUNT, 3)))
    assert fused(rounded(frames), alignment=alignment).regions == []
    assert len(fused(rounded(frames)).regions) == 1


def test_a_region_is_filled_from_a_frame_that_covers_it():
    """Only the last frame ends within the picture, on the left, where something moves."""
    places = walk(10, (40, 100))
    frames = with_disc(defocused(backdrop()), places)
    frames[:-1] = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.0) for frame in frames[:-1]])
    identity = np.eye(2, 3)
    shift = np.array([[1.0, 0, -30], [0, 1, 0]])
    alignment = Alignment(
        0, (HEIGHT, WIDTH), [identity] * (COUNT - 1) + [shift], np.ones((COUNT, 3))
    )
    found, _ = moved_regions(rounded(frames), range(COUNT), alignment, rounded(frames).max(0))
    assert found
    assert all(region.frame < COUNT - 1 for region in found)


@pytest.mark.parametrize(("parallax", "count"), [(0, 1), (2, 1), (12, 0)])
def test_where_wide_parallax_was_corrected_the_mixture_stays(parallax, count):
    """Beside edges frames then differ though nothing moves, and no frame is sharp in all of it."""
    frames = rounded(with_disc(defocused(backdrop()), walk(10)))
    identity = np.eye(2, 3)
    field = np.zeros((-(-HEIGHT // 16), -(-WIDTH // 16), 2), np.float32)
    field[..., 0] = parallax
    alignment = Alignment(
        0, (HEIGHT, WIDTH), [identity] * COUNT, np.ones((COUNT, 3)), fields={2: field}, spacing=16
    )
    found, why = moved_regions(frames, range(COUNT), alignment, frames.max(0))
    assert len(found) == count
    assert (why is None) == (count > 0)


def test_where_most_of_the_picture_moves_the_frames_are_mixed():
    frames = np.stack([backdrop()] * 6)
    for k, frame in enumerate(frames):
        frame[:, 45 * k + 20 : 45 * k + 60] += 0.5
    made = fused(rounded(frames))
    assert made.regions == []
    assert [note[:30] for note in made.notes] == ["more than half of the picture "]


def test_what_moves_may_be_too_large_to_be_filled():
    """A wall before the scene: two frames alone differ in nearly half of the picture."""
    frames = defocused(backdrop())
    coarse = cv2.resize(texture(8, 8, 11), (150, 160), interpolation=cv2.INTER_NEAREST)
    for k, frame in enumerate(frames):
        frame[20:180, 35 * k : 35 * k + 150] = 0.2 + 0.7 * coarse / 255
    made = fused(rounded(frames))
    assert any("more than half of the picture differs" in note for note in made.notes)


def test_small_frames_and_flat_ones():
    small = rounded(with_disc(defocused(backdrop()), walk(12)))[:, 60:140]
    assert find_ghosts(small, range(COUNT), None, small[0]).masks == []
    flat = np.full((3, 120, 120, 3), 7, np.uint8)
    assert find_ghosts(flat, range(3), None, flat[0]).masks == []


def region(frame=1):
    mask = np.zeros((9, 12), bool)
    mask[0], mask[3:, 2:7], mask[8, 10:] = True, True, True
    return Region(frame, (60, 90), (30, 40), 5, 20, mask)


def test_windows_of_a_region_are_parts_of_the_whole():
    one = region()
    whole = one.cover(Box(0, 60, 0, 90))
    assert np.array_equal(one.cover(Box(11, 40, 33, 77)), whole[11:40, 33:77])
    outside = whole.copy()
    outside[one.box((60, 90)).slices] = 0
    assert not outside.any()
    assert whole[22, 54] == 1  # in cell (11, 24)
    assert 0 < whole[12, 54] < 1  # in cell (6, 24), beside the row above


def test_a_region_is_replayed_from_a_file(tmp_path):
    frames = np.stack([texture(60, 90, k) for k in range(3)])
    names = ["a.png", "b.png", "c.png"]
    save_strokes(tmp_path / "s.json", [region()], names, (60, 90))
    (again,) = load_strokes(tmp_path / "s.json", names, (60, 90))
    assert record_of(again, names) == record_of(region(), names)
    pictures = [frames[0].copy(), frames[0].copy()]
    apply_strokes(pictures[0], frames, [region()])
    apply_strokes(pictures[1], frames, [again])
    assert np.array_equal(*pictures)
    core = region().cover(Box(0, 60, 0, 90)) == 1
    assert np.array_equal(pictures[0][core], frames[1][core])


def test_another_frame_takes_the_place_of_the_first():
    """A region that is filled anew needs no mixture where the first filled it whole."""
    frames = np.stack([texture(60, 90, k) for k in range(3)])
    picture = frames[0].copy()
    apply_strokes(picture, frames, [region(1), replace(region(), frame=2)])
    core = region().cover(Box(0, 60, 0, 90)) == 1
    assert np.array_equal(picture[core], frames[2][core])


@pytest.mark.parametrize(
    "change",
    [
        {"grid": [0, 40]},
        {"grid": [30, 10**9]},
        {"top": 29},
        {"left": -1},
        {"rows": [[5]]},
        {"rows": [[-3, 4]]},
        {"rows": [["a", 3]]},
        {"rows": []},
        {"size": [60]},
        {"top": None},
    ],
)
def test_what_is_no_region_is_refused(change, tmp_path):
    record = region().record() | change
    with pytest.raises(ValueError, match=r"."):
        region_of(record, 0)
    path = tmp_path / "s.json"
    entry = {"frame": "a.png", "region": record}
    path.write_text(json.dumps({"width": 90, "height": 60, "strokes": [entry]}))
    with pytest.raises(StackError, match="stroke 1 cannot be painted"):
        load_strokes(path, ["a.png"], (60, 90))


def test_a_region_of_an_unknown_frame_is_refused(tmp_path):
    path = tmp_path / "s.json"
    entry = {"frame": "x.png", "region": region().record()}
    path.write_text(json.dumps({"width": 90, "height": 60, "strokes": [entry]}))
    with pytest.raises(StackError, match=r"x\.png is not in the stack"):
        load_strokes(path, ["a.png"], (60, 90))


def test_what_is_told_of_many_regions():
    regions = [replace(region(), frame=k) for k in (0, 1, 1, 2, 3)]
    (note,) = told_regions(regions, list("abcd"))
    assert note.startswith(
        "something moved in 5 regions, each of which is filled from one frame (a, b, c and 1"
    )
