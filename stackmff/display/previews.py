"""Previews of a result: the focus map with its key, a relief, a film through the frames.

All of them are small sRGB copies for screens; the files to compute with are written by
fusion/outputs.py.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from PIL import Image

from stackmff.display.annotations import DARKER
from stackmff.display.drawing import colour_map, draw_text, reduced, text_width
from stackmff.display.relief import PAPER, guess_first_is_near, relief, rocking
from stackmff.errors import StackError
from stackmff.files import atomic_path
from stackmff.images.colour import luma
from stackmff.images.formats import write_picture
from stackmff.images.frame_store import release
from stackmff.images.levels import Levels
from stackmff.images.ramps import smoothstep

MAP_SIDE = 1600  # px, longest side of a focus map's preview
RELIEF_SIDE = 1000  # px, longest side of the copy that is drawn as a relief
SWEEP_SIDE = 720  # px
GUESS_SIDE = 400  # px, of the focus map by which the nearest end is guessed
SHARPEST_SIDE = 1024  # px, of the copies that are compared for sharpness
SWEEP_FRAMES = 16  # longer stacks are thinned out to this number
SWEEP_BYTES = 3_000_000  # a film is made smaller until it is below this size
FRAME_SECONDS, PAUSE_SECONDS, HOLD_SECONDS = 0.12, 0.48, 2.4  # of the sweep
ROCK_SECONDS, ROCKS = 0.12, 2  # of a view of a relief that rocks; times that it does in a video
INK = (45, 45, 50)
UNSURE, SURE = 0.1, 0.5  # see certainty()


class FusedMaps(Protocol):
    """A fused picture with its maps, as fusion.blending.Fused."""

    @property
    def picture(self) -> np.ndarray:
        """(H, W, C) uint8 or uint16."""

    @property
    def focus_map(self) -> np.ndarray | None:
        """(H, W) uint16, 0 the first frame, 65535 the last."""

    @property
    def confidence(self) -> np.ndarray | None:
        """(H, W) uint8, the largest weight x 255."""


@dataclass(frozen=True)
class FrameInfo:
    """What previews and the report say about the frames besides their pixels.

    Attributes:
        names: of the N frames; None: they are numbered from 1.
        kept: indices of the frames that were fused; None: all.
        profile: ICC profile of the pictures; None: sRGB.
        levels: of a dim stack, which is shown stretched; None: it is shown as it is.
    """

    names: Sequence[str] | None = None
    kept: Sequence[int] | None = None
    profile: bytes | None = None
    levels: Levels | None = None


def certainty(confidence: np.ndarray | None, n_frames: int) -> np.ndarray | np.float32:
    """How certain it is which frame is in focus.

    The largest weight alone says little: it is 0.33 for three equal frames, and also for three
    neighbours of 30 frames that share a pixel. What counts is its ratio to an equal share, on a
    logarithmic scale.

    Args:
        confidence: (H, W) uint8, the largest weight x 255, or None.
        n_frames: N.
    Returns:
        (H, W) float32: 0 where the weights are nearly equal, 1 where few frames have all of it.
        Without a confidence, the number 1.
    """
    if confidence is None or n_frames < 2:
        return np.float32(1)
    shares = np.maximum(confidence * np.float32(n_frames / 255), 1)
    return smoothstep((np.log(shares) / np.log(n_frames) - UNSURE) / (SURE - UNSURE))


def pale(colours: np.ndarray, sure: np.ndarray | np.float32) -> np.ndarray:
    """Fade (..., 3) uint8 towards white where `sure`, (...) float in [0, 1], is low."""
    share = np.asarray(0.12 + 0.88 * sure, np.float32)[..., None]
    return np.round(255 + (colours - np.float32(255)) * share).astype(np.uint8)


def focus_map_preview(
    focus_map: np.ndarray,
    n_frames: int,
    confidence: np.ndarray | None = None,
    names: Sequence[str] | None = None,
) -> np.ndarray:
    """Colour a focus map, from dark blue for the first frame to yellow for the last, with its key.

    Args:
        focus_map: (H, W) uint16, 0 the first frame, 65535 the last.
        n_frames: N.
        confidence: (H, W) uint8, the largest weight x 255: uncertain pixels are paler.
        names: of the N frames, for the key; None: numbers from 1 to N.
    Returns:
        (H + height of the key, W, 3) uint8 RGB. The text size depends on the width.
    """
    painted = colour_map(focus_map / np.float32(65535))
    if confidence is not None:
        painted = pale(painted, certainty(confidence, n_frames))
    return np.vstack(
        [painted, map_key(focus_map.shape[1], n_frames, confidence is not None, names)]
    )


def map_key(
    width: int, n_frames: int, with_confidence: bool, names: Sequence[str] | None = None
) -> np.ndarray:
    """Draw the key of a focus map: a bar of its colours, the frames below it, what pale means.

    Args:
        width: of the map, px.
        n_frames: N.
        with_confidence: whether pale colours occur.
        names: of the frames; None: numbers.
    Returns:
        (height, width, 3) uint8 RGB; the height is about five times that of the letters.
    """
    size = int(np.clip(width / 42, 12, 60))
    height = round(5.2 * size)
    key = np.full((height, width, 3), PAPER, np.uint8)
    if width < 8 * size:  # no room for text
        return key
    margin = size
    words = ("sure", "unsure", "frame") if with_confidence else ("frame",)
    left, right = margin, width - margin - max(text_width(word, size) for word in words) - size // 2
    top, bottom = round(0.9 * size), round(3.1 * size)
    bar = colour_map(np.linspace(0, 1, right - left)[None])  # (1, width of the bar, 3)
    if with_confidence:
        bar = pale(bar, np.linspace(1, 0, bottom - top)[:, None])
    key[top:bottom, left:right] = bar
    below = round(4.5 * size)  # baseline of the frames
    beside = right + size // 2
    if with_confidence:
        draw_text(key, "sure", beside, top + 0.8 * size, size, INK)
        draw_text(key, "unsure", beside, bottom, size, INK)
    draw_text(key, "frame", beside, below, size, INK)
    for index, label in _ticks(n_frames, names, right - left, size):
        x = left + round((right - left - 1) * index / max(n_frames - 1, 1))
        thick = max(1, size // 10)
        key[
            bottom : bottom + max(2, size // 3), max(x - thick // 2, 0) : x - thick // 2 + thick
        ] = INK
        wide = text_width(label, size)
        draw_text(key, label, np.clip(x - wide / 2, 2, right - wide), below, size, INK)
    return key


def _ticks(
    n_frames: int, names: Sequence[str] | None, width: int, size: int
) -> list[tuple[int, str]]:
    """(index, label) of the frames that a bar of `width` px names, evenly spaced, ends included."""
    labels = [str(k + 1) for k in range(n_frames)]
    if names is not None:
        stems = [Path(name).stem for name in names]
        # The font has only ASCII letters; of long names, only one or two would fit.
        if all(stem.isascii() and text_width(stem, size) < width / 3 for stem in stems):
            labels = stems
    widest = max(text_width(label, size) for label in labels)
    most = max(2, min(n_frames, 11, int(width / (widest + 1.5 * size))))
    steps = [
        k for k in range(1, n_frames) if (n_frames - 1) % k == 0 and (n_frames - 1) // k < most
    ]
    step = steps[0] if steps else 1
    # Equal steps are not worth it where they leave little more than the two ends.
    if (n_frames - 1) // step + 1 >= min(4, most):
        shown = list(range(0, n_frames, step))
    else:
        even = np.linspace(0, n_frames - 1, min(most, n_frames)).round().astype(int)
        shown = np.unique(even).tolist()
    return [(k, labels[k]) for k in shown]


def sharpest_frame(
    frames: np.ndarray, kept: Iterable[int] | None = None, levels: Levels | None = None
) -> int:
    """The index of the frame that shows the most in focus, at the size of a screen.

    Args:
        frames: (N, H, W, C) uint8 or uint16. The memory of a numpy.memmap is released after each
            frame.
        kept: indices of the frames to choose from; None: all.
        levels: of a dim stack; None: it is taken as it is.
    """

    def sharp(index: int) -> float:
        value = sharpness(frames[index], levels)
        release(frames)
        return value

    return max(range(len(frames)) if kept is None else kept, key=sharp)


def sharpness(frame: np.ndarray, levels: Levels | None = None) -> float:
    """Mean absolute Laplacian of the luma of a small copy of a frame (H, W, C)."""
    small = luma(reduced(frame, SHARPEST_SIDE, levels=levels))
    return float(np.abs(cv2.Laplacian(small, cv2.CV_32F)).mean())


def sweep(
    frames: np.ndarray,
    fused: np.ndarray,
    path: str | Path,
    side: int = SWEEP_SIDE,
    info: FrameInfo | None = None,
) -> None:
    """Write a film that goes through the stack and back, and ends on the fused picture.

    Long stacks are thinned out evenly to SWEEP_FRAMES frames, both ends included. A film of more
    than SWEEP_BYTES is made smaller.

    Args:
        frames: (N, H, W, C) uint8 or uint16. The memory of a numpy.memmap is released after each
            frame.
        fused: (H, W, C), the fused picture.
        path: .gif, or .mp4 (VP9, which browsers play, but few presentation programs).
        side: longest side of the film, px.
        info: what else is known of the frames; None: nothing.
    Raises:
        StackError: the suffix is another one, OpenCV has no encoder for it, or the file cannot be
            written.
    """
    path = Path(path)
    write = _writer_of(path)
    info = info or FrameInfo()
    kept = list(range(len(frames)) if info.kept is None else info.kept)
    places = np.linspace(0, len(kept) - 1, min(len(kept), SWEEP_FRAMES)).round().astype(int)
    pictures = []
    for place in places:
        pictures.append(reduced(frames[kept[place]], side, info.profile, info.levels))
        release(frames)
    pictures.append(reduced(fused, side, info.profile, info.levels))
    labels = [f"{kept[place] + 1} of {len(frames)}" for place in places] + ["all in focus"]
    count = len(places)
    order = [*range(count), *range(count - 2, -1, -1), count]
    seconds = [FRAME_SECONDS] * len(order)
    seconds[0] = seconds[count - 1] = PAUSE_SECONDS
    seconds[-1] = HOLD_SECONDS
    with atomic_path(path) as temporary:
        for _ in range(4):  # each size is estimated from the one before
            shown = [_labelled(reduced(p, side), text) for p, text in zip(pictures, labels)]
            write(temporary, shown, order, seconds)
            size = temporary.stat().st_size
            if size <= SWEEP_BYTES:
                break
            side = max(32, int(0.95 * (SWEEP_BYTES / size) ** 0.5 * max(shown[0].shape)))


def write_rocking(path: Path, texture: np.ndarray, heights: np.ndarray) -> None:
    """Write a film of a relief that rocks from one side to the other, without an end.

    Args:
        path: .gif or .mp4, as of `sweep`.
        texture, heights: as of relief.surface.
    Raises:
        StackError: as `sweep`.
    """
    write = _writer_of(path)
    views = rocking(texture, heights)
    count = len(views)
    order = [*range(count), *range(count - 2, 0, -1)]
    times = 1 if path.suffix.lower() == ".gif" else ROCKS
    with atomic_path(path) as temporary:
        write(temporary, views, order * times, [ROCK_SECONDS] * len(order) * times)


Write = Callable[[Path, Sequence[np.ndarray], Sequence[int], Sequence[float]], None]


def _writer_of(path: Path) -> Write:
    """What writes a film of this suffix; StackError where nothing does."""
    write = {".gif": _write_gif, ".mp4": _write_mp4}.get(path.suffix.lower())
    if write is None:
        raise StackError(f"{path} is not named as a film: use .gif or .mp4")
    return write


def _labelled(picture: np.ndarray, text: str) -> np.ndarray:
    """Write a label into the lower left corner of (H, W, 3) uint8, in place; return the picture."""
    height, width = picture.shape[:2]
    size = int(np.clip(max(height, width) / 42, 11, 20))
    wide, high, gap = text_width(text, size) + size, round(1.7 * size), size // 2
    if wide + gap <= width and high + gap <= height:
        box = picture[height - gap - high : height - gap, gap : gap + wide]
        box[:] = np.uint8(box * DARKER)
        draw_text(picture, text, gap + size / 2, height - gap - 0.5 * size, size, (255, 255, 255))
    return picture


def _write_gif(
    path: Path, pictures: Sequence[np.ndarray], order: Sequence[int], seconds: Sequence[float]
) -> None:
    """Write an endless GIF of pictures[k] for each k of `order`, shown for its seconds."""
    # No dithering: its grain would take most of the file.
    method = Image.Quantize.MEDIANCUT
    images = [
        Image.fromarray(picture).quantize(192, method, dither=Image.Dither.NONE)
        for picture in pictures
    ]
    first, *others = (images[k] for k in order)
    milliseconds = [round(1000 * shown) for shown in seconds]
    first.save(path, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)


def _write_mp4(
    path: Path, pictures: Sequence[np.ndarray], order: Sequence[int], seconds: Sequence[float]
) -> None:
    """Write a video of pictures[k] for each k of `order`, shown for its seconds."""
    height, width = (length // 2 * 2 for length in pictures[0].shape[:2])  # VP9 needs even sides
    codec = cv2.VideoWriter.fourcc(*"vp09")
    film = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, 1 / FRAME_SECONDS, (width, height))
    if not film.isOpened():
        raise StackError(f"this OpenCV has no VP9 encoder for {path.suffix}: use .gif")
    for k, shown in zip(order, seconds, strict=True):
        picture = cv2.cvtColor(pictures[k][:height, :width], cv2.COLOR_RGB2BGR)
        for _ in range(round(shown / FRAME_SECONDS)):
            film.write(picture)
    film.release()


def preview_files(folder: str | Path, name: str) -> list[Path]:
    """The files that `write_previews` writes."""
    return [Path(folder) / f"{name}_{kind}" for kind in ("focus.png", "relief.png", "sweep.gif")]


def write_previews(
    folder: str | Path,
    name: str,
    frames: np.ndarray,
    fused: FusedMaps,
    info: FrameInfo | None = None,
    first_is_near: bool | None = None,
) -> list[Path]:
    """Write the previews of a stack and its result.

    Args:
        folder: created when missing.
        name: of the stack, first part of the names of the files.
        frames: (N, H, W, C) uint8 or uint16. The memory of a numpy.memmap is released after each
            frame.
        fused: the result, with its focus map.
        info: what else is known of the frames; None: nothing.
        first_is_near: see relief.relief.
    Returns:
        The files: <name>_focus.png, <name>_relief.png, <name>_sweep.gif.
    Raises:
        StackError: a file cannot be written.
    """
    info = info or FrameInfo()
    files = preview_files(folder, name)
    write_picture(files[0], small_focus_map(fused, len(frames), MAP_SIDE, info.names))
    # Finer than the relief, so that certain pixels decide; at full size it would take much memory.
    focus_map, confidence = _small_maps(fused, 2 * RELIEF_SIDE)
    sure = certainty(confidence, len(frames))
    texture = fused.picture if info.levels is None else info.levels.shown(fused.picture)
    drawn = relief(focus_map, texture, sure, first_is_near, RELIEF_SIDE, info.profile)
    write_picture(files[1], drawn)
    sweep(frames, fused.picture, files[2], info=info)
    return files


def small_focus_map(
    fused: FusedMaps, n_frames: int, side: int, names: Sequence[str] | None = None
) -> np.ndarray:
    """`focus_map_preview` of a result; the longest side of the map is at most `side` px."""
    focus_map, confidence = _small_maps(fused, side)
    return focus_map_preview(focus_map, n_frames, confidence, names)


def likely_near_end(fused: FusedMaps, n_frames: int) -> bool:
    """Whether the first frame is focused nearest, by relief.guess_first_is_near."""
    focus_map, confidence = _small_maps(fused, GUESS_SIDE)
    sure = np.broadcast_to(certainty(confidence, n_frames), focus_map.shape)
    return guess_first_is_near(focus_map.astype(np.float32) / 65535, sure + np.float32(1e-3))


def _small_maps(fused: FusedMaps, side: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The focus map and the confidence (or None) of a result, at most `side` px."""
    assert fused.focus_map is not None
    height, width = fused.focus_map.shape
    scale = min(1, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))

    def small(plane: np.ndarray) -> np.ndarray:
        return cv2.resize(plane, size, interpolation=cv2.INTER_AREA)

    return small(fused.focus_map), None if fused.confidence is None else small(fused.confidence)
