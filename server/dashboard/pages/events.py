"""Events: the audit log, filtered, checked, exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fastapi import Request
from markupsafe import Markup
from nicegui import ui
from sqlalchemy import Connection

from server.dashboard.drawing.live import Html, Live
from server.dashboard.drawing.markup import Column, Row, link, moment, note, table
from server.dashboard.pages.shell import page
from server.dashboard.state import AppState
from server.store.audit import event_kinds, read_events, verify_events
from server.store.rows import EventRow

PAGE = 100
COLUMNS = (Column("Entry"), Column("At"), Column("What"), Column("Who"), Column("Run"), Column("Particulars"))
EXPORT = "/api/v1/events/export"


@dataclass(frozen=True)
class Shown:
    """What the page shows."""

    events: tuple[EventRow, ...]
    kinds: tuple[str, ...]


@dataclass
class Choice:
    """What a person filters by; `before` is where an older page begins."""

    kind: str | None = None
    who: str | None = None
    run: str | None = None
    before: int | None = None
    verdict: Markup = field(default_factory=Markup)


async def show(board: AppState, request: Request) -> None:
    choice = Choice(run=request.query_params.get("run") or None)

    def read(connection: Connection) -> Shown:
        events = read_events(
            connection, kind=choice.kind, who=choice.who, run=choice.run, before=choice.before, limit=PAGE
        )
        return Shown(tuple(events), tuple(event_kinds(connection)))

    async def check() -> None:
        problem = await board.read(verify_events)
        choice.verdict = (
            note("The chain is intact: no line was changed, removed or added.", "good")
            if problem is None
            else note(f"The log cannot be trusted: {problem}.", "bad")
        )
        await live.again()

    async def older() -> None:
        if live.value.events:
            choice.before = live.value.events[-1].sequence
            await live.again()

    async def newest() -> None:
        choice.before = None
        await live.again()

    first = await board.read(read)
    with page(request, "Events", here="/events"):
        live = Live(board, lambda: board.read(read), first)
        with ui.element("div").classes("heading"):
            Html(Markup("<h1>Events</h1><p>Who did what. Each line contains the hash of the line before it.</p>"))
            with ui.element("div").classes("actions"):
                ui.button("Check the chain", on_click=check).props("outline")
                ui.button("Export", on_click=lambda: ui.download.from_url(EXPORT, "fedlora-events.jsonl")).props(
                    "outline"
                )
        live.html(lambda value: choice.verdict, classes="alert")
        with ui.element("section").classes("card").props('aria-label="Audit log"'):
            filters(live, choice)
            live.html(lambda value: event_table(value.events))
            with ui.element("div").classes("tools"):
                ui.button("Older", on_click=older).props("flat")
                ui.button("Newest", on_click=newest).props("flat")


def filters(live: Live[Shown], choice: Choice) -> None:
    async def changed() -> None:
        choice.kind, choice.before = kind.value or None, None
        choice.who, choice.run = (who.value or "").strip() or None, (run.value or "").strip() or None
        await live.again()

    with ui.element("div").classes("tools"):
        kind = ui.select(list(live.value.kinds), label="What", value=None, clearable=True, on_change=changed)
        kind.props("dense outlined")
        who = ui.input("Who", on_change=changed).props('dense outlined clearable debounce="300"')
        run = ui.input("Run", value=choice.run or "", on_change=changed).props(
            'dense outlined clearable debounce="300"'
        )

    def fresh(value: Shown) -> None:
        if list(value.kinds) != kind.options:
            kind.set_options(list(value.kinds), value=kind.value)

    live.call(fresh)


def event_table(events: Sequence[EventRow]) -> Markup:
    return table(
        "The audit log, newest first",
        COLUMNS,
        map(event_row, events),
        empty="No matching events. Clear the filters to see all.",
    )


def event_row(row: EventRow) -> Row:
    particulars = ", ".join(f"{name} {value}" for name, value in row.fields.items() if value is not None)
    cells = (
        Markup("{} <code>{}</code>").format(row.sequence, row.digest[:12]),
        moment(row.at),
        row.kind,
        row.who,
        link(f"/run/{row.run}", row.run[:8]) if row.run else "",
        particulars,
    )
    return Row(str(row.sequence), cells)
