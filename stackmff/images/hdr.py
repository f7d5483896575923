"""High dynamic range: PQ and HLG pictures to sRGB, by one rule.

Light is scaled so that the reference white of ITU-R BT.2408, 203 cd/m2, becomes 80 % of white, and
what is darker is kept in proportion. What is brighter is compressed, so that PEAK becomes white.
"""

import struct
from collections.abc import Iterator

import numpy as np

from stackmff.images.boxes import boxes
from stackmff.images.colour import to_srgb

PQ, HLG = 16, 18  # transfer characteristics of ITU-T H.273
TRANSFERS = {PQ: "PQ", HLG: "HLG"}
BT2020 = 9  # colour primaries
REFERENCE, PEAK = 203.0, 1000.0  # cd/m2
AT_REFERENCE = 0.8  # of white, linear
STRIP = 128  # rows at a time
# Linear BT.2020 to BT.709, ITU-R BT.2087.
TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    np.float32,
)


def coding_of(data: bytes) -> tuple[int, int] | None:
    """(primaries, transfer) of ITU-T H.273 that a HEIC or AVIF declares; None if it does not."""
    for box, start, end in _properties(data):
        if box == b"colr" and data[start : start + 4] == b"nclx":
            primaries, transfer = struct.unpack_from(">HH", data[:end], start + 4)
            return primaries, transfer
    return None


def bits_of(data: bytes) -> int | None:
    """Bits of the samples that a HEIC or AVIF declares; None if it does not."""
    for box, start, end in _properties(data):
        if box == b"pixi" and end - start >= 6:
            return data[start + 5]
    return None


def _properties(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start of its content, end) of the properties of the pictures in a HEIC or AVIF.

    Raises:
        ValueError, struct.error: its boxes cannot be read.
    """
    for box, start, end in boxes(data, 0, len(data)):
        if box == b"meta":
            for inner, first, last in boxes(data, start + 4, end):
                if inner == b"iprp":
                    for part, one, other in boxes(data, first, last):
                        if part == b"ipco":
                            yield from boxes(data, one, other)


def tone_mapped(picture: np.ndarray, primaries: int, transfer: int) -> np.ndarray:
    """A picture of high dynamic range as sRGB.

    Args:
        picture: (H, W, C) uint8 or uint16 of the full range, C = 3, or 4 with alpha.
        primaries, transfer: of ITU-T H.273; transfer is PQ or HLG.
    Returns:
        (H, W, C) uint16.
    Source: SMPTE ST 2084 (PQ), ITU-R BT.2100 (HLG, with its system gamma of 1.2 at 1000 cd/m2).
    """
    white = np.float32(np.iinfo(picture.dtype).max)
    out = np.empty(picture.shape, np.uint16)
    for top in range(0, len(picture), STRIP):
        rows = picture[top : top + STRIP]
        coded = rows[..., :3] / white
        light = _of_pq(coded) if transfer == PQ else _of_hlg(coded)
        if primaries == BT2020:
            light = np.maximum(light @ TO_BT709.T, 0)
        out[top : top + STRIP, :, :3] = np.rint(to_srgb(_shoulder(light)) * 65535)
        if picture.shape[2] == 4:
            out[top : top + STRIP, :, 3] = np.rint(rows[..., 3] / white * 65535)
    return out


def _of_pq(coded: np.ndarray) -> np.ndarray:
    """PQ codes in [0, 1] to light in cd/m2."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = np.power(coded, 1 / m2)
    light: np.ndarray = 10000 * np.power(np.maximum(root - c1, 0) / (c2 - c3 * root), 1 / m1)
    return light


def _of_hlg(coded: np.ndarray) -> np.ndarray:
    """HLG codes in [0, 1] to light of a display in cd/m2."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(coded <= 0.5, coded**2 / 3, (np.exp((coded - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
    light: np.ndarray = PEAK * np.power(np.maximum(luminance, 1e-9), 0.2)[..., None] * scene
    return light


def _shoulder(light: np.ndarray) -> np.ndarray:
    """Light in cd/m2 to linear values in [0, 1], monotonic and continuous."""
    values = light * (AT_REFERENCE / REFERENCE)
    room, most = 1 - AT_REFERENCE, AT_REFERENCE * (PEAK / REFERENCE - 1)
    over = np.clip(values - AT_REFERENCE, 0, most)
    # A quadratic that is flat at the peak.
    bent = room * (2 * over / most - (over / most) ** 2)
    return np.where(values <= AT_REFERENCE, values, AT_REFERENCE + bent)
