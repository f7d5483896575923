"""fusion/compiled.py: a compiled network is kept, is that network, and is made anew if lost."""

import hashlib
import os
import stat

import numpy as np
import pytest

from stackmff.fusion import compiled
from stackmff.fusion.compiled import SWITCH, CompiledNetworks, cache_folder
from stackmff.machine import import_openvino, the_core

SHAPES = {"luma": [3, 4, 8]}
FP32 = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}


class Core:
    """OpenVINO's Core, which counts what it compiles."""

    def __init__(self):
        self.compiled = 0

    def compile_model(self, *args):
        self.compiled += 1
        return the_core().compile_model(*args)

    def __getattr__(self, name):
        return getattr(the_core(), name)


def write_export(path, factor):
    """An export, as small as can be: its input times a factor."""
    openvino = import_openvino()
    ops = openvino.opset13
    luma = ops.parameter([-1, -1, -1], np.float32, name="luma")
    luma.output(0).get_tensor().set_names({"luma"})
    model = openvino.Model([ops.multiply(luma, ops.constant(np.float32(factor)))], [luma])
    openvino.save_model(model, path, compress_to_fp16=False)


@pytest.fixture
def export(tmp_path):
    write_export(tmp_path / "small.xml", 3)
    return tmp_path / "small.xml"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder for compiled networks, which is not there yet."""
    monkeypatch.setenv(SWITCH, str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(export, shapes=SHAPES, settings=FP32):
    """(times that it was compiled, notes) of a run of the export, which gives what it should."""
    networks, core = CompiledNetworks(), Core()
    network = networks.compiled(core, export, core.read_model(export), shapes, settings)
    luma = np.random.default_rng(0).random(shapes["luma"], np.float32)
    found = next(iter(network.create_infer_request().infer([luma]).values()))
    np.testing.assert_array_equal(found, 3 * luma)
    return core.compiled, networks.notes


def test_what_is_kept_is_not_compiled_again_and_gives_the_same(export, folder):
    assert run(export) == (1, [])
    assert run(export) == (0, [])
    assert len(list(folder.iterdir())) == 1
    if os.name == "posix":
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_other_weights_shapes_and_settings_are_other_networks(export, folder):
    run(export)
    assert run(export, {"luma": [3, 4, 9]})[0] == 1
    assert run(export, settings={**FP32, "NUM_STREAMS": 2})[0] == 1
    networks = CompiledNetworks()
    before = networks.place(the_core(), export, SHAPES, FP32)
    write_export(export, 5)
    assert networks.place(the_core(), export, SHAPES, FP32) != before


def test_damaged_files_cost_the_time_to_compile_and_a_note(export, folder):
    run(export)
    (kept,) = folder.iterdir()
    sound = kept.read_bytes()
    for content in (b"", b"not a network" * 99, sound[:-1], sound[:-1] + b"!"):
        kept.write_bytes(content)
        problem = f"{folder}: a compiled network could not be kept or read: it is damaged"
        assert run(export) == (1, [problem])
        assert run(export) == (0, [])


def test_a_sound_file_that_openvino_refuses_is_replaced(export, folder):
    run(export)
    (kept,) = folder.iterdir()
    kept.write_bytes(hashlib.sha256(b"other").digest() + b"other")
    count, notes = run(export)
    assert count == 1 and len(notes) == 1
    assert run(export) == (0, [])


def test_a_folder_that_cannot_be_made_is_a_note(export, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(SWITCH, str(tmp_path / "file" / "cache"))
    count, notes = run(export)
    assert count == 1
    assert notes == [
        f"{tmp_path / 'file' / 'cache'}: a compiled network could not be kept or read: "
        "Not a directory"
    ]


def test_it_is_switched_off_by_a_word(export, tmp_path, monkeypatch):
    monkeypatch.setenv(SWITCH, "off")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() is None
    for _ in range(2):
        assert run(export) == (1, [])
    assert not (tmp_path / "cache").exists()


def test_the_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv(SWITCH)
    monkeypatch.setattr(compiled.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "stackmff"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "stackmff"


class Exported:
    """Stands for a compiled network."""

    def export_model(self):
        return b"content"


def test_the_files_that_were_used_last_are_kept(folder, monkeypatch):
    monkeypatch.setattr(compiled, "MOST", 2)
    networks = CompiledNetworks()
    for k in range(4):
        place = folder / f"{k}{compiled.SUFFIX}"
        networks.write(place, Exported())
        os.utime(place, (k, k))
        if k == 1:
            os.utime(folder / f"0{compiled.SUFFIX}", (9, 9))
    assert sorted(path.stem for path in folder.iterdir()) == ["0", "3"]
    assert networks.read(folder / f"3{compiled.SUFFIX}") == b"content"
