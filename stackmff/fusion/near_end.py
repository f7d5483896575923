"""Which end of a stack is focused nearest, as far as it can be told.

Distances that the frames' metadata give tell it. The scale of the frames does not: a lens that
moves as a whole is farther from the sensor when focused nearer, at f u / (u - f) for a distance u
and a focal length f, and draws everything larger; many lenses with inner focusing draw it smaller,
and on a focusing rail the frames of far parts are the larger ones, as they are taken from nearer.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stackmff.display.previews import likely_near_end
from stackmff.fusion.blending import Fused
from stackmff.images.metadata import Metadata, taken_by

# Raw converters copy the focus distance, m, from the maker notes to XMP.
XMP_DISTANCE = re.compile(rb"ApproximateFocusDistance\s*[=>]\s*[\"']?(\d{1,10})/(\d{1,10})")
UNKNOWN = 2**32 - 1  # of a numerator: unknown, or infinity


@dataclass(frozen=True)
class NearEnd:
    """Which end of a stack is taken for the nearest.

    Attributes:
        first: whether the first frame is, else the last.
        why: what tells it; "user": --near says so; "picture": nothing tells it, but the middle and
            the lower part of most pictures are nearer.
    """

    first: bool
    why: Literal["user", "distance", "picture"]

    def told(self, names: Sequence[str]) -> str:
        """The sentence that says it and how to turn it round; "" if the user chose it.

        Args:
            names: of the N frames.
        """
        name = names[0 if self.first else -1]
        taken = f"the {'first' if self.first else 'last'} frame ({name})"
        turn = f"--near {'last' if self.first else 'first'} turns it round"
        return {
            "user": "",
            "distance": f"3D view: {taken} is nearest by the focus distances of the frames; {turn}",
            "picture": "3D view: it is not known which end is near; the layout of the picture "
            f"suggests {taken}; {turn}",
        }[self.why]


def find_near_end(
    chosen: Literal["first", "last"] | None,
    distances: Sequence[float | None],
    fused: Fused,
    n_frames: int,
) -> NearEnd:
    """Find out which end of a stack is focused nearest.

    Args:
        chosen: by the user; None: not.
        distances: (N,) of `focus_distances`, or none.
        fused: with its focus map.
        n_frames: N.
    """
    if chosen is not None:
        return NearEnd(chosen == "first", "user")
    first = by_distance(distances)
    if first is not None:
        return NearEnd(first, "distance")
    return NearEnd(likely_near_end(fused, n_frames), "picture")


def focus_distances(metadata: Sequence[Metadata]) -> list[float | None]:
    """The focus distance of each frame by its EXIF block or XMP packet, m; None: it has none."""
    return [_distance(one) for one in metadata]


def _distance(metadata: Metadata) -> float | None:
    """The focus distance of a frame, m: by its EXIF block, else by its XMP packet."""
    distance = None
    if metadata.exif is not None:
        distance = taken_by(io.BytesIO(metadata.exif)).distance
    found = XMP_DISTANCE.search(metadata.xmp or b"")
    if distance is None and found is not None:
        above, below = map(int, found.groups())
        if 0 < above < UNKNOWN and below > 0:
            return above / below
    return distance


def by_distance(distances: Sequence[float | None]) -> bool | None:
    """Whether the first frame is nearest by the distances, m; None: they do not tell.

    Some frames may have none. Cameras round, so that neighbours may be equal.
    """
    known = [one for one in distances if one is not None]
    steps = np.diff(known)
    if (steps > 0).any() == (steps < 0).any():  # they are all equal, or go to and fro
        return None
    return bool(known[-1] > known[0])
