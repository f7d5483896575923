"""utils.py: what killed processes leave, the memory that limits are compared with, numbers."""

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stackmff import files, options, processes
from stackmff import machine as machine_module


def write_group(folder, limit, used, freed):
    """A control group of version 2 in `folder`."""
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\ninactive_file {freed}\n")


def test_free_memory_is_the_least_that_any_limit_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr(machine_module, "CONTROL_GROUPS", tmp_path)
    machine = machine_module.free_memory()
    assert machine > 2**20
    write_group(tmp_path, 1000, 700, 50)
    assert machine_module.free_memory() == 350
    write_group(tmp_path, 1000, 1100, 50)
    assert machine_module.free_memory() == 0
    write_group(tmp_path, "max", 700, 50)
    assert machine_module.free_memory() > 2**20


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_leaves_nothing_after_the_next_start(tmp_path, number):
    target = tmp_path / "picture.png"
    code = (
        "import sys, time\n"
        "from stackmff.files import atomic_path\n"
        "from stackmff.processes import run_main\n"
        "def main():\n"
        "    with atomic_path(sys.argv[1]) as path:\n"
        "        path.write_text('half')\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "run_main(main)"
    )
    words = [sys.executable, "-c", code, str(target)]
    house = Path(__file__).parent.parent
    with subprocess.Popen(words, cwd=house, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        # While it lives, another one that writes the same file leaves it its temporary file.
        files.write_text(target, "old")
        assert len(list(tmp_path.iterdir())) == 2
        process.send_signal(number)
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == (2 if number == signal.SIGKILL else 1)
    files.remove_leftovers.cache_clear()  # as in a new process
    files.write_text(target, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
    assert target.read_text() == "new"


def test_whether_a_process_is_alive():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert processes.is_alive(process.pid)
    process.communicate(b"\n")
    for _ in range(100):
        if not processes.is_alive(process.pid):
            break
        time.sleep(0.01)
    assert not processes.is_alive(process.pid)


@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "1e999"])
def test_a_number_of_an_option_is_finite(word):
    with pytest.raises(argparse.ArgumentTypeError, match=f"{word} must be finite"):
        options.number(float)(word)
    assert options.number(float, above=0)("1e9") == 1e9


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [("return None", 0, ""), ("return 3", 3, ""), ("raise StackError('no')", 1, "error: no\n")],
)
def test_a_main_that_ends_at_once_keeps_its_words_and_its_status(tmp_path, body, status, error):
    code = (
        "import atexit\n"
        "from stackmff.errors import StackError\n"
        "from stackmff.processes import run_main\n"
        "def main():\n"
        "    print('done')\n"
        f"    {body}\n"
        "atexit.register(print, 'taken apart')\n"
        "run_main(main, at_once=True)"
    )
    house = Path(__file__).parent.parent
    with (tmp_path / "out").open("w") as out:  # a file, which Python writes in blocks
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=house, stdout=out, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (status, error)
    assert (tmp_path / "out").read_text() == "done\n"
