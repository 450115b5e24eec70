"""A client of a recipe as a deployed site in a folder, with canaries among its rows: what an audit trains on.

<folder>/data/<client>/{train,test}.csv     as a deployment of the recipe would have them
<folder>/site/client.yaml, policy.yaml      the site; its ledger is in state/
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from client.settings import ClientSettings, load_client
from fedlora.config import Recipe
from fedlora.config.compute import OWN, ComputeSettings
from fedlora.data.examples import encoded
from fedlora.data.form import Columns
from fedlora.data.row import Row, text_row
from fedlora.data.rows import read_rows
from fedlora.folder_names import folder_name
from fedlora.models.base import load_processor
from fedlora.plain_yaml import yaml_text
from fedlora.privacy.canaries import Canaries
from fedlora.privacy.policy import SIMULATION
from fedlora.settings import SettingsError
from simulations.data.site_files import write_rows, write_site_files

WORDS = 6
"""Length of a canary's text: its gradient is not its own, so that a short one does, and trains faster."""


@dataclass(frozen=True)
class Planting:
    """The canaries of one audit: their rows, and which of them are in the file."""

    rows: Sequence[Row]
    included: Sequence[bool]
    canaries: Canaries

    @property
    def present(self) -> list[Row]:
        return [row for row, is_in in zip(self.rows, self.included, strict=True) if is_in]


def clients_of(recipe: Recipe, folder: Path) -> dict[str, list[Row]]:
    """Every client's training rows, from the files that a deployment of the recipe would have."""
    names = write_site_files(recipe, folder)
    return {name: read_rows(str(folder / folder_name(name) / "train.csv"), Columns()) for name in names}


def drawn_canaries(
    recipe: Recipe, rows: Sequence[Row], labels: Sequence[str], *, count: int, longest: float
) -> Planting:
    """Canaries with texts of the site's own words, half of them with gradients `longest` times C before clipping.

    Each is included by a coin of the operating system.
    """
    tokenizer, draw = load_processor(recipe.model), random.Random(recipe.seed)
    words = sorted({word for row in rows for word in row["text"].split() if len(word) < 12 and word.isalnum()})
    taken = set(tokens_of(rows, labels, tokenizer, recipe))
    found: dict[tuple[int, ...], Row] = {}
    for _ in range(100):
        more = [text_row(" ".join(draw.choices(words, k=WORDS)), draw.choice(labels)) for _ in range(count)]
        for row, tokens in zip(more, tokens_of(more, labels, tokenizer, recipe), strict=True):
            if tokens not in taken and len(found) < count:
                found.setdefault(tokens, row)
        if len(found) == count:
            break
    else:
        raise SettingsError(f"the client's texts give {len(found)} different canaries, not {count}; use fewer.")
    norms = [recipe.privacy.clip * (longest if number % 2 else 1.0) for number in range(count)]
    canaries = Canaries(list(found), norms, int(tokenizer.pad_token_id), recipe.seed)
    return Planting(list(found.values()), [byte < 128 for byte in os.urandom(count)], canaries)


def tokens_of(
    rows: Sequence[Row], labels: Sequence[str], tokenizer: PreTrainedTokenizerBase, recipe: Recipe
) -> list[tuple[int, ...]]:
    """The tokens that the site makes of these texts."""
    examples = encoded(rows, labels, tokenizer, on=recipe.model, ignore_unusable=True)
    return [tuple(item["input_ids"].tolist()) for item in examples.items]


def make_site(
    folder: Path, name: str, train: Sequence[Row], *, test: Path | None, compute: ComputeSettings = OWN
) -> ClientSettings:
    """A site that trains on these rows and allows what a recipe asks; without a test file it splits its own."""
    folder.mkdir(parents=True)
    write_rows(folder / "train.csv", train)
    (folder / "policy.yaml").write_text(yaml_text(SIMULATION.model_dump(mode="json", exclude_defaults=True)))
    data = {"train": "train.csv", **({} if test is None else {"test": str(test.resolve())})}
    settings = {"site": name, "coordinator": "localhost:1", "data": data, "policy": "policy.yaml"}
    own = compute.model_dump(exclude_none=True, include=set(ClientSettings.model_fields))  # the rest is of simulations
    (folder / "client.yaml").write_text(yaml_text({**settings, **own}))
    return load_client(folder / "client.yaml")


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """`count` rows, evenly over all; all of them where there are fewer. Files are often sorted by class.

    >>> [row.key for row in spread([text_row(text, "") for text in "abcdef"], 3)]
    ['a', 'c', 'e']
    """
    return [rows[number * len(rows) // count] for number in range(count)] if count < len(rows) else list(rows)
