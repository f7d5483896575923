"""Brush strokes on a fused picture: where they are, one frame is shown instead of the mixture.

The file of strokes is JSON: the size of the picture, and for each stroke the name of the frame
(null brings the mixture back), the radius in px, the softness, the opacity where it is not 1, and
the points [x, y] that it goes through, pixel centres at integers. A stroke of another picture than
a frame, such as a slab, has its name as "picture" in place of "frame": it is NAME.tif beside the
file, or in the zip archive that holds both. Under the pressure of a pen, "sizes" and "opacities"
are the share of radius and opacity that each point has. A stroke may also be a region that a frame
fills, see fusion/regions.py.
"""

import contextlib
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stackmff.errors import StackError
from stackmff.files import parse_json, read_bytes, write_json
from stackmff.fusion.blending import Fused
from stackmff.fusion.regions import Region, region_of
from stackmff.images.formats import decode, decode_bytes
from stackmff.images.frame_store import release
from stackmff.images.ramps import smoothstep
from stackmff.images.rectangles import Box

MOST_POINTS = 20_000  # of a stroke; a file with more was not written by this program
BAND = 512  # rows that are painted at once, so that memory does not grow with the height
ARCHIVE = ".zip"  # suffix of an archive of strokes and the pictures that they take
MOST_BYTES = 64 * 2**20  # of the strokes in an archive, which may be packed a thousandfold
PICTURE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")  # it becomes the name of a file


@dataclass(frozen=True)
class Stroke:
    """One stroke.

    Attributes:
        frame: index of the frame, None for the mixture, or for `picture`.
        radius: px, above 0.
        softness: share of the radius over which the stroke fades, in [0, 1].
        points: (P, 2) float64, x and y, P >= 1.
        opacity: share of the frame in the core of the stroke, above 0 and at most 1.
        picture: name of the picture that is shown in place of a frame, or None.
        sizes: (P,) share of the radius at each point, above 0 and at most 1; None: all of it.
        opacities: as `sizes`, of the opacity.
    """

    frame: int | None
    radius: float
    softness: float
    points: np.ndarray
    opacity: float = 1.0
    picture: str | None = None
    sizes: np.ndarray | None = None
    opacities: np.ndarray | None = None

    def box(self, size: Sequence[int]) -> Box:
        """The box of all that it may touch in a picture of (height, width)."""
        low = np.floor(self.points.min(0) - self.radius).astype(int)
        high = np.ceil(self.points.max(0) + self.radius).astype(int) + 1
        (left, top), (right, bottom) = np.clip(low, 0, size[::-1]), np.clip(high, 0, size[::-1])
        return Box(int(top), int(bottom), int(left), int(right))


Painting = Stroke | Region


def cover(stroke: Painting, box: Box) -> np.ndarray:
    """How much a stroke covers the pixels of a box, the same in any box.

    Args:
        stroke: the stroke, or the region.
        box: of the picture.
    Returns:
        (h, w) float32 in [0, 1]: the opacity in the core, fading smoothly to 0.
    """
    if isinstance(stroke, Region):
        return stroke.cover(box)
    out = np.zeros(box.size, np.float32)
    ends = stroke.points[1:] if len(stroke.points) > 1 else stroke.points
    fade = max(stroke.softness * stroke.radius, 1.0)  # px; at least one, against jagged edges
    for k, (start, end) in enumerate(zip(stroke.points, ends)):
        low = np.floor(np.minimum(start, end) - stroke.radius).astype(int)
        high = np.ceil(np.maximum(start, end) + stroke.radius).astype(int) + 1
        near = Box(low[1], high[1], low[0], high[0]).common(box)
        if not near.area:
            continue
        x = np.arange(near.left, near.right) - start[0]
        y = (np.arange(near.top, near.bottom) - start[1])[:, None]
        way = end - start
        along = np.clip((x * way[0] + y * way[1]) / max(way @ way, 1e-12), 0, 1)
        away = np.hypot(x - along * way[0], y - along * way[1])
        radius: Any = stroke.radius
        if stroke.sizes is not None:
            radius = radius * _between(stroke.sizes, k, along)
            fade = np.maximum(stroke.softness * radius, 1.0)
        share = smoothstep(((radius - away) / fade).astype(np.float32))
        if stroke.opacities is not None:
            share *= _between(stroke.opacities, k, along).astype(np.float32)
        part = out[near.moved(-box.top, -box.left).slices]
        np.maximum(part, share, out=part)
    return out if stroke.opacity == 1 else out * np.float32(stroke.opacity)


def _between(values: np.ndarray, k: int, along: np.ndarray) -> np.ndarray:
    """Values between point k and the next one of a stroke, `along` in [0, 1] of the way."""
    start, end = values[k], values[min(k + 1, len(values) - 1)]
    between: np.ndarray = start + (end - start) * along
    return between


def cost_of(stroke: Painting, size: Sequence[int]) -> float:
    """The number of pixels that `cover` visits for a stroke in a picture of (height, width)."""
    if isinstance(stroke, Region):
        return float(stroke.box(size).area)
    points = stroke.points
    ends = points[1:] if len(points) > 1 else points
    starts = points[: len(ends)]
    low = np.clip(np.minimum(starts, ends) - stroke.radius, 0, size[::-1])
    high = np.clip(np.maximum(starts, ends) + stroke.radius, 0, size[::-1])
    return float((high - low).prod(1).sum())


def apply_strokes(
    picture: np.ndarray,
    frames: np.ndarray,
    strokes: Sequence[Painting],
    area: Box | None = None,
    mixture: np.ndarray | None = None,
    pictures: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Paint strokes in their order into a fused picture, in place.

    Args:
        picture: (H, W, C), the dtype of the frames or uint16.
        frames: (N, H, W, C) uint8 or uint16, aligned.
        strokes: to paint.
        area: the only part that is painted; None: all.
        mixture: the picture without strokes, (H, W, C), for strokes that bring it back; None: a
            copy of `picture`, made if there are any.
        pictures: {name: (H, W, C) uint8 or uint16}, for strokes of other pictures.
    """
    size = picture.shape[:2]
    area = Box.whole(size) if area is None else area
    if mixture is None and any(one.frame is None and one.picture is None for one in strokes):
        mixture = picture.copy()
    white = np.iinfo(picture.dtype).max
    for stroke in strokes:
        box = stroke.box(size).common(area)
        if not box.area:
            continue
        source: np.ndarray
        if stroke.picture is not None:
            assert pictures is not None  # whoever reads such strokes reads their pictures
            source = pictures[stroke.picture]
        elif stroke.frame is None:
            assert mixture is not None  # a copy has been made
            source = mixture
        else:
            source = frames[stroke.frame]
        scale = np.float32(white / np.iinfo(source.dtype).max)  # 1, 257, or 1 / 257
        for band in box.parts(BAND):
            share = cover(stroke, band)[..., None]
            shown = source[band.slices] * scale
            part = picture[band.slices]
            part[:] = np.rint(part + (shown - part) * share).astype(picture.dtype)


def fill_regions(fused: Fused, frames: np.ndarray, regions: Sequence[Region]) -> None:
    """Fill regions of a fused picture and of its maps from one frame each, in place.

    Args:
        fused: of the frames, not cropped.
        frames: (N, H, W, C) uint8 or uint16, aligned.
        regions: of the picture.
    """
    apply_strokes(fused.picture, frames, regions)
    release(frames)
    count = max(len(frames) - 1, 1)
    for region in regions:
        for band in region.box(region.size).parts(BAND):
            share = region.cover(band)
            values = ((fused.focus_map, 65535 * region.frame / count), (fused.confidence, 255))
            for plane, value in values:
                if plane is not None:
                    part = plane[band.slices]
                    part[:] = np.rint(part + (np.float32(value) - part) * share)


def stroke_of(record: Any, names: Sequence[str]) -> Painting:
    """The Stroke or Region of a record of the file; ValueError if it is not one.

    Args:
        record: {"frame" or "picture", "radius", "softness", "points"}, and "opacity" where it is
            not 1, "sizes" and "opacities" where a pen was pressed; or {"frame", "region"}, see
            regions.region_of.
        names: of the frames.
    """
    if isinstance(record, dict) and "region" in record:
        if (frame := record["frame"]) not in names:
            raise ValueError(f"its frame {frame} is not in the stack")
        return region_of(record["region"], list(names).index(frame))
    if not isinstance(record, dict) or not isinstance(record.get("points"), list):
        raise ValueError("it is not a stroke")
    if not 1 <= len(record["points"]) <= MOST_POINTS:
        raise ValueError(f"it has {len(record['points'])} points")
    try:
        points = np.array(record["points"], np.float64)
        radius, softness = float(record["radius"]), float(record["softness"])
        opacity = float(record.get("opacity", 1))
    except OverflowError as error:  # JSON has numbers of any length
        raise ValueError("its numbers are too large") from error
    # Far beyond any picture, so that no number here overflows.
    if points.ndim != 2 or points.shape[1] != 2 or not (np.abs(points) < 1e6).all():
        raise ValueError("its points are not pairs of numbers in range")
    if not (0 < radius < 1e5 and 0 <= softness <= 1 and 0 < opacity <= 1):
        raise ValueError("its radius, softness or opacity is out of range")
    sizes, opacities = (_shares_of(record, key, len(points)) for key in ("sizes", "opacities"))
    if (picture := record.get("picture")) is not None:
        if not (isinstance(picture, str) and PICTURE_NAME.fullmatch(picture)):
            raise ValueError("the name of its picture is not one")
        return Stroke(None, radius, softness, points, opacity, picture, sizes, opacities)
    if (frame := record["frame"]) is not None and frame not in names:
        raise ValueError(f"its frame {frame} is not in the stack")
    index = None if frame is None else list(names).index(frame)
    return Stroke(index, radius, softness, points, opacity, None, sizes, opacities)


def _shares_of(record: Mapping[str, Any], key: str, count: int) -> np.ndarray | None:
    """The shares of the points of a stroke, see Stroke.sizes; ValueError if they are not that."""
    if key not in record:
        return None
    try:
        shares = np.array(record[key], np.float64)
    except OverflowError as error:
        raise ValueError(f"its {key} are too large") from error
    if shares.shape != (count,) or not ((shares > 0) & (shares <= 1)).all():
        raise ValueError(f"its {key} are not a share of each point")
    return shares


def record_of(stroke: Painting, names: Sequence[str]) -> dict[str, Any]:
    """The record of a Stroke or Region, for `stroke_of`."""
    if isinstance(stroke, Region):
        return {"frame": names[stroke.frame], "region": stroke.record()}
    record: dict[str, Any] = {"picture": stroke.picture}
    if stroke.picture is None:
        record = {"frame": None if stroke.frame is None else names[stroke.frame]}
    record |= {
        "radius": stroke.radius,
        "softness": stroke.softness,
        "points": stroke.points.tolist(),
    }
    if stroke.opacity != 1:
        record["opacity"] = stroke.opacity
    for key, shares in (("sizes", stroke.sizes), ("opacities", stroke.opacities)):
        if shares is not None:
            record[key] = shares.tolist()
    return record


def save_strokes(
    path: Path, strokes: Sequence[Painting], names: Sequence[str], size: Sequence[int]
) -> None:
    """Write strokes as JSON, atomically.

    Args:
        path: file; strokes: to write; names: of the frames; size: (height, width), px.
    Raises:
        StackError: the file cannot be written.
    """
    record = {"width": size[1], "height": size[0]}
    write_json(path, record | {"strokes": [record_of(stroke, names) for stroke in strokes]})


def load_strokes(path: Path, names: Sequence[str], size: Sequence[int]) -> list[Painting]:
    """Read strokes that `save_strokes` wrote.

    Args:
        path: file, or an archive with one; names: of the frames; size: (height, width) of the
            picture, px.
    Raises:
        StackError: the file cannot be read or has no strokes, or they are for other frames.
    """
    try:
        record = parse_json(_content_of(path))
    except ValueError as error:
        raise StackError(
            f"{path} is not a file of brush strokes: save it from the page in the browser"
        ) from error
    return strokes_of(record, path, names, size)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """An archive of strokes; StackError where it is none, or is damaged where it is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except OSError as error:
        raise StackError(f"{path} cannot be read ({error.strerror or error})") from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise StackError(
            f"{path} is not an archive of brush strokes, or is damaged: export it from the page "
            "again"
        ) from error


def _content_of(path: Path) -> bytes:
    """The bytes of a file of strokes, or of the one in an archive."""
    if path.suffix.lower() != ARCHIVE:
        return read_bytes(path)
    with _opened(path) as archive:
        found = [one for one in archive.infolist() if one.filename.endswith(".json")]
        if len(found) != 1 or found[0].file_size > MOST_BYTES:
            raise zipfile.BadZipFile
        return archive.read(found[0])


def pictures_of(
    path: Path, strokes: Sequence[Painting], shape: Sequence[int]
) -> dict[str, np.ndarray]:
    """The other pictures of strokes, {name: (H, W, C)}, from beside their file or its archive.

    Args:
        path: of the file or archive; strokes: in it; shape: (H, W, C) of the fused picture.
    Raises:
        StackError: a picture is missing, cannot be read, or has another shape.
    """
    out = {}
    for name in dict.fromkeys(stroke.picture for stroke in strokes if stroke.picture is not None):
        file = f"{name}.tif"
        if path.suffix.lower() == ARCHIVE:
            out[name] = _picture_inside(path, file, shape)
        elif path.with_name(file).is_file():
            out[name] = decode(path.with_name(file)).picture
        else:
            raise StackError(
                f"{path} has strokes of the picture {file}, which is not beside it: keep the "
                "files of the archive that the page exports together"
            )
        if out[name].shape != tuple(shape):
            raise StackError(
                f"{path.with_name(file)} is not of the shape of the fused picture: export the "
                "strokes from the page again"
            )
    return out


def _picture_inside(path: Path, file: str, shape: Sequence[int]) -> np.ndarray:
    """The picture of a file in an archive, which has no room for much more than `shape` takes."""
    with _opened(path) as archive:
        try:
            entry = archive.getinfo(file)
        except KeyError as error:
            raise StackError(
                f"{path} has strokes of the picture {file}, which is not in it: export the strokes "
                "from the page again"
            ) from error
        if entry.file_size > 4 * np.prod(shape, dtype=np.int64) + MOST_BYTES:
            raise zipfile.BadZipFile
        return decode_bytes(archive.read(entry), file).picture


def strokes_of(
    record: Any, path: object, names: Sequence[str], size: Sequence[int]
) -> list[Painting]:
    """The strokes in the content of a file of strokes.

    Args:
        record: content, of JSON; path: what to call it; names, size: see `load_strokes`.
    Raises:
        StackError: it has no strokes, or they are for other frames.
    """
    try:
        known, strokes = (record["height"], record["width"]), list(record["strokes"])
    except (KeyError, TypeError) as error:
        raise StackError(
            f"{path} is not a file of brush strokes: save it from the page in the browser"
        ) from error
    if known != tuple(size):
        raise StackError(
            f"{path} is for a picture of {known[1]}x{known[0]}, this one is {size[1]}x{size[0]}: "
            "retouch this one anew"
        )
    out = []
    for k, stroke in enumerate(strokes, start=1):
        try:
            out.append(stroke_of(stroke, names))
        except (ValueError, KeyError, TypeError) as error:
            raise StackError(
                f"{path}: stroke {k} cannot be painted ({error}): retouch this stack anew"
            ) from error
    return out
