"""A picture that has been read from a file, and how it is turned upright."""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from stackmff.images.metadata import Metadata

CMYK_NOTE = "CMYK was converted to RGB"


@dataclass(frozen=True)
class Decoded:
    """A picture file that has been read.

    Attributes:
        picture: (H, W, C) uint8 or uint16, C as in images/formats.py.
        metadata: Metadata of the file, not yet corrected: see metadata.metadata_for.
        orientation: the file's EXIF orientation, 1 (upright) to 8.
        note: what was changed in the picture besides turning it upright, in a few words, or None.
    """

    picture: np.ndarray
    metadata: Metadata
    orientation: int = 1
    note: str | None = None


class Embedded(Protocol):
    """A picture inside another file: a page of a TIFF, a frame of a video, a member of a tar."""

    def decode(self, orientation: int | None = None, lenient: bool = False) -> Decoded:
        """Arguments, result and errors as of formats.decode."""
        ...


def in_full_range(picture: np.ndarray, bits: int) -> np.ndarray:
    """Samples of `bits` bits in uint16, such as 10 or 12, scaled to all 16, rounded."""
    if bits == 16:
        return picture
    peak = 2**bits - 1
    return ((picture * np.uint32(65535) + peak // 2) // peak).astype(np.uint16)


def upright(decoded: Decoded, orientation: int | None = None) -> Decoded:
    """Turn and mirror a picture as its EXIF orientation says.

    Args:
        decoded: as it is stored in the file.
        orientation: 1 to 8, used in place of the file's own; other values count as 1.
    """
    orientation = decoded.orientation if orientation is None else orientation
    picture = decoded.picture
    if orientation in (5, 6, 7, 8):
        picture = picture.transpose(1, 0, 2)  # (W, H, C)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return replace(decoded, picture=np.ascontiguousarray(picture))
