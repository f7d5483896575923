"""Steps: the viewer, the progress of the work, the keyboard, the brush."""

import json
import zipfile

import cv2
import numpy as np

import predict
from stackmff.fusion.methods import build_method
from stackmff.images.formats import decode
from tests.page.doing import (
    DOWN,
    ESCAPE,
    SHIFT,
    SPACE,
    TAB,
    TALLY,
    fused,
    home,
    write_stack,
    write_walk,
)
from tests.visit import STAGE, differ, must

OPTION = (  # value of the option of a select that has a text
    "return [...document.querySelector(arguments[0]).options].find(one =>"
    " one.text === arguments[1]).value"
)
MOST_TABS = 9  # from the top of the page to Fuse


def zoom_of(page):
    return float(page.run("return document.querySelector('#zoom').value").split()[0])


def check_pixels(page, folder, ratio):
    """100 % is a pixel of the picture on one of the screen; Fit enlarges only when asked."""
    page.resize((1000, 700), ratio)
    sides = (900, 1200) if ratio == 1 else (1800, 2400)
    files = write_stack(folder / f"pixels{ratio}", 2, sides, seed=8, name="p{}.png")
    fused(page, files)
    page.blur()
    page.keys("1")
    page.settled()
    page.settled()
    must(zoom_of(page) == 100, f"1 zooms to {zoom_of(page)} %")
    seen = page.picture("#picture").astype(np.uint8)
    middle = seen[seen.shape[0] // 2 - 60 :, seen.shape[1] // 2 - 60 :][:120, :120]
    found = [cv2.matchTemplate(cv2.imread(str(f)), middle, cv2.TM_SQDIFF).min() for f in files]
    error = min(found) / middle.size
    must(error < 400, f"100 % at {ratio} px per CSS px is not the picture: {error:.0f}")
    home(page)
    fused(page, write_stack(folder / f"small{ratio}", 2, (60, 90), seed=9))
    must(zoom_of(page) == 100, f"a small picture is fitted to {zoom_of(page)} %")
    page.click("#fit")
    must(zoom_of(page) > 300, "Fit does not enlarge a small picture when asked again")
    page.resize((1280, 720))
    home(page)


def check_compare(page, folder):
    """The result is seen first; the slider shows the frame where it says so; Space flickers."""
    name = "specimen_of_a_long_series_{:04}.jpg"
    fused(page, write_stack(folder / "compare", 3, seed=10, name=name))
    must(
        page.text("#left") == "" and page.text("#right") == "Fused", "the result is not seen first"
    )
    result = page.picture("#picture")
    page.click('[data-tool="compare"]')
    seen = {}
    for value in (0, 100):
        page.choose("#wipe", value)
        page.settled()
        seen[value] = page.picture("#picture")
    ends = page.text("#wipe-left"), page.text("#wipe-right")
    must(ends == ("Frame", "Fused"), f"the ends of the slider are called {ends}")
    listed = page.run(
        "return [...document.querySelectorAll('#other [label=Frames] option')].map(one => one.text)"
    )
    wanted = [f"…ies_{k:04}.jpg" for k in (400, 401, 402)]
    must(listed == wanted, f"frames are listed as {listed}")
    inner = np.s_[150:-150, 360:-360]  # inside the picture, without the handle
    must(differ(seen[100][inner], result[inner]) < 0.5, "at Fused the slider shows something else")
    must(differ(seen[0][inner], result[inner]) > 1, "at Frame the slider shows the result")
    page.choose("#wipe", 100)
    page.blur()
    flicker = "window.dispatchEvent(new KeyboardEvent('key{}', {{key: ' ', bubbles: true}}))"
    page.run(
        "document.querySelector('#picture').focus();"
        "document.activeElement.dispatchEvent("
        "new KeyboardEvent('keydown', {key: ' ', bubbles: true}))"
    )
    page.settled()
    held = page.picture("#picture")
    page.run(flicker.format("up"))
    page.settled()
    must(differ(held[inner], seen[0][inner]) < 0.5, "Space does not show the frame")
    must(differ(page.picture("#picture"), seen[100]) < 0.5, "Space does not go back")
    page.click("#side")
    page.settled()
    beside = page.picture("#picture")
    half = beside.shape[1] // 2
    must(
        differ(beside[:, :half][inner[0], 150:-150], beside[:, -half:][inner[0], 150:-150]) > 0.5,
        "side by side shows one picture twice",
    )
    page.run("document.querySelector('#picture').focus()")
    page.keys("+", "+", "+")
    page.settled()
    zoomed = page.picture("#picture")
    for name, part in (("left", np.s_[:, :half]), ("right", np.s_[:, -half:])):
        must(differ(beside[part], zoomed[part]) > 3, f"the {name} picture is not zoomed, too")
    page.keys("f")
    page.click("#side")
    home(page)


def check_overlays(page, folder, shots):
    """The overlays are seen on a red picture, too."""
    fused(page, write_stack(folder / "red", 4, seed=11, colour=(0.9, 0.1, 0.1)))
    plain = page.picture("#picture")
    for overlay in ("focus", "confidence"):
        page.choose("#overlay", overlay)
        page.settled()
        seen = page.picture("#picture")
        must(differ(seen, plain) > 5, f"the overlay {overlay} is not seen on a red picture")
        page.shot(shots, f"red_{overlay}")
    page.choose("#overlay", "")
    home(page)


def check_fingers(page, folder, shots):
    """On a phone a finger moves the picture, in Compare beside the line, too."""
    page.resize((390, 780), 2, touch=True)
    fused(page, write_stack(folder / "fingers", 3, (1500, 1000), seed=14))
    page.shot(shots, "phone")
    page.run("document.querySelector('#viewer').scrollIntoView()")
    page.click("#actual-size")
    for tool in ("result", "compare"):
        page.click(f'[data-tool="{tool}"]')
        page.settled()
        before = page.picture("#picture")
        page.drag("#picture", [(0.8, 0.3), (0.7, 0.3), (0.5, 0.35)], finger=True)
        page.settled()
        moved = differ(before, page.picture("#picture"))
        must(moved > 3, f"a finger does not move the picture in {tool}: {moved:.1f}")
    wide = page.run("return document.documentElement.scrollWidth > innerWidth + 1")
    must(not wide, "the page is wider than a phone")
    page.resize((1280, 720))
    home(page)


def check_progress(page, folder):
    """One bar that only grows; the first result stays in use during a second run."""
    files = write_stack(folder / "progress", 12, (1000, 1650), seed=15)
    page.drop(files)
    page.frames_read(12)
    watch = """
        window.seen = [];
        const look = () => {
            const work = document.querySelector('#work'), bar = document.querySelector('#work-bar');
            if (!work.hidden && document.querySelector('#go').hidden)
                window.seen.push([bar.value, document.querySelector('#work-text').textContent,
                    document.querySelector('#work-status').textContent,
                    document.querySelector('#zoom').value, document.body.dataset.stage]);
        };
        window.looking = setInterval(look, 30);
    """
    page.run(watch)
    page.fuse()
    seen = page.run("clearInterval(window.looking); return window.seen")
    bars = [one[0] for one in seen]
    must(bars == sorted(bars) and bars[-1] > 0.5, f"the bar goes {bars}")
    must(any("left" in one[1] for one in seen), "the time that is left is not told")
    # Which stages are seen depends on how fast they are; a few frames are read between two looks.
    stages = {one[1].rstrip("0123456789 ").split(" ")[0] for one in seen} - {""}
    must(len(stages) >= 2, f"the stages are not told: {stages}")
    must(len({one[2] for one in seen}) < 12, "each step is announced, not each stage")
    drafted = {one[3] for one in seen if one[4] == "result"}
    must(len(drafted) < 2, f"the draft and the picture are shown at {drafted}")
    must(
        drafted == {page.run("return document.querySelector('#zoom').value")} or not drafted,
        "the draft is shown at another size than the picture",
    )
    page.click("#go")
    page.until("return document.querySelector('#work').hidden", False)
    page.drag("#picture", [(0.5, 0.5)])
    page.until("return document.querySelector('#probe').hidden", False)
    must(not page.run("return document.querySelector('#work').hidden"), "the run was over at once")
    page.until("return document.querySelector('#work').hidden")
    page.until(TALLY.format("#versions .card"), 2)
    home(page)


def check_keyboard(page, folder):
    """Fuse has the focus once the frames are read, and the picture has it then; "?" tells keys."""
    page.drop(write_stack(folder / "keyboard", 3, seed=16))
    page.frames_read(3)
    focus = "return document.activeElement.id"
    page.until(focus, "go")
    page.blur()
    page.run("document.querySelector('#home').focus()")
    tabs = 0
    while page.run(focus) != "go" and tabs < MOST_TABS:
        page.keys(TAB)
        tabs += 1
    must(tabs < MOST_TABS, f"Fuse is {tabs} stops of the Tab key away")
    page.keys("\ue007")
    page.until(STAGE, "result")
    page.until(focus, "picture")
    page.keys("?")
    page.until("return document.querySelector('#shortcuts').open")
    must("sharpest" in page.text("#shortcuts"), "the shortcuts are not listed")
    page.keys(ESCAPE)
    page.until("return document.querySelector('#shortcuts').open", False)
    cards = page.run(
        "return [...document.querySelectorAll('#sheet .card')].filter(one =>"
        " one.tabIndex === 0).length"
    )
    must(cards == 1, f"{cards} cards are stops of the Tab key")
    check_keys_of_tools(page)
    home(page)


def check_keys_of_tools(page):
    """The keyboard takes the sharpest frame, paints, and draws a crop."""
    focus = "document.querySelector('#picture').focus()"
    enter, source = "\ue007", "return document.querySelector('#source').value"
    page.click('[data-tool="retouch"]')
    page.run(focus)
    page.keys(DOWN, DOWN)
    page.until(source, "frame 2")
    page.keys("s", enter)  # the middle is sharp in the middle frame
    page.until(source, "frame 1")
    page.keys(enter)
    page.until("return document.querySelector('#versions').innerText.includes('1 stroke')")
    page.choose("#crop", "free")  # it shows the result
    page.until("return document.querySelector('#tools').dataset.tool", "result")
    page.run(focus)
    told = "return document.querySelector('#crop-size').textContent"
    page.keys(DOWN)
    page.until(told, "288 × 192 pixels")
    page.keys(DOWN, held=[SHIFT])
    page.until(told, "288 × 196 pixels")
    page.choose("#crop", "")


def check_source(page, folder, shots):
    """The source lies beside the result; Alt-click takes the sharpest frame, Down the next one."""
    fused(page, write_stack(folder / "source", 3, seed=17, name="s{}.jpg"))
    page.click('[data-tool="retouch"]')
    page.run(
        "const pane = document.querySelector('#pane');"
        "if (pane.getAttribute('aria-pressed') !== 'true') pane.click()"
    )
    page.settled()
    hint = "return document.querySelector('#hint').textContent"
    must("Paint on the result" in page.run(hint), "Retouch does not tell what to do")
    source = "return document.querySelector('#source').value"
    page.run("document.querySelector('#picture').focus()")
    page.keys("+", "+", "+")  # a picture that is smaller than its pane stays in the middle
    page.settled()
    before = page.picture()
    page.drag("#picture", [(0.25, 0.5), (0.2, 0.45), (0.15, 0.4)])  # the source is no canvas
    page.settled()
    must(page.run("return document.querySelector('#undo').disabled"), "the source is painted on")
    must(differ(page.picture(), before) > 1, "dragging the source moves nothing")
    page.click("#fit")
    page.settled()
    page.drag("#picture", [(0.9, 0.5)], alt=True)  # the frames are sharp from left to right
    page.until(source, "frame 2")
    page.drag("#picture", [(0.58, 0.5)], alt=True)
    page.until(source, "frame 0")
    page.run("document.querySelector('#picture').focus()")
    page.keys(DOWN)
    page.until(source, "frame 1")
    page.settled()
    page.shot(shots, "source_pane")
    page.resize((390, 780), 2, touch=True)
    page.settled()
    above = page.run(
        "const at = name => document.querySelector(name).getBoundingClientRect();"
        "return at('#left').bottom < (at('#viewer').top + at('#viewer').bottom) / 2"
    )
    must(above, "on a phone the source is above the result, and its name is not")
    page.shot(shots, "source_on_phone")
    page.resize((1280, 720))
    page.settled()
    page.choose("#strength", 40)
    page.drag("#picture", [(0.7, 0.5), (0.75, 0.5)])
    page.until("return document.querySelector('#undo').disabled", False)
    page.until(hint, "")
    page.choose("#strength", 100)
    home(page)


def check_methods(page, folder, shots):
    """The result is compared with what a method of the toolbox makes of the same frames."""
    files = write_stack(folder / "methods", 3, seed=60)
    page.drop(files)
    page.frames_read(3)
    page.choose("#option-align", page.run(OPTION, "#option-align", "Off"))
    page.fuse()
    page.choose("#option-align", page.run(OPTION, "#option-align", "Automatic"))
    page.click('[data-tool="compare"]')
    lacking = page.run(
        "return [...document.querySelectorAll('#other option')].filter(one => one.disabled !=="
        " one.textContent.includes('not installed')).length"
    )
    must(not lacking, "methods that are not installed can be chosen, or others cannot")
    page.choose("#other", "method LP")
    page.until("return document.querySelector('#left').innerText", "LP")
    must(page.run("return document.querySelector('#making').hidden"), "LP is made for ever")
    wanted = build_method("LP")(np.stack([decode(file).picture for file in files]))[..., ::-1]
    inner = np.ascontiguousarray(wanted[20:-20, 60:-60])
    errors = []
    for value in (0, 100):
        page.choose("#wipe", value)
        page.settled()
        seen = page.picture("#picture").astype(np.uint8)
        errors.append(cv2.matchTemplate(seen, inner, cv2.TM_SQDIFF).min() / inner.size)
    must(errors[0] < 60 and errors[1] > 1.2 * errors[0], f"the picture of LP differs by {errors}")
    page.choose("#wipe", 50)
    page.settled()
    page.shot(shots, "method")
    page.reload()
    page.until(STAGE, "result")
    page.click('[data-tool="compare"]')
    page.choose("#other", "method LP")  # it is kept
    page.until("return document.querySelector('#left').innerText", "LP")
    home(page)


def check_other_sources(page, folder, downloads, shots):
    """The brush takes from another version and from a slab; predict.py replays such strokes."""
    files = write_stack(folder / "others", 4, seed=61)
    page.drop(files)
    page.frames_read(4)
    page.click("#more-options summary")
    page.choose("#option-slab", 2)
    page.fuse()
    page.choose("#option-slab", "")
    page.choose("#option-prefer", 2)
    page.fuse()
    page.click('[data-tool="retouch"]')
    for k, source in enumerate(("version-1", "version-1-slab_1-2")):
        page.choose("#source", source)
        page.until("return document.querySelector('#source').value", source)
        page.settled()
        page.drag("#picture", [(0.7, 0.4 + 0.1 * k), (0.8, 0.45 + 0.1 * k)])
        told = f"return document.querySelector('#versions').innerText.includes('{k + 1} stroke')"
        page.until(told)
    told = page.text("#left")
    must(told == "Source: Version 1, frames 1 to 2", f"the source is told as {told!r}")
    page.shot(shots, "other_sources")
    page.click("#versions li:first-child .toggle")  # version 1; its strokes stay
    page.click("#yes")
    page.until(TALLY.format("#versions .card"), 1)
    page.reload()
    page.until(STAGE, "result")
    page.choose("#format", "png")
    page.choose("#bits", "16")
    taken = page.download(downloads, "#save")
    archive = page.download(downloads, '[data-what="strokes"]')
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder / "strokes")
    (strokes,) = (folder / "strokes").glob("*.json")
    words = ["--stack_path", str(files[0].parent), "--prefer", "far", "--bits", "16", "--quiet"]
    replayed = folder / "replayed.png"
    predict.main([*words, "--retouch", str(strokes), "--output", str(replayed)])
    must(
        np.array_equal(cv2.imread(str(taken), -1), cv2.imread(str(replayed), -1)),
        "predict.py makes another picture of these strokes",
    )
    told = "return document.querySelector('#versions').innerText.includes('2 strokes')"
    page.click('[data-tool="retouch"]')
    page.click("#undo")
    page.until(told, False)
    page.click("#undo")
    page.until("return document.querySelector('#undo').disabled")
    where = page.browser.find("#strokes")
    page.browser.ask("POST", f"{where}/value", {"text": str(archive)})
    page.until(told)
    painted = taken.read_bytes()
    taken.unlink()
    again = page.download(downloads, "#save")
    must(again.read_bytes() == painted, "strokes that are loaded paint something else")
    page.choose("#format", "tiff")
    home(page)


def check_moved(page, folder, shots):
    """What moved is outlined; a click fills it from the next frame, Shift from the one before."""

    def seen():
        page.blur()  # without the ring of the keyboard's focus
        page.settled()
        return page.picture("#picture")[60:-60]  # without what is told in the corners

    def same(one, other):
        return differ(one, other) < 0.05

    files = write_walk(folder / "moved")
    names = [file.name for file in files]
    told = "return document.querySelector('#region').textContent"
    undone = "return document.querySelector('#undo').disabled"
    fused(page, files)
    must(page.text("#regions") == "Moved: 1 region", f"told is {page.text('#regions')!r}")
    must(page.run(told) == "" and page.run(undone), "a frame was chosen before any click")
    outlined = seen()
    page.shot(shots, "moved")
    page.click("#regions")
    must(not same(outlined, seen()), "the region is not outlined")
    page.run("document.querySelector('#regions').focus()")
    page.keys(SPACE)
    must(same(outlined, seen()), "the toggle does not outline again")
    page.drag("#picture", [(0.5, 0.5)])
    page.until(undone, False)
    first = names.index(page.run(told).removeprefix("Region 1: "))
    filled = seen()
    page.shot(shots, "moved_next")
    must(not same(outlined, filled), "another frame does not fill the region")
    page.drag("#picture", [(0.5, 0.5)])
    page.until(told, f"Region 1: {names[(first + 1) % len(names)]}")
    page.run("document.querySelector('#picture').focus()")
    page.keys("\ue007", held=[SHIFT])  # Enter takes the middle of the picture
    page.until(told, f"Region 1: {names[first]}")
    must(same(filled, seen()), "Shift does not bring the frame back")
    page.reload()
    page.until(STAGE, "result")
    must(same(filled, seen()), "a reload loses what fills the region")
    for _ in range(3):
        page.keys("z")
    page.until(undone)
    must(same(outlined, seen()), "undo does not bring the result back")
    page.drag("#picture", [(0.5, 0.5)])
    page.until(told, f"Region 1: {names[first]}")
    home(page)


def check_pen(page, folder, downloads):
    """The pressure of a pen sets the size or the opacity; a mouse always paints in full."""
    fused(page, write_stack(folder / "pen", 3, seed=62, name="pen{}.jpg"))
    page.click('[data-tool="retouch"]')
    page.click("#pane")
    page.settled()
    must(page.run("return document.querySelector('#pressure-option').hidden"), "a pen is seen")
    places = [(0.45, 0.4), (0.5, 0.5), (0.55, 0.45)]
    told = "return document.querySelector('#versions').innerText.includes('{} stroke')"
    for count, (pressure, pressures) in enumerate(
        (("size", [0.25, 0.5, 1]), ("opacity", [0.25, 0.5, 1]), ("opacity", None)), start=1
    ):
        page.choose("#pressure", pressure)
        page.drag("#picture", places, pressures=pressures)
        page.until(told.format(count))
    strokes = json.loads(page.download(downloads, '[data-what="strokes"]').read_text())["strokes"]
    sizes, opacities = strokes[0].get("sizes", []), strokes[1].get("opacities", [])
    for shares in (sizes, opacities):
        must(shares[:1] == [0.25] and shares[-1] == 1, f"the pressures become {shares}")
        must(shares == sorted(shares), f"the pressures become {shares}")
    must(not strokes[2].keys() & {"sizes", "opacities"}, "a mouse has a pressure")
    page.choose("#pressure", "size")
    home(page)
