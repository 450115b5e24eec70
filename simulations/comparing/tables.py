"""The tables of a comparison for people: Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fedlora.differing import differences, value_words
from fedlora.privacy.shown import at_most
from fedlora.tasks.metric import LOSS, Metric
from simulations.comparing.paired import Interval, Pair
from simulations.comparing.rows import Row

Cells = Mapping[str, str]

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "ε": r"$\varepsilon$", "×": r"$\times$",
}  # fmt: skip


def cells(row: Row) -> dict[str, str]:
    """A row as text, by column. The loss has one of its own where it is not what runs are compared by."""
    error = "-" if row.aggregation_error_max is None else f"{row.aggregation_error_max:.1e}"
    score = f"{row.score:.4f}" + (f" ± {row.spread:.4f}" if row.seeds > 1 else "")
    epsilon = "-" if row.epsilon is None else at_most(row.epsilon)
    loss = {} if row.metric.name == LOSS.name else {LOSS.words: f"{row.loss:.4f}"}
    test_set = {} if row.standard_error is None else {"test set": f"{row.standard_error:.4f}"}
    return {
        "method": row.method, "setting": row.settings or "-", "seeds": str(row.seeds), row.metric.words: score,
        **test_set, "verdict": row.standing or "-", **loss, "agg. error": error, "MB up": f"{row.megabytes_up:.2f}",
        "MB down": f"{row.megabytes_down:.2f}", "ε": epsilon, "s": f"{row.seconds:.0f}",
    }  # fmt: skip


def pair_cells(pair: Pair, metric: Metric) -> dict[str, str]:
    """Two methods as text, by column."""
    return {
        "method": pair.one, "against": pair.other, "seeds": str(pair.seeds),
        metric.words: "-" if pair.difference is None else f"{pair.difference:+.4f}",
        "other examples": interval_words(pair.by_test_set), "other seeds": interval_words(pair.by_seeds),
        "better in": f"{pair.won} of {pair.seeds}", "the method is": pair.says,
    }  # fmt: skip


def interval_words(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval[0]:+.4f} to {interval[1]:+.4f}"


def side_by_side(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Every setting in which the recipes of the rows differ, with its value in each."""
    apart = differences([row.runs[0].recipe for row in rows])
    names = [row.method for row in rows]
    return [
        {"setting": setting, **{name: value_words(value) for name, value in zip(names, values, strict=True)}}
        for setting, values in apart.items()
    ]


def markdown(table: Sequence[Cells]) -> str:
    """Columns of the first row, and of every other what it has of them."""
    columns = columns_of(table)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row.get(name, "-").replace("|", "\\|") for name in columns) + " |" for row in table]
    return "\n".join(lines) + "\n"


def latex(table: Sequence[Cells]) -> str:
    """A tabular for the package booktabs."""
    columns = columns_of(table)
    lines = [r"\begin{tabular}{" + "l" * len(columns) + "}", r"\toprule"]
    lines += [" & ".join(map(escaped, columns)) + r" \\", r"\midrule"]
    lines += [" & ".join(escaped(row.get(name, "-")) for name in columns) + r" \\" for row in table]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def columns_of(table: Iterable[Cells]) -> list[str]:
    return list(dict.fromkeys(name for row in table for name in row))


def escaped(text: str) -> str:
    """
    >>> escaped("wire.codec=int4_x ± 5%")
    'wire.codec=int4\\\\_x $\\\\pm$ 5\\\\%'
    """
    return "".join(LATEX.get(character, character) for character in text)
