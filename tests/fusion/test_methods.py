"""The toolbox: every method on stacks with known answers, and its parts against closed forms."""

from functools import partial

import cv2
import numpy as np
import pytest
import torch
from drawn import draw_stack, texture

from stackmff.errors import StackError
from stackmff.evaluation.metrics import psnr
from stackmff.fusion import methods, spatial
from stackmff.fusion.ifcnn import IFCNN, fuse_ifcnn
from stackmff.fusion.methods import METHODS, build_method, method_words, missing, parse_method
from stackmff.fusion.spatial import majority
from stackmff.images.colour import luma

LIGHT = [name for name in METHODS if name not in ("IFCNN", "StackMFF")]
TRANSFORM_METHODS = [name for name, method in METHODS.items() if method.transform]


@pytest.fixture
def stack():
    """Three frames, each sharp in one stripe, and their answer."""
    answer = texture(64, 80, 3)
    return np.stack(draw_stack(answer, 3)), answer


def build_or_skip(name, **how):
    if sentence := missing(name):
        pytest.skip(sentence)
    return build_method(name, **how)


def ifcnn_file(folder):
    torch.manual_seed(0)
    torch.save(IFCNN().state_dict(), folder / "ifcnn.pth")
    return folder / "ifcnn.pth"


def test_there_are_twelve():
    assert len(METHODS) == 12


@pytest.mark.parametrize("name", LIGHT)
def test_a_method_beats_the_mean_and_the_best_frame(name, stack):
    frames, answer = stack
    fused = build_or_skip(name)(frames)
    assert fused.shape == answer.shape and fused.dtype == np.uint8
    others = [*frames, np.rint(frames.mean(0)).astype(np.uint8)]
    assert psnr(fused, answer, 255) > max(psnr(other, answer, 255) for other in others) + 1


@pytest.mark.parametrize("name", LIGHT)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_grey_and_alpha_and_16_bit(name, dtype, channels, stack):
    frames = stack[0][..., [0, 1, 2, 0]][..., :channels].astype(dtype)
    frames = frames * np.array(257 if dtype == np.uint16 else 1, dtype)
    fused = build_or_skip(name)(frames)
    assert fused.shape == frames.shape[1:] and fused.dtype == dtype
    if channels in (2, 4):
        alpha = frames[..., -1].mean(0)
        assert np.abs(fused[..., -1] - alpha).max() <= 0.51


@pytest.mark.parametrize("name", TRANSFORM_METHODS)
def test_a_transform_gives_back_equal_frames(name):
    if sentence := missing(name):
        pytest.skip(sentence)
    frame = texture(45, 67, 1)
    fused = METHODS[name].make(**METHODS[name].options)(np.stack([frame] * 3))
    assert np.abs(fused.astype(int) - frame).max() <= 1


@pytest.mark.parametrize("name", METHODS)
def test_equal_frames_are_given_back_bit_for_bit(name, tmp_path):
    word = f"IFCNN:weights={ifcnn_file(tmp_path)}" if name == "IFCNN" else name
    if sentence := missing(word):
        pytest.skip(sentence)
    frame = texture(33, 40, 1)
    for iterative in (False, True):
        fused = build_method(word, iterative)(np.stack([frame] * 3))
        np.testing.assert_array_equal(fused, frame)


@pytest.mark.parametrize("name", LIGHT)
def test_two_frames_are_one_pair(name, stack):
    frames = stack[0][:2]
    both = [build_or_skip(name, iterative=way)(frames) for way in (False, True)]
    np.testing.assert_array_equal(*both)


def test_pair_after_pair_fuses_the_result_with_the_next():
    seen = []

    def fuse(frames):
        seen.append(frames[:, 0, 0, 0].tolist())
        return frames.max(0)

    frames = np.arange(1, 5, dtype=np.uint8)[:, None, None, None]
    assert methods.iteratively(fuse)(frames).item() == 4
    assert seen == [[1, 2], [2, 3], [3, 4]]


def test_iterative_lp_loses_against_all_at_once(stack):
    """Rounding and means accumulate: with the low band's mean the last frame counts for half."""
    answer = texture(64, 80, 3)
    frames = np.stack(draw_stack(answer, 6))
    scores = [psnr(build_method("LP", way)(frames), answer, 255) for way in (False, True)]
    assert scores[0] > scores[1]


@pytest.mark.parametrize("name", ["LP", "NSCT"])
def test_tiles_leave_no_seam(name):
    frames = np.stack(draw_stack(texture(200, 400, 3), 3))
    fuse = partial(methods.fuse_transform, name=name, levels=3)
    tiled = methods.in_tiles(fuse, tile=256, overlap=methods.OVERLAP)(frames)
    differ = np.abs(tiled.astype(int) - fuse(frames))
    assert differ.mean() < 0.05 and np.mean(differ > 1) < 0.005


def test_the_block_variance_is_that_of_its_dct():
    """Parseval: what fuse_dct compares is the energy of the AC coefficients."""
    block = np.random.default_rng(0).random((8, 8))
    coefficients = cv2.dct(block)
    coefficients[0, 0] = 0
    assert block.var() == pytest.approx((coefficients**2).sum() / 64, rel=1e-6)


def test_dct_takes_the_livelier_block():
    frames = np.full((2, 16, 16, 1), 100, np.uint8)
    frames[1, :8, 8:, 0] += np.uint8(20) * (np.indices((8, 8)).sum(0) % 2).astype(np.uint8)
    fused = build_method("DCT:consistency=1")(frames)
    np.testing.assert_array_equal(fused, frames[1])
    outvoted = build_method("DCT:consistency=3")(np.tile(frames, (1, 3, 3, 1))[:, :, :24])
    assert (outvoted == 100).all(axis=(1, 2)).any()


def test_majority_outvotes_one_and_leaves_ties():
    index = np.zeros((5, 5), np.int64)
    index[2, 2] = 1
    assert (majority(index, 2, 3) == 0).all()
    stripes = np.repeat([[0, 0, 1, 1]], 4, axis=0)
    np.testing.assert_array_equal(majority(stripes, 2, 3), stripes)


def test_sift_activity_is_the_norm_of_a_descriptor():
    """Written out for one place: gradients shared out over orientations and 4x4 cells."""
    plane = np.random.default_rng(1).random((48, 48)).astype(np.float32)
    side, (row, column) = 4, (24, 24)
    down, across = np.gradient(plane)
    length, angle = np.hypot(down, across), np.arctan2(down, across) % (2 * np.pi)
    turn = angle / (2 * np.pi) * 8
    descriptor = np.zeros((4, 4, 8))
    for i in range(4):
        for j in range(4):
            # An even number of cells has no cell in the middle: they lie at -6, -2, 2 and 6 px.
            y, x = row + 4 * i - 6, column + 4 * j - 6
            for u in range(y - side, y + side + 1):
                for v in range(x - side, x + side + 1):
                    weight = (1 - abs(u - y) / side) * (1 - abs(v - x) / side) / side**2
                    near = int(turn[u, v]) % 8
                    share = turn[u, v] - int(turn[u, v])
                    descriptor[i, j, near] += weight * length[u, v] * (1 - share)
                    descriptor[i, j, (near + 1) % 8] += weight * length[u, v] * share
    ours = spatial.sift_activity(plane, side)[row, column]
    assert ours == pytest.approx(np.abs(descriptor).sum(), rel=1e-4)


def test_dsift_chooses_pixels_of_the_sharp_frame(stack):
    frames, answer = stack
    sharp = np.stack([answer, cv2.GaussianBlur(answer, (0, 0), 2)])
    np.testing.assert_array_equal(build_method("DSIFT")(sharp), answer)
    fused = build_method("DSIFT")(frames)
    assert (fused[None] == frames).all(3).any(0).all()


@pytest.mark.parametrize("window", [1, 4, 5])
def test_dsift_takes_what_a_window_over_the_pixel_has_voted_for(window):
    frames = np.stack(draw_stack(texture(24, 26, 7), 3))
    activities = np.stack([spatial.sift_activity(luma(frame), 1) for frame in frames])
    before, after = window // 2, window - 1 - window // 2  # px of a window about its place
    padded = np.pad(activities, [(0, 0), *[(before, after)] * 2], "symmetric")
    votes = np.zeros((24, 26, 3), bool)
    for y in range(24):
        for x in range(26):
            winner = padded[:, y : y + window, x : x + window].sum((1, 2)).argmax()
            rows, columns = (slice(max(at - before, 0), at + after + 1) for at in (y, x))
            votes[rows, columns, winner] = True
    best = np.where(votes.transpose(2, 0, 1), activities, -1).argmax(0)
    expected = np.take_along_axis(frames, best[None, ..., None], 0)[0]
    np.testing.assert_array_equal(spatial.fuse_dsift(frames, 1, window), expected)


def test_ifcnn_in_strips_is_ifcnn_whole(tmp_path):
    torch.manual_seed(0)
    network = IFCNN().eval()
    frames = np.stack([texture(37, 30, seed) for seed in range(3)])
    whole = fuse_ifcnn(frames, network)
    assert np.abs(fuse_ifcnn(frames, network, strip=200).astype(int) - whole).max() <= 1
    np.testing.assert_array_equal(fuse_ifcnn(frames[::-1], network), whole)


def test_ifcnn_has_the_papers_cost():
    network = IFCNN()
    assert network.conv1.weight.numel() + network.conv2.conv.weight.numel() == 46272


def test_ifcnn_says_what_its_file_is(tmp_path):
    assert "IFCNN:weights=FILE" in missing("IFCNN:weights=/nowhere.pth")
    with pytest.raises(StackError, match="is not a file: put them there"):
        build_method("IFCNN:weights=/nowhere.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\3\4 cut")
    with pytest.raises(StackError, match=r"cut.pth does not hold the weights of IFCNN-MAX"):
        build_method(f"IFCNN:weights={tmp_path / 'cut.pth'}")


def test_words():
    assert parse_method("GFF")[1] == METHODS["GFF"].options
    name, options = parse_method("GFF:base_radius=5,detail_epsilon=0.25")
    assert (name, options["base_radius"], options["detail_epsilon"]) == ("GFF", 5, 0.25)
    assert method_words(["all"]) == list(METHODS)
    assert "LP" in method_words(["available"])
    tuned = method_words(["all", "IFCNN:weights=x.pth"])
    assert tuned == [name if name != "IFCNN" else "IFCNN:weights=x.pth" for name in METHODS]
    assert method_words(["LP", "LP:levels=3"]) == ["LP", "LP:levels=3"]
    for words, sentence in (
        (["SIFT"], "'SIFT' is not a method: choose from LP"),
        (["GFF:radius=3"], "'radius=3' is not an option of GFF"),
        (["LP:levels=many"], "'LP:levels=many': levels: 'many' is not a whole number"),
        (["LP:levels=-1"], "-1 must be at least 0"),
        (["DCT:block=0"], "block: 0 must be at least 1"),
        (["DCT:block=100000"], "must be at most 256"),
        (["DSIFT:bin_size=0"], "at least 1"),
        (["GFF:base_epsilon=nan"], "nan must be finite"),
        (["all", "GFF"], "GFF is named twice"),
    ):
        with pytest.raises(StackError, match=sentence):
            method_words(words)


def test_every_number_has_a_range_that_its_default_is_in():
    numbers = [
        (option, default)
        for method in METHODS.values()
        for option, default in method.options.items()
        if not isinstance(default, str)
    ]
    assert {option for option, _ in numbers} == set(methods.RANGES)
    for option, default in numbers:
        low, high = methods.RANGES[option]
        assert low <= default <= high


@pytest.mark.parametrize("name", ["DCT", "DSIFT", "GFF", "LP"])
def test_the_ends_of_the_ranges_are_fused(name, stack):
    for end in (0, 1):
        words = [f"{option}={methods.RANGES[option][end]}" for option in METHODS[name].options]
        fused = build_method(f"{name}:{','.join(words)}")(stack[0])
        assert psnr(fused, stack[1], 255) > 20


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setattr(methods, "missing_packages", lambda name: ["PyWavelets"])
    with pytest.raises(StackError, match=r"DWT needs PyWavelets: pip install .stackmff\[toolbox\]"):
        build_method("DWT")
    assert "DWT" not in method_words(["available"])


def test_our_networks_take_frames_in_focus_order():
    frames = np.stack(draw_stack(texture(64, 256, 0), 6))
    fuse, order = build_method("StackMix"), [3, 0, 5, 1, 4, 2]
    mended = fuse(frames[order])
    assert (mended == fuse(frames)).all() or (mended == fuse(frames[::-1])).all()
