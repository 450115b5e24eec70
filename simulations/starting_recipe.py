"""A recipe to start from: what the columns and the texts of a source say, with the counts as comments."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlora.config import DataSettings, ModelSettings, Recipe, TrainSettings
from fedlora.data.choose_columns import Chosen
from fedlora.data.rows import files_of
from fedlora.folder_names import folder_name
from fedlora.models.base import outline
from fedlora.plain_yaml import yaml_text
from fedlora.settings import parse
from simulations.data.contradictions import refuse_contradictions
from simulations.data.partition import Federation, columns_of, federation, tokenised, version_of
from simulations.data.summary import classes_said, clients_said, printable, split_said

LENGTHS = (32, 64, 128, 256)
"""Tokens. What a step costs grows with them; a text of 256 has some 180 words."""
MOST_CUT = 0.05
FEW_ROWS = 500
WIDTH = 100


@dataclass(frozen=True)
class Start:
    """A recipe that runs, and what its source holds."""

    recipe: Recipe
    values: Mapping[str, Any]
    """The values to write."""
    data: Federation
    clients_why: str
    """How clients are formed."""


def start(source: str, chosen: Chosen, *, model: str) -> Start:
    """Tried on the data as a run would try it; SettingsError says what a run would refuse."""
    clients, why = clients_of(source, chosen)
    held_out = 0.1 if chosen.text.column.cells >= FEW_ROWS else 0.2
    columns = {"text": chosen.text.column.name, "label": chosen.label.column.name}
    data = {"source": source, **columns, **clients, "held_out": held_out}
    tokens = max_tokens(parse(DataSettings, data, prefix="data"), model)
    train = TrainSettings()
    values = {
        "name": folder_name(Path(source).expanduser().absolute().stem),
        "data": data,
        "model": {"id": model, "max_tokens": tokens},
        "strategy": {"name": Recipe.model_fields["strategy"].default.name},
        "train": {"optimizer": train.optimizer, "lr": train.lr, "batch_size": train.batch_size, "steps": train.steps},
        "rounds": {"count": Recipe.model_fields["rounds"].default.count},
    }
    recipe = parse(Recipe, values)
    found = federation(recipe.data, model=recipe.model, seed=recipe.seed)
    refuse_contradictions(recipe, found.clients)
    return Start(recipe, values, found, why)


def clients_of(source: str, chosen: Chosen) -> tuple[dict[str, Any], str]:
    """Settings that assign rows to clients, and the reason for them."""
    if chosen.client is not None:
        settings = {"partition": "natural", "client_column": chosen.client.column.name}
        return settings, f"column {chosen.client.column.name!r}: {chosen.client.why}"
    files = files_of(source)
    if len(files) > 1:
        return {"partition": "natural"}, "each file is a client: " + chosen.no_client
    count = 4 if chosen.text.column.cells >= FEW_ROWS else 2
    return {"partition": "iid", "clients": count}, f"{chosen.no_client}; rows are dealt to {count} clients at random"


def max_tokens(data: DataSettings, model: str) -> int:
    """The first of LENGTHS that cuts at most one text in twenty, within the model's positions; else the last."""
    positions = getattr(outline(ModelSettings(id=model)).config, "max_position_embeddings", None)
    most = min(LENGTHS[-1], positions) if isinstance(positions, int) and positions > 0 else LENGTHS[-1]
    asked = ModelSettings(id=model, max_tokens=most)
    columns = columns_of(data, asked.task)
    version = version_of(data.source, columns)
    lengths = tokenised(data.source, columns, None, asked, version).examples.lengths
    steps = sorted({*(step for step in LENGTHS if step < most), most})
    return next((n for n in steps if sum(length > n for length in lengths) <= MOST_CUT * len(lengths)), most)


def recipe_text(start: Start, chosen: Chosen, *, typed: str) -> str:
    """The recipe as a file: what was chosen, with the reasons and the counts above each setting."""
    title = f"Made by `{typed}`. The comments contain numbers about your rows: remove them before you share this file."
    return "\n".join(_commented(start.values, {"name": [title], **_comments(start, chosen)}))


def _comments(start: Start, chosen: Chosen) -> dict[str, list[str]]:
    found, sizes, held_out = start.data.found, start.data.sizes, len(start.data.held_out)
    whose = "client_column" if chosen.client is not None else "partition"
    return {
        "data.source": [str(found.counts)],
        "data.text": [chosen.text.why],
        "data.label": [chosen.label.why, classes_said(found.classes)],
        f"data.{whose}": [start.clients_why, clients_said(sizes)],
        "data.held_out": [
            f"the shared test set, {held_out} texts that no client has",
            split_said(found, sizes, held_out=held_out) + "; a smaller share of either leaves more to train on",
        ],
        "model.id": ["a Hugging Face id, a local folder, or `demo`, a small encoder for English"],
        "model.max_tokens": [str(found.lengths), "longer is slower"],
        "strategy.name": ["`fedlora strategies` lists them"],
        "train.lr": ["the first thing to change where it does not learn: `fedlora find-lr` tries five"],
        "train.steps": ["of batch_size texts, by each client in each round"],
    }


def _commented(values: Mapping[str, Any], comments: Mapping[str, Sequence[str]], prefix: str = "") -> list[str]:
    """`values` as YAML, a comment above what has one; every line is a setting or a comment."""
    indent, lines = "  " if prefix else "", list[str]()
    for key, value in values.items():
        for said in comments.get(f"{prefix}{key}", []):
            safe = printable(said, most=len(said) + 2)
            lines += textwrap.wrap(safe, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}#   ")
        if isinstance(value, Mapping):
            lines += ["", f"{key}:", *_commented(value, comments, f"{key}.")]
        else:
            lines += [indent + line for line in yaml_text({key: value}).splitlines()]
    return lines if prefix else [*lines, ""]
