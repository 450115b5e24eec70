"""The page of all runs, active and ended, with a comparison of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastapi import Request
from markupsafe import Markup
from nicegui import ui
from sqlalchemy import Connection

from server.dashboard.doors.access import Role
from server.dashboard.drawing.charts import Line, lines
from server.dashboard.drawing.live import Chart, Html, Live
from server.dashboard.drawing.markup import Column, Figure, Row, figures, link, table
from server.dashboard.drawing.run_charts import axis_of, scale_of
from server.dashboard.drawing.theme import Palette
from server.dashboard.drawing.units import epsilon, error, number, saving, size
from server.dashboard.pages.coordinator_state import said_by_coordinator, trouble
from server.dashboard.pages.run_list import (
    SORTED,
    Choice,
    groups_of,
    metric_of,
    named_score,
    run_table,
    score_of,
    title,
)
from server.dashboard.pages.shell import PageContext, page
from server.dashboard.state import AppState
from server.deployment.said import Said
from server.store.choosing import ALL, NEWEST_FIRST
from server.store.reading import read_rounds, read_runs
from server.store.rows import RoundRow, RunRow

MOST_COMPARED = 6


@dataclass(frozen=True)
class Shown:
    """What the page shows."""

    runs: tuple[RunRow, ...]
    compared: tuple[tuple[RunRow, tuple[RoundRow, ...]], ...]
    said: Said | None = None
    """The coordinator's report about itself."""


async def show(board: AppState, request: Request) -> None:
    choice = Choice()

    def read(connection: Connection) -> Shown:
        runs = tuple(read_runs(connection, choice=replace(ALL, sort=choice.sort)))
        wanted = [run for run in runs if run.run in choice.compared]
        compared = tuple((run, tuple(read_rounds(connection, run))) for run in wanted)
        return Shown(runs, compared, said_by_coordinator(board))

    first = await board.read(read)
    with page(request, "Runs", here="/") as visit:
        live = Live(board, lambda: board.read(read), first)
        with ui.element("div").classes("heading"):
            Html(Markup("<h1>Runs</h1>"))
            if visit.principal.role.covers(Role.OPERATOR):
                with ui.element("div").classes("actions"):
                    ui.button("Start a run", on_click=lambda: ui.navigate.to("/start"))
        live.html(lambda value: trouble(value.said))
        live.html(lambda value: summary(value.runs))
        with ui.element("section").classes("card").props('aria-label="All runs"'):
            filters(live, choice)
            live.html(lambda value: run_table(value.runs, choice))
        comparison(live, choice, visit)


def filters(live: Live[Shown], choice: Choice) -> None:
    """A text field, one comparison, the order, and the runs to draw together."""

    async def changed() -> None:
        choice.text = (field.value or "").strip().lower()
        choice.group, choice.sort = group.value, order.value
        choice.compared = tuple(chosen.value or ())[:MOST_COMPARED]
        await live.again()

    with ui.element("div").classes("tools"):
        field = ui.input("Filter", on_change=changed).props('dense outlined clearable debounce="200"')
        group = ui.select(groups_of(live.value.runs), label="Comparison", on_change=changed)
        group.props("dense outlined clearable").classes("choice")
        order = ui.select(SORTED, label="Order", value=NEWEST_FIRST, on_change=changed)
        order.props("dense outlined").classes("choice")
        options = {run.run: title(run) for run in live.value.runs}
        chosen = ui.select(options, label="Compare", multiple=True, value=[], on_change=changed)
        chosen.props(f'dense outlined use-chips max-values="{MOST_COMPARED}" class="grow"').classes("compare")

    def fresh(value: Shown) -> None:
        wanted = {run.run: title(run) for run in value.runs}
        if wanted != chosen.options:
            chosen.set_options(wanted, value=chosen.value)
        if (groups := groups_of(value.runs)) != group.options:
            group.set_options(groups, value=group.value)
        group.set_visibility(bool(groups))

    live.call(fresh)
    fresh(live.value)


def summary(runs: Sequence[RunRow]) -> Markup:
    active = [run for run in runs if run.active]
    broken = [run for run in runs if run.state in ("failed", "died", "lost")]
    spent = [run.epsilon_max for run in runs if run.epsilon_max is not None]
    insecure = any(run.insecure for run in runs)
    waiting = sum(run.state == "waiting" for run in runs)
    return figures(
        [
            Figure(
                "Running",
                str(len(active)),
                f"{waiting} waiting for sites" if waiting else "",
                "warn" if waiting else "plain",
            ),
            Figure("Finished", str(sum(run.state == "finished" for run in runs)), f"of {len(runs)}"),
            Figure("Broken", str(len(broken)), "see the list below" if broken else "", "bad" if broken else "plain"),
            Figure("Sent up", size(sum(run.bytes_up for run in runs)), saving_of(runs)),
            Figure(
                "Worst ε of a run",
                epsilon(max(spent, default=None)),
                "some noise is insecure" if insecure else "",
                "bad" if insecure else "plain",
            ),
        ]
    )


def saving_of(runs: Sequence[RunRow]) -> str:
    known = [run for run in runs if run.dense_up]
    if not known:
        return ""
    return f"{saving(sum(run.bytes_up for run in known), sum(run.dense_up or 0 for run in known))} than dense factors"


def comparison(live: Live[Shown], choice: Choice, visit: PageContext) -> None:
    """Chosen runs side by side; nothing while none is chosen."""
    with ui.element("section").classes("card").props('aria-label="Comparison"') as card:
        Html(Markup("<h2>Compared</h2>"))
        live.html(lambda value: compared_table(value))
        score = score_of(metric_of(live.value.runs))
        with ui.element("div").classes("two"):
            live.chart(lambda value: by_round(visit.colours, value), label=f"{score} by round of the compared runs")
            live.chart(
                lambda value: by_bytes(visit.colours, value), label=f"{score} by megabytes sent up of the compared runs"
            )
    card.bind_visibility_from(choice, "compared", backward=bool)


def compared_table(value: Shown) -> Markup:
    metric = metric_of(run for run, _ in value.compared)
    headings = (
        Column("Run"),
        Column("Rounds", number=True),
        Column(score_of(metric), number=True),
        Column("Best", number=True),
        Column("Loss (nats)", number=True),
        Column("Largest aggregation error", number=True),
        Column("Sent up", number=True),
        Column("Against dense", number=True),
        Column("Worst ε", number=True),
    )
    rows = [
        Row(
            run.run,
            (
                link(f"/run/{run.run}", title(run)),
                str(run.rounds),
                named_score(run, run.score, metric),
                named_score(run, run.best_score, metric),
                number(run.loss),
                error(run.aggregation_error_max),
                size(run.bytes_up),
                saving(run.bytes_up, run.dense_up),
                epsilon(run.epsilon_max),
            ),
        )
        for run, _ in value.compared
    ]
    return table("Compared runs", headings, rows, empty="Choose runs to compare above.")


def by_round(colours: Palette, value: Shown) -> Chart:
    metric = metric_of(run for run, _ in value.compared)
    scale = scale_of(metric)
    drawn = [
        Line(title(run), [(row.round, scale * row.score) for row in rounds if row.score is not None])
        for run, rounds in value.compared
    ]
    return lines(colours, drawn, axis_of(metric))


def by_bytes(colours: Palette, value: Shown) -> Chart:
    metric = metric_of(run for run, _ in value.compared)
    drawn = []
    for run, rounds in value.compared:
        sent, points = 0, []
        for row in rounds:
            sent += row.bytes_up
            if row.score is not None:
                points.append((round(sent / 1e6, 4), scale_of(metric) * row.score))
        drawn.append(Line(title(run), points))
    return lines(colours, drawn, axis_of(metric), x="MB sent up")
