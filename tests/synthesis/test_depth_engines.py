"""Networks that estimate depth: sizes, normalisation, padding, files that do not fit."""

import argparse
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_onnx import FLOAT, FLOAT16, UINT8, attribute, mean_of, node, write_network

from stackmff.errors import StackError
from stackmff.machine import import_openvino
from stackmff.options import add_options, parse
from stackmff.synthesis import depth_engines
from stackmff.synthesis.depth_engines import DepthEngineOptions, OnnxRuntimeDepth, OpenVinoDepth
from stackmff.synthesis.depth_models import (
    FORMS,
    HUB,
    DepthModelOptions,
    Form,
    cut_padding,
    feed,
    form_of,
    input_size,
)


def options(*words):
    parser = argparse.ArgumentParser()
    for kind in (DepthModelOptions, DepthEngineOptions):
        add_options(parser, kind)
    return parse(parser, ["--model", *map(str, words)], DepthModelOptions, DepthEngineOptions)


def model_of(*words):
    return options(*words)[0]


def open_model(choice, threads):
    return depth_engines.open_model(*choice, threads)


def test_sizes_of_the_input():
    anything, metric3d = FORMS["depth_anything_v2"], FORMS["metric3d"]
    assert input_size(FORMS["fastdepth"], 768, 1024) == (224, 224)
    assert input_size(anything, 768, 1024) == (518, 686)  # 690.7 to the nearest multiple of 14
    assert input_size(anything, 1024, 768) == (686, 518)
    height, width = input_size(anything, 100, 5000)
    assert width <= 2 * 518 + 14 and height % 14 == width % 14 == 0
    assert input_size(metric3d, 768, 1024) == (616, 1064)


def test_the_input_is_normalised():
    picture = np.full((40, 60, 3), 51, np.uint8)
    form = Form((20, 30), "disparity", mean=(0.1, 0.2, 0.3), std=(0.1, 0.2, 0.4))
    values = feed(picture, form, (20, 30))
    assert values.shape == (3, 20, 30) and values.dtype == np.float32
    np.testing.assert_allclose(values[:, 5, 5], [1.0, 0.0, -0.25], atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(40, 30), (40, 200), (64, 96)])
def test_padding_is_cut_off_again(height, width):
    form = Form((64, 96), "relative", "pad", mean=(0.5, 0.5, 0.5))
    picture = np.full((height, width, 3), 255, np.uint8)
    values = feed(picture, form, (64, 96))[0]
    inside = values == 0.5
    assert (values[~inside] == 0).all()
    for shape in ((64, 96), (32, 48)):  # some networks give maps of half their size
        small = inside[:: 64 // shape[0], :: 96 // shape[1]]
        part = cut_padding(np.float32(small), form, (64, 96), height, width)
        assert part.all() and abs(int(part.size) - int(small.sum())) <= sum(shape)


@pytest.mark.parametrize("batch", ["batch", 1, 2])
def test_openvino_runs_any_number_of_pictures(tmp_path, batch):
    path = write_network(tmp_path / "n.onnx", sides=(batch, 3, "height", "width"))
    model = OpenVinoDepth(path, FORMS["fastdepth"], "fp32", 1)
    inputs = np.random.default_rng(0).random((3, 3, 16, 24), np.float32)
    np.testing.assert_allclose(model(inputs), inputs.mean(1), atol=1e-6)
    assert len(model.sha256) == 64 and model.name == "n.onnx"


def test_onnxruntime_gives_the_same(tmp_path):
    pytest.importorskip("onnxruntime")
    path = write_network(tmp_path / "n.onnx")
    model = OnnxRuntimeDepth(path, FORMS["fastdepth"], "cpu", 1)
    inputs = np.random.default_rng(0).random((2, 3, 16, 24), np.float32)
    np.testing.assert_allclose(model(inputs), inputs.mean(1), atol=1e-6)


def test_without_onnxruntime(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    path = write_network(tmp_path / "fastdepth.onnx")
    with pytest.raises(StackError, match=r'needs onnxruntime: pip install "stackmff\[depth\]"'):
        open_model(options(path, "--engine", "onnxruntime"), 1)


def test_the_size_in_the_file_is_the_one_that_counts(tmp_path):
    path = write_network(tmp_path / "depth-anything-v2.onnx", sides=(1, 3, 28, 42))
    model = open_model(options(path), 1)
    assert model.size(768, 1024) == model.size(1024, 768) == (28, 42)
    assert model.form.meaning == "disparity"


def test_what_a_file_is_comes_from_its_name_or_the_options(tmp_path):
    path = tmp_path / "some.onnx"
    with pytest.raises(StackError, match=r"give --kind \(fastdepth, midas_small"):
        form_of(path, model_of(path))
    assert form_of(path, model_of(path, "--kind", "dpt")) == FORMS["dpt"]
    words = ("--meaning", "relative", "--size", 64, 96, "--mean", 0, 0, 0, "--std", 1, 1, 0.5)
    form = form_of(path, model_of(path, "--kind", "dpt", *words))
    assert form == Form((64, 96), "relative", mean=(0, 0, 0), std=(1, 1, 0.5))
    assert form_of(tmp_path / "MiDaS_small.onnx", options(path)[0]) == FORMS["midas_small"]


def test_files_that_do_not_fit(tmp_path):
    cut = write_network(tmp_path / "fastdepth.onnx")
    with pytest.raises(StackError, match=r"has no output x: --output_name must be one of depth"):
        open_model(options(cut, "--output_name", "x"), 1)
    with pytest.raises(StackError, match="has no fp16"):
        open_model(options(cut, "--precision", "fp16"), 1)
    with pytest.raises(StackError, match="the file's own precision: remove --precision"):
        open_model(options(cut, "--precision", "bf16", "--engine", "onnxruntime"), 1)
    for device in ("mps", "gpu", "cuda:x"):
        with pytest.raises(StackError, match=f"--device {device} cannot run a file such as"):
            open_model(options(cut, "--device", device), 1)
    cut.write_bytes(cut.read_bytes()[:40])
    with pytest.raises(StackError, match=r"fastdepth\.onnx is not a network or is truncated"):
        open_model(options(cut), 1)
    grey = write_network(tmp_path / "dpt.onnx", sides=(1, 1, 32, 32))
    with pytest.raises(StackError, match=r"expected \(batch, 3, height, width\)"):
        open_model(options(grey), 1)
    colour = write_network(tmp_path / "dpt.onnx", node("Relu", ["input"], "depth"))
    model = open_model(options(colour), 1)
    with pytest.raises(StackError, match="choose another output by --output_name"):
        model(np.zeros((1, 3, 32, 32), np.float32))
    square = write_network(tmp_path / "dpt.onnx", node("MatMul", ["input", "input"], "depth"))
    model = open_model(options(square), 1)
    with pytest.raises(
        StackError, match=r"does not accept 1 picture.s. of 24x16: give another --size"
    ):
        model(np.zeros((1, 3, 16, 24), np.float32))
    for name in ("nowhere.onnx", tmp_path, "weights.pth"):
        with pytest.raises(StackError, match=r"is neither a file .* nor one of metric3d_vit_small"):
            open_model(options(name), 1)


def test_every_hub_network_has_a_form():
    assert all(form in FORMS and source for source, _, form in HUB.values())


HOUSE = Path(depth_engines.__file__).parents[2]
ENGINES = {"openvino": (OpenVinoDepth, "fp32"), "onnxruntime": (OnnxRuntimeDepth, "cpu")}


@pytest.mark.parametrize("engine", ENGINES)
def test_networks_that_take_something_else(tmp_path, engine):
    if engine == "onnxruntime":
        pytest.importorskip(engine)
    kind, how = ENGINES[engine]

    def open_with(**more):
        path = write_network(tmp_path / "n.onnx", **more)
        return kind(path, Form((16, 24), "metric"), how, 1)

    cast = node("Cast", ["input"], "real", attribute("to", FLOAT))
    with pytest.raises(
        StackError, match=r"takes 1 input\(s\) \(.*int8.*|u8\), expected one of f32"
    ):
        open_with(nodes=cast + mean_of("real"), elements=UINT8)
    both = node("Add", ["input", "other"], "sum") + mean_of("sum")
    with pytest.raises(StackError, match=r"takes 2 input\(s\) .*with the picture as its only"):
        open_with(nodes=both, inputs=("input", "other"))
    with pytest.raises(StackError, match=r"None, 3\), expected .* export it with the channels"):
        open_with(sides=(1, "height", "width", 3))
    square = node("MatMul", ["input", "input"], "depth")
    with pytest.raises(StackError, match=r"does not accept 1 picture\(s\) of 24x16: give another"):
        open_with(nodes=square)(np.zeros((1, 3, 16, 24), np.float32))


def test_a_gpu_that_onnxruntime_cannot_use_is_told(tmp_path, monkeypatch):
    path = write_network(tmp_path / "fastdepth.onnx")
    given = ["CPUExecutionProvider"]
    fake = SimpleNamespace(
        SessionOptions=SimpleNamespace,
        get_available_providers=lambda: list(given),
        InferenceSession=lambda *_: SimpleNamespace(get_providers=lambda: given[:1]),
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    with pytest.raises(StackError, match=r"--device cuda:1 needs a build of onnxruntime for GPUs"):
        open_model(options(path, "--device", "cuda:1"), 1)
    given.append("CUDAExecutionProvider")
    with pytest.raises(
        StackError, match=r"--device cuda: onnxruntime finds no CUDA .*--device cpu"
    ):
        open_model(options(path, "--device", "cuda"), 1)


def test_onnxruntime_feeds_halves(tmp_path):
    pytest.importorskip("onnxruntime")
    path = write_network(tmp_path / "n.onnx", elements=FLOAT16)
    inputs = np.random.default_rng(0).random((2, 3, 16, 24), np.float32)
    model = OnnxRuntimeDepth(path, FORMS["fastdepth"], "cpu", 1)
    np.testing.assert_allclose(model(inputs), inputs.mean(1), atol=1e-3)


def test_wide_and_upright_photographs_take_turns_without_compiling_again(tmp_path, monkeypatch):
    path = write_network(tmp_path / "n.onnx")
    model = OpenVinoDepth(path, FORMS["fastdepth"], "fp32", 1)
    sizes, core = [], model.core

    def compiled(network, *words):
        sizes.append(tuple(network.inputs[0].shape))
        return core.compile_model(network, *words)

    model.core = SimpleNamespace(compile_model=compiled)
    shapes = [(1, 3, 16, 24), (1, 3, 24, 16)]
    for shape in [*shapes, *shapes, (1, 3, 8, 8), *shapes]:
        model(np.zeros(shape, np.float32))
    assert sizes == [*shapes, (1, 3, 8, 8)]
    monkeypatch.setattr(depth_engines, "COMPILED_BYTES", 1)  # of large networks one alone is kept
    model(np.zeros((1, 3, 8, 16), np.float32))
    assert list(model.compiled) == [(1, 3, 8, 16)]


def test_weights_in_a_file_of_their_own_count(tmp_path):
    openvino = import_openvino()
    network = depth_engines.the_core().read_model(write_network(tmp_path / "n.onnx"))
    digests = []
    for folder, more in (("one", b""), ("other", b"other weights")):  # OpenVINO maps the files
        path = tmp_path / folder / "fastdepth.xml"
        openvino.save_model(network, path)
        with open(path.with_suffix(".bin"), "ab") as weights:
            weights.write(more)
        digests.append(open_model(options(path), 1).sha256)
    assert digests[0] != digests[1] and {len(digest) for digest in digests} == {64}


def test_a_signal_after_several_networks_does_not_end_the_process(tmp_path):
    path = write_network(tmp_path / "n.onnx")
    program = (
        "import os, signal, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from stackmff.synthesis.depth_engines import OpenVinoDepth\n"
        "from stackmff.synthesis.depth_models import FORMS\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('heard'))\n"
        "names = [Path(sys.argv[1]), FORMS['fastdepth'], 'fp32', 1]\n"
        "models = [OpenVinoDepth(*names) for _ in range(4)]\n"
        "for model in models:\n"
        "    model(np.zeros((1, 3, 16, 24), np.float32))\n"
        "del model\n"
        "while models:\n"
        "    del models[0]\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr
