"""images/headers.py: what files declare is known, and doubted, before anything is decoded."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from drawn import saved, tiff
from drawn import waves as drawn
from PIL import Image

from stackmff.errors import StackError
from stackmff.images import formats, stack
from stackmff.images.formats import decode, write_picture
from stackmff.images.headers import declared, declared_by, upright_size
from stackmff.images.png import png_by_strips
from stackmff.images.stack import read_stack

PLANAR = drawn(3, np.uint16).transpose(2, 0, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".bmp", ".webp"])
def test_what_is_declared_is_what_is_decoded(tmp_path, suffix, channels, dtype):
    path = tmp_path / f"a{suffix}"
    write_picture(path, drawn(channels, dtype))
    header, picture = declared(path), decode(path).picture
    assert (header.height, header.width) == picture.shape[:2]
    assert header.frame_bytes >= picture.nbytes
    assert header.least_bytes <= path.stat().st_size


@pytest.mark.parametrize(
    "data",
    [
        saved(drawn(), "JPEG", progressive=True, exif=b"Exif\0\0" + bytes(60000)),
        saved(drawn(), "WEBP"),
        saved(drawn()[..., 0], "JPEG"),
        tiff(PLANAR, photometric="rgb", planarconfig="separate", bigtiff=True),
        b"\xff\xd8\xff\xff\xff" + saved(drawn(), "JPEG")[3:],  # fill bytes
    ],
    ids=lambda data: repr(data[:6]),
)
def test_other_forms(data):
    header = declared_by(data)
    assert (header.width, header.height) == (53, 37)


def test_of_any_bytes_nothing_is_raised(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):
        whole = saved(drawn(), kind)
        for _ in range(200):
            data = bytearray(whole[: rng.integers(1, 200)])
            data[rng.integers(0, len(data))] = rng.integers(0, 256)
            declared_by(bytes(data))
    assert declared(tmp_path / "none.png") is None
    assert declared(tmp_path / "a.dng") is None


def claims(kind, width, height):
    """A small file that declares a large picture."""
    data = bytearray(saved(drawn(), kind))
    if kind == "PNG":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    else:
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_small_file_that_declares_a_large_picture_is_not_decoded(tmp_path, monkeypatch, kind):
    path = tmp_path / "a.png"
    path.write_bytes(claims(kind, 30000, 30000))

    def never(*_):
        raise AssertionError("it was decoded")

    monkeypatch.setattr(cv2, "imdecodeWithMetadata", never)
    with pytest.raises(StackError, match=r"a\.png is not a picture, is cut short or damaged"):
        decode(path)


def test_a_flat_picture_is_not_taken_for_damaged(tmp_path):
    flat = np.full((3000, 3000), 7, np.uint8)
    for name, data in (
        ("a.jpg", saved(flat, "JPEG", optimize=True, quality=1)),
        ("b.jpg", saved(flat, "JPEG", progressive=True, quality=1)),
        ("a.png", saved(flat, "PNG", optimize=True)),
        ("b.png", saved(flat > 9, "PNG", optimize=True)),
    ):
        (tmp_path / name).write_bytes(data)
        assert decode(tmp_path / name).picture.shape == (3000, 3000, 1)


def test_frames_of_other_sizes_are_named_before_any_is_decoded(tmp_path, monkeypatch):
    paths = [tmp_path / f"{k}.png" for k in range(4)]
    for k, path in enumerate(paths):
        write_picture(path, drawn(3, width=60 if k == 2 else 53))
    monkeypatch.setattr(stack, "decode", None)
    with pytest.raises(StackError, match=r"frame 2\.png is 60x37, the stack is 53x37"):
        read_stack(paths)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("height", [1, 128, 129, 300])
def test_large_pictures_are_written_by_strips(tmp_path, monkeypatch, channels, dtype, height):
    picture = np.random.default_rng(0).integers(0, 256, (height, 19, channels)).astype(dtype) * 3
    metadata = formats.Metadata(xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    write_picture(tmp_path / "small.png", picture, metadata)
    monkeypatch.setattr(formats, "LARGE", 0)
    write_picture(tmp_path / "large.png", picture, metadata)
    small, large = (decode(tmp_path / f"{name}.png") for name in ("small", "large"))
    np.testing.assert_array_equal(large.picture, picture)
    assert large.metadata == small.metadata and large.metadata.xmp
    parts = list(png_by_strips(picture, b""))
    assert max(map(len, parts)) <= 128 * (1 + 19 * channels * 2) + 4096


@pytest.mark.parametrize("orientation", [None, 1, 3, 5, 6, 8])
def test_the_upright_size_is_that_of_the_decoded_picture(tmp_path, orientation):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.new("RGB", (70, 30)).save(path, exif=exif)
    assert upright_size(path) == decode(path).picture.shape[:2]


def test_a_file_that_is_no_picture_has_no_upright_size(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff")
    assert upright_size(tmp_path / "a.jpg") is None
    assert upright_size(tmp_path / "missing.jpg") is None
