"""What the commands share: start and exit, the choice of an engine and a device, seeds."""

import random

from stackmff.fusion.engine_choice import choose_engine
from stackmff.machine import select_device
from stackmff.processes import rank_and_world, run_main

__all__ = ["choose_engine", "rank_and_world", "run_main", "seed_everything", "select_device"]


def seed_everything(seed):
    """Seed Python, NumPy and torch.

    Args:
        seed: integer from 0 to 2**32 - 1.
    """
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
