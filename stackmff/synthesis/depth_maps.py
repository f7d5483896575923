"""Depth maps: their files, what their values mean, and filling what was not measured."""

import io
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any, Literal

import cv2
import numpy as np

from stackmff.errors import StackError
from stackmff.files import parse_json, read_bytes
from stackmff.images.folders import by_stem, list_pictures
from stackmff.images.formats import read_picture

DEPTH_SUFFIXES = (".png", ".npy", ".tif", ".tiff")
SIDE_FILE = "depth.json"  # beside depth maps: {"kind": "distance" or "disparity"}

Meaning = Literal["metric", "relative", "disparity"]
DepthKind = Literal["distance", "disparity"]

# What the values of a network are; its last word is "kind" in the side file.
MEANINGS: dict[Meaning, str] = {
    "metric": "metric distance",
    "relative": "relative distance",  # its unit differs between photographs
    "disparity": "disparity",  # so does its zero
}
LEAST_SPREAD = 1e-3  # of the largest value of a network's map; less is one value and rounding
LEAST_RANGE = 1e-6  # of the largest disparity; less is the rounding of float32
NEAREST_SHARE = 0.02  # of the largest distance; nearer would use up the whole range of disparity


def side_file(folder: str | Path) -> dict[str, Any] | None:
    """The content of the side file of a folder of depth maps; None without such a file.

    Raises:
        StackError: the file is damaged, or does not say what the maps hold.
    """
    path = Path(folder) / SIDE_FILE
    if not path.exists():
        return None
    try:
        side = parse_json(path.read_text(encoding="utf-8"))
        kind = side["kind"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StackError(f'{path} has no "kind": write {{"kind": "distance"}}') from error
    if kind not in ("distance", "disparity"):
        raise StackError(f'{path} says kind "{kind}": write distance or disparity')
    content: dict[str, Any] = side
    return content


def describe_maps(meaning: Meaning, step: float) -> dict[str, Any]:
    """The content of the side file for maps of `encode_map`, of which these are arguments."""
    kind = MEANINGS[meaning].split()[-1]
    unit = {
        "metric": f"{step:g} m per level, 0 is unknown, 65535 is {65535 * step:g} m and more",
        "relative": "the farthest point of each photograph is 65535, 0 is unknown",
        "disparity": "each photograph spans 0 (the farthest) to 65535 (the nearest)",
    }
    side: dict[str, Any] = {
        "kind": kind,
        "meaning": MEANINGS[meaning],
        "larger_is": "farther",
        "unit": unit[meaning],
    }
    if kind == "disparity":
        side["larger_is"] = "nearer"
    if meaning == "metric":
        side["metres_per_level"] = step
    return side


def encode_map(values: np.ndarray, meaning: Meaning, step: float, name: object) -> np.ndarray:
    """A network's map as the 16 bits of its file.

    Args:
        values: (H, W) float.
        meaning: of the values.
        step: metres per level, for metric distance.
        name: of the photograph, for the error.
    Returns:
        (H, W) uint16; at least 1 in maps of distance, where 0 is unknown.
    Raises:
        StackError: a value is not finite, all are nearly equal, or they all become one level.
    """
    if not np.isfinite(values).all():
        raise StackError(
            f"{name}: the network returned NaN or infinite depth: try --precision fp32"
        )
    low, high = float(values.min()), float(values.max())
    if high - low <= LEAST_SPREAD * max(abs(low), abs(high)):
        raise StackError(f"{name}: the network returned one depth everywhere, {high:g}")
    if meaning == "disparity":
        return np.rint((values - low) * (65535 / (high - low))).astype(np.uint16)
    if high <= 0:
        raise StackError(
            f"{name}: the network returned distances of at most {high:g}: check --meaning"
        )
    levels = values / (step if meaning == "metric" else high / 65535)
    levels = np.rint(levels.clip(1, 65535)).astype(np.uint16)
    if levels.min() == levels.max():
        raise StackError(
            f"{name}: its depth of {low:g} to {high:g} m is within one level of {step:g} m or "
            f"beyond {65535 * step:g} m: give another --step"
        )
    return levels


def list_depths(folder: str | Path, suffix: str) -> list[Path]:
    """The depth maps at the top of a folder whose names end in `suffix`, sorted by name."""
    return sorted(
        path
        for path in Path(folder).iterdir()
        if path.suffix.lower() in DEPTH_SUFFIXES and path.stem.endswith(suffix)
    )


def pair_depth(
    image_path: str | Path, depth_path: str | Path, suffix: str
) -> tuple[list[tuple[Path, Path]], list[Path]]:
    """Pairs of a photograph and its depth map, by their names.

    Args:
        image_path, depth_path: folders, possibly the same.
        suffix: what follows the photograph's name in the depth map's.
    Returns:
        [(photograph, depth map)], [photographs without a map].
    Raises:
        StackError: there is no pair, or two photographs or two maps have the same name.
    """
    if not suffix and Path(depth_path).resolve() == Path(image_path).resolve():
        raise StackError(
            f"{image_path} holds both pictures and depth: tell them apart by --depth_suffix"
        )
    maps = by_stem(list_depths(depth_path, suffix))
    photos = [p for p in list_pictures(image_path) if not (suffix and p.stem.endswith(suffix))]
    by_stem(photos)  # each names a scene
    pairs = [(photo, maps[photo.stem + suffix]) for photo in photos if photo.stem + suffix in maps]
    if not pairs:
        raise StackError(
            f"{depth_path} has no depth map for any picture of {image_path}: name them like "
            f"art.jpg and art{suffix}.png"
        )
    paired = {photo for photo, _ in pairs}
    return pairs, [photo for photo in photos if photo not in paired]


def read_depth(path: Path, shape: Sequence[int]) -> np.ndarray:
    """A depth map as stored.

    Args:
        path: PNG, TIFF or .npy.
        shape: (H, W, ...) of the photograph, whose proportions the map must have.
    Returns:
        (h, w) array of integers or floats.
    Raises:
        StackError: it cannot be read, is not two-dimensional, or has other proportions.
    """
    if path.suffix.lower() == ".npy":
        try:
            depth = np.lib.format.read_array(io.BytesIO(read_bytes(path)), allow_pickle=False)
        except (ValueError, TokenError) as error:  # the header is read as Python
            raise StackError(
                f"{path} is not an array of numbers: save it with numpy.save"
            ) from error
    else:
        depth = read_picture(path)
        if depth.shape[2] > 2 and not (depth[..., :1] == depth[..., :3]).all():
            raise StackError(f"{path} is a colour picture: save depth as one grey channel")
        depth = depth[..., 0]
    if depth.ndim != 2 or depth.size == 0 or depth.dtype.kind not in "uif":
        raise StackError(f"{path} is {depth.shape} {depth.dtype}, expected (height, width) numbers")
    ratio = depth.shape[0] * shape[1] / (depth.shape[1] * shape[0])
    if not 0.95 < ratio < 1.05:
        raise StackError(
            f"{path} is {depth.shape[1]}x{depth.shape[0]}, its picture {shape[1]}x{shape[0]}: "
            "give a map of the whole picture"
        )
    return depth


def to_disparity(depth: np.ndarray, kind: DepthKind, path: object) -> np.ndarray:
    """A depth map as disparity that spans [0, 1], larger = nearer.

    Args:
        depth: (H, W); values that are not finite are unknown, and in a map of distance those of 0
            and below.
        kind: what the map holds.
        path: of the map, for the error.
    Returns:
        (H, W) float32.
    Raises:
        StackError: nothing is known, or everything is at one depth.
    """
    values = depth.astype(np.float64)
    if kind == "distance":
        known = np.isfinite(values) & (values > 0)
        farthest = values[known].max(initial=0)
        values = 1 / np.where(known, values.clip(NEAREST_SHARE * farthest), np.nan)
    largest = np.abs(values[np.isfinite(values)]).max(initial=0)
    try:
        # Scaled to [-1, 1], because stored values may exceed the range of float32.
        values = fill_from_farther(values / largest if largest else values)
    except ValueError as error:
        raise StackError(f"{path} holds no depth: {error}") from error
    # Measured maps have specks, and ramps at edges, where a lens sees one surface or the other.
    values = cv2.medianBlur(values, 5)
    low, high = float(values.min()), float(values.max())
    if high - low < LEAST_RANGE:
        raise StackError(f"{path} is the same everywhere: a stack needs something nearer")
    return (values - low) / (high - low)


def disparity_as_picture(
    depth: np.ndarray, kind: DepthKind, path: object, shape: Sequence[int]
) -> np.ndarray:
    """The disparity of a picture's pixels.

    Args:
        depth, kind, path: see `to_disparity`.
        shape: (H, W, ...) of the picture.
    Returns:
        (H, W) float32 in [0, 1], larger = nearer.
    Raises:
        StackError: as `to_disparity`.
    """
    disparity = to_disparity(depth, kind, path)
    # Not interpolated: between two surfaces there is no third one.
    return cv2.resize(disparity, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)


def to_region_map(
    depth: np.ndarray, path: object, depth_range: Literal["asis", "max"] | None
) -> np.ndarray:
    """A depth map as the (H, W) uint8 of the published synthesis.

    Args:
        depth: (H, W), as stored.
        path: of the map, for the error.
        depth_range: "max" for floor(254 d / max d); else 8 bit values stay unchanged, and of 16 bit
            ones the upper 8 bits count.
    Raises:
        StackError: the map has one value everywhere, or holds floats and "max" is not given.
    """
    if depth_range == "max":
        values = np.nan_to_num(depth.astype(np.float64), posinf=0, neginf=0)
        if values.max() <= 0:
            raise StackError(f"{path} holds no depth: none of its values is above 0")
        check_spread(values, path)
        return np.floor(254 * values / max(values.max(), 1e-12)).clip(0, 254).astype(np.uint8)
    if depth.dtype not in (np.uint8, np.uint16):
        raise StackError(f"{path} holds {depth.dtype}: use --depth_range max")
    check_spread(depth, path)
    return (depth // 257).astype(np.uint8) if depth.dtype == np.uint16 else depth


def check_spread(values: np.ndarray, path: object) -> None:
    """Raise StackError if a map has the same value everywhere."""
    if values.min() == values.max():
        raise StackError(f"{path} is the same everywhere: a stack needs something nearer")


def fill_from_farther(disparity: np.ndarray) -> np.ndarray:
    """Fill what was not measured from the farther of its neighbours in the row.

    A hole beside a depth edge is background that the foreground hid from the other camera.

    Args:
        disparity: (H, W) float, larger = nearer, not finite where unknown.
    Returns:
        (H, W) float32, finite everywhere.
    Raises:
        ValueError: nothing is finite.
    """
    known = np.isfinite(disparity)
    if not known.any():
        raise ValueError("no value of the disparity is finite")
    columns = np.arange(disparity.shape[1])
    left = np.maximum.accumulate(np.where(known, columns, -1), axis=1)
    right = np.minimum.accumulate(np.where(known, columns, columns.size)[:, ::-1], axis=1)[:, ::-1]
    values = np.where(known, disparity, np.inf)
    # Beyond the border everything is infinitely near, so that it is never the farther one.
    values = np.pad(values, ((0, 0), (1, 1)), constant_values=np.inf)
    rows = np.arange(disparity.shape[0])[:, None]
    filled = np.minimum(values[rows, left + 1], values[rows, right + 1])
    empty_rows = np.flatnonzero(~known.any(1))
    full_rows = np.flatnonzero(known.any(1))
    for row in empty_rows:
        filled[row] = filled[full_rows[abs(full_rows - row).argmin()]]
    return filled.astype(np.float32)
