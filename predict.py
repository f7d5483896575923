"""Fuse one focal stack: a folder of pictures, focused at different distances, to one sharp.

    python predict.py --stack_path shots/ --output fused.png

The same command is `stackmff fuse` where the package is installed, and stackmff.fuse in Python. Its
options are in stackmff/fusion/options.py, what it does with a stack in stackmff/fusion/pipeline.py.
"""

from stackmff.fusion.command import get_parser, main
from utils import run_main

__all__ = ["get_parser", "main"]

if __name__ == "__main__":
    run_main(main, at_once=True)
