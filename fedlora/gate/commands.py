"""`fedlora gate`: look at a result before it is passed on, write gate.json beside it, and say by status 1 that it is
held."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlora.results.commands import BasePlace, Column, Device, Format, Place, naming_from
from fedlora.settings import SettingsError

if TYPE_CHECKING:
    from fedlora.config import GateSettings
    from fedlora.exports.source import Source
    from fedlora.gate.verdict import Check, Gate

HELD = 1
"""The exit status."""


def gate(
    run: Place,
    on: Annotated[str | None, typer.Option(help="Rows that no site trained on: quality against the base.")] = None,
    against: Annotated[Path | None, typer.Option(help="The last published: a run or an adapter; with --on.")] = None,
    alone: Annotated[Path | None, typer.Option(help="A run of mode alone; with --on.")] = None,
    refusals: Annotated[str | None, typer.Option(help="Prompts, with a column `refuse`: yes or no.")] = None,
    forgetting: Annotated[Path | None, typer.Option(help="A text file that is not of the training.")] = None,
    memorised: Annotated[
        str | None, typer.Option(help="Training rows, at their site: are they known by heart?")
    ] = None,
    unaligned: Annotated[
        str | None,
        typer.Option(help="The model that the base was aligned from, as model.id takes it: does the change undo that?"),
    ] = None,
    take: Annotated[Path | None, typer.Option(help="gate.json of the same adapter, as made at a site.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="margin=0.05: a bound of the recipe's section `gate`; repeatable.")
    ] = None,
    try_merge: Annotated[bool, typer.Option("--try-merge", help="Print the figures with less of the adapter.")] = False,
    column: Column = None,
    form: Format = None,
    base: BasePlace = None,
    device: Device = None,
) -> None:
    """Hold RUN's adapter against its base, the last published, and what was asked for; gate.json says what came of it.

    Without --on, quality is what the run recorded. Status 1: it is held, and `fedlora export` refuses it.
    """
    from fedlora.gate.gating import Asked, looked_at, with_less
    from fedlora.gate.verdict import FILE, joined, taken_from
    from fedlora.results.opened import one_source

    asked = Asked(on, against, alone, refusals, forgetting, memorised, unaligned, base, device)
    asked.require_whole()
    source = one_source(run, base=base, device=device)
    by = bounds(source, changes)
    taken = taken_from(take, source.folder) if take else ()
    looked = looked_at(source, asked, naming_from(source, column, form), by)
    checks = (*taken, *looked.checks)
    if not beyond_tensors(checks) and looked.opened is not None:
        raise SettingsError(
            f"{run} has no record of how good it is, and nothing was asked for but its tensors; give --on FILE."
        )
    found = joined(source.folder, checks)
    found.write(source.folder)
    typer.echo("\n".join(lines(found)))
    if try_merge:
        for scale, less in with_less(looked, by):
            typer.echo(f"\nWith {scale:g} of the adapter:")
            typer.echo("\n".join(map(line, less)) if less else "nothing was measured; give --on FILE.")
    typer.echo(f"\n{'Held' if found.held_by else 'Passed'}: {source.folder / FILE}")
    if found.held_by:
        raise typer.Exit(HELD)


def bounds(source: Source, changes: list[str] | None) -> GateSettings:
    """The recipe's, with what was changed here."""
    from fedlora.config import GateSettings, override
    from fedlora.settings import parse

    own = source.recipe.gate if source.recipe else GateSettings()
    return parse(GateSettings, override(own.model_dump(mode="json"), changes or ()), prefix="gate")


def beyond_tensors(checks: tuple[Check, ...]) -> bool:
    """Whether more than the tensors was looked at."""
    from fedlora.gate.checks.alignment import ALIGNMENT
    from fedlora.gate.checks.tensors import CHANGE, NUMBERS, SHAPES

    return any(check.name not in (SHAPES, NUMBERS, CHANGE, ALIGNMENT) for check in checks)


def lines(found: Gate) -> list[str]:
    return [line(check) for check in found.checks]


def line(check: Check) -> str:
    return f"{'passed' if check.passed else 'HELD  '}  {check.name}: {check.said}"
