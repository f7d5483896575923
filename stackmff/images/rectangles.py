"""Rectangles of pixels: a tile, what a stroke may touch, what a picture is cropped to."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Box(NamedTuple):
    """An upright rectangle of pixels; it has none if it ends before it starts.

    Attributes:
        top, bottom, left, right: px, bottom and right exclusive.
    """

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def whole(cls, size: Sequence[int]) -> "Box":
        """All of a picture of (height, width) or (height, width, channels)."""
        return cls(0, size[0], 0, size[1])

    @classmethod
    def at(cls, top: int, left: int, size: Sequence[int] = (1, 1)) -> "Box":
        """The box of (height, width) that starts at a pixel; default: that pixel alone."""
        return cls(top, top + size[0], left, left + size[1])

    @classmethod
    def around(cls, mask: np.ndarray) -> "Box":
        """The smallest box that holds all of a mask (H, W), which must not be empty."""
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        return cls(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)

    @property
    def corner(self) -> tuple[int, int]:
        """(top, left), px."""
        return self.top, self.left

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), px."""
        return self.bottom - self.top, self.right - self.left

    @property
    def area(self) -> int:
        """The number of its pixels."""
        height, width = self.size
        return max(height, 0) * max(width, 0)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns, to index an array."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """The part of a picture (H, W) or (H, W, C), contiguous."""
        return np.ascontiguousarray(picture[self.slices])

    def common(self, other: "Box") -> "Box":
        """What it shares with another."""
        return Box(
            *(max(self.top, other.top), min(self.bottom, other.bottom)),
            *(max(self.left, other.left), min(self.right, other.right)),
        )

    def moved(self, down: int, across: int) -> "Box":
        """The same farther down and to the right, px."""
        return Box(self.top + down, self.bottom + down, self.left + across, self.right + across)

    def grown(self, by: int, size: Sequence[int]) -> "Box":
        """With `by` px more on each side, as far as a picture of (height, width) has them."""
        more = Box(self.top - by, self.bottom + by, self.left - by, self.right + by)
        return more.common(Box.whole(size))

    def scaled(self, factor: int) -> "Box":
        """The same in a picture that is `factor` times larger."""
        return Box(*(factor * side for side in self))

    def parts(self, rows: int, columns: int | None = None) -> Iterator["Box"]:
        """The parts of it, row by row, of at most `rows` x `columns` px; None: as wide as it is."""
        step = columns or max(self.right - self.left, 1)
        for top in range(self.top, self.bottom, rows):
            for left in range(self.left, self.right, step):
                yield Box(
                    *(top, min(top + rows, self.bottom)), *(left, min(left + step, self.right))
                )
