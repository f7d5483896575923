"""Calling a script in the process of its test."""

import make_dataset


def make_quietly(capsys, *words):
    """Call make_dataset.py in this process: (exit status, what it said on both streams)."""
    try:
        status = make_dataset.main([*map(str, words), "--workers", "1"])
    except SystemExit as stop:
        status = stop.code
    said = capsys.readouterr()
    return status, said.out + said.err
