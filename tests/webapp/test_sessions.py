"""webapp/sessions.py, session.py: sessions, their shelves, their end."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile

import predict
from stackmff.errors import StackError
from stackmff.files import claim
from stackmff.processes import this_process
from stackmff.webapp.sessions import PREFIX, remove_abandoned
from tests.shelves import (
    bring,
    bring_drawn,
    exported,
    finish,
    run_of,
    stack_of,
    until,
)


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


@pytest.mark.slow
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


def test_names_of_any_length_find_room(sessions):
    session = sessions.get(sessions.new())
    stack = session.add_stack()
    for letter in ("x", "漢", "😀"):
        assert session.room_for(stack, f"{letter * 250}1.png", 1).name.endswith(f"{letter}1.png")


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
