"""How far a fusion is, over all its stages, and how long it still takes."""

import time
from collections.abc import Sequence

from stackmff.webapp.jobs import FuseSpec, Message

# What a stage costs of a fusion, in any unit: seconds of 12 frames of 24 megapixels on two cores.
COSTS = {"reading frames": 5.0, "aligning": 12.0, "resampling": 4.0, "fusing": 18.0, "slabs": 18.0}
# What follows the last tile, and is not counted in steps: regions that moved, and writing. It took
# a fifth of the time of fusing for 6 frames of 1 megapixel on one core.
FINISHING = 3.6
DRAFT_COST = 1 / 10  # of the whole: a sixteenth of the pixels, and what does not depend on them
LEAST_SHOWN = 0.04  # of the work, from which on the time left is told
Stage = tuple[str, str | None]  # (name, part)


def stages_of(spec: FuseSpec, aligned: bool) -> list[tuple[Stage, float]]:
    """((name, part), cost) of the stages of a fusion, in their order.

    Args:
        spec: of the fusion.
        aligned: whether its frames are in register already.
    """
    names = ["reading frames", "aligning", "resampling", "fusing"]
    if spec.options.get("align") == "off":
        names = ["reading frames", "fusing"]
    out: list[tuple[Stage, float]] = []
    if spec.draft is not None:
        out += [((name, "draft"), DRAFT_COST * COSTS[name]) for name in names]
    names = ["fusing"] if aligned else names
    names += ["slabs"] if spec.options.get("slab") else []
    return out + [((name, None), COSTS[name]) for name in names]


class WorkPlan:
    """Follows the messages of a fusion; what it tells only grows.

    Args:
        stages: as of `stages_of`.
    """

    def __init__(self, stages: Sequence[tuple[Stage, float]]) -> None:
        self.stages = list(stages)
        self.total = sum(cost for _, cost in stages) + FINISHING
        self.start: float | None = None
        self.end: float | None = None  # when the work is expected to be done
        self.fraction = 0.0
        self.told: Message = {"stage": "waiting", "done": 0, "total": 0, "part": None}

    def follow(self, message: Message) -> None:
        """Take a message of worker.Reporter.stage."""
        now = time.monotonic()
        self.start = now if self.start is None else self.start
        self.told = message
        before = 0.0
        for stage, cost in self.stages:
            if stage == (message["stage"], message.get("part")):
                inside = cost * message["done"] / max(message["total"], 1)
                fraction = min((before + inside) / self.total, 1.0)
                if fraction > self.fraction and fraction >= LEAST_SHOWN:
                    self.end = self.start + (now - self.start) / fraction
                self.fraction = max(self.fraction, fraction)
                return
            before += cost

    def state(self) -> Message:
        """What the page shows: the stage, the fraction of all work, and seconds left or None.

        The fraction stays below 1, since whoever follows a plan drops it when the work is done.
        """
        left = None if self.end is None else round(max(self.end - time.monotonic(), 0.0), 1)
        return self.told | {"fraction": round(self.fraction, 4), "left": left}
