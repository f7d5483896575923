"""Drive the page of app.py in headless Chromium; part of `make check`, not of `make test`.

    python -m tests.check_app

One whole visit of the demo's stack, whose exported file is compared with what predict.py writes;
then the steps of tests/page_steps.py; then the server is killed at three moments. It needs what
tests/browser.py needs.
"""

import argparse
import contextlib
import io
import json
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import tifffile

import make_dataset
import predict
from stackmff.processes import run_main
from stackmff.webapp.form import fuse_form
from tests import page_steps
from tests.browser import add_browser_options, browser, programs
from tests.page import large
from tests.page.doing import PROJECTS, home, stroke, write_stack
from tests.visit import CARDS, STAGE, Visit, differ, must, served


def get_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stack", type=Path, help="folder of frames (default: those of make demo)")
    parser.add_argument("--screenshots", type=Path, help="folder for screenshots")
    parser.add_argument(
        "--large",
        action="store_true",
        help="also fuse 30 synthetic frames of 24 megapixels, and click meanwhile",
    )
    parser.add_argument("--steps", nargs="+", help="take these steps of page_steps.py only")
    add_browser_options(parser)
    return parser


def check_sheet(page, names):
    """Frames can be dragged to any place, including the last, and excluded."""
    shown = "return [...document.querySelectorAll('#sheet .card')].map(card => card.title)"
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
        page.run(drag, *places)
        page.until(shown, wanted)
    out = "return document.querySelectorAll('#sheet li.out').length"
    for count in (1, 0):
        page.click("#sheet li:nth-child(2) .toggle")
        page.until(out, count)


def check_form(page):
    """The form offers every option with a label, and refuses what is out of range."""
    shown = page.run(
        "return [...document.querySelectorAll('#fuse label')].map(label => label.firstChild.data)"
    )
    wanted = [f"{field['label']} " for field in fuse_form()]
    must(sorted(shown) == sorted(wanted), f"the form offers {shown}, not {wanted}")
    page.choose("#option-slab", 1)
    page.click("#go")
    page.until("return document.querySelector('#more-options').open")
    must(
        page.run("return document.querySelector('#work').hidden"),
        "a slab of one frame is fused",
    )
    page.choose("#option-slab", "")
    page.click("#more-options summary")


def check_cancel(page):
    """Cancelling ends the fusion and restores what was there before."""
    stage = page.run(STAGE)
    page.click("#go")
    page.until("return document.querySelector('#work').hidden", False)
    page.click("#cancel")
    page.until("return document.querySelector('#work').hidden")
    page.until(STAGE, stage)
    must(not page.errors(), f"the page shows {page.errors()} after cancelling")


def check_probe(page, names):
    """A click on the picture names a frame and the shares of the frames."""
    start = time.monotonic()
    page.drag("#picture", [(0.62, 0.6)])
    page.until("return !document.querySelector('#probe').hidden")
    took = time.monotonic() - start
    page.until("return document.querySelectorAll('#probe meter').length > 0")
    told = page.text("#probe-told")
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
    page.run(f"window.quick = (() => {{{slow}}})()")
    for share in (0.6, 0.65, 0.7, 0.75):
        page.drag("#picture", [(share, 0.6)])
    page.until("return document.querySelectorAll('#probe meter').length > 0")
    most = page.run("window.quick(); return window.most")
    must(most == 1, f"{most} mixtures are requested at once")


def check_opacity(page):
    """An overlay can be made fainter."""
    page.choose("#overlay", "focus")
    seen = {}
    for value in (100, 10):
        page.choose("#opacity", value)
        page.settled()
        seen[value] = page.picture()
    page.choose("#overlay", "")
    must(differ(seen[100], seen[10]) > 5, "a fainter overlay is not fainter")


def check_keys(page):
    """1, F, [ and ] do what their buttons say; Z undoes the stroke."""
    value = "return document.querySelector('#{}').value".format
    page.blur()
    before = float(page.run(value("radius")))
    page.keys("1", "]", "]", "[")
    must(page.run(value("zoom")) == "100 %", "1 does not zoom to 100 %")
    must(float(page.run(value("radius"))) == before + 4, "[ and ] do not change the brush")
    page.keys("f")
    must(page.run("return document.querySelector('#fit').ariaPressed") == "true", "F does not fit")
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
        page.run("return document.querySelector('#undo').disabled"),
        "the strokes of another picture are painted",
    )
    page.browser.ask("POST", f"{path}/value", {"text": str(file)})
    page.until("return document.querySelector('#undo').disabled", False)
    must(not page.errors(), f"a good file of strokes is refused: {page.errors()}")


def check_files(page, folder, stack, home):
    """The exported picture is what predict.py writes: with the stroke, and apart from it."""
    page.browser.tool("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(home))
    page.choose("#format", "tiff")
    page.choose("#bits", "16")
    taken = page.download(home, "#save")
    strokes = page.download(home, '[data-what="strokes"]')
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
        told = second.notes()
        for page, count in ((first, len(files)), (second, 3)):
            page.frames_read(count)
            page.click("#go")
        for page, count in ((first, len(files)), (second, 3)):
            page.until(STAGE, "result")
            page.until(CARDS, count)
            page.until("return document.querySelector('#work').hidden")
        for page in (first, second):  # the refusal is no longer shown
            must(not page.errors() and not page.notes(), f"the page shows {page.notes()}")
        return told


def check_kills(page, folder):
    """The server is killed while it fuses, after strokes, and while frames arrive: nothing is lost.

    Each new server serves the same projects at another address, and the project is opened from its
    start page.
    """
    projects = folder / "killed"
    files = write_stack(folder / "kill", 6, (500, 750), seed=40)
    late = write_stack(folder / "late", 2, (500, 750), seed=41, name="z{}.jpg")
    with served("--projects", projects) as (address, server):
        page.go(address)
        page.drop(files)
        page.frames_read(6)
        page.click("#go")
        page.until("return document.querySelector('#work').hidden", False)
        server.kill()
    with served("--projects", projects) as (address, server):
        page.go(address)
        page.click("#projects .card")
        page.frames_read(6)
        must("stopped while it fused" in page.errors(), "a run that was cut is not told")
        page.fuse()
        stroke(page, 2)
        page.click('[data-tool="result"]')
        page.settled()
        painted = page.picture("#picture")
        server.kill()
    with served("--projects", projects) as (address, server):
        page.go(address)
        page.click("#projects .card")
        page.until(STAGE, "result")
        page.until("return document.querySelector('#versions').innerText.includes('1 stroke')")
        page.settled()
        page.settled()
        away = differ(page.picture("#picture"), painted)
        must(away < 0.05, f"a retouched picture differs by {away:.2f} grey levels after a kill")
        page.drop(late)
        page.until(CARDS, 8)
        server.kill()
    with served("--projects", projects) as (address, _):
        page.go(address)
        page.click("#projects .card")
        page.frames_read(8)
        page.fuse()
        must(page.versions() == 2, f"{page.versions()} versions are left after three kills")
    page.logged()


def draw_demo(folder):
    """The demo's stack; returns its folder."""
    with contextlib.redirect_stderr(io.StringIO()):
        make_dataset.main(["--demo", "--output_dir", str(folder), "--workers", "1"])
    return folder / "dof_stack" / "motorcycle"


def visit(page, folder, stack, shots, downloads):
    """One whole session; print what was found."""
    page.shot(shots, "start")
    files = sorted(stack.iterdir())
    names = [file.name for file in files]
    page.drop(files)
    page.frames_read(len(files))
    page.settled()
    page.shot(shots, "frames")
    check_form(page)
    check_sheet(page, names)
    check_cancel(page)
    page.fuse()
    page.shot(shots, "result")
    told, took = check_probe(page, names)
    page.shot(shots, "probe")
    print(f"a click shows {told!r} after {1000 * took:.0f} ms")
    for overlay in ("focus", "confidence"):
        page.choose("#overlay", overlay)
        page.settled()
        page.shot(shots, overlay)
    check_clicks(page)
    check_opacity(page)
    page.click('[data-tool="compare"]')
    page.settled()
    page.shot(shots, "compare")
    stroke(page, len(files))
    page.click("#pane")
    page.settled()
    page.shot(shots, "retouch")
    name, changed = check_files(page, folder, stack, downloads)
    check_keys(page)
    check_strokes_come_back(page, downloads)
    print(f"{name} is that of predict.py bit for bit; the stroke changes {changed} pixels")
    page.click('[data-tool="3d"]')
    page.settled()
    before = page.picture()
    page.shot(shots, "3d")
    page.drag("#scene", [(0.5, 0.5), (0.6, 0.55), (0.7, 0.5)])
    page.settled()
    turned = differ(page.picture(), before)
    must(turned > 1 and before.std() > 10, f"turning the 3D view changes {turned:.2f} grey levels")
    home(page)
    must(not page.errors(), f"the page shows {page.errors()}")
    # The strokes of another picture were refused.
    logged = [one for one in page.logged() if "/strokes - Failed to load resource" not in one]
    must(not logged, f"the browser logs {logged}")


def main(argv=None):
    args = get_parser().parse_args(argv)
    chromium, driver = programs(args)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        stack = args.stack if args.stack or args.steps else draw_demo(folder / "demo")
        downloads = folder / "downloads"
        downloads.mkdir()
        shared = folder / page_steps.SHARED
        shared.mkdir()
        with (
            served("--projects", folder / PROJECTS, "--root", shared) as (address, server),
            browser(chromium, driver, folder / "profile") as opened,
        ):
            opened.tool(
                "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads)
            )
            page = Visit(opened, address)
            if not args.steps:
                visit(page, folder, stack, args.screenshots, downloads)
            page_steps.take(page, folder, downloads, args.screenshots, args.steps)
            if args.large:
                large.check_large(page, large.draw_large(folder), server.pid)
                home(page)
                large.check_first_paint(page)
            if not args.steps:
                check_kills(page, folder)
                print("three kills: nothing is lost")
        if not args.steps:
            temporary = folder / "temporary"
            temporary.mkdir()
            with served("--temp_dir", temporary) as (address, _):
                said = check_two(chromium, driver, folder, address, stack)
                print(f"two sessions: one fuses, the other shows {said!r} and fuses the rest")
            must(not list(temporary.iterdir()), "temporary files are left behind")
    print("everything is right")


if __name__ == "__main__":
    run_main(main)
