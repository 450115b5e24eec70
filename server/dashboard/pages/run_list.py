"""The list of runs: its columns, its order, and what it is found by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fedlora.differing import words
from fedlora.tasks.metric import Metric, shared
from server.dashboard.drawing.markup import Column, Row, link, moment, note, table
from server.dashboard.drawing.units import epsilon, figure, size
from server.dashboard.drawing.words import clients_of, progress, state_badge
from server.store.choosing import NEWEST_FIRST, set_apart
from server.store.rows import RunRow

EMPTY = "No run yet. Start one with `fedlora simulate six-airlines`, or with the button above."
AT_FIRST = 100
SORTED = {
    NEWEST_FIRST: "The newest first", "-score": "The largest score first", "score": "The smallest score first",
    "group": "By comparison", "method": "By method", "seed": "By seed", "-up": "The most sent up first",
    "-epsilon": "The largest ε first",
}  # fmt: skip
MORE = "{} more runs are not shown: filter by name, method, setting, strategy or state."


@dataclass
class Choice:
    """What a person has chosen on this page."""

    text: str = ""
    group: str | None = None
    """Only runs of this comparison."""
    sort: str = NEWEST_FIRST
    compared: tuple[str, ...] = ()
    most: int = AT_FIRST


def groups_of(runs: Iterable[RunRow]) -> list[str]:
    """Every comparison that has runs here, by name."""
    return sorted({run.group for run in runs if run.group is not None})


def title(run: RunRow) -> str:
    if run.group is None:
        return f"{run.name} · {run.strategy} · {run.run[:8]}"
    return f"{run.method or run.name} · seed {run.seed} · {run.run[:8]}"


def columns(metric: Metric | None) -> tuple[Column, ...]:
    return (
        Column("Run"),
        Column("State"),
        Column("Rounds"),
        Column("Strategy"),
        Column("Settings", hint="Changed of the recipe; in a comparison, where its runs differ"),
        Column("Seed", number=True),
        Column(score_of(metric), number=True, hint="On the coordinator's test set, after the last evaluated round"),
        Column("Sent up", number=True, hint="By all clients together"),
        Column("Sent down", number=True),
        Column("Worst ε", number=True, hint="The largest ε of any site in this run"),
        Column("Started"),
    )


def score_of(metric: Metric | None) -> str:
    """What runs are compared by, as a heading; one word for all where they are of several tasks."""
    return "Score" if metric is None else metric.title


def metric_of(runs: Iterable[RunRow]) -> Metric | None:
    """What all of them are compared by; None where they are of several tasks."""
    return shared(run.judged_by for run in runs)


def named_score(run: RunRow, value: float | None, metric: Metric | None) -> Markup:
    """With the metric's name where the heading, which is of `metric`, does not say it."""
    name = "" if value is None or metric is not None else run.judged_by.words
    return Markup("{}{}").format(figure(value, run.judged_by), Markup("<small>{}</small>").format(name) if name else "")


def run_table(runs: Sequence[RunRow], choice: Choice) -> Markup:
    if not runs:
        return note(EMPTY)
    wanted = [run for run in runs if choice.group in (None, run.group) and choice.text in found_by(run)]
    shown, metric, apart = wanted[: choice.most], metric_of(runs), set_apart(runs)
    text = table(
        f"All runs, {SORTED[choice.sort].lower()}",
        columns(metric),
        [run_row(run, metric, apart[run.run]) for run in shown],
        empty=f"No run has “{choice.text}” in its name, method, settings, strategy or state.",
    )
    more = len(wanted) - len(shown)
    return text + (note(MORE.format(more)) if more else Markup(""))


def found_by(run: RunRow) -> str:
    """What the text filter looks through."""
    one_of = f"{run.group or ''} {run.method or ''} {words(run.changed or {})}"
    return f"{run.name} {run.strategy} {run.state} {run.run} {one_of}".lower()


def run_row(run: RunRow, metric: Metric | None, apart: Mapping[str, Any]) -> Row:
    name = link(f"/run/{run.run}", run.name if run.group is None else run.method or run.name)
    kind = Markup("<small>{} · {}</small>").format(run.group or run.kind, run.run[:8])
    state = state_badge(run) + Markup("<small>{}</small>").format(run.reason or clients_of(run))
    spent = epsilon(run.epsilon_max)
    insecure = Markup("<small>insecure noise</small>") if run.insecure else Markup("")
    cells = (
        name + kind,
        state,
        progress(run),
        run.strategy,
        words(apart) or "-",
        "-" if run.seed is None else str(run.seed),
        named_score(run, run.score, metric),
        size(run.bytes_up),
        size(run.bytes_down),
        Markup("{}{}").format(spent, insecure),
        moment(run.started_at),
    )
    return Row(run.run, cells, "bad" if run.insecure else "plain")
