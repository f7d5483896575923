"""The command that serves the page: app.py, and `stackmff app` where it is installed."""

import argparse
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stackmff.fusion.engine_choice import engine_by_options
from stackmff.fusion.options import EngineOptions
from stackmff.options import HelpFormatter, Options, add_options, option, parse, values_of
from stackmff.webapp.guard import is_local
from stackmff.webapp.jobs import WORKERS
from stackmff.webapp.probing import ProbeProcess
from stackmff.webapp.server import find_uvicorn, make_app
from stackmff.webapp.sessions import Sessions, default_projects
from stackmff.webapp.uploads import UploadLimits

SAVE = 0.5  # seconds between two looks for what has to be written
SWEEP = 30.0  # seconds between two searches for sessions that have ended


@dataclass(frozen=True)
class ServerOptions(Options):
    """Where the page is served, and to whom."""

    title = "server"

    host: str = option(
        "127.0.0.1",
        help="address to listen on; any address but the default lets other machines in, without a "
        "password",
    )
    port: int = option(7860, help="port to listen on; 0: any free one", low=0, high=65535)
    names: tuple[str, ...] = option(
        (),
        help="host names under which browsers reach this machine, besides its own name and IP "
        "addresses, as behind a proxy; others are refused, so that no other site can pose as this "
        "page",
        metavar="NAME",
    )
    root: Path | None = option(
        None,
        help="folder whose stacks the page may open, with everything below it (default: none, "
        "frames are uploaded)",
        metavar="DIR",
    )


@dataclass(frozen=True)
class LimitOptions(Options):
    """What one session may take."""

    title = "limits"

    max_upload_gb: float = option(8.0, help="size of all files of one session", above=0)
    max_megapixels: float = option(200.0, help="size of one frame", above=0)
    keep_minutes: float = option(
        60.0,
        help="a session whose page has not been heard from for this long is closed; its project "
        "stays, with --temp_dir it is removed",
        above=0,
    )


@dataclass(frozen=True)
class ProjectOptions(Options):
    """Where the work is kept."""

    title = "projects"

    projects: Path | None = option(
        None,
        help="folder for projects, which keep frames, results and strokes until they are deleted "
        "on the page, on a disk with room for them (default: the user's folder for data)",
        metavar="DIR",
    )
    temp_dir: Path | None = option(
        None,
        help="keep no projects: what a page works on lies in a folder in DIR and is removed when "
        "its session is closed",
        metavar="DIR",
    )

    def contradiction(self) -> str | None:
        """Both folders, or one that does not exist."""
        if self.projects is not None and self.temp_dir is not None:
            return "--projects contradicts --temp_dir: remove one of them"
        if self.temp_dir is not None and not self.temp_dir.is_dir():
            return f"--temp_dir {self.temp_dir} is not a folder: choose an existing one"
        return None


@dataclass(frozen=True)
class AppOptions(Options):
    """All options of the page's server."""

    server: ServerOptions = ServerOptions()
    limits: LimitOptions = LimitOptions()
    work: ProjectOptions = ProjectOptions()
    network: EngineOptions = EngineOptions()

    def contradiction(self) -> str | None:
        """A folder that does not exist."""
        root = self.server.root
        if root is not None and not root.is_dir():
            return f"--root {root} is not a folder: choose an existing one"
        return None


def get_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command; prog: how it was called, None: as the script."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Serve a page for the browser: fuse stacks, compare, retouch, export.",
        formatter_class=HelpFormatter,
    )
    add_options(parser, AppOptions, leave_out=("engine", "precision"))
    return parser


def network_of(options: AppOptions) -> EngineOptions:
    """The network of the page, by paths that hold in the processes of its server."""
    return replace(options.network, model_path=options.network.model_path.resolve())


def make_sessions(options: AppOptions) -> Sessions:
    """The sessions of a server with these options, empty."""
    limits = UploadLimits(
        total_bytes=round(options.limits.max_upload_gb * 1e9),
        frame_pixels=round(options.limits.max_megapixels * 1e6),
    )
    work = options.work
    return Sessions(
        limits,
        options.server.root,
        60 * options.limits.keep_minutes,
        {name: value for name, value in values_of(network_of(options)).items() if value},
        folder=work.temp_dir,
        projects=None if work.temp_dir else work.projects or default_projects(),
        # Other visitors see no projects, unless somebody has said where they are.
        listed=is_local(options.server.host) or work.projects is not None,
    )


def serve(options: AppOptions, sessions: Sessions) -> None:
    """Listen and answer until Ctrl-C."""
    uvicorn = find_uvicorn()
    host = options.server.host
    prober = ProbeProcess(network_of(options))
    WORKERS.prepare()
    app = make_app(sessions, prober, [host, *options.server.names])
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, options.server.port), family=family) as listening:
        port = listening.getsockname()[1]
        address = f"[{host}]" if ":" in host else host
        print(f"the page: http://{address}:{port}   (Ctrl-C ends it)", flush=True)
        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=2, server_header=False
        )
        try:
            uvicorn.Server(config).run([listening])
        finally:
            prober.close()


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Serve the page until Ctrl-C.

    Args:
        argv: the words of the command line; None: those of this process.
        prog: how the command was called; None: as the script.
    Raises:
        StackError: a package is missing, the network cannot be loaded, or the port is in use.
    """
    (options,) = parse(get_parser(prog), argv, AppOptions)
    find_uvicorn()
    engine_by_options(options.network)  # fail now, not later
    host = options.server.host
    if not is_local(host):
        print(
            f"warning: everyone who can reach {host} can use this page and this machine, and there "
            "is no password: do this only in a network that you trust",
            file=sys.stderr,
        )
    sessions, done = make_sessions(options), threading.Event()

    def sweep() -> None:
        while not done.wait(SWEEP):
            sessions.sweep()

    def save() -> None:
        while not done.wait(SAVE):
            sessions.save()

    for work in (sweep, save):
        threading.Thread(target=work, daemon=True).start()
    try:
        serve(options, sessions)
    finally:
        done.set()
        sessions.close()
