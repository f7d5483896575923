"""evaluation/stages.py: the stages are those of the work and add up to it."""

import threading

import numpy as np

from stackmff.evaluation import stages
from stackmff.evaluation.timed_stacks import Size, write_stack
from stackmff.images.formats import read_picture
from stackmff.images.stack import read_stack


class Clock:
    """A clock that goes on where something is done, from whichever thread, and not by itself."""

    def __init__(self):
        self.now, self.lock = 0.0, threading.Lock()

    def perf_counter(self):
        return self.now

    def pass_by(self, seconds):
        with self.lock:
            self.now += seconds

    def slowed(self, function, seconds):
        """The function, as if it took this long."""

        def slow(*args, **more):
            self.pass_by(seconds)
            return function(*args, **more)

        return slow


class Engine:
    """Takes the mean of the frames in 4 seconds, two tiles at a time.

    It gets ready for the whole in 256 seconds, looks at it in 128 and gets ready for tiles in 8.
    """

    output, tile, samples, most_samples = "weights", 64, 2**23, 2**23
    colour = goes_beyond = False
    overlap = 32
    seconds = 0.0

    def __init__(self, clock):
        self.clock = clock

    def expect(self, *_):
        self.clock.pass_by(256)

    def prepare(self, *_):
        self.clock.pass_by(8)
        return 2

    def for_stack(self, frames, use, levels=None):
        self.clock.pass_by(128)
        with self.clock.lock:
            self.seconds += 100  # of the coarse level, which is not that of the tiles
        return self

    def __call__(self, tiles, chroma=None, place=(0, 0)):
        with self.clock.lock:
            self.seconds += 4
        self.clock.pass_by(4 / 2)  # while another tile has the same seconds
        return np.full(tiles.shape, 1 / tiles.shape[1], np.float32)


def test_stages_are_those_of_the_work(tmp_path, monkeypatch):
    frames = write_stack(tmp_path / "frames", Size(2, 160, 64))
    clock = Clock()
    monkeypatch.setattr(stages, "time", clock)
    for name, seconds in (("read_for", 16), ("fuse_stack", 32), ("write_picture", 64)):
        monkeypatch.setattr(stages, name, clock.slowed(getattr(stages, name), seconds))
    seconds = stages.time_stages(frames, Engine(clock), tmp_path / "fused.png")
    assert list(seconds) == list(stages.STAGES[1:-1])
    tiles = 4
    expected = {"read": 16, "compile": 256 + 8, "coarse": 128, "network": tiles * 4 / 2}
    expected |= {"blend": 32, "write": 64}
    assert seconds == expected
    assert sum(seconds.values()) == clock.now
    stack = read_stack(frames).frames
    fused = read_picture(tmp_path / "fused.png")
    assert np.abs(fused - stack.mean(0)).max() <= 0.51
