"""How far fusing in bf16 is from fp32 on whole data sets: the picture, and its score."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import stackmff
from stackmff.errors import StackError
from stackmff.evaluation.metrics import psnr
from stackmff.evaluation.tables import Words, as_word, markdown_table, print_lines
from stackmff.files import write_text
from stackmff.images.folders import ANSWER_FOLDER, by_stem, find_stacks, list_pictures
from stackmff.images.formats import read_picture
from stackmff.options import Options, add_options, option, parse
from stackmff.processes import run_main
from stackmff.shipped import WEIGHTS

# What is asked of the precision that is the default.
MOST_MEAN, MOST_OFF, MOST_LOSS = 0.25, 0.005, 0.02  # levels of 255, share of the values, dB


@dataclass(frozen=True)
class PrecisionOptions(Options):
    """What tools.compare_precisions is told."""

    data: tuple[Path, ...] = option(
        help="data sets; one with answers in AiF is scored, too", metavar="DIR"
    )
    model_path: Path = option(
        WEIGHTS, help="checkpoint, or an export to OpenVINO (default: %(default)s)", metavar="FILE"
    )
    align: bool = option(False, help="align the frames, as real stacks want it (default: no)")
    markdown: Path | None = option(
        None, help="also write the table there as Markdown (default: no)", metavar="FILE"
    )


def get_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare_precisions",
        description=__doc__,
        epilog="Ends with exit status 1 if the pictures of a set differ by more than "
        f"{MOST_MEAN} levels on average or by more than one level in {MOST_OFF:.1%} of the values, "
        f"or if bf16 costs more than {MOST_LOSS} dB.",
    )
    add_options(parser, PrecisionOptions)
    return parser


class Difference(NamedTuple):
    """What bf16 changes of a picture.

    Attributes:
        mean: absolute difference, in levels of 255.
        off: share of the values that differ by more than one level.
        scores: PSNR in bf16 and in fp32, dB; None without an answer.
    """

    mean: float
    off: float
    scores: tuple[float, float] | None


def difference(
    coarse: np.ndarray, exact: np.ndarray, answer: np.ndarray | None = None
) -> Difference:
    """Compare pictures (H, W, C) of one integer dtype, with an answer of that dtype."""
    peak = float(np.iinfo(exact.dtype).max)
    change = np.abs(coarse.astype(np.float32) - exact) * np.float32(255 / peak)
    scores = None
    if answer is not None:
        scores = psnr(coarse, answer, peak), psnr(exact, answer, peak)
    return Difference(float(change.mean()), float((change > 1.001).mean()), scores)


def compare_set(folder: Path, options: PrecisionOptions) -> dict[str, Difference]:
    """{stack: Difference} of a data set.

    Raises:
        StackError: it holds no stacks, or one cannot be fused.
    """
    stacks = find_stacks(folder)
    answers: Mapping[str, Path] = {}
    if (folder / ANSWER_FOLDER).is_dir():
        answers = by_stem(list_pictures(folder / ANSWER_FOLDER))
    found = {}
    for name, stack in tqdm(stacks.items(), desc=folder.name, disable=None):
        coarse, exact = (
            stackmff.fuse(
                stack,
                model_path=options.model_path,
                align="auto" if options.align else "off",
                device="cpu",
                precision=precision,
            ).picture
            for precision in ("bf16", "fp32")
        )
        answer = read_picture(answers[name]) if name in answers else None
        if answer is not None and (answer.shape, answer.dtype) != (exact.shape, exact.dtype):
            raise StackError(
                f"{answers[name]} is {answer.shape} {answer.dtype}, its fused stack {exact.shape} "
                f"{exact.dtype}: give answers as the frames are"
            )
        found[name] = difference(coarse, exact, answer)
    return found


def row_of(name: str, found: Sequence[Difference]) -> list[str]:
    """The means over a set, and its worst stack."""
    scores = np.array([one.scores for one in found if one.scores is not None]).reshape(-1, 2)
    means = scores.mean(0) if len(scores) else (None, None)
    return [
        name,
        str(len(found)),
        as_word(float(np.mean([one.mean for one in found])), ".3f"),
        as_word(max(one.mean for one in found), ".3f"),
        as_word(100 * float(np.mean([one.off for one in found])), ".3f"),
        as_word(100 * max(one.off for one in found), ".3f"),
        *(as_word(value, ".3f") for value in means),
    ]


HEADER = ["set", "n", "mean", "worst", "off %", "worst %", "PSNR bf16", "PSNR fp32"]


def is_within(found: Sequence[Difference]) -> bool:
    """Whether a set keeps the bounds that the default precision has."""
    losses = [exact - coarse for coarse, exact in (one.scores for one in found if one.scores)]
    return (
        float(np.mean([one.mean for one in found])) <= MOST_MEAN
        and float(np.mean([one.off for one in found])) <= MOST_OFF
        and (not losses or float(np.mean(losses)) <= MOST_LOSS)
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print."""
    (options,) = parse(get_parser(), argv, PrecisionOptions)
    sets = {folder.resolve().name: compare_set(folder, options) for folder in options.data}
    rows: Words = [HEADER, *(row_of(name, list(found.values())) for name, found in sets.items())]
    print_lines(rows, left=1)
    if options.markdown:
        write_text(options.markdown, markdown_table(rows))
    return 0 if all(is_within(list(found.values())) for found in sets.values()) else 1


if __name__ == "__main__":
    run_main(main)
