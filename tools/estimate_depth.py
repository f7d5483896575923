"""Depth maps of photographs, by a network: what make_dataset.py --depth_path takes.

OUT/<photograph>.png   16 bit, of the photograph's size, its edges on the photograph's edges
OUT/depth.json         what the values mean, and what they were made by; make_dataset.py reads it
"""

import argparse
import collections
import contextlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from depth import MEANINGS, SIDE_FILE, describe_maps, encode_map, side_file
from depth_engines import open_model
from depth_models import FORMS, HUB, cut_padding, feed
from engines import available_cores
from formats import write_picture
from photos import (
    add_photo_options,
    add_strict_option,
    limits_of,
    list_photos,
    read_fit,
    sentence_about,
)
from pictures import by_stem
from upsampling import sharpen
from utils import (
    KNOWN_FAILURES,
    StackError,
    make_folder,
    number,
    remove_leftovers,
    run_main,
    run_record,
    write_json,
)

OF_FILES = ("kind", "size", "mean", "std", "meaning", "step", "output_name", "engine")


def get_parser():
    """The options of estimate_depth.py."""
    parser = argparse.ArgumentParser(
        description="Estimate the depth of photographs. What is done is not done again, so that a "
        "run that was stopped goes on.",
    )
    files = parser.add_argument_group("files")
    folder = {"metavar": "DIR", "type": os.path.normpath, "required": True}
    files.add_argument("--image_path", **folder, help="photographs; other files are passed over")
    files.add_argument("--output_path", **folder, help="the depth maps")
    network = parser.add_argument_group("network")
    network.add_argument(
        "--model",
        metavar="NAME|FILE",
        required=True,
        help="an ONNX file (or OpenVINO's .xml), or a network that is downloaded: "
        + ", ".join(HUB),
    )
    network.add_argument(
        "--kind",
        choices=FORMS,
        help="which network a file holds, for its size, normalisation and meaning (default: by "
        "the name of the file)",
    )
    network.add_argument(
        "--meaning",
        choices=MEANINGS,
        help="of what a file gives: metric distance in metres, distance in no unit, or disparity, "
        "which is larger nearer (default: by --kind)",
    )
    network.add_argument(
        "--size",
        type=number(int, 14, 8192),
        nargs=2,
        metavar=("H", "W"),
        help="of a file's input, px, where the file leaves it open (default: by --kind)",
    )
    rgb = {"nargs": 3, "metavar": ("R", "G", "B")}
    network.add_argument(
        "--mean",
        type=number(float, 0, 1),
        **rgb,
        help="taken off the input, which is in 0..1 (default: by --kind)",
    )
    network.add_argument(
        "--std",
        type=number(float, high=1, above=0),
        **rgb,
        help="then it is divided by this, 0..1 (default: by --kind)",
    )
    network.add_argument(
        "--step",
        type=number(float, high=1000, above=0),
        metavar="M",
        help="metres a level of 16 bits, of metric distance (default: by --kind, 0.001 or 0.002)",
    )
    network.add_argument("--output_name", help="the output of a file to take (default: the first)")
    network.add_argument(
        "--no_sharpen",
        action="store_true",
        help="leave the edges of depth as soft as the network's (default: off)",
    )
    add_strict_option(add_photo_options(parser))
    run = parser.add_argument_group("run")
    run.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:K or mps (default: %(default)s)"
    )
    run.add_argument(
        "--engine",
        choices=("auto", "openvino", "onnxruntime"),
        default="auto",
        help="what runs a file (default: onnxruntime on a GPU where it is installed for it, else "
        "OpenVINO)",
    )
    run.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="of the computation; with onnxruntime it is the file's (default: fp32 on a CPU, fp16 "
        "mixed with fp32 on a GPU)",
    )
    run.add_argument(
        "--batch_size",
        type=number(int, 1, 1024),
        default=1,
        help="photographs that the network takes at a time (default: %(default)s)",
    )
    run.add_argument(
        "--workers",
        type=number(int, 1, 1024),
        default=available_cores(),
        help="threads that read, sharpen and write (default: one a core)",
    )
    return parser


def check_arguments(parser, args):
    """Refuse contradictions."""
    if not Path(args.image_path).is_dir():
        parser.error(f"--image_path {args.image_path} is no folder: give one of photographs")
    if Path(args.output_path).resolve() == Path(args.image_path).resolve():
        parser.error("--output_path is --image_path: maps would be taken for photographs")
    if args.model in HUB:
        for name in OF_FILES:
            if getattr(args, name) != parser.get_default(name):
                parser.error(f"--{name} is for a file, --model {args.model} is none")
    if args.engine == "openvino" and args.device not in ("auto", "cpu"):
        parser.error(f"--engine openvino runs on the CPU, not on {args.device}: --device cpu")


def maker_of(model, args):
    """What the maps of a folder must have in common, as plain JSON values."""
    form = {name: value for name, value in vars(model.form).items() if name != "step"}
    return {
        "model": model.name,
        "sha256": model.sha256,
        "precision": args.precision,
        "sharpened": not args.no_sharpen,
        "input": json.loads(json.dumps(form)),
    }


def check_output(output, wanted):
    """Raise StackError where the folder holds maps, or pictures, that are not these.

    Args:
        output: Path of the folder, which is there.
        wanted: {"kind", ..., "made_by"} of the side file.
    """
    side = side_file(output)
    if side is None:
        if any(path.suffix.lower() == ".png" for path in output.iterdir()):
            raise StackError(
                f"{output} holds pictures and no {SIDE_FILE} that says what they are: choose "
                "another --output_path"
            )
        return
    made_by = side.get("made_by")
    made_by = made_by if isinstance(made_by, dict) else {}  # somebody may have written it by hand
    new = wanted["made_by"]
    changed = [name for name in wanted if name != "made_by" and side.get(name) != wanted[name]]
    changed += [name for name in new if made_by.get(name) != new[name]]
    if changed:
        raise StackError(
            f"{output} holds depth maps of another model or other options ({', '.join(changed)}): "
            "choose another --output_path or remove it"
        )


def part_done(photos, output):
    """The photographs that have no map yet, or have changed since.

    The times of all maps are read in one go: thousands of files on a shared disk are slow to ask
    for one by one.
    """
    with os.scandir(output) as entries:
        times = {entry.name: entry.stat().st_mtime_ns for entry in entries}
    todo = [path for path in photos if f"{path.stem}.png" not in times]
    missing = set(todo)
    for path in photos:
        if path not in missing and changed_since(path, times[f"{path.stem}.png"]):
            todo.append(path)
    return todo


def changed_since(path, time_ns):
    """Whether a file is younger than that."""
    try:
        return path.stat().st_mtime_ns > time_ns
    except OSError:
        return True  # to read it will say what is wrong


def read_input(path, limits, model):
    """(picture, input of the network) of a photograph, or the sentence that says what is wrong."""
    try:
        picture = read_fit(path, limits)
        return picture, feed(picture, model.form, model.size(*picture.shape[:2]))
    except KNOWN_FAILURES as error:
        return sentence_about(path, error)


def write_map(path, picture, values, model, output, sharpened):
    """Write the depth map of a photograph.

    Args:
        path, picture: of the photograph; values: (h, w) float32, what the network gave.
        model: the network; output: folder; sharpened: see `upsampling.sharpen`.
    Returns:
        None, or the sentence that says what is wrong with the values.
    Raises:
        StackError: the file cannot be written.
    """
    form, (height, width) = model.form, picture.shape[:2]
    values = cut_padding(values, form, model.size(height, width), height, width)
    try:
        encode_map(values, form.meaning, form.step, path)  # as the network gave them: not a number?
        full = sharpen(values, picture) if sharpened else cv2.resize(values, (width, height))
        levels = encode_map(full, form.meaning, form.step, path)
    except StackError as error:
        return sentence_about(path, error)
    target = output / f"{path.stem}.png"
    write_picture(target, levels)
    with contextlib.suppress(OSError):  # a photograph from the future must not be done each time
        os.utime(target, ns=(max(path.stat().st_mtime_ns, target.stat().st_mtime_ns),) * 2)
    return None


def ahead(pool, function, items, count):
    """Yield (item, function(item)) in order, while `count` more are being worked at in threads."""
    waiting = collections.deque()
    for item in items:
        waiting.append((item, pool.submit(function, item)))
        if len(waiting) > count:
            item, future = waiting.popleft()
            yield item, future.result()
    for item, future in waiting:
        yield item, future.result()


def same_size(photos, most):
    """Put what `ahead` yields together: lists of up to `most` whose inputs are of one size.

    Yields:
        [(path, (picture, input))], or [(path, sentence)] of one that cannot be used.
    """
    group = []
    for path, read in photos:
        if isinstance(read, str):
            yield [(path, read)]
            continue
        if group and (len(group) == most or group[0][1][1].shape != read[1].shape):
            yield group
            group = []
        group.append((path, read))
    if group:
        yield group


def estimate(todo, model, args, output):
    """Estimate and write the depth of photographs; memory does not grow with their number.

    Yields:
        (path, None), or (path, the sentence that says why it has no map), in any order.
    Raises:
        StackError: the network does not run, or a map cannot be written.
    """
    limits = limits_of(args)
    pool = ThreadPoolExecutor(args.workers)
    writing = collections.deque()
    try:
        count = args.batch_size + args.workers
        photos = ahead(pool, lambda path: read_input(path, limits, model), todo, count)
        for group in same_size(photos, args.batch_size):
            if isinstance(group[0][1], str):
                yield group[0]
                continue
            maps = model(np.stack([read[1] for _, read in group]))
            for (path, (picture, _)), values in zip(group, maps):
                job = (path, picture, values, model, output, not args.no_sharpen)
                writing.append((path, pool.submit(write_map, *job)))
            while len(writing) > count:
                path, future = writing.popleft()
                yield path, future.result()
        for path, future in writing:
            yield path, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def main(argv=None):
    """Estimate what is missing, and say what was left out. Returns the exit status."""
    parser = get_parser()
    args = parser.parse_args(argv)
    check_arguments(parser, args)
    cv2.setNumThreads(1)  # the threads of the pool have a photograph each
    photos = list_photos([args.image_path])
    by_stem(photos)  # each names a map
    model = open_model(args, available_cores())
    output = Path(args.output_path)
    make_folder(output)
    side = describe_maps(model.form.meaning, model.form.step)
    side |= {"made_by": maker_of(model, args)}
    check_output(output, side)
    remove_leftovers(output)
    # First of all: there is no map at any moment without what it means.
    write_json(output / SIDE_FILE, side | {"run": run_record()})
    todo = part_done(photos, output)
    left_out = {}
    for path, wrong in tqdm(estimate(todo, model, args, output), "depth", len(todo), disable=None):
        if wrong:
            left_out[path.name] = wrong
            (output / f"{path.stem}.png").unlink(missing_ok=True)  # of what it was before
            tqdm.write(f"left out: {wrong}", file=sys.stderr)
    write_json(output / SIDE_FILE, side | {"left_out": left_out, "run": run_record()})
    made = len(photos) - len(left_out)
    print(
        f"{output}: {made} depth maps, {len(todo) - len(left_out)} of them new, "
        f"{len(left_out)} photographs left out"
    )
    return 1 if not made or (args.strict and left_out) else 0


if __name__ == "__main__":
    run_main(main)
