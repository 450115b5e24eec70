"""The columns of `fedlora runs list`: which there are, and what stands in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fedlora.differing import words
from fedlora.settings import SettingsError
from fedlora.tasks.metric import Metric, shared
from server.commands.written import day, number, printable
from server.store.choosing import set_apart
from server.store.rows import RunRow

MIXED = "score"
"""Heading over the scores of several tasks."""

SCORE, SETTINGS = "score", "settings"

CELLS: dict[str, Callable[[RunRow], str]] = {
    "run": lambda run: printable(run.name),
    "id": lambda run: run.run[:8],
    "state": lambda run: run.state,
    "group": lambda run: printable(run.group or "-"),
    "method": lambda run: printable(run.method or "-"),
    SETTINGS: lambda run: printable(words(run.changed or {})) or "-",
    "seed": lambda run: "-" if run.seed is None else str(run.seed),
    "strategy": lambda run: run.strategy,
    "rounds": lambda run: f"{run.rounds}/{run.total_rounds}",
    SCORE: lambda run: number(run.score, ".4f"),
    "best": lambda run: number(run.best_score, ".4f"),
    "loss": lambda run: number(run.loss, ".4f"),
    "MB up": lambda run: f"{run.bytes_up / 1e6:.2f}{_share(run)}",
    "MB down": lambda run: f"{run.bytes_down / 1e6:.2f}",
    "error": lambda run: number(run.aggregation_error_max, ".1e"),
    "worst ε": lambda run: number(run.epsilon_max, ".2f") + (" INSECURE" if run.insecure else ""),
    "seconds": lambda run: f"{run.seconds:.0f}",
    "begun": lambda run: day(run.started_at) + ("" if run.eta_at is None else f", done {day(run.eta_at)}"),
    "folder": lambda run: printable(run.folder),
}

OF_ONE = ("run", "id", "state", "strategy", "rounds", SCORE, "MB up", "worst ε", "begun")
OF_SEVERAL = (
    "run", "id", "state", "group", "method", SETTINGS, "seed", "strategy", "rounds", SCORE, "MB up", "worst ε", "begun",
)  # fmt: skip
"""Where comparisons are among them."""

LEFT_OUT_FIRST = ("strategy", "worst ε", "MB up", "begun", SCORE)
FIRST_OF_SEVERAL = (
    "id", "strategy", "worst ε", "begun", "MB up", "rounds", "group", "state", SETTINGS, "method", "seed",
)  # fmt: skip


def listed(runs: Sequence[RunRow], asked: Sequence[str] | None) -> tuple[list[str], list[list[str]], Sequence[str]]:
    """Headings, rows, and what is left out first where they are too wide; SettingsError for an unknown column.

    Of the settings of runs of one comparison, those in which the listed ones differ.
    """
    several = any(run.group for run in runs)
    names = asked or (OF_SEVERAL if several else OF_ONE)
    if unknown := [name for name in names if name not in CELLS]:
        raise SettingsError(f"--columns {unknown[0]!r}: choose from {', '.join(CELLS)}.")
    metric, apart = shared(run.judged_by for run in runs), set_apart(runs)
    rows = []
    for run in runs:
        own = {SETTINGS: printable(words(apart[run.run])) or "-", SCORE: CELLS[SCORE](run) + _named(run, metric)}
        rows.append([own[name] if name in own else CELLS[name](run) for name in names])
    first = () if asked else FIRST_OF_SEVERAL if several else LEFT_OUT_FIRST
    return [_heading(name, runs) for name in names], rows, [_heading(name, runs) for name in first]


def heading_of(runs: Iterable[RunRow]) -> str:
    """What they are compared by, in few letters: "acc." for accuracy."""
    metric = shared(run.judged_by for run in runs)
    return MIXED if metric is None else " ".join(w if len(w) <= 5 else f"{w[:3]}." for w in metric.words.split())


def _heading(name: str, runs: Sequence[RunRow]) -> str:
    return heading_of(runs) if name == SCORE else name


def _share(run: RunRow) -> str:
    """Of what whole float32 factors would have cost."""
    return f" ({run.bytes_up / run.dense_up:.0%})" if run.dense_up else ""


def _named(run: RunRow, metric: Metric | None) -> str:
    """The name of what it is compared by, where the heading does not say it."""
    return "" if metric is not None or run.score is None else f" {run.judged_by.words}"
