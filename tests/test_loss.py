"""loss.py against the published values, and the properties of its terms."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import loss

REFERENCE = json.loads((Path(__file__).parent / "reference" / "loss.json").read_text())


def drawn(height, width, a, b):
    """The picture of the reference's formula, (1, 1, height, width) float32."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    picture = 0.5 + 0.25 * np.sin(a * x + 0.3 * y) + 0.2 * np.cos(b * y - 0.11 * x * y / 7)
    return torch.from_numpy(np.clip(picture, 0, 1).astype(np.float32))[None, None]


def luma_output(fused):
    return {"fused": fused, "weights": None, "logits": None}


@pytest.mark.parametrize("case", REFERENCE["cases"])
def test_published_values(case):
    fused = drawn(case["height"], case["width"], *case["prediction"])
    answer = drawn(case["height"], case["width"], *case["target"])
    total, terms = loss.weighted_loss(
        luma_output(fused), {"answer": answer}, loss.PUBLISHED_WEIGHTS
    )
    assert list(terms) == ["l1", "ssim", "laplacian", "spatial_frequency"]
    for name, value in terms.items():
        assert value.item() == pytest.approx(case[name], abs=1e-5), name
    assert total.item() == pytest.approx(case["published_sum"], abs=1e-5)
    assert list(loss.PUBLISHED_WEIGHTS.values()) == REFERENCE["weights"]


@pytest.mark.parametrize("name", [name for name in loss.TERMS if name != "cross_entropy"])
def test_equal_pictures_cost_nothing(name):
    answer = drawn(20, 24, 0.4, 0.6)
    stack = torch.stack([answer, 1 - answer], 2)
    value = loss.TERMS[name](luma_output(answer.clone()), {"answer": answer, "stack": stack})
    assert value.item() == pytest.approx(0, abs=1e-6)


def test_haze_is_of_veils_and_not_of_detail():
    answer = torch.full((1, 1, 16, 24), 0.5)
    assert loss.haze_term(luma_output(answer + 0.1), {"answer": answer}).item() == pytest.approx(
        0.1
    )
    y, x = torch.meshgrid(torch.arange(16), torch.arange(24), indexing="ij")
    board = answer + 0.1 * (1 - 2.0 * ((x + y) % 2))
    assert loss.haze_term(luma_output(board), {"answer": answer}).item() == pytest.approx(
        0, abs=1e-6
    )


def test_faint_detail_counts_more_than_strong_detail():
    torch.manual_seed(0)
    detail, error = torch.randn(2, 1, 1, 32, 32)
    faint, strong = (
        loss.faint_term(
            luma_output(0.5 + scale * detail + 0.005 * error), {"answer": 0.5 + scale * detail}
        )
        for scale in (0.01, 0.1)
    )
    assert faint > 3 * strong


@pytest.mark.parametrize(("level", "counts"), [(0.3, 1), (0.1, 2)])
def test_texture_of_half_the_strength_costs_an_octave_and_more_in_dark_places(level, counts):
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(60.0), indexing="ij")
    wave = 0.09 * torch.sin(x) * torch.sin(y)[None, None]
    half, moved = level + wave / 2, level + wave.roll(22, 3)  # by 7 half periods, and 0.01 px
    cost = loss.texture_term(luma_output(half), {"answer": level + wave}).item()
    assert cost == pytest.approx(counts, rel=0.05)
    elsewhere = loss.texture_term(luma_output(moved), {"answer": level + wave}).item()
    assert elsewhere < 0.1 * cost


@pytest.mark.parametrize("dark", [False, True])
def test_a_missing_or_false_small_thing_costs_its_error(dark):
    def cost(fused, answer, stack):
        fused, answer, stack = (1 - part if dark else part for part in (fused, answer, stack))
        return loss.small_term(luma_output(fused), {"answer": answer, "stack": stack}).item()

    plain = torch.full((1, 3, 64, 64), 0.2)
    spot = plain.clone()
    spot[..., 30:32, 20:25] = 1.0  # 10 px
    stack = torch.stack([spot, plain], 2)
    expected = pytest.approx(0.8 * 10 / (10 + loss.SMALL_PIXELS))
    assert cost(plain, spot, stack) == expected
    assert cost(spot, plain, stack) == expected
    steady = torch.stack([spot, spot], 2)  # in all frames
    assert cost(plain, spot, steady) == 0


def test_a_large_thing_is_not_small():
    plain = torch.full((1, 1, 64, 64), 0.2)
    half = plain.clone()
    half[..., 30:] = 1.0
    batch = {"answer": half, "stack": torch.stack([half, plain], 2)}
    assert loss.small_term(luma_output(plain), batch).item() == 0


@pytest.mark.parametrize("name", list(loss.TERMS))
def test_every_term_has_a_finite_gradient(name):
    torch.manual_seed(0)
    stack = torch.rand(2, 1, 3, 16, 12)
    logits = torch.randn(2, 3, 16, 12, requires_grad=True)
    weights = logits.softmax(1)
    output = {
        "fused": (weights * stack[:, 0]).sum(1, keepdim=True),
        "weights": weights,
        "logits": logits,
    }
    batch = {"stack": stack, "answer": stack[:, :, 1]}
    total, terms = loss.weighted_loss(output, batch, {name: 2.0})
    total.backward()
    assert torch.isfinite(logits.grad).all() and logits.grad.abs().sum() > 0
    assert total.item() == pytest.approx(2 * terms[name].item())


def test_cross_entropy_is_least_at_the_frame_that_is_the_answer():
    torch.manual_seed(0)
    stack = torch.rand(1, 1, 3, 8, 8).round(decimals=1)
    batch = {"stack": stack, "answer": stack[:, :, 2]}
    values = []
    for frame in range(3):
        logits = torch.zeros(1, 3, 8, 8)
        logits[:, frame] = 8
        output = luma_output(stack[:, :, frame]) | {"logits": logits}
        values.append(loss.cross_entropy_term(output, batch).item())
    assert values[2] < 0.3 * min(values[:2])


def test_colour_is_scored_plane_by_plane():
    """But for the logarithm of the error of all three."""
    answers, pictures = (
        torch.cat([drawn(24, 32, a, b) for b in (0.2, 0.5, 0.9)]) for a in (0.3, 0.4)
    )
    for name in ("l1", "mse", "ssim", "laplacian", "spatial_frequency"):
        each = [
            loss.TERMS[name](luma_output(picture[None]), {"answer": answer[None]})
            for picture, answer in zip(pictures, answers)
        ]
        joined = luma_output(pictures.transpose(0, 1)), {"answer": answers.transpose(0, 1)}
        torch.testing.assert_close(loss.TERMS[name](*joined), torch.stack(each).mean())


def test_cross_entropy_in_colour_sees_colour():
    """Two frames of one luma; the answer is the second."""
    red, grey = torch.tensor([0.6, 0.3, 0.3]), torch.tensor([0.39, 0.39, 0.39])
    stack = torch.stack([red, grey], 1)[None, :, :, None, None].expand(1, 3, 2, 4, 4)
    batch = {"stack": stack, "answer": stack[:, :, 1]}
    costs = []
    for sure in (-3.0, 0.0, 3.0):
        logits = torch.tensor([0.0, sure])[None, :, None, None].expand(1, 2, 4, 4)
        costs.append(loss.cross_entropy_term({"logits": logits}, batch).item())
    assert costs[2] < costs[1] < costs[0]


def test_cross_entropy_refuses_a_network_without_weights():
    stack = torch.rand(1, 1, 2, 8, 8)
    with pytest.raises(ValueError, match="needs a network that outputs weights"):
        loss.weighted_loss(
            luma_output(stack[:, :, 0]),
            {"stack": stack, "answer": stack[:, :, 0]},
            {"cross_entropy": 1.0},
        )


def test_bfloat16_outputs_are_scored_in_float32():
    answer = drawn(20, 24, 0.4, 0.6)
    fused = (answer + 0.1).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = loss.weighted_loss(luma_output(fused), {"answer": answer}, loss.DEFAULT_WEIGHTS)
    exact, _ = loss.weighted_loss(
        luma_output(fused.float()), {"answer": answer}, loss.DEFAULT_WEIGHTS
    )
    assert total.dtype == torch.float32
    assert total.item() == exact.item()


def test_a_term_of_weight_zero_is_not_computed():
    answer = drawn(20, 24, 0.4, 0.6)
    _, terms = loss.weighted_loss(
        luma_output(answer), {"answer": answer}, {"l1": 1.0, "cross_entropy": 0.0}
    )
    assert list(terms) == ["l1"]


def test_parse_loss_weights():
    assert loss.parse_loss_weights(["0.1", "0.7", "0.1", "0.1"]) == loss.PUBLISHED_WEIGHTS
    assert loss.parse_loss_weights(["l1=1", "ssim=.3"]) == {"l1": 1.0, "ssim": 0.3}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["1", "2"], "2 loss weights without names"),
        (["l1=1", "sharpness=2"], "sharpness is not a loss term"),
        (["l1=1", "l1=2"], "l1 is given twice"),
        (["l1=much"], "is 'much', no number"),
        (["l1=-1"], "must be 0 or more"),
        (["l1=nan"], "must be 0 or more"),
        (["0", "0", "0", "0"], "all loss weights are 0"),
    ],
)
def test_parse_loss_weights_refuses(words, sentence):
    with pytest.raises(ValueError, match=sentence):
        loss.parse_loss_weights(words)
