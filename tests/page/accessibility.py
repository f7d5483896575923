"""Step: axe-core finds nothing wrong in any state of the page."""

from pathlib import Path

from stackmff.errors import StackError
from tests.page.doing import ESCAPE, TALLY, home, stroke, write_stack
from tests.visit import STAGE, must

AXE = Path(__file__).parents[1] / "javascript" / "node_modules" / "axe-core" / "axe.min.js"
RUN = """
    return axe.run().then(found => found.violations.map(one =>
        `${one.id} (${one.help}): ` + one.nodes.slice(0, 3).map(node => node.html).join(' ')));
"""


class Axe:
    """Looks for what keeps people from using a page.

    Args:
        page: a Visit.
    """

    def __init__(self, page):
        if not AXE.is_file():
            raise StackError(f"{AXE} is missing: run npm ci in tests/javascript")
        self.page, self.source, self.found = page, AXE.read_text(), []

    def look(self, where):
        """Note what is wrong in this state."""
        self.page.settled()
        self.page.run(f"if (!window.axe) {{ {self.source} }}")
        self.found += [f"{where}: {one}" for one in self.page.run(RUN)]


def check_accessible(page, folder):
    """Every state of the page, dark and light, on a screen and on a phone."""
    axe = Axe(page)
    axe.look("start")
    page.click("#help")
    axe.look("shortcuts")
    page.keys(ESCAPE)
    page.click("#browse")
    page.until("return document.querySelector('#server').open")
    axe.look("folders of the server")
    page.keys(ESCAPE)
    page.drop([*write_stack(folder / "axe", 4, seed=90), *write_junk(folder)])
    page.frames_read(4)
    page.until(STAGE, "frame")
    axe.look("the middle frame")
    page.click("#close-frame")
    axe.look("frames")
    page.click("#sheet li:nth-child(2) .toggle")
    page.until(TALLY.format("#sheet li.out"), 1)
    page.click("#sheet li:nth-child(1) .card")
    page.until(STAGE, "frame")
    axe.look("a frame")
    page.blur()
    page.keys(ESCAPE)
    page.click("#more-options summary")
    page.choose("#option-slab", 2)
    page.click("#go")
    page.until("return document.querySelector('#work').hidden", False)
    axe.look("work")
    page.until(TALLY.format("#versions .card"), 1)
    page.until("return document.querySelector('#work').hidden")
    page.choose("#option-slab", "")
    for theme in ("dark", "light"):
        page.run("document.documentElement.dataset.theme = arguments[0]", theme)
        look_at_results(page, axe, theme)
    page.resize((390, 780), 2, touch=True)
    page.click('[data-tool="result"]')
    axe.look("phone")
    page.resize((1280, 720))
    home(page)
    axe.look("start with projects")
    page.run("document.documentElement.dataset.theme = ''")
    must(not axe.found, "axe-core finds " + "; ".join(axe.found))


def look_at_results(page, axe, theme):
    """The tools of a result, and what is asked before it is deleted."""
    for overlay in ("focus", "confidence", ""):
        page.choose("#overlay", overlay)
        axe.look(f"{theme}, overlay {overlay or 'none'}")
    page.drag("#picture", [(0.5, 0.5)])
    page.until("return document.querySelectorAll('#probe meter').length > 0")
    axe.look(f"{theme}, a pixel")
    page.click('[data-tool="compare"]')
    axe.look(f"{theme}, compare")
    page.click("#side")
    axe.look(f"{theme}, side by side")
    page.click("#difference")
    axe.look(f"{theme}, difference")
    page.click("#difference")
    if theme == "dark":
        stroke(page)
    page.click('[data-tool="retouch"]')
    page.click("#pane")
    axe.look(f"{theme}, retouch")
    page.click('[data-tool="3d"]')
    axe.look(f"{theme}, 3D view")
    page.click('[data-tool="result"]')
    page.choose("#crop", "free")
    axe.look(f"{theme}, crop")
    page.choose("#crop", "")
    page.click("#versions .toggle")
    page.until("return document.querySelector('#confirm').open")
    axe.look(f"{theme}, a question")
    page.keys(ESCAPE)


def write_junk(folder):
    """A file that is not an image, so that there is a message."""
    path = folder / "notes_of_axe.txt"
    path.write_text("text")
    return [path]
