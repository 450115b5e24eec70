"""`fedlora privacy plan|audit`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from fedlora.config import load
from fedlora.privacy.commands import plan
from simulations.commands.options import Device, Dtype, Microbatch, Overrides, compute_of

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Plan a private run's noise; audit a recipe's claim by canaries."
)
app.command("plan")(plan)


@app.command()
def audit(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or the name of a packaged recipe.")],
    overrides: Overrides = None,
    client: Annotated[str | None, typer.Option(help="The client to audit; the largest one if not given.")] = None,
    canaries: Annotated[int, typer.Option(help="Number of canaries; each is included with probability 1/2.")] = 2000,
    guesses: Annotated[int | None, typer.Option(help="Guesses of the distribution-free bound.")] = None,
    confidence: Annotated[
        float, typer.Option(help="Of the audit as a whole: 1 - probability of a false alarm.")
    ] = 0.99,
    rounds: Annotated[
        int | None, typer.Option(help="Number of rounds; the smallest number that gives enough power if not given.")
    ] = None,
    longest: Annotated[float, typer.Option(help="Norm of the longer half of the canaries' gradients, in C.")] = 10.0,
    rows: Annotated[int, typer.Option(help="Rows of the file from which single rows are removed.")] = 64,
    take_out: Annotated[int, typer.Option(help="Number of rows that are removed, one at a time.")] = 8,
    device: Device = None,
    dtype: Dtype = None,
    microbatch: Microbatch = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Test RECIPE's privacy claim on one client, with canaries in its rounds and with rows removed from its file.

    Exit status 0: not refuted, and what would have been detected is printed. 1: refuted. 2: no conclusion.
    """
    from simulations.auditing.audit import Asked  # torch and transformers: a plan needs neither
    from simulations.auditing.audit import audit as run_audit
    from simulations.auditing.words import text_of

    asked = Asked(
        client=client, canaries=canaries, guesses=guesses, confidence=confidence, rounds=rounds, longest=longest,
        rows=rows, take_out=take_out, compute=compute_of(device, dtype, microbatch),
    )  # fmt: skip
    found = run_audit(load(recipe, overrides or []), asked)
    if as_json:
        typer.echo(json.dumps({**asdict(found), "refuted": found.refuted, "conclusive": found.conclusive}))
    else:
        typer.echo(text_of(found))
    if found.refuted or not found.conclusive:
        raise typer.Exit(1 if found.refuted else 2)
