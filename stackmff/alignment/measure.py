"""Aligns a stack: measures how its frames move and are exposed, and applies that to them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from stackmff.alignment.banding import fits_better, may_have_bands, without_bands
from stackmff.alignment.dirt import (
    AWAY,
    FARTHEST,
    Suspects,
    hidden,
    left_behind,
    may_hold_frames,
    suspects,
)
from stackmff.alignment.exposure import TILES, Exposures, Tiles, expose
from stackmff.alignment.filling import fill_from_others
from stackmff.alignment.focus_order import focus_order
from stackmff.alignment.geometry import Alignment, colours_of
from stackmff.alignment.hot_pixels import hot_pixels
from stackmff.alignment.linking import Key
from stackmff.alignment.placement import Placement
from stackmff.alignment.registration import BLOCK, Motion, farthest, is_comparable
from stackmff.alignment.resampling import resample
from stackmff.alignment.sensor import Dirt, enlarged, runs_of
from stackmff.alignment.stuck_lines import crossed, is_crossed, shrunk, stuck_lines
from stackmff.alignment.tones import bend, tone_curves
from stackmff.alignment.views import Steps, View, factor_of, fine_tiles, look_at_all
from stackmff.errors import StackError
from stackmff.images.frame_store import release
from stackmff.images.levels import Levels, levels_of
from stackmff.processes import Progress

MOST_TOLD = 3  # pairs of frames that a note names
LEAST_TOLD = 0.05  # EV; nobody sees less
BANDS = (
    "bands of light lie elsewhere in each frame, as of a flickering lamp: the frames were aligned "
    "without them, and the result may show them"
)
BROAD = (
    "something too broad to be filled stays in its place on the sensor, as a watermark: the result "
    "may show it"
)
TONES = "another tone curve than the neighbours, whose tones were given to it"
AT_BORDER = (
    "dirt or a watermark reaches near the border, where too few frames show the scene behind it: "
    "what lies there may not be filled, and the result may show it"
)

Placed = tuple[Placement, list[str]]  # where frames are, and what was decided on that


@dataclass(frozen=True)
class Measuring:
    """What is measured of a stack.

    Attributes:
        motion: of the frames.
        match_exposure: False: all gains are 1.
        thorough: compare frames farther apart even if no neighbours seem to move.
        local: if frames move, also find how parts of them move against each other, see
            alignment/parallax.py.
        fill_dirt: find hot pixels and dirt on the sensor, see alignment/sensor.py.
    """

    motion: Motion = "similarity"
    match_exposure: bool = True
    thorough: bool = False
    local: bool = True
    fill_dirt: bool = True


ALL = Measuring()


def measure(
    frames: np.ndarray,
    reference: int | None = None,
    wanted: Measuring = ALL,
    progress: Progress | None = None,
    names: Sequence[object] | None = None,
) -> Alignment:
    """Find how the frames of a stack are brought onto one of them, and their exposures.

    Neighbours are compared first. If nothing moves, that is all. Otherwise frames farther apart are
    compared too, and all pairs are combined by least squares, so that errors do not add up.

    Args:
        frames: (N, H, W, C) uint8 or uint16, C as in images/formats.py; of frames in a file one at
            a time is read.
        reference: index of the frame that the others are aligned to; None: the middle one, N // 2,
            or if most frames do not fit it, the nearest that most fit.
        wanted: what is measured.
        progress: called with the number of steps done.
        names: of the frames, for errors; default: their indices.
    Returns:
        Alignment. Frames that show no detail, or do not fit the reference, are left out. If none
        shows detail, or frames are smaller than about 40 px, all are left as they are.
    Raises:
        StackError: there is no such reference, or fewer than two frames remain.
    """
    count, height, width, _ = frames.shape
    size = height, width
    _check_reference(reference, count)
    motion, thorough = wanted.motion, wanted.thorough
    names = range(count) if names is None else names
    middle = count // 2 if reference is None else reference
    factor = factor_of((height, width))
    if not is_comparable(height // factor, width // factor):
        return _unmoved(frames, middle)
    steps = Steps(progress, 2 * count - 1)
    levels = levels_of(frames)
    dirt = Dirt(hot_pixels(frames)) if wanted.fill_dirt else Dirt()
    views = look_at_all(frames, levels, dirt, steps)
    if all(view.plain for view in views):  # there is nothing to compare
        return _unmoved(frames, middle)
    if reference is not None and views[reference].plain:
        raise StackError(
            f"frame {names[reference]}, the reference, shows no detail: choose another --reference"
        )

    def placed_by(views: list[View]) -> Placed:
        placement = Placement(views, size, motion, steps)
        placement.connect(reference, middle, thorough)
        return placement, _settled(placement, thorough, lambda: focus_order(frames))

    def placed(views: list[View]) -> Placed:
        found = placed_by(views)
        return _without_bands(found[0], views, placed_by) or found

    placement, notes = placed(views)
    if wanted.fill_dirt:
        moves = placement.apparent or placement.placed
        lines = crossed(stuck_lines(frames, levels), moves) if is_crossed(moves, size) else []
        if lines:
            views = _without(views, shrunk(lines, views[0].luma.shape, factor))
            placement, notes = placed(views)
        spots, (placement, notes) = _dirt_behind((placement, notes), views, placed)
        runs = [enlarged(runs_of(spots), factor), *(line.runs(size) for line in lines)]
        dirt = Dirt(dirt.hot, np.concatenate(runs), _parts(spots), len(lines))
    if len(placement.kept) < 2:
        raise StackError(
            f"no other frame fits {names[placement.reference]}, the reference: give frames of one "
            "scene, choose another --reference, or fuse them as they are with --align off"
        )
    notes += _told_edges(placement, names) + dirt.told()
    gains, in_light = np.ones((count, colours_of(frames))), False
    curves: dict[int, np.ndarray] = {}
    if wanted.match_exposure:
        curves, told = _matched_tones(placement, frames, levels, names)
        notes += told
        exposures = placement.exposures(
            lambda k: fine_tiles(frames, levels, k, curves.get(k)), reference
        )
        gains, in_light = exposures.gains, exposures.in_light
        notes += _told_exposures(exposures, placement.reference, names)
    fields = placement.fields() if wanted.local and not all(placement.still) else {}
    notes += _told_parallax(placement)
    return Alignment(
        placement.reference,
        size,
        placement.final_transforms(fields),
        gains,
        placement.left_out(),
        fields,
        factor * BLOCK,
        notes,
        dirt,
        in_light,
        {k: curve for k, curve in curves.items() if k in placement.kept},
    )


def _matched_tones(
    placement: Placement, frames: np.ndarray, levels: Levels | None, names: Sequence[object]
) -> tuple[dict[int, np.ndarray], list[str]]:
    """The curves of frames that have other tones than their neighbours, and a sentence on them.

    The tiles of their views are then those under the curves.

    Args:
        placement: of the frames.
        frames: (N, H, W, C) uint8 or uint16.
        levels: of their stack; if they are stretched, no tones are compared.
        names: of the frames.
    """
    if levels is not None:
        return {}, []
    views = placement.views

    def finer(k: int) -> Tiles:
        return fine_tiles(frames, levels, k)

    curves = tone_curves([view.tiles for view in views], placement.placed, finer)
    for k, curve in curves.items():
        views[k].tiles = fine_tiles(frames, levels, k, curve, TILES)
    if not curves:
        return {}, []
    verb = "has" if len(curves) == 1 else "have"
    return curves, [f"{', '.join(str(names[k]) for k in curves)} {verb} {TONES}"]


def _without_bands(
    placement: Placement, views: list[View], placed: Callable[[list[View]], Placed]
) -> Placed | None:
    """Where the frames are without bands of light, if there are any that misled `placement`.

    Args:
        placement: of the frames.
        views: of the frames.
        placed: finds where frames are by their views.
    """
    if all(placement.still):
        return None
    even = [without_bands(view) for view in views]
    if not may_have_bands(views, even, placement.placed):
        return None
    found, notes = placed(even)
    if not fits_better(even, placement.placed, found.placed, placement.size):
        return None
    return found, [*notes, BANDS]


def _dirt_behind(
    found: Placed, views: list[View], placed: Callable[[list[View]], Placed]
) -> tuple[np.ndarray, Placed]:
    """Dirt on the sensor, and where the frames are without it.

    Args:
        found: where the frames are with the dirt.
        views: of the frames.
        placed: finds where frames are by their views.
    Returns:
        (h, w) bool, where dirt is in the small pictures; where the frames are without it.
    """
    factor = views[0].factor
    lumas = [view.luma for view in views]

    def placed_without(dirt: np.ndarray) -> Placed:
        return placed(_without(views, dirt))

    dirt = np.zeros(lumas[0].shape, bool)
    suspected = _suspected(found[0], lumas, factor)
    if suspected is not None:
        without = placed_without(suspected.labels > 0)
        numbers = suspected.confirmed(lumas, without[0].placed, factor)
        if numbers:
            dirt, found = np.isin(suspected.labels, numbers), without
    where = {k: found[0].placed[k] for k in sorted(found[0].placed)}
    if _farthest(where, found[0].size) >= AWAY * factor:
        behind, broad, goes_on = left_behind(lumas, where, factor)
        if (behind & ~dirt).any():
            found = placed_without(dirt | behind | broad)
        dirt |= behind
        if _left(broad, dirt):
            found = found[0], [*found[1], BROAD]
        elif goes_on:
            found = found[0], [*found[1], AT_BORDER]
    return dirt, found


def _without(views: list[View], dirt: np.ndarray) -> list[View]:
    """The views without what lies in (h, w) bool."""
    return [replace(view, luma=hidden(view.luma, dirt)) for view in views]


def _suspected(placement: Placement, lumas: list[np.ndarray], factor: int) -> Suspects | None:
    """What is the same in all frames, if it may hold them where they are or they move behind it."""
    where = placement.apparent or placement.placed
    if _farthest(where, placement.size) < FARTHEST * factor and not may_hold_frames(lumas):
        return None
    found = suspects(lumas)
    if found is None or not (found.dominant or found.confirmed(lumas, where, factor)):
        return None
    return found


def _left(broad: np.ndarray, filled: np.ndarray) -> bool:
    """Whether less than half of a connected part of what is too broad (h, w) bool is filled."""
    count, parts = cv2.connectedComponents(broad.astype(np.uint8), ltype=cv2.CV_32S)
    areas, of_them = np.bincount(parts.ravel()), np.bincount(parts[filled], minlength=count)
    return bool((2 * of_them[1:] < areas[1:]).any())


def _parts(mask: np.ndarray) -> int:
    """The number of connected parts of a mask (h, w)."""
    return cv2.connectedComponents(mask.astype(np.uint8))[0] - 1


def _farthest(where: Mapping[int, np.ndarray], size: tuple[int, int]) -> float:
    """By how many px a frame is moved at most."""
    return max((farthest(matrix, size) for matrix in where.values()), default=0.0)


def _settled(
    placement: Placement, thorough: bool, find_order: Callable[[], np.ndarray | None]
) -> list[str]:
    """Settle a placement that is connected, unless nothing moves; sentences on what was decided."""
    if len(placement.kept) < 2 or (all(placement.still) and not thorough):
        return []
    deceived = placement.is_deceived_by_blur()
    if not deceived:
        placement.settle()
        deceived = placement.has_drifted()
    if deceived:
        placement.place_by_blur(find_order)
        if all(placement.still):
            return ["no frame was moved: what seems to move is blur that comes and goes"]
    return _told_blur(deceived, 0.0 if thorough else placement.hold_still())


def _told_blur(deceived: bool, apparent: float) -> list[str]:
    """A sentence if blur looked like motion.

    Args:
        deceived: whether the frames were therefore placed by their matched blur.
        apparent: px by which a frame of a stack that does not move seemed to; 0 if it moves.
    """
    if apparent:
        return [
            f"no frame was moved: what seems to move, by up to {apparent:.1f} px, is blur that "
            "comes and goes; --align on moves it"
        ]
    if deceived:
        return ["blur looked like motion: the frames were aligned by matching their blur"]
    return []


def _told_edges(placement: Placement, names: Sequence[object]) -> list[str]:
    """Sentences on frames whose edges tell another place than their brightness."""

    def told(pairs: Iterable[Key]) -> str:
        each = [f"{names[a]} and {names[b]}" for a, b in pairs]
        more = f" and {len(each) - MOST_TOLD} more pairs" if len(each) > MOST_TOLD else ""
        return ", ".join(each[:MOST_TOLD]) + more

    out = []
    if (found := placement.by_edges()) and not all(placement.still):
        out.append(
            f"{told(found)} were aligned by the strength of their edges, since their brightness "
            "does not agree"
        )
    if contested := placement.contested():
        out.append(
            f"the alignment of {told(contested)} is uncertain: their brightness, which was used, "
            f"and their edges differ by up to {max(contested.values()):.1f} px"
        )
    return out


def _told_parallax(placement: Placement) -> list[str]:
    """A sentence if something moved where parallax was measured."""
    if not placement.replaced:
        return []
    share = max(placement.replaced, 0.01)
    return [f"something moves in {share:.0%} of the picture: the parallax around it was used there"]


def _told_exposures(exposures: Exposures, reference: int, names: Sequence[object]) -> list[str]:
    """Sentences if the frames were not given the exposure of their reference, or it is not sure."""
    out = []
    if exposures.odd:
        odd = ", ".join(str(names[k]) for k in exposures.odd[:MOST_TOLD])
        more = len(exposures.odd) - MOST_TOLD
        out.append(
            f"{odd}{f' and {more} more' if more > 0 else ''}: grey among frames in colour, or the "
            "other way round: exposure and white balance were not matched, and the result is grey "
            "where grey frames are sharp"
        )
    if exposures.like != reference and reference not in exposures.odd:
        out.append(
            f"the exposure or white balance of {names[reference]}, the reference, is unlike most, "
            f"or more of it is white: the frames were given that of {names[exposures.like]}"
        )
    if exposures.doubtful >= LEAST_TOLD:
        out.append(
            f"a possible change of exposure by up to {exposures.doubtful:.2f} EV was not matched, "
            "since blur may explain it"
        )
    return out


def _check_reference(reference: int | None, count: int) -> None:
    """Raise StackError if a reference that was chosen is none of `count` frames."""
    if reference is not None and not 0 <= reference < count:
        raise StackError(
            f"there is no frame {reference} to be the reference: give 0 to {count - 1}"
        )


def _unmoved(frames: np.ndarray, reference: int) -> Alignment:
    """The Alignment that leaves (N, H, W, C) frames as they are."""
    count, height, width, _ = frames.shape
    gains = np.ones((count, colours_of(frames)))
    return Alignment(reference, (height, width), [np.eye(2, 3) for _ in frames], gains)


def apply(frames: np.ndarray, alignment: Alignment, progress: Progress | None = None) -> list[int]:
    """Bring the frames onto the reference, in place.

    A frame that neither moves nor changes its exposure is not touched, unless there is dirt on the
    sensor. Any other is resampled once; beyond its border that is repeated. What dirt hid is
    taken from the frames beside it in which it moved, or else from what surrounds it.

    Args:
        frames: (N, H, W, C) uint8 or uint16, writable.
        alignment: of these frames.
        progress: called with the number of frames done.
    Returns:
        Indices of the frames that are kept.
    """
    moved, kept = alignment.moved, alignment.kept

    def bring(k: int) -> None:
        frame = frames[k]
        gains = alignment.gains[k]
        alignment.dirt.filled(frame)
        if moved[k]:
            resample(frame, alignment, k)
        if k in alignment.curves:
            bend(frame, alignment.curves[k])
        if (gains != 1).any():
            expose(frame, gains, alignment.in_light)
        release(frames)

    steps = Steps(progress, len(kept))
    steps.run(bring, kept)
    if (dirty := alignment.dirt.mask(alignment.size)) is not None:
        for k in kept:
            fill_from_others(frames, alignment, k, dirty)
            release(frames)
    return kept
