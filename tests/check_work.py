"""Minutes of work on the page, the server killed at random moments: only the last second is lost.

Not collected by pytest, since it takes minutes:

    .venv/bin/python -m tests.check_work --minutes 10 --kills 3

A visitor uploads stacks, arranges and excludes frames, fuses, paints, undoes, redoes, and deletes
versions and stacks, at random, over HTTP as the page does. The server is killed by SIGKILL, also
while it answers, and another one serves the same projects. Then all that was there a second before
the kill must be there, and each picture must look as it did.
"""

import argparse
import http.client
import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.drawn import draw_stack, saved, texture
from tests.visit import must, served

MAY_BE_LOST = 1.0  # seconds before a kill
SIDES = (160, 240)
MOST_STACKS, MOST_VERSIONS = 4, 3
LATEST = 300.0  # seconds that anything may take


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
        touched: numbers of the stacks that the action under way may change; None: none.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.place = self.at = ""
        self.seen: dict[Any, list[tuple[float, Any]]] = {}
        self.touched: set[int] | None = None
        self.done: dict[str, int] = {}
        self.uploads = 0

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
                tile = f"{self.at}/k/{number}/tile/{one['run']}/fused/0/0/0"
                found["strokes", number, one["number"]] = (one["strokes"], one["undone"])
                found["picture", number, one["number"]] = hash(self.ask("GET", tile))
        return found

    def look(self) -> None:
        """Note what the server tells."""
        now, found = time.monotonic(), self.told()
        for part in self.seen.keys() | found.keys():
            before = self.seen.setdefault(part, [])
            if not before or before[-1][1] != found.get(part):
                before.append((now, found.get(part)))

    def compare(self, killed: float) -> list[str]:
        """What is there after a kill and was not before it, or the reverse, as sentences."""
        found, wrong = self.told(), []
        for part in self.seen.keys() | found.keys():
            known = self.seen.get(part, [])
            older = [k for k, (when, _) in enumerate(known) if when <= killed - MAY_BE_LOST]
            possible = [value for _, value in known[older[-1] if older else 0 :]]
            if not older:
                possible.append(None)  # it came in the last second
            under_way = self.touched is not None and (len(part) == 1 or part[1] in self.touched)
            if found.get(part) not in possible and not under_way:
                wrong.append(f"{part} is {found.get(part)}, and was {known[-1:]}")
        return wrong

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
        choices = ["arrange", "upload"]
        choices += ["fuse"] * 2 * (len(results) < MOST_VERSIONS)
        choices += ["paint", "paint", "paint", "undo", "redo"] * bool(results)
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
        else:
            self.change(f"{of}/v/", self.rng.choice(results), action)

    def change(self, versions: str, result: dict[str, Any], action: str) -> None:
        """Paint on a version, or undo, redo or delete it."""
        version = f"{versions}{result['number']}"
        if action == "paint":
            points = [[self.rng.uniform(0, side) for side in SIDES[::-1]] for _ in range(4)]
            name = self.rng.choice(result["names"])
            stroke = {"frame": name, "radius": 9, "softness": 0.3, "points": points}
            self.ask("POST", f"{version}/strokes", stroke)
        elif action == "undo":
            self.ask("DELETE", f"{version}/strokes")
        elif action == "redo":
            self.ask("POST", f"{version}/strokes/redo", {})
        else:
            self.ask("DELETE", version)

    def begin(self, action: str, *numbers: int) -> None:
        """Note what is about to happen to these stacks."""
        self.touched = set(numbers)
        self.done[action] = self.done.get(action, 0) + 1

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
                self.touched = None
        except Gone:
            pass


def work_until(work: Work, projects: Path, seconds: float, kill: bool) -> float:
    """Serve the projects and work for a while; the moment of the kill, or of the end."""
    with served("--projects", projects) as (address, server):
        work.place = urlsplit(address).netloc
        work.at = work.at or f"/s/{work.ask('POST', '/sessions')['token']}"
        work.look()
        ended = threading.Event()
        moments = []

        def end() -> None:
            ended.wait(seconds)
            moments.append(time.monotonic())
            (server.kill if kill else server.terminate)()

        thread = threading.Thread(target=end)
        thread.start()
        work.until_gone()
        ended.set()
        thread.join()
    return moments[0]


def main() -> int:
    """Work, kill, compare. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="of work (default: 10)")
    parser.add_argument("--kills", type=int, default=3, help="(default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of what is done (default: 0)")
    args = parser.parse_args()
    work, wrong = Work(args.seed), []
    part = 60 * args.minutes / (args.kills + 1)
    with tempfile.TemporaryDirectory() as folder:
        for k in range(args.kills + 1):
            is_last = k == args.kills
            seconds = part * (1 if is_last else work.rng.uniform(0.5, 1.5))
            moment = work_until(work, Path(folder) / "projects", seconds, kill=not is_last)
            with served("--projects", Path(folder) / "projects") as (address, _):
                work.place = urlsplit(address).netloc
                wrong += [f"after stop {k + 1}: {one}" for one in work.compare(moment)]
                during, work.touched = work.touched, None
                work.look()
            how = "ended" if is_last else "killed"
            print(f"{how} after {seconds:.0f} s, stacks in work {during or 'none'}", flush=True)
    counts = ", ".join(f"{count} x {action}" for action, count in work.done.items())
    print(f"{counts}; {len(wrong)} parts differ")
    for one in wrong:
        print(f"  {one}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
