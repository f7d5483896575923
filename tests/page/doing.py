"""What the steps of the browser check have in common."""

import numpy as np

from stackmff.images.formats import write_picture
from tests.drawn import draw_stack, texture
from tests.visit import STAGE

ESCAPE, SPACE, TAB, SHIFT, CONTROL, DOWN = "\ue00c", " ", "\ue004", "\ue008", "\ue009", "\ue015"
PROJECTS = "projects"  # folder of the projects of the server, beside those of the stacks
TALLY = "return document.querySelectorAll('{}').length"


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


def write_walk(folder, count=5, sides=(240, 360)):
    """Write a drawn stack in which a bright disc moves to the right; returns its files."""
    dim = np.uint8(40 + 0.3 * texture(*sides, 63))
    radius, (y, x) = 22, np.mgrid[: sides[0], : sides[1]]
    paths = []
    for k, frame in enumerate(draw_stack(dim, count)):
        across = sides[1] // 2 + 12 * (k - count // 2)
        inside = np.hypot(x - across, y - sides[0] // 2) <= radius
        frame[inside] = 150 + 0.35 * texture(*sides, 64)[inside]
        paths.append(folder / f"walk_{k}.png")
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


def shown(page, selector):
    """Open the further options if an option is among those that are folded away."""
    page.run(
        "const folded = document.querySelector(arguments[0]).closest('details');"
        "if (folded) folded.open = true",
        selector,
    )
