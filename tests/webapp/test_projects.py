"""webapp/sessions.py, session.py, archive.py: projects that outlive their server."""

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from stackmff.errors import StackError
from stackmff.webapp import sessions as sessions_module
from stackmff.webapp.sessions import Sessions, default_projects
from stackmff.webapp.uploads import UploadLimits
from tests.drawn import texture
from tests.shelves import (
    PROJECT,
    SIDES,
    STROKE,
    archive_of,
    bring_drawn,
    finish,
    fused,
    result_in,
    run_of,
    until,
)

# Of an empty stack, as its file has it.
STATE = {"title": None, "frames": [], "order": [], "excluded": [], "arranged": False}
STATE |= {"in_order": False, "pending": [], "next_id": 0, "runs": 0, "wanted": None}
STATE |= {"values": {}, "refused": []}


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


def test_reopened_and_imported_projects_count_among_the_sessions(projects, tmp_path, monkeypatch):
    server = projects()
    closed = tmp_path / "projects" / ("0" * 16)
    closed.mkdir()
    (closed / "project.json").write_text(PROJECT)
    token = json.loads(PROJECT)["token"]
    monkeypatch.setattr(sessions_module, "MOST_SESSIONS", 1)
    other = server.new()
    for refused in (server.new, lambda: server.get(token), lambda: server.room_for_project(1)):
        with pytest.raises(StackError, match="too many sessions"):
            refused()
    assert list(server.by_token) == [other]
    server.by_token[other].seen -= server.shared.keep_seconds + 1  # its page is gone
    assert server.get(token).token == token


def test_a_project_is_measured_while_another_deletes_it(projects, monkeypatch):
    server = projects()
    token = server.new()
    session = server.get(token)
    session.add_stack("going")
    gone, scan = session.folder / "exports", os.scandir

    def scan_what_is_left(folder):
        if Path(folder) == gone:
            raise FileNotFoundError(errno.ENOENT, "no such folder", str(folder))
        return scan(folder)

    (session.folder / "left").write_bytes(bytes(1000))
    with monkeypatch.context() as changed:
        changed.setattr(os, "scandir", scan_what_is_left)
        assert server._size(session.folder, 1.0) >= 1000


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
    stack.wanted, stack.runs = {"near": "first"}, 9
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
        (
            {"project.json": PROJECT, "stack-1/stack.json": json.dumps(STATE | {"title": 5})},
            "its title is missing or of another type",
        ),
        (
            {"project.json": PROJECT, "stack-1/stack.json": json.dumps(STATE | {"frames": [{}]})},
            "its id is missing or of another type",
        ),
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
    (room,) = (tmp_path / "projects").iterdir()
    assert list(room.iterdir()) == []
    server.close()
    assert not room.exists()
    assert not list(tmp_path.glob("evil"))


def test_odd_records_of_a_project_cost_what_they_are_of(projects, tmp_path):
    """The page shows the rest: a version that cannot be read, a stack without its odd strokes."""
    run = Path(result_in(tmp_path / "run"))
    record = json.loads((run / "result.json").read_text())
    fits = {"wait": [9, 9, {"frame": "gone.png", "radius": 1, "softness": 0, "points": [[1, 1]]}]}
    odd = [5, [], {"undo": "x"}, {"wait": [1, 2, 3]}, {"wait": [1, 2, {"frame": [], "points": 1}]}]
    files = {"project.json": PROJECT, "stack-1/stack.json": json.dumps(STATE | {"runs": 3})}
    for number, changed in ((1, {}), (2, {"notes": 5}), (3, {"names": [1, 2]})):
        for path in run.iterdir():
            files[f"stack-1/run-{number}/full/{path.name}"] = path.read_bytes()
        files[f"stack-1/run-{number}/full/result.json"] = json.dumps(record | changed)
    files["stack-1/run-1/full/strokes.jsonl"] = "\n".join(map(json.dumps, [*odd, fits]))
    server = projects()
    stack = server.get(server.add_project(archive_of(tmp_path / "a.zip", files))).stack(1)
    state = stack.state()
    assert [one["number"] for one in state["results"]] == [1]
    assert [one.split(" (")[0] for one in state["refused"]] == [
        "version 2 cannot be read",
        "version 3 cannot be read",
    ]
    (note,) = state["results"][0]["notes"]
    assert note.startswith("not painted: strokes of gone.png")


def test_a_project_does_not_open_other_files(projects, tmp_path):
    """One that somebody has sent names a picture of this machine for its frame."""
    secret = tmp_path / "secret.png"
    cv2.imwrite(str(secret), texture(*SIDES, 0))
    frame = {"id": 0, "name": "a.png", "number": None, "file": str(secret), "width": 96}
    frame |= {"height": 64, "sharpness": 1.0, "bytes": 9, "channels": 3}
    state = STATE | {"order": [0], "pending": [str(secret)], "next_id": 1, "frames": [frame]}
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
