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
from stackmff.files import write_json
from stackmff.fusion.retouch import Stroke
from stackmff.processes import this_process
from stackmff.webapp import sessions
from stackmff.webapp.jobs import Job, Line
from stackmff.webapp.results import Result, carry_strokes
from stackmff.webapp.sessions import PREFIX, Sessions, remove_dead
from stackmff.webapp.uploads import Limits, options_of
from stackmff.webapp.worker import frames_at
from tests.drawn import draw_moved_stack, draw_stack, texture, tiff

SIDES = (64, 96)


@pytest.fixture
def house(tmp_path):
    (tmp_path / "temporary").mkdir()
    made = Sessions(Limits(10**8, 10**6), patience=600, folder=tmp_path / "temporary")
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


def test_a_stack_is_looked_at_fused_retouched_and_taken_home(house, tmp_path):
    stack = stack_of(tmp_path / "stack")
    session = house.get(house.new())
    for name in ("2.png", "0.png", "1.png"):
        bring(session, name, (stack / name).read_bytes())
    bring(session, "notes.jpg", b"a text, and no picture")
    until(lambda: not session.state()["looking"])
    state = session.state()
    assert [frame["name"] for frame in state["frames"]] == ["0.png", "1.png", "2.png"]
    assert max(frame["sharpness"] for frame in state["frames"]) == 1
    assert state["refused"] == ["notes.jpg is no picture, or is damaged: export or copy it again"]
    assert sorted(path.name for path in session.incoming.iterdir()) == ["0.png", "1.png", "2.png"]
    session.fuse({})
    with pytest.raises(StackError, match="cancel that first"):
        session.fuse({})
    until(lambda: session.fuse_job is None)
    assert session.failure is None
    assert session.state()["result"]["names"] == ["0.png", "1.png", "2.png"]
    session.paint({"frame": "2.png", "radius": 9, "softness": 0.5, "points": [[30, 20], [50, 30]]})
    result = session.ready(whole=True)
    result.write(tmp_path / "page.tif", 16, False)
    result.write(tmp_path / "page8.png", 8, False)
    strokes = result.write_other("strokes", tmp_path, "a")
    words = ["--stack_path", str(stack), "--quiet", "--retouch", str(strokes)]
    predict.main([*words, "--bits", "16", "--output", str(tmp_path / "shell.tif")])
    predict.main([*words, "--output", str(tmp_path / "shell8.png")])
    assert (tmp_path / "page.tif").read_bytes() == (tmp_path / "shell.tif").read_bytes()
    assert (tmp_path / "page8.png").read_bytes() == (tmp_path / "shell8.png").read_bytes()
    session.undo(1)
    result.write(tmp_path / "page.tif", 16, False)
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
    spec = {
        "draft": result_in(session.folder / f"run-{number}" / "draft", shape=(2, 10, 15, 3)),
        "full": result_in(session.folder / f"run-{number}" / "full"),
    }
    session.progress = {}
    session.fuse_job = Told(spec, session._fusing, session._fused)


def test_a_run_that_is_cancelled_brings_the_picture_before_back(house):
    session = house.get(house.new())
    stroke = {"frame": "1.png", "radius": 4, "softness": 0, "points": [[20, 20]]}
    run_of(session, 1)
    session._fusing({"made": "draft"})
    with pytest.raises(StackError, match="no picture yet"):
        session.paint(stroke)
    session._fused("")  # cancelled: the draft stays
    assert session.state()["result"]["draft"]
    run_of(session, 2)
    session._fusing({"made": "draft"})
    session._fusing({"made": "full"})
    session._fused(None)
    session.paint(stroke)
    first = session.result
    run_of(session, 3)
    session._fusing({"made": "draft"})
    assert session.state()["result"]["draft"]
    session._fused("")
    assert session.result is first
    assert session.state()["result"]["strokes"] == 1
    run_of(session, 4)
    session._fusing({"made": "draft"})
    session._fusing({"made": "full"})
    session._fused(None)
    assert session.result is not first
    assert session.state()["result"]["strokes"] == 1  # they are painted anew
    assert (session.result.picture[20, 20] == 50 * 257).all()
    left = [path for path in session.folder.glob("run-*/*") if path.is_dir()]
    assert left == [session.result.folder]


def test_strokes_of_frames_that_are_left_out_wait_for_them(house):
    session = house.get(house.new())
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
        session.fuse_job = Told({"draft": None, "full": full}, None, None)
        session._fusing({"made": "full"})
        session._fused(None)
        told = session.state()["result"]
        assert told["strokes"] == painted
        assert [note[:28] for note in told["notes"]] == (
            ["not painted: strokes of 1.png"[:28]] if number == 2 else []
        )
        for stroke in strokes if number == 1 else []:
            session.paint(stroke)


def test_strokes_that_would_take_minutes_are_refused(house, monkeypatch):
    session = house.get(house.new())
    session.result = Result(result_in(session.place / "run-1" / "full"))
    stroke = {"frame": "1.png", "radius": 4, "softness": 0, "points": [[20, 20], [30, 20]]}
    monkeypatch.setattr(sessions, "MOST_PAINT", 2 * 18 * 8)
    file = {"width": 60, "height": 40, "strokes": [stroke, stroke]}
    session.replay(file)
    with pytest.raises(StackError, match="would take minutes"):
        session.replay(file | {"strokes": [stroke] * 3})
    with pytest.raises(StackError, match="would take minutes"):
        session.paint(stroke | {"points": [[20, 20], [30, 20]] * 9})
    assert session.state()["result"]["strokes"] == 2


def test_strokes_of_another_size_wait(house, tmp_path):
    old = Result(result_in(tmp_path / "old"))
    new = Result(result_in(tmp_path / "new", shape=(2, 30, 60, 3)))
    last = Result(result_in(tmp_path / "last"))
    old.paint(Stroke(0, 4.0, 0.0, np.array([[20.0, 20.0]])))
    carry_strokes(old, new)
    assert (len(new.strokes), len(new.waiting)) == (0, 1)
    carry_strokes(new, last)
    assert (len(last.strokes), len(last.waiting)) == (1, 0)


def test_half_a_draft_goes_when_it_is_cancelled(house):
    session = house.get(house.new())
    run_of(session, 1)
    session._fused("")
    assert not list(session.folder.rglob("frames.raw"))


def test_frames_of_a_film_share_one_reader(tmp_path):
    """Each of its own would go through the film from the beginning, and keep it open."""
    film = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for k in range(4):
        writer.write(texture(48, 64, k))
    writer.release()
    frames = frames_at([[str(film), 1], [str(film), 3], ["a.png", None]])
    assert [frame.name for frame in frames[2:]] == ["a.png"]
    assert [frame.number for frame in frames[:2]] == [1, 3]
    assert frames[0].video is frames[1].video


class Told:
    """Stands in for a process: says what it is given, and waits to be stopped."""

    def __init__(self, spec, heard, ended, messages=()):
        self.spec, self.heard, self.ended, self.messages = spec, heard, ended, messages
        self.cancelled, self.free = False, threading.Event()

    def run(self):
        for message in self.messages:
            self.heard(message)
        self.free.wait(20)
        return "" if self.cancelled else None

    def stop(self):
        self.cancelled = True
        self.free.set()


def test_a_line_does_one_after_the_other():
    line, ended = Line(), []
    jobs = [Told(k, print, lambda sentence, k=k: ended.append((k, sentence))) for k in range(3)]
    for job in jobs:
        line.add(job)
    until(lambda: jobs[0] in line.running)
    assert [line.before(job) for job in jobs] == [0, 1, 2]
    line.cancel(jobs[1])
    assert ended == [(1, "")]
    jobs[0].free.set()
    until(lambda: jobs[2] in line.running)
    assert ended == [(1, ""), (0, None)]
    line.cancel(jobs[2])
    assert ended[-1] == (2, "")
    line.close()


def test_a_job_that_is_cancelled_is_gone(tmp_path):
    """Its process is no more when cancel returns, whatever it did."""
    line, ended = Line(), []
    spec = {"kind": "look", "files": [], "folder": "", "first": 0, "upload": 1, "pixels": 1}
    job = Job(spec, lambda message: None, ended.append)
    line.add(job)
    until(lambda: job.process is not None)
    process = job.process.pid
    line.cancel(job)
    assert ended == [""]
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    line.close()


def test_a_process_that_dies_is_told():
    line, ended = Line(), []
    line.add(Job({"kind": "none"}, lambda message: None, ended.append))
    until(lambda: ended)
    assert ended == ["the work stopped: its process ended with exit status 1"]
    line.close()


def drawn_session(house, count=3, sides=(64, 96)):
    """A session that knows of frames without having looked."""
    session = house.get(house.new())
    for k in range(count):
        told = {"id": k, "name": f"{k}.png", "number": None, "width": sides[1], "height": sides[0]}
        session._looked({"frame": told | {"file": f"{k}.png", "bytes": 1, "sharpness": k + 1.0}})
    return session


def test_frames_are_ordered_and_left_out(house):
    session = drawn_session(house, 12)
    assert [frame["name"] for frame in session.state()["frames"]][-3:] == [
        "9.png",
        "10.png",
        "11.png",
    ]
    session.arrange([*range(1, 12), 0], [3])
    state = session.state()
    assert state["frames"][-1]["name"] == "0.png"
    assert [frame["name"] for frame in state["frames"] if not frame["used"]] == ["3.png"]
    with pytest.raises(StackError, match="have changed meanwhile"):
        session.arrange([0, 1], [])
    with pytest.raises(StackError, match="have changed meanwhile"):
        session.arrange(list(range(12)), [12])


def test_frames_out_of_focus_order_are_put_right(house, tmp_path):
    """But not those that were arranged by hand, and one that is left out stays where it is."""
    frames = draw_stack(texture(256, 320, 5), 7)
    names = "abcdefg"
    shuffled = dict(zip(names, (3, 0, 5, 1, 6, 2, 4), strict=True))
    session = house.get(house.new())
    for name, k in shuffled.items():
        bring(session, f"{name}.png", cv2.imencode(".png", frames[k])[1].tobytes())
    until(lambda: not session.state()["looking"])
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


def test_frames_that_a_hand_moved_are_put_in_order_in_register(house):
    session = house.get(house.new())
    for name, frame in zip("abcd", draw_moved_stack(), strict=True):
        bring(session, f"{name}.png", cv2.imencode(".png", frame)[1].tobytes())
    until(lambda: not session.state()["looking"])
    session.fuse({})
    until(lambda: session.fuse_job is None)
    state = session.state()
    assert [name[0] for name in state["result"]["names"]] == list("acbd")
    assert [frame["name"][0] for frame in state["frames"]] == list("acbd")
    assert any("brought into it: a.png c.png" in note for note in state["result"]["notes"])


def test_an_answer_among_the_frames_is_left_out(house):
    session = drawn_session(house)
    told = session.frames[0] | {"id": 9, "name": "AiF.png"}
    session._looked({"frame": told})
    out = [frame["name"] for frame in session.state()["frames"] if not frame["used"]]
    assert out == ["AiF.png"]


def test_sentences_hide_the_server(house, tmp_path):
    session = house.get(house.new())
    assert session.plain(f"{session.incoming}/a.png is bad") == "a.png is bad"
    assert session.plain(f"{session.folder}/run-1/x") == "run-1/x"
    house.root = tmp_path / "root"
    assert session.plain(f"{house.root}/stack/a.png is bad") == "stack/a.png is bad"


def test_a_file_comes_once_and_is_counted(house):
    session = house.get(house.new())
    path = session.room_for("a.png", 10**8)
    with pytest.raises(StackError, match=r"a\.png is here already"):
        session.room_for("a.png", 1)
    with pytest.raises(StackError, match="more than"):
        session.room_for("b.png", 1)
    session.drop(path)  # the sender has gone
    assert not list(session.incoming.iterdir())
    session.room_for("b.png", 10**8)


def test_a_bomb_in_tiffs_clothing_leaves_nothing(house):
    session = house.get(house.new())
    big = tiff(np.zeros((2000, 2000), np.uint8), compression="zlib")
    bring(session, "bomb.tif", big)
    until(lambda: not session.state()["looking"])
    assert session.state()["frames"] == []
    (sentence,) = session.state()["refused"]
    assert sentence.startswith("bomb.tif claims 2000x2000 pixels, 1 million are the most")
    assert not list(session.incoming.iterdir())
    assert not list(session.looks.iterdir())
    assert session.held == 0


def test_a_stack_in_one_file_with_a_broken_page_leaves_nothing(house):
    """Not some of its frames, whose file is gone, either."""
    session = house.get(house.new())
    pages = np.stack([texture(*SIDES, k) for k in range(3)])
    data = bytearray(tiff(pages, photometric="rgb", compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        place = file.pages[1].dataoffsets[0]
    data[place : place + 40] = bytes(40)
    bring(session, "pages.tif", bytes(data))
    bring(session, "a.png", cv2.imencode(".png", texture(*SIDES, 0))[1].tobytes())
    until(lambda: not session.state()["looking"])
    (sentence,) = session.state()["refused"]
    assert sentence.startswith("pages.tif (frame 2) is cut short, damaged")
    assert [frame["name"] for frame in session.state()["frames"]] == ["a.png"]
    assert [path.name for path in session.incoming.iterdir()] == ["a.png"]
    assert len(list(session.looks.iterdir())) == 2
    assert session.held == (session.incoming / "a.png").stat().st_size


def test_a_file_that_ends_the_process_is_refused_and_the_others_are_looked_at(house):
    """Also where some of its frames had been told."""
    session = house.get(house.new())
    files = [session.room_for(name, 1) for name in ("a.tif", "b.png", "c.png")]
    told = {"width": 9, "height": 9, "sharpness": 1.0}
    session.look_job = Told({"files": [str(file) for file in files]}, None, None)
    session._looked({"frame": told | {"id": 0, "name": "b.png", "file": str(files[1])}})
    session._looked({"looked": str(files[1])})
    session._looked({"frame": told | {"id": 1, "name": "a-1.tif", "file": str(files[0])}})
    seen = []
    session._look = lambda files: seen.extend(session.pending)
    session._looks_ended("the work stopped: it exceeded its time limit")
    assert session.refused == ["a.tif: the work stopped: it exceeded its time limit"]
    assert [frame["name"] for frame in session.frames.values()] == ["b.png"]
    assert session.order == [0]
    assert seen == [files[2]]
    assert not files[0].exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="nothing to wait for")
def test_a_file_that_takes_for_ever_is_given_up(tmp_path):
    os.mkfifo(tmp_path / "a.png")  # nobody writes: to open it is to wait
    spec = {"kind": "look", "files": [str(tmp_path / "a.png")], "folder": "", "first": 0}
    spec |= {"upload": 1, "pixels": 1, "longest": 0.2}
    line, ended = Line(), []
    line.add(Job(spec, lambda message: None, ended.append))
    until(lambda: ended)
    assert ended == ["the work stopped: it exceeded its time limit"]
    line.close()


def test_sessions_are_apart_and_end(house):
    one, other = house.new(), house.new()
    first, second = house.get(one), house.get(other)
    assert first.folder != second.folder
    assert first.folder not in second.folder.parents
    first.room_for("a.png", 5)
    second.room_for("a.png", 5)  # of the same name, elsewhere
    first.touch(leaving=True)
    first.seen -= sessions.LEAVING + 1
    second.seen -= sessions.LEAVING + 1
    house.sweep()
    assert house.get(one) is None
    assert house.get(other) is second
    assert not first.folder.exists()
    assert second.folder.exists()


def test_clearing_removes_all(house):
    session = house.get(house.new())
    session.room_for("a.png", 5)
    (session.place / "run-1").mkdir()
    session.clear()
    assert [path for path in session.folder.rglob("*") if path.is_file()] == []
    assert not list(session.folder.rglob("run-1"))
    assert session.held == 0


def test_a_file_that_still_comes_for_a_stack_that_is_cleared_is_none_of_the_next(house):
    session = house.get(house.new())
    old = session.room_for("a.png", 5)
    session.clear()
    new = session.room_for("a.png", 7)
    session.arrived(old)
    assert session.look_job is None
    session.drop(old)
    assert new.exists()
    assert session.held == 7


def test_what_is_looked_at_for_a_stack_that_is_cleared_is_not_heard(house):
    session = house.get(house.new())
    session.look_job = Told({"files": []}, session._looked, session._looks_ended)
    session.clear()
    session._looked({"refused": "a.png", "sentence": "a.png is bad"})
    assert session.state()["refused"] == []


def test_files_are_counted(house, monkeypatch):
    monkeypatch.setattr(sessions, "MOST_FRAMES", 2)
    session = house.get(house.new())
    for name in ("a.png", "b.png"):
        session.room_for(name, 1)
    with pytest.raises(StackError, match=r"c\.png is one too many, 2 frames are the most"):
        session.room_for("c.png", 1)


def test_names_of_any_length_find_room(house):
    session = house.get(house.new())
    for letter in ("x", "漢", "😀"):
        assert session.room_for(f"{letter * 250}1.png", 1).name.endswith(f"{letter}1.png")


def test_what_dead_processes_left_is_removed(tmp_path):
    host, _, _ = this_process().rpartition("-")
    dead, alive = (
        tmp_path / f"{PREFIX}{host}-999999999-ab",
        tmp_path / f"{PREFIX}{this_process()}-cd",
    )
    other = tmp_path / f"{PREFIX}elsewhere-999999999-ef"
    for folder in (dead, alive, other):
        (folder / "in").mkdir(parents=True)
    remove_dead(tmp_path)
    assert sorted(path for path in tmp_path.iterdir()) == sorted([alive, other])


def test_options_are_a_list_of_ours():
    assert options_of({}) == ["--align", "auto"]
    assert options_of(
        {"align": "on", "exposure": False, "prefer": "near", "near": "last", "slab": 3}
    ) == (
        [
            "--align",
            "on",
            "--no_match_exposure",
            "--prefer",
            "near",
            "--near",
            "last",
            "--slab",
            "3",
        ]
    )
    for wrong in (
        {"align": "--help"},
        {"device": "cpu"},
        [],
        {"prefer": ["near"]},
        {"exposure": "x"},
    ):
        with pytest.raises(StackError, match="load it anew"):
            options_of(wrong)
    for slab in (1, "3", 2000):
        with pytest.raises(StackError, match="2 frames or more"):
            options_of({"slab": slab})


def test_results_have_the_originals_name(house):
    session = drawn_session(house)
    for frame in session.frames.values():
        frame["file"] = "/x/stack 7.tif"
    assert session.name() == "stack 7"
    session.title = "a/b"
    assert session.name() == "a_b"
