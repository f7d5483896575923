"""files.py: atomic writes, and what killed processes leave behind."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stackmff import files

HOUSE = Path(__file__).parents[1]


def test_natural_order():
    names = ["frame10", "Frame2", "frame2", "frame02", "a1b10", "a1b9", "2", "10"]
    ordered = sorted(names, key=files.natural_key)
    assert ordered == ["2", "10", "a1b9", "a1b10", "Frame2", "frame02", "frame2", "frame10"]
    assert sorted(names[::-1], key=files.natural_key) == ordered


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
    with subprocess.Popen(words, cwd=HOUSE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        # While it lives, another process that writes the same file keeps its temporary file.
        files.write_text(target, "old")
        assert len(list(tmp_path.iterdir())) == 2
        process.send_signal(number)
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == (2 if number == signal.SIGKILL else 1)
    files.remove_leftovers.cache_clear()  # as in a new process
    files.write_text(target, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
    assert target.read_text() == "new"
