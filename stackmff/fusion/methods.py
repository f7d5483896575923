"""The toolbox: every fusion method with one signature.

A method is a function from frames (N, H, W, C), uint8 or uint16 and C as in images/formats.py, to
the fused picture (H, W, C) of the same dtype. Each fuses all N frames at once, taking the strongest
coefficient or the sharpest frame among them. Alpha is the mean of the frames' alpha. To add a
method, write a function that makes it and one line in METHODS, and give each of its numeric options
a line in RANGES.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stackmff.alignment.focus_order import focus_order
from stackmff.errors import StackError
from stackmff.fusion.blending import Mixture, distinct_frames
from stackmff.fusion.engine_choice import choose_engine
from stackmff.fusion.fuse import fuse_stack
from stackmff.fusion.spatial import fuse_dct, fuse_dsift, fuse_gff, in_floats, in_integers
from stackmff.fusion.tiles import ramp, tile_spans
from stackmff.fusion.transforms import TRANSFORMS, missing_packages
from stackmff.images.colour import LUMA, luma
from stackmff.images.rectangles import Box
from stackmff.options import number
from stackmff.own import add_own, function, is_own
from stackmff.shipped import WEIGHTS

Fuse = Callable[[np.ndarray], np.ndarray]  # frames (N, H, W, C) to a picture (H, W, C)

# The strongest coefficients of a picture take up to 2 kB per pixel (NSCT).
TILE, OVERLAP = 1024, 128  # px
IFCNN_WEIGHTS = WEIGHTS.with_name("ifcnn_max.pth")
STACKMFF_WEIGHTS = WEIGHTS.with_name("checkpoint_published.pth")
INSTALL_TOOLBOX = 'pip install "stackmff[toolbox]"'
WEIGHT_OPTIONS = ("weights", "model_path")  # options of methods that name files

# {numeric option: (its smallest, its largest value)}
RANGES = {
    "levels": (0, 16),  # 0: the transform's own default
    "block": (1, 256),
    "consistency": (1, 99),
    "bin_size": (1, 64),
    "window": (1, 256),
    "base_radius": (1, 512),
    "base_epsilon": (1e-9, 1e9),
    "detail_radius": (1, 512),
    "detail_epsilon": (1e-9, 1e9),
}


def fuse_transform(frames: np.ndarray, name: str, levels: int) -> np.ndarray:
    """Fuse in a multi-scale transform: details by largest magnitude, the remainder by the mean.

    All channels take a coefficient from the same frame, so that no colour mixes several frames'
    channels: the frame whose sum over the channels, weighted as in luma, is strongest.

    Args:
        frames: (N, H, W, C), C = 1 or 3.
        name: of transforms.TRANSFORMS.
        levels: of the transform; 0: its default.
    Returns:
        (H, W, C).
    """
    transform = TRANSFORMS[name]
    levels = levels or transform.levels
    shape, channels = frames.shape[1:3], frames.shape[3]
    weights = np.array(LUMA if channels == 3 else (1,), np.float32)

    def coefficients(frame: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
        picture = in_floats(frame)
        parts = [
            transform.decompose(np.ascontiguousarray(picture[..., c]), levels)
            for c in range(channels)
        ]
        details = [np.stack(bands) for bands in zip(*(bands for _, bands in parts))]
        magnitudes = [np.abs(np.tensordot(weights, bands, 1)) for bands in details]
        return np.stack([low for low, _ in parts]), details, magnitudes

    lows, best, strongest = coefficients(frames[0])
    for frame in frames[1:]:
        low, details, magnitudes = coefficients(frame)
        lows += low
        for band, magnitude, new, new_magnitude in zip(best, strongest, details, magnitudes):
            stronger = new_magnitude > magnitude
            np.copyto(band, new, where=stronger)  # over all channels
            np.copyto(magnitude, new_magnitude, where=stronger)
    lows /= len(frames)
    fused = [
        transform.rebuild(lows[c], [band[c] for band in best], shape, levels)
        for c in range(channels)
    ]
    return in_integers(np.stack(fused, axis=2), frames.dtype)


def in_tiles(fuse: Fuse, tile: int = TILE, overlap: int = OVERLAP) -> Fuse:
    """Turn a method into one that fuses large pictures tile by tile, blended as by fuse_stack.

    Args:
        fuse: a method.
        tile: side, px; a picture up to this size is fused whole.
        overlap: of neighbouring tiles, px.
    """

    def fuse_tiles(frames: np.ndarray) -> np.ndarray:
        height, width = frames.shape[1:3]
        if max(height, width) <= tile:
            return fuse(frames)
        rows, columns = tile_spans(height, tile, overlap), tile_spans(width, tile, overlap)
        fused = np.zeros(frames.shape[1:], np.float32)
        for row in rows:
            for column in columns:
                place = Box(*row, *column)
                part = in_floats(fuse(frames[:, *place.slices]))
                part *= ramp(row, rows)[:, None, None]
                fused[place.slices] += part * ramp(column, columns)[:, None]
        return in_integers(fused, frames.dtype)

    return fuse_tiles


def with_network(model_path: str, device: str) -> Fuse:
    """A checkpoint of ours as a method; like predict.py it takes the frames in focus order."""
    engine = choose_engine(Path(model_path), device)

    def fuse(frames: np.ndarray) -> np.ndarray:
        order = focus_order(frames)
        return fuse_stack(
            frames if order is None else frames[order], engine, Mixture(maps=False)
        ).picture

    return fuse


def with_ifcnn(weights: str, device: str) -> Fuse:
    """IFCNN-MAX as a method; grey frames are converted to RGB for it."""
    from stackmff.fusion.ifcnn import fuse_ifcnn, load_ifcnn

    network = load_ifcnn(weights, device)

    def fuse(frames: np.ndarray) -> np.ndarray:
        if frames.shape[3] == 3:
            return fuse_ifcnn(frames, network)
        grey = fuse_ifcnn(frames.repeat(3, axis=3), network)
        return in_integers(luma(grey), frames.dtype)[..., None]

    return fuse


@dataclass(frozen=True)
class Method:
    """A line of METHODS.

    Attributes:
        title: in words.
        year: of the paper.
        reference: the paper.
        make: function (**options) -> method.
        options: {name: default}.
        transform: the name in TRANSFORMS whose packages it needs, or None.
    """

    title: str
    year: int
    reference: str
    make: Callable[..., Fuse]
    options: Mapping[str, Any] = field(default_factory=dict)
    transform: str | None = None


def by_transform(title: str, year: int, reference: str, name: str) -> Method:
    """The line of a method that selects coefficients of a transform."""
    return Method(
        title,
        year,
        reference,
        lambda levels: in_tiles(partial(fuse_transform, name=name, levels=levels)),
        {"levels": 0},
        name,
    )


METHODS = {
    "LP": by_transform(
        "Laplacian pyramid",
        1983,
        "Burt and Adelson, IEEE Trans. Communications 31",
        "LP",
    ),
    "RP": by_transform(
        "ratio of low-pass pyramid", 1989, "Toet, Pattern Recognition Letters 9", "RP"
    ),
    "DWT": by_transform(
        "discrete wavelet transform",
        1995,
        "Li, Manjunath and Mitra, Graphical Models and Image Processing 57",
        "DWT",
    ),
    "DTCWT": by_transform(
        "dual-tree complex wavelet transform",
        2007,
        "Lewis et al., Information Fusion 8",
        "DTCWT",
    ),
    "CVT": by_transform("curvelet transform", 2007, "Nencini et al., Information Fusion 8", "CVT"),
    "NSCT": by_transform(
        "non-subsampled contourlet transform",
        2009,
        "Zhang and Guo, Signal Processing 89",
        "NSCT",
    ),
    "DCT": Method(
        "variance of blocks in the DCT domain, with consistency verification",
        2011,
        "Haghighat, Aghagolzadeh and Seyedarabi, Computers & Electrical Engineering 37",
        lambda **options: partial(fuse_dct, **options),
        {"block": 8, "consistency": 3},
    ),
    "DSIFT": Method(
        "dense SIFT",
        2015,
        "Liu, Liu and Wang, Information Fusion 23",
        lambda **options: partial(fuse_dsift, **options),
        {"bin_size": 4, "window": 8},
    ),
    "GFF": Method(
        "guided filtering",
        2013,
        "Li, Kang and Hu, IEEE Trans. Image Processing 22",
        lambda **options: partial(fuse_gff, **options),
        {"base_radius": 45, "base_epsilon": 0.3, "detail_radius": 7, "detail_epsilon": 1e-6},
    ),
    "IFCNN": Method(
        "IFCNN-MAX, the largest features of all frames, the authors' weights",
        2020,
        "Zhang et al., Information Fusion 54",
        with_ifcnn,
        {"weights": str(IFCNN_WEIGHTS), "device": "auto"},
    ),
    "StackMFF": Method(
        "StackMFF, the published network",
        2025,
        "Xie et al., Applied Intelligence 55",
        with_network,
        {"model_path": str(STACKMFF_WEIGHTS), "device": "auto"},
    ),
    "StackMix": Method(
        "StackMix, the default network of this program",
        2026,
        "this program",
        with_network,
        {"model_path": str(WEIGHTS), "device": "auto"},
    ),
}


def own_method(what: Any, word: str) -> Method:
    """The line of a function of the user's, from frames (N, H, W, C) to a picture (H, W, C)."""
    fuse = function(what, word)
    return Method("a method of yours", 0, word, lambda: fuse)


def parse_method(word: str) -> tuple[str, dict[str, Any]]:
    """Parse a method's name and its options.

    Args:
        word: "GFF", "GFF:base_radius=20,base_epsilon=0.1", or FILE.py:FUNCTION, see own.py.
    Returns:
        (name, {option: value}), all options, each of its default's type.
    Raises:
        StackError: an unknown method or option, or a value of the wrong type or out of range.
    """
    add_own(METHODS, word, own_method)
    if is_own(word):
        return word, {}
    name, _, rest = word.partition(":")
    if name not in METHODS:
        raise StackError(
            f"{name!r} is not a method: choose from {', '.join(METHODS)}, or give FILE.py:FUNCTION"
        )
    options = dict(METHODS[name].options)
    for pair in filter(None, rest.split(",")):
        option, equals, value = pair.partition("=")
        if not equals or option not in options:
            raise StackError(
                f"{word!r}: {pair!r} is not an option of {name}: its options are "
                f"{', '.join(f'{key}={default}' for key, default in options.items())}"
            )
        kind = type(options[option])
        try:
            options[option] = value if kind is str else number(kind, *RANGES[option])(value)
        except argparse.ArgumentTypeError as error:
            raise StackError(f"{word!r}: {option}: {error}") from error
    return name, options


def missing(word: str) -> str | None:
    """What a method lacks on this machine, as a sentence with its mend; None: nothing.

    Raises:
        StackError: as parse_method.
    """
    name, options = parse_method(word)
    transform = METHODS[name].transform
    if transform and (packages := missing_packages(transform)):
        return f"{name} needs {' and '.join(packages)}: {INSTALL_TOOLBOX}"
    for option in WEIGHT_OPTIONS:
        if option in options and not Path(options[option]).is_file():
            return (
                f"{name} needs its weights, but {options[option]} is not a file: put them there "
                f"(weights/README.md says how), or name another file with {name}:{option}=FILE"
            )
    return None


def method_words(words: Iterable[str]) -> list[str]:
    """Expand "all" and "available" in a list of methods.

    Args:
        words: as of parse_method; "all" stands for every method, "available" for those that lack
            nothing on this machine. A word with options replaces the same method among these.
    Returns:
        A list of words, each method with its options once.
    Raises:
        StackError: as parse_method, or a method is named twice.
    """
    words = list(words)
    out: list[str] = []
    if "all" in words:
        out += METHODS
    elif "available" in words:
        out += [name for name in METHODS if missing(name) is None]
    bulk = set(out)
    for word in words:
        if word in ("all", "available"):
            continue
        name, _ = parse_method(word)
        if word in out:
            raise StackError(f"the method {word} is named twice: remove one")
        if name in bulk:
            out[out.index(name)] = word
            bulk.remove(name)
        else:
            out.append(word)
    return out


def iteratively(fuse: Fuse) -> Fuse:
    """Turn a method into one that fuses two frames, then the result with the third, and so on.

    This is how the literature applies methods for pairs to stacks; each step's rounding and errors
    accumulate.
    """

    def fuse_pairs(frames: np.ndarray) -> np.ndarray:
        fused = frames[0]
        for frame in frames[1:]:
            fused = fuse(np.stack([fused, frame]))
        return fused

    return fuse_pairs


def beside_alpha(fuse: Fuse) -> Fuse:
    """Extend a method to frames with alpha: it fuses the colours, alpha is the frames' mean."""

    def fuse_colours(frames: np.ndarray) -> np.ndarray:
        if frames.shape[3] in (1, 3):
            return fuse(frames)
        alpha = np.rint(frames[..., -1:].mean(0, dtype=np.float64)).astype(frames.dtype)
        return np.concatenate([fuse(np.ascontiguousarray(frames[..., :-1])), alpha], axis=2)

    return fuse_colours


def past_copies(fuse: Fuse) -> Fuse:
    """Extend a method to return the frame itself where all frames are copies of one."""

    def fuse_distinct(frames: np.ndarray) -> np.ndarray:
        return frames[0].copy() if len(distinct_frames(frames)) == 1 else fuse(frames)

    return fuse_distinct


def build_method(word: str, iterative: bool = False) -> Fuse:
    """Make a method, ready to fuse.

    Args:
        word: see parse_method.
        iterative: fuse pair after pair, see `iteratively`.
    Returns:
        Function frames (N, H, W, C) -> (H, W, C), see the top of this file.
    Raises:
        StackError: as parse_method; or a package or weights are missing.
    """
    name, options = parse_method(word)
    if sentence := missing(word):
        raise StackError(sentence)
    fuse = past_copies(beside_alpha(METHODS[name].make(**options)))
    return iteratively(fuse) if iterative else fuse
