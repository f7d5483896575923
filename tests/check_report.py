"""Try the sliders of a report in headless Chromium; part of `make check`, not of `make test`.

    python -m tests.check_report

It needs what tests/browser.py needs.
"""

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from stackmff.display.report import Card, make_card, write_card, write_report
from stackmff.errors import StackError
from stackmff.fusion.blending import Fused
from stackmff.processes import run_main
from tests.browser import ELEMENT, add_browser_options, browser, programs
from tests.drawn import draw_stack, texture

ARROW_RIGHT, HOME, END = "\ue014", "\ue011", "\ue010"


def get_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", type=Path, help="report to check (default: a synthetic one)")
    parser.add_argument("--screenshot", type=Path, help="PNG file for a screenshot")
    add_browser_options(parser)
    return parser


def draw_report(folder):
    """A report of two stacks, one with a hostile name, and a failure; returns its path."""
    cards = []
    for k, name in enumerate(("plain", "</title><script>alert(1)</script>")):
        picture = texture(240, 360, k)
        frames = np.stack(draw_stack(picture, 5))
        ramp = np.linspace(0, 65535, 360).astype(np.uint16)
        fused = Fused(picture, np.tile(ramp, (240, 1)), np.full((240, 360), 200, np.uint8))
        result = {"seconds": 1.2, "network_seconds": 0.8, "notes": ["frame 3 is excluded"]}
        cards.append(make_card(name, frames, fused, result, f"{k}.png"))
    cards.append(Card("broken", failure="03.jpg is cut short: copy it again"))
    files = [folder / "cards" / f"{k}.json" for k in range(len(cards))]
    for file, card in zip(files, cards, strict=True):
        write_card(file, card)
    write_report(folder / "report.html", "A run", files)
    return folder / "report.html"


def must(holds, sentence):
    """Raise StackError with the sentence where something does not hold."""
    if not holds:
        raise StackError(f"the report is wrong: {sentence}")


def check_pictures(page):
    """Every picture can be decoded."""
    count = page.run("return document.images.length")
    must(count > 0, "it shows no pictures")
    page.run("for (const image of document.images) image.loading = 'eager'")
    for _ in range(50):
        decoded = page.run("return [...document.images].filter(i => i.naturalWidth > 1).length")
        if decoded == count:
            return
        time.sleep(0.1)
    must(False, f"{decoded} of {count} pictures can be decoded")


def state(page):
    """(value, clip-path) of the first slider."""
    return page.run(
        "return [+document.querySelector('.pair input').value,"
        " getComputedStyle(document.querySelector('.pair .before')).clipPath]"
    )


def check_keys(page, slider):
    """The arrow keys, Home and End move the slider and uncover the picture."""
    before = state(page)
    page.ask("POST", f"{slider}/value", {"text": ARROW_RIGHT * 5})
    after = state(page)
    must(after[0] > before[0], f"the arrow keys do not move the slider from {before[0]}")
    must(after[1] != before[1], f"the slider moves, the picture stays at {before[1]}")
    for key, value in ((HOME, 0), (END, 100)):
        page.ask("POST", f"{slider}/value", {"text": key})
        must(state(page)[0] == value, f"Home and End lead to {state(page)[0]}, not {value}")


def set_slider(page, value):
    """Set the first slider as a script would."""
    page.run(
        "const input = document.querySelector('.pair input'); input.value = arguments[0];"
        "input.dispatchEvent(new Event('input', {bubbles: true}))",
        value,
    )


def check_pixels(page):
    """At 0 the fused picture is visible, at 100 the frame, at 50 half of each."""
    pair = page.find(".pair")
    page.run("document.activeElement.blur()")
    seen = {}
    for value in (0, 50, 100):
        set_slider(page, value)
        seen[value] = page.picture_of(pair).astype(int)
    width = seen[0].shape[1]
    # The middle, without the words below and the line of the slider.
    rows = slice(seen[0].shape[0] // 8, seen[0].shape[0] * 3 // 8)
    left, right = (
        np.s_[rows, width // 8 : width * 3 // 8],
        np.s_[rows, width * 5 // 8 : -width // 8],
    )
    differ = max(np.abs(seen[0][part] - seen[100][part]).mean() for part in (left, right))
    must(differ > 1, f"frame and fused picture differ by only {differ:.2f} grey levels")
    for value, part, what in ((100, left, "frame"), (0, right, "fused picture")):
        off = np.abs(seen[50][part] - seen[value][part]).mean()
        must(off < 0.5, f"at 50 the {what} is off by {off:.2f} grey levels")
    return differ


def check_pointer(page, slider):
    """The slider follows a press on the picture and a drag."""
    width = page.ask("GET", f"{slider}/rect")["width"]
    number = {ELEMENT: slider.rpartition("/")[2]}

    def move(share):
        x = round(width * (share - 0.5))
        return {"type": "pointerMove", "origin": number, "x": x, "y": 0, "duration": 50}

    for kind in ("mouse", "touch"):
        set_slider(page, 50)
        steps = [move(0.5), {"type": "pointerDown", "button": 0}, move(0.4), move(0.25)]
        steps.append({"type": "pointerUp", "button": 0})
        hand = {"type": "pointer", "id": kind, "parameters": {"pointerType": kind}}
        page.ask("POST", "/actions", {"actions": [{**hand, "actions": steps}]})
        page.ask("DELETE", "/actions")
        value = state(page)[0]
        must(abs(value - 25) < 3, f"a {kind} dragged the slider to 25 and it is at {value:.0f}")


def check_screens(page):
    """A phone needs no horizontal scrolling; the dark colour scheme is followed."""
    metrics = {"height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.tool("Emulation.setDeviceMetricsOverride", width=360, **metrics)
    wide = page.run("return document.documentElement.scrollWidth")
    must(wide <= 360, f"on a screen of 360 px the report is {wide} px wide")
    # Content that is not rendered yet does not count in the width of the document.
    cut = page.run(
        "return [...document.querySelectorAll('.stack')]"
        ".filter(part => part.scrollWidth > part.clientWidth).length"
    )
    must(cut == 0, f"on a screen of 360 px {cut} stacks are cut off")
    page.tool("Emulation.clearDeviceMetricsOverride")
    light = page.run("return getComputedStyle(document.body).backgroundColor")
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.tool("Emulation.setEmulatedMedia", features=dark)
    must(
        page.run("return getComputedStyle(document.body).backgroundColor") != light,
        "it ignores the dark colour scheme",
    )
    page.tool("Emulation.setEmulatedMedia", features=[])


def check(page, report, screenshot):
    """Check one report; return what was found."""
    page.ask("POST", "/url", {"url": report.resolve().as_uri()})
    check_pictures(page)
    slider = page.find(".pair input")
    check_keys(page, slider)
    differ = check_pixels(page)
    check_pointer(page, slider)
    check_screens(page)
    asked = page.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    must(not [name for name in asked if not name.startswith("data:")], f"it requests {asked}")
    logged = page.ask("POST", "/se/log", {"type": "browser"})
    must(not logged, f"the browser logs {logged}")
    if screenshot is not None:
        set_slider(page, 50)
        page.run("scrollTo(0, 0)")
        height = page.run("return document.documentElement.scrollHeight")
        metrics = {"deviceScaleFactor": 1, "mobile": False}
        height = min(height, 6000)
        page.tool("Emulation.setDeviceMetricsOverride", width=1280, height=height, **metrics)
        cv2.imwrite(str(screenshot), page.picture_of())
    return f"{report}: right; frame and fused picture differ by {differ:.1f} grey levels"


def main(argv=None):
    args = get_parser().parse_args(argv)
    chromium, driver = programs(args)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        report = args.report or draw_report(folder / "run")
        with browser(chromium, driver, folder / "profile") as page:
            print(check(page, report, args.screenshot))


if __name__ == "__main__":
    run_main(main)
