"""What predict.py and predict_dataset.py share: from the files of a stack to all its results."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from stackmff.alignment.focus_order import focus_order, put_in_order, reorder
from stackmff.alignment.geometry import Alignment, common_area
from stackmff.alignment.measure import align_by_options, apply, find_reference, told
from stackmff.alignment.registration import farthest
from stackmff.display.progress import stage
from stackmff.errors import StackError
from stackmff.fusion.blending import Fused
from stackmff.fusion.engines import choose_engine
from stackmff.fusion.focus_maps import smooth_map
from stackmff.fusion.fuse import fuse_stack
from stackmff.fusion.retouch import apply_strokes, load_strokes
from stackmff.images.formats import loses, to_8_bits, write_picture
from stackmff.images.frame_store import release
from stackmff.images.stack import read_stack
from stackmff.machine import share_one_heap

TILT = 4.0  # of --prefer: where two frames share a pixel alike, the one has 55 times the other's


@dataclass
class Files:
    """Where the results of a stack go; None: not wanted.

    Attributes:
        picture: fused picture, its suffix is the format.
        focus_map: 16-bit PNG. confidence: 8-bit PNG.
        slabs, previews: folders.
        alignment: JSON, how frames lie.
        known_alignment: JSON that is read, in place of measuring.
        card: of the report, see display/report.py.
        retouch: JSON of strokes that is read, see fusion/retouch.py.
    """

    picture: Path
    focus_map: Path | None = None
    confidence: Path | None = None
    slabs: Path | None = None
    previews: Path | None = None
    alignment: Path | None = None
    known_alignment: Path | None = None
    card: Path | None = None
    retouch: Path | None = None

    def wanted(self):
        """What is to be written."""
        paths = astuple(replace(self, known_alignment=None, retouch=None))
        return [path for path in paths if path is not None]


def read_for(output, paths, args):
    """The Stack of frames that are to be fused into the file `output`, in the order that --order
    says; see pictures.read_stack."""
    reference = find_reference(args.reference, [path.name for path in paths])
    folder = Path(output).parent
    stack = read_stack(paths, spill=folder, low_memory=args.low_memory, reference=reference)
    if args.order == "auto":
        put_in_order(stack)
    return stack


@dataclass
class Made:
    """What `fuse_read` has made of a stack.

    Attributes:
        fused: fuse.Fused, of the size of the frames.
        alignment: Alignment, or None.
        area: (top, bottom, left, right) px to be cut out of it, or None.
        notes: sentences.
        fuse: fuse_stack with all that the options say.
        order: (N,) ints, the place of each frame in the Stack as it was read.
    """

    fused: Fused
    alignment: Alignment | None
    area: tuple | None
    notes: list
    fuse: Callable
    order: list


def fuse_read(stack, engine, files, args, bars=False):
    """Align and fuse a Stack, whose frames are changed; arguments else as of `fuse_files`.

    Returns:
        Made.
    """
    frames, names = stack.frames, [path.name for path in stack.paths]
    notes, alignment, order = list(stack.notes), None, list(range(len(names)))
    if args.align != "off":
        alignment = align(frames, names, files, args, bars)
        notes += decisions(alignment, names)
        if args.order == "auto" and (new := order_in_register(frames, alignment)) is not None:
            notes.append(reorder(stack, new, [names[k] for k in new]))
            alignment, order = alignment.reordered(new), new.tolist()
    fuse = partial(fuse_stack, frames, engine, alignment=alignment, tilt=tilt_of(args))
    area = common_area(alignment) if args.crop else None
    # A stroke's soft edge is rounded once, whatever the bits of the result.
    deep = args.bits == 16 or files.retouch is not None
    with stage("fusing", bars) as progress:
        fused = fuse(progress=progress, maps=needs_maps(files), deep=deep)
    if args.smooth and fused.focus_map is not None:
        fused = replace(fused, focus_map=smoothed(fused, args.smooth))
    return Made(fused, alignment, area, notes, fuse, order)


def order_in_register(frames, alignment):
    """As `focus_order`, of frames that a hand has moved: only in register do they show their order.

    None where nothing was moved or a frame is left out, whose detail is another scene's.
    """
    if alignment.left_out or not any(alignment.moved):
        return None
    return focus_order(frames)


def tilt_of(args):
    """The tilt of fuse.fuse_stack that --prefer and --near ask for."""
    return TILT * {None: 0, "far": 1, "near": -1}[args.prefer] * (-1 if args.near == "last" else 1)


def finished(made, stack, files, args):
    """The Fused of a Made as it is written: retouched, cut, with the bits that are wanted."""
    picture = made.fused.picture
    if files.retouch is not None:
        names = [path.name for path in stack.paths]
        strokes = load_strokes(files.retouch, names, picture.shape[:2])
        apply_strokes(picture, stack.frames, strokes)
        release(stack.frames)
    if args.bits == 8 or (args.bits is None and stack.frames.dtype == np.uint8):
        picture = to_8_bits(picture)
    return cropped(replace(made.fused, picture=picture), made.area)


def fuse_files(stack, engine, files, args, bars=False):
    """Align and fuse a stack, and write what comes of it.

    Args:
        stack: function without arguments that gives the Stack; it is called while the engine loads.
        engine: see fusion/engines.py.
        files: Files.
        args: the parsed options of `add_fuse_options`.
        bars: show the progress of each stage.
    Returns:
        {"width", "height", "frames", "network_seconds", "seconds", "notes"}; notes are sentences on
        what was made alike, aligned, left out, and what the format could not keep.
    Raises:
        StackError: from reading, aligning, fusing or writing.
    """
    start, network_start = time.perf_counter(), engine.seconds
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(engine.load)
        stack = stack()
        loading.result()
    made = fuse_read(stack, engine, files, args, bars)
    alignment, area, notes = made.alignment, made.area, made.notes
    fused = finished(made, stack, files, args)
    write_picture(files.picture, fused.picture, stack.metadata)
    if files.focus_map is not None:
        write_picture(files.focus_map, fused.focus_map)
    if files.confidence is not None:
        write_picture(files.confidence, fused.confidence)
    if files.slabs is not None:
        use = list(range(len(stack.frames))) if alignment is None else alignment.kept
        write_slabs(files.slabs, use, args.slab, made.fuse, area, stack.metadata, bars)
    if lost := loses(files.picture.suffix, fused.picture):
        notes.append(lost)
    height, width = fused.picture.shape[:2]
    result = {
        "width": width,
        "height": height,
        "frames": len(stack.paths),
        "network_seconds": round(engine.seconds - network_start, 3),
        "seconds": round(time.perf_counter() - start, 3),
        "notes": notes,
    }
    first_is_near = None if args.near is None else args.near == "first"
    show(files, stack, fused, alignment, area, result, first_is_near)
    return result


def needs_maps(files):
    """Whether the focus map or the confidence are needed."""
    return any((files.focus_map, files.confidence, files.previews, files.card))


def align(frames, names, files, args, bars):
    """Bring the frames onto their reference, in place; returns the Alignment."""
    with stage("aligning", bars) as progress:
        alignment = align_by_options(
            args,
            frames,
            names,
            files.alignment,
            files.known_alignment,
            progress,
            thorough=args.align == "on",
        )
    with stage("resampling", bars) as progress:
        apply(frames, alignment, progress)
    return alignment


def decisions(alignment, names):
    """Sentences on what was aligned, exposed and left out; none where nothing was."""
    notes = [f"left out: {sentence}" for sentence in told(alignment, names)]
    moved = [k for k, moves in enumerate(alignment.moved) if moves]
    if moved:
        most = max(farthest(alignment.transforms[k], alignment.size) for k in moved)
        notes.append(
            f"{len(moved)} of {len(names)} frames were moved onto {names[alignment.reference]}, "
            f"by {most:.1f} px at most"
        )
    if alignment.fields:
        most = max(np.hypot(*field.transpose(2, 0, 1)).max() for field in alignment.fields.values())
        notes.append(
            f"parts of {len(alignment.fields)} frames were moved against one another, by "
            f"{most:.1f} px at most"
        )
    gains = alignment.gains[alignment.kept]
    if (gains != 1).any():
        notes.append(
            f"exposures were matched, by factors of {gains.min():.3f} to {gains.max():.3f}"
        )
    return notes


def smoothed(fused, radius):
    """The focus map of a Fused, smoothed along the picture's edges; (H, W) uint16."""
    sure = np.float32(1) if fused.confidence is None else fused.confidence / np.float32(255)
    return smooth_map(fused.focus_map, sure, fused.picture, radius)


def cropped(fused, area):
    """A Fused cut to (top, bottom, left, right); None: whole."""
    if area is None:
        return fused
    top, bottom, left, right = area
    parts = {
        name: value if value is None else np.ascontiguousarray(value[top:bottom, left:right])
        for name, value in vars(fused).items()
    }
    return replace(fused, **parts)


def slabs_of(use, size):
    """The groups of `size` neighbours among the frames; the last one reaches back for its size.

    Args:
        use: indices of the frames; size: frames of a slab.
    Returns:
        List of lists.
    """
    size = min(size, len(use))
    starts = [*range(0, len(use) - size, size), len(use) - size]
    return [use[start : start + size] for start in starts]


def write_slabs(folder, use, size, fuse, area, metadata, bars):
    """Fuse groups of neighbours into folder/slab_<first>-<last>.tif, frames counted from 1.

    Slabs of an earlier run that are not of this one are removed.
    """
    groups = slabs_of(use, size)
    digits, written = len(str(use[-1] + 1)), set()
    with stage("slabs", bars) as progress:
        for done, group in enumerate(groups, start=1):
            slab = cropped(fuse(use=group, maps=False, deep=True), area)
            ends = "-".join(f"{index + 1:0{digits}}" for index in (group[0], group[-1]))
            path = folder / f"slab_{ends}.tif"
            write_picture(path, slab.picture, metadata)
            written.add(path)
            if progress is not None:
                progress(done, len(groups))
    for path in set(folder.glob("slab_*-*.tif")) - written:  # of a run with other groups
        path.unlink(missing_ok=True)


def show(files, stack, fused, alignment, area, result, first_is_near):
    """Write the previews and the report's card."""
    if files.previews is None and files.card is None:
        return
    from stackmff.display.previews import FrameInfo, write_previews
    from stackmff.display.report import make_card, write_card

    names = [path.name for path in stack.paths]
    kept = None if alignment is None else alignment.kept
    frames = stack.frames
    if area is not None:
        frames = frames[:, area[0] : area[1], area[2] : area[3]]
    info = FrameInfo(names, kept, stack.metadata.profile)
    stem = files.picture.stem
    if files.previews is not None:
        write_previews(files.previews, stem, frames, fused, info, first_is_near)
    if files.card is not None:
        write_card(files.card, make_card(stem, frames, fused, result, files.picture.name, info))
    release(stack.frames)


def make_engine(args):
    """The engine for the options of `add_fuse_options` and --confidence.

    Raises:
        StackError: as torch_engine; or something is asked of a network that cannot give it.
    """
    share_one_heap()
    engine = choose_engine(args.model_path, args.device, args.engine, args.precision)
    if engine.output != "weights":
        for option in ("confidence", "prefer"):
            if getattr(args, option):
                raise StackError(
                    f"{args.model_path} gives a luma and no weights of the frames, which "
                    f"--{option} needs: leave it out or use a StackMix checkpoint"
                )
    return engine
