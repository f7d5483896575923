"""Sessions, stacks and results for the tests of the page, and what a page does with them."""

import json
import threading
import zipfile

import cv2
import numpy as np

from stackmff.files import write_json
from stackmff.webapp.jobs import FuseSpec
from stackmff.webapp.work_plan import WorkPlan, stages_of
from tests.drawn import draw_stack, texture
from tests.waiting import LATEST, until

SIDES = (64, 96)
STROKE = {"frame": "1.png", "radius": 4, "softness": 0, "points": [[20, 20]]}
PROJECT = json.dumps({"token": "x", "name": "n", "made": 1, "used": 1, "stacks": 1})


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


class FakeJob:
    """Stands in for a WorkerJob: sends the messages it is given, and waits to be stopped."""

    def __init__(self, spec, on_message, on_end, messages=()):
        self.spec, self.messages = spec, messages
        self.on_message, self.on_end = on_message, on_end
        self.cancelled, self.free = False, threading.Event()

    def run(self):
        for message in self.messages:
            self.on_message(message)
        self.free.wait(LATEST)
        return "" if self.cancelled else None

    def stop(self):
        self.cancelled = True
        self.free.set()


def drawn_session(sessions, count=3, sides=(64, 96)):
    """A stack with frames that were never examined."""
    session = sessions.get(sessions.new()).add_stack()
    for k in range(count):
        frame = {"id": k, "name": f"{k}.png", "number": None, "file": f"{k}.png", "bytes": 1}
        frame |= {"width": sides[1], "height": sides[0], "sharpness": k + 1.0}
        session._on_examined({"frame": frame})
    return session


def archive_of(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path
