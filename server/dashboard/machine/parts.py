"""Shared parts of the API: the current user, run names, and errors."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, HTTPException, Path, Query

from fedlora.settings import SettingsError
from server.dashboard.doors.access import Principal, Role, require
from server.store.opening import Store
from server.store.reading import find_run
from server.store.rows import RunRow

LARGEST = 2**53  # what JSON's readers agree on

Name = Annotated[
    str, Path(description="Name, id, or the first characters of an id.", max_length=200, pattern=r"^[^\x00]+$")
]
Text = Annotated[str, Path(max_length=200, pattern=r"^[^\x00]+$")]
Filter = Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]+$")]
After = Annotated[int, Query(ge=0, le=LARGEST, description="Only rounds after this one.")]
Viewer = Annotated[Principal, Depends(require(Role.VIEWER))]
Operator = Annotated[Principal, Depends(require(Role.OPERATOR))]
Admin = Annotated[Principal, Depends(require(Role.ADMIN))]


class APIError(HTTPException):
    """A 4xx with a reason that a person can act on."""


def known(store: Store, name: str) -> RunRow:
    """The run of that name, or 404."""
    try:
        with store.reading() as connection:
            return find_run(connection, name)
    except SettingsError as problem:
        raise APIError(404, str(problem)) from None
