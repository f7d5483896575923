"""webapp/: what the page looks at does not wait for the disk, or for what is being computed."""

import os
import shutil
import threading

import pytest

from stackmff.errors import StackError
from tests.shelves import STROKE, drawn_session, finish, run_of
from tests.waiting import LATEST


class Gate:
    """Stops the threads that call something, until it is opened.

    Args:
        act: what they call.
    """

    def __init__(self, act):
        self.act, self.reached, self.opened = act, threading.Event(), threading.Event()

    def __call__(self, *args, **kwargs):
        self.reached.set()
        assert self.opened.wait(LATEST)
        return self.act(*args, **kwargs)


@pytest.fixture
def held(monkeypatch):
    """Begins to do something in a thread, until it calls an attribute; the test ends it."""
    gates, threads = [], []

    def begin(owner, name, act, *args):
        gates.append(Gate(getattr(owner, name)))
        monkeypatch.setattr(owner, name, gates[-1])
        threads.append(threading.Thread(target=act, args=args, daemon=True))
        threads[-1].start()
        assert gates[-1].reached.wait(LATEST)

    yield begin
    for gate in gates:
        gate.opened.set()
    for thread in threads:
        thread.join(LATEST)
        assert not thread.is_alive()


def in_time(*acts):
    """What each of the acts returns; each is given up after LATEST seconds."""
    found = []

    def do():
        found.extend(act() for act in acts)

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    thread.join(LATEST / 4)
    assert len(found) == len(acts), "what the page looks at waits"
    return found


def look(stack, run):
    """Click a pixel, and ask for the state, a tile, and the frame that is sharpest somewhere."""
    result = stack.of_run(run)
    found = result.pixel(1, 1), stack.state(), result.tile("fused", 0, 0, 0)
    return *found, result.sharpest_at(1, 1)


@pytest.fixture
def fused(projects):
    """A stack with one version, in a project."""
    server = projects()
    session = server.get(server.new())
    stack = session.add_stack("beetle")
    run_of(stack)
    finish(stack)
    stack.session = session
    return stack


@pytest.mark.parametrize("way", ["paint", "undo", "redo"])
def test_clicks_do_not_wait_for_a_stroke(fused, held, way):
    acts = {"paint": (1, STROKE), "undo": (1, 1), "redo": (1,)}
    for before in {"paint": (), "undo": ("paint",), "redo": ("paint", "undo")}[way]:
        getattr(fused, before)(*acts[before])
    held(os, "fsync", getattr(fused, way), *acts[way])
    in_time(lambda: look(fused, "run-1"))


def test_clicks_do_not_wait_for_a_version_that_is_completed(fused, held):
    fused.paint(1, STROKE)
    run_of(fused)
    held(os, "fsync", fused._on_fusing, {"made": "full"})
    in_time(lambda: look(fused, "run-1"), fused.session.state)
    os.fsync.opened.set()
    with fused.painting:
        assert [one["strokes"] for one in fused.state()["results"]] == [1, 1]
    fused._on_fuse_end(None)


def test_clicks_do_not_wait_for_files_that_are_removed(fused, held):
    run_of(fused)
    held(shutil, "rmtree", fused._on_fuse_end, "it failed")
    assert in_time(lambda: look(fused, "run-1"))[0][1]["failure"] == "it failed"
    run_of(fused)  # the next run has the same number, and its files stay
    shutil.rmtree.opened.set()
    finish(fused)
    assert in_time(lambda: look(fused, "run-2"))


def test_the_page_does_not_wait_for_a_project_that_is_saved(fused, held):
    fused.changed()
    held(os, "fsync", fused.session.save)
    in_time(lambda: look(fused, "run-1"), fused.session.state)


def test_a_version_is_not_opened_twice_while_it_is_painted(fused, held):
    for _ in range(5):
        run_of(fused)
        finish(fused)
    painted = fused.shown(1)
    held(os, "fsync", fused.paint, 1, STROKE)
    for number in range(2, 7):
        in_time(lambda number=number: fused.shown(number))
    assert fused.shown(1) is painted


def test_a_run_that_cannot_be_saved_does_not_begin(sessions, monkeypatch):
    def full(*_):
        raise StackError("the disk is full: make room")

    stack = drawn_session(sessions)
    with monkeypatch.context() as patch:
        patch.setattr(stack, "save", full)
        with pytest.raises(StackError, match="the disk is full"):
            stack.fuse({})
    assert stack.state()["work"] is None and not stack.shared.fuse_queue.waiting
