"""The page answers one visitor while another one sends what is meant to stall it.

Not collected by pytest, since it measures time:

    .venv/bin/python -m tests.check_attack --seconds 10

For each attack: how long the clicks of the first visitor took. The exit status is 1 if the worst
took longer than LIMIT.
"""

import argparse
import http.client
import json
import statistics
import struct
import sys
import threading
import time
import zlib
from urllib.parse import urlsplit

import numpy as np

from tests.damaging import damaged_bytes
from tests.drawn import draw_stack, saved, texture
from tests.fuzzing import pictures
from tests.visit import must, served

LIMIT = 500  # ms
SIDES = (240, 320)
PAUSE = 0.05  # s between two clicks
ATTACKERS = 2


class Link:
    """Speaks HTTP to the page at an address, in a session of its own."""

    def __init__(self, address: str) -> None:
        self.place = urlsplit(address).netloc
        self.at = f"/s/{self.ask('POST', '/sessions')['token']}"
        self.of = f"{self.at}/k/{self.ask('POST', f'{self.at}/stacks', {})['id']}"
        self.number = 0  # of the version that was fused

    def ask(self, method: str, path: str, body: object = None) -> dict:
        """The JSON of an answer, {} of any other."""
        link = http.client.HTTPConnection(self.place, timeout=120)
        try:
            link.request(method, path, body if isinstance(body, bytes) else json.dumps(body))
            answer = link.getresponse()
            found = answer.read()
        finally:
            link.close()
        is_json = answer.headers.get("content-type", "") == "application/json"
        return json.loads(found) if is_json else {}

    def state(self) -> dict:
        """Of its stack."""
        return self.ask("GET", f"{self.at}/state?stack={self.of.rpartition('/')[2]}")["stack"]

    def fuse(self) -> str:
        """Upload a drawn stack and fuse it; returns the name of the run."""
        for k, frame in enumerate(draw_stack(texture(*SIDES, 0), 3)):
            self.ask("PUT", f"{self.of}/files?name={k}.png", saved(frame, "PNG"))
        self.until(lambda state: state["frames"] == 3 and not state["examining"])
        self.ask("POST", f"{self.of}/work", {})
        state = self.until(lambda state: state["work"] is None)
        must(state["results"], f"the page does not fuse: {state['failure']}")
        self.number = state["results"][0]["number"]
        return state["results"][0]["run"]

    def until(self, holds) -> dict:
        """The state of its stack as soon as it holds."""
        end = time.monotonic() + 120
        while not holds(state := self.state()):
            must(time.monotonic() < end, f"the page does not answer: {state}")
            time.sleep(0.1)
        return state


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def unclosed_tags() -> bytes:
    """A PNG of some 100 kB whose XMP is of tags that nothing closes."""
    plain = saved(texture(8, 8, 0), "PNG")
    packet = b"XML:com.adobe.xmp\0\0\0\0\0" + b"<x:xmpmeta>" + b"<a:b " * 20000
    return plain[:33] + chunk(b"iTXt", packet) + plain[33:]


def huge_claim() -> bytes:
    """A JPEG of some kB whose header declares 30000x30000."""
    data = bytearray(saved(texture(64, 64, 0), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 30000, 30000)
    return bytes(data)


def uploads(link: Link, files, ended: threading.Event) -> None:
    """Send files again and again."""
    number = 0
    while not ended.is_set():
        for name, data in files(number):
            link.ask("PUT", f"{link.of}/files?name={number}{name}", data)
        number += 1
        if number % 20 == 0:
            link.of = f"{link.at}/k/{link.ask('POST', f'{link.at}/stacks', {})['id']}"


def strokes(link: Link, ended: threading.Event) -> None:
    """Draw the largest strokes that are allowed, and nested brackets."""
    number = link.number
    points = [[(7 * k) % SIDES[1], (11 * k) % SIDES[0]] for k in range(1000)]
    stroke = {"frame": "0.png", "radius": 100, "softness": 1, "points": points}
    while not ended.is_set():
        link.ask("POST", f"{link.of}/v/{number}/strokes", stroke)
        link.ask("POST", f"{link.of}/v/{number}/strokes", b"[" * 100000)


def mutants(number: int):
    """Damaged pictures of every format."""
    rng = np.random.default_rng(number)
    return [(name, damaged_bytes(data, rng)) for name, data in WHOLE.items()]


WHOLE = pictures(texture(48, 64, 0))
FILES = {
    "nothing": lambda number: time.sleep(0.1) or [],
    "XMP of unclosed tags": lambda number: [(".png", unclosed_tags())],
    "30000x30000 claimed": lambda number: [(".jpg", huge_claim())] * 3,
    "damaged pictures": mutants,
}


def clicks(link: Link, run: str, seconds: float) -> list[float]:
    """Ask what is at a pixel, again and again; returns how long each answer took, ms."""
    took, end, k = [], time.monotonic() + seconds, 0
    while time.monotonic() < end:
        start = time.monotonic()
        found = link.ask("GET", f"{link.of}/pixel/{run}/{k % SIDES[1]}/{k % SIDES[0]}")
        took.append(1000 * (time.monotonic() - start))
        must("frame" in found, f"a click is answered by {found}")
        k += 7
        time.sleep(PAUSE)
    return took


def attacked(address: str, visitor: Link, run: str, name: str, seconds: float) -> list[float]:
    """The clicks of a visitor, ms, while others attack."""
    ended = threading.Event()
    links = [Link(address) for _ in range(ATTACKERS)]
    if name in FILES:
        jobs = [(uploads, (link, FILES[name], ended)) for link in links]
    else:
        for link in links:
            link.fuse()
        jobs = [(strokes, (link, ended)) for link in links]
    threads = [threading.Thread(target=job, args=args, daemon=True) for job, args in jobs]
    for thread in threads:
        thread.start()
    try:
        return clicks(visitor, run, seconds)
    finally:
        ended.set()
        for thread in threads:
            thread.join(120)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10, help="of each attack")
    args = parser.parse_args()
    slow = False
    with served() as (address, _):
        visitor = Link(address)
        run = visitor.fuse()
        print("| attack | clicks | median, ms | 99 %, ms | worst, ms |\n|---|---|---|---|---|")
        for name in (*FILES, "strokes"):
            took = attacked(address, visitor, run, name, args.seconds)
            high = np.percentile(took, 99)
            figures = f"{statistics.median(took):.0f} | {high:.0f} | {max(took):.0f}"
            print(f"| {name} | {len(took)} | {figures} |", flush=True)
            slow |= max(took) > LIMIT
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
