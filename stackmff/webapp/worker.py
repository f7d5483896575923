"""The work of the page of app.py, in a process of its own: looking at frames, and fusing them.

It takes one line of JSON from stdin, what is to be done, and tells how that goes in lines of JSON
on stdout. So the page stays quick while it works, a broken file or a lack of memory ends the work
and not the page, and to cancel is to end the process.
"""

import argparse
import base64
import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np

from stackmff.alignment.focus_order import put_in_order
from stackmff.alignment.geometry import common_area
from stackmff.display.drawing import reduced
from stackmff.display.previews import sharpness
from stackmff.errors import KNOWN_FAILURES, StackError, sentence_of
from stackmff.files import write_json
from stackmff.fusion.options import FuseOptions
from stackmff.fusion.pipeline import fuse_read, make_engine, write_slabs
from stackmff.images.formats import decode, write_picture
from stackmff.images.metadata import Metadata
from stackmff.images.stack import read_stack
from stackmff.images.stack_files import frames_in_file
from stackmff.options import add_options, parse
from stackmff.webapp.uploads import Limits, check_declared, frames_of

DRAFT = 4  # how much smaller a draft is, each way
THUMB_SIDE = 320  # px
SPARE = 2 * 2**30  # bytes that looking at frames may take beyond those of the frames themselves
AT_WORK = 32  # bytes for a pixel of a frame that is decoded: 16-bit RGBA, and copies of it
LONGEST = 180  # seconds for one file, or one frame of several in it, to be looked at
PAUSE = 0.1  # seconds between two tellings of one stage
BEHIND = 5  # so much less urgent is the work than the page, as os.nice has it


class Teller:
    """Tells the page how the work goes.

    Args:
        stream: binary, written to.
    """

    def __init__(self, stream):
        self.stream = stream
        self.last = (None, 0.0)

    def tell(self, **message):
        self.stream.write(json.dumps(message).encode() + b"\n")
        self.stream.flush()

    def stage(self, name, done, total, part=None):
        """As `shown` of pipeline.stage; most of many steps are passed over."""
        stage, when = self.last
        now = time.monotonic()
        if stage == (name, part) and done < total and now - when < PAUSE:
            return
        self.last = (name, part), now
        self.tell(stage=name, done=done, total=total, part=part)


def look(job, teller):
    """Look at each frame: its size, how sharp it is, a thumbnail, and a copy for the draft.

    Args:
        job: {"files", "folder", "first", "upload", "pixels", "longest"}: paths; a folder for what
            is made; the number of the first frame; see uploads.Limits; seconds for a file, or for
            each frame of several in it (default: LONGEST).
    """
    limits = Limits(job["upload"], job["pixels"])
    bound_memory(AT_WORK * limits.pixels + SPARE)
    folder, number = Path(job["folder"]), job["first"]
    for done, file in enumerate(map(Path, job["files"])):
        teller.stage("looking at frames", done, len(job["files"]))
        try:
            bound_time(job.get("longest", LONGEST))
            check_declared(file, limits)
            frames = frames_of(file)
            for frame in frames:
                bound_time(job.get("longest", LONGEST))
                told = look_at(frame, folder, number)
                teller.tell(frame=told | {"file": str(file)}, of=len(frames))
                number += 1
        except KNOWN_FAILURES as error:
            teller.tell(refused=str(file), sentence=sentence_of(error))
        except Exception as error:  # decoders have classes of their own; the next file goes on
            teller.tell(
                refused=str(file),
                sentence=f"{file} cannot be read ({error}): export or copy it again",
            )
        teller.tell(looked=str(file))
    bound_time(0)
    teller.stage("looking at frames", len(job["files"]), len(job["files"]))


def look_at(frame, folder, number):
    """What is told of one frame; writes <number>.jpg and <number>.png into the folder."""
    decoded = decode(frame)
    picture = decoded.picture
    height, width, channels = picture.shape
    profile = decoded.metadata.profile
    write_picture(folder / f"{number}.jpg", reduced(picture, THUMB_SIDE, profile))
    size = max(width // DRAFT, 1), max(height // DRAFT, 1)
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).reshape(*size[::-1], channels)
    write_picture(folder / f"{number}.png", small, Metadata(profile=profile))
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


def bound_memory(count):
    """Let this process take `count` bytes more at most, where the system can hold it to that."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + count
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard == resource.RLIM_INFINITY or hard > most:
            resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    except (ImportError, OSError, ValueError):
        pass  # no such limits here


def bound_time(seconds):
    """Let this process end in so many seconds unless this is called again before; 0: let it be.

    All who are here wait for one line of looking, and a file can be made to take a decoder for
    ever. The signal ends the process even within a library; without it there is no such bound.
    """
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def fuse(job, teller):
    """Fuse a draft, then the frames themselves.

    Args:
        job: {"frames", "names", "small", "options", "draft", "full"}: [file, number or None] of
            each frame; what they are called; the files of the small copies; words for the options
            of pipeline.add_fuse_options; folders for the results, draft None for none.
    """
    parser = argparse.ArgumentParser()
    add_options(parser, FuseOptions)
    (options,) = parse(parser, job["options"], FuseOptions)
    engine = make_engine(options.engine, ["--prefer"] if options.choices.prefer else [])
    engine.load()
    if job["draft"]:
        small = [Path(file) for file in job["small"]]
        try:
            fuse_into(Path(job["draft"]), small, job["names"], engine, options, teller, "draft")
        except KNOWN_FAILURES as error:
            teller.tell(draft_failed=sentence_of(error))
    fuse_into(Path(job["full"]), frames_at(job["frames"]), job["names"], engine, options, teller)


def frames_at(places):
    """The frames at [file, number from 1 in it or None], each file gone through once.

    The frames of a video share one reader: of their own each would begin at the first one.
    """
    inside = cache(lambda file: frames_in_file(Path(file)))
    return [Path(file) if number is None else inside(file)[number - 1] for file, number in places]


def fuse_into(folder, paths, names, engine, options, teller, part=None):
    """Fuse frames, and leave in a folder all that the page looks at; see viewing.Result."""
    start = time.perf_counter()
    told = partial(teller.stage, part=part)
    folder.mkdir(parents=True)
    stack = read_stack(paths, store=folder / "frames.raw", progress=partial(told, "reading frames"))
    if options.alignment.order == "auto":
        names = put_in_order(stack, names)
    has_weights = engine.output == "weights"
    # What is exported may have 8 bits, and is retouched before.
    options = replace(options, format=replace(options.format, bits=16))
    aligned = options.alignment.align != "off"
    save = folder / "alignment.json" if aligned else None
    made = fuse_read(stack, engine, options, save=save, shown=told)
    names = [names[k] for k in made.order]
    np.save(folder / "fused.npy", made.fused.picture)
    np.save(folder / "focus.npy", made.fused.focus_map)
    if has_weights:
        np.save(folder / "confidence.npy", made.fused.confidence)
    slab = options.choices.slab
    if slab and part is None:
        write_slabs(folder / "slabs", stack, engine, made, slab, told)
    area = None
    if made.alignment is not None:
        with contextlib.suppress(StackError):  # nothing in common: there is nothing to cut to
            area = common_area(made.alignment)
    near = options.choices.near
    block = {
        name: value and base64.b64encode(value).decode()
        for name, value in vars(stack.metadata).items()
    }
    record = {
        "shape": list(stack.frames.shape),
        "dtype": stack.frames.dtype.name,
        "files": [path.name for path in stack.paths],
        "names": names,
        "kept": made.kept(),
        "area": area,
        "notes": made.notes,
        "metadata": block,
        "tilt": made.mixture.tilt,
        "first_is_near": None if near is None else near == "first",
        "seconds": time.perf_counter() - start,
    }
    write_json(folder / "result.json", record)
    teller.tell(made=part or "full")


WORK = {"look": look, "fuse": fuse}


def main():
    # What a library prints goes to stderr; the lines of JSON are ours alone.
    teller = Teller(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)
    if hasattr(os, "nice"):
        os.nice(BEHIND)
    with contextlib.suppress(OSError):  # where memory runs out, this ends and not the page
        Path("/proc/self/oom_score_adj").write_text("1000")
    job = json.loads(sys.stdin.readline())
    try:
        WORK[job["kind"]](job, teller)
    except BrokenPipeError:
        return 1  # the page is gone
    except KNOWN_FAILURES as error:
        teller.tell(error=sentence_of(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
