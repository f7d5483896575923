"""images/iptc.py and the resolution of PNG: what photographers miss is carried."""

import contextlib
import io
import struct

import numpy as np
import pytest
import tifffile
from drawn import saved
from drawn import waves as drawn
from PIL import Image

from stackmff.errors import StackError
from stackmff.images.formats import decode, write_picture
from stackmff.images.iptc import xmp_of_iptc
from stackmff.images.metadata import Metadata, resolution_of, tiff_tags


def data_set(record, number, value):
    return struct.pack(">BBBH", 0x1C, record, number, len(value)) + value


BLOCK = data_set(1, 90, b"\x1b%G") + b"".join(
    data_set(2, number, value.encode())
    for number, value in ((25, "Käfer"), (25, "a & b"), (80, "Me"), (120, "A beetle"))
)


def with_iptc(data, block=BLOCK):
    """A JPEG with an IPTC block among Photoshop's resources."""
    resource = b"8BIM\x04\x25\0\0" + struct.pack(">I", 3) + b"abc\0"
    resource += b"8BIM\x04\x04\0\0" + struct.pack(">I", len(block)) + block
    content = b"Photoshop 3.0\0" + resource
    return data[:2] + b"\xff\xed" + struct.pack(">H", len(content) + 2) + content + data[2:]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_keywords_reach_every_format_as_xmp(tmp_path, suffix):
    (tmp_path / "a.jpg").write_bytes(with_iptc(saved(drawn(), "JPEG")))
    decoded = decode(tmp_path / "a.jpg")
    write_picture(tmp_path / f"b{suffix}", decoded.picture, decoded.metadata)
    text = decode(tmp_path / f"b{suffix}").metadata.xmp.decode()
    bag = "<rdf:Bag><rdf:li>Käfer</rdf:li><rdf:li>a &amp; b</rdf:li></rdf:Bag>"
    assert f"<dc:subject>{bag}</dc:subject>" in text
    assert "A beetle" in text and "<rdf:Seq><rdf:li>Me</rdf:li></rdf:Seq>" in text


def test_keywords_of_tiff_and_a_packet_of_xmp_first(tmp_path):
    words = struct.unpack(
        f"<{len(BLOCK + bytes(-len(BLOCK) % 4)) // 4}I", BLOCK + bytes(-len(BLOCK) % 4)
    )
    for tag in ((33723, 1, len(BLOCK), BLOCK, True), (33723, 4, len(words), words, True)):
        tifffile.imwrite(
            tmp_path / "a.tif", drawn(), photometric="rgb", extratags=[tag], metadata=None
        )
        assert "Käfer" in decode(tmp_path / "a.tif").metadata.xmp.decode()
    own = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    (tmp_path / "a.jpg").write_bytes(with_iptc(saved(drawn(), "JPEG", xmp=own)))
    assert decode(tmp_path / "a.jpg").metadata.xmp == own


def test_damaged_iptc_is_read_up_to_the_damage(tmp_path):
    assert b"fer" in xmp_of_iptc(BLOCK[:-3])
    for block in (None, b"", b"\x1c", bytes(99), data_set(2, 25, b""), data_set(2, 9, b"x")):
        assert xmp_of_iptc(block) is None
    rng = np.random.default_rng(0)
    data = with_iptc(saved(drawn(), "JPEG"))
    for _ in range(100):
        changed = bytearray(data)
        changed[int(rng.integers(4, 120))] = int(rng.integers(256))
        (tmp_path / "a.jpg").write_bytes(changed)
        with contextlib.suppress(StackError):
            decode(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_the_pixel_size_of_png_is_carried(tmp_path, suffix):
    (tmp_path / "a.png").write_bytes(saved(drawn(), "PNG", dpi=(5000, 2500)))
    decoded = decode(tmp_path / "a.png")
    write_picture(tmp_path / f"b{suffix}", decoded.picture, decoded.metadata)
    across, down = resolution_of(decode(tmp_path / f"b{suffix}").metadata.exif)
    assert abs(across - 5000 / 0.0254) < 1 and abs(down - 2500 / 0.0254) < 1
    with Image.open(tmp_path / f"b{suffix}") as image:
        assert abs(image.info["dpi"][0] - 5000) < 0.1


def test_the_pixel_size_of_tiff_reaches_png(tmp_path):
    options = {"resolution": (10000, 10000), "resolutionunit": 3, "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", drawn(), photometric="rgb", **options)
    decoded = decode(tmp_path / "a.tif")
    write_picture(tmp_path / "b.png", decoded.picture, decoded.metadata)
    with Image.open(tmp_path / "b.png") as image:
        assert abs(image.info["dpi"][0] - 25400) < 0.1


def test_a_resolution_joins_what_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 3
    exif.get_ifd(0x8769)[0x9003] = "2026:01:02 03:04:05"
    (tmp_path / "a.png").write_bytes(saved(drawn(), "PNG", dpi=(500, 500), exif=exif))
    decoded = decode(tmp_path / "a.png")
    np.testing.assert_array_equal(decoded.picture, np.rot90(drawn(), 2))
    tags, inner = tiff_tags(decoded.metadata.exif)
    assert b"Maker" in tags[0x010F][1] and float(tags[282][1]) == pytest.approx(196.85)
    assert "2026" in inner[0x8769][0x9003]


def test_72_per_inch_is_no_size():
    exif = Image.Exif()
    for tag, value in ((282, 72.0), (283, 72.0), (296, 2)):
        exif[tag] = value
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    assert resolution_of(block) is None and resolution_of(None) is None
    buffer = io.BytesIO()
    Image.fromarray(drawn()).save(buffer, "PNG")
    assert Metadata() == decode_bytes_of(buffer)


def decode_bytes_of(buffer):
    from stackmff.images.formats import decode_bytes

    return decode_bytes(buffer.getvalue(), "a.png").metadata
