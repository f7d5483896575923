"""Regions of a picture that one frame fills, as where something moved, see fusion/ghosts.py."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import cv2
import numpy as np

from stackmff.alignment.geometry import Alignment
from stackmff.fusion.frame_views import covered_cells
from stackmff.fusion.ghosts import find_ghosts, is_of_no_frame
from stackmff.images.colour import luma
from stackmff.images.frame_store import release
from stackmff.images.ramps import smoothstep
from stackmff.images.rectangles import Box

FEATHER = 4  # cells of a region over which it fades into its surroundings
MOST_CELLS = 4096  # along a side; a record with more was not written by this program
LEAST_DETAIL = 0.85  # of that of the mixture, which a frame must have to replace what is whole
WIDE_PARALLAX = 0.02  # of the longer side; where it was corrected, much still differs beside edges
LONGEST = 1500  # px; the longer side of what sharpness is measured on, at most


@dataclass(frozen=True, eq=False)
class Region:
    """A part of a picture, in cells of a small one, and the frame that fills it.

    Attributes:
        frame: index of the frame.
        size: (height, width) of the picture, px.
        grid: (rows, columns) of the cells of the whole picture.
        top, left: of the mask, cells.
        mask: (h, w) bool, the cells that are filled.
    """

    frame: int
    size: tuple[int, int]
    grid: tuple[int, int]
    top: int
    left: int
    mask: np.ndarray
    picture: ClassVar[None] = None  # a region shows a frame, see retouch.Stroke

    def box(self, size: Sequence[int], margin: int = FEATHER + 1) -> Box:
        """The box of all that it may touch in a picture of (height, width).

        Args:
            size: of the picture, px; margin: cells around the mask.
        """
        ends = []
        for first, count, cells, whole in zip(
            (self.top, self.left), self.mask.shape, self.grid, self.size, strict=True
        ):
            ends.append((first - margin) * whole // cells)
            ends.append(-(-(first + count + margin) * whole // cells))
        return Box(*ends).common(Box.whole(size))

    def cover(self, box: Box) -> np.ndarray:
        """How much it covers the pixels of a box, the same in any box.

        Returns:
            (h, w) float32: 1 inside, fading smoothly to 0.
        """
        room = FEATHER + 1
        mask = np.pad(self.mask, room)
        away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        soft = smoothstep(1 - away / np.float32(room))
        for axis, (low, high, first) in enumerate(((*box[:2], self.top), (*box[2:], self.left))):
            scale = self.grid[axis] / self.size[axis]
            place = (np.arange(low, high) + 0.5) * scale - 0.5
            place = np.clip(place, 0, self.grid[axis] - 1) - (first - room)
            place = np.clip(place, 0, soft.shape[axis] - 1)  # there it is 0
            whole = np.minimum(place.astype(int), soft.shape[axis] - 2)
            part = (place - whole).astype(np.float32)
            part = part[:, None] if axis == 0 else part
            before, after = soft.take(whole, axis), soft.take(whole + 1, axis)
            soft = before + part * (after - before)
        return soft

    def record(self) -> dict[str, Any]:
        """The region as plain JSON values, without the frame, see `region_of`."""
        rows = []
        for row in self.mask:
            edges = np.flatnonzero(np.diff(np.pad(row.astype(np.int8), 1)))
            rows.append(edges.tolist())  # start, stop, start, stop, ...
        return {
            "size": list(self.size),
            "grid": list(self.grid),
            "top": self.top,
            "left": self.left,
            "rows": rows,
        }


def region_of(record: Any, frame: int) -> Region:
    """The Region of a record that `Region.record` made; ValueError if it is none."""
    try:
        size, grid = ((int(high), int(wide)) for high, wide in (record["size"], record["grid"]))
        top, left, rows = int(record["top"]), int(record["left"]), list(record["rows"])
        runs = [[int(edge) for edge in row] for row in rows]
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError("it is not a region") from error
    edges = [edge for row in runs for edge in row]
    width = max(edges, default=0)
    if not (min(grid) > 0 and max(grid) <= MOST_CELLS and all(map(int.__le__, grid, size))):
        raise ValueError("its cells are out of range")
    inside = 0 <= top <= grid[0] - len(runs) and 0 <= left <= grid[1] - width
    if not inside or width == 0 or min(edges) < 0 or max(size) > 1e6:
        raise ValueError("it lies outside the picture")
    mask = np.zeros((len(runs), width), bool)
    for row, ends in zip(mask, runs, strict=True):
        for start, stop in zip(ends[::2], ends[1::2], strict=True):
            row[start:stop] = True
    return Region(frame, size, grid, top, left, mask)


def moved_regions(
    frames: np.ndarray, use: Sequence[int], alignment: Alignment | None, fused: np.ndarray
) -> tuple[list[Region], str | None]:
    """The regions where something moved, each with the frame that is sharpest there.

    Where the mixture shows one frame nearly whole, and is sharper than any frame, as where a branch
    before foliage has moved against it, there is nothing to mend; but no frame shows a thing twice
    that the mixture shows twice. Where wide parallax was
    corrected, what is behind an edge comes and goes from frame to frame though nothing moves:
    there, too, the mixture stays.

    Args:
        frames: (N, H, W, C) uint8 or uint16, in register and in focus order.
        use: indices of the frames that take part, ascending.
        alignment: by which the frames were brought into register; None: each covers all pixels.
        fused: (H, W, C), their mixture, in their dtype or uint16.
    Returns:
        (regions, None), or (those that were decided, why others were not).
    """
    found = find_ghosts(frames, use, alignment, fused)
    size = (frames.shape[1], frames.shape[2])
    regions, left = [], 0
    for mask, whole in zip(found.masks, found.whole, strict=True):
        able = [k for k in use if covered_cells(alignment, k, size)[mask].all()] or list(use)
        region = _region_at(mask, size, able[0])
        details = {k: _detail(frames[k], region) for k in able}
        release(frames)
        frame = max(details, key=lambda k: details[k])
        if _parallax_in(alignment, mask) > WIDE_PARALLAX * max(size):
            left += 1
            continue
        if (
            not whole
            or details[frame] >= LEAST_DETAIL * _detail(fused, region)
            or is_of_no_frame(frames, use, alignment, fused, mask)
        ):
            regions.append(replace(region, frame=frame))
    if found.restless:
        return regions, (
            "more than half of the picture differs from frame to frame by more than blur explains: "
            + ("elsewhere " if regions else "")
            + "the frames were mixed as they are"
        )
    if left:
        return regions, (
            f"frames disagree in {left} region{'s' if left > 1 else ''} where wide parallax was "
            "corrected: they were mixed there"
        )
    return regions, None


def _parallax_in(alignment: Alignment | None, mask: np.ndarray) -> float:
    """The widest parallax, px, that was corrected in a mask (rows, columns) of the picture."""
    widest = 0.0
    for field in () if alignment is None else alignment.fields.values():
        length = np.hypot(field[..., 0], field[..., 1]).astype(np.float32)
        there = cv2.resize(length, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
        widest = max(widest, float(there[mask].max()))
    return widest


def _region_at(whole: np.ndarray, size: tuple[int, int], frame: int) -> Region:
    """The Region of a mask (rows, columns) of a whole picture of `size`."""
    cells = Box.around(whole)
    return Region(frame, size, (whole.shape[0], whole.shape[1]), *cells.corner, whole[cells.slices])


def _detail(picture: np.ndarray, region: Region) -> float:
    """How much detail a picture (H, W, C) has in a region: the mean square of its Laplacian."""
    box = region.box(region.size, margin=0)
    factor = -(-max(box.size) // LONGEST)
    high, wide = (max(side // factor, 1) for side in box.size)
    share = cv2.resize(region.mask.astype(np.float32), (wide, high), interpolation=cv2.INTER_LINEAR)
    small = cv2.resize(box.cut(picture), (wide, high), interpolation=cv2.INTER_AREA)
    small = small.reshape(high, wide, -1)
    detail = cv2.Laplacian(luma(small), cv2.CV_32F)
    return float((detail * detail * share).sum() / share.sum())


def told_regions(regions: Sequence[Region], names: Sequence[str]) -> list[str]:
    """A sentence on regions that were filled; none if there are none.

    Args:
        regions: as from `moved_regions`; names: of the frames.
    """
    if not regions:
        return []
    by = list(dict.fromkeys(names[region.frame] for region in regions))
    more = f" and {len(by) - 3} more" if len(by) > 3 else ""
    frames = ", ".join(by[:3]) + more
    if len(regions) == 1:
        what = "something moved in 1 region, which is filled from one frame"
    else:
        what = f"something moved in {len(regions)} regions, each of which is filled from one frame"
    return [f"{what} ({frames}): --ghosts keep mixes the frames there, too"]
