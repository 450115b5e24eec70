"""Start a run: choose or write a recipe, see what it will cost, then start it."""

from __future__ import annotations

import asyncio

from fastapi import Request
from markupsafe import Markup
from nicegui import ui

from fedlora.config import Recipe
from fedlora.settings import SettingsError
from server.dashboard.doors.access import Role
from server.dashboard.drawing.live import Html
from server.dashboard.drawing.markup import note, pairs
from server.dashboard.drawing.units import counted, epsilon, number, saving, size
from server.dashboard.pages.run_actions import allowed, confirmed
from server.dashboard.pages.shell import page
from server.dashboard.state import AppState
from server.runs import launch

CANNOT = (
    "This dashboard cannot start runs: its store is not in a coordinator's folder, and it was started "
    "without --allow-simulations. At a terminal: `fedlora server run RECIPE`, or `fedlora simulate RECIPE`."
)


async def show(board: AppState, request: Request) -> None:
    with page(request, "Start a run", here="/") as visit:
        Html(Markup('<div class="heading"><h1>Start a run</h1></div>'))
        if not visit.principal.role.covers(Role.OPERATOR):
            Html(note(f"This needs the role operator; {visit.principal.name} is {visit.principal.role.value}.", "bad"))
        elif board.pad is None:
            Html(note(CANNOT, "warn"))
        else:
            Form(board, board.pad)


class Form:
    """The fields, drawn where it is made, and what has been planned from them. Whatever changes makes the plan void."""

    def __init__(self, board: AppState, pad: launch.RunLauncher) -> None:
        self.board = board
        self.pad = pad
        self.client = ui.context.client
        self.recipes = launch.packaged_recipes()
        self.planned: Recipe | None = None
        kind = "a simulation on this machine" if pad.deployment is None else f"a run of {pad.deployment.name}"
        with ui.element("section").classes("card").props('aria-label="Recipe"'):
            with ui.element("div").classes("tools"):
                self.packaged = ui.select(list(self.recipes), label="Packaged recipe", on_change=self.choose)
                self.name = ui.input("Name of the run").props("outlined dense")
                self.examples = ui.number(
                    "Training examples of a site", value=1000, min=1, precision=0, on_change=self.changed
                )
            self.packaged.props("outlined dense")
            self.examples.props("outlined dense")
            self.text = ui.textarea("Recipe (YAML)", on_change=self.changed).props("outlined").classes("full recipe")
            Html(note(f"This will start {kind} in {pad.runs}. `fedlora config show` explains every setting."))
            with ui.element("div").classes("tools"):
                ui.button("Check and plan", on_click=self.plan).props("outline")
                self.go = ui.button("Start", on_click=self.start)
            self.go.disable()
            self.verdict = Html(Markup(""), classes="alert")

    def choose(self) -> None:
        if self.packaged.value:
            self.text.value = self.recipes[self.packaged.value]
            self.name.value = self.packaged.value

    def changed(self) -> None:
        self.planned = None
        self.go.disable()
        self.verdict.show(Markup(""))

    async def plan(self) -> None:
        """Validate, and say what the run would send and spend."""
        try:
            recipe = launch.read_recipe(self.text.value or "")
            self.verdict.show(note("Packing a message of this recipe to measure its size …"))
            plan = await asyncio.to_thread(launch.planned, self.pad, recipe, examples=int(self.examples.value or 1))
        except (SettingsError, ValueError) as problem:
            self.verdict.show(note(str(problem), "bad"))
            return
        self.planned = recipe
        self.name.value = self.name.value or recipe.name
        self.verdict.show(note("The recipe is valid.", "good") + cost(plan))
        self.go.enable()

    async def start(self) -> None:
        name, recipe = (self.name.value or "").strip(), self.planned
        if recipe is None:
            return
        rounds = counted(recipe.rounds.count, "round")
        meaning = f"{recipe.strategy.name}, {rounds}. Privacy budget that is spent cannot be recovered."
        if not await confirmed(f"Start {name}?", meaning, "Start"):
            return
        principal = allowed(self.board, self.client)
        if principal is None:
            return
        try:
            folder = await asyncio.to_thread(launch.start, self.pad, recipe, name=name)
        except (SettingsError, OSError) as problem:
            self.verdict.show(note(str(problem), "bad"))
            return
        await self.board.audit(principal.name, "run-started", name=name, folder=str(folder), recipe=recipe.name)
        ui.navigate.to("/")


def cost(plan: launch.Plan) -> Markup:
    """The plan in figures, all with units."""
    spent = "no privacy" if plan.epsilon is None else f"at most {epsilon(plan.epsilon)} at δ = {number(plan.delta)}"
    if plan.first_step_epsilon is not None:
        spent += f", and at most {epsilon(plan.first_step_epsilon)} for the round before it that asks for gradients"
    up, down = (f"{size(sent)} ({saving(sent, plan.dense)} than dense)" for sent in (plan.bytes_up, plan.bytes_down))
    return pairs(
        [
            ("Up, one client and round", up),
            ("Down, one client and round", down),
            (f"One client, {counted(plan.rounds, 'round')}", size((plan.bytes_up + plan.bytes_down) * plan.rounds)),
            ("ε of a site, whole run", spent),
        ]
    )
