"""Large frames and several stacks at once: clicks are answered, and memory stays bounded.

Part of `python -m tests.check_app --large`, since it depends on how busy the machine is.
"""

import contextlib
import os
import time
from pathlib import Path

import cv2
import numpy as np

from stackmff.fusion.memory import needed
from tests.drawn import draw_stack, texture
from tests.page.doing import TALLY, write_stack
from tests.visit import must

BESIDE = 300e6  # bytes: the server, its probe and what it shows, beside what fuses
LATEST_CLICK = 200  # ms until a click is answered
LATEST_PAINT = 1000  # ms until the start page is seen
LOADS = 5  # of the start page
LONGEST = 1800  # s until the frames are read, or the draft is there, on a busy machine


def check_first_paint(page):
    """The start page is seen within a second, with nothing in the cache; print the times."""
    took = []
    for _ in range(LOADS):
        page.browser.tool("Network.clearBrowserCache")
        page.go(page.address)
        painted = "return performance.getEntriesByName('first-contentful-paint')[0].startTime"
        took.append(page.run(painted))
    print("first paint after", ", ".join(f"{one:.0f}" for one in took), "ms")
    must(np.median(took) < LATEST_PAINT, f"the first paint takes {np.median(took):.0f} ms")


def draw_large(folder):
    """Write 30 frames of 6000x4000; returns their files."""
    answer = texture(1000, 1500, 0)
    small = draw_stack(answer, 30)
    folder = folder / "a_large"
    folder.mkdir()
    files = []
    for k, frame in enumerate(small):
        large = cv2.resize(frame, (6000, 4000), interpolation=cv2.INTER_CUBIC)
        files.append(folder / f"{k:02}.jpg")
        cv2.imwrite(str(files[-1]), cv2.cvtColor(large, cv2.COLOR_RGB2BGR))
    return files


def memory_of(server):
    """{number: bytes} of memory that a process and its children use.

    What several of them have mapped, such as libraries, counts in parts.
    """
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if server in (int(entry.name), parent):
                rollup = (entry / "smaps_rollup").read_text()
                for line in rollup.splitlines():  # a process that has ended has no such line
                    if line.startswith("Pss:"):
                        found[int(entry.name)] = 1024 * int(line.split()[1])
    return found


def family(number):
    """The numbers of a process and of all that it and they have started."""
    children = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found = [number]
    for one in found:
        found += children.get(one, [])
    return set(found)


def waited(numbers):
    """Seconds for which the threads of processes could have run, and had no processor."""
    total = 0
    for number in numbers:
        for path in Path(f"/proc/{number}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # it has ended
                total += int(path.read_text().split()[1])
    return total / 1e9


def click(page, share):
    """Click the picture; returns the ms until the card of the pixel is shown, and of those the ms
    until the request is sent and until it is answered.

    The page measures the time itself: the driver adds about 100 ms.
    """
    watch = """
        const canvas = document.querySelector('#picture');
        const card = document.querySelector('#probe'), box = canvas.getBoundingClientRect();
        card.hidden = true;
        const tell = arguments[arguments.length - 1];
        const at = {bubbles: true, pointerId: 1, clientX: box.x + box.width * arguments[0],
            clientY: box.y + box.height * arguments[1]};
        performance.clearResourceTimings();
        const start = performance.now();
        new MutationObserver((_, watcher) => {
            if (card.hidden) return;
            watcher.disconnect();
            const end = performance.now() - start;
            const asked = performance.getEntriesByType('resource').find(one =>
                one.name.includes('/pixel/'));
            tell([end, (asked?.requestStart ?? NaN) - start, (asked?.responseEnd ?? NaN) - start]);
        }).observe(card, {attributes: true});
        canvas.setPointerCapture = () => {};
        canvas.dispatchEvent(new PointerEvent('pointerdown', at));
        canvas.dispatchEvent(new PointerEvent('pointerup', at));
    """
    return page.browser.wait(watch, share, share)


def tell_clicks(took, lacks):
    """Print how long clicks took, and what those took long for that were late.

    Args:
        took: (n, 3) ms, as of `click`.
        lacks: (n,) ms for which threads of the browser and the server lacked a processor.
    """
    whole, late = took[:, 0], took[:, 0] > LATEST_CLICK
    print(
        f"{len(took)} clicks: median {np.median(whole):.0f} ms, maximum {whole.max():.0f} ms, "
        f"{late.mean():.1%} above {LATEST_CLICK} ms at a load of {os.getloadavg()[0]:.1f}"
    )
    for who, chosen in (("late clicks", late), ("others", ~late)):
        if chosen.any():
            sent, answered, shown = np.median(took[chosen][:, [1, 2, 0]], axis=0)
            print(
                f"{who}: sent after {sent:.0f} ms, answered after {answered:.0f} ms, shown after "
                f"{shown:.0f} ms; browser and server lacked a processor for "
                f"{np.median(lacks[chosen]):.0f} ms (medians)"
            )


def check_large(page, files, server):
    """Click while 30 frames of 24 megapixels are fused and two more stacks wait; print times."""
    page.drop(
        [files[0].parent, *(write_stack(files[0].parents[1] / name, 3)[0].parent for name in "bc")]
    )
    page.until(TALLY.format("#shelf .card"), 3)
    page.until("return document.querySelector('#fuse-all').textContent", "Fuse all (3)", LONGEST)
    page.until("return !document.querySelector('#fuse-all').disabled", latest=LONGEST)
    page.click("#shelf li:nth-child(1) .card")
    page.frames_read(len(files))
    start = time.monotonic()
    page.click("#fuse-all")
    page.until("return document.querySelectorAll('#shelf progress:not([hidden])').length", 3)
    page.until("return document.body.dataset.stage", "result", LONGEST)
    drafted = time.monotonic() - start
    took, lacks, most = [], [], {}
    while page.run("return !document.querySelector('#work').hidden"):
        answering = family(os.getpid()) - family(server) - {os.getpid()} | {server}
        lacked = waited(answering)  # the browser and the server
        took.append(click(page, 0.3 + 0.4 * (len(took) * 0.618 % 1)))
        lacks.append(1000 * (waited(answering) - lacked))
        if len(took) % 5 == 1:  # it takes time from the clicks
            most = max(most, memory_of(server), key=lambda sizes: sum(sizes.values()))
        time.sleep(0.5)
    whole = time.monotonic() - start
    print(f"{len(files)} frames: draft {drafted:.1f} s, all {whole:.1f} s")
    tell_clicks(np.array(took), np.array(lacks))
    need = needed(files, Path("fused.tif"), 16)
    assert need is not None
    bound, used = need.work + BESIDE, sum(most.values())
    sizes = ", ".join(f"{size / 1e6:.0f}" for size in most.values())
    print(
        f"memory of the server and its processes at most {used / 1e6:.0f} MB ({sizes}), "
        f"bound {bound / 1e6:.0f} MB"
    )
    must(not page.errors(), f"the page shows {page.errors()}")
    slowest = max(one[0] for one in took)
    must(slowest < LATEST_CLICK, f"a click was answered after {slowest:.0f} ms")
    must(used < bound, f"{used / 1e6:.0f} MB of memory are used")
