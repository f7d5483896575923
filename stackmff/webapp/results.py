"""What the page shows of a result: tiles at any zoom, the origin of a pixel, the 3D view."""

import shutil
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stackmff.alignment.geometry import Alignment, colours_of
from stackmff.alignment.record import load_alignment
from stackmff.display.drawing import colour_map, reduced
from stackmff.display.previews import certainty
from stackmff.display.relief import surface
from stackmff.errors import StackError
from stackmff.files import natural_key
from stackmff.fusion.blending import Mixture
from stackmff.fusion.engines import Engine, choose_engine
from stackmff.fusion.fuse import mixture_at
from stackmff.fusion.retouch import (
    Stroke,
    apply_strokes,
    cover,
    record_of,
    save_strokes,
    stroke_of,
)
from stackmff.images.formats import to_8_bits, write_picture
from stackmff.images.frame_store import release
from stackmff.images.levels import levels_of
from stackmff.webapp.result_files import ResultFiles, decode_metadata, load_record

TILE = 512  # px
SMALL = 4  # reduction of the copies that distant views are cut from
UNSURE = np.array((225, 60, 40), np.float32)  # the page multiplies the picture by it
KEPT = 12  # small copies, about 5 MB each for 24 megapixels
QUALITY = 92  # of JPEG
SURFACE_SIDE, TEXTURE_SIDE = 400, 1600  # px, of the 3D view's heights and texture
PLAIN_SHARE = 0.9  # a frame's share of a pixel from which on the pixel counts as that frame's
LAYERS = ("fused", "focus", "confidence")  # besides the frames, which are named by their index
SUFFIXES = {"png": ".png", "tiff": ".tif", "jpeg": ".jpg"}

Box = tuple[int, int, int, int]  # (top, bottom, left, right), px
Layer = str | int


class ShownResult:
    """A result in a folder, as worker.py leaves it.

    Args:
        folder: see result_files.ResultFiles.
    """

    def __init__(self, folder: str | Path) -> None:
        self.files = ResultFiles(folder)
        record = load_record(self.files.record)
        self.names, self.kept, self.notes = list(record.names), list(record.kept), record.notes
        self.area, self.seconds = record.area, record.seconds
        self.tilt, self.first_is_near = record.tilt, record.first_is_near
        self.metadata = decode_metadata(record.metadata)
        shape = tuple(record.shape)
        self.frames = np.memmap(self.files.frames, np.dtype(record.dtype), "r", 0, shape)
        self.height, self.width = shape[1:3]
        self.levels = levels_of(self.frames)
        self.fused = np.load(self.files.fused, mmap_mode="r")
        self.focus_map = np.load(self.files.focus_map, mmap_mode="r")
        self.confidence: np.ndarray | None = None
        if self.files.confidence.exists():
            self.confidence = np.load(self.files.confidence, mmap_mode="r")
        self.alignment: Alignment | None = None
        if self.files.alignment.exists():
            colours = colours_of(self.frames)
            size = self.height, self.width
            self.alignment = load_alignment(self.files.alignment, record.files, size, colours)
        self.picture = self.fused  # a copy of its own from the first stroke on
        self.strokes: list[Stroke] = []
        # (size, record) of strokes of an earlier result that do not fit this one.
        self.waiting: list[tuple[tuple[int, int], dict[str, Any]]] = []
        self.small: OrderedDict[Layer, np.ndarray] = OrderedDict()
        self.lock = threading.RLock()

    @property
    def folder(self) -> Path:
        """The folder of the result."""
        return self.files.folder

    @property
    def name(self) -> str:
        """The name of the result among those of its session."""
        return f"{self.folder.parent.name}-{self.folder.name}"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), px."""
        return self.height, self.width

    def plane(self, layer: Layer) -> np.ndarray:
        """The pixels (H, W) or (H, W, C) of a layer: one of LAYERS, or the index of a frame."""
        if layer == "fused":
            return self.picture
        if layer == "focus":
            return self.focus_map
        if layer == "confidence":
            if self.confidence is None:
                raise StackError("this network gives no confidence: use a StackMix checkpoint")
            return self.confidence
        return self.frames[layer]

    def small_copy(self, layer: Layer) -> np.ndarray:
        """A layer reduced SMALL times; the copy is kept for the next call."""
        with self.lock:
            if layer in self.small:
                self.small.move_to_end(layer)
                return self.small[layer]
        plane = self.plane(layer)
        size = -(-self.width // SMALL), -(-self.height // SMALL)
        copy = _shrunk(plane, size)
        release(self.frames)
        with self.lock:
            self.small[layer] = copy
            while len(self.small) > KEPT:
                self.small.popitem(last=False)
        return copy

    def tile(self, layer: Layer, level: int, column: int, row: int) -> bytes | None:
        """A tile as JPEG; None where the picture has no such tile.

        Args:
            layer: as of `plane`.
            level: the picture is reduced 2^level times.
            column, row: of the tile, from 0.
        """
        step = 2**level
        source, factor = self.plane(layer), step
        if step >= SMALL:
            source, factor = self.small_copy(layer), step // SMALL
        top, left = row * TILE * factor, column * TILE * factor
        part = source[top : top + TILE * factor, left : left + TILE * factor]
        if 0 in part.shape[:2]:
            return None
        part = np.ascontiguousarray(part)
        if factor > 1:
            height, width = part.shape[:2]
            part = _shrunk(part, (-(-width // factor), -(-height // factor)))
        return _jpeg(self.painted(layer, part))

    def painted(self, layer: Layer, part: np.ndarray) -> np.ndarray:
        """A part of a layer in the colours that the page shows, (h, w, 3) uint8 sRGB."""
        if layer == "focus":
            return colour_map(part / np.float32(65535))
        if layer == "confidence":
            sure = np.broadcast_to(certainty(part, len(self.kept)), part.shape)[..., None]
            return np.round(UNSURE + (255 - UNSURE) * sure).astype(np.uint8)
        return reduced(part, max(part.shape), self.metadata.profile, self.levels)

    def pixel(self, x: int, y: int) -> dict[str, Any]:
        """Where a pixel of the picture comes from, according to the maps alone.

        Returns:
            {"x", "y", "frame": name, "index", "share": of the frame, or None, "mixed": whether
            several frames have a part in it, "stroke": as of `stroke_at`}.
        Raises:
            StackError: the pixel is outside the picture.
        """
        if not (0 <= x < self.width and 0 <= y < self.height):
            raise StackError(
                f"pixel {x}, {y} is outside the picture of {self.width}x{self.height}: choose one "
                "inside"
            )
        expected = int(self.focus_map[y, x]) / 65535 * (len(self.names) - 1)
        index = round(expected)
        share = None if self.confidence is None else int(self.confidence[y, x]) / 255
        return {
            "x": x,
            "y": y,
            "index": index,
            "frame": self.names[index],
            "share": share,
            "mixed": share is not None and share < PLAIN_SHARE,
            "stroke": self.stroke_at(x, y),
        }

    def stroke_at(self, x: int, y: int) -> dict[str, Any] | None:
        """{"frame": name or None, "share"} of the last stroke that covers a pixel, or None."""
        for stroke in reversed(self.strokes):
            top, bottom, left, right = stroke.box(self.size)
            if not (top <= y < bottom and left <= x < right):
                continue
            if share := float(cover(stroke, y, y + 1, x, x + 1)[0, 0]):
                name = None if stroke.frame is None else self.names[stroke.frame]
                return {"frame": name, "share": round(share, 3)}
        return None

    def shares_at(self, x: int, y: int, engine: Engine) -> list[tuple[str, float]]:
        """(name, share) of the frames that a pixel is mixed of, largest first."""
        mixture = Mixture(self.kept, self.alignment, self.tilt)
        shares = mixture_at(self.frames, engine, x, y, mixture)
        release(self.frames)
        found = [(self.names[k], round(float(shares[k]), 3)) for k in np.argsort(-shares)]
        return [(name, share) for name, share in found if share >= 0.005]

    def paint(self, stroke: Stroke) -> Box:
        """Paint one more stroke; return the box that has changed."""
        with self.lock:
            if self.picture is self.fused:
                shutil.copyfile(self.files.fused, self.files.retouched)
                self.picture = np.load(self.files.retouched, mmap_mode="r+")
            self.strokes.append(stroke)
            apply_strokes(self.picture, self.frames, [stroke], None, self.fused)
            return self._repainted(stroke.box(self.size))

    def undo(self, count: int = 1) -> list[Box]:
        """Undo the last strokes; return the boxes that have changed."""
        boxes = []
        with self.lock:
            for _ in range(min(count, len(self.strokes))):
                box = self.strokes.pop().box(self.size)
                top, bottom, left, right = box
                self.picture[top:bottom, left:right] = self.fused[top:bottom, left:right]
                apply_strokes(self.picture, self.frames, self.strokes, box, self.fused)
                boxes.append(self._repainted(box))
        return boxes

    def _repainted(self, box: Box) -> Box:
        """Update the small copy where the picture has changed; return the box."""
        release(self.frames)
        if "fused" in self.small:
            top, left = (box[k] // SMALL for k in (0, 2))
            bottom, right = (-(-box[k] // SMALL) for k in (1, 3))
            part = self.picture[top * SMALL : bottom * SMALL, left * SMALL : right * SMALL]
            if part.size:
                whole = self.small["fused"]
                whole[top:bottom, left:right] = _shrunk(part, (right - left, bottom - top))
        return box

    def surface(self) -> bytes:
        """The surface of the 3D view.

        Returns:
            The number of bytes before the texture, uint32; width, height and the heights (65535 is
            nearest), uint16; the texture, JPEG. Numbers are little-endian.
        """
        shrinks = max(self.size) >= SMALL * SURFACE_SIDE

        def plane(layer: Layer) -> np.ndarray:
            return self.small_copy(layer) if shrinks else np.asarray(self.plane(layer))

        focus, picture = plane("focus"), plane("fused")
        picture = picture if self.levels is None else self.levels.shown(picture)
        confidence = None if self.confidence is None else plane("confidence")
        sure = certainty(confidence, len(self.kept))
        profile = self.metadata.profile
        _, heights = surface(focus, picture, sure, self.first_is_near, SURFACE_SIDE, profile)
        side = TEXTURE_SIDE
        whole = self.picture if max(self.size) <= side else plane("fused")
        levels = np.round(65535 * heights).astype("<u2").tobytes()
        data = np.array(heights.shape[::-1], "<u2").tobytes() + levels
        return (
            len(data).to_bytes(4, "little")
            + data
            + _jpeg(reduced(whole, side, profile, self.levels))
        )

    def export_picture(self, path: Path, bits: int, crop: bool) -> None:
        """Write the retouched picture.

        Args:
            path: its suffix is the format.
            bits: 8 or 16.
            crop: to the area that all frames cover.
        """
        with self.lock:
            picture = np.array(self.picture)
        if crop and self.area:
            top, bottom, left, right = self.area
            picture = picture[top:bottom, left:right]
        picture = picture if bits == 16 else to_8_bits(picture)
        write_picture(path, picture, self.metadata)

    def export_other(self, what: str, folder: Path, name: str) -> Path:
        """Write another file than the picture.

        Args:
            what: "focus", "confidence", "alignment", "strokes" or "slabs".
            folder: for the file.
            name: first part of its name.
        Returns:
            Its path.
        Raises:
            StackError: this result has no such file.
        """
        path = folder / f"{name}_{what}"
        if what in ("focus", "confidence"):
            path = path.with_name(f"{path.name}.png")
            write_picture(path, np.array(self.plane(what)))
        elif what == "strokes":
            path = path.with_name(f"{path.name}.json")
            save_strokes(path, self.strokes, self.names, self.size)
        elif what == "alignment" and self.alignment is not None:
            path = path.with_name(f"{path.name}.json")
            shutil.copyfile(self.files.alignment, path)
        elif what == "slabs" and (slabs := sorted(self.files.slabs.glob("*.tif"))):
            path = path.with_name(f"{path.name}.zip")
            with zipfile.ZipFile(path, "w") as archive:  # uncompressed: the TIFFs already are
                for slab in slabs:
                    archive.write(slab, slab.name)
        else:
            raise StackError(f"this result has no {what}: fuse again with that option")
        return path


def carry_strokes(old: ShownResult | None, new: ShownResult) -> None:
    """Paint the strokes of one result into the next one; those that do not fit it wait."""
    if old is None:
        return
    painted = [(old.size, record_of(stroke, old.names)) for stroke in old.strokes]
    for size, record in [*old.waiting, *painted]:
        if size == new.size and record["frame"] in (None, *new.names):
            new.paint(stroke_of(record, new.names))
        else:
            new.waiting.append((size, record))


def waiting_notes(waiting: Sequence[tuple[tuple[int, int], dict[str, Any]]]) -> list[str]:
    """A sentence on strokes that wait, see ShownResult.waiting; none where none do."""
    names = sorted({record["frame"] or "the eraser" for _, record in waiting}, key=natural_key)
    if not waiting:
        return []
    return [
        f"not painted: strokes of {', '.join(names)}, because these frames are excluded or had "
        "another size; the strokes return when the frames are fused again"
    ]


def _shrunk(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Reduce (H, W) or (H, W, C) to `size` = (w, h) px by averaging areas."""
    plane = np.asarray(plane)
    small = cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
    return small.reshape(*small.shape[:2], *plane.shape[2:])  # OpenCV drops an axis of length 1


def _jpeg(picture: np.ndarray) -> bytes:
    """(h, w, 3) uint8 RGB as JPEG without chroma subsampling."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    settings += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, settings)
    return bytes(data)


class Prober:
    """Finds the frames that a pixel is mixed of. Its engine is loaded at the first request.

    Args:
        model_path, device: as of engines.choose_engine.
    """

    def __init__(self, model_path: Path, device: str) -> None:
        self.model_path, self.device = model_path, device
        self.engine: Engine | None = None
        self.lock = threading.Lock()

    def shares(self, result: ShownResult, x: int, y: int) -> list[tuple[str, float]] | None:
        """As ShownResult.shares_at; None where the network predicts no weights."""
        with self.lock:
            if self.engine is None:
                self.engine = choose_engine(self.model_path, self.device)
            if self.engine.output != "weights":
                return None
            return result.shares_at(x, y, self.engine)
