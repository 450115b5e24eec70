"""The page of all runs, active and ended, with a comparison of several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastapi import Request
from markupsafe import Markup
from nicegui import ui
from sqlalchemy import Connection

from fedlora.tasks.metric import Metric, shared
from server.dashboard.doors.access import Role
from server.dashboard.drawing.charts import Line, lines
from server.dashboard.drawing.live import Chart, Html, Live
from server.dashboard.drawing.markup import Column, Figure, Row, figures, link, moment, note, table
from server.dashboard.drawing.run_charts import axis_of, scale_of
from server.dashboard.drawing.theme import Palette
from server.dashboard.drawing.units import epsilon, error, figure, number, saving, size
from server.dashboard.drawing.words import clients_of, progress, state_badge
from server.dashboard.pages.coordinator_state import said_by_coordinator, trouble
from server.dashboard.pages.shell import PageContext, page
from server.dashboard.state import AppState
from server.deployment.said import Said
from server.store.reading import read_rounds, read_runs
from server.store.rows import RoundRow, RunRow

EMPTY = "No run yet. Start one with `fedlora simulate six-airlines`, or with the button above."
AT_FIRST = 100
MOST_COMPARED = 6


@dataclass(frozen=True)
class Shown:
    """What the page shows."""

    runs: tuple[RunRow, ...]
    compared: tuple[tuple[RunRow, tuple[RoundRow, ...]], ...]
    said: Said | None = None
    """The coordinator's report about itself."""


@dataclass
class Choice:
    """What a person has chosen on this page."""

    text: str = ""
    compared: tuple[str, ...] = ()
    most: int = AT_FIRST


async def show(board: AppState, request: Request) -> None:
    choice = Choice()

    def read(connection: Connection) -> Shown:
        runs = tuple(read_runs(connection))
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
    """A text field, and the runs to compare."""

    async def changed() -> None:
        choice.text = (field.value or "").strip().lower()
        choice.compared = tuple(chosen.value or ())[:MOST_COMPARED]
        await live.again()

    with ui.element("div").classes("tools"):
        field = ui.input("Filter", on_change=changed).props('dense outlined clearable debounce="200"')
        options = {run.run: title(run) for run in live.value.runs}
        chosen = ui.select(options, label="Compare", multiple=True, value=[], on_change=changed)
        chosen.props(f'dense outlined use-chips max-values="{MOST_COMPARED}" class="grow"').classes("compare")

    def fresh(value: Shown) -> None:
        wanted = {run.run: title(run) for run in value.runs}
        if wanted != chosen.options:
            chosen.set_options(wanted, value=chosen.value)

    live.call(fresh)


def title(run: RunRow) -> str:
    return f"{run.name} · {run.strategy} · {run.run[:8]}"


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


def columns(metric: Metric | None) -> tuple[Column, ...]:
    return (
        Column("Run"),
        Column("State"),
        Column("Rounds"),
        Column("Strategy"),
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
    wanted = [run for run in runs if choice.text in f"{run.name} {run.strategy} {run.state} {run.run}".lower()]
    shown, metric = wanted[: choice.most], metric_of(runs)
    text = table(
        "All runs, the newest first",
        columns(metric),
        [run_row(run, metric) for run in shown],
        empty=f"No run has “{choice.text}” in its name, strategy or state.",
    )
    more = len(wanted) - len(shown)
    return text + (note(f"{more} older runs are not shown: filter by name, strategy or state.") if more else Markup(""))


def run_row(run: RunRow, metric: Metric | None) -> Row:
    name = link(f"/run/{run.run}", run.name)
    kind = Markup("<small>{} · {}</small>").format(run.kind, run.run[:8])
    state = state_badge(run) + Markup("<small>{}</small>").format(run.reason or clients_of(run))
    spent = epsilon(run.epsilon_max)
    insecure = Markup("<small>insecure noise</small>") if run.insecure else Markup("")
    cells = (
        name + kind,
        state,
        progress(run),
        run.strategy,
        named_score(run, run.score, metric),
        size(run.bytes_up),
        size(run.bytes_down),
        Markup("{}{}").format(spent, insecure),
        moment(run.started_at),
    )
    return Row(run.run, cells, "bad" if run.insecure else "plain")


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
