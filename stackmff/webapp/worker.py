"""The work for a page, in a process of its own: examining frames, and fusing them.

It reads one line of JSON from stdin, a spec of jobs.py, and reports in lines of JSON on stdout. In
this way the server stays responsive, a damaged file or a lack of memory ends the work and not the
server, and cancelling means ending the process.
"""

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stackmff.alignment.focus_order import put_in_order
from stackmff.alignment.geometry import colours_of, common_area
from stackmff.alignment.record import load_alignment
from stackmff.display.drawing import reduced
from stackmff.display.previews import sharpness
from stackmff.errors import KNOWN_FAILURES, StackError, sentence_of
from stackmff.fusion.engines import Engine
from stackmff.fusion.methods import build_method
from stackmff.fusion.options import FuseOptions
from stackmff.fusion.pipeline import (
    InRegister,
    Made,
    align_read,
    fuse_aligned,
    make_engine,
)
from stackmff.fusion.retouch import Stroke, load_strokes, pictures_of, record_of, save_strokes
from stackmff.fusion.slabs import fuse_slabs, slabs_of
from stackmff.images.datasets import find_datasets
from stackmff.images.decoded import Decoded
from stackmff.images.folders import frames_in, stack_name
from stackmff.images.formats import decode, write_picture
from stackmff.images.frame_store import Storage
from stackmff.images.groups import split_brackets
from stackmff.images.levels import levels_of
from stackmff.images.metadata import Metadata
from stackmff.images.stack import Stack, read_stack
from stackmff.images.stack_files import frames_in_file
from stackmff.machine import import_openvino
from stackmff.options import build
from stackmff.processes import answer_channel, end_with_input
from stackmff.progress import ShowStage
from stackmff.webapp.archive import pack, unpack
from stackmff.webapp.example import write_example
from stackmff.webapp.exports import write_export
from stackmff.webapp.forking import serve
from stackmff.webapp.jobs import (
    ExamineSpec,
    ExampleSpec,
    ExportSpec,
    FuseSpec,
    MethodSpec,
    PackSpec,
    SplitSpec,
    StrokesSpec,
    UnpackSpec,
)
from stackmff.webapp.kept_frames import forget, keep, with_kept
from stackmff.webapp.other_pictures import SourcePictures
from stackmff.webapp.reporting import Reporter, bound_memory, bound_time, yield_memory
from stackmff.webapp.result_files import (
    PART,
    AlignedFiles,
    AlignedRecord,
    ResultFiles,
    ResultRecord,
    decode_metadata,
    encode_metadata,
    load_aligned,
    load_record,
)
from stackmff.webapp.uploads import check_declared, frames_of

DRAFT = 4  # reduction of a draft, each side
THUMB_SIDE = 320  # px
SPARE = 2 * 2**30  # bytes that examining may take in addition to the frame itself
AT_WORK = 32  # bytes per pixel of a frame while it is decoded: 16-bit RGBA, and copies of it
TO_EXPORT = 96  # bytes per pixel of a picture: itself, its maps, strokes, the encoded file


def examine(spec: ExamineSpec, reporter: Reporter) -> None:
    """Find the size and sharpness of each frame, write its thumbnail and a copy for the draft."""
    bound_memory(AT_WORK * spec.frame_pixels + SPARE)
    folder, number = Path(spec.folder), spec.first_id
    keeper = Keeper(spec.decoded, spec.decoded_room)
    for done, file in enumerate(map(Path, spec.files)):
        reporter.stage("examining frames", done, len(spec.files))
        try:
            bound_time(spec.longest)
            check_declared(file, spec.frame_pixels)
            frames = frames_of(file)
            for frame in frames:
                bound_time(spec.longest)
                found = examine_frame(frame, folder, number, keeper)
                reporter.report(frame=found | {"file": str(file)}, of=len(frames))
                number += 1
        except KNOWN_FAILURES as error:
            reporter.report(refused=str(file), sentence=sentence_of(error))
        except Exception as error:  # decoders raise their own classes; go on with the next file
            reporter.report(
                refused=str(file),
                sentence=f"{file} cannot be read ({error}): export or copy it again",
            )
        reporter.report(examined=str(file))
    bound_time(0)
    reporter.stage("examining frames", len(spec.files), len(spec.files))


class Keeper:
    """Keeps frames as they were decoded, as long as there is room; see kept_frames.py.

    Args:
        folder: for them; None: none is kept.
        room: bytes.
    """

    def __init__(self, folder: str | None, room: int) -> None:
        self.folder, self.room = folder, room

    def keep(self, decoded: Decoded, number: int) -> None:
        """Keep the frame of an id."""
        size = decoded.picture.nbytes
        if self.folder is None or size > self.room:
            return
        self.room -= size
        path = Path(self.folder) / f"{number}.npy"
        try:
            keep(decoded, path)
        except (OSError, StackError):  # the disk is full: the frame is decoded again
            forget(path)
            self.room = 0


def examine_frame(frame: Any, folder: Path, number: int, keeper: Keeper) -> dict[str, Any]:
    """Describe one frame; write its thumbnail <number>.jpg and its small copy <number>.png.

    Args:
        frame: a path, or a frame in a file, see uploads.frames_of.
        folder: for both pictures.
        number: the id of the frame.
        keeper: keeps the frame as it was decoded.
    """
    decoded = decode(frame)
    picture = decoded.picture
    height, width, channels = picture.shape
    profile = decoded.metadata.profile
    keeper.keep(decoded, number)
    thumbnail = reduced(picture, THUMB_SIDE, profile, levels_of(picture[None]))
    write_picture(folder / f"{number}.jpg", thumbnail, durable=False)
    size = max(width // DRAFT, 1), max(height // DRAFT, 1)
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).reshape(*size[::-1], channels)
    write_picture(folder / f"{number}.png", small, Metadata(profile=profile), durable=False)
    return {
        "id": number,
        "name": frame.name,
        "number": getattr(frame, "number", None),
        "width": width,
        "height": height,
        "channels": channels,
        "bytes": picture.nbytes,
        "sharpness": sharpness(picture),
    }


def fuse(spec: FuseSpec, reporter: Reporter) -> None:
    """Fuse a draft, if one is wanted, then the frames themselves."""
    options = build(FuseOptions, spec.options, strict=True)
    # With 8 bits the picture could not be retouched without rounding twice: it is rounded when it
    # is exported.
    options = replace(options, format=replace(options.format, bits=16))
    engine = make_engine(options.engine, ["--prefer"] if options.choices.prefer else [])
    engine.load()
    if spec.draft is not None:
        try:
            fuse_draft(spec, spec.draft, engine, options, reporter)
        except KNOWN_FAILURES as error:
            reporter.report(draft_failed=sentence_of(error))
    fuse_full(spec, engine, options, reporter)


def fuse_draft(
    spec: FuseSpec, folder: str, engine: Engine, options: FuseOptions, reporter: Reporter
) -> None:
    """Fuse the small copies into a folder."""
    start = time.perf_counter()
    files, show = ResultFiles(folder), partial(reporter.stage, part="draft")
    files.folder.mkdir(parents=True)
    reading = partial(show, "reading frames")
    stack = read_stack(
        list(map(Path, spec.small)), storage=Storage(store=files.frames), progress=reading
    )
    names = list(spec.names)
    if options.alignment.order == "auto":
        names = put_in_order(stack, names)
    save = None if options.alignment.align == "off" else files.alignment
    found = align_read(stack, options, save, shown=show)
    made = fuse_aligned(stack, found, engine, options, shown=show)
    names = [names[k] for k in made.order]
    write_planes(files, made, engine)
    record = describe(stack, made, names, time.perf_counter() - start)
    record.notes, record.regions = [], []  # they are of the small copies
    height, width = stack.frames.shape[1:3]
    whole = spec.whole or (DRAFT * height, DRAFT * width)
    # The frames may have been turned as their content is.
    record.whole = whole[::-1] if (whole[0] > whole[1]) != (height > width) else whole
    record.save(files.record)
    reporter.report(made="draft")


def fuse_full(spec: FuseSpec, engine: Engine, options: FuseOptions, reporter: Reporter) -> None:
    """Fuse the frames and write the files that results.ShownResult reads."""
    start = time.perf_counter()
    files, show = ResultFiles(spec.full), reporter.stage
    files.folder.mkdir(parents=True)
    aligned = AlignedFiles(spec.aligned or spec.full)
    if aligned.record.exists():
        stack, found, names = load_in_register(aligned)
    else:
        stack, found, names = bring_in_register(spec, aligned, options, show)
    made = fuse_aligned(stack, found, engine, options, shown=show)
    write_planes(files, made, engine)
    if options.choices.slab is not None:
        files.slabs.mkdir()
        groups = slabs_of(made.kept(), options.choices.slab)
        for name, slab in fuse_slabs(stack.frames, engine, made.mixture, groups, show):
            np.save(files.slabs / f"{name}.npy", slab)
    record = describe(stack, made, names, time.perf_counter() - start)
    record.options, record.made = spec.options, time.time()
    record.aligned = None if spec.aligned is None else aligned.folder.name
    record.save(files.record)
    reporter.report(made="full")


def bring_in_register(
    spec: FuseSpec, files: AlignedFiles, options: FuseOptions, show: ShowStage
) -> tuple[Stack, InRegister, list[str]]:
    """Read the frames and align them; returns them with their names, in their order."""
    files.folder.mkdir(parents=True, exist_ok=True)
    originals = open_frames(spec.frames)
    frames = with_kept(originals, spec.decoded)
    bound_time(spec.longest * 2)  # two are decoded at a time

    def reading(done: int, total: int) -> None:
        bound_time(spec.longest * 2)
        show("reading frames", done, total)

    stack = read_stack(frames, storage=Storage(store=files.frames), progress=reading)
    bound_time(0)
    base = files.folder.parent
    inside = [
        [file if not Path(file).is_relative_to(base) else str(Path(file).relative_to(base)), number]
        for file, number in spec.frames
    ]
    places = dict(zip(map(str, frames), inside, strict=True))
    names_of = dict(zip(map(str, frames), spec.names, strict=True))
    for path in spec.decoded:
        forget(path)
    if options.alignment.order == "auto":
        put_in_order(stack, list(spec.names))
    save = None if options.alignment.align == "off" else files.alignment
    found = align_read(stack, options, save, shown=show)
    names = [names_of[str(path)] for path in stack.paths]
    record = AlignedRecord(
        shape=list(stack.frames.shape),
        dtype=stack.frames.dtype.name,
        paths=[places[str(path)] for path in stack.paths],
        names=names,
        notes=found.notes,
        metadata=encode_metadata(stack.metadata),
        distances=found.distances,
    )
    record.save(files.record)
    return stack, found, names


def load_in_register(files: AlignedFiles) -> tuple[Stack, InRegister, list[str]]:
    """Frames that `bring_in_register` has left, as it returns them."""
    record = load_aligned(files.record)
    shape = record.shape[0], record.shape[1], record.shape[2], record.shape[3]
    frames = np.memmap(files.frames, np.dtype(record.dtype), "r", 0, shape)
    base = files.folder.parent
    paths = open_frames([(str(base / file), number) for file, number in record.paths])
    alignment = None
    if files.alignment.exists():
        names, size = [path.name for path in paths], (shape[1], shape[2])
        alignment = load_alignment(files.alignment, names, size, colours_of(frames))
    stack = Stack(frames, paths, decode_metadata(record.metadata))
    order = list(range(shape[0]))
    found = InRegister(alignment, list(record.notes), order, record.distances)
    return stack, found, list(record.names)


def open_frames(places: Sequence[tuple[str, int | None]]) -> list[Any]:
    """The frames at (file, number from 1 in it or None).

    Frames of one video share a reader: a reader of its own for each would decode the video from
    its start, and keep it open.
    """
    inside = cache(lambda file: frames_in_file(Path(file)))
    return [Path(file) if number is None else inside(file)[number - 1] for file, number in places]


def write_planes(files: ResultFiles, made: Made, engine: Engine) -> None:
    """Write the fused picture and its maps."""
    np.save(files.fused, made.fused.picture)
    assert made.fused.focus_map is not None
    np.save(files.focus_map, made.fused.focus_map)
    if engine.output == "weights":
        assert made.fused.confidence is not None
        np.save(files.confidence, made.fused.confidence)


def describe(stack: Stack, made: Made, names: Sequence[str], seconds: float) -> ResultRecord:
    """The record of a result.

    Args:
        stack: of aligned frames; made: of it; names: of its frames.
        seconds: time taken.
    """
    area = None
    if made.alignment is not None:
        with contextlib.suppress(StackError):  # the frames have no area in common
            area = common_area(made.alignment)
    near = made.near
    return ResultRecord(
        shape=list(stack.frames.shape),
        dtype=stack.frames.dtype.name,
        files=[path.name for path in stack.paths],
        names=names,
        kept=made.kept(),
        area=area,
        notes=made.notes,
        metadata=encode_metadata(stack.metadata),
        tilt=made.mixture.tilt,
        first_is_near=None if near is None else near.first,
        near_end="" if near is None else near.told(names),
        seconds=seconds,
        regions=[record_of(region, names) for region in made.regions],
    )


def fuse_by_method(spec: MethodSpec, reporter: Reporter) -> None:
    """Fuse the frames of a result that were kept, by a method, and write its picture."""
    bound_time(spec.longest)
    files = ResultFiles(spec.result)
    record = load_record(files.record)
    fuse_frames = build_method(spec.method)
    frames = np.memmap(spec.frames, np.dtype(record.dtype), "r", 0, tuple(record.shape))
    files.methods.mkdir(exist_ok=True)
    made = files.methods / f"{spec.method}{PART}"
    with contextlib.ExitStack() as resources:
        if len(record.kept) < len(frames):
            # To select frames of a mapped file would read them all into memory.
            chosen = resources.enter_context(tempfile.TemporaryFile(dir=files.methods))
            for k in record.kept:
                frames[k].tofile(chosen)
            shape = len(record.kept), *frames.shape[1:]
            frames = np.memmap(chosen, frames.dtype, "r", 0, shape)
        with open(made, "wb") as file:
            np.save(file, fuse_frames(frames))
    made.replace(files.methods / f"{spec.method}.npy")


def export(spec: ExportSpec, reporter: Reporter) -> None:
    """Write a file of a result."""
    record = load_record(ResultFiles(spec.result).record)
    n_frames, height, width, channels = record.shape
    mapped = n_frames * height * width * channels * np.dtype(record.dtype).itemsize
    bound_memory(mapped + TO_EXPORT * height * width + SPARE)
    bound_time(spec.longest)
    reporter.report(notes=write_export(spec))


def take_strokes(spec: StrokesSpec, reporter: Reporter) -> None:
    """Give a result the pictures in an archive of strokes, and write the strokes beside it."""
    files = ResultFiles(spec.result)
    record = load_record(files.record)
    shape = tuple(record.shape[1:])
    bound_memory(TO_EXPORT * shape[0] * shape[1] + SPARE)
    bound_time(spec.longest)
    archive = Path(spec.archive)
    strokes = load_strokes(archive, record.names, shape[:2])
    sources = SourcePictures(files.sources, shape)
    names = {}
    for name, picture in pictures_of(archive, strokes, shape).items():
        names[name] = sources.add(picture)
    renamed = [
        replace(one, picture=names[one.picture])
        if isinstance(one, Stroke) and one.picture is not None
        else one
        for one in strokes
    ]
    save_strokes(archive.with_suffix(".json"), renamed, record.names, shape[:2])


def split(spec: SplitSpec, reporter: Reporter) -> None:
    """Report the stacks below a folder, or those that files of one folder are."""
    bound_memory(AT_WORK * spec.frame_pixels + SPARE)
    bound_time(spec.longest)
    if spec.folder is None:
        found = split_brackets([Path(file) for file in spec.files], "auto")
        for group in found.stacks:
            reporter.report(stack=group.name, files=list(map(str, group.paths)))
        reporter.report(single=list(map(str, found.single)), why=found.why)
        return
    datasets = find_datasets(Path(spec.folder), tell=lambda sentence: None)
    for source in (one for stacks in datasets.values() for one in stacks):
        paths = [source] if isinstance(source, Path) else source.paths
        if isinstance(source, Path) and source.is_dir():
            paths = frames_in(source)
        reporter.report(stack=stack_name(source), files=list(map(str, paths)))


def example(spec: ExampleSpec, reporter: Reporter) -> None:
    """Draw the frames of the example."""
    bound_time(spec.longest)
    for file in write_example(Path(spec.folder)):
        reporter.report(drawn=str(file))


def pack_project(spec: PackSpec, reporter: Reporter) -> None:
    """Write the archive of a project."""
    bound_time(spec.longest)
    pack(spec)


def unpack_project(spec: UnpackSpec, reporter: Reporter) -> None:
    """Write the files of the archive of a project."""
    bound_memory(SPARE)
    bound_time(spec.longest)
    unpack(spec)


# Each kind of spec: its class, and what does it.
WORK: dict[str, tuple[Callable[..., Any], Callable[..., None]]] = {
    "examine": (ExamineSpec, examine),
    "fuse": (FuseSpec, fuse),
    "method": (MethodSpec, fuse_by_method),
    "export": (ExportSpec, export),
    "strokes": (StrokesSpec, take_strokes),
    "split": (SplitSpec, split),
    "example": (ExampleSpec, example),
    "pack": (PackSpec, pack_project),
    "unpack": (UnpackSpec, unpack_project),
}


def main() -> int:
    """Do the work that stdin asks for; return an exit status."""
    reporter = Reporter(answer_channel())
    yield_memory()
    message = json.loads(sys.stdin.readline())
    end_with_input()
    make_spec, work = WORK[message["kind"]]
    try:
        work(make_spec(**message), reporter)
    except BrokenPipeError:
        return 1  # the server has ended
    except KNOWN_FAILURES as error:
        reporter.report(error=sentence_of(error))
    return 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        import_openvino()  # as every fusion would, and what `common_area` needs
        import scipy.optimize  # noqa: F401

        serve(int(sys.argv[1]), main)
    else:
        sys.exit(main())
