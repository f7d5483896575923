"""augmentation.py: which frames a sample has, and answers that follow what is done to them."""

import cv2
import numpy as np
import pytest

from augmentation import (
    ENDS_SHARE,
    TWICE_SHARE,
    choose_frames,
    draw_shading,
    misalign,
    pad_with_copies,
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
