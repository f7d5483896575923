"""IPTC-IIM, the older form in which programs for photographs keep keywords and captions.

It is carried as XMP, where all formats have a place for it.

Source: IPTC-NAA Information Interchange Model, version 4.2, and its mapping to XMP.
"""

from collections.abc import Iterator
from html import escape

from stackmff.images.jpeg import segments

APP13 = 0xED
PHOTOSHOP = b"Photoshop 3.0\0"
IPTC_RESOURCE = 0x0404
ROOM = 2**20  # bytes
# Data sets of record 2: the property of XMP, and the kind of its list.
PROPERTIES = {
    5: ("dc:title", "Alt"),
    25: ("dc:subject", "Bag"),
    80: ("dc:creator", "Seq"),
    90: ("photoshop:City", ""),
    101: ("photoshop:Country", ""),
    105: ("photoshop:Headline", ""),
    110: ("photoshop:Credit", ""),
    116: ("dc:rights", "Alt"),
    120: ("dc:description", "Alt"),
}
UTF8 = b"\x1b%G"  # of data set 1:90


def iptc_of_jpeg(data: bytes) -> bytes | None:
    """The IPTC block of a JPEG; None if it has none."""
    for marker, start, end in segments(data):
        if marker == APP13 and data.startswith(PHOTOSHOP, start):
            return _resource(data[start + len(PHOTOSHOP) : end])
    return None


def _resource(block: bytes) -> bytes | None:
    """The IPTC block among the resources that Photoshop keeps in one segment."""
    at = 0
    while block[at : at + 4] == b"8BIM" and at + 7 <= len(block):
        kind = int.from_bytes(block[at + 4 : at + 6], "big")
        name = block[at + 6] + 1
        at += 6 + name + name % 2
        length = int.from_bytes(block[at : at + 4], "big")
        at += 4
        if kind == IPTC_RESOURCE:
            return block[at : at + length]
        at += length + length % 2
    return None


def xmp_of_iptc(block: bytes | None) -> bytes | None:
    """An XMP packet of what an IPTC block says; None if it says nothing that XMP has a name for."""
    if not block or len(block) > ROOM:
        return None
    coding, found = "latin-1", dict[int, list[str]]()
    for record, number, value in _data_sets(block):
        if record == 1 and number == 90 and value == UTF8:
            coding = "utf-8"
        elif record == 2 and number in PROPERTIES:
            text = "".join(one for one in value.decode(coding, "replace") if one.isprintable())
            if text:
                found.setdefault(number, []).append(escape(text, quote=False))
    if not found:
        return None
    lines = [_property(*PROPERTIES[number], values) for number, values in sorted(found.items())]
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n<rdf:Description rdf:about="" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/" '
        'xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/">\n'
        + "\n".join(lines)
        + "\n</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def _property(name: str, kind: str, values: list[str]) -> str:
    """A property of XMP with its values."""
    if not kind:
        return f"<{name}>{values[0]}</{name}>"
    language = ' xml:lang="x-default"' if kind == "Alt" else ""
    items = "".join(f"<rdf:li{language}>{value}</rdf:li>" for value in values)
    return f"<{name}><rdf:{kind}>{items}</rdf:{kind}></{name}>"


def _data_sets(block: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(record, number, value) of the data sets of an IPTC block, up to where it is damaged."""
    at = 0
    while at + 5 <= len(block) and block[at] == 0x1C:
        record, number = block[at + 1], block[at + 2]
        length = int.from_bytes(block[at + 3 : at + 5], "big")
        if length >= 2**15 or at + 5 + length > len(block):
            return
        yield record, number, block[at + 5 : at + 5 + length]
        at += 5 + length
