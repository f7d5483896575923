"""Stacks on a cluster: what is tried again, what is not, and that a killed worker costs nothing."""

import argparse
import os
import re
import signal
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from calling import call, make_stack

import predict_dataset
from stackmff.errors import StackError
from stackmff.fusion import batch, cluster
from stackmff.fusion.cluster import RETRIES, address_of, fuse_on


class Played:
    """A cluster that answers at once, from a list for each job."""

    def __init__(self, answers):
        self.answers = answers
        self.calls = []

    def outcomes(self, work, jobs):
        self.calls.append(list(jobs))
        for place in reversed(range(len(jobs))):  # in any order
            yield place, self.answers[jobs[place]].pop(0)


def test_a_stack_is_tried_again_unless_its_files_are_wrong():
    played = Played(
        {
            "good": [None],
            "shaky": [MemoryError("full"), None],
            "lost": [OSError("gone")] * (RETRIES + 1),
            "damaged": ["x.png is cut short"],
        }
    )
    jobs = ["good", "shaky", "lost", "damaged"]
    found = dict(fuse_on(played, jobs))
    assert found[0] is None and found[1] is None
    assert found[2].endswith("gone (tried 3 times)")
    assert found[3] == "x.png is cut short"
    assert played.calls == [jobs, ["shaky", "lost"], ["lost"]]


class Here:
    """A cluster of this process."""

    def __init__(self, address):
        pass

    def outcomes(self, work, jobs):
        for number, job in enumerate(jobs):
            yield number, work(job)

    def close(self):
        pass


@pytest.fixture
def stacks(tmp_path):
    for k in range(3):
        make_stack(tmp_path / "in" / f"s{k}", 2, (32, 32, 3), seed=k)
    return tmp_path


def fuse(folder, *words):
    words = ["--output_dir", folder / "out", "--align", "off", *words]
    return call(predict_dataset.main, "--stack_basedir_path", folder / "in", *words)


def test_one_report_of_all_workers(stacks, monkeypatch, capsys):
    (stacks / "in" / "s1" / "0.png").write_bytes(b"no picture")
    monkeypatch.setattr(batch, "DaskCluster", Here)
    cluster.engine_of.cache_clear()
    assert fuse(stacks, "--dask", "local:2") == 1
    said = capsys.readouterr().err
    assert said.count("failed: ") >= 1 and "s1" in said
    assert sorted(path.name for path in (stacks / "out").glob("*.png")) == ["s0.png", "s2.png"]
    assert (stacks / "out" / "report.html").is_file()
    rows = (stacks / "out" / "summary.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["stack", "s0", "s2"]


def test_what_makes_no_sense(stacks, monkeypatch, capsys):
    assert address_of("local:4") == "local:4" and address_of("tls://a:1") == "tls://a:1"
    for word, sentence in (("local:0", "is not local:K"), ("host", "is not an address")):
        with pytest.raises(argparse.ArgumentTypeError, match=sentence):
            address_of(word)
    assert fuse(stacks, "--dask", "local:2", "--part", "1/2") == 2
    assert "remove --part" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(StackError, match=re.escape("pip install 'stackmff[dask]'")):
        cluster.DaskCluster("local:2")


@pytest.mark.parametrize(
    ("failure", "told"),
    [(TimeoutError("late"), StackError), (ValueError("odd"), ValueError)],
)
def test_workers_of_this_machine_end_where_no_client_reaches_them(monkeypatch, failure, told):
    ended = []

    class LocalCluster:
        def __init__(self, **options):
            pass

        def close(self):
            ended.append(self)

    def client(address, timeout):
        raise failure

    there = SimpleNamespace(LocalCluster=LocalCluster, Client=client)
    monkeypatch.setitem(sys.modules, "distributed", there)
    with pytest.raises(told):
        cluster.DaskCluster("local:2")
    assert len(ended) == 1


@pytest.mark.slow
def test_a_killed_worker_of_two_costs_no_stack(stacks, monkeypatch):
    pytest.importorskip("distributed", reason="needs the extra [dask]")
    for k in range(3, 8):
        make_stack(stacks / "in" / f"s{k}", 2, (32, 32, 3), seed=k)
    killed = []
    begin = cluster.DaskCluster.__init__

    def begin_and_kill(self, address):
        begin(self, address)
        workers = list(self.local.workers.values())
        assert len(workers) == 2

        def kill():
            while not list((stacks / "out").glob("s*.png")):  # work has begun
                time.sleep(0.05)
            killed.append(workers[0].pid)
            os.kill(workers[0].pid, signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()

    monkeypatch.setattr(cluster.DaskCluster, "__init__", begin_and_kill)
    assert fuse(stacks, "--dask", "local:2") == 0
    assert killed
    assert len(list((stacks / "out").glob("s*.png"))) == 8
    rows = (stacks / "out" / "summary.csv").read_text().splitlines()
    assert len(rows) == 9
