"""What goes beyond the mixture: as trained in torch, and as it runs on a CPU."""

import numpy as np
import pytest
import torch

from stackmff.fusion.beyond import PICKS, corrected, heaviest
from stackmff.fusion.finish import Finish
from stackmff.images.levels import Levels

CHANNELS = 4


@pytest.fixture(scope="module")
def stage():
    torch.manual_seed(1)
    stage = Finish(CHANNELS, 8).eval()
    torch.nn.init.normal_(stage.leave.weight, std=0.5)
    return stage


def nothing_told(shape):
    """What the features of a picture (h, w) say: nothing."""
    return torch.zeros(1, CHANNELS, *(-(-side // 4) for side in shape))


def in_numpy(stage):
    """Its coefficients, as engines have them."""

    @torch.inference_mode()
    def coefficients(lumas, share):
        seen = (torch.from_numpy(part)[None] for part in (lumas, share))
        return stage.coefficients(*seen, nothing_told(lumas.shape[1:]))[0].numpy()

    return coefficients


def drawn(rng, shape, dtype):
    """Frames (N, h, w, C), weights (N, h, w) that change slowly, and the mixture (C, h, w)."""
    most = np.iinfo(dtype).max
    frames = rng.integers(0, most, shape, dtype, endpoint=True)
    coarse = rng.random((shape[0], 4, 4)) ** 6
    height, width = shape[1:3]
    weights = np.kron(coarse, np.ones((1, -(-height // 4), -(-width // 4))))[:, :height, :width]
    weights = (weights / weights.sum(0)).astype(np.float32)
    mixture = np.einsum("nhw,nhwc->chw", weights, frames.astype(np.float32)).astype(np.float32)
    return frames, weights, mixture


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((5, 32, 48, 3), np.uint8),
        ((4, 31, 45, 3), np.uint16),
        ((3, 24, 24, 1), np.uint8),
        ((2, 17, 16, 3), np.uint8),
        ((1, 8, 8, 3), np.uint8),
        ((2, 1, 1, 3), np.uint8),
    ],
)
def test_numpy_does_as_torch(stage, shape, dtype):
    frames, weights, mixture = drawn(np.random.default_rng(0), shape, dtype)
    most = np.iinfo(dtype).max
    stack = torch.from_numpy(frames.astype(np.float32) / most).permute(3, 0, 1, 2)[None]
    with torch.inference_mode():
        wanted = (
            most
            * stage(torch.from_numpy(weights)[None], stack, nothing_told(shape[1:3]))[0].numpy()
        )
    result = corrected(mixture, weights, frames, in_numpy(stage))
    assert np.abs(wanted - mixture).mean() > 1e-3 * most or shape[0] == 1  # it does something
    np.testing.assert_allclose(result, wanted, atol=1e-4 * most)


def test_values_stay_within_the_frames_in_3x3(stage):
    rng = np.random.default_rng(1)
    frames, weights, mixture = drawn(rng, (4, 32, 32, 3), np.uint8)

    def wild(lumas, share):
        return 50 * in_numpy(stage)(lumas, share)

    result = np.moveaxis(corrected(mixture, weights, frames, wild), 0, -1)
    around = np.stack(
        [
            np.pad(frames, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")[:, y : y + 32, x : x + 32]
            for y in range(3)
            for x in range(3)
        ]
    )
    assert (result >= around.min((0, 1))).all() and (result <= around.max((0, 1))).all()
    assert (result != np.moveaxis(mixture, 0, -1)).mean() > 0.5


def test_a_dim_stack_is_corrected_as_a_bright_one(stage):
    frames, weights, mixture = drawn(np.random.default_rng(2), (3, 32, 32, 3), np.uint8)
    bright = corrected(mixture, weights, frames, in_numpy(stage))
    dim = corrected(
        mixture + 1000, weights, frames.astype(np.uint16) + 1000, in_numpy(stage),
        Levels(1000 / 65535, 1255 / 65535),
    )  # fmt: skip
    np.testing.assert_allclose(dim - 1000, bright, atol=0.02)


def test_the_heaviest_frames_nearby():
    weights = np.zeros((5, 20, 20), np.float32)
    weights[3], weights[1], weights[4] = 0.6, 0.3, 0.1
    share, index = heaviest(weights)
    assert (index == np.array([3, 1, 4])[:, None, None]).all()
    wanted = np.broadcast_to([[[0.6]], [[0.3]], [[0.1]]], share.shape)
    np.testing.assert_allclose(share, wanted, rtol=2**-20)  # 3 of 23 bits number the frames
    share, index = heaviest(weights[:2])
    assert (index == np.array([1, 0, 0])[:, None, None]).all() and len(share) == PICKS
    same = np.full((300, 2, 2), 1 / 300, np.float32)  # the first of equals, also of many
    assert (heaviest(same)[1] == np.arange(3)[:, None, None]).all()
    assert (heaviest(same[:1])[1] == 0).all()


def test_what_the_features_of_the_heaviest_frames_say():
    """Four constant features per frame: each pick's are found, in the order of weight."""
    stage = Finish(2, 4)
    torch.nn.init.normal_(stage.enter_features.weight)
    features = torch.arange(5 * 4.0).reshape(1, 5, 4).transpose(1, 2)[..., None, None]
    weights = torch.tensor([0.0, 0.3, 0.1, 0.6, 0.0])[None, :, None, None].expand(1, 5, 21, 30)
    with torch.inference_mode():
        told = stage.tell(weights, features.expand(1, 4, 5, 8, 8))
        picked = features[0, :, [3, 1, 2], 0, 0].flatten()
        wanted = stage.enter_features.weight[:, :, 0, 0] @ picked
    assert told.shape == (1, 2, 6, 8)
    torch.testing.assert_close(told, wanted[None, :, None, None].expand_as(told))
