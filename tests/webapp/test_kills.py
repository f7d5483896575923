"""webapp/: a server that is killed while it deletes or writes leaves nothing half or stray.

What a killed server leaves is a copy of its folder as it is at some moment.
"""

import contextlib
import os
import shutil
import threading

import numpy as np
import pytest

from stackmff.files import parse_json, write_json
from stackmff.webapp import other_pictures
from stackmff.webapp.other_pictures import SourcePictures
from stackmff.webapp.sessions import PREFIX, Sessions
from stackmff.webapp.uploads import UploadLimits
from tests.killing import files_below
from tests.shelves import STROKE, finish, run_of


@pytest.fixture
def killed(tmp_path):
    """Makes the sessions of the server that follows one which is killed at this moment."""
    resources = contextlib.ExitStack()

    def follow(name="again"):
        shutil.copytree(tmp_path / "projects", tmp_path / name)
        made = Sessions(UploadLimits(10**8, 10**6), projects=tmp_path / name)
        return resources.enter_context(contextlib.closing(made))

    with resources:
        yield follow


@pytest.fixture
def stack(projects):
    """A stack with two versions, in a project of a server."""
    server = projects()
    session = server.get(server.new())
    made = session.add_stack("beetle")
    for _ in range(2):
        run_of(made)
        finish(made)
    session.save()
    made.session = session
    return made


def keep_files(monkeypatch):
    """From now on folders are not removed: a kill comes before that."""
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)


def test_a_version_is_deleted_whole(stack, killed, monkeypatch):
    with monkeypatch.context() as patch:
        keep_files(patch)
        stack.delete_version(1)
    again = killed().get(stack.session.token).stack(1)
    assert [one.number for one in again.versions] == [2]
    assert not (again.folder / "run-1").exists()


def test_a_stack_is_deleted_whole(stack, killed, monkeypatch):
    with monkeypatch.context() as patch:
        keep_files(patch)
        stack.session.delete_stack(1)
    session = killed().get(stack.session.token)
    assert session.stacks == {} and not (session.folder / "stack-1").exists()


def test_a_project_is_deleted_whole(stack, killed, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        keep_files(patch)
        stack.session.delete()
    assert killed().get(stack.session.token) is None
    assert list((tmp_path / "again").iterdir()) == []


def test_nothing_is_written_into_a_deleted_stack(stack):
    """By the thread that saves, which has begun before."""
    stack.changed()
    stack.session.delete_stack(1)
    stack.save()
    assert not stack.folder.exists()


def test_an_older_state_does_not_replace_a_newer_one(stack):
    """Two threads save; the one that looked first is the last to write."""

    class Late:
        def __enter__(self):
            stack.writing = threading.Lock()
            stack.title = "newer"
            stack.changed()
            stack.save()

        def __exit__(self, *_):
            pass

    stack.title, stack.writing = "older", Late()
    stack.changed()
    stack.save()
    assert parse_json((stack.folder / "stack.json").read_bytes())["title"] == "newer"


def test_a_state_that_was_not_written_is_written_later(stack, monkeypatch):
    def full(*_):
        raise OSError("the disk is full")

    stack.title = "later"
    stack.changed()
    with monkeypatch.context() as patch:
        patch.setattr("stackmff.webapp.shelf.write_json", full)
        with pytest.raises(OSError):
            stack.save()
    stack.save()
    assert parse_json((stack.folder / "stack.json").read_bytes())["title"] == "later"


def test_a_version_that_was_made_before_a_kill_is_completed(stack, killed):
    """Its strokes are those of the version before, once; nothing says that it was not made."""
    for number in (1, 1):
        stack.paint(number, STROKE)
    record = parse_json((stack.folder / "stack.json").read_bytes())
    write_json(stack.folder / "stack.json", record | {"wanted": {}})
    log = stack.shown(2).files.strokes
    shutil.copyfile(stack.shown(1).files.strokes, log)  # one of two: the other was cut
    log.write_bytes(log.read_bytes()[:-20])
    again = killed().get(stack.session.token).stack(1)
    assert again.failure is None
    assert [one["strokes"] for one in again.state()["results"]] == [2, 2]


def test_a_stroke_that_was_undone_before_a_kill_is_redone(stack, killed):
    """Also where no other is painted, so that the picture has no copy to paint on yet."""
    stack.paint(2, STROKE)
    picture = np.array(stack.shown(2).picture)
    stack.undo(2, 1)
    again = killed().get(stack.session.token).stack(1)
    assert len(again.redo(2)) == 1
    assert np.array_equal(again.shown(2).picture, picture)


def test_what_a_kill_leaves_is_removed(stack, projects, killed, tmp_path):
    folder = stack.folder
    for place in ("in/0.png", "thumbs/0.png", "thumbs/0.jpg", "decoded/0.npy"):
        (folder / place).write_text("{}")
    frame = {"id": 0, "name": "0.png", "file": str(folder / "in" / "0.png"), "number": None}
    frame |= {"width": 60, "height": 40, "bytes": 7200, "sharpness": 1.0}
    stack._add_frame(frame)
    stack.changed()
    stack.session.save()
    expected = files_below(tmp_path / "projects")
    empty = tmp_path / "projects" / ("0" * 16)  # a page that was opened, and no more
    write_json(empty / "stack-1" / "stack.json", {"frames": [], "pending": []})
    (empty / "project.json").write_text("{")
    (tmp_path / "projects" / "notes").mkdir()  # of somebody else
    left = [
        stack.session.folder / "exports" / "a" / "0" / "fused.png",
        folder / "arriving" / "half.png",
        folder / "thumbs" / "7.jpg",
        folder / "decoded" / "7.npy",
        folder / "decoded" / ".0.stackmff-host-1.abc.json",
        folder / "aligned-1" / "aligned.json",
        folder / "gone-0a1b2c3d" / "full" / "result.json",
        folder / "run-1" / "full" / "retouched.part",
        folder / "run-1" / "full" / "methods" / "ZMFF.part",
        tmp_path / "projects" / f"{PREFIX}host-1-abc" / "arrives",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    os.utime(left[-1].parent, (0, 0))
    os.utime(left[-1], (0, 0))
    server = killed()
    session = server.get(stack.session.token)
    server.save()
    assert files_below(tmp_path / "again") == expected
    assert (tmp_path / "again" / "notes").is_dir()
    assert len(session.stack(1).versions) == 2


def test_frames_in_register_of_a_run_that_was_cut_are_kept_for_the_next(stack, killed):
    record = parse_json((stack.folder / "stack.json").read_bytes())
    write_json(stack.folder / "stack.json", record | {"wanted": {}, "runs": 3})
    write_json(stack.folder / "aligned-3" / "aligned.json", {})
    again = killed().get(stack.session.token).stack(1)
    assert "was stopped while it fused" in again.failure
    assert (again.folder / "aligned-3").exists()


def test_a_picture_that_strokes_take_is_whole_or_not_there(tmp_path, monkeypatch):
    """Where there are no links it is copied."""
    np.save(tmp_path / "a.npy", np.zeros((4, 4, 3), np.uint16))
    sources = SourcePictures(tmp_path / "sources", (4, 4, 3))

    def no_links(*_):
        raise OSError("no links")

    def cut(source, target):
        target.write_bytes(source.read_bytes()[:20])
        raise KeyboardInterrupt

    monkeypatch.setattr(other_pictures.os, "link", no_links)
    with monkeypatch.context() as patch:
        patch.setattr(other_pictures.shutil, "copyfile", cut)
        with pytest.raises(KeyboardInterrupt):
            sources.bring("version-1", tmp_path / "a.npy")
    assert "version-1" not in sources
    sources.bring("version-1", tmp_path / "a.npy")
    assert sources["version-1"].shape == (4, 4, 3)
    assert [path.name for path in sources.folder.iterdir()] == ["version-1.npy"]
