"""The command `stackmff` of an installed package: fuse, batch, align, app.

Each has the parser and the main function of the script of the same purpose in a checkout:
predict.py, predict_dataset.py, tools/align.py and app.py.
"""

import importlib
import sys
from collections.abc import Sequence

from stackmff.processes import run_main

# {name: (module with main(argv, prog), what it does)}
COMMANDS = {
    "fuse": ("stackmff.fusion.command", "fuse one focal stack"),
    "batch": ("stackmff.fusion.batch", "fuse every stack of a folder"),
    "align": ("stackmff.alignment.command", "align the frames of a stack and write them"),
    "app": ("stackmff.webapp.command", "serve the page in the browser"),
}


def usage() -> str:
    """What there is to call."""
    lines = [f"  {name:<6} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: stackmff COMMAND [options]",
            "",
            "All-in-focus pictures from focal stacks.",
            "",
            *lines,
            "",
            "stackmff COMMAND --help lists the options of a command.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the command that the first word names; the exit status, None for 0."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage(), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    name, *rest = words
    if name == "--version":
        import stackmff

        print(stackmff.__version__)
        return 0
    if name not in COMMANDS:
        print(f"error: {name} is not a command: use {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    command = importlib.import_module(COMMANDS[name][0])
    status: int | None = command.main(rest, prog=f"stackmff {name}")
    return status


def run() -> None:
    """Run the command of this process and end with its exit status."""
    run_main(main, at_once=sys.argv[1:2] == ["fuse"])  # as predict.py does


if __name__ == "__main__":
    run()
