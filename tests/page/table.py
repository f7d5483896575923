"""Steps: the shelf, versions, projects."""

import cv2
import numpy as np
import tifffile

from stackmff.images.formats import write_picture
from tests.drawn import draw_stack, texture
from tests.page.doing import TALLY, fused, home, write_stack
from tests.visit import STAGE, differ, must


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


def check_two_stacks(page, folder):
    """Each stack shows its own frames, and keeps the version and the crop that were chosen."""
    for name, seed in (("one", 81), ("two", 82)):
        write_stack(folder / "both" / name, 3, seed=seed)  # of one size and with the same names
    page.drop([folder / "both" / "one", folder / "both" / "two"])
    page.until(TALLY.format("#shelf .card"), 2)
    page.until("return !document.querySelector('#fuse-all').disabled")
    cards = [f"#shelf li:nth-child({k}) .card" for k in (1, 2)]
    seen = []
    for card in cards:
        page.click(card)
        page.frames_read(3)
        page.fuse()
        page.click('[data-tool="compare"]')
        page.choose("#wipe", 0)
        page.settled()
        seen.append(page.picture("#picture"))
    inner = np.s_[150:-150, 360:-360]  # inside the picture
    apart = differ(seen[0][inner], seen[1][inner])
    must(apart > 5, f"a stack shows the frame of another one: {apart:.1f} grey levels apart")
    page.click('[data-tool="result"]')
    page.fuse()
    must(page.text("#right") == "Version 2", "the new version is not shown")
    page.click("#versions li:nth-child(1) .card")
    page.choose("#crop", "free")
    page.settled()
    page.drag("#picture", [(0.45, 0.4), (0.5, 0.5), (0.56, 0.55)])
    page.until("return !document.querySelector('#save').disabled")
    crop = page.text("#crop-size")
    page.click(cards[0])
    page.until("return document.querySelector('#right').innerText", "Fused")
    must(page.run("return document.querySelector('#crop').value") == "", "another stack is cropped")
    page.click(cards[1])
    page.until("return document.querySelector('#right').innerText", "Version 1")
    must(page.text("#crop-size") == crop, "the crop is lost when another stack is shown")
    page.choose("#crop", "")
    home(page)


def check_pages(page, folder):
    """TIFFs of several pages and a video are a stack each; TIFFs of one page each are one."""
    for k, name in enumerate(("moth", "wing")):
        frames = np.stack(draw_stack(texture(60, 90, 50 + k), 3))
        (folder / "pages").mkdir(exist_ok=True)
        tifffile.imwrite(folder / "pages" / f"{name}.tif", frames, photometric="rgb")
    film = cv2.VideoWriter(
        str(folder / "pages" / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (96, 64)
    )
    for frame in draw_stack(texture(64, 96, 53), 4):
        film.write(np.ascontiguousarray(frame[..., ::-1]))
    film.release()
    singles = write_stack(folder / "singles", 2, (60, 90), seed=52, name="one_{}.tif")
    page.drop([*sorted((folder / "pages").iterdir()), *singles])
    page.until(TALLY.format("#shelf .card"), 4)
    page.until("return document.querySelector('#fuse-all').innerText", "Fuse all (4)")
    page.until("return !document.querySelector('#fuse-all').disabled")
    told = page.run(
        "return [...document.querySelectorAll('#shelf .card')].map(one =>"
        " one.querySelector('.name').title + ': ' + one.querySelector('.state').textContent)"
    )
    wanted = ["film: 4 frames", "moth: 3 frames", "wing: 3 frames", "one_401: 2 frames"]
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
    page.until("return document.querySelector('#right').innerText", "Version 1")
    page.click('[data-tool="retouch"]')  # a version that gets ready does not interrupt
    page.fuse()
    must(page.notes() == "Version 3 is ready", f"a new version tells {page.notes()!r}")
    must(page.text("#right") == "Version 1", "a new version takes the retouched one away")
    home(page)


def check_example(page, shots):
    """The example is fused by two clicks, and nothing was asked of another machine."""
    page.click("#example")
    told = "return document.querySelector('#work-text').textContent"
    page.until(told, "Drawing the frames of the example")
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


def check_start_page(page, folder):
    """Projects are listed with size and age, can be opened and deleted."""
    for name in ("older", "newer"):
        page.drop(write_stack(folder / "start" / name, 2, (60, 90), seed=75))
        page.frames_read(2)
        home(page)
    page.until("return document.querySelectorAll('#projects li').length > 1")
    count = page.run(TALLY.format("#projects li"))
    told = page.text("#projects li .card")
    must("stack" in told and "B" in told and ("ago" in told or "just now" in told), told)
    page.click("#projects li .card")
    page.until("return document.querySelectorAll('#sheet li').length > 0")
    home(page)
    page.click("#projects li .toggle:last-child")
    page.click("#yes")
    page.until(TALLY.format("#projects li"), count - 1)


def write_card(folder):
    """Write two brackets and a single picture into one folder, as a camera does."""
    folder.mkdir(parents=True)
    scenes = [cv2.resize(texture(6, 8, seed), (160, 120)) for seed in (1, 2, 5)]
    frames = [*draw_stack(scenes[0], 3), *draw_stack(scenes[1], 3), scenes[2]]
    for k, frame in enumerate(frames):
        write_picture(folder / f"IMG_{k:04}.jpg", frame)
    return folder


def shelf_of(page, count):
    """{name: state} of the stacks on the shelf, once there are so many and all are read."""
    page.until(TALLY.format("#shelf .card"), count)
    page.until("return document.querySelector('#shelf').innerText.includes('Reading')", False)
    return page.run(
        "return Object.fromEntries([...document.querySelectorAll('#shelf .card')].map(one =>"
        " [one.querySelector('.name').title, one.querySelector('.state').textContent]))"
    )


def check_cards(page, folder):
    """A folder of a card is split by itself, another one by a click."""
    wanted = {"IMG_0000": "3 frames", "IMG_0003": "3 frames", "Single pictures": "1 frame"}
    for name in ("100CANON", "mixed bag"):
        page.drop([write_card(folder / "cards" / name)])
        if name != "100CANON":
            page.frames_read(7)
            page.click("#split")
        told = shelf_of(page, 3)
        must(told == wanted, f"the folder {name} becomes {told}")
        page.until("return document.querySelector('#messages').innerText.includes('Split into 3')")
        # The browser logs that frames it asked for have gone to another stack meanwhile.
        gone = [one for one in page.logged() if "/thumb/" not in one and "/tile/frame/" not in one]
        must(not gone, f"the browser logs {gone}")
        home(page)


def check_server_folders(page, shared, shots):
    """All stacks in a folder of the server are opened at once."""
    for k, name in enumerate(("one", "two")):
        write_stack(shared / "shoot" / name, 3, (60, 90), seed=70 + k)
    write_card(shared / "shoot" / "101_PANA")
    page.click("#browse")
    page.until("return document.querySelector('#server').open")
    page.run("document.querySelector('#server li button').click()")
    page.until("return document.querySelector('#where').textContent.startsWith('/shoot')")
    page.shot(shots, "server_folders")
    page.click("#open-all")
    told = shelf_of(page, 4)
    wanted = {name: "3 frames" for name in ("one", "two", "IMG_0000", "IMG_0003")}
    must(told == wanted, f"the folder of the server becomes {told}")
    home(page)
