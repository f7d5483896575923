"""Stacks that are one file: the pages of a TIFF, the frames of a video."""

from dataclasses import dataclass, field
from pathlib import Path

from stackmff.errors import StackError
from stackmff.images.decoded import Decoded, upright
from stackmff.images.hyperstacks import hyperstack_in
from stackmff.images.metadata import Metadata
from stackmff.images.pages import Page
from stackmff.images.tiff import decode_tiff, tiff_pages
from stackmff.images.videos import VIDEO_SUFFIXES, Video, count_frames

TIFF_SUFFIXES = (".tif", ".tiff")


# What identifies a frame of a stack: a picture file, or a frame inside a file.
FramePath = Path | Page


@dataclass(frozen=True)
class TiffPage(Page):
    """A page of a TIFF file; `index` counts thumbnails too."""

    index: int

    def decode(self, orientation: int | None = None, lenient: bool = False) -> Decoded:
        try:
            with open(self.file, "rb") as source:
                decoded = decode_tiff(source, self, self.index, lenient)
        except OSError as error:
            raise StackError(f"{self} cannot be read: {error.strerror or error}") from error
        return upright(decoded, orientation)


@dataclass(frozen=True)
class VideoFrame(Page):
    """A frame of a video, 8-bit RGB; all frames of the file share `video`."""

    video: Video = field(compare=False, repr=False)

    def decode(self, orientation: int | None = None, lenient: bool = False) -> Decoded:
        # OpenCV turns videos upright.
        return Decoded(self.video.read(self.number - 1), Metadata())


def frames_in_file(file: str | Path) -> list[Page]:
    """The frames in a TIFF or video file in their order; there may be one or none.

    Args:
        file: path; the suffix decides. A video is decoded once to count its frames.
    Raises:
        StackError: the file cannot be read, is a video that is cut short, is of another kind, or
            holds several stacks.
    """
    file = Path(file)
    try:
        changed = file.stat().st_mtime_ns
    except OSError as error:
        raise StackError(f"{file} cannot be read: {error.strerror}") from error
    suffix = file.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        count, note = count_frames(file, changed)
        video = Video(file, note)
        return [VideoFrame(file, k + 1, count, video) for k in range(count)]
    if suffix in TIFF_SUFFIXES:
        found = hyperstack_in(file)
        if found is not None and found.kept:
            raise StackError(
                f"{file} has {found.sizes}, stacks of {len(found)} frames each: fuse it with "
                "predict.py or predict_dataset.py"
            )
        if found is not None:
            return [*found.stack()]
        indices = tiff_pages(file)
        return [TiffPage(file, k + 1, len(indices), index) for k, index in enumerate(indices)]
    raise StackError(
        f"{file} is a single file, not a stack: give the folder of the frames, a multi-page TIFF, "
        f"or a video ({' '.join(VIDEO_SUFFIXES)})"
    )
