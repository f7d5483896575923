"""Steps: frames that are looked at, what is compared, what the page tells by itself."""

import numpy as np

from tests.page.doing import ESCAPE, SPACE, TALLY, fused, home, stroke, write_stack
from tests.visit import STAGE, differ, must

PRESSED = "return document.querySelector('{}').getAttribute('aria-pressed') === 'true'"
LEFT = "return document.querySelector('#left').textContent"
NAMES = [f"DSC_{k:04}.jpg" for k in range(400, 405)]


def inside(picture):
    """A picture of the canvas without what is told in its corners."""
    return picture[50:-50]


def check_frames_alone(page, folder, shots):
    """The middle frame is shown until there is a result, and any frame in its place afterwards."""
    page.drop(write_stack(folder / "alone", 5, (600, 900), seed=91))
    page.frames_read(5)
    page.until(STAGE, "frame")
    page.until(LEFT, NAMES[2])
    page.settled()
    page.shot(shots, "before_fusing")
    must(page.picture("#picture").std() > 20, "no frame is seen before fusing")
    page.keys(".")
    page.until(LEFT, NAMES[3])
    page.click("#close-frame")
    page.until(STAGE, "frames")
    page.shot(shots, "all_frames")
    page.click("#sheet li:nth-child(2) .card")
    page.until(LEFT, NAMES[1])
    page.click("#go")
    page.until("return document.querySelector('#work').hidden", False)
    must(page.run(STAGE) == "frame", "no frame is seen while it fuses")
    page.shot(shots, "while_fusing")
    page.until(STAGE, "result")
    page.until("return document.querySelector('#work').hidden")
    page.click("#actual-size")
    page.settled()
    result = page.picture("#picture")
    page.click("#sheet li:nth-child(1) .card")
    page.until(LEFT, NAMES[0])
    page.settled()
    page.shot(shots, "frame_of_result")
    seen = page.picture("#picture")
    must(page.run("return document.querySelector('#zoom').value") == "100 %", "the zoom is lost")
    must(differ(inside(seen), inside(result)) > 1, "a click on a frame shows nothing else")
    # Where the first frame is sharp the result shows it, if both are at one place.
    left = np.s_[200:-200, 120:220]
    away = differ(seen[left], result[left])
    shifted = differ(seen[left], np.roll(result, 4, 1)[left])
    must(away < 0.7 * shifted, f"the frame is at another place: {away:.1f}, {shifted:.1f}")
    must(page.text("#close-frame") == "Back to the result", "there is no way back")
    for back in (
        lambda: page.click("#close-frame"),
        lambda: page.keys(ESCAPE),
        lambda: page.click("#sheet li:nth-child(1) .card"),
    ):
        back()
        page.until(STAGE, "result")
        page.settled()
        must(differ(inside(page.picture("#picture")), inside(result)) < 0.5, "it is not the result")
        page.click("#sheet li:nth-child(1) .card")
        page.until(STAGE, "frame")
    page.keys("c")
    page.until(LEFT, NAMES[0])
    home(page)


def check_centred(page, folder):
    """A picture is centred where it is smaller than the view, and fills the view where not."""
    fused(page, write_stack(folder / "centred", 2, (400, 1500), seed=92))
    page.run("document.querySelector('#picture').focus()")
    page.click("#actual-size")
    page.drag("#picture", [(0.3, 0.5), (0.6, 0.6), (0.95, 0.9)])
    page.drag("#picture", [(0.3, 0.5), (0.6, 0.6), (0.95, 0.9)])
    page.settled()
    ground = page.picture("#picture")[2, 2]
    apart = np.abs(page.picture("#picture") - ground).sum(2) > 12
    rows = np.flatnonzero(apart[:, 100:-100].mean(1) > 0.5)
    above, below = rows[0], apart.shape[0] - 1 - rows[-1]
    must(abs(above - below) <= 2, f"a flat picture has {above} px above it and {below} px below")
    columns = np.flatnonzero(apart[rows[0] + 60 : rows[-1] - 60].mean(0) > 0.5)
    aside = max(columns[0], apart.shape[1] - 1 - columns[-1])
    must(aside < 20, f"beside a picture that is wider than the view {aside} px are empty")
    home(page)


def check_space(page, folder):
    """Space shows the other picture after a click on a button or a frame; the keyboard presses."""
    fused(page, write_stack(folder / "space", 3, seed=93))
    page.click('[data-tool="compare"]')
    page.choose("#wipe", 100)
    page.settled()
    result = page.picture("#picture")
    down = {"type": "key", "id": "k", "actions": [{"type": "keyDown", "value": SPACE}]}
    for selector in ("#actual-size", "#sheet li:nth-child(1) .card", "#wipe"):
        page.click(selector)
        page.choose("#wipe", 100)
        page.settled()
        page.browser.ask("POST", "/actions", {"actions": [down]})
        page.settled()
        held = page.picture("#picture")
        page.browser.ask("DELETE", "/actions")
        page.settled()
        must(differ(held, result) > 0.5, f"after a click on {selector} Space shows nothing")
        must(differ(page.picture("#picture"), result) < 0.5, f"Space stays after {selector}")
    must(page.run(TALLY.format("#sheet li.out")) == 0, "Space excludes a frame that was clicked")
    page.run("document.querySelector('#side').focus({focusVisible: true})")
    page.keys(SPACE)
    must(page.run(PRESSED.format("#side")), "Space does not press a button of the keyboard's focus")
    page.keys(SPACE)
    home(page)


def check_two_versions(page, folder, shots):
    """Another version is compared unless one chose; where they differ is seen; strokes go along."""
    fused(page, write_stack(folder / "differences", 4, seed=94))
    stroke(page, 1)  # to choose what is painted is no choice of what is compared
    page.click("#more-options summary")
    page.choose("#option-prefer", 2)
    page.fuse()
    page.click("#more-options summary")
    told = page.notes()
    must(
        told == "Version 2 is ready and has your brush stroke too", f"a new version tells {told!r}"
    )
    page.shot(shots, "has_strokes")
    counts = (
        "return [...document.querySelectorAll('#versions .card')].map(one =>"
        " one.innerText.includes('stroke'))"
    )
    page.until(counts, [True, True])
    press = "[...document.querySelectorAll('#messages button')].find(one => one.innerText === '{}')"
    page.run(press.format("Show") + ".click()")
    page.until("return document.querySelector('#notes-title').innerText", "Notes on version 2")
    page.run(press.format("Remove them") + ".focus()")
    page.keys(SPACE)
    page.until(counts, [True, False])
    must("Removed 1 brush stroke from version 2" in page.notes(), f"it tells {page.notes()!r}")
    page.until("return document.activeElement.innerText", "Undo")
    page.keys(SPACE)
    page.until(counts, [True, True])
    page.click('[data-tool="compare"]')
    must(page.run(LEFT) == "Version 1", f"version 2 is compared with {page.run(LEFT)}")
    page.click("#versions li:nth-child(1) .card")
    page.until(LEFT, "Version 2")
    page.click("#difference")
    page.settled()
    page.shot(shots, "difference")
    must(page.run(LEFT) == "Difference from Version 2", f"it is called {page.run(LEFT)}")
    versions = inside(page.picture("#picture"))
    page.choose("#other", "frame 0")
    page.settled()
    frame = inside(page.picture("#picture"))
    must(frame.mean() > versions.mean() + 3, "a frame does not differ more than a version")
    page.keys("d")
    must(not page.run(PRESSED.format("#difference")), "D does not end the difference")
    page.click("#versions li:nth-child(2) .card")
    page.until(LEFT, NAMES[0])  # it was chosen
    home(page)


def check_hints(page, folder, shots):
    """Hints are dismissed for good, the brush tells its values, and the card of a pixel closes."""
    fused(page, write_stack(folder / "hints", 3, seed=95))
    page.reload()  # as long as it is not, who has compared before is told nothing
    hint = "return document.querySelector('#hint').checkVisibility()"
    for tool in ("compare", "retouch"):
        page.click(f'[data-tool="{tool}"]')
        page.until(hint)
        page.shot(shots, f"hint_{tool}")
        page.click("#close-hint")
        page.until(hint, False)
        page.click('[data-tool="result"]')
        page.click(f'[data-tool="{tool}"]')
        must(not page.run(hint), f"the hint of {tool} comes again")
    page.run("localStorage.removeItem('hints-read')")
    page.choose("#softness", 30)
    must(page.text("#softness-told") == "30 %", f"30 is told as {page.text('#softness-told')}")
    before = int(page.text("#radius-told").removesuffix(" px"))
    page.keys("]")
    after = int(page.text("#radius-told").removesuffix(" px"))
    must(after > before, f"] makes a brush of {before} px one of {after} px")
    page.choose("#softness", 50)
    page.click('[data-tool="result"]')
    shown = "return !document.querySelector('#probe').hidden"
    for close in (lambda: page.click("#close-probe"), lambda: page.keys(ESCAPE)):
        page.drag("#picture", [(0.5, 0.5)])
        page.until(shown)
        # The shares come last; the browser would log that the next step knows nothing of them.
        page.until("return document.querySelectorAll('#probe meter').length > 0")
        page.shot(shots, "probe_closes")
        close()
        page.until(shown, False)
    home(page)
