"""Buttons that control a run: each asks for confirmation, is written to the audit log, and is carried out by the run's
own loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from nicegui import Client, ui

from fedlora.settings import SettingsError
from server.dashboard.doors.access import Principal, Role
from server.dashboard.machine.download import newest_adapter
from server.dashboard.state import AppState
from server.runs import launch
from server.store.ordering import in_force, place_order
from server.store.reading import read_detail
from server.store.rows import RunRow, State


@dataclass(frozen=True)
class Action:
    """A button: the states in which it is offered, and what is said before it is done."""

    verb: str
    label: str
    states: tuple[State, ...]
    meaning: str
    harsh: bool = False


AT_WORK: tuple[State, ...] = ("waiting", "running")
ACTIONS = (
    Action("pause", "Pause", AT_WORK, "The current round is finished; then the run waits until it is resumed."),
    Action("resume", "Resume", ("paused",), "Rounds continue where they stopped."),
    Action(
        "export",
        "Export adapter",
        (*AT_WORK, "paused"),
        "The adapter of the last complete round is written to the run's folder before the next round.",
    ),
    Action(
        "stop",
        "Stop after this round",
        AT_WORK,
        "The current round is finished and saved; then the run ends. It can be resumed from its checkpoint.",
    ),
    Action(
        "stop-now",
        "Stop now",
        (*AT_WORK, "paused"),
        "The current round is discarded; privacy budget that sites spent on it remains spent. The run can be resumed "
        "from its checkpoint.",
        harsh=True,
    ),
)

GO_ON = Action(
    "go-on",
    "Resume from checkpoint",
    ("stopped", "failed", "died"),
    "It continues after its last complete round.",
)


def action_buttons(
    board: AppState, run: RunRow, sites: Callable[[], list[str]], after: Callable[[], Awaitable[None]]
) -> Callable[[RunRow], None]:
    """The buttons; returns what shows those that fit a run's state."""
    client = ui.context.client

    async def press(action: Action) -> None:
        if await confirmed(f"{action.label}: {run.name}?", action.meaning, action.label, harsh=action.harsh):
            await give(board, client, run, action.verb, after)

    async def choose_sites() -> None:
        excluded = await board.read(lambda connection: in_force(connection, run.id).excluded)
        site = await chosen_site(sorted({*sites(), *excluded}), excluded)
        if site is not None:
            await give(board, client, run, "include" if site in excluded else "exclude", after, argument=site)

    buttons = []
    for action in ACTIONS:
        button = ui.button(action.label, on_click=lambda action=action: press(action))
        buttons.append((button.props("outline" + (" color=negative" if action.harsh else "")), action.states))
    buttons.append((ui.button("Exclude a site", on_click=choose_sites).props("outline"), (*AT_WORK, "paused")))
    if board.pad is not None:
        buttons.append((ui.button(GO_ON.label, on_click=lambda: go_on(board, client, run, after)), GO_ON.states))
    download = ui.button("Download adapter", on_click=lambda: ui.download.from_url(f"/api/v1/runs/{run.run}/adapter"))
    download.props("outline")

    def show(now: RunRow) -> None:
        for button, states in buttons:
            button.set_visibility(now.state in states)
        download.set_visibility(newest_adapter(now) is not None)

    show(run)
    return show


async def give(
    board: AppState,
    client: Client,
    run: RunRow,
    verb: str,
    after: Callable[[], Awaitable[None]],
    *,
    argument: str | None = None,
) -> None:
    """Place an order in the name of whoever is logged in now, if their role still allows it."""
    principal = allowed(board, client)
    if principal is None:
        return
    try:
        await board.write(
            lambda connection: place_order(
                connection, run.id, verb, who=principal.name, at=time.time(), argument=argument
            )
        )
    except SettingsError as problem:
        ui.notify(str(problem), type="negative")
        return
    ui.notify(
        f"{verb} is recorded; the run carries it out within seconds, or at the end of its round.", type="positive"
    )
    await after()


async def go_on(board: AppState, client: Client, run: RunRow, after: Callable[[], Awaitable[None]]) -> None:
    """Resume a run that has ended, from its checkpoint."""
    if board.pad is None or not await confirmed(f"{GO_ON.label}: {run.name}?", GO_ON.meaning, GO_ON.label):
        return
    principal = allowed(board, client)
    if principal is None:
        return
    try:
        detail = await board.read(lambda connection: read_detail(connection, run))
        await asyncio.to_thread(launch.resume, board.pad, Path(run.folder), detail.recipe)
    except (SettingsError, OSError) as problem:
        ui.notify(str(problem), type="negative")
        return
    await board.audit(principal.name, "run-resumed", run=run.run)
    ui.notify("It continues as soon as it has loaded its model.", type="positive")
    await after()


def allowed(board: AppState, client: Client, role: Role = Role.OPERATOR) -> Principal | None:
    """The user of this page if their role covers `role`; otherwise None, after a message."""
    principal = board.doors.principal(client.request.headers)[0]
    if principal is None or not principal.role.covers(role):
        ui.notify(f"This needs the role {role.value}. Log in as a user with that role.", type="negative")
        return None
    return principal


async def confirmed(title: str, meaning: str, yes: str, *, harsh: bool = False) -> bool:
    """Ask the user for confirmation."""
    with ui.dialog() as dialog, ui.card().classes("dialog"):
        ui.label(title).classes("dialog-title")
        ui.label(meaning)
        with ui.row().classes("dialog-buttons"):
            ui.button("Cancel", on_click=lambda: dialog.submit(False)).props("flat autofocus")
            ui.button(yes, on_click=lambda: dialog.submit(True)).props("color=negative" if harsh else "")
    answer = await dialog
    dialog.delete()
    return bool(answer)


async def chosen_site(sites: list[str], excluded: frozenset[str]) -> str | None:
    """A site to exclude, or an excluded one to ask again."""
    with ui.dialog() as dialog, ui.card().classes("dialog"):
        ui.label("Exclude a site").classes("dialog-title")
        ui.label("From the next round on, the site gets no tasks. Choose an excluded site to include it again.")
        names = {site: f"{site} (excluded: include again)" if site in excluded else site for site in sites}
        field = ui.select(names, label="Site").props("outlined").classes("full")
        with ui.row().classes("dialog-buttons"):
            ui.button("Cancel", on_click=lambda: dialog.submit(None)).props("flat")
            ui.button("Confirm", on_click=lambda: dialog.submit(field.value))
    answer = await dialog
    dialog.delete()
    return None if answer is None else str(answer)
