"""Options of evaluation: which pictures are scored, how, and where the tables go."""

from dataclasses import dataclass
from pathlib import Path

from stackmff.evaluation.indices import INDICES
from stackmff.evaluation.metrics import OPTIONAL_METRICS, metric_name
from stackmff.evaluation.scoring import BORDER, Scoring
from stackmff.options import Options, option

RESULTS = Path("results") / "benchmark"


@dataclass(frozen=True)
class PictureOptions(Options):
    """Which pictures are scored, and against what."""

    title = "pictures"

    results: tuple[str, ...] = option(
        (),
        help="folder of fused pictures; several, given as NAME=DIR, make one table",
        metavar="[NAME=]DIR",
    )
    reference: Path | None = option(
        None,
        help="folder of the answers, with the same names apart from the suffix (default: none, "
        "only indices that need no answers)",
        metavar="DIR",
    )
    stacks: Path | None = option(
        None,
        help="folder of the stacks: needed by --methods and --indices; the mean of each stack's "
        "frames is then scored too, which any method must beat",
        metavar="DIR",
    )


@dataclass(frozen=True)
class MethodOptions(Options):
    """Which methods fuse the stacks first."""

    title = "methods"

    methods: tuple[str, ...] = option(
        (),
        help="fuse the stacks with these methods of the toolbox, one after the other, and score "
        "the results; all, or available for those that can run on this machine",
        metavar="NAME[:OPTION=VALUE,...]",
    )
    iterative: bool = option(
        False,
        help="fuse pair after pair; the names of the methods then end in -iterative (default: all "
        "frames at once)",
    )
    output_dir: Path | None = option(
        None,
        help=f"folder of the fused pictures, with a folder for each method (default: {RESULTS})",
        metavar="DIR",
    )
    overwrite: bool = option(
        False, help="fuse all stacks, including those whose records show that nothing has changed"
    )


@dataclass(frozen=True)
class ScoreOptions(Options):
    """How pictures are scored."""

    title = "scores"

    gray: bool = option(False, help="score the luma instead of the colours (default: off)")
    register: bool = option(
        False,
        help="for stacks that were not aligned: first register each result with its answer, by an "
        f"affine map and a gain per channel, and leave out {BORDER} px of border (default: off)",
    )
    metrics: tuple[str, ...] = option(
        (),
        help=f"also score by {', '.join(OPTIONAL_METRICS)}, or by functions of yours, given as "
        "FILE.py:FUNCTION (default: none of them)",
        convert=metric_name,
        nargs="+",
        metavar="NAME",
    )
    indices: tuple[str, ...] | None = option(
        None,
        help=f"also score against the frames, without the answers: {', '.join(INDICES)}; all if "
        "none is named; slow (default: all without --reference, else none)",
        choices=tuple(INDICES),
        nargs="*",
        metavar="NAME",
    )
    workers: int | None = option(
        None, help="processes that score at a time (default: one per core)", low=1, metavar="N"
    )

    def scoring(self, with_answers: bool) -> Scoring:
        """What is computed of each picture.

        Args:
            with_answers: whether there are answers; without, all indices are the default.
        """
        names = self.indices
        if names is None and with_answers:
            names = ()
        else:
            names = names or tuple(INDICES)
        return Scoring(self.gray, self.register, self.metrics, names)


@dataclass(frozen=True)
class TableOptions(Options):
    """Which tables are made."""

    title = "tables"

    against: str | None = option(
        None,
        help="compare the others with this result, or with the best by PSNR (default: with the "
        "first)",
        metavar="NAME",
    )
    short: bool = option(
        False, help="print the mean scores of each result alone, not the scores of every scene"
    )
    csv: Path | None = option(None, help="also write the table there (default: no)", metavar="FILE")
    markdown: Path | None = option(
        None,
        help="also write a table there with a row for each result (default: no)",
        metavar="FILE",
    )
    html: Path | None = option(
        None,
        help="also write a page there that shows all pictures and their errors, with a folder "
        "FILE_files beside it (default: no)",
        metavar="FILE",
    )


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """All options of evaluate.py."""

    pictures: PictureOptions = PictureOptions()
    fusing: MethodOptions = MethodOptions()
    scores: ScoreOptions = ScoreOptions()
    tables: TableOptions = TableOptions()

    def contradiction(self) -> str | None:
        """Options that lack what they need."""
        pictures, fusing, scores, tables = self.pictures, self.fusing, self.scores, self.tables
        methods = bool(fusing.methods)
        wrong = {
            "give --results, --methods or both": not pictures.results and not methods,
            "--methods need --stacks to fuse": methods and not pictures.stacks,
            "give --reference, --stacks or both": not pictures.reference and not pictures.stacks,
            "--indices need --stacks": scores.indices is not None and not pictures.stacks,
            "--html needs a name that ends in .html": tables.html is not None
            and tables.html.suffix != ".html",
        }
        if not pictures.reference:
            wrong |= {
                "--gray needs --reference": scores.gray,
                "--register needs --reference": scores.register,
                "--metrics needs --reference": bool(scores.metrics),
                "--against needs --reference": tables.against is not None,
            }
        if not methods:
            wrong |= {
                "--iterative needs --methods": fusing.iterative,
                "--output_dir needs --methods": fusing.output_dir is not None,
                "--overwrite needs --methods": fusing.overwrite,
            }
        return next((sentence for sentence, is_wrong in wrong.items() if is_wrong), None)
