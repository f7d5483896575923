"""PyramidMix: any size and number of frames, tiles, and heads whose blocks cannot be seen."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawn import texture

from network import StackMix, build_network, default_config, evened, luma_and_chroma
from stackmff.errors import StackError
from stackmff.fusion.blending import Mixture
from stackmff.fusion.engine_choice import torch_engine
from stackmff.fusion.fuse import fuse_stack
from stackmff.shipped import WEIGHTS
from stackmff.synthesis.camera_scale import large_scene

SMALL = {"network": "PyramidMix", "widths": (8, 8, 8), "chroma": 4, "guide": 8}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = build_network(SMALL).eval()
    for layer in (network.detail_stem, network.guide_out, network.gate):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return network


@pytest.mark.parametrize("shape", [(2, 1, 1), (3, 5, 70), (4, 33, 260), (12, 64, 64)])
def test_weights_of_any_shape(network, shape):
    with torch.no_grad():
        weights = network(*luma_and_chroma(torch.rand(2, 3, *shape)))
    assert weights.shape == (2, *shape) and weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(1), torch.ones(2, *shape[1:]))


def test_grey_stacks_need_no_chroma(network):
    with torch.no_grad():
        weights = network(torch.rand(1, 1, 3, 40, 30))
    assert weights.shape == (1, 3, 40, 30)


def test_one_frame_twice_shares_the_weight(network):
    frame = torch.rand(1, 3, 1, 48, 48)
    with torch.no_grad():
        weights = network(*luma_and_chroma(frame.expand(-1, -1, 2, -1, -1)))
    assert torch.isfinite(weights).all()


def test_a_tile_with_its_margin_is_as_the_whole(network):
    """What a tile is told comes from the whole, and its own levels end within the margin."""
    stack = torch.rand(1, 3, 3, 512, 512)
    luma, chroma = luma_and_chroma(stack)
    with torch.no_grad():
        guide = network.look_whole(luma, chroma)
        whole = network.refine(luma, chroma, network.cut(guide, (512, 512)))
        top, left, side = 64, 96, 416
        tile = network.refine(
            luma[..., top : top + side, left : left + side],
            chroma[..., top // 2 : (top + side) // 2, left // 2 : (left + side) // 2],
            network.cut(guide, (side, side), (top, left)),
        )
    margin = 160  # beyond what three levels and the attention's window see
    inner = tile[..., margin:-margin, margin:-margin]
    same = whole[..., top + margin : top + side - margin, left + margin : left + side - margin]
    torch.testing.assert_close(inner, same, atol=1e-4, rtol=1e-4)


def test_the_guide_sees_across_the_picture(network):
    """A change 300 px away, beyond the sight of one level alone, is felt."""
    stack = torch.rand(1, 1, 3, 64, 640)
    other = stack.clone()
    other[..., 380:] = torch.rand_like(other[..., 380:])
    with torch.no_grad():
        one, two = network(stack), network(other)
    assert (one - two)[..., :64].abs().max() > 0


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_an_evened_head_shows_no_blocks(slope):
    """Constant features give a constant, those that rise evenly an even rise, in every pixel."""
    level = StackMix((8, 8), 4, 3, 0)
    weight, bias = evened(level.head.weight.double(), level.head.bias.double())
    ramp = 1 + slope * torch.arange(12.0, dtype=torch.float64)[:, None].expand(12, 12)
    features = ramp.expand(1, weight.shape[1], 1, 12, 12)
    logits = level.unfold(F.conv3d(features, weight, bias, padding=(0, 1, 1)))[0, 0]
    steps = logits[4:-4, 4:-4].diff(dim=0)
    torch.testing.assert_close(steps, steps[:1, :1].expand_as(steps))
    torch.testing.assert_close(logits[4:-4, 4:-4].diff(dim=1), torch.zeros(40, 39).double())


def test_evened_changes_no_even_head():
    weight, bias = evened(torch.randn(16, 5, 1, 3, 3), torch.randn(16))
    again, _ = evened(weight, bias)
    torch.testing.assert_close(again, weight)


def test_fresh_layers_change_nothing():
    """Where the gate is shut the fine level does as it does alone, but for its head."""
    torch.manual_seed(0)
    network = build_network(SMALL).eval()
    torch.nn.init.constant_(network.gate.bias, -100.0)
    mix = copy.deepcopy(network.fine)
    weight, bias = evened(mix.head.weight, mix.head.bias)
    mix.head.weight, mix.head.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)
    luma, chroma = luma_and_chroma(torch.rand(1, 3, 4, 64, 96))
    with torch.no_grad():
        torch.testing.assert_close(network(luma, chroma), mix.eval()(luma, chroma))


def test_an_open_gate_adds_the_coarse_logits():
    """With fine logits of zero and a gate of one the result is the coarse level's, enlarged."""
    torch.manual_seed(0)
    network = build_network(SMALL).eval()
    torch.nn.init.constant_(network.gate.bias, 100.0)
    for parameter in network.fine.head.parameters():
        torch.nn.init.zeros_(parameter)
    luma, chroma = luma_and_chroma(torch.rand(1, 3, 3, 256, 256))
    with torch.no_grad():
        coarse = network.look_whole(luma, chroma).logits[:, 0]
        logits = network(luma, chroma, return_logits=True)
    wanted = coarse - coarse.amax(1, keepdim=True)
    for factor in (2, 4):
        wanted = F.interpolate(wanted, scale_factor=factor, mode="bilinear", align_corners=False)
    inner = np.s_[..., 2:254, 2:254]  # beyond the border there are zeros
    torch.testing.assert_close(logits[inner], wanted[inner], atol=1e-5, rtol=1e-5)


def test_details_are_known_of_flat_and_checkered_frames():
    """Of a board of 0 and 1 in single pixels, and where nothing is."""
    network = build_network(SMALL)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    board = ((x + y) % 2).float().expand(1, 1, 1, 64, 64)
    fine, second, third = network.details(board)[0, :, 0, 1:-1, 1:-1]  # the border has others
    # A one has five ones in its 3x3, a zero four: either is 4/9 from its mean.
    torch.testing.assert_close(fine, torch.full_like(fine, math.log2(1 + 4000 / 9) / 4))
    assert (second == 0).all() and (third == 0).all()  # means over 2x2 are all a half
    assert (network.details(torch.full((1, 1, 2, 33, 20), 0.4)) < 1e-2).all()


@pytest.mark.parametrize("options", [{"guide": 0}, {"finish": -1}, {"finish": 2.5}])
def test_wrong_options_are_one_sentence(options):
    with pytest.raises(StackError, match=r"does not fit PyramidMix: .* not a whole number"):
        build_network({**SMALL, **options})


def test_its_size():
    network = build_network(default_config("PyramidMix"))
    assert sum(p.numel() for p in network.parameters()) == 273_233


# ---- the weights that are shipped


@pytest.fixture(scope="module")
def engine():
    return torch_engine(WEIGHTS, "cpu")


@pytest.fixture(scope="module")
def frames():
    """A scene at camera scale, (N, 192, 256, 3) uint8."""
    photos = [texture(200, 300, k) for k in range(3)]
    return large_scene(np.random.default_rng(6), photos, (192, 256), 4)[0]


def test_the_shipped_weights_mix_within_the_range_of_the_frames(engine, frames):
    fused = fuse_stack(frames, engine, Mixture(pure=True)).picture
    assert (fused >= frames.min(0)).all() and (fused <= frames.max(0)).all()
    assert np.abs(fused - frames.mean(0)).mean() > 1


def test_the_order_of_the_shipped_weights_may_be_reversed(engine, frames):
    fused, turned = (fuse_stack(part, engine).picture for part in (frames, frames[::-1]))
    assert np.abs(fused.astype(float) - turned).mean() < 1


def test_tiles_by_the_shipped_weights_leave_no_seam(engine):
    photos = [texture(200, 300, k) for k in range(3)]
    frames = large_scene(np.random.default_rng(6), photos, (512, 448), 3)[0]
    whole = fuse_stack(frames, engine).picture.astype(float)
    difference = np.abs(fuse_stack(frames, engine, tile=256).picture - whole)
    assert difference.mean() <= 0.05 and (difference > 1).mean() <= 0.005


def test_finish_keeps_to_the_range_of_3x3(network):
    torch.manual_seed(1)
    finish = build_network({**SMALL, "finish": 4}).finish
    stack, weights = torch.rand(1, 3, 4, 21, 30), torch.rand(1, 4, 21, 30).softmax(1)
    told = finish.tell(weights, torch.rand(1, SMALL["widths"][0], 4, 8, 8))
    with torch.no_grad():
        mixture = (weights[:, None] * stack).sum(2)
        torch.testing.assert_close(finish(weights, stack, told), mixture)  # nothing at first
        torch.nn.init.normal_(finish.leave.weight, std=1.0)
        result = finish(weights, stack, told)
        high = F.max_pool2d(stack.amax(2), 3, 1, 1)
        low = -F.max_pool2d(-stack.amin(2), 3, 1, 1)
    assert (result - mixture).abs().max() > 0.01
    assert (result <= high).all() and (result >= low).all()


@pytest.mark.parametrize("shape", [(2, 1, 1), (5, 7, 9)])
def test_finish_takes_any_shape(shape):
    finish = build_network({**SMALL, "finish": 4}).finish
    stack = torch.rand(1, 3, *shape)
    weights = torch.full((1, *shape), 1 / shape[0])
    told = finish.tell(weights, torch.rand(1, SMALL["widths"][0], shape[0], 8, 8))
    assert finish(weights, stack, told).shape == (1, 3, *shape[1:])
