"""Whether the compressed data of a WebP, HEIC or AVIF file are damaged, as by a lost sector.

These formats have no check sums, and their decoders make a picture of whatever they are given. But
what a disk or card gives in place of a lost sector, zeros, does not look like their data.
"""

import struct
from collections.abc import Iterator

ZEROED = "zeros in its compressed data, as of a sector that was lost"
ZEROS = bytes(128)  # codes of 1024 zero bits: two pixels in each bit would be one run of either
FEWEST = 2048  # bytes of a plane of a picture; a flat one takes a few hundred, of which any is zero
CODED = (b"VP8 ", b"VP8L", b"ALPH")  # chunks of WebP
DEEPEST = 8  # boxes in boxes of HEIC


def damage_in_webp(data: bytes) -> str | None:
    """What is damaged in a WebP, in a few words; None if nothing was found.

    Args:
        data: the content of the file.
    """
    place = 12
    while place + 8 <= len(data):
        kind, length = (
            data[place : place + 4],
            int.from_bytes(data[place + 4 : place + 8], "little"),
        )
        end = place + 8 + length
        if kind in CODED and length >= FEWEST and data.find(ZEROS, place + 8, end) >= 0:
            return ZEROED
        place = end + length % 2
    return None


def damage_in_heif(data: bytes) -> str | None:
    """What is damaged in a HEIC or AVIF, in a few words; None if nothing was found.

    In the units of HEVC three zeros in a row are never written (ITU-T H.265, 7.4.2), and the units
    of an item fill it.

    Args:
        data: the content of the file.
    """
    for kind, parts in _items(data):
        if kind == b"hvc1":
            damage = _damage_in_units(b"".join(data[start:end] for start, end in parts))
        else:
            found = any(data.find(ZEROS, start, end) >= 0 for start, end in parts)
            damage = ZEROED if found and sum(b - a for a, b in parts) >= FEWEST else None
        if damage is not None:
            return damage
    return None


def _damage_in_units(item: bytes) -> str | None:
    """What is damaged in an item of HEVC, which is units with their lengths of four bytes."""
    place = 0
    while place + 4 <= len(item):
        length = int.from_bytes(item[place : place + 4], "big")
        start, place = place + 4, place + 4 + length
        if length == 0 or place > len(item):
            return "the lengths of its compressed data contradict one another"
        # Zeros behind the data are allowed.
        if b"\0\0\0" in item[start:place].rstrip(b"\0"):
            return ZEROED
        if item[start:place].endswith(ZEROS):
            return ZEROED
    return None


def _items(data: bytes) -> Iterator[tuple[bytes, list[tuple[int, int]]]]:
    """(kind, its parts in the file as (start, end)) of the coded pictures in a HEIC or AVIF.

    Raises:
        ValueError, struct.error: its boxes cannot be read.

    Source: ISO/IEC 14496-12, 8.11.
    """
    kinds: dict[int, bytes] = {}
    places: dict[int, list[tuple[int, int]]] = {}
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind != b"meta":
            continue
        for inner, first, last in _boxes(data, start + 4, end):
            if inner == b"iinf":
                kinds = _kinds(data, first, last)
            elif inner == b"iloc":
                places = _places(data, first)
    for item, parts in places.items():
        if kinds.get(item) in (b"hvc1", b"av01"):
            yield kinds[item], parts


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start of its content, end) of the boxes in a part of a file."""
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


def _kinds(data: bytes, start: int, end: int) -> dict[int, bytes]:
    """{number: kind} of the items that the box iinf describes."""
    first = start + (6 if data[start] == 0 else 8)
    out = {}
    for kind, at, _ in _boxes(data, first, end):
        if kind == b"infe" and data[at] >= 2:
            wide = data[at] > 2
            item = int.from_bytes(data[at + 4 : at + (8 if wide else 6)], "big")
            out[item] = data[at + (10 if wide else 8) : at + (14 if wide else 12)]
    return out


def _places(data: bytes, start: int) -> dict[int, list[tuple[int, int]]]:
    """{number: its parts} of the items that lie in the file, by the box iloc."""
    version = data[start]
    sizes, more = data[start + 4], data[start + 5]
    offset_size, length_size, base_size = sizes >> 4, sizes & 15, more >> 4
    index_size = more & 15 if version else 0
    at = start + 6

    def number(size: int) -> int:
        nonlocal at
        at += size
        if at > len(data):
            raise ValueError("a box is cut short")
        return int.from_bytes(data[at - size : at], "big")

    out = {}
    for _ in range(number(4 if version == 2 else 2)):
        item = number(4 if version == 2 else 2)
        method = number(2) & 15 if version else 0
        number(2)
        base, parts = number(base_size), []
        for _ in range(number(2)):
            number(index_size)
            place, length = base + number(offset_size), number(length_size)
            parts.append((place, place + length if length else len(data)))
        if method == 0:  # in the file itself
            out[item] = parts
    return out
