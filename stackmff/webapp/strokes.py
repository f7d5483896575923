"""The strokes of a result on the disk: a log that is only appended to, so a kill loses nothing.

Each line is one JSON object: {"paint": record of a stroke}, {"undo": count}, {"redo": count}, or
{"wait": [height, width, record]} for a stroke of an earlier result that does not fit this one.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stackmff.files import parse_json
from stackmff.fusion.regions import Region
from stackmff.fusion.retouch import Painting, record_of, stroke_of

# What an entry that means nothing makes of the code that reads it.
ODD = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError)

Waiting = tuple[tuple[int, int], dict[str, Any]]  # ((height, width), record of a stroke)


@dataclass
class Painted:
    """What a log of strokes comes to.

    Attributes:
        strokes: that are painted, in their order.
        undone: that were undone and can be redone, the next one last.
        waiting: that do not fit this result.
    """

    strokes: list[Painting] = field(default_factory=list)
    undone: list[Painting] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)

    def paint(self, stroke: Painting) -> None:
        """Add a stroke; what was undone can no longer be redone."""
        self.strokes.append(stroke)
        self.undone.clear()

    def undo(self) -> Painting:
        """Take the last stroke back, and return it."""
        self.undone.append(self.strokes.pop())
        return self.undone[-1]

    def redo(self) -> Painting:
        """Add the stroke again that was undone last, and return it."""
        self.strokes.append(self.undone.pop())
        return self.strokes[-1]


def filled_by(
    regions: Sequence[dict[str, Any]], strokes: Sequence[Painting], names: Sequence[str]
) -> list[str]:
    """The name of the frame that fills each region now.

    Args:
        regions: as of result_files.ResultRecord; strokes: that are painted; names: of the frames.
    """
    painted = [record_of(stroke, names) for stroke in strokes if isinstance(stroke, Region)]
    latest = [*regions, *painted][::-1]
    return [
        next(one["frame"] for one in latest if one["region"] == region["region"])
        for region in regions
    ]


class StrokeLog:
    """The log of one result.

    Args:
        path: of the file, which may not exist yet.
        names: of the frames.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path, self.names = path, names

    def write(self, **entry: Any) -> None:
        """Append an entry; it is on the disk on return."""
        # The line before may have been cut by a kill: each entry begins one of its own.
        with open(self.path, "a", encoding="ascii") as file:
            file.write("\n" + json.dumps(entry))
            file.flush()
            os.fsync(file.fileno())

    def paint(self, stroke: Painting) -> None:
        """Append a stroke."""
        self.write(paint=record_of(stroke, self.names))

    def read(self) -> Painted:
        """What the entries come to; a line that was cut by a kill, and what cannot be, is passed
        over."""
        painted = Painted()
        with contextlib.suppress(FileNotFoundError):
            for line in self.path.read_bytes().splitlines():
                with contextlib.suppress(*ODD):
                    self._apply(painted, parse_json(line))
        return painted

    def _apply(self, painted: Painted, entry: dict[str, Any]) -> None:
        """Do to `painted` what an entry says; one of ODD where it cannot be done."""
        if "paint" in entry:
            painted.paint(stroke_of(entry["paint"], self.names))
        for _ in range(entry.get("undo", 0)):
            painted.undo()
        for _ in range(entry.get("redo", 0)):
            painted.redo()
        if "wait" in entry:
            height, width, record = entry["wait"]
            frame = record.get("frame")
            if not (frame is None or isinstance(frame, str)):
                raise TypeError("the name of its frame is not one")
            stroke_of(record, [] if frame is None else [frame])  # it fits another result
            painted.waiting.append(((int(height), int(width)), record))
