"""Whether the compressed data of a JPEG are damaged.

Every decoder goes on after damage and fills in what it makes of it: a lost sector of a disk or card
shifts and recolours the rest of the picture. libjpeg only warns, and of zeros it often does not.
"""

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

JPEG_START = b"\xff\xd8\xff"
ZEROS = bytes(64)  # 512 zero bits, more than two blocks even of the shortest codes of coefficients
SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1), 0xC2  # frames of Huffman codes
TABLES, START_OF_SCAN, END, QUANTISATION = 0xC4, 0xDA, 0xD9, 0xDB  # other markers
# The place, row after row, of each step of a table as it is stored (ITU-T T.81, figure A.6).
ZIGZAG = sorted(
    range(64), key=lambda k: (sum(divmod(k, 8)), k // 8 if sum(divmod(k, 8)) % 2 else k % 8)
)
FARTHEST, NEARBY = 3, 8  # times a step of quantisation, and beyond that, it is beside no other
MARKER = re.compile(rb"\xff+([^\x00\xff])")
RESTART, LAST_RESTART = 0xD0, 0xD7
END_OF_BLOCKS = range(0x00, 0xF0, 0x10)  # symbols: the rest of one block, or of 2^k, is zero
# What simplejpeg converts each colour space to, the cheapest that it can.
STRICT = {"YCbCr": "GRAY", "Gray": "GRAY", "RGB": "GRAY", "CMYK": "CMYK", "YCCK": "CMYK"}


@dataclass(frozen=True)
class Scan:
    """A scan of a JPEG: some of its components, and of a progressive one some of their bits.

    Attributes:
        start, end: of its compressed data, bytes of the file.
        restarts: the numbers of its restart markers, which count from 0 to 7 again and again.
        frame: marker of the kind of JPEG.
        first: the first coefficient, 0 for DC.
        refines: whether it adds a bit to coefficients of earlier scans.
        symbols: for each component (DC, AC): the symbols whose codes are all zeros; None where the
            file has no such table.
    """

    start: int
    end: int
    restarts: np.ndarray
    frame: int
    first: int
    refines: bool
    symbols: list[tuple[int | None, int | None]] = field(default_factory=list)

    def may_be_zeros(self) -> bool:
        """Whether long runs of zeros can come from a flat area."""
        if self.frame in SEQUENTIAL:  # no change of DC, then the end of the block
            return all(dc in (0, None) and ac in (0, None) for dc, ac in self.symbols)
        if self.frame != PROGRESSIVE or self.refines:
            return True
        if self.first == 0:
            return all(dc in (0, None) for dc, _ in self.symbols)
        return all(ac is None or ac in END_OF_BLOCKS for _, ac in self.symbols)


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start of the content, end) of the segments of a JPEG before its first scan."""
    place = 2
    while (match := MARKER.match(data, place)) and match[1][0] not in (START_OF_SCAN, END):
        start = match.end()
        place = start + int.from_bytes(data[start : start + 2], "big")
        yield match[1][0], start + 2, place


def damage_in(data: bytes) -> str | None:
    """What is damaged in a JPEG, in a few words; None if nothing was found.

    With simplejpeg installed, what libjpeg warns of counts as well.

    Args:
        data: the content of the file.
    """
    if _has_odd_steps(data):
        return "steps of its quantisation that differ from all those beside them"
    for scan in _scans(data):
        if data.find(ZEROS, scan.start, scan.end) >= 0 and not scan.may_be_zeros():
            return "zeros in its compressed data, as of a sector that was lost"
        if not np.array_equal(scan.restarts, np.arange(len(scan.restarts)) % 8):
            return "restart markers are missing"
    return _warning_of_libjpeg(data)


def _has_odd_steps(data: bytes) -> bool:
    """Whether a table of quantisation has a step that is 0, which none may be, or far from all
    those of the frequencies beside it.

    Of the tables of libjpeg at every quality, of Photoshop's, and of 562 files of cameras and
    programs, the largest difference is a factor of 1.3 and 8. Source: ITU-T T.81, B.2.4.1.
    """
    for marker, place, end in segments(data):
        while marker == QUANTISATION and place + 64 < end:
            kind = np.dtype(">u2" if data[place] >> 4 else np.uint8)
            values = data[place + 1 : place + 1 + 64 * kind.itemsize]
            place += 1 + 64 * kind.itemsize
            if place > end:
                break
            steps = np.full((10, 10), -1, np.int32)  # with an edge
            steps[1:-1, 1:-1].flat[ZIGZAG] = np.frombuffer(values, kind)
            own = steps[1:-1, 1:-1]
            near = [steps[:-2, 1:-1], steps[2:, 1:-1], steps[1:-1, :-2], steps[1:-1, 2:]]
            most = np.maximum.reduce(near)
            least = np.minimum.reduce([np.where(one < 0, most, one) for one in near])
            if (
                (own == 0) | (own > FARTHEST * most + NEARBY) | (least > FARTHEST * own + NEARBY)
            ).any():
                return True
    return False


def _scans(data: bytes) -> Iterator[Scan]:
    """The scans of a JPEG, up to its end or to what cannot be read; the decoder reports that.

    Source: ITU-T T.81, B.2.
    """
    content = np.frombuffer(data, np.uint8)
    marks = np.flatnonzero(content[:-1] == 0xFF)
    follow = content[marks + 1]
    ends = marks[(follow > LAST_RESTART) & (follow < 0xFF) | (follow > 0) & (follow < RESTART)]
    at_restart = (follow >= RESTART) & (follow <= LAST_RESTART)
    restarts, numbers = marks[at_restart], follow[at_restart] - RESTART
    zero_codes: dict[int, int] = {}  # {class and number of a table: the symbol coded by zeros}
    frame, place = 0, 2
    while (match := MARKER.match(data, place)) and match[1][0] != END:
        marker, start = match[1][0], match.end()
        place = start + int.from_bytes(data[start : start + 2], "big")
        segment = data[start + 2 : place]
        if marker == TABLES:
            zero_codes |= _zero_codes(segment)
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC8, 0xCC):
            frame = marker
        elif marker == START_OF_SCAN:
            start, place = place, int(np.append(ends, len(data))[np.searchsorted(ends, place)])
            own = numbers[slice(*np.searchsorted(restarts, (start, place)))]
            scan = _scan(segment, frame, zero_codes, (start, place), own)
            if scan is not None:
                yield scan


def _scan(
    segment: bytes,
    frame: int,
    zero_codes: dict[int, int],
    ends: tuple[int, int],
    restarts: np.ndarray,
) -> Scan | None:
    """The Scan that the header of a scan describes; None if the header is damaged."""
    count = segment[0] if segment else 0
    if len(segment) < 4 + 2 * count:
        return None
    tables = segment[2 : 1 + 2 * count : 2]  # the high half is the DC table, the low one AC
    symbols = [(zero_codes.get(n >> 4), zero_codes.get(0x10 | n & 0xF)) for n in tables]
    first, _, bits = segment[1 + 2 * count : 4 + 2 * count]
    return Scan(*ends, restarts, frame, first, bits >> 4 > 0, symbols)


def _zero_codes(segment: bytes) -> dict[int, int]:
    """{class and number: symbol} of the symbols that tables of Huffman codes code by zeros only."""
    out, place = {}, 0
    while place + 17 < len(segment):
        counts = segment[place + 1 : place + 17]
        out[segment[place]] = segment[place + 17]  # the first of the shortest codes
        place += 17 + sum(counts)
    return out


def _warning_of_libjpeg(data: bytes) -> str | None:
    """What libjpeg warns of, if simplejpeg is installed, which makes it an error."""
    try:
        simplejpeg: Any = importlib.import_module("simplejpeg")
    except ImportError:
        return None
    try:
        colours = simplejpeg.decode_jpeg_header(data)[2]
        if colours in STRICT:
            # The codes are all read; an eighth of the picture is enough to find what is wrong.
            simplejpeg.decode_jpeg(data, STRICT[colours], min_height=1, min_width=1)
    except ValueError as error:
        return str(error).strip()
    return None
