"""webapp/shelf.py, stack_frames.py, versions.py: frames, work and versions of a stack."""

import io
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tifffile

from stackmff.errors import StackError
from stackmff.fusion.retouch import Stroke
from stackmff.webapp import stack_frames, versions
from stackmff.webapp.jobs import ExamineSpec
from stackmff.webapp.results import ShownResult, carry_strokes
from stackmff.webapp.work_plan import WorkPlan
from tests.drawn import draw_moved_stack, draw_stack, texture, tiff
from tests.shelves import (
    SIDES,
    STROKE,
    FakeJob,
    bring,
    bring_drawn,
    drawn_session,
    finish,
    fused,
    result_in,
    run_of,
    until,
)


def test_a_run_that_is_cancelled_leaves_the_versions_before(stack):
    run_of(stack)
    stack._on_fusing({"made": "draft"})
    (told,) = stack.state()["results"]
    assert told["draft"] and told["run"] == "draft-1"
    with pytest.raises(StackError, match="no result yet"):
        stack.paint(1, STROKE)
    stack._on_fuse_end("")
    assert stack.state()["results"] == []
    assert not list(stack.folder.glob("run-*"))
    run_of(stack)
    stack._on_fusing({"made": "draft"})
    assert stack.state()["results"][0]["run"] == "draft-2"  # what browsers kept is of another one
    assert stack.of_run("draft-2") is stack.draft
    finish(stack)
    assert stack.of_run("draft-2") is stack.shown(1)
    with pytest.raises(LookupError):
        stack.of_run("draft-1")
    stack.paint(1, STROKE)  # nobody misses the number of a run that was cancelled
    run_of(stack)
    stack._on_fuse_end("")
    (told,) = stack.state()["results"]
    assert (told["number"], told["strokes"], told["draft"]) == (1, 1, False)


def test_versions_are_kept_until_they_are_deleted(stack):
    for _ in range(2):
        run_of(stack)
        finish(stack)
        if stack.runs == 1:
            stack.paint(1, STROKE)
    told = stack.state()["results"]
    # The strokes are painted anew, into the second version; each has its own from then on.
    assert [(one["number"], one["strokes"]) for one in told] == [(1, 1), (2, 1)]
    assert (stack.shown(2).picture[20, 20] == 50 * 257).all()
    stack.undo(2, 1)
    assert [one["strokes"] for one in stack.state()["results"]] == [1, 0]
    stack.redo(2)
    assert [one["undone"] for one in stack.state()["results"]] == [0, 0]
    stack.delete_version(1)
    assert [one["number"] for one in stack.state()["results"]] == [2]
    assert not (stack.folder / "run-1").exists()
    with pytest.raises(LookupError, match="this version was deleted"):
        stack.shown(1)
    with pytest.raises(LookupError):
        stack.of_run("run-1")


def test_what_was_seen_is_not_told_again(stack):
    """A page that asks every third of a second need not get a thousand frames."""
    run_of(stack)
    finish(stack)
    told = stack.state()
    assert "list" in told and "results" in told
    again = stack.state(told["changes"])
    assert "list" not in again and "results" not in again
    stamp = told["results"][0]["stamp"]
    assert again["painted"]["run-1"]["stamp"] == stamp
    stack.paint(1, STROKE)
    now = stack.state(told["changes"])["painted"]["run-1"]
    assert (now["strokes"], now["stamp"] == stamp) == (1, False)


def test_frames_in_register_are_used_again(stack):
    bring_drawn(stack)
    fused(stack)
    assert not list(stack.decoded.iterdir())  # read once, and no longer needed
    seen = []
    follow = WorkPlan.follow

    def watched(plan, message):
        seen.append(message["stage"])
        follow(plan, message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WorkPlan, "follow", watched)
        fused(stack, prefer="near")
    assert set(seen) == {"fusing"}
    first, second = (stack.shown(number) for number in (1, 2))
    assert first.frames_file == second.frames_file
    assert first.names == second.names
    fused(stack, align="off")
    assert stack.shown(3).frames_file != first.frames_file
    stack.delete_version(3)
    assert len(list(stack.folder.glob("aligned-*"))) == 1
    fused(stack)  # the same as the first, from the frames that are there
    assert np.array_equal(stack.shown(4).fused, first.fused)


def test_frames_are_decoded_once(stack, tmp_path):
    """They are kept as they were examined, and the files are not read again."""
    bring_drawn(stack)
    assert len(list(stack.decoded.glob("*.npy"))) == 3
    for path in stack.incoming.iterdir():
        path.write_bytes(b"gone")
    fused(stack, align="off")
    frames = stack.shown(1).frames
    assert np.array_equal(frames[1][..., ::-1], draw_stack(texture(*SIDES, 0), 3)[1])


def test_frames_that_are_not_kept_are_read(stack, monkeypatch):
    monkeypatch.setattr(stack_frames.shutil, "disk_usage", lambda _: SimpleNamespace(free=3))
    bring_drawn(stack)
    assert not list(stack.decoded.iterdir())
    monkeypatch.undo()
    fused(stack)


def test_strokes_of_frames_that_are_excluded_wait_for_them(stack):
    for names, painted in (
        (("0.png", "1.png"), 0),
        (("0.png", "2.png"), 1),
        (("0.png", "1.png"), 2),
    ):
        run_of(stack, names)
        finish(stack)
        told = stack.state()["results"][-1]
        assert told["strokes"] == painted
        waits = ["not painted: strokes of 1.png"] if stack.runs == 2 else []
        assert [note.partition(",")[0] for note in told["notes"]] == waits
        for name in ("0.png", "1.png") if stack.runs == 1 else []:
            stack.paint(1, STROKE | {"frame": name})


def test_strokes_that_would_take_minutes_are_refused(stack, monkeypatch):
    """Bounded by the pixels to compute, which a few thin bytes can be many of."""
    run_of(stack)
    finish(stack)
    stroke = STROKE | {"points": [[20, 20], [30, 20]]}
    monkeypatch.setattr(versions, "LEAST_PAINT", 2 * 18 * 8)
    monkeypatch.setattr(versions, "PAINT_TIMES", 0)
    file = {"width": 60, "height": 40, "strokes": [stroke, stroke]}
    stack.replay(1, file)
    with pytest.raises(StackError, match="would take minutes"):
        stack.replay(1, file | {"strokes": [stroke] * 3})
    with pytest.raises(StackError, match="would take minutes"):
        stack.paint(1, stroke | {"points": [[20, 20], [30, 20]] * 9})
    assert stack.state()["results"][0]["strokes"] == 2


def test_strokes_of_another_size_wait(sessions, tmp_path):
    old = ShownResult(result_in(tmp_path / "old"))
    new = ShownResult(result_in(tmp_path / "new", shape=(2, 30, 60, 3)))
    last = ShownResult(result_in(tmp_path / "last"))
    old.paint(Stroke(0, 4.0, 0.0, np.array([[20.0, 20.0]])))
    carry_strokes(old, new)
    assert (len(new.strokes), len(new.waiting)) == (0, 1)
    carry_strokes(new, last)
    assert (len(last.strokes), len(last.waiting)) == (1, 0)


def test_frames_are_ordered_and_excluded(sessions):
    session = drawn_session(sessions, 12)
    assert [frame["name"] for frame in session.state()["list"]][-3:] == [
        "9.png",
        "10.png",
        "11.png",
    ]
    session.arrange([*range(1, 12), 0], [3])
    state = session.state()
    assert state["list"][-1]["name"] == "0.png"
    assert [frame["name"] for frame in state["list"] if not frame["used"]] == ["3.png"]
    with pytest.raises(StackError, match="have changed in the meantime"):
        session.arrange([0, 1], [])
    with pytest.raises(StackError, match="have changed in the meantime"):
        session.arrange(list(range(12)), [12])


def test_frames_out_of_focus_order_are_put_right(sessions, tmp_path):
    """But not those that were arranged by hand, and one that is left out stays where it is."""
    frames = draw_stack(texture(256, 320, 5), 7)
    names = "abcdefg"
    shuffled = dict(zip(names, (3, 0, 5, 1, 6, 2, 4), strict=True))
    session = sessions.get(sessions.new()).add_stack()
    for name, k in shuffled.items():
        bring(session, f"{name}.png", cv2.imencode(".png", frames[k])[1].tobytes())
    until(lambda: not session.state()["examining"])
    session.fuse({})
    until(lambda: session.fuse_job is None)
    found = [frame["name"][0] for frame in session.state()["list"]]
    inside = sorted(names, key=shuffled.get)
    assert found in (inside, inside[::-1])
    assert [name[0] for name in session.state()["results"][-1]["names"]] == found
    notes = session.state()["results"][-1]["notes"]
    assert any("brought into it: " + ".png ".join(found) in note for note in notes)
    ids = {frame["name"][0]: frame["id"] for frame in session.state()["list"]}
    session.arrange([ids[name] for name in names], [ids["d"]])
    session.fuse({})
    until(lambda: session.fuse_job is None)
    assert [name[0] for name in session.state()["results"][-1]["names"]] == list("abcefg")
    assert [frame["name"][0] for frame in session.state()["list"]] == list(names)
    session.arranged = False
    session.fuse({})
    until(lambda: session.fuse_job is None)
    rest = [name for name in found if name != "d"]
    now = [frame["name"][0] for frame in session.state()["list"]]
    assert now[3] == "d" and [name for name in now if name != "d"] in (rest, rest[::-1])


def test_frames_of_a_moving_camera_are_put_in_order_once_aligned(sessions):
    session = sessions.get(sessions.new()).add_stack()
    for name, frame in zip("abcd", draw_moved_stack(), strict=True):
        bring(session, f"{name}.png", cv2.imencode(".png", frame)[1].tobytes())
    until(lambda: not session.state()["examining"])
    session.fuse({})
    until(lambda: session.fuse_job is None)
    state = session.state()
    assert [name[0] for name in state["results"][-1]["names"]] == list("acbd")
    assert [frame["name"][0] for frame in state["list"]] == list("acbd")
    assert any("brought into it: a.png c.png" in note for note in state["results"][-1]["notes"])


def test_an_answer_among_the_frames_is_excluded(sessions):
    session = drawn_session(sessions)
    told = session.frames[0] | {"id": 9, "name": "AiF.png"}
    session._on_examined({"frame": told})
    out = [frame["name"] for frame in session.state()["list"] if not frame["used"]]
    assert out == ["AiF.png"]


def test_sentences_hide_the_server(sessions, tmp_path):
    session = sessions.get(sessions.new()).add_stack()
    assert session.on_page(f"{session.incoming}/a.png is bad") == "a.png is bad"
    assert session.on_page(f"{session.folder}/run-1/x") == "run-1/x"
    assert session.on_page(f"{session.folder.parent}/x") == "x"
    sessions.shared.root = tmp_path / "root"
    assert session.on_page(f"{sessions.shared.root}/stack/a.png is bad") == "stack/a.png is bad"


def test_a_decompression_bomb_leaves_nothing(sessions):
    session = sessions.get(sessions.new()).add_stack()
    big = tiff(np.zeros((2000, 2000), np.uint8), compression="zlib")
    bring(session, "bomb.tif", big)
    until(lambda: not session.state()["examining"])
    assert session.state()["list"] == []
    (sentence,) = session.state()["refused"]
    assert sentence.startswith("bomb.tif declares 2000x2000 pixels, and 1 million is the maximum")
    assert not list(session.incoming.iterdir())
    assert not list(session.thumbs.iterdir())
    assert session.held == 0


def test_a_stack_in_one_file_with_a_broken_page_leaves_nothing(sessions):
    """Not some of its frames, whose file is gone, either."""
    session = sessions.get(sessions.new()).add_stack()
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
    assert not [path for path in session.decoded.iterdir() if path.stem == "0"]
    assert [frame["name"] for frame in session.state()["list"]] == ["a.png"]
    assert [path.name for path in session.incoming.iterdir()] == ["a.png"]
    assert len(list(session.thumbs.iterdir())) == 2
    assert session.held == (session.incoming / "a.png").stat().st_size


def test_a_file_that_ends_the_process_is_refused_and_the_others_are_looked_at(sessions):
    """Also where some of its frames had been told."""
    session = sessions.get(sessions.new()).add_stack()
    files = [session.incoming / name for name in ("a.tif", "b.png", "c.png")]
    for file in files:
        file.touch()
        session.uploads[file] = 1
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


def test_messages_about_a_deleted_stack_are_ignored(sessions):
    stack = sessions.get(sessions.new()).add_stack()
    stack.examine_job = FakeJob(
        ExamineSpec([], "", 0, 1), stack._on_examined, stack._on_examine_end
    )
    job = stack.examine_job
    stack.delete()
    assert job.cancelled
    stack._on_examined({"refused": "a.png", "sentence": "a.png is bad"})
    assert stack.state()["refused"] == []


def test_files_are_counted(sessions, monkeypatch):
    monkeypatch.setattr(stack_frames, "MOST_FRAMES", 2)
    session = sessions.get(sessions.new()).add_stack()
    for name in ("a.png", "b.png"):
        session.room_for(name, 1)
    with pytest.raises(StackError, match=r"c\.png is one too many, and 2 frames are the maximum"):
        session.room_for("c.png", 1)


def test_results_have_the_originals_name(sessions):
    session = drawn_session(sessions)
    for frame in session.frames.values():
        frame["file"] = "/x/stack 7.tif"
    assert session.name() == "stack 7"
    session.title = "a/b"
    assert session.name() == "a_b"
