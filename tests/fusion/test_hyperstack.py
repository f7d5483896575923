"""fusion/hyperstack.py: channels and times are fused apart and come back as one file."""

import numpy as np
import pytest
import tifffile
from calling import call, summary
from drawn import draw_stack, texture
from stand_ins import Engine, brightest, only

import predict
import predict_dataset
from stackmff.errors import StackError
from stackmff.fusion.hyperstack import channel_of, composite, fuse_hyperstack
from stackmff.fusion.options import FuseOptions
from stackmff.images.formats import read_picture
from stackmff.images.hyperstacks import hyperstack_in
from stackmff.options import build

NAMES = ["DAPI", "GFP"]


def cells(times=1, dtype=np.uint16):
    """(T, Z, C, H, W) of two channels that differ."""
    stacks = [draw_stack(texture(64, 80, seed), 4) for seed in range(2 * times)]
    data = np.array(stacks)[..., 0].reshape(times, 2, 4, 64, 80).swapaxes(1, 2)
    return (data.astype(np.float64) * 200).astype(dtype)


def written(path, data, **options):
    axes = "TZCYX" if data.ndim == 5 else "ZCYX"
    labels = NAMES * (data.size // 2 // (64 * 80))
    if options.get("imagej"):
        options["metadata"] = {"Labels": labels, "unit": "um"}
    options["metadata"] = {"axes": axes, **options.get("metadata", {})}
    tifffile.imwrite(path, data, resolution=(5, 5), photometric="minisblack", **options)
    return path


OFF = build(FuseOptions, {"align": "off"})


@pytest.mark.parametrize("form", [{"imagej": True}, {"ome": True}, {}], ids=str)
def test_a_result_is_what_each_stack_alone_gives(tmp_path, form):
    data = cells(times=2)
    source = hyperstack_in(written(tmp_path / "a.tif", data, **form))
    result = fuse_hyperstack(source, Engine(only(1)), tmp_path / "b.tif", OFF)
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        series = file.series[0]
        assert series.axes == "TCYX" and series.kind == next(iter(form), "shaped")
        np.testing.assert_array_equal(series.asarray(), data[:, 1])
        if "imagej" in form:
            assert file.imagej_metadata["unit"] == "um"
            assert file.pages[0].tags["XResolution"].value == (5, 1)
    assert result["frames"] == 4 and (result["height"], result["width"]) == (64, 80)


def test_one_channel_can_give_the_weights_of_all(tmp_path):
    data = cells()[0]
    source = hyperstack_in(written(tmp_path / "a.tif", data, imagej=True))
    first = brightest(np.float32(data[None, :, 1] / 65535))[0]
    options = build(FuseOptions, {"align": "off", "focus_from": "gfp"})
    fuse_hyperstack(source, Engine(brightest), tmp_path / "b.tif", options)
    back = tifffile.imread(tmp_path / "b.tif")
    wanted = (first[:, None] * data).sum(0)
    assert np.abs(back - wanted).max() <= 1
    fuse_hyperstack(source, Engine(brightest), tmp_path / "c.tif", OFF)
    apart = tifffile.imread(tmp_path / "c.tif")
    np.testing.assert_array_equal(apart[1], back[1])
    assert (apart[0] != back[0]).any()


def test_frames_of_other_channels_move_as_those_of_the_one(tmp_path):
    """GFP is dim noise that nothing could be measured in."""
    rng = np.random.default_rng(0)
    wide = texture(96, 120, 0)
    drawn = draw_stack(wide, 4)
    shifts = [(4, 2), (0, 0), (2, 5), (3, 1)]
    moved = np.array([f[y : y + 80, x : x + 100, 0] for f, (y, x) in zip(drawn, shifts)])
    data = np.stack([moved, np.uint8(moved // 2 + rng.integers(0, 60, moved.shape))], 1)
    source = hyperstack_in(written_plain(tmp_path / "a.tif", data))
    options = build(FuseOptions, {"align": "on", "focus_from": "1", "reference": "1"})
    result = fuse_hyperstack(source, Engine(only(2)), tmp_path / "b.tif", options)
    assert any("frames aligned to" in note for note in result["notes"])
    back = tifffile.imread(tmp_path / "b.tif").astype(float)
    inner = slice(12, -12), slice(12, -12)
    for channel in (0, 1):  # frame 2 lies on frame 1 now: it is unlike itself, as it was
        other = data[1, channel].astype(float)
        after, before = back[channel][inner], data[2, channel].astype(float)[inner]
        like = [np.corrcoef(one.ravel(), other[inner].ravel())[0, 1] for one in (after, before)]
        assert like[0] > like[1] + 0.1


def written_plain(path, data):
    tifffile.imwrite(path, data, photometric="minisblack", metadata={"axes": "ZCYX"})
    return path


@pytest.mark.parametrize("dtype", [np.int16, np.uint32, np.float32])
def test_other_types_come_back_as_they_came(tmp_path, dtype):
    data = cells(dtype=np.uint16)[0].astype(dtype) - (1000 if dtype != np.uint32 else 0)
    data = data.astype(dtype)
    source = hyperstack_in(written(tmp_path / "a.tif", data))
    result = fuse_hyperstack(source, Engine(only(3)), tmp_path / "b.tif", OFF)
    back = tifffile.imread(tmp_path / "b.tif")
    assert back.dtype == dtype
    np.testing.assert_allclose(back, data[3], atol=source.scale(0).step)
    assert any(f"{np.dtype(dtype)} values from" in note for note in result["notes"])


def test_the_command_and_its_sentences(tmp_path, weights, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "cells.tif", cells(times=2), imagej=True)
    network = "--model_path", weights["StackMix"], "--device", "cpu"
    args = "--stack_path", "cells.tif", *network
    assert call(predict.main, *args) == 0
    said = capsys.readouterr()
    assert "results/cells.tif: 80x64, 4 frames in each of 4 stacks" in said.out
    assert tifffile.TiffFile("results/cells.tif").series[0].axes == "TCYX"
    for more, sentence in (
        (("--focus_map", "map.png"), r"--focus_map is for one stack, and cells\.tif has axes T 2"),
        (("--output", "a.png"), r"a\.png cannot hold 2 times"),
        (
            ("--focus_from", "RFP"),
            r"--focus_from RFP is not a channel .* 1 to 2 or one of dapi, gfp",
        ),
        (("--bits", "8"), "remove --bits"),
        (("--slab", "2"), "--slab is for one stack"),
    ):
        with pytest.raises(StackError, match=sentence):
            predict.main([*map(str, args), *more])
    frames = tmp_path / "frames"
    for k, frame in enumerate(draw_stack(texture(64, 80, 0), 3)):
        frames.mkdir(exist_ok=True)
        tifffile.imwrite(frames / f"{k}.tif", frame, photometric="rgb", metadata=None)
    with pytest.raises(StackError, match="frames has no channels"):
        predict.main(["--stack_path", "frames", "--focus_from", "1", *map(str, network)])


def test_a_picture_without_axes_shows_the_channels_as_colours(tmp_path):
    data = cells()[0]
    source = hyperstack_in(written(tmp_path / "a.tif", data, imagej=True))
    result = fuse_hyperstack(source, Engine(only(1)), tmp_path / "b.png", OFF)
    assert "shown in a colour" in result["notes"][-1]
    back = read_picture(tmp_path / "b.png")
    np.testing.assert_array_equal(back, composite(data[1]))
    assert np.corrcoef(back[..., 0].ravel(), data[1, 0].ravel())[0, 1] > 0.99
    assert not back[..., 2].any()


def test_a_data_set_of_hyperstacks(tmp_path, weights, capsys):
    (tmp_path / "set").mkdir()
    written(tmp_path / "set" / "a.tif", cells()[0], imagej=True)
    written(tmp_path / "set" / "bad.tif", cells()[0], imagej=True)
    data = (tmp_path / "set" / "bad.tif").read_bytes()
    (tmp_path / "set" / "bad.tif").write_bytes(data.replace(b"slices=4", b"slices=3"))
    args = "--stack_basedir_path", tmp_path / "set", "--output_dir", tmp_path / "out"
    args = *args, "--model_path", weights["StackMix"], "--device", "cpu"
    assert call(predict_dataset.main, *args) == 1
    assert "declares C x Z x T = 2 x 3 x 1" in capsys.readouterr().err
    with tifffile.TiffFile(tmp_path / "out" / "a.tif") as file:
        assert file.series[0].axes == "CYX"
    assert summary(tmp_path / "out")["a"]["frames"] == "4"
    changed = (tmp_path / "out" / "a.tif").stat().st_mtime_ns
    call(predict_dataset.main, *args)
    assert (tmp_path / "out" / "a.tif").stat().st_mtime_ns == changed
    said = capsys.readouterr()
    assert "report.html" in said.out and "has no maps" not in said.err
    call(predict_dataset.main, *args, "--no_report", "--focus_map")
    assert "a: a hyperstack has no maps, previews or alignments" in capsys.readouterr().err


def test_channels_by_name_or_number(tmp_path):
    source = hyperstack_in(written(tmp_path / "a.tif", cells()[0], imagej=True))
    assert [channel_of(source, word) for word in ("dapi", "GFP", "1", "2")] == [0, 1, 0, 1]
    for word in ("0", "3", "", "x"):
        with pytest.raises(StackError):
            channel_of(source, word)
