"""pictures.py: what is read is what was drawn, upright and whole, or one clear sentence."""

import io
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from drawn import texture
from PIL import Image, ImageCms, ImageOps

import pictures
from pictures import (
    list_folders,
    list_frames,
    list_pictures,
    loses,
    luma,
    put,
    read_picture,
    read_profile,
    read_stack,
    release,
    window,
    write_picture,
)
from utils import StackError

ROOT = Path(__file__).parents[1]


def drawn(channels=3, dtype=np.uint8, height=37, width=53):
    """A smooth picture with all channels different, which lossy formats keep well."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(5 * x + 3 * k * y + k) * 0.4 + 0.5 for k in range(channels)]
    return np.round(np.dstack(waves) * np.iinfo(dtype).max).astype(dtype)


def saved(picture, kind, **options):
    """A file of Pillow's format `kind`, as bytes."""
    buffer = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture.squeeze())
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(samples, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **options)
    return buffer.getvalue()


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


def test_thumbnails_in_a_tiff_are_passed_over(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(drawn(), photometric="rgb")
        file.write(drawn()[::4, ::4], photometric="rgb", subfiletype=1)
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
        (saved(Image.fromarray(drawn()).convert("CMYK"), "TIFF"), "SEPARATED"),
        (saved(Image.fromarray(drawn()).convert("LAB"), "TIFF"), "CIELAB"),
        (b"", "is empty"),
        (b"just some text, no picture", "no picture"),
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
        write_picture(path, drawn(), profile)
        by_pillow = Image.open(path).info.get("icc_profile")
        assert by_pillow == profile
        if not (suffix == ".png" and profile == long):  # libpng passes over what is not all used
            assert read_profile(path) == profile
        assert read_picture(path).shape == (37, 53, 3)
    write_picture(path, drawn(), profile_of("CMYK"))
    assert read_profile(path) is None
    write_picture(path, drawn(), None)
    assert read_profile(path) is None


def test_grey_profile_goes_with_grey(tmp_path):
    for channels in (1, 2):
        write_picture(tmp_path / "a.png", drawn(channels), profile_of("GRAY"))
        assert Image.open(tmp_path / "a.png").info["icc_profile"] == profile_of("GRAY")
        assert read_picture(tmp_path / "a.png").shape[2] == channels
    write_picture(tmp_path / "a.bmp", drawn(1), profile_of("GRAY"))
    assert read_profile(tmp_path / "a.bmp") is None


def test_list_pictures_in_natural_order(tmp_path):
    names = ["frame10.PNG", "frame2.jpg", "frame1.TiF", "b.webp", ".hidden.png", "._frame1.png"]
    for name in [*names, "notes.txt", "frame3", "c.jpeg.part"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    found = [path.name for path in list_pictures(tmp_path)]
    assert found == ["b.webp", "frame1.TiF", "frame2.jpg", "frame10.PNG"]


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    for function in (list_pictures, list_folders):
        with pytest.raises(StackError, match=f"{tmp_path.name} cannot be read .Permission denied"):
            function(tmp_path)


def test_too_few_frames(tmp_path):
    assert list_pictures(tmp_path) == []
    with pytest.raises(StackError, match="holds no pictures"):
        list_frames(tmp_path)
    (tmp_path / "one.png").touch()
    with pytest.raises(StackError, match="holds one picture, a stack needs two or more"):
        list_frames(tmp_path)
    with pytest.raises(StackError, match="is no folder"):
        list_frames(tmp_path / "one.png")


@pytest.mark.parametrize(
    ("picture", "sentence"),
    [
        (drawn(3, width=60), r"frame 07\.png is 60x37, the stack is 53x37: export all"),
        (drawn(3, np.uint16), r"frame 07\.png has 16 bits per channel, the stack has 8"),
        (drawn(1), r"frame 07\.png is grey, the stack is colour"),
        (drawn(4), r"frame 07\.png is colour with alpha, the stack is colour"),
    ],
)
def test_frames_must_be_alike(tmp_path, picture, sentence):
    paths = [tmp_path / f"{k:02}.png" for k in range(9)]
    for path in paths:
        write_picture(path, drawn())
    write_picture(paths[7], picture)
    with pytest.raises(StackError, match=sentence):
        read_stack(paths)


def test_read_stack(tmp_path):
    paths = [tmp_path / f"{k}.png" for k in range(5)]
    for k, path in enumerate(paths):
        write_picture(path, drawn() // (k + 1), profile_of("sRGB"))
    stack = read_stack(paths, threads=3)
    assert stack.paths == paths
    assert stack.profile == profile_of("sRGB")
    for k in range(5):
        np.testing.assert_array_equal(stack.frames[k], drawn() // (k + 1))


def test_turned_frames_are_compared_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "0.png").write_bytes(saved(drawn(), "PNG"))
    (tmp_path / "1.png").write_bytes(saved(np.rot90(drawn()), "PNG", exif=exif.tobytes()))
    stack = read_stack([tmp_path / "0.png", tmp_path / "1.png"])
    np.testing.assert_array_equal(stack.frames[0], stack.frames[1])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_luma(dtype):
    peak = np.iinfo(dtype).max
    picture = drawn(4, dtype)
    y = luma(picture)
    assert y.dtype == np.float32
    expected = picture[..., :3] / peak @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(y, expected, atol=1e-6)
    np.testing.assert_allclose(luma(picture[None, ..., 1:3]), picture[None, ..., 1] / peak, 1e-6)
    white = np.full((1, 2, 3), peak, dtype)
    assert luma(white).min() > 0.999999
    assert luma(white).max() <= 1
    if dtype == np.uint8:
        by_opencv = cv2.cvtColor(picture[..., :3], cv2.COLOR_RGB2GRAY)
        assert np.abs(y * 255 - by_opencv).max() < 0.51


def test_writing_ends_in_one_sentence(tmp_path):
    with pytest.raises(StackError, match="no suffix of a picture"):
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
        "from pictures import write_picture\n"
        "from utils import run_main\n"
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


def test_frames_on_disk_are_those_in_memory_and_leave_no_file(tmp_path):
    paths = [tmp_path / f"{k}.png" for k in range(5)]
    for k, path in enumerate(paths):
        write_picture(path, texture(40, 50, k))
    spill = tmp_path / "results"
    stacks = [read_stack(paths, spill=spill, low_memory=low) for low in (False, True)]
    assert [isinstance(stack.frames, np.memmap) for stack in stacks] == [False, True]
    np.testing.assert_array_equal(stacks[0].frames, stacks[1].frames)
    release(stacks[1].frames)  # what has been read is read again
    np.testing.assert_array_equal(stacks[0].frames, stacks[1].frames)
    for place in ((0, 40, 0, 50), (3, 17, 20, 41), (39, 40, 49, 50)):
        parts = [window(stack.frames, *place) for stack in stacks]
        np.testing.assert_array_equal(*parts)
        assert not isinstance(parts[1], np.memmap)
    put(stacks[1].frames, 2, stacks[0].frames[4])
    np.testing.assert_array_equal(stacks[1].frames[2], stacks[0].frames[4])
    np.testing.assert_array_equal(stacks[1].frames[3], stacks[0].frames[3])
    assert list(spill.iterdir()) == []


def test_frames_go_to_disk_where_memory_is_short(tmp_path, monkeypatch):
    paths = [tmp_path / f"{k}.png" for k in range(2)]
    for k, path in enumerate(paths):
        write_picture(path, texture(40, 50, k))
    size = 2 * 40 * 50 * 3
    for free, on_disk in ((2 * size, False), (2 * size - 2, True)):
        monkeypatch.setattr(pictures, "free_memory", lambda free=free: free)
        frames = read_stack(paths, spill=tmp_path / "out").frames
        assert isinstance(frames, np.memmap) == on_disk
    assert not isinstance(read_stack(paths).frames, np.memmap)


def test_a_disk_without_room_is_said_before_the_work(tmp_path, monkeypatch):
    write_picture(tmp_path / "a.png", texture(40, 50, 0))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(StackError, match=r"out has no room for the 0.0 GiB of the frames"):
        read_stack([tmp_path / "a.png"], spill=tmp_path / "out", low_memory=True)
