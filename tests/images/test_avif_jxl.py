"""images/avif_jxl.py and hdr.py: newer formats, and high dynamic range by the stated rule."""

import io
import re

import numpy as np
import pytest
from drawn import waves as drawn
from PIL import Image, features

from stackmff.errors import StackError
from stackmff.images.avif_jxl import is_avif, size_of_jxl
from stackmff.images.formats import decode
from stackmff.images.hdr import BT2020, HLG, PQ, coding_of, tone_mapped
from stackmff.images.headers import declared

imagecodecs = pytest.importorskip("imagecodecs")
needs_avif = pytest.mark.skipif(not imagecodecs.AVIF.available, reason="built without AVIF")
needs_jxl = pytest.mark.skipif(not imagecodecs.JPEGXL.available, reason="built without JPEG XL")


def written(path, data):
    path.write_bytes(data)
    return path


@needs_avif
def test_avif_of_8_and_of_10_bits(tmp_path):
    picture = drawn(3, height=60, width=80)
    path = written(tmp_path / "a.avif", imagecodecs.avif_encode(picture, level=95))
    assert is_avif(path.read_bytes())
    assert np.abs(decode(path).picture.astype(int) - picture).max() <= 12
    deep = np.uint16(drawn(3, np.uint16, 60, 80) >> 6)
    path = written(tmp_path / "b.avif", imagecodecs.avif_encode(deep, level=95, bitspersample=10))
    back = decode(path).picture
    assert back.dtype == np.uint16
    assert np.abs(back / 65535 - deep / 1023).max() <= 0.05
    header = declared(path)
    assert (header.width, header.height) == (80, 60)
    data = path.read_bytes()
    for length in (len(data) // 2, len(data) - 1, 40):
        with pytest.raises(StackError, match=r"b\.avif"):
            decode(written(path, data[:length]))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
@needs_avif
def test_avif_is_turned_upright_and_keeps_its_metadata(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    picture = drawn(3, height=60, width=80)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "AVIF", quality=95, exif=exif)
    decoded = decode(written(tmp_path / "a.avif", buffer.getvalue()))
    assert decoded.picture.shape == (80, 60, 3)
    assert np.abs(decoded.picture.astype(int) - np.rot90(picture, -1)).max() <= 12
    assert b"Maker" in decoded.metadata.exif
    frames = [Image.fromarray(picture), Image.fromarray(255 - picture)]
    frames[0].save(buffer := io.BytesIO(), "AVIF", save_all=True, append_images=frames[1:])
    with pytest.raises(StackError, match="an animation"):
        decode(written(tmp_path / "b.avif", buffer.getvalue()))


@needs_jxl
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_jpeg_xl(tmp_path, channels, dtype):
    picture = drawn(channels, dtype)
    data = imagecodecs.jpegxl_encode(picture.squeeze(), lossless=True)
    path = written(tmp_path / "a.jxl", data)
    np.testing.assert_array_equal(decode(path).picture, picture)
    assert "sRGB is assumed" in decode(path).note
    assert size_of_jxl(data) == (53, 37)
    header = declared(path)
    assert header.frame_bytes >= picture.nbytes
    with pytest.raises(StackError, match=r"a\.jxl"):
        decode(written(path, data[: len(data) // 2]))


@needs_jxl
@pytest.mark.parametrize("size", [(8, 8), (256, 256), (300, 400), (1080, 1920), (5, 7), (600, 700)])
def test_sizes_of_jpeg_xl(size):
    data = imagecodecs.jpegxl_encode(np.zeros(size, np.uint8), lossless=True)
    assert size_of_jxl(data) == size[::-1]
    assert size_of_jxl(b"") is None and size_of_jxl(b"\xff\x0a") is None


@needs_jxl
def test_floats_are_refused(tmp_path):
    data = imagecodecs.jpegxl_encode(drawn(3).astype(np.float32) / 255)
    with pytest.raises(StackError, match="float32 samples"):
        decode(written(tmp_path / "a.jxl", data))


def pq(light):
    """SMPTE ST 2084, light in cd/m2."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = (light / 10000) ** m1
    return ((c1 + c2 * root) / (1 + c3 * root)) ** m2


def linear(code):
    code = code / 65535
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def test_the_rule_of_tone_mapping():
    light = np.array([0, 20.3, 101.5, 203, 400, 1000, 4000])
    codes = np.rint(pq(light) * 65535).astype(np.uint16)[None, :, None].repeat(3, 2)
    out = linear(tone_mapped(codes, 1, PQ))[0, :, 0]
    np.testing.assert_allclose(out[:4], [0, 0.08, 0.4, 0.8], atol=2e-3)
    assert 0.8 < out[4] < out[5] and out[5] > 0.999 and out[6] > 0.999
    grey = tone_mapped(codes, BT2020, PQ)  # greys stay grey in other primaries
    assert np.ptp(grey, axis=2).max() <= 40
    with_alpha = np.dstack([codes, codes[..., :1]])
    np.testing.assert_allclose(tone_mapped(with_alpha, 1, PQ)[..., 3], codes[..., 0], atol=1)
    ramp = np.arange(0, 65536, 257, np.uint16)[None, :, None].repeat(3, 2)
    for transfer in (PQ, HLG):
        assert (np.diff(tone_mapped(ramp, BT2020, transfer)[0, :, 1].astype(int)) >= 0).all()
    # ITU-R BT.2408: 75 % of HLG is the reference white.
    assert abs(linear(tone_mapped(ramp, 1, HLG))[0, 191, 0] - 0.8) < 0.02


@needs_avif
def test_high_dynamic_range_is_told_and_mapped(tmp_path):
    codes = np.rint(pq(np.full((64, 64, 3), 101.5)) * 1023).astype(np.uint16)
    data = imagecodecs.avif_encode(codes, level=100, bitspersample=10)
    place = re.search(rb"colrnclx", data)
    assert place, "the encoder says which coding it has"
    at = place.end()
    data = data[:at] + bytes([0, BT2020, 0, PQ]) + data[at + 4 :]
    assert coding_of(data) == (BT2020, PQ)
    decoded = decode(written(tmp_path / "a.avif", data))
    assert "high dynamic range (PQ) was mapped to sRGB" in decoded.note
    assert decoded.picture.dtype == np.uint16
    assert abs(linear(decoded.picture).mean() - 0.4) < 0.02


def test_an_hdr_heic_of_the_library(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    codes = np.rint(pq(np.full((64, 64, 3), 203.0)) * 65535).astype(np.uint16)
    file = pillow_heif.from_bytes("RGB;16", (64, 64), codes.tobytes())
    profile = {"color_primaries": BT2020, "transfer_characteristics": PQ}
    buffer = io.BytesIO()
    file.save(buffer, quality=-1, save_nclx_profile=True, **profile)
    decoded = decode(written(tmp_path / "a.heic", buffer.getvalue()))
    assert "high dynamic range (PQ)" in decoded.note
    assert abs(linear(decoded.picture).mean() - 0.8) < 0.03
