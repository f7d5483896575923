"""Training in the process of its test, and what it leaves."""

import os
import signal

import torch

import train
from stackmff.training import optimisation


def without(options, name):
    """The options but for one and its value."""
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
