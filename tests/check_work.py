"""Minutes of work on the page, the server killed at random moments: only the last second is lost.

Not collected by pytest, since it takes minutes:

    .venv/bin/python -m tests.check_work                  # 30 kills in ten minutes of work
    .venv/bin/python -m tests.check_work --minutes 20 --kills 250 --first_process --log work.jsonl

A visitor uploads stacks, arranges and excludes frames, fuses, also by a method, paints, undoes,
redoes, exports, and deletes versions, stacks and copies of the project, at random, over HTTP as the
page does. The server is killed by SIGKILL, also while it starts, and another one serves the same
projects. Then all that was there a second before the kill must be there, whole, each picture must
look as it did, and no file may be there that belongs to nothing. With --log, kills add up.
"""

import argparse
import http.client
import json
import math
import random
import re
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import cv2

from stackmff.errors import StackError
from tests.drawn import draw_stack, saved, texture
from tests.killing import Program, files_below, known_of, note, read
from tests.visit import must

MAY_BE_LOST = 1.0  # seconds before a kill
SIDES = (96, 144)
METHOD = "LP"  # of the toolbox, quick
ADDRESS = re.compile(r"http://(\S+)")
PARTIAL = re.compile(r"\.part$|/\.")  # a file that is being written
MOST_STACKS, MOST_VERSIONS = 4, 3
LATEST = 300.0  # seconds that anything may take


# What an action may change in its stack while it is under way.
MAY_CHANGE = {
    "upload": ("frames", "order"),
    "arrange": ("order",),
    "fuse": ("versions", "order"),
    "delete version": ("versions",),
}
PAINTING = ("paint", "undo", "redo")


class Gone(Exception):
    """The server was killed while it answered."""


class Work:
    """What a visitor did, and what the server told of it.

    Args:
        seed: of what is done.

    Attributes:
        seen: {part of the project: (when, value)s}, as the server told them after each action; the
            parts are the stacks, and of each stack its frames, their order, the versions, and of
            each version its strokes and its picture.
        action, touched, version: what is under way, the numbers of the stacks that it is about, and
            of the version; no stacks: nothing is under way.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.place = self.at = ""
        self.seen: dict[Any, list[tuple[float, Any]]] = {}
        self.action, self.touched, self.version = "", set[int](), 0
        self.done: dict[str, int] = {}
        self.uploads = 0
        self.killed, self.looked = math.inf, False  # when, and whether anything is known since

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """The JSON or the bytes of an answer; Gone where there is none."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body)
        link = http.client.HTTPConnection(self.place, timeout=LATEST)
        try:
            link.request(method, path, data)
            answer = link.getresponse()
            found = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Gone from error
        finally:
            link.close()
        must(answer.status < 500, f"{method} {path} is answered with {answer.status}")
        is_json = answer.headers.get("content-type", "") == "application/json"
        return json.loads(found) if is_json else found

    def stack(self, number: int) -> dict[str, Any]:
        """The state of a stack."""
        return self.ask("GET", f"{self.at}/state?stack={number}")["stack"]

    def until_idle(self, number: int) -> dict[str, Any]:
        """The state of a stack once nothing is examined or fused."""
        end = time.monotonic() + LATEST
        while (state := self.stack(number))["examining"] or state["work"]:
            must(time.monotonic() < end, f"stack {number} is never done")
            time.sleep(0.1)
        return state

    def told(self) -> dict[Any, Any]:
        """{part: value} of the whole project, as the server tells it."""
        numbers = [one["id"] for one in self.ask("GET", f"{self.at}/state")["stacks"]]
        found: dict[Any, Any] = {("stacks",): numbers}
        for number in numbers:
            state = self.until_idle(number)
            results = [one for one in state["results"] if not one.get("draft")]
            found["frames", number] = sorted(one["name"] for one in state["list"])
            found["order", number] = [(one["name"], one["used"]) for one in state["list"]]
            found["versions", number] = [one["number"] for one in results]
            for one in results:
                must("broken" not in one, f"version {one['run']} is {one.get('broken')}")
                tile = f"{self.at}/k/{number}/tile/{one['run']}/fused/0/0/0"
                found["strokes", number, one["number"]] = (one["strokes"], one["undone"])
                found["picture", number, one["number"]] = hash(self.ask("GET", tile))
        return found

    def look(self) -> None:
        """Note what the server tells."""
        self.looked = True
        now, found = time.monotonic(), self.told()
        for part in self.seen.keys() | found.keys():
            before = self.seen.setdefault(part, [])
            if not before or before[-1][1] != found.get(part):
                before.append((now, found.get(part)))

    def compare(self, killed: float) -> list[str]:
        """What is there after a kill and was not before it, or the reverse, as sentences."""
        found, wrong = self.told(), list[str]()
        if not self.seen:
            return []
        for part in self.seen.keys() | found.keys():
            known = self.seen.get(part, [])
            older = [k for k, (when, _) in enumerate(known) if when <= killed - MAY_BE_LOST]
            possible = [value for _, value in known[older[-1] if older else 0 :]]
            if not older:
                possible.append(None)  # it came in the last second
            if found.get(part) not in possible and not self.may_differ(part, found):
                wrong.append(f"{part} is {found.get(part)}, and was {known[-1:]}")
        return wrong

    def may_differ(self, part: tuple[Any, ...], found: dict[Any, Any]) -> bool:
        """Whether the action under way may have changed a part; found: what is there now."""
        if part[0] == "stacks":
            return self.action in ("upload", "delete stack")
        if ("frames", part[1]) not in self.seen:  # a new stack
            return self.action == "upload"
        if part[1] not in self.touched:
            return False
        if self.action == "delete stack":
            return part[1] not in found["stacks",]
        if part[0] not in ("strokes", "picture"):
            return part[0] in MAY_CHANGE.get(self.action, ())
        if self.action == "fuse":
            return all(value is None for _, value in self.seen.get(part, []))
        if self.action == "delete version":
            return self.version == part[2] and self.version not in found["versions", part[1]]
        return self.action in PAINTING and self.version == part[2]

    def strays(self, projects: Path) -> list[str]:
        """The files below the folder of the projects that belong to nothing."""
        (own,) = (path for path in projects.iterdir() if read(path / "project.json"))
        known = {".lock", "project.json"}
        for number in self.told()["stacks",]:
            state, at = self.stack(number), f"stack-{number}"
            known |= {f"{at}/stack.json", *(f"{at}/in/{one['name']}" for one in state["list"])}
            for one in state["list"]:
                known |= {f"{at}/thumbs/{one['id']}{suffix}" for suffix in (".jpg", ".png")}
                known |= {f"{at}/decoded/{one['id']}{suffix}" for suffix in (".npy", ".json")}
            folders = [own / at / one["run"] / "full" for one in state["results"]]
            records = [json.loads(read(folder / "result.json")) for folder in folders]
            folders += [own / at / record["aligned"] for record in records]
            if state["failure"] is not None:  # the next run takes the frames in register
                folders += (own / at).glob("aligned-*")
            for folder in folders:
                files = {name for name in files_below(folder) if not PARTIAL.search(f"/{name}")}
                known |= {str((folder / name).relative_to(own)) for name in files}
        others = {path.name for path in projects.iterdir() if path != own}
        return sorted(others | (files_below(own) - known))

    def delete_others(self) -> None:
        """Delete the other projects, which are copies of this one, whole."""
        for one in self.ask("GET", "/projects"):
            if (other := f"/s/{one['token']}") != self.at:
                stacks = self.ask("GET", f"{other}/state")["stacks"]
                must(stacks, "a copy of the project is empty")
                self.ask("DELETE", other)

    def act(self) -> None:
        """Do something at random."""
        stacks = [one["id"] for one in self.ask("GET", f"{self.at}/state")["stacks"]]
        if not stacks or (len(stacks) < MOST_STACKS and self.rng.random() < 0.1):
            self.begin("upload", *stacks)
            number = self.ask("POST", f"{self.at}/stacks", {})["id"]
            self.begin("upload", number)
            self.upload(number, self.rng.randint(3, 5))
            return
        number = self.rng.choice(stacks)
        state = self.until_idle(number)
        results = [one for one in state["results"] if not one.get("draft")]
        of = f"{self.at}/k/{number}"
        choices = ["arrange", "upload"] if results else ["fuse"]
        choices += ["fuse"] * (len(results) < MOST_VERSIONS)
        choices += ["paint", "paint", "undo", "redo", "export", "method", "copy"] * bool(results)
        choices += ["delete version"] * (len(results) == MOST_VERSIONS)
        choices += ["delete stack"] * (len(stacks) == MOST_STACKS and self.rng.random() < 0.2)
        action = self.rng.choice(choices)
        self.begin(action, number)
        if action == "upload":
            self.upload(number, 1)
        elif action == "arrange":
            order = [one["id"] for one in state["list"]]
            self.rng.shuffle(order)
            excluded = order[: self.rng.randint(0, max(len(order) - 2, 0))]
            self.ask("POST", f"{of}/frames", {"order": order, "excluded": excluded})
        elif action == "fuse":
            self.ask("POST", f"{of}/work", {})
            self.until_idle(number)
        elif action == "delete stack":
            self.ask("DELETE", of)
        elif action == "copy":
            self.copy()
        else:
            self.change(number, self.rng.choice(results), action)

    def copy(self) -> None:
        """Export the project, make another one of it, and delete that."""
        data = self.download(self.ask("POST", f"{self.at}/archive", {})["id"])
        self.ask("PUT", "/projects", data)
        self.delete_others()

    def download(self, export: str) -> Any:
        """The file of an export."""
        end = time.monotonic() + LATEST
        while not (state := self.ask("GET", f"{self.at}/exports/{export}"))["done"]:
            must(time.monotonic() < end, "an export is never done")
            time.sleep(0.1)
        must(state["failure"] is None, f"an export fails: {state['failure']}")
        return self.ask("GET", f"{self.at}/exports/{export}/file")

    def change(self, number: int, result: dict[str, Any], action: str) -> None:
        """Paint on a version of a stack, undo, redo, export, fuse by a method, or delete it."""
        self.version = result["number"]
        version = f"{self.at}/k/{number}/v/{self.version}"
        if action == "paint":
            points = [[self.rng.uniform(0, side) for side in SIDES[::-1]] for _ in range(4)]
            name = self.rng.choice(result["names"])
            stroke = {"frame": name, "radius": 9, "softness": 0.3, "points": points}
            self.ask("POST", f"{version}/strokes", stroke)
        elif action == "undo":
            self.ask("DELETE", f"{version}/strokes")
        elif action == "redo":
            self.ask("POST", f"{version}/strokes/redo", {})
        elif action == "export":
            wanted = {"stack": number, "version": self.version}
            self.download(self.ask("POST", f"{self.at}/exports", wanted)["id"])
        elif action == "method":
            self.ask("POST", f"{version}/methods/{METHOD}", {})
        else:
            self.ask("DELETE", version)

    def begin(self, action: str, *numbers: int) -> None:
        """Note what is about to happen to these stacks."""
        self.action, self.touched, self.version = action, set(numbers), 0
        self.done[action] = self.done.get(action, 0) + 1

    def rest(self) -> None:
        """Note that nothing is under way."""
        self.action, self.touched, self.version = "", set(), 0

    def upload(self, number: int, count: int) -> None:
        """Send frames to a stack."""
        for frame in draw_stack(texture(*SIDES, self.uploads), count):
            self.uploads += 1
            path = f"{self.at}/k/{number}/files?name=frame_{self.uploads:04}.png"
            self.ask("PUT", path, saved(frame, "PNG"))
        self.until_idle(number)

    def until_gone(self) -> None:
        """Work until the server is gone."""
        try:
            while True:
                self.act()
                self.look()
                self.rest()
        except Gone:
            pass


class Server:
    """A server of the page, in a process of its own.

    Args:
        projects: folder of the projects; place: for what it prints, and its temporary files.
        is_first: as of Program.
    """

    def __init__(self, projects: Path, place: Path, is_first: bool) -> None:
        words = ["--port", "0", "--projects", projects]
        self.program = Program("app", words, place, is_first)
        self.killed = math.inf  # when

    def address(self) -> str:
        """Host and port, once it listens; Gone where it was killed before."""
        while (found := ADDRESS.search(read(self.program.said))) is None:
            if self.program.poll() is not None:
                must(self.killed < math.inf, f"the server ends: {read(self.program.said)}")
                raise Gone
            time.sleep(0.02)
        return found[1]

    def kill(self) -> None:
        """End it at once."""
        self.killed = time.monotonic()
        self.program.kill()


def visit(work: Work, projects: Path, place: Path, seconds: float, args: Any) -> list[str]:
    """Serve the projects, compare, work, and kill the server after some seconds.

    Returns:
        What is not as it was before, as sentences.
    """
    server = Server(projects, place, args.first_process)
    timer = threading.Timer(seconds, server.kill)
    timer.start()
    wrong: list[str] = []
    try:
        work.place = server.address()
        work.at = work.at or f"/s/{work.ask('POST', '/sessions')['token']}"
        differ = work.compare(work.killed)
        work.delete_others()
        strays = work.strays(projects)
        if strays:  # some may be being written
            time.sleep(2)
            strays = [name for name in work.strays(projects) if name in strays]
        wrong = differ + [f"{name} is stray" for name in strays]
        work.look()
        work.rest()
        work.until_gone()
    except Gone:
        must(server.killed < math.inf, f"the server is gone: {read(server.program.said)}")
    except StackError:
        print(read(server.program.said), file=sys.stderr)
        raise
    finally:
        timer.cancel()
        timer.join()
        server.kill()
    if work.looked:  # else nothing is known that was not before
        work.killed, work.looked = server.killed, False
    return wrong


def main() -> int:
    """Work, kill, compare. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="of work (default: 10)")
    parser.add_argument("--kills", type=int, default=30, help="(default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of what is done (default: 0)")
    parser.add_argument(
        "--first_process", action="store_true", help="the server is process 1, as in a container"
    )
    parser.add_argument("--log", type=Path, help="JSON lines; the kills that it holds count")
    args = parser.parse_args()
    rounds = known_of(args.log, "page", args.first_process)
    work, part = Work(args.seed + len(rounds)), 60 * args.minutes / args.kills
    cv2.setNumThreads(1)  # a fork has no other threads, and would wait for them
    with tempfile.TemporaryDirectory() as folder:
        projects, place = Path(folder) / "projects", Path(folder) / "temporary"
        place.mkdir()
        while len(rounds) < args.kills:
            # Many at the start, when the server tidies up, and some late.
            wrong = visit(work, projects, place, work.rng.expovariate(1 / part), args)
            one = {"name": "page", "first": args.first_process, "kills": 1, "wrong": wrong}
            rounds.append(one | {"during": work.action})
            note(args.log, rounds[-1])
            told = f"kill {len(rounds)} during {work.action or 'nothing'}"
            print(told, *wrong, sep="\n  ", flush=True)
    counts = ", ".join(f"{count} x {action}" for action, count in work.done.items())
    wrong = [sentence for one in rounds for sentence in one["wrong"]]
    print(f"{len(rounds)} kills; {counts}; {len(wrong)} faults")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
