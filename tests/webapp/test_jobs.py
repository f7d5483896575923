"""webapp/jobs.py, worker.py, work_plan.py: processes, their queues, their progress."""

import os

import cv2
import numpy as np
import pytest

from stackmff.webapp import example
from stackmff.webapp.jobs import ExamineSpec, FuseSpec, JobQueue, WorkerJob
from stackmff.webapp.work_plan import WorkPlan, stages_of
from stackmff.webapp.worker import open_frames
from tests.drawn import texture
from tests.shelves import (
    FakeJob,
    until,
)


def test_progress_only_grows():
    """One measure over all stages, whichever of them take place."""
    spec = FuseSpec([], [], [], {"slab": 3}, "draft", "full")
    for aligned in (False, True):
        plan, seen = WorkPlan(stages_of(spec, aligned)), [0.0]
        parts = [("draft", "reading frames"), ("draft", "fusing"), (None, "reading frames")]
        parts += [(None, "aligning"), (None, "fusing"), (None, "slabs"), (None, "unheard of")]
        for part, name in parts:
            for done in (0, 1, 4):
                plan.follow({"stage": name, "done": done, "total": 4, "part": part})
                seen.append(plan.state()["fraction"])
        assert seen == sorted(seen)
        assert 0.9 < seen[-1] < 1  # what was fused is still to be written
    assert 0 <= plan.state()["left"] < 1


def test_the_example_is_drawn(sessions, monkeypatch):
    monkeypatch.setattr(example, "FRAMES", 3)
    small = example.scene()
    near, far = (example.frame(*small, focus) for focus in (0.0, 1.0))
    detail = lambda picture: float(np.abs(np.diff(picture.astype(int), axis=1)).mean())  # noqa: E731
    assert detail(near[-300:]) > 1.3 * detail(far[-300:])
    assert detail(far[:300]) > 1.3 * detail(near[:300])


def test_frames_of_a_film_share_one_reader(tmp_path):
    """Each of its own would go through the film from the beginning, and keep it open."""
    film = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for k in range(4):
        writer.write(texture(48, 64, k))
    writer.release()
    frames = open_frames([[str(film), 1], [str(film), 3], ["a.png", None]])
    assert [frame.name for frame in frames[2:]] == ["a.png"]
    assert [frame.number for frame in frames[:2]] == [1, 3]
    assert frames[0].video is frames[1].video


def test_a_queue_runs_one_job_after_the_other():
    queue, ended = JobQueue(), []
    jobs = [FakeJob(k, print, lambda sentence, k=k: ended.append((k, sentence))) for k in range(3)]
    for job in jobs:
        queue.add(job, 0)
    until(lambda: jobs[0] in queue.running)
    assert [queue.jobs_ahead(job) for job in jobs] == [0, 1, 2]
    queue.cancel(jobs[1])
    assert ended == [(1, "")]
    jobs[0].free.set()
    until(lambda: jobs[2] in queue.running)
    assert ended == [(1, ""), (0, None)]
    queue.cancel(jobs[2])
    assert ended[-1] == (2, "")
    queue.close()


def test_a_queue_goes_on_after_a_job_whose_end_fails(capsys):
    queue, ended = JobQueue(), []

    def fail(sentence):
        raise OSError("no space left")

    jobs = [FakeJob(0, print, fail), FakeJob(1, print, ended.append)]
    for job in jobs:
        job.free.set()
        queue.add(job, 0)
    until(lambda: ended)
    assert ended == [None] and "no space left" in capsys.readouterr().err
    queue.close()


def test_owners_take_turns():
    queue, begun = JobQueue(), []
    jobs = {}
    for name in ("a0", "a1", "a2", "a3", "b0", "b1", "c0"):
        jobs[name] = FakeJob(name, print, lambda sentence, name=name: begun.append(name))
        queue.add(jobs[name], name[0])
        if name == "a0":
            until(lambda: jobs["a0"] in queue.running)
    expected = ["a0", "a1", "b0", "c0", "a2", "b1", "a3"]
    ahead = [queue.jobs_ahead(jobs[name]) for name in expected]
    assert ahead == [0, 1, 2, 3, 4, 5, 6]
    queue.cancel(jobs["c0"])
    for job in jobs.values():
        job.free.set()
    until(lambda: len(begun) == len(jobs))
    assert begun == ["c0", "a0", "a1", "b0", "a2", "b1", "a3"]
    queue.close()


def test_a_job_that_is_cancelled_is_gone(tmp_path):
    """Its process is no more when cancel returns, whatever it did."""
    queue, ended = JobQueue(), []
    spec = ExamineSpec([], "", 0, 1)
    job = WorkerJob(spec, lambda message: None, ended.append)
    queue.add(job, 0)
    until(lambda: job.process is not None)
    process = job.process.pid
    queue.cancel(job)
    assert ended == [""]
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    queue.close()


def test_a_process_that_dies_is_told():
    queue, ended = JobQueue(), []
    spec = FuseSpec([], [], [], {}, None, "", kind="none")
    queue.add(WorkerJob(spec, lambda message: None, ended.append), 0)
    until(lambda: ended)
    assert ended == ["the work stopped: its process ended with exit status 1"]
    queue.close()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="nothing to wait for")
def test_a_file_that_takes_for_ever_is_abandoned(tmp_path):
    os.mkfifo(tmp_path / "a.png")  # nobody writes: to open it is to wait
    spec = ExamineSpec([str(tmp_path / "a.png")], "", 0, 1, longest=0.2)
    queue, ended = JobQueue(), []
    queue.add(WorkerJob(spec, lambda message: None, ended.append), 0)
    until(lambda: ended)
    assert ended == ["the work stopped: it exceeded its time limit"]
    queue.close()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="nothing to wait for")
def test_a_frame_that_takes_for_ever_ends_the_fusion(tmp_path):
    """As one that was exchanged since it was examined."""
    for name in ("a.png", "b.png"):
        os.mkfifo(tmp_path / name)
    frames = [(str(tmp_path / name), None) for name in ("a.png", "b.png")]
    full, aligned = (str(tmp_path / name) for name in ("full", "aligned"))
    spec = FuseSpec(frames, ["a.png", "b.png"], [], {}, None, full, aligned, longest=0.2)
    queue, ended = JobQueue(), []
    queue.add(WorkerJob(spec, lambda message: None, ended.append), 0)
    until(lambda: ended)
    assert ended == ["the work stopped: it exceeded its time limit"]
    queue.close()
