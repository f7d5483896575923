"""machine.py: the memory that limits are compared with, and OpenVINO without its telemetry."""

import ast
import subprocess
import sys
from pathlib import Path

from drawn import draw_stack, texture

from stackmff import machine
from stackmff.images.formats import read_picture, write_picture

HOUSE = Path(__file__).parents[1]


def write_group(folder, limit, used, freed):
    """A control group of version 2 in `folder`."""
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\ninactive_file {freed}\n")


def test_free_memory_is_the_least_that_any_limit_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CONTROL_GROUPS", tmp_path)
    assert machine.free_memory() > 2**20
    write_group(tmp_path, 1000, 700, 50)
    assert machine.free_memory() == 350
    write_group(tmp_path, 1000, 1100, 50)
    assert machine.free_memory() == 0
    write_group(tmp_path, "max", 700, 50)
    assert machine.free_memory() > 2**20


# Writes what is done with sockets and processes to a file, also in a process that is forked.
WATCHED = """
import os, sys
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def watch(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.fork", "os.posix_spawn", "os.system")):
        os.write(log, f"{event} {arguments}\\n".encode())
sys.addaudithook(watch)
import predict
predict.main(sys.argv[2:])
loaded = [name for name in sys.modules if name.startswith("openvino_telemetry")]
assert [sys.modules[name] for name in loaded] == [None], loaded
assert "openvino.tools.ovc.telemetry_stub" in sys.modules
"""


def test_fusing_opens_no_socket(tmp_path):
    for k, frame in enumerate(draw_stack(texture(64, 96, 0), 3)):
        write_picture(tmp_path / "stack" / f"{k}.png", frame)
    words = ["--stack_path", tmp_path / "stack", "--output", tmp_path / "fused.png"]
    words = [tmp_path / "log", *words, "--engine", "openvino"]
    subprocess.run([sys.executable, "-c", WATCHED, *map(str, words)], cwd=HOUSE, check=True)
    assert read_picture(tmp_path / "fused.png").shape == (64, 96, 3)
    assert (tmp_path / "log").read_text() == ""


def imports_of(path):
    """The names of the modules that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_openvino_is_imported_in_one_place():
    """With `import openvino` its telemetry would be there."""
    folders = (HOUSE, HOUSE / "tools", *(f for f in HOUSE.glob("stackmff/**") if f.is_dir()))
    files = [path for folder in folders for path in folder.glob("*.py")]
    assert len(files) > 80
    found = {path for path in files for name in imports_of(path) if name.startswith("openvino")}
    assert found == set()
