"""`fedlora privacy plan|audit`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from fedlora.config import load
from fedlora.privacy.commands import plan
from fedlora.settings import SettingsError
from simulations.commands import Overrides, recipe_path

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Plan a private run's noise; audit a recipe's claim by canaries."
)
app.command("plan")(plan)


@app.command()
def audit(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or the name of a packaged recipe.")],
    overrides: Overrides = None,
    client: Annotated[str | None, typer.Option(help="Whose data; the largest client's when not given.")] = None,
    canaries: Annotated[int, typer.Option(help="How many canaries; each is included with probability 1/2.")] = 100,
    guesses: Annotated[int, typer.Option(help="How many of them the auditor guesses; even.")] = 50,
    confidence: Annotated[float, typer.Option(help="Of the lower bound.")] = 0.95,
    steps: Annotated[int | None, typer.Option(help="Stop after so many steps, and compare with their ε.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train one client of RECIPE with canaries: a lower bound on ε beside the claim. Exit status 1 if it fails.

    A bound far below the claim is normal: one run and few canaries refute little. A bound above it is a bug.
    """
    from simulations.audit import audit as run_audit  # torch and transformers: a plan needs neither
    from simulations.run import prepare

    simulation = prepare(load(recipe_path(recipe), overrides or []))
    clients = simulation.data.clients
    chosen = client or max(clients, key=lambda name: len(clients[name].train))
    if chosen not in clients:
        raise SettingsError(f"no client {chosen!r} in this recipe; there are: {', '.join(sorted(clients))}.")
    found = run_audit(
        simulation, client=chosen, canaries=canaries, guesses=guesses, confidence=confidence, max_steps=steps
    )
    if as_json:
        typer.echo(json.dumps({**asdict(found), "holds": found.holds}))
    else:
        seen = found.guesses
        typer.echo(
            f"{found.client}, {found.steps} steps, σ {found.noise_multiplier:g}: {seen.right} of {seen.guesses} "
            f"guesses right over {seen.canaries} canaries.\nε is at least {found.epsilon_lower_bound:.2f} (confidence "
            f"{found.confidence:g}); claimed: {found.epsilon_claimed:.2f} at δ {found.delta:g}, one example added or "
            f"removed. {'The claim stands.' if found.holds else 'THE CLAIM IS REFUTED.'}"
        )
    if not found.holds:
        raise typer.Exit(1)
