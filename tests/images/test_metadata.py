"""images/metadata.py: EXIF, XMP and profile are carried over, corrected, in every format."""

import numpy as np
import pytest
from drawn import waves as drawn
from photographed import photograph, profile_of
from PIL import Image, TiffImagePlugin

from stackmff.images.formats import decode, read_picture, write_picture
from stackmff.images.metadata import Metadata, exif_for, orientation_of, xmp_for

PACKET = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 tiff:Orientation="6" exif:PixelXDimension='9999' xmp:Rating="4">
 <exif:PixelYDimension>9999</exif:PixelYDimension><dc:title>K\xc3\xa4fer</dc:title>
 <xmp:Thumbnails><rdf:Alt><rdf:li>old picture</rdf:li></rdf:Alt></xmp:Thumbnails>
 </rdf:Description></rdf:RDF></x:xmpmeta>"""


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_metadata_come_through_corrected(tmp_path, suffix, dtype):
    path = tmp_path / f"a{suffix}"
    metadata = Metadata(photograph(6), PACKET, profile_of("sRGB"))
    write_picture(path, drawn(3, dtype), metadata)
    decoded = decode(path)
    assert decoded.picture.shape == (37, 53, 3)  # not turned once more
    if suffix in (".png", ".tif"):
        np.testing.assert_array_equal(decoded.picture, drawn(3, dtype))
    exif = Image.Exif()
    exif.load(decoded.metadata.exif)
    assert (exif[0x010F], exif[0x0110], exif[0x0112], exif[0x8298]) == ("Acme", "One", 1, "(c) Ada")
    assert exif[0x011A] == 300
    assert 0x0100 not in exif
    inner = exif.get_ifd(0x8769)
    assert (inner[0xA002], inner[0xA003]) == (53, 37)
    assert inner[0x829A] == TiffImagePlugin.IFDRational(1, 200)
    assert inner[0x9204] == TiffImagePlugin.IFDRational(-1, 3)
    assert inner[0xA434] == "EF 100 mm"
    assert 0x927C not in inner
    assert exif.get_ifd(0x8825)[2] == (48.0, 12.0, 3.5)
    packet = decoded.metadata.xmp
    assert b'tiff:Orientation="1" exif:PixelXDimension=\'53\' xmp:Rating="4"' in packet
    assert b"<exif:PixelYDimension>37</exif:PixelYDimension>" in packet
    assert b"K\xc3\xa4fer" in packet and b"old picture" not in packet
    assert decoded.metadata.profile == profile_of("sRGB")
    assert Image.open(path).getexif()[0x010F] == "Acme"  # where other readers look for it


def test_metadata_go_on_from_format_to_format(tmp_path):
    block = photograph()
    first = block = exif_for(block, 53, 37)
    for suffix in (".tif", ".webp", ".png", ".jpg", ".tif"):
        write_picture(tmp_path / f"a{suffix}", drawn(), Metadata(block, PACKET))
        found = decode(tmp_path / f"a{suffix}").metadata
        block = found.exif
        assert xmp_for(found.xmp, 53, 37) == xmp_for(PACKET, 53, 37)
    little, big = values_of(block), values_of(first)  # TIFF is written in the other order of bytes
    assert block[:2] != first[:2]
    assert little == big and len(little) > 12


def values_of(block):
    exif = Image.Exif()
    exif.load(block)
    inner = {(tag, key): str(v) for tag in (0x8769, 0x8825) for key, v in exif.get_ifd(tag).items()}
    return {**{tag: str(v) for tag, v in exif.items() if tag not in (0x8769, 0x8825)}, **inner}


def test_xmp_in_utf_16_is_recoded():
    for order in ("be", "le"):
        packet = "Käfer tiff:Orientation='6'".encode(f"utf-16-{order}")
        assert xmp_for(packet, 3, 4).decode() == "Käfer tiff:Orientation='1'"
    assert xmp_for(b"<\xff\xfe>", 3, 4) is None


def test_text_beyond_ascii_is_carried(tmp_path):
    block = photograph().replace(b"(c) Ada", "©Käf".encode() + b"r")
    for suffix in (".png", ".tif", ".jpg", ".webp"):
        write_picture(tmp_path / f"a{suffix}", drawn(), Metadata(block))
        assert "©Käfr".encode() in decode(tmp_path / f"a{suffix}").metadata.exif


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow
@pytest.mark.parametrize("block", [b"", b"no block", b"II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_damaged_metadata_do_not_stop_the_work(tmp_path, block):
    assert orientation_of(block) == 1
    metadata = Metadata(block, b"no packet", b"no profile")
    for suffix in (".png", ".tif", ".jpg", ".webp", ".bmp"):
        write_picture(tmp_path / f"a{suffix}", drawn(), metadata)
        assert read_picture(tmp_path / f"a{suffix}").shape == (37, 53, 3)
    for cut in range(0, len(photograph()), 5):
        write_picture(tmp_path / "a.tif", drawn(), Metadata(photograph()[:cut]))


def test_blocks_too_long_for_a_jpeg_are_left_out(tmp_path):
    long = Metadata(photograph(), PACKET + b" " * 70_000)
    write_picture(tmp_path / "a.jpg", drawn(), long)
    found = decode(tmp_path / "a.jpg").metadata
    assert found.exif is not None and found.xmp is None
    write_picture(tmp_path / "a.png", drawn(), long)
    assert len(decode(tmp_path / "a.png").metadata.xmp) > 70_000


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
def test_profile_is_carried(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    long = profile_of("sRGB") + bytes(100_000)  # longer than one JPEG segment
    for profile in (profile_of("sRGB"), long):
        write_picture(path, drawn(), Metadata(profile=profile))
        by_pillow = Image.open(path).info.get("icc_profile")
        assert by_pillow == profile
        if not (suffix == ".png" and profile == long):  # libpng passes over what is not all used
            assert decode(path).metadata.profile == profile
        assert read_picture(path).shape == (37, 53, 3)
    write_picture(path, drawn(), Metadata(profile=profile_of("CMYK")))
    assert decode(path).metadata.profile is None
    write_picture(path, drawn(), None)
    assert decode(path).metadata.profile is None


def test_grey_profile_goes_with_grey(tmp_path):
    for channels in (1, 2):
        write_picture(tmp_path / "a.png", drawn(channels), Metadata(profile=profile_of("GRAY")))
        assert Image.open(tmp_path / "a.png").info["icc_profile"] == profile_of("GRAY")
        assert read_picture(tmp_path / "a.png").shape[2] == channels
    write_picture(tmp_path / "a.bmp", drawn(1), Metadata(profile=profile_of("GRAY")))
    assert decode(tmp_path / "a.bmp").metadata.profile is None
