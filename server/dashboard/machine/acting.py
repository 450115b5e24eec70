"""The part of the API that steers, starts and removes runs and hands out their adapters, for operators and admins."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from server.dashboard.doors.access import Principal
from server.dashboard.machine.download import newest_adapter, packed
from server.dashboard.machine.parts import Admin, APIError, ChangedRun, Opened, Operator, Viewer, Writing
from server.runs import launch
from server.runs.planning import PlanError
from server.store.audit import append_event
from server.store.ordering import Verb, place_order
from server.store.reading import read_detail
from server.store.removing import remove_run
from server.store.rows import OrderRow

MOST_CHARS = 100_000
NOWHERE = (
    "this dashboard cannot start runs: its store is not in a coordinator's folder, and it was started "
    "without --allow-simulations. Use `fedlora server run` or `fedlora simulate` at a terminal."
)

routes = APIRouter()


class Planned(BaseModel):
    """Request to plan a run."""

    model_config = ConfigDict(extra="forbid")

    recipe: str = Field(max_length=MOST_CHARS)
    """YAML."""
    examples: int = Field(1000, ge=1, le=10**12)
    """Training examples of a site, for its ε: those that its test part leaves."""


class NewRun(BaseModel):
    """Request to start a run."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=200)
    recipe: str = Field(max_length=MOST_CHARS)
    """YAML."""


class Started(BaseModel):
    """A run that starts as soon as its model is loaded; then it is listed in /runs."""

    name: str
    folder: str


class NewOrder(BaseModel):
    """A command to a run."""

    model_config = ConfigDict(extra="forbid")

    action: Verb = Field(validation_alias=AliasChoices("action", "verb"))
    """`verb` is its former name, read for one version more."""
    site: str | None = Field(None, min_length=1, max_length=200, pattern=r"^[^\x00]+$")
    """For exclude and include."""


def require_pad(request: Request) -> launch.RunLauncher:
    """Where runs are started (`add_api`), or 409."""
    pad: launch.RunLauncher | None = request.app.state.pad
    if pad is None:
        raise APIError(409, NOWHERE)
    return pad


Launcher = Annotated[launch.RunLauncher, Depends(require_pad)]


@routes.get("/recipes")
def recipes(who: Viewer) -> dict[str, str]:
    """The packaged recipes, as YAML."""
    return launch.packaged_recipes()


@routes.post("/plan")
def plan(who: Operator, pad: Launcher, asked: Planned) -> launch.Plan:
    """Validate a recipe, and say what the run would send and spend; nothing is started."""
    try:
        return launch.planned(pad, launch.read_recipe(asked.recipe), examples=asked.examples)
    except PlanError as problem:
        raise APIError(409, str(problem)) from None


@routes.post("/runs", status_code=201)
def start(who: Operator, store: Opened, pad: Launcher, new: NewRun) -> Started:
    """Start a run under a new name: a simulation, or a submission where the folder of runs is a coordinator's."""
    recipe = launch.read_recipe(new.recipe)
    try:
        folder = launch.start(pad, recipe, name=new.name)
    except OSError as error:
        raise APIError(409, f"the run cannot be started: {error.strerror}.") from None
    with store.writing() as connection:  # not before: looking at what is asked for takes its time
        audit(connection, who, "run-submitted", name=new.name, folder=str(folder), recipe=recipe.name)
    return Started(name=new.name, folder=str(folder))


@routes.post("/runs/{name}/resume", status_code=202)
def resume(who: Operator, pad: Launcher, connection: Writing, run: ChangedRun) -> Started:
    """Go on, from its checkpoint, with a run that has ended early. One that is paused takes an order instead."""
    if run.active or run.state == "finished":
        raise APIError(409, f"{run.name} is {run.state}; only a run that was stopped, failed or died is resumed.")
    launch.resume(pad, Path(run.folder), read_detail(connection, run).recipe)
    audit(connection, who, "run-resubmitted", run=run.run, name=run.name)
    return Started(name=run.name, folder=run.folder)


@routes.post("/runs/{name}/orders", status_code=201)
def order(who: Operator, connection: Writing, run: ChangedRun, new: NewOrder) -> OrderRow:
    """Pause, resume, stop, exclude, include or export: the run's own loop obeys."""
    if not run.active:
        raise APIError(409, f"{run.name} is {run.state} and would not react. Resume it first.")
    return place_order(connection, run.id, new.action, who=who.name, at=time.time(), argument=new.site)


@routes.delete("/runs/{name}", status_code=204)
def remove(who: Admin, connection: Writing, run: ChangedRun) -> Response:
    """Take a run out of the store; its folder stays, and so do deployed sites' receipts."""
    if run.active:
        raise APIError(409, f"{run.name} is {run.state}; stop it before it is removed.")
    remove_run(connection, run, who=who.name, at=time.time())
    return Response(status_code=204)


@routes.get("/runs/{name}/adapter", response_class=Response)
def adapter(who: Operator, connection: Writing, run: ChangedRun) -> Response:
    """The finished adapter, or the newest that was exported, as a zip file."""
    folder = newest_adapter(run)
    if folder is None:
        raise APIError(404, f"{run.name} has no adapter on this machine; order an export, or look in {run.folder}.")
    audit(connection, who, "adapter-downloaded", run=run.run, folder=str(folder))
    named = {"Content-Disposition": f'attachment; filename="{run.run[:8]}-{folder.name}.zip"'}
    return Response(packed(folder), media_type="application/zip", headers=named)


def audit(connection: Connection, who: Principal, kind: str, *, run: str | None = None, **fields: str) -> None:
    append_event(connection, kind, who=who.name, at=time.time(), run=run, **fields)
