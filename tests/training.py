"""Training in the process of its test, and what it leaves."""

import os
import signal
from pathlib import Path

import torch

import train
from stackmff.options import build
from stackmff.training import optimisation
from stackmff.training.command_line import parse_options
from stackmff.training.options import TrainOptions


def read(words):
    """The options of a run of these words, as train.py reads them, and its checkpoint or None."""
    return parse_options(train.get_parser(), train.tables(), [*map(str, words)])


def made(**values):
    """The options of a run of these values, unread and unchecked against any folder."""
    return build(TrainOptions, {"exp_name": "x", "datapath": [Path("x")], **values}, strict=True)


def without(options, name):
    """The options except for one and its value."""
    place = options.index(name)
    return options[:place] + options[place + 2 :]


def start(options, name, *more):
    return train.main([*options, "--exp_name", name, *more])


def resume(folder, name, *more):
    return train.main(["--experiments", str(folder), "--exp_name", name, "--resume", *more])


def signal_after(monkeypatch, step, which=signal.SIGINT):
    """Send this process a signal while it takes a step."""
    update = optimisation.Average.update

    def update_and_signal(self, network, now):
        update(self, network, now)
        if now == step:
            os.kill(os.getpid(), which)

    monkeypatch.setattr(optimisation.Average, "update", update_and_signal)


def load(path):
    return torch.load(path, weights_only=True)
