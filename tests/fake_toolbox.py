"""A toolbox of tiny methods, some of which fail, for the tests of what runs methods."""

import os
import signal
import time

import numpy as np

from stackmff.errors import StackError

BROKEN = 200  # value of the first pixel of frames that the bad methods fail on
WEIGHT_OPTIONS = ("weights",)


def is_broken(frames):
    return frames[0, 0, 0, 0] == BROKEN


def first(frames):
    return frames[0].copy()


def chatty(frames):
    print("a line of a library")
    os.write(1, b"and one of its C code\n")
    return first(frames)


def bad(frames):
    if is_broken(frames):
        raise ValueError("no such\nluck")
    return first(frames)


def dying(frames):
    if is_broken(frames):
        os.kill(os.getpid(), signal.SIGKILL)
    return first(frames)


def small(frames):
    return frames[0, 1:]


def hungry(frames):
    """Holds 200 MiB where the stack is a broken one."""
    if is_broken(frames):
        np.ones(200 << 17).sum()
    return first(frames)


def slow(frames):
    """Tells its process to a file, then takes a minute for broken stacks."""
    if is_broken(frames):
        with open(os.environ["SLOW_FILE"], "w") as file:
            file.write(str(os.getpid()))
        time.sleep(600)
    return first(frames)


def stubborn(frames):
    """As slow, and does not end when it is asked to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return slow(frames)


def tell_and_wait(path):
    """Tells its process to a file and takes a minute; does nothing where no file is named."""
    if path:
        with open(path, "w") as file:
            file.write(str(os.getpid()))
        time.sleep(600)


METHODS = {f.__name__: f for f in (first, chatty, bad, dying, small, hungry, slow, stubborn)}
METHODS["absent"] = None


def parse_method(word):
    name, _, rest = word.partition(":")
    if name not in METHODS:
        raise StackError(f"{name!r} is not a method")
    defaults = {"first": {"strength": "1"}, "hungry": {"weights": "none"}}.get(name, {})
    return name, defaults | dict(pair.split("=") for pair in rest.split(",") if pair)


def method_words(words):
    return [word for word in words if parse_method(word)]


def build_method(word, iterative=False):
    name, _ = parse_method(word)
    if METHODS[name] is None:
        raise StackError(f"{name} needs a package")
    return METHODS[name]
