"""images/stack.py: what is read is what was drawn, upright and whole, or one clear sentence."""

from pathlib import Path

import numpy as np
import pytest
from drawn import saved, texture
from drawn import waves as drawn
from PIL import Image, ImageCms

from stackmff.errors import StackError
from stackmff.images.formats import write_picture
from stackmff.images.frame_store import Storage
from stackmff.images.metadata import Metadata
from stackmff.images.stack import read_stack

ROOT = Path(__file__).parents[2]


def test_frames_must_be_of_one_size(tmp_path):
    paths = write_frames(tmp_path, [drawn()] * 9)
    for odd in (0, 4, 7):  # whichever it is, the reference too: the one that differs is named
        write_picture(paths[odd], drawn(3, width=60))
        sentence = rf"frame {odd}\.png is 60x37, the stack is 53x37: export all"
        with pytest.raises(StackError, match=sentence):
            read_stack(paths)
        write_picture(paths[odd], drawn())


def write_frames(folder, frames, metadata=None):
    paths = [folder / f"{k}.png" for k in range(len(frames))]
    for path, frame in zip(paths, frames):
        write_picture(path, frame, metadata)
    return paths


@pytest.mark.parametrize("odd", [0, 1, 2])  # 1 is the reference
@pytest.mark.parametrize("low_memory", [False, True])
def test_frames_of_several_kinds_are_made_alike(tmp_path, odd, low_memory):
    colour, deep, grey, alpha = drawn(), drawn(3, np.uint16), drawn(1), drawn(4)
    cases = [
        (colour, deep, np.uint16(257) * colour, deep, "8 bits were scaled to 16"),
        (deep, colour, deep, np.uint16(257) * colour, "8 bits were scaled to 16"),
        (colour, grey, colour, grey.repeat(3, 2), "grey was converted to RGB"),
        (grey, colour, grey.repeat(3, 2), colour, "grey was converted to RGB"),
        (colour, alpha, colour, alpha[..., :3], "alpha was dropped, because not all"),
        (alpha, colour, alpha[..., :3], colour, "alpha was dropped, because not all"),
        (drawn(2), alpha, drawn(2)[..., [0, 0, 0, 1]], alpha, "grey was converted to RGB"),
    ]
    for common, other, common_wanted, other_wanted, note in cases:
        kinds = [common] * 3
        kinds[odd] = other
        stack = read_stack(
            write_frames(tmp_path, kinds), storage=Storage(tmp_path / "out", low_memory)
        )
        assert isinstance(stack.frames, np.memmap) == low_memory
        changed = []
        for k, frame in enumerate(stack.frames):
            wanted = other_wanted if k == odd else common_wanted
            assert frame.dtype == wanted.dtype
            np.testing.assert_array_equal(frame, wanted)
            if not np.array_equal(wanted, kinds[k]):
                changed.append(f"{k}.png")
        assert len(stack.notes) == 1
        assert stack.notes[0].startswith(f"{', '.join(changed)}: {note}")


def test_all_differences_at_once(tmp_path):
    stack = read_stack(write_frames(tmp_path, [drawn(2), drawn(3), drawn(4, np.uint16)]))
    assert stack.frames.shape == (3, 37, 53, 3) and stack.frames.dtype == np.uint16
    np.testing.assert_array_equal(stack.frames[0], 257 * drawn(2)[..., [0, 0, 0]].astype(np.uint16))
    np.testing.assert_array_equal(stack.frames[1], 257 * drawn(3).astype(np.uint16))
    np.testing.assert_array_equal(stack.frames[2], drawn(4, np.uint16)[..., :3])
    assert len(stack.notes) == 3


def test_read_stack(tmp_path):
    paths = write_frames(tmp_path, [drawn() // (k + 1) for k in range(5)])
    for k, path in enumerate(paths):
        packet = b"<packet%d/>" % k
        write_picture(path, drawn() // (k + 1), Metadata(xmp=packet))
    stack = read_stack(paths, threads=3)
    assert stack.paths == paths and stack.notes == []
    assert stack.metadata.xmp.rstrip(b"\0") == b"<packet2/>"  # the middle frame's
    assert b"<packet4/>" in read_stack(paths, reference=4).metadata.xmp
    for k in range(5):
        np.testing.assert_array_equal(stack.frames[k], drawn() // (k + 1))


def test_another_colour_profile_is_said(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    paths = write_frames(tmp_path, [drawn()] * 6, Metadata(profile=profile))
    assert read_stack(paths).notes == []
    for k in (0, 1, 2, 4, 5):
        write_picture(paths[k], drawn())
    (note,) = read_stack(paths).notes
    assert note.startswith(
        "0.png, 1.png, 2.png and 2 more: the colour profile differs from that of 3.png"
    )


def test_notes_of_a_frame_are_handed_on(tmp_path):
    data = saved(Image.fromarray(drawn()).convert("CMYK"), "TIFF")
    paths = [tmp_path / f"{k}.tif" for k in range(2)]
    for path in paths:
        path.write_bytes(data)
    assert read_stack(paths).notes == ["0.tif, 1.tif: CMYK was converted to RGB"]


@pytest.mark.parametrize("turned", [True, False])
def test_a_frame_upside_down_by_exif_lies_as_its_content_does(tmp_path, turned):
    """Whether the picture was turned and EXIF tell it, or only the camera's sense of it."""
    exif = Image.Exif()
    exif[0x0112] = 3
    frames = [texture(40, 60, 0) // (k + 1) for k in range(3)]
    for k, frame in enumerate(frames):
        odd = k == 2
        stored = np.rot90(frame, 2) if odd and turned else frame
        data = saved(stored, "PNG", **({"exif": exif} if odd else {}))
        (tmp_path / f"{k}.png").write_bytes(data)
    stack = read_stack([tmp_path / f"{k}.png" for k in range(3)])
    for k in range(3):
        np.testing.assert_array_equal(stack.frames[k], frames[k])
    assert bool(stack.notes) != turned
    assert turned or stack.notes[0].startswith("2.png: the EXIF orientation does not match")


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("kinds", ["of one kind", "of two kinds"])
def test_the_orientation_of_most_frames_holds_against_the_reference(tmp_path, orientation, kinds):
    exif = Image.Exif()
    exif[0x0112] = orientation
    frames = [texture(40, 60, 0) // (k + 1) for k in range(4)]
    frames[3] = frames[3] if kinds == "of one kind" else frames[3][..., :1]
    for k, frame in enumerate(frames):
        data = saved(frame.squeeze(), "PNG", **({"exif": exif} if k == 2 else {}))
        (tmp_path / f"{k}.png").write_bytes(data)
    stack = read_stack([tmp_path / f"{k}.png" for k in range(4)])  # 2 is the reference
    for k in range(4):
        np.testing.assert_array_equal(stack.frames[k], np.broadcast_to(frames[k], (40, 60, 3)))
    assert "2.png: the EXIF orientation does not match the content and was ignored" in stack.notes


def test_a_frame_on_its_side_by_exif_alone_is_taken_as_the_others(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "0.png").write_bytes(saved(drawn(), "PNG", exif=exif))
    (tmp_path / "1.png").write_bytes(saved(drawn(), "PNG"))
    stack = read_stack([tmp_path / "0.png", tmp_path / "1.png"])
    np.testing.assert_array_equal(stack.frames[0], drawn())
    assert len(stack.notes) == 1


def test_turned_frames_are_compared_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "0.png").write_bytes(saved(drawn(), "PNG"))
    (tmp_path / "1.png").write_bytes(saved(np.rot90(drawn()), "PNG", exif=exif.tobytes()))
    stack = read_stack([tmp_path / "0.png", tmp_path / "1.png"])
    np.testing.assert_array_equal(stack.frames[0], stack.frames[1])
