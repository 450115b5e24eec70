"""`fedlora.simulate`: one recipe, with what was given in place of its data and its base model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedlora.config import ComputeSettings, Recipe
from fedlora.models.given import given_model
from fedlora.models.loaded_model import loaded_model
from fedlora.plugins.gate import open_to
from fedlora.python.result import Round
from fedlora.settings import parse
from server.record.lines import line_of
from server.record.records import Event, RoundFinished
from server.store.opening import store_beside
from server.trial import Trial
from simulations.data.partition import IN_MEMORY, tokenised
from simulations.objects.rows import files_given
from simulations.run import prepare
from simulations.run import simulate as run_simulation

log = logging.getLogger(__name__)


def run(
    recipe: Recipe,
    folder: Path,
    *,
    trial: Mapping[str, Any],
    progress: Callable[[Round], object] | None = None,
    model: Any = None,
    clients: Mapping[str, Any] | None = None,
    device: str | None = None,
    resume: bool = False,
) -> None:
    """Everything is in `folder` when this returns. `trial`: the fields of a `Trial`."""
    open_to("any")
    with named(model) as name:
        if name is not None:
            recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"id": name})})
        files = None
        if clients is not None:
            own = {"source": IN_MEMORY, "partition": "natural", "client_column": "client", "clients": None}
            files, data = files_given(clients, recipe.data.model_copy(update=own), recipe.model.task)
            recipe = recipe.model_copy(update={"data": data})
        compute = parse(ComputeSettings, {"device": device})
        simulation = prepare(recipe, compute=compute, files=files)
        metric, count = simulation.metric, recipe.rounds.count

        def watch(event: Event) -> None:
            if isinstance(event, RoundFinished) and progress is not None:
                progress(Round.of(line_of(event.record), metric=metric.name, count=count))

        one_of = Trial(**trial)
        run_simulation(simulation, folder, watch=watch, resume=resume, store=store_beside(folder), trial=one_of)


@contextmanager
def named(model: Any) -> Iterator[str | None]:
    """The id of a given model, which no cache knows before or after: another object may have the same."""
    if model is None:
        yield None
        return
    pair = model if isinstance(model, tuple) else (getattr(model, "model", model), getattr(model, "tokenizer", None))
    with given_model(*pair) as name:
        forget()
        try:
            yield name
        finally:
            forget()


def forget() -> None:
    """What this process keeps of base models and of texts as they read them."""
    loaded_model.cache_clear()
    tokenised.cache_clear()
