"""alignment/exposure.py: frames in other exposures are matched, or left out by name."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from moving import ROOM, defocused, motion, scene, squared, view

import stackmff
from stackmff.alignment.exposure import expose, light_factor, white_factor
from stackmff.alignment.focus_order import focus_order
from stackmff.alignment.measure import apply, measure
from stackmff.alignment.placement import Placement
from stackmff.alignment.registration import farthest
from stackmff.fusion.blending import CLIPPED_WEIGHT, clear_of_clipping
from stackmff.images.colour import to_linear, to_srgb


def exposed(frame, stops):
    """An 8-bit frame as a camera gives it at another exposure: linear light, clipped."""
    light = to_linear(frame / 255) * 2.0**stops
    return np.uint8(np.rint(255 * to_srgb(np.minimum(light, 1))))


@pytest.fixture(scope="module")
def dark():
    """Seven still frames of a scene, focused from left to right; little of it is bright."""
    picture = scene(12)
    return np.stack([exposed(view(defocused(picture, k / 6)), -0.6) for k in range(7)])


@pytest.fixture(scope="module")
def bright(dark):
    """The same, exposed so that most of a frame that is a stop brighter clips."""
    return np.stack([exposed(frame, 1.5) for frame in dark])


def share(frame):
    return (frame.max(-1) > 250).mean()


def ratio_at(frame, other):
    """Of two exposures of one frame, where neither is clipped."""
    both = (frame < 250) & (other < 250)
    return frame[both].mean() / other[both].mean()


@pytest.mark.parametrize("stops", [1, 1.3])
def test_a_brighter_frame_is_matched_from_what_is_not_clipped(bright, stops):
    frames = np.stack([exposed(frame, -0.7) for frame in bright])
    frames[2] = exposed(frames[2], stops)
    assert 0.02 < share(frames[2]) < 1 / 3
    alignment = measure(frames)
    assert alignment.left_out == {}
    assert alignment.gains[2] == pytest.approx(ratio_at(bright[2], exposed(bright[2], stops)), 0.1)
    assert (alignment.gains[[0, 1, 3, 4, 5, 6]] == 1).all()


def test_what_is_mostly_white_is_left_out_by_name(bright):
    for stops in (1.5, 2.5):
        frames = bright.copy()
        frames[2] = exposed(frames[2], stops)
        assert share(frames[2]) > 0.4
        alignment = measure(frames)
        assert list(alignment.left_out) == [2] and (alignment.gains == 1).all()
        assert "is white" in alignment.left_out[2]


def test_a_reference_of_another_exposure_does_not_decide_it(dark):
    frames = dark.copy()
    frames[3] = exposed(frames[3], -2)  # a misfired flash
    alignment = measure(frames, names="abcdefg")
    assert alignment.reference == 3 and (alignment.gains[[0, 1, 2, 4, 5, 6]] == 1).all()
    assert (alignment.gains[3] > 1.5).all()
    assert "exposure or white balance of d, the reference, is unlike" in alignment.notes[0]
    result = stackmff.fuse(frames)
    assert result.picture.mean() == pytest.approx(dark.mean(), rel=0.1)
    assert any("unlike most" in note for note in result.notes)


def test_a_reference_of_another_white_balance_does_not_decide_it(dark):
    frames = dark.copy()
    frames[3] = np.rint(np.minimum(frames[3] * [1.12, 1, 0.85], 255))
    alignment = measure(frames, names="abcdefg")
    assert alignment.reference == 3 and (alignment.gains[[0, 1, 2, 4, 5, 6]] == 1).all()
    assert alignment.gains[3] == pytest.approx(1 / np.array([1.12, 1, 0.85]), rel=0.02)
    assert "exposure or white balance of d, the reference, is unlike" in alignment.notes[0]


def test_a_frame_so_dark_that_it_would_show_noise_is_left_out_by_name(dark):
    frames = np.stack([exposed(frame, 1) for frame in dark])
    frames[2] = exposed(frames[2], -4.5)
    alignment = measure(frames)
    assert list(alignment.left_out) == [2] and (alignment.gains == 1).all()
    assert "4.5 stops darker than the others" in alignment.left_out[2]


def test_a_frame_left_out_for_its_exposure_does_not_bend_the_alignment(bright, monkeypatch):
    """Its edges lie where something becomes white, so its pairs are a little wrong."""
    second, wrong = Placement._seconded, squared(motion((2, 0)))

    def bent(self, key, pair):
        found = second(self, key, pair)
        return replace(found, transform=wrong @ found.transform) if key[1] == 1 else found

    monkeypatch.setattr(Placement, "_seconded", bent)
    frames = np.stack([np.roll(frame, 3 * k, 1) for k, frame in enumerate(bright[:5])])
    frames[1] = exposed(frames[1], 2)
    alignment = measure(frames)
    assert list(alignment.left_out) == [1]
    for k in (0, 2, 3, 4):
        expected = squared(motion((3 * (k - alignment.reference), 0)))
        apart = np.linalg.inv(expected) @ squared(alignment.transforms[k])
        assert farthest(apart, alignment.size) < 0.3


def test_a_much_darker_frame_gets_the_values_of_the_others(dark):
    """Linear light is multiplied: a factor on coded values leaves shadows too dark by half."""
    frames = dark.copy()
    frames[3] = exposed(frames[3], -3)
    alignment = measure(frames)
    assert alignment.in_light
    wanted = exposed(frames[3], 3).astype(int)
    apply(frames, alignment)
    # 0.05 stops change a value by 3.5 % of 2.2ths, which is 4 levels at white.
    assert np.abs(frames[3] - wanted).max() <= 4
    assert (frames[[0, 1, 2, 4, 5, 6]] == dark[[0, 1, 2, 4, 5, 6]]).all()


@pytest.mark.parametrize("factor", [1 / 8, 1 / 2, 1, 2, 8])
def test_a_gain_in_light_is_the_factor_at_white(factor):
    gain = white_factor(np.array([factor]))
    assert light_factor(gain) == pytest.approx(factor)
    ramp = np.arange(256, dtype=np.uint8).reshape(1, -1, 1)
    out = ramp.copy()
    expose(out, gain, in_light=True)
    assert (out == exposed(ramp, np.log2(factor))).all()
    if factor <= 1:
        assert out.max() == np.rint(255 * gain[0])


def test_two_frames_get_the_exposure_of_the_one_that_is_not_clipped(bright):
    frames = np.stack([exposed(frame, -0.9) for frame in bright[[2, 3]]])
    frames[1] = exposed(frames[1], 1.4)
    assert share(frames[1]) > share(frames[0]) + 0.1
    alignment = measure(frames, names="ab")
    assert alignment.reference == 1 and (alignment.gains[0] == 1).all()
    assert (alignment.gains[1] < 0.8).all()
    assert "balance of b, the reference, is unlike most, or more of it is" in alignment.notes[0]


@pytest.mark.parametrize("odd", [3, 0])
def test_colours_are_not_matched_to_a_grey_frame(dark, odd):
    frames = dark * np.float64([1, 0.8, 0.6])
    frames[odd] = frames[odd].mean(-1, keepdims=True)
    alignment = measure(np.uint8(np.rint(frames)), names=[f"{k}.png" for k in range(7)])
    assert alignment.reference == 3 and (alignment.gains == 1).all() and alignment.left_out == {}
    (note,) = told(alignment)
    assert note.startswith(f"{odd}.png: grey among frames in colour") and "not matched" in note


def test_two_frames_of_which_one_is_grey_stay_as_they_are(dark):
    frames = np.stack([dark[3], np.uint8(np.rint(dark[3].mean(-1, keepdims=True))).repeat(3, -1)])
    assert (measure(frames).gains == 1).all()


def test_a_white_reference_is_left_out_and_another_takes_its_place(bright):
    frames = bright.copy()
    frames[3] = exposed(frames[3], 2)
    alignment = measure(frames)
    assert list(alignment.left_out) == [3] and alignment.reference != 3
    assert not any(alignment.moved)
    kept = measure(frames, reference=3)
    assert kept.reference == 3 and kept.left_out == {}


def test_clipped_places_of_a_brighter_frame_never_win():
    frame, others = np.full((40, 40, 3), 90, np.uint8), np.full((40, 40, 3), 90, np.uint8)
    frame[10:20, 10:20] = 178  # white before it was darkened
    frame[30:36, 30:36] = 178
    others[5:25, 5:25] = 240  # other frames show what it is
    kept = clear_of_clipping(frame, np.array([0.7]), others)
    assert kept[12:18, 12:18].max() == pytest.approx(CLIPPED_WEIGHT, 1e-3)
    assert (kept[28:] == 1).all()  # no frame shows more
    assert kept.dtype == np.float32 and (kept[:5] == 1).all()


def test_the_result_has_no_washed_out_patch(bright):
    frames = np.stack([exposed(frame, -0.7) for frame in bright])
    clean = stackmff.fuse(frames).picture
    frames[2] = exposed(frames[2], 1.5)
    errors = np.abs(stackmff.fuse(frames).picture.astype(float) - clean)
    assert cv2.blur(errors.max(-1), (9, 9)).max() < 25


def test_a_black_frame_or_a_flash_does_not_put_the_frames_out_of_order(dark):
    wide = np.stack([np.tile(frame, (2, 3, 1)) for frame in dark])
    assert focus_order(wide) is None
    for stops in (-30, -3, 2):
        frames = wide.copy()
        frames[4] = exposed(frames[4], stops)
        assert focus_order(frames) is None


def test_the_order_is_found_beside_a_black_frame(dark):
    order = [0, 3, 1, 5, 2, 4, 6]
    frames = np.stack([np.tile(dark[k], (2, 3, 1)) for k in order])
    found = focus_order(frames)
    assert found is not None and [order[k] for k in found] == sorted(order)
    with_black = np.concatenate([frames[:2], np.zeros_like(frames[:1]), frames[2:]])
    found = focus_order(with_black)
    assert [([*order[:2], None, *order[2:]])[k] for k in found if k != 2] == sorted(order)


@pytest.fixture(scope="module")
def slanted():
    """Still frames of a plane that is slanted, blurred by up to 60 px, partly clipped."""
    picture = scene(5, 192, 256)
    width = picture.shape[1]
    picture[60:140, 40:120] += 120
    light = np.float32(to_linear(np.minimum(picture, 300) / 255))
    sigmas = np.linspace(0, 30, 17)[1:]
    blurs = np.stack([light, *(cv2.GaussianBlur(light, (0, 0), float(one)) for one in sigmas)])
    columns, rng, frames = np.arange(width), np.random.default_rng(5), []
    for focus in np.linspace(0, width - 1, 12):
        place = np.abs(columns - focus) / width * (len(blurs) - 1)
        low = place.astype(int)
        share = (place - low)[:, None, None]
        # Indices on both sides of a slice: the columns come first.
        seen = blurs[low, :, columns] * (1 - share) + blurs[low + 1, :, columns] * share
        coded = to_srgb(np.clip(seen.transpose(1, 0, 2), 0, 1))[ROOM:-ROOM, ROOM:-ROOM]
        coded = coded + rng.normal(0, 0.005, coded.shape)
        frames.append(np.uint8(np.rint(255 * np.clip(coded, 0, 1))))
    return np.stack(frames)


def told(alignment):
    """The notes on exposure."""
    return [note for note in alignment.notes if "exposure" in note]


def test_blur_is_no_flicker(slanted):
    alignment = measure(slanted)
    assert (alignment.gains == 1).all() and told(alignment) == []


def test_a_drift_that_blur_may_explain_is_told_and_not_matched(slanted):
    frames = np.stack([exposed(frame, 0.01 * (k - 6)) for k, frame in enumerate(slanted)])
    alignment = measure(frames)
    assert (alignment.gains == 1).all()
    (note,) = told(alignment)
    assert "a possible change of exposure" in note and "was not matched" in note


def test_flicker_beside_blur_is_matched(dark, slanted):
    for frames, odd in ((dark, 4), (slanted, 7)):
        frames = frames.copy()
        frames[odd] = exposed(frames[odd], 0.1)
        gains = measure(frames).gains
        assert np.delete(gains, odd, 0) == pytest.approx(1, abs=1e-9)
        # What a factor on coded values undoes of a tenth of a stop, to a quarter of it.
        assert gains[odd] == pytest.approx(ratio_at(dark[0], exposed(dark[0], 0.1)), abs=0.01)


@pytest.fixture(scope="module")
def sparse():
    """Still frames of few lights before a dark ground, as of fluorescence; 16 bits, linear."""
    rng, light = np.random.default_rng(3), np.full((192, 256), 0.005, np.float32)
    for y, x in zip(rng.integers(20, 172, 12), rng.integers(20, 236, 12)):
        cv2.circle(light, (int(x), int(y)), 7, 0.5, -1)
    blurs = [cv2.GaussianBlur(light, (0, 0), 0.5 + 1.3 * k) for k in range(9)]
    noisy = [rng.poisson(3000 * blur) / 3000 for blur in blurs]
    return np.uint16(np.rint(50000 * np.stack(noisy).clip(0, 1)))[..., None]


def test_light_that_blur_spreads_before_a_dark_ground_is_no_flicker(sparse):
    """The tiles of that ground get brighter by up to 70 %; the sum of all light stays."""
    alignment = measure(sparse)
    assert (alignment.gains == 1).all() and told(alignment) == []


def test_flicker_before_a_dark_ground_is_told(sparse):
    frames = sparse.copy()
    frames[2] = np.uint16(np.rint(0.8 * frames[2]))
    alignment = measure(frames)
    assert np.delete(alignment.gains, 2, 0) == pytest.approx(1, abs=1e-9)
    assert (alignment.gains[2] != 1).all() or told(alignment)
