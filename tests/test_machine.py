"""machine.py: the memory that limits are compared with, and OpenVINO without its telemetry."""

import ast
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from drawn import draw_stack, texture

from stackmff import machine
from stackmff.images.formats import read_picture, write_picture
from stackmff.machine import HUGE_PAGES

HOUSE = Path(__file__).parents[1]


def write_group(folder, limit, used, freed, version=2):
    """A control group in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\n{names[2]} {freed}\n")


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Folders that stand for /proc and /sys/fs/cgroup; the machine has 1,000,000 kB."""
    processes, groups = tmp_path / "proc", tmp_path / "cgroup"
    (processes / "self").mkdir(parents=True)
    (processes / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 1000000 kB\n")
    monkeypatch.setattr(machine, "PROCESSES", processes)
    monkeypatch.setattr(machine, "CONTROL_GROUPS", groups)
    return processes / "self" / "cgroup", groups


MACHINE = 1_000_000 * 1024


def test_free_memory_is_the_least_that_any_limit_leaves(system):
    _, groups = system
    assert machine.free_memory() == MACHINE
    write_group(groups, 1000, 700, 50)
    assert machine.free_memory() == 350
    write_group(groups, 1000, 1100, 50)
    assert machine.free_memory() == 0
    write_group(groups, "max", 700, 50)
    assert machine.free_memory() == MACHINE


@pytest.mark.parametrize("root", ["", "unified"])
def test_limits_of_the_groups_above_count(system, root):
    """SLURM: the limit is on the job, the process in a step's task."""
    own, groups = system
    job = groups / root / "slurmstepd.scope" / "job_7"
    own.write_text("1:cpu:/\n0::/slurmstepd.scope/job_7/step_0/task_0\n")
    write_group(job / "step_0" / "task_0", "max", 700, 0)
    write_group(job / "step_0", 5000, 700, 0)
    write_group(job, 1000, 700, 50)
    write_group(groups / root / "other", 1, 1, 0)
    assert machine.free_memory() == 350
    write_group(job / "step_0" / "task_0", 900, 700, 0)
    assert machine.free_memory() == 200


def test_limits_of_version_1(system):
    own, groups = system
    own.write_text("9:cpuset:/x\n4:pids,memory:/slurm/uid_1/job_7:a\n0::/\n")
    write_group(groups / "memory", 2**63 - 4096, 700, 0, version=1)
    write_group(groups / "memory" / "slurm" / "uid_1" / "job_7:a", 800, 700, 0, version=1)
    assert machine.free_memory() == 100


@pytest.mark.parametrize("path", ["/docker/0123/inner", "/../..", "/", "no line"])
def test_a_container_that_sees_only_its_own_group(system, path):
    own, groups = system
    own.write_text(f"0::{path}\n" if path.startswith("/") else path)
    write_group(groups, 1000, 700, 0)
    assert machine.free_memory() == 300


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


# Runs commands one after another in this process; any socket but those of processes of one machine
# is an error, in whatever module it is opened.
GUARDED = """
import importlib, json, socket, sys
def guard(event, arguments):
    if event == "socket.__new__" and arguments[1] == socket.AF_UNIX:
        return
    if event.startswith("socket.") and event != "socket.gethostname":
        raise SystemExit(f"{event} {arguments}")
sys.addaudithook(guard)
for name, *words in json.loads(sys.argv[1]):
    assert not importlib.import_module(name).main(words), name
"""


def commands_on(folder):
    """From photographs to scores, small: [module, its words]."""
    folder.mkdir()
    for k in range(4):
        write_picture(folder / "photos" / f"{k}.png", texture(64, 80, k))
        depth = np.uint8(np.linspace(0, 255, 64 * 80).reshape(64, 80, 1))
        write_picture(folder / "depth" / f"{k}.png", depth)
    made, out = str(folder / "set"), str(folder / "out")
    train = ["train", "--datapath", made, "--experiments", str(folder), "--exp_name", "run"]
    train += ["--epochs", "1", "--image_size", "32", "32", "--num_workers", "0", "--device", "cpu"]
    weights = ["--model_path", str(folder / "run" / "best.pth")]
    stack = str(folder / "set" / "dof_stack" / "0")
    make = ["make_dataset", "--image_path", str(folder / "photos"), "--output_dir", made]
    make += ["--depth_path", str(folder / "depth"), "--depth_kind", "disparity"]
    make += ["--num_frames", "3", "--workers", "1", "--min_side", "32"]
    return [
        make,
        [*train, "--val_fraction", "0.25"],
        ["predict", "--stack_path", stack, "--output", f"{out}/one/0.png", *weights],
        ["predict_dataset", "--stack_basedir_path", made, "--output_dir", out, *weights],
        ["evaluate", "--results", out, "--reference", f"{made}/AiF"],
    ]


@pytest.mark.slow
def test_no_command_opens_a_socket(tmp_path):
    words = json.dumps(commands_on(tmp_path / "guarded"))
    subprocess.run([sys.executable, "-c", GUARDED, words], cwd=HOUSE, check=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_no_library_of_a_command_opens_a_socket(tmp_path):
    """What Python does not see: sockets of C libraries, of all processes that are started."""
    log = tmp_path / "log"
    traced = ["strace", "-f", "-qq", "-e", "trace=network", "-o", str(log), sys.executable]
    for name, *words in commands_on(tmp_path / "traced"):
        subprocess.run([*traced, f"{name}.py", *words], cwd=HOUSE, check=True)
        assert "AF_INET" not in log.read_text(), name


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


FAULTS = """
import platform, resource
from stackmff.machine import share_one_heap

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

share_one_heap()
bytearray(40 * 2**20)
before = faults()
for _ in range(3):
    bytearray(40 * 2**20)
print(faults() - before)
"""


@pytest.mark.parametrize(("told", "wanted"), [(None, False), ("1", True)])
def test_huge_pages_are_left_to_those_who_ask_for_them(told, wanted):
    environment = {name: value for name, value in os.environ.items() if name != HUGE_PAGES}
    if told is not None:
        environment[HUGE_PAGES] = told
    asked = "import numpy; print(numpy._core.multiarray._set_madvise_hugepage(True))"
    code = f"from stackmff.machine import share_one_heap; share_one_heap(); {asked}"
    command = [sys.executable, "-c", code]
    said = subprocess.run(
        command, capture_output=True, cwd=HOUSE, check=True, text=True, env=environment
    )
    assert said.stdout.strip() == str(wanted)


@pytest.mark.skipif(
    platform.libc_ver() < ("glibc", "2.35"), reason="the C library has no such setting"
)
def test_memory_that_is_freed_is_used_again_without_page_faults():
    command = [sys.executable, "-c", FAULTS]
    said = subprocess.run(command, capture_output=True, cwd=HOUSE, check=True, text=True)
    assert int(said.stdout) < 3 * 40 * 2**20 / resource.getpagesize() / 10
