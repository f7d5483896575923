"""processes.py: work in order within bounds; processes fed and ended; how a main ends."""

import contextlib
import functools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stackmff import processes
from stackmff.errors import StackError
from stackmff.processes import futures_ahead, in_order
from tests.waiting import LATEST, until

HOUSE = Path(__file__).parents[1]


def square(number):
    return number**2


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def fail_or_finish(folder, seconds, fails):
    """Finishes in some seconds; where it fails, it does once the other has begun."""
    if fails:
        while not (folder / "begun").exists():
            time.sleep(0.01)
        raise ValueError("no luck")
    (folder / "begun").touch()
    time.sleep(seconds)
    (folder / "finished").touch()


def is_running(process):
    """Whether a process has not ended, be it that nobody has asked yet how it did."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return processes.is_alive(process) and not Path("/proc/self/status").exists()


def test_processes_yield_in_order_or_as_they_come():
    wanted = [(k, k**2) for k in range(5)]
    assert list(processes.in_processes(square, range(5), 2)) == wanted
    assert sorted(processes.in_processes(square, range(5), 2, as_they_come=True)) == wanted
    assert multiprocessing.active_children() == []


def test_a_killed_worker_is_told():
    with pytest.raises(StackError, match=r"a worker process was killed, .* lower --workers"):
        list(processes.in_processes(die, [1, 2], 2))
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("finish", [False, True])
def test_an_error_passes_and_others_finish_where_asked(tmp_path, finish):
    work = functools.partial(fail_or_finish, tmp_path, 1 if finish else LATEST)
    results = processes.in_processes(work, [False, True], 2, as_they_come=True, finish=finish)
    with pytest.raises(ValueError, match="no luck"):
        list(results)
    assert multiprocessing.active_children() == []
    assert (tmp_path / "finished").exists() == finish


def test_workers_end_when_the_main_process_is_killed(tmp_path):
    (tmp_path / "started.py").write_text(
        "import multiprocessing, time\n"
        "from stackmff.processes import in_processes\n"
        "if __name__ == '__main__':\n"
        "    for _ in in_processes(abs, range(9), 2):\n"
        "        print(*multiprocessing.active_children(), flush=True)\n"
        "        time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, tmp_path / "started.py"],
        env={**os.environ, "PYTHONPATH": str(HOUSE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    children = [int(number) for number in re.findall(r"pid=(\d+)", process.stdout.readline())]
    assert children and all(is_running(child) for child in children)
    process.kill()
    process.wait()
    process.stdout.close()
    try:
        until(lambda: not any(is_running(child) for child in children))
    finally:
        for child in filter(is_running, children):
            os.kill(child, signal.SIGKILL)


def test_a_process_is_ended_with_those_that_it_started(monkeypatch):
    """Also where they do not end when they are asked to."""
    monkeypatch.setattr(processes, "GRACE", 0.2)
    grandchild = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    grandchild += "print('ready', flush=True); time.sleep(600)"
    code = (
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "process = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE)\n"
        "process.stdout.readline()\n"
        "print(process.pid, flush=True)\n"
        "process.wait()\n"
    )
    command = [sys.executable, "-c", code, grandchild]
    process = processes.start_process(command, stdout=subprocess.PIPE)
    grandchild = int(process.stdout.readline())
    processes.end_process(process)
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    until(lambda: not is_running(grandchild))
    processes.end_process(process)  # one that has ended already is left alone


@pytest.mark.skipif(not hasattr(os, "setpriority"), reason="no nice values here")
def test_a_process_is_nice_and_so_is_its_session():
    process = processes.start_process([sys.executable, "-c", "input()"], 7, stdin=subprocess.PIPE)
    try:
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(own + 7, 19)
        with contextlib.suppress(FileNotFoundError):  # a system without niceness of sessions
            group = processes.session_niceness(process.pid)
            if group is not None and os.access(f"/proc/{process.pid}/autogroup", os.W_OK):
                assert group == min((processes.session_niceness("self") or 0) + 7, 19)
    finally:
        processes.end_process(process)
        process.stdin.close()


def test_a_child_gets_orders_and_answers(tmp_path, monkeypatch):
    (tmp_path / "echo_twice.py").write_text(
        "import json, sys\n"
        "from stackmff.processes import answer_channel\n"
        "channel = answer_channel()\n"
        "print('a line of a library')\n"
        "orders = json.loads(sys.stdin.readline())\n"
        "for _ in range(2):\n"
        "    print(json.dumps(orders), file=channel, flush=True)\n"
        "sys.exit(3)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with processes.child("echo_twice", {"name": "Zürich", "n": 1}) as process:
        assert list(processes.answers(process)) == [{"name": "Zürich", "n": 1}] * 2
        assert processes.how_it_ended(process.wait()) == "its process ended with exit status 3"
    with processes.child("echo_twice", "x" * 2**20) as process:  # more than a pipe holds
        assert len(next(processes.answers(process))) == 2**20
    assert process.returncode is not None


def test_ctrl_c_is_ignored_in_the_main_thread_alone():
    handler = signal.getsignal(signal.SIGINT)
    with processes.uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is handler
    seen = []

    def enter():
        with processes.uninterrupted():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [handler]


@pytest.mark.parametrize(
    ("status", "clause"),
    [
        (-signal.SIGKILL, "its process was killed, most likely because memory ran out"),
        (-signal.SIGSEGV, "its process ended by SIGSEGV"),
        (-40, "its process ended by signal 40"),  # one of those for real time
        (2, "its process ended with exit status 2"),
        (-signal.SIGALRM, "it exceeded its time limit"),
    ],
)
def test_how_a_process_ended(status, clause):
    assert processes.how_it_ended(status) == clause


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


def test_whether_a_process_is_alive():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert processes.is_alive(process.pid)
    process.communicate(b"\n")
    until(lambda: not processes.is_alive(process.pid))


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


@pytest.mark.skipif(os.name != "posix", reason="a shell that closes streams")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_runs_with_closed_streams(tmp_path, closed):
    code = (
        "import sys\n"
        "from stackmff.processes import run_main\n"
        "def main():\n"
        "    print('out')\n"
        "    print('err', file=sys.stderr)\n"
        "    with open(sys.argv[1], 'w') as file:\n"
        "        file.write('the file')\n"
        "        print('out')\n"
        "run_main(main)\n"
    )
    shell = f'"$0" -c "$1" "$2" {closed}'
    words = ["sh", "-c", shell, sys.executable, code, str(tmp_path / "file")]
    assert subprocess.run(words, cwd=HOUSE, capture_output=True).returncode == 0
    assert (tmp_path / "file").read_text() == "the file"


@pytest.mark.skipif(os.name != "posix", reason="pipes cannot be asked here")
def test_a_child_whose_parent_was_killed_before_does_nothing(tmp_path):
    code = (
        "import os, sys\n"
        "from stackmff.processes import end_with_input\n"
        "sys.stdin.readline()\n"
        "end_with_input()\n"
        "os.mkdir(sys.argv[1])\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "made")]
    ended = subprocess.run(words, cwd=HOUSE, input=b"orders\n")
    assert ended.returncode == -signal.SIGTERM
    assert not (tmp_path / "made").exists()


def test_a_child_ends_when_its_parent_is_killed():
    code = (
        "import sys, time\n"
        "from stackmff.processes import end_with_input\n"
        "sys.stdin.readline()\n"
        "end_with_input()\n"
        "print('begun', flush=True)\n"
        "time.sleep(600)\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=HOUSE, **pipes) as child:
        child.stdin.write(b"orders\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"begun\n"
        child.stdin.close()
        assert child.wait(LATEST) != 0
