"""The library: fuse a stack, align it, or take the weights of its frames.

A stack is given as

- a path: a folder of frames, a multi-page TIFF or a video, read as by the command;
- a list of paths of pictures;
- a list of arrays (H, W), (H, W, 1), (H, W, 2), (H, W, 3) or (H, W, 4): grey, grey with alpha, RGB,
  RGB with alpha;
- one array (N, H, W) or (N, H, W, C).

Arrays are uint8, uint16, or floats from 0 to 1, which are worked on in 16 bits and come back as
float32. They are not changed. Options are keywords, named and checked as those
of the command: `stackmff fuse --help` lists them.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from stackmff.alignment.align import align_by_options, find_reference
from stackmff.alignment.focus_order import put_in_order
from stackmff.alignment.geometry import Alignment
from stackmff.alignment.measure import apply
from stackmff.alignment.options import AlignOptions
from stackmff.errors import StackError
from stackmff.fusion import fuse as fusing
from stackmff.fusion.command import needing_weights
from stackmff.fusion.engine_choice import engine_of_module
from stackmff.fusion.engines import Engine
from stackmff.fusion.options import EngineOptions, FuseOptions, ReadOptions
from stackmff.fusion.pipeline import (
    ODD_PARTS,
    Made,
    decisions,
    finished,
    fuse_read,
    make_engine,
    read_sound,
    told_odd,
)
from stackmff.images.folders import list_frames
from stackmff.images.formats import loses, write_picture
from stackmff.images.frame_store import Storage
from stackmff.images.levels import told_levels
from stackmff.images.metadata import Metadata
from stackmff.images.stack import Stack
from stackmff.images.stack_files import FramePath
from stackmff.options import build
from stackmff.processes import Progress
from stackmff.progress import ShowStage
from stackmff.shipped import weights_path

AnyPath = str | os.PathLike[str]
DEFAULT_READING = ReadOptions()
Frames = AnyPath | np.ndarray | Sequence[np.ndarray] | Sequence[AnyPath]


@dataclass(frozen=True)
class Result:
    """A fused stack.

    Attributes:
        picture: (H, W, C), in the dtype of the frames, or as `bits` asks for; float32 in [0, 1] for
            frames that are floats.
        focus_map: (H, W) float32 in [0, N - 1], the expected frame in focus order.
        confidence: (H, W) float32 in [0, 1], the largest weight of a frame; None if the network
            gives no weights.
        notes: sentences on what was unified, aligned, reordered or left out.
        order: (N,) ints, the place in the input of each frame in focus order.
        alignment: by which the frames were aligned; None if they were taken as they are.
        metadata: EXIF, XMP and colour profile of the reference frame.
    """

    picture: np.ndarray
    focus_map: np.ndarray
    confidence: np.ndarray | None
    notes: list[str]
    order: list[int]
    alignment: Alignment | None
    metadata: Metadata = field(repr=False)

    def save(self, path: str | os.PathLike[str]) -> list[str]:
        """Write the picture; the suffix chooses the format, and the metadata are carried over.

        Args:
            path: file to write, atomically.
        Returns:
            Sentences on what the format cannot keep, and on metadata that were left out; empty if
            everything is kept.
        Raises:
            StackError: there is no such format, or the file cannot be written.
        """
        picture = self.picture
        if picture.dtype == np.float32:
            picture = _as_levels(picture)
        notes = write_picture(Path(path), picture, self.metadata)
        lost = loses(Path(path).suffix, picture)
        return [lost, *notes] if lost else notes


@dataclass(frozen=True)
class Aligned:
    """An aligned stack.

    Attributes:
        frames: (N, H, W, C) in focus order, in the dtype of the input, floats as float32; a frame
            that is left out stays as it was.
        transforms: for each frame (2, 3) float64, from pixel (x, y) of the reference to pixel of
            the frame, pixel centres at integers; None for a frame that is left out.
        gains: (N, 3) float64, (N, 1) for grey: factors on the coded values, not on alpha.
        in_light: whether linear light was multiplied, by what these factors are at white.
        left_out: {index: the reason}.
        reference: index of the frame that the others are aligned to.
        order: (N,) ints, the place in the input of each frame.
        notes: sentences on what was unified, aligned, reordered or left out.
    """

    frames: np.ndarray
    transforms: list[np.ndarray | None]
    gains: np.ndarray
    left_out: dict[int, str]
    reference: int
    order: list[int]
    notes: list[str]
    in_light: bool = False


def fuse(
    stack: Frames,
    *,
    network: Any = None,
    progress: ShowStage | bool = False,
    **options: Any,
) -> Result:
    """Fuse a focal stack into one all-in-focus picture.

    Args:
        stack: two frames or more, see the top of this file.
        network: torch module with the contract of network.py, in eval mode; None: the default
            network, or that of `model_path`.
        progress: True for bars on stderr, or a function called as progress(stage, done, total).
        options: `align`, `reference`, `crop`, `prefer`, `bits`, `model_path`, `device` and the
            others of `stackmff fuse`, where they mean the same and have the same defaults.
    Raises:
        StackError: the stack cannot be read, aligned or fused, or an option is wrong; the message
            names the file or frame and what to do.
    """
    chosen = _fuse_options(options)
    engine = _engine(network, chosen)
    frames, floats = _given(stack, chosen.reading)
    read, order = _read(frames, chosen.alignment, chosen.memory.low_memory, chosen.reading)
    made = fuse_read(read, engine, chosen, shown=progress)
    result = _result(made, read, chosen.format.bits, [order[k] for k in made.order])
    if floats and chosen.format.bits is None:
        return replace(result, picture=_as_floats(result.picture))
    return result


def align(stack: Frames, *, progress: Progress | None = None, **options: Any) -> Aligned:
    """Align the frames of a stack to one of them, in geometry and exposure.

    Args:
        stack: two frames or more, see the top of this file.
        progress: called as progress(steps done, steps in all) while it measures.
        options: `order`, `reference`, `motion`, `parallax`, `match_exposure`, `strict`, as those of
            `stackmff align`.
    Raises:
        StackError: the stack cannot be read or aligned, or an option is wrong.
    """
    chosen = build(AlignOptions, _plain(options), strict=True)
    given, floats = _given(stack)
    read, order = _read(given, chosen)
    names = [path.name for path in read.paths]
    notes = [*read.notes, *told_levels(read.frames)]
    alignment = align_by_options(chosen, read.frames, names, progress=progress)
    apply(read.frames, alignment)
    return Aligned(
        _as_floats(read.frames) if floats else read.frames,
        alignment.transforms,
        alignment.gains,
        alignment.left_out,
        alignment.reference,
        order,
        [*notes, *told_odd(read, alignment), *decisions(alignment, names)],
        alignment.in_light,
    )


def frame_weights(frames: Frames, *, network: Any = None, **options: Any) -> np.ndarray:
    """The weights of the frames, as the network predicts them: to mix other data of the stack.

    The frames are taken as they are, neither aligned nor reordered.

    Args:
        frames: two or more, see the top of this file.
        network: see `fuse`.
        options: `model_path`, `device`, `engine`, `precision`, as those of `stackmff fuse`.
    Returns:
        (N, H, W) float32 in [0, 1], sum 1 over N; a copy of an earlier frame has 0.
    Raises:
        StackError: the frames cannot be read, an option is wrong, or the network predicts a luma.
    """
    chosen = build(EngineOptions, _plain(options), strict=True)
    engine = _engine(network, FuseOptions(engine=chosen))
    if engine.output != "weights":
        raise StackError("this network predicts luma, not weights: use a StackMix checkpoint")
    given, _ = _given(frames)
    read, _ = _read(given, AlignOptions(order="given"))
    if not isinstance(given, np.ndarray) and (odd := [p for p in given if p not in read.paths]):
        names = ", ".join(path.name for path in odd)
        raise StackError(f"{names}: {ODD_PARTS}: remove what is damaged from the stack")
    engine.load()
    return fusing.frame_weights(read.frames, engine)


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Options as the command has them: the number of a reference frame as a word, and the file of
    weights in a folder."""
    reference, weights = options.get("reference"), options.get("model_path")
    if isinstance(reference, int) and not isinstance(reference, bool):
        options = {**options, "reference": str(reference)}
    if isinstance(weights, Path):
        options = {**options, "model_path": weights_path(weights)}
    return options


def _fuse_options(options: dict[str, Any]) -> FuseOptions:
    """The FuseOptions of keywords; StackError if one of them is wrong or makes files."""
    for name in ("slab", "out_format"):
        if name in options:
            raise StackError(f"{name} writes files: only the command has it")
    if options.get("focus_from") is not None:
        raise StackError("focus_from is for hyperstacks: only the command has it")
    return build(FuseOptions, _plain(options), strict=True)


def _engine(network: Any, options: FuseOptions) -> Engine:
    """The engine of a network of the caller's, or of the checkpoint that options name."""
    if network is None:
        return make_engine(options.engine, needing_weights(options, confidence=False))
    return engine_of_module(network)


def _given(
    stack: Frames, reading: ReadOptions = DEFAULT_READING
) -> tuple[Sequence[FramePath] | np.ndarray, bool]:
    """The paths of the frames, or a copy of them as (N, H, W, C) uint8 or uint16.

    Returns:
        (frames, floats): whether they were floats.
    Raises:
        StackError: they are no stack.
    """
    if isinstance(stack, (str, os.PathLike)):
        return list_frames(Path(stack), reading.prefer_files), False
    try:
        frames = list(stack)
    except TypeError:
        raise StackError(
            f"a stack is a path, a list of paths or arrays, or an array, not {stack!r}"
        ) from None
    if len(frames) < 2:
        raise StackError(f"a stack needs two frames or more, and there are {len(frames)}")
    if all(isinstance(frame, (str, os.PathLike)) for frame in frames):
        return [Path(cast(AnyPath, frame)) for frame in frames], False
    arrays = _checked(frames)
    if np.issubdtype(arrays[0].dtype, np.floating):
        return np.stack([_as_levels(frame) for frame in arrays]), True
    return np.stack(arrays), False


def _as_levels(floats: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] as uint16."""
    return np.rint(floats * np.float64(65535)).astype(np.uint16)


def _as_floats(levels: np.ndarray) -> np.ndarray:
    """uint16 as float32 in [0, 1]."""
    return levels * np.float32(1 / 65535)


def _read(
    given: Sequence[FramePath] | np.ndarray,
    options: AlignOptions,
    low_memory: bool = False,
    reading: ReadOptions = DEFAULT_READING,
) -> tuple[Stack, list[int]]:
    """The Stack of what `_given` returns, and the place in the input of each of its frames."""
    if not isinstance(given, np.ndarray):
        paths = list(given)
        before = list(paths)
        place = Path(tempfile.gettempdir())
        stack = read_sound(paths, options.reference, reading.lenient, Storage(place, low_memory))
    else:
        names = [str(k) for k in range(len(given))]
        find_reference(options.reference, names)
        paths = [Path(name) for name in names]
        stack = Stack(given, paths, Metadata(), [], [Metadata() for _ in paths])
        before = list(stack.paths)
    if options.order == "auto":
        put_in_order(stack)
    return stack, [before.index(path) for path in stack.paths]


def _checked(given: Sequence[Any]) -> list[np.ndarray]:
    """Frames as arrays (H, W, C) of one shape and dtype; StackError if they are no stack."""
    try:
        arrays = [np.asarray(frame) for frame in given]
    except ValueError as error:  # lists of unequal lengths
        raise StackError(f"the frames are not arrays: {error}") from error
    arrays = [frame[..., None] if frame.ndim == 2 else frame for frame in arrays]
    for k, frame in enumerate(arrays):
        if frame.ndim != 3 or not 1 <= frame.shape[2] <= 4 or 0 in frame.shape:
            raise StackError(
                f"frame {k} has shape {frame.shape}: give (H, W) or (H, W, C) with C from 1 to 4"
            )
        if np.issubdtype(frame.dtype, np.floating):
            low, high = float(frame.min()), float(frame.max())
            if not (low >= 0 and high <= 1):  # NaN too
                raise StackError(
                    f"frame {k} has values from {low:.4g} to {high:.4g}: floats are from 0, black, "
                    "to 1, white"
                )
        elif frame.dtype not in (np.uint8, np.uint16):
            raise StackError(
                f"frame {k} is {frame.dtype}: convert it to uint8 or uint16, with the range of the "
                "type as black to white, or to floats from 0 to 1"
            )
        if frame.shape != arrays[0].shape or frame.dtype != arrays[0].dtype:
            raise StackError(
                f"frame {k} is {frame.shape} {frame.dtype}, frame 0 is {arrays[0].shape} "
                f"{arrays[0].dtype}: give frames of one size and type"
            )
    return arrays


def _result(made: Made, stack: Stack, bits: int | None, order: list[int]) -> Result:
    """The Result of what was made of a stack."""
    fused = finished(made, stack, bits)
    assert fused.focus_map is not None  # it was asked for
    last = max(len(stack.paths) - 1, 1)
    confidence = fused.confidence
    return Result(
        fused.picture,
        fused.focus_map * np.float32(last / 65535),
        None if confidence is None else confidence * np.float32(1 / 255),
        made.notes,
        order,
        made.alignment,
        replace(stack.metadata),
    )
