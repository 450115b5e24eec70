"""Which files a recipe from the dashboard may name: those below one folder, wherever links lead.

Whoever fills in a form has an account on the dashboard and none on this machine. A process that reads what they name
would read it with this machine's rights, and say in its log what it found.
"""

from __future__ import annotations

import re
from pathlib import Path

from fedlora.config import Recipe
from fedlora.config.train import OPTIMIZERS
from fedlora.data.packaged import PACKAGED, is_packaged, source_names
from fedlora.models.from_gguf import SUFFIX as GGUF_SUFFIX
from fedlora.models.packaged import PACKAGED as PACKAGED_MODELS
from fedlora.models.packaged import packaged_names
from fedlora.nearest import did_you_mean
from fedlora.plain_yaml import shortened
from fedlora.plugins.gate import require_open_for
from fedlora.plugins.names import Kind
from fedlora.settings import SettingsError
from fedlora.tasks.registry import TASKS
from strategies.registry import STRATEGIES

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
SHOWN_CHARS = 120


def confined(recipe: Recipe, folder: Path | None, *, simulated: bool) -> Recipe:
    """`recipe` with what it names below `folder` made absolute; SettingsError if it names anything else.

    Guarantee: `data.source` (of a simulation), `adapter.public.source` and `model.id` are packaged names, a hub's id,
    or lead below `folder` with every link followed, and so does everything directly inside them. No name in it is of
    code that this process is not open to (`fedlora.plugins.gate`).
    """
    require_listed(recipe)
    model, adapter, data = recipe.model, recipe.adapter, recipe.data
    if names_a_file(model.id):
        path = inside(folder, model.id, key="model.id", others=f"{packaged_names()}, or a hub's id")
        if not simulated and model.id != str(path):  # sites are asked for a model by its id: it stays as it is
            raise SettingsError(f"model.id={shortened(model.id, SHOWN_CHARS)!r}: write the whole path, {path}.")
        model = model.model_copy(update={"id": str(path)})
    if adapter.public is not None:
        public = adapter.public.model_copy(
            update={"source": source(folder, adapter.public.source, key="adapter.public.source")}
        )
        adapter = adapter.model_copy(update={"public": public})
    if simulated:
        data = data.model_copy(update={"source": source(folder, data.source, key="data.source")})
    return recipe.model_copy(update={"model": model, "adapter": adapter, "data": data})


def require_listed(recipe: Recipe) -> None:
    """SettingsError for the name of somebody's code that this dashboard's process is not open to: the process that
    carries the recipe out is a person's own (`fedlora simulate`), and would be."""
    require_open_for(Kind.STRATEGY, recipe.strategy.name, STRATEGIES)
    require_open_for(Kind.TASK, recipe.model.task, TASKS)
    require_open_for(Kind.OPTIMIZER, recipe.train.optimizer, OPTIMIZERS)


def names_a_file(model_id: str) -> bool:
    """Whether this is no packaged model and no hub's id: a GGUF file's name may have the form of one.

    >>> [names_a_file(model_id) for model_id in ("demo", "org/model", "../model", "model.gguf")]
    [False, False, True, True]
    """
    return model_id not in PACKAGED_MODELS and (
        HUB_ID.fullmatch(model_id) is None or model_id.lower().endswith(GGUF_SUFFIX)
    )


def source(folder: Path | None, named: str, *, key: str) -> str:
    """A packaged corpus by its name, or a path below `folder`."""
    others = " or ".join(f"`{name}`" for name in source_names())
    if is_packaged(named):
        require_open_for(Kind.SOURCE, named, PACKAGED)
        return named
    return str(inside(folder, named, key=key, others=others))


def inside(folder: Path | None, named: str, *, key: str, others: str) -> Path:
    """The path that is meant, links followed; the same refusal whether or not there is something outside."""
    shown = f"{key}={shortened(named, SHOWN_CHARS)!r}"
    if folder is None:
        raise SettingsError(
            f"{shown}: this dashboard may not open files; give {others}, or have it started with --files FOLDER."
        )
    root = folder.resolve()
    refusal = SettingsError(f"{shown} is not inside {root}, the folder of this dashboard's --files; give {others}.")
    try:
        path = (root / named).resolve()
        within = ".." not in Path(named).parts and path.is_relative_to(root)
        there = path.exists()
    except (OSError, ValueError, RuntimeError):  # no name of a file, or links in a circle
        raise refusal from None
    if not within:
        raise refusal
    if not there:
        raise SettingsError(f"{shown}: there is no such file in {root}.")
    for entry in path.iterdir() if path.is_dir() else ():
        if not entry.resolve().is_relative_to(root):
            raise SettingsError(f"{shown}: {entry.name!r} in it points outside {root}; remove that link.")
    return path


def require_apart(folder: Path, *others: Path) -> None:
    """SettingsError if a folder that strangers' recipes may read holds what they must not: the store, the accounts."""
    root = folder.resolve()
    if not root.is_dir():
        raise SettingsError(f"--files {folder} is not a folder.{did_you_mean(folder)}")
    for other in others:
        if other.resolve().is_relative_to(root):
            raise SettingsError(
                f"--files {folder} contains {other.resolve()}, which no recipe may read; name a folder that contains "
                "only data."
            )
