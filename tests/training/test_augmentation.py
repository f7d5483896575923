"""training/augmentation.py: which frames a sample has, and that answers follow the frames."""

import cv2
import numpy as np
import pytest

from stackmff.training.augmentation import (
    ENDS_SHARE,
    FARTHEST_FOCUS,
    TWICE_SHARE,
    Augmentation,
    change_light,
    choose_frames,
    draw_shading,
    fringe,
    luma_of,
    misalign,
    pad_with_copies,
    recolour,
    shade,
)


def test_shading_follows_the_sharp_frame_and_is_averaged_where_frames_agree():
    rng = np.random.default_rng(0)
    answer = (0.3 + 0.2 * rng.random((32, 40))).astype(np.float32)
    blurred = np.full_like(answer, 0.4)
    stack = np.stack([blurred, answer, blurred])
    for seed in range(5):
        light = draw_shading(np.random.default_rng(seed), *stack.shape)
        assert light.shape == stack.shape and np.ptp(light) > 0
        shaded, wanted = shade(np.random.default_rng(seed), stack, answer)
        np.testing.assert_allclose(wanted, shaded[1], rtol=0.02)
        shaded, wanted = shade(np.random.default_rng(seed), np.stack([answer] * 3), answer)
        np.testing.assert_allclose(wanted, shaded.mean(0), rtol=1e-4)


def test_an_answer_moves_with_its_sharp_frame():
    rng = np.random.default_rng(0)
    answer = cv2.GaussianBlur(rng.random((48, 64)).astype(np.float32), (0, 0), 1)
    blurred = cv2.GaussianBlur(answer, (0, 0), 4)
    for sharp in range(3):
        stack = np.stack([answer if k == sharp else blurred for k in range(3)])
        moved, wanted = misalign(np.random.default_rng(1), stack, answer)
        np.testing.assert_allclose(wanted, moved[sharp], atol=0.002)
        assert sharp == 1 or np.abs(wanted - answer).mean() > 0.005  # the ends move, not the middle


def in_colour(seed, count=3):
    """A stack (N, 3, 48, 64) whose middle frame is the answer, and the answer."""
    rng = np.random.default_rng(seed)
    answer = np.stack(
        [cv2.GaussianBlur(rng.random((48, 64), np.float32), (0, 0), 1) for _ in "RGB"]
    )
    blurred = np.stack([cv2.GaussianBlur(plane, (0, 0), 4) for plane in answer])
    return np.stack([answer if k == count // 2 else blurred for k in range(count)]), answer


def test_answers_in_colour_follow_their_frames_too():
    stack, answer = in_colour(0)
    moved, wanted = misalign(np.random.default_rng(3), stack, answer)
    assert moved.shape == stack.shape
    np.testing.assert_allclose(wanted, moved[1], atol=0.003)
    shaded, wanted = shade(np.random.default_rng(3), stack, answer)
    assert np.abs(wanted - shaded[1]).mean() < 0.1 * np.abs(wanted - shaded[0]).mean()
    with_light = change_light(
        np.random.default_rng(3),
        *(np.uint8(255 * part) for part in (stack, answer)),
        Augmentation(colour=True, recolour=1, negatives=1, gain=0.2),
        np.arange(3),
    )
    np.testing.assert_array_equal(with_light[0][1], with_light[1])


def test_other_colours_keep_the_chroma_and_lower_the_luma():
    """Up to the order of the channels; an eighth of the samples is grey."""
    stack, answer = in_colour(1)
    contrasts, grey = [], 0
    for seed in range(160):
        new, wanted = recolour(np.random.default_rng(seed), stack, answer)
        np.testing.assert_array_equal(new[1], wanted)
        if np.ptp(wanted, axis=0).max() == 0:
            grey += 1
            continue
        spread = np.ptp(wanted, axis=0)
        np.testing.assert_allclose(spread, np.ptp(answer, axis=0), atol=1e-5)
        contrasts.append(luma_of(wanted, True).std() / luma_of(answer, True).std())
    assert 8 <= grey <= 34
    assert np.mean(contrasts) < 0.75 and min(contrasts) < 0.35 and max(contrasts) < 1.3


def test_fringes_leave_green_and_follow_the_sharp_frame():
    stack, answer = in_colour(2, 5)
    changes = []
    for seed in range(20):
        new, wanted = fringe(np.random.default_rng(seed), stack, answer, np.arange(5))
        np.testing.assert_array_equal(new[:, 1], stack[:, 1])
        for channel in (0, 2):  # between neighbours
            for k in range(5):
                near = stack[max(k - 1, 0) : k + 2, channel]
                assert (new[k, channel] >= near.min(0) - 1e-6).all()
                assert (new[k, channel] <= near.max(0) + 1e-6).all()
        changes.append(np.abs(new[2] - answer).mean())
        assert np.abs(wanted - new[2]).mean() < 0.2 * changes[-1] + 1e-6
    assert np.mean(changes) > 0.005
    equal = np.repeat(stack[:1], 4, 0)
    fringed = fringe(np.random.default_rng(0), equal, equal[0], np.arange(4))
    for before, after in zip((equal, equal[0]), fringed):
        np.testing.assert_allclose(after, before, atol=1e-6)


def test_fringes_go_by_the_distance_in_focus():
    """In any order of the frames, copies stay copies, and the ends of a stack hardly mix."""
    stack, answer = in_colour(4, 5)
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3], [1, 2, 2, 2, 3], [2, 2, 2]):
        order = np.array(order)
        known = fringe(np.random.default_rng(7), stack[np.unique(order)], answer, np.unique(order))
        fringed = fringe(np.random.default_rng(7), stack[order], answer, order)[0]
        np.testing.assert_allclose(
            fringed, known[0][np.searchsorted(np.unique(order), order)], atol=1e-6
        )
    for seed in range(20):
        pair = fringe(np.random.default_rng(seed), stack[[0, 2]], answer, np.array([0, 10]))[0]
        most = FARTHEST_FOCUS / 10 * np.abs(stack[2] - stack[0])
        assert (np.abs(pair - stack[[0, 2]]) <= most + 1e-6).all()


def test_a_pair_shows_the_ends_more_often_than_chance():
    rng = np.random.default_rng(0)
    pairs = [choose_frames(rng, 6, 2, "subset") for _ in range(4000)]
    ends = np.mean([sorted(pair) == [0, 5] for pair in pairs])
    # 15 pairs of 6 frames; of those with copies half draw each frame freely: 2 of 36. The others
    # keep one frame and copy it, or both.
    by_copies = 0.5 * 2 / 36 + 0.5 * 0.5 / 15
    chance = (1 - TWICE_SHARE) * (ENDS_SHARE + (1 - ENDS_SHARE) / 15) + TWICE_SHARE * by_copies
    assert ends == pytest.approx(chance, abs=0.025)


def test_copies_come_before_or_after_the_rest():
    seen = set()
    for seed in range(200):
        frames = pad_with_copies(np.random.default_rng(seed), np.array([4, 1, 7, 2, 9, 5]))
        assert len(frames) == 6
        values, counts = np.unique(frames, return_counts=True)
        assert len(values) >= 3 and (counts > 1).sum() <= 1
        seen.add(int(counts.max()))
        if counts.max() > 2:
            copied = values[counts.argmax()]
            assert frames[0] == copied or frames[-1] == copied
    assert seen == {1, 2, 3, 4}
