"""images/formats.py: what is read is what was drawn, upright and whole, or one clear sentence."""

import io
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn import saved, tiff
from drawn import waves as drawn
from photographed import profile_of
from PIL import Image, ImageCms, ImageOps

from stackmff.errors import StackError
from stackmff.images.formats import (
    READ_SUFFIXES,
    decode,
    loses,
    read_picture,
    suffix_like,
    write_picture,
)

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


def test_files_of_cameras_are_read():
    assert {".hif", ".nrw", ".rwl", ".srw", ".3fr", ".iiq", ".x3f"} <= set(READ_SUFFIXES)
