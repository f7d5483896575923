"""Aligns a stack: measures how its frames move and are exposed, and applies that to them."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from stackmff.alignment.exposure import FINE_TILES, Exposures, Tiles, expose, match, tiles_of
from stackmff.alignment.geometry import Alignment, colours_of
from stackmff.alignment.linking import Key, Link, Pairs, chain_of, connect, loops, settle
from stackmff.alignment.parallax import Fields, Item, Result, refine
from stackmff.alignment.registration import (
    BLOCK,
    Level,
    Motion,
    Pair,
    farthest,
    is_comparable,
    pyramid,
    register,
)
from stackmff.alignment.resampling import resample
from stackmff.alignment.stillness import moves
from stackmff.errors import StackError
from stackmff.images.colour import luma
from stackmff.images.frame_store import release
from stackmff.images.levels import Levels, levels_of
from stackmff.processes import Progress

THREADS = 2
LONGEST = 800  # px; the longer side of frames when they are compared, at most
STILL = 0.1  # px; a frame is not moved if none of its corners moves farther
SURE = 4  # standard deviations by which a corner must move before any frame is moved
PLAIN = 0.0015  # standard deviation of the coarsest luma of a frame without detail


def measure(
    frames: np.ndarray,
    reference: int | None = None,
    motion: Motion = "similarity",
    match_exposure: bool = True,
    progress: Progress | None = None,
    names: Sequence[object] | None = None,
    thorough: bool = False,
    local: bool = True,
) -> Alignment:
    """Find how the frames of a stack are brought onto one of them, and their exposures.

    Neighbours are compared first. If nothing moves, that is all. Otherwise frames farther apart are
    compared too, and all pairs are combined by least squares, so that errors do not add up.

    Args:
        frames: (N, H, W, C) uint8 or uint16, C as in images/formats.py; of frames in a file one at
            a time is read.
        reference: index of the frame that the others are aligned to; None: the middle one, N // 2,
            or if most frames do not fit it, the nearest that most fit.
        motion: of the frames.
        match_exposure: False: all gains are 1.
        progress: called with the number of steps done.
        names: of the frames, for errors; default: their indices.
        thorough: compare frames farther apart even if no neighbours seem to move.
        local: if frames move, also find how parts of them move against each other, see
            alignment/parallax.py.
    Returns:
        Alignment. Frames that show no detail, or do not fit the reference, are left out. If none
        shows detail, or frames are smaller than about 40 px, all are left as they are.
    Raises:
        StackError: there is no such reference, or fewer than two frames remain.
    """
    count, height, width, _ = frames.shape
    if reference is not None and not 0 <= reference < count:
        raise StackError(
            f"there is no frame {reference} to be the reference: give 0 to {count - 1}"
        )
    names = range(count) if names is None else names
    middle = count // 2 if reference is None else reference
    factor = _factor((height, width))
    if not is_comparable(height // factor, width // factor):
        return _unmoved(frames, middle)
    steps = _Steps(progress, 2 * count - 1)
    levels = levels_of(frames)
    views = _look_at_all(frames, levels, steps)
    if all(view.plain for view in views):  # there is nothing to compare
        return _unmoved(frames, middle)
    if reference is not None and views[reference].plain:
        raise StackError(
            f"frame {names[reference]}, the reference, shows no detail: choose another --reference"
        )
    placement = _Placement(views, (height, width), motion, steps)
    placement.connect(reference, middle)
    if len(placement.kept) < 2:
        raise StackError(
            f"no other frame fits {names[placement.reference]}, the reference: give frames of one "
            "scene, choose another --reference, or fuse them as they are with --align off"
        )
    notes: list[str] = []
    if thorough or not all(placement.still):
        placement.settle()
        notes += [] if thorough else _told_stillness(placement.hold_still())
    gains = np.ones((count, colours_of(frames)))
    if match_exposure:
        exposures = placement.exposures(lambda k: _fine_tiles(frames, levels, k), reference)
        gains = exposures.gains
        notes += _told_exposures(exposures, placement.reference, names)
    fields = placement.fields() if local and not all(placement.still) else {}
    return Alignment(
        placement.reference,
        (height, width),
        placement.final_transforms(fields),
        gains,
        placement.left_out(),
        fields,
        factor * BLOCK,
        notes,
    )


def _told_stillness(apparent: float) -> list[str]:
    """A sentence if what seems to move, by up to `apparent` px, is blur."""
    if not apparent:
        return []
    return [
        f"no frame was moved: what seems to move, by up to {apparent:.1f} px, is blur that comes "
        "and goes; --align on moves it"
    ]


def _told_exposures(exposures: Exposures, reference: int, names: Sequence[object]) -> list[str]:
    """A sentence if the frames were not given the exposure of their reference."""
    if exposures.like == reference:
        return []
    return [
        f"the exposure of {names[reference]}, the reference, is unlike most: the frames were given "
        f"that of {names[exposures.like]}"
    ]


class _Steps:
    """Calls functions for lists of items in threads, and reports the progress over all lists.

    Args:
        progress: called with the number of items done; None: not reported.
        total: the number of items expected.
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def run(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """What the function returns for each item, in their order."""
        out = []
        self.total = max(self.total, self.done + len(items))
        with ThreadPoolExecutor(THREADS) as pool:
            try:
                for result in pool.map(function, items):
                    out.append(result)
                    self.done += 1
                    if self.progress is not None:
                        self.progress(self.done, self.total)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return out


@dataclass
class _View:
    """What is kept of a frame while its stack is measured.

    Attributes:
        luma: (h, w) uint16, which takes half the memory of floats.
        factor: how much smaller than the frame it is.
        tiles: see exposure.Tiles.
        plain: whether it shows no detail.
    """

    luma: np.ndarray
    factor: int
    tiles: Tiles
    plain: bool

    def levels(self) -> list[Level]:
        """See registration.pyramid."""
        return pyramid(self.luma * np.float32(1 / 65535), self.factor)


def _factor(size: tuple[int, int]) -> int:
    """How much smaller frames of `size` (height, width) are made to be compared."""
    return -(-max(size) // LONGEST)


def _look_at_all(frames: np.ndarray, levels: Levels | None, steps: _Steps) -> list[_View]:
    """The views of (N, H, W, C) frames; `levels` are those of their stack."""

    def look(k: int) -> _View:
        view = _look_at(frames[k], levels)
        release(frames)
        return view

    return steps.run(look, range(len(frames)))


def _look_at(frame: np.ndarray, levels: Levels | None) -> _View:
    """The view of a frame (H, W, C) of a stack with these levels."""
    frame, factor = _small(frame)
    bright = luma(frame)
    if levels is not None:
        bright = np.clip(levels.stretched(bright), 0, 1)
    tiles = tiles_of(_light(frame, levels), factor)
    plain = _is_plain(bright, pyramid(bright, factor))
    return _View(np.rint(bright * 65535).astype(np.uint16), factor, tiles, plain)


def _small(frame: np.ndarray) -> tuple[np.ndarray, int]:
    """A frame (H, W, C) at the size at which it is compared, and how much smaller that is."""
    height, width, channels = frame.shape
    factor = _factor((height, width))
    rows, columns = max(height // factor, 1), max(width // factor, 1)
    if factor > 1:
        whole = frame[: rows * factor, : columns * factor]
        frame = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
        frame = frame.reshape(rows, columns, channels)  # OpenCV drops a channel axis of one
    return frame, factor


def _light(small: np.ndarray, levels: Levels | None) -> np.ndarray:
    """The colours of a small frame (h, w, C) by which its exposure is told, without alpha."""
    colours = small[..., : 3 if small.shape[2] >= 3 else 1]
    return colours if levels is None else levels.brightened(colours)


def _fine_tiles(frames: np.ndarray, levels: Levels | None, k: int) -> Tiles:
    """The fine tiles of frame k of (N, H, W, C), see exposure.match."""
    small, factor = _small(frames[k])
    release(frames)
    return tiles_of(_light(small, levels), factor, FINE_TILES)


def _is_plain(luma: np.ndarray, levels: list[Level]) -> bool:
    """Whether the coarsest level varies no more than noise makes it vary.

    Args:
        luma: (h, w) float32 in [0, 1], from which the noise is estimated.
        levels: its pyramid.
    Source of the estimate: Immerkaer, "Fast noise variance estimation", 1996.
    """
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = cv2.filter2D(luma, -1, kernel)[::2, ::2]
    noise = np.median(np.abs(response)) / (6 * 0.6745)
    kept = 0.25 * levels[0][0] / levels[-1][0]  # of the noise, after smoothing and halving
    return bool(levels[-1][1].std() < max(PLAIN, 3 * kept * noise))


class _Placement:
    """Finds where the frames of a stack are, pair by pair.

    Args:
        views: of the N frames.
        size: (height, width) of the frames, px.
        motion: of the frames.
        steps: by which the work is done.

    Attributes:
        reference: index of the frame that the others are placed on.
        pairs: the pairs of frames that hold, {(a, b): Pair}.
        chain: for each frame its Link; None if it is left out.
        transforms: for each frame (3, 3) from the reference, or None.
        still: for each frame whether it is not moved.
        reasons: {index: why, in words that follow the name} of frames that were left out although
            they fit the reference.
    """

    reference: int
    pairs: Pairs
    chain: list[Link | None]
    transforms: list[np.ndarray | None]
    still: list[bool]

    def __init__(
        self, views: list[_View], size: tuple[int, int], motion: Motion, steps: _Steps
    ) -> None:
        self.views, self.size, self.motion, self.steps = views, size, motion, steps
        self.reasons: dict[int, str] = {}

    @property
    def kept(self) -> list[int]:
        """Indices of the frames that are not left out."""
        return [k for k, link in enumerate(self.chain) if link is not None]

    def connect(self, reference: int | None, middle: int) -> None:
        """Compare neighbours, and choose the reference if it is not given.

        Args:
            reference: index, or None.
            middle: index near which it is chosen.
        """
        seen = [k for k, view in enumerate(self.views) if not view.plain]
        neighbours = list(pairwise(seen))
        found = self._compare_all(self._compare, neighbours)
        self.reference, self.pairs = connect(found, seen, reference, middle, self._compare)
        self.chain = chain_of(self.pairs, self.reference, len(self.views))
        self.transforms = [None if link is None else link.transform for link in self.chain]
        self.still = self._which_are_still(
            lambda link: SURE * float(np.sqrt(link.variance + link.doubt))
        )

    def settle(self) -> None:
        """Compare frames farther apart, and combine all pairs."""
        more = loops(self.pairs, self.transforms, self.reference)
        checks = self._compare_all(self._compare_again, more)
        self.pairs |= {key: pair for key, pair in checks.items() if pair.holds and pair.sure}
        self.transforms = settle(
            self.pairs, self.transforms, self.reference, self.size, self.motion
        )
        self.still = self._which_are_still(lambda link: float(np.sqrt(link.variance)))

    def hold_still(self) -> float:
        """Decide that no frame moves if what is sharp does not, see stillness.moves.

        Returns:
            By how many px a frame seemed to move; 0 if frames do move, or none seemed to.
        """
        levels = [view.levels()[0] for view in self.views]
        if all(self.still) or moves(levels, self.transforms, self.size, self.motion):
            return 0.0
        self.still = [True] * len(self.still)
        return max(farthest(m, self.size) for m in self.transforms if m is not None)

    def _compare_all(self, compare: Callable[[Key], Pair], keys: list[Key]) -> Pairs:
        return dict(zip(keys, self.steps.run(compare, keys)))

    def _compare(self, key: Key) -> Pair:
        """The Pair of two frames (a, b)."""
        a, b = (self.views[k].levels() for k in key)
        return register(a, b, self.size, self.motion)

    def _compare_again(self, key: Key) -> Pair:
        """The Pair of two frames (a, b), starting from what is known of them."""
        first, second = (self._transform(k) for k in key)
        a, b = (self.views[k].levels() for k in key)
        return register(a, b, self.size, self.motion, second @ np.linalg.inv(first))

    def _transform(self, k: int) -> np.ndarray:
        """The (3, 3) transform of a frame that is kept."""
        matrix = self.transforms[k]
        assert matrix is not None, f"frame {k} is left out"
        return matrix

    def _which_are_still(self, deviation: Callable[[Link], float]) -> list[bool]:
        """For each frame whether it moves too little, or too uncertainly, to be moved.

        Args:
            deviation: standard deviation, px, below which the motion of a frame is uncertain.
        """
        return [
            link is None
            or matrix is None
            or farthest(matrix, self.size) <= max(STILL, deviation(link))
            for link, matrix in zip(self.chain, self.transforms)
        ]

    def exposures(self, finer: Callable[[int], Tiles], wanted: int | None) -> Exposures:
        """Find the exposures, and leave out frames that cannot be matched; see exposure.match.

        If the reference is one of them, the frame whose exposure the others get takes its place.

        Args:
            finer: as of exposure.match.
            wanted: the reference that was asked for, which is kept; None: none was.
        """
        tiles = [view.tiles for view in self.views]
        found = match(tiles, self.pairs, self.transforms, self.reference, finer)
        if self.reference in found.unmatched and wanted is None:
            self.place_on(found.like)
        for k, why in found.unmatched.items():
            if k != self.reference:
                self.leave_out(k, why)
                found.gains[k] = 1
        return found

    def place_on(self, reference: int) -> None:
        """Make another frame the reference."""
        inverse = np.linalg.inv(self._transform(reference))
        self.reference = reference
        self.transforms = [None if m is None else m @ inverse for m in self.transforms]
        # What was still stays so only if the new reference was.
        moves = not self.still[reference]
        self.still = [k == reference or (s and not moves) for k, s in enumerate(self.still)]

    def leave_out(self, k: int, why: str) -> None:
        """Leave out a frame that was placed.

        Args:
            k: index.
            why: in words that follow the name of the frame.
        """
        self.reasons[k] = why
        self.chain[k] = self.transforms[k] = None
        self.pairs = {key: pair for key, pair in self.pairs.items() if k not in key}

    def fields(self) -> Fields:
        """See parallax.refine; without fields that hardly move frames that are not moved."""
        levels_of = [view.levels for view in self.views]
        fields = refine(
            levels_of, self.transforms, self.reference, list(self.pairs), self.steps.run
        )
        return {
            k: field
            for k, field in fields.items()
            if not self.still[k] or np.abs(field).max() > STILL
        }

    def left_out(self) -> dict[int, str]:
        """{index: why} of the frames that are left out."""
        unfit = "does not fit the reference: it shows another scene or is too blurred"
        return {
            k: "shows no detail" if self.views[k].plain else self.reasons.get(k, unfit)
            for k, matrix in enumerate(self.transforms)
            if matrix is None
        }

    def final_transforms(self, fields: Iterable[int]) -> list[np.ndarray | None]:
        """The transforms (2, 3); frames that are not moved and have no field have the identity."""
        return [
            None if matrix is None else np.eye(2, 3) if fixed and k not in fields else matrix[:2]
            for k, (matrix, fixed) in enumerate(zip(self.transforms, self.still))
        ]


def _unmoved(frames: np.ndarray, reference: int) -> Alignment:
    """The Alignment that leaves (N, H, W, C) frames as they are."""
    count, height, width, _ = frames.shape
    gains = np.ones((count, colours_of(frames)))
    return Alignment(reference, (height, width), [np.eye(2, 3) for _ in frames], gains)


def apply(frames: np.ndarray, alignment: Alignment, progress: Progress | None = None) -> list[int]:
    """Bring the frames onto the reference, in place.

    A frame that neither moves nor changes its exposure is not touched. Any other is resampled once,
    by Lanczos' kernel; beyond its border the border is repeated.

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
        if moved[k]:
            resample(frame, alignment, k)
        if (gains != 1).any():
            expose(frame, gains)
        release(frames)

    steps = _Steps(progress, len(kept))
    steps.run(bring, kept)
    return kept
