"""fusion/focus_maps.py: smooth within things, not across their edges, and led by what is sure."""

import numpy as np
import pytest

from stackmff.fusion.focus_maps import smooth_map


@pytest.mark.parametrize("radius", [2, 8, 20])
def test_noise_goes_and_the_edge_of_the_picture_stays(radius):
    rng = np.random.default_rng(1)
    picture = np.full((80, 120, 3), 40, np.uint8)
    picture[:, 60:] = 200
    truth = np.where(np.arange(120) < 60, 0.2, 0.8) * np.ones((80, 1))
    noisy = np.clip(truth + rng.normal(0, 0.1, truth.shape), 0, 1)
    smooth = smooth_map(np.uint16(65535 * noisy), 1, picture, radius) / 65535
    assert np.abs(smooth - truth).mean() < 0.4 * np.abs(noisy - truth).mean()
    beside = smooth[:, 64:70].mean() - smooth[:, 50:56].mean()
    assert beside > 0.5


def test_unsure_places_follow_the_sure_ones():
    picture = np.full((60, 60, 1), 128, np.uint8)
    focus, sure = np.full((60, 60), 20000, np.uint16), np.ones((60, 60))
    focus[25:35, 25:35], sure[25:35, 25:35] = 60000, 0
    smooth = smooth_map(focus, sure, picture, 12)
    assert np.abs(smooth.astype(int) - 20000).max() < 2500
    assert smooth.dtype == np.uint16
