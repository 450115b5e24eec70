"""`fedlora config`: check a recipe; explain every setting."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from fedlora.config import load
from fedlora.config.former import former_remarks, recipe_text
from fedlora.config.recipe import recipe_schema
from simulations.commands.recipes import show

app = typer.Typer(no_args_is_help=True, help="Check a recipe, or explain every setting.")
app.command()(show)


@app.command()
def check(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or the name of a packaged recipe.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, as for `fedlora simulate`.")] = None,
) -> None:
    """Check RECIPE and report every problem, or print it with all defaults filled in; remarks go to stderr."""
    from strategies.compatibility import case_of, require_sensible  # torch: `show` and `schema` need none of it
    from strategies.fit import remarks

    resolved = load(recipe, overrides or [])
    case = case_of(resolved)
    require_sensible(case)
    for remark in [*former_remarks(resolved), *remarks(resolved, case.strategy)]:
        typer.secho(f"note: {remark}", fg="yellow", err=True)
    typer.echo(recipe_text(resolved), nl=False)


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes: `fedlora config schema > recipe.schema.json`, and point your editor to it."""
    typer.echo(json.dumps(recipe_schema(), indent=1, ensure_ascii=False))
