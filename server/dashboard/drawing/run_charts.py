"""The charts of one run, as pure functions of its rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from fedlora.tasks.metric import LOSS, SHARE, Metric
from server.dashboard.drawing.charts import Axis, Cell, Line, bars, lines, timeline
from server.dashboard.drawing.live import Chart
from server.dashboard.drawing.theme import Palette
from server.dashboard.drawing.units import duration, size
from server.store.rows import ClientRoundRow, RoundRow

FEW_SITES = 6
"""Up to this many sites have a line each; with more, only the lowest and the highest are drawn."""
LAST_ROUNDS = 100
"""Rounds in the timeline."""
MANY_CELLS = 2000
"""Above this many marks, only clients that did not train have a tooltip with details."""


def quality_chart(
    colours: Palette, rounds: Sequence[RoundRow], cells: Sequence[ClientRoundRow], metric: Metric
) -> Chart:
    """What the task is compared by: the coordinator's, the clients' mean, and the clients'."""
    scale = scale_of(metric)
    drawn = [
        Line("coordinator's test set", _known(rounds, "score", scale=scale)),
        Line("mean of clients", _known(rounds, "client_score", scale=scale), dashed=True),
    ]
    return lines(colours, [*filled(drawn), *by_client(cells, "score", scale=scale)], axis_of(metric))


def axis_of(metric: Metric | None) -> Axis:
    """The axis of its values times `scale_of`; of several metrics together an axis without a unit."""
    if metric is None:
        return Axis("score")
    return Axis(f"{metric.words} ({metric.unit})" if metric.unit else metric.words, metric.unit)


def scale_of(metric: Metric | None) -> float:
    return 100.0 if metric is not None and metric.unit == SHARE else 1.0


def loss_chart(colours: Palette, rounds: Sequence[RoundRow], cells: Sequence[ClientRoundRow]) -> Chart:
    drawn = [
        Line("coordinator's test set", _known(rounds, "loss")),
        Line("mean of clients", _known(rounds, "client_loss"), dashed=True),
        Line("training", _known(rounds, "train_loss"), dashed=True),
    ]
    return lines(colours, [*filled(drawn), *by_client(cells, "loss")], axis_of(LOSS))


def error_chart(colours: Palette, rounds: Sequence[RoundRow]) -> Chart:
    points = [(row.round, max(row.aggregation_error, 1e-17)) for row in rounds if row.aggregation_error is not None]
    return lines(colours, filled([Line("‖ideal − served‖ / ‖ideal‖", points)]), Axis("relative error", log=True))


def bytes_chart(colours: Palette, rounds: Sequence[RoundRow], dense_bytes: int | None) -> Chart:
    """Megabytes of every round, and what dense float32 factors would have taken."""
    dense = None if dense_bytes is None else dense_bytes / 1e6
    return bars(
        colours,
        [row.round for row in rounds],
        {"up": [row.bytes_up / 1e6 for row in rounds], "down": [row.bytes_down / 1e6 for row in rounds]},
        {}
        if dense is None
        else {
            "up, dense": [dense * row.trained for row in rounds],
            "down, dense": [dense * row.asked for row in rounds],
        },
        unit="MB",
    )


def timeline_chart(colours: Palette, cells: Sequence[ClientRoundRow]) -> Chart:
    """A mark per client and round, of the last rounds."""
    newest = max((cell.round for cell in cells), default=0)
    shown = [cell for cell in cells if cell.round > newest - LAST_ROUNDS]
    brief = len(shown) >= MANY_CELLS
    marks = [
        Cell(cell.round, cell.site, cell.outcome, cell.site if brief and cell.outcome == "trained" else said(cell))
        for cell in shown
    ]
    sites = sorted({cell.site for cell in shown})
    return timeline(colours, marks, sites, sorted({cell.round for cell in shown}))


def said(cell: ClientRoundRow) -> str:
    """One client in one round, in words."""
    who = f"{cell.site}, round {cell.round}: {cell.outcome}"
    if cell.outcome == "trained":
        return f"{who} in {duration(cell.seconds)}, sent {size(cell.bytes_up)}"
    return f"{who}: {cell.code}" if cell.code else who


def by_client(cells: Sequence[ClientRoundRow], measure: str, *, scale: float = 1.0) -> list[Line]:
    """A thin line a site, or the lowest and the highest where there are many."""
    found: dict[str, list[tuple[float, float | None]]] = defaultdict(list)
    for cell in cells:
        value = getattr(cell, measure)
        if value is not None:
            found[cell.site].append((cell.round, scale * value))
    if len(found) <= FEW_SITES:
        return [Line(site, found[site], thin=True) for site in sorted(found)]
    of_round: dict[float, list[float]] = defaultdict(list)
    for points in found.values():
        for number, value in points:
            if value is not None:
                of_round[number].append(value)
    rounds = sorted(of_round)
    return [
        Line("lowest client", [(number, min(of_round[number])) for number in rounds], thin=True),
        Line("highest client", [(number, max(of_round[number])) for number in rounds], thin=True),
    ]


def filled(drawn: Sequence[Line]) -> list[Line]:
    """The lines that have points: the legend names only these."""
    return [line for line in drawn if line.points]


def _known(rounds: Sequence[RoundRow], measure: str, *, scale: float = 1.0) -> list[tuple[float, float | None]]:
    return [(row.round, scale * value) for row in rounds if (value := getattr(row, measure)) is not None]
