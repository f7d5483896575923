"""The published network against its reference values; the default network's properties."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from network import (
    CoordinateAttention3d,
    build_network,
    default_config,
    load_network,
    luma_and_chroma,
    pad_to_multiple,
    run_network,
)
from stackmff.errors import StackError
from stackmff.images.tensors import padded

REFERENCE = Path(__file__).parent / "reference"
FACTS = json.loads((REFERENCE / "network.json").read_text())
VALUES = np.load(REFERENCE / "network_out.npz")


def reference_tensor(name, shape, k):
    """Tensor k by the formula of network.json."""
    i = np.arange(int(np.prod(shape)), dtype=np.float64)
    wave = np.sin(12.9898 * i + 78.233 * (k + 1)) * 43758.5453
    unit = wave - np.floor(wave)
    signed = 2 * unit - 1
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if name.endswith("running_var"):
        values = 0.5 + unit
    elif name.endswith(("running_mean", ".bias")):
        values = 0.1 * signed
    elif len(shape) == 1:
        values = 1 + 0.2 * signed
    elif "deconv" in name:
        values = signed * np.sqrt(3 / (shape[0] * np.prod(shape[2:]) // 4))
    else:
        values = signed * np.sqrt(3 / np.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


@pytest.fixture(scope="module")
def published():
    network = build_network(default_config("StackMFF")).eval()
    tensors = FACTS["tensors"]
    network.load_state_dict({n: reference_tensor(n, s, k) for k, (n, s) in enumerate(tensors)})
    return network


@pytest.fixture
def mix():
    torch.manual_seed(1)
    network = build_network(default_config("StackMix")).eval()
    torch.nn.init.normal_(network.head.weight, std=0.5)  # an unsure network would hide errors
    return network


def random_stack(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_published_network_has_the_published_tensors(published):
    tensors = [[name, list(value.shape)] for name, value in published.state_dict().items()]
    assert tensors == FACTS["tensors"]
    assert sum(p.numel() for p in published.parameters()) == 6083669 == FACTS["parameters"]


@pytest.mark.parametrize("case", [0, 1, 2])
def test_published_network_gives_the_published_output(published, case):
    with torch.no_grad():
        output = published(torch.from_numpy(VALUES[f"input{case}"]))
    np.testing.assert_allclose(output, VALUES[f"output{case}"], rtol=0, atol=1e-5)


def test_published_attention_gives_the_published_output():
    attention = CoordinateAttention3d(16).eval()
    tensors = FACTS["attention_tensors"]
    attention.load_state_dict(
        {n: reference_tensor(n, s, 500 + k) for k, (n, s) in enumerate(tensors)}
    )
    with torch.no_grad():
        output = attention(torch.from_numpy(VALUES["attention_input"]))
    np.testing.assert_allclose(output, VALUES["attention_output"], rtol=0, atol=1e-5)


def test_published_network_takes_sizes_that_are_no_multiple_of_16(published):
    stack = random_stack(1, 1, 3, 21, 35)
    with torch.no_grad():
        output = published(stack)
        padded = published(torch.nn.functional.pad(stack[:, 0], (0, 13, 0, 11), "reflect")[:, None])
    assert output.shape == (1, 1, 21, 35)
    torch.testing.assert_close(output, padded[..., :21, :35])


def test_padding_mirrors_and_repeats_where_a_side_is_short():
    stack = torch.arange(6.0).reshape(1, 1, 1, 1, 6)
    padded = pad_to_multiple(stack, 4)
    assert padded.shape == (1, 1, 1, 4, 8)
    assert padded[0, 0, 0, 3].tolist() == [0, 1, 2, 3, 4, 5, 4, 3]


@pytest.mark.parametrize(
    "shape", [(1, 1, 2, 1, 1), (2, 1, 3, 17, 40), (1, 1, 9, 64, 5), (1, 1, 1, 33, 33)]
)
def test_weights_of_the_frames_sum_to_one_at_any_size(mix, shape):
    with torch.no_grad():
        weights = mix(random_stack(*shape))
    assert weights.shape == (shape[0], *shape[2:])
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(1), torch.ones(shape[0], *shape[3:]))


@pytest.mark.parametrize(
    ("name", "parameters", "thousands"),
    [("StackMix", 181_528, 2.924), ("StackMFF", 6_083_669, 142.5)],
)
def test_cost_of_the_networks(name, parameters, thousands):
    """Multiply-adds a pixel and frame, in thousands, as the README gives them."""
    network = build_network(default_config(name)).eval()
    assert sum(p.numel() for p in network.parameters()) == parameters
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(random_stack(1, 1, 4, 64, 64))
    cost = counter.get_total_flops() / 2 / (4 * 64 * 64) / 1000
    assert cost == pytest.approx(thousands, rel=0.01)


def test_colour_alone_can_change_the_weights(mix):
    stack = torch.rand(1, 3, 4, 33, 47, generator=torch.Generator().manual_seed(0))
    luma, chroma = luma_and_chroma(stack)
    with torch.no_grad():
        grey = mix(luma)
        assert mix(luma, torch.zeros_like(chroma)).equal(grey)
        assert (mix(luma, chroma) - grey).abs().max() > 1e-3
        output = run_network(mix, stack)
    assert output["weights"].equal(mix(luma, chroma))
    wanted = (output["weights"][0] * stack[0]).sum(1)
    torch.testing.assert_close(output["fused"][0], wanted)


def test_networks_of_luma_take_stacks_in_colour():
    stack = torch.rand(1, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mix = build_network({**default_config("StackMix"), "chroma": 0}).eval()
    with torch.no_grad():
        output = run_network(mix, stack)
        assert output["weights"].equal(mix(luma_and_chroma(stack)[0]))
    assert not mix.colour and output["fused"].shape == (1, 3, 32, 32)


def test_weights_from_before_colour_are_of_luma(tmp_path):
    config = {**default_config("StackMix"), "chroma": 0}
    state = build_network(config).state_dict()
    torch.save(
        {"config": {k: v for k, v in config.items() if k != "chroma"}, "network": state},
        tmp_path / "old.pth",
    )
    assert load_network(tmp_path / "old.pth").config == config


def test_reversed_frames_give_reversed_weights_once_symmetric(mix):
    """Frames are told apart by their content alone: no position is wired in."""
    for name, module in mix.named_modules():
        if name.endswith("b.0"):  # across frames: make the three taps symmetric
            weight = module.weight.data
            weight[:, :, 0] = weight[:, :, 2]
    stack = random_stack(1, 1, 5, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(mix(stack.flip(2)), mix(stack).flip(1), atol=1e-5, rtol=1e-4)


def test_a_part_of_the_picture_agrees_with_the_whole(mix):
    """With a margin, weights do not depend on what lies outside the tile."""
    stack = random_stack(1, 1, 3, 64, 400)
    with torch.no_grad():
        whole = mix(stack)[..., 176:208]
        part = mix(stack[..., 32:352])[..., 144:176]
    torch.testing.assert_close(part, whole, atol=1e-5, rtol=1e-4)


def test_run_network_mixes_the_frames(mix):
    stack = random_stack(2, 1, 4, 16, 20)
    with torch.no_grad():
        output = run_network(mix, stack)
    mixed = (output["weights"] * stack[:, 0]).sum(1, keepdim=True)
    torch.testing.assert_close(output["fused"], mixed)
    assert (output["fused"] <= stack.amax(2) + 1e-6).all()
    assert (output["fused"] >= stack.amin(2) - 1e-6).all()


def test_run_network_gives_luma_alone_for_the_published_network(published):
    with torch.no_grad():
        output = run_network(published, random_stack(1, 1, 2, 16, 16))
    assert output["fused"].shape == (1, 1, 16, 16)
    assert output["weights"] is None and output["logits"] is None


def test_checkpoint_rebuilds_its_network(mix, tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save({"config": mix.config, "network": mix.state_dict(), "seed": 1}, path)
    loaded = load_network(path)
    assert loaded.config == mix.config and not loaded.training
    stack = random_stack(1, 1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(stack), mix(stack))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_bare_published_weights_are_recognised(published, tmp_path, prefix):
    path = tmp_path / "stackmff.pth"
    torch.save({prefix + name: value for name, value in published.state_dict().items()}, path)
    assert load_network(path).config["network"] == "StackMFF"


def test_errors_of_loading(mix, tmp_path):
    with pytest.raises(StackError, match="not a file of weights"):
        load_network(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(StackError, match="not a checkpoint"):
        load_network(tmp_path / "text.pth")
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(StackError, match="another network"):
        load_network(tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(StackError, match="holds no weights"):
        load_network(tmp_path / "list.pth")
    config = {**mix.config, "widths": [8, 8, 8]}
    torch.save({"config": config, "network": mix.state_dict()}, tmp_path / "widths.pth")
    with pytest.raises(StackError, match="another network"):
        load_network(tmp_path / "widths.pth")


def test_errors_of_building():
    with pytest.raises(StackError, match="is unknown"):
        build_network({"network": "Unknown"})
    with pytest.raises(StackError, match="does not fit"):
        build_network({"network": "StackMix", "depth": 3})
    for options in ({"widths": [16]}, {"widths": [0, 2, 3]}, {"hidden": "x"}, {"window": 4}):
        with pytest.raises(StackError, match="does not fit StackMix"):
            build_network({"network": "StackMix", **options})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(mix, tmp_path, value):
    state = {name: tensor.clone() for name, tensor in mix.state_dict().items()}
    next(iter(state.values())).view(-1)[3] = value
    torch.save({"config": mix.config, "network": state}, tmp_path / "a.pth")
    with pytest.raises(StackError, match=r"a\.pth holds weights that are not finite"):
        load_network(tmp_path / "a.pth")


def test_a_checkpoint_with_a_changed_byte_is_refused(mix, tmp_path):
    torch.save({"config": mix.config, "network": mix.state_dict()}, tmp_path / "a.pth")
    data = bytearray((tmp_path / "a.pth").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(
        StackError, match=r"a\.pth is not a checkpoint, or it is truncated or damaged"
    ):
        load_network(tmp_path / "a.pth")


@pytest.mark.parametrize("multiple", [1, 4, 32])
def test_padding_without_branches_is_padding(multiple):
    """What torch.export takes in place of `pad_to_multiple`."""
    for height, width in ((1, 7), (5, 16), (17, 33), (32, 64)):
        stack = torch.rand(1, 2, 3, height, width)
        rows, columns = (padded(side, multiple, stack.device) for side in (height, width))
        found = stack.index_select(-2, rows).index_select(-1, columns)
        assert torch.equal(found, pad_to_multiple(stack, multiple))
