"""alignment/{sensor,hot_pixels,dirt}.py: what stays on the sensor is filled, what moves is not."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from drawn import texture
from moving import defocused, errors, motion, scene, view

from stackmff.alignment import sensor
from stackmff.alignment.align import align_by_options
from stackmff.alignment.hot_pixels import hot_pixels
from stackmff.alignment.measure import Measuring, apply, measure
from stackmff.alignment.options import AlignOptions
from stackmff.alignment.record import load_alignment, save_alignment
from stackmff.alignment.sensor import Dirt, enlarged, runs_of

HEIGHT, WIDTH, COUNT = 160, 200, 9
MOTIONS = [motion((4.0 * (k - 4), 1.0 * (k - 4))) for k in range(COUNT)]
SPOTS = [(40, 50), (90, 150), (120, 60)]
HOT = [(30, 100, 0), (70, 40, 1), (100, 120, 2), (140, 180, 0)]


def frames_of(contrast=1.0):
    """A scene that moves behind the sensor, focused from the left to the right."""
    picture = 120 + contrast * (scene(3, HEIGHT, WIDTH) - 120)
    views = [
        view(defocused(picture, k / (COUNT - 1)), matrix, (WIDTH, HEIGHT))
        for k, matrix in enumerate(MOTIONS)
    ]
    noise = np.random.default_rng(0).normal(0, 1, (COUNT, HEIGHT, WIDTH, 3))
    return np.uint8(np.clip(np.rint(np.stack(views) + noise), 0, 255))


def with_spots(frames, depth):
    """Frames with round spots of dirt, which take `depth` of the light."""
    shade = np.ones((HEIGHT, WIDTH, 1), np.float32)
    for y, x in SPOTS:
        disc = cv2.circle(np.zeros((HEIGHT, WIDTH), np.float32), (x, y), 4, 1, -1)
        shade[..., 0] -= depth * cv2.GaussianBlur(disc, (0, 0), 1)
    return np.uint8(np.rint(frames * shade))


def with_hot_pixels(frames):
    frames = frames.copy()
    for y, x, channel in HOT:
        frames[:, y, x, channel] = 255
    return frames


@pytest.fixture(scope="module")
def clean():
    return frames_of()


def test_a_clean_sensor_is_found_clean(clean):
    for frames in (clean, clean[:1].repeat(COUNT, 0), np.uint16(clean) * 257):
        assert not measure(frames).dirt


@pytest.mark.parametrize("kind", ["colour", "grey", "16 bits", "dead"])
def test_hot_pixels_are_found_and_filled(clean, kind):
    frames = clean // 2  # so that nothing else is as bright
    frames = 255 - with_hot_pixels(frames) if kind == "dead" else with_hot_pixels(frames)
    if kind == "grey":
        frames = frames.max(3, keepdims=True)
    if kind == "16 bits":
        frames = np.uint16(frames) * 257
    alignment = measure(frames)
    assert alignment.dirt.hot.tolist() == sorted([y, x] for y, x, _ in HOT)
    assert alignment.dirt.spots == 0
    assert any("4 hot pixels on the sensor" in note for note in alignment.notes)
    apply(frames, alignment)
    assert len(hot_pixels(frames)) == 0
    white = np.iinfo(frames.dtype).max
    assert frames.max() < 0.9 * white or kind == "dead"
    assert max(errors(alignment, MOTIONS)) < 0.15


def test_dirt_is_found_and_filled():
    frames = with_spots(frames_of(contrast=0.5), 0.5)
    alignment = measure(frames)
    assert alignment.dirt.spots == 3 and len(alignment.dirt.hot) == 0
    assert any("3 spots of dirt on the sensor" in note for note in alignment.notes)
    assert max(errors(alignment, MOTIONS)) < 0.15
    apply(frames, alignment)
    for y, x in SPOTS:  # on frame 0, which moved by 16 px, they were elsewhere
        place = alignment.transform(0)[:, :2].T @ ([x, y] - alignment.transform(0)[:, 2])
        column, row = np.rint(place).astype(int)
        if 8 < row < HEIGHT - 8 and 8 < column < WIDTH - 8:
            part = frames[0, row - 2 : row + 3, column - 2 : column + 3].astype(float)
            true = frames[4, row - 2 : row + 3, column - 2 : column + 3].astype(float)
            assert abs(part.mean() - true.mean()) < 0.25 * true.mean()


def test_dirt_of_more_contrast_than_the_scene_does_not_hold_the_frames():
    frames = with_spots(frames_of(contrast=0.1), 0.9)
    alignment = measure(frames)
    assert sum(alignment.moved) == COUNT - 1 and alignment.dirt.spots == 3
    assert max(errors(alignment, MOTIONS)) < 0.5


def test_a_reticle_is_found_and_what_it_hides_is_taken_from_other_frames(clean):
    frames = clean.copy()
    frames[:, HEIGHT // 2], frames[:, :, WIDTH // 2] = 0, 0
    alignment = measure(frames)
    dirty = alignment.dirt.mask((HEIGHT, WIDTH))
    assert dirty[HEIGHT // 2, 30:-30].mean() > 0.9 and dirty[20:-20, WIDTH // 2].mean() > 0.9
    assert dirty.mean() < 0.05
    assert max(errors(alignment, MOTIONS)) < 0.15
    apply(frames, alignment)
    true = clean.copy()
    apply(true, replace(alignment, dirt=Dirt()))
    inner = np.s_[:, 30:-30, 30:-30]
    assert np.abs(frames[inner].astype(int) - true[inner]).mean() < 0.5
    assert (frames[inner].max(-1) > 8).all()  # no black line is left anywhere


def test_a_broad_watermark_is_told_and_left(clean):
    frames = clean.copy()
    mark = frames[:, 40:90, 70:120]
    mark[:] = mark // 2 + 127
    alignment = measure(frames)
    assert any("too broad to be filled" in note for note in alignment.notes)
    dirty = alignment.dirt.mask((HEIGHT, WIDTH))
    assert dirty is None or dirty.mean() < 0.01


def test_dirt_is_kept_where_that_is_asked_for(clean):
    frames = with_spots(with_hot_pixels(clean // 2), 0.5)
    names = [f"{k}.png" for k in range(COUNT)]
    kept = align_by_options(AlignOptions(keep_hot_pixels=True), frames, names)
    assert not kept.dirt and not any("sensor" in note for note in kept.notes)


def test_a_still_scene_keeps_its_spots(clean):
    """Nothing tells them from dirt."""
    frames = with_spots(clean[4:5].repeat(COUNT, 0), 0.5)
    before = frames.copy()
    apply(frames, measure(frames))
    np.testing.assert_array_equal(frames, before)


def test_dirt_is_in_the_file_of_the_alignment(tmp_path, clean):
    alignment = measure(with_spots(with_hot_pixels(clean // 2), 0.5))
    assert alignment.dirt.spots and len(alignment.dirt.hot)
    names = [f"{k}.png" for k in range(COUNT)]
    save_alignment(tmp_path / "a.json", alignment, names)
    loaded = load_alignment(tmp_path / "a.json", names, (HEIGHT, WIDTH), 3).dirt
    np.testing.assert_array_equal(loaded.hot, alignment.dirt.hot)
    np.testing.assert_array_equal(loaded.runs, alignment.dirt.runs)
    assert loaded.spots == alignment.dirt.spots


def test_parts_that_touch_are_filled_as_one():
    mask = np.zeros((12, 20), bool)
    mask[2:6, 2], mask[2:6, 6], mask[5, 2:7] = True, True, True  # a U
    mask[8:10, 12:15] = True
    runs = runs_of(mask)
    assert sorted(len(part) for part in sensor._connected(runs)) == [2, 7]
    frame = np.full((12, 20, 1), 50, np.uint8)
    frame[mask] = 250
    Dirt(runs=runs, spots=2).filled(frame)
    assert (frame == 50).all()
    large = enlarged(runs, 3)
    again = np.zeros((36, 60), bool)
    for row, start, stop in large:
        again[row, start:stop] = True
    np.testing.assert_array_equal(again, mask.repeat(3, 0).repeat(3, 1))


def test_runs_are_those_of_the_mask():
    mask = np.zeros((4, 6), bool)
    mask[1, 2:5], mask[3, 0], mask[3, 4:] = True, True, True
    assert runs_of(mask).tolist() == [[1, 2, 5], [3, 0, 1], [3, 4, 6]]


@pytest.mark.parametrize(
    "hot, spots, words",
    [
        (1, 0, "1 hot pixel on the sensor"),
        (2, 1, "2 hot pixels and 1 spot of dirt on"),
        (0, 2, "2 spots of dirt on"),
    ],
)
def test_what_is_told(hot, spots, words):
    (told,) = Dirt(np.full((hot, 2), 9), np.full((spots, 3), 9), spots).told()
    assert words in told and "--keep_hot_pixels" in told


def test_lines_along_the_way_of_the_scene_are_no_dirt():
    """They are in their place in all frames, but also where the scene has moved to."""
    picture = scene(5, HEIGHT, WIDTH) * 0.2 + 120
    for row in range(40, picture.shape[0] - 40, 30):
        picture[row : row + 2, 60:-60] = 30
    matrices = [motion((2.0 * (k - 4), 0)) for k in range(COUNT)]
    frames = np.stack([view(picture, matrix, (WIDTH, HEIGHT)) for matrix in matrices])
    alignment = measure(frames)
    assert sum(alignment.moved) == COUNT - 1 and not alignment.dirt


def test_a_date_stamp_does_not_hold_a_slanted_scene():
    """It alone is sharp in all frames, and what is sharp decides whether frames move."""
    height, width, count, room = 200, 280, 5, 30
    size = height + 2 * room, width + 2 * room
    coarse = cv2.resize(texture(30, 40, 1), size[::-1], interpolation=cv2.INTER_CUBIC)
    scene = np.float32(0.6 * coarse + 0.4 * texture(*size, 0))
    levels = [scene, *(cv2.GaussianBlur(scene, (0, 0), 2.0 * k) for k in range(1, count))]
    place = np.linspace(0, count - 1, size[1], dtype=np.float32)[None, :, None]
    frames = np.empty((count, height, width, 3), np.uint8)
    for k in range(count):
        shares = [np.maximum(1 - np.abs(np.abs(place - k) - j), 0) for j in range(count)]
        blurred = sum(share * level for share, level in zip(shares, levels))
        x, y = room + 3 * (k - 2), room + 2 * (k - 2)
        frames[k] = np.clip(blurred[y : y + height, x : x + width], 0, 255)
        text = frames[k].copy()
        at, colour = (60, height - 12), (255, 160, 20)
        frames[k] = cv2.putText(
            text, f"2026-11-30 16:5{k}", at, cv2.FONT_HERSHEY_SIMPLEX, 0.6, colour, 2
        )
    found = measure(frames, wanted=Measuring(match_exposure=False, local=False))
    for k in range(count):
        np.testing.assert_allclose(found.transform(k)[:, 2], [3 * (2 - k), 2 * (2 - k)], atol=0.3)
    assert any("dirt on the sensor" in note for note in found.notes)
