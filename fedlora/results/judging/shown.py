"""An evaluation as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedlora.results.judging.evaluation import Evaluated
from fedlora.results.judging.figures import Figure
from fedlora.tasks.metric import SHARE, Metric

WIDE = 12
"""Classes, at most, whose confusion is shown; the file of `--out` has it whole."""


def said(found: Evaluated) -> str:
    """In lines."""
    parts = figures_said(found), classes_said(found.more), entities_said(found.more), clients_said(found)
    return "\n".join(line for part in parts for line in part)


def figures_said(found: Evaluated) -> Iterator[str]:
    left = ", ".join(f"{count} with {why}" for why, count in found.left_out.items())
    yield f"{found.rows} row{'' if found.rows == 1 else 's'}" + (f"; left out: {left}" if left else "")
    for metric in found.metrics:
        if metric.name not in found.figures:
            continue
        line = f"{metric.title}: {number(found.figures[metric.name], metric)}"
        if found.base is not None and found.gained is not None:
            change = found.gained[metric.name]
            line += f"; base {number(found.base[metric.name], metric)}; difference {number(change, metric, sign='+')}"
        yield line


def number(found: Figure, metric: Metric, *, sign: str = "") -> str:
    """With one standard error.

    >>> number(Figure(0.8125, 0.025, 240), Metric("accuracy", unit=SHARE))
    '0.812 ± 0.025'
    """
    digits = ".3f" if metric.unit == SHARE else ".4g"
    unit = "" if metric.unit == SHARE else f" {metric.unit}".rstrip()
    error = "" if found.error is None else f" ± {found.error:.2g}"
    return f"{found.value:{sign}{digits}}{error}{unit}"


def classes_said(more: Mapping[str, Any]) -> Iterator[str]:
    """Of a task over classes."""
    if "classes" not in more:
        return
    yield ""
    of_each = {**more["classes"], "macro mean": more["macro"], "weighted mean": more["weighted"]}
    rows = [
        [name, *(f"{one[key]:.3f}" for key in ("precision", "recall", "f1")), str(one["rows"])]
        for name, one in of_each.items()
    ]
    yield from table([["class", "precision", "recall", "f1", "rows"], *rows])
    labels, counts = more["confusion"]["labels"], more["confusion"]["counts"]
    if len(labels) <= WIDE:
        yield ""
        yield from table(
            [["is \\ said", *labels], *([name, *map(str, row)] for name, row in zip(labels, counts, strict=True))]
        )
    yield ""
    yield f"Calibration error: {more['calibration_error']:.3f} (expected, 15 bins)"


def entities_said(more: Mapping[str, Any]) -> Iterator[str]:
    """Of a task over tags of words."""
    if "entities" not in more:
        return
    keys = ("precision", "recall", "f1")
    yield ""
    rows = [
        [name, *(with_error(one[key]) for key in keys), str(one["there"]), str(one["found"])]
        for name, one in more["entities"].items()
    ]
    yield from table([["entity", *keys, "there", "found"], *rows])


def with_error(found: Mapping[str, Any]) -> str:
    """A figure as JSON has it."""
    return f"{found['value']:.3f}" + ("" if found["stderr"] is None else f" ± {found['stderr']:.2g}")


def clients_said(found: Evaluated) -> Iterator[str]:
    if not found.by_client:
        return
    by = found.compare_by
    yield ""
    rows = [
        [name, number(own[by.name], by), str(own[by.name].rows), "worst" if name == found.worst else ""]
        for name, own in found.by_client.items()
    ]
    yield from table([["client", by.words, "rows", ""], *rows])


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()
