"""Steps of the browser check: each fails where one thing that users met is broken again.

A step takes a Visit of a page on which it may do as it likes, and leaves it on the start page.
"""

import json
import time
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import ImageCms

from stackmff.images.formats import decode, write_picture
from stackmff.images.metadata import Metadata
from tests.drawn import draw_stack, texture
from tests.visit import CARDS, STAGE, differ, must

ESCAPE, SPACE, TAB, SHIFT, CONTROL, DOWN = "\ue00c", " ", "\ue004", "\ue008", "\ue009", "\ue015"
TALLY = "return document.querySelectorAll('{}').length"
MOST_TABS = 9  # from the top of the page to Fuse


def write_stack(folder, count, sides=(240, 360), seed=0, name="DSC_{:04}.jpg", colour=None):
    """Write a drawn stack; returns its files."""
    answer = texture(*sides, seed)
    if colour is not None:
        answer = (answer * np.array(colour)).astype(np.uint8)
    paths = []
    for k, frame in enumerate(draw_stack(answer, count)):
        paths.append(folder / name.format(k + 400))
        write_picture(paths[-1], frame)
    return paths


def home(page):
    """Back to the start page."""
    page.click("#home")
    page.until(STAGE, "start")


def fused(page, files):
    """Drop files, read, fuse; returns nothing, the result is shown."""
    page.drop(files)
    page.until("return document.querySelectorAll('#sheet li').length > 0")
    page.frames_read(len(files))
    page.fuse()


# ---- the contact sheet


def check_many_frames(page, folder, shots):
    """Cards keep their size whatever their number, the sheet scrolls, cards are not made anew."""
    files = write_stack(
        folder / "many", 300, (48, 72), name="a_very_long_name_of_a_camera_{:04}.jpg"
    )
    box = """
        const list = document.querySelector('#sheet'), card = list.children[arguments[0]];
        card.scrollIntoView({block: 'nearest'});
        const box = card.getBoundingClientRect(), tail = card.querySelector('.tail');
        const end = tail.getBoundingClientRect(), scrolls = list.scrollHeight > list.clientHeight;
        return {width: box.width, height: box.height, scrolls,
            seen: end.right <= box.right && end.width > 10, name: tail.textContent};
    """
    dropped = 0
    for count in (24, 36, 100, 300):
        page.run("const first = document.querySelector('#sheet li'); if (first) first.kept = 1")
        page.drop(files[dropped:count])
        dropped = count
        page.frames_read(count)
        kept = page.run("return document.querySelector('#sheet li').kept")
        must(count == 24 or kept == 1, "the first card was made anew when frames were added")
        for size in ((1280, 720), (1440, 900)):
            page.resize(size)
            for place in (0, count - 1):
                seen = page.run(box, place)
                must(
                    seen["width"] > 140 and 110 < seen["height"] < 260,
                    f"a card of {count} at {size} is {seen['width']}x{seen['height']}",
                )
                must(seen["seen"], f"the end of a name is hidden with {count} frames at {size}")
            must(count < 36 or seen["scrolls"], f"the sheet of {count} frames does not scroll")
        page.shot(shots, f"sheet_{count}")
    page.resize((1280, 720))
    home(page)


def check_portraits(page, folder):
    """A portrait frame is shown whole, and a click on its card shows it before it is fused."""
    files = write_stack(folder / "portraits", 3, (360, 240), seed=4)
    page.drop(files)
    page.frames_read(3)
    fit = page.run("return getComputedStyle(document.querySelector('#sheet img')).objectFit")
    must(fit == "contain", f"a portrait is cut: its thumbnail is fitted by {fit}")
    page.click("#sheet li:nth-child(2) .card")
    page.until(STAGE, "frame")
    page.settled()
    seen = page.picture()
    frame = cv2.imread(str(files[1]))
    found = cv2.matchTemplate(seen.astype(np.uint8), frame, cv2.TM_SQDIFF).min() / frame.size
    must(found < 60, f"the frame is not shown as it is: {found:.0f} squared grey levels")
    page.blur()
    page.keys(ESCAPE)
    page.until(STAGE, "frames")
    home(page)


def check_what_is_dropped(page, folder):
    """Junk makes one line; other sizes and frames that are there already are told at once."""
    files = write_stack(folder / "mixed", 4, seed=2)
    junk = [folder / name for name in ("notes.txt", "readme.md", "list.csv")]
    for path in junk:
        path.write_text("text")
    page.drop([*files, *junk])
    page.frames_read(4)
    page.until("return document.querySelectorAll('#messages .note').length", 1)
    told = page.notes()
    must(told == "Skipped 3 files that are not images", f"junk files are told as {told!r}")
    must("focus order" not in page.text("#about"), "the order is praised before it was checked")
    (odd,) = write_stack(folder / "odd", 1, (100, 150))
    odd = odd.rename(odd.with_name("odd.jpg"))
    page.drop([odd, files[0]])
    page.until(CARDS, 5)
    page.until("return document.querySelector('#messages').innerText.includes('150x100')")
    page.until("return document.querySelector('#messages').innerText.includes('already in the')")
    must(page.run("return document.querySelector('#go').disabled"), "other sizes may be fused")
    page.click("#sheet li:nth-child(5) .toggle")
    page.until("return document.querySelector('#go').disabled", False)
    page.fuse()
    page.until("return document.querySelector('#about').innerText.includes('in focus order')")
    home(page)


# ---- work that lasts


def check_reload(page, folder):
    """After a reload, and in another tab, the retouched picture, the options and redo are there."""
    page.drop(write_stack(folder / "reload", 4, seed=5))
    page.frames_read(4)
    page.click("#more-options summary")
    page.choose(
        "#option-prefer",
        page.run("return [...document.querySelector('#option-prefer').options].at(-1).value"),
    )
    page.fuse()
    plain = page.picture()
    stroke(page)
    page.until("return document.querySelector('#undo').disabled", False)
    page.click('[data-tool="result"]')
    page.settled()
    painted = page.picture()
    must(differ(plain, painted) > 0.05, "the stroke is not seen")
    page.reload()
    page.settled()
    must(differ(page.picture(), painted) < 0.05, "a retouched picture is plain after a reload")
    label = page.run("return document.querySelector('#option-prefer').selectedOptions[0].text")
    must(label == "Favour background", f"after a reload the option is {label!r}")
    first = page.browser.ask("GET", "/window")
    made = page.browser.ask("POST", "/window/new", {"type": "tab"})
    address = page.run("return location.href")
    page.browser.ask("POST", "/window", {"handle": made["handle"]})
    page.resize((1280, 720))
    page.go(address)
    page.click('[data-tool="retouch"]')
    page.click("#undo")
    page.until("return document.querySelector('#redo').disabled", False)
    page.browser.ask("DELETE", "/window")
    page.browser.ask("POST", "/window", {"handle": first})
    page.until(TALLY.format("#versions .card"), 1)
    page.until("return document.querySelector('#versions').innerText.includes('stroke')", False)
    page.settled()
    must(differ(page.picture(), plain) < 0.05, "another tab's undo is not seen here")
    home(page)


def stroke(page, frame=1):
    """Paint a stroke of a frame across the result."""
    page.click('[data-tool="retouch"]')
    page.click(f"#sheet li:nth-child({frame}) .card")
    page.run(
        "const pane = document.querySelector('#pane');"
        "if (pane.getAttribute('aria-pressed') === 'true') pane.click()"
    )
    page.settled()
    page.drag("#picture", [(0.45, 0.4), (0.5, 0.5), (0.55, 0.45)])
    page.until("return document.querySelector('#undo').disabled", False)
    page.settled()


def check_leaving(page, folder):
    """The browser asks before the page is left while a stroke or a file is on its way."""
    fused(page, write_stack(folder / "leaving", 3, seed=31))
    asks = """
        const leaving = new Event('beforeunload', {cancelable: true});
        dispatchEvent(leaving);
        return leaving.defaultPrevented;
    """
    slow = """
        const known = window.fetch;
        window.fetch = async (path, ...others) => {
            const wait = String(path).includes('/strokes') ? 2000 : 0;
            await new Promise(good => setTimeout(good, wait));
            return known(path, ...others);
        };
        window.quick = () => (window.fetch = known);
    """
    must(not page.run(asks), "the browser asks although everything is saved")
    page.run(slow)
    page.click('[data-tool="retouch"]')
    page.settled()
    page.drag("#picture", [(0.7, 0.5), (0.75, 0.5)])
    page.until(asks)
    page.until(asks, False)
    page.run("window.quick()")
    home(page)


def check_project_file(page, folder, downloads):
    """A project is saved as one file, and opened again from it."""
    page.drop(write_stack(folder / "filed", 3, seed=32, name="filed_{}.jpg"))
    page.frames_read(3)
    home(page)
    page.until("return document.querySelector('#projects .card').innerText.includes('filed')")
    count = page.run(TALLY.format("#projects li"))
    file = page.download(downloads, "#projects li .toggle")
    path = page.browser.find("#archive")
    page.browser.ask("POST", f"{path}/value", {"text": str(file)})
    page.frames_read(3)
    home(page)
    page.until(TALLY.format("#projects li"), count + 1)


def check_redo(page, folder):
    """Z undoes and Shift+Z redoes, with Ctrl and without."""
    fused(page, write_stack(folder / "redo", 3, seed=6))
    stroke(page)
    count = "return document.querySelector('#versions').innerText.includes('1 stroke')"
    page.blur()
    for held, letter, there in (
        ((), "z", False),
        ((SHIFT,), "Z", True),
        ((CONTROL,), "z", False),
        ((CONTROL, SHIFT), "Z", True),
    ):
        page.keys(letter, held=held)
        page.until(count, there)
    home(page)


def check_deleting_asks(page, folder):
    """What would be lost is named, and Cancel keeps it."""
    fused(page, write_stack(folder / "asks", 3, seed=7))
    stroke(page)
    page.click("#versions .toggle")
    page.until("return document.querySelector('#confirm').open")
    asked = page.text("#question")
    must("its 1 brush stroke" in asked, f"deleting a version asks {asked!r}")
    page.click("#confirm button[value='']")
    page.until("return document.querySelector('#confirm').open", False)
    must(page.versions() == 1, "Cancel deletes")
    page.click("#versions .toggle")
    page.click("#yes")
    page.until(STAGE, "frames")
    home(page)


# ---- the viewer


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
    fused(page, write_stack(folder / "compare", 3, seed=10))
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
    must(page.text("#wipe-left") == "Frame", "the left end of the slider is not the frame")
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


def check_crop(page, folder, downloads):
    """A rectangle drawn on the picture crops the picture and its maps alike."""
    fused(page, write_stack(folder / "crop", 3, seed=12))
    page.choose("#crop", "free")
    page.settled()
    page.drag("#picture", [(0.45, 0.4), (0.5, 0.5), (0.56, 0.55)])
    page.until("return !document.querySelector('#save').disabled")
    told = page.text("#crop-size")
    page.choose("#format", "jpeg")
    page.choose("#quality", 60)
    sizes = []
    for selector in ("#save", '[data-what="focus"]', '[data-what="confidence"]'):
        height, width = cv2.imread(str(page.download(downloads, selector)), -1).shape[:2]
        sizes.append(f"{width} × {height} pixels")
    must(set(sizes) == {told} and "360" not in told, f"a crop of {told} gives {sizes}")
    area = json.loads(page.download(downloads, '[data-what="alignment"]').read_text())["area"]
    must(f"{area[3] - area[2]} × {area[1] - area[0]} pixels" == told, f"the alignment has {area}")
    page.choose("#crop", "")
    page.choose("#format", "tiff")
    home(page)


def check_exports_tell(page, folder):
    """A file that is written is shown; one that fails is told."""
    fused(page, write_stack(folder / "exports", 2, seed=13))
    slow = """
        const known = window.fetch;
        window.fetch = async (path, ...others) => {
            if (!String(path).includes('/exports/')) return known(path, ...others);
            await new Promise(good => setTimeout(good, 1000));
            const told = {done: true, failure: 'the disk is full', notes: []};
            return new Response(JSON.stringify(told));
        };
        window.quick = () => (window.fetch = known);
    """
    page.run(slow)
    page.click("#save")
    page.until("return document.querySelector('#exporting').innerText.includes('writing')")
    page.until("return document.querySelector('#messages').innerText.includes('the disk is full')")
    page.until(TALLY.format("#exporting li"), 0)
    page.run("window.quick()")
    home(page)


def check_fingers(page, folder, shots):
    """On a phone a finger moves the picture, in Compare beside the line, too."""
    page.resize((390, 780), 2, touch=True)
    fused(page, write_stack(folder / "fingers", 3, (900, 600), seed=14))
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


# ---- the work


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
    must(any("Reading frame" in one[1] for one in seen), "the stage is not told")
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
    home(page)


def check_source(page, folder, shots):
    """The source lies beside the result; Alt-click takes the sharpest frame, Down the next one."""
    fused(page, write_stack(folder / "source", 3, seed=17, name="s{}.jpg"))
    page.click('[data-tool="retouch"]')
    page.run(
        "const pane = document.querySelector('#pane');"
        "if (pane.getAttribute('aria-pressed') !== 'true') pane.click()"
    )
    page.settled()
    source = "return document.querySelector('#source').value"
    page.drag("#picture", [(0.9, 0.5)], alt=True)  # the frames are sharp from left to right
    page.until(source, "frame 2")
    page.drag("#picture", [(0.58, 0.5)], alt=True)
    page.until(source, "frame 0")
    page.run("document.querySelector('#picture').focus()")
    page.keys(DOWN)
    page.until(source, "frame 1")
    page.shot(shots, "source_pane")
    page.choose("#strength", 40)
    page.drag("#picture", [(0.7, 0.5), (0.75, 0.5)])
    page.until("return document.querySelector('#undo').disabled", False)
    page.choose("#strength", 100)
    home(page)


# ---- the light table


def check_shelf(page, folder, shots):
    """Folders that are dropped at once become stacks, also nested ones; "Fuse all" queues them."""
    top = folder / "shoot"
    for k, name in enumerate(("ants", "bees", "wasps/queen")):
        write_stack(top / name, 3, (120, 180), seed=20 + k)
    (top / "ants" / "notes.txt").write_text("text")
    page.drop([top / "ants", top / "bees", top / "wasps"])
    page.until(TALLY.format("#shelf .card"), 3)
    page.until("return !document.querySelector('#fuse-all').disabled")
    names = page.run("return [...document.querySelectorAll('#shelf .name')].map(one => one.title)")
    must(sorted(names) == ["ants", "bees", "queen"], f"the stacks are called {names}")
    must(page.notes() == "Skipped 1 file that is not an image", f"it tells {page.notes()!r}")
    page.click("#fuse-all")
    page.until("return document.querySelector('#shelf').innerText.includes('ahead')")
    states = (
        "return [...document.querySelectorAll('#shelf .state')].filter(one =>"
        " one.textContent.includes('1 version')).length"
    )
    page.until("return document.querySelector('#shelf').innerText.includes('1 version')")
    page.click("#shelf li:nth-child(1) .card")  # looked at while the others run
    page.until(STAGE, "result")
    page.until(states, 3)
    page.shot(shots, "shelf")
    page.click("#shelf li:nth-child(3) .toggle")
    page.click("#yes")
    page.until(TALLY.format("#shelf .card"), 2)
    home(page)


def check_pages(page, folder):
    """Two TIFFs of several pages are two stacks; TIFFs of one page each are one."""
    for k, name in enumerate(("moth", "wing")):
        frames = np.stack(draw_stack(texture(60, 90, 50 + k), 3))
        (folder / "pages").mkdir(exist_ok=True)
        tifffile.imwrite(folder / "pages" / f"{name}.tif", frames, photometric="rgb")
    singles = write_stack(folder / "singles", 2, (60, 90), seed=52, name="one_{}.tif")
    page.drop([*sorted((folder / "pages").iterdir()), *singles])
    page.until(TALLY.format("#shelf .card"), 3)
    page.until("return document.querySelector('#fuse-all').innerText", "Fuse all (3)")
    page.until("return !document.querySelector('#fuse-all').disabled")
    told = page.run(
        "return [...document.querySelectorAll('#shelf .card')].map(one =>"
        " one.querySelector('.name').title + ': ' + one.querySelector('.state').textContent)"
    )
    wanted = ["moth: 3 frames", "wing: 3 frames", "one_401: 2 frames"]
    must(sorted(told) == sorted(wanted), f"the shelf shows {told}")
    home(page)


def check_versions(page, folder):
    """Each run is kept with its options, and two can be compared."""
    fused(page, write_stack(folder / "versions", 3, seed=24))
    page.click("#more-options summary")
    page.choose("#option-prefer", 1)
    page.fuse()
    told = page.text("#versions")
    must("Favour foreground" in told and "Version 2" in told, f"the versions tell {told!r}")
    page.click('[data-tool="compare"]')
    others = page.run("return [...document.querySelector('#other').options].map(one => one.text)")
    must("Version 1" in others, f"what can be compared is {others}")
    page.choose("#other", "version run-1")
    page.settled()
    must(page.text("#left") == "Version 1", "the other version is not shown")
    page.click("#versions li:nth-child(1) .card")
    page.until("return document.querySelector('#right').innerText", "Fused, version 1")
    page.click('[data-tool="retouch"]')  # a version that gets ready does not interrupt
    page.fuse()
    must(page.notes() == "Version 3 is ready", f"a new version tells {page.notes()!r}")
    must(page.text("#right") == "Fused, version 1", "a new version takes the retouched one away")
    home(page)


def check_profiles(page, folder, downloads):
    """A 16-bit TIFF with a profile keeps both, and a JPEG in sRGB needs none."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    files = []
    for k, frame in enumerate(draw_stack(texture(120, 180, 30), 3)):
        files.append(folder / "deep" / f"d{k}.tif")
        write_picture(files[-1], frame.astype(np.uint16) * 257, Metadata(profile=profile))
    fused(page, files)
    page.choose("#format", "tiff")
    page.choose("#bits", "16")
    taken = page.download(downloads, "#save")
    must(tifffile.imread(taken).dtype == np.uint16, "16 bits are lost")
    must(decode(taken).metadata.profile == profile, "the profile is lost")
    page.choose("#format", "jpeg")
    page.click("#srgb")
    taken = page.download(downloads, "#save")
    must(decode(taken).metadata.profile is None, "a JPEG in sRGB has a profile")
    page.click("#srgb")
    page.choose("#format", "tiff")
    home(page)


def check_example(page, shots):
    """The example is fused by two clicks, and nothing was asked of another machine."""
    page.click("#example")
    page.frames_read(9)
    page.fuse()
    page.shot(shots, "example")
    size = page.text("#about")
    must("1800 × 1200" in size, f"the example is {size}")
    asked = page.run("return performance.getEntriesByType('resource').map(one => one.name)")
    other = [one for one in asked if not one.startswith(page.address) and "blob:" not in one]
    must(not other, f"the page asks {other}")
    for theme in ("dark", "light"):
        page.click("#theme")
        page.settled()
        page.shot(shots, theme)
    page.click("#theme")
    home(page)


def check_start_page(page):
    """Projects are listed with size and age, can be opened and deleted."""
    count = page.run(TALLY.format("#projects li"))
    must(count > 2, f"{count} projects are listed")
    told = page.text("#projects li .card")
    must("stack" in told and "B" in told and ("ago" in told or "just now" in told), told)
    page.click("#projects li .card")
    page.until("return document.querySelectorAll('#sheet li').length > 0")
    home(page)
    page.click("#projects li .toggle:last-child")
    page.click("#yes")
    page.until(TALLY.format("#projects li"), count - 1)


def steps(page, folder: Path, downloads: Path, shots):
    """(name, function without arguments) of each step."""
    return {
        "many frames": lambda: check_many_frames(page, folder, shots),
        "portraits": lambda: check_portraits(page, folder),
        "what is dropped": lambda: check_what_is_dropped(page, folder),
        "reload": lambda: check_reload(page, folder),
        "leaving": lambda: check_leaving(page, folder),
        "redo": lambda: check_redo(page, folder),
        "deleting asks": lambda: check_deleting_asks(page, folder),
        "pixels": lambda: check_pixels(page, folder, 1),
        "pixels of a dense screen": lambda: check_pixels(page, folder, 2),
        "compare": lambda: check_compare(page, folder),
        "overlays": lambda: check_overlays(page, folder, shots),
        "crop": lambda: check_crop(page, folder, downloads),
        "exports tell": lambda: check_exports_tell(page, folder),
        "fingers": lambda: check_fingers(page, folder, shots),
        "progress": lambda: check_progress(page, folder),
        "keyboard": lambda: check_keyboard(page, folder),
        "source": lambda: check_source(page, folder, shots),
        "shelf": lambda: check_shelf(page, folder, shots),
        "pages": lambda: check_pages(page, folder),
        "versions": lambda: check_versions(page, folder),
        "profiles": lambda: check_profiles(page, folder, downloads),
        "project file": lambda: check_project_file(page, folder, downloads),
        "example": lambda: check_example(page, shots),
        "start page": lambda: check_start_page(page),
    }


def take(page, folder, downloads, shots, chosen=None):
    """Take all steps, or those that are named."""
    for name, step in steps(page, folder, downloads, shots).items():
        if chosen and name not in chosen:
            continue
        start = time.monotonic()
        step()
        # A file that is there already is refused, which the browser logs.
        logged = [one for one in page.logged() if "/files?name=" not in one]
        must(not logged, f"the browser logs {logged}")
        print(f"{name}: right ({time.monotonic() - start:.0f} s)", flush=True)
