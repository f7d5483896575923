"""webapp/sessions.py, session.py, jobs.py: frames, work and results of sessions, and their end."""

import io
import os
import threading
import time

import cv2
import numpy as np
import pytest
import tifffile

import predict
from stackmff.errors import StackError
from stackmff.files import claim, write_json
from stackmff.fusion.retouch import Stroke
from stackmff.processes import this_process
from stackmff.webapp import session as session_module
from stackmff.webapp.jobs import ExamineSpec, FuseSpec, JobQueue, WorkerJob
from stackmff.webapp.results import ShownResult, carry_strokes
from stackmff.webapp.sessions import PREFIX, Sessions, remove_abandoned
from stackmff.webapp.uploads import UploadLimits
from stackmff.webapp.worker import open_frames
from tests.drawn import draw_moved_stack, draw_stack, texture, tiff

SIDES = (64, 96)


@pytest.fixture
def sessions(tmp_path):
    (tmp_path / "temporary").mkdir()
    made = Sessions(UploadLimits(10**8, 10**6), keep_seconds=600, folder=tmp_path / "temporary")
    yield made
    made.close()
    assert not list((tmp_path / "temporary").iterdir())


def until(holds, seconds=30):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def bring(session, name, data):
    """Upload a file as the page does."""
    path = session.room_for(name, len(data))
    path.write_bytes(data)
    session.arrived(path)


def stack_of(folder, count=3, seed=0):
    """Write a stack; returns its folder."""
    folder.mkdir()
    for k, frame in enumerate(draw_stack(texture(*SIDES, seed), count)):
        cv2.imwrite(str(folder / f"{k}.png"), frame)
    return folder


def test_a_stack_is_examined_fused_retouched_and_exported(sessions, tmp_path):
    stack = stack_of(tmp_path / "stack")
    session = sessions.get(sessions.new())
    for name in ("2.png", "0.png", "1.png"):
        bring(session, name, (stack / name).read_bytes())
    bring(session, "notes.jpg", b"a text, and no picture")
    until(lambda: not session.state()["examining"])
    state = session.state()
    assert [frame["name"] for frame in state["frames"]] == ["0.png", "1.png", "2.png"]
    assert max(frame["sharpness"] for frame in state["frames"]) == 1
    (refused,) = state["refused"]
    assert refused == "notes.jpg is not a picture, or is damaged: export or copy it again"
    assert sorted(path.name for path in session.incoming.iterdir()) == ["0.png", "1.png", "2.png"]
    session.fuse({})
    with pytest.raises(StackError, match="cancel that first"):
        session.fuse({})
    until(lambda: session.fuse_job is None)
    assert session.failure is None
    assert session.state()["result"]["names"] == ["0.png", "1.png", "2.png"]
    session.paint({"frame": "2.png", "radius": 9, "softness": 0.5, "points": [[30, 20], [50, 30]]})
    result = session.ready(whole=True)
    result.export_picture(tmp_path / "page.tif", 16, False)
    result.export_picture(tmp_path / "page8.png", 8, False)
    strokes = result.export_other("strokes", tmp_path, "a")
    words = ["--stack_path", str(stack), "--quiet", "--retouch", str(strokes)]
    predict.main([*words, "--bits", "16", "--output", str(tmp_path / "shell.tif")])
    predict.main([*words, "--output", str(tmp_path / "shell8.png")])
    assert (tmp_path / "page.tif").read_bytes() == (tmp_path / "shell.tif").read_bytes()
    assert (tmp_path / "page8.png").read_bytes() == (tmp_path / "shell8.png").read_bytes()
    session.undo(1)
    result.export_picture(tmp_path / "page.tif", 16, False)
    predict.main([*words[:3], "--bits", "16", "--output", str(tmp_path / "plain.tif")])
    assert (tmp_path / "page.tif").read_bytes() == (tmp_path / "plain.tif").read_bytes()
    assert tifffile.imread(tmp_path / "page.tif").dtype == np.uint16


def result_in(folder, names=("0.png", "1.png"), shape=(2, 40, 60, 3)):
    """Write a result as a process would."""
    folder.mkdir(parents=True)
    np.full(shape, 50, np.uint8).tofile(folder / "frames.raw")
    np.save(folder / "fused.npy", np.full(shape[1:], 9999, np.uint16))
    np.save(folder / "focus.npy", np.zeros(shape[1:3], np.uint16))
    record = {"shape": shape, "dtype": "uint8", "files": names, "names": names, "kept": [0, 1]}
    record |= {"notes": [], "area": None, "seconds": 1, "tilt": 0, "first_is_near": None}
    write_json(folder / "result.json", record | {"metadata": {}})
    return str(folder)


def run_of(session, number):
    """A run that is said to go on; its job."""
    draft = result_in(session.folder / f"run-{number}" / "draft", shape=(2, 10, 15, 3))
    full = result_in(session.folder / f"run-{number}" / "full")
    spec = FuseSpec([], [], [], {}, draft, full)
    session.progress = {}
    session.fuse_job = FakeJob(spec, session._on_fusing, session._on_fuse_end)


def test_a_run_that_is_cancelled_brings_the_picture_before_back(sessions):
    session = sessions.get(sessions.new())
    stroke = {"frame": "1.png", "radius": 4, "softness": 0, "points": [[20, 20]]}
    run_of(session, 1)
    session._on_fusing({"made": "draft"})
    with pytest.raises(StackError, match="no result yet"):
        session.paint(stroke)
    session._on_fuse_end("")  # cancelled: the draft stays
    assert session.state()["result"]["draft"]
    run_of(session, 2)
    session._on_fusing({"made": "draft"})
    session._on_fusing({"made": "full"})
    session._on_fuse_end(None)
    session.paint(stroke)
    first = session.result
    run_of(session, 3)
    session._on_fusing({"made": "draft"})
    assert session.state()["result"]["draft"]
    session._on_fuse_end("")
    assert session.result is first
    assert session.state()["result"]["strokes"] == 1
    run_of(session, 4)
    session._on_fusing({"made": "draft"})
    session._on_fusing({"made": "full"})
    session._on_fuse_end(None)
    assert session.result is not first
    assert session.state()["result"]["strokes"] == 1  # they are painted anew
    assert (session.result.picture[20, 20] == 50 * 257).all()
    left = [path for path in session.folder.glob("run-*/*") if path.is_dir()]
    assert left == [session.result.folder]


def test_strokes_of_frames_that_are_excluded_wait_for_them(sessions):
    session = sessions.get(sessions.new())
    strokes = [
        {"frame": name, "radius": 4, "softness": 0, "points": [[20, 20]]}
        for name in ("0.png", "1.png")
    ]
    for number, names, painted in (
        (1, ("0.png", "1.png"), 0),
        (2, ("0.png", "2.png"), 1),
        (3, ("0.png", "1.png"), 2),
    ):
        full = result_in(session.place / f"run-{number}" / "full", names)
        session.progress = {}
        session.fuse_job = FakeJob(FuseSpec([], [], [], {}, None, full), None, None)
        session._on_fusing({"made": "full"})
        session._on_fuse_end(None)
        told = session.state()["result"]
        assert told["strokes"] == painted
        assert [note[:28] for note in told["notes"]] == (
            ["not painted: strokes of 1.png"[:28]] if number == 2 else []
        )
        for stroke in strokes if number == 1 else []:
            session.paint(stroke)


def test_strokes_that_would_take_minutes_are_refused(sessions, monkeypatch):
    session = sessions.get(sessions.new())
    session.result = ShownResult(result_in(session.place / "run-1" / "full"))
    stroke = {"frame": "1.png", "radius": 4, "softness": 0, "points": [[20, 20], [30, 20]]}
    monkeypatch.setattr(session_module, "MOST_PAINT", 2 * 18 * 8)
    file = {"width": 60, "height": 40, "strokes": [stroke, stroke]}
    session.replay(file)
    with pytest.raises(StackError, match="would take minutes"):
        session.replay(file | {"strokes": [stroke] * 3})
    with pytest.raises(StackError, match="would take minutes"):
        session.paint(stroke | {"points": [[20, 20], [30, 20]] * 9})
    assert session.state()["result"]["strokes"] == 2


def test_strokes_of_another_size_wait(sessions, tmp_path):
    old = ShownResult(result_in(tmp_path / "old"))
    new = ShownResult(result_in(tmp_path / "new", shape=(2, 30, 60, 3)))
    last = ShownResult(result_in(tmp_path / "last"))
    old.paint(Stroke(0, 4.0, 0.0, np.array([[20.0, 20.0]])))
    carry_strokes(old, new)
    assert (len(new.strokes), len(new.waiting)) == (0, 1)
    carry_strokes(new, last)
    assert (len(last.strokes), len(last.waiting)) == (1, 0)


def test_a_cancelled_draft_is_removed(sessions):
    session = sessions.get(sessions.new())
    run_of(session, 1)
    session._on_fuse_end("")
    assert not list(session.folder.rglob("frames.raw"))


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


class FakeJob:
    """Stands in for a WorkerJob: sends the messages it is given, and waits to be stopped."""

    def __init__(self, spec, on_message, on_end, messages=()):
        self.spec, self.messages = spec, messages
        self.on_message, self.on_end = on_message, on_end
        self.cancelled, self.free = False, threading.Event()

    def run(self):
        for message in self.messages:
            self.on_message(message)
        self.free.wait(20)
        return "" if self.cancelled else None

    def stop(self):
        self.cancelled = True
        self.free.set()


def test_a_queue_runs_one_job_after_the_other():
    queue, ended = JobQueue(), []
    jobs = [FakeJob(k, print, lambda sentence, k=k: ended.append((k, sentence))) for k in range(3)]
    for job in jobs:
        queue.add(job)
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


def test_a_job_that_is_cancelled_is_gone(tmp_path):
    """Its process is no more when cancel returns, whatever it did."""
    queue, ended = JobQueue(), []
    spec = ExamineSpec([], "", 0, 1)
    job = WorkerJob(spec, lambda message: None, ended.append)
    queue.add(job)
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
    queue.add(WorkerJob(spec, lambda message: None, ended.append))
    until(lambda: ended)
    assert ended == ["the work stopped: its process ended with exit status 1"]
    queue.close()


def drawn_session(sessions, count=3, sides=(64, 96)):
    """A session with frames that were never examined."""
    session = sessions.get(sessions.new())
    for k in range(count):
        frame = {"id": k, "name": f"{k}.png", "number": None, "file": f"{k}.png", "bytes": 1}
        frame |= {"width": sides[1], "height": sides[0], "sharpness": k + 1.0}
        session._on_examined({"frame": frame})
    return session


def test_frames_are_ordered_and_excluded(sessions):
    session = drawn_session(sessions, 12)
    assert [frame["name"] for frame in session.state()["frames"]][-3:] == [
        "9.png",
        "10.png",
        "11.png",
    ]
    session.arrange([*range(1, 12), 0], [3])
    state = session.state()
    assert state["frames"][-1]["name"] == "0.png"
    assert [frame["name"] for frame in state["frames"] if not frame["used"]] == ["3.png"]
    with pytest.raises(StackError, match="have changed in the meantime"):
        session.arrange([0, 1], [])
    with pytest.raises(StackError, match="have changed in the meantime"):
        session.arrange(list(range(12)), [12])


def test_frames_out_of_focus_order_are_put_right(sessions, tmp_path):
    """But not those that were arranged by hand, and one that is left out stays where it is."""
    frames = draw_stack(texture(256, 320, 5), 7)
    names = "abcdefg"
    shuffled = dict(zip(names, (3, 0, 5, 1, 6, 2, 4), strict=True))
    session = sessions.get(sessions.new())
    for name, k in shuffled.items():
        bring(session, f"{name}.png", cv2.imencode(".png", frames[k])[1].tobytes())
    until(lambda: not session.state()["examining"])
    session.fuse({})
    until(lambda: session.fuse_job is None)
    found = [frame["name"][0] for frame in session.state()["frames"]]
    inside = sorted(names, key=shuffled.get)
    assert found in (inside, inside[::-1])
    assert [name[0] for name in session.state()["result"]["names"]] == found
    notes = session.state()["result"]["notes"]
    assert any("brought into it: " + ".png ".join(found) in note for note in notes)
    ids = {frame["name"][0]: frame["id"] for frame in session.state()["frames"]}
    session.arrange([ids[name] for name in names], [ids["d"]])
    session.fuse({})
    until(lambda: session.fuse_job is None)
    assert [name[0] for name in session.state()["result"]["names"]] == list("abcefg")
    assert [frame["name"][0] for frame in session.state()["frames"]] == list(names)
    session.arranged = False
    session.fuse({})
    until(lambda: session.fuse_job is None)
    rest = [name for name in found if name != "d"]
    now = [frame["name"][0] for frame in session.state()["frames"]]
    assert now[3] == "d" and [name for name in now if name != "d"] in (rest, rest[::-1])


def test_frames_of_a_moving_camera_are_put_in_order_once_aligned(sessions):
    session = sessions.get(sessions.new())
    for name, frame in zip("abcd", draw_moved_stack(), strict=True):
        bring(session, f"{name}.png", cv2.imencode(".png", frame)[1].tobytes())
    until(lambda: not session.state()["examining"])
    session.fuse({})
    until(lambda: session.fuse_job is None)
    state = session.state()
    assert [name[0] for name in state["result"]["names"]] == list("acbd")
    assert [frame["name"][0] for frame in state["frames"]] == list("acbd")
    assert any("brought into it: a.png c.png" in note for note in state["result"]["notes"])


def test_an_answer_among_the_frames_is_excluded(sessions):
    session = drawn_session(sessions)
    told = session.frames[0] | {"id": 9, "name": "AiF.png"}
    session._on_examined({"frame": told})
    out = [frame["name"] for frame in session.state()["frames"] if not frame["used"]]
    assert out == ["AiF.png"]


def test_sentences_hide_the_server(sessions, tmp_path):
    session = sessions.get(sessions.new())
    assert session.without_paths(f"{session.incoming}/a.png is bad") == "a.png is bad"
    assert session.without_paths(f"{session.folder}/run-1/x") == "run-1/x"
    sessions.shared.root = tmp_path / "root"
    assert (
        session.without_paths(f"{sessions.shared.root}/stack/a.png is bad") == "stack/a.png is bad"
    )


def test_a_file_is_uploaded_once_and_counted(sessions):
    session = sessions.get(sessions.new())
    path = session.room_for("a.png", 10**8)
    with pytest.raises(StackError, match=r"a\.png is already there"):
        session.room_for("a.png", 1)
    with pytest.raises(StackError, match="more than"):
        session.room_for("b.png", 1)
    session.drop(path)  # the sender has gone
    assert not list(session.incoming.iterdir())
    session.room_for("b.png", 10**8)


def test_a_decompression_bomb_leaves_nothing(sessions):
    session = sessions.get(sessions.new())
    big = tiff(np.zeros((2000, 2000), np.uint8), compression="zlib")
    bring(session, "bomb.tif", big)
    until(lambda: not session.state()["examining"])
    assert session.state()["frames"] == []
    (sentence,) = session.state()["refused"]
    assert sentence.startswith("bomb.tif declares 2000x2000 pixels, and 1 million is the maximum")
    assert not list(session.incoming.iterdir())
    assert not list(session.thumbs.iterdir())
    assert session.held == 0


def test_a_stack_in_one_file_with_a_broken_page_leaves_nothing(sessions):
    """Not some of its frames, whose file is gone, either."""
    session = sessions.get(sessions.new())
    pages = np.stack([texture(*SIDES, k) for k in range(3)])
    data = bytearray(tiff(pages, photometric="rgb", compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        place = file.pages[1].dataoffsets[0]
    data[place : place + 40] = bytes(40)
    bring(session, "pages.tif", bytes(data))
    bring(session, "a.png", cv2.imencode(".png", texture(*SIDES, 0))[1].tobytes())
    until(lambda: not session.state()["examining"])
    (sentence,) = session.state()["refused"]
    assert sentence.startswith("pages.tif (frame 2) is cut short, damaged")
    assert [frame["name"] for frame in session.state()["frames"]] == ["a.png"]
    assert [path.name for path in session.incoming.iterdir()] == ["a.png"]
    assert len(list(session.thumbs.iterdir())) == 2
    assert session.held == (session.incoming / "a.png").stat().st_size


def test_a_file_that_ends_the_process_is_refused_and_the_others_are_looked_at(sessions):
    """Also where some of its frames had been told."""
    session = sessions.get(sessions.new())
    files = [session.room_for(name, 1) for name in ("a.tif", "b.png", "c.png")]
    told = {"width": 9, "height": 9, "sharpness": 1.0}
    session.examine_job = FakeJob(ExamineSpec([str(file) for file in files], "", 0, 1), None, None)
    session._on_examined({"frame": told | {"id": 0, "name": "b.png", "file": str(files[1])}})
    session._on_examined({"examined": str(files[1])})
    session._on_examined({"frame": told | {"id": 1, "name": "a-1.tif", "file": str(files[0])}})
    seen = []
    session._examine = lambda files: seen.extend(session.pending)
    session._on_examine_end("the work stopped: it exceeded its time limit")
    assert session.refused == ["a.tif: the work stopped: it exceeded its time limit"]
    assert [frame["name"] for frame in session.frames.values()] == ["b.png"]
    assert session.order == [0]
    assert seen == [files[2]]
    assert not files[0].exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="nothing to wait for")
def test_a_file_that_takes_for_ever_is_abandoned(tmp_path):
    os.mkfifo(tmp_path / "a.png")  # nobody writes: to open it is to wait
    spec = ExamineSpec([str(tmp_path / "a.png")], "", 0, 1, longest=0.2)
    queue, ended = JobQueue(), []
    queue.add(WorkerJob(spec, lambda message: None, ended.append))
    until(lambda: ended)
    assert ended == ["the work stopped: it exceeded its time limit"]
    queue.close()


def test_sessions_are_separate_and_end(sessions):
    one, other = sessions.new(), sessions.new()
    first, second = sessions.get(one), sessions.get(other)
    assert first.folder != second.folder
    assert first.folder not in second.folder.parents
    first.room_for("a.png", 5)
    second.room_for("a.png", 5)  # of the same name, elsewhere
    first.touch(leaving=True)
    first.seen -= session_module.LEAVING + 1
    second.seen -= session_module.LEAVING + 1
    sessions.sweep()
    assert sessions.get(one) is None
    assert sessions.get(other) is second
    assert not first.folder.exists()
    assert second.folder.exists()


def test_clearing_removes_all(sessions):
    session = sessions.get(sessions.new())
    session.room_for("a.png", 5)
    (session.place / "run-1").mkdir()
    session.clear()
    assert [path for path in session.folder.rglob("*") if path.is_file()] == []
    assert not list(session.folder.rglob("run-1"))
    assert session.held == 0


def test_a_late_file_of_a_cleared_stack_does_not_join_the_next(sessions):
    session = sessions.get(sessions.new())
    old = session.room_for("a.png", 5)
    session.clear()
    new = session.room_for("a.png", 7)
    session.arrived(old)
    assert session.examine_job is None
    session.drop(old)
    assert new.exists()
    assert session.held == 7


def test_messages_about_a_cleared_stack_are_ignored(sessions):
    session = sessions.get(sessions.new())
    session.examine_job = FakeJob(
        ExamineSpec([], "", 0, 1), session._on_examined, session._on_examine_end
    )
    session.clear()
    session._on_examined({"refused": "a.png", "sentence": "a.png is bad"})
    assert session.state()["refused"] == []


def test_files_are_counted(sessions, monkeypatch):
    monkeypatch.setattr(session_module, "MOST_FRAMES", 2)
    session = sessions.get(sessions.new())
    for name in ("a.png", "b.png"):
        session.room_for(name, 1)
    with pytest.raises(StackError, match=r"c\.png is one too many, and 2 frames are the maximum"):
        session.room_for("c.png", 1)


def test_names_of_any_length_find_room(sessions):
    session = sessions.get(sessions.new())
    for letter in ("x", "漢", "😀"):
        assert session.room_for(f"{letter * 250}1.png", 1).name.endswith(f"{letter}1.png")


def test_what_dead_processes_left_is_removed(tmp_path):
    """Whatever their numbers: in a container that is restarted, each server is process 1."""
    dead, alive = (tmp_path / f"{PREFIX}{this_process()}-{end}" for end in ("ab", "cd"))
    other = tmp_path / f"{PREFIX}elsewhere-1-ef"
    long_ago = tmp_path / f"{PREFIX}elsewhere-1-gh"
    for folder in (dead, alive, other, long_ago):
        (folder / "in").mkdir(parents=True)
    for path in (long_ago / "in", long_ago):
        os.utime(path, (1e9, 1e9))
    handle = claim(alive)
    remove_abandoned(tmp_path)
    assert sorted(path for path in tmp_path.iterdir()) == sorted([alive, other])
    os.close(handle)
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == [other]


def test_results_have_the_originals_name(sessions):
    session = drawn_session(sessions)
    for frame in session.frames.values():
        frame["file"] = "/x/stack 7.tif"
    assert session.name() == "stack 7"
    session.title = "a/b"
    assert session.name() == "a_b"
