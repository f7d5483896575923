"""A page to look at: the table of a comparison, and every picture beside its error map.

The page opens from disk, without scripts. What it shows lies in a folder beside it or, where
results are below the page's own folder already, there; so the page's folder can be moved as it is.
"""

import html
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np

from stackmff.display.drawing import ERROR_GAIN, colour_map, error_map
from stackmff.files import write_text
from stackmff.images.formats import write_picture

BROWSER_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
PREVIEW = 480  # px, width of the pictures in the page; wider ones are shrunk to it
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


@dataclass(frozen=True)
class Image:
    """A picture of the page.

    Attributes:
        file: of the whole picture.
        preview: file of a smaller one, or `file` again.
        width, height: of the whole picture, px.
    """

    file: Path
    preview: Path
    width: int
    height: int


@dataclass(frozen=True)
class View:
    """What the page shows of one picture of a scene.

    Attributes:
        name: of the method, or what else it is.
        caption: its scores, may be empty.
        picture: Image.
        error: Image of the error map, or None.
    """

    name: str
    caption: str
    picture: Image
    error: Image | None = None


def files_folder(page):
    """The folder beside a page for what it shows."""
    return page.with_name(f"{page.stem}_files")


def is_shown_as_it_is(file, page):
    """Whether the page can link to a picture: a browser can show it, and it moves with the page."""
    file = Path(file)
    below = page.resolve().parent in file.resolve().parents
    return below and file.suffix.lower() in BROWSER_SUFFIXES


def save_image(start, picture, file=None):
    """Write what a page needs of a picture.

    Args:
        start: of the files' names, with their folder.
        picture: (H, W, C) uint8 or uint16, C as in images/formats.py.
        file: of the picture, where the page can link to it; None: write one.
    Returns:
        Image.
    """
    if file is None:
        file = Path(f"{start}.png")
        write_picture(file, picture)
    height, width = picture.shape[:2]
    preview = Path(file)
    if width > PREVIEW:
        size = (PREVIEW, max(1, round(height * PREVIEW / width)))
        preview = Path(f"{start}-small.jpg")
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        write_picture(preview, small.reshape(size[1], size[0], -1))
    return Image(Path(file), preview, width, height)


def save_error(start, fused, answer):
    """Write the error map of two lumas, (H, W) float in [0, 1]; returns its Image."""
    return save_image(f"{start}-error", error_map(fused, answer))


def link(file, page):
    """The address of a file as seen from the page, for an attribute."""
    relative = os.path.relpath(Path(file).resolve(), page.resolve().parent)
    return html.escape(quote(os.fsencode(relative.replace(os.sep, "/"))))


def start_of(title, style=""):
    """A page up to its heading; `style` is added to STYLE."""
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


def page_of(path, title, run, tables, scenes):
    """The page as text.

    Args:
        path: of the page, absolute or not.
        title: in words.
        run: as from utils.run_record.
        tables: a list of (heading, rows of words with the header first, what the columns are).
        scenes: {name: list of View}.
    Returns:
        A whole HTML document.
    """
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    parts = [
        start_of(title),
        f"<pre>{html.escape(shlex.join(run['command']))}</pre>",
        f"<p>{html.escape(versions)}</p>",
        *(table_part(*table) for table in tables),
        "<h2>Scenes</h2>",
        contents_part(scenes),
        key_part() if any(view.error for views in scenes.values() for view in views) else "",
        *(scene_part(k, *scene, path) for k, scene in enumerate(scenes.items())),
        "</body></html>",
    ]
    return "\n".join(filter(None, parts)) + "\n"


def table_part(heading, rows, note):
    """A table under its heading, and what its columns are."""
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


def contents_part(scenes):
    """Links to the scenes."""
    links = (f'<a href="#s{k}">{html.escape(name)}</a>' for k, name in enumerate(scenes))
    return f"<p>{' &middot; '.join(links)}</p>"


def key_part():
    """The key of the error maps."""
    colours = colour_map(np.linspace(0, 1, 9)[None])[0]
    stops = ", ".join("rgb({} {} {})".format(*colour) for colour in colours)
    return (
        "<p>Error maps, of the luma, beneath the pictures: 0 "
        f'<span class="key" style="background: linear-gradient(to right, {stops})"></span> '
        f"{255 / ERROR_GAIN:g} grey levels of 255 and more. A click shows a picture pixel by "
        "pixel, another one goes back.</p>"
    )


def scene_part(k, name, views, page):
    """A scene: its pictures side by side, each above its error map."""
    figures = [view_part(f"s{k}", f"s{k}v{j}", name, view, page) for j, view in enumerate(views)]
    return (
        f'<section id="s{k}"><h2>{html.escape(name)}</h2>\n<div class="views">\n'
        + "\n".join(figures)
        + "\n</div></section>"
    )


def view_part(scene_id, view_id, scene, view, page):
    """A picture, its caption and its error map."""
    name = html.escape(view.name)
    caption = f"<b>{name}</b><br>{html.escape(view.caption)}" if view.caption else f"<b>{name}</b>"
    parts = [
        "<figure>",
        image_part(scene_id, view_id, view.picture, f"{scene}: {view.name}", page),
        f"<figcaption>{caption}</figcaption>",
    ]
    if view.error:
        text = f"{scene}: error map of {view.name}"
        parts.append(image_part(scene_id, f"{view_id}e", view.error, text, page))
    return "\n".join([*parts, "</figure>"])


def image_part(scene_id, image_id, image, text, page):
    """A preview that a click opens pixel by pixel; another click goes back to the scene."""
    size = f'width="{image.width}" height="{image.height}"'
    text = html.escape(text)
    return (
        f'<a href="#{image_id}"><img src="{link(image.preview, page)}" {size} loading="lazy" '
        f'alt="{text}"></a>\n'
        f'<div class="full" id="{image_id}"><a href="#{scene_id}" title="back">'
        f'<img src="{link(image.file, page)}" {size} loading="lazy" alt="{text}, pixel by pixel">'
        "</a></div>"
    )


def write_page(path, title, run, tables, scenes):
    """Write the page of `page_of`, atomically; raises StackError where that fails."""
    write_text(path, page_of(path, title, run, tables, scenes))
