"""What the page of app.py shows of a result: tiles at any size, a pixel's origin, the relief."""

import base64
import json
import shutil
import threading
import zipfile
from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np

from stackmff.alignment.geometry import colours_of
from stackmff.alignment.record import load_alignment
from stackmff.display.drawing import colour_map, reduced
from stackmff.display.previews import certainty
from stackmff.display.relief import surface
from stackmff.errors import StackError
from stackmff.files import natural_key
from stackmff.fusion.blending import Mixture
from stackmff.fusion.engines import choose_engine
from stackmff.fusion.fuse import mixture_at
from stackmff.fusion.retouch import apply_strokes, cover, record_of, save_strokes, stroke_of
from stackmff.images.formats import to_8_bits, write_picture
from stackmff.images.frame_store import release
from stackmff.images.metadata import Metadata

TILE = 512  # px
SMALL = 4  # how much smaller the copies are that far views are cut from
UNSURE = np.float32((225, 60, 40))  # the page multiplies it onto the picture
KEPT = 12  # small copies, some 5 MB each for 24 megapixels
QUALITY = 92  # of JPEG
RELIEF_SIDE, TEXTURE_SIDE = 400, 1600  # px, of heights and of what is draped over them
PLAIN_SHARE = 0.9  # of one frame, from which on a pixel is said to be that frame's
LAYERS = ("fused", "focus", "confidence")  # besides the numbers of frames
SUFFIXES = {"png": ".png", "tiff": ".tif", "jpeg": ".jpg"}


class Result:
    """What worker.fuse_into has left in a folder.

    Args:
        folder: of it.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        record = json.loads((self.folder / "result.json").read_text(encoding="utf-8"))
        self.names, self.kept, self.notes = record["names"], record["kept"], record["notes"]
        self.area, self.seconds = record["area"], record["seconds"]
        self.tilt, self.first_is_near = record["tilt"], record["first_is_near"]
        blocks = {
            name: value and base64.b64decode(value) for name, value in record["metadata"].items()
        }
        self.metadata = Metadata(**blocks)
        shape, dtype = tuple(record["shape"]), np.dtype(record["dtype"])
        self.frames = np.memmap(self.folder / "frames.raw", dtype, "r", 0, shape)
        self.height, self.width = shape[1:3]
        self.mixture = np.load(self.folder / "fused.npy", mmap_mode="r")
        self.focus_map = np.load(self.folder / "focus.npy", mmap_mode="r")
        sure = self.folder / "confidence.npy"
        self.confidence = np.load(sure, mmap_mode="r") if sure.exists() else None
        known = self.folder / "alignment.json"
        self.alignment = None
        if known.exists():
            colours = colours_of(self.frames)
            self.alignment = load_alignment(known, record["files"], shape[1:3], colours)
        self.picture = self.mixture  # a copy of its own from the first stroke on
        self.strokes = []
        self.waiting = []  # (size, record) of strokes of a result before that do not fit this one
        self.small = OrderedDict()
        self.lock = threading.RLock()

    @property
    def name(self):
        """What tells it from the other results of a session."""
        return f"{self.folder.parent.name}-{self.folder.name}"

    @property
    def size(self):
        return self.height, self.width

    def plane(self, layer):
        """The pixels (H, W) or (H, W, C) of a layer: one of LAYERS, or the index of a frame."""
        if layer == "fused":
            return self.picture
        if layer == "focus":
            return self.focus_map
        if layer == "confidence":
            if self.confidence is None:
                raise StackError("this network tells no confidence: use a StackMix checkpoint")
            return self.confidence
        return self.frames[layer]

    def small_copy(self, layer):
        """A layer SMALL times smaller, kept for the next time."""
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

    def tile(self, layer, level, column, row):
        """A tile as JPEG.

        Args:
            layer: as of `plane`.
            level: the picture is shown 2^level times smaller.
            column, row: of the tile, from 0.
        Returns:
            bytes; None where the picture has no such tile.
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
            part = _shrunk(part, tuple(-(-side // factor) for side in part.shape[1::-1]))
        return _jpeg(self.painted(layer, part))

    def painted(self, layer, part):
        """A part of a layer as (h, w, 3) uint8 sRGB."""
        if layer == "focus":
            return colour_map(part / np.float32(65535))
        if layer == "confidence":
            sure = np.broadcast_to(certainty(part, len(self.kept)), part.shape)[..., None]
            return np.uint8(np.round(UNSURE + (255 - UNSURE) * sure))
        return reduced(part, max(part.shape), self.metadata.profile)

    def pixel(self, x, y):
        """Where a pixel of the picture comes from, by the maps alone.

        Returns:
            {"x", "y", "frame": name, "index", "share": of it, or None, "mixed", "stroke": what was
            painted there, or None}.
        Raises:
            StackError: it is outside the picture.
        """
        if not (0 <= x < self.width and 0 <= y < self.height):
            raise StackError(f"the picture has no pixel {x}, {y}: choose one inside")
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

    def stroke_at(self, x, y):
        """{"frame": name or None, "share"} of the last stroke that covers a pixel, or None."""
        for stroke in reversed(self.strokes):
            top, bottom, left, right = stroke.box(self.size)
            if not (top <= y < bottom and left <= x < right):
                continue
            if share := float(cover(stroke, y, y + 1, x, x + 1)[0, 0]):
                name = None if stroke.frame is None else self.names[stroke.frame]
                return {"frame": name, "share": round(share, 3)}
        return None

    def mixture_of(self, x, y, engine):
        """[[name, share], ...] of the frames that a pixel is mixed of, the largest first."""
        shares = mixture_at(
            self.frames, engine, x, y, Mixture(self.kept, self.alignment, self.tilt)
        )
        release(self.frames)
        found = [(self.names[k], round(float(shares[k]), 3)) for k in np.argsort(-shares)]
        return [[name, share] for name, share in found if share >= 0.005]

    def paint(self, stroke):
        """Paint one stroke more; returns the box that has changed."""
        with self.lock:
            if self.picture is self.mixture:
                path = self.folder / "retouched.npy"
                shutil.copyfile(self.folder / "fused.npy", path)
                self.picture = np.load(path, mmap_mode="r+")
            self.strokes.append(stroke)
            apply_strokes(self.picture, self.frames, [stroke], None, self.mixture)
            return self._repainted(stroke.box(self.size))

    def undo(self, count=1):
        """Take back the last strokes; returns the boxes that have changed."""
        boxes = []
        with self.lock:
            for _ in range(min(count, len(self.strokes))):
                box = self.strokes.pop().box(self.size)
                top, bottom, left, right = box
                self.picture[top:bottom, left:right] = self.mixture[top:bottom, left:right]
                apply_strokes(self.picture, self.frames, self.strokes, box, self.mixture)
                boxes.append(self._repainted(box))
        return boxes

    def _repainted(self, box):
        """Bring the small copy up to date where the picture has changed."""
        release(self.frames)
        if "fused" in self.small:
            top, left = (box[k] // SMALL for k in (0, 2))
            bottom, right = (-(-box[k] // SMALL) for k in (1, 3))
            part = self.picture[top * SMALL : bottom * SMALL, left * SMALL : right * SMALL]
            if part.size:
                whole = self.small["fused"]
                whole[top:bottom, left:right] = _shrunk(part, (right - left, bottom - top))
        return box

    def relief(self):
        """The surface for the page, as bytes.

        The length of what comes before the JPEG of the texture, uint32; then width, height and the
        heights, 65535 the nearest, uint16; all little-endian.
        """
        shrinks = max(self.size) >= SMALL * RELIEF_SIDE
        plane = self.small_copy if shrinks else lambda layer: np.asarray(self.plane(layer))
        focus, picture = plane("focus"), plane("fused")
        sure = np.float32(1)
        if self.confidence is not None:
            sure = certainty(plane("confidence"), len(self.kept))
        profile = self.metadata.profile
        _, heights = surface(focus, picture, sure, self.first_is_near, RELIEF_SIDE, profile)
        side = TEXTURE_SIDE
        whole = self.picture if max(self.size) <= side else picture
        levels = np.round(65535 * heights).astype("<u2").tobytes()
        data = np.array(heights.shape[::-1], "<u2").tobytes() + levels
        return len(data).to_bytes(4, "little") + data + _jpeg(reduced(whole, side, profile))

    def write(self, path, bits, crop):
        """Write the picture as it is retouched.

        Args:
            path: its suffix is the format; bits: 8 or 16; crop: to what all frames cover.
        """
        with self.lock:
            picture = np.array(self.picture)
        if crop and self.area:
            top, bottom, left, right = self.area
            picture = picture[top:bottom, left:right]
        picture = picture if bits == 16 else to_8_bits(picture)
        write_picture(path, picture, self.metadata)

    def write_other(self, what, folder, name):
        """Write a file besides the picture into a folder.

        Args:
            what: "focus", "confidence", "alignment", "strokes" or "slabs".
        Returns:
            Its path.
        Raises:
            StackError: there is none.
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
            shutil.copyfile(self.folder / "alignment.json", path)
        elif what == "slabs" and (slabs := sorted((self.folder / "slabs").glob("*.tif"))):
            path = path.with_name(f"{path.name}.zip")
            with zipfile.ZipFile(path, "w") as archive:  # what is in it is compressed already
                for slab in slabs:
                    archive.write(slab, slab.name)
        else:
            raise StackError(f"there is no {what} of this result: fuse with that option")
        return path


def carry_strokes(old, new):
    """Paint the strokes of a Result (or None) into another one; what does not fit it waits."""
    if old is None:
        return
    painted = [(old.size, record_of(stroke, old.names)) for stroke in old.strokes]
    for size, record in [*old.waiting, *painted]:
        if size == new.size and record["frame"] in (None, *new.names):
            new.paint(stroke_of(record, new.names))
        else:
            new.waiting.append((size, record))


def told_of(waiting):
    """Sentences on strokes that wait, as Result has them; none where none do."""
    names = sorted({record["frame"] or "the eraser" for _, record in waiting}, key=natural_key)
    if not waiting:
        return []
    return [
        f"not painted: strokes of {', '.join(names)}, which take no part or had another size; they "
        "come back when these are fused again"
    ]


def _shrunk(plane, size):
    """(H, W) or (H, W, C) as a mean over areas, `size` = (w, h) px."""
    plane = np.asarray(plane)
    small = cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
    return small.reshape(*small.shape[:2], *plane.shape[2:])  # OpenCV drops an axis of one


def _jpeg(picture):
    """(h, w, 3) uint8 RGB as JPEG with full chroma."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    settings += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), settings)[1].tobytes()


class Prober:
    """Tells what a pixel is mixed of; its engine is loaded when the first one asks.

    Args:
        model_path, device: as of engines.choose_engine.
    """

    def __init__(self, model_path, device):
        self.wanted = model_path, device
        self.engine = None
        self.lock = threading.Lock()

    def mixture(self, result, x, y):
        """As Result.mixture_of; None where the network gives no weights."""
        with self.lock:
            if self.engine is None:
                self.engine = choose_engine(*self.wanted)
            if self.engine.output != "weights":
                return None
            return result.mixture_of(x, y, self.engine)
