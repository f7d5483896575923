"""Ways to damage files at random: bytes, JSON, JSON lines, the directory of a TIFF."""

import contextlib
import copy
import json
import struct

import numpy as np

SECTOR = 512
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
ODD_VALUES = (
    *(None, True, False, 0, -1, 1e308, float("inf"), float("nan"), 2**70, "", "x" * 300, "\udcff"),
    *([], {}, [[]], [None], [1e400], {"a": []}, "../../etc/passwd", "\0"),
)


def damaged_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Content with bytes flipped, overwritten, removed, doubled, or zeroed, or with its end cut."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, len(out)))
        if rng.random() < 0.4:  # most of what a reader decides is at the start
            at = int(rng.integers(0, min(len(out), 400)))
        way = int(rng.integers(0, 8))
        length = int(rng.integers(1, 64))
        if way == 0:
            out[at] ^= 1 << int(rng.integers(0, 8))
        elif way == 1:
            out[at] = int(rng.integers(0, 256))
        elif way == 2:
            number = NUMBERS[int(rng.integers(0, len(NUMBERS)))]
            form = ("<I", ">I", "<H", ">H")[int(rng.integers(0, 4))]
            word = struct.pack(form, number & (0xFFFF if form[1] == "H" else 0xFFFFFFFF))
            out[at : at + len(word)] = word
        elif way == 3:
            at -= at % SECTOR
            out[at : at + SECTOR] = bytes(len(out[at : at + SECTOR]))
        elif way == 4:
            del out[at : at + length]
        elif way == 5:
            out[at:at] = out[at : at + length]
        elif way == 6:
            out[at : at + length] = rng.integers(
                0, 256, len(out[at : at + length]), np.uint8
            ).tobytes()
        else:
            del out[max(at, 1) :]
        if not out:
            out = bytearray(data[:1])
    return bytes(out)


def damaged_json(data: bytes, rng: np.random.Generator) -> bytes:
    """JSON with a value of another type or range, a part missing, or its bytes damaged."""
    if rng.random() < 0.3:
        return damaged_bytes(data, rng)
    value = json.loads(data)
    if rng.random() < 0.03:
        return b"[" * 100000
    places = list(_places(value))
    for _ in range(int(rng.integers(1, 3))):
        holder, key = places[int(rng.integers(0, len(places)))]
        with contextlib.suppress(KeyError, IndexError):
            if rng.random() < 0.15:
                del holder[key]
            else:
                holder[key] = copy.deepcopy(ODD_VALUES[int(rng.integers(0, len(ODD_VALUES)))])
    return json.dumps(value).encode()


def _places(value):
    """(list or dict, index or key) of everything in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in list(inner):
        yield value, key
        if isinstance(one, dict | list):
            yield from _places(one)


def damaged_lines(data: bytes, rng: np.random.Generator) -> bytes:
    """JSON lines, one of them damaged."""
    lines = data.splitlines()
    k = int(rng.integers(0, len(lines)))
    lines[k] = damaged_json(lines[k], rng)
    return b"\n".join(lines)


def damaged_directory(data: bytes, rng: np.random.Generator) -> bytes:
    """A TIFF, one to three of whose tags have another number, type, count or value."""
    out = bytearray(data)
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    for _ in range(int(rng.integers(1, 4))):
        at = start + 2 + 12 * int(rng.integers(0, count))
        part = int(rng.integers(0, 4))
        number = (
            int(rng.integers(0, 70000)) if rng.random() < 0.5 else NUMBERS[int(rng.integers(10))]
        )
        if part < 2:
            kinds = (number & 0xFFFF, int(rng.integers(0, 20)))
            struct.pack_into(f"{order}H", out, at + 2 * part, kinds[part])
        else:
            struct.pack_into(f"{order}I", out, at + 4 * (part - 1), number)
    return bytes(out)
