"""images/damage.py: zeros in place of a sector are found where a format has no check sums."""

import io
import struct

import numpy as np
import pytest
import tifffile
from drawn import saved, texture
from PIL import Image

from stackmff.errors import StackError
from stackmff.images.damage import damage_in_bmp, damage_in_heif, damage_in_webp
from stackmff.images.formats import decode

SECTOR = 512
PICTURE = np.asarray(Image.fromarray(texture(480, 640, 0)))


def without_sector(data, rng, first=0):
    at = SECTOR * int(rng.integers(first // SECTOR + 1, len(data) // SECTOR))
    return data[:at] + bytes(SECTOR) + data[at + SECTOR :]


@pytest.mark.parametrize("options", [{"quality": 50}, {"quality": 95}, {"lossless": True}], ids=str)
def test_sectors_of_webp(options):
    data, rng = saved(PICTURE, "WEBP", **options), np.random.default_rng(0)
    assert damage_in_webp(data) is None
    found = [damage_in_webp(without_sector(data, rng)) is not None for _ in range(100)]
    assert np.mean(found) >= 0.95


@pytest.mark.slow
def test_black_areas_are_not_damage():
    """VP8 codes them by thousands of zeros; these begin and end as it happens."""
    found = []
    for rows in range(200, 400, 20):
        half = np.asarray(Image.fromarray(PICTURE).resize((1600, 1200))).copy()
        half[rows : rows + 600] = 0
        found.append(damage_in_webp(saved(half, "WEBP", quality=80)))
    assert found.count(None) >= 9
    flat = np.full((3000, 4000, 3), 7, np.uint8)
    assert damage_in_webp(saved(flat, "WEBP", lossless=True)) is None


def heif_of(units, kind=b"hvc1"):
    """The boxes of a HEIC around units of HEVC with their lengths."""

    def box(name, content):
        return struct.pack(">I4s", 8 + len(content), name) + content

    item = b"".join(struct.pack(">I", len(unit)) + unit for unit in units)
    ftyp = box(b"ftyp", b"heic" + bytes(4) + b"mif1heic")
    infe = box(b"infe", b"\2\0\0\0" + struct.pack(">HH", 7, 0) + kind + b"\0")
    iinf = box(b"iinf", bytes(4) + struct.pack(">H", 1) + infe)

    def meta(offset):
        extent = struct.pack(">HHHHII", 1, 7, 0, 1, offset, len(item))
        return box(b"meta", bytes(4) + iinf + box(b"iloc", bytes(4) + b"\x44\x00" + extent))

    start = len(ftyp) + len(meta(0)) + 8
    return ftyp + meta(start) + box(b"mdat", item), start


def noise(length, seed=0):
    """Bytes as HEVC has them, without three zeros in a row."""
    return np.random.default_rng(seed).integers(1, 256, length, np.uint8).tobytes()


def test_sectors_and_tails_of_hevc():
    data, start = heif_of([noise(200), noise(9000, 1), noise(20000, 2) + b"\0\0\3\0"])
    assert damage_in_heif(data) is None
    rng = np.random.default_rng(0)
    for _ in range(100):
        assert damage_in_heif(without_sector(data, rng, start)) is not None
        at = int(rng.integers(start, len(data) - 100))
        assert damage_in_heif(data[:at] + bytes(len(data) - at)) is not None
    other, start = heif_of([noise(30000)], b"av01")
    assert damage_in_heif(other) is None
    assert damage_in_heif(without_sector(other, rng, start)) is not None


def test_of_any_bytes_nothing_is_raised():
    data, _ = heif_of([noise(200), noise(900, 1)])
    rng = np.random.default_rng(0)
    for _ in range(500):
        changed = bytearray(data[: rng.integers(1, len(data))])
        changed[rng.integers(0, len(changed))] = rng.integers(0, 256)
        damage_in_heif(bytes(changed))
        damage_in_webp(b"RIFF" + bytes(changed))


def test_a_heic_of_the_library():
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(PICTURE)).save(buffer, quality=80)
    data, rng = buffer.getvalue(), np.random.default_rng(0)
    assert damage_in_heif(data) is None
    found = [damage_in_heif(without_sector(data, rng, 1024)) is not None for _ in range(100)]
    assert np.mean(found) >= 0.95


@pytest.mark.parametrize("tile", [None, (128, 128)], ids=str)
def test_jpeg_inside_tiff(tmp_path, tile):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, PICTURE, photometric="rgb", compression="jpeg", tile=tile)
    if tile is None:  # strips that share their tables
        Image.fromarray(PICTURE).save(buffer := io.BytesIO(), "TIFF", compression="jpeg")
    data, rng, found = buffer.getvalue(), np.random.default_rng(0), []
    (tmp_path / "a.tif").write_bytes(data)
    assert decode(tmp_path / "a.tif").note is None
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        spans = list(zip(page.dataoffsets, page.databytecounts))
    for _ in range(60):
        start, length = spans[rng.integers(len(spans))]
        at = start + 800 + int(rng.integers(0, max(length - 1400, 1)))
        changed = bytearray(data)
        changed[at : at + SECTOR] = bytes(SECTOR)
        (tmp_path / "a.tif").write_bytes(changed)
        try:
            decode(tmp_path / "a.tif")
            found.append(False)
        except StackError as error:
            found.append("a.tif" in str(error))
    assert np.mean(found) >= 0.9
    assert "was used as it is" in str(lenient_note(tmp_path / "a.tif"))


def lenient_note(path):
    return decode(path, lenient=True).note


def uncompressed(name, picture):
    """(content, first byte of its samples) of a file without compression."""
    if name == "a.bmp":
        return saved(picture, "BMP"), 54
    options = {"tile": (128, 144)} if name == "tiled.tif" else {"rowsperstrip": 7}
    photometric = "rgb" if picture.ndim == 3 else "minisblack"
    tifffile.imwrite(buffer := io.BytesIO(), picture, photometric=photometric, **options)
    data = buffer.getvalue()
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return data, file.pages[0].dataoffsets[0]


@pytest.mark.parametrize("name", ["a.bmp", "a.tif", "deep.tif", "tiled.tif"])
def test_sectors_of_uncompressed_samples(tmp_path, name):
    picture = PICTURE[:256, :288]  # whole tiles
    picture = np.uint16(picture[..., 0]) * 257 if name == "deep.tif" else picture
    (data, start), rng, found = uncompressed(name, picture), np.random.default_rng(0), []
    (tmp_path / name).write_bytes(data)
    assert decode(tmp_path / name).note is None
    for _ in range(60):
        (tmp_path / name).write_bytes(without_sector(data[: len(data) - 2000], rng, start + 2000))
        damaged = (tmp_path / name).read_bytes() + data[len(data) - 2000 :]
        (tmp_path / name).write_bytes(damaged)
        try:
            found.append(decode(tmp_path / name).note is not None)
        except StackError as error:
            found.append(f"{name} is damaged (zeros in it" in str(error))
    assert np.mean(found) >= 0.9
    assert "was used as it is" in str(lenient_note(tmp_path / name))


def test_black_areas_of_uncompressed_samples_are_not_damage():
    """Bars, borders that slant, a dark noisy ground, and rows of whole sectors."""
    rng = np.random.default_rng(0)
    columns = np.arange(1200)
    for k in range(12):
        picture = np.tile(np.asarray(Image.fromarray(PICTURE[..., 0])), (2, 2))[:800, :1200].copy()
        picture[100 + k : 300, 5 * k : 700] = 0
        picture[np.arange(800)[:, None] + columns // 3 + k > 900] = 0
        picture[400:] *= rng.random((400, 1200)) < 0.003
        for one in (picture, picture[:, :1024]):
            assert damage_in_bmp(saved(np.ascontiguousarray(one), "BMP")) is None


@pytest.mark.parametrize("compression", ["lzw", "packbits", "zstd"])
def test_sectors_of_codes_without_repetitions(tmp_path, compression):
    options = {"compression": compression, "photometric": "rgb", "rowsperstrip": 40}
    tifffile.imwrite(buffer := io.BytesIO(), PICTURE[:200, :270], **options)
    data, rng, path = buffer.getvalue(), np.random.default_rng(0), tmp_path / "a.tif"
    for _ in range(20):
        path.write_bytes(without_sector(data, rng, 1500))
        with pytest.raises(StackError, match="damaged"):
            decode(path)
    black = np.zeros((300, 400, 3), np.uint8)
    black[100:, 37] = 3
    tifffile.imwrite(path, black, **options)
    assert decode(path).note is None


def test_lost_and_doubled_bytes_of_a_bmp(tmp_path):
    data = saved(PICTURE[:48, :63], "BMP")
    assert damage_in_bmp(data) is None
    assert damage_in_bmp(data[:2] + bytes(4) + data[6:]) is None  # a header that tells no length
    longer = data[:2] + (len(data) + 9).to_bytes(4, "little") + data[6:] + b"behind it"
    assert damage_in_bmp(longer) is None
    path = tmp_path / "a.bmp"
    path.write_bytes(data[:1000] + data[1000:1020] + data[1000:])
    with pytest.raises(StackError, match=r"a\.bmp is damaged .it has .* bytes, and its header"):
        decode(path)
    assert "damaged" in decode(path, lenient=True).note
