"""fusion/pipeline.py and outputs.py: results, aligned, cropped, in slabs, with previews."""

import json

import cv2
import numpy as np
import pytest
from drawn import draw_moved_stack, draw_stack, texture
from stand_ins import Engine, brightest, only

from stackmff.alignment.focus_order import focus_order
from stackmff.alignment.geometry import Alignment
from stackmff.display.report import read_card
from stackmff.errors import StackError
from stackmff.fusion.blending import Fused
from stackmff.fusion.command import FuseCommand, get_parser, needing_weights
from stackmff.fusion.outputs import Files, fuse_files
from stackmff.fusion.pipeline import cropped, decisions, make_engine
from stackmff.fusion.slabs import slabs_of
from stackmff.images.formats import read_picture, result_suffix, same_format, write_picture
from stackmff.images.rectangles import Box
from stackmff.images.stack import read_stack
from stackmff.options import parse


def options(*words):
    """The options of fusion that the command of one stack reads."""
    (command,) = parse(get_parser(), ["stack", *words], FuseCommand)
    return command.fuse


def written(folder, frames):
    """Files of frames, in their order."""
    paths = [folder / f"{k}.png" for k in range(len(frames))]
    for path, frame in zip(paths, frames, strict=True):
        write_picture(path, frame)
    return paths


def breathing_stack(n_frames=4, height=120, width=160):
    """Frames that are each sharp in one stripe, and move by 3 px to the right each."""
    answer = cv2.resize(texture(height // 3, width // 3 + 20, 5), (width + 60, height))
    frames = draw_stack(answer, n_frames)
    return [
        np.ascontiguousarray(frame[:, 30 - 3 * k : 30 - 3 * k + width])
        for k, frame in enumerate(frames)
    ]


def test_picture_map_and_confidence(tmp_path):
    rng = np.random.default_rng(0)
    paths = written(tmp_path, rng.integers(0, 65536, (3, 20, 30, 4), np.uint16))
    out = tmp_path / "out"
    files = Files(out / "a.jpg", out / "focus_map" / "a.png", out / "confidence" / "a.png")
    args = options("--align", "off")
    result = fuse_files(lambda: read_stack(paths), Engine(only(2)), files, args)
    (note,) = result.pop("notes")
    assert "16 bits are rounded to 8 and alpha is dropped" in note
    assert result.pop("seconds") >= 0
    assert result == {"width": 30, "height": 20, "frames": 3, "network_seconds": 1.0}
    assert read_picture(files.picture).shape == (20, 30, 3)
    assert (read_picture(files.focus_map) == 65535).all()
    assert read_picture(files.confidence).dtype == np.uint8


def test_a_moving_stack_is_aligned_and_cropped_unless_told_otherwise(tmp_path):
    paths = written(tmp_path / "stack", breathing_stack())
    pictures, notes = {}, {}
    for words in (("--align", "off"), ("--align", "auto"), ("--crop",)):
        files = Files(tmp_path / "out" / "a.png", tmp_path / "out" / "map.png")
        args = options(*words)
        result = fuse_files(lambda: read_stack(paths), Engine(only(3)), files, args)
        pictures[words[-1]], notes[words[-1]] = read_picture(files.picture), result["notes"]
        assert read_picture(files.focus_map).shape[:2] == pictures[words[-1]].shape[:2]
    last, reference = (read_picture(path).astype(int) for path in (paths[3], paths[2]))
    np.testing.assert_array_equal(pictures["off"], last)
    assert notes["off"] == []
    inner = slice(5, -5), slice(5, -30)  # the stripes where both are blurred
    aligned = np.abs(pictures["auto"].astype(int) - reference)[inner].mean()
    assert aligned < 0.3 * np.abs(last - reference)[inner].mean()
    assert any("frames aligned to 2.png (up to" in note for note in notes["auto"])
    height, width = reference.shape[:2]
    assert pictures["auto"].shape == reference.shape
    # The frames start 6, 3, 0 and -3 px to the right of the reference.
    assert abs(pictures["--crop"].shape[1] - (width - 9)) <= 1
    assert abs(pictures["--crop"].shape[0] - height) <= 1


def test_an_aligned_stack_comes_out_bit_for_bit_as_without_alignment(tmp_path):
    paths = written(tmp_path, draw_stack(texture(128, 160, 3), 5))
    outputs = []
    for word in ("off", "auto", "on"):
        files = Files(tmp_path / "out" / f"{word}.png")
        result = fuse_files(
            lambda: read_stack(paths), Engine(brightest), files, options("--align", word)
        )
        assert result["notes"] == []
        outputs.append(files.picture.read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]


def test_an_order_that_a_hand_hides_is_seen_in_register(tmp_path):
    frames = draw_moved_stack()
    assert focus_order(np.stack(frames)) is None
    paths = written(tmp_path / "stack", frames)
    pictures = []
    for words, place in ((["--order", "given"], 2), ([], 1)):
        how = tmp_path / f"{place}.json"
        for name in ({"alignment": how}, {"known_alignment": how}):
            files = Files(tmp_path / "a.png", tmp_path / "map.png", **name)
            args = options(*words)
            result = fuse_files(lambda: read_stack(paths), Engine(only(place)), files, args)
            told = [note for note in result["notes"] if "not in focus order" in note]
            assert len(told) == (place == 1)
            assert all(note.endswith("0.png 2.png 1.png 3.png") for note in told)
            pictures.append(read_picture(files.picture))
    for picture in pictures[1:]:  # that of 2.png, in the third place and in the second
        np.testing.assert_array_equal(picture, pictures[0])


def test_an_alignment_is_used_again(tmp_path):
    paths = written(tmp_path / "stack", breathing_stack())
    first = Files(tmp_path / "a.png", alignment=tmp_path / "how.json")
    fuse_files(lambda: read_stack(paths), Engine(brightest), first, options())
    again = Files(tmp_path / "b.png", known_alignment=tmp_path / "how.json")
    fuse_files(lambda: read_stack(paths), Engine(brightest), again, options())
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_slabs(tmp_path):
    assert slabs_of([0, 1, 2, 3, 4, 5, 6], 3) == [[0, 1, 2], [3, 4, 5], [4, 5, 6]]
    assert slabs_of([0, 1, 2, 3], 2) == [[0, 1], [2, 3]]
    assert slabs_of([0, 2, 5], 9) == [[0, 2, 5]]
    frames = np.stack(draw_stack(texture(40, 60, 1), 5))
    paths = written(tmp_path / "stack", frames)
    files = Files(tmp_path / "a.png", slabs=tmp_path / "slabs")
    args = options("--slab", "2", "--align", "off")
    fuse_files(lambda: read_stack(paths), Engine(only(0)), files, args)
    names = sorted(path.name for path in files.slabs.iterdir())
    assert names == ["slab_1-2.tif", "slab_3-4.tif", "slab_4-5.tif"]
    slab = read_picture(files.slabs / "slab_3-4.tif")
    assert slab.dtype == np.uint16
    np.testing.assert_array_equal(slab, frames[2] * np.uint16(257))
    args = options("--slab", "3", "--align", "off")
    fuse_files(lambda: read_stack(paths), Engine(only(0)), files, args)
    assert sorted(path.name for path in files.slabs.iterdir()) == ["slab_1-3.tif", "slab_3-5.tif"]


def test_previews_and_the_card(tmp_path):
    paths = written(tmp_path / "stack", draw_stack(texture(64, 80, 1), 4))
    files = Files(tmp_path / "a.png", previews=tmp_path, card=tmp_path / "a.json")
    args = options("--smooth", "4", "--preview")
    fuse_files(lambda: read_stack(paths), Engine(brightest), files, args)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"stack", "a.png", "a.json", "a_focus.png", "a_relief.png", "a_sweep.gif"}
    card = read_card(files.card)
    assert (card.name, card.width, card.height, card.frames) == ("a", 80, 64, 4)
    assert set(card.pictures) == {"before", "after", "focus"}


def test_what_is_said_of_an_alignment():
    eye = np.eye(2, 3)
    gains = np.ones((3, 3))
    still = Alignment(1, (40, 60), [eye, eye, eye], gains)
    assert decisions(still, ["a", "b", "c"]) == []
    moved = np.float64([[1, 0, 3], [0, 1, 4]])
    other = Alignment(1, (40, 60), [moved, eye, None], gains * [[0.9], [1], [1]], {2: "is black"})
    said = decisions(other, ["a", "b", "c"])
    assert said[0] == "left out: frame c is black"
    assert said[1] == "1 of 3 frames aligned to b (up to 5.0 px)"
    assert said[2] == "exposure matched (-0.33 to +0.00 EV)"


def test_cropping_takes_all_parts():
    fused = Fused(np.zeros((9, 8, 3), np.uint8), np.zeros((9, 8), np.uint16), None)
    small = cropped(fused, Box(1, 5, 2, 8))
    assert small.picture.shape == (4, 6, 3) and small.focus_map.shape == (4, 6)
    assert cropped(fused, None) is fused


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--align", "off", "--crop"], "--crop contradicts --align off"),
        (
            ["--align", "off", "--reference", "0"],
            "--reference says how to measure, and --align off",
        ),
        (
            ["--use_alignment", "a.json", "--reference", "0"],
            "--reference says how to measure, and --use_al",
        ),
        (["--use_alignment", "a.json", "--motion", "affine"], "--use_alignment measures nothing"),
        (["--use_alignment", "a.json", "--align", "on"], "--align on measures"),
        (["--near", "last"], "--near is for --prefer and --preview"),
        (["--slab", "1"], "at least 2"),
        (["--smooth", "3"], "--smooth is for the focus map"),
        (["--align", "off", "--parallax", "off"], "--align off measures nothing"),
        (["--smooth", "-1"], "at least 0"),
        (["--quiet", "--verbose"], "not allowed with"),
    ],
)
def test_contradictions(words, said, capsys):
    with pytest.raises(SystemExit) as end:
        options(*words)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_what_a_network_without_weights_cannot_give(tmp_path):
    import torch

    from network import build_network, default_config

    network = build_network(default_config("StackMFF"))
    path = tmp_path / "luma.pth"
    torch.save({"config": network.config, "network": network.state_dict()}, path)
    words = ["--model_path", str(path), "--device", "cpu"]
    for more, confidence in (([], True), (["--prefer", "near"], False)):
        made = options(*words, *more)
        needed = list(needing_weights(made, confidence))
        with pytest.raises(StackError, match=f"{needed[0]} needs"):
            make_engine(made.engine, needed)
    assert make_engine(options(*words).engine, needing_weights(options(*words), None))


def test_formats(tmp_path):
    paths = [tmp_path / "a.JPG", tmp_path / "b.png"]
    assert result_suffix(None, paths) == ".png"
    assert result_suffix("tif", paths) == ".tif"
    assert result_suffix("same", paths).lower() == ".jpg"
    assert same_format(".TIFF", ".tif")
    assert same_format(".jpeg", ".JPG")
    assert not same_format(".png", ".jpg")
    assert not same_format(".gif", ".gif")


def test_the_record_of_a_moved_stack_is_json(tmp_path):
    paths = written(tmp_path / "stack", breathing_stack())
    files = Files(tmp_path / "a.png", alignment=tmp_path / "how.json")
    fuse_files(lambda: read_stack(paths), Engine(brightest), files, options("--reference", "1.png"))
    record = json.loads(files.alignment.read_text())
    assert record["reference"] in (1, "1.png")
