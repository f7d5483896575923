"""Tiles of what the page shows: how they are encoded, stamped, and kept small for distant views."""

import itertools
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable

import cv2
import numpy as np

MOST_COPIES = 200e6  # bytes of small copies of all results; about 5 MB each for 24 megapixels
QUALITY = 92  # of JPEG
OVERLAY_QUALITY = 80  # of WebP

Layer = str | int


class CopyCache:
    """Small copies of layers, of all results together.

    Args:
        most_bytes: beyond it, those that were used least recently are forgotten.
    """

    def __init__(self, most_bytes: float) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self.copies: OrderedDict[tuple[str, Layer], np.ndarray] = OrderedDict()
        self.making: dict[tuple[str, Layer], threading.Lock] = {}
        self.lock = threading.Lock()

    def get(self, owner: str, layer: Layer) -> np.ndarray | None:
        """The copy of a layer of a result, or None."""
        with self.lock:
            found = self.copies.get((owner, layer))
            if found is not None:
                self.copies.move_to_end((owner, layer))
            return found

    def made(self, owner: str, layer: Layer, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The copy of a layer, made where there is none: once, however many ask at a time.

        The first tiles of a result are asked for all at once; each copy reads the whole picture.
        """
        with self.lock:
            gate = self.making.setdefault((owner, layer), threading.Lock())
        with gate:
            try:
                copy = self.get(owner, layer)
                if copy is None:
                    copy = make()
                    self.put(owner, layer, copy)
                return copy
            finally:
                with self.lock:
                    self.making.pop((owner, layer), None)

    def put(self, owner: str, layer: Layer, copy: np.ndarray) -> None:
        """Keep a copy."""
        with self.lock:
            before = self.copies.pop((owner, layer), None)
            self.bytes += copy.nbytes - (0 if before is None else before.nbytes)
            self.copies[owner, layer] = copy
            while self.bytes > self.most_bytes and len(self.copies) > 1:
                _, gone = self.copies.popitem(last=False)
                self.bytes -= gone.nbytes


COPIES = CopyCache(MOST_COPIES)


class Stamps:
    """The stamp of a painted picture, which no two pictures share.

    Browsers keep tiles by their address, which has it: whether strokes were undone or the server
    was restarted, what they kept must not be shown for another picture.
    """

    def __init__(self) -> None:
        self.boot, self.counter = secrets.token_hex(4), itertools.count()
        self.now = ""
        self.change()

    def change(self) -> None:
        """Another picture is there."""
        self.now = f"{self.boot}-{next(self.counter)}"


def shrunk(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Reduce (H, W) or (H, W, C) to `size` = (w, h) px by averaging areas."""
    plane = np.asarray(plane)
    small = cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
    return small.reshape(*small.shape[:2], *plane.shape[2:])  # OpenCV drops an axis of length 1


def jpeg(picture: np.ndarray) -> bytes:
    """(h, w, 3) uint8 RGB as JPEG without chroma subsampling."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    settings += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, settings)
    return bytes(data)


def webp(picture: np.ndarray) -> bytes:
    """(h, w, 4) uint8 RGBA as WebP."""
    bgra = cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA)
    return bytes(cv2.imencode(".webp", bgra, [cv2.IMWRITE_WEBP_QUALITY, OVERLAY_QUALITY])[1])
