"""images/camera_files.py: RAW and HEIC, by stand-ins where their packages are not installed."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from drawn import saved, tiff
from drawn import waves as drawn
from photographed import photograph, profile_of
from PIL import Image

from stackmff.errors import StackError
from stackmff.images.formats import decode, read_picture
from stackmff.images.metadata import metadata_for, orientation_of


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
        exif.load(metadata_for(decoded.metadata, decoded.picture)[0].exif)
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
