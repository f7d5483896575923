"""tools/align.py: the command that aligns a stack writes its frames, and refuses wrong calls."""

import json

import numpy as np
import pytest
from drawn import draw_stack, texture
from moving import (
    moving_frames,
)
from PIL import Image

from stackmff.alignment.geometry import covered
from stackmff.alignment.measure import apply, measure
from stackmff.errors import StackError
from stackmff.images.formats import read_picture, write_picture
from stackmff.images.metadata import Metadata
from stackmff.images.rectangles import Box
from tools import align


@pytest.fixture(scope="module")
def moving():
    return moving_frames()


@pytest.fixture
def folder(moving, tmp_path):
    """The moving stack and a black frame, as files."""
    for k, frame in enumerate([*moving, np.zeros_like(moving[0])]):
        write_picture(tmp_path / "stack" / f"{k}.png", frame)
    return tmp_path / "stack"


def run(*words):
    align.main([str(word) for word in words])


def test_the_command_writes_the_aligned_frames(folder, moving, tmp_path, capsys):
    out, saved = tmp_path / "out", tmp_path / "alignment.json"
    run("--stack_path", folder, "--output_dir", out, "--reference", "2.png")
    said = capsys.readouterr().out
    assert "left out: frame 5.png shows no detail" in said
    assert "5 frames on 2.png, 4 moved" in said
    assert sorted(path.name for path in out.iterdir()) == [f"{k}.png" for k in range(5)]
    expected = moving.copy()
    apply(expected, measure(expected))
    for k in range(5):
        written = read_picture(out / f"{k}.png")
        np.testing.assert_array_equal(written[..., :3], expected[k])
    words = ("--stack_path", folder, "--output_dir")
    run(*words, tmp_path / "again", "--reference", "2", "--save_alignment", saved)
    run(*words, tmp_path / "used", "--use_alignment", saved)
    for k in range(5):
        data = (out / f"{k}.png").read_bytes()
        assert (tmp_path / "again" / f"{k}.png").read_bytes() == data
        assert (tmp_path / "used" / f"{k}.png").read_bytes() == data


def test_frames_are_transparent_where_they_end(folder, moving, tmp_path):
    alignment = measure(moving)
    words = "--stack_path", folder, "--reference", "2.png", "--output_dir"
    run(*words, tmp_path / "out")
    run(*words, tmp_path / "edge", "--fill", "edge")
    height, width = moving.shape[1:3]
    for k in range(5):
        alpha = read_picture(tmp_path / "out" / f"{k}.png")[..., 3]
        mask = covered(alignment, k, Box(0, height, 0, width))
        np.testing.assert_array_equal(alpha == 255, True if mask is None else mask)
        assert set(np.unique(alpha)) <= {0, 255} and (mask is None) == (k == alignment.reference)
        assert read_picture(tmp_path / "edge" / f"{k}.png").shape[2] == 3


def test_alpha_of_the_frames_is_kept_within_their_ends(moving, tmp_path):
    for k, frame in enumerate(moving):
        alpha = np.full_like(frame[..., :1], 100)
        write_picture(tmp_path / "stack" / f"{k}.tif", np.concatenate([frame, alpha], 2))
        write_picture(tmp_path / "jpeg" / f"{k}.jpg", frame)
    for name in ("stack", "jpeg"):
        run("--stack_path", tmp_path / name, "--output_dir", tmp_path / f"{name}_out")
    alpha = read_picture(tmp_path / "stack_out" / "0.tif")[..., 3]
    assert set(np.unique(alpha)) == {0, 100}
    assert read_picture(tmp_path / "jpeg_out" / "0.jpg").shape[2] == 3


def test_the_command_takes_frames_in_focus_order(tmp_path, capsys):
    """And writes them under their own names; --order given takes them as they are named."""
    frames = draw_stack(texture(256, 320, 5), 6)
    for name, k in zip("abcdef", (3, 0, 5, 1, 4, 2), strict=True):
        write_picture(tmp_path / "in" / f"{name}.png", frames[k])
    words = ["--stack_path", tmp_path / "in", "--output_dir"]
    run(*words, tmp_path / "out")
    told = "brought into it: b.png d.png f.png a.png e.png c.png"
    backwards = "brought into it: c.png e.png a.png f.png d.png b.png"
    printed = capsys.readouterr().out
    assert told in printed or backwards in printed
    for name in "abcdef":
        np.testing.assert_array_equal(
            read_picture(tmp_path / "out" / f"{name}.png"),
            read_picture(tmp_path / "in" / f"{name}.png"),
        )
    run(*words, tmp_path / "by_number", "--reference", "1")  # by name, not by place
    assert "6 frames on b.png" in capsys.readouterr().out
    run(*words, tmp_path / "given", "--order", "given")
    assert "brought into it" not in capsys.readouterr().out


def test_frames_keep_their_own_metadata_and_those_left_out_go(folder, tmp_path, capsys):
    for k in range(6):
        exif = Image.Exif()
        exif[0x0131] = f"Acme {k}"  # the software, as a stand-in for all that tells frames apart
        picture = read_picture(folder / f"{k}.png")
        write_picture(folder / f"{k}.png", picture, Metadata(exif.tobytes()[6:]))
    out = tmp_path / "out"
    write_picture(out / "5.png", np.zeros((4, 4, 3), np.uint8))  # as if it had fitted before
    run("--stack_path", folder, "--output_dir", out)
    assert sorted(path.name for path in out.iterdir()) == [f"{k}.png" for k in range(5)]
    for k in range(5):
        with Image.open(out / f"{k}.png") as image:
            assert image.getexif()[0x0131] == f"Acme {k}"


def test_known_exposures_are_left_alone_where_that_is_asked_for(folder, tmp_path, capsys):
    saved = tmp_path / "a.json"
    words = ("--stack_path", folder, "--output_dir", tmp_path / "out")
    run(*words, "--save_alignment", saved)
    record = json.loads(saved.read_text())
    record["frames"]["1.png"]["gains"] = [1.5, 1.5, 1.5]
    saved.write_text(json.dumps(record))
    capsys.readouterr()
    run(*words, "--use_alignment", saved)
    assert "exposure of 0 changed" not in capsys.readouterr().out
    run(*words, "--use_alignment", saved, "--no_match_exposure")
    assert "exposure of 0 changed" in capsys.readouterr().out


def test_a_strict_command_fails_where_a_frame_would_be_left_out(folder, tmp_path):
    with pytest.raises(StackError, match=r"frame 5\.png shows no detail: remove it"):
        run("--stack_path", folder, "--output_dir", tmp_path / "out", "--strict")
    assert not list((tmp_path / "out").glob("*"))


def test_wrong_calls(folder, tmp_path, capsys):
    with pytest.raises(StackError, match=r"--reference 9 is not a frame of the stack"):
        run("--stack_path", folder, "--output_dir", tmp_path / "out", "--reference", "9")
    for words, sentence in (
        (["--output_dir", folder], "the frames would be overwritten"),
        (["--output_dir", tmp_path, "--use_alignment", "a", "--reference", "1"], "measures"),
        (
            ["--output_dir", tmp_path, "--use_alignment", "a", "--parallax", "off"],
            "measures nothing",
        ),
    ):
        with pytest.raises(SystemExit):
            run("--stack_path", folder, *words)
        assert sentence in capsys.readouterr().err
