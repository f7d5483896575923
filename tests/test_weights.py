"""The weights that are shipped: what a user of predict.py relies on."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from drawn import texture

from stackmff.alignment.focus_order import focus_order
from stackmff.evaluation.metrics import psnr
from stackmff.files import sha256
from stackmff.fusion.blending import Mixture
from stackmff.fusion.engine_choice import torch_engine
from stackmff.fusion.fuse import fuse_stack
from stackmff.images.colour import LUMA, luma
from stackmff.shipped import WEIGHTS
from stackmff.synthesis.scenes import SceneSpec, random_scene


@pytest.fixture(scope="module")
def engine():
    return torch_engine(WEIGHTS, "cpu")


def compose(seed, size=160, n_frames=6):
    """Frames and answer of a composed scene without noise, each surface sharp in some frame."""
    photos = [texture(size + 96, size + 96, k) for k in range(4)]
    rng = np.random.default_rng(seed)
    while True:
        spec = SceneSpec(size, 12.0, n_frames, faults={}, min_coc=6.0)
        frames, answer, _, settings = random_scene(rng, photos, spec)
        focus = settings["focus_disparity"]
        if "aperture_px" in settings and focus[0] - focus[-1] > 0.9:
            return frames, answer


@pytest.fixture(scope="module")
def scene():
    return compose(7)


def levels(one, other):
    """Mean absolute difference in grey levels, and the share of values more than 1 apart."""
    difference = np.abs(one.astype(float) - other)
    return difference.mean(), (difference > 1).mean()


def test_fused_is_nearer_to_the_answer_than_every_frame_and_their_mean(engine):
    gains = []
    for seed in range(5):
        frames, answer = compose(seed)
        fused = psnr(fuse_stack(frames, engine).picture, answer, 255)
        assert fused > max(psnr(frame, answer, 255) for frame in frames) + 1
        gains.append(fused - psnr(np.uint8(frames.mean(0).round()), answer, 255))
    assert min(gains) > 3 and np.mean(gains) > 9


def test_what_differs_in_colour_alone_is_found(engine):
    """Lines of the luma of what is behind them, sharp in one frame: no luma tells of them."""
    background = np.float32([150, 120, 70])
    lines = np.zeros((96, 160), np.float32)
    for x in range(12, 150, 24):
        cv2.line(lines, (x, 0), (x + 9, 95), 1, 2, cv2.LINE_AA)
    other = background + np.float32([-60, 20, 54.4])  # as bright
    np.testing.assert_allclose(background @ LUMA, other @ LUMA, atol=0.01)
    frames = []
    for sigma in (6, 3, 0, 3, 6):
        soft = cv2.GaussianBlur(lines, (0, 0), sigma) if sigma else lines
        frames.append(background + soft[..., None] * (other - background))
    frames = np.uint8(np.round(frames))
    answer = frames[2].astype(float)
    fused = fuse_stack(frames, engine).picture
    left = np.abs(fused - answer).mean() / np.abs(frames[1] - answer).mean()
    assert left < 0.25, left


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_values_lie_within_the_range_of_the_frames(engine, scene, dtype):
    frames = scene[0].astype(dtype) * (257 if dtype == np.uint16 else 1)
    fused, pure = (fuse_stack(frames, engine, Mixture(pure=pure)).picture for pure in (False, True))
    assert fused.dtype == dtype
    assert (pure >= frames.min(0)).all() and (pure <= frames.max(0)).all()
    square = np.ones((3, 3), np.uint8)
    assert (fused >= cv2.erode(frames.min(0), square)).all()
    assert (fused <= cv2.dilate(frames.max(0), square)).all()
    assert 0 < levels(fused, pure)[0] < 3 * (257 if dtype == np.uint16 else 1)


def test_what_goes_beyond_the_mixture_is_nearer_to_the_answer(engine):
    gains = []
    for seed in range(5):
        frames, answer = compose(seed)
        fused = (fuse_stack(frames, engine, Mixture(pure=pure)).picture for pure in (False, True))
        beyond, mixture = (psnr(picture, answer, 255) for picture in fused)
        gains.append(beyond - mixture)
    assert np.mean(gains) > 0 and min(gains) > -0.1


def test_equal_frames_give_that_frame(engine, scene):
    frames = np.repeat(scene[0][:1], 4, axis=0)
    np.testing.assert_array_equal(fuse_stack(frames, engine).picture, frames[0])


def test_copies_of_the_worst_frame_change_nothing(engine, scene):
    frames, answer = scene
    worst = min(range(len(frames)), key=lambda k: psnr(frames[k], answer, 255))
    padded = np.concatenate([frames, np.repeat(frames[worst : worst + 1], 4, axis=0)])
    np.testing.assert_array_equal(
        fuse_stack(padded, engine).picture, fuse_stack(frames, engine).picture
    )


@pytest.mark.slow
def test_near_copies_of_the_worst_frame_cost_little(engine):
    """As a camera that is pressed again takes them: the same focus, other noise.

    In focus order, as predict.py takes them. Over these scenes 0.14 dB.
    """
    losses = []
    for seed in range(6):
        frames, answer = compose(seed)
        worst = min(range(len(frames)), key=lambda k: psnr(frames[k], answer, 255))
        noise = np.random.default_rng(seed).integers(-1, 2, (2, *frames.shape[1:]))
        copies = np.uint8((frames[worst] + noise).clip(0, 255))
        padded = np.concatenate([frames, copies])
        order = focus_order(padded)
        padded = padded if order is None else padded[order]
        fused = [psnr(fuse_stack(stack, engine).picture, answer, 255) for stack in (frames, padded)]
        losses.append(fused[0] - fused[1])
    assert np.mean(losses) < 0.15


def test_bf16_and_fp32_agree(engine, scene):
    stack = torch.from_numpy(luma(scene[0]))[None, None]
    fused = []
    for enabled in (False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            weights = engine.network(stack)[0].float().numpy()
        fused.append((weights[..., None] * scene[0]).sum(0))
    assert 0 < levels(*fused)[0] < 0.25


def test_the_order_may_be_reversed(engine, scene):
    fused, turned = (fuse_stack(frames, engine) for frames in (scene[0], scene[0][::-1]))
    assert levels(fused.picture, turned.picture)[0] < 1
    middle = 65535 - turned.focus_map.astype(float)
    assert np.abs(middle - fused.focus_map).mean() < 0.05 * 65535


def test_tiles_leave_no_seam(engine):
    frames, _ = compose(7, 512, 3)
    whole = fuse_stack(frames, engine).picture
    mean, share = levels(fuse_stack(frames, engine, tile=256).picture, whole)
    assert mean <= 0.05 and share <= 0.005


def hazy_ground(seed, side=512, n_frames=6):
    """A dark plain ground into which each frame spills other light, beside a body: uint16."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    texture_of_body = rng.uniform(0, 255, (side, side // 3)).astype(np.float32)
    frames = []
    for k in range(n_frames):
        where = (x - rng.uniform(0.3, 1)) ** 2 + (y - rng.uniform(0, 1)) ** 2
        frame = 30 + 8 * x + 14 * rng.uniform(0.3, 1) * np.exp(-where / 0.08)
        frame[:, : side // 3] = texture_of_body
        soft = cv2.GaussianBlur(frame, (0, 0), 0.5 + 8 * abs(k - 2))
        frame[:, : side // 2] = soft[:, : side // 2]
        frames.append(frame + rng.normal(0, 0.3, frame.shape))
    codes = np.clip(np.round(np.array(frames) * 257), 0, 65535)
    return np.repeat(codes.astype(np.uint16)[..., None], 3, axis=3)


def peak(plain, period):
    """The power at a period along the rows of a plane, against that of periods nearby."""
    side = 256
    rows = (plain - cv2.blur(plain, (31, 31)))[:, :side] * np.hanning(side)
    power = (np.abs(np.fft.rfft(rows, axis=1)) ** 2).mean(0)
    at = side // period
    near = [k for k in range(at - 8, at + 9) if abs(k - at) > 2 and 0 < k < len(power)]
    return power[at] / np.median(power[near])


@pytest.mark.parametrize("seed", [0, 1])
def test_no_grid_comes_into_plain_places(engine, seed):
    """Networks that work on blocks like to leave their period there."""
    frames = hazy_ground(seed)
    plain = fuse_stack(frames, engine).picture[:, 256:, 1].astype(np.float32)
    for plane in (plain, np.ascontiguousarray(plain[128:384].T)):
        for period in (2, 4, 8, 16):
            assert peak(plane, period) < 1.4
    ripple = np.float32([0, 200, 0, -200]) / 4  # a fifth of a grey level in 16 bits
    assert peak(plain + np.tile(ripple, 64), 4) > 1.4


def test_the_table_names_the_file():
    """weights/README.md has the SHA-256 of every file beside it."""
    table = (Path(WEIGHTS).parent / "README.md").read_text()
    for path in Path(WEIGHTS).parent.glob("*.pth"):
        row = re.search(rf"`{re.escape(path.name)}`.*", table)
        assert row and sha256(path) in row[0], path.name
