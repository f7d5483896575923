"""Fuse every focal stack of a data set, or of several; what is done already is not done again.

    python predict_dataset.py --stack_basedir_path data/stacks --output_dir results/stacks

The same command is `stackmff batch` where the package is installed. Its options and the records
that let it resume are in stackmff/fusion/batch.py.
"""

from stackmff.fusion.batch import get_parser, main
from utils import run_main

__all__ = ["get_parser", "main"]

if __name__ == "__main__":
    run_main(main)
