"""images/jpeg.py: damage in compressed data is found, and whole files are left alone."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from calling import call
from drawn import draw_stack, saved, texture
from PIL import Image

import predict
from stackmff.errors import StackError
from stackmff.images.formats import read_picture, write_picture
from stackmff.images.jpeg import damage_in

SECTOR = 512


@pytest.fixture(autouse=True)
def without_simplejpeg(monkeypatch):
    """What the check finds by itself."""
    monkeypatch.setitem(sys.modules, "simplejpeg", None)


def photograph(channels=3):
    """Texture on a gradient, (480, 640, C) uint8."""
    picture = texture(480, 640, 0)
    return picture if channels == 3 else picture[..., :1]


def without_sector(data, rng):
    """The file with a sector behind its headers lost."""
    first = data.index(b"\xff\xda") // SECTOR + 1
    at = SECTOR * int(rng.integers(first, len(data) // SECTOR))
    return data[:at] + bytes(SECTOR) + data[at + SECTOR :]


KINDS = [
    {},
    {"quality": 95},
    {"optimize": True},
    {"subsampling": 0},
    {"restart_marker_blocks": 16},
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_lost_sector_is_found(channels, kind):
    data = saved(photograph(channels), "JPEG", **kind)
    assert damage_in(data) is None
    rng = np.random.default_rng(0)
    found = sum(damage_in(without_sector(data, rng)) is not None for _ in range(200))
    assert found >= 190


def test_a_missing_restart_marker_is_found():
    data = saved(photograph(), "JPEG", restart_marker_blocks=16)
    at = data.index(b"\xff\xd3")
    assert damage_in(data[:at] + data[at + 2 :]) == "restart markers are missing"
    assert damage_in(data[:at] + b"\xff\xd5" + data[at + 2 :]) == "restart markers are missing"


@pytest.mark.parametrize("value", [0, 255, 128])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [*KINDS, {"progressive": True}], ids=str)
def test_flat_areas_are_no_damage(value, channels, kind):
    """Their codes may be zeros only: optimised tables give the most frequent ones those codes."""
    picture = np.full((2000, 2000, channels), value, np.uint8)
    picture[900:1000, 900:1000] = photograph(channels)[:100, :100]
    assert damage_in(saved(picture, "JPEG", **kind)) is None


def test_what_is_not_in_the_compressed_data_does_not_count():
    exif = b"Exif\0\0" + bytes(9000)
    for kind in ({}, {"progressive": True}):
        data = saved(photograph(), "JPEG", exif=exif, **kind)
        assert damage_in(data + bytes(9000)) is None
    for length in range(0, len(data), 997):  # the decoder reports that
        damage_in(data[:length])
    for place in range(2, 700):
        damage_in(data[:place] + b"\xff" + data[place + 1 :])


def test_a_warning_of_libjpeg_is_damage(monkeypatch):
    def decode_jpeg(*_, **__):
        raise ValueError("Corrupt JPEG data: bad Huffman code")

    said = "Corrupt JPEG data: bad Huffman code"
    for space, found in (("YCbCr", said), ("YCCK", said), ("unknown", None)):
        fake = SimpleNamespace(
            decode_jpeg=decode_jpeg,
            decode_jpeg_header=lambda _, space=space: (480, 640, space, ""),
        )
        monkeypatch.setitem(sys.modules, "simplejpeg", fake)
        assert damage_in(saved(photograph(), "JPEG")) == found


def test_simplejpeg_finds_more_in_progressive_files(monkeypatch):
    """Bits that refine earlier scans may be zeros, and libjpeg checks their codes only."""
    data = saved(photograph(), "JPEG", progressive=True)

    def found():
        assert damage_in(data) is None
        rng = np.random.default_rng(0)
        return sum(damage_in(without_sector(data, rng)) is not None for _ in range(50))

    by_itself = found()
    monkeypatch.delitem(sys.modules, "simplejpeg")
    pytest.importorskip("simplejpeg")
    assert found() > by_itself > 0
    four = saved(Image.fromarray(photograph()).convert("CMYK"), "JPEG")
    assert damage_in(four) is None
    assert "Corrupt" in damage_in(four[:-600] + four[-400:])


def test_a_damaged_frame_is_refused_or_taken_and_told(tmp_path, capsys, weights):
    frames = draw_stack(texture(256, 320, 0), 3)
    for k, frame in enumerate(frames):
        write_picture(tmp_path / "stack" / f"{k}.jpg", frame)
    path = tmp_path / "stack" / "1.jpg"
    path.write_bytes(without_sector(path.read_bytes(), np.random.default_rng(0)))
    with pytest.raises(StackError, match=r"1\.jpg is damaged \(zeros in its compressed data"):
        read_picture(path)
    words = ["--stack_path", tmp_path / "stack", "--output", tmp_path / "fused.png"]
    words += ["--model_path", weights["StackMix"], "--align", "off"]
    assert call(predict.main, *words) == 1
    assert not (tmp_path / "fused.png").exists()
    assert "accept it as it is" in capsys.readouterr().err
    assert call(predict.main, *words, "--lenient") == 0
    assert "note: 1.jpg: it is damaged (zeros" in capsys.readouterr().err
    assert read_picture(tmp_path / "fused.png").shape == (256, 320, 3)
