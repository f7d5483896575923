"""app.py and webapp/server.py: the server over HTTP, whole sessions and hostile requests."""

import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import zipfile

import pytest

from app import get_parser, main
from stackmff.errors import StackError
from stackmff.images.formats import READ_SUFFIXES
from stackmff.images.stack_files import VIDEO_SUFFIXES
from stackmff.options import parse
from stackmff.processes import child_environment
from stackmff.webapp.command import AppOptions
from stackmff.webapp.guard import is_local
from stackmff.webapp.server import make_app
from stackmff.webapp.sessions import Sessions
from stackmff.webapp.turns import MOST_WAITING
from stackmff.webapp.uploads import UploadLimits
from tests.drawn import draw_stack, saved, texture
from tests.stand_ins import Engine, brightest
from tests.waiting import LATEST, until

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("starlette")


class Client:
    """Speaks HTTP to a page that is served in a thread of this process."""

    def __init__(self, port, sessions, turns=None, prober=None):
        self.port, self.sessions, self.turns, self.prober = port, sessions, turns, prober

    def ask(self, method, path, body=None, headers=None):
        """(status, JSON or bytes) of an answer."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LATEST)
        data = json.dumps(body) if isinstance(body, dict) else body
        with contextlib.suppress(BrokenPipeError):  # an answer may come before the body has gone
            link.request(method, path, data, headers or {})
        answer = link.getresponse()
        found, self.headers = answer.read(), answer.headers
        link.close()
        kind = answer.headers.get("content-type", "")
        return answer.status, json.loads(found) if kind == "application/json" else found

    def begin(self):
        """The address of a new session."""
        status, told = self.ask("POST", "/sessions")
        assert status == 200
        return f"/s/{told['token']}"

    def stack(self, at=None):
        """The addresses of a session and of a new stack in it."""
        at = at or self.begin()
        status, told = self.ask("POST", f"{at}/stacks", {})
        assert status == 200
        return at, f"{at}/k/{told['id']}"

    def until(self, of, holds):
        """Wait until the state of a stack holds."""
        at, number = of.split("/k/")

        def state():
            found = self.ask("GET", f"{at}/state?stack={number}")[1]["stack"]
            return holds(found) and found

        return until(state, 0.02)

    def exported(self, export):
        """What is told of the export at an address, once it is done."""

        def state():
            told = self.ask("GET", export)[1]
            return told["done"] and told

        return until(state, 0.05)  # what exports has less of the processor than who asks


class InProcess:
    """Finds shares without a process and a network."""

    def __init__(self):
        self.free = threading.Event()  # while it is not set, shares take long
        self.free.set()

    def origin(self, result, x, y):
        self.free.wait(LATEST)
        return result.origin_at(x, y, Engine(brightest))


@contextlib.contextmanager
def served(sessions):
    """A Client of a page that is served in a thread, with a prober that needs no network."""
    prober = InProcess()
    app = make_app(sessions, prober, ["stacks.example"])
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield Client(listening.getsockname()[1], sessions, app.app.state.endpoints.turns, prober)
    server.should_exit = True
    thread.join()
    sessions.close()


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    (folder / "temporary").mkdir()
    (folder / "root" / "stack").mkdir(parents=True)
    (folder / "secret.txt").write_text("secret")
    with contextlib.suppress(OSError):  # not on every file system
        os.mkdir(os.fsencode(folder / "root") + b"/k\xe4fer")
    sessions = Sessions(UploadLimits(10**7, 10**6), folder / "root", folder=folder / "temporary")
    with served(sessions) as found:
        yield found
    assert not list((folder / "temporary").iterdir())


def test_projects_are_listed_exported_opened_and_deleted(tmp_path):
    with served(Sessions(UploadLimits(10**7, 10**6), projects=tmp_path / "projects")) as client:
        assert client.ask("GET", "/info")[1]["lasting"]
        at, of = client.stack()
        picture = saved(texture(48, 64, 0), "PNG")
        assert client.ask("PUT", f"{of}/files?name=a.png&folder=ants", picture)[0] == 200
        client.until(of, lambda state: state["frames"] and not state["examining"])
        client.sessions.save()
        (project,) = client.ask("GET", "/projects")[1]
        assert (project["name"], project["stacks"], f"/s/{project['token']}") == ("ants", 1, at)
        status, told = client.ask("POST", f"{at}/archive")
        assert status == 200
        export = f"{at}/exports/{told['id']}"
        client.exported(export)
        status, archive = client.ask("GET", f"{export}/file")
        assert status == 200 and archive.startswith(b"PK")
        assert "ants.stackmff.zip" in client.headers["content-disposition"]
        status, told = client.ask("PUT", "/projects", archive)
        assert status == 200 and told["token"] != project["token"]
        assert client.ask("GET", f"/s/{told['token']}/state")[1]["stacks"][0]["name"] == "ants"
        status, told = client.ask("PUT", "/projects", b"no archive")
        assert (status, told["error"][:29]) == (413, "this file is not a project: c")
        for one in client.ask("GET", "/projects")[1]:
            assert client.ask("DELETE", f"/s/{one['token']}")[0] == 204
        assert client.ask("GET", "/projects") == (200, [])
        assert client.ask("DELETE", at)[0] == 404
        assert client.ask("GET", "/s/%C3%A4%ED%A0%80/state")[0] == 404
    assert list((tmp_path / "projects").iterdir()) == []


def test_a_server_without_projects_opens_none(client):
    status, told = client.ask("PUT", "/projects", b"PK")
    assert (status, told["error"][:28]) == (413, "this server keeps no project")


def files_of(sessions):
    return [path for path in sessions.folder.rglob("*") if path.is_file()]


def test_the_page_and_its_files_are_served(client):
    for path, start in (
        ("/", b"<!DOCTYPE html>"),
        ("/page/style.css", b":root"),
        ("/page/main.js", b"//"),
    ):
        status, data = client.ask("GET", path)
        assert status == 200
        assert data.startswith(start)
    assert "default-src 'self'" in client.headers["content-security-policy"]
    assert client.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path",
    [
        "/page/..%2fapp.py",
        "/page/../app.py",
        "/page/none.js",
        "/app.py",
        "/page/%2e%2e/app.py",
        f"/page/{'a' * 280}.js",
    ],
)
def test_no_other_file_is_served(client, path):
    assert client.ask("GET", path)[0] == 404


def test_the_page_is_told_what_it_needs(client):
    status, told = client.ask("GET", "/info")
    assert status == 200
    assert [field["label"] for field in told["form"]][:2] == ["Match exposure", "Alignment"]
    assert set(told["suffixes"]) == {*READ_SUFFIXES, *VIDEO_SUFFIXES}
    assert set(told["videos"]) == set(VIDEO_SUFFIXES)
    assert told["root"] and not told["lasting"]
    assert client.ask("GET", "/projects") == (200, [])


def test_a_whole_session(client):
    at, of = client.stack()
    for k, frame in enumerate(draw_stack(texture(48, 64, 0), 3)):
        status, _ = client.ask("PUT", f"{of}/files?name=f{k}.png", saved(frame, "PNG"))
        assert status == 200
    state = client.until(of, lambda state: state["frames"] == 3 and not state["examining"])
    first, *others = [frame["id"] for frame in state["list"]]
    assert client.ask("GET", f"{of}/thumb/{first}")[1].startswith(b"\xff\xd8")
    status, tile = client.ask("GET", f"{of}/tile/frame/{first}/0/0/0")  # before it is fused
    assert status == 200 and tile.startswith(b"\xff\xd8")
    assert client.ask("GET", f"{of}/tile/frame/99/0/0/0")[0] == 404
    assert client.ask("POST", f"{of}/frames", {"order": [*others, first], "excluded": []})[0] == 200
    assert client.ask("POST", f"{of}/work", {"slab": 2})[0] == 200
    state = client.until(of, lambda state: state["work"] is None)
    assert state["failure"] is None
    (result,) = state["results"]
    assert result["names"] == ["f1.png", "f2.png", "f0.png"]
    run, version = result["run"], f"{of}/v/{result['number']}"
    for layer in ("fused", "plain", "focus", "confidence", "2"):
        status, tile = client.ask("GET", f"{of}/tile/{run}/{layer}/0/0/0")
        assert status == 200
        assert tile.startswith(b"RIFF" if layer == "confidence" else b"\xff\xd8")
    for wrong in ("other/fused", "run-99/fused", "run-x/fused", "draft-1/fused", f"{run}/7"):
        assert client.ask("GET", f"{of}/tile/{wrong}/0/0/0")[0] == 404
    assert client.ask("GET", f"{of}/tile/{run}/fused/99/0/0")[0] == 404
    assert client.ask("GET", f"{of}/pixel/{run}/3/4")[1]["frame"] in result["names"]
    assert client.ask("GET", f"{of}/sharpest/{run}/3/4")[1]["index"] in (0, 1, 2)
    shares = client.ask("GET", f"{of}/mixture/{run}/3/4")[1]["origin"]["shares"]
    client.prober.free.clear()  # the next clicks do not wait for what takes long
    place = f"{of}/mixture/{run}/3/4"
    slow = [threading.Thread(target=client.ask, args=("GET", place)) for _ in range(6)]
    for thread in slow:
        thread.start()
    assert client.ask("GET", f"{of}/pixel/{run}/3/4")[0] == 200
    client.prober.free.set()
    stack = client.sessions.get(at.rpartition("/")[2]).stack(int(of.rpartition("/")[2]))
    shown, free = stack.of_run(run), threading.Event()
    shown.tile = lambda *place: free.wait(LATEST) and b""
    tile = f"{of}/tile/{run}/fused/0/0/0"
    slow += [threading.Thread(target=client.ask, args=("GET", tile)) for _ in range(6)]
    for thread in slow[6:]:
        thread.start()
    until(lambda: client.turns.here[at.rpartition("/")[2]] >= 6, 0.002)
    assert client.ask("GET", f"{of}/pixel/{run}/3/4")[0] == 200
    assert client.ask("GET", f"{of}/sharpest/{run}/3/4")[0] == 200
    assert not free.is_set() and client.turns.here[at.rpartition("/")[2]] == 6
    free.set()
    for thread in slow:
        thread.join()
    del shown.tile
    assert sum(share for _, share in shares) == pytest.approx(1, abs=0.01)
    stroke = {"frame": "f0.png", "radius": 5, "softness": 0.5, "points": [[9, 9]]}
    status, told = client.ask("POST", f"{version}/strokes", stroke)
    assert (told["boxes"], told["strokes"]) == ([[4, 15, 4, 15]], 1)
    assert told["stamp"] != result["stamp"]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        strokes = {"width": 64, "height": 48, "strokes": [stroke]}
        made.writestr("strokes.json", json.dumps(strokes))
    where = f"{version}/strokes?name=mine.zip"
    status, told = client.ask("PUT", where, archive.getvalue())
    assert (status, told["boxes"], told["strokes"]) == (200, [[4, 15, 4, 15]], 2)
    status, told = client.ask("PUT", where, b"PK")
    assert (status, told["error"][:43]) == (413, "mine.zip is not an archive of brush strokes")
    assert client.ask("DELETE", f"{version}/strokes")[1]["strokes"] == 1
    for wrong in (
        {"frame": "no.png"},
        {"frame": "\ud800"},
        {"radius": 10**400},
        {"opacity": 0},
        {"opacity": 1.5},
        {"opacity": "x"},
    ):
        status, told = client.ask("POST", f"{version}/strokes", stroke | wrong)
        assert (status, told["error"][:29]) == (400, "this stroke cannot be painted")
    file = {"name": "s.json", "width": 64, "height": 48, "strokes": [stroke, stroke]}
    assert client.ask("POST", f"{version}/strokes", file)[1]["boxes"] == [[4, 15, 4, 15]] * 2
    status, told = client.ask("POST", f"{version}/strokes", file | {"width": 65})
    assert (status, told["error"][:40]) == (400, "s.json is for a picture of 65x48, this o")
    counts = [
        (told["strokes"], told["undone"])
        for _, told in (
            client.ask("DELETE", f"{version}/strokes"),
            client.ask("POST", f"{version}/strokes/redo"),
            client.ask("DELETE", f"{version}/strokes?all=1"),
            client.ask("POST", f"{version}/strokes/redo?all=1"),
            client.ask("DELETE", f"{version}/strokes?all=1"),
            client.ask("POST", f"{version}/strokes/redo"),
        )
    ]
    assert counts == [(2, 1), (3, 0), (0, 3), (3, 0), (0, 3), (1, 2)]
    assert client.ask("GET", f"{of}/surface/{run}")[0] == 200
    session = client.sessions.get(at.rpartition("/")[2])
    place = {"stack": int(of.rpartition("/")[2]), "version": result["number"]}
    for wanted, name in (
        ({"format": "tiff", "bits": 16}, "f2_fused.tif"),
        ({"format": "png"}, "f2_fused.png"),
        ({"format": "jpeg", "quality": 50, "name": "a b"}, "a b.jpg"),
        ({"format": "webp", "area": [0, 9, 0, 9]}, "f2_fused.webp"),
        ({"what": "strokes"}, "f2_strokes.json"),
        ({"what": "focus"}, "f2_focus.png"),
        ({"what": "alignment"}, "f2_alignment.json"),
        ({"what": "slabs"}, "f2_slabs.zip"),
        ({"all": True}, "f2_fused.png"),
    ):
        status, told = client.ask("POST", f"{at}/exports", place | wanted)
        assert status == 200, told
        export = f"{at}/exports/{told['id']}"
        told = client.exported(export)
        assert (told["failure"], told["name"]) == (None, name)
        assert client.ask("GET", f"{export}/file")[0] == 200
        assert name.replace(" ", "%20") in client.headers["content-disposition"].replace(" ", "%20")
    # They go once they are sent.
    until(lambda: not list((session.folder / "exports").iterdir()))
    assert client.ask("GET", f"{export}/file")[0] == 404
    for wrong in (place | {"format": "exe"}, {"what": "picture"}, place | {"stack": "x"}):
        assert client.ask("POST", f"{at}/exports", wrong)[0] == 400
    assert client.ask("POST", f"{at}/exports", place | {"version": 99})[0] == 404
    assert client.ask("DELETE", version)[0] == 204
    assert client.ask("DELETE", version)[0] == 404
    assert client.ask("DELETE", of)[0] == 204
    assert client.ask("GET", f"{at}/state?stack={place['stack']}")[1]["stack"] is None
    assert client.ask("POST", f"{of}/work", {})[0] == 404
    assert client.ask("DELETE", at)[0] == 204
    assert client.ask("GET", f"{at}/state")[0] == 404


def test_an_upload_of_10_gb_is_refused_before_it_starts(client):
    _, of = client.stack()
    before = files_of(client.sessions)
    link = http.client.HTTPConnection("127.0.0.1", client.port, timeout=LATEST)
    link.putrequest("PUT", f"{of}/files?name=a.tif")
    link.putheader("Content-Length", str(10 * 10**9))
    link.endheaders()
    link.send(b"II*\0")
    answer = link.getresponse()
    assert answer.status == 413
    assert "10.0 GB are more than the 10.0 MB" in json.loads(answer.read())["error"]
    link.close()
    assert files_of(client.sessions) == before


def test_a_body_without_a_size_is_refused(client):
    _, of = client.stack()
    status, told = client.ask("PUT", f"{of}/files?name=a.png", iter([b"abc"]))
    assert status == 413
    assert "does not declare the size" in told["error"]


def test_an_interrupted_upload_leaves_nothing(client):
    at, of = client.stack()
    before = files_of(client.sessions)
    link = socket.create_connection(("127.0.0.1", client.port))
    head = f"PUT {of}/files?name=a.png HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n"
    link.sendall(head.encode() + b"half of it")
    until(lambda: files_of(client.sessions) != before)
    link.close()
    until(lambda: files_of(client.sessions) == before)
    assert client.sessions.get(at.rpartition("/")[2]).held == 0


def test_text_named_jpg_is_refused(client):
    _, of = client.stack()
    before = files_of(client.sessions)
    assert client.ask("PUT", f"{of}/files?name=notes.jpg", b"a text")[0] == 200
    state = client.until(of, lambda state: state["refused"] and not state["examining"])
    assert state["refused"] == ["Skipped notes.jpg: it is not an image, or is damaged"]
    assert state["list"] == []
    assert files_of(client.sessions) == before
    status, told = client.ask("PUT", f"{of}/files?name=notes.txt", b"a text")
    assert (status, told["error"][:20]) == (413, "notes.txt is not a s")


@pytest.mark.parametrize(
    "path", ["..", "../secret.txt", "/etc", "stack/../../secret.txt", "%2e%2e"]
)
def test_the_root_is_not_left(client, path):
    at = client.begin()
    for answer in (
        client.ask("GET", f"{at}/browse?path={path}"),
        client.ask("POST", f"{at}/open", {"path": path}),
    ):
        assert answer[0] == 400
        assert "not below the folder" in answer[1]["error"]


def test_the_root_is_listed(client):
    at = client.begin()
    assert client.ask("GET", f"{at}/browse")[1]["folders"][-1] == "stack"
    status, told = client.ask("POST", f"{at}/open", {"path": "stack"})
    assert status == 400
    assert told["error"].startswith("stack holds no pictures")  # and not where it lies


def test_sessions_do_not_see_each_other(client):
    (_, of), other = client.stack(), client.begin()
    picture = saved(texture(48, 64, 0), "PNG")
    assert client.ask("PUT", f"{of}/files?name=a.png", picture)[0] == 200
    client.until(of, lambda state: state["frames"])
    number = of.rpartition("/")[2]
    assert client.ask("GET", f"{other}/state")[1]["stacks"] == []
    assert client.ask("GET", f"{other}/k/{number}/thumb/0")[0] == 404
    status, told = client.ask("GET", "/s/guessed/state")
    assert (status, told["error"]) == (404, "this session has ended: reload the page")


def test_other_sites_are_refused(client):
    for headers in (
        {"Origin": "http://evil.example"},
        {"Host": "evil.example"},
        {"Host": ""},
        {"Host": "["},
        {"Origin": "null"},
        {"Origin": "http://["},
    ):
        status, told = client.ask("POST", "/sessions", headers=headers)
        assert status == 403
        assert told["error"].startswith("this server answers only its own page")
    for host in ("[::1]:80", "192.168.1.9:7860", "STACKS.example", f"{socket.gethostname()}:80"):
        assert client.ask("POST", "/sessions", headers={"Host": host})[0] == 200
    own = {"Origin": f"http://localhost:{client.port}", "Host": f"localhost:{client.port}"}
    assert client.ask("POST", "/sessions", headers=own)[0] == 200


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b"\xff", b"[" * 200_000])
def test_invalid_json_is_refused(client, body):
    at, of = client.stack()
    for path in (f"{of}/work", f"{of}/frames", f"{at}/open", f"{of}/v/1/strokes", f"{at}/exports"):
        status, told = client.ask("POST", path, body)
        assert status == 400
        assert "reload the page" in told["error"]


@pytest.mark.parametrize(
    "path, body",
    [
        ("frames", {"order": 5, "excluded": []}),
        ("frames", {"order": ["a", 1], "excluded": []}),
        ("frames", {"order": [], "excluded": [[1]]}),
        ("frames", {"order": []}),
        ("open", {"path": "\ud800"}),
        ("v/1/strokes", {"strokes": 5}),
    ],
)
def test_invalid_values_are_refused(client, path, body):
    at, of = client.stack()
    status, told = client.ask("POST", f"{at if path == 'open' else of}/{path}", body)
    assert status == 400
    assert told["error"]


@pytest.mark.parametrize(
    "path",
    [
        "{of}/pixel/run-1/{}/1",
        "{of}/thumb/{}",
        "{of}/tile/run-1/{}/1/1/1",
        "{of}/tile/frame/{}/1/1/1",
        "{of}/tile/run-{}/fused/1/1/1",
        "{at}/k/{}/thumb/1",
    ],
)
def test_numbers_of_any_length_are_answered(client, path):
    at, of = client.stack()
    for digits in (5000, 200, 15):
        assert client.ask("GET", path.format("9" * digits, at=at, of=of))[0] == 404
    assert client.ask("GET", f"{at}/state?stack={'9' * 5000}&seen=x")[0] == 200


def test_a_name_is_not_changed(client):
    _, of = client.stack()
    status, told = client.ask("PUT", f"{of}/files?name=a%2541%2B.png", b"x")
    assert (status, told["name"]) == (200, "a%41+.png")


def test_names_that_are_not_valid_text_are_listed(client):
    folders = [
        name for name in os.listdir(os.fsencode(client.sessions.shared.root)) if b"\xe4" in name
    ]
    if not folders:
        pytest.skip("this file system has no such names")
    found = client.ask("GET", f"{client.begin()}/browse")[1]["folders"]
    assert found == ["k\udce4fer", "stack"]


def test_a_blocked_session_does_not_block_the_others(client):
    """What takes a session's lock leaves the loop that answers all to the others."""
    (at, of), other = client.stack(), client.begin()
    session = client.sessions.get(at.rpartition("/")[2])
    stack = session.stack(int(of.rpartition("/")[2]))
    # Far more than the server has threads: each session has turns of its own.
    asking = [
        threading.Thread(target=client.ask, args=("POST", f"{of}/frames", body))
        for body in [{"order": [], "excluded": []}] * (MOST_WAITING + 20)
    ]
    with stack.lock:
        for thread in asking:
            thread.start()
        until(lambda: client.turns.here[at.rpartition("/")[2]] >= MOST_WAITING)
        assert client.ask("GET", f"{other}/state")[0] == 200
        status, told = client.ask("GET", f"{at}/state")
        assert (status, told["error"][:18]) == (400, "the server is busy")
    for thread in asking:
        thread.join()
    assert client.ask("GET", f"{at}/state")[0] == 200


def test_a_huge_body_is_refused(client):
    status, told = client.ask("POST", f"{client.stack()[1]}/v/1/strokes", b"[" * (5 * 2**20))
    assert (status, told["error"][:25]) == (400, "this request is too large")


def test_only_loopback_is_local():
    assert all(is_local(host) for host in ("127.0.0.1", "localhost", "::1", "127.1.2.3"))
    assert not any(is_local(host) for host in ("0.0.0.0", "192.168.1.2", "::", "example.org"))


def test_wrong_options_are_refused(tmp_path, capsys):
    for words, sentence in (
        (["--root", str(tmp_path / "none")], "is not a folder: choose an existing one"),
        (["--port", "70000"], "70000 must be at most 65535"),
        (["--max_upload_gb", "0"], "0 must be above 0"),
        (["--keep_minutes", "-1"], "-1 must be above 0"),
        (["--temp_dir", str(tmp_path / "none")], "is not a folder: choose an existing one"),
        (["--temp_dir", str(tmp_path), "--projects", "x"], "--projects contradicts --temp_dir"),
    ):
        with pytest.raises(SystemExit):
            parse(get_parser(), words, AppOptions)
        assert sentence in capsys.readouterr().err


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(StackError, match=r'pip install "stackmff\[app\]"'):
        main([])


def test_the_page_is_served_from_any_folder(tmp_path):
    """By a process of the package alone, which finds its files and its worker."""
    code = "from stackmff.webapp.command import main; main(['--port', '0', '--temp_dir', '.'])"
    command = [sys.executable, "-P", "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=child_environment(), **pipes) as process:
        try:
            address = process.stdout.readline().split()[2]
            client = Client(int(address.rpartition(":")[2]), None)
            _, of = client.stack()
            for k, frame in enumerate(draw_stack(texture(48, 64, 0), 3)):
                client.ask("PUT", f"{of}/files?name=f{k}.png", saved(frame, "PNG"))
            client.until(of, lambda state: state["frames"] == 3 and not state["examining"])
            assert client.ask("GET", "/page/options.js")[0] == 200
            assert client.ask("POST", f"{of}/work", {"align": "off"})[0] == 200
            state = client.until(of, lambda state: state["work"] is None)
            assert state["failure"] is None and state["results"][0]["names"][0] == "f0.png"
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()
    assert not list(tmp_path.iterdir())
