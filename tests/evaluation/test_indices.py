"""evaluation/indices.py: known answers and properties of every index."""

import cv2
import numpy as np
import pytest
from drawn import texture
from scipy import ndimage

from stackmff.evaluation.indices import INDICES, index_scores, rank_correlation
from stackmff.evaluation.metrics import to_gray


def half_half(answer, sigma=2.0):
    """Two frames, each sharp in one half of the answer: (2, H, W, C)."""
    blurred = cv2.GaussianBlur(answer, (0, 0), sigma)
    sharp = (np.arange(answer.shape[1]) < answer.shape[1] // 2)[None, :, None]
    return np.stack([np.where(sharp, answer, blurred), np.where(sharp, blurred, answer)])


def stripes(answer, n_frames):
    """Frames that are each sharp in one upright stripe and blurred more with the distance to it."""
    region = np.arange(answer.shape[1]) * n_frames // answer.shape[1]
    blurred = [answer] + [cv2.GaussianBlur(answer, (0, 0), 1.0 * d) for d in range(1, n_frames)]
    away = np.abs(region - np.arange(n_frames)[:, None])[:, None, :, None]
    return np.stack([np.choose(a, blurred) for a in away])


def mean_of(frames):
    return np.uint8(np.rint(frames.mean(0)))


def of(name, fused, frames, peak=255):
    return index_scores(fused, frames, peak, [name])[name]


@pytest.fixture
def answer():
    return texture(48, 64, 0)


def test_scores_come_by_name(answer):
    frames = half_half(answer)
    scores = index_scores(answer, frames, 255)
    assert list(scores) == list(INDICES)
    assert all(np.isfinite(value) and isinstance(value, float) for value in scores.values())
    assert index_scores(answer, frames, 255, ["EN", "Q_W"]) == {
        name: scores[name] for name in ("EN", "Q_W")
    }
    for name, index in INDICES.items():
        direct = index.function(answer, frames, 255)
        assert direct == pytest.approx(scores[name], rel=1e-6), name


@pytest.mark.parametrize("n_frames", [1, 2, 5])
def test_copies_of_one_picture(answer, n_frames):
    scores = index_scores(answer, np.stack([answer] * n_frames), 255)
    qabf = 0.9994 / (1 + np.exp(-15 * (1 - 0.5))) * 0.9879 / (1 + np.exp(-22 * (1 - 0.8)))
    assert scores["Q_W"] == pytest.approx(1, abs=1e-9)
    assert scores["VIFF"] == pytest.approx(1, abs=1e-9)
    assert scores["Qabf"] == pytest.approx(qabf, abs=1e-9) and 0.974 < qabf < 0.975
    assert scores["Q_MI"] == pytest.approx(2)
    # Nothing is left of a copy when another copy is taken away.
    assert scores["SCD"] == pytest.approx(2 if n_frames == 1 else 0)


def test_the_order_of_the_frames_does_not_matter(answer):
    frames = stripes(answer, 5)
    fused = cv2.GaussianBlur(answer, (0, 0), 0.7)
    scores = index_scores(fused, frames, 255)
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        assert index_scores(fused, frames[order], 255) == pytest.approx(scores, rel=1e-9)
    assert index_scores(fused, list(frames), 255) == scores


def test_more_of_the_same_frames_change_nothing_but_scd(answer):
    """A frame given twice weighs twice with all: means over the frames stay."""
    frames = half_half(answer)
    scores = index_scores(answer, frames, 255)
    doubled = index_scores(answer, np.concatenate([frames, frames]), 255)
    for name in INDICES:
        if name != "SCD":
            assert doubled[name] == pytest.approx(scores[name], rel=1e-9), name


def test_bit_depths_and_grey_agree(answer):
    frames = half_half(answer)
    fused = mean_of(frames)
    scores = index_scores(fused, frames, 255)
    wide = index_scores(fused * np.uint16(257), frames * np.uint16(257), 65535)
    floats = index_scores(np.float32(fused) / 255, np.float32(frames) / 255, 1.0)
    doubles = index_scores(fused / 255, frames / 255, 1.0)
    for other in (wide, floats, doubles):
        assert other == pytest.approx(scores, rel=1e-5)
    grey = to_gray(np.float32(fused)), np.stack([to_gray(np.float32(f)) for f in frames])
    of_grey = index_scores(*grey, 255)
    for name, value in of_grey.items():  # a luma half-way between two levels may fall to either
        tolerance = 1e-3 if name in ("EN", "Q_MI") else 1e-5
        assert value == pytest.approx(scores[name], rel=tolerance), name
    assert index_scores(grey[0][..., None], grey[1][..., None], 255) == of_grey


@pytest.mark.parametrize("n_frames", [2, 7])
def test_the_answer_scores_above_the_mean_and_above_a_frame(n_frames):
    """All but Q_MI, which prefers copies."""
    answer = texture(64, 112, 0)
    frames = half_half(answer) if n_frames == 2 else stripes(answer, 7)
    best, mean, one = (
        index_scores(fused, frames, 255) for fused in (answer, mean_of(frames), frames[0])
    )
    for name, index in INDICES.items():
        if name != "Q_MI":
            assert index.direction * (best[name] - mean[name]) > 0, name
            assert index.direction * (best[name] - one[name]) > 0, name


def test_mutual_information_prefers_a_copy_of_one_frame(answer):
    frames = half_half(answer)
    assert of("Q_MI", frames[0], frames) > of("Q_MI", answer, frames)


def lumas_of(fused, frames):
    """Luma in [0, 1] by the weights of BT.601, float64."""
    weights = [0.299, 0.587, 0.114]
    return fused / 255 @ weights, [frame / 255 @ weights for frame in frames]


def test_scd_is_the_published_one_for_two_frames(answer):
    frames = half_half(answer)
    fused = mean_of(frames)
    f, (first, second) = lumas_of(fused, frames)
    expected = (
        np.corrcoef((f - second).ravel(), first.ravel())[0, 1]
        + np.corrcoef((f - first).ravel(), second.ravel())[0, 1]
    )
    assert of("SCD", fused, frames) == pytest.approx(expected, abs=1e-5)


def test_scd_of_three_frames_is_the_mean_over_the_pairs(answer, monkeypatch):
    monkeypatch.setattr("stackmff.evaluation.indices.SCD_BAND", 1000)  # bands of a few rows
    frames = stripes(answer, 3)
    f, lumas = lumas_of(answer, frames)
    pairs = [
        np.corrcoef((f - lumas[j]).ravel(), lumas[k].ravel())[0, 1]
        for j in range(3)
        for k in range(3)
        if j != k
    ]
    assert of("SCD", answer, frames) == pytest.approx(2 * np.mean(pairs), abs=1e-5)


def test_qabf_is_the_published_one(answer):
    frames = stripes(answer, 3)[:2]
    fused = mean_of(frames)
    f, lumas = lumas_of(fused, frames)

    def edges(luma):
        down, across = (ndimage.sobel(luma, axis, mode="mirror") + 1e-12 for axis in (0, 1))
        return np.sqrt(across**2 + down**2), np.arctan(down / across)

    strength, angle = edges(f)
    above = below = 0
    for luma in lumas:
        its_strength, its_angle = edges(luma)
        g = np.where(its_strength > strength, strength / its_strength, its_strength / strength)
        a = np.abs(np.abs(its_angle - angle) - np.pi / 2) / (np.pi / 2)
        quality = 0.9994 / (1 + np.exp(-15 * (g - 0.5))) * 0.9879 / (1 + np.exp(-22 * (a - 0.8)))
        above += (its_strength * quality).sum()
        below += its_strength.sum()
    assert 0.1 < above / below < 0.9
    assert of("Qabf", fused, frames) == pytest.approx(above / below, abs=1e-5)


def test_qabf_sees_turned_edges():
    """Level and upright edges of one strength: the strength is kept, the orientation is lost."""
    ramp = np.tile(np.arange(40, dtype=np.float32) / 40, (40, 1))
    assert of("Qabf", ramp.T, ramp[None], 1.0) < 1e-4
    assert of("Qabf", 1 - ramp, ramp[None], 1.0) == pytest.approx(0.97479, abs=1e-4)


def test_qw_is_the_published_one_with_loops():
    answer = texture(14, 16, 3)
    frames = np.stack([answer, cv2.GaussianBlur(answer, (0, 0), 1), texture(14, 16, 4)])
    fused = mean_of(frames)
    f, lumas = lumas_of(fused, frames)
    above = below = 0
    for y in range(14 - 7):
        for x in range(16 - 7):
            a = f[y : y + 8, x : x + 8].ravel()
            saliencies, qualities = [], []
            for luma in lumas:
                b = luma[y : y + 8, x : x + 8].ravel()
                s = np.cov(a, b)
                means = a.mean(), b.mean()
                quality = 4 * s[0, 1] * means[0] * means[1]
                qualities.append(quality / (s[0, 0] + s[1, 1]) / (means[0] ** 2 + means[1] ** 2))
                saliencies.append(s[1, 1])
            share = np.array(saliencies) / np.sum(saliencies)
            above += max(saliencies) * (share * qualities).sum()
            below += max(saliencies)
    assert of("Q_W", fused, frames) == pytest.approx(above / below, abs=1e-5)


def viff_with_loops(f, lumas):
    """VIFF of lumas in [0, 1], window by window."""

    def smooth(picture, size):
        axis = np.arange(size) - size // 2
        window = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * (size / 5) ** 2))
        edge = size // 2
        return ndimage.correlate(picture, window / window.sum())[edge:-edge, edge:-edge]

    score = 0
    for scale, (size, weight) in enumerate(zip((17, 9, 5, 3), (1, 0, 0.15, 1))):
        if scale:
            f, *lumas = (smooth(picture, size)[::2, ::2] for picture in (f, *lumas))
        rows = []  # of each frame: gain, information kept, information
        for luma in lumas:
            m, n = smooth(f, size), smooth(luma, size)
            v = smooth(f * f, size) - m * m
            w = smooth(luma * luma, size) - n * n
            c = smooth(f * luma, size) - m * n
            gain = np.maximum(c / w, 0)
            kept = np.log10(1 + gain**2 * w / (v - gain * c + 0.005))
            rows.append((gain, kept, np.log10(1 + w / 0.005)))
        gains, kept, full = np.stack(rows, 1)
        least = gains.argmin(0)[None]
        above, below = (np.take_along_axis(x, least, 0).sum() for x in (kept, full))
        score += weight / 2.15 * above / below
    return score


@pytest.mark.parametrize("n_frames", [2, 4])
def test_viff_is_the_published_one(answer, n_frames):
    frames = stripes(answer, n_frames)
    for fused in (answer, mean_of(frames)):
        expected = viff_with_loops(*lumas_of(fused, frames))
        assert of("VIFF", fused, frames) == pytest.approx(expected, abs=1e-4)


def test_viff_is_above_one_for_more_contrast_and_zero_for_an_inverted_picture():
    frame = np.float32(texture(48, 64, 0)[None]) / 510 + 0.25
    assert of("VIFF", frame[0] * 2 - 0.5, frame, 1.0) > 1.05
    assert of("VIFF", 1 - frame[0], frame, 1.0) < 1e-3


def test_viff_counts_the_frame_of_more_information_where_gains_are_equal():
    fused = np.float32(texture(48, 96, 0)[..., 0]) / 255
    left = np.arange(96) < 48
    full, half = (np.where(left, 0.5 - contrast * (fused - 0.5), fused) for contrast in (1, 0.3))
    scores = [of("VIFF", fused, np.float32(frames), 1.0) for frames in ([full], [half])]
    assert scores[1] > scores[0] + 0.05
    for frames in ([full, half], [half, full]):
        assert of("VIFF", fused, np.float32(frames), 1.0) == pytest.approx(scores[0], abs=0.01)


def test_viff_of_a_flat_frame_has_no_information_to_keep():
    """Its variance is rounding, which must not count as contrast."""
    frame = np.float32(texture(48, 64, 0)[..., 0]) / 255
    fused = cv2.GaussianBlur(frame, (0, 0), 1)
    assert of("VIFF", fused, frame[None], 1.0) < 0.9
    flat = np.full_like(frame, 0.3)
    assert of("VIFF", fused, np.stack([frame, flat]), 1.0) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_sf_and_ag_of_a_checkerboard(dtype):
    board = (np.indices((10, 20)).sum(0) % 2 * 100 + 20).astype(dtype)
    scores = index_scores(board, board[None], 255, ["SF", "AG"])
    assert scores["SF"] == pytest.approx(100 * np.sqrt(9 / 10 + 19 / 20), rel=1e-5)
    assert scores["AG"] == pytest.approx(100, rel=1e-5)  # sqrt((100^2 + 100^2) / 2)


def test_sf_and_ag_of_a_falling_ramp():
    ramp = np.tile(200 - 3 * np.arange(30, dtype=np.uint8), (12, 1))  # uint8 would wrap to 253
    scores = index_scores(ramp, ramp[None], 255, ["SF", "AG"])
    assert scores["SF"] == pytest.approx(3 * np.sqrt(29 / 30), rel=1e-5)
    assert scores["AG"] == pytest.approx(3 / np.sqrt(2), rel=1e-5)


def test_ag_takes_both_differences_at_one_pixel():
    spot = np.zeros((3, 3), np.uint8)
    spot[0, 0] = 9
    assert of("AG", spot, spot[None]) == pytest.approx(9 / 4, rel=1e-5)


def test_sf_of_uint8_noise_does_not_wrap():
    noise = np.random.default_rng(0).integers(0, 256, (96, 96), np.uint8)
    # Differences of two uniform levels have mean square (256^2 - 1) / 6, across and down.
    expected = np.sqrt(2 * 95 / 96 * (256**2 - 1) / 6)
    assert of("SF", noise, noise[None]) == pytest.approx(expected, rel=0.02)


def test_entropy_counts_levels():
    two = np.zeros((16, 16, 3), np.uint8)
    two[:, ::2] = 200
    assert of("EN", two, two[None]) == pytest.approx(1)
    all_levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert of("EN", all_levels, all_levels[None]) == pytest.approx(8)
    near_ten = np.where(two[..., 0] > 0, 9.6, 10.4)
    assert of("EN", near_ten, near_ten[None]) == 0
    quarter = np.zeros((16, 16), np.uint16)
    quarter[:8, :8] = 65535
    expected = 0.25 * np.log2(4) + 0.75 * np.log2(4 / 3)
    assert of("EN", quarter, quarter[None], 65535) == pytest.approx(expected)


def test_mutual_information_of_independent_halves():
    across = np.zeros((16, 16), np.uint8)
    across[:, 8:] = 255
    down = across.T.copy()  # knows nothing of the other: both have 1 bit
    assert of("Q_MI", across, np.stack([across, down])) == pytest.approx(1)
    assert of("Q_MI", across, np.stack([down, down])) == pytest.approx(0)


@pytest.mark.parametrize("level", [0, 77, 100, 201])
def test_flat_pictures(level):
    flat = np.full((48, 48, 3), level, np.uint8)
    scores = index_scores(flat, np.stack([flat, flat]), 255)
    assert np.isnan(scores["Q_W"]) and np.isnan(scores["Qabf"])
    assert scores["VIFF"] == pytest.approx(1)
    assert [scores[name] for name in ("SCD", "Q_MI", "SF", "AG", "EN")] == [0] * 5


def test_a_flat_fused_picture_keeps_nothing(answer):
    frames = half_half(answer)
    scores = index_scores(np.full_like(answer, 100), frames, 255)
    assert abs(scores["Q_W"]) < 1e-6 and scores["VIFF"] < 1e-3 and scores["Qabf"] < 1e-3
    assert scores["SCD"] < 0 and scores["Q_MI"] == pytest.approx(0, abs=1e-9)


def test_what_cannot_be_scored(answer):
    frames = half_half(answer)
    with pytest.raises(ValueError, match=r"picture is \(40, 64, 3\) uint8, its frame 0 is \(48"):
        index_scores(answer[:40], frames, 255)
    with pytest.raises(ValueError, match=r"its frame 1 is .* uint16"):
        index_scores(answer, [frames[0], frames[1].astype(np.uint16)], 255)
    with pytest.raises(ValueError, match="no frame"):
        index_scores(answer, frames[:0], 255)
    with pytest.raises(ValueError, match="not grey or RGB"):
        index_scores(answer[..., :2], frames[..., :2], 255)
    with pytest.raises(ValueError, match="Q_Z is not an index: choose from Q_W, SCD"):
        index_scores(answer, frames, 255, ["SF", "Q_Z"])
    with pytest.raises(ValueError, match="64x40 is smaller than the 41x41 px that VIFF needs"):
        of("VIFF", answer[:40], frames[:, :40])
    assert np.isfinite(of("VIFF", answer[:41, :41], frames[:, :41, :41]))
    with pytest.raises(ValueError, match="64x7 is smaller than the 8x8 px that Q_W needs"):
        of("Q_W", answer[:7], frames[:, :7])
    with pytest.raises(ValueError, match="1x48 is smaller than the 2x2 px that AG needs"):
        of("AG", answer[:, :1], frames[:, :, :1])


def test_rank_correlation_by_hand():
    psnr = np.array([[30.0, 31, 32, 33], [20, 25, 24, 23]])
    assert rank_correlation(psnr**3, psnr) == pytest.approx(1)
    assert rank_correlation(-psnr, psnr) == pytest.approx(-1)
    # Ranks 1 2 3 4 against 2 1 4 3: 1 - 6 * 4 / (4 * 15) = 0.6; the other scene agrees.
    scores = np.array([[0.2, 0.1, 0.9, 0.5], [1, 4, 3, 2]])
    assert rank_correlation(scores, psnr) == pytest.approx((0.6 + 1) / 2)


def test_rank_correlation_leaves_out_what_has_no_rank():
    psnr = np.array([[30.0, 31, np.inf], [20, 21, 22], [40, 40, 40], [1, 2, 3]])
    scores = np.array([[1.0, 2, 3], [5, 5, 5], [1, 2, 3], [3, np.nan, 1]])
    assert rank_correlation(scores[:1], psnr[:1]) == pytest.approx(1)
    assert np.isnan(rank_correlation(scores[1:3], psnr[1:3]))
    assert rank_correlation(scores, psnr) == pytest.approx((1 - 1) / 2)
    assert rank_correlation(scores[[0]], psnr[[0]]) == rank_correlation(scores[:3], psnr[:3])
    assert np.isnan(rank_correlation([[np.nan, np.nan]], [[1, 2]]))
    assert np.isnan(rank_correlation([[1]], [[1]]))
    with pytest.raises(ValueError, match="scenes, methods"):
        rank_correlation([1, 2, 3], [1, 2, 3])
    with pytest.raises(ValueError, match="scenes, methods"):
        rank_correlation(scores, psnr[:2])
