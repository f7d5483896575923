"""The HTTP server: what the page asks for, and the answers."""

import asyncio
import contextlib
import inspect
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from stackmff.errors import KNOWN_FAILURES, StackError, sentence_of
from stackmff.files import parse_json
from stackmff.images.groups import CARD_FOLDER
from stackmff.images.stack_files import VIDEO_SUFFIXES
from stackmff.webapp.comparisons import offered_methods
from stackmff.webapp.form import fuse_form
from stackmff.webapp.guard import Guard
from stackmff.webapp.probing import Prober
from stackmff.webapp.results import MOST_LEVEL, TALLEST, TILE
from stackmff.webapp.session import Session
from stackmff.webapp.sessions import Sessions
from stackmff.webapp.shelf import ShelfStack
from stackmff.webapp.tiles import Layer
from stackmff.webapp.turns import Turns
from stackmff.webapp.uploads import SUFFIXES, listing, safe_stem

try:
    import anyio.to_thread
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect
    from starlette.responses import FileResponse, Response
    from starlette.routing import Route
except ImportError:  # reported by find_uvicorn, so that --help works without them
    pass
if TYPE_CHECKING:
    from starlette.requests import Request

PAGE = Path(__file__).with_name("page")
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
LARGEST_BODY = 4 * 2**20  # bytes of JSON
UNREADABLE = "the server cannot read this request: reload the page"
KEEP = {"Cache-Control": "private, max-age=3600, immutable"}  # of tiles, whose URLs have a stamp
THREADS = 128  # for all requests


def find_uvicorn() -> ModuleType:
    """The module that serves; StackError where it or starlette is not installed."""
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise StackError(
            'the page needs starlette and uvicorn: pip install "stackmff[app]"'
        ) from error
    return uvicorn


def json_answer(
    content: Any, status: int = 200, headers: dict[str, str] | None = None
) -> "Response":
    """An answer in JSON, in ASCII: file names that are not valid text have no UTF-8."""
    return Response(json.dumps(content), status, headers, "application/json")


class Endpoints:
    """The answers to the page's requests.

    Methods that take a session or a stack, and the body of the request where they have a third
    argument, run in threads, in the turn of their session.

    Args:
        sessions: of the server.
        prober: finds the frames that a pixel is mixed of.
    """

    def __init__(self, sessions: Sessions, prober: Prober) -> None:
        self.sessions, self.prober = sessions, prober
        self.turns = Turns()
        # A click waits neither for tiles, of which a large result needs many at once, nor for what
        # the network tells of a pixel, which takes seconds.
        self.clicking, self.probing = Turns(), Turns(1)

    def session(self, request: "Request") -> Session:
        """The session that a URL names; LookupError where it has ended."""
        session = self.sessions.get(request.path_params["token"])
        if session is None:
            raise LookupError("this session has ended: reload the page")
        return session

    def of_session(self, answer: Callable[..., "Response"]) -> Callable[..., Awaitable["Response"]]:
        """The endpoint of a method that takes the request and its session."""
        return self._in_turn(answer, self.session)

    def of_stack(
        self, answer: Callable[..., "Response"], turns: Turns | None = None
    ) -> Callable[..., Awaitable["Response"]]:
        """The endpoint of a method that takes the request and the stack that its URL names; turns:
        that its requests take, None: those of all."""

        def stack(request: "Request") -> ShelfStack:
            return self.session(request).stack(request.path_params["stack"])

        return self._in_turn(answer, stack, turns)

    def _in_turn(
        self,
        answer: Callable[..., "Response"],
        find: Callable[["Request"], Any],
        turns: Turns | None = None,
    ) -> Callable[..., Awaitable["Response"]]:
        has_body = len(inspect.signature(answer).parameters) == 3

        def work(request: "Request", more: list[Any]) -> "Response":
            return answer(request, find(request), *more)

        async def endpoint(request: "Request") -> "Response":
            more = [await body_of(request)] if has_body else []
            async with (turns or self.turns).turn(request.path_params["token"]):
                try:
                    return await run_in_threadpool(work, request, more)
                except asyncio.CancelledError:  # the server ends, and waits no longer
                    return Response(status_code=503)

        return endpoint

    def file(self, request: "Request") -> "Response":
        name = request.path_params.get("name", "index.html")
        files = {path.name: path for path in PAGE.iterdir() if path.suffix in KINDS}
        if name not in files:
            raise LookupError("there is no such file")
        return Response(files[name].read_bytes(), media_type=KINDS[files[name].suffix])

    # Sessions

    def info(self, request: "Request") -> "Response":
        shared = self.sessions.shared
        return json_answer(
            {
                "most_bytes": shared.limits.total_bytes,
                "root": shared.root is not None,
                "lasting": self.sessions.lasting,
                "form": fuse_form(),
                "methods": offered_methods(),
                "suffixes": SUFFIXES,
                "videos": VIDEO_SUFFIXES,
                "card": CARD_FOLDER.pattern,
                "tile": TILE,
                "tallest": TALLEST,
            }
        )

    def projects(self, request: "Request") -> "Response":
        return json_answer(self.sessions.listing())

    def begin(self, request: "Request") -> "Response":
        return json_answer({"token": self.sessions.new()})

    async def add_project(self, request: "Request") -> "Response":
        """Receive a project that was exported as one file."""
        path = await run_in_threadpool(self.sessions.room_for_project, size_of(request))
        await receive(request, path, discard)
        token = await run_in_threadpool(self.sessions.add_project, path)
        return json_answer({"token": token})

    def export_project(self, request: "Request", session: Session) -> "Response":
        return json_answer({"id": session.export_project().number})

    def delete_project(self, request: "Request") -> "Response":
        self.sessions.delete(request.path_params["token"])
        return Response(status_code=204)

    def state(self, request: "Request", session: Session) -> "Response":
        asked = request.query_params
        number, seen = (number_in(asked.get(name)) for name in ("stack", "seen"))
        return json_answer(session.state(number, seen))

    def browse(self, request: "Request", session: Session) -> "Response":
        word = request.query_params.get("path", "")
        root = self.sessions.shared.root
        if root is None:
            raise StackError("the server shares no folder: start it with --root DIR")
        return json_answer(listing(root, word))

    def open(self, request: "Request", session: Session, body: dict[str, Any]) -> "Response":
        if body.get("all") is True:
            session.finder.find_below(str(body.get("path", "")))
            return json_answer({"id": None})
        return json_answer({"id": session.open(str(body.get("path", ""))).number})

    def example(self, request: "Request", session: Session) -> "Response":
        return json_answer({"id": session.add_example().number})

    def add_stack(self, request: "Request", session: Session, body: dict[str, Any]) -> "Response":
        title = body.get("title")
        stack = session.add_stack(safe_stem(str(title)) if title else None)
        return json_answer({"id": stack.number})

    def fuse_all(self, request: "Request", session: Session, body: dict[str, Any]) -> "Response":
        return json_answer({"refused": session.fuse_all(body)})

    def split_stack(self, request: "Request", session: Session) -> "Response":
        session.finder.split(session.stack(request.path_params["stack"]))
        return json_answer({})

    def delete_stack(self, request: "Request", session: Session) -> "Response":
        session.delete_stack(request.path_params["stack"])
        return Response(status_code=204)

    # Frames

    async def upload(self, request: "Request") -> "Response":
        """Receive a file: the body of its request is written to the disk as it arrives."""
        session = await run_in_threadpool(self.session, request)
        stack = session.stack(request.path_params["stack"])
        name = request.query_params.get("name", "")
        path = await run_in_threadpool(session.room_for, stack, name, size_of(request))
        await receive(request, path, stack.drop)
        title = request.query_params.get("folder")
        await run_in_threadpool(stack.arrived, path, title and safe_stem(title))
        return json_answer({"name": path.name})

    def arrange(self, request: "Request", stack: ShelfStack, body: dict[str, Any]) -> "Response":
        order, excluded = body.get("order"), body.get("excluded")
        if not isinstance(order, list) or not isinstance(excluded, list):
            raise StackError(UNREADABLE)
        stack.arrange(order, excluded)
        return json_answer({})

    def thumb(self, request: "Request", stack: ShelfStack) -> "Response":
        path = stack.thumbs / f"{request.path_params['key']}.jpg"
        return FileResponse(path, headers=KEEP) if path.exists() else Response(status_code=404)

    # Work

    def fuse(self, request: "Request", stack: ShelfStack, body: dict[str, Any]) -> "Response":
        stack.fuse(body)
        return json_answer({})

    def cancel(self, request: "Request", stack: ShelfStack) -> "Response":
        stack.cancel_fusing()
        return json_answer({})

    # Results

    def tile(self, request: "Request", stack: ShelfStack) -> "Response":
        at = request.path_params
        run, word, place = at["run"], at["layer"], (at["level"], at["column"], at["row"])
        data = None
        if at["level"] > MOST_LEVEL:
            raise LookupError("there is no such tile")
        if run == "frame":
            data = stack.frame_picture(index_in(word)).tile(*place)
        else:
            result = stack.of_run(run)
            layer: Layer = word if result.has_layer(word) else index_in(word, len(result.names))
            data = result.tile(layer, *place)
        if data is None:
            raise LookupError("there is no such tile")
        kind = "image/webp" if word == "confidence" else "image/jpeg"
        return Response(data, media_type=kind, headers=KEEP)

    def pixel(self, request: "Request", stack: ShelfStack) -> "Response":
        at = request.path_params
        return json_answer(stack.of_run(at["run"]).pixel(at["x"], at["y"]))

    def mixture(self, request: "Request", stack: ShelfStack) -> "Response":
        at = request.path_params
        result = stack.of_run(at["run"])
        result.own_place(at["x"], at["y"])
        origin = self.prober.origin(result, at["x"], at["y"])
        return json_answer({"origin": origin and origin._asdict()})

    def sharpest(self, request: "Request", stack: ShelfStack) -> "Response":
        at = request.path_params
        return json_answer({"index": stack.of_run(at["run"]).sharpest_at(at["x"], at["y"])})

    def surface(self, request: "Request", stack: ShelfStack) -> "Response":
        data = stack.of_run(request.path_params["run"]).surface()
        return Response(data, media_type="application/octet-stream")

    def delete_version(self, request: "Request", stack: ShelfStack) -> "Response":
        stack.delete_version(request.path_params["version"])
        return Response(status_code=204)

    def fuse_by_method(self, request: "Request", stack: ShelfStack) -> "Response":
        stack.fuse_by_method(request.path_params["version"], request.path_params["method"])
        return json_answer({})

    def cancel_method(self, request: "Request", stack: ShelfStack) -> "Response":
        stack.cancel_method(request.path_params["version"], request.path_params["method"])
        return json_answer({})

    def paint(self, request: "Request", stack: ShelfStack, body: dict[str, Any]) -> "Response":
        number = request.path_params["version"]
        boxes = (stack.replay if "strokes" in body else stack.paint)(number, body)
        return self._painted(stack, number, boxes)

    async def paint_archive(self, request: "Request") -> "Response":
        """Receive an archive of strokes with the pictures that they take, and paint them."""
        session = await run_in_threadpool(self.session, request)
        stack, number = session.stack(request.path_params["stack"]), request.path_params["version"]
        name = request.query_params.get("name", "")
        path = await run_in_threadpool(session.room_for_strokes, stack, name, size_of(request))
        await receive(request, path, discard)
        boxes = await run_in_threadpool(stack.replay_archive, number, path)
        return await run_in_threadpool(self._painted, stack, number, boxes)

    def undo(self, request: "Request", stack: ShelfStack) -> "Response":
        number = request.path_params["version"]
        every = request.query_params.get("all") == "1"
        count = len(stack.shown(number).strokes) if every else 1
        return self._painted(stack, number, stack.undo(number, count))

    def redo(self, request: "Request", stack: ShelfStack) -> "Response":
        number = request.path_params["version"]
        every = request.query_params.get("all") == "1"
        count = len(stack.shown(number).undone) if every else 1
        return self._painted(stack, number, stack.redo(number, count))

    def _painted(self, stack: ShelfStack, number: int, boxes: list[Any]) -> "Response":
        return json_answer({"boxes": boxes, **stack.painted_now(number)})

    # Exports

    def export(self, request: "Request", session: Session, body: dict[str, Any]) -> "Response":
        """Begin to write a file: of a version of a stack, or of the last ones of all stacks."""
        if body.get("all") is True:
            stacks = [one for one in session.stacks.values() if one.versions]
            wanted = [(one, one.versions[-1].number) for one in stacks]
        else:
            stack, version = body.get("stack"), body.get("version")
            if type(stack) is not int or type(version) is not int:
                raise StackError(UNREADABLE)
            wanted = [(session.stack(stack), version)]
        return json_answer({"id": session.export(wanted, body).number})

    def export_state(self, request: "Request", session: Session) -> "Response":
        return json_answer(self._export_of(request, session).state())

    def export_file(self, request: "Request", session: Session) -> "Response":
        """An exported file, which is removed when it has been sent."""
        export = self._export_of(request, session)
        if export.file is None:
            raise LookupError("this file is not ready")
        end = BackgroundTask(session.forget_export, export)
        return FileResponse(export.file, filename=export.file.name, background=end)

    def _export_of(self, request: "Request", session: Session) -> Any:
        export = session.exports.get(request.path_params["export"])
        if export is None:
            raise LookupError(
                "this file was downloaded, or nobody fetched it in time: export it again"
            )
        return export

    def routes(self) -> "list[Route]":
        """Which method answers which request."""
        at = "/s/{token}"
        of = f"{at}/k/{{stack:int}}"
        place = "{run}/{x:int}/{y:int}"
        tile = f"{of}/tile/{{run}}/{{layer}}/{{level:int}}/{{column:int}}/{{row:int}}"
        strokes = f"{of}/v/{{version:int}}/strokes"
        method = f"{of}/v/{{version:int}}/methods/{{method}}"
        session, stack = self.of_session, self.of_stack
        table: list[tuple[str, str, Any]] = [
            ("GET", "/", self.file),
            ("GET", "/page/{name}", self.file),
            ("GET", "/info", self.info),
            ("GET", "/projects", self.projects),
            ("PUT", "/projects", self.add_project),
            ("POST", "/sessions", self.begin),
            ("DELETE", at, self.delete_project),
            ("GET", f"{at}/state", session(self.state)),
            ("GET", f"{at}/browse", session(self.browse)),
            ("POST", f"{at}/open", session(self.open)),
            ("POST", f"{at}/example", session(self.example)),
            ("POST", f"{at}/stacks", session(self.add_stack)),
            ("POST", f"{at}/work", session(self.fuse_all)),
            ("DELETE", of, session(self.delete_stack)),
            ("POST", f"{of}/split", session(self.split_stack)),
            ("PUT", f"{of}/files", self.upload),
            ("POST", f"{of}/frames", stack(self.arrange)),
            ("GET", f"{of}/thumb/{{key:int}}", stack(self.thumb)),
            ("POST", f"{of}/work", stack(self.fuse)),
            ("DELETE", f"{of}/work", stack(self.cancel)),
            ("GET", tile, stack(self.tile)),
            ("GET", f"{of}/pixel/{place}", stack(self.pixel, self.clicking)),
            ("GET", f"{of}/mixture/{place}", stack(self.mixture, self.probing)),
            ("GET", f"{of}/sharpest/{place}", stack(self.sharpest, self.clicking)),
            ("GET", f"{of}/surface/{{run}}", stack(self.surface)),
            ("DELETE", f"{of}/v/{{version:int}}", stack(self.delete_version)),
            ("POST", method, stack(self.fuse_by_method)),
            ("DELETE", method, stack(self.cancel_method)),
            ("POST", strokes, stack(self.paint)),
            ("PUT", strokes, self.paint_archive),
            ("DELETE", strokes, stack(self.undo)),
            ("POST", f"{strokes}/redo", stack(self.redo)),
            ("POST", f"{at}/archive", session(self.export_project)),
            ("POST", f"{at}/exports", session(self.export)),
            ("GET", f"{at}/exports/{{export}}", session(self.export_state)),
            ("GET", f"{at}/exports/{{export}}/file", session(self.export_file)),
        ]
        return [Route(path, endpoint, methods=[method]) for method, path, endpoint in table]


def number_in(word: str | None) -> int | None:
    """A number of a query; None where it is not one."""
    return int(word) if word is not None and word.isdecimal() and len(word) < 16 else None


def index_in(word: str, count: int | None = None) -> int:
    """An index of an address, below `count` if that is given; LookupError where it is not one."""
    found = number_in(word)
    if found is None or (count is not None and found >= count):
        raise LookupError("there is no such frame")
    return found


def size_of(request: "Request") -> int | None:
    """Bytes of the body of a request, as it declares them; None where it does not."""
    return number_in(request.headers.get("content-length"))


def discard(path: Path) -> None:
    """Remove a file that did not arrive whole."""
    path.unlink(missing_ok=True)


async def receive(request: "Request", path: Path, drop: Callable[[Path], None]) -> None:
    """Write the body of a request to a file as it arrives; drop it where it does not come whole."""
    whole = False
    try:
        with open(path, "wb") as file:
            async for chunk in request.stream():
                await run_in_threadpool(file.write, chunk)
            whole = file.tell() == size_of(request)
    finally:
        if not whole:
            await run_in_threadpool(drop, path)


async def body_of(request: "Request") -> dict[str, Any]:
    """The JSON object in the body of a request; StackError where there is none, or a huge one."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > LARGEST_BODY:
            raise StackError("this request is too large: paint shorter strokes")
    try:
        body = parse_json(data)
    except ValueError as error:
        raise StackError(UNREADABLE) from error
    if not isinstance(body, dict):
        raise StackError(UNREADABLE)
    return body


def refused(request: "Request", error: Exception) -> "Response":
    """Answer a known failure with its sentence, without the folders of the server."""
    sentence = sentence_of(error)
    endpoints: Endpoints = request.app.state.endpoints
    session = endpoints.sessions.by_token.get(request.path_params.get("token", ""))
    if session is not None:
        sentence = session.on_page(sentence)
    if request.method == "PUT":  # the rest of the file need not be sent
        return json_answer({"error": sentence}, 413, {"Connection": "close"})
    return json_answer({"error": sentence}, 400)


def missing(request: "Request", error: Exception) -> "Response":
    """Answer a LookupError."""
    return json_answer({"error": str(error).strip("'")}, 404)


def disconnected(request: "Request", error: Exception) -> "Response":
    """Answer a request whose browser has disconnected; nobody reads it."""
    return Response(status_code=400)


@contextlib.asynccontextmanager
async def with_threads(app: Any) -> AsyncIterator[None]:
    """Give the server THREADS threads."""
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield


def make_app(sessions: Sessions, prober: Prober, names: Iterable[str] = ()) -> Guard:
    """The ASGI application that uvicorn serves.

    Args:
        sessions, prober: see Endpoints.
        names: host names of this machine, besides its own.
    """
    handlers: dict[Any, Any] = {kind: refused for kind in KNOWN_FAILURES}
    handlers |= {LookupError: missing, ClientDisconnect: disconnected}
    endpoints = Endpoints(sessions, prober)
    app = Starlette(
        routes=endpoints.routes(),
        exception_handlers=handlers,
        lifespan=with_threads,
    )
    app.state.endpoints = endpoints
    own = socket.gethostname()
    short = own.partition(".")[0]
    return Guard(app, {"localhost", own, short, f"{short}.local", *names}, json_answer)
