"""Depth maps of a folder of photographs by a network."""

import collections
import contextlib
import json
import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from stackmff.errors import KNOWN_FAILURES, StackError
from stackmff.images.formats import write_picture
from stackmff.processes import in_order
from stackmff.synthesis.depth_maps import SIDE_FILE, encode_map, side_file
from stackmff.synthesis.depth_models import cut_padding, feed
from stackmff.synthesis.depth_upsampling import sharpen
from stackmff.synthesis.photos import limits_of, read_fit, sentence_about


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


def same_size(photos, most):
    """Put what `in_order` yields together: lists of up to `most` whose inputs are of one size.

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
        photos = in_order(lambda path: read_input(path, limits, model), todo, count, pool)
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
