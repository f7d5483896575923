"""A frame that is not a file of its own but inside one."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from stackmff.images.decoded import Decoded


@dataclass(frozen=True)
class Page(ABC):
    """A frame inside a file. It has the attributes of the path of a picture of its own.

    Attributes:
        file: path of the file.
        number: of the frame, from 1.
        count: of the frames in the file.
    """

    file: Path
    number: int
    count: int

    @property
    def stem(self) -> str:
        return f"{self.file.stem}-{self.number:0{len(str(self.count))}}"

    @property
    def suffix(self) -> str:
        return self.file.suffix

    @property
    def name(self) -> str:
        return self.stem + self.suffix

    @property
    def parent(self) -> Path:
        return self.file.parent

    def stat(self) -> os.stat_result:
        return self.file.stat()

    def __str__(self) -> str:
        return f"{self.file} (frame {self.number})"

    @abstractmethod
    def decode(self, orientation: int | None = None, lenient: bool = False) -> Decoded:
        """Read the frame; arguments, result and errors as of formats.decode."""
