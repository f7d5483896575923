"""Stacks that are not a folder each: sets of pairs as they are published, brackets of a card."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from stackmff.errors import StackError
from stackmff.files import read_bytes
from stackmff.images.formats import decode
from stackmff.images.headers import taken
from stackmff.images.jpeg import JPEG_START
from stackmff.images.stack import likeness, thumbnail

Split = Literal["auto", "time", "off"]

# A picture or folder of a set of pairs: its scene or kind, and which of the scene's frames it is.
MEMBER = re.compile(r"(.*?)[-_ ]?([a-d]|[1-4]|near|far|foreground|background)", re.IGNORECASE)
MEMBERS = [set("ab"), set("abc"), set("abcd"), set("12"), set("123"), set("1234")]
MEMBERS += [{"near", "far"}, {"foreground", "background"}]
ANSWER = re.compile(r"[-_ ]?(f|gt)", re.IGNORECASE)  # behind the name of a scene: its answer
LOOKED_AT = 4  # scenes of a set, to tell a set from a stack
ALIKE, LESS = 0.8, 0.1  # likeness of frames of one scene at least; how much less others are alike
CARD_FOLDER = re.compile(r"\d{3}[A-Z0-9_]{5}")  # of a camera, such as 100CANON
PAUSE, PAUSES = 3.0, 3  # seconds between two brackets at least; times the median between frames
OTHER_SCENE = 0.5  # likeness of neighbours below which they are of two scenes


@dataclass(frozen=True)
class FrameGroup:
    """A stack that is some of the files in a folder, or files of several folders.

    Attributes:
        name: of the stack.
        paths: of its frames, in their order.
    """

    name: str
    paths: tuple[Path, ...]

    @property
    def parent(self) -> Path:
        """The folder of its first frame."""
        return self.paths[0].parent

    def __str__(self) -> str:
        return f"{self.parent} ({self.name})"


# What is fused to one picture: a folder, a file, or a group of files.
StackSource = Path | FrameGroup


def place_of(source: StackSource) -> Path:
    """The path that stands for a stack in records: its folder or file, or its first frame."""
    return source.paths[0] if isinstance(source, FrameGroup) else source


def pairs_in_names(pictures: Sequence[Path]) -> list[FrameGroup]:
    """The scenes of a set of pairs whose frames differ in the end of their names.

    Such as Lytro, `lytro-01-A.jpg` and `lytro-01-B.jpg`. All pictures must be of such a scene, and
    look as if they were.

    Args:
        pictures: of a folder, in natural order.
    Returns:
        Empty if it is no such set.
    """
    scenes: dict[str, dict[str, Path]] = {}
    for path in pictures:
        match = re.fullmatch(r"(.+)[-_ ]([a-d]|[1-4])", path.stem, re.IGNORECASE)
        if match is None:
            return []
        scenes.setdefault(match[1], {})[match[2].lower()] = path
    members = {frozenset(frames) for frames in scenes.values()}
    if len(scenes) < 2 or len(members) != 1 or set(*members) not in MEMBERS:
        return []
    groups = [
        FrameGroup(name, tuple(frames[member] for member in sorted(frames)))
        for name, frames in scenes.items()
    ]
    return groups if _look_like_scenes(groups) else []


def pairs_in_folders(folders: dict[Path, list[Path]]) -> tuple[list[FrameGroup], set[Path]]:
    """The scenes of sets of pairs whose frames lie in a folder each.

    Such as MFI-WHU, `source_1/7.jpg` and `source_2/7.jpg`, and Real-MFF, `imageA/007_A.png` and
    `imageB/007_B.png`.

    Args:
        folders: {folder: its pictures in natural order}.
    Returns:
        (scenes, folders): the folders of the frames and of the answers.
    """
    kinds: dict[str, dict[str, Path]] = {}
    for folder in folders:
        if match := MEMBER.fullmatch(folder.name):
            kinds.setdefault(match[1].lower(), {})[match[2].lower()] = folder
    scenes: list[FrameGroup] = []
    taken: set[Path] = set()
    for members in kinds.values():
        if set(members) not in MEMBERS:
            continue
        # From near to far: "near" and "foreground" come last in the alphabet.
        order = sorted(members, reverse=len(min(members)) > 1)
        columns = [{_scene(path, word): path for path in folders[members[word]]} for word in order]
        names = list(columns[0])
        if any(set(column) != set(names) for column in columns) or not names:
            continue
        groups = [FrameGroup(name, tuple(column[name] for column in columns)) for name in names]
        if _look_like_scenes(groups):
            scenes += groups
            taken |= set(members.values())
    if scenes:
        known = {scene.name for scene in scenes}
        for folder, pictures in folders.items():
            stems = {
                ANSWER.sub("", path.stem) if path.stem not in known else path.stem
                for path in pictures
            }
            if stems and stems <= known:
                taken.add(folder)
    return scenes, taken


def _scene(path: Path, member: str) -> str:
    """The name of a picture without the word for its folder."""
    end = re.compile(rf"[-_ ]{re.escape(member)}", re.IGNORECASE)
    match = end.search(path.stem)
    return path.stem[: match.start()] if match and match.end() == len(path.stem) else path.stem


def _look_like_scenes(groups: Sequence[FrameGroup]) -> bool:
    """Whether frames are more like others of their group than like those of the next group.

    A stack of many frames in each of two folders, whose frames have the same names, is none.
    """
    try:
        first = [[_small(path) for path in group.paths[:2]] for group in groups[:LOOKED_AT]]
    except StackError:
        return False
    for k, (one, other) in enumerate(first):
        like = likeness(one, other)
        if like < ALIKE or np.array_equal(one, other):  # copies are no pair
            return False
        if k and likeness(one, first[k - 1][0]) > like - LESS:
            return False
    return True


def _small(path: Path) -> np.ndarray:
    """The thumbnail of a picture; a JPEG is decoded to an eighth of its size.

    Raises:
        StackError: it cannot be read.
    """
    data = read_bytes(path)
    if data.startswith(JPEG_START):
        flags = cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION
        reduced = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if reduced is not None:
            return thumbnail(reduced)
    return thumbnail(decode(path).picture)


def is_card_folder(folder: Path) -> bool:
    """Whether a folder is named as cameras name those that they fill with pictures."""
    return CARD_FOLDER.fullmatch(folder.name) is not None


@dataclass(frozen=True)
class Brackets:
    """What one flat folder of pictures was split into.

    Attributes:
        stacks: of two frames or more, named by their first frame.
        single: pictures that belong to none.
        why: by what it was split, in a few words.
    """

    stacks: list[FrameGroup]
    single: list[Path]
    why: str

    def told(self) -> str:
        """A sentence on the split."""
        parts = [f"{one.name} ({len(one.paths)})" for one in self.stacks]
        more = f" and {len(parts) - 12} more" if len(parts) > 12 else ""
        count, alone = len(self.single), ""
        if count:
            alone = f"; {count} single picture{' is' if count == 1 else 's are'} skipped"
        found = f"{len(parts)} stack{'' if len(parts) == 1 else 's'} by {self.why}"
        return f"{found}: {', '.join(parts[:12])}{more}{alone}"


def split_brackets(pictures: Sequence[Path], split: Split) -> Brackets:
    """Split the pictures of one folder into stacks.

    Between two brackets a photographer pauses: longer than PAUSE seconds and PAUSES times the
    median between frames. Where the focus distance turns back, or the scene changes, another begins
    too.

    Args:
        pictures: in natural order.
        split: auto: by all of this; time: by the times alone; off: all pictures are one stack.
    Raises:
        StackError: split is time, and a picture has no capture time; or a picture cannot be read.
    """
    if split == "off":
        return Brackets([FrameGroup(pictures[0].stem, tuple(pictures))], [], "their folder")
    known = [taken(path) for path in pictures]
    times = [one.time for one in known]
    if split == "time" and None in times:
        path = pictures[times.index(None)]
        raise StackError(
            f"{path} has no capture time: use --split auto, or a folder for each stack"
        )
    breaks, why = set[int](), "likeness"
    if None not in times:
        breaks, why = _pauses([one for one in times if one is not None]), "capture time"
    if split == "auto":
        turns = _turns([one.distance for one in known])
        small = [_small(path) for path in pictures]
        changes = {
            k + 1 for k in range(len(small) - 1) if likeness(small[k], small[k + 1]) < OTHER_SCENE
        }
        why += ", focus distance" if turns - breaks else ""
        why += " and likeness" if why != "likeness" and changes - breaks else ""
        breaks |= turns | changes
    ends = [0, *sorted(breaks), len(pictures)]
    groups = [tuple(pictures[a:b]) for a, b in pairwise(ends)]
    return Brackets(
        [FrameGroup(group[0].stem, group) for group in groups if len(group) > 1],
        [group[0] for group in groups if len(group) == 1],
        why,
    )


def _pauses(times: Sequence[datetime]) -> set[int]:
    """Indices of the pictures before which there was a pause, or a time that is earlier."""
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    usual = float(np.median([gap for gap in gaps if gap >= 0] or [0]))
    limit = max(PAUSE, PAUSES * usual)
    return {k + 1 for k, gap in enumerate(gaps) if gap > limit or gap < 0}


def _turns(distances: Sequence[float | None]) -> set[int]:
    """Indices of the pictures at which the focus distance goes back to where it began."""
    if None in distances or len(set(distances)) < 3:
        return set()
    values = [one for one in distances if one is not None]
    steps = np.sign(np.diff(values))
    direction = Counter(step for step in steps if step).most_common(1)[0][0]
    # One step back may be the camera's own; a bracket begins anew at more than half of its range.
    half = (max(values) - min(values)) / 2
    return {
        k + 1
        for k, step in enumerate(steps)
        if step == -direction and abs(values[k + 1] - values[k]) > half
    }
