"""A page in the browser: drop the frames, watch, compare, retouch, take the picture home."""

import argparse
import socket
import sys
import threading
from pathlib import Path

from stackmff.errors import StackError
from stackmff.options import number
from stackmff.shipped import WEIGHTS
from stackmff.webapp.guard import is_local
from stackmff.webapp.results import Prober
from stackmff.webapp.server import Starlette, make_app, uvicorn
from stackmff.webapp.sessions import Sessions
from stackmff.webapp.uploads import Limits
from utils import choose_engine, run_main

SWEEP = 30  # seconds between two looks for sessions that have ended


def get_parser():
    """The options of app.py."""
    parser = argparse.ArgumentParser(description=__doc__)
    group = parser.add_argument_group("server")
    group.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; any but this machine's own lets others in, without a password "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--port",
        type=number(int, low=0, high=65535),
        default=7860,
        help="0: any free one (default: %(default)s)",
    )
    group.add_argument(
        "--names",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names under which browsers reach this machine, besides its own and its addresses, "
        "as behind a proxy; others are refused, so that no other site can pose as this page",
    )
    group.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="folder whose stacks the page may open, with all that is below it (default: none, "
        "frames are uploaded)",
    )
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--max_upload_gb",
        type=number(float, above=0),
        default=8.0,
        help="of all files of one page (default: %(default)g)",
    )
    group.add_argument(
        "--max_megapixels",
        type=number(float, above=0),
        default=200.0,
        help="of one frame (default: %(default)g)",
    )
    group.add_argument(
        "--keep_minutes",
        type=number(float, above=0),
        default=60.0,
        help="a page that has not been heard of for so long is gone, and its files go "
        "(default: %(default)g)",
    )
    group.add_argument(
        "--temp_dir",
        type=Path,
        metavar="DIR",
        help="folder for temporary files, on a disk with room for the frames of all who are here "
        "(default: the system's)",
    )
    group = parser.add_argument_group("network")
    group.add_argument(
        "--model_path",
        type=Path,
        default=WEIGHTS,
        help="checkpoint of the network (default: weights/checkpoint.pth beside the program)",
    )
    group.add_argument(
        "--device",
        default="auto",
        help="auto (CUDA, else MPS, else CPU), cpu, mps, cuda or cuda:K (default: %(default)s)",
    )
    return parser


def check_needs(args):
    """StackError where the page cannot be served."""
    if Starlette is None:
        raise StackError(
            "the page needs starlette and uvicorn: pip install -r requirements-app.txt"
        )
    for option, path in (("root", args.root), ("temp_dir", args.temp_dir)):
        if path is not None and not path.is_dir():
            raise StackError(f"--{option} {path} is no folder: give one")


def main(argv=None):
    """Serve the page until Ctrl-C."""
    args = get_parser().parse_args(argv)
    check_needs(args)
    choose_engine(args.model_path, args.device)  # what is wrong with them is said now
    limits = Limits(round(args.max_upload_gb * 1e9), round(args.max_megapixels * 1e6))
    options = ["--model_path", str(args.model_path.resolve()), "--device", args.device]
    sessions = Sessions(limits, args.root, 60 * args.keep_minutes, options, args.temp_dir)
    done = threading.Event()

    def sweep():
        while not done.wait(SWEEP):
            sessions.sweep()

    threading.Thread(target=sweep, daemon=True).start()
    if not is_local(args.host):
        print(
            f"warning: everyone who can reach {args.host} can use this page and this machine, and "
            "there is no password: only in a network that you trust",
            file=sys.stderr,
        )
    app = make_app(sessions, Prober(args.model_path, args.device), [args.host, *args.names])
    try:
        family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
        with socket.create_server((args.host, args.port), family=family) as listening:
            port = listening.getsockname()[1]
            host = f"[{args.host}]" if ":" in args.host else args.host
            print(f"the page: http://{host}:{port}   (Ctrl-C ends it)", flush=True)
            config = uvicorn.Config(
                app, log_level="warning", timeout_graceful_shutdown=2, server_header=False
            )
            uvicorn.Server(config).run([listening])
    finally:
        done.set()
        sessions.close()


if __name__ == "__main__":
    run_main(main)
