"""Align the frames of a stack to one of them, in geometry and exposure, and write them.

    python -m tools.align --stack_path shots/ --output_dir aligned/

The same command is `stackmff align` where the package is installed, and stackmff.align in Python.
"""

from stackmff.alignment.command import get_parser, main
from utils import run_main

__all__ = ["get_parser", "main"]

if __name__ == "__main__":
    run_main(main)
