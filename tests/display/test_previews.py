"""display/previews.py: the key explains the colours, films go there and back, frames stay."""

import cv2
import numpy as np
import pytest
from drawn import draw_stack, texture
from PIL import Image

from stackmff.display import previews
from stackmff.display.drawing import colour_map, reduced
from stackmff.errors import StackError
from stackmff.fusion.blending import Fused

ENDS = colour_map(np.float32([[0, 1]]))[0].astype(int)


@pytest.fixture
def stack():
    """(frames (5, 48, 64, 3), Fused)."""
    picture = texture(48, 64, 0)
    focus_map = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (48, 1))
    confidence = np.full((48, 64), 255, np.uint8)
    return np.stack(draw_stack(picture, 5)), Fused(picture, focus_map, confidence)


def test_certainty_goes_by_how_many_even_shares_a_frame_has():
    largest = np.uint8([[0, 25, 128, 255]])
    sure = previews.certainty(largest, 10)
    assert sure[0, 0] == sure[0, 1] == 0  # an even share is 25.5
    assert sure[0, 2] == sure[0, 3] == 1
    assert 0 < previews.certainty(np.uint8([[50]]), 10)[0, 0] < 1
    assert previews.certainty(largest, 2)[0, 2] < 0.1  # half is an even share of two
    assert previews.certainty(None, 10) == 1


def test_a_focus_map_is_painted_and_pale_where_it_is_unsure():
    focus_map = np.uint16([[0, 65535] * 50] * 20)
    confidence = np.full((20, 100), 255, np.uint8)
    confidence[10:] = 0
    painted = previews.focus_map_preview(focus_map, 7, confidence)
    plain = colour_map(focus_map / 65535)
    np.testing.assert_array_equal(painted[:10], plain[:10])
    assert (painted[10:20] >= plain[10:]).all() and painted[10:20].min() > 190
    np.testing.assert_array_equal(previews.focus_map_preview(focus_map, 7)[:20], plain)


@pytest.mark.parametrize("width", [200, 720, 4000])
def test_the_key_shows_the_colours_of_the_first_and_the_last_frame(width):
    key = previews.map_key(width, 12, with_confidence=True).astype(int)
    for colour in ENDS:
        assert (np.abs(key - colour).sum(2) < 6).any()
    ink = np.abs(key - previews.INK).max(2) < 90  # thin letters are mixed with the paper
    assert ink[:, : width // 10].any() and ink[:, -width // 10 :].any()
    letters = np.flatnonzero(ink[:, : width // 10].any(1))  # mark and number of the first frame
    assert 12 <= len(letters) < key.shape[0]
    assert len(key) <= max(70, width // 6)


@pytest.mark.parametrize("width", [1, 7, 40])
def test_a_key_of_any_width_can_be_drawn(width):
    assert previews.map_key(width, 3, with_confidence=True).shape[1] == width


def labels(*arguments):
    return [label for _, label in previews._ticks(*arguments)]


def test_frames_are_named_evenly_with_the_first_and_the_last():
    assert labels(16, None, 600, 12) == ["1", "4", "7", "10", "13", "16"]
    assert labels(2, None, 20, 12) == ["1", "2"]
    assert labels(1, None, 600, 12) == ["1"]
    for count in (3, 12, 36, 98, 100):
        found = labels(count, None, 600, 12)
        assert found[0] == "1" and found[-1] == str(count) and 3 <= len(found) <= 11
    assert labels(3, ["a.jpg", "b.jpg", "c.jpg"], 600, 12) == ["a", "b", "c"]
    assert labels(3, ["größe.jpg", "b.jpg", "c.jpg"], 600, 12) == ["1", "2", "3"]
    assert labels(2, ["x" * 99, "y"], 600, 12) == ["1", "2"]


def test_the_sharpest_frame_shows_the_most():
    answer = texture(48, 64, 1)
    frames = np.stack([cv2.GaussianBlur(answer, (0, 0), sigma) for sigma in (3, 1, 0.3, 2)])
    assert previews.sharpest_frame(frames) == 2
    assert previews.sharpest_frame(frames, kept=[0, 1, 3]) == 1
    assert previews.sharpest_frame(frames[..., :1].astype(np.uint16) * 257) == 2


def film(path):
    """[(picture (H, W, 3), milliseconds)] of a GIF."""
    shown = []
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        for k in range(image.n_frames):
            image.seek(k)
            shown.append((np.asarray(image.convert("RGB")), image.info["duration"]))
    return shown


def test_a_sweep_goes_there_and_back_and_holds_the_fused_picture(tmp_path):
    frames = np.stack([np.full((48, 64, 3), (50 * k, 100, 200), np.uint8) for k in range(5)])
    before = frames.copy()
    previews.sweep(frames, np.full((48, 64, 3), 255, np.uint8), tmp_path / "a.gif")
    shown = film(tmp_path / "a.gif")
    # The words are below; a palette may be off by a little.
    corners = [picture[0, 0].tolist() for picture, _ in shown]
    expected = [[50 * k, 100, 200] for k in (0, 1, 2, 3, 4, 3, 2, 1, 0)] + [[255, 255, 255]]
    np.testing.assert_allclose(corners, expected, atol=3)
    assert shown[-1][1] == max(milliseconds for _, milliseconds in shown) >= 2000
    assert all((picture[24:] > 250).any(2).any() for picture, _ in shown)
    np.testing.assert_array_equal(frames, before)


def test_a_sweep_shows_few_frames_of_many_and_only_those_kept(stack, tmp_path):
    _, fused = stack
    frames = np.stack([np.full((20, 30, 1), k, np.uint8) for k in range(200)])
    kept = list(range(10, 190))
    previews.sweep(
        frames, fused.picture[:20, :30], tmp_path / "a.gif", info=previews.FrameInfo(kept=kept)
    )
    levels = [picture[0, 0, 0] for picture, _ in film(tmp_path / "a.gif")]
    assert len(levels) == 2 * previews.SWEEP_FRAMES
    assert min(levels[:-1]) == 10 and max(levels[:-1]) == 189


def test_a_sweep_that_would_be_too_large_becomes_smaller(stack, tmp_path, monkeypatch):
    frames, fused = stack
    previews.sweep(frames, fused.picture, tmp_path / "whole.gif")
    limit = (tmp_path / "whole.gif").stat().st_size // 2
    monkeypatch.setattr(previews, "SWEEP_BYTES", limit)
    previews.sweep(frames, fused.picture, tmp_path / "a.gif")
    assert (tmp_path / "a.gif").stat().st_size <= limit
    assert max(film(tmp_path / "a.gif")[0][0].shape) < 64


def test_a_sweep_as_mp4_lasts_as_long(stack, tmp_path):
    frames, fused = stack
    path = tmp_path / "a.mp4"
    try:
        previews.sweep(frames, fused.picture, path)
    except StackError as error:
        assert "use .gif" in str(error)
        pytest.skip("this OpenCV encodes no VP9")
    video = cv2.VideoCapture(str(path))
    pictures = []
    while (picture := video.read()[1]) is not None:
        pictures.append(picture[..., ::-1])
    seconds = 2 * previews.PAUSE_SECONDS + 7 * previews.FRAME_SECONDS + previews.HOLD_SECONDS
    assert len(pictures) == pytest.approx(seconds / previews.FRAME_SECONDS, abs=1)
    assert np.abs(pictures[-1][:24].astype(int) - fused.picture[:24]).mean() < 12


def test_other_films_are_refused(stack, tmp_path):
    frames, fused = stack
    with pytest.raises(StackError, match=r"a\.avi is not named as a film: use \.gif or \.mp4"):
        previews.sweep(frames, fused.picture, tmp_path / "a.avi")
    assert not list(tmp_path.iterdir())


def test_the_previews_of_a_stack_on_disk(stack, tmp_path, monkeypatch):
    """They leave the frames as they are, and let go of each."""
    frames, fused = stack
    stored = np.memmap(tmp_path / "frames", frames.dtype, "w+", shape=frames.shape)
    stored[:] = frames
    let_go = []
    monkeypatch.setattr(previews, "release", let_go.append)
    files = previews.write_previews(tmp_path / "out", "bee", stored, fused)
    assert [file.name for file in files] == ["bee_focus.png", "bee_relief.png", "bee_sweep.gif"]
    assert sorted(files) == sorted((tmp_path / "out").iterdir())
    assert len(let_go) == len(frames)
    np.testing.assert_array_equal(stored, frames)


def test_large_maps_are_shown_small(stack):
    _, fused = stack
    small = previews.small_focus_map(fused, 5, 32)
    assert small.shape[1] == 32
    np.testing.assert_allclose(small[:24], reduced(colour_map(fused.focus_map / 65535), 32), atol=9)
    published = Fused(fused.picture, fused.focus_map, None)
    np.testing.assert_array_equal(previews.small_focus_map(published, 5, 32)[:24], small[:24])
