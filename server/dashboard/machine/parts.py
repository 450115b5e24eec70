"""What every part of the API needs: who asks, the answer's one connection, the run, and how something is refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from fastapi import Depends, HTTPException, Path, Query, Request
from pydantic import Field
from sqlalchemy import Connection

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
Where = Annotated[
    Sequence[Annotated[str, Field(max_length=200, pattern=r"^[^\x00]+$")]],
    Query(max_length=20, description="key=value, as of `fedlora runs list --where`."),
]
After = Annotated[int, Query(ge=0, le=LARGEST, description="Only rounds after this one.")]
Viewer = Annotated[Principal, Depends(require(Role.VIEWER))]
Operator = Annotated[Principal, Depends(require(Role.OPERATOR))]
Admin = Annotated[Principal, Depends(require(Role.ADMIN))]


class APIError(HTTPException):
    """A 4xx with a reason that a person can act on."""


def store_of(request: Request) -> Store:
    """The store that the API stands on (`add_api`)."""
    store: Store = request.app.state.store
    return store


Opened = Annotated[Store, Depends(store_of)]


def reading(store: Opened) -> Iterator[Connection]:
    with store.reading() as connection:
        yield connection


def writing(store: Opened) -> Iterator[Connection]:
    with store.writing() as connection:
        yield connection


# An answer has one connection and one transaction, so that its parts fit each other, and gives them back before it is
# sent: whoever reads slowly holds none. Whoever asks comes before it among a route's parameters, and is refused first.
Reading = Annotated[Connection, Depends(reading, scope="function")]
Writing = Annotated[Connection, Depends(writing, scope="function")]


def known(connection: Connection, name: str) -> RunRow:
    """The run of that name, or 404."""
    try:
        return find_run(connection, name)
    except SettingsError as problem:
        raise APIError(404, str(problem)) from None


def run_to_read(connection: Reading, name: Name) -> RunRow:
    return known(connection, name)


def run_to_change(connection: Writing, name: Name) -> RunRow:
    return known(connection, name)


ReadRun = Annotated[RunRow, Depends(run_to_read)]
ChangedRun = Annotated[RunRow, Depends(run_to_change)]
