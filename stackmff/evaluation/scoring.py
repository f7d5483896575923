"""Scoring of fused pictures, many at a time: reading, checking, registering, in parallel."""

import functools
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from stackmff.errors import StackError
from stackmff.evaluation.indices import index_scores
from stackmff.evaluation.metrics import score
from stackmff.images.colour import luma
from stackmff.images.folders import list_frames
from stackmff.images.formats import read_picture
from stackmff.images.stack import read_stack
from stackmff.processes import in_processes

REGISTRATION_STEPS = 200
REGISTRATION_GAIN = 1e-7  # of the correlation, from step to step
REGISTRATION_SIGMA = 1.0  # px
LEAST_CHANGE = 0.02  # a matrix nearer to the identity than this does not blur the result
BORDER = 24  # px left out of registered pictures
POOL_WORTH = 10  # s of work that are worth starting processes for


@dataclass(frozen=True)
class Scene:
    """What a fused picture is scored against.

    Attributes:
        stack: folder of the frames, or None.
        answer: file, or None.
    """

    stack: Path | None
    answer: Path | None


def without_alpha(picture):
    """(..., H, W, 1 to 4) without its alpha channel."""
    return picture[..., : 3 if picture.shape[-1] > 2 else 1]


def check_pair(fused, truth, result, other, what_it_is="answer"):
    """The two pictures without alpha, if they can be compared.

    Args:
        fused, truth: (H, W, C) uint8 or uint16.
        result, other: their files.
        what_it_is: the second one, in the error.
    Returns:
        Two arrays (H, W, C) of one shape and dtype, C = 1 or 3.
    Raises:
        StackError: they differ in size, bit depth or colour.
    """
    pictures = [without_alpha(picture) for picture in (fused, truth)]
    for what, left, right in (
        ("size", *(f"{p.shape[1]}x{p.shape[0]}" for p in pictures)),
        ("depth", *(f"{8 * p.dtype.itemsize} bit" for p in pictures)),
        ("colour", *("grey" if p.shape[2] == 1 else "colour" for p in pictures)),
    ):
        if left != right:
            raise StackError(
                f"{result} is {left}, its {what_it_is} {other} is {right}: save the result in the "
                f"{what} of its stack"
            )
    return pictures


def register(fused, answer):
    """Bring a fused picture into the geometry and the exposure of its answer.

    One affine map by enhanced correlation, left out where it is nearly the identity, then the gain
    of each channel that makes the squared error least.

    Args:
        fused, answer: (H, W, C), one shape and dtype, uint8 or uint16.
    Returns:
        (fused, answer) without their border, float32 on the scale of the dtype, fused within its
        range.
    Raises:
        ValueError: the pictures are too small or too unlike.
    Source:
        Evangelidis and Psarakis, "Parametric image alignment using enhanced correlation
        coefficient maximization", IEEE TPAMI 2008.
    """
    height, width = answer.shape[:2]
    if min(height, width) <= 2 * BORDER:
        raise ValueError(f"{width}x{height} has nothing inside a border of {BORDER} px")
    # Blurred here, so that OpenCV's own blur inside, whose sigma follows from its size, is off.
    blurred = [
        cv2.GaussianBlur(luma(picture), (0, 0), REGISTRATION_SIGMA) for picture in (fused, answer)
    ]
    matrix = np.eye(2, 3, dtype=np.float32)
    criteria = (
        cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT,
        REGISTRATION_STEPS,
        REGISTRATION_GAIN,
    )
    try:
        _, matrix = cv2.findTransformECC(
            blurred[1], blurred[0], matrix, cv2.MOTION_AFFINE, criteria, None, 1
        )
    except cv2.error as error:
        raise ValueError("no affine map brings it onto its answer") from error
    if np.abs(matrix - np.eye(2, 3)).max() > LEAST_CHANGE:
        fused = cv2.warpAffine(
            fused,
            matrix,
            (width, height),
            flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        ).reshape(answer.shape)  # OpenCV drops a channel axis of one
    inside = (slice(BORDER, height - BORDER), slice(BORDER, width - BORDER))
    white = np.iinfo(answer.dtype).max
    fused, answer = fused[inside].astype(np.float64), answer[inside].astype(np.float64)
    energy = np.maximum((fused**2).sum((0, 1)), np.finfo(np.float64).tiny)
    gain = (fused * answer).sum((0, 1)) / energy
    return np.clip(fused * gain, 0, white).astype(np.float32), answer.astype(np.float32)


def mean_of_frames(frames):
    """The mean of (N, H, W, C) frames, rounded to their dtype."""
    return np.rint(frames.mean(0, dtype=np.float64)).astype(frames.dtype)


@dataclass(frozen=True)
class Task:
    """One fused picture to score.

    Attributes:
        method: its name in the tables.
        name: of the scene.
        result: file; None: the mean of the frames.
        scene: Scene.
    """

    method: str
    name: str
    result: Path | None
    scene: Scene


@dataclass(frozen=True)
class Scoring:
    """How pictures are scored.

    Attributes:
        gray: the luma instead of the colours.
        registered: bring each result onto its answer first.
        optional: names in OPTIONAL_METRICS.
        indices: names in INDICES.
    """

    gray: bool = False
    registered: bool = False
    optional: tuple = ()
    indices: tuple = ()


def read_result(task):
    """The fused picture of a task and the file or folder that it comes from."""
    if task.result is not None:
        return read_picture(task.result), task.result
    return mean_of_frames(read_stack(list_frames(task.scene.stack)).frames), task.scene.stack


def score_task(task, how):
    """Score one picture.

    Args:
        task: Task.
        how: Scoring.
    Returns:
        {column: float}.
    Raises:
        StackError: names the picture that is unreadable, of another kind or cannot be scored.
    """
    picture, place = read_result(task)
    scores = {}
    try:
        if task.scene.answer is not None:
            scores |= score_by_answer(picture, place, task.scene.answer, how)
        if how.indices:
            scores |= score_by_frames(picture, place, task.scene.stack, how.indices)
    except ValueError as error:
        raise StackError(f"{place} cannot be scored: {error}") from error
    return scores


def compared_pair(picture, place, answer, registered):
    """A picture and its answer as they are compared, see `check_pair` and `register`."""
    fused, truth = check_pair(picture, read_picture(answer), place, answer)
    return register(fused, truth) if registered else (fused, truth)


def score_by_answer(picture, place, answer, how):
    """The scores of a picture (H, W, C), read from `place`, with the file of its answer."""
    white = int(np.iinfo(picture.dtype).max)
    fused, truth = compared_pair(picture, place, answer, how.registered)
    return score(fused, truth, white, how.gray, how.optional)


def score_by_frames(picture, place, folder, names):
    """The indices `names` of a picture (H, W, C), read from `place`, with its frames' folder."""
    frames = without_alpha(read_stack(list_frames(folder)).frames)
    fused, _ = check_pair(picture, frames[0], place, folder, "stack")
    return index_scores(fused, frames, int(np.iinfo(frames.dtype).max), names)


def in_parallel(function, items, workers, what):
    """Call a function for each of some items, in several processes where that saves time.

    The first call is made here; it tells how long the others will take.

    Args:
        function: of a module's top level, or a partial of one.
        items: a list, at least one.
        workers: processes at most.
        what: in words, for the bar.
    Returns:
        A list of what it returns, in the order of the items.
    Raises:
        StackError: from the function; or a process has been killed.
    """
    with tqdm(desc=what, total=len(items), disable=None, leave=False) as bar:
        start = time.perf_counter()
        results = [function(items[0])]
        bar.update()
        rest = items[1:]
        workers = min(workers, len(rest))
        if workers < 2 or (time.perf_counter() - start) * len(rest) < POOL_WORTH:
            for item in rest:
                results.append(function(item))
                bar.update()
            return results
        for _, result in in_processes(function, rest, workers):
            results.append(result)
            bar.update()
    return results


def score_tasks(tasks, how, workers=1):
    """Score pictures.

    Args:
        tasks: list of Task.
        how: Scoring.
        workers: processes at most.
    Returns:
        {method: {scene: {column: float}}} in the order of the tasks.
    Raises:
        StackError: as score_task.
    """
    scores = in_parallel(functools.partial(score_task, how=how), tasks, workers, "scores")
    tables = {}
    for task, row in zip(tasks, scores):
        tables.setdefault(task.method, {})[task.name] = row
    return tables


def check_metrics(names):
    """Raise StackError where an optional metric lacks a package, before any work is done."""
    picture = np.zeros((256, 256, 3), np.uint8)
    try:
        score(picture, picture, 255, optional=names)
    except ValueError as error:
        raise StackError(str(error)) from error
