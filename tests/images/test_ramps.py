"""images/ramps.py: a ramp is level at both ends, and odd about its middle."""

import numpy as np

from stackmff.images.ramps import smoothstep


def test_a_smooth_step_is_level_at_its_ends_and_odd_about_its_middle():
    x = np.linspace(0, 1, 65)
    y = smoothstep(x)
    assert smoothstep(np.array([-3.0, 0, 0.5, 1, 9])).tolist() == [0, 0, 0.5, 1, 1]
    assert (np.diff(y) > 0).all()
    np.testing.assert_array_equal(y + y[::-1], 1)  # dyadic values: exact
    assert max(y[1], 1 - y[-2]) < 3 * x[1] ** 2  # 3 x^2 - 2 x^3: no linear term
    assert smoothstep(np.float32([0.25])).dtype == np.float32
