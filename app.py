"""A page in the browser: drop the frames, fuse, compare, retouch, export.

    python app.py

The same command is `stackmff app` where the package is installed. Its parser and options are in
stackmff/webapp/command.py.
"""

from stackmff.webapp.command import get_parser, main
from utils import run_main

__all__ = ["get_parser", "main"]

if __name__ == "__main__":
    run_main(main)
