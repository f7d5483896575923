"""The gallery of a comparison, an HTML file: tables of scores, every picture above its error map.

It opens from disk and has no scripts. Its pictures lie in a folder beside it, except for results
that already lie below its own folder, to which it links. So that folder can be moved as a whole.
"""

import html
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np

from stackmff.display.drawing import ERROR_GAIN, colour_map, error_map
from stackmff.files import write_text
from stackmff.images.formats import write_picture

BROWSER_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
PREVIEW_WIDTH = 480  # px; wider pictures are shown shrunk to it
STYLE = """
:root { color-scheme: light dark; --line: rgb(128 128 128 / 0.4); }
body { font: 16px/1.5 system-ui, sans-serif; margin: 1rem auto; padding: 0 1rem; max-width: 100rem;
  background: Canvas; color: CanvasText; }
h1, h2 { line-height: 1.2; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; position: sticky; left: 0; background: Canvas; }
.views { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 13rem), 1fr)); }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; margin-bottom: 0.3rem; }
figcaption { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; margin-bottom: 0.3rem; }
.key { display: inline-block; width: 10rem; height: 0.8rem; vertical-align: middle;
  margin: 0 0.4rem; }
.full { display: none; position: fixed; inset: 0; z-index: 1; overflow: auto; background: Canvas; }
.full:target { display: block; }
.full img { width: auto; max-width: none; cursor: zoom-out; }
"""


# A heading, rows of cells with the header first, a note on the columns.
Table = tuple[str, Sequence[Sequence[str]], str]


@dataclass(frozen=True)
class LinkedImage:
    """A picture that the gallery links to.

    Attributes:
        file: the whole picture.
        preview: a smaller copy, or `file` again.
        width, height: of the whole picture, px.
    """

    file: Path
    preview: Path
    width: int
    height: int


@dataclass(frozen=True)
class Entry:
    """One picture of a scene in the gallery.

    Attributes:
        name: of the method, or what else the picture is.
        caption: its scores; may be empty.
        picture: the picture itself.
        error: its error map, or None.
    """

    name: str
    caption: str
    picture: LinkedImage
    error: LinkedImage | None = None


def files_folder(html_file: Path) -> Path:
    """The folder beside a gallery for its pictures."""
    return html_file.with_name(f"{html_file.stem}_files")


def can_link(file: str | Path, html_file: Path) -> bool:
    """Whether a gallery can link to a picture: browsers show it, and it lies below its folder."""
    file = Path(file)
    below = html_file.resolve().parent in file.resolve().parents
    return below and file.suffix.lower() in BROWSER_SUFFIXES


def save_image(start: str | Path, picture: np.ndarray, file: Path | None = None) -> LinkedImage:
    """Write the files that a gallery needs of a picture.

    Args:
        start: folder and first part of the names of the files.
        picture: (H, W, C) uint8 or uint16, C as in images/formats.py.
        file: the file of the picture where the gallery can link to it; None: write one.
    Raises:
        StackError: a file cannot be written.
    """
    if file is None:
        file = Path(f"{start}.png")
        write_picture(file, picture)
    height, width = picture.shape[:2]
    preview = Path(file)
    if width > PREVIEW_WIDTH:
        size = (PREVIEW_WIDTH, max(1, round(height * PREVIEW_WIDTH / width)))
        preview = Path(f"{start}-small.jpg")
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        write_picture(preview, small.reshape(size[1], size[0], -1))
    return LinkedImage(Path(file), preview, width, height)


def save_error(start: str | Path, fused: np.ndarray, answer: np.ndarray) -> LinkedImage:
    """Write the error map of two lumas, (H, W) float in [0, 1]; `start` as of `save_image`."""
    return save_image(f"{start}-error", error_map(fused, answer))


def link(file: Path, html_file: Path) -> str:
    """The address of a file as seen from a gallery, escaped for an attribute."""
    relative = os.path.relpath(Path(file).resolve(), html_file.resolve().parent)
    return html.escape(quote(os.fsencode(relative.replace(os.sep, "/"))))


def html_start(title: str, style: str = "") -> str:
    """An HTML document up to its heading; `style` is added to STYLE."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title>",
            f"<style>{STYLE}{style}</style></head>",
            f"<body><h1>{html.escape(title)}</h1>",
        ]
    )


def gallery_html(
    path: Path,
    title: str,
    run: Mapping[str, Any],
    tables: Sequence[Table],
    scenes: Mapping[str, Sequence[Entry]],
) -> str:
    """The gallery as an HTML document.

    Args:
        path: of the gallery, absolute or relative.
        title: plain text.
        run: the record of the run, as records.run_record returns it.
        tables: of scores.
        scenes: {name of the scene: its pictures}.
    """
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    parts = [
        html_start(title),
        f"<pre>{html.escape(shlex.join(run['command']))}</pre>",
        f"<p>{html.escape(versions)}</p>",
        *(table_part(*table) for table in tables),
        "<h2>Scenes</h2>",
        contents_part(scenes),
        key_part() if any(entry.error for entries in scenes.values() for entry in entries) else "",
        *(scene_part(k, *scene, path) for k, scene in enumerate(scenes.items())),
        "</body></html>",
    ]
    return "\n".join(filter(None, parts)) + "\n"


def table_part(heading: str, rows: Sequence[Sequence[str]], note: str) -> str:
    """A table with its heading and a note on its columns."""
    head = "".join(f'<th scope="col">{html.escape(word)}</th>' for word in rows[0])
    lines = []
    for first, *words in rows[1:]:
        cells = "".join(f"<td>{html.escape(word)}</td>" for word in words)
        lines.append(f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>')
    return (
        f"<h2>{html.escape(heading)}</h2>\n"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(lines)
        + f"\n</tbody></table></div>\n<p>{html.escape(note)}</p>"
    )


def contents_part(scenes: Mapping[str, Sequence[Entry]]) -> str:
    """Links to the scenes."""
    links = (f'<a href="#s{k}">{html.escape(name)}</a>' for k, name in enumerate(scenes))
    return f"<p>{' &middot; '.join(links)}</p>"


def key_part() -> str:
    """The colour key of the error maps."""
    colours = colour_map(np.linspace(0, 1, 9)[None])[0]
    stops = ", ".join("rgb({} {} {})".format(*colour) for colour in colours)
    return (
        "<p>Below each picture is the error map of its luma: 0 "
        f'<span class="key" style="background: linear-gradient(to right, {stops})"></span> '
        f"{255 / ERROR_GAIN:g} of 255 grey levels or more. Click a picture to see every pixel, and "
        "again to go back.</p>"
    )


def scene_part(k: int, name: str, entries: Sequence[Entry], html_file: Path) -> str:
    """A scene: its pictures side by side, each above its error map."""
    figures = [
        entry_part(f"s{k}", f"s{k}v{j}", name, entry, html_file) for j, entry in enumerate(entries)
    ]
    return (
        f'<section id="s{k}"><h2>{html.escape(name)}</h2>\n<div class="views">\n'
        + "\n".join(figures)
        + "\n</div></section>"
    )


def entry_part(scene_id: str, entry_id: str, scene: str, entry: Entry, html_file: Path) -> str:
    """A picture, its caption and its error map."""
    name = html.escape(entry.name)
    caption = (
        f"<b>{name}</b><br>{html.escape(entry.caption)}" if entry.caption else f"<b>{name}</b>"
    )
    parts = [
        "<figure>",
        image_part(scene_id, entry_id, entry.picture, f"{scene}: {entry.name}", html_file),
        f"<figcaption>{caption}</figcaption>",
    ]
    if entry.error:
        text = f"{scene}: error map of {entry.name}"
        parts.append(image_part(scene_id, f"{entry_id}e", entry.error, text, html_file))
    return "\n".join([*parts, "</figure>"])


def image_part(scene_id: str, image_id: str, image: LinkedImage, text: str, html_file: Path) -> str:
    """A preview. A click opens every pixel of the picture; another click goes back to the scene."""
    size = f'width="{image.width}" height="{image.height}"'
    text = html.escape(text)
    return (
        f'<a href="#{image_id}"><img src="{link(image.preview, html_file)}" {size} loading="lazy" '
        f'alt="{text}"></a>\n'
        f'<div class="full" id="{image_id}"><a href="#{scene_id}" title="back">'
        f'<img src="{link(image.file, html_file)}" {size} loading="lazy" alt="{text}, every pixel">'
        "</a></div>"
    )


def write_gallery(
    path: Path,
    title: str,
    run: Mapping[str, Any],
    tables: Sequence[Table],
    scenes: Mapping[str, Sequence[Entry]],
) -> None:
    """Write the document of `gallery_html` atomically; StackError where that fails."""
    write_text(path, gallery_html(path, title, run, tables, scenes))
