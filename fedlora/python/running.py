"""`simulate` and `compare`: what the commands of these names do, as calls.

What runs a recipe lives in `simulations`, which stands above this package. It is found by its name when one of these
is called, as the commands are (`fedlora.cli`); nothing here imports it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlora.config import Recipe
from fedlora.config.reading import load as load_recipe
from fedlora.config.reading import put
from fedlora.differing import changed as differing
from fedlora.python.result import Comparison, Result, Round
from fedlora.settings import SettingsError, parse
from fedlora.units_path import add_units_to_path

if TYPE_CHECKING:
    from os import PathLike


def simulate(
    recipe: Recipe | Mapping[str, Any] | str | PathLike[str] = "six-airlines",
    *,
    out: str | PathLike[str] | None = None,
    clients: Mapping[str, Any] | None = None,
    model: Any = None,
    progress: Callable[[Round], object] | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str | None = None,
    resume: bool = False,
) -> Result:
    """Run a recipe: coordinator and clients in this process. SettingsError says what is wrong with what was given.

    `recipe`: a file, a packaged recipe's name (`fedlora recipes`), its settings as a dict, or a Recipe.
    `out`: folder of the results, runs/NAME when not given; with `resume`, the run in it goes on from its checkpoint.
    `clients`: every client's rows by its name, in place of `data.source`: a datasets.Dataset, a list of dicts, a data
    frame. They are read as files are: `data.text`, `data.columns` and `data.format` count.
    `model`: a loaded base in place of `model.id`, as (model, tokenizer). It is copied, and stays as it is.
    `progress`: called after every round.
    `settings`: changes to the recipe by their dotted names, as `--set` on the command line.
    """
    add_units_to_path()
    asked = changed(recipe, settings or {})
    folder = Path(out) if out is not None else Path("runs") / asked.name
    trial = {"method": asked.name, "changed": _changed(recipe, asked, settings or {})}
    _run(asked, folder, trial=trial, progress=progress, model=model, clients=clients, device=device, resume=resume)
    return Result.read(folder)


def compare(
    runs: Iterable[Result | Recipe | Mapping[str, Any] | str | PathLike[str]],
    *,
    out: str | PathLike[str] = "runs/comparison",
) -> Comparison:
    """Runs side by side: results, folders of finished runs, or recipes, which are run first, each in a folder of `out`.

    The table's rows are methods; runs that differ in their seed alone are one row, with the spread over seeds.
    """
    add_units_to_path()
    tables = importlib.import_module("simulations.comparing.writing")
    folders = [_finished(run, Path(out), number) for number, run in enumerate(runs, start=1)]
    return Comparison(tables.compared(folders, Path(out)), Path(out))


def _changed(recipe: Any, asked: Recipe, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `settings` changed; as they were given, where the recipe alone is no whole one."""
    try:
        return differing(changed(recipe, {}), asked) if settings else {}
    except SettingsError:
        return settings


def _run(recipe: Recipe, folder: Path, **how: Any) -> None:
    importlib.import_module("simulations.objects.run").run(recipe, folder, **how)


def _finished(run: Any, out: Path, number: int) -> Path:
    """The folder of a run, which is carried out where it is a recipe."""
    if isinstance(run, Result):
        return run.folder
    if isinstance(run, str | Path) and (Path(run) / "summary.json").exists():
        return Path(run)
    recipe = changed(run, {})
    folder = out / f"{number}-{recipe.name}"
    _run(recipe, folder, trial={"group": out.name, "method": recipe.name})
    return folder


def changed(recipe: Any, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with these settings in place of its own; SettingsError for one that there is not."""
    if isinstance(recipe, Recipe):
        values = recipe.model_dump(mode="json", exclude_unset=True)
    elif isinstance(recipe, Mapping):
        values = dict(recipe)
    else:
        values = load_recipe(recipe).model_dump(mode="json", exclude_unset=True)
    for key, value in settings.items():
        put(values, key.split("."), value)
    return parse(Recipe, values)
