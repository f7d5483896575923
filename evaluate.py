"""Score fused pictures against their all-in-focus answers."""

import argparse
from pathlib import Path

import cv2
import numpy as np
from scipy.stats import t as student
from tqdm import tqdm

from metrics import METRICS, score
from pictures import by_stem, list_frames, list_pictures, luma, read_picture, read_stack
from utils import StackError, run_main, write_csv

REGISTRATION_STEPS = 200
REGISTRATION_GAIN = 1e-7  # of the correlation, from step to step
REGISTRATION_SIGMA = 1.0  # px
LEAST_CHANGE = 0.02  # a matrix nearer to the identity than this does not blur the result
BORDER = 24  # px left out of registered pictures
COMPARED = ("PSNR", "SSIM")  # of METRICS, larger is better
CONFIDENCE = 0.95


def get_parser():
    """The options of evaluate.py."""
    parser = argparse.ArgumentParser(description=__doc__)
    group = parser.add_argument_group("pictures")
    group.add_argument(
        "--results",
        nargs="+",
        required=True,
        metavar="[NAME=]DIR",
        help="folder of fused pictures; several, as NAME=DIR, make one table and are compared "
        "with the first, scene by scene",
    )
    group.add_argument(
        "--reference",
        required=True,
        metavar="DIR",
        help="folder of the answers, of the same names without suffix",
    )
    group.add_argument(
        "--stacks",
        metavar="DIR",
        help="folder of the stacks: also score the mean of each one's frames, which any method "
        "must beat",
    )
    group = parser.add_argument_group("scores")
    group.add_argument(
        "--gray", action="store_true", help="score the luma instead of the colours (default: off)"
    )
    group.add_argument(
        "--register",
        action="store_true",
        help="for stacks that were not aligned: bring each result onto its answer first by an "
        f"affine map and a gain for each channel, and leave {BORDER} px of border out (default: "
        "off)",
    )
    group.add_argument("--csv", metavar="FILE", help="also write the table there (default: no)")
    return parser


def named_folders(words):
    """The folders of --results.

    Args:
        words: DIR or NAME=DIR each.
    Returns:
        {name: folder}; without NAME= the folder's own name.
    Raises:
        StackError: two have one name, or a name or a folder is missing.
    """
    folders = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if word and (not equals or Path(word).is_dir()):
            name, folder = Path(word).resolve().name, word
        if not name or not folder:
            raise StackError(f"--results {word!r} is no folder: give DIR or NAME=DIR")
        if name in folders:
            raise StackError(f"--results has two folders named {name}: give them as NAME=DIR")
        folders[name] = Path(folder)
    return folders


def pictures_in(folder):
    """{name without suffix: path} of the pictures at the top of a folder.

    Raises:
        StackError: two pictures differ only in their suffix, or there is none.
    """
    pictures = by_stem(list_pictures(folder))
    if not pictures:
        raise StackError(f"{folder} holds no picture: give the folder that the pictures lie in")
    return pictures


def match(results, reference):
    """Pair results and answers by name.

    Args:
        results, reference: folders.
    Returns:
        A list of (name, result path, answer path) in natural order of the answers.
    Raises:
        StackError: an answer has no result, or a result no answer.
    """
    fused, answers = pictures_in(results), pictures_in(reference)
    missing = [name for name in answers if name not in fused]
    extra = [fused[name].name for name in fused if name not in answers]
    if missing:
        raise StackError(
            f"{results} has no result for {', '.join(missing)} of {reference}: fuse what is missing"
        )
    if extra:
        raise StackError(
            f"{results} holds {', '.join(extra)}, which {reference} does not answer: move it "
            "elsewhere"
        )
    return [(name, fused[name], path) for name, path in answers.items()]


def without_alpha(picture):
    """(H, W, 1 to 4) without its alpha channel."""
    return picture[..., : 3 if picture.shape[2] > 2 else 1]


def read_pair(result, answer):
    """Read a result and its answer.

    Args:
        result, answer: paths.
    Returns:
        Two arrays (H, W, C) of one shape and dtype, uint8 or uint16, C = 1 or 3.
    Raises:
        StackError: one cannot be read, or they differ in size, bit depth or colour.
    """
    return check_pair(read_picture(result), read_picture(answer), result, answer)


def check_pair(fused, truth, result, answer):
    """The two pictures without alpha, if they can be compared; see `read_pair`."""
    pictures = [without_alpha(picture) for picture in (fused, truth)]
    for what, left, right in (
        ("size", *(f"{p.shape[1]}x{p.shape[0]}" for p in pictures)),
        ("depth", *(f"{8 * p.dtype.itemsize} bit" for p in pictures)),
        ("colour", *("grey" if p.shape[2] == 1 else "colour" for p in pictures)),
    ):
        if left != right:
            raise StackError(
                f"{result} is {left}, its answer {answer} is {right}: save the result in the "
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


def mean_of_frames(folder, answer):
    """The mean of a stack's frames and its answer, as from `read_pair`."""
    stack = read_stack(list_frames(folder))
    mean = np.rint(stack.frames.mean(0, dtype=np.float64)).astype(stack.frames.dtype)
    return check_pair(mean, read_picture(answer), folder, answer)


def evaluate(pairs, gray=False, registered=False, name="", read=read_pair):
    """Score results.

    Args:
        pairs: [(name of the picture, result, path of its answer)], as from `match`.
        gray: score the luma.
        registered: register each result first.
        name: of the method, for the progress bar.
        read: function (result, path of its answer) -> the two pictures.
    Returns:
        (rows, means): rows {picture: {metric: float}} in natural order, means {metric: float}
        over the pictures scored.
    Raises:
        StackError: names the picture that is unreadable or of another kind.
    """
    rows = {}
    for stem, result, answer_path in tqdm(pairs, desc=name, disable=None, leave=False):
        fused, answer = read(result, answer_path)
        white = int(np.iinfo(answer.dtype).max)
        try:
            if registered:
                fused, answer = register(fused, answer)
            rows[stem] = score(fused, answer, white, gray)
        except ValueError as error:
            raise StackError(f"{result} cannot be scored: {error}") from error
    means = {metric: float(np.mean([row[metric] for row in rows.values()])) for metric in METRICS}
    return rows, means


def table_rows(tables):
    """Rows (method, picture, one number a metric) of all tables, the means at the end.

    Args:
        tables: {method: as from evaluate}.
    Returns:
        A list of lists, the first of them the header; numbers are floats.
    """
    rows = [["results", "picture", *METRICS]]
    for method, (pictures, _) in tables.items():
        rows += [[method, picture, *scores.values()] for picture, scores in pictures.items()]
    return rows + [[method, "MEAN", *means.values()] for method, (_, means) in tables.items()]


def paired_difference(first, other, confidence=CONFIDENCE):
    """How much larger one list of scores is than another of the same scenes, on average.

    Args:
        first, other: (n,) scores in one order of the scenes, n >= 1; infinite ones count as equal
            where both are.
        confidence: level of the interval, in (0, 1).
    Returns:
        (mean, low, high) of other - first; low and high, mean -+ t s / sqrt(n) with Student's t of
        n - 1 degrees of freedom and the differences' standard deviation s, are NaN where n is 1 or
        a difference is infinite.
    Source:
        Student, "The probable error of a mean", Biometrika 1908.
    """
    first, other = np.asarray(first, np.float64), np.asarray(other, np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf, of two exact pictures
        difference = np.where(first == other, 0.0, other - first)
        mean = float(difference.mean())
    n = difference.size
    if n < 2 or not np.isfinite(difference).all():
        return mean, np.nan, np.nan
    reach = student.ppf((1 + confidence) / 2, n - 1) * difference.std(ddof=1) / np.sqrt(n)
    return mean, float(mean - reach), float(mean + reach)


def comparison_rows(tables):
    """Each method's scores minus the first method's, for the metrics of COMPARED.

    Args:
        tables: {method: as from evaluate}, all of the same pictures.
    Returns:
        A list of lists of words, the first of them the header; a dash where there is no number.
    """
    rows = [["results", "metric", "mean", "low", "high", "won"]]
    (_, (first, _)), *others = tables.items()
    for method, (pictures, _) in others:
        for metric in COMPARED:
            pairs = [(first[name][metric], pictures[name][metric]) for name in first]
            numbers = paired_difference(*zip(*pairs))
            words = ["-" if np.isnan(value) else f"{value:+.4g}" for value in numbers]
            won = sum(mine > its for its, mine in pairs)
            rows.append([method, metric, *words, f"{won}/{len(pairs)}"])
    return rows


def print_table(rows):
    """Print rows, the header first, numbers to five significant digits."""
    print_lines(
        [rows[0]] + [[*row[:2], *(f"{value:.5g}" for value in row[2:])] for row in rows[1:]]
    )


def print_comparisons(tables):
    """Print how the methods after the first compare with it, and what the numbers are."""
    first, (scores, _) = next(iter(tables.items()))
    n, level = len(scores), f"{CONFIDENCE * 100:g} %"
    print(
        f"\nOther minus {first}, paired by scene (n = {n}): mean difference, low and high end\n"
        f"of its {level} confidence interval by Student's t, and in how many scenes the other\n"
        "scores higher (won)\n"
    )
    print_lines(comparison_rows(tables))


def print_lines(lines):
    """Print lists of words as columns, all but the first two set to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        words = [word.ljust(width) for word, width in zip(line[:2], widths)]
        words += [word.rjust(width) for word, width in zip(line[2:], widths[2:])]
        print("  ".join(words))


def main(argv=None):
    """Score and print."""
    args = get_parser().parse_args(argv)
    tables = {
        name: evaluate(match(folder, args.reference), args.gray, args.register, name)
        for name, folder in named_folders(args.results).items()
    }
    if args.stacks:
        answers = pictures_in(args.reference)
        stacks = [(stem, Path(args.stacks) / stem, path) for stem, path in answers.items()]
        name = "mean of the frames"
        if name in tables:
            raise StackError(f"--results has a folder named {name}, as --stacks has: rename it")
        tables[name] = evaluate(stacks, args.gray, args.register, name, mean_of_frames)
    rows = table_rows(tables)
    print_table(rows)
    if len(tables) > 1:
        print_comparisons(tables)
    if args.csv:
        write_csv(args.csv, rows)


if __name__ == "__main__":
    run_main(main)
