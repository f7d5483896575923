"""PNG: whether a file is whole, and large pictures written strip by strip.

Source: PNG specification, third edition, https://www.w3.org/TR/png-3/.
"""

import struct
import zlib
from collections.abc import Iterator

import numpy as np

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_HEADER = 33  # bytes: the start and the chunk IHDR
PNG_GREY_ALPHA = 4  # colour type, byte 25 of the file
PNG_KINDS = {1: 0, 2: PNG_GREY_ALPHA, 3: 2, 4: 6}  # colour types by the number of channels
METRE = 1  # unit of a resolution
UNSIZED = {2834, 2835}  # 72 per inch
SUB = 1  # filter: each sample less that of the pixel to its left
STRIP = 128  # rows that are converted or written at a time


def png_is_whole(data: bytes) -> bool:
    """Whether the chunks of a PNG are complete up to its end mark."""
    position = len(PNG_START)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        position += 12 + length
        if kind == b"IEND":
            return position <= len(data)
    return False


def png_resolution(data: bytes) -> tuple[int, int] | None:
    """Pixels per metre along x and y that a PNG has; None if it has none, or only their ratio.

    What programs write for want of a size, 72 per inch, counts as none.
    """
    at = data.find(b"pHYs", PNG_HEADER, max(data.find(b"IDAT"), 0))
    if at < 0 or data[at - 4 : at] != b"\0\0\0\x09" or data[at + 12] != METRE:
        return None
    across, down = struct.unpack_from(">II", data, at + 4)
    return (across, down) if across and down and {across, down} - UNSIZED else None


def resolution_chunk(per_metre: tuple[int, int]) -> bytes:
    """The chunk that gives the pixels per metre along x and y."""
    return _chunk(b"pHYs", struct.pack(">IIB", *per_metre, METRE))


def png_by_strips(picture: np.ndarray, chunks: bytes) -> Iterator[bytes]:
    """The parts of a PNG file in their order, compressed as OpenCV does, without a copy of it all.

    Args:
        picture: (H, W, C) uint8 or uint16, C as in images/formats.py.
        chunks: of metadata, which follow the header.
    """
    height, width, channels = picture.shape
    depth = 8 * picture.itemsize
    yield PNG_START
    yield _chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, depth, PNG_KINDS[channels], 0, 0, 0)
    )
    yield chunks
    packer = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    for top in range(0, height, STRIP):
        yield from _data(packer.compress(_filtered(picture[top : top + STRIP])))
    yield from _data(packer.flush())
    yield _chunk(b"IEND", b"")


def _filtered(rows: np.ndarray) -> bytes:
    """Rows (h, W, C) as they are compressed: each begins with its filter."""
    height, width, channels = rows.shape
    samples = rows.astype(rows.dtype.newbyteorder(">")).view(np.uint8)
    samples = samples.reshape(height, width, channels * rows.itemsize)
    out = np.full((height, 1 + samples[0].size), SUB, np.uint8)
    less = out[:, 1:].reshape(samples.shape)
    less[:, 0] = samples[:, 0]
    np.subtract(samples[:, 1:], samples[:, :-1], out=less[:, 1:])
    out[:, 1:] = less.reshape(height, -1)
    return out.tobytes()


def _data(packed: bytes) -> Iterator[bytes]:
    """Compressed data as a chunk; nothing if there are none yet."""
    if packed:
        yield _chunk(b"IDAT", packed)


def _chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk with its length and check sum."""
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
    )
