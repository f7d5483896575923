"""Tables of scores: scene by scene, paired differences, ranks, and what indices are worth.

`tables` is everywhere {method: {scene: {column: score}}}, all methods of the same scenes and
columns; `costs` {method: {scene: {"seconds", "MiB"}}} of those methods whose costs are known.
"""

import numpy as np
from scipy.stats import rankdata
from scipy.stats import t as student

from stackmff.evaluation.indices import INDICES, rank_correlation
from stackmff.files import write_text

COMPARED = ("PSNR", "SSIM")  # columns with an answer by which methods are ranked, larger is better

# Columns without one: the two of the indices whose ranks follow those of the answers most, by
# `correlation_rows` 0.4 on rendered scenes. Q_MI comes near, and likes the mean of the frames best.
TRUSTED = ("Q_W", "Qabf")
COSTS = {"seconds": ".3g", "MiB": ".0f"}  # how they are written
CONFIDENCE = 0.95
LEAST_METHODS = 4  # for a correlation of ranks


def columns_of(tables):
    """The names of the scores."""
    return list(next(iter(next(iter(tables.values())).values())))


def scenes_of(tables):
    """The names of the scenes."""
    return list(next(iter(tables.values())))


def means(scenes):
    """{column: mean over the scenes} of {scene: {column: number}}."""
    rows = list(scenes.values())
    return {column: float(np.mean([row[column] for row in rows])) for column in rows[0]}


def cost_columns(costs):
    """Those of COSTS that any method has a number for."""
    cells = [cell for scenes in costs.values() for cell in scenes.values()]
    return [name for name in COSTS if any(cell[name] is not None for cell in cells)]


def table_rows(tables, costs=None):
    """Rows (method, scene, one number a column) of all tables, the means at the end.

    Returns:
        A list of lists, the first of them the header; numbers are floats, None where there is none.
    """
    names = cost_columns(costs or {})

    def spent(method, scene):
        cell = (costs or {}).get(method, {}).get(scene, {})
        return [cell.get(name) for name in names]

    rows = [["results", "picture", *columns_of(tables), *names]]
    for method, scenes in tables.items():
        rows += [
            [method, scene, *scores.values(), *spent(method, scene)]
            for scene, scores in scenes.items()
        ]
    for method, scenes in tables.items():
        spent_here = [spent(method, scene) for scene in scenes]
        total = [None if None in cells else float(np.mean(cells)) for cells in zip(*spent_here)]
        rows.append([method, "MEAN", *means(scenes).values(), *total])
    return rows


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


def paired_scores(tables, method, other, column):
    """(scores of `method`, scores of `other`) in one column, each (n,) in one order of scenes."""
    scenes = scenes_of(tables)
    return tuple([tables[name][scene][column] for scene in scenes] for name in (method, other))


def best_method(tables, column):
    """The method of the largest mean in a column."""
    return max(tables, key=lambda method: means(tables[method])[column])


def comparison_rows(tables, against=None):
    """Each method's scores minus those of one of them, for the columns of COMPARED.

    Args:
        against: the method that the others are compared with; None: the first.
    Returns:
        A list of lists of words, the first of them the header; a dash where there is no number.
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


def ranked_columns(columns):
    """Those of the columns by which methods are ranked."""
    trusted = [name for name in COMPARED if name in columns]
    return trusted or [name for name in TRUSTED if name in columns] or list(columns)


def average_ranks(tables, columns):
    """The rank of each method, 1 the best, on average over scenes and columns.

    Args:
        columns: those that count; larger is better but for an index whose direction is -1.
    Returns:
        {method: rank}; methods of one score share the mean of their ranks, and all ranks are NaN
        where a score is.
    """
    ranks = []
    for scene in scenes_of(tables):
        for column in columns:
            scores = np.array([scenes[scene][column] for scenes in tables.values()])
            ranks.append(rankdata(-direction(column) * scores))
    return dict(zip(tables, np.mean(ranks, axis=0).tolist()))


def direction(column):
    """+1 where a larger score is better, -1 where a smaller one is; of COMPARED and INDICES."""
    return INDICES[column].direction if column in INDICES else 1


def correlation_rows(tables):
    """How far each index ranks the methods as the answers do.

    Returns:
        A list of lists of words, the first of them the header: Spearman's correlation over the
        methods, averaged over the scenes, of each index with each of COMPARED; [] where there are
        no indices, no answers or fewer methods than LEAST_METHODS.
    """
    columns = columns_of(tables)
    truths = [name for name in COMPARED if name in columns]
    names = [name for name in columns if name in INDICES]
    if not truths or not names or len(tables) < LEAST_METHODS:
        return []

    def numbers(column):  # (scenes, methods), larger is better
        scores = [
            [table[scene][column] for table in tables.values()] for scene in scenes_of(tables)
        ]
        return direction(column) * np.array(scores)

    rows = [["index", *(f"with {truth}" for truth in truths)]]
    for name in names:
        found = [rank_correlation(numbers(name), numbers(truth)) for truth in truths]
        rows.append([name, *(as_word(value, "+.2f") for value in found)])
    return rows


def summary_rows(tables, costs=None, against=None):
    """One row of words for each method: n, means, difference of PSNR, rank, seconds, MiB.

    Args:
        against: the method that the PSNR is compared with; None: the first.
    Returns:
        A list of lists of words, the first of them the header; see `explanation`.
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


def cost_of(cells, name):
    """Of one method: the mean of the seconds, the largest of the MiB; None where unknown."""
    numbers = [cell[name] for cell in cells.values()]
    if not numbers or None in numbers:
        return None
    return max(numbers) if name == "MiB" else float(np.mean(numbers))


def difference_word(tables, against, method):
    """The difference of PSNR and its interval, such as "+0.77 (+0.43 to +1.10)"."""
    if method == against:
        return "-"
    first, other = paired_scores(tables, against, method, COMPARED[0])
    mean, low, high = (as_word(value, "+.2f") for value in paired_difference(first, other))
    return mean if low == "-" else f"{mean} ({low} to {high})"


def as_word(value, form):
    """A number in a format; a dash for None and NaN."""
    return "-" if value is None or np.isnan(value) else f"{value:{form}}"


def explanation(tables, costs=None):
    """What the columns of `summary_rows` are, in one line."""
    columns, spent = columns_of(tables), cost_columns(costs or {})
    parts = ["n: scenes; scores are means over them"]
    if len(tables) > 1 and COMPARED[0] in columns:
        parts.append(
            f"difference in dB, paired by scene, with its {CONFIDENCE * 100:g} % confidence "
            "interval by Student's t"
        )
    if len(tables) > 1:
        parts.append(
            f"rank: 1 is the best, mean over scenes and {', '.join(ranked_columns(columns))}, "
            "ties share"
        )
    if "seconds" in spent:
        parts.append("seconds: fusing one stack, mean, without reading and writing")
    if "MiB" in spent:
        parts.append(
            "MiB: the most memory of the method's process, with Python, libraries and frames, "
            "without a GPU's"
        )
    return "; ".join(parts) + "."


CORRELATION_TITLE = (
    "How far each index ranks the methods as the answers do: Spearman's rank correlation over the "
    "methods, mean over the scenes (1: the same order, 0: none)"
)


def markdown_table(rows):
    """Rows of words, the header first, as a Markdown table, all but the first column to the right.

    Args:
        rows: a list of lists of words.
    Returns:
        The table's text, which ends with its last line.
    """
    lines = [
        "| " + " | ".join(" ".join(w.replace("|", "\\|").split()) for w in row) + " |"
        for row in rows
    ]
    lines.insert(1, "|---" + "|---:" * (len(rows[0]) - 1) + "|")
    return "\n".join(lines) + "\n"


def write_markdown(path, tables, costs=None, against=None, correlations=()):
    """Write the summary, what its columns are, and the correlations if there are any."""
    text = markdown_table(summary_rows(tables, costs, against))
    text += f"\n{explanation(tables, costs)}\n"
    if correlations:
        text += f"\n{CORRELATION_TITLE}:\n\n{markdown_table(correlations)}"
    write_text(path, text)


def page_tables(tables, costs=None, against=None, correlations=()):
    """The same for a page: a list of (heading, rows of words, what the columns are)."""
    rows = summary_rows(tables, costs, against)
    parts = [("Scores", rows, explanation(tables, costs))]
    if correlations:
        parts.append(("Indices beside answers", correlations, f"{CORRELATION_TITLE}."))
    return parts


def print_table(rows):
    """Print rows, the header first, numbers to five significant digits."""
    print_lines(
        [rows[0]] + [[*row[:2], *(as_word(value, ".5g") for value in row[2:])] for row in rows[1:]]
    )


def print_comparisons(tables, against=None):
    """Print how the other methods compare with one, and what the numbers are."""
    against = next(iter(tables)) if against is None else against
    n, level = len(scenes_of(tables)), f"{CONFIDENCE * 100:g} %"
    print(
        f"\nOther minus {against}, paired by scene (n = {n}): mean difference, low and high end\n"
        f"of its {level} confidence interval by Student's t, and in how many scenes the other\n"
        "scores higher (won)\n"
    )
    print_lines(comparison_rows(tables, against))


def print_summary(tables, costs=None, against=None):
    """Print the row of each method and what its columns are."""
    print()
    print_lines(summary_rows(tables, costs, against), left=1)
    print(f"\n{explanation(tables, costs)}")


def print_correlations(rows):
    """Print the rows of `correlation_rows` and what they are."""
    print(f"\n{CORRELATION_TITLE}\n")
    print_lines(rows, left=1)


def print_lines(lines, left=2):
    """Print lists of words as columns, all but the first `left` set to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        words = [word.ljust(width) for word, width in zip(line[:left], widths)]
        words += [word.rjust(width) for word, width in zip(line[left:], widths[left:])]
        print("  ".join(words))
