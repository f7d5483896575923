"""The report of a run: one self-contained HTML file that can be moved, mailed and kept.

Each stack leaves a card when it is fused: a JSON file with its figures and small pictures. The
report is assembled from the cards, including those of earlier runs.
"""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np

from stackmff.display.drawing import reduced
from stackmff.display.gallery import html_start
from stackmff.display.previews import FrameInfo, FusedMaps, sharpest_frame, small_focus_map
from stackmff.errors import StackError
from stackmff.files import atomic_path, parse_json, write_json
from stackmff.images.frame_store import release

PAIR_SIDE = 960  # px, longest side of the pictures under the slider
MAP_SIDE = 560  # px
QUALITY = 82  # of WebP
MOST_SHOWN = 500  # stacks with pictures, about 150 MB; the table lists all stacks
STYLE = """
.wide .words { text-align: left; white-space: normal; min-width: 16rem; }
.failed { border-left: 0.3rem solid rgb(200 60 40); padding: 0.1rem 1rem; margin: 1rem 0; }
.stack { content-visibility: auto; contain-intrinsic-size: auto 36rem; margin-top: 2.5rem; }
.stack h2 { margin-bottom: 0.2rem; }
.stack > p, .stack > ul { margin: 0.2rem 0; }
.looks { display: grid; gap: 1rem; align-items: start; margin-top: 0.7rem;
  grid-template-columns: minmax(0, 5fr) minmax(0, 3fr); }
@media (max-width: 46rem) { .looks { grid-template-columns: minmax(0, 1fr); } }
.pair { --at: 50%; position: relative; overflow: hidden; touch-action: pan-y; }
.pair img { display: block; width: 100%; height: auto; margin: 0; }
.pair .before { position: absolute; inset: 0; clip-path: inset(0 calc(100% - var(--at)) 0 0); }
.pair span { position: absolute; bottom: 0.6rem; padding: 0.05rem 0.5rem; font-size: 0.85rem;
  color: white; background: rgb(0 0 0 / 0.6); pointer-events: none; }
.pair .one { left: 0.6rem; }
.pair .all { right: 0.6rem; }
.pair input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0;
  cursor: ew-resize; touch-action: pan-y; }
.pair i { position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; margin-left: -1px;
  background: white; box-shadow: 0 0 3px black; pointer-events: none; }
.pair i::after { content: "\\2194"; position: absolute; top: 50%; left: 50%; width: 2.2rem;
  height: 2.2rem; translate: -50% -50%; border-radius: 50%; background: white; color: black;
  font: 1.2rem/2.2rem system-ui, sans-serif; text-align: center; box-shadow: 0 0 4px black; }
.pair input:focus-visible + i::after { outline: 3px solid rgb(40 120 230); outline-offset: 2px; }
"""
SCRIPT = """
addEventListener("input", event => {
  event.target.parentElement.style.setProperty("--at", event.target.value + "%");
});
"""


# (data URL, width, height), px. A list in a card, which is JSON.
EmbeddedPicture = Sequence[Any]


@dataclass
class Card:
    """What the report shows of one stack.

    Attributes:
        name: of the stack.
        failure: why the stack could not be fused, one sentence; the other fields are then empty.
        file: the fused picture, relative to the folder of the report; or None.
        width, height: of the fused picture, px.
        frames: their number.
        seconds, network_seconds: time taken in all, and by the network.
        notes: sentences on what was aligned, excluded, rounded.
        before: caption of the frame that the fused picture is compared with.
        pictures: {"before", "after", "focus": the picture}; "focus" may be missing.
    """

    name: str
    failure: str | None = None
    file: str | None = None
    width: int = 0
    height: int = 0
    frames: int = 0
    seconds: float = 0.0
    network_seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    before: str = ""
    pictures: dict[str, EmbeddedPicture] = field(default_factory=dict)


def make_card(
    name: str,
    frames: np.ndarray,
    fused: FusedMaps,
    result: Mapping[str, Any],
    file: str | Path | None = None,
    info: FrameInfo | None = None,
) -> Card:
    """Make the card of a stack that has been fused.

    Args:
        name: of the stack.
        frames: (N, H, W, C) uint8 or uint16. The memory of a numpy.memmap is released after each
            frame.
        fused: the result; without a focus map, the report shows none.
        result: {"seconds", "network_seconds", "notes"}, as of fusion.outputs.fuse_files; the notes
            may be missing.
        file: the fused picture, relative to the folder of the report.
        info: what else is known of the frames; None: nothing.
    """
    info = info or FrameInfo()
    index = sharpest_frame(frames, info.kept, info.levels)
    height, width = fused.picture.shape[:2]
    return Card(
        name,
        file=None if file is None else Path(file).as_posix(),
        width=width,
        height=height,
        frames=len(frames),
        seconds=result["seconds"],
        network_seconds=result["network_seconds"],
        notes=list(result.get("notes") or ()),
        before=f"sharpest frame: {info.names[index] if info.names else index + 1}",
        pictures=_card_pictures(frames, index, fused, info),
    )


def _card_pictures(
    frames: np.ndarray, index: int, fused: FusedMaps, info: FrameInfo
) -> dict[str, EmbeddedPicture]:
    """The pictures of a card; `index` is that of the frame to compare with."""
    pictures = {
        "before": _embedded(reduced(frames[index], PAIR_SIDE, info.profile, info.levels)),
        "after": _embedded(reduced(fused.picture, PAIR_SIDE, info.profile, info.levels)),
    }
    release(frames)
    if fused.focus_map is not None:
        pictures["focus"] = _embedded(small_focus_map(fused, len(frames), MAP_SIDE, info.names))
    return pictures


def _embedded(picture: np.ndarray) -> EmbeddedPicture:
    """Put (h, w, 3) uint8 RGB into a data URL, as WebP."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])[1].tobytes()
    address = "data:image/webp;base64," + base64.b64encode(data).decode()
    return [address, picture.shape[1], picture.shape[0]]


def write_card(path: str | Path, card: Card) -> None:
    """Write a card as JSON, atomically; StackError where that fails."""
    write_json(path, asdict(card))


def read_card(path: str | Path) -> Card:
    """Read a card; StackError where the file is missing or is not a card."""
    path = Path(path)
    try:
        card = Card(**parse_json(path.read_text(encoding="utf-8")))
        _check_types(card)
        return card
    except (OSError, ValueError, TypeError) as error:
        raise StackError(
            f"{path} cannot be read as the card of a stack: fuse the stack again with --overwrite"
        ) from error


def _check_types(card: Card) -> None:
    """Raise TypeError for a card whose fields are of other types, as in a file that was edited."""
    words, numbers = (card.name, card.before), (card.seconds, card.network_seconds)
    counts = (card.width, card.height, card.frames)
    pictures = card.pictures.values() if isinstance(card.pictures, dict) else [None]
    if not (
        all(isinstance(one, str) for one in words)
        and all(one is None or isinstance(one, str) for one in (card.failure, card.file))
        and all(type(one) is int for one in counts)
        and all(type(one) in (int, float) for one in numbers)
        and isinstance(card.notes, list)
        and all(isinstance(note, str) for note in card.notes)
        and all([type(part) for part in one or ()] == [str, int, int] for one in pictures)
        and (card.failure is not None or {"before", "after"} <= set(card.pictures))
    ):
        raise TypeError("a field is of another type")


def write_report(path: str | Path, title: str, files: Sequence[str | Path]) -> None:
    """Assemble cards into a report, atomically, with one card in memory at a time.

    Args:
        path: of the report.
        title: plain text.
        files: the cards, in order. A card that cannot be read counts as a failure.
    Raises:
        StackError: the report cannot be written.
    """
    # Without their pictures: those of a large data set take gigabytes.
    cards = [replace(_card_or_failure(file), pictures={}) for file in files]
    fused = {k: card for k, card in enumerate(cards) if card.failure is None}
    failed = [card for card in cards if card.failure is not None]
    shown = list(fused)[:MOST_SHOWN]
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace") as report,
    ):
        report.write(html_start(title, STYLE) + "\n")
        report.write(_summary_part(list(fused.values()), failed))
        if fused:
            report.write(_table_part(fused, shown))
        for k in shown:
            report.write(_stack_part(k, read_card(files[k])))
        report.write(f"<script>{SCRIPT}</script></body></html>\n")


def _card_or_failure(file: str | Path) -> Card:
    """The card in a file; where it cannot be read, one that says why."""
    try:
        return read_card(file)
    except StackError as error:
        return Card(Path(file).stem, failure=str(error))


def _summary_part(fused: Sequence[Card], failed: Sequence[Card]) -> str:
    """How many stacks were fused, and why others failed."""
    stacks = "1 stack" if len(fused) == 1 else f"{len(fused)} stacks"
    frames, seconds = sum(card.frames for card in fused), sum(card.seconds for card in fused)
    part = f"<p>{stacks} fused from {frames} frames in {seconds:.1f} s, {len(failed)} failed.</p>\n"
    if failed:
        part += '<section class="failed"><h2>Failed</h2>\n<ul>\n'
        for card in failed:
            part += f"<li><b>{html.escape(card.name)}</b>: {html.escape(card.failure or '')}</li>\n"
        part += "</ul></section>\n"
    return part


def _table_part(fused: Mapping[int, Card], shown: Iterable[int]) -> str:
    """The table of {number: card}; the numbers in `shown` link to their pictures."""
    heads = ("stack", "size", "frames", "seconds", "network, s")
    head = "".join(f'<th scope="col">{word}</th>' for word in heads)
    head += '<th scope="col" class="words">notes</th>'
    linked = set(shown)
    rows = "\n".join(_row_part(k, card, k in linked) for k, card in fused.items())
    note = (
        "Below, the sharpest frame of each stack is compared with the fused picture. Drag the "
        "line, or move it with the arrow keys. Focus maps show which frame is in focus."
    )
    if len(linked) < len(fused):
        stacks = "stack" if len(linked) == 1 else f"{len(linked)} stacks"
        note += f" Pictures are shown for the first {stacks}."
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n'
        f"</tbody></table></div>\n<p>{note}</p>\n"
    )


def _row_part(k: int, card: Card, linked: bool) -> str:
    """A row of the table; linked: whether the report shows pictures of the stack."""
    name = html.escape(card.name)
    if linked:
        name = f'<a href="#s{k}">{name}</a>'
    figures = (
        f"{card.width}&times;{card.height}",
        str(card.frames),
        f"{card.seconds:.1f}",
        f"{card.network_seconds:.1f}",
    )
    cells = "".join(f"<td>{figure}</td>" for figure in figures)
    notes = html.escape("; ".join(card.notes))
    return f'<tr><th scope="row">{name}</th>{cells}<td class="words">{notes}</td></tr>'


def _stack_part(k: int, card: Card) -> str:
    """A stack: its figures, the comparison slider, the focus map."""
    name = html.escape(card.name)
    if card.file is not None:
        address = html.escape(quote(card.file, errors="surrogateescape"))
        whole = f', <a href="{address}">full picture</a>'
    else:
        whole = ""
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in card.notes)
    focus = ""
    if "focus" in card.pictures:
        image = _image_part(card.pictures["focus"], "map", f"{name}: focus map")
        focus = f"<figure>{image}</figure>"
    return (
        f'<section class="stack" id="s{k}"><h2>{name}</h2>\n'
        f"<p>{card.frames} frames of {card.width}&times;{card.height} px, "
        f"{card.seconds:.1f} s{whole}.</p>\n"
        + (f"<ul>{notes}</ul>\n" if notes else "")
        + f'<div class="looks">{_pair_part(card, name)}\n{focus}</div></section>\n'
    )


def _pair_part(card: Card, name: str) -> str:
    """The fused picture, with the frame over its left part up to the slider."""
    before = html.escape(card.before)
    _, width, height = card.pictures["after"]
    return (
        # No higher than the window, so that all of it is visible at once.
        f'<figure><div class="pair" style="max-width: calc(90vh * {width} / {height})">'
        + _image_part(card.pictures["after"], "after", f"{name}: all in focus")
        + _image_part(card.pictures["before"], "before", f"{name}: {before}")
        + f'<input type="range" min="0" max="100" step="any" value="50" autocomplete="off" '
        f'aria-label="{name}: share covered by the {before}"><i></i>'
        f'<span class="one">{before}</span><span class="all">all in focus</span></div></figure>'
    )


def _image_part(picture: EmbeddedPicture, kind: str, text: str) -> str:
    """An image element; `text` is already escaped."""
    address, width, height = picture
    return (
        f'<img class="{kind}" src="{address}" width="{width}" height="{height}" '
        f'loading="lazy" decoding="async" alt="{text}">'
    )
