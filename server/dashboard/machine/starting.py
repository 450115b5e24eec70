"""API routes that start and resume runs and return their adapters."""

from __future__ import annotations

import time
from pathlib import Path

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from server.dashboard.machine.download import newest_adapter, packed
from server.dashboard.machine.parts import APIError, Name, Operator, Viewer, known
from server.runs import launch
from server.runs.planning import PlanError
from server.store.audit import append_event
from server.store.opening import Store
from server.store.reading import read_detail

MOST_CHARS = 100_000
NOWHERE = (
    "this dashboard cannot start runs: its store is not in a coordinator's folder, and it was started "
    "without --allow-simulations. Use `fedlora server run` or `fedlora simulate` at a terminal."
)


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


def starting_routes(store: Store, pad: launch.RunLauncher | None) -> APIRouter:
    """For operators; the packaged recipes for everybody."""
    routes = APIRouter()

    @routes.get("/recipes")
    def recipes(who: Viewer) -> dict[str, str]:
        """The packaged recipes, as YAML."""
        return launch.packaged_recipes()

    @routes.post("/plan")
    def plan(who: Operator, asked: Planned) -> launch.Plan:
        """Validate a recipe, and say what the run would send and spend; nothing is started."""
        where = require_pad(pad)
        try:
            return launch.planned(where, launch.read_recipe(asked.recipe), examples=asked.examples)
        except PlanError as problem:
            raise APIError(409, str(problem)) from None

    @routes.post("/runs", status_code=201)
    def start(who: Operator, new: NewRun) -> Started:
        """Start a run under a new name: a simulation, or a submission where the folder of runs is a coordinator's."""
        where = require_pad(pad)
        recipe = launch.read_recipe(new.recipe)
        try:
            folder = launch.start(where, recipe, name=new.name)
        except OSError as error:
            raise APIError(409, f"the run cannot be started: {error.strerror}.") from None
        audit(store, who.name, "run-submitted", name=new.name, folder=str(folder), recipe=recipe.name)
        return Started(name=new.name, folder=str(folder))

    @routes.post("/runs/{name}/resume", status_code=202)
    def resume(who: Operator, name: Name) -> Started:
        """Resume a run that has ended early, from its checkpoint. A paused run is resumed with a command instead."""
        where, run = require_pad(pad), known(store, name)
        if run.active or run.state == "finished":
            raise APIError(409, f"{run.name} is {run.state}; only a run that was stopped, failed or died is resumed.")
        with store.reading() as connection:
            recipe = read_detail(connection, run).recipe
        launch.resume(where, Path(run.folder), recipe)
        audit(store, who.name, "run-resubmitted", run=run.run, name=run.name)
        return Started(name=run.name, folder=run.folder)

    @routes.get("/runs/{name}/adapter", response_class=Response)
    def adapter(who: Operator, name: Name) -> Response:
        """The finished adapter, or the newest that was exported, as a zip file."""
        run = known(store, name)
        folder = newest_adapter(run)
        if folder is None:
            raise APIError(404, f"{run.name} has no adapter on this machine; order an export, or look in {run.folder}.")
        audit(store, who.name, "adapter-downloaded", run=run.run, folder=str(folder))
        named = {"Content-Disposition": f'attachment; filename="{run.run[:8]}-{folder.name}.zip"'}
        return Response(packed(folder), media_type="application/zip", headers=named)

    return routes


def require_pad(pad: launch.RunLauncher | None) -> launch.RunLauncher:
    if pad is None:
        raise APIError(409, NOWHERE)
    return pad


def audit(store: Store, who: str, kind: str, *, run: str | None = None, **fields: str) -> None:
    with store.writing() as connection:
        append_event(connection, kind, who=who, at=time.time(), run=run, **fields)
