"""Whether the data of a WebP, HEIC, AVIF, BMP, TIFF or video are damaged, as by a lost sector.

These formats have no check sums, and their decoders make a picture of whatever they are given. But
what a disk or card gives in place of a lost sector, zeros, does not look like their data.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stackmff.errors import StackError
from stackmff.images.boxes import boxes

ZEROED = "zeros in its compressed data, as of a sector that was lost"
SECTOR = 512  # bytes
NEAR = 2  # bytes beside a lost sector that may be zero by chance
ZEROS = bytes(SECTOR)
BESIDE = 48  # bytes beside and above a lost sector that show a picture: a quarter is zero at most
CODED = (b"VP8 ", b"VP8L", b"ALPH")  # chunks of WebP


def refused_or_told(path: object, damage: str | None, lenient: bool) -> str | None:
    """A note on what is damaged in a file; None if nothing is.

    Args:
        path: of the file.
        damage: in a few words, or None.
        lenient: take it as it is.
    Raises:
        StackError: it is damaged, and not lenient.
    """
    if damage is None:
        return None
    if not lenient:
        raise StackError(
            f"{path} is damaged ({damage}): copy it again, or accept it as it is with --lenient of "
            "predict.py and predict_dataset.py"
        )
    return f"it is damaged ({damage}) and was used as it is"


def lost_sector(data: bytes, start: int, end: int) -> str | None:
    """What is damaged in a part of a file of arithmetic codes, in a few words; None: nothing.

    Black areas may be coded by zeros too. Zeros in place of a sector begin and end as sectors do,
    or there are as many as in one; by chance that is so for one area in a hundred.

    Args:
        data: the content of the file.
        start, end: of the part.
    """
    last = start
    while (first := data.find(ZEROS, last, end)) >= 0:
        last = end - len(data[first:end].lstrip(b"\0"))
        begins = -first % SECTOR <= NEAR
        ends = last % SECTOR <= NEAR or last >= end - NEAR
        if (begins and ends) or last - first <= SECTOR + NEAR:
            return ZEROED
    return None


def lost_sector_in_samples(data: bytes | memoryview, offset: int, stride: int) -> str | None:
    """What is damaged in uncompressed samples, in a few words; None: nothing was found.

    Black areas are zeros as well. A lost sector begins and ends where sectors do, and the bytes
    before, behind, above and below it are hardly black, as they are beside black areas. Where all
    rows begin at one place in their sectors, a drawn bar may look like that: nothing is told.

    Args:
        data: the samples, row by row.
        offset: of the first byte, in the file.
        stride: bytes in a row.
    """
    skipped = -offset % SECTOR
    whole = max(len(data) - skipped, 0) // SECTOR
    if stride % SECTOR == 0 or whole == 0:
        return None
    content = np.frombuffer(data, np.uint8)
    firsts, ends = (at + skipped for at in _blank(content[skipped:][: whole * SECTOR]))
    around = (firsts - BESIDE, ends, firsts - stride, ends + stride - BESIDE)
    inside = np.all([(at >= 0) & (at <= len(data) - BESIDE) for at in around], 0)
    for at in around:
        starts = at[inside, None] + np.arange(BESIDE)
        inside[inside] = (content[starts] == 0).mean(1) <= 1 / 4
    return "zeros in it, as of a sector that was lost" if inside.any() else None


def _blank(content: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first bytes of the runs of sectors that are zeros, and the bytes behind them.

    Args:
        content: (n * SECTOR,) uint8, n >= 1.
    """
    words = content.view(np.uint64).reshape(-1, SECTOR // 8)
    # Most sectors of a picture have something in their first bytes.
    blank = np.flatnonzero(words[:, 0] == 0)
    blank = blank[~words[blank].any(1)]
    firsts = blank[np.diff(blank, prepend=-2) > 1]
    ends = blank[np.diff(blank, append=len(words) + 1) > 1] + 1
    return firsts * SECTOR, ends * SECTOR


def lost_sector_in_film(path: str | Path) -> bool:
    """Whether a video has zeros that begin and end exactly where sectors do.

    Its codes have no such runs; sound that is silent, and what fills up a file, have some, which
    begin and end as it happens.
    """
    size = os.path.getsize(path)
    if size <= 2 * SECTOR:
        return False
    content = np.memmap(path, np.uint8, "r")
    firsts, ends = _blank(content[: size // SECTOR * SECTOR])
    inside = (firsts > 0) & (ends < size)
    firsts, ends = firsts[inside], ends[inside]
    return bool(((content[firsts - 1] != 0) & (content[ends] != 0)).any())


def lost_sector_in_codes(data: bytes, run: int) -> str | None:
    """What is damaged in codes that repetitions are taken out of, in a few words; None: nothing.

    Args:
        data: a strip or tile as the file has it.
        run: so many zeros in a row are never written.
    """
    return ZEROED if bytes(run) in data else None


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
        if kind in CODED and (damage := lost_sector(data, place + 8, end)):
            return damage
        place = end + length % 2
    return None


def damage_in_bmp(data: bytes) -> str | None:
    """What is damaged in a BMP, in a few words; None if nothing was found.

    The length that its header tells is not always right; neither is that of an uncompressed
    picture where something follows it. Bytes that are lost or doubled contradict both. Zeros in
    place of a sector change no length.

    Args:
        data: the content of the file.
    """
    if len(data) < 34 or struct.unpack_from("<I", data, 14)[0] < 40:
        return None
    declared, _, start = struct.unpack_from("<3I", data, 2)
    width, height, _, bits, coding = struct.unpack_from("<iiHHI", data, 18)
    if coding in (1, 2):  # run lengths: the size of the picture does not tell
        return None
    end = start + (width * bits + 31) // 32 * 4 * abs(height)
    if len(data) == declared or 0 <= len(data) - end < 4:
        stride = (width * bits + 31) // 32 * 4
        return lost_sector_in_samples(memoryview(data)[start:end], start, stride)
    return f"it has {len(data)} bytes, and its header declares {max(end, declared)}"


def damage_in_heif(data: bytes) -> str | None:
    """What is damaged in a HEIC or AVIF, in a few words; None if nothing was found.

    In the units of HEVC three zeros in a row are never written (ITU-T H.265, 7.4.2), and the units
    of an item fill it.

    Args:
        data: the content of the file.
    """
    try:
        items = list(_items(data))
    except (ValueError, IndexError, struct.error):
        return None  # the decoder reports that
    for kind, parts in items:
        if kind == b"hvc1":
            damage = _damage_in_units(b"".join(data[start:end] for start, end in parts))
        else:
            found = [lost_sector(data, start, end) for start, end in parts]
            damage = next((one for one in found if one), None)
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
        unit = item[start:place]
        # A few zeros behind the data are allowed.
        if b"\0\0\0" in unit.rstrip(b"\0") or unit.endswith(bytes(SECTOR // 8)):
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
    for kind, start, end in boxes(data, 0, len(data)):
        if kind != b"meta":
            continue
        for inner, first, last in boxes(data, start + 4, end):
            if inner == b"iinf":
                kinds = _kinds(data, first, last)
            elif inner == b"iloc":
                places = _places(data, first)
    for item, parts in places.items():
        if kinds.get(item) in (b"hvc1", b"av01"):
            yield kinds[item], parts


def _kinds(data: bytes, start: int, end: int) -> dict[int, bytes]:
    """{number: kind} of the items that the box iinf describes."""
    first = start + (6 if data[start] == 0 else 8)
    out = {}
    for kind, at, _ in boxes(data, first, end):
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
