"""The boxes of which HEIC, AVIF and JPEG XL files are made (ISO/IEC 14496-12, 4.2)."""

import struct
from collections.abc import Iterator


def boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start of its content, end) of the boxes in a part of a file.

    Args:
        data: the content of the file.
        start, end: of the part.
    Raises:
        ValueError, struct.error: a box is damaged.
    """
    while start + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if length == 1:
            (length,), head = struct.unpack_from(">Q", data, start + 8), 16
        elif length == 0:
            length = end - start
        if length < head:
            raise ValueError("a box is shorter than its head")
        yield kind, start + head, min(start + length, end)
        start += length
