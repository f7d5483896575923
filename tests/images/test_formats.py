"""images/formats.py: what is read is what was drawn, upright and whole, or one clear sentence."""

import io
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tifffile
from drawn import saved, tiff
from drawn import waves as drawn
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin

from stackmff.errors import StackError
from stackmff.images.formats import decode, loses, read_picture, suffix_like, write_picture
from stackmff.images.metadata import Metadata, exif_for, metadata_for, orientation_of, xmp_for

ROOT = Path(__file__).parents[2]


def read_bytes(tmp_path, data, name="frame.png"):
    (tmp_path / name).write_bytes(data)
    return read_picture(tmp_path / name)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF", ".bmp", ".webp"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lossless_formats_give_back_what_was_written(tmp_path, suffix, channels, dtype):
    picture = drawn(channels, dtype)
    write_picture(tmp_path / f"a{suffix}", picture)
    back = read_picture(tmp_path / f"a{suffix}")
    expected = picture
    if dtype == np.uint16 and suffix in (".bmp", ".webp"):
        expected = np.round(picture / 257).astype(np.uint8)
    if suffix == ".bmp" and channels in (2, 4):
        expected = expected[..., :-1]
    if suffix == ".webp" and channels <= 2:  # a format without grey
        expected = np.dstack([expected[..., :1]] * 3 + [expected[..., 1:]])
    assert back.dtype == expected.dtype
    np.testing.assert_array_equal(back, expected)
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".jpg", ".JPEG"])
def test_jpeg_is_close_and_keeps_grey(tmp_path, channels, suffix):
    picture = drawn(channels)
    write_picture(tmp_path / f"a{suffix}", picture)
    back = read_picture(tmp_path / f"a{suffix}")
    assert back.shape == picture.shape
    assert np.abs(back.astype(int) - picture).max() <= 6


def test_grey_without_channel_axis_is_written(tmp_path):
    write_picture(tmp_path / "a.png", drawn(1)[..., 0])
    assert read_picture(tmp_path / "a.png").shape == (37, 53, 1)


def test_loses_says_what_a_format_drops():
    assert loses(".png", drawn(4, np.uint16)) is None
    assert loses(".tif", drawn(4, np.uint16)) is None
    assert "16 bits are rounded to 8 and alpha is dropped in JPG" in loses(
        ".JPG", drawn(4, np.uint16)
    )
    assert "alpha is dropped" in loses(".bmp", drawn(2))
    assert loses(".webp", drawn(4)) is None
    assert loses(".bmp", drawn(1)[..., 0]) is None


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(tmp_path, kind, orientation):
    picture = drawn()
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}.get(kind, {})
    data = saved(picture, kind, exif=exif.tobytes(), **options)
    back = read_bytes(tmp_path, data)
    turned = {
        1: picture,
        2: np.fliplr(picture),
        3: np.rot90(picture, 2),
        4: np.flipud(picture),
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture, -1),
        7: np.rot90(picture, 2).transpose(1, 0, 2),
        8: np.rot90(picture, 1),
    }[orientation]
    assert back.shape == turned.shape
    assert back.flags.c_contiguous
    assert np.abs(back.astype(int) - turned).max() <= (8 if kind == "JPEG" else 0)
    by_pillow = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.abs(back.astype(int) - by_pillow).max() <= 1


def test_damaged_exif_leaves_the_picture_upright(tmp_path):
    data = saved(drawn(), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff")
    np.testing.assert_array_equal(read_bytes(tmp_path, data), drawn())


def grey_with_alpha_png():
    return saved(Image.merge("LA", layers()), "PNG")


def layers():
    return [Image.fromarray(layer) for layer in np.moveaxis(drawn(2), 2, 0)]


def test_kinds_of_png_jpeg_and_bmp(tmp_path):
    grey, grey16 = drawn(1), drawn(1, np.uint16)
    palette = Image.fromarray(drawn()).quantize(32)
    in_colour = np.asarray(palette.convert("RGB"))
    bits = grey[..., 0] > 128
    cmyk = Image.fromarray(drawn()).convert("CMYK")
    cases = [
        (saved(palette, "PNG"), in_colour, 0),
        (saved(palette, "BMP"), in_colour, 0),
        (saved(bits, "PNG"), bits[..., None] * np.uint8(255), 0),
        (saved(bits, "BMP"), bits[..., None] * np.uint8(255), 0),
        (saved(grey16, "PNG"), grey16, 0),
        (grey_with_alpha_png(), drawn(2), 0),
        (saved(grey, "JPEG", quality=95), grey, 6),
        (saved(drawn(), "JPEG", progressive=True, quality=95, subsampling=0), drawn(), 6),
        (saved(cmyk, "JPEG", quality=95), drawn(), 12),
        (saved(drawn(), "JPEG", quality=95, subsampling=0) + b"trailing bytes", drawn(), 6),
    ]
    for data, expected, tolerance in cases:
        back = read_bytes(tmp_path, data)
        assert back.dtype == expected.dtype
        assert back.shape == expected.shape
        assert np.abs(back.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_kinds_of_tiff(tmp_path, dtype):
    rgb, rgba, grey = drawn(3, dtype), drawn(4, dtype), drawn(1, dtype)
    peak = np.iinfo(dtype).max
    planes = np.ascontiguousarray(rgb.transpose(2, 0, 1))
    cases = [
        (tiff(planes, photometric="rgb", planarconfig="separate"), rgb),
        (tiff(rgb, photometric="rgb", tile=(16, 16)), rgb),
        (tiff(rgb, photometric="rgb", byteorder=">"), rgb),
        (tiff(rgb, photometric="rgb", bigtiff=True), rgb),
        (tiff(rgb, photometric="rgb", compression="lzw", predictor=True), rgb),
        (tiff(rgb, photometric="rgb", compression="zlib"), rgb),
        (tiff(rgb, photometric="rgb", compression="zstd"), rgb),
        (tiff(rgba, photometric="rgb", extrasamples=["unassalpha"]), rgba),
        (tiff(rgba, photometric="rgb", extrasamples=["assocalpha"]), rgba),
        (tiff(grey[..., 0]), grey),
        (tiff(peak - grey[..., 0], photometric="miniswhite"), grey),
    ]
    for data, expected in cases:
        back = read_bytes(tmp_path, data, "a.tif")
        assert back.dtype == dtype
        np.testing.assert_array_equal(back, expected)


def test_eight_bit_kinds_of_tiff(tmp_path):
    bits = drawn(1)[..., 0] > 128
    palette = Image.fromarray(drawn()).quantize(32)
    for data, expected in [
        (tiff(bits, photometric="minisblack"), bits[..., None] * np.uint8(255)),
        (saved(bits, "TIFF"), bits[..., None] * np.uint8(255)),
        (saved(palette, "TIFF"), np.asarray(palette.convert("RGB"))),
    ]:
        np.testing.assert_array_equal(read_bytes(tmp_path, data, "a.tif"), expected)
    jpeg = read_bytes(tmp_path, tiff(drawn(), photometric="rgb", compression="jpeg"), "a.tif")
    assert np.abs(jpeg.astype(int) - drawn()).max() <= 12


@pytest.mark.parametrize("kinds", [(0, 1), (1, 0), (1, 0, 1)])
def test_thumbnails_in_a_tiff_are_passed_over(tmp_path, kinds):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for kind in kinds:
            step = 4 if kind else 1
            file.write(drawn()[::step, ::step], photometric="rgb", subfiletype=kind)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif"), drawn())


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (tiff(drawn().astype(np.float32), photometric="rgb"), "float32 samples"),
        (tiff(drawn(1)[..., 0].astype(np.int16)), "int16 samples"),
        (tiff(drawn(1, np.uint16)[..., 0] >> 4, bitspersample=12), "12-bit"),
        (tiff(np.stack([drawn(), drawn()]), photometric="rgb"), "holds 2 pictures"),
        (tiff(drawn(5), photometric="minisblack", planarconfig="contig"), "5 channels"),
        (
            tiff(np.zeros((4, 32, 32), np.uint8), volumetric=True, photometric="minisblack"),
            "volume",
        ),
        (tiff(drawn(4, np.uint16), photometric="separated"), "4 channels of 16 bits of kind SEPAR"),
        (saved(layers()[0], "GIF", save_all=True, append_images=layers()[1:]), "an animation"),
        (saved(layers()[0], "WEBP", save_all=True, append_images=layers()[1:]), "an animation"),
        (saved(layers()[0], "PNG", save_all=True, append_images=layers()[1:]), "an animation"),
        (saved(Image.fromarray(drawn()).convert("LAB"), "TIFF"), "CIELAB"),
        (b"", "is empty"),
        (b"just some text, no picture", "not a picture"),
        (b"II*\0", "TIFF"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, data, sentence):
    (tmp_path / "frame.png").write_bytes(data)
    with pytest.raises(StackError, match=sentence) as caught:
        read_picture(tmp_path / "frame.png")
    assert "frame.png" in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        saved(drawn(), "JPEG"),
        saved(drawn(), "JPEG", progressive=True),
        saved(drawn(), "PNG"),
        cv2.imencode(".png", drawn(3, np.uint16))[1].tobytes(),
        saved(drawn(), "WEBP"),
        saved(drawn(), "WEBP", lossless=True),
        saved(drawn(), "BMP"),
        saved(drawn(), "TIFF"),
        saved(drawn(), "TIFF", compression="tiff_lzw"),
        saved(drawn(), "TIFF", compression="jpeg"),
        tiff(drawn(), compression="zlib"),
        tiff(drawn(3, np.uint16), photometric="rgb", tile=(16, 16), compression="lzw"),
    ],
    ids=lambda data: repr(data[:4]),
)
def test_a_file_cut_anywhere_is_refused(tmp_path, capfd, data):
    path = tmp_path / "frame.png"
    path.write_bytes(data)
    read_picture(path)
    for length in sorted({*range(0, len(data), max(1, len(data) // 150)), len(data) - 1}):
        path.write_bytes(data[:length])
        with pytest.raises(StackError, match=r"frame\.png"):
            read_picture(path)
    assert capfd.readouterr().err == ""  # the decoders keep quiet


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StackError, match=r"no\.png cannot be read"):
        read_picture(tmp_path / "no.png")


@cache  # the profile tells the second at which it was made
def profile_of(space):
    if space == "sRGB":
        return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = bytearray(profile_of("sRGB"))
    profile[16:20] = space.encode()
    return bytes(profile)


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


def test_writing_ends_in_one_sentence(tmp_path):
    with pytest.raises(StackError, match="no picture suffix"):
        write_picture(tmp_path / "a.gif", drawn())
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match="cannot be written"):
        write_picture(tmp_path / "file" / "a.png", drawn())
    with pytest.raises(StackError, match=r"a\.webp: 20000x1 cannot be encoded"):
        write_picture(tmp_path / "a.webp", np.zeros((1, 20000, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_no_half_written_file(tmp_path):
    program = (
        "import resource, numpy as np, sys\n"
        "from stackmff.images.formats import write_picture\n"
        "from stackmff.processes import run_main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "noise = np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)\n"
        "run_main(lambda: write_picture(sys.argv[1], noise))\n"
    )
    for name in ("a.png", "a.jpg", "a.tif", "a.bmp", "a.webp"):
        command = [sys.executable, "-c", program, str(tmp_path / name)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert name in done.stderr and "cannot be written" in done.stderr
    assert list(tmp_path.iterdir()) == []


def photograph(orientation=1):
    """An EXIF block as cameras write it, with a thumbnail and maker's notes."""
    exif = Image.Exif()
    exif.update({0x010F: "Acme", 0x0110: "One", 0x0112: orientation, 0x8298: "(c) Ada"})
    exif.update({0x011A: TiffImagePlugin.IFDRational(300), 0x0128: 2, 0x0100: 9999})
    exif[0x011B] = exif[0x011A]
    inner = exif.get_ifd(0x8769)
    inner.update({0x829A: TiffImagePlugin.IFDRational(1, 200), 0xA434: "EF 100 mm"})
    inner.update({0x9204: TiffImagePlugin.IFDRational(-1, 3), 0x927C: b"Acme\0" * 9})
    inner.update({0xA002: 9999, 0xA003: 9999})
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 12.0, 3.5)})
    return exif.tobytes().removeprefix(b"Exif\0\0")


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


def test_orientation_given_is_used_instead_of_the_own(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    (tmp_path / "a.png").write_bytes(saved(drawn(), "PNG", exif=exif))
    decoded = decode(tmp_path / "a.png")
    assert decoded.orientation == 3
    np.testing.assert_array_equal(decoded.picture, np.rot90(drawn(), 2))
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 1).picture, drawn())


def test_cmyk_becomes_rgb_and_its_profile_is_not_carried(tmp_path):
    cmyk = Image.fromarray(drawn()).convert("CMYK")
    for kind, tolerance in (("TIFF", 0), ("JPEG", 12)):
        options = {"quality": 95} if kind == "JPEG" else {}
        # No profile of ink at all under this name: the plain way is gone then.
        data = saved(cmyk, kind, icc_profile=profile_of("CMYK"), **options)
        (tmp_path / "a.x").write_bytes(data)
        decoded = decode(tmp_path / "a.x")
        assert np.abs(decoded.picture.astype(int) - drawn()).max() <= tolerance
        assert decoded.note == "CMYK was converted to RGB"
        assert decoded.metadata.profile is None


def test_cmyk_is_converted_by_its_profile(tmp_path, monkeypatch):
    used = []

    def convert(image, source, target, outputMode):
        used.append((image.mode, image.size, outputMode))
        return Image.new("RGB", image.size, (1, 2, 3))

    monkeypatch.setattr(ImageCms, "profileToProfile", convert)
    monkeypatch.setattr(ImageCms, "ImageCmsProfile", lambda file: file)
    cmyk = Image.fromarray(drawn()).convert("CMYK")
    for kind in ("TIFF", "JPEG"):
        data = saved(cmyk, kind, icc_profile=profile_of("CMYK"))
        assert (read_bytes(tmp_path, data) == (1, 2, 3)).all()
    assert used == [("CMYK", (53, 37), "RGB")] * 2


def test_a_format_that_is_only_read_gives_png():
    suffixes = [suffix_like(Path(f"a{suffix}")) for suffix in (".TIF", ".nef", ".heic", ".mp4")]
    assert suffixes == [".tif", ".png", ".png", ".png"]


@pytest.mark.parametrize(("name", "package"), [("a.NEF", "rawpy"), ("a.heic", "pillow-heif")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    sentence = rf'{name} needs {package}: pip install "stackmff\[formats\]"'
    with pytest.raises(StackError, match=sentence):
        read_picture(tmp_path / name)


def test_raw_is_developed_alike_for_every_frame(tmp_path, monkeypatch):
    """By a stand-in: the exposure is fixed, and EXIF come from the file or from its preview."""
    asked = {}

    class Raw:
        sizes = SimpleNamespace(flip=5)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def postprocess(self, **options):
            asked.update(options)
            return drawn(3, np.uint16)

        def extract_thumb(self):
            exif = b"Exif\0\0" + photograph(8)
            return SimpleNamespace(data=saved(drawn(), "JPEG", exif=exif))

    space = SimpleNamespace(sRGB="sRGB")
    rawpy = SimpleNamespace(imread=lambda file: Raw(), ColorSpace=space)
    monkeypatch.setitem(sys.modules, "rawpy", rawpy)
    for data in (photograph(8), b"FUJIFILM raw"):
        (tmp_path / "a.raf").write_bytes(data)
        decoded = decode(tmp_path / "a.raf")
        wanted = np.rot90(drawn(3, np.uint16))
        np.testing.assert_array_equal(decoded.picture, wanted)
        exif = Image.Exif()
        exif.load(metadata_for(decoded.metadata, decoded.picture).exif)
        assert exif[0x010F] == "Acme"
    assert asked["user_flip"] == 0  # so that a wrong turn of one frame can be mended
    assert asked["use_camera_wb"] and asked["no_auto_bright"] and asked["adjust_maximum_thr"] == 0
    assert (asked["output_bps"], asked["output_color"]) == (16, "sRGB")


def test_raw_by_libraw(tmp_path):
    pytest.importorskip("rawpy")
    mosaic = np.full((64, 96), 4000, np.uint16)
    unit = [value for k in range(9) for value in (int(k % 4 == 0), 1)]
    tags = [
        (33421, 3, 2, (2, 2)), (33422, 1, 4, (0, 1, 1, 2)), (50706, 1, 4, (1, 4, 0, 0)),
        (50708, 2, 0, "Acme One"), (50714, 3, 1, 0), (50717, 3, 1, 16000), (50721, 10, 9, unit),
        (50728, 5, 3, (1, 1, 1, 1, 1, 1)), (50778, 3, 1, 21), (271, 2, 0, "Acme"), (274, 3, 1, 6),
    ]  # fmt: skip
    data = tiff(mosaic, photometric=32803, metadata=None, extratags=[(*tag, True) for tag in tags])
    (tmp_path / "a.dng").write_bytes(data)
    decoded = decode(tmp_path / "a.dng")
    assert decoded.picture.shape == (96, 64, 3) and decoded.picture.dtype == np.uint16
    assert decode(tmp_path / "a.dng", 1).picture.shape == (64, 96, 3)
    exif = Image.Exif()
    exif.load(decoded.metadata.exif)
    assert exif[0x010F] == "Acme"
    (tmp_path / "b.dng").write_bytes(data[:3000])
    with pytest.raises(StackError, match=r"b\.dng cannot be developed"):
        read_picture(tmp_path / "b.dng")


def test_heic(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    for mode, dtype, tolerance in (("RGB", np.uint8, 12), ("RGB;16", np.uint16, 2000)):
        picture = drawn(3, dtype, 64, 96)
        file = pillow_heif.from_bytes(mode, (96, 64), picture.tobytes())
        file.save(
            tmp_path / "a.heic", quality=95, exif=photograph(), icc_profile=profile_of("sRGB")
        )
        decoded = decode(tmp_path / "a.heic")
        assert decoded.picture.dtype == dtype
        assert np.abs(decoded.picture.astype(int) - picture).mean() <= tolerance
        assert orientation_of(decoded.metadata.exif) == 1
    (tmp_path / "b.heic").write_bytes((tmp_path / "a.heic").read_bytes()[:400])
    with pytest.raises(StackError, match=r"b\.heic is cut short"):
        read_picture(tmp_path / "b.heic")
