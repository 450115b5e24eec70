"""The page of one run: quality, cost, clients, and why some did not train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fastapi import HTTPException, Request
from markupsafe import Markup
from nicegui import ui
from sqlalchemy import Connection

from fedlora.settings import SettingsError
from fedlora.tasks.metric import LOSS
from server.dashboard.doors.access import Role
from server.dashboard.drawing.live import Html, Live
from server.dashboard.drawing.run_charts import bytes_chart, error_chart, loss_chart, quality_chart, timeline_chart
from server.dashboard.pages import run_parts as parts
from server.dashboard.pages.run_actions import action_buttons
from server.dashboard.pages.shell import PageContext, page
from server.dashboard.state import AppState
from server.store.reading import (
    find_run,
    log_tail,
    read_client_rounds,
    read_detail,
    read_failures,
    read_orders,
    read_rounds,
    read_run_sites,
    verdict_of,
)
from server.store.rows import ClientRoundRow, FailureRow, OrderRow, RoundRow, RunDetail, RunRow, RunSiteRow

LOG_LINES = 200


@dataclass(frozen=True)
class Shown:
    """What the page shows."""

    run: RunRow
    rounds: tuple[RoundRow, ...]
    cells: tuple[ClientRoundRow, ...]
    sites: tuple[RunSiteRow, ...]
    failures: tuple[FailureRow, ...]
    orders: tuple[OrderRow, ...]
    log: tuple[str, ...] | None
    standing: str | None
    verdict: tuple[str, ...]


@dataclass
class Seen:
    """Rounds that were read before: a page that is open for hours reads only what is new."""

    rounds: list[RoundRow] = field(default_factory=list)
    cells: list[ClientRoundRow] = field(default_factory=list)

    def follow(self, connection: Connection, run: RunRow) -> None:
        """Read the rounds after those that were seen. A run that went back is read again from its first round."""
        last = self.rounds[-1].round - 1 if self.rounds else 0
        new = read_rounds(connection, run, after=last)
        if self.rounds and (not new or new[0] != self.rounds[-1]):
            self.rounds, self.cells, last = [], [], 0
            new = read_rounds(connection, run)
        elif self.rounds:
            new, last = new[1:], last + 1
        if new:
            self.rounds += new
            self.cells += read_client_rounds(connection, run, after=last)


async def show(board: AppState, request: Request, name: str) -> None:
    seen = Seen()

    def read(connection: Connection) -> Shown:
        run = find_run(connection, name)
        seen.follow(connection, run)
        log = log_tail(run, lines=LOG_LINES)
        return Shown(
            run,
            tuple(seen.rounds),
            tuple(seen.cells),
            tuple(read_run_sites(connection, run)),
            tuple(read_failures(connection, run)),
            tuple(read_orders(connection, run)),
            None if log is None else tuple(log),
            *verdict_of(run),
        )

    def opened(connection: Connection) -> tuple[Shown, RunDetail]:
        value = read(connection)
        return value, read_detail(connection, value.run)

    try:
        first, detail = await board.read(opened)
    except SettingsError as problem:
        raise HTTPException(404, str(problem)) from None
    with page(request, first.run.name, here="/") as visit:
        live = Live(board, lambda: board.read(read), first)
        with ui.element("div").classes("heading"):
            live.html(lambda value: parts.heading(value.run))
            if visit.principal.role.covers(Role.OPERATOR):
                with ui.element("div").classes("actions"):
                    names = lambda: [site.site for site in live.value.sites]  # noqa: E731
                    buttons = action_buttons(board, first.run, names, live.refresh)
                    live.call(lambda value: buttons(value.run))
        live.html(lambda value: parts.alerts(value.run), classes="alert")
        live.html(lambda value: parts.summary(value.run, value.sites))
        live.html(lambda value: parts.verdict(value.standing, value.verdict))
        charts(live, visit, detail)
        people(live, visit)
        with card("Commands"):
            live.html(lambda value: parts.order_table(value.orders))
        with card("Details"):
            Html(parts.made_with(first.run, detail))
        with card("Log"):
            live.html(lambda value: parts.log_of(value.log))


@contextmanager
def card(title: str) -> Iterator[None]:
    with ui.element("section").classes("card").props(f'aria-label="{title}"'):
        Html(Markup("<h2>{}</h2>").format(title))
        yield


def charts(live: Live[Shown], visit: PageContext, detail: RunDetail) -> None:
    colours, metric = visit.colours, live.value.run.judged_by
    with ui.element("div").classes("two"):
        if metric.name != LOSS.name:
            with card(metric.title):
                live.chart(
                    lambda value: quality_chart(colours, value.rounds, value.cells, metric),
                    label=f"{metric.title} by round",
                )
        with card("Loss"):
            live.chart(lambda value: loss_chart(colours, value.rounds, value.cells), label="Loss by round")
        with card("Bytes against dense factors"):
            live.chart(lambda value: bytes_chart(colours, value.rounds, detail.dense_bytes), label="Megabytes by round")
        with card("Aggregation error"):
            live.chart(lambda value: error_chart(colours, value.rounds), label="Aggregation error by round")


def people(live: Live[Shown], visit: PageContext) -> None:
    with card("Clients by round"):
        live.chart(
            lambda value: timeline_chart(visit.colours, value.cells),
            label="Outcome of every client in every round; the table below gives the reasons when a client did not "
            "train",
            classes="chart tall",
        )
    with card("Clients"):
        live.html(lambda value: parts.client_table(value.sites, value.run.judged_by))
    with card("Why clients did not train"):
        live.html(lambda value: parts.failure_table(value.failures))
