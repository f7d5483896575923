"""Scenes at camera scale by accumulation over the aperture: discs of light that edges cut.

`camera_scale` blurs each surface with its cover alone, which is fast but wrong where two surfaces
out of focus overlap: the disc of a light behind a blurred edge is dimmed there, while a lens cuts
it. `aperture.render` does what a lens does, at ten times the cost, so that some scenes alone are
rendered so.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from stackmff.synthesis.aperture import Light, Plane, Sheet, render
from stackmff.synthesis.refocus import Aperture
from stackmff.synthesis.wide_blur import Surface

MOST_WORK = 2e7  # pixels times surfaces times frames; ten seconds
MOST_CELLS = 8  # across the aperture
# Px of the circle of confusion per px of a surface; from 2 on a surface hides parts of itself.
STEEPEST = 1.6


def can_accumulate(surfaces: Sequence[Surface], count: int, coc: float, aperture: Aperture) -> bool:
    """Whether `accumulated` can render a scene, and in a few seconds.

    Args:
        surfaces: from back to front.
        count: of the frames.
        coc: circle of confusion, px per unit of disparity.
        aperture: shape of the point spread.
    """
    work = surfaces[0].alpha.size * len(surfaces) * count
    if work > MOST_WORK or aperture.softness or aperture.cut:
        return False
    relieved = [s.disparity for s in surfaces if isinstance(s.disparity, np.ndarray)]
    return all(np.hypot(*np.gradient(part)).max() * coc < STEEPEST for part in relieved)


def accumulated(
    surfaces: Sequence[Surface], focus: Sequence[float] | np.ndarray, coc: float, aperture: Aperture
) -> np.ndarray:
    """The frames that a lens takes of surfaces, (N, H, W, 3) float32 linear light.

    Args:
        surfaces: from back to front; beyond the picture they are mirrored.
        focus: (N,) disparities of the focal planes.
        coc: circle of confusion, px per unit of disparity.
        aperture: shape of the point spread; blades and rotation are used.
    """
    ends = [float(end(s.disparity)) for s in surfaces for end in (np.min, np.max)]
    largest = coc * max(max(ends) - min(focus), max(focus) - min(ends))
    margin = int(np.ceil(largest / 2)) + 4
    sheets = [sheet_of(surface, margin) for surface in surfaces]
    lens = aperture.blades, aperture.rotation, MOST_CELLS
    return render(sheets, focus, coc, margin, *lens)[0]


def sheet_of(surface: Surface, margin: int) -> Sheet:
    """A surface with a mirrored margin of some px, its lights as spots of as much light."""
    disparity: Plane | np.ndarray
    if isinstance(surface.disparity, np.ndarray):
        disparity = mirrored(surface.disparity, margin)
    else:
        disparity = Plane(float(surface.disparity))
    colour, cover = mirrored(surface.colour, margin), mirrored(surface.alpha, margin)
    return Sheet(colour, cover, disparity, spots(surface, margin))


def mirrored(plane: np.ndarray, margin: int) -> np.ndarray:
    """A plane with a mirrored margin of some px on each side."""
    sides = (margin,) * 4
    return cv2.copyMakeBorder(plane.astype(np.float32), *sides, cv2.BORDER_REFLECT_101)


def spots(surface: Surface, margin: int = 0) -> np.ndarray:
    """The lights of a surface as rows of `aperture.Sheet.lights`, moved by a margin."""
    x, y, *colour, across = surface.lights.T
    rows = [x + margin, y + margin, *colour, across / np.float32(np.sqrt(8))]
    return np.stack(rows, 1).astype(np.float32)


def add_spots(picture: np.ndarray, surface: Surface) -> None:
    """Add the lights of a surface in focus to a picture (H, W, C), in place."""
    for row in spots(surface):
        light = Light(float(row[0]), float(row[1]), row[2:5], float(row[5]), 0.0)
        light.add(picture, light.x, light.y, 0)
