"""The HTTP server: what the page asks for, and the answers."""

import json
import shutil
import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from stackmff.errors import KNOWN_FAILURES, StackError, sentence_of
from stackmff.files import parse_json
from stackmff.webapp.form import fuse_form
from stackmff.webapp.guard import Guard
from stackmff.webapp.results import LAYERS, SUFFIXES, Layer, Prober
from stackmff.webapp.session import Session
from stackmff.webapp.sessions import Sessions
from stackmff.webapp.uploads import listing, safe_stem

try:
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
KEEP = {"Cache-Control": "private, max-age=3600, immutable"}  # of tiles, whose URLs have a version


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
    """The answers to the page's requests. Methods that are not coroutines run in threads.

    Coroutines leave to threads whatever takes the lock of a session: strokes are painted under it,
    and all other sessions would wait.

    Args:
        sessions: of the server.
        prober: finds the frames that a pixel is mixed of.
    """

    def __init__(self, sessions: Sessions, prober: Prober) -> None:
        self.sessions, self.prober = sessions, prober

    def session(self, request: "Request") -> Session:
        """The session that a URL names; LookupError where it has ended."""
        session = self.sessions.get(request.path_params["token"])
        if session is None:
            raise LookupError("this session has ended: reload the page")
        return session

    def file(self, request: "Request") -> "Response":
        name = request.path_params.get("name", "index.html")
        files = {path.name: path for path in PAGE.iterdir() if path.suffix in KINDS}
        if name not in files:
            raise LookupError("there is no such file")
        return Response(files[name].read_bytes(), media_type=KINDS[files[name].suffix])

    def begin(self, request: "Request") -> "Response":
        shared = self.sessions.shared
        return json_answer(
            {
                "token": self.sessions.new(),
                "most_bytes": shared.limits.total_bytes,
                "root": shared.root is not None,
                "form": fuse_form(),
            }
        )

    def leave(self, request: "Request") -> "Response":
        self.session(request).touch(leaving=True)
        return Response(status_code=204)

    def state(self, request: "Request") -> "Response":
        return json_answer(self.session(request).state())

    async def upload(self, request: "Request") -> "Response":
        """Receive a file: the body of its request is written to the disk as it arrives."""
        session = self.session(request)
        declared = request.headers.get("content-length", "")
        size = int(declared) if declared.isdecimal() else None
        name = request.query_params.get("name", "")
        path = await run_in_threadpool(session.room_for, name, size)
        whole = False
        try:
            with open(path, "wb") as file:
                async for chunk in request.stream():
                    await run_in_threadpool(file.write, chunk)
                whole = file.tell() == size
        finally:
            if not whole:
                await run_in_threadpool(session.drop, path)
        title = request.query_params.get("folder")
        await run_in_threadpool(session.arrived, path, title and safe_stem(title))
        return json_answer({"name": path.name})

    def browse(self, request: "Request") -> "Response":
        self.session(request)
        word = request.query_params.get("path", "")
        root = self.sessions.shared.root
        if root is None:
            raise StackError("the server shares no folder: start it with --root DIR")
        return json_answer(listing(root, word))

    async def open(self, request: "Request") -> "Response":
        session, body = self.session(request), await body_of(request)
        await run_in_threadpool(session.open, str(body.get("path", "")))
        return await run_in_threadpool(self.state, request)

    async def arrange(self, request: "Request") -> "Response":
        session, body = self.session(request), await body_of(request)
        order, excluded = body.get("order"), body.get("excluded")
        if not isinstance(order, list) or not isinstance(excluded, list):
            raise StackError(UNREADABLE)
        await run_in_threadpool(session.arrange, order, excluded)
        return await run_in_threadpool(self.state, request)

    def clear(self, request: "Request") -> "Response":
        session = self.session(request)
        session.clear()
        return json_answer(session.state())

    def thumb(self, request: "Request") -> "Response":
        path = self.session(request).thumbs / f"{request.path_params['key']}.jpg"
        return FileResponse(path, headers=KEEP) if path.exists() else Response(status_code=404)

    async def fuse(self, request: "Request") -> "Response":
        session, body = self.session(request), await body_of(request)
        await run_in_threadpool(session.fuse, body)
        return await run_in_threadpool(self.state, request)

    def cancel(self, request: "Request") -> "Response":
        session = self.session(request)
        session.cancel_fusing()
        return json_answer(session.state())

    def tile(self, request: "Request") -> "Response":
        result, at = self.session(request).ready(), request.path_params
        layer: Layer = at["layer"]
        if at["run"] != result.name:
            raise LookupError("there is a newer result")
        if layer not in LAYERS:
            if not at["layer"].isdecimal() or int(at["layer"]) >= len(result.names):
                raise LookupError("there is no such frame")
            layer = int(at["layer"])
        if at["level"] > 12:
            raise LookupError("there is no such tile")
        data = result.tile(layer, at["level"], at["column"], at["row"])
        if data is None:
            raise LookupError("there is no such tile")
        return Response(data, media_type="image/jpeg", headers=KEEP)

    def pixel(self, request: "Request") -> "Response":
        at = request.path_params
        return json_answer(self.session(request).ready().pixel(at["x"], at["y"]))

    def mixture(self, request: "Request") -> "Response":
        result, at = self.session(request).ready(), request.path_params
        result.pixel(at["x"], at["y"])
        return json_answer({"shares": self.prober.shares(result, at["x"], at["y"])})

    def surface(self, request: "Request") -> "Response":
        data = self.session(request).ready().surface()
        return Response(data, media_type="application/octet-stream")

    async def paint(self, request: "Request") -> "Response":
        session, body = self.session(request), await body_of(request)
        paint = session.replay if "strokes" in body else session.paint
        boxes = await run_in_threadpool(paint, body)
        return json_answer({"boxes": boxes, "version": session.version})

    def undo(self, request: "Request") -> "Response":
        session = self.session(request)
        every = request.query_params.get("all") == "1"
        boxes = session.undo(len(session.ready().strokes) if every else 1)
        return json_answer({"boxes": boxes, "version": session.version})

    def export(self, request: "Request") -> "Response":
        """An exported file. It is written for each request and removed when it has been sent."""
        session, asked = self.session(request), request.query_params
        result, name = session.ready(whole=True), session.name()
        what = asked.get("what", "picture")
        # In a folder of its own: the same name may be requested twice at a time.
        folder = Path(tempfile.mkdtemp(dir=session.out))
        end = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
        try:
            if what == "picture":
                suffix = SUFFIXES.get(asked.get("format", "png"))
                if suffix is None:
                    raise StackError("this format is not supported: choose PNG, TIFF or JPEG")
                path = folder / f"{name}_fused{suffix}"
                bits = 16 if asked.get("bits") == "16" else 8
                result.export_picture(path, bits, asked.get("crop") == "1")
            else:
                path = result.export_other(what, folder, name)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return FileResponse(path, filename=path.name, background=end)

    def routes(self) -> "list[Route]":
        """Which method answers which request."""
        at = "/s/{token}"
        tile = "/tile/{run}/{layer}/{level:int}/{column:int}/{row:int}"
        table = [
            ("GET", "/", self.file),
            ("GET", "/page/{name}", self.file),
            ("POST", "/sessions", self.begin),
            ("POST", f"{at}/leave", self.leave),
            ("GET", f"{at}/state", self.state),
            ("PUT", f"{at}/files", self.upload),
            ("GET", f"{at}/browse", self.browse),
            ("POST", f"{at}/open", self.open),
            ("POST", f"{at}/frames", self.arrange),
            ("DELETE", f"{at}/frames", self.clear),
            ("GET", f"{at}/thumb/{{key:int}}", self.thumb),
            ("POST", f"{at}/work", self.fuse),
            ("DELETE", f"{at}/work", self.cancel),
            ("GET", f"{at}{tile}", self.tile),
            ("GET", f"{at}/pixel/{{x:int}}/{{y:int}}", self.pixel),
            ("GET", f"{at}/mixture/{{x:int}}/{{y:int}}", self.mixture),
            ("GET", f"{at}/surface", self.surface),
            ("POST", f"{at}/strokes", self.paint),
            ("DELETE", f"{at}/strokes", self.undo),
            ("GET", f"{at}/export", self.export),
        ]
        return [Route(path, endpoint, methods=[method]) for method, path, endpoint in table]


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
    sessions: Sessions = request.app.state.sessions
    session = sessions.by_token.get(request.path_params.get("token", ""))
    if session is not None:
        sentence = session.without_paths(sentence)
    if request.method == "PUT":  # the rest of the file need not be sent
        return json_answer({"error": sentence}, 413, {"Connection": "close"})
    return json_answer({"error": sentence}, 400)


def missing(request: "Request", error: Exception) -> "Response":
    """Answer a LookupError."""
    return json_answer({"error": str(error).strip("'")}, 404)


def disconnected(request: "Request", error: Exception) -> "Response":
    """Answer a request whose browser has disconnected; nobody reads it."""
    return Response(status_code=400)


def make_app(sessions: Sessions, prober: Prober, names: Iterable[str] = ()) -> Guard:
    """The ASGI application that uvicorn serves.

    Args:
        sessions, prober: see Endpoints.
        names: host names of this machine, besides its own.
    """
    handlers: dict[Any, Any] = {kind: refused for kind in KNOWN_FAILURES}
    handlers |= {LookupError: missing, ClientDisconnect: disconnected}
    app = Starlette(routes=Endpoints(sessions, prober).routes(), exception_handlers=handlers)
    app.state.sessions = sessions
    own = socket.gethostname()
    short = own.partition(".")[0]
    return Guard(app, {"localhost", own, short, f"{short}.local", *names}, json_answer)
