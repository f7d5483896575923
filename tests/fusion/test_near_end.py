"""fusion/near_end.py: which end of a stack is near, what tells it, and that it is told."""

import numpy as np
import pytest
from drawn import draw_stack, texture
from PIL import Image, TiffImagePlugin
from stand_ins import Engine, brightest

from stackmff.fusion.blending import Fused
from stackmff.fusion.command import FuseCommand, get_parser
from stackmff.fusion.near_end import by_distance, find_near_end, focus_distances
from stackmff.fusion.outputs import Files, fuse_files
from stackmff.images.formats import write_picture
from stackmff.images.metadata import Metadata
from stackmff.images.stack import read_stack
from stackmff.options import parse

NAMES = ["a.png", "b.png", "c.png"]


def with_slope(last_is_below):
    """A Fused whose lower part is of the last frame, or else of the first."""
    rise = np.tile(np.linspace(0, 65535, 120)[:, None], (1, 160)).astype(np.uint16)
    picture = np.zeros((120, 160, 3), np.uint8)
    return Fused(picture, rise if last_is_below else 65535 - rise, None)


def with_exif(distance):
    """Metadata with a subject distance, m."""
    tags = Image.Exif()
    tags.get_ifd(0x8769)[0x9206] = TiffImagePlugin.IFDRational(round(1000 * distance), 1000)
    return Metadata(exif=tags.tobytes().removeprefix(b"Exif\0\0"))


def with_xmp(above, below=1000):
    """Metadata with a focus distance as raw converters write it."""
    packet = f'<rdf:Description aux:ApproximateFocusDistance="{above}/{below}"/>'
    return Metadata(xmp=packet.encode())


def test_distances_are_read_from_exif_and_xmp():
    blocks = [with_exif(0.3), with_xmp(1150), with_xmp(2**32 - 1, 1), with_xmp(1, 0), Metadata()]
    assert focus_distances(blocks) == pytest.approx([0.3, 1.15, None, None, None])


def test_distances_tell_where_they_go_one_way():
    assert by_distance([0.3, None, 0.4, 0.4, 0.6]) is True
    assert by_distance([0.6, 0.4]) is False
    for vague in ([], [None, None], [0.3, None], [0.3, 0.3], [0.3, 0.5, 0.4]):
        assert by_distance(vague) is None


def test_what_tells_it_is_told():
    slope = with_slope(last_is_below=True)
    chosen = find_near_end("first", [0.5, 0.4, 0.3], slope, 3)
    assert chosen.first and chosen.told(NAMES) == ""
    by_metadata = find_near_end(None, [0.3, 0.4, 0.5], slope, 3)
    assert by_metadata.first
    assert by_metadata.told(NAMES) == (
        "3D view: the first frame (a.png) is nearest by the focus distances of the frames; "
        "--near last turns it round"
    )


@pytest.mark.parametrize("last_is_below", [True, False])
def test_what_nothing_tells_is_said_to_be_unknown(last_is_below):
    found = find_near_end(None, [None] * 3, with_slope(last_is_below), 3)
    assert found.first is not last_is_below
    sentence = found.told(NAMES)
    assert sentence.startswith("3D view: it is not known which end is near")
    assert sentence.endswith(f"--near {'first' if last_is_below else 'last'} turns it round")


def test_fusing_tells_it_where_there_is_a_3d_view(tmp_path):
    paths = [tmp_path / name for name in NAMES]
    distances = (2.0, 1.0, 0.5)
    for path, frame, distance in zip(paths, draw_stack(texture(48, 64, 1), 3), distances):
        write_picture(path, frame, with_exif(distance))

    def notes(*words, previews=tmp_path / "out"):
        files = Files(tmp_path / "out" / "a.png", tmp_path / "out" / "map.png", previews=previews)
        (command,) = parse(get_parser(), ["stack", *words], FuseCommand)
        result = fuse_files(lambda: read_stack(paths), Engine(brightest), files, command.fuse)
        return [note for note in result["notes"] if "3D view" in note]

    (note,) = notes("--preview")
    assert "the last frame (c.png) is nearest" in note
    assert note.endswith("--near first turns it round")
    assert notes("--preview", "--near", "first") == []
    assert notes(previews=None) == []
