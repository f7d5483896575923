"""Smooth ramps, by which one thing fades into another."""

import numpy as np


def smoothstep(share: np.ndarray) -> np.ndarray:
    """Rise from 0 to 1 without a slope at either end.

    Args:
        share: (...) float, how far along the ramp; below 0 and above 1 it is level.
    Returns:
        (...) in the dtype of `share`, in [0, 1].
    """
    share = np.clip(share, 0, 1)
    return share * share * (3 - 2 * share)
