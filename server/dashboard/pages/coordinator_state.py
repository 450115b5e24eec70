"""The coordinator's problems, shown above its runs; nothing if there are none."""

from __future__ import annotations

import time

from markupsafe import Markup

from server.dashboard.drawing.markup import Column, Row, moment, note, table
from server.dashboard.state import AppState
from server.deployment.said import LATE_S, Said, read_said

COLUMNS = (Column("Coordinator problem"), Column("Details"), Column("Since"))
NOT_UP = "The coordinator has not reported for minutes. Is `fedlora server up` running, and can it write to its disk?"


def said_by_coordinator(board: AppState) -> Said | None:
    """The coordinator's state, if its folder is on this machine."""
    settings = None if board.pad is None else board.pad.deployment
    return None if settings is None else read_said(settings.folder)


def trouble(said: Said | None, *, now: float | None = None) -> Markup:
    """A sentence if the coordinator does not report, and a line for every problem that it reports."""
    if said is None:
        return Markup("")
    at = time.time() if now is None else now
    silent = note(NOT_UP, "bad") if at - said.at > LATE_S else Markup("")
    rows = [
        Row(name, (name, condition.why or "", moment(condition.since)), "warn")
        for name, condition in said.wrong.items()
    ]
    return silent + (table("Problems of the coordinator", COLUMNS, rows, empty="") if rows else Markup(""))
