"""A network with a coarse level: its tiles, the tiles of the coarse level, one pixel's mixture."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawn import texture

from network import build_network, luma_and_chroma
from stackmff.fusion import coarse_level, reduction
from stackmff.fusion.blending import Mixture
from stackmff.fusion.coarse_level import PyramidEngine, coarse_tiles, kept
from stackmff.fusion.engine_choice import engine_of_module
from stackmff.fusion.engines import TorchEngine
from stackmff.fusion.fuse import frame_weights, fuse_stack, origin_at
from stackmff.images import frame_store
from stackmff.images.rectangles import Box

SMALL = {"network": "PyramidMix", "widths": (8, 8), "hidden": 4, "window": 3, "chroma": 4}


def make_network(**options):
    """Random weights, the new layers included, so that both levels count."""
    torch.manual_seed(0)
    network = build_network({**SMALL, "guide": 8, **options}).eval()
    for layer in (network.detail_stem, network.guide_out, network.gate):
        torch.nn.init.normal_(layer.weight, std=0.1)
    for level in (network.coarse, network.fine):
        torch.nn.init.normal_(level.head.weight, std=0.2)
    torch.nn.init.zeros_(network.gate.bias)
    return network


@pytest.fixture(scope="module")
def engine():
    return engine_of_module(make_network())


def drawn_stack(height, width, n_frames=3, channels=3, dtype=np.uint8):
    frames = np.stack([texture(height, width, k) for k in range(n_frames)])[..., :channels]
    return np.ascontiguousarray(frames).astype(dtype) * (257 if dtype == np.uint16 else 1)


def test_a_network_with_a_coarse_level_has_its_engine(engine):
    assert isinstance(engine, PyramidEngine)
    torch.manual_seed(0)
    plain = build_network({**SMALL, "network": "StackMix"})
    assert type(engine_of_module(plain)) is TorchEngine


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 1, 1, 3), np.uint8), ((3, 37, 70, 1), np.uint16), ((5, 90, 33, 4), np.uint8)],
)
def test_pictures_of_any_shape_are_mixed_from_their_frames(engine, shape, dtype):
    frames = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype)
    fused = fuse_stack(frames, engine).picture
    assert fused.shape == shape[1:] and fused.dtype == dtype
    assert (fused >= frames.min(0)).all() and (fused <= frames.max(0)).all()


def test_equal_frames_give_that_frame_and_copies_change_nothing(engine):
    frames = drawn_stack(64, 96)
    same = np.repeat(frames[:1], 3, axis=0)
    np.testing.assert_array_equal(fuse_stack(same, engine).picture, frames[0])
    with_copies = np.concatenate([frames, frames[:2]])
    np.testing.assert_array_equal(
        fuse_stack(with_copies, engine).picture, fuse_stack(frames, engine).picture
    )


def test_the_engine_sees_what_the_network_sees_of_the_whole(engine):
    """Reducing frame by frame, from whatever dtype, is the network's own way to the guide."""
    frames = drawn_stack(90, 150)
    planes = torch.from_numpy(np.moveaxis(frames, -1, 0).astype(np.float32) / 255)[None]
    with torch.no_grad():
        wanted = engine.network(*luma_and_chroma(planes))[0].numpy()
    np.testing.assert_allclose(frame_weights(frames, engine), wanted, atol=2e-3)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (17, 300), (391, 270), (128, 64), (257, 24)])
def test_what_is_reduced_in_bands_is_what_the_network_reduces(engine, size):
    frames = np.random.default_rng(0).integers(0, 65536, (2, *size, 3), np.uint16)
    place = Box(0, -(-size[0] // 8), 0, -(-size[1] // 8))
    found = coarse_level.reduced_window(frames, [0, 1], place, None, True)
    planes = torch.from_numpy(np.moveaxis(frames, -1, 0).astype(np.float32) / 65535)[None]
    luma, chroma = luma_and_chroma(planes)
    network = engine.network
    wanted = network.reduced(luma), network.reduced(chroma), network.details(luma)
    for part, whole in zip(found, wanted, strict=True):
        np.testing.assert_allclose(part, whole[0].numpy(), atol=2e-5)


def test_tiles_are_nearly_as_the_whole(engine):
    frames = drawn_stack(416, 544)
    whole = frame_weights(frames, engine)
    blended = fuse_stack(frames, engine, tile=320, overlap=160).picture
    exact = (whole[..., None] * frames).sum(0)
    assert np.abs(blended - exact).max() <= 1


@pytest.mark.parametrize("axis", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_tiles_of_the_coarse_level_are_nearly_as_one(engine, monkeypatch, axis):
    """A random network of two levels; 48 coarse pixels are discarded on either side."""
    frames = drawn_stack(1200, 4800, 2, 1).swapaxes(axis, 2)
    one = engine.for_stack(frames, [0, 1]).guide
    monkeypatch.setattr(engine, "samples", 1)
    rows, columns = coarse_tiles(frames.shape[1:3], 2, 1)
    assert len((rows, columns)[axis - 1]) > 1
    parts = engine.for_stack(frames, [0, 1]).guide
    for whole, joined in zip(one, parts, strict=True):
        assert whole.shape == joined.shape
        np.testing.assert_allclose(joined, whole, atol=1e-4, rtol=1e-4)


def test_what_coarse_tiles_keep_covers_the_picture_once():
    for side, other in itertools.product((1, 100, 200, 220, 250, 300, 333, 500, 1111), repeat=2):
        rows, columns = coarse_tiles((8 * side, 8 * other), 400, 2**23)
        tall, wide = (max(stop - start for start, stop in part) for part in (rows, columns))
        assert tall * wide <= coarse_level.LEAST_AREA
        padded = -(-side // 32) * 32
        parts = [kept(span, rows, padded, 4) for span in rows]
        assert parts[0][0] == 0 and parts[-1][1] == padded
        assert all(one[1] == other[0] for one, other in itertools.pairwise(parts))
        assert all(span[0] <= start for span, (start, _) in zip(rows, parts))


def test_frames_in_a_file_give_the_same(engine, tmp_path):
    frames = drawn_stack(200, 300)
    stored = frame_store.allocate(
        frames.shape, frames.dtype, frame_store.Storage(store=tmp_path / "frames")
    )
    stored[:] = frames
    np.testing.assert_array_equal(
        fuse_stack(stored, engine).picture, fuse_stack(frames, engine).picture
    )
    assert origin_at(stored, engine, 250, 77).shares == pytest.approx(
        origin_at(frames, engine, 250, 77).shares
    )


@pytest.mark.parametrize("more", [1, 4, 5])
def test_frames_in_a_file_may_have_any_height(more, tmp_path):
    # The rows of a short last band are there already, as the margin of the band before it.
    frames = drawn_stack(reduction.BAND + more, 24, 2)
    stored = frame_store.allocate(
        frames.shape, frames.dtype, frame_store.Storage(store=tmp_path / "frames")
    )
    stored[:] = frames
    place = Box(0, -(-frames.shape[1] // reduction.REDUCTION), 0, 3)
    found, wanted = (
        coarse_level.reduced_window(one, [0, 1], place, None, True) for one in (stored, frames)
    )
    for part, whole in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(part, whole)


def test_the_mixture_of_a_pixel_is_that_of_the_picture(engine):
    """Within what the network sees beyond a window of 128 px."""
    frames = drawn_stack(300, 400)
    weights = frame_weights(frames, engine)
    for x, y in ((0, 0), (399, 299), (205, 131)):
        shares = origin_at(frames, engine, x, y).shares
        assert shares.sum() == pytest.approx(1)
        np.testing.assert_allclose(shares, weights[:, y, x], atol=0.05)
    some = origin_at(frames, engine, 205, 131, Mixture(use=[0, 2])).shares
    assert some[1] == 0 and some.sum() == pytest.approx(1)


def test_the_origin_of_a_pixel_tells_what_goes_beyond_the_mixture():
    network = make_network(finish=4)
    torch.nn.init.normal_(network.finish.leave.weight, std=1.0)
    engine = engine_of_module(network)
    frames = drawn_stack(96, 96)  # within one window, so that all is exact
    fused, pure = (
        fuse_stack(frames, engine, Mixture(deep=True, pure=pure)).picture / 257
        for pure in (False, True)
    )
    change = np.abs(fused - pure).max(2)
    for y, x in (np.unravel_index(change.argmax(), change.shape), (0, 0), (95, 50)):
        shares, added = origin_at(frames, engine, int(x), int(y))
        assert shares @ frames[:, y, x] == pytest.approx(pure[y, x], abs=0.05)
        assert added == pytest.approx(fused[y, x] - pure[y, x], abs=0.05)
    assert change.max() > 1
    assert not origin_at(frames, engine, 50, 50, Mixture(pure=True)).added.any()


def test_time_at_the_coarse_level_and_of_tiles_counts(engine):
    before = engine.seconds
    fuse_stack(drawn_stack(64, 64), engine)
    assert engine.seconds > before


@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, np.uint8), (2, np.uint16), (3, np.uint16), (4, np.uint8)]
)
def test_beyond_the_mixture_values_keep_to_the_range_of_3x3(channels, dtype):
    network = make_network(finish=4)
    engine = engine_of_module(network)
    frames = drawn_stack(48, 64, 3, min(channels, 3), dtype)
    if channels in (2, 4):
        alpha = np.full((*frames.shape[:3], 1), np.iinfo(dtype).max, dtype)
        frames = np.concatenate([frames[..., : channels - 1], alpha], 3)
    mixture = fuse_stack(frames, engine, Mixture(pure=True)).picture
    at_first = fuse_stack(frames, engine).picture  # the stage is new: it changes nothing
    assert np.abs(at_first.astype(int) - mixture).max() <= 1
    torch.nn.init.normal_(network.finish.leave.weight, std=1.0)
    fused = fuse_stack(frames, engine).picture
    assert np.abs(fused.astype(int) - mixture).max() > 5
    planes = torch.from_numpy(np.moveaxis(frames, -1, 1).astype(np.float32))
    high = F.max_pool2d(planes, 3, 1, 1).amax(0).movedim(0, -1).numpy()
    low = -F.max_pool2d(-planes, 3, 1, 1).amax(0).movedim(0, -1).numpy()
    assert (fused >= low).all() and (fused <= high).all()
    np.testing.assert_array_equal(fuse_stack(frames, engine, Mixture(pure=True)).picture, mixture)


def test_tiles_of_the_stage_beyond_the_mixture_are_as_the_whole():
    network = make_network(finish=4)
    torch.nn.init.normal_(network.finish.leave.weight, std=0.3)
    torch.nn.init.normal_(network.finish.enter_features.weight, std=0.3)
    engine = engine_of_module(network)
    frames = drawn_stack(416, 544)
    whole = fuse_stack(frames, engine).picture.astype(int)
    tiled = fuse_stack(frames, engine, tile=320, overlap=160).picture
    assert np.abs(tiled - whole).max() <= 1
