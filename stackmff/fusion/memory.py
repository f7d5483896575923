"""How much memory a stack takes, known from the headers of its files before anything is decoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stackmff.errors import StackError
from stackmff.fusion.options import FuseOptions
from stackmff.images.headers import Declared, declared
from stackmff.images.stack_files import FramePath, Page, VideoFrame
from stackmff.machine import free_memory

BASE = 1.0e9  # bytes: libraries, network, tiles
MAPS = 3  # bytes per pixel of focus map and confidence
SMALL = 20e6  # pixels; up to here BASE is most of it, and not all of that is needed
COPIES = 7  # bytes per pixel that the encoders of 8-bit formats take


@dataclass(frozen=True)
class Need:
    """What fusing a stack takes, in bytes.

    Attributes:
        frames: the decoded frames, which lie in memory or in a file.
        work: memory beside them. Reading takes a frame and a copy of it, and its file twice; fusing
            takes the result, its maps, and copies for formats of 8 bits.
        pixels: of a frame.
    """

    frames: int
    work: float
    pixels: int


def needed(paths: Sequence[FramePath], output: Path, bits: int | None) -> Need | None:
    """What fusing a stack takes.

    Args:
        paths: of the frames.
        output: fused picture; bits: of it, None: as the frames.
    Returns:
        None if no header says so, as of RAW and videos.
    """
    found: list[tuple[Path, Declared]] = []
    for path in paths[:1] if isinstance(paths[0], Page) else paths:
        file = path.file if isinstance(path, Page) else path
        header = None if isinstance(path, VideoFrame) else declared(file)
        if header is not None:
            found.append((file, header))
    if not found:
        return None
    frame = max(header.frame_bytes for _, header in found)
    pixels = max(header.width * header.height for _, header in found)
    # A file of many pages is not read as a whole.
    file_bytes = 0 if isinstance(paths[0], Page) else max(p.stat().st_size for p, _ in found)
    deep = 2 if bits == 16 and frame <= 4 * pixels else 1
    result = deep * frame + MAPS * pixels
    result += 0 if output.suffix.lower() in (".png", ".tif", ".tiff") else COPIES * pixels
    return Need(len(paths) * frame, BASE + max(2 * (frame + file_bytes), result), pixels)


def keep_in_file(paths: Sequence[FramePath], output: Path, options: FuseOptions) -> bool:
    """Whether the frames of a stack must be kept in a file, so that the rest fits into the memory.

    Args:
        paths: of the frames.
        output: fused picture.
        options: of fusion; with --low_memory they are in any case.
    Raises:
        StackError: even then there is not enough memory.
    """
    need, low = needed(paths, output, options.format.bits), options.memory.low_memory
    if need is None:
        return low
    free = free_memory()
    if need.work > free and need.pixels > SMALL:
        raise StackError(
            f"{paths[0].parent}: frames of {need.pixels / 1e6:.0f} megapixels need "
            f"{need.work / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free: close other "
            "programs, or export the frames smaller"
        )
    return low or need.frames + need.work > free
