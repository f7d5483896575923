"""Tables of scores: scene by scene, paired differences, ranks, and how well indices rank.

A method is whatever produced a set of fused pictures, be it a folder of another program's results.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stackmff.evaluation.indices import INDICES, rank_correlation
from stackmff.files import write_text

Table = dict[str, dict[str, float]]  # {scene: {column: score}} of one method
Tables = dict[str, Table]  # {method: Table}, all of the same scenes and columns
Costs = dict[str, dict[str, dict[str, Any]]]  # {method: {scene: {"seconds", "MiB"}}}, where known
Words = list[list[str]]  # a table as it is printed, the header first

COMPARED = ("PSNR", "SSIM")  # columns that rank methods where there are answers; larger is better

# Columns that rank without answers: the two indices whose ranks agree best with those of the
# answers; by `correlation_rows` 0.4 on rendered scenes. Q_MI is close, but ranks the mean of the
# frames first.
TRUSTED = ("Q_W", "Qabf")
COSTS = {"seconds": ".3g", "MiB": ".0f"}  # their formats
CONFIDENCE = 0.95
LEAST_METHODS = 4  # for a correlation of ranks


def columns_of(tables: Tables) -> list[str]:
    """The names of the scores."""
    return list(next(iter(next(iter(tables.values())).values())))


def scenes_of(tables: Tables) -> list[str]:
    """The names of the scenes."""
    return list(next(iter(tables.values())))


def means(scenes: Table) -> dict[str, float]:
    """{column: mean over the scenes that have it, which a diagnostic may not have in all}."""
    rows = list(scenes.values())
    return {column: mean_of([row[column] for row in rows]) for column in rows[0]}


def mean_of(scores: Sequence[float]) -> float:
    """The mean of those that are numbers; NaN where none is."""
    known = [score for score in scores if not np.isnan(score)]
    return float(np.mean(known)) if known else float("nan")


def cost_columns(costs: Costs) -> list[str]:
    """The columns of COSTS for which any method has a number."""
    cells = [cell for scenes in costs.values() for cell in scenes.values()]
    return [name for name in COSTS if any(cell[name] is not None for cell in cells)]


def table_rows(tables: Tables, costs: Costs | None = None) -> list[list[Any]]:
    """Rows (method, scene, a number per column) of all tables, the means at the end.

    Returns:
        A list of lists, the first of them the header; numbers are floats, None where unknown.
    """
    names = cost_columns(costs or {})

    def spent(method: str, scene: str) -> list[float | None]:
        cell = (costs or {}).get(method, {}).get(scene, {})
        return [cell.get(name) for name in names]

    rows: list[list[Any]] = [["results", "picture", *columns_of(tables), *names]]
    for method, scenes in tables.items():
        rows += [
            [method, scene, *scores.values(), *spent(method, scene)]
            for scene, scores in scenes.items()
        ]
    for method, scenes in tables.items():
        spent_here = [spent(method, scene) for scene in scenes]
        total = [mean_if_known(cells) for cells in zip(*spent_here)]
        rows.append([method, "MEAN", *means(scenes).values(), *total])
    return rows


def mean_if_known(numbers: Sequence[float | None]) -> float | None:
    """The mean of some numbers; None if one of them is unknown."""
    known = [number for number in numbers if number is not None]
    return float(np.mean(known)) if known and len(known) == len(numbers) else None


def paired_difference(
    first: Sequence[float], other: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    """The mean difference of two lists of scores of the same scenes, and its interval.

    Args:
        first, other: (n,) scores with the scenes in the same order, n >= 1; two infinite ones are
            equal.
        confidence: level of the interval, in (0, 1).
    Returns:
        (mean, low, high) of other - first. low and high are mean -+ t s / sqrt(n), with Student's t
        of n - 1 degrees of freedom and the standard deviation s of the differences; NaN where n is
        1 or a difference is infinite.
    Source:
        Student, "The probable error of a mean", Biometrika 1908.
    """
    from scipy.stats import t as student  # takes a second to load

    mine, its = np.asarray(first, np.float64), np.asarray(other, np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf, of two exact pictures
        difference = np.where(mine == its, 0.0, its - mine)
        mean = float(difference.mean())
    n = difference.size
    if n < 2 or not np.isfinite(difference).all():
        return mean, float("nan"), float("nan")
    reach = student.ppf((1 + confidence) / 2, n - 1) * difference.std(ddof=1) / np.sqrt(n)
    return mean, float(mean - reach), float(mean + reach)


def column_of(table: Table, scenes: Iterable[str], column: str) -> list[float]:
    """One column of a table, with the scenes in the order given."""
    return [table[scene][column] for scene in scenes]


def paired_scores(
    tables: Tables, method: str, other: str, column: str
) -> tuple[list[float], list[float]]:
    """(scores of `method`, scores of `other`) in one column, with the scenes in the same order."""
    scenes = scenes_of(tables)
    return column_of(tables[method], scenes, column), column_of(tables[other], scenes, column)


def best_method(tables: Tables, column: str) -> str:
    """The method with the largest mean in a column."""
    return max(tables, key=lambda method: means(tables[method])[column])


def comparison_rows(tables: Tables, against: str | None = None) -> Words:
    """Each method's scores minus those of one of them, for the columns of COMPARED.

    Args:
        tables: of the scores.
        against: the method that the others are compared with; None: the first.
    Returns:
        Words; a dash where there is no number.
    """
    against = next(iter(tables)) if against is None else against
    rows = [["results", "metric", "mean", "low", "high", "won"]]
    for method in tables:
        for column in COMPARED if method != against else ():
            first, other = paired_scores(tables, against, method, column)
            words = [as_word(value, "+.4g") for value in paired_difference(first, other)]
            won = sum(mine > its for its, mine in zip(first, other))
            rows.append([method, column, *words, f"{won}/{len(first)}"])
    return rows


def ranked_columns(columns: Iterable[str]) -> list[str]:
    """The columns by which methods are ranked."""
    columns = list(columns)
    trusted = [name for name in COMPARED if name in columns]
    return trusted or [name for name in TRUSTED if name in columns] or columns


def average_ranks(tables: Tables, columns: Iterable[str]) -> dict[str, float]:
    """The rank of each method, 1 the best, averaged over scenes and columns.

    Args:
        tables: of the scores.
        columns: those that count; larger is better except for an index whose direction is -1.
    Returns:
        {method: rank}; equal scores share the mean of their ranks, and all ranks are NaN if a score
        is.
    """
    from scipy.stats import rankdata  # takes a second to load

    ranks = []
    for scene in scenes_of(tables):
        for column in columns:
            scores = np.array([scenes[scene][column] for scenes in tables.values()])
            ranks.append(rankdata(-direction(column) * scores))
    return dict(zip(tables, np.mean(ranks, axis=0).tolist()))


def direction(column: str) -> int:
    """+1 where larger is better, -1 where smaller is; for the columns of COMPARED and INDICES."""
    return INDICES[column].direction if column in INDICES else 1


def correlation_rows(tables: Tables) -> Words:
    """How closely each index ranks the methods as the answers do.

    Returns:
        Words: Spearman's correlation over the methods, averaged over the scenes, of each index with
        each of COMPARED; [] without indices, without answers or with fewer than LEAST_METHODS
        methods.
    """
    columns = columns_of(tables)
    truths = [name for name in COMPARED if name in columns]
    names = [name for name in columns if name in INDICES]
    if not truths or not names or len(tables) < LEAST_METHODS:
        return []

    scenes = scenes_of(tables)

    def numbers(column: str) -> np.ndarray:  # (scenes, methods), larger is better
        scores = [column_of(table, scenes, column) for table in tables.values()]
        return direction(column) * np.array(scores).T

    rows = [["index", *(f"with {truth}" for truth in truths)]]
    for name in names:
        found = [rank_correlation(numbers(name), numbers(truth)) for truth in truths]
        rows.append([name, *(as_word(value, "+.2f") for value in found)])
    return rows


def summary_rows(tables: Tables, costs: Costs | None = None, against: str | None = None) -> Words:
    """One row per method: n, means, difference in PSNR, rank, seconds, MiB; see `explanation`.

    Args:
        tables: of the scores.
        costs: of the methods.
        against: the method that the PSNR is compared with; None: the first.
    """
    costs = costs or {}
    against = next(iter(tables)) if against is None else against
    columns, spent = columns_of(tables), cost_columns(costs)
    first = ranked_columns(columns)
    others = [name for name in columns if name not in first]
    compared = COMPARED[0] in columns and len(tables) > 1
    ranks = average_ranks(tables, first) if len(tables) > 1 else {}
    header = ["method", "n", *first]
    header += [f"{COMPARED[0]} minus {against}"] * compared + ["rank"] * bool(ranks)
    rows = [header + spent + others]
    for method, scenes in tables.items():
        scores = {name: as_word(value, "#.4g") for name, value in means(scenes).items()}
        row = [method, str(len(scenes)), *(scores[name] for name in first)]
        if compared:
            row.append(difference_word(tables, against, method))
        if ranks:
            row.append(as_word(ranks[method], ".2f"))
        row += [as_word(cost_of(costs.get(method, {}), name), COSTS[name]) for name in spent]
        rows.append(row + [scores[name] for name in others])
    return rows


def cost_of(cells: Mapping[str, Mapping[str, Any]], name: str) -> float | None:
    """The mean of a method's seconds, or the largest of its MiB; None where unknown."""
    numbers = [cell[name] for cell in cells.values()]
    mean = mean_if_known(numbers)
    return max(numbers) if name == "MiB" and mean is not None else mean


def difference_word(tables: Tables, against: str, method: str) -> str:
    """The difference in PSNR and its interval, such as "+0.77 (+0.43 to +1.10)"."""
    if method == against:
        return "-"
    first, other = paired_scores(tables, against, method, COMPARED[0])
    mean, low, high = (as_word(value, "+.2f") for value in paired_difference(first, other))
    return mean if low == "-" else f"{mean} ({low} to {high})"


def as_word(value: float | None, form: str) -> str:
    """A number in a format; a dash for None and NaN."""
    return "-" if value is None or np.isnan(value) else f"{value:{form}}"


def explanation(tables: Tables, costs: Costs | None = None) -> str:
    """What the columns of `summary_rows` are, in one line."""
    columns, spent = columns_of(tables), cost_columns(costs or {})
    parts = ["n: number of scenes; scores are means over them"]
    if len(tables) > 1 and COMPARED[0] in columns:
        parts.append(
            f"difference in dB, paired by scene, with its {CONFIDENCE * 100:g} % confidence "
            "interval by Student's t"
        )
    if len(tables) > 1:
        parts.append(
            f"rank: 1 is the best, mean over scenes and {', '.join(ranked_columns(columns))}, "
            "ties share their mean rank"
        )
    if "seconds" in spent:
        parts.append("seconds: mean time to fuse one stack, without reading and writing")
    if "MiB" in spent:
        parts.append(
            "MiB: peak memory of the method's process, including Python, libraries and frames, "
            "excluding GPU memory"
        )
    return "; ".join(parts) + "."


CORRELATION_TITLE = (
    "How closely each index ranks the methods as the answers do: Spearman's rank correlation over "
    "the methods, mean over the scenes (1: the same order, 0: unrelated)"
)


def markdown_table(rows: Words) -> str:
    """A Markdown table, all but its first column right-aligned; it ends with a line feed."""
    lines = [
        "| " + " | ".join(" ".join(w.replace("|", "\\|").split()) for w in row) + " |"
        for row in rows
    ]
    lines.insert(1, "|---" + "|---:" * (len(rows[0]) - 1) + "|")
    return "\n".join(lines) + "\n"


def write_markdown(
    path: Path,
    tables: Tables,
    costs: Costs | None = None,
    against: str | None = None,
    correlations: Words | None = None,
) -> None:
    """Write the summary, what its columns are, and the correlations if there are any."""
    text = markdown_table(summary_rows(tables, costs, against))
    text += f"\n{explanation(tables, costs)}\n"
    if correlations:
        text += f"\n{CORRELATION_TITLE}:\n\n{markdown_table(correlations)}"
    write_text(path, text)


def page_tables(
    tables: Tables,
    costs: Costs | None = None,
    against: str | None = None,
    correlations: Words | None = None,
) -> list[tuple[str, Words, str]]:
    """The same for a page: a list of (heading, Words, what the columns are)."""
    rows = summary_rows(tables, costs, against)
    parts = [("Scores", rows, explanation(tables, costs))]
    if correlations:
        parts.append(("Indices compared with answers", correlations, f"{CORRELATION_TITLE}."))
    return parts


def print_table(rows: list[list[Any]]) -> None:
    """Print the rows of `table_rows`, numbers to five significant digits."""
    print_lines(
        [rows[0]] + [[*row[:2], *(as_word(value, ".5g") for value in row[2:])] for row in rows[1:]]
    )


def print_comparisons(tables: Tables, against: str | None = None) -> None:
    """Print how the other methods compare with one, and what the numbers are."""
    against = next(iter(tables)) if against is None else against
    n, level = len(scenes_of(tables)), f"{CONFIDENCE * 100:g} %"
    print(
        f"\nOther minus {against}, paired by scene (n = {n}): mean difference, low and high end\n"
        f"of its {level} confidence interval by Student's t, and in how many scenes the other\n"
        "scores higher (won)\n"
    )
    print_lines(comparison_rows(tables, against))


def print_summary(tables: Tables, costs: Costs | None = None, against: str | None = None) -> None:
    """Print the row of each method and what its columns are."""
    print()
    print_lines(summary_rows(tables, costs, against), left=1)
    print(f"\n{explanation(tables, costs)}")


def print_correlations(rows: Words) -> None:
    """Print the rows of `correlation_rows` and what they are."""
    print(f"\n{CORRELATION_TITLE}\n")
    print_lines(rows, left=1)


def print_lines(lines: Words, left: int = 2) -> None:
    """Print words in columns, all but the first `left` of them right-aligned."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        words = [word.ljust(width) for word, width in zip(line[:left], widths)]
        words += [word.rjust(width) for word, width in zip(line[left:], widths[left:])]
        print("  ".join(words))
