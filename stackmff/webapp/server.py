"""What the page in the browser asks for, and the answers."""

import json
import shutil
import socket
import tempfile
from pathlib import Path

from stackmff.errors import KNOWN_FAILURES, StackError, sentence_of
from stackmff.webapp.guard import Guard
from stackmff.webapp.results import LAYERS, SUFFIXES
from stackmff.webapp.uploads import listing, safe_stem

PAGE = Path(__file__).with_name("page")
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
LARGEST_BODY = 4 * 2**20  # bytes of JSON
UNREADABLE = "the page asks for something that cannot be read: load it anew"
KEEP = {"Cache-Control": "private, max-age=3600, immutable"}  # of tiles, which have a version
try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect
    from starlette.responses import FileResponse, Response
    from starlette.routing import Route
except ImportError:  # said in main, so that --help works without them
    Starlette = None


def told(content, status=200, headers=None):
    """An answer in JSON, in ASCII: names of files that are no text hold what UTF-8 cannot say."""
    return Response(json.dumps(content), status, headers, "application/json")


class Page:
    """Answers what the page asks for. A method that is no coroutine runs in a thread.

    Coroutines leave to threads whatever takes a session's lock: strokes are painted under it, and
    the pages of all would wait.

    Args:
        sessions: Sessions; prober: Prober.
    """

    def __init__(self, sessions, prober):
        self.sessions, self.prober = sessions, prober

    def session(self, request):
        """The Session that an address names; LookupError where it has ended."""
        session = self.sessions.get(request.path_params["token"])
        if session is None:
            raise LookupError("this session has ended: load the page anew")
        return session

    def file(self, request):
        name = request.path_params.get("name", "index.html")
        files = {path.name: path for path in PAGE.iterdir() if path.suffix in KINDS}
        if name not in files:
            raise LookupError("there is no such file")
        return Response(files[name].read_bytes(), media_type=KINDS[files[name].suffix])

    def begin(self, request):
        limits = self.sessions.limits
        return told(
            {
                "token": self.sessions.new(),
                "most_bytes": limits.upload,
                "root": self.sessions.root is not None,
            }
        )

    def leave(self, request):
        self.session(request).touch(leaving=True)
        return Response(status_code=204)

    def state(self, request):
        return told(self.session(request).state())

    async def upload(self, request):
        """A file is the body of its request, so that it goes to the disk as it comes."""
        session = self.session(request)
        size = request.headers.get("content-length")
        size = int(size) if size is not None and size.isdecimal() else None
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
        return told({"name": path.name})

    def browse(self, request):
        self.session(request)
        word = request.query_params.get("path", "")
        if self.sessions.root is None:
            raise StackError("no folder of the server is shared: start the page with --root DIR")
        return told(listing(self.sessions.root, word))

    async def open(self, request):
        session, body = self.session(request), await body_of(request)
        await run_in_threadpool(session.open, str(body.get("path", "")))
        return await run_in_threadpool(self.state, request)

    async def arrange(self, request):
        session, body = self.session(request), await body_of(request)
        lists = [body.get("order"), body.get("left_out")]
        if not all(isinstance(one, list) for one in lists):
            raise StackError(UNREADABLE)
        await run_in_threadpool(session.arrange, *lists)
        return await run_in_threadpool(self.state, request)

    def clear(self, request):
        session = self.session(request)
        session.clear()
        return told(session.state())

    def thumb(self, request):
        path = self.session(request).looks / f"{request.path_params['key']}.jpg"
        return FileResponse(path, headers=KEEP) if path.exists() else Response(status_code=404)

    async def fuse(self, request):
        session, body = self.session(request), await body_of(request)
        await run_in_threadpool(session.fuse, body)
        return await run_in_threadpool(self.state, request)

    def cancel(self, request):
        session = self.session(request)
        session.stop_fusing()
        return told(session.state())

    def tile(self, request):
        result, at = self.session(request).ready(), request.path_params
        layer = at["layer"]
        if at["run"] != result.name:
            raise LookupError("there is another picture now")
        if layer not in LAYERS:
            if not layer.isdecimal() or int(layer) >= len(result.names):
                raise LookupError("there is no such frame")
            layer = int(layer)
        if at["level"] > 12:
            raise LookupError("there is no such tile")
        data = result.tile(layer, at["level"], at["column"], at["row"])
        if data is None:
            raise LookupError("there is no such tile")
        return Response(data, media_type="image/jpeg", headers=KEEP)

    def pixel(self, request):
        at = request.path_params
        return told(self.session(request).ready().pixel(at["x"], at["y"]))

    def mixture(self, request):
        result, at = self.session(request).ready(), request.path_params
        result.pixel(at["x"], at["y"])
        return told({"shares": self.prober.mixture(result, at["x"], at["y"])})

    def relief(self, request):
        data = self.session(request).ready().relief()
        return Response(data, media_type="application/octet-stream")

    async def paint(self, request):
        session, body = self.session(request), await body_of(request)
        paint = session.replay if "strokes" in body else session.paint
        boxes = await run_in_threadpool(paint, body)
        return told({"boxes": boxes, "version": session.version})

    def undo(self, request):
        session = self.session(request)
        every = request.query_params.get("all") == "1"
        boxes = session.undo(len(session.ready().strokes) if every else 1)
        return told({"boxes": boxes, "version": session.version})

    def take(self, request):
        """A file to take home, written anew each time and removed when it is sent."""
        session, asked = self.session(request), request.query_params
        result, name = session.ready(whole=True), session.name()
        what = asked.get("what", "picture")
        # In a folder of its own: another of the same name may be asked for meanwhile.
        folder = Path(tempfile.mkdtemp(dir=session.out))
        end = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
        try:
            if what == "picture":
                suffix = SUFFIXES.get(asked.get("format", "png"))
                if suffix is None:
                    raise StackError("that is no format of ours: choose PNG, TIFF or JPEG")
                path = folder / f"{name}_fused{suffix}"
                bits = 16 if asked.get("bits") == "16" else 8
                result.write(path, bits, asked.get("crop") == "1")
            else:
                path = result.write_other(what, folder, name)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return FileResponse(path, filename=path.name, background=end)

    def routes(self):
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
            ("GET", f"{at}/relief", self.relief),
            ("POST", f"{at}/strokes", self.paint),
            ("DELETE", f"{at}/strokes", self.undo),
            ("GET", f"{at}/take", self.take),
        ]
        return [Route(path, endpoint, methods=[method]) for method, path, endpoint in table]


async def body_of(request):
    """The JSON object that a request brings; StackError where it brings none, or too much."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > LARGEST_BODY:
            raise StackError("that is too much at once: paint shorter strokes")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StackError(UNREADABLE) from error
    if not isinstance(body, dict):
        raise StackError(UNREADABLE)
    return body


def refused(request, error):
    """A failure as an answer, without the server's folders."""
    sentence = sentence_of(error)
    session = request.app.state.sessions.known.get(request.path_params.get("token"))
    if session is not None:
        sentence = session.plain(sentence)
    if request.method == "PUT":  # the rest of the file need not come
        return told({"error": sentence}, 413, {"Connection": "close"})
    return told({"error": sentence}, 400)


def missing(request, error):
    return told({"error": str(error).strip("'")}, 404)


def gone(request, error):
    """The browser has hung up: nobody reads this."""
    return Response(status_code=400)


def make_app(sessions, prober, names=()):
    """The application that uvicorn serves; names: of this machine, beside its own."""
    handlers = {kind: refused for kind in KNOWN_FAILURES}
    handlers |= {LookupError: missing, ClientDisconnect: gone}
    app = Starlette(routes=Page(sessions, prober).routes(), exception_handlers=handlers)
    app.state.sessions = sessions
    own = socket.gethostname()
    short = own.partition(".")[0]
    return Guard(app, {"localhost", own, short, f"{short}.local", *names}, told)
