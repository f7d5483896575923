"""Scoring of many fused pictures: reading, checking, registering, in parallel."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from stackmff.errors import StackError
from stackmff.evaluation.indices import index_scores
from stackmff.evaluation.matching import Scene
from stackmff.evaluation.metrics import score, to_gray
from stackmff.images.colour import luma
from stackmff.images.folders import list_frames
from stackmff.images.formats import read_picture
from stackmff.images.groups import StackSource, place_of
from stackmff.images.stack import read_stack
from stackmff.processes import in_processes

REGISTRATION_STEPS = 200
REGISTRATION_GAIN = 1e-7  # of the correlation, from step to step
REGISTRATION_SIGMA = 1.0  # px
LEAST_CHANGE = 0.02  # entry of the matrix; below it, resampling would do more harm than good
BORDER = 24  # px left out of registered pictures
MEAN_OF_FRAMES = "mean of the frames"  # the method that every table has as a floor
POOL_WORTH = 10  # seconds of work that make starting processes worthwhile

Item = TypeVar("Item")
Result = TypeVar("Result")


def without_alpha(picture: np.ndarray) -> np.ndarray:
    """(..., H, W, 1 to 4) without its alpha channel."""
    return picture[..., : 3 if picture.shape[-1] > 2 else 1]


def check_pair(
    fused: np.ndarray,
    truth: np.ndarray,
    result: Path,
    other: Path,
    what_it_is: str = "answer",
    gray: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Two pictures without alpha, if they can be compared.

    Args:
        fused, truth: (H, W, C) uint8 or uint16.
        result, other: their files.
        what_it_is: what the error calls the second one.
        gray: the lumas are compared, so one of them may be grey.
    Returns:
        Two arrays (H, W, C) of one shape and dtype, C = 1 or 3; 8 bits beside 16 are scaled to 16,
        and a colour picture beside a grey one is converted to it.
    Raises:
        StackError: they differ in size or, unless `gray`, in colour.
    """
    fused, truth = without_alpha(fused), without_alpha(truth)
    if fused.dtype != truth.dtype:
        fused, truth = in_16_bits(fused), in_16_bits(truth)
    if gray and fused.shape[2] != truth.shape[2]:
        fused, truth = to_gray(fused)[..., None], to_gray(truth)[..., None]
    for what, told in (
        ("size", lambda picture: f"{picture.shape[1]}x{picture.shape[0]}"),
        ("colour", lambda picture: "grey" if picture.shape[2] == 1 else "colour"),
    ):
        if told(fused) != told(truth):
            raise StackError(
                f"{result} is {told(fused)}, its {what_it_is} {other} is {told(truth)}: save the "
                f"result in the {what} of its stack"
                + (", or compare lumas with --gray" if what == "colour" else "")
            )
    return fused, truth


def in_16_bits(picture: np.ndarray) -> np.ndarray:
    """A picture of uint8 or uint16 as uint16; 255 becomes 65535."""
    return picture if picture.dtype == np.uint16 else picture * np.uint16(257)


def register(fused: np.ndarray, answer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Align a fused picture with its answer in geometry and exposure.

    One affine map by enhanced correlation, omitted where it is close to the identity, then the gain
    per channel that minimises the squared error.

    Args:
        fused, answer: (H, W, C), one shape and dtype, uint8 or uint16.
    Returns:
        (fused, answer) without their border, float32 on the scale of the dtype; fused is clipped to
        its range.
    Raises:
        ValueError: the pictures are too small or too different.
    Source:
        Evangelidis and Psarakis, "Parametric image alignment using enhanced correlation
        coefficient maximization", IEEE TPAMI 2008.
    """
    height, width = answer.shape[:2]
    if min(height, width) <= 2 * BORDER:
        raise ValueError(f"{width}x{height} leaves nothing inside a border of {BORDER} px")
    # Blurred here so that OpenCV's own blur, whose sigma follows from its window, can be off.
    blurred = [
        cv2.GaussianBlur(luma(picture), (0, 0), REGISTRATION_SIGMA) for picture in (fused, answer)
    ]
    matrix: np.ndarray = np.eye(2, 3, dtype=np.float32)
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
        raise ValueError("no affine map registers it with its answer") from error
    if np.abs(matrix - np.eye(2, 3)).max() > LEAST_CHANGE:
        fused = cv2.warpAffine(
            fused,
            matrix,
            (width, height),
            flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        ).reshape(answer.shape)  # OpenCV drops a channel axis of one
    inside = (slice(BORDER, height - BORDER), slice(BORDER, width - BORDER))
    white = np.iinfo(answer.dtype).max  # before the conversion to floats
    fused, answer = fused[inside].astype(np.float64), answer[inside].astype(np.float64)
    energy = np.maximum((fused**2).sum((0, 1)), np.finfo(np.float64).tiny)
    gain = (fused * answer).sum((0, 1)) / energy
    return np.clip(fused * gain, 0, white).astype(np.float32), answer.astype(np.float32)


def mean_of_frames(frames: np.ndarray) -> np.ndarray:
    """The mean of (N, H, W, C) frames, (H, W, C), rounded to their dtype."""
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
        registered: register each result with its answer first.
        optional: names in OPTIONAL_METRICS.
        indices: names in INDICES.
    """

    gray: bool = False
    registered: bool = False
    optional: tuple[str, ...] = ()
    indices: tuple[str, ...] = ()


def read_result(task: Task) -> tuple[np.ndarray, Path]:
    """The fused picture of a task and the file or folder that it comes from."""
    if task.result is not None:
        return read_picture(task.result), task.result
    return mean_of_frames(_frames_of(task.scene)), place_of(_stack_of(task.scene))


def _stack_of(scene: Scene) -> StackSource:
    """The stack of a scene's frames; ValueError where it has none."""
    if scene.stack is None:
        raise ValueError("the scene has no frames")
    return scene.stack


def _frames_of(scene: Scene) -> np.ndarray:
    """The frames of a scene, (N, H, W, C)."""
    frames: np.ndarray = read_stack(list_frames(_stack_of(scene))).frames
    return frames


def score_task(task: Task, how: Scoring) -> dict[str, float]:
    """Score one picture.

    Args:
        task: Task.
        how: Scoring.
    Returns:
        {column: float}.
    Raises:
        StackError: names the picture that cannot be read, compared or scored.
    """
    picture, place = read_result(task)
    scores: dict[str, float] = {}
    try:
        if task.scene.answer is not None:
            scores |= score_by_answer(picture, place, task.scene.answer, how)
        if how.indices:
            scores |= score_by_frames(picture, place, task.scene, how.indices)
    except ValueError as error:
        raise StackError(f"{place} cannot be scored: {error}") from error
    return scores


def compared_pair(
    picture: np.ndarray, place: Path, answer: Path, registered: bool, gray: bool = False
) -> tuple[np.ndarray, np.ndarray, int]:
    """A picture and its answer as they are compared, see `check_pair` and `register`, and the value
    of white in them."""
    fused, truth = check_pair(picture, read_picture(answer), place, answer, gray=gray)
    white = int(np.iinfo(truth.dtype).max)
    return *(register(fused, truth) if registered else (fused, truth)), white


def score_by_answer(
    picture: np.ndarray, place: Path, answer: Path, how: Scoring
) -> dict[str, float]:
    """The scores of a picture (H, W, C), read from `place`, against the file of its answer."""
    fused, truth, white = compared_pair(picture, place, answer, how.registered, how.gray)
    return score(fused, truth, white, how.gray, how.optional)


def score_by_frames(
    picture: np.ndarray, place: Path, scene: Scene, names: Sequence[str]
) -> dict[str, float]:
    """The indices `names` of a picture (H, W, C), read from `place`, against its frames."""
    frames = without_alpha(_frames_of(scene))
    fused, _ = check_pair(picture, frames[0], place, place_of(_stack_of(scene)), "stack")
    frames = frames if frames.dtype == fused.dtype else in_16_bits(frames)
    return index_scores(fused, frames, int(np.iinfo(frames.dtype).max), names)


def in_parallel(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, what: str
) -> list[Result]:
    """Call a function for each item, in several processes if that saves time.

    The first call is made in this process, to find out how long the others will take.

    Args:
        function: at the top level of a module, or a partial of one.
        items: at least one.
        workers: processes at most.
        what: the label of the progress bar.
    Returns:
        A list of what it returns, in the order of the items.
    Raises:
        StackError: from the function; or a process was killed.
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


def score_tasks(
    tasks: Sequence[Task], how: Scoring, workers: int = 1
) -> dict[str, dict[str, dict[str, float]]]:
    """Score pictures.

    Args:
        tasks: what to score.
        how: it is scored.
        workers: processes at most.
    Returns:
        {method: {scene: {column: float}}} in the order of the tasks.
    Raises:
        StackError: as score_task.
    """
    scores = in_parallel(functools.partial(score_task, how=how), tasks, workers, "scores")
    tables: dict[str, dict[str, dict[str, float]]] = {}
    for task, row in zip(tasks, scores):
        tables.setdefault(task.method, {})[task.name] = row
    return tables


def check_metrics(names: Sequence[str]) -> None:
    """Raise StackError if an optional metric lacks a package, before any work is done."""
    picture = np.zeros((256, 256, 3), np.uint8)
    try:
        score(picture, picture, 255, optional=names)
    except ValueError as error:
        raise StackError(str(error)) from error
