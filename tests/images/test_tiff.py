"""images/tiff.py: every kind of TIFF is read as what was drawn."""

import contextlib
import struct

import numpy as np
import pytest
import tifffile
from drawn import saved, tiff
from drawn import waves as drawn
from PIL import Image

from stackmff.errors import StackError
from stackmff.images import formats
from stackmff.images import tiff as tiff_module
from stackmff.images.folders import list_frames
from stackmff.images.formats import decode, read_picture, write_picture
from stackmff.images.metadata import Metadata, tiff_tags


def read_bytes(tmp_path, data, name="frame.png"):
    (tmp_path / name).write_bytes(data)
    return read_picture(tmp_path / name)


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


def test_an_unknown_kind_is_named(tmp_path):
    """A photometric interpretation that has no name is told by its number."""
    data, entry = tiff(drawn(1)[..., 0], byteorder="<"), "<HHII"
    known, unknown = struct.pack(entry, 262, 3, 1, 1), struct.pack(entry, 262, 3, 1, 31000)
    assert data.count(known) == 1
    (tmp_path / "a.tif").write_bytes(data.replace(known, unknown))
    with pytest.raises(StackError, match="kind 31000: export it as grey or RGB"):
        read_picture(tmp_path / "a.tif")


def entries_of(data):
    """(start, number) of the entries of the first directory of a classic little-endian TIFF."""
    (at,) = struct.unpack_from("<I", data, 4)
    return at + 2, struct.unpack_from("<H", data, at)[0]


@pytest.mark.parametrize(
    "data",
    [
        tiff(drawn(), photometric="rgb", iccprofile=b"x" * 40, byteorder="<"),
        tiff(drawn(1)[..., 0], byteorder="<"),
        saved(Image.fromarray(drawn()).quantize(32), "TIFF"),
    ],
    ids=["rgb", "grey", "palette"],
)
def test_any_directory_is_a_picture_or_one_sentence(tmp_path, data):
    """Each entry of the directory gets each odd type, number and value."""
    start, number = entries_of(data)
    path = tmp_path / "a.tif"
    for at in range(start, start + 12 * number, 12):
        tag, kind, count, value = struct.unpack_from("<HHII", data, at)
        odd = [(tag, other, count, value) for other in (0, 2, 5, 7, 11, 12, 16, 99)]
        odd += [(tag, kind, other, value) for other in (0, 2, 3, 700)]
        odd += [(tag, kind, count, other) for other in (0, 3, 5, 9, 32773, len(data) - 1)]
        odd += [(other, kind, count, value) for other in (262, 274, 284, 317, 320, 338, 339, 34675)]
        for entry in odd:
            changed = bytearray(data)
            struct.pack_into("<HHII", changed, at, *entry)
            path.write_bytes(changed)
            with contextlib.suppress(StackError):
                write_picture(tmp_path / "b.tif", read_picture(path))


def test_a_file_of_endless_pages_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_module, "MOST_PAGES", 5)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for _ in range(6):
            file.write(drawn(1)[..., 0])
    with pytest.raises(StackError, match="it has more than 5 pages"):
        list_frames(tmp_path / "a.tif")


def test_what_a_library_raises_names_the_file(tmp_path, monkeypatch):
    def broken(*_):
        raise IndexError("tuple index\nout of range")

    write_picture(tmp_path / "a.png", drawn())
    monkeypatch.setattr(formats, "upright", broken)
    with pytest.raises(StackError, match=r"a\.png cannot be read \(tuple index out of range\)"):
        read_picture(tmp_path / "a.png")


def frame_of_imagej(grey):
    options = {"imagej": True, "metadata": {"unit": "um"}, "resolution": (5.0, 5.0)}
    return tiff(grey, **options)


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_pixel_size_and_description_are_carried_without_exif(tmp_path, suffix):
    grey = drawn(1, np.uint16)
    (tmp_path / "a.tif").write_bytes(frame_of_imagej(grey[..., 0]))
    decoded = decode(tmp_path / "a.tif")
    np.testing.assert_array_equal(decoded.picture, grey)
    write_picture(tmp_path / f"b{suffix}", decoded.picture, decoded.metadata)
    again = decode(tmp_path / f"b{suffix}").metadata.exif
    assert again is not None
    tags, _ = tiff_tags(again)
    assert float(tags[282][1]) == float(tags[283][1]) == 5
    assert b"unit=um" in tags[270][1] and b"images" not in tags[270][1]


def test_imagej_finds_its_unit_in_the_result(tmp_path):
    (tmp_path / "a.tif").write_bytes(frame_of_imagej(drawn(1, np.uint16)[..., 0]))
    decoded = decode(tmp_path / "a.tif")
    write_picture(tmp_path / "b.tif", decoded.picture, decoded.metadata)
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.is_imagej and file.imagej_metadata["unit"] == "um"
        assert file.pages[0].tags[282].value == (5, 1)


def test_what_a_description_says_of_planes_is_left_out(tmp_path):
    volume = np.stack([drawn(1, np.uint16)[..., 0]] * 3)
    for options in ({"imagej": True}, {"ome": True}, {}):
        (tmp_path / "a.tif").write_bytes(tiff(volume, photometric="minisblack", **options))
        frames = list_frames(tmp_path / "a.tif")
        metadata = decode(frames[0]).metadata
        tags = tiff_tags(metadata.exif)[0] if metadata.exif else {}
        text = tags.get(270, (2, b""))[1]
        assert not any(word in text for word in (b"images=", b"slices", b"shape", b"OME"))


def test_a_plain_tiff_still_has_no_metadata(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(drawn(3), photometric="rgb"))
    assert decode(tmp_path / "a.tif").metadata == Metadata()


@pytest.mark.parametrize("tile", [None, (16, 16)], ids=str)
def test_strips_and_tiles_that_are_missing_are_not_taken_for_black(tmp_path, tile):
    path = tmp_path / "a.tif"
    rows = None if tile else 8
    tifffile.imwrite(path, drawn(), photometric="rgb", tile=tile, rowsperstrip=rows)
    with tifffile.TiffFile(path) as file:
        counts = file.pages[0].tags["TileByteCounts" if tile else "StripByteCounts"]
        offset, size = counts.valueoffset, counts.valuebytecount // counts.count
    decode(path)
    data = bytearray(path.read_bytes())
    data[offset + size : offset + 2 * size] = bytes(size)
    path.write_bytes(data)
    with pytest.raises(StackError, match=r"a\.tif is cut short"):
        decode(path)
