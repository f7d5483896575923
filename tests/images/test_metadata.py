"""images/metadata.py: EXIF, XMP and profile are carried over, corrected, in every format."""

import struct
import time

import numpy as np
import pytest
from drawn import waves as drawn
from photographed import photograph, profile_of
from PIL import Image, TiffImagePlugin

from stackmff.images import formats, tiff
from stackmff.images.formats import decode, read_picture, write_picture
from stackmff.images.metadata import Metadata, exif_for, orientation_of
from stackmff.images.xmp import ROOM, xmp_for
from tests.waiting import LATEST

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
        packet = "<a tiff:Orientation='6'>Käfer</a>".encode(f"utf-16-{order}")
        assert xmp_for(packet, 3, 4).decode() == "<a tiff:Orientation='1'>Käfer</a>"
    assert xmp_for(b"<\xff\xfe>", 3, 4) is None


def test_xmp_is_changed_only_where_it_must_be():
    packet = (
        '<?xpacket begin="\ufeff" ?><!-- exif:PixelXDimension="8" --><a  xmp:Rating = "4"\n'
        ' GCamera:V=">" tiff:ImageWidth = \'8\' t="a &lt; &#233;" >'
        "<![CDATA[<xmp:Thumbnails>]]><xmp:Thumbnails/><hdrgm:X><b><b/></b></hdrgm:X>"
        "<tiff:ImageLength><c/>\n8</tiff:ImageLength><exif:PixelXDimension /></a>\n<?end?>\0"
    )
    expected = (
        '<?xpacket begin="\ufeff" ?><!-- exif:PixelXDimension="8" --><a  xmp:Rating = "4"\n'
        " tiff:ImageWidth = '3' t=\"a &lt; &#233;\" ><![CDATA[<xmp:Thumbnails>]]>"
        "<tiff:ImageLength>4</tiff:ImageLength><exif:PixelXDimension /></a>\n<?end?>"
    )
    assert xmp_for(packet.encode(), 3, 4).decode() == expected


@pytest.mark.parametrize(
    "packet",
    [
        b"<xmp:Thumbnails>" * 200_000,
        b"<a>" + b"<xmp:Thumbnails " * 200_000,
        b"<a" + b" " * 1_000_000 + b">",
        b"<a b='" + b" " * 1_000_000,
        b"<a" + b" tiff:Orientation" * 100_000 + b"/>",
        b"<exif:PixelXDimension>" * 100_000,
        b"<a>" * 300_000 + b"</a>" * 300_000,
        b'<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><a>&c;</a>',
        b"<a>" + b" " * ROOM + b"</a>",
    ],
    ids=range(9),
)
def test_the_time_for_xmp_grows_with_its_length(packet):
    """A search that tries each place to the end takes hours, on any machine."""
    start = time.process_time()
    xmp_for(packet, 3, 4)
    assert time.process_time() < start + LATEST


def test_a_document_type_and_a_packet_without_end_are_refused():
    assert xmp_for(b"<!DOCTYPE a><a/>", 3, 4) is None
    assert xmp_for(b"<a>" + b" " * ROOM + b"</a>", 3, 4) is None
    assert xmp_for(b"<a><b></a>", 3, 4) is None


def test_the_values_of_a_directory_are_bounded():
    """4,000 entries that all point to the same 4 MB would be 16 GB."""
    count = 4000
    size = 4 * 2**20
    entries = b"".join(struct.pack("<HHII", 40000 + k, 7, size, 8) for k in range(count))
    inner = struct.pack("<H", count) + entries + bytes(4)
    first = struct.pack("<HHHII", 1, 0x8769, 4, 1, 26)
    block = b"II*\0\x08\0\0\0" + first + bytes(4) + inner + bytes(size)
    found = exif_for(block, 3, 4)
    assert found is not None and len(found) < 2 * size


def test_a_resolution_without_denominator_costs_only_itself(tmp_path):
    block = photograph()
    for order in (">", "<"):
        block = block.replace(struct.pack(f"{order}II", 300, 1), struct.pack(f"{order}II", 300, 0))
    for suffix in (".tif", ".png", ".jpg", ".webp"):
        notes = write_picture(tmp_path / f"a{suffix}", drawn(), Metadata(block, PACKET))
        found = decode(tmp_path / f"a{suffix}").metadata
        assert b"(c) Ada" in found.exif and found.xmp
        assert notes == (
            ["the resolution in EXIF is not a positive number: it is left out"] * (suffix == ".tif")
        )


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
def test_a_block_that_a_library_cannot_write_is_left_out_and_told(tmp_path, monkeypatch, suffix):
    def broken(metadata):
        return {"exif": metadata.exif, "unknown": 1 / 0} if metadata.exif else {}

    monkeypatch.setattr(tiff, "tiff_tags", lambda _: 1 / 0)
    monkeypatch.setattr(formats, "_for_pillow", broken)
    notes = write_picture(tmp_path / f"a{suffix}", drawn(), Metadata(photograph()))
    assert notes == [f"the EXIF block cannot be written to {suffix[1:].upper()}: it is left out"]
    assert read_picture(tmp_path / f"a{suffix}").shape == (37, 53, 3)


def test_what_is_damaged_is_told(tmp_path):
    damaged = Metadata(b"no block", b"no packet", b"no profile")
    notes = write_picture(tmp_path / "a.png", drawn(), damaged)
    assert [note.partition(" is ")[0] for note in notes] == [
        "the colour profile",
        "the EXIF block",
        "the XMP packet",
    ]


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
