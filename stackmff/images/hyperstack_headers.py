"""What TIFF files of microscopes say of their planes, as ImageJ, OME or tifffile write it."""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np
import tifffile

from stackmff.errors import StackError
from stackmff.images.pixel_size import UNITS
from stackmff.images.tiff import X_RESOLUTION, Y_RESOLUTION

KEPT = "TC"  # axes of stacks: time, channel
XML_ROOM = 64 * 2**20  # bytes of OME's description, which has an entry for each plane
PLACES = re.compile(r"^(?:[czt]:\d+/\d+ ?)+(?:- )?")  # of a plane, before its name
MICRONS = {unit for unit, micrometres in UNITS.items() if micrometres == 1}


@dataclass(frozen=True)
class About:
    """What a hyperstack says of its picture.

    Attributes:
        form: "imagej", "ome" or "shaped", as it is written back.
        channels: names of the channels, "" where there is none.
        written: what tifffile's `metadata` writes of it: units, distances, colours.
        resolution: pixels per unit along x and y; None: not known.
        resolution_unit: code of a TIFF file: 1 none, 2 inch, 3 cm.
    """

    form: str
    channels: list[str]
    written: dict[str, Any] = field(default_factory=dict)
    resolution: tuple[float, float] | None = None
    resolution_unit: int = 1


def check_imagej(file: Path, opened: tifffile.TiffFile) -> None:
    """Raise StackError if ImageJ's description does not fit the planes."""
    found = opened.imagej_metadata or {}
    sizes = [int(found.get(name, 1)) for name in ("channels", "slices", "frames")]
    images = int(found.get("images", 1))
    planes = len(opened.pages)
    if planes == 1 < images:  # beyond 4 GB only the first plane has a directory
        page = opened.pages[0].aspage()
        room = (opened.filehandle.size - page.dataoffsets[0]) // page.nbytes
        planes = images if page.is_contiguous and room >= images else max(room, 1)
    if math.prod(sizes) not in (1, images) or images not in (1, planes):
        declared = " x ".join(map(str, sizes))
        raise StackError(
            f"{file} declares C x Z x T = {declared} planes and {images} images, and holds "
            f"{planes}: its description is wrong, save it again"
        )


def check_ome(file: Path, opened: tifffile.TiffFile) -> ElementTree.Element:
    """OME's description; StackError if it does not fit the planes, or names other files."""
    text = opened.pages[0].aspage().description
    if len(text) > XML_ROOM or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise StackError(f"{file} has a description that is too long or has a document type")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, expat.ExpatError) as error:
        raise StackError(
            f"{file} has a damaged OME description ({error}): save it again"
        ) from error
    images = [one for one in root.iter() if one.tag.endswith("}Pixels")]
    if len(images) != 1:
        raise StackError(f"{file} describes {len(images)} images: save each as a file of its own")
    pixels = images[0]
    names = {one.get("FileName") for one in pixels.iter() if one.tag.endswith("}UUID")} - {
        None,
        file.name,
    }
    sizes = {axis: int(pixels.get(f"Size{axis}", "1")) for axis in "CZT"}
    samples = opened.pages[0].aspage().samplesperpixel
    planes = math.prod(sizes.values()) // (samples if sizes["C"] % samples == 0 else 1)
    held = len(opened.pages)
    page_planes = opened.pages[0].aspage().imagedepth
    if planes != held * page_planes:
        declared = " x ".join(str(sizes[axis]) for axis in "CZT")
        where = f", others are in {sorted(map(str, names))[0]}" if names else ""
        raise StackError(
            f"{file} declares C x Z x T = {declared} planes and holds {held * page_planes}{where}: "
            "save all of it as one file"
        )
    return root


def about_of(
    opened: tifffile.TiffFile,
    form: str,
    root: ElementTree.Element | None,
    axes: str,
    shape: tuple[int, ...],
    focus: str,
) -> About:
    """What a file says of its picture."""
    tags = opened.pages[0].aspage().tags
    resolution = None
    with_sizes = X_RESOLUTION in tags and Y_RESOLUTION in tags
    if with_sizes:
        pairs = [tags[code].value for code in (X_RESOLUTION, Y_RESOLUTION)]
        if all(len(pair) == 2 and pair[0] > 0 and pair[1] > 0 for pair in pairs):
            resolution = pairs[0][0] / pairs[0][1], pairs[1][0] / pairs[1][1]
    unit = int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 1
    if form == "ome" and root is not None:
        channels, written = _of_ome(root)
    elif form == "imagej":
        channels, written = _of_imagej(opened, axes, shape, focus)
    else:
        channels, written = _of_shaped(opened)
    return About(form, channels, written, resolution, unit)


def _of_ome(root: ElementTree.Element) -> tuple[list[str], dict[str, Any]]:
    """(names of the channels, what is written back) of OME's description."""
    pixels = next(one for one in root.iter() if one.tag.endswith("}Pixels"))
    channels = [one for one in pixels if one.tag.endswith("}Channel")]
    sizes = ("PhysicalSizeX", "PhysicalSizeY", "TimeIncrement")
    keys = (*sizes, *(f"{key}Unit" for key in sizes))
    written: dict[str, Any] = {key: pixels.get(key) for key in keys if pixels.get(key)}
    for key in sizes:
        if key in written:
            written[key] = float(written[key])
    names = [one.get("Name") or "" for one in channels]
    about = {"Name": names if any(names) else None, "Color": [one.get("Color") for one in channels]}
    kept = {k: v for k, v in about.items() if v and all(one is not None for one in v)}
    if kept:
        written["Channel"] = kept
    return names, written


def _of_imagej(
    opened: tifffile.TiffFile, axes: str, shape: tuple[int, ...], focus: str
) -> tuple[list[str], dict[str, Any]]:
    """(names of the channels, what is written back) of ImageJ's description.

    ImageJ names planes. Of a result, each plane has the name that those it is made of share; the
    places that ImageJ writes before a name, as in "c:1/2 z:5/9 - DAPI", are no part of it.
    """
    found = opened.imagej_metadata or {}
    keys = ("unit", "yunit", "finterval", "fps", "tunit", "mode", "LUTs", "Ranges", "Info")
    written = {key: found[key] for key in keys if key in found}
    labels = found.get("Labels")
    if not isinstance(labels, list) or len(labels) != math.prod(shape):
        return [], written
    names = np.array([PLACES.sub("", str(label)) for label in labels], object).reshape(shape)
    names = np.moveaxis(names, axes.index(focus), -1)
    rest = axes.replace(focus, "")
    names = names.transpose(*(rest.index(axis) for axis in KEPT if axis in rest), -1)
    shared = (names == names[..., :1]).all(-1)
    names = np.where(shared, names[..., 0], "")
    if not names.any():
        return [], written
    written["Labels"] = [str(name) for name in names.ravel()]
    if "C" not in rest:
        return [], written
    return [str(name) for name in (names[0] if "T" in rest else names)], written


def _of_shaped(opened: tifffile.TiffFile) -> tuple[list[str], dict[str, Any]]:
    """(names of the channels, what is written back) of tifffile's description."""
    found = (opened.shaped_metadata or ({},))[0]
    own = {k: v for k, v in found.items() if k not in ("axes", "shape")}
    try:
        json.dumps(own)
    except (TypeError, ValueError):
        own = {}
    names = own.get("channel_names") or own.get("channels") or []
    return [str(one) for one in names] if isinstance(names, list) else [], own


def as_ome(about: About) -> dict[str, Any]:
    """What OME's description says of a picture from ImageJ."""
    written: dict[str, Any] = {}
    if any(about.channels):
        written["Channel"] = {"Name": about.channels}
    unit = str(about.written.get("unit", ""))
    if about.resolution and unit in MICRONS:
        for axis, per_unit in zip("XY", about.resolution, strict=True):
            written |= {f"PhysicalSize{axis}": 1 / per_unit, f"PhysicalSize{axis}Unit": "µm"}
    return written
