"""Options of commands: ranges and help."""

import argparse
import math


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default to a help text that does not give it."""

    def _get_help_string(self, action):
        has_default = "(default" in action.help
        return action.help if has_default else super()._get_help_string(action)


def number(kind, low=None, high=None, above=None, below=None):
    """An argparse type: a finite number within low..high, or beyond the bounds above and below.

    Args:
        kind: int or float.
        low, high, above, below: bounds; None for none.
    Returns:
        A function from a word to a number; it raises argparse.ArgumentTypeError.
    """

    def parse(word):
        try:
            value = kind(word)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{word!r} is no {kind.__name__}") from None
        if not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"{word} must be finite")
        bounds = [
            (low is None or value >= low, f"at least {low}"),
            (high is None or value <= high, f"at most {high}"),
            (above is None or value > above, f"above {above}"),
            (below is None or value < below, f"below {below}"),
        ]
        for holds, sentence in bounds:
            if not holds:
                raise argparse.ArgumentTypeError(f"{word} must be {sentence}")
        return value

    return parse
