"""webapp/sessions.py, session.py, shelf.py, jobs.py: frames, work, versions, projects."""

import contextlib
import io
import json
import os
import shutil
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tifffile

import predict
from stackmff.errors import StackError
from stackmff.files import write_json
from stackmff.fusion.retouch import Stroke
from stackmff.processes import this_process
from stackmff.webapp import example, shelf
from stackmff.webapp import sessions as sessions_module
from stackmff.webapp.jobs import ExamineSpec, FuseSpec, JobQueue, WorkerJob
from stackmff.webapp.results import ShownResult, carry_strokes
from stackmff.webapp.sessions import PREFIX, Sessions, default_projects, remove_abandoned
from stackmff.webapp.uploads import UploadLimits
from stackmff.webapp.work_plan import WorkPlan, stages_of
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


@pytest.fixture
def stack(sessions):
    """The first stack of a new session."""
    return sessions.get(sessions.new()).add_stack()


@pytest.fixture
def projects(tmp_path):
    """Makes the sessions of one server after the other on one folder of projects."""
    made = []

    def start():
        made.append(Sessions(UploadLimits(10**8, 10**6), projects=tmp_path / "projects"))
        return made[-1]

    yield start
    for one in made:
        one.close()


def until(holds, seconds=30):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def bring(stack, name, data):
    """Upload a file as the page does."""
    path = stack.room_for(name, len(data))
    path.write_bytes(data)
    stack.arrived(path)


def bring_drawn(stack, count=3, seed=0):
    """Upload a drawn stack, and wait until it is examined."""
    for k, frame in enumerate(draw_stack(texture(*SIDES, seed), count)):
        bring(stack, f"{k}.png", cv2.imencode(".png", frame)[1].tobytes())
    until(lambda: not stack.state()["examining"])


def fused(stack, **values):
    """Fuse and wait; returns the number of the version."""
    stack.fuse(values)
    until(lambda: stack.fuse_job is None)
    assert stack.failure is None
    return stack.versions[-1].number


def stack_of(folder, count=3, seed=0):
    """Write a stack; returns its folder."""
    folder.mkdir()
    for k, frame in enumerate(draw_stack(texture(*SIDES, seed), count)):
        cv2.imwrite(str(folder / f"{k}.png"), frame)
    return folder


def test_a_stack_is_examined_fused_retouched_and_exported(sessions, tmp_path):
    folder = stack_of(tmp_path / "stack")
    session = sessions.get(sessions.new())
    stack = session.add_stack()
    for name in ("2.png", "0.png", "1.png"):
        bring(stack, name, (folder / name).read_bytes())
    bring(stack, "notes.jpg", b"a text, and no picture")
    until(lambda: not stack.state()["examining"])
    state = stack.state()
    assert [frame["name"] for frame in state["list"]] == ["0.png", "1.png", "2.png"]
    assert max(frame["sharpness"] for frame in state["list"]) == 1
    assert state["refused"] == ["Skipped notes.jpg: it is not an image, or is damaged"]
    assert not state["in_order"]  # it was not checked yet
    assert sorted(path.name for path in stack.incoming.iterdir()) == ["0.png", "1.png", "2.png"]
    stack.fuse({})
    with pytest.raises(StackError, match="cancel that first"):
        stack.fuse({})
    until(lambda: stack.fuse_job is None)
    assert stack.failure is None
    state = stack.state()
    assert state["in_order"]
    assert state["results"][0]["names"] == ["0.png", "1.png", "2.png"]
    stack.paint(1, {"frame": "2.png", "radius": 9, "softness": 0.5, "points": [[30, 20], [50, 30]]})
    page, page8 = (
        exported(session, stack, format=kind, bits=bits)
        for kind, bits in (("tiff", 16), ("png", 8))
    )
    strokes = exported(session, stack, what="strokes")
    words = ["--stack_path", str(folder), "--quiet", "--retouch", str(strokes)]
    predict.main([*words, "--bits", "16", "--output", str(tmp_path / "shell.tif")])
    predict.main([*words, "--output", str(tmp_path / "shell8.png")])
    assert page.read_bytes() == (tmp_path / "shell.tif").read_bytes()
    assert page8.read_bytes() == (tmp_path / "shell8.png").read_bytes()
    assert tifffile.imread(page).dtype == np.uint16
    stack.undo(1, 1)
    page = exported(session, stack, format="tiff", bits=16)
    predict.main([*words[:3], "--bits", "16", "--output", str(tmp_path / "plain.tif")])
    assert page.read_bytes() == (tmp_path / "plain.tif").read_bytes()


def exported(session, stack, number=1, **wanted):
    """The file that a page exports."""
    export = session.export([(stack, number)], wanted)
    until(lambda: export.state()["done"])
    assert export.failure is None
    return export.file


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


def run_of(stack, names=("0.png", "1.png")):
    """A run that is said to go on."""
    stack.runs += 1
    run = stack.folder / f"run-{stack.runs}"
    draft = result_in(run / "draft", names, shape=(2, 10, 15, 3))
    full = result_in(run / "full", names)
    spec = FuseSpec([], [], [], {}, draft, full)
    stack.plan = WorkPlan(stages_of(spec, False))
    stack.fuse_job = FakeJob(spec, stack._on_fusing, stack._on_fuse_end)


def finish(stack):
    stack._on_fusing({"made": "full"})
    stack._on_fuse_end(None)


STROKE = {"frame": "1.png", "radius": 4, "softness": 0, "points": [[20, 20]]}


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
    monkeypatch.setattr(shelf.shutil, "disk_usage", lambda _: SimpleNamespace(free=3))
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
    monkeypatch.setattr(shelf, "LEAST_PAINT", 2 * 18 * 8)
    monkeypatch.setattr(shelf, "PAINT_TIMES", 0)
    file = {"width": 60, "height": 40, "strokes": [stroke, stroke]}
    stack.replay(1, file)
    with pytest.raises(StackError, match="would take minutes"):
        stack.replay(1, file | {"strokes": [stroke] * 3})
    with pytest.raises(StackError, match="would take minutes"):
        stack.paint(1, stroke | {"points": [[20, 20], [30, 20]] * 9})
    assert stack.state()["results"][0]["strokes"] == 2


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
        assert seen[-1] == pytest.approx(1)
    assert plan.state()["left"] == 0


# Projects


def test_a_project_outlives_its_server(projects):
    first = projects()
    token = first.new()
    session = first.get(token)
    stack = session.add_stack("my stack")
    bring_drawn(stack)
    ids = list(stack.order)
    stack.arrange(ids[::-1], [])
    number = fused(stack, near="last")
    stroke = {"frame": "2.png", "radius": 9, "softness": 0.5, "points": [[30, 20], [50, 30]]}
    stack.paint(number, stroke)
    stack.paint(number, stroke | {"points": [[60, 20]]})
    stack.undo(number, 1)
    picture = np.array(stack.shown(number).picture)
    told = stack.state()
    first.close()
    second = projects()
    (listed,) = second.listing()
    assert (listed["token"], listed["name"], listed["stacks"]) == (token, "my stack", 1)
    assert listed["bytes"] > 10_000
    again = second.get(token).stack(stack.number)
    now = again.state()
    for key in ("list", "values", "in_order", "name", "refused"):
        assert now[key] == told[key], key
    assert [(r["number"], r["strokes"], r["undone"]) for r in now["results"]] == [(number, 1, 1)]
    assert np.array_equal(again.shown(number).picture, picture)
    assert len(again.redo(number)) == 1
    assert fused(again) == number + 1


def test_a_kill_loses_nothing(projects, tmp_path):
    """Everything is on the disk before it is asked for again: the folder is copied, as it is."""
    running = projects()
    session = running.get(running.new())
    stack = session.add_stack()
    bring_drawn(stack)
    half = stack.room_for("half.png", 10**6)
    half.write_bytes(b"\x89PNG")
    number = fused(stack)
    stack.paint(number, {"frame": "2.png", "radius": 9, "softness": 0.5, "points": [[30, 20]]})
    late = stack.room_for("late.png", 9)
    late.write_bytes(cv2.imencode(".png", texture(*SIDES, 3))[1].tobytes())
    late.replace(stack.incoming / late.name)  # it arrived, and the server was killed
    (stack.folder / "run-9" / "full").mkdir(parents=True)  # unfinished
    stack.wanted = {"near": "first"}
    stack.changed()
    session.save()
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "projects", other)
    with contextlib.closing(Sessions(UploadLimits(10**8, 10**6), projects=other)) as server:
        again = server.get(session.token).stack(stack.number)
        until(lambda: not again.state()["examining"])
        names = [frame["name"] for frame in again.state()["list"]]
        assert names == ["0.png", "1.png", "2.png", "late.png"]
        assert not list(again.arriving.iterdir())
        assert "was stopped while it fused" in again.failure
        assert not (again.folder / "run-9").exists()
        assert again.state()["results"][0]["strokes"] == 1
        again.arrange(again.order, [again.order[-1]])
        assert fused(again) > 9


def test_a_damaged_version_costs_no_other(projects):
    first = projects()
    token = first.new()
    stack = first.get(token).add_stack()
    for _ in range(2):
        run_of(stack)
        finish(stack)
    run_of(stack)
    finish(stack)
    first.close()
    (stack.folder / "run-1" / "full" / "result.json").write_text("{")
    (stack.folder / "run-2" / "full" / "fused.npy").write_bytes(b"")
    again = projects().get(token).stack(1)
    with pytest.raises(StackError, match="version 2 cannot be read"):
        again.shown(2)
    again.changed()
    state = again.state()
    assert [one.get("broken") is not None for one in state["results"]] == [True, False]
    assert "cannot be read" in state["results"][0]["broken"]
    assert state["refused"][0].startswith("version 1 cannot be read")
    assert (stack.folder / "run-1" / "full" / "focus.npy").exists()
    assert str(stack.folder) not in state["results"][0]["broken"]


def test_projects_are_deleted_and_empty_ones_leave_nothing(projects, tmp_path):
    server = projects()
    token, empty = server.new(), server.new()
    server.get(empty).add_stack()
    run_of(stack := server.get(token).add_stack())
    finish(stack)
    server.get(token).save()
    assert [one["token"] for one in server.listing()] == [token]
    server.delete(token)
    assert server.listing() == [] and server.get(token) is None
    with pytest.raises(LookupError):
        server.delete(token)
    server.close()
    assert list((tmp_path / "projects").iterdir()) == []


def test_a_project_is_one_file_and_comes_back(projects, tmp_path):
    server = projects()
    session = server.get(server.new())
    stack = session.add_stack("beetle")
    bring_drawn(stack)
    number = fused(stack)
    stack.paint(number, STROKE)
    export = session.export_project()
    until(lambda: export.state()["done"])
    assert export.file.name == "beetle.stackmff.zip"
    data = export.file.read_bytes()
    path = server.room_for_project(len(data))
    path.write_bytes(data)
    token = server.add_project(path)
    assert token != session.token and not path.exists()
    again = server.get(token).stack(stack.number)
    assert again.folder != stack.folder
    assert again.state()["results"][0]["strokes"] == 1
    assert np.array_equal(again.shown(number).picture, stack.shown(number).picture)
    assert fused(again, prefer="near") == number + 1


def archive_of(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


PROJECT = json.dumps({"token": "x", "name": "n", "made": 1, "used": 1, "stacks": 1})


def test_files_that_are_no_projects_are_refused(projects, tmp_path, monkeypatch):
    server = projects()
    hostile = tmp_path / "hostile.zip"
    for files, sentence in (
        ({"a.txt": "x"}, "is not a project"),
        ({"project.json": PROJECT, "../evil": "x"}, "is not a project"),
        ({"project.json": PROJECT, "/evil": "x"}, "is not a project"),
        ({"project.json": PROJECT, "a\\..\\evil": "x"}, "is not a project"),
        ({"project.json": "[]"}, "is not a project"),
        ({"project.json": PROJECT, "stack-1/stack.json": "5"}, "cannot be read"),
        ({"project.json": PROJECT, "stack-1/stack.json": "{}"}, "cannot be read"),
        ({"project.json": PROJECT, "big": bytes(1000)}, "takes 0.0 GB"),
    ):
        if "big" in files:
            monkeypatch.setattr(
                sessions_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=900)
            )
        with pytest.raises(StackError, match=sentence):
            server.add_project(archive_of(hostile, files))
    hostile.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(StackError, match="is not a project"):
        server.add_project(hostile)
    assert list((tmp_path / "projects").iterdir()) == []
    assert not list(tmp_path.glob("evil"))


def test_a_project_does_not_open_other_files(projects, tmp_path):
    """One that somebody has sent names a picture of this machine for its frame."""
    secret = tmp_path / "secret.png"
    cv2.imwrite(str(secret), texture(*SIDES, 0))
    frame = {"id": 0, "name": "a.png", "number": None, "file": str(secret), "width": 96}
    frame |= {"height": 64, "sharpness": 1.0, "bytes": 9, "channels": 3}
    state = {"title": None, "order": [0], "excluded": [], "arranged": False, "in_order": False}
    state |= {"pending": [str(secret)], "next_id": 1, "runs": 0, "wanted": None, "values": {}}
    state |= {"refused": [], "frames": [frame]}
    files = {"project.json": PROJECT, "stack-1/stack.json": json.dumps(state)}
    files |= {"stack-1/thumbs/0.png": secret.read_bytes()}
    server = projects()
    stack = server.get(server.add_project(archive_of(tmp_path / "a.zip", files))).stack(1)
    until(lambda: not stack.state()["examining"])
    assert stack.state()["list"] == []


def test_projects_of_a_server_that_others_reach_are_not_listed(tmp_path):
    server = Sessions(UploadLimits(10**8, 10**6), projects=tmp_path / "p", listed=False)
    run_of(stack := server.get(server.new()).add_stack())
    finish(stack)
    server.save()
    assert server.listing() == []
    server.close()


def test_an_idle_project_is_closed_and_opened_again(projects):
    server = projects()
    token = server.new()
    session = server.get(token)
    run_of(stack := session.add_stack())
    finish(stack)
    session.seen -= server.shared.keep_seconds + 1
    server.sweep()
    assert token not in server.by_token
    assert server.get(token) is not session
    assert len(server.get(token).stack(1).versions) == 1


def test_a_project_that_does_work_is_not_closed(projects):
    server = projects()
    token = server.new()
    session = server.get(token)
    run_of(stack := session.add_stack())
    session.seen -= server.shared.keep_seconds + 1
    server.sweep()
    assert server.by_token[token] is session
    stack._on_fuse_end("")


def test_projects_have_a_folder_on_a_disk(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(sessions_module.sys, "platform", "linux")
    assert default_projects() == tmp_path / "stackmff" / "projects"


# The shelf


def test_stacks_are_queued_one_after_the_other(sessions):
    session = sessions.get(sessions.new())
    stacks = [session.add_stack(title) for title in ("one", "two", "three")]
    for seed, stack in enumerate(stacks):
        bring_drawn(stack, seed=seed)
    odd = stacks[2]
    odd.arrange(odd.order, odd.order[:2])
    assert session.fuse_all({}) == ["three: a stack needs at least two frames: add some"]
    works = [one["work"] for one in session.state()["stacks"]]
    assert works[0] is not None and works[2] is None
    until(lambda: not session.busy())
    assert [one["versions"] for one in session.state()["stacks"]] == [1, 1, 0]
    assert session.fuse_all({}) == ["three: a stack needs at least two frames: add some"]
    export = session.export([(stack, 1) for stack in stacks[:2]], {"format": "png"})
    until(lambda: export.state()["done"])
    with zipfile.ZipFile(export.file) as archive:
        assert sorted(archive.namelist()) == ["one_fused.png", "two_fused.png"]
    session.delete_stack(stacks[0].number)
    assert [one["name"] for one in session.state()["stacks"]] == ["two", "three"]
    assert not stacks[0].folder.exists()
    with pytest.raises(LookupError, match="this stack was deleted"):
        session.stack(stacks[0].number)


def test_exports_are_refused_by_what_is_wrong(sessions):
    session = sessions.get(sessions.new())
    run_of(stack := session.add_stack())
    finish(stack)
    for wanted, sentence in (
        ({"format": "exe"}, "this format is not supported"),
        ({"what": "../x"}, "has no ../x"),
        ({"quality": 0}, "quality 0 is not"),
        ({"quality": True}, "quality True is not"),
        ({"area": "x"}, "the area to crop to is not"),
        ({"area": [0, 10, 0]}, "the area to crop to is not"),
        ({"area": [0, 41, 0, 10]}, "leads out of the picture of 60x40"),
        ({"area": [10, 10, 0, 10]}, "leads out of the picture"),
    ):
        with pytest.raises(StackError, match=sentence):
            session.export([(stack, 1)], wanted)
    assert list((session.folder / "exports").iterdir()) == [] and not session.exports
    export = session.export([(stack, 1)], {"what": "slabs"})
    until(lambda: export.state()["done"])
    assert "has no slabs" in export.state()["failure"]
    for name, wanted in (("../{stack} v{version}", "_1 v1.png"), ("a/b", "a_b.png")):
        spec = stack.export_spec(1, {"name": name}, session.folder)
        assert Path(spec.path).parent == session.folder
        assert Path(spec.path).name == wanted.replace("_1", f"_{stack.name()}")


def test_the_example_is_drawn(sessions, monkeypatch):
    monkeypatch.setattr(example, "FRAMES", 3)
    small = example.scene()
    near, far = (example.frame(*small, focus) for focus in (0.0, 1.0))
    detail = lambda picture: float(np.abs(np.diff(picture.astype(int), axis=1)).mean())  # noqa: E731
    assert detail(near[-300:]) > 1.3 * detail(far[-300:])
    assert detail(far[:300]) > 1.3 * detail(near[:300])


def test_strokes_of_another_size_wait(sessions, tmp_path):
    old = ShownResult(result_in(tmp_path / "old"))
    new = ShownResult(result_in(tmp_path / "new", shape=(2, 30, 60, 3)))
    last = ShownResult(result_in(tmp_path / "last"))
    old.paint(Stroke(0, 4.0, 0.0, np.array([[20.0, 20.0]])))
    carry_strokes(old, new)
    assert (len(new.strokes), len(new.waiting)) == (0, 1)
    carry_strokes(new, last)
    assert (len(last.strokes), len(last.waiting)) == (1, 0)


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
    """A stack with frames that were never examined."""
    session = sessions.get(sessions.new()).add_stack()
    for k in range(count):
        frame = {"id": k, "name": f"{k}.png", "number": None, "file": f"{k}.png", "bytes": 1}
        frame |= {"width": sides[1], "height": sides[0], "sharpness": k + 1.0}
        session._on_examined({"frame": frame})
    return session


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
    assert session.without_paths(f"{session.incoming}/a.png is bad") == "a.png is bad"
    assert session.without_paths(f"{session.folder}/run-1/x") == "run-1/x"
    assert session.without_paths(f"{session.folder.parent}/x") == "x"
    sessions.shared.root = tmp_path / "root"
    assert (
        session.without_paths(f"{sessions.shared.root}/stack/a.png is bad") == "stack/a.png is bad"
    )


def test_a_file_is_uploaded_once_and_counted(sessions):
    session = sessions.get(sessions.new())
    stack, other = session.add_stack(), session.add_stack()
    path = session.room_for(stack, "a.png", 10**8)
    with pytest.raises(StackError, match=r"a\.png is already in the stack, skipped"):
        stack.room_for("a.png", 1)
    for one in (stack, other):  # counted over all stacks of a session
        with pytest.raises(StackError, match="more than"):
            session.room_for(one, "b.png", 1)
    stack.drop(path)  # the sender has gone
    assert not list(stack.arriving.iterdir())
    session.room_for(other, "b.png", 10**8)


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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="nothing to wait for")
def test_a_file_that_takes_for_ever_is_abandoned(tmp_path):
    os.mkfifo(tmp_path / "a.png")  # nobody writes: to open it is to wait
    spec = ExamineSpec([str(tmp_path / "a.png")], "", 0, 1, longest=0.2)
    queue, ended = JobQueue(), []
    queue.add(WorkerJob(spec, lambda message: None, ended.append))
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
    queue.add(WorkerJob(spec, lambda message: None, ended.append))
    until(lambda: ended)
    assert ended == ["the work stopped: it exceeded its time limit"]
    queue.close()


def test_sessions_are_separate_and_end(sessions):
    one, other = sessions.new(), sessions.new()
    first, second = sessions.get(one), sessions.get(other)
    assert first.folder != second.folder
    assert first.folder not in second.folder.parents
    for session in (first, second):
        session.room_for(session.add_stack(), "a.png", 5)  # of the same name, elsewhere
    first.seen -= sessions.shared.keep_seconds + 1
    sessions.sweep()
    assert sessions.get(one) is None  # this server keeps no projects
    assert sessions.get(other) is second
    assert not first.folder.exists()
    assert second.folder.exists()


def test_a_late_file_of_a_deleted_stack_does_not_return(sessions):
    session = sessions.get(sessions.new())
    stack = session.add_stack()
    old = stack.room_for("a.png", 5)
    session.delete_stack(stack.number)
    assert [path for path in session.folder.rglob("*.png")] == []
    stack.arrived(old)
    stack.drop(old)
    assert stack.examine_job is None
    assert session.held == 0


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
    monkeypatch.setattr(shelf, "MOST_FRAMES", 2)
    session = sessions.get(sessions.new()).add_stack()
    for name in ("a.png", "b.png"):
        session.room_for(name, 1)
    with pytest.raises(StackError, match=r"c\.png is one too many, and 2 frames are the maximum"):
        session.room_for("c.png", 1)


def test_names_of_any_length_find_room(sessions):
    session = sessions.get(sessions.new())
    stack = session.add_stack()
    for letter in ("x", "漢", "😀"):
        assert session.room_for(stack, f"{letter * 250}1.png", 1).name.endswith(f"{letter}1.png")


def test_what_dead_processes_left_is_removed(tmp_path):
    host, _, _ = this_process().rpartition("-")
    dead, alive = (
        tmp_path / f"{PREFIX}{host}-999999999-ab",
        tmp_path / f"{PREFIX}{this_process()}-cd",
    )
    other = tmp_path / f"{PREFIX}elsewhere-999999999-ef"
    for folder in (dead, alive, other):
        (folder / "in").mkdir(parents=True)
    remove_abandoned(tmp_path)
    assert sorted(path for path in tmp_path.iterdir()) == sorted([alive, other])


def test_results_have_the_originals_name(sessions):
    session = drawn_session(sessions)
    for frame in session.frames.values():
        frame["file"] = "/x/stack 7.tif"
    assert session.name() == "stack 7"
    session.title = "a/b"
    assert session.name() == "a_b"
