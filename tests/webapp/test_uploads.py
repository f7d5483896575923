"""webapp/uploads.py: what the server accepts and refuses."""

import itertools
import struct
from types import SimpleNamespace
from zlib import crc32

import cv2
import numpy as np
import pytest
import tifffile

from stackmff.errors import StackError
from stackmff.images.folders import list_frames
from stackmff.images.formats import decode
from stackmff.images.tiff import tiff_directories
from stackmff.webapp import uploads
from stackmff.webapp.uploads import (
    UploadLimits,
    check_declared,
    check_frames,
    check_room,
    check_upload,
    files_below,
    frames_of,
    inside,
    listing,
    safe_name,
    safe_stem,
)
from tests.drawn import texture

LIMITS = UploadLimits(total_bytes=10**9, frame_pixels=10**6)
MOST_PIXELS = 10**6


def claiming_tiff(width, height):
    """A TIFF of some 150 bytes that claims a picture of this size, deflated."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 8), (262, 3, 1)]
    tags += [(273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, 10)]
    entries = b"".join(struct.pack("<HHII", code, kind, 1, value) for code, kind, value in tags)
    data = b"x\x9c\x03\0\0\0\0\1\0\0"
    return (
        b"II*\0" + struct.pack("<I", 18) + data + struct.pack("<H", len(tags)) + entries + bytes(4)
    )


@pytest.mark.parametrize(
    "word, name",
    [
        ("a.png", "a.png"),
        ("../../etc/a.png", "a.png"),
        ("C:\\photos\\a.JPG", "a.JPG"),
        ("/etc/a.tif", "a.tif"),
        ("a\0b\n.png", "ab.png"),
        ("Käfer 1.jpg", "Käfer 1.jpg"),
    ],
)
def test_names_have_no_folders(word, name):
    assert safe_name(word) == name


@pytest.mark.parametrize("word", ["", "..", ".png", "a.sh", "a.png/..", ".hidden.png", "a"])
def test_names_of_nothing_that_is_read_are_refused(word):
    with pytest.raises(StackError):
        safe_name(word)


@pytest.mark.parametrize("letter", ["x", "ä", "漢", "😀"])
def test_a_long_name_keeps_its_suffix(letter):
    name = safe_name(f"{letter * 500}7.png")
    assert 190 < len(name.encode()) <= 200
    assert name.endswith(f"{letter}7.png")
    assert 110 < len(safe_stem(letter * 500).encode()) <= 120


def test_stems_have_no_folders():
    assert safe_stem("../a:b") == "_a_b"
    assert safe_stem("..") == "fused"


def test_uploads_are_counted(tmp_path, monkeypatch):
    check_upload(5 * 10**8, 5 * 10**8, tmp_path, LIMITS)
    with pytest.raises(StackError, match=r"10\.0 GB are more than the 1\.0 GB"):
        check_upload(10 * 10**9, 0, tmp_path, LIMITS)
    with pytest.raises(StackError, match="more than"):
        check_upload(1, 10**9, tmp_path, LIMITS)
    with pytest.raises(StackError, match="does not declare the size"):
        check_upload(None, 0, tmp_path, LIMITS)
    monkeypatch.setattr(uploads.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(StackError, match="--projects"):
        check_upload(101, 0, tmp_path, LIMITS)


@pytest.fixture
def shared(tmp_path):
    """A root with a stack, and secrets beside it that links lead to."""
    root, secret = tmp_path / "root", tmp_path / "secret"
    (root / "stack").mkdir(parents=True)
    (root / "linked").mkdir()
    secret.mkdir()
    for k in range(3):
        for folder in (root / "stack", secret):
            cv2.imwrite(str(folder / f"{k}.png"), texture(20, 30, k))
    (root / "out").symlink_to(secret)
    (root / "back").symlink_to(root / "stack")
    for k in range(2):
        (root / "linked" / f"{k}.png").symlink_to(secret / f"{k}.png")
    return root


def test_what_is_below_the_root_is_found(shared):
    assert inside(shared, "") == shared
    assert inside(shared, "stack") == shared / "stack"
    assert inside(shared, "back") == shared / "stack"
    assert [path.name for path in files_below(shared, "stack")] == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    "word",
    [
        "..",
        "stack/../..",
        "../secret",
        "/etc",
        "out",
        "out/0.png",
        "a\0b",
        "stack/none",
        "~",
        "//etc",
    ],
)
def test_nothing_else_is_reachable(shared, word):
    for reach in (inside, listing, files_below):
        with pytest.raises(StackError, match="not below the folder"):
            reach(shared, word)
    absolute = str(shared.parent / "secret")
    with pytest.raises(StackError, match="not below the folder"):
        inside(shared, absolute)


def test_frames_that_are_links_out_are_refused(shared):
    with pytest.raises(StackError, match=r"linked: \S+\.png.* lead out of the folder that this"):
        files_below(shared, "linked")
    assert listing(shared, "linked")["pictures"] == 0


def test_a_listing_names_what_can_be_opened(shared):
    told = listing(shared, "")
    assert told == {"path": "", "folders": ["back", "linked", "stack"], "files": [], "pictures": 0}
    assert listing(shared, "stack")["pictures"] == 3
    assert listing(shared, "stack")["path"] == "stack"


def test_no_root_shares_nothing():
    with pytest.raises(StackError, match="not below the folder"):
        inside(None, "")


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path):
    path = tmp_path / "bomb.tif"
    path.write_bytes(claiming_tiff(90_000, 90_000))
    assert path.stat().st_size < 200
    sentence = "declares 90000x90000 pixels, and 1 million is the maximum"
    with pytest.raises(StackError, match=sentence):
        check_declared(path, MOST_PIXELS)
    path.write_bytes(claiming_tiff(900, 900))
    check_declared(path, MOST_PIXELS)


def test_circular_directories_come_to_an_end(tmp_path):
    page = SimpleNamespace(offset=8, aspage=lambda: None)
    with pytest.raises(tifffile.TiffFileError, match="form a loop"):
        tiff_directories(SimpleNamespace(pages=[page] * 3))
    path = tmp_path / "round.tif"
    tifffile.imwrite(path, np.zeros((3, 16, 16), np.uint8), photometric="minisblack")
    with tifffile.TiffFile(path) as file:
        first, last = file.pages[0].offset, file.pages[2].aspage()
        end = last.offset + 2 + 12 * struct.unpack_from("<H", path.read_bytes(), last.offset)[0]
    data = bytearray(path.read_bytes())
    data[end : end + 4] = struct.pack("<I", first)
    path.write_bytes(data)
    with pytest.raises(StackError, match=r"round\.tif is not a picture, or is damaged"):
        check_declared(path, MOST_PIXELS)
    with pytest.raises(StackError, match=r"round\.tif is cut short, .* form a loop"):
        decode(path)
    with pytest.raises(StackError, match=r"round\.tif is cut short, .* form a loop"):
        list_frames(path)


def test_a_huge_png_is_refused_by_its_header(tmp_path):
    path = tmp_path / "bomb.png"
    cv2.imwrite(str(path), np.zeros((8, 8), np.uint8))
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 50_000, 50_000)
    data[29:33] = struct.pack(">I", crc32(data[12:29]))
    path.write_bytes(data)
    with pytest.raises(StackError, match="declares 50000x50000"):
        check_declared(path, MOST_PIXELS)


@pytest.mark.parametrize("name", ["notes.jpg", "notes.tif", "notes.png", "notes.mp4"])
def test_text_is_not_a_picture(tmp_path, name):
    path = tmp_path / name
    path.write_text("a text, and no picture\n" * 20)
    with pytest.raises(StackError, match=rf"{name} is not a (picture|supported video)"):
        check_declared(path, MOST_PIXELS)


def test_a_list_of_addresses_is_not_a_video(tmp_path):
    """FFmpeg would open what it names."""
    path = tmp_path / "film.mp4"
    path.write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    with pytest.raises(StackError, match="is not a supported video"):
        frames_of(path)


def test_a_long_film_is_refused_by_its_header(tmp_path, monkeypatch):
    film = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for k in range(4):
        writer.write(texture(48, 64, k))
    writer.release()
    assert len(frames_of(film)) == 4
    monkeypatch.setattr(uploads, "MOST_FRAMES", 3)
    monkeypatch.setattr(uploads, "frames_in_file", None)  # nothing goes through it
    with pytest.raises(StackError, match="holds 4 frames, and 3 is the maximum"):
        frames_of(film)


def test_good_pictures_pass(tmp_path):
    for suffix in (".png", ".jpg", ".webp", ".bmp", ".tif"):
        path = tmp_path / f"a{suffix}"
        cv2.imwrite(str(path), texture(20, 30, 0))
        check_declared(path, MOST_PIXELS)
        assert frames_of(path) == [path]
    pages = tmp_path / "pages.tif"
    tifffile.imwrite(pages, np.zeros((3, 16, 16), np.uint8), photometric="minisblack")
    check_declared(pages, MOST_PIXELS)
    assert [page.number for page in frames_of(pages)] == [1, 2, 3]


NUMBERS = itertools.count()


def told(width, height, name=None):
    name = name or f"{next(NUMBERS)}.png"
    return {"width": width, "height": height, "name": name, "bytes": 3 * width * height}


def test_frames_of_one_name_are_refused():
    with pytest.raises(StackError, match=r"two frames are called a-1\.tif: exclude one"):
        check_frames([told(9, 9, name) for name in ("b.png", "a-1.tif", "a-2.tif", "a-1.tif")])


def test_frames_that_do_not_go_together_are_refused():
    check_frames([told(30, 20), told(30, 20), told(20, 30)])
    with pytest.raises(StackError, match="at least two frames"):
        check_frames([told(30, 20)])
    with pytest.raises(StackError, match=r"b\.png is 31x20, the others are 30x20"):
        check_frames([told(30, 20), told(31, 20, "b.png"), told(30, 20)])


def test_a_stack_that_is_too_large_is_refused_before_it_starts(tmp_path, monkeypatch):
    check_room([told(300, 200)] * 2, tmp_path)
    monkeypatch.setattr(uploads, "free_memory", lambda: 10**9)
    with pytest.raises(StackError, match=r"of 24 megapixels need 1\.5 GB of memory, and 1\.0 GB"):
        check_room([told(6000, 4000)] * 30, tmp_path)
    monkeypatch.setattr(uploads, "free_memory", lambda: 10**12)
    monkeypatch.setattr(uploads.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(StackError, match=r"need 2\.8 GB of disk, and 1\.0 GB are free"):
        check_room([told(6000, 4000)] * 30, tmp_path)
    monkeypatch.setattr(uploads.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**7))
    with pytest.raises(StackError, match=r"need 48\.8 MB of disk, and 10\.0 MB are free"):
        check_room([told(1500, 1000)] * 5, tmp_path)
