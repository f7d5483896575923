"""Hyperstacks: TIFF files of microscopes, whose planes lie along several axes.

ImageJ, OME and tifffile say in the file how its planes belong together. Along one axis the focus
differs; what lies along the others, channels and times, are stacks of their own.
"""

import logging
import math
import struct
import threading
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from stackmff.errors import StackError, in_one_sentence
from stackmff.images.decoded import Decoded
from stackmff.images.hyperstack_headers import (
    KEPT,
    About,
    about_of,
    as_ome,
    check_imagej,
    check_ome,
)
from stackmff.images.metadata import Metadata
from stackmff.images.pages import Page
from stackmff.images.tiff import lacks_segments, tiff_directories

FOCUS = "ZTIQ"  # axes along which the focus may differ, the likeliest first
MOST_PLANES = 100_000
UNNAMED = "its planes are declared as channels without names and were taken for frames"


@dataclass(frozen=True)
class Scale:
    """How samples that are not uint8 or uint16 become uint16: value = low + step * sample.

    Attributes:
        low, step: of the values in the file; the step is 1 where integers fit as they are.
        odd: how many values were no finite numbers; they count as `low`.
    """

    low: float
    step: float
    odd: int = 0

    def coded(self, values: np.ndarray) -> np.ndarray:
        """Values of any real type as uint16."""
        values = np.nan_to_num(values.astype(np.float64), nan=self.low, posinf=self.low)
        return np.rint(np.clip((values - self.low) / self.step, 0, 65535)).astype(np.uint16)

    def restored(self, samples: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """The inverse of `coded`, in the type of the file."""
        values = self.low + self.step * samples.astype(np.float64)
        if dtype.kind == "f":
            return values.astype(dtype)
        info = np.iinfo(dtype)
        return np.clip(np.rint(values), info.min, info.max).astype(dtype)


@dataclass(frozen=True)
class Layout:
    """Where the samples of a file's planes are.

    Attributes:
        offset: of the first plane, bytes, if they follow one another uncompressed; else None.
        shape: of a plane: (H, W), (H, W, 3), or (3, H, W) if it is planar.
        is_planar: whether it is.
        stored: type of the samples with their byte order.
        per_page: planes in a page: one, or those of a volume.
    """

    offset: int | None
    shape: tuple[int, ...]
    is_planar: bool
    stored: np.dtype
    per_page: int


class Hyperstack:
    """The planes of a TIFF file, with the axes that its header declares.

    Args:
        file: path.
        axes: of the planes in the file's order, such as "TZC", without Y, X and the samples.
        shape: length of each of the axes.
        focus: the axis along which the focus differs.
        layout: of the planes.
        about: what the file says of its picture.
    """

    def __init__(
        self,
        file: Path,
        axes: str,
        shape: tuple[int, ...],
        focus: str,
        layout: Layout,
        about: About,
    ) -> None:
        self.file, self.axes, self.shape, self.focus = file, axes, shape, focus
        self.layout, self.about = layout, about
        self.dtype = layout.stored.newbyteorder("=")
        self.lock, self.pages_lock = threading.Lock(), threading.Lock()
        self.pages: Any = None  # of the open file, once one was read
        self.last: tuple[int, np.ndarray] | None = None  # the page of several planes read last
        self.scales: dict[int, Scale | None] = {}

    def __len__(self) -> int:
        return self.length(self.focus)

    @property
    def sizes(self) -> str:
        """The axes and their lengths in words."""
        return "axes " + ", ".join(f"{a} {n}" for a, n in zip(self.axes, self.shape, strict=True))

    def length(self, axis: str) -> int:
        """The length of an axis; 1 if there is no such axis."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1

    @property
    def kept(self) -> str:
        """The axes that a result has, in the order T, C."""
        return "".join(axis for axis in KEPT if axis in self.axes and axis != self.focus)

    @property
    def times(self) -> int:
        """How many times a result has."""
        return self.length("T") if "T" in self.kept else 1

    @property
    def channels(self) -> int:
        """How many channels a result has."""
        return self.length("C") if "C" in self.kept else 1

    @property
    def is_scaled(self) -> bool:
        """Whether its samples are of a type that is not fused as it is."""
        return self.dtype not in (np.uint8, np.uint16)

    def channel_name(self, channel: int) -> str:
        """The name of a channel for notes: its own, or its number from 1."""
        names = self.about.channels
        name = names[channel] if channel < len(names) else ""
        return name or f"channel {channel + 1}"

    def stack(self, time: int = 0, channel: int = 0) -> "list[Plane]":
        """The frames of one time and channel, in the order of their focus."""
        place = {"T": time, "C": channel}
        return [
            Plane(self.file, k + 1, len(self), self, self._index({**place, self.focus: k}), channel)
            for k in range(len(self))
        ]

    def _index(self, place: dict[str, int]) -> int:
        """The number of a plane in the file."""
        at = [place.get(axis, 0) for axis in self.axes]
        return int(np.ravel_multi_index(at, self.shape)) if self.axes else 0

    def scale(self, channel: int) -> Scale | None:
        """The Scale of a channel, from all its planes; None if its samples are taken as they are.

        Raises:
            StackError: they cannot be read.
        """
        if not self.is_scaled:
            return None
        with self.lock:
            if channel not in self.scales:
                self.scales[channel] = self._find_scale(channel)
            return self.scales[channel]

    def _find_scale(self, channel: int) -> Scale:
        """The Scale of a channel by the least and the largest of its values at all times."""
        low, high, odd = math.inf, -math.inf, 0
        for time in range(self.times):
            for plane in self.stack(time, channel):
                values = self.raw(plane.index)
                finite = values[np.isfinite(values)]
                odd += values.size - finite.size
                if finite.size:
                    low, high = min(low, float(finite.min())), max(high, float(finite.max()))
        if low > high:
            raise StackError(f"{self.file} has no finite numbers in {self.channel_name(channel)}")
        fits = self.dtype.kind in "iu" and high - low <= 65535
        return Scale(low, 1.0 if fits or high == low else (high - low) / 65535, odd)

    def raw(self, index: int) -> np.ndarray:
        """A plane by its number in the file, as it is stored: (H, W) or (H, W, 3).

        Raises:
            StackError: it cannot be read.
        """
        try:
            values = self._at_offset(index) if self.layout.offset is not None else self._page(index)
        except Exception as error:  # as of tiff.decode_tiff
            raise StackError(
                f"{self.file} is cut short or damaged ({error}): export or copy it again"
            ) from error
        return values.transpose(1, 2, 0) if self.layout.is_planar else values

    def _at_offset(self, index: int) -> np.ndarray:
        """A plane of those that follow one another."""
        layout = self.layout
        assert layout.offset is not None
        count = math.prod(layout.shape)
        with open(self.file, "rb") as source:
            source.seek(layout.offset + index * count * layout.stored.itemsize)
            data = source.read(count * layout.stored.itemsize)
        return np.frombuffer(data, layout.stored).reshape(layout.shape).astype(self.dtype)

    def _page(self, index: int) -> np.ndarray:
        """A plane of a page; the file stays open for the next one."""
        page, inside = divmod(index, self.layout.per_page)
        with self.pages_lock:
            if self.pages is None:
                opened = _opened(self.file)
                weakref.finalize(self, opened.close)
                self.pages = opened.series[0].pages
            if self.last is None or self.last[0] != page:
                self.last = None  # frees its memory
                self.last = page, self.pages[page].asarray()
            whole = self.last[1].reshape(-1, *self.layout.shape)
            if self.layout.per_page == 1:
                self.last = None
        return whole[inside]

    def notes(self, channel: int) -> list[str]:
        """Sentences on how the samples of a channel were scaled."""
        scale = self.scale(channel)
        if scale is None or scale == Scale(0, 1):
            return []
        high = scale.low + 65535 * scale.step
        ends = f"{scale.low:g} to {high:g}" if scale.step != 1 else f"{scale.low:g} and above"
        notes = [
            f"{self.dtype} values from {ends} were taken as 16 bits, in steps of {scale.step:.3g}"
        ]
        if scale.odd:
            notes.append(f"{scale.odd} values are not finite numbers and count as {scale.low:g}")
        return notes


@dataclass(frozen=True)
class Plane(Page):
    """A frame of a hyperstack.

    Attributes:
        source: the hyperstack.
        index: number of the plane in the file.
        channel: index of its channel.
    """

    source: Hyperstack = field(compare=False, repr=False)
    index: int
    channel: int

    def decode(self, orientation: int | None = None, lenient: bool = False) -> Decoded:
        values = self.source.raw(self.index)
        scale = self.source.scale(self.channel)
        picture = values if scale is None else scale.coded(values)
        picture = picture.reshape(*picture.shape[:2], -1)
        note = UNNAMED if self.source.focus == "C" else None
        return Decoded(np.ascontiguousarray(picture), Metadata(), note=note)


def _opened(file: Path) -> tifffile.TiffFile:
    """A TIFF file; tifffile logs nothing, for a StackError says enough."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    return tifffile.TiffFile(file)


def _layout(opened: tifffile.TiffFile, series: Any, lead: str) -> Layout:
    """The Layout of the planes of a series, `lead` its axes before those of a plane."""
    shape = series.shape[len(lead) :]
    return Layout(
        series.dataoffset,
        shape,
        len(shape) == 3 and series.axes[len(lead)] == "S",
        series.dtype.newbyteorder(opened.byteorder),
        math.prod(series.shape[: len(lead)]) // len(series.pages),
    )


def _leading(series: Any) -> str:
    """The axes of a series before those of a plane."""
    axes: str = series.axes
    end = axes.index("Y")
    is_colour = series.pages[0].aspage().photometric == tifffile.PHOTOMETRIC.RGB
    return axes[: end - 1] if end and axes[end - 1] == "S" and is_colour else axes[:end]


def hyperstack_in(file: Path) -> Hyperstack | None:
    """The hyperstack that a TIFF file is.

    Args:
        file: path.
    Returns:
        None if it is a single picture or its pages are plain frames, see tiff.tiff_pages; or it is
        damaged or cannot be read, which decoding reports.
    Raises:
        StackError: what the file declares of its axes contradicts what it holds, or none of them is
            one of focus.
    """
    try:
        with _opened(file) as opened:
            return _found(file, opened)
    except StackError:
        raise
    except Exception:  # as in tiff.decode_tiff
        return None


def _found(file: Path, opened: tifffile.TiffFile) -> Hyperstack | None:
    """As `hyperstack_in`, of an open file, which may raise anything."""
    page = opened.pages[0].aspage()
    is_ome = opened.is_ome or "<OME " in page.description[:4096]
    form = "ome" if is_ome else "imagej" if opened.is_imagej else "shaped"
    odd_type = page.dtype is not None and page.dtype not in (np.uint8, np.uint16, bool)
    if not (is_ome or opened.is_imagej or opened.is_shaped or odd_type):
        return None
    with in_one_sentence(file):
        return _read_header(file, opened, form, odd_type)


def _read_header(
    file: Path, opened: tifffile.TiffFile, form: str, odd_type: bool
) -> Hyperstack | None:
    """As `hyperstack_in`, of a file of a form or with samples of an unusual type."""
    root = _checked_description(file, opened, form)
    series = opened.series[0]
    if len(opened.series) > 1 and series.kind in ("ome", "shaped"):
        if not any(_leading(one) for one in opened.series):
            return None  # pages that were written one by one
        sizes = " and ".join(f"{one.axes} {one.shape}" for one in opened.series[:2])
        raise StackError(
            f"{file} holds {len(opened.series)} images ({sizes}): save each as a file of its own"
        )
    _check_is_whole(file, opened, series)
    lead = _leading(series)
    shape = series.shape[: len(lead)]
    axes = lead.replace("S", "Q")
    pages_are_planes = len(opened.pages) == len(series.pages) == math.prod(shape)
    is_virtual = opened.is_imagej and _is_one_directory(opened)
    plain = len(axes) <= 1 and axes != "C" and pages_are_planes and not odd_type
    if (plain and not is_virtual) or not axes:
        return None
    _check_kind(file, series, opened.pages[0].aspage())
    if axes == "C":
        # tifffile calls planes so, unless it is told their axes: without names and colours.
        focus, about = "C", about_of(opened, form, root, axes, shape, "C")
        if any(about.channels) or about.written.get("mode") in ("composite", "color"):
            focus = _focus_of(file, axes, series)
    else:
        focus = _focus_of(file, axes, series)
        about = about_of(opened, form, root, axes, shape, focus)
    return Hyperstack(file, axes, shape, focus, _layout(opened, series, lead), about)


def _checked_description(
    file: Path, opened: tifffile.TiffFile, form: str
) -> ElementTree.Element | None:
    """OME's description of a file, None of another form; StackError if it does not fit the planes.

    A file that only tifffile describes may link its pages in a loop, and have any number of them.
    """
    if form == "shaped":
        try:
            tiff_directories(opened, MOST_PLANES)
        except tifffile.TiffFileError as error:
            raise StackError(
                f"{file} is cut short, damaged or an unknown kind of TIFF ({error}): "
                "export or copy it again"
            ) from error
    if len(opened.pages) > MOST_PLANES:
        raise StackError(f"{file} has more than {MOST_PLANES} planes: split it")
    if form == "imagej":
        check_imagej(file, opened)
    return check_ome(file, opened) if form == "ome" else None


def _check_is_whole(file: Path, opened: tifffile.TiffFile, series: Any) -> None:
    """Raise StackError if a file holds fewer planes, or fewer samples, than it declares."""
    declares = f"{file} declares axes {series.axes} {series.shape}"
    mend = "it is cut short, or its description is wrong: export or copy it again"
    lacks_pages = len(series.pages) > len(opened.pages) and series.kind != "imagej"
    if lacks_pages or None in list(series.pages):
        raise StackError(f"{declares}, and has fewer planes: {mend}")
    if series.dataoffset is None:
        is_short = lacks_segments(opened.pages[0].aspage())
    else:
        declared = math.prod(series.shape) * series.dtype.itemsize
        is_short = declared > opened.filehandle.size - series.dataoffset
    planes = math.prod(series.shape[: len(_leading(series))])
    if planes > MOST_PLANES or is_short:
        raise StackError(f"{declares}, which is more than it holds: {mend}")


def _is_one_directory(opened: tifffile.TiffFile) -> bool:
    """Whether ImageJ has written one directory for all planes, as beyond 4 GB."""
    page = opened.pages[0].aspage()
    handle, format = opened.filehandle, opened.tiff
    handle.seek(page.offset)
    (count,) = struct.unpack(format.tagnoformat, handle.read(format.tagnosize))
    handle.seek(page.offset + format.tagnosize + count * format.tagsize)
    return not any(handle.read(format.offsetsize))


def _check_kind(file: Path, series: Any, page: tifffile.TiffPage) -> None:
    """Raise StackError if the samples of a series are of a kind that has no order or no range."""
    if series.dtype.kind not in "uif":
        raise StackError(f"{file} holds {series.dtype} samples: export it as integers or floats")
    bits = page.bitspersample
    if isinstance(bits, int) and bits != 8 * series.dtype.itemsize:
        raise StackError(f"{file} holds {bits}-bit samples: export it with 8 or 16 bits")


def _focus_of(file: Path, axes: str, series: Any) -> str:
    """The axis along which the focus differs.

    Raises:
        StackError: there is none, or there are axes beside it that are neither time nor channel.
    """
    sizes = f"axes {series.axes} {series.shape}"
    for focus in FOCUS:
        if focus in axes:
            others = axes.replace(focus, "", 1)
            unknown = [axis for axis in others if axis not in KEPT]
            if unknown or len(set(others)) < len(others):
                raise StackError(
                    f"{file} has {sizes}, and does not say which of them is time, channel or focus:"
                    " save it with axes such as TZCYX"
                )
            return focus
    raise StackError(
        f"{file} has {sizes}, and none along which the focus differs: save the planes along Z"
    )


def write_hyperstack(file: Any, result: np.ndarray, like: Hyperstack) -> list[str]:
    """Write what was made of each stack of a hyperstack as one TIFF file of the same form.

    Args:
        file: path, or an open file.
        result: (T, C, H, W) or (T, C, H, W, 3) in the type of the hyperstack or uint16.
        like: the hyperstack.
    Returns:
        Sentences on what the form could not keep.
    """
    about, notes = like.about, list[str]()
    is_colour = result.ndim == 5
    axes = like.kept + "YX" + ("S" if is_colour else "")
    lengths = [like.length(axis) for axis in like.kept]
    samples = result.reshape(*lengths, *result.shape[2:])
    form, written = about.form, dict(about.written)
    if form == "imagej" and samples.dtype not in (np.uint8, np.uint16, np.float32):
        notes.append(f"ImageJ has no {samples.dtype}: the result is an OME-TIFF")
        form, written = "ome", as_ome(about)
    options: dict[str, Any] = {"photometric": "rgb" if is_colour else "minisblack"}
    if about.resolution:
        options |= {"resolution": about.resolution, "resolutionunit": about.resolution_unit}
    if form == "imagej":
        options["imagej"] = True
    elif form == "ome":
        options["ome"] = True
    tifffile.imwrite(file, samples, metadata={"axes": axes, **written}, **options)
    return notes
