"""images/hyperstacks.py: planes lie along the axes that the header declares, or it is refused."""

import re

import numpy as np
import pytest
import tifffile

from stackmff.errors import StackError
from stackmff.images.folders import list_frames
from stackmff.images.hyperstacks import Scale, hyperstack_in, write_hyperstack
from stackmff.images.stack import read_stack


def planes(*shape, dtype=np.uint16):
    return np.random.default_rng(0).integers(0, 250, (*shape, 12, 16)).astype(dtype)


def written(path, data, axes, **options):
    metadata = {"axes": axes, **options.pop("metadata", {})}
    tifffile.imwrite(path, data, metadata=metadata, **options)
    return path


def one_directory(path):
    """Leave only the first directory of a file from ImageJ, as it writes beyond 4 GB."""
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        order = "big" if file.byteorder == ">" else "little"
        start = file.pages[0].offset
    end = start + 2 + 12 * int.from_bytes(data[start : start + 2], order)
    data[end : end + 4] = bytes(4)
    path.write_bytes(data)


@pytest.mark.parametrize("axes", ["TZCYX", "ZCYX", "TZYX", "ZTCYX", "CZYX"])
@pytest.mark.parametrize(
    "form",
    [
        {"imagej": True},
        {"ome": True},
        {},
        {"ome": True, "bigtiff": True, "compression": "zlib"},
        {"ome": True, "bigtiff": True, "byteorder": ">"},
    ],
    ids=str,
)
def test_each_channel_and_time_is_a_stack(tmp_path, axes, form):
    if form.get("imagej") and axes in ("ZTCYX", "CZYX"):
        pytest.skip("ImageJ has one order")
    lengths = {"T": 2, "Z": 4, "C": 3}
    data = planes(*(lengths[axis] for axis in axes[:-2]))
    path = written(tmp_path / "a.tif", data, axes, photometric="minisblack", **form)
    found = hyperstack_in(path)
    assert found.focus == "Z" and len(found) == 4
    assert found.kept == "".join(axis for axis in "TC" if axis in axes)
    ordered = np.moveaxis(data, axes.index("Z"), -3)
    if axes == "ZTCYX" or axes == "TZCYX":
        ordered = ordered.reshape(2, 3, 4, 12, 16)
    for at in range(found.times):
        for channel in range(found.channels):
            stack = read_stack(found.stack(at, channel))
            index = [{"T": at, "C": channel}[axis] for axis in axes[:-2] if axis != "Z"]
            np.testing.assert_array_equal(stack.frames[..., 0], ordered[tuple(index)])


def test_what_is_one_stack_is_read_as_frames_everywhere(tmp_path):
    data = planes(5)
    volume = tmp_path / "volume.tif"
    tifffile.imwrite(volume, data, volumetric=True, tile=(1, 16, 16), photometric="minisblack")
    one = written(tmp_path / "one.tif", data, "ZYX", imagej=True)
    one_directory(one)
    separate = tmp_path / "separate.tif"
    tifffile.imwrite(separate, data, photometric="minisblack", planarconfig="separate")
    plain = written(tmp_path / "plain.tif", data, "ZYX", imagej=True)
    for path in (volume, one, separate, plain):
        frames = list_frames(path)
        assert frames[1].name == f"{path.stem}-2.tif"
        np.testing.assert_array_equal(read_stack(frames).frames[..., 0], data)
    assert hyperstack_in(plain) is None  # its pages are plain frames


def test_stacks_of_several_channels_are_not_taken_for_one(tmp_path):
    path = written(tmp_path / "a.tif", planes(4, 2), "ZCYX", imagej=True)
    with pytest.raises(StackError, match=r"a\.tif has axes Z 4, C 2, stacks of 4 frames each: fus"):
        list_frames(path)


def test_channels_without_names_are_frames_and_told(tmp_path):
    """tifffile calls planes so whose axes it is not told."""
    path = tmp_path / "a.tif"
    for form in ({"ome": True}, {"imagej": True}):
        tifffile.imwrite(path, planes(5), photometric="minisblack", **form)
        stack = read_stack(list_frames(path))
        np.testing.assert_array_equal(stack.frames[..., 0], planes(5))
        assert "a-1.tif, a-2.tif, a-3.tif and 2 more: its planes are declared as" in stack.notes[0]
    names = {"axes": "CYX", "Channel": {"Name": [*"abcde"]}}
    tifffile.imwrite(path, planes(5), ome=True, photometric="minisblack", metadata=names)
    with pytest.raises(StackError, match="none along which"):
        list_frames(path)


def changed(path, old, new):
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new))


@pytest.mark.parametrize(
    ("form", "old", "new"),
    [
        ({"imagej": True}, b"slices=4", b"slices=5"),
        ({"imagej": True}, b"images=24", b"images=25"),
        ({"ome": True}, b'SizeZ="4"', b'SizeZ="5"'),
        ({"ome": True}, b'SizeZ="4"', b'SizeZ="1"'),
        ({}, b"[2, 4, 3,", b"[2, 5, 3,"),
    ],
)
def test_a_contradiction_is_refused_with_its_axes(tmp_path, form, old, new):
    path = written(tmp_path / "a.tif", planes(2, 4, 3), "TZCYX", photometric="minisblack", **form)
    changed(path, old, new)
    with pytest.raises(StackError, match=r"a\.tif declares (C x Z x T = 3 x|axes TZCYX)"):
        hyperstack_in(path)


def test_axes_without_focus_or_without_a_meaning_are_refused(tmp_path):
    composite = {"mode": "composite"}
    path = written(tmp_path / "a.tif", planes(3), "CYX", imagej=True, metadata=composite)
    with pytest.raises(StackError, match=r"axes CYX \(3, 12, 16\), and none along which"):
        list_frames(path)
    tifffile.imwrite(path, planes(5, 6), photometric="minisblack")
    with pytest.raises(StackError, match=r"axes QQYX .* does not say which of them"):
        list_frames(path)


def test_planes_in_other_files_and_document_types_are_refused(tmp_path):
    path = written(tmp_path / "a.ome.tif", planes(4, 2), "ZCYX", ome=True)
    with tifffile.TiffFile(path) as file:
        text = file.ome_metadata
    elsewhere = re.sub(
        '<TiffData IFD="0" PlaneCount="8"/>',
        '<TiffData IFD="0" PlaneCount="1"><UUID FileName="b.tif">urn:uuid:1</UUID></TiffData>',
        text,
    ).replace('SizeZ="4"', 'SizeZ="8"')
    for description, sentence in (
        (elsewhere, r"declares C x Z x T = 2 x 8 x 1 planes and holds 8, others are in b\.tif"),
        (text.replace("?>", "?><!DOCTYPE a>"), "a document type"),
        (text.replace("</OME>", "</OME"), "damaged OME description"),
    ):
        tifffile.imwrite(path, planes(4, 2), description=description.encode(), metadata=None)
        with pytest.raises(StackError, match=sentence):
            hyperstack_in(path)


@pytest.mark.parametrize("dtype", [np.int16, np.uint32, np.int32, np.float32, np.float64])
def test_other_types_are_scaled_by_the_stack_and_written_back(tmp_path, dtype):
    rng = np.random.default_rng(1)
    data = (rng.random((4, 2, 12, 16)) * 3000 - (0 if dtype == np.uint32 else 500)).astype(dtype)
    path = written(tmp_path / "a.tif", data, "ZCYX", photometric="minisblack")
    found = hyperstack_in(path)
    frames = read_stack(found.stack(0, 1)).frames
    assert frames.dtype == np.uint16
    scale = found.scale(1)
    np.testing.assert_allclose(
        scale.restored(frames[..., 0], np.dtype(dtype)), data[:, 1], atol=scale.step / 2
    )
    if np.dtype(dtype).kind in "iu":
        assert scale.step == 1
    assert f"{np.dtype(dtype)} values from" in found.notes(1)[0]


def test_values_that_are_no_numbers_count_as_the_lowest(tmp_path):
    data = planes(4, 2, dtype=np.float32)
    data[1, 0, 3, 4], data[2, 0, 0, 0] = np.nan, np.inf
    path = written(tmp_path / "a.tif", data, "ZCYX", photometric="minisblack")
    found = hyperstack_in(path)
    assert found.scale(0).odd == 2
    assert read_stack(found.stack()).frames[1, 3, 4, 0] == 0
    assert "2 values are not finite numbers" in found.notes(0)[1]
    constant = Scale(7.0, 1.0)
    assert constant.restored(constant.coded(np.full((2, 2), 7.0)), np.dtype(np.int8)).max() == 7


def test_a_result_has_the_axes_that_are_left_and_what_the_file_said(tmp_path):
    data = planes(2, 4, 3)
    labels = [
        f"c:{c}/3 z:{z}/4 - {name}" for _ in "tt" for z in "1234" for c, name in enumerate("rgb")
    ]
    about = {"unit": "um", "finterval": 2.5, "Labels": labels}
    path = written(
        tmp_path / "a.tif", data, "TZCYX", imagej=True, resolution=(5, 4), metadata=about
    )
    found = hyperstack_in(path)
    assert found.about.channels == list("rgb")
    assert write_hyperstack(tmp_path / "b.tif", data[:, 0], found) == []
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.series[0].axes == "TCYX" and file.is_imagej
        np.testing.assert_array_equal(file.asarray(), data[:, 0])
        back = file.imagej_metadata
        assert back["unit"] == "um" and back["finterval"] == 2.5
        assert back["Labels"] == [*"rgb"] * 2
        assert file.pages[0].tags["XResolution"].value == (5, 1)
        assert file.pages[0].tags["YResolution"].value == (4, 1)

    sizes = {"PhysicalSizeX": 0.2, "PhysicalSizeXUnit": "µm", "Channel": {"Name": [*"rgb"]}}
    path = written(tmp_path / "c.ome.tif", data, "TZCYX", metadata=sizes)
    write_hyperstack(tmp_path / "d.ome.tif", data[:, 0], hyperstack_in(path))
    with tifffile.TiffFile(tmp_path / "d.ome.tif") as file:
        assert file.series[0].axes == "TCYX" and file.is_ome
        for word in ('PhysicalSizeX="0.2"', "µm", 'Name="g"'):
            assert word in file.ome_metadata


def test_what_imagej_cannot_hold_becomes_ome(tmp_path):
    data = planes(4, 2, dtype=np.float32)
    path = written(
        tmp_path / "a.tif", data, "ZCYX", imagej=True, resolution=(5, 5), metadata={"unit": "um"}
    )
    (note,) = write_hyperstack(
        tmp_path / "b.tif", data[None, 0].astype(np.int16), hyperstack_in(path)
    )
    assert note == "ImageJ has no int16: the result is an OME-TIFF"
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.series[0].axes == "CYX" and 'PhysicalSizeX="0.2"' in file.ome_metadata


def test_a_damaged_plane_is_named(tmp_path):
    path = written(tmp_path / "a.tif", planes(4, 2), "ZCYX", ome=True, compression="zlib")
    found = hyperstack_in(path)
    with tifffile.TiffFile(path) as file:
        start = file.pages[5].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(StackError, match=r"a\.tif is cut short or damaged"):
        read_stack(found.stack(0, 1))
