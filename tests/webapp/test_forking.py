"""webapp/forking.py: processes for jobs, forked from one that has loaded the libraries."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stackmff.processes import answers, child_environment, is_alive
from stackmff.webapp import forking
from stackmff.webapp.forking import Nursery, end
from tests.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")

# What a job says of itself before it waits for its end, or does what it is told.
WORKER = """
import json, os, resource, signal, sys
from stackmff.processes import answer_channel, end_with_input
from stackmff.webapp.forking import serve
STARTED = os.getpid()

def work():
    channel = answer_channel()
    orders = json.loads(sys.stdin.readline())
    end_with_input()
    found = {"started": STARTED, "pid": os.getpid(), "group": os.getpgid(0), "nice": os.nice(0)}
    found |= {"word": os.environ.get("WORD"), "folder": os.getcwd(), "orders": orders}
    found |= {"memory": resource.getrlimit(resource.RLIMIT_AS)[0], "files": os.listdir("/dev/fd")}
    channel.write(json.dumps(found) + "\\n")
    channel.flush()
    if orders == "limit":
        resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
    if orders in ("limit", "wait"):
        while True:
            signal.pause()
    if orders == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        channel.write("1\\n")
        channel.flush()
        while True:
            signal.pause()
    return orders if isinstance(orders, int) else 0

serve(int(sys.argv[1]), work)
"""


@pytest.fixture
def nursery(tmp_path, monkeypatch):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "small_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    made = Nursery("small_worker", 3)
    yield made
    made.close()


def ask(nursery, orders):
    """(what a job said, how it ended)."""
    with nursery.child(orders) as process:
        (told,) = answers(process)
        return told, process.wait()


def test_each_job_has_a_process_of_its_own(nursery, tmp_path, monkeypatch):
    first, status = ask(nursery, {"name": "Zürich"})
    assert status == 0 and first["orders"] == {"name": "Zürich"}
    assert first["nice"] == os.nice(0) + 3
    monkeypatch.setenv("WORD", "later")
    monkeypatch.chdir(tmp_path)
    second, status = ask(nursery, 7)
    assert status == 7
    assert (second["word"], second["folder"]) == ("later", str(tmp_path))
    assert first["started"] == second["started"]  # loaded once
    assert len({first["pid"], second["pid"], first["started"], os.getpid()}) == 4
    for told in (first, second):
        assert told["group"] == told["pid"] and not is_alive(told["pid"])
        assert len(told["files"]) == 5  # three streams, the answers, and the listing itself


def test_limits_end_with_their_job(nursery):
    with nursery.child("limit") as process:
        next(answers(process))
        assert process.wait() == -signal.SIGALRM
    told, status = ask(nursery, 0)
    assert status == 0 and told["memory"] != 2**40


@pytest.mark.parametrize("orders", ["wait", "stubborn"])
def test_a_job_is_ended_whatever_it_does(nursery, monkeypatch, orders):
    monkeypatch.setattr(forking, "GRACE", 0.1)
    with nursery.child(orders) as process:
        found = answers(process)
        next(found)
        if orders == "stubborn":
            next(found)
        end(process)
        assert process.returncode == -(signal.SIGTERM if orders == "wait" else signal.SIGKILL)
        assert not is_alive(process.pid)
    assert ask(nursery, 0)[1] == 0


def test_a_job_whose_reader_is_gone_is_ended(nursery):
    with nursery.child("wait") as process:
        next(answers(process))
    assert process.returncode == -signal.SIGTERM and not is_alive(process.pid)


def test_a_nursery_that_is_killed_takes_its_jobs_along_and_another_starts(nursery):
    with nursery.child("wait") as process:
        started = next(answers(process))["started"]
        os.kill(started, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        until(lambda: not is_alive(process.pid))
    told, status = ask(nursery, 0)
    assert status == 0 and told["started"] != started


def test_jobs_of_several_threads_start_one_nursery(nursery):
    found = []
    threads = [threading.Thread(target=lambda: found.append(ask(nursery, 0))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and len({told["started"] for told, _ in found}) == 1


def test_an_idle_nursery_ends(nursery, tmp_path):
    path = tmp_path / "modules" / "small_worker.py"
    path.write_text(
        path.read_text().replace(
            "serve(int", "import stackmff.webapp.forking as f\nf.IDLE = 0.05\nserve(int"
        )
    )
    told, _ = ask(nursery, 0)
    until(lambda: nursery.process.poll() is not None)
    assert nursery.process.returncode == 0
    assert ask(nursery, 0)[0]["started"] != told["started"]


def test_a_module_that_cannot_be_loaded_is_told(nursery, tmp_path, capfd):
    (tmp_path / "modules" / "small_worker.py").write_text("import nothing_of_this_name")
    with pytest.raises(OSError, match="could not be started"), nursery.child(0):
        pass
    assert "nothing_of_this_name" in capfd.readouterr().err


SERVER = """
import json, sys
from stackmff.processes import answers
from stackmff.webapp.forking import Nursery
with Nursery("small_worker").child("wait") as process:
    print(json.dumps(next(answers(process))), flush=True)
    process.wait()
"""


def test_nothing_outlives_a_server_that_is_killed(nursery):
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=child_environment()) as server:
        told = json.loads(server.stdout.readline())
        server.kill()
    until(lambda: not is_alive(told["pid"]) and not is_alive(told["started"]))


def test_the_workers_load_no_torch():
    """And one thread, which a fork would not copy."""
    words = (
        "import os, sys, stackmff.webapp.worker as w; w.import_openvino(); assert 'torch' not in "
    )
    words += "sys.modules; assert len(os.listdir('/proc/self/task')) == 1"
    environment = child_environment() | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    house = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", words], cwd=house, env=environment, check=True)
