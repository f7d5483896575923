"""Depth maps of a folder of photographs by a network."""

import contextlib
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from stackmff.errors import KNOWN_FAILURES, StackError
from stackmff.images.formats import write_picture
from stackmff.processes import in_order
from stackmff.synthesis.depth_engines import DepthModel
from stackmff.synthesis.depth_maps import SIDE_FILE, encode_map, side_file
from stackmff.synthesis.depth_models import cut_padding, feed
from stackmff.synthesis.depth_upsampling import sharpen
from stackmff.synthesis.options import PhotoLimits
from stackmff.synthesis.photos import read_fit, sentence_about

NOT_COMPARED = ("made_by", "unit")  # of a side file; the unit is described by what is compared


def maker_of(model: DepthModel, precision: str, sharpened: bool) -> dict[str, Any]:
    """What the maps of a folder must have in common, as plain JSON values."""
    form = {name: value for name, value in vars(model.form).items() if name != "step"}
    return {
        "model": model.name,
        "sha256": model.sha256,
        "precision": precision,
        "sharpened": sharpened,
        "input": json.loads(json.dumps(form)),
    }


def check_output(output: Path, wanted: dict[str, Any]) -> None:
    """Check that a folder holds no maps, or pictures, but those that are wanted.

    Args:
        output: an existing folder.
        wanted: {"kind", ..., "made_by"}, the content of its side file.
    Raises:
        StackError: it does.
    """
    side = side_file(output)
    if side is None:
        if any(path.suffix.lower() == ".png" for path in output.iterdir()):
            raise StackError(
                f"{output} holds pictures and no {SIDE_FILE} that says what they are: choose "
                "another --output_dir"
            )
        return
    made_by = side.get("made_by")
    made_by = made_by if isinstance(made_by, dict) else {}  # it may have been written by hand
    new = wanted["made_by"]
    changed = [
        name for name in wanted if name not in NOT_COMPARED and side.get(name) != wanted[name]
    ]
    changed += [name for name in new if made_by.get(name) != new[name]]
    if changed:
        raise StackError(
            f"{output} holds depth maps of another model or other options ({', '.join(changed)}): "
            "choose another --output_dir or remove it"
        )


def part_done(photos: Sequence[Path], output: Path) -> list[Path]:
    """The photographs that have no map yet, or have changed since.

    The times of all maps are read at once: on a shared disk, asking for thousands of files one by
    one is slow.
    """
    with os.scandir(output) as entries:
        times = {entry.name: entry.stat().st_mtime_ns for entry in entries}
    todo = [path for path in photos if f"{path.stem}.png" not in times]
    missing = set(todo)
    for path in photos:
        if path not in missing and changed_since(path, times[f"{path.stem}.png"]):
            todo.append(path)
    return todo


def changed_since(path: Path, time_ns: int) -> bool:
    """Whether a file was changed after that time."""
    try:
        return path.stat().st_mtime_ns > time_ns
    except OSError:
        return True  # reading it will tell what is wrong


class Prepared(NamedTuple):
    """A photograph that was read for a network."""

    path: Path
    picture: np.ndarray  # (H, W, 3) uint8
    values: np.ndarray  # (3, h, w) float32, the input


Reading = Prepared | str  # a str: why the photograph cannot be used


@dataclass(frozen=True)
class DepthEstimator:
    """Estimates the depth of photographs and writes the maps; memory is bounded.

    Attributes:
        model: the network.
        output: folder of the maps.
        limits: what a photograph must have.
        sharpened: whether the edges of depth follow the photograph's, see `sharpen`.
        batch_size: photographs that the network takes at a time.
        workers: threads that read, sharpen and write.
    """

    model: DepthModel
    output: Path
    limits: PhotoLimits
    sharpened: bool
    batch_size: int
    workers: int

    def run(self, photos: Sequence[Path]) -> Iterator[tuple[Path, str | None]]:
        """Estimate and write the depth of photographs.

        Yields:
            (path, None), or (path, why it has no map, as a sentence), in any order.
        Raises:
            StackError: the network does not run, or a map cannot be written.
        """
        pool = ThreadPoolExecutor(self.workers)
        writing: deque[tuple[Path, Future[str | None]]] = deque()
        count = self.batch_size + self.workers
        try:
            readings = in_order(self.read, photos, count, pool)
            for group in same_size(readings, self.batch_size):
                path, reading = group[0]
                if isinstance(reading, str):
                    yield path, reading
                    continue
                ready = [one for _, one in group if isinstance(one, Prepared)]
                maps = self.model(np.stack([one.values for one in ready]))
                for one, values in zip(ready, maps, strict=True):
                    writing.append((one.path, pool.submit(self.write, one, values)))
                while len(writing) > count:
                    path, future = writing.popleft()
                    yield path, future.result()
            for path, future in writing:
                yield path, future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def read(self, path: Path) -> Reading:
        """Read a photograph for the network."""
        try:
            picture = read_fit(path, self.limits)
            size = self.model.size(picture.shape[0], picture.shape[1])
            return Prepared(path, picture, feed(picture, self.model.form, size))
        except KNOWN_FAILURES as error:
            return sentence_about(path, error)

    def write(self, photo: Prepared, values: np.ndarray) -> str | None:
        """Write the depth map of a photograph.

        Args:
            photo: as the network has seen it.
            values: (h, w) float32, the network's output.
        Returns:
            None, or what is wrong with the values, as a sentence.
        Raises:
            StackError: the file cannot be written.
        """
        form, path = self.model.form, photo.path
        height, width = photo.picture.shape[:2]
        values = cut_padding(values, form, self.model.size(height, width), height, width)
        try:
            # Also as the network returned them: sharpening would spread a NaN.
            encode_map(values, form.meaning, form.step, path)
            if self.sharpened:
                full = sharpen(values, photo.picture)
            else:
                full = cv2.resize(values, (width, height))
            levels = encode_map(full, form.meaning, form.step, path)
        except StackError as error:
            return sentence_about(path, error)
        target = self.output / f"{path.stem}.png"
        write_picture(target, levels)
        # A photograph dated in the future must not be done again in each run.
        with contextlib.suppress(OSError):
            os.utime(target, ns=(max(path.stat().st_mtime_ns, target.stat().st_mtime_ns),) * 2)
        return None


def same_size(
    readings: Iterable[tuple[Path, Reading]], most: int
) -> Iterator[list[tuple[Path, Reading]]]:
    """Group photographs to lists of up to `most` whose inputs have the same size.

    Yields:
        [(path, Prepared), ...], or [(path, sentence)] of one that cannot be used.
    """
    group: list[tuple[Path, Reading]] = []
    shape: tuple[int, ...] = ()
    for path, reading in readings:
        if isinstance(reading, str):
            yield [(path, reading)]
            continue
        if group and (len(group) == most or shape != reading.values.shape):
            yield group
            group = []
        shape = reading.values.shape
        group.append((path, reading))
    if group:
        yield group
