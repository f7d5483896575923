"""Open the page of app.py in headless Chromium and go its way; not part of `make test`.

    .venv/bin/pip install -r requirements-app.txt
    .venv/bin/python -m tests.check_app

Frames are dropped, fused, compared, asked about, retouched and taken home, and what comes home is
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
from tests.browser import ELEMENT, add_browser_options, browser, programs
from tests.drawn import draw_stack, texture

HOUSE = Path(__file__).parent.parent
MOST_MEMORY = 2e9  # bytes, that of predict.py --low_memory
LATEST = 120  # seconds that anything may take


def get_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stack", type=Path, help="folder of frames (default: the demo's)")
    parser.add_argument("--screenshots", type=Path, help="folder for what the browser shows")
    parser.add_argument(
        "--large",
        action="store_true",
        help="also fuse 30 drawn frames of 24 megapixels, and click meanwhile",
    )
    add_browser_options(parser)
    return parser


def must(holds, sentence):
    """Raise StackError with the sentence where something does not hold."""
    if not holds:
        raise StackError(f"the page is not right: {sentence}")


@contextlib.contextmanager
def served(folder, *options):
    """(address, process) of a page that is served, its temporary files in `folder`."""
    command = [sys.executable, "app.py", "--port", "0", "--temp_dir", str(folder), *options]
    server = subprocess.Popen(command, cwd=HOUSE, stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        must("http://" in line, f"it does not start: {line}")
        yield line.split()[2], server.pid
    finally:
        server.terminate()
        server.wait(30)


class Page:
    """The page in a Browser.

    Args:
        page: Browser; address: of the server.
    """

    def __init__(self, page, address):
        self.page = page
        page.ask("POST", "/url", {"url": address})
        self.until("return document.body.dataset.ready", "yes")

    def until(self, script, wanted=True):
        """Wait until a script returns what is wanted."""
        end = time.monotonic() + LATEST
        while time.monotonic() < end:
            found = self.page.run(script)
            if found == wanted:
                return
            time.sleep(0.05)
        must(False, f"{script} is {found} and not {wanted}")

    def drop(self, files):
        """Drop files as a hand would."""
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.page.tool("Input.dispatchDragEvent", type=kind, x=500, y=400, data=data)

    def click(self, selector):
        try:
            self.page.ask("POST", f"{self.page.find(selector)}/click")
        except StackError as error:
            if "stale" not in str(error):
                raise
            # The sheet was drawn anew between the two.
            self.page.ask("POST", f"{self.page.find(selector)}/click")

    def choose(self, selector, value):
        self.page.run(
            "const input = document.querySelector(arguments[0]); input.value = arguments[1];"
            "for (const kind of ['input', 'change'])"
            " input.dispatchEvent(new Event(kind, {bubbles: true}))",
            selector,
            value,
        )

    def hand(self, selector, places, up=True):
        """Move the mouse to the first of the places (shares of an element), press, drag, let go."""
        path = self.page.find(selector)
        box = self.page.ask("GET", f"{path}/rect")
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
        self.page.ask("POST", "/actions", {"actions": [{**mouse, "actions": steps}]})
        self.page.ask("DELETE", "/actions")

    def keys(self, *letters):
        """Press keys, one after the other."""
        steps = [{"type": f"key{way}", "value": key} for key in letters for way in ("Down", "Up")]
        self.page.ask(
            "POST", "/actions", {"actions": [{"type": "key", "id": "k", "actions": steps}]}
        )

    def fuse(self, files):
        """Drop frames, wait for their sheet, fuse, wait for the picture."""
        self.drop(files)
        count = len(files)
        self.until("return document.querySelectorAll('#sheet li').length", count)
        self.until("return !document.querySelector('#go').disabled")
        self.click("#go")
        self.until("return document.body.dataset.stage", "result")
        self.until("return document.querySelector('#work').hidden")
        self.settled()

    def settled(self):
        """Wait until the canvas shows what it is to show."""
        time.sleep(0.5)

    def shot(self, folder, name):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{name}.png"), self.page.picture_of())

    def errors(self):
        return self.page.run("return document.querySelector('#said').textContent")


def check_sheet(page, names):
    """Frames are dragged to any place, the last one too, and left out."""
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
        page.page.run(drag, *places)
        page.until(shown, wanted)
    out = "return document.querySelectorAll('#sheet li.out').length"
    for count in (1, 0):
        page.click("#sheet li:nth-child(2) button")
        page.until(out, count)


def check_cancel(page):
    """To cancel ends the fusing, and what was there before is there again."""
    stage = page.page.run("return document.body.dataset.stage")
    page.click("#go")
    page.until("return document.querySelector('#work').hidden", False)
    page.click("#cancel")
    page.until("return document.querySelector('#work').hidden")
    page.until("return document.body.dataset.stage", stage)
    must(not page.errors(), f"the page says {page.errors()} when it is cancelled")


def check_wipe(page):
    """At one end the frame is seen, at the other the fused picture; dragging goes between."""
    seen = {}
    for value in (0, 100):
        page.choose("#wipe", value)
        page.settled()
        seen[value] = page.page.picture_of(page.page.find("#look")).astype(int)
    differ = np.abs(seen[0] - seen[100])[100:-100, 200:-200].mean()
    must(differ > 1, f"frame and fused picture differ by {differ:.2f} grey levels only")
    page.choose("#wipe", 50)
    page.hand("#picture", [(0.5, 0.5), (0.45, 0.5), (0.4, 0.5)])
    value = float(page.page.run("return document.querySelector('#wipe').value"))
    must(30 < value < 48, f"the line is dragged to two fifths and stands at {value}")


def check_probe(page, names):
    """A click on the picture names a frame, and says what is mixed."""
    start = time.monotonic()
    page.hand("#picture", [(0.62, 0.6)])
    page.until("return !document.querySelector('#probe').hidden")
    took = time.monotonic() - start
    page.until("return document.querySelectorAll('#probe meter').length > 0")
    told = page.page.run("return document.querySelector('#probe').innerText")
    must(any(name in told for name in names), f"a click says {told!r}, and no frame")
    return told.splitlines()[0], took


def check_clicks(page):
    """Many clicks ask for one mixture at a time."""
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
    page.page.run(f"window.quick = (() => {{{slow}}})()")
    for share in (0.6, 0.65, 0.7, 0.75):
        page.hand("#picture", [(share, 0.6)])
    page.until("return document.querySelectorAll('#probe meter').length > 0")
    most = page.page.run("window.quick(); return window.most")
    must(most == 1, f"{most} mixtures are asked for at once")


def check_stroke(page, frame):
    """Paint a stroke of the last frame."""
    page.click('[data-tool="retouch"]')
    page.click(f"#sheet li:nth-child({frame + 1})")
    page.hand("#picture", [(0.4, 0.35), (0.5, 0.5), (0.6, 0.4)])
    page.until("return document.querySelector('#undo').disabled", False)
    page.click("#undo")
    page.until("return document.querySelector('#undo').disabled", True)
    page.hand("#picture", [(0.4, 0.35), (0.5, 0.5), (0.6, 0.4)])
    page.until("return document.querySelector('#undo').disabled", False)
    page.settled()


def check_opacity(page):
    """An overlay can be made fainter."""
    page.choose("#overlay", "focus")
    seen = {}
    for value in (100, 10):
        page.choose("#opacity", value)
        page.settled()
        seen[value] = page.page.picture_of(page.page.find("#look")).astype(int)
    page.choose("#overlay", "")
    differ = np.abs(seen[100] - seen[10]).mean()
    must(differ > 5, f"a fainter overlay differs by {differ:.2f} grey levels only")


def check_keys(page):
    """1, F, [ and ] do what the buttons say; Z takes the stroke back."""
    value = "return document.querySelector('#{}').value".format
    page.page.run("document.activeElement.blur()")
    before = float(page.page.run(value("radius")))
    page.keys("1", "]", "]", "[")
    must(page.page.run(value("zoom")) == "100 %", "1 is not 100 %")
    must(float(page.page.run(value("radius"))) == before + 4, "[ and ] are not the brush's size")
    page.keys("f")
    must(page.page.run(value("zoom")) != "100 %", "F does not fit the picture")
    page.keys("z")
    page.until("return document.querySelector('#undo').disabled", True)


def check_strokes_come_back(page, home):
    """A file of strokes is painted; one of another picture is refused with a sentence."""
    (file,) = home.glob("*_strokes.json")
    other = home / "other.json"
    other.write_text(json.dumps(json.loads(file.read_text()) | {"width": 5}))
    path = page.page.find("#strokes")
    page.page.ask("POST", f"{path}/value", {"text": str(other)})
    page.until("return document.querySelector('#said').textContent.includes('other.json is for')")
    must(page.page.run("return document.querySelector('#undo').disabled"), "it is painted")
    page.page.ask("POST", f"{path}/value", {"text": str(file)})
    page.until("return document.querySelector('#undo').disabled", False)
    must(not page.errors(), f"a good file of strokes is told {page.errors()}")


def download(page, folder, selector):
    """The file that a click brings."""
    known = set(folder.iterdir())
    page.click(selector)
    end = time.monotonic() + LATEST
    while time.monotonic() < end:
        new = [path for path in set(folder.iterdir()) - known if path.suffix != ".crdownload"]
        if new and new[0].stat().st_size and not new[0].name.startswith("."):
            return new[0]
        time.sleep(0.1)
    must(False, f"{selector} brings no file")


def check_files(page, folder, stack, home):
    """What comes home is what predict.py writes: but for the stroke, and with it."""
    page.page.tool("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(home))
    page.choose("#format", "tiff")
    page.choose("#bits", "16")
    taken = download(page, home, "#save")
    strokes = download(page, home, '[data-what="strokes"]')
    words = ["--stack_path", str(stack), "--bits", "16", "--quiet"]
    predict.main([*words, "--output", str(folder / "plain.tif")])
    retouched = folder / "retouched.tif"
    predict.main([*words, "--retouch", str(strokes), "--output", str(retouched)])
    must(
        taken.read_bytes() == retouched.read_bytes(), f"{taken.name} is not what predict.py writes"
    )
    plain, painted = tifffile.imread(folder / "plain.tif"), tifffile.imread(taken)
    must(painted.dtype == np.uint16, f"{taken.name} has {painted.dtype}")
    changed = (plain != painted).any(2)
    record = json.loads(strokes.read_text())["strokes"]
    must(len(record) == 1, f"{len(record)} strokes are kept, one was painted")
    near = np.zeros(changed.shape, np.uint8)
    points = np.round(np.array(record[0]["points"])).astype(np.int32)
    cv2.polylines(near, [points], False, 1, round(2 * record[0]["radius"]) + 4)
    must(changed.any(), "the stroke changes nothing")
    must(not (changed & (near == 0)).any(), "pixels beside the stroke differ from predict.py's")
    return taken.name, int(changed.sum())


def check_two(chromium, driver, folder, address, stack):
    """Two at once, one with a broken file: each ends as it should."""
    broken = folder / "broken"
    broken.mkdir()
    (broken / "notes.jpg").write_text("this is no picture")
    files = sorted(stack.iterdir())
    with (
        browser(chromium, driver, folder / "one") as one,
        browser(chromium, driver, folder / "two") as two,
    ):
        first, second = Page(one, address), Page(two, address)
        first.drop(files)
        second.drop([*files[:3], broken / "notes.jpg"])
        second.until("return document.querySelector('#said').textContent.includes('notes.jpg')")
        second.until("return document.querySelectorAll('#sheet li').length", 3)
        told = second.errors()
        first.until("return document.querySelectorAll('#sheet li').length", len(files))
        for page in (first, second):
            page.until("return !document.querySelector('#go').disabled")
            page.click("#go")
        for page, count in ((first, len(files)), (second, 3)):
            page.until("return document.body.dataset.stage", "result")
            found = page.page.run("return document.querySelectorAll('#sheet li').length")
            must(found == count, f"{found} frames are shown, {count} were dropped")
        for page in (first, second):  # what was refused has been said before
            must(not page.errors(), f"the page says {page.errors()}")
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
    """Memory in use by a process and its children, bytes by their number; pages of files count."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if server in (int(entry.name), parent):
                status = (entry / "status").read_text()
                for line in status.splitlines():  # one that has ended has no memory
                    if line.startswith("VmHWM"):
                        found[int(entry.name)] = 1024 * int(line.split()[1])
    return found


def check_large(page, files, server):
    """Clicks while 30 frames of 24 megapixels are fused; prints how long they take."""
    page.drop(files)
    page.until("return document.querySelectorAll('#sheet li').length", len(files))
    page.until("return !document.querySelector('#go').disabled")
    start = time.monotonic()
    page.click("#go")
    page.until("return document.body.dataset.stage", "result")
    drafted = time.monotonic() - start
    # The page times itself: the driver adds some 100 ms of its own.
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
    while page.page.run("return !document.querySelector('#work').hidden"):
        place = 0.3 + 0.4 * (len(took) * 0.618 % 1)
        page.page.run(watch, place, place)
        page.until("return window.took !== null")
        took.append(page.page.run("return window.took"))
        for process, size in memory_of(server).items():
            most[process] = max(most.get(process, 0), size)
        time.sleep(0.3)
    whole = time.monotonic() - start
    took = np.array(took)
    late = f"{(took > 200).mean():.1%} after more than 200"
    slow = f"{np.median(took):.0f} ms in the middle, {took.max():.0f} at most, {late}"
    sizes = ", ".join(f"{size / 2**20:.0f}" for size in most.values())
    print(
        f"{len(files)} frames: draft {drafted:.1f} s, all {whole:.1f} s; {len(took)} clicks: {slow}"
    )
    print(f"memory of the page and its work: {sizes} MiB")
    must(not page.errors(), f"the page says {page.errors()}")
    must(took.max() < 200, f"a click is answered after {took.max():.0f} ms")
    must(sum(most.values()) < MOST_MEMORY, f"{sizes} MiB of memory are taken")


def draw_demo(folder):
    """The demo's stack; returns its folder."""
    with contextlib.redirect_stderr(io.StringIO()):
        make_dataset.main(["--demo", "--output_path", str(folder), "--workers", "1"])
    return folder / "dof_stack" / "motorcycle"


def go(page, folder, stack, shots):
    """The whole way of one session; prints what holds."""
    home = folder / "home"
    home.mkdir()
    page.page.tool("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(home))
    page.shot(shots, "empty")
    files = sorted(stack.iterdir())
    names = [file.name for file in files]
    page.drop(files)
    page.until("return document.querySelectorAll('#sheet li').length", len(files))
    page.until("return !document.querySelector('#go').disabled")
    page.settled()
    page.shot(shots, "frames")
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
    print(f"a click says {told!r} after {1000 * took:.0f} ms")
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
    print(f"{name} is predict.py's, bit for bit; the stroke has changed {changed} pixels")
    page.click('[data-tool="relief"]')
    page.settled()
    before = page.page.picture_of(page.page.find("#look")).astype(int)
    page.shot(shots, "relief")
    page.hand("#relief", [(0.5, 0.5), (0.6, 0.55), (0.7, 0.5)])
    page.settled()
    turned = np.abs(page.page.picture_of(page.page.find("#look")).astype(int) - before).mean()
    must(turned > 1 and before.std() > 10, f"the relief turns by {turned:.2f} grey levels")
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.page.tool("Emulation.setEmulatedMedia", features=dark)
    page.click('[data-tool="compare"]')
    page.settled()
    page.shot(shots, "dark")
    page.page.tool("Emulation.setEmulatedMedia", features=[])
    page.click("#clear")
    page.page.ask("POST", "/alert/accept")  # there are strokes: it asks first
    page.until("return document.body.dataset.stage", "empty")
    must(not page.errors(), f"the page says {page.errors()}")
    # Without a graphics card Chromium warns about each of its stand-ins.
    logged = page.page.ask("POST", "/se/log", {"type": "browser"})
    # The strokes that do not fit are refused.
    refusal = "/strokes - Failed to load resource"
    logged = [one for one in logged if one["level"] == "SEVERE" and refusal not in one["message"]]
    must(not logged, f"the browser says {logged}")


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
                go(Page(page, address), folder, stack, args.screenshots)
            said = check_two(chromium, driver, folder, address, stack)
            print(f"two at once: one fuses, the other one is told {said!r} and fuses the rest")
            if args.large:
                with browser(chromium, driver, folder / "large") as page:
                    check_large(Page(page, address), draw_large(folder), server)
        must(not list(temporary.iterdir()), "temporary files stay behind")
    print("all right")


if __name__ == "__main__":
    run_main(main)
