"""Exported files of a result: the picture, its maps, what it was made by."""

import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageCms

from stackmff.display.annotations import annotate
from stackmff.display.previews import write_rocking
from stackmff.errors import StackError
from stackmff.files import parse_json, write_bytes, write_json
from stackmff.fusion.retouch import apply_strokes, load_strokes
from stackmff.images.colour import rgb_by_profile, srgb_profile
from stackmff.images.formats import to_8_bits, write_picture
from stackmff.images.metadata import Metadata
from stackmff.images.rectangles import Box
from stackmff.webapp.jobs import ExportSpec
from stackmff.webapp.model import glb
from stackmff.webapp.other_pictures import stems_in
from stackmff.webapp.results import TALLEST, ShownResult

SUFFIXES = {"png": ".png", "tiff": ".tif", "jpeg": ".jpg", "webp": ".webp"}
OF_SURFACE = ("model", "rocking-gif", "rocking-mp4")
FILM_SIDE = 480  # px, longest side of the surface in a film
DEEP = ("png", "tiff")  # formats that have 16 bits
OTHERS = {
    "focus": ".png",
    "confidence": ".png",
    "alignment": ".json",
    "strokes": ".json",
    "slabs": ".zip",
    "model": ".glb",
    "rocking-gif": ".gif",
    "rocking-mp4": ".mp4",
}


def write_export(spec: ExportSpec) -> list[str]:
    """Write the file that a spec asks for.

    Returns:
        Sentences on what the format could not keep.
    Raises:
        StackError: the result has no such file, or it cannot be written.
    """
    result = ShownResult(spec.result, painted=False)
    path = Path(spec.path)
    area = None if spec.area is None else Box(*spec.area)
    if spec.what not in ("picture", *OF_SURFACE):
        write_other(result, spec.what, path, Path(spec.strokes), area)
        return []
    picture = np.array(result.fused)
    strokes = load_strokes(Path(spec.strokes), result.names, result.size)
    apply_strokes(picture, result.frames, strokes, None, result.fused, result.sources)
    if spec.what in OF_SURFACE:
        result.picture = picture
        if spec.what == "model":
            write_bytes(path, glb(*result.relief(), TALLEST))
        else:
            write_film(path, *result.raised())
        return []
    picture = cut(picture, area)
    metadata = result.metadata
    converts = spec.srgb and metadata.profile is not None
    picture = picture if spec.bits == 16 and not converts else to_8_bits(picture)
    if converts:
        picture, metadata = in_srgb(picture, metadata)
    if spec.label or spec.pixel_size is not None:
        picture = np.ascontiguousarray(picture)
        annotate(picture, spec.label, spec.pixel_size)
    return write_picture(path, picture, metadata, quality=spec.quality)


def write_film(path: Path, heights: np.ndarray, texture: np.ndarray) -> None:
    """Write a film of the 3D view as it rocks; heights and texture as of ShownResult.raised."""
    height, width = heights.shape
    if min(heights.shape) < 2:
        raise StackError("a line has no 3D view: export the picture")
    factor = FILM_SIDE / max(heights.shape)
    size = max(round(width * factor), 2), max(round(height * factor), 2)
    small = cv2.resize(texture, size, interpolation=cv2.INTER_AREA)
    write_rocking(path, small, cv2.resize(np.float32(heights), size))


def cut(picture: np.ndarray, area: Box | None) -> np.ndarray:
    """A picture (H, W) or (H, W, C) cropped to an area; None: whole."""
    return picture if area is None else area.cut(picture)


def in_srgb(picture: np.ndarray, metadata: Metadata) -> tuple[np.ndarray, Metadata]:
    """A picture (H, W, C) uint8 converted from its profile to sRGB, with the profile of that.

    Without it a program would have to guess, or to believe the colour space that the camera wrote
    into EXIF.

    Raises:
        StackError: the profile is damaged or is not one of this picture's colours.
    """
    assert metadata.profile is not None
    colours = 1 if picture.shape[2] <= 2 else 3
    image = Image.fromarray(picture[..., 0] if colours == 1 else picture[..., :3])
    try:
        converted = rgb_by_profile(image, metadata.profile)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise StackError(
            f"the colour profile of the frames cannot be converted to sRGB ({error}): keep the "
            "profile"
        ) from error
    alpha = [picture[..., -1:]] if picture.shape[2] in (2, 4) else []
    out = np.concatenate([converted, *alpha], axis=2)
    return out, replace(metadata, profile=srgb_profile())


def write_other(
    result: ShownResult, what: str, path: Path, strokes: Path, area: Box | None
) -> None:
    """Write another file than the picture.

    Args:
        result: that it is of.
        what: one of OTHERS.
        path: of the file.
        strokes: file of the strokes.
        area: that the picture is cropped to, or None. The maps are cropped too; the alignment is
            that of whole frames, and names the area.
    Raises:
        StackError: this result has no such file.
    """
    if what in ("focus", "confidence"):
        plane = result.confidence if what == "confidence" else result.focus_map
        if plane is not None:
            write_picture(path, cut(np.array(plane), area))
            return
    elif what == "strokes":
        if path.suffix == ".zip":
            write_with_sources(result, path, strokes)
        else:
            shutil.copyfile(strokes, path)
        return
    elif what == "alignment" and result.alignment is not None:
        record = parse_json(result.alignment_file.read_bytes())
        write_json(path, record if area is None else {"area": list(area), **record})
        return
    elif what == "slabs" and (slabs := stems_in(result.files.slabs)):
        files = {name: result.files.slabs / f"{name}.npy" for name in slabs}
        write_tiffs(path, files, result.metadata)
        return
    raise StackError(f"this result has no {what}: fuse again with that option")


def write_with_sources(result: ShownResult, path: Path, strokes: Path) -> None:
    """Put strokes into a zip archive with the pictures that they take besides frames."""
    painted = load_strokes(strokes, result.names, result.size)
    names = dict.fromkeys(stroke.picture for stroke in painted if stroke.picture is not None)
    files = {name: result.files.sources / f"{name}.npy" for name in names}
    write_tiffs(path, files, result.metadata)
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(strokes, f"{path.stem}.json")


def write_tiffs(path: Path, pictures: Mapping[str, Path], metadata: Metadata) -> None:
    """Put pictures into a zip archive as TIFFs.

    Args:
        path: of the archive.
        pictures: {name: file, .npy}.
        metadata: for each of them.
    """
    with zipfile.ZipFile(path, "w") as archive:  # uncompressed: the TIFFs already are
        for name, file in pictures.items():
            tiff = path.with_name(f"{name}.tif")
            write_picture(tiff, np.load(file, mmap_mode="r"), metadata, durable=False)
            archive.write(tiff, tiff.name)
            tiff.unlink()


def write_all(path: Path, files: list[Path]) -> None:
    """Put files into a zip archive, which numbers those that share a name."""
    names: dict[str, int] = {}
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            count = names[file.name] = names.get(file.name, 0) + 1
            name = file.name if count == 1 else f"{file.stem} ({count}){file.suffix}"
            archive.write(file, name)
