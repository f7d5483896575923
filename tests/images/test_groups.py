"""images/groups.py: sets of pairs and brackets of a card are the stacks that a person sees."""

from datetime import datetime, timedelta

import cv2
import numpy as np
import pytest
from calling import call, summary
from drawn import draw_stack, texture
from PIL import Image

import evaluate
import predict_dataset
from stackmff.errors import StackError
from stackmff.images.datasets import find_datasets
from stackmff.images.folders import list_frames, stack_name, stacks_in
from stackmff.images.formats import write_picture
from stackmff.images.groups import split_brackets


def scene(seed):
    """A scene with large shapes, so that it is unlike others."""
    shapes = cv2.resize(texture(6, 8, seed), (80, 60), interpolation=cv2.INTER_CUBIC)
    return np.uint8(np.clip(0.6 * shapes + 0.4 * texture(60, 80, seed), 0, 255))


def write_pairs(folder, pattern, members, count=4, answer=None):
    for seed in range(1, count + 1):
        for frame, member in zip(draw_stack(scene(seed), len(members)), members):
            write_picture(folder / pattern.format(seed, member), frame)
        if answer:
            write_picture(folder / answer.format(seed), scene(seed))


@pytest.mark.parametrize(
    ("pattern", "members", "answer", "names"),
    [
        ("lytro-{:02}-{}.jpg", "AB", None, ["lytro-01", "lytro-04"]),
        ("lytro-{:02}-{}.jpg", "ABC", None, ["lytro-01", "lytro-04"]),
        ("MFFW_{:02}_{}.png", "12", None, ["MFFW_01", "MFFW_04"]),
        ("source_{1}/{0}.jpg", "12", "full_clear/{}.jpg", ["1", "4"]),
        ("image{1}/{0:03}_{1}.png", "AB", "Fusion/{:03}_F.png", ["001", "004"]),
        ("{1}/{0}.png", ["near", "far"], "GT/{}_GT.png", ["1", "4"]),
    ],
)
def test_sets_of_pairs(tmp_path, pattern, members, answer, names):
    write_pairs(tmp_path, pattern, members, answer=answer)
    stacks = stacks_in(tmp_path)
    assert [stack_name(stack) for stack in (stacks[0], stacks[-1])] == names and len(stacks) == 4
    for seed, stack in enumerate(stacks, start=1):
        wanted = [tmp_path / pattern.format(seed, member) for member in members]
        assert list_frames(stack) == wanted
    (found,) = find_datasets(tmp_path).values()
    assert found == stacks


def test_a_set_of_pairs_beside_other_sets(tmp_path):
    write_pairs(tmp_path / "Lytro", "lytro-{:02}-{}.jpg", "AB")
    write_pairs(tmp_path / "stacks_of_ours" / "one", "{}-{}.png", "x", count=3)
    assert len(stacks_in(tmp_path)) == 4


def test_ordinary_stacks_are_no_pairs(tmp_path):
    """Two folders whose frames have the same names, and brackets that are numbered alike."""
    for place in ("stack1", "stack2", "a", "b"):
        for k, frame in enumerate(draw_stack(scene(ord(place[-1])), 4)):
            write_picture(tmp_path / "folders" / place / f"{k}.png", frame)
    assert [stack.name for stack in stacks_in(tmp_path / "folders")] == [
        "a",
        "b",
        "stack1",
        "stack2",
    ]
    for k, frame in enumerate(draw_stack(scene(0), 8)):
        write_picture(tmp_path / "names" / "flat" / f"shot_{k // 2}_{k % 2 + 1}.png", frame)
    (stack,) = stacks_in(tmp_path / "names")
    assert len(list_frames(stack)) == 8
    (tmp_path / "names" / "flat" / "shot_0_1.png").write_bytes(b"damaged")
    assert len(stacks_in(tmp_path / "names")) == 1


def test_a_broken_link_among_pictures_named_like_pairs(tmp_path):
    """It belongs to the stack whose reading reports it; the stacks beside it are fused."""
    write_pairs(tmp_path / "linked", "shot_{:02}_{}.png", "AB")
    (tmp_path / "linked" / "shot_01_A.png").unlink()
    (tmp_path / "linked" / "shot_01_A.png").symlink_to("gone.png")
    write_pairs(tmp_path / "whole", "{}-{}.png", "x", count=3)
    assert [stack_name(stack) for stack in stacks_in(tmp_path)] == ["linked", "whole"]


def test_a_set_of_pairs_is_fused_and_scored(tmp_path, weights, capsys):
    write_pairs(tmp_path / "Real", "image{1}/{0:03}_{1}.png", "AB", answer="Fusion/{:03}_F.png")
    out = tmp_path / "out"
    words = "--stack_basedir_path", tmp_path / "Real", "--output_dir", out, "--align", "off"
    assert call(predict_dataset.main, *words, "--model_path", weights["StackMix"]) == 0
    assert list(summary(out)) == ["001", "002", "003", "004"]
    assert {row["frames"] for row in summary(out).values()} == {"2"}
    capsys.readouterr()
    words = "--results", out, "--reference", tmp_path / "Real" / "Fusion"
    assert call(evaluate.main, *words, "--per_scene", tmp_path / "a.csv") in (0, 2)


def photo(path, seed, k, time=None, distance=None):
    exif = Image.Exif()
    inner = exif.get_ifd(0x8769)
    if time is not None:
        inner[0x9003] = time.strftime("%Y:%m:%d %H:%M:%S")
        inner[0x9291] = f"{time.microsecond // 10000:02}"
    if distance is not None:
        inner[0x9206] = distance
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = draw_stack(scene(seed), 5)[k % 5]
    Image.fromarray(frame).save(path, "JPEG", quality=95, exif=exif)


START = datetime(2026, 5, 1, 12, 0, 0)


def card(folder, brackets, pause=20.0, step=0.5, scenes=None):
    """Pictures of several brackets with their times; returns their paths."""
    paths, time = [], START
    for number, length in enumerate(brackets):
        for k in range(length):
            paths.append(folder / f"IMG_{len(paths) + 1:04}.JPG")
            photo(paths[-1], (scenes or range(9))[number], k, time)
            time += timedelta(seconds=step)
        time += timedelta(seconds=pause)
    return paths


@pytest.mark.parametrize("split", ["auto", "time"])
@pytest.mark.parametrize("step", [0.25, 8.0])
def test_pauses_part_brackets(tmp_path, split, step):
    """Of one scene too; long exposures are no pauses."""
    paths = card(tmp_path, (4, 1, 5, 3), pause=5 * step, step=step, scenes=[0, 0, 0, 0])
    if step < 1:
        paths = card(tmp_path, (4, 1, 5, 3), pause=5, step=step, scenes=[0, 0, 0, 0])
    found = split_brackets(paths, split)
    assert [(one.name, len(one.paths)) for one in found.stacks] == [
        ("IMG_0001", 4),
        ("IMG_0006", 5),
        ("IMG_0011", 3),
    ]
    assert found.single == [paths[4]] and found.why == "capture time"
    assert (
        "3 stacks by capture time: IMG_0001 (4), IMG_0006 (5), IMG_0011 (3); 1 single picture is "
        in (found.told())
    )


def test_scenes_and_distances_part_brackets_without_times(tmp_path):
    paths = [tmp_path / f"{k:02}.jpg" for k in range(12)]
    for k, path in enumerate(paths):
        photo(path, k // 4, k)
    found = split_brackets(paths, "auto")
    assert [len(one.paths) for one in found.stacks] == [4, 4, 4] and found.why == "likeness"
    with pytest.raises(StackError, match=r"00\.jpg has no capture time: use --split auto"):
        split_brackets(paths, "time")
    assert len(split_brackets(paths, "off").stacks) == 1
    for k, path in enumerate(paths):  # one scene, three times from near to far
        photo(path, 0, k, START + timedelta(seconds=0.2 * k), 0.5 + 0.1 * (k % 4))
    found = split_brackets(paths, "auto")
    assert [len(one.paths) for one in found.stacks] == [4, 4, 4]
    assert found.why == "capture time, focus distance"
    assert len(split_brackets(paths, "time").stacks) == 1


def test_a_card_is_split_shown_and_fused(tmp_path, weights, capsys):
    card(tmp_path / "card", (3, 4))
    out = tmp_path / "out"
    words = "--stack_basedir_path", tmp_path / "card", "--output_dir", out
    assert call(predict_dataset.main, *words, "--dry_run") == 0
    said = capsys.readouterr()
    assert "IMG_0001: 3 frames, IMG_0001.JPG to IMG_0003.JPG" in said.out
    assert "card: 2 stacks by capture time" in said.err and not out.exists()
    words = *words, "--model_path", weights["StackMix"], "--align", "off"
    assert call(predict_dataset.main, *words) == 0
    assert [row["frames"] for row in summary(out).values()] == ["3", "4"]
    first = (out / "IMG_0001.png").stat().st_mtime_ns
    assert call(predict_dataset.main, *words) == 0
    assert (out / "IMG_0001.png").stat().st_mtime_ns == first
    assert call(predict_dataset.main, *words[:2], "--dry_run", "--split", "off") == 0
    assert "IMG_0001: 7 frames" in capsys.readouterr().out


def test_folders_of_a_card_are_split_and_others_are_not(tmp_path):
    card(tmp_path / "DCIM" / "100CANON", (3, 4))
    card(tmp_path / "DCIM" / "my stack", (3, 4))
    (stacks,) = find_datasets(tmp_path / "DCIM", tell=lambda _: None).values()
    assert [(stack_name(one), len(list_frames(one))) for one in stacks] == [
        ("my stack", 7),
        ("IMG_0001", 3),
        ("IMG_0004", 4),
    ]
    (stacks,) = find_datasets(tmp_path / "DCIM", "off").values()
    assert sorted(stack_name(one) for one in stacks) == ["100CANON", "my stack"]
