"""processes.py: whether a process lives, how a main ends."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from stackmff import processes

HOUSE = Path(__file__).parents[1]


def test_whether_a_process_is_alive():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert processes.is_alive(process.pid)
    process.communicate(b"\n")
    for _ in range(100):
        if not processes.is_alive(process.pid):
            break
        time.sleep(0.01)
    assert not processes.is_alive(process.pid)


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
    with (tmp_path / "out").open("w") as out:  # a file, which Python writes in blocks
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=HOUSE, stdout=out, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (status, error)
    assert (tmp_path / "out").read_text() == "done\n"
