"""fusion/fuse.py: known answers, tiles without a seam, exact properties of the weights."""

import itertools
import tracemalloc

import cv2
import numpy as np
import pytest
from stand_ins import Engine, brightest, only

from stackmff.alignment.geometry import Alignment
from stackmff.errors import StackError
from stackmff.fusion import tiles as tiles_module
from stackmff.fusion.blending import Mixture, distinct_frames
from stackmff.fusion.engine_choice import torch_engine
from stackmff.fusion.engines import TorchEngine
from stackmff.fusion.fuse import fuse_stack
from stackmff.fusion.tiles import ramp, tile_area, tile_plan, tile_spans
from stackmff.images.colour import luma


def noise(*shape, dtype=np.uint8, seed=0):
    peak = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, peak + 1, shape, dtype)


@pytest.mark.parametrize("side", [1, 15, 16, 17, 100, 128, 129, 191, 192, 193, 1000])
@pytest.mark.parametrize(("tile", "overlap"), [(128, 64), (128, 48), (64, 0), (100, 20)])
def test_spans_cover_the_side(side, tile, overlap):
    spans = tile_spans(side, tile, overlap)
    assert spans[0][0] == 0
    assert spans[-1][1] == side
    for (start, stop), (after, end) in itertools.pairwise(spans):
        assert after % 16 == 0
        assert stop - after >= overlap
        assert start < after < end
        assert stop < end
    assert all(stop - start <= tile for start, stop in spans)
    total = np.zeros(side)
    for start, stop in spans:
        total[start:stop] += ramp((start, stop), spans)
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_an_overlap_of_more_than_half_is_refused():
    with pytest.raises(ValueError, match="by half at most"):
        tile_spans(1000, 128, 65)


@pytest.mark.parametrize("shape", [(3, 200, 330, 3), (2, 300, 90, 1), (4, 77, 300, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiles_equal_the_whole(shape, dtype):
    frames = noise(*shape, dtype=dtype)
    whole = fuse_stack(frames, Engine(brightest), tile=4096)
    engine, calls = Engine(brightest), []
    tiled = fuse_stack(
        frames, engine, tile=128, overlap=64, progress=lambda *state: calls.append(state)
    )
    count = len(tile_spans(shape[1], 128, 64)) * len(tile_spans(shape[2], 128, 64))
    assert count > 1
    assert calls == [(k + 1, count) for k in range(count)]
    for name in ("picture", "focus_map", "confidence"):
        one, other = getattr(whole, name), getattr(tiled, name)
        assert one.dtype == other.dtype
        assert np.abs(one.astype(int) - other).max() <= 1  # rounding
    weights = brightest(luma(frames)[None])[0]
    expected = (weights[..., None] * frames).sum(0)
    assert whole.picture.dtype == dtype
    assert np.abs(whole.picture - expected).max() < 0.52
    index = (weights * np.arange(shape[0])[:, None, None]).sum(0) * 65535 / (shape[0] - 1)
    assert np.abs(whole.focus_map - index).max() < 0.6
    assert np.abs(whole.confidence - 255 * weights.max(0)).max() < 0.51


def test_what_is_near_the_border_of_a_tile_is_discarded():
    """An engine that is wrong within 40 px of its borders does no harm between tiles."""
    frames = noise(2, 300, 400, 3)

    def spoiled(tiles):
        weights = only(1)(tiles)
        inner = np.zeros(tiles.shape[2:], bool)
        inner[40:-40, 40:-40] = True
        return np.where(inner, weights, weights[:, ::-1])

    result = fuse_stack(frames, Engine(spoiled), tile=256, overlap=128)
    inside = slice(40, -40), slice(40, -40)
    np.testing.assert_array_equal(result.picture[inside], frames[1][inside])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_mixtures_stay_within_their_frames(dtype):
    rng = np.random.default_rng(1)

    def at_random(tiles):
        weights = rng.random(tiles.shape, np.float32) ** 8
        return weights / weights.sum(1, keepdims=True)

    frames = noise(5, 150, 150, 3, dtype=dtype)
    result = fuse_stack(frames, Engine(at_random), tile=128, overlap=64).picture
    assert (result >= frames.min(0)).all()
    assert (result <= frames.max(0)).all()
    equal = np.repeat(frames[:1], 7, 0)
    result = fuse_stack(equal, Engine(at_random), tile=128, overlap=64)
    np.testing.assert_array_equal(result.picture, frames[0])


@pytest.mark.parametrize("count", [2, 3, 300])
def test_focus_map_names_the_frame(count):
    frames = noise(count, 8, 8, 1)
    for index in (0, 1, count - 1):
        result = fuse_stack(frames, Engine(only(index)))
        assert (result.focus_map == round(65535 * index / (count - 1))).all()
        assert (result.confidence == 255).all()
        np.testing.assert_array_equal(result.picture, frames[index])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_luma_networks_take_the_colour_of_the_nearest_frame(dtype, channels):
    frames = noise(3, 150, 170, channels, dtype=dtype, seed=2)
    frames[0] = frames[0] // 4  # lumas that differ
    frames[2] = frames[2] // 4 + np.iinfo(dtype).max // 4 * 3
    seen = []

    def second(tiles):
        seen.append(tiles)
        return tiles[:, 1:2]

    result = fuse_stack(frames, Engine(second, "luma"), tile=128, overlap=64)
    assert result.confidence is None
    assert result.picture.dtype == dtype
    if channels >= 3:
        codes = cv2.cvtColor(frames[0, :128, :128, :3].copy(), cv2.COLOR_RGB2YCrCb)[..., 0]
    else:
        codes = frames[0, :128, :128, 0]
    np.testing.assert_allclose(seen[0][0, 0], codes / np.iinfo(dtype).max, atol=1e-7)
    second_frame = result.focus_map == 32768  # but where another has the same luma and is first
    assert second_frame.mean() > 0.9
    error = np.abs(result.picture.astype(int) - frames[1])[second_frame]
    # OpenCV's way to YCrCb and back is off by some levels of 255, or of 65535.
    assert error.max() <= (0 if channels <= 2 else 4 if dtype == np.uint8 else 30)


def test_nearest_luma_is_by_pixel():
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    frames[0] = (200, 40, 40)
    frames[1] = (40, 40, 200)
    nearest = cv2.cvtColor(frames[:, 0, :1], cv2.COLOR_RGB2YCrCb)[:, 0, 0] / 255

    def left_and_right(tiles):
        out = np.full_like(tiles[:, :1], nearest[0])
        out[..., 2:] = nearest[1]
        return out

    result = fuse_stack(frames, Engine(left_and_right, "luma"))
    assert (result.focus_map[:, :2] == 0).all()
    assert (result.focus_map[:, 2:] == 65535).all()
    assert np.abs(result.picture[:, :2].astype(int) - frames[0, 0, 0]).max() <= 2
    assert np.abs(result.picture[:, 2:].astype(int) - frames[1, 0, 0]).max() <= 2


def test_memory_does_not_grow_with_the_height():
    def extra(height):
        frames = np.zeros((2, height, 200, 3), np.uint8)
        tracemalloc.start()
        result = fuse_stack(frames, Engine(brightest), tile=128, overlap=64)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak - sum(
            part.nbytes for part in (result.picture, result.focus_map, result.confidence)
        )

    assert extra(4000) < 1.1 * extra(800)


def test_many_frames_get_smaller_tiles():
    engine = Engine(brightest, tile=1024)
    assert tile_area(engine, 7) == 1024**2
    assert tile_area(engine, 12) * 12 <= engine.samples
    engine.samples = 2**21
    assert tile_area(engine, 12) == tiles_module.MEDIUM_TILE**2
    assert tile_area(engine, 80) * 80 <= engine.most_samples
    assert tile_area(engine, 5000) == tiles_module.SMALL_TILE**2
    assert tile_area(Engine(brightest, "luma", 640), 1000) == 640**2


@pytest.mark.parametrize("shape", [(3000, 4000), (1080, 1920), (40, 5000), (130, 150), (7, 9)])
@pytest.mark.parametrize("area", [2**20, 262144, 128**2])
def test_a_plan_covers_the_picture_with_tiles_of_at_most_the_area(shape, area):
    plan = tile_plan(*shape, area, 64)
    high, wide = (max(stop - start for start, stop in spans) for spans in plan)
    assert high * wide <= area
    for side, spans in zip(shape, plan, strict=True):
        total = np.zeros(side)
        for start, stop in spans:
            assert start % 32 == 0
            total[start:stop] += ramp((start, stop), spans)
        np.testing.assert_allclose(total, 1, atol=1e-6)
    squares = [len(tile_spans(side, int(area**0.5), 64)) for side in shape]
    pixels = len(plan[0]) * len(plan[1]) * high * wide
    assert pixels <= squares[0] * squares[1] * area


def checkpoint(tmp_path, name):
    import torch

    from network import build_network, default_config

    torch.manual_seed(0)
    network = build_network(default_config(name))
    path = tmp_path / f"{name}.pth"
    torch.save({"config": network.config, "network": network.state_dict()}, path)
    return path


def test_stackmix_in_tiles_is_near_the_whole(tmp_path):
    engine = torch_engine(checkpoint(tmp_path, "StackMix"), "cpu")
    assert engine.output == "weights"
    frames = cv2.GaussianBlur(noise(400, 420, 9), (0, 0), 2).reshape(400, 420, 3, 3)
    frames = np.ascontiguousarray(frames.transpose(2, 0, 1, 3))
    whole = fuse_stack(frames, engine)
    tiled = fuse_stack(frames, engine, tile=256)
    difference = np.abs(whole.picture.astype(int) - tiled.picture)
    assert difference.mean() < 0.05
    assert (difference > 1).mean() < 0.005
    assert engine.seconds > 0


@pytest.mark.parametrize("name", ["StackMix", "StackMFF"])
@pytest.mark.parametrize("shape", [(2, 1, 1, 3), (3, 5, 40, 1)])
def test_networks_fuse_any_size(tmp_path, name, shape):
    result = fuse_stack(noise(*shape), torch_engine(checkpoint(tmp_path, name), "cpu"))
    assert result.picture.shape == shape[1:]
    assert (result.confidence is None) == (name == "StackMFF")


def test_a_lack_of_memory_is_one_sentence():
    class Network:
        output, colour = "weights", False

        def __call__(self, stack):
            raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")

    engine = TorchEngine(Network(), "cpu")
    with pytest.raises(StackError, match="3 frames in tiles of 8x8 do not fit"):
        fuse_stack(noise(3, 8, 8, 3), engine)


def shifted(frames, shifts):
    """Frames moved to the right by whole px, and how they then lie on the first."""
    moved = np.stack([np.roll(f, dx, 1) for f, dx in zip(frames, shifts, strict=True)])
    transforms = [np.float64([[1, 0, dx], [0, 1, 0]]) for dx in shifts]
    ones = np.ones((len(frames), frames.shape[3]))
    return moved, Alignment(0, frames.shape[1:3], transforms, ones)


def test_only_frames_that_cover_a_pixel_take_part():
    """Frame 1 has all the weight and does not reach the last 10 columns: the others share them.

    It fades out over the 16 columns before.
    """
    frames = noise(3, 90, 150, 3)
    _, alignment = shifted(frames, [0, 10, 0])
    fused = fuse_stack(
        frames, Engine(only(1), tile=64), overlap=0, mixture=Mixture(alignment=alignment)
    )
    np.testing.assert_array_equal(fused.picture[:, :124], frames[1, :, :124])
    end = fused.picture[:, 140:].astype(int)
    assert np.abs(end - (frames[0, :, 140:].astype(int) + frames[2, :, 140:]) / 2).max() <= 1
    focus = fused.focus_map.astype(int)
    assert np.abs(focus - 32768).max() <= 1  # frame 1, or frames 0 and 2 alike


def test_there_is_no_step_where_a_frame_ends():
    """The frame with all the weight is 100 levels brighter than the others."""
    frames = np.full((3, 40, 120, 1), 60, np.uint8)
    frames[1] += 100
    for shift in (12, -12):
        _, alignment = shifted(frames, [0, shift, 0])
        mixture = Mixture(alignment=alignment)
        picture = fuse_stack(frames, Engine(only(1)), mixture).picture[20, :, 0].astype(int)
        picture = picture if shift > 0 else picture[::-1]
        assert picture[0] == 160 and picture[-1] == 60
        steepest = 100 * 1.5 / 16  # of a cubic ramp over 16 px
        assert np.abs(np.diff(picture)).max() <= steepest + 1 and (np.diff(picture) <= 0).all()


def test_a_network_that_draws_takes_its_colours_from_frames_that_cover_a_pixel():
    frames = noise(3, 90, 150, 1)
    _, alignment = shifted(frames, [0, 10, 0])
    engine = Engine(lambda tiles: tiles[:, 1:2], "luma", tile=4096)
    fused = fuse_stack(frames, engine, mixture=Mixture(alignment=alignment))
    np.testing.assert_array_equal(fused.picture, frames[1])
    assert (fused.focus_map[:, :140] == 32768).mean() > 0.98  # others have its luma by chance
    assert (fused.focus_map[:, 140:] != 32768).all()


def test_the_weights_of_what_covers_keep_their_proportion():
    frames = noise(3, 40, 60, 1)
    _, alignment = shifted(frames, [0, 0, 20])

    def weigh(tiles):
        return np.broadcast_to(np.float32([0.2, 0.3, 0.5])[:, None, None], tiles[0].shape)[None]

    fused = fuse_stack(frames, Engine(weigh), mixture=Mixture(alignment=alignment)).picture[
        :, 40:, 0
    ]
    assert np.abs(fused - (0.4 * frames[0, :, 40:, 0] + 0.6 * frames[1, :, 40:, 0])).max() <= 0.51


def test_frames_left_out_or_not_asked_for_have_no_part():
    frames = noise(4, 40, 50, 3)
    _, alignment = shifted(frames, [0, 0, 0, 0])
    alignment.transforms[3] = None
    engine = Engine(brightest)
    fused = fuse_stack(frames, engine, mixture=Mixture(alignment=alignment))
    np.testing.assert_array_equal(fused.picture, fuse_stack(frames[:3], engine).picture)
    assert fused.focus_map.max() <= round(65535 * 2 / 3)  # it still counts all four
    some = fuse_stack(frames, engine, mixture=Mixture(use=[1, 3], maps=False)).picture
    np.testing.assert_array_equal(some, fuse_stack(frames[[1, 3]], engine).picture)
    assert engine.shapes[-1][1] == 2


def test_a_tilt_decides_between_frames_that_share_a_pixel():
    frames = noise(5, 30, 40, 3)

    def torn(tiles):
        """Left half: the first and the last frame alike. Right half: the second, surely."""
        weights = np.full_like(tiles, 1e-4)
        weights[:, [0, 4], :, :20] = 0.5
        weights[:, 1, :, 20:] = 1
        return weights / weights.sum(1, keepdims=True)

    for tilt, index in ((6, 4), (-6, 0)):
        fused = fuse_stack(frames, Engine(torn), mixture=Mixture(tilt=tilt)).picture.astype(int)
        assert np.abs(fused[:, :20] - frames[index, :, :20]).mean() < 1
        assert np.abs(fused[:, 20:] - frames[1, :, 20:]).mean() < 2
        assert (fused >= frames.min(0)).all() and (fused <= frames.max(0)).all()
    even = fuse_stack(frames, Engine(torn)).picture
    np.testing.assert_array_equal(
        even, fuse_stack(frames, Engine(torn), mixture=Mixture(tilt=0.0)).picture
    )


@pytest.mark.parametrize("kind", ["weights", "luma"])
def test_16_bits_of_8(kind):
    frames = noise(2, 30, 40, 3)
    function = brightest if kind == "weights" else lambda tiles: tiles.max(1, keepdims=True)
    whole, deep = (
        fuse_stack(frames, Engine(function, kind), mixture=Mixture(deep=deep, maps=False)).picture
        for deep in (False, True)
    )
    assert deep.dtype == np.uint16
    assert np.abs(deep / 257 - whole).max() <= 0.51


def test_copies_of_frames_are_left_out_and_the_maps_know_where_the_others_lie():
    a, b, c = noise(3, 40, 50, 3)
    assert distinct_frames(np.stack([a, b, a, c, b])) == [0, 1, 3]
    almost = a.copy()
    almost[1, 1] ^= 1  # where the first look does not see it
    assert distinct_frames(np.stack([a, almost])) == [0, 1]
    plain = fuse_stack(np.stack([a, b, c]), Engine(brightest))
    for frames, places in (([a, b, b, c], [0, 1, 3]), ([a, a, b, c], [0, 2, 3])):
        engine = Engine(brightest)
        copied = fuse_stack(np.stack(frames), engine)
        assert engine.shapes[0][1] == 3
        np.testing.assert_array_equal(copied.picture, plain.picture)
        np.testing.assert_array_equal(copied.confidence, plain.confidence)
        weights = brightest(luma(np.stack([a, b, c]))[None])[0]
        expected = np.tensordot(places, weights, 1) * 65535 / 3
        np.testing.assert_allclose(copied.focus_map, expected, atol=2)
