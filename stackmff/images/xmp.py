"""An XMP packet, corrected for a result.

Expat reads the packet token by token, in time that grows with its length. A document type, which
could define entities, is refused. What is not changed keeps its text, down to the quotes.
"""

import json
import re
from typing import Any
from xml.parsers import expat

ROOM = 4 * 2**20  # bytes; cameras and editors write kilobytes, a thousand brush strokes a megabyte

# Values that are set to the result's size, and parts that describe other data in the old file: its
# thumbnail, a second packet, a video or a gain map.
WIDTHS = ("tiff:ImageWidth", "exif:PixelXDimension")
HEIGHTS = ("tiff:ImageLength", "exif:PixelYDimension")
DROPPED = re.compile(
    r"(?:xmp|xap):Thumbnails|Container:Directory|xmpNote:HasExtendedXMP|GCamera:\w+|hdrgm:\w+"
)
NAME = re.compile(r"</?([^\s/>]+)")  # at the start of a tag
# One attribute of a well-formed tag. It takes one space before, so that a long run of spaces is not
# tried from each of its places to its end.
ATTRIBUTE = re.compile(r"""[ \t\r\n]([^ \t\r\n=/>]+)([ \t\r\n]*=[ \t\r\n]*)("[^"]*"|'[^']*')""")


def xmp_for(packet: bytes, width: int, height: int) -> bytes | None:
    """An XMP packet, corrected for an upright picture of this size.

    Args:
        packet: in any of the encodings of JSON.
        width, height: of the picture, px.
    Returns:
        The packet in UTF-8, otherwise unchanged; None if it is not well-formed XML, has a document
        type, or is longer than ROOM.
    """
    if len(packet) > ROOM:
        return None
    try:
        text = packet.decode(json.detect_encoding(packet)).rstrip("\0")
        return _Corrected(width, height).read(text).encode()
    except (UnicodeError, expat.ExpatError, ValueError):
        return None


class _Corrected:
    """Copies the tokens of a packet, and corrects them on the way.

    Args:
        width, height: of the picture, px.
    """

    def __init__(self, width: int, height: int) -> None:
        self.values = {
            **dict.fromkeys(WIDTHS, str(width)),
            **dict.fromkeys(HEIGHTS, str(height)),
            "tiff:Orientation": "1",
        }
        self.out: list[str] = []
        self.inside = 0  # elements that are open in one whose content is passed over
        self.closes = False  # whether the end tag of that one is kept
        self.verbatim = False  # whether this is a CDATA section

    def read(self, text: str) -> str:
        """The corrected text; expat.ExpatError or ValueError if it cannot be read."""
        parser = expat.ParserCreate("UTF-8")
        # Without other handlers, this one is given every token as it is written.
        parser.DefaultHandler = self.take
        parser.StartDoctypeDeclHandler = _refuse
        parser.Parse(text.encode(), True)
        return "".join(self.out)

    def take(self, token: str) -> None:
        """Copy a token, change it, or pass it over."""
        is_tag = token.startswith("<") and token[1:2] not in "!?" and not self.verbatim
        if token in ("<![CDATA[", "]]>"):
            self.verbatim = token == "<![CDATA["
        if self.inside:
            if is_tag and not token.endswith("/>"):
                self.inside += -1 if token.startswith("</") else 1
            if not self.inside and self.closes:
                self.out.append(token)
        elif is_tag and not token.startswith("</"):
            self.begin(token)
        else:
            self.out.append(token)

    def begin(self, tag: str) -> None:
        """Take a start tag, or an empty element."""
        match = NAME.match(tag)
        name = match[1] if match else ""
        dropped, value = DROPPED.fullmatch(name), self.values.get(name)
        if not dropped:
            self.out.append(ATTRIBUTE.sub(self.attribute, tag))
        if tag.endswith("/>"):
            return
        if dropped or value is not None:
            self.inside, self.closes = 1, not dropped
        if value is not None:
            self.out.append(value)

    def attribute(self, match: re.Match[str]) -> str:
        """The text of an attribute as it is to be."""
        name, equals, quoted = match.groups()
        if DROPPED.fullmatch(name):
            return ""
        if name not in self.values:
            return match[0]
        return f"{match[0][0]}{name}{equals}{quoted[0]}{self.values[name]}{quoted[0]}"


def _refuse(*_: Any) -> None:
    """Refuse a document type."""
    raise ValueError("an XMP packet has no document type")
