"""From the frames of a stack to its picture: reading, order, alignment, fusion, retouching."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from stackmff.alignment.align import align_by_options, find_reference, told
from stackmff.alignment.focus_order import focus_order, put_in_order, reorder
from stackmff.alignment.geometry import LEAST_GAP, Alignment, common_area, ends
from stackmff.alignment.measure import apply
from stackmff.alignment.registration import farthest
from stackmff.errors import StackError
from stackmff.fusion.blending import Fused, Mixture
from stackmff.fusion.engine_choice import engine_by_options
from stackmff.fusion.engines import Engine
from stackmff.fusion.focus_maps import smooth_map
from stackmff.fusion.fuse import fuse_stack
from stackmff.fusion.memory import keep_in_file
from stackmff.fusion.near_end import NearEnd, find_near_end, focus_distances
from stackmff.fusion.options import ChoiceOptions, EngineOptions, FuseOptions
from stackmff.fusion.regions import Region, moved_regions, told_regions
from stackmff.fusion.retouch import apply_strokes, fill_regions, load_strokes, pictures_of
from stackmff.images.disagreement import disagreeing_frames
from stackmff.images.formats import to_8_bits
from stackmff.images.frame_store import Storage, release
from stackmff.images.headers import upright_size
from stackmff.images.levels import told_levels
from stackmff.images.rectangles import Box
from stackmff.images.shaken import shaken_frames
from stackmff.images.stack import Stack, read_stack
from stackmff.images.stack_files import FramePath
from stackmff.machine import share_one_heap
from stackmff.progress import ShowStage, stage

CODED_GAMMA = 2.2  # coded values are about this root of the light
TILT = 4.0  # of --prefer: where two frames share a pixel evenly, one gets 55 times the other's part

ODD_PARTS = (
    "parts are flat, grey, repeated or in another exposure, or much is of something else, where "
    "its neighbours agree, as of a flash out of step with the shutter, or as in a damaged file"
)
UNLIKE_PARTS = (
    "a part shows something else than both its neighbours: the file may be damaged, or something "
    "moved; leave the frame out if the result shows it"
)
SHAKEN = (
    "shaken or exposed twice: along one direction almost nothing is as sharp as in the neighbours, "
    "or everything is there twice; leave it out if the result shows it"
)

Shown = bool | ShowStage


@dataclass
class Made:
    """What `fuse_read` has made of a stack.

    Attributes:
        fused: of the size of the frames.
        mixture: by which it was fused.
        area: to crop it to; None: it stays whole.
        notes: sentences on what was decided.
        order: (N,) ints, the place of each frame in the Stack as it was read.
        regions: where something moved, each filled from one frame.
        near: which end is focused nearest; None: the maps were not wanted.
    """

    fused: Fused
    mixture: Mixture
    area: Box | None
    notes: list[str]
    order: list[int]
    regions: list[Region] = field(default_factory=list)
    near: NearEnd | None = None

    @property
    def alignment(self) -> Alignment | None:
        """By which the frames were aligned; None if they were taken as they are."""
        return self.mixture.alignment

    def kept(self) -> list[int]:
        """The indices of the frames that were not left out."""
        return self.mixture.frames_used(len(self.order))


def read_for(output: Path, paths: Sequence[FramePath], options: FuseOptions) -> Stack:
    """Read the frames that are to be fused into the file `output`, in the order that --order asks
    for; see stack.read_stack."""
    stack = read_sound(
        paths,
        options.alignment.reference,
        options.reading.lenient,
        Storage(Path(output).parent, keep_in_file(paths, Path(output), options)),
    )
    if options.alignment.order == "auto":
        put_in_order(stack)
    return stack


def expected_shape(paths: Sequence[FramePath]) -> tuple[int, int, int] | None:
    """The (N, H, W) that a stack most likely has, by the header of its first frame; None: unknown.

    Args:
        paths: of the frames.
    """
    size = upright_size(paths[0]) if isinstance(paths[0], Path) else None
    return None if size is None else (len(paths), *size)


@dataclass
class InRegister:
    """What brought the frames of a Stack into register, and into focus order.

    Attributes:
        alignment: by which they were moved; None if they were taken as they are.
        notes: sentences on what was decided.
        order: (N,) ints, the place of each frame in the Stack as it was read.
        distances: (N,) focus distances of the frames, m, None where one has none; or empty.
    """

    alignment: Alignment | None
    notes: list[str]
    order: list[int]
    distances: Sequence[float | None] = ()


def align_read(
    stack: Stack,
    options: FuseOptions,
    save: Path | None = None,
    known: Path | None = None,
    shown: Shown = False,
) -> InRegister:
    """Align the frames of a Stack in place, and put them in focus order.

    Args:
        stack: its frames are changed in place.
        options: of fusion; those of alignment count.
        save, known, shown: as of `fuse_read`.
    Raises:
        StackError: the frames cannot be aligned.
    """
    frames, names = stack.frames, [path.name for path in stack.paths]
    notes, alignment = told_levels(frames), None
    order = list(range(len(names)))
    if options.alignment.align != "off":
        alignment = _align(frames, names, options, save, known, shown)
        notes += decisions(alignment, names)
        in_register = order_in_register(frames, alignment)
        if options.alignment.order == "auto" and in_register is not None:
            notes.append(reorder(stack, in_register, [names[k] for k in in_register]))
            alignment, order = alignment.reordered(in_register), in_register.tolist()
    notes = [*stack.notes, *told_odd(stack, alignment), *notes]
    return InRegister(alignment, notes, order, focus_distances(stack.frame_metadata))


def told_odd(stack: Stack, alignment: Alignment | None) -> list[str]:
    """Sentences on the frames that show something else, or are shaken.

    Args:
        stack: its frames are in register.
        alignment: by which they were moved; None: they were not.
    """
    return told_unlike(stack, alignment) + told_shaken(stack, alignment)


def told_unlike(stack: Stack, alignment: Alignment | None) -> list[str]:
    """A sentence on the frames with parts of something else, if they still are in register.

    Args:
        stack: its frames are in register.
        alignment: by which they were moved; None: they were not.
    """
    unlike = stack.unlike
    if unlike and alignment is not None and any(alignment.moved) and not alignment.left_out:
        area = _common_area(stack, alignment) or Box.whole(stack.frames.shape[1:3])
        found = disagreeing_frames(stack.frames[:, *area.slices])
        still = [stack.paths[k] for k in sorted([*found.damaged, *found.unlike])]
        unlike = [path for path in unlike if path in still]
    return [f"{', '.join(path.name for path in unlike)}: {UNLIKE_PARTS}"] if unlike else []


def told_shaken(stack: Stack, alignment: Alignment | None) -> list[str]:
    """A sentence on the frames that are shaken or exposed twice, see images/shaken.py.

    Args:
        stack: its frames are in register, in the order of focus.
        alignment: by which they were moved; None: they were not.
    """
    kept = list(range(len(stack.frames))) if alignment is None else alignment.kept
    area = _common_area(stack, alignment)
    if area is None:
        return []
    names = [stack.paths[k].name for k in shaken_frames(stack.frames, kept, area)]
    look = "looks" if len(names) == 1 else "look"
    return [f"{', '.join(names)} {look} {SHAKEN}"] if names else []


def _common_area(stack: Stack, alignment: Alignment | None) -> Box | None:
    """What all frames that are kept show; None if they have nothing in common."""
    if alignment is None or not any(alignment.moved):
        return Box.whole(stack.frames.shape[1:3])
    try:
        return common_area(alignment)
    except StackError:
        return None


def fuse_aligned(
    stack: Stack,
    found: InRegister,
    engine: Engine,
    options: FuseOptions,
    maps: bool = True,
    shown: Shown = False,
) -> Made:
    """Fuse a Stack whose frames are in register.

    Args:
        stack: its frames are read alone; found: by `align_read`.
        engine, options, maps, shown: as of `fuse_read`.
    """
    mixture = Mixture(
        alignment=found.alignment,
        tilt=tilt_of(options.choices),
        deep=options.format.bits == 16,
        maps=maps,
        pure=options.choices.pure_mixture,
    )
    area, notes = None, [*found.notes]
    if options.alignment.crop and found.alignment is not None:
        area = common_area(found.alignment)
    elif found.alignment is not None:
        notes += told_ends(found.alignment)
    with stage("fusing", shown) as progress:
        fused = fuse_stack(stack.frames, engine, mixture, progress)
    regions: list[Region] = []
    if options.choices.ghosts == "fill":
        use = mixture.frames_used(len(stack.frames))
        regions, undecided = moved_regions(stack.frames, use, found.alignment, fused.picture)
        names = [path.name for path in stack.paths]
        notes += told_regions(regions, names)
        notes += [] if undecided is None else [undecided]
        fill_regions(fused, stack.frames, regions)
    near = None
    if fused.focus_map is not None:
        near = find_near_end(options.choices.near, found.distances, fused, len(stack.frames))
    if options.choices.smooth and fused.focus_map is not None:
        fused = replace(fused, focus_map=_smoothed(fused, options.choices.smooth))
    return Made(fused, mixture, area, notes, found.order, regions, near)


def read_sound(
    paths: Sequence[FramePath],
    reference: str | None,
    lenient: bool,
    storage: Storage,
) -> Stack:
    """Read a stack without frames that have damaged parts, see images/disagreement.py.

    Args:
        paths: of the frames.
        reference: as of align.find_reference.
        lenient: take damaged frames, and tell.
        storage: where the frames are kept.
    Raises:
        StackError: as read_stack and find_reference.
    """

    def read(chosen: Sequence[FramePath]) -> Stack:
        index = find_reference(reference, [path.name for path in chosen])
        return read_stack(chosen, index, storage, lenient=lenient)

    stack = read(paths)
    found = disagreeing_frames(stack.frames)
    odd = found.damaged
    names, unlike = ", ".join(stack.paths[k].name for k in odd), [paths[k] for k in found.unlike]
    if odd and lenient:
        stack.notes.append(f"{names}: {ODD_PARTS}; used as it is")
    elif odd:
        del stack  # frees its memory
        stack = read([path for k, path in enumerate(paths) if k not in odd])
        stack.notes.append(f"left out: {names}: {ODD_PARTS}; --lenient uses it")
    stack.unlike = unlike
    return stack


def fuse_read(
    stack: Stack,
    engine: Engine,
    options: FuseOptions,
    maps: bool = True,
    save: Path | None = None,
    known: Path | None = None,
    shown: Shown = False,
) -> Made:
    """Align and fuse a Stack.

    Args:
        stack: its frames are changed in place.
        engine: runs the network.
        options: of fusion.
        maps: also make the focus map and the confidence.
        save: file for the alignment; known: one to read it from; None: neither.
        shown: whether progress is shown, see progress.stage.
    Raises:
        StackError: the frames cannot be aligned or fused.
    """
    found = align_read(stack, options, save, known, shown)
    return fuse_aligned(stack, found, engine, options, maps, shown)


def order_in_register(frames: np.ndarray, alignment: Alignment) -> np.ndarray | None:
    """The focus order of frames that were moved: only in register do they show it.

    None if nothing was moved, if a frame is left out (its detail is another scene's), or if the
    frames are in focus order.
    """
    if alignment.left_out or not any(alignment.moved):
        return None
    return focus_order(frames)


def tilt_of(choices: ChoiceOptions) -> float:
    """The tilt of blending.Mixture that --prefer and --near ask for."""
    towards = {None: 0, "far": 1, "near": -1}[choices.prefer]
    return TILT * towards * (-1 if choices.near == "last" else 1)


def finished(made: Made, stack: Stack, bits: int | None, retouch: Path | None = None) -> Fused:
    """The Fused of a Made as it is written: retouched, cropped, with the bits that are wanted.

    Args:
        made: of the Stack.
        stack: whose frames are aligned.
        bits: per channel; None: as the frames have.
        retouch: file of strokes; None: none.
    """
    picture = made.fused.picture
    if retouch is not None:
        names = [path.name for path in stack.paths]
        strokes = load_strokes(retouch, names, picture.shape[:2])
        pictures = pictures_of(retouch, strokes, picture.shape)
        apply_strokes(picture, stack.frames, strokes, pictures=pictures)
        release(stack.frames)
    if bits == 8 or (bits is None and stack.frames.dtype == np.uint8):
        picture = to_8_bits(picture)
    return cropped(replace(made.fused, picture=picture), made.area)


def _align(
    frames: np.ndarray,
    names: list[str],
    options: FuseOptions,
    save: Path | None,
    known: Path | None,
    shown: Shown,
) -> Alignment:
    """Bring the frames onto their reference, in place."""
    with stage("aligning", shown) as progress:
        alignment = align_by_options(
            options.alignment,
            frames,
            names,
            save,
            known,
            progress,
            thorough=options.alignment.align == "on",
        )
    with stage("resampling", shown) as progress:
        apply(frames, alignment, progress)
    return alignment


def decisions(alignment: Alignment, names: Sequence[str]) -> list[str]:
    """Sentences on what was aligned, exposed and left out; none if nothing was."""
    notes = [f"left out: {sentence}" for sentence in told(alignment, names)]
    moved = [
        matrix
        for matrix, moves in zip(alignment.transforms, alignment.moved, strict=True)
        if moves and matrix is not None
    ]
    if moved:
        most = max(farthest(matrix, alignment.size) for matrix in moved)
        notes.append(
            f"{len(moved)} of {len(names)} frames aligned to {names[alignment.reference]} "
            f"(up to {most:.1f} px)"
        )
    if alignment.fields:
        most = max(np.hypot(*field.transpose(2, 0, 1)).max() for field in alignment.fields.values())
        count = len(alignment.fields)
        notes.append(
            f"parallax corrected in {count} frame{'s' if count > 1 else ''} (up to {most:.1f} px)"
        )
    notes += alignment.notes
    gains = alignment.gains[alignment.kept]
    if (gains != 1).any():
        stops = CODED_GAMMA * np.log2(gains)
        notes.append(f"exposure matched ({stops.min():+.2f} to {stops.max():+.2f} EV)")
    return notes


def told_ends(alignment: Alignment) -> list[str]:
    """A sentence if moved frames end within the picture; none otherwise."""
    most = max(float(ends(alignment, k).max()) for k in alignment.kept)
    if most < LEAST_GAP:
        return []
    return [
        f"some frames do not reach the borders after alignment; the outer {math.ceil(most)} px may "
        "be less sharp: --crop removes them"
    ]


def _smoothed(fused: Fused, radius: float) -> np.ndarray:
    """The focus map of a Fused, smoothed along the edges of the picture; (H, W) uint16."""
    assert fused.focus_map is not None
    sure: Any = np.float32(1)
    if fused.confidence is not None:
        sure = fused.confidence / np.float32(255)
    return smooth_map(fused.focus_map, sure, fused.picture, radius)


def cropped(fused: Fused, area: Box | None) -> Fused:
    """A Fused cropped to an area; None: whole."""
    if area is None:
        return fused
    parts: dict[str, Any] = {
        name: value if value is None else area.cut(value) for name, value in vars(fused).items()
    }
    return replace(fused, **parts)


def make_engine(options: EngineOptions, needing_weights: Iterable[str] = ()) -> Engine:
    """The engine that options ask for.

    Args:
        options: of the engine.
        needing_weights: what is asked for, as on the command line, that only a network that gives
            weights has.
    Raises:
        StackError: as engine_by_options, or the network cannot give what is asked for.
    """
    share_one_heap()
    engine = engine_by_options(options)
    if engine.output != "weights":
        for name in needing_weights:
            raise StackError(
                f"{options.model_path} predicts luma, not the weights of the frames that {name} "
                f"needs: remove {name} or use a StackMix checkpoint"
            )
    return engine
