"""What comes of a stack, to look at: the focus map with its key, a relief, a sweep of the frames.

All are small copies for screens, in sRGB; the files to compute with are those of fusion/fuse.py.
"""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from stackmff.display.drawing import colour_map, draw_text, reduced, text_width
from stackmff.display.relief import relief
from stackmff.errors import StackError
from stackmff.files import atomic_path
from stackmff.images.colour import luma
from stackmff.images.formats import write_picture
from stackmff.images.frame_store import release

MAP_SIDE = 1600  # px, longest side of a focus map's preview
RELIEF_SIDE = 1000  # px, longest side of what a relief is made from
SWEEP_SIDE = 720  # px
SHARPEST_SIDE = 1024  # px, of the copies that are compared
SWEEP_FRAMES = 16  # of longer stacks so many are shown
SWEEP_BYTES = 3_000_000  # a film is made smaller until it takes no more
FRAME_SECONDS, PAUSE_SECONDS, HOLD_SECONDS = 0.12, 0.48, 2.4  # of the sweep
PAPER, INK = (250, 250, 248), (45, 45, 50)
UNSURE, SURE = 0.1, 0.5  # see certainty()


def certainty(confidence, n_frames):
    """How sure it is which frame is in focus.

    The largest weight says little by itself: of three frames that are alike each has 0.33, of 30
    that share a pixel between three neighbours also. So it counts how many times an even share it
    is, on the scale of logarithms.

    Args:
        confidence: (H, W) uint8, the largest weight x 255, or None.
        n_frames: N.
    Returns:
        (H, W) float32: 0 where the frames have nearly equal weights, 1 where few have all; the
        number 1 where there is no confidence.
    """
    if confidence is None or n_frames < 2:
        return np.float32(1)
    shares = np.maximum(confidence * np.float32(n_frames / 255), 1)
    rise = np.clip((np.log(shares) / np.log(n_frames) - UNSURE) / (SURE - UNSURE), 0, 1)
    return rise * rise * (3 - 2 * rise)


def pale(colours, sure):
    """(..., 3) uint8 towards white where `sure`, (...) float in [0, 1], is low."""
    share = np.asarray(0.12 + 0.88 * sure, np.float32)[..., None]
    return np.uint8(np.round(255 + (colours - np.float32(255)) * share))


def focus_map_preview(focus_map, n_frames, confidence=None, names=None):
    """Paint a focus map, dark blue for the first frame to yellow for the last, above its key.

    Args:
        focus_map: (H, W) uint16, 0 the first frame, 65535 the last.
        n_frames: N.
        confidence: (H, W) uint8, the largest weight x 255: what is unsure becomes paler.
        names: of the N frames, for the key; None: numbers from 1 to N.
    Returns:
        (H + key, W, 3) uint8 RGB; the size of the letters goes by the width.
    """
    painted = colour_map(focus_map / np.float32(65535))
    if confidence is not None:
        painted = pale(painted, certainty(confidence, n_frames))
    return np.vstack(
        [painted, map_key(focus_map.shape[1], n_frames, confidence is not None, names)]
    )


def map_key(width, n_frames, with_confidence, names=None):
    """The key of a focus map: a bar of its colours, the frames below it, what pale means beside it.

    Args:
        width: of the map, px.
        n_frames: N.
        with_confidence: whether pale colours occur.
        names: of the frames, or None.
    Returns:
        (height, width, 3) uint8 RGB; the height is some five times that of the letters.
    """
    size = int(np.clip(width / 42, 12, 60))
    height = round(5.2 * size)
    key = np.full((height, width, 3), PAPER, np.uint8)
    if width < 8 * size:  # no room for words
        return key
    margin = size
    words = ("sure", "unsure", "frame") if with_confidence else ("frame",)
    left, right = margin, width - margin - max(text_width(word, size) for word in words) - size // 2
    top, bottom = round(0.9 * size), round(3.1 * size)
    bar = colour_map(np.linspace(0, 1, right - left)[None])  # (1, width of the bar, 3)
    if with_confidence:
        bar = pale(bar, np.linspace(1, 0, bottom - top)[:, None])
    key[top:bottom, left:right] = bar
    below = round(4.5 * size)  # base of the line of frames
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


def _ticks(n_frames, names, width, size):
    """(index, label) of the frames that a bar of `width` px names, evenly spaced, the ends too."""
    labels = [str(k + 1) for k in range(n_frames)]
    if names is not None:
        stems = [Path(name).stem for name in names]
        # The font has no others; long names would stand alone.
        if all(stem.isascii() and text_width(stem, size) < width / 3 for stem in stems):
            labels = stems
    widest = max(text_width(label, size) for label in labels)
    most = max(2, min(n_frames, 11, int(width / (widest + 1.5 * size))))
    steps = [
        k for k in range(1, n_frames) if (n_frames - 1) % k == 0 and (n_frames - 1) // k < most
    ]
    step = steps[0] if steps else 1
    # Where only the ends would be left, even numbers are not worth it.
    if (n_frames - 1) // step + 1 >= min(4, most):
        shown = range(0, n_frames, step)
    else:
        shown = np.unique(np.linspace(0, n_frames - 1, min(most, n_frames)).round().astype(int))
    return [(int(k), labels[k]) for k in shown]


def sharpest_frame(frames, kept=None):
    """The frame that shows the most in focus, on screens.

    Args:
        frames: (N, H, W, C) uint8 or uint16; a numpy.memmap is let go of after each frame.
        kept: indices of those that count; None: all.
    Returns:
        Its index: largest mean absolute Laplacian of the luma of a small copy.
    """

    def sharp(index):
        value = sharpness(frames[index])
        release(frames)
        return value

    return max(range(len(frames)) if kept is None else kept, key=sharp)


def sharpness(frame):
    """Mean absolute Laplacian of the luma of a small copy of a frame (H, W, C)."""
    return float(np.abs(cv2.Laplacian(luma(reduced(frame, SHARPEST_SIDE)), cv2.CV_32F)).mean())


def sweep(frames, fused, path, side=SWEEP_SIDE, kept=None, profile=None):
    """Write a film that goes through the stack, there and back, and ends on the fused picture.

    Of long stacks SWEEP_FRAMES frames are shown, evenly spaced, the ends included. A film is made
    smaller where it would take more than SWEEP_BYTES.

    Args:
        frames: (N, H, W, C) uint8 or uint16; a numpy.memmap is let go of after each frame.
        fused: (H, W, C), the fused picture.
        path: .gif, or .mp4 (VP9, which browsers play, and few programs for slides).
        side: longest one of the film, px.
        kept: indices of the frames that were fused; None: all.
        profile: ICC profile of the pictures, or None.
    Raises:
        StackError: another suffix, no encoder for it here, or the file cannot be put there.
    """
    path = Path(path)
    write = {".gif": _write_gif, ".mp4": _write_mp4}.get(path.suffix.lower())
    if write is None:
        raise StackError(f"{path} has no suffix of a film: use .gif or .mp4")
    kept = list(range(len(frames)) if kept is None else kept)
    places = np.linspace(0, len(kept) - 1, min(len(kept), SWEEP_FRAMES)).round().astype(int)
    pictures = []
    for place in places:
        pictures.append(reduced(frames[kept[place]], side, profile))
        release(frames)
    pictures.append(reduced(fused, side, profile))
    labels = [f"{kept[place] + 1} of {len(frames)}" for place in places] + ["all in focus"]
    count = len(places)
    order = [*range(count), *range(count - 2, -1, -1), count]
    seconds = [FRAME_SECONDS] * len(order)
    seconds[0] = seconds[count - 1] = PAUSE_SECONDS
    seconds[-1] = HOLD_SECONDS
    with atomic_path(path) as temporary:
        for _ in range(4):  # the next size is a guess from the one before
            shown = [_labelled(reduced(p, side), text) for p, text in zip(pictures, labels)]
            write(temporary, shown, order, seconds)
            size = temporary.stat().st_size
            if size <= SWEEP_BYTES:
                break
            side = max(32, int(0.95 * (SWEEP_BYTES / size) ** 0.5 * max(shown[0].shape)))


def _labelled(picture, text):
    """(H, W, 3) uint8 with a word in its lower left corner, written into it."""
    height, width = picture.shape[:2]
    size = int(np.clip(max(height, width) / 42, 11, 20))
    wide, high, gap = text_width(text, size) + size, round(1.7 * size), size // 2
    if wide + gap <= width and high + gap <= height:
        box = picture[height - gap - high : height - gap, gap : gap + wide]
        box[:] = np.uint8(box * np.float32(0.35))
        draw_text(picture, text, gap + size / 2, height - gap - 0.5 * size, size, (255, 255, 255))
    return picture


def _write_gif(path, pictures, order, seconds):
    """An endless GIF of pictures[k] for k of `order`, each for its seconds."""
    # Without dithering, whose grain would take most of the file.
    method = Image.Quantize.MEDIANCUT
    images = [Image.fromarray(picture).quantize(192, method, dither=0) for picture in pictures]
    first, *others = (images[k] for k in order)
    milliseconds = [round(1000 * shown) for shown in seconds]
    settings = {"append_images": others, "duration": milliseconds, "loop": 0}
    first.save(path, "GIF", save_all=True, **settings)


def _write_mp4(path, pictures, order, seconds):
    """A film of pictures[k] for k of `order`, each for its seconds."""
    height, width = (length // 2 * 2 for length in pictures[0].shape[:2])  # what the codec takes
    codec = cv2.VideoWriter_fourcc(*"vp09")
    film = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, 1 / FRAME_SECONDS, (width, height))
    if not film.isOpened():
        raise StackError(f"this OpenCV has no VP9 encoder for {path.suffix}: use .gif")
    for k, shown in zip(order, seconds, strict=True):
        picture = cv2.cvtColor(pictures[k][:height, :width], cv2.COLOR_RGB2BGR)
        for _ in range(round(shown / FRAME_SECONDS)):
            film.write(picture)
    film.release()


def preview_files(folder, name):
    """The files that `write_previews` writes."""
    return [Path(folder) / f"{name}_{kind}" for kind in ("focus.png", "relief.png", "sweep.gif")]


def write_previews(
    folder, name, frames, fused, names=None, kept=None, profile=None, first_is_near=None
):
    """Write what a stack and its result look like.

    Args:
        folder: of the files, made when missing.
        name: of the stack, first part of their names.
        frames: (N, H, W, C) uint8 or uint16; a numpy.memmap is let go of after each frame.
        fused: fuse.Fused with its focus map.
        names: of the N frames, for the key of the focus map; None: numbers.
        kept: indices of the frames that were fused; None: all.
        profile: ICC profile of the pictures, or None.
        first_is_near: see relief.relief.
    Returns:
        The files: <name>_focus.png, <name>_relief.png, <name>_sweep.gif.
    Raises:
        StackError: a file cannot be put there.
    """
    files = preview_files(folder, name)
    write_picture(files[0], small_focus_map(fused, len(frames), MAP_SIDE, names))
    # Finer than what is drawn, so that what is sure decides; whole they would take much memory.
    focus_map, confidence = _small_maps(fused, 2 * RELIEF_SIDE)
    sure = certainty(confidence, len(frames))
    drawn = relief(focus_map, fused.picture, sure, first_is_near, RELIEF_SIDE, profile)
    write_picture(files[1], drawn)
    sweep(frames, fused.picture, files[2], kept=kept, profile=profile)
    return files


def small_focus_map(fused, n_frames, side, names=None):
    """`focus_map_preview` of a Fused, the map's longest side `side` px at most."""
    focus_map, confidence = _small_maps(fused, side)
    return focus_map_preview(focus_map, n_frames, confidence, names)


def _small_maps(fused, side):
    """The focus map and the confidence (or None) of a Fused, `side` px at most."""
    height, width = fused.focus_map.shape
    scale = min(1, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    maps = (fused.focus_map, fused.confidence)
    small = (m if m is None else cv2.resize(m, size, interpolation=cv2.INTER_AREA) for m in maps)
    return tuple(small)
