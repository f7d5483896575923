"""A browser for checks: headless Chromium, driven by the WebDriver protocol.

It needs Debian's chromium and chromium-driver (apt install chromium chromium-driver).
Source: https://www.w3.org/TR/webdriver2/.
"""

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import cv2
import numpy as np

from stackmff.errors import StackError

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
LATEST = 300  # seconds that an answer may take on a busy machine
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's id in the protocol


class Browser:
    """A session of Chromium, driven by chromedriver.

    Args:
        address: URL of the session, or of chromedriver before there is one.
    """

    def __init__(self, address):
        self.address = address

    def ask(self, method, path, body=None):
        """Send a command and return its value; StackError where the browser refuses it."""
        data = None if method != "POST" else json.dumps(body or {}).encode()
        request = urllib.request.Request(self.address + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=LATEST) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            told = json.load(error)["value"]["message"].splitlines()[0]
            raise StackError(f"the browser refuses {path}: {told}") from error

    def run(self, script, *arguments):
        """Run the body of a JavaScript function and return its result."""
        return self.ask("POST", "/execute/sync", {"script": script, "args": arguments})

    def wait(self, script, *arguments):
        """Run the body of a JavaScript function until it calls its last argument; with what.

        Nothing asks meanwhile, which would take time from what is waited for.
        """
        self.ask("POST", "/timeouts", {"script": 1000 * LATEST})
        return self.ask("POST", "/execute/async", {"script": script, "args": arguments})

    def tool(self, command, **parameters):
        """Send a command of the Chrome DevTools protocol."""
        body = {"cmd": command, "params": parameters}
        return self.ask("POST", "/goog/cdp/execute", body)

    def find(self, selector):
        """The path of the first element that matches a CSS selector."""
        found = self.ask("POST", "/element", {"using": "css selector", "value": selector})
        return f"/element/{found[ELEMENT]}"

    def picture_of(self, path=""):
        """A screenshot of an element, or of the window: (H, W, 3) uint8 BGR."""
        data = base64.b64decode(self.ask("GET", f"{path}/screenshot"))
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


@contextlib.contextmanager
def browser(chromium, chromedriver, folder):
    """Run a Browser with a new profile in `folder` while the block runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen([chromedriver, f"--port={port}"], stdout=subprocess.DEVNULL)
    try:
        start = Browser(f"http://127.0.0.1:{port}")
        for _ in range(100):
            with contextlib.suppress(OSError):
                if start.ask("GET", "/status")["ready"]:
                    break
            time.sleep(0.1)
        options = {
            "binary": chromium,
            "args": [*FLAGS, f"--user-data-dir={folder}", "--window-size=1280,1000"],
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = start.ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        found = Browser(f"{start.address}/session/{session['sessionId']}")
        try:
            yield found
        finally:
            found.ask("DELETE", "")
    finally:
        driver.terminate()
        driver.wait()


def add_browser_options(parser):
    """Add the options that choose the programs."""
    parser.add_argument("--chromium", help="program (default: chromium)", default="chromium")
    parser.add_argument("--chromedriver", help="program (default: chromedriver)")


def programs(args):
    """The paths of both programs; StackError where one is missing."""
    wanted = {"chromium": args.chromium, "chromium-driver": args.chromedriver or "chromedriver"}
    for package, program in wanted.items():
        if shutil.which(program) is None:
            raise StackError(f"{program} is missing: on Debian apt install {package}")
    return [shutil.which(program) for program in wanted.values()]
