"""A visit of the page of app.py in a browser: what a user does with mouse, keyboard and files."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from stackmff.errors import StackError
from tests.browser import ELEMENT

HOUSE = Path(__file__).parent.parent
LATEST = 300  # seconds that anything may take
CARDS = "return document.querySelectorAll('#sheet li').length"
STAGE = "return document.body.dataset.stage"


def must(holds, sentence):
    """Raise StackError with the sentence where something does not hold."""
    if not holds:
        raise StackError(f"the page is wrong: {sentence}")


@contextlib.contextmanager
def served(*options):
    """(URL, process) of a page that is served."""
    command = [sys.executable, "app.py", "--port", "0", *map(str, options)]
    server = subprocess.Popen(command, cwd=HOUSE, stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        must("http://" in line, f"the server does not start: {line}")
        yield line.split()[2], server
    finally:
        server.terminate()
        server.wait(30)


class Visit:
    """The page in a browser.

    Args:
        browser: a tests.browser.Browser.
        address: URL of the server.
        size: (width, height) of the window, px of CSS.
        ratio: px of the screen for each of CSS.
        touch: whether the screen is one that is touched.
    """

    def __init__(self, browser, address, size=(1280, 720), ratio=1, touch=False):
        self.browser, self.address = browser, address
        self.resize(size, ratio, touch)
        self.go(address)

    def resize(self, size, ratio=1, touch=False):
        width, height = size
        self.browser.tool(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=ratio,
            mobile=touch,
        )
        self.browser.tool("Emulation.setTouchEmulationEnabled", enabled=touch)

    def go(self, address):
        """Open an address anew."""
        self.browser.tool("Page.navigate", url="about:blank")
        self.browser.ask("POST", "/url", {"url": address})
        self.until("return document.body.dataset.ready", "yes")

    def reload(self):
        """Load the page again, as a user does."""
        self.browser.ask("POST", "/refresh")
        self.until("return document.body.dataset.ready", "yes")

    def run(self, script, *arguments):
        return self.browser.run(script, *arguments)

    def until(self, script, wanted=True, latest=LATEST):
        """Wait until a script returns the wanted value."""
        end = time.monotonic() + latest
        while time.monotonic() < end:
            found = self.run(script)
            if found == wanted:
                return
            time.sleep(0.05)
        must(False, f"{script} is {found}, not {wanted}; it shows {self.errors()!r}")

    def drop(self, files):
        """Drop files and folders as a user does."""
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.browser.tool("Input.dispatchDragEvent", type=kind, x=300, y=300, data=data)

    def click(self, selector):
        try:
            self.browser.ask("POST", f"{self.browser.find(selector)}/click")
        except StackError as error:
            if "stale" not in str(error):
                raise
            self.browser.ask("POST", f"{self.browser.find(selector)}/click")  # it was redrawn

    def choose(self, selector, value):
        self.run(
            "const input = document.querySelector(arguments[0]); input.value = arguments[1];"
            "for (const kind of ['input', 'change'])"
            " input.dispatchEvent(new Event(kind, {bubbles: true}))",
            selector,
            value,
        )

    def drag(self, selector, places, alt=False, finger=False, pressures=None):
        """Press the mouse at the first of the places (shares of an element), drag, release.

        With pressures, one for each place, it is a pen.
        """
        path = self.browser.find(selector)
        box = self.browser.ask("GET", f"{path}/rect")
        origin = {ELEMENT: path.rpartition("/")[2]}
        moves = [
            {
                "type": "pointerMove",
                "origin": origin,
                "x": round(box["width"] * (x - 0.5)),
                "y": round(box["height"] * (y - 0.5)),
                "duration": 40,
            }
            for x, y in places
        ]
        for move, pressure in zip(moves[1:], (pressures or [])[1:], strict=False):
            move["pressure"] = pressure
        press = {"type": "pointerDown", "button": 0}
        if pressures:
            press["pressure"] = pressures[0]
        steps = [moves[0], press, *moves[1:]]
        steps += [{"type": "pointerUp", "button": 0}]
        kind = "pen" if pressures else "touch" if finger else "mouse"
        mouse = {"type": "pointer", "id": kind, "parameters": {"pointerType": kind}}
        actions = [{**mouse, "actions": steps}]
        if alt:
            held = [{"type": "keyDown", "value": "\ue00a"}, *[{"type": "pause"}] * (len(steps) - 2)]
            keys = {"type": "key", "id": "k"}
            actions.append({**keys, "actions": [*held, {"type": "keyUp", "value": "\ue00a"}]})
        self.browser.ask("POST", "/actions", {"actions": actions})
        self.browser.ask("DELETE", "/actions")

    def keys(self, *letters, held=()):
        """Press keys, one after the other, while others are held."""
        steps = [{"type": "keyDown", "value": key} for key in held]
        steps += [{"type": f"key{way}", "value": key} for key in letters for way in ("Down", "Up")]
        steps += [{"type": "keyUp", "value": key} for key in held]
        keys = {"type": "key", "id": "k", "actions": steps}
        self.browser.ask("POST", "/actions", {"actions": [keys]})

    def blur(self):
        self.run("document.activeElement.blur()")

    def frames_read(self, count):
        """Wait for the contact sheet."""
        self.until(CARDS, count)
        self.until("return !document.querySelector('#go').disabled")

    def fuse(self):
        """Fuse, and wait for the result."""
        before, known = self.versions(), self.errors()
        self.click("#go")
        end = time.monotonic() + LATEST
        while self.versions() == before:
            failed = self.errors() not in ("", known)
            must(not failed and time.monotonic() < end, f"it does not fuse: {self.errors()!r}")
            time.sleep(0.05)
        self.until("return document.querySelector('#work').hidden")
        self.settled()

    def versions(self):
        return self.run("return document.querySelectorAll('#versions .card').length")

    def settled(self):
        """Wait until the canvas is up to date."""
        time.sleep(0.6)

    def picture(self, selector="#viewer"):
        """(H, W, 3) int, BGR, of an element."""
        return self.browser.picture_of(self.browser.find(selector)).astype(int)

    def shot(self, folder, name):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{name}.png"), self.browser.picture_of())

    def errors(self):
        """What went wrong, as the page tells it."""
        return self.run(
            "return [...document.querySelectorAll('#messages .bad span')].map(one =>"
            " one.textContent).join('; ')"
        )

    def notes(self):
        return self.run(
            "return [...document.querySelectorAll('#messages .note span')].map(one =>"
            " one.textContent).join('; ')"
        )

    def logged(self):
        """What the browser holds for an error, since it was asked last."""
        found = self.browser.ask("POST", "/se/log", {"type": "browser"})
        return [one["message"] for one in found if one["level"] == "SEVERE"]

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).innerText", selector)

    def download(self, folder, selector):
        """The file that a click downloads."""
        known = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        self.click(selector)
        end = time.monotonic() + LATEST
        while time.monotonic() < end:
            # A browser without a window overwrites a file of the same name.
            for path in folder.iterdir():
                if path.suffix == ".crdownload" or path.name.startswith("."):
                    continue
                now = path.stat()
                if now.st_size and now.st_mtime_ns != known.get(path):
                    return path
            time.sleep(0.1)
        must(False, f"{selector} downloads no file; the page shows {self.errors()!r}")


def differ(one, other):
    """Mean difference of two pictures, grey levels."""
    return float(np.abs(one - other).mean())
