"""Drive the page of app.py in headless Chromium; part of `make check`, not of `make test`.

    python -m tests.check_app

Frames are dropped, fused, compared, probed, retouched and exported, and the exported file is
compared with what predict.py writes. It needs what tests/browser.py needs.
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import tifffile

import make_dataset
import predict
from stackmff.errors import StackError
from stackmff.processes import run_main
from stackmff.webapp.form import fuse_form
from tests.browser import ELEMENT, add_browser_options, browser, programs
from tests.drawn import draw_stack, texture

HOUSE = Path(__file__).parent.parent
MOST_MEMORY = 2e9  # bytes, that of predict.py --low_memory
LATEST = 120  # seconds that anything may take


def get_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stack", type=Path, help="folder of frames (default: those of make demo)")
    parser.add_argument("--screenshots", type=Path, help="folder for screenshots")
    parser.add_argument(
        "--large",
        action="store_true",
        help="also fuse 30 synthetic frames of 24 megapixels, and click meanwhile",
    )
    add_browser_options(parser)
    return parser


def must(holds, sentence):
    """Raise StackError with the sentence where something does not hold."""
    if not holds:
        raise StackError(f"the page is wrong: {sentence}")


@contextlib.contextmanager
def served(folder, *options):
    """(URL, process) of a page that is served, with its temporary files in `folder`."""
    command = [sys.executable, "app.py", "--port", "0", "--temp_dir", str(folder), *options]
    server = subprocess.Popen(command, cwd=HOUSE, stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        must("http://" in line, f"the server does not start: {line}")
        yield line.split()[2], server.pid
    finally:
        server.terminate()
        server.wait(30)


class Visit:
    """The page in a browser.

    Args:
        browser: a tests.browser.Browser.
        address: URL of the server.
    """

    def __init__(self, browser, address):
        self.browser = browser
        browser.ask("POST", "/url", {"url": address})
        self.until("return document.body.dataset.ready", "yes")

    def until(self, script, wanted=True):
        """Wait until a script returns the wanted value."""
        end = time.monotonic() + LATEST
        while time.monotonic() < end:
            found = self.browser.run(script)
            if found == wanted:
                return
            time.sleep(0.05)
        must(False, f"{script} is {found}, not {wanted}")

    def drop(self, files):
        """Drop files as a user does."""
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.browser.tool("Input.dispatchDragEvent", type=kind, x=500, y=400, data=data)

    def click(self, selector):
        try:
            self.browser.ask("POST", f"{self.browser.find(selector)}/click")
        except StackError as error:
            if "stale" not in str(error):
                raise
            # The contact sheet was redrawn between the two requests.
            self.browser.ask("POST", f"{self.browser.find(selector)}/click")

    def choose(self, selector, value):
        self.browser.run(
            "const input = document.querySelector(arguments[0]); input.value = arguments[1];"
            "for (const kind of ['input', 'change'])"
            " input.dispatchEvent(new Event(kind, {bubbles: true}))",
            selector,
            value,
        )

    def drag(self, selector, places, up=True):
        """Press the mouse at the first of the places (shares of an element), drag, release."""
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
        steps = [moves[0], {"type": "pointerDown", "button": 0}, *moves[1:]]
        steps += [{"type": "pointerUp", "button": 0}] if up else []
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}}
        self.browser.ask("POST", "/actions", {"actions": [{**mouse, "actions": steps}]})
        self.browser.ask("DELETE", "/actions")

    def keys(self, *letters):
        """Press keys, one after the other."""
        steps = [{"type": f"key{way}", "value": key} for key in letters for way in ("Down", "Up")]
        self.browser.ask(
            "POST", "/actions", {"actions": [{"type": "key", "id": "k", "actions": steps}]}
        )

    def fuse(self, files):
        """Drop frames, wait for the contact sheet, fuse, wait for the result."""
        self.drop(files)
        count = len(files)
        self.until("return document.querySelectorAll('#sheet li').length", count)
        self.until("return !document.querySelector('#go').disabled")
        self.click("#go")
        self.until("return document.body.dataset.stage", "result")
        self.until("return document.querySelector('#work').hidden")
        self.settled()

    def settled(self):
        """Wait until the canvas is up to date."""
        time.sleep(0.5)

    def shot(self, folder, name):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{name}.png"), self.browser.picture_of())

    def errors(self):
        return self.browser.run("return document.querySelector('#messages').textContent")


def check_sheet(page, names):
    """Frames can be dragged to any place, including the last, and excluded."""
    shown = "return [...document.querySelectorAll('#sheet img')].map(image => image.alt)"
    drag = """
        const items = document.querySelectorAll('#sheet li');
        const [from, to] = [items[arguments[0]], items[arguments[1]]];
        const dataTransfer = new DataTransfer(), how = {dataTransfer, bubbles: true};
        from.dispatchEvent(new DragEvent('dragstart', how));
        to.dispatchEvent(new DragEvent('drop', how));
    """
    last = len(names) - 1
    for places, wanted in (
        ((0, last), [*names[1:], names[0]]),
        ((last, 0), names),
        ((1, 2), [names[0], names[2], names[1], *names[3:]]),
        ((2, 1), names),
    ):
        page.browser.run(drag, *places)
        page.until(shown, wanted)
    out = "return document.querySelectorAll('#sheet li.out').length"
    for count in (1, 0):
        page.click("#sheet li:nth-child(2) button")
        page.until(out, count)


def check_form(page):
    """The form offers every option with a label, and refuses what is out of range."""
    shown = page.browser.run(
        "return [...document.querySelectorAll('#fuse label')].map(label => label.firstChild.data)"
    )
    wanted = [f"{field['label']} " for field in fuse_form()]
    must(sorted(shown) == sorted(wanted), f"the form offers {shown}, not {wanted}")
    page.choose("#option-slab", 1)
    page.click("#go")
    page.until("return document.querySelector('#more-options').open")
    must(
        page.browser.run("return document.querySelector('#work').hidden"),
        "a slab of one frame is fused",
    )
    page.choose("#option-slab", "")
    page.click("#more-options summary")


def check_cancel(page):
    """Cancelling ends the fusion and restores what was there before."""
    stage = page.browser.run("return document.body.dataset.stage")
    page.click("#go")
    page.until("return document.querySelector('#work').hidden", False)
    page.click("#cancel")
    page.until("return document.querySelector('#work').hidden")
    page.until("return document.body.dataset.stage", stage)
    must(not page.errors(), f"the page shows {page.errors()} after cancelling")


def check_wipe(page):
    """The comparison slider shows the frame at one end, the fused picture at the other."""
    seen = {}
    for value in (0, 100):
        page.choose("#wipe", value)
        page.settled()
        seen[value] = page.browser.picture_of(page.browser.find("#viewer")).astype(int)
    differ = np.abs(seen[0] - seen[100])[100:-100, 200:-200].mean()
    must(differ > 1, f"frame and fused picture differ by only {differ:.2f} grey levels")
    page.choose("#wipe", 50)
    page.drag("#picture", [(0.5, 0.5), (0.45, 0.5), (0.4, 0.5)])
    value = float(page.browser.run("return document.querySelector('#wipe').value"))
    must(30 < value < 48, f"the slider was dragged to 40 and is at {value}")


def check_probe(page, names):
    """A click on the picture names a frame and the shares of the frames."""
    start = time.monotonic()
    page.drag("#picture", [(0.62, 0.6)])
    page.until("return !document.querySelector('#probe').hidden")
    took = time.monotonic() - start
    page.until("return document.querySelectorAll('#probe meter').length > 0")
    told = page.browser.run("return document.querySelector('#probe').innerText")
    must(any(name in told for name in names), f"a click shows {told!r}, which names no frame")
    return told.splitlines()[0], took


def check_clicks(page):
    """Several clicks request one mixture at a time."""
    slow = """
        const known = window.fetch;
        let now = 0;
        window.most = 0;
        window.fetch = async (path, ...others) => {
            if (!String(path).includes("/mixture/")) return known(path, ...others);
            window.most = Math.max(window.most, ++now);
            await new Promise(good => setTimeout(good, 1000));
            now--;
            return known(path, ...others);
        };
        return () => (window.fetch = known);
    """
    page.browser.run(f"window.quick = (() => {{{slow}}})()")
    for share in (0.6, 0.65, 0.7, 0.75):
        page.drag("#picture", [(share, 0.6)])
    page.until("return document.querySelectorAll('#probe meter').length > 0")
    most = page.browser.run("window.quick(); return window.most")
    must(most == 1, f"{most} mixtures are requested at once")


def check_stroke(page, frame):
    """Paint a stroke of the last frame."""
    page.click('[data-tool="retouch"]')
    page.click(f"#sheet li:nth-child({frame + 1})")
    page.drag("#picture", [(0.4, 0.35), (0.5, 0.5), (0.6, 0.4)])
    page.until("return document.querySelector('#undo').disabled", False)
    page.click("#undo")
    page.until("return document.querySelector('#undo').disabled", True)
    page.drag("#picture", [(0.4, 0.35), (0.5, 0.5), (0.6, 0.4)])
    page.until("return document.querySelector('#undo').disabled", False)
    page.settled()


def check_opacity(page):
    """An overlay can be made fainter."""
    page.choose("#overlay", "focus")
    seen = {}
    for value in (100, 10):
        page.choose("#opacity", value)
        page.settled()
        seen[value] = page.browser.picture_of(page.browser.find("#viewer")).astype(int)
    page.choose("#overlay", "")
    differ = np.abs(seen[100] - seen[10]).mean()
    must(differ > 5, f"a fainter overlay differs by only {differ:.2f} grey levels")


def check_keys(page):
    """1, F, [ and ] do what their buttons say; Z undoes the stroke."""
    value = "return document.querySelector('#{}').value".format
    page.browser.run("document.activeElement.blur()")
    before = float(page.browser.run(value("radius")))
    page.keys("1", "]", "]", "[")
    must(page.browser.run(value("zoom")) == "100 %", "1 does not zoom to 100 %")
    must(
        float(page.browser.run(value("radius"))) == before + 4,
        "[ and ] do not change the size of the brush",
    )
    page.keys("f")
    must(page.browser.run(value("zoom")) != "100 %", "F does not fit the picture")
    page.keys("z")
    page.until("return document.querySelector('#undo').disabled", True)


def check_strokes_come_back(page, home):
    """A file of strokes is painted; one of another picture is refused."""
    (file,) = home.glob("*_strokes.json")
    other = home / "other.json"
    other.write_text(json.dumps(json.loads(file.read_text()) | {"width": 5}))
    path = page.browser.find("#strokes")
    page.browser.ask("POST", f"{path}/value", {"text": str(other)})
    page.until(
        "return document.querySelector('#messages').textContent.includes('other.json is for')"
    )
    must(
        page.browser.run("return document.querySelector('#undo').disabled"),
        "the strokes of another picture are painted",
    )
    page.browser.ask("POST", f"{path}/value", {"text": str(file)})
    page.until("return document.querySelector('#undo').disabled", False)
    must(not page.errors(), f"a good file of strokes is refused: {page.errors()}")


def download(page, folder, selector):
    """The file that a click downloads."""
    known = set(folder.iterdir())
    page.click(selector)
    end = time.monotonic() + LATEST
    while time.monotonic() < end:
        new = [path for path in set(folder.iterdir()) - known if path.suffix != ".crdownload"]
        if new and new[0].stat().st_size and not new[0].name.startswith("."):
            return new[0]
        time.sleep(0.1)
    must(False, f"{selector} downloads no file")


def check_files(page, folder, stack, home):
    """The exported picture is what predict.py writes: with the stroke, and apart from it."""
    page.browser.tool("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(home))
    page.choose("#format", "tiff")
    page.choose("#bits", "16")
    taken = download(page, home, "#save")
    strokes = download(page, home, '[data-what="strokes"]')
    words = ["--stack_path", str(stack), "--bits", "16", "--quiet"]
    predict.main([*words, "--output", str(folder / "plain.tif")])
    retouched = folder / "retouched.tif"
    predict.main([*words, "--retouch", str(strokes), "--output", str(retouched)])
    must(
        taken.read_bytes() == retouched.read_bytes(),
        f"{taken.name} differs from what predict.py writes",
    )
    plain, painted = tifffile.imread(folder / "plain.tif"), tifffile.imread(taken)
    must(painted.dtype == np.uint16, f"{taken.name} is {painted.dtype}")
    changed = (plain != painted).any(2)
    record = json.loads(strokes.read_text())["strokes"]
    must(len(record) == 1, f"{len(record)} strokes are exported, one was painted")
    near = np.zeros(changed.shape, np.uint8)
    points = np.round(np.array(record[0]["points"])).astype(np.int32)
    cv2.polylines(near, [points], False, 1, round(2 * record[0]["radius"]) + 4)
    must(changed.any(), "the stroke changes nothing")
    must(
        not (changed & (near == 0)).any(),
        "pixels outside the stroke differ from those of predict.py",
    )
    return taken.name, int(changed.sum())


def check_two(chromium, driver, folder, address, stack):
    """Two sessions at once, one of them with a damaged file."""
    broken = folder / "broken"
    broken.mkdir()
    (broken / "notes.jpg").write_text("this is no picture")
    files = sorted(stack.iterdir())
    with (
        browser(chromium, driver, folder / "one") as one,
        browser(chromium, driver, folder / "two") as two,
    ):
        first, second = Visit(one, address), Visit(two, address)
        first.drop(files)
        second.drop([*files[:3], broken / "notes.jpg"])
        second.until("return document.querySelector('#messages').textContent.includes('notes.jpg')")
        second.until("return document.querySelectorAll('#sheet li').length", 3)
        told = second.errors()
        first.until("return document.querySelectorAll('#sheet li').length", len(files))
        for page in (first, second):
            page.until("return !document.querySelector('#go').disabled")
            page.click("#go")
        for page, count in ((first, len(files)), (second, 3)):
            page.until("return document.body.dataset.stage", "result")
            found = page.browser.run("return document.querySelectorAll('#sheet li').length")
            must(found == count, f"{found} frames are shown, and {count} were dropped")
        for page in (first, second):  # the refusal is no longer shown
            must(not page.errors(), f"the page shows {page.errors()}")
        return told


def draw_large(folder):
    """Write 30 frames of 6000x4000; returns their files."""
    answer = texture(1000, 1500, 0)
    small = draw_stack(answer, 30)
    files = []
    for k, frame in enumerate(small):
        large = cv2.resize(frame, (6000, 4000), interpolation=cv2.INTER_CUBIC)
        files.append(folder / f"{k:02}.jpg")
        cv2.imwrite(str(files[-1]), cv2.cvtColor(large, cv2.COLOR_RGB2BGR))
    return files


def memory_of(server):
    """{number: bytes} of memory that a process and its children use, mapped files included."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if server in (int(entry.name), parent):
                status = (entry / "status").read_text()
                for line in status.splitlines():  # a process that has ended has no such line
                    if line.startswith("VmHWM"):
                        found[int(entry.name)] = 1024 * int(line.split()[1])
    return found


def check_large(page, files, server):
    """Click while 30 frames of 24 megapixels are fused; print how long the answers take."""
    page.drop(files)
    page.until("return document.querySelectorAll('#sheet li').length", len(files))
    page.until("return !document.querySelector('#go').disabled")
    start = time.monotonic()
    page.click("#go")
    page.until("return document.body.dataset.stage", "result")
    drafted = time.monotonic() - start
    # The page measures the time itself: the driver adds about 100 ms.
    watch = """
        const canvas = document.querySelector('#picture');
        const card = document.querySelector('#probe'), box = canvas.getBoundingClientRect();
        card.hidden = true;
        const at = {bubbles: true, pointerId: 1, clientX: box.x + box.width * arguments[0],
            clientY: box.y + box.height * arguments[1]};
        window.took = null;
        const start = performance.now();
        new MutationObserver((_, watcher) => {
            if (!card.hidden) { window.took = performance.now() - start; watcher.disconnect(); }
        }).observe(card, {attributes: true});
        canvas.setPointerCapture = () => {};
        canvas.dispatchEvent(new PointerEvent('pointerdown', at));
        canvas.dispatchEvent(new PointerEvent('pointerup', at));
    """
    page.choose("#wipe", 0)
    took, most = [], {}
    while page.browser.run("return !document.querySelector('#work').hidden"):
        place = 0.3 + 0.4 * (len(took) * 0.618 % 1)
        page.browser.run(watch, place, place)
        page.until("return window.took !== null")
        took.append(page.browser.run("return window.took"))
        for process, size in memory_of(server).items():
            most[process] = max(most.get(process, 0), size)
        time.sleep(0.3)
    whole = time.monotonic() - start
    took = np.array(took)
    late = f"{(took > 200).mean():.1%} above 200 ms"
    slow = f"median {np.median(took):.0f} ms, maximum {took.max():.0f} ms, {late}"
    sizes = ", ".join(f"{size / 2**20:.0f}" for size in most.values())
    print(
        f"{len(files)} frames: draft {drafted:.1f} s, all {whole:.1f} s; {len(took)} clicks: {slow}"
    )
    print(f"memory of the server and its worker: {sizes} MiB")
    must(not page.errors(), f"the page shows {page.errors()}")
    must(took.max() < 200, f"a click was answered after {took.max():.0f} ms")
    must(sum(most.values()) < MOST_MEMORY, f"{sizes} MiB of memory are used")


def draw_demo(folder):
    """The demo's stack; returns its folder."""
    with contextlib.redirect_stderr(io.StringIO()):
        make_dataset.main(["--demo", "--output_dir", str(folder), "--workers", "1"])
    return folder / "dof_stack" / "motorcycle"


def visit(page, folder, stack, shots):
    """One whole session; print what was found."""
    home = folder / "home"
    home.mkdir()
    page.browser.tool("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(home))
    page.shot(shots, "empty")
    files = sorted(stack.iterdir())
    names = [file.name for file in files]
    page.drop(files)
    page.until("return document.querySelectorAll('#sheet li').length", len(files))
    page.until("return !document.querySelector('#go').disabled")
    page.settled()
    page.shot(shots, "frames")
    check_form(page)
    check_sheet(page, names)
    check_cancel(page)
    page.click("#go")
    page.until("return document.body.dataset.stage", "result")
    page.until("return document.querySelector('#work').hidden")
    page.settled()
    check_wipe(page)
    page.choose("#wipe", 50)
    page.settled()
    page.shot(shots, "compare")
    told, took = check_probe(page, names)
    page.shot(shots, "probe")
    print(f"a click shows {told!r} after {1000 * took:.0f} ms")
    for overlay in ("focus", "confidence"):
        page.choose("#overlay", overlay)
        page.settled()
        page.shot(shots, overlay)
    check_clicks(page)
    check_opacity(page)
    check_stroke(page, len(files) - 1)
    page.shot(shots, "retouch")
    name, changed = check_files(page, folder, stack, home)
    check_keys(page)
    check_strokes_come_back(page, home)
    print(f"{name} is that of predict.py bit for bit; the stroke changes {changed} pixels")
    page.click('[data-tool="3d"]')
    page.settled()
    before = page.browser.picture_of(page.browser.find("#viewer")).astype(int)
    page.shot(shots, "3d")
    page.drag("#scene", [(0.5, 0.5), (0.6, 0.55), (0.7, 0.5)])
    page.settled()
    turned = np.abs(
        page.browser.picture_of(page.browser.find("#viewer")).astype(int) - before
    ).mean()
    must(turned > 1 and before.std() > 10, f"turning the 3D view changes {turned:.2f} grey levels")
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.browser.tool("Emulation.setEmulatedMedia", features=dark)
    page.click('[data-tool="compare"]')
    page.settled()
    page.shot(shots, "dark")
    page.browser.tool("Emulation.setEmulatedMedia", features=[])
    page.click("#clear")
    page.browser.ask("POST", "/alert/accept")  # there are strokes, so the page asks first
    page.until("return document.body.dataset.stage", "empty")
    must(not page.errors(), f"the page shows {page.errors()}")
    # Without a GPU Chromium warns about its software renderer.
    logged = page.browser.ask("POST", "/se/log", {"type": "browser"})
    # The strokes of another picture were refused.
    refusal = "/strokes - Failed to load resource"
    logged = [one for one in logged if one["level"] == "SEVERE" and refusal not in one["message"]]
    must(not logged, f"the browser logs {logged}")


def main(argv=None):
    args = get_parser().parse_args(argv)
    chromium, driver = programs(args)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        stack = args.stack or draw_demo(folder / "demo")
        temporary = folder / "temporary"
        temporary.mkdir()
        with served(temporary) as (address, server):
            with browser(chromium, driver, folder / "profile") as page:
                visit(Visit(page, address), folder, stack, args.screenshots)
            said = check_two(chromium, driver, folder, address, stack)
            print(f"two sessions: one fuses, the other shows {said!r} and fuses the rest")
            if args.large:
                with browser(chromium, driver, folder / "large") as page:
                    check_large(Visit(page, address), draw_large(folder), server)
        must(not list(temporary.iterdir()), "temporary files are left behind")
    print("everything is right")


if __name__ == "__main__":
    run_main(main)
