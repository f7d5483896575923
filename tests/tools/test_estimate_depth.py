"""tools.estimate_depth: known depth of drawn photographs, bad input, what is missing."""

import json
import os
import sys
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from calling import killed_while_writing, make_quietly
from drawn import texture
from tiny_onnx import CONSTANT, NAN, write_network

from stackmff.errors import StackError
from stackmff.images.formats import read_picture, write_picture
from tools import estimate_depth

SIDE = 32  # px, of the photographs here
WORDS = ("--min_side", SIDE, "--min_sharpness", 0.3, "--workers", 2)


def two_halves(seed, height=SIDE, width=48):
    """Dark on the left, bright on the right, with detail and colour."""
    level = np.where(np.arange(width) < width // 2, 40, 160)[None, :, None]
    picture = np.uint8(level + texture(height, width, seed) // 4.0)
    picture[..., 0] += 20
    return picture


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for k in range(3):
        write_picture(folder / f"p{k}.png", two_halves(k))
    (folder / "image_ids.csv").write_text("ImageID,Subset\np0,validation\n")
    return folder


@pytest.fixture
def model(tmp_path):
    return write_network(tmp_path / "fastdepth.onnx", sides=("batch", 3, 24, 36))


@pytest.fixture
def run(capsys, photos, tmp_path):
    """tools/estimate_depth.py with these words: (exit status, what it said)."""

    def call(*words):
        folders = ("--image_path", photos, "--output_dir", tmp_path / "maps")
        try:
            status = estimate_depth.main([*map(str, (*folders, *WORDS, *words))])
        except SystemExit as stop:
            status = stop.code
        said = capsys.readouterr()
        return status, said.out + said.err

    return call


def test_maps_have_the_depth_the_size_and_the_edges(run, model, tmp_path):
    status, said = run("--model", model)
    assert status == 0 and "3 depth maps, 3 of them new, 0 photographs left out" in said
    names = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert names == ["depth.json", "p0.png", "p1.png", "p2.png"]
    levels = read_picture(tmp_path / "maps" / "p0.png")[..., 0]
    assert levels.dtype == np.uint16 and levels.shape == (SIDE, 48)
    wanted = (
        1000 * two_halves(0).astype(float).mean(2) / 255
    )  # metres as the brightness, 1 mm steps
    for half in (slice(4, 22), slice(26, 44)):
        assert levels[:, half].mean() == pytest.approx(wanted[:, half].mean(), rel=0.02)
    assert abs(levels[:, 23].mean() - levels[:, 21].mean()) < 40  # soft it would be off by 200
    side = json.loads((tmp_path / "maps" / "depth.json").read_text())
    assert side["kind"] == "distance" and side["meaning"] == "metric distance"
    assert side["larger_is"] == "farther" and side["metres_per_level"] == 0.001
    assert len(side["made_by"]["sha256"]) == 64 and side["made_by"]["model"] == "fastdepth.onnx"
    assert side["run"]["command"] == sys.argv


def test_make_dataset_reads_what_the_maps_mean(run, model, photos, capsys, tmp_path):
    run("--model", model)
    words = ["--image_path", photos, "--depth_path", tmp_path / "maps", "--num_frames", 3]
    words += ["--max_coc", 6, *WORDS[:4]]
    status, said = make_quietly(
        capsys, *words, "--output_dir", tmp_path / "no", "--depth_kind", "disparity"
    )
    assert status == 2 and "contradicts depth.json" in said and "says distance" in said
    assert make_quietly(capsys, *words, "--output_dir", tmp_path / "set")[0] == 0
    disparity = read_picture(tmp_path / "set" / "depth" / "p0.png")[..., 0]
    assert disparity[:, :20].min() > disparity[:, 28:].max()  # the dark half is near
    record = json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert record["settings"]["depth_kind"] == "distance"
    published = [*words[:6], *WORDS[:4], "--refocus", "published"]
    assert make_quietly(capsys, *published, "--output_dir", tmp_path / "regions")[0] == 0
    regions = read_picture(tmp_path / "regions" / "depth" / "p0.png")
    assert regions.max() == 254 and regions.min() < 100  # as they are, 700 mm are level 2


def test_what_is_done_is_not_done_again(run, model, photos, tmp_path):
    run("--model", model)
    path = tmp_path / "maps" / "p1.png"
    stamp, first = path.stat().st_mtime_ns, path.read_bytes()
    write_picture(photos / "p3.png", two_halves(3))
    status, said = run("--model", model)
    assert status == 0 and "4 depth maps, 1 of them new" in said
    assert path.stat().st_mtime_ns == stamp
    write_picture(photos / "p1.png", two_halves(7))
    os.utime(photos / "p1.png", ns=(stamp + 10**9,) * 2)
    assert "4 depth maps, 1 of them new" in run("--model", model)[1]
    assert path.read_bytes() != first
    for words, name in (
        (["--no_sharpen"], "sharpened"),
        (["--meaning", "disparity"], "kind"),
        (["--mean", 0.5, 0.5, 0.5], "input"),
        (["--step", 0.01], "metres_per_level"),
    ):
        with pytest.raises(StackError, match=f"other options .*{name}.*another --output_dir"):
            run("--model", model, *words)
    model.write_bytes(model.read_bytes() + b"\x10\x01")  # a field more: another file
    with pytest.raises(StackError, match=r"of another model .*sha256"):
        run("--model", model)
    (tmp_path / "maps" / "depth.json").unlink()
    with pytest.raises(StackError, match=r"holds pictures and no depth\.json"):
        run("--model", model)


def test_bad_photographs_are_told_and_left_out(run, model, photos, tmp_path):
    good = two_halves(5)
    (photos / "broken.png").write_bytes((photos / "p0.png").read_bytes()[:200])
    bad = {
        "tiny": good[:20],
        "grey": good[..., :1],
        "blurred": cv2.GaussianBlur(good, (0, 0), 3),
        "black": good // 20,
        "plain": np.full_like(good, 90),
    }
    for name, picture in bad.items():
        write_picture(photos / f"{name}.png", picture)
    status, said = run("--model", model)
    assert status == 0 and "3 depth maps, 3 of them new, 6 photographs left out" in said
    for name, word in {
        "tiny": "48x20, too small",
        "grey": "is grey",
        "blurred": "is blurred",
        "black": "is black",
        "plain": "is of one colour",
        "broken": "cut short",
    }.items():
        assert any(f"{name}.png" in line and word in line for line in said.splitlines()), name
    side = json.loads((tmp_path / "maps" / "depth.json").read_text())
    assert sorted(side["left_out"]) == sorted(f"{name}.png" for name in [*bad, "broken"])
    status, said = run("--model", model, "--strict")
    assert status == 1 and "0 of them new, 6 photographs left out" in said
    assert "5 photographs left out" in run("--model", model, "--min_colour", 0)[1]


def test_a_name_of_two_lines_is_told_in_one(run, model, photos, tmp_path):
    (photos / "two\nlines.png").write_bytes(b"no picture")
    said = run("--model", model)[1]
    assert said.count("lines.png") == 1 and r"two\nlines.png is not a picture" in said
    (photos / "two\nlines.png").write_bytes((photos / "p0.png").read_bytes())
    network = write_network(tmp_path / "dpt.onnx", CONSTANT)
    said = run("--model", network, "--output_dir", tmp_path / "flat")[1]
    assert (
        said.count("lines.png") == 1 and r"two\nlines.png: the network returned one depth" in said
    )


def test_a_photograph_from_the_future_is_done_once(run, model, photos, tmp_path):
    late = time.time_ns() + 3600 * 10**9
    os.utime(photos / "p1.png", ns=(late, late))
    assert "3 of them new" in run("--model", model)[1]
    assert "3 depth maps, 0 of them new" in run("--model", model)[1]
    os.utime(photos / "p1.png", ns=(late + 10**9,) * 2)
    assert "3 depth maps, 1 of them new" in run("--model", model)[1]


def test_a_side_file_by_hand_is_not_written_over(run, model, tmp_path):
    (tmp_path / "maps").mkdir()
    side = tmp_path / "maps" / "depth.json"
    side.write_text(text := '{"kind": "distance", "made_by": "a laser scanner"}')
    with pytest.raises(StackError, match=r"of another model .*choose another --output_dir"):
        run("--model", model)
    assert side.read_text() == text


@pytest.mark.parametrize(
    ("nodes", "word"), [(CONSTANT, "one depth everywhere"), (NAN, "NaN or infinite")]
)
def test_constant_and_nan_depth_are_told_and_left_out(run, tmp_path, nodes, word):
    network = write_network(tmp_path / "fastdepth.onnx", nodes)
    status, said = run("--model", network)
    assert status == 1 and "0 depth maps, 0 of them new, 3 photographs left out" in said
    assert said.count(word) == 3 and "p2.png" in said
    assert not list((tmp_path / "maps").glob("*.png"))


def test_batches_give_the_maps_of_one_at_a_time(run, photos, tmp_path):
    network = write_network(tmp_path / "any.onnx")
    write_picture(photos / "p1.png", two_halves(1, 64, 40))  # another size amid the others
    words = ("--model", network, "--kind", "depth_anything_v2", "--batch_size")
    maps = []
    for count in (1, 2):
        assert run(*words, count)[0] == 0
        maps.append({p.name: p.read_bytes() for p in (tmp_path / "maps").glob("*.png")})
        for path in (tmp_path / "maps").iterdir():
            path.unlink()
    assert maps[0] == maps[1] and len(maps[0]) == 3


def test_a_killed_run_goes_on(run, photos, model, tmp_path):
    for k in range(3, 40):
        write_picture(photos / f"p{k}.png", two_halves(k, 96, 96))
    out = tmp_path / "maps"
    words = ["--image_path", photos, "--output_dir", out, "--model", model, *WORDS]
    killed_while_writing("tools.estimate_depth", words, 5, "stackmff.synthesis.depth_estimation")
    done = {path: path.stat().st_mtime_ns for path in out.glob("p*.png")}
    assert 0 < len(done) <= 5
    status, said = run("--model", model)
    assert status == 0 and f"40 depth maps, {40 - len(done)} of them new" in said
    assert done == {path: path.stat().st_mtime_ns for path in done}
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    killed = {path.name: path.read_bytes() for path in out.glob("*.png")}
    for path in out.iterdir():
        path.unlink()
    run("--model", model)
    assert killed == {path.name: path.read_bytes() for path in out.glob("*.png")}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model", "zoedepth", "--kind", "dpt"], "--kind is for files"),
        (["--model", "x.onnx", "--std", 0, 1, 1], "--std: 0 must be above 0"),
        (["--model", "x.onnx", "--std", 58.4, 57.1, 57.4], "--std: 58.4 must be at most 1"),
        (["--model", "x.onnx", "--mean", "nan", 0, 0], "--mean: nan must be finite"),
        (["--model", "x.onnx", "--step", "inf"], "--step: inf must be finite"),
        (["--model", "x.onnx", "--engine", "openvino", "--device", "cuda"], "runs on the CPU"),
        (["--model", "x.onnx", "--image_path", "nowhere"], "is not a folder"),
    ],
)
def test_wrong_calls(run, words, sentence):
    status, said = run(*words)
    assert status == 2 and sentence in said


def test_maps_are_never_put_among_the_photographs(run, photos, model):
    status, said = run("--model", model, "--output_dir", photos)
    assert status == 2 and "taken for photographs" in said


def test_a_hub_network_by_a_package_that_is_there(run, monkeypatch, tmp_path):
    torch = pytest.importorskip("torch")

    class Brightness(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.bfloat16))

        def forward(self, pixel_values):
            return SimpleNamespace(predicted_depth=pixel_values.mean(1) * self.gain.float())

    given = SimpleNamespace(from_pretrained=lambda name: Brightness())
    fake = SimpleNamespace(AutoModelForDepthEstimation=given)
    monkeypatch.setitem(sys.modules, "transformers", fake)
    words = ("--model", "depth_anything_v2_small", "--device", "cpu")
    assert run(*words)[0] == 0
    side = json.loads((tmp_path / "maps" / "depth.json").read_text())
    assert side["kind"] == "disparity" and "Depth-Anything" in side["made_by"]["model"]
    levels = read_picture(tmp_path / "maps" / "p0.png")[..., 0]
    assert levels.min() == 0 and levels.max() == 65535
    assert levels[:, :20].max() < levels[:, 28:].min()

    def fail(name):
        raise OSError("We couldn't connect to the hub.\nMore lines")

    given.from_pretrained = fail
    with pytest.raises(
        StackError, match=r"cannot be downloaded \(We couldn't .*hub\): check the connection"
    ):
        run(*words)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(StackError, match=r'needs transformers: pip install "stackmff\[depth\]"'):
        run(*words)


def test_torch_hub_without_a_package_or_a_network(run, monkeypatch):
    torch = pytest.importorskip("torch")
    for error, sentence in (
        (ModuleNotFoundError("No module named 'mmengine'", name="mmengine"), "needs mmengine: pip"),
        (OSError("no route"), r"cannot be downloaded from yvanyin/metric3d \(no route\)"),
    ):

        def fail(*words, error=error, **options):
            raise error

        monkeypatch.setattr(torch.hub, "load", fail)
        with pytest.raises(StackError, match=sentence):
            run("--model", "metric3d_vit_small", "--device", "cpu")
