"""What the page shows of a result: tiles at any zoom, the origin of a pixel, the 3D view."""

import secrets
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
from stackmff.fusion.engines import Engine
from stackmff.fusion.fuse import origin_at
from stackmff.fusion.retouch import Painting, apply_strokes, cover, record_of, stroke_of
from stackmff.images.colour import luma
from stackmff.images.formats import decode
from stackmff.images.frame_store import release
from stackmff.images.levels import levels_of
from stackmff.images.rectangles import Box
from stackmff.webapp.kept_frames import is_kept
from stackmff.webapp.other_pictures import SourcePictures, layer_file, title_of
from stackmff.webapp.result_files import (
    PART,
    AlignedFiles,
    ResultFiles,
    decode_metadata,
    load_record,
)
from stackmff.webapp.strokes import Painted, StrokeLog, Waiting
from stackmff.webapp.tiles import COPIES, Layer, Stamps, jpeg, shrunk, webp

TILE = 512  # px
SMALL = 4  # reduction of the copies that distant views are cut from
MOST_LEVEL = 12  # of tiles
UNSURE = (255, 96, 0)  # RGB of the overlay where it is not certain which frame is in focus
SURFACE_SIDE, TEXTURE_SIDE = 400, 1600  # px, of the 3D view's heights and texture
TALLEST = 0.16  # height of the nearest point of the 3D view, in units of the longer side
PLAIN_SHARE = 0.9  # a frame's share of a pixel from which on the pixel counts as that frame's
LAYERS = ("fused", "plain", "focus", "confidence")  # besides the frames, named by their index
NEAR = 12  # px around a place that is compared for sharpness


class PixelOrigin(NamedTuple):
    """Where a pixel comes from.

    Attributes:
        shares: (name, share) of the frames that it is mixed of, largest first.
        added: to their mixture, for each channel, in levels of 255.
    """

    shares: list[tuple[str, float]]
    added: list[int]


class ShownResult:
    """A result in a folder, as worker.py leaves it.

    Args:
        folder: see result_files.ResultFiles.
        painted: whether the strokes of its log are read and painted.
        stamps: of its picture, where it was opened before in this process.
    """

    def __init__(
        self, folder: str | Path, painted: bool = True, stamps: Stamps | None = None
    ) -> None:
        self.files = ResultFiles(folder)
        record = load_record(self.files.record)
        self.names, self.kept, self.notes = list(record.names), list(record.kept), record.notes
        self.area, self.seconds = record.area, record.seconds
        self.tilt, self.first_is_near = record.tilt, record.first_is_near
        self.options, self.made = record.options, record.made
        self.metadata = decode_metadata(record.metadata)
        shape = tuple(record.shape)
        self.height, self.width = shape[1:3]
        # A draft is shown at the size of the picture that it stands for.
        self.shown_size = (self.height, self.width)
        self.least_level = 0
        if record.whole is not None:
            self.shown_size = (record.whole[0], record.whole[1])
            self.least_level = round(np.log2(max(record.whole) / max(self.size)))
        aligned = ResultFiles(folder)
        self.frames_file, self.alignment_file = aligned.frames, aligned.alignment
        if record.aligned is not None:
            shared = AlignedFiles(self.folder.parent.parent / Path(record.aligned).name)
            self.frames_file, self.alignment_file = shared.frames, shared.alignment
        self.frames = np.memmap(self.frames_file, np.dtype(record.dtype), "r", 0, shape)
        self.levels = levels_of(self.frames)
        self.fused = np.load(self.files.fused, mmap_mode="r")
        self.focus_map = np.load(self.files.focus_map, mmap_mode="r")
        self.confidence: np.ndarray | None = None
        if self.files.confidence.exists():
            self.confidence = np.load(self.files.confidence, mmap_mode="r")
        self.alignment: Alignment | None = None
        if self.alignment_file.exists():
            colours = colours_of(self.frames)
            self.alignment = load_alignment(self.alignment_file, record.files, self.size, colours)
        self.picture = self.fused  # a copy of its own from the first stroke on
        self.sources = SourcePictures(self.files.sources, self.fused.shape)
        self.owner = secrets.token_hex(8)  # of small copies
        self.lock = threading.RLock()
        self.stamps = stamps or Stamps()
        self.log = StrokeLog(self.files.strokes, self.names)
        self.painted_with = self.log.read() if painted else Painted()
        if self.strokes:
            self._own_picture()
            self._apply(self.strokes)
            release(self.frames)

    @property
    def folder(self) -> Path:
        """The folder of the result."""
        return self.files.folder

    @property
    def name(self) -> str:
        """The name of the result among those of its stack."""
        return f"{self.folder.parent.name}-{self.folder.name}"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), px."""
        return self.height, self.width

    @property
    def strokes(self) -> list[Painting]:
        """The strokes that are painted."""
        return self.painted_with.strokes

    @property
    def undone(self) -> list[Painting]:
        """The strokes that can be redone, the next one last."""
        return self.painted_with.undone

    @property
    def waiting(self) -> list[Waiting]:
        """The strokes of an earlier result that do not fit this one."""
        return self.painted_with.waiting

    @property
    def stamp(self) -> str:
        """See Stamps."""
        return self.stamps.now

    def _own_picture(self) -> None:
        """Give the result a copy of the fused picture to paint on."""
        if self.picture is self.fused:
            # A new file in its place: whoever still shows the one before goes on to do so.
            made = self.files.retouched.with_suffix(PART)
            shutil.copyfile(self.files.fused, made)
            made.replace(self.files.retouched)
            self.picture = np.load(self.files.retouched, mmap_mode="r+")

    def _apply(self, strokes: Sequence[Painting], box: Box | None = None) -> None:
        """Paint strokes into the picture, in a box or everywhere."""
        apply_strokes(self.picture, self.frames, strokes, box, self.fused, self.sources)

    def has_layer(self, word: str) -> bool:
        """Whether this is a layer, other than a frame, that `plane` has."""
        return word in LAYERS or layer_file(self.files, word) is not None

    def plane(self, layer: Layer) -> np.ndarray:
        """The pixels (H, W) or (H, W, C) of a layer: one of LAYERS, a slab, the picture of a
        method, see other_pictures.py, or the index of a frame."""
        if layer == "fused":
            return self.picture
        if layer == "plain":
            return self.fused
        if layer == "focus":
            return self.focus_map
        if layer == "confidence":
            if self.confidence is None:
                raise StackError("this network gives no confidence: use a StackMix checkpoint")
            return self.confidence
        if isinstance(layer, int):
            return self.frames[layer]
        path = layer_file(self.files, layer)
        if path is None:
            raise LookupError("there is no such picture")
        other: np.ndarray = np.load(path, mmap_mode="r")
        return other

    def small_copy(self, layer: Layer) -> np.ndarray:
        """A layer reduced SMALL times; the copy is kept for the next call."""

        def make() -> np.ndarray:
            size = -(-self.width // SMALL), -(-self.height // SMALL)
            copy = shrunk(self.plane(layer), size)
            release(self.frames)
            return copy

        return COPIES.made(self.owner, layer, make)

    def tile(self, layer: Layer, level: int, column: int, row: int) -> bytes | None:
        """A tile as JPEG, of the confidence as WebP; None where the picture has no such tile.

        Args:
            layer: as of `plane`.
            level: the picture that is shown is reduced 2^level times.
            column, row: of the tile, from 0.
        """
        if level < self.least_level:
            return None
        step = 2 ** (level - self.least_level)
        source, factor = self.plane(layer), step
        if step >= SMALL:
            source, factor = self.small_copy(layer), step // SMALL
        part = source[Box.at(row, column).scaled(TILE * factor).slices]
        if 0 in part.shape[:2]:
            return None
        part = np.ascontiguousarray(part)
        if factor > 1:
            height, width = part.shape[:2]
            part = shrunk(part, (-(-width // factor), -(-height // factor)))
        return webp(self.doubt(part)) if layer == "confidence" else jpeg(self.painted(layer, part))

    def doubt(self, part: np.ndarray) -> np.ndarray:
        """The overlay of a part of the confidence: (h, w, 4) uint8 RGBA, clear where it is sure."""
        sure = np.broadcast_to(certainty(part, len(self.kept)), part.shape)
        out = np.empty((*part.shape, 4), np.uint8)
        out[..., :3] = UNSURE
        out[..., 3] = np.round(255 * (1 - sure))
        return out

    def painted(self, layer: Layer, part: np.ndarray) -> np.ndarray:
        """A part of a layer in the colours that the page shows, (h, w, 3) uint8 sRGB."""
        if layer == "focus":
            return colour_map(part / np.float32(65535))
        return reduced(part, max(part.shape), self.metadata.profile, self.levels)

    def pixel(self, x: int, y: int) -> dict[str, Any]:
        """Where a pixel of the picture comes from, according to the maps alone.

        Returns:
            {"x", "y", "frame": name, "index", "share": of the frame, or None, "mixed": whether
            several frames have a part in it, "stroke": as of `stroke_at`}.
        Raises:
            StackError: the pixel is outside the picture.
        """
        column, row = self.own_place(x, y)
        expected = int(self.focus_map[row, column]) / 65535 * (len(self.names) - 1)
        index = round(expected)
        share = None if self.confidence is None else int(self.confidence[row, column]) / 255
        return {
            "x": x,
            "y": y,
            "index": index,
            "frame": self.names[index],
            "share": share,
            "mixed": share is not None and share < PLAIN_SHARE,
            "stroke": self.stroke_at(x, y),
        }

    def own_place(self, x: int, y: int) -> tuple[int, int]:
        """(x, y) in this result of a pixel of the picture that is shown.

        Raises:
            StackError: the pixel is outside the picture.
        """
        height, width = self.shown_size
        if not (0 <= x < width and 0 <= y < height):
            raise StackError(
                f"pixel {x}, {y} is outside the picture of {width}x{height}: choose one inside"
            )
        return min(x >> self.least_level, self.width - 1), min(
            y >> self.least_level, self.height - 1
        )

    def sharpest_at(self, x: int, y: int) -> int:
        """The index of the frame with most detail around a pixel of the picture that is shown."""
        column, row = self.own_place(x, y)
        box = Box.at(row, column).grown(NEAR, self.size)
        found = []
        for k in self.kept:
            part = luma(box.cut(self.frames[k])).astype(np.float32)
            found.append(
                float((cv2.Laplacian(cv2.GaussianBlur(part, (3, 3), 0), cv2.CV_32F) ** 2).mean())
            )
        release(self.frames)
        return self.kept[int(np.argmax(found))]

    def stroke_at(self, x: int, y: int) -> dict[str, Any] | None:
        """{"frame": name or None, "share"} of the last stroke that covers a pixel, or None."""
        pixel = Box.at(y, x)
        for stroke in reversed(self.strokes):
            if not stroke.box(self.size).common(pixel).area:
                continue
            if share := float(cover(stroke, pixel)[0, 0]):
                name = None if stroke.frame is None else self.names[stroke.frame]
                if stroke.picture is not None:
                    name = title_of(stroke.picture)
                return {"frame": name, "share": round(share, 3)}
        return None

    def origin_at(self, x: int, y: int, engine: Engine) -> PixelOrigin:
        """Which frames a pixel is mixed of, and what was added to their mixture."""
        mixture = Mixture(self.kept, self.alignment, self.tilt)
        shares, added = origin_at(self.frames, engine, *self.own_place(x, y), mixture)
        release(self.frames)
        found = [(self.names[k], round(float(shares[k]), 3)) for k in np.argsort(-shares)]
        colours = added if len(added) % 2 else added[:-1]  # without alpha
        added_levels = np.round(colours * (255 / np.iinfo(self.frames.dtype).max)).astype(int)
        return PixelOrigin(
            [(name, share) for name, share in found if share >= 0.005], added_levels.tolist()
        )

    def paint(self, stroke: Painting) -> Box:
        """Paint one more stroke; return the box that has changed."""
        with self.lock:
            self._own_picture()
            self.log.paint(stroke)
            self.painted_with.paint(stroke)
            return self._add(stroke)

    def _add(self, stroke: Painting) -> Box:
        """Paint the last stroke over the others; return its box."""
        self._apply([stroke])
        self.stamps.change()
        return self._repainted(stroke.box(self.size))

    def undo(self, count: int = 1) -> list[Box]:
        """Undo the last strokes; return the boxes that have changed."""
        boxes = []
        with self.lock:
            count = min(count, len(self.strokes))
            if count:
                self.log.write(undo=count)
            for _ in range(count):
                box = self.painted_with.undo().box(self.size)
                self.picture[box.slices] = self.fused[box.slices]
                self._apply(self.strokes, box)
                boxes.append(self._repainted(box))
                self.stamps.change()
        return boxes

    def redo(self, count: int = 1) -> list[Box]:
        """Paint the strokes again that were undone last; return the boxes that have changed."""
        with self.lock:
            count = min(count, len(self.undone))
            if count:
                self._own_picture()  # it has none if all was undone when it was opened
                self.log.write(redo=count)
            return [self._add(self.painted_with.redo()) for _ in range(count)]

    def wait(self, size: tuple[int, int], record: dict[str, Any]) -> None:
        """Keep a stroke that does not fit this result; size: (height, width) of its picture."""
        self.log.write(wait=[*size, record])
        self.waiting.append((size, record))

    def _repainted(self, box: Box) -> Box:
        """Update the small copy where the picture has changed; return the box."""
        release(self.frames)
        whole = COPIES.get(self.owner, "fused")
        if whole is not None:
            top, left = (side // SMALL for side in box.corner)
            small = Box(top, -(-box.bottom // SMALL), left, -(-box.right // SMALL))
            part = self.picture[small.scaled(SMALL).slices]
            if part.size:
                whole[small.slices] = shrunk(part, small.size[::-1])
        return box

    def surface(self) -> bytes:
        """The surface of the 3D view.

        Returns:
            The number of bytes before the texture, uint32; width, height and the heights (65535 is
            nearest), uint16; the texture, JPEG. Numbers are little-endian.
        """
        heights, texture = self.relief()
        levels = np.round(65535 * heights).astype("<u2").tobytes()
        data = np.array(heights.shape[::-1], "<u2").tobytes() + levels
        return len(data).to_bytes(4, "little") + data + texture

    def relief(self) -> tuple[np.ndarray, bytes]:
        """(heights, texture): as of `raised`, the texture as JPEG."""
        heights, texture = self.raised()
        return heights, jpeg(texture)

    def raised(self) -> tuple[np.ndarray, np.ndarray]:
        """(heights, texture): (h, w) float in [0, 1], 1 is nearest, and (H, W, 3) uint8 sRGB."""
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
        return heights, reduced(whole, side, profile, self.levels)


class FramePicture:
    """A frame before it is fused, as the page shows it: as it was decoded, or its small copy.

    Args:
        kept: file of the frame as it was decoded, which may be missing.
        small: file of its small copy.
        size: (height, width) px of the frame.
    """

    def __init__(self, kept: Path, small: Path, size: tuple[int, int]) -> None:
        self.shown_size = size
        self.least_level = 0 if is_kept(kept) else round(np.log2(SMALL))
        if self.least_level == 0:
            self.pixels = np.load(kept, mmap_mode="r")
        decoded = decode(small)  # our own file
        self.small, self.profile = decoded.picture, decoded.metadata.profile
        self.levels = levels_of(self.small[None])

    def tile(self, level: int, column: int, row: int) -> bytes | None:
        """As ShownResult.tile."""
        source, factor = self.small, 2**level // SMALL
        if factor == 0:
            if self.least_level:
                return None
            source, factor = self.pixels, 2**level
        part = source[Box.at(row, column).scaled(TILE * factor).slices]
        if 0 in part.shape[:2]:
            return None
        height, width = part.shape[:2]
        if factor > 1:
            part = shrunk(np.ascontiguousarray(part), (-(-width // factor), -(-height // factor)))
        return jpeg(reduced(part, max(part.shape), self.profile, self.levels))


def carry_strokes(old: ShownResult | None, new: ShownResult) -> None:
    """Paint the strokes of one result into the next one; those that do not fit it wait."""
    if old is None:
        return
    for name in old.sources:
        new.sources.bring(name, old.files.sources / f"{name}.npy")
    painted = [(old.size, record_of(stroke, old.names)) for stroke in old.strokes]
    for size, record in [*old.waiting, *painted]:
        if size == new.size and record.get("frame") in (None, *new.names):
            new.paint(stroke_of(record, new.names))
        else:
            new.wait(size, record)


def waiting_notes(waiting: Sequence[Waiting]) -> list[str]:
    """A sentence on strokes that wait, see ShownResult.waiting; none where none do."""
    if not waiting:
        return []
    told = {
        title_of(record["picture"]) if "picture" in record else record["frame"] or "the eraser"
        for _, record in waiting
    }
    names = sorted(told, key=natural_key)
    return [
        f"not painted: strokes of {', '.join(names)}, because these frames are excluded or had "
        "another size; the strokes return when the frames are fused again"
    ]
