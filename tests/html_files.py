"""Reading the HTML files that the library writes."""

from html.parser import HTMLParser
from urllib.parse import unquote

VOID = {"meta", "img", "br", "input"}


class HtmlFile(HTMLParser):
    """Reads an HTML file, asserts that its elements are nested, keeps text, ids and addresses."""

    def __init__(self, path):
        super().__init__()
        self.path, self.open, self.text = path, [], ""
        self.ids, self.links, self.sources, self.images = [], [], [], []
        self.feed(path.read_text())
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "img":
            self.images.append(attributes)
            self.sources.append(self.path.parent / unquote(attributes["src"]))
        if tag == "a":
            self.links.append(attributes["href"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
