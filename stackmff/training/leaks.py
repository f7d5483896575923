"""Whether what validates a run also trains it, by the content of the answers."""

import hashlib
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import cv2
import numpy as np

from stackmff.errors import StackError
from stackmff.images.colour import luma
from stackmff.images.formats import read_picture
from stackmff.training.shards import Pair, Picture, StoredFile

SAMPLED_BYTES = 4096  # of the middle of files of one size, compared before the whole files are
THUMBNAIL = (24, 24)  # px
SAME_LEVELS = 3.0  # mean difference of thumbnails of one photograph, resized and rounded
LEAST_CONTRAST = 4.0  # levels of 255, standard deviation; flat pictures all look alike


def leaked(training: Sequence[Picture], validation: Sequence[Picture]) -> list[tuple[int, int]]:
    """Which answers that train also validate, as files of the same bytes, in folders or shards.

    Files are read only where the sizes of two agree, and whole only where their middles do.

    Args:
        training, validation: the answers.
    Returns:
        A pair of indices, into `training` and `validation`, for each answer that trains and
        validates; answers that cannot be read are left to whoever uses them.
    """
    mine, others = list(range(len(training))), list(range(len(validation)))
    keys: tuple[Callable[[Picture], Hashable], ...] = (size_of, middle_of, digest_of)
    matches: list[tuple[int, int]] = []
    for key in keys:
        trains = {i: key(training[i]) for i in mine}
        validates = {i: key(validation[i]) for i in others}
        first = {value: i for i, value in reversed(validates.items()) if value is not None}
        matches = [(i, first[value]) for i, value in trains.items() if value in first]
        shared = {trains[i] for i, _ in matches}
        mine = [i for i, _ in matches]
        others = [i for i, value in validates.items() if value in shared]
    return matches


def place_of(picture: Picture) -> tuple[Path, int, int]:
    """(file, offset, size) of the bytes of a picture."""
    if isinstance(picture, StoredFile):
        return picture.shard, picture.offset, picture.size
    return picture, 0, picture.stat().st_size


def size_of(picture: Picture) -> int | None:
    """Bytes of a picture's file; None if it cannot be read."""
    try:
        return place_of(picture)[2]
    except OSError:
        return None


def middle_of(picture: Picture) -> str | None:
    """A digest of some bytes in the middle of a picture's file; None if it cannot be read."""
    return _digest(picture, SAMPLED_BYTES)


def digest_of(picture: Picture) -> str | None:
    """A digest of a picture's file; None if it cannot be read."""
    return _digest(picture, None)


def _digest(picture: Picture, most: int | None) -> str | None:
    """A digest of at most so many bytes in the middle of a file, None: of all; None as above."""
    try:
        path, offset, size = place_of(picture)
        length = size if most is None else min(most, size)
        with open(path, "rb") as file:
            file.seek(offset + (size - length) // 2)
            return hashlib.sha256(file.read(length)).hexdigest()
    except OSError:
        return None


def refuse_leaks(pairs: Sequence[Pair], training: Sequence[int], validation: Sequence[int]) -> None:
    """Raise StackError where stacks of --val_datapath have the answers of stacks that train.

    Args:
        pairs: all stacks.
        training, validation: indices into them.
    """
    same = leaked([pairs[i][2] for i in training], [pairs[i][2] for i in validation])
    if not same:
        return
    mine, other = (pairs[part[i]][2] for part, i in zip((training, validation), same[0]))
    count = len({i for _, i in same})
    raise StackError(
        f"{count} of the {len(validation)} validation stacks are also training stacks, such as "
        f"{other}, whose answer is that of {mine}: give --val_datapath stacks of other scenes, or "
        "remove it"
    )


def without_copies(
    pairs: Sequence[Pair], training: Sequence[int], validation: Sequence[int]
) -> tuple[list[int], list[str]]:
    """Leave out what would train on the answers of the stacks that were chosen to validate.

    Args:
        pairs, training, validation: see `refuse_leaks`.
    Returns:
        (training, sentences): what trains, and a sentence for each stack that is left out.
    Raises:
        StackError: nothing is left to train on.
    """
    same = dict(leaked([pairs[i][2] for i in training], [pairs[i][2] for i in validation]))
    kept = [scene for i, scene in enumerate(training) if i not in same]
    if not kept:
        raise StackError(
            "all training stacks have the answers of validation stacks: give --val_datapath stacks "
            "of other scenes"
        )
    return kept, [
        f"{pairs[training[i]][2]} is also the answer of the validation stack "
        f"{pairs[validation[j]][0]}"
        for i, j in same.items()
    ]


def refuse_photos_that_validate(photos: Sequence[Path], pairs: Sequence[Pair]) -> None:
    """Raise StackError where photographs that train with depth are the answers that validate.

    A stack of a photograph has its name and, as its answer, the photograph, perhaps smaller, so
    those of one name are compared as thumbnails.

    Args:
        photos: that train.
        pairs: the validation stacks.
    """
    by_name = {photo.stem: photo for photo in photos}
    for name, _, answer in pairs:
        photo = by_name.get(name.rpartition("/")[2])
        if photo is not None and look_alike(photo, answer):
            raise StackError(
                f"the validation answer {answer} is the training photograph {photo}: give "
                "--val_datapath stacks of other photographs"
            )


def look_alike(one: Picture, other: Picture) -> bool:
    """Whether two files hold one photograph, perhaps in two sizes; False if one is unreadable."""
    try:
        small = [thumbnail(picture) for picture in (one, other)]
    except StackError:
        return False
    contrast = min(float(picture.std()) for picture in small)
    return contrast > LEAST_CONTRAST and float(abs(small[0] - small[1]).mean()) < SAME_LEVELS


def thumbnail(picture: Picture) -> np.ndarray:
    """The luma of a picture as (H, W) of THUMBNAIL, float32 in [0, 255]; StackError as reading."""
    whole = np.asarray(luma(read_picture(picture)), np.float32)
    return cv2.resize(whole, THUMBNAIL, interpolation=cv2.INTER_AREA) * 255
