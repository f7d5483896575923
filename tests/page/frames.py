"""Steps: the contact sheet, and work that lasts."""

import cv2
import numpy as np

from tests.page.doing import (
    CONTROL,
    ESCAPE,
    PROJECTS,
    SHIFT,
    TALLY,
    fused,
    home,
    shown,
    stroke,
    write_stack,
)
from tests.visit import CARDS, STAGE, differ, must, served


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
        if count == 24:
            page.click("#close-frame")
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
    nothing = folder / "nothing in it"
    nothing.mkdir()
    page.drop([nothing])
    page.until("return document.querySelector('#messages').innerText.includes('folder is empty')")
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
    told = page.text("#more-options summary")
    must(told == "More options (1 changed)", f"a changed option that is folded away: {told!r}")
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


def check_decoded_once(page, folder):
    """Frames are decoded once, and aligned once for all choices of the fusion."""
    page.drop(write_stack(folder / "once", 3, seed=33, name="once_{}.jpg"))
    page.frames_read(3)
    for path in (folder / PROJECTS).glob("*/stack-*/in/once_*.jpg"):
        path.write_bytes(b"")  # whoever decodes it again is told that it is damaged
    page.fuse()
    plain = page.picture("#picture")
    shown(page, "#option-prefer")
    page.choose("#option-prefer", 2)
    page.fuse()
    page.choose("#option-prefer", "")
    must(page.versions() == 2, f"{page.versions()} versions are made of frames decoded before")
    must(differ(plain, page.picture("#picture")) < 20, "the second version is another picture")
    home(page)


def check_server_away(page, folder):
    """A page whose server is restarted goes on where it was, and says no more that it is away."""
    away = "return document.querySelector('#messages').innerText.includes('does not answer')"
    projects = folder / "away"
    with served("--projects", projects) as (address, server):
        page.go(address)
        fused(page, write_stack(folder / "restarted", 3, seed=34))
        stroke(page)
        server.kill()
        server.wait()
        page.drag("#picture", [(0.6, 0.6), (0.65, 0.6)])
        page.until(away)
        page.until("return document.querySelector('#messages').innerText.includes('was not saved')")
    port = address.rstrip("/").rpartition(":")[2]
    with served("--projects", projects, "--port", port):
        page.until(away, False)
        page.click("#undo")
        page.until("return document.querySelector('#redo').disabled", False)
        page.click("#redo")
        page.until("return document.querySelector('#versions').innerText.includes('1 stroke')")
        page.fuse()
        must(page.versions() == 2, "a page whose server was restarted makes no second version")
        page.logged()  # what did not answer
        page.go(page.address)


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
    page.until(STAGE, "frame")
    home(page)
