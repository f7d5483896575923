"""Measures how the frames of a stack lie, and applies it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from stackmff.alignment.exposure import Tiles, expose, match, tiles_of
from stackmff.alignment.geometry import Alignment, colours_of
from stackmff.alignment.linking import chain_of, connect, loops, settle
from stackmff.alignment.options import AlignOptions
from stackmff.alignment.parallax import refine
from stackmff.alignment.record import load_alignment, save_alignment
from stackmff.alignment.registration import BLOCK, farthest, is_comparable, pyramid, register
from stackmff.alignment.resampling import resample
from stackmff.errors import StackError
from stackmff.files import natural_key
from stackmff.images.colour import luma
from stackmff.images.frame_store import release
from stackmff.processes import Progress

THREADS = 2
LONGEST = 800  # px; frames are compared at most at this size
STILL = 0.1  # px; a frame that no corner of moves farther is left as it is
SURE = 4  # standard deviations, before anything is moved
PLAIN = 0.0015  # deviation of the coarsest luma of a frame without detail


@dataclass
class _View:
    """What is kept of a frame while a stack is measured.

    Attributes:
        luma: (h, w) uint16, as codes, since a long stack has many.
        factor: how much smaller than the frame it is.
        tiles: see exposure.Tiles.
        plain: whether it shows no detail.
    """

    luma: np.ndarray
    factor: int
    tiles: Tiles
    plain: bool

    def levels(self):
        """See registration.pyramid."""
        return pyramid(self.luma * np.float32(1 / 65535), self.factor)


def measure(
    frames,
    reference=None,
    motion="similarity",
    match_exposure=True,
    progress=None,
    names=None,
    thorough=False,
    local=True,
):
    """Find how the frames of a stack lie on one of them, and their exposures.

    Neighbours are compared first. Where that shows that nothing moves, all is done; else frames
    farther apart are compared too, and all that is known is brought together by least squares, so
    that the errors of the steps do not add up.

    Args:
        frames: (N, H, W, C) uint8 or uint16, C as in images/formats.py; on disk one at a time is touched.
        reference: index of the frame that stays; None: the middle, N // 2, or the nearest that
            shows the scene of the most frames.
        motion: "similarity" (shift, scale, rotation) or "affine".
        match_exposure: False: all gains are 1.
        progress: called as progress(steps done, steps in all).
        names: of the frames, for the errors; default their numbers from 0.
        thorough: compare frames farther apart also where no neighbours seem to move.
        local: where frames move, also find how parts of them move against one another, see
            alignment/parallax.py.
    Returns:
        Alignment. Frames are left out that show no detail, or not what the reference shows; where
        none shows any, or they are smaller than some 40 px, all are left as they are.
    Raises:
        StackError: no such reference, or fewer than two frames are left.
    """
    count, *size, _ = frames.shape
    if reference is not None and not 0 <= reference < count:
        raise StackError(
            f"there is no frame {reference} to be the reference: give 0 to {count - 1}"
        )
    names = range(count) if names is None else names
    middle = count // 2 if reference is None else reference
    factor = _factor(size)
    if not is_comparable(*(side // factor for side in size)):
        return _unmoved(frames, middle)
    steps = _Steps(progress, 2 * count - 1)

    def look(k):
        view = _look_at(frames[k])
        release(frames)
        return view

    views = steps.run(look, range(count))
    seen = [k for k in range(count) if not views[k].plain]
    if not seen:  # cannot be told
        return _unmoved(frames, middle)
    if reference is not None and views[reference].plain:
        raise StackError(
            f"frame {names[reference]}, the reference, shows no detail: choose another --reference"
        )
    compare = partial(_compare, views, tuple(size), motion)
    neighbours = list(pairwise(seen))
    found = dict(zip(neighbours, steps.run(compare, neighbours)))
    reference, pairs = connect(found, seen, reference, middle, compare)
    chain = chain_of(pairs, reference, count)
    if sum(way is not None for way in chain) < 2:
        raise StackError(
            f"no other frame fits {names[reference]}, the reference: give frames of one scene, "
            "choose another --reference, or fuse them as they are with --align off"
        )
    transforms = [None if way is None else way[0] for way in chain]
    still = [
        way is None or _is_still(way[0], size, SURE * np.sqrt(way[1] + way[2])) for way in chain
    ]
    if thorough or not all(still):
        more = loops(pairs, transforms, reference)
        again = partial(_compare_again, views, tuple(size), motion, transforms)
        checks = zip(more, steps.run(again, more))
        pairs |= {key: pair for key, pair in checks if pair.holds and pair.sure}
        transforms = settle(pairs, transforms, reference, size, motion)
        still = [
            way is None or _is_still(matrix, size, np.sqrt(way[1]))
            for matrix, way in zip(transforms, chain)
        ]
    left_out = {
        k: "shows no detail"
        if views[k].plain
        else "does not fit the reference: it shows another scene or is too blurred"
        for k in range(count)
        if transforms[k] is None
    }
    gains = np.ones((count, views[0].tiles.light.shape[-1]))
    if match_exposure:
        gains = match([view.tiles for view in views], pairs, transforms, reference)
    fields = {}
    if local and not all(still):
        levels_of = [view.levels for view in views]
        fields = refine(levels_of, transforms, reference, list(pairs), steps.run)
        fields = {
            k: field for k, field in fields.items() if not still[k] or np.abs(field).max() > STILL
        }
    final = [
        None if matrix is None else np.eye(2, 3) if fixed and k not in fields else matrix[:2]
        for k, (matrix, fixed) in enumerate(zip(transforms, still))
    ]
    return Alignment(reference, tuple(size), final, gains, left_out, fields, factor * BLOCK)


class _Steps:
    """Calls functions for lists of items in threads and tells a progress."""

    def __init__(self, progress, total):
        self.progress, self.total, self.done = progress, total, 0

    def run(self, function, items):
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


def _unmoved(frames, reference):
    """The Alignment that leaves (N, H, W, C) frames as they are."""
    transforms = [np.eye(2, 3) for _ in frames]
    gains = np.ones((len(frames), colours_of(frames)))
    return Alignment(reference, frames.shape[1:3], transforms, gains)


def _factor(size):
    """How much smaller frames of `size` (height, width) are made to be compared."""
    return -(-max(size) // LONGEST)


def _look_at(frame):
    """The _View of a frame (H, W, C)."""
    height, width, channels = frame.shape
    factor = _factor((height, width))
    rows, columns = max(height // factor, 1), max(width // factor, 1)
    if factor > 1:
        whole = frame[: rows * factor, : columns * factor]
        frame = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
        frame = frame.reshape(rows, columns, channels)  # OpenCV drops a channel axis of one
    bright = luma(frame)
    tiles = tiles_of(frame[..., : 3 if channels >= 3 else 1], factor)
    plain = _is_plain(bright, pyramid(bright, factor))
    return _View(np.rint(bright * 65535).astype(np.uint16), factor, tiles, plain)


def _is_plain(luma, levels):
    """Whether the coarsest level varies no more than the noise of the luma (h, w) makes it.

    Source of the estimate of the noise: Immerkaer, "Fast noise variance estimation", 1996.
    """
    kernel = np.float32([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    response = cv2.filter2D(luma, -1, kernel)[::2, ::2]
    noise = np.median(np.abs(response)) / (6 * 0.6745)
    kept = 0.25 * levels[0][0] / levels[-1][0]  # by the smoothing and the halving
    return bool(levels[-1][1].std() < max(PLAIN, 3 * kept * noise))


def _compare(views, size, motion, key):
    """The Pair of two frames (a, b)."""
    return register(views[key[0]].levels(), views[key[1]].levels(), size, motion)


def _compare_again(views, size, motion, transforms, key):
    """The Pair of two frames (a, b) that lie about as `transforms` say."""
    a, b = key
    guess = transforms[b] @ np.linalg.inv(transforms[a])
    return register(views[a].levels(), views[b].levels(), size, motion, guess)


def _is_still(matrix, size, deviation):
    """Whether a frame moves so little, or it is so unsure, that it is better left as it is."""
    return farthest(matrix, size) <= max(STILL, deviation)


def apply(frames, alignment, progress=None):
    """Bring the frames onto the reference, in place.

    A frame that neither moves nor changes its exposure is untouched, bit for bit; any other is
    resampled once, by Lanczos' kernel, and continued beyond its border by its border.

    Args:
        frames: (N, H, W, C) uint8 or uint16, writable.
        alignment: Alignment of these frames.
        progress: called as progress(frames done, frames in all).
    Returns:
        List of the indices of the frames that are kept.
    """
    moved, kept = alignment.moved, alignment.kept

    def bring(k):
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


def find_reference(word, names):
    """The index of the frame that --reference names; None for None.

    Args:
        word: a file name, or a number from 0 in natural order of the names, whatever theirs is.
        names: of the frames' files.
    Raises:
        StackError: there is no such frame.
    """
    if word is None or word in names:
        return None if word is None else list(names).index(word)
    if word.isdecimal() and int(word) < len(names):
        return list(names).index(sorted(names, key=natural_key)[int(word)])
    raise StackError(
        f"--reference {word} is no frame of the stack: give a file's name, or 0 to {len(names) - 1}"
    )


def align_by_options(
    options: AlignOptions,
    frames: np.ndarray,
    names: Sequence[str],
    save: Path | None = None,
    use: Path | None = None,
    progress: Progress | None = None,
    thorough: bool = False,
) -> Alignment:
    """The Alignment of a stack that its options ask for.

    Args:
        options: of alignment.
        frames: (N, H, W, C) uint8 or uint16; names: of their files.
        save: file to write it to; None: none.
        use: file to read it from; None: it is measured.
        progress, thorough: see `measure`.
    Raises:
        StackError: as `measure` and `load_alignment`; or with --strict a frame is left out.
    """
    names = list(names)
    if use is not None:
        alignment = load_alignment(use, names, frames.shape[1:3], colours_of(frames))
        if not options.match_exposure:
            alignment = replace(alignment, gains=np.ones_like(alignment.gains))
    else:
        alignment = measure(
            frames,
            find_reference(options.reference, names),
            options.motion,
            options.match_exposure,
            progress,
            names,
            thorough,
            local=options.parallax == "auto",
        )
    if options.strict and alignment.left_out:
        raise StackError(
            f"{'; '.join(told(alignment, names))}: remove it from the stack or remove --strict"
        )
    if save is not None:
        save_alignment(save, alignment, names)
    return alignment


def told(alignment, names):
    """A sentence for each frame that is left out, with its name."""
    return [f"frame {names[k]} {why}" for k, why in sorted(alignment.left_out.items())]
