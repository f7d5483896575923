"""processes.py: work in order within bounds, whether a process lives, how a main ends."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stackmff import processes
from stackmff.processes import futures_ahead, in_order

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


@pytest.mark.parametrize("jobs", [1, 2, 7, 100])
def test_results_come_in_order(jobs):
    assert list(in_order(lambda x: -x, range(20), jobs)) == [(k, -k) for k in range(20)]
    assert list(in_order(abs, [], jobs)) == []


@pytest.mark.parametrize("own", [True, False])
def test_memory_does_not_grow_with_the_number_of_items(own):
    started = []
    with ThreadPoolExecutor(1) as pool:
        run = in_order(lambda x: started.append(x) or -x, range(50), 4, None if own else pool)
        for item, result in run:
            assert result == -item and len(started) <= item + 6


def test_a_failure_comes_in_its_place_and_the_rest_is_not_begun():
    started = []

    def halve(item):
        started.append(item)
        return 12 // (item - 3)

    got = []
    with pytest.raises(ZeroDivisionError):
        for item, _ in in_order(halve, range(100), 2):
            got.append(item)
    assert got == [0, 1, 2] and len(started) <= 7
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_a_future_may_fail_and_the_rest_goes_on():
    said = [
        item if future.exception() else future.result()
        for item, future in futures_ahead(lambda x: 1 // x, range(3), 1)
    ]
    assert said == [0, 1, 0]
