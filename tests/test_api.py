"""api.py: stacks as files and arrays, what comes of them, and what is refused."""

import cv2
import numpy as np
import pytest
import tifffile
from drawn import draw_moved_stack, draw_stack, texture

import stackmff
from stackmff.images.formats import read_picture, write_picture
from stackmff.images.metadata import Metadata


@pytest.fixture
def frames():
    """Five frames of a drawn scene, (5, 96, 128, 3) uint8."""
    return np.stack(draw_stack(texture(96, 128, 3), 5))


@pytest.fixture
def folder(tmp_path, frames):
    for k, frame in enumerate(frames):
        write_picture(tmp_path / "shots" / f"{k}.png", frame, Metadata(xmp=b"<x/>"))
    return tmp_path / "shots"


def test_a_stack_is_one_as_files_and_as_arrays(folder, frames):
    results = [stackmff.fuse(given) for given in (folder, str(folder), list(frames), frames)]
    for result in results:
        np.testing.assert_array_equal(result.picture, results[0].picture)
        assert result.order == [0, 1, 2, 3, 4] and result.notes == []


def test_it_is_what_the_command_writes(folder, tmp_path):
    import predict

    words = ["--stack_path", folder, "--output", tmp_path / "a.png"]
    maps = ["--focus_map", tmp_path / "f.png", "--confidence", tmp_path / "c.png", "--quiet"]
    predict.main([str(word) for word in (*words, *maps)])
    result = stackmff.fuse(folder)
    np.testing.assert_array_equal(result.picture, read_picture(tmp_path / "a.png"))
    focus, confidence = (read_picture(tmp_path / name)[..., 0] for name in ("f.png", "c.png"))
    assert result.focus_map.dtype == result.confidence.dtype == np.float32
    np.testing.assert_allclose(result.focus_map, focus * (4 / 65535), rtol=1e-6)
    np.testing.assert_allclose(result.confidence, confidence / 255, rtol=1e-6)


def test_arrays_are_not_changed_and_are_moved_like_files(tmp_path):
    frames = draw_moved_stack()
    before = [frame.copy() for frame in frames]
    result, aligned = stackmff.fuse(frames), stackmff.align(frames)
    for frame, old in zip(frames, before, strict=True):
        np.testing.assert_array_equal(frame, old)
    assert any(result.alignment.moved) and any("aligned to" in note for note in result.notes)
    matrix = aligned.transforms[aligned.reference]
    np.testing.assert_array_equal(matrix, np.eye(2, 3))
    assert aligned.frames.shape == (len(frames), *frames[0].shape) and aligned.left_out == {}
    assert aligned.gains.shape == (len(frames), 3)


def test_the_reference_is_a_number_and_the_options_are_the_commands(frames):
    aligned = stackmff.align(list(frames), reference=1)
    assert aligned.reference == 1
    deep = stackmff.fuse(frames, bits=16, align="off")
    assert deep.picture.dtype == np.uint16 and deep.alignment is None


def test_a_frame_out_of_focus_order_has_its_place_told(frames):
    shuffled = [frames[k] for k in (0, 3, 1, 4, 2)]
    result = stackmff.fuse(shuffled)
    assert [(0, 3, 1, 4, 2)[k] for k in result.order] in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0])
    assert any("not in focus order" in note for note in result.notes)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_picture_is_of_the_frames_kind(channels, dtype):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, np.iinfo(dtype).max, (3, 40, 50, channels), dtype, endpoint=True)
    result = stackmff.fuse(frames)
    assert result.picture.shape == (40, 50, channels) and result.picture.dtype == dtype
    assert result.focus_map.min() >= 0 and result.focus_map.max() <= 2
    if channels == 1:
        grey = stackmff.fuse([frame[..., 0] for frame in frames])
        np.testing.assert_array_equal(grey.picture, result.picture)


def test_floats_are_sixteen_bits(frames, tmp_path):
    """Multiples of 1/255 are multiples of 257/65535."""
    floats, deep = frames / 255, frames * np.uint16(257)
    result, wanted = stackmff.fuse(floats), stackmff.fuse(deep)
    assert result.picture.dtype == np.float32
    np.testing.assert_allclose(result.picture, wanted.picture / 65535, rtol=1e-6)
    result.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), wanted.picture)
    aligned = stackmff.align([np.float32(frame) for frame in floats[..., 0]])
    assert aligned.frames.dtype == np.float32 and aligned.frames.shape == (5, 96, 128, 1)
    np.testing.assert_allclose(aligned.frames[..., 0], floats[..., 0], atol=1e-5)


def test_a_list_of_files_is_a_stack(folder):
    paths = sorted(folder.iterdir())
    whole = stackmff.fuse(folder)
    np.testing.assert_array_equal(stackmff.fuse(paths).picture, whole.picture)
    assert stackmff.fuse([str(path) for path in paths[::-1]]).order in (
        [0, 1, 2, 3, 4],
        [4, 3, 2, 1, 0],
    )


def test_weights_are_those_of_the_mixture(frames):
    weights = stackmff.frame_weights(frames, precision="fp32")
    assert weights.shape == (5, 96, 128) and weights.dtype == np.float32 and weights.min() >= 0
    np.testing.assert_allclose(weights.sum(0), 1, atol=1e-6)
    mixture = np.einsum("nhw,nhwc->hwc", weights, np.float32(frames))
    options = {"align": "off", "precision": "fp32", "pure_mixture": True}
    fused = stackmff.fuse(frames, **options).picture
    assert np.abs(mixture - fused).max() <= 0.51  # rounding, and that of the sum


def test_a_network_of_the_callers(frames):
    import torch

    class Last(torch.nn.Module):
        output, colour = "weights", False

        def forward(self, luma):
            weights = torch.zeros_like(luma[:, 0])
            weights[:, -1] = 1
            return weights

    result = stackmff.fuse(frames, network=Last(), align="off")
    np.testing.assert_array_equal(result.picture, frames[-1])
    assert (result.focus_map == 4).all() and (result.confidence == 1).all()
    weights = stackmff.frame_weights(frames, network=Last())
    assert (weights[-1] == 1).all() and (weights[:-1] == 0).all()
    with pytest.raises(stackmff.StackError, match="Identity needs the attributes output"):
        stackmff.fuse(frames, network=torch.nn.Identity())


def test_a_result_is_saved_with_its_metadata(folder, tmp_path):
    result = stackmff.fuse(folder, bits=16)
    assert result.save(tmp_path / "a.tif") == []
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert 700 in file.pages[0].tags  # XMP
    assert "16 bits are rounded to 8" in result.save(str(tmp_path / "a.jpg"))[0]
    assert cv2.imread(str(tmp_path / "a.jpg")) is not None


@pytest.mark.parametrize(
    ("given", "options", "sentence"),
    [
        (lambda f: f[:1], {}, "two frames or more"),
        (lambda f: np.stack(f) / 25, {}, r"frame 0 has values from .* to .*: floats are from 0"),
        (lambda f: [f[0] / 255, f[1] * np.nan], {}, "frame 1 has values from nan"),
        (lambda f: np.int64(f), {}, "frame 0 is int64: convert it to uint8 or uint16"),
        (lambda f: f[0, :, :, 0], {}, r"frame 0 has shape \(128,\)"),
        (lambda f: None, {}, "a stack is a path, a list of paths or arrays, or an array, not None"),
        (lambda f: np.float32(1), {}, "a stack is a path"),
        (lambda f: [[[1, 2], [3]], [[1, 2], [3]]], {}, "the frames are not arrays"),
        (lambda f: ["no.png", "such.png"], {}, "png cannot be read"),
        (lambda f: ["one.png"], {}, "two frames or more"),
        (lambda f: [f[0], f[1][:50]], {}, "frame 1 is \\(50, 128, 3\\)"),
        (lambda f: [f[0], f[1].astype(np.uint16)], {}, "frame 1 is .* uint16, frame 0 is"),
        (lambda f: np.stack(f).transpose(0, 3, 1, 2), {}, "frame 0 has shape"),
        (lambda f: f, {"smoth": 3}, "smoth is not an option: did you mean smooth"),
        (lambda f: f, {"bits": 12}, "--bits 12"),
        (lambda f: f, {"crop": True, "align": "off"}, "--crop contradicts --align off"),
        (lambda f: f, {"reference": 5}, "--reference 5 is no"),
        (lambda f: f, {"slab": 2}, "slab writes files"),
        (lambda f: "no/such/folder", {}, "no/such/folder"),
    ],
)
def test_what_is_refused(frames, given, options, sentence):
    with pytest.raises(stackmff.StackError, match=sentence):
        stackmff.fuse(given(frames), **options)


def test_progress_is_told(frames):
    stages = []
    stackmff.fuse(frames, progress=lambda stage, done, total: stages.append((stage, done == total)))
    assert {stage for stage, done in stages if done} >= {"aligning", "fusing"}


def test_the_names_of_the_package():
    assert set(stackmff.__all__) <= set(dir(stackmff))
    with pytest.raises(AttributeError, match="no attribute 'smoth'"):
        stackmff.smoth  # noqa: B018
